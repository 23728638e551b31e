//! The resize itself: which part of the source, in which order, onto which canvas.

use std::fmt;

use fast_image_resize::images::{Image, ImageRef};
use fast_image_resize::{FilterType, PixelType, ResizeAlg, ResizeOptions};

use crate::pixels::{Filter, Fit, Geometry, Pixels, PixelsError, Resizer, SIDE_MAX};

impl Resizer {
    /// A resizer for the widest vector instructions of this CPU.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The image at the geometry's size: Pillow's `resize`, within two grey levels.
    ///
    /// # Errors
    /// [`PixelsError::Geometry`] where the geometry is impossible; never because of the image.
    pub fn resize(&mut self, pixels: &Pixels, geometry: &Geometry) -> Result<Pixels, PixelsError> {
        let (width, height) = (geometry.width, geometry.height);
        let allowed = 1..=SIDE_MAX;
        if !(allowed.contains(&width) && allowed.contains(&height)) {
            let reason = format!("{width} x {height}; each side must be 1 to {SIDE_MAX} pixels");
            return Err(PixelsError::Geometry { reason });
        }
        match geometry.fit {
            Fit::Squash => {
                let window = Window::whole(pixels, (width, height));
                self.convolve(pixels, &window, (width, height), geometry.filter)
            }
            Fit::Crop { short_side } => {
                // Cutting the source gives the pixels that cutting the result would give, and an
                // image that is very long does not become very large in between.
                let window = middle(pixels, geometry, short_side)?;
                self.convolve(pixels, &window, (width, height), geometry.filter)
            }
            Fit::Pad { fill } => {
                let size = inside(pixels, geometry);
                let window = Window::whole(pixels, size);
                let scaled = self.convolve(pixels, &window, size, geometry.filter)?;
                Ok(centred(&scaled, geometry, fill))
            }
        }
    }

    fn convolve(
        &mut self,
        pixels: &Pixels,
        window: &Window,
        (width, height): (u32, u32),
        filter: Filter,
    ) -> Result<Pixels, PixelsError> {
        let options = ResizeOptions::new()
            .use_alpha(false)
            .resize_alg(ResizeAlg::Convolution(filter.kernel()));
        let mut target = Image::new(width, height, PixelType::U8x3);
        let source = ImageRef::new(pixels.width, pixels.height, &pixels.rgb, PixelType::U8x3)
            .map_err(|error| impossible(&error))?;
        let Window {
            left,
            top,
            across,
            down,
            vertical_first,
        } = *window;
        if vertical_first {
            // The library's own order.
            self.convolution
                .resize(&source, &mut target, &options.crop(left, top, across, down))
                .map_err(|error| impossible(&error))?;
        } else {
            let rows = options.crop(left, 0.0, across, f64::from(pixels.height));
            let columns = options.crop(0.0, top, f64::from(width), down);
            self.between
                .resize(3 * width as usize * pixels.height as usize, 0);
            let mut between =
                Image::from_slice_u8(width, pixels.height, &mut self.between, PixelType::U8x3)
                    .map_err(|error| impossible(&error))?;
            self.convolution
                .resize(&source, &mut between, &rows)
                .and_then(|()| self.convolution.resize(&between, &mut target, &columns))
                .map_err(|error| impossible(&error))?;
        }
        Ok(Pixels {
            width,
            height,
            rgb: target.into_vec(),
        })
    }
}

fn impossible(error: &impl fmt::Display) -> PixelsError {
    PixelsError::Geometry {
        reason: error.to_string(),
    }
}

/// The part of the source that is shown, in pixels and fractions of them.
struct Window {
    left: f64,
    top: f64,
    across: f64,
    down: f64,
    /// The order of the two passes. The image between them is rounded and clipped to bytes, and
    /// with filters that overshoot the other order differs by up to 19 grey levels.
    vertical_first: bool,
}

impl Window {
    fn whole(pixels: &Pixels, scaled: (u32, u32)) -> Self {
        let (across, down) = (f64::from(pixels.width), f64::from(pixels.height));
        let vertical_first = vertical_first((across, down), (scaled.0.into(), scaled.1.into()));
        Self {
            left: 0.0,
            top: 0.0,
            across,
            down,
            vertical_first,
        }
    }
}

/// The order that Pillow 13 takes, found by comparing its results with both orders.
fn vertical_first(source: (f64, f64), scaled: (f64, f64)) -> bool {
    scaled.1 < source.1 && 2.0 * (source.0 - scaled.0) < source.1 - scaled.1
}

/// The part of the source that [`Fit::Crop`] shows, rounded as torchvision's `Resize` and
/// `CenterCrop` round: the long side down, the margin to the nearest even.
fn middle(pixels: &Pixels, geometry: &Geometry, short_side: u32) -> Result<Window, PixelsError> {
    if short_side < geometry.width.max(geometry.height) {
        let (width, height) = (geometry.width, geometry.height);
        let reason =
            format!("a short side of {short_side} cannot be cropped to {width} x {height}");
        return Err(PixelsError::Geometry { reason });
    }
    let source = (f64::from(pixels.width), f64::from(pixels.height));
    let short = f64::from(pixels.width.min(pixels.height));
    let scaled = (
        (f64::from(short_side) * source.0 / short).floor(),
        (f64::from(short_side) * source.1 / short).floor(),
    );
    let span = |source: f64, scaled: f64, target: u32| {
        let start = ((scaled - f64::from(target)) / 2.0).round_ties_even();
        let step = source / scaled;
        (start * step, f64::from(target) * step)
    };
    let (left, across) = span(source.0, scaled.0, geometry.width);
    let (top, down) = span(source.1, scaled.1, geometry.height);
    Ok(Window {
        left,
        top,
        across,
        down,
        vertical_first: vertical_first(source, scaled),
    })
}

/// The largest size of the source's shape that fits the geometry.
fn inside(pixels: &Pixels, geometry: &Geometry) -> (u32, u32) {
    let across = f64::from(geometry.width) / f64::from(pixels.width);
    let down = f64::from(geometry.height) / f64::from(pixels.height);
    let scale = if across < down { across } else { down };
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "not negative, and bounded by the clamp: a cast from f64 saturates"
    )]
    let side = |source: u32, most: u32| {
        ((f64::from(source) * scale).round_ties_even() as u32).clamp(1, most)
    };
    (
        side(pixels.width, geometry.width),
        side(pixels.height, geometry.height),
    )
}

fn centred(scaled: &Pixels, geometry: &Geometry, fill: [u8; 3]) -> Pixels {
    let (width, height) = (geometry.width, geometry.height);
    let row_bytes = 3 * width as usize;
    let mut rgb = fill.repeat(width as usize * height as usize);
    let top = (height - scaled.height) / 2;
    let start = 3 * ((width - scaled.width) / 2) as usize;
    let rows = scaled.rgb.chunks_exact(3 * scaled.width as usize);
    for (row, source) in rgb.chunks_exact_mut(row_bytes).skip(top as usize).zip(rows) {
        for (to, from) in row.iter_mut().skip(start).zip(source) {
            *to = *from;
        }
    }
    Pixels { width, height, rgb }
}

impl Filter {
    fn kernel(self) -> FilterType {
        match self {
            Self::Box => FilterType::Box,
            Self::Bilinear => FilterType::Bilinear,
            Self::Hamming => FilterType::Hamming,
            Self::Bicubic => FilterType::CatmullRom,
            Self::Lanczos => FilterType::Lanczos3,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILTERS: [Filter; 5] = [
        Filter::Box,
        Filter::Bilinear,
        Filter::Hamming,
        Filter::Bicubic,
        Filter::Lanczos,
    ];
    const FITS: [Fit; 3] = [
        Fit::Squash,
        Fit::Crop { short_side: 20 },
        Fit::Pad { fill: [10, 20, 30] },
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
                fit: Fit::Squash,
                filter,
            };
            assert_eq!(Resizer::new().resize(&pixels, &geometry).unwrap(), pixels);
        }
    }

    #[test]
    fn padding_is_shared_between_both_sides_and_the_odd_pixel_goes_last() {
        let geometry = Geometry {
            width: 2,
            height: 5,
            fit: Fit::Pad { fill: [9, 9, 9] },
            filter: Filter::Bilinear,
        };
        let resized = Resizer::new()
            .resize(&flat(4, 4, [1, 1, 1]), &geometry)
            .unwrap();
        let rows: Vec<u8> = resized.as_rgb().chunks(6).map(|row| row[0]).collect();
        assert_eq!(rows, [9, 1, 1, 9, 9]);
    }

    #[test]
    fn an_impossible_geometry_is_refused() {
        let (fit, filter) = (Fit::Crop { short_side: 15 }, Filter::Box);
        let squash = |width, height| Geometry {
            width,
            height,
            fit: Fit::Squash,
            filter,
        };
        let crop = Geometry {
            width: 8,
            height: 16,
            fit,
            filter,
        };
        for geometry in [squash(0, 4), squash(4, 0), squash(SIDE_MAX + 1, 4), crop] {
            let refused = Resizer::new()
                .resize(&flat(9, 9, [0; 3]), &geometry)
                .unwrap_err();
            assert!(matches!(refused, PixelsError::Geometry { .. }), "{refused}");
        }
    }
}
