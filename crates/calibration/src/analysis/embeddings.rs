//! A set of labelled embeddings as one matrix, and the scores between two such matrices.

use std::ops::Range;

use rayon::prelude::*;

use super::error::AnalysisError;
use matchpoint_vector::{Embedding, NotAnEmbedding};

/// Labels are numbered below this limit. It is far above any gallery, and low enough for a count of each label
/// to fit in memory.
const LABELS_MAX: u32 = 1 << 24;

/// Unit vectors, each with the index of its label.
///
/// They are stored in the order of the labels, so that the mates of a row are its neighbours. All row numbers
/// in arguments and results are the caller's, in the order in which the rows were given.
#[derive(Clone, Debug, PartialEq)]
pub struct Embeddings {
    dimension: usize,
    vectors: Vec<f32>,
    labels: Vec<u32>,
    given_rows: Vec<u32>,
    /// The position of each of the caller's rows.
    positions: Vec<u32>,
}

impl Embeddings {
    /// Takes vectors of any length, row by row, and scales each to unit length in `f64`.
    ///
    /// # Errors
    /// Returns an error that names the row if a row is zero or contains NaN or infinity; an error if the values
    /// are not one row of `dimension` components for each label; and an error for a label index of 2^24 or
    /// more.
    pub fn normalise(
        dimension: usize,
        vectors: Vec<f32>,
        labels: Vec<u32>,
    ) -> Result<Self, AnalysisError> {
        Self::new(dimension, vectors, labels, Embedding::normalise)
    }

    /// Takes vectors that already have unit length without changing a bit, so that their scores equal those of
    /// the service that stored them.
    ///
    /// # Errors
    /// Returns the errors of [`Embeddings::normalise`], and an error if a row does not have unit length.
    pub fn from_unit(
        dimension: usize,
        vectors: Vec<f32>,
        labels: Vec<u32>,
    ) -> Result<Self, AnalysisError> {
        Self::new(dimension, vectors, labels, Embedding::from_unit)
    }

    /// The largest difference between a score of the matrix product and that of the kernel: at least 1e-5, and at
    /// least the rounding errors of both sums of `dimension` terms, `dimension` x 2^-24 each, in any order.
    #[expect(clippy::cast_precision_loss, reason = "a dimension is far below 2^24")]
    pub(super) fn product_margin(&self) -> f32 {
        1e-5 + self.dimension as f32 * f32::EPSILON
    }

    fn new(
        dimension: usize,
        mut vectors: Vec<f32>,
        labels: Vec<u32>,
        check: fn(Vec<f32>) -> Result<Embedding, NotAnEmbedding>,
    ) -> Result<Self, AnalysisError> {
        let rows = u32::try_from(labels.len()).ok();
        let (Some(rows), true) = (
            rows,
            0 < dimension && labels.len().checked_mul(dimension) == Some(vectors.len()),
        ) else {
            return Err(AnalysisError::EmbeddingShape {
                values: vectors.len(),
                rows: labels.len(),
                dimension,
            });
        };
        if let Some(row) = labels.iter().position(|&label| LABELS_MAX <= label) {
            return Err(AnalysisError::LabelIndex {
                row,
                limit: LABELS_MAX,
            });
        }
        let refused = vectors
            .par_chunks_mut(dimension)
            .enumerate()
            .find_map_first(|(row, values)| match check(values.to_vec()) {
                Ok(unit) => {
                    values.copy_from_slice(unit.as_slice());
                    None
                }
                Err(problem) => Some(AnalysisError::EmbeddingRow { row, problem }),
            });
        if let Some(error) = refused {
            return Err(error);
        }
        Ok(Self::by_label(dimension, vectors, labels, rows))
    }

    /// Sorts the rows by label in place, because a gallery may fill most of the memory.
    fn by_label(dimension: usize, mut vectors: Vec<f32>, mut labels: Vec<u32>, rows: u32) -> Self {
        let mut given_rows: Vec<u32> = (0..rows).collect();
        if !labels.is_sorted() {
            given_rows.sort_by_key(|&row| labels.get(row as usize).copied());
            permute(&mut vectors, dimension, &given_rows);
            labels.sort_unstable();
        }
        let mut positions = vec![0; given_rows.len()];
        for (position, &row) in (0..rows).zip(&given_rows) {
            if let Some(slot) = positions.get_mut(row as usize) {
                *slot = position;
            }
        }
        Self {
            dimension,
            vectors,
            labels,
            given_rows,
            positions,
        }
    }

    /// The number of rows.
    #[must_use]
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there is no row.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// The number of components of each row.
    #[must_use]
    pub fn dimension(&self) -> usize {
        self.dimension
    }

    /// One more than the highest label index; 0 if there is no row.
    #[must_use]
    pub fn labels_end(&self) -> usize {
        self.labels.last().map_or(0, |&label| label as usize + 1)
    }

    /// The vector of a row, numbered as the caller does; `None` beyond the last row.
    #[must_use]
    pub fn row(&self, row: usize) -> Option<&[f32]> {
        let position = *self.positions.get(row)? as usize;
        Some(self.block(&(position..position + 1)))
    }

    /// The labels by position, in ascending order. A position is the place of a row in the order of the labels.
    pub(super) fn labels(&self) -> &[u32] {
        &self.labels
    }

    /// The caller's row numbers by position.
    pub(super) fn given_rows(&self) -> &[u32] {
        &self.given_rows
    }

    /// The positions of the rows with this label.
    pub(super) fn run_of(&self, label: u32) -> Range<usize> {
        let start = self.labels.partition_point(|&other| other < label);
        let end = self.labels.partition_point(|&other| other <= label);
        start..end
    }

    /// The vectors at `positions`, row by row; empty if they lie outside.
    pub(super) fn block(&self, positions: &Range<usize>) -> &[f32] {
        let values = positions.start * self.dimension..positions.end * self.dimension;
        self.vectors.get(values).unwrap_or_default()
    }
}

/// Moves row `order[p]` to place `p`, for every `p`, along the cycles of the permutation.
#[expect(
    clippy::indexing_slicing,
    reason = "an order of n rows holds each number below n once"
)]
fn permute(vectors: &mut [f32], dimension: usize, order: &[u32]) {
    let mut placed = vec![false; order.len()];
    let mut held = vec![0.0; dimension];
    for start in 0..order.len() {
        if placed[start] {
            continue;
        }
        held.copy_from_slice(&vectors[start * dimension..(start + 1) * dimension]);
        let mut place = start;
        loop {
            placed[place] = true;
            let from = order[place] as usize;
            if from == start {
                break;
            }
            vectors.copy_within(from * dimension..(from + 1) * dimension, place * dimension);
            place = from;
        }
        vectors[place * dimension..(place + 1) * dimension].copy_from_slice(&held);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_sorted_by_label_and_remember_where_they_were() {
        let labels = vec![3, 0, 2, 0, 3, 1];
        let vectors: Vec<f32> = (0..6_u8)
            .flat_map(|row| [f32::from(row) + 1.0, 1.0])
            .collect();
        let sorted = Embeddings::normalise(2, vectors, labels.clone()).unwrap();
        assert_eq!(sorted.labels(), [0, 0, 1, 2, 3, 3]);
        assert_eq!(sorted.given_rows(), [1, 3, 5, 2, 0, 4]);
        assert_eq!((sorted.len(), sorted.labels_end()), (6, 4));
        assert_eq!(sorted.run_of(3), 4..6);
        for (position, &row) in sorted.given_rows().iter().enumerate() {
            let unit = sorted.block(&(position..position + 1));
            #[expect(clippy::cast_precision_loss, reason = "small")]
            let expected = row as f32 + 1.0;
            assert!((unit[0] / unit[1] - expected).abs() < 1e-5);
            assert_eq!(sorted.labels()[position], labels[row as usize]);
        }
    }

    #[test]
    fn unit_rows_are_kept_bit_for_bit() {
        let unit = vec![0.6_f32.next_up(), 0.8, -0.8, 0.6];
        let kept = Embeddings::from_unit(2, unit.clone(), vec![0, 0]).unwrap();
        assert_eq!(kept.block(&(0..2)), unit);
        let error = Embeddings::from_unit(2, vec![0.6, 0.8, 3.0, 4.0], vec![0, 0]).unwrap_err();
        assert!(error.to_string().contains("row 1"), "{error}");
    }

    #[test]
    fn bad_rows_are_refused_by_number() {
        for bad in [[f32::NAN, 1.0], [f32::INFINITY, 0.0], [0.0, 0.0]] {
            let mut vectors = vec![1.0; 40];
            vectors[14..16].copy_from_slice(&bad);
            vectors[30..32].copy_from_slice(&bad);
            let error = Embeddings::normalise(2, vectors, vec![0; 20]).unwrap_err();
            assert!(error.to_string().contains("row 7"), "{error}");
        }
        assert!(Embeddings::normalise(2, vec![1.0; 5], vec![0; 2]).is_err());
        assert!(Embeddings::normalise(0, vec![], vec![]).is_err());
        assert!(Embeddings::normalise(1, vec![1.0], vec![1 << 24]).is_err());
        assert!(Embeddings::normalise(1, vec![], vec![]).unwrap().is_empty());
    }
}
