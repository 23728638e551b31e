//! The page about an operating point in service.

use super::axis::{AxisScale, AxisUnit, ChartAxis};
use super::estimate::RateInterval;
use super::markup::Markup;
use super::numbers::percent;
use super::page::document;
use super::plot::{AxisNames, Plot, TextAnchor};
use super::tables::{HtmlTable, TableColumn, cell};

/// Everything known about an operating point in service, as text.
#[derive(Clone, Debug, Default)]
pub struct DriftReport {
    /// What the page is about, such as the name of the deployment.
    pub title: String,
    /// When the page was made.
    pub created: String,
    /// The id of the operating point.
    pub operating_point: String,
    /// The findings, the most urgent first.
    pub findings: Vec<DriftFinding>,
    /// Names and values of what was measured.
    pub measured: Vec<[String; 2]>,
    /// How the rates developed.
    pub courses: Vec<RateCourse>,
}

/// How one rate developed.
#[derive(Clone, Debug)]
pub struct RateCourse {
    /// The rate, such as `FAR`.
    pub name: &'static str,
    /// Its limit; `None` if it has none.
    pub limit: Option<f64>,
    /// The first and the last time, formatted.
    pub ends: [String; 2],
    /// Days since the first time, and the rate of all decisions up to then with its interval.
    pub points: Vec<(f64, f64, RateInterval)>,
}

/// One finding.
#[derive(Clone, Debug)]
pub struct DriftFinding {
    /// The judgement, which decides the colour.
    pub standing: DriftStanding,
    /// The word for the judgement, such as `BROKEN`.
    pub verdict: String,
    /// The finding, in a sentence or two.
    pub says: String,
    /// The advice; empty if there is none.
    pub next: String,
}

/// The judgement of a finding, which decides its colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DriftStanding {
    /// The promise is kept.
    Good,
    /// Not known, or nothing to act on.
    Open,
    /// Action is needed.
    Bad,
}

/// Renders the page as one HTML file without scripts and network access.
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
        let mut table = HtmlTable::new(
            "",
            &[("Measured", TableColumn::Words), ("", TableColumn::Words)],
        );
        for [name, value] in &report.measured {
            table.row(vec![cell(name), cell(value)]);
        }
        courses(main, &report.courses);
        main.element("section", &[("id", "measured")], |section| {
            section.element("div", &[("class", "rail")], |rail| {
                rail.line("h2", "", "What was measured");
                let point = format!("Operating point {}.", report.operating_point);
                rail.line("p", "", &point);
                rail.line(
                    "p",
                    "",
                    "Rates come from labels of sampled decisions, each weighted by the inverse of its probability of being sampled. A rate without any label is unknown, not zero.",
                );
            });
            section.element("div", &[("class", "body")], |body| body.append(table.finish()));
        });
    });
    page.finish()
}

fn courses(main: &mut Markup, courses: &[RateCourse]) {
    let charts: Vec<Markup> = courses.iter().filter_map(chart).collect();
    if charts.is_empty() {
        return;
    }
    main.element("section", &[("id", "course")], |section| {
        section.element("div", &[("class", "rail")], |rail| {
            rail.line("h2", "", "How the rates developed");
            rail.line(
                "p",
                "",
                "Each point is the rate of all sampled decisions up to then, with its interval; a rise shows late in it. The intervals hold each for its point, and not for all of them together.",
            );
        });
        section.element("div", &[("class", "body")], |body| {
            for chart in charts {
                body.append(chart);
            }
        });
    });
}

/// `None` if fewer than two points are known.
fn chart(course: &RateCourse) -> Option<Markup> {
    let points = &course.points;
    let ((first, ..), (last, rate, span)) = (points.first()?, points.last()?);
    let x = ChartAxis::new(AxisScale::Linear, AxisUnit::Plain, (*first, *last))?;
    // The first intervals would fill the whole axis. The scale is chosen by the last interval and the limit
    // instead.
    let most = [*rate, span.upper, course.limit.unwrap_or(0.0)];
    let most = 1.5 * most.into_iter().fold(0.0, f64::max);
    let y = ChartAxis::new(AxisScale::Linear, AxisUnit::Share, (0.0, most.min(1.0)))?;
    let mut plot = Plot::new(x, y);
    let edge = |end: fn(&RateInterval) -> f64| -> Vec<(f64, f64)> {
        points
            .iter()
            .map(|(day, _, span)| (*day, end(span)))
            .collect()
    };
    plot.area(&edge(|span| span.upper), &edge(|span| span.lower), "band");
    let curve = points.iter().map(|(day, rate, _)| (*day, Some(*rate)));
    plot.curve(curve, "line", "");
    if let Some(limit) = course.limit {
        let name = format!("limit: {}", percent(Some(limit)));
        plot.horizontal(limit, "target", &name, TextAnchor::Right);
    }
    let [from, to] = &course.ends;
    plot.ends(from, to);
    let name = course.name;
    Some(plot.finish(
        "plot low",
        AxisNames {
            x: "Days →",
            y: &format!("↑ {name} of all sampled decisions up to then"),
        },
        &format!("Curve of the {name} over time, with its interval and its limit."),
    ))
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

    #[test]
    fn a_course_is_drawn_from_two_points_on() {
        let page = |days: &[f64]| {
            let span = RateInterval {
                lower: 0.01,
                upper: 0.05,
                confidence: 0.95,
            };
            let course = RateCourse {
                name: "FAR",
                limit: Some(0.02),
                ends: ["2026-11-01".to_owned(), "2026-11-09".to_owned()],
                points: days.iter().map(|day| (*day, 0.03, span)).collect(),
            };
            render(&DriftReport {
                courses: vec![course],
                ..DriftReport::default()
            })
        };
        let drawn = page(&[0.0, 3.0, 8.0]);
        assert!(
            drawn.contains("<svg") && drawn.contains("limit: 2"),
            "{drawn}"
        );
        assert!(!page(&[0.0]).contains("<svg") && !page(&[]).contains("<svg"));
    }
}
