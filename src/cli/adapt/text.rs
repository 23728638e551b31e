//! The result of a fit as text.

use super::{AdaptReport, COMPARED_MAX};
use crate::cli::output::{percent, table, wrapped};
use matchpoint_adapt::{Candidate, SupportedTargets};
use matchpoint_calibration::menu::{MenuLine, MenuStanding};

/// The whole result.
pub(super) fn text(report: &AdaptReport) -> String {
    let mut text = String::new();
    for one in &report.failed {
        text.push_str(&format!("failed: {one}\n"));
    }
    if report.near_copies_total.is_none() {
        let note = format!(
            "pictures that are nearly those of another label were not looked for: these are more than {COMPARED_MAX}"
        );
        text.push_str(&wrapped(&note, "note: "));
    }
    if let (Some(total), Some(first)) = (report.near_copies_total, report.near_copies.first()) {
        let warning = format!(
            "{} pictures are nearly those of another label (row {} of {} and row {} of {}, for one): nothing hurts a fit more; \
             correct their labels, or give both one label",
            total, first.row, first.label, first.first_row, first.first_label
        );
        text.push_str(&wrapped(&warning, "warning: "));
    }
    let mut rows: Vec<(&str, String)> = report
        .parts
        .iter()
        .map(|part| {
            let size = format!("{} labels, {} pictures", part.labels, part.rows);
            (part.part.as_str(), size)
        })
        .collect();
    rows.extend(report.left_out.rows());
    rows.push((
        "recipe",
        format!(
            "{}: {}, {} components to {}",
            report.recipe, report.what, report.from, report.to
        ),
    ));
    text.push_str(&table(&rows));
    text.push_str(&candidates_text(&report.candidates));
    let judgement = &report.judgement;
    text.push_str(&format!(
        "on {} labels that it had not seen (pairs; 95 % intervals of the difference, over labels)\n",
        judgement.labels
    ));
    for change in &judgement.changes {
        text.push_str(&format!(
            "  {:<16}  {:.4} -> {:.4}  [{:+.4} .. {:+.4}]  {}\n",
            change.figure,
            change.without,
            change.with,
            change.lower,
            change.upper,
            change.verdict()
        ));
    }
    if let Some(supported) = &report.supported {
        text.push_str(&supported_text(supported));
    }
    match (&judgement.refused, &report.written) {
        (Some(why), _) => {
            text.push_str(&wrapped(&format!("{why}; nothing is written"), "refused: "));
        }
        (None, Some(folder)) => {
            text.push_str(&format!("written to {}\n", folder.display()));
            let models = report.models.iter();
            let prints: Vec<(&str, String)> = models
                .map(|model| (model.precision.as_str(), model.fingerprint.clone()))
                .collect();
            text.push_str(&table(&prints));
        }
        (None, None) => {}
    }
    text
}

fn candidates_text(candidates: &[Candidate]) -> String {
    if candidates.is_empty() {
        return String::new();
    }
    let mut text = String::from(
        "cross-validation over the labels that fit (score: mean of EER, FRR at FAR 1e-2 and OPIS, each as a share of none's)\n",
    );
    for one in candidates {
        let figures = &one.figures;
        text.push_str(&format!(
            "  {:<16}  score {:.3}  Recall@1 {:.4}, EER {:.4}, FRR at FAR 1e-2 {:.4}, OPIS {:.4}\n",
            one.recipe,
            one.score,
            figures.recall_at_1,
            figures.equal_error,
            figures.frr_at_far_1e2,
            figures.opis
        ));
    }
    text
}

/// The targets that the remaining labels certify, for each FAR that is certified without or with the head.
fn supported_text(supported: &SupportedTargets) -> String {
    let lines = supported.without.lines.iter().zip(&supported.with.lines);
    let certified: Vec<(&MenuLine, &MenuLine)> = lines
        .filter(|(without, with)| [without, with].iter().any(|line| is_certified(line)))
        .collect();
    let (before, behind) = (
        supported.without.stranger_labels,
        supported.with.stranger_labels,
    );
    // Labels that may be the same stranger count once, and the head can change which labels these are.
    let strangers = if before == behind {
        format!("{behind} of strangers")
    } else {
        format!("{before} of strangers before, {behind} behind")
    };
    let labels = format!(
        "{} enrolled labels and {strangers}",
        supported.enrolled_labels
    );
    if certified.is_empty() {
        let least = supported
            .with
            .lines
            .last()
            .map_or(0, |line| line.labels_needed);
        let text = format!(
            "the labels left to calibrate with ({labels}) certify no FAR, before the head or behind it: it takes {least} labels of strangers"
        );
        return wrapped(&text, "");
    }
    let heading = format!(
        "what the labels left to calibrate with certify, each FAR by itself (searches; {labels}; {} confidence)",
        percent(supported.with.confidence)
    );
    let mut text = wrapped(&heading, "");
    for (without, with) in certified {
        let cell = |of: fn(&MenuLine) -> String| {
            let cell = |line: &MenuLine| {
                if is_certified(line) {
                    of(line)
                } else {
                    "none".to_owned()
                }
            };
            format!("{} -> {}", cell(without), cell(with))
        };
        text.push_str(&format!(
            "  FAR <= {:<6}  threshold {:<16}  FRR {}\n",
            percent(with.far),
            cell(threshold),
            cell(false_rejects)
        ));
    }
    text
}

/// The threshold of a line.
pub(super) fn threshold(line: &MenuLine) -> String {
    line.threshold
        .map_or_else(String::new, |threshold| format!("{:.3}", threshold.get()))
}

/// The FRR at this threshold.
pub(super) fn false_rejects(line: &MenuLine) -> String {
    let frr = line.frr.as_ref();
    frr.map_or_else(String::new, |frr| percent(frr.estimate))
}

pub(super) fn is_certified(line: &MenuLine) -> bool {
    line.standing == MenuStanding::Certified
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::input::left_out::LeftOut;
    use matchpoint_adapt::Judgement;

    #[test]
    fn near_copies_that_were_not_looked_for_are_not_said_to_be_none() {
        let report = |near_copies_total| AdaptReport {
            outcome: "refused",
            written: None,
            recipe: "whitening",
            what: "",
            seed: 0,
            from: 2,
            to: 2,
            parts: Vec::new(),
            candidates: Vec::new(),
            judgement: Judgement {
                labels: 0,
                rows: 0,
                changes: Vec::new(),
                refused: None,
            },
            supported: None,
            near_copies: Vec::new(),
            near_copies_total,
            models: Vec::new(),
            failed: Vec::new(),
            left_out: LeftOut::default(),
        };
        assert!(text(&report(None)).contains("were not looked for"));
        assert!(!text(&report(Some(0))).contains("nearly"));
    }
}
