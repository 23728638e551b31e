//! Small files that the program keeps: read whole if they are regular files, and replaced whole.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Why a small file could not be read or replaced.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FileError {
    /// The disk.
    #[error("{}: {cause}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The system's reason.
        cause: String,
    },
    /// A file's content is not what was written.
    #[error("{} is damaged: {problem}; restore it from a backup", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What was found.
        problem: String,
    },
    /// A bug: the content cannot be written as JSON.
    #[error("{reason}")]
    Content {
        /// What happened.
        reason: String,
    },
}

impl FileError {
    /// What the system said of a file or folder.
    #[must_use]
    pub fn io(path: &Path, cause: &io::Error) -> Self {
        Self::Io {
            path: path.to_owned(),
            cause: cause.to_string(),
        }
    }
}

/// Opens a regular file for reading. A pipe in its place would be waited for, without end.
///
/// # Errors
/// It is missing or no regular file, or the disk.
pub fn open_file(path: &Path) -> io::Result<File> {
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::other("is not a regular file"));
    }
    File::open(path)
}

/// Reads a regular file whole.
///
/// # Errors
/// As [`open_file`].
pub fn read_file(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    io::Read::read_to_end(&mut open_file(path)?, &mut bytes)?;
    Ok(bytes)
}

/// Replaces a file so that after a crash there is either the old content or the new.
///
/// # Errors
/// The disk.
pub fn replace_file(path: &Path, content: &[u8]) -> Result<(), FileError> {
    let failed = |cause: io::Error| FileError::io(path, &cause);
    let beside = path.with_extension("tmp");
    // Opened before anything is replaced: a lack of descriptors must not be found out in between.
    let folder = File::open(path.parent().unwrap_or(Path::new("."))).map_err(failed)?;
    let written = File::create(&beside).and_then(|mut file| {
        file.write_all(content)?;
        file.sync_all()
    });
    written
        .and_then(|()| fs::rename(&beside, path))
        .inspect_err(|_| {
            // What is left of it would keep a full disk full.
            drop(fs::remove_file(&beside));
        })
        .map_err(failed)?;
    folder.sync_all().map_err(failed)
}

/// Replaces a file by a value as JSON, whole and on the disk when it returns.
///
/// # Errors
/// The value has no form in JSON, or the disk.
pub fn write_json(path: &Path, value: &impl Serialize) -> Result<(), FileError> {
    let json = serde_json::to_vec_pretty(value).map_err(|cause| FileError::Content {
        reason: cause.to_string(),
    })?;
    replace_file(path, &json)
}

/// Reads a value from a file of JSON; `None` if there is none.
///
/// # Errors
/// The file is damaged, or the disk.
pub fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, FileError> {
    let bytes = match read_file(path) {
        Ok(bytes) => bytes,
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(cause) => return Err(FileError::io(path, &cause)),
    };
    let damaged = |cause: serde_json::Error| FileError::Damaged {
        path: path.to_owned(),
        problem: cause.to_string(),
    };
    serde_json::from_slice(&bytes).map(Some).map_err(damaged)
}

/// Reads a list from a file of JSON; empty if there is none, and if it is damaged, which the log says
/// in the words of `damaged`.
///
/// # Errors
/// It could not be read, for instance for want of a descriptor: what it holds must not be taken for lost.
pub fn read_list<T: DeserializeOwned>(path: &Path, damaged: &str) -> Result<Vec<T>, FileError> {
    match read_json(path) {
        Ok(list) => Ok(list.unwrap_or_default()),
        Err(error @ FileError::Damaged { .. }) => {
            tracing::error!(%error, "{damaged}");
            Ok(Vec::new())
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_file_is_refused_and_not_waited_for() {
        let root = tempfile::tempdir().unwrap();
        let pipe = root.path().join("labels.log");
        let made = std::process::Command::new("mkfifo").arg(&pipe).status();
        assert!(made.unwrap().success());
        for path in [&pipe, root.path()] {
            let refused = read_file(path).unwrap_err();
            assert!(refused.to_string().contains("not a regular file"));
        }
        assert!(read_json::<u32>(&pipe).is_err());
        assert!(read_list::<u32>(&pipe, "damaged").is_err());
        let missing = read_json::<u32>(&root.path().join("none"));
        assert_eq!(missing.unwrap(), None);
        let damaged = root.path().join("damaged");
        fs::write(&damaged, "[1, 2").unwrap();
        assert!(read_list::<u32>(&damaged, "damaged").unwrap().is_empty());
    }
}
