//! The base segment of the index: a compact graph of the items that existed when it was built, and its file,
//! which also contains their vectors.
//!
//! The file is memory-mapped. It consists of a short header, the vectors, a key for each vector (the checksum
//! of its item), and the graph, which contains its own checksums and a digest of the keys. Opening compares the
//! vectors with those of the items. If they agree, the mapped ones are used, so that the vectors of the base
//! segment need no memory. Later items form the delta, and rows whose item was removed are never found. A file
//! that is damaged or was built with other parameters is ignored, because everything in it can be built from
//! the items.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use sha2::{Digest, Sha256};

use crate::index::bits::Bits;
use crate::index::breadth::SearchBreadth;
use crate::index::build::BuildParams;
use crate::index::codes::UnitVectors;
use crate::index::error::IndexError;
use crate::index::graph::Graph;
use crate::index::scratch::Scratch;
use crate::index::search::{IndexSearch, ScoredRow};
use crate::item::Hash;
use crate::mapped_vectors::{MappedVectors, Vector};
use crate::params::IndexParams;
use crate::paths::unfinished_index;
use matchpoint_vector::kernels::codes::CodeWidth;
use matchpoint_vector::kernels::map::Map;

const MAGIC: &[u8; 8] = b"MPSETTL2";
const KEY_BYTES: usize = size_of::<Hash>();
/// The parts of the file start at multiples of a cache line; the header takes the first one.
const ALIGNMENT: usize = 64;
/// Marks a row whose item was removed and has no slot.
const GONE: usize = usize::MAX;

/// An item to build a base segment from.
pub(super) struct BaseItem {
    pub(super) key: Hash,
    pub(super) slot: usize,
    pub(super) vector: Vector,
}

/// A compact graph, with the slots of its rows.
pub(super) struct BaseSegment {
    graph: Graph,
    /// The mapped vectors; `None` if there was no file for them, so that they are in memory with the items.
    vectors: Option<Arc<MappedVectors>>,
    /// Whether the file contains the index, so that the next opening need not build it.
    is_stored: bool,
    /// The slot of each row.
    slots: Vec<usize>,
    /// The rows that have a slot, in the order of their slots.
    by_slot: Vec<u32>,
    /// Memory of earlier searches for reuse.
    scratch: Mutex<Vec<Scratch>>,
}

impl BaseSegment {
    /// The number of bits of its codes.
    pub(super) fn width(&self) -> CodeWidth {
        self.graph.width()
    }

    /// How many candidates a search in it has to keep.
    pub(super) fn breadth(&self) -> SearchBreadth {
        self.graph.breadth()
    }

    /// Builds the graph of items in the order given, with all threads of the current `rayon` pool, and writes
    /// the file if a path is given. If it cannot be written, the vectors stay in memory.
    pub(super) fn build(
        items: &[BaseItem],
        params: IndexParams,
        file: Option<&Path>,
    ) -> Result<Self, IndexError> {
        let dimension = items.first().map_or(1, |item| item.vector.len());
        let keys: Vec<Hash> = items.iter().map(|item| item.key).collect();
        let build = |values: &[f32]| {
            let rows = UnitVectors::new(values, dimension)?;
            let graph = Graph::build(rows, build_params(params), digest(&keys))?;
            let SearchBreadth {
                ef,
                searches,
                missed,
            } = graph.breadth();
            if !graph.breadth().suffices() {
                tracing::warn!(
                    ef,
                    searches,
                    missed,
                    "the items are hard to search: more than one search in a thousand misses the nearest one"
                );
            }
            Ok::<_, IndexError>(graph)
        };
        let slots = items.iter().map(|item| item.slot).collect();
        if let Some(path) = file {
            match BaseSegmentDraft::begin(path, items, dimension, &keys) {
                Ok(draft) => {
                    let graph = build(draft.vectors.all())?;
                    let vectors = Arc::clone(&draft.vectors);
                    let saved = draft.finish(path, &graph).inspect_err(|cause| {
                        // The vectors can still be read from the file, although its name was removed.
                        tracing::warn!(file = %path.display(), %cause, "the index was not saved");
                    });
                    let mut base = Self::of(graph, Some(vectors), slots);
                    base.is_stored = saved.is_ok();
                    return Ok(base);
                }
                Err(cause) => {
                    tracing::warn!(file = %path.display(), %cause, "the index was not saved");
                }
            }
        }
        let mut values = Vec::with_capacity(items.len() * dimension);
        for item in items {
            values.extend_from_slice(&item.vector);
        }
        Ok(Self::of(build(&values)?, None, slots))
    }

    fn of(graph: Graph, vectors: Option<Arc<MappedVectors>>, slots: Vec<usize>) -> Self {
        let slot_of = |row: u32| slots.get(row as usize).copied().unwrap_or(GONE);
        let mut by_slot: Vec<u32> = (0..).take(slots.len()).collect();
        by_slot.retain(|row| slot_of(*row) != GONE);
        by_slot.sort_unstable_by_key(|row| slot_of(*row));
        Self {
            graph,
            vectors,
            is_stored: false,
            slots,
            by_slot,
            scratch: Mutex::default(),
        }
    }

    /// Number of rows, including removed ones.
    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether the file contains the index, so that the next opening need not build it.
    pub(super) fn is_stored(&self) -> bool {
        self.is_stored
    }

    /// Bytes in memory, without vectors that are on disk.
    pub(super) fn bytes(&self) -> usize {
        let slots = self.slots.len() * size_of::<usize>() + self.by_slot.len() * size_of::<u32>();
        self.graph.as_bytes().len() + slots
    }

    /// The slot of a row; `None` if its item no longer existed when the index was opened.
    pub(super) fn slot(&self, row: usize) -> Option<usize> {
        self.slots.get(row).copied().filter(|slot| *slot != GONE)
    }

    /// The row of a slot; `None` if the slot belongs to the delta.
    pub(super) fn row(&self, slot: usize) -> Option<usize> {
        let slot_of = |row: &u32| self.slots.get(*row as usize).copied().unwrap_or(GONE);
        let at = self.by_slot.binary_search_by_key(&slot, slot_of).ok()?;
        self.by_slot.get(at).map(|row| *row as usize)
    }

    /// The vectors in the file, with their slots.
    pub(super) fn mapped(&self) -> impl Iterator<Item = (usize, Vector)> {
        let vectors = self.vectors.iter();
        vectors.flat_map(|vectors| {
            let rows = self.slots.iter().zip(0_u32..);
            let rows = rows.filter(|(slot, _)| **slot != GONE);
            rows.map(move |(slot, row)| (*slot, Vector::mapped(vectors, row)))
        })
    }

    /// Calls `take` with the slots and the exact scores of the nearest allowed rows.
    pub(super) fn nearest<'v>(
        &'v self,
        search: &IndexSearch<'_>,
        vector_of: impl Fn(usize) -> Option<&'v [f32]>,
        mut take: impl FnMut(usize, f32),
    ) -> Result<(), IndexError> {
        let mut scratch = self.scratch().pop().unwrap_or_default();
        // If all rows are allowed, the graph needs no filter.
        let refuses = |allowed: &&Bits| allowed.count() < self.len();
        let search = IndexSearch {
            allowed: search.allowed.filter(refuses),
            ..*search
        };
        let vector = |row: u32| match &self.vectors {
            Some(vectors) => Some(vectors.row(row)),
            None => vector_of(self.slot(row as usize)?),
        };
        let found = self.graph.search(&search, vector, &mut scratch);
        let found = found.map(|found| {
            for ScoredRow { row, score } in found {
                if let Some(slot) = self.slot(*row as usize) {
                    take(slot, *score);
                }
            }
        });
        self.scratch().push(scratch);
        found
    }

    fn scratch(&self) -> std::sync::MutexGuard<'_, Vec<Scratch>> {
        self.scratch.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The positions of the parts of a file, in bytes.
struct BaseSegmentLayout {
    vectors: Range<usize>,
    keys: Range<usize>,
    graph: usize,
}

impl BaseSegmentLayout {
    /// `None` if the file would be too long to be addressed.
    fn of(rows: usize, dimension: usize) -> Option<Self> {
        let vectors = rows.checked_mul(dimension)?.checked_mul(size_of::<f32>())?;
        let vectors = ALIGNMENT..vectors.checked_add(ALIGNMENT)?;
        let keys = vectors.end.checked_next_multiple_of(ALIGNMENT)?;
        let keys = keys..rows.checked_mul(KEY_BYTES)?.checked_add(keys)?;
        let graph = keys.end.checked_next_multiple_of(ALIGNMENT)?;
        Some(Self {
            vectors,
            keys,
            graph,
        })
    }

    /// Whether the bytes between the parts are zero, as they must be.
    fn gaps_are_zero(&self, bytes: &[u8]) -> bool {
        let gaps = [self.vectors.end..self.keys.start, self.keys.end..self.graph];
        let mut gaps = gaps.into_iter().filter_map(|range| bytes.get(range));
        gaps.all(|gap| gap.iter().all(|&byte| byte == 0))
    }
}

/// A file without its graph yet, next to the one that it will replace.
struct BaseSegmentDraft {
    file: File,
    unfinished: PathBuf,
    vectors: Arc<MappedVectors>,
}

impl BaseSegmentDraft {
    fn begin(path: &Path, items: &[BaseItem], dimension: usize, keys: &[Hash]) -> io::Result<Self> {
        let too_large = || io::Error::from(io::ErrorKind::FileTooLarge);
        let layout = BaseSegmentLayout::of(items.len(), dimension).ok_or_else(too_large)?;
        let rows = u32::try_from(items.len()).map_err(|_more| too_large())?;
        let unfinished = unfinished_index(path);
        // The file is removed and not truncated, because an earlier attempt may have mapped it.
        match fs::remove_file(&unfinished) {
            Err(cause) if cause.kind() != io::ErrorKind::NotFound => return Err(cause),
            _ => {}
        }
        let file = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&unfinished)?;
        let written = write_items(&file, &layout, items, dimension, keys);
        let map = written.and_then(|()| Map::of(&file)).inspect_err(|_| {
            // Otherwise the incomplete file would continue to fill a full disk.
            drop(fs::remove_file(&unfinished));
        })?;
        let vectors = MappedVectors::new(&Arc::new(map), ALIGNMENT, rows, dimension);
        let vectors = vectors.ok_or(io::ErrorKind::UnexpectedEof)?;
        Ok(Self {
            file,
            unfinished,
            vectors: Arc::new(vectors),
        })
    }

    fn finish(mut self, path: &Path, graph: &Graph) -> io::Result<()> {
        let folder = File::open(path.parent().unwrap_or(Path::new("/")))?;
        let written = self
            .file
            .write_all(graph.as_bytes())
            .and_then(|()| self.file.sync_all())
            .and_then(|()| fs::rename(&self.unfinished, path));
        written.inspect_err(|_| drop(fs::remove_file(&self.unfinished)))?;
        folder.sync_all()
    }
}

fn write_items(
    file: &File,
    layout: &BaseSegmentLayout,
    items: &[BaseItem],
    dimension: usize,
    keys: &[Hash],
) -> io::Result<()> {
    const BUFFER: usize = 1 << 20;
    let mut out = BufWriter::with_capacity(BUFFER, file);
    out.write_all(MAGIC)?;
    out.write_all(&(items.len() as u64).to_le_bytes())?;
    out.write_all(&(dimension as u64).to_le_bytes())?;
    out.write_all(&[0; ALIGNMENT - 24])?;
    for item in items {
        for value in &*item.vector {
            out.write_all(&value.to_le_bytes())?;
        }
    }
    let padding = |from: usize, to: usize| [0; ALIGNMENT].into_iter().take(to - from);
    out.write_all(&padding(layout.vectors.end, layout.keys.start).collect::<Vec<u8>>())?;
    out.write_all(keys.as_flattened())?;
    out.write_all(&padding(layout.keys.end, layout.graph).collect::<Vec<u8>>())?;
    out.flush()
}

/// A stored base segment while the items are being read, which determines which of its rows are still valid.
pub(super) struct StoredBaseSegment {
    graph: Graph,
    vectors: Arc<MappedVectors>,
    /// The row of each key.
    rows: HashMap<Hash, u32>,
}

/// What a file contains for an item.
pub(super) enum StoredMatch {
    /// The same vector, in this row.
    Same(u32),
    /// A different vector.
    Other,
}

/// The slots of the items in a file's rows.
pub(super) struct BaseSlots {
    slots: Vec<usize>,
    live: usize,
}

impl BaseSlots {
    pub(super) fn none(rows: usize) -> Self {
        let slots = vec![GONE; rows];
        Self { slots, live: 0 }
    }

    /// Records the slot of a row's item.
    pub(super) fn set(&mut self, row: u32, slot: usize) {
        if let Some(place) = self.slots.get_mut(row as usize) {
            *place = slot;
            self.live += 1;
        }
    }

    /// Number of rows whose items exist.
    pub(super) fn live(&self) -> usize {
        self.live
    }
}

impl StoredBaseSegment {
    /// Maps the file and checks everything except its vectors.
    ///
    /// # Errors
    /// Returns the reason, as text, why the file cannot be used.
    pub(super) fn open(path: &Path, dimension: usize, params: IndexParams) -> Result<Self, String> {
        let words = |cause: io::Error| cause.to_string();
        // Opening a pipe would block for ever.
        if !fs::metadata(path).map_err(words)?.is_file() {
            return Err("it is not a regular file".to_owned());
        }
        let file = File::open(path).map_err(words)?;
        let map = Arc::new(Map::of(&file).map_err(words)?);
        let bytes = map.bytes();
        let rows = rows_stated(bytes, dimension)?;
        let layout = BaseSegmentLayout::of(rows, dimension);
        let layout = layout.filter(|layout| layout.graph <= bytes.len());
        let layout = layout.ok_or("it ends before its head says")?;
        if !layout.gaps_are_zero(bytes) {
            return Err("the bytes between its parts are not zero".to_owned());
        }
        let part = MapTail(Arc::clone(&map), layout.graph);
        let graph = Graph::from_bytes(Arc::new(part)).map_err(|cause| cause.to_string())?;
        let (keys, _) = bytes.get(layout.keys).unwrap_or_default().as_chunks();
        if graph.fingerprint() != digest(keys) || graph.rows() != keys.len() {
            return Err("its keys are damaged".to_owned());
        }
        if graph.params() != build_params(params) || graph.dimension() != dimension {
            return Err("it was built with other parameters".to_owned());
        }
        let vectors = u32::try_from(rows)
            .ok()
            .and_then(|rows| MappedVectors::new(&map, ALIGNMENT, rows, dimension));
        Ok(Self {
            rows: keys.iter().copied().zip(0..).collect(),
            vectors: Arc::new(vectors.ok_or("it ends before its head says")?),
            graph,
        })
    }

    /// What the file contains for the item, if anything.
    pub(super) fn find(&self, key: &Hash, vector: &[f32]) -> Option<StoredMatch> {
        let &row = self.rows.get(key)?;
        let kept = self.vectors.row(row).iter().map(|value| value.to_bits());
        let is_same = kept.eq(vector.iter().map(|value| value.to_bits()));
        Some(if is_same {
            StoredMatch::Same(row)
        } else {
            StoredMatch::Other
        })
    }

    /// The vector of a row in the file.
    pub(super) fn vector(&self, row: u32) -> Vector {
        Vector::mapped(&self.vectors, row)
    }

    /// Number of rows in the file.
    pub(super) fn rows(&self) -> usize {
        self.graph.rows()
    }

    /// The index, after all items were looked up.
    pub(super) fn finish(self, slots: BaseSlots) -> BaseSegment {
        self.vectors.expect_any_order();
        let mut base = BaseSegment::of(self.graph, Some(self.vectors), slots.slots);
        base.is_stored = true;
        base
    }
}

/// The number of rows that the header of a file states, if its vectors have `dimension` components. Otherwise
/// the problem, as text.
fn rows_stated(bytes: &[u8], dimension: usize) -> Result<usize, String> {
    let unlike = "it does not begin as such a file does";
    let (head, _) = bytes.split_at_checked(ALIGNMENT).unwrap_or_default();
    if !head.starts_with(MAGIC) || head.iter().skip(24).any(|&byte| byte != 0) {
        return Err(unlike.to_owned());
    }
    let number = |at: usize| {
        let eight = head.get(at..)?.first_chunk().copied();
        usize::try_from(u64::from_le_bytes(eight?)).ok()
    };
    let (rows, found) = number(8).zip(number(16)).ok_or(unlike)?;
    if found != dimension {
        return Err(format!("it holds vectors of {found} components"));
    }
    Ok(rows)
}

/// A mapped file from some byte position on.
struct MapTail(Arc<Map>, usize);

impl AsRef<[u8]> for MapTail {
    fn as_ref(&self) -> &[u8] {
        self.0.bytes().get(self.1..).unwrap_or_default()
    }
}

fn build_params(params: IndexParams) -> BuildParams {
    BuildParams {
        m: params.m,
        ef_construction: params.ef_construction,
        seed: 0,
    }
}

fn digest(keys: &[Hash]) -> Hash {
    Sha256::digest(keys.as_flattened()).into()
}
