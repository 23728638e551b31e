//! How the rates developed over time.

use super::MonitoringError;
use super::audit::{AuditRow, AuditSample, AuditedRate};
use super::strata::Strata;
use crate::rates::Confidence;

/// The rates known after some of the sampled decisions.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct HistoryPoint {
    /// When the last of these decisions was made, in milliseconds since 1970-01-01 UTC.
    pub unix_ms: u64,
    /// The FAR over all decisions up to this point.
    pub far: Option<AuditedRate>,
    /// The FRR over all decisions up to this point.
    pub frr: Option<AuditedRate>,
}

/// The highest number of points, which is enough for a chart.
const POINTS_MAX: usize = 40;

/// Estimates the rates at several points, each from all rows up to it. Rows are in the order in which they
/// were made, at the times in `unix_ms`. Each interval is valid for its own point, and not for all points
/// together.
///
/// # Errors
/// Returns an error if a row belongs to another design.
pub fn rate_history(
    strata: &Strata,
    rows: &[AuditRow],
    unix_ms: &[u64],
    confidence: Confidence,
) -> Result<Vec<HistoryPoint>, MonitoringError> {
    let count = POINTS_MAX.min(rows.len());
    let mut history = Vec::with_capacity(count);
    for step in 1..=count {
        let end = rows.len() * step / count;
        let Some((rows, unix_ms)) = rows.get(..end).zip(unix_ms.get(end - 1)) else {
            continue;
        };
        let audit = AuditSample {
            strata,
            rows,
            counted: None,
        };
        let rates = audit.rates(confidence)?;
        history.push(HistoryPoint {
            unix_ms: *unix_ms,
            far: rates.far,
            frr: rates.frr,
        });
    }
    Ok(history)
}

#[cfg(test)]
mod tests {
    use super::super::audit::SearchTruth;
    use super::super::strata::Inclusion;
    use super::*;

    #[test]
    fn a_history_ends_with_all_rows_and_has_no_more_points_than_a_chart() {
        let strata = Strata::new(vec![0.0], vec![Inclusion::ALWAYS; 2]).unwrap();
        let row = |accepted| AuditRow {
            grown: false,
            stratum: usize::from(accepted),
            accepted,
            inclusion: Inclusion::ALWAYS,
            truth: Some(SearchTruth::NonMated),
        };
        let rows: Vec<AuditRow> = (0..1_001).map(|number| row(900 < number)).collect();
        let times: Vec<u64> = (0..1_001).collect();
        let of = |count: usize| {
            let (rows, times) = (&rows[..count], &times[..count]);
            rate_history(&strata, rows, times, Confidence::DISPLAY).unwrap()
        };
        assert_eq!(of(0), []);
        assert_eq!(of(3).len(), 3);
        let all = of(1_001);
        assert_eq!(all.len(), POINTS_MAX);
        let last = all[POINTS_MAX - 1];
        assert_eq!(last.unix_ms, 1_000);
        assert!((last.far.unwrap().estimate - 100.0 / 1_001.0).abs() < 1e-12);
        assert!(all[0].far.unwrap().estimate <= 0.0 && last.frr.is_none());
    }
}
