//! The exclusive right to write.

use std::fs::{File, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::Path;

use crate::error::GalleryError;
use crate::paths::with_suffix;

/// The exclusive right to write, until it is dropped.
pub(super) struct WriterLock {
    _file: File,
}

impl WriterLock {
    /// Takes the lock file next to the database. If another process has it, it fails immediately and names that
    /// process.
    pub(super) fn take(path: &Path) -> Result<Self, GalleryError> {
        let lock_path = with_suffix(path, ".lock");
        let file_error = |source| {
            let path = lock_path.clone();
            GalleryError::File {
                path,
                doing: "lock",
                source,
            }
        };
        let mut options = File::options();
        // The file is not truncated, because until the lock is taken its pid belongs to another process.
        options.read(true).write(true).create(true).truncate(false);
        let mut file = options.open(&lock_path).map_err(file_error)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::Error(source)) => return Err(file_error(source)),
            Err(TryLockError::WouldBlock) => {
                let mut pid = String::new();
                let known = file.take(20).read_to_string(&mut pid).is_ok();
                let holder = match pid.trim() {
                    pid if known && !pid.is_empty() => format!("process {pid}"),
                    _ => "another process".to_owned(),
                };
                return Err(GalleryError::InUse {
                    path: path.to_path_buf(),
                    holder,
                });
            }
        }
        file.set_len(0).map_err(file_error)?;
        file.rewind().map_err(file_error)?;
        writeln!(file, "{}", std::process::id()).map_err(file_error)?;
        // The file stays after the lock is released, because removing it would be a race with the next writer.
        Ok(Self { _file: file })
    }
}
