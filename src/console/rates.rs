//! Error rates in service with their intervals and limits.

use maud::{Markup, html};

use super::words::{percent, time};
use matchpoint_client::proto::{AuditedRate, Evidence, GetDriftResponse};

/// A rate with its name.
struct RateRow {
    name: &'static str,
    meaning: &'static str,
    rate: Option<AuditedRate>,
    evidence: Option<Evidence>,
}

/// The table of FAR, FRR and the share of accepts that were wrong.
pub(super) fn table(drift: &GetDriftResponse) -> Markup {
    let rows = [
        RateRow {
            name: "FAR",
            meaning: "strangers accepted",
            rate: drift.far,
            evidence: drift.far_evidence,
        },
        RateRow {
            name: "FRR",
            meaning: "enrolled missed",
            rate: drift.frr,
            evidence: drift.frr_evidence,
        },
        RateRow {
            name: "Wrong accepts",
            meaning: "of all accepts",
            rate: drift.fdr,
            evidence: None,
        },
    ];
    // All rates share one scale, so that they can be compared.
    let ends = rows.iter().flat_map(|row| {
        let limit = row.evidence.map(|evidence| evidence.limit);
        [row.rate.map(|rate| rate.upper), limit]
    });
    let most = ends.flatten().fold(0.0, f64::max).clamp(0.01, 1.0);
    html! {
        table.rates {
            thead { tr { th scope="col" { "Rate" } th scope="col" { "So far" } th scope="col" { "Interval, and its limit" } } }
            tbody {
                @for row in &rows {
                    tr {
                        th scope="row" { (row.name) span.small { (row.meaning) } }
                        @match &row.rate {
                            Some(rate) => {
                                td { b { (percent(rate.rate)) } span.small { (rate.annotated_errors) " of " (rate.annotated_trials) " labels" } }
                                td { (interval(rate, row.evidence.map(|one| one.limit), most)) (held(rate, row.evidence)) }
                            },
                            None => {
                                td { "not known" }
                                td { span.small { "No label counts for it yet." } }
                            },
                        }
                    }
                }
            }
        }
    }
}

fn held(rate: &AuditedRate, evidence: Option<Evidence>) -> Markup {
    let alarm = evidence.and_then(|one| one.alarm_unix_milliseconds.filter(|_| one.alarm));
    html! {
        span.small {
            (percent(rate.lower)) " to " (percent(rate.upper)) " at " (percent(rate.confidence))
            @if let Some(evidence) = evidence {
                "; " @if evidence.limit_is_target { "target " } @else { "calibration's upper end " } (percent(evidence.limit))
            }
            @if let Some(since) = alarm { "; " b.wrong { "alarm since " (time(since)) } }
        }
    }
}

/// Draws an interval as a line, with the estimate and the limit.
fn interval(rate: &AuditedRate, limit: Option<f64>, most: f64) -> Markup {
    let place = |share: f64| format!("{:.2}%", 100.0 * (share / most).clamp(0.0, 1.0));
    let class = match limit {
        Some(limit) if limit < rate.lower => "span above",
        _ => "span",
    };
    html! {
        svg.scale width="100%" height="16" aria-hidden="true" {
            line.track x1="0" x2="100%" y1="8" y2="8" {}
            line class=(class) x1=(place(rate.lower)) x2=(place(rate.upper)) y1="8" y2="8" {}
            circle.estimate cx=(place(rate.rate)) cy="8" r="4" {}
            @if let Some(limit) = limit { line.limit x1=(place(limit)) x2=(place(limit)) y1="1" y2="15" {} }
        }
    }
}
