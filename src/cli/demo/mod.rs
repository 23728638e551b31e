//! `matchpoint demo`: the whole story on the sample photographs.

mod adapt;
mod asked;
mod drift;
mod served;

use std::ffi::OsStr;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::Context;
use serde::Serialize;
use serde_json::Value;

use self::asked::DecisionCounts;
use crate::cli::exit::{Exit, fail};
use crate::cli::output::Output;
use crate::config::{EngineFlags, ProcessEnvironment};
use crate::telemetry;
use matchpoint_calibration::rates::Rate;
use matchpoint_gallery::error::GalleryError;
use matchpoint_gallery::params::IndexParams;
use matchpoint_gallery::{Access, Gallery};

/// Tell the whole story on the sample photographs: build, calibrate, serve, decide
///
/// Enrols 36 photographs, asks for an error rate that so small a sample cannot support (and is
/// refused), then for one that it can, starts a server, and sends it photographs of labels that had
/// no part in the calibration, over gRPC. Counts what it decided, and shows its metrics.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  matchpoint demo
  matchpoint demo --serve              # keep the server up, to try things with
  matchpoint demo --drift              # let the traffic change: who notices, and what helps
  matchpoint demo --adapt              # fit a head to the labels of the sample: is it better on others?
  matchpoint demo --json > demo.json")]
pub(super) struct Demo {
    /// Keep the server up until Ctrl-C
    #[arg(long, conflicts_with_all = ["drift", "adapt"])]
    serve: bool,
    #[command(flatten)]
    instead: DemoInstead,
    /// With --drift: rest between chapters, to watch them on a dashboard
    #[arg(long, value_name = "SECONDS", default_value_t = 0, requires = "drift")]
    pause: u64,
    /// The sample [default: examples/photos of a checkout, or of what is installed]
    #[arg(long, value_name = "DIR")]
    examples: Option<PathBuf>,
    /// The model's folder [default: models/efficientnet-lite0 of a checkout, or of what is installed]
    #[arg(long, value_name = "DIR")]
    model: Option<PathBuf>,
    /// Which of the model's precisions, such as int8 [default: its own file]
    #[arg(long, value_name = "NAME")]
    precision: Option<String>,
    /// Where the deployment is made, again each time
    #[arg(long, value_name = "DIR", default_value = "demo-deployment")]
    deployment: PathBuf,
    /// Address of the server; port 0 takes a free one [default: 127.0.0.1:0, with --serve 127.0.0.1:50051]
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<SocketAddr>,
    /// Address of the metrics [default: 127.0.0.1:0, with --serve 127.0.0.1:9464]
    #[arg(long, value_name = "ADDRESS")]
    metrics_listen: Option<SocketAddr>,
    /// Print the outcome as JSON; the account goes to standard error
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    engine: EngineFlags,
}

/// What is shown in place of the main job.
#[derive(Debug, clap::Args)]
struct DemoInstead {
    /// Let the traffic change, label the decisions, and see whose alarms are right
    #[arg(long)]
    drift: bool,
    /// Fit a head to the labels of the sample, judge it on labels that it has not seen, and calibrate behind it if it is better
    #[arg(long, conflicts_with = "drift")]
    adapt: bool,
}

/// A target that these data cannot support, and one that they can.
const TOO_MUCH: [&str; 2] = ["0.001", "0.95"];
const SUPPORTED: [&str; 2] = ["0.1", "0.9"];

/// The name of the deployment.
const NAME: &str = "demo";

/// What the demo showed.
#[derive(Serialize)]
struct DemoReport {
    enrolled: Value,
    /// What the command printed.
    refused_target: Value,
    operating_point: Value,
    start_to_ready_seconds: f64,
    decisions: DecisionCounts,
    far: Option<Rate>,
    frr: Option<Rate>,
    recall_at_1: Option<Rate>,
    metrics: Vec<String>,
    seconds: f64,
}

impl Demo {
    pub(super) fn run(mut self) -> anyhow::Result<Exit> {
        let started = Instant::now();
        let engine = self.engine.resolve(&ProcessEnvironment)?;
        let log = if engine.log.starts_with("info") {
            "warn"
        } else {
            &engine.log
        };
        telemetry::install_logs(log, engine.log_json)?;
        let examples = found_near(self.examples.take(), "examples/photos")?;
        let model = found_near(self.model.take(), "models/efficientnet-lite0")?;
        let output = Output::new(self.json);
        let story = Story {
            demo: &self,
            output,
            examples,
            log: log.to_owned(),
            engine: &engine,
        };

        let built = story.build(&model)?;
        if self.instead.adapt {
            let told = story.adapt(&model)?;
            output.result(&told, |_| {
                format!("\nDone in {:.1} s.", started.elapsed().as_secs_f64())
            })?;
            return Ok(Exit::Done);
        }
        let (refused_target, operating_point) = story.calibrate()?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()?;
        if self.instead.drift {
            let chapters = runtime.block_on(story.drift());
            runtime.shutdown_background();
            output.result(&chapters?, |_| {
                format!("\nDone in {:.1} s.", started.elapsed().as_secs_f64())
            })?;
            return Ok(Exit::Done);
        }
        let served = runtime.block_on(story.serve());
        runtime.shutdown_background();
        let served = served?;
        let report = DemoReport {
            enrolled: built.get("enrolled").cloned().unwrap_or_default(),
            refused_target,
            operating_point,
            start_to_ready_seconds: served.ready_seconds,
            decisions: served.counts,
            far: served.rates.far,
            frr: served.rates.frr,
            recall_at_1: served.rates.recall_at_1,
            metrics: served.metrics,
            seconds: started.elapsed().as_secs_f64(),
        };
        output.result(&report, |report| {
            format!("\nDone in {:.1} s.", report.seconds)
        })?;
        Ok(Exit::Done)
    }
}

/// A folder that was named, or the one of a checkout or an installation that the program or the shell
/// is in.
fn found_near(named: Option<PathBuf>, relative: &str) -> anyhow::Result<PathBuf> {
    if let Some(named) = named {
        return Ok(named);
    }
    let program = std::env::current_exe().unwrap_or_default();
    let here = PathBuf::from(".");
    let places = std::iter::once(here.as_path()).chain(program.ancestors().skip(1).take(4));
    let found = places
        .flat_map(|place| [place.to_owned(), place.join("share/matchpoint")])
        .map(|place| place.join(relative))
        .find(|path| path.is_dir());
    found.ok_or_else(|| {
        let message = format!(
            "there is no {relative} here; run this in a checkout of Matchpoint, or name the folders of its sample and its model: --examples DIR --model DIR"
        );
        fail(Exit::NoInput, message)
    })
}

struct Story<'a> {
    demo: &'a Demo,
    output: Output,
    examples: PathBuf,
    /// The log level of each command.
    log: String,
    engine: &'a crate::config::EngineConfig,
}

impl Story<'_> {
    fn say(&self, text: &str) {
        self.output.note(text);
    }

    /// Runs a command of this program, as a person would type it, and shows its output: as text, or parsed
    /// if it is JSON.
    fn command(&self, arguments: &[&dyn AsRef<OsStr>], ends_with: Exit) -> anyhow::Result<Value> {
        Ok(self.command_ending(arguments, &[ends_with])?.1)
    }

    /// The same of a command that may end in more ways than one; also says in which.
    fn command_ending(
        &self,
        arguments: &[&dyn AsRef<OsStr>],
        ends_with: &[Exit],
    ) -> anyhow::Result<(Exit, Value)> {
        let shown: Vec<_> = arguments
            .iter()
            .map(|one| one.as_ref().to_string_lossy())
            .collect();
        self.say(&format!("   $ matchpoint {}\n", shown.join(" ")));
        let program = std::env::current_exe().context("the program does not know where it is")?;
        let mut command = Command::new(program);
        command.args(arguments.iter().map(AsRef::as_ref));
        command.args(self.demo.engine.arguments());
        command.env("MATCHPOINT_LOG", &self.log);
        if self.demo.json {
            command.arg("--json");
        }
        let done = command.stderr(Stdio::inherit()).output()?;
        let printed = String::from_utf8_lossy(&done.stdout);
        let ended = |exit: &&Exit| done.status.code() == Some(i32::from(exit.code()));
        let Some(exit) = ends_with.iter().find(ended) else {
            self.say(&printed);
            let message = format!(
                "this was not to end with {}; was the sample changed?",
                done.status
            );
            return Err(fail(Exit::Internal, message));
        };
        if self.demo.json {
            return Ok((*exit, serde_json::from_str(&printed)?));
        }
        self.say(&printed);
        Ok((*exit, Value::Null))
    }

    fn build(&self, model: &Path) -> anyhow::Result<Value> {
        let folder = &self.demo.deployment;
        self.say(
            "1. Enrol. Each photograph becomes an item: a label, and an embedding of 1280 numbers.",
        );
        remove_own_deployment(folder)?;
        std::fs::create_dir_all(folder)?;
        std::fs::write(folder.join(MARKER), "")?;
        let images = self.examples.join("gallery.csv");
        let mut arguments: Vec<&dyn AsRef<OsStr>> = vec![
            &"build",
            folder,
            &"--images",
            &images,
            &"--model",
            &model,
            &"--name",
            &NAME,
        ];
        arguments.extend(self.precision());
        self.command(&arguments, Exit::Done)
    }

    /// The flags for the precision that was asked for.
    fn precision(&self) -> Vec<&dyn AsRef<OsStr>> {
        let asked = self.demo.precision.as_ref();
        let flags = asked.map(|precision| [&"--precision" as &dyn AsRef<OsStr>, precision]);
        flags.into_iter().flatten().collect()
    }

    fn calibrate(&self) -> anyhow::Result<(Value, Value)> {
        let folder = &self.demo.deployment;
        let (queries, pictures) = (
            self.examples.join("calibrate.csv"),
            self.examples.join("gallery.csv"),
        );
        let report = folder.join("calibration.html");
        let run = |[far, confidence]: [&str; 2], ends_with| {
            let arguments: &[&dyn AsRef<OsStr>] = &[
                &"calibrate",
                folder,
                &"--queries",
                &queries,
                &"--target-far",
                &far,
                &"--confidence",
                &confidence,
                &"--report",
                &report,
                &"--pictures",
                &pictures,
            ];
            self.command(arguments, ends_with)
        };
        self.say("2. Calibrate. Which score means \"the same\"? Ask for one false accept in a thousand searches:");
        let refused = run(TOO_MUCH, Exit::Underpowered)?;
        self.say("   So small a sample cannot promise that, and no threshold is made up. What it can support is one in ten, and that at a confidence of 90 % instead of 95 %:");
        let point = run(SUPPORTED, Exit::Done)?;
        Ok((refused, point))
    }
}

/// A file that marks this folder as made by the demo, which may replace it.
const MARKER: &str = "made-by-matchpoint-demo";

/// Removes what an earlier demo made, and nothing else.
fn remove_own_deployment(folder: &Path) -> anyhow::Result<()> {
    if !folder.exists() {
        return Ok(());
    }
    let shown = folder.display();
    if !folder.join(MARKER).exists() {
        let message =
            format!("{shown} exists, and was not made by the demo; name another with --deployment");
        return Err(fail(Exit::Usage, message));
    }
    let gallery = folder.join("items.db");
    if gallery.exists() {
        let params = IndexParams {
            graph_from_items: usize::MAX,
            ..IndexParams::default()
        };
        let opened = Gallery::open(&gallery, Access::ReadWrite, params);
        if let Err(error @ GalleryError::InUse { .. }) = opened {
            return Err(fail(
                Exit::Unavailable,
                format!("another demo is still serving: {error}"),
            ));
        }
    }
    Ok(std::fs::remove_dir_all(folder)?)
}
