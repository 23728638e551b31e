//! Recognises a file by its first bytes, for files whose names do not tell.

use super::{Format, PixelsError, file_type};

/// The number of first bytes that [`sniff`] needs.
pub const SNIFF_BYTES: usize = 1024;

/// The type of a supported image, or words for what the file is instead.
///
/// `head` is the start of the file: [`SNIFF_BYTES`] bytes, or the whole file.
///
/// # Errors
/// Returns words such as `plain text`, `HEIC or HEIF` or `a video`.
pub fn sniff(head: &[u8]) -> Result<Format, &'static str> {
    /// The possible lengths of a bitmap's second header.
    const HEADERS: [u8; 7] = [12, 40, 52, 56, 64, 108, 124];
    match file_type::format(head) {
        // Many texts start with these two letters.
        Ok(Format::Bmp) => match head.get(14..18) {
            Some([length, 0, 0, 0]) if HEADERS.contains(length) => Ok(Format::Bmp),
            _ => Err("unknown data"),
        },
        Ok(format) => Ok(format),
        // Further explanations and advice follow in brackets.
        Err(PixelsError::UnsupportedFormat { detected }) => {
            Err(detected.split_once(" (").map_or(detected, |(name, _)| name))
        }
        Err(_) => Err("unknown data"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_told_by_its_first_bytes_and_two_letters_are_no_bitmap() {
        let bitmap = [b"BM".as_slice(), &[0; 12], &[40, 0, 0, 0]].concat();
        for (head, want) in [
            (&b"\xff\xd8\xff\xe0"[..], Ok(Format::Jpeg)),
            (&bitmap, Ok(Format::Bmp)),
            (b"BMW and others, in words", Err("unknown data")),
            (b"\0\0\0\x18ftypmp42", Err("a video")),
            (b"\0\0\0\x18ftypheic", Err("HEIC or HEIF")),
            (b"some words", Err("plain text")),
        ] {
            assert_eq!(sniff(head), want, "{head:?}");
        }
    }
}
