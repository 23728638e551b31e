//! Converts the pixels of an image to the input tensor of a model.

use super::input::{Channel, InputEncoding, PixelScaling, TensorLayout};

/// Writes RGB bytes as input numbers, in the layout and channel order of the model.
///
/// It divides instead of multiplying by a reciprocal, to round as the reference pipelines do.
pub(super) fn fill(tensor: &mut [f32], rgb: &[u8], input: &InputEncoding) -> Result<(), String> {
    let (pixels, _) = rgb.as_chunks::<3>();
    let channels = input.colour.order();
    if pixels.is_empty() || tensor.len() != pixels.len() * channels.len() {
        return Err(format!(
            "{} resized pixels for {} inputs",
            pixels.len(),
            tensor.len()
        ));
    }
    let image = match &input.scale {
        PixelScaling::Image => Some(Standard::of(pixels, channels)),
        PixelScaling::Fixed { .. } => None,
    };
    for (place, channel) in channels.iter().enumerate() {
        let numbers = numbers(&input.scale, image.as_ref(), *channel)
            .ok_or("no mean or std for a channel")?;
        let values = pixels.iter().map(|pixel| {
            let number = numbers.get(usize::from(level(*channel, *pixel)));
            number.copied().unwrap_or_default()
        });
        match input.layout {
            TensorLayout::Nchw => {
                let plane = tensor.chunks_exact_mut(pixels.len()).nth(place);
                let plane = plane.into_iter().flatten();
                plane.zip(values).for_each(|(to, value)| *to = value);
            }
            TensorLayout::Nhwc => {
                let every = tensor.iter_mut().skip(place).step_by(channels.len());
                every.zip(values).for_each(|(to, value)| *to = value);
            }
        }
    }
    Ok(())
}

/// The number of a channel for each grey level, which is a shorter table than an image has pixels.
fn numbers(scale: &PixelScaling, image: Option<&Standard>, channel: Channel) -> Option<[f32; 256]> {
    let mut numbers = [0.0_f32; 256];
    let each = numbers.iter_mut().zip(0..=u8::MAX);
    match scale {
        PixelScaling::Fixed { mean, std } => {
            let at = channel.place();
            let (mean, std) = (mean.get(at)?, std.get(at)?);
            each.for_each(|(number, level)| *number = (f32::from(level) - mean) / std);
        }
        PixelScaling::Image => {
            let image = image?;
            each.for_each(|(number, level)| *number = image.number(level));
        }
    }
    Some(numbers)
}

fn level(channel: Channel, [r, g, b]: [u8; 3]) -> u8 {
    match channel {
        Channel::Red => r,
        Channel::Green => g,
        Channel::Blue => b,
        // Transparent pixels lie on the background.
        Channel::Alpha => u8::MAX,
    }
}

/// The mean and standard deviation of an image itself, as in `FaceNet`'s prewhitening and TensorFlow's
/// `per_image_standardization`.
struct Standard {
    mean: f64,
    std: f64,
}

impl Standard {
    #[expect(
        clippy::cast_precision_loss,
        reason = "an image has far fewer than 2^52 samples"
    )]
    fn of(pixels: &[[u8; 3]], channels: &[Channel]) -> Self {
        let samples = || {
            let of_pixel = |pixel| channels.iter().map(move |channel| level(*channel, pixel));
            pixels.iter().copied().flat_map(of_pixel).map(f64::from)
        };
        let count = (pixels.len() * channels.len()) as f64;
        let mean = samples().sum::<f64>() / count;
        let squares: f64 = samples().map(|sample| (sample - mean).powi(2)).sum();
        // Both libraries have this lower limit, for pictures of one colour.
        let std = (squares / count).sqrt().max(1.0 / count.sqrt());
        Self { mean, std }
    }

    #[expect(
        clippy::cast_possible_truncation,
        reason = "rounded to the input's precision"
    )]
    fn number(&self, level: u8) -> f32 {
        ((f64::from(level) - self.mean) / self.std) as f32
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::input::Colour;

    fn input(layout: TensorLayout, colour: Colour, scale: PixelScaling) -> InputEncoding {
        InputEncoding {
            name: "pixels".to_owned(),
            layout,
            colour,
            background: [255; 3],
            scale,
        }
    }

    fn fixed(mean: &[f32], std: &[f32]) -> PixelScaling {
        PixelScaling::Fixed {
            mean: mean.to_vec(),
            std: std.to_vec(),
        }
    }

    fn filled(rgb: &[u8], input: &InputEncoding) -> Vec<f32> {
        let mut tensor = vec![0.0; rgb.len() / 3 * input.colour.channels()];
        fill(&mut tensor, rgb, input).unwrap();
        tensor
    }

    #[test]
    fn pixels_are_scaled_by_channel_and_laid_out_as_the_manifest_says() {
        let scale = || fixed(&[10.0, 20.0, 30.0], &[1.0, 2.0, 4.0]);
        let rgb = [10, 20, 30, 11, 24, 38];
        let nchw = input(TensorLayout::Nchw, Colour::Rgb, scale());
        assert_eq!(filled(&rgb, &nchw), [0.0, 1.0, 0.0, 2.0, 0.0, 2.0]);
        let nhwc = input(TensorLayout::Nhwc, Colour::Rgb, scale());
        assert_eq!(filled(&rgb, &nhwc), [0.0, 0.0, 0.0, 1.0, 2.0, 2.0]);
    }

    #[test]
    fn bgr_swaps_the_channels_and_keeps_each_ones_mean() {
        for layout in [TensorLayout::Nchw, TensorLayout::Nhwc] {
            let scale = fixed(&[9.0, 20.0, 34.0], &[1.0, 1.0, 2.0]);
            let input = input(layout, Colour::Bgr, scale);
            assert_eq!(filled(&[10, 22, 40], &input), [3.0, 2.0, 1.0]);
        }
    }

    #[test]
    fn one_and_four_channels_are_lightness_and_colours_with_an_opaque_alpha() {
        let grey = input(TensorLayout::Nchw, Colour::Grey, fixed(&[10.0], &[5.0]));
        assert_eq!(filled(&[20, 20, 20, 5, 5, 5], &grey), [2.0, -1.0]);
        let scale = || fixed(&[0.0, 0.0, 0.0, 155.0], &[1.0, 1.0, 1.0, 100.0]);
        let rgba = input(TensorLayout::Nhwc, Colour::Rgba, scale());
        let rgb = [1, 2, 3, 4, 5, 6];
        let expected = [1.0, 2.0, 3.0, 1.0, 4.0, 5.0, 6.0, 1.0];
        assert_eq!(filled(&rgb, &rgba), expected);
        let bgra = input(TensorLayout::Nchw, Colour::Bgra, scale());
        let expected = [3.0, 6.0, 2.0, 5.0, 1.0, 4.0, 1.0, 1.0];
        assert_eq!(filled(&rgb, &bgra), expected);
    }

    #[test]
    fn a_standardised_image_has_mean_0_and_spread_1_and_one_colour_is_zeros() {
        let standard = input(TensorLayout::Nchw, Colour::Rgb, PixelScaling::Image);
        // numpy: x = [0, 10, 20, 30, 40, 50]; (x - x.mean()) / max(x.std(), 1 / 6 ** .5)
        let half = [0.292_770_02, 0.878_310_1, 1.463_850_1];
        let expected = [-half[2], -half[1], -half[0], half[0], half[1], half[2]];
        // Planes: red 0 and 10, green 20 and 30, blue 40 and 50.
        let found = filled(&[0, 20, 40, 10, 30, 50], &standard);
        for (found, expected) in found.iter().zip(expected) {
            assert!((found - expected).abs() < 1e-6, "{found} {expected}");
        }
        assert_eq!(filled(&[7; 12], &standard), [0.0; 12]);
    }

    #[test]
    fn an_image_of_another_size_is_never_half_written() {
        let scale = fixed(&[0.0; 3], &[1.0; 3]);
        let input = input(TensorLayout::Nchw, Colour::Rgb, scale);
        assert!(fill(&mut [0.0; 6], &[1, 2, 3], &input).is_err());
    }
}
