//! How the gallery of this server stands to the store: in step, behind, out of reach, or apart from it for good.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use matchpoint_remote::SharedPoint;

/// What the writer's thread knows of the store, for whoever asks this server how it is.
#[derive(Debug)]
pub(in crate::deployment) struct StoreStanding {
    lag_max: Duration,
    seen: Mutex<StoreSeen>,
    /// The operating point that decides here, and the one that the store has in its place.
    chosen: Mutex<ChosenPoint>,
    /// Why the store is not followed any more. What is wrong stays wrong until the deployment is opened again.
    stopped: OnceLock<String>,
}

#[derive(Clone, Copy, Debug)]
struct StoreSeen {
    /// When the gallery was last known to have all that the store has.
    in_step: Instant,
    /// Since when the store is known to have more.
    behind: Option<Instant>,
    /// Whether changes are made here.
    writes: bool,
}

#[derive(Debug, Default)]
struct ChosenPoint {
    here: Option<String>,
    waiting: Option<Arc<SharedPoint>>,
}

impl StoreStanding {
    pub(super) fn new(lag_max: Duration, point: Option<String>) -> Self {
        Self {
            lag_max,
            seen: Mutex::new(StoreSeen {
                in_step: Instant::now(),
                behind: None,
                writes: false,
            }),
            chosen: Mutex::new(ChosenPoint {
                here: point,
                waiting: None,
            }),
            stopped: OnceLock::new(),
        }
    }

    /// Whether an operating point that the store has neither decides here nor waits to.
    pub(super) fn lacks_point(&self, id: &str) -> bool {
        let chosen = self.chosen();
        let waiting = chosen.waiting.as_ref().map(|point| point.id.as_str());
        waiting.or(chosen.here.as_deref()) != Some(id)
    }

    pub(super) fn wait_for(&self, point: SharedPoint) {
        let mut chosen = self.chosen();
        let is_here = chosen.here.as_deref() == Some(&point.id);
        chosen.waiting = (!is_here).then(|| Arc::new(point));
    }

    /// The operating point that is to decide here, and does not yet.
    pub(in crate::deployment) fn waiting_point(&self) -> Option<Arc<SharedPoint>> {
        self.chosen().waiting.clone()
    }

    /// The store has another operating point in place of the one that waits, which was chosen before.
    pub(super) fn waits_no_more(&self) {
        self.chosen().waiting = None;
    }

    /// No operating point decides here, so that whichever the store has, it is another.
    pub(in crate::deployment) fn decides_by_nothing(&self) {
        self.chosen().here = None;
    }

    /// From now on this operating point decides here.
    pub(in crate::deployment) fn decides_by(&self, id: &str) {
        let mut chosen = self.chosen();
        chosen.here = Some(id.to_owned());
        chosen.waiting = chosen.waiting.take().filter(|point| point.id != id);
    }

    /// All items are here. As long as an operating point waits, that is not all.
    pub(super) fn has_all_items(&self) {
        if self.waiting_point().is_some() {
            return self.is_behind();
        }
        let mut seen = self.seen();
        (seen.in_step, seen.behind) = (Instant::now(), None);
    }

    pub(super) fn is_behind(&self) {
        let now = Instant::now();
        self.seen().behind.get_or_insert(now);
    }

    pub(super) fn writes(&self, writes: bool) {
        self.seen().writes = writes;
    }

    /// `true` the first time.
    pub(super) fn stop(&self, reason: String) -> bool {
        self.stopped.set(reason).is_ok()
    }

    /// Why the store is not followed any more; `None` if it is.
    pub(in crate::deployment) fn stopped(&self) -> Option<&str> {
        self.stopped.get().map(String::as_str)
    }

    /// How long ago the gallery was known to have all that the store has: up to about a second if all is well.
    pub(in crate::deployment) fn lag(&self) -> Duration {
        self.seen().in_step.elapsed()
    }

    /// Whether changes are made here.
    pub(in crate::deployment) fn is_writer(&self) -> bool {
        self.seen().writes
    }

    /// Whether it is known for too long that the store has more. A store that is out of reach has nothing new
    /// that anybody could know, and takes no changes, so that searches go on everywhere.
    pub(in crate::deployment) fn is_too_late(&self) -> bool {
        let behind = self.seen().behind;
        behind.is_some_and(|since| self.lag_max < since.elapsed())
    }

    fn chosen(&self) -> MutexGuard<'_, ChosenPoint> {
        self.chosen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn seen(&self) -> MutexGuard<'_, StoreSeen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_store_that_is_known_to_have_more_makes_a_server_late() {
        let standing = StoreStanding::new(Duration::ZERO, None);
        assert!(!standing.is_too_late());
        standing.is_behind();
        let since = standing.seen().behind;
        while since.is_some_and(|since| since.elapsed().is_zero()) {}
        assert!(standing.is_too_late());
        standing.is_behind();
        assert_eq!(standing.seen().behind, since, "the first time counts");
        standing.has_all_items();
        assert!(!standing.is_too_late());
    }

    #[test]
    fn a_server_at_which_the_store_s_point_cannot_decide_is_late_until_another_one_does() {
        let point = |id: &str| SharedPoint {
            id: id.to_owned(),
            files: Vec::new(),
        };
        let standing = StoreStanding::new(Duration::ZERO, Some("op-1".to_owned()));
        assert!(standing.lacks_point("op-2"));
        standing.wait_for(point("op-2"));
        standing.has_all_items();
        assert!(
            standing.seen().behind.is_some(),
            "the items are not all that it lacks"
        );
        // The second one cannot decide here, and then the first one is chosen again.
        standing.decides_by_nothing();
        assert!(standing.lacks_point("op-1"));
        standing.wait_for(point("op-1"));
        assert_eq!(standing.waiting_point().unwrap().id, "op-1");
        standing.decides_by("op-1");
        standing.has_all_items();
        assert_eq!(standing.seen().behind, None);
    }

    #[test]
    fn what_is_chosen_here_is_not_replaced_by_what_waited() {
        let standing = StoreStanding::new(Duration::ZERO, Some("op-1".to_owned()));
        standing.wait_for(SharedPoint {
            id: "op-2".to_owned(),
            files: Vec::new(),
        });
        standing.waits_no_more();
        standing.decides_by("op-3");
        assert_eq!(standing.waiting_point(), None);
    }

    #[test]
    fn what_is_apart_stays_apart() {
        let standing = StoreStanding::new(Duration::from_secs(5), None);
        assert!(standing.stop("one digest is another".to_owned()));
        standing.has_all_items();
        assert!(!standing.stop("something else".to_owned()));
        assert_eq!(standing.stopped(), Some("one digest is another"));
    }
}
