//! `matchpoint compact`: removes all traces of removed items, and frees their space.

use std::path::PathBuf;
use std::time::Instant;

use serde::Serialize;

use super::exit::Exit;
use super::output::{Output, table};
use crate::config::{EngineFlags, ProcessEnvironment};
use crate::deployment::{DeploymentError, Folder};
use crate::telemetry;
use matchpoint_gallery::params::IndexParams;
use matchpoint_gallery::{Access, Gallery};

/// Rewrite a deployment's items and index without what was removed
///
/// Removed items are never found, and the database overwrites them, but their vectors stay in the file of
/// the index until it is rebuilt, which a server does once a third of them are gone. This does it
/// now, and gives the room of removed items back. Needs room in the deployment's folder for two more copies of the items, or one
/// of the index if that is larger, and that no server serves the deployment.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  matchpoint compact shop
  matchpoint compact shop --json")]
pub(super) struct Compact {
    /// The deployment's folder
    deployment: PathBuf,
    /// Print as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    engine: EngineFlags,
}

#[derive(Serialize)]
struct CompactReport {
    deployment: PathBuf,
    items: usize,
    gallery_digest: String,
    index: String,
    /// The files of items and index.
    bytes_before: u64,
    bytes_after: u64,
    seconds: f64,
}

impl Compact {
    pub(super) fn run(self) -> anyhow::Result<Exit> {
        let engine = self.engine.resolve(&ProcessEnvironment)?;
        telemetry::install_logs(&engine.log, engine.log_json)?;
        let started = Instant::now();
        let params = IndexParams {
            graph_from_items: engine.graph_from_items,
            ..IndexParams::default()
        };
        let folder = Folder::open(&self.deployment)?;
        let file = folder.gallery_file();
        let size = |extension: &str| {
            let file = file.with_extension(extension);
            std::fs::metadata(file).map_or(0, |file| file.len())
        };
        let bytes = || size("db") + size("graph");
        let bytes_before = bytes();
        let gallery =
            Gallery::open(&file, Access::ReadWrite, params).map_err(DeploymentError::from)?;
        folder.check_gallery(gallery.id())?;
        gallery.compact().map_err(DeploymentError::from)?;
        let view = gallery.view();
        // Closed, so that its log is merged into the file.
        drop(gallery);
        let report = CompactReport {
            deployment: self.deployment,
            items: view.len(),
            gallery_digest: view.digest(),
            index: view.index_description(),
            bytes_before,
            bytes_after: bytes(),
            seconds: started.elapsed().as_secs_f64(),
        };
        Output::new(self.json).result(&report, text)?;
        Ok(Exit::Done)
    }
}

fn text(report: &CompactReport) -> String {
    let rows = [
        ("items", report.items.to_string()),
        ("digest", report.gallery_digest.clone()),
        ("index", report.index.clone()),
        (
            "on disk",
            format!(
                "{} bytes, {} before",
                report.bytes_after, report.bytes_before
            ),
        ),
        ("took", format!("{:.2} s", report.seconds)),
    ];
    format!("{}\n{}", report.deployment.display(), table(&rows))
}
