//! The file format of a snapshot: a tar of a deployment's files with their SHA-256 sums. It is written in one
//! form only, and no other form is accepted.
//!
//! `tar xf FILE && sha256sum -c SHA256SUMS` checks it without this program. `SHA256SUMS` comes first, then the
//! files that it lists, in the order of their names, then two blocks of zeros. All of them are regular files
//! with POSIX (ustar) headers, which differ only in name and length. A length of 8 GiB or more is written in
//! binary, which today's tar programs can read.
//!
//! The same files always give the same bytes. So the reader generates each expected header and accepts no
//! other; it needs no rules for links, devices, long names, sparse files and extensions. It uses no length
//! before comparing it with the length of the archive.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;

use base16ct::lower::encode_string;
use sha2::{Digest, Sha256};
use tar::{EntryType, Header};

const SUMS: &str = "SHA256SUMS";
/// The highest size of `SHA256SUMS`, enough for 15,000 files. A deployment has a few files for each operating
/// point.
const SUMS_BYTES_MAX: u64 = 2 << 20;
const BLOCK_BYTES: u64 = 512;
/// The zeros that end an archive.
const END: [u8; 1024] = [0; 1024];
/// The length of the name field in a header.
const NAME_BYTES_MAX: usize = 100;
const PIECE_BYTES: u64 = 1 << 20;
/// The number of pieces from which on a separate writer thread is worth starting, and the number of pieces that
/// may wait for it.
const PIECES_APART: u64 = 8;
const PIECES_WAITING: usize = 4;
/// The first bytes of snapshots from before they were tars.
const EARLIER_MAGIC: &[u8] = b"MPSNAP01";

/// Called with the number of bytes done and the total; returns whether to continue.
pub type Progress<'a> = &'a mut dyn FnMut(u64, u64) -> ControlFlow<()>;

/// What identifies an archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::deployment) struct ArchiveDigest {
    /// Its length in bytes.
    pub(in crate::deployment) bytes: u64,
    /// SHA-256 of its `SHA256SUMS`, which identifies names and contents: 64 hexadecimal digits.
    pub(in crate::deployment) sha256: String,
}

/// The reasons why a snapshot cannot be made or used.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// Something with the name of the snapshot already exists.
    #[error("{} exists already; choose another name, or move it away", .0.display())]
    Exists(PathBuf),
    /// The file is not a snapshot, has an earlier format, or is damaged.
    #[error("{} {problem}", path.display())]
    Refused {
        /// The file.
        path: PathBuf,
        /// What is wrong, as words that follow the file's name.
        problem: String,
    },
    /// The operating system reported an error, or a file cannot be packed.
    #[error("cannot {doing} {}: {source}", path.display())]
    Io {
        /// The snapshot.
        path: PathBuf,
        /// What was attempted.
        doing: &'static str,
        /// The reason.
        source: io::Error,
    },
    /// The caller stopped it.
    #[error("stopped as asked; nothing is left of it")]
    Cancelled,
}

impl ArchiveError {
    /// Converts an I/O error of an operation on a snapshot, whether it came from the system or from this
    /// module.
    pub(in crate::deployment) fn of(path: &Path, doing: &'static str, source: io::Error) -> Self {
        let path = path.to_owned();
        source.downcast().unwrap_or_else(|source| Self::Io {
            path,
            doing,
            source,
        })
    }

    /// Whether the disk or a quota is full.
    #[must_use]
    pub fn is_disk_full(&self) -> bool {
        use io::ErrorKind::{QuotaExceeded, StorageFull};
        matches!(self, Self::Io { source, .. } if matches!(source.kind(), StorageFull | QuotaExceeded))
    }
}

/// Packs files of a folder into a new file, which is on the disk when this returns. The files must not be
/// written to meanwhile; only a change of a length would be noticed.
///
/// # Errors
/// Returns [`ArchiveError`], as the source of the I/O error or in words; see [`ArchiveError::of`]. The caller
/// has to remove what is left at `to`.
pub(in crate::deployment) fn pack(
    folder: &Path,
    names: &BTreeSet<String>,
    to: &Path,
    progress: Progress<'_>,
) -> io::Result<ArchiveDigest> {
    let unfit = |name: &str, problem| io::Error::other(format!("`{name}` {problem}"));
    let (mut steps, mut sums_bytes, mut lengths) = (ByteSteps::new(0, progress), 0, Vec::new());
    for name in names {
        let about = fs::metadata(folder.join(name))?;
        sums_bytes += sum_line(&[0; 32], name).len() as u64;
        if !is_plain(name) || !about.is_file() || SUMS_BYTES_MAX < sums_bytes {
            let problem =
                "is no file, has no plain and short name, or is one too many; move it away";
            return Err(unfit(name, problem));
        }
        steps.all += about.len();
        lengths.push(about.len());
    }
    let mut archive = File::create_new(to)?;
    let mut sums = String::new();
    // The sums come first in the file, but are known last.
    archive.seek(SeekFrom::Start(BLOCK_BYTES + filled(sums_bytes)))?;
    for (name, bytes) in names.iter().zip(lengths) {
        let expected = steps.done + bytes;
        let content = File::open(folder.join(name))?;
        archive.write_all(header(name, bytes).as_bytes())?;
        let sha256 = steps.copy(&content, bytes, &mut archive)?;
        archive.write_all(fill(bytes))?;
        if (steps.done, content.metadata()?.len()) != (expected, bytes) {
            let problem =
                "changed its length while it was read; try again when nothing writes to it";
            return Err(unfit(name, problem));
        }
        sums += &sum_line(&sha256, name);
    }
    archive.write_all(&END)?;
    archive.rewind()?;
    archive.write_all(header(SUMS, sums_bytes).as_bytes())?;
    archive.write_all(sums.as_bytes())?;
    archive.sync_all()?;
    let (bytes, sha256) = (
        archive.metadata()?.len(),
        encode_string(&Sha256::digest(sums)),
    );
    Ok(ArchiveDigest { bytes, sha256 })
}

/// Reads a whole archive and compares it with its sums. With `into`, an empty folder that only the caller uses,
/// its files are unpacked there; call [`sync_all`] to make them durable.
///
/// # Errors
/// Returns the errors of [`pack`]: a damaged archive, a name that is not `known`, a failure of the disk, or
/// cancellation. The caller has to remove what is left in `into`.
pub(in crate::deployment) fn read(
    path: &Path,
    into: Option<&Path>,
    known: fn(&str) -> bool,
    progress: Progress<'_>,
) -> io::Result<ArchiveDigest> {
    let mut source = Source::open(path, progress)?;
    let (sums, sha256) = source.sums()?;
    let mut before = "";
    for line in sums.split_inclusive('\n') {
        let line = line.strip_suffix('\n').unwrap_or_default();
        let (sum, name) = line.split_once("  ").unwrap_or(("", line));
        if !(before < name && is_plain(name) && known(name)) {
            let name = name.escape_debug();
            let what =
                format!("{SUMS} has `{name}`, which no snapshot holds, or not there, or twice");
            return Err(source.damaged(BLOCK_BYTES, &what));
        }
        before = name;
        let bytes = source.header(name)?;
        let begins = source.steps.done;
        let found = if let Some(into) = into {
            let to = into.join(name);
            fs::create_dir_all(to.parent().unwrap_or(into))?;
            source.content(bytes, &mut File::create_new(&to)?)?
        } else {
            source.content(bytes, &mut io::sink())?
        };
        if encode_string(&found) != sum {
            let what = format!("`{name}` is not the file that was packed");
            return Err(source.damaged(begins, &what));
        }
    }
    source.end()?;
    let (bytes, sha256) = (source.steps.all, encode_string(&sha256));
    Ok(ArchiveDigest { bytes, sha256 })
}

/// Makes files and folders, as listed by [`within`], durable.
///
/// # Errors
/// Returns an error if the disk fails.
pub(in crate::deployment) fn sync_all(paths: &[PathBuf]) -> io::Result<()> {
    paths.iter().try_for_each(|path| sync(path))
}

/// Lists a folder and everything in it; each folder comes after its content.
///
/// # Errors
/// Returns an error if the disk fails.
pub(in crate::deployment) fn within(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut all = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            all.extend(within(&path)?);
        } else {
            all.push(path);
        }
    }
    all.push(folder.to_owned());
    Ok(all)
}

/// Reads only the first file of an archive, which must have this name and at most this many bytes, and compares
/// it with its sum.
///
/// # Errors
/// Returns the errors of [`read`].
pub(in crate::deployment) fn read_first(
    path: &Path,
    name: &str,
    bytes_max: u64,
) -> io::Result<Vec<u8>> {
    let progress = &mut |_, _| ControlFlow::Continue(());
    let mut source = Source::open(path, progress)?;
    let (sums, _) = source.sums()?;
    let bytes = source.header(name)?;
    let begins = source.steps.done;
    if bytes_max < bytes {
        return Err(source.damaged(begins, &format!("`{name}` is too long")));
    }
    let mut content = Vec::new();
    let found = source.content(bytes, &mut content)?;
    if !sums.starts_with(&sum_line(&found, name)) {
        let what = format!("`{name}` is not the file that was packed");
        return Err(source.damaged(begins, &what));
    }
    Ok(content)
}

/// An archive that is read from start to end.
struct Source<'a> {
    path: &'a Path,
    file: File,
    steps: ByteSteps<'a>,
}

impl<'a> Source<'a> {
    fn open(path: &'a Path, progress: Progress<'a>) -> io::Result<Self> {
        // Opening a pipe would block for ever.
        if !fs::metadata(path)?.is_file() {
            let (path, problem) = (path.to_owned(), "is no file, and no snapshot".to_owned());
            return Err(io::Error::other(ArchiveError::Refused { path, problem }));
        }
        let file = File::open(path)?;
        let steps = ByteSteps::new(file.metadata()?.len(), progress);
        Ok(Self { path, file, steps })
    }

    /// Reads the sums, which come first; also returns their own SHA-256.
    fn sums(&mut self) -> io::Result<(String, [u8; 32])> {
        let (mut sums, bytes) = (Vec::new(), self.header(SUMS)?);
        if SUMS_BYTES_MAX < bytes {
            return Err(self.damaged(BLOCK_BYTES, &format!("{SUMS} is too long")));
        }
        let sha256 = self.content(bytes, &mut sums)?;
        Ok((String::from_utf8_lossy(&sums).into_owned(), sha256))
    }

    /// Reads the header of the file that has to follow. Returns its length, which is checked against the
    /// archive's.
    fn header(&mut self, name: &str) -> io::Result<u64> {
        let (begins, block) = (self.steps.done, self.take(BLOCK_BYTES)?);
        if begins == 0 && block.starts_with(EARLIER_MAGIC) {
            let problem =
                "is a snapshot in an earlier format, which is not read any more; take it again";
            return Err(self.refused(problem.to_owned()));
        }
        let Some(block) = block.first_chunk() else {
            return Err(self.damaged(begins, "it ends too early"));
        };
        let found = Header::from_byte_slice(block);
        let bytes = found.entry_size().unwrap_or(u64::MAX);
        if block != header(name, bytes).as_bytes() {
            let what = format!("it has {} in place of the file `{name}`", shown(block));
            return Err(self.damaged(begins, &what));
        }
        self.steps.done += BLOCK_BYTES;
        if self.steps.all.saturating_sub(self.steps.done) < filled(bytes) {
            let what = format!("`{name}` is longer than what is left");
            return Err(self.damaged(self.steps.done, &what));
        }
        Ok(bytes)
    }

    /// Copies the content that follows, and returns its SHA-256.
    fn content(&mut self, bytes: u64, to: &mut (dyn Write + Send)) -> io::Result<[u8; 32]> {
        let sha256 = self.steps.copy(&self.file, bytes, to)?;
        let zeros = fill(bytes);
        if self.take(zeros.len() as u64)? != zeros {
            return Err(self.damaged(self.steps.done, "there is something in place of zeros"));
        }
        self.steps.done += zeros.len() as u64;
        Ok(sha256)
    }

    /// Reads the end of the archive.
    fn end(&self) -> io::Result<()> {
        let found = self.take(END.len() as u64 + 1)?;
        let what = match found.first_chunk() {
            _ if found == END => return Ok(()),
            Some(block) if !END.starts_with(block) => {
                format!("it has {}, and {SUMS} no sum of it", shown(block))
            }
            _ => "it does not end where it should".to_owned(),
        };
        Err(self.damaged(self.steps.done, &what))
    }

    /// Reads this many bytes, or fewer at the end.
    fn take(&self, bytes: u64) -> io::Result<Vec<u8>> {
        let mut taken = Vec::new();
        (&self.file).take(bytes).read_to_end(&mut taken)?;
        Ok(taken)
    }

    fn damaged(&self, offset: u64, what: &str) -> io::Error {
        self.refused(match offset {
            0 => "is no snapshot of Matchpoint: it does not begin as one".to_owned(),
            _ => format!("is damaged at byte {offset}: {what}; use another copy of it"),
        })
    }

    fn refused(&self, problem: String) -> io::Error {
        let path = self.path.to_owned();
        io::Error::other(ArchiveError::Refused { path, problem })
    }
}

/// Counts the bytes done and reports them.
struct ByteSteps<'a> {
    done: u64,
    all: u64,
    progress: Progress<'a>,
}

impl<'a> ByteSteps<'a> {
    fn new(all: u64, progress: Progress<'a>) -> Self {
        let done = 0;
        Self {
            done,
            all,
            progress,
        }
    }

    /// Copies this many bytes, or fewer at the end, and returns the SHA-256 of what was copied. Long content is
    /// written by a separate thread while the next piece is read and hashed.
    fn copy(
        &mut self,
        from: &File,
        bytes: u64,
        to: &mut (dyn Write + Send),
    ) -> io::Result<[u8; 32]> {
        let mut from = from.take(bytes);
        let is_long = PIECE_BYTES * PIECES_APART <= bytes;
        let apart = is_long.then(|| self.copy_apart(&mut from, to)).flatten();
        apart.unwrap_or_else(|| {
            let mut piece = Vec::new();
            self.hash(&mut from, &mut piece, |piece| to.write_all(piece))
        })
    }

    /// Copies to the end with a separate writer thread. `None`, with nothing read, if the system cannot start a
    /// thread.
    fn copy_apart(
        &mut self,
        from: &mut dyn Read,
        to: &mut (dyn Write + Send),
    ) -> Option<io::Result<[u8; 32]>> {
        thread::scope(|scope| {
            let (full, pieces) = mpsc::sync_channel::<Vec<u8>>(PIECES_WAITING);
            let (used, again) = mpsc::channel();
            let write = move || {
                pieces.into_iter().try_for_each(|piece| {
                    to.write_all(&piece)?;
                    // At the end nobody takes the piece any more.
                    drop(used.send(piece));
                    Ok(())
                })
            };
            let thread = thread::Builder::new().name("writing".to_owned());
            let writer = thread.spawn_scoped(scope, write).ok()?;
            let mut piece = Vec::new();
            let hashed = self.hash(from, &mut piece, |piece| {
                let next = again.try_recv().unwrap_or_default();
                // Sending fails if writing failed, which is reported below.
                let sent = full.send(std::mem::replace(piece, next));
                sent.map_err(|_ended| io::ErrorKind::BrokenPipe.into())
            });
            drop(full);
            let written: io::Result<()> = writer
                .join()
                .unwrap_or_else(|_panicked| Err(io::ErrorKind::Other.into()));
            Some(written.and(hashed))
        })
    }

    /// Reads to the end in pieces, and returns their SHA-256.
    fn hash(
        &mut self,
        from: &mut dyn Read,
        piece: &mut Vec<u8>,
        mut write: impl FnMut(&mut Vec<u8>) -> io::Result<()>,
    ) -> io::Result<[u8; 32]> {
        let mut sha256 = Sha256::new();
        loop {
            if (self.progress)(self.done, self.all).is_break() {
                return Err(io::Error::other(ArchiveError::Cancelled));
            }
            piece.clear();
            let read = (&mut *from).take(PIECE_BYTES).read_to_end(piece)?;
            if read == 0 {
                return Ok(sha256.finalize().into());
            }
            sha256.update(&*piece);
            write(piece)?;
            self.done += read as u64;
        }
    }
}

/// Describes the header of any tar in words.
fn shown(block: &[u8; 512]) -> String {
    let header = Header::from_byte_slice(block);
    let name = String::from_utf8_lossy(&header.path_bytes()).into_owned();
    format!("`{}` ({:?})", name.escape_debug(), header.entry_type())
}

/// The header of a file with a plain name.
fn header(name: &str, bytes: u64) -> Header {
    let mut header = Header::new_ustar();
    let field = header.as_old_mut().name.iter_mut();
    field.zip(name.bytes()).for_each(|(to, byte)| *to = byte);
    header.set_entry_type(EntryType::Regular);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_size(bytes);
    header.set_cksum();
    header
}

/// The length including the zeros that fill the last block.
fn filled(bytes: u64) -> u64 {
    bytes
        .checked_next_multiple_of(BLOCK_BYTES)
        .unwrap_or(u64::MAX)
}

/// The zeros that fill the last block.
fn fill(bytes: u64) -> &'static [u8] {
    let missing = usize::try_from(filled(bytes) - bytes).unwrap_or_default();
    END.get(..missing).unwrap_or_default()
}

/// A line in the format of `sha256sum`.
fn sum_line(sha256: &[u8; 32], name: &str) -> String {
    format!("{}  {name}\n", encode_string(sha256))
}

/// Whether the name is plain: it stays below the folder, is portable, and fits into a header.
fn is_plain(name: &str) -> bool {
    let plain = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_' | b'.');
    let fits = |part: &str| !matches!(part, "" | "." | "..") && part.bytes().all(plain);
    name.len() <= NAME_BYTES_MAX && name.split('/').all(fits)
}

/// Makes a file, or the names in a folder, durable.
pub(in crate::deployment) fn sync(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

#[cfg(test)]
mod tests;
