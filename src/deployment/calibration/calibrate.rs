//! Turns gathered searches into an operating point of this deployment.

use std::collections::BTreeSet;

use super::calibrated::Calibrated;
use super::remedy::{self, Remedied, RemedyChoice};
use crate::clock::now_rfc_3339;
use crate::deployment::points::promise_today::searched_gallery;
use crate::deployment::{Deployment, DeploymentError, Gathered, IndexCheck};
use matchpoint_calibration::margin::MarginFactor;
use matchpoint_calibration::operating_point::{IndexMisses, OperatingPoint};
use matchpoint_calibration::procedure::{PointDraft, PointTrials, ThresholdSettings};
use matchpoint_calibration::recording::{RecordedSearch, Recording, TrialKind};
use matchpoint_calibration::standing::PromiseToday;
use matchpoint_gallery::view::GalleryView;

/// The settings of a calibration.
#[derive(Clone, Debug)]
pub struct CalibrationSettings {
    /// How the threshold is chosen.
    pub threshold: ThresholdSettings,
    /// The remedy for labels that one threshold treats unequally.
    pub remedy: RemedyChoice,
    /// The multiple of the best similarity to another label that margins subtract.
    pub margin_factor: MarginFactor,
    /// Whether room is left for ordinary changes of the gallery, if the labels allow it.
    pub leaves_room: bool,
}

impl Deployment {
    /// Chooses a threshold from gathered searches, for the present state of the deployment. It changes nothing:
    /// see [`Deployment::keep`] and [`Deployment::activate`].
    ///
    /// # Errors
    /// Returns an error if the searches contradict each other or cannot support the target, if a label that is
    /// not enrolled differs from an enrolled one only in spelling, or if the model's head was fitted to some
    /// queries.
    pub fn calibrate(
        &self,
        gathered: &Gathered,
        settings: &CalibrationSettings,
    ) -> Result<Calibrated, DeploymentError> {
        gathered.refuse_fitted()?;
        let assured = settings.threshold.assured;
        let taken_apart = assured.spellings(&gathered.alike())?;
        let counted_once = assured.counts_once().then(|| gathered.counted_once());
        let counted_once = counted_once.flatten();
        let gathered = counted_once.as_ref().unwrap_or(gathered);
        // Uses the state of the gallery that was searched, whatever has changed since.
        let searched = gathered.view();
        let binding = self.binding_of(&searched);
        let draft = PointDraft::new(&settings.threshold, binding, now_rfc_3339())?;
        let (draft, remedied) = with_room(draft, gathered, settings)?;
        let Remedied {
            recording,
            chosen,
            adjuster,
            mut remarks,
        } = remedied;
        let recording = recording.with_merged_labels(gathered.merged_labels.clone());
        remarks.extend(taken_apart);
        remarks.extend(assured.shared(&gathered.shared));
        let mates = mated_labels(&recording);
        let point = draft.point(PointTrials {
            chosen: &chosen,
            trials: recording.trials(),
            adjustment: adjuster.as_ref().map(|found| found.adjustment().clone()),
            index_check: misses(gathered, &mates),
            unnamed: gathered.unnamed.as_ref(),
            crowded: gathered.crowded.as_ref(),
            remarks,
        })?;
        refuse_unfinished_graph(&point, &searched)?;
        let items = searched.item_set(&mates);
        Ok(Calibrated {
            point,
            items,
            recording,
            traffic: gathered
                .traffic
                .reference(&gathered.searches, settings.threshold.seed),
            adjuster,
        })
    }

    /// The searches with the scores that are compared with the active threshold.
    ///
    /// # Errors
    /// Returns an error if there are more searches than stored vectors, or if the model's head was fitted to
    /// some queries.
    pub(in crate::deployment) fn judged(
        &self,
        gathered: &Gathered,
    ) -> Result<Vec<RecordedSearch>, DeploymentError> {
        gathered.refuse_fitted()?;
        match self.active_point().adjuster() {
            Some(adjuster) => remedy::adjusted(gathered, adjuster),
            None => Ok(gathered.searches.clone()),
        }
    }
}

/// A threshold that allows for ordinary changes of the gallery. If that was not asked for, or there are too few labels
/// for it, one that meets the target for the present gallery.
fn with_room(
    draft: PointDraft,
    gathered: &Gathered,
    settings: &CalibrationSettings,
) -> Result<(PointDraft, Remedied), DeploymentError> {
    let choose = |draft: &PointDraft| {
        remedy::remedied(
            gathered,
            &settings.remedy,
            settings.margin_factor,
            &settings.threshold,
            draft.target(),
        )
    };
    if let Some(roomy) = draft.with_room().filter(|_| settings.leaves_room) {
        match choose(&roomy) {
            Ok(remedied) => return Ok((roomy, remedied)),
            Err(DeploymentError::Calibration(refused)) if refused.refusal().is_some() => {}
            Err(error) => return Err(error),
        }
    }
    let remedied = choose(&draft).map_err(|error| {
        if let DeploymentError::Calibration(refused) = error {
            draft.refusal_as_asked(refused).into()
        } else {
            error
        }
    })?;
    Ok((draft, remedied))
}

fn mated_labels(recording: &Recording) -> BTreeSet<String> {
    let mated = recording.searches().iter();
    let mated = mated.filter(|search| search.truth == TrialKind::Mated);
    mated.map(|search| search.label.clone()).collect()
}

/// How often the index missed an item, and what it may miss once its graph has taken it in.
fn misses(gathered: &Gathered, mates: &BTreeSet<String>) -> Option<IndexMisses> {
    let IndexCheck { sampled, missed } = gathered.index;
    let view = gathered.view();
    let (mut outside, mut outside_searched) = (0, 0);
    for head in view.outside_the_graph() {
        outside += 1;
        outside_searched += u64::from(mates.contains(&head.label));
    }
    (0 < sampled).then_some(IndexMisses {
        sampled,
        missed,
        outside,
        outside_searched,
    })
}

/// Refuses a promise about mates that ends as soon as the graph of the index is built again, because it lacks too many
/// items.
fn refuse_unfinished_graph(
    point: &OperatingPoint,
    searched: &GalleryView,
) -> Result<(), DeploymentError> {
    let content = point.content();
    let promises_mates = content.frr_certificate().is_some() || content.review.is_some();
    // Of an index that is elsewhere nobody sees when it builds a graph, and what that misses.
    if promises_mates && searched.is_approximate() && searched.search_breadth().is_none() {
        return Err(DeploymentError::Argument {
            argument: "target",
            problem: "cannot be an FRR or have a review band behind `index = \"qdrant\"`: what Qdrant misses changes as it builds its own graphs; ask for a FAR alone".to_owned(),
        });
    }
    let outside = content.index_check.map_or(0, |check| check.outside);
    let today = PromiseToday::of(content, &searched_gallery(searched, content, None));
    let frr_ended = today.target_frr.is_some() && today.kept_frr().is_none();
    let band_ended = today.unseen.is_some_and(|unseen| unseen.kept().is_none());
    if 0 < outside && (frr_ended || band_ended) {
        return Err(DeploymentError::UnfinishedGraph {
            outside,
            items: searched.len() as u64,
        });
    }
    Ok(())
}
