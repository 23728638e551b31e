//! What an interrupted creation leaves.

use std::fs;
use std::io;
use std::path::Path;

use rusqlite::{Connection, OpenFlags};

use crate::connection::connect;
use crate::error::GalleryError;
use crate::format::TABLES;
use crate::lock::WriterLock;
use crate::paths::with_suffix;

/// Removes the files of a gallery that was never completed, if there are any. Nothing that holds an item, or
/// that cannot be read, is removed: its owner may have lost only the file beside it that names it.
///
/// # Errors
/// Returns [`GalleryError::Exists`] for a gallery with items and for a file that cannot be read,
/// [`GalleryError::InUse`] if another process writes to it, and an error if the disk fails.
pub fn remove_unfinished(path: &Path) -> Result<(), GalleryError> {
    let file_error = |doing, source| GalleryError::File {
        path: path.to_path_buf(),
        doing,
        source,
    };
    let exists = |path: &Path| match path.symlink_metadata() {
        Ok(_) => Ok(true),
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(cause) => Err(file_error("read", cause)),
    };
    let files = ["", "-wal", "-shm", "-journal"].map(|suffix| with_suffix(path, suffix));
    let mut any = false;
    for file in &files {
        any |= exists(file)?;
    }
    if !any {
        return Ok(());
    }
    let _lock = WriterLock::take(path)?;
    if exists(path)? {
        let empty = connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE)
            .and_then(|connection| is_empty(&connection));
        if !empty.unwrap_or(false) {
            return Err(GalleryError::Exists {
                path: path.to_path_buf(),
            });
        }
    }
    for file in &files {
        match fs::remove_file(file) {
            Err(cause) if cause.kind() != io::ErrorKind::NotFound => {
                return Err(file_error("remove", cause));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Whether no table has been made yet, or none has a row besides that of the gallery itself.
fn is_empty(connection: &Connection) -> Result<bool, rusqlite::Error> {
    let tables: i64 =
        connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    if tables == 0 {
        return Ok(true);
    }
    let [_, (items, _)] = TABLES;
    let rows: i64 = connection.query_row(&format!("SELECT count(*) FROM {items}"), [], |row| {
        row.get(0)
    })?;
    Ok(rows == 0)
}
