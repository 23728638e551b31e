//! Turns labelled queries into an operating point of this deployment.

pub(super) mod analysis_input;
pub(super) mod calibrate;
pub(super) mod calibrated;
pub(super) mod embedding_cache;
pub(super) mod evaluation;
mod gallery_searches;
pub(super) mod labelled_queries;
pub(super) mod remedy;
pub(super) mod searches;
mod traffic_sample;
