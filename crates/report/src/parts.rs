//! The parts of the report below the verdict, in reading order. The parts about labels are in `labels`.

use super::charts::{self, trial_names};
use super::contents::{Figure, GrowthCurve, MeasuredOn, MenuTable, ReportContents, View};
use super::curves;
use super::estimate::Estimate;
use super::labels;
use super::markup::Markup;
use super::numbers::{
    UNKNOWN, confidences, count, events, percent, percent_span, score, short_percent, trials,
};
use super::part::{ReportPart, interval_note};
use super::tables::{self, HtmlTable, TableColumn, cell, datum, named};

/// All parts that have content.
pub(super) fn all(report: &ReportContents) -> Vec<ReportPart> {
    let mut parts = vec![figures(report), det(report), errors(report), scores(report)];
    let threshold = report.operating_point.as_ref().map(|point| point.threshold);
    parts.extend([
        report
            .consistency
            .as_ref()
            .and_then(|consistency| labels::consistency(consistency, threshold)),
        report.worst_labels.as_ref().and_then(labels::worst_labels),
        report.intruders.as_ref().and_then(labels::intruders),
        report
            .nearest_strangers
            .as_ref()
            .and_then(labels::nearest_strangers),
        report.menu.as_ref().and_then(menu),
        labels::stress(report),
        labels::conditions(report),
        report.growth.as_ref().and_then(growth),
        report.remedies.as_ref().and_then(labels::remedies),
        made_with(report),
        assumptions(report),
    ]);
    parts.into_iter().flatten().collect()
}

/// The targets that can be asked for.
fn menu(menu: &MenuTable) -> Option<ReportPart> {
    if menu.rows.is_empty() {
        return None;
    }
    let columns = [
        ("FAR asked for", TableColumn::Words),
        ("Accept from", TableColumn::Number),
        ("FRR", TableColumn::Rate),
        ("FRR at that true FAR", TableColumn::Number),
        ("Labels it takes", TableColumn::Number),
        ("More to halve the price", TableColumn::Number),
    ];
    let most = tables::most(menu.rows.iter().map(|row| row.frr));
    let mut table = HtmlTable::new("", &columns);
    for row in &menu.rows {
        let far = percent(Some(row.far));
        if row.threshold.is_none() && row.frr.value.is_none() {
            let takes = count(row.labels_needed);
            let said = format!("{}: it takes {takes} labels of strangers", row.standing);
            table.short_row(datum(&far), cell(&said));
            continue;
        }
        table.row(vec![
            named(&far, &row.standing),
            cell(&score(row.threshold)),
            tables::rate(row.frr, most),
            cell(&percent(row.frr_at_target)),
            cell(&count(row.labels_needed)),
            cell(&count(row.labels_to_halve)),
        ]);
    }
    let mut notes = vec![format!(
        "Each row holds by itself, at {} confidence. A certified threshold lets in fewer than its target, \
         which costs false rejects: the price of the proof.",
        short_percent(menu.confidence)
    )];
    notes.extend(interval_note(menu.rows.iter().map(|row| row.frr)));
    Some(ReportPart {
        id: "menu",
        title: "To choose from",
        view: Some(View::Search),
        notes,
        body: table.finish(),
    })
}

fn figures(report: &ReportContents) -> Option<ReportPart> {
    if report.figures.is_empty() {
        return None;
    }
    let [_, trials_name] = trial_names(report.view);
    let columns = [
        ("Rate", TableColumn::Words),
        ("Estimate and interval", TableColumn::Number),
        ("Events", TableColumn::Number),
        ("Labels", TableColumn::Number),
        ("Effective trials", TableColumn::Number),
        ("Measured on", TableColumn::Words),
    ];
    let mut table = HtmlTable::new("", &columns);
    for figure in &report.figures {
        let Estimate { value, events, .. } = figure.estimate;
        if value.is_none() && events.is_none() {
            let mut said = cell(UNKNOWN);
            said.line("span", "small", basis(figure.basis));
            table.short_row(named(&figure.name, &figure.meaning), said);
        } else {
            table.row(figure_cells(figure));
        }
    }
    let mut notes = vec![format!(
        "Items of one label are alike, so {trials_name} that share a label say less than as many \
         independent ones. Effective trials is how many independent {trials_name} would be as \
         uncertain."
    )];
    notes.extend(interval_note(
        report.figures.iter().map(|figure| figure.estimate),
    ));
    Some(ReportPart {
        id: "figures",
        title: "Key figures",
        view: Some(report.view),
        notes,
        body: table.finish(),
    })
}

fn figure_cells(figure: &Figure) -> Vec<Markup> {
    let estimate = figure.estimate;
    let mut value = Markup::default();
    tables::value(&mut value, estimate);
    let interval = match estimate.interval {
        Some(span) => format!(
            "{} at {}",
            percent_span(estimate.interval),
            short_percent(span.confidence)
        ),
        None => "interval unknown".to_owned(),
    };
    value.line("span", "small", &interval);
    vec![
        named(&figure.name, &figure.meaning),
        value,
        cell(&events(estimate)),
        cell(&count(estimate.labels)),
        cell(&trials(estimate.effective_trials)),
        cell(basis(figure.basis)),
    ]
}

/// The labels that a figure was measured on, in words. The reader has to know if a figure is optimistic.
pub(super) fn basis(basis: MeasuredOn) -> &'static str {
    match basis {
        MeasuredOn::HeldOut => "labels that did not choose the threshold",
        MeasuredOn::ChoseThreshold => "the labels that chose the threshold: too good",
        MeasuredOn::NoThreshold => "all labels; does not depend on a threshold",
    }
}

fn det(report: &ReportContents) -> Option<ReportPart> {
    let body = charts::det(report)?;
    let mut notes = vec![
        "Every point of the curve is a threshold. Lower and further left is better; on these axes \
         normally distributed scores give a straight line."
            .to_owned(),
    ];
    let spans = report
        .trade_off
        .iter()
        .filter(|point| point.frr_interval.is_some())
        .filter_map(|point| point.far_interval);
    if let Some(confidence) = confidences(spans) {
        notes.push(format!(
            "The band joins the ends of the {confidence} intervals of both rates."
        ));
    }
    let nought = |rate: Option<f64>| rate.is_some_and(|rate| rate <= 0.0);
    if report
        .trade_off
        .iter()
        .any(|point| nought(point.far) || nought(point.frr))
    {
        notes.push("Rates of zero have no place on these axes.".to_owned());
    }
    Some(ReportPart {
        id: "trade-off",
        title: "One error for the other",
        view: Some(report.view),
        notes,
        body,
    })
}

fn errors(report: &ReportContents) -> Option<ReportPart> {
    let mut body = charts::errors(report)?;
    let columns = [
        ("Threshold", TableColumn::Number),
        ("FAR", TableColumn::Number),
        ("FAR, interval", TableColumn::Number),
        ("FRR", TableColumn::Number),
        ("FRR, interval", TableColumn::Number),
    ];
    let caption = format!("FAR and FRR at {} thresholds", report.trade_off.len());
    let mut table = HtmlTable::new(&caption, &columns);
    for point in &report.trade_off {
        table.row(vec![
            cell(&score(Some(point.threshold))),
            cell(&percent(point.far)),
            cell(&percent_span(point.far_interval)),
            cell(&percent(point.frr)),
            cell(&percent_span(point.frr_interval)),
        ]);
    }
    body.append(table.folded());
    Some(ReportPart {
        id: "thresholds",
        title: "Errors by threshold",
        view: Some(report.view),
        notes: vec![
            "A higher threshold accepts fewer of the wrong and fewer of the right. A rate of zero \
             is below the axis."
                .to_owned(),
        ],
        body,
    })
}

fn scores(report: &ReportContents) -> Option<ReportPart> {
    let histogram = report.histogram.as_ref()?;
    let mut body = charts::histograms(histogram, report)?;
    let columns = [
        ("Score from", TableColumn::Number),
        ("Mated", TableColumn::Number),
        ("Non-mated", TableColumn::Number),
    ];
    let mut table = HtmlTable::new("Counts by bin", &columns);
    let bins = histogram.mated.len().max(histogram.non_mated.len());
    for bin in 0..bins {
        let (mated, strangers) = (histogram.mated.get(bin), histogram.non_mated.get(bin));
        if mated.is_some_and(|count| 0 < *count) || strangers.is_some_and(|count| 0 < *count) {
            let share = real(bin) / real(bins);
            let edge = histogram.lower + (histogram.upper - histogram.lower) * share;
            table.row(vec![
                cell(&score(Some(edge))),
                cell(&count(mated.copied())),
                cell(&count(strangers.copied())),
            ]);
        }
    }
    body.append(table.folded());
    let notes = match report.view {
        View::Search => [
            "The best score of every search: mated if the label of the probe is enrolled, \
             non-mated if it is not.",
            "Above, each kind as shares of itself; below, counts, which show the few that matter.",
        ],
        View::Pairwise => [
            "The score of every pair: mated if both items have one label, non-mated if \
             they have two.",
            "Above, each kind as shares of itself; below, counts, which show the few that matter.",
        ],
    };
    Some(ReportPart {
        id: "scores",
        title: "Scores",
        view: Some(report.view),
        notes: notes.map(str::to_owned).into(),
        body,
    })
}

fn growth(growth: &GrowthCurve) -> Option<ReportPart> {
    let mut body = curves::growth(growth)?;
    let columns = [
        ("Items", TableColumn::Number),
        ("FAR", TableColumn::Number),
        ("Interval", TableColumn::Number),
        ("How it is known", TableColumn::Words),
    ];
    let mut table = HtmlTable::new("FAR by size of the gallery", &columns);
    for (points, how) in [
        (&growth.measured, "measured"),
        (&growth.predicted, "predicted"),
    ] {
        for point in points {
            let how = match (how, point.exact) {
                ("measured", false) => "measured, at least",
                _ => how,
            };
            table.row(vec![
                cell(&count(Some(point.items))),
                cell(&percent(point.far)),
                cell(&percent_span(point.interval)),
                cell(how),
            ]);
        }
    }
    body.append(table.folded());
    let mut notes =
        vec!["In a larger gallery a search has more chances to find a wrong item.".to_owned()];
    if let (Some(items), Some(target)) = (growth.holds_until, growth.target) {
        notes.push(format!(
            "At this threshold the upper end of what is predicted meets {} up to {} items.",
            short_percent(target),
            count(Some(items))
        ));
    }
    let spans = growth.measured.iter().filter_map(|point| point.interval);
    if let Some(confidence) = confidences(spans) {
        notes.push(format!("Whiskers are {confidence} intervals over labels."));
    }
    notes.push(format!("The prediction assumes: {}", growth.assumption));
    Some(ReportPart {
        id: "growth",
        title: "As the gallery grows",
        view: Some(View::Search),
        notes,
        body,
    })
}

fn made_with(report: &ReportContents) -> Option<ReportPart> {
    if report.made_with.is_empty() {
        return None;
    }
    let mut body = Markup::default();
    body.element("dl", &[("class", "facts")], |list| {
        for fact in &report.made_with {
            list.line("dt", "", &fact.name);
            list.element("dd", &[], |value| match &fact.value {
                Some(known) => value.datum(known),
                None => value.text(UNKNOWN),
            });
        }
    });
    Some(ReportPart {
        id: "made-with",
        title: "Made with",
        view: None,
        notes: vec!["With another model, gallery or index none of this holds.".to_owned()],
        body,
    })
}

fn assumptions(report: &ReportContents) -> Option<ReportPart> {
    if report.assumptions.is_empty() {
        return None;
    }
    let mut body = Markup::default();
    body.element("ol", &[("class", "assumptions")], |list| {
        for assumption in &report.assumptions {
            list.line("li", "", assumption);
        }
    });
    Some(ReportPart {
        id: "assumptions",
        title: "Assumptions",
        view: None,
        notes: vec!["If one of these is wrong, so is what rests on it.".to_owned()],
        body,
    })
}

fn real(bin: usize) -> f64 {
    matchpoint_calibration::binomial::real(bin as u64)
}
