//! The file that is read, what to take from it, and what every reader refuses.

use std::io;

use super::error::ArraysError;

/// The most values that one row may have.
pub const DIMENSION_MAX: usize = 65_536;

/// What the vectors, or the text, of one file may take in memory unless a caller says otherwise,
/// in bytes: 16 GiB, which is 8 million rows of 512 values.
pub const BYTES_MAX: u64 = 16 << 30;

/// What to take from a file that may hold more than one array.
#[derive(Clone, Debug)]
pub struct ReadOptions {
    /// The array of an `.npz`, or the column of a Parquet file, with the embeddings; `None` for
    /// the only one that can be.
    pub name: Option<String>,
    /// The text columns to take from a Parquet file; `None` for all.
    pub text: Option<Vec<String>>,
    /// What the vectors may take in memory, and again what the text may, in bytes.
    pub bytes_max: u64,
}

/// What is read, for the readers of this room.
#[derive(Clone, Copy)]
pub(super) struct ArrayInput<'a> {
    /// The file, and within it the array, as errors name it.
    pub(super) place: &'a str,
    /// How long it is.
    pub(super) bytes: u64,
    pub(super) options: &'a ReadOptions,
}

impl ArrayInput<'_> {
    pub(super) fn damaged(&self, what: impl Into<String>) -> ArraysError {
        ArraysError::Damaged {
            place: self.place.to_owned(),
            what: what.into(),
        }
    }

    /// A file that ends early is damaged; anything else is the file system's fault.
    pub(super) fn unreadable(&self, source: io::Error) -> ArraysError {
        let kind = source.kind();
        if kind == io::ErrorKind::UnexpectedEof {
            return self.damaged("it ends too early");
        }
        if matches!(
            kind,
            io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput
        ) {
            return self.damaged(source.to_string());
        }
        ArraysError::Io {
            place: self.place.to_owned(),
            doing: "read",
            source,
        }
    }

    /// A name makes no sense if there is nothing to choose from.
    pub(super) fn alone(&self) -> Result<(), ArraysError> {
        match &self.options.name {
            None => Ok(()),
            Some(name) => Err(ArraysError::NoSuch {
                place: self.place.to_owned(),
                kind: "array",
                name: name.clone(),
                found: "one array without a name; leave the name out".to_owned(),
            }),
        }
    }

    /// Memory for this many values, if the limits allow it and the system has it; not initialised.
    pub(super) fn reserve(&self, values: u64) -> Result<Vec<f32>, ArraysError> {
        let bytes = values.saturating_mul(4);
        let limit = self.options.bytes_max;
        if limit < bytes {
            return Err(ArraysError::TooLarge {
                place: self.place.to_owned(),
                bytes,
                limit,
            });
        }
        let mut vectors = Vec::new();
        match usize::try_from(values).map(|values| vectors.try_reserve_exact(values)) {
            Ok(Ok(())) => Ok(vectors),
            Ok(Err(_)) | Err(_) => Err(ArraysError::Memory {
                place: self.place.to_owned(),
                bytes,
            }),
        }
    }

    /// The shape of a table of embeddings, checked.
    pub(super) fn shape(&self, rows: u64, dimension: u64) -> Result<usize, ArraysError> {
        if rows == 0 {
            return Err(ArraysError::Empty {
                place: self.place.to_owned(),
            });
        }
        match usize::try_from(dimension) {
            Ok(dimension @ 1..=DIMENSION_MAX) => Ok(dimension),
            _ => Err(ArraysError::Dimension {
                place: self.place.to_owned(),
                dimension,
                limit: DIMENSION_MAX,
            }),
        }
    }
}
