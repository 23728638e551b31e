//! Measures whether a remedy helps, on labels that it was not fitted to.
//!
//! The labels are split into two halves by a seeded hash. The threshold of each remedy is chosen on one half,
//! by the same rule and for the same target, and measured on the other half. A remedy is preferred only if its
//! gain is larger than its uncertainty over labels.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::comparison_set::{ComparisonSet, DecidedSearch, FigureChanges, Resampling, differences};
use super::error::AnalysisError;
use super::remedy::{
    Fitted, Remedy, RemedyPlan, RemedyTrial, Rule, fit_by, refuse_without_input, seeded_number,
};
use super::remedy_measured::MeasuredRemedy;
use super::remedy_verdict::{RemedyVerdict, conclusion, sentence, verdict};
use crate::CalibrationError;
use crate::binomial::real;
use crate::certify::TargetFar;
use crate::decision::Decision;
use crate::rates::{Confidence, Rate, recorded};

/// A remedy with its measurements and the verdict.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RemedyOutcome {
    /// The measurements on the measuring half.
    pub measured: MeasuredRemedy,
    /// Its figures minus those of the plain threshold. With c remedies, each interval has a confidence of 1 -
    /// 0.05 / c (Bonferroni), because each remedy could seem better by chance. The intervals take the fitted
    /// thresholds as given; they do not include the variation of thresholds between fitting halves.
    pub differences: FigureChanges,
    /// The verdict.
    pub verdict: RemedyVerdict,
    /// The verdict in words, with the figures behind it.
    pub sentence: String,
}

/// The comparison of all remedies on the same labels.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RemedyComparison {
    /// The plan of the comparison.
    pub plan: RemedyPlan,
    /// Number of labels that thresholds were chosen from.
    pub fitting_labels: u64,
    /// Number of labels that everything was measured on.
    pub measuring_labels: u64,
    /// The measurements of the plain threshold on similarity.
    pub one_threshold: MeasuredRemedy,
    /// The remedies, in the order of the plan.
    pub remedies: Vec<RemedyOutcome>,
}

/// Fits each remedy of the plan on half of the labels, and measures it on the other half.
///
/// # Errors
/// Returns an error if a probe occurs twice, if the trials lack the statistics that a remedy needs, if a half
/// has no mated or no non-mated searches, or if the fitting half has too few labels for the target.
pub fn compare(
    trials: &[RemedyTrial],
    plan: &RemedyPlan,
) -> Result<RemedyComparison, AnalysisError> {
    if !(200..=100_000).contains(&plan.resamples) {
        let value = plan.resamples;
        return Err(AnalysisError::Resamples { value });
    }
    refuse_repeats(trials)?;
    let remedies = remedies(plan);
    for &remedy in &remedies {
        refuse_without_input(trials, remedy)?;
    }
    let bench = SplitTrials::new(trials, plan)?;
    let one_fitted = bench.fit(Remedy::None)?;
    let (one_panel, mut one_threshold) = bench.measure(one_fitted)?;
    one_threshold.band_variance = bench.band_variance(Remedy::None)?;
    // Each remedy could seem better by chance, so delta is divided among them (Bonferroni).
    let delta = Confidence::DISPLAY.delta() / real((remedies.len() as u64).max(1));
    let draws = Resampling {
        seed: seeded_number(plan.seed, &["labels"]),
        resamples: plan.resamples,
        confidence: Confidence::new(1.0 - delta)?,
    };
    let mut compared = Vec::with_capacity(remedies.len());
    for remedy in remedies {
        let (panel, mut measured) = bench.measure(bench.fit(remedy)?)?;
        measured.band_variance = bench.band_variance(remedy)?;
        let changes = differences(&one_panel, &panel, draws);
        let verdict = verdict(&measured, &changes);
        let sentence = sentence(&measured, &one_threshold, &changes);
        compared.push(RemedyOutcome {
            sentence: format!("{sentence}: {}", conclusion(verdict, &measured, &changes)),
            measured,
            differences: changes,
            verdict,
        });
    }
    Ok(RemedyComparison {
        plan: plan.clone(),
        fitting_labels: labels(&bench.fitting),
        measuring_labels: one_panel.labels(),
        one_threshold,
        remedies: compared,
    })
}

/// The remedies of the plan without repetitions, in the order given.
fn remedies(plan: &RemedyPlan) -> Vec<Remedy> {
    let mut seen = BTreeSet::from([Remedy::None]);
    let remedies = plan.remedies.iter().copied();
    remedies.filter(|&remedy| seen.insert(remedy)).collect()
}

/// The trials, split by label.
struct SplitTrials<'a> {
    plan: &'a RemedyPlan,
    fitting: Vec<&'a RemedyTrial>,
    /// Each trial with a mark for the half of its label's probes that it belongs to.
    measuring: Vec<(&'a RemedyTrial, bool)>,
}

impl<'a> SplitTrials<'a> {
    fn new(trials: &'a [RemedyTrial], plan: &'a RemedyPlan) -> Result<Self, AnalysisError> {
        let (fitting, measuring) = split(trials, plan.seed);
        for (half, kind, found) in [
            ("fitting", "non-mated", fitting.iter().any(|t| !t.mated)),
            ("measuring", "mated", measuring.iter().any(|t| t.mated)),
            ("measuring", "non-mated", measuring.iter().any(|t| !t.mated)),
        ] {
            if !found {
                return Err(AnalysisError::EmptyHalf { half, kind });
            }
        }
        let measuring = halve_probes(measuring, plan.seed);
        Ok(Self {
            plan,
            fitting,
            measuring,
        })
    }

    fn fit(&self, remedy: Remedy) -> Result<Fitted, AnalysisError> {
        let fitted = fit_by(&self.fitting, remedy, self.plan.rule, self.plan);
        fitted.map_err(|error| {
            if let AnalysisError::Calibration(CalibrationError::Underpowered(cause)) = error {
                AnalysisError::FittingHalf(cause)
            } else {
                error
            }
        })
    }

    fn outcomes(&self, fitted: &Fitted) -> Vec<DecidedSearch<'a>> {
        let decided = self.measuring.iter().map(|&(trial, second_half)| {
            let best = trial.candidate.as_ref();
            let accepted = fitted.decide(best) == Decision::Accept;
            let right = best.is_some_and(|candidate| candidate.label_matches);
            DecidedSearch {
                label: &trial.label,
                mated: trial.mated,
                error: if trial.mated {
                    !(accepted && right)
                } else {
                    accepted
                },
                second_half,
            }
        });
        decided.collect()
    }

    fn measure(
        &self,
        fitted: Fitted,
    ) -> Result<(ComparisonSet<'a>, MeasuredRemedy), AnalysisError> {
        let outcomes = self.outcomes(&fitted);
        let panel = ComparisonSet::new(&outcomes, self.plan.searches_min);
        let rate = |kind: &'static str, among: &dyn Fn(&DecidedSearch<'_>) -> bool| {
            let kept: Vec<(&str, bool)> = outcomes
                .iter()
                .filter(|outcome| among(outcome))
                .map(|outcome| (outcome.label, outcome.error))
                .collect();
            let half = "measuring";
            Rate::over_labels(&kept, Confidence::DISPLAY)
                .ok_or(AnalysisError::EmptyHalf { half, kind })
        };
        let measured = MeasuredRemedy {
            far: rate("non-mated", &|outcome| !outcome.mated)?,
            frr: rate("mated", &|outcome| outcome.mated)?,
            worst_labels: panel.worst_labels(),
            utility_variance: panel.utility_variance().map(recorded),
            band_variance: None,
            fitted,
        };
        Ok((panel, measured))
    }

    /// The variance of utility, averaged over thresholds that have the same FARs for every remedy.
    fn band_variance(&self, remedy: Remedy) -> Result<Option<f64>, AnalysisError> {
        const POINTS: u32 = 11;
        let confidence = self.plan.rule.target().confidence().get();
        let mut sum = 0.0;
        for point in 0..POINTS {
            let far = 0.1_f64.powf(1.0 + f64::from(point) / f64::from(POINTS - 1));
            let rule = Rule::Estimated(TargetFar::new(far, confidence)?);
            let fitted = fit_by(&self.fitting, remedy, rule, self.plan)?;
            let panel = ComparisonSet::new(&self.outcomes(&fitted), self.plan.searches_min);
            let Some(variance) = panel.utility_variance() else {
                return Ok(None);
            };
            sum += variance;
        }
        Ok(Some(recorded(sum / f64::from(POINTS))))
    }
}

/// Splits the labels into halves by a hash. Labels with and without mated searches are split separately, so
/// that both halves have enough of each.
fn split(trials: &[RemedyTrial], seed: u64) -> (Vec<&RemedyTrial>, Vec<&RemedyTrial>) {
    let mut mated: BTreeMap<&str, bool> = BTreeMap::new();
    for trial in trials {
        *mated.entry(&trial.label).or_default() |= trial.mated;
    }
    let mut order: Vec<(bool, u64, &str)> = mated
        .into_iter()
        .map(|(label, mated)| (mated, seeded_number(seed, &["half", label]), label))
        .collect();
    order.sort_unstable();
    let fits: BTreeSet<&str> = order
        .chunk_by(|a, b| a.0 == b.0)
        .flat_map(|alike| alike.iter().take(alike.len() / 2))
        .map(|&(_, _, label)| label)
        .collect();
    trials
        .iter()
        .partition(|trial| fits.contains(trial.label.as_str()))
}

/// Marks every second probe of a label, in the order of a hash; mated and non-mated searches separately.
fn halve_probes(trials: Vec<&RemedyTrial>, seed: u64) -> Vec<(&RemedyTrial, bool)> {
    let mut by_label: BTreeMap<(&str, bool), Vec<(u64, &RemedyTrial)>> = BTreeMap::new();
    for trial in trials {
        let hash = seeded_number(seed, &["probes", &trial.label, &trial.probe]);
        let own = by_label.entry((&trial.label, trial.mated)).or_default();
        own.push((hash, trial));
    }
    let halved = by_label.into_values().flat_map(|mut own| {
        own.sort_by(|a, b| (a.0, &a.1.probe).cmp(&(b.0, &b.1.probe)));
        let second = [false, true].into_iter().cycle();
        own.into_iter().map(|(_, trial)| trial).zip(second)
    });
    halved.collect()
}

fn labels(trials: &[&RemedyTrial]) -> u64 {
    let distinct: BTreeSet<&str> = trials.iter().map(|trial| trial.label.as_str()).collect();
    distinct.len() as u64
}

fn refuse_repeats(trials: &[RemedyTrial]) -> Result<(), AnalysisError> {
    let mut seen = BTreeSet::new();
    let repeated = trials
        .iter()
        .find(|trial| !seen.insert((trial.mated, trial.probe.as_str())));
    repeated.map_or(Ok(()), |trial| {
        Err(CalibrationError::RepeatedProbe {
            probe: trial.probe.clone(),
            kind: if trial.mated { "mated" } else { "non-mated" },
        }
        .into())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::remedy::{RemedyCandidate, fit};
    use crate::analysis::rng::SeededRng;
    use crate::certify::certify;
    use crate::margin::MarginFactor;
    use crate::normalise::{CohortStatistics, PairStatistics};
    use crate::trials::{NonMatedSearch, StrangerOrigin, Trials};
    use matchpoint_vector::Similarity;

    fn score(value: f64) -> Similarity {
        #[expect(clippy::cast_possible_truncation, reason = "a similarity is an f32")]
        Similarity::new(value as f32).unwrap()
    }

    /// An approximately standard normal number: the sum of twelve uniform ones minus its mean.
    fn normal(draws: &mut SeededRng) -> f64 {
        let unit = |bits: u64| real(bits >> 32) / real(1 << 32);
        (0..12).map(|_| unit(draws.bits())).sum::<f64>() - 6.0
    }

    fn statistics(mean: f64, deviation: f64) -> CohortStatistics {
        CohortStatistics::new(mean, deviation).unwrap()
    }

    /// A gallery with one item for each label. All scores of an item are shifted by its own offset, which has a
    /// standard deviation of `uneven`. Strangers find the best of eight items.
    fn gallery(seed: u64, labels: usize, uneven: f64) -> Vec<RemedyTrial> {
        let mut draws = SeededRng::new(seed, 1);
        let offsets: Vec<f64> = (0..labels).map(|_| uneven * normal(&mut draws)).collect();
        let candidate = |item: usize, value: f64, draws: &mut SeededRng| {
            let estimate = 0.1 + offsets[item] + 0.005 * normal(draws);
            let probe = 0.1 + 0.005 * normal(draws);
            let spread = 0.1_f64.hypot(uneven);
            RemedyCandidate {
                score: score(value),
                other: None,
                label_matches: true,
                whole_cohort: Some(PairStatistics {
                    probe: statistics(probe, spread),
                    item: statistics(estimate, 0.1),
                }),
                nearest_cohort: Some(PairStatistics {
                    probe: statistics(probe + 1.5 * spread, 0.6 * spread),
                    item: statistics(estimate + 0.2, 0.04),
                }),
            }
        };
        let mut trials = Vec::new();
        for label in 0..labels {
            for probe in 0..8 {
                let value = 0.5 + offsets[label] + 0.08 * normal(&mut draws);
                trials.push(RemedyTrial {
                    label: format!("m{label}"),
                    probe: format!("m{label}-{probe}"),
                    mated: true,
                    candidate: Some(candidate(label, value, &mut draws)),
                });
            }
            for probe in 0..3 {
                let found = (0..8).map(|_| {
                    let item = draws.below(labels);
                    (item, 0.1 + offsets[item] + 0.1 * normal(&mut draws))
                });
                let (item, value) = found.max_by(|a, b| a.1.total_cmp(&b.1)).unwrap();
                trials.push(RemedyTrial {
                    label: format!("s{label}"),
                    probe: format!("s{label}-{probe}"),
                    mated: false,
                    candidate: Some(candidate(item, value, &mut draws)),
                });
            }
        }
        trials
    }

    fn plan(seed: u64, remedies: &[Remedy]) -> RemedyPlan {
        RemedyPlan {
            seed,
            rule: Rule::Estimated(TargetFar::new(0.05, 0.95).unwrap()),
            remedies: remedies.to_vec(),
            margin_factor: MarginFactor::DEFAULT,
            searches_min: 4,
            resamples: 500,
        }
    }

    const NORMS: [Remedy; 4] = [Remedy::ZNorm, Remedy::TNorm, Remedy::SNorm, Remedy::AsNorm];

    #[test]
    fn normalising_by_the_item_is_preferred_where_items_are_lambs_and_goats() {
        for seed in 0..3 {
            let trials = gallery(seed, 160, 0.1);
            let found = compare(&trials, &plan(seed, &NORMS)).unwrap();
            let one = &found.one_threshold;
            for compared in &found.remedies {
                let remedy = compared.measured.fitted.remedy;
                if remedy == Remedy::TNorm {
                    // All probes are alike, so the remedy has nothing to correct.
                    assert_ne!(
                        compared.verdict,
                        RemedyVerdict::Prefer,
                        "{}",
                        compared.sentence
                    );
                    continue;
                }
                assert_eq!(
                    compared.verdict,
                    RemedyVerdict::Prefer,
                    "{}",
                    compared.sentence
                );
                assert!(compared.differences.utility_variance.unwrap().is_fall());
                assert!(compared.measured.band_variance < one.band_variance);
                let worst =
                    |of: &MeasuredRemedy| of.worst_labels.as_ref().unwrap().count.estimate();
                assert!(worst(&compared.measured) <= worst(one));
            }
            let sentence = &found.remedies[0].sentence;
            for part in [
                "Z-norm: FRR",
                "80 enrolled labels not used",
                "the FRR is lower by more than chance",
            ] {
                assert!(sentence.contains(part), "{sentence}");
            }
        }
    }

    #[test]
    fn there_is_no_ground_to_prefer_anything_where_labels_are_alike() {
        for seed in 0..5 {
            let trials = gallery(seed, 120, 0.0);
            let found = compare(&trials, &plan(seed, &NORMS)).unwrap();
            for compared in &found.remedies {
                assert_eq!(
                    compared.verdict,
                    RemedyVerdict::NoGround,
                    "{}",
                    compared.sentence
                );
                assert!(compared.sentence.ends_with("no ground to prefer it"));
            }
            // The labels are alike, so the variance without the noise within labels is about zero.
            assert!(found.one_threshold.utility_variance.unwrap().abs() < 0.003);
        }
    }

    #[test]
    fn the_outcome_ignores_the_order_of_the_trials_and_depends_on_the_seed() {
        let trials = gallery(3, 60, 0.1);
        let remedies = [Remedy::ZNorm, Remedy::AsNorm, Remedy::ZNorm, Remedy::None];
        let found = compare(&trials, &plan(3, &remedies)).unwrap();
        assert_eq!(found.remedies.len(), 2);
        assert_eq!((found.fitting_labels, found.measuring_labels), (60, 60));
        let mut reversed = trials.clone();
        reversed.reverse();
        assert_eq!(found, compare(&reversed, &plan(3, &remedies)).unwrap());
        assert_ne!(found, compare(&trials, &plan(4, &remedies)).unwrap());
    }

    #[test]
    fn the_certified_rule_finds_the_threshold_of_the_certificate() {
        let mut trials = gallery(2, 120, 0.05);
        trials.retain(|trial| trial.mated || trial.probe.ends_with("-0"));
        let target = TargetFar::new(0.1, 0.9).unwrap();
        let plan = RemedyPlan {
            rule: Rule::Certified(target),
            ..plan(2, &[])
        };
        let strangers = trials.iter().filter(|trial| !trial.mated);
        let searches = strangers.map(|trial| NonMatedSearch {
            label: trial.label.clone(),
            probe: trial.probe.clone(),
            top_score: trial.candidate.as_ref().map(|candidate| candidate.score),
            origin: StrangerOrigin::NeverEnrolled,
        });
        let expected = Trials::new(vec![], searches.collect()).unwrap();
        let expected = certify(&expected.one_probe_per_label(0), target).unwrap();
        let found = fit(&trials, Remedy::None, &plan).unwrap();
        assert_eq!(found.threshold, expected.threshold);
    }

    fn refused(trials: &[RemedyTrial], plan: &RemedyPlan) -> String {
        compare(trials, plan).unwrap_err().to_string()
    }

    #[test]
    fn what_cannot_be_compared_is_refused_by_name() {
        let trials = gallery(5, 20, 0.1);
        let all = plan(5, &[Remedy::ZNorm, Remedy::AsNorm]);
        let mut bare = trials.clone();
        bare[7].candidate.as_mut().unwrap().nearest_cohort = None;
        let text = refused(&bare, &all);
        assert!(
            text.contains("AS-norm") && text.contains("'m0-7'"),
            "{text}"
        );
        let mut twice = trials.clone();
        twice.push(trials[0].clone());
        assert!(refused(&twice, &all).contains("'m0-0'"));
        assert!(refused(&[], &all).contains("fitting half"));
        let mated: Vec<RemedyTrial> = trials.iter().filter(|t| t.mated).cloned().collect();
        assert!(refused(&mated, &all).contains("no non-mated search"));
        let strangers: Vec<RemedyTrial> = trials.iter().filter(|t| !t.mated).cloned().collect();
        assert!(refused(&strangers, &all).contains("no mated search"));
        for resamples in [0, 199, 100_001] {
            let plan = RemedyPlan {
                resamples,
                ..all.clone()
            };
            assert!(refused(&trials, &plan).contains("resamples"));
        }
        let plan = RemedyPlan {
            rule: Rule::Certified(TargetFar::new(0.01, 0.95).unwrap()),
            ..all
        };
        let text = refused(&trials, &plan);
        assert!(
            text.contains("half") && text.contains("there are 10"),
            "{text}"
        );
    }

    /// Trials that found nothing, trials with equal scores, and only two labels of each kind.
    #[test]
    fn degenerate_trials_give_plain_answers_and_never_nan() {
        let plan = RemedyPlan {
            resamples: 200,
            ..plan(9, &[Remedy::ZNorm, Remedy::AsNorm])
        };
        let few = gallery(9, 2, 0.1);
        let mut alike = gallery(9, 30, 0.1);
        for candidate in alike
            .iter_mut()
            .filter_map(|trial| trial.candidate.as_mut())
        {
            candidate.score = score(0.5);
            candidate.whole_cohort = Some(PairStatistics {
                probe: statistics(0.5, 1e-6),
                item: statistics(0.5, 1e-6),
            });
        }
        let mut empty = gallery(9, 30, 0.1);
        for trial in &mut empty {
            trial.candidate = None;
        }
        for trials in [few, alike, empty] {
            let found = compare(&trials, &plan).unwrap();
            for compared in &found.remedies {
                assert_eq!(
                    compared.verdict,
                    RemedyVerdict::NoGround,
                    "{}",
                    compared.sentence
                );
                assert!(!compared.sentence.contains("NaN"));
            }
            let json = serde_json::to_string(&found).unwrap();
            assert!(!json.contains("NaN"));
            assert!(found.one_threshold.frr.estimate.is_finite());
        }
    }
}
