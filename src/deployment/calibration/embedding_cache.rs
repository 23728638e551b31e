//! Caches the embeddings of labelled queries in one file of a deployment's folder. A calibration that was
//! stopped then continues where it was, and one for a second target only needs searches.
//!
//! A row is identified by the SHA-256 of the picture's bytes, and has a checksum over it and over
//! everything that determines embeddings: model with preprocessing, runtime, device, how
//! this machine rounds, limits. What does not match is embedded again. The file may be deleted at any time.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use sha2::{Digest, Sha256};

use crate::files::open_file;
use matchpoint_embed::embedder::Embedded;
use matchpoint_embed::pixels::{Format, ImageMeasures};
use matchpoint_vector::Embedding;

/// The file's name in a deployment's folder.
const FILE: &str = "query-embeddings.cache";
/// The highest size of the file in bytes, for 200,000 embeddings of 1,280 components.
const BYTES_MAX: u64 = 1 << 30;
/// The first bytes of the file, with the version of its rows.
const MAGIC: [u8; 16] = *b"matchpoint-qe-1\n";
const DIGEST: usize = 32;
/// The magic bytes, and a digest of what determines its embeddings.
const HEADER: u64 = (MAGIC.len() + DIGEST) as u64;
/// The fixed part of a row: picture, format, longest side, brightness, sharpness, length of the feature,
/// checksum.
const ROW_FIXED: usize = DIGEST + 1 + 4 + 3 * 8 + DIGEST;

type Sha256Digest = [u8; DIGEST];

/// Cached embeddings, by one model and everything else that determines them.
#[derive(Debug)]
pub struct EmbeddingCache {
    path: PathBuf,
    file: File,
    made_by: Sha256Digest,
    dimension: usize,
    rows_max: u64,
    rows: Mutex<Rows>,
    /// Number of embeddings that were used from the cache.
    taken: AtomicU64,
}

#[derive(Debug)]
struct Rows {
    /// The row of each picture's embedding.
    of_picture: HashMap<Sha256Digest, u64>,
    count: u64,
    /// Whether this process writes to the file. Only one process does at a time; others read.
    adds: bool,
}

impl EmbeddingCache {
    /// Opens the cache in a deployment's folder, for embeddings of `dimension` components that depend on
    /// everything in `made_by`. `None` if there can be no cache, which is logged.
    pub(in crate::deployment) fn in_folder(
        folder: &Path,
        made_by: &[&str],
        dimension: usize,
    ) -> Option<Self> {
        let mut hash = Sha256::new();
        for part in made_by {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        let path = folder.join(FILE);
        match Self::open(&path, hash.finalize().into(), dimension, BYTES_MAX) {
            Ok(cache) => cache,
            Err(cause) => {
                tracing::warn!(file = %path.display(), %cause, "embeddings of queries are not kept: the next calibration makes them again");
                None
            }
        }
    }

    /// Opens the file, or creates it; `None` if it does not exist and may not be created.
    fn open(
        path: &Path,
        made_by: Sha256Digest,
        dimension: usize,
        bytes_max: u64,
    ) -> io::Result<Option<Self>> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        // Embeddings are as private as the pictures.
        let (file, adds) = match options.mode(0o600).open(path) {
            // The process that has the lock writes to the file. Without support for locks, nobody does.
            Ok(file) if file.metadata()?.is_file() => {
                let adds = file.try_lock().is_ok();
                (file, adds)
            }
            Ok(_) => return Err(io::Error::other("is not a regular file")),
            Err(cause) if is_read_only(&cause) => match open_file(path) {
                Ok(file) => (file, false),
                Err(_no_file) => return Ok(None),
            },
            Err(cause) => return Err(cause),
        };
        let mut cache = Self {
            path: path.to_owned(),
            file,
            made_by,
            dimension,
            rows_max: 0,
            rows: Mutex::new(Rows {
                of_picture: HashMap::new(),
                count: 0,
                adds,
            }),
            taken: AtomicU64::new(0),
        };
        cache.rows_max = bytes_max.saturating_sub(HEADER) / cache.row_len();
        let header = [&MAGIC[..], &made_by[..]].concat();
        let mut found = vec![0; header.len()];
        let is_ours = cache.file.read_exact_at(&mut found, 0).is_ok() && found == header;
        match (is_ours, adds) {
            (true, _) => cache.read_pictures()?,
            // The file is empty, or belongs to another model.
            (false, true) => {
                cache.file.set_len(0)?;
                cache.file.write_all_at(&header, 0)?;
            }
            (false, false) => return Ok(None),
        }
        Ok(Some(cache))
    }

    fn row_len(&self) -> u64 {
        (ROW_FIXED + 4 * self.dimension) as u64
    }

    fn row_at(&self, row: u64) -> u64 {
        HEADER + row * self.row_len()
    }

    fn read_pictures(&self) -> io::Result<()> {
        let mut rows = self.rows.lock().unwrap_or_else(PoisonError::into_inner);
        // An incomplete row at the end, after a crash, is overwritten by the next one.
        let whole = self.file.metadata()?.len().saturating_sub(HEADER) / self.row_len();
        rows.count = whole.min(self.rows_max);
        for row in 0..rows.count {
            let mut picture = [0; DIGEST];
            self.file.read_exact_at(&mut picture, self.row_at(row))?;
            rows.of_picture.insert(picture, row);
        }
        Ok(())
    }

    /// The number of embeddings that were used from the cache.
    #[must_use]
    pub fn taken(&self) -> u64 {
        self.taken.load(Ordering::Relaxed)
    }

    /// The embedding of the picture with this SHA-256, from the cache or, if it is missing there, from `embed`.
    pub(in crate::deployment) fn get_or<E>(
        &self,
        picture: Sha256Digest,
        embed: impl FnOnce() -> Result<Embedded, E>,
    ) -> Result<Embedded, E> {
        if let Some(kept) = self.get(picture) {
            self.taken.fetch_add(1, Ordering::Relaxed);
            return Ok(kept);
        }
        let embedded = embed()?;
        self.keep(picture, &embedded);
        Ok(embedded)
    }

    fn get(&self, picture: Sha256Digest) -> Option<Embedded> {
        let rows = self.rows.lock().unwrap_or_else(PoisonError::into_inner);
        let row = *rows.of_picture.get(&picture)?;
        drop(rows);
        let mut bytes = vec![0; usize::try_from(self.row_len()).ok()?];
        self.file.read_exact_at(&mut bytes, self.row_at(row)).ok()?;
        let (content, checksum) = bytes.split_last_chunk::<DIGEST>()?;
        // Another process may have overwritten the row.
        if !content.starts_with(&picture) || self.checksum(content) != *checksum {
            return None;
        }
        embedded(content.get(DIGEST..)?)
    }

    /// The checksum over the row and everything that determines its embedding.
    fn checksum(&self, content: &[u8]) -> Sha256Digest {
        let hash = Sha256::new().chain_update(self.made_by);
        hash.chain_update(content).finalize().into()
    }

    fn keep(&self, picture: Sha256Digest, embedded: &Embedded) {
        let mut rows = self.rows.lock().unwrap_or_else(PoisonError::into_inner);
        if !rows.adds || embedded.embedding.dimension() != self.dimension || self.rows_max == 0 {
            return;
        }
        let mut bytes = picture.to_vec();
        write(&mut bytes, embedded);
        let checksum = self.checksum(&bytes);
        bytes.extend(checksum);
        let full = self.rows_max <= rows.count;
        let row = match rows.of_picture.get(&picture) {
            // It was damaged.
            Some(row) => *row,
            // Any row may be overwritten, so that some rows stay whatever the order of the queries.
            None if full => {
                picture
                    .iter()
                    .take(8)
                    .fold(0, |sum, byte| sum << 8 | u64::from(*byte))
                    % self.rows_max
            }
            None => rows.count,
        };
        if let Err(cause) = self.file.write_all_at(&bytes, self.row_at(row)) {
            rows.adds = false;
            // The calibration needs the disk space more than the cache does.
            let freed = self.file.set_len(0);
            tracing::warn!(
                file = %self.path.display(), %cause, emptied = freed.is_ok(),
                "embeddings of queries are not kept from here on: the next calibration makes them again"
            );
            return;
        }
        rows.count = rows.count.max(row + 1);
        rows.of_picture.insert(picture, row);
    }
}

fn is_read_only(cause: &io::Error) -> bool {
    matches!(
        cause.kind(),
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem
    )
}

/// The format of a picture as one byte of a row: its index in this list.
const FORMATS: [Format; 5] = [
    Format::Jpeg,
    Format::Png,
    Format::WebP,
    Format::Gif,
    Format::Bmp,
];

fn write(row: &mut Vec<u8>, embedded: &Embedded) {
    let ImageMeasures {
        format,
        longest_side,
        brightness,
        sharpness,
    } = embedded.measures;
    row.push(match format {
        Format::Jpeg => 0,
        Format::Png => 1,
        Format::WebP => 2,
        Format::Gif => 3,
        Format::Bmp => 4,
    });
    row.extend(longest_side.to_le_bytes());
    for value in [brightness, sharpness, embedded.norm] {
        row.extend(value.to_le_bytes());
    }
    for value in embedded.embedding.as_slice() {
        row.extend(value.to_le_bytes());
    }
}

/// The embedding in a row, between picture and checksum; `None` if it is not valid.
fn embedded(row: &[u8]) -> Option<Embedded> {
    let (format, row) = row.split_first()?;
    let (longest_side, mut row) = row.split_first_chunk()?;
    let mut measures = [0.0; 3];
    for value in &mut measures {
        let (bytes, rest) = row.split_first_chunk()?;
        (*value, row) = (f64::from_le_bytes(*bytes), rest);
    }
    let [brightness, sharpness, norm] = measures;
    let (components, []) = row.as_chunks() else {
        return None;
    };
    let components = components.iter().map(|bytes| f32::from_le_bytes(*bytes));
    Some(Embedded {
        embedding: Embedding::from_unit(components.collect()).ok()?,
        norm,
        measures: ImageMeasures {
            format: *FORMATS.get(usize::from(*format))?,
            longest_side: u32::from_le_bytes(*longest_side),
            brightness,
            sharpness,
        },
        decode: Duration::ZERO,
        inference: Duration::ZERO,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MADE_BY: Sha256Digest = [7; DIGEST];

    fn open_at(path: &Path, made_by: Sha256Digest, bytes_max: u64) -> Option<EmbeddingCache> {
        EmbeddingCache::open(path, made_by, 3, bytes_max).unwrap()
    }

    fn of(number: u8) -> Embedded {
        Embedded {
            embedding: Embedding::normalise(vec![f32::from(number), -0.0, 0.3]).unwrap(),
            norm: 1.0 / 3.0,
            measures: ImageMeasures {
                format: FORMATS[usize::from(number) % FORMATS.len()],
                longest_side: 4000,
                brightness: 0.1,
                sharpness: f64::from(number),
            },
            decode: Duration::from_millis(3),
            inference: Duration::from_millis(20),
        }
    }

    /// Everything that is cached for a picture, bit by bit.
    fn found(cache: &EmbeddingCache, number: u8) -> Option<Vec<u8>> {
        let found = cache.get([number; DIGEST])?;
        assert_eq!(
            (found.decode, found.inference),
            (Duration::ZERO, Duration::ZERO)
        );
        Some(bits(&found))
    }

    fn bits(embedded: &Embedded) -> Vec<u8> {
        let mut row = Vec::new();
        write(&mut row, embedded);
        row
    }

    fn keep(cache: &EmbeddingCache, numbers: std::ops::Range<u8>) {
        for number in numbers {
            cache.keep([number; DIGEST], &of(number));
        }
    }

    #[test]
    fn an_embedding_comes_back_bit_for_bit_and_is_made_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(FILE);
        let cache = open_at(&path, MADE_BY, BYTES_MAX).unwrap();
        let made = std::cell::Cell::new(0);
        let embed = |number| {
            made.set(made.get() + 1);
            Ok::<Embedded, ()>(of(number))
        };
        for number in [1, 2, 3, 4, 5, 1] {
            let got = cache.get_or([number; DIGEST], || embed(number)).unwrap();
            assert_eq!(bits(&got), bits(&of(number)));
        }
        assert_eq!((made.get(), cache.taken()), (5, 1));
        // A failure is not cached.
        assert_eq!(
            cache.get_or([9; DIGEST], || Err("no picture")).err(),
            Some("no picture")
        );
        drop(cache);
        let again = open_at(&path, MADE_BY, BYTES_MAX).unwrap();
        for number in 1..6 {
            assert_eq!(found(&again, number), Some(bits(&of(number))));
        }
        assert_eq!(found(&again, 9), None);
        let mode = std::os::unix::fs::PermissionsExt::mode(&path.metadata().unwrap().permissions());
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn no_changed_byte_gives_another_vector_and_what_is_damaged_is_made_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(FILE);
        keep(&open_at(&path, MADE_BY, BYTES_MAX).unwrap(), 1..4);
        let whole = std::fs::read(&path).unwrap();
        for at in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 0x40;
            std::fs::write(&path, &damaged).unwrap();
            let cache = open_at(&path, MADE_BY, BYTES_MAX).unwrap();
            let right = (1..4).filter(|number| match found(&cache, *number) {
                None => false,
                Some(bytes) => {
                    assert_eq!(bytes, bits(&of(*number)), "byte {at}");
                    true
                }
            });
            let begun_again = u64::try_from(at).unwrap() < HEADER;
            assert_eq!(right.count(), if begun_again { 0 } else { 2 }, "byte {at}");
            keep(&cache, 1..4);
            drop(cache);
            let mended = open_at(&path, MADE_BY, BYTES_MAX).unwrap();
            assert!(
                (1..4).all(|number| found(&mended, number).is_some()),
                "byte {at}"
            );
        }
        // The file may be cut off anywhere, for example if the process is killed.
        for len in 0..whole.len() {
            std::fs::write(&path, &whole[..len]).unwrap();
            let cache = open_at(&path, MADE_BY, BYTES_MAX).unwrap();
            keep(&cache, 3..5);
            drop(cache);
            let cache = open_at(&path, MADE_BY, BYTES_MAX).unwrap();
            for number in 3..5 {
                assert_eq!(
                    found(&cache, number),
                    Some(bits(&of(number))),
                    "{len} bytes"
                );
            }
        }
    }

    #[test]
    fn what_another_model_made_is_not_found() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(FILE);
        let first = open_at(&path, MADE_BY, BYTES_MAX).unwrap();
        keep(&first, 1..3);
        drop(first);
        // This holds even if the start of the file claims otherwise.
        let mut forged = std::fs::read(&path).unwrap();
        forged[MAGIC.len()..][..DIGEST].fill(8);
        std::fs::write(&path, &forged).unwrap();
        let other = open_at(&path, [8; DIGEST], BYTES_MAX).unwrap();
        assert_eq!(found(&other, 1), None);
        drop(other);
        let third = open_at(&path, [9; DIGEST], BYTES_MAX).unwrap();
        assert_eq!(third.rows.lock().unwrap().count, 0);
    }

    #[test]
    fn it_does_not_outgrow_its_size_and_still_keeps_what_is_new() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(FILE);
        let bytes_max = HEADER + 10 * (ROW_FIXED as u64 + 12) + 5;
        let cache = open_at(&path, MADE_BY, bytes_max).unwrap();
        keep(&cache, 1..60);
        assert!(path.metadata().unwrap().len() <= bytes_max);
        assert_eq!(found(&cache, 59), Some(bits(&of(59))));
        let there = |cache: &EmbeddingCache| (1..60).filter(|n| found(cache, *n).is_some()).count();
        assert_eq!(there(&cache), 10);
        drop(cache);
        assert_eq!(there(&open_at(&path, MADE_BY, bytes_max).unwrap()), 10);
    }

    #[test]
    fn while_one_adds_others_read_what_was_there() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(FILE);
        let first = open_at(&path, MADE_BY, BYTES_MAX).unwrap();
        keep(&first, 1..3);
        let second = open_at(&path, MADE_BY, BYTES_MAX).unwrap();
        keep(&second, 3..4);
        keep(&first, 4..5);
        assert_eq!(found(&second, 1), Some(bits(&of(1))));
        assert_eq!((found(&second, 3), found(&first, 3)), (None, None));
        // The second process does not start the file again for another model either.
        assert!(open_at(&path, [8; DIGEST], BYTES_MAX).is_none());
        drop((first, second));
        let third = open_at(&path, MADE_BY, BYTES_MAX).unwrap();
        assert!(found(&third, 4).is_some());
    }

    #[test]
    fn a_full_disk_ends_the_keeping_and_not_the_work() {
        let Ok(full) = OpenOptions::new().read(true).write(true).open("/dev/full") else {
            return;
        };
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(FILE);
        let mut cache = open_at(&path, MADE_BY, BYTES_MAX).unwrap();
        cache.file = full;
        for _ in 0..2 {
            let got = cache.get_or([1; DIGEST], || Ok::<Embedded, ()>(of(1)));
            assert_eq!(bits(&got.unwrap()), bits(&of(1)));
        }
        assert!(!cache.rows.lock().unwrap().adds);
    }

    #[test]
    fn what_is_no_file_is_refused_and_not_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join(FILE);
        let made = std::process::Command::new("mkfifo").arg(&pipe).status();
        assert!(made.unwrap().success());
        assert!(EmbeddingCache::open(&pipe, MADE_BY, 3, BYTES_MAX).is_err());
    }
}
