//! Rows with equal codes. Only one of them is in the graph and represents the others, because links among equal
//! rows would replace links that lead elsewhere.

use std::cmp::Ordering;

use rayon::iter::{IndexedParallelIterator, ParallelIterator};
use rayon::slice::{ParallelSlice, ParallelSliceMut};

use crate::index::codes::UnitVectors;

const NUMBER: usize = size_of::<u32>();

/// The bytes of a stored group: the row in the graph, the end of its duplicates, and whether all vectors are
/// equal.
pub(super) const GROUP: usize = 3 * NUMBER;

/// The duplicates of rows in the graph.
#[derive(Clone, Copy)]
pub(super) struct Duplicates<'a> {
    /// The groups, ordered by row.
    pub(super) groups: &'a [u8],
    /// The duplicates, group by group, each group in ascending order.
    pub(super) rows: &'a [u8],
}

/// The rows with the same codes as a row in the graph, without that row itself, which has the lowest number.
#[derive(Clone, Copy)]
pub(super) struct DuplicateGroup<'a> {
    rows: &'a [u8],
    /// Whether their vectors, and so their scores, are equal too.
    pub(super) same_vectors: bool,
}

impl<'a> Duplicates<'a> {
    /// The duplicates of a row in the graph, if it has any.
    pub(super) fn of(&self, row: u32) -> Option<DuplicateGroup<'a>> {
        let (groups, _) = self.groups.as_chunks::<GROUP>();
        let at = groups
            .binary_search_by_key(&row, |group| group_numbers(group).0)
            .ok()?;
        let (_, end, same) = group_numbers(groups.get(at)?);
        let before = at.checked_sub(1).and_then(|at| groups.get(at));
        let start = before.map_or(0, |group| group_numbers(group).1);
        let rows = self
            .rows
            .get(start as usize * NUMBER..end as usize * NUMBER)?;
        Some(DuplicateGroup {
            rows,
            same_vectors: same != 0,
        })
    }
}

impl<'a> DuplicateGroup<'a> {
    /// The rows, ascending.
    pub(super) fn rows(&self) -> impl Iterator<Item = u32> + use<'a> {
        let (rows, _) = self.rows.as_chunks::<NUMBER>();
        rows.iter().map(|&row| u32::from_le_bytes(row))
    }
}

/// Decodes a stored group: the row in the graph, the end of its duplicates, and whether all vectors are equal.
pub(super) fn group_numbers(group: &[u8; GROUP]) -> (u32, u32, u32) {
    let (numbers, _) = group.as_chunks::<NUMBER>();
    match *numbers {
        [row, end, same] => (
            u32::from_le_bytes(row),
            u32::from_le_bytes(end),
            u32::from_le_bytes(same),
        ),
        _ => (0, 0, 0),
    }
}

/// Rows grouped by their codes.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Grouped {
    /// The first row of each group, in ascending order.
    pub(super) firsts: Vec<u32>,
    /// The same as in [`Duplicates`].
    pub(super) groups: Vec<u8>,
    /// The same as in [`Duplicates`].
    pub(super) rows: Vec<u8>,
}

/// Groups rows with equal codes.
pub(super) fn group(vectors: UnitVectors<'_>, codes: &[u8], stride: usize) -> Grouped {
    let code = |row: u32| codes.get(row as usize * stride..(row as usize + 1) * stride);
    let numbered = codes.par_chunks_exact(stride).enumerate();
    #[expect(
        clippy::cast_possible_truncation,
        reason = "`UnitVectors` has fewer than 2^31 rows"
    )]
    let mut order: Vec<(u64, u32)> = numbered
        .map(|(row, code)| (hash(code), row as u32))
        .collect();
    // Equal hashes almost always mean equal codes, but this has to be checked.
    let by_code = |a: &(u64, u32), b: &(u64, u32)| match a.0.cmp(&b.0) {
        Ordering::Equal => code(a.1).cmp(&code(b.1)),
        unequal @ (Ordering::Less | Ordering::Greater) => unequal,
    };
    order.par_sort_unstable_by(|a, b| by_code(a, b).then(a.1.cmp(&b.1)));
    let mut firsts = Vec::with_capacity(order.len());
    let mut several: Vec<&[(u64, u32)]> = Vec::new();
    for run in order.chunk_by(|a, b| by_code(a, b).is_eq()) {
        firsts.extend(run.first().map(|&(_, row)| row));
        if 1 < run.len() {
            several.push(run);
        }
    }
    firsts.par_sort_unstable();
    several.sort_unstable_by_key(|run| run.first().map(|&(_, row)| row));
    let mut grouped = Grouped {
        firsts,
        ..Grouped::default()
    };
    for run in several {
        let Some((&(_, first), others)) = run.split_first() else {
            continue;
        };
        for (_, row) in others {
            grouped.rows.extend_from_slice(&row.to_le_bytes());
        }
        let same = others
            .iter()
            .all(|&(_, row)| vectors.get(row) == vectors.get(first));
        #[expect(
            clippy::cast_possible_truncation,
            reason = "fewer duplicates than rows"
        )]
        let end = (grouped.rows.len() / NUMBER) as u32;
        for number in [first, end, u32::from(same)] {
            grouped.groups.extend_from_slice(&number.to_le_bytes());
        }
    }
    grouped
}

/// A hash of the codes with the constants of FNV-1a, computed over eight bytes at a time.
fn hash(code: &[u8]) -> u64 {
    let (words, _) = code.as_chunks::<8>();
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for &word in words {
        hash = (hash ^ u64::from_le_bytes(word)).wrapping_mul(0x0000_0100_0000_01b3);
        hash ^= hash >> 29;
    }
    hash
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::codes::{encode_all, stride};
    use matchpoint_vector::kernels::codes::CodeWidth;

    #[test]
    fn rows_of_equal_codes_stand_together() {
        let a = [1.0, 0.0];
        let (b, nearly_b) = ([0.0, 1.0], [0.000_01, 1.0]);
        let values = [b, a, a, nearly_b, a, [0.6, 0.8]].concat();
        let rows = UnitVectors::new(&values, 2).unwrap();
        let width = CodeWidth::Eight;
        let codes = encode_all(rows, width);
        let grouped = group(rows, &codes, stride(2, width));
        assert_eq!(grouped.firsts, [0, 1, 5]);
        let duplicates = Duplicates {
            groups: &grouped.groups,
            rows: &grouped.rows,
        };
        let of_b = duplicates.of(0).unwrap();
        assert!(of_b.rows().eq([3]) && !of_b.same_vectors);
        let of_a = duplicates.of(1).unwrap();
        assert!(of_a.rows().eq([2, 4]) && of_a.same_vectors);
        assert!(duplicates.of(2).is_none() && duplicates.of(5).is_none());
    }
}
