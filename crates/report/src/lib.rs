//! Renders the result of a calibration, or the state of an operating point in service, as one HTML file that
//! needs no network and no script.
//!
//! The caller fills in [`ReportContents`], and [`render`] makes the file; [`drift`] does the same for a page
//! about service. A value that is `None` is shown as unknown, an empty part is left out, and every string is
//! shown as text, whatever it contains.
//!
//! ```
//! use matchpoint_report::{ClaimKind, ReportContents, ReportVerdict, View, render};
//!
//! let verdict = ReportVerdict {
//!     standing: ClaimKind::Refused,
//!     target: None,
//!     rule: "The lowest threshold whose FAR is proven.".to_owned(),
//!     bound: None,
//!     reasons: vec!["212 labels cannot show a FAR below 1.4 %.".to_owned()],
//!     needed: vec!["At least 2,995 labels that are not enrolled.".to_owned()],
//!     data: Vec::new(),
//! };
//! let mut report = ReportContents::new("Mugs & <bowls>", View::Search, verdict);
//! report.assumptions.push("The labels are right.".to_owned());
//! let page = render(&report);
//! assert!(page.contains("212 labels cannot show a FAR below 1.4 %."));
//! assert!(page.contains("Mugs &amp; &lt;bowls&gt;") && !page.contains("<script"));
//! ```
//!
//! The modules define the content of a report, the page, its tables and charts, their axes, the format of
//! numbers, and the markup, which escapes all text that it is given.

#![forbid(unsafe_code)]

pub mod adapted;
mod axis;
pub mod calibrated;
mod charts;
mod contents;
mod curves;
pub mod drift;
mod estimate;
mod labels;
mod markup;
mod numbers;
mod page;
mod part;
mod parts;
mod plot;
mod tables;

pub use contents::{
    BinnedScores, ClaimKind, ConditionRow, ConditionTable, ConsistencyFigures, ErrorRate, Fact,
    Figure, GrowthCurve, IntruderPair, Intruders, LabelCurve, MeasuredOn, MenuRow, MenuTable,
    Picture, PicturedItem, PointSummary, RemedyRow, RemedyTable, ReportContents, ReportVerdict,
    SizePoint, SpreadFigure, TargetRate, ThresholdBand, TradeOffPoint, View, WorstLabelRow,
    WorstLabelTable,
};
pub use estimate::{Estimate, RateInterval};

/// The report as one HTML file, in UTF-8.
///
/// The file loads nothing, runs nothing, and shows every string as text, whatever it contains.
#[must_use]
pub fn render(report: &ReportContents) -> String {
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

    /// The elements that a report consists of. None of them can run or load anything.
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

    /// Parses the document as a browser would, and fails if it contains anything that a report does not write.
    fn check(html: &str) {
        let style = html.find("<style>").unwrap()..html.find("</style>").unwrap();
        let body = html.strip_prefix("<!DOCTYPE html>").unwrap();
        let body = body.replace(&html[style], "<style>");
        let mut open: Vec<&str> = Vec::new();
        for piece in body.split('<').skip(1) {
            // Attribute values contain no `>`, because it is always escaped.
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

    /// Every form in which a number may be written.
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

    /// The full report with `text` in place of every string.
    fn with_text(text: &str) -> ReportContents {
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
            for row in &mut condition.rows {
                (row.value, row.mark) = (own(), Some(own()));
            }
        }
        for row in &mut report.stress {
            (row.value, row.mark) = (own(), Some(own()));
        }
        for row in &mut report.menu.as_mut().unwrap().rows {
            row.standing = own();
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

    /// The full report with `number` in place of every number that is not a count.
    fn with_number(number: f64) -> ReportContents {
        let mut report = sample::full();
        let span = RateInterval {
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
            *point = TradeOffPoint {
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
        report.stress[0].far = estimate;
        let menu = report.menu.as_mut().unwrap();
        (menu.confidence, menu.rows[0].far) = (number, number);
        (menu.rows[0].threshold, menu.rows[0].frr_at_target) = (Some(number), Some(number));
        menu.rows[1].frr = estimate;
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
            // Curves are only drawn, and for each label only the mean is written.
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
            basis: MeasuredOn::HeldOut,
        }];
        report.made_with = vec![Fact {
            name: "Model".to_owned(),
            value: None,
        }];
        let html = render(&report);
        check(&html);
        let row = html.split("<tbody>").nth(1).unwrap();
        assert_eq!(row.matches(">unknown<").count(), 2, "{row}");
        assert!(!row.contains(">0"), "{row}");
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(json["figures"][0]["estimate"]["value"], Value::Null);
    }

    #[test]
    fn what_is_known_of_no_row_has_no_column_and_no_cell() {
        let mut report = sample::full();
        let menu = report.menu.as_mut().unwrap();
        let last = menu.rows.last_mut().unwrap();
        (last.threshold, last.frr) = (None, Estimate::default());
        let worst = report.worst_labels.as_mut().unwrap();
        for row in &mut worst.rows {
            row.utility = None;
            row.far = Estimate {
                events: Some(77),
                ..Estimate::default()
            };
        }
        let html = render(&report);
        check(&html);
        assert!(html.contains("it takes 299 labels of strangers"));
        let worst = html.split("id=\"worst-labels\"").nth(1).unwrap();
        let worst = worst.split("</table>").next().unwrap();
        assert!(
            worst.contains(">77<") && !worst.contains("Utility"),
            "{worst}"
        );
        assert!(!worst.contains("unknown"), "{worst}");
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
                for standing in [
                    ClaimKind::Promised,
                    ClaimKind::Estimated,
                    ClaimKind::Refused,
                ] {
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
    fn the_headline_says_of_each_rate_whether_it_is_too_good() {
        let mut report = sample::full();
        let html = render(&report);
        let parts = [
            "False accepts measured on the labels that chose the threshold: too good; false rejects",
            "on labels that did not choose the threshold.",
        ];
        assert!(parts.iter().all(|part| html.contains(part)));
        report.operating_point.as_mut().unwrap().far_basis = MeasuredOn::HeldOut;
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
        report.histogram = Some(BinnedScores {
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
        report.stress.clear();
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
    fn pictures_are_shown_once_they_are_pictures() {
        let report = sample::full();
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
