//! What a client asks about the promise in service.

use serde::Serialize;

use super::audit::{CanariesFound, canaries};
use super::connection::{Client, ClientError, refused};
use super::proto;
use super::proto::operating_point_service_client::OperatingPointServiceClient;

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

impl Client {
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
        why: &str,
        said_by: &str,
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
