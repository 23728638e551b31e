//! The result of a fit as a page.

use super::AdaptReport;
use super::text::{difference, false_rejects, figure, is_certified, threshold};
use crate::cli::output::percent;
use crate::clock::now_rfc_3339;
use matchpoint_adapt::{JudgedCurves, TradePoint};
use matchpoint_calibration::analysis::score_curve::ScoreBin;
use matchpoint_calibration::menu::MenuLine;
use matchpoint_report::adapted::{AdaptedReport, ServedLabel, SupportedTable, render};
use matchpoint_report::{BinnedScores, Picture};

/// The page, as HTML.
pub(super) fn page(
    report: &AdaptReport,
    curves: JudgedCurves,
    title: &str,
    pictures: &dyn Fn(&str) -> Vec<Picture>,
) -> String {
    let judgement = &report.judgement;
    let figures = judgement.changes.iter().map(|change| {
        [
            change.figure.clone(),
            figure(change, change.without),
            figure(change, change.with),
            difference(change, " to "),
            change.verdict().to_owned(),
        ]
    });
    let says = match &judgement.refused {
        Some(why) => format!("{why}; nothing was written."),
        None => format!(
            "EER and FRR at FAR 1 % are better beyond chance on {} labels that the head had not seen, and no figure is worse.",
            judgement.labels
        ),
    };
    let curve = |points: &[TradePoint]| {
        let points = points.iter();
        points
            .map(|at| [at.far, at.frr, at.lower, at.upper])
            .collect()
    };
    let mut facts = vec![
        [
            "recipe".to_owned(),
            format!("{}: {}", report.recipe, report.what),
        ],
        [
            "components".to_owned(),
            format!("{} to {}", report.from, report.to),
        ],
        ["seed".to_owned(), report.seed.to_string()],
    ];
    let layer = report.second_layer.iter();
    facts.extend(layer.map(|tensor| ["second layer".to_owned(), tensor.clone()]));
    facts.extend(report.parts.iter().map(|part| {
        let size = format!("{} labels, {} pictures", part.labels, part.rows);
        [part.part.as_str().to_owned(), size]
    }));
    facts.extend(report.candidates.iter().map(|one| {
        let score = format!(
            "leaves {:.0} % of EER, FRR and OPIS, in cross-validation over the labels that fit",
            one.score * 100.0
        );
        [one.recipe.clone(), score]
    }));
    let page = AdaptedReport {
        title: title.to_owned(),
        created: now_rfc_3339(),
        taken: judgement.refused.is_none(),
        says: vec![says],
        figures: figures.collect(),
        before: curve(&curves.without),
        behind: curve(&curves.with),
        scores: Some([&curves.scores_without, &curves.scores_with].map(|bins| binned(bins))),
        band: curves.band,
        labels: curves
            .labels
            .into_iter()
            .map(|label| ServedLabel {
                label: label.label,
                before: label.without,
                behind: label.with,
            })
            .collect(),
        supported: supported(report),
        facts,
    };
    render(&page, pictures)
}

/// Bins over similarities from -1 to 1.
fn binned(bins: &[ScoreBin]) -> BinnedScores {
    BinnedScores {
        lower: -1.0,
        upper: 1.0,
        mated: bins.iter().map(|bin| bin.mated).collect(),
        non_mated: bins.iter().map(|bin| bin.non_mated).collect(),
    }
}

/// The FARs that are certified without or with the head: the FAR, then threshold and FRR without and with it;
/// empty if not certified.
fn supported(report: &AdaptReport) -> Option<SupportedTable> {
    let found = report.supported.as_ref()?;
    let lines = found.without.lines.iter().zip(&found.with.lines);
    let cell = |line: &MenuLine, of: fn(&MenuLine) -> String| {
        if is_certified(line) {
            of(line)
        } else {
            String::new()
        }
    };
    let lines = lines.filter(|(without, with)| is_certified(without) || is_certified(with));
    let rows = lines.map(|(without, with)| {
        [
            percent(with.far),
            cell(without, threshold),
            cell(with, threshold),
            cell(without, false_rejects),
            cell(with, false_rejects),
        ]
    });
    Some(SupportedTable {
        enrolled_labels: found.enrolled_labels,
        stranger_labels: [&found.without, &found.with].map(|menu| menu.stranger_labels),
        confidence: percent(found.with.confidence),
        rows: rows.collect(),
    })
}
