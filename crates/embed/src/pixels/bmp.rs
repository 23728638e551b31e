//! Decodes Windows bitmaps with the decoder of `image`.

use std::io::Cursor;

use image::codecs::bmp::BmpDecoder;
use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder};

use super::decoded::{Cost, refusal, upright};
use super::{Format, ImageLimits, PixelsError};

const FORMAT: Format = Format::Bmp;

/// At most four channels.
const COST: Cost = Cost {
    pixel_bytes: 4,
    has_alpha: true,
};

/// Decodes a bitmap.
pub(super) fn decode(bytes: &[u8], limits: &ImageLimits) -> Result<DynamicImage, PixelsError> {
    if is_misread(bytes) == Some(true) {
        return Err(PixelsError::UnsupportedFeature {
            format: FORMAT,
            feature: "a palette of greys that is shorter than its pixels need",
        });
    }
    if begins_in_header(bytes) == Some(true) {
        return Err(PixelsError::Undecodable {
            format: FORMAT,
            cause: "its pixels would begin within its header".to_owned(),
        });
    }
    if leaves_pixels_open(bytes) == Some(true) {
        return Err(PixelsError::UnsupportedFeature {
            format: FORMAT,
            feature: "runs (RLE) that do not say every pixel",
        });
    }
    let decoder = BmpDecoder::new(Cursor::new(bytes));
    let mut decoder = decoder.map_err(|error| refusal(FORMAT, &error))?;
    let size = decoder.dimensions();
    limits.check(size, COST.bytes(size, Orientation::NoTransforms))?;
    let mut memory = image::Limits::no_limits();
    memory.max_alloc = Some(limits.decode_bytes_max);
    let set = decoder.set_limits(memory);
    set.map_err(|error| refusal(FORMAT, &error))?;
    let image = upright(decoder, FORMAT, Orientation::NoTransforms)?;
    Ok(match greens_of_sixteen_bits(bytes) {
        Some(greens) => rounded_down(image, greens),
        None => image,
    })
}

/// The highest memory that decoding needs, in bytes, and the size; `None` if the file is refused.
pub(super) fn cost(bytes: &[u8]) -> Option<((u32, u32), u64)> {
    let size = BmpDecoder::new(Cursor::new(bytes)).ok()?.dimensions();
    Some((size, COST.bytes(size, Orientation::NoTransforms)))
}

/// Whether Pillow ignores the palette because its entries are greys in order, and then reads the pixels with a
/// wrong number of bits; `None` for a file without a palette.
fn is_misread(bytes: &[u8]) -> Option<bool> {
    let header = number(bytes, 14)?;
    let (bits, stated, entry) = match header {
        12 => (bytes.get(24)?, 0, 3),
        _ => (bytes.get(28)?, number(bytes, 46)?, 4),
    };
    let all = 1_u32.checked_shl(u32::from(*bits)).filter(|_| *bits <= 8)?;
    let count = usize::try_from(if stated == 0 { all } else { stated }).ok()?;
    let palette = bytes.get(14 + usize::try_from(header).ok()?..)?;
    let mut levels = (0..count).map(|index| if count == 2 { index * 255 } else { index });
    let is_grey = palette.chunks_exact(entry).take(count).all(|colour| {
        let level = levels.next().and_then(|level| u8::try_from(level).ok());
        level.is_some_and(|level| colour.starts_with(&[level; 3]))
    });
    Some(is_grey && !matches!((bits, count), (1, 2) | (8, 3..)))
}

/// The number in the four bytes at a position.
fn number(bytes: &[u8], at: usize) -> Option<u32> {
    bytes
        .get(at..)?
        .first_chunk()
        .copied()
        .map(u32::from_le_bytes)
}

/// Whether the header would be read as pixels.
fn begins_in_header(bytes: &[u8]) -> Option<bool> {
    Some(number(bytes, 10)? < number(bytes, 14)?.saturating_add(14))
}

/// Whether runs end a row or the picture early, or jump. For the pixels in between, some readers use black,
/// some use the first colour, and Pillow moves the rows below. `None` for a bitmap without runs.
fn leaves_pixels_open(bytes: &[u8]) -> Option<bool> {
    let is_narrow = match (bytes.get(28)?, number(bytes, 30)?) {
        (8, 1) => false,
        (4, 2) => true,
        _ => return None,
    };
    let start = usize::try_from(number(bytes, 10)?).ok()?;
    let (width, height) = (
        number(bytes, 18)?,
        number(bytes, 22)?.cast_signed().unsigned_abs(),
    );
    // If it is odd, Pillow pads runs of single pixels differently.
    if 12 == number(bytes, 14)? || start % 2 == 1 {
        return Some(true);
    }
    let mut rest = bytes.get(start..)?;
    let (mut rows, mut across) = (0, 0_u32);
    while let Some((&[run, what], after)) = rest.split_first_chunk() {
        rest = after;
        match (run, what) {
            (0, 0 | 1) if across < width && rows < height => return Some(true),
            (0, 0) => (rows, across) = (rows + 1, 0),
            (0, 1) => return Some(rows + 1 < height),
            (0, 2) => return Some(true),
            (0, pixels) => {
                let length = usize::from(if is_narrow {
                    pixels.div_ceil(2)
                } else {
                    pixels
                });
                rest = rest.get(length.next_multiple_of(2)..).unwrap_or_default();
                across = across.saturating_add(pixels.into());
            }
            (run, _) => across = across.saturating_add(run.into()),
        }
    }
    // The file is cut short, which the decoder reports.
    Some(false)
}

/// The highest level of green in a bitmap with 16 bits per pixel; `None` for other bitmaps.
fn greens_of_sixteen_bits(bytes: &[u8]) -> Option<u8> {
    let &[bits, 0, compression, 0, 0, 0] = bytes.get(28..34)?.first_chunk()? else {
        return None;
    };
    let is_green = |mask: u32| bytes.get(58..62) == Some(&mask.to_le_bytes()[..]);
    match (bits, compression) {
        (16, 0) => Some(31),
        (16, 3) if is_green(0x03e0) => Some(31),
        (16, 3) if is_green(0x07e0) => Some(63),
        _ => None,
    }
}

/// Converts a few levels to the scale of 255, rounded down as Pillow does; the decoder rounds to the nearest.
#[expect(
    clippy::cast_possible_truncation,
    reason = "a level is at most the highest, and 255 of them"
)]
fn rounded_down(image: DynamicImage, greens: u8) -> DynamicImage {
    let scaled = |sample: u8, most: u8| {
        let (sample, most) = (u16::from(sample), u16::from(most));
        let level = (sample * most + 127) / 255;
        (level * 255 / most) as u8
    };
    let mut rgb = image.into_rgb8();
    for image::Rgb([red, green, blue]) in rgb.pixels_mut() {
        *red = scaled(*red, 31);
        *green = scaled(*green, greens);
        *blue = scaled(*blue, 31);
    }
    DynamicImage::from(rgb)
}
