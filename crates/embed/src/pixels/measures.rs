//! Measures a picture independently of what it shows.

use super::{Format, ImageMeasures, Pixels};

/// Pixels at this distance differ by the picture's contrast, whatever its focus.
const APART: usize = 4;

impl Pixels {
    /// The mean level of all channels, 0 to 255, and the sharpness: the squared contrast of neighbouring pixels
    /// in a row divided by that of pixels four apart. In a blurred or enlarged picture, neighbours differ
    /// little. The sharpness is 0 if there is no contrast. Every second row is used, which is enough.
    #[must_use]
    pub fn brightness_and_sharpness(&self) -> [f64; 2] {
        let (mut levels, mut sum, mut near, mut far) = (0, 0, 0, 0);
        for row in self.rgb.chunks_exact(3 * self.width as usize).step_by(2) {
            levels += row.len() as u64;
            sum += row.iter().map(|level| u64::from(*level)).sum::<u64>();
            near += differences(row, 3);
            far += differences(row, 3 * APART);
        }
        let sharpness = if far == 0 {
            0.0
        } else {
            real(near) / real(far)
        };
        [real(sum) / real(levels), sharpness]
    }

    /// These measures, with what is known about the file.
    pub(super) fn measures(&self, format: Format, longest_side: u32) -> ImageMeasures {
        let [brightness, sharpness] = self.brightness_and_sharpness();
        ImageMeasures {
            format,
            longest_side,
            brightness,
            sharpness,
        }
    }
}

/// The sum of the squared differences of values at this distance. Without the square, an edge would give the
/// same sum whatever its width.
fn differences(values: &[u8], apart: usize) -> u64 {
    let pairs = values.iter().zip(values.iter().skip(apart));
    let squares = pairs.map(|(a, b)| u32::from(a.abs_diff(*b)).pow(2));
    // A row has at most 3 x 16,384 values, so a sum of 32 bits cannot overflow.
    u64::from(squares.sum::<u32>())
}

#[expect(clippy::cast_precision_loss, reason = "sums stay far below 2^53")]
fn real(sum: u64) -> f64 {
    sum as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(width: u32, height: u32, level: impl Fn(u32, u32) -> u32) -> [f64; 2] {
        let at = |place: u32| u8::try_from(level(place % width, place / width)).unwrap();
        let rgb = (0..width * height).flat_map(|place| [at(place); 3]);
        let rgb = rgb.collect();
        Pixels { width, height, rgb }.brightness_and_sharpness()
    }

    #[test]
    fn blur_lowers_sharpness_and_light_does_not() {
        let edges = |width: u32, strength: u32| {
            // Stripes of 8 pixels with ramps of this width between them.
            move |x: u32, _| {
                let place = (x % 16).min(16 - x % 16);
                40 + strength * place.saturating_sub(4 - width / 2).min(width) / width
            }
        };
        let [light, sharp] = of(64, 8, edges(1, 100));
        let [_, blurred] = of(64, 8, edges(4, 100));
        let [dark, faint] = of(64, 8, edges(1, 50));
        assert!(blurred < 0.8 * sharp, "{blurred} {sharp}");
        assert!((faint - sharp).abs() < 0.01 && dark + 20.0 < light);
        let bits = |values: [f64; 2]| values.map(f64::to_bits);
        assert_eq!(bits(of(5, 1, |_, _| 7)), bits([7.0, 0.0]));
        assert_eq!(bits(of(1, 1, |_, _| 255)), bits([255.0, 0.0]));
    }
}
