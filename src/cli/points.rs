//! `matchpoint points`: the operating points of a deployment: list, show, compare, choose.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::exit::Exit;
use super::labelled_search;
use super::operating_point_text::describe;
use super::output::{Output, table};
use crate::config::{EngineFlags, ProcessEnvironment};
use crate::deployment::{Activation, Folder, compare_points};
use crate::telemetry;
use matchpoint_calibration::operating_point::{Content, OperatingPoint};
use matchpoint_calibration::recording::Flip;
use matchpoint_gallery::Access;

/// How many flips are shown as text; `--json` has all.
const FLIPS_SHOWN: usize = 40;

/// List, compare, activate and roll back operating points
///
/// An operating point never changes; which of them decides does. While the deployment is served,
/// choose through the server (`OperatingPointService`), which holds the deployment's lock.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  matchpoint points list shop
  matchpoint points compare shop op-5f2c9a0b1d3e4f60 op-77aa01c2d3e4f501
  matchpoint points rollback shop")]
pub(super) struct PointsArgs {
    #[command(subcommand)]
    command: PointsCommand,
}

#[derive(Debug, clap::Subcommand)]
enum PointsCommand {
    /// List all, oldest first, and say which one decides
    List(Which),
    /// Show one, or the active one
    Show(PointArgs),
    /// Show which recorded decisions change where one takes the place of another
    Compare(Two),
    /// Make one decide
    Activate(Chosen),
    /// Return to the one that decided before
    Rollback(Back),
}

#[derive(Debug, clap::Args)]
struct Which {
    /// The deployment's folder
    deployment: PathBuf,
    /// Print the outcome as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
struct PointArgs {
    #[command(flatten)]
    which: Which,
    /// Id of the operating point; the active one without
    id: Option<String>,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "The searches that the first was made from are judged by both thresholds.")]
struct Two {
    #[command(flatten)]
    which: Which,
    /// Id of the one that is replaced
    from: String,
    /// Id of the one that takes its place
    to: String,
}

#[derive(Debug, clap::Args)]
struct Chosen {
    /// The deployment's folder
    deployment: PathBuf,
    /// Id of the operating point
    id: String,
    #[command(flatten)]
    opening: PointsOpenArgs,
}

#[derive(Debug, clap::Args)]
struct Back {
    /// The deployment's folder
    deployment: PathBuf,
    #[command(flatten)]
    opening: PointsOpenArgs,
}

#[derive(Debug, clap::Args)]
struct PointsOpenArgs {
    /// The model's folder, where it is not the recorded one
    #[arg(long, value_name = "DIR")]
    model: Option<PathBuf>,
    /// Print the outcome as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    engine: EngineFlags,
}

#[derive(Serialize)]
struct ListedPoint {
    active: Option<String>,
    etag: String,
    operating_points: Vec<DescribedPoint>,
}

#[derive(Serialize)]
struct DescribedPoint {
    id: String,
    active: bool,
    content: Content,
}

#[derive(Serialize)]
struct ComparedPoints {
    from: String,
    from_threshold: f32,
    to: String,
    to_threshold: f32,
    recorded: String,
    searches: usize,
    improvements: usize,
    flips: Vec<Flip>,
}

#[derive(Serialize)]
struct Activated {
    active: String,
    previous: Option<String>,
    etag: String,
}

impl PointsArgs {
    pub(super) fn run(self) -> anyhow::Result<Exit> {
        match self.command {
            PointsCommand::List(which) => list(&which)?,
            PointsCommand::Show(one) => show(&one)?,
            PointsCommand::Compare(two) => compare(&two)?,
            PointsCommand::Activate(Chosen {
                deployment,
                id,
                opening,
            }) => choose(&deployment, opening, |deployment| {
                deployment.activate(&id, None)
            })?,
            PointsCommand::Rollback(Back {
                deployment,
                opening,
            }) => choose(&deployment, opening, |deployment| {
                deployment.roll_back(None)
            })?,
        }
        Ok(Exit::Done)
    }
}

fn list(which: &Which) -> anyhow::Result<()> {
    let folder = Folder::open(&which.deployment)?;
    let active = folder.record().active_operating_point.clone();
    let points = folder.operating_points()?;
    let listed = ListedPoint {
        operating_points: points
            .iter()
            .map(|point| shown(point, active.as_deref()))
            .collect(),
        active,
        etag: folder.etag(),
    };
    Output::new(which.json).result(&listed, |listed| {
        if listed.operating_points.is_empty() {
            return "no operating points yet: run `matchpoint calibrate`\n".to_owned();
        }
        let lines = listed.operating_points.iter().map(|one| {
            format!(
                "{} {}  {}  accept from {}  {}\n",
                if one.active { "*" } else { " " },
                one.id,
                one.content.created,
                one.content.threshold,
                one.content.goal(),
            )
        });
        lines.collect::<String>() + "\n* decides now\n"
    })
}

fn show(one: &PointArgs) -> anyhow::Result<()> {
    let folder = Folder::open(&one.which.deployment)?;
    let active = folder.record().active_operating_point.clone();
    let Some(id) = one.id.as_ref().or(active.as_ref()) else {
        let message = "no operating point is active; name one, or run `matchpoint calibrate`";
        return Err(super::exit::fail(Exit::NoInput, message.to_owned()));
    };
    let shown = shown(&folder.operating_point(id)?, active.as_deref());
    Output::new(one.which.json).result(&shown, |shown| {
        let state = if shown.active { "decides now" } else { "kept" };
        let heading = format!("operating point {} ({state})\n", shown.id);
        heading + &describe(&shown.content)
    })
}

fn shown(point: &OperatingPoint, active: Option<&str>) -> DescribedPoint {
    DescribedPoint {
        id: point.id().to_owned(),
        active: active == Some(point.id()),
        content: point.content().clone(),
    }
}

fn compare(two: &Two) -> anyhow::Result<()> {
    let folder = Folder::open(&two.which.deployment)?;
    let comparison = compare_points(&folder, &two.from, &two.to)?;
    let compared = ComparedPoints {
        from: two.from.clone(),
        recorded: comparison.recorded.clone(),
        from_threshold: comparison.before.threshold().get(),
        to: two.to.clone(),
        to_threshold: comparison.after.threshold().get(),
        searches: comparison.searches,
        improvements: comparison.flips.iter().filter(|flip| flip.improves).count(),
        flips: comparison.flips,
    };
    Output::new(two.which.json).result(&compared, comparison_text)
}

fn comparison_text(compared: &ComparedPoints) -> String {
    let worse = compared.flips.len() - compared.improvements;
    let mut text = table(&[
        (
            "from",
            format!(
                "{}: accept from {:.4}",
                compared.from, compared.from_threshold
            ),
        ),
        (
            "to",
            format!("{}: accept from {:.4}", compared.to, compared.to_threshold),
        ),
        (
            "would flip",
            format!(
                "{} of {} decisions recorded with {}: {} for the better, {worse} for the worse",
                compared.flips.len(),
                compared.searches,
                compared.recorded,
                compared.improvements,
            ),
        ),
    ]);
    for Flip {
        search,
        before,
        after,
        improves,
    } in compared.flips.iter().take(FLIPS_SHOWN)
    {
        let found = search.found.as_ref();
        text.push_str(&format!(
            "  {} {} ({}) {before} -> {after}: {} as {}, score {}\n",
            if *improves { "+" } else { "-" },
            search.probe,
            search.label,
            found.map_or("nothing", |found| &found.item),
            found.map_or("nothing", |found| &found.label),
            found.map_or_else(|| "none".to_owned(), |found| found.score.to_string()),
        ));
    }
    if FLIPS_SHOWN < compared.flips.len() {
        let more = compared.flips.len() - FLIPS_SHOWN;
        text.push_str(&format!("  and {more} more; --json has all\n"));
    }
    text
}

fn choose(
    deployment: &Path,
    opening: PointsOpenArgs,
    act: impl FnOnce(
        &crate::deployment::Deployment,
    ) -> Result<Activation, crate::deployment::DeploymentError>,
) -> anyhow::Result<()> {
    let engine = opening.engine.resolve(&ProcessEnvironment)?;
    telemetry::install_logs(&engine.log, engine.log_json)?;
    let deployment = labelled_search::open(deployment, opening.model, Access::ReadWrite, &engine)?;
    let now = act(&deployment)?;
    let activated = Activated {
        active: now.point.id().to_owned(),
        previous: now.previous,
        etag: now.etag,
    };
    Output::new(opening.json).result(&activated, |activated| {
        let before = activated.previous.as_deref().unwrap_or("none");
        format!("{} decides now; before it {before}\n", activated.active)
    })
}
