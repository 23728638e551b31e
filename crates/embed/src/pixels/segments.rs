//! Reads the segments of a JPEG, and removes what would only make its decoder warn.

use std::borrow::Cow;
use std::ops::Range;

use super::orientation::Notes;
use super::{Format, PixelsError};

const FORMAT: Format = Format::Jpeg;

/// The highest number of scans. A progressive JPEG is decoded once for each scan. Encoders write 6 to 20; a
/// legal file may have tens of thousands, and would take minutes.
const SCANS_MAX: usize = 64;

/// The text before the XMP data in their segment.
const XMP: &[u8] = b"http://ns.adobe.com/xap/1.0/\0";

/// The content of a JPEG's segments, up to its end marker. Data after it, such as the further pictures in a
/// phone's file, are not read.
#[derive(Default)]
pub(super) struct Segments {
    pub(super) frame: Option<JpegFrame>,
    pub(super) notes: Notes,
    scans: usize,
    /// For each channel and each of its 64 coefficients, the number of low bits that no scan has contained yet.
    lacking: Vec<[u8; 64]>,
    /// Whether the first scan does not have all channels.
    is_split: bool,
    /// The parts that the decoder should see, in order.
    kept: Vec<Range<usize>>,
    /// Bytes that the decoder should see with another value.
    changed: Vec<(usize, u8)>,
    /// The position of the last transform in an Adobe segment.
    transform: Option<usize>,
}

/// The frame header of a picture.
#[derive(Clone, Copy)]
pub(super) struct JpegFrame {
    /// Width and height.
    pub(super) size: (u32, u32),
    pub(super) channels: u8,
    /// The names that scans use for the channels.
    names: [u8; 4],
    is_progressive: bool,
    /// The memory for all coefficients, in bytes.
    coefficient_bytes: u64,
}

impl Segments {
    /// Reads the segments up to the end marker.
    ///
    /// The decoder silently fills the missing part of a cut file with grey, so completeness has to be checked
    /// here.
    pub(super) fn of(bytes: &[u8]) -> Result<Self, PixelsError> {
        let cut = || PixelsError::Truncated { format: FORMAT };
        let mut found = Self::default();
        let mut at = 2;
        let mut is_coded = false;
        loop {
            let next = next_marker(bytes, at, is_coded)?.ok_or_else(cut)?;
            if is_coded {
                found.keep(at..next.at);
            }
            if next.marker == 0xd9 {
                found.check_scans()?;
                found.keep(next.at..next.at + 2);
                return Ok(found.with_transform(bytes));
            }
            let body = next.at + 2;
            let length = bytes.get(body..).and_then(<[u8]>::first_chunk);
            let length = u16::from_be_bytes(*length.ok_or_else(cut)?).max(2);
            let end = body + usize::from(length);
            let data = bytes.get(body + 2..end).ok_or_else(cut)?;
            found.take(next.marker, body + 2, data)?;
            if is_for_decoder(next.marker, data) {
                found.keep(next.at..end);
            }
            is_coded = next.marker == 0xda;
            at = end;
        }
    }

    /// The highest memory that decoding needs in addition to the picture, in bytes.
    pub(super) fn coefficient_bytes(&self) -> u64 {
        self.frame.map_or(0, |frame| {
            let whole = frame.is_progressive || self.is_split;
            if whole { frame.coefficient_bytes } else { 0 }
        })
    }

    /// The number of times that all pixels are processed.
    pub(super) fn passes(&self) -> usize {
        let is_progressive = self.frame.is_some_and(|frame| frame.is_progressive);
        if is_progressive { self.scans } else { 1 }
    }

    /// The file as the decoder should see it: without bytes between segments, without segments that do not
    /// affect the pixels, and without values for which it would only warn. Any remaining warning then means a
    /// loss. Coded data are not changed.
    pub(super) fn for_decoder<'a>(&self, bytes: &'a [u8]) -> Cow<'a, [u8]> {
        if let ([only], []) = (self.kept.as_slice(), self.changed.as_slice())
            && only.start == 2
        {
            return Cow::Borrowed(bytes.get(..only.end).unwrap_or_default());
        }
        let mut file = b"\xff\xd8".to_vec();
        file.reserve(self.kept.iter().map(Range::len).sum());
        let mut changed = self.changed.clone();
        changed.sort_unstable();
        let mut changed = changed.into_iter().peekable();
        for part in &self.kept {
            let start = file.len();
            file.extend_from_slice(bytes.get(part.clone()).unwrap_or_default());
            while let Some((at, byte)) = changed.next_if(|(at, _)| *at < part.end) {
                if let Some(old) = at.checked_sub(part.start)
                    && let Some(old) = file.get_mut(start + old)
                {
                    *old = byte;
                }
            }
        }
        Cow::Owned(file)
    }

    fn keep(&mut self, part: Range<usize>) {
        match self.kept.last_mut() {
            Some(last) if last.end == part.start => last.end = part.end,
            Some(_) | None => self.kept.push(part),
        }
    }

    /// Adds a segment: its marker, the position of its data, and the data.
    fn take(&mut self, marker: u8, at: usize, data: &[u8]) -> Result<(), PixelsError> {
        match marker {
            0xc0..=0xc2 => {
                let frame = JpegFrame::of(marker, data)?;
                self.lacking = vec![[u8::MAX; 64]; frame.channels.into()];
                self.frame = Some(frame);
            }
            0xc3 => return unsupported("lossless coding (SOF3)"),
            0xc5..=0xc7 | 0xcd..=0xcf => return unsupported("hierarchical or lossless coding"),
            0xc9..=0xcb => {
                return unsupported("arithmetic coding, in which missing data cannot be noticed");
            }
            0xdc => return unsupported("its height after its pixels (DNL)"),
            0xf7 => return unsupported("the coding of JPEG-LS"),
            0xda => return self.take_scan(at, data),
            // Another major version has the same pixels.
            0xe0 if data.starts_with(b"JFIF\0") && data.get(5).is_some_and(|major| *major != 1) => {
                self.changed.push((at + 5, 1));
            }
            0xe1 if self.scans == 0 => self.take_notes(data),
            0xee if is_for_decoder(marker, data) => self.transform = Some(at + 11),
            _ => {}
        }
        Ok(())
    }

    /// EXIF data in several segments are joined; of XMP data, the last ones count.
    fn take_notes(&mut self, data: &[u8]) {
        if let Some(exif) = data.strip_prefix(b"Exif\0\0") {
            let notes = self.notes.exif.get_or_insert_default();
            notes.extend_from_slice(exif);
        } else if let Some(xmp) = data.strip_prefix(XMP) {
            self.notes.xmp = Some(xmp.to_vec());
        }
    }

    fn take_scan(&mut self, at: usize, data: &[u8]) -> Result<(), PixelsError> {
        self.scans += 1;
        if SCANS_MAX < self.scans {
            return unsupported("more than 64 progressive scans");
        }
        let (Some(frame), Some(channels)) = (self.frame, data.first()) else {
            return Ok(());
        };
        self.is_split |= *channels < frame.channels;
        let numbers = 1 + 2 * usize::from(*channels);
        let said = data.get(numbers..).and_then(<[u8]>::first_chunk);
        let mut spectrum = [0, 63, 0];
        if frame.is_progressive {
            spectrum = *said.unwrap_or(&spectrum);
        } else if let Some(said) = said {
            // Such a file only has the whole spectrum, whatever a scan states.
            let both = said.iter().zip(spectrum).enumerate();
            let other = both.filter(|(_, (said, number))| *said != number);
            let other = other.map(|(place, (_, number))| (at + numbers + place, number));
            self.changed.extend(other);
        }
        let names = data.get(1..numbers).unwrap_or_default().as_chunks::<2>().0;
        self.bring(frame, names, spectrum);
        Ok(())
    }

    /// Records the content of a scan: for these channels, a range of coefficients without their lowest bits.
    fn bring(&mut self, frame: JpegFrame, channels: &[[u8; 2]], [first, last, bits]: [u8; 3]) {
        let (first, last) = (usize::from(first), usize::from(last.min(63)));
        for (name, lacking) in frame.names.iter().zip(&mut self.lacking) {
            if channels.iter().any(|[channel, _tables]| channel == name) {
                let brought = lacking.get_mut(first..=last).unwrap_or_default();
                brought.fill(bits & 15);
            }
        }
    }

    /// Refuses a file that ends before all coefficients have come. The decoder silently makes a coarser or
    /// colourless picture of it. A scan that is cut short is found by the decoder itself.
    fn check_scans(&self) -> Result<(), PixelsError> {
        let lacks = self.lacking.iter().flatten().any(|bits| 0 < *bits);
        if 0 < self.scans && lacks {
            let cause = String::from("scans are missing at its end");
            let format = FORMAT;
            return Err(PixelsError::Undecodable { format, cause });
        }
        Ok(())
    }

    /// An unknown transform is treated as the usual one, as the decoder does.
    fn with_transform(mut self, bytes: &[u8]) -> Self {
        if let (Some(at), Some(frame)) = (self.transform, self.frame)
            && let Some(said) = bytes.get(at)
        {
            let usual = match frame.channels {
                3 => 1,
                4 => 2,
                _ => *said,
            };
            if *said != 0 && *said != usual {
                self.changed.push((at, usual));
            }
        }
        self
    }
}

/// The ends of the coded data of all scans, for a file that was prepared for the decoder.
pub(super) fn ends_of_scans(file: &[u8]) -> Vec<usize> {
    let (mut ends, mut at, mut is_coded) = (Vec::new(), 2, false);
    while let Ok(Some(next)) = next_marker(file, at, is_coded) {
        if is_coded {
            ends.push(next.at);
        }
        let length = file.get(next.at + 2..).and_then(<[u8]>::first_chunk);
        let Some(length) = length.filter(|_| next.marker != 0xd9) else {
            break;
        };
        at = next.at + 2 + usize::from(u16::from_be_bytes(*length).max(2));
        is_coded = next.marker == 0xda;
    }
    ends
}

/// Whether a segment affects the pixels. Others, such as colour profiles, do not, and the decoder would warn if
/// their numbering is wrong.
fn is_for_decoder(marker: u8, data: &[u8]) -> bool {
    match marker {
        0xe0 => data.len() >= 14 && data.starts_with(b"JFIF\0"),
        0xee => data.len() >= 12 && data.starts_with(b"Adobe"),
        0xe1..=0xef | 0xfe => false,
        _ => true,
    }
}

impl JpegFrame {
    fn of(marker: u8, data: &[u8]) -> Result<Self, PixelsError> {
        let damaged = |cause: &str| PixelsError::Undecodable {
            format: FORMAT,
            cause: cause.to_owned(),
        };
        let (head, rest) = data
            .split_first_chunk::<6>()
            .ok_or_else(|| damaged("the header of its picture is cut short"))?;
        let &[bits, high, low, wide, narrow, channels] = head;
        match bits {
            8 => {}
            12 => return unsupported("12 bits for each sample"),
            _ => return unsupported("a number of bits for each sample other than 8"),
        }
        if !matches!(channels, 1 | 3 | 4) {
            return unsupported("a number of colour channels other than 1, 3 and 4");
        }
        let height = u16::from_be_bytes([high, low]);
        let width = u16::from_be_bytes([wide, narrow]);
        if height == 0 {
            return unsupported("its height after its pixels (DNL), or none");
        }
        let each = rest.as_chunks::<3>().0.iter().take(channels.into());
        let mut names = [0; 4];
        for (name, [said, ..]) in names.iter_mut().zip(each.clone()) {
            *name = *said;
        }
        let sampling: Vec<(u64, u64)> = each
            .map(|[_, both, _]| ((both >> 4).max(1).into(), (both & 15).max(1).into()))
            .collect();
        let most = |side: fn(&(u64, u64)) -> u64| sampling.iter().map(side).max().unwrap_or(1);
        let across = u64::from(width).div_ceil(8 * most(|one| one.0));
        let down = u64::from(height).div_ceil(8 * most(|one| one.1));
        let blocks: u64 = sampling.iter().map(|one| one.0 * one.1).sum();
        Ok(Self {
            size: (width.into(), height.into()),
            channels,
            names,
            is_progressive: marker == 0xc2,
            // A block has 64 coefficients with 2 bytes each.
            coefficient_bytes: across * down * blocks * 128,
        })
    }
}

fn unsupported<T>(feature: &'static str) -> Result<T, PixelsError> {
    Err(PixelsError::UnsupportedFeature {
        format: FORMAT,
        feature,
    })
}

/// A marker, and its position.
struct NextMarker {
    marker: u8,
    at: usize,
}

/// The next marker that starts a segment or ends the file. Coded data, their restart markers and stray bytes
/// between segments are skipped. A JPEG inside them is refused, because it could be mistaken for the picture.
fn next_marker(
    bytes: &[u8],
    mut from: usize,
    is_coded: bool,
) -> Result<Option<NextMarker>, PixelsError> {
    loop {
        let rest = bytes.get(from..).unwrap_or_default();
        let Some(at) = memchr::memchr(0xff, rest).map(|at| from + at) else {
            return Ok(None);
        };
        match bytes.get(at + 1) {
            None => return Ok(None),
            // A fill byte, which may itself start the marker.
            Some(0xff) => from = at + 1,
            Some(0xd8) if !is_coded => {
                let cause = String::from("another JPEG begins before its pixels do");
                let format = FORMAT;
                return Err(PixelsError::Undecodable { format, cause });
            }
            Some(0x00 | 0x01 | 0xd0..=0xd8) => from = at + 2,
            Some(&marker) => return Ok(Some(NextMarker { marker, at })),
        }
    }
}
