//! Estimates when a rate began to rise. It reacts quickly, but its probability of ever being wrong is not
//! bounded.
//!
//! The e-process of [`super::sequential`] raises a false alarm with a small probability at most, and needs
//! time for that certainty. A CUSUM discards earlier evidence in favour of the promise. So after a long quiet
//! period it detects a change sooner, but it gives a false suspicion from time to time (Page 1954; Reynolds
//! and Stoumbos 1999 for Bernoulli outcomes).

use super::MonitoringError;
use super::audit::AuditRow;
use super::observed::AuditWindow;
use super::sequential::{Bet, EProcess};

/// The mean number of sampled decisions between two false suspicions is at least this. With 400 labels a
/// month, a false suspicion comes less often than every second month.
const RUN_LENGTH: f64 = 1000.0;

/// The CUSUM statistic after the last sampled decision.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cusum {
    /// The statistic S = max(0, S + ln(1 + lambda X)), which is at least 0.
    pub value: f64,
    /// A change is suspected when the statistic reaches this value.
    pub limit: f64,
    /// The estimated start of the change: the number, from 1, of the sampled decision after which the
    /// statistic was last 0. `None` while the statistic is 0.
    pub began_at: Option<u64>,
    /// The number of the sampled decision at which the statistic first reached the limit; `None` if it never
    /// did.
    pub suspected_at: Option<u64>,
}

impl Cusum {
    /// Computes the statistic over sampled decisions, in the order in which they were made.
    ///
    /// X is the same as in [`Bet`]: r (e - limit) divided by the sampling probability, so that each decision
    /// counts for all that it represents. If all decisions are sampled, this is the Bernoulli CUSUM for a
    /// doubled rate, S + e - gamma, in units of the log likelihood ratio of one error.
    ///
    /// The limit of the statistic is ln 1000. While the rate is at most its limit, the conditional
    /// expectation of 1 + lambda X is at most 1, whichever labels are missing. It follows that the mean
    /// number of sampled decisions before the first false suspicion is at least 1000 (Shin, Ramdas and
    /// Rinaldo 2023, on e-detectors). This does not bound the probability of ever being wrong.
    ///
    /// # Errors
    /// Returns an error if a row has a stratum that the design does not have.
    pub fn settle(
        bet: &Bet<'_>,
        rows: impl IntoIterator<Item = AuditRow>,
    ) -> Result<Self, MonitoringError> {
        let stake = bet.stake_for_double();
        let mut sum = Self {
            value: 0.0,
            limit: RUN_LENGTH.ln(),
            began_at: None,
            suspected_at: None,
        };
        for (number, row) in (1..).zip(rows) {
            let stake = stake.min(bet.stake_max(&row));
            sum.step((stake * bet.weighted_gain(&row)?).ln_1p(), number);
        }
        Ok(sum)
    }

    fn step(&mut self, by: f64, number: u64) {
        self.value = (self.value + by).max(0.0);
        if self.value <= 0.0 {
            self.began_at = None;
        } else if self.began_at.is_none() {
            self.began_at = Some(number);
        }
        if self.limit <= self.value && self.suspected_at.is_none() {
            self.suspected_at = Some(number);
        }
    }

    /// Whether a change is suspected now.
    #[must_use]
    pub fn suspects(&self) -> bool {
        self.limit <= self.value
    }
}

/// When a rate rose above its limit, as far as annotations show.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Onset {
    /// When the sampled decision was made at which the evidence raised the alarm, in milliseconds since
    /// 1970-01-01 UTC; `None` without an alarm.
    pub alarm_unix_ms: Option<u64>,
    /// The CUSUM; `None` if the rate has no limit.
    pub cusum: Option<Cusum>,
    /// When the sampled decision was made at which the CUSUM began to rise, in milliseconds since 1970-01-01
    /// UTC; `None` while the statistic is 0.
    pub rise_unix_ms: Option<u64>,
}

impl Onset {
    /// Computes the CUSUM of the decisions in `seen`, and dates its rise and the alarm of the e-process.
    ///
    /// # Errors
    /// Returns the errors of [`Cusum::settle`].
    pub fn of(
        bet: &Bet<'_>,
        seen: &AuditWindow<'_>,
        evidence: &EProcess,
    ) -> Result<Self, MonitoringError> {
        let cusum = Cusum::settle(bet, seen.rows.iter().copied())?;
        let time = |number: Option<u64>| {
            let place = usize::try_from(number?.checked_sub(1)?).ok()?;
            seen.unix_ms.get(place).copied()
        };
        Ok(Self {
            alarm_unix_ms: time(evidence.alarm_at),
            cusum: Some(cusum),
            rise_unix_ms: time(cusum.began_at),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::audit::SearchTruth;
    use super::super::sequential::{ErrorSide, Null};
    use super::super::strata::{Inclusion, Strata};
    use super::*;

    fn strata(inclusion: f64) -> Strata {
        Strata::new(vec![0.0], vec![Inclusion::new(inclusion).unwrap(); 2]).unwrap()
    }

    /// The CUSUM of decisions on strangers, in which `true` is an accept.
    fn sum(outcomes: &[bool], inclusion: f64) -> Cusum {
        let strata = strata(inclusion);
        let bet = Bet::new(
            Null::new(0.01, 0.05).unwrap(),
            ErrorSide::FalseAccept,
            &strata,
        );
        let rows = outcomes.iter().map(|&accepted| AuditRow {
            grown: false,
            stratum: usize::from(accepted),
            accepted,
            inclusion: Inclusion::new(inclusion).unwrap(),
            truth: Some(SearchTruth::NonMated),
        });
        Cusum::settle(&bet, rows).unwrap()
    }

    #[test]
    fn where_all_are_drawn_it_is_the_sum_of_bernoulli_outcomes_of_the_reference() {
        let gamma = 0.014_435_344_704_5;
        let unit = (0.02_f64 * 0.99 / (0.01 * 0.98)).ln();
        let mut outcomes = Vec::new();
        let mut expected = 0.0_f64;
        for number in 1..=400_u32 {
            let error = number % 37 == 0 || number % 53 == 0;
            outcomes.push(error);
            expected = (expected + f64::from(u8::from(error)) - gamma).max(0.0);
            let found = sum(&outcomes, 1.0).value / unit;
            assert!(
                (found - expected).abs() < 1e-9,
                "{number}: {found} {expected}"
            );
        }
        assert!(0.5 < expected);
    }

    #[test]
    fn it_names_where_a_rise_began_and_forgets_what_was_before() {
        let mut outcomes = vec![false; 5000];
        let quiet = sum(&outcomes, 0.5);
        assert_eq!((quiet.value, quiet.began_at), (0.0, None));
        outcomes.extend([true; 12]);
        let risen = sum(&outcomes, 0.5);
        assert_eq!(risen.began_at, Some(5001));
        assert!(risen.suspects() && risen.suspected_at < Some(5012));
        outcomes.extend([false; 5000]);
        let over = sum(&outcomes, 0.5);
        assert!(!over.suspects() && over.suspected_at.is_some());
    }
}
