//! Decodes files of each format to upright pixels.

use std::panic;

use crate::pixels::decoded::Decoded;
use crate::pixels::{
    Format, Geometry, ImageLimits, Pixels, PixelsError, bmp, file_type, gif, jpeg, png, webp,
};

impl Pixels {
    /// Decodes an image file of a supported [`Format`]; `background` shows through transparency.
    ///
    /// # Errors
    /// Returns an error that names the cause and how to fix it. A panic inside a decoder becomes an error too.
    pub fn decode(
        bytes: &[u8],
        limits: &ImageLimits,
        background: [u8; 3],
    ) -> Result<Self, PixelsError> {
        Ok(read(bytes, limits, background, None)?.pixels)
    }
}

/// Decodes an image file. A large JPEG is decoded at a scale that is sufficient for `geometry`.
pub(super) fn read(
    bytes: &[u8],
    limits: &ImageLimits,
    background: [u8; 3],
    geometry: Option<&Geometry>,
) -> Result<Decoded, PixelsError> {
    let format = file_type::admitted(bytes, limits)?;
    // Decoders have panicked on files that other software can open. A panic may only affect the one image.
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

/// The highest memory that decoding an ordinary photograph needs, in bytes. One of 12 megapixels needs 36 MB,
/// or 108 MB if it is progressive.
const ORDINARY_BYTES_MAX: u64 = 110_000_000;

/// Whether decoding takes many times as long as for an ordinary photograph, judged by the headers.
#[must_use]
pub fn is_large(bytes: &[u8], limits: &ImageLimits, geometry: &Geometry) -> bool {
    ORDINARY_BYTES_MAX < decoding_bytes(bytes, limits, geometry)
}

/// The highest memory that decoding needs, in bytes, judged by the headers; 0 if the file will be refused. For
/// a JPEG, the scale that is sufficient for `geometry` is used.
#[must_use]
pub fn decoding_bytes(bytes: &[u8], limits: &ImageLimits, geometry: &Geometry) -> u64 {
    if limits.bytes_max < bytes.len() {
        return 0;
    }
    cost(bytes, Some(geometry))
        .filter(|(size, bytes)| limits.check(*size, *bytes).is_ok())
        .map_or(0, |(_, bytes)| bytes)
}

/// Width and height according to the headers; `None` if the file will be refused.
#[must_use]
pub fn stated_size(bytes: &[u8]) -> Option<(u32, u32)> {
    cost(bytes, None).map(|(size, _)| size)
}

/// Width and height, and the highest memory that decoding needs.
fn cost(bytes: &[u8], geometry: Option<&Geometry>) -> Option<((u32, u32), u64)> {
    let cost = || match file_type::format(bytes).ok()? {
        Format::Jpeg => jpeg::cost(bytes, geometry),
        Format::Png => png::cost(bytes),
        Format::WebP => webp::cost(bytes),
        Format::Gif => gif::size(bytes).map(|size| (size, gif::decoding_bytes(size))),
        Format::Bmp => bmp::cost(bytes),
    };
    // A decoder that panics here will panic again when it decodes, and the error is returned there.
    panic::catch_unwind(cost).unwrap_or(None)
}
