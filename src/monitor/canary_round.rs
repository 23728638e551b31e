//! What one round of canaries came to.

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
    /// What follows for the rates.
    pub rates: CanaryRates,
    /// Names of those that came out otherwise than in the first round under this operating point.
    pub changed: Vec<String>,
    /// Names of those that could not be searched for, and why.
    pub failed: Vec<(String, String)>,
}
