//! The services of the protocol, one in each file. Each call becomes a domain call.

pub(super) mod calibration;
pub(super) mod health;
pub(super) mod item_pages;
pub(super) mod items;
pub(super) mod monitoring;
pub(super) mod operating_points;
pub(super) mod operations;
pub(super) mod retrieval;
pub(super) mod server_info;
pub(super) mod shadow;
pub(super) mod snapshots;
