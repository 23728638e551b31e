//! The head: a map that is applied to an embedding of unit length before it is compared.

use std::borrow::Cow;

use base16ct::lower::encode_string;
use matchpoint_vector::{EightBits, Embedding, NotAnEmbedding};
use rayon::prelude::*;
use sha2::{Digest, Sha256};

use super::dense::{Dense, ROWS_MAPPED, dot};
use super::error::AdaptError;
use super::labelled_rows::{LabelledRows, signed_roots};

/// A linear map of the components, or of their signed square roots, plus a bias. The result is scaled to unit
/// length.
#[derive(Clone, Debug, PartialEq)]
pub struct Head {
    from: usize,
    roots: bool,
    eight_bits: bool,
    /// `to` rows of `from` weights.
    weights: Vec<f32>,
    bias: Vec<f32>,
}

impl Head {
    /// The map `matrix * (x - centre)`, applied to the signed square roots of `x` if `roots` is true.
    #[expect(
        clippy::cast_possible_truncation,
        reason = "rounded to the precision of embeddings"
    )]
    pub(super) fn of(matrix: &Dense, centre: &[f64], roots: bool) -> Option<Self> {
        let rows = matrix.values.chunks(matrix.columns);
        let head = Self {
            from: matrix.columns,
            roots,
            eight_bits: false,
            weights: matrix.values.iter().map(|value| *value as f32).collect(),
            bias: rows.map(|row| -dot(row, centre) as f32).collect(),
        };
        head.is_finite().then_some(head)
    }

    /// The head that multiplies in 8 bits: its weights are rounded in blocks, and so is what it is applied to.
    ///
    /// A network reads a quarter of the bytes then. The rounding is that of ONNX Runtime, so that a stored
    /// embedding gets the vector that the network gives.
    #[must_use]
    pub fn in_eight_bits(mut self) -> Self {
        let rows = self.weights.chunks(self.from);
        self.weights = rows
            .flat_map(|row| EightBits::of(row).values().collect::<Vec<f32>>())
            .collect();
        self.eight_bits = true;
        self
    }

    fn is_finite(&self) -> bool {
        self.weights
            .iter()
            .chain(&self.bias)
            .all(|value| value.is_finite())
    }

    /// Decodes the bytes of a head; see [`Self::to_bytes`].
    ///
    /// # Errors
    /// Returns an error if the number of bytes does not match, or if a number is not finite.
    pub fn from_bytes(
        bytes: &[u8],
        from: usize,
        to: usize,
        roots: bool,
        eight_bits: bool,
    ) -> Result<Self, AdaptError> {
        let wrong = |problem: String| AdaptError::Stored { problem };
        let expected = from.checked_add(1).and_then(|row| row.checked_mul(to));
        let (values, rest) = bytes.as_chunks::<4>();
        if expected != Some(values.len()) || !rest.is_empty() || from == 0 || to == 0 {
            let found = bytes.len();
            return Err(wrong(format!(
                "{found} bytes are not {to} rows of {from} weights and as many numbers to add, of 4 bytes each"
            )));
        }
        let mut weights: Vec<f32> = values
            .iter()
            .map(|value| f32::from_le_bytes(*value))
            .collect();
        let bias = weights.split_off(from * to);
        let head = Self {
            from,
            roots,
            eight_bits,
            weights,
            bias,
        };
        if !head.is_finite() {
            return Err(wrong("a weight is not a finite number".to_owned()));
        }
        Ok(head)
    }

    /// Encodes the head: the weights row by row, then the bias, as little-endian `f32`.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let values = self.weights.iter().chain(&self.bias);
        values.flat_map(|value| value.to_le_bytes()).collect()
    }

    /// Number of input components.
    #[must_use]
    pub fn from(&self) -> usize {
        self.from
    }

    /// Number of output components.
    #[must_use]
    pub fn to(&self) -> usize {
        self.bias.len()
    }

    /// Whether the signed square roots of the components, scaled to unit length, are mapped.
    #[must_use]
    pub fn roots(&self) -> bool {
        self.roots
    }

    /// Whether the weights, and what is multiplied by them, are rounded to 8 bits.
    #[must_use]
    pub fn eight_bits(&self) -> bool {
        self.eight_bits
    }

    /// The weights, one row for each output component.
    #[must_use]
    pub fn weights(&self) -> &[f32] {
        &self.weights
    }

    /// The bias of each output component.
    #[must_use]
    pub fn bias(&self) -> &[f32] {
        &self.bias
    }

    /// What the weights are multiplied with.
    fn multiplied<'a>(&self, unit: &'a [f32]) -> Cow<'a, [f32]> {
        let unit = if self.roots {
            Cow::Owned(signed_roots(unit))
        } else {
            Cow::Borrowed(unit)
        };
        if self.eight_bits {
            Cow::Owned(EightBits::of(&unit).values().collect())
        } else {
            unit
        }
    }

    /// Maps a vector of unit length.
    ///
    /// # Errors
    /// Returns an error if the vector is mapped to zero, which has no direction.
    pub fn apply(&self, unit: &[f32]) -> Result<Embedding, NotAnEmbedding> {
        let unit = self.multiplied(unit);
        let wide: Vec<f64> = unit.iter().map(|value| f64::from(*value)).collect();
        let row = |(row, bias): (&[f32], &f32)| {
            let products = row.iter().zip(&wide);
            products.fold(f64::from(*bias), |sum, (weight, value)| {
                sum + f64::from(*weight) * value
            })
        };
        #[expect(
            clippy::cast_possible_truncation,
            reason = "rounded to the precision of embeddings"
        )]
        let mapped = self
            .weights
            .chunks(self.from)
            .zip(&self.bias)
            .map(|one| row(one) as f32);
        Embedding::normalise(mapped.collect())
    }

    /// Maps many rows, on all cores.
    ///
    /// # Errors
    /// Returns an error if the rows have another dimension, or if a row is mapped to zero.
    pub fn apply_to(&self, rows: &LabelledRows) -> Result<LabelledRows, AdaptError> {
        let (expected, found) = (self.from, rows.dimension());
        if expected != found {
            return Err(AdaptError::Dimension { expected, found });
        }
        let weights = Dense {
            columns: self.from,
            values: self.weights.iter().map(|value| f64::from(*value)).collect(),
        };
        let mut mapped = vec![0.0_f32; rows.len() * self.to()];
        let tasks = rows.vectors().par_chunks(ROWS_MAPPED * self.from);
        let tasks = tasks.zip(mapped.par_chunks_mut(ROWS_MAPPED * self.to()));
        let failed = tasks.enumerate().find_map_first(|(task, (rows, into))| {
            let failed = self.map_some(&weights, rows, into).err();
            failed.map(|(row, problem)| AdaptError::Row {
                row: task * ROWS_MAPPED + row,
                problem: problem.to_string(),
            })
        });
        if let Some(error) = failed {
            return Err(error);
        }
        Ok(rows.with_vectors(self.to(), mapped))
    }

    /// Maps the rows of one task, or returns which is mapped to zero.
    fn map_some(
        &self,
        weights: &Dense,
        rows: &[f32],
        into: &mut [f32],
    ) -> Result<(), (usize, NotAnEmbedding)> {
        let mut multiplied = Vec::with_capacity(rows.len());
        for row in rows.chunks(self.from) {
            multiplied.extend_from_slice(&self.multiplied(row));
        }
        let products = Dense::mapped(&multiplied, &vec![0.0; self.from], weights);
        let rows = products.values.chunks(self.to());
        for (row, (product, into)) in rows.zip(into.chunks_mut(self.to())).enumerate() {
            #[expect(
                clippy::cast_possible_truncation,
                reason = "rounded to the precision of embeddings"
            )]
            let moved = product
                .iter()
                .zip(&self.bias)
                .map(|(value, bias)| (value + f64::from(*bias)) as f32);
            let unit = Embedding::normalise(moved.collect()).map_err(|problem| (row, problem))?;
            into.copy_from_slice(unit.as_slice());
        }
        Ok(())
    }
}

/// SHA-256 over the components of a vector of unit length as 64 hexadecimal digits, by which a vector is
/// recognised.
#[must_use]
pub fn vector_sha256(unit: &[f32]) -> String {
    let mut hash = Sha256::new();
    for value in unit {
        hash.update(value.to_le_bytes());
    }
    encode_string(&hash.finalize())
}
