//! Who changed what: one line of the log for each change that somebody may have to answer for.

use crate::identity::Identity;
use crate::telemetry::CHANGES;

/// Notes a change after it was made: by whom, with which method, in which deployment (empty for none),
/// and to what.
pub(super) fn changed(identity: &Identity, method: &str, deployment: &str, what: &str) {
    tracing::info!(target: CHANGES, caller = %identity, method, deployment, what, "changed");
}
