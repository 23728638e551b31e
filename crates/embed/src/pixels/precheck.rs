//! Checks a file's header before the file takes a place in a queue.

use super::{Format, ImageLimits, PixelsError, file_type, png};

/// Refuses files that [`super::Pixels::decode`] would refuse for their length, first bytes or header. The time
/// does not grow with the length of the file. A file that passes may still be refused there.
///
/// # Errors
/// Returns the errors of decoding, with two exceptions: a file that is both too large and cut short is refused
/// as too large, and the stated memory is the least that decoding could need.
pub fn precheck(bytes: &[u8], limits: &ImageLimits) -> Result<(), PixelsError> {
    let (size, least) = match file_type::admitted(bytes, limits)? {
        // A pixel in 64 may be enough, with three bytes.
        Format::Jpeg => (jpeg_size(bytes), (3, 64)),
        Format::Png => (png::size(bytes), (4, 1)),
        Format::Gif => (gif_size(bytes), (4, 1)),
        // These formats do not state their size in a single place.
        Format::WebP | Format::Bmp => (None, (0, 1)),
    };
    size.map_or(Ok(()), |(width, height)| {
        let pixels = u64::from(width) * u64::from(height);
        limits.check((width, height), least.0 * pixels / least.1)
    })
}

/// Width and height in the first frame header, which precedes all coded data.
fn jpeg_size(bytes: &[u8]) -> Option<(u32, u32)> {
    /// The highest number of segments before it, more than cameras and editors write.
    const SEGMENTS_MAX: usize = 256;
    let mut rest = bytes.get(2..)?;
    for _ in 0..SEGMENTS_MAX {
        let [0xff, marker, high, low, ..] = *rest else {
            return None;
        };
        let length = usize::from(u16::from_be_bytes([high, low]));
        match (marker, rest.get(5..9)) {
            // Baseline, extended and progressive. Other kinds are refused for their kind.
            (0xc0..=0xc2, Some(&[high, low, wide, narrow])) => {
                let height = u16::from_be_bytes([high, low]).into();
                return Some((u16::from_be_bytes([wide, narrow]).into(), height));
            }
            (0xc4 | 0xdb | 0xdd | 0xe0..=0xef | 0xfe, _) if 2 <= length => {
                rest = rest.get(2 + length..)?;
            }
            _ => return None,
        }
    }
    None
}

/// Width and height of the screen, which the first frame may enlarge.
fn gif_size(bytes: &[u8]) -> Option<(u32, u32)> {
    let side = |at: usize| {
        let bytes = bytes.get(at..at + 2)?.first_chunk()?;
        Some(u32::from(u16::from_le_bytes(*bytes)))
    };
    Some((side(6)?, side(8)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pixels::Pixels;

    const LIMITS: ImageLimits = ImageLimits {
        bytes_max: 1000,
        decode_bytes_max: 5_000,
    };

    /// The start of a file, long enough to be checked.
    fn begins(with: &[&[u8]]) -> Vec<u8> {
        let mut bytes = with.concat();
        bytes.resize(100, 0);
        bytes
    }

    fn jpeg(height: u16, width: u16) -> Vec<u8> {
        let (height, width) = (height.to_be_bytes(), width.to_be_bytes());
        let parts: [&[u8]; 6] = [
            b"\xff\xd8\xff\xe0\x00\x04ab\xff\xc0\x00\x11\x08",
            &height,
            &width,
            b"\x03\x01\x22\x00\x02\x11\x01\x03\x11\x01",
            b"\xff\xda\x00\x0c\x03\x01\x00\x02\x11\x03\x11\x00\x3f\x00",
            b"\x00\xff\xd9",
        ];
        parts.concat()
    }

    /// The refusal without its memory, of which only the minimum is known from the header.
    fn kind(error: &PixelsError) -> PixelsError {
        let mut error = error.clone();
        if let PixelsError::TooMuchMemory { bytes, .. } = &mut error {
            *bytes = 0;
        }
        error
    }

    #[test]
    fn what_the_precheck_refuses_is_refused_as_decoding_does() {
        let png = |width: u32| {
            let (width, height) = (width.to_be_bytes(), 7_u32.to_be_bytes());
            begins(&[b"\x89PNG\r\n\x1a\n\x00\x00\x00\x0dIHDR", &width, &height])
        };
        let refused = [
            Vec::new(),
            vec![0xff; 1001],
            b"plain text".to_vec(),
            b"GIF88a".to_vec(),
            png(5000),
            jpeg(500, 400),
            jpeg(1, 20_000),
        ];
        for bytes in refused {
            let error = precheck(&bytes, &LIMITS).unwrap_err();
            let decoded = Pixels::decode(&bytes, &LIMITS, [0; 3]).unwrap_err();
            assert_eq!(kind(&decoded), kind(&error), "{bytes:?}");
        }
        let gif = begins(&[b"GIF89a", &500_u16.to_le_bytes(), &400_u16.to_le_bytes()]);
        let error = precheck(&gif, &LIMITS);
        assert!(matches!(error, Err(PixelsError::TooMuchMemory { .. })));
    }

    #[test]
    fn what_has_to_be_looked_at_more_closely_passes() {
        for bytes in [
            jpeg(50, 40),
            begins(&[b"\xff\xd8\xff"]),
            begins(&[b"\xff\xd8\xff\xe0\x00\x00"]),
            b"GIF89a".to_vec(),
            b"BM".to_vec(),
            begins(&[b"RIFF\x00\x00\x00\x00WEBP"]),
        ] {
            assert_eq!(precheck(&bytes, &LIMITS), Ok(()), "{bytes:?}");
        }
    }
}
