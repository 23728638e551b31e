//! Compares the share of searches that go to a person with what the calibration of a review band predicted.
//!
//! The calibration measured which share of mated searches falls into the band, and which share of searches
//! for strangers. The share of all searches must lie between these two, whatever part of traffic is mated. If
//! it does not, then searches or gallery have changed, or more work goes to people than was predicted. This
//! needs no labels.

use serde::{Deserialize, Serialize};

use super::sequential::{LIMIT_MAX, unbegun};
use super::share_bet::{ShareBet, Wealth, begins, e_value};
use crate::binomial::real;
use crate::rates::{Confidence, Interval, Rate, percent};
use crate::review::ReviewBand;

/// The prediction of the calibration for the share of searches that go to a person.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PredictedReviews {
    /// The share of mated searches in the band and that of searches for strangers, each with its interval.
    pub shares: [(f64, Interval); 2],
    /// The lowest and the highest share that are consistent with the calibration, whatever part of traffic is
    /// mated: the outer ends of the two 95 % intervals.
    pub ends: [f64; 2],
    /// The limits that evidence is gathered against. They are farther apart than `ends`, because half of
    /// `alarm_delta` covers their uncertainty; the other half is for the e-processes.
    against: [f64; 2],
    delta: f64,
}

/// Counts of live searches without a filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReviewCounts {
    /// Number of all such searches.
    pub searches: u64,
    /// Number of such searches that went to a person.
    pub reviewed: u64,
    /// The searches are counted from this time on, in milliseconds since 1970-01-01 UTC: since the design of
    /// the audit changed or since a reset. If counting began later than that, then as far back as the journal
    /// had all decisions at that time.
    pub since_unix_ms: u64,
}

/// The share of searches that go to a person, compared with the prediction.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ReviewsInService {
    /// The counts of searches.
    pub counts: ReviewCounts,
    /// The share with its 95 % interval; `None` without a search.
    pub share: Option<(f64, Interval)>,
    /// The number of latest searches, some hundreds, and of those of them that went to a person. A change is
    /// visible here first.
    pub lately: [u64; 2],
    /// The prediction.
    pub predicted: PredictedReviews,
    /// Whether evidence now shows that the share is below or above the prediction; `None` if it does not.
    pub strays: Option<PredictionSide>,
}

/// The side on which a share differs from its prediction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PredictionSide {
    /// Fewer searches than predicted.
    Below,
    /// More searches than predicted.
    Above,
}

impl PredictedReviews {
    /// The prediction of a review band; `None` if its calibration did not measure both shares. The
    /// probability of a false alarm is about `delta`, not exactly, because the ends of the intervals are
    /// approximate.
    #[must_use]
    pub fn of(band: &ReviewBand, delta: f64) -> Option<Self> {
        let rates = [band.mated_reviewed?, band.strangers_reviewed?];
        // Half of delta is divided among the four ends of the two intervals: delta / 8 for each, as Wilson's
        // interval is two-sided.
        let wider = Confidence::new(1.0 - delta / 4.0).ok()?;
        let wilson = |rate: Rate| Interval::wilson(rate.estimate, rate.effective_trials, wider);
        let shares = rates.map(|rate| (rate.estimate, rate.interval));
        Some(Self {
            shares,
            ends: ends(shares.map(|(_, interval)| interval)),
            against: ends(rates.map(wilson)),
            delta,
        })
    }
}

/// How much an e-process may have beyond an alarm, for each of its alternatives: once a cause is gone, the warning
/// goes when that is lost again.
const BEYOND_ALARM: f64 = 100.0;

/// What is stored of the evidence from one run of a server to the next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReviewState {
    searches: u64,
    reviewed: u64,
    /// Of the bets on more than was predicted, and on less.
    wealth: [Wealth; 2],
    /// Searches and reviews of the latest blocks of [`BLOCK`]: the one before, and the one that fills.
    blocks: [[u64; 2]; 2],
}

/// The latest searches are one of these blocks to two.
const BLOCK: u64 = 250;

/// Counts which searches go to a person, one by one, beside what was predicted.
#[derive(Clone, Copy, Debug)]
pub struct ReviewWatch {
    predicted: PredictedReviews,
    /// On more, and on less. An end at 0 or 1 cannot be left.
    bets: [Option<ShareBet>; 2],
    /// What it takes for a warning, on either side.
    e_alarm: f64,
    state: ReviewState,
}

impl ReviewWatch {
    /// Begins to count.
    #[must_use]
    pub fn new(predicted: PredictedReviews) -> Self {
        let [lower, upper] = predicted.against;
        // Half of delta, for two sides.
        let e_alarm = 4.0 / predicted.delta;
        let against = |limit: f64| {
            let possible = 0.0 < limit && limit <= LIMIT_MAX;
            possible.then(|| ShareBet::above(limit, BEYOND_ALARM * e_alarm))
        };
        Self {
            predicted,
            bets: [against(upper), against(1.0 - lower)],
            e_alarm,
            state: ReviewState::default(),
        }
    }

    /// Continues from what was stored.
    #[must_use]
    pub fn resumed(mut self, state: ReviewState) -> Self {
        self.state = state;
        self
    }

    /// What has to be stored.
    #[must_use]
    pub fn state(&self) -> ReviewState {
        self.state
    }

    /// Takes the next search, in the order in which they are made.
    pub fn observe(&mut self, reviewed: bool) {
        let begins = begins(self.state.searches);
        self.state.searches += 1;
        self.state.reviewed += u64::from(reviewed);
        let [before, fills] = &mut self.state.blocks;
        if fills[0] == BLOCK {
            *before = std::mem::take(fills);
        }
        fills[0] += 1;
        fills[1] += u64::from(reviewed);
        let sides = self.bets.iter().zip(&mut self.state.wealth);
        for ((bet, wealth), within) in sides.zip([reviewed, !reviewed]) {
            if let Some(bet) = bet {
                bet.observe(wealth, within, begins);
            }
        }
    }

    /// How it stands, for searches from `since_unix_ms` on.
    #[must_use]
    pub fn assessment(&self, since_unix_ms: u64) -> ReviewsInService {
        let ReviewState {
            searches,
            reviewed,
            wealth: [above, below],
            blocks: [before, fills],
        } = self.state;
        let share = (0 < searches).then(|| {
            let share = real(reviewed) / real(searches);
            let interval = Interval::wilson(share, real(searches), Confidence::DISPLAY);
            (share, interval)
        });
        let says = |wealth| self.e_alarm <= e_value(wealth, unbegun(searches));
        let strays = if says(&above) {
            Some(PredictionSide::Above)
        } else if says(&below) {
            Some(PredictionSide::Below)
        } else {
            None
        };
        ReviewsInService {
            counts: ReviewCounts {
                searches,
                reviewed,
                since_unix_ms,
            },
            share,
            lately: [before[0] + fills[0], before[1] + fills[1]],
            predicted: self.predicted,
            strays,
        }
    }
}

fn ends(intervals: [Interval; 2]) -> [f64; 2] {
    let [a, b] = intervals;
    [a.lower.min(b.lower), a.upper.max(b.upper)]
}

impl ReviewsInService {
    /// The comparison as text; `None` without a search.
    #[must_use]
    pub fn says(&self) -> Option<String> {
        let (share, interval) = self.share?;
        let [mated, strangers] = self.predicted.shares.map(|(share, _)| percent(share));
        let [lower, upper] = self.predicted.ends.map(percent);
        let [latest, reviewed] = self.lately;
        let lately = percent(real(reviewed) / real(latest));
        let how = match self.strays {
            None => String::new(),
            Some(PredictionSide::Above) => {
                format!(", {lately} of the latest {latest}: more than was predicted")
            }
            Some(PredictionSide::Below) => {
                format!(", {lately} of the latest {latest}: less than was predicted")
            }
        };
        Some(format!(
            "{} of {} searches went to a person, {} ({} to {}){how}. The calibration predicts {lower} to {upper}, whatever part is mated: {mated} of mated searches, {strangers} of strangers.",
            self.counts.reviewed,
            self.counts.searches,
            percent(share),
            percent(interval.lower),
            percent(interval.upper),
        ))
    }

    /// The advice; empty if there is nothing to do.
    #[must_use]
    pub fn next(&self) -> &'static str {
        match self.strays {
            None => "",
            Some(PredictionSide::Above) => {
                "More work for people than was planned: scores of enrolled things fell below the threshold, or those of strangers rose towards it. Label sampled decisions to see which, and calibrate again on pictures like those of today."
            }
            Some(PredictionSide::Below) => {
                "Scores fell below the band, so that more is rejected that nobody sees, or rose over the threshold, which can be false accepts. Label sampled rejects and accepts to see which, and calibrate again on pictures like those of today."
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::certify_frr::{FrrCertificate, TargetFrr};
    use crate::decision::Threshold;
    use crate::splitmix64::SimulatedDraws;

    /// A band whose calibration measured these numbers of reviewed searches, with one search for each label.
    fn band(labels: u32, mated: u32, strangers: u32) -> ReviewBand {
        let rate = |events: u32| {
            let names: Vec<String> = (0..labels).map(|label| label.to_string()).collect();
            let outcomes: Vec<(&str, bool)> = (0..)
                .zip(&names)
                .map(|(label, name)| (name.as_str(), label < events))
                .collect();
            Rate::over_labels(&outcomes, Confidence::DISPLAY)
        };
        ReviewBand {
            unseen: FrrCertificate {
                threshold: Threshold::new(0.4).unwrap(),
                target: TargetFrr::new(0.2, 0.9).unwrap(),
                independent_trials: u64::from(labels),
                allowed: 9,
                observed: 9,
                lost: 0,
                frr_bound: 0.19,
                lost_bound: None,
            },
            mated_reviewed: rate(mated),
            strangers_reviewed: rate(strangers),
        }
    }

    /// So many searches of which these went to a person, as evenly as can be.
    fn counted(watch: &mut ReviewWatch, searches: u64, reviewed: u64) -> ReviewsInService {
        for number in 0..searches {
            watch.observe((number + 1) * reviewed / searches != number * reviewed / searches);
        }
        watch.assessment(0)
    }

    fn after(band: &ReviewBand, searches: u64, reviewed: u64) -> ReviewsInService {
        let mut watch = ReviewWatch::new(PredictedReviews::of(band, 0.05).unwrap());
        counted(&mut watch, searches, reviewed)
    }

    #[test]
    fn a_share_between_those_of_mates_and_strangers_is_what_was_predicted() {
        let band = band(200, 60, 20);
        let found = after(&band, 10_000, 2_000);
        assert_eq!(found.strays, None);
        let says = found.says().unwrap();
        assert!(
            says.starts_with("2000 of 10000 searches went to a person, 20 % (19.2 % to 20.8 %). The calibration predicts 6.57 % to 36.7 %"),
            "{says}"
        );
        assert_eq!(after(&band, 0, 0).says(), None);
    }

    #[test]
    fn a_share_that_left_the_prediction_is_a_warning_that_says_on_which_side() {
        let band = band(200, 60, 20);
        let above = after(&band, 1_000, 600);
        assert_eq!(above.strays, Some(PredictionSide::Above));
        let below = after(&band, 1_000, 10);
        assert_eq!(below.strays, Some(PredictionSide::Below));
        // A few searches say nothing.
        assert_eq!(after(&band, 3, 3).strays, None);
        assert_eq!(after(&band, 20, 0).strays, None);
        // The share of all can be as predicted while that of the latest is not.
        let mut watch = ReviewWatch::new(PredictedReviews::of(&band, 0.05).unwrap());
        counted(&mut watch, 4_000, 800);
        let late = counted(&mut watch, 400, 300);
        assert_eq!(late.strays, Some(PredictionSide::Above));
        let says = late.says().unwrap();
        assert!(
            says.starts_with("1100 of 4400 searches went to a person, 25 % (23.7 % to 26.3 %), 75 % of the latest 400: more than was predicted."),
            "{says}"
        );
    }

    #[test]
    fn what_the_calibration_never_saw_in_the_band_can_come_and_cannot_go() {
        let band = band(100, 0, 0);
        let ends = PredictedReviews::of(&band, 0.05).unwrap().ends;
        assert!(ends[0] <= 0.0 && 0.0 < ends[1]);
        assert_eq!(after(&band, 100_000, 0).strays, None);
        let come = after(&band, 1_000, 200);
        assert_eq!(come.strays, Some(PredictionSide::Above));
    }

    #[test]
    fn evidence_goes_on_where_it_was_stored() {
        let predicted = PredictedReviews::of(&band(200, 60, 20), 0.05).unwrap();
        let mut through = ReviewWatch::new(predicted);
        counted(&mut through, 700, 200);
        let stored = serde_json::to_string(&through.state()).unwrap();
        let state = serde_json::from_str(&stored).unwrap();
        let mut resumed = ReviewWatch::new(predicted).resumed(state);
        assert_eq!(
            counted(&mut resumed, 300, 240),
            counted(&mut through, 300, 240)
        );
    }

    /// Searches at `share` until the watch strays, or does not any more.
    fn until(watch: &mut ReviewWatch, draws: &mut SimulatedDraws, share: f64, strays: bool) -> u64 {
        let from = watch.state().searches;
        while watch.assessment(0).strays.is_some() != strays {
            watch.observe(draws.uniform() < share);
        }
        watch.state().searches - from
    }

    fn median(mut all: Vec<u64>) -> u64 {
        all.sort_unstable();
        all[all.len() / 2]
    }

    /// Twice the share of mates goes to a person, after so many searches that were like the calibration's mates.
    #[test]
    #[expect(clippy::print_stderr, reason = "figures of docs/evidence.md")]
    fn a_change_is_seen_nearly_as_soon_however_long_was_quiet_before_it() {
        let predicted = PredictedReviews::of(&band(100, 30, 10), 0.05).unwrap();
        let mut draws = SimulatedDraws(7);
        let mut delays = Vec::new();
        for quiet in [0, 1_000, 10_000, 100_000] {
            let (mut seen, mut gone) = (Vec::new(), Vec::new());
            for _ in 0..21 {
                let mut watch = ReviewWatch::new(predicted);
                for _ in 0..quiet {
                    watch.observe(draws.uniform() < 0.3);
                }
                seen.push(until(&mut watch, &mut draws, 0.6, true));
                for _ in 0..1_000 {
                    watch.observe(draws.uniform() < 0.6);
                }
                gone.push(until(&mut watch, &mut draws, 0.3, false));
            }
            let (most, seen, gone) = (seen.iter().copied().max(), median(seen), median(gone));
            eprintln!(
                "after {quiet} quiet searches: seen after {seen}, at most {most:?}; gone after {gone}"
            );
            delays.push(seen);
        }
        assert!(delays[0] < 150 && delays[3] < 500, "{delays:?}");
        // The shortest run of searches in the band that strays at the start.
        let band = band(100, 30, 10);
        let run = (1..100).find(|run| after(&band, *run, *run).strays.is_some());
        eprintln!("{run:?} in a row stray");
        assert!(run.is_some_and(|run| 5 < run), "{run:?}");
    }

    /// Each month a calibration of its own, and 2,000 searches like it, all of mates or all of strangers, which is
    /// where the share is nearest to an end; looked at after each. And months at exactly the end of the wider
    /// interval, where the bets alone have half of delta, a quarter for this side.
    #[test]
    #[expect(clippy::print_stderr, reason = "figures of docs/evidence.md")]
    fn unchanged_traffic_strays_in_no_more_months_than_delta_says() {
        let mut draws = SimulatedDraws(5);
        let [mut wrong, mut caught, mut at_the_end] = [0_u32; 3];
        for month in 0..1_000_u32 {
            let [mated, strangers] = [0.3, 0.1];
            let mut seen = |share: f64| (0..100).filter(|_| draws.uniform() < share).count();
            let [of_mated, of_strangers] =
                [mated, strangers].map(|share| u32::try_from(seen(share)).unwrap());
            let predicted = PredictedReviews::of(&band(100, of_mated, of_strangers), 0.05).unwrap();
            let mut strays = |share: f64| {
                let mut watch = ReviewWatch::new(predicted);
                (0..2_000).any(|_| {
                    watch.observe(draws.uniform() < share);
                    watch.assessment(0).strays.is_some()
                })
            };
            let share = if month % 2 == 0 { mated } else { strangers };
            wrong += u32::from(strays(share));
            caught += u32::from(strays(0.6));
            at_the_end += u32::from(strays(predicted.against[1]));
        }
        eprintln!(
            "strays in 1,000 unchanged months: {wrong}; at exactly the end: {at_the_end}; at twice the share of mates: {caught}"
        );
        assert!(wrong <= 50, "{wrong}");
        // A quarter of .05 is 12.5 of 1,000, and chance.
        assert!(at_the_end <= 20, "{at_the_end}");
        assert!(850 <= caught, "{caught}");
    }
}
