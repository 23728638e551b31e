//! Files of each format to upright pixels.

use std::io::{Cursor, ErrorKind};
use std::panic;

use image::codecs::{bmp, gif, png, webp};
use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageError, RgbImage, RgbaImage};

use crate::pixels::{
    BYTES_PER_PIXEL_MAX, Format, Geometry, Limits, METADATA_BYTES_MAX, Pixels, PixelsError,
    SIDE_MAX, survey,
};

/// What a file held, and at what scale.
pub(super) struct Decoded {
    pub(super) pixels: Pixels,
    /// Width and height of the upright image at its own scale.
    pub(super) size: (u32, u32),
    pub(super) reduction: Reduction,
}

/// How an upright image was reduced while it was decoded.
#[derive(Clone, Copy)]
pub(super) struct Reduction {
    /// Each pixel is the mean of a square with sides of so many, in the file's own orientation; the last
    /// of each row and column, of what is left. 1 where nothing was reduced.
    pub(super) denominator: u32,
    /// Whether the file's last column, and row, are the upright image's first.
    pub(super) mirrored: (bool, bool),
}

impl Decoded {
    /// Decodes an image file; a large JPEG at the scale that is enough for `geometry`.
    pub(super) fn read(
        bytes: &[u8],
        limits: &Limits,
        background: [u8; 3],
        geometry: Option<&Geometry>,
    ) -> Result<Self, PixelsError> {
        let format = survey::admitted(bytes, limits)?;
        // Decoders have panicked on files that other software opens; that may cost one image.
        let read = panic::catch_unwind(|| match format {
            Format::Jpeg => jpeg(bytes, limits, geometry),
            Format::Png => Ok(Self::whole(png(bytes, limits)?, background)),
            Format::WebP => Ok(Self::whole(webp(bytes, limits)?, background)),
            Format::Gif => {
                let decoder = gif::GifDecoder::new(Cursor::new(bytes));
                let decoder = decoder.map_err(|error| refusal(format, &error))?;
                Ok(Self::whole(upright(decoder, format, limits)?, background))
            }
            Format::Bmp => {
                let decoder = bmp::BmpDecoder::new(Cursor::new(bytes));
                let decoder = decoder.map_err(|error| refusal(format, &error))?;
                Ok(Self::whole(upright(decoder, format, limits)?, background))
            }
        });
        read.unwrap_or_else(|_panic| {
            let cause = String::from("the decoder panicked");
            Err(PixelsError::Undecodable { format, cause })
        })
    }

    /// An image that was decoded at its own scale.
    fn whole(image: DynamicImage, background: [u8; 3]) -> Self {
        let (width, height) = (image.width(), image.height());
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

fn png(bytes: &[u8], limits: &Limits) -> Result<DynamicImage, PixelsError> {
    // The decoder would take memory for a row of it first.
    if let Some((width, height)) = survey::png_size(bytes) {
        check_size(width, height, limits)?;
    }
    let mut metadata = image::Limits::no_limits();
    metadata.max_alloc = Some(METADATA_BYTES_MAX);
    let decoder = png::PngDecoder::with_limits(Cursor::new(bytes), metadata);
    let decoder = decoder.map_err(|error| refusal(Format::Png, &error))?;
    upright(decoder, Format::Png, limits)
}

/// Decodes a WebP: an animation's first frame as `image` has it, anything else by `libwebp`, which takes
/// half of the time for the same pixels.
fn webp(bytes: &[u8], limits: &Limits) -> Result<DynamicImage, PixelsError> {
    let format = Format::WebP;
    // A bitstream may be larger than its canvas, and is decoded before they are compared.
    for (width, height) in survey::webp_frames(bytes)? {
        check_size(width, height, limits)?;
    }
    let decoder = webp::WebPDecoder::new(Cursor::new(bytes));
    let mut decoder = decoder.map_err(|error| refusal(format, &error))?;
    if decoder.has_animation() {
        return upright(decoder, format, limits);
    }
    let (width, height) = decoder.dimensions();
    check_size(width, height, limits)?;
    let refused = |error: &dyn std::fmt::Display| PixelsError::Undecodable {
        format,
        cause: error.to_string(),
    };
    let mut image = if decoder.color_type().has_alpha() {
        let mut rgba = RgbaImage::new(width, height);
        webpx::decode_rgba_into(bytes, &mut rgba, 4 * width).map_err(|error| refused(&error))?;
        DynamicImage::from(rgba)
    } else {
        let mut rgb = RgbImage::new(width, height);
        webpx::decode_rgb_into(bytes, &mut rgb, 3 * width).map_err(|error| refused(&error))?;
        DynamicImage::from(rgb)
    };
    image.apply_orientation(orientation(&mut decoder, format)?);
    Ok(image)
}

/// Decodes what fits the limits, and turns it as its EXIF orientation says.
fn upright(
    mut decoder: impl ImageDecoder,
    format: Format,
    limits: &Limits,
) -> Result<DynamicImage, PixelsError> {
    let (width, height) = decoder.dimensions();
    check_size(width, height, limits)?;
    let bytes_max = limits.pixels_max.saturating_mul(BYTES_PER_PIXEL_MAX);
    if bytes_max < decoder.total_bytes() {
        return Err(PixelsError::TooManyPixels {
            width,
            height,
            max: limits.pixels_max,
        });
    }
    let refused = |error| refusal(format, &error);
    // A GIF's frame may be larger than its canvas: this is what bounds it.
    let mut memory = image::Limits::no_limits();
    memory.max_alloc = Some(bytes_max);
    decoder.set_limits(memory).map_err(refused)?;
    let orientation = orientation(&mut decoder, format)?;
    let mut image = DynamicImage::from_decoder(decoder).map_err(refused)?;
    image.apply_orientation(orientation);
    Ok(image)
}

/// How the EXIF data say that an image is to be turned.
fn orientation(
    decoder: &mut impl ImageDecoder,
    format: Format,
) -> Result<Orientation, PixelsError> {
    let exif = decoder.exif_metadata();
    let exif = exif.map_err(|error| refusal(format, &error))?;
    let exif = exif.unwrap_or_default();
    // Some writers of WebP keep the prefix that EXIF has in a JPEG.
    let exif = exif.strip_prefix(b"Exif\0\0").unwrap_or(&exif);
    Ok(Orientation::from_exif_chunk(exif).unwrap_or(Orientation::NoTransforms))
}

/// Decodes a JPEG, at the scale that is enough for `geometry`.
///
/// With `libjpeg-turbo`, because that is what the reference has: no other decoder gives its pixels.
/// What it only warns of, missing data above all, is refused.
fn jpeg(
    bytes: &[u8],
    limits: &Limits,
    geometry: Option<&Geometry>,
) -> Result<Decoded, PixelsError> {
    let format = Format::Jpeg;
    let survey::Jpeg { size, exif } = survey::jpeg(bytes)?;
    if let Some((width, height)) = size {
        check_size(width, height, limits)?;
    }
    let orientation = exif.and_then(Orientation::from_exif_chunk);
    let orientation = orientation.unwrap_or(Orientation::NoTransforms);
    let refused = |error: turbojpeg::Error| PixelsError::Undecodable {
        format,
        cause: error.to_string(),
    };
    let mut decoder = turbojpeg::Decompressor::new().map_err(refused)?;
    let header = decoder.read_header(bytes).map_err(refused)?;
    let unknown = || PixelsError::Undecodable {
        format,
        cause: String::from("its size cannot be read"),
    };
    let side = |side: usize| u32::try_from(side).map_err(|_larger| unknown());
    let (width, height) = (side(header.width)?, side(header.height)?);
    check_size(width, height, limits)?;
    let (turned, mirrored) = turns(orientation);
    let size = if turned {
        (height, width)
    } else {
        (width, height)
    };
    let denominator = geometry.map_or(1, |geometry| geometry.reduction(size));
    let scale = turbojpeg::ScalingFactor::new(1, denominator as usize);
    decoder.set_scaling_factor(scale).map_err(refused)?;
    let scaled = header.scaled(scale);
    let mut image = RgbImage::new(side(scaled.width)?, side(scaled.height)?);
    let target = turbojpeg::Image {
        pixels: &mut *image,
        width: scaled.width,
        pitch: 3 * scaled.width,
        height: scaled.height,
        format: turbojpeg::PixelFormat::RGB,
    };
    decoder.decompress(bytes, target).map_err(refused)?;
    let mut image = DynamicImage::from(image);
    image.apply_orientation(orientation);
    Ok(Decoded {
        size,
        reduction: Reduction {
            denominator,
            mirrored,
        },
        // Opaque: there is nothing that a background could show through.
        ..Decoded::whole(image, [0; 3])
    })
}

/// Whether an orientation exchanges rows and columns, and whether columns and rows of the upright image
/// then run against those of the file.
fn turns(orientation: Orientation) -> (bool, (bool, bool)) {
    match orientation {
        Orientation::NoTransforms => (false, (false, false)),
        Orientation::FlipHorizontal => (false, (true, false)),
        Orientation::FlipVertical => (false, (false, true)),
        Orientation::Rotate180 => (false, (true, true)),
        Orientation::Rotate90FlipH => (true, (false, false)),
        Orientation::Rotate90 => (true, (true, false)),
        Orientation::Rotate270 => (true, (false, true)),
        Orientation::Rotate270FlipH => (true, (true, true)),
    }
}

/// The most memory that decoding may take, in bytes, by what the headers say; 0 for what will be
/// refused.
///
/// For one pixel of a JPEG: 6 bytes of coefficients where it is progressive, and twice 3 where it
/// has to be turned. For one of another format: 8 of 16-bit RGBA, and 8 where that is turned.
#[must_use]
pub fn decoding_bytes(bytes: &[u8], limits: &Limits) -> u64 {
    const JPEG: u64 = 12;
    const OTHER: u64 = 16;
    if limits.bytes_max < bytes.len() {
        return 0;
    }
    let size = || -> Option<(u32, u32, u64)> {
        let input = Cursor::new(bytes);
        let ((width, height), each) = match survey::format(bytes).ok()? {
            Format::Jpeg => (survey::jpeg(bytes).ok()?.size?, JPEG),
            Format::Png => (survey::png_size(bytes)?, OTHER),
            Format::WebP => {
                let frames = survey::webp_frames(bytes).ok()?;
                let area = |size: &(u32, u32)| u64::from(size.0) * u64::from(size.1);
                (frames.into_iter().max_by_key(area)?, OTHER)
            }
            Format::Gif => (gif::GifDecoder::new(input).ok()?.dimensions(), OTHER),
            Format::Bmp => (bmp::BmpDecoder::new(input).ok()?.dimensions(), OTHER),
        };
        Some((width, height, each))
    };
    // A decoder that panics here will do so again, and be answered for, when it decodes.
    let size = panic::catch_unwind(size).unwrap_or(None);
    size.filter(|(width, height, _)| check_size(*width, *height, limits).is_ok())
        .map_or(0, |(width, height, each)| {
            u64::from(width) * u64::from(height) * each
        })
}

pub(super) fn check_size(width: u32, height: u32, limits: &Limits) -> Result<(), PixelsError> {
    let max = limits.pixels_max;
    if max < u64::from(width) * u64::from(height) {
        return Err(PixelsError::TooManyPixels { width, height, max });
    }
    if SIDE_MAX < width.max(height) {
        return Err(PixelsError::SideTooLong {
            width,
            height,
            max: SIDE_MAX,
        });
    }
    Ok(())
}

fn refusal(format: Format, error: &ImageError) -> PixelsError {
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
            // Divides by 255, rounded, exact for every sum of this form.
            let sum = sum + 128;
            rgb.push(((sum + (sum >> 8)) >> 8) as u8);
        }
    }
    rgb
}
