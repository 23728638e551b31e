//! A quantity of a report with its uncertainty.

use matchpoint_calibration::rates::{Interval, Rate};

/// A quantity with its uncertainty. If every field is `None`, the quantity is unknown.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[cfg_attr(test, derive(serde::Serialize))]
pub struct Estimate {
    /// The estimate.
    pub value: Option<f64>,
    /// The confidence interval.
    pub interval: Option<RateInterval>,
    /// Number of events.
    pub events: Option<u64>,
    /// Number of trials.
    pub trials: Option<u64>,
    /// Number of distinct labels among the trials.
    pub labels: Option<u64>,
    /// The number of independent trials that would have the same uncertainty.
    pub effective_trials: Option<f64>,
}

/// A confidence interval, computed by any method.
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(test, derive(serde::Serialize))]
pub struct RateInterval {
    /// The lower end.
    pub lower: f64,
    /// The upper end.
    pub upper: f64,
    /// The nominal coverage of the interval, such as 0.95.
    pub confidence: f64,
}

impl From<Interval> for RateInterval {
    fn from(interval: Interval) -> Self {
        Self {
            lower: interval.lower,
            upper: interval.upper,
            confidence: interval.confidence.get(),
        }
    }
}

impl From<Rate> for Estimate {
    fn from(rate: Rate) -> Self {
        Self {
            value: Some(rate.estimate),
            interval: Some(rate.interval.into()),
            events: Some(rate.count.events()),
            trials: Some(rate.count.trials()),
            labels: Some(rate.labels),
            effective_trials: Some(rate.effective_trials),
        }
    }
}

impl From<Option<Rate>> for Estimate {
    fn from(rate: Option<Rate>) -> Self {
        rate.map(Self::from).unwrap_or_default()
    }
}

impl Estimate {
    /// A number without an interval or counts.
    #[must_use]
    pub fn bare(value: f64) -> Self {
        Self {
            value: Some(value),
            ..Self::default()
        }
    }
}
