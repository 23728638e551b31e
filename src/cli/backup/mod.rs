//! `matchpoint snapshot` and `matchpoint restore`: a deployment in one file, and back.

mod archive_place;
mod served;

use std::path::{Path, PathBuf};

use anyhow::Context;
use serde::Serialize;

use self::archive_place::{FetchedArchive, publish_archive};
use self::served::SnapshotToTake;
use crate::cli::exit::Exit;
use crate::cli::output::steps_shown::StepsShown;
use crate::cli::output::{Output, table};
use crate::cli::server_address::{ServerChoice, Which, name_of};
use crate::cli::standard_streams::refuse_standard;
use crate::deployment::{Folder, PackedIndex, SnapshotReport, check_snapshot, restore};
use matchpoint_stores::{FilePlace, StoreError, version};

/// Copy a deployment into one file with checksums, also while it is served
///
/// The file is a tar, checked by `tar xf FILE && sha256sum --check SHA256SUMS` too. It holds the record, the items, every operating point with what it was made from, and the
/// cohorts. All of it is verified before it is packed. The model is not in it: keep its folder, or
/// have the same model where the snapshot is restored. Needs room for two copies of the items.
///
/// With --server, the server takes it (below its `data_dir`), and it is fetched, verified and removed there.
///
/// In place of a file, the address of an object in a store does: `s3://BUCKET/KEY`, `gs://BUCKET/KEY`,
/// `az://CONTAINER/KEY`. Credentials come from the environment, as the stores' own tools take them. It is packed
/// below TMPDIR first.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  matchpoint snapshot shop backups/shop.snapshot
  matchpoint snapshot shop backups/shop.snapshot --server http://127.0.0.1:50051
  matchpoint snapshot shop backups/shop-$(date +%F).snapshot --json
  matchpoint snapshot shop replicas/shop.snapshot --with-index
  matchpoint snapshot shop s3://bucket/shop.snapshot --with-index")]
pub(crate) struct Snapshot {
    #[command(flatten)]
    which: Which,
    /// The file or object to write; there must be none of this name
    archive: PathBuf,
    /// Pack the index too, so that whoever serves a copy opens it in place of building it; it is as large as the
    /// vectors, or larger
    #[arg(long)]
    with_index: bool,
}

/// Make a deployment of a snapshot
///
/// Everything is verified before the deployment gets its name: it is there whole, or not at all.
/// Its operating points decide by the same thresholds, with the model that embedded its items.
///
/// With --server, the file is sent there, and served under the new name from then on, if one of its
/// deployments has the model.
///
/// In place of a file, the address of an object in a store does, as for `snapshot`. It is fetched to beside the new deployment first.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  matchpoint restore backups/shop.snapshot shop-again
  matchpoint restore backups/shop.snapshot shop-again --server http://127.0.0.1:50051
  matchpoint restore s3://bucket/shop.snapshot shop-again
  matchpoint restore backups/shop.snapshot --check     # read and verify it, write nothing")]
pub(crate) struct Restore {
    /// The snapshot: a file, or an object
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
    pub(crate) fn run(self) -> anyhow::Result<Exit> {
        let Which {
            deployment,
            server,
            json,
        } = self.which;
        refuse_standard(
            &self.archive,
            "a snapshot, which is verified before it has its name,",
        )?;
        let place = FilePlace::parse(&self.archive).map_err(StoreError::from)?;
        if let Some(server) = server.address() {
            let taking = SnapshotToTake {
                deployment: name_of(&deployment)?,
                with_index: self.with_index,
            };
            return served::snapshot(&server, taking, &place, json);
        }
        let folder = Folder::open(&deployment)?;
        let progress = StepsShown::begin("snapshot, MiB")?;
        let mut step = |done, all| progress.at(done, all);
        let report = match &place {
            FilePlace::File(archive) => folder
                .take_snapshot(archive, self.with_index, &mut step)
                .map_err(anyhow::Error::from),
            FilePlace::Object(address) => publish_archive(address, &mut step, |archive, step| {
                let report = folder.take_snapshot(archive, self.with_index, step)?;
                let sha256 = report.sha256.clone();
                Ok((report.called(self.archive.clone()), sha256))
            }),
        };
        if let Some(exit) = progress.finish() {
            return Ok(exit);
        }
        Output::new(json).result(&report?, text)?;
        Ok(Exit::Done)
    }
}

/// The result of verifying a snapshot.
#[derive(Serialize)]
struct Checked {
    archive: PathBuf,
    bytes: u64,
    sha256: String,
}

impl Restore {
    pub(crate) fn run(self) -> anyhow::Result<Exit> {
        refuse_standard(&self.archive, "a restored snapshot, which is read twice,")?;
        let output = Output::new(self.json);
        match FilePlace::parse(&self.archive).map_err(StoreError::from)? {
            FilePlace::File(archive) => self.restore_file(&archive),
            FilePlace::Object(address) => {
                // Without fetching it, if its version identifies it.
                if self.if_absent && self.is_there(&version(&address)?) {
                    return self.say_unchanged(&output);
                }
                let beside = self.deployment.as_deref();
                let beside = beside.filter(|_| self.server.address().is_none());
                let progress = StepsShown::begin("fetch, MiB")?;
                let fetched = FetchedArchive::fetch(&address, beside, &mut |done, all| {
                    progress.at(done, all)
                });
                if let Some(exit) = progress.finish() {
                    return Ok(exit);
                }
                let fetched = fetched?;
                self.restore_file(fetched.path())
                    .with_context(|| address.to_string())
            }
        }
    }

    /// Whether the folder was restored from the snapshot of this SHA-256.
    fn is_there(&self, sha256: &str) -> bool {
        let folder = self.deployment.as_deref();
        folder
            .and_then(restored_from)
            .is_some_and(|from| from == sha256)
    }

    fn restore_file(&self, archive: &Path) -> anyhow::Result<Exit> {
        if let (Some(server), Some(name)) = (self.server.address(), &self.deployment) {
            return served::restore(&server, archive, name_of(name)?, self.json);
        }
        let output = Output::new(self.json);
        let progress = StepsShown::begin("restore, MiB")?;
        let Some(into) = &self.deployment else {
            let checked = check_snapshot(archive, &mut |done, all| progress.at(done, all));
            if let Some(exit) = progress.finish() {
                return Ok(exit);
            }
            let (bytes, sha256) = checked?;
            let checked = Checked {
                archive: self.archive.clone(),
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
            let checked = check_snapshot(archive, &mut |done, all| progress.at(done, all));
            if matches!(&checked, Ok((_, sha256)) if self.is_there(sha256)) {
                progress.finish();
                return self.say_unchanged(&output);
            }
        }
        let as_recorded = |_: &_| Ok(None);
        let report = restore(archive, into, &as_recorded, &mut |done, all| {
            progress.at(done, all)
        });
        if let Some(exit) = progress.finish() {
            return Ok(exit);
        }
        output.result(&report?.called(self.archive.clone()), text)?;
        Ok(Exit::Done)
    }

    fn say_unchanged(&self, output: &Output) -> anyhow::Result<Exit> {
        let folder = self.deployment.as_deref().unwrap_or(Path::new(""));
        let there = format!(
            "{} was restored from it before; nothing was done",
            folder.display()
        );
        output.result(&serde_json::json!({ "unchanged": folder }), |_| there)?;
        Ok(Exit::Done)
    }
}

/// The snapshot that a folder was restored from; `None` if it was not restored, or holds no deployment.
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
