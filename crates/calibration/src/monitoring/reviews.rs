//! Compares the share of searches that go to a person with what the calibration of a review band predicted.
//!
//! The calibration measured which share of mated searches falls into the band, and which share of searches
//! for strangers. The share of all searches must lie between these two, whatever part of traffic is mated. If
//! it does not, then searches or gallery have changed, or more work goes to people than was predicted. This
//! needs no labels.

use super::sequential::{Null, ln_e_of_counts};
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
    /// the audit changed, since a reset, or as far back as the journal has all decisions.
    pub since_unix_ms: u64,
}

/// The share of searches that go to a person, compared with the prediction.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ReviewsInService {
    /// The counts of searches.
    pub counts: ReviewCounts,
    /// The share with its 95 % interval; `None` without a search.
    pub share: Option<(f64, Interval)>,
    /// The prediction.
    pub predicted: PredictedReviews,
    /// Whether evidence shows that the share is below or above the prediction; `None` if it does not.
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

    /// Compares these counts with the prediction.
    #[must_use]
    pub fn beside(self, counts: ReviewCounts) -> ReviewsInService {
        let trials = real(counts.searches);
        let share = (0 < counts.searches).then(|| {
            let share = real(counts.reviewed) / trials;
            let interval = Interval::wilson(share, trials, Confidence::DISPLAY);
            (share, interval)
        });
        let others = counts.searches.saturating_sub(counts.reviewed);
        let [lower, upper] = self.against;
        // A limit of 0 or 1 cannot be exceeded, so it gives no evidence.
        let leaves = |limit: f64, events: u64, others: u64| {
            Null::new(limit, self.delta / 4.0)
                .is_ok_and(|null| -null.delta().ln() <= ln_e_of_counts(null, events, others))
        };
        let strays = if leaves(upper, counts.reviewed, others) {
            Some(PredictionSide::Above)
        } else if leaves(1.0 - lower, others, counts.reviewed) {
            Some(PredictionSide::Below)
        } else {
            None
        };
        ReviewsInService {
            counts,
            share,
            predicted: self,
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
        let how = match self.strays {
            None => "",
            Some(PredictionSide::Above) => ": more than was predicted",
            Some(PredictionSide::Below) => ": less than was predicted",
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

    fn counts(searches: u64, reviewed: u64) -> ReviewCounts {
        ReviewCounts {
            searches,
            reviewed,
            since_unix_ms: 0,
        }
    }

    #[test]
    fn a_share_between_those_of_mates_and_strangers_is_what_was_predicted() {
        let predicted = PredictedReviews::of(&band(200, 60, 20), 0.05).unwrap();
        let found = predicted.beside(counts(10_000, 2_000));
        assert_eq!(found.strays, None);
        let says = found.says().unwrap();
        assert!(
            says.starts_with("2000 of 10000 searches went to a person, 20 % (19.2 % to 20.8 %). The calibration predicts 6.57 % to 36.7 %"),
            "{says}"
        );
        assert_eq!(predicted.beside(counts(0, 0)).says(), None);
    }

    #[test]
    fn a_share_that_left_the_prediction_is_a_warning_that_says_on_which_side() {
        let predicted = PredictedReviews::of(&band(200, 60, 20), 0.05).unwrap();
        let above = predicted.beside(counts(1_000, 600));
        assert_eq!(above.strays, Some(PredictionSide::Above));
        let says = above.says().unwrap();
        assert!(says.contains("more than was predicted"), "{says}");
        let below = predicted.beside(counts(1_000, 10));
        assert_eq!(below.strays, Some(PredictionSide::Below));
        // A few searches are no evidence.
        assert_eq!(predicted.beside(counts(3, 3)).strays, None);
        assert_eq!(predicted.beside(counts(20, 0)).strays, None);
    }

    #[test]
    fn what_the_calibration_never_saw_in_the_band_can_come_and_cannot_go() {
        let predicted = PredictedReviews::of(&band(100, 0, 0), 0.05).unwrap();
        assert!(predicted.ends[0] <= 0.0 && 0.0 < predicted.ends[1]);
        assert_eq!(predicted.beside(counts(100_000, 0)).strays, None);
        assert_eq!(
            predicted.beside(counts(1_000, 200)).strays,
            Some(PredictionSide::Above)
        );
    }

    /// All searches are counted together, so a change has to outweigh the whole quiet period before it.
    #[test]
    #[expect(clippy::print_stderr, reason = "figures of docs/evidence.md")]
    fn after_a_long_quiet_time_a_change_takes_in_proportion_longer_to_see() {
        let predicted = PredictedReviews::of(&band(100, 30, 10), 0.05).unwrap();
        let until_seen = |quiet: u64| {
            // Before the change, 3 of 10 searches go to a person; after it, 6 of 10.
            let mut more = (10..200_000_u64).step_by(10);
            more.find(|more| {
                let reviewed = (3 * quiet + 6 * more) / 10;
                let found = predicted.beside(counts(quiet + more, reviewed));
                found.strays == Some(PredictionSide::Above)
            })
        };
        let [at_once, later, much_later] =
            [0, 1_000, 10_000].map(|quiet| until_seen(quiet).unwrap());
        // The shortest run of searches in the band that is detected at the start.
        let run = (1..100).find(|run| predicted.beside(counts(*run, *run)).strays.is_some());
        let run = run.unwrap();
        eprintln!(
            "twice the share of mates is seen after {at_once} searches; after 1,000 quiet ones {later}, after 10,000 {much_later}; {run} in a row stray"
        );
        assert!(at_once < 300 && 2_000 < later && 20_000 < much_later);
        assert!((5..20).contains(&run), "{run}");
    }

    /// Each month has its own calibration and 2,000 searches that agree with it. They are all mated or all
    /// for strangers, where the share is closest to a limit. The evidence is checked after every hundredth
    /// search.
    #[test]
    #[expect(clippy::print_stderr, reason = "figures of docs/evidence.md")]
    fn unchanged_traffic_strays_in_no_more_months_than_delta_says() {
        let mut draws = SimulatedDraws(5);
        let (mut wrong, mut caught) = (0_u32, 0_u32);
        for month in 0..1_000_u32 {
            let [mated, strangers] = [0.3, 0.1];
            let mut seen = |share: f64| (0..100).filter(|_| draws.uniform() < share).count();
            let [of_mated, of_strangers] =
                [mated, strangers].map(|share| u32::try_from(seen(share)).unwrap());
            let predicted = PredictedReviews::of(&band(100, of_mated, of_strangers), 0.05).unwrap();
            let mut strays = |share: f64| {
                let mut reviewed = 0;
                (1..=2_000_u64).any(|searches| {
                    reviewed += u64::from(draws.uniform() < share);
                    searches.is_multiple_of(100)
                        && predicted
                            .beside(counts(searches, reviewed))
                            .strays
                            .is_some()
                })
            };
            let share = if month % 2 == 0 { mated } else { strangers };
            wrong += u32::from(strays(share));
            caught += u32::from(strays(0.6));
        }
        eprintln!(
            "strays in 1,000 unchanged months: {wrong}; at twice the share of mates: {caught}"
        );
        assert!(wrong <= 50, "{wrong}");
        assert!(850 <= caught, "{caught}");
    }
}
