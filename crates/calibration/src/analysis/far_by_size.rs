//! The FAR per search by size of the gallery, measured on parts of the gallery and predicted beyond it.

use std::collections::BTreeSet;

use serde::Serialize;

use super::input::AnalysisInput;
use crate::binomial::real;
use crate::certify::TargetFar;
use crate::decision::Decision;
use crate::growth::{
    DeepSearches, FoundItem, FpirAt, FpirBySize, GROWTH_ASSUMPTION, StrangerSearch, Unit, predicted,
};
use crate::rates::{Confidence, Interval, Rate};
use matchpoint_vector::Similarity;

/// The parts of the gallery that are measured, in eighths.
const EIGHTHS: [u64; 4] = [1, 2, 4, 6];
/// The gallery is predicted for these multiples of its size.
const TIMES: [u64; 4] = [2, 5, 10, 100];

/// At least this many labels of strangers must be accepted before a size is called too large. With fewer, the
/// estimate may be wrong by half or more.
const LABELS_TO_SAY: usize = 5;

/// The predicted FAR for a size, from both ends of today's interval.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct PredictedRange {
    /// Number of items in the gallery.
    pub items: u64,
    /// The prediction from the lower end.
    pub lower: f64,
    /// The prediction from the upper end.
    pub upper: f64,
}

/// A test of the prediction: from a part of the gallery to the whole, whose FAR was measured.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct GrowthCheck {
    /// Number of labels in the part.
    pub labels: u64,
    /// The FAR that the part predicts for the whole gallery.
    pub predicted: f64,
    /// The measured FAR of the whole gallery.
    pub measured: f64,
}

/// The FAR per search by size of the gallery, at one threshold.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FarBySize {
    /// The FAR measured on random parts of the gallery, drawn by label; the last entry is the whole gallery.
    pub measured: Vec<FpirBySize>,
    /// The predicted FAR of larger galleries.
    pub predicted: Vec<FpirAt>,
    /// Used if no search was accepted. A prediction from a FAR of zero would stay zero at any size, so this one
    /// is made from the upper end of the FAR's interval over labels.
    pub predicted_at_most: Vec<FpirAt>,
    /// For the same sizes, the prediction with an interval: today's 95 % interval of the FAR over labels,
    /// extrapolated. It does not include the uncertainty of the growth model.
    pub predicted_ranges: Vec<PredictedRange>,
    /// The prediction from half of the gallery, compared with the measured FAR of the whole.
    pub check: Option<GrowthCheck>,
    /// Number of searches that were used.
    pub searches: u64,
    /// Number of items in the gallery today.
    pub items_now: u64,
    /// The target holds up to this size: the prediction from the upper end of the interval is at most the
    /// target FAR. `None` without a target, or if even today's upper end is above it.
    pub holds_until: Option<u64>,
    /// The target does not hold above this size, by the prediction from the lower end. `None` if fewer than
    /// five labels of strangers were accepted, which is too few to judge.
    pub holds_at_most_until: Option<u64>,
    /// The assumption of the prediction, as text.
    pub assumption: &'static str,
}

impl FarBySize {
    /// Measures and predicts. `None`, with a note, if the searches have no further candidates.
    pub(super) fn measure(material: &AnalysisInput<'_>, notes: &mut Vec<String>) -> Option<Self> {
        if material.deep.is_empty() {
            notes.push(
                "FAR by size of the gallery was not measured: there are no non-mated searches, or too many scores to compare."
                    .to_owned(),
            );
            return None;
        }
        let (items, labels) = sizes_of(material);
        let deep = DeepSearches {
            strangers: searches_of(material),
            depth: material.depth,
            items,
            labels,
        };
        let mut sizes: Vec<u64> = EIGHTHS.iter().map(|eighths| labels * eighths / 8).collect();
        sizes.push(labels);
        sizes.retain(|&size| 0 < size);
        sizes.dedup();
        let measured: Result<Vec<FpirBySize>, _> = sizes
            .into_iter()
            .map(|size| deep.fpir(material.on_similarity, Unit::Labels, size))
            .collect();
        let measured = match measured {
            Ok(measured) => measured,
            Err(error) => {
                notes.push(format!("FAR by size of the gallery is unknown: {error}."));
                return None;
            }
        };
        let fpir = measured.last()?.fpir;
        let now = FpirAt { items, fpir };
        let (interval, accepted) = today(&deep, material)?;
        let at = |fpir| FpirAt { items, fpir };
        let predictions = |now| -> Vec<FpirAt> {
            let all = TIMES
                .iter()
                .map(|times| predicted(now, items.saturating_mul(*times)));
            all.collect::<Result<_, _>>().unwrap_or_default()
        };
        let ranges = predictions(at(interval.lower)).into_iter();
        let ranges = ranges.zip(predictions(at(interval.upper)));
        let ranges = ranges.map(|(lower, upper)| PredictedRange {
            items: lower.items,
            lower: lower.fpir,
            upper: upper.fpir,
        });
        let at_most = (fpir <= 0.0).then(|| predictions(at(interval.upper)));
        let target = material.target.far().map(TargetFar::far);
        let until = |fpir| target.and_then(|far| holds_until(at(fpir), far));
        Some(Self {
            check: checked(&measured, labels),
            measured,
            predicted: predictions(now),
            predicted_at_most: at_most.unwrap_or_default(),
            predicted_ranges: ranges.collect(),
            searches: material.deep.len() as u64,
            items_now: items,
            holds_until: until(interval.upper),
            holds_at_most_until: until(interval.lower).filter(|_| LABELS_TO_SAY <= accepted),
            assumption: GROWTH_ASSUMPTION,
        })
    }
}

/// The non-mated searches with their candidates.
fn searches_of<'a>(material: &'a AnalysisInput<'_>) -> Vec<StrangerSearch<'a>> {
    let found = |(score, label): &'a (Similarity, String)| FoundItem {
        score: *score,
        label,
    };
    let searches = material.deep.iter();
    searches
        .map(|(label, candidates)| StrangerSearch {
            label,
            candidates: candidates.iter().map(found).collect(),
        })
        .collect()
}

/// The interval of today's FAR, and the number of labels of strangers that are accepted.
fn today(deep: &DeepSearches<'_>, material: &AnalysisInput<'_>) -> Option<(Interval, usize)> {
    let accepts = |search: &StrangerSearch<'_>| {
        let best = search.candidates.first().map(|best| best.score);
        material.on_similarity.decide(best) == Decision::Accept
    };
    let outcomes = deep.strangers.iter();
    let outcomes: Vec<(&str, bool)> = outcomes
        .map(|search| (search.label, accepts(search)))
        .collect();
    let accepted: BTreeSet<&str> = outcomes
        .iter()
        .filter(|(_, accepted)| *accepted)
        .map(|(label, _)| *label)
        .collect();
    let rate = Rate::over_labels(&outcomes, Confidence::DISPLAY)?;
    Some((rate.interval, accepted.len()))
}

/// Compares the prediction from half of the gallery with the measured FAR of the whole.
fn checked(measured: &[FpirBySize], labels: u64) -> Option<GrowthCheck> {
    let half = measured.iter().find(|part| part.size == labels / 2)?;
    let whole = measured.last().filter(|whole| half.size < whole.size)?;
    let from = FpirAt {
        items: half.size,
        fpir: half.fpir,
    };
    Some(GrowthCheck {
        labels: half.size,
        predicted: predicted(from, whole.size).ok()?.fpir,
        measured: whole.fpir,
    })
}

fn sizes_of(material: &AnalysisInput<'_>) -> (u64, u64) {
    let rows = &material.gallery.labels;
    let mut labels = rows.clone();
    labels.sort_unstable();
    labels.dedup();
    (rows.len() as u64, labels.len() as u64)
}

/// From FPIR(N2) = 1 - (1 - FPIR(N1))^(N2 / N1), solved for N2.
fn holds_until(now: FpirAt, far: f64) -> Option<u64> {
    if far < now.fpir || now.fpir <= 0.0 {
        return None;
    }
    let times = (-far).ln_1p() / (-now.fpir).ln_1p();
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a size, rounded down; saturates"
    )]
    let items = (real(now.items) * times) as u64;
    Some(items)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::consistency::Band;
    use crate::analysis::embeddings::Embeddings;
    use crate::analysis::{AnalysisScope, BAND_POINTS, EmbeddedSet};
    use crate::binomial;
    use crate::decision::Threshold;
    use crate::policy::CalibrationTarget;
    use crate::recording::Recording;

    /// 195 strangers, of which every `one_in`th finds an item of label a at 0.8; none does if `one_in` is 0.
    fn sizes(one_in: usize, target: CalibrationTarget) -> FarBySize {
        let names = vec!["a".to_owned(), "b".to_owned()];
        let vectors = vec![1.0, 0.0, 0.0, 1.0];
        let gallery = EmbeddedSet {
            ids: vec!["one".to_owned(), "two".to_owned()],
            labels: vec![0, 1],
            conditions: vec![std::collections::BTreeMap::new(); 2],
            embeddings: Embeddings::from_unit(2, vectors, vec![0, 1]).unwrap(),
        };
        let score = |n: usize| {
            let near = 0 < one_in && n.is_multiple_of(one_in);
            Similarity::new(if near { 0.8 } else { 0.2 }).unwrap()
        };
        let deep: Vec<crate::analysis::CandidateList> = (0..195)
            .map(|n| (format!("stranger {n}"), vec![(score(n), "a".to_owned())]))
            .collect();
        let threshold = Threshold::at(Similarity::new(0.5).unwrap());
        let material = AnalysisInput {
            names: &names,
            gallery: &gallery,
            queries: None,
            recording: &Recording::new(Vec::new()).unwrap(),
            deep: &deep,
            depth: 64,
            target,
            threshold,
            on_similarity: threshold,
            seed: 0,
            scope: AnalysisScope {
                pairs_max: 0,
                band: Band::default(),
                band_points: BAND_POINTS,
            },
        };
        FarBySize::measure(&material, &mut Vec::new()).unwrap()
    }

    fn target(far: f64) -> CalibrationTarget {
        CalibrationTarget::Far(TargetFar::new(far, 0.95).unwrap())
    }

    #[test]
    fn where_no_stranger_was_accepted_a_larger_gallery_is_not_promised_to_accept_none() {
        let sizes = sizes(0, CalibrationTarget::EqualError);
        assert!(sizes.predicted.iter().all(|point| point.fpir <= 0.0));
        assert_eq!(sizes.searches, 195);
        // For 0 of 195, the upper end of Wilson's interval is 1.93 %. Twice the gallery has nearly twice that.
        let twice = sizes.predicted_at_most[0];
        assert_eq!(twice.items, 4);
        assert!((twice.fpir - 0.0383).abs() < 1e-3, "{}", twice.fpir);
        let range = sizes.predicted_ranges[0];
        assert!((range.upper - twice.fpir).abs() < 1e-12 && range.lower <= 0.0);
    }

    #[test]
    fn what_few_accepts_say_of_a_size_is_how_far_it_holds_at_least() {
        // One of 195 is 0.5 %, and the interval ends at 2.9 %. By the estimate alone, the target of 5 % would
        // hold up to ten times the size.
        let few = sizes(195, target(0.05));
        assert_eq!((few.holds_until, few.holds_at_most_until), (Some(3), None));
        // 20 of 195 is 10 %, with an interval from 6.8 to 15 %.
        let many = sizes(10, target(0.2));
        assert_eq!(many.holds_until, Some(2));
        assert_eq!(many.holds_at_most_until, Some(6));
        assert_eq!(sizes(10, target(0.12)).holds_until, None);
        let check = many.check.unwrap();
        assert_eq!(check.labels, 1);
        // Half of the draws contain the one label that accepts: the FAR is 5 % there, and the prediction for
        // the whole is 1 - 0.95^2.
        assert!((check.predicted - 0.0999).abs() < 2e-3, "{check:?}");
        assert!((check.measured - 20.0 / 195.0).abs() < 1e-12);
    }

    #[test]
    fn the_size_up_to_which_a_target_is_met_holds_in_nineteen_of_twenty_draws_and_the_estimate_in_half()
     {
        // Every stranger is accepted with the same probability, and growth follows the model. The size is wrong
        // if the true FAR is above the upper end that it was computed from.
        let (strangers, far): (u32, f64) = (155, 0.0125);
        let mut state = 5;
        let [mut above_upper, mut above_estimate] = [0.0; 2];
        for _ in 0..2_000 {
            let accepted = (0..strangers).filter(|_| {
                let z = crate::splitmix64::next(&mut state) >> 11;
                real(z) * 2.0_f64.powi(-53) < far
            });
            let accepted = accepted.count() as u64;
            let estimate = real(accepted) / f64::from(strangers);
            let upper = Interval::wilson(estimate, f64::from(strangers), Confidence::DISPLAY).upper;
            above_upper += f64::from(u8::from(upper < far)) / 2_000.0;
            above_estimate += f64::from(u8::from(estimate < far)) / 2_000.0;
        }
        assert!(above_upper <= 0.05, "{above_upper}");
        assert!(0.3 < above_estimate, "{above_estimate}");
        // With 0 of 155 accepted, a FAR of 2.4 % is still possible.
        assert!(far < binomial::upper_bound(0, 155, 0.05));
    }
}
