//! The page about an operating point in service.

use super::markup::Markup;
use super::page::document;
use super::tables::{Column, Table, cell};

/// What is known of an operating point in service, as text.
#[derive(Clone, Debug, Default)]
pub struct DriftReport {
    /// What it is about, such as the deployment's name.
    pub title: String,
    /// When it was made.
    pub created: String,
    /// The operating point.
    pub operating_point: String,
    /// What was found, the most urgent first.
    pub findings: Vec<DriftFinding>,
    /// Names and values of what was measured.
    pub measured: Vec<[String; 2]>,
}

/// One finding.
#[derive(Clone, Debug)]
pub struct DriftFinding {
    /// How it stands.
    pub standing: DriftStanding,
    /// The word for that, such as `BROKEN`.
    pub verdict: String,
    /// A sentence or two.
    pub says: String,
    /// What to do; empty where there is nothing.
    pub next: String,
}

/// How a finding is coloured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DriftStanding {
    /// As promised.
    Good,
    /// Not known, or nothing to act on.
    Open,
    /// Something is to be done.
    Bad,
}

/// The page as one file: no script, no network.
#[must_use]
pub fn render(report: &DriftReport) -> String {
    let page = document(&report.title, |main| {
        main.element("header", &[], |header| {
            header.line(
                "p",
                "kicker",
                "Drift report: is the promise kept in service?",
            );
            header.element("h1", &[], |title| title.datum(&report.title));
            header.line("p", "created", &report.created);
        });
        for finding in &report.findings {
            show(main, finding);
        }
        let mut table = Table::new("", &[("Measured", Column::Words), ("", Column::Words)]);
        for [name, value] in &report.measured {
            table.row(vec![cell(name), cell(value)]);
        }
        main.element("section", &[("id", "measured")], |section| {
            section.element("div", &[("class", "rail")], |rail| {
                rail.line("h2", "", "What was measured");
                let point = format!("Operating point {}.", report.operating_point);
                rail.line("p", "", &point);
                rail.line(
                    "p",
                    "",
                    "Rates come from labels of drawn decisions, each weighted by the inverse of its probability of being drawn. What no label bears on is not known, and is not zero.",
                );
            });
            section.element("div", &[("class", "body")], |body| body.append(table.finish()));
        });
    });
    page.finish()
}

fn show(main: &mut Markup, finding: &DriftFinding) {
    let class = match finding.standing {
        DriftStanding::Good => "verdict promised",
        DriftStanding::Open => "verdict estimated",
        DriftStanding::Bad => "verdict refused",
    };
    main.element("section", &[("class", class)], |inner| {
        inner.line("p", "standing", &finding.verdict);
        inner.line("p", "confidence", &finding.says);
        if !finding.next.is_empty() {
            inner.line("p", "confidence", &finding.next);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_from_data_arrives_as_text() {
        let page = render(&DriftReport {
            title: "<b>shop</b>".to_owned(),
            findings: vec![DriftFinding {
                standing: DriftStanding::Bad,
                verdict: "BROKEN".to_owned(),
                says: "A & B".to_owned(),
                next: String::new(),
            }],
            measured: vec![["FAR".to_owned(), "not known".to_owned()]],
            ..DriftReport::default()
        });
        assert!(page.contains("&lt;b&gt;shop") && page.contains("A &amp; B"));
        assert!(page.contains("verdict refused") && page.contains("not known"));
        assert!(!page.contains("<b>shop") && !page.contains("<script"));
    }
}
