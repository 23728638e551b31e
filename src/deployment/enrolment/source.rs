//! Enrols a whole source of images or vectors in batches, so that it can continue after an interruption.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::refused::RefusedItem;
use crate::config::EngineConfig;
use crate::deployment::in_order::in_order;
use crate::deployment::search::answer::EmbeddedOriginal;
use crate::deployment::search::request::ImageAt;
use crate::deployment::{Deployment, DeploymentError, Folder, Models, OpenOptions};
use crate::monitor::LeftOutItem;
use matchpoint_gallery::Access;
use matchpoint_gallery::error::GalleryError;
use matchpoint_gallery::item::Item;

/// Number of images in one transaction: few enough that only about a second of work is lost if the process is
/// killed.
const BATCH: usize = 128;
/// Number of vectors in one transaction. Only time for writing can be lost.
const BATCH_OF_VECTORS: usize = 1000;

/// At most this many items of a source are searched for with their label left out, which takes some seconds.
const SEARCHED_MAX: usize = 10_000;

/// The settings for enrolling a source.
#[derive(Clone, Copy, Debug)]
pub struct EnrolSettings<'a> {
    /// The deployment's folder; a new deployment is made if there is none.
    pub deployment: &'a Path,
    /// The name of a new deployment, if it differs from that of its folder.
    pub name: Option<&'a str>,
    /// The model's folder, for a new deployment or if it is not the recorded one.
    pub model: Option<&'a Path>,
    /// The precision of the model that embeds a new deployment.
    pub precision: Option<&'a str>,
    /// The kind of the vectors, if they are made elsewhere.
    pub vectors: Option<VectorSpace<'a>>,
    /// Whether images are stored, now and later.
    pub keep_images: bool,
    /// How images are embedded.
    pub engine: &'a EngineConfig,
}

/// The vector space of vectors that are made elsewhere.
#[derive(Clone, Copy, Debug)]
pub struct VectorSpace<'a> {
    /// Number of components.
    pub dimension: usize,
    /// The name of the model that makes them, if known.
    pub of: Option<&'a str>,
}

/// An image to be enrolled.
#[derive(Clone, Debug)]
pub struct NewImage {
    /// Id of its item.
    pub id: String,
    /// The label that it shows.
    pub label: String,
    /// Further facts by column.
    pub metadata: BTreeMap<String, String>,
    /// The location of the image.
    pub at: ImageAt,
}

/// The items of a source.
pub enum NewItems<'a> {
    /// Images, which are embedded.
    Images(Vec<NewImage>),
    /// Items with their vectors, or the reason why an item has none.
    Vectors(&'a mut dyn Iterator<Item = Result<Item, RefusedItem>>),
}

impl std::fmt::Debug for NewItems<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Images(images) => write!(f, "Images({})", images.len()),
            Self::Vectors(_) => write!(f, "Vectors"),
        }
    }
}

/// What to do with items that a source does not name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OtherItems {
    /// They stay.
    Keep,
    /// They are removed.
    Remove,
}

/// Reports progress of a long batch.
pub trait BatchProgress {
    /// Records that one more item is done.
    fn step(&mut self);
    /// Whether the work should stop.
    fn stops(&self) -> bool;
}

/// The result of enrolling a source.
#[derive(Clone, Debug, Default)]
pub struct Enrolled {
    /// Number of items that were enrolled now.
    pub enrolled: usize,
    /// Number of items that were enrolled before, from the same bytes.
    pub unchanged: usize,
    /// Number of items that were removed because the source does not name them.
    pub removed: usize,
    /// Number of items that the source does not name, and that were kept.
    pub not_in_source: usize,
    /// The entries that could not be enrolled, with the reasons.
    pub failed: Vec<RefusedItem>,
    /// How many of these could not be read or failed in the model. Another attempt, or another machine, may
    /// succeed.
    pub unread: usize,
    /// Whether the work was stopped before its end.
    pub interrupted: bool,
    /// The duration of the work.
    pub took: Duration,
    /// Number of items in the gallery now.
    pub items: usize,
    /// The labels in the gallery now.
    pub labels: BTreeSet<String>,
    /// Digest of the gallery's content: the same items give the same digest.
    pub gallery_digest: String,
    /// For the first 10,000 newly enrolled items, the items of other labels that the active operating point
    /// accepts each as; `None` if no operating point is valid.
    pub searched: Option<Vec<LeftOutItem>>,
}

/// A deployment that is open to enrol one source.
#[derive(Debug)]
pub struct SourceEnrolment<'a> {
    settings: EnrolSettings<'a>,
    models: Models,
    deployment: Arc<Deployment>,
}

impl<'a> SourceEnrolment<'a> {
    /// Opens the deployment, or makes a new one.
    ///
    /// # Errors
    /// Returns an error if there is no deployment and no model was named, if it cannot be opened for writing,
    /// or if its vectors or its precision differ.
    pub fn open(settings: EnrolSettings<'a>) -> Result<Self, DeploymentError> {
        let mut models = Models::new(settings.engine, window(settings.engine));
        create_if_missing(&settings, &mut models)?;
        let deployment = open(&settings, &mut models)?;
        check_precision(settings.precision, &deployment)?;
        if let Some(vectors) = settings.vectors {
            check_space(vectors, &deployment)?;
        }
        Ok(Self {
            settings,
            models,
            deployment: Arc::new(deployment),
        })
    }

    /// How images are prepared for the deployment's model; empty if vectors are made elsewhere.
    #[must_use]
    pub fn preparation(&self) -> String {
        self.deployment.loaded.model.preparation()
    }

    /// Labels that are enrolled already.
    #[must_use]
    pub fn labels(&self) -> BTreeSet<String> {
        self.deployment.view().labels()
    }

    /// Enrols the items, and then opens the deployment once more in the same way as the server, which writes
    /// the index to its file. An item whose bytes, label and metadata have not changed is skipped, so that the
    /// same call continues after an interruption. An image that cannot be used is listed, and does not stop the
    /// others.
    ///
    /// # Errors
    /// Returns an error if the model or the disk fails. Items that were written before are kept.
    pub async fn enrol(
        mut self,
        items: NewItems<'_>,
        others: OtherItems,
        progress: &mut impl BatchProgress,
    ) -> Result<Enrolled, DeploymentError> {
        if self.settings.keep_images {
            self.deployment.gallery.keep_images()?;
        }
        let started = Instant::now();
        let mut work = Work {
            deployment: Arc::clone(&self.deployment),
            progress,
            outcome: Enrolled::default(),
            batch: Vec::with_capacity(BATCH),
            named: BTreeSet::new(),
            enrolled: Vec::new(),
        };
        match items {
            NewItems::Images(images) => {
                work.embed_all(images, window(self.settings.engine)).await?;
            }
            NewItems::Vectors(items) => work.take_all(items)?,
        }
        work.write()?;
        work.outcome.interrupted = work.progress.stops();
        if !work.outcome.interrupted {
            work.settle_others(others)?;
        }
        let (mut outcome, enrolled) = (work.outcome, work.enrolled);
        outcome.took = started.elapsed();
        drop((work.deployment, self.deployment));

        let reopened = open(&self.settings, &mut self.models)?;
        let view = reopened.view();
        outcome.items = view.len();
        outcome.labels = view.labels();
        outcome.gallery_digest = view.digest();
        outcome.searched = reopened.lookalikes_among(&enrolled)?;
        Ok(outcome)
    }
}

/// Number of images in progress at once, such that each worker has its next one ready.
fn window(engine: &EngineConfig) -> usize {
    engine.workers.count(engine.compute.joined_max()) * 4
}

fn open(settings: &EnrolSettings<'_>, models: &mut Models) -> Result<Deployment, DeploymentError> {
    let options = OpenOptions {
        model: settings.model.map(ToOwned::to_owned),
        ..OpenOptions::recorded(Access::ReadWrite)
    };
    Deployment::open(settings.deployment, models, options)
}

fn create_if_missing(
    settings: &EnrolSettings<'_>,
    models: &mut Models,
) -> Result<(), DeploymentError> {
    if Folder::exists(settings.deployment) {
        return Ok(());
    }
    let model = match (settings.model, settings.vectors) {
        (Some(model), _) => models.open(model, settings.precision)?,
        (
            None,
            Some(VectorSpace {
                dimension,
                of: Some(of),
            }),
        ) => models.vectors(of, dimension)?,
        // Opening the deployment reports that there is none.
        (None, None | Some(VectorSpace { of: None, .. })) => return Ok(()),
    };
    let folder_name = settings.deployment.file_name();
    let folder_name = folder_name.and_then(|name| name.to_str());
    let name = settings.name.or(folder_name).unwrap_or("default");
    Deployment::create(settings.deployment, name, &model)
}

/// Refuses another precision. The same network in another precision is another model, and a deployment has one
/// model.
fn check_precision(wanted: Option<&str>, deployment: &Deployment) -> Result<(), DeploymentError> {
    let own = deployment.loaded.model.precision();
    match wanted.filter(|wanted| *wanted != own) {
        None => Ok(()),
        Some(wanted) => Err(DeploymentError::OtherVectors {
            problem: format!(
                "the deployment's model runs in precision {own}, and {wanted} is another model; build another deployment with it, or leave --precision out"
            ),
        }),
    }
}

/// Refuses vectors of another kind before any is enrolled.
fn check_space(vectors: VectorSpace<'_>, deployment: &Deployment) -> Result<(), DeploymentError> {
    let model = &deployment.loaded.model;
    let (found, expected) = (vectors.dimension, model.dimension());
    if found != expected {
        let problem = format!("the vectors have {found} components, and the deployment {expected}");
        return Err(DeploymentError::OtherVectors { problem });
    }
    match vectors.of.filter(|of| *of != model.name()) {
        None => Ok(()),
        Some(of) => Err(DeploymentError::OtherVectors {
            problem: format!(
                "the deployment holds vectors of `{}`, and these are of `{of}`; they cannot be compared",
                model.name()
            ),
        }),
    }
}

/// The state while a source is being enrolled.
struct Work<'a, P> {
    deployment: Arc<Deployment>,
    progress: &'a mut P,
    outcome: Enrolled,
    batch: Vec<Item>,
    /// The ids that the source names.
    named: BTreeSet<String>,
    /// The ids of newly enrolled items, up to a limit.
    enrolled: Vec<String>,
}

impl<P: BatchProgress> Work<'_, P> {
    async fn embed_all(
        &mut self,
        images: Vec<NewImage>,
        window: usize,
    ) -> Result<(), DeploymentError> {
        self.named = images.iter().map(|image| image.id.clone()).collect();
        let work = std::cell::RefCell::new(self);
        let inputs = images.into_iter();
        let inputs = inputs.take_while(|_| !work.borrow().progress.stops());
        let deployment = Arc::clone(&work.borrow().deployment);
        let begin = |image: NewImage| {
            let deployment = Arc::clone(&deployment);
            let at = image.at.clone();
            let known = deployment.made_from(&image.id, &image.label, &image.metadata);
            let embedded = async move { deployment.embed_image(at, known).await };
            (image, embedded)
        };
        let done = |image: &NewImage, embedded| work.borrow_mut().take(image, embedded);
        in_order(tokio_stream::iter(inputs.map(Ok)), window, begin, done).await
    }

    fn take(
        &mut self,
        image: &NewImage,
        embedded: Result<Option<EmbeddedOriginal>, DeploymentError>,
    ) -> Result<(), DeploymentError> {
        self.progress.step();
        match embedded {
            Ok(None) => self.outcome.unchanged += 1,
            Ok(Some(embedded)) => {
                self.batch.push(Item {
                    id: image.id.clone(),
                    label: image.label.clone(),
                    metadata: image.metadata.clone(),
                    embedding: embedded.embedding,
                    source_sha256: Some(embedded.sha256),
                    image: embedded.image,
                });
                if self.batch.len() == BATCH {
                    self.write()?;
                }
            }
            Err(error) if error.is_of_one_image() => self.refuse(image.id.clone(), &error),
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Enrols vectors, except those that are enrolled already.
    fn take_all(
        &mut self,
        items: &mut dyn Iterator<Item = Result<Item, RefusedItem>>,
    ) -> Result<(), DeploymentError> {
        for item in items {
            if self.progress.stops() {
                break;
            }
            self.progress.step();
            let id = item
                .as_ref()
                .map_or_else(|refused| &refused.item, |item| &item.id);
            self.named.insert(id.clone());
            match item {
                Ok(item) if self.is_enrolled(&item) => self.outcome.unchanged += 1,
                Ok(item) => self.batch.push(item),
                Err(refused) => self.outcome.failed.push(refused),
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

    fn refuse(&mut self, item: String, error: &DeploymentError) {
        self.outcome.unread += usize::from(error.may_pass());
        let reason = error.to_string();
        self.outcome.failed.push(RefusedItem { item, reason });
    }

    /// Writes the batch. If one of its items is refused, the others are written one by one.
    fn write(&mut self) -> Result<(), DeploymentError> {
        let batch = std::mem::take(&mut self.batch);
        let gallery = Arc::clone(&self.deployment.gallery);
        match gallery.upsert(batch.clone()) {
            Ok(_) => self.count(batch.into_iter().map(|item| item.id)),
            Err(GalleryError::Item { .. }) => {
                for item in batch {
                    let id = item.id.clone();
                    match gallery.upsert(vec![item]) {
                        Ok(_) => self.count(std::iter::once(id)),
                        Err(error @ GalleryError::Item { .. }) => self.refuse(id, &error.into()),
                        Err(error) => return Err(error.into()),
                    }
                }
            }
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    fn count(&mut self, ids: impl Iterator<Item = String>) {
        for id in ids {
            self.outcome.enrolled += 1;
            if self.enrolled.len() < SEARCHED_MAX {
                self.enrolled.push(id);
            }
        }
    }

    /// Removes or counts the items that the source does not name.
    fn settle_others(&mut self, others: OtherItems) -> Result<(), DeploymentError> {
        let view = self.deployment.view();
        let ids = view.items().map(|(head, _)| head.id.clone());
        let found: Vec<String> = ids.filter(|id| !self.named.contains(id)).collect();
        match others {
            OtherItems::Remove => {
                for batch in found.chunks(BATCH) {
                    self.deployment.gallery.delete(batch)?;
                }
                self.outcome.removed = found.len();
            }
            OtherItems::Keep => self.outcome.not_in_source = found.len(),
        }
        Ok(())
    }
}
