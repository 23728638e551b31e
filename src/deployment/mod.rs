//! The deep module: a gallery, the model that embeds it, and the operating point that decides.

mod alarms;
mod answer;
mod archive;
mod audited;
mod backup;
mod beside;
mod budget;
mod calibrate;
mod canary;
mod canary_list;
mod enrolment;
mod error;
mod files;
mod folder;
mod gather;
mod material;
mod models;
mod monitor;
mod points;
mod remedy;
mod resets;
mod sample;
mod service;
mod shadow;
mod shift;
mod temporary;
mod upkeep;
mod writer;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use arc_swap::{ArcSwap, ArcSwapOption};

pub use crate::analysis::remedy::Remedy;
pub use crate::journal::entry::{DecisionId, Label, LabelKind, Reported, Row, Truth};
pub use crate::journal::error::JournalError;
pub use crate::journal::read::QueueRequest;
pub use crate::model::caller::Caller;
pub use answer::{
    Basis, Enrolment, Hit, ImageAt, ProbeRequest, ProbeSource, Probed, Query, Reference,
    SearchAnswer, SearchOptions, Standing, Timings, Undecided, VerifyAnswer, read_image,
};
pub use archive::ArchiveError;
pub use audited::recorded_decisions;
pub use backup::{PlaceOfModel, Progress, SnapshotReport, check_snapshot, restore};
pub use calibrate::{Assured, Calibrated, CalibrationSettings};
pub use canary::CanaryRound;
pub use canary_list::{CANARIES_MAX, CANARIES_PER_ITEM, CanariesSet, NewCanary, set_canaries};
pub use error::{DeploymentError, Unembeddable};
pub use folder::{Folder, ModelReference, Record, now_rfc_3339, rfc_3339};
pub use gather::{Copied, Gathered, IndexCheck, LabelledQuery, NearCopied, Repeated};
pub use material::{MaterialSets, material_sets};
pub use models::{LoadedModel, Models};
pub use monitor::{Recorded, Told, TruthReport};
pub use points::{Activation, Comparison, compare_points};
pub use remedy::RemedyChoice;
pub use resets::Reset;
pub use sample::{LabelledDecision, Shown, labelled_sample};
pub use service::InService;
pub use shadow::{
    Disagreement, Outcome, SHADOW_LATEST_MAX, ShadowAbout, ShadowReport, shadow_link,
};
pub use temporary::TemporaryFile;
pub use upkeep::{Found, missed};

use crate::calibration::operating_point::{Binding, Metric, OperatingPoint};
use crate::config::Monitoring;
use crate::gallery::error::GalleryError;
use crate::gallery::item::{Item, ItemHead};
use crate::gallery::originals::Vector;
use crate::gallery::params::IndexParams;
use crate::gallery::snapshot::Snapshot;
use crate::gallery::{Access, Gallery, Upserted};
use crate::journal::entry::Source;
use crate::model::embedder::Embedder;
use crate::model::job::Kind;
use crate::pixels::Limits;
use crate::telemetry;
use crate::vector::Embedding;
use answer::{Known, compare, embed_measured, embed_query, search_snapshot};
use beside::Beside;
use monitor::{Made, Monitor};
use upkeep::Upkeep;
use writer::Writer;

/// How long a calibration waits where the queue is full: about as long as one image takes.
const BUSY_PAUSE: Duration = Duration::from_millis(20);

/// An open deployment. Cheap to share: every call takes `&self`.
#[derive(Debug)]
pub struct Deployment {
    name: String,
    folder: Mutex<Folder>,
    loaded: LoadedModel,
    limits: Limits,
    gallery: Arc<Gallery>,
    /// How the index is chosen and tuned: part of what a threshold is bound to.
    index: String,
    /// `None` where the deployment was opened for reading.
    writer: Option<Writer>,
    /// Not there before [`Deployment::keep_up`].
    upkeep: OnceLock<Upkeep>,
    /// Not there before [`Deployment::keep_up`], nor where decisions are not recorded.
    monitor: OnceLock<Monitor>,
    /// The latest round of canaries.
    canaries: ArcSwapOption<CanaryRound>,
    /// Whether a round of them is under way.
    replaying: AtomicBool,
    /// A candidate that is compared with it.
    beside: Beside,
    standing: Arc<ArcSwap<Standing>>,
}

/// How to open a deployment.
#[derive(Clone, Debug)]
pub struct OpenOptions {
    /// The name to serve it under, where it differs from the recorded one.
    pub name: Option<String>,
    /// The model's folder, where it is not the recorded one.
    pub model: Option<PathBuf>,
    /// Whether items may change. One process at a time may write.
    pub access: Access,
}

/// An item to enrol, without its embedding.
#[derive(Clone, Debug)]
pub struct NewItem {
    /// The caller's id: 1 to 512 bytes, unique in the gallery.
    pub id: String,
    /// What "the same" refers to: 1 to 512 bytes.
    pub label: String,
    /// What the caller wants to find again with a match.
    pub metadata: BTreeMap<String, String>,
}

impl Deployment {
    /// Makes a new, empty deployment that is embedded by `model`.
    ///
    /// # Errors
    /// A deployment that is there already, a name that cannot be used, or the disk.
    pub fn create(folder: &Path, name: &str, model: &LoadedModel) -> Result<(), DeploymentError> {
        let reference = ModelReference {
            name: model.model.name().to_owned(),
            fingerprint: model.model.fingerprint().to_owned(),
            folder: model.folder.clone(),
            precision: model.model.named_precision().map(ToOwned::to_owned),
            vectors: (!model.model.embeds_images()).then(|| model.model.dimension()),
        };
        let folder = Folder::prepare(folder, name, reference)?;
        let file = folder.gallery_file();
        let (dimension, fingerprint) = (model.model.dimension(), model.model.fingerprint());
        Gallery::create(&file, dimension, fingerprint, &folder.record().gallery_id)?;
        // Last, because a folder with a record is a whole deployment.
        folder.save()
    }

    /// Opens a deployment: verifies every item, and that model, gallery and operating point belong
    /// together.
    ///
    /// # Errors
    /// Anything missing or damaged, a model other than the one that embedded the gallery, or a
    /// second writer. An operating point that does not belong is no error: nothing is accepted.
    pub fn open(
        path: &Path,
        models: &mut Models,
        options: OpenOptions,
    ) -> Result<Self, DeploymentError> {
        let folder = Folder::open(path)?;
        let record = folder.record().clone();
        let name = options.name.unwrap_or(record.name);
        folder::check_name(&name)?;
        let loaded = models.named(&record.model, options.model.as_deref())?;
        if loaded.model.fingerprint() != record.model.fingerprint {
            return Err(DeploymentError::ModelMismatch {
                expected_name: record.model.name,
                expected: record.model.fingerprint,
                folder: loaded.folder,
                found_name: loaded.model.name().to_owned(),
                found: loaded.model.fingerprint().to_owned(),
            });
        }
        let params = IndexParams {
            graph_from_items: models.graph_from_items(),
            ..IndexParams::default()
        };
        let file = folder.gallery_file();
        let gallery = Arc::new(Gallery::open(&file, options.access, params)?);
        folder.check_gallery(gallery.id())?;
        if gallery.model_fingerprint() != loaded.model.fingerprint()
            || gallery.dimension() != loaded.model.dimension()
        {
            return Err(DeploymentError::ModelMismatch {
                expected_name: record.model.name,
                expected: gallery.model_fingerprint().to_owned(),
                folder: loaded.folder,
                found_name: loaded.model.name().to_owned(),
                found: loaded.model.fingerprint().to_owned(),
            });
        }
        let writer = match options.access {
            Access::ReadWrite => Some(Writer::start(Arc::clone(&gallery))?),
            Access::ReadOnly => None,
        };
        let deployment = Self {
            name,
            upkeep: OnceLock::new(),
            monitor: OnceLock::new(),
            canaries: ArcSwapOption::empty(),
            replaying: AtomicBool::new(false),
            beside: Beside::default(),
            loaded,
            limits: models.limits(),
            index: index_binding(params),
            writer,
            standing: Arc::new(ArcSwap::from_pointee(Standing::Missing)),
            gallery,
            folder: Mutex::new(folder),
        };
        deployment.take_standing();
        Ok(deployment)
    }

    /// Keeps the index in step with the items from now on, and checks both; records decisions, and
    /// watches what becomes of the promise. On threads that end with the deployment: for one that
    /// serves.
    ///
    /// # Errors
    /// A thread cannot be started, or the journal cannot be opened.
    pub fn keep_up(&self, monitoring: &Monitoring) -> Result<(), DeploymentError> {
        let (standing, damage) = (
            Arc::clone(&self.standing),
            "an item has changed on the disk",
        );
        let stop = move || {
            standing.store(Arc::new(Standing::Unreadable(damage.to_owned())));
        };
        let upkeep = Upkeep::start(&self.name, Arc::clone(&self.gallery), stop)?;
        // Where there is one already, the second ends here.
        drop(self.upkeep.set(upkeep));
        if monitoring.journal {
            let folder = self.folder().path().to_owned();
            let watched = (Arc::clone(&self.gallery), Arc::clone(&self.standing));
            let monitor = Monitor::start((&self.name, &folder), monitoring, watched)?;
            drop(self.monitor.set(monitor));
        }
        Ok(())
    }

    /// The name it is served under.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its folder.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.folder().path().to_owned()
    }

    /// Its model.
    #[must_use]
    pub fn loaded(&self) -> &LoadedModel {
        &self.loaded
    }

    /// The gallery's present state.
    #[must_use]
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.gallery.snapshot()
    }

    /// Id of its gallery.
    #[must_use]
    pub fn gallery_id(&self) -> &str {
        self.gallery.id()
    }

    /// How nearest items are found at present.
    #[must_use]
    pub fn index_description(&self) -> String {
        self.gallery.index_description()
    }

    /// What decides at present.
    #[must_use]
    pub fn standing(&self) -> Arc<Standing> {
        self.standing.load_full()
    }

    /// What an operating point made now would be bound to.
    #[must_use]
    pub fn binding(&self) -> Binding {
        self.binding_of(&self.gallery.snapshot())
    }

    /// What an operating point made on a state of the gallery is bound to.
    fn binding_of(&self, snapshot: &Snapshot) -> Binding {
        Binding {
            model_fingerprint: self.loaded.model.fingerprint().to_owned(),
            model_name: self.loaded.model.name().to_owned(),
            gallery_id: self.gallery.id().to_owned(),
            gallery_digest: snapshot.digest(),
            gallery_items: snapshot.len() as u64,
            gallery_labels: snapshot.label_count() as u64,
            index: self.index.clone(),
            metric: Metric::Cosine,
        }
    }

    /// Finds the nearest items and decides on the best.
    ///
    /// # Errors
    /// The query is at fault, the queue is full, or the model failed.
    pub async fn search(
        &self,
        query: Query,
        options: SearchOptions,
    ) -> Result<SearchAnswer, DeploymentError> {
        let probe = ProbeSource::Query(query);
        self.search_from(probe, options, Source::Live).await
    }

    async fn search_from(
        &self,
        probe: ProbeSource,
        options: SearchOptions,
        source: Source,
    ) -> Result<SearchAnswer, DeploymentError> {
        let arrived = Instant::now();
        if let ProbeSource::Query(query) = &probe {
            self.glance(query)?;
        }
        let (snapshot, standing) = (self.gallery.snapshot(), self.standing.load_full());
        let (searched, judge) = (Arc::clone(&snapshot), Arc::clone(&standing));
        let filtered = options.filter.is_some();
        let checks = self.upkeep.get().map(Upkeep::checks);
        let keeps = self.monitor.get().is_some_and(Monitor::keeps_images);
        let image = probe.kept(keeps);
        let live = source == Source::Live;
        let ticket = live.then(|| self.beside.ticket(&probe, &options, &self.loaded.pool));
        let kind = probe.kind();
        // Canaries come from here.
        let waits = if live { Waits::Caller } else { Waits::Nobody };
        let ((hits, best, held, norm), timings) = self
            .work((kind, waits, arrived), move |embedder, limits, timings| {
                let query = probe.read(limits)?;
                let (embedding, norm) = embed_measured(embedder, query, limits, timings)?;
                let (hits, best) = search_snapshot(&searched, &embedding, &options, timings)?;
                let nearest = best.as_ref().map(|(best, _)| best);
                let held = judge.held(&embedding, (nearest, &options), timings)?;
                // What leaves a label out did not go through the index.
                if let Some(checks) = checks.filter(|_| options.without_label.is_none()) {
                    checks.offer(&searched, &embedding);
                }
                Ok((hits, best, held, norm))
            })
            .await?;
        let id = DecisionId::fresh();
        let basis = standing.basis(snapshot.len(), held);
        let answer = SearchAnswer {
            decision: standing.decide(held),
            basis: if filtered {
                basis.under_filter()
            } else {
                basis
            },
            decision_id: id.to_string(),
            generation: snapshot.generation(),
            gallery_items: snapshot.len(),
            hits,
            timings,
        };
        // What callers send; canaries have counters of their own.
        if live {
            let score = best.as_ref().map(|(best, _)| best.score.get());
            self.count(answer.decision.as_str(), &answer.basis, score);
            if let Some(norm) = norm {
                telemetry::feature_measured(&self.name, norm);
            }
        }
        if let Some(monitor) = self.monitor.get() {
            let made = Made {
                id,
                decision: answer.decision,
                standing: &standing,
                generation: answer.generation,
                gallery_items: answer.gallery_items,
                best: best.as_ref().map(|(best, margin)| (best, *margin)),
                held,
                filtered,
                image,
            };
            monitor.record(made, source);
        }
        if let Some(ticket) = ticket.flatten() {
            let best = best.as_ref().map(|(best, _)| best);
            ticket.offer(id, Outcome::new(&standing, best, held));
        }
        Ok(answer)
    }

    /// Compares a query with one reference and decides.
    ///
    /// # Errors
    /// Either is at fault, there is no such item, the queue is full, or the model failed.
    pub async fn verify(
        &self,
        query: Query,
        reference: Reference,
    ) -> Result<VerifyAnswer, DeploymentError> {
        let arrived = Instant::now();
        self.glance(&query)?;
        let (snapshot, standing) = (self.gallery.snapshot(), self.standing.load_full());
        let reference = match reference {
            Reference::Query(reference) => {
                self.glance(&reference)?;
                Known::Query(reference)
            }
            Reference::Item(id) => {
                let (head, vector) = self.item(&id)?;
                Known::Item(head, vector)
            }
        };
        let judge = Arc::clone(&standing);
        let kind = match (&query, &reference) {
            (Query::Image(_), _) | (_, Known::Query(Query::Image(_))) => Kind::Image,
            (Query::Embedding(_), Known::Query(Query::Embedding(_)) | Known::Item(..)) => {
                Kind::Vector
            }
        };
        let ((score, held), timings) = self
            .work(
                (kind, Waits::Caller, arrived),
                move |embedder, limits, timings| {
                    compare(embedder, (query, reference), &judge, limits, timings)
                },
            )
            .await?;
        let id = DecisionId::fresh();
        let answer = VerifyAnswer {
            decision: standing.decide(held),
            basis: standing.basis(snapshot.len(), held),
            decision_id: id.to_string(),
            generation: snapshot.generation(),
            score,
            timings,
        };
        // Its score says nothing of what searches find, so it stays out of their histogram.
        self.count(answer.decision.as_str(), &answer.basis, None);
        if let Some(monitor) = self.monitor.get() {
            let made = Made {
                id,
                decision: answer.decision,
                standing: &standing,
                generation: answer.generation,
                gallery_items: snapshot.len(),
                best: None,
                held,
                filtered: false,
                image: None,
            };
            monitor.record(made, Source::Comparison);
        }
        Ok(answer)
    }

    /// Embeds one image.
    ///
    /// # Errors
    /// The image is at fault, the queue is full, or the model failed.
    pub async fn embed(&self, query: Query) -> Result<(Embedding, Timings), DeploymentError> {
        let job = (query.kind(), Waits::Caller, Instant::now());
        self.glance(&query)?;
        self.work(job, move |embedder, limits, timings| {
            embed_query(embedder, query, limits, timings)
        })
        .await
    }

    /// Embeds an image from where it is, unless its bytes are those that `known` is the SHA-256 of.
    ///
    /// # Errors
    /// As [`Deployment::embed`], or the image cannot be read, or is not kept.
    pub async fn embed_image(
        &self,
        at: ImageAt,
        known: Option<[u8; 32]>,
    ) -> Result<Enrolment, DeploymentError> {
        let known = (known, self.gallery.keeps_images());
        let job = (Kind::Image, Waits::Nobody, Instant::now());
        let embedded = self.work(job, move |embedder, limits, timings| {
            answer::embed_image(embedder, &at, known, limits, timings)
        });
        Ok(embedded.await?.0)
    }

    /// Searches for a labelled query, once in all of the gallery and, where asked for, once more in
    /// all but its own label: the two trials that it can give.
    ///
    /// # Errors
    /// As [`Deployment::embed_image`].
    pub async fn probe(&self, request: ProbeRequest) -> Result<Probed, DeploymentError> {
        let job = (request.source.kind(), Waits::Nobody, Instant::now());
        let (mut probed, timings) = self
            .work(job, move |embedder, limits, timings| {
                answer::probe(embedder, request, limits, timings)
            })
            .await?;
        probed.timings = timings;
        Ok(probed)
    }

    /// As [`Deployment::probe`], and waits while the queue is full: calibration gives way to
    /// searches, and loses no query.
    ///
    /// # Errors
    /// As [`Deployment::probe`], but for a full queue.
    pub async fn probe_when_free(&self, request: ProbeRequest) -> Result<Probed, DeploymentError> {
        loop {
            match self.probe(request.clone()).await {
                Err(DeploymentError::Busy { .. } | DeploymentError::Late { .. }) => {
                    tokio::time::sleep(BUSY_PAUSE).await;
                }
                probed => return probed,
            }
        }
    }

    /// Enrols or replaces one item. Returns when it is on disk.
    ///
    /// # Errors
    /// The source or the item is at fault, the queue is full, or the disk.
    pub async fn upsert(
        &self,
        new: NewItem,
        source: Query,
    ) -> Result<(Upserted, u64), DeploymentError> {
        let writer = self.writer()?;
        let keep = self.gallery.keeps_images();
        let job = (source.kind(), Waits::Caller, Instant::now());
        self.glance(&source)?;
        let embedded = self.work(job, move |embedder, limits, timings| {
            let (source_sha256, image) = (source.sha256(), source.kept(keep));
            let embedding = embed_query(embedder, source, limits, timings)?;
            Ok((embedding, source_sha256, image))
        });
        let ((embedding, source_sha256, image), _) = embedded.await?;
        let NewItem {
            id,
            label,
            metadata,
        } = new;
        let before = self.gallery.get(&id);
        let is_new = !self.gallery.has_label(&label);
        let enrolled = label.clone();
        let item = Item {
            id,
            label,
            metadata,
            embedding,
            source_sha256,
            image,
        };
        let written = writer
            .upsert(item)
            .await
            .inspect_err(|error| self.record_failure(error))?;
        if is_new {
            self.label_changed(&enrolled, written.generation, true);
        }
        let before = before.filter(|before| before.label != enrolled);
        self.label_left(before.as_deref(), written.generation);
        let change = match written.outcome {
            Upserted::Inserted => "inserted",
            Upserted::Replaced => "replaced",
        };
        telemetry::items_changed(&self.name, change, 1);
        self.publish_size();
        Ok((written.outcome, written.generation))
    }

    /// Enrols or replaces many embedded items in one transaction. Blocks until they are on disk.
    ///
    /// # Errors
    /// Any item is at fault (nothing is written then), or the disk.
    pub fn upsert_batch(&self, items: Vec<Item>) -> Result<(), DeploymentError> {
        self.gallery.upsert(items)?;
        Ok(())
    }

    /// Removes one item. Returns when that is on disk.
    ///
    /// # Errors
    /// There is none of this id, the queue is full, or the disk.
    pub async fn delete(&self, id: String) -> Result<u64, DeploymentError> {
        let before = self.gallery.get(&id);
        let written = self
            .writer()?
            .delete(id.clone())
            .await
            .inspect_err(|error| self.record_failure(error))?;
        if !written.outcome {
            return Err(DeploymentError::ItemNotFound { id });
        }
        self.label_left(before.as_deref(), written.generation);
        telemetry::items_changed(&self.name, "deleted", 1);
        self.publish_size();
        Ok(written.generation)
    }

    fn label_changed(&self, label: &str, generation: u64, enrolled: bool) {
        if let Some(monitor) = self.monitor.get() {
            monitor.label_changed(label, generation, enrolled);
        }
    }

    /// Takes down that a label left with an item that was removed, where no other has it.
    fn label_left(&self, removed: Option<&ItemHead>, generation: u64) {
        if let Some(removed) = removed
            && !self.gallery.has_label(&removed.label)
        {
            self.label_changed(&removed.label, generation, false);
        }
    }

    /// Removes many items in one transaction. Blocks until that is on disk.
    ///
    /// # Errors
    /// Too many at once, or the disk.
    pub fn delete_batch(&self, ids: &[String]) -> Result<(), DeploymentError> {
        self.gallery.delete(ids)?;
        Ok(())
    }

    /// One item and its embedding, of unit length.
    ///
    /// # Errors
    /// There is none of this id.
    pub fn item(&self, id: &str) -> Result<(Arc<ItemHead>, Vector), DeploymentError> {
        self.gallery
            .item(id)
            .ok_or_else(|| DeploymentError::ItemNotFound { id: id.to_owned() })
    }

    /// SHA-256 of the image that an item was made from, if that is all that could have changed:
    /// where there is such an item, with this label and metadata, and with its image if these are
    /// kept.
    #[must_use]
    pub fn made_from(
        &self,
        id: &str,
        label: &str,
        metadata: &BTreeMap<String, String>,
    ) -> Option<[u8; 32]> {
        let head = self.gallery.get(id)?;
        let same = head.label == label && head.metadata == *metadata;
        let complete = !self.gallery.keeps_images() || self.gallery.has_image(id).unwrap_or(false);
        (same && complete).then_some(head.source_sha256).flatten()
    }

    /// The image that an item was made from, where it is kept.
    ///
    /// # Errors
    /// The queue is full, the image is damaged, or the disk.
    pub async fn image(&self, id: String) -> Result<Option<Vec<u8>>, DeploymentError> {
        let gallery = Arc::clone(&self.gallery);
        let read = move |_: &mut Embedder| gallery.image(&id);
        let read = self.loaded.pool.run(Kind::Vector, read).await?;
        read.map_err(DeploymentError::from)
            .inspect_err(|error| self.record_failure(error))
    }

    /// Keeps the images of what is enrolled from here on.
    ///
    /// # Errors
    /// The deployment was opened for reading, or the disk.
    pub fn keep_images(&self) -> Result<(), DeploymentError> {
        Ok(self.gallery.keep_images()?)
    }

    /// At most `limit` items that follow `after_id`, in the order of their ids.
    #[must_use]
    pub fn items(&self, after_id: Option<&str>, limit: usize) -> Vec<Arc<ItemHead>> {
        self.gallery.list(after_id, limit)
    }

    /// Takes a snapshot into a new file while it serves and changes; see
    /// [`Folder::take_snapshot`]. Blocks.
    ///
    /// # Errors
    /// As there.
    pub fn take_snapshot(
        &self,
        to: &Path,
        progress: Progress<'_>,
    ) -> Result<SnapshotReport, DeploymentError> {
        let folder = self.folder().clone();
        folder.take_snapshot(to, progress)
    }

    fn count(&self, decision: &'static str, basis: &Basis, score: Option<f32>) {
        telemetry::decided(
            &self.name,
            basis.operating_point_id.as_deref(),
            decision,
            score,
        );
    }

    fn writer(&self) -> Result<&Writer, DeploymentError> {
        let read_only = || {
            let path = self.folder().gallery_file();
            DeploymentError::Gallery(GalleryError::ReadOnly { path })
        };
        self.writer.as_ref().ok_or_else(read_only)
    }

    fn folder(&self) -> std::sync::MutexGuard<'_, Folder> {
        self.folder.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Refuses an image at once that need not be decoded for that, so that it waits for no worker.
    fn glance(&self, query: &Query) -> Result<(), DeploymentError> {
        // Where no image can be embedded, that is the answer, whatever was sent.
        if !self.loaded.model.embeds_images() {
            return Ok(());
        }
        query
            .glance(&self.limits)
            .map_err(DeploymentError::Image)
            .inspect_err(|error| self.record_failure(error))
    }

    /// Runs a job of a kind on a worker, and times its stages. What callers wait for is counted.
    async fn work<T: Send + 'static>(
        &self,
        (kind, waits, arrived): (Kind, Waits, Instant),
        job: impl FnOnce(&mut Embedder, &Limits, &mut Timings) -> Result<T, DeploymentError>
        + Send
        + 'static,
    ) -> Result<(T, Timings), DeploymentError> {
        let limits = self.limits;
        let pool = &self.loaded.pool;
        let done = pool.run(kind, move |embedder| {
            let mut timings = Timings {
                queue: arrived.elapsed(),
                ..Timings::default()
            };
            job(embedder, &limits, &mut timings).map(|value| (value, timings))
        });
        let done = done.await;

        let outcome = done
            .map_err(DeploymentError::from)
            .and_then(|result| result);
        match outcome {
            Ok((value, mut timings)) => {
                timings.total = arrived.elapsed();
                match waits {
                    Waits::Caller => timings.record(&self.name),
                    Waits::Nobody => {}
                }
                Ok((value, timings))
            }
            Err(error) => {
                match waits {
                    Waits::Caller => self.record_failure(&error),
                    Waits::Nobody => {}
                }
                Err(error)
            }
        }
    }

    fn record_failure(&self, error: &DeploymentError) {
        if let DeploymentError::Busy { .. }
        | DeploymentError::Late { .. }
        | DeploymentError::WriterBusy { .. } = error
        {
            telemetry::queue_rejected(&self.name);
        }
        if let DeploymentError::Image(cause) = error {
            telemetry::image_failed(&self.name, answer::image_failure(cause));
        }
        if let DeploymentError::Unembeddable { kind, .. } = error {
            let reason = match kind {
                Unembeddable::NoContent => "no_content",
                Unembeddable::NoEmbedding => "no_embedding",
            };
            telemetry::image_failed(&self.name, reason);
        }
    }
}

/// Who waits for a piece of work.
#[derive(Clone, Copy)]
enum Waits {
    /// A caller.
    Caller,
    /// Canaries and calibration give way and try again: a full queue refuses nobody then.
    Nobody,
}

/// The index as an operating point is bound to it: what the gallery's growth does not change.
#[must_use]
pub fn index_binding(params: IndexParams) -> String {
    format!(
        "exact below {} items, else {params}",
        params.graph_from_items
    )
}

/// When an operating point was made; the beginning of time where its record does not say.
#[must_use]
pub fn created(point: &OperatingPoint) -> SystemTime {
    humantime::parse_rfc3339(&point.content().created).unwrap_or(UNIX_EPOCH)
}
