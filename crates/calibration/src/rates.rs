//! Error rates with intervals that take into account that probes share labels.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::CalibrationError;
use super::binomial::{self, real};

pub use super::percent::percent;

/// The probability that a statement about an unknown rate is true; in [0.5, 1).
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(try_from = "f64", into = "f64")]
pub struct Confidence(f64);

impl Confidence {
    /// The confidence of intervals that are displayed.
    pub const DISPLAY: Self = Self(0.95);

    /// Takes the confidence as a fraction, such as 0.95.
    ///
    /// # Errors
    /// Returns an error for values below 0.5, for values above 1 - 1e-9, and for NaN.
    pub fn new(value: f64) -> Result<Self, CalibrationError> {
        if !(0.5..=1.0 - 1e-9).contains(&value) {
            return Err(CalibrationError::Confidence { value });
        }
        Ok(Self(recorded(value)))
    }

    /// The confidence as a fraction.
    #[must_use]
    pub fn get(self) -> f64 {
        self.0
    }

    /// The confidence that each of so many statements needs, so that all of them are true with this one: delta
    /// is divided among them (Bonferroni).
    ///
    /// # Errors
    /// Returns an error if that is above the highest confidence, 1 - 1e-9.
    pub fn one_of(self, statements: usize) -> Result<Self, CalibrationError> {
        Self::new(1.0 - self.delta() / real(statements.max(1) as u64))
    }

    /// The probability that the statement is wrong: delta = 1 - confidence.
    #[must_use]
    pub fn delta(self) -> f64 {
        1.0 - self.0
    }
}

impl From<Confidence> for f64 {
    fn from(confidence: Confidence) -> Self {
        confidence.0
    }
}

impl TryFrom<f64> for Confidence {
    type Error = CalibrationError;

    fn try_from(value: f64) -> Result<Self, CalibrationError> {
        Self::new(value)
    }
}

/// A number of events and a number of trials.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "UncheckedProportion")]
pub struct Proportion {
    events: u64,
    trials: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct UncheckedProportion {
    events: u64,
    trials: u64,
}

impl TryFrom<UncheckedProportion> for Proportion {
    type Error = CalibrationError;

    fn try_from(raw: UncheckedProportion) -> Result<Self, CalibrationError> {
        Self::new(raw.events, raw.trials)
    }
}

impl Proportion {
    /// Takes counts.
    ///
    /// # Errors
    /// Returns an error without trials, and for more events than trials.
    pub fn new(events: u64, trials: u64) -> Result<Self, CalibrationError> {
        if trials == 0 || trials < events {
            return Err(CalibrationError::NotAProportion { events, trials });
        }
        Ok(Self { events, trials })
    }

    /// Number of events.
    #[must_use]
    pub fn events(self) -> u64 {
        self.events
    }

    /// Number of trials; at least one.
    #[must_use]
    pub fn trials(self) -> u64 {
        self.trials
    }

    /// Events divided by trials, in [0, 1].
    #[must_use]
    pub fn estimate(self) -> f64 {
        real(self.events) / real(self.trials)
    }
}

/// The method by which an interval was computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Method {
    /// Exact and two-sided, for independent trials.
    ClopperPearson,
    /// Wilson's score interval, which is approximate, with an effective number of trials.
    Wilson,
}

/// A confidence interval of a rate.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Interval {
    /// The lower end, in [0, 1].
    pub lower: f64,
    /// The upper end, in [0, 1].
    pub upper: f64,
    /// The nominal coverage of the interval.
    pub confidence: Confidence,
    /// The method by which it was computed.
    pub method: Method,
}

impl Interval {
    /// The interval of Clopper and Pearson: exact and two-sided, with half of delta on each side. For
    /// independent trials only.
    #[must_use]
    pub fn clopper_pearson(of: Proportion, confidence: Confidence) -> Self {
        let half = confidence.delta() / 2.0;
        Self {
            lower: recorded(binomial::lower_bound(of.events, of.trials, half)),
            upper: recorded(binomial::upper_bound(of.events, of.trials, half)),
            confidence,
            method: Method::ClopperPearson,
        }
    }

    /// Wilson's score interval for `estimate` observed in `trials`, which need not be an integer. It is for
    /// display, and no guarantee.
    #[must_use]
    pub fn wilson(estimate: f64, trials: f64, confidence: Confidence) -> Self {
        let z_squared = binomial::normal_quantile(confidence.delta() / 2.0).powi(2);
        let centre = estimate + z_squared / (2.0 * trials);
        let spread = (z_squared * estimate * (1.0 - estimate) / trials
            + (z_squared / (2.0 * trials)).powi(2))
        .sqrt();
        let scale = 1.0 + z_squared / trials;
        // If no trial or every trial is an event, one end is exactly 0 or 1; rounding would miss it.
        let lower = if estimate <= 0.0 {
            0.0
        } else {
            (centre - spread) / scale
        };
        let upper = if 1.0 <= estimate {
            1.0
        } else {
            (centre + spread) / scale
        };
        Self {
            lower: recorded(lower.clamp(0.0, 1.0)),
            upper: recorded(upper.clamp(0.0, 1.0)),
            confidence,
            method: Method::Wilson,
        }
    }
}

/// A rate over searches, with its uncertainty taken over labels. The probes of one label are alike, so a
/// thousand probes of ten labels carry little more information than ten probes.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rate {
    /// The number of events and searches.
    pub count: Proportion,
    /// Events divided by searches, in [0, 1].
    pub estimate: f64,
    /// Number of distinct labels among the searches.
    pub labels: u64,
    /// The number of independent searches that would have the same uncertainty; at most the number of searches.
    pub effective_trials: f64,
    /// Wilson's interval with the effective number of trials. Approximate below about 100 labels.
    pub interval: Interval,
}

impl Rate {
    /// The share of `true` among searches, which are given as (label, outcome).
    ///
    /// The variance is that of a ratio over labels, V = sum (e - p m)^2 / (sum m)^2, where a label has e events
    /// in m searches (Fogliato, Patil and Perona 2024). The effective number of trials is p (1 - p) / V. `None`
    /// if there are no searches.
    #[must_use]
    pub fn over_labels(outcomes: &[(&str, bool)], confidence: Confidence) -> Option<Self> {
        let mut by_label: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
        for &(label, happened) in outcomes {
            let (events, searches) = by_label.entry(label).or_default();
            *events += u64::from(happened);
            *searches += 1;
        }
        Self::of_counts(by_label.values().copied(), confidence)
    }

    /// The rate of events among trials, given as (events, trials) of each label or of whatever else the trials share.
    /// `None` if there are no trials.
    pub(crate) fn of_counts(
        counts: impl Iterator<Item = (u64, u64)> + Clone,
        confidence: Confidence,
    ) -> Option<Self> {
        let events = counts.clone().map(|count| count.0).sum();
        let trials = counts.clone().map(|count| count.1).sum();
        let count = Proportion::new(events, trials).ok()?;
        let labels = counts.clone().count() as u64;
        let variance = variance_over_labels(counts, count);
        let effective_trials = recorded(effective(count, labels, variance));
        Some(Self {
            count,
            estimate: recorded(count.estimate()),
            labels,
            effective_trials,
            interval: Interval::wilson(count.estimate(), effective_trials, confidence),
        })
    }
}

impl Rate {
    /// The same rate with a wider interval, for a further variance of the estimate that the labels themselves
    /// do not show, such as the choice of the threshold. `about` stands in for the rate if the estimate is 0 or
    /// 1.
    #[must_use]
    pub(super) fn with_variance_of(self, further: f64, about: f64) -> Self {
        let near = if self.count.events() == 0 || self.count.events() == self.count.trials() {
            about
        } else {
            self.estimate
        };
        let single = near * (1.0 - near);
        if further <= 0.0 || single <= 0.0 {
            return self;
        }
        let trials = recorded(1.0 / (1.0 / self.effective_trials + further / single));
        Self {
            effective_trials: trials,
            interval: Interval::wilson(self.estimate, trials, self.interval.confidence),
            ..self
        }
    }
}

fn variance_over_labels(by_label: impl Iterator<Item = (u64, u64)>, of: Proportion) -> f64 {
    let squares: f64 = by_label
        .map(|(events, searches)| (real(events) - of.estimate() * real(searches)).powi(2))
        .sum();
    squares / real(of.trials).powi(2)
}

fn effective(of: Proportion, labels: u64, variance: f64) -> f64 {
    let estimate = of.estimate();
    // If every search had the same outcome, or if there is only one label, no variance can be estimated. Then
    // each label counts as one trial.
    if of.events == 0 || of.events == of.trials || labels < 2 {
        return real(labels);
    }
    let most = real(of.trials);
    let effective = estimate * (1.0 - estimate) / variance;
    if effective < most { effective } else { most }
}

/// Rounds `value` to 12 significant digits, and to at most 22 decimals.
///
/// More digits would be noise. Every JSON parser reads such a decimal back exactly: it is a 53-bit integer
/// divided by a power of ten that is exact too, so there is only one rounding.
pub(crate) fn recorded(value: f64) -> f64 {
    let text = if value.abs() < 1e-10 {
        format!("{value:.22}")
    } else {
        format!("{value:.11e}")
    };
    text.parse().unwrap_or(value)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_share_is_written_as_it_was_asked_for_and_never_as_none_or_all() {
        for (share, written) in [
            (0.1, "10 %"),
            (0.25, "25 %"),
            (0.123_4, "12.34 %"),
            (0.001, "0.1 %"),
            (0.000_05, "0.005 %"),
            (1e-9, "1e-7 %"),
            (0.0, "0 %"),
            (-0.0, "0 %"),
            (1.0, "100 %"),
            (0.95, "95 %"),
            (0.999_9, "99.99 %"),
            (0.091_479_3, "9.15 %"),
            (1.0 / 3.0, "33.3 %"),
            (0.006_666_7, "0.667 %"),
            (0.000_223_33, "0.0223 %"),
            (0.000_001_234_5, "1.23e-4 %"),
            (0.999_733_3, "99.973 %"),
            (0.991_456_7, "99.15 %"),
            (0.999_999_67, "99.99997 %"),
            (1.0 - 1e-9, "99.9999999 %"),
            (-0.012_345_6, "-1.23 %"),
        ] {
            assert_eq!(percent(share), written, "{share}");
        }
    }

    fn confidence(value: f64) -> Confidence {
        Confidence::new(value).unwrap()
    }

    fn close(found: f64, expected: f64) {
        let error = (found - expected).abs();
        assert!(
            error <= 1e-9 * expected.abs(),
            "{found:e} is not {expected:e}"
        );
    }

    /// The expected values are those of scipy's `binomtest(...).proportion_ci`: (events, trials), exact,
    /// Wilson, one-sided upper.
    #[test]
    fn intervals_agree_with_scipy() {
        let rows = [
            (
                (0, 3_000),
                (0.0, 0.001_228_870_804),
                (0.0, 0.001_278_848_725),
                0.000_998_079_012,
            ),
            (
                (1, 1_000),
                (2.531_748_749e-5, 0.005_558_924_28),
                (0.000_176_546_370_6, 0.005_642_558_598),
                0.004_734_993_575,
            ),
            (
                (3, 1_000),
                (0.000_619_099_931_6, 0.008_742_023_238),
                (0.001_020_783_881, 0.008_783_014_054),
                0.007_735_244_718,
            ),
            (
                (30, 30_000),
                (0.000_674_794_331_7, 0.001_427_256_965),
                (0.000_700_589_463_2, 0.001_427_186_705),
                0.001_356_108_557,
            ),
            (
                (5, 50),
                (0.033_275_093_59, 0.218_135_366_4),
                (0.043_475_764_93, 0.213_602_314_4),
                0.198_833_002_5,
            ),
            (
                (0, 10),
                (0.0, 0.308_497_107_8),
                (0.0, 0.277_532_799_9),
                0.258_865_550_9,
            ),
            (
                (10, 10),
                (0.691_502_892_2, 1.0),
                (0.722_467_200_1, 1.0),
                1.0,
            ),
        ];
        for ((events, trials), exact, wilson, upper) in rows {
            let of = Proportion::new(events, trials).unwrap();
            let at = confidence(0.95);
            let found = Interval::clopper_pearson(of, at);
            close(found.lower, exact.0);
            close(found.upper, exact.1);
            let found = Interval::wilson(of.estimate(), real(trials), at);
            close(found.lower, wilson.0);
            close(found.upper, wilson.1);
            close(binomial::upper_bound(events, trials, at.delta()), upper);
            let lower = binomial::lower_bound(trials - events, trials, at.delta());
            assert!((lower - (1.0 - upper)).abs() < 1e-9);
        }
    }

    #[test]
    fn wilson_takes_a_fractional_number_of_trials() {
        let found = Interval::wilson(0.233_333_333_333, 11.418_439_72, confidence(0.95));
        close(found.lower, 0.077_889_097_24);
        close(found.upper, 0.523_036_524_9);
    }

    #[test]
    fn one_error_of_six_labels_has_the_variance_of_the_reference() {
        let counts = [(0, 3), (0, 3), (1, 3), (0, 3), (0, 3), (0, 3)];
        let of = Proportion::new(1, 18).unwrap();
        close(
            variance_over_labels(counts.into_iter(), of),
            0.002_572_016_460_905_350_2,
        );
    }

    #[test]
    fn errors_of_one_label_widen_the_interval_and_spread_errors_do_not() {
        let labels = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j"];
        let searches = |bad: fn(usize, usize) -> bool| {
            let outcomes = labels
                .iter()
                .enumerate()
                .flat_map(|(l, label)| (0..10).map(move |probe| (*label, bad(l, probe))));
            Rate::over_labels(&outcomes.collect::<Vec<_>>(), Confidence::DISPLAY).unwrap()
        };
        let one_label = searches(|label, _| label == 3);
        let spread = searches(|_, probe| probe == 3);
        assert_eq!(one_label.count, spread.count);
        assert_eq!((one_label.labels, one_label.count.trials()), (10, 100));
        close(one_label.effective_trials, 10.0);
        close(spread.effective_trials, 100.0);
        assert!(spread.interval.upper < one_label.interval.upper);
    }

    #[test]
    fn without_errors_each_label_counts_once() {
        let outcomes: Vec<_> = (0..30)
            .map(|i| (if i % 2 == 0 { "a" } else { "b" }, false))
            .collect();
        let rate = Rate::over_labels(&outcomes, Confidence::DISPLAY).unwrap();
        close(rate.effective_trials, 2.0);
        assert!(0.6 < rate.interval.upper);
        let one = Rate::over_labels(&[("a", true), ("a", false)], Confidence::DISPLAY).unwrap();
        close(one.effective_trials, 1.0);
        assert!(Rate::over_labels(&[], Confidence::DISPLAY).is_none());
    }

    #[test]
    fn numbers_out_of_range_are_refused() {
        for value in [0.49, 1.0, f64::NAN, -1.0] {
            assert!(Confidence::new(value).is_err());
        }
        assert!(Proportion::new(0, 0).is_err());
        assert!(Proportion::new(2, 1).is_err());
        assert!(serde_json::from_str::<Proportion>(r#"{"events":2,"trials":1}"#).is_err());
    }

    proptest! {
        #[test]
        fn a_recorded_number_survives_json(value in -1.0_f64..1.0, power in -25..10_i32) {
            let value = recorded(value * 10.0_f64.powi(power));
            let text = serde_json::to_string(&value).unwrap();
            let back: f64 = serde_json::from_str(&text).unwrap();
            prop_assert_eq!(back.to_bits(), value.to_bits());
            prop_assert_eq!(recorded(value).to_bits(), value.to_bits());
        }

        #[test]
        fn intervals_hold_the_estimate(trials in 1_u64..5_000, share in 0.0_f64..=1.0) {
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "small")]
            let events = (share * real(trials)) as u64;
            let of = Proportion::new(events, trials).unwrap();
            for found in [
                Interval::clopper_pearson(of, Confidence::DISPLAY),
                Interval::wilson(of.estimate(), real(trials), Confidence::DISPLAY),
            ] {
                prop_assert!(0.0 <= found.lower && found.upper <= 1.0);
                prop_assert!(found.lower <= of.estimate() + 1e-11);
                prop_assert!(of.estimate() - 1e-11 <= found.upper);
            }
        }
    }
}
