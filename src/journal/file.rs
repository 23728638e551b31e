//! The file itself: opened, created, and set aside if it is damaged.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};

use crate::journal::error::{JournalError, OPEN, failed, file_failed};
use crate::journal::format::{self, check_kind};

/// The write-ahead log is truncated to this size.
const LOG_BYTES_MAX: i64 = 16 * 1024 * 1024;
/// How long to wait for a reader that holds the file during recovery or closing.
const BUSY_WAIT: Duration = Duration::from_secs(5);
/// Damaged files that are kept beside the journal. The last name is used again.
const SET_ASIDE_MAX: usize = 3;

/// Opens a journal for reading, beside a writer; also returns its format.
pub(super) fn connect_to_read(path: &Path) -> Result<(Connection, i32), JournalError> {
    fs::metadata(path).map_err(|source| file_failed(path, "open", source))?;
    let connection = connect(path, OpenFlags::SQLITE_OPEN_READ_ONLY)
        .map_err(|error| failed(path, OPEN, error))?;
    let format = check_kind(&connection, path)?;
    Ok((connection, format))
}

pub(super) fn connect(path: &Path, flags: OpenFlags) -> Result<Connection, rusqlite::Error> {
    let connection = Connection::open_with_flags(path, flags | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    connection.busy_timeout(BUSY_WAIT)?;
    // The file is data: nothing stored in it may be executed or weaken the settings.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
    connection.pragma_update(None, "cell_size_check", true)?;
    connection.set_prepared_statement_cache_capacity(32);
    Ok(connection)
}

/// Refuses a header that would make the database open the file read-only.
pub(super) fn check_header(path: &Path) -> Result<(), JournalError> {
    let mut header = [0; 20];
    // Opening a pipe would wait for ever.
    let opened = fs::metadata(path).and_then(|about| match about.is_file() {
        true => File::open(path),
        false => Err(io::Error::other("it is not a regular file")),
    });
    let read = opened.and_then(|mut file| file.read_exact(&mut header));
    read.map_err(|source| file_failed(path, "read", source))?;
    // The format versions for writing and reading: 2 means a write-ahead log.
    match header {
        [.., 2, 2] => Ok(()),
        [.., write, read] => {
            let what = format!("its header has versions {write} and {read}");
            Err(damaged(path, &what))
        }
    }
}

pub(super) fn prepare_to_write(connection: &Connection, path: &Path) -> Result<(), JournalError> {
    let set = || {
        let mode = connection
            .pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get::<_, String>(0))?;
        // An annotation is acknowledged once it is on the disk.
        connection.pragma_update(None, "synchronous", "FULL")?;
        // What is removed is overwritten: an image can be personal data.
        connection.pragma_update_and_check(None, "secure_delete", true, |_| Ok(()))?;
        let limit = LOG_BYTES_MAX;
        connection.pragma_update_and_check(None, "journal_size_limit", limit, |_| Ok(()))?;
        let check = connection.pragma_query_value(None, "quick_check", |row| row.get(0))?;
        Ok((mode, check))
    };
    let (mode, check): (String, String) = set().map_err(|error| failed(path, OPEN, error))?;
    if mode != "wal" {
        let what = format!("its journal mode is {mode} and cannot be set to wal");
        return Err(damaged(path, &what));
    }
    if check != "ok" {
        return Err(damaged(path, &check));
    }
    Ok(())
}

/// Makes an empty journal. The file appears complete or not at all.
pub(super) fn begin(path: &Path) -> Result<(), JournalError> {
    // A log without its file would be replayed into the new one.
    for leftover in ["-wal", "-shm"] {
        remove(&beside(path, leftover))?;
    }
    let unfinished = beside(path, ".new");
    for leftover in ["", "-wal", "-shm", "-journal"] {
        remove(&beside(&unfinished, leftover))?;
    }
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE;
    connect(&unfinished, flags)
        .and_then(format::write_empty)
        .map_err(|error| failed(path, "begin", error))?;
    let sync = || {
        File::open(&unfinished)?.sync_all()?;
        fs::rename(&unfinished, path)?;
        File::open(path.parent().unwrap_or(Path::new("/")))?.sync_all()
    };
    sync().map_err(|source| file_failed(path, "begin", source))
}

fn remove(path: &Path) -> Result<(), JournalError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(file_failed(path, "clear the way for", error))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Renames a damaged journal and its log; returns the new name.
pub(super) fn set_aside(path: &Path) -> Result<PathBuf, JournalError> {
    let name = |number| beside(path, &format!(".damaged-{number}"));
    let free = (1..=SET_ASIDE_MAX).find(|number| !name(*number).exists());
    let aside = name(free.unwrap_or(SET_ASIDE_MAX));
    let moved = |ending: &str| fs::rename(beside(path, ending), beside(&aside, ending));
    moved("").map_err(|source| file_failed(path, "set aside", source))?;
    match moved("-wal") {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            return Err(file_failed(path, "set aside the log of", source));
        }
        Ok(()) | Err(_) => {}
    }
    Ok(aside)
}

pub(super) fn damaged(path: &Path, what: &str) -> JournalError {
    JournalError::Damaged {
        path: path.to_path_buf(),
        what: what.to_owned(),
    }
}

/// `path` with something appended to the file name.
pub(super) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}
