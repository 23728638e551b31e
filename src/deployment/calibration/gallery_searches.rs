//! Uses the gallery's own items as the queries of a calibration.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use super::searches::{Gathered, INDEX_CHECKS_MAX, LabelledQuery};
use crate::deployment::search::answer::Probed;
use crate::deployment::search::deciding::{DECIDING_WIDTH, PROBE_HITS};
use crate::deployment::search::worker::{index_misses, left_out};
use crate::deployment::{Deployment, DeploymentError, Hit, Timings};
use matchpoint_gallery::item::ItemHead;
use matchpoint_gallery::view::{GalleryView, Probe};
use matchpoint_vector::{Embedding, Similarity};

impl Deployment {
    /// Searches for each item of the gallery as if it were a query: among the other items (mated, if its label
    /// has more than one item), and among other labels (left out). It uses all cores. `progress` is called with
    /// the number done and the total; if it returns `false`, the work stops.
    ///
    /// # Errors
    /// Returns an error if the work was stopped, or if a stored item cannot be searched for.
    pub fn gather_from_gallery(
        &self,
        progress: &(dyn Fn(usize, usize) -> bool + Sync),
    ) -> Result<Gathered, DeploymentError> {
        let mut gathered = Gathered::of(self)?;
        gathered.of_own_items = true;
        let view = gathered.view();
        let mut of_label: BTreeMap<&str, usize> = BTreeMap::new();
        for (head, _) in view.items() {
            *of_label.entry(&head.label).or_default() += 1;
        }
        let mut items: Vec<(&ItemHead, &[f32])> = view
            .items()
            .map(|(head, vector)| (&**head, vector))
            .collect();
        items.sort_unstable_by_key(|(head, _)| &head.id);

        // Spread over the ids, since those that were enrolled together may be alike.
        let checked_each = items.len().div_ceil(INDEX_CHECKS_MAX).max(1);
        let (next, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
        let found = Mutex::new(Vec::with_capacity(items.len()));
        let failed = Mutex::new(None);
        let work = || {
            while !stop.load(Ordering::Relaxed) {
                let number = next.fetch_add(1, Ordering::Relaxed);
                let Some((head, vector)) = items.get(number) else {
                    return;
                };
                let mates = of_label.get(head.label.as_str()).copied().unwrap_or(0);
                let item = OwnItem { head, vector };
                match self.as_query(&view, item, number.is_multiple_of(checked_each)) {
                    Ok(probed) => {
                        let mut found = found.lock().unwrap_or_else(PoisonError::into_inner);
                        found.push((number, 1 < mates, probed));
                        if !progress(found.len(), items.len()) {
                            stop.store(true, Ordering::Relaxed);
                        }
                    }
                    Err(error) => {
                        *failed.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                        stop.store(true, Ordering::Relaxed);
                    }
                }
            }
        };
        let workers = std::thread::available_parallelism().map_or(1, usize::from);
        std::thread::scope(|scope| {
            for _ in 0..workers {
                scope.spawn(work);
            }
        });
        if let Some(error) = failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
            return Err(error);
        }
        if stop.into_inner() {
            return Err(DeploymentError::Cancelled);
        }
        let mut found = found.into_inner().unwrap_or_else(PoisonError::into_inner);
        found.sort_unstable_by_key(|(number, _, _)| *number);
        add_items(&mut gathered, &items, found);
        gathered.settle()?;
        Ok(gathered)
    }
}

fn add_items(
    gathered: &mut Gathered,
    items: &[(&ItemHead, &[f32])],
    found: Vec<(usize, bool, Probed)>,
) {
    for ((head, _), (_, mated, probed)) in items.iter().zip(found) {
        let query = LabelledQuery {
            id: head.id.clone(),
            label: head.label.clone(),
            conditions: head.metadata.clone(),
        };
        gathered.add_trials(query, probed, !mated);
    }
}

/// The best item with another label than the first hit, except the item itself.
fn best_of_others_but(
    view: &GalleryView,
    embedding: &Embedding,
    itself: &ItemHead,
    hits: &[Hit],
) -> Result<Option<Similarity>, DeploymentError> {
    let Some(best) = hits.first() else {
        return Ok(None);
    };
    let other = hits.iter().find(|hit| hit.item.label != best.item.label);
    if let Some(other) = other.filter(|_| !view.is_approximate()) {
        return Ok(Some(other.score));
    }
    let others = Probe {
        without_label: Some(&best.item.label),
        ..Probe::nearest(2)
    };
    let others = view.nearest(embedding, &others)?;
    let other = others.iter().find(|hit| hit.item.id != itself.id);
    Ok(other.map(|other| other.score))
}

/// An item as a query.
struct OwnItem<'a> {
    head: &'a ItemHead,
    vector: &'a [f32],
}

impl Deployment {
    /// Searches for an item among all others.
    fn as_query(
        &self,
        view: &GalleryView,
        OwnItem { head, vector }: OwnItem<'_>,
        check_index: bool,
    ) -> Result<Probed, DeploymentError> {
        let embedding = Embedding::normalise(vector.to_vec())?;
        let probe = Probe::nearest(DECIDING_WIDTH + 1);
        let mut hits = match &self.qdrant {
            None => view.nearest(&embedding, &probe)?,
            Some(qdrant) => qdrant.index().nearest_now(view, &embedding, &probe)?,
        };
        hits.retain(|hit| hit.item.id != head.id);
        // Any index finds the item itself.
        let index_missed = if check_index {
            index_misses(view, &embedding, &hits, Some(&head.id))?
        } else {
            None
        };
        hits.truncate(PROBE_HITS);
        let others = left_out(view, &embedding, &head.label)?;
        let other = match hits.first() {
            Some(best) if best.item.label == head.label => others.hits.first().map(|hit| hit.score),
            _ => best_of_others_but(view, &embedding, head, &hits)?,
        };
        Ok(Probed {
            hits,
            other,
            others: Some(others),
            index_missed,
            source_sha256: head.source_sha256,
            // The vector is in the gallery, which is analysed as a whole.
            vector: None,
            measures: None,
            feature_length: None,
            timings: Timings::default(),
        })
    }
}
