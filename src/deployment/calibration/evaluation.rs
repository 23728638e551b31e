//! Measures how a deployment decides on labelled queries, and checks whether their labels may be used for that.

use std::collections::BTreeSet;
use std::time::Duration;

use serde::Serialize;

use crate::deployment::{Deployment, DeploymentError, Gathered, Timings};
use matchpoint_calibration::certify::TargetFar;
use matchpoint_calibration::evaluate::evaluate;
use matchpoint_calibration::held_out::{LabelSet, refuse_overlap};
use matchpoint_calibration::likeness::Spellings;
use matchpoint_calibration::operating_point::OperatingPoint;
use matchpoint_calibration::rates::Rate;
use matchpoint_calibration::recording::{Condition, Recording, TrialKind};
use matchpoint_calibration::refusal::Overlap;
use matchpoint_calibration::review::ReviewedShares;
use matchpoint_calibration::trials::Trials;

/// How a deployment decides on labelled queries.
#[derive(Clone, Debug, Serialize)]
pub struct DeploymentEvaluation {
    /// The deployment's name.
    pub deployment: String,
    /// The active operating point; `None` if every decision is UNDECIDED.
    pub operating_point: Option<String>,
    /// Its threshold.
    pub threshold: Option<f32>,
    /// The target that it promises or aims at, in words.
    pub goal: Option<String>,
    /// Its target FAR; `None` if it has none.
    pub target_far: Option<f64>,
    /// Whether the target FAR is certified, and not only aimed at.
    pub certified: Option<bool>,
    /// Number of queries whose label is enrolled.
    pub mated: u64,
    /// Number of queries whose label is not enrolled.
    pub non_mated: u64,
    /// Share of mated queries whose nearest item has their label.
    pub recall_at_1: Option<Rate>,
    /// Share of mated queries with their label among the five nearest items.
    pub recall_at_5: Option<f64>,
    /// Share of non-mated queries that were accepted.
    pub far: Option<Rate>,
    /// Share of mated queries that were rejected, or accepted with a wrong label.
    pub frr: Option<Rate>,
    /// The part of the FRR that was accepted with a wrong label.
    pub misidentification: Option<Rate>,
    /// The searches that a person would review; `None` without a review band.
    pub review: Option<EvaluatedReview>,
    /// The rates for each value of each metadata column of the queries.
    pub conditions: Vec<Condition>,
    /// Number of queries with a cached embedding. They do not count in the times of decoding and inference.
    pub embedded_before: u64,
    /// The time of a query by stage.
    pub latency_ms: StageLatency,
    /// Queries per second, with all workers.
    pub queries_per_second: f64,
}

/// The effect of a review band on labelled queries, compared with what its calibration measured.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct EvaluatedReview {
    /// From this score on, a person reviews a REJECT.
    pub threshold: f32,
    /// The promised limit for the share of mated queries that are rejected unseen, or accepted with a wrong
    /// label.
    pub unseen_frr: f64,
    /// The shares measured on these queries.
    #[serde(flatten)]
    pub found: ReviewedShares,
    /// The share of mated searches that a person would have seen at calibration.
    pub calibrated_mated: Option<Rate>,
    /// The share of non-mated searches that a person would have seen at calibration.
    pub calibrated_strangers: Option<Rate>,
}

impl EvaluatedReview {
    fn of(point: &OperatingPoint, trials: &Trials) -> Option<Self> {
        let band = point.content().review?;
        let low = band.unseen.threshold;
        Some(Self {
            threshold: low.get(),
            unseen_frr: band.unseen.target.frr(),
            found: ReviewedShares::of(trials, point.threshold(), low),
            calibrated_mated: band.mated_reviewed,
            calibrated_strangers: band.strangers_reviewed,
        })
    }
}

/// The median and the 99th percentile of each stage, in milliseconds.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct StageLatency {
    /// Decoding and resizing.
    pub decode: [f64; 2],
    /// Running the model.
    pub inference: [f64; 2],
    /// Searching the gallery.
    pub search: [f64; 2],
}

impl DeploymentEvaluation {
    /// Judges searches for labelled queries by the active operating point. `timings` has the stages of each
    /// query, and `took` is the time of all of them together.
    ///
    /// # Errors
    /// Returns an error if the searches contradict each other, or if there are more of them than stored
    /// vectors.
    pub fn of(
        deployment: &Deployment,
        gathered: &Gathered,
        timings: &[Timings],
        took: Duration,
    ) -> Result<Self, DeploymentError> {
        let active = deployment.active_point();
        let point = active.valid();
        // Intervals count labels and pictures that may be one stranger once.
        let counted_once = gathered.counted_once();
        let gathered = counted_once.as_ref().unwrap_or(gathered);
        let recording = Recording::new(deployment.judged(gathered)?)?;
        let recording = recording.with_repeats(gathered.repeats.clone());
        let trials = recording.trials();
        let measured = evaluate(trials, point.map(OperatingPoint::threshold));
        let errors = measured.errors.as_ref();
        let (mated, queries) = (trials.mated().len(), timings.len());
        let conditions = point.map(|point| recording.by_condition(point.threshold()));
        Ok(Self {
            deployment: deployment.name().to_owned(),
            operating_point: point.map(|point| point.id().to_owned()),
            threshold: point.map(|point| point.threshold().get()),
            goal: point.map(|point| point.content().goal()),
            target_far: point
                .and_then(|point| point.content().target_far())
                .map(TargetFar::far),
            certified: point.map(|point| point.content().policy.certifies()),
            mated: mated as u64,
            non_mated: trials.non_mated().len() as u64,
            recall_at_1: measured.recall_at_1,
            recall_at_5: share(gathered.in_top_5, mated),
            far: errors.and_then(|errors| errors.far),
            frr: errors.and_then(|errors| errors.frr),
            misidentification: errors.and_then(|errors| errors.misidentification),
            review: point.and_then(|point| EvaluatedReview::of(point, trials)),
            conditions: conditions.unwrap_or_default(),
            embedded_before: gathered.embedded_before(),
            latency_ms: StageLatency::of(timings),
            queries_per_second: share(queries, 1).unwrap_or(0.0) / took.as_secs_f64().max(1e-9),
        })
    }
}

impl StageLatency {
    fn of(timings: &[Timings]) -> Self {
        let stage = |take: fn(&Timings) -> Duration| {
            let mut took: Vec<Duration> = timings.iter().map(take).collect();
            // A stage that a query did not have does not count as a time of zero.
            took.retain(|took| !took.is_zero());
            took.sort_unstable();
            [50, 99].map(|percent| quantile(&took, percent).as_secs_f64() * 1000.0)
        };
        Self {
            decode: stage(|timings| timings.decode),
            inference: stage(|timings| timings.inference),
            search: stage(|timings| timings.search),
        }
    }
}

/// The labels of these queries that had a part in choosing the active threshold or its review band. Figures
/// measured on them are optimistic.
///
/// # Errors
/// Returns an error if the searches of the operating point are missing or cannot be read.
pub fn labels_that_chose(
    deployment: &Deployment,
    labels: &BTreeSet<&str>,
    spellings: Spellings,
) -> Result<Option<Overlap>, DeploymentError> {
    let active = deployment.active_point();
    let Some(point) = active.valid() else {
        return Ok(None);
    };
    let recording = deployment.folder().recording(point.id())?;
    // Without it nobody knows which labels these are, and the figures might flatter.
    let recording = recording.ok_or_else(|| DeploymentError::RecordingMissing {
        id: point.id().to_owned(),
    })?;
    let enrolled = deployment.view().labels();
    // With a target FAR, enrolled labels have no part in choosing the threshold unless they were left out as
    // strangers. But they choose where a review band begins, and among several scores.
    let content = point.content();
    let by_strangers = content.target_far().is_some()
        && content.review.is_none()
        && recording.score_labels().is_empty();
    let chose = recording.searches().iter();
    let chose = chose.filter(|search| !by_strangers || search.truth != TrialKind::Mated);
    let left_out = 0 < content.trials.left_out.searches;
    let judging = labels.iter().copied();
    let judging = judging.filter(|label| !by_strangers || left_out || !enrolled.contains(*label));
    let overlap = refuse_overlap(
        &LabelSet {
            used_to: if content.review.is_some() {
                "chose the threshold or the review band"
            } else {
                "chose the threshold"
            },
            labels: chose
                .map(|search| search.label.as_str())
                .chain(recording.score_labels().iter().map(String::as_str))
                .chain(recording.merged_labels().iter().map(String::as_str))
                .collect(),
        },
        &LabelSet {
            used_to: "judge it here",
            labels: judging.collect(),
        },
        spellings,
    );
    Ok(overlap.err())
}

#[expect(clippy::cast_precision_loss, reason = "counts of images")]
fn share(part: usize, of: usize) -> Option<f64> {
    (0 < of).then(|| part as f64 / of as f64)
}

/// The smallest value that at least `percent` of them do not exceed.
fn quantile(sorted: &[Duration], percent: usize) -> Duration {
    let rank = (sorted.len() * percent).div_ceil(100);
    sorted
        .get(rank.saturating_sub(1))
        .copied()
        .unwrap_or_default()
}
