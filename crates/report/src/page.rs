//! The page: the verdict first, then the parts in order.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest, Sha256};

use super::contents::{
    ClaimKind, ErrorRate, PointSummary, ReportContents, ReportVerdict, TargetRate, View,
};
use super::markup::Markup;
use super::numbers::{exact_score, percent, percent_span, percent_with_span, short_percent};
use super::part::ReportPart;
use super::parts;

/// Fonts, colours and layout, for screen and paper.
const STYLE: &str = include_str!("report.css");

/// Number of assumptions that are shown with the verdict; the others are at the end.
const ASSUMPTIONS_FIRST: usize = 3;

/// The document of a report.
pub(super) fn page(report: &ReportContents) -> Markup {
    let parts = parts::all(report);
    document(&report.title, |main| {
        masthead(main, report);
        verdict(main, report);
        contents(main, &parts);
        for part in parts {
            section(main, part, report.view);
        }
    })
}

/// A document with this style sheet.
pub(super) fn document(title: &str, content: impl FnOnce(&mut Markup)) -> Markup {
    let mut page = Markup::default();
    page.trusted("<!DOCTYPE html>\n");
    page.element("html", &[("lang", "en")], |html| {
        html.element("head", &[], |head| {
            head.void("meta", &[("charset", "utf-8")]);
            head.void(
                "meta",
                &[
                    ("http-equiv", "Content-Security-Policy"),
                    ("content", &policy()),
                ],
            );
            head.void(
                "meta",
                &[
                    ("name", "viewport"),
                    ("content", "width=device-width, initial-scale=1"),
                ],
            );
            head.void(
                "meta",
                &[("name", "color-scheme"), ("content", "light dark")],
            );
            head.line("title", "", title);
            head.element("style", &[], |style| style.trusted(STYLE));
        });
        html.element("body", &[], |body| body.element("main", &[], content));
    });
    page.text("\n");
    page
}

/// The content security policy. It allows embedded pictures and our own style sheet only, so that even a
/// mistake in our markup could not load or run anything.
fn policy() -> String {
    let digest = STANDARD.encode(Sha256::digest(STYLE));
    format!("default-src 'none'; img-src data:; style-src 'sha256-{digest}'")
}

fn masthead(main: &mut Markup, report: &ReportContents) {
    main.element("header", &[], |header| {
        let kicker = format!("Calibration report, {}", view_name(report.view));
        header.line("p", "kicker", &kicker);
        header.element("h1", &[], |title| title.datum(&report.title));
        if let Some(created) = &report.created {
            header.line("p", "created", created);
        }
    });
}

/// The words for a view after a heading.
fn view_name(view: View) -> &'static str {
    match view {
        View::Search => "per search",
        View::Pairwise => "per pair of items",
    }
}

fn contents(main: &mut Markup, parts: &[ReportPart]) {
    if parts.is_empty() {
        return;
    }
    main.element("nav", &[("aria-label", "Contents")], |nav| {
        for part in parts {
            nav.element("a", &[("href", &format!("#{}", part.id))], |link| {
                link.text(part.title);
            });
        }
    });
}

fn section(main: &mut Markup, part: ReportPart, of_report: View) {
    main.element("section", &[("id", part.id)], |section| {
        section.element("div", &[("class", "rail")], |rail| {
            rail.line("h2", "", part.title);
            if let Some(view) = part.view {
                rail.line("p", "view", view_name(view));
            }
            for note in &part.notes {
                rail.line("p", "", note);
            }
            if part.view.is_some_and(|view| view != of_report) {
                let other = format!(
                    "Counted {}, and not to be compared with rates {}.",
                    part.view.map_or("", view_name),
                    view_name(of_report)
                );
                rail.line("p", "", &other);
            }
        });
        section.element("div", &[("class", "body")], |body| body.append(part.body));
    });
}

fn verdict(main: &mut Markup, report: &ReportContents) {
    let verdict = &report.verdict;
    let (class, word) = match verdict.standing {
        ClaimKind::Promised => ("verdict promised", "Promised"),
        ClaimKind::Estimated => ("verdict estimated", "Only estimated"),
        ClaimKind::Refused => ("verdict refused", "Refused"),
    };
    let attributes = [("class", class), ("aria-label", "Verdict")];
    main.element("section", &attributes, |inner| {
        inner.line("p", "standing", word);
        inner.line("p", "headline", &headline(verdict, report.view));
        if let Some(line) = confidence_line(verdict) {
            inner.line("p", "confidence", &line);
        }
        if let Some(point) = &report.operating_point {
            numbers(inner, point);
        }
        inner.element("dl", &[("class", "grounds")], |list| {
            grounds(list, "Rule", std::slice::from_ref(&verdict.rule));
            let why = match verdict.standing {
                ClaimKind::Promised => "Note",
                ClaimKind::Estimated => "Why no promise",
                ClaimKind::Refused => "Why",
            };
            grounds(list, why, &verdict.reasons);
            grounds(list, "What it takes", &verdict.needed);
            grounds(list, "Data", &verdict.data);
            let first: Vec<String> = report
                .assumptions
                .iter()
                .take(ASSUMPTIONS_FIRST)
                .cloned()
                .collect();
            grounds(list, "Assuming", &first);
        });
        let more = report.assumptions.len().saturating_sub(ASSUMPTIONS_FIRST);
        if 0 < more {
            inner.element("p", &[("class", "more")], |line| {
                line.element("a", &[("href", "#assumptions")], |link| {
                    link.text(&format!("and {more} more assumptions"));
                });
            });
        }
    });
}

fn grounds(list: &mut Markup, name: &'static str, sentences: &[String]) {
    if sentences.iter().all(String::is_empty) {
        return;
    }
    list.line("dt", "", name);
    list.element("dd", &[], |inner| {
        for sentence in sentences {
            inner.line("p", "", sentence);
        }
    });
}

fn headline(verdict: &ReportVerdict, view: View) -> String {
    match (verdict.standing, verdict.target) {
        (ClaimKind::Promised, Some(target)) => {
            format!(
                "{} will be {}.",
                subject(target, view),
                outcome(target, view)
            )
        }
        (ClaimKind::Estimated, Some(target)) => format!(
            "The threshold aims at this and does not promise it: {} {}.",
            lowered(&subject(target, view)),
            outcome(target, view)
        ),
        (ClaimKind::Refused, Some(target)) => format!(
            "These data cannot show that {} would be {}.",
            lowered(&subject(target, view)),
            outcome(target, view)
        ),
        (ClaimKind::Promised, None) => "The threshold keeps the rule below.".to_owned(),
        (ClaimKind::Estimated, None) => {
            "The threshold is what was measured. Nothing is promised.".to_owned()
        }
        (ClaimKind::Refused, None) => "No threshold is given.".to_owned(),
    }
}

fn subject(target: TargetRate, view: View) -> String {
    let trials = match (view, target.error) {
        (View::Search, ErrorRate::FalseAccept) => "searches for something that is not enrolled",
        (View::Search, ErrorRate::FalseReject) => "searches for something that is enrolled",
        (View::Pairwise, ErrorRate::FalseAccept) => "pairs of items of different labels",
        (View::Pairwise, ErrorRate::FalseReject) => "pairs of items of one label",
    };
    format!("At most {} of {trials}", short_percent(target.at_most))
}

fn outcome(target: TargetRate, view: View) -> &'static str {
    match (view, target.error) {
        (_, ErrorRate::FalseAccept) => "accepted",
        (View::Search, ErrorRate::FalseReject) => "rejected or given a wrong label",
        (View::Pairwise, ErrorRate::FalseReject) => "rejected",
    }
}

fn lowered(sentence: &str) -> String {
    let mut characters = sentence.chars();
    characters.next().map_or_else(String::new, |first| {
        first.to_lowercase().chain(characters).collect()
    })
}

fn confidence_line(verdict: &ReportVerdict) -> Option<String> {
    let confidence = short_percent(verdict.target?.confidence?);
    Some(match (verdict.standing, verdict.bound) {
        (ClaimKind::Promised, Some(bound)) => format!(
            "With {confidence} confidence over the sampling of the data. The rate that is not exceeded \
             with that confidence is {}.",
            percent(Some(bound))
        ),
        (ClaimKind::Promised, None) => {
            format!("With {confidence} confidence over the sampling of the data.")
        }
        (ClaimKind::Estimated, Some(bound)) => format!(
            "Asked for with {confidence} confidence; the upper bound at that confidence is {}.",
            percent(Some(bound))
        ),
        (ClaimKind::Estimated, None) => format!("Asked for with {confidence} confidence."),
        (ClaimKind::Refused, Some(bound)) => format!(
            "Asked for with {confidence} confidence; the least that could be shown is {}. No \
             threshold is given.",
            percent(Some(bound))
        ),
        (ClaimKind::Refused, None) => {
            format!("Asked for with {confidence} confidence. No threshold is given.")
        }
    })
}

fn numbers(verdict: &mut Markup, point: &PointSummary) {
    verdict.element("div", &[("class", "numbers")], |numbers| {
        let id = point.id.as_ref().map_or_else(
            || "accept at or above".to_owned(),
            |id| format!("accept at or above; operating point {id}"),
        );
        big(numbers, "Threshold", [&exact_score(point.threshold), &id]);
        for (name, estimate) in [
            ("False accept rate", point.far),
            ("False reject rate", point.frr),
        ] {
            let small = match estimate.interval {
                Some(span) => format!(
                    "{} at {}",
                    percent_span(Some(span)),
                    short_percent(span.confidence)
                ),
                None => percent_with_span(estimate),
            };
            big(numbers, name, [&percent(estimate.value), &small]);
        }
    });
    let (far, frr) = (point.far_basis, point.frr_basis);
    let basis = if far == frr {
        format!("Both rates measured on {}.", parts::basis(far))
    } else {
        format!(
            "False accepts measured on {}; false rejects on {}.",
            parts::basis(far),
            parts::basis(frr)
        )
    };
    verdict.line("p", "basis", &basis);
}

fn big(numbers: &mut Markup, name: &'static str, [value, small]: [&str; 2]) {
    numbers.element("div", &[], |number| {
        number.line("div", "number-name", name);
        number.line("div", "number-value", value);
        number.line("div", "small", small);
    });
}
