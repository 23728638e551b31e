//! The measurements of a way to decide.

use serde::Serialize;

use super::comparison_set::WorstLabels;
use super::remedy::Fitted;
use crate::rates::Rate;

/// One way to decide, on the labels that it was not fitted to.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct MeasuredRemedy {
    /// The way to decide, as fitted on the other labels.
    pub fitted: Fitted,
    /// FAR per search.
    pub far: Rate,
    /// FRR per search.
    pub frr: Rate,
    /// The labels that are rejected most; `None` if no label has enough searches.
    pub worst_labels: Option<WorstLabels>,
    /// The variance over labels of utility, the harmonic mean of 1 - FRR and 1 - FAR, free of
    /// noise within labels: a covariance of two halves of each label's probes, which may fall
    /// below 0. `None` if fewer than two labels have mated searches in both.
    pub utility_variance: Option<f64>,
    /// The mean of that variance over thresholds at FAR 0.01 to 0.1 on the fitting half, evenly
    /// in its logarithm: OPIS for searches, on a scale that no change of scores can stretch.
    pub band_variance: Option<f64>,
}
