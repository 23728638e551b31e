//! Operating points: listed, compared and activated.

use super::connection::{Client, ClientError, KeyedChannel, refused};
use super::proto::operating_point_service_client::OperatingPointServiceClient;
use super::proto::{
    ActivateOperatingPointRequest, ActivateOperatingPointResponse, CompareOperatingPointsRequest,
    CompareOperatingPointsResponse, GetOperatingPointRequest, ListOperatingPointsRequest,
    ListOperatingPointsResponse, OperatingPoint, RollBackOperatingPointRequest,
    RollBackOperatingPointResponse,
};

impl Client {
    fn points(&self) -> OperatingPointServiceClient<KeyedChannel> {
        OperatingPointServiceClient::new(self.channel())
    }

    /// All operating points of a deployment, oldest first, and which is active.
    ///
    /// # Errors
    /// Returns an error if the server refuses or fails.
    pub async fn operating_points(
        &self,
        deployment: &str,
    ) -> Result<ListOperatingPointsResponse, ClientError> {
        let request = ListOperatingPointsRequest {
            deployment: deployment.to_owned(),
        };
        let answer = self.points().list_operating_points(request).await;
        Ok(answer.map_err(|status| refused(&status))?.into_inner())
    }

    /// One operating point of a deployment.
    ///
    /// # Errors
    /// Returns an error if the server refuses or fails.
    pub async fn operating_point(
        &self,
        deployment: &str,
        id: &str,
    ) -> Result<OperatingPoint, ClientError> {
        let request = GetOperatingPointRequest {
            deployment: deployment.to_owned(),
            id: id.to_owned(),
        };
        let answer = self.points().get_operating_point(request).await;
        let answer = answer.map_err(|status| refused(&status))?.into_inner();
        Ok(answer.operating_point.unwrap_or_default())
    }

    /// Activates an operating point; it is used from the next request on.
    ///
    /// # Errors
    /// Returns an error if the server refuses or fails; nothing has changed then.
    pub async fn activate(
        &self,
        deployment: &str,
        id: &str,
    ) -> Result<ActivateOperatingPointResponse, ClientError> {
        let request = ActivateOperatingPointRequest {
            deployment: deployment.to_owned(),
            id: id.to_owned(),
            etag: String::new(),
            reason: String::new(),
        };
        let answer = self.points().activate_operating_point(request).await;
        Ok(answer.map_err(|status| refused(&status))?.into_inner())
    }

    /// Activates the operating point that was active before the present one.
    ///
    /// # Errors
    /// Returns an error if the server refuses or fails; nothing has changed then.
    pub async fn roll_back(
        &self,
        deployment: &str,
    ) -> Result<RollBackOperatingPointResponse, ClientError> {
        let request = RollBackOperatingPointRequest {
            deployment: deployment.to_owned(),
            etag: String::new(),
            reason: String::new(),
        };
        let answer = self.points().roll_back_operating_point(request).await;
        Ok(answer.map_err(|status| refused(&status))?.into_inner())
    }

    /// The recorded searches that two operating points decide differently.
    ///
    /// # Errors
    /// Returns an error if the server refuses or fails.
    pub async fn compare(
        &self,
        request: CompareOperatingPointsRequest,
    ) -> Result<CompareOperatingPointsResponse, ClientError> {
        let answer = self.points().compare_operating_points(request).await;
        Ok(answer.map_err(|status| refused(&status))?.into_inner())
    }
}
