//! Who changed what: one log line for each change that somebody may have to account for.

use crate::identity::Identity;
use crate::telemetry::CHANGES;

/// Logs a change after it was made: by whom, with which method, in which deployment (empty for none), and
/// what.
pub(in crate::server) fn changed(identity: &Identity, method: &str, deployment: &str, what: &str) {
    tracing::info!(target: CHANGES, caller = %identity, method, deployment, what, "changed");
}
