//! The operating point that is active, and what its decisions rest on.

use std::sync::Arc;
use std::time::Instant;

use super::DeploymentError;
use super::request::{Hit, SearchOptions, Timings};
use matchpoint_calibration::adjustment::{Adjuster, ComparedPair};
use matchpoint_calibration::certify::TargetFar;
use matchpoint_calibration::decision::Decision;
use matchpoint_calibration::operating_point::{Content, OperatingPoint};
use matchpoint_calibration::refusal::Mismatch;
use matchpoint_vector::{Embedding, Similarity};

/// What decides at present.
#[derive(Clone, Debug)]
pub enum ActivePoint {
    /// A valid operating point, and what adjusts scores for it.
    Valid(Arc<OperatingPoint>, Option<Box<Adjuster>>),
    /// None is active.
    Missing,
    /// One is active that was calibrated with something else.
    Mismatch(Mismatch),
    /// One is active that is missing from the disk, or damaged; why.
    Unreadable(String),
}

impl DecisionBasis {
    /// As it is where a filter named the items that could be found. What is accepted among some
    /// items is accepted among all, so that a bound on false accepts of strangers stays, where the
    /// similarity decides; a filter can leave out the mate, so that none on false rejects does.
    #[must_use]
    pub fn under_filter(mut self) -> Self {
        self.target_frr = None;
        self.certified &= self.adjustment.is_none() && self.target_far.is_some();
        self
    }
}

/// Why nothing is decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Undecided {
    /// No operating point is active.
    Missing,
    /// The active one does not belong here.
    Mismatch,
    /// The active one cannot be read.
    Unreadable,
}

/// What a decision rests on.
#[derive(Clone, Debug)]
pub struct DecisionBasis {
    /// The operating point that decided; `None` when undecided.
    pub operating_point_id: Option<String>,
    /// Its threshold; `None` when undecided.
    pub threshold: Option<f32>,
    /// The score that was compared with it; `None` when undecided, or if nothing was found.
    pub decision_score: Option<f32>,
    /// How that score was made, in words; `None` if it is the similarity.
    pub adjustment: Option<String>,
    /// The false accept rate that it promises, or aims at, per search; `None` without such a target.
    pub target_far: Option<f64>,
    /// The confidence of that, in (0, 1); `None` if it promises nothing.
    pub confidence: Option<f64>,
    /// Whether that false accept rate is a promise, and not only aimed at.
    pub certified: bool,
    /// The false reject rate that it promises per search; `None` if it promises none.
    pub target_frr: Option<f64>,
    /// The gallery's size up to which the calibration holds; `None` when undecided.
    pub calibrated_items: Option<u64>,
    /// Whether the gallery is no larger than that.
    pub within_calibrated_size: bool,
    /// Set when undecided.
    pub undecided: Option<Undecided>,
}

impl ActivePoint {
    /// The operating point, if it is valid.
    #[must_use]
    pub fn valid(&self) -> Option<&OperatingPoint> {
        match self {
            Self::Valid(point, _) => Some(point),
            Self::Missing | Self::Mismatch(_) | Self::Unreadable(_) => None,
        }
    }

    /// As [`ActivePoint::valid`], shared.
    pub(super) fn shared(&self) -> Option<Arc<OperatingPoint>> {
        match self {
            Self::Valid(point, _) => Some(Arc::clone(point)),
            Self::Missing | Self::Mismatch(_) | Self::Unreadable(_) => None,
        }
    }

    /// Why nothing is decided, in words; empty where something is.
    #[must_use]
    pub fn problem(&self) -> String {
        match self {
            Self::Valid(..) => String::new(),
            Self::Missing => "none is active".to_owned(),
            Self::Mismatch(mismatch) => mismatch.to_string(),
            Self::Unreadable(problem) => problem.clone(),
        }
    }

    /// What adjusts scores before they are compared with the threshold; `None` where the similarity
    /// is.
    #[must_use]
    pub fn adjuster(&self) -> Option<&Adjuster> {
        match self {
            Self::Valid(_, adjuster) => adjuster.as_deref(),
            Self::Missing | Self::Mismatch(_) | Self::Unreadable(_) => None,
        }
    }

    /// What is compared with the threshold for the best match of a search.
    pub(super) fn decision_score(
        &self,
        probe: &Embedding,
        best: Option<&Hit>,
        options: &SearchOptions,
        timings: &mut Timings,
    ) -> Result<Option<Similarity>, DeploymentError> {
        let Some(best) = best else {
            return Ok(None);
        };
        let compared = ComparedPair {
            score: best.score,
            probe: probe.as_slice(),
            item: &best.vector,
            label: Some(&best.item.label),
            left_out: options.without_label.as_deref(),
        };
        self.adjusted(&compared, timings).map(Some)
    }

    pub(super) fn adjusted(
        &self,
        compared: &ComparedPair<'_>,
        timings: &mut Timings,
    ) -> Result<Similarity, DeploymentError> {
        let Some(adjuster) = self.adjuster() else {
            return Ok(compared.score);
        };
        let started = Instant::now();
        let decision_score = adjuster.decision_score(compared)?;
        timings.search += started.elapsed();
        Ok(decision_score)
    }

    pub(super) fn decide(&self, best: Option<Similarity>) -> Decision {
        self.valid()
            .map_or(Decision::Undecided, |point| point.threshold().decide(best))
    }

    /// What a decision rests on while the gallery holds `items`, with `decision_score` compared with
    /// the threshold.
    #[must_use]
    pub fn basis(&self, items: usize, decision_score: Option<Similarity>) -> DecisionBasis {
        let undecided = match self {
            Self::Valid(..) => None,
            Self::Missing => Some(Undecided::Missing),
            Self::Mismatch(_) => Some(Undecided::Mismatch),
            Self::Unreadable(_) => Some(Undecided::Unreadable),
        };
        let point = self.valid();
        let content = point.map(OperatingPoint::content);
        let target = content.and_then(Content::target_far);
        // What was proven is proven for the size that was searched. Beyond it, where growth was
        // allowed for, a prediction stands.
        let grown = content
            .filter(|content| content.binding.gallery_items < items as u64)
            .and_then(|content| content.growth);
        DecisionBasis {
            operating_point_id: point.map(|point| point.id().to_owned()),
            threshold: point.map(|point| point.threshold().get()),
            decision_score: point.and(decision_score).map(Similarity::get),
            adjustment: self
                .adjuster()
                .map(|adjuster| adjuster.adjustment().describe()),
            target_far: grown
                .map(|growth| growth.target_far)
                .or(target.map(TargetFar::far)),
            confidence: content.and_then(Content::confidence),
            certified: target.is_some()
                && grown.is_none()
                && content.is_some_and(|content| content.policy.certifies()),
            target_frr: content
                .and_then(Content::frr_certificate)
                .map(|found| found.target.frr()),
            calibrated_items: content.map(Content::valid_to_items),
            within_calibrated_size: point.is_some_and(|point| point.covers_size(items as u64)),
            undecided,
        }
    }
}
