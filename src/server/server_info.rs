//! `ServerService`: what is served, and changing it.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tonic::{Code, Request, Response, Status};

use super::changes::changed;
use super::deployment_paths::real;
use super::drift_messages;
use super::registry::{Registry, ServedState};
use super::shadow;
use super::status::{from_error, status};
use crate::config::MonitoringConfig;
use crate::deployment::{Deployment, DeploymentError, JudgedScore, OpenOptions};
use matchpoint_calibration::coverage::Coverage;
use matchpoint_client::proto::server_service_server::ServerService;
use matchpoint_client::proto::{
    DeploymentInfo, GetServerInfoRequest, GetServerInfoResponse, ReloadDeploymentRequest,
    ReloadDeploymentResponse, ReloadShadowRequest, ReloadShadowResponse, UnopenedDeployment,
};
use matchpoint_gallery::Access;
use matchpoint_gallery::error::GalleryError;

/// How long a deployment that was switched away from may take to close, and how often to look.
const CLOSING_MAX: Duration = Duration::from_secs(10);
const CLOSING_PAUSE: Duration = Duration::from_millis(50);

#[derive(Clone, Debug)]
pub(super) struct ServerInfoHandler {
    pub(super) registry: Registry,
    /// How decisions of a deployment that is opened again are watched.
    pub(super) monitoring: MonitoringConfig,
    /// Whether no other copy takes writes.
    pub(super) only_copy: bool,
    pub(super) message_bytes_max: usize,
    pub(super) image_decode_bytes_max: u64,
}

impl ServerInfoHandler {
    /// The same, on behalf of the caller of a request.
    fn called_by<T>(&self, request: &Request<T>) -> Self {
        Self {
            registry: self.registry.called_by(request),
            ..self.clone()
        }
    }

    async fn reload(
        &self,
        request: ReloadDeploymentRequest,
    ) -> Result<ReloadDeploymentResponse, Status> {
        let previous = self.registry.find(&request.deployment)?;
        let loaded = self.registry.loaded()?;
        let place = loaded.places.get(previous.name()).cloned();
        let place = place.ok_or_else(|| Status::internal("internal error"))?;
        let asked = Instant::now();
        let opened = loop {
            let (monitoring, before) = (self.monitoring.clone(), Arc::clone(&previous));
            let (opening, loaded) = (place.clone(), Arc::clone(&loaded));
            let undecided_allowed = request.allow_undecided;
            let open = move || {
                let opened = open_in_place_of(&before, &opening, &loaded, &monitoring)?;
                if let Some(opened) = &opened {
                    refuse_undecided(&before, opened, undecided_allowed)?;
                    opened.keep_up(&monitoring)?;
                }
                Ok(opened.map(Arc::new))
            };
            match self.registry.heavy(open).await? {
                // Switched away from a moment ago: its last requests are just ending.
                Err(DeploymentError::Gallery(GalleryError::InUse { .. }))
                    if asked.elapsed() < CLOSING_MAX =>
                {
                    tokio::time::sleep(CLOSING_PAUSE).await;
                }
                opened => break opened.map_err(|error| from_error(&error))?,
            }
        };
        let Some(deployment) = opened else {
            let message = "the deployment's path leads to what is served already; change it first, as `matchpoint switch` does";
            return Err(status(
                Code::FailedPrecondition,
                "DEPLOYMENT_UNCHANGED",
                message,
            ));
        };
        deployment.publish(Some(&previous));
        self.registry.replace(&deployment, &place)?;
        tracing::info!(
            deployment = deployment.name(),
            from = %previous.folder().path().display(),
            to = %deployment.folder().path().display(),
            model = deployment.loaded().model.name(),
            precision = deployment.loaded().model.precision(),
            "deployment switched"
        );
        let to = deployment.folder().path().display().to_string();
        changed(
            self.registry.identity(),
            "ReloadDeployment",
            deployment.name(),
            &to,
        );
        let answer = ReloadDeploymentResponse {
            deployment: Some(self.describe(&deployment)),
            previous: Some(self.describe(&previous)),
        };
        // Its threads end with it, which takes a moment that no thread that answers has.
        let closing = std::thread::Builder::new().name("closing".to_owned());
        let (share, longest) = (self.monitoring.shadow_share, self.registry.longest());
        let closed = closing.spawn(move || {
            let models = shadow::end(&previous, loaded);
            close(previous, longest);
            shadow::succeed(&deployment, &place, models, share);
        });
        closed.map_err(|_cause| Status::internal("internal error"))?;
        Ok(answer)
    }
}

/// Closes a deployment once its last request has ended, so that it is not that request's thread on
/// which its own are waited for; or leaves it to that one, where it takes too long.
fn close(mut deployment: Arc<Deployment>, longest: Duration) {
    let asked = Instant::now();
    while asked.elapsed() < longest {
        match Arc::try_unwrap(deployment) {
            Ok(alone) => return drop(alone),
            Err(shared) => deployment = shared,
        }
        std::thread::park_timeout(CLOSING_PAUSE);
    }
}

/// Refuses what would decide nothing in place of what decides, unless that is meant.
fn refuse_undecided(
    served: &Deployment,
    opened: &Deployment,
    undecided_allowed: bool,
) -> Result<(), DeploymentError> {
    let (before, now) = (served.active_point(), opened.active_point());
    if undecided_allowed || before.valid().is_none() || now.valid().is_some() {
        return Ok(());
    }
    let problem = now.problem();
    Err(DeploymentError::NothingWouldDecide { problem })
}

/// What a path leads to now, opened; `None` if that is what is served already.
fn open_in_place_of(
    served: &Deployment,
    place: &Path,
    loaded: &ServedState,
    monitoring: &MonitoringConfig,
) -> Result<Option<Deployment>, DeploymentError> {
    let folder = real(place)?;
    if folder == served.folder().path() {
        return Ok(None);
    }
    let options = OpenOptions {
        name: Some(served.name().to_owned()),
        journal_dir: monitoring.journal_dir.clone(),
        ..OpenOptions::recorded(served.access())
    };
    Deployment::open(&folder, &mut *loaded.models()?, options).map(Some)
}

#[tonic::async_trait]
impl ServerService for ServerInfoHandler {
    async fn reload_deployment(
        &self,
        request: Request<ReloadDeploymentRequest>,
    ) -> Result<Response<ReloadDeploymentResponse>, Status> {
        let service = self.called_by(&request);
        let work = service.reload(request.into_inner());
        let answer = self.registry.call("ReloadDeployment", work).await;
        answer.map(Response::new)
    }

    async fn reload_shadow(
        &self,
        request: Request<ReloadShadowRequest>,
    ) -> Result<Response<ReloadShadowResponse>, Status> {
        let share = self.monitoring.shadow_share;
        let registry = self.registry.called_by(&request);
        let work = shadow::reload(&registry, share, request.into_inner());
        let answer = self.registry.call("ReloadShadow", work).await;
        answer.map(Response::new)
    }

    async fn get_server_info(
        &self,
        request: Request<GetServerInfoRequest>,
    ) -> Result<Response<GetServerInfoResponse>, Status> {
        let registry = self.registry.called_by(&request);
        let work = async {
            let loaded = registry.loaded()?;
            let identity = registry.identity();
            let own = |one: &&Arc<Deployment>| identity.may_use(one.name());
            Ok(GetServerInfoResponse {
                version: env!("CARGO_PKG_VERSION").to_owned(),
                onnxruntime_version: loaded.runtime_version.clone(),
                deployments: loaded
                    .deployments
                    .values()
                    .filter(own)
                    .map(|one| self.describe(one))
                    .collect(),
                unopened: loaded
                    .unopened
                    .iter()
                    .map(|one| UnopenedDeployment {
                        name: one.name.clone(),
                        reason: one.reason.to_owned(),
                    })
                    .collect(),
                message_bytes_max: self.message_bytes_max as u64,
                image_decode_bytes_max: self.image_decode_bytes_max,
            })
        };
        self.registry
            .call("GetServerInfo", work)
            .await
            .map(Response::new)
    }
}

impl ServerInfoHandler {
    fn describe(&self, deployment: &Deployment) -> DeploymentInfo {
        let (view, model) = (deployment.view(), &deployment.loaded().model);
        let basis = deployment.active_point().basis(&view, JudgedScore::Nothing);
        let copy_of = deployment.copy_of().filter(|_| !self.only_copy);
        let (round, journal) = (
            deployment.monitor().left_out(),
            deployment.monitor().journal_id(),
        );
        DeploymentInfo {
            name: deployment.name().to_owned(),
            model_name: model.name().to_owned(),
            model_fingerprint: model.fingerprint().to_owned(),
            dimension: u32::try_from(model.dimension()).unwrap_or(u32::MAX),
            execution_provider: model.provider().to_owned(),
            precision: model.precision().to_owned(),
            gallery_id: deployment.folder().record().gallery_id.clone(),
            gallery_items: view.len() as u64,
            gallery_labels: view.label_count() as u64,
            generation: view.generation(),
            index: view.index_description(),
            operating_point_id: basis.operating_point_id.unwrap_or_default(),
            within_calibrated_size: basis.within_calibrated_size,
            gallery_coverage: basis.coverage.map(Coverage::share),
            items_added: basis.coverage.map(Coverage::added),
            traffic_alarm: deployment.monitor().traffic_alarm().unwrap_or_default(),
            items_removed: basis.coverage.map(Coverage::removed),
            certified: basis.certified,
            far_bound: basis.far_bound,
            frr_bound: basis.frr_bound,
            left_out: round.as_deref().map(drift_messages::left_out),
            state: deployment.state().to_string(),
            journal: journal.map(|id| id.to_string()).unwrap_or_default(),
            read_only: deployment.access() == Access::ReadOnly,
            copy_of: copy_of.unwrap_or_default(),
        }
    }
}
