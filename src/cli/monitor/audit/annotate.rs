//! `matchpoint audit annotate`: what the query of one decision showed.

use super::sent::{kind, report_all};
use crate::cli::exit::{Exit, fail};
use crate::cli::monitor::replicas::ReplicaFlags;
use crate::cli::monitor::served_deployment::ServedDeploymentFlags;
use matchpoint_client::proto::{Annotation, GroundTruth};

/// Characters of a decision's id that are its time, to the millisecond.
const TIME_LENGTH: usize = 13;

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  matchpoint audit annotate 0199f0aa-7c1b-7e0e-8d63-0f2a9c1d4e5f --label mug
  matchpoint audit annotate 0199f0aa-7c1b-7e0e-8d63-0f2a9c1d4e5f --not-enrolled --stranger 'red coat'
  matchpoint audit annotate 0199f0aa-7c1b-7e0e-8d63-0f2a9c1d4e5f --not-enrolled --feedback")]
#[command(group(clap::ArgGroup::new("truth").required(true).args(["label", "not_enrolled", "unusable"])))]
pub(super) struct Annotate {
    #[command(flatten)]
    at: ServedDeploymentFlags,
    #[command(flatten)]
    replicas: ReplicaFlags,
    /// Id of the decision; of one that waits for an annotation its first 13 characters or more do, if no other begins so
    decision_id: String,
    /// The enrolled label that the query showed
    #[arg(long)]
    label: Option<String>,
    /// The query showed something that is not enrolled
    #[arg(long)]
    not_enrolled: bool,
    /// Who that was: the same name for the same one, so that a calibration counts it once
    #[arg(long, value_name = "NAME", requires = "not_enrolled")]
    stranger: Option<String>,
    /// Nobody can tell what the query showed
    #[arg(long)]
    unusable: bool,
    /// Who says so
    #[arg(
        long,
        value_name = "NAME",
        default_value = "",
        hide_default_value = true
    )]
    annotator: String,
    /// Nobody was asked: a complaint or a confirmation. It is shown as precision, enters no rate, and
    /// leaves the decision in the queue
    #[arg(long)]
    feedback: bool,
}

impl Annotate {
    pub(super) async fn run(self) -> anyhow::Result<Exit> {
        if self.decision_id.len() < TIME_LENGTH {
            // Decisions outside the queue are not searched, and one of them may be meant.
            let message = format!(
                "`{}` may begin the ids of many decisions; write the whole id, or its first {TIME_LENGTH} characters at least",
                self.decision_id
            );
            return Err(fail(Exit::Usage, message));
        }
        let truth = match (self.label, self.not_enrolled) {
            (Some(label), _) => GroundTruth::label(label),
            (None, true) => GroundTruth::stranger(self.stranger.unwrap_or_default()),
            (None, false) => GroundTruth::unusable(),
        };
        let replicas = self.at.replicas(&self.replicas).await?;
        let report = Annotation {
            decision_id: replicas.whole_id(&self.decision_id).await?,
            ground_truth: Some(truth),
            annotator: self.annotator,
            kind: kind(self.feedback).into(),
            unix_milliseconds: 0,
        };
        report_all(&self.at, &replicas, &[report], 0).await
    }
}
