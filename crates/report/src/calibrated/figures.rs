//! The key rates, curves and consistency over labels.

use super::findings::Findings;
use crate::contents::{
    BinnedScores, ConsistencyFigures, Figure, LabelCurve, MeasuredOn, MenuRow, MenuTable,
    PointSummary, SpreadFigure, ThresholdBand, View,
};
use crate::estimate::RateInterval;
use matchpoint_calibration::analysis::consistency::Resampled;
use matchpoint_calibration::analysis::pairs_view::PairsView;
use matchpoint_calibration::evaluate::histogram;
use matchpoint_calibration::menu::{Menu, MenuRequest, MenuStanding};
use matchpoint_calibration::operating_point::{Content, ThresholdEvidence};
use matchpoint_calibration::rates::{Interval, Rate};
use matchpoint_calibration::recording::Recording;

const HISTOGRAM_BINS: usize = 60;

pub(super) fn operating_point(findings: &Findings<'_>) -> PointSummary {
    let content = findings.content;
    // The cross-fitted rates of the rule are in the table and not here, because they belong to other
    // thresholds.
    let measured = &content.measured;
    PointSummary {
        id: findings.id.map(str::to_owned),
        threshold: f64::from(content.threshold.get()),
        far: measured.far.into(),
        frr: measured.frr.into(),
        far_basis: MeasuredOn::ChoseThreshold,
        frr_basis: frr_basis(content),
    }
}

pub(super) fn figures(content: &Content, pairwise: Option<&PairsView>) -> Vec<Figure> {
    let figure = |name: &str, meaning: &str, rate: Option<Rate>, basis| Figure {
        name: name.to_owned(),
        meaning: meaning.to_owned(),
        estimate: rate.into(),
        basis,
    };
    let far = "Non-mated searches that were accepted (FPIR).";
    let frr = "Mated searches rejected, or accepted with a wrong label (FNIR).";
    let measured = &content.measured;
    let held_out = content.held_out.as_ref();
    let mut figures = vec![
        figure(
            "False accept rate of the rule",
            RULE_FAR,
            held_out.and_then(|h| h.far),
            MeasuredOn::HeldOut,
        ),
        figure(
            "False reject rate of the rule",
            RULE_FRR,
            held_out.and_then(|h| h.frr),
            MeasuredOn::HeldOut,
        ),
        figure(
            "False accept rate",
            far,
            measured.far,
            MeasuredOn::ChoseThreshold,
        ),
        figure("False reject rate", frr, measured.frr, frr_basis(content)),
        figure(
            "Misidentification",
            "The part of the false rejects that was accepted with a wrong label.",
            measured.misidentification,
            frr_basis(content),
        ),
        figure(
            "Recall at 1",
            "Mated searches whose nearest item has the right label.",
            measured.recall_at_1,
            MeasuredOn::NoThreshold,
        ),
    ];
    if let Some(pairs) = pairwise {
        figures.push(figure(
            "Pairwise FAR at this threshold",
            "Comparisons of two images of different labels that would be accepted. Not a rate of searches.",
            pairs.at_threshold.far,
            MeasuredOn::ChoseThreshold,
        ));
        figures.push(figure(
            "Pairwise FRR at this threshold",
            "Comparisons of two images of one label that would be rejected. Not a rate of searches.",
            pairs.at_threshold.frr,
            MeasuredOn::ChoseThreshold,
        ));
    }
    figures
}

/// Cross-fitting measures the rule that chooses a threshold, and not this one threshold.
const RULE_FAR: &str = "FPIR by cross-fitting: each part of the labels judged by the threshold that the other parts chose.";

const RULE_FRR: &str = "FNIR by cross-fitting: each part of the labels judged by the threshold that the other parts chose.";

/// On which labels the FRR was measured. With a target FAR, mated searches have no part in choosing the
/// threshold, unless enrolled labels were left out.
pub(super) fn frr_basis(content: &Content) -> MeasuredOn {
    match content.evidence {
        _ if 0 < content.trials.left_out.searches => MeasuredOn::ChoseThreshold,
        None | Some(ThresholdEvidence::FarEstimated(_)) => MeasuredOn::HeldOut,
        Some(_) => MeasuredOn::ChoseThreshold,
    }
}

/// The Wilson interval of a point on the curve, with the effective number of trials at the threshold.
pub(super) fn band(estimate: f64, at_threshold: Option<Rate>) -> Option<RateInterval> {
    let rate = at_threshold?;
    let confidence = rate.interval.confidence;
    let interval = Interval::wilson(estimate, rate.effective_trials, confidence);
    Some(interval.into())
}

pub(super) fn scores(recording: &Recording) -> Option<BinnedScores> {
    let counted = histogram(recording.trials(), HISTOGRAM_BINS)?;
    Some(BinnedScores {
        lower: counted.lower,
        upper: counted.upper,
        mated: counted.mated,
        non_mated: counted.non_mated,
    })
}

pub(super) fn consistency(pairs: &PairsView) -> Option<ConsistencyFigures> {
    let measured = pairs.consistency.as_ref()?;
    let span = |of: &Resampled| RateInterval {
        lower: of.lower,
        upper: of.upper,
        confidence: of.confidence.get(),
    };
    let mut figures = Vec::new();
    if let Some(split) = &measured.split_half {
        figures.push(SpreadFigure {
            name: "OPIS, split-half".to_owned(),
            meaning: "The variance of utility over labels, free of the excess that few images cause. The figure to compare by.".to_owned(),
            value: Some(split.estimate),
            interval: Some(span(split)),
        });
    }
    figures.push(SpreadFigure {
        name: "OPIS".to_owned(),
        meaning: "The variance of utility over labels, averaged over the band; too high with few images of each label.".to_owned(),
        value: Some(measured.opis.estimate),
        interval: Some(span(&measured.opis)),
    });
    figures.push(SpreadFigure {
        name: format!("epsilon-OPIS ({:.0} %)", measured.epsilon * 100.0),
        meaning: "The squared distance in utility between the worst and the best labels."
            .to_owned(),
        value: Some(measured.epsilon_opis),
        interval: None,
    });
    let utilities = &pairs.utilities;
    let known = |curve: &[f64]| curve.iter().map(|value| Some(*value)).collect();
    Some(ConsistencyFigures {
        view: View::Pairwise,
        band: ThresholdBand {
            far_low: measured.band.far_low,
            far_high: measured.band.far_high,
            threshold_low: Some(f64::from(measured.threshold_low.get())),
            threshold_high: Some(f64::from(measured.threshold_high.get())),
        },
        figures,
        thresholds: utilities
            .thresholds
            .iter()
            .map(|threshold| f64::from(threshold.get()))
            .collect(),
        mean: known(&utilities.mean),
        labels: utilities
            .labels
            .iter()
            .map(|(label, curve)| LabelCurve {
                label: label.clone(),
                utility: known(curve),
            })
            .collect(),
        labels_skipped: measured.skipped,
    })
}

/// The table of possible targets.
pub(super) fn menu_of(findings: &Findings<'_>) -> Option<MenuTable> {
    let content = findings.content;
    let confidence = content.confidence().unwrap_or(0.95);
    let trials = findings.recording.trials();
    let request = MenuRequest {
        confidence,
        seed: content.seed,
        named: content.policy.certifies() || content.target_far().is_none(),
        gallery_items: content.turnover.map(|_| content.binding.gallery_items),
    };
    let menu = Menu::of(trials, request).ok()?;
    Some(menu_table(&menu))
}

pub(super) fn menu_table(menu: &Menu) -> MenuTable {
    let rows = menu.lines.iter().map(|line| MenuRow {
        far: line.far,
        standing: match line.standing {
            MenuStanding::Certified => "certified",
            MenuStanding::AimedAt => "aimed at, not certified",
            MenuStanding::Estimated => "estimated only",
            MenuStanding::Unsupported => "too few labels",
        }
        .to_owned(),
        threshold: line.threshold.map(|threshold| f64::from(threshold.get())),
        frr: line.frr.into(),
        frr_at_target: line.price.map(|price| price.frr_at_target),
        labels_needed: Some(line.labels_needed),
        labels_to_halve: line.price.and_then(|price| price.labels_to_halve),
    });
    MenuTable {
        confidence: menu.confidence,
        rows: rows.collect(),
    }
}
