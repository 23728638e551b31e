//! `matchpoint snapshot` and `matchpoint restore`: a deployment in one file, and back.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::backup_served::{self, SnapshotToTake};
use super::exit::Exit;
use super::output::{Output, table};
use super::server_address::{ServerChoice, Which, name_of};
use super::standard_streams::refuse_standard;
use super::steps_shown::StepsShown;
use crate::deployment::{Folder, PackedIndex, SnapshotReport, check_snapshot, restore};

/// Copy a deployment into one file with checksums, also while it is served
///
/// The file is a tar, checked by `tar xf FILE && sha256sum --check SHA256SUMS` too. It holds the record, the items, every operating point with what it was made from, and the
/// cohorts. All of it is verified before it is packed. The model is not in it: keep its folder, or
/// have the same model where the snapshot is restored. Needs room for two copies of the items.
///
/// With --server, the server takes it (below its `data_dir`), and it is fetched, verified and removed there.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  matchpoint snapshot shop backups/shop.snapshot
  matchpoint snapshot shop backups/shop.snapshot --server http://127.0.0.1:50051
  matchpoint snapshot shop backups/shop-$(date +%F).snapshot --json
  matchpoint snapshot shop replicas/shop.snapshot --with-index")]
pub(super) struct Snapshot {
    #[command(flatten)]
    which: Which,
    /// The file to write; there must be none of this name
    archive: PathBuf,
    /// Pack the index too, so that whoever serves a copy opens it in place of building it; it is as large as the
    /// vectors, or larger
    #[arg(long)]
    with_index: bool,
}

/// Make a deployment of a snapshot
///
/// Everything is verified before the deployment gets its name: it is there whole, or not at all.
/// Its operating points decide as they did, with the model that embedded its items.
///
/// With --server, the file is sent there, and served under the new name from then on, if one of its
/// deployments has the model.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  matchpoint restore backups/shop.snapshot shop-again
  matchpoint restore backups/shop.snapshot shop-again --server http://127.0.0.1:50051
  matchpoint restore backups/shop.snapshot --check     # read and verify it, write nothing")]
pub(super) struct Restore {
    /// The snapshot
    archive: PathBuf,
    /// Folder of the new deployment: absent or empty; its name, with --server
    #[arg(required_unless_present = "check", conflicts_with = "check")]
    deployment: Option<PathBuf>,
    #[command(flatten)]
    server: ServerChoice,
    /// Only verify the snapshot
    #[arg(long, conflicts_with = "server")]
    check: bool,
    /// Do nothing if the folder was restored from this very snapshot: for what is started again and again
    #[arg(long, conflicts_with_all = ["check", "server"])]
    if_absent: bool,
    /// Print the outcome as JSON
    #[arg(long)]
    json: bool,
}

impl Snapshot {
    pub(super) fn run(self) -> anyhow::Result<Exit> {
        let Which {
            deployment,
            server,
            json,
        } = self.which;
        refuse_standard(
            &self.archive,
            "a snapshot, which is verified before it has its name,",
        )?;
        if let Some(server) = server.address() {
            let taking = SnapshotToTake {
                deployment: name_of(&deployment)?,
                with_index: self.with_index,
            };
            return backup_served::snapshot(&server, taking, &self.archive, json);
        }
        let folder = Folder::open(&deployment)?;
        let progress = StepsShown::begin("snapshot, MiB")?;
        let step = &mut |done, all| progress.at(done, all);
        let report = folder.take_snapshot(&self.archive, self.with_index, step);
        if let Some(exit) = progress.finish() {
            return Ok(exit);
        }
        Output::new(json).result(&report?, text)?;
        Ok(Exit::Done)
    }
}

/// What verifying a snapshot came to.
#[derive(Serialize)]
struct Checked {
    archive: PathBuf,
    bytes: u64,
    sha256: String,
}

impl Restore {
    pub(super) fn run(self) -> anyhow::Result<Exit> {
        refuse_standard(&self.archive, "a restored snapshot, which is read twice,")?;
        if let (Some(server), Some(name)) = (self.server.address(), &self.deployment) {
            return backup_served::restore(&server, &self.archive, name_of(name)?, self.json);
        }
        let output = Output::new(self.json);
        let progress = StepsShown::begin("restore, MiB")?;
        let Some(into) = &self.deployment else {
            let checked = check_snapshot(&self.archive, &mut |done, all| progress.at(done, all));
            if let Some(exit) = progress.finish() {
                return Ok(exit);
            }
            let (bytes, sha256) = checked?;
            let checked = Checked {
                archive: self.archive,
                bytes,
                sha256,
            };
            output.result(&checked, |checked| {
                let rows = [
                    ("bytes", checked.bytes.to_string()),
                    ("sha256", checked.sha256.clone()),
                ];
                format!("{} is whole\n{}", checked.archive.display(), table(&rows))
            })?;
            return Ok(Exit::Done);
        };
        if self.if_absent && restored_from(into).is_some() {
            let checked = check_snapshot(&self.archive, &mut |done, all| progress.at(done, all));
            let is_it =
                matches!(&checked, Ok((_, sha256)) if restored_from(into).as_ref() == Some(sha256));
            if is_it {
                progress.finish();
                let there = format!(
                    "{} was restored from it before; nothing was done",
                    into.display()
                );
                output.result(&serde_json::json!({ "unchanged": into }), |_| there)?;
                return Ok(Exit::Done);
            }
        }
        let as_recorded = |_: &_| Ok(None);
        let report = restore(&self.archive, into, &as_recorded, &mut |done, all| {
            progress.at(done, all)
        });
        if let Some(exit) = progress.finish() {
            return Ok(exit);
        }
        output.result(&report?, text)?;
        Ok(Exit::Done)
    }
}

/// The snapshot that a folder was restored from; `None` if it was not, or holds no deployment.
fn restored_from(folder: &Path) -> Option<String> {
    Folder::open(folder).ok()?.record().restored_from.clone()
}

fn text(report: &SnapshotReport) -> String {
    let mut rows = vec![
        ("bytes", report.bytes.to_string()),
        ("sha256", report.sha256.clone()),
        ("deployment", report.deployment.clone()),
        (
            "model",
            format!("{}, fingerprint {}", report.model, report.model_fingerprint),
        ),
        (
            "gallery",
            format!("{} items, {} labels", report.items, report.labels),
        ),
        ("digest", report.gallery_digest.clone()),
        ("operating points", report.operating_points.to_string()),
    ];
    let active = report.active_operating_point.clone();
    rows.push(("active", active.unwrap_or_else(|| "none".to_owned())));
    let index = match &report.index {
        PackedIndex::None => {
            "none: it is built when a copy is served, if there are enough items".to_owned()
        }
        PackedIndex::Whole => "there, and that of the items".to_owned(),
        PackedIndex::LeftOut(problem) => {
            format!("left out ({problem}): it is built when a copy is served")
        }
    };
    rows.push(("index", index));
    format!("{}\n{}", report.archive.display(), table(&rows))
}
