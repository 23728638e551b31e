//! Measures how well rows are told apart, from sums by label, so that the labels can be resampled (bootstrap).

use matchpoint_calibration::analysis::embeddings::Embeddings;
use matchpoint_calibration::analysis::label_counts::LabelCounts;
use matchpoint_calibration::analysis::nearest::nearest;
use matchpoint_calibration::analysis::pairwise::Scan;
use matchpoint_calibration::analysis::utility::utility;
use matchpoint_calibration::decision::Threshold;
use serde::{Deserialize, Serialize};

use super::error::AdaptError;
use super::labelled_rows::LabelledRows;

/// Number of thresholds at which pairs are counted, equally spaced in the logarithm of FAR: each differs by 3 %
/// in FAR from the next.
const THRESHOLDS: u32 = 256;
const FAR_HIGHEST: f64 = 0.7;
const FAR_LOWEST: f64 = 3e-4;
/// The band of OPIS, as FARs of all pairs.
const BAND: (f64, f64) = (1e-3, 1e-1);

/// How well embeddings tell labels apart. Rates are pairwise, in [0, 1].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct HeadFigures {
    /// Among rows whose label has another row: the share whose nearest other row has their label.
    pub recall_at_1: f64,
    /// The equal error rate.
    pub equal_error: f64,
    /// The FRR at a FAR of 0.01.
    pub frr_at_far_1e2: f64,
    /// The FRR at a FAR of 0.001.
    pub frr_at_far_1e3: f64,
    /// OPIS: how unequally one threshold serves the labels, over FARs from 1e-3 to 1e-1, weighted by
    /// similarity.
    pub opis: f64,
}

impl HeadFigures {
    /// The names of the figures, and whether higher is better.
    pub(super) const NAMES: [(&'static str, bool); 5] = [
        ("Recall@1", true),
        ("EER", false),
        ("FRR at FAR 1 %", false),
        ("FRR at FAR 0.1 %", false),
        ("OPIS", false),
    ];

    pub(super) fn values(&self) -> [f64; 5] {
        [
            self.recall_at_1,
            self.equal_error,
            self.frr_at_far_1e2,
            self.frr_at_far_1e3,
            self.opis,
        ]
    }
}

/// The sums by label from which figures are computed.
pub(super) struct LabelEvidence {
    counts: LabelCounts,
    /// For each label, the number of rows whose label has another row, and the number of these whose nearest
    /// row has their label.
    asked: Vec<f64>,
    found: Vec<f64>,
    /// The utilities at the thresholds of the band, for labels with both kinds of pairs.
    utilities: Vec<Option<Vec<f64>>>,
    /// The integration weights of the band's thresholds.
    widths: Vec<f64>,
}

impl LabelEvidence {
    pub(super) fn of(rows: &LabelledRows) -> Result<Self, AdaptError> {
        let embeddings = rows.embeddings()?;
        let wrong = |problem: &dyn std::fmt::Display| AdaptError::Analysis {
            problem: problem.to_string(),
        };
        let go_on = &|_, _| true;
        let scan = Scan::all_pairs(&embeddings);
        let curve = scan.curve(go_on).map_err(|error| wrong(&error))?;
        let ratio = (FAR_LOWEST / FAR_HIGHEST).ln() / f64::from(THRESHOLDS - 1);
        let far = |step: u32| FAR_HIGHEST * (ratio * f64::from(step)).exp();
        let at = |step| curve.threshold_at_far(far(step));
        let mut thresholds: Vec<Threshold> = (0..THRESHOLDS).filter_map(at).collect();
        thresholds.dedup();
        let counts = scan
            .label_counts(&thresholds, go_on)
            .map_err(|error| wrong(&error))?;
        let mut evidence = Self {
            asked: vec![0.0; counts.labels],
            found: vec![0.0; counts.labels],
            utilities: Vec::new(),
            widths: Vec::new(),
            counts,
        };
        evidence.count_searches(rows, &embeddings)?;
        evidence.measure_utilities();
        Ok(evidence)
    }

    fn count_searches(
        &mut self,
        rows: &LabelledRows,
        embeddings: &Embeddings,
    ) -> Result<(), AdaptError> {
        let best = nearest(embeddings, embeddings, &|_, _| true);
        let best = best.map_err(|error| AdaptError::Analysis {
            problem: error.to_string(),
        })?;
        for (label, best) in rows.dense_labels().0.into_iter().zip(best) {
            if best.same_label.is_none() {
                continue;
            }
            let own = best.top().is_some_and(|(_, own)| own);
            if let (Some(asked), Some(found)) =
                (self.asked.get_mut(label), self.found.get_mut(label))
            {
                *asked += 1.0;
                *found += f64::from(u8::from(own));
            }
        }
        Ok(())
    }

    /// The rates of all pairs at each threshold: FAR, which falls, and FRR, which rises.
    pub(super) fn rates(&self, weights: &[f64]) -> (Vec<f64>, Vec<f64>) {
        let counts = &self.counts;
        let rate = |accepted: &[u64], total: &[u64]| {
            let width = counts.thresholds.len();
            let mut sums = vec![0.0; width];
            let mut all = 0.0;
            let labels = weights.iter().zip(total).zip(accepted.chunks(width.max(1)));
            for ((weight, total), accepted) in labels.filter(|((weight, _), _)| 0.0 < **weight) {
                all += weight * number(*total);
                for (sum, accepted) in sums.iter_mut().zip(accepted) {
                    *sum += weight * number(*accepted);
                }
            }
            let all = if 0.0 < all { all } else { 1.0 };
            sums.iter_mut().for_each(|sum| *sum /= all);
            sums
        };
        let far = rate(&counts.non_mated_accepted, &counts.non_mated_total);
        let mut frr = rate(&counts.mated_accepted, &counts.mated_total);
        frr.iter_mut().for_each(|rate| *rate = 1.0 - *rate);
        (far, frr)
    }

    fn measure_utilities(&mut self) {
        let width = self.counts.thresholds.len();
        let (far, _) = self.rates(&vec![1.0; self.counts.labels]);
        let in_band: Vec<usize> = (0..width)
            .filter(|at| {
                far.get(*at)
                    .is_some_and(|far| (BAND.0..=BAND.1).contains(far))
            })
            .collect();
        let similarity = |at: &usize| {
            let threshold = self.counts.thresholds.get(*at);
            threshold.map_or(0.0, |threshold| f64::from(threshold.get()))
        };
        let points: Vec<f64> = in_band.iter().map(similarity).collect();
        self.widths = trapezia(&points);
        let counts = &self.counts;
        let of_label = |label: usize| {
            let (mated, others) = (
                *counts.mated_total.get(label)?,
                *counts.non_mated_total.get(label)?,
            );
            if mated == 0 || others == 0 {
                return None;
            }
            let at = |at: &usize| {
                let cell = label * width + at;
                let sensitivity = number(*counts.mated_accepted.get(cell)?) / number(mated);
                let accepted = number(*counts.non_mated_accepted.get(cell)?) / number(others);
                Some(utility(sensitivity, 1.0 - accepted))
            };
            in_band.iter().map(at).collect::<Option<Vec<f64>>>()
        };
        self.utilities = (0..counts.labels).map(of_label).collect();
    }

    /// The utility of a label at thresholds given by FARs of all pairs; `None` if the label lacks a kind of
    /// pairs.
    pub(super) fn utility_at(&self, label: usize, rates: &[f64]) -> Option<Vec<f64>> {
        let counts = &self.counts;
        let width = counts.thresholds.len();
        let mated = *counts.mated_total.get(label).filter(|total| 0 < **total)?;
        let others = *counts
            .non_mated_total
            .get(label)
            .filter(|total| 0 < **total)?;
        let cells = label * width..(label + 1) * width;
        let accepted = counts.mated_accepted.get(cells.clone())?.iter();
        let falsely = counts.non_mated_accepted.get(cells)?.iter();
        let utilities: Vec<f64> = accepted
            .zip(falsely)
            .map(|(accepted, falsely)| {
                let sensitivity = number(*accepted) / number(mated);
                utility(sensitivity, 1.0 - number(*falsely) / number(others))
            })
            .collect();
        let (far, _) = self.rates(&vec![1.0; counts.labels]);
        Some(
            rates
                .iter()
                .map(|rate| at_far(&far, &utilities, *rate))
                .collect(),
        )
    }

    /// The number of labels: one more than the greatest index.
    pub(super) fn labels(&self) -> usize {
        self.counts.labels
    }

    /// The figures with label i counted `weights[i]` times. A pair of two labels gets the mean of their weights
    /// and not the product, which is the first-order part of a bootstrap over labels.
    pub(super) fn figures(&self, weights: &[f64]) -> HeadFigures {
        let (far, frr) = self.rates(weights);
        let sum = |values: &[f64]| -> f64 {
            let pairs = values.iter().zip(weights);
            pairs.map(|(value, weight)| value * weight).sum()
        };
        let asked = sum(&self.asked);
        HeadFigures {
            recall_at_1: if 0.0 < asked {
                sum(&self.found) / asked
            } else {
                0.0
            },
            equal_error: crossing(&far, &frr),
            frr_at_far_1e2: at_far(&far, &frr, 1e-2),
            frr_at_far_1e3: at_far(&far, &frr, 1e-3),
            opis: self.opis(weights),
        }
    }

    fn opis(&self, weights: &[f64]) -> f64 {
        let width = self.widths.len();
        let (mut first, mut second) = (vec![0.0; width], vec![0.0; width]);
        let mut all = 0.0;
        for (utilities, weight) in self.utilities.iter().zip(weights) {
            let Some(utilities) = utilities.as_ref().filter(|_| 0.0 < *weight) else {
                continue;
            };
            all += weight;
            for ((first, second), utility) in first.iter_mut().zip(&mut second).zip(utilities) {
                *first += weight * utility;
                *second += weight * utility * utility;
            }
        }
        if all <= 0.0 {
            return 0.0;
        }
        let variances = first.iter().zip(&second).map(|(first, second)| {
            let mean = first / all;
            (second / all - mean * mean).max(0.0)
        });
        let weighted = variances
            .zip(&self.widths)
            .map(|(variance, width)| variance * width);
        weighted.sum()
    }
}

/// The weights of the points in an integral by the trapezium rule; their sum is one.
fn trapezia(points: &[f64]) -> Vec<f64> {
    let mut widths = vec![0.0; points.len()];
    for (at, pair) in points.windows(2).enumerate() {
        let [a, b] = pair else { continue };
        for width in widths.iter_mut().skip(at).take(2) {
            *width += (b - a) / 2.0;
        }
    }
    let whole: f64 = widths.iter().sum();
    if 0.0 < whole {
        widths.iter_mut().for_each(|width| *width /= whole);
    } else if let Some(first) = widths.first_mut() {
        *first = 1.0;
    }
    widths
}

/// The FRR at the threshold where the FAR has fallen to `target`.
pub(super) fn at_far(far: &[f64], frr: &[f64], target: f64) -> f64 {
    let Some(at) = far.iter().position(|far| *far <= target) else {
        return frr.last().copied().unwrap_or(1.0);
    };
    let point = |at: usize| Some((*far.get(at)?, *frr.get(at)?));
    match (at.checked_sub(1).and_then(point), point(at)) {
        (Some((far_a, frr_a)), Some((far_b, frr_b))) => {
            let share = (far_a - target) / (far_a - far_b).max(f64::MIN_POSITIVE);
            frr_a + (frr_b - frr_a) * share.clamp(0.0, 1.0)
        }
        (None, Some((_, frr))) => frr,
        (_, None) => 1.0,
    }
}

/// The equal error rate.
fn crossing(far: &[f64], frr: &[f64]) -> f64 {
    let Some(at) = far.iter().zip(frr).position(|(far, frr)| far <= frr) else {
        // The FRR stays below the FAR, so this is the lowest FAR that was counted.
        return far.last().copied().unwrap_or(0.0);
    };
    let point = |at: usize| Some((*far.get(at)?, *frr.get(at)?));
    match (at.checked_sub(1).and_then(point), point(at)) {
        (Some((far_a, frr_a)), Some((far_b, frr_b))) => {
            let (before, after) = (far_a - frr_a, frr_b - far_b);
            let share = before / (before + after).max(f64::MIN_POSITIVE);
            far_a + (far_b - far_a) * share.clamp(0.0, 1.0)
        }
        (None, Some((_, frr))) => frr,
        (_, None) => 0.0,
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "counts of pairs, far below 2^52"
)]
fn number(count: u64) -> f64 {
    count as f64
}
