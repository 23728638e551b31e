//! A thread that keeps the collection equal to the gallery, and compares the two all the time.

mod filling;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;

use super::later::LaterGeneration;
use super::{DOUBTFUL_MAX, IndexedGallery, QdrantIndex, parity};
use crate::deployment::DeploymentError;
use crate::telemetry;
use matchpoint_gallery::item::ItemHead;
use matchpoint_gallery::mapped_vectors::Vector;
use matchpoint_qdrant::{KeptPoint, NewPoint, PointKey, QdrantAddress, QdrantError};

/// How often the gallery is looked at for changes.
const TICK: Duration = Duration::from_millis(20);
/// How often some points are compared with the gallery.
const COMPARE_EVERY: Duration = Duration::from_secs(1);
/// Number of points that are compared at once: a million take half an hour.
const COMPARED_AT_ONCE: u32 = 512;
/// From so many of them on that differ, one in a hundred, answers are withheld until they were compared again.
const WITHHELD_FROM: usize = 6;
/// How long nothing is asked after an error.
const REST: Duration = Duration::from_millis(500);
/// Number of points that are written at once: a megabyte of the longest vectors.
const WRITTEN_AT_ONCE: usize = 64;

/// The thread. It ends when this is dropped.
#[derive(Debug)]
pub(in crate::deployment) struct QdrantFollower {
    index: Arc<QdrantIndex>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// An item as its point should be.
struct IndexedItem {
    head: Arc<ItemHead>,
    checksum: [u8; 32],
}

struct FollowerWork {
    index: Arc<QdrantIndex>,
    doubtful: Receiver<PointKey>,
    /// What the collection should have: the state that was applied.
    indexed: BTreeMap<PointKey, IndexedItem>,
    /// Where the comparison goes on.
    compared: PointKey,
    later: LaterGeneration,
    compare_at: Instant,
    /// Why nothing could be asked at the last turn.
    failed: Option<String>,
}

/// What a comparison of points found.
#[derive(Default)]
struct Differences {
    /// Points that are missing, differ, or should not be there.
    wrong: Vec<PointKey>,
    /// The latest generation of those that differ because somebody else has written later.
    later: Option<u64>,
}

impl QdrantFollower {
    /// Makes the collection equal to the gallery, compares the answers, and goes on so. Blocks.
    ///
    /// # Errors
    /// Returns an error if Qdrant does not answer or cannot be used, or if somebody else writes the collection.
    pub(in crate::deployment) fn start(
        address: &QdrantAddress,
        gallery: IndexedGallery,
    ) -> Result<Self, DeploymentError> {
        let (doubtful, looked_at) = crossbeam_channel::bounded(DOUBTFUL_MAX);
        let standing = gallery.standing.clone();
        let index = Arc::new(QdrantIndex::open(address, gallery, doubtful)?);
        let mut work = FollowerWork {
            index: Arc::clone(&index),
            doubtful: looked_at,
            indexed: BTreeMap::new(),
            compared: PointKey::FIRST,
            later: LaterGeneration::new(standing),
            compare_at: Instant::now(),
            failed: None,
        };
        tracing::info!(
            deployment = index.deployment,
            collection = index.collection.name(),
            "the index is in Qdrant"
        );
        let written = work.fill()?;
        work.compare_first_answers(written)?;
        if let Some(differs) = &*index.differs.load() {
            return Err(QdrantError::Unsuitable {
                address: index.collection.address(),
                problem: differs.to_string(),
            }
            .into());
        }
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::Builder::new()
            .name("qdrant-follower".to_owned())
            .spawn(move || work.run(&stopped))
            .map_err(|cause| DeploymentError::Broken {
                reason: cause.to_string(),
            })?;
        Ok(Self {
            index,
            stop,
            thread: Some(thread),
        })
    }

    pub(in crate::deployment) fn index(&self) -> &Arc<QdrantIndex> {
        &self.index
    }
}

impl Drop for QdrantFollower {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.index.collection.stop();
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            if thread.join().is_err() {
                tracing::error!("the follower of Qdrant panicked");
            }
        }
    }
}

impl FollowerWork {
    fn run(mut self, stop: &AtomicBool) {
        let mut rests_until = Instant::now();
        while !stop.load(Ordering::Relaxed) {
            if rests_until <= Instant::now() {
                let turn = self.turn();
                // A call that the end has cut off says nothing about Qdrant.
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                if turn.is_err() {
                    rests_until = Instant::now() + REST;
                }
                self.note(turn.err());
            }
            thread::park_timeout(TICK);
        }
    }

    fn note(&mut self, error: Option<DeploymentError>) {
        let ready = error.is_none() && self.index.check().is_ok();
        let applied = self.index.applied.load().generation();
        telemetry::index_followed(&self.index.deployment, ready, applied);
        let deployment = &self.index.deployment;
        match error.map(|error| error.to_string()) {
            None => {
                if self.failed.take().is_some() {
                    tracing::info!(deployment, "Qdrant is followed again");
                }
            }
            Some(cause) => {
                if self.failed.is_none() {
                    tracing::warn!(
                        deployment,
                        cause,
                        "Qdrant does not have all that the gallery has"
                    );
                }
                self.failed = Some(cause);
            }
        }
    }

    /// Does everything that is due. Searches may go on while nothing can be written, so each part is tried.
    fn turn(&mut self) -> Result<(), DeploymentError> {
        if self.index.differs.load().is_none() && self.overtaken().is_some() {
            self.index.compared.store(0, Ordering::Release);
        }
        let answers = self.compare_answers();
        let applied = self.apply();
        let points = self.compare_points();
        applied.and(points).and(answers)?;
        match &*self.index.differs.load() {
            // It is asked again after a rest.
            Some(differs) => {
                let reason = differs.to_string();
                Err(QdrantError::Withheld { reason }.into())
            }
            None => Ok(()),
        }
    }

    fn compare_points(&mut self) -> Result<(), DeploymentError> {
        while let Ok(key) = self.doubtful.try_recv() {
            self.look_at(key)?;
        }
        // What its answers lack is found sooner so.
        let differs = self.index.differs.load().is_some();
        if differs || self.compare_at <= Instant::now() {
            self.compare_at = Instant::now() + COMPARE_EVERY;
            let found = self.compare_some()?;
            self.settle(&found)?;
        }
        Ok(())
    }

    /// Compares the answers of Qdrant with those of the gallery, if a connection was made since that was done.
    fn compare_answers(&mut self) -> Result<(), DeploymentError> {
        let index = &self.index;
        let connections = index.collection.connections();
        if index.compared.load(Ordering::Acquire) == connections {
            return Ok(());
        }
        let release = index.collection.wait(index.collection.release())?;
        // Keys are hashes, so these are a sample; another one each time.
        let following = self.indexed.range(self.compared..);
        let sample = following.chain(self.indexed.range(..self.compared));
        let sample = sample.take(parity::SEARCHED);
        let sample: Vec<_> = sample.map(|(_, item)| Arc::clone(&item.head)).collect();
        let differs = if release == index.release {
            let overtaken = self.overtaken();
            overtaken.map_or_else(|| parity::differs(index, &sample), |said| Ok(Some(said)))?
        } else {
            Some(format!(
                "it is release {release} now, and {} when this server was started: start this server again",
                index.release
            ))
        };
        let known = index.differs.load();
        if let Some(differs) = differs
            .as_ref()
            .filter(|said| known.as_deref() != Some(*said))
        {
            let deployment = &index.deployment;
            tracing::error!(
                deployment,
                differs,
                "Qdrant does not answer as the gallery does"
            );
        }
        let passed = differs.is_none();
        index.differs.store(differs.map(Arc::new));
        if passed {
            index.compared.store(connections, Ordering::Release);
        }
        Ok(())
    }

    fn generation(&self) -> u64 {
        self.index.applied.load().generation()
    }

    /// From now on the collection should have this item.
    fn expect(&mut self, head: &Arc<ItemHead>) {
        // One that was replaced meanwhile comes with the next changes.
        if let Some(checksum) = self.index.gallery.checksum(head) {
            let head = Arc::clone(head);
            let item = IndexedItem { head, checksum };
            self.indexed.insert(PointKey::of(&item.head.id), item);
        }
    }

    /// Writes what has changed in the gallery.
    fn apply(&mut self) -> Result<(), DeploymentError> {
        let (view, before) = (self.index.gallery.view(), self.index.applied.load_full());
        if view.generation() == before.generation() {
            return Ok(());
        }
        let changes = view.changes_since(&before);
        let added = changes.added.iter();
        let added: BTreeSet<PointKey> = added.map(|(head, _)| PointKey::of(&head.id)).collect();
        let removed = changes.removed.iter().map(|head| PointKey::of(&head.id));
        let removed: Vec<PointKey> = removed.filter(|key| !added.contains(key)).collect();
        // A search with an older view finds the one or the other of two items that take turns.
        self.upsert(view.generation(), &changes.added)?;
        self.delete(view.generation(), &removed)?;
        for key in &removed {
            self.indexed.remove(key);
        }
        for (head, _) in &changes.added {
            self.expect(head);
        }
        self.index.applied.store(view);
        Ok(())
    }

    fn upsert(
        &self,
        generation: u64,
        items: &[(Arc<ItemHead>, Vector)],
    ) -> Result<(), DeploymentError> {
        let index = &self.index;
        for some in items.chunks(WRITTEN_AT_ONCE) {
            let points = some.iter().filter_map(|(head, vector)| {
                Some(NewPoint {
                    item: &head.id,
                    checksum: index.gallery.checksum(head)?,
                    vector,
                })
            });
            let points: Vec<NewPoint<'_>> = points.collect();
            if !points.is_empty() {
                let written = index.collection.upsert(generation, &points);
                index.collection.wait(written)?;
            }
        }
        Ok(())
    }

    fn delete(&self, generation: u64, keys: &[PointKey]) -> Result<(), DeploymentError> {
        let collection = &self.index.collection;
        for some in keys.chunks(WRITTEN_AT_ONCE) {
            collection.wait(collection.delete(generation, some))?;
        }
        Ok(())
    }

    /// Compares the next points with what they should be.
    fn compare_some(&mut self) -> Result<Differences, DeploymentError> {
        let (from, collection) = (self.compared, &self.index.collection);
        let page = collection.wait(collection.page(from, COMPARED_AT_ONCE))?;
        let expected = match page.next {
            Some(next) if next <= from => return Err(self.out_of_order().into()),
            Some(next) => self.indexed.range(from..next),
            None => self.indexed.range(from..),
        };
        let found = self.differences(expected, &page.points);
        self.compared = page.next.unwrap_or(PointKey::FIRST);
        Ok(found)
    }

    fn out_of_order(&self) -> QdrantError {
        QdrantError::Unsuitable {
            address: self.index.collection.address(),
            problem: "it does not list points in order of their ids".to_owned(),
        }
    }

    fn differences<'a>(
        &self,
        expected: impl Iterator<Item = (&'a PointKey, &'a IndexedItem)>,
        points: &[KeptPoint],
    ) -> Differences {
        let generation = self.generation();
        let mut found = Differences::default();
        let mut there: BTreeMap<PointKey, &KeptPoint> =
            points.iter().map(|point| (point.key, point)).collect();
        let mut differs = |key: PointKey, point: Option<&KeptPoint>| match point {
            Some(point) if generation < point.generation => {
                found.later = found.later.max(Some(point.generation));
            }
            Some(_) | None => found.wrong.push(key),
        };
        for (key, item) in expected {
            let point = there.remove(key);
            if point.and_then(|point| point.checksum) != Some(item.checksum) {
                differs(*key, point);
            }
        }
        for (key, point) in there {
            differs(key, Some(point));
        }
        found
    }

    /// Looks at one point that was proposed, and was not what it should be.
    fn look_at(&mut self, key: PointKey) -> Result<(), DeploymentError> {
        let collection = &self.index.collection;
        let mut points = collection.wait(collection.page(key, 1))?.points;
        points.retain(|point| point.key == key);
        let expected = self.indexed.range(key..=key);
        let found = self.differences(expected, &points);
        self.settle(&found)
    }

    /// What somebody has written that will never come here.
    fn overtaken(&self) -> Option<String> {
        self.later.problem(self.index.gallery.view().generation())
    }

    /// Writes anew what differs, and says so.
    fn settle(&mut self, found: &Differences) -> Result<(), DeploymentError> {
        let here = self.index.gallery.view().generation();
        self.later.note(found.later, here);
        let deployment = &self.index.deployment;
        let points = found.wrong.len();
        if points == 0 {
            return Ok(());
        }
        if WITHHELD_FROM <= points {
            // What lacks so many lacks others, too: its answers are compared again before the next one counts.
            self.index.compared.store(0, Ordering::Release);
        }
        if self.later.is_blind() {
            tracing::warn!(
                deployment,
                points,
                "points in Qdrant are not those of this gallery, and are left, since others may have changed them: their store is not seen from here"
            );
            return Ok(());
        }
        tracing::error!(
            deployment,
            points,
            "points in Qdrant were not what they should be, and are written anew"
        );
        telemetry::points_repaired(deployment, points);
        self.write(&found.wrong)
    }

    /// Makes points what they should be.
    fn write(&self, keys: &[PointKey]) -> Result<(), DeploymentError> {
        let (mut gone, mut items) = (Vec::new(), Vec::new());
        for key in keys {
            match self.indexed.get(key) {
                None => gone.push(*key),
                Some(expected) => {
                    // One that was replaced meanwhile comes with the next changes.
                    let item = self.index.gallery.item(&expected.head.id);
                    items.extend(item.filter(|(head, _)| Arc::ptr_eq(head, &expected.head)));
                }
            }
        }
        let generation = self.generation();
        self.delete(generation, &gone)?;
        self.upsert(generation, &items)
    }
}
