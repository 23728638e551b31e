//! Adjusts the sampling for annotation to a budget, by the traffic of the last day.

use std::ops::ControlFlow;
use std::time::Duration;

use super::error::MonitorError;
use crate::journal::read::{DecisionSelection, JournalReader};
use matchpoint_calibration::monitoring::strata::Strata;

const DAY_MS: u64 = 86_400_000;
/// The traffic is counted again after a tenth of the time that it was observed for, within these limits.
const AGAIN_MIN: Duration = Duration::from_secs(60);
const AGAIN_MAX: Duration = Duration::from_secs(3600);

/// The strata with probabilities for which `labels` decisions of operating point `point` are expected to be
/// sampled per day, and the time until the next count.
///
/// The sampling depends only on earlier decisions, so rates and evidence stay valid.
pub(super) fn fitted(
    reader: &JournalReader,
    strata: &Strata,
    point: &str,
    labels: u32,
    now_ms: u64,
) -> Result<(Strata, Duration), MonitorError> {
    let day = DecisionSelection {
        operating_point: Some(point.to_owned()),
        unix_ms: now_ms.saturating_sub(DAY_MS)..now_ms.saturating_add(1),
    };
    let mut decisions = vec![0.0; strata.count()];
    for found in reader.strata(&day)? {
        let slot = found
            .stratum
            .and_then(|s| decisions.get_mut(usize::from(s)));
        if let Some(slot) = slot {
            *slot = f64::from(u32::try_from(found.decisions).unwrap_or(u32::MAX));
        }
    }
    let seen_ms = seen_for(reader, &day)?;
    let days = Duration::from_millis(seen_ms).as_secs_f64() / 86_400.0;
    for count in &mut decisions {
        *count /= days;
    }
    let again = Duration::from_millis(seen_ms / 10).clamp(AGAIN_MIN, AGAIN_MAX);
    Ok((strata.for_budget(&decisions, f64::from(labels))?, again))
}

/// For how many milliseconds of the last day the operating point has been active, as far as the journal goes
/// back; at least a minute.
fn seen_for(reader: &JournalReader, day: &DecisionSelection) -> Result<u64, MonitorError> {
    let first = |unix_ms| {
        let selection = DecisionSelection {
            unix_ms,
            ..day.clone()
        };
        let mut first = None;
        let found = reader.decisions(&selection, |row| {
            first = Some(row.entry.id.unix_ms());
            ControlFlow::Break(())
        });
        found.map(|()| first)
    };
    let (from, now) = (day.unix_ms.start, day.unix_ms.end);
    if first(0..from)?.is_some() {
        return Ok(now - from);
    }
    let begun = first(from..now)?.unwrap_or(now);
    Ok(now.saturating_sub(begun).max(60_000))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::entry::{DecisionEntry, DecisionId, Sampling, SearchSource};
    use crate::journal::{Journal, JournalOptions, Retention};
    use matchpoint_calibration::decision::Decision;

    const NOW_MS: u64 = 1_800_000_000_000;

    fn entry(number: u64, unix_ms: u64) -> DecisionEntry {
        let mut rest = [0; 10];
        rest[2..].copy_from_slice(&number.to_be_bytes());
        let stratum = u16::try_from(number % 6).unwrap();
        DecisionEntry {
            id: DecisionId::at(unix_ms, rest),
            operating_point: Some("op".to_owned()),
            generation: 1,
            gallery_items: 1,
            state: None,
            decision: if stratum < 3 {
                Decision::Reject
            } else {
                Decision::Accept
            },
            best: None,
            filtered: false,
            sampling: Sampling::new(stratum, 0.5, false),
            source: SearchSource::Live,
        }
    }

    #[test]
    fn the_budget_of_a_day_is_drawn_at_the_pace_of_the_traffic_that_was_seen() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("decisions.db");
        let options = JournalOptions {
            retention: Retention {
                ms: 30 * DAY_MS,
                audited_ms: 30 * DAY_MS,
                bytes: 1 << 30,
            },
            clock: || NOW_MS,
        };
        let journal = Journal::open(&path, options, |_| {}).unwrap();
        let strata = Strata::usual();
        let of_day = |labels| {
            journal.flush().unwrap();
            let reader = journal.reader().unwrap();
            fitted(&reader, &strata, "op", labels, NOW_MS).unwrap()
        };
        // There are no decisions yet, so the design stays as it is, and traffic is counted again soon.
        assert_eq!(of_day(60), (strata.clone(), AGAIN_MIN));
        // One decision per second for half an hour is 86,400 per day, with a sixth in each stratum.
        let begun = NOW_MS - 1_800_000;
        for number in 0..1800 {
            journal.record(entry(number, begun + 1000 * number), None);
        }
        let (fitted, again) = of_day(60);
        let expected: f64 = (0..6)
            .map(|i| 14_400.0 * fitted.inclusion(i).unwrap().get())
            .sum();
        assert!((expected - 60.0).abs() < 0.1, "{expected}");
        assert_eq!(again, Duration::from_secs(180));
        // The operating point had been active for longer, so these are all decisions of a day.
        journal.record(entry(9999, NOW_MS - 2 * DAY_MS), None);
        let (fitted, again) = of_day(60);
        let expected: f64 = (0..6)
            .map(|i| 300.0 * fitted.inclusion(i).unwrap().get())
            .sum();
        assert!((expected - 60.0).abs() < 0.1, "{expected}");
        assert_eq!(again, AGAIN_MAX);
    }
}
