//! What can be learnt from a file without decoding it: its type, its completeness, its cost.

use crate::pixels::{Format, Limits, PixelsError};

/// A progressive JPEG is decoded once for each of its scans. Encoders write 6 to 20; a legal file
/// may have tens of thousands, and takes minutes.
const SCANS_MAX: usize = 64;

/// How far into a file a name for an unsupported type is looked for, in bytes.
const TEXT_BYTES: usize = 1024;

/// What the first bytes of files that people send by mistake are: offset, bytes, name.
const OTHERS: [(usize, &[u8], &str); 30] = [
    (0, b"II*\0", "TIFF"),
    (0, b"MM\0*", "TIFF"),
    (0, b"II+\0", "BigTIFF"),
    (0, b"MM\0+", "BigTIFF"),
    (4, b"ftypavif", "AVIF"),
    (4, b"ftypavis", "AVIF"),
    (4, b"ftypheic", "HEIC"),
    (4, b"ftypheix", "HEIC"),
    (4, b"ftyphevc", "HEIC"),
    (4, b"ftypmif1", "HEIF"),
    (4, b"ftypmsf1", "HEIF"),
    (4, b"ftyp", "a video (ISO media)"),
    (0, b"\0\0\0\x0cJXL ", "JPEG XL"),
    (0, b"\xff\x0a", "JPEG XL"),
    (0, b"\0\0\0\x0cjP  ", "JPEG 2000"),
    (0, b"\xff\x4f\xff\x51", "JPEG 2000"),
    (0, b"\0\0\x01\0", "an icon (ICO)"),
    (0, b"\0\0\x02\0", "a cursor (CUR)"),
    (0, b"%PDF", "PDF"),
    (0, b"%!PS", "PostScript"),
    (0, b"8BPS", "Photoshop"),
    (0, b"qoif", "QOI"),
    (0, b"DDS ", "DDS"),
    (0, b"v/1\x01", "OpenEXR"),
    (0, b"#?RADIANCE", "Radiance HDR"),
    (0, b"PK\x03\x04", "a ZIP archive"),
    (0, b"\x1f\x8b", "gzip"),
    (0, b"/9j/", "base64 text (decode it first)"),
    (0, b"iVBORw0KGgo", "base64 text (decode it first)"),
    (0, b"data:image/", "a data URL (decode it first)"),
];

/// The type of a file that is not empty and not longer than the limit.
pub(super) fn admitted(bytes: &[u8], limits: &Limits) -> Result<Format, PixelsError> {
    if bytes.is_empty() {
        return Err(PixelsError::Empty);
    }
    if limits.bytes_max < bytes.len() {
        let (bytes, max) = (bytes.len(), limits.bytes_max);
        return Err(PixelsError::TooManyBytes { bytes, max });
    }
    format(bytes)
}

/// The type, by the first bytes and nothing else.
pub(super) fn format(bytes: &[u8]) -> Result<Format, PixelsError> {
    if bytes.starts_with(b"\xff\xd8\xff") {
        Ok(Format::Jpeg)
    } else if bytes.starts_with(b"\x89PNG\r\n\x1a\n") {
        Ok(Format::Png)
    } else if bytes.starts_with(b"RIFF") && has(bytes, 8, b"WEBP") {
        Ok(Format::WebP)
    } else if bytes.starts_with(b"GIF87a") || bytes.starts_with(b"GIF89a") {
        Ok(Format::Gif)
    } else if bytes.starts_with(b"BM") {
        Ok(Format::Bmp)
    } else {
        Err(PixelsError::UnsupportedFormat {
            detected: detected(bytes),
        })
    }
}

fn detected(bytes: &[u8]) -> &'static str {
    let known = OTHERS
        .iter()
        .find(|(offset, magic, _)| has(bytes, *offset, magic));
    if let Some((_, _, name)) = known {
        return name;
    }
    let head = bytes.get(..TEXT_BYTES).unwrap_or(bytes);
    let text = match std::str::from_utf8(head) {
        Ok(text) => text,
        // The cut may have gone through a character.
        Err(error) if error.error_len().is_none() => {
            std::str::from_utf8(head.get(..error.valid_up_to()).unwrap_or_default())
                .unwrap_or_default()
        }
        Err(_) => return "unknown data",
    };
    if text.contains("<svg") {
        "SVG"
    } else if text
        .trim_start_matches('\u{feff}')
        .trim_start()
        .starts_with('<')
    {
        "HTML or XML"
    } else if text.is_empty() || text.chars().any(|c| c.is_control() && !c.is_whitespace()) {
        "unknown data"
    } else {
        "plain text"
    }
}

fn has(bytes: &[u8], offset: usize, magic: &[u8]) -> bool {
    bytes
        .get(offset..)
        .is_some_and(|rest| rest.starts_with(magic))
}

/// What the segments of a JPEG say.
#[derive(Default)]
pub(super) struct Jpeg<'a> {
    /// Width and height.
    pub(super) size: Option<(u32, u32)>,
    pub(super) exif: Option<&'a [u8]>,
}

/// Walks the segments of a JPEG to its end marker.
///
/// The decoder fills what a cut file lacks with grey and says nothing, so that completeness has to
/// be found out here.
pub(super) fn jpeg(bytes: &[u8]) -> Result<Jpeg<'_>, PixelsError> {
    let format = Format::Jpeg;
    let truncated = || PixelsError::Truncated { format };
    let unsupported = |feature| Err(PixelsError::UnsupportedFeature { format, feature });
    let mut rest = bytes.get(2..).ok_or_else(truncated)?;
    let mut scans = 0;
    let mut found = Jpeg::default();
    loop {
        let (marker, after) = next_marker(rest).ok_or_else(truncated)?;
        if marker == 0xd9 {
            return Ok(found);
        }
        let (&length, _) = after.split_first_chunk::<2>().ok_or_else(truncated)?;
        let length = usize::from(u16::from_be_bytes(length));
        let (segment, next) = after
            .split_at_checked(length.max(2))
            .ok_or_else(truncated)?;
        match marker {
            0xc0..=0xc2 => match segment.get(7) {
                Some(1 | 3) => found.size = jpeg_size(segment),
                Some(4) => return unsupported("four colour channels (CMYK or YCCK)"),
                _ => return unsupported("a number of colour channels other than 1 and 3"),
            },
            0xc3 | 0xc5..=0xc7 => return unsupported("lossless or hierarchical coding"),
            0xc9..=0xcb | 0xcd..=0xcf => return unsupported("arithmetic coding"),
            0xda => scans += 1,
            0xe1 if found.exif.is_none() => {
                found.exif = segment
                    .get(2..)
                    .and_then(|data| data.strip_prefix(b"Exif\0\0"));
            }
            _ => {}
        }
        if SCANS_MAX < scans {
            return unsupported("more than 64 progressive scans");
        }
        rest = next;
    }
}

/// Width and height in the header of a frame.
fn jpeg_size(segment: &[u8]) -> Option<(u32, u32)> {
    let (&height, rest) = segment.get(3..)?.split_first_chunk()?;
    let width = *rest.first_chunk()?;
    Some((
        u16::from_be_bytes(width).into(),
        u16::from_be_bytes(height).into(),
    ))
}

/// The next marker that begins a segment or ends the file, and what follows it. Coded data, its
/// restart markers and stray bytes between segments are passed over.
fn next_marker(mut bytes: &[u8]) -> Option<(u8, &[u8])> {
    loop {
        let at = memchr::memchr(0xff, bytes)?;
        let after = bytes.get(at + 1..)?;
        let (&marker, rest) = after.split_first()?;
        match marker {
            // A fill byte: it may itself begin the marker.
            0xff => bytes = after,
            0x00 | 0x01 | 0xd0..=0xd8 => bytes = rest,
            _ => return Some((marker, rest)),
        }
    }
}

/// Width and height that a PNG's first chunk claims; `None` where it has no such chunk.
pub(super) fn png_size(bytes: &[u8]) -> Option<(u32, u32)> {
    let header = bytes.get(12..24)?.strip_prefix(b"IHDR")?;
    let (&width, height) = header.split_first_chunk()?;
    Some((
        u32::from_be_bytes(width),
        u32::from_be_bytes(*height.first_chunk()?),
    ))
}

/// Width and height of each bitstream in a WebP, of those in animation frames too.
pub(super) fn webp_frames(bytes: &[u8]) -> Result<Vec<(u32, u32)>, PixelsError> {
    let truncated = PixelsError::Truncated {
        format: Format::WebP,
    };
    let Some(size) = bytes.get(4..8).and_then(little_endian) else {
        return Err(truncated);
    };
    if (bytes.len() as u64) < u64::from(size) + 8 {
        return Err(truncated);
    }
    let mut frames = Vec::new();
    let mut rest = bytes.get(12..).unwrap_or_default();
    while let Some((name, after)) = rest.split_first_chunk::<4>() {
        let Some(size) = after.get(..4).and_then(little_endian) else {
            break;
        };
        let body = after.get(4..).unwrap_or_default();
        // The chunks of an animation frame follow its header of 16 bytes: walked as if they stood
        // outside, which is all that is needed to see each size.
        let skip = if name == b"ANMF" {
            16
        } else {
            size as usize + (size as usize & 1)
        };
        frames.extend(match name {
            b"VP8 " => body.get(6..10).and_then(little_endian).map(lossy_size),
            b"VP8L" => body.get(1..5).and_then(little_endian).map(lossless_size),
            _ => None,
        });
        rest = body.get(skip..).unwrap_or_default();
    }
    Ok(frames)
}

fn lossy_size(bits: u32) -> (u32, u32) {
    (bits & 0x3fff, (bits >> 16) & 0x3fff)
}

fn lossless_size(bits: u32) -> (u32, u32) {
    ((bits & 0x3fff) + 1, ((bits >> 14) & 0x3fff) + 1)
}

fn little_endian(bytes: &[u8]) -> Option<u32> {
    bytes.first_chunk().copied().map(u32::from_le_bytes)
}
