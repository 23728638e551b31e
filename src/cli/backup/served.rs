//! `matchpoint snapshot --server` and `matchpoint restore --server`: a deployment out of a running server, and into
//! one.

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde::Serialize;

use crate::cli::exit::{Exit, fail};
use crate::cli::output::steps_shown::StepsShown;
use crate::cli::output::{Output, table};
use crate::cli::runtime::single_threaded;
use crate::cli::server_address::ServerAddress;
use crate::deployment::{ArchiveError, DeploymentError, TemporaryFile, check_snapshot};
use matchpoint_client::Client;
use matchpoint_client::proto::RestoreSnapshotResponse;
use matchpoint_stores::FilePlace;

/// Bytes of one message: far below what servers take.
const PIECE: usize = 1 << 20;

/// A snapshot that a server took, and that is a file here.
#[derive(Serialize)]
struct FetchedSnapshot {
    archive: PathBuf,
    bytes: u64,
    sha256: String,
    deployment: String,
}

/// The snapshot that a server should take.
#[derive(Clone, Copy)]
pub(crate) struct SnapshotToTake<'a> {
    pub(crate) deployment: &'a str,
    pub(crate) with_index: bool,
}

/// Has the server take a snapshot, and writes it to a file here, which is verified. Nothing stays on the
/// server.
pub(crate) fn snapshot(
    server: &ServerAddress,
    taking: SnapshotToTake<'_>,
    place: &FilePlace,
    json: bool,
) -> anyhow::Result<Exit> {
    let SnapshotToTake {
        deployment,
        with_index,
    } = taking;
    let FilePlace::File(archive) = place else {
        let message = "a server's snapshot comes to a file: give one, and copy it by the store's own tool; or take it where the folder is, which works beside the server";
        return Err(fail(Exit::Usage, message));
    };
    if archive.symlink_metadata().is_ok() {
        let exists = ArchiveError::Exists(archive.to_owned());
        return Err(DeploymentError::from(exists).into());
    }
    // Checked before the work: whether it can be written.
    let mut file = TemporaryFile::new(archive)
        .with_context(|| format!("cannot write {}", archive.display()))?;
    let progress = StepsShown::begin("snapshot, MiB")?;
    let fetched = single_threaded()?.block_on(async {
        let client = server.connect().await?;
        let mut step = |done, all| progress.at(done, all);
        let taken = client
            .create_snapshot(deployment, with_index, &mut step)
            .await?;
        let fetched = fetch(&client, &taken.id, &progress, &mut file).await;
        // The server does not need it any more, fetched or not.
        let removed = client.delete_snapshot(&taken.id).await;
        fetched?;
        Ok::<_, anyhow::Error>(removed?)
    });
    let checked = fetched.and_then(|()| {
        Ok(check_snapshot(file.path(), &mut |done, all| {
            progress.at(done, all)
        })?)
    });
    if let Some(exit) = progress.finish() {
        return Ok(exit);
    }
    let (bytes, sha256) = checked?;
    file.publish(archive)
        .with_context(|| format!("cannot write {}", archive.display()))?;
    let fetched = FetchedSnapshot {
        archive: archive.to_owned(),
        bytes,
        sha256,
        deployment: deployment.to_owned(),
    };
    Output::new(json).result(&fetched, |fetched| {
        let rows = [
            ("bytes", fetched.bytes.to_string()),
            ("sha256", fetched.sha256.clone()),
            ("deployment", fetched.deployment.clone()),
        ];
        format!("{}\n{}", fetched.archive.display(), table(&rows))
    })?;
    Ok(Exit::Done)
}

async fn fetch(
    client: &Client,
    id: &str,
    progress: &StepsShown,
    file: &mut TemporaryFile,
) -> anyhow::Result<()> {
    let mut pieces = client.read_snapshot(id).await?;
    let mut done = 0;
    while let Some(piece) = pieces.next().await? {
        file.file().write_all(&piece)?;
        done += piece.len() as u64;
        if progress.at(done, 0).is_break() {
            return Err(fail(Exit::Interrupted, "interrupted"));
        }
    }
    Ok(())
}

/// Sends a snapshot to the server, and has it serve what is in it under a new name.
pub(crate) fn restore(
    server: &ServerAddress,
    archive: &Path,
    name: &str,
    json: bool,
) -> anyhow::Result<Exit> {
    let progress = StepsShown::begin("restore, MiB")?;
    // A damaged snapshot is not sent.
    let checked = check_snapshot(archive, &mut |done, all| progress.at(done, all));
    let restored = checked.map_err(anyhow::Error::from).and_then(|_whole| {
        let mut file = File::open(archive)?;
        single_threaded()?.block_on(async {
            let client = server.connect().await?;
            let id = format!("restore-{}", uuid::Uuid::now_v7());
            // The server refuses a snapshot that ends early.
            let pieces = std::iter::from_fn(move || {
                let mut piece = Vec::with_capacity(PIECE);
                let read = Read::by_ref(&mut file)
                    .take(PIECE as u64)
                    .read_to_end(&mut piece);
                read.is_ok_and(|bytes| 0 < bytes).then_some(piece)
            });
            client
                .write_snapshot(&id, tokio_stream::iter(pieces))
                .await?;
            let mut step = |done, all| progress.at(done, all);
            let restored = client.restore_snapshot(&id, name, &mut step).await;
            let removed = client.delete_snapshot(&id).await;
            let restored = restored?;
            removed?;
            anyhow::Ok(restored)
        })
    });
    if let Some(exit) = progress.finish() {
        return Ok(exit);
    }
    let restored = RestoredService::from(restored?);
    Output::new(json).result(&restored, |restored| {
        let active = match restored.operating_point.as_deref() {
            Some(id) => format!("{id} decides"),
            None => "nothing is accepted: there is no valid operating point".to_owned(),
        };
        format!(
            "{} is served: {} items of {} labels; {active}\n",
            restored.deployment, restored.items, restored.labels
        )
    })?;
    Ok(Exit::Done)
}

/// What a server serves under a new name.
#[derive(Serialize)]
struct RestoredService {
    deployment: String,
    items: u64,
    labels: u64,
    operating_point: Option<String>,
}

impl From<RestoreSnapshotResponse> for RestoredService {
    fn from(answer: RestoreSnapshotResponse) -> Self {
        Self {
            deployment: answer.deployment,
            items: answer.items,
            labels: answer.labels,
            operating_point: Some(answer.operating_point_id).filter(|id| !id.is_empty()),
        }
    }
}
