//! `matchpoint points`: the operating points of a deployment: list, show, compare, choose.

mod import;
mod outcomes;
pub(super) mod promises;
pub(super) mod served;
pub(super) mod served_point;
pub(super) mod summary;
pub(super) mod text;

use std::path::PathBuf;

use serde::Serialize;

use self::import::ImportArgs;
use self::outcomes::{
    Activated, ComparedPoints, FlipLine, NONE_ACTIVE, comparison_text, list_text,
};
use self::served_point::whole_id;
use self::text::describe;
use crate::cli::calibrate::labelled_search;
use crate::cli::exit::{Exit, fail};
use crate::cli::output::Output;
use crate::cli::server_address::Which;
use crate::config::{EngineFlags, ProcessEnvironment};
use crate::deployment::{Activation, Deployment, Folder, compare_points, promise_in_gallery};
use crate::server::promise;
use crate::telemetry;
use matchpoint_calibration::operating_point::{Content, OperatingPoint};
use matchpoint_calibration::recording::Flip;
use matchpoint_client::proto::PromiseStanding;
use matchpoint_gallery::params::IndexParams;
use matchpoint_gallery::{Access, Gallery};

/// List, compare, activate and roll back operating points
///
/// An operating point never changes; which of them decides does. While a deployment is served, its server
/// holds its lock: choose through it, with --server, and the next request is decided by the new one.
///
/// The beginning of an id does for it, if no other begins so.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  matchpoint points list shop
  matchpoint points list shop --server http://127.0.0.1:50051
  matchpoint points activate shop op-5f2c --server http://127.0.0.1:50051
  matchpoint points compare shop op-5f2c9a0b1d3e4f60 op-77aa01c2d3e4f501
  matchpoint points rollback shop
  matchpoint points import shop gate")]
pub(crate) struct PointsArgs {
    #[command(subcommand)]
    command: PointsCommand,
}

#[derive(Debug, clap::Subcommand)]
enum PointsCommand {
    /// List all, oldest first, and say which one decides
    #[command(after_help = "Examples:
  matchpoint points list shop
  matchpoint points list shop --server http://127.0.0.1:50051")]
    List(Which),
    /// Show one, or the active one
    Show(PointArgs),
    /// Show which recorded decisions change if one takes the place of another
    Compare(Two),
    /// Make one decide
    Activate(Chosen),
    /// Return to the one that decided before
    Rollback(Back),
    /// Take one that was made in Python, if it comes to the same here
    ///
    /// FOLDER is what `found.save(FOLDER)` of `matchpoint_calibration` wrote. Its gallery has to be that of the
    /// deployment: ids, labels, and vectors to the last bit. Its queries are searched for here, as the server would,
    /// and the same policy has to come to the same threshold. Then that decides. If anything differs, it is named,
    /// and nothing is changed (exit code 4).
    Import(ImportArgs),
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  matchpoint points show shop
  matchpoint points show shop 5f2c --json")]
struct PointArgs {
    #[command(flatten)]
    which: Which,
    /// Id of the operating point; the active one without
    id: Option<String>,
}

#[derive(Debug, clap::Args)]
#[command(
    after_help = "The searches that the first was made from are judged by both thresholds.

Examples:
  matchpoint points compare shop op-5f2c9a0b1d3e4f60 op-77aa01c2d3e4f501
  matchpoint points compare shop 5f2c 77aa --server http://127.0.0.1:50051"
)]
struct Two {
    #[command(flatten)]
    which: Which,
    /// Id of the one that is replaced
    from: String,
    /// Id of the one that takes its place
    to: String,
    /// Show every search that would be decided otherwise
    #[arg(long, short, conflicts_with = "json")]
    verbose: bool,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  matchpoint points activate shop op-5f2c9a0b1d3e4f60
  matchpoint points activate shop 5f2c --server http://127.0.0.1:50051")]
struct Chosen {
    #[command(flatten)]
    which: Which,
    /// Id of the operating point
    id: String,
    #[command(flatten)]
    opening: PointsOpenArgs,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  matchpoint points rollback shop
  matchpoint points rollback shop --server http://127.0.0.1:50051")]
struct Back {
    #[command(flatten)]
    which: Which,
    #[command(flatten)]
    opening: PointsOpenArgs,
}

#[derive(Debug, clap::Args)]
struct PointsOpenArgs {
    /// The model's folder, if it is not the recorded one
    #[arg(long, value_name = "DIR", conflicts_with = "server")]
    model: Option<PathBuf>,
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
    /// What it promised, and what is left of that; absent if the gallery cannot be opened.
    promises: Option<Vec<PromiseStanding>>,
    content: Content,
}

impl PointsArgs {
    pub(crate) fn run(self) -> anyhow::Result<Exit> {
        match &self.command {
            PointsCommand::List(which) => match which.server.address() {
                Some(server) => served::list(which, &server)?,
                None => list(which)?,
            },
            PointsCommand::Show(one) => match one.which.server.address() {
                Some(server) => served::show(&one.which, &server, one.id.as_deref())?,
                None => show(one)?,
            },
            PointsCommand::Compare(two) => match two.which.server.address() {
                Some(server) => {
                    let ids = [&*two.from, &*two.to];
                    served::compare(&two.which, &server, ids, two.verbose)?;
                }
                None => compare(two)?,
            },
            PointsCommand::Activate(Chosen { which, id, opening }) => {
                match which.server.instead_of(&opening.engine)? {
                    Some(server) => served::activate(which, &server, id)?,
                    None => choose(which, opening, |deployment| {
                        let id = whole_id_in(&deployment.folder(), id)?;
                        Ok(deployment.activate(&id, None)?)
                    })?,
                }
            }
            PointsCommand::Rollback(Back { which, opening }) => {
                match which.server.instead_of(&opening.engine)? {
                    Some(server) => served::roll_back(which, &server)?,
                    None => choose(which, opening, |deployment| Ok(deployment.roll_back(None)?))?,
                }
            }
            PointsCommand::Import(import) => import.run()?,
        }
        Ok(Exit::Done)
    }
}

fn list(which: &Which) -> anyhow::Result<()> {
    let folder = Folder::open(&which.deployment)?;
    let active = folder.record().active_operating_point.clone();
    let points = folder.operating_points()?;
    let listed = ListedPoint {
        operating_points: shown(&folder, &points)?,
        active,
        etag: folder.etag(),
    };
    Output::new(which.json).result(&listed, |listed| {
        list_text(listed.operating_points.iter().map(|one| {
            format!(
                "{} {}  {}  accept from {}  {}\n{}",
                if one.active { "*" } else { " " },
                one.id,
                one.content.created,
                one.content.threshold,
                one.content.goal(),
                one.today(),
            )
        }))
    })
}

fn show(one: &PointArgs) -> anyhow::Result<()> {
    let folder = Folder::open(&one.which.deployment)?;
    let active = folder.record().active_operating_point.clone();
    let id = match (&one.id, &active) {
        (Some(id), _) => whole_id_in(&folder, id)?,
        (None, Some(active)) => active.clone(),
        (None, None) => return Err(fail(Exit::NoInput, NONE_ACTIVE)),
    };
    let mut shown = shown(&folder, &[folder.operating_point(&id)?])?;
    let shown = shown.swap_remove(0);
    Output::new(one.which.json).result(&shown, |shown| {
        let state = if shown.active { "decides now" } else { "kept" };
        let heading = format!("operating point {} ({state})\n", shown.id);
        heading + &shown.today() + &describe(&shown.content)
    })
}

/// The whole id for the beginning of one.
fn whole_id_in(folder: &Folder, begins: &str) -> anyhow::Result<String> {
    let points = folder.operating_points()?;
    whole_id(begins, points.iter().map(OperatingPoint::id))
}

/// With what each of them promises in the gallery as it is.
fn shown(folder: &Folder, points: &[OperatingPoint]) -> anyhow::Result<Vec<DescribedPoint>> {
    let engine = EngineFlags::default().resolve(&ProcessEnvironment)?;
    let no_graph = IndexParams {
        graph_from_items: usize::MAX,
        ..IndexParams::default()
    };
    let gallery = Gallery::open(&folder.gallery_file(), Access::ReadOnly, no_graph);
    let active = folder.record().active_operating_point.as_deref();
    let shown = points.iter().map(|point| {
        let opened = gallery.as_ref().ok();
        let opened = opened
            .map(|gallery| promise_in_gallery(folder, gallery, point, engine.graph_from_items));
        DescribedPoint {
            id: point.id().to_owned(),
            active: active == Some(point.id()),
            promises: opened.map(|opened| opened.promised.into_iter().map(promise).collect()),
            content: point.content().clone(),
        }
    });
    Ok(shown.collect())
}

impl DescribedPoint {
    fn today(&self) -> String {
        self.promises.as_deref().map_or_else(
            || "  NOT KNOWN: what is promised today, since the gallery cannot be opened; `matchpoint inspect` says why\n".to_owned(),
            promises::today,
        )
    }
}

fn compare(two: &Two) -> anyhow::Result<()> {
    let folder = Folder::open(&two.which.deployment)?;
    let (from, to) = (
        whole_id_in(&folder, &two.from)?,
        whole_id_in(&folder, &two.to)?,
    );
    let comparison = compare_points(&folder, &from, &to)?;
    let improvements = comparison.flips.iter().filter(|flip| flip.improves);
    let compared = ComparedPoints {
        recorded: comparison.recorded.clone(),
        from_threshold: comparison.before.threshold().get(),
        to_threshold: comparison.after.threshold().get(),
        from,
        to,
        searches: comparison.searches as u64,
        flips_total: comparison.flips.len() as u64,
        improvements: improvements.count() as u64,
        flips: comparison.flips,
    };
    let shown = two.which.deployment.display();
    let activate = format!("matchpoint points activate {shown} {}", compared.to);
    Output::new(two.which.json).result(&compared, |compared| {
        comparison_text(compared, flip_line, &activate, two.verbose)
    })
}

fn flip_line(flip: &Flip) -> FlipLine<'_> {
    let found = flip.search.found.as_ref();
    FlipLine {
        improves: flip.improves,
        query: &flip.search.probe,
        label: &flip.search.label,
        accepted: flip.after == "accept",
        found: found.map(|found| (&*found.item, &*found.label, found.score.get())),
    }
}

fn choose(
    which: &Which,
    opening: &PointsOpenArgs,
    act: impl FnOnce(&Deployment) -> anyhow::Result<Activation>,
) -> anyhow::Result<()> {
    let engine = opening.engine.resolve(&ProcessEnvironment)?;
    telemetry::install_logs(&engine.log, engine.log_json)?;
    let model = opening.model.clone();
    let deployment = labelled_search::open(&which.deployment, model, Access::ReadWrite, &engine)?;
    let now = act(&deployment)?;
    let activated = Activated {
        active: now.point.id().to_owned(),
        previous: now.previous,
        etag: now.etag,
    };
    Output::new(which.json).result(&activated, Activated::text)
}
