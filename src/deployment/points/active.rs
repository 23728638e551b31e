//! The active operating point, and the basis of its decisions.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use super::promise_today::searched_gallery;
use crate::deployment::DeploymentError;
use crate::deployment::search::deciding::{Deciding, Searched, best_of_another};
use crate::deployment::search::request::Timings;
use matchpoint_calibration::adjustment::{Adjuster, Adjustment, ComparedPair};
use matchpoint_calibration::coverage::Coverage;
use matchpoint_calibration::decision::Decision;
use matchpoint_calibration::monitoring::traffic::{SearchFacts, SearchSigns, TrafficReference};
use matchpoint_calibration::operating_point::{Content, OperatingPoint};
use matchpoint_calibration::promised::PromisedTarget;
use matchpoint_calibration::refusal::Mismatch;
use matchpoint_calibration::standing::{PromiseToday, SearchedGallery};
use matchpoint_gallery::item_set::ItemSet;
use matchpoint_gallery::view::GalleryView;
use matchpoint_vector::{Embedding, Similarity};

/// The active operating point, or the reason why every decision is UNDECIDED.
#[derive(Clone, Debug)]
pub enum ActivePoint {
    /// A valid operating point is active.
    Valid(ValidPoint),
    /// No operating point is active.
    Missing,
    /// The active one belongs to another model, gallery, index or metric.
    Mismatch(Mismatch),
    /// The active one is missing from the disk or damaged; with the reason.
    Unreadable(String),
    /// An item has changed on the disk since the gallery was opened; with the reason. Nothing decides until the
    /// deployment is opened anew.
    GalleryDamaged(String),
}

/// An operating point that fits the deployment, with the data that its decisions need.
#[derive(Clone, Debug)]
pub struct ValidPoint {
    /// The operating point.
    pub point: Arc<OperatingPoint>,
    /// The adjustment of scores; `None` if the similarity is compared.
    pub adjuster: Option<Box<Adjuster>>,
    /// The items that it was calibrated on, or the reason why they are not known.
    pub items: Result<Arc<ItemSet>, String>,
    /// A description of the searches of its calibration; `None` if it was not stored.
    pub traffic: Option<Arc<TrafficReference>>,
}

impl DecisionBasis {
    /// Adapts the basis to a search of which the certificate of a FAR does not speak.
    #[must_use]
    pub fn if_covered(mut self, covered: bool) -> Self {
        self.certified &= covered;
        self.far_bound = self.far_bound.filter(|_| covered);
        self
    }

    /// Adapts the basis to a search with a filter.
    #[must_use]
    pub fn if_filtered(self, filtered: bool) -> Self {
        if filtered { self.among_some() } else { self }
    }

    /// Adapts the basis to a decision on some of the items, such as those that a filter leaves, or the one of a
    /// comparison. If the similarity is compared, whatever is accepted among some items is also accepted among
    /// all, so a bound on the FAR still holds. But the mate, or the best of its items, may not be among them, so a
    /// bound on the FRR does not.
    #[must_use]
    pub fn among_some(mut self) -> Self {
        self.target_frr = None;
        self.frr_bound = None;
        if let Some(review) = &mut self.review {
            review.unseen_frr = None;
        }
        self.certified &= self.kept_by_filters && self.target_far.is_some();
        self.far_bound = self.far_bound.filter(|_| self.kept_by_filters);
        self
    }

    /// Adapts the basis to a folder that others have changed since it was opened. Whom they removed is a stranger
    /// there and is accepted here, so nothing is promised of the gallery as it is.
    #[must_use]
    pub fn if_folder_changed(self, changed: bool) -> Self {
        if changed {
            self.without_promise()
        } else {
            self
        }
    }

    /// Adapts the basis to a comparison with an item, or with an image that the caller chose. A promise is about what
    /// is enrolled, and such an image may resemble anything.
    #[must_use]
    pub fn of_comparison(self, with_item: bool) -> Self {
        if with_item {
            self.among_some()
        } else {
            self.without_promise()
        }
    }

    fn without_promise(mut self) -> Self {
        self.certified = false;
        self.far_bound = None;
        self.target_frr = None;
        self.frr_bound = None;
        if let Some(review) = &mut self.review {
            review.unseen_frr = None;
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
    /// An item of the gallery has changed on the disk.
    GalleryDamaged,
    /// The decision score needs the best item of another label, but there is none, or it is not known which
    /// labels are others.
    NoOtherLabel,
}

/// The decision score of a search.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum JudgedScore {
    /// The search found nothing.
    Nothing,
    /// The score.
    Score(Similarity),
    /// Something was found, but its decision score is undefined, so the decision is UNDECIDED.
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

/// The basis of a decision.
#[derive(Clone, Debug)]
pub struct DecisionBasis {
    /// Id of the active operating point; `None` if undecided.
    pub operating_point_id: Option<String>,
    /// Its threshold; `None` if undecided.
    pub threshold: Option<f32>,
    /// Whether a filter can never raise the decision score.
    pub kept_by_filters: bool,
    /// The score that was compared with the threshold; `None` if undecided or if nothing was found.
    pub decision_score: Option<f32>,
    /// How the score was adjusted, in words; `None` if it is the similarity.
    pub adjustment: Option<String>,
    /// The target FAR per search, promised or aimed at; `None` without such a target.
    pub target_far: Option<f64>,
    /// The confidence of the target, in (0, 1); `None` if nothing is promised.
    pub confidence: Option<f64>,
    /// Whether the target FAR is certified, and not only aimed at.
    pub certified: bool,
    /// The promised FRR per search; `None` if none is promised, or if too many items were removed for the
    /// promise to hold.
    pub target_frr: Option<f64>,
    /// The upper bound on the FRR today, which counts labels that may have lost an item as missed. `None`
    /// without a promised FRR, or if the coverage is not known.
    pub frr_bound: Option<f64>,
    /// What a person should review; `None` if undecided or without a review band.
    pub review: Option<ReviewBasis>,
    /// The number of items, counting those of the calibration and those added since, up to which the promise
    /// holds; `None` if undecided.
    pub calibrated_items: Option<u64>,
    /// Whether the gallery is within this number.
    pub within_calibrated_size: bool,
    /// How much of the calibration's gallery is still present; `None` if undecided or not known.
    pub coverage: Option<Coverage>,
    /// The upper bound on the FAR in today's gallery, at `confidence`: that of the calibration, converted to
    /// the gallery that contains its items and those added since. `None` without such a bound, or if the
    /// coverage is not known.
    pub far_bound: Option<f64>,
    /// Why the decision is UNDECIDED; `None` if it is not.
    pub undecided: Option<Undecided>,
}

/// Which rejects a person should review.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ReviewBasis {
    /// From this score on, rejects are reviewed.
    pub threshold: f32,
    /// Whether this decision should be reviewed.
    pub due: bool,
    /// The promised limit for the share of mated searches that are rejected unseen, or accepted with a
    /// wrong label; `None` if too many items were removed for the promise to hold.
    pub unseen_frr: Option<f64>,
}

impl ActivePoint {
    fn deciding(&self) -> Option<&ValidPoint> {
        match self {
            Self::Valid(valid) => Some(valid),
            Self::Missing | Self::Mismatch(_) | Self::Unreadable(_) | Self::GalleryDamaged(_) => {
                None
            }
        }
    }

    /// The operating point; `None` if it is not valid.
    #[must_use]
    pub fn valid(&self) -> Option<&OperatingPoint> {
        self.deciding().map(|valid| &*valid.point)
    }

    /// The same as [`ActivePoint::valid`], as a shared pointer.
    pub(in crate::deployment) fn shared(&self) -> Option<Arc<OperatingPoint>> {
        self.deciding().map(|valid| Arc::clone(&valid.point))
    }

    /// Why decisions are UNDECIDED, in words; empty if they are not.
    #[must_use]
    pub fn problem(&self) -> String {
        match self {
            Self::Valid(..) => String::new(),
            Self::Missing => "none is active".to_owned(),
            Self::Mismatch(mismatch) => mismatch.to_string(),
            Self::Unreadable(problem) | Self::GalleryDamaged(problem) => problem.clone(),
        }
    }

    /// What adjusts scores before they are compared with the threshold; `None` if the similarity is
    /// compared.
    #[must_use]
    pub fn adjuster(&self) -> Option<&Adjuster> {
        self.deciding()?.adjuster.as_deref()
    }

    /// Whether its decision score needs the best item of another label.
    pub(in crate::deployment) fn takes_margin(&self) -> bool {
        let adjuster = self.adjuster();
        adjuster.is_some_and(|adjuster| adjuster.adjustment().margin().is_some())
    }

    /// The description of the searches of its calibration; `None` if no operating point is active or it was not
    /// stored.
    #[must_use]
    pub fn traffic(&self) -> Option<&Arc<TrafficReference>> {
        self.deciding()?.traffic.as_ref()
    }

    /// The traffic shares that a search belongs to.
    pub(in crate::deployment) fn traffic_signs(
        &self,
        search: &SearchFacts<'_>,
    ) -> Option<SearchSigns> {
        self.traffic().map(|reference| reference.signs(search))
    }

    /// Computes the decision score for the best match of a search.
    ///
    /// The best item of another label is searched for among all items, even if the search has a filter, so that
    /// a filter cannot admit a stranger that the whole gallery would reject.
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
        let compared = ComparedPair {
            score: best.score,
            probe: probe.as_slice(),
            item: &best.vector,
            other: other.filter(|_| options.filter.is_none()),
            label: Some(&best.item.label),
            left_out: options.without_label.as_deref(),
        };
        self.adjusted_by_all(view, probe, compared, timings)
    }

    /// Computes the decision score of a pair whose best item of another label is the best that a search found, if any.
    ///
    /// Behind an index every item is compared for the best of another label, unless the one that was found is enough for
    /// a reject: a nearer one only lowers the score.
    pub(in crate::deployment) fn adjusted_by_all(
        &self,
        view: &GalleryView,
        embedding: &Embedding,
        mut compared: ComparedPair<'_>,
        timings: &mut Timings,
    ) -> Result<JudgedScore, DeploymentError> {
        let found = compared.other.is_some();
        let label = compared.label.filter(|_| self.takes_margin());
        let Some(label) = label.filter(|_| !found || view.is_approximate()) else {
            return self.adjusted(&compared, timings);
        };
        if found {
            let at_most = self.adjusted(&compared, timings)?;
            if self.is_unseen_reject(at_most) {
                return Ok(at_most);
            }
        }
        let started = Instant::now();
        compared.other = best_of_another(view, embedding, label, compared.left_out)?;
        timings.search += started.elapsed();
        self.adjusted(&compared, timings)
    }

    /// Whether a score is rejected and not reviewed.
    fn is_unseen_reject(&self, judged: JudgedScore) -> bool {
        let decision = self.decide(judged);
        let band = self.valid().and_then(|point| point.content().review);
        decision == Decision::Reject
            && !band.is_some_and(|band| band.holds(decision, judged.score()))
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

    /// How much of the calibration's gallery is still present; `None` if no operating point is active or it is
    /// not known.
    #[must_use]
    pub fn coverage(&self, gallery: &GalleryView) -> Option<Coverage> {
        self.searched(gallery)?.coverage
    }

    /// Whether its certificate of a FAR speaks of a search with these conditions: if it is one for each group of
    /// strangers, it says nothing of another group.
    pub(in crate::deployment) fn covers(&self, conditions: &BTreeMap<String, String>) -> bool {
        let worst = self
            .valid()
            .and_then(|point| point.content().worst_group.as_ref());
        worst.is_none_or(|worst| worst.covers(conditions))
    }

    /// What the operating point promises in this state of the gallery; `None` if none is active.
    #[must_use]
    pub fn promise_in(&self, gallery: &GalleryView) -> Option<PromiseToday> {
        let content = self.valid()?.content();
        Some(PromiseToday::of(content, &self.searched(gallery)?))
    }

    fn searched(&self, gallery: &GalleryView) -> Option<SearchedGallery> {
        let valid = self.deciding()?;
        let items = valid.items.as_ref().ok();
        Some(searched_gallery(gallery, valid.point.content(), items))
    }

    /// The promises of the operating point, by what is left of each in this state of the gallery.
    pub(in crate::deployment) fn promised_in(&self, gallery: &GalleryView) -> Vec<PromisedTarget> {
        let all = self.valid().zip(self.promise_in(gallery));
        let all = all.map(|(point, today)| {
            PromisedTarget::all(point.content(), &today, self.coverage_problem())
        });
        all.unwrap_or_default()
    }

    /// The reason why the items of the calibration are not known; `None` if they are, and if no operating point
    /// is active.
    #[must_use]
    pub fn coverage_problem(&self) -> Option<&str> {
        self.deciding()?.items.as_ref().err().map(String::as_str)
    }

    /// The basis of a decision in this state of the gallery, with the decision score `judged`.
    #[must_use]
    pub fn basis(&self, gallery: &GalleryView, judged: JudgedScore) -> DecisionBasis {
        let undecided = match self {
            Self::Valid(..) if judged == JudgedScore::NoScore => Some(Undecided::NoOtherLabel),
            Self::Valid(..) => None,
            Self::Missing => Some(Undecided::Missing),
            Self::Mismatch(_) => Some(Undecided::Mismatch),
            Self::Unreadable(_) => Some(Undecided::Unreadable),
            Self::GalleryDamaged(_) => Some(Undecided::GalleryDamaged),
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
