//! What a file is by its first bytes, for files whose names do not say it.

use super::{Format, PixelsError, file_type};

/// As many first bytes as [`sniff`] needs.
pub const SNIFF_BYTES: usize = 1024;

/// The type of an image that is decoded here, or what else the file looks like, in words.
///
/// `head` is the file's beginning, [`SNIFF_BYTES`] or all of it.
///
/// # Errors
/// Words such as `plain text`, `HEIC or HEIF` or `a video`.
pub fn sniff(head: &[u8]) -> Result<Format, &'static str> {
    /// Lengths of the second header of a bitmap.
    const HEADERS: [u8; 7] = [12, 40, 52, 56, 64, 108, 124];
    match file_type::format(head) {
        // Two letters begin many a text.
        Ok(Format::Bmp) => match head.get(14..18) {
            Some([length, 0, 0, 0]) if HEADERS.contains(length) => Ok(Format::Bmp),
            _ => Err("unknown data"),
        },
        Ok(format) => Ok(format),
        // What is more, and what to do, follows in brackets.
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
