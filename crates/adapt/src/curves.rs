//! Curves for a page about a head: the trade-off of FAR and FRR and the utility of each label, without and with
//! the head.

use matchpoint_calibration::analysis::pairwise::Scan;
use matchpoint_calibration::analysis::score_curve::ScoreBin;
use rayon::prelude::*;

use super::error::AdaptError;
use super::figures::{LabelEvidence, at_far};
use super::judgement::{drawn_again, quantile};
use super::labelled_rows::LabelledRows;

/// Number of bootstrap samples of labels for the interval of a curve.
const REPLICATES: u64 = 300;
const TAIL: f64 = 0.025;
/// Number of points of a curve, equally spaced in the logarithm of FAR.
const POINTS: u32 = 41;
const FAR_LOWEST: f64 = 1e-3;
const FAR_HIGHEST: f64 = 0.4;
/// Number of bins of a histogram, over similarities from -1 to 1.
const BINS: usize = 100;

/// The FRR at some FAR, with its 95 % interval over labels.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TradePoint {
    /// The pairwise FAR.
    pub far: f64,
    /// The FRR at this FAR.
    pub frr: f64,
    /// The lower end of its interval.
    pub lower: f64,
    /// The upper end of its interval.
    pub upper: f64,
}

/// The utility of a label at thresholds given by the FAR of all pairs.
#[derive(Clone, Debug, PartialEq)]
pub struct LabelUtility {
    /// The label.
    pub label: String,
    /// Without the head, the harmonic mean of its sensitivity and specificity at each FAR of the band.
    pub without: Vec<f64>,
    /// The same with the head.
    pub with: Vec<f64>,
}

/// The trade-off and the labels' utilities without and with the head, on the judging labels.
#[derive(Clone, Debug, PartialEq)]
pub struct JudgedCurves {
    /// The trade-off without the head.
    pub without: Vec<TradePoint>,
    /// The trade-off with the head.
    pub with: Vec<TradePoint>,
    /// The similarities of all pairs without the head.
    pub scores_without: Vec<ScoreBin>,
    /// The same with the head.
    pub scores_with: Vec<ScoreBin>,
    /// The FARs at which utilities are given, in ascending order.
    pub band: Vec<f64>,
    /// The labels that have both mated and non-mated pairs.
    pub labels: Vec<LabelUtility>,
}

impl JudgedCurves {
    /// Compares the same rows without and with the head; `names` has the label of each row.
    pub(super) fn of(
        before: &LabelledRows,
        behind: &LabelledRows,
        names: &[&str],
        seed: u64,
    ) -> Result<Self, AdaptError> {
        let (without, with) = (LabelEvidence::of(before)?, LabelEvidence::of(behind)?);
        let band: Vec<f64> = rates().filter(|far| *far <= 0.1).collect();
        let mut of_number = vec![""; without.labels()];
        for (label, name) in before.dense_labels().0.into_iter().zip(names) {
            if let Some(of_number) = of_number.get_mut(label) {
                *of_number = name;
            }
        }
        let label = |(number, name): (usize, &&str)| {
            Some(LabelUtility {
                label: (*name).to_owned(),
                without: without.utility_at(number, &band)?,
                with: with.utility_at(number, &band)?,
            })
        };
        Ok(Self {
            without: curve(&without, seed),
            with: curve(&with, seed),
            scores_without: scores(before)?,
            scores_with: scores(behind)?,
            labels: of_number.iter().enumerate().filter_map(label).collect(),
            band,
        })
    }
}

fn scores(rows: &LabelledRows) -> Result<Vec<ScoreBin>, AdaptError> {
    let embeddings = rows.embeddings()?;
    let curve = Scan::all_pairs(&embeddings).curve(&|_, _| true);
    let curve = curve.map_err(|error| AdaptError::Analysis {
        problem: error.to_string(),
    })?;
    Ok(curve.histogram(BINS))
}

fn rates() -> impl Iterator<Item = f64> {
    let ratio = (FAR_HIGHEST / FAR_LOWEST).ln() / f64::from(POINTS - 1);
    (0..POINTS).map(move |step| FAR_LOWEST * (ratio * f64::from(step)).exp())
}

fn curve(evidence: &LabelEvidence, seed: u64) -> Vec<TradePoint> {
    let labels = evidence.labels();
    let along = |weights: &[f64]| -> Vec<f64> {
        let (far, frr) = evidence.rates(weights);
        rates().map(|rate| at_far(&far, &frr, rate)).collect()
    };
    let draws: Vec<Vec<f64>> = (1..=REPLICATES)
        .into_par_iter()
        .map(|stream| along(&drawn_again(labels, seed, stream)))
        .collect();
    let whole = along(&vec![1.0; labels]);
    let points = rates().zip(whole).enumerate();
    let point = |(at, (far, frr)): (usize, (f64, f64))| {
        let mut drawn: Vec<f64> = draws
            .iter()
            .filter_map(|draw| draw.get(at).copied())
            .collect();
        drawn.sort_by(f64::total_cmp);
        TradePoint {
            far,
            frr,
            lower: quantile(&drawn, TAIL),
            upper: quantile(&drawn, 1.0 - TAIL),
        }
    };
    points.map(point).collect()
}
