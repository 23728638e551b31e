//! The encodings of a Parquet page that pandas, Polars, `DuckDB` and Spark write by default
//! (<https://parquet.apache.org/docs/file-format/data-pages/encodings/>).

use super::footer::TextType;

/// `PLAIN`.
pub(super) const PLAIN: i64 = 0;
/// `PLAIN_DICTIONARY`, an old name of the other.
pub(super) const PLAIN_DICTIONARY: i64 = 2;
/// `RLE`, for levels and, in newer pages, booleans.
pub(super) const RLE: i64 = 3;
/// `RLE_DICTIONARY`.
pub(super) const RLE_DICTIONARY: i64 = 8;
/// `BYTE_STREAM_SPLIT`: the first bytes of all values, then the second, and so on.
pub(super) const BYTE_STREAM_SPLIT: i64 = 9;

/// The first `count` numbers of `width` bits: runs of one number, and runs packed bit by bit.
/// `None` if there are fewer.
pub(super) fn hybrid(bytes: &[u8], width: u32, count: usize) -> Option<Vec<u32>> {
    if 32 < width {
        return None;
    }
    let mut rest = bytes;
    let mut numbers = Vec::new();
    while numbers.len() < count {
        let header = variable(&mut rest)?;
        let length = usize::try_from(header >> 1).ok()?;
        let left = count - numbers.len();
        if header & 1 == 0 {
            let (value, after) = rest.split_at_checked(width.div_ceil(8) as usize)?;
            rest = after;
            let value = value
                .iter()
                .rev()
                .fold(0, |sum, byte| sum << 8 | u32::from(*byte));
            numbers.resize(numbers.len() + length.min(left), value);
        } else {
            // Each unit is eight numbers, in as many bytes as a number has bits.
            let packed = length.checked_mul(width as usize)?.min(rest.len());
            let (packed, after) = rest.split_at_checked(packed)?;
            rest = after;
            let held = match width {
                0 => length.saturating_mul(8),
                _ => packed.len() * 8 / width as usize,
            };
            unpack(packed, width, held.min(left), &mut numbers);
        }
    }
    Some(numbers)
}

/// Appends `count` numbers, of which the bytes hold at least as many.
#[expect(
    clippy::cast_possible_truncation,
    reason = "the mask leaves no more than 32 bits"
)]
fn unpack(bytes: &[u8], width: u32, count: usize, numbers: &mut Vec<u32>) {
    let mask = (1_u64 << width) - 1;
    let (mut bits, mut held) = (0_u64, 0);
    let mut bytes = bytes.iter();
    for _ in 0..count {
        while held < width {
            let Some(byte) = bytes.next() else { return };
            bits |= u64::from(*byte) << held;
            held += 8;
        }
        numbers.push((bits & mask) as u32);
        bits >>= width;
        held -= width;
    }
}

fn variable(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..35).step_by(7) {
        let (byte, after) = rest.split_first()?;
        *rest = after;
        value |= u64::from(byte & 0x7f) << shift;
        if *byte < 0x80 {
            return Some(value);
        }
    }
    None
}

/// `count` floats of 4 bytes, or doubles of 8.
pub(super) fn floats(encoding: i64, bytes: &[u8], count: usize, double: bool) -> Option<Vec<f32>> {
    let width = if double { 8 } else { 4 };
    let bytes = bytes.get(..count.checked_mul(width)?)?;
    match (encoding, double) {
        (PLAIN, false) => Some(plain(bytes, f32::from_le_bytes)),
        (PLAIN, true) => Some(plain(bytes, rounded)),
        (BYTE_STREAM_SPLIT, false) => Some(split(bytes, count, f32::from_le_bytes)),
        (BYTE_STREAM_SPLIT, true) => Some(split(bytes, count, rounded)),
        _ => None,
    }
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "a double is rounded to the nearest float, as documented"
)]
fn rounded(bytes: [u8; 8]) -> f32 {
    f64::from_le_bytes(bytes) as f32
}

fn plain<const N: usize, T>(bytes: &[u8], value: impl Fn([u8; N]) -> T) -> Vec<T> {
    let (parts, _) = bytes.as_chunks();
    parts.iter().map(|part| value(*part)).collect()
}

fn split<const N: usize>(bytes: &[u8], count: usize, value: impl Fn([u8; N]) -> f32) -> Vec<f32> {
    let byte = |at: usize| bytes.get(at).copied().unwrap_or(0);
    (0..count)
        .map(|index| value(std::array::from_fn(|stream| byte(stream * count + index))))
        .collect()
}

/// `count` values as text.
pub(super) fn texts(
    encoding: i64,
    bytes: &[u8],
    count: usize,
    text: TextType,
) -> Option<Vec<String>> {
    let of_width = |width: usize| bytes.get(..count.checked_mul(width)?);
    match (encoding, text) {
        (PLAIN, TextType::Int32 { signed: true }) => {
            Some(plain(of_width(4)?, |b| i32::from_le_bytes(b).to_string()))
        }
        (PLAIN, TextType::Int32 { signed: false }) => {
            Some(plain(of_width(4)?, |b| u32::from_le_bytes(b).to_string()))
        }
        (PLAIN, TextType::Int64 { signed: true }) => {
            Some(plain(of_width(8)?, |b| i64::from_le_bytes(b).to_string()))
        }
        (PLAIN, TextType::Int64 { signed: false }) => {
            Some(plain(of_width(8)?, |b| u64::from_le_bytes(b).to_string()))
        }
        (PLAIN, TextType::Boolean) => {
            let bits = bytes.get(..count.div_ceil(8))?;
            let mut numbers = Vec::new();
            unpack(bits, 1, count, &mut numbers);
            Some(booleans(&numbers))
        }
        (RLE, TextType::Boolean) => {
            let (length, after) = bytes.split_first_chunk()?;
            let length = usize::try_from(u32::from_le_bytes(*length)).ok()?;
            Some(booleans(&hybrid(after.get(..length)?, 1, count)?))
        }
        (PLAIN, TextType::Utf8) => words(bytes, count),
        _ => None,
    }
}

fn booleans(bits: &[u32]) -> Vec<String> {
    bits.iter().map(|bit| (*bit != 0).to_string()).collect()
}

/// Texts, each after its length.
fn words(bytes: &[u8], count: usize) -> Option<Vec<String>> {
    let mut rest = bytes;
    let mut words = Vec::new();
    for _ in 0..count {
        let (length, after) = rest.split_first_chunk()?;
        let length = usize::try_from(u32::from_le_bytes(*length)).ok()?;
        let (word, after) = after.split_at_checked(length)?;
        words.push(str::from_utf8(word).ok()?.to_owned());
        rest = after;
    }
    Some(words)
}
