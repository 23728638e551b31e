//! The result of one round of left-out searches.

use std::sync::Arc;

use super::lookalikes::{Lookalike, OtherItem};
use matchpoint_calibration::monitoring::left_out::LeftOutStanding;
use matchpoint_gallery::item::ItemHead;

/// The result of a round.
#[derive(Clone, Debug)]
pub struct LeftOutRound {
    /// Id of the operating point that decided.
    pub operating_point: String,
    /// When the round ended, in milliseconds since 1970-01-01 UTC.
    pub unix_ms: u64,
    /// The share of accepts, with its limit.
    pub standing: LeftOutStanding,
    /// Some of the accepted items.
    pub lookalikes: Vec<Lookalike>,
}

/// An item that was searched for with its label left out, and the result.
#[derive(Clone, Debug)]
pub struct LeftOutItem {
    /// The item.
    pub head: Arc<ItemHead>,
    /// The item of another label that it was accepted as; `None` if the search was rejected.
    pub accepted_as: Option<OtherItem>,
}
