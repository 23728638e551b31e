//! Score normalisation: expresses a similarity in units of how the item, the probe or both score against a
//! cohort of strangers.
//!
//! An item that is close to everything ("lamb") or to nothing ("goat") shifts all of its scores, which one
//! threshold cannot follow. Z-norm removes the shift of the item, and T-norm that of the probe. S-norm is the
//! mean of both, and AS-norm is S-norm with only the nearest members of the cohort. The best candidate is still
//! the one with the highest similarity; only the decision score changes. The threshold must be calibrated on
//! the same scale.
//!
//! A normalised score is `z / (|z| + 10)` for `z` standard deviations above the mean. It lies in (-1, 1) like a
//! similarity, rises with `z`, and is one half at ten deviations.

use std::cmp::Reverse;
use std::num::NonZeroU32;

use serde::{Deserialize, Serialize};

use super::CalibrationError;
use super::margin::MarginFactor;
use super::rates::recorded;
use matchpoint_vector::Similarity;

/// The lowest floor for the standard deviation. Similarities are `f32`, and a smaller spread is their rounding.
const DEVIATION_MIN: f64 = 1e-6;

/// The number of standard deviations above the cohort's mean at which a normalised score is one half.
const HALF_WAY: f64 = 10.0;

/// How one embedding scores against a cohort: the mean and the population standard deviation of its
/// similarities.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "UncheckedStatistics")]
pub struct CohortStatistics {
    mean: f64,
    deviation: f64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct UncheckedStatistics {
    mean: f64,
    deviation: f64,
}

impl TryFrom<UncheckedStatistics> for CohortStatistics {
    type Error = CalibrationError;

    fn try_from(raw: UncheckedStatistics) -> Result<Self, CalibrationError> {
        Self::new(raw.mean, raw.deviation)
    }
}

impl CohortStatistics {
    /// Takes statistics that were computed before.
    ///
    /// # Errors
    /// Returns an error for a mean outside [-1, 1], for a deviation outside [1e-6, 1], and for NaN.
    pub fn new(mean: f64, deviation: f64) -> Result<Self, CalibrationError> {
        if !(-1.0..=1.0).contains(&mean) || !(DEVIATION_MIN..=1.0).contains(&deviation) {
            return Err(CalibrationError::NotCohortStatistics { mean, deviation });
        }
        Ok(Self {
            mean: recorded(mean),
            deviation: recorded(deviation),
        })
    }

    /// The mean similarity to the cohort, in [-1, 1].
    #[must_use]
    pub fn mean(self) -> f64 {
        self.mean
    }

    /// The population standard deviation of these similarities, or the floor if that is higher; in [1e-6, 1].
    #[must_use]
    pub fn deviation(self) -> f64 {
        self.deviation
    }

    fn standardise(self, score: Similarity) -> f64 {
        (f64::from(score.get()) - self.mean) / self.deviation
    }
}

/// The statistics of the two embeddings that were compared. They are named fields because both have the same
/// type.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PairStatistics {
    /// The statistics of the probe.
    pub probe: CohortStatistics,
    /// The statistics of the item.
    pub item: CohortStatistics,
}

/// Whose statistics normalise a score.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StatisticsSide {
    /// The item's: Z-norm.
    Item,
    /// The probe's: T-norm.
    Probe,
    /// The mean of both: S-norm, or AS-norm with the nearest members of the cohort.
    Both,
}

impl StatisticsSide {
    /// The decision score on this scale, in (-1, 1).
    ///
    /// With the same statistics, it never falls as the similarity rises. With different statistics the order
    /// can change, which is the purpose.
    #[must_use]
    pub fn normalise(self, score: Similarity, pair: PairStatistics) -> Similarity {
        // Never NaN: statistics are finite, and no deviation is below the minimum.
        bounded(self.exact(score, pair)).unwrap_or(score)
    }

    /// The normalised score minus a multiple of that of `other`, the best similarity to another label, with the
    /// same statistics.
    #[must_use]
    pub fn normalise_margin(
        self,
        score: Similarity,
        other: Similarity,
        factor: MarginFactor,
        pair: PairStatistics,
    ) -> Similarity {
        let best = self.exact(score, pair);
        let left = factor.left_of(best, self.exact(other, pair));
        bounded(left).unwrap_or(score)
    }

    fn exact(self, score: Similarity, pair: PairStatistics) -> f64 {
        match self {
            Self::Item => pair.item.standardise(score),
            Self::Probe => pair.probe.standardise(score),
            Self::Both => {
                f64::midpoint(pair.item.standardise(score), pair.probe.standardise(score))
            }
        }
    }
}

/// Maps a number of standard deviations above the mean to the range of similarities.
fn bounded(deviations: f64) -> Option<Similarity> {
    #[expect(
        clippy::cast_possible_truncation,
        reason = "rounds to the nearest f32, as meant; below 1 in magnitude"
    )]
    let bounded = (deviations / (deviations.abs() + HALF_WAY)) as f32;
    Similarity::new(bounded + 0.0)
}

/// A method of normalising scores, which is stored with the threshold that was chosen with it.
///
/// The cohort must resemble the traffic. It must not contain a mate of the probe or the item, because that
/// would lower the scores of mated comparisons only.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "UncheckedNormalisation")]
pub struct Normalisation {
    side: StatisticsSide,
    nearest: Option<NonZeroU32>,
    deviation_floor: f64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct UncheckedNormalisation {
    side: StatisticsSide,
    nearest: Option<NonZeroU32>,
    deviation_floor: f64,
}

impl TryFrom<UncheckedNormalisation> for Normalisation {
    type Error = CalibrationError;

    fn try_from(raw: UncheckedNormalisation) -> Result<Self, CalibrationError> {
        Self::new(raw.side, raw.nearest, raw.deviation_floor)
    }
}

impl Normalisation {
    /// A floor for the standard deviation that suits cosine similarities: a twentieth of the usual spread of
    /// strangers, so that it only affects a cohort of near copies.
    pub const DEVIATION_FLOOR: f64 = 1e-3;

    /// Normalises by one side or both, against the whole cohort or its `nearest` members.
    ///
    /// A standard deviation below `deviation_floor` is raised to it. Otherwise a tiny difference would count as
    /// a large one if all members of the cohort score alike.
    ///
    /// # Errors
    /// Returns an error for a floor outside [1e-6, 1].
    pub fn new(
        side: StatisticsSide,
        nearest: Option<NonZeroU32>,
        deviation_floor: f64,
    ) -> Result<Self, CalibrationError> {
        if !(DEVIATION_MIN..=1.0).contains(&deviation_floor) {
            return Err(CalibrationError::DeviationFloor {
                value: deviation_floor,
            });
        }
        Ok(Self {
            side,
            nearest,
            deviation_floor: recorded(deviation_floor),
        })
    }

    /// Whose statistics are used.
    #[must_use]
    pub fn side(self) -> StatisticsSide {
        self.side
    }

    /// The highest number of nearest cohort members that are used; `None` for all.
    #[must_use]
    pub fn nearest(self) -> Option<NonZeroU32> {
        self.nearest
    }

    /// The statistics of an embedding with these scores against the cohort, in any order.
    ///
    /// If the cohort has fewer members than `nearest`, all are used.
    ///
    /// # Errors
    /// Returns an error for an empty cohort.
    pub fn statistics(
        self,
        mut scores: Vec<Similarity>,
    ) -> Result<CohortStatistics, CalibrationError> {
        // The scores are sorted, so that the order of the cohort changes no bit of a sum.
        let kept = self
            .nearest
            .and_then(|count| usize::try_from(count.get()).ok())
            .filter(|&count| count < scores.len());
        if let Some(count) = kept {
            scores.select_nth_unstable_by_key(count, |&score| Reverse(score));
            scores.truncate(count);
        }
        scores.sort_unstable_by_key(|&score| Reverse(score));
        if scores.is_empty() {
            return Err(CalibrationError::EmptyCohort);
        }
        let count = super::binomial::real(scores.len() as u64);
        let values = || scores.iter().map(|score| f64::from(score.get()));
        let mean = values().sum::<f64>() / count;
        let variance = values().map(|value| (value - mean).powi(2)).sum::<f64>() / count;
        let deviation = variance.sqrt().clamp(self.deviation_floor, 1.0);
        CohortStatistics::new(mean.clamp(-1.0, 1.0), deviation)
    }

    /// The usual name of the method.
    #[must_use]
    pub fn name(self) -> &'static str {
        match (self.side, self.nearest) {
            (StatisticsSide::Item, _) => "Z-norm",
            (StatisticsSide::Probe, _) => "T-norm",
            (StatisticsSide::Both, None) => "S-norm",
            (StatisticsSide::Both, Some(_)) => "AS-norm",
        }
    }

    /// The decision score on this scale.
    #[must_use]
    pub fn normalise(self, score: Similarity, pair: PairStatistics) -> Similarity {
        self.side.normalise(score, pair)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn score(value: f32) -> Similarity {
        Similarity::new(value).unwrap()
    }

    fn scores(values: &[f32]) -> Vec<Similarity> {
        values.iter().copied().map(score).collect()
    }

    fn by(side: StatisticsSide, nearest: Option<u32>) -> Normalisation {
        let nearest = nearest.map(|count| NonZeroU32::new(count).unwrap());
        Normalisation::new(side, nearest, Normalisation::DEVIATION_FLOOR).unwrap()
    }

    fn pair(way: Normalisation, item: &[f32], probe: &[f32]) -> PairStatistics {
        PairStatistics {
            probe: way.statistics(scores(probe)).unwrap(),
            item: way.statistics(scores(item)).unwrap(),
        }
    }

    /// The values of the reference were computed from `f64` inputs; 0.6 as an `f32` is 2e-8 higher.
    #[test]
    fn z_t_s_and_as_norm_have_the_values_of_the_reference() {
        let item = [0.1, 0.2, 0.3, 0.15, 0.05];
        let probe = [0.05, 0.1, 0.2, 0.25, 0.3];
        for (side, nearest, expected) in [
            (StatisticsSide::Item, None, 5.114_896_105),
            (StatisticsSide::Probe, None, 4.528_976_475),
            (StatisticsSide::Both, None, 4.821_936_29),
            (StatisticsSide::Both, Some(3), 7.360_111_332),
        ] {
            let way = by(side, nearest);
            let statistics = pair(way, &item, &probe);
            let exact = side.exact(score(0.6), statistics);
            assert!((exact - expected).abs() < 2e-6, "{exact} is not {expected}");
            let found = f64::from(way.normalise(score(0.6), statistics).get());
            assert!((found - exact / (exact + 10.0)).abs() < 1e-7);
        }
    }

    /// The same values, to the last digit given, from statistics that are not rounded to `f32`.
    #[test]
    fn the_formula_agrees_with_the_reference_to_nine_digits() {
        let statistics = |values: &[f64]| {
            let count = crate::binomial::real(values.len() as u64);
            let mean = values.iter().sum::<f64>() / count;
            let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / count;
            CohortStatistics::new(mean, variance.sqrt()).unwrap()
        };
        let all = PairStatistics {
            probe: statistics(&[0.05, 0.1, 0.2, 0.25, 0.3]),
            item: statistics(&[0.1, 0.2, 0.3, 0.15, 0.05]),
        };
        let top = PairStatistics {
            probe: statistics(&[0.2, 0.25, 0.3]),
            item: statistics(&[0.2, 0.3, 0.15]),
        };
        // 0.6 has no exact `f32`. What rounding adds is subtracted again, by the slope.
        let excess = f64::from(0.6_f32) - 0.6;
        for (side, pair, expected) in [
            (StatisticsSide::Item, all, 5.114_896_105),
            (StatisticsSide::Probe, all, 4.528_976_475),
            (StatisticsSide::Both, all, 4.821_936_29),
            (StatisticsSide::Both, top, 7.360_111_332),
        ] {
            let per_item = 1.0 / pair.item.deviation();
            let per_probe = 1.0 / pair.probe.deviation();
            let slope = match side {
                StatisticsSide::Item => per_item,
                StatisticsSide::Probe => per_probe,
                StatisticsSide::Both => f64::midpoint(per_item, per_probe),
            };
            let found = side.exact(score(0.6), pair) - slope * excess;
            assert!((found - expected).abs() < 1e-9, "{found} is not {expected}");
        }
    }

    #[test]
    fn an_empty_cohort_is_refused_and_one_without_spread_has_the_floor() {
        let way = by(StatisticsSide::Both, None);
        let refused = way.statistics(vec![]).unwrap_err().to_string();
        assert!(refused.contains("cohort"), "{refused}");
        for flat in [vec![0.25; 9], vec![1.0]] {
            let found = way.statistics(scores(&flat)).unwrap();
            let floor = Normalisation::DEVIATION_FLOOR;
            assert!((found.deviation() - floor).abs() < 1e-15);
        }
        let far = pair(way, &[-1.0], &[-1.0]);
        assert!(way.normalise(score(1.0), far).get().is_finite());
    }

    #[test]
    fn what_is_no_number_or_out_of_range_is_refused() {
        for floor in [0.0, -1.0, 1.1, f64::NAN, f64::INFINITY] {
            assert!(Normalisation::new(StatisticsSide::Both, None, floor).is_err());
        }
        for (mean, deviation) in [(2.0, 0.1), (0.0, 0.0), (f64::NAN, 0.1), (0.0, f64::NAN)] {
            assert!(CohortStatistics::new(mean, deviation).is_err());
        }
        for text in [
            r#"{"mean":0.1,"deviation":0}"#,
            r#"{"mean":0.1,"deviation":0.1,"more":1}"#,
        ] {
            assert!(serde_json::from_str::<CohortStatistics>(text).is_err());
        }
        let text = r#"{"side":"both","nearest":0,"deviation_floor":0.001}"#;
        assert!(serde_json::from_str::<Normalisation>(text).is_err());
    }

    #[test]
    fn however_far_above_its_cohort_a_score_stays_in_range() {
        let narrow = Normalisation::new(StatisticsSide::Both, None, 1e-6).unwrap();
        let lowest = narrow.normalise(score(-1.0), pair(narrow, &[1.0], &[1.0]));
        let highest = narrow.normalise(score(1.0), pair(narrow, &[-1.0], &[-1.0]));
        assert!((-1.0..-0.999_9).contains(&lowest.get()));
        assert!((0.999_9..1.0).contains(&highest.get()));
        let unremarkable = narrow.normalise(score(0.5), pair(narrow, &[0.5], &[0.5]));
        assert_eq!(unremarkable.get().to_bits(), 0.0_f32.to_bits());
    }

    proptest! {
        #[test]
        fn the_score_never_falls_as_the_similarity_rises_and_is_never_nan(
            cohort in prop::collection::vec(-1.0_f32..=1.0, 1..12),
            a in -1.0_f32..=1.0, b in -1.0_f32..=1.0, nearest in prop::option::of(1_u32..20)
        ) {
            let (low, high) = if a <= b { (a, b) } else { (b, a) };
            for side in [StatisticsSide::Item, StatisticsSide::Probe, StatisticsSide::Both] {
                let way = by(side, nearest);
                let pair = pair(way, &cohort, &cohort[..cohort.len().div_ceil(2)]);
                let low = way.normalise(score(low), pair);
                let high = way.normalise(score(high), pair);
                prop_assert!(low <= high && !low.get().is_nan() && !high.get().is_nan());
            }
        }

        #[test]
        fn statistics_ignore_the_order_of_the_cohort_and_survive_json(
            cohort in prop::collection::vec(-1.0_f32..=1.0, 1..30),
            nearest in prop::option::of(1_u32..20)
        ) {
            let way = by(StatisticsSide::Both, nearest);
            let forward = way.statistics(scores(&cohort)).unwrap();
            let mut reversed = scores(&cohort);
            reversed.reverse();
            prop_assert_eq!(forward, way.statistics(reversed).unwrap());
            let text = serde_json::to_string(&forward).unwrap();
            let back: CohortStatistics = serde_json::from_str(&text).unwrap();
            prop_assert_eq!(back, forward);
        }
    }
}
