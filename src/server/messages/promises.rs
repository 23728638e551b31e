//! The messages about promises.

use matchpoint_calibration::promised::PromisedTarget;
use matchpoint_client::proto;

/// What is left of a promise, as a message.
#[must_use]
pub fn promise(promised: PromisedTarget) -> proto::PromiseStanding {
    proto::PromiseStanding {
        rate: promised.rate.as_str().to_owned(),
        target: promised.target,
        confidence: promised.confidence.get(),
        bound: promised.bound,
        stands: promised.stands(),
        foreseen: promised.foreseen,
        ended: promised.ended.unwrap_or_default(),
    }
}
