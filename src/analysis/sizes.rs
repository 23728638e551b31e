//! FAR per search by size of the gallery: measured on parts of it, predicted beyond it.

use serde::Serialize;

use super::Material;
use crate::calibration::binomial::real;
use crate::calibration::certify::TargetFar;
use crate::calibration::growth::{
    Candidate, DeepSearches, FpirAt, FpirBySize, GROWTH_ASSUMPTION, Stranger, Unit, predicted,
};
use crate::calibration::policy::Target;

/// Parts of the gallery that are measured, in eighths of it.
const EIGHTHS: [u64; 4] = [1, 2, 4, 6];
/// How many times its size the gallery is predicted for.
const TIMES: [u64; 4] = [2, 5, 10, 100];

/// FAR per search by size of the gallery, at one threshold.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Sizes {
    /// On random parts of the gallery, by labels, and on all of it: the last.
    pub measured: Vec<FpirBySize>,
    /// Beyond it.
    pub predicted: Vec<FpirAt>,
    /// Items in the gallery now.
    pub items_now: u64,
    /// The size up to which the prediction stays at or below the target FAR; `None` without a
    /// target, or where even today's estimate is above it.
    pub holds_until: Option<u64>,
    /// What the prediction assumes.
    pub assumption: &'static str,
}

impl Sizes {
    /// Measures and predicts. `None`, with a note, where there were no deep searches.
    pub(super) fn measure(material: &Material<'_>, notes: &mut Vec<String>) -> Option<Self> {
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
                .map(|(label, candidates)| Stranger {
                    label,
                    candidates: candidates
                        .iter()
                        .map(|(score, label)| Candidate {
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
        let predictions: Result<Vec<FpirAt>, _> = TIMES
            .iter()
            .map(|times| predicted(now, items.saturating_mul(*times)))
            .collect();
        Some(Self {
            measured,
            predicted: predictions.unwrap_or_default(),
            items_now: items,
            holds_until: target_far(material.target).and_then(|far| holds_until(now, far.far())),
            assumption: GROWTH_ASSUMPTION,
        })
    }
}

pub(super) fn target_far(target: Target) -> Option<TargetFar> {
    match target {
        Target::Far(far) | Target::FarEstimated(far) => Some(far),
        Target::Frr(_) | Target::EqualError | Target::Cost(_) => None,
    }
}

fn sizes_of(material: &Material<'_>) -> (u64, u64) {
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
