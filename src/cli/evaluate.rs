//! `matchpoint evaluate`: what a deployment does to labelled queries.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use super::alike::{self, LabelFlags};
use super::exit::{Exit, fail};
use super::image_sources::{ImageSources, Purpose};
use super::labelled_search::{self, Probes};
use super::left_out::LeftOut;
use super::listing::ExcludeFlags;
use super::output::{Output, rate, table};
use super::refused::RefusedItem;
use crate::config::{EngineConfig, EngineFlags, ProcessEnvironment};
use crate::deployment::{Deployment, MaskedSearches, Timings};
use crate::telemetry;
use matchpoint_calibration::certify::TargetFar;
use matchpoint_calibration::evaluate::evaluate;
use matchpoint_calibration::held_out::{LabelSet, refuse_overlap};
use matchpoint_calibration::likeness::Alike;
use matchpoint_calibration::operating_point::OperatingPoint;
use matchpoint_calibration::rates::{Confidence, Rate};
use matchpoint_calibration::recording::{Condition, Recording, TrialKind};
use matchpoint_gallery::Access;

/// Measure recall, FAR, FRR and latency with labelled queries
///
/// A query whose label is enrolled should be accepted with that label; one whose label is not
/// should be rejected. Intervals are over labels, because queries of one label are not independent.
/// Use labels that had no part in choosing the threshold: on others the figures flatter.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  matchpoint evaluate shop --queries held-out.csv
  matchpoint evaluate shop --queries held-out/ --json")]
pub(super) struct Evaluate {
    /// The deployment's folder
    deployment: PathBuf,
    /// Labelled queries: a folder, a .csv, a .tsv or a .jsonl file, as for `build`; of a list with a
    /// column role, the rows of the roles query and unknown
    #[arg(long, value_name = "SOURCE")]
    queries: PathBuf,
    #[command(flatten)]
    exclude: ExcludeFlags,
    /// Also take labels that chose the threshold: the figures then flatter
    #[arg(long)]
    allow_calibration_labels: bool,
    #[command(flatten)]
    labels: LabelFlags,
    /// The model's folder, where it is not the recorded one
    #[arg(long, value_name = "DIR")]
    model: Option<PathBuf>,
    /// Print the outcome as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    engine: EngineFlags,
}

/// What a deployment does to labelled queries.
#[derive(Clone, Debug, Serialize)]
pub(super) struct EvaluationReport {
    /// The deployment's name.
    pub(super) deployment: String,
    /// The operating point that decides; `None` where nothing is decided.
    pub(super) operating_point: Option<String>,
    /// Its threshold.
    pub(super) threshold: Option<f32>,
    /// What it promises, or aims at, in words.
    pub(super) goal: Option<String>,
    /// The false accept rate it is made for, where it is made for one.
    pub(super) target_far: Option<f64>,
    /// Whether that is promised, and not only aimed at.
    pub(super) certified: Option<bool>,
    /// Queries whose label is enrolled.
    pub(super) mated: u64,
    /// Queries whose label is not.
    pub(super) non_mated: u64,
    /// Share of mated queries whose nearest item has their label.
    pub(super) recall_at_1: Option<Rate>,
    /// Share of mated queries with their label among the five nearest items.
    pub(super) recall_at_5: Option<f64>,
    /// Share of non-mated queries that were accepted.
    pub(super) far: Option<Rate>,
    /// Share of mated queries that were rejected, or accepted with a wrong label.
    pub(super) frr: Option<Rate>,
    /// The part of the FRR that was accepted with a wrong label.
    pub(super) misidentification: Option<Rate>,
    /// Rates for each value of each metadata column of the queries.
    pub(super) conditions: Vec<Condition>,

    /// Time of a query by stage: median and 99th percentile, in milliseconds.
    pub(super) latency_ms: Latency,
    /// Queries a second, on all workers.
    pub(super) queries_per_second: f64,
    /// Queries that could not be used.
    pub(super) failed: Vec<RefusedItem>,
    /// What else the source of the queries holds.
    pub(super) left_out: LeftOut,
    /// Labels that are not enrolled, and suspiciously like another.
    pub(super) alike: Vec<Alike>,
}

/// Median and 99th percentile of each stage, in milliseconds.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Latency {
    /// Decoding and resizing.
    pub(super) decode: [f64; 2],
    /// Running the model.
    pub(super) inference: [f64; 2],
    /// Searching the gallery.
    pub(super) search: [f64; 2],
}

impl Evaluate {
    pub(super) fn run(self) -> anyhow::Result<Exit> {
        let engine = self.engine.resolve(&ProcessEnvironment)?;
        telemetry::install_logs(&engine.log, engine.log_json)?;
        let sources = ImageSources::read_but(&self.queries, Purpose::Search, &self.exclude)?;
        let deployment =
            labelled_search::open(&self.deployment, self.model, Access::ReadOnly, &engine)?;
        let alike = alike::check(
            &alike::labels_of(&sources),
            &deployment.labels(),
            self.labels,
        )?;
        if !self.allow_calibration_labels {
            refuse_labels_that_chose(&deployment, &sources)?;
        }
        let mut report = measure(&Arc::new(deployment), &sources, &engine)?;
        report.alike = alike;
        Output::new(self.json).result(&report, text)?;
        Ok(if report.failed.is_empty() {
            Exit::Done
        } else {
            Exit::SomeFailed
        })
    }
}

/// Figures on the labels that chose the threshold look better than any that will come.
fn refuse_labels_that_chose(deployment: &Deployment, sources: &ImageSources) -> anyhow::Result<()> {
    let active = deployment.active_point();
    let Some(point) = active.valid() else {
        return Ok(());
    };
    let Some(recording) = deployment.folder().recording(point.id())? else {
        return Ok(());
    };
    let enrolled = deployment.labels();
    // With a target FAR, enrolled labels have no part in choosing unless they were left out.
    let by_strangers = point.content().target_far().is_some();
    let chose = recording.searches().iter();
    let chose = chose.filter(|search| !by_strangers || search.truth != TrialKind::Mated);
    let labels = sources.items.iter().map(|item| item.label.as_str());
    let left_out = 0 < point.content().trials.left_out.searches;
    let judging = labels.filter(|label| !by_strangers || left_out || !enrolled.contains(*label));
    let overlap = refuse_overlap(
        &LabelSet {
            used_to: "chose the threshold",
            labels: chose
                .map(|search| search.label.as_str())
                .chain(recording.set_aside().iter().map(String::as_str))
                .collect(),
        },
        &LabelSet {
            used_to: "judge it here",
            labels: judging.collect(),
        },
    );
    overlap.map_err(|overlap| {
        let how = "or say --allow-calibration-labels, and know that the figures flatter";
        fail(Exit::BadData, format!("{overlap}; {how}"))
    })
}

fn measure(
    deployment: &Arc<Deployment>,
    sources: &ImageSources,
    engine: &EngineConfig,
) -> anyhow::Result<EvaluationReport> {
    let probes = labelled_search::run(deployment, sources, MaskedSearches::None, engine)?;
    let active = deployment.active_point();
    let point = active.valid();
    let recording = Recording::new(deployment.judged(&probes.gathered)?)?;
    let trials = recording.trials();
    let measured = evaluate(trials, point.map(OperatingPoint::threshold));
    let errors = measured.errors.as_ref();
    let (mated, queries) = (trials.mated().len(), probes.timings.len());
    let conditions = point.map(|point| recording.by_condition(point.threshold()));
    Ok(EvaluationReport {
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
        recall_at_5: share(probes.gathered.in_top_5, mated),
        far: errors.and_then(|errors| errors.far),
        frr: errors.and_then(|errors| errors.frr),
        misidentification: errors.and_then(|errors| errors.misidentification),
        conditions: conditions.unwrap_or_default(),

        latency_ms: latency(&probes),
        queries_per_second: share(queries, 1).unwrap_or(0.0) / probes.took.as_secs_f64().max(1e-9),
        failed: probes.failed,
        left_out: sources.left_out.clone(),
        alike: Vec::new(),
    })
}

#[expect(clippy::cast_precision_loss, reason = "counts of images")]
fn share(part: usize, of: usize) -> Option<f64> {
    (0 < of).then(|| part as f64 / of as f64)
}

fn latency(probes: &Probes) -> Latency {
    let stage = |take: fn(&Timings) -> Duration| {
        let mut took: Vec<Duration> = probes.timings.iter().map(take).collect();
        took.sort_unstable();
        [50, 99].map(|percent| quantile(&took, percent).as_secs_f64() * 1000.0)
    };
    Latency {
        decode: stage(|timings| timings.decode),
        inference: stage(|timings| timings.inference),
        search: stage(|timings| timings.search),
    }
}

/// The smallest value that at least `percent` of them do not exceed.
fn quantile(sorted: &[Duration], percent: usize) -> Duration {
    let rank = (sorted.len() * percent).div_ceil(100);
    sorted
        .get(rank.saturating_sub(1))
        .copied()
        .unwrap_or_default()
}

pub(super) fn text(report: &EvaluationReport) -> String {
    let mut text = String::new();
    for one in &report.failed {
        text.push_str(&format!("failed: {one}\n"));
    }
    text.push_str(&alike::warning(&report.alike));
    let recall_at_5 = report
        .recall_at_5
        .map_or_else(|| "unknown".to_owned(), super::output::percent);
    let ms = |stage: [f64; 2]| format!("{:.2} / {:.2}", stage[0], stage[1]);
    let latency = &report.latency_ms;
    let mut rows = vec![
        (
            "queries",
            format!(
                "{} of enrolled labels, {} of strangers",
                report.mated, report.non_mated
            ),
        ),
        ("recall at 1", rate(report.recall_at_1.as_ref())),
        ("recall at 5", recall_at_5),
    ];
    if let (Some(point), Some(threshold), Some(goal)) =
        (&report.operating_point, report.threshold, &report.goal)
    {
        rows.push((
            "operating point",
            format!("{point}: accept from {threshold:.4}, {goal}"),
        ));
        rows.push(("FAR", rate(report.far.as_ref())));
        rows.push(("FRR", rate(report.frr.as_ref())));
        rows.push(("wrong label", rate(report.misidentification.as_ref())));
    } else {
        rows.push((
            "operating point",
            "none that is valid, so nothing is decided; run `matchpoint calibrate`".to_owned(),
        ));
    }
    rows.extend(report.left_out.rows());
    rows.push((
        "median / p99 ms",
        format!(
            "decode {}, inference {}, search {}",
            ms(latency.decode),
            ms(latency.inference),
            ms(latency.search)
        ),
    ));
    rows.push((
        "rate",
        format!("{:.1} queries/s on all workers", report.queries_per_second),
    ));
    text.push_str(&format!(
        "{} ({:.0} % intervals over labels)\n",
        report.deployment,
        Confidence::DISPLAY.get() * 100.0
    ));
    text.push_str(&table(&rows));
    text.push_str(&super::analysis_text::conditions_text(&report.conditions));
    text
}
