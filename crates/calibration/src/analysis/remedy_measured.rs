//! The measurements of one decision rule.

use serde::Serialize;

use super::comparison_set::WorstLabels;
use super::remedy::Fitted;
use crate::rates::Rate;

/// The measurements of one decision rule on labels that it was not fitted to.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct MeasuredRemedy {
    /// The decision rule, as fitted on the other labels.
    pub fitted: Fitted,
    /// The FAR per search.
    pub far: Rate,
    /// The FRR per search.
    pub frr: Rate,
    /// The labels with the highest FRR; `None` if no label has enough searches.
    pub worst_labels: Option<WorstLabels>,
    /// The variance over labels of utility (the harmonic mean of 1 - FRR and 1 - FAR), without the noise within
    /// labels. It is computed as a covariance between two halves of each label's probes, so it can be negative.
    /// `None` if fewer than two labels have mated searches in both halves.
    pub utility_variance: Option<f64>,
    /// The mean of this variance over thresholds that have a FAR of 0.01 to 0.1 on the fitting half, equally
    /// spaced in the logarithm of the FAR. This is OPIS for searches; its scale does not change if scores are
    /// stretched.
    pub band_variance: Option<f64>,
}
