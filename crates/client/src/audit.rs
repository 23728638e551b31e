//! What a client asks about the audit: the queue, truths, canaries.

use serde::Serialize;

use super::connection::{Client, ClientError, refused};
use super::proto::monitoring_service_client::MonitoringServiceClient;
use super::proto::truth::Truth as Shown;
use super::proto::truth_result::Result as Answer;
use super::proto::{self, TruthOutcome};

/// Largest answer: an image, and room for it.
const ANSWER_BYTES_MAX: usize = 1 << 30;

/// A decision, as a client sees it.
#[derive(Clone, Debug, Serialize)]
pub struct Decided {
    /// Its id.
    pub decision_id: String,
    /// When: milliseconds since 1970-01-01 UTC.
    pub unix_milliseconds: i64,
    /// `ACCEPT`, `REJECT` or `UNDECIDED`.
    pub decision: String,
    /// The operating point.
    pub operating_point: String,
    /// Label of the best match.
    pub label: String,
    /// Its id.
    pub item: String,
    /// Its similarity.
    pub score: f32,
    /// What was held against the threshold.
    pub decision_score: Option<f32>,
    /// How much nearer it is than the best match of another label.
    pub margin: Option<f32>,
    /// Stratum of the audit.
    pub stratum: Option<u32>,
    /// Probability of being drawn.
    pub inclusion_probability: f64,
    /// Whether it was drawn.
    pub drawn: bool,
    /// Whether a filter was used.
    pub filtered: bool,
    /// What it showed, as was said last: a label, `(not enrolled)` or `(unusable)`.
    pub truth: Option<String>,
}

/// What somebody said of a decision.
#[derive(Clone, Debug, Serialize)]
pub struct Said {
    /// A label, `(not enrolled)` or `(unusable)`.
    pub truth: String,
    /// Who.
    pub said_by: String,
    /// Whether they spoke without being asked.
    pub unasked: bool,
    /// When: milliseconds since 1970-01-01 UTC.
    pub unix_milliseconds: i64,
}

/// A decision with its history and image.
#[derive(Clone, Debug, Serialize)]
pub struct DecisionFound {
    /// The decision.
    #[serde(flatten)]
    pub decision: Decided,
    /// What was said of it, the latest last.
    pub history: Vec<Said>,
    /// The image; empty where it is not kept.
    #[serde(skip)]
    pub image: Vec<u8>,
}

/// A round of canaries.
#[derive(Clone, Debug, Serialize)]
pub struct CanariesFound {
    /// The operating point that decided.
    pub operating_point: String,
    /// Canaries whose label is enrolled, and was not left out of the search.
    pub mated: u64,
    /// Those of them in error.
    pub mated_errors: u64,
    /// Canaries whose label is not enrolled, or was left out of the search.
    pub non_mated: u64,
    /// Those of them in error.
    pub non_mated_errors: u64,
    /// Names of those that came out otherwise than at first.
    pub changed: Vec<String>,
    /// Those that failed, and why.
    pub failed: Vec<String>,
}

/// Which decisions of the queue are asked for.
#[derive(Clone, Debug, Default)]
pub struct QueueAsked {
    /// Name of the deployment; may be empty where the server has one.
    pub deployment: String,
    /// Only of this stratum.
    pub stratum: Option<u32>,
    /// How many; pages are fetched as needed.
    pub limit: u32,
}

/// What somebody says that a decision's query showed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    /// This enrolled label.
    Label(String),
    /// Something that is not enrolled.
    NotEnrolled,
    /// Something that is not enrolled, by a name: the same name for the same one.
    Stranger(String),
    /// Nobody can tell.
    Unusable,
}

/// A truth to be reported.
#[derive(Clone, Debug)]
pub struct TruthReport {
    /// Id of the decision.
    pub decision_id: String,
    /// What the query showed.
    pub told: Told,
    /// Who says so; empty for `unnamed`.
    pub said_by: String,
    /// Whether they speak without being asked.
    pub unasked: bool,
}

impl Client {
    /// Where the audit is asked about.
    pub(super) fn monitoring(&self) -> MonitoringServiceClient<tonic::transport::Channel> {
        MonitoringServiceClient::new(self.channel()).max_decoding_message_size(ANSWER_BYTES_MAX)
    }

    /// Drawn decisions that wait for a label, newest first.
    ///
    /// # Errors
    /// Whatever the server refuses or fails at.
    pub async fn audit_queue(&self, asked: &QueueAsked) -> Result<Vec<Decided>, ClientError> {
        let (mut decisions, mut page_token) = (Vec::new(), String::new());
        loop {
            let left = asked
                .limit
                .saturating_sub(u32::try_from(decisions.len()).unwrap_or(u32::MAX));
            if left == 0 {
                return Ok(decisions);
            }
            let request = proto::ListAuditQueueRequest {
                deployment: asked.deployment.clone(),
                stratum: asked.stratum,
                page_size: left.min(1000),
                page_token,
                ..proto::ListAuditQueueRequest::default()
            };
            let answer = self.monitoring().list_audit_queue(request).await;
            let page = answer.map_err(|status| refused(&status))?.into_inner();
            decisions.extend(page.decisions.into_iter().map(decided));
            page_token = page.next_page_token;
            if page_token.is_empty() {
                return Ok(decisions);
            }
        }
    }

    /// One decision.
    ///
    /// # Errors
    /// Whatever the server refuses or fails at.
    pub async fn decision(
        &self,
        deployment: &str,
        decision_id: &str,
        with_image: bool,
    ) -> Result<DecisionFound, ClientError> {
        let request = proto::GetDecisionRequest {
            deployment: deployment.to_owned(),
            decision_id: decision_id.to_owned(),
            with_image,
        };
        let answer = self.monitoring().get_decision(request).await;
        let found = answer.map_err(|status| refused(&status))?.into_inner();
        Ok(DecisionFound {
            decision: decided(found.decision.unwrap_or_default()),
            history: found
                .history
                .into_iter()
                .map(|entry| Said {
                    unasked: entry.kind() == proto::TruthKind::Feedback,
                    truth: words(entry.truth).unwrap_or_default(),
                    said_by: entry.said_by,
                    unix_milliseconds: entry.unix_milliseconds,
                })
                .collect(),
            image: found.image,
        })
    }

    /// Reports truths; the answers are in their order: `added`, `confirmed`, `corrected` or
    /// `repeated`, or why one is not taken.
    ///
    /// # Errors
    /// Whatever the server refuses or fails at as a whole.
    pub async fn report_truths(
        &self,
        deployment: &str,
        reports: Vec<TruthReport>,
    ) -> Result<Vec<Result<&'static str, String>>, ClientError> {
        let reports = reports.into_iter().map(|report| proto::TruthReport {
            decision_id: report.decision_id,
            truth: Some(told(report.told)),
            said_by: report.said_by,
            kind: if report.unasked {
                proto::TruthKind::Feedback
            } else {
                proto::TruthKind::Audit
            }
            .into(),
        });
        let request = proto::ReportTruthsRequest {
            deployment: deployment.to_owned(),
            reports: reports.collect(),
        };
        let answer = self.monitoring().report_truths(request).await;
        let results = answer.map_err(|status| refused(&status))?.into_inner();
        Ok(results.results.iter().map(outcome).collect())
    }

    /// Searches for every canary now; `None` where there are none, or nothing to judge them by.
    ///
    /// # Errors
    /// Whatever the server refuses or fails at.
    pub async fn replay_canaries(
        &self,
        deployment: &str,
    ) -> Result<Option<CanariesFound>, ClientError> {
        let request = proto::ReplayCanariesRequest {
            deployment: deployment.to_owned(),
        };
        let answer = self.monitoring().replay_canaries(request).await;
        let found = answer.map_err(|status| refused(&status))?.into_inner();
        Ok(found.round.map(canaries))
    }
}

fn outcome(result: &proto::TruthResult) -> Result<&'static str, String> {
    match &result.result {
        Some(Answer::Outcome(outcome)) => match TruthOutcome::try_from(*outcome) {
            Ok(TruthOutcome::Added) => Ok("added"),
            Ok(TruthOutcome::Confirmed) => Ok("confirmed"),
            Ok(TruthOutcome::Corrected) => Ok("corrected"),
            Ok(TruthOutcome::Repeated) => Ok("repeated"),
            Ok(TruthOutcome::Unspecified) | Err(_) => {
                Err("the server's answer is not understood".to_owned())
            }
        },
        Some(Answer::Error(error)) => Err(error.message.clone()),
        None => Err("the server did not answer for it".to_owned()),
    }
}

fn told(told: Told) -> proto::Truth {
    let (truth, stranger) = match told {
        Told::Label(label) => (Shown::Label(label), String::new()),
        Told::NotEnrolled => (Shown::NotEnrolled(true), String::new()),
        Told::Stranger(name) => (Shown::NotEnrolled(true), name),
        Told::Unusable => (Shown::Unusable(true), String::new()),
    };
    proto::Truth {
        truth: Some(truth),
        stranger,
    }
}

fn words(truth: Option<proto::Truth>) -> Option<String> {
    let truth = truth?;
    Some(match truth.truth? {
        Shown::Label(label) => label,
        Shown::NotEnrolled(_) if !truth.stranger.is_empty() => {
            format!("(not enrolled: {})", truth.stranger)
        }
        Shown::NotEnrolled(_) => "(not enrolled)".to_owned(),
        Shown::Unusable(_) => "(unusable)".to_owned(),
    })
}

fn decided(found: proto::RecordedDecision) -> Decided {
    Decided {
        decision: found.decision().as_str_name().replace("DECISION_", ""),
        decision_id: found.decision_id,
        unix_milliseconds: found.unix_milliseconds,
        operating_point: found.operating_point_id,
        label: found.label,
        item: found.item_id,
        score: found.score,
        decision_score: found.decision_score,
        margin: found.margin,
        stratum: found.stratum,
        inclusion_probability: found.inclusion_probability,
        drawn: found.drawn,
        filtered: found.filtered,
        truth: words(found.truth),
    }
}

pub(super) fn canaries(round: proto::CanaryRound) -> CanariesFound {
    CanariesFound {
        operating_point: round.operating_point_id,
        mated: round.mated,
        mated_errors: round.mated_errors,
        non_mated: round.non_mated,
        non_mated_errors: round.non_mated_errors,
        changed: round.changed,
        failed: round.failed,
    }
}
