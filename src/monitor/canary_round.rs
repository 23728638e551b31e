//! The result of one round of canaries.

use matchpoint_calibration::monitoring::canaries::{CanaryCounts, CanaryRates};

/// One search for each canary.
#[derive(Clone, Debug)]
pub struct CanaryRound {
    /// Id of the operating point that decided.
    pub operating_point: String,
    /// When the round ended, in milliseconds since 1970-01-01 UTC.
    pub unix_ms: u64,
    /// The numbers of searches and errors of each kind.
    pub counts: CanaryCounts,
    /// The rates of the round.
    pub rates: CanaryRates,
    /// Names of canaries whose outcome differs from the first round under this operating point.
    pub changed: Vec<String>,
    /// Names of canaries that could not be searched for, with the reasons.
    pub failed: Vec<(String, String)>,
}
