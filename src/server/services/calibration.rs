//! `CalibrationService`: makes an operating point from labelled queries while the deployment serves.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use prost::Message;
use prost_types::Any;
use tokio::runtime::{Handle as RuntimeHandle, RuntimeFlavor};
use tokio_stream::StreamExt;
use tonic::{Code, Request, Response, Status, Streaming};

use super::operations::{Handle, OperationOwner, Running, cancelled};
use crate::deployment::{
    self, Deployment, DeploymentError, Gathered, LabelledQuery, MaskedSearches, ProbeSource,
    QueryFailure, QuerySettings, QueryToSearch, RemedyChoice, Timings,
};
use crate::identity::Scope;
use crate::server::access::changes::changed;
use crate::server::messages::calibration_settings::{calibration_settings, labelled_query};
use crate::server::messages::convert::{self, invalid};
use crate::server::messages::doubts;
use crate::server::paced_messages::PacedMessages;
use crate::server::registry::{Registry, shutting_down};
use crate::server::status::{from_error, is_the_fault_of_one, status};
use crate::server::transport::Call;
use matchpoint_client::proto::calibrate_request::Part;
use matchpoint_client::proto::calibration_service_server::CalibrationService;
use matchpoint_client::proto::longrunning::Operation;
use matchpoint_client::proto::{
    CalibrateMetadata, CalibrateRequest, CalibrateResponse, CalibrationSettings, CalibrationStage,
    FailedQuery, LabelledQuery as QueryMessage, Strangers,
};

/// Failed queries that are listed in the metadata.
const FAILED_LISTED_MAX: usize = 100;
/// The highest number of queries in a calibration, which fit in memory with all of their results.
const QUERIES_MAX: usize = 1_000_000;
/// Bytes of an id or a label, as for items.
const NAME_BYTES_MAX: usize = 512;
/// Metadata of a query, as of an item.
const METADATA_ENTRIES_MAX: usize = 64;
const METADATA_BYTES_MAX: usize = 16 << 10;
/// The number of queries of a calibration in progress at once, which is low because searches have priority.
const IN_FLIGHT_MAX: usize = 4;

#[derive(Clone, Debug)]
pub(in crate::server) struct CalibrationHandler {
    pub(in crate::server) registry: Registry,
    pub(in crate::server) running: Running,
}

/// A calibration that is running.
struct CalibrationJob {
    deployment: Arc<Deployment>,
    settings: CalibrationSettings,
    /// The etag of the active operating point when the calibration started.
    etag: String,
    handle: Handle,
    metadata: CalibrateMetadata,
    /// Taken when no more queries are gathered.
    gathered: Option<Gathered>,
    ids: BTreeSet<String>,
}

/// Stops work on other threads when nobody waits for it any more.
struct StopOnDrop(Arc<AtomicBool>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[tonic::async_trait]
impl CalibrationService for CalibrationHandler {
    async fn calibrate(
        &self,
        request: Request<Streaming<CalibrateRequest>>,
    ) -> Result<Response<Operation>, Status> {
        // Not limited by the time limit of a request, because each query is, and the client can cancel.
        let _under_way = self.registry.enter();
        let call = Call::of(&request);
        let registry = self.registry.called_by(&request);
        let mut incoming = request.into_inner();
        let first = tokio::select! {
            first = tokio::time::timeout(self.registry.longest(), incoming.message()) => first,
            () = self.registry.draining() => return Err(shutting_down()),
        };
        let first = first.map_err(|_elapsed| invalid("no settings came in time"))??;
        let Some(Part::Settings(settings)) = first.and_then(|first| first.part) else {
            return Err(invalid("the first message must carry settings"));
        };
        let deployment = registry.find(&settings.deployment)?;
        deployment
            .check_writable()
            .map_err(|error| from_error(&error))?;
        // Checked before any work, because the target may be impossible.
        let chosen = calibration_settings(&settings)?;
        let metadata = CalibrateMetadata {
            deployment: deployment.name().to_owned(),
            stage: CalibrationStage::Searching.into(),
            ..CalibrateMetadata::default()
        };
        let owner = OperationOwner {
            scope: Scope::Calibrate,
            deployment: deployment.name().to_owned(),
        };
        let handle = self
            .running
            .begin(&settings.operation_id, owner, metadata_any(&metadata))?;
        let job = CalibrationJob {
            etag: deployment.folder().etag(),
            gathered: Some(if chosen.remedy == RemedyChoice::None {
                Gathered::of(&deployment)
                    .map_err(|error| from_error(&error))?
                    .searches_only()
            } else {
                Gathered::of(&deployment).map_err(|error| from_error(&error))?
            }),
            deployment,
            settings,
            handle,
            metadata,
            ids: BTreeSet::new(),
        };
        let messages = PacedMessages::new(incoming, &self.registry, call, IN_FLIGHT_MAX);
        let operation = job.run(messages, &registry, chosen);
        Ok(Response::new(operation.await))
    }
}

impl CalibrationJob {
    async fn run(
        mut self,
        incoming: PacedMessages<CalibrateRequest>,
        registry: &Registry,
        chosen: deployment::CalibrationSettings,
    ) -> Operation {
        let result = match self.gather(incoming, registry).await {
            Ok(()) => self.choose(registry, chosen).await,
            Err(status) => Err(status),
        };
        self.metadata.stage = CalibrationStage::Done.into();
        self.handle.progress(metadata_any(&self.metadata));
        self.handle.finish(result)
    }

    async fn gather(
        &mut self,
        incoming: PacedMessages<CalibrateRequest>,
        registry: &Registry,
    ) -> Result<(), Status> {
        if self.settings.gallery_as_queries {
            return self.gather_from_gallery(registry).await;
        }
        let Some(gathered) = self.gathered.take() else {
            return Err(cancelled());
        };
        let deployment = Arc::clone(&self.deployment);
        let uses_cache = !self.settings.without_cache;
        let kept = registry
            .piece(move || uses_cache.then(|| deployment.embedding_cache()).flatten())
            .await?;
        let mut gathered = gathered.with_cache(kept);
        let settings = QuerySettings {
            masked: MaskedSearches::for_threshold(
                self.settings.strangers() == Strangers::All,
                gathered.view().is_approximate(),
            ),
            in_flight_max: IN_FLIGHT_MAX,
        };
        let ids = &mut self.ids;
        let queries = incoming.map(|message| {
            registry.check_identity()?;
            match message.map_err(broken)?.part {
                Some(Part::Query(query)) => query_to_search(query, ids),
                Some(Part::Settings(_)) | None => {
                    Err(invalid("every message after the first must carry a query"))
                }
            }
        });
        let (metadata, handle) = (&mut self.metadata, &self.handle);
        let done = |id: &str, outcome: Result<Timings, QueryFailure>| {
            match outcome {
                Ok(_) => {}
                Err(QueryFailure::Search(error)) if !is_the_fault_of_one(&error) => {
                    return Err(from_error(&error));
                }
                Err(failure) => {
                    metadata.failed_total += 1;
                    if metadata.failed.len() < FAILED_LISTED_MAX {
                        metadata.failed.push(FailedQuery {
                            id: id.to_owned(),
                            reason: failure.to_string(),
                        });
                    }
                }
            }
            metadata.queries_done += 1;
            handle.progress(metadata_any(metadata));
            Ok(())
        };
        let search = gathered.search(&self.deployment, settings, queries, done);
        tokio::select! {
            searched = search => searched?,
            () = self.handle.cancelled() => return Err(cancelled()),
            () = registry.draining() => return Err(shutting_down()),
        }
        self.metadata.queries_total = self.ids.len() as u64;
        self.metadata.embedded_before_total = gathered.embedded_before();
        self.gathered = Some(gathered);
        Ok(())
    }

    async fn gather_from_gallery(&mut self, registry: &Registry) -> Result<(), Status> {
        let deployment = Arc::clone(&self.deployment);
        let (progress, now) = tokio::sync::watch::channel((0, 0));
        let stop = StopOnDrop(Arc::new(AtomicBool::new(false)));
        let stopping = Arc::clone(&stop.0);
        let work = registry.heavy(move || {
            deployment.gather_from_gallery(&|done, total| {
                progress.send_replace((done as u64, total as u64));
                !stopping.load(Ordering::Relaxed)
            })
        });
        let mut tick = tokio::time::interval(std::time::Duration::from_millis(200));
        tokio::pin!(work);
        let gathered = loop {
            tokio::select! {
                done = &mut work => break done,
                _ = tick.tick() => {
                    (self.metadata.queries_done, self.metadata.queries_total) = *now.borrow();
                    self.handle.progress(metadata_any(&self.metadata));
                                        if self.handle.is_cancelled() {
                        return Err(cancelled());
                    }
                }
                () = registry.draining() => return Err(shutting_down()),
            }
        };
        self.gathered = Some(gathered?.map_err(|error| from_error(&error))?);
        (self.metadata.queries_done, self.metadata.queries_total) = *now.borrow();
        Ok(())
    }

    async fn choose(
        &mut self,
        registry: &Registry,
        chosen: deployment::CalibrationSettings,
    ) -> Result<Any, Status> {
        self.metadata.stage = CalibrationStage::Choosing.into();
        self.handle.progress(metadata_any(&self.metadata));
        let Some(mut gathered) = self.gathered.take() else {
            return Err(cancelled());
        };
        // Compares all strangers with each other, and all labels.
        let settle = registry.heavy(move || {
            gathered.settle()?;
            let alike = gathered.alike();
            Ok::<_, DeploymentError>((gathered, alike))
        });
        let (gathered, alike) = settle.await?.map_err(|error| from_error(&error))?;
        doubts::list(&mut self.metadata, &gathered, &alike);
        let deployment = Arc::clone(&self.deployment);
        let validate_only = self.settings.validate_only;
        let calibrating = Arc::clone(&deployment);
        let work = registry.heavy(move || calibrating.calibrate(&gathered, &chosen));
        let calibrated = work.await?.map_err(|error| from_error(&error))?;
        if self.handle.is_cancelled() {
            return Err(cancelled());
        }
        let point = calibrated.point.clone();
        let activation = if validate_only {
            None
        } else {
            let keeping = Arc::clone(&deployment);
            let keep = registry.heavy(move || keeping.keep(&calibrated));
            keep.await?.map_err(|error| from_error(&error))?;
            // There is no await between the last check and the end, so a calibration that is reported as
            // cancelled activates nothing.
            if self.handle.is_cancelled() {
                return Err(cancelled());
            }
            registry.check_identity()?;
            if !registry.loaded()?.serves(&deployment) {
                return Err(replaced(point.id()));
            }
            // It may wait for a store, and so leaves this thread to others, if the runtime has more than one.
            let activate = || deployment.activate(point.id(), Some(&self.etag));
            let now = if RuntimeHandle::current().runtime_flavor() == RuntimeFlavor::MultiThread {
                tokio::task::block_in_place(activate)
            } else {
                activate()
            };
            let now = now.map_err(|error| from_error(&error))?;
            changed(
                registry.identity(),
                "Calibrate",
                deployment.name(),
                point.id(),
            );
            Some(now)
        };
        let response = CalibrateResponse {
            operating_point: Some(convert::operating_point(&point)),
            active: activation.is_some(),
            etag: activation.map(|now| now.etag).unwrap_or_default(),
        };
        Ok(any("CalibrateResponse", &response))
    }
}

/// Checks a query, except its content.
fn query_to_search(
    message: QueryMessage,
    ids: &mut BTreeSet<String>,
) -> Result<QueryToSearch, Status> {
    let number = ids.len();
    if QUERIES_MAX <= number {
        return Err(invalid(&format!(
            "a calibration takes at most {QUERIES_MAX} queries"
        )));
    }
    for (field, text) in [("id", &message.id), ("label", &message.label)] {
        if text.is_empty() || NAME_BYTES_MAX < text.len() {
            let length = text.len();
            return Err(invalid(&format!(
                "query {number}: {field} has {length} bytes; it must have 1 to {NAME_BYTES_MAX}"
            )));
        }
    }
    if !ids.insert(message.id.clone()) {
        let id = &message.id;
        return Err(invalid(&format!(
            "query id `{id}` occurs twice; give every query its own"
        )));
    }
    let metadata = message.metadata.iter();
    let bytes: usize = metadata.map(|(key, value)| key.len() + value.len()).sum();
    if METADATA_ENTRIES_MAX < message.metadata.len() || METADATA_BYTES_MAX < bytes {
        return Err(invalid(&format!(
            "query {number}: metadata may have {METADATA_ENTRIES_MAX} entries and {METADATA_BYTES_MAX} bytes"
        )));
    }
    let source = labelled_query(message.query).map(ProbeSource::Query);
    Ok(QueryToSearch {
        query: LabelledQuery {
            id: message.id,
            label: message.label,
            conditions: message.metadata.into_iter().collect(),
        },
        source: source.map_err(|status| status.message().to_owned()),
    })
}

/// The end of an operation whose deployment is not served any more.
fn replaced(id: &str) -> Status {
    let message = format!(
        "another deployment took the place of this one meanwhile: operating point `{id}` is kept in the folder that was served before, and is not active; calibrate what is served now"
    );
    status(Code::Aborted, "DEPLOYMENT_REPLACED", &message)
}

/// The end of an operation whose stream of queries broke.
fn broken(status: Status) -> Status {
    use Code::{DeadlineExceeded, InvalidArgument, ResourceExhausted};
    // The client can do something about the limit that was reached.
    let is_theirs = matches!(
        status.code(),
        DeadlineExceeded | InvalidArgument | ResourceExhausted
    );
    if is_theirs { status } else { cancelled() }
}

fn metadata_any(metadata: &CalibrateMetadata) -> Any {
    any("CalibrateMetadata", metadata)
}

fn any(name: &str, message: &impl Message) -> Any {
    Any {
        type_url: format!("type.googleapis.com/matchpoint.v1.{name}"),
        value: message.encode_to_vec(),
    }
}
