//! Measures whether one threshold means the same for every label: the operating-point-inconsistency score
//! (OPIS).
//!
//! At each threshold a label has a utility, the harmonic mean of its sensitivity (1 - FRR) and its specificity
//! (1 - FAR). OPIS is the variance of the utilities over labels, averaged over a band of thresholds (Zhang and
//! others, "Learning for threshold consistency", ICLR 2024, arXiv 2307.04047). It is zero if one threshold
//! serves all labels alike. The rates are pairwise.

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::label_counts::LabelCounts;
use super::rng::SeededRng;
use super::utility::{UtilityCurves, add, mean, trapezium};
use crate::binomial::real;
use crate::decision::Threshold;
use crate::rates::{Confidence, recorded};

/// The range of thresholds over which consistency is measured, given by the pooled FAR of all pairs.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Band {
    /// The pooled pairwise FAR at the strict end, a fraction.
    pub far_low: f64,
    /// The pooled pairwise FAR at the loose end, a fraction.
    pub far_high: f64,
}

impl Default for Band {
    /// The range in the definition of OPIS: FAR from 1e-2 to 1e-1.
    fn default() -> Self {
        Self {
            far_low: 1e-2,
            far_high: 1e-1,
        }
    }
}

impl Band {
    /// `count` equally spaced thresholds across the band, both ends included, in ascending order. They are
    /// equally spaced in similarity, and so in the distance d = 1 - s, but not in the Euclidean distance.
    /// `at_far` gives the threshold at a pooled FAR; if it returns `None`, there are no thresholds.
    #[must_use]
    pub fn thresholds(
        self,
        count: usize,
        at_far: impl Fn(f64) -> Option<Threshold>,
    ) -> Option<Vec<Threshold>> {
        let (a, b) = (at_far(self.far_high)?.get(), at_far(self.far_low)?.get());
        let (low, high) = if a <= b { (a, b) } else { (b, a) };
        let steps = real(count.saturating_sub(1).max(1) as u64);
        let at = |step: usize| {
            let share = real(step as u64) / steps;
            let value = f64::from(low) + (f64::from(high) - f64::from(low)) * share;
            #[expect(clippy::cast_possible_truncation, reason = "between two f32 values")]
            let value = value as f32;
            Threshold::new(value).ok()
        };
        (0..count).map(at).collect()
    }
}

/// The settings of the measurement, apart from the counts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ConsistencyPlan {
    /// The band that the thresholds were spread over; it is repeated in the result.
    pub band: Band,
    /// The share of labels that counts as the worst, and the share that counts as the best; in (0, 1].
    pub epsilon: f64,
    /// The number of bootstrap samples of labels for the intervals.
    pub replicates: u64,
    /// The seed of the bootstrap samples.
    pub seed: u64,
    /// The nominal coverage of the intervals.
    pub confidence: Confidence,
}

impl Default for ConsistencyPlan {
    fn default() -> Self {
        Self {
            band: Band::default(),
            epsilon: 0.1,
            replicates: 1_000,
            seed: 0,
            confidence: Confidence::DISPLAY,
        }
    }
}

/// A figure with a percentile bootstrap interval over labels. The interval is approximate below about 100
/// labels.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Resampled {
    /// The figure, measured on all labels.
    pub estimate: f64,
    /// The lower end of the interval.
    pub lower: f64,
    /// The upper end of the interval.
    pub upper: f64,
    /// The nominal coverage of the interval.
    pub confidence: Confidence,
}

/// How alike the labels are over a band of thresholds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Consistency {
    /// The band over which it was measured.
    pub band: Band,
    /// The lowest threshold.
    pub threshold_low: Threshold,
    /// The highest threshold.
    pub threshold_high: Threshold,
    /// Number of thresholds in the band, including both ends.
    pub thresholds: u64,
    /// Number of labels that have both mated and non-mated pairs.
    pub labels: u64,
    /// Number of labels that are left out because they have only one kind of pairs.
    pub skipped: u64,
    /// Mean utility over labels and band, in [0, 1].
    pub mean_utility: f64,
    /// Mean over labels and band of (U - mean U)^2, by the trapezium rule over d = 1 - s; in [0, 0.25]. It
    /// cannot be negative, so with few images for each label it is biased upwards.
    pub opis: Resampled,
    /// The same as a plain mean over the thresholds. It differs if there are few thresholds.
    pub opis_rectangle: f64,
    /// OPIS estimated from two halves of the images, without that bias: its expected value is zero if labels do
    /// not differ, and it may be negative. Use this figure for comparisons. `None` if no halves were given, or
    /// if fewer than two labels have pairs in both.
    pub split_half: Option<Resampled>,
    /// Number of labels that `split_half` is computed from.
    pub split_half_labels: u64,
    /// The share of labels that counts as the worst, and the share that counts as the best.
    pub epsilon: f64,
    /// The same as a number of labels, rounded up.
    pub epsilon_labels: u64,
    /// Mean over the band of (mean U of the worst - mean U of the best)^2, by the trapezium rule. Labels are
    /// ranked by their mean utility over the band. In [0, 1].
    pub epsilon_opis: f64,
    /// Another figure that is also called epsilon-OPIS: the mean of (U - mean U of all)^2 over the worst labels
    /// only, as a plain mean over the thresholds. In [0, 1].
    pub worst_deviation: f64,
}

/// The reason why consistency could not be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "consistency needs two labels with mated and non-mated pairs and one threshold; there are \
     {labels} such labels ({skipped} others) and {thresholds} thresholds: add images or labels"
)]
pub struct Unmeasured {
    /// Number of labels that have both mated and non-mated pairs.
    pub labels: u64,
    /// Number of labels that have only one kind of pairs.
    pub skipped: u64,
    /// Number of thresholds.
    pub thresholds: u64,
}

impl Consistency {
    /// Measures consistency from the counts at equally spaced thresholds. `halves` are the counts of two
    /// disjoint halves of the images at the same thresholds. If both halves are compared with the same gallery,
    /// the noise that the gallery adds is common to both and remains.
    ///
    /// # Errors
    /// Returns an error if fewer than two labels have both mated and non-mated pairs, or if there is no
    /// threshold.
    pub fn measure(
        counts: &LabelCounts,
        halves: Option<(&LabelCounts, &LabelCounts)>,
        plan: &ConsistencyPlan,
    ) -> Result<Self, Unmeasured> {
        let all = UtilityCurves::of(counts);
        let labels = all.labels.len() as u64;
        let refusal = Unmeasured {
            labels,
            skipped: counts.labels as u64 - labels,
            thresholds: counts.thresholds.len() as u64,
        };
        let (Some(&low), Some(&high)) = (counts.thresholds.first(), counts.thresholds.last())
        else {
            return Err(refusal);
        };
        if labels < 2 {
            return Err(refusal);
        }
        let (a, b) = halves.map_or_else(Default::default, |(a, b)| {
            UtilityCurves::of(a).shared_with(&UtilityCurves::of(b))
        });
        let comparable = halves.is_some_and(|(a, b)| {
            a.thresholds == counts.thresholds && b.thresholds == counts.thresholds
        });
        let ranked = RankedEnds::of(&all, plan.epsilon);
        Ok(Self {
            band: plan.band,
            threshold_low: low,
            threshold_high: high,
            thresholds: refusal.thresholds,
            labels,
            skipped: refusal.skipped,
            mean_utility: recorded(trapezium(&all.mean())),
            opis: resampled(&all, &all, plan),
            opis_rectangle: recorded(mean(&all.covariance(&all))),
            split_half: (comparable && 1 < a.labels.len()).then(|| resampled(&a, &b, plan)),
            split_half_labels: if comparable { a.labels.len() as u64 } else { 0 },
            epsilon: plan.epsilon,
            epsilon_labels: ranked.worst.labels.len() as u64,
            epsilon_opis: recorded(ranked.divergence()),
            worst_deviation: recorded(ranked.worst_deviation(&all)),
        })
    }
}

/// The worst and the best labels of the ranking.
struct RankedEnds {
    worst: UtilityCurves,
    best: UtilityCurves,
}

impl RankedEnds {
    fn of(all: &UtilityCurves, epsilon: f64) -> Self {
        let mut order: Vec<(f64, usize, &Vec<f64>)> = all
            .labels
            .iter()
            .zip(&all.curves)
            .map(|(&label, curve)| (mean(curve), label, curve))
            .collect();
        // If the mean utilities are equal, the curves decide, so that the ranking never depends on the
        // numbering of the labels.
        order.sort_by(|a, b| {
            let curves = || a.2.iter().zip(b.2).map(|(a, b)| a.total_cmp(b));
            let first = a.0.total_cmp(&b.0);
            curves().fold(first, std::cmp::Ordering::then)
        });
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a share of a count"
        )]
        // In floating point, 0.1 x 70 is slightly above 7 and would be rounded up to 8.
        let share = (epsilon * real(order.len() as u64) - 1e-9).ceil() as usize;
        let count = share.clamp(1, order.len().max(1));
        let take = |rows: &mut dyn Iterator<Item = &(f64, usize, &Vec<f64>)>| {
            let (labels, curves) = rows.take(count).map(|row| (row.1, row.2.clone())).unzip();
            UtilityCurves { labels, curves }
        };
        Self {
            worst: take(&mut order.iter()),
            best: take(&mut order.iter().rev()),
        }
    }

    fn divergence(&self) -> f64 {
        let (worst, best) = (self.worst.mean(), self.best.mean());
        let squares = worst.iter().zip(best).map(|(w, b)| (w - b).powi(2));
        trapezium(&squares.collect::<Vec<f64>>())
    }

    fn worst_deviation(&self, all: &UtilityCurves) -> f64 {
        let centre = all.mean();
        let of = |curve: &Vec<f64>| {
            let squares = curve.iter().zip(&centre).map(|(u, m)| (u - m).powi(2));
            mean(&squares.collect::<Vec<f64>>())
        };
        mean(&self.worst.curves.iter().map(of).collect::<Vec<f64>>())
    }
}

/// The OPIS of `a` with `b`, with its interval; `b` is `a` itself or its other half.
fn resampled(a: &UtilityCurves, b: &UtilityCurves, plan: &ConsistencyPlan) -> Resampled {
    let (a, b) = (Centred::of(a), Centred::of(b));
    let labels = a.curves.len();
    let estimate = a.opis(&b, &vec![1.0; labels]);
    let again = (0..plan.replicates).into_par_iter().map(|replicate| {
        let mut draws = SeededRng::new(plan.seed, replicate);
        let mut times = vec![0.0; labels];
        for _ in 0..labels {
            let drawn = draws.below(labels);
            times
                .get_mut(drawn)
                .into_iter()
                .for_each(|times| *times += 1.0);
        }
        a.opis(&b, &times)
    });
    let mut values: Vec<f64> = again.collect();
    values.sort_unstable_by(f64::total_cmp);
    let half = plan.confidence.delta() / 2.0;
    Resampled {
        estimate: recorded(estimate),
        lower: recorded(quantile(&values, half).unwrap_or(estimate)),
        upper: recorded(quantile(&values, 1.0 - half).unwrap_or(estimate)),
        confidence: plan.confidence,
    }
}

/// Curves with their mean subtracted once, so that the differences of squares below lose no precision.
struct Centred {
    curves: Vec<Vec<f64>>,
}

impl Centred {
    fn of(utilities: &UtilityCurves) -> Self {
        Self {
            curves: utilities.centred(),
        }
    }

    /// mean(U V) - mean(U) mean(V), averaged over the band, where label i counts `times[i]` times.
    fn opis(&self, other: &Self, times: &[f64]) -> f64 {
        let width = self.curves.first().map_or(0, Vec::len);
        let (mut mine, mut theirs) = (vec![0.0; width], vec![0.0; width]);
        let mut products = vec![0.0; width];
        let total: f64 = times.iter().sum();
        let rows = self.curves.iter().zip(&other.curves).zip(times);
        for ((a, b), &times) in rows.filter(|row| 0.0 < *row.1) {
            let share = times / total;
            add(&mut mine, a, share);
            add(&mut theirs, b, share);
            for (sum, (a, b)) in products.iter_mut().zip(a.iter().zip(b)) {
                *sum += share * a * b;
            }
        }
        for (sum, (a, b)) in products.iter_mut().zip(mine.iter().zip(&theirs)) {
            *sum -= a * b;
        }
        trapezium(&products)
    }
}

/// A quantile of sorted values, interpolated linearly.
fn quantile(sorted: &[f64], share: f64) -> Option<f64> {
    let place = share * real((sorted.len() as u64).checked_sub(1)?);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a place in the list"
    )]
    let below = place.floor() as usize;
    let low = *sorted.get(below)?;
    let high = *sorted.get(below + 1).unwrap_or(&low);
    Some(low + (high - low) * (place - place.floor()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::analysis::utility::utility_curves;
    use crate::binomial;

    fn close(found: f64, expected: f64) {
        let error = (found - expected).abs();
        assert!(
            error <= 1e-9 * expected.abs(),
            "{found:e} is not {expected:e}"
        );
    }

    /// The same counts, for every threshold that a score reaches.
    fn counts(labels: &[(Vec<f64>, Vec<f64>)], thresholds: &[f64]) -> LabelCounts {
        let reached = |scores: &Vec<f64>| -> Vec<u64> {
            let at = |t: &f64| scores.iter().filter(|s| *t <= **s).count() as u64;
            thresholds.iter().map(at).collect()
        };
        #[expect(clippy::cast_possible_truncation, reason = "shown only")]
        let shown = thresholds
            .iter()
            .map(|t| Threshold::new(*t as f32).unwrap());
        LabelCounts {
            labels: labels.len(),
            thresholds: shown.collect(),
            mated_total: labels.iter().map(|l| l.0.len() as u64).collect(),
            mated_accepted: labels.iter().flat_map(|l| reached(&l.0)).collect(),
            non_mated_total: labels.iter().map(|l| l.1.len() as u64).collect(),
            non_mated_accepted: labels.iter().flat_map(|l| reached(&l.1)).collect(),
        }
    }

    /// Three labels. The reference gives distances, which are accepted at or below d = 0.62 to 1.02.
    fn toy() -> LabelCounts {
        let similar = |distances: &[f64]| distances.iter().map(|d| 1.0 - d).collect::<Vec<f64>>();
        let labels = [
            ([0.30, 0.40, 0.50], [0.65, 0.90, 1.10, 1.20, 1.30]),
            ([0.60, 0.70, 0.80], [0.65, 0.75, 1.00, 1.15, 1.25]),
            ([0.35, 0.55, 0.95], [0.75, 0.90, 1.00, 1.05, 1.30]),
        ];
        let labels = labels.map(|(mated, non_mated)| (similar(&mated), similar(&non_mated)));
        counts(&labels, &similar(&[1.02, 0.92, 0.82, 0.72, 0.62]))
    }

    fn plan(epsilon: f64, replicates: u64) -> ConsistencyPlan {
        ConsistencyPlan {
            epsilon,
            replicates,
            ..ConsistencyPlan::default()
        }
    }

    #[test]
    fn the_toy_example_of_the_reference() {
        let found = Consistency::measure(&toy(), None, &plan(1.0 / 3.0, 200)).unwrap();
        assert!((found.opis.estimate - 0.009_310_321_029_29).abs() < 1e-14);
        assert!((found.opis_rectangle - 0.012_379_095_825_7).abs() < 1e-13);
        assert!((found.epsilon_opis - 0.046_588_446_175_8).abs() < 1e-13);
        assert_eq!(
            (found.labels, found.skipped, found.epsilon_labels),
            (3, 0, 1)
        );
        assert!(found.opis.lower <= found.opis.estimate && found.split_half.is_none());
        let all = UtilityCurves::of(&toy());
        // The expected values run from the loose end to the strict one, as thresholds ascend.
        let expected = [
            0.630_952_381,
            0.710_526_316,
            0.788_720_539,
            0.805_387_205,
            0.766_666_667,
        ];
        for (found, expected) in all.mean().iter().zip(expected) {
            assert!((found - expected).abs() < 1e-9);
        }
        let (_, first) = utility_curves(&toy()).swap_remove(0);
        for (found, expected) in first.iter().zip([0.75, 0.75, 8.0 / 9.0, 8.0 / 9.0, 1.0]) {
            close(*found, expected);
        }
        let per_label = all
            .centred()
            .into_iter()
            .map(|curve| trapezium(&curve.iter().map(|u| u * u).collect::<Vec<f64>>()));
        for (found, expected) in per_label.zip([0.013_218_197_82, 0.011_621_605_27, 0.003_091_16]) {
            assert!((found - expected).abs() < 1e-8);
        }
    }

    #[derive(Deserialize)]
    struct Counts {
        mated_total: Vec<u64>,
        mated_accepted: Vec<u64>,
        non_mated_total: Vec<u64>,
        non_mated_accepted: Vec<u64>,
    }

    #[derive(Deserialize)]
    struct Case {
        labels: usize,
        thresholds: u16,
        whole: Counts,
        half_a: Counts,
        half_b: Counts,
        measured: u64,
        mean_utility: f64,
        opis: f64,
        opis_rectangle: f64,
        epsilon_opis: f64,
        worst_tenth: f64,
        split_half: f64,
        draws: Vec<Vec<usize>>,
        opis_of_draws: Vec<f64>,
        split_half_of_draws: Vec<f64>,
    }

    #[derive(Deserialize)]
    struct Oracle {
        consistency: Case,
    }

    /// The expected values were computed with numpy: see `make_uncertainty.py` next to the file.
    #[test]
    fn every_figure_agrees_with_numpy() {
        let text = include_str!("../../tests/fixtures/oracle/uncertainty.json");
        let Oracle { consistency: case } = serde_json::from_str(text).unwrap();
        let given = |counts: Counts| LabelCounts {
            labels: case.labels,
            thresholds: (0..case.thresholds)
                .map(|k| Threshold::new(0.4 + 0.01 * f32::from(k)).unwrap())
                .collect(),
            mated_total: counts.mated_total,
            mated_accepted: counts.mated_accepted,
            non_mated_total: counts.non_mated_total,
            non_mated_accepted: counts.non_mated_accepted,
        };
        let (whole, a, b) = (given(case.whole), given(case.half_a), given(case.half_b));
        let found =
            Consistency::measure(&whole, Some((&a, &b)), &ConsistencyPlan::default()).unwrap();
        assert_eq!((found.labels, found.skipped), (case.measured, 1));
        close(found.mean_utility, case.mean_utility);
        close(found.opis.estimate, case.opis);
        close(found.opis_rectangle, case.opis_rectangle);
        close(found.epsilon_opis, case.epsilon_opis);
        close(found.worst_deviation, case.worst_tenth);
        let split = found.split_half.unwrap();
        assert!((split.estimate - case.split_half).abs() < 1e-12);
        assert!(split.lower < split.estimate && split.estimate < split.upper);
        let (all, a, b) = (
            UtilityCurves::of(&whole),
            UtilityCurves::of(&a),
            UtilityCurves::of(&b),
        );
        let (all, a, b) = (Centred::of(&all), Centred::of(&a), Centred::of(&b));
        assert_eq!(case.draws.len(), 50);
        for (draw, (opis, split)) in case
            .draws
            .iter()
            .zip(case.opis_of_draws.iter().zip(case.split_half_of_draws))
        {
            let mut times = vec![0.0; all.curves.len()];
            draw.iter().for_each(|label| times[*label] += 1.0);
            close(all.opis(&all, &times), *opis);
            assert!((a.opis(&b, &times) - split).abs() < 1e-12);
        }
    }

    #[test]
    fn too_little_is_refused_in_words() {
        let refused = |counts: &LabelCounts| {
            Consistency::measure(counts, None, &ConsistencyPlan::default()).unwrap_err()
        };
        let one = (vec![0.9], vec![0.1]);
        let found = refused(&counts(std::slice::from_ref(&one), &[0.5]));
        assert_eq!((found.labels, found.skipped, found.thresholds), (1, 0, 1));
        let alone = (vec![], vec![0.1]);
        let found = refused(&counts(&[one.clone(), alone], &[0.5]));
        assert_eq!((found.labels, found.skipped), (1, 1));
        assert!(
            found
                .to_string()
                .contains("there are 1 such labels (1 others) and 1 thresholds")
        );
        assert_eq!(refused(&counts(&[one.clone(), one], &[])).thresholds, 0);
        assert_eq!(refused(&counts(&[], &[0.5])).labels, 0);
    }

    #[test]
    fn one_threshold_and_equal_scores_give_numbers() {
        let same = (vec![0.5; 3], vec![0.5; 4]);
        let labels = vec![same; 4];
        for thresholds in [vec![0.5], vec![0.5; 7], vec![0.6; 3], vec![0.4]] {
            let counts = counts(&labels, &thresholds);
            let halves = Some((&counts, &counts));
            let found = Consistency::measure(&counts, halves, &plan(0.1, 20)).unwrap();
            assert!(found.opis.estimate.abs() < 1e-15 && found.opis.upper.abs() < 1e-15);
            assert!(
                found.mean_utility.abs() < 1e-15,
                "accepts all or rejects all"
            );
            assert!(found.split_half.unwrap().estimate.abs() < 1e-15);
            assert_eq!(found.split_half_labels, 4);
            assert!(found.epsilon_opis.abs() < 1e-15 && found.worst_deviation.abs() < 1e-15);
        }
    }

    #[test]
    fn halves_at_other_thresholds_are_not_compared() {
        let labels = vec![(vec![0.9, 0.4], vec![0.1, 0.6]); 3];
        let whole = counts(&labels, &[0.3, 0.5]);
        let other = counts(&labels, &[0.3, 0.6]);
        let found = Consistency::measure(&whole, Some((&whole, &other)), &plan(0.1, 9)).unwrap();
        assert!(found.split_half.is_none());
        assert_eq!(found.split_half_labels, 0);
    }

    #[test]
    fn without_replicates_the_range_is_the_estimate_and_a_seed_repeats_it() {
        let of = |seed, replicates| {
            let plan = ConsistencyPlan {
                seed,
                replicates,
                ..ConsistencyPlan::default()
            };
            let label = |i: u8| {
                (
                    vec![0.9, f64::from(i) / 30.0],
                    vec![0.1, f64::from(i) / 60.0],
                )
            };
            let labels: Vec<_> = (0..30).map(label).collect();
            let counts = counts(&labels, &[0.2, 0.4, 0.6]);
            Consistency::measure(&counts, None, &plan).unwrap().opis
        };
        close(of(1, 0).lower, of(1, 0).upper);
        assert_eq!(of(1, 300), of(1, 300));
        assert_ne!(of(1, 300), of(2, 300));
    }

    #[test]
    fn the_band_is_spread_evenly_and_ascends() {
        // FAR 0.1 at 0.2, FAR 0.01 at 0.4.
        let at_far = |far: f64| Threshold::new(if far < 0.05 { 0.4 } else { 0.2 }).ok();
        let found = Band::default().thresholds(5, at_far).unwrap();
        let values: Vec<f32> = found.iter().map(|t| t.get()).collect();
        for (found, expected) in values.iter().zip([0.2, 0.25, 0.3, 0.35, 0.4]) {
            assert!((found - expected).abs() < 1e-7);
        }
        assert_eq!(values.first().map(|t| t.to_bits()), Some(0.2_f32.to_bits()));
        assert_eq!(values.last().map(|t| t.to_bits()), Some(0.4_f32.to_bits()));
        assert_eq!(Band::default().thresholds(1, at_far).unwrap().len(), 1);
        assert_eq!(Band::default().thresholds(0, at_far).unwrap().len(), 0);
        assert!(Band::default().thresholds(5, |_| None).is_none());
    }

    /// Labels that do not differ. Scores are normal with a standard deviation of one: mated around 4.2 and
    /// non-mated around 0, with 20 non-mated pairs for each mated one. Each pair and each half gets independent
    /// scores.
    fn alike(labels: usize, mated: u64, draws: &mut SeededRng) -> LabelCounts {
        let mut normal = |mean: f64| {
            let uniform = (real(draws.bits() >> 12) + 0.5) / real(1 << 52);
            mean - binomial::normal_quantile(uniform)
        };
        let mut label = || {
            let own = (0..mated).map(|_| normal(4.2)).collect();
            (own, (0..mated * 20).map(|_| normal(0.0)).collect())
        };
        let labels: Vec<_> = (0..labels).map(|_| label()).collect();
        // The thresholds run from FAR 0.1 to FAR 0.01.
        let (low, high) = (
            binomial::normal_quantile(0.1),
            binomial::normal_quantile(0.01),
        );
        let at = |k: u8| low + (high - low) * f64::from(k) / 20.0;
        counts(&labels, &(0..21).map(at).collect::<Vec<f64>>())
    }

    /// The plain figure consists of the noise of the counts alone, and falls as the number of pairs grows: 10,
    /// 45 and 190 mated pairs correspond to 5, 10 and 20 images. Its level depends on the scores. (Another
    /// simulation found 1.6e-4, 4e-5 and 1.3e-5.) The figure from halves has no such bias.
    #[test]
    fn labels_that_do_not_differ_have_no_opis_from_halves() {
        let mut by_pair = Vec::new();
        for mated in [10, 45, 190] {
            let halves = |half| alike(120, mated, &mut SeededRng::new(3, half + mated));
            let (a, b) = (halves(1_000), halves(2_000));
            let found = Consistency::measure(&a, Some((&a, &b)), &plan(0.1, 100)).unwrap();
            let (plain, split) = (found.opis.estimate, found.split_half.unwrap());
            assert!(
                0.0 < found.opis.lower,
                "sure of what is not there: {plain:e}"
            );
            assert!(split.estimate.abs() < plain / 5.0, "{split:?}");
            assert!(split.lower < 0.0 && 0.0 < split.upper, "{split:?}");
            by_pair.push(plain * real(mated));
        }
        let most = by_pair.iter().copied().fold(0.0, f64::max);
        assert!(
            by_pair.iter().all(|excess| most / 1.5 < *excess),
            "{by_pair:?}"
        );
    }

    fn any_label() -> impl Strategy<Value = (Vec<f64>, Vec<f64>)> {
        let score = (0_i8..=20).prop_map(|s| f64::from(s) / 20.0);
        (
            prop::collection::vec(score.clone(), 0..6),
            prop::collection::vec(score, 0..9),
        )
    }

    proptest! {
        #[test]
        fn labels_with_the_same_counts_are_consistent(
            label in any_label(), times in 2_usize..9, seed in any::<u64>()
        ) {
            let thresholds: Vec<f64> = (0_u8..12).map(|k| f64::from(k) / 11.0).collect();
            let counts = counts(&vec![label.clone(); times], &thresholds);
            let plan = ConsistencyPlan { seed, replicates: 20, ..ConsistencyPlan::default() };
            let found = Consistency::measure(&counts, Some((&counts, &counts)), &plan);
            if label.0.is_empty() || label.1.is_empty() {
                prop_assert!(found.is_err());
                return Ok(());
            }
            let found = found.unwrap();
            for zero in [
                found.opis.estimate, found.opis.lower, found.opis.upper, found.opis_rectangle,
                found.epsilon_opis, found.worst_deviation, found.split_half.unwrap().estimate,
            ] {
                prop_assert!(zero.abs() < 1e-14, "{}", zero);
            }
        }

        #[test]
        fn the_numbering_of_the_labels_plays_no_part(
            mut labels in prop::collection::vec(any_label(), 1..12), by in 0_usize..12
        ) {
            let thresholds: Vec<f64> = (0_u8..12).map(|k| f64::from(k) / 11.0).collect();
            let measure = |labels: &[(Vec<f64>, Vec<f64>)]| {
                Consistency::measure(&counts(labels, &thresholds), None, &plan(0.3, 0))
            };
            let before = measure(&labels);
            let by = by % labels.len();
            labels.rotate_left(by);
            match (before, measure(&labels)) {
                (Ok(a), Ok(b)) => {
                    for (a, b) in [
                        (a.opis.estimate, b.opis.estimate),
                        (a.opis_rectangle, b.opis_rectangle),
                        (a.epsilon_opis, b.epsilon_opis),
                        (a.worst_deviation, b.worst_deviation),
                        (a.mean_utility, b.mean_utility),
                    ] {
                        prop_assert!(a.is_finite() && (-1e-15..=1.0).contains(&a));
                        prop_assert!((a - b).abs() < 1e-11, "{} {}", a, b);
                    }
                    prop_assert!(a.opis.estimate <= 0.25 + 1e-12);
                }
                (a, b) => prop_assert_eq!(a.err(), b.err()),
            }
        }
    }
}
