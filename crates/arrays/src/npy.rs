//! One array of numpy's `.npy` format, versions 1 to 3
//! (<https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html>).

use std::io::Read;

use half::f16;

use super::error::ArraysError;
use super::input::ArrayInput;

/// How every array begins.
pub(super) const MAGIC: &[u8] = b"\x93NUMPY";

/// numpy pads its header to a multiple of 64 bytes and seldom needs two; this is generous.
const HEADER_BYTES_MAX: usize = 65_536;

/// Read at once; a multiple of every width of a float.
const BLOCK_BYTES: usize = 1 << 18;

/// Columns of a Fortran array that are spread over the rows at once: the 16 floats of a cache line.
const STRIPE_COLUMNS: usize = 16;

/// What a stripe may hold, in values: 64 MiB.
const STRIPE_VALUES: usize = 16 << 20;

/// What the header says, checked as far as it can be alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct NpyHeader {
    /// As numpy writes it, such as `<f4`.
    pub(super) dtype: String,
    fortran: bool,
    pub(super) shape: Vec<u64>,
    /// How long the header was, in bytes.
    bytes: u64,
}

/// A type of float.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Float {
    width: usize,
    big_endian: bool,
}

/// The dimension and the values, row after row, of an array that fills `input.bytes`.
pub(super) fn read(
    reader: &mut impl Read,
    input: &ArrayInput<'_>,
) -> Result<(usize, Vec<f32>), ArraysError> {
    let header = header(reader, input)?;
    let float = header.float(input)?;
    let [rows, dimension] = *header.shape.as_slice() else {
        return Err(ArraysError::Shape {
            place: input.place.to_owned(),
            shape: shape_text(&header.shape),
        });
    };
    let width = input.shape(rows, dimension)?;
    let values = rows
        .checked_mul(dimension)
        .ok_or_else(|| input.damaged("its shape overflows"))?;
    let stated = values.saturating_mul(float.width as u64);
    let there = input.bytes.saturating_sub(header.bytes);
    if stated != there {
        let shape = shape_text(&header.shape);
        return Err(input.damaged(format!(
            "{there} bytes follow its header, and {shape} of {} takes {stated}",
            header.dtype
        )));
    }
    let mut vectors = input.reserve(values)?;
    if header.fortran && 1 < width {
        transpose(reader, input, float, width, &mut vectors)?;
    } else {
        let count = vectors.capacity().min(usize::try_from(values).unwrap_or(0));
        float.fill(reader, input, count, &mut vectors)?;
    }
    // At its end a compressed entry is also checked against its checksum.
    let after = reader
        .read(&mut [0])
        .map_err(|cause| input.unreadable(cause))?;
    if after != 0 {
        return Err(input.damaged("more bytes follow than it states"));
    }
    Ok((width, vectors))
}

/// Reads what comes before the values.
pub(super) fn header(
    reader: &mut impl Read,
    input: &ArrayInput<'_>,
) -> Result<NpyHeader, ArraysError> {
    let mut start = [0; 8];
    let mut take = |bytes: &mut [u8]| {
        reader
            .read_exact(bytes)
            .map_err(|cause| input.unreadable(cause))
    };
    take(&mut start)?;
    if !start.starts_with(MAGIC) {
        return Err(input.damaged("it does not begin as .npy does"));
    }
    let (before, length) = match start {
        [.., 1, _] => {
            let mut length = [0; 2];
            take(&mut length)?;
            (10, usize::from(u16::from_le_bytes(length)))
        }
        [.., 2 | 3, _] => {
            let mut length = [0; 4];
            take(&mut length)?;
            let length = usize::try_from(u32::from_le_bytes(length)).unwrap_or(usize::MAX);
            (12, length)
        }
        [.., major, minor] => {
            return Err(ArraysError::Unsupported {
                place: input.place.to_owned(),
                what: format!("version {major}.{minor} of .npy"),
                fix: "save it with numpy.save",
            });
        }
    };
    if HEADER_BYTES_MAX < length {
        return Err(input.damaged(format!(
            "its header states {length} bytes, over the limit of {HEADER_BYTES_MAX}"
        )));
    }
    let mut text = vec![0; length];
    take(&mut text)?;
    let parsed = str::from_utf8(&text).ok().and_then(Literal::header);
    let Some((dtype, fortran, shape)) = parsed else {
        return Err(input.damaged("its header is not a dict of descr, fortran_order and shape"));
    };
    Ok(NpyHeader {
        dtype,
        fortran,
        shape,
        bytes: before + length as u64,
    })
}

impl NpyHeader {
    /// Whether this can be a table of embeddings.
    pub(super) fn is_embeddings(&self) -> bool {
        self.shape.len() == 2 && Float::parse(&self.dtype).is_some()
    }

    fn float(&self, input: &ArrayInput<'_>) -> Result<Float, ArraysError> {
        let place = input.place.to_owned();
        if let Some(float) = Float::parse(&self.dtype) {
            return Ok(float);
        }
        // Objects within records are pickled as well.
        if self.dtype.contains('O') {
            return Err(ArraysError::Pickled { place });
        }
        let dtype = self.dtype.clone();
        Err(ArraysError::Dtype { place, dtype })
    }

    /// The type and the shape, for a list of what there is.
    pub(super) fn describe(&self) -> String {
        format!("{} {}", self.dtype, shape_text(&self.shape))
    }
}

impl Float {
    fn parse(dtype: &str) -> Option<Self> {
        let (order, kind) = dtype.split_at_checked(1)?;
        let big_endian = match order {
            "<" => false,
            ">" => true,
            _ => return None,
        };
        let width = match kind {
            "f2" => 2,
            "f4" => 4,
            "f8" => 8,
            _ => return None,
        };
        Some(Self { width, big_endian })
    }

    /// Appends the next `count` values.
    fn fill(
        self,
        reader: &mut impl Read,
        input: &ArrayInput<'_>,
        count: usize,
        values: &mut Vec<f32>,
    ) -> Result<(), ArraysError> {
        let mut block = vec![0; BLOCK_BYTES];
        let mut left = count * self.width;
        while 0 < left {
            let size = left.min(BLOCK_BYTES);
            let Some(part) = block.get_mut(..size) else {
                break;
            };
            reader
                .read_exact(part)
                .map_err(|cause| input.unreadable(cause))?;
            self.decode(part, values);
            left -= size;
        }
        Ok(())
    }

    #[expect(
        clippy::cast_possible_truncation,
        reason = "a double is rounded to the nearest float, as documented"
    )]
    fn decode(self, bytes: &[u8], values: &mut Vec<f32>) {
        match (self.width, self.big_endian) {
            (2, false) => each(bytes, values, |b| f16::from_le_bytes(b).to_f32()),
            (2, true) => each(bytes, values, |b| f16::from_be_bytes(b).to_f32()),
            (4, false) => each(bytes, values, f32::from_le_bytes),
            (4, true) => each(bytes, values, f32::from_be_bytes),
            (_, false) => each(bytes, values, |b| f64::from_le_bytes(b) as f32),
            (_, true) => each(bytes, values, |b| f64::from_be_bytes(b) as f32),
        }
    }
}

fn each<const N: usize>(bytes: &[u8], values: &mut Vec<f32>, value: impl Fn([u8; N]) -> f32) {
    let (parts, _) = bytes.as_chunks();
    values.extend(parts.iter().map(|part| value(*part)));
}

/// Fills `vectors`, to its length in rows of `dimension`, from an array written column by column.
///
/// A few columns are read, then spread over the rows together: one by one, each value would pull
/// the line of its row through the cache again.
fn transpose(
    reader: &mut impl Read,
    input: &ArrayInput<'_>,
    float: Float,
    dimension: usize,
    vectors: &mut Vec<f32>,
) -> Result<(), ArraysError> {
    let rows = vectors.capacity() / dimension;
    let at_once = (STRIPE_VALUES / rows).clamp(1, STRIPE_COLUMNS);
    let mut stripe = Vec::new();
    let mut first = 0;
    while first < dimension {
        let columns = at_once.min(dimension - first);
        stripe.clear();
        float.fill(reader, input, columns * rows, &mut stripe)?;
        // Only after the first bytes are there: the stated size may be false.
        vectors.resize(rows * dimension, 0.0);
        for (index, row) in vectors.chunks_exact_mut(dimension).enumerate() {
            let column = stripe.iter().skip(index).step_by(rows);
            let targets = row.iter_mut().skip(first);
            targets
                .zip(column)
                .for_each(|(target, value)| *target = *value);
        }
        first += columns;
    }
    Ok(())
}

/// The shape as Python writes it.
fn shape_text(shape: &[u64]) -> String {
    match shape {
        [one] => format!("({one},)"),
        many => {
            let texts: Vec<String> = many.iter().map(u64::to_string).collect();
            format!("({})", texts.join(", "))
        }
    }
}

/// The few Python literals that a header is made of.
struct Literal<'a> {
    rest: &'a str,
}

impl<'a> Literal<'a> {
    /// `{'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }`, keys in any order.
    fn header(text: &'a str) -> Option<(String, bool, Vec<u64>)> {
        let mut literal = Self { rest: text };
        let (mut dtype, mut fortran, mut shape) = (None, None, None);
        literal.expect('{')?;
        while literal.expect('}').is_none() {
            let key = literal.string()?;
            literal.expect(':')?;
            match key {
                "descr" if dtype.is_none() => dtype = Some(literal.dtype()?),
                "fortran_order" if fortran.is_none() => fortran = Some(literal.boolean()?),
                "shape" if shape.is_none() => shape = Some(literal.tuple()?),
                _ => return None,
            }
            if literal.expect(',').is_none() {
                literal.expect('}')?;
                break;
            }
        }
        let ended = literal.rest.trim_ascii().is_empty();
        ended.then_some((dtype?, fortran?, shape?))
    }

    fn expect(&mut self, wanted: char) -> Option<()> {
        self.rest = self.rest.trim_ascii_start().strip_prefix(wanted)?;
        Some(())
    }

    fn string(&mut self) -> Option<&'a str> {
        let quote = ['\'', '"']
            .into_iter()
            .find(|q| self.expect(*q).is_some())?;
        let (text, rest) = self.rest.split_once(quote)?;
        self.rest = rest;
        Some(text)
    }

    /// The name of a type, or the list of a record's fields, as text for an error.
    fn dtype(&mut self) -> Option<String> {
        if let Some(name) = self.string() {
            return Some(name.to_owned());
        }
        self.expect('[')?;
        let mut depth = 1_usize;
        let end = self.rest.find(|c| {
            match c {
                '[' => depth += 1,
                ']' => depth -= 1,
                _ => {}
            }
            depth == 0
        })?;
        let (fields, rest) = self.rest.split_at_checked(end)?;
        self.rest = rest;
        self.expect(']')?;
        Some(format!("[{fields}]"))
    }

    fn boolean(&mut self) -> Option<bool> {
        self.rest = self.rest.trim_ascii_start();
        for (word, value) in [("False", false), ("True", true)] {
            if let Some(rest) = self.rest.strip_prefix(word) {
                self.rest = rest;
                return Some(value);
            }
        }
        None
    }

    fn tuple(&mut self) -> Option<Vec<u64>> {
        self.expect('(')?;
        let mut sizes = Vec::new();
        while self.expect(')').is_none() {
            self.rest = self.rest.trim_ascii_start();
            let digits = self
                .rest
                .find(|c: char| !c.is_ascii_digit())
                .unwrap_or(self.rest.len());
            let (number, rest) = self.rest.split_at_checked(digits)?;
            sizes.push(number.parse().ok()?);
            // Python 2 marked long integers.
            self.rest = rest.strip_prefix('L').unwrap_or(rest);
            if self.expect(',').is_none() {
                self.expect(')')?;
                break;
            }
        }
        Some(sizes)
    }
}
