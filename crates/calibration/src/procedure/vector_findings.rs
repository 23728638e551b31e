//! The result of a calibration without a deployment, in the form in which it is printed.

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

/// The number of items, queries and labels of a calibration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CalibratedSizes {
    /// Number of items in the gallery.
    pub gallery: usize,
    /// Number of queries; 0 if each gallery vector was searched for among the others.
    pub queries: usize,
    /// Number of labels in the gallery and the queries together.
    pub labels: usize,
}

/// The result of a calibration of plain vectors or scores. The command prints it as JSON.
#[derive(Clone, Debug, Serialize)]
pub struct VectorFindings {
    /// `certified`, `aimed at, not certified` or `refused`.
    pub outcome: &'static str,
    /// Number of items in the gallery.
    pub gallery: usize,
    /// Number of queries; 0 if each gallery vector was searched for among the others.
    pub queries: usize,
    /// Number of labels in the gallery and the queries together.
    pub labels: usize,
    /// Labels of strangers whose spelling is suspiciously similar to that of another label.
    pub alike: Vec<Alike>,
    /// Queries whose vectors nearly equal a gallery vector. If both have the same label, the query
    /// is not counted.
    pub copies: Vec<Copied>,
    /// Queries of strangers whose vectors nearly equal that of another stranger. Such a pair is
    /// counted both as one and as two strangers.
    pub near_copies: Vec<NearCopied>,
    /// How many independent strangers the unnamed vectors count as; `None` if all have a name.
    pub unnamed: Option<UnnamedStrangers>,
    /// Labels of strangers that may stand for fewer things than there are labels; `None` if there
    /// are none.
    pub crowded: Option<CrowdedStrangers>,
    /// Number of strangers' queries that were not compared with each other because there are too
    /// many.
    pub not_compared: u64,
    /// The content of the operating point; `None` if the target is refused.
    pub content: Option<Content>,
    /// The reason for a refusal; `None` if the target is supported.
    pub refusal: Option<Refusal>,
    /// Further results about the threshold; `None` if the target is refused.
    pub analysis: Option<Analysis>,
}

impl CalibratedSizes {
    /// Counts items, queries and labels of `vectors`.
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
    /// Converts the result of a calibration.
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
