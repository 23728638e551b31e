//! Makes calls on behalf of the person at the browser.

use std::future::Future;

use tonic::{Request, Status};

use super::visitor::Visitor;
use matchpoint_client::proto;
use proto::calibrate_request::Part;
use proto::calibration_service_client::CalibrationServiceClient;
use proto::gallery_service_client::GalleryServiceClient;
use proto::longrunning::operations_client::OperationsClient;
use proto::longrunning::{CancelOperationRequest, GetOperationRequest, Operation};
use proto::monitoring_service_client::MonitoringServiceClient;
use proto::operating_point_service_client::OperatingPointServiceClient;
use proto::retrieval_service_client::RetrievalServiceClient;
use proto::server_service_client::ServerServiceClient;

/// The paths of calls that are used to find out what a person may do.
pub(super) mod path {
    pub(crate) const SEARCH: &str = "/matchpoint.v1.RetrievalService/Search";
    pub(crate) const GET_ITEM: &str = "/matchpoint.v1.GalleryService/GetItem";
    pub(crate) const GET_DRIFT: &str = "/matchpoint.v1.MonitoringService/GetDrift";
    pub(crate) const LIST_POINTS: &str = "/matchpoint.v1.OperatingPointService/ListOperatingPoints";
    pub(crate) const CALIBRATE: &str = "/matchpoint.v1.CalibrationService/Calibrate";
    pub(crate) const LIST_ITEMS: &str = "/matchpoint.v1.GalleryService/ListItems";
    pub(crate) const ANNOTATE: &str = "/matchpoint.v1.MonitoringService/AnnotateDecisions";
}

impl Visitor {
    /// Calibrates with these queries. The calibration stops if the future is dropped.
    pub(super) fn calibrate(
        &self,
        settings: proto::CalibrationSettings,
        queries: Vec<proto::LabelledQuery>,
    ) -> impl Future<Output = Result<Operation, Status>> + Send + use<> {
        let parts = std::iter::once(Part::Settings(settings));
        let parts = parts.chain(queries.into_iter().map(Part::Query));
        let messages = parts.map(|part| proto::CalibrateRequest { part: Some(part) });
        let mut request = Request::new(tokio_stream::iter(messages));
        request.extensions_mut().insert(self.signed_in());
        let mut client = CalibrationServiceClient::new(self.state.setup.calls.clone())
            .max_encoding_message_size(usize::MAX);
        async move { Ok(client.calibrate(request).await?.into_inner()) }
    }

    /// The state of an operation.
    pub(super) async fn operation(&self, name: &str) -> Result<Operation, Status> {
        let name = name.to_owned();
        let mut request = Request::new(GetOperationRequest { name });
        request.extensions_mut().insert(self.signed_in());
        let mut client = OperationsClient::new(self.state.setup.calls.clone());
        Ok(client.get_operation(request).await?.into_inner())
    }

    /// Cancels an operation.
    pub(super) async fn cancel(&self, name: &str) -> Result<(), Status> {
        let name = name.to_owned();
        let mut request = Request::new(CancelOperationRequest { name });
        request.extensions_mut().insert(self.signed_in());
        let mut client = OperationsClient::new(self.state.setup.calls.clone());
        client.cancel_operation(request).await?;
        Ok(())
    }
}

/// Defines a method for each call from its name, the client that has it, and its messages.
macro_rules! calls {
    ($($method:ident: $client:ident, $request:ident => $response:ident;)*) => {
        impl Visitor {
            $(pub(super) async fn $method(
                &self,
                message: proto::$request,
            ) -> Result<proto::$response, Status> {
                let mut request = Request::new(message);
                request.extensions_mut().insert(self.signed_in());
                // Both ends are in this process, so the limits of the page apply and none for messages.
                let mut client = $client::new(self.state.setup.calls.clone())
                    .max_decoding_message_size(usize::MAX);
                Ok(client.$method(request).await?.into_inner())
            })*
        }
    };
}

calls! {
    search: RetrievalServiceClient, SearchRequest => SearchResponse;
    verify: RetrievalServiceClient, VerifyRequest => VerifyResponse;
    list_audit_queue: MonitoringServiceClient, ListAuditQueueRequest => ListAuditQueueResponse;
    get_decision: MonitoringServiceClient, GetDecisionRequest => GetDecisionResponse;
    annotate_decisions: MonitoringServiceClient, AnnotateDecisionsRequest => AnnotateDecisionsResponse;
    get_drift: MonitoringServiceClient, GetDriftRequest => GetDriftResponse;
    list_labels: GalleryServiceClient, ListLabelsRequest => ListLabelsResponse;
    list_operating_points: OperatingPointServiceClient, ListOperatingPointsRequest => ListOperatingPointsResponse;
    get_operating_point: OperatingPointServiceClient, GetOperatingPointRequest => GetOperatingPointResponse;
    compare_operating_points: OperatingPointServiceClient, CompareOperatingPointsRequest => CompareOperatingPointsResponse;
    get_operating_point_report: OperatingPointServiceClient, GetOperatingPointReportRequest => GetOperatingPointReportResponse;
    activate_operating_point: OperatingPointServiceClient, ActivateOperatingPointRequest => ActivateOperatingPointResponse;
    roll_back_operating_point: OperatingPointServiceClient, RollBackOperatingPointRequest => RollBackOperatingPointResponse;
    list_items: GalleryServiceClient, ListItemsRequest => ListItemsResponse;
    upsert_item: GalleryServiceClient, UpsertItemRequest => UpsertItemResponse;
    relabel_item: GalleryServiceClient, RelabelItemRequest => RelabelItemResponse;
    delete_item: GalleryServiceClient, DeleteItemRequest => DeleteItemResponse;
    check_items: GalleryServiceClient, CheckItemsRequest => CheckItemsResponse;
    get_item: GalleryServiceClient, GetItemRequest => GetItemResponse;
    get_server_info: ServerServiceClient, GetServerInfoRequest => GetServerInfoResponse;
}
