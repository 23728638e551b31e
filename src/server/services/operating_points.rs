//! `OperatingPointService`: the operating points, and which is active.

use tonic::{Request, Response, Status};

use crate::deployment::{JudgedPoint, compare_points};
use crate::server::access::changes::changed;
use crate::server::messages::convert;
use crate::server::registry::Registry;
use crate::server::status::from_error;
use matchpoint_client::proto::operating_point_service_server::OperatingPointService;
use matchpoint_client::proto::{
    ActivateOperatingPointRequest, ActivateOperatingPointResponse, CompareOperatingPointsRequest,
    CompareOperatingPointsResponse, GetOperatingPointReportRequest,
    GetOperatingPointReportResponse, GetOperatingPointRequest, GetOperatingPointResponse,
    ListOperatingPointsRequest, ListOperatingPointsResponse, RollBackOperatingPointRequest,
    RollBackOperatingPointResponse,
};
use matchpoint_report::calibrated::{Findings, NoPictures, Outline};

#[derive(Clone, Debug)]
pub(in crate::server) struct OperatingPointHandler {
    pub(in crate::server) registry: Registry,
}

impl OperatingPointHandler {
    /// The same, for the caller of a request.
    fn called_by<T>(&self, request: &Request<T>) -> Self {
        Self {
            registry: self.registry.called_by(request),
        }
    }

    fn list(
        &self,
        request: &ListOperatingPointsRequest,
    ) -> Result<ListOperatingPointsResponse, Status> {
        let deployment = self.registry.find(&request.deployment)?;
        let folder = deployment.folder();
        let points = folder
            .operating_points()
            .map_err(|error| from_error(&error))?;
        let active = folder.record().active_operating_point.clone();
        Ok(ListOperatingPointsResponse {
            operating_points: points.iter().map(convert::operating_point).collect(),
            active_id: active.unwrap_or_default(),
            etag: folder.etag(),
        })
    }

    fn get(&self, request: &GetOperatingPointRequest) -> Result<GetOperatingPointResponse, Status> {
        let deployment = self.registry.find(&request.deployment)?;
        let id = Some(request.id.as_str()).filter(|id| !id.is_empty());
        let folder = deployment.folder();
        let point = folder
            .operating_point_or_active(id)
            .map_err(|error| from_error(&error))?;
        let active = folder.record().active_operating_point.as_deref();
        Ok(GetOperatingPointResponse {
            operating_point: Some(convert::operating_point(&point)),
            active: active == Some(point.id()),
            etag: folder.etag(),
        })
    }

    fn activate(
        &self,
        request: &ActivateOperatingPointRequest,
    ) -> Result<ActivateOperatingPointResponse, Status> {
        let deployment = self.registry.find(&request.deployment)?;
        let etag = Some(request.etag.as_str()).filter(|etag| !etag.is_empty());
        check_reason(&request.reason)?;
        let now = deployment
            .activate(&request.id, etag)
            .map_err(|error| from_error(&error))?;
        let identity = self.registry.identity();
        changed(
            identity,
            "ActivateOperatingPoint",
            deployment.name(),
            &because(now.point.id(), &request.reason),
        );
        Ok(ActivateOperatingPointResponse {
            operating_point: Some(convert::operating_point(&now.point)),
            etag: now.etag,
            previous_id: now.previous.unwrap_or_default(),
        })
    }

    fn roll_back(
        &self,
        request: &RollBackOperatingPointRequest,
    ) -> Result<RollBackOperatingPointResponse, Status> {
        let deployment = self.registry.find(&request.deployment)?;
        let etag = Some(request.etag.as_str()).filter(|etag| !etag.is_empty());
        check_reason(&request.reason)?;
        let now = deployment
            .roll_back(etag)
            .map_err(|error| from_error(&error))?;
        let identity = self.registry.identity();
        changed(
            identity,
            "RollBackOperatingPoint",
            deployment.name(),
            &because(now.point.id(), &request.reason),
        );
        Ok(RollBackOperatingPointResponse {
            operating_point: Some(convert::operating_point(&now.point)),
            etag: now.etag,
            previous_id: now.previous.unwrap_or_default(),
        })
    }

    async fn compare(
        &self,
        request: CompareOperatingPointsRequest,
    ) -> Result<CompareOperatingPointsResponse, Status> {
        let deployment = self.registry.find(&request.deployment)?;
        let limit = convert::flips_limit(request.limit)?;
        let work = move || {
            let folder = deployment.folder();
            let from = match request.from_id.as_str() {
                "" => folder.operating_point_or_active(None)?.id().to_owned(),
                id => id.to_owned(),
            };
            compare_points(&folder, &from, &request.to_id)
        };
        // A recording may be large, and is read from the disk.
        let compared = self.registry.heavy(work).await?;
        let compared = compared.map_err(|error| from_error(&error))?;
        Ok(convert::comparison(&compared, limit))
    }

    async fn report(
        &self,
        request: GetOperatingPointReportRequest,
    ) -> Result<GetOperatingPointReportResponse, Status> {
        let deployment = self.registry.find(&request.deployment)?;
        let work = move || {
            let id = Some(request.id.as_str()).filter(|id| !id.is_empty());
            let judged = JudgedPoint::of(&deployment.folder(), id);
            judged.map(|judged| report(deployment.name(), &judged))
        };
        let html = self.registry.heavy(work).await?;
        let html = html.map_err(|error| from_error(&error))?;
        Ok(GetOperatingPointReportResponse { html })
    }
}

/// The report of an operating point as a page.
fn report(deployment: &str, judged: &JudgedPoint) -> String {
    let content = judged.point.content();
    let outline = Outline {
        title: format!("{deployment}: calibration"),
        created: content.created.clone(),
        target: judged.asked,
    };
    matchpoint_report::render(&outline.page(&Findings {
        id: Some(judged.point.id()),
        content,
        recording: &judged.recording,
        analysis: &judged.analysis,
        pictures: &NoPictures,
    }))
}

/// Bytes of a reason.
const REASON_BYTES_MAX: usize = 512;

fn check_reason(reason: &str) -> Result<(), Status> {
    let bytes = reason.len();
    if bytes <= REASON_BYTES_MAX {
        return Ok(());
    }
    let problem = format!("reason has {bytes} bytes; it may have {REASON_BYTES_MAX}");
    Err(convert::invalid(&problem))
}

/// What was chosen and why, for the log line.
fn because(id: &str, reason: &str) -> String {
    match reason {
        "" => id.to_owned(),
        reason => format!("{id}, because: {reason}"),
    }
}

#[tonic::async_trait]
impl OperatingPointService for OperatingPointHandler {
    async fn list_operating_points(
        &self,
        request: Request<ListOperatingPointsRequest>,
    ) -> Result<Response<ListOperatingPointsResponse>, Status> {
        let service = self.called_by(&request);
        let work = async { service.list(request.get_ref()) };
        self.registry
            .call("ListOperatingPoints", work)
            .await
            .map(Response::new)
    }

    async fn get_operating_point(
        &self,
        request: Request<GetOperatingPointRequest>,
    ) -> Result<Response<GetOperatingPointResponse>, Status> {
        let service = self.called_by(&request);
        let work = async { service.get(request.get_ref()) };
        self.registry
            .call("GetOperatingPoint", work)
            .await
            .map(Response::new)
    }

    async fn activate_operating_point(
        &self,
        request: Request<ActivateOperatingPointRequest>,
    ) -> Result<Response<ActivateOperatingPointResponse>, Status> {
        let service = self.called_by(&request);
        // With a store it waits for that.
        let piece = self
            .registry
            .piece(move || service.activate(request.get_ref()));
        let work = async { piece.await? };
        self.registry
            .call("ActivateOperatingPoint", work)
            .await
            .map(Response::new)
    }

    async fn roll_back_operating_point(
        &self,
        request: Request<RollBackOperatingPointRequest>,
    ) -> Result<Response<RollBackOperatingPointResponse>, Status> {
        let service = self.called_by(&request);
        // With a store it waits for that.
        let piece = self
            .registry
            .piece(move || service.roll_back(request.get_ref()));
        let work = async { piece.await? };
        self.registry
            .call("RollBackOperatingPoint", work)
            .await
            .map(Response::new)
    }

    async fn compare_operating_points(
        &self,
        request: Request<CompareOperatingPointsRequest>,
    ) -> Result<Response<CompareOperatingPointsResponse>, Status> {
        let service = self.called_by(&request);
        let work = service.compare(request.into_inner());
        self.registry
            .call("CompareOperatingPoints", work)
            .await
            .map(Response::new)
    }

    async fn get_operating_point_report(
        &self,
        request: Request<GetOperatingPointReportRequest>,
    ) -> Result<Response<GetOperatingPointReportResponse>, Status> {
        let service = self.called_by(&request);
        let work = service.report(request.into_inner());
        self.registry
            .call("GetOperatingPointReport", work)
            .await
            .map(Response::new)
    }
}
