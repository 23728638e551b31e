//! What an operating point records.

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

/// Everything that the id is a hash of. A later field must be optional and left out of the JSON
/// if it is absent, so that the ids of older records stay what they are.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Content {
    /// When the calibration was made, as the caller said it.
    pub created: String,
    /// The rule that chose the threshold.
    pub policy: Policy,
    /// The threshold.
    pub threshold: Threshold,
    /// The certificate of a target FAR.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub promise: Option<Promise>,
    /// What the threshold rests on if the policy is another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evidence: Option<ThresholdEvidence>,

    /// What was measured at the threshold.
    pub measured: MeasuredRates,
    /// How many trials there were.
    pub trials: TrialCounts,
    /// The seed of the draw of one probe for each label.
    pub seed: u64,
    /// What the threshold is valid for.
    pub binding: Binding,
    /// SHA-256 over probe ids, labels and scores of the trials.
    pub calibration_digest: String,
    /// The version of the software that calibrated.
    pub software: String,
    /// What must hold for the promise to hold, in plain words.
    pub assumptions: Vec<String>,
    /// What was measured on labels that did not choose.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_out: Option<HeldOutRates>,
    /// The growth of the gallery that was allowed for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub growth: Option<GrowthAllowed>,
    /// What may be added or exchanged without an end of the promise, where the threshold was tightened for
    /// it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub turnover: Option<TurnoverAllowed>,
    /// What is compared with the threshold, if that is not the plain similarity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adjustment: Option<Adjustment>,
    /// The groups of strangers that each keep the target FAR, if that was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worst_group: Option<WorstGroup>,
    /// Scores below the threshold of which a person decides, if that was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub review: Option<ReviewBand>,
    /// The index against exact search, on a sample; absent if the index is exact.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub index_check: Option<IndexMisses>,
    /// FAR and FRR on all trials along the thresholds, ascending, thinned out.
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

    /// The FAR that is not exceeded with the confidence of the target, certified or estimated.
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

    /// The confidence of what is promised or aimed at; `None` for a plain estimate.
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

    /// The most items, those of the calibration and those added since, with which the target is met:
    /// those that the threshold was made for, and as many more as lift the bound on the FAR to the
    /// target, by [`GROWTH_ASSUMPTION`](crate::growth::GROWTH_ASSUMPTION).
    #[must_use]
    pub fn covered_items(&self) -> u64 {
        let valid_to = self.valid_to_items();
        match (self.growth, self.target_far(), self.far_bound()) {
            (None, Some(target), Some(bound)) => items_within(valid_to, bound, target.far()),
            _ => valid_to,
        }
    }
}

/// What a threshold rests on, other than the certificate of a target FAR.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ThresholdEvidence {
    /// The approximate bound on FAR.
    FarEstimated(FarEstimate),
    /// The exact bound on FRR.
    Frr(FrrCertificate),
    /// Where the error rates cross.
    EqualError(EqualErrorPoint),
    /// The lowest cost.
    Cost {
        /// What errors cost.
        model: CostModel,
        /// What that comes to.
        outcome: CostOutcome,
    },
}

/// Rates by cross-fitting: each label judged by a threshold that the other labels chose under the
/// same policy.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HeldOutRates {
    /// Parts that the labels were split into.
    pub folds: u64,
    /// Parts whose other labels were too few to choose a threshold; they are not judged.
    pub abstained: u64,
    /// FAR on labels that did not choose; `None` if no part was judged, or has strangers.
    pub far: Option<Rate>,
    /// FRR on labels that did not choose.
    pub frr: Option<Rate>,
}

impl HeldOutRates {
    /// Keeps what is held out in truth. Left-out strangers are not: look-alikes are mutual, so the
    /// score of one label is often that of a label which chose.
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

/// A gallery that may grow, and what the threshold was tightened to for it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GrowthAllowed {
    /// The number of items that was allowed for.
    pub items: u64,
    /// The FAR that was asked for at that size. The target of the policy is the tighter one that
    /// today's size needs for it.
    pub target_far: f64,
}

/// Ordinary turnover of a gallery, and what the threshold was tightened to for it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TurnoverAllowed {
    /// The number of items, those of the calibration and those added since, that was allowed for.
    pub items: u64,
    /// The FAR that the threshold was chosen for today, so that the target is met with so many.
    pub far_today: f64,
}

/// The index against exact search.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IndexMisses {
    /// Searches compared.
    pub sampled: u64,
    /// Those in which an item was nearer than all that the index found.
    pub missed: u64,
}

/// One point of the trade-off between the two error rates.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RatePoint {
    /// Accept at or above this score.
    pub threshold: Threshold,
    /// FAR over all non-mated searches; `None` without any.
    pub far: Option<f64>,
    /// FRR over all mated searches; `None` without any.
    pub frr: Option<f64>,
}

/// How a threshold was chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Policy {
    /// The lowest threshold whose FAR is certified to be at most the target.
    #[serde(rename = "target-far, certified")]
    TargetFarCertified,
    /// The same rule if some strangers are enrolled labels, left out of their own searches.
    /// These are not independent of each other, so nothing is certified.
    #[serde(rename = "target-far, left-out labels counted as independent")]
    TargetFarLeftOut,
    /// The lowest threshold whose FAR is estimated to be at most the target.
    #[serde(rename = "target-far, estimated")]
    TargetFarEstimated,
    /// The highest threshold whose FRR is certified to be at most the target.
    #[serde(rename = "target-frr, certified")]
    TargetFrrCertified,
    /// The threshold where both rates are the same.
    #[serde(rename = "equal error")]
    EqualError,
    /// The threshold of the lowest expected cost.
    #[serde(rename = "minimum cost")]
    MinimumCost,
}

impl Policy {
    /// Whether the target is promised, rather than aimed at.
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

/// What the certificate says.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Promise {
    /// The FAR asked for, and the chance that it is kept.
    pub target: TargetFar,
    /// The FAR that is not exceeded with that chance; at most the target.
    pub far_bound: f64,
    /// Non-mated searches that count as independent, one for each label.
    pub independent_trials: u64,
    /// Accepts among them that the target allows.
    pub allowed: u64,
    /// Accepts among them at the threshold.
    pub observed: u64,
}

/// Estimates at the threshold on the trials that chose it; FAR and its interval are therefore
/// descriptive, the promise is what holds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MeasuredRates {
    /// FAR over all non-mated probes.
    pub far: Option<Rate>,
    /// FRR; `None` if there were no mated searches.
    pub frr: Option<Rate>,
    /// The part of the FRR that was accepted with a wrong label.
    pub misidentification: Option<Rate>,
    /// Share of mated searches whose best candidate carries the right label.
    pub recall_at_1: Option<Rate>,
}

/// Trials by origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrialCounts {
    /// Probes of enrolled labels.
    pub mated: SearchTally,
    /// Strangers that were never enrolled.
    pub never_enrolled: SearchTally,
    /// Enrolled labels, searched with their own items masked.
    pub left_out: SearchTally,
}

/// What a threshold is valid for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Binding {
    /// Hash over the model and its preprocessing.
    pub model_fingerprint: String,
    /// The name of the model; informative, the fingerprint decides.
    pub model_name: String,
    /// The gallery that was searched.
    pub gallery_id: String,
    /// Its content then; informative, since a gallery may change within its size.
    pub gallery_digest: String,
    /// Items in it then.
    pub gallery_items: u64,
    /// Labels in it then.
    pub gallery_labels: u64,
    /// The index and its parameters, in words.
    pub index: String,
    /// How vectors are compared.
    pub metric: Metric,
}

/// How vectors are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Metric {
    /// Cosine similarity, exact in `f32`.
    Cosine,
}

impl fmt::Display for Metric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cosine => f.write_str("cosine"),
        }
    }
}
