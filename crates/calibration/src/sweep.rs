//! Computes the error rates at every threshold from one sorting of the trials.

use std::collections::BTreeSet;

use super::binomial::real;
use super::decision::{Decision, Threshold};
use super::rates::recorded;
use super::trials::{MatedSearch, Trials};
use matchpoint_vector::Similarity;

/// The two error rates per search at one threshold, each in [0, 1].
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ErrorRates {
    /// Share of non-mated searches that are accepted (FPIR).
    pub far: f64,
    /// Share of mated searches that are rejected or accepted with a wrong label (FNIR).
    pub frr: f64,
}

impl ErrorRates {
    /// Both rates, rounded to the digits that a record keeps.
    pub(super) fn recorded(self) -> Self {
        Self {
            far: recorded(self.far),
            frr: recorded(self.frr),
        }
    }
}

/// The scores that a threshold can accept or reject, sorted.
#[derive(Clone, Debug)]
pub struct ThresholdSweep {
    strangers: Vec<Similarity>,
    right: Vec<Similarity>,
    non_mated: u64,
    mated: u64,
}

impl ThresholdSweep {
    /// Sorts the trials. A mated search whose best candidate is wrong or missing is an error at every
    /// threshold, and a non-mated search without a candidate is an error at none.
    #[must_use]
    pub fn of(trials: &Trials) -> Self {
        let mut strangers: Vec<Similarity> = trials
            .non_mated()
            .iter()
            .filter_map(|search| search.top_score)
            .collect();
        strangers.sort_unstable();
        let mut right: Vec<Similarity> = trials
            .mated()
            .iter()
            .filter_map(MatedSearch::right_score)
            .collect();
        right.sort_unstable();
        Self {
            strangers,
            right,
            non_mated: trials.non_mated().len() as u64,
            mated: trials.mated().len() as u64,
        }
    }

    /// Scores of the strangers that found a candidate, in ascending order.
    #[must_use]
    pub fn strangers(&self) -> &[Similarity] {
        &self.strangers
    }

    /// Scores of the mated searches whose best candidate has the right label, in ascending order.
    #[must_use]
    pub fn right(&self) -> &[Similarity] {
        &self.right
    }

    /// Number of non-mated searches, including those without a candidate.
    #[must_use]
    pub fn non_mated(&self) -> u64 {
        self.non_mated
    }

    /// Number of mated searches, including those that are errors at every threshold.
    #[must_use]
    pub fn mated(&self) -> u64 {
        self.mated
    }

    /// Every threshold at which a rate changes, in ascending order, and finally the one that accepts nothing.
    /// Any threshold in between gives the same rates as the next higher one.
    #[must_use]
    pub fn thresholds(&self) -> BTreeSet<Threshold> {
        let scores = self.strangers.iter().chain(&self.right);
        let mut thresholds: BTreeSet<Threshold> = scores.copied().map(Threshold::at).collect();
        thresholds.insert(Threshold::ACCEPT_NOTHING);
        thresholds
    }

    /// Both rates at `threshold`; `None` if either kind of search is missing, which is not a
    /// rate of zero.
    #[must_use]
    pub fn rates(&self, threshold: Threshold) -> Option<ErrorRates> {
        Some(ErrorRates {
            far: self.far(threshold)?,
            frr: self.frr(threshold)?,
        })
    }

    /// The share of non-mated searches that are accepted; `None` if there are none.
    #[must_use]
    pub fn far(&self, threshold: Threshold) -> Option<f64> {
        let accepted = at_or_above(&self.strangers, threshold);
        (0 < self.non_mated).then(|| real(accepted) / real(self.non_mated))
    }

    /// The share of mated searches that are rejected or accepted with a wrong label; `None` if there
    /// are none.
    #[must_use]
    pub fn frr(&self, threshold: Threshold) -> Option<f64> {
        let saved = at_or_above(&self.right, threshold);
        (0 < self.mated).then(|| real(self.mated - saved) / real(self.mated))
    }
}

fn at_or_above(ascending: &[Similarity], threshold: Threshold) -> u64 {
    let below =
        ascending.partition_point(|&score| threshold.decide(Some(score)) == Decision::Reject);
    (ascending.len() - below) as u64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::evaluate::evaluate;
    use crate::trials::{NonMatedSearch, StrangerOrigin, Top};

    fn trials(mated: &[(Option<f32>, bool)], strangers: &[Option<f32>]) -> Trials {
        let mated = mated
            .iter()
            .enumerate()
            .map(|(i, &(score, right))| MatedSearch {
                label: format!("m{i}"),
                probe: format!("m{i}"),
                top: score.and_then(Similarity::new).map(|score| Top {
                    score,
                    label_matches: right,
                }),
            });
        let strangers = strangers
            .iter()
            .enumerate()
            .map(|(i, &score)| NonMatedSearch {
                label: format!("s{i}"),
                probe: format!("s{i}"),
                top_score: score.and_then(Similarity::new),
                origin: StrangerOrigin::NeverEnrolled,
            });
        Trials::new(mated.collect(), strangers.collect()).unwrap()
    }

    /// The open-set example of the reference, and its curve of the correct classification rate (1 - FRR)
    /// against the false positive rate (OSCR; Dhamija, Günther and Boult 2018).
    #[test]
    fn the_open_set_toy() {
        let toy = ThresholdSweep::of(&trials(
            &[
                (Some(0.80), true),
                (Some(0.62), true),
                (Some(0.58), false),
                (Some(0.41), true),
                (Some(0.70), true),
            ],
            &[Some(0.75), Some(0.45), Some(0.30), Some(0.52)],
        ));
        for (threshold, far, frr) in [
            (0.4, 0.75, 0.2),
            (0.5, 0.5, 0.4),
            (0.6, 0.25, 0.4),
            (0.72, 0.25, 0.8),
        ] {
            let rates = toy.rates(Threshold::new(threshold).unwrap()).unwrap();
            assert!((rates.far - far).abs() < 1e-12 && (rates.frr - frr).abs() < 1e-12);
        }
        let curve: Vec<(u32, u32)> = toy
            .thresholds()
            .into_iter()
            .filter_map(|threshold| toy.rates(threshold))
            .map(|rates| {
                #[expect(
                    clippy::cast_possible_truncation,
                    clippy::cast_sign_loss,
                    reason = "small"
                )]
                let percent = |rate: f64| (100.0 * rate).round() as u32;
                (percent(rates.far), percent(1.0 - rates.frr))
            })
            .collect();
        let expected = [
            (100, 80),
            (75, 80),
            (75, 60),
            (50, 60),
            (25, 60),
            (25, 40),
            (25, 20),
            (0, 20),
            (0, 0),
        ];
        assert_eq!(curve, expected);
    }

    #[test]
    fn a_missing_kind_of_search_has_no_rates_rather_than_zero() {
        let anything = Threshold::ACCEPT_ANYTHING_FOUND;
        assert_eq!(
            ThresholdSweep::of(&trials(&[], &[Some(0.1)])).rates(anything),
            None
        );
        assert_eq!(
            ThresholdSweep::of(&trials(&[(Some(0.1), true)], &[])).rates(anything),
            None
        );
        let nothing = ThresholdSweep::of(&trials(&[], &[]));
        assert_eq!(
            nothing.thresholds(),
            BTreeSet::from([Threshold::ACCEPT_NOTHING])
        );
    }

    proptest! {
        #[test]
        fn raising_the_threshold_never_raises_far_nor_lowers_frr(
            mated in prop::collection::vec(
                (prop::option::of(-1.0_f32..=1.0), any::<bool>()), 1..60),
            strangers in prop::collection::vec(prop::option::of(-1.0_f32..=1.0), 1..60)
        ) {
            let trials = trials(&mated, &strangers);
            let sweep = ThresholdSweep::of(&trials);
            let mut below: Option<ErrorRates> = None;
            for threshold in sweep.thresholds() {
                let rates = sweep.rates(threshold).unwrap();
                let errors = evaluate(&trials, Some(threshold)).errors.unwrap();
                prop_assert!((errors.far.unwrap().estimate - rates.far).abs() < 1e-9);
                prop_assert!((errors.frr.unwrap().estimate - rates.frr).abs() < 1e-9);
                if let Some(below) = below {
                    prop_assert!(rates.far <= below.far && below.frr <= rates.frr);
                }
                below = Some(rates);
            }
        }
    }
}
