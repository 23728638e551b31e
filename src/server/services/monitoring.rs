//! `MonitoringService`: the audit of decisions, and whether the promise is kept.

use std::sync::Arc;

use tonic::{Code, Request, Response, Status};

use crate::deployment::{Deployment, DeploymentError};
use crate::journal::entry::{self, AnnotationRefusal, DecisionId, DecisionRow};
use crate::journal::read::QueueRequest;
use crate::monitor::{
    AnnotatedDecision, AnnotationReport, CanaryRound as Round, MonitorError, RefusedReport,
    ReportedTruth,
};
use crate::server::access::changes::changed;
use crate::server::messages::convert::{self, truth};
use crate::server::messages::drift;
use crate::server::registry::Registry;
use crate::server::request_id::caller_of;
use crate::server::services::shadow;
use crate::server::status::{from_error, status, wrong_replica};
use crate::server::stream::as_message;
use matchpoint_calibration::operating_point::OperatingPoint;
use matchpoint_client::proto::annotation_result::Result as Answer;
use matchpoint_client::proto::ground_truth::Truth as Shown;
use matchpoint_client::proto::monitoring_service_server::MonitoringService;
use matchpoint_client::proto::{
    AnnotateDecisionsRequest, AnnotateDecisionsResponse, Annotation, AnnotationKind,
    AnnotationOutcome, AnnotationResult, CanaryRound, GetDecisionRequest, GetDecisionResponse,
    GetDriftRequest, GetDriftResponse, GetShadowRequest, GetShadowResponse, ListAuditQueueRequest,
    ListAuditQueueResponse, RecordedDecision, ReplayCanariesRequest, ReplayCanariesResponse,
    ResetDriftRequest, ResetDriftResponse,
};
use matchpoint_embed::caller::Caller;

/// The default number of decisions in a page.
const PAGE_USUAL: u32 = 50;
/// The highest number of decisions in a page.
const PAGE_MAX: u32 = 1000;
/// The highest number of annotations in a call.
const ANNOTATIONS_MAX: usize = 10_000;

#[derive(Clone, Debug)]
pub(in crate::server) struct MonitoringHandler {
    pub(in crate::server) registry: Registry,
}

impl MonitoringHandler {
    /// The same, for the caller of a request.
    fn called_by<T>(&self, request: &Request<T>) -> Self {
        Self {
            registry: self.registry.called_by(request),
        }
    }

    async fn list(&self, request: ListAuditQueueRequest) -> Result<ListAuditQueueResponse, Status> {
        let deployment = self.registry.find(&request.deployment)?;
        let limit = match request.page_size {
            0 => PAGE_USUAL,
            size if size <= PAGE_MAX => size,
            size => {
                let problem = format!("page_size is {size}; it must be 1 to {PAGE_MAX}");
                return Err(convert::invalid(&problem));
            }
        };
        let before = match request.page_token.as_str() {
            "" => None,
            token => Some(DecisionId::parse(token).ok_or_else(|| {
                convert::invalid("page_token is not one that this call has returned")
            })?),
        };
        let stratum = request
            .stratum
            .map(u16::try_from)
            .transpose()
            .map_err(|_range| convert::invalid("stratum is not one of the design"))?;
        let asked = QueueRequest {
            operating_point: Some(request.operating_point_id).filter(|id| !id.is_empty()),
            stratum,
            before,
            since_ms: 0,
            limit,
        };
        let read = move || deployment.monitor().audit_queue(&asked);
        let rows = self.registry.heavy(read).await?;
        let rows = rows.map_err(refused_by_monitor)?;
        let full = usize::try_from(limit).is_ok_and(|limit| rows.len() == limit);
        let last = rows.last().filter(|_| full);
        Ok(ListAuditQueueResponse {
            next_page_token: last.map(|row| row.entry.id.to_string()).unwrap_or_default(),
            decisions: rows.into_iter().map(recorded).collect(),
        })
    }

    async fn get(
        &self,
        caller: Caller,
        request: GetDecisionRequest,
    ) -> Result<GetDecisionResponse, Status> {
        let deployment = self.registry.find(&request.deployment)?;
        let of_journal = Arc::clone(&deployment);
        let read = move || {
            of_journal
                .monitor()
                .decision(&request.decision_id, request.include_image)
        };
        let found = self.registry.heavy(read).await?;
        let AnnotatedDecision {
            row,
            history,
            image,
        } = found.map_err(refused_by_monitor)?;
        let id = row.entry.id.to_string();
        let matched = row.entry.best.as_ref().map(|best| best.item.clone());
        let matched_image = match matched.filter(|_| request.include_matched_image) {
            Some(item) => deployment.image(caller, item).await,
            None => Ok(None),
        };
        let matched_image = matched_image.map_err(|error| from_error(&error))?;
        Ok(GetDecisionResponse {
            matched_image: matched_image.unwrap_or_default(),
            decision: Some(recorded(row)),
            annotations: history
                .into_iter()
                .map(|one| annotation(id.clone(), one))
                .collect(),
            image: image.unwrap_or_default(),
        })
    }

    async fn annotate(
        &self,
        request: AnnotateDecisionsRequest,
    ) -> Result<AnnotateDecisionsResponse, Status> {
        let deployment = self.registry.find(&request.deployment)?;
        let count = request.annotations.len();
        if !(1..=ANNOTATIONS_MAX).contains(&count) {
            let problem =
                format!("annotations has {count} entries; it must have 1 to {ANNOTATIONS_MAX}");
            return Err(convert::invalid(&problem));
        }
        let mut results: Vec<Option<AnnotationResult>> = Vec::new();
        let mut reports = Vec::new();
        for report in request.annotations {
            match read(report) {
                Ok(mut report) => {
                    if report.annotator.is_empty()
                        && let Some(name) = self.registry.identity().name()
                    {
                        name.clone_into(&mut report.annotator);
                    }
                    reports.push(report);
                    results.push(None);
                }
                Err(problem) => results.push(Some(refused(&problem))),
            }
        }
        let name = deployment.name().to_owned();
        let annotated: Vec<String> = reports.iter().map(annotated).collect();
        let written = self
            .registry
            .heavy(move || deployment.monitor().report_truths(reports))
            .await?;
        let written = written.map_err(refused_by_monitor)?;
        for (what, outcome) in annotated.iter().zip(&written) {
            if outcome.is_ok() {
                changed(self.registry.identity(), "AnnotateDecisions", &name, what);
            }
        }
        let mut written = written.into_iter();
        let filled = results.into_iter().map(|result| {
            result.unwrap_or_else(|| match written.next() {
                Some(Ok(outcome)) => AnnotationResult {
                    result: Some(Answer::Outcome(taken(outcome).into())),
                },
                Some(Err(RefusedReport::Journal(
                    elsewhere @ AnnotationRefusal::Elsewhere { decision },
                ))) => of_error(&wrong_replica(&elsewhere.to_string(), decision)),
                Some(Err(problem)) => refused(&problem.to_string()),
                None => refused("the journal did not answer for it"),
            })
        });
        Ok(AnnotateDecisionsResponse {
            results: filled.collect(),
        })
    }

    async fn replay(
        &self,
        found: Result<Arc<Deployment>, Status>,
    ) -> Result<ReplayCanariesResponse, Status> {
        let deployment = found?;
        let round = deployment.replay_canaries().await;
        let round = round.map_err(|error| from_error(&error))?;
        Ok(ReplayCanariesResponse {
            round: round.as_ref().map(canaries),
        })
    }

    async fn drift(&self, request: GetDriftRequest) -> Result<GetDriftResponse, Status> {
        let deployment = self.registry.find(&request.deployment)?;
        let round = deployment.monitor().latest_canaries();
        let active_point = deployment.active_point();
        let read = move || {
            let id = Some(request.operating_point_id).filter(|id| !id.is_empty());
            let find = |id: &str| deployment.folder().operating_point(id);
            deployment.monitor().drift(id.as_deref(), find)
        };
        let found = self.registry.heavy(read).await?;
        let found = found.map_err(|error: DeploymentError| from_error(&error))?;
        let found = found.map(|found| {
            let active = active_point.valid().map(OperatingPoint::id) == Some(found.point.id());
            GetDriftResponse {
                canaries: round.as_deref().filter(|_| active).map(canaries),
                active,
                ..drift::drift_response(found)
            }
        });
        Ok(found.unwrap_or_default())
    }

    async fn reset(&self, request: ResetDriftRequest) -> Result<ResetDriftResponse, Status> {
        let deployment = self.registry.find(&request.deployment)?;
        let (name, reason) = (deployment.name().to_owned(), request.reason.clone());
        let begin = move || {
            deployment
                .monitor()
                .reset_drift(&request.reason, &request.requested_by)
        };
        let reset = self.registry.heavy(begin).await?;
        let reset = reset.map_err(refused_by_monitor)?;
        changed(self.registry.identity(), "ResetDrift", &name, &reason);
        Ok(ResetDriftResponse {
            reset: Some(drift::reset(reset)),
        })
    }
}

#[tonic::async_trait]
impl MonitoringService for MonitoringHandler {
    async fn list_audit_queue(
        &self,
        request: Request<ListAuditQueueRequest>,
    ) -> Result<Response<ListAuditQueueResponse>, Status> {
        let service = self.called_by(&request);
        let work = service.list(request.into_inner());
        let answer = self.registry.call("ListAuditQueue", work).await;
        answer.map(Response::new)
    }

    async fn get_decision(
        &self,
        request: Request<GetDecisionRequest>,
    ) -> Result<Response<GetDecisionResponse>, Status> {
        let service = self.called_by(&request);
        let caller = self.registry.waiting(caller_of(&request));
        let work = service.get(caller, request.into_inner());
        let answer = self.registry.call("GetDecision", work).await;
        answer.map(Response::new)
    }

    async fn annotate_decisions(
        &self,
        request: Request<AnnotateDecisionsRequest>,
    ) -> Result<Response<AnnotateDecisionsResponse>, Status> {
        let service = self.called_by(&request);
        let work = service.annotate(request.into_inner());
        let answer = self.registry.call("AnnotateDecisions", work).await;
        answer.map(Response::new)
    }

    async fn replay_canaries(
        &self,
        request: Request<ReplayCanariesRequest>,
    ) -> Result<Response<ReplayCanariesResponse>, Status> {
        let service = self.called_by(&request);
        let request = request.into_inner();
        // A round has as many searches as there are canaries, and each may take as long as a call.
        let found = service.registry.find(&request.deployment);
        let canaries = found.as_ref();
        let canaries = canaries.map_or(Ok(0), |deployment| deployment.monitor().canary_count());
        let canaries = canaries.map_err(refused_by_monitor)?;
        let work = service.replay(found);
        let calls = u32::try_from(canaries).unwrap_or(u32::MAX);
        let answer = self.registry.call_of(calls, "ReplayCanaries", work).await;
        answer.map(Response::new)
    }

    async fn get_drift(
        &self,
        request: Request<GetDriftRequest>,
    ) -> Result<Response<GetDriftResponse>, Status> {
        let service = self.called_by(&request);
        let work = service.drift(request.into_inner());
        let answer = self.registry.call("GetDrift", work).await;
        answer.map(Response::new)
    }

    async fn reset_drift(
        &self,
        request: Request<ResetDriftRequest>,
    ) -> Result<Response<ResetDriftResponse>, Status> {
        let service = self.called_by(&request);
        let work = service.reset(request.into_inner());
        let answer = self.registry.call("ResetDrift", work).await;
        answer.map(Response::new)
    }

    async fn get_shadow(
        &self,
        request: Request<GetShadowRequest>,
    ) -> Result<Response<GetShadowResponse>, Status> {
        let registry = self.registry.called_by(&request);
        let work = shadow::get(&registry, request.into_inner());
        let answer = self.registry.call("GetShadow", work).await;
        answer.map(Response::new)
    }
}

fn refused_by_monitor(error: MonitorError) -> Status {
    from_error(&error.into())
}

/// An annotation for the log: the decision and the annotator, without the content.
fn annotated(report: &AnnotationReport) -> String {
    format!("{} by {}", report.decision_id, report.annotator)
}

fn read(report: Annotation) -> Result<AnnotationReport, String> {
    let kind = match AnnotationKind::try_from(report.kind) {
        Ok(AnnotationKind::Unspecified | AnnotationKind::Audit) => entry::AnnotationKind::Audit,
        Ok(AnnotationKind::Feedback) => entry::AnnotationKind::Feedback,
        Err(_unknown) => return Err("kind is not one of AnnotationKind".to_owned()),
    };
    let stranger = report
        .ground_truth
        .as_ref()
        .map(|truth| truth.stranger_name.clone());
    let stranger = stranger.filter(|name| !name.is_empty());
    let truth = report.ground_truth.and_then(|truth| truth.truth);
    let truth = match truth {
        Some(Shown::Label(_) | Shown::Unusable(_)) if stranger.is_some() => {
            return Err("stranger_name goes with not_enrolled only".to_owned());
        }
        Some(Shown::Label(label)) => ReportedTruth::Label(label),
        Some(Shown::NotEnrolled(true)) => {
            stranger.map_or(ReportedTruth::NotEnrolled, ReportedTruth::Stranger)
        }
        Some(Shown::Unusable(true)) => ReportedTruth::Unusable,
        Some(Shown::NotEnrolled(false) | Shown::Unusable(false)) => {
            return Err("truth is false; leave it out, or set it to true".to_owned());
        }
        None => return Err("ground_truth is required: label, not_enrolled or unusable".to_owned()),
    };
    Ok(AnnotationReport {
        decision_id: report.decision_id,
        truth,
        annotator: report.annotator,
        kind,
    })
}

fn refused(problem: &str) -> AnnotationResult {
    of_error(&status(
        Code::InvalidArgument,
        "ANNOTATION_INVALID",
        problem,
    ))
}

fn of_error(refused: &Status) -> AnnotationResult {
    AnnotationResult {
        result: Some(Answer::Error(as_message(refused))),
    }
}

fn taken(outcome: entry::AnnotationOutcome) -> AnnotationOutcome {
    match outcome {
        entry::AnnotationOutcome::Added => AnnotationOutcome::Added,
        entry::AnnotationOutcome::Confirmed => AnnotationOutcome::Confirmed,
        entry::AnnotationOutcome::Corrected => AnnotationOutcome::Corrected,
        entry::AnnotationOutcome::Repeated => AnnotationOutcome::Repeated,
    }
}

fn annotation(decision_id: String, label: entry::Annotation) -> Annotation {
    Annotation {
        decision_id,
        ground_truth: Some(truth(label.truth)),
        kind: match label.kind {
            entry::AnnotationKind::Audit => AnnotationKind::Audit,
            entry::AnnotationKind::Feedback => AnnotationKind::Feedback,
        }
        .into(),
        annotator: label.annotator,
        unix_milliseconds: label.unix_ms.cast_signed(),
    }
}

fn recorded(row: DecisionRow) -> RecordedDecision {
    let (entry, best) = (row.entry, row.annotation);
    let found = entry.best;
    let sampling = entry.sampling;
    RecordedDecision {
        decision_id: entry.id.to_string(),
        unix_milliseconds: entry.id.unix_ms().cast_signed(),
        decision: convert::decision(entry.decision).into(),
        operating_point_id: entry.operating_point.unwrap_or_default(),
        score: found.as_ref().map(|best| best.similarity),
        decision_score: found.as_ref().and_then(|best| best.decision_score),
        margin: found.as_ref().and_then(|best| best.margin),
        matched_item_id: found
            .as_ref()
            .map(|best| best.item.clone())
            .unwrap_or_default(),
        matched_label: found.map(|best| best.label).unwrap_or_default(),
        generation: entry.generation,
        gallery_items: entry.gallery_items,
        filtered: entry.filtered,
        stratum: sampling.map(|sampling| sampling.stratum().into()),
        inclusion_probability: sampling.map(|sampling| sampling.probability()),
        sampled: sampling.is_some_and(|sampling| sampling.sampled()),
        ground_truth: best.map(|label| truth(label.truth)),
        state: entry
            .state
            .map(|state| state.to_string())
            .unwrap_or_default(),
    }
}

fn canaries(round: &Round) -> CanaryRound {
    let (frr, far) = (round.rates.frr, round.rates.far);
    CanaryRound {
        operating_point_id: round.operating_point.clone(),
        unix_milliseconds: round.unix_ms.cast_signed(),
        mated: frr.trials,
        mated_errors: frr.errors,
        non_mated: far.trials,
        non_mated_errors: far.errors,
        changed: round.changed.clone(),
        failed: round
            .failed
            .iter()
            .map(|(name, reason)| format!("{name}: {reason}"))
            .collect(),
    }
}
