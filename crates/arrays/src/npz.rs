//! `.npz`: a ZIP archive of `.npy` files, stored or deflated.

use std::io::{BufReader, Read, Seek};

use zip::ZipArchive;
use zip::read::ZipFile;
use zip::result::ZipError;

use super::error::ArraysError;
use super::input::ArrayInput;
use super::npy;

/// An archive with more arrays than this is not one of embeddings.
const ARRAYS_MAX: usize = 4_096;

/// Deflate turns no byte into more than 1,032 (<https://www.zlib.net/zlib_tech.html>).
const EXPANSION_MAX: u64 = 1_032;

/// An array of the archive.
struct NpzEntry {
    index: usize,
    name: String,
    /// What it contains, or why it cannot be read.
    description: String,
    is_embeddings: bool,
}

/// The dimension and the values of the array that is named, or of the only table of floats.
pub(super) fn read<R: Read + Seek>(
    reader: R,
    input: &ArrayInput<'_>,
) -> Result<(usize, Vec<f32>), ArraysError> {
    let mut archive = ZipArchive::new(reader).map_err(|cause| refused(input, cause))?;
    if ARRAYS_MAX < archive.len() {
        let count = archive.len();
        return Err(input.damaged(format!(
            "it holds {count} entries, over the limit of {ARRAYS_MAX}"
        )));
    }
    let index = match &input.options.name {
        Some(name) => named(&mut archive, input, name)?,
        None => only(&mut archive, input)?,
    };
    let mut file = archive
        .by_index(index)
        .map_err(|cause| refused(input, cause))?;
    let place = format!("{}[{}]", input.place, name(&file));
    let inner = ArrayInput {
        place: &place,
        bytes: file.size(),
        options: input.options,
    };
    let packed = file.compressed_size();
    if input.bytes < packed || packed.saturating_mul(EXPANSION_MAX) < inner.bytes {
        return Err(inner.damaged(format!(
            "{packed} bytes cannot expand to the {} that it states",
            inner.bytes
        )));
    }
    npy::read(&mut BufReader::new(&mut file), &inner)
}

fn bare(name: &str) -> &str {
    name.strip_suffix(".npy").unwrap_or(name)
}

fn named<R: Read + Seek>(
    archive: &mut ZipArchive<R>,
    input: &ArrayInput<'_>,
    name: &str,
) -> Result<usize, ArraysError> {
    let entries = entries(archive, input);
    let found = entries.iter().find(|entry| entry.name == bare(name));
    found
        .map(|entry| entry.index)
        .ok_or_else(|| ArraysError::NoSuch {
            place: input.place.to_owned(),
            kind: "array",
            name: name.to_owned(),
            found: list(&entries),
        })
}

fn only<R: Read + Seek>(
    archive: &mut ZipArchive<R>,
    input: &ArrayInput<'_>,
) -> Result<usize, ArraysError> {
    let entries = entries(archive, input);
    let mut fitting = entries.iter().filter(|entry| entry.is_embeddings);
    match (fitting.next(), fitting.count()) {
        (Some(one), 0) => Ok(one.index),
        (first, more) => Err(ArraysError::Choose {
            place: input.place.to_owned(),
            count: usize::from(first.is_some()) + more,
            kind: "array",
            wanted: "floats of shape (rows, dimension)",
            found: list(&entries),
            fix: "name one of them, or save one",
        }),
    }
}

/// Every entry, as its header describes it.
fn entries<R: Read + Seek>(archive: &mut ZipArchive<R>, input: &ArrayInput<'_>) -> Vec<NpzEntry> {
    let mut entries = Vec::new();
    for index in 0..archive.len() {
        let Ok(mut file) = archive.by_index(index) else {
            continue;
        };
        let name = name(&file);
        let header = npy::header(&mut file, input);
        entries.push(NpzEntry {
            index,
            is_embeddings: header.as_ref().is_ok_and(npy::NpyHeader::is_embeddings),
            description: header.map_or("not an array".to_owned(), |header| header.describe()),
            name,
        });
    }
    entries
}

/// The first of them, for an error.
fn list(entries: &[NpzEntry]) -> String {
    const SHOWN: usize = 8;
    let mut texts: Vec<String> = entries
        .iter()
        .take(SHOWN)
        .map(|entry| format!("`{}` {}", entry.name, entry.description))
        .collect();
    match entries.len().saturating_sub(SHOWN) {
        0 if texts.is_empty() => return "nothing that can be read".to_owned(),
        0 => {}
        more => texts.push(format!("{more} more")),
    }
    texts.join(", ")
}

fn refused(input: &ArrayInput<'_>, cause: ZipError) -> ArraysError {
    if let ZipError::Io(cause) = cause {
        return input.unreadable(cause);
    }
    ArraysError::Unsupported {
        place: input.place.to_owned(),
        what: format!("ZIP in a way of its own ({cause})"),
        fix: "save it with numpy.savez or numpy.savez_compressed",
    }
}

/// The name of an entry in numpy; an entry whose name is not text cannot be asked for.
fn name<R: Read>(file: &ZipFile<'_, R>) -> String {
    file.name()
        .map_or_else(|_| String::new(), |name| bare(&name).to_owned())
}
