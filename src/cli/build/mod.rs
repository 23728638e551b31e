//! `matchpoint build`: embed images and enrol them, resumably.

mod adapted_embeddings;
mod input;
pub(super) mod merge;
mod shard;

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;

use serde::Serialize;

use self::adapted_embeddings::AdaptedEmbeddings;
use self::input::{BuildInput, ReusedImages};
use self::shard::{ShardFlags, ShardOutcome};
use crate::cli::exit::{Exit, fail, for_retries};
use crate::cli::input::external_vectors::ExternalVectorFlags;
use crate::cli::input::image_sources::{ImageSource, ImageSources, Purpose};
use crate::cli::input::left_out::LeftOut;
use crate::cli::input::listing::ExcludeFlags;
use crate::cli::output::alike;
use crate::cli::output::progress::ItemProgress;
use crate::cli::output::{Output, table};
use crate::cli::runtime::single_threaded;
use crate::cli::signal::Signal;
use crate::config::{EngineConfig, EngineFlags, ProcessEnvironment};
use crate::deployment::{
    BatchProgress, EnrolSettings, Enrolled, Folder, ImageAt, NewImage, NewItems, OtherItems,
    RefusedItem, ShardSource, ShardWork, SourceEnrolment, VectorSpace,
};
use crate::monitor::LeftOutItem;
use crate::telemetry;
use matchpoint_calibration::likeness::Alike;

/// Embed images and enrol them in a deployment
///
/// Every image becomes an item with an id and a label. The source is a folder (one subfolder for
/// each label; the id is the path below the folder), a CSV file (a header with path,label and
/// perhaps id; further columns become metadata) or a JSONL file (the same as objects). Paths are
/// relative to the file. If a list has a column role, only rows of the role gallery are enrolled.
///
/// Or vectors that are made elsewhere, with --embeddings: by the deployment's own model, or, for a
/// deployment without one, by what --vectors-of names. That answers searches by vectors only.
///
/// A build that was interrupted goes on where it stopped when it is run again. Images that cannot
/// be used are listed, and end the command with exit code 3 after all others are enrolled.
///
/// With --shard, one of N machines builds its part: those items whose id says so. DIR is then a folder of archives, and
/// `matchpoint merge` makes a deployment of all of them. Every attempt at a shard makes the same bytes, one that was
/// killed is gone on with, and two at once do no harm. Exit code 75 says that the same command may succeed next time
/// (stopped, disk full, images that cannot be read), 42 that it will not until something is fixed (a bad list, another
/// model). Images that cannot be used are listed in the archive, and `merge` names them.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  matchpoint build shop --images photos/ --model models/efficientnet-lite0
  matchpoint build shop --images items.csv --model models/efficientnet-lite0 --json
  matchpoint build shop --images new-photos/          # add to it; the model is known
  matchpoint build shop8 --images photos/ --model models/efficientnet-lite0 --precision int8
  matchpoint build shop --images photos/ --keep-images
  matchpoint build shop-new --images-of shop --model models/new --keep-images
  matchpoint build shop-adapted --embeddings-of shop --model models/shop-adapted
  matchpoint build shards --images items.csv --model models/efficientnet-lite0 --shard 3/64
  matchpoint build faces --embeddings faces.npy --labels faces.csv --vectors-of arcface-r100")]
pub(crate) struct Build {
    /// The deployment's folder; made if there is none
    deployment: PathBuf,
    /// The images: a folder, a .csv, a .tsv or a .jsonl file, or - for a list on standard input
    #[arg(long, value_name = "SOURCE", required_unless_present_any = ["embeddings", "images_of", "embeddings_of"])]
    images: Option<PathBuf>,
    /// The images that another deployment keeps, with their ids, labels and metadata: its gallery
    /// again, with another model; it may be served meanwhile
    #[arg(long, value_name = "DIR", conflicts_with_all = ["images", "embeddings"])]
    images_of: Option<PathBuf>,
    /// The embeddings that another deployment holds, behind the head of --model, which `adapt` made from its model: no image
    /// is needed; it may be served meanwhile
    #[arg(long, value_name = "DIR", requires = "model",
        conflicts_with_all = ["images", "embeddings", "images_of", "keep_images", "precision"])]
    embeddings_of: Option<PathBuf>,
    #[command(flatten)]
    exclude: ExcludeFlags,
    /// The model's folder; required for a new deployment
    #[arg(long, value_name = "DIR")]
    model: Option<PathBuf>,
    /// Which of the model's precisions embeds a new deployment, such as int8 [default: its own file]
    #[arg(long, value_name = "NAME", requires = "model")]
    precision: Option<String>,
    /// Name of a new deployment [default: its folder's name]
    #[arg(long)]
    name: Option<String>,
    /// Remove items that the source does not name
    #[arg(long)]
    prune: bool,
    /// Keep the images too, now and whenever items are enrolled in this deployment
    #[arg(long, conflicts_with = "embeddings")]
    keep_images: bool,
    #[command(flatten)]
    shard: ShardFlags,
    /// Print the outcome as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten, next_help_heading = "Vectors made elsewhere")]
    given: ExternalVectorFlags,
    #[command(flatten)]
    engine: EngineFlags,
}

/// The result of a build.
#[derive(Clone, Debug, Default, Serialize)]
struct BuildReport {
    /// The deployment's folder.
    deployment: PathBuf,
    /// Images that were embedded and enrolled now.
    enrolled: usize,
    /// Images that were enrolled before, with the same bytes.
    unchanged: usize,
    /// Items removed by `--prune`.
    pruned: usize,
    /// Items that the source does not name, and that were kept.
    not_in_source: usize,
    /// Files that are no images by their names and first bytes.
    ignored_files: usize,
    /// What else the source holds, and the kinds of those files.
    left_out: LeftOut,
    /// Images that could not be used, and why.
    failed: Vec<RefusedItem>,
    /// Whether a signal ended the build before its end.
    interrupted: bool,
    /// Items in the gallery now.
    items: usize,
    /// Labels in the gallery now.
    labels: usize,
    /// Labels of the source that are suspiciously like each other, or like enrolled ones.
    alike: Vec<Alike>,
    /// Items enrolled now that the active operating point accepts as items of other labels; absent if none
    /// is valid.
    #[serde(skip_serializing_if = "Option::is_none")]
    lookalikes: Option<BuildLookalikes>,
    /// Digest of the gallery's content: the same items give the same digest.
    gallery_digest: String,
    /// Duration, in seconds.
    seconds: f64,
    /// Images embedded a second.
    images_per_second: f64,
}

/// Items enrolled now that the active operating point accepts as others.
#[derive(Clone, Debug, Default, Serialize)]
struct BuildLookalikes {
    /// Items that were searched for with their label left out.
    searched: usize,
    /// Those of them that were accepted.
    accepted: usize,
    /// The first of them.
    items: Vec<BuildLookalike>,
}

/// An item that is accepted as another.
#[derive(Clone, Debug, Serialize)]
struct BuildLookalike {
    item: String,
    label: String,
    accepted_as: String,
    accepted_as_label: String,
    decision_score: f32,
}

/// Look-alikes that are named.
const LOOKALIKES_MAX: usize = 20;

/// Shown at the first signal.
const STOPPING: &str = "stopping after the images under way; run the command again to resume";

impl Build {
    pub(crate) fn run(self) -> anyhow::Result<Exit> {
        if self.shard.is_asked_for() {
            return self.build_shard().map_err(|error| for_retries(&error));
        }
        let engine = self.engine.resolve(&ProcessEnvironment)?;
        telemetry::install_logs(&engine.log, engine.log_json)?;
        let input = self.input()?;
        let adapted = match &input {
            BuildInput::Adapted(adapted) => adapted.precision.clone(),
            BuildInput::Images(_) | BuildInput::Kept(_) | BuildInput::Vectors(_) => None,
        };
        let output = Output::new(self.json);
        let built = build(&BuildRequest {
            deployment: &self.deployment,
            model: self.model.as_deref(),
            precision: adapted.as_deref().or(self.precision.as_deref()),
            name: self.name.as_deref(),
            prune: self.prune,
            keep_images: self.keep_images,
            engine: &engine,
            vectors_of: self.given.vectors_of.as_deref(),
            input,
            shard: None,
        })?;
        output.result(&built.report, text)?;
        Ok(match (built.signal, built.report.failed.is_empty()) {
            (Some(exit), _) => exit,
            (None, false) => Exit::SomeFailed,
            (None, true) => Exit::Done,
        })
    }
}

impl Build {
    /// Builds one of N parts; may be repeated.
    fn build_shard(&self) -> anyhow::Result<Exit> {
        let mut engine = self.engine.resolve(&ProcessEnvironment)?;
        telemetry::install_logs(&engine.log, engine.log_json)?;
        // Nobody searches in a shard.
        engine.graph_from_items = usize::MAX;
        let shard = self.shard.choose(&ProcessEnvironment)?;
        let signal = Signal::listen_for_scheduler(STOPPING)?;
        let mut input = self.input()?;
        input.refuse_contradictions(BTreeSet::new())?;
        let source = ShardSource::new(shard, input.list(), self.keep_images);
        input.keep(shard);
        let refused = input.refused().to_vec();
        let work = ShardWork::begin(&self.deployment, source)?;
        let request = BuildRequest {
            deployment: work.path(),
            model: self.model.as_deref(),
            precision: self.precision.as_deref(),
            name: Some("shard"),
            prune: true,
            keep_images: self.keep_images,
            engine: &engine,
            vectors_of: self.given.vectors_of.as_deref(),
            input,
            shard: Some(&signal),
        };
        let built = build(&request).or_else(|error| {
            // The remains of an earlier attempt are of another model, or damaged.
            let is_unusable = matches!(Exit::of(&error), Exit::Mismatch | Exit::BadData);
            if is_unusable && Folder::exists(work.path()) {
                work.begin_again()?;
                build(&request).map_err(|error| {
                    let archive = work.archive();
                    if archive.exists() {
                        let there = format!(
                            "{} is there already, and is another shard; move it away, or write to another folder",
                            archive.display()
                        );
                        return error.context(there);
                    }
                    error
                })
            } else {
                Err(error)
            }
        })?;
        drop(request);
        if built.report.interrupted {
            let stopped = "stopped; what is embedded is kept, and the same command goes on with it";
            return Err(fail(Exit::Again, stopped));
        }
        self.shard.check_read(&built.unusable, built.unread)?;
        self.publish(work, built, refused, &signal)
    }

    fn publish(
        &self,
        work: ShardWork,
        built: Built,
        refused: Vec<RefusedItem>,
        signal: &Signal,
    ) -> anyhow::Result<Exit> {
        let published = work.publish(
            built.preprocessing,
            refused,
            built.unusable,
            &mut |_, _| match signal.received() {
                None => ControlFlow::Continue(()),
                Some(_) => ControlFlow::Break(()),
            },
        )?;
        let outcome = ShardOutcome {
            published,
            enrolled: built.report.enrolled,
            unchanged: built.report.unchanged,
            seconds: built.report.seconds,
            images_per_second: built.report.images_per_second,
        };
        Output::new(self.json).result(&outcome, ShardOutcome::text)?;
        Ok(Exit::Done)
    }

    fn input(&self) -> anyhow::Result<BuildInput> {
        if let (Some(other), Some(model)) = (&self.embeddings_of, &self.model) {
            return Ok(BuildInput::Adapted(AdaptedEmbeddings::open(other, model)?));
        }
        Ok(match (self.given.read()?, &self.images, &self.images_of) {
            (Some(given), ..) => BuildInput::Vectors(given),
            (None, Some(images), _) => BuildInput::Images(self.sources(images)?),
            (None, None, Some(other)) => BuildInput::Kept(ReusedImages::open(other)?),
            (None, None, None) => return Err(fail(Exit::Usage, "say --images or --embeddings")),
        })
    }

    fn sources(&self, images: &Path) -> anyhow::Result<ImageSources> {
        ImageSources::read_but(images, Purpose::Enrol, &self.exclude)
    }
}

/// A build to be run.
struct BuildRequest<'a> {
    deployment: &'a Path,
    model: Option<&'a Path>,
    precision: Option<&'a str>,
    name: Option<&'a str>,
    prune: bool,
    keep_images: bool,
    engine: &'a EngineConfig,
    /// What makes the vectors, if a new deployment has no model.
    vectors_of: Option<&'a str>,
    input: BuildInput,
    /// The signal that stops a task building one part of a list, which was checked as a whole.
    shard: Option<&'a Signal>,
}

/// The result of a build, and the signal that ended it, if any.
struct Built {
    report: BuildReport,
    signal: Option<Exit>,
    /// Entries that were read and could not be enrolled.
    unusable: Vec<RefusedItem>,
    /// How many of those another attempt may be able to use.
    unread: usize,
    /// How images were prepared.
    preprocessing: String,
}

/// Enrols the sources.
fn build(request: &BuildRequest<'_>) -> anyhow::Result<Built> {
    let settings = request.settings();
    request.check_model()?;
    let enrolment = SourceEnrolment::open(settings)?;
    let own;
    let signal = if let Some(signal) = request.shard {
        signal
    } else {
        request.check_roles(&enrolment)?;
        own = Signal::listen(STOPPING)?;
        &own
    };
    let preprocessing = enrolment.preparation();
    let mut progress = BuildProgress {
        bar: ItemProgress::new("build", request.input.len()),
        signal,
    };
    let runtime = single_threaded()?;
    // An unreadable entry may name one of the other items.
    let remove = request.prune && (request.shard.is_some() || request.input.refused().is_empty());
    let others = if remove {
        OtherItems::Remove
    } else {
        OtherItems::Keep
    };
    let outcome = match &request.input {
        BuildInput::Images(ImageSources { items, .. }) => {
            let at = |source: &ImageSource| ImageAt::File(source.path.clone());
            let images = NewItems::Images(new_images(items, at));
            runtime.block_on(enrolment.enrol(images, others, &mut progress))?
        }
        BuildInput::Kept(ReusedImages { gallery, items }) => {
            let at = |source: &ImageSource| ImageAt::Kept {
                gallery: Arc::clone(gallery),
                id: source.id.clone(),
            };
            let images = NewItems::Images(new_images(items, at));
            runtime.block_on(enrolment.enrol(images, others, &mut progress))?
        }
        BuildInput::Vectors(given) => {
            let items = &mut given.items();
            runtime.block_on(enrolment.enrol(NewItems::Vectors(items), others, &mut progress))?
        }
        BuildInput::Adapted(adapted) => thread::scope(|scope| {
            let items = &mut adapted.items(scope);
            runtime.block_on(enrolment.enrol(NewItems::Vectors(items), others, &mut progress))
        })?,
    };
    progress.bar.finish();
    let signal = progress.signal.received().filter(|_| outcome.interrupted);
    Ok(Built {
        unusable: outcome.failed.clone(),
        unread: outcome.unread,
        preprocessing,
        report: request.report(outcome),
        signal,
    })
}

fn new_images(items: &[ImageSource], at: impl Fn(&ImageSource) -> ImageAt) -> Vec<NewImage> {
    let new = |source: &ImageSource| NewImage {
        id: source.id.clone(),
        label: source.label.clone(),
        metadata: source.metadata.clone(),
        at: at(source),
    };
    items.iter().map(new).collect()
}

impl BuildRequest<'_> {
    fn settings(&self) -> EnrolSettings<'_> {
        let vectors = match &self.input {
            BuildInput::Vectors(given) => Some(VectorSpace {
                dimension: given.dimension(),
                of: self.vectors_of,
            }),
            BuildInput::Images(_) | BuildInput::Kept(_) | BuildInput::Adapted(_) => None,
        };
        EnrolSettings {
            deployment: self.deployment,
            name: self.name,
            model: self.model,
            precision: self.precision,
            vectors,
            keep_images: self.keep_images,
            engine: self.engine,
        }
    }

    /// A new deployment needs to know what embeds it.
    fn check_model(&self) -> anyhow::Result<()> {
        let (or, known) = match self.input {
            BuildInput::Images(_) | BuildInput::Kept(_) | BuildInput::Adapted(_) => ("", false),
            BuildInput::Vectors(_) => (
                ", or --vectors-of NAME for vectors without a model,",
                self.vectors_of.is_some(),
            ),
        };
        if self.model.is_some() || known || Folder::exists(self.deployment) {
            return Ok(());
        }
        let where_to = self.deployment.display();
        let message =
            format!("there is no deployment at {where_to} yet; say --model DIR{or} to make one");
        Err(fail(Exit::Usage, message))
    }

    /// Checks that the roles of rows to be searched for agree with what will be enrolled.
    fn check_roles(&self, enrolment: &SourceEnrolment<'_>) -> anyhow::Result<()> {
        let enrolled = if self.prune {
            BTreeSet::new()
        } else {
            enrolment.labels()
        };
        self.input.refuse_contradictions(enrolled)
    }

    fn report(&self, outcome: Enrolled) -> BuildReport {
        let seconds = outcome.took.as_secs_f64();
        #[expect(clippy::cast_precision_loss, reason = "a rate, for people to read")]
        let rate = outcome.enrolled as f64 / seconds.max(1e-9);
        let mut failed = self.input.refused().to_vec();
        failed.extend(outcome.failed);
        BuildReport {
            deployment: self.deployment.to_owned(),
            enrolled: outcome.enrolled,
            unchanged: outcome.unchanged,
            pruned: outcome.removed,
            not_in_source: outcome.not_in_source,
            ignored_files: match &self.input {
                BuildInput::Images(sources) => sources.left_out.ignored_files(),
                BuildInput::Kept(_) | BuildInput::Vectors(_) | BuildInput::Adapted(_) => 0,
            },
            left_out: match &self.input {
                BuildInput::Images(sources) => sources.left_out.clone(),
                BuildInput::Kept(_) | BuildInput::Adapted(_) => LeftOut::default(),
                BuildInput::Vectors(given) => given.left_out(),
            },
            failed,
            interrupted: outcome.interrupted,
            items: outcome.items,
            labels: outcome.labels.len(),
            alike: self.input.alike(&outcome.labels),
            lookalikes: outcome.searched.map(BuildLookalikes::of),
            gallery_digest: outcome.gallery_digest,
            seconds,
            images_per_second: rate,
        }
    }
}

impl BuildLookalikes {
    fn of(searched: Vec<LeftOutItem>) -> Self {
        let mut found = Self {
            searched: searched.len(),
            ..Self::default()
        };
        for one in searched {
            let Some(other) = one.accepted_as else {
                continue;
            };
            found.accepted += 1;
            if found.items.len() < LOOKALIKES_MAX {
                found.items.push(BuildLookalike {
                    item: one.head.id.clone(),
                    label: one.head.label.clone(),
                    accepted_as: other.item,
                    accepted_as_label: other.label,
                    decision_score: other.decision_score,
                });
            }
        }
        found
    }
}

/// Names items that are accepted as others.
fn lookalikes_text(report: &BuildReport) -> String {
    let found = report.lookalikes.as_ref();
    let Some(found) = found.filter(|found| 0 < found.accepted) else {
        return String::new();
    };
    let mut text = format!(
        "warning: {} of {} items enrolled now are accepted as others: one thing under two labels, a wrong label, or look-alikes\n",
        found.accepted, found.searched
    );
    for one in &found.items {
        text.push_str(&format!(
            "  {} ({}) as {} ({}), score {:.4}\n",
            telemetry::escaped(&one.item),
            telemetry::escaped(&one.label),
            telemetry::escaped(&one.accepted_as),
            telemetry::escaped(&one.accepted_as_label),
            one.decision_score
        ));
    }
    text
}

/// A progress bar, and the signal that ends the work.
struct BuildProgress<'a> {
    bar: ItemProgress,
    signal: &'a Signal,
}

impl BatchProgress for BuildProgress<'_> {
    fn step(&mut self) {
        self.bar.step();
    }

    fn stops(&self) -> bool {
        self.signal.received().is_some()
    }
}

fn text(report: &BuildReport) -> String {
    let mut text = String::new();
    for one in &report.failed {
        text.push_str(&format!("failed: {one}\n"));
    }
    text.push_str(&alike::warning(&report.alike));
    text.push_str(&lookalikes_text(report));
    let mut rows = vec![
        (
            "enrolled",
            format!(
                "{} items, {:.1}/s",
                report.enrolled, report.images_per_second
            ),
        ),
        ("unchanged", report.unchanged.to_string()),
        ("failed", report.failed.len().to_string()),
    ];
    let mut optional = |name, count: usize, note: &str| {
        if 0 < count {
            rows.push((name, format!("{count}{note}")));
        }
    };
    optional("removed", report.pruned, "");
    optional(
        "other items",
        report.not_in_source,
        " not named by this source, kept (--prune removes them, unless entries could not be read)",
    );
    rows.extend(report.left_out.rows());
    rows.push((
        "gallery",
        format!("{} items, {} labels", report.items, report.labels),
    ));
    rows.push(("digest", report.gallery_digest.clone()));
    let folder = report.deployment.display();
    text.push_str(&format!("{folder}\n{}", table(&rows)));
    if report.interrupted {
        text.push_str("interrupted; run the same command again to go on\n");
    }
    text
}
