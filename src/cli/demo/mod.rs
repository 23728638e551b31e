//! `matchpoint demo`: the whole story on the sample photographs.

mod adapt;
mod drift;

use std::ffi::OsStr;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::Context;
use serde::Serialize;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::oneshot;

use crate::cli::exit::{Exit, fail};
use crate::cli::input::image_sources::{ImageSource, ImageSources, Purpose};
use crate::cli::output::{Output, percent, rate, table};
use crate::cli::search;
use crate::cli::serve::stop_signal;
use crate::config::{AccessConfig, EngineFlags, ProcessEnvironment, ServerConfig, ServerFlags};
use crate::server;
use crate::telemetry;
use matchpoint_calibration::decision::Threshold;
use matchpoint_calibration::evaluate::evaluate;
use matchpoint_calibration::rates::Rate;
use matchpoint_calibration::trials::{MatedSearch, NonMatedSearch, StrangerOrigin, Top, Trials};
use matchpoint_client::Client;
use matchpoint_client::proto::search_request::Query;
use matchpoint_client::proto::{self, DecisionBasis, SearchRequest, SearchResponse};
use matchpoint_gallery::error::GalleryError;
use matchpoint_gallery::params::IndexParams;
use matchpoint_gallery::{Access, Gallery};
use matchpoint_vector::Similarity;

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

/// Decisions on queries that had no part in the calibration.
#[derive(Clone, Copy, Debug, Default, Serialize)]
struct DecisionCounts {
    known_accepted: u32,
    known_accepted_wrong_label: u32,
    known_rejected: u32,
    strangers_rejected: u32,
    strangers_accepted: u32,
    undecided: u32,
    failed: u32,
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
            far: served.far,
            frr: served.frr,
            recall_at_1: served.recall_at_1,
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

struct ServedStory {
    ready_seconds: f64,
    counts: DecisionCounts,
    far: Option<Rate>,
    frr: Option<Rate>,
    recall_at_1: Option<Rate>,
    metrics: Vec<String>,
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

    async fn serve(&self) -> anyhow::Result<ServedStory> {
        let config = self.server_config()?;
        let metrics_at = self.start_metrics()?;
        let started = Instant::now();
        let listeners = server::Listeners::open(&config)?;
        let address = listeners.local_addr()?;
        let (stop, stopped) = oneshot::channel::<()>();
        let (loading, serving) = (config.clone(), config.clone());
        let server = tokio::spawn(async move {
            let stopped = async { drop(stopped.await) };
            server::serve(listeners, &serving, move || server::load(&loading), stopped).await
        });
        self.say(&format!(
            "3. Serve.\n   $ matchpoint serve --deployments {} --listen {address}\n",
            self.demo.deployment.display()
        ));
        let client = Client::connect(&address.to_string()).await?;
        client.wait_until_ready().await?;
        let ready_seconds = started.elapsed().as_secs_f64();
        self.say(&format!("  ready after {ready_seconds:.2} s\n"));

        let asked = self.ask_all(&client).await?;
        let metrics = read_metrics(metrics_at).await?;
        self.say(&format!(
            "5. Watch. http://{metrics_at}/metrics counts it for Prometheus:\n"
        ));
        for line in &metrics {
            self.say(&format!("  {line}"));
        }
        if self.demo.serve {
            self.keep_serving(address, metrics_at).await?;
        }
        stop.send(()).unwrap_or_default();
        server.await??;
        Ok(ServedStory {
            ready_seconds,
            metrics,
            ..asked.measure()?
        })
    }

    fn server_config(&self) -> anyhow::Result<ServerConfig> {
        // Only on this machine, whatever a container's environment sets.
        let port = if self.demo.serve { 50_051 } else { 0 };
        let usual = SocketAddr::from(([127, 0, 0, 1], port));
        let listen = self.demo.listen.unwrap_or(usual);
        let flags = ServerFlags::default().listening_on(listen);
        let mut config = flags.resolve_for(&ProcessEnvironment, &self.demo.deployment)?;
        config.engine = self.engine.clone();
        // The sample is not secret, and the demo uses no key.
        if config.access.tls.is_some() || config.access.asks() {
            if !listen.ip().is_loopback() {
                let problem = "the demo asks nobody who they are; let it listen on 127.0.0.1, or unset MATCHPOINT_KEYS_FILE and MATCHPOINT_TLS_*";
                return Err(fail(Exit::Usage, problem));
            }
            config.access = AccessConfig::default();
        }
        Ok(config)
    }

    /// Port 0 is resolved here, since the endpoint does not report its port.
    fn start_metrics(&self) -> anyhow::Result<SocketAddr> {
        let port = if self.demo.serve { 9464 } else { 0 };
        let wanted = self
            .demo
            .metrics_listen
            .unwrap_or(SocketAddr::from(([127, 0, 0, 1], port)));
        let address = std::net::TcpListener::bind(wanted)
            .and_then(|probe| probe.local_addr())
            .map_err(|cause| {
                fail(
                    Exit::Unavailable,
                    format!("the metrics cannot listen on {wanted}: {cause}"),
                )
            })?;
        tokio::spawn(telemetry::install_metrics(address)?);
        Ok(address)
    }

    async fn ask_all(&self, client: &Client) -> anyhow::Result<AskedQueries> {
        self.say(
            "4. Decide. Photographs whose labels had no part in the calibration, sent over gRPC:\n",
        );
        let sources = ImageSources::read(&self.examples.join("evaluate.csv"), Purpose::Search)?;
        let gallery = ImageSources::read(&self.examples.join("gallery.csv"), Purpose::Enrol)?;
        let request = |image: Vec<u8>| SearchRequest {
            deployment: NAME.to_owned(),
            query: Some(Query::Image(image.into())),
            limit: 1,
            ..SearchRequest::default()
        };
        let mut asked = AskedQueries::default();
        let mut shown = ShownKinds::default();
        for source in sources.items {
            let known = gallery.items.iter().any(|item| item.label == source.label);
            let image = std::fs::read(&source.path)?;
            match client.search(request(image), None).await {
                Ok(found) => {
                    let kind = asked.count(&source, known, &found);
                    if shown.wants(kind) {
                        let told = if known { "enrolled" } else { "never enrolled" };
                        self.say(&format!(
                            "  {} ({told}): {kind}\n{}",
                            source.id,
                            search::describe(&found)
                        ));
                    }
                }
                Err(error) => {
                    asked.counts.failed += 1;
                    self.say(&format!("  {} failed: {error}", source.id));
                }
            }
        }
        self.say(&asked.text()?);
        Ok(asked)
    }

    async fn keep_serving(&self, address: SocketAddr, metrics: SocketAddr) -> anyhow::Result<()> {
        let sample = self.examples.join("images");
        let first = std::fs::read_dir(&sample)?
            .filter_map(Result::ok)
            .map(|entry| entry.path())
            .min();
        let image = first.unwrap_or(sample).join("q1_rotpersp.jpg");
        self.say(&format!(
            "\nServing on {address} until Ctrl-C. In another terminal:\n  matchpoint search --server http://{address} {}\n  curl http://{metrics}/metrics",
            image.display()
        ));
        stop_signal()?.await;
        Ok(())
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

/// The answers to all queries.
#[derive(Default)]
struct AskedQueries {
    counts: DecisionCounts,
    /// What the decisions rest on, by the answers.
    basis: DecisionBasis,
    mated: Vec<MatedSearch>,
    non_mated: Vec<NonMatedSearch>,
}

impl AskedQueries {
    /// Counts an answer, and returns in words what happened to the query.
    fn count(&mut self, source: &ImageSource, known: bool, found: &SearchResponse) -> &'static str {
        self.basis = found.basis.clone().unwrap_or_default();
        let best = found.matches.first();
        let score = best.and_then(|best| Similarity::new(best.score));
        let right = best.is_some_and(|best| best.label == source.label);
        let (label, probe) = (source.label.clone(), source.id.clone());
        if known {
            let top = score.map(|score| Top {
                score,
                label_matches: right,
            });
            self.mated.push(MatedSearch { label, probe, top });
        } else {
            let origin = StrangerOrigin::NeverEnrolled;
            self.non_mated.push(NonMatedSearch {
                label,
                probe,
                top_score: score,
                origin,
            });
        }
        let counts = &mut self.counts;
        let (counter, kind) = match (found.decision(), known, right) {
            (proto::Decision::Accept, true, true) => {
                (&mut counts.known_accepted, "rightly accepted")
            }
            (proto::Decision::Accept, true, false) => (
                &mut counts.known_accepted_wrong_label,
                "accepted with a WRONG label",
            ),
            (proto::Decision::Accept, false, _) => {
                (&mut counts.strangers_accepted, "WRONGLY accepted")
            }
            (proto::Decision::Reject, true, _) => (&mut counts.known_rejected, "WRONGLY rejected"),
            (proto::Decision::Reject, false, _) => {
                (&mut counts.strangers_rejected, "rightly rejected")
            }
            (proto::Decision::Undecided | proto::Decision::Unspecified, _, _) => {
                (&mut counts.undecided, "undecided")
            }
        };
        *counter += 1;
        kind
    }

    fn measure(&self) -> anyhow::Result<ServedStory> {
        let threshold = self.basis.threshold.map(Threshold::new).transpose()?;
        let trials = Trials::new(self.mated.clone(), self.non_mated.clone())?;
        let measured = evaluate(&trials, threshold);
        let errors = measured.errors.as_ref();
        Ok(ServedStory {
            ready_seconds: 0.0,
            counts: self.counts,
            far: errors.and_then(|errors| errors.far),
            frr: errors.and_then(|errors| errors.frr),
            recall_at_1: measured.recall_at_1,
            metrics: Vec::new(),
        })
    }

    fn text(&self) -> anyhow::Result<String> {
        let (counts, measured) = (self.counts, self.measure()?);
        let promised = self.basis.target_far.unwrap_or_default();
        let bad = |count: u32| {
            if count == 0 {
                "none".to_owned()
            } else {
                count.to_string()
            }
        };
        Ok(table(&[
            ("known, accepted", counts.known_accepted.to_string()),
            ("known, wrong label", bad(counts.known_accepted_wrong_label)),
            ("known, rejected", counts.known_rejected.to_string()),
            ("strangers, rejected", counts.strangers_rejected.to_string()),
            ("strangers, accepted", counts.strangers_accepted.to_string()),
            ("undecided or failed", bad(counts.undecided + counts.failed)),
            (
                "FAR",
                format!(
                    "{}; promised <= {}",
                    rate(measured.far.as_ref()),
                    percent(promised)
                ),
            ),
            ("FRR", rate(measured.frr.as_ref())),
        ]))
    }
}

/// One example of each kind is enough.
#[derive(Default)]
struct ShownKinds(Vec<&'static str>);

impl ShownKinds {
    fn wants(&mut self, kind: &'static str) -> bool {
        let new = !self.0.contains(&kind);
        if new {
            self.0.push(kind);
        }
        new
    }
}

/// The series that a person would look at first.
async fn read_metrics(address: SocketAddr) -> anyhow::Result<Vec<String>> {
    let mut stream = tokio::net::TcpStream::connect(address).await?;
    let request = format!("GET /metrics HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let telling = [
        "matchpoint_decisions_total",
        "matchpoint_gallery_items",
        "matchpoint_target_far_ratio",
        "matchpoint_threshold",
    ];
    let shown = |line: &&str| {
        telling.iter().any(|name| line.starts_with(name)) && !line.contains("\"none\"")
    };
    Ok(answer
        .lines()
        .filter(shown)
        .map(ToOwned::to_owned)
        .collect())
}
