//! Measures how much there is to see in a picture.

use super::Pixels;

impl Pixels {
    /// The largest difference of a colour channel, in grey levels from 0 to 255, along rows and columns:
    /// between neighbouring pixels, or between pixels that are a sixteenth of a side apart.
    ///
    /// The distances are short, because light that falls off over an empty wall has a wide range too.
    #[must_use]
    pub fn contrast(&self) -> u8 {
        let (width, height) = (to_usize(self.width), to_usize(self.height));
        let row_bytes = 3 * width;
        let down = [1, height / 16].map(|rows| largest_difference(&self.rgb, row_bytes * rows));
        let across = [1, width / 16].map(|columns| {
            let rows = self.rgb.chunks_exact(row_bytes.max(1));
            let of_rows = rows.map(|row| largest_difference(row, 3 * columns));
            of_rows.max().unwrap_or_default()
        });
        down.into_iter().chain(across).max().unwrap_or_default()
    }
}

/// The largest difference between two values at this distance.
fn largest_difference(values: &[u8], apart: usize) -> u8 {
    let pairs = values.iter().zip(values.iter().skip(apart));
    pairs.fold(0, |largest, (a, b)| a.abs_diff(*b).max(largest))
}

fn to_usize(length: u32) -> usize {
    usize::try_from(length).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;
    use crate::pixels::{
        AspectFit, Conventions, Geometry, ImageLimits, JpegScale, ResizeFilter, Resized, Resizer,
    };

    #[test]
    fn the_border_of_a_letterbox_shows_nothing() {
        let flat = image::RgbImage::from_pixel(40, 20, image::Rgb([200; 3]));
        let mut file = Cursor::new(Vec::new());
        flat.write_to(&mut file, image::ImageFormat::Png).unwrap();
        let geometry = Geometry {
            width: 16,
            height: 16,
            fit: AspectFit::Pad { fill: [0; 3] },
            filter: ResizeFilter::Bilinear,
            jpeg: JpegScale::Full,
            conventions: Conventions::default(),
            grey: false,
        };
        let limits = ImageLimits {
            bytes_max: 1 << 20,
            decode_bytes_max: 1 << 20,
        };
        let resized = Resizer::new().decode(file.get_ref(), &limits, [0; 3], &geometry);
        let Resized {
            pixels, contrast, ..
        } = resized.unwrap();
        assert_eq!((pixels.contrast(), contrast), (200, 0));
    }

    fn of(width: u32, height: u32, level: impl Fn(u32, u32) -> u32) -> u8 {
        let at = |place: u32| u8::try_from(level(place % width, place / width)).unwrap();
        let rgb = (0..width * height).flat_map(|place| [at(place); 3]);
        let rgb = rgb.collect();
        Pixels { width, height, rgb }.contrast()
    }

    #[test]
    fn an_edge_a_line_and_a_pattern_count_whole_and_light_that_falls_off_does_not() {
        assert_eq!(of(64, 32, |_, _| 77), 0);
        assert_eq!(of(64, 32, |x, _| if x < 32 { 10 } else { 60 }), 50);
        assert_eq!(of(64, 32, |_, y| if y == 7 { 10 } else { 60 }), 50);
        // The period of the pattern is a sixteenth of the side.
        assert_eq!(of(64, 32, |x, _| 40 * (x % 4 / 2)), 40);
        // 252 levels over the whole side.
        assert_eq!(of(64, 32, |x, _| 4 * x), 16);
        assert_eq!(of(1, 1, |_, _| 5), 0);
        assert_eq!(of(3, 1, |x, _| 90 * (x / 2)), 90);
    }
}
