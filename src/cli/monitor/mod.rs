//! The commands that watch an operating point in service.

pub(super) mod audit;
pub(super) mod canaries;
pub(super) mod drift;
mod drift_fleet;
mod replicas;
mod served_deployment;
pub(super) mod shadow;
