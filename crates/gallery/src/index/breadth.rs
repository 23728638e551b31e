//! Measures how many candidates a search has to keep in the graph of a gallery to find the nearest row.
//!
//! That depends on the rows: a few hundred where many are nearly alike, such as frames of one camera. Rows are
//! linked in a random order, so the last ones are a random sample, and are searched for before they are linked.
//! So each is a query that the graph does not contain, and that is of the same kind as its rows. Queries of
//! another kind may take more candidates; how often they miss is measured at each calibration.

use rayon::iter::{IndexedParallelIterator, ParallelIterator};
use rayon::slice::ParallelSlice;

use crate::index::codes::Codes;
use crate::index::links::Links;
use crate::index::scratch::Scratch;
use crate::index::traversal::traverse_all;

/// The highest number of rows that are searched for, and the highest share of all rows: one in this many.
const SEARCHES_MAX: usize = 2048;
const SEARCHED_ONE_IN: usize = 16;
/// At most one search in this many may miss the nearest row.
const MISSED_ONE_IN: u32 = 1000;
/// The numbers of candidates that are tried.
const BREADTHS: [u32; 7] = [128, 192, 256, 384, 512, 768, BREADTH_MAX];
pub(super) const BREADTH_MAX: u32 = 1024;
/// Number of rows that a thread searches for at a time.
const SHARE: usize = 32;

/// How many candidates a search has to keep, and how often it then missed the nearest row of a sample.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SearchBreadth {
    /// Number of candidates; the highest that is tried if none suffices. 0 if there were too few rows to measure it.
    pub ef: u32,
    /// Number of sampled rows that were searched for.
    pub searches: u32,
    /// Number of these searches that did not find a row as near as the nearest one.
    pub missed: u32,
}

impl SearchBreadth {
    /// Whether at most one search in a thousand missed the nearest row.
    #[must_use]
    pub fn suffices(&self) -> bool {
        self.missed <= self.searches / MISSED_ONE_IN
    }
}

/// The number of rows, of `rows`, that are searched for before they are linked.
pub(super) fn sample_size(rows: usize) -> usize {
    SEARCHES_MAX.min(rows / SEARCHED_ONE_IN)
}

/// The lowest number of candidates with which nearly all searches for the rows of `sample` find the nearest row of
/// `linked`, as far as codes tell. `links` connect exactly the rows of `linked`.
pub(super) fn breadth_for(
    links: &Links<'_>,
    codes: &Codes<'_>,
    linked: &[u32],
    sample: &[u32],
) -> SearchBreadth {
    let nearest = nearest_products(codes, linked, sample);
    let mut measured = SearchBreadth::default();
    for ef in BREADTHS {
        let shares = sample.par_chunks(SHARE).zip(nearest.par_chunks(SHARE));
        let missed = shares.map(|(rows, nearest)| {
            let mut scratch = Scratch::new();
            let missed = rows.iter().zip(nearest).filter(|&(row, nearest)| {
                scratch.query.clear();
                scratch.query.extend_from_slice(codes.row(*row));
                traverse_all(links, codes, ef as usize, &mut scratch);
                let best = scratch.pool.iter().next();
                best.is_none_or(|(product, _)| product < *nearest)
            });
            count(missed)
        });
        measured = SearchBreadth {
            ef,
            searches: count(sample.iter()),
            missed: missed.sum(),
        };
        if measured.suffices() {
            break;
        }
    }
    measured
}

/// The product of each row of `sample` with the nearest row of `linked`.
fn nearest_products(codes: &Codes<'_>, linked: &[u32], sample: &[u32]) -> Vec<i32> {
    /// Number of rows whose codes stay in the cache while all rows of a share are compared with them.
    const TOGETHER: usize = 256;
    // In the order in which they are stored.
    let mut linked = linked.to_vec();
    linked.sort_unstable();
    let shares = sample.par_chunks(SHARE).flat_map_iter(|rows| {
        let mut nearest = vec![i32::MIN; rows.len()];
        let mut products = Vec::new();
        for together in linked.chunks(TOGETHER) {
            for (&row, nearest) in rows.iter().zip(&mut nearest) {
                products.clear();
                codes.products(codes.row(row), together, &mut products);
                *nearest = products.iter().copied().fold(*nearest, i32::max);
            }
        }
        nearest
    });
    shares.collect()
}

fn count<T>(items: impl Iterator<Item = T>) -> u32 {
    items.map(|_| 1).sum()
}
