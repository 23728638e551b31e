//! Canaries: pictures with known truth that are searched for regularly, in the same way as callers' pictures.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use base16ct::lower::encode_string;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::canary_list::{Among, Canary, FOLDER, LIST};
use super::canary_round::CanaryRound;
use super::error::MonitorError;
use super::watch::Monitor;
use crate::clock::now_ms;
use crate::files::{FileError, read_json, read_list, write_json};
use crate::journal::entry::SearchSource;
use crate::telemetry;
use matchpoint_calibration::decision::Decision;
use matchpoint_calibration::monitoring::canaries::{CanaryCounts, CanaryRate, CanaryRates};
use matchpoint_calibration::monitoring::drift::PromisedLimits;

/// The file with the outcomes of the first round under an operating point.
const OUTCOMES: &str = "outcomes.json";
/// The number of operating points whose first outcomes are kept: those that decided first last. Some 100 bytes for each canary.
const POINTS_MAX: usize = 10;

/// The probability of a false alarm if nothing else is monitored.
const ALARM_DELTA: f64 = 0.05;

/// The outcome of a search for a canary: the decision, and the label of the best match. The label is empty if
/// nothing was found. It is also empty if nothing was accepted in a search without the canary's own label,
/// because the nearest other label changes with each enrolment.
type CanaryOutcome = (String, String);

/// Outcomes by [`Canary::key`].
type CanaryOutcomes = BTreeMap<String, CanaryOutcome>;

/// The first outcomes under an operating point.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct CanaryBaseline {
    operating_point: String,
    /// SHA-256 of the list, so that a round that started before the canaries were replaced does not count for
    /// the new ones.
    #[serde(default)]
    list: String,
    outcomes: CanaryOutcomes,
}

/// A search for a canary, which the deployment runs like one of a caller.
#[derive(Clone, Debug)]
pub struct CanarySearch {
    /// The picture's file.
    pub picture: PathBuf,
    /// A label whose items are left out.
    pub without_label: Option<String>,
    /// The source that the journal records.
    pub source: SearchSource,
}

/// The result of a search for a canary.
#[derive(Clone, Debug)]
pub struct CanaryAnswer {
    /// The decision.
    pub decision: Decision,
    /// Label of the best match; `None` if nothing was found.
    pub best: Option<String>,
}

impl Monitor {
    /// The number of canaries.
    ///
    /// # Errors
    /// Returns an error if the list is damaged or the disk fails.
    pub fn canary_count(&self) -> Result<usize, MonitorError> {
        let list = self.observed().folder().join(FOLDER).join(LIST);
        let list = read_json::<Vec<Canary>>(&list)?;
        Ok(list.map_or(0, |list| list.len()))
    }

    /// The latest round of canaries; `None` before the first.
    #[must_use]
    pub fn latest_canaries(&self) -> Option<Arc<CanaryRound>> {
        self.canaries.load_full()
    }

    /// Runs `search` for every canary, one after another, in the same way as for callers but with the lowest
    /// priority. `None` if there are no canaries, or no valid operating point to judge by.
    ///
    /// # Errors
    /// Returns an error if a round is already running, if the list is damaged, or if the disk fails. A canary
    /// that fails is named in the round.
    pub async fn replay_canaries<E, F>(
        &self,
        search: impl Fn(CanarySearch) -> F,
    ) -> Result<Option<CanaryRound>, MonitorError>
    where
        E: Display,
        F: Future<Output = Result<CanaryAnswer, E>>,
    {
        let Some(_alone) = ReplayRight::new(&self.replaying) else {
            return Err(MonitorError::Argument {
                argument: "canaries",
                problem: "are being replayed already; wait for the end of that round".to_owned(),
            });
        };
        let folder = self.observed().folder().join(FOLDER);
        let active = self.observed().active_point();
        let (Some(list), Some(point)) = (read_json::<Vec<Canary>>(&folder.join(LIST))?, active)
        else {
            return Ok(None);
        };
        let mut outcomes = CanaryOutcomes::new();
        let (mut counts, mut failed) = (CanaryCounts::default(), Vec::new());
        for canary in &list {
            match self.replay(canary, &search, &mut counts).await {
                Ok(outcome) => drop(outcomes.insert(canary.key(), outcome)),
                Err(error) => failed.push((canary.name.clone(), error.to_string())),
            }
        }
        let changed = match self.observed().records() {
            Some(records) => changed(&records.join(FOLDER), point.id(), &list, outcomes)?,
            None => Vec::new(),
        };
        let delta = self.alarm_delta();
        let today = self.observed().promise_today();
        let grown = today.is_some_and(|today| today.grown);
        let round = CanaryRound {
            operating_point: point.id().to_owned(),
            unix_ms: now_ms(),
            rates: CanaryRates::new(&counts, PromisedLimits::of(&point, delta).now(grown)),
            counts,
            changed,
            failed,
        };
        self.show_canaries(&round);
        self.canaries.store(Some(Arc::new(round.clone())));
        Ok(Some(round))
    }

    fn alarm_delta(&self) -> f64 {
        self.recorder()
            .map_or(ALARM_DELTA, |recorder| recorder.delta)
    }

    async fn replay<E, F>(
        &self,
        canary: &Canary,
        search: &impl Fn(CanarySearch) -> F,
        counts: &mut CanaryCounts,
    ) -> Result<CanaryOutcome, E>
    where
        F: Future<Output = Result<CanaryAnswer, E>>,
    {
        let expected = canary.label.clone();
        let (mated, without_label) = match canary.among {
            Among::All => (self.observed().gallery().has_label(&expected), None),
            Among::OtherLabels => (false, Some(expected.clone())),
        };
        let source = if mated {
            SearchSource::MatedCanary { expected }
        } else {
            SearchSource::NonMatedCanary { expected }
        };
        let answer = search(CanarySearch {
            picture: self.observed().folder().join(FOLDER).join(&canary.file),
            without_label,
            source,
        })
        .await?;
        let best = answer.best.unwrap_or_default();
        let accepted = answer.decision == Decision::Accept;
        counts.take(&canary.label, mated, accepted, best == canary.label);
        let named = accepted || canary.among == Among::All;
        let best = if named { best } else { String::new() };
        Ok((answer.decision.as_str().to_owned(), best))
    }

    fn show_canaries(&self, round: &CanaryRound) {
        for (name, reason) in &round.failed {
            tracing::warn!(
                deployment = self.observed().name(),
                canary = name,
                reason,
                "a canary failed"
            );
        }
        if !round.changed.is_empty() {
            tracing::warn!(
                deployment = self.observed().name(),
                canaries = round.changed.join(", "),
                "canaries come out otherwise than in the first round under this operating point"
            );
        }
        let gauges = |rate, of: &CanaryRate| telemetry::CanaryGauges {
            rate,
            trials: of.trials,
            errors: of.errors,
            interval: of.interval.map(|found| [found.lower, found.upper]),
            alarm: of.evidence.map(|found| found.alarm_at.is_some()),
        };
        let rates = [
            gauges("far", &round.rates.far),
            gauges("frr", &round.rates.frr),
        ];
        telemetry::canaries_replayed(
            self.observed().name(),
            &round.operating_point,
            rates,
            round.changed.len(),
            round.failed.len(),
        );
    }
}

/// The right to replay, released when this is dropped.
struct ReplayRight<'a>(&'a AtomicBool);

impl<'a> ReplayRight<'a> {
    fn new(taken: &'a AtomicBool) -> Option<Self> {
        (!taken.swap(true, Ordering::AcqRel)).then_some(Self(taken))
    }
}

impl Drop for ReplayRight<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

/// The names of canaries whose outcome differs from that in the first round under the operating point. If there
/// was no round, this one becomes the first.
fn changed(
    folder: &Path,
    operating_point: &str,
    list: &[Canary],
    outcomes: CanaryOutcomes,
) -> Result<Vec<String>, FileError> {
    let path = folder.join(OUTCOMES);
    let listed = digest_of(list)?;
    let damaged = "the first outcomes of canaries are damaged; this round becomes the first";
    let mut all: Vec<CanaryBaseline> = read_list(&path, damaged)?;
    // Those of replaced canaries are of no use any more.
    all.retain(|one| one.list == listed);
    let Some(known) = all
        .iter_mut()
        .find(|one| one.operating_point == operating_point)
    else {
        let surplus = (all.len() + 1).saturating_sub(POINTS_MAX);
        all.drain(..surplus);
        all.push(CanaryBaseline {
            operating_point: operating_point.to_owned(),
            list: listed,
            outcomes,
        });
        // The folder of the list exists, but other folders may not exist yet.
        fs::create_dir_all(folder).map_err(|cause| FileError::io(folder, &cause))?;
        write_json(&path, &all)?;
        return Ok(Vec::new());
    };
    let differs = |canary: &&Canary| {
        let key = canary.key();
        let (before, now) = (known.outcomes.get(&key), outcomes.get(&key));
        before.zip(now).is_some_and(|(before, now)| before != now)
    };
    let changed = list.iter().filter(differs);
    let changed = changed.map(|canary| canary.name.clone()).collect();
    // For canaries that failed before, this outcome becomes the first.
    let before = known.outcomes.len();
    for (key, outcome) in outcomes {
        known.outcomes.entry(key).or_insert(outcome);
    }
    if before < known.outcomes.len() {
        write_json(&path, &all)?;
    }
    Ok(changed)
}

fn digest_of(list: &[Canary]) -> Result<String, FileError> {
    let json = serde_json::to_vec(list).map_err(|cause| FileError::Content {
        reason: cause.to_string(),
    })?;
    Ok(encode_string(&Sha256::digest(&json)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn canary(name: &str, among: Among) -> Canary {
        Canary {
            file: "picture".to_owned(),
            name: name.to_owned(),
            label: "ash".to_owned(),
            among,
        }
    }

    fn outcomes(of: &[(&Canary, Decision)]) -> CanaryOutcomes {
        let outcome = |decision: Decision| (decision.as_str().to_owned(), "ash".to_owned());
        let of = of.iter();
        of.map(|(canary, decision)| (canary.key(), outcome(*decision)))
            .collect()
    }

    #[test]
    fn a_round_over_replaced_canaries_is_not_what_the_new_ones_are_held_against() {
        let folder = tempfile::tempdir().unwrap();
        let (before, after) = (
            [canary("before", Among::All)],
            [canary("after", Among::All)],
        );
        let round = |list: &[Canary; 1], decision| {
            changed(
                folder.path(),
                "op-1",
                list,
                outcomes(&[(&list[0], decision)]),
            )
            .unwrap()
        };
        // The round started with the first list and ended with the second, which contains the same picture
        // again.
        assert!(round(&before, Decision::Reject).is_empty());
        assert!(round(&after, Decision::Accept).is_empty());
        assert!(round(&after, Decision::Accept).is_empty());
        assert_eq!(round(&after, Decision::Reject), ["after"]);
    }

    #[test]
    fn a_canary_that_failed_at_first_is_held_against_its_first_outcome() {
        let folder = tempfile::tempdir().unwrap();
        let list = [
            canary("whole", Among::All),
            canary("part", Among::OtherLabels),
        ];
        let [whole, part] = &list;
        let round = |of: &[(&Canary, Decision)]| {
            changed(folder.path(), "op-1", &list, outcomes(of)).unwrap()
        };
        let [accepted, rejected] = [Decision::Accept, Decision::Reject];
        assert!(round(&[(whole, accepted)]).is_empty());
        let completes = [(whole, rejected), (part, rejected)];
        assert_eq!(round(&completes), ["whole"]);
        // Outcomes of the other canaries in later rounds are not used as references.
        let both = [(whole, rejected), (part, accepted)];
        assert_eq!(round(&both), ["whole", "part"]);
        assert_eq!(round(&both), ["whole", "part"]);
    }

    #[test]
    fn another_operating_point_begins_with_outcomes_of_its_own() {
        let folder = tempfile::tempdir().unwrap();
        let list = [canary("one", Among::All)];
        let round = |point: &str, decision| {
            changed(
                folder.path(),
                point,
                &list,
                outcomes(&[(&list[0], decision)]),
            )
            .unwrap()
        };
        assert!(round("op-1", Decision::Accept).is_empty());
        assert!(round("op-2", Decision::Reject).is_empty());
        assert_eq!(round("op-2", Decision::Accept), ["one"]);
        // Those of the first are not forgotten meanwhile.
        assert_eq!(round("op-1", Decision::Reject), ["one"]);
        for number in 3..POINTS_MAX + 3 {
            assert!(round(&format!("op-{number}"), Decision::Accept).is_empty());
        }
        let kept: Vec<CanaryBaseline> = read_list(&folder.path().join(OUTCOMES), "").unwrap();
        assert_eq!(kept.len(), POINTS_MAX);
    }
}
