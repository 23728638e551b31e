//! Every metric's name, meaning and labels, and the set-up of metrics and logs.
//!
//! Names follow Prometheus: one prefix, base units, `_total` on counters. No label holds an item,
//! a label of the gallery or anything else that a client chooses, so the number of series is bounded.

mod audit;
mod endpoint;
mod escape;
mod index;
mod keys;
mod logs;
mod metric;
mod openmetrics;
mod promise;
mod series;
mod shadow;
mod states;

use std::future::Future;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use audit::labels_of;
pub use audit::{
    AuditCounts, AuditedRateGauges, CanaryGauges, RecordedDecisions, ReviewGauges,
    TRAFFIC_FEATURE_VALUES, TrafficGauges, TrafficShareGauges, audit_counted, audit_ended,
    canaries_ended, canaries_replayed, crowded_out, decisions_recorded, journal_changed,
    rate_audited, rate_onset, recording_lost, reviews_shown, strata_designed, traffic_compared,
    traffic_share,
};
pub use escape::{escaped, escaped_json, escaped_lines};
pub use index::{
    index_checked, index_followed, index_started, points_repaired, proposal_refused,
    searched_beside_index,
};
pub use keys::key_expires;
pub use logs::{CHANGES, install_logs};
use metrics::{counter, gauge, histogram};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder};
pub use promise::{PROMISE_VALUES, far_predicted, promise_seen};
pub use shadow::{ShadowLabels, shadow_compared, shadow_ended, shadow_skipped, shadow_started};
pub use states::{folder_changed, state_decides, store_followed};

/// The decisions, as label values.
pub const DECISION_VALUES: [&str; 3] = ["accept", "reject", "undecided"];
/// The stages of a request, as label values.
pub const STAGE_VALUES: [&str; 4] = ["queue", "decode", "inference", "search"];
/// Why a job can leave the queue undone, as label values.
pub const DROPPED_VALUES: [&str; 4] = ["gone", "late", "displaced", "stuck"];
/// Why an image can fail, as label values.
pub const IMAGE_FAILURE_VALUES: [&str; 5] = [
    "undecodable",
    "unsupported_format",
    "too_large",
    "no_content",
    "no_embedding",
];

/// From half a millisecond, a vector search, to a request that only just meets its deadline.
const SECONDS_BUCKETS: [f64; 15] = [
    0.0005, 0.001, 0.0025, 0.005, 0.0075, 0.01, 0.015, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0,
];

/// Fixed, so that distributions can be compared over time and between replicas in `PromQL`.
const SCORE_BUCKETS: [f64; 23] = [
    -0.5, 0.0, 0.1, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85,
    0.9, 0.925, 0.95, 0.975, 0.99, 1.0,
];

/// 0 means two labels tie, 1 that the next label is at a right angle to the query.
const MARGIN_BUCKETS: [f64; 12] = [
    0.0, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0,
];

/// Equal ratios of 2^(1/4), since models differ in scale: the least change that shows is a fifth.
fn norm_buckets() -> Vec<f64> {
    (-8..=40)
        .map(|step| 2.0_f64.powf(f64::from(step) / 4.0))
        .collect()
}

/// What can go wrong while telemetry is set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The log filter cannot be parsed.
    #[error(
        "the log filter `{filter}` is wrong: {cause}; write a level such as `info`, or `matchpoint=debug,warn`"
    )]
    Filter {
        /// The filter.
        filter: String,
        /// The parser's words.
        cause: String,
    },
    /// The metrics endpoint cannot be opened.
    #[error(
        "the metrics endpoint cannot listen on {address}: {cause}; set metrics_listen to another address, or to `off`"
    )]
    Endpoint {
        /// The address.
        address: SocketAddr,
        /// The system's words.
        cause: String,
    },
}

/// Installs the recorder, and returns the task that serves `/metrics` until it is dropped.
///
/// Must be called within a tokio runtime.
///
/// # Errors
/// An address that cannot be listened on.
pub fn install_metrics(
    address: SocketAddr,
) -> Result<impl Future<Output = ()> + Send, TelemetryError> {
    let failed = |cause: &dyn std::fmt::Display| TelemetryError::Endpoint {
        address,
        cause: cause.to_string(),
    };
    let recorder = PrometheusBuilder::new()
        .set_buckets(&SECONDS_BUCKETS)
        .and_then(|builder| {
            builder.set_buckets_for_metric(
                Matcher::Full(metric::MATCH_SCORE.to_owned()),
                &SCORE_BUCKETS,
            )
        })
        .and_then(|builder| {
            builder.set_buckets_for_metric(
                Matcher::Full(metric::MATCH_MARGIN.to_owned()),
                &MARGIN_BUCKETS,
            )
        })
        .and_then(|builder| {
            builder.set_buckets_for_metric(
                Matcher::Full(metric::FEATURE_NORM.to_owned()),
                &norm_buckets(),
            )
        })
        .map_err(|cause| failed(&cause))?
        .build_recorder();
    let endpoint = endpoint::endpoint(address, recorder.handle());
    let endpoint = endpoint.map_err(|cause| failed(&cause))?;
    // If a recorder is already installed, in a process that serves twice, it stays.
    drop(metrics::set_global_recorder(recorder));
    metric::describe();
    Ok(endpoint)
}

/// Announces the build, and that the server is not ready yet.
pub fn server_started(version: &'static str) {
    gauge!(metric::BUILD_INFO, "version" => version).set(1.0);
    for reason in CONNECTION_CLOSED_VALUES {
        counter!(metric::CONNECTIONS_CLOSED, "reason" => reason).absolute(0);
    }
    for setting in LIMIT_VALUES {
        counter!(metric::LIMIT_REFUSALS, "limit" => setting).absolute(0);
    }
    server_ready(false);
}

/// Whether the server answers requests, for probes.
static READY: AtomicBool = AtomicBool::new(false);

fn is_ready() -> bool {
    READY.load(Ordering::Relaxed)
}

/// Whether the process should be restarted, for probes.
static WORN_OUT: AtomicBool = AtomicBool::new(false);

/// Whether the process is healthy, for probes.
fn is_alive() -> bool {
    !WORN_OUT.load(Ordering::Relaxed)
}

/// Sets whether so many workers are stuck that the process should be restarted.
pub fn worn_out(is_worn_out: bool) {
    WORN_OUT.store(is_worn_out, Ordering::Relaxed);
}

/// Why the server closes connections, as label values.
pub const CONNECTION_CLOSED_VALUES: [&str; 4] = ["refused", "not_accepted", "handshake", "idle"];
/// The settings of limits that clients share, as label values.
pub const LIMIT_VALUES: [&str; 5] = [
    "connections_max",
    "calls_max",
    "receive_bytes_max",
    "answer_bytes_max",
    "stall_seconds",
];

/// Sets how many connections are open.
pub fn connections_open(count: usize) {
    #[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
    gauge!(metric::CONNECTIONS).set(count as f64);
}

/// Counts a connection that was closed for a reason.
pub fn connection_closed(reason: &'static str) {
    counter!(metric::CONNECTIONS_CLOSED, "reason" => reason).increment(1);
}

/// Counts a call that was refused or given up at the limit that a setting names.
pub fn limit_refused(setting: &'static str) {
    counter!(metric::LIMIT_REFUSALS, "limit" => setting).increment(1);
}

/// Sets whether the server answers requests.
pub fn server_ready(ready: bool) {
    READY.store(ready, Ordering::Relaxed);
    gauge!(metric::READY).set(f64::from(u8::from(ready)));
}

/// The labels of a deployment.
#[derive(Clone, Copy, Debug)]
pub struct DeploymentLabels<'a> {
    /// The name it is served under.
    pub name: &'a str,
    /// The model's name.
    pub model: &'a str,
    /// The model's fingerprint.
    pub fingerprint: &'a str,
    /// Which of the model's precisions.
    pub precision: &'a str,
    /// The execution provider really in use.
    pub execution_provider: &'a str,
}

/// Reports a deployment that could not be opened.
pub fn deployment_unopened(name: &str) {
    gauge!(metric::DEPLOYMENT_UNOPENED, "deployment" => name.to_owned()).set(1.0);
}

/// A deployment's model is not in use any more.
pub fn deployment_ended(labels: DeploymentLabels<'_>) {
    model_info(labels).set(0.0);
}

fn model_info(labels: DeploymentLabels<'_>) -> metrics::Gauge {
    gauge!(metric::MODEL_INFO, "deployment" => labels.name.to_owned(), "model" => labels.model.to_owned(),
        "fingerprint" => labels.fingerprint.to_owned(),
        "precision" => labels.precision.to_owned(),
        "execution_provider" => labels.execution_provider.to_owned())
}

/// Announces a deployment, with every series that it will ever have at zero.
pub fn deployment_started(labels: DeploymentLabels<'_>) {
    let deployment = labels.name.to_owned();
    model_info(labels).set(1.0);
    for reason in IMAGE_FAILURE_VALUES {
        counter!(metric::IMAGE_FAILURES, "deployment" => deployment.clone(), "reason" => reason)
            .absolute(0);
    }
    for outcome in ["apart", "lookalike", "unchecked"] {
        counter!(metric::ENROLMENT_CHECKS, "deployment" => deployment.clone(), "outcome" => outcome)
            .absolute(0);
    }
    for change in ["inserted", "replaced", "deleted"] {
        counter!(metric::GALLERY_CHANGES, "deployment" => deployment.clone(), "change" => change)
            .absolute(0);
    }
    counter!(metric::QUEUE_REJECTED, "deployment" => deployment.clone()).absolute(0);
    for counted in [
        metric::INDEX_CHECKED,
        metric::INDEX_MISSED,
        metric::DAMAGED_ITEMS,
        metric::UNRECORDED,
    ] {
        counter!(counted, "deployment" => deployment.clone()).absolute(0);
    }
    decisions_started(labels.name, "none");
}

fn decisions_started(deployment: &str, operating_point: &str) {
    for decision in DECISION_VALUES {
        counter!(metric::DECISIONS, "deployment" => deployment.to_owned(),
            "operating_point" => operating_point.to_owned(), "decision" => decision)
        .absolute(0);
    }
}

/// The figures of an operating point.
#[derive(Clone, Copy, Debug)]
pub struct OperatingPointGauges<'a> {
    /// Its id.
    pub id: &'a str,
    /// The similarity from which it accepts.
    pub threshold: f32,
    /// The false accept rate it promises or aims at; `None` if it has no such target.
    pub target_far: Option<f64>,
    /// The upper bound measured at calibration; `None` if there is none.
    pub far_upper_bound: Option<f64>,
    /// When it was made.
    pub created: SystemTime,
}

/// Announces the active operating point, and that `previous` is not active any more.
pub fn operating_point_activated(
    deployment: &str,
    previous: Option<&str>,
    active: Option<OperatingPointGauges<'_>>,
) {
    let labels = |id: &str| {
        [
            ("deployment", deployment.to_owned()),
            ("operating_point", id.to_owned()),
        ]
    };
    if let Some(previous) = previous {
        gauge!(metric::OPERATING_POINT_ACTIVE, &labels(previous)).set(0.0);
        canaries_ended(deployment, previous);
        show_left_out(deployment, previous, None);
        series::set(metric::FAR_BOUND, &labels_of(deployment, previous), None);
        promise::replaced(deployment, previous);
    }
    let Some(active) = active else { return };
    let labels = labels(active.id);
    gauge!(metric::OPERATING_POINT_ACTIVE, &labels).set(1.0);
    gauge!(metric::THRESHOLD, &labels).set(f64::from(active.threshold));
    // No series if unknown: zero would look like a promise.
    if let Some(target_far) = active.target_far {
        gauge!(metric::TARGET_FAR, &labels).set(target_far);
    }
    if let Some(bound) = active.far_upper_bound {
        gauge!(metric::FAR_UPPER_BOUND, &labels).set(bound);
    }
    let since = active
        .created
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    gauge!(metric::CALIBRATION_TIMESTAMP, &labels).set(since.as_secs_f64());
    decisions_started(deployment, active.id);
}

/// Sets the size of the gallery, and how much of it the operating point was calibrated for.
#[expect(
    clippy::cast_precision_loss,
    reason = "a gauge; counts stay far below 2^53"
)]
pub fn gallery_changed(deployment: &str, gallery: GalleryGauges<'_>) {
    let labels = [("deployment", deployment.to_owned())];
    gauge!(metric::GALLERY_ITEMS, &labels).set(gallery.items as f64);
    gauge!(metric::GALLERY_LABELS, &labels).set(gallery.labels as f64);
    gauge!(metric::GALLERY_GENERATION, &labels).set(gallery.generation as f64);
    gauge!(metric::INDEX_BYTES, &labels).set(gallery.index_bytes as f64);
    if let Some((id, calibrated)) = gallery.calibrated {
        let ratio = gallery.extent as f64 / calibrated as f64;
        gauge!(metric::GALLERY_SIZE_RATIO, "deployment" => deployment.to_owned(), "operating_point" => id.to_owned())
            .set(ratio);
    }
    // NaN if unknown: zero would mean that all items are new.
    gauge!(metric::GALLERY_COVERAGE_RATIO, &labels).set(gallery.coverage.unwrap_or(f64::NAN));
    if let Some((id, _)) = gallery.calibrated {
        series::set(
            metric::FAR_BOUND,
            &labels_of(deployment, id),
            gallery.far_bound,
        );
    }
}

/// Counts an enrolled item by what it is accepted as (`apart`, `lookalike`, `unchecked`).
pub fn enrolment_checked(deployment: &str, outcome: &'static str) {
    counter!(metric::ENROLMENT_CHECKS, "deployment" => deployment.to_owned(), "outcome" => outcome)
        .increment(1);
}

/// The result of a round of searches with labels left out.
#[derive(Clone, Copy, Debug)]
pub struct LeftOutGauges {
    /// Searches.
    pub searches: u64,
    /// Those of them that were accepted.
    pub accepted: u64,
    /// Estimate, lower and upper end of their share.
    pub rate: [f64; 3],
    /// Its limit; `None` if unknown.
    pub limit: Option<f64>,
}

/// Shows a round of searches with labels left out.
pub fn left_out_searched(deployment: &str, operating_point: &str, found: LeftOutGauges) {
    show_left_out(deployment, operating_point, Some(found));
}

#[expect(
    clippy::cast_precision_loss,
    reason = "a gauge; counts stay far below 2^53"
)]
fn show_left_out(deployment: &str, operating_point: &str, found: Option<LeftOutGauges>) {
    let labels = labels_of(deployment, operating_point);
    let limit = found.and_then(|found| found.limit);
    for (name, value) in [
        (
            metric::LEFT_OUT_SEARCHES,
            found.map(|found| found.searches as f64),
        ),
        (
            metric::LEFT_OUT_ACCEPTED,
            found.map(|found| found.accepted as f64),
        ),
        (metric::LEFT_OUT_LIMIT, limit),
    ] {
        series::set(name, &labels, value);
    }
    for (place, bound) in ["estimate", "lower", "upper"].into_iter().enumerate() {
        let mut labels = labels.clone();
        labels.push(("bound", bound.to_owned()));
        let value = found.and_then(|found| found.rate.get(place).copied());
        series::set(metric::LEFT_OUT_RATE, &labels, value);
    }
}

/// The gallery's size.
#[derive(Clone, Copy, Debug)]
pub struct GalleryGauges<'a> {
    /// Number of items.
    pub items: usize,
    /// Number of labels.
    pub labels: usize,
    /// Its generation.
    pub generation: u64,
    /// Memory of its index.
    pub index_bytes: usize,
    /// Items of the calibration and those added since; today's items if that is unknown.
    pub extent: u64,
    /// The share of the gallery that was there at the calibration, in [0, 1]; `None` if unknown.
    pub coverage: Option<f64>,
    /// The FAR that is not exceeded in it; `None` if unknown.
    pub far_bound: Option<f64>,
    /// The active operating point and the number of items that it covers.
    pub calibrated: Option<(&'a str, u64)>,
}

/// Counts an item that was found changed on the disk.
pub fn item_damaged(deployment: &str) {
    counter!(metric::DAMAGED_ITEMS, "deployment" => deployment.to_owned()).increment(1);
}

/// Counts items that were enrolled, replaced or removed (`inserted`, `replaced`, `deleted`).
pub fn items_changed(deployment: &str, change: &'static str, count: u64) {
    counter!(metric::GALLERY_CHANGES, "deployment" => deployment.to_owned(), "change" => change)
        .increment(count);
}

/// Counts a finished call, or a finished item of a stream.
pub fn request_finished(method: &'static str, code: &'static str, took: Duration) {
    counter!(metric::REQUESTS, "method" => method, "code" => code).increment(1);
    histogram!(metric::REQUEST_SECONDS, "method" => method).record(took);
}

/// Records the time that a stage of a request took.
pub fn stage_took(deployment: &str, stage: &'static str, took: Duration) {
    histogram!(metric::STAGE_SECONDS, "deployment" => deployment.to_owned(), "stage" => stage)
        .record(took);
}

/// Counts a decision, with the score of its best match.
pub fn decided(
    deployment: &str,
    operating_point: Option<&str>,
    decision: &'static str,
    score: Option<f32>,
) {
    counter!(metric::DECISIONS, "deployment" => deployment.to_owned(),
        "operating_point" => operating_point.unwrap_or("none").to_owned(), "decision" => decision)
    .increment(1);
    if let Some(score) = score {
        histogram!(metric::MATCH_SCORE, "deployment" => deployment.to_owned())
            .record(f64::from(score));
    }
}

/// Counts a search that its caller left out of all records.
pub fn search_unrecorded(deployment: &str) {
    counter!(metric::UNRECORDED, "deployment" => deployment.to_owned()).increment(1);
}

/// Counts a decision that a person should review.
pub fn to_be_reviewed(deployment: &str, operating_point: Option<&str>) {
    counter!(metric::REVIEWS, "deployment" => deployment.to_owned(),
        "operating_point" => operating_point.unwrap_or("none").to_owned())
    .increment(1);
}

/// Counts a request that was refused because the queue was full.
pub fn queue_rejected(deployment: &str) {
    counter!(metric::QUEUE_REJECTED, "deployment" => deployment.to_owned()).increment(1);
}

/// Sets how many requests wait for a worker of a model in a precision, and counts those that left the queue
/// undone since, by reason as in [`DROPPED_VALUES`].
#[expect(clippy::cast_precision_loss, reason = "a gauge; the queue is bounded")]
pub fn queue_seen(model: &str, precision: &str, length: usize, dropped: [u64; 4]) {
    let labels = [
        ("model", model.to_owned()),
        ("precision", precision.to_owned()),
    ];
    gauge!(metric::QUEUE_LENGTH, &labels).set(length as f64);
    for (reason, count) in DROPPED_VALUES.into_iter().zip(dropped) {
        counter!(metric::DROPPED_JOBS, "model" => model.to_owned(), "precision" => precision.to_owned(),
            "reason" => reason)
        .increment(count);
    }
}

/// Counts an image that could not be used; `reason` is one of [`IMAGE_FAILURE_VALUES`].
pub fn image_failed(deployment: &str, reason: &'static str) {
    counter!(metric::IMAGE_FAILURES, "deployment" => deployment.to_owned(), "reason" => reason)
        .increment(1);
}

/// Records the length of the feature of an image that was searched for.
pub fn feature_measured(deployment: &str, norm: f64) {
    histogram!(metric::FEATURE_NORM, "deployment" => deployment.to_owned()).record(norm);
}

/// Records how much nearer the best item of a search is than the best of another label.
pub fn margin_measured(deployment: &str, margin: f32) {
    histogram!(metric::MATCH_MARGIN, "deployment" => deployment.to_owned())
        .record(f64::from(margin));
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What says something without labels has to say what it cannot see.
    #[test]
    fn the_help_of_each_indicator_says_what_it_is_blind_to() {
        let recorder = PrometheusBuilder::new().build_recorder();
        let handle = recorder.handle();
        metrics::with_local_recorder(&recorder, || {
            metric::describe();
            decisions_started("indicators", "op");
            decided("indicators", Some("op"), "accept", Some(0.5));
            decisions_recorded(
                "indicators",
                RecordedDecisions {
                    operating_point: Some("op"),
                    source: "live",
                    decision: "accept",
                    stratum: Some(3),
                    filtered: false,
                    count: (1, None),
                },
            );
            gallery_changed(
                "indicators",
                GalleryGauges {
                    items: 2,
                    labels: 1,
                    generation: 1,
                    index_bytes: 0,
                    extent: 36,
                    coverage: Some(1.0),
                    far_bound: Some(0.04),
                    calibrated: Some(("op", 2)),
                },
            );
            left_out_searched(
                "indicators",
                "op",
                LeftOutGauges {
                    searches: 10,
                    accepted: 1,
                    rate: [0.1, 0.01, 0.4],
                    limit: Some(0.4),
                },
            );
            let traffic = TrafficGauges {
                compared: 3,
                evidence: [0.1, 3.7],
                raised: false,
            };
            traffic_compared("indicators", "op", traffic);
            far_predicted("indicators", "op", Some([0.1, 0.2]));
            feature_measured("indicators", 12.0);
            margin_measured("indicators", 0.1);
        });
        let rendered = handle.render();
        for indicator in [
            metric::DECISIONS,
            metric::RECORDED,
            metric::MATCH_SCORE,
            metric::GALLERY_SIZE_RATIO,
            metric::TRAFFIC_EVIDENCE,
            metric::FAR_BOUND,
            metric::LEFT_OUT_RATE,
            metric::PREDICTED_FAR,
            metric::FEATURE_NORM,
            metric::MATCH_MARGIN,
        ] {
            let head = format!("# HELP {indicator} ");
            let help = rendered.lines().find_map(|line| line.strip_prefix(&head));
            assert!(help.unwrap().contains("Blind to"), "{indicator}: {help:?}");
        }
    }
}
