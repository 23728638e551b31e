//! Matchpoint answers one question about an image: is this really the same thing?
//!
//! The program: settings, deployments, the server, and the commands. What it is made of can be used
//! alone, and is in `crates/`; ARCHITECTURE.md has a section for each.

#![forbid(unsafe_code)]

pub mod cli;
pub mod clock;
pub mod config;
pub mod console;
pub mod deployment;
pub mod files;
pub mod identity;
pub mod journal;
pub mod monitor;
pub mod server;
pub mod telemetry;
