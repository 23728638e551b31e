//! The approximate index: a graph that proposes candidates and never scores them.

use std::fmt;
use std::sync::Arc;

use hnsw_rs::anndists::dist::distances::Distance;
use hnsw_rs::hnsw::Hnsw;

use crate::gallery::error::GalleryError;
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

/// A graph from 50,000 items.
///
/// CPU time of one thread at 1,280 dimensions and `k` = 10, synthetic clusters of twenty, on two
/// busy cores, built without link-time optimisation:
///
/// | items | opening without a graph | exact scan, median | building the graph | search in it |
/// | --- | --- | --- | --- | --- |
/// | 1,000 | 0.04 s | 0.15 ms | | |
/// | 10,000 | 0.24 s | 5.7 ms | | |
/// | 20,000 | 0.46 s | 8.8 ms | 143 s | 6.6 ms, recall@10 1.00 |
/// | 50,000 | 0.88 s | 25 ms | | |
///
/// The two kinds of search cost the same at about 15,000 items. The graph must also be built at
/// every opening, one item after the other, and it may miss a neighbour, so it is worth having
/// only where a scan costs several times as much.
impl Default for IndexParams {
    fn default() -> Self {
        Self {
            graph_from_items: 50_000,
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
            "hnsw m={m} ef_construction={ef_construction} ef_search={ef_search}"
        )
    }
}

/// Points that are only ever added; whoever asks drops those that are gone.
///
/// Points are inserted one after the other, because parallel insertion links them differently
/// each time. The same points in the same order give the same graph.
pub(super) struct Graph {
    // A point holds one shared vector, not a copy of its components.
    hnsw: Hnsw<'static, Arc<[f32]>, Angle>,
    params: IndexParams,
}

impl Graph {
    pub(super) fn new(params: IndexParams, points: usize) -> Self {
        /// The most that `hnsw_rs` can have; levels above the fifth stay empty in practice.
        const LAYERS: usize = 16;
        Self {
            hnsw: Hnsw::new(params.m, points, LAYERS, params.ef_construction, Angle),
            params,
        }
    }

    /// Adds a point; not to be called from two threads at once. Searches may go on meanwhile.
    pub(super) fn insert(&self, slot: usize, vector: &Arc<[f32]>) {
        self.hnsw.insert_slice((&[Arc::clone(vector)], slot));
    }

    /// Points ever added, gone or not.
    pub(super) fn points(&self) -> usize {
        self.hnsw.get_nb_point()
    }

    pub(super) fn params(&self) -> IndexParams {
        self.params
    }

    /// Slots likely to hold the `k` nearest of `live` items.
    pub(super) fn candidates(&self, query: &[f32], k: usize, live: usize) -> Vec<usize> {
        // Points that are gone take places among the candidates: widen the search by their share.
        let wanted = self.params.ef_search.max(2 * k);
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
