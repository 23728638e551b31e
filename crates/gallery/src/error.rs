//! The errors of a gallery, with advice.

use std::io;
use std::path::{Path, PathBuf};

use rusqlite::ErrorCode;

use crate::index::error::IndexError;
use matchpoint_vector::NotAnEmbedding;

/// The reasons why an operation on a gallery failed.
#[derive(Debug, thiserror::Error)]
pub enum GalleryError {
    /// The file does not exist.
    #[error("there is no gallery at {path}; check the path, or create the gallery first")]
    NotFound {
        /// The database file.
        path: PathBuf,
    },
    /// A file already exists where a new gallery should be.
    #[error("{path} exists already; remove it, or choose another path for the new gallery")]
    Exists {
        /// The existing file.
        path: PathBuf,
    },
    /// The file is not a gallery, or its first bytes are damaged.
    #[error("{path} is not a gallery ({what}); check the path, or restore the file from a backup")]
    NotAGallery {
        /// The database file.
        path: PathBuf,
        /// What was found instead.
        what: String,
    },
    /// The file was written by another version of this program.
    #[error("the gallery {path} has format {found}, and this version reads format {readable}")]
    Format {
        /// The database file.
        path: PathBuf,
        /// The format of the file.
        found: i64,
        /// The only format that is read.
        readable: i64,
    },
    /// The stored data differ from what was acknowledged.
    #[error("the gallery {path} is damaged: {what}; restore it from a backup or build it again")]
    Damaged {
        /// The database file.
        path: PathBuf,
        /// What does not match.
        what: String,
    },
    /// The file of the index cannot be used.
    #[error("the index {path} cannot be used: {what}")]
    IndexFile {
        /// The index's file.
        path: PathBuf,
        /// The reason.
        what: String,
    },
    /// A stored vector has changed since it was verified.
    #[error(
        "the vector of item `{id}` in {} has changed on the disk; stop the server, remove that file \
         and start again: it is rebuilt from the items", path.display()
    )]
    Changed {
        /// The id of the item.
        id: String,
        /// The file that contains the vector.
        path: PathBuf,
    },
    /// Another process, or another handle in this one, is writing to it.
    #[error("the gallery {path} is open for writing by {holder}; stop that writer first")]
    InUse {
        /// The database file.
        path: PathBuf,
        /// The process that holds the lock.
        holder: String,
    },
    /// The handle was opened for reading.
    #[error("the gallery {path} is open for reading only")]
    ReadOnly {
        /// The database file.
        path: PathBuf,
    },
    /// The disk is full; nothing was written.
    #[error("no space left for the gallery {path}; nothing was written")]
    Full {
        /// The database file.
        path: PathBuf,
    },
    /// The database failed for another reason.
    #[error("could not {doing} the gallery {path}: {source}")]
    Storage {
        /// The database file.
        path: PathBuf,
        /// What was attempted.
        doing: &'static str,
        /// The error of the database.
        source: rusqlite::Error,
    },
    /// The file system failed.
    #[error("could not {doing} {path}: {source}")]
    File {
        /// The file concerned.
        path: PathBuf,
        /// What was attempted.
        doing: &'static str,
        /// The error of the operating system.
        source: io::Error,
    },
    /// An earlier operation on this handle failed half-way.
    #[error("an earlier operation on the gallery {path} failed half-way; open the gallery again")]
    Unusable {
        /// The database file.
        path: PathBuf,
    },
    /// The description of a new gallery is out of range.
    #[error("the {field} of the new gallery {problem}")]
    Description {
        /// The name of the argument.
        field: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// An index parameter is out of range.
    #[error("the index parameter {name} is {found}; it must be {min} to {max}")]
    IndexParams {
        /// The name of the parameter.
        name: &'static str,
        /// The value given.
        found: usize,
        /// The lowest allowed value.
        min: usize,
        /// The highest allowed value.
        max: usize,
    },
    /// An item exceeds a limit; nothing of its batch was written.
    #[error("item {position} of the batch, id {id:?}: its {field} {problem}")]
    Item {
        /// Its position in the batch, from 0.
        position: usize,
        /// The item's id, cut to 64 characters.
        id: String,
        /// The name of the field.
        field: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// An id occurs twice in one batch; nothing was written.
    #[error("id {id:?} occurs twice in the batch, at {first} and at {second}")]
    Duplicate {
        /// The id.
        id: String,
        /// The position of its first occurrence, from 0.
        first: usize,
        /// The position of its second occurrence, from 0.
        second: usize,
    },
    /// There are too many items or ids in one batch.
    #[error("the batch has {found} entries; at most {max} are taken at once")]
    Batch {
        /// Number of entries in the batch.
        found: usize,
        /// The highest allowed number.
        max: usize,
    },
    /// No index can be built of these items.
    #[error("the index of the gallery cannot be built: {0}")]
    Index(#[from] IndexError),
    /// The query has another dimension than the gallery.
    #[error("the query has {found} dimensions, and the gallery has {expected}")]
    QueryDimension {
        /// Dimension of the query.
        found: usize,
        /// Dimension of the gallery.
        expected: usize,
    },
    /// `k` is out of range.
    #[error("{found} neighbours were asked for; it must be 1 to {max}")]
    Neighbours {
        /// The `k` of the request.
        found: usize,
        /// The highest allowed value.
        max: usize,
    },
}

impl GalleryError {
    /// Converts an error of the database that occurred while `doing` something with the file at `path`.
    pub(super) fn from_sqlite(path: &Path, doing: &'static str, error: rusqlite::Error) -> Self {
        let path = path.to_path_buf();
        match error.sqlite_error_code() {
            Some(ErrorCode::NotADatabase) => Self::NotAGallery {
                path,
                what: "it is not a SQLite file".to_owned(),
            },
            Some(ErrorCode::DiskFull) => Self::Full { path },
            // The row was read, but its columns do not have the expected types.
            Some(ErrorCode::DatabaseCorrupt) | None => Self::Damaged {
                path,
                what: error.to_string(),
            },
            Some(_) => Self::Storage {
                path,
                doing,
                source: error,
            },
        }
    }

    /// The error for a path that leads to no gallery file.
    pub(super) fn not_found(path: &Path, source: io::Error) -> Self {
        let path = path.to_path_buf();
        if source.kind() == io::ErrorKind::NotFound {
            return Self::NotFound { path };
        }
        Self::File {
            path,
            doing: "find",
            source,
        }
    }
}

/// The reason why a stored row cannot be read. The caller adds its position.
#[derive(Debug, thiserror::Error)]
pub(super) enum BadRow {
    #[error("its metadata is not readable ({0})")]
    Metadata(#[from] serde_json::Error),
    #[error("its embedding is not valid ({0})")]
    Embedding(#[from] NotAnEmbedding),
    #[error("its embedding has {found} bytes instead of {expected}")]
    EmbeddingBytes { found: usize, expected: usize },
    #[error("its {0} has not 32 bytes")]
    HashBytes(&'static str),
    #[error("its checksum does not match")]
    Checksum,
    #[error("it cannot be read ({0})")]
    Column(#[from] rusqlite::Error),
}
