//! `ServerService`: shows and changes what is served.

use std::sync::Arc;

use tonic::{Request, Response, Status};

use super::shadow;
use crate::deployment::{Deployment, JudgedScore};
use crate::server::messages::convert;
use crate::server::messages::drift;
use crate::server::messages::promises::promise;
use crate::server::registry::Registry;
use crate::server::status::from_error;
use crate::server::switching::Switching;
use matchpoint_calibration::coverage::Coverage;
use matchpoint_client::proto::server_service_server::ServerService;
use matchpoint_client::proto::{
    DeploymentInfo, GetServerInfoRequest, GetServerInfoResponse, ReloadDeploymentRequest,
    ReloadDeploymentResponse, ReloadShadowRequest, ReloadShadowResponse, ReloadStep,
    UnopenedDeployment,
};
use matchpoint_gallery::Access;

#[derive(Clone, Debug)]
pub(in crate::server) struct ServerInfoHandler {
    pub(in crate::server) registry: Registry,
    pub(in crate::server) switching: Switching,
    /// The share of live queries that a shadow gets.
    pub(in crate::server) shadow_share: f64,
    /// Whether no other copy of the deployment takes writes.
    pub(in crate::server) only_copy: bool,
    pub(in crate::server) message_bytes_max: usize,
    pub(in crate::server) image_decode_bytes_max: u64,
}

impl ServerInfoHandler {
    /// The same, for the caller of a request.
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
        let step = ReloadStep::try_from(request.step);
        let step = step.map_err(|_unknown| convert::invalid("step is not one of ReloadStep"))?;
        let (registry, switching) = (&self.registry, &self.switching);
        let served = registry.find(&request.deployment)?;
        let undecided_allowed = request.allow_undecided;
        let expected = convert::expected_state(&request.expect_state)?;
        // Before the long opening; it is compared once more at the replacement.
        served
            .check_state(expected)
            .map_err(|error| from_error(&error))?;
        let opened = match step {
            ReloadStep::Unspecified => switching.open(registry, &served, undecided_allowed).await?,
            ReloadStep::ServePrepared => switching.take(&served, &request.prepared_state)?,
            ReloadStep::Prepare => {
                let opened = switching.open(registry, &served, undecided_allowed).await?;
                let prepared = self.describe(&opened.deployment);
                switching.keep(opened);
                return Ok(ReloadDeploymentResponse {
                    deployment: Some(prepared),
                    previous: Some(self.describe(&served)),
                });
            }
            ReloadStep::Discard => {
                switching.discard(&served);
                return Ok(ReloadDeploymentResponse {
                    deployment: None,
                    previous: Some(self.describe(&served)),
                });
            }
        };
        let answer = ReloadDeploymentResponse {
            deployment: Some(self.describe(&opened.deployment)),
            previous: Some(self.describe(&served)),
        };
        switching.serve(registry, served, opened, expected).await?;
        Ok(answer)
    }
}

#[tonic::async_trait]
impl ServerService for ServerInfoHandler {
    async fn reload_deployment(
        &self,
        request: Request<ReloadDeploymentRequest>,
    ) -> Result<Response<ReloadDeploymentResponse>, Status> {
        let service = self.called_by(&request);
        let work = service.reload(request.into_inner());
        let answer = self
            .registry
            .call_that_opens("ReloadDeployment", work)
            .await;
        answer.map(Response::new)
    }

    async fn reload_shadow(
        &self,
        request: Request<ReloadShadowRequest>,
    ) -> Result<Response<ReloadShadowResponse>, Status> {
        let share = self.shadow_share;
        let registry = self.registry.called_by(&request);
        let work = shadow::reload(&registry, share, request.into_inner());
        let answer = self.registry.call_that_opens("ReloadShadow", work).await;
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
        let active = deployment.active_point();
        let basis = active.basis(&view, JudgedScore::Nothing);
        let basis = basis.if_folder_changed(deployment.folder_has_changed());
        let copy_of = deployment.copy_of().filter(|_| !self.only_copy);
        let (round, journal) = (
            deployment.monitor().left_out(),
            deployment.monitor().journal_id(),
        );
        let promises = deployment.promised_in(&active, &view).into_iter();
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
            index: deployment.index_description(&view),
            operating_point_id: basis.operating_point_id.unwrap_or_default(),
            within_calibrated_size: basis.within_calibrated_size,
            gallery_coverage: basis.coverage.map(Coverage::share),
            items_added: basis.coverage.map(Coverage::added),
            traffic_alarm: deployment.monitor().traffic_alarm().unwrap_or_default(),
            items_removed: basis.coverage.map(Coverage::removed),
            certified: basis.certified,
            far_bound: basis.far_bound,
            frr_bound: basis.frr_bound,
            left_out: round.as_deref().map(drift::left_out),
            state: deployment.state().to_string(),
            journal: journal.map(|id| id.to_string()).unwrap_or_default(),
            read_only: deployment.access() == Access::ReadOnly,
            copy_of: copy_of.unwrap_or_default(),
            folder_changed: deployment.folder_has_changed(),
            undecided_reason: convert::undecided(basis.undecided).into(),
            promises: promises.map(promise).collect(),
        }
    }
}
