//! Compares searches with those of the calibration, as far as this is possible without labels.
//!
//! A promise assumes that strangers, enrolled things and pictures are of the kinds that the calibration
//! tested. Most changes of kind are visible: in the picture's format, size, brightness and sharpness, in the
//! length of the feature vector, in the position of embeddings, and in the conditions that callers state.
//! Each of these is divided into *shares*. A share is the part of searches that have one property, such as
//! "format WebP". A share that has become larger since the calibration is reported.
//!
//! The part of traffic that is mated is unknown; it may change without breaking a promise. But whatever it
//! is, a share of traffic is at most the larger of two probabilities: that among mated searches and that
//! among strangers. How large these are, nobody knows either; the calibration's labels bet against each value
//! that the larger one may have, and traffic bets that it is above that value. The product of the two is
//! evidence against the value, and the evidence of a share is the least of these products over all values:
//! whatever the truth is, that is at most an e-process. The weighted mean over all shares is one too, so it may
//! be checked at any time, and no probability is lost to bounds.
//!
//! The comparison says nothing about FAR or FRR themselves, and cannot detect strangers that look like
//! enrolled things.

mod assessment;
mod calibrated;
mod fit;
mod reference;
mod shares;
#[cfg(test)]
mod simulation;
mod watch;

use std::collections::BTreeMap;

pub use assessment::{ShareInService, TrafficAssessment};
pub use fit::TrafficQuery;
pub use reference::TrafficReference;
pub use shares::{SearchSigns, TrafficFeature};
pub use watch::{TrafficState, TrafficWatch};

/// Properties of a picture that are measured when it is decoded.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PictureFacts {
    /// The name of its format, such as "JPEG".
    pub format: &'static str,
    /// Length of the longer side, in pixels.
    pub longest_side: u32,
    /// Mean grey level, from 0 to 255.
    pub brightness: f64,
    /// Contrast between neighbouring pixels divided by that between more distant ones. Blur lowers it.
    pub sharpness: f64,
}

/// The properties of one search that are compared.
#[derive(Clone, Copy, Debug)]
pub struct SearchFacts<'a> {
    /// The query's embedding.
    pub vector: &'a [f32],
    /// Properties of its picture; `None` if the query came as a vector.
    pub picture: Option<PictureFacts>,
    /// The length of the feature vector before it was scaled to an embedding; `None` if the query came as a
    /// vector.
    pub feature_length: Option<f64>,
    /// Conditions that the caller states, such as the camera.
    pub conditions: &'a BTreeMap<String, String>,
}
