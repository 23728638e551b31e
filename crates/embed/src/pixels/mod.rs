//! Turns untrusted bytes into bounded, upright and resized RGB pixels.
//!
//! The type is read from the bytes, and width and height from the header, before anything is decoded. A file
//! that is cut short or ambiguous is refused with a reason. No bytes can make this module panic, or make it use
//! more memory than [`ImageLimits`] allow.
//!
//! The pixels of a file are those of Pillow 13, upright, over a background, as RGB, with one exception
//! (16-bit grey is scaled to 8 bits, which Pillow clips). docs/models.md has the rule, and lists what is
//! refused although Pillow decodes it.

mod augment;
mod bmp;
mod contrast;
mod decode;
mod decoded;
mod file_type;
mod gif;
mod jpeg;
mod measures;
mod opencv;
mod orientation;
mod png;
mod precheck;
mod resize;
mod segments;
mod sniff;
mod strays;
mod thumbnail;
mod webp;
mod window;

use std::fmt;

pub use augment::Augmentation;
pub use decode::{decoding_bytes, is_large, stated_size};
pub use precheck::precheck;
pub use sniff::{SNIFF_BYTES, sniff};
pub use thumbnail::thumbnail;

/// Default of [`ImageLimits::bytes_max`]: 64 MiB. A photograph of 24 megapixels is 5 to 12 MB as JPEG, one of
/// 200 megapixels 30 to 60 MB.
pub const BYTES_MAX: usize = 64 << 20;

/// Default of [`ImageLimits::decode_bytes_max`]: 400 million.
///
/// A JPEG needs 3 bytes for each pixel at the scale at which it is decoded, 6 if it has to be turned, and up to
/// 6 more at full scale if it is progressive. So 200 megapixels at an eighth need 19 MB. Other formats need 3
/// to 16 bytes, the most for 16-bit RGBA that has to be turned. So 25 megapixels of any kind fit.
pub const DECODE_BYTES_MAX: u64 = 400_000_000;

/// The longest side, in pixels, of an image that is read or made.
///
/// The resize works in two passes, and the image between them is as high as the source. Without this limit, an
/// image of 1 x 25,000,000 would need gigabytes there.
pub const SIDE_MAX: u32 = 16_384;

/// The highest size in bytes to which the colour profile of a PNG may inflate. Profiles of printers have up to
/// 4 MB.
const METADATA_BYTES_MAX: u64 = 8 << 20;

/// The limits for decoding an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImageLimits {
    /// The highest length of a file, in bytes.
    pub bytes_max: usize,
    /// The highest memory for decoding one image, in bytes, judged by its headers.
    pub decode_bytes_max: u64,
}

/// The types of file that can be decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Baseline and progressive: grey, colour, CMYK.
    Jpeg,
    /// Every colour type and depth; for an animated PNG, its default image.
    Png,
    /// Lossy, lossless, and the first frame of an animation.
    WebP,
    /// The first frame.
    Gif,
    /// Windows bitmaps.
    Bmp,
}

impl Format {
    /// Its name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Jpeg => "JPEG",
            Self::Png => "PNG",
            Self::WebP => "WebP",
            Self::Gif => "GIF",
            Self::Bmp => "BMP",
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The reasons why a file gives no pixels.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PixelsError {
    /// The file is empty.
    #[error("the image is empty (0 bytes); send the bytes of an image file")]
    Empty,
    /// The file is too long, and was not read.
    #[error("the image has {bytes} bytes, more than the {max} allowed; send a smaller file")]
    TooManyBytes {
        /// The length of the file.
        bytes: usize,
        /// [`ImageLimits::bytes_max`].
        max: usize,
    },
    /// The file has a type that is not supported.
    #[error("this looks like {detected}; send the bytes of a JPEG, PNG, WebP, GIF or BMP file")]
    UnsupportedFormat {
        /// The type that the first bytes suggest.
        detected: &'static str,
    },
    /// The file has a supported type, but a variant whose pixels could only be guessed.
    #[error(
        "this {format} file has {feature}, which is not supported; save it as a plain RGB image"
    )]
    UnsupportedFeature {
        /// The type of the file.
        format: Format,
        /// The feature that the file uses.
        feature: &'static str,
    },
    /// Decoding would need too much memory according to the header, so the file was not decoded.
    #[error(
        "decoding {width} x {height} pixels would take {bytes} bytes of memory, more than the {max} allowed; scale the image down"
    )]
    TooMuchMemory {
        /// Width in pixels, according to the header.
        width: u32,
        /// Height in pixels, according to the header.
        height: u32,
        /// The memory that decoding would need, in bytes.
        bytes: u64,
        /// [`ImageLimits::decode_bytes_max`].
        max: u64,
    },
    /// A side is too long according to the header, so the file was not decoded.
    #[error("the image is {width} x {height} pixels, and no side may pass {max}; scale it down")]
    SideTooLong {
        /// Width in pixels, according to the header.
        width: u32,
        /// Height in pixels, according to the header.
        height: u32,
        /// [`SIDE_MAX`].
        max: u32,
    },
    /// Decoding all scans would take too long according to the headers, so the file was not decoded.
    #[error(
        "decoding {scans} scans of {width} x {height} pixels would take too long; save the image as a baseline JPEG, or scale it down"
    )]
    TooManyScans {
        /// Width in pixels, according to the header.
        width: u32,
        /// Height in pixels, according to the header.
        height: u32,
        /// The number of scans, each of which processes all pixels.
        scans: usize,
    },
    /// The system has no memory for the image at present, which is not the image's fault.
    #[error(
        "the server has no memory left to decode this image, which takes {bytes} bytes; come back, or have it given more"
    )]
    NoMemory {
        /// The memory that decoding would need, in bytes.
        bytes: u64,
    },
    /// The file ends too early.
    #[error("the {format} file is cut short; send it again, whole")]
    Truncated {
        /// The type of the file.
        format: Format,
    },
    /// The decoder failed.
    #[error("the {format} file is damaged or malformed ({cause}); save it again")]
    Undecodable {
        /// The type of the file.
        format: Format,
        /// The message of the decoder.
        cause: String,
    },
    /// The resize is impossible, which is not the image's fault.
    #[error("the geometry is impossible: {reason}")]
    Geometry {
        /// What is wrong, and which values are valid.
        reason: String,
    },
}

/// An upright image, row by row from the top, with three bytes for each pixel (red, green, blue); never empty.
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
}

/// How an image is brought to the model's size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Width of the result in pixels, 1 to [`SIDE_MAX`].
    pub width: u32,
    /// Height of the result in pixels, 1 to [`SIDE_MAX`].
    pub height: u32,
    /// How the aspect ratio is treated.
    pub fit: AspectFit,
    /// The filter that weights pixels.
    pub filter: ResizeFilter,
    /// The scale at which a large JPEG is decoded.
    pub jpeg: JpegScale,
    /// Conventions that differ between libraries.
    pub conventions: Conventions,
    /// Whether colours become grey before the resize, by the weights of Pillow's mode L.
    pub grey: bool,
}

/// Conventions in which libraries differ when they bring an image to the same size in the same way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Conventions {
    /// The rounding of a side that is computed from the other one; `None` for the usual: down for
    /// [`AspectFit::Crop`], and to the nearest for [`AspectFit::Pad`].
    pub side: Option<Rounding>,
    /// The rounding of half a pixel at a cut, which [`AspectFit::Crop`] and [`AspectFit::SquashCrop`] have.
    pub margin: Margin,
    /// The position of the image with [`AspectFit::Pad`].
    pub place: CanvasPosition,
}

/// How the length of a side is rounded to whole pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rounding {
    /// Down, as torchvision, timm and transformers do.
    Down,
    /// To the nearest, as `PaddlePaddle` and most letterboxes do.
    Nearest,
    /// Up, as `PaddleOCR` does for lines of text.
    Up,
}

/// How half a pixel to the left of the cut, or above it, is rounded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Margin {
    /// To the even number, as torchvision and timm do.
    #[default]
    Even,
    /// Down, as transformers and most code with `OpenCV` do.
    Down,
}

/// The position of an image on a larger canvas.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CanvasPosition {
    /// In the middle; an odd pixel is at the right or at the bottom.
    #[default]
    Centre,
    /// At the top left.
    TopLeft,
}

/// The scale at which a JPEG is decoded that is much larger than the result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JpegScale {
    /// Full scale. The result is Pillow's, to the last bit.
    Full,
    /// A half, a quarter or an eighth, as long as at least three pixels are left for each pixel of the result
    /// along both sides. The result differs by some grey levels, and takes half of the time.
    Reduced,
}

/// How an aspect ratio is treated that differs from that of the result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AspectFit {
    /// The image is distorted, and all of it fills the result.
    Squash,
    /// The image is distorted to this size, and then the middle is cut out.
    SquashCrop {
        /// Width in pixels before the cut; at least that of the result.
        width: u32,
        /// Height in pixels before the cut; at least that of the result.
        height: u32,
    },
    /// The ratio is kept: the image is scaled until its shorter side has this length, and then the middle is
    /// cut out.
    Crop {
        /// In pixels; at least the result's width and height.
        short_side: u32,
    },
    /// The ratio is kept: the image is scaled to fit inside, with a border.
    Pad {
        /// Red, green, blue of the border.
        fill: [u8; 3],
    },
}

/// Pillow's filters of the same names, antialiased when an image shrinks, and those of `OpenCV`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResizeFilter {
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
    /// As `cv2.resize` computes it for images of 8 bits.
    OpenCv(OpenCv),
}

/// `OpenCV`'s interpolations. All except the area skip pixels if an image shrinks, so they are not antialiased.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenCv {
    /// `INTER_LINEAR`: two pixels along each side.
    Linear,
    /// `INTER_CUBIC`: four pixels, with a = -0.75. It agrees within one grey level; the library's own builds
    /// differ by as much.
    Cubic,
    /// `INTER_LANCZOS4`: eight pixels.
    Lanczos4,
    /// `INTER_AREA`: the mean over a rectangle if an image shrinks along both sides.
    Area,
}

/// A picture at the size that a model takes.
#[derive(Debug)]
pub struct Resized {
    /// Its pixels.
    pub pixels: Pixels,
    /// The [`Pixels::contrast`] of the picture, without a border that was added.
    pub contrast: u8,
    /// Its measures, without such a border.
    pub measures: ImageMeasures,
}

/// Measures of a picture that do not depend on what it shows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ImageMeasures {
    /// The type of its file.
    pub format: Format,
    /// The length of the longer side in pixels, as the picture was sent.
    pub longest_side: u32,
    /// The mean level of its channels at the model's size, 0 to 255.
    pub brightness: f64,
    /// The squared contrast of neighbouring pixels divided by that of pixels four apart, at the model's size;
    /// at least 0.
    pub sharpness: f64,
}

/// A resizer that reuses its working memory for the next image; each worker has one.
#[derive(Default)]
pub struct Resizer {
    /// The image between the two passes.
    between: Vec<u8>,
}
