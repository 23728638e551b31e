//! `matchpoint merge`: a deployment of shards that were built elsewhere.

use std::path::PathBuf;
use std::time::Instant;

use serde::Serialize;

use crate::cli::exit::{Exit, for_retries};
use crate::cli::output::alike;
use crate::cli::output::steps_shown::StepsShown;
use crate::cli::output::{Output, table};
use crate::deployment::{MergeReport, MergeSettings, merge};
use matchpoint_calibration::likeness::{Alike, alike as alike_labels};

/// Make one deployment of the shards that `build --shard` made
///
/// All shards of one list are needed, each once. They are compared with their checksums and with each other, and nothing
/// is embedded: the gallery has the digest that one build of the whole list has. The deployment is there whole or not at
/// all. `matchpoint build` with the same list finds everything enrolled.
///
/// Exit codes are those of `build --shard`: 75 if the same command may succeed next time, 42 if it will not until
/// something is fixed, and 3 if all is merged, but some images could not be used when the shards were built.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  matchpoint merge shop shards/*.tar
  matchpoint merge shop shards/ --model models/efficientnet-lite0
  matchpoint merge --into shop new-shards/ --json")]
pub(crate) struct Merge {
    /// The deployment's folder; without --into there must be none, or one of these shards and nothing else, which stays
    deployment: PathBuf,
    /// Archives of shards, or folders of them
    #[arg(required = true, value_name = "SHARDS")]
    shards: Vec<PathBuf>,
    /// Add to the deployment that is there, which nobody serves meanwhile; items of the same id are replaced
    #[arg(long)]
    into: bool,
    /// The model's folder on this machine, where it is not the one that the shards were built with
    #[arg(long, value_name = "DIR", conflicts_with = "into")]
    model: Option<PathBuf>,
    /// Name of a new deployment [default: its folder's name]
    #[arg(long, conflicts_with = "into")]
    name: Option<String>,
    /// Print the outcome as JSON
    #[arg(long)]
    json: bool,
}

/// The result of a merge, as printed.
#[derive(Serialize)]
struct MergeOutcome {
    #[serde(flatten)]
    merged: MergeReport,
    /// Labels that are suspiciously like each other.
    alike: Vec<Alike>,
    /// Duration, in seconds.
    seconds: f64,
    /// Items a second.
    items_per_second: f64,
}

impl Merge {
    pub(crate) fn run(self) -> anyhow::Result<Exit> {
        self.merge().map_err(|error| for_retries(&error))
    }

    fn merge(&self) -> anyhow::Result<Exit> {
        let progress = StepsShown::begin_for_scheduler("merge, MiB")?;
        let started = Instant::now();
        let settings = MergeSettings {
            shards: &self.shards,
            deployment: &self.deployment,
            into: self.into,
            name: self.name.as_deref(),
            model: self.model.as_deref(),
        };
        let merged = merge(settings, &mut |done, all| progress.at(done, all));
        let seconds = started.elapsed().as_secs_f64();
        // A signal after the last row changes nothing.
        if let (Some(exit), Err(_)) = (progress.finish(), &merged) {
            return Ok(exit.for_retries());
        }
        let merged = merged?;
        let items = merged.inserted + merged.replaced + merged.unchanged;
        #[expect(clippy::cast_precision_loss, reason = "a rate, for people to read")]
        let items_per_second = items as f64 / seconds.max(1e-9);
        let outcome = MergeOutcome {
            alike: alike_labels(merged.labels.iter().map(String::as_str), []),
            merged,
            seconds,
            items_per_second,
        };
        Output::new(self.json).result(&outcome, text)?;
        Ok(if outcome.merged.failed.is_empty() {
            Exit::Done
        } else {
            Exit::SomeFailed
        })
    }
}

fn text(outcome: &MergeOutcome) -> String {
    let merged = &outcome.merged;
    let mut text = String::new();
    for one in &merged.failed {
        text.push_str(&format!("failed: {one}\n"));
    }
    text.push_str(&alike::warning(&outcome.alike));
    let rows = [
        ("shards", merged.shards.to_string()),
        (
            "enrolled",
            format!(
                "{} items, {:.0}/s",
                merged.inserted, outcome.items_per_second
            ),
        ),
        ("replaced", merged.replaced.to_string()),
        ("unchanged", merged.unchanged.to_string()),
        ("failed", merged.failed.len().to_string()),
        ("gallery", format!("{} items", merged.items)),
        ("digest", merged.gallery_digest.clone()),
        (
            "model",
            format!("{}, fingerprint {}", merged.model, merged.model_fingerprint),
        ),
        (
            "index",
            "built when the deployment is first opened, or by `matchpoint compact`".to_owned(),
        ),
    ];
    text.push_str(&format!(
        "{}\n{}",
        merged.deployment.display(),
        table(&rows)
    ));
    text
}
