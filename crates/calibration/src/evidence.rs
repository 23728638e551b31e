//! Converts scores to log-likelihood ratios, and measures how much information they carry.
//!
//! The method is that of Bosaris (Brümmer and de Villiers, arXiv 1304.2865): scores are calibrated once, and
//! then each set of costs and priors has its threshold without new trials.

use serde::{Deserialize, Serialize};

use super::CalibrationError;
use super::binomial::real;
use super::decision::Threshold;
use super::rates::recorded;
use matchpoint_vector::Similarity;

/// The probability that a search is mated, before its score is seen; in [1e-9, 1 - 1e-9].
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(try_from = "f64", into = "f64")]
pub struct Prior(f64);

impl Prior {
    /// As many mated as non-mated searches. A scale that is fitted at this prior can be used at every other.
    pub const EVEN: Self = Self(0.5);

    /// Takes the probability as a fraction, such as 0.01.
    ///
    /// # Errors
    /// Returns an error for a value outside [1e-9, 1 - 1e-9].
    pub fn new(value: f64) -> Result<Self, CalibrationError> {
        if !(1e-9..=1.0 - 1e-9).contains(&value) {
            return Err(CalibrationError::Prior { value });
        }
        Ok(Self(recorded(value)))
    }

    /// The probability as a fraction.
    #[must_use]
    pub fn get(self) -> f64 {
        self.0
    }

    /// The log odds, ln(P / (1 - P)).
    pub(super) fn log_odds(self) -> f64 {
        self.0.ln() - (-self.0).ln_1p()
    }
}

impl From<Prior> for f64 {
    fn from(prior: Prior) -> Self {
        prior.0
    }
}

impl TryFrom<f64> for Prior {
    type Error = CalibrationError;

    fn try_from(value: f64) -> Result<Self, CalibrationError> {
        Self::new(value)
    }
}

/// Scores or log-likelihood ratios of mated and non-mated searches. All are finite, and there is at least one
/// of each kind.
#[derive(Clone, Debug, PartialEq)]
pub struct ScoreEvidence {
    mated: Vec<f64>,
    non_mated: Vec<f64>,
}

/// Infinite ratios are clamped to this many nats: more than any number of trials can show, and small enough to
/// add up.
const LLR_MAX: f64 = 1e6;

impl ScoreEvidence {
    /// Takes the values of mated and of non-mated searches. Values beyond +-1e6 are clamped.
    ///
    /// # Errors
    /// Returns an error for NaN, and if there are no values of one kind.
    pub fn new(mated: Vec<f64>, non_mated: Vec<f64>) -> Result<Self, CalibrationError> {
        for (kind, values) in [("mated", &mated), ("non-mated", &non_mated)] {
            if values.is_empty() {
                return Err(CalibrationError::NoEvidence { kind });
            }
            if values.iter().any(|value| value.is_nan()) {
                return Err(CalibrationError::NotAScore { kind });
            }
        }
        let clamped = |values: Vec<f64>| {
            let within = |value: f64| value.clamp(-LLR_MAX, LLR_MAX);
            values.into_iter().map(within).collect()
        };
        Ok(Self {
            mated: clamped(mated),
            non_mated: clamped(non_mated),
        })
    }

    /// The same evidence, with each value converted by `scale`.
    pub(super) fn map(&self, scale: impl Fn(f64) -> f64) -> Self {
        let within = |value: &f64| scale(*value).clamp(-LLR_MAX, LLR_MAX);
        Self {
            mated: self.mated.iter().map(within).collect(),
            non_mated: self.non_mated.iter().map(within).collect(),
        }
    }

    /// The cost of log-likelihood ratios over all priors (Cllr), in bits: 0 for perfect ratios, 1 for ratios
    /// without information, and more for misleading ones.
    #[must_use]
    pub fn cllr(&self) -> f64 {
        let mated = mean(self.mated.iter().map(|&llr| softplus(-llr)));
        let non_mated = mean(self.non_mated.iter().map(|&llr| softplus(llr)));
        (mated + non_mated) / (2.0 * std::f64::consts::LN_2)
    }

    /// The lowest Cllr that any non-decreasing map of these values can reach, in [0, 1], found by pooling
    /// adjacent violators (PAV). It measures how well the scores separate the two kinds, whatever their scale.
    #[must_use]
    pub fn min_cllr(&self) -> f64 {
        let counts = (self.mated.len() as u64, self.non_mated.len() as u64);
        let prior_odds = real(counts.0) / real(counts.1);
        let (mut mated, mut non_mated) = (0.0, 0.0);
        for block in self.pooled() {
            let odds = real(block.mated) / real(block.non_mated) / prior_odds;
            // A block with only one kind costs nothing, because its ratio is infinite and right.
            if 0 < block.mated && 0 < block.non_mated {
                mated += real(block.mated) * softplus(-odds.ln());
                non_mated += real(block.non_mated) * softplus(odds.ln());
            }
        }
        (mated / real(counts.0) + non_mated / real(counts.1)) / (2.0 * std::f64::consts::LN_2)
    }

    /// Blocks of ascending values. In each block, the share of mated searches is estimated as constant.
    fn pooled(&self) -> Vec<IsotonicBlock> {
        let mated = self.mated.iter().map(|&value| (value, 1, 0));
        let non_mated = self.non_mated.iter().map(|&value| (value, 0, 1));
        let mut values: Vec<(f64, u64, u64)> = mated.chain(non_mated).collect();
        // Adding zero turns -0 into +0, which the total order would treat as different.
        values.sort_by(|a, b| (a.0 + 0.0).total_cmp(&(b.0 + 0.0)));
        let mut blocks: Vec<IsotonicBlock> = Vec::new();
        // Equal values cannot be distinguished, so they start as one block.
        for tied in values.chunk_by(|a, b| a.0 >= b.0) {
            let mut block = IsotonicBlock {
                mated: tied.iter().map(|value| value.1).sum(),
                non_mated: tied.iter().map(|value| value.2).sum(),
            };
            // If a block's share is not above that of the block before it, the two are merged. The merged block
            // may again violate the order, so the check is repeated.
            while let Some(last) = blocks.pop_if(|last| !last.below(&block)) {
                block.mated += last.mated;
                block.non_mated += last.non_mated;
            }
            blocks.push(block);
        }
        blocks
    }
}

struct IsotonicBlock {
    mated: u64,
    non_mated: u64,
}

impl IsotonicBlock {
    /// Whether the share of mated searches is below that of `other`, compared in integers.
    fn below(&self, other: &Self) -> bool {
        u128::from(self.mated) * u128::from(other.non_mated)
            < u128::from(other.mated) * u128::from(self.non_mated)
    }
}

/// A linear map from a score to a log-likelihood ratio in nats: slope x score + offset.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LlrScale {
    /// Nats for one unit of score. It is zero or negative if higher scores are no evidence of a mate.
    pub slope: f64,
    /// Nats at a score of zero.
    pub offset: f64,
}

/// The standard deviation of a normal prior on the slope per standard deviation of the scores. It keeps the
/// slope finite if the scores separate the two kinds completely, and a few dozen trials that contradict it
/// outweigh it.
const SLOPE_DEVIATION: f64 = 10.0;
/// Newton's method needs about ten steps here; more are allowed for safety.
const STEPS_MAX: usize = 100;

impl LlrScale {
    /// Fits the scale by logistic regression, with weights such that the two kinds occur as often as `prior`
    /// says.
    #[must_use]
    pub fn fit(scores: &ScoreEvidence, prior: Prior) -> Self {
        let points = WeightedScores::of(scores, prior);
        let (mut at, mut loss) = ((0.0, 0.0), points.loss((0.0, 0.0)));
        for _ in 0..STEPS_MAX {
            let step = points.newton_step(at);
            // Newton's step may be too long, so it is halved until the objective decreases.
            let better = (0..60).find_map(|halvings| {
                let part = 0.5_f64.powi(halvings);
                let next = (at.0 - part * step.0, at.1 - part * step.1);
                let next_loss = points.loss(next);
                (next_loss < loss).then_some((next, next_loss))
            });
            let Some((next, next_loss)) = better else {
                break;
            };
            (at, loss) = (next, next_loss);
        }
        // Converts back from standardised scores. The fit has the odds of `prior`; a likelihood ratio must not
        // contain them.
        let slope = at.0 / points.deviation;
        Self {
            slope: recorded(slope),
            offset: recorded(at.1 - slope * points.mean - prior.log_odds()),
        }
    }

    /// The log-likelihood ratio of a score, in nats.
    #[must_use]
    pub fn llr(self, score: f64) -> f64 {
        self.slope * score + self.offset
    }

    /// The lowest threshold whose log-likelihood ratio is at least `llr`. If scores are no evidence, either
    /// everything or nothing is accepted.
    #[must_use]
    pub fn threshold_at(self, llr: f64) -> Threshold {
        if self.slope <= 0.0 {
            return if llr <= self.offset {
                Threshold::ACCEPT_ANYTHING_FOUND
            } else {
                Threshold::ACCEPT_NOTHING
            };
        }
        let score = (llr - self.offset) / self.slope;
        let Some(nearest) = Threshold::try_from(score)
            .ok()
            .and_then(|threshold| Similarity::new(threshold.get()))
        else {
            return Threshold::ACCEPT_NOTHING;
        };
        // Rounding to `f32` must not accept a score whose ratio is below `llr`.
        if f64::from(nearest.get()) < score {
            Threshold::just_above(nearest)
        } else {
            Threshold::at(nearest)
        }
    }
}

/// Scores that are standardised and weighted.
struct WeightedScores {
    /// (score in standard deviations from the mean, 1 for mated and 0 for non-mated, weight).
    points: Vec<(f64, f64, f64)>,
    mean: f64,
    deviation: f64,
    ridge: f64,
}

impl WeightedScores {
    fn of(scores: &ScoreEvidence, prior: Prior) -> Self {
        let weight = |share: f64, values: &[f64]| share / real(values.len() as u64);
        let mated = weight(prior.get(), &scores.mated);
        let non_mated = weight(1.0 - prior.get(), &scores.non_mated);
        let raw = || {
            let mated = scores.mated.iter().map(move |&score| (score, 1.0, mated));
            let others = scores
                .non_mated
                .iter()
                .map(move |&score| (score, 0.0, non_mated));
            mated.chain(others)
        };
        let mean: f64 = raw().map(|(score, _, weight)| weight * score).sum();
        let variance: f64 = raw()
            .map(|(score, _, weight)| weight * (score - mean).powi(2))
            .sum();
        // Scores that are all equal up to rounding carry no information.
        let flat = variance.sqrt() <= 1e-12 * (1.0 + mean.abs());
        let deviation = if flat { 1.0 } else { variance.sqrt() };
        let standard = |score: f64| {
            if flat {
                0.0
            } else {
                (score - mean) / deviation
            }
        };
        let points: Vec<_> = raw()
            .map(|(score, y, weight)| (standard(score), y, weight))
            .collect();
        // The weights sum to one instead of the number of points, so the prior is divided by that number too.
        let ridge = 1.0 / (SLOPE_DEVIATION.powi(2) * real(points.len() as u64));
        Self {
            points,
            mean,
            deviation,
            ridge,
        }
    }

    fn loss(&self, (slope, offset): (f64, f64)) -> f64 {
        let data: f64 = self
            .points
            .iter()
            .map(|&(x, mated, weight)| {
                let logit = slope * x + offset;
                weight * (softplus(logit) - mated * logit)
            })
            .sum();
        data + self.ridge * slope * slope / 2.0
    }

    fn newton_step(&self, (slope, offset): (f64, f64)) -> (f64, f64) {
        let mut gradient = (self.ridge * slope, 0.0);
        // A tiny value on the diagonal keeps the matrix invertible if every prediction is certain.
        let mut hessian = (self.ridge + 1e-15, 0.0, 1e-15);
        for &(x, mated, weight) in &self.points {
            let share = 1.0 / (1.0 + (-(slope * x + offset)).exp());
            let error = weight * (share - mated);
            gradient.0 += error * x;
            gradient.1 += error;
            let curvature = weight * share * (1.0 - share);
            hessian.0 += curvature * x * x;
            hessian.1 += curvature * x;
            hessian.2 += curvature;
        }
        // Solves the two equations by Cramer's rule.
        let determinant = hessian.0 * hessian.2 - hessian.1 * hessian.1;
        (
            (hessian.2 * gradient.0 - hessian.1 * gradient.1) / determinant,
            (hessian.0 * gradient.1 - hessian.1 * gradient.0) / determinant,
        )
    }
}

/// ln(1 + e^x), without overflow.
fn softplus(x: f64) -> f64 {
    let positive = if 0.0 < x { x } else { 0.0 };
    positive + (-x.abs()).exp().ln_1p()
}

fn mean(values: impl ExactSizeIterator<Item = f64>) -> f64 {
    let count = real(values.len() as u64);
    values.sum::<f64>() / count
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    const ORACLE: &str = include_str!("../tests/fixtures/oracle/policies.json");

    fn numbers(of: &Value) -> Vec<f64> {
        of.as_array()
            .unwrap()
            .iter()
            .map(|v| v.as_f64().unwrap())
            .collect()
    }

    fn evidence(mated: &[f64], non_mated: &[f64]) -> ScoreEvidence {
        ScoreEvidence::new(mated.to_vec(), non_mated.to_vec()).unwrap()
    }

    fn close(found: f64, expected: f64, tolerance: f64) {
        let error = (found - expected).abs();
        assert!(
            error <= tolerance * (1.0 + expected.abs()),
            "{found} is not {expected}"
        );
    }

    #[test]
    fn cllr_and_its_minimum_agree_with_the_reference_and_with_sklearn() {
        let toy = evidence(&[2.0, 1.0, 0.5, -0.3], &[-2.0, -1.0, 0.2, -0.7]);
        close(toy.cllr(), 0.614_973_385_105, 1e-12);
        close(toy.min_cllr(), 0.25, 1e-15);
        let oracle: Value = serde_json::from_str(ORACLE).unwrap();
        for case in oracle["cllr"].as_array().unwrap() {
            let found = evidence(&numbers(&case["mated"]), &numbers(&case["non_mated"]));
            close(found.cllr(), case["cllr"].as_f64().unwrap(), 1e-12);
            close(found.min_cllr(), case["min_cllr"].as_f64().unwrap(), 1e-9);
        }
    }

    #[test]
    fn cllr_at_its_edges() {
        close(evidence(&[0.0], &[0.0, 0.0]).cllr(), 1.0, 1e-15);
        close(evidence(&[1.0; 3], &[1.0; 5]).min_cllr(), 1.0, 1e-12);
        close(evidence(&[2.0], &[1.0]).min_cllr(), 0.0, 1e-15);
        close(evidence(&[0.0], &[-0.0]).min_cllr(), 1.0, 1e-12);
        close(
            evidence(&[f64::INFINITY], &[f64::NEG_INFINITY]).cllr(),
            0.0,
            1e-15,
        );
        assert!(evidence(&[f64::NEG_INFINITY], &[0.0]).cllr().is_finite());
        assert!(ScoreEvidence::new(vec![], vec![1.0]).is_err());
        assert!(ScoreEvidence::new(vec![1.0], vec![]).is_err());
        assert!(ScoreEvidence::new(vec![1.0], vec![f64::NAN]).is_err());
    }

    #[test]
    fn scales_agree_with_sklearn() {
        let oracle: Value = serde_json::from_str(ORACLE).unwrap();
        for case in oracle["scales"].as_array().unwrap() {
            let scores = evidence(&numbers(&case["mated"]), &numbers(&case["non_mated"]));
            let prior = Prior::new(case["prior"].as_f64().unwrap()).unwrap();
            let found = LlrScale::fit(&scores, prior);
            close(found.slope, case["slope"].as_f64().unwrap(), 1e-6);
            close(found.offset, case["offset"].as_f64().unwrap(), 1e-6);
        }
    }

    #[test]
    fn scores_that_say_nothing_or_everything_give_a_finite_scale() {
        let equal = LlrScale::fit(&evidence(&[0.3; 4], &[0.3; 9]), Prior::EVEN);
        close(equal.slope, 0.0, 1e-12);
        close(equal.offset, 0.0, 1e-12);
        assert_eq!(equal.threshold_at(0.1), Threshold::ACCEPT_NOTHING);
        assert_eq!(equal.threshold_at(-0.1), Threshold::ACCEPT_ANYTHING_FOUND);
        for prior in [1e-9, 0.01, 0.5, 1.0 - 1e-9] {
            let prior = Prior::new(prior).unwrap();
            let apart = LlrScale::fit(&evidence(&[0.9; 500], &[0.1; 500]), prior);
            assert!(apart.slope.is_finite() && 0.0 <= apart.slope, "{apart:?}");
            assert!(apart.offset.is_finite());
            let single = LlrScale::fit(&evidence(&[1.0], &[-1.0]), prior);
            assert!(single.slope.is_finite() && single.offset.is_finite());
        }
        let even = LlrScale::fit(&evidence(&[0.9; 500], &[0.1; 500]), Prior::EVEN);
        assert!(1.0 < even.llr(0.9) && even.llr(0.1) < -1.0);
        // Mated searches that score lower than strangers.
        let reversed = LlrScale::fit(&evidence(&[0.1, 0.2, 0.4], &[0.3, 0.5, 0.6]), Prior::EVEN);
        assert!(reversed.slope < 0.0);
        assert_eq!(reversed.threshold_at(9.0), Threshold::ACCEPT_NOTHING);
    }

    #[test]
    fn the_threshold_of_a_ratio_is_the_first_score_that_reaches_it() {
        let scale = LlrScale {
            slope: 20.0,
            offset: -9.0,
        };
        for llr in [-12.3, -1.0, 0.1, 4.595, 10.9] {
            let threshold = scale.threshold_at(llr);
            assert!(llr <= scale.llr(f64::from(threshold.get())));
            assert!(scale.llr(f64::from(threshold.get().next_down())) < llr);
        }
        assert_eq!(scale.threshold_at(-40.0), Threshold::ACCEPT_ANYTHING_FOUND);
        assert_eq!(scale.threshold_at(11.5), Threshold::ACCEPT_NOTHING);
        assert_eq!(scale.threshold_at(f64::INFINITY), Threshold::ACCEPT_NOTHING);
    }
}
