//! A log of changes: a file with a line of JSON for each of them, which survives a crash of the process.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::files::{FileError, read_file, replace_file};

/// A log to which changes are added. A change that is lost in a power failure was never there.
#[derive(Debug)]
pub(super) struct ChangeLog {
    path: PathBuf,
    file: Mutex<File>,
}

impl ChangeLog {
    /// Opens a log, and reads its changes. Of more than `most` lines the earliest are removed.
    pub(super) fn open<T: DeserializeOwned>(
        path: &Path,
        most: usize,
    ) -> Result<(Self, Vec<T>), FileError> {
        let failed = |cause: io::Error| FileError::io(path, &cause);
        let text = match read_file(path) {
            Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => String::new(),
            Err(cause) => return Err(failed(cause)),
        };
        let surplus = text.lines().count().saturating_sub(most);
        let (mut changes, mut whole) = (Vec::new(), String::new());
        for line in text.lines().skip(surplus) {
            // A line that a crash cut off is ignored.
            if let Ok(change) = serde_json::from_str(line) {
                changes.push(change);
                whole.push_str(line);
                whole.push('\n');
            }
        }
        if whole != text {
            replace_file(path, whole.as_bytes())?;
        }
        let file = OpenOptions::new().create(true).append(true).open(path);
        let log = Self {
            path: path.to_owned(),
            file: Mutex::new(file.map_err(failed)?),
        };
        Ok((log, changes))
    }

    /// Adds a change. A failure, which the log of the program says in the words of `lost`, fails nothing else.
    pub(super) fn add(&self, change: &impl Serialize, lost: &str) {
        let written = serde_json::to_vec(change).map_err(io::Error::other);
        let written = written.and_then(|mut line| {
            line.push(b'\n');
            let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
            file.write_all(&line)
        });
        if let Err(error) = written {
            tracing::error!(%error, path = %self.path.display(), "{lost}");
        }
    }
}
