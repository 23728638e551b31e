//! Stores when alarms were raised. An alarm lasts as long as its operating point is active, even after the
//! decisions behind it were removed.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::files::{FileError, read_list, write_json};

/// The file in the deployment's folder.
const FILE: &str = "alarms.json";
/// The number of operating points whose alarms are stored; the latest ones are kept.
const POINTS_MAX: usize = 100;

/// An alarm of one rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Alarm {
    raised_unix_ms: u64,
    /// When the alarm was raised, the earliest sampled decision still stored was made at this time.
    earliest_unix_ms: u64,
}

impl Alarm {
    /// Whether the alarm can no longer be withdrawn, because decisions behind it may have been removed. As long
    /// as all of them are stored, corrected annotations can withdraw it.
    fn stands(&self, earliest_ms: Option<u64>) -> bool {
        earliest_ms.is_none_or(|earliest| self.earliest_unix_ms < earliest)
    }
}

/// The alarms of an operating point under one sampling design.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Alarms {
    operating_point: String,
    design_since_unix_ms: u64,
    far: Option<Alarm>,
    frr: Option<Alarm>,
}

impl Alarms {
    /// The stored alarms of an operating point.
    ///
    /// # Errors
    /// They cannot be read.
    pub(super) fn of(folder: &Path, point: &str, design_since_ms: u64) -> Result<Self, FileError> {
        let is_it = |alarms: &Self| {
            alarms.operating_point == point && alarms.design_since_unix_ms == design_since_ms
        };
        Ok(read(folder)?.into_iter().find(is_it).unwrap_or(Self {
            operating_point: point.to_owned(),
            design_since_unix_ms: design_since_ms,
            ..Self::default()
        }))
    }

    /// Whether FAR and FRR have an alarm that lasts, if the earliest stored sampled decision was made at
    /// `earliest_ms`.
    pub(super) fn raised(&self, earliest_ms: Option<u64>) -> [bool; 2] {
        [self.far, self.frr].map(|alarm| alarm.is_some_and(|alarm| alarm.stands(earliest_ms)))
    }

    /// The alarms after an evaluation that found the alarms in `raised`.
    pub(super) fn seen(&self, raised: [bool; 2], earliest_ms: Option<u64>, now_ms: u64) -> Self {
        let new = Alarm {
            raised_unix_ms: now_ms,
            earliest_unix_ms: earliest_ms.unwrap_or(now_ms),
        };
        let [far, frr] = raised;
        let one = |raised: bool, known: Option<Alarm>| raised.then(|| known.unwrap_or(new));
        Self {
            far: one(far, self.far),
            frr: one(frr, self.frr),
            ..self.clone()
        }
    }

    /// Stores them with those of other operating points.
    ///
    /// # Errors
    /// Returns an error if the disk fails.
    pub(super) fn keep(&self, folder: &Path) -> Result<(), FileError> {
        let mut all = read(folder)?;
        all.retain(|known| known.operating_point != self.operating_point);
        let surplus = (all.len() + 1).saturating_sub(POINTS_MAX);
        all.drain(..surplus);
        all.push(self.clone());
        write_json(&folder.join(FILE), &all)
    }
}

fn read(folder: &Path) -> Result<Vec<Alarms>, FileError> {
    let damaged = "what is kept of earlier alarms is damaged; they are found again where their decisions are kept";
    read_list(&folder.join(FILE), damaged)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alarm_outlives_its_decisions_and_is_taken_back_by_labels_alone() {
        let folder = tempfile::tempdir().unwrap();
        let of = |point| Alarms::of(folder.path(), point, 7).unwrap();
        let keep = |alarms: &Alarms| alarms.keep(folder.path()).unwrap();
        keep(&of("op").seen([true, false], Some(1000), 5000));
        keep(&of("other").seen([false, true], Some(2000), 6000));
        // All decisions are stored, so their evaluation decides.
        assert_eq!(of("op").raised(Some(1000)), [false, false]);
        // The earliest decision, or all of them, are gone.
        assert_eq!(of("op").raised(Some(1001)), [true, false]);
        assert_eq!(of("op").raised(None), [true, false]);
        assert_eq!(of("other").raised(None), [false, true]);
        // An alarm keeps the time at which it was first raised.
        let again = of("op").seen([true, false], Some(3000), 9000);
        assert_eq!(again, of("op"));
        // The annotations were corrected.
        keep(&of("op").seen([false, false], Some(1000), 9000));
        assert_eq!(of("op").raised(None), [false, false]);
        // Another design starts without alarms.
        let designed = Alarms::of(folder.path(), "other", 8).unwrap();
        assert_eq!(designed.raised(None), [false, false]);
        std::fs::write(folder.path().join(FILE), "[{").unwrap();
        assert_eq!(of("other").raised(None), [false, false]);
    }

    #[test]
    fn alarms_that_cannot_be_read_are_neither_forgotten_nor_written_over() {
        let folder = tempfile::tempdir().unwrap();
        let raised = |point| {
            let none = Alarms::of(folder.path(), point, 7).unwrap();
            none.seen([true, false], Some(1000), 5000)
        };
        let (first, second) = (raised("op"), raised("other"));
        first.keep(folder.path()).unwrap();
        let (file, away) = (folder.path().join(FILE), folder.path().join("away"));
        std::fs::rename(&file, &away).unwrap();
        std::fs::create_dir(&file).unwrap();
        assert!(Alarms::of(folder.path(), "op", 7).is_err());
        assert!(second.keep(folder.path()).is_err());
        std::fs::remove_dir(&file).unwrap();
        std::fs::rename(&away, &file).unwrap();
        assert_eq!(Alarms::of(folder.path(), "op", 7).unwrap(), first);
    }
}
