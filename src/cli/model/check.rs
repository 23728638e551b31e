//! `matchpoint model check`: a model's vectors against those of its author's pipeline.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::doubts;
use crate::cli::exit::{Exit, fail};
use crate::cli::input::fields::resolved;
use crate::cli::input::images;
use crate::cli::output::{self, Output, table};
use crate::config::{EngineFlags, ProcessEnvironment};
use crate::deployment::{LoadedModel, Models, RefusedItem};
use crate::telemetry;
use matchpoint_arrays::{Columns, Delimited, ReadOptions, VectorTable};
use matchpoint_embed::caller::Caller;
use matchpoint_embed::embedder::Embedded;
use matchpoint_embed::job::JobKind;
use matchpoint_embed::pixels::ImageLimits;
use matchpoint_vector::{Embedding, Similarity};

/// How many of the worst images are shown as text; `--json` has all.
const WORST_SHOWN: usize = 5;

/// Compare a model's vectors with those of its author's pipeline
///
/// Row i of the vectors belongs to image i of the folder, sorted by path, or to line i of --rows.
/// Ends with exit code 65 if any cosine is below the manifest's `golden.cosine_min`: then [input] or
/// [resize] differ from what the author does, or the decoders do.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  matchpoint model check models/resnet50 --images photos/ --vectors reference.npy
  matchpoint model check models/resnet50 --images photos/ --vectors reference.npy --rows rows.csv --json

The vectors, in Python:
  files = sorted(Path('photos').rglob('*.jpg'))
  np.save('reference.npy', np.stack([embed(Image.open(f)) for f in files]).astype('f4'))")]
pub(super) struct Check {
    /// The model's folder
    model: PathBuf,
    /// Which of the model's precisions, such as int8 [default: its own file]
    #[arg(long, value_name = "NAME")]
    precision: Option<String>,
    /// The images
    #[arg(long, value_name = "FOLDER")]
    images: PathBuf,
    /// What the author's pipeline gives for them: .npy, .npz, Parquet or .fvecs
    #[arg(long, value_name = "FILE")]
    vectors: PathBuf,
    /// A .csv file whose line i names the image of row i, in its column `path`, below the folder
    #[arg(long, value_name = "FILE")]
    rows: Option<PathBuf>,
    /// Print as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    engine: EngineFlags,
}

#[derive(Serialize)]
struct ModelCheckReport {
    model: String,
    precision: String,
    fingerprint: String,
    images: usize,
    cosine_min: f32,
    below: usize,
    cosines: Option<Cosines>,
    /// Each image, the worst first.
    files: Vec<CheckedImage>,
    failed: Vec<RefusedItem>,
    warnings: Vec<String>,
}

#[derive(Serialize)]
struct Cosines {
    min: f32,
    p01: f32,
    p10: f32,
    median: f32,
    mean: f64,
}

#[derive(Serialize)]
struct CheckedImage {
    path: String,
    row: usize,
    cosine: f32,
}

impl Check {
    pub(super) fn run(self) -> anyhow::Result<Exit> {
        let engine = self.engine.resolve(&ProcessEnvironment)?;
        telemetry::install_logs(&engine.log, engine.log_json)?;
        let reference = matchpoint_arrays::read(
            &self.vectors,
            &ReadOptions {
                name: None,
                text: None,
                bytes_max: matchpoint_arrays::BYTES_MAX,
            },
        )?;
        if !self.images.is_dir() {
            let message = format!("--images {} is no folder", self.images.display());
            return Err(fail(Exit::NoInput, message));
        }
        let files = self.files(&reference)?;
        let mut models = Models::new(&engine, 1);
        let limits = models.limits();
        let loaded = models.open(&self.model, self.precision.as_deref())?;
        let dimension = loaded.model.dimension();
        if reference.dimension != dimension {
            return Err(fail(
                Exit::BadData,
                format!(
                    "{} has {} components in a row, and the model gives {dimension}",
                    self.vectors.display(),
                    reference.dimension
                ),
            ));
        }
        let results = images::embedded(&files, &loaded, limits);
        let report = report(&loaded, &files, results, &reference, limits);
        Output::new(self.json).result(&report, text)?;
        for RefusedItem { item, reason } in &report.failed {
            output::error(&format!("{item}: {reason}"));
        }
        if 0 < report.below {
            return Err(fail(
                Exit::BadData,
                format!(
                    "{} of {} images are below golden.cosine_min = {}: [input] or [resize] of the \
                     manifest are not what the reference was made with",
                    report.below, report.images, report.cosine_min
                ),
            ));
        }
        Ok(if report.failed.is_empty() {
            Exit::Done
        } else {
            Exit::SomeFailed
        })
    }

    /// The image of each row of the reference.
    fn files(&self, reference: &VectorTable) -> anyhow::Result<Vec<PathBuf>> {
        let files = match &self.rows {
            None => images::listed(std::slice::from_ref(&self.images))?,
            Some(rows) => paths(rows, &self.images)?,
        };
        if files.len() != reference.rows() || files.is_empty() {
            let hint = match &self.rows {
                None => "; which belongs to which is for --rows to say",
                Some(_) => "",
            };
            return Err(fail(
                Exit::BadData,
                format!(
                    "there are {} images and {} vectors{hint}",
                    files.len(),
                    reference.rows()
                ),
            ));
        }
        Ok(files)
    }
}

/// What a list of rows needs. Row i of the vectors belongs to its row i.
const COLUMNS: Columns = Columns {
    known: &["path"],
    required: &[&["path"]],
    aligned: true,
};

/// The column `path` of a table.
fn paths(rows: &Path, folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let table = Delimited::read(rows, &COLUMNS)?;
    let column = table.names().iter().position(|name| name == "path");
    let column = column.unwrap_or_default();
    let mut paths = Vec::new();
    for row in table.rows() {
        let row = row?;
        let path = row.cells.get(column).map(AsRef::as_ref).unwrap_or_default();
        let found = resolved(folder, str::to_owned(path));
        let (path, _id) = found.map_err(|(path, problem)| {
            let (rows, line) = (rows.display(), row.line);
            fail(
                Exit::BadData,
                format!("{rows}, line {line}: {path}: {problem}"),
            )
        })?;
        paths.push(path);
    }
    Ok(paths)
}

fn report(
    loaded: &LoadedModel,
    files: &[PathBuf],
    results: Vec<Result<Embedded, String>>,
    reference: &VectorTable,
    limits: ImageLimits,
) -> ModelCheckReport {
    let (mut ones, mut failed) = (Vec::new(), Vec::new());
    let rows = reference.vectors.chunks(reference.dimension.max(1));
    for (row, ((path, result), vector)) in files.iter().zip(results).zip(rows).enumerate() {
        let item = path.display().to_string();
        let compared = result.and_then(|found| {
            let vector = Embedding::normalise(vector.to_vec())
                .map_err(|cause| format!("row {row} of the reference is no embedding: {cause}"))?;
            Similarity::between(found.embedding.as_slice(), vector.as_slice())
                .ok_or_else(|| "the reference has another dimension".to_owned())
        });
        match compared {
            Ok(cosine) => ones.push(CheckedImage {
                path: item,
                row,
                cosine: cosine.get(),
            }),
            Err(reason) => failed.push(RefusedItem { item, reason }),
        }
    }
    ones.sort_by(|a, b| a.cosine.total_cmp(&b.cosine));
    let cosine_min = loaded.model.cosine_min().unwrap_or(0.0);
    ModelCheckReport {
        model: loaded.model.name().to_owned(),
        precision: loaded.model.precision().to_owned(),
        fingerprint: loaded.model.fingerprint().to_owned(),
        images: files.len(),
        cosine_min,
        below: ones.iter().filter(|one| one.cosine < cosine_min).count(),
        cosines: Cosines::of(&ones),
        files: ones,
        failed,
        warnings: warnings(loaded, limits),
    }
}

fn warnings(loaded: &LoadedModel, limits: ImageLimits) -> Vec<String> {
    let embed = |picture: Vec<u8>| {
        let run = loaded
            .pool
            .run_blocking(Caller::default(), JobKind::Image, move |embedder| {
                embedder.embed(&picture, &limits)
            });
        run.ok()?.ok()
    };
    let pictures = doubts::unlike_pictures().into_iter();
    let embedded: Vec<Embedded> = pictures.filter_map(embed).collect();
    doubts::of(loaded.model.dimension(), &embedded)
}

impl Cosines {
    /// Of images sorted by cosine; `None` of none.
    fn of(sorted: &[CheckedImage]) -> Option<Self> {
        let at = |percent: usize| {
            let place = (sorted.len() * percent / 100).min(sorted.len().saturating_sub(1));
            sorted.get(place).map(|one| one.cosine)
        };
        #[expect(clippy::cast_precision_loss, reason = "far fewer than 2^52 images")]
        let count = sorted.len() as f64;
        let sum: f64 = sorted.iter().map(|one| f64::from(one.cosine)).sum();
        Some(Self {
            min: at(0)?,
            p01: at(1)?,
            p10: at(10)?,
            median: at(50)?,
            mean: sum / count,
        })
    }
}

fn text(report: &ModelCheckReport) -> String {
    let mut text = format!(
        "model `{}` against the reference, {} images\n",
        report.model, report.images
    );
    if let Some(cosines) = &report.cosines {
        text.push_str(&table(&[
            ("smallest", format!("{:.6}", cosines.min)),
            ("1st percentile", format!("{:.6}", cosines.p01)),
            ("10th percentile", format!("{:.6}", cosines.p10)),
            ("median", format!("{:.6}", cosines.median)),
            ("mean", format!("{:.6}", cosines.mean)),
            (
                "below",
                format!(
                    "{} of golden.cosine_min = {}",
                    report.below, report.cosine_min
                ),
            ),
        ]));
    }
    text.push_str("worst\n");
    for one in report.files.iter().take(WORST_SHOWN) {
        text.push_str(&format!("  {:.6}  {}\n", one.cosine, one.path));
    }
    for warning in &report.warnings {
        text.push_str(&format!("warning: {warning}\n"));
    }
    text
}
