//! How many decisions of each kind were recorded, and how many were not.

use std::collections::BTreeMap;

use crate::journal::entry::SourceKind;
use matchpoint_calibration::decision::Decision;

/// What decisions are counted by.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TotalKey {
    /// The operating point that decided; `None` when undecided.
    pub operating_point: Option<String>,
    /// Where the searches came from.
    pub source: SourceKind,
    /// What was decided.
    pub decision: Decision,
    /// The stratum of the sample; `None` if nothing was decided.
    pub stratum: Option<u16>,
    /// Whether a filter restricted the items that could be found.
    pub filtered: bool,
}

/// How many.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DecisionCount {
    /// Decisions ever recorded.
    pub decisions: u64,
    /// Those of them that were sampled for audit.
    pub sampled: u64,
    /// Those of them whose rows were removed since. The others are in the journal.
    pub removed: u64,
}

/// A count and what it counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Total {
    /// What is counted.
    pub key: TotalKey,
    /// How many.
    pub count: DecisionCount,
}

/// What was not recorded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LostDecisions {
    /// Decisions that were made while the queue was full.
    pub queue_full: u64,
    /// Decisions that could not be written: the disk, or there is no journal.
    pub not_written: u64,
    /// Images of sampled decisions that were left out because too many were queued. Their decisions were
    /// recorded.
    pub images: u64,
}

impl LostDecisions {
    pub(super) fn without(self, other: Self) -> Self {
        Self {
            queue_full: self.queue_full.saturating_sub(other.queue_full),
            not_written: self.not_written.saturating_sub(other.not_written),
            images: self.images.saturating_sub(other.images),
        }
    }

    pub(super) fn with(self, other: Self) -> Self {
        Self {
            queue_full: self.queue_full.saturating_add(other.queue_full),
            not_written: self.not_written.saturating_add(other.not_written),
            images: self.images.saturating_add(other.images),
        }
    }
}

/// What the disk holds after a commit.
#[derive(Clone, Debug, Default)]
pub struct Committed {
    /// The totals that changed, with their new values: at opening all of them.
    pub changed: Vec<Total>,
    /// Rows in the journal.
    pub rows: u64,
    /// Length of the file, without its log.
    pub bytes: u64,
    /// Sampled decisions that were removed for space before anybody annotated them, since the last report.
    pub crowded_out: u64,
}

/// A key as it is stored: by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct NumberedKey {
    /// Number of the operating point; 0 is none.
    pub(super) point: i64,
    pub(super) source: SourceKind,
    pub(super) decision: i64,
    /// -1 is none.
    pub(super) stratum: i64,
    pub(super) filtered: bool,
}

pub(super) type CountsByKey = BTreeMap<NumberedKey, DecisionCount>;

/// Adds what one transaction changes.
pub(super) fn add(counts: &mut CountsByKey, changes: &CountsByKey) {
    for (key, change) in changes {
        let count = counts.entry(*key).or_default();
        count.decisions += change.decisions;
        count.sampled += change.sampled;
        count.removed += change.removed;
    }
}

/// How many rows there should be.
pub(super) fn rows(counts: &CountsByKey) -> u64 {
    let kept = |count: &DecisionCount| count.decisions.saturating_sub(count.removed);
    counts.values().map(kept).sum()
}
