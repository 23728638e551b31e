//! From searches with known truth to a threshold that keeps a promise.
//!
//! Reading order: what a threshold does, what a trial is, rates with intervals; the certified
//! thresholds, the estimated ones, and the policies over them; rates on labels that did not
//! choose, and in larger galleries; the searches as they were recorded, and the record of it all.

pub mod adjustment;
pub mod binomial;
pub mod certify;
pub mod certify_frr;
pub mod cohort;
pub mod cost;
pub mod decision;
mod error;
pub mod estimate;
pub mod evaluate;
pub mod evidence;
pub mod groups;
pub mod growth;
pub mod held_out;
pub mod likeness;
pub mod normalise;
pub mod operating_point;
pub mod policy;
pub mod rates;
pub mod recording;
pub mod refusal;
pub mod strangers;
pub mod sweep;
pub mod target_rate;
pub mod trials;

pub use error::CalibrationError;
