//! An immutable state of a gallery, and the search in it.

use std::cmp::{Ordering, Reverse};
use std::collections::hash_map::Entry;
use std::collections::{BinaryHeap, HashMap, HashSet};
use std::sync::Arc;

use crate::gallery::catalogue::Catalogue;
use crate::gallery::error::GalleryError;
use crate::gallery::filter::Filter;
use crate::gallery::graph::Index;
use crate::gallery::item::{ContentSum, ItemHead};
use crate::index::bits::Bits;
use crate::vector::{Embedding, Similarity};

/// Most neighbours of one search: what an answer carries and a person or a rule can still use.
pub const NEIGHBOURS_MAX: usize = 1000;

/// Most candidates of an approximate search.
pub const BREADTH_MAX: usize = 4096;

/// One item in memory.
#[derive(Clone)]
pub(super) struct Slot {
    pub(super) head: Arc<ItemHead>,
    pub(super) vector: Arc<[f32]>,
}

/// Consecutive slots; `None` where the item was deleted or replaced.
pub(super) type Block = Vec<Option<Slot>>;

/// Slots per block. A write copies the pointers of the blocks it touches and the list of blocks.
pub(super) const BLOCK_SLOTS: usize = 128;

/// What to search for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probe<'a> {
    /// Neighbours wanted, 1 to [`NEIGHBOURS_MAX`].
    pub k: usize,
    /// Compare with every item, even where there is a graph.
    pub exact: bool,
    /// Leave out every item of this label. Such a search is always exact.
    pub without_label: Option<&'a str>,
    /// Find only items that this takes. Such a search is always exact.
    pub filter: Option<&'a Filter>,
    /// Find the best item of each label, and count labels.
    pub one_per_label: bool,
    /// Candidates that an approximate search keeps; `None` for those of the index. At most
    /// [`BREADTH_MAX`]; never fewer than the index keeps.
    pub breadth: Option<usize>,
}

impl Probe<'_> {
    fn takes(&self, slot: &Slot) -> bool {
        let ItemHead {
            id,
            label,
            metadata,
            ..
        } = &*slot.head;
        self.without_label.is_none_or(|without| label != without)
            && self
                .filter
                .is_none_or(|filter| filter.matches(id, label, metadata))
    }

    /// The `k` nearest of all items, by the index.
    #[must_use]
    pub fn nearest(k: usize) -> Self {
        Self {
            k,
            exact: false,
            without_label: None,
            filter: None,
            one_per_label: false,
            breadth: None,
        }
    }
}

/// A neighbour and its exact similarity.
#[derive(Clone, Debug, PartialEq)]
pub struct Match {
    /// The item found.
    pub item: Arc<ItemHead>,
    /// Its stored vector, of unit length.
    pub vector: Arc<[f32]>,
    /// Cosine similarity computed from the stored vector, whichever index proposed the item.
    pub score: Similarity,
}

/// What a gallery held after one write. It never changes, whatever is written later.
pub struct Snapshot {
    pub(super) generation: u64,
    pub(super) len: usize,
    pub(super) label_count: usize,
    pub(super) dimension: usize,
    pub(super) digest: ContentSum,
    pub(super) blocks: Vec<Arc<Block>>,
    /// The index, and which of its settled rows are there.
    pub(super) index: Option<(Arc<Index>, Arc<Bits>)>,
}

impl Snapshot {
    pub(super) fn of(
        catalogue: &Catalogue,
        dimension: usize,
        generation: u64,
        index: Option<(Arc<Index>, Arc<Bits>)>,
    ) -> Self {
        Self {
            generation,
            len: catalogue.len(),
            label_count: catalogue.label_count(),
            dimension,
            digest: catalogue.sum,
            blocks: catalogue.blocks.clone(),
            index,
        }
    }

    /// Number of writes to the gallery since it was created.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Number of items.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no item.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Number of distinct labels.
    #[must_use]
    pub fn label_count(&self) -> usize {
        self.label_count
    }

    /// Digest of all items, 64 hex digits: equal for equal items, in whatever order they came.
    #[must_use]
    pub fn digest(&self) -> String {
        self.digest.to_string()
    }

    /// Whether a search may miss neighbours.
    #[must_use]
    pub fn is_approximate(&self) -> bool {
        self.index.is_some()
    }

    /// Whether the index looks further for `k` items than it does for one.
    #[must_use]
    pub fn is_wide(&self, k: usize) -> bool {
        let index = self.index.as_ref();
        index.is_some_and(|(index, _)| index.params().ef_search < 2 * k)
    }

    /// The kind of search, `exact` or the graph with its parameters.
    ///
    /// A threshold calibrated with one kind holds for that kind.
    #[must_use]
    pub fn index_description(&self) -> String {
        self.index.as_ref().map_or_else(
            || "exact".to_owned(),
            |(index, _)| index.params().to_string(),
        )
    }

    /// Every item with the components of its embedding, in order of enrolment.
    pub fn items(&self) -> impl Iterator<Item = (&Arc<ItemHead>, &[f32])> {
        self.slots().map(|(_, slot)| (&slot.head, &*slot.vector))
    }

    /// The nearest items, best first; equal scores in order of id. Fewer than `k` only where
    /// fewer items qualify.
    ///
    /// An exact search gives the same answer each time. A search through the graph may miss
    /// neighbours, and which ones may change while newer items are being enrolled; every score
    /// is exact in either case.
    ///
    /// # Errors
    /// Refuses a `k` out of range and a query of another dimension.
    pub fn nearest(
        &self,
        query: &Embedding,
        probe: &Probe<'_>,
    ) -> Result<Vec<Match>, GalleryError> {
        let &Probe { k, breadth, .. } = probe;
        if !(1..=NEIGHBOURS_MAX).contains(&k) {
            return Err(GalleryError::Neighbours {
                found: k,
                max: NEIGHBOURS_MAX,
            });
        }
        if query.dimension() != self.dimension {
            let (found, expected) = (query.dimension(), self.dimension);
            return Err(GalleryError::QueryDimension { found, expected });
        }
        if let Some(found) = breadth.filter(|breadth| !(1..=BREADTH_MAX).contains(breadth)) {
            return Err(GalleryError::IndexParams {
                name: "breadth",
                found,
                min: 1,
                max: BREADTH_MAX,
            });
        }
        let query = query.as_slice();
        if !probe.exact
            && probe.without_label.is_none()
            && probe.filter.is_none()
            && let Some(matches) = self.through_index(query, probe)
        {
            return Ok(matches);
        }
        if probe.one_per_label {
            return Ok(self.best_of_labels(query, probe));
        }
        let mut best = Best::new(query, probe);
        self.slots().for_each(|(_, slot)| best.offer(slot));
        Ok(best.into_matches())
    }

    /// The best item of each label, by comparing with every item.
    fn best_of_labels(&self, query: &[f32], probe: &Probe<'_>) -> Vec<Match> {
        let mut labels: HashMap<&str, Ranked<'_>> = HashMap::new();
        for (_, slot) in self.slots().filter(|(_, slot)| probe.takes(slot)) {
            let Some(score) = Similarity::between(query, &slot.vector) else {
                continue;
            };
            let candidate = Ranked { score, slot };
            match labels.entry(&slot.head.label) {
                Entry::Vacant(free) => {
                    free.insert(candidate);
                }
                Entry::Occupied(mut best) if *best.get() < candidate => {
                    best.insert(candidate);
                }
                Entry::Occupied(_) => {}
            }
        }
        let mut ranked: Vec<Ranked<'_>> = labels.into_values().collect();
        ranked.sort_unstable_by(|a, b| b.cmp(a));
        ranked.truncate(probe.k);
        ranked.into_iter().map(Ranked::into_match).collect()
    }

    /// `None` where there is no index, or it proposed fewer than `k` items of this snapshot.
    fn through_index(&self, query: &[f32], probe: &Probe<'_>) -> Option<Vec<Match>> {
        let k = probe.k;
        let (index, live) = self.index.as_ref().filter(|_| k < self.len)?;
        if probe.one_per_label {
            // Wide enough for labels of a few items; where it is not, every item is compared.
            let wide = Probe {
                k: k.saturating_mul(8).min(NEIGHBOURS_MAX),
                one_per_label: false,
                ..*probe
            };
            let mut seen = HashSet::new();
            let mut matches = self.through_index(query, &wide)?;
            matches.retain(|found| seen.insert(found.item.label.clone()));
            matches.truncate(k);
            return (matches.len() == k).then_some(matches);
        }
        let mut best = Best::new(query, probe);
        let asked = (query, k, probe.breadth.unwrap_or(0));
        let there = (&**live, self.len.saturating_sub(live.count()));
        let vector_of = |number| self.slot(number).map(|slot| &*slot.vector);
        let found = index.candidates(asked, there, vector_of, |number| {
            // Not found: deleted, replaced, or enrolled after this snapshot.
            if let Some(slot) = self.slot(number) {
                best.offer(slot);
            }
        });
        found.ok().filter(|()| best.heap.len() == k)?;
        Some(best.into_matches())
    }

    fn slot(&self, number: usize) -> Option<&Slot> {
        self.blocks
            .get(number / BLOCK_SLOTS)?
            .get(number % BLOCK_SLOTS)?
            .as_ref()
    }

    /// Every item with the number of its slot.
    pub(super) fn slots(&self) -> impl Iterator<Item = (usize, &Slot)> {
        self.blocks.iter().enumerate().flat_map(|(block, slots)| {
            let first = block * BLOCK_SLOTS;
            let numbered = slots.iter().enumerate();
            numbered.filter_map(move |(at, slot)| Some((first + at, slot.as_ref()?)))
        })
    }
}

/// The best `k` of the items offered so far.
struct Best<'a> {
    query: &'a [f32],
    probe: &'a Probe<'a>,
    /// The worst on top.
    heap: BinaryHeap<Reverse<Ranked<'a>>>,
}

impl<'a> Best<'a> {
    fn new(query: &'a [f32], probe: &'a Probe<'a>) -> Self {
        Self {
            query,
            probe,
            heap: BinaryHeap::with_capacity(probe.k + 1),
        }
    }

    fn offer(&mut self, slot: &'a Slot) {
        // A filter is cheaper to test than most vectors are to compare.
        if self.probe.filter.is_some() && !self.probe.takes(slot) {
            return;
        }
        // `None` cannot occur: stored vectors are finite and of the query's dimension.
        let Some(score) = Similarity::between(self.query, &slot.vector) else {
            return;
        };
        let candidate = Ranked { score, slot };
        let full = self.heap.len() == self.probe.k;
        if full && self.heap.peek().is_some_and(|worst| candidate <= worst.0) {
            return;
        }
        // Only now, because it rarely comes to this and the label lies elsewhere in memory.
        if !self.probe.takes(slot) {
            return;
        }
        if full {
            self.heap.pop();
        }
        self.heap.push(Reverse(candidate));
    }

    fn into_matches(self) -> Vec<Match> {
        let ranked = self.heap.into_sorted_vec();
        let ranked = ranked.into_iter();
        ranked.map(|Reverse(one)| one.into_match()).collect()
    }
}

/// Greater is better: the higher score, then the smaller id.
struct Ranked<'a> {
    score: Similarity,
    slot: &'a Slot,
}

impl Ranked<'_> {
    fn into_match(self) -> Match {
        Match {
            item: Arc::clone(&self.slot.head),
            vector: Arc::clone(&self.slot.vector),
            score: self.score,
        }
    }
}

impl Ord for Ranked<'_> {
    fn cmp(&self, other: &Self) -> Ordering {
        self.score
            .cmp(&other.score)
            .then_with(|| other.slot.head.id.cmp(&self.slot.head.id))
    }
}

impl PartialOrd for Ranked<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Ranked<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Ranked<'_> {}
