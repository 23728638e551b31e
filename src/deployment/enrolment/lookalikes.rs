//! Finds items that the gallery accepts as items of other labels, when an item is enrolled and for the gallery
//! as a whole.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;

use crate::deployment::DeploymentError;
use crate::deployment::points::active::ActivePoint;
use crate::deployment::search::deciding::PROBE_HITS;
use crate::deployment::search::request::{Hit, Timings};
use crate::monitor::{LeftOutItem, Monitor, OtherItem, left_out_sample};
use matchpoint_calibration::adjustment::ComparedPair;
use matchpoint_calibration::decision::Decision;
use matchpoint_calibration::operating_point::OperatingPoint;
use matchpoint_gallery::Gallery;
use matchpoint_gallery::item::ItemHead;
use matchpoint_gallery::view::{GalleryView, Probe};
use matchpoint_vector::Embedding;

/// At most this many others are counted, because what matters is that there are some and which is nearest.
pub(in crate::deployment) const OTHERS_MAX: usize = 20;
/// Number of neighbours that an index is asked for, enough to reach beyond the items of one label.
const NEIGHBOURS: usize = 64;
/// How often the thread checks whether the gallery has changed.
const TICK: Duration = Duration::from_millis(250);
/// Left-out searches use at most one part in this many of one core's time.
const SHARE: u32 = 100;

/// The items of other labels that a search for an item is accepted as, each judged separately, the nearest
/// first and at most `most` of them. It uses the index, as a caller's search does.
///
/// # Errors
/// Returns an error if the vector has another dimension, or if an adjustment fails, which would be a bug.
pub(in crate::deployment) fn accepted_others(
    view: &GalleryView,
    active: &ActivePoint,
    item: &ItemToCheck<'_>,
    most: usize,
) -> Result<Vec<OtherItem>, DeploymentError> {
    let ItemToCheck { embedding, label } = *item;
    let mut found = Vec::new();
    let hits = of_other_labels(view, embedding, label, most.max(PROBE_HITS))?;
    for hit in hits.iter().take(most) {
        let own = &hit.item.label;
        let other = hits.iter().find(|other| other.item.label != *own);
        let compared = ComparedPair {
            score: hit.score,
            probe: embedding.as_slice(),
            item: &hit.vector,
            other: other.map(|other| other.score),
            label: Some(own),
            left_out: Some(label),
        };
        let timings = &mut Timings::default();
        let judged = active.adjusted_by_all(view, embedding, compared, timings)?;
        let accepted = active.decide(judged) == Decision::Accept;
        if let Some(score) = judged.score().filter(|_| accepted) {
            found.push(OtherItem {
                item: hit.item.id.clone(),
                label: own.clone(),
                decision_score: score.get(),
            });
        } else if active.adjuster().is_none() {
            // All others are less similar.
            break;
        }
    }
    Ok(found)
}

/// An item that is searched for with its label left out.
#[derive(Clone, Copy)]
pub(in crate::deployment) struct ItemToCheck<'a> {
    pub(in crate::deployment) embedding: &'a Embedding,
    pub(in crate::deployment) label: &'a str,
}

/// The nearest items of other labels. If the index finds none, the query is compared with every item.
fn of_other_labels(
    view: &GalleryView,
    embedding: &Embedding,
    label: &str,
    most: usize,
) -> Result<Vec<Hit>, DeploymentError> {
    if view.is_approximate() {
        let mut hits = view.nearest(embedding, &Probe::nearest(NEIGHBOURS))?;
        hits.retain(|hit| hit.item.label != label);
        hits.truncate(most);
        if !hits.is_empty() {
            return Ok(hits);
        }
    }
    let others = Probe {
        exact: true,
        without_label: Some(label),
        ..Probe::nearest(most)
    };
    Ok(view.nearest(embedding, &others)?)
}

/// Searches for an item with its label left out; `None` if the item no longer exists.
pub(in crate::deployment) fn searched(
    gallery: &Gallery,
    view: &GalleryView,
    active: &ActivePoint,
    id: &str,
) -> Result<Option<LeftOutItem>, DeploymentError> {
    let Some((head, vector)): Option<(Arc<ItemHead>, _)> = gallery.item(id) else {
        return Ok(None);
    };
    let embedding = Embedding::from_unit(vector.to_vec())?;
    let item = ItemToCheck {
        embedding: &embedding,
        label: &head.label,
    };
    let others = accepted_others(view, active, &item, 1)?;
    let accepted_as = others.into_iter().next();
    Ok(Some(LeftOutItem { head, accepted_as }))
}

/// A thread that searches for a sample of the gallery's items with their labels left out, whenever the gallery
/// or the operating point has changed. It ends when this is dropped.
#[derive(Debug)]
pub(in crate::deployment) struct LeftOutWatch {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// The data that the thread works on.
pub(in crate::deployment) struct LeftOutWatched {
    pub(in crate::deployment) gallery: Arc<Gallery>,
    pub(in crate::deployment) active_point: Arc<ArcSwap<ActivePoint>>,
    pub(in crate::deployment) monitor: Arc<Monitor>,
}

impl LeftOutWatch {
    pub(in crate::deployment) fn start(watched: LeftOutWatched) -> Result<Self, DeploymentError> {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::Builder::new()
            .name("left-out".to_owned())
            .spawn(move || watched.run(&stopped))
            .map_err(|cause| DeploymentError::Broken {
                reason: cause.to_string(),
            })?;
        Ok(Self {
            stop,
            thread: Some(thread),
        })
    }
}

impl Drop for LeftOutWatch {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            if thread.join().is_err() {
                tracing::error!("the left-out searches panicked");
            }
        }
    }
}

impl LeftOutWatched {
    fn run(&self, stop: &AtomicBool) {
        let mut searched = None;
        while !stop.load(Ordering::Relaxed) {
            let active = self.active_point.load_full();
            let state = active
                .valid()
                .map(|point| (point.id().to_owned(), self.gallery.view().generation()));
            if state.is_some() && state != searched && self.round(&active, stop) {
                searched = state;
            }
            thread::park_timeout(TICK);
        }
    }

    /// Makes one round; returns whether it is finished, with or without success. An item that cannot be
    /// searched for now will not be searchable later.
    fn round(&self, active: &ActivePoint, stop: &AtomicBool) -> bool {
        let Some(point) = active.valid() else {
            return false;
        };
        let started = Instant::now();
        let sample = left_out_sample(&self.gallery.view());
        rest(started.elapsed(), stop);
        let mut found = Vec::with_capacity(sample.len());
        for id in sample {
            let started = Instant::now();
            let view = self.gallery.view();
            match searched(&self.gallery, &view, active, &id) {
                Ok(item) => found.extend(item),
                Err(error) => {
                    tracing::error!(%error, "an item could not be searched for with its label left out");
                    return true;
                }
            }
            rest(started.elapsed(), stop);
            let other = self.active_point.load();
            if stop.load(Ordering::Relaxed)
                || other.valid().map(OperatingPoint::id) != Some(point.id())
            {
                return false;
            }
        }
        self.monitor.left_out_searched(point.id(), &found);
        true
    }
}

/// Pauses so that the thread keeps to its share of the core.
fn rest(took: Duration, stop: &AtomicBool) {
    let until = Instant::now() + took * (SHARE - 1);
    loop {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() || stop.load(Ordering::Relaxed) {
            return;
        }
        thread::park_timeout(left.min(TICK));
    }
}
