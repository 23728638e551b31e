//! Chooses an accept threshold that keeps a promised error rate, from searches with known truth.
//!
//! The code is pure: it has no input or output, no clock, and no randomness of its own. The same trials always
//! give the same threshold.
//!
//! ```
//! use matchpoint_calibration::certify::{TargetFar, certify};
//! use matchpoint_calibration::trials::{NonMatedSearch, StrangerOrigin, Trials};
//! use matchpoint_vector::Similarity;
//!
//! // One search each for 300 strangers, and the best score that it found in the gallery.
//! let searches = (0..300_u16).map(|i| NonMatedSearch {
//!     label: format!("stranger {i}"),
//!     probe: format!("picture {i}"),
//!     top_score: Similarity::new(f32::from(i) / 1000.0),
//!     origin: StrangerOrigin::NeverEnrolled,
//! });
//! let trials = Trials::new(vec![], searches.collect())?;
//! // At most 2 % of strangers accepted, at a confidence of 95 %.
//! let target = TargetFar::new(0.02, 0.95)?;
//! let found = certify(&trials.one_probe_per_label(7), target).map_err(|_| "too few labels")?;
//! assert!(found.threshold.get() > 0.29);
//! // Fewer labels than that take cannot promise it, and the refusal says how many would.
//! assert_eq!(target.trials_needed(), 149);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Read the modules in this order: the decision rule ([`decision`]), trials ([`trials`]), and rates with
//! intervals ([`rates`]); certified thresholds ([`certify`], [`certify_frr`]), estimated thresholds
//! ([`estimate`]), and the policies that use them ([`policy`]); rates on held-out labels ([`held_out`]) and in
//! larger galleries ([`growth`]); recorded searches ([`recording`]) and the record of a calibration
//! ([`operating_point`]). [`analysis`] shows what else the data say, and [`monitoring`] checks whether the
//! promise is kept in service.

#![forbid(unsafe_code)]

pub mod adjustment;
pub mod analysis;
pub mod binomial;
pub mod certify;
pub mod certify_frr;
pub mod cohort;
pub mod cost;
pub mod coverage;
pub mod decision;
mod error;
pub mod estimate;
pub mod evaluate;
pub mod evidence;
pub mod growth;
pub mod held_out;
pub mod likeness;
pub mod margin;
pub mod menu;
pub mod monitoring;
pub mod normalise;
pub mod operating_point;
mod percent;
pub mod policy;
pub mod procedure;
pub mod promised;
pub mod rates;
pub mod recording;
pub mod refusal;
pub mod review;
mod seeded_hash;
mod splitmix64;
pub mod standing;
pub mod stated_target;
pub mod strangers;
pub mod sweep;
pub mod target_rate;
pub mod trials;
pub mod worst_group;

pub use error::CalibrationError;
