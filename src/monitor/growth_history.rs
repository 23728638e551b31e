//! Records in which states of the gallery answers promised the FAR of a larger one, because the gallery had
//! grown. A decision is held against what its own answer promised, and not against what answers promise today.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use super::change_log::{ChangeLog, check_log};
use crate::files::FileError;

/// The file in the deployment's folder, with a line of JSON for each change.
const FILE: &str = "growth.log";
/// The number of changes that are kept when it is opened; the latest ones.
const CHANGES_MAX: usize = 100_000;

/// What answers of an operating point promise from a generation of the gallery on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct PromiseChange {
    operating_point: String,
    generation: u64,
    grown: bool,
}

/// The changes of one operating point by generation, and the latest generation that was noted.
#[derive(Debug, Default)]
struct PromiseChanges {
    from: BTreeMap<u64, bool>,
    latest: u64,
}

impl PromiseChanges {
    fn at(&self, generation: u64) -> Option<bool> {
        let before = self.from.range(..=generation).next_back();
        before.map(|(_, grown)| *grown)
    }

    /// Takes down the state of a generation. Returns the changes that this makes, in the order in which they are
    /// to be taken down again.
    fn note(&mut self, generation: u64, grown: bool) -> Vec<(u64, bool)> {
        let before = self.at(generation);
        let mut changes = Vec::new();
        if before != Some(grown) {
            changes.push((generation, grown));
            // A search of an earlier state may end later. What was noted of later states stays.
            let next = generation.saturating_add(1);
            if let Some(before) = before.filter(|_| generation < self.latest)
                && !self.from.contains_key(&next)
            {
                changes.push((next, before));
            }
        }
        self.from.extend(changes.iter().copied());
        self.latest = self.latest.max(generation);
        changes
    }
}

/// In which states of the gallery answers promised the FAR of a larger one.
#[derive(Debug)]
pub(super) struct GrowthHistory {
    known: Mutex<HashMap<String, PromiseChanges>>,
    log: ChangeLog,
}

impl GrowthHistory {
    /// Opens it in this state of the gallery.
    pub(super) fn open(folder: &Path, generation: u64) -> Result<Self, FileError> {
        let (log, mut changes) = ChangeLog::open::<PromiseChange>(&folder.join(FILE), generation)?;
        let surplus = changes.len().saturating_sub(CHANGES_MAX);
        if 0 < surplus {
            changes.drain(..surplus);
            log.replace(&changes)?;
        }
        let mut known: HashMap<String, PromiseChanges> = HashMap::new();
        for change in changes {
            let of_point = known.entry(change.operating_point).or_default();
            of_point.from.insert(change.generation, change.grown);
            of_point.latest = of_point.latest.max(change.generation);
        }
        Ok(Self {
            known: Mutex::new(known),
            log,
        })
    }

    /// Checks the file without changing it.
    pub(super) fn check(folder: &Path) -> Result<(), FileError> {
        check_log::<PromiseChange>(&folder.join(FILE))
    }

    /// Whether damage took what was noted of a state of the gallery.
    pub(super) fn has_lost(&self, generation: u64) -> bool {
        self.log.has_lost(generation)
    }

    /// Takes down whether an answer promised the FAR of a larger gallery. Only a change is written. It survives a
    /// crash of the process, and a failure here never makes the search fail.
    pub(super) fn note(&self, operating_point: &str, generation: u64, grown: bool) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if !known.contains_key(operating_point) {
            known.insert(operating_point.to_owned(), PromiseChanges::default());
        }
        let of_point = known.get_mut(operating_point);
        let changes = of_point.map(|changes| changes.note(generation, grown));
        drop(known);
        for (generation, grown) in changes.unwrap_or_default() {
            let change = PromiseChange {
                operating_point: operating_point.to_owned(),
                generation,
                grown,
            };
            let lost =
                "it could not be taken down since when answers promise the FAR of a larger gallery";
            self.log.add(&change, lost);
        }
    }

    /// Whether answers in a state of the gallery promised the FAR of a larger one. If that is not known, they count
    /// as if they had, so that nothing is held against a promise that was not made.
    pub(super) fn at(&self, operating_point: &str, generation: u64) -> bool {
        if self.has_lost(generation) {
            return true;
        }
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let of_point = known.get(operating_point);
        let found = of_point.and_then(|changes| changes.at(generation));
        found.unwrap_or(true)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_promise_is_known_for_each_state_of_the_gallery_also_after_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let open = || GrowthHistory::open(folder.path(), 200).unwrap();
        let history = open();
        for (generation, grown) in [(5, false), (6, false), (9, true), (12, true), (20, false)] {
            history.note("op-1", generation, grown);
        }
        history.note("op-2", 7, true);
        // The search of an earlier state ended late.
        history.note("op-1", 10, false);
        let check = |history: &GrowthHistory| {
            let found = [4, 5, 8, 9, 10, 11, 12, 19, 20, 99].map(|at| history.at("op-1", at));
            assert_eq!(
                found,
                [
                    true, false, false, true, false, true, true, true, false, false
                ]
            );
            assert!(history.at("op-2", 8) && history.at("unknown", 1));
        };
        check(&history);
        drop(history);
        // A crash cut off the last line.
        let path = folder.path().join(FILE);
        let mut cut = fs::read(&path).unwrap();
        assert_eq!(cut.iter().filter(|byte| **byte == b'\n').count(), 6);
        cut.extend(b"{\"operating_po");
        fs::write(&path, cut).unwrap();
        check(&open());
        open().note("op-1", 100, true);
        assert!(open().at("op-1", 100));
        check(&open());
        // Once a line is damaged, none that is left says what was promised before.
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, text.replacen("op-1", "op\0", 1)).unwrap();
        assert!(GrowthHistory::check(folder.path()).is_err());
        for _ in 0..2 {
            let history = open();
            assert!(history.has_lost(199) && !history.has_lost(200));
            assert!(history.at("op-1", 5) && history.at("op-1", 99));
            assert!(folder.path().join("growth.log.damaged-1").exists());
            assert!(GrowthHistory::check(folder.path()).is_ok());
        }
    }
}
