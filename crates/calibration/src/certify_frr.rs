//! Finds a threshold whose FRR is at most a target, with stated confidence, or refuses.
//!
//! It mirrors [`super::certify`]: thresholds are tried from the loosest up, and the FRR can only grow on the
//! way. One thing differs. A mated search whose best candidate is wrong or missing is an error at every
//! threshold, so a target can be unattainable with any number of labels.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::CalibrationError;
use super::binomial::{self, real};
use super::certify::TargetFar;
use super::decision::Threshold;
use super::rates::{Confidence, recorded};
use super::refusal::FrrRefused;
use super::seeded_hash::seeded_hash;
use super::target_rate::TARGET_MAX;
use super::trials::{MatedSearch, Trials};
use matchpoint_vector::Similarity;

/// A target FRR per search, which includes accepts with a wrong label. The promise is that the true FRR is at
/// most `frr`, with a probability of at least `confidence` over the draw of the calibration trials.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "TargetFrrFields", into = "TargetFrrFields")]
pub struct TargetFrr {
    /// The binomial problem is the same as for the FAR, with missed mates in place of accepted strangers.
    missed: TargetFar,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct TargetFrrFields {
    frr: f64,
    confidence: f64,
}

impl TryFrom<TargetFrrFields> for TargetFrr {
    type Error = CalibrationError;

    fn try_from(raw: TargetFrrFields) -> Result<Self, CalibrationError> {
        Self::new(raw.frr, raw.confidence)
    }
}

impl From<TargetFrr> for TargetFrrFields {
    fn from(target: TargetFrr) -> Self {
        Self {
            frr: target.frr(),
            confidence: target.confidence().get(),
        }
    }
}

impl TargetFrr {
    /// Takes both values as fractions, such as 0.05 and 0.95.
    ///
    /// # Errors
    /// Returns an error for an FRR outside [1e-9, 0.5] and for a confidence outside [0.5, 1 - 1e-9].
    pub fn new(frr: f64, confidence: f64) -> Result<Self, CalibrationError> {
        if !(1e-9..=TARGET_MAX).contains(&frr) {
            return Err(CalibrationError::TargetFrr { value: frr });
        }
        Ok(Self {
            missed: TargetFar::new(frr, confidence)?,
        })
    }

    /// The same target for one of so many certificates that all hold together with the present confidence.
    ///
    /// # Errors
    /// Returns the errors of [`Confidence::one_of`].
    pub fn one_of(self, certificates: usize) -> Result<Self, CalibrationError> {
        Ok(Self {
            missed: self.missed.one_of(certificates)?,
        })
    }

    /// The highest allowed FRR, as a fraction.
    #[must_use]
    pub fn frr(self) -> f64 {
        self.missed.far()
    }

    /// The probability that the promise is kept.
    #[must_use]
    pub fn confidence(self) -> Confidence {
        self.missed.confidence()
    }

    /// The highest number of missed mates among `trials` independent mated searches that still certifies the
    /// target. `None` if even zero is too many.
    #[must_use]
    pub fn misses_allowed(self, trials: u64) -> Option<u64> {
        self.missed.accepts_allowed(trials)
    }

    /// The least number of independent mated searches that can certify this target, if the share that no
    /// threshold can save stays `lost` / `of`. `None` if this share is at least the target, or if the number
    /// exceeds 2^40.
    #[must_use]
    pub fn trials_needed(self, lost: u64, of: u64) -> Option<u64> {
        let share = if of == 0 { 0.0 } else { real(lost) / real(of) };
        if self.frr() <= share {
            return None;
        }
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a share of at most 2^40 trials"
        )]
        let enough = |trials: u64| {
            let expected = (share * real(trials) - 1e-9).ceil() as u64;
            self.misses_allowed(trials)
                .is_some_and(|allowed| expected <= allowed)
        };
        let (mut low, mut high) = (0, self.missed.trials_needed());
        while !enough(high) {
            (low, high) = (high, high * 2);
            if 1 << 40 < high {
                return None;
            }
        }
        // Because counts are integers, the condition is not exactly monotone; any number that satisfies it is a
        // valid answer.
        while low + 1 < high {
            let middle = u64::midpoint(low, high);
            if enough(middle) {
                high = middle;
            } else {
                low = middle;
            }
        }
        Some(high)
    }
}

/// Mated searches of distinct labels, sampled without regard to score, in the order of the labels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OneMatedPerLabel<'a>(Vec<&'a MatedSearch>);

impl<'a> OneMatedPerLabel<'a> {
    /// Draws one mated search for each label by a hash of seed, label and probe, never by score.
    #[must_use]
    pub fn sampled(trials: &'a Trials, seed: u64) -> Self {
        let mut drawn: BTreeMap<&str, ([u8; 32], &MatedSearch)> = BTreeMap::new();
        for search in trials.mated() {
            let hash = seeded_hash(seed, &[&search.label, &search.probe]);
            let slot = drawn.entry(&search.label).or_insert((hash, search));
            if hash < slot.0 {
                *slot = (hash, search);
            }
        }
        Self(drawn.into_values().map(|(_, search)| search).collect())
    }

    /// The searches, one for each label.
    #[must_use]
    pub fn searches(&self) -> &[&'a MatedSearch] {
        &self.0
    }
}

/// A certified threshold, with the figures of its proof.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FrrCertificate {
    /// A score that is equal or higher is accepted.
    pub threshold: Threshold,
    /// The certified target.
    pub target: TargetFrr,
    /// Number of independent mated searches, one for each label.
    pub independent_trials: u64,
    /// The highest number of these searches that may be missed.
    pub allowed: u64,
    /// The number of these searches that are missed at the threshold; lower than `allowed` after a tie.
    pub observed: u64,
    /// The part of `observed` that is missed at every threshold, because the best candidate was wrong or
    /// missing.
    pub lost: u64,
    /// The upper bound on the FRR, at the confidence of the target: Clopper and Pearson's bound for `allowed`
    /// misses, which is fixed before any score is known.
    pub frr_bound: f64,
    /// The upper bound on the share that is missed at every threshold, at the same confidence; `None` in older
    /// records.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lost_bound: Option<f64>,
}

impl FrrCertificate {
    /// [`FrrCertificate::lost_bound`], computed again if an older record lacks it.
    #[must_use]
    pub fn lost_at_most(&self) -> f64 {
        let delta = self.target.confidence().delta();
        let bound = || binomial::upper_bound(self.lost, self.independent_trials, delta);
        self.lost_bound.unwrap_or_else(bound)
    }
}

/// Finds the highest threshold at which the mated searches certify the target.
///
/// If all enrolled labels were searched for, and not a sample of them, the number of misses varies less than a
/// binomial one, so the bound is conservative (Hoeffding 1956).
///
/// # Errors
/// Returns an error if even accepting everything would not certify the target; the error says whether more
/// labels could change that.
pub fn certify_frr(
    mated: &OneMatedPerLabel<'_>,
    target: TargetFrr,
) -> Result<FrrCertificate, FrrRefused> {
    let searches = mated.searches();
    let saved = searches.iter().filter_map(|search| search.right_score());
    let scores = MatedScores {
        saved: saved.collect(),
        searches: searches.len() as u64,
    };
    highest_threshold(scores, target)
}

/// Independent mated searches, reduced to what a threshold can change.
pub(super) struct MatedScores {
    /// The scores of those whose best candidate is right, in any order.
    pub(super) saved: Vec<Similarity>,
    /// Number of all searches; those without a score here are errors at every threshold.
    pub(super) searches: u64,
}

/// The highest threshold at which few enough searches are missed to certify the target.
pub(super) fn highest_threshold(
    scores: MatedScores,
    target: TargetFrr,
) -> Result<FrrCertificate, FrrRefused> {
    let MatedScores {
        mut saved,
        searches: independent_trials,
    } = scores;
    saved.sort_unstable();
    let lost = independent_trials - saved.len() as u64;
    let refused = || refusal(target, independent_trials, lost);
    let allowed = target
        .misses_allowed(independent_trials)
        .ok_or_else(refused)?;
    let rejects = allowed.checked_sub(lost).ok_or_else(refused)?;
    // The lowest score that has to be accepted. It exists, because a target never allows all trials to be
    // missed.
    let kept = usize::try_from(rejects)
        .ok()
        .and_then(|index| saved.get(index))
        .ok_or_else(refused)?;
    let rejected = saved.partition_point(|score| score < kept) as u64;
    let delta = target.confidence().delta();
    Ok(FrrCertificate {
        threshold: Threshold::at(*kept),
        target,
        independent_trials,
        allowed,
        observed: lost + rejected,
        lost,
        frr_bound: recorded(binomial::upper_bound(allowed, independent_trials, delta)),
        lost_bound: Some(recorded(binomial::upper_bound(
            lost,
            independent_trials,
            delta,
        ))),
    })
}

fn refusal(target: TargetFrr, independent_trials: u64, lost: u64) -> FrrRefused {
    let delta = target.confidence().delta();
    let best_supported_frr = if independent_trials == 0 {
        1.0
    } else {
        binomial::upper_bound(lost, independent_trials, delta)
    };
    let share_at_least = binomial::lower_bound(lost, independent_trials, delta);
    if target.frr() < share_at_least {
        return FrrRefused::Unattainable {
            frr: target.frr(),
            confidence: target.confidence().get(),
            independent_trials,
            lost,
            share_at_least,
            best_supported_frr,
        };
    }
    FrrRefused::Underpowered {
        frr: target.frr(),
        confidence: target.confidence().get(),
        independent_trials,
        lost,
        needed: target.trials_needed(lost, independent_trials),
        best_supported_frr,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;
    use crate::decision::Decision;
    use crate::trials::Top;

    const ORACLE: &str = include_str!("../tests/fixtures/oracle/policies.json");

    fn target(frr: f64, confidence: f64) -> TargetFrr {
        TargetFrr::new(frr, confidence).unwrap()
    }

    /// One search for each label; `None` means that the best candidate has a wrong label.
    fn mates(scores: &[Option<f32>]) -> Trials {
        let searches = scores.iter().enumerate().map(|(i, score)| MatedSearch {
            label: format!("m{i}"),
            probe: format!("p{i}"),
            top: Some(Top {
                score: Similarity::new(score.unwrap_or(0.99)).unwrap(),
                label_matches: score.is_some(),
            }),
        });
        Trials::new(searches.collect(), vec![]).unwrap()
    }

    fn certified(scores: &[Option<f32>], target: TargetFrr) -> Result<FrrCertificate, FrrRefused> {
        certify_frr(&OneMatedPerLabel::sampled(&mates(scores), 0), target)
    }

    #[expect(clippy::cast_possible_truncation, reason = "scores are f32")]
    fn score(value: &Value) -> Option<f32> {
        value.as_f64().map(|score| score as f32)
    }

    #[test]
    fn thresholds_agree_with_mapie() {
        let oracle: Value = serde_json::from_str(ORACLE).unwrap();
        for case in oracle["frr"].as_array().unwrap() {
            let at = target(
                case["target"].as_f64().unwrap(),
                case["confidence"].as_f64().unwrap(),
            );
            let scores: Vec<_> = case["scores"]
                .as_array()
                .unwrap()
                .iter()
                .map(score)
                .collect();
            assert_eq!(
                at.misses_allowed(scores.len() as u64),
                case["allowed"].as_u64()
            );
            let found = certified(&scores, at)
                .ok()
                .map(|found| found.threshold.get().to_bits());
            assert_eq!(found, score(&case["threshold"]).map(f32::to_bits), "{at:?}");
        }
    }

    #[test]
    fn the_threshold_is_the_first_mate_that_has_to_be_accepted() {
        // With 100 trials, two misses are allowed at FRR 0.06 and confidence 0.9.
        let mut scores: Vec<_> = (0_u8..100).map(|i| Some(f32::from(i) / 100.0)).collect();
        let found = certified(&scores, target(0.06, 0.9)).unwrap();
        assert_eq!((found.allowed, found.observed, found.lost), (2, 2, 0));
        assert_eq!(found.threshold.get().to_bits(), 0.02_f32.to_bits());
        assert!(found.frr_bound <= 0.06);
        // Scores that tie across the limit are all accepted.
        scores[1] = Some(0.02);
        assert_eq!(certified(&scores, target(0.06, 0.9)).unwrap().observed, 1);
        // A search that is missed at every threshold uses up the allowance.
        scores[50] = None;
        let found = certified(&scores, target(0.06, 0.9)).unwrap();
        assert_eq!((found.observed, found.lost), (2, 1));
        scores[51] = None;
        let found = certified(&scores, target(0.06, 0.9)).unwrap();
        assert_eq!((found.observed, found.lost), (2, 2));
        assert_eq!(found.threshold.get().to_bits(), 0.0_f32.to_bits());
        scores[52] = None;
        assert!(certified(&scores, target(0.06, 0.9)).is_err());
    }

    #[test]
    fn too_few_labels_and_too_many_lost_are_different_answers() {
        let refused = certified(&[Some(0.5); 21], target(0.1, 0.9)).unwrap_err();
        let FrrRefused::Underpowered {
            needed,
            best_supported_frr,
            ..
        } = refused
        else {
            panic!("{refused}")
        };
        assert_eq!(needed, Some(22));
        assert!((best_supported_frr - (1.0 - 0.1_f64.powf(1.0 / 21.0))).abs() < 1e-12);
        assert!(refused.to_string().contains("needs 22 labels"), "{refused}");

        let mut scores = vec![Some(0.5); 40];
        scores[..2].fill(None);
        let refused = certified(&scores, target(0.1, 0.9)).unwrap_err();
        let FrrRefused::Underpowered {
            needed: Some(needed),
            ..
        } = refused
        else {
            panic!("{refused}")
        };
        let enough = |labels: u64| {
            let lost = labels.div_ceil(20);
            let scores: Vec<_> = (0..labels).map(|i| (lost <= i).then_some(0.5)).collect();
            certified(&scores, target(0.1, 0.9)).is_ok()
        };
        assert!(enough(needed) && !enough(40), "{needed}");

        let refused = certified(&[None, None, Some(0.5), Some(0.6)], target(0.1, 0.9));
        assert!(
            refused
                .unwrap_err()
                .to_string()
                .contains("no threshold keeps FRR 10 %: 2 of 4")
        );
        let unclear = certified(&[None, Some(0.5), Some(0.6)], target(0.2, 0.9)).unwrap_err();
        assert!(
            matches!(unclear, FrrRefused::Underpowered { needed: None, .. }),
            "{unclear}"
        );
        let none = certified(&[], target(0.1, 0.9)).unwrap_err();
        assert!(none.to_string().contains("needs 22 labels"), "{none}");
        assert!(!none.to_string().contains("ask for FRR"), "{none}");
        let advice = refused_at(21);
        assert!(
            advice.contains("new labels") && !advice.contains("10.4"),
            "{advice}"
        );
    }

    /// What the refusal of an FRR must not advise: labels are added to those that were seen, until the target is
    /// certified. The rate is that of searches that are lost at every threshold, just above the target.
    #[test]
    #[expect(clippy::print_stderr, reason = "the figures of docs/promise.md")]
    fn labels_that_are_added_until_an_frr_is_certified_break_its_promise_as_documented() {
        const RUNS: u32 = 20_000;
        let target = target(0.05, 0.95);
        let mut state = 5;
        let mut certified_by = [0_u32; 5];
        for _ in 0..RUNS {
            let (mut lost, mut done) = (0, false);
            for (look, certified) in certified_by.iter_mut().enumerate() {
                for _ in 0..181 {
                    let drawn = crate::splitmix64::next(&mut state) >> 32;
                    lost += u64::from(drawn < (1 << 32) * 501 / 10_000);
                }
                let allowed = target.misses_allowed(181 * (look as u64 + 1));
                done |= allowed.is_some_and(|allowed| lost <= allowed);
                *certified += u32::from(done);
            }
        }
        let shares = certified_by.map(|count| f64::from(count) / f64::from(RUNS));
        eprintln!("an FRR of 5.01 % is certified as 5 % by look 1 to 5: {shares:.4?}");
        assert!(shares[0] <= 0.05 + 0.005);
        assert!(0.065 < shares[1] && 0.09 < shares[4]);
    }

    fn refused_at(labels: usize) -> String {
        let refused = certified(&vec![Some(0.5); labels], target(0.1, 0.9));
        refused.unwrap_err().to_string()
    }

    #[test]
    fn one_probe_of_each_label_counts_and_neither_order_nor_score_decides_which() {
        let search = |label: &str, probe: &str, score| MatedSearch {
            label: label.into(),
            probe: probe.into(),
            top: Similarity::new(score).map(|score| Top {
                score,
                label_matches: true,
            }),
        };
        let probes = ["p", "q", "r", "s"];
        let of = |reversed: bool, sign: f32| {
            let mut all: Vec<_> = ["a", "b", "c"]
                .iter()
                .flat_map(|label| {
                    probes
                        .iter()
                        .zip([0.1, 0.2, 0.3, 0.4])
                        .map(move |(probe, score)| {
                            search(label, &format!("{label}{probe}"), sign * score)
                        })
                })
                .collect();
            if reversed {
                all.reverse();
            }
            Trials::new(all, vec![]).unwrap()
        };
        let drawn = |trials: &Trials, seed| {
            let drawn = OneMatedPerLabel::sampled(trials, seed);
            drawn
                .searches()
                .iter()
                .map(|s| s.probe.clone())
                .collect::<Vec<_>>()
        };
        let first = drawn(&of(false, 1.0), 1);
        assert_eq!(first.len(), 3);
        assert_eq!(first, drawn(&of(true, 1.0), 1));
        assert_eq!(first, drawn(&of(false, -1.0), 1));
        assert!((2..20).any(|seed| drawn(&of(false, 1.0), seed) != first));
    }

    #[test]
    fn targets_out_of_range_are_refused_and_others_survive_json() {
        for (frr, confidence) in [(0.0, 0.9), (0.6, 0.9), (f64::NAN, 0.9), (0.1, 0.4)] {
            assert!(TargetFrr::new(frr, confidence).is_err());
        }
        let text = serde_json::to_string(&target(0.05, 0.95)).unwrap();
        assert_eq!(text, r#"{"frr":0.05,"confidence":0.95}"#);
        assert_eq!(
            serde_json::from_str::<TargetFrr>(&text).unwrap(),
            target(0.05, 0.95)
        );
        assert!(serde_json::from_str::<TargetFrr>(r#"{"frr":0.9,"confidence":0.95}"#).is_err());
    }

    proptest! {
        #[test]
        fn no_more_than_allowed_are_missed_and_one_step_up_or_a_tie_is_why(
            levels in prop::collection::vec(prop::option::weighted(0.97, -5_i8..=5), 30..80),
            frr in 0.1_f64..0.5
        ) {
            let scores: Vec<_> = levels.iter().map(|l| l.map(|l| f32::from(l) / 5.0)).collect();
            let Ok(found) = certified(&scores, target(frr, 0.9)) else { return Ok(()) };
            let missed = |threshold: Threshold| scores
                .iter()
                .filter(|score| {
                    let best = score.and_then(Similarity::new);
                    threshold.decide(best) == Decision::Reject
                })
                .count() as u64;
            prop_assert_eq!(missed(found.threshold), found.observed);
            prop_assert!(found.observed <= found.allowed && found.frr_bound <= frr + 1e-9);
            let kept = Similarity::new(found.threshold.get()).unwrap();
            prop_assert!(found.allowed < missed(Threshold::just_above(kept)));
        }
    }
}
