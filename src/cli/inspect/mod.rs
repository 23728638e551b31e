//! `matchpoint inspect`: what a deployment or a model consists of, everything verified.

mod point_report;
mod served;

use std::path::{Path, PathBuf};
use std::time::Instant;

use serde::Serialize;

use self::point_report::{PointReport, covered_text};
use crate::cli::exit::{Exit, fail};
use crate::cli::output::{Output, table};
use crate::cli::points::promises::today;
use crate::cli::points::text::describe;
use crate::cli::server_address::{ServerChoice, name_of};
use crate::config::{EngineFlags, ProcessEnvironment};
use crate::deployment::{
    DeploymentError, Folder, Models, Record, StateParts, index_binding, promise_in_gallery,
};
use crate::telemetry;
use matchpoint_calibration::operating_point::{Binding, Metric, OperatingPoint};
use matchpoint_gallery::params::IndexParams;
use matchpoint_gallery::{Access, Gallery};

/// Show and verify what a deployment, or a model, consists of
///
/// Verifies the checksum of every record, item and operating point, and that they belong together.
/// With --model, opens a model folder as the server would: hash of the ONNX file, interface, and
/// the golden check on this machine's runtime and device. With --server, shows what the server says of
/// a deployment that it serves.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  matchpoint inspect shop
  matchpoint inspect shop --json
  matchpoint inspect shop --server http://127.0.0.1:50051
  matchpoint inspect --model models/efficientnet-lite0
  matchpoint inspect --model models/efficientnet-lite0 --precision int8")]
#[command(arg_required_else_help = true)]
pub(crate) struct Inspect {
    /// The deployment's folder; its name, with --server, unless that has one only
    deployment: Option<PathBuf>,
    #[command(flatten)]
    server: ServerChoice,
    /// A model's folder
    #[arg(long, value_name = "DIR", conflicts_with = "server")]
    model: Option<PathBuf>,
    /// Which of the model's precisions, such as int8 [default: its own file]
    #[arg(long, value_name = "NAME", requires = "model")]
    precision: Option<String>,
    /// Print as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    engine: EngineFlags,
}

/// A deployment and a model, as requested.
#[derive(Serialize)]
struct InspectReport {
    #[serde(skip_serializing_if = "Option::is_none")]
    deployment: Option<DeploymentReport>,
    #[serde(skip_serializing_if = "Option::is_none")]
    model: Option<ModelReport>,
}

#[derive(Serialize)]
struct DeploymentReport {
    folder: PathBuf,
    record: Record,
    items: usize,
    labels: usize,
    dimension: usize,
    gallery_digest: String,
    /// The `state` in the answers of a server.
    state: String,
    index: String,
    bytes_on_disk: u64,
    verified_in_seconds: f64,
    operating_points: Vec<PointReport>,
}

#[derive(Serialize)]
struct ModelReport {
    folder: PathBuf,
    name: String,
    precision: String,
    fingerprint: String,
    dimension: usize,
    execution_provider: String,
    onnxruntime_version: String,
    licence: Option<String>,
    description: Option<String>,
    opened_in_seconds: f64,
}

impl Inspect {
    pub(crate) fn run(self) -> anyhow::Result<Exit> {
        if let Some(server) = self.server.instead_of(&self.engine)? {
            let name = self.deployment.as_deref().map_or(Ok(""), name_of)?;
            served::inspect(&server, name, self.json)?;
            return Ok(Exit::Done);
        }
        let engine = self.engine.resolve(&ProcessEnvironment)?;
        telemetry::install_logs(&engine.log, engine.log_json)?;
        let deployment = match &self.deployment {
            Some(folder) => Some(inspect(folder, engine.graph_from_items)?),
            None => None,
        };
        let model = match &self.model {
            Some(folder) => {
                let models = &mut Models::new(&engine, 1);
                Some(inspect_model(folder, self.precision.as_deref(), models)?)
            }
            None => None,
        };
        if let (Some(deployment), Some(model)) = (&deployment, &model)
            && deployment.record.model.fingerprint != model.fingerprint
        {
            return Err(fail(
                Exit::Mismatch,
                format!(
                    "the deployment was embedded by model `{}` (fingerprint {}), and {} is `{}` (fingerprint {})",
                    deployment.record.model.name,
                    deployment.record.model.fingerprint,
                    model.folder.display(),
                    model.name,
                    model.fingerprint,
                ),
            ));
        }
        Output::new(self.json).result(&InspectReport { deployment, model }, text)?;
        Ok(Exit::Done)
    }
}

fn inspect(path: &Path, graph_from_items: usize) -> anyhow::Result<DeploymentReport> {
    let started = Instant::now();
    let folder = Folder::open(path)?;
    let record = folder.record().clone();
    let params = IndexParams {
        graph_from_items,
        ..IndexParams::default()
    };
    // Verifying needs no graph, and building one can take minutes.
    let no_graph = IndexParams {
        graph_from_items: usize::MAX,
        ..params
    };
    let file = folder.gallery_file();
    let gallery =
        Gallery::open(&file, Access::ReadOnly, no_graph).map_err(DeploymentError::from)?;
    folder.check_gallery(gallery.id())?;
    let view = gallery.view();
    let binding = Binding {
        model_fingerprint: record.model.fingerprint.clone(),
        model_name: record.model.name.clone(),
        gallery_id: record.gallery_id.clone(),
        gallery_digest: view.digest(),
        gallery_items: view.len() as u64,
        gallery_labels: view.label_count() as u64,
        index: index_binding(params),
        metric: Metric::Cosine,
    };
    // The active one has to exist; the list would not show that it is missing.
    folder.active_operating_point()?;
    let points = folder.operating_points()?;
    let operating_points = points.iter().map(|point| {
        let opened = promise_in_gallery(&folder, &gallery, point, graph_from_items);
        let active = record.active_operating_point.as_deref() == Some(point.id());
        PointReport {
            mismatch: point
                .check_binding(&binding)
                .err()
                .map(|one| one.to_string()),
            ..PointReport::of(&folder, point, opened, active)
        }
    });
    let active = points
        .iter()
        .find(|point| record.active_operating_point.as_deref() == Some(point.id()))
        .filter(|point| decides(&folder, point, &binding));
    let state = StateParts {
        model_fingerprint: &record.model.fingerprint,
        index: &binding.index,
        operating_point: active.map(OperatingPoint::id),
    };
    Ok(DeploymentReport {
        folder: path.to_owned(),
        state: state.with(&view).to_string(),
        operating_points: operating_points.collect(),
        items: view.len(),
        labels: view.label_count(),
        dimension: gallery.dimension(),
        gallery_digest: view.digest(),
        index: binding.index,
        bytes_on_disk: std::fs::metadata(&file).map_or(0, |metadata| metadata.len()),
        verified_in_seconds: started.elapsed().as_secs_f64(),
        record,
    })
}

/// Whether a server would use an operating point.
fn decides(folder: &Folder, point: &OperatingPoint, binding: &Binding) -> bool {
    point.check_binding(binding).is_ok() && folder.adjuster(point).is_ok()
}

fn inspect_model(
    folder: &Path,
    precision: Option<&str>,
    models: &mut Models,
) -> anyhow::Result<ModelReport> {
    let started = Instant::now();
    let loaded = models.open(folder, precision)?;
    let model = &loaded.model;
    Ok(ModelReport {
        name: model.name().to_owned(),
        precision: model.precision().to_owned(),
        fingerprint: model.fingerprint().to_owned(),
        dimension: model.dimension(),
        execution_provider: model.provider().to_owned(),
        onnxruntime_version: model.runtime_version().to_owned(),
        licence: model.licence().map(ToOwned::to_owned),
        description: model.description().map(ToOwned::to_owned),
        opened_in_seconds: started.elapsed().as_secs_f64(),
        folder: loaded.folder,
    })
}

fn text(report: &InspectReport) -> String {
    let mut text = String::new();
    if let Some(deployment) = &report.deployment {
        text.push_str(&deployment_text(deployment));
    }
    if let Some(model) = &report.model {
        text.push_str(&model_text(model));
    }
    text
}

fn deployment_text(report: &DeploymentReport) -> String {
    let record = &report.record;
    let mut text = format!(
        "deployment `{}` in {}\n",
        record.name,
        report.folder.display()
    );
    text.push_str(&table(&[
        (
            "model",
            format!(
                "{}, fingerprint {}",
                record.model.name, record.model.fingerprint
            ),
        ),
        (
            "gallery",
            format!(
                "{} items, {} labels, {} components, id {}",
                report.items, report.labels, report.dimension, record.gallery_id
            ),
        ),
        ("digest", report.gallery_digest.clone()),
        ("state", report.state.clone()),
        ("on disk", format!("{} bytes", report.bytes_on_disk)),
        ("index", report.index.clone()),
        (
            "verified",
            format!(
                "record, every item and every operating point, in {:.2} s",
                report.verified_in_seconds
            ),
        ),
    ]));
    if report.operating_points.is_empty() {
        text.push_str("no operating point: nothing will be accepted; run `matchpoint calibrate`\n");
    }
    for point in &report.operating_points {
        let state = if point.active { "active" } else { "not active" };
        text.push_str(&format!(
            "operating point {} ({state}), made {}\n",
            point.id, point.content.created
        ));
        if let Some(mismatch) = &point.mismatch {
            text.push_str(&format!("  NOT VALID HERE: {mismatch}\n"));
        }
        text.push_str(&today(&point.promises));
        text.push_str(&covered_text(point));
        if let Some(problem) = &point.traffic_problem {
            text.push_str(&format!(
                "  TRAFFIC NOT COMPARED: {problem}; recalibrate, or restore the file\n"
            ));
        }
        text.push_str(&describe(&point.content));
    }
    text
}

fn model_text(report: &ModelReport) -> String {
    let mut rows = vec![
        ("precision", report.precision.clone()),
        ("fingerprint", report.fingerprint.clone()),
        ("embedding", format!("{} components", report.dimension)),
        (
            "runs on",
            format!(
                "{}, ONNX Runtime {}",
                report.execution_provider, report.onnxruntime_version
            ),
        ),
        (
            "verified",
            format!(
                "hash, interface and golden check, in {:.2} s",
                report.opened_in_seconds
            ),
        ),
    ];
    rows.extend(report.licence.clone().map(|licence| ("licence", licence)));
    rows.extend(
        report
            .description
            .clone()
            .map(|description| ("description", description)),
    );
    format!(
        "model `{}` in {}\n{}",
        report.name,
        report.folder.display(),
        table(&rows)
    )
}
