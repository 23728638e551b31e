//! The operating point: a threshold with what it promises and everything that it is valid for.

use base16ct::lower::encode_string;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::CalibrationError;
use crate::adjustment::Adjustment;
use crate::certify_frr::FrrCertificate;
use crate::decision::Threshold;
use crate::estimate::FarEstimate;
use crate::evaluate::{Errors, TradeOff, evaluate, trade_off};
use crate::policy::{CalibrationTarget, Choice, ChoiceBasis, choose};
use crate::rates::recorded;
use crate::refusal::{BindingDifference, Mismatch};
use crate::review::ReviewBand;
use crate::trials::{StrangerOrigin, Trials};
use crate::worst_group::WorstGroup;

mod record;
mod text;

pub use record::{
    Binding, Content, GrowthAllowed, HeldOutRates, IndexMisses, MeasuredRates, Metric, Policy,
    Promise, RatePoint, ThresholdEvidence, TrialCounts, TurnoverAllowed,
};
use text::{GalleryRoom, assumptions, reviewed};

/// The version of the JSON format that is written.
const FORMAT: u64 = 1;

/// The highest number of points of the curve in a record, which is enough to draw it.
const CURVE_POINTS_MAX: usize = 60;

/// The highest length of a record in bytes. A real one has about 10 KB.
const RECORD_BYTES_MAX: usize = 64 * 1024;

/// An immutable record. Its id is a hash of its content, so the content cannot change under the same id.
#[derive(Clone, Debug, PartialEq)]
pub struct OperatingPoint {
    id: String,
    content: Content,
}

/// Everything that a calibration needs except the trials.
#[derive(Clone, Debug, PartialEq)]
pub struct PointPlan {
    /// The time of the calibration, as an RFC 3339 time.
    pub created: String,
    /// The target that is promised or aimed at. The threshold may be chosen for a tighter one, to leave room
    /// for changes.
    pub target: CalibrationTarget,
    /// The seed for drawing one probe of each label.
    pub seed: u64,
    /// The gallery that was searched, with model, index and metric.
    pub binding: Binding,
    /// Name and version of the software.
    pub software: String,
    /// The rates on held-out labels.
    pub held_out: Option<HeldOutRates>,
    /// The growth of the gallery that is allowed for.
    pub growth: Option<GrowthAllowed>,
    /// The turnover of the gallery that is allowed for.
    pub turnover: Option<TurnoverAllowed>,
    /// How often the index differed from an exact search.
    pub index_check: Option<IndexMisses>,
    /// How scores are adjusted before they are compared with the threshold; `None` for plain similarity.
    pub adjustment: Option<Adjustment>,
    /// The groups of strangers in each of which the target FAR holds.
    pub worst_group: Option<WorstGroup>,
    /// The range of scores below the threshold that a person decides.
    pub review: Option<ReviewBand>,
    /// Further assumptions, such as how the adjustment was chosen.
    pub remarks: Vec<String>,
}

impl OperatingPoint {
    /// Chooses a threshold by the policy of the target, and measures the rates of all trials at it.
    ///
    /// # Errors
    /// Returns the errors of [`choose`], in most cases because there are too few trials for the target, and
    /// [`CalibrationError::EmptyGallery`] if nothing is enrolled.
    pub fn calibrated(trials: &Trials, plan: PointPlan) -> Result<Self, CalibrationError> {
        let choice = choose(plan.target, trials, plan.seed)?;
        Self::chosen(&choice, trials, plan)
    }

    /// Records a choice and measures `trials` at its threshold. They are the trials that chose it, or the same
    /// with adjusted scores.
    ///
    /// # Errors
    /// Returns [`CalibrationError::EmptyGallery`] if nothing is enrolled.
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
        let (promise, evidence) = grounds(choice, plan.target);
        let review = plan.review.map(reviewed);
        let room = GalleryRoom {
            items: plan.binding.gallery_items,
            growth: plan.growth,
            asked: plan.target,
        };
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
            assumptions: assumptions(choice, counts, room)
                .into_iter()
                .chain(review)
                .chain(plan.remarks)
                .collect(),
            adjustment: plan.adjustment,
            worst_group: plan.worst_group,
            review: plan.review,
            binding: plan.binding,
            held_out: plan.held_out,
            growth: plan.growth,
            turnover: plan.turnover,
            index_check: plan.index_check,
            curve: thinned(&trade_off(trials)),
        })?;
        // Reads the record back, so that one that cannot be read fails now and not later.
        Self::parse(point.to_json()?.as_bytes())?;
        Ok(point)
    }

    /// Reads a record and checks it against its id.
    ///
    /// # Errors
    /// Returns an error if the input is too long, is not a record, has another format, or was altered.
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
    /// Never in practice, because every field can be written as JSON.
    pub fn to_json(&self) -> Result<String, CalibrationError> {
        let file = PointFileRef {
            format: FORMAT,
            id: &self.id,
            content: &self.content,
        };
        serde_json::to_string_pretty(&file).map_err(CalibrationError::NotARecord)
    }

    /// The id: `op-` and sixteen hexadecimal digits of the SHA-256 of the content.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Everything except the id.
    #[must_use]
    pub fn content(&self) -> &Content {
        &self.content
    }

    /// The threshold.
    #[must_use]
    pub fn threshold(&self) -> Threshold {
        self.content.threshold
    }

    /// Whether `items`, the number of items of the calibration plus those added since, is within what the
    /// record covers. The FAR grows with the gallery, so the promise ends there; the threshold does not become
    /// wrong at once.
    #[must_use]
    pub fn covers_size(&self, items: u64) -> bool {
        items <= self.content.covered_items()
    }

    /// Checks that the record belongs to the deployment. [`OperatingPoint::covers_size`] checks the size.
    ///
    /// # Errors
    /// Returns an error that lists every difference in model, gallery, index and metric, with both values.
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
        let digits: String = encode_string(&Sha256::digest(bytes))
            .chars()
            .take(16)
            .collect();
        Ok(Self {
            id: format!("op-{digits}"),
            content,
        })
    }
}

/// The policy and evidence of a choice in the form that is recorded. They name the target that was asked for,
/// even if the choice was made for a tighter one.
fn grounds(
    choice: &Choice,
    asked: CalibrationTarget,
) -> (Option<Promise>, Option<ThresholdEvidence>) {
    match choice.basis {
        ChoiceBasis::Far(certificate) => {
            let promise = Promise {
                target: asked.far().unwrap_or(certificate.target),
                far_bound: certificate.far_bound,
                independent_trials: certificate.independent_trials,
                allowed: certificate.allowed,
                observed: certificate.observed,
            };
            (Some(promise), None)
        }
        ChoiceBasis::FarEstimated(estimate) => {
            let target = asked.far().unwrap_or(estimate.target);
            let estimate = FarEstimate { target, ..estimate };
            (None, Some(ThresholdEvidence::FarEstimated(estimate)))
        }
        ChoiceBasis::Frr(certificate) => {
            let target = asked.frr().unwrap_or(certificate.target);
            let certificate = FrrCertificate {
                target,
                ..certificate
            };
            (None, Some(ThresholdEvidence::Frr(certificate)))
        }
        ChoiceBasis::EqualError(crossing) => (None, Some(ThresholdEvidence::EqualError(crossing))),
        ChoiceBasis::Cost(outcome) => match choice.target {
            CalibrationTarget::Cost(model) => {
                (None, Some(ThresholdEvidence::Cost { model, outcome }))
            }
            // The basis of a cost belongs to no other target.
            CalibrationTarget::Far(_)
            | CalibrationTarget::FarEstimated(_)
            | CalibrationTarget::Frr(_)
            | CalibrationTarget::EqualError => (None, None),
        },
    }
}

/// A selection of points of a curve at equal steps, and the last point.
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

/// What the id is a hash of: compact JSON with the fields in the order of declaration.
#[derive(Serialize)]
struct Canonical<'a> {
    format: u64,
    content: &'a Content,
}

#[cfg(test)]
impl PointPlan {
    /// A plan for a gallery of 40 items, without anything that can be left out.
    pub(crate) fn small(target: CalibrationTarget) -> Self {
        Self {
            created: "2026-01-02T03:04:05Z".into(),
            target,
            seed: 1,
            binding: Binding {
                model_fingerprint: "mf-1".into(),
                model_name: "toy".into(),
                gallery_id: "g-1".into(),
                gallery_digest: "00ff".into(),
                gallery_items: 40,
                gallery_labels: 20,
                index: "exact scan".into(),
                metric: Metric::Cosine,
            },
            software: "matchpoint 0.1.0".into(),
            held_out: None,
            growth: None,
            turnover: None,
            index_check: None,
            adjustment: None,
            worst_group: None,
            review: None,
            remarks: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::certify::TargetFar;
    use crate::certify_frr::TargetFrr;
    use crate::cost::{CostModel, Costs};
    use crate::evidence::Prior;
    use crate::trials::{MatedSearch, NonMatedSearch, SearchTally, Top};
    use matchpoint_vector::Similarity;

    fn plan(far: f64) -> PointPlan {
        PointPlan {
            seed: u64::MAX,
            ..PointPlan::small(CalibrationTarget::Far(TargetFar::new(far, 0.9).unwrap()))
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
        assert_eq!(content.assumptions.len(), 5, "{:?}", content.assumptions);
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
    fn a_threshold_that_was_tightened_for_turnover_keeps_the_target_that_was_asked_for() {
        let asked = TargetFar::new(0.1, 0.9).unwrap();
        let trials = trials(30, false, 0.013);
        let target = CalibrationTarget::Far(asked);
        let tightened = TargetFar::new(0.0913, 0.9).unwrap();
        let choice = choose(target.for_far(tightened), &trials, 1).unwrap();
        let plan = PointPlan {
            turnover: Some(TurnoverAllowed {
                items: 44,
                far_today: 0.0913,
            }),
            ..plan(0.1)
        };
        let point = OperatingPoint::chosen(&choice, &trials, plan).unwrap();
        let content = point.content();
        assert_eq!(content.target_far(), Some(asked));
        assert_eq!(content.turnover.unwrap().items, 44);
        // With no accept among 30, the bound is 0.0739, which leaves room for 14 more items.
        assert_eq!(content.covered_items(), 54);
        assert!(
            content
                .assumptions
                .iter()
                .any(|one| one.contains("14 others"))
        );
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
                // Still readable if the damage is white space, or a digit of the threshold beyond the precision
                // of `f32`.
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
        assert_eq!(point.check_binding(&plan(0.1).binding), Ok(()));
        let grown = Binding {
            gallery_items: 41,
            gallery_labels: 99,
            gallery_digest: "ee".into(),
            model_name: "renamed".into(),
            ..plan(0.1).binding
        };
        assert_eq!(point.check_binding(&grown), Ok(()));
        let covered = point.content().covered_items();
        assert!(40 <= covered && point.covers_size(covered) && !point.covers_size(covered + 1));
        let other = Binding {
            model_fingerprint: "mf-2".into(),
            gallery_id: "g-2".into(),
            index: "hnsw".into(),
            ..plan(0.1).binding
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
                content.goal().starts_with("promised F")
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
