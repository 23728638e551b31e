//! `matchpoint points import`: makes an operating point of Python again, in the deployment that it is for.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;

use super::summary::{self, PointInWords};
use crate::cli::calibrate::labelled_search::{self, Probes};
use crate::cli::exit::{Exit, fail};
use crate::cli::input::saved_calibration::SavedCalibration;
use crate::cli::output::Output;
use crate::config::{EngineConfig, EngineFlags, ProcessEnvironment};
use crate::deployment::{
    Calibrated, CalibrationSettings, Deployment, Gathered, LabelledQuery, MaskedSearches,
    ProbeSource, Query, QuerySettings, QueryToSearch, RemedyChoice,
};
use crate::telemetry::{self, escaped};
use matchpoint_calibration::margin::MarginFactor;
use matchpoint_calibration::operating_point::{Content, OperatingPoint};
use matchpoint_calibration::procedure::VectorRow;
use matchpoint_calibration::recording::{RecordedSearch, Recording, TrialKind};

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  matchpoint points import shop gate
  matchpoint points import shop gate --dry-run")]
pub(super) struct ImportArgs {
    /// The deployment's folder
    deployment: PathBuf,
    /// The folder that `found.save` wrote
    folder: PathBuf,
    /// Change nothing, only say whether it fits
    #[arg(long)]
    dry_run: bool,
    /// Print the outcome as JSON
    #[arg(long)]
    json: bool,
    /// The model's folder, if it is not the recorded one
    #[arg(long, value_name = "DIR")]
    model: Option<PathBuf>,
    #[command(flatten)]
    engine: EngineFlags,
}

/// An operating point that was made again here.
#[derive(Serialize)]
struct ImportedPoint {
    operating_point: String,
    /// Id of the one that was made in Python: of the same threshold, and bound to vectors only.
    made_as: String,
    active: bool,
    content: Content,
}

impl ImportArgs {
    pub(super) fn run(&self) -> anyhow::Result<()> {
        let engine = self.engine.resolve(&ProcessEnvironment)?;
        telemetry::install_logs(&engine.log, engine.log_json)?;
        let saved = SavedCalibration::read(&self.folder)?;
        let access = labelled_search::access(self.dry_run);
        let model = self.model.clone();
        let deployment = labelled_search::open(&self.deployment, model, access, &engine)?;
        let deployment = Arc::new(deployment);
        let calibrated = made_again(&deployment, &saved, &engine)?;
        if !self.dry_run {
            deployment.keep(&calibrated)?;
            deployment.activate(calibrated.point.id(), None)?;
        }
        let imported = ImportedPoint {
            operating_point: calibrated.point.id().to_owned(),
            made_as: saved.record.id().to_owned(),
            active: !self.dry_run,
            content: calibrated.point.content().clone(),
        };
        Output::new(self.json).result(&imported, |imported| text(imported, &self.deployment))
    }
}

/// The same calibration, of what the queries find in this deployment.
fn made_again(
    deployment: &Arc<Deployment>,
    saved: &SavedCalibration,
    engine: &EngineConfig,
) -> anyhow::Result<Calibrated> {
    let gallery: Vec<VectorRow<'_>> = saved.gallery.rows().collect();
    let enrolled: BTreeSet<&str> = gallery.iter().map(|row| row.label).collect();
    let labels = saved.queries.rows().map(|row| row.label);
    let strangers = labels.filter(|label| !enrolled.contains(label)).collect();
    deployment.check_calibrated_on(&gallery, &strangers)?;

    let gathered = Gathered::of(deployment)?.searches_only();
    let settings = QuerySettings {
        masked: MaskedSearches::for_threshold(false, gathered.view().is_approximate()),
        in_flight_max: labelled_search::window(engine),
    };
    let queries = saved.queries.rows().map(|row| QueryToSearch {
        source: Ok(ProbeSource::Query(Query::Embedding(row.vector.to_vec()))),
        query: LabelledQuery {
            id: row.id,
            label: row.label.to_owned(),
            conditions: row.conditions,
        },
    });
    let Probes {
        gathered, failed, ..
    } = labelled_search::search(deployment, gathered, settings, queries)?;
    if let Some(first) = failed.first() {
        let message = format!(
            "{} of the queries cannot be searched for here; the first, {}: {}",
            failed.len(),
            escaped(&first.item),
            first.reason
        );
        return Err(fail(Exit::BadData, message));
    }
    let settings = CalibrationSettings {
        threshold: saved.settings.checked()?,
        remedy: RemedyChoice::None,
        margin_factor: MarginFactor::DEFAULT,
        leaves_room: false,
    };
    let calibrated = deployment.calibrate(&gathered, &settings)?;
    refuse_other_threshold(saved, &calibrated, gathered.repeated.len())?;
    Ok(calibrated)
}

/// Refuses a calibration that comes to something else here.
fn refuse_other_threshold(
    saved: &SavedCalibration,
    calibrated: &Calibrated,
    repeated: usize,
) -> anyhow::Result<()> {
    let (made, here) = (decides(&saved.record), decides(&calibrated.point));
    if made == here {
        return Ok(());
    }
    let mut message = format!(
        "{} {made}, and the same calibration here {here}",
        saved.record.id()
    );
    if let Some(difference) = difference(&saved.recording, &calibrated.recording) {
        message.push_str("; ");
        message.push_str(&difference);
    }
    if 0 < repeated {
        message.push_str(&format!(
            "; {repeated} queries are the vector of another one, which a deployment counts once for each label: \
             leave them out"
        ));
    }
    message.push_str(
        "; nothing was changed. Calibrate the deployment itself (`client.calibrate`), or mend the queries",
    );
    Err(fail(Exit::Mismatch, message))
}

/// All that decides, and what it is for.
fn decides(point: &OperatingPoint) -> String {
    let content = point.content();
    let review = content.review.map(|band| band.unseen.threshold);
    let review = review.map_or_else(String::new, |from| {
        format!(", has reviewed from {}", from.get())
    });
    format!(
        "accepts from {}{review} and {}",
        content.threshold.get(),
        content.goal()
    )
}

/// How many searches found something else, and which is the first; `None` if none did.
fn difference(made: &Recording, here: &Recording) -> Option<String> {
    let key = |search: &RecordedSearch| (search.probe.clone(), search.truth);
    let score = |search: &RecordedSearch| search.found.as_ref().map(|found| found.score.get());
    let here: BTreeMap<_, _> = here
        .searches()
        .iter()
        .map(|one| (key(one), score(one)))
        .collect();
    let made: BTreeMap<_, _> = made
        .searches()
        .iter()
        .map(|one| (key(one), score(one)))
        .collect();
    let keys: BTreeSet<_> = made.keys().chain(here.keys()).collect();
    let differ = |key: &&&(String, TrialKind)| made.get(key) != here.get(key);
    let mut differing = keys.iter().filter(differ);
    let (probe, truth) = *differing.next()?;
    let key = &(probe.clone(), *truth);
    let shown = |found: Option<&Option<f32>>| match found {
        None => "is not counted".to_owned(),
        Some(None) => "found nothing".to_owned(),
        Some(Some(score)) => format!("scored {score}"),
    };
    Some(format!(
        "{} of {} searches differ: the first, {}, {} there and {} here",
        1 + differing.count(),
        keys.len(),
        escaped(probe),
        shown(made.get(key)),
        shown(here.get(key))
    ))
}

fn text(imported: &ImportedPoint, deployment: &Path) -> String {
    let heading = summary::heading(&imported.operating_point, imported.active);
    let next = if imported.active {
        format!("matchpoint serve --deployments {}", deployment.display())
    } else {
        "the same without --dry-run saves it and lets it decide".to_owned()
    };
    format!(
        "{}  Made in Python as {}: the same threshold\nnext: {next}\n",
        PointInWords::of(heading, &imported.content).text(),
        imported.made_as,
    )
}
