//! The result of a fit as text.

use super::{AdaptReport, COMPARED_MAX, Crowd};
use crate::cli::output::{failed, percent, table, wrapped};
use matchpoint_adapt::{Candidate, JudgedFigure, Judgement, SupportedTargets};
use matchpoint_calibration::menu::{MenuLine, MenuStanding};

/// The whole result.
pub(super) fn text(report: &AdaptReport) -> String {
    let mut text = failed(&report.failed, true);
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
    text.push_str(&crowds_text(&report.crowds));
    let mut rows: Vec<(&str, String)> = report
        .parts
        .iter()
        .map(|part| {
            let size = format!("{} labels, {} pictures", part.labels, part.rows);
            (part.part.as_str(), size)
        })
        .collect();
    rows.extend(report.left_out.rows());
    rows.extend(report.second_layer.iter().map(|tensor| {
        let text = format!("the mean of {tensor}, beside the model's embedding");
        ("second layer", text)
    }));
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
    text.push_str(&judgement_text(judgement));
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

/// Each figure before the head and behind it.
fn judgement_text(judgement: &Judgement) -> String {
    let heading = format!(
        "on {} labels that it had not seen (pairs; in brackets the 95 % interval of the difference, over labels)",
        judgement.labels
    );
    let mut text = wrapped(&heading, "");
    for change in &judgement.changes {
        let [without, with] = [change.without, change.with].map(|value| figure(change, value));
        text.push_str(&format!(
            "  {:<16}  {without:>7} -> {with:<7}  [{}]  {}\n",
            change.figure,
            difference(change, " .. "),
            change.verdict()
        ));
    }
    text
}

/// A figure as it is written: rates in percent; OPIS is a variance, and none.
pub(super) fn figure(change: &JudgedFigure, value: f64) -> String {
    if change.figure == "OPIS" {
        format!("{value:.4}")
    } else {
        percent(value)
    }
}

/// The interval of a difference, of rates in percentage points.
pub(super) fn difference(change: &JudgedFigure, to: &str) -> String {
    if change.figure == "OPIS" {
        return format!("{:+.4}{to}{:+.4}", change.lower, change.upper);
    }
    let [lower, upper] = [change.lower, change.upper].map(|end| 100.0 * end);
    format!("{lower:+.2}{to}{upper:+.2} points")
}

fn candidates_text(candidates: &[Candidate]) -> String {
    if candidates.is_empty() {
        return String::new();
    }
    let heading = "cross-validation over the labels that fit (score: mean of EER, FRR at FAR 1 % and OPIS, each as a share of none's)";
    let mut text = wrapped(heading, "");
    for one in candidates {
        let figures = &one.figures;
        text.push_str(&format!(
            "  {:<16}  score {:.3}  Recall@1 {}, EER {}, FRR at FAR 1 % {}, OPIS {:.4}\n",
            one.recipe,
            one.score,
            percent(figures.recall_at_1),
            percent(figures.equal_error),
            percent(figures.frr_at_far_1e2),
            figures.opis
        ));
    }
    text
}

/// Labels that may be one thing under several names.
fn crowds_text(crowds: &[Crowd]) -> String {
    /// More groups, and more labels of each, are in the JSON.
    const SHOWN: usize = 4;
    if crowds.is_empty() {
        return String::new();
    }
    let shown = crowds.iter().take(SHOWN).map(|crowd| {
        let labels: Vec<&str> = crowd
            .labels
            .iter()
            .take(SHOWN)
            .map(String::as_str)
            .collect();
        let more = match crowd.labels.len().saturating_sub(SHOWN) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        format!("{}{more}", labels.join(" = "))
    });
    let more = match crowds.len().saturating_sub(SHOWN) {
        0 => String::new(),
        more => format!("; {more} more groups"),
    };
    let warning = format!(
        "pictures of these labels are as alike as those of one label (--json names all): {}{more}. Two labels of one thing hurt a fit: \
         give it one",
        shown.collect::<Vec<_>>().join("; ")
    );
    wrapped(&warning, "warning: ")
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

    #[test]
    fn near_copies_that_were_not_looked_for_are_not_said_to_be_none() {
        let report = |near_copies_total| AdaptReport {
            outcome: "refused",
            written: None,
            second_layer: None,
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
            crowds: Vec::new(),
            models: Vec::new(),
            failed: Vec::new(),
            left_out: LeftOut::default(),
        };
        assert!(text(&report(None)).contains("were not looked for"));
        assert!(!text(&report(Some(0))).contains("nearly"));
    }

    #[test]
    fn rates_are_in_percent_and_opis_is_not() {
        let change = |figure: &str| JudgedFigure {
            figure: figure.to_owned(),
            without: 0.119,
            with: 0.055,
            lower: -0.07,
            upper: 0.001,
            better: false,
            worse: false,
        };
        let eer = change("EER");
        assert_eq!(figure(&eer, eer.without), "11.9 %");
        assert_eq!(difference(&eer, " .. "), "-7.00 .. +0.10 points");
        let opis = change("OPIS");
        assert_eq!(figure(&opis, opis.with), "0.0550");
        assert_eq!(difference(&opis, " to "), "-0.0700 to +0.0010");
    }

    #[test]
    fn labels_that_crowd_each_other_are_named() {
        let crowd = |labels: &[&str]| Crowd {
            labels: labels.iter().map(|label| (*label).to_owned()).collect(),
            apart: 1.05,
        };
        let crowds: Vec<Crowd> = (0..7).map(|_| crowd(&["cup", "mug"])).collect();
        let text = crowds_text(&crowds)
            .split_whitespace()
            .collect::<Vec<_>>()
            .join(" ");
        assert!(
            text.contains("cup = mug; cup = mug") && text.contains("3 more groups"),
            "{text}"
        );
        assert!(crowds_text(&[]).is_empty());
    }
}
