//! What a calibration found, as one HTML file that needs no network and no script.
//!
//! Reading order: what a report holds (here), the page, its tables and charts, the axes they are
//! drawn on, how numbers are written, and the markup that escapes everything it is given.

use serde::Serialize;

use crate::calibration::rates::{Interval, Rate};

mod axis;
mod charts;
mod curves;
pub mod drift;
mod labels;
mod markup;
mod numbers;
mod page;
mod parts;
mod plot;
mod tables;

/// Everything that a report shows. A number that is not known is `None`, and shown as unknown;
/// a part that was not measured is `None` or empty, and left out.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// What was calibrated, in a few words.
    pub title: String,
    /// When, as the caller says it.
    pub created: Option<String>,
    /// What the rates of the verdict, the key figures, the curves and the conditions count.
    pub view: View,
    /// What may be relied on.
    pub verdict: Verdict,
    /// The threshold and its two error rates; `None` where none was chosen.
    pub operating_point: Option<OperatingPoint>,
    /// The rates that matter, most important first.
    pub figures: Vec<Figure>,
    /// FAR and FRR along the thresholds, ascending; empty where not measured.
    pub trade_off: Vec<TradeOff>,
    /// Scores of mated and non-mated trials.
    pub histogram: Option<Histogram>,
    /// How far the labels agree about a threshold.
    pub consistency: Option<Consistency>,
    /// The labels that fare worst.
    pub worst_labels: Option<WorstLabels>,
    /// Items of different labels that would be accepted as one another.
    pub intruders: Option<Intruders>,
    /// Strangers' searches with the highest scores: the query, and the item that it found.
    pub nearest_strangers: Option<Intruders>,
    /// Rates by the value of a metadata column.
    pub conditions: Vec<Condition>,
    /// FAR by size of the gallery.
    pub growth: Option<Growth>,
    /// What was tried against inconsistent thresholds.
    pub remedies: Option<Remedies>,
    /// Model, gallery, index, seeds, digests and software.
    pub made_with: Vec<Fact>,
    /// What must hold for the promise to hold, in plain words, most important first.
    pub assumptions: Vec<String>,
}

/// What one trial is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum View {
    /// A search of a whole gallery (FPIR and FNIR of ISO/IEC 19795-1).
    Search,
    /// A comparison of two items (FMR and FNMR of ISO/IEC 19795-1).
    Pairwise,
}

/// What may be relied on, on what ground.
#[derive(Clone, Debug, Serialize)]
pub struct Verdict {
    /// Whether anything is promised.
    pub standing: Standing,
    /// What was asked for; `None` for a rule without a target, such as equal errors.
    pub target: Option<Target>,
    /// How the threshold is chosen, in plain words.
    pub rule: String,
    /// The rate that is not exceeded with the confidence of the target, in [0, 1]; of a refusal,
    /// the lowest target that these data could bear.
    pub bound: Option<f64>,
    /// Why it is only estimated, or refused: whole sentences.
    pub reasons: Vec<String>,
    /// What it takes to get what was asked for: whole sentences.
    pub needed: Vec<String>,
    /// What data it rests on: whole sentences.
    pub data: Vec<String>,
}

/// How strong the statement is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Standing {
    /// It holds with the confidence stated, under the assumptions.
    Promised,
    /// It is what was measured, no more.
    Estimated,
    /// The data cannot bear it, and there is no threshold.
    Refused,
}

/// The error rate that is not to be exceeded.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Target {
    /// Which of the two.
    pub error: ErrorRate,
    /// How high it may be, in [0, 1].
    pub at_most: f64,
    /// The chance that this holds, in [0.5, 1); `None` where no chance was named.
    pub confidence: Option<f64>,
}

/// The two ways to be wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ErrorRate {
    /// Accepting what should be rejected.
    FalseAccept,
    /// Rejecting what should be accepted, or accepting it with a wrong label.
    FalseReject,
}

/// The threshold with what was measured at it.
#[derive(Clone, Debug, Serialize)]
pub struct OperatingPoint {
    /// Its id; `None` where it was not recorded.
    pub id: Option<String>,
    /// Accept at or above this similarity.
    pub threshold: f64,
    /// The false accept rate.
    pub far: Estimate,
    /// The false reject rate.
    pub frr: Estimate,
    /// Where the first comes from.
    pub far_basis: Basis,
    /// Where the second does.
    pub frr_basis: Basis,
}

/// A quantity with its uncertainty; every field `None` is an unknown quantity.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Estimate {
    /// The estimate.
    pub value: Option<f64>,
    /// The range that covers the truth with the confidence it names.
    pub interval: Option<Span>,
    /// How often it happened.
    pub events: Option<u64>,
    /// How often it could have happened.
    pub trials: Option<u64>,
    /// Distinct labels among the trials.
    pub labels: Option<u64>,
    /// The number of independent trials that would be as uncertain.
    pub effective_trials: Option<f64>,
}

/// An interval, however it was computed.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Span {
    /// The low end.
    pub lower: f64,
    /// The high end.
    pub upper: f64,
    /// The share of such intervals that cover the truth, such as 0.95.
    pub confidence: f64,
}

impl From<Interval> for Span {
    fn from(interval: Interval) -> Self {
        Self {
            lower: interval.lower,
            upper: interval.upper,
            confidence: interval.confidence.get(),
        }
    }
}

impl From<Rate> for Estimate {
    fn from(rate: Rate) -> Self {
        Self {
            value: Some(rate.estimate),
            interval: Some(rate.interval.into()),
            events: Some(rate.count.events()),
            trials: Some(rate.count.trials()),
            labels: Some(rate.labels),
            effective_trials: Some(rate.effective_trials),
        }
    }
}

impl From<Option<Rate>> for Estimate {
    fn from(rate: Option<Rate>) -> Self {
        rate.map(Self::from).unwrap_or_default()
    }
}

impl Estimate {
    /// A number of which nothing but itself is known.
    #[must_use]
    pub fn bare(value: f64) -> Self {
        Self {
            value: Some(value),
            ..Self::default()
        }
    }
}

/// Whose labels a figure was measured on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Basis {
    /// Labels that had no part in choosing the threshold.
    HeldOut,
    /// The labels that chose the threshold, which flatters.
    ChoseThreshold,
    /// The figure has no threshold in it.
    NoThreshold,
}

/// One rate of the table of key figures.
#[derive(Clone, Debug, Serialize)]
pub struct Figure {
    /// Its name, such as `False accept rate (FAR)`.
    pub name: String,
    /// What it counts, in one sentence.
    pub meaning: String,
    /// A fraction, in [0, 1].
    pub estimate: Estimate,
    /// Where it comes from.
    pub basis: Basis,
}

/// Both error rates at one threshold.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct TradeOff {
    /// Accept at or above this similarity. Above 1 it accepts nothing.
    pub threshold: f64,
    /// The false accept rate, in [0, 1].
    pub far: Option<f64>,
    /// Its interval.
    pub far_interval: Option<Span>,
    /// The false reject rate, in [0, 1].
    pub frr: Option<f64>,
    /// Its interval.
    pub frr_interval: Option<Span>,
}

/// Scores counted in bins of equal width, as many mated as non-mated bins.
#[derive(Clone, Debug, Serialize)]
pub struct Histogram {
    /// The low end of the first bin.
    pub lower: f64,
    /// The high end of the last bin.
    pub upper: f64,
    /// Mated trials by bin.
    pub mated: Vec<u64>,
    /// Non-mated trials by bin.
    pub non_mated: Vec<u64>,
}

/// How far the labels agree about a threshold (OPIS: Zhang and others, ICLR 2024).
#[derive(Clone, Debug, Serialize)]
pub struct Consistency {
    /// What the rates below count.
    pub view: View,
    /// The range of thresholds that OPIS is taken over.
    pub band: Band,
    /// OPIS and its relatives, most important first.
    pub figures: Vec<Spread>,
    /// The thresholds at which utilities are given, ascending.
    pub thresholds: Vec<f64>,
    /// Mean utility over labels at each threshold.
    pub mean: Vec<Option<f64>>,
    /// The labels' own utilities.
    pub labels: Vec<LabelCurve>,
    /// Labels left out for want of mated or non-mated trials.
    pub labels_skipped: u64,
}

/// The thresholds at which the FAR over all labels runs from one rate to another.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Band {
    /// The lower FAR, at the higher threshold.
    pub far_low: f64,
    /// The higher FAR, at the lower threshold.
    pub far_high: f64,
    /// The threshold at `far_high`.
    pub threshold_low: Option<f64>,
    /// The threshold at `far_low`.
    pub threshold_high: Option<f64>,
}

/// A measure of spread over labels. Not a rate.
#[derive(Clone, Debug, Serialize)]
pub struct Spread {
    /// Its name, such as `OPIS`.
    pub name: String,
    /// What it is, in one sentence.
    pub meaning: String,
    /// The measure.
    pub value: Option<f64>,
    /// Its interval.
    pub interval: Option<Span>,
}

/// The utility of one label along the thresholds of its [`Consistency`].
#[derive(Clone, Debug, Serialize)]
pub struct LabelCurve {
    /// The label.
    pub label: String,
    /// The harmonic mean of its sensitivity and specificity, in [0, 1].
    pub utility: Vec<Option<f64>>,
}

/// The labels that fare worst at the threshold.
#[derive(Clone, Debug, Serialize)]
pub struct WorstLabels {
    /// What the rates below count.
    pub view: View,
    /// By what they are ranked, such as `utility at the threshold`.
    pub ranked_by: String,
    /// Worst first.
    pub rows: Vec<LabelRow>,
    /// Labels that were ranked.
    pub labels: u64,
}

/// One label at the threshold.
#[derive(Clone, Debug, Serialize)]
pub struct LabelRow {
    /// The label.
    pub label: String,
    /// Its items, or some of them.
    #[serde(skip)]
    pub pictures: Vec<Picture>,
    /// The share of others that are accepted as this label.
    pub far: Estimate,
    /// The share of its own that are not accepted.
    pub frr: Estimate,
    /// The harmonic mean of sensitivity and specificity, in [0, 1].
    pub utility: Option<f64>,
}

/// A picture, encoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Picture {
    /// `data:image/png;base64,` and so on, or jpeg or webp; anything else is not shown.
    pub data_uri: String,
    /// What it shows, such as the id of its item.
    pub description: String,
}

/// Items of different labels that would be accepted as one another.
#[derive(Clone, Debug, Serialize)]
pub struct Intruders {
    /// The most similar first.
    pub pairs: Vec<Intruder>,
    /// How many there are in all; `None` where they were not counted.
    pub total: Option<u64>,
}

/// One such pair.
#[derive(Clone, Debug, Serialize)]
pub struct Intruder {
    /// One item.
    pub first: Item,
    /// The other.
    pub second: Item,
    /// Their similarity, or what is held against the threshold.
    pub score: f64,
    /// What there is to say beside it.
    pub remark: Option<String>,
}

/// An item of the gallery, or a probe.
#[derive(Clone, Debug, Serialize)]
pub struct Item {
    /// Its id.
    pub id: String,
    /// Its label.
    pub label: String,
    /// What it looks like.
    #[serde(skip)]
    pub picture: Option<Picture>,
}

/// Rates by the value of a metadata column.
#[derive(Clone, Debug, Serialize)]
pub struct Condition {
    /// The column.
    pub column: String,
    /// A row for each value.
    pub rows: Vec<ConditionRow>,
}

/// Rates where the column has one value.
#[derive(Clone, Debug, Serialize)]
pub struct ConditionRow {
    /// The value.
    pub value: String,
    /// The false accept rate.
    pub far: Estimate,
    /// The false reject rate.
    pub frr: Estimate,
}

/// FAR per search by size of the gallery. A search has more chances to be wrong in a larger one.
#[derive(Clone, Debug, Serialize)]
pub struct Growth {
    /// Measured at the threshold, on parts of the gallery.
    pub measured: Vec<SizePoint>,
    /// Predicted at the threshold.
    pub predicted: Vec<SizePoint>,
    /// The FAR that is not to be exceeded.
    pub target: Option<f64>,
    /// Items in the gallery now.
    pub items_now: Option<u64>,
    /// The largest gallery whose predicted FAR meets the target.
    pub holds_until: Option<u64>,
    /// What the prediction assumes: a whole sentence.
    pub assumption: String,
}

/// FAR per search at one size of the gallery.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct SizePoint {
    /// Items in the gallery.
    pub items: u64,
    /// The false accept rate, in [0, 1].
    pub far: Option<f64>,
    /// Its interval.
    pub interval: Option<Span>,
    /// Whether the rate is exact for the trials, and not a bound.
    pub exact: bool,
}

/// What was tried against inconsistent thresholds, each judged on labels it was not fitted to.
#[derive(Clone, Debug, Serialize)]
pub struct Remedies {
    /// What the rates below count.
    pub view: View,
    /// Doing nothing among them.
    pub rows: Vec<Remedy>,
}

/// One remedy.
#[derive(Clone, Debug, Serialize)]
pub struct Remedy {
    /// Its name.
    pub name: String,
    /// The false accept rate.
    pub far: Estimate,
    /// The false reject rate.
    pub frr: Estimate,
    /// The FRR of the labels that fare worst.
    pub worst_frr: Estimate,
    /// The variance of utility over labels.
    pub spread: Option<f64>,
    /// What follows: a whole sentence.
    pub verdict: String,
    /// Whether it is the one to use.
    pub preferred: bool,
}

/// A name and a value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Fact {
    /// What it is.
    pub name: String,
    /// What it is worth; `None` where unknown.
    pub value: Option<String>,
}

/// The report as one HTML file, in UTF-8.
///
/// It fetches nothing, runs nothing, and shows every string as text, whatever it contains.
#[must_use]
pub fn render(report: &Report) -> String {
    page::page(report).finish()
}

#[cfg(test)]
pub(crate) mod sample;

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    /// The elements that a report is made of, and nothing that runs or fetches is among them.
    const ELEMENTS: &[&str] = &[
        "html",
        "head",
        "meta",
        "title",
        "style",
        "body",
        "main",
        "header",
        "nav",
        "section",
        "div",
        "p",
        "h1",
        "h2",
        "a",
        "span",
        "bdi",
        "dl",
        "dt",
        "dd",
        "ol",
        "li",
        "table",
        "caption",
        "thead",
        "tbody",
        "tr",
        "th",
        "td",
        "details",
        "summary",
        "figure",
        "figcaption",
        "img",
        "svg",
        "path",
        "line",
        "circle",
        "text",
    ];
    const ATTRIBUTES: &[&str] = &[
        "alt",
        "aria-hidden",
        "aria-label",
        "charset",
        "class",
        "colspan",
        "content",
        "cx",
        "cy",
        "d",
        "data-name",
        "dx",
        "dy",
        "height",
        "href",
        "http-equiv",
        "id",
        "lang",
        "name",
        "preserveAspectRatio",
        "r",
        "role",
        "scope",
        "src",
        "text-anchor",
        "title",
        "viewBox",
        "width",
        "x",
        "x1",
        "x2",
        "y",
        "y1",
        "y2",
    ];

    /// Reads the document as a browser would, and fails where it is not what we write.
    fn check(html: &str) {
        let style = html.find("<style>").unwrap()..html.find("</style>").unwrap();
        let body = html.strip_prefix("<!DOCTYPE html>").unwrap();
        let body = body.replace(&html[style], "<style>");
        let mut open: Vec<&str> = Vec::new();
        for piece in body.split('<').skip(1) {
            // Attribute values hold no `>`, since it is always escaped.
            let (tag, text) = piece.split_once('>').unwrap();
            assert!(!text.contains('>'), "{text}");
            if let Some(name) = tag.strip_prefix('/') {
                assert_eq!(open.pop(), Some(name));
                continue;
            }
            let (name, mut rest) = tag.split_once(' ').unwrap_or((tag, ""));
            assert!(ELEMENTS.contains(&name), "<{tag}>");
            if !["meta", "img"].contains(&name) {
                open.push(name);
            }
            while !rest.is_empty() {
                let (attribute, after) = rest.split_once("=\"").unwrap();
                assert!(ATTRIBUTES.contains(&attribute), "<{tag}>");
                let (value, after) = after.split_once('"').unwrap();
                if attribute == "src" {
                    assert!(value.starts_with("data:image/"), "{value}");
                }
                if attribute == "href" {
                    assert!(value.starts_with('#'), "{value}");
                }
                rest = after.trim_start();
            }
        }
        assert!(open.is_empty(), "{open:?}");
    }

    /// Every way in which a number is written.
    fn writings(number: f64) -> Vec<String> {
        let mut all = vec![
            numbers::percent(Some(number)),
            numbers::short_percent(number),
            numbers::score(Some(number)),
            numbers::exact_score(number),
            numbers::plain(Some(number)),
            numbers::trials(Some(number)),
        ];
        if 0.0 <= number && number.fract().abs() < 1e-12 {
            all.push(numbers::count(format!("{number:.0}").parse().ok()));
        }
        all
    }

    fn each_number(value: &Value, path: &str, visit: &mut impl FnMut(&str, f64)) {
        match value {
            Value::Number(number) => visit(path, number.as_f64().unwrap()),
            Value::Array(values) => values
                .iter()
                .for_each(|value| each_number(value, path, visit)),
            Value::Object(fields) => fields
                .iter()
                .for_each(|(name, value)| each_number(value, &format!("{path}/{name}"), visit)),
            Value::Null | Value::Bool(_) | Value::String(_) => {}
        }
    }

    /// The same report with `text` in the place of every string.
    fn with_text(text: &str) -> Report {
        let mut report = sample::full();
        let own = || text.to_owned();
        let picture = || Picture {
            data_uri: own(),
            description: own(),
        };
        report.title = own();
        report.created = Some(own());
        report.verdict.rule = own();
        report.verdict.reasons = vec![own()];
        report.verdict.needed = vec![own()];
        report.verdict.data = vec![own()];
        report.assumptions = vec![own(); 5];
        report.operating_point.as_mut().unwrap().id = Some(own());
        for figure in &mut report.figures {
            (figure.name, figure.meaning) = (own(), own());
        }
        let mut consistency = sample::consistency(4);
        for curve in &mut consistency.labels {
            curve.label = own();
        }
        for figure in &mut consistency.figures {
            (figure.name, figure.meaning) = (own(), own());
        }
        report.consistency = Some(consistency);
        let worst = report.worst_labels.as_mut().unwrap();
        worst.ranked_by = own();
        for row in &mut worst.rows {
            (row.label, row.pictures) = (own(), vec![picture()]);
        }
        for pair in &mut report.intruders.as_mut().unwrap().pairs {
            for item in [&mut pair.first, &mut pair.second] {
                (item.id, item.label, item.picture) = (own(), own(), Some(picture()));
            }
        }
        for pair in &mut report.nearest_strangers.as_mut().unwrap().pairs {
            (pair.first.id, pair.remark) = (own(), Some(own()));
        }
        for condition in &mut report.conditions {
            condition.column = own();
            condition.rows.iter_mut().for_each(|row| row.value = own());
        }
        report.growth.as_mut().unwrap().assumption = own();
        for row in &mut report.remedies.as_mut().unwrap().rows {
            (row.name, row.verdict) = (own(), own());
        }
        for fact in &mut report.made_with {
            (fact.name, fact.value) = (own(), Some(own()));
        }
        report
    }

    /// The same report with `number` in the place of every number that is not a count.
    fn with_number(number: f64) -> Report {
        let mut report = sample::full();
        let span = Span {
            lower: number,
            upper: number,
            confidence: number,
        };
        let estimate = Estimate {
            value: Some(number),
            interval: Some(span),
            effective_trials: Some(number),
            ..Estimate::default()
        };
        let target = report.verdict.target.as_mut().unwrap();
        (target.at_most, target.confidence) = (number, Some(number));
        report.verdict.bound = Some(number);
        let point = report.operating_point.as_mut().unwrap();
        (point.threshold, point.far, point.frr) = (number, estimate, estimate);
        for figure in &mut report.figures {
            figure.estimate = estimate;
        }
        for point in &mut report.trade_off {
            *point = TradeOff {
                threshold: number,
                far: Some(number),
                far_interval: Some(span),
                frr: Some(number),
                frr_interval: Some(span),
            };
        }
        report.histogram.as_mut().unwrap().lower = number;
        let mut consistency = sample::consistency(4);
        consistency.band.far_low = number;
        consistency.band.threshold_low = Some(number);
        consistency.figures[0].value = Some(number);
        consistency.figures[0].interval = Some(span);
        consistency.labels[0].utility.fill(Some(number));
        consistency.mean.fill(Some(number));
        consistency.thresholds[0] = number;
        report.consistency = Some(consistency);
        report.worst_labels.as_mut().unwrap().rows[0].far = estimate;
        report.intruders.as_mut().unwrap().pairs[0].score = number;
        report.conditions[0].rows[0].far = estimate;
        let growth = report.growth.as_mut().unwrap();
        growth.target = Some(number);
        growth.measured[0].far = Some(number);
        growth.measured[1].interval = Some(span);
        report.remedies.as_mut().unwrap().rows[0].spread = Some(number);
        report
    }

    #[test]
    fn every_number_of_the_report_is_written_in_it() {
        let report = sample::full();
        let html = render(&report);
        let words: BTreeSet<&str> = html
            .split(['<', '>', ' ', '(', ')', ';', ':'])
            .map(|word| word.trim_end_matches(['.', ',', '"']))
            .collect();
        let json = serde_json::to_value(&report).unwrap();
        let mut missing = Vec::new();
        let mut seen = 0;
        each_number(&json, "", &mut |path, number| {
            // Curves are drawn; of each label the mean is written.
            if path.ends_with("/labels/utility") || path.starts_with("/histogram/upper") {
                return;
            }
            seen += 1;
            let written = |text: &String| {
                words.contains(text.as_str()) || text.contains(' ') && html.contains(text)
            };
            if !writings(number).iter().any(written) {
                missing.push(format!("{path}: {number}"));
            }
        });
        assert!(missing.is_empty(), "{}", missing.join("\n"));
        assert!(1_000 < seen, "{seen}");
        check(&html);
    }

    #[test]
    fn what_is_not_known_is_called_unknown_and_never_nought() {
        let mut report = sample::refused();
        report.figures = vec![Figure {
            name: "Rate".to_owned(),
            meaning: String::new(),
            estimate: Estimate::default(),
            basis: Basis::HeldOut,
        }];
        report.made_with = vec![Fact {
            name: "Model".to_owned(),
            value: None,
        }];
        let html = render(&report);
        check(&html);
        let row = html.split("<tbody>").nth(1).unwrap();
        assert_eq!(row.matches(">unknown<").count(), 5, "{row}");
        assert!(!row.contains(">0"), "{row}");
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(json["figures"][0]["estimate"]["value"], Value::Null);
    }

    #[test]
    fn a_refusal_says_what_it_takes_and_shows_no_threshold() {
        let html = render(&sample::refused());
        check(&html);
        assert!(html.contains("Refused") && html.contains("At least 2,995 labels"));
        assert!(html.contains("No threshold is given"));
        assert!(!html.contains("number-value\"") && !html.contains("<h2"));
    }

    #[test]
    fn a_promise_an_estimate_and_a_refusal_do_not_sound_alike() {
        let mut report = sample::full();
        let mut headlines = Vec::new();
        for view in [View::Search, View::Pairwise] {
            for error in [ErrorRate::FalseAccept, ErrorRate::FalseReject] {
                for standing in [Standing::Promised, Standing::Estimated, Standing::Refused] {
                    report.view = view;
                    report.verdict.standing = standing;
                    report.verdict.target.as_mut().unwrap().error = error;
                    let html = render(&report);
                    check(&html);
                    let headline = html.split("class=\"headline\">").nth(1).unwrap();
                    headlines.push(headline.split('<').next().unwrap().to_owned());
                }
            }
        }
        assert_eq!(
            headlines[0].replace('\u{202f}', " "),
            "At most 0.1 % of searches for something that is not enrolled will be accepted."
        );
        headlines.sort();
        headlines.dedup();
        assert_eq!(headlines.len(), 12);
        report.verdict.target = None;
        check(&render(&report));
    }

    #[test]
    fn the_headline_says_of_each_rate_whether_it_flatters() {
        let mut report = sample::full();
        let html = render(&report);
        let parts = [
            "False accepts measured on the labels that chose the threshold: flatters; false rejects",
            "on labels that did not choose the threshold.",
        ];
        assert!(parts.iter().all(|part| html.contains(part)));
        report.operating_point.as_mut().unwrap().far_basis = Basis::HeldOut;
        let html = render(&report);
        assert!(html.contains("Both rates measured on labels that did not choose the threshold."));
    }

    #[test]
    fn every_part_with_rates_names_its_view() {
        let html = render(&sample::full());
        for (id, view) in [
            ("figures", "per search"),
            ("trade-off", "per search"),
            ("consistency", "per pair of items"),
            ("intruders", "per pair of items"),
            ("nearest-strangers", "per search"),
            ("growth", "per search"),
        ] {
            let part = html.split(&format!("id=\"{id}\"")).nth(1).unwrap();
            let heading = part.split("class=\"view\">").nth(1).unwrap();
            assert!(heading.starts_with(view), "{id}");
        }
        assert_eq!(
            html.matches("not to be compared with rates per search")
                .count(),
            3
        );
    }

    #[test]
    fn parts_with_nothing_in_them_are_left_out() {
        let mut report = sample::full();
        report.trade_off.truncate(1);
        report.histogram = Some(Histogram {
            lower: 0.0,
            upper: 0.0,
            mated: vec![0; 4],
            non_mated: Vec::new(),
        });
        let consistency = report.consistency.as_mut().unwrap();
        (consistency.labels, consistency.figures) = (Vec::new(), Vec::new());
        report.worst_labels.as_mut().unwrap().rows.clear();
        report.intruders.as_mut().unwrap().pairs.clear();
        report.nearest_strangers.as_mut().unwrap().pairs.clear();
        report.conditions.clear();
        let growth = report.growth.as_mut().unwrap();
        (growth.measured, growth.predicted) = (Vec::new(), Vec::new());
        report.remedies.as_mut().unwrap().rows.clear();
        let html = render(&report);
        check(&html);
        for id in [
            "scores",
            "consistency",
            "worst-labels",
            "intruders",
            "nearest-strangers",
            "conditions",
            "remedies",
        ] {
            assert!(!html.contains(&format!("id=\"{id}\"")), "{id}");
        }
        assert!(html.contains("id=\"figures\""));
    }

    #[test]
    fn nothing_is_fetched_and_nothing_runs() {
        let html = render(&sample::full());
        for word in [
            "http:", "https:", "url(", "@import", "<script", "<link", "<iframe",
        ] {
            assert!(!html.contains(word), "{word}");
        }
        assert!(html.contains("default-src &#39;none&#39;"));
    }

    #[test]
    fn pictures_are_shown_once_they_are_pictures_and_are_not_in_the_json() {
        let report = sample::full();
        let json = serde_json::to_string(&report).unwrap();
        assert!(!json.contains("data:image"));
        assert_eq!(render(&report).matches("<img").count(), 24 + 7);
        let html = render(&with_text("data:image/svg+xml;base64,AAAA"));
        assert_eq!(html.matches("<img").count(), 0);
        check(&html);
    }

    #[test]
    fn hostile_strings_are_shown_as_text() {
        for hostile in [
            "\"><script>alert(1)</script>",
            "</style><script>alert(1)</script>",
            "' onmouseover='alert(1)",
            "<!--",
            "]]><svg onload=alert(1)>",
            "javascript:alert(1)",
            "https://example.org/",
            "data:image/png;base64,AA\"onerror=\"alert(1)",
            "&lt;script&gt;",
            "\u{202e}\u{0}\u{1b}[31m",
        ] {
            let html = render(&with_text(hostile));
            check(&html);
            assert!(!html.contains("<script"));
        }
    }

    #[test]
    fn no_number_is_too_strange_to_draw() {
        for number in [
            f64::NAN,
            f64::INFINITY,
            f64::NEG_INFINITY,
            f64::MAX,
            f64::MIN_POSITIVE,
            -1.0,
            0.0,
            0.5,
            1.0,
            2.0,
        ] {
            let html = render(&with_number(number));
            check(&html);
            assert!(!html.contains("NaN") && !html.contains("inf%"), "{number}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn any_string_is_shown_as_text(hostile in any::<String>()) {
            check(&render(&with_text(&hostile)));
        }

        #[test]
        fn any_number_is_drawn(number in any::<f64>()) {
            check(&render(&with_number(number)));
        }
    }
}
