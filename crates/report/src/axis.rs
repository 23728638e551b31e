//! Axes of charts: the positions of values, and the values that are written.

use super::numbers;
use matchpoint_calibration::binomial;

/// How values are distributed along an axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AxisScale {
    /// Linear.
    Linear,
    /// Logarithmic.
    Log,
    /// By the normal deviate (probit), on which the DET curve of normally distributed scores is a straight
    /// line.
    Deviate,
}

/// The kind of values, which decides how they are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AxisUnit {
    /// Shares, as percentages.
    Share,
    /// Similarities and utilities.
    Plain,
    /// Counts.
    Count,
}

/// One axis of a chart.
#[derive(Clone, Copy, Debug)]
pub(super) struct ChartAxis {
    scale: AxisScale,
    unit: AxisUnit,
    low: f64,
    high: f64,
}

/// How far beyond the ends a value may be placed: outside the frame, but near enough to keep the slope of a
/// line.
const BEYOND: f64 = 0.02;

impl ChartAxis {
    /// An axis over `range`; `None` if it has no extent. A logarithmic axis needs ends above 0, and a deviate
    /// axis needs ends inside (0, 1).
    pub(super) fn new(scale: AxisScale, unit: AxisUnit, range: (f64, f64)) -> Option<Self> {
        let (low, high) = (scale.position(range.0), scale.position(range.1));
        (low.is_finite() && high.is_finite() && low < high).then_some(Self {
            scale,
            unit,
            low,
            high,
        })
    }

    /// The position of a value: 0 at the low end, 1 at the high end, and slightly outside for values beyond the
    /// ends. `None` if the value has no position.
    pub(super) fn at(&self, value: f64) -> Option<f64> {
        let position = (self.scale.position(value) - self.low) / (self.high - self.low);
        (!position.is_nan()).then(|| position.clamp(-BEYOND, 1.0 + BEYOND))
    }

    /// Whether the value lies between the ends.
    pub(super) fn holds(&self, value: f64) -> bool {
        self.at(value)
            .is_some_and(|at| (-1e-9..=1.0 + 1e-9).contains(&at))
    }

    /// Round values at least `gap` apart, with their positions.
    pub(super) fn ticks(&self, gap: f64) -> Vec<(f64, String)> {
        let mut ticks: Vec<(f64, String)> = Vec::new();
        for value in self.round_values(gap) {
            let Some(at) = self.at(value).filter(|_| self.holds(value)) else {
                continue;
            };
            if ticks
                .iter()
                .all(|(taken, _)| gap <= (taken - at).abs() + 1e-9)
            {
                ticks.push((at, self.write(value, gap)));
            }
        }
        ticks
    }

    /// Writes a round value. On a linear axis, all values have the same number of decimals.
    fn write(&self, value: f64, gap: f64) -> String {
        match (self.scale, self.unit) {
            (AxisScale::Linear, AxisUnit::Plain) => {
                let step = even_step(self.low, self.high, gap);
                numbers::decimal(value, if step < 0.01 { 3 } else { 2 })
            }
            (_, AxisUnit::Share) => numbers::short_percent(value),
            (_, AxisUnit::Plain) => numbers::tick(value),
            (_, AxisUnit::Count) => numbers::short_count(value),
        }
    }

    /// Candidate values for ticks, the most important first.
    fn round_values(&self, gap: f64) -> Vec<f64> {
        match self.scale {
            AxisScale::Linear => even_steps(self.low, self.high, gap),
            AxisScale::Log => [1.0, 3.0]
                .into_iter()
                .flat_map(|digit| (-12..=12).map(move |power| digit * 10.0_f64.powi(power)))
                .collect(),
            AxisScale::Deviate => vec![
                0.01, 0.001, 1e-4, 1e-5, 1e-6, 1e-7, 0.1, 0.5, 0.9, 0.99, 0.999, 0.05, 0.2, 0.3,
                0.02, 0.8,
            ],
        }
    }
}

impl AxisScale {
    fn position(self, value: f64) -> f64 {
        match self {
            Self::Linear => value,
            Self::Log if value <= 0.0 => f64::NEG_INFINITY,
            Self::Log => value.log10(),
            Self::Deviate if value <= 0.0 => f64::NEG_INFINITY,
            Self::Deviate if 1.0 <= value => f64::INFINITY,
            Self::Deviate => -binomial::normal_quantile(value),
        }
    }
}

/// The step between ticks: 1, 2 or 5 times a power of ten, and at least `gap` of the range.
fn even_step(low: f64, high: f64, gap: f64) -> f64 {
    let least = (high - low) * gap.max(0.01);
    let power = 10.0_f64.powf(least.log10().floor());
    [1.0, 2.0, 5.0, 10.0]
        .into_iter()
        .map(|digit| digit * power)
        .find(|step| least <= step * (1.0 + 1e-9))
        .unwrap_or(least)
}

/// The multiples of this step within the range.
fn even_steps(low: f64, high: f64, gap: f64) -> Vec<f64> {
    let step = even_step(low, high, gap);
    let first = (low / step).ceil();
    (0..=100_u8)
        .map(|index| (first + f64::from(index)) * step)
        .take_while(|value| *value <= high + step * 1e-6)
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn names(axis: ChartAxis, gap: f64) -> Vec<String> {
        let mut ticks = axis.ticks(gap);
        ticks.sort_by(|a, b| a.0.total_cmp(&b.0));
        ticks
            .into_iter()
            .map(|(_, name)| name.replace('\u{202f}', " "))
            .collect()
    }

    #[test]
    fn ticks_are_round() {
        let axis = ChartAxis::new(AxisScale::Linear, AxisUnit::Plain, (0.13, 0.91)).unwrap();
        assert_eq!(names(axis, 0.2), ["0.20", "0.40", "0.60", "0.80"]);
        let axis = ChartAxis::new(AxisScale::Log, AxisUnit::Share, (2e-4, 1.0)).unwrap();
        assert_eq!(names(axis, 0.2), ["0.1 %", "1 %", "10 %", "100 %"]);
        let axis = ChartAxis::new(AxisScale::Deviate, AxisUnit::Share, (5e-4, 0.5)).unwrap();
        assert_eq!(names(axis, 0.12), ["0.1 %", "1 %", "10 %", "20 %", "50 %"]);
        let axis = ChartAxis::new(AxisScale::Log, AxisUnit::Count, (800.0, 2e6)).unwrap();
        assert_eq!(names(axis, 0.2), ["1 k", "10 k", "100 k", "1 M"]);
    }

    #[test]
    fn the_middle_of_a_deviate_axis_is_even_odds() {
        let axis = ChartAxis::new(AxisScale::Deviate, AxisUnit::Share, (0.01, 0.99)).unwrap();
        assert!((axis.at(0.5).unwrap() - 0.5).abs() < 1e-9);
        assert!((axis.at(0.0).unwrap() + BEYOND).abs() < 1e-12);
        assert!(!axis.holds(0.0) && axis.holds(0.01));
    }

    proptest! {
        #[test]
        fn every_value_lands_in_or_just_beyond_the_frame(
            low in -1e6_f64..1e6, extent in -1.0_f64..1e6, value in any::<f64>()
        ) {
            for scale in [AxisScale::Linear, AxisScale::Log, AxisScale::Deviate] {
                let Some(axis) = ChartAxis::new(scale, AxisUnit::Plain, (low, low + extent)) else {
                    continue;
                };
                prop_assert!(axis.ticks(0.1).len() <= 12);
                if let Some(at) = axis.at(value) {
                    prop_assert!((-BEYOND..=1.0 + BEYOND).contains(&at));
                }
            }
        }
    }
}
