//! Recognises the type of a file by its first bytes.

use crate::pixels::{Format, ImageLimits, PixelsError};

/// Number of bytes in which a name for an unsupported type is looked for.
const TEXT_BYTES: usize = 1024;

/// The first bytes of a JPEG.
const JPEG: &[u8] = b"\xff\xd8\xff";

/// The first bytes of a PNG.
const PNG: &[u8] = b"\x89PNG\r\n\x1a\n";

/// Types of files that people send by mistake: offset, first bytes, name.
const OTHERS: [(usize, &[u8], &str); 58] = [
    (0, b"II*\0", "TIFF, or a camera's raw file"),
    (0, b"MM\0*", "TIFF, or a camera's raw file"),
    (0, b"II+\0", "BigTIFF"),
    (0, b"MM\0+", "BigTIFF"),
    (0, b"IIRO", "a camera's raw file (ORF)"),
    (0, b"IIU\0", "a camera's raw file (RW2)"),
    (0, b"FUJIFILMCCD-RAW", "a camera's raw file (RAF)"),
    (4, b"ftypcrx ", "a camera's raw file (CR3)"),
    (4, b"ftypavif", AVIF),
    (4, b"ftypavis", AVIF),
    (4, b"ftyphei", HEIC),
    (4, b"ftyphev", HEIC),
    (4, b"ftypmif1", HEIC),
    (4, b"ftypmif2", HEIC),
    (4, b"ftypmsf1", HEIC),
    (4, b"ftyp", "a video (ISO media)"),
    (0, b"\0\0\0\x0cJXL ", "JPEG XL"),
    (0, b"\xff\x0a", "JPEG XL"),
    (0, b"\0\0\0\x0cjP  ", "JPEG 2000"),
    (0, b"\xff\x4f\xff\x51", "JPEG 2000"),
    (0, b"\x8aMNG", "MNG"),
    (0, b"\x8bJNG", "JNG"),
    (0, b"\0\0\x01\0", "an icon (ICO)"),
    (0, b"\0\0\x02\0", "a cursor (CUR)"),
    (0, b"%PDF", "PDF"),
    (0, b"%!PS", "PostScript"),
    (0, b"8BPS", "Photoshop"),
    (0, b"qoif", "QOI"),
    (0, b"DDS ", "DDS"),
    (0, b"v/1\x01", "OpenEXR"),
    (0, b"#?RADIANCE", "Radiance HDR"),
    (0, b"P1\n", PNM),
    (0, b"P2\n", PNM),
    (0, b"P3\n", PNM),
    (0, b"P4\n", PNM),
    (0, b"P5\n", PNM),
    (0, b"P6\n", PNM),
    (0, b"P7\n", PNM),
    (0, b"SIMPLE  =", "FITS"),
    (0, b"\x93NUMPY", "a NumPy array"),
    (8, b"AVI ", "a video (AVI)"),
    (8, b"WAVE", "sound (WAV)"),
    (0, b"\x1aE\xdf\xa3", "a video (Matroska or WebM)"),
    (0, b"OggS", "a video or sound (Ogg)"),
    (0, b"PK\x03\x04", "a ZIP archive"),
    (0, b"Rar!", "a RAR archive"),
    (0, b"7z\xbc\xaf", "a 7z archive"),
    (0, b"\x1f\x8b", "gzip"),
    (0, b"BZh", "bzip2"),
    (0, b"\xfd7zXZ", "xz"),
    (0, b"\x28\xb5\x2f\xfd", "zstd"),
    (
        0,
        b"\0\x05\x16\x07",
        "macOS's notes on a file (its name begins with ._)",
    ),
    (
        0,
        b"version https://git-lfs",
        "a Git LFS pointer and not the file (run `git lfs pull`)",
    ),
    (0, b"/9j/", "base64 text (decode it first)"),
    (0, b"iVBORw0KGgo", "base64 text (decode it first)"),
    (0, b"data:image/", "a data URL (decode it first)"),
    (0, b"\xff\xfe", "plain text"),
    (0, b"\xfe\xff", "plain text"),
];

const AVIF: &str = "AVIF (convert it to JPEG)";
const HEIC: &str = "HEIC or HEIF (convert it to JPEG; an iPhone takes JPEGs under Settings, Camera, Formats, Most Compatible)";
const PNM: &str = "PNM";

/// The type of a file, which must not be empty or longer than the limit.
pub(super) fn admitted(bytes: &[u8], limits: &ImageLimits) -> Result<Format, PixelsError> {
    if bytes.is_empty() {
        return Err(PixelsError::Empty);
    }
    if limits.bytes_max < bytes.len() {
        let (bytes, max) = (bytes.len(), limits.bytes_max);
        return Err(PixelsError::TooManyBytes { bytes, max });
    }
    format(bytes)
}

/// The type, by the first bytes alone.
pub(super) fn format(bytes: &[u8]) -> Result<Format, PixelsError> {
    if bytes.starts_with(JPEG) {
        Ok(Format::Jpeg)
    } else if bytes.starts_with(PNG) {
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
    if is_tga(bytes) {
        return "TGA";
    }
    if let Some((_, _, name)) = known {
        return name;
    }
    let head = bytes.get(..TEXT_BYTES).unwrap_or(bytes);
    for (magic, name) in [
        (JPEG, "other bytes before a JPEG (cut them off)"),
        (PNG, "other bytes before a PNG (cut them off)"),
    ] {
        if memchr::memmem::find(head, magic).is_some() {
            return name;
        }
    }
    let text = match std::str::from_utf8(head) {
        Ok(text) => text,
        // The cut may be inside a character.
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

/// Whether a header without a signature is that of a TGA: its numbers are consistent.
fn is_tga(bytes: &[u8]) -> bool {
    let Some(
        &[
            _,
            has_map,
            kind,
            map @ ..,
            _,
            _,
            _,
            _,
            w,
            wide,
            h,
            high,
            bits,
            _,
        ],
    ) = bytes.first_chunk::<18>()
    else {
        return false;
    };
    let map_fits = match (has_map, kind) {
        (0, 2 | 3 | 10 | 11) => map == [0; 5],
        (1, 1 | 9) => matches!(map, [_, _, _, _, 15 | 16 | 24 | 32]),
        _ => false,
    };
    let has_pixels = 0 < u16::from_le_bytes([w, wide]) && 0 < u16::from_le_bytes([h, high]);
    map_fits && has_pixels && matches!(bits, 8 | 15 | 16 | 24 | 32)
}

fn has(bytes: &[u8], offset: usize, magic: &[u8]) -> bool {
    bytes
        .get(offset..)
        .is_some_and(|rest| rest.starts_with(magic))
}
