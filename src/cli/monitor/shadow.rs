//! `matchpoint shadow`: a candidate beside what is served, compared and never answered from.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde::Serialize;

use super::served_deployment::ServedDeploymentFlags;
use crate::cli::exit::{Exit, fail};
use crate::cli::output::{Output, items, percent, short};
use crate::cli::switch::lead;
use crate::deployment::{Folder, shadow_link};
use matchpoint_client::proto::{GetShadowResponse, ShadowDisagreement, ShadowInfo, ShadowOutcome};

/// Compare a candidate with what is served, on a share of the live queries; nothing is answered from it
///
/// The candidate is a deployment: another model, another precision, another operating point. The
/// server asks it about a share of the queries (`shadow_share`), when nothing waits, and counts where
/// it would have answered otherwise. That says that the two differ, not which is right: label the
/// decisions that differ (`matchpoint audit annotate ID`) to know.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  matchpoint build shop-2 --images-of shop --model models/new   # beside what is served
  matchpoint calibrate shop-2 --queries labelled.csv --target-far 0.01
  matchpoint shadow start shop shop-2
  matchpoint shadow report --limit 50
  matchpoint switch shop shop-2                                 # or: matchpoint shadow stop shop

A link beside the place, shop.shadow, leads to the candidate: it is opened after a restart too.")]
pub(crate) struct ShadowArgs {
    #[command(subcommand)]
    command: ShadowCommand,
}

#[derive(Debug, clap::Subcommand)]
enum ShadowCommand {
    /// Open a candidate beside a deployment, in place of the one there may be, and compare from now on
    Start(Start),
    /// Close the candidate
    Stop(Stop),
    /// Say how often the two differ, and list the latest decisions that do
    Report(ShadowReportArgs),
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  matchpoint shadow start shop shop-2")]
struct Start {
    /// The folder or link that is served
    place: PathBuf,
    /// The candidate's folder
    candidate: PathBuf,
    #[command(flatten)]
    at: ServedDeploymentFlags,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  matchpoint shadow stop shop")]
struct Stop {
    /// The folder or link that is served
    place: PathBuf,
    #[command(flatten)]
    at: ServedDeploymentFlags,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  matchpoint shadow report --limit 50")]
struct ShadowReportArgs {
    /// How many of the latest disagreements to list, at most
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=200))]
    limit: u32,
    #[command(flatten)]
    at: ServedDeploymentFlags,
}

#[derive(Serialize)]
struct ShadowComparison {
    shadow: Option<ShadowInfo>,
}

impl ShadowArgs {
    pub(crate) fn run(self) -> anyhow::Result<Exit> {
        match self.command {
            ShadowCommand::Start(start) => start.run(),
            ShadowCommand::Stop(stop) => stop.run(),
            ShadowCommand::Report(report) => report.run(),
        }
    }
}

impl Start {
    fn run(self) -> anyhow::Result<Exit> {
        let (link, before) = link_of(&self.place)?;
        let candidate = fs::canonicalize(&self.candidate).map_err(|cause| {
            fail(
                Exit::NoInput,
                format!("{}: {cause}", self.candidate.display()),
            )
        })?;
        // Refuses a folder that is no deployment, before anything changes.
        let expected = Folder::open(&candidate)?.record().model.fingerprint.clone();
        let runtime = crate::cli::runtime::single_threaded()?;
        let client = runtime.block_on(self.at.server.connect())?;
        lead(&link, &candidate)?;
        let opened = runtime.block_on(client.reload_shadow(&self.at.deployment));
        let undo = || match &before {
            Some(before) => lead(&link, before),
            None => remove(&link),
        };
        let opened = match opened {
            Ok(Some(opened)) if opened.model_fingerprint == expected => opened,
            Ok(_) => {
                undo()?;
                let message = format!(
                    "{} is what is served, or the server serves another place than {}",
                    candidate.display(),
                    self.place.display()
                );
                return Err(fail(Exit::Usage, message));
            }
            Err(refused) => {
                undo()?;
                return Err(refused).context("nothing was changed");
            }
        };
        Output::new(self.at.json).result(&opened, |opened| {
            format!(
                "{}compared with what is answered from now on",
                about(opened)
            )
        })?;
        Ok(Exit::Done)
    }
}

impl Stop {
    fn run(self) -> anyhow::Result<Exit> {
        let (link, before) = link_of(&self.place)?;
        let runtime = crate::cli::runtime::single_threaded()?;
        let client = runtime.block_on(self.at.server.connect())?;
        if before.is_some() {
            remove(&link)?;
        }
        let reloaded = runtime.block_on(client.reload_shadow(&self.at.deployment));
        let compared = ShadowComparison { shadow: reloaded? };
        Output::new(self.at.json).result(&compared, |compared| {
            // The link of another place than the server's.
            compared.shadow.as_ref().map_or_else(
                || "nothing is compared".to_owned(),
                |still| {
                    format!(
                        "{}is still compared: the server serves another place",
                        about(still)
                    )
                },
            )
        })?;
        Ok(Exit::Done)
    }
}

impl ShadowReportArgs {
    fn run(self) -> anyhow::Result<Exit> {
        let found = crate::cli::runtime::single_threaded()?.block_on(async {
            let client = self.at.server.connect().await?;
            anyhow::Ok(client.shadow(&self.at.deployment, self.limit).await?)
        })?;
        Output::new(self.at.json).result(&found, |found| {
            found.as_ref().map_or_else(
                || "no candidate; begin with `matchpoint shadow start`".to_owned(),
                text,
            )
        })?;
        Ok(Exit::Done)
    }
}

/// The link to the candidate of a place, and where it leads at present.
fn link_of(place: &Path) -> anyhow::Result<(PathBuf, Option<PathBuf>)> {
    let shown = place.display();
    fs::canonicalize(place).map_err(|cause| fail(Exit::NoInput, format!("{shown}: {cause}")))?;
    let link = shadow_link(place).ok_or_else(|| {
        fail(
            Exit::Usage,
            format!("{shown} has no name that a link could have"),
        )
    })?;
    let before = match fs::read_link(&link) {
        Ok(before) => Some(before),
        Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => None,
        Err(cause) => {
            let message = format!("{} is no link: {cause}", link.display());
            return Err(fail(Exit::Usage, message));
        }
    };
    Ok((link, before))
}

fn remove(link: &Path) -> anyhow::Result<()> {
    fs::remove_file(link).with_context(|| format!("cannot remove the link {}", link.display()))
}

fn about(shadow: &ShadowInfo) -> String {
    let point = match shadow.operating_point_id.as_str() {
        "" => "no valid operating point: every decision is UNDECIDED",
        point => point,
    };
    format!(
        "candidate  {} {} ({}), {}, {point}, {} of the queries\n",
        shadow.model_name,
        shadow.precision,
        short(&shadow.model_fingerprint),
        items(shadow.gallery_items),
        percent(shadow.share),
    )
}

fn text(found: &GetShadowResponse) -> String {
    let mut text = found.shadow.as_ref().map(about).unwrap_or_default();
    text.push_str(&format!("compared   {} queries\n", found.compared));
    if let Some((lower, upper)) = found.disagreement_lower.zip(found.disagreement_upper) {
        #[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^53")]
        let share = found.disagreements as f64 / found.compared as f64;
        text.push_str(&format!(
            "differ     {} of them: {} [{} .. {} at 95 %, as if queries were independent]\n",
            found.disagreements,
            percent(share),
            percent(lower),
            percent(upper)
        ));
    }
    for count in &found.counts {
        text.push_str(&format!(
            "  {:>9} -> {:<9}  label {:<8} {}\n",
            count.live().name(),
            count.shadow().name(),
            count.label_agreement().name().to_lowercase(),
            count.count
        ));
    }
    let skipped = found.skipped.iter().filter(|one| 0 < one.count);
    let skipped: Vec<String> = skipped
        .map(|one| format!("{} {}", one.count, one.reason))
        .collect();
    if !skipped.is_empty() {
        text.push_str(&format!("skipped    {}\n", skipped.join(", ")));
    }
    if !found.latest.is_empty() {
        text.push_str(&latest(&found.latest));
    }
    text
}

fn latest(latest: &[ShadowDisagreement]) -> String {
    let mut text = String::from("\nthe latest that differ, newest first\n");
    let side = |side: Option<&ShadowOutcome>| {
        side.map_or_else(String::new, |side| {
            let (decision, label) = (side.decision().name(), &side.matched_label);
            format!("{decision} {label} {:.3}", side.score.unwrap_or(0.0))
        })
    };
    for one in latest {
        text.push_str(&format!(
            "  {}  {}  ->  {}{}\n",
            one.decision_id,
            side(one.live.as_ref()),
            side(one.shadow.as_ref()),
            one.ground_truth
                .as_ref()
                .map_or_else(String::new, |truth| format!("  showed {truth}"))
        ));
    }
    let right = |of: fn(&ShadowDisagreement) -> Option<&ShadowOutcome>| {
        let known = latest.iter().filter_map(of).filter_map(|side| side.correct);
        let known: Vec<bool> = known.collect();
        let right = known.iter().filter(|right| **right).count();
        (!known.is_empty()).then(|| format!("right in {right} of {}", known.len()))
    };
    let says = match (
        right(|one| one.live.as_ref()),
        right(|one| one.shadow.as_ref()),
    ) {
        (None, None) => "which is right, nobody has said".to_owned(),
        (live, shadow) => {
            let shown = |side: Option<String>| side.unwrap_or_else(|| "not known".to_owned());
            let (live, shadow) = (shown(live), shown(shadow));
            format!(
                "of those that are labelled, what was answered is {live}, the candidate {shadow}"
            )
        }
    };
    text.push_str(&format!(
        "{says}\nlabel with `matchpoint audit annotate ID --label LABEL | --not-enrolled`\n"
    ));
    text
}
