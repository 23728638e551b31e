//! Converts between the messages of the protocol and the types of the domain.

pub(super) mod calibration_settings;
pub(super) mod convert;
pub(super) mod doubts;
pub(super) mod drift;
pub(super) mod page_token;
pub(super) mod promises;
