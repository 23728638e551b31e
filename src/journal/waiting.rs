//! Decisions that were answered and are not in the journal yet, in files that outlive the process.
//!
//! A decision is handed to the system, by one `write`, before it is answered; later the journal takes many
//! of them in one transaction. There are two files: one is appended to while the journal takes what is in
//! the other. What a killed process left in them goes into the journal when it is opened again. Nobody
//! waits for the disk, so a machine that loses its power may lose what is in them.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use crate::journal::entry::DecisionEntry;
use crate::journal::error::{JournalError, file_failed};

/// Endings of the two files, behind the journal's name.
const ENDINGS: [&str; 2] = [".waiting-1", ".waiting-2"];
/// A file has at most this many bytes: as much as may wait, with the longest labels.
const BYTES_MAX: u64 = 64 * 1024 * 1024;

/// A line of the files.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct WaitingLine<E> {
    pub(super) entry: E,
    /// Whether the decision has an image, which is in no file: what is removed there is not overwritten.
    pub(super) image: bool,
}

/// A decision as a line. It begins with an end of line, so that an incomplete line, after a full disk or
/// the end of a process, spoils no other.
pub(super) fn line(entry: &DecisionEntry, image: bool) -> Vec<u8> {
    let mut line = vec![b'\n'];
    // Text and numbers, which never fail.
    drop(serde_json::to_writer(
        &mut line,
        &WaitingLine { entry, image },
    ));
    line
}

/// The file that is appended to.
#[derive(Debug)]
pub(super) struct OpenFile {
    file: File,
    path: PathBuf,
    bytes: u64,
    /// Decisions ever handed to the writer.
    sent: u64,
    /// Whether the last attempt to write failed.
    failing: bool,
}

impl OpenFile {
    /// Appends a decision that was just handed to the journal's writer.
    pub(super) fn take(&mut self, line: &[u8]) {
        self.sent += 1;
        let written = if self.bytes <= BYTES_MAX {
            self.bytes += line.len() as u64;
            self.file.write_all(line)
        } else {
            Err(io::Error::other("the file of waiting decisions is full"))
        };
        match written {
            Ok(()) => self.failing = false,
            Err(error) => {
                if !std::mem::replace(&mut self.failing, true) {
                    let path = self.path.display();
                    tracing::error!(%path, %error, "decisions are answered before a file has them: a process that is killed now loses the newest");
                }
            }
        }
    }
}

/// The file that is appended to, for all threads that record.
#[derive(Clone, Debug)]
pub(super) struct SharedFile(Arc<Mutex<OpenFile>>);

impl SharedFile {
    pub(super) fn lock(&self) -> MutexGuard<'_, OpenFile> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Both files, as the journal's writer has them.
#[derive(Debug)]
pub(super) struct WaitingFiles {
    pub(super) open: SharedFile,
    /// The file that the journal takes from, and up to which decision it goes.
    closed: File,
    closed_path: PathBuf,
    closed_to: u64,
}

impl WaitingFiles {
    /// Opens both, and empties them, unless they hold what still has to go into the journal.
    pub(super) fn begin(journal: &Path, is_still_to_go: bool) -> Result<Self, JournalError> {
        let [(path, file), (closed_path, closed)] = paths(journal).map(|path| {
            let options = File::options().append(true).create(true).clone();
            let opened = options.open(&path);
            let begun = opened.and_then(|file| {
                if !is_still_to_go {
                    file.set_len(0)?;
                }
                let bytes = file.metadata()?.len();
                Ok((file, bytes))
            });
            (path, begun)
        });
        let (file, bytes) = file.map_err(|source| file_failed(&path, "begin", source))?;
        let (closed, _) = closed.map_err(|source| file_failed(&closed_path, "begin", source))?;
        let open = OpenFile {
            file,
            path,
            bytes,
            sent: 0,
            failing: false,
        };
        Ok(Self {
            open: SharedFile(Arc::new(Mutex::new(open))),
            closed,
            closed_path,
            closed_to: 0,
        })
    }

    /// The journal has the first `committed` decisions: empties a file that holds no others.
    pub(super) fn committed(&mut self, committed: u64) {
        if committed < self.closed_to {
            return;
        }
        if let Err(error) = self.closed.set_len(0) {
            let path = self.closed_path.display();
            tracing::error!(%path, %error, "a file of decisions that are recorded cannot be emptied; it is read again at the next start");
            return;
        }
        let mut open = self.open.lock();
        if 0 < open.bytes {
            std::mem::swap(&mut open.file, &mut self.closed);
            std::mem::swap(&mut open.path, &mut self.closed_path);
            open.bytes = 0;
            self.closed_to = open.sent;
        }
    }

    /// Removes both: everything is in the journal, and nothing more comes.
    pub(super) fn remove(&self) {
        let open = self.open.lock();
        for path in [&open.path, &self.closed_path] {
            // Empty or in the journal, so it does no harm if it stays.
            drop(std::fs::remove_file(path));
        }
    }
}

/// What a killed process left, oldest first, and how many lines cannot be read.
pub(super) fn left(journal: &Path) -> Result<(Vec<WaitingLine<DecisionEntry>>, u64), JournalError> {
    let (mut lines, mut unreadable) = (Vec::new(), 0);
    for path in paths(journal) {
        let file = match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            opened => opened.map_err(|source| file_failed(&path, "open", source))?,
        };
        for line in BufReader::new(file.take(2 * BYTES_MAX)).split(b'\n') {
            let line = line.map_err(|source| file_failed(&path, "read", source))?;
            if line.is_empty() {
                continue;
            }
            match serde_json::from_slice::<WaitingLine<DecisionEntry>>(&line) {
                Ok(line) if line.entry.sampling.is_none_or(|one| one.is_usable()) => {
                    lines.push(line);
                }
                Ok(_) | Err(_) => unreadable += 1,
            }
        }
    }
    lines.sort_by_key(|line| line.entry.id);
    Ok((lines, unreadable))
}

fn paths(journal: &Path) -> [PathBuf; 2] {
    ENDINGS.map(|ending| super::file::beside(journal, ending))
}
