//! Assigns decisions to people who label, so that two people do not label the same one. The assignments are in
//! memory only. If one is lost, two people see the same picture, and the later annotation corrects the earlier
//! one.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long a decision is reserved for a person who does not answer.
const HOLD: Duration = Duration::from_secs(5 * 60);
/// The highest number of desks; then that of the oldest session is dropped.
const DESKS_MAX: usize = 256;
/// How many skipped and how many answered decisions a desk remembers.
const REMEMBERED_MAX: usize = 1000;

/// The desks of all people who label, by session and deployment.
#[derive(Debug, Default)]
pub(super) struct Desks(Mutex<BTreeMap<DeskKey, Desk>>);

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct DeskKey {
    pub(super) session: u64,
    pub(super) deployment: String,
}

#[derive(Debug, Default)]
struct Desk {
    /// The decision that is reserved for this desk, and until when.
    holds: Option<(String, Instant)>,
    skipped: VecDeque<String>,
    answered: VecDeque<String>,
}

impl Desks {
    /// Reserves a decision of the queue for a desk: the one that it already has, or the first that no other
    /// desk has.
    pub(super) fn take(&self, desk: &DeskKey, queue: &[&str]) -> Option<String> {
        let now = Instant::now();
        self.change(desk, |own, others| {
            let held: BTreeSet<&str> = others
                .filter_map(|other| other.holds.as_ref())
                .filter(|(_, until)| now < *until)
                .map(|(id, _)| id.as_str())
                .collect();
            let mine = own.holds.take().map(|(id, _)| id);
            let is_free = |id: &&&str| {
                !held.contains(*id) && !own.skipped.iter().any(|skipped| skipped == **id)
            };
            let again = queue.iter().find(|id| Some(**id) == mine.as_deref());
            let free = again.filter(is_free).or_else(|| queue.iter().find(is_free));
            let taken = free.map(|id| (*id).to_owned());
            own.holds = taken.clone().map(|id| (id, now + HOLD));
            taken
        })
    }

    /// Records that a decision was answered, and releases it.
    pub(super) fn answered(&self, desk: &DeskKey, id: &str) {
        self.change(desk, |own, _| {
            own.holds = None;
            own.answered.retain(|before| before != id);
            remember(&mut own.answered, id);
        });
    }

    /// Releases a decision that was skipped, so that somebody else can answer it.
    pub(super) fn skip(&self, desk: &DeskKey, id: &str) {
        self.change(desk, |own, _| {
            own.holds = None;
            remember(&mut own.skipped, id);
        });
    }

    /// The decision that was answered before `id` at a desk; the last one if `id` is not among them.
    pub(super) fn before(&self, desk: &DeskKey, id: &str) -> Option<String> {
        self.change(desk, |own, _| {
            let at = own.answered.iter().position(|answered| answered == id);
            let end = at.unwrap_or(own.answered.len());
            own.answered.get(end.checked_sub(1)?).cloned()
        })
    }

    fn change<T>(
        &self,
        key: &DeskKey,
        work: impl FnOnce(&mut Desk, &mut dyn Iterator<Item = &Desk>) -> T,
    ) -> T {
        let mut desks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut own = desks.remove(key).unwrap_or_default();
        let mut others = desks
            .iter()
            .filter(|(other, _)| other.deployment == key.deployment)
            .map(|(_, desk)| desk);
        let done = work(&mut own, &mut others);
        if DESKS_MAX <= desks.len() {
            desks.pop_first();
        }
        desks.insert(key.clone(), own);
        done
    }
}

fn remember(list: &mut VecDeque<String>, id: &str) {
    if list.len() == REMEMBERED_MAX {
        list.pop_front();
    }
    list.push_back(id.to_owned());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn desk(session: u64) -> DeskKey {
        DeskKey {
            session,
            deployment: "shop".to_owned(),
        }
    }

    #[test]
    fn two_people_get_two_decisions_and_each_keeps_theirs() {
        let (desks, queue) = (Desks::default(), ["a", "b", "c"]);
        let take = |session| desks.take(&desk(session), &queue);
        assert_eq!(take(1).as_deref(), Some("a"));
        assert_eq!(take(2).as_deref(), Some("b"));
        assert_eq!(take(1).as_deref(), Some("a"));
        desks.skip(&desk(1), "a");
        assert_eq!(take(1).as_deref(), Some("c"));
        assert_eq!(take(3).as_deref(), Some("a"));
        assert_eq!(take(4), None);
        // A decision that was answered elsewhere is no longer in the queue.
        assert_eq!(desks.take(&desk(2), &["c"]), None);
        assert_eq!(desks.take(&desk(1), &["c"]).as_deref(), Some("c"));
    }

    #[test]
    fn one_goes_back_through_what_one_has_answered() {
        let (desks, own) = (Desks::default(), desk(1));
        assert_eq!(desks.before(&own, ""), None);
        for id in ["a", "b", "c"] {
            desks.answered(&own, id);
        }
        assert_eq!(desks.before(&own, "").as_deref(), Some("c"));
        assert_eq!(desks.before(&own, "c").as_deref(), Some("b"));
        assert_eq!(desks.before(&own, "a"), None);
        desks.answered(&own, "a");
        assert_eq!(desks.before(&own, "").as_deref(), Some("a"));
        assert_eq!(desks.before(&desk(2), ""), None);
    }

    #[test]
    fn desks_of_the_oldest_sessions_go() {
        let desks = Desks::default();
        for session in 0..DESKS_MAX as u64 + 10 {
            desks.answered(&desk(session), "a");
        }
        assert_eq!(desks.0.lock().unwrap().len(), DESKS_MAX);
        assert_eq!(desks.before(&desk(0), ""), None);
    }
}
