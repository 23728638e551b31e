//! FAR per search by size of the gallery: measured on parts of it, predicted beyond it.

use std::collections::BTreeSet;

use serde::Serialize;

use super::input::AnalysisInput;
use crate::binomial::real;
use crate::certify::TargetFar;
use crate::growth::{
    DeepSearches, FoundItem, FpirAt, FpirBySize, GROWTH_ASSUMPTION, StrangerSearch, Unit, predicted,
};
use crate::policy::CalibrationTarget;
use crate::rates::{Confidence, Interval};

/// Parts of the gallery that are measured, in eighths of it.
const EIGHTHS: [u64; 4] = [1, 2, 4, 6];
/// How many times its size the gallery is predicted for.
const TIMES: [u64; 4] = [2, 5, 10, 100];

/// FAR per search by size of the gallery, at one threshold.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FarBySize {
    /// On random parts of the gallery, by labels, and on all of it: the last.
    pub measured: Vec<FpirBySize>,
    /// Beyond it.
    pub predicted: Vec<FpirAt>,
    /// If no search at all was accepted: what is predicted from the upper end of the interval of the
    /// FAR, over labels, instead of zero, which would stay zero in a gallery of any size.
    pub predicted_at_most: Vec<FpirAt>,
    /// The searches that this rests on.
    pub searches: u64,
    /// Items in the gallery now.
    pub items_now: u64,
    /// The size up to which the prediction stays at or below the target FAR; `None` without a
    /// target, or if even today's estimate is above it.
    pub holds_until: Option<u64>,
    /// What the prediction assumes.
    pub assumption: &'static str,
}

impl FarBySize {
    /// Measures and predicts. `None`, with a note, if there were no deep searches.
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
            strangers: material
                .deep
                .iter()
                .map(|(label, candidates)| StrangerSearch {
                    label,
                    candidates: candidates
                        .iter()
                        .map(|(score, label)| FoundItem {
                            score: *score,
                            label,
                        })
                        .collect(),
                })
                .collect(),
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
        let predictions = |now| -> Vec<FpirAt> {
            let all = TIMES
                .iter()
                .map(|times| predicted(now, items.saturating_mul(*times)));
            all.collect::<Result<_, _>>().unwrap_or_default()
        };
        let strangers: BTreeSet<&str> = material
            .deep
            .iter()
            .map(|(label, _)| label.as_str())
            .collect();
        let upper = Interval::wilson(0.0, real(strangers.len() as u64), Confidence::DISPLAY).upper;
        let at_most = (fpir <= 0.0).then_some(FpirAt { items, fpir: upper });
        Some(Self {
            measured,
            predicted: predictions(now),
            predicted_at_most: at_most.map(predictions).unwrap_or_default(),
            searches: material.deep.len() as u64,
            items_now: items,
            holds_until: target_far(material.target).and_then(|far| holds_until(now, far.far())),
            assumption: GROWTH_ASSUMPTION,
        })
    }
}

pub(super) fn target_far(target: CalibrationTarget) -> Option<TargetFar> {
    match target {
        CalibrationTarget::Far(far) | CalibrationTarget::FarEstimated(far) => Some(far),
        CalibrationTarget::Frr(_) | CalibrationTarget::EqualError | CalibrationTarget::Cost(_) => {
            None
        }
    }
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
    use crate::decision::Threshold;
    use crate::recording::Recording;
    use matchpoint_vector::Similarity;

    #[test]
    fn where_no_stranger_was_accepted_a_larger_gallery_is_not_promised_to_accept_none() {
        let names = vec!["a".to_owned(), "b".to_owned()];
        let vectors = vec![1.0, 0.0, 0.0, 1.0];
        let gallery = EmbeddedSet {
            ids: vec!["one".to_owned(), "two".to_owned()],
            labels: vec![0, 1],
            conditions: vec![std::collections::BTreeMap::new(); 2],
            embeddings: Embeddings::from_unit(2, vectors, vec![0, 1]).unwrap(),
        };
        let score = Similarity::new(0.2).unwrap();
        let deep: Vec<crate::analysis::CandidateList> = (0..195)
            .map(|n| (format!("stranger {n}"), vec![(score, "a".to_owned())]))
            .collect();
        let threshold = Threshold::at(Similarity::new(0.5).unwrap());
        let material = AnalysisInput {
            names: &names,
            gallery: &gallery,
            queries: None,
            recording: &Recording::new(Vec::new()).unwrap(),
            deep: &deep,
            depth: 64,
            target: CalibrationTarget::EqualError,
            threshold,
            on_similarity: threshold,
            seed: 0,
            scope: AnalysisScope {
                pairs_max: 0,
                band: Band::default(),
                band_points: BAND_POINTS,
            },
        };
        let sizes = FarBySize::measure(&material, &mut Vec::new()).unwrap();
        assert!(sizes.predicted.iter().all(|point| point.fpir <= 0.0));
        assert_eq!(sizes.searches, 195);
        // The upper end of Wilson's interval for 0 of 195 is 1.93 %; twice the gallery, nearly twice that.
        let twice = sizes.predicted_at_most[0];
        assert_eq!(twice.items, 4);
        assert!((twice.fpir - 0.0383).abs() < 1e-3, "{}", twice.fpir);
    }
}
