//! Decodes PNGs with the decoder of `image`, and reads their metadata as Pillow 13 does.

use std::borrow::Cow;
use std::io::{Cursor, Read};

use flate2::Crc;
use flate2::read::ZlibDecoder;
use image::codecs::png::PngDecoder;
use image::{DynamicImage, ImageDecoder};

use super::decoded::{Cost, refusal, upright};
use super::orientation::Notes;
use super::{Format, ImageLimits, METADATA_BYTES_MAX, PixelsError};

const FORMAT: Format = Format::Png;

/// The highest size in bytes to which a text may inflate. Pillow refuses a file with a longer one.
const TEXT_BYTES_MAX: u64 = 1 << 20;

/// The content of a PNG's chunks.
#[derive(Default)]
struct PngChunks {
    header: Option<PngHeader>,
    notes: Notes,
    /// EXIF data as text, which old programs write.
    exif_text: Option<Vec<u8>>,
    frames: Option<u32>,
    has_transparency: bool,
    /// Number of entries in the palette.
    colours: Option<usize>,
    /// Whether the transparent level of a grey picture is black.
    is_black_transparent: bool,
    has_pixels: bool,
}

/// The content of the first chunk.
#[derive(Clone, Copy)]
struct PngHeader {
    size: (u32, u32),
    /// Number of bits of a sample.
    bits: u8,
    colour: u8,
}

/// Width and height that a PNG's first chunk states; `None` if it has no such chunk.
pub(super) fn size(bytes: &[u8]) -> Option<(u32, u32)> {
    PngHeader::of(bytes.get(12..)?.strip_prefix(b"IHDR")?).map(|header| header.size)
}

/// Decodes a PNG; for an animated one, its default image.
pub(super) fn decode(bytes: &[u8], limits: &ImageLimits) -> Result<DynamicImage, PixelsError> {
    let chunks = PngChunks::of(bytes)?;
    let orientation = chunks.notes.orientation();
    // Checked first, because the decoder would allocate memory for a row.
    if let Some(header) = chunks.header {
        let cost = chunks.cost(header).bytes(header.size, orientation);
        limits.check(header.size, cost)?;
    }
    let mut metadata = image::Limits::no_limits();
    metadata.max_alloc = Some(METADATA_BYTES_MAX);
    let decoder = PngDecoder::with_limits(Cursor::new(bytes), metadata);
    let mut decoder = decoder.map_err(|error| refusal(FORMAT, &error))?;
    let mut memory = image::Limits::no_limits();
    memory.max_alloc = Some(limits.decode_bytes_max);
    let set = decoder.set_limits(memory);
    set.map_err(|error| refusal(FORMAT, &error))?;
    upright(decoder, FORMAT, orientation)
}

/// The highest memory that decoding needs, in bytes, and the size; `None` if the file is refused.
pub(super) fn cost(bytes: &[u8]) -> Option<((u32, u32), u64)> {
    let chunks = PngChunks::of(bytes).ok()?;
    let header = chunks.header?;
    let orientation = chunks.notes.orientation();
    let cost = chunks.cost(header).bytes(header.size, orientation);
    Some((header.size, cost))
}

impl PngHeader {
    fn of(data: &[u8]) -> Option<Self> {
        let &[a, b, c, d, e, f, g, h, bits, colour] = data.first_chunk()?;
        Some(Self {
            size: (
                u32::from_be_bytes([a, b, c, d]),
                u32::from_be_bytes([e, f, g, h]),
            ),
            bits,
            colour,
        })
    }
}

impl PngChunks {
    /// Reads the chunks as far as possible; the decoder refuses what is damaged.
    fn of(bytes: &[u8]) -> Result<Self, PixelsError> {
        let mut found = Self::default();
        let mut rest = bytes.get(8..).unwrap_or_default();
        while let Some((&length, after)) = rest.split_first_chunk::<4>()
            && let Some((name, after)) = after.split_first_chunk::<4>()
        {
            let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
            let Some((data, after)) = after.split_at_checked(length) else {
                break;
            };
            // The next frame of an animation, where Pillow stops reading.
            let is_next = name == b"fcTL" && found.has_pixels && found.is_animated();
            if name == b"IEND" || is_next {
                break;
            }
            // A checksum follows each chunk.
            if !found.has_pixels && counts(*name) && after.get(..4) != Some(&checksum(*name, data))
            {
                return Err(PixelsError::Undecodable {
                    format: FORMAT,
                    cause: format!("the checksum of its chunk {} is wrong", name.escape_ascii()),
                });
            }
            found.take(*name, data)?;
            rest = after.get(4..).unwrap_or_default();
        }
        found.check_transparency()?;
        if found.notes.exif.is_none() {
            found.notes.exif = found.exif_text.take();
        }
        Ok(found)
    }

    fn is_animated(&self) -> bool {
        self.frames.is_some_and(|frames| 1 < frames)
    }

    fn take(&mut self, name: [u8; 4], data: &[u8]) -> Result<(), PixelsError> {
        match &name {
            b"CgBI" => {
                return unsupported("Apple's own form (CgBI, \"iPhone-optimised\")");
            }
            b"IHDR" => self.header = PngHeader::of(data),
            b"acTL" => self.frames = data.first_chunk().map(|count| u32::from_be_bytes(*count)),
            b"PLTE" => self.colours = Some(data.len() / 3),
            b"tRNS" => {
                self.check_place_of_transparency(data)?;
                self.has_transparency = true;
                self.is_black_transparent = data == [0; 2];
            }
            b"IDAT" => self.has_pixels = true,
            b"fcTL" if !self.has_pixels => return self.check_first_frame(data),
            b"eXIf" => self.notes.exif = Some(data.to_vec()),
            b"tEXt" | b"zTXt" | b"iTXt" => self.take_text(name, data),
            _ => {}
        }
        Ok(())
    }

    /// The pixels of an animation's first frame are those of the picture, so the frame has to fill it.
    fn check_first_frame(&self, data: &[u8]) -> Result<(), PixelsError> {
        let place = data.get(4..20).unwrap_or_default();
        let size = self.header.map(|header| header.size);
        let whole = size.map(|(width, height)| {
            [width.to_be_bytes(), height.to_be_bytes(), [0; 4], [0; 4]].concat()
        });
        if whole.as_deref() == Some(place) {
            return Ok(());
        }
        unsupported("a first frame that does not fill its picture")
    }

    /// Refuses a transparency that occurs twice, is in the wrong place, has a wrong length, or is a level that
    /// no sample can have, because each reader treats it differently.
    fn check_place_of_transparency(&self, data: &[u8]) -> Result<(), PixelsError> {
        let Some(PngHeader { bits, colour, .. }) = self.header else {
            return Ok(());
        };
        let levels = 1_u32.checked_shl(u32::from(bits)).unwrap_or(u32::MAX);
        let (samples, rest) = data.as_chunks::<2>();
        let are_levels = rest.is_empty()
            && samples
                .iter()
                .all(|sample| u32::from(u16::from_be_bytes(*sample)) < levels);
        let fits = match colour {
            0 => samples.len() == 1 && are_levels,
            2 => samples.len() == 3 && are_levels,
            3 => self.colours.is_some_and(|colours| data.len() <= colours),
            // It has no meaning there, and no reader uses it.
            _ => return Ok(()),
        };
        if fits && !self.has_pixels && !self.has_transparency {
            return Ok(());
        }
        unsupported("a transparency (tRNS) that is not where, or not as, the standard has it")
    }

    /// Refuses a transparent colour that Pillow and viewers find in different samples. The colour refers to the
    /// samples in the file, but Pillow compares it with samples that it has already scaled.
    fn check_transparency(&self) -> Result<(), PixelsError> {
        let Some(PngHeader { bits, colour, .. }) = self.header else {
            return Ok(());
        };
        let is_scaled = match (colour, bits) {
            (0, 2 | 4) => !self.is_black_transparent,
            (0 | 2, 16) => true,
            _ => false,
        };
        if is_scaled && self.has_transparency {
            return unsupported("a transparent colour among samples of 2, 4 or 16 bits");
        }
        Ok(())
    }

    fn take_text(&mut self, name: [u8; 4], data: &[u8]) {
        let Some((key, value)) = text(name, data) else {
            return;
        };
        match key {
            b"XML:com.adobe.xmp" => self.notes.xmp = Some(value.into_owned()),
            b"Raw profile type exif" => self.exif_text = from_hexadecimal(&value),
            b"exif" if &name == b"tEXt" => self.notes.exif = Some(value.into_owned()),
            _ => {}
        }
    }

    /// The memory for a pixel.
    fn cost(&self, header: PngHeader) -> Cost {
        let is_deep = header.bits == 16;
        let has_alpha = matches!(header.colour, 4 | 6) || self.has_transparency;
        let colours = if matches!(header.colour, 0 | 4) { 1 } else { 3 };
        Cost {
            pixel_bytes: (colours + u64::from(has_alpha)) << u8::from(is_deep),
            has_alpha,
        }
    }
}

/// Whether a chunk affects the pixels, although the decoder would skip it if it is damaged.
fn counts(name: [u8; 4]) -> bool {
    matches!(&name, b"tRNS" | b"eXIf" | b"tEXt" | b"zTXt" | b"iTXt")
}

fn checksum(name: [u8; 4], data: &[u8]) -> [u8; 4] {
    let mut checksum = Crc::new();
    checksum.update(&name);
    checksum.update(data);
    checksum.sum().to_be_bytes()
}

/// The key and the value of a text that may contain the orientation; `None` for other texts and for unreadable
/// ones.
fn text(name: [u8; 4], data: &[u8]) -> Option<(&[u8], Cow<'_, [u8]>)> {
    let (key, value) = split(data)?;
    if !matches!(
        key,
        b"XML:com.adobe.xmp" | b"Raw profile type exif" | b"exif"
    ) {
        return None;
    }
    let value = match &name {
        b"tEXt" => Cow::Borrowed(value),
        b"zTXt" => Cow::Owned(inflated(value.strip_prefix(&[0])?)?),
        _ => {
            let (&[is_packed, method], rest) = value.split_first_chunk()?;
            let (_language, rest) = split(rest)?;
            let (_translated, value) = split(rest)?;
            match (is_packed, method) {
                (0, _) => Cow::Borrowed(value),
                (_, 0) => Cow::Owned(inflated(value)?),
                (_, _) => return None,
            }
        }
    };
    Some((key, value))
}

/// The parts before and after the first zero byte.
fn split(data: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = memchr::memchr(0, data)?;
    Some((data.get(..at)?, data.get(at + 1..)?))
}

fn inflated(data: &[u8]) -> Option<Vec<u8>> {
    let mut text = Vec::new();
    let mut input = ZlibDecoder::new(data).take(TEXT_BYTES_MAX);
    input.read_to_end(&mut text).ok()?;
    Some(text)
}

/// Decodes a text with three lines followed by hexadecimal digits.
fn from_hexadecimal(text: &[u8]) -> Option<Vec<u8>> {
    let lines = text.split(|byte| *byte == b'\n').skip(3);
    let digits: Vec<u8> = lines
        .flatten()
        .filter(|byte| !byte.is_ascii_whitespace())
        .map(|byte| u8::try_from(char::from(*byte).to_digit(16)?).ok())
        .collect::<Option<_>>()?;
    let (pairs, _odd) = digits.as_chunks::<2>();
    Some(pairs.iter().map(|[high, low]| high * 16 + low).collect())
}

fn unsupported<T>(feature: &'static str) -> Result<T, PixelsError> {
    Err(PixelsError::UnsupportedFeature {
        format: FORMAT,
        feature,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(name: [u8; 4], data: &[u8]) -> Vec<u8> {
        let length = u32::try_from(data.len()).unwrap().to_be_bytes();
        [&length, &name[..], data, &checksum(name, data)].concat()
    }

    /// As in libpng's own `pngtest.png`, and allowed by the standard.
    #[test]
    fn an_orientation_behind_the_pixels_counts() {
        let header = [0, 0, 0, 1, 0, 0, 0, 2, 8, 2, 0, 0, 0];
        let exif = b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0";
        let of = |chunks: &[Vec<u8>]| {
            let bytes = [b"\x89PNG\r\n\x1a\n".to_vec(), chunks.concat()].concat();
            PngChunks::of(&bytes).unwrap().notes.orientation()
        };
        let [header, pixels] = [chunk(*b"IHDR", &header), chunk(*b"IDAT", b"pixels")];
        let (note, end) = (chunk(*b"eXIf", exif), chunk(*b"IEND", &[]));
        let turned = image::metadata::Orientation::Rotate90;
        let before = [&header, &note, &pixels, &end].map(Clone::clone);
        let behind = [&header, &pixels, &note, &end].map(Clone::clone);
        assert_eq!((of(&before), of(&behind)), (turned, turned));
    }
}
