//! Reads the files of a model folder completely, within size limits, and never through a link.

use std::fs::{self, File};
use std::io::Read as _;
use std::path::Path;

use base16ct::lower::encode_string;
use matchpoint_vector::Embedding;
use sha2::{Digest as _, Sha256};

use super::error::ModelError;
use super::manifest::{HeadFiles, MANIFEST_NAME, Manifest};

/// The highest size of a manifest in bytes; a usual one has some 30 lines.
const MANIFEST_BYTES_MAX: u64 = 64 << 10;
/// The highest size of an ONNX file in bytes: protobuf messages cannot exceed 2 GiB.
pub(super) const ONNX_BYTES_MAX: u64 = 2 << 30;
/// The highest size of a golden image or embedding in bytes, far above any useful one.
pub(super) const GOLDEN_BYTES_MAX: u64 = 16 << 20;
/// The highest size of a head's record in bytes: two hashes for each of a million pictures.
const HEAD_BYTES_MAX: u64 = 256 << 20;

pub(super) fn read_manifest(folder: &Path) -> Result<Manifest, ModelError> {
    let bytes = read(folder, Path::new(MANIFEST_NAME), MANIFEST_BYTES_MAX)?;
    let wrong = |mistakes| ModelError::Manifest {
        path: folder.join(MANIFEST_NAME),
        mistakes,
    };
    let text = String::from_utf8(bytes).map_err(|cause| wrong(vec![cause.to_string()]))?;
    Manifest::parse(&text).map_err(wrong)
}

/// Reads a whole file of the folder. Links are not followed, because they could lead out of the folder.
pub(super) fn read(folder: &Path, relative: &Path, bytes_max: u64) -> Result<Vec<u8>, ModelError> {
    let mut path = folder.to_owned();
    for part in relative {
        path.push(part);
        match fs::symlink_metadata(&path) {
            Ok(metadata) if metadata.is_symlink() => return Err(ModelError::Link { path }),
            Ok(_) => {}
            Err(cause) => return Err(ModelError::Read { path, cause }),
        }
    }
    let mut bytes = Vec::new();
    let result = fs::metadata(&path).and_then(|metadata| {
        if !metadata.is_file() {
            return Err(std::io::Error::other("not a regular file"));
        }
        File::open(&path)?
            .take(bytes_max + 1)
            .read_to_end(&mut bytes)
    });
    match result {
        Ok(_) if u64::try_from(bytes.len()).is_ok_and(|len| len <= bytes_max) => Ok(bytes),
        Ok(_) => Err(ModelError::TooLong { path, bytes_max }),
        Err(cause) => Err(ModelError::Read { path, cause }),
    }
}

/// The record of the head that the manifest names; `None` if there is no head.
pub(super) fn read_head(folder: &Path, manifest: &Manifest) -> Result<Option<Vec<u8>>, ModelError> {
    let Some(HeadFiles {
        record,
        record_sha256,
    }) = &manifest.head
    else {
        return Ok(None);
    };
    let bytes = read(folder, record, HEAD_BYTES_MAX)?;
    let found = encode_string(&Sha256::digest(&bytes));
    if found != *record_sha256 {
        return Err(ModelError::HeadChanged {
            path: folder.join(record),
            expected: record_sha256.clone(),
            found,
        });
    }
    Ok(Some(bytes))
}

pub(super) fn read_reference(
    folder: &Path,
    file: &Path,
    dimension: usize,
) -> Result<Embedding, ModelError> {
    let bytes = read(folder, file, GOLDEN_BYTES_MAX)?;
    let wrong = |reason| ModelError::GoldenReference {
        path: folder.join(file),
        reason,
    };
    let (values, rest) = bytes.as_chunks::<4>();
    if values.len() != dimension || !rest.is_empty() {
        let found = bytes.len();
        return Err(wrong(format!(
            "{found} bytes instead of {} (output.dimension = {dimension} f32 of 4 bytes)",
            4 * dimension
        )));
    }
    let values = values
        .iter()
        .map(|bytes| f32::from_le_bytes(*bytes))
        .collect();
    Embedding::normalise(values).map_err(|cause| wrong(cause.to_string()))
}
