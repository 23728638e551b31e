//! Reads the orientation of a file's pixels exactly as Pillow 13's `exif_transpose` does.

use std::collections::BTreeSet;

use image::metadata::Orientation;

/// The tag of the orientation.
const TAG: u16 = 0x0112;

/// The metadata of a file about its picture.
#[derive(Default)]
pub(super) struct Notes {
    /// The EXIF data, with or without the prefix that they have in a JPEG.
    pub(super) exif: Option<Vec<u8>>,
    /// The XMP data, which count if EXIF has no orientation.
    pub(super) xmp: Option<Vec<u8>>,
}

impl Notes {
    /// How the pixels have to be turned.
    pub(super) fn orientation(&self) -> Orientation {
        let exif = self
            .exif
            .as_deref()
            .map_or(b"".as_slice(), without_prefixes);
        let xmp = || self.xmp.as_deref().and_then(xmp_value).map(f64::from);
        let value = match ExifByteOrder::of(exif) {
            Some(order) => exif_value(exif, order).or_else(xmp),
            None if exif.is_empty() => xmp(),
            // The data are broken at their start, and Pillow looks no further.
            None => None,
        };
        // Only exact values count; one between two orientations is none.
        let is = |number: &u8| value == Some(f64::from(*number));
        let number = (2..=8).find(is).unwrap_or(1);
        Orientation::from_exif(number).unwrap_or(Orientation::NoTransforms)
    }
}

/// EXIF data without the prefix that they have in a JPEG. Some programs write it twice, and some in other
/// formats.
fn without_prefixes(exif: &[u8]) -> &[u8] {
    const PREFIX: &[u8] = b"Exif\0\0";
    let once = exif.strip_prefix(PREFIX).unwrap_or(exif);
    once.strip_prefix(PREFIX).unwrap_or(once)
}

/// The orientation in EXIF data; NaN if it exists but has a type that is not a number.
fn exif_value(tiff: &[u8], order: ExifByteOrder) -> Option<f64> {
    let mut said: usize = 0;
    let mut at = usize::try_from(order.u32(tiff.get(4..)?)?).ok()?;
    let count = order.u16(tiff.get(at..)?)?;
    at += 2;
    let mut seen = BTreeSet::new();
    for _ in 0..count {
        let entry = tiff.get(at..at + 12)?;
        at += 12;
        let (tag, kind) = (order.u16(entry)?, order.u16(entry.get(2..)?)?);
        let Some(bytes) = bytes_of(kind).filter(|_| !seen.contains(&tag)) else {
            continue;
        };
        let size = usize::try_from(order.u32(entry.get(4..)?)?).ok()?;
        let size = size.saturating_mul(bytes);
        let data = if size <= 4 {
            entry.get(8..8 + size)?
        } else {
            // Once entries claim more data than there can be, no further entry is trusted.
            said = said.saturating_add(size);
            if tiff.len() < said {
                continue;
            }
            let offset = usize::try_from(order.u32(entry.get(8..)?)?).ok()?;
            tiff.get(offset..)?.get(..size)?
        };
        if data.is_empty() {
            continue;
        }
        if tag == TAG {
            return Some(order.number(kind, data).unwrap_or(f64::NAN));
        }
        seen.insert(tag);
    }
    None
}

/// The number of bytes of one value of a type; `None` for an unknown type.
fn bytes_of(kind: u16) -> Option<usize> {
    match kind {
        1 | 2 | 6 | 7 => Some(1),
        3 | 8 => Some(2),
        4 | 9 | 11 | 13 => Some(4),
        5 | 10 | 12 | 16 => Some(8),
        _ => None,
    }
}

/// The byte order of EXIF data.
#[derive(Clone, Copy)]
enum ExifByteOrder {
    Big,
    Little,
}

impl ExifByteOrder {
    /// The order that the header states; `None` if the header is broken.
    fn of(tiff: &[u8]) -> Option<Self> {
        match tiff.first_chunk::<8>()? {
            // In each pair, the second has the number in the other byte order.
            [b'M', b'M', 0, b'*' | b'+', ..] | [b'M', b'M', b'*', 0, ..] => Some(Self::Big),
            [b'I', b'I', b'*', 0, ..] | [b'I', b'I', 0, b'*', ..] => Some(Self::Little),
            _ => None,
        }
    }

    fn bytes<const N: usize>(self, data: &[u8]) -> Option<[u8; N]> {
        let mut bytes = *data.first_chunk::<N>()?;
        if let Self::Big = self {
            bytes.reverse();
        }
        Some(bytes)
    }

    fn u16(self, data: &[u8]) -> Option<u16> {
        self.bytes(data).map(u16::from_le_bytes)
    }

    fn u32(self, data: &[u8]) -> Option<u32> {
        self.bytes(data).map(u32::from_le_bytes)
    }

    fn i32(self, data: &[u8]) -> Option<i32> {
        self.bytes(data).map(i32::from_le_bytes)
    }

    /// The first value, if it has a numeric type. Pillow does not count BYTE as one.
    fn number(self, kind: u16, data: &[u8]) -> Option<f64> {
        let after = data.get(4..).unwrap_or_default();
        match kind {
            3 => self.u16(data).map(f64::from),
            4 | 13 => self.u32(data).map(f64::from),
            5 => Some(f64::from(self.u32(data)?) / f64::from(self.u32(after)?)),
            6 => self.bytes(data).map(i8::from_le_bytes).map(f64::from),
            8 => self.bytes(data).map(i16::from_le_bytes).map(f64::from),
            9 => self.i32(data).map(f64::from),
            10 => Some(f64::from(self.i32(data)?) / f64::from(self.i32(after)?)),
            11 => self.bytes(data).map(f32::from_le_bytes).map(f64::from),
            12 => self.bytes(data).map(f64::from_le_bytes),
            16 => {
                let value = self.bytes(data).map(u64::from_le_bytes)?;
                u32::try_from(value).ok().map(f64::from)
            }
            _ => None,
        }
    }
}

/// The orientation in XMP data, which is written as an attribute or as an element.
fn xmp_value(xmp: &[u8]) -> Option<u8> {
    const NAME: &[u8] = b"tiff:Orientation";
    let ends = memchr::memmem::find_iter(xmp, NAME).map(|at| at + NAME.len());
    ends.filter_map(|end| xmp.get(end..))
        .find_map(|rest| {
            let rest = rest
                .strip_prefix(b"=\"")
                .or_else(|| rest.strip_prefix(b">"));
            rest?.first().filter(|byte| byte.is_ascii_digit()).copied()
        })
        .map(|digit| digit - b'0')
}

#[cfg(test)]
mod tests {
    use super::*;

    /// EXIF data with one entry.
    fn exif(order: ExifByteOrder, kind: u16, count: u32, data: &[u8]) -> Notes {
        let ordered = |little: &[u8]| -> Vec<u8> {
            match order {
                ExifByteOrder::Big => little.iter().rev().copied().collect(),
                ExifByteOrder::Little => little.to_vec(),
            }
        };
        let start: &[u8] = match order {
            ExifByteOrder::Big => b"MM\0*\0\0\0\x08\0\x01\x01\x12",
            ExifByteOrder::Little => b"II*\0\x08\0\0\0\x01\0\x12\x01",
        };
        let mut value = ordered(data);
        value.resize(4.max(value.len()), 0);
        let (place, later) = if value.len() == 4 {
            (value, Vec::new())
        } else {
            (ordered(&26_u32.to_le_bytes()), value)
        };
        let entry = [ordered(&kind.to_le_bytes()), ordered(&count.to_le_bytes())];
        let exif = [start, &entry.concat(), &place, &[0; 4], &later].concat();
        Notes {
            exif: Some(exif),
            xmp: None,
        }
    }

    #[test]
    fn an_orientation_is_read_in_every_type_of_numbers_and_both_orders() {
        let turned = Orientation::Rotate90;
        for order in [ExifByteOrder::Big, ExifByteOrder::Little] {
            for (kind, data) in [
                (3, &6_u16.to_le_bytes()[..]),
                (4, &6_u32.to_le_bytes()),
                (6, &[6]),
                (8, &6_i16.to_le_bytes()),
                (9, &6_i32.to_le_bytes()),
                (11, &6_f32.to_le_bytes()),
                (12, &6_f64.to_le_bytes()),
                (13, &6_u32.to_le_bytes()),
                (16, &6_u64.to_le_bytes()),
            ] {
                assert_eq!(exif(order, kind, 1, data).orientation(), turned, "{kind}");
            }
            for (kind, data) in [(1, &[6][..]), (2, b"6"), (7, &[6]), (99, &[6])] {
                let found = exif(order, kind, 1, data).orientation();
                assert_eq!(found, Orientation::NoTransforms, "{kind}");
            }
        }
    }

    #[test]
    fn a_fraction_counts_where_it_is_a_whole_orientation() {
        let fraction = |over: u32, under: u32| {
            let bytes = [over.to_le_bytes(), under.to_le_bytes()].concat();
            exif(ExifByteOrder::Little, 5, 1, &bytes).orientation()
        };
        assert_eq!(fraction(12, 2), Orientation::Rotate90);
        assert_eq!(fraction(13, 2), Orientation::NoTransforms);
        assert_eq!(fraction(6, 0), Orientation::NoTransforms);
    }

    #[test]
    fn xmp_counts_only_where_exif_has_no_orientation() {
        let xmp = |text: &str| Notes {
            exif: None,
            xmp: Some(text.as_bytes().to_vec()),
        };
        for text in [
            "tiff:Orientation=\"3\"",
            "tiff:Orientation x <tiff:Orientation>3</tiff:Orientation>",
        ] {
            assert_eq!(xmp(text).orientation(), Orientation::Rotate180);
        }
        assert_eq!(
            xmp("tiff:Orientation='3'").orientation(),
            Orientation::NoTransforms
        );
        let mut both = exif(ExifByteOrder::Big, 3, 1, &1_u16.to_le_bytes());
        both.xmp = xmp("tiff:Orientation=\"3\"").xmp;
        assert_eq!(both.orientation(), Orientation::NoTransforms);
        both.exif = Some(b"MM\0*\0\0\0\x08\0\0".to_vec());
        assert_eq!(both.orientation(), Orientation::Rotate180);
    }

    #[test]
    fn broken_exif_says_nothing() {
        let whole = exif(ExifByteOrder::Little, 12, 1, &6_f64.to_le_bytes());
        let whole = whole.exif.unwrap();
        for length in 0..whole.len() {
            let cut = Notes {
                exif: Some(whole[..length].to_vec()),
                xmp: None,
            };
            assert_eq!(cut.orientation(), Orientation::NoTransforms, "{length}");
        }
    }
}
