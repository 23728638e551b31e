//! Calibrating a deployment while it serves.

use prost::Message;
use tonic::{Code, Status};

use super::connection::{Client, ClientError, refused};
use super::proto::calibrate_request::Part;
use super::proto::calibration_service_client::CalibrationServiceClient;
use super::proto::longrunning::operation::Result as Outcome;
use super::proto::{CalibrateRequest, CalibrateResponse, CalibrationSettings, LabelledQuery};

impl Client {
    /// Chooses a threshold on labelled queries, and waits for it.
    ///
    /// # Errors
    /// Whatever the server refuses or fails at; also data that cannot support the target.
    pub async fn calibrate(
        &self,
        settings: CalibrationSettings,
        queries: Vec<LabelledQuery>,
    ) -> Result<CalibrateResponse, ClientError> {
        let queries = queries.into_iter().map(Part::Query);
        let parts = std::iter::once(Part::Settings(settings)).chain(queries);
        let requests = parts.map(|part| CalibrateRequest { part: Some(part) });
        // Without this, an image that is larger than the default could not be sent.
        let mut calibration =
            CalibrationServiceClient::new(self.channel()).max_encoding_message_size(usize::MAX);
        let answer = calibration.calibrate(tokio_stream::iter(requests)).await;
        // The server answers when all is done.
        let operation = answer.map_err(|status| refused(&status))?.into_inner();
        let failed = |code: Code, message: &str| refused(&Status::new(code, message));
        match operation.result {
            Some(Outcome::Response(response)) => {
                CalibrateResponse::decode(response.value.as_slice())
                    .map_err(|cause| failed(Code::Internal, &cause.to_string()))
            }
            Some(Outcome::Error(status)) => Err(failed(status.code.into(), &status.message)),
            None => Err(failed(Code::Internal, "the calibration has no outcome")),
        }
    }
}
