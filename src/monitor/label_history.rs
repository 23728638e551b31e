//! Records since when labels are enrolled, because what a query showed is judged by the gallery that was
//! searched, and not by today's.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use super::change_log::{ChangeLog, check_log};
use crate::files::FileError;
use matchpoint_gallery::view::GalleryView;

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

/// The labels of one state of the gallery.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct EnrolledLabels {
    pub(super) generation: u64,
    pub(super) labels: BTreeSet<String>,
}

impl EnrolledLabels {
    pub(super) fn of(view: &GalleryView) -> Self {
        Self {
            generation: view.generation(),
            labels: view.labels(),
        }
    }
}

/// A line of the file.
#[derive(Debug, Serialize, Deserialize)]
#[serde(untagged)]
enum LabelLine {
    Change(LabelChange),
    /// The labels when the deployment was last opened; what they differ in at the next opening was changed by
    /// others, such as `build`.
    Opened(EnrolledLabels),
}

/// Which labels were added and removed since the deployment was first served: while it was, and between two
/// openings.
#[derive(Debug)]
pub(super) struct LabelHistory {
    known: Mutex<HashMap<String, Vec<(u64, bool)>>>,
    log: ChangeLog,
}

impl LabelHistory {
    /// Opens it in this state of the gallery, and takes down which labels others have added and removed.
    pub(super) fn open(folder: &Path, now: EnrolledLabels) -> Result<Self, FileError> {
        let (log, lines) = ChangeLog::open::<LabelLine>(&folder.join(FILE), now.generation)?;
        let (mut changes, mut before) = (Vec::new(), None);
        for line in lines {
            match line {
                LabelLine::Change(change) => changes.push(change),
                LabelLine::Opened(opened) => before = Some(opened),
            }
        }
        let missed = before.as_ref().map(|before| missed(before, &changes, &now));
        let missed = missed.unwrap_or_default();
        let same = before.is_some_and(|before| before.labels == now.labels);
        let surplus = (changes.len() + missed.len()).saturating_sub(CHANGES_MAX);
        if !same || !missed.is_empty() || 0 < surplus {
            changes.extend(missed);
            changes.drain(..surplus);
            let lines = std::iter::once(LabelLine::Opened(now));
            let lines = lines.chain(changes.iter().cloned().map(LabelLine::Change));
            if let Err(error) = log.replace(&lines.collect::<Vec<_>>()) {
                // The next opening finds the same differences. A full disk keeps nobody from searching.
                tracing::error!(%error, "which labels there are now could not be taken down");
            }
        }
        let mut known: HashMap<String, Vec<(u64, bool)>> = HashMap::new();
        for change in changes {
            let of_label = known.entry(change.label).or_default();
            of_label.push((change.generation, change.enrolled));
        }
        known
            .values_mut()
            .for_each(|changes| changes.sort_unstable());
        Ok(Self {
            known: Mutex::new(known),
            log,
        })
    }

    /// Checks the file without changing it.
    pub(super) fn check(folder: &Path) -> Result<(), FileError> {
        check_log::<LabelLine>(&folder.join(FILE))
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
        self.log.add(&LabelLine::Change(change), lost);
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

/// The changes between two openings that nobody has noted, as if they had come with the latter.
fn missed(
    before: &EnrolledLabels,
    noted: &[LabelChange],
    now: &EnrolledLabels,
) -> Vec<LabelChange> {
    // Another gallery in its place counts on from another number.
    if now.generation < before.generation {
        return Vec::new();
    }
    let mut since: Vec<&LabelChange> = noted.iter().collect();
    since.retain(|change| before.generation < change.generation);
    since.sort_by_key(|change| change.generation);
    let mut expected: BTreeSet<&str> = before.labels.iter().map(String::as_str).collect();
    for change in since {
        if change.enrolled {
            expected.insert(&change.label);
        } else {
            expected.remove(change.label.as_str());
        }
    }
    let labels: BTreeSet<&str> = now.labels.iter().map(String::as_str).collect();
    let differ = expected.symmetric_difference(&labels);
    let change = |label: &&str| LabelChange {
        label: (*label).to_owned(),
        generation: now.generation,
        enrolled: labels.contains(*label),
    };
    differ.map(change).collect()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn at<const N: usize>(generation: u64, labels: [&str; N]) -> EnrolledLabels {
        EnrolledLabels {
            generation,
            labels: labels.map(str::to_owned).into(),
        }
    }

    #[test]
    fn a_label_is_enrolled_from_its_first_item_to_its_last_also_after_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let first = at(0, ["always", "gone"]);
        let history = LabelHistory::open(folder.path(), first).unwrap();
        let open = || LabelHistory::open(folder.path(), at(50, ["always"])).unwrap();
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
        open().note("later", 60, true);
        let open = || LabelHistory::open(folder.path(), at(60, ["always", "later"])).unwrap();
        assert_eq!(open().at("later", 59), Some(false));
        check(&open());
        assert!(!open().has_lost(0) && !folder.path().join("labels.log.damaged-1").exists());
    }

    #[test]
    fn after_damage_nothing_is_known_of_what_was_before_until_it_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let open = |generation, labels: [&str; 2]| {
            LabelHistory::open(folder.path(), at(generation, labels)).unwrap()
        };
        let history = LabelHistory::open(folder.path(), at(0, [])).unwrap();
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
        let history = open(30, ["new", "other"]);
        assert!(history.has_lost(29) && !history.has_lost(30));
        history.note("new", 40, false);
        drop(history);
        // It stays so, and what was damaged can be looked at.
        let history = open(60, ["other", "third"]);
        assert!(history.has_lost(29) && !history.has_lost(30));
        assert_eq!(history.at("new", 40), Some(false));
        let aside = fs::read(folder.path().join("labels.log.damaged-1")).unwrap();
        assert_eq!(aside, zeroed);
        LabelHistory::check(folder.path()).unwrap();
    }

    #[test]
    fn what_others_have_enrolled_and_removed_between_two_openings_is_taken_down() {
        let folder = tempfile::tempdir().unwrap();
        let open = |now: EnrolledLabels| LabelHistory::open(folder.path(), now).unwrap();
        // What was before the first opening counts as if it had always been so.
        let history = open(at(7, ["a", "b"]));
        assert_eq!(history.at("a", 1), None);
        history.note("c", 8, true);
        drop(history);
        for _ in 0..2 {
            let history = open(at(20, ["a", "c", "person"]));
            let person = [8, 19, 20].map(|generation| history.at("person", generation));
            assert_eq!(person, [Some(false), Some(false), Some(true)]);
            assert_eq!(history.at("b", 8), Some(true));
            assert_eq!(history.at("b", 20), Some(false));
            assert_eq!(
                (history.at("a", 8), history.at("c", 7)),
                (None, Some(false))
            );
        }
        let history = open(at(30, ["a", "b", "c", "person"]));
        let b = [8, 20, 30].map(|generation| history.at("b", generation));
        assert_eq!(b, [Some(true), Some(false), Some(true)]);
    }
}
