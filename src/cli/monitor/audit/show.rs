//! `matchpoint audit show`: one decision with its annotations.

use std::io::Write;
use std::path::PathBuf;

use anyhow::Context;

use crate::cli::exit::{Exit, fail};
use crate::cli::monitor::replicas::ReplicaFlags;
use crate::cli::monitor::served_deployment::ServedDeploymentFlags;
use crate::cli::output::Output;
use crate::cli::standard_streams::create;
use crate::telemetry::escaped;
use matchpoint_client::proto::{AnnotationKind, GetDecisionResponse};

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  matchpoint audit show 0199f0aa-7c1b-7e0e-8d63-0f2a9c1d4e5f
  matchpoint audit show 0199f0aa-7c1b-7e0e-8d63-0f2a9c1d4e5f --image query.jpg")]
pub(super) struct AuditShowArgs {
    #[command(flatten)]
    at: ServedDeploymentFlags,
    #[command(flatten)]
    replicas: ReplicaFlags,
    /// Id of the decision; of one that waits for an annotation its beginning does, if no other begins so
    decision_id: String,
    /// Write the image, if it is kept, to a file, or to - for standard output
    #[arg(long, value_name = "FILE")]
    image: Option<PathBuf>,
}

impl AuditShowArgs {
    pub(super) async fn run(self) -> anyhow::Result<Exit> {
        let replicas = self.at.replicas(&self.replicas).await?;
        let wanted = self.image.is_some();
        let id = replicas.whole_id(&self.decision_id).await?;
        let found = replicas.decision(&id, wanted).await?;
        if let Some(file) = &self.image {
            if found.image.is_empty() {
                let problem = "the image of this decision is not kept; `audit_images` keeps those of sampled decisions";
                return Err(fail(Exit::NoInput, problem));
            }
            create(file)
                .and_then(|mut to| to.write_all(&found.image))
                .with_context(|| format!("cannot write {}", file.display()))?;
        }
        Output::beside(self.at.json, self.image.as_deref()).result(&found, decision_text)?;
        Ok(Exit::Done)
    }
}

fn decision_text(found: &GetDecisionResponse) -> String {
    let Some(decided) = &found.decision else {
        return String::new();
    };
    let or = |text: &str, none: &str| {
        if text.is_empty() {
            none.to_owned()
        } else {
            text.to_owned()
        }
    };
    let mut rows = vec![
        ("decision", decided.decision().name().to_owned()),
        ("operating point", or(&decided.operating_point_id, "none")),
        ("best match", or(&decided.matched_label, "nothing found")),
        ("item", or(&decided.matched_item_id, "-")),
        ("score", format!("{:.4}", decided.score.unwrap_or(0.0))),
    ];
    if let Some(stratum) = decided.stratum {
        let drawn = if decided.sampled {
            "sampled"
        } else {
            "not sampled"
        };
        let probability = decided.inclusion_probability.unwrap_or(0.0);
        rows.push((
            "audit",
            format!("stratum {stratum}, {drawn}, with probability {probability}"),
        ));
    }
    rows.push((
        "truth",
        decided
            .ground_truth
            .as_ref()
            .map_or_else(|| "not known".to_owned(), ToString::to_string),
    ));
    let said = found.annotations.iter().map(|said| {
        let truth = said.ground_truth.as_ref();
        let truth = truth.map(ToString::to_string).unwrap_or_default();
        let unasked = if said.kind() == AnnotationKind::Feedback {
            ", unasked"
        } else {
            ""
        };
        format!(
            "  {} said {}{unasked}\n",
            escaped(&said.annotator),
            escaped(&truth)
        )
    });
    let history: String = said.collect();
    format!(
        "{}\n{}{history}",
        decided.decision_id,
        crate::cli::output::table(&rows)
    )
}
