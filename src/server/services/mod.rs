//! The services of the contract, one file each: a call becomes one of the domain.

pub(super) mod calibration;
pub(super) mod health;
pub(super) mod items;
pub(super) mod monitoring;
pub(super) mod operating_points;
pub(super) mod operations;
pub(super) mod retrieval;
pub(super) mod server_info;
pub(super) mod shadow;
pub(super) mod snapshots;
