//! Embeddings as they were read, with what the same file says of each.

use std::collections::BTreeMap;
use std::path::Path;

use super::error::ArraysError;
use super::labels::LabelTable;

/// One embedding a row, as written: not normalised, and perhaps not even numbers.
#[derive(Clone, Debug, PartialEq)]
pub struct VectorTable {
    /// Values in a row, `1..=DIMENSION_MAX`.
    pub dimension: usize,
    /// Row after row, `rows * dimension` values; doubles are rounded, halves widened.
    pub vectors: Vec<f32>,
    /// The text of each row by the name of its column, for Parquet only. Integers and booleans
    /// are written out; a null is an empty text.
    pub columns: BTreeMap<String, Vec<String>>,
    /// The columns of a Parquet file that are neither the embeddings nor text, and were not read.
    pub left_out: Vec<String>,
}

impl VectorTable {
    /// The number of embeddings, at least one.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.vectors.len() / self.dimension.max(1)
    }

    /// The label, id, role and metadata of each row, from the columns of the same file.
    ///
    /// # Errors
    /// Refuses what [`LabelTable::read`] refuses; `path` is named if something is wrong.
    pub fn labels(&self, path: &Path) -> Result<LabelTable, ArraysError> {
        LabelTable::from_columns(path, self.columns.clone(), self.rows())
    }
}
