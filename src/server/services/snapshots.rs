//! `SnapshotService`: takes, stores, transfers and restores snapshots while the server serves.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use prost::Message;
use prost_types::{Any, Timestamp};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Response, Status, Streaming};

use super::operations::{Handle, OperationOwner, Running, cancelled};
use crate::clock::now_rfc_3339;
use crate::config::MonitoringConfig;
use crate::deployment::{
    ArchiveError, DeploymentError, ModelReference, OpenOptions, TemporaryFile, check_snapshot,
    restore,
};
use crate::files::open_file;
use crate::identity::Scope;
use crate::server::access::changes::changed;
use crate::server::access::denied::identity_of;
use crate::server::messages::convert::invalid;
use crate::server::pace::Pace;
use crate::server::registry::{Registry, ServedState, shutting_down};
use crate::server::status::{from_error, status};
use crate::server::transport::Call;
use matchpoint_client::proto::longrunning::Operation;
use matchpoint_client::proto::snapshot_service_server::SnapshotService;
use matchpoint_client::proto::{
    CreateSnapshotRequest, DeleteSnapshotRequest, DeleteSnapshotResponse, ListSnapshotsRequest,
    ListSnapshotsResponse, ReadSnapshotRequest, ReadSnapshotResponse, RestoreSnapshotRequest,
    RestoreSnapshotResponse, Snapshot, SnapshotMetadata, WriteSnapshotRequest,
    WriteSnapshotResponse,
};
use matchpoint_gallery::Access;

const ENDING: &str = ".snapshot";
/// The size of a piece in bytes when a snapshot is read, far below the message limit of any client.
const PIECE: usize = 1 << 20;
/// The number of pieces between the disk and the network.
const PIECES: usize = 1;

#[derive(Clone, Debug)]
pub(in crate::server) struct Snapshots {
    pub(in crate::server) registry: Registry,
    pub(in crate::server) running: Running,
    /// The folder for snapshots and for deployments restored from them.
    pub(in crate::server) data_dir: Option<PathBuf>,
    /// How a restored deployment is monitored.
    pub(in crate::server) monitoring: MonitoringConfig,
    /// Whether the deployments are read-only.
    pub(in crate::server) read_only: bool,
}

/// The folder of snapshots below `data_dir`.
fn snapshots(data_dir: &Path) -> PathBuf {
    data_dir.join("snapshots")
}

/// The folder of restored deployments below `data_dir`. Each is served under the name of its folder.
pub(in crate::server) fn deployments(data_dir: &Path) -> PathBuf {
    data_dir.join("deployments")
}

impl Snapshots {
    /// The same, for the caller of a request.
    fn called_by<T>(&self, request: &Request<T>) -> Self {
        Self {
            registry: self.registry.called_by(request),
            running: self.running.called_by(request),
            ..self.clone()
        }
    }

    fn data_dir(&self) -> Result<&Path, Status> {
        self.data_dir.as_deref().ok_or_else(|| {
            let message = "this server keeps no snapshots: it was started without data_dir";
            status(Code::FailedPrecondition, "DATA_DIR_MISSING", message)
        })
    }

    /// The path of a snapshot.
    fn place(&self, id: &str) -> Result<PathBuf, Status> {
        let folder = snapshots(self.data_dir()?);
        check_name("snapshot_id", id)?;
        Ok(folder.join(format!("{id}{ENDING}")))
    }

    fn existing(&self, id: &str) -> Result<PathBuf, Status> {
        let path = self.place(id)?;
        if path.is_file() {
            return Ok(path);
        }
        let message = format!("there is no snapshot `{id}`");
        Err(status(Code::NotFound, "SNAPSHOT_NOT_FOUND", &message))
    }

    fn absent(&self, id: &str) -> Result<PathBuf, Status> {
        let path = self.place(id)?;
        if path.symlink_metadata().is_ok() {
            return Err(exists(&path));
        }
        let folder = path.parent().unwrap_or(&path);
        fs::create_dir_all(folder).map_err(|cause| failed(folder, &cause))?;
        Ok(path)
    }

    fn list(&self) -> Result<ListSnapshotsResponse, Status> {
        let folder = snapshots(self.data_dir()?);
        let entries = match fs::read_dir(&folder) {
            Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => {
                return Ok(ListSnapshotsResponse::default());
            }
            entries => entries.map_err(|cause| failed(&folder, &cause))?,
        };
        let mut found: Vec<Snapshot> = entries
            .filter_map(|entry| about(&entry.ok()?.path()))
            .collect();
        found.sort_unstable_by(|a, b| a.id.cmp(&b.id));
        Ok(ListSnapshotsResponse { snapshots: found })
    }

    fn create(&self, request: CreateSnapshotRequest) -> Result<Operation, Status> {
        let deployment = self.registry.find(&request.deployment)?;
        let id = if request.snapshot_id.is_empty() {
            let time: String = now_rfc_3339().replace([':', '-'], "");
            let name: String = deployment.name().chars().take(40).collect();
            let id = format!("{name}-{time}");
            id.trim_start_matches('-').to_owned()
        } else {
            request.snapshot_id
        };
        let path = self.absent(&id)?;
        let metadata = SnapshotMetadata {
            deployment: deployment.name().to_owned(),
            snapshot_id: id,
            ..SnapshotMetadata::default()
        };
        let identity = self.registry.identity().clone();
        self.begin(&request.operation_id, metadata, move |job| {
            let taken =
                deployment
                    .folder()
                    .take_snapshot(&path, request.with_index, &mut |done, all| {
                        job.step(done, all)
                    });
            taken.map_err(|error| stopped(&error))?;
            let snapshot = about(&path).unwrap_or_default();
            changed(&identity, "CreateSnapshot", deployment.name(), &snapshot.id);
            Ok(any("Snapshot", &snapshot))
        })
    }

    fn restore(&self, request: RestoreSnapshotRequest) -> Result<Operation, Status> {
        if self.read_only {
            let message = "the server is read-only: nothing is restored over gRPC; use `matchpoint restore` on its machine";
            return Err(status(
                Code::FailedPrecondition,
                "GALLERY_READ_ONLY",
                message,
            ));
        }
        check_name("deployment", &request.deployment)?;
        check_ending(&request.deployment)?;
        let archive = self.existing(&request.snapshot_id)?;
        let into = deployments(self.data_dir()?).join(&request.deployment);
        let name = request.deployment;
        let exists = || {
            let message = format!("there is a deployment `{name}` already; choose another name");
            Err(status(Code::AlreadyExists, "DEPLOYMENT_EXISTS", &message))
        };
        let loaded = self.registry.loaded()?;
        if loaded.deployments.contains_key(&name) || into.symlink_metadata().is_ok() {
            return exists();
        }
        let metadata = SnapshotMetadata {
            deployment: name.clone(),
            snapshot_id: request.snapshot_id.clone(),
            ..SnapshotMetadata::default()
        };
        let snapshot_id = request.snapshot_id;
        let (registry, monitoring) = (self.registry.clone(), self.monitoring.clone());
        self.begin(&request.operation_id, metadata, move |job| {
            let trusted = |model: &ModelReference| trusted_folder(model, &loaded);
            restore(&archive, &into, &trusted, &mut |done, all| {
                job.step(done, all)
            })
            .map_err(|error| stopped(&error))?;
            let options = OpenOptions {
                name: Some(name.clone()),
                ..OpenOptions::recorded(Access::ReadWrite)
            };
            let deployment = loaded.opened(&into, options).map_err(|error| {
                // A deployment that cannot be served must not stay, or the next start would fail.
                drop(fs::remove_dir_all(&into));
                from_error(&error)
            })?;
            let (state, active) = (deployment.view(), deployment.active_point());
            let response = RestoreSnapshotResponse {
                deployment: name,
                items: state.len() as u64,
                labels: state.label_count() as u64,
                operating_point_id: active
                    .valid()
                    .map(|point| point.id().to_owned())
                    .unwrap_or_default(),
            };
            deployment
                .keep_up(&monitoring)
                .map_err(|error| from_error(&error))?;
            deployment.publish(None);
            registry.add(deployment, &into)?;
            let identity = registry.identity();
            changed(
                identity,
                "RestoreSnapshot",
                &response.deployment,
                &snapshot_id,
            );
            Ok(any("RestoreSnapshotResponse", &response))
        })
    }

    /// Starts an operation whose work reads and writes for a long time.
    fn begin(
        &self,
        operation_id: &str,
        metadata: SnapshotMetadata,
        work: impl FnOnce(&mut Job) -> Result<Any, Status> + Send + 'static,
    ) -> Result<Operation, Status> {
        let owner = OperationOwner {
            scope: Scope::Admin,
            deployment: metadata.deployment.clone(),
        };
        let handle = self
            .running
            .begin(operation_id, owner, any("SnapshotMetadata", &metadata))?;
        let begun = handle.operation();
        let (under_way, registry) = (self.registry.enter(), self.registry.clone());
        let mut job = Job {
            handle,
            metadata,
            registry: registry.clone(),
        };
        tokio::spawn(async move {
            let _under_way = under_way;
            let running = registry.heavy(move || {
                let result = work(&mut job);
                job.handle.finish(result);
            });
            // A panic has ended the operation as cancelled, and is in the log.
            drop(running.await);
        });
        Ok(begun)
    }

    fn read(
        &self,
        id: &str,
        call: Option<Arc<Call>>,
    ) -> Result<ReceiverStream<Result<ReadSnapshotResponse, Status>>, Status> {
        let path = self.existing(id)?;
        let file = Arc::new(open_file(&path).map_err(|cause| failed(&path, &cause))?);
        let (pieces, outgoing) = mpsc::channel(PIECES);
        let (under_way, registry) = (self.registry.enter(), self.registry.clone());
        let read = async move {
            let _under_way = under_way;
            loop {
                let file = Arc::clone(&file);
                let piece = registry.piece(move || read_piece(&file)).await;
                let answer = match piece {
                    Ok(Ok(data)) if data.is_empty() => return,
                    Ok(Ok(data)) => Ok(ReadSnapshotResponse { data }),
                    Ok(Err(cause)) => Err(failed(&path, &cause)),
                    Err(status) => Err(status),
                };
                let answer = answer.and_then(|answer| {
                    let room = call.as_ref();
                    room.map_or(Ok(()), |call| call.make_room(answer.encoded_len() as u64))?;
                    Ok(answer)
                });
                let ends = answer.is_err();
                // The client may have disconnected.
                if pieces.send(answer).await.is_err() || ends {
                    return;
                }
            }
        };
        tokio::spawn(read);
        Ok(ReceiverStream::new(outgoing))
    }

    async fn write(
        &self,
        mut incoming: Streaming<WriteSnapshotRequest>,
        call: Option<Arc<Call>>,
    ) -> Result<WriteSnapshotResponse, Status> {
        let mut pace = self.registry.pace();
        let first = self.next_piece(&mut incoming, &mut pace).await?;
        let first = first.ok_or_else(|| invalid("the first message must carry snapshot_id"))?;
        let path = self.absent(&first.snapshot_id)?;
        let named = path.clone();
        let upload = self
            .registry
            .piece(move || TemporaryFile::new(&named))
            .await?;
        let mut upload = upload.map_err(|cause| unwritten(&path, &cause))?;
        let mut piece = Some(first.data);
        while let Some(data) = piece {
            // Reserved until it is written.
            let received = call.as_ref().map(|call| call.take_received());
            let write = move || {
                upload.file().write_all(&data)?;
                Ok(upload)
            };
            let written = self.registry.piece(write).await?;
            upload = written.map_err(|cause| unwritten(&path, &cause))?;
            drop(received);
            let next = self.next_piece(&mut incoming, &mut pace).await?;
            piece = next.map(|next| next.data);
        }
        // Only a stream that ended regularly is a complete snapshot.
        let named = path.clone();
        self.registry.heavy(move || keep(upload, &named)).await??;
        Ok(WriteSnapshotResponse {
            snapshot: about(&path),
        })
    }

    /// The next message of an upload. No place is occupied while waiting for it.
    async fn next_piece(
        &self,
        incoming: &mut Streaming<WriteSnapshotRequest>,
        pace: &mut Pace,
    ) -> Result<Option<WriteSnapshotRequest>, Status> {
        let since = Instant::now();
        let next = tokio::select! {
            next = tokio::time::timeout(pace.left(), incoming.message()) => next,
            () = self.registry.draining() => return Err(shutting_down()),
        };
        let next =
            next.map_err(|_elapsed| self.registry.stalled("the next part of the snapshot"))??;
        pace.waited(since.elapsed());
        if let Some(next) = &next {
            pace.moved(next.data.len() as u64);
        }
        Ok(next)
    }
}

/// Reads the next piece of a file; empty at its end.
fn read_piece(file: &File) -> std::io::Result<Vec<u8>> {
    let mut data = Vec::new();
    file.take(PIECE as u64).read_to_end(&mut data)?;
    Ok(data)
}

/// The model folder for a snapshot, which must be one that this server has opened for another deployment,
/// because paths in a snapshot are not trusted.
fn trusted_folder(
    model: &ModelReference,
    loaded: &ServedState,
) -> Result<Option<PathBuf>, DeploymentError> {
    if model.vectors.is_some() {
        return Ok(None);
    }
    let models = loaded.models()?;
    let folder = models.folder_of(&model.fingerprint).map(Path::to_owned);
    folder
        .map(Some)
        .ok_or_else(|| DeploymentError::ModelNotServed {
            name: model.name.clone(),
            fingerprint: model.fingerprint.clone(),
        })
}

/// Verifies an upload and publishes it under its name.
fn keep(upload: TemporaryFile, path: &Path) -> Result<(), Status> {
    check_snapshot(upload.path(), &mut |_, _| ControlFlow::Continue(()))
        .map_err(|error| refused_upload(&error))?;
    upload
        .publish(path)
        .map_err(|cause| unwritten(path, &cause))
}

/// The answer if an upload cannot be stored.
fn unwritten(path: &Path, cause: &std::io::Error) -> Status {
    if cause.kind() == std::io::ErrorKind::AlreadyExists {
        return exists(path);
    }
    failed(path, cause)
}

/// The answer to an upload that is not a valid snapshot. Nothing that is stored here is damaged.
fn refused_upload(error: &DeploymentError) -> Status {
    let DeploymentError::Archive(ArchiveError::Refused { problem, .. }) = error else {
        return from_error(error);
    };
    tracing::info!(problem, "an uploaded snapshot was refused");
    let message = format!("what was sent {problem}");
    status(Code::InvalidArgument, "SNAPSHOT_DAMAGED", &message)
}

/// The answer if a snapshot with that name exists.
fn exists(path: &Path) -> Status {
    let id = path.file_stem().unwrap_or_default().display();
    let message = format!("there is a snapshot `{id}` already; choose another id");
    status(Code::AlreadyExists, "SNAPSHOT_EXISTS", &message)
}

/// A running operation with a snapshot.
struct Job {
    handle: Handle,
    metadata: SnapshotMetadata,
    registry: Registry,
}

impl Job {
    /// Reports progress; returns whether to continue.
    fn step(&mut self, done: u64, all: u64) -> ControlFlow<()> {
        self.metadata.done_bytes = done;
        self.metadata.total_bytes = all;
        self.handle
            .progress(any("SnapshotMetadata", &self.metadata));
        if self.handle.is_cancelled() || self.registry.is_stopping() {
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    }
}

/// The status of an operation that failed or was stopped.
fn stopped(error: &DeploymentError) -> Status {
    if let DeploymentError::Archive(ArchiveError::Cancelled) = error {
        return cancelled();
    }
    from_error(error)
}

/// The description of a snapshot file; `None` if it is not one.
fn about(path: &Path) -> Option<Snapshot> {
    let metadata = fs::metadata(path).ok().filter(fs::Metadata::is_file)?;
    let id = path.file_name()?.to_str()?.strip_suffix(ENDING)?;
    Some(Snapshot {
        id: id.to_owned(),
        bytes: metadata.len(),
        create_time: metadata.modified().ok().map(Timestamp::from),
    })
}

fn check_name(field: &str, name: &str) -> Result<(), Status> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    // A leading dot would hide it, and a leading dash looks like a flag to shell commands.
    let fits = (1..=64).contains(&name.len()) && !name.starts_with(['.', '-']);
    if fits && name.chars().all(allowed) {
        return Ok(());
    }
    Err(invalid(&format!(
        "{field} must be 1 to 64 letters, digits, `-`, `_` or `.`, and not begin with `-` or `.`"
    )))
}

/// Refuses names that `switch` and `shadow` give to links next to a deployment, because such a folder would be
/// mistaken for another deployment's earlier one.
fn check_ending(name: &str) -> Result<(), Status> {
    match [".previous", ".shadow", ".new"]
        .iter()
        .find(|ending| name.ends_with(**ending))
    {
        None => Ok(()),
        Some(ending) => Err(invalid(&format!(
            "deployment must not end with `{ending}`, which links beside deployments do"
        ))),
    }
}

fn failed(path: &Path, cause: &std::io::Error) -> Status {
    tracing::error!(path = %path.display(), %cause, "a snapshot failed");
    if cause.kind() == std::io::ErrorKind::StorageFull {
        let message = "the disk of the snapshots is full; nothing was written";
        return status(Code::ResourceExhausted, "DISK_FULL", message);
    }
    status(
        Code::Internal,
        "INTERNAL",
        "the snapshot failed; the server's log has the cause",
    )
}

fn any(message: &str, value: &impl Message) -> Any {
    Any {
        type_url: format!("type.googleapis.com/matchpoint.v1.{message}"),
        value: value.encode_to_vec(),
    }
}

#[tonic::async_trait]
impl SnapshotService for Snapshots {
    async fn create_snapshot(
        &self,
        request: Request<CreateSnapshotRequest>,
    ) -> Result<Response<Operation>, Status> {
        let service = self.called_by(&request);
        let work = async { service.create(request.into_inner()) };
        let begun = self.registry.call("CreateSnapshot", work).await;
        begun.map(Response::new)
    }

    async fn list_snapshots(
        &self,
        _request: Request<ListSnapshotsRequest>,
    ) -> Result<Response<ListSnapshotsResponse>, Status> {
        let work = async { self.list() };
        let listed = self.registry.call("ListSnapshots", work).await;
        listed.map(Response::new)
    }

    type ReadSnapshotStream = ReceiverStream<Result<ReadSnapshotResponse, Status>>;

    async fn read_snapshot(
        &self,
        request: Request<ReadSnapshotRequest>,
    ) -> Result<Response<Self::ReadSnapshotStream>, Status> {
        let call = Call::of(&request);
        let id = &request.get_ref().snapshot_id;
        let work = async {
            let reading = self.read(id, call)?;
            // Nothing changes, but the whole deployment leaves the machine, so it is logged.
            changed(&identity_of(&request), "ReadSnapshot", "", id);
            Ok(reading)
        };
        let reading = self.registry.call("ReadSnapshot", work).await;
        reading.map(Response::new)
    }

    async fn write_snapshot(
        &self,
        request: Request<Streaming<WriteSnapshotRequest>>,
    ) -> Result<Response<WriteSnapshotResponse>, Status> {
        // Limited by the pace of its messages, and not by the time limit of a request.
        let _under_way = self.registry.enter();
        let (call, identity) = (Call::of(&request), identity_of(&request));
        let written = self.write(request.into_inner(), call).await?;
        if let Some(snapshot) = &written.snapshot {
            changed(&identity, "WriteSnapshot", "", &snapshot.id);
        }
        Ok(Response::new(written))
    }

    async fn delete_snapshot(
        &self,
        request: Request<DeleteSnapshotRequest>,
    ) -> Result<Response<DeleteSnapshotResponse>, Status> {
        let work = async {
            let id = &request.get_ref().snapshot_id;
            let path = self.existing(id)?;
            fs::remove_file(&path).map_err(|cause| failed(&path, &cause))?;
            changed(&identity_of(&request), "DeleteSnapshot", "", id);
            Ok(DeleteSnapshotResponse {})
        };
        let deleted = self.registry.call("DeleteSnapshot", work).await;
        deleted.map(Response::new)
    }

    async fn restore_snapshot(
        &self,
        request: Request<RestoreSnapshotRequest>,
    ) -> Result<Response<Operation>, Status> {
        let service = self.called_by(&request);
        let work = async { service.restore(request.into_inner()) };
        let begun = self.registry.call("RestoreSnapshot", work).await;
        begun.map(Response::new)
    }
}
