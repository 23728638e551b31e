//! The utility of one threshold for each label: the harmonic mean of sensitivity and specificity.

use super::label_counts::LabelCounts;
use crate::binomial::real;

/// The utility of each label at each threshold, by label in ascending order, for drawing. Labels without mated
/// or without non-mated pairs are left out.
#[must_use]
pub fn utility_curves(counts: &LabelCounts) -> Vec<(usize, Vec<f64>)> {
    let utilities = UtilityCurves::of(counts);
    utilities.labels.into_iter().zip(utilities.curves).collect()
}

/// The harmonic mean of sensitivity and specificity; 0 if both are 0.
#[must_use]
pub fn utility(sensitivity: f64, specificity: f64) -> f64 {
    let sum = sensitivity + specificity;
    if sum <= 0.0 {
        return 0.0;
    }
    2.0 * sensitivity * specificity / sum
}

/// The utility curves of all labels that have both kinds of pairs, in the order of the labels.
#[derive(Clone, Debug, Default)]
pub(super) struct UtilityCurves {
    pub(super) labels: Vec<usize>,
    pub(super) curves: Vec<Vec<f64>>,
}

impl UtilityCurves {
    pub(super) fn of(counts: &LabelCounts) -> Self {
        let mut utilities = Self::default();
        let width = counts.thresholds.len();
        if width == 0 {
            return utilities;
        }
        let totals = counts.mated_total.iter().zip(&counts.non_mated_total);
        let mated = counts.mated_accepted.chunks_exact(width);
        let non_mated = counts.non_mated_accepted.chunks_exact(width);
        let rows = totals.zip(mated.zip(non_mated)).enumerate();
        for (label, ((&mated, &non_mated), (accepted, falsely))) in rows {
            if mated == 0 || non_mated == 0 {
                continue;
            }
            let curve = accepted.iter().zip(falsely).map(|(&accepted, &falsely)| {
                let sensitivity = real(accepted) / real(mated);
                utility(sensitivity, 1.0 - real(falsely) / real(non_mated))
            });
            utilities.labels.push(label);
            utilities.curves.push(curve.collect());
        }
        utilities
    }

    /// The curves of `self` and `other` for the labels that occur in both.
    pub(super) fn shared_with(&self, other: &Self) -> (Self, Self) {
        let keep = |one: &Self, wanted: &Self| {
            let rows = one.labels.iter().zip(&one.curves);
            let kept = rows.filter(|(label, _)| wanted.labels.binary_search(label).is_ok());
            let (labels, curves) = kept.map(|(&label, curve)| (label, curve.clone())).unzip();
            Self { labels, curves }
        };
        (keep(self, other), keep(other, self))
    }

    pub(super) fn mean(&self) -> Vec<f64> {
        let width = self.curves.first().map_or(0, Vec::len);
        let mut mean = vec![0.0; width];
        for curve in &self.curves {
            add(&mut mean, curve, 1.0 / real(self.curves.len() as u64));
        }
        mean
    }

    pub(super) fn centred(&self) -> Vec<Vec<f64>> {
        let mean = self.mean();
        let centred = |curve: &Vec<f64>| curve.iter().zip(&mean).map(|(u, m)| u - m).collect();
        self.curves.iter().map(centred).collect()
    }

    /// For each threshold, the covariance over labels with the curves of the same labels in `other`.
    pub(super) fn covariance(&self, other: &Self) -> Vec<f64> {
        let mut sums = vec![0.0; self.curves.first().map_or(0, Vec::len)];
        for (a, b) in self.centred().iter().zip(other.centred()) {
            let products: Vec<f64> = a.iter().zip(b).map(|(a, b)| a * b).collect();
            add(&mut sums, &products, 1.0 / real(self.curves.len() as u64));
        }
        sums
    }
}

pub(super) fn add(sums: &mut [f64], values: &[f64], share: f64) {
    for (sum, value) in sums.iter_mut().zip(values) {
        *sum += share * value;
    }
}

pub(super) fn mean(values: &[f64]) -> f64 {
    if values.is_empty() {
        return 0.0;
    }
    values.iter().sum::<f64>() / real(values.len() as u64)
}

/// The mean over equally spaced points by the trapezium rule; for one point, its value.
pub(super) fn trapezium(values: &[f64]) -> f64 {
    match values {
        [] => 0.0,
        [only] => *only,
        [first, .., last] => {
            let inner = values.iter().sum::<f64>() - f64::midpoint(*first, *last);
            inner / real(values.len() as u64 - 1)
        }
    }
}
