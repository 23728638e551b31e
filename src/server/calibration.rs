//! `CalibrationService`: from labelled queries to an operating point, while the deployment serves.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use prost::Message;
use prost_types::Any;
use tokio::task::JoinSet;
use tonic::{Request, Response, Status, Streaming};

use super::convert::{self, invalid};
use super::operations::{Handle, Running, cancelled};
use super::proto::calibrate_request::Part;
use super::proto::calibration_service_server::CalibrationService;
use super::proto::longrunning::Operation;
use super::proto::{
    CalibrateMetadata, CalibrateRequest, CalibrateResponse, CalibrationSettings, CalibrationStage,
    FailedQuery, LabelledQuery as QueryMessage, Strangers,
};
use super::registry::Registry;
use super::status::{from_error, is_the_fault_of_one};
use crate::deployment::{
    self, Deployment, DeploymentError, Gathered, LabelledQuery, ProbeRequest, ProbeSource, Probed,
};

/// Failed queries that the metadata lists.
const FAILED_LISTED_MAX: usize = 100;
/// Queries of one calibration: what fits in memory with all that they found.
const QUERIES_MAX: usize = 1_000_000;
/// Bytes of an id or a label, as for items.
const NAME_BYTES_MAX: usize = 512;

#[derive(Clone, Debug)]
pub(super) struct Calibration {
    pub(super) registry: Registry,
    pub(super) running: Running,
    pub(super) in_flight_max: usize,
}

/// One calibration under way.
struct Job {
    deployment: Arc<Deployment>,
    settings: CalibrationSettings,
    labels: BTreeSet<String>,
    handle: Handle,
    metadata: CalibrateMetadata,
    gathered: Gathered,
    ids: BTreeSet<String>,
}

/// Ends work on other threads when nobody waits for it any more.
struct StopOnDrop(Arc<AtomicBool>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

type Answered = (LabelledQuery, bool, Result<Probed, DeploymentError>);

#[tonic::async_trait]
impl CalibrationService for Calibration {
    async fn calibrate(
        &self,
        request: Request<Streaming<CalibrateRequest>>,
    ) -> Result<Response<Operation>, Status> {
        // Not bound by the time of a request: each query is, and the client can cancel.
        let _under_way = self.registry.enter();
        let mut incoming = request.into_inner();
        let first = incoming.message().await?.and_then(|first| first.part);
        let Some(Part::Settings(settings)) = first else {
            return Err(invalid("the first message must carry settings"));
        };
        let deployment = self.registry.find(&settings.deployment)?;
        // Before any work: a target that is no target.
        let chosen = convert::calibration_settings(&settings)?;
        let metadata = CalibrateMetadata {
            deployment: deployment.name().to_owned(),
            stage: CalibrationStage::Searching.into(),
            ..CalibrateMetadata::default()
        };
        let handle = self
            .running
            .begin(&settings.operation_id, metadata_any(&metadata))?;
        let job = Job {
            labels: deployment.labels(),
            gathered: Gathered::of(&deployment),
            deployment,
            settings,
            handle,
            metadata,
            ids: BTreeSet::new(),
        };
        let operation = job.run(incoming, &self.registry, chosen, self.in_flight_max);
        Ok(Response::new(operation.await))
    }
}

impl Job {
    async fn run(
        mut self,
        incoming: Streaming<CalibrateRequest>,
        registry: &Registry,
        chosen: deployment::CalibrationSettings,
        in_flight_max: usize,
    ) -> Operation {
        let result = match self.gather(incoming, registry, in_flight_max).await {
            Ok(()) => self.choose(registry, chosen).await,
            Err(status) => Err(status),
        };
        self.metadata.stage = CalibrationStage::Done.into();
        self.handle.progress(metadata_any(&self.metadata));
        self.handle.finish(result)
    }

    async fn gather(
        &mut self,
        mut incoming: Streaming<CalibrateRequest>,
        registry: &Registry,
        in_flight_max: usize,
    ) -> Result<(), Status> {
        if self.settings.gallery_as_queries {
            return self.gather_from_gallery(registry).await;
        }
        let mut under_way: JoinSet<Answered> = JoinSet::new();
        let mut ended = false;
        while !ended || !under_way.is_empty() {
            tokio::select! {
                message = incoming.message(), if !ended && under_way.len() < in_flight_max => match message? {
                    Some(CalibrateRequest { part: Some(Part::Query(query)) }) => self.ask(query, &mut under_way)?,
                    Some(_) => return Err(invalid("every message after the first must carry a query")),
                    None => {
                        ended = true;
                        self.metadata.total = self.ids.len() as u64;
                    }
                },
                Some(answered) = under_way.join_next() => {
                    let panicked = |_panic| Status::internal("internal error");
                    self.take(answered.map_err(panicked)?)?;
                }
                () = self.handle.cancelled() => return Err(cancelled()),
                () = registry.draining() => return Err(super::registry::shutting_down()),
            }
        }
        Ok(())
    }

    /// Begins to search for one query.
    fn ask(
        &mut self,
        message: QueryMessage,
        under_way: &mut JoinSet<Answered>,
    ) -> Result<(), Status> {
        let number = self.ids.len();
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
        if !self.ids.insert(message.id.clone()) {
            let id = &message.id;
            return Err(invalid(&format!(
                "query id `{id}` occurs twice; give every query its own"
            )));
        }
        let enrolled = self.labels.contains(&message.label);
        let source = ProbeSource::Query(convert::labelled_query(message.query)?);
        let query = LabelledQuery {
            id: message.id,
            label: message.label,
            conditions: message.metadata.into_iter().collect(),
        };
        let request = ProbeRequest {
            source,
            label: query.label.clone(),
            others: self.settings.strangers() == Strangers::All && enrolled,
            check_index: Gathered::checks_index(number),
        };
        let deployment = Arc::clone(&self.deployment);
        under_way.spawn(async move {
            let probed = deployment.probe_when_free(request).await;
            (query, enrolled, probed)
        });
        Ok(())
    }

    fn take(&mut self, (query, enrolled, probed): Answered) -> Result<(), Status> {
        match probed {
            Ok(probed) => self.gathered.add(query, enrolled, probed),
            Err(error) if is_the_fault_of_one(&error) => {
                self.metadata.failed_total += 1;
                if self.metadata.failed.len() < FAILED_LISTED_MAX {
                    self.metadata.failed.push(FailedQuery {
                        id: query.id,
                        reason: error.to_string(),
                    });
                }
            }
            Err(error) => return Err(from_error(&error)),
        }
        self.metadata.done += 1;
        self.handle.progress(metadata_any(&self.metadata));
        Ok(())
    }

    async fn gather_from_gallery(&mut self, registry: &Registry) -> Result<(), Status> {
        let deployment = Arc::clone(&self.deployment);
        let (told, now) = tokio::sync::watch::channel((0, 0));
        let stop = StopOnDrop(Arc::new(AtomicBool::new(false)));
        let stopping = Arc::clone(&stop.0);
        let work = registry.heavy(move || {
            deployment.gather_from_gallery(&|done, total| {
                told.send_replace((done as u64, total as u64));
                !stopping.load(Ordering::Relaxed)
            })
        });
        let mut tick = tokio::time::interval(std::time::Duration::from_millis(200));
        tokio::pin!(work);
        let gathered = loop {
            tokio::select! {
                done = &mut work => break done,
                _ = tick.tick() => {
                    (self.metadata.done, self.metadata.total) = *now.borrow();
                    self.handle.progress(metadata_any(&self.metadata));
                                        if self.handle.is_cancelled() {
                        return Err(cancelled());
                    }
                }
                () = registry.draining() => return Err(super::registry::shutting_down()),
            }
        };
        self.gathered = gathered?.map_err(|error| from_error(&error))?;
        (self.metadata.done, self.metadata.total) = *now.borrow();
        Ok(())
    }

    async fn choose(
        &mut self,
        registry: &Registry,
        chosen: deployment::CalibrationSettings,
    ) -> Result<Any, Status> {
        self.metadata.stage = CalibrationStage::Choosing.into();
        self.handle.progress(metadata_any(&self.metadata));
        // Sorted, so that the record does not depend on who answered first.
        let mut gathered = std::mem::take(&mut self.gathered);
        gathered
            .searches
            .sort_by(|a, b| (&a.probe, a.truth).cmp(&(&b.probe, b.truth)));
        let deployment = Arc::clone(&self.deployment);
        let validate_only = self.settings.validate_only;
        let calibrating = Arc::clone(&deployment);
        let work = registry.heavy(move || calibrating.calibrate(&gathered, &chosen));
        let (point, recording) = work.await?.map_err(|error| from_error(&error))?;
        if self.handle.is_cancelled() {
            return Err(cancelled());
        }
        // Without a pause between the last look and the end: what is called cancelled changed
        // nothing.
        let activation = if validate_only {
            None
        } else {
            let adopted = deployment.adopt(&point, &recording);
            Some(adopted.map_err(|error| from_error(&error))?)
        };
        let response = CalibrateResponse {
            operating_point: Some(convert::operating_point(&point)),
            active: activation.is_some(),
            etag: activation.map(|now| now.etag).unwrap_or_default(),
        };
        Ok(any("CalibrateResponse", &response))
    }
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
