//! Logs who changed what, with one line for each change that somebody may have to account for.

use crate::identity::Identity;
use crate::telemetry::CHANGES;

/// Logs a change after it was made: the caller, the method, the deployment (empty for none), and what was
/// changed.
pub(in crate::server) fn changed(identity: &Identity, method: &str, deployment: &str, what: &str) {
    tracing::info!(target: CHANGES, caller = %identity, method, deployment, what, "changed");
}
