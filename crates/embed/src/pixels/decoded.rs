//! The result of decoding, for every format, and its memory cost.

use std::io::ErrorKind;

use image::metadata::Orientation;
use image::{DynamicImage, GrayAlphaImage, ImageDecoder, ImageError, RgbImage, RgbaImage};

use crate::pixels::{Format, ImageLimits, Pixels, PixelsError, SIDE_MAX};

/// The decoded image, and its scale.
pub(super) struct Decoded {
    pub(super) pixels: Pixels,
    /// Width and height of the upright image at full scale.
    pub(super) size: (u32, u32),
    pub(super) reduction: Reduction,
}

/// How an upright image was reduced while it was decoded.
#[derive(Clone, Copy)]
pub(super) struct Reduction {
    /// Each pixel is the mean of a square with sides of this many pixels, in the file's own orientation. The
    /// last pixel of each row and column may be the mean of fewer. 1 if nothing was reduced.
    pub(super) denominator: u32,
    /// Whether the upright image starts with the file's last column, and with its last row.
    pub(super) mirrored: (bool, bool),
}

impl Decoded {
    /// An image that was decoded at full scale.
    pub(super) fn whole(image: DynamicImage, background: [u8; 3]) -> Self {
        let (width, height) = (image.width(), image.height());
        let image = eight_bits(image);
        let rgb = if image.color().has_alpha() {
            lay_over(&image.into_rgba8(), background)
        } else {
            image.into_rgb8().into_raw()
        };
        Self {
            pixels: Pixels { width, height, rgb },
            size: (width, height),
            reduction: Reduction {
                denominator: 1,
                mirrored: (false, false),
            },
        }
    }
}

/// Decodes, and applies the orientation.
pub(super) fn upright(
    decoder: impl ImageDecoder,
    format: Format,
    orientation: Orientation,
) -> Result<DynamicImage, PixelsError> {
    let image = DynamicImage::from_decoder(decoder);
    let mut image = image.map_err(|error| refusal(format, &error))?;
    image.apply_orientation(orientation);
    Ok(image)
}

/// Converts samples of 16 bits to their upper half, as Pillow does. 16-bit grey, which Pillow clips, is left to
/// be scaled.
fn eight_bits(image: DynamicImage) -> DynamicImage {
    let halved = |samples: &[u16]| samples.iter().map(|sample| (sample >> 8) as u8).collect();
    let (width, height) = (image.width(), image.height());
    let halved = if let Some(grey) = image.as_luma_alpha16() {
        GrayAlphaImage::from_raw(width, height, halved(grey)).map(DynamicImage::from)
    } else if let Some(rgb) = image.as_rgb16() {
        RgbImage::from_raw(width, height, halved(rgb)).map(DynamicImage::from)
    } else if let Some(rgba) = image.as_rgba16() {
        RgbaImage::from_raw(width, height, halved(rgba)).map(DynamicImage::from)
    } else {
        None
    };
    halved.unwrap_or(image)
}

/// The memory for a pixel while it is decoded.
pub(super) struct Cost {
    /// Bytes of a pixel as the decoder returns it: 1 to 8.
    pub(super) pixel_bytes: u64,
    pub(super) has_alpha: bool,
}

impl Cost {
    /// The highest memory that an image needs, in bytes: the decoded image, twice if it has to be turned, plus
    /// the image that it is converted to.
    pub(super) fn bytes(&self, (width, height): (u32, u32), orientation: Orientation) -> u64 {
        let turned = orientation != Orientation::NoTransforms;
        let own = self.pixel_bytes << u8::from(turned);
        let target = if self.has_alpha { 4 } else { 3 };
        let converted = if self.pixel_bytes == target {
            0
        } else {
            self.pixel_bytes + target
        };
        let laid_over = if self.has_alpha { 7 } else { 0 };
        // A header can state any size, but a product that saturates is above the limit too.
        let pixels = u64::from(width) * u64::from(height);
        pixels.saturating_mul(own.max(converted).max(laid_over))
    }
}

impl ImageLimits {
    /// Refuses an image of this size if decoding needs too many bytes.
    pub(super) fn check(&self, (width, height): (u32, u32), bytes: u64) -> Result<(), PixelsError> {
        if SIDE_MAX < width.max(height) {
            let max = SIDE_MAX;
            return Err(PixelsError::SideTooLong { width, height, max });
        }
        let max = self.decode_bytes_max;
        if max < bytes {
            return Err(PixelsError::TooMuchMemory {
                width,
                height,
                bytes,
                max,
            });
        }
        Ok(())
    }
}

pub(super) fn refusal(format: Format, error: &ImageError) -> PixelsError {
    if let ImageError::IoError(cause) = error
        && cause.kind() == ErrorKind::UnexpectedEof
    {
        return PixelsError::Truncated { format };
    }
    PixelsError::Undecodable {
        format,
        cause: error.to_string(),
    }
}

fn lay_over(rgba: &[u8], background: [u8; 3]) -> Vec<u8> {
    let mut rgb = Vec::with_capacity(rgba.len() / 4 * 3);
    for &[red, green, blue, alpha] in rgba.as_chunks::<4>().0 {
        let alpha = u16::from(alpha);
        for (over, under) in [red, green, blue].into_iter().zip(background) {
            let sum = u16::from(over) * alpha + u16::from(under) * (255 - alpha);
            // Divides by 255 with rounding, exact for every sum of this form.
            let sum = sum + 128;
            rgb.push(((sum + (sum >> 8)) >> 8) as u8);
        }
    }
    rgb
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_beyond_counting_is_beyond_every_limit() {
        let cost = Cost {
            pixel_bytes: 8,
            has_alpha: true,
        };
        let most = (u32::MAX, u32::MAX);
        assert_eq!(cost.bytes(most, Orientation::Rotate90), u64::MAX);
        assert_eq!(cost.bytes((1, 1), Orientation::Rotate90), 16);
    }
}
