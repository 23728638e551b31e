//! `matchpoint calibrate`: a threshold that keeps a promised false accept rate, or a refusal.

use std::path::PathBuf;
use std::sync::Arc;

use serde::Serialize;

use super::exit::Exit;
use super::output::{self, Output, percent, rate, table};
use super::probe;
use super::sources::{Refused, Sources};
use crate::calibration::CalibrationError;
use crate::calibration::certify::{TargetFar, Underpowered};
use crate::calibration::operating_point::{Content, OperatingPoint, Plan};
use crate::config::{Engine, EngineFlags, ProcessEnvironment};
use crate::deployment::{Deployment, now_rfc_3339};
use crate::gallery::Access;
use crate::telemetry;

/// Choose a threshold that keeps a promised false accept rate, or refuse
///
/// Searches for every labelled query. Queries of labels that are not enrolled are strangers. One
/// query of each stranger label, drawn blindly, counts as an independent trial, and the exact
/// binomial test on these gives the lowest threshold whose false accept rate is at most the target,
/// at the confidence asked for. Queries of enrolled labels show what that costs in false rejects.
/// The operating point is saved in the deployment, and made the active one.
///
/// With `--strangers all`, enrolled labels count as strangers too, searched with their own items
/// left out. Such trials are not quite independent (look-alikes are mutual), so the target is then
/// aimed at, not certified; every output says so.
///
/// Where the labels are too few for the target, nothing is changed, the command says how many it
/// takes, and ends with exit code 5.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  matchpoint calibrate shop --queries labelled.csv --target-far 0.01
  matchpoint calibrate shop --queries labelled/ --target-far 0.001 --confidence 0.99 --dry-run
  matchpoint calibrate shop --queries labelled.csv --target-far 0.01 --strangers all")]
pub(super) struct Calibrate {
    /// The deployment's folder
    deployment: PathBuf,
    /// Labelled queries: a folder, a .csv or a .jsonl file, as for `build`
    #[arg(long, value_name = "SOURCE")]
    queries: PathBuf,
    /// The false accept rate that must not be exceeded, per search: 1e-9 to 0.5
    #[arg(long, value_name = "RATE")]
    target_far: f64,
    /// Confidence of that promise: 0.5 to below 1
    #[arg(long, value_name = "SHARE", default_value_t = 0.95)]
    confidence: f64,
    /// Which queries stand for strangers
    #[arg(long, value_enum, default_value_t = Strangers::NeverEnrolled)]
    strangers: Strangers,
    /// Seed of the draw of one query for each label
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// The model's folder, where it is not the recorded one
    #[arg(long, value_name = "DIR")]
    model: Option<PathBuf>,
    /// Change nothing, only say what would come out
    #[arg(long)]
    dry_run: bool,
    /// Print the outcome as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    engine: EngineFlags,
}

/// Which queries stand for strangers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Strangers {
    /// Labels that are not enrolled: what the promise is made on
    NeverEnrolled,
    /// These, and enrolled ones with their own items left out: aimed at, not certified
    All,
}

/// What a calibration came to.
#[derive(Clone, Debug, Serialize)]
pub(super) struct CalibrationReport {
    /// Whether the target is supported.
    pub(super) outcome: &'static str,
    /// Id of the operating point.
    pub(super) operating_point: Option<String>,
    /// Whether it decides now.
    pub(super) active: bool,
    /// The operating point.
    pub(super) content: Option<Content>,
    /// Why the target is not supported, and what it would take.
    pub(super) refusal: Option<Refusal>,
    /// Queries that could not be used.
    pub(super) failed: Vec<Refused>,
}

/// Why a target is not supported.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Refusal {
    /// `CALIBRATION_UNDERPOWERED`.
    pub(super) reason: &'static str,
    /// The false accept rate asked for.
    pub(super) target_far: f64,
    /// The confidence asked for.
    pub(super) confidence: f64,
    /// Stranger labels that there are.
    pub(super) independent_trials: u64,
    /// Stranger labels that the target takes.
    pub(super) needed: u64,
    /// The lowest false accept rate that these data can support.
    pub(super) best_supported_far: f64,
    /// In words.
    pub(super) message: String,
}

impl From<&Underpowered> for Refusal {
    fn from(refused: &Underpowered) -> Self {
        Self {
            reason: "CALIBRATION_UNDERPOWERED",
            target_far: refused.target.far(),
            confidence: refused.target.confidence().get(),
            independent_trials: refused.independent_trials,
            needed: refused.needed,
            best_supported_far: refused.best_supported_far,
            message: refused.to_string(),
        }
    }
}

impl Calibrate {
    pub(super) fn run(self) -> anyhow::Result<Exit> {
        let engine = self.engine.resolve(&ProcessEnvironment)?;
        telemetry::install_logs(&engine.log, engine.log_json)?;
        let target = TargetFar::new(self.target_far, self.confidence)
            .map_err(|cause| super::exit::fail(Exit::Usage, cause.to_string()))?;
        let sources = Sources::read(&self.queries)?;
        let access = if self.dry_run {
            Access::ReadOnly
        } else {
            Access::ReadWrite
        };
        let deployment = probe::open(&self.deployment, self.model, access, &engine)?;
        let report = calibrate(&Request {
            deployment: &Arc::new(deployment),
            sources: &sources,
            target,
            strangers: self.strangers,
            seed: self.seed,
            dry_run: self.dry_run,
            engine: &engine,
        })?;
        Output::new(self.json).result(&report, text)?;
        Ok(match (&report.refusal, report.failed.is_empty()) {
            (Some(_), _) => Exit::Underpowered,
            (None, false) => Exit::SomeFailed,
            (None, true) => Exit::Done,
        })
    }
}

/// A calibration to be done.
pub(super) struct Request<'a> {
    pub(super) deployment: &'a Arc<Deployment>,
    pub(super) sources: &'a Sources,
    pub(super) target: TargetFar,
    pub(super) strangers: Strangers,
    pub(super) seed: u64,
    pub(super) dry_run: bool,
    pub(super) engine: &'a Engine,
}

pub(super) fn calibrate(request: &Request<'_>) -> anyhow::Result<CalibrationReport> {
    let leave_out = request.strangers == Strangers::All;
    let probes = probe::run(
        request.deployment,
        request.sources,
        leave_out,
        request.engine,
    )?;
    let plan = Plan {
        created: now_rfc_3339(),
        target: request.target,
        seed: request.seed,
        binding: request.deployment.binding(),
        software: format!("matchpoint {}", env!("CARGO_PKG_VERSION")),
    };
    let empty = CalibrationReport {
        outcome: "refused",
        operating_point: None,
        active: false,
        content: None,
        refusal: None,
        failed: probes.failed,
    };
    match OperatingPoint::certified(&probes.trials, plan) {
        Ok(point) => {
            if !request.dry_run {
                request.deployment.adopt(&point)?;
            }
            Ok(CalibrationReport {
                outcome: if point.content().policy.certifies() {
                    "certified"
                } else {
                    "aimed at, not certified"
                },
                operating_point: Some(point.id().to_owned()),
                active: !request.dry_run,
                content: Some(point.content().clone()),
                ..empty
            })
        }
        Err(CalibrationError::Underpowered(refused)) => Ok(CalibrationReport {
            refusal: Some(Refusal::from(&refused)),
            ..empty
        }),
        Err(error) => Err(error.into()),
    }
}

pub(super) fn text(report: &CalibrationReport) -> String {
    let mut text = String::new();
    for one in &report.failed {
        text.push_str(&format!("failed: {}: {}\n", one.item, one.reason));
    }
    if let Some(refusal) = &report.refusal {
        text.push_str(&refusal_text(refusal));
    }
    if let (Some(id), Some(content)) = (&report.operating_point, &report.content) {
        let state = if report.active {
            "active now"
        } else {
            "dry run, not saved"
        };
        text.push_str(&format!(
            "operating point {id} ({state})\n{}",
            describe(content)
        ));
    }
    text
}

fn refusal_text(refusal: &Refusal) -> String {
    format!(
        "refused: CALIBRATION_UNDERPOWERED\n{}  Nothing was changed. Label queries of {} more labels that are not in the gallery, or ask\n  for a false accept rate of {} or more.\n",
        table(&[
            (
                "asked for",
                format!(
                    "FAR <= {} at {} confidence",
                    percent(refusal.target_far),
                    percent(refusal.confidence)
                )
            ),
            (
                "stranger labels",
                format!(
                    "{} here, {} needed",
                    refusal.independent_trials, refusal.needed
                )
            ),
            (
                "these support",
                format!("FAR >= {}", percent(refusal.best_supported_far))
            ),
        ]),
        refusal.needed.saturating_sub(refusal.independent_trials),
        percent(rounded_up(refusal.best_supported_far)),
    )
}

/// Two digits, rounded up, so that what is proposed is really supported.
fn rounded_up(share: f64) -> f64 {
    let scale = 10_f64.powf(1.0 - share.log10().floor());
    (share * scale).ceil() / scale
}

/// An operating point, for a person to read.
pub(super) fn describe(content: &Content) -> String {
    let promise = &content.promise;
    let target = promise.target;
    let threshold = if content.threshold.accepts_nothing() {
        "none: nothing is accepted, since a stranger scores as high as a score can".to_owned()
    } else {
        format!(
            "accept from cosine similarity {:.4}",
            content.threshold.get()
        )
    };
    let counts = &content.trials;
    let mut text = table(&[
        (
            if content.policy.certifies() {
                "promise"
            } else {
                "aim, no promise"
            },
            format!(
                "FAR <= {} per search, at {} confidence",
                percent(target.far()),
                percent(target.confidence().get())
            ),
        ),
        ("threshold", threshold),
        (
            "tested on",
            format!(
                "{} stranger labels ({} never enrolled, {} left out), one query each: {} accepted, {} allowed",
                promise.independent_trials,
                counts.never_enrolled.labels,
                counts.left_out.labels,
                promise.observed,
                promise.allowed,
            ),
        ),
        (
            "upper bound",
            format!("FAR <= {} on these data", percent(promise.far_bound)),
        ),
        ("FAR measured", rate(content.measured.far.as_ref())),
        ("FRR measured", rate(content.measured.frr.as_ref())),
        ("recall at 1", rate(content.measured.recall_at_1.as_ref())),
        (
            "valid for",
            format!(
                "model {} ({}), up to {} items, index: {}",
                content.binding.model_name,
                output::short(&content.binding.model_fingerprint),
                content.binding.gallery_items,
                content.binding.index,
            ),
        ),
    ]);
    text.push_str("  assumptions\n");
    for assumption in &content.assumptions {
        text.push_str(&output::wrapped(assumption, "    - "));
    }
    text
}
