//! The result of one round of left-out searches.

use std::sync::Arc;

use super::lookalikes::{Lookalike, OtherItem};
use matchpoint_calibration::monitoring::left_out::LeftOutStanding;
use matchpoint_gallery::item::ItemHead;

/// A round.
#[derive(Clone, Debug)]
pub struct LeftOutRound {
    /// The operating point that accepted.
    pub operating_point: String,
    /// When it ended, in milliseconds since 1970-01-01 UTC.
    pub unix_ms: u64,
    /// The rate of accepts, and its limit.
    pub standing: LeftOutStanding,
    /// Some of what was accepted.
    pub lookalikes: Vec<Lookalike>,
}

/// An item that was searched for with its label left out, and as what it was accepted.
#[derive(Clone, Debug)]
pub struct LeftOutItem {
    /// The item.
    pub head: Arc<ItemHead>,
    /// The item of another label as which it was accepted; `None` if it was rejected.
    pub accepted_as: Option<OtherItem>,
}
