//! Several files in one, with checksums: how a snapshot of a deployment is kept and moved.
//!
//! | part | bytes |
//! |---|---|
//! | head | `MPSNAP01`, format version, length of the directory (numbers: `u32`) |
//! | directory | for each file: length of its name (`u8`), its name, its length (`u64`) |
//! | contents | one after the other |
//! | digests | SHA-256 of each content |
//! | seal | SHA-256 of head, directory and digests |
//!
//! Numbers are little-endian. The digests come last, so sources are read once. A reader trusts no
//! number before it fits the length of the file, and no content before the seal is checked.

use std::collections::{BTreeSet, HashSet};
use std::fs::{self, File, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::ops::ControlFlow;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

const MAGIC: &[u8; 8] = b"MPSNAP01";
const FORMAT: u32 = 1;
const HEAD_BYTES: u64 = 16;
const DIGEST_BYTES: u64 = 32;
/// A deployment has a few files for each operating point.
const FILES_MAX: usize = 10_000;
/// More than [`FILES_MAX`] of the longest names need.
const DIRECTORY_BYTES_MAX: u64 = 4 << 20;
const NAME_BYTES_MAX: usize = 255;
/// What is not whole yet ends so.
const PARTIAL: &str = ".partial";
/// File systems take 255 bytes, and [`PARTIAL`] must fit.
const PART_BYTES_MAX: usize = 247;
const PIECE_BYTES: usize = 1 << 20;

/// Told the bytes of content that are done, and those in all; says whether to go on.
pub type Progress<'a> = &'a mut dyn FnMut(u64, u64) -> ControlFlow<()>;

/// A file to be packed.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    /// Its name in the archive: parts of ASCII letters, digits, `-`, `_` and `.`, joined by `/`.
    pub(super) name: String,
    /// Where it is.
    pub(super) source: PathBuf,
}

/// What an archive holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Contents {
    /// Its files, in their order.
    pub(super) files: Vec<Packed>,
    /// Length of the archive itself.
    pub(super) bytes: u64,
    /// The seal: it identifies names and contents.
    pub(super) sha256: [u8; 32],
}

/// A file in an archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Packed {
    /// Its name.
    pub(super) name: String,
    /// Its length.
    pub(super) bytes: u64,
    /// SHA-256 of its content.
    pub(super) sha256: [u8; 32],
}

/// Why an archive cannot be made or used.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// Something has the name that the archive, or a file of it, should get.
    #[error("{} exists already; choose another name, or move it away", .0.display())]
    Exists(PathBuf),
    /// Another is writing the same archive.
    #[error("{} is being written by another; wait until it is done, or choose another name", .0.display())]
    Busy(PathBuf),
    /// The folder to unpack into has something in it.
    #[error("{} is not empty; unpack into an empty folder", .0.display())]
    NotEmpty(PathBuf),
    /// The file is something else.
    #[error("{} is no snapshot of Matchpoint: it does not begin as one; name another file", .0.display())]
    NotAnArchive(PathBuf),
    /// Another version wrote it.
    #[error("{} has format {found}, and this build reads format {readable}; use the Matchpoint that wrote it", path.display())]
    Format {
        /// The archive.
        path: PathBuf,
        /// Its format.
        found: u32,
        /// The format that this build reads.
        readable: u32,
    },
    /// It is not what was written.
    #[error("{} is damaged at byte {offset}: {what}; use another copy of it", path.display())]
    Damaged {
        /// The archive.
        path: PathBuf,
        /// Where it was noticed.
        offset: u64,
        /// What is wrong.
        what: &'static str,
    },
    /// A file cannot have this name in an archive.
    #[error("`{name}` cannot name a file of a snapshot: {problem}; give it another name")]
    Name {
        /// The name.
        name: String,
        /// What is wrong.
        problem: &'static str,
    },
    /// A file cannot be packed.
    #[error("{} {problem}; try again when nothing writes to it", path.display())]
    Source {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: &'static str,
    },
    /// The system failed.
    #[error("cannot {doing} {}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What was attempted.
        doing: &'static str,
        /// The system's reason.
        source: io::Error,
    },
    /// The caller stopped it.
    #[error("stopped as asked; nothing is left of it")]
    Cancelled,
}

impl ArchiveError {
    /// Whether the disk, or the share of it that is allowed, is full.
    #[must_use]
    pub fn is_disk_full(&self) -> bool {
        use io::ErrorKind::{QuotaExceeded, StorageFull};
        matches!(self, Self::Io { source, .. } if matches!(source.kind(), StorageFull | QuotaExceeded))
    }
}

fn failed(path: &Path, doing: &'static str) -> impl FnOnce(io::Error) -> ArchiveError {
    move |source| ArchiveError::Io {
        path: path.to_owned(),
        doing,
        source,
    }
}

/// Packs files into a new archive. All of it is there, and on the disk, or nothing. A source must
/// not be written to meanwhile; only a change of its length is noticed.
///
/// # Errors
/// A name, a source, something at `to` already, the disk, or cancellation.
pub(super) fn pack(
    entries: &[Entry],
    to: &Path,
    progress: Progress<'_>,
) -> Result<Contents, ArchiveError> {
    check_names(entries.iter().map(|entry| &*entry.name)).map_err(|(name, problem)| {
        let name = name.to_owned();
        ArchiveError::Name { name, problem }
    })?;
    if to.symlink_metadata().is_ok() {
        return Err(ArchiveError::Exists(to.to_owned()));
    }
    let partial = partial(to);
    let file = claim(&partial)?;
    let mut undo = Undo(vec![partial.clone()]);
    let contents = write(entries, &file, &partial, progress)?;
    publish(&partial, to, &mut undo)?;
    // The name beside it is free now, also for others.
    undo.0.retain(|path| *path != partial);
    sync(folder_of(to))?;
    undo.0.clear();
    Ok(contents)
}

/// Unpacks an archive into an empty folder. All of it is there, and on the disk, or nothing; after
/// a crash there may be some of it.
///
/// # Errors
/// Something in the folder, what is wrong with the archive, the disk, or cancellation.
pub(super) fn unpack(
    archive: &Path,
    into: &Path,
    progress: Progress<'_>,
) -> Result<Contents, ArchiveError> {
    let mut present = fs::read_dir(into).map_err(failed(into, "list"))?;
    if present.next().is_some() {
        return Err(ArchiveError::NotEmpty(into.to_owned()));
    }
    let (mut reader, contents) = Reader::open(archive, progress)?;
    let (mut undo, mut folders) = (Undo(Vec::new()), BTreeSet::from([into.to_owned()]));
    for packed in &contents.files {
        let mut path = into.to_owned();
        for part in packed.name.split('/') {
            if path != into && folders.insert(path.clone()) {
                // Refuses what it did not make itself, so it never leaves the folder by a link.
                fs::create_dir(&path).map_err(failed(&path, "create"))?;
                undo.0.push(path.clone());
            }
            path.push(part);
        }
        let partial = partial(&path);
        let file = File::create_new(&partial).map_err(failed(&partial, "create"))?;
        undo.0.push(partial.clone());
        reader.next(packed, &mut &file, &partial)?;
        file.sync_all().map_err(failed(&partial, "write to"))?;
        publish(&partial, &path, &mut undo)?;
    }
    folders.iter().try_for_each(|folder| sync(folder))?;
    undo.0.clear();
    Ok(contents)
}

/// Reads all of an archive and compares it with its digests.
///
/// # Errors
/// What is wrong with the archive, the disk, or cancellation.
pub(super) fn verify(archive: &Path, progress: Progress<'_>) -> Result<Contents, ArchiveError> {
    let (mut reader, contents) = Reader::open(archive, progress)?;
    for packed in &contents.files {
        reader.next(packed, &mut io::sink(), archive)?;
    }
    Ok(contents)
}

/// What is removed again, last first, unless it is cleared.
struct Undo(Vec<PathBuf>);

impl Drop for Undo {
    fn drop(&mut self) {
        for path in self.0.iter().rev() {
            if fs::remove_file(path).is_err() {
                drop(fs::remove_dir(path));
            }
        }
    }
}

/// Creates the file that will be an archive. Its writer holds a lock on it, so one that can be
/// locked is what a crash left. That is removed, never cut: an archive may be the same file.
fn claim(partial: &Path) -> Result<File, ArchiveError> {
    let mut left = None;
    if let Ok(about) = partial.symlink_metadata() {
        if about.is_file() {
            let file = File::options().write(true).open(partial);
            left = Some(hold(file.map_err(failed(partial, "open"))?, partial)?);
        }
        fs::remove_file(partial).map_err(failed(partial, "remove"))?;
    }
    let file = File::create_new(partial).map_err(failed(partial, "create"))?;
    let file = hold(file, partial)?;
    // Until here, so that no other takes the new file for a leftover.
    drop(left);
    Ok(file)
}

fn hold(file: File, path: &Path) -> Result<File, ArchiveError> {
    // Where there are no locks, writers of one archive are not kept apart.
    let free = !matches!(file.try_lock(), Err(TryLockError::WouldBlock));
    // Another may have taken the name since the file was opened.
    let named = path.symlink_metadata().and_then(|named| {
        let held = file.metadata()?;
        Ok((named.dev(), named.ino()) == (held.dev(), held.ino()))
    });
    if free && named.unwrap_or(false) {
        Ok(file)
    } else {
        Err(ArchiveError::Busy(path.to_owned()))
    }
}

/// Gives a whole file its name, and replaces nothing.
fn publish(partial: &Path, to: &Path, undo: &mut Undo) -> Result<(), ArchiveError> {
    match fs::hard_link(partial, to) {
        Ok(()) => {
            undo.0.push(to.to_owned());
            fs::remove_file(partial).map_err(failed(partial, "remove"))
        }
        Err(_) if to.symlink_metadata().is_ok() => Err(ArchiveError::Exists(to.to_owned())),
        // File systems without links say so in many ways; a rename fails too if it is not that.
        Err(_) => {
            fs::rename(partial, to).map_err(failed(to, "create"))?;
            undo.0.push(to.to_owned());
            Ok(())
        }
    }
}

fn write(
    entries: &[Entry],
    mut file: &File,
    path: &Path,
    progress: Progress<'_>,
) -> Result<Contents, ArchiveError> {
    let source = |entry: &Entry, problem| ArchiveError::Source {
        path: entry.source.clone(),
        problem,
    };
    let mut files = Vec::with_capacity(entries.len());
    for entry in entries {
        let about = fs::metadata(&entry.source).map_err(failed(&entry.source, "read"))?;
        if !about.is_file() {
            return Err(source(entry, "is not a file"));
        }
        files.push(Packed {
            name: entry.name.clone(),
            bytes: about.len(),
            sha256: [0; 32],
        });
    }
    let head = head(&files);
    let mut copier = Copier::new(&files, progress);
    file.write_all(&head).map_err(failed(path, "write to"))?;
    for (entry, packed) in entries.iter().zip(&mut files) {
        let from = &*entry.source;
        let opened = File::open(from).map_err(failed(from, "read"))?;
        let mut content = (&opened).take(packed.bytes);
        let (bytes, sha256) = copier.copy(&mut content, from, &mut file, path)?;
        let length = opened.metadata().map_err(failed(from, "read"))?.len();
        if (bytes, length) != (packed.bytes, packed.bytes) {
            return Err(source(entry, "changed its length while it was read"));
        }
        packed.sha256 = sha256;
    }
    let mut trailer = files.iter().flat_map(|it| it.sha256).collect::<Vec<u8>>();
    let sha256 = seal(&head, &trailer);
    trailer.extend(sha256);
    file.write_all(&trailer).map_err(failed(path, "write to"))?;
    file.sync_all().map_err(failed(path, "write to"))?;
    let bytes = file.metadata().map_err(failed(path, "read"))?.len();
    Ok(Contents {
        files,
        bytes,
        sha256,
    })
}

/// Copies contents, and says how far it is.
struct Copier<'a> {
    piece: Vec<u8>,
    done: u64,
    all: u64,
    progress: Progress<'a>,
}

impl<'a> Copier<'a> {
    fn new(files: &[Packed], progress: Progress<'a>) -> Self {
        let all = files.iter().map(|packed| packed.bytes);
        Self {
            piece: vec![0; PIECE_BYTES],
            done: 0,
            all: all.fold(0, u64::saturating_add),
            progress,
        }
    }

    /// Copies to the end, and gives the length and the SHA-256 of what was copied.
    fn copy(
        &mut self,
        from: &mut dyn Read,
        from_path: &Path,
        to: &mut dyn Write,
        to_path: &Path,
    ) -> Result<(u64, [u8; 32]), ArchiveError> {
        let (mut bytes, mut hash) = (0, Sha256::new());
        loop {
            if (self.progress)(self.done, self.all).is_break() {
                return Err(ArchiveError::Cancelled);
            }
            let read = match from.read(&mut self.piece) {
                Err(cause) if cause.kind() == io::ErrorKind::Interrupted => continue,
                read => read.map_err(failed(from_path, "read"))?,
            };
            let read = self.piece.get(..read).unwrap_or_default();
            if read.is_empty() {
                return Ok((bytes, hash.finalize().into()));
            }
            hash.update(read);
            to.write_all(read).map_err(failed(to_path, "write to"))?;
            bytes += read.len() as u64;
            self.done += read.len() as u64;
        }
    }
}

/// An archive whose seal is checked, at the content of its next file.
struct Reader<'a> {
    path: &'a Path,
    file: File,
    offset: u64,
    copier: Copier<'a>,
}

impl<'a> Reader<'a> {
    fn open(path: &'a Path, progress: Progress<'a>) -> Result<(Self, Contents), ArchiveError> {
        let read = || failed(path, "read");
        let damaged = |offset, what| ArchiveError::Damaged {
            path: path.to_owned(),
            offset,
            what,
        };
        let foreign = || ArchiveError::NotAnArchive(path.to_owned());
        // A pipe would be waited for.
        if !fs::metadata(path).map_err(read())?.is_file() {
            return Err(foreign());
        }
        let mut file = File::open(path).map_err(read())?;
        let bytes = file.metadata().map_err(read())?.len();
        let mut head = take(&file, HEAD_BYTES).map_err(read())?;
        let numbers = head.strip_prefix(MAGIC).ok_or_else(foreign)?;
        let [found, length] = *numbers.as_chunks().0 else {
            return Err(damaged(bytes, "it ends in its head"));
        };
        let (found, readable) = (u32::from_le_bytes(found), FORMAT);
        if found != readable {
            let path = path.to_owned();
            return Err(ArchiveError::Format {
                path,
                found,
                readable,
            });
        }
        let first = HEAD_BYTES + u64::from(u32::from_le_bytes(length));
        if bytes.min(HEAD_BYTES + DIRECTORY_BYTES_MAX) < first {
            return Err(damaged(12, "its directory is longer than it can be"));
        }
        let directory = take(&file, first - HEAD_BYTES).map_err(read())?;
        let mut files = read_directory(&directory).map_err(|what| damaged(HEAD_BYTES, what))?;
        head.extend(directory);
        let digests = files
            .iter()
            .try_fold(first, |sum, it| sum.checked_add(it.bytes));
        let trailer = (files.len() as u64 + 1) * DIGEST_BYTES;
        let digests = digests.filter(|at| at.checked_add(trailer) == Some(bytes));
        let digests = digests.ok_or_else(|| damaged(bytes, "it does not end where it should"))?;
        file.seek(SeekFrom::Start(digests)).map_err(read())?;
        let trailer = take(&file, trailer).map_err(read())?;
        let sealed = trailer.split_last_chunk::<32>();
        let sealed = sealed.filter(|(digests, sha256)| seal(&head, digests) == **sha256);
        let Some((digests, &sha256)) = sealed else {
            let what = "its directory and its digests are not what was sealed";
            return Err(damaged(bytes - DIGEST_BYTES, what));
        };
        for (packed, digest) in files.iter_mut().zip(digests.as_chunks().0) {
            packed.sha256 = *digest;
        }
        file.seek(SeekFrom::Start(first)).map_err(read())?;
        let copier = Copier::new(&files, progress);
        let offset = first;
        Ok((
            Self {
                path,
                file,
                offset,
                copier,
            },
            Contents {
                files,
                bytes,
                sha256,
            },
        ))
    }

    /// Copies the next file, and compares it with its digest.
    fn next(&mut self, packed: &Packed, to: &mut dyn Write, at: &Path) -> Result<(), ArchiveError> {
        let mut content = (&self.file).take(packed.bytes);
        let copied = self.copier.copy(&mut content, self.path, to, at)?;
        if copied != (packed.bytes, packed.sha256) {
            return Err(ArchiveError::Damaged {
                path: self.path.to_owned(),
                offset: self.offset,
                what: "the file that begins there is not the one that was packed",
            });
        }
        self.offset += packed.bytes;
        Ok(())
    }
}

fn take(file: &File, bytes: u64) -> io::Result<Vec<u8>> {
    let mut taken = Vec::new();
    file.take(bytes).read_to_end(&mut taken)?;
    Ok(taken)
}

fn head(files: &[Packed]) -> Vec<u8> {
    let mut directory = Vec::new();
    for packed in files {
        // Checked: neither a name nor all of them can be longer than these numbers say.
        directory.push(u8::try_from(packed.name.len()).unwrap_or(u8::MAX));
        directory.extend(packed.name.as_bytes());
        directory.extend(packed.bytes.to_le_bytes());
    }
    let length = u32::try_from(directory.len()).unwrap_or(u32::MAX);
    [
        MAGIC,
        &FORMAT.to_le_bytes()[..],
        &length.to_le_bytes(),
        &directory,
    ]
    .concat()
}

fn read_directory(mut bytes: &[u8]) -> Result<Vec<Packed>, &'static str> {
    let mut files = Vec::new();
    while let Some((length, rest)) = bytes.split_first() {
        let parts = rest.split_at_checked(usize::from(*length));
        let parts = parts.and_then(|(name, rest)| Some((name, rest.split_first_chunk()?)));
        let (name, (length, rest)) = parts.ok_or("its directory ends in an entry")?;
        files.push(Packed {
            name: String::from_utf8_lossy(name).into_owned(),
            bytes: u64::from_le_bytes(*length),
            sha256: [0; 32],
        });
        bytes = rest;
    }
    match check_names(files.iter().map(|packed| &*packed.name)) {
        Ok(()) => Ok(files),
        Err((_, problem)) => Err(problem),
    }
}

/// Names lead nowhere but down, mean the same everywhere, and stand in nobody's way. Gives the first
/// that does not, and why.
fn check_names<'a>(names: impl Iterator<Item = &'a str>) -> Result<(), (&'a str, &'static str)> {
    let plain = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_' | b'.');
    let fits = |part: &str| {
        let bytes = 1..=PART_BYTES_MAX;
        bytes.contains(&part.len()) && part.bytes().all(plain) && !matches!(part, "." | "..")
    };
    let (mut files, mut folders) = (HashSet::new(), HashSet::new());
    for name in names {
        let problem = if FILES_MAX <= files.len() {
            "there are 10000 files before it"
        } else if NAME_BYTES_MAX < name.len() || !name.split('/').all(fits) {
            "a name of a file is not plain, or too long"
        } else if name.split('/').any(|part| part.ends_with(PARTIAL)) {
            "a name of a file ends as unfinished ones do"
        } else if !files.insert(name) {
            "a name of a file is there twice"
        } else {
            folders.extend(name.match_indices('/').filter_map(|(at, _)| name.get(..at)));
            continue;
        };
        return Err((name, problem));
    }
    match files.intersection(&folders).next() {
        Some(name) => Err((name, "a name is that of a file and of a folder")),
        None => Ok(()),
    }
}

fn seal(head: &[u8], digests: &[u8]) -> [u8; 32] {
    Sha256::new()
        .chain_update(head)
        .chain_update(digests)
        .finalize()
        .into()
}

fn partial(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(PARTIAL);
    name.into()
}

fn folder_of(path: &Path) -> &Path {
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty());
    folder.unwrap_or(Path::new("."))
}

/// Makes the names in a folder durable.
pub(super) fn sync(folder: &Path) -> Result<(), ArchiveError> {
    let synced = File::open(folder).and_then(|folder| folder.sync_all());
    synced.map_err(failed(folder, "sync"))
}

#[cfg(test)]
mod tests;
