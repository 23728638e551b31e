//! The file format of an index: a header, and sections that start at multiples of 64 bytes.
//!
//! All numbers are little-endian. The header contains the length and the SHA-256 of each section, and ends with
//! the SHA-256 of its own preceding bytes. Bytes between sections are zero. The whole file is checked before it
//! is used: first every digest, then every number that is used as a position. So even a file that was forged
//! with correct digests cannot lead outside its sections.

use std::ops::Range;

use rayon::iter::{IntoParallelRefIterator, ParallelIterator};
use rayon::slice::ParallelSlice;
use sha2::{Digest, Sha256};

use crate::index::bits::Bits;
use crate::index::breadth::{BREADTH_MAX, SearchBreadth};
use crate::index::build::BuildParams;
use crate::index::codes::{DIMENSION_MAX, ROWS_MAX, stride};
use crate::index::duplicates::{GROUP, group_numbers};
use crate::index::error::IndexError;
use crate::index::links::{LevelSizes, NO_LINK, UPPER_LEVELS_MAX, upper_bytes};
use matchpoint_vector::kernels::codes::CodeWidth;

const MAGIC: [u8; 8] = *b"MPINDEX\0";
/// The only version of the format that is read and written.
const FORMAT: u32 = 2;
/// The position of the width of the codes in the header, and its values.
const WIDTH: usize = 12;
const EIGHT: u32 = 0;
const SIXTEEN: u32 = 16;
/// Sections start at multiples of this.
const ALIGN: usize = 64;
const NUMBER: usize = size_of::<u32>();
/// The sections: codes, links of the lowest level, links above it, rows above it, groups of duplicates,
/// duplicates.
const SECTIONS: usize = 6;
/// The position of the sections' digests in the header.
const DIGESTS: usize = 192;
/// The position of the header's digest, which covers all bytes before it.
const HEADER_DIGEST: usize = DIGESTS + SECTIONS * 32;
/// The position of the first section.
const HEADER: usize = (HEADER_DIGEST + 32).next_multiple_of(ALIGN);
/// A code that no kernel has to support, for each width.
const NO_CODE: u8 = 0x80;
const NO_WIDE_CODE: [u8; 2] = i16::MIN.to_le_bytes();

/// The content of the header.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct IndexHeader {
    pub(super) dimension: usize,
    pub(super) rows: usize,
    pub(super) width: CodeWidth,
    pub(super) params: BuildParams,
    pub(super) sizes: LevelSizes,
    pub(super) fingerprint: [u8; 32],
    pub(super) breadth: SearchBreadth,
    /// Computed from the parts when they are written.
    pub(super) groups: usize,
    pub(super) duplicates: usize,
}

/// The sections, in the order of the file.
pub(super) struct Sections<T> {
    pub(super) codes: T,
    pub(super) bottom: T,
    pub(super) upper: T,
    pub(super) upper_rows: T,
    pub(super) groups: T,
    pub(super) duplicates: T,
}

impl<T> Sections<T> {
    fn from_array([codes, bottom, upper, upper_rows, groups, duplicates]: [T; SECTIONS]) -> Self {
        Self {
            codes,
            bottom,
            upper,
            upper_rows,
            groups,
            duplicates,
        }
    }
}

/// The positions of the sections, which depend only on the counts in the header.
#[derive(Clone, Debug)]
pub(super) struct IndexLayout {
    ranges: [Range<usize>; SECTIONS],
}

impl IndexLayout {
    /// The layout for a header with possible counts. If it is too long to be addressed, it ends at the highest
    /// number, where no file ends.
    fn of(header: &IndexHeader) -> Self {
        let above = header.sizes.first().map_or(0, |&nodes| nodes as usize);
        let lengths = [
            (header.rows).saturating_mul(stride(header.dimension, header.width)),
            header.rows.saturating_mul(2 * header.params.m * NUMBER),
            upper_bytes(&header.sizes, header.params.m),
            above.saturating_mul(NUMBER),
            header.groups.saturating_mul(GROUP),
            header.duplicates.saturating_mul(NUMBER),
        ];
        let mut end = HEADER;
        let mut ranges = [const { 0..0 }; SECTIONS];
        for (range, length) in ranges.iter_mut().zip(lengths) {
            let start = end.checked_next_multiple_of(ALIGN).unwrap_or(usize::MAX);
            end = start.saturating_add(length);
            *range = start..end;
        }
        Self { ranges }
    }

    fn end(&self) -> usize {
        self.ranges.last().map_or(0, |range| range.end)
    }

    /// The sections of a file of this layout.
    pub(super) fn sections<'a>(&self, bytes: &'a [u8]) -> Sections<&'a [u8]> {
        let section = |range: &Range<usize>| bytes.get(range.clone()).unwrap_or_default();
        Sections::from_array(self.ranges.each_ref().map(section))
    }
}

/// An owned buffer whose first byte is at a multiple of 64.
pub(super) struct Aligned {
    buffer: Vec<u8>,
    start: usize,
    length: usize,
}

impl Aligned {
    fn zeros(length: usize) -> Self {
        let buffer = vec![0; length + ALIGN];
        let start = buffer.as_ptr().align_offset(ALIGN).min(ALIGN);
        Self {
            buffer,
            start,
            length,
        }
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        let end = self.start + self.length;
        self.buffer.get_mut(self.start..end).unwrap_or_default()
    }
}

impl AsRef<[u8]> for Aligned {
    fn as_ref(&self) -> &[u8] {
        let range = self.start..self.start + self.length;
        self.buffer.get(range).unwrap_or_default()
    }
}

/// Writes a file with these parts. The header's counts of duplicates are computed from the parts.
pub(super) fn write(
    mut header: IndexHeader,
    parts: &Sections<Vec<u8>>,
) -> (IndexHeader, IndexLayout, Aligned) {
    header.groups = parts.groups.len() / GROUP;
    header.duplicates = parts.duplicates.len() / NUMBER;
    let layout = IndexLayout::of(&header);
    let parts = [
        &parts.codes,
        &parts.bottom,
        &parts.upper,
        &parts.upper_rows,
        &parts.groups,
        &parts.duplicates,
    ];
    let digests = parts.map(Vec::as_slice);
    let digests: Vec<[u8; 32]> = digests.par_iter().map(|part| sha256(part)).collect();
    let mut file = Aligned::zeros(layout.end());
    let bytes = file.bytes_mut();
    for (range, part) in layout.ranges.iter().zip(parts) {
        if let Some(room) = bytes.get_mut(range.clone()) {
            room.copy_from_slice(part);
        }
    }
    let mut first = header.to_bytes();
    first.extend(digests.iter().flatten());
    first.extend(sha256(&first));
    if let Some(room) = bytes.get_mut(..first.len()) {
        room.copy_from_slice(&first);
    }
    (header, layout, file)
}

impl IndexHeader {
    /// The header without its digests.
    fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEADER);
        bytes.extend(MAGIC);
        bytes.extend(FORMAT.to_le_bytes());
        let width = match self.width {
            CodeWidth::Eight => EIGHT,
            CodeWidth::Sixteen => SIXTEEN,
        };
        bytes.extend(width.to_le_bytes());
        let numbers = [
            self.dimension,
            self.rows,
            self.params.m,
            self.params.ef_construction,
            self.groups,
            self.duplicates,
        ];
        for number in numbers {
            bytes.extend((number as u64).to_le_bytes());
        }
        bytes.extend(self.params.seed.to_le_bytes());
        bytes.extend(self.sizes.iter().flat_map(|size| size.to_le_bytes()));
        bytes.extend(self.fingerprint);
        let SearchBreadth {
            ef,
            searches,
            missed,
        } = self.breadth;
        bytes.extend([ef, searches, missed].map(u32::to_le_bytes).as_flattened());
        bytes.resize(DIGESTS, 0);
        bytes
    }

    /// Reads what [`Self::to_bytes`] wrote; the header's digest was checked before.
    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (width, mut rest) = bytes.get(WIDTH..)?.split_first_chunk()?;
        let width = match u32::from_le_bytes(*width) {
            EIGHT => CodeWidth::Eight,
            SIXTEEN => CodeWidth::Sixteen,
            _ => return None,
        };
        let mut number = || {
            let (first, after) = rest.split_first_chunk::<8>()?;
            rest = after;
            Some(u64::from_le_bytes(*first))
        };
        let mut count = || usize::try_from(number()?).ok();
        let [dimension, rows, m, ef_construction, groups, duplicates] =
            [count()?, count()?, count()?, count()?, count()?, count()?];
        let seed = number()?;
        let (sizes, rest) = rest.split_first_chunk::<{ UPPER_LEVELS_MAX * NUMBER }>()?;
        let (fingerprint, rest) = rest.split_first_chunk::<32>()?;
        let mut breadth = numbers(rest);
        let mut header = Self {
            dimension,
            rows,
            width,
            params: BuildParams {
                m,
                ef_construction,
                seed,
            },
            sizes: [0; UPPER_LEVELS_MAX],
            fingerprint: *fingerprint,
            breadth: SearchBreadth {
                ef: breadth.next()?,
                searches: breadth.next()?,
                missed: breadth.next()?,
            },
            groups,
            duplicates,
        };
        for (size, stored) in header.sizes.iter_mut().zip(numbers(sizes)) {
            *size = stored;
        }
        Some(header)
    }

    /// Whether an index can have these counts.
    fn is_possible(&self) -> bool {
        let mut sizes = self.sizes.iter();
        let descending = self.sizes.is_sorted_by(|below, above| above <= below);
        (1..=DIMENSION_MAX).contains(&self.dimension)
            && self.rows <= ROWS_MAX
            && self.params.check().is_ok()
            && self.groups <= self.duplicates
            && self.duplicates <= self.rows
            && self.breadth.ef <= BREADTH_MAX
            && self.breadth.missed <= self.breadth.searches
            && descending
            && sizes.next().is_some_and(|&nodes| {
                nodes as usize <= self.rows && (nodes == 0) == (self.rows == 0)
            })
    }
}

/// Checks a whole file.
pub(super) fn read(bytes: &[u8]) -> Result<(IndexHeader, IndexLayout), IndexError> {
    if !bytes.starts_with(&MAGIC) {
        return Err(IndexError::NotAnIndex);
    }
    let damaged = |offset, what| IndexError::Damaged { offset, what };
    let short = || damaged(bytes.len(), "the file ends in its head");
    let first = bytes.get(..HEADER).ok_or_else(short)?;
    if let Some(found) = numbers(first).nth(MAGIC.len() / NUMBER)
        && found != FORMAT
    {
        return Err(IndexError::Format {
            found,
            readable: FORMAT,
        });
    }
    let (described, digest) = first.split_at(HEADER_DIGEST);
    if !digest.starts_with(&sha256(described)) {
        return Err(damaged(0, "the head does not have its SHA-256"));
    }
    let header = IndexHeader::from_bytes(first).ok_or_else(short)?;
    if !header.is_possible() {
        return Err(damaged(16, "the head has impossible numbers"));
    }
    let layout = IndexLayout::of(&header);
    if header.to_bytes().as_slice() != first.get(..DIGESTS).unwrap_or_default() {
        return Err(damaged(0, "the head has bytes that mean nothing"));
    }
    if layout.end() != bytes.len() {
        let offset = layout.end().min(bytes.len());
        return Err(damaged(offset, "the file does not end where its head says"));
    }
    check_digests(bytes, &layout, first)?;
    check_padding(bytes, &layout)?;
    check_content(&header, &layout, bytes)?;
    Ok((header, layout))
}

fn check_digests(bytes: &[u8], layout: &IndexLayout, header: &[u8]) -> Result<(), IndexError> {
    let (digests, _) = header.get(DIGESTS..).unwrap_or_default().as_chunks::<32>();
    let sections: Vec<_> = layout.ranges.iter().zip(digests).collect();
    let wrong = sections.par_iter().find_map_first(|(range, digest)| {
        let section = bytes.get((*range).clone())?;
        (sha256(section) != **digest).then_some(range.start)
    });
    wrong.map_or(Ok(()), |offset| {
        let what = "the section that begins there does not have its SHA-256";
        Err(IndexError::Damaged { offset, what })
    })
}

fn check_padding(bytes: &[u8], layout: &IndexLayout) -> Result<(), IndexError> {
    let mut end = HEADER_DIGEST + 32;
    for range in &layout.ranges {
        let gap = bytes.get(end..range.start).unwrap_or_default();
        if gap.iter().any(|&byte| byte != 0) {
            return Err(IndexError::Damaged {
                offset: end,
                what: "the bytes between two sections are not zero",
            });
        }
        end = range.end;
    }
    Ok(())
}

/// Checks every number that is used as a position, and that every row occurs exactly once.
fn check_content(
    header: &IndexHeader,
    layout: &IndexLayout,
    bytes: &[u8],
) -> Result<(), IndexError> {
    let sections = layout.sections(bytes);
    let checks = [
        are_codes(sections.codes, header.width),
        are_links(sections.bottom, 2 * header.params.m, header.rows),
        are_upper_links(sections.upper, header),
        are_below(sections.upper_rows, header.rows),
        are_groups(sections.groups, header),
        are_duplicates(&sections, header),
    ];
    let what = [
        "a code is the least number of its width, which none is",
        "a link of the lowest level leads nowhere",
        "a link above the lowest level leads nowhere",
        "a node above the lowest level is no row",
        "the groups of equal rows are out of order",
        "a row has two places among equal rows, or none in the graph",
    ];
    for ((range, right), what) in layout.ranges.iter().zip(checks).zip(what) {
        if !right {
            let offset = range.start;
            return Err(IndexError::Damaged { offset, what });
        }
    }
    Ok(())
}

fn are_codes(codes: &[u8], width: CodeWidth) -> bool {
    codes.par_chunks(1 << 20).all(|part| match width {
        CodeWidth::Eight => !part.contains(&NO_CODE),
        CodeWidth::Sixteen => !part.as_chunks().0.contains(&NO_WIDE_CODE),
    })
}

/// Whether all links are below `nodes`, and no link follows the end of a node's links.
fn are_links(links: &[u8], width: usize, nodes: usize) -> bool {
    links.par_chunks(width * NUMBER).all(|links| {
        let mut rest = numbers(links).skip_while(|&link| (link as usize) < nodes);
        rest.all(|link| link == NO_LINK)
    })
}

fn are_upper_links(mut links: &[u8], header: &IndexHeader) -> bool {
    for nodes in header.sizes {
        let Some((level, above)) = links.split_at_checked(upper_bytes(&[nodes], header.params.m))
        else {
            return false;
        };
        if !are_links(level, header.params.m, nodes as usize) {
            return false;
        }
        links = above;
    }
    links.is_empty()
}

fn are_below(rows: &[u8], count: usize) -> bool {
    numbers(rows).all(|row| (row as usize) < count)
}

/// Whether groups and their ends are in order, and the last group ends with the duplicates.
fn are_groups(groups: &[u8], header: &IndexHeader) -> bool {
    let (groups, _) = groups.as_chunks::<GROUP>();
    let mut previous: Option<(u32, u32)> = None;
    for (row, end, same) in groups.iter().map(group_numbers) {
        let (after, start) = previous.map_or((None, 0), |(row, end)| (Some(row), end));
        if header.rows <= row as usize || after.is_some_and(|after| row <= after) {
            return false;
        }
        if end <= start || 1 < same {
            return false;
        }
        previous = Some((row, end));
    }
    previous.map_or(0, |(_, end)| end as usize) == header.duplicates
}

/// Whether each duplicate is a row, occurs once, and is not in the graph.
fn are_duplicates(sections: &Sections<&[u8]>, header: &IndexHeader) -> bool {
    let mut seen = Bits::none(header.rows);
    let (groups, _) = sections.groups.as_chunks::<GROUP>();
    for (row, ..) in groups.iter().map(group_numbers) {
        seen.set(row as usize, true);
    }
    for row in numbers(sections.upper_rows) {
        seen.set(row as usize, true);
    }
    let others = seen.count();
    for row in numbers(sections.duplicates) {
        if seen.contains(row as usize) {
            return false;
        }
        seen.set(row as usize, true);
    }
    seen.count() == others + header.duplicates
}

/// Decodes stored numbers.
fn numbers(bytes: &[u8]) -> impl Iterator<Item = u32> {
    let (numbers, _) = bytes.as_chunks::<NUMBER>();
    numbers.iter().map(|&number| u32::from_le_bytes(number))
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::codes::UnitVectors;
    use crate::index::graph::Graph;
    use crate::index::scratch::Scratch;
    use crate::index::search::IndexSearch;
    use std::sync::Arc;

    fn values() -> Vec<f32> {
        let mut values: Vec<f32> = (0..60_u8)
            .flat_map(|row| {
                let angle = f32::from(row) * 0.7;
                [angle.cos(), angle.sin()]
            })
            .collect();
        values.extend_from_within(..20);
        values
    }

    fn small() -> Vec<u8> {
        of(&values())
    }

    /// Rows that eight bits cannot separate.
    fn wide() -> Vec<u8> {
        let angles = (0..80_u8).map(|row| f32::from(row) * 1e-4);
        of(&angles
            .flat_map(|angle| [angle.cos(), angle.sin()])
            .collect::<Vec<f32>>())
    }

    fn of(values: &[f32]) -> Vec<u8> {
        let params = BuildParams {
            m: 2,
            ef_construction: 8,
            seed: 3,
        };
        let graph = Graph::build(UnitVectors::new(values, 2).unwrap(), params, [5; 32]).unwrap();
        graph.as_bytes().to_vec()
    }

    /// The same bytes with digests that match them.
    fn sealed(mut bytes: Vec<u8>) -> Vec<u8> {
        let header = IndexHeader::from_bytes(&bytes);
        if let Some(header) = header.filter(IndexHeader::is_possible) {
            let layout = IndexLayout::of(&header);
            for (at, range) in layout.ranges.iter().enumerate() {
                if let Some(section) = bytes.get(range.clone()) {
                    let digest = sha256(section);
                    bytes[DIGESTS + at * 32..][..32].copy_from_slice(&digest);
                }
            }
        }
        let digest = sha256(&bytes[..HEADER_DIGEST]);
        bytes[HEADER_DIGEST..HEADER_DIGEST + 32].copy_from_slice(&digest);
        bytes
    }

    #[test]
    fn what_was_written_is_read() {
        let bytes = small();
        let (header, layout) = read(&bytes).unwrap();
        assert_eq!(
            (header.dimension, header.rows, header.fingerprint),
            (2, 70, [5; 32])
        );
        assert_eq!((header.groups, header.duplicates), (10, 10));
        assert!(
            layout
                .ranges
                .iter()
                .all(|range| range.start.is_multiple_of(ALIGN))
        );
        assert_eq!(layout.end(), bytes.len());
        assert_eq!(sealed(bytes.clone()), bytes);
    }

    #[test]
    fn no_changed_byte_is_accepted() {
        let bytes = small();
        for at in 0..bytes.len() {
            for mask in [0x01, 0x80, 0xFF] {
                let mut changed = bytes.clone();
                changed[at] ^= mask;
                assert!(read(&changed).is_err(), "byte {at} changed by {mask:#x}");
            }
        }
    }

    #[test]
    fn no_other_length_is_accepted() {
        let mut bytes = small();
        for length in 0..bytes.len() {
            assert!(read(&bytes[..length]).is_err(), "the first {length} bytes");
        }
        bytes.push(0);
        assert!(read(&bytes).is_err());
    }

    #[test]
    fn bytes_made_to_fit_their_digests_never_panic() {
        let bytes = small();
        let values = values();
        let rows = UnitVectors::new(&values, 2).unwrap();
        let mut scratch = Scratch::new();
        let (mut refused, mut taken) = (0, 0);
        for at in (8..DIGESTS).chain(HEADER..bytes.len()) {
            let mut changed = bytes.clone();
            changed[at] ^= [0x01, 0x80, 0xFF][at % 3];
            let Ok(graph) = Graph::from_bytes(Arc::new(sealed(changed))) else {
                refused += 1;
                continue;
            };
            taken += 1;
            let vector = vec![0.6; graph.dimension()];
            for (k, ef) in [(1, 1), (3, 4)] {
                let search = IndexSearch {
                    vector: &vector,
                    k,
                    ef,
                    allowed: None,
                };
                graph
                    .search(&search, |row| rows.get(row), &mut scratch)
                    .unwrap();
            }
        }
        // Another code, another link, another seed and another fingerprint are all valid.
        assert!(
            500 < refused && 500 < taken,
            "{refused} refused, {taken} taken"
        );
    }

    #[test]
    fn every_kind_of_wrong_content_is_found() {
        let bytes = small();
        let (_, layout) = read(&bytes).unwrap();
        let [codes, bottom, upper, upper_rows, groups, duplicates] =
            layout.ranges.each_ref().map(|range| range.start);
        let wrong: [(usize, &[u8]); 9] = [
            (codes + 5, &[NO_CODE]),
            (bottom, &70_u32.to_le_bytes()),
            (bottom, &NO_LINK.to_le_bytes()),
            (upper, &60_u32.to_le_bytes()),
            (upper_rows, &70_u32.to_le_bytes()),
            (groups, &70_u32.to_le_bytes()),
            (groups + NUMBER, &0_u32.to_le_bytes()),
            (groups + 2 * NUMBER, &2_u32.to_le_bytes()),
            (duplicates, &0_u32.to_le_bytes()),
        ];
        for (at, put) in wrong {
            let mut changed = bytes.clone();
            changed[at..at + put.len()].copy_from_slice(put);
            let error = read(&sealed(changed)).unwrap_err();
            assert!(
                matches!(error, IndexError::Damaged { offset, .. } if offset <= at),
                "{error}"
            );
        }
        let mut least = wide();
        assert!(read(&least).is_ok());
        least[codes + 2..codes + 4].copy_from_slice(&NO_WIDE_CODE);
        let mut width = bytes.clone();
        width[WIDTH] = 8;
        for changed in [least, width] {
            let error = read(&sealed(changed)).unwrap_err();
            assert!(matches!(error, IndexError::Damaged { .. }), "{error}");
        }
        let mut newer = bytes;
        newer[8] = 3;
        let format = IndexError::Format {
            found: 3,
            readable: FORMAT,
        };
        assert_eq!(read(&newer).unwrap_err(), format);
        assert_eq!(
            read(b"SQLite format 3").unwrap_err(),
            IndexError::NotAnIndex
        );
    }

    #[test]
    fn enormous_counts_are_refused_without_being_believed() {
        let bytes = small();
        for field in 0..6 {
            for count in [1 << 31, 1 << 40, 1 << 63, u64::MAX] {
                let mut changed = bytes.clone();
                changed[16 + field * 8..][..8].copy_from_slice(&u64::to_le_bytes(count));
                let digest = sha256(&changed[..HEADER_DIGEST]);
                changed[HEADER_DIGEST..HEADER_DIGEST + 32].copy_from_slice(&digest);
                assert!(read(&changed).is_err());
            }
        }
    }
}
