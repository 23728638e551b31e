//! Do searches look like those of the calibration, as far as that can be seen without labels?
//!
//! A promise assumes that strangers, enrolled things and pictures are of the kinds that were tested. Most of
//! that shows: in the picture's format, size, brightness and sharpness, in the length of the feature, in where
//! embeddings lie, in what the caller says of the picture. Each of these is cut into *shares*: searches of which
//! one thing is true, such as "format WebP". A share that is larger than it was at calibration is named.
//!
//! What part of traffic is mated is unknown, changes by itself and breaks no promise. Whatever it is, a share of
//! traffic is at most the larger one of its two probabilities, among mated searches and among strangers. Each of
//! them is known from one query a label, up to an exact binomial bound; the larger bound is the share's limit.
//! Against "at most its limit" an e-process bets for each share, and their weighted mean is one that may be looked
//! at at any time. Half of the probability of a false alarm is for the bounds, half for the bet.
//!
//! It never says what became of FAR or FRR, and nothing shows of strangers that look like enrolled things.

mod fit;
mod reference;
mod shares;
#[cfg(test)]
mod simulation;
mod watch;

use std::collections::BTreeMap;

pub use fit::TrafficQuery;
pub use reference::{SearchSigns, TrafficReference};
pub use shares::TrafficFeature;
pub use watch::{ShareInService, TrafficAssessment, TrafficState, TrafficWatch};

/// What is seen of a picture as it is decoded.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PictureFacts {
    /// The name of its format, such as "JPEG".
    pub format: &'static str,
    /// Pixels of its longer side.
    pub longest_side: u32,
    /// Mean grey level, 0 to 255.
    pub brightness: f64,
    /// Contrast of neighbouring pixels by that of pixels farther apart: blur lowers it.
    pub sharpness: f64,
}

/// What is seen of a search.
#[derive(Clone, Copy, Debug)]
pub struct SearchFacts<'a> {
    /// The query's embedding.
    pub vector: &'a [f32],
    /// What its picture is like; `None` if it came as a vector.
    pub picture: Option<PictureFacts>,
    /// The length of the feature that the embedding was made from; `None` if it came as a vector.
    pub feature_length: Option<f64>,
    /// What the caller says of the query, such as which camera it is from.
    pub conditions: &'a BTreeMap<String, String>,
}
