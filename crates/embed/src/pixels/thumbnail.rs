//! A small picture of an image, for people to look at.

use std::io::Cursor;

use image::ImageFormat;

use super::{
    AspectFit, Conventions, Geometry, ImageLimits, JpegScale, Pixels, PixelsError, ResizeFilter,
    Resizer,
};

/// A PNG of an image file, on white, with a longer side of at most `side` pixels.
///
/// # Errors
/// Returns the errors of [`Pixels::decode`].
pub fn thumbnail(bytes: &[u8], limits: &ImageLimits, side: u32) -> Result<Vec<u8>, PixelsError> {
    let pixels = Pixels::decode(bytes, limits, [255; 3])?;
    let longer = pixels.width().max(pixels.height());
    let side = side.clamp(1, longer);
    let scaled = |length: u32| {
        let scaled = u64::from(length) * u64::from(side) / u64::from(longer);
        u32::try_from(scaled.max(1)).unwrap_or(side)
    };
    let geometry = Geometry {
        width: scaled(pixels.width()),
        height: scaled(pixels.height()),
        fit: AspectFit::Squash,
        filter: ResizeFilter::Bilinear,
        jpeg: JpegScale::Full,
        conventions: Conventions::default(),
        grey: false,
    };
    let small = Resizer::new().resize(&pixels, &geometry)?;
    let impossible = |reason: String| PixelsError::Geometry { reason };
    let rgb = image::RgbImage::from_raw(small.width(), small.height(), small.as_rgb().to_vec());
    let rgb = rgb.ok_or_else(|| impossible("its rows do not fit its size".to_owned()))?;
    let mut png = Cursor::new(Vec::new());
    rgb.write_to(&mut png, ImageFormat::Png)
        .map_err(|cause| impossible(cause.to_string()))?;
    Ok(png.into_inner())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thumbnail_keeps_the_aspect_and_is_never_larger_than_the_image() {
        let limits = ImageLimits {
            bytes_max: crate::pixels::BYTES_MAX,
            decode_bytes_max: crate::pixels::DECODE_BYTES_MAX,
        };
        let wide = image::RgbImage::from_pixel(200, 50, image::Rgb([10, 200, 30]));
        let mut file = Cursor::new(Vec::new());
        wide.write_to(&mut file, ImageFormat::Png).unwrap();
        for (side, size) in [(100, (100, 25)), (1, (1, 1)), (4_000, (200, 50))] {
            let png = thumbnail(file.get_ref(), &limits, side).unwrap();
            let read = Pixels::decode(&png, &limits, [0; 3]).unwrap();
            assert_eq!((read.width(), read.height()), size);
            assert_eq!(read.as_rgb().first_chunk(), Some(&[10, 200, 30]));
        }
        assert!(thumbnail(b"no image", &limits, 10).is_err());
    }
}
