//! The pooled pairwise error rates at every threshold, from histograms of mated and non-mated pairs.

use crate::binomial::real;
use crate::decision::Threshold;
use crate::rates::Proportion;
use serde::Serialize;

use super::score_histogram::{
    Histogram, QUANTILES, ScoreCounters, bin_at_or_above, bin_of_threshold, cell_bounds, first_bin,
    score_of_bin, threshold_of_bin,
};

/// The pairs of a scan by score, which give the pairwise FAR and FRR at every threshold.
///
/// *Pairwise* means the probability that one comparison is decided wrongly, and not one search. Uses at most
/// 128 MiB of memory, whatever the number of pairs.
#[derive(Debug)]
pub struct ScoreCurve {
    mated: Histogram,
    non_mated: Histogram,
}

/// The equal error rate of pairs.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct PairEqualError {
    /// The rate at which FAR and FRR are equal, in [0, 1], interpolated between two thresholds.
    pub rate: f64,
    /// The threshold for this rate, interpolated in the same way.
    pub threshold: Threshold,
}

/// Both rates at one threshold.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct PairRates {
    /// The threshold, which is a point of the grid.
    pub threshold: Threshold,
    /// The accepted share of non-mated pairs, in [0, 1].
    pub far: f64,
    /// The rejected share of mated pairs, in [0, 1].
    pub frr: f64,
}

/// A bin of a histogram of pairs; all bins have the same width.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct ScoreBin {
    /// The lowest score of the bin. The bin ends where the next one begins.
    pub from: Threshold,
    /// Number of mated pairs in the bin.
    pub mated: u64,
    /// Number of non-mated pairs in the bin.
    pub non_mated: u64,
}

impl ScoreCurve {
    pub(super) fn new(counting: ScoreCounters) -> Self {
        let (mated, non_mated) = counting.finish();
        Self { mated, non_mated }
    }

    /// The number of mated pairs.
    #[must_use]
    pub fn mated_pairs(&self) -> u64 {
        self.mated.total()
    }

    /// The number of non-mated pairs.
    #[must_use]
    pub fn non_mated_pairs(&self) -> u64 {
        self.non_mated.total()
    }

    /// The pairwise FAR: non-mated pairs at or above `threshold`, which is rounded up to the grid. `None` if
    /// there is no non-mated pair.
    #[must_use]
    pub fn far_at(&self, threshold: Threshold) -> Option<Proportion> {
        let accepted = self.non_mated.at_or_above(bin_of_threshold(threshold));
        Proportion::new(accepted, self.non_mated_pairs()).ok()
    }

    /// The pairwise FRR: mated pairs below `threshold`, which is rounded up to the grid. `None` if there is no
    /// mated pair.
    #[must_use]
    pub fn frr_at(&self, threshold: Threshold) -> Option<Proportion> {
        let accepted = self.mated.at_or_above(bin_of_threshold(threshold));
        Proportion::new(self.mated_pairs() - accepted, self.mated_pairs()).ok()
    }

    /// The lowest threshold of the grid with a pairwise FAR of at most `far`; it may lie above every score.
    /// `None` if there is no non-mated pair, or if `far` is NaN or negative.
    #[must_use]
    pub fn threshold_at_far(&self, far: f64) -> Option<Threshold> {
        if self.non_mated_pairs() == 0 || far.is_nan() || far < 0.0 {
            return None;
        }
        // A billionth of a pair is added, so that 0.1 of 30 pairs is 3 in floating point too.
        let allowed = far * real(self.non_mated_pairs()) + 1e-9;
        let bin = first_bin(|bin| real(self.non_mated.at_or_above(bin)) <= allowed);
        Some(threshold_of_bin(bin))
    }

    /// The equal error rate, where pairwise FAR and FRR cross. `None` unless there are both mated and non-mated
    /// pairs.
    ///
    /// Both rates are compared at every mated score and at 5,001 quantiles of the non-mated scores, from the
    /// highest score down. The rate and the threshold are interpolated linearly between the last score with FAR
    /// < FRR and the next one.
    #[must_use]
    pub fn equal_error(&self) -> Option<PairEqualError> {
        let crossed = |score: f64| {
            let (far, frr) = self.rates_at_score(score);
            frr <= far
        };
        // Quantiles have lower scores as their number grows, so the condition holds from some number on
        // (bisection).
        let (mut low, mut high) = (0, QUANTILES);
        while low < high {
            let middle = low.midpoint(high);
            if crossed(self.non_mated.quantile(middle)?) {
                high = middle;
            } else {
                low = middle + 1;
            }
        }
        let quantile_before = low.checked_sub(1).and_then(|q| self.non_mated.quantile(q));
        let quantile_after = self.non_mated.quantile(low)?;
        let first_uncrossed = first_bin(|bin| !crossed(score_of_bin(bin)));
        let mated_before = self.mated.at_or_above(first_uncrossed);
        let mated_score = |rank| self.mated.bin_of_rank(rank).map(score_of_bin);
        let before = lower(
            mated_before.checked_sub(1).and_then(mated_score),
            quantile_before,
        );
        let after = match mated_score(mated_before) {
            Some(mated) if quantile_after < mated => mated,
            Some(_) => quantile_after,
            None if self.mated.total() == 0 => return None,
            None => quantile_after,
        };
        let (rate, score) = self.interpolate(before, after);
        let threshold = Threshold::try_from(score).ok()?;
        Some(PairEqualError { rate, threshold })
    }

    /// The crossing on the line between two neighbouring scores; if there is no first score, the mean of both
    /// rates.
    fn interpolate(&self, before: Option<f64>, after: f64) -> (f64, f64) {
        let (far_1, frr_1) = self.rates_at_score(after);
        let Some(before) = before else {
            return (f64::midpoint(far_1, frr_1), after);
        };
        let (far_0, frr_0) = self.rates_at_score(before);
        let (gap_0, gap_1) = (far_0 - frr_0, far_1 - frr_1);
        let weight = if 0.0 < gap_1 - gap_0 {
            -gap_0 / (gap_1 - gap_0)
        } else {
            0.5
        };
        (
            far_0 + weight * (far_1 - far_0),
            before + weight * (after - before),
        )
    }

    /// FAR and FRR at any real score; NaN if there are no pairs of the kind.
    fn rates_at_score(&self, score: f64) -> (f64, f64) {
        let bin = bin_at_or_above(score);
        let far = real(self.non_mated.at_or_above(bin)) / real(self.non_mated_pairs());
        let frr = 1.0 - real(self.mated.at_or_above(bin)) / real(self.mated_pairs());
        (far, frr)
    }

    /// Both rates at `count` thresholds, equally spaced from the lowest score to just above the highest, for
    /// drawing. Empty unless there are both mated and non-mated pairs.
    #[must_use]
    pub fn points(&self, count: usize) -> Vec<PairRates> {
        let kinds = [&self.mated, &self.non_mated];
        let (Some(highest), Some(lowest)) = (
            kinds.iter().filter_map(|kind| kind.bin_of_rank(0)).max(),
            kinds.iter().filter_map(|kind| kind.lowest_bin()).min(),
        ) else {
            return Vec::new();
        };
        (0..count)
            .map(|i| lowest + (highest + 1 - lowest) * i / count.saturating_sub(1).max(1))
            .filter_map(|bin| {
                let threshold = threshold_of_bin(bin);
                let far = self.far_at(threshold)?.estimate();
                let frr = self.frr_at(threshold)?.estimate();
                Some(PairRates {
                    threshold,
                    far,
                    frr,
                })
            })
            .collect()
    }

    /// A histogram with `cells` equally wide bins over [-1, 1], for drawing. The last bin includes 1.
    #[must_use]
    pub fn histogram(&self, cells: usize) -> Vec<ScoreBin> {
        let count = |kind: &Histogram, from, to| kind.at_or_above(from) - kind.at_or_above(to);
        (0..cells)
            .map(|cell| {
                let (from, to) = cell_bounds(cell, cells);
                ScoreBin {
                    from: threshold_of_bin(from),
                    mated: count(&self.mated, from, to),
                    non_mated: count(&self.non_mated, from, to),
                }
            })
            .collect()
    }
}

fn lower(a: Option<f64>, b: Option<f64>) -> Option<f64> {
    match (a, b) {
        (Some(a), Some(b)) => Some(if a < b { a } else { b }),
        (one, None) | (None, one) => one,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(mated: &[f32], non_mated: &[f32]) -> ScoreCurve {
        let counting = ScoreCounters::new();
        counting.with(|kinds| {
            kinds.add(true, mated);
            kinds.add(false, non_mated);
        });
        ScoreCurve::new(counting)
    }

    fn at(value: f32) -> Threshold {
        Threshold::new(value).unwrap()
    }

    #[test]
    fn a_threshold_keeps_the_far_it_is_set_for_and_no_lower_one_does() {
        let non_mated: Vec<f32> = (0..30_u8).map(|i| f32::from(i / 2) / 32.0).collect();
        let curve = counted(&[0.9], &non_mated);
        for (far, accepted) in [
            (0.0, 0),
            (0.03, 0),
            (0.067, 2),
            (0.1, 2),
            (0.2, 6),
            (1.0, 30),
        ] {
            let threshold = curve.threshold_at_far(far).unwrap();
            assert_eq!(curve.far_at(threshold).unwrap().events(), accepted);
            if -1.0 < threshold.get() {
                let below = at(threshold.get() - 1.0 / 8_388_608.0);
                assert!(far < curve.far_at(below).unwrap().estimate());
            }
        }
        assert_eq!(
            curve.threshold_at_far(1.0),
            Some(Threshold::ACCEPT_ANYTHING_FOUND)
        );
        assert_eq!(curve.threshold_at_far(f64::NAN), None);
        let duplicates = counted(&[], &[1.0, 1.0]);
        assert_eq!(
            duplicates.threshold_at_far(0.5),
            Some(Threshold::ACCEPT_NOTHING)
        );
        assert_eq!(duplicates.equal_error(), None);
        assert_eq!(counted(&[0.5], &[]).threshold_at_far(0.5), None);
    }

    #[test]
    fn rates_cross_where_a_line_between_neighbours_does() {
        // At 0.4, two of four non-mated pairs are accepted, and two of four mated pairs are rejected.
        let found = counted(&[0.6, 0.45, 0.35, 0.25], &[0.5, 0.4, 0.3, 0.2])
            .equal_error()
            .unwrap();
        assert!((found.rate - 0.5).abs() < 1e-9, "{found:?}");
        let apart = counted(&[0.9, 0.8], &[0.1, 0.2]).equal_error().unwrap();
        assert!(apart.rate.abs() < 1e-12);
        assert!((apart.threshold.get() - 0.8).abs() < 1e-6);
        let all_alike = counted(&[0.5; 3], &[0.5; 9]).equal_error().unwrap();
        assert!((all_alike.rate - 0.5).abs() < 1e-12);
    }

    #[test]
    fn drawings_hold_every_pair_and_reach_from_end_to_end() {
        let curve = counted(&[1.0, 0.5], &[-1.0, 0.1, 0.2]);
        let cells = curve.histogram(7);
        assert_eq!(cells.iter().map(|cell| cell.mated).sum::<u64>(), 2);
        assert_eq!(cells.iter().map(|cell| cell.non_mated).sum::<u64>(), 3);
        let points = curve.points(5);
        let ends = (points[0], points[4]);
        assert_eq!((ends.0.far, ends.0.frr), (1.0, 0.0));
        assert_eq!((ends.1.far, ends.1.frr), (0.0, 1.0));
        assert!(points.is_sorted_by(|a, b| a.threshold < b.threshold && b.far <= a.far));
    }
}
