//! The page about a head: its figures with and without the head, on labels that it was not fitted to.

use super::axis::{AxisScale, AxisUnit, ChartAxis};
use super::charts::pair_histogram;
use super::contents::{BinnedScores, Picture};
use super::markup::Markup;
use super::numbers::shortened;
use super::page::document;
use super::plot::{AxisNames, Plot, TextAnchor};
use super::tables::{HtmlTable, TableColumn, cell};

/// The highest number of curves; more would form a solid area.
const CURVES_MAX: usize = 200;
/// Number of worst labels that are listed.
const WORST: usize = 20;

/// The result of fitting a head, as text and curves.
#[derive(Clone, Debug, Default)]
pub struct AdaptedReport {
    /// The name of what was adapted.
    pub title: String,
    /// When the head was fitted.
    pub created: String,
    /// Whether the head is accepted.
    pub taken: bool,
    /// The result, in a sentence or two.
    pub says: Vec<String>,
    /// The figures: name, without the head, with it, interval of the difference, verdict.
    pub figures: Vec<[String; 5]>,
    /// FRR at each FAR without the head: FAR, FRR, and both ends of its interval.
    pub before: Vec<[f64; 4]>,
    /// The same with the head.
    pub behind: Vec<[f64; 4]>,
    /// The similarities of all pairs without and with the head.
    pub scores: Option<[BinnedScores; 2]>,
    /// The FARs at which labels are compared.
    pub band: Vec<f64>,
    /// The utility of each label.
    pub labels: Vec<ServedLabel>,
    /// The targets that can be certified on labels that neither fitted nor judged the head; `None` if there are
    /// too few.
    pub supported: Option<SupportedTable>,
    /// Names and values that describe the fit.
    pub facts: Vec<[String; 2]>,
}

/// For each FAR, the certified threshold and its FRR, without the head and with it.
#[derive(Clone, Debug, Default)]
pub struct SupportedTable {
    /// Number of enrolled labels.
    pub enrolled_labels: usize,
    /// Number of strangers without and with the head; labels that may be the same stranger count once.
    pub stranger_labels: [u64; 2],
    /// The confidence, as text.
    pub confidence: String,
    /// FAR, threshold without and with the head, FRR without and with it; empty if nothing is certified.
    pub rows: Vec<[String; 5]>,
}

/// How well one threshold serves a label: the harmonic mean of sensitivity and specificity, at each FAR of the
/// band.
#[derive(Clone, Debug)]
pub struct ServedLabel {
    /// The label.
    pub label: String,
    /// The utility without the head.
    pub before: Vec<f64>,
    /// The utility with the head.
    pub behind: Vec<f64>,
}

impl ServedLabel {
    fn mean(utility: &[f64]) -> f64 {
        utility.iter().sum::<f64>()
            / matchpoint_calibration::binomial::real(utility.len() as u64).max(1.0)
    }
}

/// Renders the page as one HTML file without scripts and network access. `pictures` returns pictures of a
/// label; it is called for the labels with the worst results.
#[must_use]
pub fn render(report: &AdaptedReport, pictures: &dyn Fn(&str) -> Vec<Picture>) -> String {
    let page = document(&report.title, |main| {
        main.element("header", &[], |header| {
            let kicker = "Head fitted to labels: before and behind, on labels that it had not seen";
            header.line("p", "kicker", kicker);
            header.element("h1", &[], |title| title.datum(&report.title));
            header.line("p", "created", &report.created);
        });
        verdict(main, report);
        section(main, "figures", "Figures", FIGURES_NOTE, |body| {
            body.append(figures(report));
        });
        if let Some(chart) = det(report) {
            section(
                main,
                "det",
                "False rejects against false accepts",
                DET_NOTE,
                |body| {
                    body.append(chart);
                },
            );
        }
        scores(main, report);
        let supports = |table: &&SupportedTable| !table.rows.is_empty();
        if let Some(table) = report.supported.as_ref().filter(supports) {
            supported(main, table);
        }
        fans(main, report);
        section(
            main,
            "worst",
            "Labels that fare worst",
            WORST_NOTE,
            |body| {
                for (name, of) in WORST_BY {
                    body.line("p", "band-name", name);
                    body.append(worst(report, of, pictures));
                }
            },
        );
        section(main, "fit", "How it was fitted", "", |body| {
            let columns = [("", TableColumn::Words), ("", TableColumn::Words)];
            let mut table = HtmlTable::new("", &columns);
            for [name, value] in &report.facts {
                table.row(vec![cell(name), cell(value)]);
            }
            body.append(table.finish());
        });
    });
    page.finish()
}

const FIGURES_NOTE: &str = "Rates of pairs of pictures. Intervals are of the difference, at 95 %, over labels sampled again: a head is accepted only if EER and FRR are better by more than that.";
const DET_NOTE: &str = "Broken line: before. Solid line: behind the head. The bands contain 95 % of the curves when labels are sampled again.";
const SCORES_NOTE: &str = "Pairs of pictures of one label (mated) and of two labels (non-mated). The less they overlap, the fewer errors any threshold makes.";
const FAN_NOTE: &str = "One line for each label: how well the threshold serves it at which the FAR of all pairs is this rate. The narrower the fan, the more alike one threshold serves all; OPIS is its variance.";
const WORST_NOTE: &str = "By the mean of the lines above; 1 is a label that is never mistaken. Labels that fare worst behind the head too have pictures that differ more than it can undo, or wrong ones among them.";
/// The rankings of the label lists.
const WORST_BY: [(&str, UtilityOf); 2] = [
    ("Behind the head", |label| &label.behind),
    ("Before", |label| &label.before),
];

type UtilityOf = fn(&ServedLabel) -> &Vec<f64>;

fn verdict(main: &mut Markup, report: &AdaptedReport) {
    let (class, word) = if report.taken {
        ("verdict promised", "Better on labels that it had not seen")
    } else {
        ("verdict refused", "Refused")
    };
    main.element("section", &[("class", class)], |inner| {
        inner.line("p", "standing", word);
        for sentence in &report.says {
            inner.line("p", "confidence", sentence);
        }
    });
}

fn section(
    main: &mut Markup,
    id: &'static str,
    title: &'static str,
    note: &str,
    content: impl FnOnce(&mut Markup),
) {
    main.element("section", &[("id", id)], |section| {
        section.element("div", &[("class", "rail")], |rail| {
            rail.line("h2", "", title);
            if !note.is_empty() {
                rail.line("p", "", note);
            }
        });
        section.element("div", &[("class", "body")], content);
    });
}

fn figures(report: &AdaptedReport) -> Markup {
    let columns = [
        ("Figure", TableColumn::Words),
        ("Before", TableColumn::Number),
        ("Behind", TableColumn::Number),
        ("Difference", TableColumn::Number),
        ("", TableColumn::Words),
    ];
    let mut table = HtmlTable::new("", &columns);
    for row in &report.figures {
        table.row(row.iter().map(|text| cell(text)).collect());
    }
    table.finish()
}

/// The histograms of similarities without and with the head.
fn scores(main: &mut Markup, report: &AdaptedReport) {
    let Some([before, behind]) = &report.scores else {
        return;
    };
    if let (Some(before), Some(behind)) = (pair_histogram(before), pair_histogram(behind)) {
        section(main, "scores", "Similarities", SCORES_NOTE, |body| {
            body.line("p", "band-name", "Before");
            body.append(before);
            body.line("p", "band-name", "Behind the head");
            body.append(behind);
        });
    }
}

/// The DET curves without and with the head, with their intervals.
fn det(report: &AdaptedReport) -> Option<Markup> {
    let points = || report.before.iter().chain(&report.behind);
    let inside = |rate: &f64| 0.0 < *rate && *rate < 1.0;
    let extent = |values: &mut dyn Iterator<Item = f64>| {
        let values: Vec<f64> = values.filter(inside).collect();
        let low = values.iter().copied().reduce(f64::min)?;
        Some((low, values.iter().copied().reduce(f64::max)?))
    };
    let far = extent(&mut points().map(|[far, ..]| *far))?;
    let frr = extent(&mut points().flat_map(|[_, rest @ ..]| *rest))?;
    let axis = |range| ChartAxis::new(AxisScale::Deviate, AxisUnit::Share, range);
    let mut plot = Plot::new(axis(far)?, axis(frr)?);
    for (curve, class) in [(&report.before, "line predicted"), (&report.behind, "line")] {
        let edge = |at: usize| -> Vec<(f64, f64)> {
            let value = |point: &[f64; 4]| Some((point[0], *point.get(at)?));
            curve
                .iter()
                .filter_map(value)
                .filter(|(_, rate)| inside(rate))
                .collect()
        };
        plot.area(&edge(3), &edge(2), "band");
        let line = curve
            .iter()
            .map(|[far, frr, ..]| (*far, Some(*frr).filter(inside)));
        plot.curve(line, class, "");
    }
    let axes = AxisNames {
        x: "False accept rate of pairs (FAR), normal-deviate scale →",
        y: "↑ False reject rate of pairs (FRR), normal-deviate scale",
    };
    let summary = "Curves of the false reject rate against the false accept rate, before the head and behind it.";
    Some(plot.finish("plot square", axes, summary))
}

fn supported(main: &mut Markup, of: &SupportedTable) {
    let strangers = match of.stranger_labels {
        [before, behind] if before == behind => format!("{behind} were strangers"),
        [before, behind] => format!("strangers count as {before} before and {behind} behind"),
    };
    let note = format!(
        "Searches of labels that neither fitted the head nor judged it: {} were enrolled, {strangers}. The threshold that \
         keeps each FAR at {} confidence, and the FRR there; none where so many strangers cannot promise it. Each line holds by \
         itself, not all at once.",
        of.enrolled_labels, of.confidence
    );
    section(main, "supported", "What can be promised", &note, |body| {
        let columns = [
            ("FAR at most", TableColumn::Words),
            ("Threshold before", TableColumn::Number),
            ("Behind", TableColumn::Number),
            ("FRR before", TableColumn::Number),
            ("Behind", TableColumn::Number),
        ];
        let mut table = HtmlTable::new("", &columns);
        for [far, figures @ ..] in &of.rows {
            let figure = |text: &String| cell(if text.is_empty() { "none" } else { text });
            let figures = figures.iter().map(figure);
            table.row(std::iter::once(cell(far)).chain(figures).collect());
        }
        body.append(table.finish());
    });
}

fn fans(main: &mut Markup, report: &AdaptedReport) {
    let before = fan(report, |label| &label.before);
    let behind = fan(report, |label| &label.behind);
    if let (Some(before), Some(behind)) = (before, behind) {
        section(
            main,
            "labels",
            "One threshold, every label",
            FAN_NOTE,
            |body| {
                body.line("p", "band-name", "Before");
                body.append(before);
                body.line("p", "band-name", "Behind the head");
                body.append(behind);
            },
        );
    }
}

fn fan(report: &AdaptedReport, of: UtilityOf) -> Option<Markup> {
    let (first, last) = (*report.band.first()?, *report.band.last()?);
    let x = ChartAxis::new(AxisScale::Log, AxisUnit::Share, (first, last))?;
    let y = ChartAxis::new(AxisScale::Linear, AxisUnit::Plain, (0.0, 1.0))?;
    let mut plot = Plot::new(x, y);
    let every = report.labels.len().div_ceil(CURVES_MAX).max(1);
    for label in report.labels.iter().step_by(every) {
        let curve = report
            .band
            .iter()
            .copied()
            .zip(of(label).iter().map(|value| Some(*value)));
        plot.curve(curve, "label", &label.label);
    }
    let labels = matchpoint_calibration::binomial::real(report.labels.len() as u64).max(1.0);
    let mean = report.band.iter().enumerate().map(|(at, far)| {
        let values = report.labels.iter().filter_map(|label| of(label).get(at));
        (*far, Some(values.sum::<f64>() / labels))
    });
    let mean: Vec<(f64, Option<f64>)> = mean.collect();
    plot.curve(mean.iter().copied(), "halo", "");
    plot.curve(mean.iter().copied(), "line", "mean of all labels");
    if let Some(at) = mean.last().and_then(|(_, value)| plot.y.at((*value)?)) {
        plot.label((1.0, at), TextAnchor::Right, "name end", "mean");
    }
    let axes = AxisNames {
        x: "False accept rate of all pairs, logarithmic scale →",
        y: "↑ Utility of a label: harmonic mean of sensitivity and specificity",
    };
    Some(plot.finish(
        "plot named",
        axes,
        "The utility of each label against the false accept rate, and their mean.",
    ))
}

fn worst(report: &AdaptedReport, of: UtilityOf, pictures: &dyn Fn(&str) -> Vec<Picture>) -> Markup {
    let mut ranked: Vec<(f64, &ServedLabel)> = report
        .labels
        .iter()
        .map(|label| (ServedLabel::mean(of(label)), label))
        .collect();
    ranked.sort_by(|a, b| a.0.total_cmp(&b.0).then_with(|| a.1.label.cmp(&b.1.label)));
    let columns = [
        ("Label", TableColumn::Words),
        ("Before", TableColumn::Number),
        ("Behind", TableColumn::Number),
    ];
    let mut table = HtmlTable::new("", &columns);
    for (_, label) in ranked.into_iter().take(WORST) {
        let mut name = cell(&shortened(&label.label, 60));
        let shown = pictures(&label.label);
        if !shown.is_empty() {
            name.element("div", &[("class", "strip")], |strip| {
                for picture in &shown {
                    strip.picture(picture);
                }
            });
        }
        let mean = |utility| cell(&format!("{:.3}", ServedLabel::mean(utility)));
        table.row(vec![name, mean(&label.before), mean(&label.behind)]);
    }
    table.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn before_and_behind_are_drawn_and_what_comes_from_data_arrives_as_text() {
        let curve = |frr: f64| {
            (1..5_u8)
                .map(|at| [0.01 * f64::from(at), frr / f64::from(at), frr / 9.0, frr])
                .collect()
        };
        let label = |at: usize| ServedLabel {
            label: format!("<b>{at}</b>"),
            before: vec![0.5, 0.6],
            behind: vec![0.8, 0.9],
        };
        let report = AdaptedReport {
            title: "<i>shop</i>".to_owned(),
            says: vec!["A & B".to_owned()],
            figures: vec![["EER", "1", "2", "3", "better"].map(str::to_owned)],
            before: curve(0.4),
            behind: curve(0.2),
            scores: Some([[3, 0, 9], [0, 4, 9]].map(|mated| BinnedScores {
                lower: -1.0,
                upper: 1.0,
                mated: mated.to_vec(),
                non_mated: vec![20, 5, 0],
            })),
            band: vec![0.001, 0.1],
            labels: (0..30).map(label).collect(),
            supported: Some(SupportedTable {
                rows: vec![["1 %", "", "0.5", "", "20 %"].map(str::to_owned)],
                ..SupportedTable::default()
            }),
            ..AdaptedReport::default()
        };
        let picture = |label: &str| Picture {
            data_uri: "data:image/png;base64,AAAA".to_owned(),
            description: label.to_owned(),
        };
        let page = render(&report, &|label| vec![picture(label)]);
        // The worst labels without the head, and the worst ones with it.
        assert_eq!(page.matches("<img").count(), 2 * WORST);
        assert!(page.contains("What can be promised") && page.contains("none"));
        // Each chart has separate drawings for lines and for letters.
        assert_eq!(page.matches("<svg").count(), 10, "{page}");
        assert!(
            page.contains("&lt;i&gt;shop")
                && page.contains("A &amp; B")
                && page.contains("verdict refused")
        );
        assert!(!page.contains("<b>") && !page.contains("<i>") && !page.contains("<script"));
        assert!(!render(&AdaptedReport::default(), &|_| Vec::new()).contains("<svg"));
    }
}
