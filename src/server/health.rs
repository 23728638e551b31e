//! Whether requests are answered, for load balancers and probes, as `grpc.health.v1` says.

use std::pin::Pin;

use matchpoint_client::proto::health::health_check_response::ServingStatus;
use matchpoint_client::proto::health::health_server::Health;
use matchpoint_client::proto::health::{
    HealthCheckRequest, HealthCheckResponse, HealthListRequest, HealthListResponse,
};
use tokio::sync::watch;
use tokio_stream::wrappers::WatchStream;
use tokio_stream::{Stream, StreamExt, once, pending};
use tonic::{Request, Response, Status};

use crate::telemetry;

/// The name for "the process answers", which does not depend on any model.
pub const LIVENESS: &str = "liveness";

/// What is answered by deployments, and the name for all of it.
const SERVICES: [&str; 8] = [
    "",
    "matchpoint.v1.RetrievalService",
    "matchpoint.v1.GalleryService",
    "matchpoint.v1.OperatingPointService",
    "matchpoint.v1.CalibrationService",
    "matchpoint.v1.MonitoringService",
    "matchpoint.v1.SnapshotService",
    "matchpoint.v1.ServerService",
];

/// Says whether deployments are served: not at first.
#[derive(Clone, Debug)]
pub(super) struct HealthHandler(watch::Sender<bool>);

impl Default for HealthHandler {
    fn default() -> Self {
        Self(watch::Sender::new(false))
    }
}

impl HealthHandler {
    /// Says from now on whether deployments are served; who watches learns of a change.
    pub(super) fn serve(&self, serving: bool) {
        self.0
            .send_if_modified(|before| std::mem::replace(before, serving) != serving);
    }

    fn status(&self, service: &str) -> Option<ServingStatus> {
        if service == LIVENESS {
            return Some(of(telemetry::is_alive()));
        }
        SERVICES.contains(&service).then(|| of(*self.0.borrow()))
    }
}

fn of(serving: bool) -> ServingStatus {
    match serving {
        true => ServingStatus::Serving,
        false => ServingStatus::NotServing,
    }
}

fn answer(status: ServingStatus) -> HealthCheckResponse {
    let status = status.into();
    HealthCheckResponse { status }
}

#[tonic::async_trait]
impl Health for HealthHandler {
    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        let status = self.status(&request.get_ref().service);
        let status = status
            .ok_or_else(|| Status::not_found("there is no such service; List names all of them"))?;
        Ok(Response::new(answer(status)))
    }

    async fn list(
        &self,
        _request: Request<HealthListRequest>,
    ) -> Result<Response<HealthListResponse>, Status> {
        let names = SERVICES.into_iter().chain([LIVENESS]);
        let statuses = names.filter_map(|name| Some((name.to_owned(), answer(self.status(name)?))));
        let statuses = statuses.collect();
        Ok(Response::new(HealthListResponse { statuses }))
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    async fn watch(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let service = request.get_ref().service.as_str();
        let statuses: Self::WatchStream = if SERVICES.contains(&service) {
            let serving = WatchStream::new(self.0.subscribe());
            Box::pin(serving.map(|serving| Ok(answer(of(serving)))))
        } else {
            // What there is not may be there one day, as far as the protocol goes: the call does not end.
            let status = self.status(service);
            let status = status.unwrap_or(ServingStatus::ServiceUnknown);
            Box::pin(once(Ok(answer(status))).chain(pending()))
        };
        Ok(Response::new(statuses))
    }
}
