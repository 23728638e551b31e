//! A log of changes by generation of the gallery: a file with a line of JSON for each of them, which survives a
//! crash of the process.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::files::{FileError, read_file, replace_file};

/// Damaged files that are kept beside a log. The last name is used again.
const SET_ASIDE_MAX: usize = 3;

/// A log to which changes are added. A change that is lost in a power failure was never there.
#[derive(Debug)]
pub(super) struct ChangeLog {
    path: PathBuf,
    file: Mutex<File>,
    lost_before: u64,
}

/// The line that stands for changes that damage took: what they said of earlier generations is not known.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct LostChanges {
    lost_before: u64,
}

/// What the file of a log holds.
#[derive(Debug)]
struct ReadLog<T> {
    changes: Vec<T>,
    lost: LostChanges,
    /// Length of a last line that a crash cut off, which is no damage.
    unfinished: usize,
    /// What is wrong with other lines.
    damage: Option<String>,
}

impl ChangeLog {
    /// Opens a log, and reads its changes. If it is damaged, it is set aside, with an error in the log of the
    /// program, and what changes said of generations before this one counts as not known from then on.
    pub(super) fn open<T: Serialize + DeserializeOwned>(
        path: &Path,
        generation: u64,
    ) -> Result<(Self, Vec<T>), FileError> {
        let ReadLog {
            changes,
            lost,
            unfinished,
            damage,
        } = read_log(path)?;
        let mut lost_before = lost.lost_before;
        if let Some(problem) = &damage {
            lost_before = lost_before.max(generation);
            let aside = set_aside(path)?;
            tracing::error!(
                path = %path.display(),
                problem,
                set_aside = %aside.display(),
                "a log of changes is damaged: what depends on the changes before generation {generation} is not known from now on, and counts for no rate"
            );
        }
        let log = Self {
            path: path.to_owned(),
            file: Mutex::new(appending(path)?),
            lost_before,
        };
        if damage.is_some() {
            log.replace(&changes)?;
        } else if 0 < unfinished {
            // Takes no room on a disk that is full.
            let file = log.file.lock().unwrap_or_else(PoisonError::into_inner);
            let whole = file.metadata().and_then(|about| {
                let whole = about.len().saturating_sub(unfinished as u64);
                file.set_len(whole)
            });
            whole.map_err(|cause| FileError::io(path, &cause))?;
        }
        Ok((log, changes))
    }

    /// Replaces all changes, as one step.
    pub(super) fn replace<T: Serialize>(&self, changes: &[T]) -> Result<(), FileError> {
        let mut content = Vec::new();
        if 0 < self.lost_before {
            let lost_before = self.lost_before;
            content.extend(line(&LostChanges { lost_before })?);
        }
        for change in changes {
            content.extend(line(change)?);
        }
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        replace_file(&self.path, &content)?;
        *file = appending(&self.path)?;
        Ok(())
    }

    /// Whether damage took what changes said of a generation.
    pub(super) fn has_lost(&self, generation: u64) -> bool {
        generation < self.lost_before
    }

    /// Adds a change. A failure, which the log of the program says in the words of `lost`, fails nothing else.
    pub(super) fn add(&self, change: &impl Serialize, lost: &str) {
        let written = line(change).and_then(|line| {
            let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
            append(&mut file, &line).map_err(|cause| FileError::io(&self.path, &cause))
        });
        if let Err(error) = written {
            tracing::error!(%error, "{lost}");
        }
    }
}

/// Writes a line, whole or not at all: a part of one would take the next one for a part of it, which is damage.
fn append(file: &mut File, line: &[u8]) -> io::Result<()> {
    let length = file.metadata()?.len();
    file.write_all(line).or_else(|cause| {
        file.set_len(length)?;
        Err(cause)
    })
}

/// Checks a log without changing it.
pub(super) fn check_log<T: DeserializeOwned>(path: &Path) -> Result<(), FileError> {
    let damaged = |problem| FileError::Damaged {
        path: path.to_owned(),
        problem,
    };
    read_log::<T>(path)?
        .damage
        .map_or(Ok(()), |problem| Err(damaged(problem)))
}

fn read_log<T: DeserializeOwned>(path: &Path) -> Result<ReadLog<T>, FileError> {
    let bytes = match read_file(path) {
        Ok(bytes) => bytes,
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(cause) => return Err(FileError::io(path, &cause)),
    };
    let mut read = ReadLog {
        changes: Vec::new(),
        lost: LostChanges::default(),
        unfinished: bytes
            .rsplit(|byte| *byte == b'\n')
            .next()
            .map_or(0, <[u8]>::len),
        damage: None,
    };
    let (mut lines, mut unread, mut first) = (0_usize, 0_usize, 0_usize);
    for line in bytes.split_inclusive(|byte| *byte == b'\n') {
        if !line.ends_with(b"\n") {
            continue;
        }
        lines += 1;
        if let Ok(change) = serde_json::from_slice(line) {
            read.changes.push(change);
        } else if let Ok(lost) = serde_json::from_slice(line) {
            read.lost = lost;
        } else {
            unread += 1;
            first = if unread == 1 { lines } else { first };
        }
    }
    if 0 < unread {
        read.damage = Some(format!(
            "{unread} of its {lines} lines cannot be read, the first of them line {first}"
        ));
    }
    Ok(read)
}

fn line(change: &impl Serialize) -> Result<Vec<u8>, FileError> {
    let json = serde_json::to_vec(change).map_err(|cause| FileError::Content {
        reason: cause.to_string(),
    });
    json.map(|mut line| {
        line.push(b'\n');
        line
    })
}

fn appending(path: &Path) -> Result<File, FileError> {
    let file = OpenOptions::new().create(true).append(true).open(path);
    file.map_err(|cause| FileError::io(path, &cause))
}

/// Copies a damaged file, because only the log that goes on may take its place.
fn set_aside(path: &Path) -> Result<PathBuf, FileError> {
    let name = |number: usize| {
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".damaged-{number}"));
        PathBuf::from(name)
    };
    let free = (1..=SET_ASIDE_MAX).find(|number| !name(*number).exists());
    let aside = name(free.unwrap_or(SET_ASIDE_MAX));
    let copied = fs::copy(path, &aside);
    copied.map_err(|cause| FileError::io(&aside, &cause))?;
    Ok(aside)
}
