//! The approximate index: a settled graph, and one of what was enrolled since. They propose; the
//! snapshot scores.

use std::fmt;
use std::sync::Arc;

use hnsw_rs::anndists::dist::distances::Distance;
use hnsw_rs::hnsw::Hnsw;

use crate::gallery::error::GalleryError;
use crate::gallery::settled::Settled;
use crate::index::bits::Bits;
use crate::index::error::IndexError;
use crate::kernels;

/// How nearest items are found, fixed when a gallery is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IndexParams {
    /// Number of items from which opening builds a graph; below, every search is an exact scan.
    pub graph_from_items: usize,
    /// Links per item in the graph, doubled in the lowest layer. 2 to 128.
    pub m: usize,
    /// Candidates kept while an item is linked. 1 to 4,096.
    pub ef_construction: usize,
    /// Candidates kept during a search, at least twice the number of neighbours asked for.
    /// 1 to 4,096.
    pub ef_search: usize,
}

/// A graph from 10,000 items: there a scan of 1,280 components takes some 6 ms, and a search in the
/// graph a tenth of a millisecond.
impl Default for IndexParams {
    fn default() -> Self {
        Self {
            graph_from_items: 10_000,
            m: 16,
            ef_construction: 200,
            ef_search: 128,
        }
    }
}

impl IndexParams {
    pub(super) fn check(&self) -> Result<(), GalleryError> {
        let bounds = [
            // `hnsw_rs` stores the number of links in one byte and ends the process above 256.
            ("m", self.m, 2, 128),
            ("ef_construction", self.ef_construction, 1, 4096),
            ("ef_search", self.ef_search, 1, 4096),
        ];
        for (name, found, min, max) in bounds {
            if !(min..=max).contains(&found) {
                return Err(GalleryError::IndexParams {
                    name,
                    found,
                    min,
                    max,
                });
            }
        }
        Ok(())
    }
}

impl fmt::Display for IndexParams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            m,
            ef_construction,
            ef_search,
            graph_from_items: _,
        } = self;
        write!(
            f,
            "hnsw m={m} ef_construction={ef_construction} ef_search={ef_search}, 8-bit codes"
        )
    }
}

/// What is settled, and what has been enrolled since.
pub(super) struct Index {
    pub(super) settled: Settled,
    growing: Growing,
    params: IndexParams,
}

impl Index {
    pub(super) fn new(settled: Settled, params: IndexParams) -> Self {
        Self {
            settled,
            growing: Growing::new(params),
            params,
        }
    }

    pub(super) fn params(&self) -> IndexParams {
        self.params
    }

    /// Adds an item; not to be called from two threads at once. Searches may go on meanwhile.
    pub(super) fn insert(&self, slot: usize, vector: &Arc<[f32]>) {
        self.growing.insert(slot, vector);
    }

    /// Items ever added since it was settled, gone or not.
    pub(super) fn grown(&self) -> usize {
        self.growing.points()
    }

    /// Calls `take` with slots that are likely to hold the `k` nearest of `live_growing` items that
    /// were enrolled since, and of the rows `live` that are settled.
    pub(super) fn candidates<'v>(
        &self,
        (query, k, breadth): (&[f32], usize, usize),
        (live, live_growing): (&Bits, usize),
        vector_of: impl Fn(usize) -> Option<&'v [f32]>,
        mut take: impl FnMut(usize),
    ) -> Result<(), IndexError> {
        let breadth = breadth.max(self.params.ef_search).max(2 * k);
        if 0 < self.growing.points() {
            let grown = self.growing.candidates(query, breadth, live_growing);
            grown.into_iter().for_each(&mut take);
        }
        self.settled
            .nearest((query, k, breadth), live, vector_of, take)
    }
}

/// Points that are only ever added; whoever asks drops those that are gone.
///
/// Points are inserted one after the other, because parallel insertion links them differently
/// each time. The same points in the same order give the same graph.
struct Growing {
    // A point holds one shared vector, not a copy of its components.
    hnsw: Hnsw<'static, Arc<[f32]>, Angle>,
}

impl Growing {
    fn new(params: IndexParams) -> Self {
        /// The most that `hnsw_rs` can have; levels above the fifth stay empty in practice.
        const LAYERS: usize = 16;
        /// A hint: it may become more.
        const POINTS: usize = 10_000;
        Self {
            hnsw: Hnsw::new(params.m, POINTS, LAYERS, params.ef_construction, Angle),
        }
    }

    /// Adds a point; not to be called from two threads at once. Searches may go on meanwhile.
    fn insert(&self, slot: usize, vector: &Arc<[f32]>) {
        self.hnsw.insert_slice((&[Arc::clone(vector)], slot));
    }

    /// Points ever added, gone or not.
    fn points(&self) -> usize {
        self.hnsw.get_nb_point()
    }

    /// Slots likely to hold the nearest of `live` items.
    fn candidates(&self, query: &[f32], wanted: usize, live: usize) -> Vec<usize> {
        // Points that are gone take places among the candidates: widen the search by their share.
        let breadth = (wanted * self.points())
            .div_ceil(live.max(1))
            .min(4 * wanted);
        let query = [Arc::from(query)];
        let found = self.hnsw.search(&query, breadth, breadth);
        found
            .iter()
            .map(hnsw_rs::hnsw::Neighbour::get_origin_id)
            .collect()
    }
}

/// One minus the cosine. Vectors are finite and of unit length, so it is never NaN.
struct Angle;

impl Distance<Arc<[f32]>> for Angle {
    fn eval(&self, a: &[Arc<[f32]>], b: &[Arc<[f32]>]) -> f32 {
        let (Some(a), Some(b)) = (a.first(), b.first()) else {
            return 2.0;
        };
        // Rounding may take a cosine above one, and `hnsw_rs` asserts that no distance is negative.
        (1.0 - kernels::dot(a, b)).clamp(0.0, 2.0)
    }
}
