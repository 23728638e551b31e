//! A view is one immutable state of a gallery. Searches run on it.

use std::cmp::{Ordering, Reverse};
use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, BinaryHeap, HashMap, HashSet};
use std::sync::Arc;

use crate::blocks::{BLOCK_SLOTS, ItemSlot, SlotBlock};
use crate::error::GalleryError;
use crate::filter::ItemFilter;
use crate::gallery_index::{GalleryIndex, IndexQuery};
use crate::index::bits::Bits;
use crate::index::breadth::SearchBreadth;
use crate::index::scan::CodedQuery;
use crate::item::{ContentSum, ItemHead, embedding_bytes};
use crate::item_set::{ItemCounts, ItemSet, SetItem};
use crate::item_table::ItemTable;
use crate::mapped_vectors::Vector;
use matchpoint_vector::{Embedding, Similarity};

/// The highest number of neighbours of a search: as many as an answer can contain and as anybody can use.
pub const NEIGHBOURS_MAX: usize = 1000;

/// The highest number of candidates of an approximate search.
pub const EF_MAX: usize = 4096;

/// The input of a search.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probe<'a> {
    /// Number of neighbours to find, 1 to [`NEIGHBOURS_MAX`].
    pub k: usize,
    /// Whether to compare with every item, even if there is a graph.
    pub exact: bool,
    /// A label whose items are left out. Such a search is always exact.
    pub without_label: Option<&'a str>,
    /// Only items that match this filter are found.
    pub filter: Option<&'a ItemFilter>,
    /// Whether to find only the best item of each label; `k` then counts labels.
    pub one_per_label: bool,
    /// Number of candidates that an approximate search keeps, at most [`EF_MAX`]; `None` for the index's
    /// default, which is also the minimum.
    pub ef: Option<usize>,
}

impl Probe<'_> {
    fn takes(&self, slot: &ItemSlot) -> bool {
        let label = &slot.head.label;
        self.without_label.is_none_or(|without| label != without)
            && self.filter.is_none_or(|filter| takes(filter, slot))
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
            ef: None,
        }
    }
}

fn takes(filter: &ItemFilter, slot: &ItemSlot) -> bool {
    let ItemHead {
        id,
        label,
        metadata,
        ..
    } = &*slot.head;
    filter.matches(id, label, metadata)
}

/// A neighbour and its exact similarity.
#[derive(Clone, Debug, PartialEq)]
pub struct GalleryMatch {
    /// The item found.
    pub item: Arc<ItemHead>,
    /// Its stored vector, of unit length.
    pub vector: Vector,
    /// Cosine similarity computed from the stored vector, whatever proposed the item.
    pub score: Similarity,
}

/// The content of a gallery after some write. It never changes, whatever is written later.
#[derive(Clone)]
pub struct GalleryView {
    pub(super) generation: u64,
    pub(super) len: usize,
    pub(super) label_count: usize,
    pub(super) dimension: usize,
    pub(super) digest: ContentSum,
    pub(super) blocks: Vec<Arc<SlotBlock>>,
    /// The index, and the rows of its base segment that exist.
    pub(super) index: Option<LiveIndex>,
    /// Whether an index elsewhere proposes candidates.
    elsewhere: bool,
    /// The set that the gallery is compared with, and the number of its items that are present.
    pub(super) in_common: Option<(Arc<ItemSet>, ItemCounts)>,
}

/// An index, and the rows of its base segment that exist.
pub(super) type LiveIndex = (Arc<GalleryIndex>, Arc<Bits>);

impl GalleryView {
    pub(super) fn of(
        item_table: &ItemTable,
        dimension: usize,
        generation: u64,
        index: Option<LiveIndex>,
    ) -> Self {
        Self {
            generation,
            len: item_table.len(),
            label_count: item_table.label_count(),
            dimension,
            digest: item_table.sum,
            in_common: item_table.in_common(),
            blocks: item_table.blocks.clone(),
            index,
            elsewhere: false,
        }
    }

    pub(super) fn proposed_elsewhere(self, elsewhere: bool) -> Self {
        Self { elsewhere, ..self }
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

    /// The labels of its items.
    #[must_use]
    pub fn labels(&self) -> BTreeSet<String> {
        self.items().map(|(head, _)| head.label.clone()).collect()
    }

    /// The digest of all items, 64 hexadecimal digits. It is equal for equal items, in whatever order they were
    /// enrolled.
    #[must_use]
    pub fn digest(&self) -> String {
        self.digest.to_string()
    }

    /// The same digest as its 32 bytes.
    #[must_use]
    pub fn digest_bytes(&self) -> [u8; 32] {
        self.digest.to_bytes()
    }

    /// The number of items of `set` that are present unchanged; `None` if the gallery was not compared with
    /// this set. An estimate for more than [`KEPT_MAX`](crate::item_set::KEPT_MAX) items.
    #[must_use]
    pub fn in_common_with(&self, set: &Arc<ItemSet>) -> Option<ItemCounts> {
        let (compared, kept) = self.in_common.as_ref()?;
        Arc::ptr_eq(compared, set).then_some(*kept)
    }

    /// The set of its items, for comparison with a later state; `searched` are the labels that were searched for.
    /// Computes a SHA-256 for each item.
    #[must_use]
    pub fn item_set(&self, searched: &BTreeSet<String>) -> ItemSet {
        ItemSet::of(self.items().map(|(head, vector)| SetItem {
            checksum: head.checksum(&embedding_bytes(vector)),
            searched: searched.contains(&head.label),
        }))
    }

    /// The items that the graph of the index does not have yet, because they were enrolled after it was built. A
    /// search looks for them apart. None if every search is exact.
    pub fn outside_the_graph(&self) -> impl Iterator<Item = &ItemHead> {
        let outside = |slot: usize| {
            let index = self.index.as_ref();
            index.is_some_and(|(index, _)| index.base.row(slot).is_none())
        };
        self.slots()
            .filter(move |(slot, _)| outside(*slot))
            .map(|(_, slot)| &*slot.head)
    }

    /// Whether a search may miss neighbours, through an index here or elsewhere.
    #[must_use]
    pub fn is_approximate(&self) -> bool {
        self.elsewhere || self.index.is_some()
    }

    /// How many candidates a search in the index keeps, if it asks for no more, and what that misses; `None` if every
    /// search is exact.
    #[must_use]
    pub fn search_breadth(&self) -> Option<SearchBreadth> {
        let index = self.index.as_ref();
        index.map(|(index, _)| index.breadth())
    }

    /// The method of search: `exact`, or the graph with its parameters.
    ///
    /// A threshold is only valid for the method that it was calibrated with.
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

    /// The nearest items, best first; equal scores are in order of id. Fewer than `k` are returned only if
    /// fewer items qualify.
    ///
    /// An exact search gives the same answer each time. A search through the graph may miss neighbours, and the
    /// missed ones may change while items are being enrolled. Every score is exact in both cases.
    ///
    /// # Errors
    /// Returns an error for a `k` out of range and for a query of another dimension.
    pub fn nearest(
        &self,
        query: &Embedding,
        probe: &Probe<'_>,
    ) -> Result<Vec<GalleryMatch>, GalleryError> {
        self.check(query, probe)?;
        let query = query.as_slice();
        if !probe.exact
            && probe.without_label.is_none()
            && let Some(matches) = self.through_index(query, probe)
        {
            return Ok(matches);
        }
        if probe.one_per_label {
            return Ok(self.best_of_labels(query, probe));
        }
        let mut best = BestMatches::new(query, probe);
        for (_, slot) in self.slots() {
            best.offer(slot);
        }
        Ok(best.into_matches())
    }

    pub(super) fn check(&self, query: &Embedding, probe: &Probe<'_>) -> Result<(), GalleryError> {
        let &Probe { k, ef, .. } = probe;
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
        if let Some(found) = ef.filter(|ef| !(1..=EF_MAX).contains(ef)) {
            return Err(GalleryError::IndexParams {
                name: "ef",
                found,
                min: 1,
                max: EF_MAX,
            });
        }
        Ok(())
    }

    /// The best item of each label, by comparing with every item.
    fn best_of_labels(&self, query: &[f32], probe: &Probe<'_>) -> Vec<GalleryMatch> {
        let mut labels: HashMap<&str, ScoredItem<'_>> = HashMap::new();
        for (_, slot) in self.slots().filter(|(_, slot)| probe.takes(slot)) {
            let Some(score) = Similarity::between(query, &slot.vector) else {
                continue;
            };
            let candidate = ScoredItem { score, slot };
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
        let mut ranked: Vec<ScoredItem<'_>> = labels.into_values().collect();
        ranked.sort_unstable_by(|a, b| b.cmp(a));
        ranked.truncate(probe.k);
        ranked.into_iter().map(ScoredItem::into_match).collect()
    }

    /// `None` if there is no index, or if it proposed too few items of this view.
    fn through_index(&self, query: &[f32], probe: &Probe<'_>) -> Option<Vec<GalleryMatch>> {
        let k = probe.k;
        let (index, live) = self.index.as_ref().filter(|_| k < self.len)?;
        if probe.one_per_label {
            // Usually enough candidates for labels with a few items. If they do not suffice, every item is
            // compared.
            let wide = Probe {
                k: k.saturating_mul(8).min(NEIGHBOURS_MAX),
                one_per_label: false,
                ..*probe
            };
            let mut seen = HashSet::new();
            let mut matches = self.through_index(query, &wide)?;
            let all = matches.len() < wide.k;
            matches.retain(|found| seen.insert(found.item.label.clone()));
            matches.truncate(k);
            return (all || matches.len() == k).then_some(matches);
        }
        let filtered = probe.filter.map(|filter| {
            let find = || self.rows_taken(index, filter);
            let rows = index.filtered(filter, self.generation, find);
            Arc::new(rows.and(live))
        });
        let asked = IndexQuery {
            query,
            k,
            ef: probe.ef.unwrap_or(0),
            allowed: filtered.as_ref().unwrap_or(live),
        };
        let mut best = BestMatches::new(query, probe);
        let offered = self.offer_delta(index, &asked, &mut best);
        let vector_of = |number| self.slot(number).map(|slot| &*slot.vector);
        let found = index.base_matches(&asked, vector_of, |number, score| {
            // A missing item was deleted or replaced.
            if let Some(slot) = self.slot(number) {
                best.offer_scored(slot, Similarity::new(score));
            }
        });
        let there = asked.allowed.count().saturating_add(offered);
        found.ok().filter(|()| k.min(there) <= best.heap.len())?;
        Some(best.into_matches())
    }

    /// Offers the items of the delta: linked ones as the delta graph proposes them, the others one by one.
    /// Returns the highest number that could be found.
    fn offer_delta<'a>(
        &'a self,
        index: &GalleryIndex,
        asked: &IndexQuery<'_>,
        best: &mut BestMatches<'a>,
    ) -> usize {
        if best.probe.filter.is_some() {
            // The delta graph does not support filters.
            let slots = self.slots_from(index.first());
            return slots.filter(|(_, slot)| best.offer(slot)).count();
        }
        let linked = index.linked();
        let unlinked = self.offer_unlinked(linked, best);
        let delta_items = self.len.saturating_sub(self.base_items() + unlinked);
        if 0 < delta_items {
            for number in index.delta_candidates(asked, delta_items, linked) {
                // A missing item was deleted, replaced, or enrolled after this view.
                if let Some(slot) = self.slot(number) {
                    best.offer(slot);
                }
            }
        }
        delta_items + unlinked
    }

    /// Offers the items from a slot on whose codes are among the best, and those without codes. Returns how
    /// many items there are.
    fn offer_unlinked<'a>(&'a self, first: usize, best: &mut BestMatches<'a>) -> usize {
        let mut coded = None;
        let mut likely = LikelyItems::new(LIKELY_MIN.max(4 * best.probe.k));
        let mut count = 0;
        for (at, block) in self.blocks.iter().enumerate().skip(first / BLOCK_SLOTS) {
            let before = at * BLOCK_SLOTS;
            let from = first.saturating_sub(before);
            let there = || block.slots.iter().skip(from).flatten();
            count += there().count();
            if let Some(codes) = &block.codes {
                let query = CodedQuery::for_codes(&mut coded, best.query, codes);
                for (slot, score) in block.slots.iter().zip(query.products(codes)).skip(from) {
                    // This test comes first, because few items pass it.
                    if likely.least < score
                        && let Some(slot) = slot
                    {
                        likely.push(score, slot);
                    }
                }
            } else {
                there().for_each(|slot| {
                    best.offer(slot);
                });
            }
        }
        likely.kept.iter().for_each(|(_, slot)| {
            best.offer(slot);
        });
        count
    }

    /// The rows of the base segment whose items match a filter.
    fn rows_taken(&self, index: &GalleryIndex, filter: &ItemFilter) -> Bits {
        let mut rows = Bits::none(index.base.len());
        for row in 0..index.base.len() {
            let slot = index.base.slot(row).and_then(|slot| self.slot(slot));
            rows.set(row, slot.is_some_and(|slot| takes(filter, slot)));
        }
        rows
    }

    pub(super) fn slot(&self, number: usize) -> Option<&ItemSlot> {
        self.blocks
            .get(number / BLOCK_SLOTS)?
            .slots
            .get(number % BLOCK_SLOTS)?
            .as_ref()
    }

    /// The number of items in the base segment, whose vectors are on disk if it has a file.
    #[must_use]
    pub fn base_items(&self) -> usize {
        self.index.as_ref().map_or(0, |(_, live)| live.count())
    }

    /// Whether the index is stored in its file, so that the next opening need not build it.
    #[must_use]
    pub fn index_is_stored(&self) -> bool {
        let index = self.index.as_ref();
        index.is_some_and(|(index, _)| index.base.is_stored())
    }

    /// Bytes that the index takes in memory: codes and links of the base segment.
    #[must_use]
    pub fn index_bytes(&self) -> usize {
        let index = self.index.as_ref();
        index.map_or(0, |(index, _)| index.base.bytes())
    }

    /// Bytes that vectors take in memory. Those of the base segment stay on disk if it has a file.
    #[must_use]
    pub fn vector_bytes(&self) -> usize {
        let held = self.slots().filter(|(_, slot)| !slot.vector.is_mapped());
        held.count() * self.dimension * size_of::<f32>()
    }

    /// Every item from a slot on, with its slot.
    pub(super) fn slots_from(&self, first: usize) -> impl Iterator<Item = (usize, &ItemSlot)> {
        let blocks = self.blocks.iter().enumerate().skip(first / BLOCK_SLOTS);
        let slots = blocks.flat_map(|(at, block)| {
            let before = at * BLOCK_SLOTS;
            let numbered = block.slots.iter().enumerate();
            numbered.filter_map(move |(at, slot)| Some((before + at, slot.as_ref()?)))
        });
        slots.skip_while(move |(number, _)| *number < first)
    }

    /// Every item with its slot.
    pub(super) fn slots(&self) -> impl Iterator<Item = (usize, &ItemSlot)> {
        self.slots_from(0)
    }
}

/// The lowest number of items whose exact scores are computed after comparing codes. Codes are wrong by some
/// thousandths, so few of the true nearest items fall outside.
const LIKELY_MIN: usize = 64;

/// The items that are nearest by their codes.
struct LikelyItems<'a> {
    wanted: usize,
    /// At most twice as many as wanted.
    kept: Vec<(f32, &'a ItemSlot)>,
    /// Only items with a higher score are added.
    least: f32,
}

impl<'a> LikelyItems<'a> {
    fn new(wanted: usize) -> Self {
        Self {
            wanted,
            kept: Vec::new(),
            least: f32::NEG_INFINITY,
        }
    }

    fn push(&mut self, score: f32, slot: &'a ItemSlot) {
        self.kept.push((score, slot));
        if 2 * self.wanted <= self.kept.len() {
            let last = self.wanted - 1;
            let (_, worst, _) = self
                .kept
                .select_nth_unstable_by(last, |a, b| b.0.total_cmp(&a.0));
            self.least = worst.0;
            self.kept.truncate(self.wanted);
        }
    }
}

/// The best `k` of the items offered so far.
pub(super) struct BestMatches<'a> {
    query: &'a [f32],
    probe: &'a Probe<'a>,
    /// A heap with the worst match on top.
    heap: BinaryHeap<Reverse<ScoredItem<'a>>>,
}

impl<'a> BestMatches<'a> {
    pub(super) fn new(query: &'a [f32], probe: &'a Probe<'a>) -> Self {
        Self {
            query,
            probe,
            heap: BinaryHeap::with_capacity(probe.k + 1),
        }
    }

    /// Compares an item with the query; returns whether the filter allows it.
    pub(super) fn offer(&mut self, slot: &'a ItemSlot) -> bool {
        // Testing a filter is cheaper than most vector comparisons.
        if self.probe.filter.is_some() && !self.probe.takes(slot) {
            return false;
        }
        // This cannot be `None`, because stored vectors are finite and have the query's dimension.
        self.offer_scored(slot, Similarity::between(self.query, &slot.vector));
        true
    }

    /// Adds an item that matches the filter, if it is among the best.
    fn offer_scored(&mut self, slot: &'a ItemSlot, score: Option<Similarity>) {
        let Some(score) = score else {
            return;
        };
        let candidate = ScoredItem { score, slot };
        let full = self.heap.len() == self.probe.k;
        if full && self.heap.peek().is_some_and(|worst| candidate <= worst.0) {
            return;
        }
        self.add(candidate, full);
    }

    /// Kept out of the loops that compare: of most items the score says that they are not among the best.
    #[cold]
    #[inline(never)]
    fn add(&mut self, candidate: ScoredItem<'a>, full: bool) {
        // Tested last, because it is rarely needed and the label is elsewhere in memory.
        let without = self.probe.without_label;
        if without.is_some_and(|without| candidate.slot.head.label == without) {
            return;
        }
        if full {
            self.heap.pop();
        }
        self.heap.push(Reverse(candidate));
    }

    pub(super) fn into_matches(self) -> Vec<GalleryMatch> {
        let ranked = self.heap.into_sorted_vec();
        let ranked = ranked.into_iter();
        ranked.map(|Reverse(one)| one.into_match()).collect()
    }
}

/// Ordered such that greater is better: by higher score, then by lower id.
struct ScoredItem<'a> {
    score: Similarity,
    slot: &'a ItemSlot,
}

impl ScoredItem<'_> {
    fn into_match(self) -> GalleryMatch {
        GalleryMatch {
            item: Arc::clone(&self.slot.head),
            vector: self.slot.vector.clone(),
            score: self.score,
        }
    }
}

impl Ord for ScoredItem<'_> {
    fn cmp(&self, other: &Self) -> Ordering {
        self.score
            .cmp(&other.score)
            .then_with(|| other.slot.head.id.cmp(&self.slot.head.id))
    }
}

impl PartialOrd for ScoredItem<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for ScoredItem<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for ScoredItem<'_> {}
