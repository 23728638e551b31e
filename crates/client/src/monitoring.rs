//! Calls of `MonitoringService`: the audit, canaries, drift and the shadow deployment.

use super::connection::{Client, ClientError, KeyedChannel, refused};
use super::proto::annotation_result::Result as Answer;
use super::proto::monitoring_service_client::MonitoringServiceClient;
use super::proto::{
    AnnotateDecisionsRequest, Annotation, AnnotationOutcome, AnnotationResult, CanaryRound,
    DriftReset, GetDecisionRequest, GetDecisionResponse, GetDriftRequest, GetDriftResponse,
    GetShadowRequest, GetShadowResponse, ListAuditQueueRequest, RecordedDecision,
    ReplayCanariesRequest, ResetDriftRequest,
};

/// Largest answer: an image, and room for it.
const ANSWER_BYTES_MAX: usize = 1 << 30;
/// Largest page of the audit queue.
const PAGE_MAX: u32 = 1000;

impl Client {
    fn monitoring(&self) -> MonitoringServiceClient<KeyedChannel> {
        MonitoringServiceClient::new(self.channel()).max_decoding_message_size(ANSWER_BYTES_MAX)
    }

    /// Up to `limit` sampled decisions without an annotation, newest first; only those of `stratum` if
    /// there is one. Pages are fetched as needed.
    ///
    /// # Errors
    /// Returns an error if the server refuses or fails.
    pub async fn audit_queue(
        &self,
        deployment: &str,
        stratum: Option<u32>,
        limit: u32,
    ) -> Result<Vec<RecordedDecision>, ClientError> {
        let (mut decisions, mut page_token) = (Vec::new(), String::new());
        loop {
            let left = limit.saturating_sub(u32::try_from(decisions.len()).unwrap_or(u32::MAX));
            if left == 0 {
                return Ok(decisions);
            }
            let request = ListAuditQueueRequest {
                deployment: deployment.to_owned(),
                stratum,
                page_size: left.min(PAGE_MAX),
                page_token,
                ..ListAuditQueueRequest::default()
            };
            let answer = self.monitoring().list_audit_queue(request).await;
            let page = answer.map_err(|status| refused(&status))?.into_inner();
            decisions.extend(page.decisions);
            page_token = page.next_page_token;
            if page_token.is_empty() {
                return Ok(decisions);
            }
        }
    }

    /// One decision with its annotations, and its image if that is kept and wanted.
    ///
    /// # Errors
    /// Returns an error if the server refuses or fails.
    pub async fn decision(
        &self,
        deployment: &str,
        decision_id: &str,
        include_image: bool,
    ) -> Result<GetDecisionResponse, ClientError> {
        let request = GetDecisionRequest {
            deployment: deployment.to_owned(),
            decision_id: decision_id.to_owned(),
            include_image,
            include_matched_image: false,
        };
        let answer = self.monitoring().get_decision(request).await;
        Ok(answer.map_err(|status| refused(&status))?.into_inner())
    }

    /// Annotates decisions. The answers are in the order of the annotations: what each changed, or why
    /// it is refused.
    ///
    /// # Errors
    /// Whatever the server refuses or fails at as a whole.
    pub async fn annotate(
        &self,
        deployment: &str,
        annotations: Vec<Annotation>,
    ) -> Result<Vec<Result<AnnotationOutcome, String>>, ClientError> {
        let request = AnnotateDecisionsRequest {
            deployment: deployment.to_owned(),
            annotations,
        };
        let answer = self.monitoring().annotate_decisions(request).await;
        let results = answer.map_err(|status| refused(&status))?.into_inner();
        Ok(results.results.into_iter().map(outcome).collect())
    }

    /// Searches for every canary now; `None` if there are none, or nothing to judge them by.
    ///
    /// # Errors
    /// Returns an error if the server refuses or fails.
    pub async fn replay_canaries(
        &self,
        deployment: &str,
    ) -> Result<Option<CanaryRound>, ClientError> {
        let request = ReplayCanariesRequest {
            deployment: deployment.to_owned(),
        };
        let answer = self.monitoring().replay_canaries(request).await;
        Ok(answer
            .map_err(|status| refused(&status))?
            .into_inner()
            .round)
    }

    /// What is known about an operating point in service: the one of this id, or the active one if it is
    /// empty.
    ///
    /// # Errors
    /// Returns an error if the server refuses or fails.
    pub async fn drift(
        &self,
        deployment: &str,
        operating_point_id: &str,
    ) -> Result<GetDriftResponse, ClientError> {
        let request = GetDriftRequest {
            deployment: deployment.to_owned(),
            operating_point_id: operating_point_id.to_owned(),
        };
        let answer = self.monitoring().get_drift(request).await;
        Ok(answer.map_err(|status| refused(&status))?.into_inner())
    }

    /// Resets evidence, alarms and rates of the active operating point.
    ///
    /// # Errors
    /// Returns an error if the server refuses or fails.
    pub async fn reset_drift(
        &self,
        deployment: &str,
        reason: &str,
        requested_by: &str,
    ) -> Result<DriftReset, ClientError> {
        let request = ResetDriftRequest {
            deployment: deployment.to_owned(),
            reason: reason.to_owned(),
            requested_by: requested_by.to_owned(),
        };
        let answer = self.monitoring().reset_drift(request).await;
        let answer = answer.map_err(|status| refused(&status))?.into_inner();
        Ok(answer.reset.unwrap_or_default())
    }

    /// What is known about every operating point that has sampled decisions in the journal, and about
    /// the active one; the earliest first.
    ///
    /// # Errors
    /// Returns an error if the server refuses or fails.
    pub async fn drift_history(
        &self,
        deployment: &str,
    ) -> Result<Vec<GetDriftResponse>, ClientError> {
        let known = self.operating_points(deployment).await?;
        let mut history = Vec::new();
        for point in known.operating_points {
            let drift = self.drift(deployment, &point.id).await?;
            if drift.active || 0 < drift.sampled {
                history.push(drift);
            }
        }
        history.sort_by_key(|drift| drift.first_sampled_unix_milliseconds.unwrap_or(i64::MAX));
        Ok(history)
    }

    /// How the shadow deployment compares, with at most `limit` of the latest disagreements; `None` if
    /// there is none.
    ///
    /// # Errors
    /// Returns an error if the server refuses or fails.
    pub async fn shadow(
        &self,
        deployment: &str,
        limit: u32,
    ) -> Result<Option<GetShadowResponse>, ClientError> {
        let request = GetShadowRequest {
            deployment: deployment.to_owned(),
            limit,
        };
        let answer = self.monitoring().get_shadow(request).await;
        let answer = answer.map_err(|status| refused(&status))?.into_inner();
        Ok(Some(answer).filter(|answer| answer.shadow.is_some()))
    }
}

fn outcome(result: AnnotationResult) -> Result<AnnotationOutcome, String> {
    match result.result {
        Some(Answer::Outcome(outcome)) => AnnotationOutcome::try_from(outcome)
            .ok()
            .filter(|outcome| *outcome != AnnotationOutcome::Unspecified)
            .ok_or_else(|| "the server's answer is not understood".to_owned()),
        Some(Answer::Error(error)) => Err(error.message),
        None => Err("the server did not answer for it".to_owned()),
    }
}
