//! Finds rows whose vectors are nearly equal: the same picture, saved again or with a little noise. Such rows
//! count as one trial, whatever their labels.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use rayon::prelude::*;

use super::embeddings::Embeddings;
use super::error::AnalysisError;
use super::pairwise::PairProgress;
use matchpoint_vector::Similarity;
use matchpoint_vector::kernels::multiply;

/// Two vectors of 500 or more components are near copies up to this value of 1 - cosine similarity. Noise of
/// 1e-3 in each of 1,280 components of both vectors gives at most 1.4e-3, and a JPEG saved again at quality 95
/// gives 1.1e-3 (median). Among the shipped photographs, the nearest two different pictures are at 1.2e-2 if
/// they have the same label, and at .23 if they do not.
pub const NEAR_COPY: f32 = 2e-3;
/// With fewer components than this, the same noise adds up to a smaller distance, and unrelated vectors are
/// more often close by chance.
const COMPONENTS: usize = 500;

/// At most this many rows are compared with each other, which is 5 billion pairs.
pub const ROWS_MAX: usize = 100_000;

/// Number of rows in one matrix product.
const ROWS: usize = 512;

/// The similarity from which two vectors of this many components are near copies.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "at most 500")]
pub fn near_copy_from(components: usize) -> f32 {
    let part = components.min(COMPONENTS) as f32 / COMPONENTS as f32;
    1.0 - NEAR_COPY * part
}

/// A row that is a near copy of an earlier row with another label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NearCopy {
    /// The row, numbered as the caller does.
    pub row: usize,
    /// The lowest row of its group, which is linked to it directly or through a chain of near copies.
    pub first: usize,
    /// The similarity between these two rows. It can lie below the limit if they are linked through a chain.
    pub similarity: Similarity,
}

/// Finds every row that is a near copy of an earlier row with another label. Rows that are linked directly or
/// through a chain form a group, and each group keeps its lowest row. Two rows with the same label are not
/// linked. The result is in the order of the rows.
///
/// # Errors
/// Returns [`AnalysisError::Stopped`] if `watch` returned `false`.
pub fn near_copies(
    rows: &Embeddings,
    watch: PairProgress<'_>,
) -> Result<Vec<NearCopy>, AnalysisError> {
    linked(rows, near_copy_from(rows.dimension()), watch)
}

/// The same for rows whose similarity is at least `near`.
pub(super) fn linked(
    rows: &Embeddings,
    near: f32,
    watch: PairProgress<'_>,
) -> Result<Vec<NearCopy>, AnalysisError> {
    let down = rows.len().div_ceil(ROWS);
    let groups = Mutex::new(CopyGroups::new(rows.len()));
    let done = AtomicU64::new(0);
    let total = (down * (down + 1) / 2) as u64;
    (0..down * down)
        .into_par_iter()
        .filter(|tile| tile / down <= tile % down)
        .try_for_each_init(Vec::new, |scores, tile| {
            let tile = RowTile {
                rows,
                near,
                above: span(tile / down, rows.len()),
                beside: span(tile % down, rows.len()),
            };
            let links = tile.links(scores);
            let mut groups = groups.lock().unwrap_or_else(PoisonError::into_inner);
            for Link { from, to } in links {
                groups.join(from, to);
            }
            drop(groups);
            let done = done.fetch_add(1, Ordering::Relaxed) + 1;
            if watch(done, total) {
                Ok(())
            } else {
                Err(AnalysisError::Stopped)
            }
        })?;
    let mut groups = groups.into_inner().unwrap_or_else(PoisonError::into_inner);
    let copy = |row: usize| {
        let first = groups.first(row);
        let similarity = Similarity::between(rows.row(first)?, rows.row(row)?)?;
        (first != row).then_some(NearCopy {
            row,
            first,
            similarity,
        })
    };
    Ok((0..rows.len()).filter_map(copy).collect())
}

fn span(index: usize, len: usize) -> Range<usize> {
    index * ROWS..((index + 1) * ROWS).min(len)
}

/// Two linked rows, numbered as the caller does.
struct Link {
    from: usize,
    to: usize,
}

/// A block of rows that is compared with another block, given by positions.
struct RowTile<'a> {
    rows: &'a Embeddings,
    near: f32,
    above: Range<usize>,
    beside: Range<usize>,
}

impl RowTile<'_> {
    /// The links needed to connect the groups of this tile, without redundant ones.
    fn links(&self, scores: &mut Vec<f32>) -> Vec<Link> {
        let dimension = self.rows.dimension();
        scores.resize(self.above.len() * self.beside.len(), 0.0);
        let (above, beside) = (self.rows.block(&self.above), self.rows.block(&self.beside));
        multiply(above, beside, dimension, scores);
        let at_least = self.near - self.rows.product_margin();
        let mut groups = CopyGroups::new(self.above.len() + self.beside.len());
        let mut links = Vec::new();
        let lines = scores.chunks_exact(self.beside.len());
        for (line, (row, scores)) in self.above.clone().zip(lines).enumerate() {
            if !scores
                .iter()
                .fold(false, |any, score| any | (at_least <= *score))
            {
                continue;
            }
            for (column, (other, score)) in self.beside.clone().zip(scores).enumerate() {
                let is_near = at_least <= *score && self.is_near(row, other, *score);
                if is_near && groups.join(line, self.above.len() + column) {
                    links.extend(self.link(row, other));
                }
            }
        }
        links
    }

    /// If the matrix product is not precise enough to decide, the exact kernel decides.
    fn is_near(&self, row: usize, other: usize, score: f32) -> bool {
        let labels = self.rows.labels();
        if other <= row || labels.get(row) == labels.get(other) {
            return false;
        }
        if self.near + self.rows.product_margin() < score {
            return true;
        }
        let (a, b) = (row..row + 1, other..other + 1);
        let exact = Similarity::between(self.rows.block(&a), self.rows.block(&b));
        exact.is_some_and(|exact| self.near <= exact.get())
    }

    fn link(&self, row: usize, other: usize) -> Option<Link> {
        let given = self.rows.given_rows();
        Some(Link {
            from: *given.get(row)? as usize,
            to: *given.get(other)? as usize,
        })
    }
}

/// Groups of numbers by single linkage. Each group is named by its lowest number.
pub(super) struct CopyGroups {
    towards: Vec<usize>,
}

impl CopyGroups {
    pub(super) fn new(len: usize) -> Self {
        Self {
            towards: (0..len).collect(),
        }
    }

    pub(super) fn first(&mut self, mut number: usize) -> usize {
        while let Some(&next) = self.towards.get(number)
            && next != number
        {
            let after = self.towards.get(next).copied().unwrap_or(next);
            if let Some(slot) = self.towards.get_mut(number) {
                *slot = after;
            }
            number = after;
        }
        number
    }

    /// Merges two groups; returns whether they were different.
    pub(super) fn join(&mut self, a: usize, b: usize) -> bool {
        let (a, b) = (self.first(a), self.first(b));
        if let Some(slot) = self.towards.get_mut(a.max(b)) {
            *slot = a.min(b);
        }
        a != b
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GO: PairProgress<'_> = &|_, _| true;

    /// A stream of splitmix64.
    struct Random(u64);

    impl Random {
        fn uniform(&mut self) -> f32 {
            f32::from(u16::try_from(crate::splitmix64::next(&mut self.0) >> 48).unwrap()) / 65_536.0
                - 0.5
        }

        /// An approximately normal number with a standard deviation of one.
        fn normal(&mut self) -> f32 {
            (0..12).map(|_| self.uniform()).sum()
        }

        fn unit(&mut self, dimension: usize) -> Vec<f32> {
            let raw = (0..dimension).map(|_| self.normal()).collect();
            let unit = matchpoint_vector::Embedding::normalise(raw).unwrap();
            unit.as_slice().to_vec()
        }
    }

    fn with_noise(vector: &[f32], noise: f32, random: &mut Random) -> Vec<f32> {
        let raw = vector.iter().map(|value| value + noise * random.normal());
        let unit = matchpoint_vector::Embedding::normalise(raw.collect()).unwrap();
        unit.as_slice().to_vec()
    }

    #[test]
    fn copies_with_noise_of_a_thousandth_are_found_and_others_are_not() {
        for dimension in [64, 128, 512, 1280] {
            let mut random = Random(7);
            let one = random.unit(dimension);
            let mut vectors = Vec::new();
            for row in 0..60 {
                vectors.extend(match row % 3 {
                    0 => with_noise(&one, 1e-3, &mut random),
                    // As far apart as the nearest different pictures among the shipped photographs.
                    1 => with_noise(&one, (0.024 / dimension_of(dimension)).sqrt(), &mut random),
                    _ => random.unit(dimension),
                });
            }
            let labels = (0..60).collect();
            let rows = Embeddings::from_unit(dimension, vectors, labels).unwrap();
            let found = near_copies(&rows, GO).unwrap();
            let expected: Vec<usize> = (3..60).step_by(3).collect();
            let copies: Vec<usize> = found.iter().map(|copy| copy.row).collect();
            assert_eq!(copies, expected, "{dimension}");
            assert!(found.iter().all(|copy| copy.first == 0));
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "small")]
    fn dimension_of(dimension: usize) -> f32 {
        dimension as f32
    }

    #[test]
    fn rows_of_one_label_make_no_group_and_a_group_keeps_its_lowest_row() {
        let mut random = Random(3);
        let (a, b) = (random.unit(64), random.unit(64));
        // The labels are not in order, so positions differ from rows.
        let labels = vec![9, 1, 1, 4, 9];
        let vectors = [&a, &b, &b, &a, &a].map(Vec::clone).concat();
        let rows = Embeddings::from_unit(64, vectors, labels).unwrap();
        let found = near_copies(&rows, GO).unwrap();
        let pairs: Vec<[usize; 2]> = found.iter().map(|copy| [copy.row, copy.first]).collect();
        assert_eq!(pairs, [[3, 0], [4, 0]]);
        assert!(0.999 < found[0].similarity.get());
    }

    #[test]
    fn groups_reach_over_tiles_whatever_the_order() {
        let mut random = Random(5);
        let kinds: Vec<Vec<f32>> = (0..40).map(|_| random.unit(16)).collect();
        let vectors: Vec<f32> = (0..1_300)
            .flat_map(|row| kinds[row * 7 % 40].clone())
            .collect();
        let labels: Vec<u32> = (0..1_300).rev().collect();
        let rows = Embeddings::from_unit(16, vectors, labels).unwrap();
        let found = near_copies(&rows, GO).unwrap();
        assert_eq!(found.len(), 1_300 - 40);
        assert!(found.iter().all(|copy| copy.first == copy.row % 40));
        let stopped = near_copies(&rows, &|_, _| false);
        assert!(matches!(stopped, Err(AnalysisError::Stopped)));
    }
}
