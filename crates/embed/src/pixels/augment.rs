//! Changes pictures as cameras and apps do: the same thing in other bytes.

use image::RgbImage;
use image::imageops::{self, FilterType};

use super::{Pixels, PixelsError};

/// A change that keeps what a picture shows, but none of its file's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Augmentation {
    /// Saved as a JPEG of quality 50, with colours at half the resolution.
    Recompressed,
    /// Cropped by a twentieth at each edge and scaled to three quarters; a JPEG of quality 85.
    Cropped,
    /// Every sample increased by a quarter, at most to 255; a JPEG of quality 85.
    Brightened,
}

impl Augmentation {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Recompressed, Self::Cropped, Self::Brightened];

    /// Its name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Recompressed => "recompressed",
            Self::Cropped => "cropped",
            Self::Brightened => "brightened",
        }
    }

    /// The changed picture as a JPEG file, which is the same each time.
    ///
    /// # Errors
    /// Returns an error if the encoder fails; what the picture shows never causes this.
    pub fn applied_to(self, pixels: &Pixels) -> Result<Vec<u8>, PixelsError> {
        let (width, height) = (pixels.width(), pixels.height());
        let image = RgbImage::from_raw(width, height, pixels.as_rgb().to_vec());
        let mut image = image.ok_or_else(|| impossible("its rows do not fit its size"))?;
        match self {
            Self::Recompressed => jpeg(&image, 50),
            Self::Cropped => {
                let (across, down) = (width / 20, height / 20);
                let (width, height) = (width - 2 * across, height - 2 * down);
                let middle = imageops::crop(&mut image, across, down, width, height).to_image();
                let (width, height) = (width - width / 4, height - height / 4);
                let small = imageops::resize(&middle, width, height, FilterType::Triangle);
                jpeg(&small, 85)
            }
            Self::Brightened => {
                for sample in image.iter_mut() {
                    *sample = sample.saturating_add(*sample / 4);
                }
                jpeg(&image, 85)
            }
        }
    }
}

fn jpeg(image: &RgbImage, quality: i32) -> Result<Vec<u8>, PixelsError> {
    let (width, height) = (image.width() as usize, image.height() as usize);
    let source = turbojpeg::Image {
        pixels: image.as_raw().as_slice(),
        width,
        pitch: 3 * width,
        height,
        format: turbojpeg::PixelFormat::RGB,
    };
    let encoded = turbojpeg::Compressor::new().and_then(|mut encoder| {
        encoder.set_quality(quality)?;
        encoder.set_subsamp(turbojpeg::Subsamp::Sub2x2)?;
        encoder.compress_to_vec(source)
    });
    encoded.map_err(|cause| impossible(&cause.to_string()))
}

fn impossible(reason: &str) -> PixelsError {
    PixelsError::Geometry {
        reason: reason.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pixels::{BYTES_MAX, DECODE_BYTES_MAX, ImageLimits};

    fn changed(change: Augmentation, pixels: &Pixels) -> Pixels {
        let limits = ImageLimits {
            bytes_max: BYTES_MAX,
            decode_bytes_max: DECODE_BYTES_MAX,
        };
        let file = change.applied_to(pixels).unwrap();
        assert_eq!(file, change.applied_to(pixels).unwrap(), "each time");
        Pixels::decode(&file, &limits, [0; 3]).unwrap()
    }

    /// A grey ramp from left to right, with a white frame.
    fn picture(width: u32, height: u32) -> Pixels {
        let edge = |at, side: u32| at == 0 || at + 1 == side;
        let sample = |x, y| {
            if edge(x, width) || edge(y, height) {
                return 255;
            }
            u8::try_from(40 + 100 * x / width).unwrap()
        };
        let places = (0..height).flat_map(|y| (0..width).map(move |x| (x, y)));
        let rgb = places.flat_map(|(x, y)| [sample(x, y); 3]).collect();
        Pixels { width, height, rgb }
    }

    #[test]
    fn every_change_gives_a_picture_of_the_same_thing() {
        let before = picture(200, 100);
        let sizes = [(200, 100), (135, 68), (200, 100)];
        for (change, size) in Augmentation::ALL.into_iter().zip(sizes) {
            let after = changed(change, &before);
            assert_eq!((after.width(), after.height()), size, "{change:?}");
            // The pixel in the middle, which was 90 before.
            let middle = 3 * (size.0 * (size.1 / 2) + size.0 / 2) as usize;
            let expected = if change == Augmentation::Brightened {
                112
            } else {
                90
            };
            let found = after.as_rgb()[middle];
            assert!(found.abs_diff(expected) < 6, "{change:?}: {found}");
            assert_eq!(after.as_rgb()[0] < 100, change == Augmentation::Cropped);
        }
    }

    #[test]
    fn the_smallest_picture_can_be_changed() {
        let before = Pixels {
            width: 1,
            height: 1,
            rgb: vec![200, 0, 255],
        };
        for change in Augmentation::ALL {
            let after = changed(change, &before);
            assert_eq!((after.width(), after.height()), (1, 1), "{change:?}");
        }
    }
}
