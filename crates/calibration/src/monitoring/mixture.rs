//! Are the scores of today a mixture of those that the threshold was calibrated on?
//!
//! Traffic mixes searches whose label is enrolled with strangers, in a share that changes by itself
//! and is no fault. So only the classes are held to the calibration, and their share is fitted.

use std::collections::BTreeMap;

use super::MonitoringError;
use super::strata::Strata;
use crate::binomial::{chi_squared_quantile, real};
use crate::decision::Threshold;
use crate::recording::{RecordedMatch, Recording, TrialKind};

/// Histograms of what the searches of a calibration found, by stratum of the audit.
#[derive(Clone, Debug, PartialEq)]
pub struct Classes {
    mated: Vec<f64>,
    non_mated: Vec<f64>,
}

/// Below it a class says too little of how its scores are spread.
const LABELS_MIN: f64 = 20.0;

impl Classes {
    /// Counts the searches of a recording around its threshold. A label counts once, however often
    /// it was searched for: its searches are alike. `None` if a class has fewer than 20 labels.
    #[must_use]
    pub fn of(recording: &Recording, threshold: Threshold, strata: &Strata) -> Option<Self> {
        let mut by_label: [BTreeMap<&str, Vec<usize>>; 2] = [BTreeMap::new(), BTreeMap::new()];
        let [mated, non_mated] = &mut by_label;
        for search in recording.searches() {
            let class = match search.truth {
                TrialKind::Mated => &mut *mated,
                TrialKind::NeverEnrolled | TrialKind::LeftOut => &mut *non_mated,
            };
            let score = search.found.as_ref().map(RecordedMatch::decision_score);
            let place = strata.place(score, threshold);
            class.entry(&search.label).or_default().push(place.stratum);
        }
        let [mated, non_mated] = by_label.map(|class| {
            let mut counts = vec![0.0; strata.count()];
            for places in class.values() {
                for &place in places {
                    if let Some(count) = counts.get_mut(place) {
                        *count += 1.0 / real(places.len() as u64);
                    }
                }
            }
            counts
        });
        let enough = |counts: &[f64]| LABELS_MIN <= counts.iter().sum::<f64>() + 0.5;
        (enough(&mated) && enough(&non_mated)).then_some(Self { mated, non_mated })
    }
}

/// How badly a window of searches fits a mixture of the classes, with what chance alone gives.
///
/// Blind to what lies within a stratum, and to a new kind of stranger that is rare, or whose scores
/// are those of enrolled ones: 3 % of look-alikes multiply the FAR and fit well.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Misfit {
    /// Pearson's distance of window and calibration from the mixture that fits both best, by search
    /// of the window; at least 0.
    pub distance: f64,
    /// What it stays below with the probability asked for while the classes are as they were.
    pub limit: f64,
    /// The share of mated searches in the window, in [0, 1], at which it fits best.
    pub mated: f64,
}

/// Fits the share of mated searches, and says how far the window then is from the classes.
///
/// Three samples are taken together: labelled mated and non-mated searches of the calibration, and
/// the window, of which each search is one or the other. Their joint likelihood is maximised (EM),
/// so that few labels at calibration widen the limit by what they leave open. The distance is
/// chi-squared with two degrees less than strata that anything fell into: one for the sum, one for
/// the share. `alpha` is the probability of being above the limit by chance.
///
/// # Errors
/// Refuses counts of other strata, fewer than three of them in use, and a window without searches.
pub fn misfit(classes: &Classes, window: &[u64], alpha: f64) -> Result<Misfit, MonitoringError> {
    if classes.mated.len() != window.len() || classes.non_mated.len() != window.len() {
        return Err(MonitoringError::DifferentBins);
    }
    let rows = classes.mated.iter().zip(&classes.non_mated).zip(window);
    let bins: Vec<Bin> = rows
        .map(|((&mated, &non_mated), &searches)| Bin {
            mated,
            non_mated,
            searches: real(searches),
        })
        .filter(|bin| 0.0 < bin.mated + bin.non_mated + bin.searches)
        .collect();
    let degrees = u32::try_from(bins.len()).unwrap_or(u32::MAX);
    if degrees < 3 {
        return Err(MonitoringError::DifferentBins);
    }
    let searches: f64 = bins.iter().map(|bin| bin.searches).sum();
    if searches <= 0.0 {
        return Err(MonitoringError::NoScores);
    }
    let fitted = Fit::best(&bins);
    Ok(Misfit {
        distance: fitted.distance(&bins) / searches,
        limit: chi_squared_quantile(alpha, degrees - 2) / searches,
        mated: fitted.share,
    })
}

/// What fell into one stratum.
#[derive(Clone, Copy)]
struct Bin {
    mated: f64,
    non_mated: f64,
    searches: f64,
}

/// Steps of the fit, at most; each costs a few divisions for each stratum.
const STEPS_MAX: usize = 10_000;
/// A step that changes the share by less ends the fit.
const STEP_MIN: f64 = 1e-12;

/// A mixture: the share of mated searches, and by stratum the probabilities of both classes.
struct Fit {
    share: f64,
    densities: Vec<[f64; 2]>,
}

impl Fit {
    fn best(bins: &[Bin]) -> Self {
        let begin = |bin: &Bin| [bin.mated + 0.5, bin.non_mated + 0.5];
        let mut fit = Self {
            share: 0.5,
            densities: normalised(bins.iter().map(begin).collect()),
        };
        for _ in 0..STEPS_MAX {
            let before = fit.share;
            fit.step(bins);
            if (fit.share - before).abs() < STEP_MIN {
                break;
            }
        }
        fit
    }

    /// One step of EM: each search of the window is taken as mated with the probability that the
    /// mixture gives it.
    fn step(&mut self, bins: &[Bin]) {
        let (mut mated, mut searches) = (0.0, 0.0);
        let taken = bins.iter().zip(&self.densities).map(|(bin, density)| {
            let [of_mated, of_other] = self.parts(density);
            let all = of_mated + of_other;
            let part = if 0.0 < all { of_mated / all } else { 0.0 };
            mated += part * bin.searches;
            searches += bin.searches;
            [
                bin.mated + part * bin.searches,
                bin.non_mated + (1.0 - part) * bin.searches,
            ]
        });
        self.densities = normalised(taken.collect());
        self.share = mated / searches;
    }

    fn parts(&self, [mated, non_mated]: &[f64; 2]) -> [f64; 2] {
        [self.share * mated, (1.0 - self.share) * non_mated]
    }

    /// Pearson's chi-squared over the three samples.
    fn distance(&self, bins: &[Bin]) -> f64 {
        let total = |of: fn(&Bin) -> f64| bins.iter().map(of).sum::<f64>();
        let totals = [
            total(|bin| bin.mated),
            total(|bin| bin.non_mated),
            total(|bin| bin.searches),
        ];
        let of_bin = |(bin, density): (&Bin, &[f64; 2])| {
            let mixed: f64 = self.parts(density).iter().sum();
            let [mated, non_mated] = *density;
            let samples = [
                (bin.mated, mated),
                (bin.non_mated, non_mated),
                (bin.searches, mixed),
            ];
            let terms = samples.iter().zip(totals).map(|(&(seen, part), total)| {
                let expected = part * total;
                // Nothing is expected only if nothing was seen.
                if expected <= f64::MIN_POSITIVE {
                    return 0.0;
                }
                (seen - expected).powi(2) / expected
            });
            terms.sum::<f64>()
        };
        bins.iter().zip(&self.densities).map(of_bin).sum()
    }
}

fn normalised(mut weights: Vec<[f64; 2]>) -> Vec<[f64; 2]> {
    let mut sums = [0.0; 2];
    for [a, b] in &weights {
        sums = [sums[0] + a, sums[1] + b];
    }
    for [a, b] in &mut weights {
        *a /= sums[0];
        *b /= sums[1];
    }
    weights
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Saerens, Latinne and Decaestecker (2002): with densities that are known, and a calibrated
    /// probability of each search at even odds, the share is theirs.
    #[test]
    fn the_fitted_share_is_that_of_the_reference_where_the_classes_are_known() {
        const KNOWN: f64 = 1e13;
        let given = [0.95, 0.8, 0.6, 0.3, 0.1, 0.02, 0.05, 0.1];
        let rest = |part: f64| KNOWN * (8.0 - part);
        let sum: f64 = given.iter().sum();
        let mut classes = Classes {
            mated: given.iter().map(|p| KNOWN * p).collect(),
            non_mated: given.iter().map(|p| KNOWN * (1.0 - p)).collect(),
        };
        classes.mated.push(rest(sum));
        classes.non_mated.push(rest(8.0 - sum));
        let found = misfit(&classes, &[1, 1, 1, 1, 1, 1, 1, 1, 0], 0.05).unwrap();
        assert!((found.mated - 0.247_053_226_9).abs() < 1e-8, "{found:?}");
    }

    #[test]
    fn a_mixture_of_the_classes_fits_at_its_share_and_another_histogram_does_not() {
        let classes = Classes {
            mated: vec![10.0, 30.0, 60.0],
            non_mated: vec![70.0, 20.0, 10.0],
        };
        let mixed = misfit(&classes, &[250, 275, 475], 0.05).unwrap();
        assert!(mixed.distance < 1e-9, "{mixed:?}");
        assert!((mixed.mated - 0.75).abs() < 1e-5, "{mixed:?}");
        // One degree: 3.841 by 1,000 searches.
        assert!((mixed.limit - 0.003_841).abs() < 1e-6);
        let other = misfit(&classes, &[100, 800, 100], 0.05).unwrap();
        assert!(other.limit < other.distance, "{other:?}");
    }

    #[test]
    fn what_cannot_be_compared_is_refused() {
        let classes = Classes {
            mated: vec![1.0, 2.0, 3.0],
            non_mated: vec![3.0, 2.0, 1.0],
        };
        let refused = |window: &[u64]| misfit(&classes, window, 0.05).unwrap_err();
        assert_eq!(refused(&[1, 2]), MonitoringError::DifferentBins);
        assert_eq!(refused(&[0, 0, 0]), MonitoringError::NoScores);
    }
}
