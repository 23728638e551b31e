//! Decodes `WebP` files with `libwebp`, as Pillow 13 does.

use std::borrow::Cow;

use image::{DynamicImage, RgbImage, RgbaImage};
use webpx::{AnimationDecoder, ColorMode, ImageInfo};

use super::orientation::Notes;
use super::{Format, ImageLimits, PixelsError};

const FORMAT: Format = Format::WebP;

/// The content of a WebP's chunks.
#[derive(Default)]
struct WebpChunks {
    /// Width and height of each bitstream, including those in animation frames.
    bitstreams: Vec<(u32, u32)>,
    /// Width and height of the canvas, if a chunk states them.
    canvas: Option<(u32, u32)>,
    /// The flags of other chunks.
    flags: u8,
    /// Whether the opacity is in a separate chunk.
    has_opacity: bool,
    /// The end of the first chunk with pixels.
    end: Option<usize>,
    notes: Notes,
}

const ALPHA: u8 = 0x10;
const ANIMATION: u8 = 0x02;
const XMP: u8 = 0x04;
const EXIF: u8 = 0x08;

/// Decodes a WebP; for an animation, the first frame on its canvas.
pub(super) fn decode(bytes: &[u8], limits: &ImageLimits) -> Result<DynamicImage, PixelsError> {
    let chunks = WebpChunks::of(bytes)?;
    chunks.check(limits)?;
    let info = ImageInfo::from_webp(bytes).map_err(|error| damaged(&error))?;
    let size = (info.width, info.height);
    if chunks.canvas.is_some_and(|canvas| canvas != size) {
        return Err(damaged(&"it has two sizes"));
    }
    limits.check(size, chunks.cost(size))?;
    // This checks every chunk, as far as Pillow does, because a broken one may contain the orientation.
    let frames = frames(bytes)?;
    let mut image = if chunks.is_animated() {
        first_frame(frames, &info)?
    } else {
        drop(frames);
        let has_alpha = info.has_alpha && !chunks.is_opaque();
        still(&chunks.still(bytes), &info, has_alpha)?
    };
    image.apply_orientation(chunks.notes.orientation());
    Ok(image)
}

fn still(bytes: &[u8], info: &ImageInfo, has_alpha: bool) -> Result<DynamicImage, PixelsError> {
    let (width, height) = (info.width, info.height);
    if has_alpha {
        let mut rgba = RgbaImage::new(width, height);
        webpx::decode_rgba_into(bytes, &mut rgba, 4 * width).map_err(|error| damaged(&error))?;
        return Ok(DynamicImage::from(rgba));
    }
    let mut rgb = RgbImage::new(width, height);
    webpx::decode_rgb_into(bytes, &mut rgb, 3 * width).map_err(|error| damaged(&error))?;
    Ok(DynamicImage::from(rgb))
}

/// The frames of an animation, or the one of a still picture; none is decoded yet.
fn frames(bytes: &[u8]) -> Result<AnimationDecoder, PixelsError> {
    let limits = webpx::Limits::none();
    let frames = AnimationDecoder::with_options_limits(bytes, ColorMode::Rgba, false, &limits);
    frames.map_err(|error| damaged(&error))
}

/// The first frame of an animation, on a transparent canvas, or on a black one if there is no transparency.
fn first_frame(
    mut frames: AnimationDecoder,
    info: &ImageInfo,
) -> Result<DynamicImage, PixelsError> {
    let frame = frames.next_frame().map_err(|error| damaged(&error))?;
    let canvas = frame.and_then(|frame| RgbaImage::from_raw(frame.width, frame.height, frame.data));
    let canvas = canvas.ok_or_else(|| damaged(&"it has no frame"))?;
    if info.has_alpha {
        return Ok(DynamicImage::from(canvas));
    }
    let rgb = canvas.as_raw().as_chunks::<4>().0;
    let rgb = rgb
        .iter()
        .flat_map(|[red, green, blue, _]| [*red, *green, *blue]);
    let rgb = RgbImage::from_raw(canvas.width(), canvas.height(), rgb.collect());
    let rgb = rgb.ok_or_else(|| damaged(&"its rows do not fit its size"))?;
    Ok(DynamicImage::from(rgb))
}

/// The highest memory that decoding needs, in bytes, and the size; `None` if the file is refused.
pub(super) fn cost(bytes: &[u8]) -> Option<((u32, u32), u64)> {
    let chunks = WebpChunks::of(bytes).ok()?;
    let area = |size: &(u32, u32)| u64::from(size.0) * u64::from(size.1);
    let size = chunks.sizes().max_by_key(area)?;
    Some((size, chunks.cost(size)))
}

impl WebpChunks {
    fn of(bytes: &[u8]) -> Result<Self, PixelsError> {
        let truncated = PixelsError::Truncated { format: FORMAT };
        let Some(size) = bytes.get(4..8).and_then(little_endian) else {
            return Err(truncated);
        };
        if (bytes.len() as u64) < u64::from(size) + 8 {
            return Err(truncated);
        }
        let mut found = Self::default();
        let mut rest = bytes.get(12..).unwrap_or_default();
        while let Some((name, after)) = rest.split_first_chunk::<4>() {
            let Some(size) = after.get(..4).and_then(little_endian) else {
                break;
            };
            let body = after.get(4..).unwrap_or_default();
            if matches!(name, b"VP8 " | b"VP8L") {
                let begins = bytes.len() - body.len();
                let end = begins.saturating_add((size as usize).next_multiple_of(2));
                found.end = found.end.or(Some(end));
            }
            found.take(*name, body, size as usize);
            // The chunks of an animation frame follow its header of 16 bytes. They are read as if they were
            // outside of it, which is enough to find each size.
            let skip = if name == b"ANMF" {
                16
            } else {
                size as usize + (size as usize & 1)
            };
            rest = body.get(skip..).unwrap_or_default();
        }
        Ok(found)
    }

    fn take(&mut self, name: [u8; 4], body: &[u8], size: usize) {
        let data = || body.get(..size).map(<[u8]>::to_vec);
        match &name {
            b"VP8 " => {
                let size = body.get(6..10).and_then(little_endian).map(lossy_size);
                self.bitstreams.extend(size);
            }
            b"VP8L" => {
                let size = body.get(1..5).and_then(little_endian).map(lossless_size);
                self.bitstreams.extend(size);
            }
            b"VP8X" if self.canvas.is_none() => {
                self.flags = body.first().copied().unwrap_or_default();
                self.canvas = body
                    .get(4..10)
                    .and_then(<[u8]>::first_chunk)
                    .map(canvas_size);
            }
            b"ALPH" => self.has_opacity = true,
            // It counts if the header announces it, and then the first one.
            b"EXIF" if self.flags & EXIF != 0 && self.notes.exif.is_none() => {
                self.notes.exif = data();
            }
            b"XMP " if self.flags & XMP != 0 && self.notes.xmp.is_none() => {
                self.notes.xmp = data();
            }
            _ => {}
        }
    }

    /// A still picture without the data after its pixels, because the decoder would read on there for pixels
    /// that are missing in their own chunk.
    fn still<'a>(&self, bytes: &'a [u8]) -> Cow<'a, [u8]> {
        let pixels = self.end.and_then(|end| bytes.get(12..end));
        let length = pixels.and_then(|pixels| u32::try_from(pixels.len() + 4).ok());
        let Some((pixels, length)) = pixels.zip(length) else {
            return Cow::Borrowed(bytes);
        };
        Cow::Owned([b"RIFF", &length.to_le_bytes(), b"WEBP", pixels].concat())
    }

    fn is_animated(&self) -> bool {
        self.flags & ANIMATION != 0
    }

    /// Whether opacity has to be ignored because the header does not announce it.
    fn is_opaque(&self) -> bool {
        self.canvas.is_some() && self.has_opacity && self.flags & ALPHA == 0
    }

    /// Every size that the file states. A bitstream may be larger than its canvas, and is decoded before they
    /// are compared.
    fn sizes(&self) -> impl Iterator<Item = (u32, u32)> {
        self.bitstreams.iter().copied().chain(self.canvas)
    }

    fn check(&self, limits: &ImageLimits) -> Result<(), PixelsError> {
        self.sizes()
            .try_for_each(|size| limits.check(size, self.cost(size)))
    }

    /// The memory for a picture and the decoder's own copy; for an animation, for two canvases and a frame.
    fn cost(&self, (width, height): (u32, u32)) -> u64 {
        let each = if self.is_animated() { 16 } else { 8 };
        u64::from(width) * u64::from(height) * each
    }
}

fn canvas_size(&[a, b, c, d, e, f]: &[u8; 6]) -> (u32, u32) {
    let side = |bytes| u32::from_le_bytes(bytes) + 1;
    (side([a, b, c, 0]), side([d, e, f, 0]))
}

fn lossy_size(bits: u32) -> (u32, u32) {
    (bits & 0x3fff, (bits >> 16) & 0x3fff)
}

fn lossless_size(bits: u32) -> (u32, u32) {
    ((bits & 0x3fff) + 1, ((bits >> 14) & 0x3fff) + 1)
}

fn little_endian(bytes: &[u8]) -> Option<u32> {
    bytes.first_chunk().copied().map(u32::from_le_bytes)
}

fn damaged(cause: &dyn std::fmt::Display) -> PixelsError {
    PixelsError::Undecodable {
        format: FORMAT,
        cause: cause.to_string(),
    }
}
