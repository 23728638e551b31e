//! The design of an audit: it samples few decisions far from the threshold, and many where errors are likely.
//!
//! This is stratified sampling by score (Cochran, Sampling Techniques, chapter 5). Any design gives unbiased
//! estimates, as long as each decision's sampling probability is above zero, is known, and is stored with the
//! decision. A good design only needs fewer labels.

use serde::{Deserialize, Serialize};

use super::MonitoringError;
use crate::binomial::real;
use crate::decision::{Decision, Threshold};
use matchpoint_vector::Similarity;

/// The probability with which a decision is sampled for the audit; in [1e-6, 1].
///
/// It is fixed before the truth is known and is stored with the decision, because a label without it says
/// nothing about a rate.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(try_from = "f64", into = "f64")]
pub struct Inclusion(f64);

impl Inclusion {
    /// Every decision is sampled.
    pub const ALWAYS: Self = Self(1.0);
    /// With a lower probability, one label would represent more than a million decisions.
    const MIN: f64 = 1e-6;

    /// Takes the probability as a fraction, such as 0.05.
    ///
    /// # Errors
    /// Returns an error for a value outside [1e-6, 1].
    pub fn new(value: f64) -> Result<Self, MonitoringError> {
        if !(Self::MIN..=1.0).contains(&value) {
            return Err(MonitoringError::Inclusion { value });
        }
        Ok(Self(value))
    }

    /// The probability as a fraction.
    #[must_use]
    pub fn get(self) -> f64 {
        self.0
    }

    /// Whether the decision with this `sampling_hash` is sampled.
    ///
    /// The hash is computed from the decision's id and has 64 uniformly distributed bits. It must not depend
    /// on the score or the truth. A decision that is sampled with some probability is also sampled with the
    /// same and with any higher probability.
    #[must_use]
    pub fn samples(self, sampling_hash: u64) -> bool {
        uniform(sampling_hash) < self.0
    }
}

/// A sampling hash as a number in [0, 1), from its first 53 bits, because an f64 represents 53 bits exactly.
pub(super) fn uniform(sampling_hash: u64) -> f64 {
    real(sampling_hash >> 11) * 2.0_f64.powi(-53)
}

impl From<Inclusion> for f64 {
    fn from(inclusion: Inclusion) -> Self {
        inclusion.0
    }
}

impl TryFrom<f64> for Inclusion {
    type Error = MonitoringError;

    fn try_from(value: f64) -> Result<Self, MonitoringError> {
        Self::new(value)
    }
}

/// The design of an audit: ranges of the distance score - threshold, each with the probability of sampling
/// a decision in it.
///
/// Stratum i contains distances from edge i - 1, inclusive, to edge i, exclusive; the first and the last
/// stratum are unbounded outwards. One edge is 0, so that each stratum has either accepts only or rejects
/// only.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "UncheckedStrata")]
pub struct Strata {
    edges: Vec<f64>,
    inclusion: Vec<Inclusion>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct UncheckedStrata {
    edges: Vec<f64>,
    inclusion: Vec<Inclusion>,
}

impl TryFrom<UncheckedStrata> for Strata {
    type Error = MonitoringError;

    fn try_from(raw: UncheckedStrata) -> Result<Self, MonitoringError> {
        Self::new(raw.edges, raw.inclusion)
    }
}

/// The stratum of a decision.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DecisionStratum {
    /// The index of the stratum, counted from the lowest scores.
    pub stratum: usize,
    /// Whether the decision is an ACCEPT.
    pub accepted: bool,
    /// The probability of sampling the decision.
    pub inclusion: Inclusion,
}

/// With more strata than this, too few labels would fall into each.
const STRATA_MAX: usize = 32;

/// The edges of the usual design. The cosine scores of searches spread over a few tenths.
const USUAL_EDGES: [f64; 5] = [-0.2, -0.05, 0.0, 0.05, 0.15];
const USUAL_INCLUSION: [f64; 6] = [0.005, 0.02, 0.2, 0.2, 0.1, 0.02];

impl Strata {
    /// Takes the edges in rising order, and the probability of each stratum from the lowest scores up.
    ///
    /// # Errors
    /// Returns an error if the edges do not rise, lie outside (-2, 2) or do not include 0, if the number of
    /// probabilities is not one more than the number of edges, and for more than 32 strata.
    pub fn new(edges: Vec<f64>, inclusion: Vec<Inclusion>) -> Result<Self, MonitoringError> {
        let mut before = -2.0;
        for &value in &edges {
            if !(before < value && value < 2.0) {
                return Err(MonitoringError::Edge { value });
            }
            before = value;
        }
        if !edges.iter().any(|edge| edge.abs() <= 0.0) {
            return Err(MonitoringError::NoEdgeAtThreshold);
        }
        if inclusion.len() != edges.len() + 1 {
            return Err(MonitoringError::RateCount {
                edges: edges.len(),
                rates: inclusion.len(),
            });
        }
        if STRATA_MAX < inclusion.len() {
            return Err(MonitoringError::TooManyStrata {
                count: inclusion.len(),
                limit: STRATA_MAX,
            });
        }
        Ok(Self { edges, inclusion })
    }

    /// The same strata relative to a threshold that is higher by `by`, which must be one of the edges; `None`
    /// if it is not, or if an edge would be out of range.
    #[must_use]
    pub fn above(&self, by: f64) -> Option<Self> {
        let edges = self.edges.iter().map(|edge| edge - by).collect();
        Self::new(edges, self.inclusion.clone()).ok()
    }

    /// A design for the start, before any decisions were counted. It samples a fifth of the decisions within
    /// 0.05 of the threshold, a tenth of the accepts beyond, and one in 200 of the decisions far below. Once
    /// a period is counted, [`Strata::for_budget`] fits it to the number of labels wanted.
    #[must_use]
    pub fn usual() -> Self {
        Self {
            edges: USUAL_EDGES.to_vec(),
            inclusion: USUAL_INCLUSION.map(Inclusion).to_vec(),
        }
    }

    /// The stratum of a decision that was made at `threshold`. `best` is the highest score found; if it is
    /// `None`, the search found nothing, which is a reject in the lowest stratum.
    #[must_use]
    pub fn place(&self, best: Option<Similarity>, threshold: Threshold) -> DecisionStratum {
        let stratum = best.map_or(0, |score| {
            // The sign is exact: the difference of two unequal f32 values is not zero in f64.
            let distance = f64::from(score.get()) - f64::from(threshold.get());
            self.edges.partition_point(|&edge| edge <= distance)
        });
        DecisionStratum {
            stratum,
            accepted: threshold.decide(best) == Decision::Accept,
            inclusion: self.inclusion(stratum).unwrap_or(Inclusion::ALWAYS),
        }
    }

    /// The same strata with all probabilities multiplied by one factor, so that `labels` labels are expected
    /// from `decisions`, the number of decisions in each stratum of a period.
    ///
    /// There is one factor for all strata because it then cancels in the evidence (`sequential::Bet`), so the
    /// budget can follow the traffic without a new design. No probability exceeds 1 or falls below 1e-6, so a
    /// very large budget is not used up, and a very small one is exceeded.
    ///
    /// # Errors
    /// Returns an error if the number of counts is not the number of strata.
    pub fn for_budget(&self, decisions: &[f64], labels: f64) -> Result<Self, MonitoringError> {
        self.same_number(decisions.len())?;
        let probabilities = || self.inclusion.iter().map(|inclusion| inclusion.0);
        let pairs = probabilities().zip(decisions);
        let expected: f64 = pairs.map(|(probability, count)| probability * count).sum();
        let most = 1.0 / probabilities().fold(Inclusion::MIN, f64::max);
        let least = Inclusion::MIN / self.floor().0;
        // If no labels are expected, no factor can change that, so the design stays as it is.
        let scale = if 0.0 < expected {
            (labels / expected).min(most).max(least)
        } else {
            1.0
        };
        let scaled =
            |inclusion: &Inclusion| Inclusion((inclusion.0 * scale).clamp(Inclusion::MIN, 1.0));
        Ok(Self {
            edges: self.edges.clone(),
            inclusion: self.inclusion.iter().map(scaled).collect(),
        })
    }

    /// The edges, in rising order.
    #[must_use]
    pub fn edges(&self) -> &[f64] {
        &self.edges
    }

    /// The number of strata.
    #[must_use]
    pub fn count(&self) -> usize {
        self.inclusion.len()
    }

    /// Whether the decisions of a stratum are accepts; `None` if there is no such stratum.
    #[must_use]
    pub fn accepts(&self, stratum: usize) -> Option<bool> {
        (stratum < self.count()).then(|| self.first_accepting() <= stratum)
    }

    /// The probability of sampling a decision of a stratum.
    #[must_use]
    pub fn inclusion(&self, stratum: usize) -> Option<Inclusion> {
        self.inclusion.get(stratum).copied()
    }

    /// The lowest probability of any stratum.
    #[must_use]
    pub fn floor(&self) -> Inclusion {
        let lowest = self.inclusion.iter().map(|inclusion| inclusion.0);
        Inclusion(lowest.fold(1.0, f64::min))
    }

    /// The index of the stratum just above the threshold; the one before it lies just below.
    #[must_use]
    pub fn first_accepting(&self) -> usize {
        self.edges.partition_point(|&edge| edge <= 0.0)
    }

    pub(super) fn same_number(&self, counts: usize) -> Result<(), MonitoringError> {
        if counts == self.count() {
            return Ok(());
        }
        Err(MonitoringError::CountsOfAnother {
            strata: self.count(),
            counts,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn score(value: f32) -> Option<Similarity> {
        Similarity::new(value)
    }

    fn rates(values: &[f64]) -> Vec<Inclusion> {
        values.iter().map(|&v| Inclusion::new(v).unwrap()).collect()
    }

    #[test]
    fn a_tie_falls_just_above_the_threshold_and_one_step_less_just_below() {
        let strata = Strata::usual();
        for value in [-0.3, 0.1, 0.47, 0.999_999_9] {
            let threshold = Threshold::new(value).unwrap();
            let tie = strata.place(score(value), threshold);
            assert_eq!((tie.stratum, tie.accepted), (3, true));
            let below = strata.place(score(value.next_down()), threshold);
            assert_eq!((below.stratum, below.accepted), (2, false));
        }
        let nothing = strata.place(None, Threshold::ACCEPT_ANYTHING_FOUND);
        assert_eq!((nothing.stratum, nothing.accepted), (0, false));
        let strict = strata.place(score(1.0), Threshold::ACCEPT_NOTHING);
        assert_eq!((strict.stratum, strict.accepted), (2, false));
    }

    #[test]
    fn a_design_that_cannot_be_weighted_is_refused() {
        for value in [0.0, -0.1, 1.1, f64::NAN] {
            assert!(Inclusion::new(value).is_err());
        }
        let refused = |edges: &[f64], values: &[f64]| {
            Strata::new(edges.to_vec(), rates(values))
                .unwrap_err()
                .to_string()
        };
        assert!(refused(&[-0.1, 0.1], &[0.1; 3]).contains("no edge"));
        assert!(refused(&[0.1, 0.0], &[0.1; 3]).contains("edge 0 "));
        assert!(refused(&[0.0, f64::NAN], &[0.1; 3]).contains("edge NaN"));
        assert!(refused(&[0.0], &[0.1; 3]).contains("1 edges make 2 strata"));
        let many: Vec<f64> = (0..32_u8).map(|i| f64::from(i) / 100.0).collect();
        assert!(refused(&many, &[0.1; 33]).contains("over the limit of 32"));
        assert!(
            serde_json::from_str::<Strata>(r#"{"edges":[0.0],"inclusion":[0.0,1.0]}"#).is_err()
        );
        let text = serde_json::to_string(&Strata::usual()).unwrap();
        assert_eq!(
            serde_json::from_str::<Strata>(&text).unwrap(),
            Strata::usual()
        );
    }

    #[test]
    fn the_extreme_lots_are_drawn_as_their_probability_says() {
        assert!(Inclusion::ALWAYS.samples(u64::MAX));
        let half = Inclusion::new(0.5).unwrap();
        assert!(half.samples((1 << 63) - 1) && !half.samples(1 << 63));
        assert!(Inclusion::new(1e-6).unwrap().samples(0));
    }

    #[test]
    fn a_budget_is_what_is_expected_to_be_drawn_and_what_is_drawn() {
        let decisions = [90_000.0, 9_000.0, 600.0, 400.0, 0.0, 100_000.0];
        let usual = Strata::usual();
        let strata = usual.for_budget(&decisions, 500.0).unwrap();
        let expected: f64 = (0..6)
            .map(|i| decisions[i] * strata.inclusion(i).unwrap().get())
            .sum();
        assert!((expected - 500.0).abs() < 1e-9, "{expected}");
        // Hashes are uniform, so the sampled number matches the probability within four standard deviations.
        let mut sampling_hash = 0_u64;
        let mut sampled = 0_u32;
        for (stratum, count) in [90_000, 9_000, 600, 400, 0, 100_000]
            .into_iter()
            .enumerate()
        {
            for _ in 0..count {
                sampling_hash = sampling_hash.wrapping_add(0x9E37_79B9_7F4A_7C15);
                sampled += u32::from(strata.inclusion(stratum).unwrap().samples(sampling_hash));
            }
        }
        assert!((410..=590).contains(&sampled), "{sampled}");
        // All probabilities are multiplied by the same factor.
        for i in 0..6 {
            let [is, was] = [&strata, &usual].map(|s| s.inclusion(i).unwrap().get());
            assert!((is / was - strata.floor().get() / usual.floor().get()).abs() < 1e-12);
        }
        let all = usual.for_budget(&decisions, 1e9).unwrap();
        assert_eq!(all.inclusion(3), Some(Inclusion::ALWAYS));
        let none = usual.for_budget(&decisions, 1e-9).unwrap();
        assert_eq!(none.floor(), Inclusion(Inclusion::MIN));
        assert_eq!(usual.for_budget(&[0.0; 6], 0.0).unwrap(), usual);
        assert!(usual.for_budget(&[1.0], 5.0).is_err());
    }

    proptest! {
        #[test]
        fn an_accepting_stratum_holds_every_accept_and_no_reject(
            best in -1.0_f32..=1.0, threshold in -1.0_f32..=1.0
        ) {
            let strata = Strata::usual();
            let place = strata.place(score(best), Threshold::new(threshold).unwrap());
            prop_assert_eq!(strata.accepts(place.stratum), Some(place.accepted));
            prop_assert_eq!(strata.inclusion(place.stratum), Some(place.inclusion));
        }

        #[test]
        fn what_is_drawn_stays_drawn_at_a_higher_probability(
            sampling_hash in any::<u64>(), low in 1e-6..1.0_f64, high in 1e-6..1.0_f64
        ) {
            let (low, high) = if low <= high { (low, high) } else { (high, low) };
            let draws = |value| Inclusion::new(value).unwrap().samples(sampling_hash);
            prop_assert!(!draws(low) || draws(high));
        }
    }
}
