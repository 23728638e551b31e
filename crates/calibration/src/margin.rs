//! The margin score: how much better the best match is than the best item of another label.
//!
//! A stranger who resembles one enrolled thing often resembles similar things too, whereas a mated probe is far
//! closer to its own label than to any other. So a multiple of the similarity to the best item of another label
//! is subtracted from that of the best match.

use serde::{Deserialize, Serialize};

use super::CalibrationError;
use super::rates::recorded;
use matchpoint_vector::Similarity;

/// The multiple of the best similarity to another label that is subtracted: above 0, at most 1.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "f64", into = "f64")]
pub struct MarginFactor(f64);

impl MarginFactor {
    /// The default of three quarters.
    pub const DEFAULT: Self = Self(0.75);

    /// Takes the factor.
    ///
    /// # Errors
    /// Returns an error unless the factor is above 0 and at most 1.
    pub fn new(factor: f64) -> Result<Self, CalibrationError> {
        if !(1e-6..=1.0).contains(&factor) {
            return Err(CalibrationError::MarginFactor { value: factor });
        }
        Ok(Self(recorded(factor)))
    }

    /// The factor.
    #[must_use]
    pub fn get(self) -> f64 {
        self.0
    }

    /// The difference best - factor x other. To the last bit, it never falls as `best` rises and never rises as
    /// `other` rises.
    #[must_use]
    pub fn left_of(self, best: f64, other: f64) -> f64 {
        best - self.0 * other
    }

    /// The margin score, in [-1, 1] as a similarity: (best - factor x other) / (1 + factor).
    #[must_use]
    pub fn score(self, best: Similarity, other: Similarity) -> Similarity {
        let left = self.left_of(f64::from(best.get()), f64::from(other.get()));
        #[expect(
            clippy::cast_possible_truncation,
            reason = "rounds to the nearest f32, as meant; at most 1 in magnitude"
        )]
        let scaled = (left / (1.0 + self.0)).clamp(-1.0, 1.0) as f32;
        // Never NaN, because both are similarities.
        Similarity::new(scaled + 0.0).unwrap_or(best)
    }
}

impl Default for MarginFactor {
    fn default() -> Self {
        Self::DEFAULT
    }
}

impl TryFrom<f64> for MarginFactor {
    type Error = CalibrationError;

    fn try_from(factor: f64) -> Result<Self, CalibrationError> {
        Self::new(factor)
    }
}

impl From<MarginFactor> for f64 {
    fn from(factor: MarginFactor) -> Self {
        factor.0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn similarity(value: f32) -> Similarity {
        Similarity::new(value).unwrap()
    }

    #[test]
    fn what_stands_out_scores_higher_than_what_has_a_neighbour() {
        let half = MarginFactor::new(0.5).unwrap();
        let score = |best, other| half.score(similarity(best), similarity(other)).get();
        assert!((score(0.9, 0.0) - 0.6).abs() < 1e-6);
        assert!((score(0.9, 0.9) - 0.3).abs() < 1e-6);
        assert!((score(1.0, -1.0) - 1.0).abs() < 1e-6);
        for factor in [0.0, -0.1, 1.1, f64::NAN] {
            assert!(MarginFactor::new(factor).is_err());
        }
        let text = serde_json::to_string(&MarginFactor::DEFAULT).unwrap();
        assert_eq!(text, "0.75");
        assert!(serde_json::from_str::<MarginFactor>("2").is_err());
    }

    /// The best score of each label, with the label.
    fn decided(of_labels: &[(u8, f32)], factor: MarginFactor) -> Option<(u8, Similarity)> {
        let (label, best) = *of_labels.iter().max_by(|a, b| a.1.total_cmp(&b.1))?;
        let others = of_labels.iter().filter(|(other, _)| *other != label);
        let other = others.map(|(_, score)| *score).max_by(f32::total_cmp)?;
        Some((label, factor.score(similarity(best), similarity(other))))
    }

    proptest! {
        /// The bound for larger galleries relies on this: if a gallery accepts a search, one of its parts
        /// accepts it.
        #[test]
        fn a_gallery_accepts_no_more_than_its_parts_do(
            scores in prop::collection::vec((0_u8..6, -1.0_f32..=1.0), 4..40),
            cut in any::<prop::sample::Index>(), factor in 0.01_f64..=1.0
        ) {
            let factor = MarginFactor::new(factor).unwrap();
            // At least two in each part.
            let (first, second) = scores.split_at(2 + cut.index(scores.len() - 3));
            let parts = [decided(first, factor), decided(second, factor)];
            let (Some(a), Some(b)) = (parts[0], parts[1]) else { return Ok(()) };
            let (_, whole) = decided(&scores, factor).unwrap();
            prop_assert!(whole <= a.1.max(b.1), "{whole:?} above both parts");
        }

        /// The promise under a filter relies on this: the best of some items, minus a multiple of the best of
        /// another label among all items, never scores higher than the best of all items.
        #[test]
        fn some_items_accept_no_more_than_all_do(
            scores in prop::collection::vec((0_u8..6, -1.0_f32..=1.0), 2..40),
            chosen in any::<prop::sample::Index>(), factor in 0.01_f64..=1.0
        ) {
            let factor = MarginFactor::new(factor).unwrap();
            let Some((_, all)) = decided(&scores, factor) else { return Ok(()) };
            let (label, best) = scores[chosen.index(scores.len())];
            let others = scores.iter().filter(|(other, _)| *other != label);
            let other = others.map(|(_, score)| *score).max_by(f32::total_cmp).unwrap();
            let some = factor.score(similarity(best), similarity(other));
            prop_assert!(some <= all);
        }
    }
}
