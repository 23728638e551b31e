//! Decodes JPEGs with `libjpeg-turbo`, because the reference uses it and no other decoder gives the same
//! pixels. Files for which it only warns, in most cases of missing data, are refused.

use std::cell::Cell;

use image::metadata::Orientation;
use image::{DynamicImage, RgbImage};
use turbojpeg::{Decompressor, PixelFormat, ScalingFactor};

use super::decoded::{Decoded, Reduction};
use super::segments::Segments;
use super::{Format, Geometry, ImageLimits, PixelsError, strays};

const FORMAT: Format = Format::Jpeg;

/// The highest number of pixels that all scans of a progressive JPEG process together, which takes a worker
/// about 2 s. 25 megapixels in 24 scans fit; encoders write 6 to 20 scans.
const SCANNED_PIXELS_MAX: u64 = 600_000_000;

/// The highest number of pixels and bytes that are processed to find superfluous bytes in a file. The worst
/// file, which only an attacker sends, takes a worker about 8 s.
const MENDING_MAX: u64 = 4 * SCANNED_PIXELS_MAX;

/// How a JPEG will be decoded.
struct JpegPlan {
    segments: Segments,
    /// Width and height of the picture in the file.
    size: (u32, u32),
    orientation: Orientation,
    denominator: u32,
    is_cmyk: bool,
}

impl JpegPlan {
    fn of(bytes: &[u8], geometry: Option<&Geometry>) -> Result<Self, PixelsError> {
        let segments = Segments::of(bytes)?;
        let frame = segments.frame.ok_or_else(|| damaged("it has no picture"))?;
        let orientation = segments.notes.orientation();
        let upright = turns(orientation).upright(frame.size);
        Ok(Self {
            size: frame.size,
            orientation,
            denominator: geometry.map_or(1, |geometry| geometry.reduction(upright)),
            is_cmyk: frame.channels == 4,
            segments,
        })
    }

    /// Number of pixels that all scans process together.
    fn scanned_pixels(&self) -> u64 {
        let (width, height) = self.size;
        let pixels = u64::from(width) * u64::from(height);
        pixels.saturating_mul(self.segments.passes() as u64)
    }

    /// Refuses a file whose scans would take seconds, because each scan processes all pixels.
    fn check_scans(&self) -> Result<(), PixelsError> {
        if self.scanned_pixels() <= SCANNED_PIXELS_MAX {
            return Ok(());
        }
        let ((width, height), scans) = (self.size, self.segments.passes());
        Err(PixelsError::TooManyScans {
            width,
            height,
            scans,
        })
    }

    /// The highest memory that decoding needs, in bytes: the coefficients if they have to be kept, the picture
    /// at its scale, the same again if it is turned or converted from CMYK, and a copy of the file.
    fn bytes(&self, file: usize) -> u64 {
        let scaled = |side: u32| u64::from(side.div_ceil(self.denominator));
        let pixels = scaled(self.size.0) * scaled(self.size.1);
        let each = match (self.is_cmyk, turns(self.orientation).are_exchanged) {
            (true, _) => 7,
            (false, true) => 6,
            (false, false) => 3,
        };
        self.segments.coefficient_bytes() + each * pixels + file as u64
    }
}

/// Decodes a JPEG at a scale that is sufficient for `geometry`.
pub(super) fn decode(
    bytes: &[u8],
    limits: &ImageLimits,
    geometry: Option<&Geometry>,
) -> Result<Decoded, PixelsError> {
    let plan = JpegPlan::of(bytes, geometry)?;
    limits.check(plan.size, plan.bytes(bytes.len()))?;
    plan.check_scans()?;
    let file = plan.segments.for_decoder(bytes);
    let image = match decompress(&file, &plan) {
        Ok(image) => image,
        Err(error) => {
            let left = Cell::new(MENDING_MAX);
            strays::decode_without(file.into_owned(), error, &|file| {
                let cost = plan.scanned_pixels().saturating_add(file.len() as u64);
                let after = left.get().checked_sub(cost);
                left.set(after.ok_or_else(|| damaged("bytes too many behind several scans"))?);
                decompress(file, &plan)
            })?
        }
    };
    let mut image = DynamicImage::from(image);
    image.apply_orientation(plan.orientation);
    let turns = turns(plan.orientation);
    Ok(Decoded {
        size: turns.upright(plan.size),
        reduction: Reduction {
            denominator: plan.denominator,
            mirrored: turns.mirrored,
        },
        // The image is opaque, so no background is needed.
        ..Decoded::whole(image, [0; 3])
    })
}

/// The highest memory that [`decode`] needs, in bytes, and the size; `None` if the file is refused.
pub(super) fn cost(bytes: &[u8], geometry: Option<&Geometry>) -> Option<((u32, u32), u64)> {
    let plan = JpegPlan::of(bytes, geometry).ok()?;
    let cost = plan.bytes(bytes.len());
    Some((plan.size, cost))
}

/// Decodes a file that was prepared for the decoder. A warning is an error too.
fn decompress(file: &[u8], plan: &JpegPlan) -> Result<RgbImage, PixelsError> {
    let refused = |error: turbojpeg::Error| damaged(&error.to_string());
    let mut decoder = Decompressor::new().map_err(refused)?;
    let header = decoder.read_header(file).map_err(refused)?;
    let (width, height) = plan.size;
    if (header.width, header.height) != (width as usize, height as usize) {
        return Err(damaged("it has two sizes"));
    }
    let scale = ScalingFactor::new(1, plan.denominator as usize);
    decoder.set_scaling_factor(scale).map_err(refused)?;
    let scaled = |side: u32| side.div_ceil(plan.denominator);
    let (width, height) = (scaled(width), scaled(height));
    let (samples, format) = if plan.is_cmyk {
        (4, PixelFormat::CMYK)
    } else {
        (3, PixelFormat::RGB)
    };
    let mut pixels = vec![0; samples * width as usize * height as usize];
    let target = turbojpeg::Image {
        pixels: pixels.as_mut_slice(),
        width: width as usize,
        pitch: samples * width as usize,
        height: height as usize,
        format,
    };
    decoder.decompress(file, target).map_err(refused)?;
    if plan.is_cmyk {
        pixels = rgb_of_cmyk(&pixels);
    }
    let image = RgbImage::from_raw(width, height, pixels);
    image.ok_or_else(|| damaged("its rows do not fit its size"))
}

/// Pillow's conversion of samples that are stored inverted, as Adobe stores them and Pillow always assumes.
fn rgb_of_cmyk(samples: &[u8]) -> Vec<u8> {
    let mut rgb = Vec::with_capacity(samples.len() / 4 * 3);
    for &[cyan, magenta, yellow, key] in samples.as_chunks::<4>().0 {
        for ink in [cyan, magenta, yellow] {
            let product = (255 - u16::from(ink)) * u16::from(key) + 128;
            let product = ((product >> 8) + product) >> 8;
            let level = u16::from(key).saturating_sub(product);
            rgb.push(u8::try_from(level).unwrap_or(u8::MAX));
        }
    }
    rgb
}

/// The effect of an orientation on rows and columns.
struct Turns {
    /// Whether rows and columns are exchanged.
    are_exchanged: bool,
    /// Whether columns and rows of the upright image are then in reverse order to those of the file.
    mirrored: (bool, bool),
}

impl Turns {
    fn upright(&self, (width, height): (u32, u32)) -> (u32, u32) {
        if self.are_exchanged {
            (height, width)
        } else {
            (width, height)
        }
    }
}

fn turns(orientation: Orientation) -> Turns {
    let (are_exchanged, mirrored) = match orientation {
        Orientation::NoTransforms => (false, (false, false)),
        Orientation::FlipHorizontal => (false, (true, false)),
        Orientation::FlipVertical => (false, (false, true)),
        Orientation::Rotate180 => (false, (true, true)),
        Orientation::Rotate90FlipH => (true, (false, false)),
        Orientation::Rotate90 => (true, (true, false)),
        Orientation::Rotate270 => (true, (false, true)),
        Orientation::Rotate270FlipH => (true, (true, true)),
    };
    Turns {
        are_exchanged,
        mirrored,
    }
}

fn damaged(cause: &str) -> PixelsError {
    PixelsError::Undecodable {
        format: FORMAT,
        cause: cause.to_owned(),
    }
}
