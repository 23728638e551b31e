//! Temporary folders and files, with names that nothing else can have.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use uuid::Uuid;

use crate::deployment::DeploymentError;
use crate::deployment::backup::archive;

/// The start of temporary names. Names of deployments and snapshots never start with a dot.
const PREFIX: &str = ".matchpoint-";

/// A folder is locked a moment after it is made, so a younger folder without a lock may still be in use.
const LEFT_AFTER: Duration = Duration::from_secs(60);

/// A new folder next to what is being made, which is removed when this is dropped. It is locked meanwhile, so
/// that a folder without a lock must have been left by a crash.
#[derive(Debug)]
pub struct TemporaryFolder {
    path: PathBuf,
    #[expect(dead_code, reason = "kept for its lock")]
    lock: File,
}

impl TemporaryFolder {
    /// Makes a temporary folder next to `beside`, and removes those that crashes left there. Nothing else is
    /// removed, whatever its name.
    ///
    /// # Errors
    /// Returns an error if the disk fails.
    pub fn new(beside: &Path) -> Result<Self, DeploymentError> {
        let path = path_beside(beside);
        let failed = |cause: std::io::Error| DeploymentError::io(&path, &cause);
        fs::create_dir(&path).map_err(failed)?;
        let lock = File::open(&path).map_err(failed)?;
        // Without support for locks, the age of a folder protects it from removal for a minute.
        drop(lock.try_lock());
        Ok(Self { path, lock })
    }

    /// The path of the folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes a file in it, in a subfolder if its path has one. The file is on the disk when this returns.
    ///
    /// # Errors
    /// Returns an error if the disk fails.
    pub fn write(&self, path: &Path, bytes: &[u8]) -> Result<(), DeploymentError> {
        let path = self.path.join(path);
        let written = fs::create_dir_all(parent_of(&path)).and_then(|()| {
            let mut file = File::create(&path)?;
            file.write_all(bytes)?;
            file.sync_all()
        });
        written.map_err(|cause| DeploymentError::io(&path, &cause))
    }

    /// Renames it to `to`, in the same folder, if that name is free.
    ///
    /// # Errors
    /// Returns `AlreadyExists` if the name is taken, or an error of the disk.
    pub fn publish(self, to: &Path) -> std::io::Result<()> {
        // A rename would silently replace an empty folder.
        if to.symlink_metadata().is_ok() {
            return Err(std::io::ErrorKind::AlreadyExists.into());
        }
        archive::sync(&self.path)?;
        fs::rename(&self.path, to)?;
        archive::sync(parent_of(to))
    }
}

impl Drop for TemporaryFolder {
    fn drop(&mut self) {
        // If it was published, it was already renamed.
        drop(fs::remove_dir_all(&self.path));
    }
}

/// The same as [`TemporaryFolder`], for a file.
pub struct TemporaryFile {
    path: PathBuf,
    file: File,
}

impl TemporaryFile {
    /// Makes a temporary file next to `beside`, and removes those that crashes left there.
    ///
    /// # Errors
    /// Returns an error if the disk fails.
    pub fn new(beside: &Path) -> std::io::Result<Self> {
        let path = path_beside(beside);
        let file = File::create_new(&path)?;
        drop(file.try_lock());
        Ok(Self { path, file })
    }

    /// The path of the file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The file, open for writing.
    #[must_use]
    pub fn file(&mut self) -> &mut File {
        &mut self.file
    }

    /// Gives the file the name `to`, in the same folder, if that name is free.
    ///
    /// # Errors
    /// `AlreadyExists`, or the disk.
    pub fn publish(self, to: &Path) -> std::io::Result<()> {
        self.file.sync_all()?;
        publish(&self.path, to)
    }
}

impl Drop for TemporaryFile {
    fn drop(&mut self) {
        drop(fs::remove_file(&self.path));
    }
}

/// Gives a complete file, which is on the disk, a name on the same disk, and replaces nothing. The old name
/// may stay.
pub(super) fn publish(file: &Path, to: &Path) -> std::io::Result<()> {
    match fs::hard_link(file, to) {
        Err(_) if to.symlink_metadata().is_ok() => {
            return Err(std::io::ErrorKind::AlreadyExists.into());
        }
        // File systems without links report that in many ways; for any other error the rename fails too.
        Err(_) => fs::rename(file, to)?,
        Ok(()) => {}
    }
    archive::sync(parent_of(to)).inspect_err(|_| drop(fs::remove_file(to)))
}

/// An unused name in the folder of `beside`, which no deployment or snapshot can have; removes there what
/// crashes left.
fn path_beside(beside: &Path) -> PathBuf {
    let parent = parent_of(beside);
    remove_left(parent);
    parent.join(name())
}

fn parent_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    }
}

fn name() -> String {
    format!("{PREFIX}{}", Uuid::now_v7())
}

fn is_ours(name: &str) -> bool {
    let id = name.strip_prefix(PREFIX);
    id.is_some_and(|id| Uuid::try_parse(id).is_ok_and(|id| id.get_version_num() == 7))
}

/// Removes what crashes left. What fails is left to the next time.
fn remove_left(parent: &Path) {
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let ours = entry.file_name().to_str().is_some_and(is_ours);
        let Some(about) = entry.metadata().ok().filter(|_| ours) else {
            continue;
        };
        let age = about.modified().ok().and_then(|time| time.elapsed().ok());
        let old = age.is_some_and(|age| LEFT_AFTER < age);
        // Opening anything else could block.
        let plain = about.is_dir() || about.is_file();
        let path = entry.path();
        if !(old && plain) || File::open(&path).is_ok_and(|left| left.try_lock().is_err()) {
            continue;
        }
        drop(if about.is_dir() {
            fs::remove_dir_all(&path)
        } else {
            fs::remove_file(&path)
        });
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    #[test]
    fn what_a_crash_left_is_removed_and_nothing_else() {
        let root = tempfile::tempdir().unwrap();
        let at = |name: &str| root.path().join(name);
        let long_ago = SystemTime::now() - Duration::from_secs(3_600);
        let make = |name: &str| {
            fs::create_dir(at(name)).unwrap();
            fs::write(at(name).join("kept"), "x").unwrap();
            File::open(at(name))
                .unwrap()
                .set_modified(long_ago)
                .unwrap();
        };
        let (left, in_use, young) = (name(), name(), name());
        for one in [
            &*left,
            &*in_use,
            "y.restoring",
            ".matchpoint-mine",
            "t.scratch",
        ] {
            make(one);
        }
        fs::create_dir(at(&young)).unwrap();
        let lock = File::open(at(&in_use)).unwrap();
        lock.try_lock().unwrap();
        let made = TemporaryFolder::new(&at("y")).unwrap();
        let path = made.path().to_owned();
        assert!(path.is_dir() && !at(&left).exists());
        for one in [
            &*in_use,
            &*young,
            "y.restoring",
            ".matchpoint-mine",
            "t.scratch",
        ] {
            assert!(at(one).exists(), "{one}");
        }
        drop(made);
        assert!(!path.exists());
    }
}
