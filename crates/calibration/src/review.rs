//! The review band: scores just below the threshold, which a person decides.
//!
//! It adds a reject option (Chow 1970) to the accept rule. The threshold is still the one that the strangers
//! certify. A second, lower one is computed from the mated searches alone: the highest at which few enough of
//! them are rejected unseen. A person decides the scores between the two.

use serde::{Deserialize, Serialize};

use super::certify_frr::{
    FrrCertificate, MatedScores, OneMatedPerLabel, TargetFrr, highest_threshold,
};
use super::decision::{Decision, Threshold};
use super::evaluate::{over_mated, over_strangers};
use super::rates::Rate;
use super::refusal::FrrRefused;
use super::trials::{MatedSearch, StrangerOrigin, Trials};
use matchpoint_vector::Similarity;

/// The scores that a person decides, and what is certified about the searches that nobody sees.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReviewBand {
    /// The lower end of the band, which is its threshold, with its certificate. A mated search counts as missed
    /// if it is rejected unseen or accepted with a wrong label; `lost` counts those that no lower end can save.
    pub unseen: FrrCertificate,
    /// The share of mated searches that a person sees.
    pub mated_reviewed: Option<Rate>,
    /// The share of non-mated searches that a person sees.
    pub strangers_reviewed: Option<Rate>,
}

impl ReviewBand {
    /// Finds the narrowest band below `accept` with which the mated searches certify the target. It is empty if
    /// none is needed.
    ///
    /// `accept` must not depend on the mated searches, so that each of the two promises holds with its own
    /// confidence. If enrolled labels were left out to serve as strangers, it nearly does depend on them. In
    /// that case a wrong label counts as missed whatever its score, so that `accept` has no influence.
    ///
    /// # Errors
    /// Returns an error, like [`certify_frr`](super::certify_frr::certify_frr), if even a band down to the
    /// lowest score would not certify the target.
    pub fn certified(
        trials: &Trials,
        accept: Threshold,
        target: TargetFrr,
        seed: u64,
    ) -> Result<Self, FrrRefused> {
        let independent = trials.non_mated_tally(StrangerOrigin::LeftOut).searches == 0;
        let savable = |search: &MatedSearch| {
            let top = search.top?;
            let savable = top.label_matches || independent && !accepts(accept, top.score);
            savable.then_some(top.score)
        };
        let sampled = OneMatedPerLabel::sampled(trials, seed);
        let searches = sampled.searches();
        let scores = MatedScores {
            saved: searches.iter().copied().filter_map(savable).collect(),
            searches: searches.len() as u64,
        };
        let mut unseen = highest_threshold(scores, target)?;
        if accept < unseen.threshold {
            unseen.threshold = accept;
            let missed =
                |search: &&MatedSearch| savable(search).is_none_or(|score| !accepts(accept, score));
            unseen.observed = searches.iter().copied().filter(missed).count() as u64;
        }
        let found = ReviewedShares::of(trials, accept, unseen.threshold);
        Ok(Self {
            unseen,
            mated_reviewed: found.mated,
            strangers_reviewed: found.strangers,
        })
    }

    /// Whether a search with this decision and score goes to a person.
    #[must_use]
    pub fn holds(&self, decision: Decision, score: Option<Similarity>) -> bool {
        decision == Decision::Reject
            && score.is_some_and(|score| accepts(self.unseen.threshold, score))
    }
}

/// The effect of a band on searches with known truth.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct ReviewedShares {
    /// The share of mated searches that a person sees.
    pub mated: Option<Rate>,
    /// The share of non-mated searches that a person sees.
    pub strangers: Option<Rate>,
    /// The share of mated searches that are rejected unseen or accepted with a wrong label.
    pub unseen: Option<Rate>,
}

impl ReviewedShares {
    /// Measures a band from `low` up to `accept`.
    #[must_use]
    pub fn of(trials: &Trials, accept: Threshold, low: Threshold) -> Self {
        let within = |score: Option<Similarity>| {
            score.is_some_and(|score| accepts(low, score) && !accepts(accept, score))
        };
        let score = |search: &MatedSearch| search.top.map(|top| top.score);
        Self {
            mated: over_mated(trials, |search| within(score(search))),
            strangers: over_strangers(trials, within),
            unseen: over_mated(trials, |search| {
                let right = search
                    .right_score()
                    .is_some_and(|score| accepts(accept, score));
                !right && !within(score(search))
            }),
        }
    }
}

fn accepts(threshold: Threshold, score: Similarity) -> bool {
    threshold.decide(Some(score)) == Decision::Accept
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rates::recorded;
    use crate::trials::{NonMatedSearch, Top};

    fn score(value: f32) -> Similarity {
        Similarity::new(value).unwrap()
    }

    /// One search for each label; the flag says whether its best candidate has the right label.
    fn trials(mates: &[(f32, bool)], strangers: &[f32], origin: StrangerOrigin) -> Trials {
        let mated = mates.iter().enumerate().map(|(number, (best, right))| {
            let top = Top {
                score: score(*best),
                label_matches: *right,
            };
            MatedSearch {
                label: format!("mate {number}"),
                probe: format!("m{number}"),
                top: Some(top),
            }
        });
        let strangers = strangers
            .iter()
            .enumerate()
            .map(|(number, best)| NonMatedSearch {
                label: match origin {
                    StrangerOrigin::NeverEnrolled => format!("stranger {number}"),
                    StrangerOrigin::LeftOut => format!("mate {number}"),
                },
                probe: format!("s{number}"),
                top_score: Some(score(*best)),
                origin,
            });
        Trials::new(mated.collect(), strangers.collect()).unwrap()
    }

    fn target(frr: f64) -> TargetFrr {
        TargetFrr::new(frr, 0.9).unwrap()
    }

    fn band(trials: &Trials, accept: f32, frr: f64) -> Result<ReviewBand, FrrRefused> {
        ReviewBand::certified(trials, Threshold::at(score(accept)), target(frr), 0)
    }

    fn hundredths(count: u8) -> Vec<(f32, bool)> {
        (0..count).map(|i| (f32::from(i) / 100.0, true)).collect()
    }

    #[test]
    fn the_band_ends_where_few_enough_mates_are_turned_away_unseen() {
        // With 100 trials, two misses are allowed at 0.06 and confidence 0.9.
        let trials = trials(
            &hundredths(100),
            &[0.01, 0.5, 0.89],
            StrangerOrigin::NeverEnrolled,
        );
        let found = band(&trials, 0.9, 0.06).unwrap();
        assert_eq!(found.unseen.threshold.get().to_bits(), 0.02_f32.to_bits());
        assert_eq!((found.unseen.allowed, found.unseen.observed), (2, 2));
        let share = |rate: Option<Rate>| recorded(rate.unwrap().estimate);
        assert!((share(found.mated_reviewed) - 0.88).abs() < 1e-9);
        assert!((share(found.strangers_reviewed) - recorded(2.0 / 3.0)).abs() < 1e-9);
        for (best, decision, reviewed) in [
            (0.95, Decision::Accept, false),
            (0.5, Decision::Reject, true),
            (0.02, Decision::Reject, true),
            (0.01, Decision::Reject, false),
            (0.5, Decision::Undecided, false),
        ] {
            assert_eq!(found.holds(decision, Some(score(best))), reviewed, "{best}");
        }
        assert!(!found.holds(Decision::Reject, None));
    }

    #[test]
    fn a_wrong_label_is_saved_by_a_look_below_the_threshold_and_lost_above() {
        let mut mates = hundredths(100);
        mates[50].1 = false;
        let below = trials(&mates, &[0.5], StrangerOrigin::NeverEnrolled);
        let found = band(&below, 0.9, 0.06).unwrap();
        assert_eq!((found.unseen.lost, found.unseen.observed), (0, 2));
        // With one search for each label, the shares equal those that the certificate counts.
        let unseen = |trials: &Trials, band: &ReviewBand| {
            let low = band.unseen.threshold;
            let found = ReviewedShares::of(trials, Threshold::at(score(0.9)), low);
            assert_eq!(
                (found.mated, found.strangers),
                (band.mated_reviewed, band.strangers_reviewed)
            );
            found.unseen.unwrap().count.events()
        };
        assert_eq!(unseen(&below, &found), 2);
        mates[95].1 = false;
        let above = trials(&mates, &[0.5], StrangerOrigin::NeverEnrolled);
        let found = band(&above, 0.9, 0.06).unwrap();
        assert_eq!((found.unseen.lost, found.unseen.observed), (1, 2));
        assert_eq!(unseen(&above, &found), 2);
        assert_eq!(found.unseen.threshold.get().to_bits(), 0.01_f32.to_bits());
        // If mated searches had a part in the threshold, every wrong label counts as missed.
        let shared = trials(&mates, &[0.5], StrangerOrigin::LeftOut);
        let found = band(&shared, 0.9, 0.06).unwrap();
        assert_eq!((found.unseen.lost, found.unseen.observed), (2, 2));
    }

    #[test]
    fn without_need_the_band_is_empty_and_without_proof_there_is_none() {
        let trials = trials(&hundredths(100), &[], StrangerOrigin::NeverEnrolled);
        let found = band(&trials, 0.01, 0.06).unwrap();
        assert_eq!(found.unseen.threshold.get().to_bits(), 0.01_f32.to_bits());
        assert_eq!(found.unseen.observed, 1);
        assert!(!found.holds(Decision::Reject, Some(score(0.005))));
        assert!(found.mated_reviewed.unwrap().estimate.abs() < 1e-12);
        assert!(band(&trials, 0.9, 0.01).is_err());
    }
}
