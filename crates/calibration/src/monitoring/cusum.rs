//! When did a rate begin to rise? Fast, and without a bound on ever being wrong.
//!
//! The e-process of [`super::sequential`] may be wrong once with a small probability, for which it
//! waits. A CUSUM forgets what spoke for the promise, so that it sees a change after a long quiet
//! time sooner, and is wrong every so often (Page 1954; Reynolds and Stoumbos 1999 for Bernoulli
//! outcomes).

use super::MonitoringError;
use super::audit::AuditRow;
use super::observed::AuditWindow;
use super::sequential::{Bet, EProcess};

/// Sampled decisions between two false suspicions, on average, at least. With 400 labels a month a
/// false one comes less often than every second month.
const RUN_LENGTH: f64 = 1000.0;

/// The sum after the last sampled decision.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cusum {
    /// S = max(0, S + ln(1 + lambda X)); at least 0.
    pub value: f64,
    /// From here on a change is suspected.
    pub limit: f64,
    /// The number of the sampled decision, from 1, after which the sum was 0 last and has grown since:
    /// where a change began, if there is one. `None` while it is 0.
    pub began_at: Option<u64>,
    /// The first sampled decision at which it reached the limit; `None` if it never did.
    pub suspected_at: Option<u64>,
}

impl Cusum {
    /// Sums up sampled decisions, in the order in which they were made.
    ///
    /// X is that of the bet: r (e - limit) by the probability of being sampled, so that a decision
    /// counts as those that it stands for. If all are sampled, this is Bernoulli's CUSUM for a
    /// doubled rate, S + e - gamma in units of the logarithm of an error's likelihood ratio.
    ///
    /// The limit is ln 1000. While the rate is at most its limit, 1 + lambda X is expected to be at
    /// most 1 given all before, whatever the labels that are missing, and then the mean number of
    /// sampled decisions before the first false suspicion is at least 1000 (Shin, Ramdas and Rinaldo
    /// 2023, on e-detectors). That is no bound on ever being wrong.
    ///
    /// # Errors
    /// Refuses a row with a probability below the lowest of the design.
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

/// Since when a rate is above its limit, according to annotations.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Onset {
    /// When the sampled decision was made at which the evidence reached its limit, in milliseconds
    /// since 1970-01-01 UTC; `None` without an alarm.
    pub alarm_unix_ms: Option<u64>,
    /// The CUSUM; `None` if there is no limit to exceed.
    pub cusum: Option<Cusum>,
    /// When the sampled decision was made with which its rise began; `None` while it is 0.
    pub rise_unix_ms: Option<u64>,
}

impl Onset {
    /// Looks at what was seen, with the evidence that `bet` made of it.
    ///
    /// # Errors
    /// As [`Cusum::settle`].
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

    /// Outcomes of strangers: `true` is an accept.
    fn sum(outcomes: &[bool], inclusion: f64) -> Cusum {
        let strata = strata(inclusion);
        let bet = Bet::new(
            Null::new(0.01, 0.05).unwrap(),
            ErrorSide::FalseAccept,
            &strata,
        );
        let rows = outcomes.iter().map(|&accepted| AuditRow {
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
