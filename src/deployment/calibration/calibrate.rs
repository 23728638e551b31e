//! From gathered searches to an operating point of this deployment.

use super::calibrated::Calibrated;
use super::remedy::{self, Remedied, RemedyChoice};
use crate::clock::now_rfc_3339;
use crate::deployment::{Deployment, DeploymentError, Gathered, IndexCheck};
use matchpoint_calibration::margin::MarginFactor;
use matchpoint_calibration::operating_point::IndexMisses;
use matchpoint_calibration::procedure::{PointDraft, PointTrials, ThresholdSettings};
use matchpoint_calibration::recording::RecordedSearch;

/// What to calibrate for.
#[derive(Clone, Debug)]
pub struct CalibrationSettings {
    /// How the threshold is to be chosen.
    pub threshold: ThresholdSettings,
    /// What to do about labels that one threshold treats unequally.
    pub remedy: RemedyChoice,
    /// How much of the best of another label a margin takes off.
    pub margin_factor: MarginFactor,
}

impl Deployment {
    /// Chooses a threshold on gathered searches, for what is served now. Changes nothing: see
    /// [`Deployment::keep`] and [`Deployment::activate`].
    ///
    /// # Errors
    /// The searches contradict each other, or cannot support the target; or a label that is not
    /// enrolled is another spelling of one that is, or the model's head was fitted to some queries.
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
        // In the state that was searched, whatever has changed since.
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
        remarks.extend(taken_apart);
        let point = draft.point(PointTrials {
            chosen: &chosen,
            trials: recording.trials(),
            adjustment: adjuster.as_ref().map(|found| found.adjustment().clone()),
            index_check: misses(gathered.index),
            unnamed: gathered.unnamed.as_ref(),
            crowded: gathered.crowded.as_ref(),
            remarks,
        })?;
        Ok(Calibrated {
            point,
            recording,
            items: searched.item_set(),
            traffic: gathered
                .traffic
                .reference(&gathered.searches, settings.threshold.seed),
            adjuster,
        })
    }

    /// The searches with the scores that are compared with the threshold at present.
    ///
    /// # Errors
    /// More searches than vectors are kept for, or queries that the model's head was fitted to.
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

/// A threshold that allows for ordinary changes of the gallery; if the labels are too few for that, one
/// that meets the target as the gallery is.
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
    if let Some(roomy) = draft.with_room() {
        match choose(&roomy) {
            Ok(remedied) => return Ok((roomy, remedied)),
            Err(DeploymentError::Calibration(refused)) if refused.refusal().is_some() => {}
            Err(error) => return Err(error),
        }
    }
    let remedied = choose(&draft)?;
    Ok((draft, remedied))
}

fn misses(check: IndexCheck) -> Option<IndexMisses> {
    let IndexCheck { sampled, missed } = check;
    (0 < sampled).then_some(IndexMisses { sampled, missed })
}
