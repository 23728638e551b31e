//! The active operating point, and what its decisions rest on.

use std::sync::Arc;
use std::time::Instant;

use super::promise_today::coverage_in;
use crate::deployment::DeploymentError;
use crate::deployment::search::deciding::{Deciding, Searched, best_of_another};
use crate::deployment::search::request::Timings;
use matchpoint_calibration::adjustment::{Adjuster, Adjustment, ComparedPair};
use matchpoint_calibration::coverage::Coverage;
use matchpoint_calibration::decision::Decision;
use matchpoint_calibration::monitoring::traffic::{SearchFacts, SearchSigns, TrafficReference};
use matchpoint_calibration::operating_point::{Content, OperatingPoint};
use matchpoint_calibration::refusal::Mismatch;
use matchpoint_calibration::standing::PromiseToday;
use matchpoint_gallery::item_set::ItemSet;
use matchpoint_gallery::view::GalleryView;
use matchpoint_vector::Similarity;

/// By what decisions are made at present.
#[derive(Clone, Debug)]
pub enum ActivePoint {
    /// One is valid.
    Valid(ValidPoint),
    /// None is active.
    Missing,
    /// The active one was calibrated with something else.
    Mismatch(Mismatch),
    /// The active one is missing from the disk, or damaged; why.
    Unreadable(String),
}

/// An operating point that fits the deployment, and what its decisions need.
#[derive(Clone, Debug)]
pub struct ValidPoint {
    /// The operating point.
    pub point: Arc<OperatingPoint>,
    /// What adjusts scores for it; `None` if the similarity decides.
    pub adjuster: Option<Box<Adjuster>>,
    /// The items that it was calibrated on, or why they are not known.
    pub items: Result<Arc<ItemSet>, String>,
    /// What the searches of its calibration looked like; `None` if that was not stored.
    pub traffic: Option<Arc<TrafficReference>>,
}

impl DecisionBasis {
    /// The same under a filter, if there was one. What is accepted among some items is accepted among all,
    /// so a bound on false accepts of strangers still holds if the similarity is what is compared; but a
    /// filter can leave out the mate, so no bound on false rejects does.
    #[must_use]
    pub fn if_filtered(mut self, filtered: bool) -> Self {
        if filtered {
            self.target_frr = None;
            self.frr_bound = None;
            if let Some(review) = &mut self.review {
                review.unseen_frr = None;
            }
            self.certified &= self.kept_by_filters && self.target_far.is_some();
        }
        self
    }
}

/// Why decisions are UNDECIDED.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Undecided {
    /// No operating point is active.
    Missing,
    /// The active one does not fit the deployment.
    Mismatch,
    /// The active one cannot be read.
    Unreadable,
    /// Its score needs the best item of another label, and there is none, or it is unknown which label is
    /// another.
    NoOtherLabel,
}

/// What is compared with the threshold.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum JudgedScore {
    /// Nothing was found.
    Nothing,
    /// This score.
    Score(Similarity),
    /// Something was found, but it has no score: UNDECIDED.
    NoScore,
}

impl JudgedScore {
    /// The score, if there is one.
    #[must_use]
    pub fn score(self) -> Option<Similarity> {
        match self {
            Self::Score(score) => Some(score),
            Self::Nothing | Self::NoScore => None,
        }
    }
}

/// What a decision rests on.
#[derive(Clone, Debug)]
pub struct DecisionBasis {
    /// The active operating point; `None` when undecided.
    pub operating_point_id: Option<String>,
    /// Its threshold; `None` when undecided.
    pub threshold: Option<f32>,
    /// Whether the best of some items never scores higher than the best of all.
    pub kept_by_filters: bool,
    /// The score that was compared with it; `None` when undecided, or if nothing was found.
    pub decision_score: Option<f32>,
    /// How that score was made, in words; `None` if it is the similarity.
    pub adjustment: Option<String>,
    /// The false accept rate per search that it promises or aims at; `None` without such a target.
    pub target_far: Option<f64>,
    /// The confidence of that, in (0, 1); `None` if it promises nothing.
    pub confidence: Option<f64>,
    /// Whether that false accept rate is a promise, and not only aimed at.
    pub certified: bool,
    /// The false reject rate per search that it promises; `None` if it promises none, or too many items
    /// were removed for the promise to hold.
    pub target_frr: Option<f64>,
    /// The FRR that is not exceeded today, if labels that may have lost an item count as missed. `None`
    /// without a promised FRR, or if coverage is unknown.
    pub frr_bound: Option<f64>,
    /// What a person should review; `None` when undecided, and without a review band.
    pub review: Option<ReviewBasis>,
    /// Items of the calibration and those added since, up to which it holds; `None` when undecided.
    pub calibrated_items: Option<u64>,
    /// Whether the gallery is within that.
    pub within_calibrated_size: bool,
    /// The part of the calibration's gallery that is still present; `None` when undecided or unknown.
    pub coverage: Option<Coverage>,
    /// The FAR that is not exceeded in today's gallery, at `confidence`: that of the calibration, in the
    /// smallest gallery that contains its items and those added since. `None` without such a bound, or if
    /// coverage is unknown.
    pub far_bound: Option<f64>,
    /// Set when undecided.
    pub undecided: Option<Undecided>,
}

/// Which rejects a person should review.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ReviewBasis {
    /// The score from which on they are reviewed.
    pub threshold: f32,
    /// Whether this decision is one.
    pub due: bool,
    /// The promised limit for the share of mated searches that are rejected unseen, or accepted with a
    /// wrong label; `None` if too many items were removed for the promise to hold.
    pub unseen_frr: Option<f64>,
}

impl ActivePoint {
    /// The operating point, if it is valid.
    #[must_use]
    pub fn valid(&self) -> Option<&OperatingPoint> {
        match self {
            Self::Valid(valid) => Some(&valid.point),
            Self::Missing | Self::Mismatch(_) | Self::Unreadable(_) => None,
        }
    }

    /// As [`ActivePoint::valid`], shared.
    pub(in crate::deployment) fn shared(&self) -> Option<Arc<OperatingPoint>> {
        match self {
            Self::Valid(valid) => Some(Arc::clone(&valid.point)),
            Self::Missing | Self::Mismatch(_) | Self::Unreadable(_) => None,
        }
    }

    /// Why decisions are UNDECIDED, in words; empty if they are not.
    #[must_use]
    pub fn problem(&self) -> String {
        match self {
            Self::Valid(..) => String::new(),
            Self::Missing => "none is active".to_owned(),
            Self::Mismatch(mismatch) => mismatch.to_string(),
            Self::Unreadable(problem) => problem.clone(),
        }
    }

    /// What adjusts scores before they are compared with the threshold; `None` if the similarity is
    /// compared.
    #[must_use]
    pub fn adjuster(&self) -> Option<&Adjuster> {
        match self {
            Self::Valid(valid) => valid.adjuster.as_deref(),
            Self::Missing | Self::Mismatch(_) | Self::Unreadable(_) => None,
        }
    }

    /// Whether its score needs the best item of another label.
    pub(in crate::deployment) fn takes_margin(&self) -> bool {
        let adjuster = self.adjuster();
        adjuster.is_some_and(|adjuster| adjuster.adjustment().margin().is_some())
    }

    /// What the searches of its calibration looked like; `None` if no point is active, or that was not
    /// stored.
    #[must_use]
    pub fn traffic(&self) -> Option<&Arc<TrafficReference>> {
        match self {
            Self::Valid(valid) => valid.traffic.as_ref(),
            Self::Missing | Self::Mismatch(_) | Self::Unreadable(_) => None,
        }
    }

    /// How a search differs from those of the calibration.
    pub(in crate::deployment) fn traffic_signs(
        &self,
        search: &SearchFacts<'_>,
    ) -> Option<SearchSigns> {
        self.traffic().map(|reference| reference.signs(search))
    }

    /// What is compared with the threshold for the best match of a search.
    ///
    /// The best item of another label is searched for among all items, even under a filter: so a filter
    /// cannot admit a stranger whom the whole gallery keeps out.
    pub(in crate::deployment) fn decision_score(
        &self,
        searched: &Searched<'_>,
        deciding: Option<&Deciding>,
        timings: &mut Timings,
    ) -> Result<JudgedScore, DeploymentError> {
        let Some(Deciding { best, other }) = deciding else {
            return Ok(JudgedScore::Nothing);
        };
        let &Searched {
            view,
            probe,
            options,
        } = searched;
        let left_out = options.without_label.as_deref();
        let mut other = other.filter(|_| options.filter.is_none());
        if self.takes_margin() && other.is_none() {
            let started = Instant::now();
            other = best_of_another(view, probe, &best.item.label, left_out)?;
            timings.search += started.elapsed();
        }
        let compared = ComparedPair {
            score: best.score,
            probe: probe.as_slice(),
            item: &best.vector,
            other,
            label: Some(&best.item.label),
            left_out,
        };
        self.adjusted(&compared, timings)
    }

    pub(in crate::deployment) fn adjusted(
        &self,
        compared: &ComparedPair<'_>,
        timings: &mut Timings,
    ) -> Result<JudgedScore, DeploymentError> {
        let Some(adjuster) = self.adjuster() else {
            return Ok(JudgedScore::Score(compared.score));
        };
        let started = Instant::now();
        let decision_score = adjuster.decision_score(compared)?;
        timings.search += started.elapsed();
        Ok(decision_score.map_or(JudgedScore::NoScore, JudgedScore::Score))
    }

    pub(in crate::deployment) fn decide(&self, judged: JudgedScore) -> Decision {
        let Some(point) = self.valid() else {
            return Decision::Undecided;
        };
        match judged {
            JudgedScore::NoScore => Decision::Undecided,
            JudgedScore::Nothing | JudgedScore::Score(_) => {
                point.threshold().decide(judged.score())
            }
        }
    }

    /// The part of the calibration's gallery that is still present; `None` if no point is active, or it is
    /// unknown.
    #[must_use]
    pub fn coverage(&self, gallery: &GalleryView) -> Option<Coverage> {
        let Self::Valid(valid) = self else {
            return None;
        };
        coverage_in(gallery, valid.point.content(), valid.items.as_ref().ok())
    }

    /// What the operating point promises in this state of the gallery; `None` if none is active.
    #[must_use]
    pub fn promise_in(&self, gallery: &GalleryView) -> Option<PromiseToday> {
        let content = self.valid()?.content();
        let items = gallery.len() as u64;
        Some(PromiseToday::of(content, items, self.coverage(gallery)))
    }

    /// Why it is unknown which items the calibration saw; `None` if it is known, and if no point is active.
    #[must_use]
    pub fn coverage_problem(&self) -> Option<&str> {
        match self {
            Self::Valid(valid) => valid.items.as_ref().err().map(String::as_str),
            Self::Missing | Self::Mismatch(_) | Self::Unreadable(_) => None,
        }
    }

    /// What a decision in this state of the gallery rests on, if `judged` is compared with the threshold.
    #[must_use]
    pub fn basis(&self, gallery: &GalleryView, judged: JudgedScore) -> DecisionBasis {
        let undecided = match self {
            Self::Valid(..) if judged == JudgedScore::NoScore => Some(Undecided::NoOtherLabel),
            Self::Valid(..) => None,
            Self::Missing => Some(Undecided::Missing),
            Self::Mismatch(_) => Some(Undecided::Mismatch),
            Self::Unreadable(_) => Some(Undecided::Unreadable),
        };
        let point = self.valid();
        let content = point.map(OperatingPoint::content);
        let band = content.and_then(|content| content.review);
        let band = band.filter(|_| undecided.is_none());
        let today = self.promise_in(gallery);
        let adjustment = self.adjuster().map(Adjuster::adjustment);
        DecisionBasis {
            operating_point_id: point.map(|point| point.id().to_owned()),
            threshold: point.map(|point| point.threshold().get()),
            kept_by_filters: adjustment.is_none_or(Adjustment::falls_with_a_filter),
            decision_score: point.and(judged.score()).map(Similarity::get),
            adjustment: adjustment.map(Adjustment::describe),
            target_far: today.and_then(|today| today.target_far),
            confidence: content.and_then(Content::confidence),
            certified: undecided.is_none() && today.is_some_and(|today| today.certified),
            target_frr: today.and_then(|today| today.kept_frr()),
            frr_bound: today.and_then(|today| today.frr_bound),
            review: band.map(|band| ReviewBasis {
                threshold: band.unseen.threshold.get(),
                due: band.holds(self.decide(judged), judged.score()),
                unseen_frr: today.and_then(|today| today.unseen?.kept()),
            }),
            calibrated_items: today.map(|today| today.covered_items),
            within_calibrated_size: today.is_some_and(|today| today.within_calibrated_size()),
            coverage: today.and_then(|today| today.coverage),
            far_bound: today.and_then(|today| today.far_bound),
            undecided,
        }
    }
}
