//! What a figure does not show: how rates go with each other, and how each label fares, before a head and behind it.

use rayon::prelude::*;

use super::error::AdaptError;
use super::figures::{LabelEvidence, at_far};
use super::judgement::{drawn_again, quantile};
use super::labelled_rows::LabelledRows;

/// Draws of the labels for the band of a curve.
const REPLICATES: u64 = 300;
const TAIL: f64 = 0.025;
/// Points of a curve, evenly over the logarithm of FAR.
const POINTS: u32 = 41;
const FAR_LOWEST: f64 = 1e-3;
const FAR_HIGHEST: f64 = 0.4;

/// FRR where FAR is a rate, with its 95 % interval over labels.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TradePoint {
    /// FAR, pairwise.
    pub far: f64,
    /// FRR.
    pub frr: f64,
    /// The low end of its interval.
    pub lower: f64,
    /// The high end.
    pub upper: f64,
}

/// How one threshold serves a label, along FAR of all pairs.
#[derive(Clone, Debug, PartialEq)]
pub struct LabelUtility {
    /// The label.
    pub label: String,
    /// The harmonic mean of its sensitivity and specificity where FAR is each of the band's rates.
    pub without: Vec<f64>,
    /// The same behind the head.
    pub with: Vec<f64>,
}

/// Rates and labels before a head and behind it, on the labels that judge.
#[derive(Clone, Debug, PartialEq)]
pub struct JudgedCurves {
    /// Without a head.
    pub without: Vec<TradePoint>,
    /// With it.
    pub with: Vec<TradePoint>,
    /// The rates of FAR that utilities are told at, ascending.
    pub band: Vec<f64>,
    /// Labels with pairs of both kinds.
    pub labels: Vec<LabelUtility>,
}

impl JudgedCurves {
    /// Of the same rows before a head and behind it; `names` has the label of each row.
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
            labels: of_number.iter().enumerate().filter_map(label).collect(),
            band,
        })
    }
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
