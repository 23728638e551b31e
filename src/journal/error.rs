//! Why the journal refuses, and what to do about it.

use std::io;
use std::path::{Path, PathBuf};

use rusqlite::ErrorCode;

/// Every way in which an operation on a journal can fail.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// There is no file.
    #[error("there is no journal at {}; the server makes one when it records its first decision", path.display())]
    NotFound {
        /// The database file.
        path: PathBuf,
    },
    /// An `SQLite` file of something else.
    #[error("{} is not a journal ({what}); move it away, and a new one will be started", path.display())]
    NotAJournal {
        /// The database file.
        path: PathBuf,
        /// What was found.
        what: String,
    },
    /// Written by another version of this program.
    #[error(
        "the journal {} has format {found}, and this version reads format {readable}; use the Matchpoint \
         that wrote it, or move the file away, and a new one will be started", path.display()
    )]
    Format {
        /// The database file.
        path: PathBuf,
        /// The format of the file.
        found: i64,
        /// The only format that is read.
        readable: i64,
    },
    /// What is stored differs from what was written.
    #[error("the journal {} is damaged: {what}", path.display())]
    Damaged {
        /// The database file.
        path: PathBuf,
        /// What does not agree.
        what: String,
    },
    /// No room on the disk; nothing was written.
    #[error("no space left for the journal {}; nothing was written", path.display())]
    Full {
        /// The database file.
        path: PathBuf,
    },
    /// The database failed.
    #[error("cannot {doing} the journal {}: {source}", path.display())]
    Storage {
        /// The database file.
        path: PathBuf,
        /// What was tried.
        doing: &'static str,
        /// The database's words.
        source: rusqlite::Error,
    },
    /// The disk failed.
    #[error("cannot {doing} {}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What was tried.
        doing: &'static str,
        /// The system's words.
        source: io::Error,
    },
    /// Too many labels at once.
    #[error("{found} labels at once, and {max} are the limit; send several batches")]
    Batch {
        /// How many came.
        found: usize,
        /// How many may.
        max: usize,
    },
    /// The writer has fallen behind.
    #[error("the journal's writer has too much to write; try again in a moment")]
    Busy,
    /// A bug: the writer lives as long as its journal.
    #[error("the journal's writer has ended; the log has the cause")]
    Ended,
}

impl JournalError {
    /// Whether the file itself is at fault, so that a new one has to take its place.
    pub(super) fn is_damage(&self) -> bool {
        match self {
            Self::Damaged { .. } => true,
            Self::NotFound { .. }
            | Self::NotAJournal { .. }
            | Self::Format { .. }
            | Self::Full { .. }
            | Self::Storage { .. }
            | Self::File { .. }
            | Self::Batch { .. }
            | Self::Busy
            | Self::Ended => false,
        }
    }
}

/// What is tried while a journal is opened.
pub(super) const OPEN: &str = "open";

/// The database's error as ours.
pub(super) fn failed(path: &Path, doing: &'static str, error: rusqlite::Error) -> JournalError {
    let path = path.to_path_buf();
    match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => JournalError::Full { path },
        // Without a code the row was read, but its columns are not what they should be.
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) | None => {
            JournalError::Damaged {
                path,
                what: error.to_string(),
            }
        }
        // Nothing that is asked at opening is wrong in itself, so the file's layout is.
        Some(ErrorCode::Unknown) if doing == OPEN => JournalError::Damaged {
            path,
            what: error.to_string(),
        },
        Some(_) => JournalError::Storage {
            path,
            doing,
            source: error,
        },
    }
}

/// The system's error as ours.
pub(super) fn file_failed(path: &Path, doing: &'static str, source: io::Error) -> JournalError {
    let path = path.to_path_buf();
    let kind = source.kind();
    if kind == io::ErrorKind::NotFound {
        return JournalError::NotFound { path };
    }
    if kind == io::ErrorKind::StorageFull {
        return JournalError::Full { path };
    }
    JournalError::File {
        path,
        doing,
        source,
    }
}
