//! Turns labelled queries into an operating point of this deployment.

pub(super) mod analysis_input;
pub(super) mod calibrate;
pub(super) mod calibrated;
pub(super) mod embedding_cache;
pub(super) mod evaluation;
mod gallery_searches;
pub(super) mod labelled_queries;
mod made_elsewhere;
pub(super) mod remedy;
pub(super) mod searches;
mod traffic_sample;
