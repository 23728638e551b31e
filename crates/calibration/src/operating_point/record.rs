//! The content of an operating point.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::adjustment::Adjustment;
use crate::certify::TargetFar;
use crate::certify_frr::FrrCertificate;
use crate::cost::{CostModel, CostOutcome};
use crate::decision::Threshold;
use crate::estimate::FarEstimate;
use crate::growth::items_within;
use crate::held_out::HeldOut;
use crate::policy::{CalibrationTarget, Choice, EqualErrorPoint, Strength};
use crate::rates::{Confidence, Rate};
use crate::review::ReviewBand;
use crate::trials::{SearchTally, StrangerOrigin, Trials};
use crate::worst_group::WorstGroup;

/// Everything that the id is a hash of. A field that is added later must be optional and absent from the JSON
/// if it is `None`, so that the ids of older records do not change.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Content {
    /// When the calibration was made, as the caller stated it.
    pub created: String,
    /// The rule that chose the threshold.
    pub policy: Policy,
    /// The threshold.
    pub threshold: Threshold,
    /// The certificate of a target FAR; `None` for other policies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub promise: Option<Promise>,
    /// The figures that the threshold is based on, for other policies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evidence: Option<ThresholdEvidence>,

    /// The rates that were measured at the threshold.
    pub measured: MeasuredRates,
    /// The number of trials.
    pub trials: TrialCounts,
    /// The seed for drawing one probe of each label.
    pub seed: u64,
    /// What the threshold is valid for.
    pub binding: Binding,
    /// SHA-256 over probe ids, labels and scores of the trials.
    pub calibration_digest: String,
    /// The version of the software that calibrated.
    pub software: String,
    /// The assumptions of the promise, in plain words.
    pub assumptions: Vec<String>,
    /// The rates on held-out labels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_out: Option<HeldOutRates>,
    /// The growth of the gallery that was allowed for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub growth: Option<GrowthAllowed>,
    /// The additions and exchanges that the threshold was tightened for, so that the promise still holds after
    /// them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub turnover: Option<TurnoverAllowed>,
    /// How scores are adjusted before they are compared with the threshold; `None` for plain similarity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adjustment: Option<Adjustment>,
    /// The groups of strangers in each of which the target FAR holds; `None` if this was not asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worst_group: Option<WorstGroup>,
    /// The range of scores below the threshold that a person decides; `None` if it was not asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub review: Option<ReviewBand>,
    /// How often the index differed from an exact search, on a sample; `None` if the index is exact.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub index_check: Option<IndexMisses>,
    /// FAR and FRR of all trials over thresholds in ascending order, at selected points.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub curve: Vec<RatePoint>,
}

impl Content {
    /// The target FAR, promised or aimed at; `None` if the policy has none.
    #[must_use]
    pub fn target_far(&self) -> Option<TargetFar> {
        match (&self.promise, &self.evidence) {
            (Some(promise), _) => Some(promise.target),
            (None, Some(ThresholdEvidence::FarEstimated(estimate))) => Some(estimate.target),
            (None, _) => None,
        }
    }

    /// The rate that was asked for; `None` in a record that does not say what its threshold rests on.
    #[must_use]
    pub fn asked(&self) -> Option<CalibrationTarget> {
        let grown = |target: TargetFar| {
            let asked = self.growth.map_or(target.far(), |growth| growth.target_far);
            TargetFar::new(asked, target.confidence().get()).unwrap_or(target)
        };
        match (&self.promise, &self.evidence) {
            (Some(promise), _) => Some(CalibrationTarget::Far(grown(promise.target))),
            (None, Some(ThresholdEvidence::FarEstimated(estimate))) => {
                Some(CalibrationTarget::FarEstimated(grown(estimate.target)))
            }
            (None, Some(ThresholdEvidence::Frr(certificate))) => {
                Some(CalibrationTarget::Frr(certificate.target))
            }
            (None, Some(ThresholdEvidence::EqualError(_))) => Some(CalibrationTarget::EqualError),
            (None, Some(ThresholdEvidence::Cost { model, .. })) => {
                Some(CalibrationTarget::Cost(*model))
            }
            (None, None) => None,
        }
    }

    /// The upper bound on the FAR at the confidence of the target, certified or estimated.
    #[must_use]
    pub fn far_bound(&self) -> Option<f64> {
        match (&self.promise, &self.evidence) {
            (Some(promise), _) => Some(promise.far_bound),
            (None, Some(ThresholdEvidence::FarEstimated(estimate))) => Some(estimate.far_upper),
            (None, _) => None,
        }
    }

    /// The certificate of a target FRR; `None` under any other policy.
    #[must_use]
    pub fn frr_certificate(&self) -> Option<&FrrCertificate> {
        match &self.evidence {
            Some(ThresholdEvidence::Frr(certificate)) => Some(certificate),
            _ => None,
        }
    }

    /// The confidence of the target; `None` for a plain estimate.
    #[must_use]
    pub fn confidence(&self) -> Option<f64> {
        let far = self.target_far().map(TargetFar::confidence);
        let frr = self.frr_certificate().map(|frr| frr.target.confidence());
        far.or(frr).map(Confidence::get)
    }

    /// The number of items up to which the threshold was made to hold.
    #[must_use]
    pub fn valid_to_items(&self) -> u64 {
        let grown = self.growth.as_ref().map(|growth| growth.items);
        grown.unwrap_or(self.binding.gallery_items)
    }

    /// The highest number of items, counting those of the calibration and those added since, for which the
    /// target is met. These are the items that the threshold was made for, plus as many as raise the bound on
    /// the FAR to the target, under [`GROWTH_ASSUMPTION`](crate::growth::GROWTH_ASSUMPTION).
    #[must_use]
    pub fn covered_items(&self) -> u64 {
        let valid_to = self.valid_to_items();
        match (self.growth, self.target_far(), self.far_bound()) {
            (None, Some(target), Some(bound)) => items_within(valid_to, bound, target.far()),
            _ => valid_to,
        }
    }
}

/// The figures that a threshold is based on, for all policies except a certified FAR.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ThresholdEvidence {
    /// The approximate bound on the FAR.
    FarEstimated(FarEstimate),
    /// The exact bound on the FRR.
    Frr(FrrCertificate),
    /// The point where the error rates cross.
    EqualError(EqualErrorPoint),
    /// The lowest cost.
    Cost {
        /// The costs of errors.
        model: CostModel,
        /// The result for these costs.
        outcome: CostOutcome,
    },
}

/// Rates by cross-fitting: each label is judged by a threshold that the other labels chose under the same
/// policy.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HeldOutRates {
    /// Number of folds that the labels were split into.
    pub folds: u64,
    /// Number of folds that are not judged, because the other labels were too few to choose a threshold.
    pub abstained: u64,
    /// The FAR on held-out labels; `None` if no fold was judged, or if there are no strangers.
    pub far: Option<Rate>,
    /// The FRR on held-out labels.
    pub frr: Option<Rate>,
}

impl HeldOutRates {
    /// Selects the rates that are truly held out. Left-out strangers are not: resemblance is mutual, so the
    /// score of a held-out label is often that of a label which chose the threshold.
    #[must_use]
    pub fn of(held_out: &HeldOut, trials: &Trials) -> Self {
        let left_out = trials.non_mated_tally(StrangerOrigin::LeftOut).searches;
        Self {
            folds: held_out.folds.len() as u64,
            abstained: held_out.abstained() as u64,
            far: held_out.far.filter(|_| left_out == 0),
            frr: held_out.frr,
        }
    }
}

/// The growth of the gallery that is allowed for, and the target that the threshold was tightened to.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GrowthAllowed {
    /// The number of items that is allowed for.
    pub items: u64,
    /// The FAR asked for at that size. The target of the policy is the tighter one that today's size needs for
    /// it.
    pub target_far: f64,
}

/// Ordinary changes of the gallery that are allowed for, and the target that the threshold was tightened to.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TurnoverAllowed {
    /// The number of items that is allowed for, counting those of the calibration and those added since.
    pub items: u64,
    /// The target FAR that the threshold was chosen for today, so that the requested target holds for that
    /// number of items.
    pub far_today: f64,
}

/// A comparison of the index with an exact search.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IndexMisses {
    /// Number of searches that were compared.
    pub sampled: u64,
    /// Number of searches in which an item was more similar than everything that the index found.
    pub missed: u64,
    /// Number of items that the graph did not have yet, so that they could not be missed as the others are.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub outside: u64,
    /// Those of them whose label was searched for.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub outside_searched: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "what serde takes")]
fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// A point of the DET curve.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RatePoint {
    /// A score that is equal or higher is accepted.
    pub threshold: Threshold,
    /// The FAR over all non-mated searches; `None` if there are none.
    pub far: Option<f64>,
    /// The FRR over all mated searches; `None` if there are none.
    pub frr: Option<f64>,
}

/// How a threshold was chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Policy {
    /// The lowest threshold whose FAR is certified to be at most the target.
    #[serde(rename = "target-far, certified")]
    TargetFarCertified,
    /// The same rule, if some strangers are enrolled labels that were left out of their own searches. These are
    /// not independent of each other, so nothing is certified.
    #[serde(rename = "target-far, left-out labels counted as independent")]
    TargetFarLeftOut,
    /// The lowest threshold whose FAR is estimated to be at most the target.
    #[serde(rename = "target-far, estimated")]
    TargetFarEstimated,
    /// The highest threshold whose FRR is certified to be at most the target.
    #[serde(rename = "target-frr, certified")]
    TargetFrrCertified,
    /// The threshold where both rates are equal.
    #[serde(rename = "equal error")]
    EqualError,
    /// The threshold with the lowest expected cost.
    #[serde(rename = "minimum cost")]
    MinimumCost,
}

impl Policy {
    /// Whether the target is certified, and not only aimed at.
    #[must_use]
    pub fn certifies(self) -> bool {
        match self {
            Self::TargetFarCertified | Self::TargetFrrCertified => true,
            Self::TargetFarLeftOut
            | Self::TargetFarEstimated
            | Self::EqualError
            | Self::MinimumCost => false,
        }
    }

    pub(super) fn of(choice: &Choice) -> Self {
        match (choice.target, choice.standing) {
            (CalibrationTarget::Far(_), Strength::Certified) => Self::TargetFarCertified,
            (CalibrationTarget::Far(_), Strength::Estimated) => Self::TargetFarLeftOut,
            (CalibrationTarget::FarEstimated(_), _) => Self::TargetFarEstimated,
            (CalibrationTarget::Frr(_), _) => Self::TargetFrrCertified,
            (CalibrationTarget::EqualError, _) => Self::EqualError,
            (CalibrationTarget::Cost(_), _) => Self::MinimumCost,
        }
    }
}

/// The figures of the certificate.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Promise {
    /// The target FAR and its confidence.
    pub target: TargetFar,
    /// The upper bound on the FAR at that confidence; at most the target.
    pub far_bound: f64,
    /// Number of non-mated searches that count as independent, one for each label.
    pub independent_trials: u64,
    /// The highest number of these searches that may be accepted.
    pub allowed: u64,
    /// The number of these searches that are accepted at the threshold.
    pub observed: u64,
}

/// Rates at the threshold, estimated on the trials that chose it. So the FAR and its interval only describe
/// these trials; the promise is the certificate.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MeasuredRates {
    /// The FAR over all non-mated probes.
    pub far: Option<Rate>,
    /// The FRR; `None` if there were no mated searches.
    pub frr: Option<Rate>,
    /// The part of the FRR that was accepted with a wrong label.
    pub misidentification: Option<Rate>,
    /// Share of mated searches whose best candidate has the right label.
    pub recall_at_1: Option<Rate>,
}

/// The number of trials by origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrialCounts {
    /// Searches by probes of enrolled labels.
    pub mated: SearchTally,
    /// Searches by strangers that were never enrolled.
    pub never_enrolled: SearchTally,
    /// Searches for enrolled labels, with their own items left out.
    pub left_out: SearchTally,
}

/// Everything that a threshold is valid for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Binding {
    /// A hash over the model and its preprocessing.
    pub model_fingerprint: String,
    /// The name of the model, for information only; the fingerprint is what is checked.
    pub model_name: String,
    /// The id of the gallery that was searched.
    pub gallery_id: String,
    /// A digest of its content at that time, for information only, because a gallery may change within its
    /// size.
    pub gallery_digest: String,
    /// Number of items at that time.
    pub gallery_items: u64,
    /// Number of labels at that time.
    pub gallery_labels: u64,
    /// The index and its parameters, as text.
    pub index: String,
    /// The similarity measure.
    pub metric: Metric,
}

/// The similarity measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Metric {
    /// Cosine similarity, computed exactly in `f32`.
    Cosine,
}

impl fmt::Display for Metric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cosine => f.write_str("cosine"),
        }
    }
}
