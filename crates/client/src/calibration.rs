//! Calibrating a deployment while it serves.

use std::collections::BTreeSet;

use tokio_stream::{Stream, StreamExt};

use super::connection::{Client, ClientError, refused};
use super::operations::{result, unpacked};
use super::proto::calibrate_request::Part;
use super::proto::calibration_service_client::CalibrationServiceClient;
use super::proto::gallery_service_client::GalleryServiceClient;
use super::proto::longrunning::Operation;
use super::proto::{
    CalibrateMetadata, CalibrateRequest, CalibrateResponse, CalibrationSettings, LabelledQuery,
    ListItemsRequest,
};

/// Items of one page.
const PAGE: u32 = 1000;

/// The result of a calibration on a server.
#[derive(Debug)]
pub struct CalibrationEnd {
    /// The outcome for its queries, and what is doubtful about them.
    pub queries: CalibrateMetadata,
    /// The operating point, or why there is none, for example because the data cannot support the target.
    pub result: Result<CalibrateResponse, ClientError>,
}

impl CalibrationEnd {
    /// The end of an operation. If the operation is still running, `queries` has its progress.
    ///
    /// # Errors
    /// The operation is not a calibration.
    pub fn of(operation: Operation) -> Result<Self, ClientError> {
        let metadata = operation.metadata.as_ref().map(unpacked).transpose()?;
        Ok(Self {
            queries: metadata.unwrap_or_default(),
            result: result(operation.result),
        })
    }
}

impl Client {
    /// Sends labelled queries as the server accepts them, has it choose a threshold on them, and waits for
    /// that. If this is dropped before its end, nothing changes.
    ///
    /// # Errors
    /// Returns an error if the server refuses or fails.
    pub async fn calibrate(
        &self,
        settings: CalibrationSettings,
        queries: impl Stream<Item = LabelledQuery> + Send + 'static,
    ) -> Result<CalibrationEnd, ClientError> {
        let settings = tokio_stream::once(Part::Settings(settings));
        let parts = settings.chain(queries.map(Part::Query));
        let requests = parts.map(|part| CalibrateRequest { part: Some(part) });
        // Without this, an image larger than the default limit could not be sent.
        let mut calibration =
            CalibrationServiceClient::new(self.channel()).max_encoding_message_size(usize::MAX);
        let answer = calibration.calibrate(requests).await;
        // The server answers when everything is done.
        CalibrationEnd::of(answer.map_err(|status| refused(&status))?.into_inner())
    }

    /// The labels that are enrolled.
    ///
    /// # Errors
    /// Returns an error if the server refuses or fails.
    pub async fn labels(&self, deployment: &str) -> Result<BTreeSet<String>, ClientError> {
        let (mut labels, mut page_token) = (BTreeSet::new(), String::new());
        loop {
            let request = ListItemsRequest {
                deployment: deployment.to_owned(),
                page_size: PAGE,
                page_token,
                include_embedding: false,
                label: String::new(),
            };
            let mut gallery = GalleryServiceClient::new(self.channel());
            let answer = gallery.list_items(request).await;
            let page = answer.map_err(|status| refused(&status))?.into_inner();
            labels.extend(page.items.into_iter().map(|item| item.label));
            page_token = page.next_page_token;
            if page_token.is_empty() {
                return Ok(labels);
            }
        }
    }
}
