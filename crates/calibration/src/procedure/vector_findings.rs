//! The result of a calibration without a deployment, as it is printed.

use serde::Serialize;

use super::calibrate_vectors::{SupportedThreshold, VectorCalibration};
use super::labelled_vectors::LabelledVectors;
use super::refusal::Refusal;
use super::vector_trials::{Copied, NearCopied};
use crate::analysis::Analysis;
use crate::analysis::crowded::CrowdedStrangers;
use crate::analysis::strangers::UnnamedStrangers;
use crate::likeness::Alike;
use crate::operating_point::Content;

/// The sizes of the input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CalibratedSizes {
    /// Items of the gallery.
    pub gallery: usize,
    /// Queries; 0 if the gallery searched for itself.
    pub queries: usize,
    /// Labels of both.
    pub labels: usize,
}

/// The result for plain vectors, or for scores. The command prints it as JSON.
#[derive(Clone, Debug, Serialize)]
pub struct VectorFindings {
    /// `certified`, `aimed at, not certified` or `refused`.
    pub outcome: &'static str,
    /// Items of the gallery.
    pub gallery: usize,
    /// Queries; 0 if the gallery searched for itself.
    pub queries: usize,
    /// Labels of both.
    pub labels: usize,
    /// Labels of strangers that are suspiciously like another.
    pub alike: Vec<Alike>,
    /// Queries that are nearly vectors of the gallery: of their own label not counted.
    pub copies: Vec<Copied>,
    /// Strangers' queries that are nearly one vector with another stranger's: counted once.
    pub near_copies: Vec<NearCopied>,
    /// How many strangers the unnamed vectors count as; `None` if there are none.
    pub unnamed: Option<UnnamedStrangers>,
    /// Labels of strangers that may be fewer things than they are; `None` if there are none.
    pub crowded: Option<CrowdedStrangers>,
    /// Strangers' queries that were not compared with the others for that, because there are too many.
    pub not_compared: u64,
    /// The operating point; `None` if the target is refused.
    pub content: Option<Content>,
    /// Why the target is refused; `None` if it is supported.
    pub refusal: Option<Refusal>,
    /// The analysis; `None` if the target is refused.
    pub analysis: Option<Analysis>,
}

impl CalibratedSizes {
    /// The sizes of labelled vectors.
    #[must_use]
    pub fn of(vectors: &LabelledVectors) -> Self {
        Self {
            gallery: vectors.gallery.ids.len(),
            queries: vectors.queries.as_ref().map_or(0, |set| set.ids.len()),
            labels: vectors.names.len(),
        }
    }
}

impl VectorFindings {
    /// The printed form of a calibration.
    #[must_use]
    pub fn of(sizes: CalibratedSizes, found: VectorCalibration) -> Self {
        let trials = found.trials;
        let (content, analysis, refusal) = match found.outcome {
            Ok(SupportedThreshold { point, analysis }) => {
                (Some(point.content().clone()), Some(analysis), None)
            }
            Err(refusal) => (None, None, Some(refusal)),
        };
        Self {
            outcome: match &content {
                None => "refused",
                Some(content) if content.policy.certifies() => "certified",
                Some(_) => "aimed at, not certified",
            },
            gallery: sizes.gallery,
            queries: sizes.queries,
            labels: sizes.labels,
            alike: found.alike,
            copies: trials.copies,
            near_copies: trials.near_copies,
            unnamed: trials.unnamed,
            crowded: trials.crowded,
            not_compared: trials.not_compared,
            content,
            refusal,
            analysis,
        }
    }
}
