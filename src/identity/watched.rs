//! What was read from files, read again when they change.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;

use super::error::IdentityError;

type ReadAgain<T> = Box<dyn Fn(Option<&T>) -> Result<T, IdentityError> + Send + Sync>;

/// What distinguishes versions of a file: device, inode, length, and time of change to the nanosecond.
/// `None` if the file does not exist.
type FileStamp = Option<(u64, u64, u64, i64, i64)>;

/// A value that is read from files. If the content is unusable, that is logged, and the value stays.
pub(super) struct Watched<T> {
    files: Vec<PathBuf>,
    read: ReadAgain<T>,
    now: ArcSwap<T>,
    seen: Mutex<SeenStamps>,
}

struct SeenStamps {
    used: Vec<FileStamp>,
    /// The version that could not be used; that is logged once.
    refused: Option<Vec<FileStamp>>,
}

impl<T> std::fmt::Debug for Watched<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watched")
            .field("files", &self.files)
            .finish_non_exhaustive()
    }
}

impl<T> Watched<T> {
    /// Reads the files, which have to be valid at first.
    pub(super) fn open(
        files: Vec<PathBuf>,
        read: impl Fn(Option<&T>) -> Result<T, IdentityError> + Send + Sync + 'static,
    ) -> Result<Self, IdentityError> {
        // Before they are read: a change meanwhile is noticed the next time.
        let used = stamps(&files);
        let now = read(None)?;
        Ok(Self {
            files,
            read: Box::new(read),
            now: ArcSwap::from_pointee(now),
            seen: Mutex::new(SeenStamps {
                used,
                refused: None,
            }),
        })
    }

    /// The present value.
    pub(super) fn now(&self) -> Arc<T> {
        self.now.load_full()
    }

    /// Reads the files again if they have changed.
    pub(super) fn look(&self) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let found = stamps(&self.files);
        if found == seen.used {
            seen.refused = None;
            return;
        }
        let files: Vec<String> = self.files.iter().map(|f| f.display().to_string()).collect();
        let files = files.join(", ");
        match (self.read)(Some(&self.now.load())) {
            Ok(value) => {
                self.now.store(Arc::new(value));
                *seen = SeenStamps {
                    used: found,
                    refused: None,
                };
                tracing::info!(files, "read again");
            }
            Err(error) if seen.refused.as_ref() != Some(&found) => {
                tracing::error!(%error, files, "what changed cannot be used; what was read before stays");
                seen.refused = Some(found);
            }
            // Logged already. It may become usable: perhaps the disk or the system had no space.
            Err(_) => {}
        }
    }
}

fn stamps(files: &[PathBuf]) -> Vec<FileStamp> {
    files.iter().map(|file| stamp(file)).collect()
}

fn stamp(file: &Path) -> FileStamp {
    let about = fs::metadata(file).ok()?;
    let (seconds, nanoseconds) = (about.mtime(), about.mtime_nsec());
    Some((about.dev(), about.ino(), about.len(), seconds, nanoseconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_changes_is_read_again_and_what_cannot_be_used_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("value");
        let read = {
            let path = path.clone();
            move |_: Option<&u32>| {
                let text = fs::read_to_string(&path).map_err(|cause| IdentityError::Io {
                    path: path.clone(),
                    cause,
                })?;
                text.parse().map_err(|_cause| IdentityError::Content {
                    path: path.clone(),
                    problem: "is no number".to_owned(),
                })
            }
        };
        assert!(Watched::open(vec![path.clone()], read.clone()).is_err());
        fs::write(&path, "1").unwrap();
        let watched = Watched::open(vec![path.clone()], read).unwrap();
        let replace = |text: &str| {
            let beside = folder.path().join("beside");
            fs::write(&beside, text).unwrap();
            fs::rename(&beside, &path).unwrap();
        };
        replace("x");
        watched.look();
        assert_eq!(*watched.now(), 1);
        fs::remove_file(&path).unwrap();
        watched.look();
        assert_eq!(*watched.now(), 1);
        replace("2");
        watched.look();
        assert_eq!(*watched.now(), 2);
    }
}
