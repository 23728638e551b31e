//! `matchpoint audit list`: the decisions that wait for an annotation.

use std::path::{Path, PathBuf};

use anyhow::Context;

use crate::cli::exit::Exit;
use crate::cli::monitor::replicas::{ReplicaFlags, Replicas};
use crate::cli::monitor::served_deployment::ServedDeploymentFlags;
use crate::cli::output::Output;
use crate::cli::output::csv_file::CsvFile;
use crate::cli::output::image_ending::ending;
use matchpoint_client::proto::RecordedDecision;

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  matchpoint audit list --csv to-label.csv --images to-label/
  matchpoint audit list --limit 100 --stratum 3
  matchpoint audit list --servers http://a:50051,http://b:50051")]
pub(super) struct List {
    #[command(flatten)]
    at: ServedDeploymentFlags,
    #[command(flatten)]
    replicas: ReplicaFlags,
    /// How many, at most
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
    /// Only of this stratum, from the lowest scores up
    #[arg(long)]
    stratum: Option<u32>,
    /// Write them to a CSV file, or to - for standard output, to be filled in: columns `truth` (label, not-enrolled or unusable),
    /// `label`, and `stranger` (a name for what is not enrolled, if it is known)
    #[arg(long, value_name = "FILE")]
    csv: Option<PathBuf>,
    /// Write the images that are kept into a folder (`audit_images` keeps them)
    #[arg(long, value_name = "DIR")]
    images: Option<PathBuf>,
}

impl List {
    pub(super) async fn run(self) -> anyhow::Result<Exit> {
        let replicas = self.at.replicas(&self.replicas).await?;
        // One more than is listed tells whether that is all.
        let asked = self.limit.saturating_add(1);
        let mut decisions = replicas.audit_queue(self.stratum, asked).await?;
        let listed = usize::try_from(self.limit).unwrap_or(usize::MAX);
        let is_all = decisions.len() <= listed;
        decisions.truncate(listed);
        if let Some(folder) = &self.images {
            save_images(&replicas, folder, &decisions).await?;
        }
        if let Some(file) = &self.csv {
            write_csv(file, &decisions)
                .with_context(|| format!("cannot write {}", file.display()))?;
        }
        let output = Output::beside(self.at.json, self.csv.as_deref());
        output.result(&decisions, |decisions| queue_text(decisions, is_all))?;
        Ok(Exit::Done)
    }
}

async fn save_images(
    replicas: &Replicas,
    folder: &Path,
    decisions: &[RecordedDecision],
) -> anyhow::Result<()> {
    std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    for decided in decisions {
        let id = &decided.decision_id;
        let found = replicas.decision(id, true).await?;
        if !found.image.is_empty() {
            let file = folder.join(format!("{id}.{}", ending(&found.image)));
            std::fs::write(&file, &found.image)
                .with_context(|| format!("cannot write {}", file.display()))?;
        }
    }
    Ok(())
}

fn write_csv(file: &Path, decisions: &[RecordedDecision]) -> anyhow::Result<()> {
    let columns = [
        "decision_id",
        "truth",
        "label",
        "decision",
        "matched_label",
        "matched_item",
        "score",
        "stranger",
    ];
    let mut csv = CsvFile::create(file, &columns)?;
    for decided in decisions {
        csv.row(&[
            decided.decision_id.as_str(),
            "",
            "",
            decided.decision().name(),
            &decided.matched_label,
            &decided.matched_item_id,
            &decided.score.unwrap_or(0.0).to_string(),
            "",
        ])?;
    }
    Ok(csv.finish()?)
}

fn queue_text(decisions: &[RecordedDecision], is_all: bool) -> String {
    if decisions.is_empty() {
        return "no sampled decision waits for an annotation".to_owned();
    }
    let line = |decided: &RecordedDecision| {
        let (decision, score) = (decided.decision().name(), decided.score.unwrap_or(0.0));
        let id = &decided.decision_id;
        format!(
            "{id}  {decision:<6}  {score:.3}  stratum {}  {} ({})\n",
            decided.stratum.map_or("-".to_owned(), |s| s.to_string()),
            decided.matched_label,
            decided.matched_item_id
        )
    };
    let lines: String = decisions.iter().map(line).collect();
    let count = decisions.len();
    let waits = if is_all {
        format!("{count} decisions wait")
    } else {
        format!("These are the newest {count}; --limit lists more")
    };
    format!(
        "{lines}\n{waits}. Say what their queries showed:\n  matchpoint audit annotate ID --label LABEL | --not-enrolled | --unusable\n  or fill in the columns truth and label of --csv FILE, and matchpoint audit import FILE"
    )
}
