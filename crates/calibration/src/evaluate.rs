//! Measures the error rates of a threshold on trials with known truth.

use std::collections::BTreeSet;

use super::binomial::real;
use super::decision::{Decision, Threshold};
use super::rates::{Confidence, Rate};
use super::sweep::ThresholdSweep;
use super::trials::{MatedSearch, Trials};
use matchpoint_vector::Similarity;

/// Rates over all trials, each with an interval over labels; `None` if there are no such trials.
#[derive(Clone, Debug, PartialEq)]
pub struct Evaluation {
    /// Share of mated searches whose best candidate has the right label, whatever its score.
    pub recall_at_1: Option<Rate>,
    /// The error rates at the threshold; `None` without a threshold.
    pub errors: Option<Errors>,
}

/// The error rates per search at one threshold (FPIR and FNIR of ISO/IEC 19795-1).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Errors {
    /// Share of non-mated searches that are accepted, over all probes.
    pub far: Option<Rate>,
    /// Share of mated searches that are rejected or accepted with a wrong label.
    pub frr: Option<Rate>,
    /// Share of mated searches that are accepted with a wrong label, which is a part of the FRR.
    pub misidentification: Option<Rate>,
}

/// Measures the trials, at `threshold` if one is given. Intervals are at 95 %.
#[must_use]
pub fn evaluate(trials: &Trials, threshold: Option<Threshold>) -> Evaluation {
    Evaluation {
        recall_at_1: over_mated(trials, |search| {
            search.top.is_some_and(|top| top.label_matches)
        }),
        errors: threshold.map(|threshold| Errors {
            far: over_strangers(trials, |score| threshold.decide(score) == Decision::Accept),
            frr: over_mated(trials, |search| accepted(search, threshold) != Some(true)),
            misidentification: over_mated(trials, |search| {
                accepted(search, threshold) == Some(false)
            }),
        }),
    }
}

/// Whether the accepted candidate has the right label; `None` for a reject.
fn accepted(search: &MatedSearch, threshold: Threshold) -> Option<bool> {
    let top = search.top?;
    (threshold.decide(Some(top.score)) == Decision::Accept).then_some(top.label_matches)
}

/// The share of non-mated searches for whose best score `happened` is true, with its interval; `None` without
/// such searches.
pub(super) fn over_strangers(
    trials: &Trials,
    happened: impl Fn(Option<Similarity>) -> bool,
) -> Option<Rate> {
    let outcomes: Vec<(&str, bool)> = trials
        .non_mated()
        .iter()
        .map(|search| (trials.stranger(&search.label), happened(search.top_score)))
        .collect();
    Rate::over_labels(&outcomes, Confidence::DISPLAY)
}

/// The share of mated searches for which `happened` is true, with its interval; `None` without such searches.
pub(super) fn over_mated(trials: &Trials, happened: impl Fn(&MatedSearch) -> bool) -> Option<Rate> {
    let outcomes: Vec<(&str, bool)> = trials
        .mated()
        .iter()
        .map(|search| (search.label.as_str(), happened(search)))
        .collect();
    Rate::over_labels(&outcomes, Confidence::DISPLAY)
}

/// A point of the DET curve.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TradeOff {
    /// A score that is equal or higher is accepted.
    pub threshold: Threshold,
    /// The FAR over all non-mated searches; `None` if there are none.
    pub far: Option<f64>,
    /// The FRR over all mated searches; `None` if there are none.
    pub frr: Option<f64>,
}

/// The highest number of points that [`trade_off`] returns.
pub const TRADE_OFF_POINTS_MAX: usize = 200;

/// FAR and FRR over thresholds in ascending order, from which a DET curve is drawn.
///
/// The points are at observed scores. Scores of strangers are chosen at geometric ranks from the top, because
/// small FARs matter most; scores of mated searches at equal steps. The last point accepts nothing.
#[must_use]
pub fn trade_off(trials: &Trials) -> Vec<TradeOff> {
    let sweep = ThresholdSweep::of(trials);
    let (strangers, mates) = (sweep.strangers(), sweep.right());
    let half = TRADE_OFF_POINTS_MAX / 2 - 1;
    let mut thresholds = BTreeSet::from([Threshold::ACCEPT_NOTHING]);
    let from_top = geometric_ranks(strangers.len(), half);
    thresholds.extend(
        from_top.filter_map(|rank| strangers.iter().nth_back(rank).copied().map(Threshold::at)),
    );
    let step = mates.len().div_ceil(half).max(1);
    thresholds.extend(mates.iter().step_by(step).copied().map(Threshold::at));

    thresholds
        .into_iter()
        .map(|threshold| TradeOff {
            threshold,
            far: sweep.far(threshold),
            frr: sweep.frr(threshold),
        })
        .collect()
}

/// A histogram of the scores of best candidates, with bins of equal width.
#[derive(Clone, Debug, PartialEq)]
pub struct ScoreCounts {
    /// The lower end of the first bin.
    pub lower: f64,
    /// The upper end of the last bin.
    pub upper: f64,
    /// Number of mated searches by bin, whatever label they found.
    pub mated: Vec<u64>,
    /// Number of non-mated searches by bin.
    pub non_mated: Vec<u64>,
}

/// Makes a histogram of the scores of best candidates. `None` if no search found anything.
#[must_use]
pub fn histogram(trials: &Trials, bins: usize) -> Option<ScoreCounts> {
    let wide = |score: Similarity| f64::from(score.get());
    let mated = || {
        trials
            .mated()
            .iter()
            .filter_map(|s| s.top)
            .map(|top| wide(top.score))
    };
    let strangers = || {
        trials
            .non_mated()
            .iter()
            .filter_map(|s| s.top_score)
            .map(wide)
    };
    let lower = mated().chain(strangers()).reduce(f64::min)?;
    let upper = mated().chain(strangers()).reduce(f64::max)?;
    // If all scores are equal, the bins still need a width above zero.
    let width = ((upper - lower) / real(bins.max(1) as u64)).max(1e-6);
    let count = |scores: &mut dyn Iterator<Item = f64>| {
        let mut counts = vec![0; bins];
        for score in scores {
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "a bin; the highest score falls into the last"
            )]
            let bin = (((score - lower) / width) as usize).min(bins.saturating_sub(1));
            if let Some(count) = counts.get_mut(bin) {
                *count += 1;
            }
        }
        counts
    };
    Some(ScoreCounts {
        lower,
        upper: lower + width * real(bins as u64),
        mated: count(&mut mated()),
        non_mated: count(&mut strangers()),
    })
}

/// At most `points` ranks below `count`: 0, 1, 2, ... and then with distances that grow by a constant factor.
fn geometric_ranks(count: usize, points: usize) -> impl Iterator<Item = usize> {
    let factor = (real(count as u64).ln() / real(points as u64)).exp();
    let mut position = 1.0_f64;
    let mut next = 0;
    (0..points).map_while(move |_| {
        let rank = next;
        position *= factor;
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a rank"
        )]
        let geometric = position as usize;
        next = geometric.max(rank + 1);
        (rank < count).then_some(rank)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::trials::{NonMatedSearch, StrangerOrigin, Top};

    fn trials(mated: &[(f32, bool)], strangers: &[f32]) -> Trials {
        let mated = mated
            .iter()
            .enumerate()
            .map(|(index, &(score, label_matches))| MatedSearch {
                label: format!("m{}", index / 2),
                probe: format!("p{index}"),
                top: Similarity::new(score).map(|score| Top {
                    score,
                    label_matches,
                }),
            })
            .collect();
        let strangers = strangers
            .iter()
            .enumerate()
            .map(|(index, &score)| NonMatedSearch {
                label: format!("s{}", index / 2),
                probe: format!("q{index}"),
                top_score: Similarity::new(score),
                origin: StrangerOrigin::NeverEnrolled,
            })
            .collect();
        Trials::new(mated, strangers).unwrap()
    }

    fn estimate(rate: Option<Rate>) -> f64 {
        rate.unwrap().estimate
    }

    /// The open-set example of the reference, with five mated and four non-mated searches.
    #[test]
    fn rates_agree_with_the_open_set_toy() {
        let toy = trials(
            &[
                (0.80, true),
                (0.62, true),
                (0.58, false),
                (0.41, true),
                (0.70, true),
            ],
            &[0.75, 0.45, 0.30, 0.52],
        );
        let rows = [
            (0.4, 0.75, 0.2),
            (0.5, 0.5, 0.4),
            (0.6, 0.25, 0.4),
            (0.72, 0.25, 0.8),
        ];
        for (threshold, far, frr) in rows {
            let threshold = Threshold::new(threshold).unwrap();
            let errors = evaluate(&toy, Some(threshold)).errors.unwrap();
            assert!((estimate(errors.far) - far).abs() < 1e-12);
            assert!((estimate(errors.frr) - frr).abs() < 1e-12);
        }
        let low = evaluate(&toy, Some(Threshold::new(0.5).unwrap()));
        assert!((estimate(low.recall_at_1) - 0.8).abs() < 1e-12);
        let errors = low.errors.unwrap();
        assert!((estimate(errors.misidentification) - 0.2).abs() < 1e-12);
        assert_eq!(
            (
                errors.far.unwrap().labels,
                errors.far.unwrap().count.trials()
            ),
            (2, 4)
        );
    }

    #[test]
    fn without_trials_or_threshold_there_is_no_rate_rather_than_zero() {
        let nothing = trials(&[], &[]);
        let found = evaluate(&nothing, Some(Threshold::new(0.5).unwrap()));
        assert_eq!(found.recall_at_1, None);
        let errors = found.errors.unwrap();
        assert_eq!(
            (errors.far, errors.frr, errors.misidentification),
            (None, None, None)
        );
        assert_eq!(evaluate(&nothing, None).errors, None);
        let curve = trade_off(&nothing);
        assert_eq!(curve.len(), 1);
        assert_eq!((curve[0].far, curve[0].frr), (None, None));
    }

    #[test]
    fn a_search_that_found_nothing_is_a_miss_and_no_false_accept() {
        let lost = trials(&[(f32::NAN, true)], &[f32::NAN]);
        let found = evaluate(&lost, Some(Threshold::ACCEPT_ANYTHING_FOUND));
        assert!(estimate(found.recall_at_1).abs() < 1e-12);
        let errors = found.errors.unwrap();
        assert!((estimate(errors.frr) - 1.0).abs() < 1e-12);
        assert!(estimate(errors.far).abs() < 1e-12);
        assert!(estimate(errors.misidentification).abs() < 1e-12);
    }

    #[test]
    fn a_long_curve_is_thinned_and_keeps_the_smallest_rates() {
        let strangers: Vec<f32> = (0_u16..5_000).map(|i| f32::from(i) / 10_000.0).collect();
        let mated: Vec<(f32, bool)> = (0_u16..5_000)
            .map(|i| (0.3 + f32::from(i) / 10_000.0, true))
            .collect();
        let curve = trade_off(&trials(&mated, &strangers));
        assert!(
            100 < curve.len() && curve.len() <= TRADE_OFF_POINTS_MAX,
            "{}",
            curve.len()
        );
        for far in [0.0, 1.0 / 5_000.0, 2.0 / 5_000.0] {
            assert!(
                curve
                    .iter()
                    .any(|point| (point.far.unwrap() - far).abs() < 1e-12)
            );
        }
    }

    proptest! {
        #[test]
        fn along_the_curve_far_never_grows_and_frr_never_falls(
            mated in prop::collection::vec((-1.0_f32..=1.0, any::<bool>()), 1..300),
            strangers in prop::collection::vec(-1.0_f32..=1.0, 1..300)
        ) {
            let trials = trials(&mated, &strangers);
            let curve = trade_off(&trials);
            prop_assert!(curve.len() <= TRADE_OFF_POINTS_MAX);
            for pair in curve.windows(2) {
                prop_assert!(pair[0].threshold < pair[1].threshold);
                prop_assert!(pair[1].far <= pair[0].far && pair[0].frr <= pair[1].frr);
            }
            let last = curve.last().unwrap();
            prop_assert_eq!((last.far, last.frr), (Some(0.0), Some(1.0)));
            for point in curve.iter().step_by(29) {
                let errors = evaluate(&trials, Some(point.threshold)).errors.unwrap();
                prop_assert!((estimate(errors.far) - point.far.unwrap()).abs() < 1e-9);
                prop_assert!((estimate(errors.frr) - point.frr.unwrap()).abs() < 1e-9);
            }
        }
    }
}
