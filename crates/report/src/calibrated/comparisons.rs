//! The parts with rates by condition, by size of the gallery, and with remedies.

use super::verdict::sentence;
use crate::contents::{
    ConditionRow, ConditionTable, GrowthCurve, RemedyRow, RemedyTable, SizePoint, View,
};
use crate::estimate::{Estimate, RateInterval};
use matchpoint_calibration::analysis::far_by_size::FarBySize;
use matchpoint_calibration::analysis::remedies::Remedies;
use matchpoint_calibration::analysis::remedy_measured::MeasuredRemedy;
use matchpoint_calibration::analysis::stress::Stress;
use matchpoint_calibration::binomial::real;
use matchpoint_calibration::certify::TargetFar;
use matchpoint_calibration::operating_point::Content;
use matchpoint_calibration::rates::{Rate, percent};
use matchpoint_calibration::recording::Condition;

/// A remark on a FAR that is above the target.
#[must_use]
pub fn above_target(far: Option<&Rate>, target: Option<f64>) -> Option<String> {
    let (far, target) = (far?, target?);
    if far.estimate <= target {
        return None;
    }
    let asked = percent(target);
    Some(if target < far.interval.lower {
        format!(
            "FAR above the {asked} asked for, by more than chance: what holds for all does not hold here"
        )
    } else {
        format!("FAR above the {asked} asked for, within chance")
    })
}

pub(super) fn conditions(all: &[Condition], target: Option<TargetFar>) -> Vec<ConditionTable> {
    let mut columns: Vec<ConditionTable> = Vec::new();
    for one in all {
        let row = ConditionRow {
            value: one.value.clone(),
            mark: above_target(one.far.as_ref(), target.map(TargetFar::far)),
            far: one.far.into(),
            frr: one.frr.into(),
        };
        match columns.last_mut().filter(|last| last.column == one.column) {
            Some(column) => column.rows.push(row),
            None => columns.push(ConditionTable {
                column: one.column.clone(),
                rows: vec![row],
            }),
        }
    }
    columns
}

pub(super) fn stress(one: &Stress, content: &Content) -> ConditionRow {
    let far = one.far;
    let target = content.target_far().map(TargetFar::far);
    let above = target.filter(|target| *target < far.estimate);
    let named = if one.labels.is_empty() {
        String::new()
    } else {
        format!(", such as {}", one.labels.join(", "))
    };
    ConditionRow {
        value: format!("{}{named}", one.who),
        mark: above.map(|target| {
            let chance = if target < far.lower {
                "by more than chance"
            } else {
                "within chance"
            };
            format!("above what is asked for, {chance}")
        }),
        far: Estimate {
            interval: Some(RateInterval {
                lower: far.lower,
                upper: far.upper,
                confidence: far.confidence,
            }),
            labels: Some(far.labels),
            ..Estimate::bare(far.estimate)
        },
        frr: Estimate::default(),
    }
}

pub(super) fn growth(sizes: &FarBySize, content: &Content) -> GrowthCurve {
    let labels = real(content.binding.gallery_labels.max(1));
    let items = real(sizes.items_now);
    let measured = sizes.measured.iter().map(|point| {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a number of items, for drawing"
        )]
        let size = (real(point.size) / labels * items).round() as u64;
        let spread = 1.96 * point.standard_error;
        SizePoint {
            items: size,
            far: Some(point.fpir),
            interval: Some(RateInterval {
                lower: (point.fpir - spread).clamp(0.0, 1.0),
                upper: (point.fpir_at_most + spread).clamp(0.0, 1.0),
                confidence: 0.95,
            }),
            exact: point.exact,
        }
    });
    // If nothing was accepted, only the upper end of the interval is known.
    let predicted = if sizes.predicted_at_most.is_empty() {
        &sizes.predicted
    } else {
        &sizes.predicted_at_most
    };
    let ranges = sizes.predicted_ranges.iter();
    let predicted = predicted
        .iter()
        .zip(ranges)
        .map(|(point, range)| SizePoint {
            items: point.items,
            far: Some(point.fpir),
            interval: Some(RateInterval {
                lower: range.lower,
                upper: range.upper,
                confidence: 0.95,
            }),
            exact: false,
        });
    GrowthCurve {
        measured: measured.collect(),
        predicted: predicted.collect(),
        target: content
            .growth
            .map(|growth| growth.target_far)
            .or(content.target_far().map(TargetFar::far)),
        items_now: Some(sizes.items_now),
        holds_until: sizes.holds_until,
        assumption: if sizes.predicted_at_most.is_empty() {
            sentence(sizes.assumption)
        } else {
            format!(
                "{} No search was accepted, so that what is shown is the upper end of its interval.",
                sentence(sizes.assumption)
            )
        },
    }
}

pub(super) fn remedies(remedies: &Remedies) -> RemedyTable {
    let row = |measured: &MeasuredRemedy, verdict: String, preferred: bool| RemedyRow {
        name: measured.fitted.remedy.as_str().to_owned(),
        far: measured.far.into(),
        frr: measured.frr.into(),
        worst_frr: measured
            .worst_labels
            .as_ref()
            .map(|worst| Estimate::bare(worst.mean_of_worst_tenth))
            .unwrap_or_default(),
        spread: measured.utility_variance,
        verdict,
        preferred,
    };
    let comparison = &remedies.comparison;
    let any = comparison.remedies.iter().any(|one| one.verdict.prefers());
    let far = comparison.plan.rule.target().far() * 100.0;
    let rest = if any {
        ""
    } else {
        " None of them has a lower FRR by more than chance without a higher rate elsewhere: keep one threshold."
    };
    let nothing = format!(
        "What the remedies are compared with: one threshold, chosen again on half of the labels for an estimated FAR of at most {far} %. Not the operating point above.{rest}"
    );
    let mut rows = vec![row(&comparison.one_threshold, nothing, !any)];
    rows.extend(
        comparison
            .remedies
            .iter()
            .map(|one| row(&one.measured, one.sentence.clone(), one.verdict.prefers())),
    );
    RemedyTable {
        view: View::Search,
        rows,
    }
}
