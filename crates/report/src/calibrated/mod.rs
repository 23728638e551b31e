//! Converts a calibration and its analysis to a report.

mod by_label;
mod comparisons;
mod figures;
mod findings;
mod verdict;

pub use comparisons::above_target;
pub use findings::{Findings, NoPictures, ReportPictures};

use crate::contents::{ClaimKind, ReportContents, ReportVerdict, TradeOffPoint, View};
use by_label::{intruders, nearest_strangers, worst_labels};
use comparisons::{conditions, growth, remedies, stress};
use figures::{band, consistency, figures, menu_of, menu_table, operating_point, scores};
use matchpoint_calibration::menu::Menu;
use matchpoint_calibration::policy::CalibrationTarget;
use matchpoint_calibration::procedure::{
    Refusal, ThresholdSettings, VectorCalibration, VectorSource,
};
use matchpoint_calibration::target_rate::{can_be_asked_for, percent_at_least};
use verdict::{made_with, rule, sentence, target, verdict};

/// The part of a report that is known before the calibration.
#[derive(Clone, Debug)]
pub struct Outline {
    /// What is calibrated, in a few words.
    pub title: String,
    /// The time of the calibration, RFC 3339.
    pub created: String,
    /// The rate that was asked for.
    pub target: CalibrationTarget,
}

impl Outline {
    /// The report of a refused calibration.
    #[must_use]
    pub fn refused(&self, refusal: &Refusal) -> ReportContents {
        let mut needed = Vec::new();
        if let (Some(count), Some(present)) = (refusal.needed, refusal.independent_trials) {
            needed.push(format!(
                "Queries of {count} labels; there are {present}. More images of the same labels do not help."
            ));
        }
        if let Some(best) = refusal
            .best_supported
            .filter(|best| can_be_asked_for(*best))
        {
            needed.push(format!(
                "Or ask for {} or more: the lowest rate that these labels can support.",
                percent_at_least(best)
            ));
        }
        let verdict = ReportVerdict {
            standing: ClaimKind::Refused,
            target: target(self.target),
            rule: rule(self.target).to_owned(),
            bound: None,
            reasons: vec![sentence(&refusal.message)],
            needed,
            data: Vec::new(),
        };
        ReportContents {
            created: Some(self.created.clone()),
            ..ReportContents::new(&self.title, View::Search, verdict)
        }
    }

    /// The report of a successful calibration.
    #[must_use]
    pub fn page(&self, findings: &Findings<'_>) -> ReportContents {
        let (content, analysis) = (findings.content, findings.analysis);
        let pairwise = analysis.pairwise.as_ref();
        ReportContents {
            title: self.title.clone(),
            created: Some(self.created.clone()),
            view: View::Search,
            verdict: verdict(self.target, content),
            operating_point: Some(operating_point(findings)),
            figures: figures(content, pairwise),
            trade_off: content
                .curve
                .iter()
                .map(|point| TradeOffPoint {
                    threshold: f64::from(point.threshold.get()),
                    far: point.far,
                    far_interval: point.far.and_then(|far| band(far, content.measured.far)),
                    frr: point.frr,
                    frr_interval: point.frr.and_then(|frr| band(frr, content.measured.frr)),
                })
                .collect(),
            histogram: scores(findings.recording),
            consistency: pairwise.and_then(consistency),
            worst_labels: worst_labels(findings),
            intruders: intruders(findings),
            nearest_strangers: nearest_strangers(findings),
            conditions: conditions(&analysis.conditions, content.target_far()),
            growth: analysis.growth.as_ref().map(|sizes| growth(sizes, content)),
            remedies: analysis.remedies.as_ref().map(remedies),
            menu: menu_of(findings),
            stress: analysis
                .stress
                .iter()
                .map(|one| stress(one, content))
                .collect(),
            made_with: made_with(content),
            assumptions: content.assumptions.clone(),
        }
    }
}

/// The page of a calibration without a target, which lists the possible ones.
#[must_use]
pub fn menu_page(title: &str, menu: &Menu, next: &str) -> ReportContents {
    let verdict = ReportVerdict {
        standing: ClaimKind::Refused,
        target: None,
        rule: "none yet: no target was named".to_owned(),
        bound: None,
        reasons: Vec::new(),
        needed: vec![format!("Name one: {next} --target-far RATE.")],
        data: vec![format!("{} labels of strangers.", menu.stranger_labels)],
    };
    ReportContents {
        menu: Some(menu_table(menu)),
        ..ReportContents::new(
            &format!("{title}: what to choose from"),
            View::Search,
            verdict,
        )
    }
}

/// The report of a calibration without a deployment, of vectors or of scores.
#[must_use]
pub fn page_of_vectors(
    source: &VectorSource,
    settings: &ThresholdSettings,
    found: &VectorCalibration,
) -> ReportContents {
    let outline = Outline {
        title: format!("{}: calibration", source.name),
        created: source.created.clone(),
        target: settings.target,
    };
    match &found.outcome {
        Ok(supported) => outline.page(&Findings {
            id: None,
            content: supported.point.content(),
            recording: &found.trials.recording,
            analysis: &supported.analysis,
            pictures: &NoPictures,
        }),
        Err(refusal) => outline.refused(refusal),
    }
}
