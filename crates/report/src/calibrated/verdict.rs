//! The verdict, and the facts that identify the operating point.

use crate::contents::{ClaimKind, ErrorRate, Fact, ReportVerdict, TargetRate};
use matchpoint_calibration::adjustment::Adjustment;
use matchpoint_calibration::operating_point::Content;
use matchpoint_calibration::policy::CalibrationTarget;

pub(super) fn target(target: CalibrationTarget) -> Option<TargetRate> {
    let (error, at_most, confidence) = match target {
        CalibrationTarget::Far(far) | CalibrationTarget::FarEstimated(far) => {
            (ErrorRate::FalseAccept, far.far(), far.confidence())
        }
        CalibrationTarget::Frr(frr) => (ErrorRate::FalseReject, frr.frr(), frr.confidence()),
        CalibrationTarget::EqualError | CalibrationTarget::Cost(_) => return None,
    };
    Some(TargetRate {
        error,
        at_most,
        confidence: Some(confidence.get()),
    })
}

pub(super) fn rule(target: CalibrationTarget) -> &'static str {
    match target {
        CalibrationTarget::Far(_) => "the lowest threshold whose false accept rate is proven",
        CalibrationTarget::FarEstimated(_) => {
            "the lowest threshold whose estimated bound meets the target"
        }
        CalibrationTarget::Frr(_) => "the highest threshold whose false reject rate is proven",
        CalibrationTarget::EqualError => "the threshold where both error rates are the same",
        CalibrationTarget::Cost(_) => "the threshold of the lowest expected cost",
    }
}

pub(super) fn sentence(text: &str) -> String {
    let mut chars = text.chars();
    let first = chars.next().map(|c| c.to_uppercase().to_string());
    format!("{}{}.", first.unwrap_or_default(), chars.as_str())
}

pub(super) fn verdict(asked: CalibrationTarget, content: &Content) -> ReportVerdict {
    let certifies = content.policy.certifies();
    let mut reasons = Vec::new();
    if !certifies {
        reasons.push(match asked {
            CalibrationTarget::Far(_) => {
                "Enrolled labels stood for strangers. They are not independent of each other, so nothing is certified.".to_owned()
            }
            CalibrationTarget::FarEstimated(_) => {
                "The bound is an approximation over labels; in simulations it is missed somewhat more often than it says.".to_owned()
            }
            CalibrationTarget::Frr(_) | CalibrationTarget::EqualError | CalibrationTarget::Cost(_) => {
                "This rule takes the rates as measured, and promises nothing.".to_owned()
            }
        });
    }
    let counts = &content.trials;
    let data = format!(
        "{} searches by {} enrolled labels; {} searches by {} labels that were never enrolled; {} searches by {} enrolled labels with their own items left out; a gallery of {} items and {} labels.",
        counts.mated.searches,
        counts.mated.labels,
        counts.never_enrolled.searches,
        counts.never_enrolled.labels,
        counts.left_out.searches,
        counts.left_out.labels,
        content.binding.gallery_items,
        content.binding.gallery_labels,
    );
    let frr_bound = content.frr_certificate().map(|found| found.frr_bound);
    ReportVerdict {
        standing: if certifies {
            ClaimKind::Promised
        } else {
            ClaimKind::Estimated
        },
        target: target(asked),
        rule: if certifies || !matches!(asked, CalibrationTarget::Far(_)) {
            rule(asked).to_owned()
        } else {
            "the threshold that the proof would give, were the trials independent".to_owned()
        },
        bound: content.far_bound().or(frr_bound),
        reasons,
        needed: Vec::new(),
        data: vec![data],
    }
}

pub(super) fn made_with(content: &Content) -> Vec<Fact> {
    let binding = &content.binding;
    let index = content.index_check.map(|check| {
        format!(
            "{} of {} searches missed the nearest item",
            check.missed, check.sampled
        )
    });
    let facts = [
        ("Policy", Some(content.goal())),
        ("Compared with the threshold", Some(compared(content))),
        ("Model", Some(binding.model_name.clone())),
        ("Model fingerprint", Some(binding.model_fingerprint.clone())),
        ("Gallery", Some(binding.gallery_id.clone())),
        ("Gallery digest", Some(binding.gallery_digest.clone())),
        ("Index", Some(binding.index.clone())),
        (
            "Index against exact search",
            index.or_else(|| Some("exact: nothing is missed".to_owned())),
        ),
        ("Metric", Some(binding.metric.to_string())),
        ("Seed", Some(content.seed.to_string())),
        ("Searches digest", Some(content.calibration_digest.clone())),
        ("Software", Some(content.software.clone())),
    ];
    facts
        .into_iter()
        .map(|(name, value)| Fact {
            name: name.to_owned(),
            value,
        })
        .collect()
}

/// Describes the score that is compared with the threshold.
fn compared(content: &Content) -> String {
    let adjustment = content.adjustment.as_ref();
    adjustment.map_or_else(
        || "cosine similarity of the best match".to_owned(),
        Adjustment::describe,
    )
}
