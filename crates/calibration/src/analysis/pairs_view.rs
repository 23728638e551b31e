//! The pairwise view: the FAR and FRR of comparing two images, and consistency over labels.

use serde::Serialize;

use super::consistency::{Consistency, ConsistencyPlan};
use super::disjoint::DisjointPairs;
use super::dyadic::{MatedCounts, NonMatedCounts};
use super::error::AnalysisError;
use super::input::AnalysisInput;
use super::label_counts::LabelCounts;
use super::label_groups::{LabelGroup, label_groups};
use super::label_rows::{GroupCounts, label_rows, worst_labels};
use super::pairwise::{PairProgress, Scan};
use super::rng::SeededRng;
use super::score_curve::{PairEqualError, PairRates, ScoreBin, ScoreCurve};
use super::utility::utility_curves;
use crate::binomial::real;
use crate::certify::{TargetFar, certify_scores};
use crate::decision::Threshold;
use crate::rates::{Confidence, Proportion, Rate, percent};
use crate::refusal::Underpowered;
use matchpoint_vector::Similarity;

/// Number of points of a curve for drawing.
const CURVE_POINTS: usize = 120;
const HISTOGRAM_CELLS: usize = 60;
/// At most this many labels keep their utility curve for drawing.
const LABEL_CURVES_MAX: usize = 20_000;
/// Number of labels that are listed as the worst.
const WORST_MAX: usize = 20;
/// At most this many accepted pairs are kept for the intervals, at 16 bytes each.
const DYADS_MAX: f64 = 3e7;
/// The pairwise FARs at which the FRR is given.
const FARS: [f64; 4] = [1e-1, 1e-2, 1e-3, 1e-4];

/// The error rates of comparing two images (FMR and FNMR of ISO/IEC 19795-1). They are not rates of searches,
/// because a search makes as many comparisons as there are items.
#[derive(Clone, Debug, Serialize)]
pub struct PairsView {
    /// Number of pairs with equal labels.
    pub mated_pairs: u64,
    /// Number of pairs with different labels.
    pub non_mated_pairs: u64,
    /// The equal error rate; `None` if one kind of pairs is missing.
    pub equal_error: Option<PairEqualError>,
    /// Both rates at the threshold of the searches.
    pub at_threshold: AtThreshold,
    /// Both rates at thresholds where the pairwise FAR is a round number.
    pub at_far: Vec<AtThreshold>,
    /// A threshold for comparing two images, certified on pairs that share no label; `None` without a target
    /// FAR.
    pub certified: Option<Certified>,
    /// The lowest threshold found whose upper bound over labels meets the target. It is an estimate, not
    /// certified.
    pub estimated: Option<AtThreshold>,
    /// How consistent the labels are at one threshold; `None`, with a note, if it is unknown.
    pub consistency: Option<Consistency>,
    /// Groups of labels by metadata of their items, at the threshold of the searches.
    pub groups: Vec<LabelGroup>,
    /// The labels with the lowest utility at the threshold of the searches.
    pub worst_labels: Vec<NamedRow>,
    /// Both rates over a range of thresholds.
    pub curve: Vec<PairRates>,
    /// The number of pairs by score.
    pub histogram: Vec<ScoreBin>,
    /// The utility of labels over the band, for drawing.
    #[serde(skip)]
    pub utilities: UtilityBand,
}

/// Both pairwise rates at one threshold, with intervals over labels.
#[derive(Clone, Debug, Serialize)]
pub struct AtThreshold {
    /// The pairwise FAR for which this threshold was chosen; `None` if the threshold was given.
    pub asked_far: Option<f64>,
    /// The threshold: a similarity that is equal or higher is accepted.
    pub threshold: Threshold,
    /// The accepted share of pairs with different labels.
    pub far: Option<Rate>,
    /// The upper end of a one-sided interval of the FAR, at the default display confidence.
    pub far_upper: Option<f64>,
    /// The design effect of the FAR: its variance divided by that of independent pairs.
    pub design_effect: Option<f64>,
    /// The rejected share of pairs with equal labels.
    pub frr: Option<Rate>,
}

/// A threshold for comparing two images, certified on label-disjoint pairs, or why there is none.
#[derive(Clone, Debug, Serialize)]
pub struct Certified {
    /// The requested target, which is applied to comparisons here and not to searches.
    pub target: TargetFar,
    /// Number of pairs; each label occurs in at most one.
    pub trials: u64,
    /// The threshold; `None` if there are too few labels.
    pub threshold: Option<Threshold>,
    /// The upper bound on the pairwise FAR, at the confidence of the target.
    pub far_bound: Option<f64>,
    /// The reason why there is no threshold.
    pub refused: Option<String>,
}

/// The rates of one label at the threshold.
#[derive(Clone, Debug, Serialize)]
pub struct NamedRow {
    /// The label.
    pub label: String,
    /// The rejected share of its mated pairs.
    pub frr: Option<f64>,
    /// The accepted share of its non-mated pairs.
    pub far: Option<f64>,
    /// Harmonic mean of sensitivity and specificity, in [0, 1].
    pub utility: Option<f64>,
    /// Number of mated pairs.
    pub mated: u64,
    /// Number of non-mated pairs.
    pub non_mated: u64,
}

/// Utility curves over the band.
#[derive(Clone, Debug, Default)]
pub struct UtilityBand {
    /// The thresholds, in ascending order.
    pub thresholds: Vec<Threshold>,
    /// The mean over all labels that have both kinds of pairs.
    pub mean: Vec<f64>,
    /// An evenly thinned-out selection of labels, with their curves.
    pub labels: Vec<(String, Vec<f64>)>,
}

impl PairsView {
    /// Measures the pairwise rates. `None`, with a note, if there are no pairs with different labels.
    pub(super) fn measure(
        scan: &Scan<'_>,
        material: &AnalysisInput<'_>,
        notes: &mut Vec<String>,
        watch: PairProgress<'_>,
    ) -> Result<Option<Self>, AnalysisError> {
        let curve = scan.curve(watch)?;
        if curve.non_mated_pairs() == 0 {
            notes.push("There are no pairs of two labels to compare.".to_owned());
            return Ok(None);
        }
        // Rates by label need every accepted pair in memory. And if a FAR corresponds to less than one accepted
        // pair, these data have no threshold for it.
        let mut at_far = Vec::new();
        for far in FARS {
            let accepted = real(curve.non_mated_pairs()) * far;
            if DYADS_MAX < accepted {
                notes.push(format!(
                    "Rates at pairwise FAR {} were left out: they take every accepted pair, about {accepted:.0}.",
                    percent(far)
                ));
            } else if let Some(threshold) = curve.threshold_at_far(far).filter(|_| 1.0 <= accepted)
            {
                at_far.push(at(scan, threshold, Some(far), watch)?);
            }
        }
        // The ends of the band are given as FARs and not as scores, so the band means the same for every model.
        let scope = material.scope;
        let thresholds = scope
            .band
            .thresholds(scope.band_points, |far| curve.threshold_at_far(far));
        let (consistency, utilities, over_band) = match thresholds {
            Some(thresholds) => consistency(scan, material, thresholds, notes, watch)?,
            None => (None, UtilityBand::default(), None),
        };
        // The threshold of the operating point does not depend on pairs, and may accept too many of them to
        // keep. Most of the view needs these pairs, so then there is no view.
        let accepted = curve
            .far_at(material.on_similarity)
            .map_or(0, Proportion::events);
        if DYADS_MAX < real(accepted) {
            notes.push(format!(
                "Pairs were counted no further: the threshold accepts {accepted} of two labels."
            ));
            return Ok(None);
        }
        let dyads = scan.dyads(material.on_similarity, watch)?;
        let non_mated = NonMatedCounts::of_scan(&dyads)?;
        let mated = MatedCounts::of_scan(&dyads)?;
        let groups = over_band.map(|over_band| {
            let counts = GroupCounts {
                over_band: &over_band,
                non_mated: &non_mated,
                mated: &mated,
            };
            label_groups(material, counts)
        });
        let target = material.target.far();
        Ok(Some(Self {
            mated_pairs: curve.mated_pairs(),
            non_mated_pairs: curve.non_mated_pairs(),
            equal_error: curve.equal_error(),
            at_threshold: rates(&non_mated, &mated, material.on_similarity, None),
            groups: groups.unwrap_or_default(),
            at_far,
            certified: target.map(|target| certified(material, target)),
            estimated: match target {
                Some(target) if real(curve.non_mated_pairs()) * target.far() <= DYADS_MAX => {
                    estimated(scan, &curve, target, watch)?
                }
                _ => None,
            },
            consistency,
            worst_labels: worst(scan, material, watch)?,
            curve: curve.points(CURVE_POINTS),
            histogram: curve.histogram(HISTOGRAM_CELLS),
            utilities,
        }))
    }
}

fn at(
    scan: &Scan<'_>,
    threshold: Threshold,
    asked_far: Option<f64>,
    watch: PairProgress<'_>,
) -> Result<AtThreshold, AnalysisError> {
    let dyads = scan.dyads(threshold, watch)?;
    let non_mated = NonMatedCounts::of_scan(&dyads)?;
    let mated = MatedCounts::of_scan(&dyads)?;
    Ok(rates(&non_mated, &mated, threshold, asked_far))
}

fn rates(
    non_mated: &NonMatedCounts,
    mated: &MatedCounts,
    threshold: Threshold,
    asked_far: Option<f64>,
) -> AtThreshold {
    AtThreshold {
        asked_far,
        threshold,
        far: non_mated.far(Confidence::DISPLAY),
        far_upper: non_mated.far_upper(Confidence::DISPLAY),
        design_effect: non_mated.design_effect(),
        frr: mated.frr(Confidence::DISPLAY),
    }
}

fn consistency(
    scan: &Scan<'_>,
    material: &AnalysisInput<'_>,
    thresholds: Vec<Threshold>,
    notes: &mut Vec<String>,
    watch: PairProgress<'_>,
) -> Result<(Option<Consistency>, UtilityBand, Option<LabelCounts>), AnalysisError> {
    let rows = material.queries.unwrap_or(material.gallery);
    let half = halves(&rows.labels, material.seed);
    let counts = scan.split_label_counts(&thresholds, &half, watch)?;
    let plan = ConsistencyPlan {
        band: material.scope.band,
        seed: material.seed,
        ..ConsistencyPlan::default()
    };
    let halves = Some((&counts.first, &counts.second));
    let measured = Consistency::measure(&counts.whole, halves, &plan);
    let utilities = utilities(&counts.whole, thresholds, material.names);
    Ok(match measured {
        Ok(measured) => (Some(measured), utilities, Some(counts.whole)),
        Err(unmeasured) => {
            notes.push(format!("OPIS is unknown: {unmeasured}."));
            (None, utilities, Some(counts.whole))
        }
    })
}

/// Puts every other row of a label in the first half; the seed decides which row is first.
fn halves(labels: &[u32], seed: u64) -> Vec<bool> {
    let mut next = std::collections::BTreeMap::new();
    let half = |&label| {
        let start = SeededRng::new(seed, u64::from(label)).bits() & 1 == 1;
        let turn: &mut bool = next.entry(label).or_insert(start);
        *turn = !*turn;
        *turn
    };
    labels.iter().map(half).collect()
}

fn utilities(counts: &LabelCounts, thresholds: Vec<Threshold>, names: &[String]) -> UtilityBand {
    let curves = utility_curves(counts);
    let count = real(curves.len().max(1) as u64);
    let mean = (0..thresholds.len())
        .map(|k| {
            curves
                .iter()
                .filter_map(|(_, curve)| curve.get(k))
                .sum::<f64>()
                / count
        })
        .collect();
    let step = curves.len().div_ceil(LABEL_CURVES_MAX).max(1);
    let labels = curves
        .into_iter()
        .step_by(step)
        .map(|(label, curve)| (names.get(label).cloned().unwrap_or_default(), curve))
        .collect();
    UtilityBand {
        thresholds,
        mean,
        labels,
    }
}

fn worst(
    scan: &Scan<'_>,
    material: &AnalysisInput<'_>,
    watch: PairProgress<'_>,
) -> Result<Vec<NamedRow>, AnalysisError> {
    let counts = scan.label_counts(&[material.on_similarity], watch)?;
    let rows = worst_labels(&label_rows(&counts, 0), WORST_MAX);
    Ok(rows
        .into_iter()
        .map(|row| NamedRow {
            label: material.names.get(row.label).cloned().unwrap_or_default(),
            frr: row.frr,
            far: row.far,
            utility: row.utility,
            mated: row.mated,
            non_mated: row.non_mated,
        })
        .collect())
}

/// One pair of images for each of many disjoint pairs of labels: independent trials.
fn certified(material: &AnalysisInput<'_>, target: TargetFar) -> Certified {
    let (gallery, seed) = (material.gallery, material.seed);
    let pairs = match material.queries {
        None => DisjointPairs::of_one_set(&gallery.labels, seed),
        Some(queries) => DisjointPairs::across(&queries.labels, &gallery.labels, seed),
    };
    let rows = &material.queries.unwrap_or(gallery).embeddings;
    let scores = pairs.scores(|pair| {
        let (a, b) = (rows.row(pair.a), gallery.embeddings.row(pair.b));
        a.zip(b)
            .and_then(|(a, b)| Similarity::between(a, b))
            // The row always exists; a score of 1 as a fallback is accepted at every threshold, so it could
            // only make the threshold stricter.
            .unwrap_or(Similarity::IDENTICAL)
    });
    let trials = scores.len() as u64;
    let outcome: Result<_, Underpowered> = certify_scores(scores, trials, target);
    Certified {
        target,
        trials,
        threshold: outcome.as_ref().ok().map(|found| found.threshold),
        far_bound: outcome.as_ref().ok().map(|found| found.far_bound),
        refused: outcome.err().map(|refused| {
            format!(
                "refused: it takes {} pairs of labels that share none, there are {}",
                refused.needed, refused.independent_trials
            )
        }),
    }
}

/// The lowest threshold on a grid whose upper bound over labels is at most the target. The grid is searched
/// from the strictest threshold down to the first that fails.
fn estimated(
    scan: &Scan<'_>,
    curve: &ScoreCurve,
    target: TargetFar,
    watch: PairProgress<'_>,
) -> Result<Option<AtThreshold>, AnalysisError> {
    /// Number of steps of the pooled FAR; each is 0.8 of the one before.
    const STEPS: i32 = 12;
    let mut best = None;
    for step in (0..STEPS).rev() {
        let far = target.far() * 0.8_f64.powi(step);
        let Some(threshold) = curve.threshold_at_far(far) else {
            continue;
        };
        let non_mated = NonMatedCounts::of_scan(&scan.dyads(threshold, watch)?)?;
        let upper = non_mated.far_upper(target.confidence());
        if upper.is_none_or(|upper| target.far() < upper) {
            break;
        }
        best = Some(threshold);
    }
    match best {
        Some(threshold) => at(scan, threshold, None, watch).map(Some),
        None => Ok(None),
    }
}
