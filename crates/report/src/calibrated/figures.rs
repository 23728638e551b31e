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
use matchpoint_calibration::operating_point::{Content, Policy, ThresholdEvidence};
use matchpoint_calibration::rates::{Interval, Rate};
use matchpoint_calibration::recording::Recording;
use matchpoint_calibration::strangers::is_unnamed;

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

/// The table of possible targets; `None` if nobody can say what the searches certify of another target than their own.
pub(super) fn menu_of(findings: &Findings<'_>) -> Option<MenuTable> {
    let (content, recording) = (findings.content, findings.recording);
    let trials = recording.trials();
    // With recorded searches it is not kept which labels may be one stranger.
    let strangers_known = !content.holds_either_way() || !trials.repeats().is_empty();
    // Labels that chose the score certify what was asked of all scores together.
    if !strangers_known || !recording.score_labels().is_empty() {
        return None;
    }
    let mut strangers = trials.non_mated().iter();
    let unnamed = strangers.any(|search| is_unnamed(&search.label));
    // Somebody vouched for them.
    let vouched = content.policy == Policy::TargetFarCertified;
    let certifies = content.policy.certifies() || content.target_far().is_none();
    let request = MenuRequest {
        confidence: content.confidence().unwrap_or(0.95),
        seed: content.seed,
        named: certifies && (vouched || !unnamed),
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::calibrated::NoPictures;
    use matchpoint_calibration::analysis::JudgedSearches;
    use matchpoint_calibration::analysis::crowded::CrowdedStrangers;
    use matchpoint_calibration::certify::TargetFar;
    use matchpoint_calibration::operating_point::{Binding, Metric, OperatingPoint, PointPlan};
    use matchpoint_calibration::policy::CalibrationTarget;
    use matchpoint_calibration::recording::{RecordedSearch, TrialKind};

    fn plan(target: CalibrationTarget, remarks: Vec<String>) -> PointPlan {
        PointPlan {
            created: "2026-01-02T03:04:05Z".to_owned(),
            target,
            seed: 1,
            binding: Binding {
                model_fingerprint: "mf-1".to_owned(),
                model_name: "toy".to_owned(),
                gallery_id: "g-1".to_owned(),
                gallery_digest: "00ff".to_owned(),
                gallery_items: 40,
                gallery_labels: 20,
                index: "exact".to_owned(),
                metric: Metric::Cosine,
            },
            software: "matchpoint".to_owned(),
            held_out: None,
            growth: None,
            turnover: None,
            index_check: None,
            adjustment: None,
            worst_group: None,
            review: None,
            remarks,
        }
    }

    fn stranger(number: usize, label: String) -> RecordedSearch {
        RecordedSearch {
            probe: format!("probe {number}"),
            label,
            truth: TrialKind::NeverEnrolled,
            found: None,
            conditions: BTreeMap::new(),
        }
    }

    /// Whether the page shows targets to choose from, and how many of them as certified.
    fn menu(recording: &Recording, of: CalibrationTarget, remarks: Vec<String>) -> Option<usize> {
        let point = OperatingPoint::calibrated(recording.trials(), plan(of, remarks)).unwrap();
        let analysis = JudgedSearches {
            recording,
            threshold: point.threshold(),
            target: of,
            seed: 1,
        };
        let menu = menu_of(&Findings {
            id: None,
            content: point.content(),
            recording,
            analysis: &analysis.analyse(),
            pictures: &NoPictures,
        })?;
        let certified = menu.rows.iter().filter(|row| row.standing == "certified");
        Some(certified.count())
    }

    #[test]
    fn no_other_target_is_certified_on_searches_that_do_not_show_what_they_count_as() {
        let all = (0..60).map(|number| stranger(number, format!("s{number}")));
        let recorded = Recording::new(all.collect()).unwrap();
        let far = CalibrationTarget::Far(TargetFar::new(0.3, 0.9).unwrap());
        // 5, 10, 20 and 30 %.
        assert_eq!(menu(&recorded, far, Vec::new()), Some(4));
        let label = |number: usize| format!("s{number}");
        let crowded = CrowdedStrangers {
            labels: 41,
            strangers: 1,
            level: 0.9,
            groups: vec![(0..41).map(label).collect()],
        };
        let either_way = || vec![crowded.describe()];
        let marked = recorded.clone().with_repeats(crowded.repeats());
        // 20 strangers certify neither 5 nor 10 %.
        assert_eq!(menu(&marked, far, either_way()), Some(2));
        assert_eq!(menu(&recorded, far, either_way()), None);
        let chose = recorded.with_score_labels(["s1".to_owned()].into());
        assert_eq!(menu(&chose, far, Vec::new()), None);
    }

    #[test]
    fn strangers_without_a_name_certify_no_other_target_either() {
        let unnamed = |number: usize| format!("stranger-0199f0aa-7c1b-7e0e-8d63-{number:012x}");
        let all = (0..60).map(|number| stranger(number, unnamed(number)));
        let recorded = Recording::new(all.collect()).unwrap();
        let far = TargetFar::new(0.3, 0.9).unwrap();
        let estimated = CalibrationTarget::FarEstimated(far);
        assert_eq!(menu(&recorded, estimated, Vec::new()), Some(0));
        // Somebody said that each is another one.
        assert_eq!(
            menu(&recorded, CalibrationTarget::Far(far), Vec::new()),
            Some(4)
        );
    }
}
