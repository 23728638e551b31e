//! Matchpoint answers one question about an image: is this really the same thing?
//!
//! In reading order; ARCHITECTURE.md has a section for each.

pub mod analysis;
pub mod arrays;
pub mod calibration;
pub mod cli;
pub mod client;
pub mod config;
pub mod deployment;
pub mod gallery;
pub mod index;
pub mod journal;
pub mod kernels;
pub mod model;
pub mod monitoring;
pub mod pixels;
pub mod report;
pub mod server;
pub mod telemetry;
pub mod vector;
