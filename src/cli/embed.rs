//! `matchpoint embed`: a model's vectors of images, for anything else that takes vectors.

use std::path::PathBuf;

use serde::Serialize;

use super::exit::{Exit, fail};
use super::input::images;
use super::output::csv_file::CsvFile;
use super::output::file::OutputFile;
use super::output::npy;
use super::output::{self, Output, table};
use super::standard_streams::is_standard;
use crate::config::{EngineFlags, ProcessEnvironment};
use crate::deployment::{Models, RefusedItem};
use crate::telemetry;
use matchpoint_embed::embedder::Embedded;

/// Write a model's vectors of images to a .npy file
///
/// Each image is embedded as the server would embed it, by a model that has passed its golden check.
/// Beside FILE.npy, FILE.csv has one line for each image, in order: its path, the number of its row,
/// from 0, and if it has none, why; then the measures by which a server compares traffic with the
/// calibration. A folder stands for all images below it, sorted by path.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  matchpoint embed --model models/efficientnet-lite0 photo.jpg other.jpg --out vectors.npy
  matchpoint embed --model models/efficientnet-lite0 photos/ --out vectors.npy --json
  matchpoint embed --model models/efficientnet-lite0 - --out - < photo.jpg > vector.npy
  matchpoint embed --model models/efficientnet-lite0 --precision int8 photos/ --out int8.npy")]
pub(super) struct Embed {
    /// The model's folder
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// Which of the model's precisions, such as int8 [default: its own file]
    #[arg(long, value_name = "NAME")]
    precision: Option<String>,
    /// Images, and folders of images; - for one image on standard input
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<PathBuf>,
    /// The file to write, one row of unit length for each image; - for standard output, without the list
    #[arg(long, value_name = "FILE.npy")]
    out: PathBuf,
    /// Print as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    engine: EngineFlags,
}

/// What a server measures of each image, as `measures` gives it.
const MEASURES: [&str; 5] = [
    "format",
    "longest_side",
    "brightness",
    "sharpness",
    "feature_length",
];

fn measures(embedded: &Embedded) -> [String; MEASURES.len()] {
    let of = embedded.measures;
    [
        of.format.to_string(),
        of.longest_side.to_string(),
        of.brightness.to_string(),
        of.sharpness.to_string(),
        embedded.norm.to_string(),
    ]
}

#[derive(Serialize)]
struct EmbedReport {
    vectors: PathBuf,
    /// `None` if the vectors are on standard output.
    list: Option<PathBuf>,
    rows: usize,
    dimension: usize,
    model: String,
    precision: String,
    fingerprint: String,
    failed: Vec<RefusedItem>,
}

impl Embed {
    pub(super) fn run(self) -> anyhow::Result<Exit> {
        let engine = self.engine.resolve(&ProcessEnvironment)?;
        telemetry::install_logs(&engine.log, engine.log_json)?;
        let standard = is_standard(&self.out);
        if !standard && self.out.extension().is_none_or(|ending| ending != "npy") {
            let message = "--out names a .npy file, or is - for standard output; the list beside it is the .csv";
            return Err(fail(Exit::Usage, message));
        }
        let list = (!standard).then(|| self.out.with_extension("csv"));
        let vectors_file = OutputFile::check(&self.out)?;
        let list_file = OutputFile::at(list.as_deref())?;
        let files = images::listed(&self.images)?;
        if files.is_empty() {
            return Err(fail(Exit::NoInput, "there are no images in what was named"));
        }
        let mut models = Models::new(&engine, 1);
        let limits = models.limits();
        let loaded = models.open(&self.model, self.precision.as_deref())?;
        let results = images::embedded(&files, &loaded, limits);

        let (mut rows, mut failed, mut lines) = (Vec::new(), Vec::new(), Vec::new());
        for (path, result) in files.iter().zip(&results) {
            let path = path.display().to_string();
            match result {
                Ok(embedded) => {
                    let row = rows.len().to_string();
                    let cells = [path, row, String::new()];
                    lines.push([&cells[..], &measures(embedded)].concat());
                    rows.push(embedded.embedding.as_slice());
                }
                Err(reason) => {
                    let cells = [path.clone(), String::new(), reason.clone()];
                    lines.push([&cells[..], &MEASURES.map(|_| String::new())].concat());
                    let reason = reason.clone();
                    failed.push(RefusedItem { item: path, reason });
                }
            }
        }
        let dimension = loaded.model.dimension();
        vectors_file.write(|file| npy::write(file, dimension, &rows))?;
        if let Some(list_file) = list_file {
            list_file.write(|file| {
                let columns = [&["path", "row", "reason"][..], &MEASURES].concat();
                let mut list = CsvFile::within(file, &columns)?;
                lines.iter().try_for_each(|line| list.row(line))?;
                list.finish()
            })?;
        }
        let report = EmbedReport {
            rows: rows.len(),
            vectors: self.out,
            list,
            dimension,
            model: loaded.model.name().to_owned(),
            precision: loaded.model.precision().to_owned(),
            fingerprint: loaded.model.fingerprint().to_owned(),
            failed,
        };
        Output::beside(self.json, Some(&report.vectors)).result(&report, text)?;
        if report.failed.is_empty() {
            return Ok(Exit::Done);
        }
        for RefusedItem { item, reason } in &report.failed {
            output::error(&format!("{item}: {reason}"));
        }
        Ok(Exit::SomeFailed)
    }
}

fn text(report: &EmbedReport) -> String {
    let list = report.list.as_ref().map_or_else(
        || "none beside standard output".to_owned(),
        |list| list.display().to_string(),
    );
    format!(
        "{} vectors by model `{}`\n{}",
        report.rows,
        report.model,
        table(&[
            ("vectors", report.vectors.display().to_string()),
            ("list", list),
            ("dimension", report.dimension.to_string()),
            ("fingerprint", report.fingerprint.clone()),
            ("failed", report.failed.len().to_string()),
        ])
    )
}
