//! Draws how rates developed. The drawing uses attributes only, because the policy of the pages allows no style
//! in markup.

use maud::{Markup, html};

use super::words::{percent, time};
use matchpoint_client::proto::{AuditedRate, Evidence, RateHistoryPoint};

/// The size of a chart in its own coordinates; it is stretched to the page.
const WIDTH: f64 = 600.0;
const HEIGHT: f64 = 140.0;

/// The charts of FAR and FRR; a rate with fewer than two points is left out.
pub(super) fn charts(history: &[RateHistoryPoint], evidence: [Option<Evidence>; 2]) -> Markup {
    let [far, frr] = evidence.map(|evidence| evidence.map(|one| one.limit));
    let of = |take: fn(&RateHistoryPoint) -> Option<AuditedRate>| {
        let points = history.iter();
        let known = points.filter_map(|point| Some((point.unix_milliseconds, take(point)?)));
        known.collect::<Vec<_>>()
    };
    html! {
        div.charts {
            (chart("FAR", &of(|point| point.far), far))
            (chart("FRR", &of(|point| point.frr), frr))
        }
    }
}

fn chart(name: &str, points: &[(i64, AuditedRate)], limit: Option<f64>) -> Markup {
    let [(first, _), .., (last, rate)] = points else {
        return html! {};
    };
    // The first intervals would fill the whole chart. The scale is chosen by the last interval and the limit.
    let most = [rate.rate, rate.upper, limit.unwrap_or_default()];
    let most = (1.5 * most.into_iter().fold(0.0, f64::max)).clamp(1e-6, 1.0);
    let drawing = CourseDrawing {
        first: *first,
        span: last.saturating_sub(*first).max(1),
        most,
    };
    let line = drawing.line(points.iter().map(|(at, rate)| (*at, rate.rate)));
    let upper = drawing.line(points.iter().map(|(at, rate)| (*at, rate.upper)));
    let lower = drawing.line(points.iter().rev().map(|(at, rate)| (*at, rate.lower)));
    let view = format!("0 0 {WIDTH} {HEIGHT}");
    html! {
        figure.course {
            svg viewBox=(view) preserveAspectRatio="none" width="100%" height="140" role="img" aria-label={ "Course of the " (name) ", now " (percent(rate.rate)) } {
                polygon.band points={ (upper) " " (lower) } {}
                polyline.line points=(line) {}
                @if let Some(limit) = limit {
                    @let y = drawing.y(limit);
                    line.limit x1="0" x2=(WIDTH) y1=(y) y2=(y) {}
                }
            }
            figcaption { b { (name) } " of all sampled decisions up to then, " (time(*first)) " to " (time(*last)) ": now " (percent(rate.rate)) @if let Some(limit) = limit { ", limit " (percent(limit)) } }
        }
    }
}

struct CourseDrawing {
    first: i64,
    span: i64,
    most: f64,
}

impl CourseDrawing {
    #[expect(
        clippy::cast_precision_loss,
        reason = "milliseconds of years, on a chart of hundreds of points"
    )]
    fn x(&self, at: i64) -> f64 {
        WIDTH * at.saturating_sub(self.first) as f64 / self.span as f64
    }

    fn y(&self, share: f64) -> String {
        let along = (share / self.most).clamp(0.0, 1.0);
        format!("{:.1}", HEIGHT * (1.0 - along))
    }

    fn line(&self, points: impl Iterator<Item = (i64, f64)>) -> String {
        let places = points.map(|(at, share)| format!("{:.1},{}", self.x(at), self.y(share)));
        places.collect::<Vec<_>>().join(" ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_course_is_drawn_from_two_points_on_and_stays_on_its_chart() {
        let point = |at: i64, rate: f64| RateHistoryPoint {
            unix_milliseconds: at,
            far: Some(AuditedRate {
                rate,
                lower: 0.0,
                upper: 1.0,
                ..AuditedRate::default()
            }),
            frr: None,
        };
        let drawn = |points: &[RateHistoryPoint]| charts(points, [None, None]).into_string();
        assert!(!drawn(&[point(0, 0.1)]).contains("<svg"));
        let two = drawn(&[point(0, 0.0), point(1000, 1.0)]);
        assert!(two.contains("points=\"0.0,140.0 600.0,0.0\""), "{two}");
        assert_eq!(two.matches("<svg").count(), 1);
        assert!(drawn(&[point(5, 0.0), point(5, 0.0)]).contains("0.0,140.0"));
    }
}
