//! The review band: scores just below the threshold, on which a person decides.
//!
//! A rule with a reject option (Chow 1970) on top of the accept rule. The threshold stays the one that
//! the strangers prove; a second, lower one is taken from the mates alone: as high as it can be while
//! few enough of them are turned away unseen. What lies between goes to a person.

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

/// The scores that a person decides, with what is promised of those that nobody sees.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReviewBand {
    /// The low end of the band, its threshold, and the proof. What is counted there as missed is a mated
    /// search that is rejected unseen, or accepted with a wrong label; `lost` are those beyond any low
    /// end.
    pub unseen: FrrCertificate,
    /// Share of the mated searches that a person gets to see.
    pub mated_reviewed: Option<Rate>,
    /// Share of the non-mated searches that a person gets to see.
    pub strangers_reviewed: Option<Rate>,
}

impl ReviewBand {
    /// Finds the narrowest band below `accept` with which the mated searches prove the target. It is
    /// empty if they do without one.
    ///
    /// `accept` must not be chosen by the mated searches: the two promises then hold each with its own
    /// confidence. Where enrolled labels stood for strangers it nearly is; so a wrong label counts as
    /// missed there whatever its score, which makes `accept` of no account.
    ///
    /// # Errors
    /// Refuses if even a band down to the lowest score would prove too little, as
    /// [`certify_frr`](super::certify_frr::certify_frr) does.
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

    /// Whether a person decides on a search that this comes of.
    #[must_use]
    pub fn holds(&self, decision: Decision, score: Option<Similarity>) -> bool {
        decision == Decision::Reject
            && score.is_some_and(|score| accepts(self.unseen.threshold, score))
    }
}

/// What a band makes of searches whose truth is known.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct ReviewedShares {
    /// Share of the mated searches that a person gets to see.
    pub mated: Option<Rate>,
    /// Share of the non-mated searches that a person gets to see.
    pub strangers: Option<Rate>,
    /// Share of the mated searches that are rejected unseen, or accepted with a wrong label.
    pub unseen: Option<Rate>,
}

impl ReviewedShares {
    /// Of a band from `low` up to `accept`.
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

    /// One search for each label, with whether its best candidate has it.
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
        // 100 trials allow two misses at 0.06, confidence 0.9.
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
        // One search a label: the shares are those that the proof counted.
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
        // Where mates had a part in the threshold, every wrong label counts.
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
