//! `matchpoint build`: embed images and enrol them, resumably.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;

use super::alike;
use super::batch::in_order;
use super::exit::{Exit, fail};
use super::external_vectors::{ExternalVectorFlags, ExternalVectors};
use super::image_sources::{ImageSource, ImageSources, Purpose};
use super::left_out::LeftOut;
use super::listing::ExcludeFlags;
use super::output::{Output, table};
use super::progress::ItemProgress;
use super::refused::RefusedItem;
use super::runtime::single_threaded;
use super::signal::Signal;
use crate::config::{EngineConfig, EngineFlags, ProcessEnvironment};
use crate::deployment::{
    Deployment, DeploymentError, Enrolment, Folder, ImageAt, Models, OpenOptions,
};
use crate::telemetry;
use matchpoint_calibration::likeness::{Alike, alike as alike_labels};
use matchpoint_gallery::item::{Item, ItemHead};
use matchpoint_gallery::params::IndexParams;
use matchpoint_gallery::{Access, Gallery};

/// Embed images and enrol them in a deployment
///
/// Every image becomes an item with an id and a label. The source is a folder (one subfolder for
/// each label; the id is the path below the folder), a CSV file (a header with path,label and
/// perhaps id; further columns become metadata) or a JSONL file (the same as objects). Paths are
/// relative to the file. Where a list has a column role, only rows of the role gallery are enrolled.
///
/// Or vectors that are made elsewhere, with --embeddings: by the deployment's own model, or, for a
/// deployment without one, by what --vectors-of names. That answers searches by vectors only.
///
/// A build that was interrupted goes on where it stopped when it is run again. Images that cannot
/// be used are listed, and end the command with exit code 3 after all others are enrolled.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  matchpoint build shop --images photos/ --model models/efficientnet-lite0
  matchpoint build shop --images items.csv --model models/efficientnet-lite0 --json
  matchpoint build shop --images new-photos/          # add to it; the model is known
  matchpoint build shop8 --images photos/ --model models/efficientnet-lite0 --precision int8
  matchpoint build shop --images photos/ --keep-images
  matchpoint build shop-new --images-of shop --model models/new --keep-images
  matchpoint build faces --embeddings faces.npy --labels faces.csv --vectors-of arcface-r100")]
pub(super) struct Build {
    /// The deployment's folder; made where there is none
    deployment: PathBuf,
    /// The images: a folder, a .csv, a .tsv or a .jsonl file
    #[arg(long, value_name = "SOURCE", required_unless_present_any = ["embeddings", "images_of"])]
    images: Option<PathBuf>,
    /// The images that another deployment keeps, with their ids, labels and metadata: its gallery
    /// anew, with another model; it may be served meanwhile
    #[arg(long, value_name = "DIR", conflicts_with_all = ["images", "embeddings"])]
    images_of: Option<PathBuf>,
    #[command(flatten)]
    exclude: ExcludeFlags,
    #[command(flatten)]
    given: ExternalVectorFlags,
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
    /// Print the outcome as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    engine: EngineFlags,
}

/// What became of the images.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct BuildReport {
    /// The deployment's folder.
    pub(super) deployment: PathBuf,
    /// Images that were embedded and enrolled now.
    pub(super) enrolled: usize,
    /// Images that were enrolled before, with the same bytes.
    pub(super) unchanged: usize,
    /// Items removed by `--prune`.
    pub(super) pruned: usize,
    /// Items that the source does not name, and that were kept.
    pub(super) not_in_source: usize,
    /// Files that are no images by their names and first bytes.
    pub(super) ignored_files: usize,
    /// What else the source holds, and the kinds of those files.
    pub(super) left_out: LeftOut,
    /// Images that could not be used, and why.
    pub(super) failed: Vec<RefusedItem>,
    /// Whether a signal ended the build before its end.
    pub(super) interrupted: bool,
    /// Items in the gallery now.
    pub(super) items: usize,
    /// Labels in the gallery now.
    pub(super) labels: usize,
    /// Labels of the source that are suspiciously like each other, or like enrolled ones.
    pub(super) alike: Vec<Alike>,
    /// Digest of the gallery's content: the same items give the same digest.
    pub(super) gallery_digest: String,
    /// Duration, in seconds.
    pub(super) seconds: f64,
    /// Images embedded a second.
    pub(super) images_per_second: f64,
}

/// Items of one transaction: few enough that a killed build loses a second's work.
const BATCH: usize = 128;
/// Vectors of one transaction: nothing is lost with them but time on the disk.
const BATCH_OF_VECTORS: usize = 1000;

/// What the first signal is answered with.
const STOPPING: &str = "stopping after the images under way; run the command again to resume";

impl Build {
    pub(super) fn run(self) -> anyhow::Result<Exit> {
        let engine = self.engine.resolve(&ProcessEnvironment)?;
        telemetry::install_logs(&engine.log, engine.log_json)?;
        let input = match (self.given.read()?, &self.images, &self.images_of) {
            (Some(given), ..) => BuildInput::Vectors(given),
            (None, Some(images), _) => BuildInput::Images(self.sources(images)?),
            (None, None, Some(other)) => BuildInput::Kept(ReusedImages::open(other)?),
            (None, None, None) => return Err(fail(Exit::Usage, "say --images or --embeddings")),
        };
        let output = Output::new(self.json);
        let report = build(&BuildRequest {
            deployment: &self.deployment,
            model: self.model.as_deref(),
            precision: self.precision.as_deref(),
            name: self.name.as_deref(),
            prune: self.prune,
            keep_images: self.keep_images,
            engine: &engine,
            vectors_of: self.given.vectors_of.as_deref(),
            input,
        })?;
        output.result(&report.report, text)?;
        Ok(match (report.signal, report.report.failed.is_empty()) {
            (Some(exit), _) => exit,
            (None, false) => Exit::SomeFailed,
            (None, true) => Exit::Done,
        })
    }
}

impl Build {
    fn sources(&self, images: &Path) -> anyhow::Result<ImageSources> {
        ImageSources::read_but(images, Purpose::Enrol, &self.exclude)
    }
}

/// A build to be done.
pub(super) struct BuildRequest<'a> {
    pub(super) deployment: &'a Path,
    pub(super) model: Option<&'a Path>,
    pub(super) precision: Option<&'a str>,
    pub(super) name: Option<&'a str>,
    pub(super) prune: bool,
    pub(super) keep_images: bool,
    pub(super) engine: &'a EngineConfig,
    /// What makes the vectors, where a new deployment has no model.
    pub(super) vectors_of: Option<&'a str>,
    pub(super) input: BuildInput,
}

/// What to enrol.
pub(super) enum BuildInput {
    Images(ImageSources),
    Kept(ReusedImages),
    Vectors(ExternalVectors),
}

/// What another deployment keeps.
pub(super) struct ReusedImages {
    gallery: Arc<Gallery>,
    items: Vec<ImageSource>,
}

impl ReusedImages {
    fn open(deployment: &Path) -> anyhow::Result<Self> {
        let gallery = gallery_of(deployment)?;
        if !gallery.keeps_images() {
            let message = format!(
                "{} keeps no images; `matchpoint build DIR --images SOURCE --keep-images` adds them",
                deployment.display()
            );
            return Err(fail(Exit::NoInput, message));
        }
        let source = |head: &ItemHead| ImageSource {
            id: head.id.clone(),
            label: head.label.clone(),
            path: PathBuf::new(),
            metadata: head.metadata.clone(),
            role: None,
        };
        let snapshot = gallery.view();
        let mut items: Vec<ImageSource> = snapshot.items().map(|(head, _)| source(head)).collect();
        items.sort_unstable_by(|a, b| a.id.cmp(&b.id));
        Ok(Self {
            gallery: Arc::new(gallery),
            items,
        })
    }
}

/// The items of a deployment, which may be served meanwhile.
pub(super) fn gallery_of(deployment: &Path) -> anyhow::Result<Gallery> {
    let folder = Folder::open(deployment)?;
    // No search is made, so no index is needed.
    let params = IndexParams {
        graph_from_items: usize::MAX,
        ..IndexParams::default()
    };
    let gallery = Gallery::open(&folder.gallery_file(), Access::ReadOnly, params)
        .map_err(DeploymentError::from)?;
    folder.check_gallery(gallery.id())?;
    Ok(gallery)
}

impl BuildInput {
    fn len(&self) -> usize {
        match self {
            Self::Images(sources) => sources.items.len(),
            Self::Kept(kept) => kept.items.len(),
            Self::Vectors(given) => given.len(),
        }
    }

    fn labels(&self) -> BTreeSet<&str> {
        match self {
            Self::Images(ImageSources { items, .. }) | Self::Kept(ReusedImages { items, .. }) => {
                items.iter().map(|item| item.label.as_str()).collect()
            }
            Self::Vectors(given) => given.labels(),
        }
    }

    /// Its labels that are suspiciously like each other, or like those enrolled beside them. Enrolled
    /// as two, one thing has half of its items under a label that counts as a wrong one.
    fn alike(&self, enrolled: &BTreeSet<String>) -> Vec<Alike> {
        let own = self.labels();
        let others = enrolled.iter().map(String::as_str);
        let others: Vec<&str> = others.filter(|label| !own.contains(label)).collect();
        alike_labels(own, others)
    }
}

/// What a build came to, and the signal that ended it, if one did.
pub(super) struct Built {
    pub(super) report: BuildReport,
    signal: Option<Exit>,
}

/// Enrols the sources, then opens the deployment once more as the server will.
pub(super) fn build(request: &BuildRequest<'_>) -> anyhow::Result<Built> {
    let joined = request.engine.compute.joined_max();
    let window = request.engine.workers.count(joined) * 4;
    let mut models = Models::new(request.engine, window);
    create_if_missing(request, &mut models)?;
    let open = |access, models: &mut Models| {
        let model = request.model.map(ToOwned::to_owned);
        Deployment::open(
            request.deployment,
            models,
            OpenOptions {
                name: None,
                model,
                access,
            },
        )
    };
    let deployment = Arc::new(open(Access::ReadWrite, &mut models)?);
    check_input(request, &deployment)?;
    if request.keep_images {
        deployment.keep_images()?;
    }
    let signal = Signal::listen(STOPPING)?;
    let mut work = BuildWork {
        deployment: Arc::clone(&deployment),
        report: BuildReport {
            deployment: request.deployment.to_owned(),
            ..BuildReport::default()
        },
        batch: Vec::with_capacity(BATCH),
        progress: ItemProgress::new("build", request.input.len()),
    };
    match &request.input {
        BuildInput::Images(sources) => {
            work.report.failed.clone_from(&sources.refused);
            work.report.ignored_files = sources.left_out.ignored_files();
            work.report.left_out = sources.left_out.clone();
            let at = |source: &ImageSource| ImageAt::File(source.path.clone());
            single_threaded()?.block_on(work.run(&sources.items, at, window, &signal))?;
        }
        BuildInput::Kept(kept) => {
            let at = |source: &ImageSource| ImageAt::Kept {
                gallery: Arc::clone(&kept.gallery),
                id: source.id.clone(),
            };
            single_threaded()?.block_on(work.run(&kept.items, at, window, &signal))?;
        }
        BuildInput::Vectors(given) => {
            work.report.left_out = given.left_out();
            work.take_all(given, &signal)?;
        }
    }
    work.write()?;
    let signal = signal.received();
    if signal.is_none() {
        work.settle_others(&request.input, request.prune)?;
    }
    let (mut report, took) = (work.report, work.progress.finish());
    drop((work.deployment, deployment));

    // As the server will: it leaves the index in its file.
    let reopened = open(Access::ReadWrite, &mut models)?;
    let snapshot = reopened.snapshot();
    report.interrupted = signal.is_some();
    report.items = snapshot.len();
    report.labels = snapshot.label_count();
    report.alike = request.input.alike(&reopened.labels());
    report.gallery_digest = snapshot.digest();
    report.seconds = took.as_secs_f64();
    #[expect(clippy::cast_precision_loss, reason = "a rate, for people to read")]
    let rate = report.enrolled as f64 / report.seconds.max(1e-9);
    report.images_per_second = rate;
    Ok(Built { report, signal })
}

/// Vectors must be of the deployment's kind, and rows of a list that are searched for agree with what
/// will be enrolled.
fn check_input(request: &BuildRequest<'_>, deployment: &Deployment) -> anyhow::Result<()> {
    let mut enrolled = if request.prune {
        BTreeSet::new()
    } else {
        deployment.labels()
    };
    match &request.input {
        BuildInput::Images(sources) => {
            enrolled.extend(sources.items.iter().map(|item| item.label.clone()));
            sources.refuse_contradictions(|label| enrolled.contains(label))
        }
        BuildInput::Vectors(given) => {
            check_space(given, request.vectors_of, deployment)?;
            given.refuse_contradictions(enrolled)
        }
        BuildInput::Kept(_) => Ok(()),
    }
}

/// Vectors of another kind are refused before any is enrolled.
fn check_space(
    given: &ExternalVectors,
    of: Option<&str>,
    deployment: &Deployment,
) -> anyhow::Result<()> {
    let model = &deployment.loaded().model;
    let (found, expected) = (given.dimension(), model.dimension());
    if found != expected {
        let message = format!("the vectors have {found} components, and the deployment {expected}");
        return Err(fail(Exit::Mismatch, message));
    }
    match of.filter(|of| *of != model.name()) {
        None => Ok(()),
        Some(of) => Err(fail(
            Exit::Mismatch,
            format!(
                "the deployment holds vectors of `{}`, and these are of `{of}`; they cannot be compared",
                model.name()
            ),
        )),
    }
}

fn create_if_missing(request: &BuildRequest<'_>, models: &mut Models) -> anyhow::Result<()> {
    if Folder::exists(request.deployment) {
        return Ok(());
    }
    let model = match (request.model, request.vectors_of, &request.input) {
        (Some(model), ..) => models.open(model, request.precision)?,
        (None, Some(name), BuildInput::Vectors(given)) => {
            models.vectors(name, given.dimension())?
        }
        (None, _, input) => {
            let where_to = request.deployment.display();
            let or = match input {
                BuildInput::Images(_) | BuildInput::Kept(_) => "",
                BuildInput::Vectors(_) => ", or --vectors-of NAME for vectors without a model,",
            };
            let message = format!(
                "there is no deployment at {where_to} yet; say --model DIR{or} to make one"
            );
            return Err(fail(Exit::Usage, message));
        }
    };
    let folder_name = request
        .deployment
        .file_name()
        .and_then(|name| name.to_str());
    let name = request.name.or(folder_name).unwrap_or("default");
    Ok(Deployment::create(request.deployment, name, &model)?)
}

struct BuildWork {
    deployment: Arc<Deployment>,
    report: BuildReport,
    batch: Vec<Item>,
    progress: ItemProgress,
}

impl BuildWork {
    async fn run(
        &mut self,
        items: &[ImageSource],
        at: impl Fn(&ImageSource) -> ImageAt,
        window: usize,
        signal: &Signal,
    ) -> anyhow::Result<()> {
        let deployment = Arc::clone(&self.deployment);
        let inputs = items
            .iter()
            .take_while(|_| signal.received().is_none())
            .cloned();
        let work = |source: ImageSource| {
            let (deployment, at) = (Arc::clone(&deployment), at(&source));
            async move {
                let known = deployment.made_from(&source.id, &source.label, &source.metadata);
                let outcome = deployment.embed_image(at, known).await;
                (source, outcome)
            }
        };
        in_order(inputs, window, work, |(source, outcome)| {
            self.take(source, outcome)
        })
        .await
    }

    fn take(
        &mut self,
        source: ImageSource,
        outcome: Result<Enrolment, DeploymentError>,
    ) -> anyhow::Result<()> {
        self.progress.step();
        match outcome {
            Ok(Enrolment::Unchanged) => self.report.unchanged += 1,
            Ok(Enrolment::Embedded {
                embedding,
                sha256,
                image,
            }) => {
                let ImageSource {
                    id,
                    label,
                    metadata,
                    ..
                } = source;
                self.batch.push(Item {
                    id,
                    label,
                    metadata,
                    embedding,
                    source_sha256: Some(sha256),
                    image,
                });
                if self.batch.len() == BATCH {
                    self.write()?;
                }
            }
            Err(error) if is_the_images_fault(&error) => {
                self.report.failed.push(RefusedItem {
                    item: source.id,
                    reason: error.to_string(),
                });
            }
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    /// Enrols vectors, but for those that are enrolled already.
    fn take_all(&mut self, given: &ExternalVectors, signal: &Signal) -> anyhow::Result<()> {
        for item in given.items() {
            if signal.received().is_some() {
                break;
            }
            self.progress.step();
            match item {
                Ok(item) if self.is_enrolled(&item) => self.report.unchanged += 1,
                Ok(item) => self.batch.push(item),
                Err(refused) => self.report.failed.push(refused),
            }
            if self.batch.len() == BATCH_OF_VECTORS {
                self.write()?;
            }
        }
        Ok(())
    }

    fn is_enrolled(&self, item: &Item) -> bool {
        self.deployment.item(&item.id).is_ok_and(|(head, vector)| {
            head.label == item.label
                && head.metadata == item.metadata
                && *vector == *item.embedding.as_slice()
        })
    }

    /// Writes the batch; where one of its items is refused, the others one by one.
    fn write(&mut self) -> anyhow::Result<()> {
        let batch = std::mem::take(&mut self.batch);
        match self.deployment.upsert_batch(batch.clone()) {
            Ok(()) => self.report.enrolled += batch.len(),
            Err(error) if is_the_items_fault(&error) => {
                for item in batch {
                    let id = item.id.clone();
                    match self.deployment.upsert_batch(vec![item]) {
                        Ok(()) => self.report.enrolled += 1,
                        Err(error) if is_the_items_fault(&error) => {
                            self.report.failed.push(RefusedItem {
                                item: id,
                                reason: error.to_string(),
                            });
                        }
                        Err(error) => return Err(error.into()),
                    }
                }
            }
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    /// Removes, or counts, items that the sources do not name.
    fn settle_others(&mut self, input: &BuildInput, prune: bool) -> anyhow::Result<()> {
        let named: BTreeSet<String> = match input {
            BuildInput::Images(ImageSources { items, .. })
            | BuildInput::Kept(ReusedImages { items, .. }) => {
                items.iter().map(|item| item.id.clone()).collect()
            }
            BuildInput::Vectors(given) => given.ids(),
        };
        let snapshot = self.deployment.snapshot();
        let others: Vec<String> = snapshot
            .items()
            .map(|(head, _)| head.id.clone())
            .filter(|id| !named.contains(id))
            .collect();
        // An entry that could not be read may well name one of them.
        let all_were_read = match input {
            BuildInput::Images(sources) => sources.refused.is_empty(),
            BuildInput::Kept(_) | BuildInput::Vectors(_) => true,
        };
        if prune && all_were_read {
            for batch in others.chunks(BATCH) {
                self.deployment.delete_batch(batch)?;
            }
            self.report.pruned = others.len();
        } else {
            self.report.not_in_source = others.len();
        }
        Ok(())
    }
}

/// Whether an error is of this one image, so that the others go on.
pub(super) fn is_the_images_fault(error: &DeploymentError) -> bool {
    matches!(
        error,
        DeploymentError::Image(_)
            | DeploymentError::Unembeddable { .. }
            | DeploymentError::ImageNotKept { .. }
            | DeploymentError::Io { .. }
            | DeploymentError::ModelFailed { .. }
    )
}

fn is_the_items_fault(error: &DeploymentError) -> bool {
    matches!(
        error,
        DeploymentError::Gallery(matchpoint_gallery::error::GalleryError::Item { .. })
    )
}

pub(super) fn text(report: &BuildReport) -> String {
    let mut text = String::new();
    for one in &report.failed {
        text.push_str(&format!("failed: {one}\n"));
    }
    text.push_str(&alike::warning(&report.alike));
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
