//! Reports by `grpc.health.v1` whether requests are answered, for load balancers and probes.

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

/// The service name that means "the process answers", which does not depend on any model.
pub const LIVENESS: &str = "liveness";

/// The services that need deployments, and the empty name for the whole server.
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

/// Reports whether deployments are served, which is false at first, and whether the process is healthy.
#[derive(Clone, Debug)]
pub(in crate::server) struct HealthHandler {
    serving: watch::Sender<bool>,
    alive: watch::Sender<bool>,
}

impl Default for HealthHandler {
    fn default() -> Self {
        Self {
            serving: watch::Sender::new(false),
            alive: watch::Sender::new(true),
        }
    }
}

impl HealthHandler {
    /// Sets whether deployments are served; watchers are notified of a change.
    pub(in crate::server) fn serve(&self, serving: bool) {
        say(&self.serving, serving);
    }

    /// Sets whether the process is healthy.
    pub(in crate::server) fn live(&self, alive: bool) {
        say(&self.alive, alive);
    }

    fn about(&self, service: &str) -> Option<&watch::Sender<bool>> {
        if service == LIVENESS {
            return Some(&self.alive);
        }
        SERVICES.contains(&service).then_some(&self.serving)
    }

    fn status(&self, service: &str) -> Option<ServingStatus> {
        self.about(service).map(|said| of(*said.borrow()))
    }
}

fn say(to: &watch::Sender<bool>, now: bool) {
    to.send_if_modified(|before| std::mem::replace(before, now) != now);
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
        let statuses: Self::WatchStream = match self.about(&request.get_ref().service) {
            Some(said) => {
                let said = WatchStream::new(said.subscribe());
                Box::pin(said.map(|said| Ok(answer(of(said)))))
            }
            // According to the protocol, an unknown service may exist later, so the call does not end.
            None => Box::pin(once(Ok(answer(ServingStatus::ServiceUnknown))).chain(pending())),
        };
        Ok(Response::new(statuses))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_watches_learns_of_each_change_of_what_is_watched() {
        let health = HealthHandler::default();
        let watched = |service: &str| {
            let service = service.to_owned();
            health.watch(Request::new(HealthCheckRequest { service }))
        };
        let mut alive = watched(LIVENESS).await.unwrap().into_inner();
        let mut serving = watched("").await.unwrap().into_inner();
        let next = async |watch: &mut <HealthHandler as Health>::WatchStream| {
            let said = tokio::time::timeout(std::time::Duration::from_secs(10), watch.next());
            said.await.unwrap().unwrap().unwrap().status()
        };
        assert_eq!(next(&mut alive).await, ServingStatus::Serving);
        assert_eq!(next(&mut serving).await, ServingStatus::NotServing);
        health.live(false);
        assert_eq!(next(&mut alive).await, ServingStatus::NotServing);
        health.serve(true);
        assert_eq!(next(&mut serving).await, ServingStatus::Serving);
        assert_eq!(health.status(LIVENESS), Some(ServingStatus::NotServing));
    }
}
