//! The costs of errors, and the threshold at which the expected cost is lowest.

use serde::{Deserialize, Serialize};

use super::CalibrationError;
use super::binomial::real;
use super::decision::Threshold;
use super::evidence::{LlrScale, Prior, ScoreEvidence};
use super::rates::recorded;
use super::sweep::{ErrorRates, ThresholdSweep};
use super::trials::Trials;
use matchpoint_vector::Similarity;

/// The costs of both kinds of errors and the share of mated searches, as they are written in files and flags.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Costs {
    /// The cost of accepting a stranger, in any unit; in [1e-9, 1e9].
    pub false_accept: f64,
    /// The cost of missing a mate, in the same unit; in [1e-9, 1e9].
    pub false_reject: f64,
    /// The share of searches that are mated (the prior).
    pub prior_mated: Prior,
}

/// Costs within their allowed ranges, which define the detection cost function (DCF).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Costs", into = "Costs")]
pub struct CostModel(Costs);

impl TryFrom<Costs> for CostModel {
    type Error = CalibrationError;

    fn try_from(costs: Costs) -> Result<Self, CalibrationError> {
        Self::new(costs)
    }
}

impl From<CostModel> for Costs {
    fn from(model: CostModel) -> Self {
        model.0
    }
}

impl CostModel {
    /// Checks the costs.
    ///
    /// # Errors
    /// Returns an error for a cost outside [1e-9, 1e9].
    pub fn new(costs: Costs) -> Result<Self, CalibrationError> {
        let named = [
            ("false accept", costs.false_accept),
            ("false reject", costs.false_reject),
        ];
        for (of, value) in named {
            if !(1e-9..=1e9).contains(&value) {
                return Err(CalibrationError::Cost { of, value });
            }
        }
        Ok(Self(Costs {
            false_accept: recorded(costs.false_accept),
            false_reject: recorded(costs.false_reject),
            prior_mated: costs.prior_mated,
        }))
    }

    /// The costs.
    #[must_use]
    pub fn costs(self) -> Costs {
        self.0
    }

    /// The expected cost of a search, P Cm FRR + (1 - P) Cf FAR, in the unit of the costs.
    #[must_use]
    pub fn cost_per_search(self, rates: ErrorRates) -> f64 {
        self.of_missing_all() * rates.frr + self.of_accepting_all() * rates.far
    }

    /// The normalised DCF: the expected cost divided by that of the better of two trivial rules, which are to
    /// accept nothing and to accept everything. At 1 or more, the scores are useless at these costs.
    #[must_use]
    pub fn dcf(self, rates: ErrorRates) -> f64 {
        let (reject, accept) = (self.of_missing_all(), self.of_accepting_all());
        let blind = if reject < accept { reject } else { accept };
        self.cost_per_search(rates) / blind
    }

    /// The log-likelihood ratio above which accepting costs less: eta = ln(Cf (1 - P) / (Cm P)).
    #[must_use]
    pub fn bayes_threshold(self) -> f64 {
        (self.0.false_accept / self.0.false_reject).ln() - self.0.prior_mated.log_odds()
    }

    fn of_missing_all(self) -> f64 {
        self.0.prior_mated.get() * self.0.false_reject
    }

    fn of_accepting_all(self) -> f64 {
        (1.0 - self.0.prior_mated.get()) * self.0.false_accept
    }
}

/// The cheapest threshold on the trials, compared with the one that calibrated scores alone would give.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CostOutcome {
    /// The threshold with the lowest cost on the trials; the highest one if several are equal.
    pub threshold: Threshold,
    /// Both error rates at this threshold, on the trials that chose it.
    pub rates: ErrorRates,
    /// The lowest normalised cost (minimum DCF).
    pub dcf_min: f64,
    /// The threshold at which the calibrated score reaches the Bayes threshold of the costs.
    pub bayes_threshold: Threshold,
    /// The normalised cost at that threshold (actual DCF), which is at least the minimum.
    pub dcf_actual: f64,
    /// The scale from scores to log-likelihood ratios, fitted to searches whose best candidate is right and to
    /// strangers.
    pub scale: LlrScale,
    /// Cllr of the calibrated scores, in bits.
    pub cllr: f64,
    /// The lowest Cllr of any monotone calibration of the same scores, in bits.
    pub cllr_min: f64,
}

/// Finds the cheapest threshold by a sweep over the trials, and the one that follows from the costs and
/// calibrated scores.
///
/// The scale is fitted at a prior of one half to mated searches that found their label and to strangers that
/// found anything. The Bayes threshold then takes the others into account: mates that are lost at every
/// threshold make accepting less worthwhile, and strangers that find nothing make it more so.
///
/// # Errors
/// Returns an error if no mated search has the right candidate, or if no stranger has any candidate.
pub fn cheapest(trials: &Trials, model: CostModel) -> Result<CostOutcome, CalibrationError> {
    let sweep = ThresholdSweep::of(trials);
    let wide = |scores: &[Similarity]| scores.iter().map(|s| f64::from(s.get())).collect();
    let scores = ScoreEvidence::new(wide(sweep.right()), wide(sweep.strangers()))?;
    let scale = LlrScale::fit(&scores, Prior::EVEN);
    let found = |scores: &[Similarity], of: u64| (real(scores.len() as u64) / real(of)).ln();
    let reach = found(sweep.right(), sweep.mated()) - found(sweep.strangers(), sweep.non_mated());
    let bayes_threshold = scale.threshold_at(model.bayes_threshold() - reach);
    // Both kinds exist, because otherwise the evidence would have been refused.
    let none = || CalibrationError::NoEvidence { kind: "mated" };
    let actual = sweep.rates(bayes_threshold).ok_or_else(none)?;
    // A lower cost can only occur at the score of a mate, or if nothing is accepted.
    let (mut threshold, mut rates) = (
        Threshold::ACCEPT_NOTHING,
        sweep.rates(Threshold::ACCEPT_NOTHING).ok_or_else(none)?,
    );
    for candidate in sweep.right().iter().rev().copied().map(Threshold::at) {
        let there = sweep.rates(candidate).ok_or_else(none)?;
        if model.dcf(there) < model.dcf(rates) {
            (threshold, rates) = (candidate, there);
        }
    }
    let evidence = scores.map(|score| scale.llr(score));
    Ok(CostOutcome {
        threshold,
        rates: rates.recorded(),
        dcf_min: recorded(model.dcf(rates)),
        bayes_threshold,
        dcf_actual: recorded(model.dcf(actual)),
        scale,
        cllr: recorded(evidence.cllr()),
        cllr_min: recorded(scores.min_cllr()),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::trials::{MatedSearch, NonMatedSearch, StrangerOrigin, Top};

    fn model(false_accept: f64, false_reject: f64, prior: f64) -> CostModel {
        CostModel::new(Costs {
            false_accept,
            false_reject,
            prior_mated: Prior::new(prior).unwrap(),
        })
        .unwrap()
    }

    fn close(found: f64, expected: f64, tolerance: f64) {
        let error = (found - expected).abs();
        assert!(
            error <= tolerance * (1.0 + expected.abs()),
            "{found} is not {expected}"
        );
    }

    fn trials(mated: &[(f32, bool)], strangers: &[Option<f32>]) -> Trials {
        let mated = mated
            .iter()
            .enumerate()
            .map(|(i, &(score, label_matches))| MatedSearch {
                label: format!("m{i}"),
                probe: format!("m{i}"),
                top: Similarity::new(score).map(|score| Top {
                    score,
                    label_matches,
                }),
            });
        let strangers = strangers
            .iter()
            .enumerate()
            .map(|(i, &score)| NonMatedSearch {
                label: format!("s{i}"),
                probe: format!("s{i}"),
                top_score: score.and_then(Similarity::new),
                origin: StrangerOrigin::NeverEnrolled,
            });
        Trials::new(mated.collect(), strangers.collect()).unwrap()
    }

    /// A recorded number has 12 digits, and where both trivial rules cost very different amounts, a DCF is in
    /// the thousands: its error is relative.
    fn up_to_rounding(dcf: f64) -> f64 {
        dcf + 1e-9 * (1.0 + dcf)
    }

    #[test]
    fn the_cheapest_threshold_is_cheapest_where_a_cost_is_in_the_thousands() {
        let mut mated = vec![(0.0, false); 31];
        mated.push((0.0, true));
        let strangers: Vec<_> = (0..17).map(|i| (i % 5 == 0).then_some(0.0)).collect();
        let costs = model(0.01, 1.0, 0.981_635_365_612_570_4);
        let trials = trials(&mated, &strangers);
        let found = cheapest(&trials, costs).unwrap();
        assert!(found.dcf_min > 1_000.0, "{found:?}");
        let sweep = ThresholdSweep::of(&trials);
        for threshold in sweep.thresholds() {
            assert!(found.dcf_min <= up_to_rounding(costs.dcf(sweep.rates(threshold).unwrap())));
        }
    }

    #[test]
    fn bayes_thresholds_agree_with_the_reference() {
        close(model(1.0, 1.0, 0.01).bayes_threshold(), 4.595_119_85, 1e-9);
        close(
            model(10.0, 1.0, 0.001).bayes_threshold(),
            9.209_339_872,
            1e-10,
        );
        close(model(1.0, 1.0, 0.5).bayes_threshold(), 0.0, 1e-15);
    }

    #[test]
    fn a_blind_rule_costs_one_and_both_errors_count() {
        let costs = model(10.0, 1.0, 0.01);
        let rates = |far, frr| ErrorRates { far, frr };
        close(costs.dcf(rates(0.0, 1.0)), 1.0, 1e-12);
        close(
            costs.dcf(rates(0.001, 0.2)),
            0.2 + 0.99 * 10.0 * 0.001 / 0.01,
            1e-12,
        );
        close(costs.cost_per_search(rates(0.001, 0.2)), 0.0119, 1e-12);
        close(model(1.0, 10.0, 0.9).dcf(rates(1.0, 0.0)), 1.0, 1e-12);
    }

    #[test]
    fn costs_move_the_cheapest_threshold_of_the_toy() {
        let toy = trials(
            &[
                (0.80, true),
                (0.62, true),
                (0.58, false),
                (0.41, true),
                (0.70, true),
            ],
            &[Some(0.75), Some(0.45), Some(0.30), Some(0.52)],
        );
        let even = cheapest(&toy, model(1.0, 1.0, 0.5)).unwrap();
        assert_eq!(even.threshold.get().to_bits(), 0.62_f32.to_bits());
        close(even.dcf_min, 0.65, 1e-12);
        let strict = cheapest(&toy, model(1.0, 1.0, 0.1)).unwrap();
        assert_eq!(strict.threshold.get().to_bits(), 0.80_f32.to_bits());
        close(strict.dcf_min, 0.8, 1e-12);
        let stricter = cheapest(&trials(&[(0.5, true)], &[Some(0.6)]), model(9.0, 1.0, 0.5));
        assert_eq!(stricter.unwrap().threshold, Threshold::ACCEPT_NOTHING);
    }

    #[test]
    fn calibrated_scores_come_close_to_the_cheapest_threshold() {
        // Normal scores of equal spread, whose log-likelihood ratio is linear in the score, as the scale
        // assumes.
        let quantiles = |mean: f64| {
            (0..400).map(move |i| {
                let tail = (f64::from(i) + 0.5) / 400.0;
                mean + 0.1 * crate::binomial::normal_quantile(tail)
            })
        };
        #[expect(clippy::cast_possible_truncation, reason = "scores are f32")]
        let narrow = |value: f64| value as f32;
        let mated: Vec<_> = quantiles(0.6).map(|s| (narrow(s), true)).collect();
        let strangers: Vec<_> = quantiles(0.3).map(|s| Some(narrow(s))).collect();
        let found = cheapest(&trials(&mated, &strangers), model(1.0, 1.0, 0.3)).unwrap();
        close(found.scale.slope, 30.0, 0.02);
        let loss = found.dcf_actual - found.dcf_min;
        assert!((0.0..0.02).contains(&loss), "{found:?}");
        assert!(found.cllr_min <= found.cllr && found.cllr - found.cllr_min < 0.02);
        // Half of the mates are lost. The ratio of a score stays the same, but accepting is worth half as much.
        let lost = mated.iter().enumerate().map(|(i, &(s, _))| (s, i % 2 == 0));
        let halved = cheapest(
            &trials(&lost.collect::<Vec<_>>(), &strangers),
            model(1.0, 1.0, 0.3),
        );
        let moved = f64::from(halved.unwrap().bayes_threshold.get())
            - f64::from(found.bayes_threshold.get());
        close(moved, 2.0_f64.ln() / found.scale.slope, 0.01);
    }

    #[test]
    fn numbers_out_of_range_are_refused() {
        for prior in [0.0, 1.0, f64::NAN, -1.0] {
            assert!(Prior::new(prior).is_err());
        }
        for text in [
            r#"{"false_accept":0.0,"false_reject":1.0,"prior_mated":0.5}"#,
            r#"{"false_accept":1.0,"false_reject":-1.0,"prior_mated":0.5}"#,
            r#"{"false_accept":1.0,"false_reject":1.0,"prior_mated":1.0}"#,
        ] {
            assert!(serde_json::from_str::<CostModel>(text).is_err());
        }
        let text = serde_json::to_string(&model(10.0, 1.0, 0.01)).unwrap();
        assert_eq!(
            serde_json::from_str::<CostModel>(&text).unwrap(),
            model(10.0, 1.0, 0.01)
        );
    }

    proptest! {
        #[test]
        fn no_threshold_is_cheaper_and_no_scale_beats_the_pooled_one(
            mated in prop::collection::vec((-9_i8..=9, any::<bool>()), 1..40),
            strangers in prop::collection::vec(prop::option::of(-9_i8..=9), 1..40),
            prior in 0.001_f64..0.999, cost in 0.01_f64..100.0
        ) {
            let narrow = |level: i8| f32::from(level) / 9.0;
            let mated: Vec<_> = mated.into_iter().map(|(l, right)| (narrow(l), right)).collect();
            let strangers: Vec<_> = strangers.into_iter().map(|l| l.map(narrow)).collect();
            let trials = trials(&mated, &strangers);
            let costs = model(cost, 1.0, prior);
            let Ok(found) = cheapest(&trials, costs) else { return Ok(()) };
            let sweep = ThresholdSweep::of(&trials);
            for threshold in sweep.thresholds() {
                let dcf = costs.dcf(sweep.rates(threshold).unwrap());
                prop_assert!(found.dcf_min <= up_to_rounding(dcf));
            }
            prop_assert!(found.dcf_min <= up_to_rounding(found.dcf_actual));
            prop_assert!(found.scale.slope.is_finite() && found.scale.offset.is_finite());
            prop_assert!(found.scale.slope < 0.0 || found.cllr_min <= found.cllr + 1e-9);
        }
    }
}
