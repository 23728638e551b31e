//! What a client asks about the audit: the queue, truths, drift.

use serde::Serialize;

use super::client::{Client, ClientError, refused};
use super::proto::monitoring_service_client::MonitoringServiceClient;
use super::proto::operating_point_service_client::OperatingPointServiceClient;
use super::proto::truth::Truth as Shown;
use super::proto::truth_result::Result as Answer;
use super::proto::{self, TruthOutcome};
use crate::deployment::{LabelKind, Told, TruthReport};

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

/// What is known of the operating point that decides.
#[derive(Clone, Debug, Serialize)]
pub struct DriftFound {
    /// The operating point; empty where none is valid.
    pub operating_point: String,
    /// Whether it decides now.
    pub active: bool,
    /// When its first drawn decision was made, in milliseconds since 1970-01-01 UTC.
    pub first_unix_milliseconds: Option<i64>,
    /// When its latest was.
    pub last_unix_milliseconds: Option<i64>,
    /// FAR, where known.
    pub far: Option<RateFound>,
    /// FRR, where known.
    pub frr: Option<RateFound>,
    /// FAR of the latest drawn decisions, where known.
    pub far_recent: Option<RateFound>,
    /// FRR of the latest drawn decisions, where known.
    pub frr_recent: Option<RateFound>,
    /// Share of wrong accepts, where known.
    pub false_discovery: Option<RateFound>,
    /// Evidence against the FAR.
    pub far_evidence: Option<EvidenceFound>,
    /// Evidence against the FRR.
    pub frr_evidence: Option<EvidenceFound>,
    /// Drawn decisions.
    pub drawn: u64,
    /// Labelled ones of them.
    pub labelled: u64,
    /// Accepts that were called right unasked.
    pub feedback_right: u64,
    /// Accepts that were called wrong unasked.
    pub feedback_wrong: u64,
    /// The latest round of canaries.
    pub canaries: Option<CanariesFound>,
    /// Whether the labels can certify the target anew.
    pub recalibration: Option<RecalibrationFound>,
    /// Labels and conditions that have more of the labelled errors than chance explains.
    pub groups: Vec<GroupFound>,
    /// When and why evidence was begun anew, the earliest first.
    pub resets: Vec<ResetFound>,
    /// How the rates came to what they are.
    pub course: Vec<RatesAtFound>,
    /// In words, the most urgent first.
    pub findings: Vec<FindingFound>,
}

/// What it takes to certify the target anew, and what there is of it.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct RecalibrationFound {
    /// Whether it takes strangers (a target FAR) rather than enrolled labels (a target FRR).
    pub strangers: bool,
    /// How many it takes, at the least.
    pub needed: u64,
    /// How many the plain sample of the labels has; `None` where there is none.
    pub present: Option<u64>,
    /// Those of `present` that are strangers without a name, by whom nothing is certified.
    pub unnamed: u64,
    /// About how many labels are missing.
    pub labels_missing: Option<u64>,
    /// Only decisions from then on count, in milliseconds since 1970-01-01 UTC.
    pub since_unix_milliseconds: Option<i64>,
}

/// A label or a condition that has more of the errors than chance explains.
#[derive(Clone, Debug, Serialize)]
pub struct GroupFound {
    /// Which errors: `far` or `frr`.
    pub rate: String,
    /// The metadata column; empty for a label.
    pub column: String,
    /// Its value, or the label.
    pub value: String,
    /// The item that was falsely accepted most often; may be empty.
    pub item: String,
    /// Labelled errors in the group.
    pub errors: u64,
    /// Labelled decisions in it that could have been such errors.
    pub trials: u64,
    /// Labelled errors in all.
    pub all_errors: u64,
    /// Labelled decisions in all that could have been such errors.
    pub all_trials: u64,
    /// The probability that chance gives some group as much.
    pub p_value: f64,
}

/// Evidence was begun anew.
#[derive(Clone, Debug, Serialize)]
pub struct ResetFound {
    /// From when on decisions count, in milliseconds since 1970-01-01 UTC.
    pub unix_milliseconds: i64,
    /// What was mended.
    pub why: String,
    /// Who says so.
    pub said_by: String,
}

/// The rates of all drawn decisions up to a time.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct RatesAtFound {
    /// The time, in milliseconds since 1970-01-01 UTC.
    pub unix_milliseconds: i64,
    /// FAR, where known.
    pub far: Option<RateFound>,
    /// FRR, where known.
    pub frr: Option<RateFound>,
}

/// A rate with its interval.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct RateFound {
    /// The estimate.
    pub rate: f64,
    /// Lower end.
    pub lower: f64,
    /// Upper end.
    pub upper: f64,
    /// Confidence of the interval.
    pub confidence: f64,
    /// Labels that bear on it.
    pub labels: u64,
    /// Of these, errors.
    pub labelled_errors: u64,
}

/// Evidence against a limit.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct EvidenceFound {
    /// The limit.
    pub limit: f64,
    /// Whether it is a target.
    pub target: bool,
    /// Logarithm of the evidence.
    pub log_evidence: f64,
    /// What it takes for an alarm.
    pub log_evidence_alarm: f64,
    /// Whether there is one.
    pub alarm: bool,
    /// Drawn decisions.
    pub observations: u64,
    /// When the drawn decision was made that raised the alarm, in milliseconds since 1970-01-01 UTC.
    pub alarm_unix_milliseconds: Option<i64>,
    /// CUSUM by its limit.
    pub cusum: f64,
    /// When the drawn decision was made with which its rise began.
    pub rise_unix_milliseconds: Option<i64>,
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

/// One finding.
#[derive(Clone, Debug, Serialize)]
pub struct FindingFound {
    /// What it is about.
    pub subject: String,
    /// `KEPT`, `NOTE`, `UNKNOWN`, `WARNING` or `BROKEN`.
    pub verdict: String,
    /// In words.
    pub says: String,
    /// What to do.
    pub next: String,
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

impl Client {
    fn monitoring(&self) -> MonitoringServiceClient<tonic::transport::Channel> {
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
            kind: match report.kind {
                LabelKind::Audit => proto::TruthKind::Audit,
                LabelKind::Feedback => proto::TruthKind::Feedback,
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

    /// What is known of an operating point: the one of this id, or of the one that decides where it
    /// is empty.
    ///
    /// # Errors
    /// Whatever the server refuses or fails at.
    pub async fn drift(
        &self,
        deployment: &str,
        operating_point: &str,
    ) -> Result<DriftFound, ClientError> {
        let request = proto::GetDriftRequest {
            deployment: deployment.to_owned(),
            operating_point_id: operating_point.to_owned(),
        };
        let answer = self.monitoring().get_drift(request).await;
        Ok(drift(
            answer.map_err(|status| refused(&status))?.into_inner(),
        ))
    }

    /// Begins the evidence against the operating point that decides anew, since what is said to be why was
    /// mended.
    ///
    /// # Errors
    /// Whatever the server refuses or fails at.
    pub async fn reset_drift(
        &self,
        deployment: &str,
        (why, said_by): (&str, &str),
    ) -> Result<ResetFound, ClientError> {
        let request = proto::ResetDriftRequest {
            deployment: deployment.to_owned(),
            why: why.to_owned(),
            said_by: said_by.to_owned(),
        };
        let answer = self.monitoring().reset_drift(request).await;
        let found = answer.map_err(|status| refused(&status))?.into_inner();
        Ok(reset(found.reset.unwrap_or_default()))
    }

    /// What is known of every operating point that has drawn decisions in the journal, and of the
    /// one that decides; the earliest first.
    ///
    /// # Errors
    /// Whatever the server refuses or fails at.
    pub async fn drift_history(&self, deployment: &str) -> Result<Vec<DriftFound>, ClientError> {
        let mut points = OperatingPointServiceClient::new(self.channel());
        let request = proto::ListOperatingPointsRequest {
            deployment: deployment.to_owned(),
        };
        let answer = points.list_operating_points(request).await;
        let known = answer.map_err(|status| refused(&status))?.into_inner();
        let mut history = Vec::new();
        for point in known.operating_points {
            let found = self.drift(deployment, &point.id).await?;
            if found.active || 0 < found.drawn {
                history.push(found);
            }
        }
        history.sort_by_key(|found| found.first_unix_milliseconds.unwrap_or(i64::MAX));
        Ok(history)
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

fn canaries(round: proto::CanaryRound) -> CanariesFound {
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

fn rate(rate: proto::AuditedRate) -> RateFound {
    RateFound {
        rate: rate.rate,
        lower: rate.lower,
        upper: rate.upper,
        confidence: rate.confidence,
        labels: rate.labels,
        labelled_errors: rate.labelled_errors,
    }
}

fn recalibration(found: &proto::Recalibration) -> RecalibrationFound {
    RecalibrationFound {
        strangers: found.rate == "far",
        needed: found.needed,
        present: found.present,
        labels_missing: found.labels_missing,
        since_unix_milliseconds: found.since_unix_milliseconds,
        unnamed: found.unnamed,
    }
}

fn group(found: proto::ErrorGroup) -> GroupFound {
    GroupFound {
        rate: found.rate,
        column: found.column,
        value: found.value,
        item: found.item_id,
        errors: found.errors,
        trials: found.trials,
        all_errors: found.all_errors,
        all_trials: found.all_trials,
        p_value: found.p_value,
    }
}

fn reset(found: proto::DriftReset) -> ResetFound {
    ResetFound {
        unix_milliseconds: found.unix_milliseconds,
        why: found.why,
        said_by: found.said_by,
    }
}

fn rates_at(found: proto::RatesAt) -> RatesAtFound {
    RatesAtFound {
        unix_milliseconds: found.unix_milliseconds,
        far: found.far.map(rate),
        frr: found.frr.map(rate),
    }
}

fn drift(found: proto::GetDriftResponse) -> DriftFound {
    let evidence = |evidence: proto::Evidence| EvidenceFound {
        limit: evidence.limit,
        target: evidence.target,
        log_evidence: evidence.log_evidence,
        log_evidence_alarm: evidence.log_evidence_alarm,
        alarm: evidence.alarm,
        observations: evidence.observations,
        alarm_unix_milliseconds: evidence.alarm_unix_milliseconds,
        cusum: evidence.cusum_ratio,
        rise_unix_milliseconds: evidence.rise_unix_milliseconds,
    };
    DriftFound {
        operating_point: found.operating_point_id,
        active: found.active,
        first_unix_milliseconds: found.first_unix_milliseconds,
        last_unix_milliseconds: found.last_unix_milliseconds,
        far: found.far.map(rate),
        far_recent: found.far_recent.map(rate),
        frr_recent: found.frr_recent.map(rate),
        frr: found.frr.map(rate),
        false_discovery: found.false_discovery.map(rate),
        far_evidence: found.far_evidence.map(evidence),
        frr_evidence: found.frr_evidence.map(evidence),
        drawn: found.drawn,
        labelled: found.labelled,
        feedback_right: found.feedback_right,
        feedback_wrong: found.feedback_wrong,
        canaries: found.canaries.map(canaries),
        recalibration: found.recalibration.as_ref().map(recalibration),
        groups: found.groups.into_iter().map(group).collect(),
        resets: found.resets.into_iter().map(reset).collect(),
        course: found.course.into_iter().map(rates_at).collect(),
        findings: found
            .findings
            .into_iter()
            .map(|finding| FindingFound {
                verdict: finding.verdict().as_str_name().replace("VERDICT_", ""),
                subject: finding.subject,
                says: finding.says,
                next: finding.next,
            })
            .collect(),
    }
}
