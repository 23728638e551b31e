//! The contract's messages, from the domain's types and to them.

pub(super) mod calibration_settings;
pub(super) mod convert;
pub(super) mod doubts;
pub(super) mod drift;
pub(super) mod page_token;
