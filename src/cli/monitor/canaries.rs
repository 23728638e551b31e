//! `matchpoint canaries`: pictures whose truth is known, searched for on a schedule.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::served_deployment::ServedDeploymentFlags;
use crate::cli::exit::{Exit, fail};
use crate::cli::input::image_sources::{ImageSource, ImageSources, Purpose};
use crate::cli::input::left_out::LeftOut;
use crate::cli::output::{Output, table};
use crate::deployment::{Folder, RefusedItem, set_canaries};
use crate::monitor::{CANARIES_PER_ITEM, CanariesSet, NewCanary};
use crate::telemetry::escaped;
use matchpoint_client::proto::CanaryRound;

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
  matchpoint canaries set shop --from-gallery 100
  matchpoint canaries set shop canaries.csv --from-gallery 100
  matchpoint canaries replay --deployment shop")]
pub(crate) struct Canaries {
    #[command(subcommand)]
    command: CanariesCommand,
}

#[derive(Debug, clap::Subcommand)]
enum CanariesCommand {
    /// Copy pictures into the deployment, in place of its canaries; also while it is served
    Set(CanariesSetArgs),
    /// Have a running server search for them now
    #[command(after_help = "Examples:
  matchpoint canaries replay --deployment shop")]
    Replay(ServedDeploymentFlags),
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  matchpoint canaries set shop canaries.csv
  matchpoint canaries set shop --from-gallery 100")]
struct CanariesSetArgs {
    /// The deployment's folder
    deployment: PathBuf,
    /// Labelled pictures: a folder for each label, or a CSV or JSONL file; of a list with a column
    /// role, the rows of the roles query and unknown
    #[arg(required_unless_present = "from_gallery")]
    source: Option<PathBuf>,
    /// Make canaries of N enrolled items too, from the images that `build --keep-images` kept
    ///
    /// Four of each item. Its image saved as a poorer JPEG, cropped and scaled down, and made brighter:
    /// each should be accepted. They are easy, being of the enrolled picture itself: they catch a
    /// broken model, preprocessing or index, and are no measure of how often callers are rejected.
    /// And the image itself, searched for among all other labels: whatever is accepted then is a false
    /// accept. All canaries together are 2000 at most.
    #[arg(long, value_name = "N", value_parser = items)]
    from_gallery: Option<NonZeroUsize>,
    /// Print the outcome as JSON
    #[arg(long)]
    json: bool,
}

/// How many items.
fn items(text: &str) -> Result<NonZeroUsize, String> {
    let count = text.parse().ok();
    count.ok_or_else(|| "write how many items, 1 or more".to_owned())
}

#[derive(Serialize)]
struct KeptCanaries {
    canaries: usize,
    labels: usize,
    /// What else the source holds.
    left_out: LeftOut,
    #[serde(skip_serializing_if = "Option::is_none")]
    from_gallery: Option<FromGallery>,
}

/// The result of `--from-gallery`.
#[derive(Serialize)]
struct FromGallery {
    /// Items that were asked for.
    asked: usize,
    /// Items that canaries were made of; fewer where no more have an image that can be used.
    items: usize,
    /// Items whose images cannot be used.
    skipped: Vec<RefusedItem>,
}

impl Canaries {
    pub(crate) fn run(self) -> anyhow::Result<Exit> {
        match self.command {
            CanariesCommand::Set(set) => set.run(),
            CanariesCommand::Replay(at) => replay(&at),
        }
    }
}

impl CanariesSetArgs {
    fn run(self) -> anyhow::Result<Exit> {
        let (given, left_out) = match &self.source {
            Some(source) => given(source, &self.deployment)?,
            None => (Vec::new(), LeftOut::default()),
        };
        let CanariesSet {
            canaries,
            labels,
            items,
            skipped,
        } = set_canaries(&self.deployment, &given, self.from_gallery)?;
        let exit = if skipped.is_empty() {
            Exit::Done
        } else {
            Exit::SomeFailed
        };
        let skipped = skipped.into_iter();
        let skipped = skipped.map(|(item, reason)| RefusedItem { item, reason });
        let kept = KeptCanaries {
            canaries,
            labels,
            left_out,
            from_gallery: self.from_gallery.map(|asked| FromGallery {
                asked: asked.get(),
                items,
                skipped: skipped.collect(),
            }),
        };
        Output::new(self.json).result(&kept, kept_text)?;
        Ok(exit)
    }
}

/// The canaries of a source, without applying any.
fn given(source: &Path, deployment: &Path) -> anyhow::Result<(Vec<NewCanary>, LeftOut)> {
    let sources = ImageSources::read(source, Purpose::Search)?;
    if let Some(refused) = sources.refused.first() {
        let message = format!("{refused}; nothing was changed");
        return Err(fail(Exit::BadData, message));
    }
    if sources.items.iter().any(|item| item.role.is_some()) {
        let view = Folder::open(deployment)?.open_items()?.view();
        let labels = view.labels();
        sources.refuse_contradictions(|label| labels.contains(label))?;
    }
    let new = |source: ImageSource| NewCanary {
        name: source.id,
        label: source.label,
        path: source.path,
    };
    Ok((
        sources.items.into_iter().map(new).collect(),
        sources.left_out,
    ))
}

fn kept_text(kept: &KeptCanaries) -> String {
    let mut text = format!("{} canaries of {} labels\n", kept.canaries, kept.labels);
    text.push_str(&table(&kept.left_out.rows()));
    let Some(FromGallery {
        asked,
        items,
        skipped,
    }) = &kept.from_gallery
    else {
        return text;
    };
    text.push_str(&format!(
        "  from the gallery   {items} items, {CANARIES_PER_ITEM} canaries each"
    ));
    if items < asked {
        text.push_str(&format!(
            "; {asked} were asked for, and no more have an image that can be used"
        ));
    }
    text.push('\n');
    for one in skipped {
        text.push_str(&format!("  skipped            {one}\n"));
    }
    text
}

fn replay(at: &ServedDeploymentFlags) -> anyhow::Result<Exit> {
    let found = crate::cli::runtime::single_threaded()?.block_on(async {
        let client = at.server.connect().await?;
        anyhow::Ok(client.replay_canaries(&at.deployment).await?)
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

fn text(found: &CanaryRound) -> String {
    let mut text = format!(
        "operating point {}\n  enrolled       {} of {} in error\n  strangers      {} of {} in error\n",
        found.operating_point_id,
        found.mated_errors,
        found.mated,
        found.non_mated_errors,
        found.non_mated
    );
    for name in &found.changed {
        text.push_str(&format!("  changed        {}\n", escaped(name)));
    }
    for failed in &found.failed {
        text.push_str(&format!("  failed         {}\n", escaped(failed)));
    }
    text
}
