//! `matchpoint adapt`: fits a head for the model to labels, and judges it on other labels.

mod fitted_model;
mod page;
mod rows;
mod text;
mod written;

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::PathBuf;

use serde::Serialize;

use self::fitted_model::place_above;
use self::rows::AdaptRows;
use super::exit::{Exit, fail};
use super::input::array_flags::ArrayFlags;
use super::input::left_out::LeftOut;
use super::input::listing::ExcludeFlags;
use super::output::file::OutputFile;
use super::output::progress::SharedProgress;
use super::signal::Signal;
use crate::config::{EngineFlags, ProcessEnvironment};
use crate::deployment::{Models, RefusedItem};
use crate::telemetry;
use matchpoint_adapt::{
    AdaptError, AdaptRequest, AdaptStage, AdaptedHead, Candidate, HeadRecord, Judgement, Part,
    Parts, Recipe, SupportedTargets,
};
use matchpoint_calibration::analysis::copies::near_copies;
use matchpoint_calibration::analysis::embeddings::Embeddings;
use matchpoint_calibration::analysis::label_crowds::label_crowds;

/// At most this many rows are compared to find nearly equal pictures with different labels, which takes some
/// seconds.
const COMPARED_MAX: usize = 20_000;
/// Number of such pairs that are named.
const NEAR_COPIES_LISTED: usize = 20;

/// Fit a head to labelled pictures, so that one threshold fits all labels
///
/// A head is a linear map behind the model, fitted in a minute or two. Labels are split once: half of them fit it, a quarter is left to
/// calibrate with, a quarter judges it. It is refused, and nothing is written, unless it is better on labels that it has not
/// seen. Written is a model's folder, for `build --embeddings-of` and all else; or, of plain vectors, the head alone.
///
/// What it was fitted to is known by its bytes: `calibrate` and `evaluate` refuse such queries, whatever their names.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  matchpoint adapt shop --out models/shop              # by the embeddings that a deployment holds
  matchpoint build shop2 --embeddings-of shop --model models/shop
  matchpoint adapt --images labelled.csv --model models/efficientnet-lite0 --out models/shop
  matchpoint adapt --images labelled.csv --model models/efficientnet-lite0 --second-layer --out models/shop
  matchpoint adapt --embeddings vectors.npy --labels rows.csv --out head
  matchpoint calibrate --embeddings vectors.npy --labels rows.csv --head head --without-fitted --target-far 0.01

A list may have a column `split` with fit, calibrate or judge for each label; else labels are dealt by --seed.
docs/adapt.md has the recipes, what each measured, and what to expect.")]
pub(super) struct Adapt {
    /// A deployment, whose stored embeddings are fitted to; it may be served meanwhile
    #[arg(conflicts_with_all = ["images", "embeddings"])]
    deployment: Option<PathBuf>,
    /// Labelled images instead: a folder, a .csv, a .tsv or a .jsonl file, or - for a list on standard
    /// input, as for `build`
    #[arg(long, value_name = "SOURCE", conflicts_with = "embeddings")]
    images: Option<PathBuf>,
    #[command(flatten)]
    exclude: ExcludeFlags,
    /// The model's folder; of a deployment, if it is not the recorded one
    #[arg(long, value_name = "DIR", conflicts_with = "embeddings")]
    model: Option<PathBuf>,
    /// Which of the model's precisions embeds the images; the head is put behind all of them
    #[arg(long, value_name = "NAME", requires = "images")]
    precision: Option<String>,
    /// The folder to write: of a model, or for plain vectors of the head alone
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Pool a second layer of the network beside its embedding, by which a head erred less on two sets: the sum of a
    /// residual block before the maps become small, or this tensor of the ONNX file. Of a deployment it needs the kept images
    #[arg(long, value_name = "TENSOR", num_args = 0..=1, require_equals = true, conflicts_with = "embeddings")]
    second_layer: Option<Option<String>>,
    /// Fit by this recipe, and compare no others: whitening, root-whitening,
    /// softmax-tcm, root-softmax-tcm, softmax or total-whitening
    #[arg(long, value_name = "NAME")]
    recipe: Option<String>,
    /// Components that the head gives, at most: fewer take less memory and time in every search, and err more
    #[arg(long, value_name = "COUNT", default_value_t = 512, value_parser = clap::value_parser!(u16).range(1..))]
    components: u16,
    /// Bits of the head's product in the network: 8 read a quarter of the bytes; 32 need no operator beyond ONNX
    #[arg(long, value_name = "BITS", default_value = "8", value_parser = ["8", "32"], conflicts_with = "embeddings")]
    head_bits: String,
    /// Seed of the split of the labels and of all random choices
    #[arg(long, value_name = "NUMBER", default_value_t = 0)]
    seed: u64,
    /// Write a page to this HTML file, or to - for standard output: before and behind the head, also if it is refused
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// The images of a deployment's items, as they were given to `build`: the page shows them
    #[arg(long, value_name = "SOURCE", requires_all = ["report", "deployment"])]
    pictures: Option<PathBuf>,
    /// Print the outcome as JSON
    #[arg(long)]
    json: bool,
    /// Plain vectors instead: .npy, .npz, Parquet or .fvecs
    #[arg(long, value_name = "FILE", help_heading = "Vectors made elsewhere")]
    embeddings: Option<PathBuf>,
    /// A .csv file whose row i belongs to vector i, as for `calibrate`
    #[arg(
        long,
        value_name = "FILE",
        requires = "embeddings",
        help_heading = "Vectors made elsewhere"
    )]
    labels: Option<PathBuf>,
    #[command(flatten, next_help_heading = "Vectors made elsewhere")]
    rows: ArrayFlags,
    #[command(flatten)]
    engine: EngineFlags,
}

/// The result of fitting a head.
#[derive(Debug, Serialize)]
struct AdaptReport {
    /// `adapted` or `refused`.
    outcome: &'static str,
    /// The folder that was written; `None` if nothing was.
    written: Option<PathBuf>,
    /// The tensor whose mean the head reads beside the embedding; `None` if it reads none.
    second_layer: Option<String>,
    recipe: &'static str,
    /// What the recipe does, in words.
    what: &'static str,
    seed: u64,
    /// Number of components without and with the head.
    from: usize,
    to: usize,
    parts: Vec<PartSize>,
    /// The recipes that were compared by cross-validation over the fitting labels.
    candidates: Vec<Candidate>,
    /// The judgement on the judging labels.
    judgement: Judgement,
    /// The targets that can be certified on the labels that are left for calibration, without and with the
    /// head; `None` if there are too few.
    supported: Option<SupportedTargets>,
    /// Pairs of rows that are nearly the same picture but have different labels.
    near_copies: Vec<AcrossLabels>,
    /// Number of such pairs; `None` if there are too many rows to look for them.
    near_copies_total: Option<usize>,
    /// Labels whose pictures are as alike as those of one label; the largest groups first.
    crowds: Vec<Crowd>,
    /// The model with the head, for each precision.
    models: Vec<AdaptedModel>,
    failed: Vec<RefusedItem>,
    left_out: LeftOut,
}

/// The size of a part of the labels.
#[derive(Debug, Serialize)]
struct PartSize {
    part: Part,
    labels: usize,
    rows: usize,
}

/// A row that is nearly equal to another one.
#[derive(Debug, Serialize)]
struct AcrossLabels {
    row: usize,
    label: String,
    first_row: usize,
    first_label: String,
    similarity: f32,
}

/// Labels of which every two have pictures that are as alike as those of one label.
#[derive(Debug, Serialize)]
struct Crowd {
    labels: Vec<String>,
    /// How far apart pictures of two of them are on average, as a multiple of pictures of one.
    apart: f32,
}

/// A model that was written.
#[derive(Debug, Serialize)]
struct AdaptedModel {
    precision: String,
    fingerprint: String,
    /// The lowest cosine similarity to its golden embedding.
    cosine_min: Option<f32>,
}

const STOPPING: &str = "stopping; nothing is written, run the command again to start over";

impl Adapt {
    pub(super) fn run(self) -> anyhow::Result<Exit> {
        let engine = self.engine.resolve(&ProcessEnvironment)?;
        telemetry::install_logs(&engine.log, engine.log_json)?;
        self.refuse_taken_out()?;
        let file = OutputFile::at(self.report.as_deref())?;
        let recipe = self.recipe.as_deref().map(Recipe::named).transpose()?;
        let mut models = Models::new(&engine, 1);
        // A signal ends the command while it reads a list, but shall leave no folder of a second layer.
        let listed = self.listed()?;
        let signal = Signal::listen(STOPPING)?;
        let rows = self.rows(listed, &mut models, &signal);
        if let Some(exit) = signal.received() {
            return Ok(exit);
        }
        let rows = rows?;
        let labels: Vec<&str> = rows.names.iter().map(String::as_str).collect();
        let parts = match &rows.parts {
            Some(given) => Parts::given(&labels, given)?,
            None => Parts::deal(&labels, self.seed)?,
        };
        let request = AdaptRequest {
            rows: &rows.rows,
            names: &rows.names,
            parts: &parts,
            recipe,
            components: usize::from(self.components),
            // Plain vectors have no network that reads the head.
            eight_bits: self.head_bits == "8" && rows.model.is_some(),
            seed: self.seed,
        };
        let fitted = fit(&request, &signal);
        if let Some(exit) = signal.received() {
            return Ok(exit);
        }
        let adapted = fitted?;
        let mut report = self.report(&request, &rows, &adapted)?;
        let mut written = None;
        if adapted.judgement.refused.is_none() {
            let record = HeadRecord::of(&request, &adapted, rows.base(), &rows.sha256);
            let writing = written::Writing {
                adapted: &adapted,
                record: &record,
                model: rows.model.as_ref(),
            };
            written = Some(writing.write(&self.out, &mut models)?);
        }
        if let Some(exit) = signal.over() {
            return Ok(exit);
        }
        if let Some(written) = written {
            report.models = written.publish(&self.out)?;
            report.written = Some(self.out.clone());
            report.outcome = "adapted";
        }
        OutputFile::output(file.as_ref(), self.json).result(&report, text::text)?;
        if let Some(file) = file {
            let pictures = |label: &str| rows.pictures_of(label);
            let page = page::page(&report, request.curves(&adapted)?, &self.title(), &pictures);
            file.write(|file| file.write_all(page.as_bytes()))?;
        }
        Ok(match (report.written, report.failed.is_empty()) {
            (None, _) => Exit::Underpowered,
            (Some(_), false) => Exit::SomeFailed,
            (Some(_), true) => Exit::Done,
        })
    }

    /// Before minutes of work: nothing may be where the folder is to be, nor stand in its way.
    fn refuse_taken_out(&self) -> anyhow::Result<()> {
        let message = if self.out.symlink_metadata().is_ok() {
            format!("{} is there already; name a new folder", self.out.display())
        } else {
            match place_above(&self.out) {
                Some(place) if !place.is_dir() => {
                    format!("{} is no folder; name another for --out", place.display())
                }
                _ => return Ok(()),
            }
        };
        Err(fail(Exit::Usage, message))
    }

    /// The name of what was adapted, for a page.
    fn title(&self) -> String {
        let sources = [&self.deployment, &self.images, &self.embeddings];
        let source = sources.into_iter().flatten().next();
        source.map_or_else(String::new, |path| path.display().to_string())
    }

    fn report(
        &self,
        request: &AdaptRequest<'_>,
        rows: &AdaptRows,
        adapted: &AdaptedHead,
    ) -> anyhow::Result<AdaptReport> {
        let near_copies = across_labels(rows)?;
        let parts = [Part::Fit, Part::Calibrate, Part::Judge].map(|part| PartSize {
            part,
            labels: request.parts.labels(part).count(),
            rows: request.rows_of(part).len(),
        });
        Ok(AdaptReport {
            outcome: "refused",
            written: None,
            second_layer: rows.base().and_then(|base| base.second_layer),
            recipe: adapted.recipe.name,
            what: adapted.recipe.what,
            seed: self.seed,
            from: adapted.head.from(),
            to: adapted.head.to(),
            parts: parts.into(),
            candidates: adapted.candidates.clone(),
            judgement: adapted.judgement.clone(),
            supported: request.supported(adapted)?,
            near_copies_total: near_copies.as_ref().map(Vec::len),
            near_copies: near_copies
                .into_iter()
                .flatten()
                .take(NEAR_COPIES_LISTED)
                .collect(),
            crowds: crowds(rows),
            models: Vec::new(),
            failed: rows.failed.clone(),
            left_out: rows.left_out.clone(),
        })
    }
}

fn fit(request: &AdaptRequest<'_>, signal: &Signal) -> Result<AdaptedHead, AdaptError> {
    let progress = SharedProgress::new("compare");
    let found = request.run(&|stage, done, of| {
        let stage = match stage {
            AdaptStage::Compare => "compare",
            AdaptStage::Fit => "fit",
            AdaptStage::Judge => "judge",
        };
        progress.at_stage(stage, done as u64, of as u64) && signal.received().is_none()
    });
    progress.finish();
    found
}

/// Labels that may be one thing under several names; none are looked for if there are too many rows.
fn crowds(rows: &AdaptRows) -> Vec<Crowd> {
    let (all, labels) = (&rows.rows, rows.rows.labels());
    if COMPARED_MAX < all.len() {
        return Vec::new();
    }
    let names: BTreeMap<u32, &String> = labels.iter().copied().zip(&rows.names).collect();
    let found = label_crowds(all.dimension(), all.vectors(), labels).into_iter();
    let named = found.map(|crowd| Crowd {
        labels: crowd
            .labels
            .iter()
            .filter_map(|label| names.get(label).map(|name| (*name).clone()))
            .collect(),
        apart: crowd.apart,
    });
    named.collect()
}

/// Finds nearly equal pictures with different labels, which harm a fit more than anything else. `None` if there
/// are too many rows.
fn across_labels(rows: &AdaptRows) -> anyhow::Result<Option<Vec<AcrossLabels>>> {
    if COMPARED_MAX < rows.rows.len() {
        return Ok(None);
    }
    // How near copies are was measured on embeddings without a second layer.
    let own = rows.rows.without_head()?;
    let embeddings = Embeddings::from_unit(
        own.dimension(),
        own.vectors().to_vec(),
        own.labels().to_vec(),
    )?;
    let name = |row: usize| rows.names.get(row).cloned().unwrap_or_default();
    let found = near_copies(&embeddings, &|_, _| true)?;
    let found = found.into_iter().map(|copy| AcrossLabels {
        row: copy.row,
        label: name(copy.row),
        first_row: copy.first,
        first_label: name(copy.first),
        similarity: copy.similarity.get(),
    });
    let across = found.filter(|copy| copy.label != copy.first_label);
    Ok(Some(across.collect()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use matchpoint_adapt::RECIPES;

    #[test]
    fn the_help_names_every_recipe() {
        use clap::CommandFactory as _;
        #[derive(clap::Parser)]
        struct Only {
            #[command(flatten)]
            adapt: Adapt,
        }
        let help = Only::command().render_long_help().to_string();
        for recipe in RECIPES {
            assert!(help.contains(recipe.name), "{}", recipe.name);
        }
    }
}
