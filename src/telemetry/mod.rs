//! Every metric's name, meaning and labels, and the set-up of metrics and logs.
//!
//! Names follow Prometheus: one prefix, base units, `_total` on counters. No label holds an item,
//! a label of the gallery or anything else that a client chooses, so the number of series is bounded.

mod endpoint;
mod escape;
mod series;

use std::future::Future;
use std::io::IsTerminal;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use metrics::{
    Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram,
};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::field::MakeExt;
use tracing_subscriber::fmt::FormatFields;
use tracing_subscriber::fmt::format::debug_fn;

pub use escape::{escaped, escaped_json, escaped_lines};

use series::MetricLabels;

const BUILD_INFO: &str = "matchpoint_build_info";
const MODEL_INFO: &str = "matchpoint_model_info";
const READY: &str = "matchpoint_ready";
const REQUESTS: &str = "matchpoint_requests_total";
const REQUEST_SECONDS: &str = "matchpoint_request_seconds";
const STAGE_SECONDS: &str = "matchpoint_stage_seconds";
const DECISIONS: &str = "matchpoint_decisions_total";
const MATCH_SCORE: &str = "matchpoint_match_score";
const QUEUE_LENGTH: &str = "matchpoint_queue_length";
const QUEUE_REJECTED: &str = "matchpoint_queue_rejected_total";
const DROPPED_JOBS: &str = "matchpoint_dropped_jobs_total";
const IMAGE_FAILURES: &str = "matchpoint_image_failures_total";
const GALLERY_ITEMS: &str = "matchpoint_gallery_items";
const GALLERY_LABELS: &str = "matchpoint_gallery_labels";
const GALLERY_GENERATION: &str = "matchpoint_gallery_generation";
const GALLERY_CHANGES: &str = "matchpoint_gallery_changes_total";
const GALLERY_SIZE_RATIO: &str = "matchpoint_gallery_size_ratio";
const INDEX_CHECKED: &str = "matchpoint_index_checked_neighbours_total";
const INDEX_MISSED: &str = "matchpoint_index_missed_neighbours_total";
const DAMAGED_ITEMS: &str = "matchpoint_gallery_damaged_items_total";
const INDEX_BYTES: &str = "matchpoint_gallery_index_bytes";
const OPERATING_POINT_ACTIVE: &str = "matchpoint_operating_point_active";
const THRESHOLD: &str = "matchpoint_threshold";
const TARGET_FAR: &str = "matchpoint_target_far_ratio";
const FAR_UPPER_BOUND: &str = "matchpoint_far_upper_bound_ratio";
const CALIBRATION_TIMESTAMP: &str = "matchpoint_calibration_timestamp_seconds";
const RECORDED: &str = "matchpoint_recorded_decisions_total";
const RECORDING_LOST: &str = "matchpoint_recorded_lost_total";
const JOURNAL_ROWS: &str = "matchpoint_journal_decisions";
const JOURNAL_BYTES: &str = "matchpoint_journal_bytes";
const AUDIT_DRAWN: &str = "matchpoint_audit_drawn_decisions";
const AUDIT_LABELLED: &str = "matchpoint_audit_labelled_decisions";
const AUDIT_SINCE_LABEL: &str = "matchpoint_audit_drawn_since_label_decisions";
const AUDIT_LATEST_LABEL: &str = "matchpoint_audit_latest_label_timestamp_seconds";
const AUDIT_RATE: &str = "matchpoint_audit_rate_ratio";
const AUDIT_ERRORS: &str = "matchpoint_audit_weighted_errors";
const AUDIT_TRIALS: &str = "matchpoint_audit_weighted_trials";
const RATE_LIMIT: &str = "matchpoint_rate_limit_ratio";
const EVIDENCE: &str = "matchpoint_evidence_log_ratio";
const EVIDENCE_ALARM: &str = "matchpoint_evidence_alarm_log_ratio";
const RATE_ALARM: &str = "matchpoint_rate_alarm";
const RATE_ALARM_SINCE: &str = "matchpoint_rate_alarm_since_timestamp_seconds";
const RATE_CUSUM: &str = "matchpoint_rate_cusum_ratio";
const CANARY_TRIALS: &str = "matchpoint_canary_trials";
const CANARY_ERRORS: &str = "matchpoint_canary_errors";
const CANARY_RATE: &str = "matchpoint_canary_rate_ratio";
const CANARY_ALARM: &str = "matchpoint_canary_alarm";
const CANARY_CHANGED: &str = "matchpoint_canary_changed";
const CANARY_FAILED: &str = "matchpoint_canary_failed";
const SCORE_SHIFT: &str = "matchpoint_score_shift_ratio";
const SCORE_SHIFT_LIMIT: &str = "matchpoint_score_shift_limit_ratio";
const SCORE_MISFIT: &str = "matchpoint_score_misfit_ratio";
const SCORE_MISFIT_LIMIT: &str = "matchpoint_score_misfit_limit_ratio";
const ESTIMATED_MATED: &str = "matchpoint_estimated_mated_ratio";
const PREDICTED_FAR: &str = "matchpoint_predicted_far_ratio";
const FEATURE_NORM: &str = "matchpoint_feature_norm";
const MATCH_MARGIN: &str = "matchpoint_match_margin";
const STRATUM_EDGE: &str = "matchpoint_audit_stratum_edge";
const ACCEPT_FEEDBACK: &str = "matchpoint_accept_feedback";
const SHADOW_INFO: &str = "matchpoint_shadow_info";
const SHADOW_DECISIONS: &str = "matchpoint_shadow_decisions_total";
const SHADOW_SKIPPED: &str = "matchpoint_shadow_skipped_total";

/// How a rate was estimated: weighted by inverse probabilities of being drawn, or as a plain share.
const HAJEK: &str = "hajek";
const PROPORTION: &str = "proportion";

/// The decisions, as label values.
pub const DECISION_VALUES: [&str; 3] = ["accept", "reject", "undecided"];
/// The stages of a request, as label values.
pub const STAGE_VALUES: [&str; 4] = ["queue", "decode", "inference", "search"];
/// Why a job can leave the queue undone, as label values.
pub const DROPPED_VALUES: [&str; 3] = ["gone", "late", "displaced"];
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

/// 0 is a tie of two labels, 1 a next label at a right angle to the query.
const MARGIN_BUCKETS: [f64; 12] = [
    0.0, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0,
];

/// Equal ratios of 2^(1/4), since models differ in scale: a fifth is the least change that is seen.
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

/// Sends logs to standard error, as text or as one JSON object a line.
///
/// # Errors
/// A filter that cannot be parsed.
pub fn install_logs(filter: &str, json: bool) -> Result<(), TelemetryError> {
    let parsed = EnvFilter::try_new(filter).map_err(|cause| TelemetryError::Filter {
        filter: filter.to_owned(),
        cause: cause.to_string(),
    })?;
    let logs = tracing_subscriber::fmt()
        .with_env_filter(parsed)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    let installed = if json {
        logs.json()
            .flatten_event(true)
            .with_current_span(true)
            .with_span_list(false)
            .try_init()
    } else {
        logs.with_target(false).fmt_fields(text_fields()).try_init()
    };
    // A second installation, in a process that serves twice, keeps the first.
    drop(installed);
    Ok(())
}

/// Fields of a log as text: what clients send must not command a terminal, nor pass for a line of its
/// own.
fn text_fields() -> impl for<'a> FormatFields<'a> + 'static {
    let field = debug_fn(|writer, field, value| {
        let text = format!("{value:?}");
        let shown = escaped(&text);
        match field.name() {
            "message" => write!(writer, "{shown}"),
            name => write!(writer, "{name}={shown}"),
        }
    });
    field.delimited(" ")
}

/// Installs the recorder, and gives the task that serves `/metrics` until it is dropped.
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
            builder.set_buckets_for_metric(Matcher::Full(MATCH_SCORE.to_owned()), &SCORE_BUCKETS)
        })
        .and_then(|builder| {
            builder.set_buckets_for_metric(Matcher::Full(MATCH_MARGIN.to_owned()), &MARGIN_BUCKETS)
        })
        .and_then(|builder| {
            builder.set_buckets_for_metric(Matcher::Full(FEATURE_NORM.to_owned()), &norm_buckets())
        })
        .map_err(|cause| failed(&cause))?
        .build_recorder();
    let endpoint = endpoint::endpoint(address, recorder.handle());
    let endpoint = endpoint.map_err(|cause| failed(&cause))?;
    // Where a recorder is installed already, as in a process that serves twice, it stays.
    drop(metrics::set_global_recorder(recorder));
    describe();
    Ok(endpoint)
}

#[expect(clippy::too_many_lines, reason = "a table")]
fn describe() {
    describe_gauge!(BUILD_INFO, "Always 1; the labels say which build this is.");
    describe_gauge!(
        MODEL_INFO,
        "1; the labels name each deployment's model, its precision and the execution provider really in use. 0 for one that was replaced."
    );
    describe_gauge!(
        READY,
        "1 while the server answers requests, 0 while it loads or drains."
    );
    describe_counter!(
        REQUESTS,
        "Finished calls and stream items by method and gRPC code."
    );
    describe_histogram!(
        REQUEST_SECONDS,
        Unit::Seconds,
        "Time from a request's arrival to its answer, by method."
    );
    describe_histogram!(
        STAGE_SECONDS,
        Unit::Seconds,
        "Time of one stage of a request: queue, decode (and resize), inference, search."
    );
    describe_counter!(
        DECISIONS,
        "Decisions by operating point and outcome. Their rate is the accept rate, not the FAR: that needs labels. Blind to which accepts are right: it moves with the share of strangers, which changes no error rate."
    );
    describe_histogram!(
        MATCH_SCORE,
        "Cosine similarity of the best match of each search. Blind to which of them is right, and to a few look-alikes; a changed share of strangers moves it most."
    );
    describe_gauge!(
        QUEUE_LENGTH,
        "Requests that wait for a worker of the model, by its precision; looked at twice a second."
    );
    describe_counter!(
        DROPPED_JOBS,
        "Requests that left the queue undone, by the model's name and precision, and reason: gone (their callers hung up), late (not to be done by their deadlines any more), displaced (their places went to clients that had fewer)."
    );
    describe_counter!(
        QUEUE_REJECTED,
        "Requests that were refused because the queue was full."
    );
    describe_counter!(IMAGE_FAILURES, "Images that could not be used, by reason.");
    describe_gauge!(GALLERY_ITEMS, "Items in the gallery.");
    describe_gauge!(GALLERY_LABELS, "Labels in the gallery.");
    describe_gauge!(
        GALLERY_GENERATION,
        "Number of the gallery's state; grows with each change."
    );
    describe_counter!(GALLERY_CHANGES, "Items enrolled, replaced or removed.");
    describe_gauge!(
        GALLERY_SIZE_RATIO,
        "Items now, over items at calibration. Above 1 the promised FAR no longer covers the gallery. Blind to everything but the number of items."
    );
    describe_counter!(
        INDEX_CHECKED,
        "Nearest items of a sample of searches, found by comparing with every item."
    );
    describe_counter!(
        INDEX_MISSED,
        "Those of them that the approximate index did not find: divide by the checked ones for its miss rate."
    );
    describe_counter!(
        DAMAGED_ITEMS,
        "Items found changed on the disk while they were served. From the first on, nothing is accepted until a restart."
    );
    describe_gauge!(
        INDEX_BYTES,
        Unit::Bytes,
        "Memory of the approximate index: codes and links. Vectors of settled items stay on disk."
    );
    describe_gauge!(
        OPERATING_POINT_ACTIVE,
        "1 for the operating point that decides, 0 for one that did before."
    );
    describe_gauge!(
        THRESHOLD,
        "Cosine similarity from which the operating point accepts."
    );
    describe_gauge!(
        TARGET_FAR,
        "False accept rate that the operating point is made for."
    );
    describe_gauge!(
        FAR_UPPER_BOUND,
        "Upper confidence bound of the false accept rate at calibration."
    );
    describe_gauge!(
        CALIBRATION_TIMESTAMP,
        Unit::Seconds,
        "When the operating point was calibrated, since 1970-01-01 UTC."
    );
    describe_monitoring();
    describe_shadow();
}

fn describe_shadow() {
    describe_gauge!(
        SHADOW_INFO,
        "1; the labels name the candidate that a deployment is compared with. 0 for one that was."
    );
    describe_counter!(
        SHADOW_DECISIONS,
        "Queries that a candidate was asked too: what was answered (live), what it would have answered (shadow), and whether it found the same label (best). Says that the two differ, not which of them is right: that needs labels."
    );
    describe_counter!(
        SHADOW_SKIPPED,
        "Queries drawn for a candidate and not compared, by reason: embedding (it came as a vector), busy (requests waited), behind (the candidate was not done), failed."
    );
}

#[expect(clippy::too_many_lines, reason = "a table")]
fn describe_monitoring() {
    describe_counter!(
        RECORDED,
        "Decisions in the journal ever, as its own totals say: they outlive a restart, and count what is on the disk. Where another folder takes a deployment's place, it goes on from where it is. By operating point, source (live, comparison, canaries), decision, stratum of the audit, and whether a filter was used. Strata beside the threshold hold what a small change of scores would decide otherwise. Blind to truth: there, too, most searches may be strangers or none."
    );
    describe_counter!(
        RECORDING_LOST,
        "What was answered and not recorded, by reason: queue_full, not_written (the disk), image (the decision was recorded). Counted also while nothing can be written."
    );
    describe_gauge!(JOURNAL_ROWS, "Decisions that the journal holds now.");
    describe_gauge!(
        JOURNAL_BYTES,
        Unit::Bytes,
        "Length of the journal's file, without its log of at most 16 MiB."
    );
    describe_gauge!(
        AUDIT_DRAWN,
        "Decisions of the operating point that were drawn to be labelled, and are kept."
    );
    describe_gauge!(AUDIT_LABELLED, "Those of them that have a label.");
    describe_gauge!(
        AUDIT_SINCE_LABEL,
        "Those of them that were made after the latest label was given: all of them while there is none."
    );
    describe_gauge!(
        AUDIT_LATEST_LABEL,
        Unit::Seconds,
        "When the latest label of them was given, since 1970-01-01 UTC. Absent before the first."
    );
    describe_gauge!(
        AUDIT_RATE,
        "FAR (far), FRR (frr) or false discovery rate (fdr) in service, from labels of drawn decisions, each weighted by the inverse of its probability of being drawn; bound is estimate, lower or upper (95 %). Absent before a label bears on it for the first time, NaN where none does any more. Blind to what labellers cannot see; assumes that a label's coming does not depend on the truth. Do not average over replicas: divide the sums of errors and trials."
    );
    describe_gauge!(
        AUDIT_ERRORS,
        "Numerator of the audited rate: decisions in error that the labels stand for. Sums over replicas."
    );
    describe_gauge!(
        AUDIT_TRIALS,
        "Denominator of the audited rate: decisions that could have been in error that the labels stand for. Sums over replicas."
    );
    describe_gauge!(
        RATE_LIMIT,
        "What the rate is held against: the operating point's target (basis target), or the upper end of what its calibration measured (basis measured)."
    );
    describe_gauge!(
        EVIDENCE,
        "Natural logarithm of the e-process against `the rate is at most its limit`, after the last drawn decision. May be looked at at any time; a low value is no evidence that the promise is kept."
    );
    describe_gauge!(
        EVIDENCE_ALARM,
        "What the evidence must reach for an alarm: ln(1 / alarm_delta)."
    );
    describe_gauge!(
        RATE_ALARM,
        "1 from the moment when the evidence reached its limit, for as long as the operating point decides; false with a probability of at most alarm_delta, ever."
    );
    describe_gauge!(
        RATE_ALARM_SINCE,
        Unit::Seconds,
        "When the drawn decision was made at which the evidence reached its limit, since 1970-01-01 UTC. NaN without an alarm."
    );
    describe_gauge!(
        RATE_CUSUM,
        "Bernoulli CUSUM of the drawn decisions by its limit: from 1 on a rise of the rate is suspected, sooner than evidence shows it. No guarantee of ever being right: a false suspicion comes about once in 1,000 drawn decisions, or less often. Nothing to be paged for."
    );
    describe_gauge!(
        CANARY_TRIALS,
        "Canaries of the latest round: enrolled ones for frr, others for far."
    );
    describe_gauge!(
        CANARY_ERRORS,
        "Those of them in error: accepted strangers for far, rejected or wrongly matched ones for frr."
    );
    describe_gauge!(
        CANARY_RATE,
        "Ends of the 95 % interval of the share of canaries in error. Absent before there are canaries of the kind. Knows nothing of new traffic, and genuine canaries are easier than what callers send."
    );
    describe_gauge!(
        CANARY_ALARM,
        "1 where the latest round is evidence that canaries fail more often than the rate's limit."
    );
    describe_gauge!(
        CANARY_CHANGED,
        "Canaries that came out otherwise than in the first round under the operating point."
    );
    describe_gauge!(CANARY_FAILED, "Canaries that could not be searched for.");
    describe_gauge!(
        SCORE_SHIFT,
        "Population stability index of the latest 2,000 searches against the first 2,000 of the operating point, over the strata of the audit. Blind to what matters most: loud where the share of strangers changes, which changes no error rate; silent about a few look-alikes, which multiply the FAR. Absent before there are enough."
    );
    describe_gauge!(
        SCORE_SHIFT_LIMIT,
        "What the index stays below in 99 of 100 windows while nothing has changed."
    );
    describe_gauge!(
        SCORE_MISFIT,
        "How far scores of the latest 2,000 searches are from every mixture of those that calibration found for mated searches and for strangers: Pearson's distance by search, over the strata of the audit. A changed share of strangers moves it not. Blind to a few look-alikes, which multiply the FAR, to what happens to a class that is rare in traffic, and to calibration data that never were like traffic; searches that repeat each other make it loud. Absent with fewer than 20 labels of either class."
    );
    describe_gauge!(
        SCORE_MISFIT_LIMIT,
        "What the misfit stays below in 99 of 100 windows while the scores of both classes are as at calibration."
    );
    describe_gauge!(
        ESTIMATED_MATED,
        "Share of the latest 2,000 searches whose label is enrolled, as their scores tell while the classes score as at calibration. Blind to changed scores, which it takes for a changed share: of no use while the misfit is above its limit."
    );
    describe_gauge!(
        PREDICTED_FAR,
        "FAR predicted for a gallery of today's size from what calibration measured; bound is estimate or upper. Blind to all but the number of items: takes strangers and pictures as they were at calibration, and new items as alike to strangers as the old ones. Absent where no FAR was measured."
    );
    describe_histogram!(
        FEATURE_NORM,
        "Length of the feature of each image searched for, before it is made 1. Falls with blur, dark and empty pictures for many models. Blind to truth, to strangers, and to models whose features all have one length."
    );
    describe_histogram!(
        MATCH_MARGIN,
        "How much nearer the best item of a search is than the best of another label. Blind to what is not enrolled: a look-alike can be far nearer than the next label. Moves with the share of strangers and with the gallery's size."
    );
    describe_gauge!(
        STRATUM_EDGE,
        "Ends of each stratum of the audit as score less threshold; bound is lower or upper. 0 is the threshold. Says which strata lie beside it."
    );
    describe_gauge!(
        ACCEPT_FEEDBACK,
        "Accepts that somebody spoke of without being asked, right or wrong. Their share is a precision of what is spoken of, and says nothing of FAR: rejects are never heard."
    );
}

/// Announces the build, and that the server is not ready yet.
pub fn server_started(version: &'static str) {
    gauge!(BUILD_INFO, "version" => version).set(1.0);

    server_ready(false);
}

/// Says whether the server answers requests.
pub fn server_ready(ready: bool) {
    gauge!(READY).set(f64::from(u8::from(ready)));
}

/// What is said of a deployment when it starts.
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

/// Says that a deployment's model is not in use any more.
pub fn deployment_ended(labels: DeploymentLabels<'_>) {
    model_info(labels).set(0.0);
}

fn model_info(labels: DeploymentLabels<'_>) -> metrics::Gauge {
    gauge!(MODEL_INFO, "deployment" => labels.name.to_owned(), "model" => labels.model.to_owned(),
        "fingerprint" => labels.fingerprint.to_owned(),
        "precision" => labels.precision.to_owned(),
        "execution_provider" => labels.execution_provider.to_owned())
}

/// Announces a deployment, with every series that it will ever have at zero.
pub fn deployment_started(labels: DeploymentLabels<'_>) {
    let deployment = labels.name.to_owned();
    model_info(labels).set(1.0);
    for reason in IMAGE_FAILURE_VALUES {
        counter!(IMAGE_FAILURES, "deployment" => deployment.clone(), "reason" => reason)
            .absolute(0);
    }
    for change in ["inserted", "replaced", "deleted"] {
        counter!(GALLERY_CHANGES, "deployment" => deployment.clone(), "change" => change)
            .absolute(0);
    }
    counter!(QUEUE_REJECTED, "deployment" => deployment.clone()).absolute(0);
    for counted in [INDEX_CHECKED, INDEX_MISSED, DAMAGED_ITEMS] {
        counter!(counted, "deployment" => deployment.clone()).absolute(0);
    }
    decisions_started(labels.name, "none");
}

fn decisions_started(deployment: &str, operating_point: &str) {
    for decision in DECISION_VALUES {
        counter!(DECISIONS, "deployment" => deployment.to_owned(),
            "operating_point" => operating_point.to_owned(), "decision" => decision)
        .absolute(0);
    }
}

/// What is said of an operating point.
#[derive(Clone, Copy, Debug)]
pub struct OperatingPointGauges<'a> {
    /// Its id.
    pub id: &'a str,
    /// The similarity from which it accepts.
    pub threshold: f32,
    /// The false accept rate it promises or aims at; `None` where it has no such target.
    pub target_far: Option<f64>,
    /// The upper bound measured at calibration; `None` where there is none.
    pub far_upper_bound: Option<f64>,
    /// When it was made.
    pub created: SystemTime,
}

/// Announces the operating point that decides from now on, and that `previous` no longer does.
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
        gauge!(OPERATING_POINT_ACTIVE, &labels(previous)).set(0.0);
        canaries_ended(deployment, previous);
    }
    let Some(active) = active else { return };
    let labels = labels(active.id);
    gauge!(OPERATING_POINT_ACTIVE, &labels).set(1.0);
    gauge!(THRESHOLD, &labels).set(f64::from(active.threshold));
    // Absent where unknown: zero would read as a promise.
    if let Some(target_far) = active.target_far {
        gauge!(TARGET_FAR, &labels).set(target_far);
    }
    if let Some(bound) = active.far_upper_bound {
        gauge!(FAR_UPPER_BOUND, &labels).set(bound);
    }
    let since = active
        .created
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    gauge!(CALIBRATION_TIMESTAMP, &labels).set(since.as_secs_f64());
    decisions_started(deployment, active.id);
}

/// Says how large the gallery is, and what part of it the operating point was calibrated for.
#[expect(
    clippy::cast_precision_loss,
    reason = "a gauge; counts stay far below 2^53"
)]
pub fn gallery_changed(deployment: &str, gallery: GallerySize<'_>) {
    let labels = [("deployment", deployment.to_owned())];
    gauge!(GALLERY_ITEMS, &labels).set(gallery.items as f64);
    gauge!(GALLERY_LABELS, &labels).set(gallery.labels as f64);
    gauge!(GALLERY_GENERATION, &labels).set(gallery.generation as f64);
    gauge!(INDEX_BYTES, &labels).set(gallery.index_bytes as f64);
    if let Some((id, calibrated)) = gallery.calibrated {
        let ratio = gallery.items as f64 / calibrated as f64;
        gauge!(GALLERY_SIZE_RATIO, "deployment" => deployment.to_owned(), "operating_point" => id.to_owned())
            .set(ratio);
    }
}

/// The gallery's size.
#[derive(Clone, Copy, Debug)]
pub struct GallerySize<'a> {
    /// Number of items.
    pub items: usize,
    /// Number of labels.
    pub labels: usize,
    /// Number of its state.
    pub generation: u64,
    /// Memory of its index.
    pub index_bytes: usize,
    /// The active operating point and the number of items it was calibrated with.
    pub calibrated: Option<(&'a str, u64)>,
}

/// Counts neighbours of a search that was done again by comparing with every item, and those of them
/// that the index had not found.
pub fn index_checked(deployment: &str, neighbours: usize, missed: usize) {
    for (name, count) in [(INDEX_CHECKED, neighbours), (INDEX_MISSED, missed)] {
        counter!(name, "deployment" => deployment.to_owned()).increment(count as u64);
    }
}

/// Counts an item that was found changed on the disk.
pub fn item_damaged(deployment: &str) {
    counter!(DAMAGED_ITEMS, "deployment" => deployment.to_owned()).increment(1);
}

/// Counts items that were enrolled, replaced or removed (`inserted`, `replaced`, `deleted`).
pub fn items_changed(deployment: &str, change: &'static str, count: u64) {
    counter!(GALLERY_CHANGES, "deployment" => deployment.to_owned(), "change" => change)
        .increment(count);
}

/// Counts a finished call, or a finished item of a stream.
pub fn request_finished(method: &'static str, code: &'static str, took: Duration) {
    counter!(REQUESTS, "method" => method, "code" => code).increment(1);
    histogram!(REQUEST_SECONDS, "method" => method).record(took);
}

/// Records the time that a stage of a request took.
pub fn stage_took(deployment: &str, stage: &'static str, took: Duration) {
    histogram!(STAGE_SECONDS, "deployment" => deployment.to_owned(), "stage" => stage).record(took);
}

/// Counts a decision, with the score of its best match.
pub fn decided(
    deployment: &str,
    operating_point: Option<&str>,
    decision: &'static str,
    score: Option<f32>,
) {
    counter!(DECISIONS, "deployment" => deployment.to_owned(),
        "operating_point" => operating_point.unwrap_or("none").to_owned(), "decision" => decision)
    .increment(1);
    if let Some(score) = score {
        histogram!(MATCH_SCORE, "deployment" => deployment.to_owned()).record(f64::from(score));
    }
}

/// Counts a request that was refused because the queue was full.
pub fn queue_rejected(deployment: &str) {
    counter!(QUEUE_REJECTED, "deployment" => deployment.to_owned()).increment(1);
}

/// Says how many requests wait for a worker of a model in a precision, and how many more have left
/// the queue undone, by reason as in [`DROPPED_VALUES`].
#[expect(clippy::cast_precision_loss, reason = "a gauge; the queue is bounded")]
pub fn queue_seen(model: &str, precision: &str, length: usize, dropped: [u64; 3]) {
    let labels = [
        ("model", model.to_owned()),
        ("precision", precision.to_owned()),
    ];
    gauge!(QUEUE_LENGTH, &labels).set(length as f64);
    for (reason, count) in DROPPED_VALUES.into_iter().zip(dropped) {
        counter!(DROPPED_JOBS, "model" => model.to_owned(), "precision" => precision.to_owned(),
            "reason" => reason)
        .increment(count);
    }
}

/// Counts an image that could not be used; `reason` is one of [`IMAGE_FAILURE_VALUES`].
pub fn image_failed(deployment: &str, reason: &'static str) {
    counter!(IMAGE_FAILURES, "deployment" => deployment.to_owned(), "reason" => reason)
        .increment(1);
}

/// How many decisions of one kind were ever recorded.
#[derive(Clone, Copy, Debug)]
pub struct RecordedDecisions<'a> {
    /// The operating point that decided; `None` for undecided ones.
    pub operating_point: Option<&'a str>,
    /// Where they came from.
    pub source: &'static str,
    /// What was decided.
    pub decision: &'static str,
    /// Stratum of the audit; `None` where they have none.
    pub stratum: Option<u16>,
    /// Whether a filter was used.
    pub filtered: bool,
    /// How many, and how many of them since they were told last; `None` at opening.
    pub count: (u64, Option<u64>),
}

/// Says how many decisions of one kind the journal has counted.
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
    series::count(RECORDED, &labels, total, since);
}

/// Says how many were not recorded for a `reason`, and how many of them since that was told last;
/// `None` at opening.
pub fn recording_lost(deployment: &str, reason: &'static str, total: u64, since: Option<u64>) {
    let labels = [
        ("deployment", deployment.to_owned()),
        ("reason", reason.to_owned()),
    ];
    series::count(RECORDING_LOST, &labels, total, since);
}

/// Says what the journal holds.
#[expect(
    clippy::cast_precision_loss,
    reason = "gauges; counts stay far below 2^53"
)]
pub fn journal_changed(deployment: &str, rows: u64, bytes: u64) {
    gauge!(JOURNAL_ROWS, "deployment" => deployment.to_owned()).set(rows as f64);
    gauge!(JOURNAL_BYTES, "deployment" => deployment.to_owned()).set(bytes as f64);
}

/// A rate in service; what is not known is `None`, and not shown.
#[derive(Clone, Copy, Debug)]
pub struct AuditedRateGauges {
    /// `far`, `frr` or `fdr`.
    pub rate: &'static str,
    /// Estimate, lower and upper end.
    pub interval: Option<[f64; 3]>,
    /// Numerator and denominator.
    pub weighted: Option<[f64; 2]>,
    /// What it is held against, and whether that is a target.
    pub limit: Option<(f64, bool)>,
    /// The evidence, what it has to reach, and whether it ever did.
    pub evidence: Option<(f64, f64, bool)>,
}

fn labels_of(deployment: &str, operating_point: &str) -> MetricLabels {
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

/// Says what an audit found; what is not known has no series, or is NaN from when it is not known
/// any more.
pub fn rate_audited(deployment: &str, operating_point: &str, found: AuditedRateGauges) {
    let labels = || labels_of_rate(deployment, operating_point, found.rate);
    let set = |name: &'static str, value: Option<f64>| series::set(name, &labels(), value);
    let of_interval = |end: usize| Some(*found.interval?.get(end)?);
    for (end, bound) in ["estimate", "lower", "upper"].into_iter().enumerate() {
        let mut labels = labels();
        labels.extend([("estimator", HAJEK.to_owned()), ("bound", bound.to_owned())]);
        series::set(AUDIT_RATE, &labels, of_interval(end));
    }
    set(AUDIT_ERRORS, found.weighted.map(|[errors, _]| errors));
    set(AUDIT_TRIALS, found.weighted.map(|[_, trials]| trials));
    if let Some((limit, target)) = found.limit {
        let basis = if target { "target" } else { "measured" };
        let mut labels = labels();
        labels.push(("basis", basis.to_owned()));
        series::set(RATE_LIMIT, &labels, Some(limit));
    }
    if let Some((evidence, alarm, raised)) = found.evidence {
        set(EVIDENCE, Some(evidence));
        set(EVIDENCE_ALARM, Some(alarm));
        set(RATE_ALARM, Some(f64::from(u8::from(raised))));
    }
}

/// What was drawn and told of an operating point.
#[derive(Clone, Copy, Debug)]
pub struct AuditCounts {
    /// Decisions that were drawn.
    pub drawn: u64,
    /// Those of them that have a label.
    pub labelled: u64,
    /// Those of them that were made after the latest label was given.
    pub since_label: u64,
    /// When that was, in milliseconds since 1970-01-01 UTC.
    pub latest_label_ms: Option<u64>,
    /// Accepts that somebody spoke of unasked: right and wrong.
    pub feedback: (u64, u64),
}

/// Says how many decisions of an operating point were drawn and labelled.
#[expect(
    clippy::cast_precision_loss,
    reason = "gauges; counts stay far below 2^53"
)]
pub fn audit_counted(deployment: &str, operating_point: &str, counts: AuditCounts) {
    for (name, count) in [
        (AUDIT_DRAWN, counts.drawn),
        (AUDIT_LABELLED, counts.labelled),
        (AUDIT_SINCE_LABEL, counts.since_label),
    ] {
        let labels = labels_of(deployment, operating_point);
        series::set(name, &labels, Some(count as f64));
    }
    let latest = counts.latest_label_ms.map(|ms| ms as f64 / 1000.0);
    let labels = labels_of(deployment, operating_point);
    series::set(AUDIT_LATEST_LABEL, &labels, latest);
    let (right, wrong) = counts.feedback;
    for (verdict, count) in [("right", right), ("wrong", wrong)] {
        let mut labels = labels_of(deployment, operating_point);
        labels.push(("verdict", verdict.to_owned()));
        series::set(ACCEPT_FEEDBACK, &labels, Some(count as f64));
    }
}

/// Says that nothing more is known of an operating point that does not decide any more.
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
    for name in [
        AUDIT_DRAWN,
        AUDIT_LABELLED,
        AUDIT_SINCE_LABEL,
        AUDIT_LATEST_LABEL,
        SCORE_SHIFT,
        SCORE_SHIFT_LIMIT,
        SCORE_MISFIT,
        SCORE_MISFIT_LIMIT,
        ESTIMATED_MATED,
    ] {
        series::set(name, &labels_of(deployment, operating_point), None);
    }
}

/// Says since when there is an alarm, since 1970-01-01 UTC, and how far the CUSUM is; what is not
/// known is NaN.
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
    series::set(RATE_ALARM_SINCE, &labels, since);
    series::set(RATE_CUSUM, &labels, cusum);
}

/// What a round of canaries says of one rate.
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
    /// Whether they fail more often than the limit; `None` where that is not known.
    pub alarm: Option<bool>,
}

/// Says that canaries are not judged by an operating point any more.
pub fn canaries_ended(deployment: &str, operating_point: &str) {
    for rate in ["far", "frr"] {
        let labels = || labels_of_rate(deployment, operating_point, rate);
        for name in [CANARY_ALARM, CANARY_TRIALS, CANARY_ERRORS] {
            series::set(name, &labels(), None);
        }
        for bound in ["lower", "upper"] {
            let mut labels = labels();
            labels.extend([
                ("estimator", PROPORTION.to_owned()),
                ("bound", bound.to_owned()),
            ]);
            series::set(CANARY_RATE, &labels, None);
        }
    }
    for name in [CANARY_CHANGED, CANARY_FAILED] {
        series::set(name, &[("deployment", deployment.to_owned())], None);
    }
}

/// Says what a round of canaries came to; how many changed, and how many failed.
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
        series::set(CANARY_TRIALS, &labels(), Some(found.trials as f64));
        series::set(CANARY_ERRORS, &labels(), Some(found.errors as f64));
        let alarm = found.alarm.map(|alarm| f64::from(u8::from(alarm)));
        series::set(CANARY_ALARM, &labels(), alarm);
        for (end, bound) in ["lower", "upper"].into_iter().enumerate() {
            let mut labels = labels();
            labels.extend([
                ("estimator", PROPORTION.to_owned()),
                ("bound", bound.to_owned()),
            ]);
            let value = found.interval.and_then(|ends| ends.get(end).copied());
            series::set(CANARY_RATE, &labels, value);
        }
    }
    for (name, count) in [(CANARY_CHANGED, changed), (CANARY_FAILED, failed)] {
        let labels = [("deployment", deployment.to_owned())];
        series::set(name, &labels, Some(count as f64));
    }
}

/// Says how far scores have shifted since an operating point began to decide, and what chance gives.
pub fn scores_compared(deployment: &str, operating_point: &str, index: f64, limit: f64) {
    for (name, value) in [(SCORE_SHIFT, index), (SCORE_SHIFT_LIMIT, limit)] {
        series::set(name, &labels_of(deployment, operating_point), Some(value));
    }
}

/// What is said of a candidate.
#[derive(Clone, Copy, Debug)]
pub struct ShadowLabels<'a> {
    /// The deployment that it is compared with.
    pub deployment: &'a str,
    /// Its model's name.
    pub model: &'a str,
    /// The model's fingerprint.
    pub fingerprint: &'a str,
    /// Which of the model's precisions.
    pub precision: &'a str,
    /// The execution provider really in use.
    pub execution_provider: &'a str,
    /// What decides in it; `None` where nothing does.
    pub operating_point: Option<&'a str>,
}

fn shadow_info(labels: ShadowLabels<'_>) -> metrics::Gauge {
    gauge!(SHADOW_INFO, "deployment" => labels.deployment.to_owned(),
        "model" => labels.model.to_owned(),
        "fingerprint" => labels.fingerprint.to_owned(),
        "precision" => labels.precision.to_owned(),
        "execution_provider" => labels.execution_provider.to_owned(),
        "operating_point" => labels.operating_point.unwrap_or("none").to_owned())
}

fn shadow_decisions(deployment: &str, [live, shadow, best]: [&'static str; 3]) -> metrics::Counter {
    counter!(SHADOW_DECISIONS, "deployment" => deployment.to_owned(),
        "live" => live, "shadow" => shadow, "best" => best)
}

fn shadow_skips(deployment: &str, reason: &'static str) -> metrics::Counter {
    counter!(SHADOW_SKIPPED, "deployment" => deployment.to_owned(), "reason" => reason)
}

/// Announces a candidate, with every outcome (live, shadow, best) and reason that there can be.
pub fn shadow_started(
    labels: ShadowLabels<'_>,
    outcomes: impl Iterator<Item = [&'static str; 3]>,
    reasons: &[&'static str],
) {
    shadow_info(labels).set(1.0);
    for outcome in outcomes {
        shadow_decisions(labels.deployment, outcome).increment(0);
    }
    for reason in reasons {
        shadow_skips(labels.deployment, reason).increment(0);
    }
}

/// Says that a candidate is not compared with any more.
pub fn shadow_ended(labels: ShadowLabels<'_>) {
    shadow_info(labels).set(0.0);
}

/// Counts a query that a candidate was asked too: the two decisions, and whether the labels agree.
pub fn shadow_compared(deployment: &str, outcome: [&'static str; 3]) {
    shadow_decisions(deployment, outcome).increment(1);
}

/// Counts a query that was drawn for a candidate and is not compared.
pub fn shadow_skipped(deployment: &str, reason: &'static str) {
    shadow_skips(deployment, reason).increment(1);
}

/// How well the latest scores fit what an operating point was calibrated on.
#[derive(Clone, Copy, Debug)]
pub struct MisfitGauges {
    /// The distance.
    pub distance: f64,
    /// What chance gives.
    pub limit: f64,
    /// The share of mated searches at which they fit best.
    pub mated: f64,
}

/// Says how well scores fit the calibration of an operating point; what is not known any more is NaN.
pub fn scores_fitted(deployment: &str, operating_point: &str, found: MisfitGauges) {
    let labels = labels_of(deployment, operating_point);
    for (name, value) in [
        (SCORE_MISFIT, found.distance),
        (SCORE_MISFIT_LIMIT, found.limit),
        (ESTIMATED_MATED, found.mated),
    ] {
        series::set(name, &labels, Some(value));
    }
}

/// Says what FAR is predicted for the gallery's size: the estimate and its upper bound.
pub fn far_predicted(deployment: &str, operating_point: &str, bounds: [f64; 2]) {
    for (bound, value) in ["estimate", "upper"].into_iter().zip(bounds) {
        gauge!(PREDICTED_FAR, "deployment" => deployment.to_owned(),
            "operating_point" => operating_point.to_owned(), "bound" => bound)
        .set(value);
    }
}

/// Records the length of the feature of an image that was searched for.
pub fn feature_measured(deployment: &str, norm: f64) {
    histogram!(FEATURE_NORM, "deployment" => deployment.to_owned()).record(norm);
}

/// Records how much nearer the best item of a search is than the best of another label.
pub fn margin_measured(deployment: &str, margin: f32) {
    histogram!(MATCH_MARGIN, "deployment" => deployment.to_owned()).record(f64::from(margin));
}

/// Says where the strata of the audit begin and end; `edges` are those between them.
pub fn strata_designed(deployment: &str, edges: &[f64]) {
    for (below, edge) in edges.iter().enumerate() {
        for (stratum, bound) in [(below, "upper"), (below + 1, "lower")] {
            gauge!(STRATUM_EDGE, "deployment" => deployment.to_owned(),
                "stratum" => stratum.to_string(), "bound" => bound)
            .set(*edge);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A log that is kept.
    #[derive(Clone, Default)]
    struct KeptLog(std::sync::Arc<std::sync::Mutex<Vec<u8>>>);

    impl std::io::Write for KeptLog {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_log_as_text_is_one_line_whatever_a_client_sends() {
        let kept = KeptLog::default();
        let writer = kept.clone();
        let logs = tracing_subscriber::fmt()
            .with_ansi(false)
            .with_writer(move || writer.clone())
            .fmt_fields(text_fields());
        let sent = "a\x1b[31m\n2026-01-01 ERROR \u{202e}b";
        tracing::subscriber::with_default(logs.finish(), || {
            let span = tracing::info_span!("request", id = %sent);
            let _entered = span.enter();
            tracing::warn!(label = %sent, count = 3, "the label {sent} is not known");
        });
        let text = String::from_utf8(kept.0.lock().unwrap().clone()).unwrap();
        assert_eq!(text.lines().count(), 1, "{text}");
        assert!(!text.contains(['\x1b', '\u{202e}']), "{text}");
        assert!(text.contains("label=a\\u{1b}[31m\\n2026"), "{text}");
        assert!(text.contains(" count=3"), "{text}");
        assert!(text.contains("the label a\\u{1b}"), "{text}");
    }

    /// What says something without labels has to say what it cannot see.
    #[test]
    fn the_help_of_each_indicator_says_what_it_is_blind_to() {
        let recorder = PrometheusBuilder::new().build_recorder();
        let told = recorder.handle();
        metrics::with_local_recorder(&recorder, || {
            describe();
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
                GallerySize {
                    items: 2,
                    labels: 1,
                    generation: 1,
                    index_bytes: 0,
                    calibrated: Some(("op", 2)),
                },
            );
            scores_compared("indicators", "op", 0.1, 0.2);
            let fitted = MisfitGauges {
                distance: 0.1,
                limit: 0.2,
                mated: 0.5,
            };
            scores_fitted("indicators", "op", fitted);
            far_predicted("indicators", "op", [0.1, 0.2]);
            feature_measured("indicators", 12.0);
            margin_measured("indicators", 0.1);
        });
        let told = told.render();
        for indicator in [
            DECISIONS,
            RECORDED,
            MATCH_SCORE,
            GALLERY_SIZE_RATIO,
            SCORE_SHIFT,
            SCORE_MISFIT,
            ESTIMATED_MATED,
            PREDICTED_FAR,
            FEATURE_NORM,
            MATCH_MARGIN,
        ] {
            let head = format!("# HELP {indicator} ");
            let help = told.lines().find_map(|line| line.strip_prefix(&head));
            assert!(help.unwrap().contains("Blind to"), "{indicator}: {help:?}");
        }
    }
}
