//! Says in time that a caller's last key is about to expire: by a gauge, and by a line of the log each day.

use std::collections::BTreeMap;

use crate::clock::now_ms;
use crate::identity::{CallerAccess, CallerEnd};
use crate::telemetry;

const DAY_MS: u64 = 24 * 3600 * 1000;
/// Time enough to make another key and to bring it to whoever uses it.
const WARN_DAYS: u64 = 14;

/// What was said of the ends of keys.
pub(in crate::server) struct KeyEnds {
    access: CallerAccess,
    /// What the series show.
    shown: Vec<CallerEnd>,
    /// When the log has said so of each name; a day later it does again.
    said_ms: BTreeMap<String, u64>,
}

impl KeyEnds {
    pub(in crate::server) fn new(access: CallerAccess) -> Self {
        Self {
            access,
            shown: Vec::new(),
            said_ms: BTreeMap::new(),
        }
    }

    /// Updates the gauges, and warns if it is time to.
    pub(in crate::server) fn publish(&mut self) {
        let ends = self.access.ends();
        if ends != self.shown {
            for shown in &self.shown {
                if ends.iter().all(|end| end.name != shown.name) {
                    telemetry::key_expires(&shown.name, None);
                }
            }
            for end in &ends {
                telemetry::key_expires(&end.name, Some(end.expires_ms));
            }
            self.shown.clone_from(&ends);
        }
        let now_ms = now_ms();
        for (end, days) in self.due(&ends, now_ms) {
            tracing::warn!(
                key = end.name,
                days,
                "the last key of this name expires in so many days: make another (matchpoint keys new), and bring it to who uses it"
            );
        }
    }

    /// Those to warn of now, each with the whole days that are left: once a day.
    fn due<'a>(&mut self, ends: &'a [CallerEnd], now_ms: u64) -> Vec<(&'a CallerEnd, u64)> {
        // A clock that was put back does not silence it.
        self.said_ms
            .retain(|_, said| now_ms.abs_diff(*said) < DAY_MS);
        let left = |end: &'a CallerEnd| {
            let left_ms = end.expires_ms.checked_sub(now_ms)?;
            (left_ms <= WARN_DAYS * DAY_MS).then_some((end, left_ms / DAY_MS))
        };
        let unsaid = |end: &&CallerEnd| !self.said_ms.contains_key(&end.name);
        let due: Vec<_> = ends.iter().filter(unsaid).filter_map(left).collect();
        let said = due.iter().map(|(end, _)| (end.name.clone(), now_ms));
        self.said_ms.extend(said);
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::AccessConfig;

    #[test]
    fn the_log_warns_once_a_day_of_keys_that_end_within_two_weeks() {
        let access = CallerAccess::open(&AccessConfig::default()).unwrap();
        let mut said = KeyEnds::new(access);
        let begun = 1_800_000_000_000;
        let of = |name: &str, expires_ms| CallerEnd {
            name: name.to_owned(),
            expires_ms,
        };
        let ends = [
            of("over", begun - 1),
            of("soon", begun + 3 * DAY_MS + 5),
            of("later", begun + 15 * DAY_MS),
        ];
        let mut named = |now_ms| -> Vec<(String, u64)> {
            let due = said.due(&ends, now_ms);
            due.into_iter()
                .map(|(end, days)| (end.name.clone(), days))
                .collect()
        };
        assert_eq!(named(begun), [("soon".to_owned(), 3)]);
        assert!(named(begun + DAY_MS - 1).is_empty());
        let both = [("soon".to_owned(), 2), ("later".to_owned(), 14)];
        assert_eq!(named(begun + DAY_MS), both);
        // The clock is put back by a week.
        assert_eq!(named(begun - 6 * DAY_MS).len(), 2);
        // A name that is new is said at once, whenever another one was.
        let more = [&ends[..], &[of("new", begun + 2 * DAY_MS)]].concat();
        let new = said.due(&more, begun - 6 * DAY_MS + 1);
        assert_eq!(new.len(), 1);
    }
}
