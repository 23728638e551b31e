//! Metrics of recorded decisions, of their audit, and of canaries.

use std::time::Duration;

use metrics::{counter, gauge};

use super::series::MetricLabels;
use super::{metric, series};

/// How a rate was estimated: weighted by inverse inclusion probabilities, or as a plain share.
const HAJEK: &str = "hajek";
const PROPORTION: &str = "proportion";

/// How many decisions of one kind were ever recorded.
#[derive(Clone, Copy, Debug)]
pub struct RecordedDecisions<'a> {
    /// The operating point that decided; `None` for undecided ones.
    pub operating_point: Option<&'a str>,
    /// Where they came from.
    pub source: &'static str,
    /// What was decided.
    pub decision: &'static str,
    /// Stratum of the audit; `None` if they have none.
    pub stratum: Option<u16>,
    /// Whether a filter was used.
    pub filtered: bool,
    /// How many, and how many of them since the last call; `None` at opening.
    pub count: (u64, Option<u64>),
}

/// Sets how many decisions of one kind the journal has counted.
pub fn decisions_recorded(deployment: &str, recorded: RecordedDecisions<'_>) {
    let stratum = recorded.stratum.map(|stratum| stratum.to_string());
    let filtered = if recorded.filtered { "true" } else { "false" };
    let labels = [
        ("deployment", deployment.to_owned()),
        (
            "operating_point",
            recorded.operating_point.unwrap_or("none").to_owned(),
        ),
        ("source", recorded.source.to_owned()),
        ("decision", recorded.decision.to_owned()),
        ("stratum", stratum.unwrap_or_else(|| "none".to_owned())),
        ("filtered", filtered.to_owned()),
    ];
    let (total, since) = recorded.count;
    series::count(metric::RECORDED, &labels, total, since);
}

/// Sets how many were not recorded for a `reason`, and adds how many of them since the last call; `None` at
/// opening.
pub fn recording_lost(deployment: &str, reason: &'static str, total: u64, since: Option<u64>) {
    let labels = [
        ("deployment", deployment.to_owned()),
        ("reason", reason.to_owned()),
    ];
    series::count(metric::RECORDING_LOST, &labels, total, since);
}

/// Counts sampled decisions that were removed for space before anybody annotated them.
pub fn crowded_out(deployment: &str, count: u64) {
    let deployment = deployment.to_owned();
    counter!(metric::RECORDING_LOST, "deployment" => deployment, "reason" => "crowded_out")
        .increment(count);
}

/// Sets the size of the journal.
#[expect(
    clippy::cast_precision_loss,
    reason = "gauges; counts stay far below 2^53"
)]
pub fn journal_changed(deployment: &str, rows: u64, bytes: u64) {
    gauge!(metric::JOURNAL_ROWS, "deployment" => deployment.to_owned()).set(rows as f64);
    gauge!(metric::JOURNAL_BYTES, "deployment" => deployment.to_owned()).set(bytes as f64);
}

/// A rate in service; what is unknown is `None`, and not shown.
#[derive(Clone, Copy, Debug)]
pub struct AuditedRateGauges {
    /// `far`, `frr` or `fdr`.
    pub rate: &'static str,
    /// Estimate, lower and upper end.
    pub interval: Option<[f64; 3]>,
    /// Numerator and denominator.
    pub weighted: Option<[f64; 2]>,
    /// Its limit, and whether that is a target.
    pub limit: Option<(f64, bool)>,
    /// The evidence, its limit, and whether it ever reached that.
    pub evidence: Option<(f64, f64, bool)>,
}

pub(super) fn labels_of(deployment: &str, operating_point: &str) -> MetricLabels {
    vec![
        ("deployment", deployment.to_owned()),
        ("operating_point", operating_point.to_owned()),
    ]
}

fn labels_of_rate(deployment: &str, operating_point: &str, rate: &str) -> MetricLabels {
    let mut labels = labels_of(deployment, operating_point);
    labels.push(("rate", rate.to_owned()));
    labels
}

/// Shows the rates of an audit; a rate that was never known has no series, and one that is not known any
/// more is NaN.
pub fn rate_audited(deployment: &str, operating_point: &str, found: AuditedRateGauges) {
    let labels = || labels_of_rate(deployment, operating_point, found.rate);
    let set = |name: &'static str, value: Option<f64>| series::set(name, &labels(), value);
    let of_interval = |end: usize| Some(*found.interval?.get(end)?);
    for (end, bound) in ["estimate", "lower", "upper"].into_iter().enumerate() {
        let mut labels = labels();
        labels.extend([("estimator", HAJEK.to_owned()), ("bound", bound.to_owned())]);
        series::set(metric::AUDIT_RATE, &labels, of_interval(end));
    }
    set(
        metric::AUDIT_ERRORS,
        found.weighted.map(|[errors, _]| errors),
    );
    set(
        metric::AUDIT_TRIALS,
        found.weighted.map(|[_, trials]| trials),
    );
    if let Some((limit, target)) = found.limit {
        let basis = if target { "target" } else { "measured" };
        let mut labels = labels();
        labels.push(("basis", basis.to_owned()));
        series::set(metric::RATE_LIMIT, &labels, Some(limit));
    }
    if let Some((evidence, alarm, raised)) = found.evidence {
        set(metric::EVIDENCE, Some(evidence));
        set(metric::EVIDENCE_ALARM, Some(alarm));
        set(metric::RATE_ALARM, Some(f64::from(u8::from(raised))));
    }
}

/// The audit sample of an operating point.
#[derive(Clone, Copy, Debug)]
pub struct AuditCounts {
    /// Sampled decisions.
    pub sampled: u64,
    /// Sampled decisions with an annotation.
    pub annotated: u64,
    /// Sampled decisions that were made after the latest annotation was given.
    pub since_annotation: u64,
    /// When that was, in milliseconds since 1970-01-01 UTC.
    pub latest_annotation_ms: Option<u64>,
    /// Feedback on accepts: right and wrong.
    pub feedback: (u64, u64),
}

/// Sets how many decisions of an operating point were sampled and annotated.
#[expect(
    clippy::cast_precision_loss,
    reason = "gauges; counts stay far below 2^53"
)]
pub fn audit_counted(deployment: &str, operating_point: &str, counts: AuditCounts) {
    for (name, count) in [
        (metric::AUDIT_SAMPLED, counts.sampled),
        (metric::AUDIT_ANNOTATED, counts.annotated),
        (metric::AUDIT_SINCE_ANNOTATION, counts.since_annotation),
    ] {
        let labels = labels_of(deployment, operating_point);
        series::set(name, &labels, Some(count as f64));
    }
    let latest = counts.latest_annotation_ms.map(|ms| ms as f64 / 1000.0);
    let labels = labels_of(deployment, operating_point);
    series::set(metric::AUDIT_LATEST_ANNOTATION, &labels, latest);
    let (right, wrong) = counts.feedback;
    for (verdict, count) in [("right", right), ("wrong", wrong)] {
        let mut labels = labels_of(deployment, operating_point);
        labels.push(("verdict", verdict.to_owned()));
        series::set(metric::ACCEPT_FEEDBACK, &labels, Some(count as f64));
    }
}

/// An operating point is not active any more: its series become unknown.
pub fn audit_ended(deployment: &str, operating_point: &str) {
    for rate in ["far", "frr", "fdr"] {
        let found = AuditedRateGauges {
            rate,
            interval: None,
            weighted: None,
            limit: None,
            evidence: (rate != "fdr").then_some((f64::NAN, f64::NAN, false)),
        };
        rate_audited(deployment, operating_point, found);
        if rate != "fdr" {
            rate_onset(deployment, operating_point, rate, None, None);
        }
    }
    traffic_ended(deployment, operating_point);
    reviews_shown(deployment, operating_point, None);
    for name in [
        metric::AUDIT_SAMPLED,
        metric::AUDIT_ANNOTATED,
        metric::AUDIT_SINCE_ANNOTATION,
        metric::AUDIT_LATEST_ANNOTATION,
    ] {
        series::set(name, &labels_of(deployment, operating_point), None);
    }
}

/// Sets since when there is an alarm, in seconds since 1970-01-01 UTC, and the CUSUM; unknown is NaN.
pub fn rate_onset(
    deployment: &str,
    operating_point: &str,
    rate: &'static str,
    alarm: Option<Duration>,
    cusum: Option<f64>,
) {
    let mut labels = labels_of(deployment, operating_point);
    labels.push(("rate", rate.to_owned()));
    let since = alarm.map(|since| since.as_secs_f64());
    series::set(metric::RATE_ALARM_SINCE, &labels, since);
    series::set(metric::RATE_CUSUM, &labels, cusum);
}

/// How traffic compares with the calibration.
#[derive(Clone, Copy, Debug)]
pub struct TrafficGauges {
    /// Searches compared.
    pub compared: u64,
    /// The logarithm of the evidence, and its limit.
    pub evidence: [f64; 2],
    /// Whether it ever reached that.
    pub raised: bool,
}

/// Shows how traffic compares with the calibration of an operating point.
#[expect(
    clippy::cast_precision_loss,
    reason = "gauges; counts stay far below 2^53"
)]
pub fn traffic_compared(deployment: &str, operating_point: &str, found: TrafficGauges) {
    let [evidence, alarm] = found.evidence;
    for (name, value) in [
        (metric::TRAFFIC_COMPARED, found.compared as f64),
        (metric::TRAFFIC_EVIDENCE, evidence),
        (metric::TRAFFIC_EVIDENCE_ALARM, alarm),
        (metric::TRAFFIC_ALARM, f64::from(u8::from(found.raised))),
    ] {
        series::set(name, &labels_of(deployment, operating_point), Some(value));
    }
}

/// A share of searches.
#[derive(Clone, Copy, Debug)]
pub struct TrafficShareGauges {
    /// At calibration.
    pub calibrated: f64,
    /// The highest that is compatible with the calibration.
    pub limit: f64,
    /// Recently; `None` before the first search.
    pub recent: Option<f64>,
}

/// Shows the share of a feature that has most of the evidence.
pub fn traffic_share(
    deployment: &str,
    operating_point: &str,
    feature: &'static str,
    found: TrafficShareGauges,
) {
    for (bound, value) in [
        ("recent", found.recent),
        ("calibrated", Some(found.calibrated)),
        ("limit", Some(found.limit)),
    ] {
        let mut labels = labels_of(deployment, operating_point);
        labels.extend([("feature", feature.to_owned()), ("bound", bound.to_owned())]);
        series::set(metric::TRAFFIC_SHARE, &labels, value);
    }
}

/// The features of which a share can be shown, as label values.
pub const TRAFFIC_FEATURE_VALUES: [&str; 8] = [
    "format",
    "size",
    "brightness",
    "sharpness",
    "feature_length",
    "embedding",
    "resemblance",
    "condition",
];

/// The share of searches that went to a person.
#[derive(Clone, Copy, Debug)]
pub struct ReviewGauges {
    /// Estimate, lower and upper end; `None` without a search.
    pub share: Option<[f64; 3]>,
    /// The ends of what its calibration foresees.
    pub predicted: [f64; 2],
    /// -1 if it is below that, 1 if above, else 0.
    pub strays: f64,
}

/// Shows how many searches go to a person; `None` if there is no review band any more.
pub fn reviews_shown(deployment: &str, operating_point: &str, found: Option<ReviewGauges>) {
    let share = |end: usize| Some(*found?.share?.get(end)?);
    let predicted = |end: usize| Some(*found?.predicted.get(end)?);
    let bounds = [
        ("estimate", share(0)),
        ("lower", share(1)),
        ("upper", share(2)),
        ("predicted_lower", predicted(0)),
        ("predicted_upper", predicted(1)),
    ];
    for (bound, value) in bounds {
        let mut labels = labels_of(deployment, operating_point);
        labels.push(("bound", bound.to_owned()));
        series::set(metric::REVIEW_SHARE, &labels, value);
    }
    let strays = found.map(|found| found.strays);
    let labels = labels_of(deployment, operating_point);
    series::set(metric::REVIEW_STRAYS, &labels, strays);
}

fn traffic_ended(deployment: &str, operating_point: &str) {
    for name in [
        metric::TRAFFIC_COMPARED,
        metric::TRAFFIC_EVIDENCE,
        metric::TRAFFIC_EVIDENCE_ALARM,
        metric::TRAFFIC_ALARM,
    ] {
        series::set(name, &labels_of(deployment, operating_point), None);
    }
    for feature in TRAFFIC_FEATURE_VALUES {
        for bound in ["recent", "calibrated", "limit"] {
            let mut labels = labels_of(deployment, operating_point);
            labels.extend([("feature", feature.to_owned()), ("bound", bound.to_owned())]);
            series::set(metric::TRAFFIC_SHARE, &labels, None);
        }
    }
}

/// What a round of canaries shows for one rate.
#[derive(Clone, Copy, Debug)]
pub struct CanaryGauges {
    /// `far` or `frr`.
    pub rate: &'static str,
    /// Canaries of this kind.
    pub trials: u64,
    /// Those of them in error.
    pub errors: u64,
    /// Lower and upper end of the share; `None` without trials.
    pub interval: Option<[f64; 2]>,
    /// Whether they fail more often than the limit; `None` if that is unknown.
    pub alarm: Option<bool>,
}

/// Canaries are not judged by this operating point any more.
pub fn canaries_ended(deployment: &str, operating_point: &str) {
    for rate in ["far", "frr"] {
        let labels = || labels_of_rate(deployment, operating_point, rate);
        for name in [
            metric::CANARY_ALARM,
            metric::CANARY_TRIALS,
            metric::CANARY_ERRORS,
        ] {
            series::set(name, &labels(), None);
        }
        for bound in ["lower", "upper"] {
            let mut labels = labels();
            labels.extend([
                ("estimator", PROPORTION.to_owned()),
                ("bound", bound.to_owned()),
            ]);
            series::set(metric::CANARY_RATE, &labels, None);
        }
    }
    for name in [metric::CANARY_CHANGED, metric::CANARY_FAILED] {
        series::set(name, &[("deployment", deployment.to_owned())], None);
    }
}

/// Shows the results of a round of canaries: how many changed, and how many failed.
#[expect(
    clippy::cast_precision_loss,
    reason = "gauges; counts stay far below 2^53"
)]
pub fn canaries_replayed(
    deployment: &str,
    operating_point: &str,
    rates: [CanaryGauges; 2],
    changed: usize,
    failed: usize,
) {
    for found in rates {
        let labels = || labels_of_rate(deployment, operating_point, found.rate);
        series::set(metric::CANARY_TRIALS, &labels(), Some(found.trials as f64));
        series::set(metric::CANARY_ERRORS, &labels(), Some(found.errors as f64));
        let alarm = found.alarm.map(|alarm| f64::from(u8::from(alarm)));
        series::set(metric::CANARY_ALARM, &labels(), alarm);
        for (end, bound) in ["lower", "upper"].into_iter().enumerate() {
            let mut labels = labels();
            labels.extend([
                ("estimator", PROPORTION.to_owned()),
                ("bound", bound.to_owned()),
            ]);
            let value = found.interval.and_then(|ends| ends.get(end).copied());
            series::set(metric::CANARY_RATE, &labels, value);
        }
    }
    for (name, count) in [
        (metric::CANARY_CHANGED, changed),
        (metric::CANARY_FAILED, failed),
    ] {
        let labels = [("deployment", deployment.to_owned())];
        series::set(name, &labels, Some(count as f64));
    }
}

/// Shows where the strata of the audit begin and end; `edges` are those between them.
pub fn strata_designed(deployment: &str, edges: &[f64]) {
    for (below, edge) in edges.iter().enumerate() {
        for (stratum, bound) in [(below, "upper"), (below + 1, "lower")] {
            gauge!(metric::STRATUM_EDGE, "deployment" => deployment.to_owned(),
                "stratum" => stratum.to_string(), "bound" => bound)
            .set(*edge);
        }
    }
}
