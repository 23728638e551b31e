//! What can be said without labels: that scores have shifted, or that the gallery has grown, and
//! never that an error rate has.

use super::MonitoringError;
use crate::binomial::{chi_squared_quantile, real};
use crate::growth::{FpirAt, predicted};
use crate::operating_point::Content;

/// The population stability index of a window against a reference, with what chance alone gives.
///
/// Blind to what matters most: a changed share of strangers makes it loud and changes neither FAR
/// nor FRR; a few look-alikes multiply the FAR within its noise.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Shift {
    /// Sum of (b - a) ln(b / a) over bins of equal meaning, with half a count added to each so that
    /// an empty bin says no more than it can.
    pub psi: f64,
    /// What it stays below with the probability asked for while nothing has changed:
    /// (1 / N + 1 / M) times the quantile of chi-squared with one degree less than bins (Yurdakul
    /// and Naranjo 2020). The usual 0.1 and 0.25 know nothing of N and M.
    pub limit: f64,
}

/// Compares the counts of a window with those of a reference; `alpha` is the probability of being
/// above the limit by chance.
///
/// # Errors
/// Refuses counts of different bins, fewer than two of them, and a window or reference without
/// scores.
pub fn shift(reference: &[u64], window: &[u64], alpha: f64) -> Result<Shift, MonitoringError> {
    let bins = u32::try_from(reference.len()).unwrap_or(u32::MAX);
    if reference.len() != window.len() || bins < 2 {
        return Err(MonitoringError::DifferentBins);
    }
    let totals: [u64; 2] = [reference, window].map(|counts| counts.iter().sum());
    if totals.contains(&0) {
        return Err(MonitoringError::NoScores);
    }
    let [before, after] = totals.map(|total| real(total) + 0.5 * f64::from(bins));
    let terms = reference.iter().zip(window).map(|(&a, &b)| {
        let (a, b) = ((real(a) + 0.5) / before, (real(b) + 0.5) / after);
        (b - a) * (b / a).ln()
    });
    let noise: f64 = totals.iter().map(|&total| 1.0 / real(total)).sum();
    Ok(Shift {
        psi: terms.sum(),
        limit: noise * chi_squared_quantile(alpha, bins - 1),
    })
}

/// The FAR that a gallery of some size is predicted to have under an operating point.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PredictedFar {
    /// From what its calibration measured.
    pub estimate: f64,
    /// From the bound that its calibration gives, or the upper end of the interval it measured.
    pub upper: f64,
}

/// Carries the FAR that was measured at calibration over to a gallery of `items`; `None` if
/// none was measured, or if the gallery is empty.
///
/// Blind to everything but the number of items: strangers and pictures are taken as they were, and
/// new items as alike to strangers as the old ones ([`predicted`]).
#[must_use]
pub fn predicted_far(content: &Content, items: u64) -> Option<PredictedFar> {
    let measured = content.measured.far?;
    let at = |fpir| {
        let now = FpirAt {
            items: content.binding.gallery_items,
            fpir,
        };
        predicted(now, items).ok().map(|found| found.fpir)
    };
    Some(PredictedFar {
        estimate: at(measured.estimate)?,
        upper: at(content.far_bound().unwrap_or(measured.interval.upper))?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_index_and_its_limit_are_those_of_the_reference() {
        let scaled = |shares: [u64; 5]| shares.map(|share| share * 1_000_000);
        let found = shift(&scaled([2, 4, 8, 4, 2]), &scaled([1, 3, 8, 5, 3]), 0.05).unwrap();
        assert!((found.psi - 0.080_471_895_621_7).abs() < 1e-6, "{found:?}");
        let limit = |n: u64, m: u64, bins: usize| {
            let spread = |total: u64| vec![total / bins as u64; bins];
            shift(&spread(n), &spread(m), 0.05).unwrap().limit
        };
        assert!((limit(10_000, 1_000, 10) - 0.0186).abs() < 5e-5);
        assert!((limit(10_000, 200, 20) - 0.154).abs() < 5e-4);
    }

    #[test]
    fn an_empty_bin_is_no_infinity_and_nothing_to_compare_is_refused() {
        assert!(shift(&[5, 5], &[10, 0], 0.05).unwrap().psi.is_finite());
        assert_eq!(
            shift(&[0, 0], &[1, 1], 0.05),
            Err(MonitoringError::NoScores)
        );
        assert_eq!(
            shift(&[1, 1, 1], &[1, 1], 0.05),
            Err(MonitoringError::DifferentBins)
        );
    }
}
