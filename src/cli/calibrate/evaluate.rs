//! `matchpoint evaluate`: how a deployment decides on labelled queries.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use serde::Serialize;

use super::labelled_search::{self, CacheFlags, Probes};
use crate::cli::exit::{Exit, fail};
use crate::cli::input::image_sources::{ImageSources, Purpose};
use crate::cli::input::left_out::LeftOut;
use crate::cli::input::listing::ExcludeFlags;
use crate::cli::output::alike::{self, LabelFlags};
use crate::cli::output::in_words::{OfMany, rests_on};
use crate::cli::output::{self, Output, ShownFlags, percent, rate, table, wrapped};
use crate::config::{EngineFlags, ProcessEnvironment};
use crate::deployment::{
    Deployment, DeploymentError, DeploymentEvaluation, MaskedSearches, RefusedItem,
    labels_that_chose,
};
use crate::server::measured_rate;
use crate::telemetry;
use matchpoint_calibration::likeness::{Alike, Spellings};
use matchpoint_calibration::rates::{Confidence, Rate};
use matchpoint_gallery::Access;
use matchpoint_report::calibrated::above_target;

/// Measure recall, FAR, FRR and latency with labelled queries
///
/// A query whose label is enrolled should be accepted with that label; one whose label is not
/// should be rejected. Intervals are over labels, because queries of one label are not independent.
/// Use labels that had no part in choosing the threshold: on others the figures flatter.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  matchpoint evaluate shop --queries held-out.csv
  matchpoint evaluate shop --queries held-out/ --json")]
pub(crate) struct Evaluate {
    /// The deployment's folder
    deployment: PathBuf,
    /// Labelled queries: a folder, a .csv, a .tsv or a .jsonl file, or - for a list on
    /// standard input, as for `build`; of a list with a
    /// column role, the rows of the roles query and unknown
    #[arg(long, value_name = "SOURCE")]
    queries: PathBuf,
    #[command(flatten)]
    exclude: ExcludeFlags,
    /// Also take labels that chose the threshold: the figures then flatter
    #[arg(long)]
    allow_calibration_labels: bool,
    /// Leave out queries that the head of the model was fitted to, instead of refusing them
    #[arg(long)]
    without_fitted: bool,
    #[command(flatten)]
    labels: LabelFlags,
    #[command(flatten)]
    cache: CacheFlags,
    /// The model's folder, if it is not the recorded one
    #[arg(long, value_name = "DIR")]
    model: Option<PathBuf>,
    #[command(flatten)]
    shown: ShownFlags,
    #[command(flatten)]
    engine: EngineFlags,
}

/// How a deployment decides on labelled queries, and which of them were used.
#[derive(Clone, Debug, Serialize)]
struct EvaluationReport {
    #[serde(flatten)]
    evaluation: DeploymentEvaluation,
    /// Queries that could not be used.
    failed: Vec<RefusedItem>,
    /// Rows of the source that are not queries.
    left_out: LeftOut,
    /// Labels that are not enrolled and resemble another label suspiciously.
    alike: Vec<Alike>,
}

/// Why these labels may not judge the threshold: they chose it, or nobody knows which labels did.
fn labels_problem(
    deployment: &Deployment,
    labels: &BTreeSet<&str>,
    spellings: Spellings,
) -> Result<Option<String>, DeploymentError> {
    match labels_that_chose(deployment, labels, spellings) {
        Ok(overlap) => Ok(overlap.map(|overlap| overlap.to_string())),
        Err(missing @ DeploymentError::RecordingMissing { .. }) => Ok(Some(missing.to_string())),
        Err(error) => Err(error),
    }
}

impl Evaluate {
    pub(crate) fn run(self) -> anyhow::Result<Exit> {
        let engine = self.engine.resolve(&ProcessEnvironment)?;
        telemetry::install_logs(&engine.log, engine.log_json)?;
        let sources = ImageSources::read_but(&self.queries, Purpose::Search, &self.exclude)?;
        let deployment =
            labelled_search::open(&self.deployment, self.model, Access::ReadOnly, &engine)?;
        let labels = alike::labels_of(&sources);
        let alike = alike::check(&labels, &deployment.view().labels(), self.labels)?;
        if !self.allow_calibration_labels
            && let Some(problem) = labels_problem(&deployment, &labels, self.labels.spellings())?
        {
            let how = "or say --allow-calibration-labels, and know that the figures flatter";
            return Err(fail(Exit::BadData, format!("{problem}; {how}")));
        }
        let deployment = Arc::new(deployment);
        let Probes {
            gathered,
            failed,
            timings,
            took,
        } = labelled_search::run(
            &deployment,
            &sources,
            MaskedSearches::None,
            &engine,
            self.cache,
        )?
        .but_fitted(self.without_fitted)?;
        let report = EvaluationReport {
            evaluation: DeploymentEvaluation::of(&deployment, &gathered, &timings, took)?,
            failed,
            left_out: sources.left_out,
            alike,
        };
        let verbose = self.shown.verbose;
        Output::new(self.shown.json).result(&report, |report| text(report, verbose))?;
        Ok(if report.failed.is_empty() {
            Exit::Done
        } else {
            Exit::SomeFailed
        })
    }
}

fn text(report: &EvaluationReport, verbose: bool) -> String {
    let mut text = summary(&report.evaluation, verbose);
    text.push_str(&output::failed(&report.failed, verbose));
    text.push_str(&alike::warning(&report.alike));
    if verbose {
        text.push_str(&details(report));
    }
    text
}

/// The result in words.
fn summary(found: &DeploymentEvaluation, verbose: bool) -> String {
    let mut text = format!("{}: ", found.deployment);
    match (&found.operating_point, found.threshold) {
        (Some(point), Some(threshold)) => {
            text.push_str(&format!("{point} accepts from score {threshold:.4}\n"));
        }
        _ => text.push_str(
            "there is no valid operating point, so nothing is decided; run `matchpoint calibrate`\n",
        ),
    }
    let many = found
        .target_far
        .map_or_else(OfMany::default, OfMany::that_shows);
    if let Some(far) = found.far.as_ref().map(measured_rate) {
        let asked = found.target_far.map_or_else(String::new, |target| {
            format!("; at most {} may", many.part(target))
        });
        let strangers = format!(
            "Of {} strangers {} got in{asked} ({})",
            many.all(),
            many.part(far.rate),
            rests_on(&far)
        );
        text.push_str(&wrapped(&strangers, "  "));
    }
    let known = OfMany::default();
    if let Some(frr) = found.frr.as_ref().map(measured_rate) {
        let turned_away = format!(
            "Of {} known things {} were turned away, or taken for another ({})",
            known.all(),
            known.part(frr.rate),
            rests_on(&frr)
        );
        text.push_str(&wrapped(&turned_away, "  "));
    }
    if let Some(review) = &found.review {
        let of = |found: Option<&Rate>| {
            let found = found.map(measured_rate);
            found.map_or_else(|| "unknown".to_owned(), |found| percent(found.rate))
        };
        text.push_str(&format!(
            "  For a person to look at: {} of known things (at calibration {}), {} of strangers ({}); nobody sees {} of known things turned away or taken for another, {} may be\n",
            of(review.found.mated.as_ref()),
            of(review.calibrated_mated.as_ref()),
            of(review.found.strangers.as_ref()),
            of(review.calibrated_strangers.as_ref()),
            of(review.found.unseen.as_ref()),
            percent(review.unseen_frr),
        ));
    }
    if let Some(first) = found.recall_at_1.as_ref().map(measured_rate) {
        text.push_str(&wrapped(
            &format!("The right label comes first in {}", rests_on(&first)),
            "  ",
        ));
    }
    if let Some(above) = above_target(found.far.as_ref(), found.target_far) {
        text.push_str(&format!("  {above}\n"));
    }
    let hint = if verbose {
        ""
    } else {
        "; every figure: --verbose"
    };
    text.push_str(&format!("  {}{hint}\n", speed(found)));
    text
}

/// The speed, if it is representative of the model.
fn speed(found: &DeploymentEvaluation) -> String {
    match found.embedded_before {
        0 => format!(
            "{:.1} queries a second on all workers",
            found.queries_per_second
        ),
        before => format!(
            "speed: --no-cache ({before} of {} queries were embedded before)",
            found.mated + found.non_mated
        ),
    }
}

/// Every figure.
fn details(report: &EvaluationReport) -> String {
    let mut text = String::new();
    let found = &report.evaluation;
    let recall_at_5 = found
        .recall_at_5
        .map_or_else(|| "unknown".to_owned(), percent);
    let ms = |stage: [f64; 2]| format!("{:.2} / {:.2}", stage[0], stage[1]);
    let latency = &found.latency_ms;
    let mut rows = vec![
        (
            "queries",
            format!(
                "{} of enrolled labels, {} of strangers",
                found.mated, found.non_mated
            ),
        ),
        ("recall at 1", rate(found.recall_at_1.as_ref())),
        ("recall at 5", recall_at_5),
    ];
    if let (Some(point), Some(threshold), Some(goal)) =
        (&found.operating_point, found.threshold, &found.goal)
    {
        rows.push((
            "operating point",
            format!("{point}: accept from {threshold:.4}, {goal}"),
        ));
        rows.push(("FAR", rate(found.far.as_ref())));
        rows.push(("FRR", rate(found.frr.as_ref())));
        rows.push(("wrong label", rate(found.misidentification.as_ref())));
        if let Some(review) = &found.review {
            let from = format!("a person decides from {:.4}", review.threshold);
            rows.push(("review", from));
            rows.push(("mated reviewed", rate(review.found.mated.as_ref())));
            rows.push(("strangers reviewed", rate(review.found.strangers.as_ref())));
            rows.push(("mated missed unseen", rate(review.found.unseen.as_ref())));
        }
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
    rows.push(("speed", speed(found)));
    text.push_str(&format!(
        "{} ({} intervals over labels)\n",
        found.deployment,
        percent(Confidence::DISPLAY.get())
    ));
    text.push_str(&table(&rows));
    text.push_str(&super::analysis_text::conditions_text(
        &found.conditions,
        found.target_far,
    ));
    text
}
