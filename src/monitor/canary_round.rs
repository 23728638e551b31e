//! The result of one round of canaries.

use matchpoint_calibration::monitoring::canaries::{CanaryCounts, CanaryRates};

/// One search for each canary.
#[derive(Clone, Debug)]
pub struct CanaryRound {
    /// The operating point that decided.
    pub operating_point: String,
    /// When it ended, in milliseconds since 1970-01-01 UTC.
    pub unix_ms: u64,
    /// Searches and errors of each kind.
    pub counts: CanaryCounts,
    /// The resulting rates.
    pub rates: CanaryRates,
    /// Names of those with another outcome than in the first round under this operating point.
    pub changed: Vec<String>,
    /// Names of those that could not be searched for, and why.
    pub failed: Vec<(String, String)>,
}
