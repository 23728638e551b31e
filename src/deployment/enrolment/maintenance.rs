//! A thread that maintains a gallery in service: it links new items, rebuilds the index, checks that the index
//! finds the nearest items, and checks that nothing has changed on the disk.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};

use crate::deployment::DeploymentError;
use crate::deployment::folder_watch::FolderWatch;
use crate::deployment::proposals::QdrantIndex;
use crate::telemetry;
use matchpoint_gallery::Gallery;
use matchpoint_gallery::error::GalleryError;
use matchpoint_gallery::view::{GalleryMatch, GalleryView, Probe};
use matchpoint_vector::Embedding;

/// How often it checks for work.
const TICK: Duration = Duration::from_millis(100);
/// Number of items that are linked between two checks.
const LINKED_AT_ONCE: usize = 64;
/// How often a few items are compared with their checksums.
const SCRUB_EVERY: Duration = Duration::from_secs(1);
/// Number of items that are compared each time. A million items take about four hours, with a thousandth of a
/// core.
const SCRUBBED_AT_ONCE: usize = 64;
/// Checks of the index use at most one part in this many of one core's time.
const CHECK_SHARE: u32 = 100;
/// Number of neighbours that a check compares.
const CHECKED: usize = 10;

/// What the thread maintains.
pub(in crate::deployment) struct MaintainedGallery {
    pub(in crate::deployment) gallery: Arc<Gallery>,
    /// `None` if this process writes the folder.
    pub(in crate::deployment) folder: Option<Arc<FolderWatch>>,
    /// `None` if the index is here.
    pub(in crate::deployment) qdrant: Option<Arc<QdrantIndex>>,
}

/// The maintenance thread. It ends when this is dropped.
#[derive(Debug)]
pub(in crate::deployment) struct Maintenance {
    searches: Sender<SearchToCheck>,
    stop: Arc<AtomicBool>,
    damage: Arc<Damage>,
    thread: Option<JoinHandle<()>>,
}

/// The first change that was found on the disk, if any. After it nothing is trusted any more.
struct Damage {
    deployment: String,
    found: OnceLock<String>,
    /// Called at the first change.
    changed: Box<dyn Fn() + Send + Sync>,
}

impl fmt::Debug for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Damage({:?})", self.found.get())
    }
}

impl Damage {
    fn found(&self, error: &GalleryError) {
        tracing::error!(%error, deployment = self.deployment, "an item has changed on the disk: nothing is accepted any more");
        telemetry::item_damaged(&self.deployment);
        if self.found.set(error.to_string()).is_ok() {
            (self.changed)();
        }
    }
}

/// A search that was answered, which is repeated by comparing with every item.
pub(in crate::deployment) struct SearchToCheck {
    pub(in crate::deployment) view: Arc<GalleryView>,
    pub(in crate::deployment) query: Embedding,
}

/// The channel by which a worker passes searches to the check of the index.
#[derive(Clone, Debug)]
pub(in crate::deployment) struct IndexChecks(Sender<SearchToCheck>);

impl IndexChecks {
    /// Passes a search to be checked, unless one is already waiting: only a sample is checked.
    pub(in crate::deployment) fn offer(&self, view: &Arc<GalleryView>, query: &Embedding) {
        if view.is_approximate() && !self.0.is_full() {
            let search = SearchToCheck {
                view: Arc::clone(view),
                query: query.clone(),
            };
            // Another worker was faster.
            drop(self.0.try_send(search));
        }
    }
}

impl Maintenance {
    /// Starts the thread; `changed` is called if an item has changed on the disk. The folder of a deployment
    /// that is open for reading is looked at, too.
    pub(in crate::deployment) fn start(
        deployment: &str,
        watched: MaintainedGallery,
        changed: impl Fn() + Send + Sync + 'static,
    ) -> Result<Self, DeploymentError> {
        // At most one search waits, so that the sample is recent.
        let (searches, waiting) = crossbeam_channel::bounded(1);
        let stop = Arc::new(AtomicBool::new(false));
        let damage = Arc::new(Damage {
            deployment: deployment.to_owned(),
            found: OnceLock::new(),
            changed: Box::new(changed),
        });
        let worker = MaintenanceWorker {
            deployment: deployment.to_owned(),
            gallery: watched.gallery,
            folder: watched.folder,
            qdrant: watched.qdrant,
            stop: Arc::clone(&stop),
            damage: Arc::clone(&damage),
            reindexing: None,
            scrubbed: None,
            scrubbed_row: None,
        };
        let thread = thread::Builder::new()
            .name("gallery-upkeep".to_owned())
            .spawn(move || worker.run(&waiting))
            .map_err(|cause| DeploymentError::Broken {
                reason: cause.to_string(),
            })?;
        Ok(Self {
            searches,
            stop,
            damage,
            thread: Some(thread),
        })
    }

    pub(in crate::deployment) fn checks(&self) -> IndexChecks {
        IndexChecks(self.searches.clone())
    }

    /// What has changed on the disk since it was verified.
    pub(in crate::deployment) fn damage(&self) -> Option<&str> {
        self.damage.found.get().map(String::as_str)
    }

    /// Records that somebody else has found a changed item.
    pub(in crate::deployment) fn found(&self, error: &GalleryError) {
        self.damage.found(error);
    }
}

impl Drop for Maintenance {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the gallery's upkeep panicked");
        }
    }
}

struct MaintenanceWorker {
    deployment: String,
    gallery: Arc<Gallery>,
    folder: Option<Arc<FolderWatch>>,
    qdrant: Option<Arc<QdrantIndex>>,
    stop: Arc<AtomicBool>,
    damage: Arc<Damage>,
    reindexing: Option<JoinHandle<()>>,
    /// The last item that was compared with its checksum.
    scrubbed: Option<String>,
    /// The last row that was read from the disk again.
    scrubbed_row: Option<i64>,
}

impl MaintenanceWorker {
    fn run(mut self, searches: &Receiver<SearchToCheck>) {
        let (mut scrub_at, mut check_at) = (Instant::now() + SCRUB_EVERY, Instant::now());
        while !self.stop.load(Ordering::Relaxed) {
            self.link();
            self.reindex_if_due();
            let now = Instant::now();
            if scrub_at <= now {
                scrub_at = now + SCRUB_EVERY;
                self.scrub();
                if let Some(folder) = &self.folder {
                    folder.look();
                }
            }
            if now < check_at {
                thread::park_timeout(TICK);
                continue;
            }
            match searches.recv_timeout(TICK) {
                Ok(search) => {
                    let started = Instant::now();
                    self.check(&search);
                    check_at = Instant::now() + started.elapsed() * CHECK_SHARE;
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
        // An index that is still being built is abandoned with the process, because it is derived data.
    }

    fn link(&self) {
        while 0 < self.gallery.link(LINKED_AT_ONCE) && !self.stop.load(Ordering::Relaxed) {}
    }

    /// Builds a new index next to the one in use, if the gallery has outgrown that.
    fn reindex_if_due(&mut self) {
        let running = self.reindexing.as_ref();
        if running.is_some_and(|thread| !thread.is_finished()) || !self.gallery.reindex_is_due() {
            return;
        }
        let gallery = Arc::clone(&self.gallery);
        let work = move || {
            tracing::info!(items = gallery.len(), "rebuilding the index");
            match gallery.reindex() {
                Ok(()) => {
                    tracing::info!(index = gallery.index_description(), "the new index serves");
                }
                Err(error) => tracing::error!(%error, "the index could not be rebuilt"),
            }
        };
        self.reindexing = thread::Builder::new()
            .name("gallery-index".to_owned())
            .spawn(work)
            .ok();
    }

    /// Compares a few items with their checksums, in memory and on the disk.
    fn scrub(&mut self) {
        if self.damage.found.get().is_some() {
            return;
        }
        if let Err(error) = self.try_scrub() {
            self.damage.found(&error);
        }
    }

    fn try_scrub(&mut self) -> Result<(), GalleryError> {
        self.gallery.check_place()?;
        let after = self.scrubbed.take();
        self.scrubbed = self
            .gallery
            .check_items(after.as_deref(), SCRUBBED_AT_ONCE)?;
        let after = self.scrubbed_row.unwrap_or(0);
        self.scrubbed_row = self.gallery.check_stored(after, SCRUBBED_AT_ONCE)?;
        Ok(())
    }

    fn check(&self, search: &SearchToCheck) {
        let SearchToCheck { view, query } = search;
        let probe = Probe::nearest(CHECKED);
        let found = match &self.qdrant {
            None => view.nearest(query, &probe).map_err(DeploymentError::from),
            Some(index) => index.nearest_now(view, query, &probe),
        };
        let findings = found.and_then(|found| Ok(missed_by(&found, view, query, CHECKED)?));
        match findings {
            Ok(found) => {
                telemetry::index_checked(&self.deployment, found.neighbours, found.missed);
            }
            Err(error) => tracing::error!(%error, "the index could not be checked"),
        }
    }
}

/// How a search through the index compares with an exact one.
#[derive(Clone, Copy, Debug, Default)]
pub struct IndexFindings {
    /// Number of nearest items, found by comparing with every item.
    pub neighbours: usize,
    /// Number of these that the index missed although they are more similar than what it found.
    pub missed: usize,
    /// Whether the nearest item of all is among those missed.
    pub missed_best: bool,
}

/// Searches through the index and by comparing with every item, and compares the results.
///
/// # Errors
/// Returns an error if the query has another dimension.
pub fn missed(
    view: &GalleryView,
    query: &Embedding,
    k: usize,
) -> Result<IndexFindings, GalleryError> {
    let found = view.nearest(query, &Probe::nearest(k))?;
    missed_by(&found, view, query, k)
}

/// Compares what a search for the nearest `k` found with what comparing every item finds.
fn missed_by(
    found: &[GalleryMatch],
    view: &GalleryView,
    query: &Embedding,
    k: usize,
) -> Result<IndexFindings, GalleryError> {
    let exact = Probe {
        exact: true,
        ..Probe::nearest(k)
    };
    let nearest = view.nearest(query, &exact)?;
    // An item that is as similar as the last one found does not count as missed.
    let last = found.last().map(|last| last.score);
    let is_missed = |near: &GalleryMatch| {
        last.is_none_or(|last| last < near.score)
            && !found.iter().any(|found| found.item.id == near.item.id)
    };
    let missed = nearest.iter().filter(|near| is_missed(near)).count();
    Ok(IndexFindings {
        neighbours: nearest.len(),
        missed,
        missed_best: nearest
            .first()
            .zip(found.first())
            .is_some_and(|(near, found)| found.score < near.score),
    })
}
