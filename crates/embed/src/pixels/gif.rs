//! Decodes the first frame of a GIF, on its screen, as Pillow 13 does.
//!
//! It does not use `image`, which cuts a frame to its screen, and returns one black pixel if the header states
//! a screen of 0 x 0. Encoders write such files, and viewers show them.

use image::{DynamicImage, RgbImage};
use weezl::{BitOrder, decode::Configuration};

use super::{Format, ImageLimits, PixelsError};

const FORMAT: Format = Format::Gif;

/// The first frame, and its screen.
struct GifFrame<'a> {
    /// Width and height of the screen, enlarged until it contains the frame.
    screen: (u32, u32),
    /// The position of the frame on the screen, from the left and from the top.
    at: (u32, u32),
    /// Width and height of the frame.
    size: (u32, u32),
    interlaced: bool,
    /// Red, green and blue of each index, black beyond the end. Without a palette, each index is that grey
    /// level.
    palette: Option<&'a [[u8; 3]]>,
    transparent: Option<u8>,
    /// Number of bits of the smallest code.
    code_bits: u8,
    /// The blocks of codes, and everything after them.
    data: &'a [u8],
}

/// Width and height of the picture, which is the screen enlarged to contain the first frame.
pub(super) fn size(bytes: &[u8]) -> Option<(u32, u32)> {
    GifFrame::first(bytes).ok().map(|frame| frame.screen)
}

/// Decodes the first frame.
pub(super) fn decode(
    bytes: &[u8],
    limits: &ImageLimits,
    background: [u8; 3],
) -> Result<DynamicImage, PixelsError> {
    let frame = GifFrame::first(bytes)?;
    limits.check(frame.screen, decoding_bytes(frame.screen))?;
    let (width, height) = (frame.size.0 as usize, frame.size.1 as usize);
    let mut indices = vec![0; width * height];
    frame.unpack(&mut indices)?;
    let filled = frame.colour(frame.transparent.unwrap_or(0), background);
    let mut image = RgbImage::from_pixel(frame.screen.0, frame.screen.1, image::Rgb(filled));
    let rows = indices.chunks_exact(width.max(1));
    for (row, y) in rows.zip(rows_in_order(frame.size.1, frame.interlaced)) {
        let target = image.rows_mut().nth((frame.at.1 + y) as usize);
        let pixels = target.into_iter().flatten().skip(frame.at.0 as usize);
        for (pixel, &index) in pixels.zip(row) {
            pixel.0 = frame.colour(index, background);
        }
    }
    Ok(DynamicImage::from(image))
}

/// The memory that decoding needs, in bytes: an index and a colour for each pixel.
pub(super) fn decoding_bytes(screen: (u32, u32)) -> u64 {
    u64::from(screen.0) * u64::from(screen.1) * 4
}

impl<'a> GifFrame<'a> {
    /// Reads the blocks before the first frame.
    fn first(bytes: &'a [u8]) -> Result<Self, PixelsError> {
        let cut = || PixelsError::Truncated { format: FORMAT };
        let (head, mut rest) = bytes.split_at_checked(13).ok_or_else(cut)?;
        let &[.., a, b, c, d, flags, _, _] = head else {
            return Err(cut());
        };
        let side = |low, high| u32::from(u16::from_le_bytes([low, high]));
        let screen = (side(a, b), side(c, d));
        let global = palette(flags, &mut rest)?;
        let mut transparent = None;
        loop {
            let (&introducer, after) = rest.split_first().ok_or_else(cut)?;
            rest = after;
            match introducer {
                b'!' => {
                    let (&label, after) = rest.split_first().ok_or_else(cut)?;
                    rest = after;
                    transparent = extension(label, &mut rest)?.or(transparent);
                }
                b',' => {
                    let (head, after) = rest.split_first_chunk::<9>().ok_or_else(cut)?;
                    rest = after;
                    let &[a, b, c, d, e, f, g, h, flags] = head;
                    let at = (side(a, b), side(c, d));
                    let size = (side(e, f), side(g, h));
                    let local = palette(flags, &mut rest)?;
                    let (&code_bits, data) = rest.split_first().ok_or_else(cut)?;
                    if size.0 == 0 || size.1 == 0 {
                        return Err(damaged("its first frame has no pixels"));
                    }
                    return Ok(Self {
                        screen: (screen.0.max(at.0 + size.0), screen.1.max(at.1 + size.1)),
                        at,
                        size,
                        interlaced: flags & 0x40 != 0,
                        palette: one_of(local, global)?,
                        transparent,
                        code_bits,
                        data,
                    });
                }
                b';' => return Err(damaged("it has no frame")),
                // Skipped, as Pillow does.
                _ => {}
            }
        }
    }

    /// Fills the frame with palette indices.
    fn unpack(&self, indices: &mut [u8]) -> Result<(), PixelsError> {
        if !(1..=8).contains(&self.code_bits) {
            return Err(damaged("its codes have an impossible size"));
        }
        let lzw = Configuration::new(BitOrder::Lsb, self.code_bits).with_yield_on_full_buffer(true);
        let mut lzw = lzw.build();
        let (mut data, mut filled) = (self.data, 0);
        let mut block: &[u8] = &[];
        while filled < indices.len() {
            let room = indices.get_mut(filled..).unwrap_or_default();
            let done = lzw.decode_bytes(block, room);
            done.status.map_err(|error| damaged(&error.to_string()))?;
            filled += done.consumed_out;
            block = block.get(done.consumed_in..).unwrap_or_default();
            if 0 < done.consumed_in + done.consumed_out {
                continue;
            }
            // The decoder has returned everything that it had read.
            let lacks_pixels = || damaged("its first frame lacks pixels");
            if !block.is_empty() {
                return Err(lacks_pixels());
            }
            block = sub_block(&mut data).ok_or(PixelsError::Truncated { format: FORMAT })?;
            if block.is_empty() {
                return Err(lacks_pixels());
            }
        }
        Ok(())
    }

    fn colour(&self, index: u8, background: [u8; 3]) -> [u8; 3] {
        if self.transparent == Some(index) {
            return background;
        }
        self.palette.map_or([index; 3], |palette| {
            let colour = palette.get(usize::from(index));
            colour.copied().unwrap_or_default()
        })
    }
}

/// The palette that the flags announce, split off from the following bytes.
fn palette<'a>(flags: u8, rest: &mut &'a [u8]) -> Result<Option<&'a [[u8; 3]]>, PixelsError> {
    if flags & 0x80 == 0 {
        return Ok(None);
    }
    let length = 3 << ((flags & 7) + 1);
    let parts = rest.split_at_checked(length);
    let (palette, after) = parts.ok_or(PixelsError::Truncated { format: FORMAT })?;
    *rest = after;
    Ok(Some(palette.as_chunks().0))
}

/// The palette of a frame: its own, or the common one. Greys in order count as no palette.
fn one_of<'a>(
    local: Option<&'a [[u8; 3]]>,
    global: Option<&'a [[u8; 3]]>,
) -> Result<Option<&'a [[u8; 3]]>, PixelsError> {
    let is_grey = |palette: &&[[u8; 3]]| {
        let levels = (0_u8..=255).map(|level| [level; 3]);
        palette
            .iter()
            .zip(levels)
            .all(|(entry, grey)| *entry == grey)
    };
    let global = global.filter(|palette| !is_grey(palette));
    match local {
        None => Ok(global),
        Some(local) if !is_grey(&local) => Ok(Some(local)),
        Some(_) if global.is_none() => Ok(None),
        // Viewers show the greys of this palette, and Pillow shows the other colours.
        Some(_) => Err(PixelsError::UnsupportedFeature {
            format: FORMAT,
            feature: "a first frame with a palette of greys beside one of colours",
        }),
    }
}

/// Skips an extension, and returns the index that it makes transparent.
///
/// If the first block of an extension is empty, the following data are still read as its blocks, except for a
/// comment, because Pillow reads them in this way.
fn extension(label: u8, rest: &mut &[u8]) -> Result<Option<u8>, PixelsError> {
    const CONTROL: u8 = 0xf9;
    const COMMENT: u8 = 0xfe;
    let cut = || PixelsError::Truncated { format: FORMAT };
    let first = sub_block(rest).ok_or_else(cut)?;
    let mut transparent = None;
    if label == CONTROL && !first.is_empty() {
        let &[flags, _, _, index, ..] = first else {
            return Err(damaged("its graphic control is cut short"));
        };
        transparent = (flags & 1 != 0).then_some(index);
    }
    if label == COMMENT && first.is_empty() {
        return Ok(None);
    }
    while !sub_block(rest).ok_or_else(cut)?.is_empty() {}
    Ok(transparent)
}

/// The next block of at most 255 bytes, which is empty at the end; `None` if it is cut short.
fn sub_block<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (&length, after) = rest.split_first()?;
    let (block, after) = after.split_at_checked(length.into())?;
    *rest = after;
    Some(block)
}

/// The rows of a frame in the order in which they are coded.
fn rows_in_order(height: u32, interlaced: bool) -> impl Iterator<Item = u32> {
    let passes: &[(u32, usize)] = if interlaced {
        &[(0, 8), (4, 8), (2, 4), (1, 2)]
    } else {
        &[(0, 1)]
    };
    let pass = move |&(first, step): &(u32, usize)| (first..height).step_by(step);
    passes.iter().flat_map(pass)
}

fn damaged(cause: &str) -> PixelsError {
    PixelsError::Undecodable {
        format: FORMAT,
        cause: cause.to_owned(),
    }
}
