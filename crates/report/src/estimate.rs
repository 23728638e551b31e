//! A quantity of a report, with what is known of how certain it is.

use matchpoint_calibration::rates::{Interval, Rate};

/// A quantity with its uncertainty; every field `None` is an unknown quantity.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[cfg_attr(test, derive(serde::Serialize))]
pub struct Estimate {
    /// The estimate.
    pub value: Option<f64>,
    /// The range that covers the truth with the confidence it names.
    pub interval: Option<RateInterval>,
    /// How often it happened.
    pub events: Option<u64>,
    /// How often it could have happened.
    pub trials: Option<u64>,
    /// Distinct labels among the trials.
    pub labels: Option<u64>,
    /// The number of independent trials that would be as uncertain.
    pub effective_trials: Option<f64>,
}

/// An interval, however it was computed.
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(test, derive(serde::Serialize))]
pub struct RateInterval {
    /// The low end.
    pub lower: f64,
    /// The high end.
    pub upper: f64,
    /// The share of such intervals that cover the truth, such as 0.95.
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
