//! The policies that turn trials into a threshold.

use serde::{Deserialize, Serialize};

use super::CalibrationError;
use super::certify::{Certificate, TargetFar, certify_either_way};
use super::certify_frr::{FrrCertificate, OneMatedPerLabel, TargetFrr, certify_frr};
use super::cost::{CostModel, CostOutcome, cheapest};
use super::decision::Threshold;
use super::estimate::{FarEstimate, estimate_far};
use super::rates::{Confidence, recorded};
use super::sweep::{ErrorRates, ThresholdSweep};
use super::trials::{StrangerOrigin, Trials};

/// What a threshold has to achieve.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CalibrationTarget {
    /// The lowest threshold whose FAR is certified to be at most the target.
    Far(TargetFar),
    /// The lowest threshold whose FAR is estimated to be at most the target. It uses every probe and reaches
    /// lower thresholds, but certifies nothing.
    FarEstimated(TargetFar),
    /// The highest threshold whose FRR is certified to be at most the target.
    Frr(TargetFrr),
    /// The threshold where both error rates are equal; an estimate.
    EqualError,
    /// The threshold with the lowest expected cost; an estimate.
    Cost(CostModel),
}

impl CalibrationTarget {
    /// The target FAR, certified or estimated; `None` for other policies.
    #[must_use]
    pub fn far(self) -> Option<TargetFar> {
        match self {
            Self::Far(far) | Self::FarEstimated(far) => Some(far),
            Self::Frr(_) | Self::EqualError | Self::Cost(_) => None,
        }
    }

    /// The certified target FRR; `None` for other policies.
    #[must_use]
    pub fn frr(self) -> Option<TargetFrr> {
        match self {
            Self::Frr(frr) => Some(frr),
            Self::Far(_) | Self::FarEstimated(_) | Self::EqualError | Self::Cost(_) => None,
        }
    }

    /// The confidence of the target; `None` for a plain estimate.
    #[must_use]
    pub fn confidence(self) -> Option<Confidence> {
        match self {
            Self::Far(far) | Self::FarEstimated(far) => Some(far.confidence()),
            Self::Frr(frr) => Some(frr.confidence()),
            Self::EqualError | Self::Cost(_) => None,
        }
    }

    /// The same target for one of so many thresholds that all hold together with the present confidence.
    ///
    /// # Errors
    /// Returns the errors of [`Confidence::one_of`].
    pub fn one_of(self, thresholds: usize) -> Result<Self, CalibrationError> {
        Ok(match self {
            Self::Far(far) => Self::Far(far.one_of(thresholds)?),
            Self::FarEstimated(far) => Self::FarEstimated(far.one_of(thresholds)?),
            Self::Frr(frr) => Self::Frr(frr.one_of(thresholds)?),
            Self::EqualError | Self::Cost(_) => self,
        })
    }

    /// The same policy with another target FAR; unchanged if the policy has none.
    #[must_use]
    pub fn for_far(self, far: TargetFar) -> Self {
        match self {
            Self::Far(_) => Self::Far(far),
            Self::FarEstimated(_) => Self::FarEstimated(far),
            Self::Frr(_) | Self::EqualError | Self::Cost(_) => self,
        }
    }
}

/// A threshold, and what it is based on.
#[derive(Clone, Debug, PartialEq)]
pub struct Choice {
    /// A score that is equal or higher is accepted.
    pub threshold: Threshold,
    /// The target.
    pub target: CalibrationTarget,
    /// Whether the target is certified or only estimated.
    pub standing: Strength,
    /// The figures that the threshold is based on.
    pub basis: ChoiceBasis,
    /// The assumptions of the promise or the estimate, in plain words.
    pub assumptions: Vec<String>,
}

impl Choice {
    /// The upper bound on the FAR at the confidence of the target, certified or estimated; `None` for other
    /// policies.
    #[must_use]
    pub fn far_bound(&self) -> Option<f64> {
        match self.basis {
            ChoiceBasis::Far(found) => Some(found.far_bound),
            ChoiceBasis::FarEstimated(found) => Some(found.far_upper),
            ChoiceBasis::Frr(_) | ChoiceBasis::EqualError(_) | ChoiceBasis::Cost(_) => None,
        }
    }

    /// Number of labels of strangers that the certificate of a FAR is based on; `None` without one.
    #[must_use]
    pub fn independent_trials(&self) -> Option<u64> {
        match self.basis {
            ChoiceBasis::Far(found) => Some(found.independent_trials),
            ChoiceBasis::FarEstimated(_)
            | ChoiceBasis::Frr(_)
            | ChoiceBasis::EqualError(_)
            | ChoiceBasis::Cost(_) => None,
        }
    }
}

/// How reliable a choice is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Strength {
    /// The target is kept with the stated confidence, for any number of trials and any distribution of scores,
    /// under the assumptions.
    Certified,
    /// The target is aimed at, and nothing is promised.
    Estimated,
}

/// The figures behind a threshold, by policy.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum ChoiceBasis {
    /// The exact bound on the FAR.
    Far(Certificate),
    /// The approximate bound on the FAR.
    FarEstimated(FarEstimate),
    /// The exact bound on the FRR.
    Frr(FrrCertificate),
    /// The point where the error rates cross.
    EqualError(EqualErrorPoint),
    /// The costs at the threshold.
    Cost(CostOutcome),
}

/// The point where the FAR, which falls as the threshold rises, meets the FRR, which grows.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EqualErrorPoint {
    /// The lowest threshold whose FAR is at most its FRR.
    pub threshold: Threshold,
    /// Both rates at the threshold. They are equal only by chance, because they change in steps.
    pub rates: ErrorRates,
    /// The equal error rate: the crossing of both rates, interpolated linearly between the threshold and the
    /// next lower one. In [0, 1].
    pub rate: f64,
}

/// Chooses a threshold. If one probe is drawn for each label, `seed` decides which.
///
/// # Errors
/// Returns an error if the trials cannot support the target, which says what would, and an error if a kind of
/// search that the target concerns is missing.
pub fn choose(
    target: CalibrationTarget,
    trials: &Trials,
    seed: u64,
) -> Result<Choice, CalibrationError> {
    let (threshold, basis) = match target {
        CalibrationTarget::Far(far) => {
            let found = certify_either_way(trials, seed, far)?;
            (found.threshold, ChoiceBasis::Far(found))
        }
        CalibrationTarget::FarEstimated(far) => {
            let found = estimate_far(trials, far)?;
            (found.threshold, ChoiceBasis::FarEstimated(found))
        }
        CalibrationTarget::Frr(frr) => {
            let found = certify_frr(&OneMatedPerLabel::sampled(trials, seed), frr)?;
            (found.threshold, ChoiceBasis::Frr(found))
        }
        CalibrationTarget::EqualError => {
            let found = equal_error(trials)?;
            (found.threshold, ChoiceBasis::EqualError(found))
        }
        CalibrationTarget::Cost(model) => {
            let found = cheapest(trials, model)?;
            (found.threshold, ChoiceBasis::Cost(found))
        }
    };
    let left_out = trials.non_mated_tally(StrangerOrigin::LeftOut).searches;
    Ok(Choice {
        threshold,
        target,
        standing: standing(target, left_out),
        basis,
        assumptions: assumptions(target),
    })
}

/// Finds the point where the error rates cross.
///
/// # Errors
/// Returns an error if a kind of search is missing, and if the FRR is above the FAR even when everything is
/// accepted, so that they never meet.
pub fn equal_error(trials: &Trials) -> Result<EqualErrorPoint, CalibrationError> {
    let sweep = ThresholdSweep::of(trials);
    for (kind, searches) in [("mated", sweep.mated()), ("non-mated", sweep.non_mated())] {
        if searches == 0 {
            return Err(CalibrationError::NoEvidence { kind });
        }
    }
    let mut below: Option<ErrorRates> = None;
    for threshold in sweep.thresholds() {
        let Some(rates) = sweep.rates(threshold) else {
            break;
        };
        if rates.frr < rates.far {
            below = Some(rates);
            continue;
        }
        let Some(below) = below.or((rates.frr <= rates.far).then_some(rates)) else {
            return Err(CalibrationError::NoEqualError {
                far: rates.far,
                frr: rates.frr,
            });
        };
        return Ok(EqualErrorPoint {
            threshold,
            rates: rates.recorded(),
            rate: recorded(crossing(below, rates)),
        });
    }
    // At the last threshold nothing is accepted, so the FAR is 0 and the FRR is 1.
    Err(CalibrationError::NoEvidence { kind: "mated" })
}

/// The rate at which the straight lines of both rates cross between two thresholds.
fn crossing(below: ErrorRates, at: ErrorRates) -> f64 {
    let (before, after) = (below.far - below.frr, at.frr - at.far);
    if before + after <= 0.0 {
        return at.far;
    }
    below.far + (at.far - below.far) * before / (before + after)
}

fn standing(target: CalibrationTarget, left_out: u64) -> Strength {
    match target {
        CalibrationTarget::Far(_) if left_out == 0 => Strength::Certified,
        CalibrationTarget::Frr(_) => Strength::Certified,
        CalibrationTarget::Far(_)
        | CalibrationTarget::FarEstimated(_)
        | CalibrationTarget::EqualError
        | CalibrationTarget::Cost(_) => Strength::Estimated,
    }
}

/// The assumptions of each policy, in addition to those that all share.
fn assumptions(target: CalibrationTarget) -> Vec<String> {
    /// A FAR that is refused goes by the number of labels alone, so that its advice may be followed.
    const BEFOREHAND: &str = "The target and the number of labels were fixed beforehand, not by scores, misses or rates that these labels showed.";
    let assumed: &[&str] = match target {
        CalibrationTarget::Far(_) => &[
            "Labels are independent draws from the strangers to come; one probe of each was drawn \
             blindly, so images of one label may resemble each other.",
            BEFOREHAND,
        ],
        CalibrationTarget::FarEstimated(_) => &[
            "Labels are independent draws from the strangers to come. The bound over them is \
             approximate: estimated, not certified.",
        ],
        CalibrationTarget::Frr(_) => &[
            "Labels are independent draws from those to be searched for, enrolled like them; one \
             probe of each was drawn blindly.",
            "A wrong candidate counts as a rejection does; no threshold undoes it, and a larger \
             gallery has more of them.",
            BEFOREHAND,
        ],
        CalibrationTarget::EqualError => &[
            "The rates are those of the trials that chose the threshold: estimated, not certified.",
        ],
        CalibrationTarget::Cost(_) => &[
            "The cost is that of the trials that chose the threshold: estimated, not certified.",
            "The share of mated searches is the prior that was given.",
        ],
    };
    assumed.iter().map(|text| (*text).to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use statrs::function::erf::erfc;

    use super::*;
    use crate::binomial;
    use crate::cost::Costs;
    use crate::evidence::Prior;
    use crate::trials::{MatedSearch, NonMatedSearch, Top};
    use matchpoint_vector::Similarity;

    fn far(far: f64, confidence: f64) -> TargetFar {
        TargetFar::new(far, confidence).unwrap()
    }

    fn costs(prior: f64) -> CostModel {
        CostModel::new(Costs {
            false_accept: 1.0,
            false_reject: 1.0,
            prior_mated: Prior::new(prior).unwrap(),
        })
        .unwrap()
    }

    /// Every policy, with targets that two labels can support.
    fn every_rule() -> [CalibrationTarget; 5] {
        [
            CalibrationTarget::Far(far(0.5, 0.5)),
            CalibrationTarget::FarEstimated(far(0.5, 0.6)),
            CalibrationTarget::Frr(TargetFrr::new(0.5, 0.5).unwrap()),
            CalibrationTarget::EqualError,
            CalibrationTarget::Cost(costs(0.5)),
        ]
    }

    fn mate(i: usize, score: Option<f32>, label_matches: bool) -> MatedSearch {
        MatedSearch {
            label: format!("m{i}"),
            probe: format!("m{i}"),
            top: score.and_then(Similarity::new).map(|score| Top {
                score,
                label_matches,
            }),
        }
    }

    fn stranger(i: usize, score: Option<f32>) -> NonMatedSearch {
        NonMatedSearch {
            label: format!("s{i}"),
            probe: format!("s{i}"),
            top_score: score.and_then(Similarity::new),
            origin: StrangerOrigin::NeverEnrolled,
        }
    }

    fn trials(mated: &[(Option<f32>, bool)], strangers: &[Option<f32>]) -> Trials {
        let mated = mated
            .iter()
            .enumerate()
            .map(|(i, &(s, right))| mate(i, s, right));
        let strangers = strangers.iter().enumerate().map(|(i, &s)| stranger(i, s));
        Trials::new(mated.collect(), strangers.collect()).unwrap()
    }

    fn toy() -> Trials {
        trials(
            &[
                (Some(0.80), true),
                (Some(0.62), true),
                (Some(0.58), false),
                (Some(0.41), true),
                (Some(0.70), true),
            ],
            &[Some(0.75), Some(0.45), Some(0.30), Some(0.52)],
        )
    }

    #[test]
    fn certified_thresholds_agree_with_mapie() {
        let text = include_str!("../tests/fixtures/oracle/policies.json");
        let oracle: serde_json::Value = serde_json::from_str(text).unwrap();
        for case in oracle["far"].as_array().unwrap() {
            let number = |name: &str| case[name].as_f64().unwrap();
            #[expect(clippy::cast_possible_truncation, reason = "scores are f32")]
            let narrow = |value: f64| value as f32;
            let scores = case["scores"].as_array().unwrap().iter();
            let scores: Vec<_> = scores.map(|s| s.as_f64().map(narrow)).collect();
            let target = far(number("target"), number("confidence"));
            let found = choose(CalibrationTarget::Far(target), &trials(&[], &scores), 0).unwrap();
            let expected = narrow(number("threshold"));
            assert_eq!(found.threshold.get().to_bits(), expected.to_bits());
            assert_eq!(
                target.accepts_allowed(scores.len() as u64),
                case["allowed"].as_u64()
            );
        }
        for case in oracle["intervals"].as_array().unwrap() {
            let (events, trials) = (case["events"].as_u64().unwrap(), &case["trials"]);
            let (trials, delta) = (
                trials.as_u64().unwrap(),
                1.0 - case["confidence"].as_f64().unwrap(),
            );
            let close = |found: f64, of: &serde_json::Value| {
                assert!((found - of.as_f64().unwrap()).abs() < 1e-9, "{found} {of}");
            };
            close(binomial::upper_bound(events, trials, delta), &case["upper"]);
            close(binomial::lower_bound(events, trials, delta), &case["lower"]);
            close(
                binomial::upper_bound(events, trials, delta / 2.0),
                &case["exact"][1],
            );
            close(
                binomial::lower_bound(events, trials, delta / 2.0),
                &case["exact"][0],
            );
        }
    }

    /// Hoeffding and Bentkus bound the p-value by min(exp(-n h(k / n, a)), e P(X <= k)) for losses in [0, 1].
    /// Here losses are 0 or 1, for which the tail itself is valid and smaller.
    #[test]
    fn the_exact_tail_is_never_above_the_bound_for_bounded_losses() {
        let hoeffding_bentkus = |events: u64, trials: u64, rate: f64| {
            let (n, seen) = (
                binomial::real(trials),
                binomial::real(events) / binomial::real(trials),
            );
            let seen = if seen < rate { seen } else { rate };
            let first = if seen <= 0.0 {
                0.0
            } else {
                seen * (seen / rate).ln()
            };
            let divergence = first + (1.0 - seen) * ((1.0 - seen) / (1.0 - rate)).ln();
            let hoeffding = (-n * divergence).exp();
            let bentkus = std::f64::consts::E * binomial::cdf(events, trials, rate);
            if hoeffding < bentkus {
                hoeffding
            } else {
                bentkus
            }
        };
        for (events, trials, bounded, exact) in [
            (3, 10_000, 0.028_024_348_6, 0.010_309_581_7),
            (5, 10_000, 0.182_101_433, 0.066_991_373_4),
            (0, 3_000, 0.049_712_394, 0.049_712_394),
        ] {
            let tail = binomial::cdf(events, trials, 1e-3);
            assert!((tail - exact).abs() < 1e-9);
            assert!((hoeffding_bentkus(events, trials, 1e-3) - bounded).abs() < 1e-9);
            assert!(tail <= hoeffding_bentkus(events, trials, 1e-3) + 1e-12);
        }
    }

    #[test]
    fn the_error_rates_of_the_toy_cross_at_two_in_five() {
        let found = equal_error(&toy()).unwrap();
        assert_eq!(found.threshold.get().to_bits(), 0.62_f32.to_bits());
        assert!((found.rate - 0.4).abs() < 1e-12);
        assert!((found.rates.far - 0.25).abs() < 1e-12 && (found.rates.frr - 0.4).abs() < 1e-12);
        let apart = trials(
            &[(Some(0.9), true), (Some(0.8), true)],
            &[Some(0.1), Some(0.2)],
        );
        let found = equal_error(&apart).unwrap();
        assert!(found.rate.abs() < 1e-12 && found.threshold.get().to_bits() == 0.8_f32.to_bits());
        let all_wrong = trials(&[(Some(0.9), false)], &[Some(0.1)]);
        assert!((equal_error(&all_wrong).unwrap().rate - 1.0).abs() < 1e-12);
        let never = equal_error(&trials(&[(None, false)], &[None, Some(0.1)])).unwrap_err();
        assert!(never.to_string().contains("never meet"), "{never}");
    }

    #[test]
    fn hostile_trials_have_a_clear_answer_from_every_rule() {
        let cases = [
            ("nothing", trials(&[], &[]), [false; 5]),
            (
                "no strangers",
                trials(&[(Some(0.5), true); 2], &[]),
                [false, false, true, false, false],
            ),
            (
                "no mated",
                trials(&[], &[Some(0.5); 2]),
                [true, true, false, false, false],
            ),
            (
                "one of each",
                trials(&[(Some(0.5), true)], &[Some(0.5)]),
                [true, true, true, true, true],
            ),
            (
                "three",
                trials(&[(Some(0.9), true)], &[Some(0.5), None]),
                [true; 5],
            ),
            (
                "equal",
                trials(&[(Some(0.5), true); 9], &[Some(0.5); 9]),
                [true; 5],
            ),
            (
                "duplicates",
                trials(&[(Some(1.0), true); 9], &[Some(1.0); 9]),
                [true; 5],
            ),
            (
                "found nothing",
                trials(&[(None, false); 9], &[None; 9]),
                [true, true, false, false, false],
            ),
            (
                "all wrong",
                trials(&[(Some(0.5), false); 9], &[Some(0.4); 9]),
                [true, true, false, true, false],
            ),
        ];
        for (name, trials, answered) in cases {
            for (target, answered) in every_rule().into_iter().zip(answered) {
                match choose(target, &trials, 7) {
                    Ok(choice) => {
                        assert!(answered, "{name}: {choice:?}");
                        assert!(!choice.assumptions.is_empty() && choice.target == target);
                    }
                    Err(refusal) => assert!(!answered, "{name}, {target:?}: {refusal}"),
                }
            }
        }
    }

    #[test]
    fn left_out_strangers_certify_no_far_and_say_so() {
        let mut left_out = stranger(0, Some(0.2));
        left_out.origin = StrangerOrigin::LeftOut;
        let strangers = vec![left_out, stranger(1, Some(0.1))];
        let mixed = Trials::new(vec![mate(0, Some(0.9), true)], strangers).unwrap();
        for target in every_rule() {
            let choice = choose(target, &mixed, 0).unwrap();
            let certified = matches!(target, CalibrationTarget::Frr(_));
            assert_eq!(choice.standing == Strength::Certified, certified);
        }
        let plain = choose(CalibrationTarget::Far(far(0.5, 0.5)), &toy(), 0).unwrap();
        assert_eq!(plain.standing, Strength::Certified);
    }

    #[test]
    fn a_target_survives_json() {
        for target in every_rule() {
            let text = serde_json::to_string(&target).unwrap();
            assert_eq!(
                serde_json::from_str::<CalibrationTarget>(&text).unwrap(),
                target,
                "{text}"
            );
        }
        assert!(
            serde_json::from_str::<CalibrationTarget>(r#"{"far":{"far":2.0,"confidence":0.9}}"#)
                .is_err()
        );
    }

    /// A stream of splitmix64.
    struct Random(u64);

    impl Random {
        fn uniform(&mut self) -> f64 {
            (binomial::real(crate::splitmix64::next(&mut self.0) >> 12) + 0.5) / 2.0_f64.powi(52)
        }

        fn normal(&mut self) -> f64 {
            (-2.0 * self.uniform().ln()).sqrt() * (std::f64::consts::TAU * self.uniform()).cos()
        }
    }

    fn normal_cdf(x: f64) -> f64 {
        erfc(-x / std::f64::consts::SQRT_2) / 2.0
    }

    const RUNS: u32 = 300;
    /// The standard deviation between labels; `WITHIN` is that between the probes of a label.
    const BETWEEN: f64 = 0.12;
    const WITHIN: f64 = 0.06;

    /// Draws `labels` labels with four probes each around `centre`, as (label, probe, score).
    fn draw(random: &mut Random, labels: usize, centre: f64) -> Vec<(usize, usize, f32)> {
        let mut probes = Vec::new();
        for label in 0..labels {
            let own = centre + BETWEEN * random.normal();
            for probe in 0..4 {
                #[expect(clippy::cast_possible_truncation, reason = "scores are f32")]
                let score = (own + WITHIN * random.normal()) as f32;
                probes.push((label, probe, score));
            }
        }
        probes
    }

    fn sorted(probes: &[(usize, usize, f32)]) -> Vec<f32> {
        let mut scores: Vec<f32> = probes.iter().map(|probe| probe.2).collect();
        scores.sort_by(f32::total_cmp);
        scores
    }

    fn share(count: u32) -> f64 {
        f64::from(count) / f64::from(RUNS)
    }

    /// 0.10 plus three standard errors of a share of that size.
    const AT_MOST: f64 = 0.10 + 3.0 * 0.017_32;

    /// How often the threshold of each rule has a true rate above `rate`: certified, estimated, naive quantile.
    fn shares_broken(labels: usize, rate: f64) -> [f64; 3] {
        let target = far(rate, 0.9);
        let spread = BETWEEN.hypot(WITHIN);
        let mut random = Random(11);
        let mut broken = [0_u32; 3];
        for run in 0..RUNS {
            let probes = draw(&mut random, labels, 0.2);
            let strangers = probes.iter().map(|&(label, probe, score)| NonMatedSearch {
                label: format!("s{label}"),
                probe: format!("s{label}-{probe}"),
                top_score: Similarity::new(score),
                origin: StrangerOrigin::NeverEnrolled,
            });
            let trials = Trials::new(vec![], strangers.collect()).unwrap();
            let chosen = |target| {
                let choice = choose(target, &trials, u64::from(run)).unwrap();
                choice.threshold.get()
            };
            let scores = sorted(&probes);
            let kept = scores.iter().filter(|&&score| {
                let above = scores.len() - scores.partition_point(|s| *s <= score);
                binomial::real(above as u64) <= rate * binomial::real(scores.len() as u64)
            });
            let naive = *kept.min_by(|a, b| a.total_cmp(b)).unwrap();
            let thresholds = [
                chosen(CalibrationTarget::Far(target)),
                chosen(CalibrationTarget::FarEstimated(target)),
                naive,
            ];
            for (count, threshold) in broken.iter_mut().zip(thresholds) {
                let truth = 1.0 - normal_cdf((f64::from(threshold) - 0.2) / spread);
                *count += u32::from(rate < truth);
            }
        }
        broken.map(share)
    }

    #[test]
    fn an_estimated_far_is_broken_less_often_than_a_naive_one_and_is_no_certificate() {
        for (labels, rate) in [(150, 0.03), (78, 0.03)] {
            let [certified, estimated, naive] = shares_broken(labels, rate);
            assert!(certified <= AT_MOST, "{certified}");
            assert!(certified < estimated && estimated < 0.25, "{estimated}");
            assert!(0.35 < naive, "{naive}");
        }
    }

    /// One mate in a hundred is lost at every threshold, at random by label and probe.
    #[test]
    fn a_certified_frr_is_kept_and_the_naive_quantile_is_not() {
        const LOST: f64 = 0.01;
        let target = TargetFrr::new(0.05, 0.9).unwrap();
        let spread = BETWEEN.hypot(WITHIN);
        let mut random = Random(12);
        let (mut certified, mut naive) = (0, 0);
        for run in 0..RUNS {
            let probes = draw(&mut random, 200, 0.6);
            let broken = |t: f32| {
                let below = normal_cdf((f64::from(t) - 0.6) / spread);
                u32::from(0.05 < LOST + (1.0 - LOST) * below)
            };
            let mut kept = Vec::new();
            let searches = probes.iter().map(|&(label, probe, score)| {
                let label_matches = LOST < random.uniform();
                kept.push((label, probe, if label_matches { score } else { -1.0 }));
                MatedSearch {
                    label: format!("m{label}"),
                    probe: format!("m{label}-{probe}"),
                    top: Similarity::new(score).map(|score| Top {
                        score,
                        label_matches,
                    }),
                }
            });
            let trials = Trials::new(searches.collect(), vec![]).unwrap();
            let found = choose(CalibrationTarget::Frr(target), &trials, u64::from(run));
            // A refusal promises nothing, so it cannot break a promise.
            certified += found.map_or(0, |found| broken(found.threshold.get()));
            naive += broken(sorted(&kept)[probes.len() / 20]);
        }
        assert!(share(certified) <= AT_MOST, "{}", share(certified));
        assert!(0.35 < share(naive), "{}", share(naive));
    }
}
