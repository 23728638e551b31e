//! Compares two decision rules on labels that neither was fitted to, and tests whether the difference is more
//! than chance.
//!
//! The uncertainty is taken over labels by a paired bootstrap: labels are sampled with replacement, with all of
//! their searches, and both rules are evaluated on the same sample, so that common variation cancels.

use std::collections::BTreeMap;

use serde::Serialize;

use super::rng::SeededRng;
use super::utility;
use crate::binomial::real;
use crate::rates::{Confidence, Proportion, recorded};

/// One search for a label, with the outcome of a decision rule.
#[derive(Clone, Copy, Debug)]
pub(super) struct DecidedSearch<'a> {
    /// The label of the probe.
    pub(super) label: &'a str,
    /// Whether the label is enrolled.
    pub(super) mated: bool,
    /// True if a mated search was not accepted with the right label, or a non-mated one was accepted.
    pub(super) error: bool,
    /// Whether the probe belongs to the second of the two halves of the label's probes.
    pub(super) second_half: bool,
}

#[derive(Clone, Copy, Debug, Default)]
struct ErrorCount {
    searches: u64,
    errors: u64,
}

impl ErrorCount {
    fn add(&mut self, outcome: DecidedSearch<'_>) {
        self.searches += 1;
        self.errors += u64::from(outcome.error);
    }

    fn times(self, weight: u64) -> Self {
        Self {
            searches: weight * self.searches,
            errors: weight * self.errors,
        }
    }

    fn plus(self, other: Self) -> Self {
        Self {
            searches: self.searches + other.searches,
            errors: self.errors + other.errors,
        }
    }

    fn share(self) -> Option<f64> {
        let of = Proportion::new(self.errors, self.searches).ok()?;
        Some(of.estimate())
    }
}

#[derive(Debug, Default)]
struct LabelSearches {
    mated: [ErrorCount; 2],
    strangers: [ErrorCount; 2],
}

impl LabelSearches {
    fn all_mated(&self) -> ErrorCount {
        self.mated
            .into_iter()
            .fold(ErrorCount::default(), ErrorCount::plus)
    }

    fn all_strangers(&self) -> ErrorCount {
        self.strangers
            .into_iter()
            .fold(ErrorCount::default(), ErrorCount::plus)
    }
}

/// The labels with the highest FRR under a decision rule.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct WorstLabels {
    /// Number of labels with enough mated searches to be ranked.
    pub ranked: u64,
    /// The label with the highest FRR; the first by name if several are equal.
    pub label: String,
    /// Its mated searches that were rejected or misidentified, and the number of all its mated searches.
    pub count: Proportion,
    /// The mean FRR of the worst tenth of the ranked labels, rounded up to whole labels; in [0, 1]. It varies
    /// less than the FRR of the worst label, which is largely chance.
    pub mean_of_worst_tenth: f64,
}

/// The change of a figure, new minus old, with a percentile bootstrap interval over labels.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct FigureChange {
    /// The change, measured on all labels.
    pub estimate: f64,
    /// The lower end of the interval.
    pub lower: f64,
    /// The upper end of the interval.
    pub upper: f64,
    /// The nominal coverage of the interval.
    pub confidence: Confidence,
}

impl FigureChange {
    /// Whether the figure is lower, by more than chance.
    #[must_use]
    pub fn is_fall(self) -> bool {
        self.upper < 0.0
    }

    /// Whether the figure is higher, by more than chance.
    #[must_use]
    pub fn is_rise(self) -> bool {
        0.0 < self.lower
    }
}

/// The changes of all figures, on the same bootstrap samples. `None` if a figure has no value.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct FigureChanges {
    /// The change of the FAR per search.
    pub far: Option<FigureChange>,
    /// The change of the FRR per search.
    pub frr: Option<FigureChange>,
    /// The change of the mean FRR of the worst tenth of labels.
    pub worst_tenth_frr: Option<FigureChange>,
    /// The change of the variance of utility over labels.
    pub utility_variance: Option<FigureChange>,
}

const FIGURES: usize = 4;

/// Held-out searches by label, with the outcomes of one decision rule.
#[derive(Debug)]
pub(super) struct ComparisonSet<'a> {
    names: Vec<&'a str>,
    labels: Vec<LabelSearches>,
    /// Labels with enough mated searches, in descending order of FRR.
    ranked: Vec<(usize, f64)>,
}

impl<'a> ComparisonSet<'a> {
    /// Counts outcomes. Labels with fewer than `searches_min` mated searches are not ranked.
    ///
    /// The same searches with the outcomes of another rule give a set with the same order of labels.
    pub(super) fn new(outcomes: &[DecidedSearch<'a>], searches_min: u64) -> Self {
        let mut by_label: BTreeMap<&str, Vec<DecidedSearch<'_>>> = BTreeMap::new();
        for &outcome in outcomes {
            by_label.entry(outcome.label).or_default().push(outcome);
        }
        let names: Vec<&str> = by_label.keys().copied().collect();
        let labels: Vec<LabelSearches> = by_label.values().map(|own| count(own)).collect();
        let mut ranked: Vec<(usize, f64)> = labels
            .iter()
            .map(LabelSearches::all_mated)
            .enumerate()
            .filter(|(_, mated)| searches_min <= mated.searches)
            .filter_map(|(label, mated)| Some((label, mated.share()?)))
            .collect();
        ranked.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        Self {
            names,
            labels,
            ranked,
        }
    }

    /// The number of labels.
    pub(super) fn labels(&self) -> u64 {
        self.labels.len() as u64
    }

    /// A weight of 1 for each label.
    fn once(&self) -> Vec<u64> {
        vec![1; self.labels.len()]
    }

    /// The worst labels; `None` if none has enough mated searches.
    pub(super) fn worst_labels(&self) -> Option<WorstLabels> {
        let &(worst, _) = self.ranked.first()?;
        let count = self.labels.get(worst)?.all_mated();
        Some(WorstLabels {
            ranked: self.ranked.len() as u64,
            label: (*self.names.get(worst)?).to_owned(),
            count: Proportion::new(count.errors, count.searches).ok()?,
            mean_of_worst_tenth: recorded(self.worst_tenth(&self.once())?),
        })
    }

    /// The variance of utility over labels, without the noise within labels; `None` if fewer than two labels
    /// have mated searches in both halves of their probes.
    pub(super) fn utility_variance(&self) -> Option<f64> {
        covariance(&self.utilities(), &self.once())
    }

    /// The utility of each label on each half of its probes: the harmonic mean of sensitivity (1 - FRR) and
    /// specificity (1 - FAR). Only labels that are also left out have non-mated searches of their own; the
    /// others get the overall specificity.
    fn utilities(&self) -> Vec<Option<[f64; 2]>> {
        let strangers = self.labels.iter().map(LabelSearches::all_strangers);
        let pooled = strangers
            .fold(ErrorCount::default(), ErrorCount::plus)
            .share();
        let utility = |label: &LabelSearches, half: usize| {
            let frr = label.mated.get(half)?.share()?;
            let far = label.strangers.get(half)?.share().or(pooled)?;
            Some(utility::utility(1.0 - frr, 1.0 - far))
        };
        let both = |label: &LabelSearches| Some([utility(label, 0)?, utility(label, 1)?]);
        self.labels.iter().map(both).collect()
    }

    fn figures(&self, weights: &[u64], utilities: &[Option<[f64; 2]>]) -> [Option<f64>; FIGURES] {
        let weighted = || self.labels.iter().zip(weights);
        let total = |of: fn(&LabelSearches) -> ErrorCount| {
            weighted()
                .map(|(label, &weight)| of(label).times(weight))
                .fold(ErrorCount::default(), ErrorCount::plus)
                .share()
        };
        [
            total(LabelSearches::all_strangers),
            total(LabelSearches::all_mated),
            self.worst_tenth(weights),
            covariance(utilities, weights),
        ]
    }

    /// The mean FRR of the worst tenth of the labels, where label i counts `weights[i]` times.
    fn worst_tenth(&self, weights: &[u64]) -> Option<f64> {
        let weighted = || {
            let weight = |label: usize| weights.get(label).copied().unwrap_or(0);
            self.ranked
                .iter()
                .map(move |&(label, frr)| (weight(label), frr))
        };
        let tenth = weighted()
            .map(|(weight, _)| weight)
            .sum::<u64>()
            .div_ceil(10);
        let mut missing = tenth;
        let mut sum = 0.0;
        for (weight, frr) in weighted() {
            let taken = weight.min(missing);
            sum += real(taken) * frr;
            missing -= taken;
        }
        (0 < tenth).then(|| sum / real(tenth))
    }
}

fn count(own: &[DecidedSearch<'_>]) -> LabelSearches {
    let mut label = LabelSearches::default();
    for &outcome in own {
        let halves = if outcome.mated {
            &mut label.mated
        } else {
            &mut label.strangers
        };
        let [first, second] = halves;
        if outcome.second_half { second } else { first }.add(outcome);
    }
    label
}

/// The covariance over labels between the utilities on the two halves of their probes. If all labels are alike,
/// its expected value is zero. The expected variance of the utilities is not, and with few probes for each
/// label it is mostly noise.
fn covariance(utilities: &[Option<[f64; 2]>], weights: &[u64]) -> Option<f64> {
    let known = || {
        let pairs = utilities.iter().zip(weights);
        pairs.filter_map(|(utility, &weight)| Some((real(weight), (*utility)?)))
    };
    let (labels, weight) = known().fold((0_u64, 0.0), |(labels, sum), (weight, _)| {
        (labels + u64::from(0.0 < weight), sum + weight)
    });
    if labels < 2 {
        return None;
    }
    let mean = |half: fn([f64; 2]) -> f64| {
        let sum: f64 = known()
            .map(|(weight, utility)| weight * half(utility))
            .sum();
        sum / weight
    };
    let (first, second) = (mean(|[a, _]| a), mean(|[_, b]| b));
    let products = known().map(|(weight, [a, b])| weight * (a - first) * (b - second));
    Some(products.sum::<f64>() / weight)
}

/// The settings of the bootstrap over labels.
#[derive(Clone, Copy, Debug)]
pub(super) struct Resampling {
    /// The seed.
    pub(super) seed: u64,
    /// The number of samples.
    pub(super) resamples: u32,
    /// The nominal coverage of each interval.
    pub(super) confidence: Confidence,
}

/// The changes of the figures from `old` to `new`, which are two sets of outcomes for the same searches.
pub(super) fn differences(
    old: &ComparisonSet<'_>,
    new: &ComparisonSet<'_>,
    resampling: Resampling,
) -> FigureChanges {
    let utilities = [old.utilities(), new.utilities()];
    let changes = |weights: &[u64]| -> [Option<f64>; FIGURES] {
        let [old_utilities, new_utilities] = &utilities;
        let before = old.figures(weights, old_utilities);
        let after = new.figures(weights, new_utilities);
        let mut changes = [None; FIGURES];
        for ((change, before), after) in changes.iter_mut().zip(before).zip(after) {
            *change = before.zip(after).map(|(before, after)| after - before);
        }
        changes
    };
    let estimates = changes(&old.once());
    let mut drawn: [Vec<f64>; FIGURES] = Default::default();
    let mut draws = SeededRng::new(resampling.seed, 0);
    let mut weights = vec![0; old.labels.len()];
    for _ in 0..resampling.resamples {
        draw(&mut weights, &mut draws);
        for (values, change) in drawn.iter_mut().zip(changes(&weights)) {
            values.extend(change);
        }
    }
    let mut found = estimates.into_iter().zip(drawn).map(|(estimate, drawn)| {
        let (estimate, ends) = (estimate?, percentiles(drawn, resampling.confidence));
        let (lower, upper) = ends?;
        Some(FigureChange {
            estimate: recorded(estimate),
            lower: recorded(lower),
            upper: recorded(upper),
            confidence: resampling.confidence,
        })
    });
    let mut next = || found.next().flatten();
    FigureChanges {
        far: next(),
        frr: next(),
        worst_tenth_frr: next(),
        utility_variance: next(),
    }
}

/// Draws as many labels as there are, with replacement, and counts how often each was drawn.
fn draw(weights: &mut [u64], draws: &mut SeededRng) {
    weights.fill(0);
    for _ in 0..weights.len() {
        let drawn = draws.below(weights.len());
        if let Some(weight) = weights.get_mut(drawn) {
            *weight += 1;
        }
    }
}

/// The two order statistics that leave delta / 2 on either side, rounded outwards.
fn percentiles(mut values: Vec<f64>, confidence: Confidence) -> Option<(f64, f64)> {
    values.sort_unstable_by(f64::total_cmp);
    let outside = real(values.len() as u64) * confidence.delta() / 2.0;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "at most a quarter of the resamples, never negative"
    )]
    let rank = outside as usize;
    let lower = values.get(rank).copied()?;
    Some((lower, values.iter().rev().nth(rank).copied()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(label: &str, mated: bool, error: bool) -> DecidedSearch<'_> {
        DecidedSearch {
            label,
            mated,
            error,
            second_half: false,
        }
    }

    fn draws(resamples: u32) -> Resampling {
        Resampling {
            seed: 7,
            resamples,
            confidence: Confidence::DISPLAY,
        }
    }

    /// The FRRs of twelve labels are 0, 1/11, ..., 1, so the worst tenth is two labels.
    #[test]
    fn the_worst_tenth_is_rounded_up_and_small_labels_are_not_ranked() {
        let names: Vec<String> = (0..12).map(|i| format!("l{i:02}")).collect();
        let mut outcomes: Vec<DecidedSearch<'_>> = names
            .iter()
            .enumerate()
            .flat_map(|(i, name)| (0..11).map(move |k| outcome(name, true, k < i)))
            .collect();
        outcomes.push(outcome("small", true, true));
        let panel = ComparisonSet::new(&outcomes, 11);
        let worst = panel.worst_labels().unwrap();
        assert_eq!((worst.ranked, worst.label.as_str()), (12, "l11"));
        assert_eq!((worst.count.events(), worst.count.trials()), (11, 11));
        let expected = f64::midpoint(1.0, 10.0 / 11.0);
        assert!((worst.mean_of_worst_tenth - expected).abs() < 1e-9);
        assert!(ComparisonSet::new(&outcomes, 12).worst_labels().is_none());
        assert!(ComparisonSet::new(&[], 1).worst_labels().is_none());
    }

    #[test]
    fn the_covariance_of_halves_has_its_value_and_ignores_labels_without_both() {
        let utilities = [Some([0.5, 0.6]), Some([0.9, 1.0]), None, Some([0.7, 0.5])];
        // Both means are 0.7: (-0.2 * -0.1 + 0.2 * 0.3 + 0) / 3.
        let found = covariance(&utilities, &[1; 4]).unwrap();
        assert!((found - 0.08 / 3.0).abs() < 1e-12, "{found}");
        // A weight of 2 is the same as giving the label twice.
        let twice = covariance(&utilities, &[2; 4]).unwrap();
        assert!((found - twice).abs() < 1e-12);
        assert!(covariance(&utilities, &[0, 5, 5, 0]).is_none());
        assert!(covariance(&[], &[]).is_none());
        assert!(utility::utility(0.0, 0.0).abs() < f64::EPSILON);
    }

    #[test]
    fn two_equal_ways_differ_by_nothing_and_a_clear_gain_shows() {
        let names: Vec<String> = (0..40).map(|i| format!("l{i}")).collect();
        let decided = |wrong: usize| -> Vec<DecidedSearch<'_>> {
            let of = |i: usize| {
                let name = &names[i];
                (0..8).map(move |k| DecidedSearch {
                    second_half: k % 2 == 0,
                    ..outcome(name, k < 6, i.is_multiple_of(4) && k < wrong)
                })
            };
            (0..40).flat_map(of).collect()
        };
        let (old, new) = (decided(5), decided(2));
        let (old, new) = (ComparisonSet::new(&old, 3), ComparisonSet::new(&new, 3));
        let same = differences(&old, &old, draws(200));
        let frr = same.frr.unwrap();
        assert!(frr.lower.abs() + frr.upper.abs() < 1e-12 && !frr.is_fall() && !frr.is_rise());
        let gain = differences(&old, &new, draws(200));
        assert!(gain.frr.unwrap().is_fall());
        assert!(gain.worst_tenth_frr.unwrap().is_fall());
        assert!(gain.utility_variance.unwrap().is_fall());
        assert!(differences(&new, &old, draws(200)).frr.unwrap().is_rise());
        assert_eq!(gain, differences(&old, &new, draws(200)));
    }

    #[test]
    fn nothing_to_compare_is_no_difference_and_no_nan() {
        let empty = ComparisonSet::new(&[], 1);
        let found = differences(&empty, &empty, draws(200));
        assert_eq!(
            (found.far, found.frr, found.utility_variance),
            (None, None, None)
        );
    }
}
