//! Counts scores on a fixed grid, in memory that does not depend on their number.
//!
//! The grid is linear in similarity with steps of 2^-23. So the edge of every bin is an `f32`, a score falls in
//! its bin without rounding, and a step is smaller than the rounding error of a product of two vectors.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use crate::binomial::real;
use crate::decision::Threshold;

/// Number of bins: those for [-1, 1), and one for a similarity of exactly 1.
const BINS: usize = (1 << 24) + 1;
/// The bin that begins at a similarity of zero. It is also the number of bins in a similarity range of one.
const ZERO_BIN: i32 = 1 << 23;
/// Number of bins whose counts are summed up in advance, so that a query reads few bins.
const BLOCK: usize = 4_096;
/// Number of scores whose bins are computed together.
const BATCH: usize = 64;
/// The highest number of copies of the counters, which limits a scan to 384 MiB for them on any number of
/// cores.
const COPIES_MAX: usize = 3;
/// Number of quantiles of the non-mated scores between which the equal error rate is searched for.
pub(super) const QUANTILES: u64 = 5_000;

/// Counters of scores that many threads use at once.
///
/// They are plain counters in a few copies that threads take in turn. Atomic counters would wait for memory at
/// every score, and one copy for each thread would need unlimited memory.
#[derive(Debug)]
pub(super) struct ScoreCounters {
    copies: Vec<Mutex<Kinds>>,
}

/// The mated and the non-mated scores.
#[derive(Debug, Default)]
pub(super) struct Kinds {
    mated: Counter,
    non_mated: Counter,
}

#[derive(Debug)]
struct Counter {
    bins: Vec<u32>,
    /// Marks the blocks of bins that contain a score. Other blocks are never read and use no memory.
    touched: Vec<bool>,
    /// How often the counter of a bin overflowed 2^32. Wider counters would double the memory of all bins.
    overflows: BTreeMap<usize, u64>,
}

impl ScoreCounters {
    pub(super) fn new() -> Self {
        let copies = rayon::current_num_threads().clamp(1, COPIES_MAX);
        Self {
            copies: std::iter::repeat_with(Mutex::default)
                .take(copies)
                .collect(),
        }
    }

    /// Lets `count` add to any of the copies, because only their sum matters.
    pub(super) fn with(&self, count: impl FnOnce(&mut Kinds)) {
        let turn = rayon::current_thread_index().unwrap_or(0) % self.copies.len().max(1);
        if let Some(copy) = self.copies.get(turn) {
            count(&mut copy.lock().unwrap_or_else(PoisonError::into_inner));
        }
    }

    /// The histograms of the mated and the non-mated scores.
    pub(super) fn finish(self) -> (Histogram, Histogram) {
        let mut sum = Kinds::default();
        for (turn, copy) in self.copies.into_iter().enumerate() {
            let copy = copy.into_inner().unwrap_or_else(PoisonError::into_inner);
            if turn == 0 {
                sum = copy;
            } else {
                sum.mated.absorb(&copy.mated);
                sum.non_mated.absorb(&copy.non_mated);
            }
        }
        (sum.mated.finish(), sum.non_mated.finish())
    }
}

impl Kinds {
    /// Counts scores in [-1, 1] that are all mated or all non-mated.
    pub(super) fn add(&mut self, mated: bool, scores: &[f32]) {
        let kind = if mated {
            &mut self.mated
        } else {
            &mut self.non_mated
        };
        // All bins are computed before any counter is changed, so that many counters are fetched from memory at
        // once.
        let mut bins = [0; BATCH];
        for batch in scores.chunks(BATCH) {
            for (bin, &score) in bins.iter_mut().zip(batch) {
                *bin = bin_of_score(score);
            }
            for &bin in bins.iter().take(batch.len()) {
                kind.add(bin as usize, 1);
            }
        }
    }
}

impl Default for Counter {
    fn default() -> Self {
        Self {
            // The system zeroes this memory page by page, when a page is first used.
            bins: vec![0; BINS.next_multiple_of(BLOCK)],
            touched: vec![false; BINS.div_ceil(BLOCK)],
            overflows: BTreeMap::new(),
        }
    }
}

impl Counter {
    fn add(&mut self, bin: usize, pairs: u32) {
        if let (Some(counter), Some(touched)) =
            (self.bins.get_mut(bin), self.touched.get_mut(bin / BLOCK))
        {
            *touched = true;
            let (sum, over) = counter.overflowing_add(pairs);
            *counter = sum;
            if over {
                *self.overflows.entry(bin).or_default() += 1 << 32;
            }
        }
    }

    /// The bins block by block; an empty slice for a block without scores.
    fn blocks(&self) -> impl Iterator<Item = &[u32]> {
        let blocks = self.bins.chunks_exact(BLOCK).zip(&self.touched);
        blocks.map(|(block, &touched)| if touched { block } else { &[] })
    }

    fn absorb(&mut self, other: &Self) {
        for (start, block) in (0..).step_by(BLOCK).zip(other.blocks()) {
            for (bin, &pairs) in (start..).zip(block) {
                if pairs != 0 {
                    self.add(bin, pairs);
                }
            }
        }
        for (&bin, &pairs) in &other.overflows {
            *self.overflows.entry(bin).or_default() += pairs;
        }
    }

    fn finish(self) -> Histogram {
        let mut above: Vec<u64> = self.blocks().map(sum).collect();
        for (&bin, &pairs) in &self.overflows {
            if let Some(block) = above.get_mut(bin / BLOCK) {
                *block += pairs;
            }
        }
        let mut running = 0;
        for block in above.iter_mut().rev() {
            running += *block;
            *block = running;
        }
        Histogram {
            counter: self,
            above,
        }
    }
}

fn sum(bins: &[u32]) -> u64 {
    bins.iter().map(|&pairs| u64::from(pairs)).sum()
}

/// A histogram of scores.
#[derive(Debug)]
pub(super) struct Histogram {
    counter: Counter,
    /// The number of pairs in each block of bins and in all blocks above it.
    above: Vec<u64>,
}

impl Histogram {
    pub(super) fn total(&self) -> u64 {
        self.above.first().copied().unwrap_or(0)
    }

    /// The number of scores in `bin` and all bins above it.
    pub(super) fn at_or_above(&self, bin: usize) -> u64 {
        let block = bin / BLOCK;
        let touched = self.counter.touched.get(block).copied().unwrap_or_default();
        let bins = self.counter.bins.get(bin..(block + 1) * BLOCK);
        let within = bins.filter(|_| touched).map_or(0, sum);
        let overflows = self.counter.overflows.range(bin..(block + 1) * BLOCK);
        let overflowed: u64 = overflows.map(|entry| entry.1).sum();
        within + overflowed + self.above.get(block + 1).copied().unwrap_or(0)
    }

    /// The bin of the score that exactly `rank` scores precede, counted from the highest down.
    pub(super) fn bin_of_rank(&self, rank: u64) -> Option<usize> {
        // The first bin with too few scores at or above it is one past the bin sought.
        (rank < self.total()).then(|| first_bin(|bin| self.at_or_above(bin) <= rank) - 1)
    }

    pub(super) fn lowest_bin(&self) -> Option<usize> {
        self.bin_of_rank(self.total().checked_sub(1)?)
    }

    /// The score at the quantile `part` / [`QUANTILES`], counted from the highest score down and interpolated
    /// linearly between neighbours (type 7 of Hyndman and Fan).
    pub(super) fn quantile(&self, part: u64) -> Option<f64> {
        let last = self.total().checked_sub(1)?;
        // Computed in integers, because the product of a count and a part can exceed 53 bits.
        let position = u128::from(part) * u128::from(last);
        let rank = u64::try_from(position / u128::from(QUANTILES)).ok()?;
        let rest = u64::try_from(position % u128::from(QUANTILES)).ok()?;
        let here = score_of_bin(self.bin_of_rank(rank)?);
        if rest == 0 {
            return Some(here);
        }
        let next = score_of_bin(self.bin_of_rank(rank + 1)?);
        Some(here + (next - here) * real(rest) / real(QUANTILES))
    }
}

/// The first bin from which on `holds` is true; one past the last bin if there is none.
pub(super) fn first_bin(holds: impl Fn(usize) -> bool) -> usize {
    let (mut low, mut high) = (0, BINS);
    while low < high {
        let middle = low.midpoint(high);
        if holds(middle) {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    low
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "a score in [-1, 1] gives integers within 2^23 of zero, which f32 holds exactly"
)]
pub(super) fn bin_of_score(score: f32) -> u32 {
    // Scaling by a power of two is exact. The cast rounds towards zero, and an edge belongs to the bin above
    // it.
    let scaled = score * ZERO_BIN as f32;
    let whole = scaled as i32;
    (whole - i32::from(scaled < whole as f32) + ZERO_BIN) as u32
}

/// The first bin whose lower edge is at least `score`.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the cast saturates below zero, and no score is above 1 + 2^-23"
)]
pub(super) fn bin_at_or_above(score: f64) -> usize {
    ((score + 1.0) * f64::from(ZERO_BIN)).ceil() as usize
}

pub(super) fn bin_of_threshold(threshold: Threshold) -> usize {
    bin_at_or_above(f64::from(threshold))
}

#[expect(clippy::cast_precision_loss, reason = "below 2^53")]
pub(super) fn score_of_bin(bin: usize) -> f64 {
    bin as f64 / f64::from(ZERO_BIN) - 1.0
}

/// The lower edge of `bin`, exactly. One past the last bin gives the threshold that accepts nothing.
pub(super) fn threshold_of_bin(bin: usize) -> Threshold {
    Threshold::try_from(score_of_bin(bin)).unwrap_or(Threshold::ACCEPT_NOTHING)
}

/// The first bin of part `cell`, of `cells` equal parts of [-1, 1], and the bin after its last one. The last
/// part includes 1.
pub(super) fn cell_bounds(cell: usize, cells: usize) -> (usize, usize) {
    let bound = |cell: usize| cell * (BINS - 1) / cells;
    let end = if cell + 1 == cells {
        BINS
    } else {
        bound(cell + 1)
    };
    (bound(cell), end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bin_begins_at_its_edge_and_holds_what_its_threshold_accepts() {
        for score in [
            -1.0, -0.999_999, -0.3, -1e-9, -0.0, 0.0, 1e-9, 0.1, 0.75, 1.0_f32,
        ] {
            let bin = bin_of_score(score) as usize;
            assert!(threshold_of_bin(bin).get() <= score);
            assert!(score < threshold_of_bin(bin + 1).get());
            assert_eq!(bin_of_threshold(threshold_of_bin(bin)), bin);
        }
        assert_eq!(bin_of_score(1.0) as usize, BINS - 1);
        assert_eq!(bin_of_score(-1.0), 0);
        assert_eq!(threshold_of_bin(BINS), Threshold::ACCEPT_NOTHING);
    }

    #[test]
    fn a_counter_that_runs_over_goes_on() {
        let mut counter = Counter::default();
        let bin = bin_of_score(0.25) as usize;
        counter.add(bin, u32::MAX);
        counter.add(bin, 3);
        counter.add(bin_of_score(0.5) as usize, 1);
        let mut sum = Counter::default();
        sum.absorb(&counter);
        sum.absorb(&counter);
        let histogram = sum.finish();
        let each = u64::from(u32::MAX) + 3;
        assert_eq!(histogram.total(), 2 * each + 2);
        assert_eq!(histogram.at_or_above(bin), 2 * each + 2);
        assert_eq!(histogram.at_or_above(bin + 1), 2);
        assert_eq!(histogram.bin_of_rank(2 * each + 1), Some(bin));
    }
}
