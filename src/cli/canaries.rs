//! `matchpoint canaries`: pictures whose truth is known, searched for on a schedule.

use std::path::PathBuf;

use serde::Serialize;

use super::audit::Where;
use super::exit::{Exit, fail};
use super::output::Output;
use super::sources::Sources;
use crate::deployment::{Folder, NewCanary, set_canaries};
use crate::server::{CanariesFound, Client};

/// Keep pictures whose truth is known, and have the server search for them on a schedule
///
/// Give labels that are enrolled (their pictures should be accepted) and labels that never will be
/// (they should be rejected). The server replays them every `canary_minutes` on the path of callers:
/// that catches what a model, preprocessing, an index or a growing gallery does to everybody, and
/// knows nothing of new traffic.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  matchpoint canaries set shop canaries.csv
  matchpoint canaries set shop canaries/        # one folder for each label
  matchpoint canaries replay --deployment shop")]
pub(super) struct Canaries {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Copy pictures into the deployment, in place of its canaries; also while it is served
    Set(Set),
    /// Have a running server search for them now
    Replay(Where),
}

#[derive(Debug, clap::Args)]
struct Set {
    /// The deployment's folder
    deployment: PathBuf,
    /// Labelled pictures: a folder for each label, or a CSV or JSONL file; at most 2000
    source: PathBuf,
    /// Print the outcome as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Kept {
    canaries: usize,
    labels: usize,
}

impl Canaries {
    pub(super) fn run(self) -> anyhow::Result<Exit> {
        match self.command {
            Command::Set(set) => set.run(),
            Command::Replay(at) => replay(&at),
        }
    }
}

impl Set {
    fn run(self) -> anyhow::Result<Exit> {
        // Refuses a folder that is no deployment.
        Folder::open(&self.deployment)?;
        let sources = Sources::read(&self.source)?;
        if let Some(refused) = sources.refused.first() {
            let message = format!("{}: {}; nothing was changed", refused.item, refused.reason);
            return Err(fail(Exit::BadData, message));
        }
        let canaries: Vec<NewCanary> = sources
            .items
            .into_iter()
            .map(|source| NewCanary {
                name: source.id,
                label: source.label,
                path: source.path,
            })
            .collect();
        set_canaries(&self.deployment, &canaries)?;
        let labels: std::collections::BTreeSet<&str> =
            canaries.iter().map(|one| one.label.as_str()).collect();
        let kept = Kept {
            canaries: canaries.len(),
            labels: labels.len(),
        };
        Output::new(self.json).result(&kept, |kept| {
            format!("{} canaries of {} labels", kept.canaries, kept.labels)
        })?;
        Ok(Exit::Done)
    }
}

fn replay(at: &Where) -> anyhow::Result<Exit> {
    let found = super::runtime()?.block_on(async {
        let client = Client::connect(&at.server).await?;
        client.replay_canaries(&at.deployment).await
    })?;
    let failed = found.as_ref().is_some_and(|found| !found.failed.is_empty());
    Output::new(at.json).result(&found, |found| {
        found.as_ref().map_or_else(
            || "no canaries, or no valid operating point to judge them by".to_owned(),
            text,
        )
    })?;
    Ok(if failed { Exit::SomeFailed } else { Exit::Done })
}

fn text(found: &CanariesFound) -> String {
    let mut text = format!(
        "operating point {}\n  enrolled       {} of {} in error\n  not enrolled   {} of {} in error\n",
        found.operating_point,
        found.mated_errors,
        found.mated,
        found.non_mated_errors,
        found.non_mated
    );
    for name in &found.changed {
        text.push_str(&format!("  changed        {name}\n"));
    }
    for failed in &found.failed {
        text.push_str(&format!("  failed         {failed}\n"));
    }
    text
}
