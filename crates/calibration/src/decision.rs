//! The accept or reject rule, which compares a similarity with a calibrated threshold.

use std::cmp::Ordering;

use serde::{Deserialize, Serialize};

use super::CalibrationError;
use matchpoint_vector::Similarity;

/// The lowest similarity that is accepted.
///
/// Its value lies in [-1, 1], or just above 1. In the latter case nothing is accepted, which a [`Similarity`]
/// could not express. It is never NaN and never -0.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "f64", into = "f64")]
pub struct Threshold(f32);

/// The smallest `f32` above every similarity.
const ABOVE_EVERY_SCORE: f32 = 1.0_f32.next_up();

impl Threshold {
    /// The threshold that accepts every search with a candidate.
    pub const ACCEPT_ANYTHING_FOUND: Self = Self(-1.0);
    /// The threshold that accepts no search, not even an exact duplicate.
    pub const ACCEPT_NOTHING: Self = Self(ABOVE_EVERY_SCORE);

    /// Makes a threshold. A value outside [-1, 1] is replaced by the equivalent value inside, or just above 1.
    ///
    /// # Errors
    /// Returns an error for NaN.
    pub fn new(value: f32) -> Result<Self, CalibrationError> {
        if value.is_nan() {
            return Err(CalibrationError::NotAThreshold);
        }
        // Adding zero turns -0 into +0, so that equal thresholds have equal bits.
        Ok(Self(value.clamp(-1.0, ABOVE_EVERY_SCORE) + 0.0))
    }

    /// The threshold that accepts `score` and everything above it.
    #[must_use]
    pub fn at(score: Similarity) -> Self {
        Self(score.get() + 0.0)
    }

    /// The threshold that rejects `score` and accepts everything above it.
    #[must_use]
    pub fn just_above(score: Similarity) -> Self {
        Self((score.get() + 0.0).next_up())
    }

    /// The value: in [-1, 1], or the smallest `f32` above 1.
    #[must_use]
    pub fn get(self) -> f32 {
        self.0
    }

    /// Whether no similarity can reach this threshold.
    #[must_use]
    pub fn accepts_nothing(self) -> bool {
        1.0 < self.0
    }

    /// Accepts if the best score is at least the threshold. A search without a candidate is rejected.
    #[must_use]
    pub fn decide(self, best: Option<Similarity>) -> Decision {
        match best {
            Some(score) if self.0 <= score.get() => Decision::Accept,
            Some(_) | None => Decision::Reject,
        }
    }
}

impl std::fmt::Display for Threshold {
    /// Four decimals, or the words that nothing is accepted.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.accepts_nothing() {
            return f.write_str("none (accepts nothing)");
        }
        write!(f, "{:.4}", self.0)
    }
}

impl Eq for Threshold {}

impl Ord for Threshold {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.total_cmp(&other.0)
    }
}

impl PartialOrd for Threshold {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl From<Threshold> for f64 {
    /// Written as `f64`, so that a JSON reader that is off by one `f64` step still finds the same `f32`.
    fn from(threshold: Threshold) -> Self {
        Self::from(threshold.0)
    }
}

impl TryFrom<f64> for Threshold {
    type Error = CalibrationError;

    fn try_from(value: f64) -> Result<Self, CalibrationError> {
        #[expect(
            clippy::cast_possible_truncation,
            reason = "rounds to the nearest f32, as meant"
        )]
        Self::new(value as f32)
    }
}

/// The outcome of a search.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Decision {
    /// The best score is at or above the threshold.
    Accept,
    /// The best score is below the threshold, or nothing was found. This is an answer, not an error.
    Reject,
    /// There is no valid operating point.
    Undecided,
}

impl Decision {
    /// The name used in metrics and reports.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Accept => "accept",
            Self::Reject => "reject",
            Self::Undecided => "undecided",
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn score(value: f32) -> Similarity {
        Similarity::new(value).unwrap()
    }

    #[test]
    fn a_tie_is_accepted_and_one_step_below_is_not() {
        for value in [-1.0, -0.25, -0.0, 0.0, 0.1, 0.7, 1.0_f32.next_down()] {
            let threshold = Threshold::at(score(value));
            assert_eq!(threshold.decide(Some(score(value))), Decision::Accept);
            assert_eq!(
                threshold.decide(Some(score(value.next_up()))),
                Decision::Accept
            );
            if -1.0 < value {
                let below = score((value + 0.0).next_down());
                assert_eq!(threshold.decide(Some(below)), Decision::Reject);
            }
            let above = Threshold::just_above(score(value));
            assert_eq!(above.decide(Some(score(value))), Decision::Reject);
            assert_eq!(
                above.decide(Some(score((value + 0.0).next_up()))),
                Decision::Accept
            );
        }
        let zero = Threshold::new(0.0).unwrap();
        assert_eq!(zero.decide(Some(score(-0.0))), Decision::Accept);
        assert_eq!(
            Threshold::new(-0.0).unwrap().get().to_bits(),
            0.0_f32.to_bits()
        );
    }

    #[test]
    fn nothing_found_is_rejected_and_nan_is_no_threshold() {
        assert_eq!(
            Threshold::ACCEPT_ANYTHING_FOUND.decide(None),
            Decision::Reject
        );
        assert_eq!(
            Threshold::ACCEPT_ANYTHING_FOUND.decide(Some(score(-1.0))),
            Decision::Accept
        );
        assert!(Threshold::new(f32::NAN).is_err());
    }

    #[test]
    fn a_threshold_above_every_score_accepts_not_even_a_duplicate() {
        let above = Threshold::just_above(score(1.0));
        assert_eq!(above, Threshold::ACCEPT_NOTHING);
        assert!(above.accepts_nothing());
        assert!(!Threshold::at(score(1.0)).accepts_nothing());
        assert_eq!(above.decide(Some(score(1.0))), Decision::Reject);
        assert_eq!(
            Threshold::new(f32::INFINITY).unwrap(),
            Threshold::ACCEPT_NOTHING
        );
    }

    proptest! {
        #[test]
        fn raising_the_threshold_never_accepts_more(
            a in -1.1_f32..1.1, b in -1.1_f32..1.1, best in prop::option::of(-1.0_f32..=1.0)
        ) {
            let (low, high) = if a <= b { (a, b) } else { (b, a) };
            let best = best.map(score);
            if Threshold::new(high).unwrap().decide(best) == Decision::Accept {
                prop_assert_eq!(Threshold::new(low).unwrap().decide(best), Decision::Accept);
            }
        }

        #[test]
        fn a_threshold_survives_json_bit_for_bit(bits in any::<u32>()) {
            let value = f32::from_bits(bits);
            prop_assume!(!value.is_nan());
            for value in [value, value * 1e-38] {
                let threshold = Threshold::new(value).unwrap();
                let text = serde_json::to_string(&threshold).unwrap();
                let back: Threshold = serde_json::from_str(&text).unwrap();
                prop_assert_eq!(back.get().to_bits(), threshold.get().to_bits());
            }
        }
    }
}
