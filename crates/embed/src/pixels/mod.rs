//! Untrusted bytes to bounded, upright, resized RGB pixels.
//!
//! The type is read from the bytes, and width and height from the header, before anything is
//! decoded. A file that is cut short, or that holds more than one could mean, is refused with a
//! reason; no bytes make this room panic, and none make it use more memory than [`ImageLimits`] imply.
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
/// A JPEG takes 3 bytes a pixel at the scale that it is decoded at, 6 if it has to be turned, and up
/// to 6 more at full scale if it is progressive: 200 megapixels at an eighth take 19 MB. Other
/// formats take 3 to 16, the most for 16-bit RGBA that has to be turned: 25 megapixels of any kind fit.
pub const DECODE_BYTES_MAX: u64 = 400_000_000;

/// The longest side, in pixels, of an image that is read or made.
///
/// The resize works in two passes, and what stands between them is as high as the source: without
/// this limit an image of 1 x 25,000,000 would take gigabytes there.
pub const SIDE_MAX: u32 = 16_384;

/// What a PNG may inflate to in its colour profile, in bytes. Profiles of printers reach 4 MB.
const METADATA_BYTES_MAX: u64 = 8 << 20;

/// What an image may cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImageLimits {
    /// The longest file that is looked at, in bytes.
    pub bytes_max: usize,
    /// The most memory that decoding one image may take, in bytes, by what its headers say.
    pub decode_bytes_max: u64,
}

/// The types of file that can be decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Baseline and progressive: grey, colour, CMYK.
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
        /// [`ImageLimits::bytes_max`].
        max: usize,
    },
    /// Not a type that is decoded here.
    #[error("this looks like {detected}; send the bytes of a JPEG, PNG, WebP, GIF or BMP file")]
    UnsupportedFormat {
        /// What the first bytes look like.
        detected: &'static str,
    },
    /// A supported type, in a variant whose pixels could only be guessed.
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
    #[error(
        "decoding {width} x {height} pixels would take {bytes} bytes of memory, more than the {max} allowed; scale the image down"
    )]
    TooMuchMemory {
        /// Pixels across, as the header has it.
        width: u32,
        /// Pixels down, as the header has it.
        height: u32,
        /// What decoding would take, in bytes.
        bytes: u64,
        /// [`ImageLimits::decode_bytes_max`].
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
    /// Refused by its headers, undecoded.
    #[error(
        "decoding {scans} scans of {width} x {height} pixels would take too long; save the image as a baseline JPEG, or scale it down"
    )]
    TooManyScans {
        /// Pixels across, as the header has it.
        width: u32,
        /// Pixels down, as the header has it.
        height: u32,
        /// How often all pixels are processed.
        scans: usize,
    },
    /// Not the image's fault: the system has no memory for it now.
    #[error(
        "the server has no memory left to decode this image, which takes {bytes} bytes; come back, or have it given more"
    )]
    NoMemory {
        /// What decoding would take, in bytes.
        bytes: u64,
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
    /// Pixels across of the result, 1 to [`SIDE_MAX`].
    pub width: u32,
    /// Pixels down of the result, 1 to [`SIDE_MAX`].
    pub height: u32,
    /// What happens to the aspect ratio.
    pub fit: AspectFit,
    /// How pixels are weighted.
    pub filter: ResizeFilter,
    /// At what scale a large JPEG is decoded.
    pub jpeg: JpegScale,
    /// What libraries do differently.
    pub conventions: Conventions,
    /// Whether colours become grey before the resize, by the weights of Pillow's mode L.
    pub grey: bool,
}

/// What libraries do differently when they bring an image to the same size in the same way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Conventions {
    /// How a side is rounded that follows from the other; `None` for the usual: down for
    /// [`AspectFit::Crop`], to the nearest for [`AspectFit::Pad`].
    pub side: Option<Rounding>,
    /// How half a pixel at the cut is rounded; [`AspectFit::Crop`] and [`AspectFit::SquashCrop`] have a cut.
    pub margin: Margin,
    /// Where [`AspectFit::Pad`] puts the image.
    pub place: CanvasPosition,
}

/// How the length of a side becomes a whole number of pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rounding {
    /// Down, as torchvision, timm and transformers do.
    Down,
    /// To the nearest, as `PaddlePaddle` and most letterboxes do.
    Nearest,
    /// Up, as `PaddleOCR` does for lines of text.
    Up,
}

/// How half a pixel left of the cut, or above it, is rounded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Margin {
    /// To the even number, as torchvision and timm do.
    #[default]
    Even,
    /// Down, as transformers and most code with `OpenCV` do.
    Down,
}

/// Where an image stands on a canvas that is larger.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CanvasPosition {
    /// In the middle; an odd pixel is right or below.
    #[default]
    Centre,
    /// At the top left.
    TopLeft,
}

/// At what scale a JPEG is decoded that is much larger than the result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JpegScale {
    /// Its own: the result is Pillow's, to the last bit.
    Full,
    /// A half, a quarter or an eighth, as long as three pixels or more are left for each of the result
    /// along both sides: some grey levels away, in half of the time.
    Reduced,
}

/// What happens to an aspect ratio that is not the result's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AspectFit {
    /// Distorted: the whole image fills the result.
    Squash,
    /// Distorted to this size, then the middle is cut out.
    SquashCrop {
        /// Pixels across before the cut; at least the result's.
        width: u32,
        /// Pixels down before the cut; at least the result's.
        height: u32,
    },
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

/// `OpenCV`'s interpolations. All but the area skip pixels if an image shrinks: they are not
/// antialiased.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenCv {
    /// `INTER_LINEAR`: two pixels along each side.
    Linear,
    /// `INTER_CUBIC`: four, with a = -0.75. Within one grey level: the library's own builds differ
    /// by as much.
    Cubic,
    /// `INTER_LANCZOS4`: eight.
    Lanczos4,
    /// `INTER_AREA`: the mean over a rectangle if an image shrinks along both sides.
    Area,
}

/// A picture at a model's size.
#[derive(Debug)]
pub struct Resized {
    /// Its pixels.
    pub pixels: Pixels,
    /// Their [`Pixels::contrast`], without a border that the fit added.
    pub contrast: u8,
    /// What it is like, likewise.
    pub measures: ImageMeasures,
}

/// What a picture is like, apart from what it shows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ImageMeasures {
    /// The type of its file.
    pub format: Format,
    /// Pixels of its longer side, as it was sent.
    pub longest_side: u32,
    /// Mean level of its channels at the model's size, 0 to 255.
    pub brightness: f64,
    /// Squared contrast of neighbouring pixels by that of pixels four apart, at the model's size; at least 0.
    pub sharpness: f64,
}

/// A resizer that keeps its scratch memory from one image to the next: one per worker.
#[derive(Default)]
pub struct Resizer {
    /// The image between the two passes.
    between: Vec<u8>,
}
