//! Files of each format to upright pixels.

use std::panic;

use crate::pixels::decoded::Decoded;
use crate::pixels::{
    Format, Geometry, ImageLimits, Pixels, PixelsError, bmp, file_type, gif, jpeg, png, webp,
};

impl Pixels {
    /// Decodes an image file of a supported [`Format`]; `background` shows through transparency.
    ///
    /// # Errors
    /// Every refusal names its cause and the way out. A panic inside a decoder is one of them.
    pub fn decode(
        bytes: &[u8],
        limits: &ImageLimits,
        background: [u8; 3],
    ) -> Result<Self, PixelsError> {
        Ok(read(bytes, limits, background, None)?.pixels)
    }
}

/// Decodes an image file; a large JPEG at the scale that is enough for `geometry`.
pub(super) fn read(
    bytes: &[u8],
    limits: &ImageLimits,
    background: [u8; 3],
    geometry: Option<&Geometry>,
) -> Result<Decoded, PixelsError> {
    let format = file_type::admitted(bytes, limits)?;
    // Decoders have panicked on files that other software opens; that may cost one image.
    let read = panic::catch_unwind(|| match format {
        Format::Jpeg => jpeg::decode(bytes, limits, geometry),
        Format::Png => Ok(Decoded::whole(png::decode(bytes, limits)?, background)),
        Format::WebP => Ok(Decoded::whole(webp::decode(bytes, limits)?, background)),
        Format::Gif => Ok(Decoded::whole(
            gif::decode(bytes, limits, background)?,
            background,
        )),
        Format::Bmp => Ok(Decoded::whole(bmp::decode(bytes, limits)?, background)),
    });
    read.unwrap_or_else(|_panic| {
        let cause = String::from("the decoder panicked");
        Err(PixelsError::Undecodable { format, cause })
    })
}

/// What decoding an ordinary photograph takes at most, in bytes: one of 12 megapixels takes 36 MB, or 108 if it is
/// progressive.
const ORDINARY_BYTES_MAX: u64 = 110_000_000;

/// Whether decoding takes many times as long as that of an ordinary photograph, by what the headers say.
#[must_use]
pub fn is_large(bytes: &[u8], limits: &ImageLimits, geometry: &Geometry) -> bool {
    ORDINARY_BYTES_MAX < decoding_bytes(bytes, limits, geometry)
}

/// The most memory that decoding takes, in bytes, by what the headers say; 0 for what will be refused.
/// A JPEG counts at the scale that is enough for `geometry`.
#[must_use]
pub fn decoding_bytes(bytes: &[u8], limits: &ImageLimits, geometry: &Geometry) -> u64 {
    if limits.bytes_max < bytes.len() {
        return 0;
    }
    cost(bytes, Some(geometry))
        .filter(|(size, bytes)| limits.check(*size, *bytes).is_ok())
        .map_or(0, |(_, bytes)| bytes)
}

/// Width and height by what the headers say; `None` for what will be refused.
#[must_use]
pub fn stated_size(bytes: &[u8]) -> Option<(u32, u32)> {
    cost(bytes, None).map(|(size, _)| size)
}

/// Width and height, and the most memory that decoding takes.
fn cost(bytes: &[u8], geometry: Option<&Geometry>) -> Option<((u32, u32), u64)> {
    let cost = || match file_type::format(bytes).ok()? {
        Format::Jpeg => jpeg::cost(bytes, geometry),
        Format::Png => png::cost(bytes),
        Format::WebP => webp::cost(bytes),
        Format::Gif => gif::size(bytes).map(|size| (size, gif::decoding_bytes(size))),
        Format::Bmp => bmp::cost(bytes),
    };
    // A decoder that panics here will panic again when it decodes, and the error is given there.
    panic::catch_unwind(cost).unwrap_or(None)
}
