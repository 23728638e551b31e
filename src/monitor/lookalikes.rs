//! Items that were enrolled although the gallery accepts them as items of other labels.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

/// The number of look-alikes that are kept; the latest ones.
const LOOKALIKES_MAX: usize = 100;

/// An item of another label that an item is accepted as.
#[derive(Clone, Debug, PartialEq)]
pub struct OtherItem {
    /// Its id.
    pub item: String,
    /// Its label.
    pub label: String,
    /// The score that is compared with the threshold.
    pub decision_score: f32,
}

/// An item that is accepted as items of other labels.
#[derive(Clone, Debug, PartialEq)]
pub struct Lookalike {
    /// When that was found, in milliseconds since 1970-01-01 UTC.
    pub unix_ms: u64,
    /// Its id.
    pub item: String,
    /// Its label.
    pub label: String,
    /// Number of items of other labels that it is accepted as, up to the limit of counting.
    pub others: usize,
    /// The nearest of these items.
    pub nearest: OtherItem,
}

/// Look-alikes found at enrolment. They are in memory only; after a restart, left-out searches find them again.
#[derive(Debug, Default)]
pub(super) struct EnrolledLookalikes(Mutex<LookalikeList>);

#[derive(Debug, Default)]
struct LookalikeList {
    /// Id of the operating point that accepts them.
    operating_point: String,
    /// The look-alikes, the latest last.
    latest: VecDeque<Lookalike>,
}

impl EnrolledLookalikes {
    /// Adds one; returns whether it is the first under the operating point.
    pub(super) fn take(&self, operating_point: &str, found: Lookalike) -> bool {
        let mut list = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let first = list.operating_point != operating_point;
        if first {
            operating_point.clone_into(&mut list.operating_point);
            list.latest.clear();
        }
        // An item that is enrolled again still counts once.
        list.latest.retain(|known| known.item != found.item);
        list.latest.push_back(found);
        let surplus = list.latest.len().saturating_sub(LOOKALIKES_MAX);
        list.latest.drain(..surplus);
        first
    }

    pub(super) fn of(&self, operating_point: &str) -> Vec<Lookalike> {
        let list = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let latest = list.latest.iter().rev();
        latest
            .filter(|_| list.operating_point == operating_point)
            .cloned()
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lookalike(number: usize) -> Lookalike {
        Lookalike {
            unix_ms: 1,
            item: format!("item {number}"),
            label: "a".to_owned(),
            others: 1,
            nearest: OtherItem {
                item: "other".to_owned(),
                label: "b".to_owned(),
                decision_score: 0.9,
            },
        }
    }

    #[test]
    fn the_latest_are_kept_once_each_and_another_operating_point_begins_anew() {
        let kept = EnrolledLookalikes::default();
        assert!(kept.take("op-1", lookalike(0)));
        for number in 0..LOOKALIKES_MAX + 5 {
            assert!(!kept.take("op-1", lookalike(number)));
        }
        assert!(!kept.take("op-1", lookalike(50)));
        let list = kept.of("op-1");
        assert_eq!(list.len(), LOOKALIKES_MAX);
        assert_eq!(
            (list[0].item.as_str(), list[1].item.as_str()),
            ("item 50", "item 104")
        );
        assert_eq!(kept.of("op-2"), []);
        assert!(kept.take("op-2", lookalike(1)));
        assert_eq!((kept.of("op-1"), kept.of("op-2").len()), (Vec::new(), 1));
    }
}
