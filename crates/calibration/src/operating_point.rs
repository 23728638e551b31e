//! The operating point: a threshold with what it promises and everything it is valid for.

use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::CalibrationError;
use super::adjustment::Adjustment;
use super::certify::TargetFar;
use super::certify_frr::FrrCertificate;
use super::cost::{CostModel, CostOutcome};
use super::decision::Threshold;
use super::estimate::FarEstimate;
use super::evaluate::{Errors, TradeOff, evaluate, trade_off};
use super::held_out::HeldOut;
use super::policy::{CalibrationTarget, Choice, ChoiceBasis, EqualErrorPoint, Strength, choose};
use super::rates::{Confidence, Rate, recorded};
use super::refusal::{BindingDifference, Mismatch};
use super::trials::{SearchTally, StrangerOrigin, Trials, hex};

/// The format of the JSON that is written.
const FORMAT: u64 = 1;

/// Points of the curve that a record keeps: enough to draw it.
const CURVE_POINTS_MAX: usize = 60;

/// A record takes about 10 KB; more than this is not one.
const RECORD_BYTES_MAX: usize = 64 * 1024;

/// An immutable record. Its id is a hash of its content, so it cannot change and keep its name.
#[derive(Clone, Debug, PartialEq)]
pub struct OperatingPoint {
    id: String,
    content: Content,
}

/// Everything that the id is a hash of. A later field must be optional and left out of the JSON
/// where it is absent, so that the ids of older records stay what they are.
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
    /// What the threshold rests on where the policy is another.
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
    /// What is held against the threshold, where that is not the plain similarity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adjustment: Option<Adjustment>,
    /// The index against exact search, on a sample; absent where the index is exact.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub index_check: Option<IndexMisses>,
    /// FAR and FRR on all trials along the thresholds, ascending, thinned out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub curve: Vec<RatePoint>,
}

impl Content {
    /// The target FAR, promised or aimed at; `None` where the policy has none.
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

    /// What the threshold is for, in words.
    #[must_use]
    pub fn goal(&self) -> String {
        let at = |confidence: Confidence| percent(confidence.get());
        match (&self.promise, &self.evidence) {
            (Some(promise), _) => {
                let target = promise.target;
                let verb = if self.policy.certifies() {
                    "promises"
                } else {
                    "aims at, and does not promise,"
                };
                format!(
                    "{verb} FAR <= {} per search, at {} confidence",
                    percent(target.far()),
                    at(target.confidence())
                )
            }
            (None, Some(ThresholdEvidence::FarEstimated(estimate))) => format!(
                "aims at, and does not promise, FAR <= {} per search, by an estimated bound at {} confidence",
                percent(estimate.target.far()),
                at(estimate.target.confidence())
            ),
            (None, Some(ThresholdEvidence::Frr(certificate))) => format!(
                "promises FRR <= {} per search, at {} confidence; nothing about FAR",
                percent(certificate.target.frr()),
                at(certificate.target.confidence())
            ),
            (None, Some(ThresholdEvidence::EqualError(_))) => {
                "aims at FAR = FRR, and promises nothing".to_owned()
            }
            (None, Some(ThresholdEvidence::Cost { model, .. })) => {
                let costs = model.costs();
                format!(
                    "aims at the lowest cost (false accept {}, false reject {}, {} of searches mated), and promises nothing",
                    costs.false_accept,
                    costs.false_reject,
                    percent(costs.prior_mated.get())
                )
            }
            (None, None) => "promises nothing".to_owned(),
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
    /// FAR on labels that did not choose; `None` where no part was judged, or has strangers.
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
    /// The same rule where some strangers are enrolled labels, left out of their own searches.
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

    fn of(choice: &Choice) -> Self {
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
    /// FRR; `None` where there were no mated searches.
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

/// A calibration to be made: everything but the trials.
#[derive(Clone, Debug, PartialEq)]
pub struct PointPlan {
    /// The time, RFC 3339.
    pub created: String,
    /// What to promise, or to aim at.
    pub target: CalibrationTarget,
    /// The seed of the draw of one probe for each label.
    pub seed: u64,
    /// What was searched, with what.
    pub binding: Binding,
    /// Name and version of this software.
    pub software: String,
    /// What was measured on labels that did not choose.
    pub held_out: Option<HeldOutRates>,
    /// The growth of the gallery that is allowed for.
    pub growth: Option<GrowthAllowed>,
    /// The index against exact search.
    pub index_check: Option<IndexMisses>,
    /// What is held against the threshold, where that is not the plain similarity.
    pub adjustment: Option<Adjustment>,
    /// Further assumptions: how the adjustment was chosen.
    pub remarks: Vec<String>,
}

impl OperatingPoint {
    /// Chooses a threshold by the policy of the target, and measures all the trials there.
    ///
    /// # Errors
    /// As [`choose`]: above all where the trials are too few for the target; and
    /// [`CalibrationError::EmptyGallery`] where nothing was enrolled.
    pub fn calibrated(trials: &Trials, plan: PointPlan) -> Result<Self, CalibrationError> {
        let choice = choose(plan.target, trials, plan.seed)?;
        Self::chosen(&choice, trials, plan)
    }

    /// Records a choice, and measures `trials` at its threshold: those that chose it, or what an
    /// adjustment has made of them.
    ///
    /// # Errors
    /// [`CalibrationError::EmptyGallery`] where nothing was enrolled.
    pub fn chosen(
        choice: &Choice,
        trials: &Trials,
        plan: PointPlan,
    ) -> Result<Self, CalibrationError> {
        if plan.binding.gallery_items == 0 {
            return Err(CalibrationError::EmptyGallery);
        }
        let evaluation = evaluate(trials, Some(choice.threshold));
        let Errors {
            far,
            frr,
            misidentification,
        } = evaluation.errors.unwrap_or_default();
        let counts = TrialCounts {
            mated: trials.mated_tally(),
            never_enrolled: trials.non_mated_tally(StrangerOrigin::NeverEnrolled),
            left_out: trials.non_mated_tally(StrangerOrigin::LeftOut),
        };
        let (promise, evidence) = grounds(choice);
        let point = Self::seal(Content {
            created: plan.created,
            policy: Policy::of(choice),
            threshold: choice.threshold,
            promise,
            evidence,
            measured: MeasuredRates {
                far,
                frr,
                misidentification,
                recall_at_1: evaluation.recall_at_1,
            },
            trials: counts,
            seed: plan.seed,
            calibration_digest: trials.digest(),
            software: plan.software,
            assumptions: [
                assumptions(choice, &plan.binding, counts, plan.growth),
                plan.remarks,
            ]
            .concat(),
            adjustment: plan.adjustment,
            binding: plan.binding,
            held_out: plan.held_out,
            growth: plan.growth,
            index_check: plan.index_check,
            curve: thinned(&trade_off(trials)),
        })?;
        // A record that its own reader refuses would be found out too late.
        Self::parse(point.to_json()?.as_bytes())?;
        Ok(point)
    }

    /// Reads a record and checks it against its id.
    ///
    /// # Errors
    /// Refuses what is too long, not a record, of another format, or altered.
    pub fn parse(json: &[u8]) -> Result<Self, CalibrationError> {
        if RECORD_BYTES_MAX < json.len() {
            let (bytes, limit) = (json.len(), RECORD_BYTES_MAX);
            return Err(CalibrationError::RecordTooLarge { bytes, limit });
        }
        let head: PointHead = serde_json::from_slice(json).map_err(CalibrationError::NotARecord)?;
        if head.format != FORMAT {
            let (found, supported) = (head.format, FORMAT);
            return Err(CalibrationError::UnknownFormat { found, supported });
        }
        if head.content.pointer("/adjustment/groups").is_some() {
            return Err(CalibrationError::ThresholdsByGroup);
        }
        let file: PointFile = serde_json::from_slice(json).map_err(CalibrationError::NotARecord)?;
        let sealed = Self::seal(file.content)?;
        if sealed.id != file.id {
            return Err(CalibrationError::Altered {
                stated: file.id,
                computed: sealed.id,
            });
        }
        Ok(sealed)
    }

    /// The record as indented JSON, which [`OperatingPoint::parse`] reads back.
    ///
    /// # Errors
    /// None in practice: every field has a JSON form.
    pub fn to_json(&self) -> Result<String, CalibrationError> {
        let file = PointFileRef {
            format: FORMAT,
            id: &self.id,
            content: &self.content,
        };
        serde_json::to_string_pretty(&file).map_err(CalibrationError::NotARecord)
    }

    /// `op-` and sixteen hex digits of the SHA-256 of the content.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Everything else.
    #[must_use]
    pub fn content(&self) -> &Content {
        &self.content
    }

    /// The threshold.
    #[must_use]
    pub fn threshold(&self) -> Threshold {
        self.content.threshold
    }

    /// Whether a gallery of `items` is within the size that was calibrated. FAR grows with the
    /// gallery, so the promise ends there; the threshold does not become wrong at once.
    #[must_use]
    pub fn covers_size(&self, items: u64) -> bool {
        items <= self.content.valid_to_items()
    }

    /// Checks that the record was made for what is served. Size is left to
    /// [`OperatingPoint::covers_size`].
    ///
    /// # Errors
    /// Names every difference in model, gallery, index or metric, with both sides.
    pub fn check_binding(&self, served: &Binding) -> Result<(), Mismatch> {
        let made_for = &self.content.binding;
        let pairs = [
            (
                "model fingerprint",
                &made_for.model_fingerprint,
                &served.model_fingerprint,
            ),
            ("gallery", &made_for.gallery_id, &served.gallery_id),
            ("index", &made_for.index, &served.index),
            (
                "metric",
                &made_for.metric.to_string(),
                &served.metric.to_string(),
            ),
        ];
        let differences: Vec<BindingDifference> = pairs
            .into_iter()
            .filter(|(_, calibrated, served)| calibrated != served)
            .map(|(what, calibrated, served)| BindingDifference {
                what,
                calibrated: calibrated.clone(),
                served: served.clone(),
            })
            .collect();
        if differences.is_empty() {
            return Ok(());
        }
        Err(Mismatch {
            id: self.id.clone(),
            differences,
        })
    }

    fn seal(content: Content) -> Result<Self, CalibrationError> {
        let canonical = Canonical {
            format: FORMAT,
            content: &content,
        };
        let bytes = serde_json::to_vec(&canonical).map_err(CalibrationError::NotARecord)?;
        let digits: String = hex(&Sha256::digest(bytes)).chars().take(16).collect();
        Ok(Self {
            id: format!("op-{digits}"),
            content,
        })
    }
}

/// What stands behind a choice, as it is recorded.
fn grounds(choice: &Choice) -> (Option<Promise>, Option<ThresholdEvidence>) {
    match choice.basis {
        ChoiceBasis::Far(certificate) => {
            let promise = Promise {
                target: certificate.target,
                far_bound: certificate.far_bound,
                independent_trials: certificate.independent_trials,
                allowed: certificate.allowed,
                observed: certificate.observed,
            };
            (Some(promise), None)
        }
        ChoiceBasis::FarEstimated(estimate) => {
            (None, Some(ThresholdEvidence::FarEstimated(estimate)))
        }
        ChoiceBasis::Frr(certificate) => (None, Some(ThresholdEvidence::Frr(certificate))),
        ChoiceBasis::EqualError(crossing) => (None, Some(ThresholdEvidence::EqualError(crossing))),
        ChoiceBasis::Cost(outcome) => match choice.target {
            CalibrationTarget::Cost(model) => {
                (None, Some(ThresholdEvidence::Cost { model, outcome }))
            }
            // The basis of a cost is made for no other target.
            CalibrationTarget::Far(_)
            | CalibrationTarget::FarEstimated(_)
            | CalibrationTarget::Frr(_)
            | CalibrationTarget::EqualError => (None, None),
        },
    }
}

/// Every few points of a curve, and the last.
fn thinned(curve: &[TradeOff]) -> Vec<RatePoint> {
    let step = curve.len().div_ceil(CURVE_POINTS_MAX - 1).max(1);
    let last = curve
        .last()
        .filter(|_| !(curve.len() - 1).is_multiple_of(step));
    let kept = curve.iter().step_by(step).chain(last);
    kept.map(|point| RatePoint {
        threshold: point.threshold,
        far: point.far.map(recorded),
        frr: point.frr.map(recorded),
    })
    .collect()
}

fn assumptions(
    choice: &Choice,
    binding: &Binding,
    counts: TrialCounts,
    growth: Option<GrowthAllowed>,
) -> Vec<String> {
    let mut all = vec![
        "Live searches are exchangeable with those of the calibration: the same kind of subjects, \
         the same kind of images, none chosen because of how they score."
            .to_owned(),
    ];
    all.extend(choice.assumptions.iter().cloned());
    all.push(match growth {
        None => format!(
            "The gallery holds at most the {} items that it was calibrated with. FAR grows with \
             the gallery; growth beyond that voids the promise.",
            binding.gallery_items
        ),
        Some(growth) => format!(
            "The threshold was tightened for a gallery that grows from {} to {} items, so that FAR \
             stays at most {} there: {}",
            binding.gallery_items,
            growth.items,
            percent(growth.target_far),
            super::growth::GROWTH_ASSUMPTION,
        ),
    });
    all.push("Model, preprocessing and index are those of the binding.".to_owned());
    if 0 < counts.left_out.labels && !matches!(choice.target, CalibrationTarget::Frr(_)) {
        all.push(format!(
            "{} of the stranger labels are enrolled and were searched with their own items \
             masked. They were counted as independent, which they are not quite: two labels that \
             resemble each other are accepted both or neither. So the chance of missing the \
             target is above the one stated: up to about its square root where labels are alike \
             in pairs, more where they are in larger groups.",
            counts.left_out.labels
        ));
    }
    all
}

fn percent(share: f64) -> String {
    let digits = format!("{:.4}", share * 100.0);
    let digits = digits.trim_end_matches('0').trim_end_matches('.');
    if digits == "0" && 0.0 < share {
        return format!("{:.2e} %", share * 100.0);
    }
    format!("{digits} %")
}

#[derive(Deserialize)]
struct PointHead {
    format: u64,
    #[serde(default)]
    content: serde_json::Value,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PointFile {
    #[serde(rename = "format")]
    _format: u64,
    id: String,
    content: Content,
}

#[derive(Serialize)]
struct PointFileRef<'a> {
    format: u64,
    id: &'a str,
    content: &'a Content,
}

/// What is hashed: compact JSON, fields in the order of their declaration.
#[derive(Serialize)]
struct Canonical<'a> {
    format: u64,
    content: &'a Content,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::certify_frr::TargetFrr;
    use crate::cost::Costs;
    use crate::evidence::Prior;
    use crate::trials::{MatedSearch, NonMatedSearch, Top};
    use matchpoint_vector::Similarity;

    fn binding() -> Binding {
        Binding {
            model_fingerprint: "mf-1".into(),
            model_name: "toy".into(),
            gallery_id: "g-1".into(),
            gallery_digest: "00ff".into(),
            gallery_items: 40,
            gallery_labels: 20,
            index: "exact scan".into(),
            metric: Metric::Cosine,
        }
    }

    fn plan(far: f64) -> PointPlan {
        PointPlan {
            created: "2026-01-02T03:04:05Z".into(),
            target: CalibrationTarget::Far(TargetFar::new(far, 0.9).unwrap()),
            seed: u64::MAX,
            binding: binding(),
            software: "matchpoint 0.1.0".into(),
            held_out: None,
            growth: None,
            index_check: None,
            adjustment: None,
            remarks: Vec::new(),
        }
    }

    fn trials(mated: u8, left_out: bool, scale: f32) -> Trials {
        let origin = if left_out {
            StrangerOrigin::LeftOut
        } else {
            StrangerOrigin::NeverEnrolled
        };
        let strangers = (0_u8..60).map(|i| NonMatedSearch {
            label: format!("s{}", i / 2),
            probe: format!("q{i}"),
            top_score: Similarity::new(f32::from(i) * scale),
            origin,
        });
        let mated = (0..mated).map(|i| MatedSearch {
            label: format!("m{}", i / 3),
            probe: format!("p{i}"),
            top: Similarity::new(1.0 - f32::from(i) / 31.0).map(|score| Top {
                score,
                label_matches: i % 7 != 1,
            }),
        });
        Trials::new(mated.collect(), strangers.collect()).unwrap()
    }

    fn point() -> OperatingPoint {
        OperatingPoint::calibrated(&trials(30, false, 0.013), plan(0.1)).unwrap()
    }

    #[test]
    fn a_record_says_what_was_promised_and_measured() {
        let point = point();
        let content = point.content();
        let promise = content.promise.unwrap();
        assert_eq!(promise.independent_trials, 30);
        assert!(promise.far_bound <= 0.1);
        assert_eq!(
            content.trials.mated,
            SearchTally {
                searches: 30,
                labels: 10
            }
        );
        assert_eq!(
            content.trials.never_enrolled,
            SearchTally {
                searches: 60,
                labels: 30
            }
        );
        assert_eq!(content.measured.far.unwrap().count.trials(), 60);
        assert!(content.measured.frr.is_some() && content.measured.recall_at_1.is_some());
        assert_eq!(content.assumptions.len(), 4, "{:?}", content.assumptions);
        assert!(point.id().starts_with("op-") && point.id().len() == 19);
    }

    #[test]
    fn without_mated_searches_the_frr_is_absent_and_left_out_trials_are_named() {
        let point = OperatingPoint::calibrated(&trials(0, true, 0.013), plan(0.1)).unwrap();
        assert_eq!(point.content().measured.frr, None);
        let last = point.content().assumptions.last().unwrap();
        assert!(last.starts_with("30 of the stranger labels"), "{last}");
        let json = point.to_json().unwrap();
        assert_eq!(OperatingPoint::parse(json.as_bytes()).unwrap(), point);
    }

    #[test]
    fn too_few_strangers_make_no_record() {
        let refused = OperatingPoint::calibrated(&trials(3, false, 0.01), plan(0.01)).unwrap_err();
        let CalibrationError::Underpowered(refused) = refused else {
            panic!("{refused}")
        };
        assert_eq!((refused.independent_trials, refused.needed), (30, 230));
    }

    #[test]
    fn a_flipped_byte_is_refused_or_changes_nothing() {
        let point = point();
        let json = point.to_json().unwrap().into_bytes();
        for position in 0..json.len() {
            for flip in [0x01, 0x02, 0x08, 0x10, 0x20, 0x80] {
                let mut damaged = json.clone();
                damaged[position] ^= flip;
                // White space, or a digit of the threshold beyond what an f32 holds.
                if let Ok(read) = OperatingPoint::parse(&damaged) {
                    assert_eq!(read, point, "byte {position} with {flip:#x}");
                }
            }
        }
        for length in 0..json.len() {
            assert!(OperatingPoint::parse(&json[..length]).is_err());
        }
    }

    #[test]
    fn an_altered_number_and_another_format_are_named() {
        let point = point();
        let json = point.to_json().unwrap();
        let softer = json.replace("\"far\": 0.1", "\"far\": 0.2");
        assert_ne!(softer, json);
        let error = OperatingPoint::parse(softer.as_bytes())
            .unwrap_err()
            .to_string();
        assert!(
            error.contains(point.id()) && error.contains("altered"),
            "{error}"
        );
        let newer = json.replace("\"format\": 1", "\"format\": 7");
        let error = OperatingPoint::parse(newer.as_bytes())
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("format 7") && error.contains("format 1"),
            "{error}"
        );
        let error = OperatingPoint::parse(br#"{"format":9,"new":true}"#).unwrap_err();
        assert!(matches!(
            error,
            CalibrationError::UnknownFormat {
                found: 9,
                supported: 1
            }
        ));
        let long = vec![b' '; RECORD_BYTES_MAX + 1];
        let error = OperatingPoint::parse(&long).unwrap_err();
        assert!(matches!(error, CalibrationError::RecordTooLarge { .. }));
    }

    #[test]
    fn a_record_with_thresholds_by_group_is_refused_by_name() {
        let groups = r#""adjustment": {
            "groups": {"column": "hall", "global": 0.5, "groups": {"north": 0.75}}
        }, "binding":"#;
        let json = point().to_json().unwrap();
        let with_groups = json.replacen("\"binding\":", groups, 1);
        assert_ne!(with_groups, json);
        let refused = OperatingPoint::parse(with_groups.as_bytes()).unwrap_err();
        assert!(matches!(refused, CalibrationError::ThresholdsByGroup));
    }

    #[test]
    fn what_differs_is_named_with_both_sides() {
        let point = point();
        assert_eq!(point.check_binding(&binding()), Ok(()));
        let grown = Binding {
            gallery_items: 41,
            gallery_labels: 99,
            gallery_digest: "ee".into(),
            model_name: "renamed".into(),
            ..binding()
        };
        assert_eq!(point.check_binding(&grown), Ok(()));
        assert!(point.covers_size(40) && !point.covers_size(41));
        let other = Binding {
            model_fingerprint: "mf-2".into(),
            gallery_id: "g-2".into(),
            index: "hnsw".into(),
            ..binding()
        };
        let mismatch = point.check_binding(&other).unwrap_err();
        assert_eq!(mismatch.differences.len(), 3);
        let text = mismatch.to_string();
        for part in [
            "mf-1",
            "mf-2",
            "g-1",
            "g-2",
            "exact scan",
            "hnsw",
            point.id(),
        ] {
            assert!(text.contains(part), "{text}");
        }
    }

    #[test]
    fn a_point_of_every_policy_can_be_read_back() {
        let trials = trials(33, false, 0.013);
        let far = TargetFar::new(0.3, 0.9).unwrap();
        let frr = TargetFrr::new(0.5, 0.6).unwrap();
        let costs = Costs {
            false_accept: 7.0,
            false_reject: 3.0,
            prior_mated: Prior::new(0.37).unwrap(),
        };
        let targets = [
            CalibrationTarget::Far(far),
            CalibrationTarget::FarEstimated(far),
            CalibrationTarget::Frr(frr),
            CalibrationTarget::EqualError,
            CalibrationTarget::Cost(CostModel::new(costs).unwrap()),
        ];
        for target in targets {
            let plan = PointPlan {
                target,
                ..plan(0.3)
            };
            let point = OperatingPoint::calibrated(&trials, plan).unwrap();
            let json = point.to_json().unwrap();
            assert_eq!(OperatingPoint::parse(json.as_bytes()).unwrap(), point);
            let content = point.content();
            assert_eq!(
                content.policy.certifies(),
                content.goal().starts_with("promises F")
            );
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn estimates_survive_json_whatever_the_counts(
            mated in 7_u8..60, scale in 0.001_f32..0.03, equal in any::<bool>()
        ) {
            let costs = Costs {
                false_accept: 1.0,
                false_reject: 1.0,
                prior_mated: Prior::EVEN,
            };
            let cost = CalibrationTarget::Cost(CostModel::new(costs).unwrap());
            let target = if equal { CalibrationTarget::EqualError } else { cost };
            let plan = PointPlan { target, ..plan(0.3) };
            match OperatingPoint::calibrated(&trials(mated, false, scale), plan) {
                Ok(point) => {
                    let json = point.to_json().unwrap();
                    prop_assert_eq!(OperatingPoint::parse(json.as_bytes()).unwrap(), point);
                }
                Err(error) => prop_assert!(error.refusal().is_some(), "{error}"),
            }
        }


        #[test]
        fn every_record_survives_json_to_the_last_bit(
            mated in 0_u8..60, left_out in any::<bool>(), scale in 1e-12_f32..0.03,
            far in 0.075_f64..0.5, created in ".*"
        ) {
            let plan = PointPlan { created, ..plan(far) };
            let point = OperatingPoint::calibrated(&trials(mated, left_out, scale), plan).unwrap();
            let json = point.to_json().unwrap();
            let read = OperatingPoint::parse(json.as_bytes()).unwrap();
            prop_assert_eq!(read.threshold().get().to_bits(), point.threshold().get().to_bits());
            prop_assert_eq!(read, point);
        }
    }
}
