//! `matchpoint verify`: all checksums, what the index misses, and superfluous files.

use std::path::{Path, PathBuf};
use std::time::Instant;

use serde::Serialize;

use super::exit::{Exit, fail};
use super::output::{Output, percent, table};
use crate::config::{EngineFlags, ProcessEnvironment};
use crate::deployment::{DeploymentError, Folder, IndexFindings, missed};
use crate::monitor::check_histories;
use crate::telemetry;
use matchpoint_gallery::params::IndexParams;
use matchpoint_gallery::view::GalleryView;
use matchpoint_gallery::{Access, Gallery, check_images};
use matchpoint_vector::Embedding;

/// Verify a deployment: every checksum, the recall of its index, and files that belong to nothing
///
/// Reads every item, kept image, operating point, recording and cohort and compares them with their checksums, and
/// reads what decisions are judged by (`labels.log`, `growth.log`).
/// Searches for a sample of the items through the index and by comparing with every item. Works
/// beside a running server, and changes nothing.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  matchpoint verify shop
  matchpoint verify shop --sample 5000 --min-recall 0.99 --json")]
pub(super) struct Verify {
    /// The deployment's folder
    deployment: PathBuf,
    /// Items to search for, spread evenly over the gallery
    #[arg(long, value_name = "ITEMS", default_value_t = 1000)]
    sample: usize,
    /// Neighbours to compare, 1 to 1000
    #[arg(short, default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..=1000))]
    k: u16,
    /// End with exit code 65 if the index finds a smaller share of the nearest
    #[arg(long, value_name = "SHARE", default_value_t = 0.0)]
    min_recall: f64,
    /// Print as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    engine: EngineFlags,
}

#[derive(Serialize)]
struct VerifyReport {
    deployment: PathBuf,
    items: usize,
    labels: usize,
    /// Images that are kept.
    images: usize,
    gallery_digest: String,
    operating_points: usize,
    index: String,
    /// Number of candidates that a search in the index keeps; `None` if every search compares with every item.
    candidates: Option<u32>,
    /// Items that are settled in the index.
    settled_items: usize,
    /// Whether the index was taken from its file; otherwise it was built for this check.
    index_file_used: bool,
    index_bytes: usize,
    /// `None` if every search compares with every item.
    recall: Option<Recall>,
    /// Files that belong to nothing, and can be removed while no process writes.
    orphans: Vec<String>,
    /// Damaged files of monitoring that a server has set aside.
    set_aside: Vec<String>,
    seconds: f64,
}

#[derive(Default, Serialize)]
struct Recall {
    searches: usize,
    neighbours: usize,
    missed: usize,
    /// Searches whose nearest item was missed.
    missed_best: usize,
    recall: f64,
}

impl Verify {
    pub(super) fn run(self) -> anyhow::Result<Exit> {
        let engine = self.engine.resolve(&ProcessEnvironment)?;
        telemetry::install_logs(&engine.log, engine.log_json)?;
        if !(0.0..=1.0).contains(&self.min_recall) {
            return Err(fail(Exit::Usage, "--min-recall is a share from 0 to 1"));
        }
        let params = IndexParams {
            graph_from_items: engine.graph_from_items,
            ..IndexParams::default()
        };
        let report = verify(&self.deployment, params, self.sample, usize::from(self.k))?;
        Output::new(self.json).result(&report, text)?;
        let recall = report.recall.as_ref().map_or(1.0, |found| found.recall);
        if recall < self.min_recall {
            let message = format!(
                "the index finds {} of the nearest items, less than {}; run `matchpoint compact`, which rebuilds it",
                percent(recall),
                percent(self.min_recall)
            );
            return Err(fail(Exit::BadData, message));
        }
        Ok(Exit::Done)
    }
}

fn verify(
    path: &Path,
    params: IndexParams,
    sample: usize,
    k: usize,
) -> anyhow::Result<VerifyReport> {
    let started = Instant::now();
    let folder = Folder::open(path)?;
    let gallery = Gallery::open(&folder.gallery_file(), Access::ReadOnly, params)
        .map_err(DeploymentError::from)?;
    folder.check_gallery(gallery.id())?;
    folder.active_operating_point()?;
    let points = folder.operating_points()?;
    for point in &points {
        folder.adjuster(point)?;
        // Operating points from before recordings were kept have none.
        folder.recording(point.id())?;
        if folder.keeps_calibrated_items(point) {
            folder.calibrated_items(point)?;
        }
        folder.calibrated_traffic(point.id())?;
    }
    check_histories(folder.path()).map_err(DeploymentError::from)?;
    let images = check_images(&folder.gallery_file()).map_err(DeploymentError::from)?;
    let view = gallery.view();
    let recall = view
        .is_approximate()
        .then(|| recall(&view, sample, k))
        .transpose()?;
    Ok(VerifyReport {
        deployment: path.to_owned(),
        items: view.len(),
        labels: view.label_count(),
        images,
        gallery_digest: view.digest(),
        operating_points: points.len(),
        index: view.index_description(),
        candidates: view.search_breadth().map(|breadth| breadth.ef),
        settled_items: view.base_items(),
        index_file_used: view.index_is_stored(),
        index_bytes: view.index_bytes(),
        recall,
        orphans: folder.orphans(&points)?,
        set_aside: folder.set_aside()?,
        seconds: started.elapsed().as_secs_f64(),
    })
}

/// Searches for a sample of the items.
#[expect(clippy::cast_precision_loss, reason = "a share of counts")]
fn recall(view: &GalleryView, sample: usize, k: usize) -> anyhow::Result<Recall> {
    let step = view.len().div_ceil(sample.max(1)).max(1);
    let mut recall = Recall::default();
    for (_, vector) in view.items().step_by(step) {
        let query = Embedding::from_unit(vector.to_vec()).map_err(DeploymentError::from)?;
        let IndexFindings {
            neighbours,
            missed,
            missed_best,
        } = missed(view, &query, k).map_err(DeploymentError::from)?;
        recall.searches += 1;
        recall.neighbours += neighbours;
        recall.missed += missed;
        recall.missed_best += usize::from(missed_best);
    }
    recall.recall = 1.0 - recall.missed as f64 / recall.neighbours.max(1) as f64;
    Ok(recall)
}

fn text(report: &VerifyReport) -> String {
    let index = match report.candidates {
        None => "none: every search compares with every item".to_owned(),
        Some(candidates) => format!(
            "{}, {candidates} candidates a search, {} items settled, {} bytes, {}",
            report.index,
            report.settled_items,
            report.index_bytes,
            if report.index_file_used {
                "from its file"
            } else {
                "built for this check: its file is missing, damaged, outgrown or made otherwise"
            }
        ),
    };
    let mut rows = vec![
        (
            "verified",
            format!(
                "record, {} items, {} kept images, {} operating points, in {:.2} s",
                report.items, report.images, report.operating_points, report.seconds
            ),
        ),
        ("digest", report.gallery_digest.clone()),
        ("index", index),
    ];
    if let Some(found) = &report.recall {
        let Recall {
            searches,
            neighbours,
            missed,
            missed_best,
            recall,
        } = found;
        rows.push((
            "recall",
            format!(
                "{} of {neighbours} nearest items in {searches} searches, {missed} missed; the nearest of all missed {missed_best} times",
                percent(*recall)
            ),
        ));
    }
    let orphans = if report.orphans.is_empty() {
        "none".to_owned()
    } else {
        format!("{} (no longer needed)", report.orphans.join(", "))
    };
    rows.push(("orphans", orphans));
    if !report.set_aside.is_empty() {
        let names = report.set_aside.join(", ");
        rows.push((
            "set aside",
            format!("{names} (damaged; look at them, and remove them)"),
        ));
    }
    format!("{}\n{}", report.deployment.display(), table(&rows))
}
