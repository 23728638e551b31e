//! Finds a threshold whose FAR is at most a target, with stated confidence, or refuses.
//!
//! It uses fixed-sequence Learn-then-Test (Angelopoulos and others, arXiv 2110.01052) with the exact binomial
//! tail. Thresholds are tried from the strictest down. Since the FAR can only grow on the way, no correction
//! for the number of thresholds is needed.

use std::cmp::Reverse;

use serde::{Deserialize, Serialize};

use super::CalibrationError;
use super::binomial::{self, real};
use super::decision::{Decision, Threshold};
use super::rates::{Confidence, recorded};
use super::refusal::Underpowered;
use super::target_rate::TARGET_MAX;
use super::trials::{OnePerLabel, Trials};
use matchpoint_vector::Similarity;

/// A target FAR per search. The promise is that the true FAR is at most `far`, with a probability of at least
/// `confidence` over the draw of the calibration trials.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "UncheckedTarget")]
pub struct TargetFar {
    far: f64,
    confidence: Confidence,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct UncheckedTarget {
    far: f64,
    confidence: f64,
}

impl TryFrom<UncheckedTarget> for TargetFar {
    type Error = CalibrationError;

    fn try_from(raw: UncheckedTarget) -> Result<Self, CalibrationError> {
        Self::new(raw.far, raw.confidence)
    }
}

impl TargetFar {
    /// Takes both values as fractions, such as 0.001 and 0.95.
    ///
    /// # Errors
    /// Returns an error for a FAR outside [1e-9, 0.5] and for a confidence outside [0.5, 1 - 1e-9].
    pub fn new(far: f64, confidence: f64) -> Result<Self, CalibrationError> {
        if !(1e-9..=TARGET_MAX).contains(&far) {
            return Err(CalibrationError::TargetFar { value: far });
        }
        Ok(Self {
            far: recorded(far),
            confidence: Confidence::new(confidence)?,
        })
    }

    /// The same target for one of so many certificates that all hold together with the present confidence.
    ///
    /// # Errors
    /// Returns the errors of [`Confidence::one_of`].
    pub fn one_of(self, certificates: usize) -> Result<Self, CalibrationError> {
        Ok(Self {
            confidence: self.confidence.one_of(certificates)?,
            ..self
        })
    }

    /// The highest allowed FAR, as a fraction.
    #[must_use]
    pub fn far(self) -> f64 {
        self.far
    }

    /// The probability that the promise is kept.
    #[must_use]
    pub fn confidence(self) -> Confidence {
        self.confidence
    }

    /// The least number of independent non-mated searches that can certify this target, if none of them is
    /// accepted: ln(delta) / ln(1 - far), rounded up.
    #[must_use]
    pub fn trials_needed(self) -> u64 {
        let mut low = 0;
        let mut high = 1;
        while !self.supported_by(0, high) {
            (low, high) = (high, high * 2);
        }
        while low + 1 < high {
            let middle = u64::midpoint(low, high);
            if self.supported_by(0, middle) {
                high = middle;
            } else {
                low = middle;
            }
        }
        high
    }

    /// The highest number of accepted strangers among `trials` independent ones that still certifies the
    /// target. `None` if even zero is too many.
    #[must_use]
    pub fn accepts_allowed(self, trials: u64) -> Option<u64> {
        if !self.supported_by(0, trials) {
            return None;
        }
        // The tail at `trials` accepts is 1, so this number never certifies anything.
        let (mut low, mut high) = (0, trials);
        while low + 1 < high {
            let middle = u64::midpoint(low, high);
            if self.supported_by(middle, trials) {
                low = middle;
            } else {
                high = middle;
            }
        }
        Some(low)
    }

    fn supported_by(self, accepts: u64, trials: u64) -> bool {
        // In floating point, 1 - 0.95 is not 0.05. The small factor makes an exact tie count as certified.
        let delta = self.confidence.delta() * (1.0 + 1e-12);
        0 < trials && binomial::cdf(accepts, trials, self.far) <= delta
    }
}

/// A certified threshold, with the figures of its proof.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Certificate {
    /// A score that is equal or higher is accepted.
    pub threshold: Threshold,
    /// The certified target.
    pub target: TargetFar,
    /// Number of independent non-mated searches, one for each label, whether or not they found a candidate.
    pub independent_trials: u64,
    /// The highest number of these searches that may be accepted.
    pub allowed: u64,
    /// The number of these searches that are accepted at the threshold. It is lower than `allowed` after a tie,
    /// or if fewer searches found anything.
    pub observed: u64,
    /// The upper bound on the FAR, at the confidence of the target: Clopper and Pearson's bound for `allowed`
    /// accepts, which is fixed before any score is known. After a tie, the bound for `observed` accepts would
    /// be lower, but it would be invalid because the scores decide about the tie.
    pub far_bound: f64,
}

/// Finds the lowest threshold that is certified whether or not labels that may be the same stranger
/// ([`Trials::with_repeats`]) really are. One certificate uses one probe of each label, and another uses one
/// probe of each group of such labels; the higher threshold is taken. The first certificate holds if the labels
/// are different strangers, and the second if they are the same. A higher threshold never accepts more.
///
/// # Errors
/// Returns an error if there are too few strangers in either case, even if none were accepted.
pub fn certify_either_way(
    trials: &Trials,
    seed: u64,
    target: TargetFar,
) -> Result<Certificate, Underpowered> {
    let apart = certify(&trials.one_probe_per_label(seed), target)?;
    if trials.repeats().is_empty() {
        return Ok(apart);
    }
    let together = certify(&trials.one_probe_per_stranger(seed), target)?;
    let far_bound = apart.far_bound.max(together.far_bound);
    let binding = if apart.threshold < together.threshold {
        together
    } else {
        apart
    };
    Ok(Certificate {
        far_bound,
        ..binding
    })
}

/// Finds the lowest threshold at which the strangers certify the target.
///
/// # Errors
/// Returns an error if there are too few strangers, even if none were accepted.
pub fn certify(
    strangers: &OnePerLabel<'_>,
    target: TargetFar,
) -> Result<Certificate, Underpowered> {
    let scores = strangers.searches().iter();
    let scores = scores.filter_map(|search| search.top_score).collect();
    certify_scores(scores, strangers.searches().len() as u64, target)
}

/// Like [`certify`], for the scores of any `independent_trials` non-mated trials, such as comparisons of
/// disjoint pairs of labels. Trials that found nothing have no score. The caller must make sure that the trials
/// are independent.
///
/// # Errors
/// Returns the errors of [`certify`].
pub fn certify_scores(
    mut scores: Vec<Similarity>,
    independent_trials: u64,
    target: TargetFar,
) -> Result<Certificate, Underpowered> {
    let Some(allowed) = target.accepts_allowed(independent_trials) else {
        return Err(Underpowered {
            independent_trials,
            scores: 1,
            needed: target.trials_needed(),
            far: target.far,
            growth: None,
            confidence: target.confidence.get(),
            best_supported_far: best_supported_far(independent_trials, target.confidence),
        });
    };
    scores.sort_unstable_by_key(|&score| Reverse(score));
    let first_too_many = usize::try_from(allowed)
        .ok()
        .and_then(|index| scores.get(index));
    let threshold = match first_too_many {
        Some(&score) => Threshold::just_above(score),
        None => Threshold::ACCEPT_ANYTHING_FOUND,
    };
    let observed = scores
        .iter()
        .filter(|&&score| threshold.decide(Some(score)) == Decision::Accept)
        .count() as u64;
    let delta = target.confidence.delta();
    Ok(Certificate {
        threshold,
        target,
        independent_trials,
        allowed,
        observed,
        far_bound: recorded(binomial::upper_bound(allowed, independent_trials, delta)),
    })
}

fn best_supported_far(trials: u64, confidence: Confidence) -> f64 {
    if trials == 0 {
        return 1.0;
    }
    -(confidence.delta().ln() / real(trials)).exp_m1()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::trials::{NonMatedSearch, StrangerOrigin, Trials};

    fn target(far: f64, confidence: f64) -> TargetFar {
        TargetFar::new(far, confidence).unwrap()
    }

    fn strangers(scores: &[Option<f32>]) -> Trials {
        let searches = scores
            .iter()
            .enumerate()
            .map(|(index, score)| NonMatedSearch {
                label: format!("label-{index}"),
                probe: format!("probe-{index}"),
                top_score: score.and_then(Similarity::new),
                origin: StrangerOrigin::NeverEnrolled,
            })
            .collect();
        Trials::new(vec![], searches).unwrap()
    }

    fn certified(scores: &[Option<f32>], target: TargetFar) -> Result<Certificate, Underpowered> {
        certify(&strangers(scores).one_probe_per_label(0), target)
    }

    /// Conformal risk control: the highest number of accepts with (accepts + 1) / (trials + 1) <= far.
    fn expected_only(trials: u64, far: f64) -> Option<u64> {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "small"
        )]
        let most = (far * real(trials + 1) + 1e-9).floor() as u64;
        most.checked_sub(1)
    }

    #[test]
    fn accepts_allowed_agree_with_the_reference_table() {
        let rows = [
            (3_000, 1e-3, Some(0), 2),
            (10_000, 1e-3, Some(4), 9),
            (100_000, 1e-3, Some(83), 99),
            (10_000, 1e-2, Some(83), 99),
            (100_000, 1e-4, Some(4), 9),
            (30_000, 1e-4, Some(0), 2),
            (2_000, 1e-3, None, 1),
        ];
        for (trials, far, allowed, in_expectation) in rows {
            assert_eq!(
                target(far, 0.95).accepts_allowed(trials),
                allowed,
                "{trials} at {far}"
            );
            assert_eq!(expected_only(trials, far), Some(in_expectation));
        }
    }

    #[test]
    fn trials_needed_are_exact() {
        let rows = [
            (1e-3, 0.95, 2_995),
            (0.1, 0.90, 22),
            (0.1, 0.95, 29),
            (0.1, 0.99, 44),
            (0.01, 0.90, 230),
            (0.01, 0.95, 299),
            (0.01, 0.99, 459),
            (1e-3, 0.90, 2_302),
            (1e-3, 0.99, 4_603),
            (1e-4, 0.90, 23_025),
            (1e-4, 0.95, 29_956),
            (1e-4, 0.99, 46_050),
            (0.5, 0.75, 2),
            (0.5, 0.5, 1),
        ];
        for (far, confidence, needed) in rows {
            let target = target(far, confidence);
            assert_eq!(target.trials_needed(), needed, "{far} at {confidence}");
            assert_eq!(target.accepts_allowed(needed), Some(0));
            assert_eq!(target.accepts_allowed(needed - 1), None);
        }
        assert!(2_000_000_000 < target(1e-9, 0.95).trials_needed());
    }

    #[test]
    fn too_few_labels_are_refused_with_what_they_could_support() {
        let refused = certified(&[Some(0.2); 2_994], target(1e-3, 0.95)).unwrap_err();
        assert_eq!((refused.independent_trials, refused.needed), (2_994, 2_995));
        assert!((refused.best_supported_far - (1.0 - 0.05_f64.powf(1.0 / 2_994.0))).abs() < 1e-12);
        let text = refused.to_string();
        assert!(
            text.contains("needs 2995 labels") && text.contains("there are 2994"),
            "{text}"
        );
        // 1 - 0.05^(1/2994) is 0.0010001; the advice rounds up to a value that can be entered.
        assert!(text.ends_with("or ask for FAR 0.101 % or more"), "{text}");
        let none = certified(&[], target(0.1, 0.9)).unwrap_err();
        assert!((none.best_supported_far - 1.0).abs() < f64::EPSILON);
        // Three labels support only rates above 0.5, which no target may have, so there is no such advice.
        for labels in [0, 3] {
            let few = certified(&vec![Some(0.2); labels], target(0.1, 0.95)).unwrap_err();
            assert!(!few.to_string().contains("ask for FAR"), "{few}");
        }
        let enough = vec![Some(0.2); 2_995];
        let far_bound = certified(&enough, target(1e-3, 0.95)).unwrap().far_bound;
        assert!(far_bound <= 1e-3);
        let rule_of_three = certified(&vec![Some(0.2); 3_000], target(1e-3, 0.95)).unwrap();
        assert!((rule_of_three.far_bound - 0.000_998_079_012).abs() < 1e-12);
    }

    #[test]
    fn the_threshold_is_one_step_above_the_first_stranger_too_many() {
        // With 100 trials, two accepts are allowed at FAR 0.06 and confidence 0.9.
        let mut scores: Vec<Option<f32>> =
            (0_u8..100).map(|i| Some(f32::from(i) / 100.0)).collect();
        let found = certified(&scores, target(0.06, 0.9)).unwrap();
        assert_eq!((found.allowed, found.observed), (2, 2));
        assert_eq!(
            found.threshold.get().to_bits(),
            0.97_f32.next_up().to_bits()
        );
        // Scores that tie across the limit must all be rejected.
        scores[98] = Some(0.97);
        let tied = certified(&scores, target(0.06, 0.9)).unwrap();
        assert_eq!((tied.allowed, tied.observed), (2, 1));
        assert!((tied.far_bound - found.far_bound).abs() < f64::EPSILON);
        // +0 and -0 are the same score.
        let zeros: Vec<Option<f32>> = (0..100)
            .map(|i| Some(if i % 2 == 0 { 0.0 } else { -0.0 }))
            .collect();
        assert_eq!(certified(&zeros, target(0.06, 0.9)).unwrap().observed, 0);
    }

    #[test]
    fn strangers_that_find_nothing_are_trials_that_are_never_accepted() {
        let mut scores = vec![None; 98];
        scores.extend([Some(0.9), Some(0.8)]);
        let found = certified(&scores, target(0.06, 0.9)).unwrap();
        assert_eq!(found.threshold, Threshold::ACCEPT_ANYTHING_FOUND);
        assert_eq!((found.independent_trials, found.observed), (100, 2));
        scores.push(Some(0.7));
        let found = certified(&scores, target(0.06, 0.9)).unwrap();
        assert_eq!(found.threshold.get().to_bits(), 0.7_f32.next_up().to_bits());
    }

    #[test]
    fn duplicates_among_strangers_leave_a_threshold_that_accepts_nothing() {
        let found = certified(&[Some(1.0); 22], target(0.1, 0.9)).unwrap();
        assert!(found.threshold.accepts_nothing());
        assert_eq!(found.observed, 0);
    }

    #[test]
    fn targets_out_of_range_are_refused() {
        for (far, confidence) in [
            (0.0, 0.9),
            (0.51, 0.9),
            (f64::NAN, 0.9),
            (0.1, 1.0),
            (0.1, 0.4),
        ] {
            assert!(TargetFar::new(far, confidence).is_err());
        }
    }

    proptest! {
        #[test]
        fn certainty_costs_more_than_expectation_which_costs_more_than_the_naive_quantile(
            trials in 1_u64..20_000, far in 1e-4_f64..0.5, confidence in 0.8_f64..0.999
        ) {
            let certain = target(far, confidence).accepts_allowed(trials);
            let expected = expected_only(trials, far);
            prop_assert!(certain <= expected);
            prop_assert!(real(expected.unwrap_or(0)) <= (far * real(trials) + 1e-9).floor());
            if let Some(allowed) = certain {
                prop_assert!(binomial::upper_bound(allowed, trials, 1.0 - confidence) <= far + 1e-9);
                let more = binomial::upper_bound(allowed + 1, trials, 1.0 - confidence);
                prop_assert!(far - 1e-9 < more);
            }
        }

        #[test]
        fn no_more_than_allowed_are_accepted_whatever_the_ties(
            levels in prop::collection::vec(prop::option::of(-5_i8..=5), 30..80),
            far in 0.1_f64..0.5
        ) {
            let scores: Vec<Option<f32>> =
                levels.iter().map(|level| level.map(|l| f32::from(l) / 5.0)).collect();
            let Ok(found) = certified(&scores, target(far, 0.9)) else { return Ok(()) };
            prop_assert!(found.observed <= found.allowed);
            prop_assert!(found.far_bound <= far + 1e-9);
        }
    }
}
