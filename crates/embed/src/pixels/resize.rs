//! The resize itself: weights, order of operations, and canvas.

use std::f64::consts::PI;

use crate::pixels::window::{ResizeAxis, ResizeWindow};
use crate::pixels::{
    AspectFit, CanvasPosition, Geometry, ImageLimits, Pixels, PixelsError, ResizeFilter, Resized,
    Resizer, decode, file_type, opencv,
};
use matchpoint_vector::kernels::resample::{ResampleKernel, Weights};

/// Red, green, blue.
const CHANNELS: usize = 3;

impl Resizer {
    /// A resizer without allocated memory.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Resizes the image to the geometry's size, like Pillow's `resize` to the last bit, or like `OpenCV`.
    ///
    /// # Errors
    /// Returns [`PixelsError::Geometry`] if the geometry is impossible; the image itself never causes an error.
    pub fn resize(&mut self, pixels: &Pixels, geometry: &Geometry) -> Result<Pixels, PixelsError> {
        let window = ResizeWindow::of((pixels.width, pixels.height), geometry)?;
        let shown = if geometry.grey {
            self.show(&grey(pixels.clone()), &window, geometry)
        } else {
            self.show(pixels, &window, geometry)
        };
        Ok(bordered(shown, geometry))
    }

    /// Decodes an image file and brings it to the geometry's size.
    ///
    /// This is the same as [`Pixels::decode`] and [`Resizer::resize`], except for large JPEGs if the geometry
    /// says [`JpegScale::Reduced`](super::JpegScale::Reduced).
    ///
    /// # Errors
    /// Returns the errors of [`Pixels::decode`] and [`Resizer::resize`].
    pub fn decode(
        &mut self,
        bytes: &[u8],
        limits: &ImageLimits,
        background: [u8; 3],
        geometry: &Geometry,
    ) -> Result<Resized, PixelsError> {
        let decoded = decode::read(bytes, limits, background, Some(geometry))?;
        let mut window = ResizeWindow::of(decoded.size, geometry)?;
        window
            .across
            .reduce(decoded.reduction.denominator, decoded.reduction.mirrored.0);
        window
            .down
            .reduce(decoded.reduction.denominator, decoded.reduction.mirrored.1);
        let mut pixels = decoded.pixels;
        if geometry.grey {
            pixels = grey(pixels);
        }
        let shown = self.show(&pixels, &window, geometry);
        Ok(Resized {
            contrast: shown.contrast(),
            measures: shown.measures(
                file_type::format(bytes)?,
                decoded.size.0.max(decoded.size.1),
            ),
            pixels: bordered(shown, geometry),
        })
    }

    fn show(&mut self, pixels: &Pixels, window: &ResizeWindow, geometry: &Geometry) -> Pixels {
        match geometry.filter {
            ResizeFilter::OpenCv(way) => opencv::resize(pixels, &window.across, &window.down, way),
            ResizeFilter::Box
            | ResizeFilter::Bilinear
            | ResizeFilter::Hamming
            | ResizeFilter::Bicubic
            | ResizeFilter::Lanczos => self.convolve(pixels, window, geometry.filter),
        }
    }

    fn convolve(&mut self, pixels: &Pixels, window: &ResizeWindow, filter: ResizeFilter) -> Pixels {
        let (width, height) = (window.across.outputs, window.down.outputs);
        let columns = Weights::new(&window.across.shares(filter));
        let rows = Weights::new(&window.down.shares(filter));
        let (across, down) = (width as usize, height as usize);
        let (source_width, source_height) = (pixels.width as usize, pixels.height as usize);
        let mut rgb = vec![0; across * down * CHANNELS];
        let between = &mut self.between;
        let kernel = ResampleKernel::fastest();
        if window.vertical_first {
            let stride = source_width * CHANNELS;
            between.resize(stride * down, 0);
            kernel.down(&pixels.rgb, stride, &rows, between);
            kernel.across(between, source_width, &columns, &mut rgb);
        } else {
            let stride = across * CHANNELS;
            between.resize(stride * source_height, 0);
            kernel.across(&pixels.rgb, source_width, &columns, between);
            kernel.down(between, stride, &rows, &mut rgb);
        }
        Pixels { width, height, rgb }
    }
}

impl ResizeAxis {
    /// The first source pixel of each output, and the weight of each from there on: Pillow's
    /// `precompute_coeffs`, in its order of operations.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "cut off as Pillow does, and not negative after the clamp"
    )]
    fn shares(&self, filter: ResizeFilter) -> Vec<(usize, Vec<f64>)> {
        // If an image grows, the filter is as wide as the pixels of the source.
        let widening = if self.scale < 1.0 { 1.0 } else { self.scale };
        let support = filter.support() * widening;
        let source = f64::from(self.source);
        let one = |output: u32| {
            let centre = (self.first + f64::from(output) + 0.5) * self.scale + self.offset;
            let start = (centre - support + 0.5).clamp(0.0, source).trunc();
            let end = (centre + support + 0.5).clamp(0.0, source).trunc();
            let count = (end - start) as u32;
            let at = |place: u32| (f64::from(place) + start - centre + 0.5) * (1.0 / widening);
            let mut shares: Vec<f64> = (0..count).map(|place| filter.weight(at(place))).collect();
            let sum: f64 = shares.iter().sum();
            if sum != 0.0 {
                shares.iter_mut().for_each(|share| *share /= sum);
            }
            (start as usize, shares)
        };
        (0..self.outputs).map(one).collect()
    }
}

/// Adds the border of the fit.
fn bordered(shown: Pixels, geometry: &Geometry) -> Pixels {
    match geometry.fit {
        AspectFit::Squash | AspectFit::SquashCrop { .. } | AspectFit::Crop { .. } => shown,
        AspectFit::Pad { fill } => padded(&shown, geometry, fill),
    }
}

fn padded(scaled: &Pixels, geometry: &Geometry, fill: [u8; 3]) -> Pixels {
    let (width, height) = (geometry.width, geometry.height);
    let row_bytes = 3 * width as usize;
    let mut rgb = fill.repeat(width as usize * height as usize);
    let (left, top) = match geometry.conventions.place {
        CanvasPosition::Centre => ((width - scaled.width) / 2, (height - scaled.height) / 2),
        CanvasPosition::TopLeft => (0, 0),
    };
    let start = 3 * left as usize;
    let rows = scaled.rgb.chunks_exact(3 * scaled.width as usize);
    for (row, source) in rgb.chunks_exact_mut(row_bytes).skip(top as usize).zip(rows) {
        for (to, from) in row.iter_mut().skip(start).zip(source) {
            *to = *from;
        }
    }
    Pixels { width, height, rgb }
}

/// Replaces the colours of each pixel by its lightness: Pillow's `convert("L")`, to the last bit.
fn grey(mut pixels: Pixels) -> Pixels {
    let (triples, _) = pixels.rgb.as_chunks_mut::<3>();
    for pixel in triples {
        let [r, g, b] = pixel.map(u32::from);
        #[expect(
            clippy::cast_possible_truncation,
            reason = "the weights sum to 65,536, so that the sum is below 256 * 65,536"
        )]
        let level = ((r * 19_595 + g * 38_470 + b * 7_471 + 0x8000) >> 16) as u8;
        *pixel = [level; 3];
    }
    pixels
}

impl ResizeFilter {
    /// The distance from its centre that the filter covers, in pixels.
    fn support(self) -> f64 {
        match self {
            Self::Box => 0.5,
            Self::Bilinear | Self::Hamming => 1.0,
            Self::Bicubic => 2.0,
            Self::Lanczos => 3.0,
            // These filters are computed elsewhere.
            Self::OpenCv(_) => 0.0,
        }
    }

    /// The weight of the filter at distance `x` from its centre.
    fn weight(self, x: f64) -> f64 {
        let distance = x.abs();
        let reaches = distance < self.support();
        match self {
            // The border between two pixels belongs to the left one.
            Self::Box => f64::from(u8::from(-0.5 < x && x <= 0.5)),
            Self::Bilinear if reaches => 1.0 - distance,
            // Pillow writes these two as `float`.
            Self::Hamming if reaches => {
                sinc(x) * (f64::from(0.54_f32) + f64::from(0.46_f32) * (PI * x).cos())
            }
            Self::Bicubic if distance < 1.0 => {
                ((BICUBIC + 2.0) * distance - (BICUBIC + 3.0)) * distance * distance + 1.0
            }
            Self::Bicubic if reaches => {
                (((distance - 5.0) * distance + 8.0) * distance - 4.0) * BICUBIC
            }
            Self::Lanczos if reaches => sinc(x) * sinc(x / 3.0),
            Self::Bilinear | Self::Hamming | Self::Bicubic | Self::Lanczos | Self::OpenCv(_) => 0.0,
        }
    }
}

/// The parameter of the cubic.
const BICUBIC: f64 = -0.5;

fn sinc(x: f64) -> f64 {
    if x == 0.0 {
        return 1.0;
    }
    (PI * x).sin() / (PI * x)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pixels::{Conventions, JpegScale, Margin, OpenCv, Rounding, SIDE_MAX};

    const FILTERS: [ResizeFilter; 9] = [
        ResizeFilter::Box,
        ResizeFilter::Bilinear,
        ResizeFilter::Hamming,
        ResizeFilter::Bicubic,
        ResizeFilter::Lanczos,
        ResizeFilter::OpenCv(OpenCv::Linear),
        ResizeFilter::OpenCv(OpenCv::Cubic),
        ResizeFilter::OpenCv(OpenCv::Lanczos4),
        ResizeFilter::OpenCv(OpenCv::Area),
    ];
    const FITS: [AspectFit; 4] = [
        AspectFit::Squash,
        AspectFit::SquashCrop {
            width: 24,
            height: 12,
        },
        AspectFit::Crop { short_side: 20 },
        AspectFit::Pad { fill: [10, 20, 30] },
    ];

    fn flat(width: u32, height: u32, colour: [u8; 3]) -> Pixels {
        Pixels {
            width,
            height,
            rgb: colour.repeat(width as usize * height as usize),
        }
    }

    #[test]
    fn one_colour_stays_that_colour_in_every_shape_fit_and_filter() {
        let mut resizer = Resizer::new();
        for (width, height) in [(1, 1), (3, 200), (200, 3), (1, SIDE_MAX), (SIDE_MAX, 1)] {
            let pixels = flat(width, height, [10, 20, 30]);
            for (fit, filter) in FITS
                .iter()
                .flat_map(|fit| FILTERS.map(|filter| (*fit, filter)))
            {
                let geometry = Geometry {
                    width: 16,
                    height: 12,
                    fit,
                    filter,
                    jpeg: JpegScale::Full,
                    conventions: Conventions::default(),
                    grey: false,
                };
                let resized = resizer.resize(&pixels, &geometry).unwrap();
                assert_eq!(
                    resized,
                    flat(16, 12, [10, 20, 30]),
                    "{geometry:?} of {pixels:?}"
                );
            }
        }
    }

    #[test]
    fn the_size_that_it_has_already_changes_nothing() {
        let rgb = (0..3 * 7 * 5_u8).map(|i| i.wrapping_mul(37)).collect();
        let pixels = Pixels {
            width: 7,
            height: 5,
            rgb,
        };
        for filter in FILTERS {
            let geometry = Geometry {
                width: 7,
                height: 5,
                fit: AspectFit::Squash,
                filter,
                jpeg: JpegScale::Full,
                conventions: Conventions::default(),
                grey: false,
            };
            assert_eq!(Resizer::new().resize(&pixels, &geometry).unwrap(), pixels);
        }
    }

    #[test]
    fn padding_is_shared_between_both_sides_and_the_odd_pixel_goes_last() {
        let geometry = Geometry {
            width: 2,
            height: 5,
            fit: AspectFit::Pad { fill: [9, 9, 9] },
            filter: ResizeFilter::Bilinear,
            jpeg: JpegScale::Full,
            conventions: Conventions::default(),
            grey: false,
        };
        let resized = Resizer::new()
            .resize(&flat(4, 4, [1, 1, 1]), &geometry)
            .unwrap();
        let rows: Vec<u8> = resized.as_rgb().chunks(6).map(|row| row[0]).collect();
        assert_eq!(rows, [9, 1, 1, 9, 9]);
    }

    #[test]
    fn a_letterbox_at_the_corner_has_its_border_on_the_right_and_below() {
        let geometry = |side, place| Geometry {
            width: 4,
            height: 4,
            fit: AspectFit::Pad { fill: [9, 9, 9] },
            filter: ResizeFilter::OpenCv(OpenCv::Linear),
            jpeg: JpegScale::Full,
            conventions: Conventions {
                side,
                place,
                ..Conventions::default()
            },
            grey: false,
        };
        // 4 x 2.67 pixels of the image are left.
        let rows = |geometry: &Geometry| -> Vec<u8> {
            let resized = Resizer::new().resize(&flat(9, 6, [1, 1, 1]), geometry);
            let rows = resized.unwrap();
            rows.as_rgb().chunks(12).map(|row| row[9]).collect()
        };
        let down = Some(Rounding::Down);
        assert_eq!(rows(&geometry(None, CanvasPosition::TopLeft)), [1, 1, 1, 9]);
        assert_eq!(rows(&geometry(down, CanvasPosition::TopLeft)), [1, 1, 9, 9]);
        assert_eq!(rows(&geometry(down, CanvasPosition::Centre)), [9, 1, 1, 9]);
    }

    /// For an image with numbered columns, the first column that is left at its own size.
    fn first_column(side: u32, geometry: &Geometry) -> u8 {
        let columns = (0..side).flat_map(|column| [u8::try_from(column).unwrap(); 3]);
        let pixels = Pixels {
            width: side,
            height: 10,
            rgb: columns.collect::<Vec<u8>>().repeat(10),
        };
        Resizer::new().resize(&pixels, geometry).unwrap().as_rgb()[0]
    }

    #[test]
    fn half_a_pixel_at_the_cut_is_rounded_as_the_convention_says() {
        let geometry = |fit, margin| Geometry {
            width: 10,
            height: 10,
            fit,
            filter: ResizeFilter::Bilinear,
            jpeg: JpegScale::Full,
            conventions: Conventions {
                margin,
                ..Conventions::default()
            },
            grey: false,
        };
        // Margins of 1.5 and 2.5 pixels.
        for (side, even, down) in [(13, 2, 1), (15, 2, 2)] {
            let (width, height) = (side, 10);
            let fits = [
                AspectFit::Crop { short_side: 10 },
                AspectFit::SquashCrop { width, height },
            ];
            for fit in fits {
                assert_eq!(first_column(side, &geometry(fit, Margin::Even)), even);
                assert_eq!(first_column(side, &geometry(fit, Margin::Down)), down);
            }
        }
    }

    #[test]
    fn the_long_side_is_rounded_as_the_convention_says() {
        let geometry = |side| Geometry {
            width: 10,
            height: 10,
            fit: AspectFit::Crop { short_side: 10 },
            filter: ResizeFilter::Bilinear,
            jpeg: JpegScale::Full,
            conventions: Conventions {
                side,
                ..Conventions::default()
            },
            grey: false,
        };
        let scaled = |side| {
            let window = ResizeWindow::of((47, 30), &geometry(side)).unwrap();
            (
                window.across.scaled,
                window.down.scaled,
                window.across.first,
            )
        };
        // 15.67 pixels.
        assert_eq!(scaled(None), (15.0, 10.0, 2.0));
        assert_eq!(scaled(Some(Rounding::Nearest)), (16.0, 10.0, 3.0));
    }

    #[test]
    fn grey_is_the_lightness_of_colours() {
        let mut geometry = Geometry {
            width: 2,
            height: 1,
            fit: AspectFit::Squash,
            filter: ResizeFilter::Box,
            jpeg: JpegScale::Full,
            conventions: Conventions::default(),
            grey: true,
        };
        let pixels = Pixels {
            width: 2,
            height: 1,
            rgb: vec![200, 100, 50, 7, 7, 7],
        };
        let resized = Resizer::new().resize(&pixels, &geometry).unwrap();
        assert_eq!(resized.as_rgb(), [124, 124, 124, 7, 7, 7]);
        geometry.grey = false;
        assert_eq!(Resizer::new().resize(&pixels, &geometry).unwrap(), pixels);
    }

    #[test]
    fn an_impossible_geometry_is_refused() {
        let (fit, filter) = (AspectFit::Crop { short_side: 15 }, ResizeFilter::Box);
        let squash = |width, height| Geometry {
            width,
            height,
            fit: AspectFit::Squash,
            filter,
            jpeg: JpegScale::Full,
            conventions: Conventions::default(),
            grey: false,
        };
        let crop = Geometry {
            width: 8,
            height: 16,
            fit,
            filter,
            jpeg: JpegScale::Full,
            conventions: Conventions::default(),
            grey: false,
        };
        let squash_crop = Geometry {
            fit: AspectFit::SquashCrop {
                width: 20,
                height: 15,
            },
            ..crop
        };
        let all = [squash(0, 4), squash(4, 0), squash(SIDE_MAX + 1, 4)];
        for geometry in all.into_iter().chain([crop, squash_crop]) {
            let refused = Resizer::new()
                .resize(&flat(9, 9, [0; 3]), &geometry)
                .unwrap_err();
            assert!(matches!(refused, PixelsError::Geometry { .. }), "{refused}");
        }
    }
}
