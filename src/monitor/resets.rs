//! Stores when the evidence against an operating point was reset, after a cause other than the operating point
//! was removed.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::sampling_design::AHEAD_MS_MAX;
use crate::files::{FileError, read_list, write_json};

/// The file in the deployment's folder.
const FILE: &str = "resets.json";
/// The highest number of resets of an operating point. After that many, an alarm would have a millionth of
/// `alarm_delta`, and would take too long.
pub(super) const RESETS_MAX: usize = 20;
/// The number of stored resets of all operating points; the latest ones.
const KEPT_MAX: usize = 1_000;
/// The lowest delta that evidence can use.
const DELTA_MIN: f64 = 1e-9;

/// A reset of the evidence against an operating point.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DriftReset {
    /// The operating point.
    pub(super) operating_point: String,
    /// Decisions count from this time on, in milliseconds since 1970-01-01 UTC.
    pub unix_ms: u64,
    /// The reason: what was removed or repaired.
    pub why: String,
    /// The name of the person who requested it.
    #[serde(rename = "said_by")]
    pub annotator: String,
}

/// The resets of one operating point under one sampling design, the earliest first.
pub(super) struct Resets {
    design_since_ms: u64,
    all: Vec<DriftReset>,
}

impl Resets {
    /// The resets since the design started; a new design itself resets everything.
    ///
    /// # Errors
    /// They cannot be read.
    pub(super) fn of(folder: &Path, point: &str, design_since_ms: u64) -> Result<Self, FileError> {
        let mut all = read(folder)?;
        all.retain(|reset| reset.operating_point == point && design_since_ms <= reset.unix_ms);
        Ok(Self {
            design_since_ms,
            all,
        })
    }

    pub(super) fn into_all(self) -> Vec<DriftReset> {
        self.all
    }

    /// Whether there was a reset.
    pub(super) fn any(&self) -> bool {
        !self.all.is_empty()
    }

    /// The time from which decisions count, in milliseconds since 1970-01-01 UTC.
    pub(super) fn since_ms(&self) -> u64 {
        let latest = self.all.last();
        latest.map_or(self.design_since_ms, |reset| reset.unix_ms)
    }

    /// The highest probability that an alarm is ever false from now on, if it is `delta` without resets.
    ///
    /// Each reset is another chance of a false alarm. After k resets the evidence gets delta / 2^k. So an
    /// operating point that is never reset has all of delta, and one with resets has less than 2 delta in
    /// total.
    pub(super) fn left_of(&self, delta: f64) -> f64 {
        let halved = self.all.iter().fold(delta, |delta, _| delta / 2.0);
        halved.max(DELTA_MIN)
    }
}

fn read(folder: &Path) -> Result<Vec<DriftReset>, FileError> {
    let damaged = "when evidence was reset is damaged; it counts from when the operating point began to decide";
    read_list(&folder.join(FILE), damaged)
}

/// Moves resets that lie far ahead of the clock to the present time: they were made by a clock that was wrong, and
/// until then no decision would count.
pub(super) fn none_ahead(folder: &Path, now_ms: u64) -> Result<(), FileError> {
    let mut all = read(folder)?;
    let is_ahead = |reset: &&mut DriftReset| now_ms.saturating_add(AHEAD_MS_MAX) < reset.unix_ms;
    let mut any = false;
    for reset in all.iter_mut().filter(is_ahead) {
        any = true;
        tracing::warn!(
            operating_point = reset.operating_point,
            why = reset.why,
            "evidence was reset at a time that has not come yet, so a clock was wrong: rates, evidence and alarms count from now on"
        );
        reset.unix_ms = now_ms;
    }
    if any {
        write_json(&folder.join(FILE), &all)?;
    }
    Ok(())
}

/// Stores a reset; with `instead`, in place of the last one of its operating point.
pub(super) fn keep(folder: &Path, reset: &DriftReset, instead: bool) -> Result<(), FileError> {
    let mut all = read(folder)?;
    let of_point = |known: &DriftReset| known.operating_point == reset.operating_point;
    if instead && let Some(place) = all.iter().rposition(of_point) {
        all.remove(place);
    }
    all.push(reset.clone());
    let surplus = all.len().saturating_sub(KEPT_MAX);
    all.drain(..surplus);
    write_json(&folder.join(FILE), &all)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reset(point: &str, unix_ms: u64) -> DriftReset {
        DriftReset {
            operating_point: point.to_owned(),
            unix_ms,
            why: "the camera was cleaned".to_owned(),
            annotator: "anna".to_owned(),
        }
    }

    #[test]
    fn each_reset_halves_what_evidence_has_so_that_all_have_less_than_twice_of_it() {
        let folder = tempfile::tempdir().unwrap();
        let of = |point, design| {
            let resets = Resets::of(folder.path(), point, design).unwrap();
            (resets.since_ms(), resets.left_of(0.05))
        };
        assert_eq!(of("op", 7), (7, 0.05));
        keep(folder.path(), &reset("op", 100), false).unwrap();
        keep(folder.path(), &reset("other", 150), false).unwrap();
        keep(folder.path(), &reset("op", 200), false).unwrap();
        assert_eq!(of("op", 7), (200, 0.0125));
        assert_eq!(of("other", 7), (150, 0.025));
        // A new design has started since then.
        assert_eq!(of("op", 300), (300, 0.05));
        let mut sum = 0.05;
        for number in 0..RESETS_MAX as u64 {
            keep(folder.path(), &reset("many", 400 + number), false).unwrap();
            sum += of("many", 7).1;
        }
        assert!(sum < 0.1, "{sum}");
    }

    #[test]
    fn a_reset_can_take_the_place_of_the_latest_of_its_operating_point() {
        let folder = tempfile::tempdir().unwrap();
        keep(folder.path(), &reset("op", 100), false).unwrap();
        keep(folder.path(), &reset("op", 200), false).unwrap();
        keep(folder.path(), &reset("other", 250), false).unwrap();
        keep(folder.path(), &reset("op", 300), true).unwrap();
        let times = |point| {
            let resets = Resets::of(folder.path(), point, 0).unwrap().into_all();
            resets.iter().map(|reset| reset.unix_ms).collect::<Vec<_>>()
        };
        assert_eq!(times("op"), [100, 300]);
        assert_eq!(times("other"), [250]);
        std::fs::write(folder.path().join(FILE), "[{").unwrap();
        assert_eq!(times("op"), [0; 0]);
    }

    #[test]
    fn a_reset_by_a_clock_that_was_ahead_counts_from_when_that_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let (now, day) = (1_000_000_000_000, 24 * 60 * 60 * 1000);
        let since = |point| Resets::of(folder.path(), point, 0).unwrap().since_ms();
        keep(folder.path(), &reset("op", now + 30 * day), false).unwrap();
        keep(folder.path(), &reset("other", now + 60_000), false).unwrap();
        none_ahead(folder.path(), now).unwrap();
        let left = Resets::of(folder.path(), "op", 0).unwrap().left_of(0.05);
        assert_eq!((since("op"), left), (now, 0.025));
        assert_eq!(since("other"), now + 60_000);
    }
}
