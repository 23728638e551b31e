//! Untrusted bytes to bounded, upright, resized RGB pixels.
//!
//! The type is read from the bytes, and width and height from the header, before anything is
//! decoded. A file that is cut short, or that holds more than one could mean, is refused with a
//! reason; no bytes make this room panic, and none make it use more memory than [`Limits`] imply.
//!
//! What counts as the pixels of a file: the first frame of an animation; EXIF orientation applied;
//! transparency laid over a background; samples of 16 bits scaled to 8 (Pillow's `convert` clips
//! 16-bit grey instead); colour profiles ignored, as Pillow's `convert("RGB")` ignores them.

mod resize;
mod survey;
mod thumbnail;

use std::fmt;
use std::io::{Cursor, ErrorKind};
use std::panic;

use image::codecs::{bmp, gif, png, webp};
use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageError, RgbImage};

pub use thumbnail::thumbnail;

/// Default of [`Limits::bytes_max`]: 16 MiB. A 24-megapixel photograph is 5 to 12 MB as JPEG.
pub const BYTES_MAX: usize = 16 << 20;

/// Default of [`Limits::pixels_max`]: 25 million, which covers the 24 megapixels that phones take.
///
/// Decoding takes 4 to 7 bytes a pixel for photographs, and at most 16 (16-bit RGBA that has to be
/// turned): 100 to 400 MB for an image of this size, on each decoding thread.
pub const PIXELS_MAX: u64 = 25_000_000;

/// The longest side, in pixels, of an image that is read or made.
///
/// The resize works in two passes, and what stands between them is as high as the source: without
/// this limit an image of 1 x 25,000,000 would take gigabytes there.
pub const SIDE_MAX: u32 = 16_384;

/// What a PNG may inflate to in its colour profile, in bytes. Profiles of printers reach 4 MB.
const METADATA_BYTES_MAX: u64 = 8 << 20;

/// The most bytes that a decoder may hand over for one pixel: four channels of 16 bits.
const BYTES_PER_PIXEL_MAX: u64 = 8;

/// What an image may cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The longest file that is looked at, in bytes.
    pub bytes_max: usize,
    /// The largest width times height that is decoded, in pixels; the canvas for an animation.
    pub pixels_max: u64,
}

/// The types of file that can be decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Baseline and progressive, grey or colour.
    Jpeg,
    /// Every colour type and depth; of an animated PNG its default image.
    Png,
    /// Lossy, lossless, and the first frame of an animation.
    WebP,
    /// The first frame.
    Gif,
    /// Windows bitmaps.
    Bmp,
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Jpeg => "JPEG",
            Self::Png => "PNG",
            Self::WebP => "WebP",
            Self::Gif => "GIF",
            Self::Bmp => "BMP",
        })
    }
}

/// Why there are no pixels.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PixelsError {
    /// No bytes at all.
    #[error("the image is empty (0 bytes); send the bytes of an image file")]
    Empty,
    /// Refused by length, unread.
    #[error("the image has {bytes} bytes, more than the {max} allowed; send a smaller file")]
    TooManyBytes {
        /// The length sent.
        bytes: usize,
        /// [`Limits::bytes_max`].
        max: usize,
    },
    /// Not a type that is decoded here.
    #[error("this looks like {detected}; send the bytes of a JPEG, PNG, WebP, GIF or BMP file")]
    UnsupportedFormat {
        /// What the first bytes look like.
        detected: &'static str,
    },
    /// A supported type, in a variant that could only be guessed at.
    #[error(
        "this {format} file has {feature}, which is not supported; save it as a plain RGB image"
    )]
    UnsupportedFeature {
        /// The type of the file.
        format: Format,
        /// What the file uses.
        feature: &'static str,
    },
    /// Refused by its header, undecoded.
    #[error("the image is {width} x {height} pixels, more than the {max} allowed; scale it down")]
    TooManyPixels {
        /// Pixels across, as the header has it.
        width: u32,
        /// Pixels down, as the header has it.
        height: u32,
        /// [`Limits::pixels_max`].
        max: u64,
    },
    /// Refused by its header, undecoded.
    #[error("the image is {width} x {height} pixels, and no side may pass {max}; scale it down")]
    SideTooLong {
        /// Pixels across, as the header has it.
        width: u32,
        /// Pixels down, as the header has it.
        height: u32,
        /// [`SIDE_MAX`].
        max: u32,
    },
    /// The file ends too early.
    #[error("the {format} file is cut short; send it again, whole")]
    Truncated {
        /// The type of the file.
        format: Format,
    },
    /// The decoder gave up.
    #[error("the {format} file is damaged or malformed ({cause}); save it again")]
    Undecodable {
        /// The type of the file.
        format: Format,
        /// The decoder's own words.
        cause: String,
    },
    /// Not the image's fault: no such resize is possible.
    #[error("the geometry is impossible: {reason}")]
    Geometry {
        /// What is wrong, and what would be right.
        reason: String,
    },
}

/// An upright image: rows from the top, three bytes a pixel (red, green, blue), never empty.
#[derive(Clone, PartialEq, Eq)]
pub struct Pixels {
    width: u32,
    height: u32,
    rgb: Vec<u8>,
}

impl fmt::Debug for Pixels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pixels({} x {})", self.width, self.height)
    }
}

impl Pixels {
    /// Decodes an image file of a supported [`Format`]; `background` shows through transparency.
    ///
    /// # Errors
    /// Every refusal names its cause and the way out. A panic inside a decoder is one of them.
    pub fn decode(bytes: &[u8], limits: &Limits, background: [u8; 3]) -> Result<Self, PixelsError> {
        if bytes.is_empty() {
            return Err(PixelsError::Empty);
        }
        if limits.bytes_max < bytes.len() {
            let (bytes, max) = (bytes.len(), limits.bytes_max);
            return Err(PixelsError::TooManyBytes { bytes, max });
        }
        let format = survey::format(bytes)?;
        // Decoders have panicked on files that other software opens; that may cost one image.
        panic::catch_unwind(|| Self::decode_as(format, bytes, limits, background)).unwrap_or_else(
            |_| {
                let cause = String::from("the decoder panicked");
                Err(PixelsError::Undecodable { format, cause })
            },
        )
    }

    /// The number of pixels in a row, at least 1.
    #[must_use]
    pub fn width(&self) -> u32 {
        self.width
    }

    /// The number of rows, at least 1.
    #[must_use]
    pub fn height(&self) -> u32 {
        self.height
    }

    /// `3 * width * height` bytes: red, green, blue of each pixel, row by row from the top left.
    #[must_use]
    pub fn as_rgb(&self) -> &[u8] {
        &self.rgb
    }

    fn decode_as(
        format: Format,
        bytes: &[u8],
        limits: &Limits,
        background: [u8; 3],
    ) -> Result<Self, PixelsError> {
        let refused = |error| refusal(format, &error);
        let input = Cursor::new(bytes);
        let image = match format {
            Format::Jpeg => {
                let survey::Jpeg { size, exif } = survey::jpeg(bytes)?;
                if let Some((width, height)) = size {
                    check_size(width, height, limits)?;
                }
                jpeg(bytes, exif, limits)
            }
            Format::Png => {
                // The decoder would take memory for a row of it first.
                if let Some((width, height)) = survey::png_size(bytes) {
                    check_size(width, height, limits)?;
                }
                let mut metadata = image::Limits::no_limits();
                metadata.max_alloc = Some(METADATA_BYTES_MAX);
                let decoder = png::PngDecoder::with_limits(input, metadata).map_err(refused)?;
                upright(decoder, format, limits)
            }
            Format::WebP => {
                // A bitstream may be larger than its canvas, and is decoded before they are compared.
                for (width, height) in survey::webp_frames(bytes)? {
                    check_size(width, height, limits)?;
                }
                upright(
                    webp::WebPDecoder::new(input).map_err(refused)?,
                    format,
                    limits,
                )
            }
            Format::Gif => upright(
                gif::GifDecoder::new(input).map_err(refused)?,
                format,
                limits,
            ),
            Format::Bmp => upright(
                bmp::BmpDecoder::new(input).map_err(refused)?,
                format,
                limits,
            ),
        }?;
        let (width, height) = (image.width(), image.height());
        let rgb = if image.color().has_alpha() {
            lay_over(&image.into_rgba8(), background)
        } else {
            image.into_rgb8().into_raw()
        };
        Ok(Self { width, height, rgb })
    }
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
    let exif = decoder
        .exif_metadata()
        .map_err(refused)?
        .unwrap_or_default();
    // Some writers of WebP keep the prefix that EXIF has in a JPEG.
    let exif = exif.strip_prefix(b"Exif\0\0").unwrap_or(&exif);
    let orientation = Orientation::from_exif_chunk(exif).unwrap_or(Orientation::NoTransforms);
    let mut image = DynamicImage::from_decoder(decoder).map_err(refused)?;
    image.apply_orientation(orientation);
    Ok(image)
}

/// Decodes a JPEG that `survey` has walked.
///
/// With `libjpeg-turbo`, because that is what the reference has: no other decoder gives its pixels.
/// What it only warns of, missing data above all, is refused.
fn jpeg(bytes: &[u8], exif: Option<&[u8]>, limits: &Limits) -> Result<DynamicImage, PixelsError> {
    let format = Format::Jpeg;
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
    let mut image = RgbImage::new(width, height);
    let target = turbojpeg::Image {
        pixels: &mut *image,
        width: header.width,
        pitch: 3 * header.width,
        height: header.height,
        format: turbojpeg::PixelFormat::RGB,
    };
    decoder.decompress(bytes, target).map_err(refused)?;
    let mut image = DynamicImage::from(image);
    let orientation = exif.and_then(Orientation::from_exif_chunk);
    image.apply_orientation(orientation.unwrap_or(Orientation::NoTransforms));
    Ok(image)
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

fn check_size(width: u32, height: u32, limits: &Limits) -> Result<(), PixelsError> {
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

/// How an image is brought to the model's size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Pixels across of the result, 1 to [`SIDE_MAX`].
    pub width: u32,
    /// Pixels down of the result, 1 to [`SIDE_MAX`].
    pub height: u32,
    /// What happens to the aspect ratio.
    pub fit: Fit,
    /// How pixels are weighted.
    pub filter: Filter,
}

/// What happens to an aspect ratio that is not the result's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fit {
    /// Distorted: the whole image fills the result.
    Squash,
    /// Kept: scaled until the shorter side has this length, then the middle is cut out.
    Crop {
        /// In pixels; at least the result's width and height.
        short_side: u32,
    },
    /// Kept: scaled to fit inside, centred.
    Pad {
        /// Red, green, blue of the border.
        fill: [u8; 3],
    },
}

/// Pillow's filters of the same names, antialiased when an image shrinks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filter {
    /// The mean over a rectangle.
    Box,
    /// A triangle.
    Bilinear,
    /// A sharper triangle.
    Hamming,
    /// Cubic convolution with a = -0.5.
    Bicubic,
    /// A sinc windowed to three lobes.
    Lanczos,
}

/// A resizer that keeps its scratch memory from one image to the next: one per worker.
#[derive(Default)]
pub struct Resizer {
    /// The image between the two passes.
    between: Vec<u8>,
}
