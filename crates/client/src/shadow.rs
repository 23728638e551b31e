//! What a client asks about a candidate beside a deployment.

use serde::Serialize;

use super::connection::{Client, ClientError, refused};
use super::proto::monitoring_service_client::MonitoringServiceClient;
use super::proto::server_service_client::ServerServiceClient;
use super::proto::truth::Truth as Shown;
use super::proto::{
    self, GetShadowRequest, ReloadShadowRequest, ShadowBest, ShadowCount, ShadowDisagreement,
    ShadowInfo, ShadowOutcome,
};

/// A candidate, as a client sees it.
#[derive(Clone, Debug, Serialize)]
pub struct Candidate {
    /// Its model's name.
    pub model: String,
    /// Which of the model's precisions.
    pub precision: String,
    /// The model's fingerprint.
    pub model_fingerprint: String,
    /// The execution provider really in use.
    pub execution_provider: String,
    /// The operating point that decides; empty where none does.
    pub operating_point: String,
    /// Items in its gallery.
    pub gallery_items: u64,
    /// The share of live queries that is drawn for it.
    pub share: f64,
}

/// How a candidate compares, as a client sees it.
#[derive(Clone, Debug, Serialize)]
pub struct ShadowFound {
    /// The candidate.
    pub candidate: Candidate,
    /// Queries that both have answered.
    pub compared: u64,
    /// Those of them that would have been answered otherwise.
    pub disagreements: u64,
    /// Ends of the 95 % interval of their share; `None` before the first.
    pub interval: Option<[f64; 2]>,
    /// What came up.
    pub counts: Vec<ShadowCounted>,
    /// Drawn queries that were not compared, by reason.
    pub skipped: std::collections::BTreeMap<String, u64>,
    /// The latest disagreements, newest first.
    pub latest: Vec<Disagreed>,
}

/// How often something came up.
#[derive(Clone, Debug, Serialize)]
pub struct ShadowCounted {
    /// What was answered: `ACCEPT`, `REJECT` or `UNDECIDED`.
    pub live: String,
    /// What the candidate would have answered.
    pub shadow: String,
    /// Which label each found: `SAME`, `OTHER`, `MISSING` or `NOTHING`.
    pub best: String,
    /// Queries.
    pub count: u64,
}

/// What one side made of a query.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Side {
    /// `ACCEPT`, `REJECT` or `UNDECIDED`.
    pub decision: String,
    /// Label of the best match; empty where nothing was found.
    pub label: String,
    /// Its id.
    pub item: String,
    /// Its similarity.
    pub score: f32,
    /// What was held against the threshold.
    pub decision_score: Option<f32>,
}

/// A query that the two answer differently.
#[derive(Clone, Debug, Serialize)]
pub struct Disagreed {
    /// Id of the decision that was answered.
    pub decision_id: String,
    /// What was answered.
    pub live: Side,
    /// What the candidate would have answered.
    pub shadow: Side,
    /// Which label each found.
    pub best: String,
    /// What it showed: a label, `(not enrolled)` or `(unusable)`; `None` without a label.
    pub truth: Option<String>,
    /// Whether what was answered is right; `None` where that is not known.
    pub live_right: Option<bool>,
    /// Whether what the candidate would have answered is.
    pub shadow_right: Option<bool>,
}

impl Client {
    /// Has the server open the candidate that the link beside a deployment's path leads to now;
    /// `None` where nothing is compared.
    ///
    /// # Errors
    /// Whatever the server refuses or fails at; nothing has changed then.
    pub async fn reload_shadow(&self, deployment: &str) -> Result<Option<Candidate>, ClientError> {
        let request = ReloadShadowRequest {
            deployment: deployment.to_owned(),
        };
        let mut server = ServerServiceClient::new(self.channel());
        let answer = server.reload_shadow(request).await;
        let answer = answer.map_err(|status| refused(&status))?.into_inner();
        Ok(answer.shadow.map(candidate))
    }

    /// How the candidate compares, with at most `limit` of the latest disagreements; `None` where
    /// there is no candidate.
    ///
    /// # Errors
    /// Whatever the server refuses or fails at.
    pub async fn shadow(
        &self,
        deployment: &str,
        limit: u32,
    ) -> Result<Option<ShadowFound>, ClientError> {
        let request = GetShadowRequest {
            deployment: deployment.to_owned(),
            limit,
        };
        let mut monitoring = MonitoringServiceClient::new(self.channel());
        let answer = monitoring.get_shadow(request).await;
        let found = answer.map_err(|status| refused(&status))?.into_inner();
        Ok(found.shadow.clone().map(|info| ShadowFound {
            candidate: candidate(info),
            compared: found.compared,
            disagreements: found.disagreements,
            interval: found
                .disagreement_lower
                .zip(found.disagreement_upper)
                .map(|(lower, upper)| [lower, upper]),
            counts: found.counts.into_iter().map(counted).collect(),
            skipped: found
                .skipped
                .into_iter()
                .map(|one| (one.reason, one.count))
                .collect(),
            latest: found.latest.into_iter().map(disagreed).collect(),
        }))
    }
}

fn candidate(info: ShadowInfo) -> Candidate {
    Candidate {
        model: info.model_name,
        precision: info.precision,
        model_fingerprint: info.model_fingerprint,
        execution_provider: info.execution_provider,
        operating_point: info.operating_point_id,
        gallery_items: info.gallery_items,
        share: info.share,
    }
}

fn decided(decision: proto::Decision) -> String {
    decision.as_str_name().replace("DECISION_", "")
}

fn found(best: ShadowBest) -> String {
    best.as_str_name().replace("SHADOW_BEST_", "")
}

fn counted(count: ShadowCount) -> ShadowCounted {
    ShadowCounted {
        live: decided(count.live()),
        shadow: decided(count.shadow()),
        best: found(count.best()),
        count: count.count,
    }
}

fn disagreed(one: ShadowDisagreement) -> Disagreed {
    let (best, said) = (found(one.best()), one.truth.and_then(|truth| truth.truth));
    let (live, shadow) = (one.live.unwrap_or_default(), one.shadow.unwrap_or_default());
    Disagreed {
        decision_id: one.decision_id,
        live_right: right(&live, said.as_ref()),
        shadow_right: right(&shadow, said.as_ref()),
        live: side(live),
        shadow: side(shadow),
        best,
        truth: said.map(|said| match said {
            Shown::Label(label) => label,
            Shown::NotEnrolled(_) => "(not enrolled)".to_owned(),
            Shown::Unusable(_) => "(unusable)".to_owned(),
        }),
    }
}

fn side(of: ShadowOutcome) -> Side {
    Side {
        decision: decided(of.decision()),
        label: of.label,
        item: of.item_id,
        score: of.score,
        decision_score: of.decision_score,
    }
}

/// Whether an outcome is right of what the query showed; `None` where nobody can tell, or nothing
/// was decided.
fn right(of: &ShadowOutcome, said: Option<&Shown>) -> Option<bool> {
    let accepted = match of.decision() {
        proto::Decision::Accept => true,
        proto::Decision::Reject => false,
        proto::Decision::Undecided | proto::Decision::Unspecified => return None,
    };
    match said? {
        Shown::Label(label) => Some(accepted && of.label == *label),
        Shown::NotEnrolled(_) => Some(!accepted),
        Shown::Unusable(_) => None,
    }
}
