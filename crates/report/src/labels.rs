//! The parts about labels: how consistent they are, which have the worst results, and which remedies help.

use super::contents::{
    ConditionTable, ConsistencyFigures, IntruderPair, Intruders, RemedyTable, ReportContents, View,
    WorstLabelTable,
};
use super::curves::{self, CURVES_MAX};
use super::markup::Markup;
use super::numbers::{confidences, count, plain, plain_span, score, short_percent};
use super::part::{ReportPart, interval_note};
use super::tables::{self, HtmlTable, TableColumn, cell, datum};

/// OPIS, with the curves that it is computed from.
pub(super) fn consistency(
    consistency: &ConsistencyFigures,
    threshold: Option<f64>,
) -> Option<ReportPart> {
    if consistency.figures.is_empty() && consistency.labels.is_empty() {
        return None;
    }
    let band = consistency.band;
    let band_text = format!(
        "FAR over all labels from {} to {}, thresholds {} to {}",
        short_percent(band.far_low),
        short_percent(band.far_high),
        score(band.threshold_low),
        score(band.threshold_high)
    );
    let mut body = Markup::default();
    for (index, figure) in consistency.figures.iter().enumerate() {
        let class = if index == 0 { "spread first" } else { "spread" };
        body.element("div", &[("class", class)], |inner| {
            inner.element("div", &[("class", "spread-name")], |name| {
                name.datum(&figure.name);
            });
            inner.line("div", "spread-value", &plain(figure.value));
            if let Some(span) = figure.interval {
                let interval = format!(
                    "{} at {}",
                    plain_span(Some(span)),
                    short_percent(span.confidence)
                );
                inner.line("div", "spread-interval", &interval);
            }
            inner.element("div", &[("class", "small")], |meaning| {
                meaning.text(&figure.meaning);
            });
        });
    }
    let outside = threshold.is_some_and(|threshold| {
        band.threshold_low.is_some_and(|low| threshold < low)
            || band.threshold_high.is_some_and(|high| high < threshold)
    });
    let outside = if outside {
        format!(
            " The threshold that was chosen, {}, lies outside it.",
            score(threshold)
        )
    } else {
        String::new()
    };
    body.line("p", "band-name", &format!("Band: {band_text}.{outside}"));
    if let Some(chart) = curves::utility(consistency, threshold) {
        body.append(chart);
    }
    body.append(utilities(consistency));
    Some(ReportPart {
        id: "consistency",
        title: "Do labels agree on a threshold?",
        view: Some(consistency.view),
        notes: consistency_notes(consistency),
        body,
    })
}

fn consistency_notes(consistency: &ConsistencyFigures) -> Vec<String> {
    let mut notes = vec![
        "Each thin line is a label. The further the lines fan out around their mean, the less one \
         threshold suits them all; OPIS is the mean squared distance from the mean."
            .to_owned(),
    ];
    let labels = consistency.labels.len();
    if CURVES_MAX < labels {
        notes.push(format!(
            "{CURVES_MAX} of {} labels are drawn, evenly spread from the worst to the best.",
            count(Some(labels as u64))
        ));
    }
    if 0 < consistency.labels_skipped {
        notes.push(format!(
            "{} left out for want of mated or non-mated pairs.",
            labels_text(consistency.labels_skipped)
        ));
    }
    notes
}

fn utilities(consistency: &ConsistencyFigures) -> Markup {
    let columns = [
        ("Threshold", TableColumn::Number),
        ("Mean utility", TableColumn::Number),
    ];
    let caption = format!(
        "Mean utility at {} thresholds",
        consistency.thresholds.len()
    );
    let mut means = HtmlTable::new(&caption, &columns);
    for (threshold, mean) in consistency.thresholds.iter().zip(&consistency.mean) {
        means.row(vec![cell(&score(Some(*threshold))), cell(&plain(*mean))]);
    }
    let columns = [
        ("Label", TableColumn::Words),
        ("Mean utility", TableColumn::Number),
    ];
    let caption = format!(
        "Mean utility over the band of {}",
        labels_text(consistency.labels.len() as u64)
    );
    let mut labels = HtmlTable::new(&caption, &columns);
    for curve in &consistency.labels {
        let mean = curves::mean_utility(curve);
        labels.row(vec![datum(&curve.label), cell(&plain(mean))]);
    }
    let mut folded = means.folded();
    folded.append(labels.folded());
    folded
}

/// The labels with the worst results, with their pictures.
pub(super) fn worst_labels(worst: &WorstLabelTable) -> Option<ReportPart> {
    if worst.rows.is_empty() {
        return None;
    }
    // A single label has no FAR in searches; the number of strangers accepted as it is shown instead.
    let has_far = worst.rows.iter().any(|row| row.far.value.is_some());
    let has_utility = worst.rows.iter().any(|row| row.utility.is_some());
    let mut columns = vec![
        ("Label", TableColumn::Words),
        ("FRR", TableColumn::Rate),
        if has_far {
            ("FAR", TableColumn::Rate)
        } else {
            ("Strangers accepted as it", TableColumn::Number)
        },
    ];
    columns.extend(has_utility.then_some(("Utility", TableColumn::Number)));
    let most_far = tables::most(worst.rows.iter().map(|row| row.far));
    let most_frr = tables::most(worst.rows.iter().map(|row| row.frr));
    let mut table = HtmlTable::new("", &columns);
    for row in &worst.rows {
        let mut name = datum(&row.label);
        if !row.pictures.is_empty() {
            name.element("div", &[("class", "strip")], |strip| {
                for picture in &row.pictures {
                    strip.picture(picture);
                }
            });
        }
        let far = if has_far {
            tables::rate(row.far, most_far)
        } else {
            cell(&count(row.far.events))
        };
        let mut cells = vec![name, tables::rate(row.frr, most_frr), far];
        cells.extend(has_utility.then(|| cell(&plain(row.utility))));
        table.row(cells);
    }
    let mut notes = vec![format!(
        "The {} that fare worst, of {}, by {}.",
        labels_text(worst.rows.len() as u64),
        count(Some(worst.labels)),
        worst.ranked_by
    )];
    notes.push(
        "The worst of many always look bad; intervals show how little is known of one label, and take its \
         pictures for independent ones."
            .to_owned(),
    );
    let estimates = worst.rows.iter().flat_map(|row| [row.far, row.frr]);
    let spans = confidences(estimates.filter_map(|estimate| estimate.interval));
    notes.extend(spans.map(|confidence| {
        format!("Intervals cover the true rate of one label with {confidence} confidence.")
    }));
    Some(ReportPart {
        id: "worst-labels",
        title: "The worst labels",
        view: Some(worst.view),
        notes,
        body: table.finish(),
    })
}

/// Pairs that would wrongly be accepted, side by side.
pub(super) fn intruders(intruders: &Intruders) -> Option<ReportPart> {
    if intruders.pairs.is_empty() {
        return None;
    }
    let body = side_by_side(&intruders.pairs);
    let shown = intruders.pairs.len() as u64;
    let mut notes = vec![
        "Two items of different labels, so similar that one would be accepted as the other: \
         look-alikes, duplicates, or items with a wrong label."
            .to_owned(),
    ];
    if let Some(total) = intruders.total.filter(|total| shown < *total) {
        notes.push(format!(
            "The {} most similar of {} such pairs.",
            count(Some(shown)),
            count(Some(total))
        ));
    }
    Some(ReportPart {
        id: "intruders",
        title: "Intruders",
        view: Some(View::Pairwise),
        notes,
        body,
    })
}

fn side_by_side(pairs: &[IntruderPair]) -> Markup {
    let mut body = Markup::default();
    body.element("div", &[("class", "intruders")], |grid| {
        for pair in pairs {
            grid.element("figure", &[("class", "intruder")], |figure| {
                let remark = pair.remark.as_ref().map(|remark| format!("; {remark}"));
                let caption = format!(
                    "score {}{}",
                    score(Some(pair.score)),
                    remark.unwrap_or_default()
                );
                figure.line("figcaption", "", &caption);
                figure.element("div", &[("class", "two")], |two| {
                    two.item(&pair.first);
                    two.item(&pair.second);
                });
            });
        }
    });
    body
}

/// The searches for strangers with the highest scores, each with the item that it found.
pub(super) fn nearest_strangers(strangers: &Intruders) -> Option<ReportPart> {
    if strangers.pairs.is_empty() {
        return None;
    }
    Some(ReportPart {
        id: "nearest-strangers",
        title: "Nearest strangers",
        view: Some(View::Search),
        notes: vec![
            "The queries of strangers with the highest scores, each beside the item that it found. They \
             set the threshold: one with a wrong label, or a picture of what is enrolled, costs false \
             rejects for nothing; a real look-alike is what the threshold is for."
                .to_owned(),
        ],
        body: side_by_side(&strangers.pairs),
    })
}

/// The FAR under each stress condition.
pub(super) fn stress(report: &ReportContents) -> Option<ReportPart> {
    if report.stress.is_empty() {
        return None;
    }
    let columns = [
        ("Strangers", TableColumn::Words),
        ("FAR", TableColumn::Rate),
    ];
    let most = tables::most(report.stress.iter().map(|row| row.far));
    let mut table = HtmlTable::new("", &columns);
    for row in &report.stress {
        let mut name = datum(&row.value);
        if let Some(labels) = row.far.labels {
            name.line("span", "small", &labels_text(labels));
        }
        if let Some(mark) = &row.mark {
            name.line("span", "small", mark);
        }
        table.row(vec![name, tables::rate(row.far, most)]);
    }
    let mut notes = vec![
        "What the false accept rate would be if service brought only these strangers, or had a larger \
         gallery. On the data at hand, and not promised."
            .to_owned(),
    ];
    notes.extend(interval_note(report.stress.iter().map(|row| row.far)));
    Some(ReportPart {
        id: "stress",
        title: "Under stress",
        view: Some(report.view),
        notes,
        body: table.finish(),
    })
}

/// A table of rates for each metadata column.
pub(super) fn conditions(report: &ReportContents) -> Option<ReportPart> {
    let mut body = Markup::default();
    for condition in &report.conditions {
        body.append(condition_table(condition));
    }
    if body.is_empty() {
        return None;
    }
    let rows = || {
        report
            .conditions
            .iter()
            .flat_map(|condition| &condition.rows)
    };
    let mut notes = vec![
        "The same threshold, for each value of a metadata column. Lines share one scale \
         for each column of a table, from zero."
            .to_owned(),
    ];
    notes.extend(interval_note(rows().flat_map(|row| [row.far, row.frr])));
    Some(ReportPart {
        id: "conditions",
        title: "Conditions",
        view: Some(report.view),
        notes,
        body,
    })
}

fn condition_table(condition: &ConditionTable) -> Markup {
    let columns = [
        (condition.column.as_str(), TableColumn::Words),
        ("FAR", TableColumn::Rate),
        ("FRR", TableColumn::Rate),
    ];
    let most_far = tables::most(condition.rows.iter().map(|row| row.far));
    let most_frr = tables::most(condition.rows.iter().map(|row| row.frr));
    let mut table = HtmlTable::new("", &columns);
    for row in &condition.rows {
        let labels = row.frr.labels.or(row.far.labels);
        let mut name = datum(&row.value);
        if let Some(labels) = labels {
            name.line("span", "small", &labels_text(labels));
        }
        if let Some(mark) = &row.mark {
            name.line("span", "small", mark);
        }
        table.row(vec![
            name,
            tables::rate(row.far, most_far),
            tables::rate(row.frr, most_frr),
        ]);
    }
    table.finish()
}

/// The remedies that were tried, with conclusions.
pub(super) fn remedies(remedies: &RemedyTable) -> Option<ReportPart> {
    if remedies.rows.is_empty() {
        return None;
    }
    let columns = [
        ("Remedy", TableColumn::Words),
        ("FAR", TableColumn::Rate),
        ("FRR", TableColumn::Rate),
        ("FRR, worst labels", TableColumn::Rate),
        ("Spread", TableColumn::Number),
    ];
    let rows = &remedies.rows;
    let most_far = tables::most(rows.iter().map(|row| row.far));
    let most_frr = tables::most(rows.iter().map(|row| row.frr));
    let most_worst = tables::most(rows.iter().map(|row| row.worst_frr));
    let mut table = HtmlTable::new("", &columns);
    for row in rows {
        let mut name = datum(&row.name);
        if row.preferred {
            name.line("span", "preferred", "to be preferred");
        }
        table.marked_row(
            "explained",
            vec![
                name,
                tables::rate(row.far, most_far),
                tables::rate(row.frr, most_frr),
                tables::rate(row.worst_frr, most_worst),
                cell(&plain(row.spread)),
            ],
        );
        table.sentence(&row.verdict);
    }
    let mut notes = vec![
        "Each remedy was fitted on some labels and is judged here on others, by the FRR at the same FAR. \
         Spread is the variance of utility over labels."
            .to_owned(),
    ];
    notes.extend(interval_note(
        rows.iter()
            .flat_map(|row| [row.far, row.frr, row.worst_frr]),
    ));
    Some(ReportPart {
        id: "remedies",
        title: "Remedies",
        view: Some(remedies.view),
        notes,
        body: table.finish(),
    })
}

fn labels_text(labels: u64) -> String {
    if labels == 1 {
        "1 label".to_owned()
    } else {
        format!("{} labels", count(Some(labels)))
    }
}
