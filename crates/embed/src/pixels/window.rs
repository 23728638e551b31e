//! Computes which part of the source a geometry shows, and at what scale.

use crate::pixels::{
    AspectFit, Geometry, JpegScale, Margin, PixelsError, ResizeFilter, Rounding, SIDE_MAX,
};

/// The part of the source that is shown.
pub(super) struct ResizeWindow {
    pub(super) across: ResizeAxis,
    pub(super) down: ResizeAxis,
    /// The order of the two passes. The image between them is rounded and clipped to bytes, so with filters
    /// that overshoot, the other order differs by up to 19 grey levels.
    pub(super) vertical_first: bool,
}

impl ResizeWindow {
    /// The part of a source of this size that a geometry shows.
    pub(super) fn of(size: (u32, u32), geometry: &Geometry) -> Result<Self, PixelsError> {
        let (width, height) = (geometry.width, geometry.height);
        let allowed = 1..=SIDE_MAX;
        if !(allowed.contains(&width) && allowed.contains(&height)) {
            let reason = format!("{width} x {height}; each side must be 1 to {SIDE_MAX} pixels");
            return Err(PixelsError::Geometry { reason });
        }
        match geometry.fit {
            AspectFit::Squash => Ok(Self::whole(size, (width, height))),
            AspectFit::SquashCrop { width, height } => {
                middle(size, (width.into(), height.into()), geometry)
            }
            AspectFit::Crop { short_side } if short_side < width.max(height) => {
                let reason =
                    format!("a short side of {short_side} cannot be cropped to {width} x {height}");
                Err(PixelsError::Geometry { reason })
            }
            AspectFit::Crop { short_side } => {
                middle(size, with_short_side(size, short_side, geometry), geometry)
            }
            AspectFit::Pad { .. } => Ok(Self::whole(size, inside(size, geometry))),
        }
    }

    fn whole(size: (u32, u32), scaled: (u32, u32)) -> Self {
        let axis = |source: u32, scaled: u32| ResizeAxis {
            source,
            scaled: f64::from(scaled),
            scale: f64::from(source) / f64::from(scaled),
            first: 0.0,
            offset: 0.0,
            outputs: scaled,
        };
        let source = (f64::from(size.0), f64::from(size.1));
        Self {
            across: axis(size.0, scaled.0),
            down: axis(size.1, scaled.1),
            vertical_first: vertical_first(source, (scaled.0.into(), scaled.1.into())),
        }
    }
}

/// How the outputs along one side of an image are computed from the source.
pub(super) struct ResizeAxis {
    /// Number of pixels of the source.
    pub(super) source: u32,
    /// Number of outputs for the whole source.
    pub(super) scaled: f64,
    /// Number of source pixels for one output pixel.
    pub(super) scale: f64,
    /// The first output that is kept, among those for the whole source.
    pub(super) first: f64,
    /// The start of the source before its first pixel, as a fraction of one, if the source was reduced.
    pub(super) offset: f64,
    /// Number of outputs that are kept.
    pub(super) outputs: u32,
}

impl ResizeAxis {
    /// The same outputs from a reduced source, in which each pixel is the mean of `denominator` pixels, and the
    /// last one of fewer. If `mirrored`, the first pixel is the mean of fewer.
    pub(super) fn reduce(&mut self, denominator: u32, mirrored: bool) {
        let (whole, parts) = (f64::from(self.source), f64::from(denominator));
        self.source = self.source.div_ceil(denominator);
        self.scale /= parts;
        if mirrored {
            self.offset = f64::from(self.source) - whole / parts;
        }
    }
}

impl Geometry {
    /// The factor by which an upright JPEG of this size may be reduced while it is decoded: 1, 2, 4 or 8.
    ///
    /// A reduced pixel is the mean of a square. With at least three of them for each output, the result stayed
    /// within the tolerance for embeddings on every measured photograph (docs/benchmarks.md); with two it did
    /// not.
    pub(super) fn reduction(&self, size: (u32, u32)) -> u32 {
        let JpegScale::Reduced = self.jpeg else {
            return 1;
        };
        // These filters take single pixels, and means of pixels would give another picture.
        if matches!(self.filter, ResizeFilter::OpenCv(_)) {
            return 1;
        }
        // An impossible geometry is refused when it is used.
        let Ok(window) = ResizeWindow::of(size, self) else {
            return 1;
        };
        let narrower = if window.across.scale < window.down.scale {
            window.across.scale
        } else {
            window.down.scale
        };
        let enough = |denominator: &u32| REDUCED_PIXELS_MIN * f64::from(*denominator) <= narrower;
        [8, 4, 2].into_iter().find(enough).unwrap_or(1)
    }
}

/// The lowest number of pixels of a reduced JPEG for one output pixel, along each side.
const REDUCED_PIXELS_MIN: f64 = 3.0;

/// The order of Pillow 13, which was found by comparing its results with both orders.
fn vertical_first(source: (f64, f64), scaled: (f64, f64)) -> bool {
    scaled.1 < source.1 && 2.0 * (source.0 - scaled.0) < source.1 - scaled.1
}

/// The size to which [`AspectFit::Crop`] scales before the cut.
fn with_short_side(size: (u32, u32), short_side: u32, geometry: &Geometry) -> (f64, f64) {
    let (short_side, short) = (f64::from(short_side), f64::from(size.0.min(size.1)));
    let side = |source: u32| match geometry.conventions.side {
        None | Some(Rounding::Down) => (short_side * f64::from(source) / short).floor(),
        // In PaddlePaddle's order of operations.
        Some(Rounding::Nearest) => (f64::from(source) * (short_side / short)).round_ties_even(),
        Some(Rounding::Up) => (short_side * (f64::from(source) / short)).ceil(),
    };
    (side(size.0), side(size.1))
}

/// The middle of the source at another size. Cutting the source gives the same pixels as cutting the result,
/// and a very long image does not become very large in between.
fn middle(
    size: (u32, u32),
    scaled: (f64, f64),
    geometry: &Geometry,
) -> Result<ResizeWindow, PixelsError> {
    let (width, height) = (geometry.width, geometry.height);
    if scaled.0 < f64::from(width) || scaled.1 < f64::from(height) {
        let reason = format!(
            "{} x {} pixels cannot be cropped to {width} x {height}",
            scaled.0, scaled.1
        );
        return Err(PixelsError::Geometry { reason });
    }
    let source = (f64::from(size.0), f64::from(size.1));
    let axis = |source: u32, scaled: f64, target: u32| ResizeAxis {
        source,
        scaled,
        scale: f64::from(source) / scaled,
        first: match geometry.conventions.margin {
            Margin::Even => ((scaled - f64::from(target)) / 2.0).round_ties_even(),
            Margin::Down => ((scaled - f64::from(target)) / 2.0).floor(),
        },
        offset: 0.0,
        outputs: target,
    };
    Ok(ResizeWindow {
        across: axis(size.0, scaled.0, width),
        down: axis(size.1, scaled.1, height),
        vertical_first: vertical_first(source, scaled),
    })
}

/// The largest size with the source's shape that fits in the geometry.
fn inside(size: (u32, u32), geometry: &Geometry) -> (u32, u32) {
    let across = f64::from(geometry.width) / f64::from(size.0);
    let down = f64::from(geometry.height) / f64::from(size.1);
    let scale = if across < down { across } else { down };
    let (limit, limited) = if across < down {
        (geometry.width, size.0)
    } else {
        (geometry.height, size.1)
    };
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "not negative, and bounded by the clamp: a cast from f64 saturates"
    )]
    let side = |source: u32, most: u32| {
        let length = f64::from(source) * scale;
        let length = match geometry.conventions.side {
            None | Some(Rounding::Nearest) => length.round_ties_even(),
            Some(Rounding::Down) => length.floor(),
            // In PaddleOCR's order of operations, so that an integer stays what it is.
            Some(Rounding::Up) => {
                (f64::from(limit) * (f64::from(source) / f64::from(limited))).ceil()
            }
        };
        (length as u32).clamp(1, most)
    };
    (side(size.0, geometry.width), side(size.1, geometry.height))
}
