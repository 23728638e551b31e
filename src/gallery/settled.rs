//! The settled part of the index: a compact graph of the items there were when it was built, and
//! its file.
//!
//! The file begins with the number of rows and a key for each, which is the checksum of its item.
//! At opening an item is settled where its key is there, and anything else is not: what was
//! enrolled since joins the growing part, and rows whose item is gone are never found. A file that
//! is damaged, or built otherwise, is as good as none, for all of it can be built from the items.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use sha2::{Digest, Sha256};

use crate::gallery::graph::IndexParams;
use crate::gallery::item::Hash;
use crate::index::bits::Bits;
use crate::index::build::BuildParams;
use crate::index::codes::Rows;
use crate::index::error::IndexError;
use crate::index::graph::{Graph, Neighbour, Search};
use crate::index::scratch::Scratch;

const MAGIC: &[u8; 8] = b"MPSETTL1";
const KEY_BYTES: usize = size_of::<Hash>();
/// Where the graph's bytes begin in memory: at a multiple of a line of the cache.
const ALIGNMENT: usize = 64;
/// No slot: the item of this row is gone.
const GONE: usize = usize::MAX;

/// An item to be settled.
pub(super) struct Settling {
    pub(super) key: Hash,
    pub(super) slot: usize,
    pub(super) vector: Arc<[f32]>,
}

/// A compact graph, and where its rows are in memory.
pub(super) struct Settled {
    graph: Graph,
    keys: Vec<Hash>,
    /// The slot of each row.
    slots: Vec<usize>,
    /// The row of each slot.
    rows: HashMap<usize, u32>,
    /// Memory of earlier searches.
    scratch: Mutex<Vec<Scratch>>,
}

impl Settled {
    /// Builds the graph of items in the order given, on all threads of the current `rayon` pool.
    pub(super) fn build(items: &[Settling], params: IndexParams) -> Result<Self, IndexError> {
        let dimension = items.first().map_or(1, |item| item.vector.len());
        let mut values = Vec::with_capacity(items.len() * dimension);
        for item in items {
            values.extend_from_slice(&item.vector);
        }
        let keys: Vec<Hash> = items.iter().map(|item| item.key).collect();
        let rows = Rows::new(&values, dimension)?;
        let graph = Graph::build(rows, build_params(params), digest(&keys))?;
        let slots = items.iter().map(|item| item.slot).collect();
        Ok(Self::of(graph, keys, slots))
    }

    fn of(graph: Graph, keys: Vec<Hash>, slots: Vec<usize>) -> Self {
        let numbered = slots.iter().zip(0..);
        let rows = numbered.filter(|(slot, _)| **slot != GONE);
        Self {
            rows: rows.map(|(slot, row)| (*slot, row)).collect(),
            graph,
            keys,
            slots,
            scratch: Mutex::default(),
        }
    }

    /// Rows, gone or not.
    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    /// The row of a slot; `None` where the slot is not settled.
    pub(super) fn row(&self, slot: usize) -> Option<usize> {
        self.rows
            .get(&slot)
            .and_then(|&row| usize::try_from(row).ok())
    }

    /// The rows whose items are there.
    pub(super) fn live(&self) -> Bits {
        let mut live = Bits::none(self.len());
        for (row, slot) in self.slots.iter().enumerate() {
            live.set(row, *slot != GONE);
        }
        live
    }

    /// The nearest of the rows `live`, best first: slots with exact scores.
    pub(super) fn nearest<'v>(
        &self,
        (query, k, breadth): (&[f32], usize, usize),
        live: &Bits,
        vector_of: impl Fn(usize) -> Option<&'v [f32]>,
        mut take: impl FnMut(usize),
    ) -> Result<(), IndexError> {
        let mut scratch = self.scratch().pop().unwrap_or_default();
        let slot_of = |row: u32| {
            let row = usize::try_from(row).ok()?;
            self.slots.get(row).copied().filter(|slot| *slot != GONE)
        };
        let search = Search {
            vector: query,
            k,
            ef: breadth,
            allowed: (live.count() < self.len()).then_some(live),
        };
        let found = self
            .graph
            .search(&search, |row| vector_of(slot_of(row)?), &mut scratch);
        let found = found.map(|found| {
            let slots = found
                .iter()
                .filter_map(|Neighbour { row, .. }| slot_of(*row));
            slots.for_each(&mut take);
        });
        self.scratch().push(scratch);
        found
    }

    fn scratch(&self) -> std::sync::MutexGuard<'_, Vec<Scratch>> {
        self.scratch.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes the file, all of it or nothing.
    pub(super) fn save(&self, path: &Path) -> std::io::Result<()> {
        let beside = path.with_extension("graph.tmp");
        let written = File::create(&beside).and_then(|mut file| {
            file.write_all(MAGIC)?;
            file.write_all(&(self.keys.len() as u64).to_le_bytes())?;
            file.write_all(self.keys.as_flattened())?;
            file.write_all(self.graph.as_bytes())?;
            file.sync_all()
        });
        written
            .and_then(|()| fs::rename(&beside, path))
            .inspect_err(|_| {
                // What is left of it would keep a full disk full.
                drop(fs::remove_file(&beside));
            })
    }

    /// Reads the file; `find` gives the slot of an item by its key. What cannot be used is said in
    /// words.
    pub(super) fn load(
        path: &Path,
        (dimension, params): (usize, IndexParams),
        find: impl Fn(&Hash) -> Option<usize>,
    ) -> Result<Self, String> {
        let mut file = File::open(path).map_err(|cause| cause.to_string())?;
        let bytes = file.metadata().map_err(|cause| cause.to_string())?.len();
        let mut head = [0; 16];
        file.read_exact(&mut head)
            .map_err(|cause| cause.to_string())?;
        let (magic, count) = head.split_at(MAGIC.len());
        let count = count.first_chunk().copied().map(u64::from_le_bytes);
        let keys_bytes = count
            .filter(|_| magic == MAGIC)
            .and_then(|count| count.checked_mul(KEY_BYTES as u64))
            .filter(|keys| keys.saturating_add(16) <= bytes)
            .ok_or("it does not begin as such a file does")?;
        let graph_bytes = bytes - 16 - keys_bytes;
        let keys = read(&mut file, keys_bytes)?;
        let (keys, _) = keys.bytes().as_chunks::<KEY_BYTES>();
        let keys = keys.to_vec();
        let graph = Graph::from_bytes(Arc::new(read(&mut file, graph_bytes)?))
            .map_err(|cause| cause.to_string())?;
        if graph.fingerprint() != digest(&keys) || graph.rows() != keys.len() {
            return Err("its keys are damaged".to_owned());
        }
        if graph.params() != build_params(params) || graph.dimension() != dimension {
            return Err("it was built with other parameters".to_owned());
        }
        // No item is found twice, whatever the file says.
        let mut seen = HashSet::new();
        let slot = |key| find(key).filter(|slot| seen.insert(*slot)).unwrap_or(GONE);
        let slots = keys.iter().map(slot).collect();
        Ok(Self::of(graph, keys, slots))
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

/// Bytes that begin at a multiple of [`ALIGNMENT`].
struct Aligned {
    buffer: Vec<u8>,
    from: usize,
}

impl Aligned {
    fn bytes(&self) -> &[u8] {
        self.buffer.get(self.from..).unwrap_or_default()
    }
}

impl AsRef<[u8]> for Aligned {
    fn as_ref(&self) -> &[u8] {
        self.bytes()
    }
}

/// Reads so many bytes, which the file is known to have.
fn read(file: &mut File, bytes: u64) -> Result<Aligned, String> {
    let length = usize::try_from(bytes).map_err(|_too_large| "it is too large".to_owned())?;
    let mut buffer = vec![0; length + ALIGNMENT];
    let from = buffer.as_ptr().align_offset(ALIGNMENT).min(ALIGNMENT);
    let part = buffer.get_mut(from..from + length).unwrap_or_default();
    file.read_exact(part).map_err(|cause| cause.to_string())?;
    buffer.truncate(from + length);
    Ok(Aligned { buffer, from })
}
