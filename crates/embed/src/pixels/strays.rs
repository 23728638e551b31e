//! Decodes JPEGs with superfluous bytes after coded data, if nothing else is wrong with the file.
//!
//! Damage in the middle of a file also leaves such bytes, because the decoder has lost its position. The two
//! cases differ in how the picture's own data end. An encoder fills its last byte with ones, so zeros after
//! that are padding. If they replaced lost data, the end of the picture would be missing without them. Other
//! bytes count as superfluous only if they are few.

use std::hash::{DefaultHasher, Hash, Hasher};

use image::RgbImage;

use super::PixelsError;
use super::segments::ends_of_scans;

/// Decodes a file; a warning is an error too.
type Decode<'a> = dyn Fn(&[u8]) -> Result<RgbImage, PixelsError> + 'a;

/// The end marker.
const END: [u8; 2] = [0xff, LAST_MARKER];
const LAST_MARKER: u8 = 0xd9;

/// The highest number of stray bytes, other than zeros, that are ignored. One in seven damaged files has more,
/// and one in a hundred has so few.
const STRAY_BYTES_MAX: usize = 4;

/// Decodes a file that the decoder refuses with `error`, if superfluous bytes after scans are its only problem.
///
/// The decoder reports only its first warning, which could hide a loss. So the scans are repaired one after the
/// other, each as the last one of a file that ends with it, until there is no warning.
pub(super) fn decode_without(
    mut file: Vec<u8>,
    mut error: PixelsError,
    decode: &Decode<'_>,
) -> Result<RgbImage, PixelsError> {
    loop {
        let Strays { count, marker } = Strays::of(&error).ok_or(error)?;
        let ends = ends_of_scans(&file);
        let last = ends.len().saturating_sub(1);
        let first = if marker == LAST_MARKER {
            last
        } else {
            let others = ends.get(..last).unwrap_or_default();
            others.partition_point(|end| decode(&up_to(&file, *end)).is_ok())
        };
        let end = ends.get(first).copied().unwrap_or(file.len());
        let own = own_bytes(&up_to(&file, end), count, decode)?;
        file = [own.as_slice(), file.get(end..).unwrap_or(&END)].concat();
        match decode(&file) {
            Ok(image) => return Ok(image),
            Err(next) => error = next,
        }
    }
}

/// Bytes before a marker that the decoder found to be superfluous.
struct Strays {
    count: usize,
    marker: u8,
}

impl Strays {
    /// The bytes after a scan, if the decoder warned of them.
    fn of(error: &PixelsError) -> Option<Self> {
        let PixelsError::Undecodable { cause, .. } = error else {
            return None;
        };
        let (before, marker) = cause.split_once(" extraneous bytes before marker 0x")?;
        let marker = u8::from_str_radix(marker, 16).ok()?;
        let count = before.rsplit(' ').next()?.parse().ok()?;
        // A restart marker is inside a scan, whose data continue after the stray bytes.
        let is_behind = 0 < count && !(0xd0..=0xd7).contains(&marker);
        is_behind.then_some(Self { count, marker })
    }
}

/// The start of a file up to the end of a scan's data, as a complete file.
fn up_to(file: &[u8], end: usize) -> Vec<u8> {
    let own = file.get(..end).unwrap_or(file);
    [own.strip_suffix(&END).unwrap_or(own), &END].concat()
}

/// A file's bytes without its end marker, and without the stray bytes before that.
fn own_bytes(file: &[u8], stray: usize, decode: &Decode<'_>) -> Result<Vec<u8>, PixelsError> {
    let is_stray = |cause: &str| PixelsError::Undecodable {
        format: super::Format::Jpeg,
        cause: format!("{stray} bytes too many {cause}"),
    };
    let coded = file.strip_suffix(&END).unwrap_or(file);
    let zeros = coded.iter().rev().take_while(|byte| **byte == 0).count();
    let mut own = coded.get(..coded.len() - zeros).unwrap_or_default();
    // The zero after such a byte belongs to it.
    if own.ends_with(&[0xff]) {
        own = coded.get(..=own.len()).unwrap_or(coded);
    }
    if stray <= coded.len() - own.len() {
        let lost = |_lacks_data| is_stray("behind a scan, and its last pixels are lost");
        decode(&ended(own)).map_err(lost)?;
        return Ok(own.to_vec());
    }
    let mut own = None;
    for removed in stray..=STRAY_BYTES_MAX {
        let shorter = ended(
            coded
                .get(..coded.len().saturating_sub(removed))
                .unwrap_or(&[]),
        );
        if decode(&shorter).is_err() {
            break;
        }
        own = Some(shorter);
    }
    let mut own = own.ok_or_else(|| is_stray("behind a scan"))?;
    if !ends_in_ones(&mut own, decode) {
        return Err(is_stray("behind a scan, which is no encoder's"));
    }
    own.truncate(own.len() - END.len());
    Ok(own)
}

/// Coded data with an end marker.
fn ended(coded: &[u8]) -> Vec<u8> {
    let mut file = coded.to_vec();
    // The first of two bytes that together are one byte of data.
    while file.ends_with(&[0xff]) {
        file.pop();
    }
    file.extend_from_slice(&END);
    file
}

/// Whether the last byte of coded data is filled with ones, as the standard requires; in other words, whether
/// the decoder reads its last zero bit.
fn ends_in_ones(file: &mut [u8], decode: &Decode<'_>) -> bool {
    let digest = |file: &[u8]| {
        let mut hasher = DefaultHasher::new();
        decode(file).ok().map(|image| {
            image.as_raw().hash(&mut hasher);
            hasher.finish()
        })
    };
    let Some(last) = file.len().checked_sub(END.len() + 1) else {
        return false;
    };
    let before = digest(file);
    let Some(byte) = file.get_mut(last) else {
        return false;
    };
    let own = *byte;
    *byte |= 1_u8.checked_shl(own.trailing_ones()).unwrap_or(0);
    // This must not start a marker.
    let is_changed = *byte != 0xff && digest(file) != before;
    if let Some(byte) = file.get_mut(last) {
        *byte = own;
    }
    is_changed
}
