//! Embeddings with their labels, to which heads are fitted and by which they are judged.

use std::borrow::Cow;

use matchpoint_calibration::analysis::embeddings::Embeddings;
use matchpoint_vector::Embedding;
use rayon::prelude::*;

use super::dense::dot;
use super::error::AdaptError;

/// Rows of unit length, each with the number of its label.
#[derive(Clone, Debug, PartialEq)]
pub struct LabelledRows {
    dimension: usize,
    /// How many components, which come first, are the embedding as the model gives it without a head.
    own: usize,
    vectors: Vec<f32>,
    labels: Vec<u32>,
}

impl LabelledRows {
    /// Scales each row to unit length.
    ///
    /// # Errors
    /// Returns an error if the values are not whole rows with one label each, or if a row has no direction.
    pub fn normalise(
        dimension: usize,
        mut vectors: Vec<f32>,
        labels: Vec<u32>,
    ) -> Result<Self, AdaptError> {
        if dimension == 0 || Some(vectors.len()) != labels.len().checked_mul(dimension) {
            let (values, rows) = (vectors.len(), labels.len());
            return Err(AdaptError::Shape {
                values,
                rows,
                dimension,
            });
        }
        let rows = vectors.par_chunks_mut(dimension).enumerate();
        let failed =
            rows.find_map_first(
                |(row, values)| match Embedding::normalise(values.to_vec()) {
                    Ok(unit) => {
                        values.copy_from_slice(unit.as_slice());
                        None
                    }
                    Err(problem) => Some(AdaptError::Row {
                        row,
                        problem: problem.to_string(),
                    }),
                },
            );
        if let Some(error) = failed {
            return Err(error);
        }
        Ok(Self {
            dimension,
            own: dimension,
            vectors,
            labels,
        })
    }

    /// The same rows, of which only the first `own` components are the embedding without a head; a head reads all.
    #[must_use]
    pub fn with_own(self, own: usize) -> Self {
        let own = own.clamp(1, self.dimension);
        Self { own, ..self }
    }

    /// The embeddings without a head, which one has to be better than.
    ///
    /// # Errors
    /// Returns an error if one of them is no embedding.
    pub fn without_head(&self) -> Result<Cow<'_, Self>, AdaptError> {
        if self.own == self.dimension {
            return Ok(Cow::Borrowed(self));
        }
        let rows = self.vectors.chunks(self.dimension);
        let own = rows.flat_map(|row| row.iter().take(self.own).copied());
        Self::normalise(self.own, own.collect(), self.labels.clone()).map(Cow::Owned)
    }

    /// The selected rows, in this order.
    #[must_use]
    pub fn chosen(&self, rows: &[usize]) -> Self {
        let mut chosen = Self {
            dimension: self.dimension,
            own: self.own,
            vectors: Vec::with_capacity(rows.len() * self.dimension),
            labels: Vec::with_capacity(rows.len()),
        };
        for &row in rows {
            if let (Some(vector), Some(label)) = (self.row(row), self.labels.get(row)) {
                chosen.vectors.extend_from_slice(vector);
                chosen.labels.push(*label);
            }
        }
        chosen
    }

    /// The rows with the signed square roots of their components.
    pub(super) fn signed_roots(&self) -> Self {
        let rows = self.vectors.par_chunks(self.dimension);
        self.with_vectors(self.dimension, rows.flat_map_iter(signed_roots).collect())
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

    /// One row.
    #[must_use]
    pub fn row(&self, row: usize) -> Option<&[f32]> {
        let from = row.checked_mul(self.dimension)?;
        self.vectors.get(from..from + self.dimension)
    }

    /// All rows in one block.
    #[must_use]
    pub fn vectors(&self) -> &[f32] {
        &self.vectors
    }

    /// The number of the label of each row.
    #[must_use]
    pub fn labels(&self) -> &[u32] {
        &self.labels
    }

    /// The labels numbered from 0 without gaps, in the order of their numbers, and the number of labels.
    pub(super) fn dense_labels(&self) -> (Vec<usize>, usize) {
        let mut known = self.labels.clone();
        known.sort_unstable();
        known.dedup();
        let place = |label: &u32| known.binary_search(label).unwrap_or(0);
        (self.labels.iter().map(place).collect(), known.len())
    }

    /// The rows in the form that the analysis of pairs takes.
    pub(super) fn embeddings(&self) -> Result<Embeddings, AdaptError> {
        let dense = self.dense_labels().0.into_iter();
        let labels = dense.map(|label| u32::try_from(label).unwrap_or(u32::MAX));
        let embeddings =
            Embeddings::from_unit(self.dimension, self.vectors.clone(), labels.collect());
        embeddings.map_err(|error| AdaptError::Analysis {
            problem: error.to_string(),
        })
    }

    /// Rows of any length, because a fit scales them itself, in `f64`.
    #[cfg(test)]
    pub(super) fn as_they_are(dimension: usize, vectors: Vec<f32>, labels: Vec<u32>) -> Self {
        Self {
            dimension,
            own: dimension,
            vectors,
            labels,
        }
    }

    pub(super) fn with_vectors(&self, dimension: usize, vectors: Vec<f32>) -> Self {
        Self {
            dimension,
            own: dimension,
            vectors,
            labels: self.labels.clone(),
        }
    }
}

/// The signed square root of each component, scaled to unit length, so that large components have less
/// influence (power normalisation).
pub(super) fn signed_roots(unit: &[f32]) -> Vec<f32> {
    let root = |value: &f32| f64::from(*value).abs().sqrt().copysign(f64::from(*value));
    let roots: Vec<f64> = unit.iter().map(root).collect();
    let by = 1.0 / dot(&roots, &roots).sqrt().max(f64::MIN_POSITIVE);
    #[expect(
        clippy::cast_possible_truncation,
        reason = "rounded to the precision of embeddings"
    )]
    roots.iter().map(|root| (root * by) as f32).collect()
}
