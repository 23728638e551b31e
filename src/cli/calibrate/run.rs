//! Runs the calibration of a deployment, and shows its result.

use std::path::Path;
use std::sync::Arc;

use serde::Serialize;

use super::analysis_text;
use super::labelled_search::{self, CacheFlags, Probes};
use crate::cli::input::image_sources::ImageSources;
use crate::cli::input::left_out::LeftOut;
use crate::cli::output::doubts::Doubts;
use crate::cli::output::pictures::Pictures;
use crate::cli::output::progress::ItemProgress;
use crate::cli::output::{self, Shown, table};
use crate::cli::points::summary::{self, PointInWords};
use crate::cli::points::text::{describe, refusal_text};
use crate::config::EngineConfig;
use crate::deployment::{
    Calibrated, CalibrationSettings, Deployment, DeploymentError, Gathered, MaskedSearches,
    RefusedItem, Repeated,
};
use matchpoint_calibration::analysis::crowded::CrowdedStrangers;
use matchpoint_calibration::analysis::strangers::UnnamedStrangers;
use matchpoint_calibration::analysis::{Analysis, AnalysisScope};
use matchpoint_calibration::certify::TargetFar;
use matchpoint_calibration::likeness::Alike;
use matchpoint_calibration::operating_point::Content;
use matchpoint_calibration::procedure::{Copied, NearCopied, Refusal};

/// Which queries stand for strangers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Strangers {
    /// Labels that are not enrolled: what the promise is made on
    NeverEnrolled,
    /// These, and enrolled ones with their own items left out: aimed at, not certified
    All,
}

/// The result of a calibration.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct CalibrationReport {
    /// Whether the target is supported.
    outcome: &'static str,
    /// Id of the operating point.
    operating_point: Option<String>,
    /// Whether it is the active operating point now.
    active: bool,
    /// The operating point.
    content: Option<Content>,
    /// The reason for a refusal, and what the target would need.
    pub(crate) refusal: Option<Refusal>,
    /// Queries that could not be used.
    pub(crate) failed: Vec<RefusedItem>,
    /// Number of queries that were left out because the model's head was fitted to them.
    fitted: usize,
    /// Number of queries whose embedding was in the cache.
    embedded_before: u64,
    /// Rows of the source that are not queries.
    left_out: LeftOut,
    /// Labels of strangers whose spelling is suspiciously similar to that of another label.
    alike: Vec<Alike>,
    /// Queries that equal or nearly equal a picture in the gallery. If both have the same label, the query is
    /// not counted.
    copies: Vec<Copied>,
    /// Queries with exactly the same image as another query; counted once if the label is the same.
    repeated: Vec<Repeated>,
    /// Queries of strangers whose vectors nearly equal that of another stranger; both ways of counting are certified.
    near_copies: Vec<NearCopied>,
    /// How many independent strangers the unnamed ones count as; `None` if there are none.
    unnamed: Option<UnnamedStrangers>,
    /// Labels of strangers that may stand for fewer things than there are labels; `None` if there are none.
    crowded: Option<CrowdedStrangers>,
    /// Number of strangers' queries that were not compared with each other because there are too many.
    not_compared: u64,
    /// Further results about the threshold.
    analysis: Option<Analysis>,
}

impl CalibrationReport {
    /// The reasons why the trials count for less than they seem.
    fn doubts(&self) -> Doubts<'_> {
        Doubts {
            alike: &self.alike,
            copies: &self.copies,
            repeated: &self.repeated,
            near_copies: &self.near_copies,
            unnamed: self.unnamed.as_ref(),
            crowded: self.crowded.as_ref(),
            not_compared: self.not_compared,
        }
    }
}

/// A calibration to be run.
pub(crate) struct CalibrationRequest<'a> {
    pub(crate) deployment: &'a Arc<Deployment>,
    /// The labelled queries; `None` if the gallery's own items are the queries.
    pub(crate) sources: Option<&'a ImageSources>,
    pub(crate) settings: CalibrationSettings,
    pub(crate) strangers: Strangers,
    /// Whether queries that the model's head was fitted to are left out.
    pub(crate) without_fitted: bool,
    pub(crate) dry_run: bool,
    pub(crate) pictures: &'a Pictures,
    pub(crate) scope: AnalysisScope,
    pub(crate) engine: &'a EngineConfig,
    pub(crate) cache: CacheFlags,
}

/// Searches, chooses a threshold, and activates it unless this is a dry run.
pub(crate) fn calibrate(
    request: &CalibrationRequest<'_>,
) -> anyhow::Result<(CalibrationReport, matchpoint_report::ReportContents)> {
    let probes = searched(
        request.deployment,
        request.sources,
        request.strangers,
        request.engine,
        request.cache,
    )?
    .but_fitted(request.without_fitted)?;
    let mut report = refused_report(request.sources, &probes.gathered, probes.failed);
    let mut query_pictures = Pictures::default();
    match request.sources {
        Some(sources) => query_pictures.add(sources),
        // The gallery's items are the queries.
        None => query_pictures.clone_from(request.pictures),
    }
    let subject = analysis_text::AnalysisSubject {
        deployment: request.deployment,
        gathered: &probes.gathered,
        settings: &request.settings.threshold,
        pictures: request.pictures,
        query_pictures: &query_pictures,
        scope: request.scope,
    };
    match request
        .deployment
        .calibrate(&probes.gathered, &request.settings)
    {
        Ok(calibrated) => {
            if !request.dry_run {
                request.deployment.keep(&calibrated)?;
                request.deployment.activate(calibrated.point.id(), None)?;
            }
            let Calibrated {
                point, recording, ..
            } = calibrated;
            let content = point.content();
            report.outcome = if content.policy.certifies() {
                "certified"
            } else {
                "aimed at, not certified"
            };
            report.operating_point = Some(point.id().to_owned());
            report.active = !request.dry_run;
            report.content = Some(content.clone());
            let (analysis, page) = subject.analyse(&point, &recording)?;
            report.analysis = Some(analysis);
            Ok((report, page))
        }
        Err(DeploymentError::Calibration(error)) => {
            let Some(refusal) = Refusal::of(&error) else {
                return Err(error.into());
            };
            let page = subject.refused(&refusal);
            report.refusal = Some(refusal);
            Ok((report, page))
        }
        Err(error) => Err(error.into()),
    }
}

/// The report before a threshold is chosen.
fn refused_report(
    sources: Option<&ImageSources>,
    gathered: &Gathered,
    failed: Vec<RefusedItem>,
) -> CalibrationReport {
    CalibrationReport {
        outcome: "refused",
        operating_point: None,
        active: false,
        content: None,
        refusal: None,
        failed,
        fitted: gathered.fitted.len(),
        embedded_before: gathered.embedded_before(),
        left_out: sources
            .map(|sources| sources.left_out.clone())
            .unwrap_or_default(),
        alike: gathered.alike(),
        copies: gathered.copies.clone(),
        repeated: gathered.repeated.clone(),
        near_copies: gathered.near_copies.clone(),
        unnamed: gathered.unnamed.clone(),
        crowded: gathered.crowded.clone(),
        not_compared: gathered.not_compared,
        analysis: None,
    }
}

/// Searches for the queries or, if there are none, for the gallery's own items.
pub(crate) fn searched(
    deployment: &Arc<Deployment>,
    sources: Option<&ImageSources>,
    strangers: Strangers,
    engine: &EngineConfig,
    cache: CacheFlags,
) -> anyhow::Result<Probes> {
    let Some(sources) = sources else {
        let total = deployment.view().len();
        let progress = std::sync::Mutex::new(ItemProgress::new("search", total));
        let step = |_done: usize, _total: usize| {
            progress
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner)
                .step();
            true
        };
        let gathered = deployment.gather_from_gallery(&step)?;
        return Ok(Probes {
            gathered,
            failed: Vec::new(),
            timings: Vec::new(),
            took: std::time::Duration::ZERO,
        });
    };
    let masked = match strangers {
        Strangers::NeverEnrolled => MaskedSearches::OfStrangers,
        Strangers::All => MaskedSearches::OfAll,
    };
    labelled_search::run(deployment, sources, masked, engine, cache)
}

/// The report as text.
pub(crate) fn text(report: &CalibrationReport, folder: &Path, shown: Shown) -> String {
    let mut text = String::new();
    if let Some(refusal) = &report.refusal {
        text.push_str(&refusal_text(refusal));
    }
    if let (Some(id), Some(content)) = (&report.operating_point, &report.content) {
        let heading = summary::heading(id, report.active);
        text.push_str(&PointInWords::of(heading, content).text());
    }
    text.push_str(&output::failed(&report.failed, shown.verbose));
    text.push_str(&report.doubts().text());
    if shown.verbose {
        text.push_str(&details(report));
    }
    if report.refusal.is_none() {
        let evaluate = format!(
            "matchpoint evaluate {} --queries SOURCE   # of other labels",
            folder.display()
        );
        text.push_str(&summary::next(report.active, &evaluate, shown));
    }
    text
}

/// Every figure.
fn details(report: &CalibrationReport) -> String {
    let mut rows = report.left_out.rows();
    if 0 < report.fitted {
        let fitted = format!(
            "{} queries that the head was fitted to, left out",
            report.fitted
        );
        rows.push(("fitted", fitted));
    }
    if 0 < report.embedded_before {
        let kept = format!("{} queries were embedded before", report.embedded_before);
        rows.push(("kept", kept));
    }
    let mut text = table(&rows);
    if let Some(content) = &report.content {
        text.push_str(&describe(content));
    }
    if let Some(found) = &report.analysis {
        let target = report.content.as_ref().and_then(Content::target_far);
        text.push_str(&analysis_text::text(found, target.map(TargetFar::far)));
    }
    text
}
