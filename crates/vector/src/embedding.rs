//! The shared vocabulary: unit-length embeddings and their exact cosine similarity.

use std::fmt;

use crate::kernels;

/// A unit-length vector of finite `f32` values. It cannot be empty, zero, or contain NaN or infinity.
#[derive(Clone, Debug, PartialEq)]
pub struct Embedding(Box<[f32]>);

/// The highest allowed difference between one and the squared length of a stored or submitted unit vector.
///
/// The rounding of 4,096 `f32` components is two orders of magnitude smaller.
const UNIT_TOLERANCE: f32 = 1e-4;

impl Embedding {
    /// Scales `raw` to unit length.
    ///
    /// # Errors
    /// Returns an error for an empty vector, for NaN or infinity in any component, and for a length of zero.
    pub fn normalise(raw: Vec<f32>) -> Result<Self, NotAnEmbedding> {
        Self::with_length(raw).map(|(embedding, _)| embedding)
    }

    /// Like [`Embedding::normalise`], and also returns the Euclidean length that the vector had.
    ///
    /// # Errors
    /// Returns the errors of [`Embedding::normalise`].
    pub fn with_length(mut raw: Vec<f32>) -> Result<(Self, f64), NotAnEmbedding> {
        let norm = length(&raw)?;
        for value in &mut raw {
            #[expect(clippy::cast_possible_truncation, reason = "at most 1 in magnitude")]
            let scaled = (f64::from(*value) / norm) as f32;
            *value = scaled;
        }
        Ok((Self(raw.into()), norm))
    }

    /// Takes a vector that already has unit length, without changing a bit.
    ///
    /// # Errors
    /// Returns the errors of [`Embedding::normalise`], and an error if the length is not one.
    pub fn from_unit(unit: Vec<f32>) -> Result<Self, NotAnEmbedding> {
        let norm = length(&unit)?;
        if (norm - 1.0).abs() > f64::from(UNIT_TOLERANCE) {
            return Err(NotAnEmbedding::NotUnit { length: norm });
        }
        Ok(Self(unit.into()))
    }

    /// The components, in the model's order.
    #[must_use]
    pub fn as_slice(&self) -> &[f32] {
        &self.0
    }

    /// The number of components.
    #[must_use]
    pub fn dimension(&self) -> usize {
        self.0.len()
    }
}

/// The Euclidean length, summed in `f64` so that it does not overflow.
fn length(values: &[f32]) -> Result<f64, NotAnEmbedding> {
    if values.is_empty() {
        return Err(NotAnEmbedding::Empty);
    }
    if let Some(index) = values.iter().position(|value| !value.is_finite()) {
        return Err(NotAnEmbedding::NotFinite { index });
    }
    let norm = values
        .iter()
        .map(|&v| f64::from(v) * f64::from(v))
        .sum::<f64>()
        .sqrt();
    if norm < f64::from(f32::MIN_POSITIVE) {
        return Err(NotAnEmbedding::Zero);
    }
    Ok(norm)
}

/// The reasons why a vector cannot be an [`Embedding`].
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum NotAnEmbedding {
    /// It has no components.
    #[error("the vector is empty")]
    Empty,
    /// A component is NaN or infinite.
    #[error("component {index} of the vector is not a finite number")]
    NotFinite {
        /// The position of the first such component.
        index: usize,
    },
    /// Its length is zero, so it has no direction.
    #[error("the vector has length zero, so it has no direction")]
    Zero,
    /// Its length is not one.
    #[error("the vector has length {length}, not 1")]
    NotUnit {
        /// Its Euclidean length.
        length: f64,
    },
}

/// Cosine similarity of two embeddings, in [-1, 1]; higher is closer. Never NaN.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Similarity(f32);

impl Similarity {
    /// The highest similarity: that of an embedding and itself.
    pub const IDENTICAL: Self = Self(1.0);

    /// Takes a number as a similarity; `None` for NaN. A value outside the range, as from rounding, is clamped.
    #[inline]
    #[must_use]
    pub fn new(value: f32) -> Option<Self> {
        (!value.is_nan()).then(|| Self(value.clamp(-1.0, 1.0)))
    }

    /// The exact `f32` cosine similarity. The same two vectors give the same bits on every CPU
    /// and in every batch, because the order of summation is fixed.
    ///
    /// `None` if the dimensions differ.
    #[inline]
    #[must_use]
    pub fn between(a: &[f32], b: &[f32]) -> Option<Self> {
        if a.len() != b.len() {
            return None;
        }
        Self::new(kernels::dot(a, b))
    }

    /// The value, in [-1, 1].
    #[inline]
    #[must_use]
    pub fn get(self) -> f32 {
        self.0
    }
}

impl Eq for Similarity {}

impl Ord for Similarity {
    #[inline]
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        // +0.0 and -0.0 must compare equal, as they do under `==`.
        (self.0 + 0.0).total_cmp(&(other.0 + 0.0))
    }
}

impl PartialOrd for Similarity {
    #[inline]
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for Similarity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.4}", self.0)
    }
}
