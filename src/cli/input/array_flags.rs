//! Which vectors of a file, and which rows of them.

use std::path::Path;

use matchpoint_arrays::{ArraysError, ReadOptions, VectorTable};

/// The array and the rows that are taken of a file of vectors.
#[derive(Debug, clap::Args)]
pub(crate) struct ArrayFlags {
    /// The array of an .npz, or the column of a Parquet file, that holds the vectors
    #[arg(long, value_name = "NAME", requires = "embeddings")]
    pub(crate) array: Option<String>,
    /// Take only rows whose column `split` has this value
    #[arg(long, value_name = "VALUE", requires = "embeddings")]
    pub(crate) split: Option<String>,
}

impl ArrayFlags {
    /// Reads the vectors of a file.
    pub(crate) fn read(&self, path: &Path) -> Result<VectorTable, ArraysError> {
        let options = ReadOptions {
            name: self.array.clone(),
            text: None,
            bytes_max: matchpoint_arrays::BYTES_MAX,
        };
        matchpoint_arrays::read(path, &options)
    }
}
