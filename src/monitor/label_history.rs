//! Records since when labels are enrolled, because what a query showed is judged by the gallery that was
//! searched, and not by today's.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use super::change_log::{ChangeLog, check_log};
use crate::files::FileError;

/// The file in the deployment's folder, with a line of JSON for each change.
const FILE: &str = "labels.log";
/// The number of changes that are kept when it is opened; the latest ones.
const CHANGES_MAX: usize = 1_000_000;

/// A label was added to the gallery with its first item, or removed with its last.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct LabelChange {
    label: String,
    /// The first generation of the gallery with the change.
    generation: u64,
    enrolled: bool,
}

/// Which labels were added and removed while the deployment was served. Changes by `build` while it is not
/// served are missing; labels changed in that way count as if their present state had always been so.
#[derive(Debug)]
pub(super) struct LabelHistory {
    known: Mutex<HashMap<String, Vec<(u64, bool)>>>,
    log: ChangeLog,
}

impl LabelHistory {
    /// Opens it in this state of the gallery.
    pub(super) fn open(folder: &Path, generation: u64) -> Result<Self, FileError> {
        let (log, mut changes) = ChangeLog::open::<LabelChange>(&folder.join(FILE), generation)?;
        let surplus = changes.len().saturating_sub(CHANGES_MAX);
        if 0 < surplus {
            changes.drain(..surplus);
            log.replace(&changes)?;
        }
        let mut known: HashMap<String, Vec<(u64, bool)>> = HashMap::new();
        for change in changes {
            let of_label = known.entry(change.label).or_default();
            of_label.push((change.generation, change.enrolled));
        }
        Ok(Self {
            known: Mutex::new(known),
            log,
        })
    }

    /// Checks the file without changing it.
    pub(super) fn check(folder: &Path) -> Result<(), FileError> {
        check_log::<LabelChange>(&folder.join(FILE))
    }

    /// Whether damage took which labels were enrolled in a state of the gallery.
    pub(super) fn has_lost(&self, generation: u64) -> bool {
        self.log.has_lost(generation)
    }

    /// Records a change. It survives a crash of the process; a change that is lost in a power failure counts as
    /// older. A failure here never makes the completed write fail.
    pub(super) fn note(&self, label: &str, generation: u64, enrolled: bool) {
        let change = LabelChange {
            label: label.to_owned(),
            generation,
            enrolled,
        };
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let of_label = known.entry(change.label.clone()).or_default();
        of_label.push((generation, enrolled));
        // Writes that were acknowledged together may be reported in any order.
        of_label.sort_unstable();
        drop(known);
        let lost = "it could not be taken down since when a label is enrolled";
        self.log.add(&change, lost);
    }

    /// Whether a label was enrolled in a state of the gallery; `None` if it was never added or removed.
    pub(super) fn at(&self, label: &str, generation: u64) -> Option<bool> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let changes = known.get(label)?;
        let before = changes.iter().rev().find(|(from, _)| *from <= generation);
        // Before its first change, the state was the opposite.
        let first = || Some(!changes.first()?.1);
        before.map(|(_, enrolled)| *enrolled).or_else(first)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_label_is_enrolled_from_its_first_item_to_its_last_also_after_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let open = || LabelHistory::open(folder.path(), 50).unwrap();
        let history = open();
        history.note("new", 10, true);
        history.note("gone", 20, false);
        history.note("new", 30, false);
        let check = |history: &LabelHistory| {
            let new = [9, 10, 29, 30].map(|generation| history.at("new", generation));
            assert_eq!(new, [Some(false), Some(true), Some(true), Some(false)]);
            let gone = [19, 20].map(|generation| history.at("gone", generation));
            assert_eq!(gone, [Some(true), Some(false)]);
            assert_eq!(history.at("always", 5), None);
        };
        check(&history);
        drop(history);
        // A crash cut off the last line.
        let path = folder.path().join(FILE);
        let mut cut = fs::read(&path).unwrap();
        cut.extend(b"{\"label\":\"ha");
        fs::write(&path, cut).unwrap();
        check(&open());
        open().note("later", 40, true);
        assert_eq!(open().at("later", 39), Some(false));
        check(&open());
        assert!(!open().has_lost(0) && !folder.path().join("labels.log.damaged-1").exists());
    }

    #[test]
    fn after_damage_nothing_is_known_of_what_was_before_until_it_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let open = |generation| LabelHistory::open(folder.path(), generation).unwrap();
        let history = open(0);
        history.note("new", 10, true);
        history.note("other", 20, true);
        drop(history);
        let path = folder.path().join(FILE);
        let whole = fs::read(&path).unwrap();
        let mut zeroed = whole.clone();
        zeroed[..16].fill(0);
        fs::write(&path, &zeroed).unwrap();
        let damaged = LabelHistory::check(folder.path()).unwrap_err().to_string();
        assert!(damaged.contains("line 1"), "{damaged}");
        let history = open(30);
        assert!(history.has_lost(29) && !history.has_lost(30));
        history.note("new", 40, false);
        drop(history);
        // It stays so, and what was damaged can be looked at.
        let history = open(60);
        assert!(history.has_lost(29) && !history.has_lost(30));
        assert_eq!(history.at("new", 40), Some(false));
        let aside = fs::read(folder.path().join("labels.log.damaged-1")).unwrap();
        assert_eq!(aside, zeroed);
        LabelHistory::check(folder.path()).unwrap();
    }
}
