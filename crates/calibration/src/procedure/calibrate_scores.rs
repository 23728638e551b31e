//! Calibrates a threshold on the scores of another system, without vectors.

use std::collections::{BTreeMap, BTreeSet};

use super::calibrate_vectors::{SupportedThreshold, VectorCalibration, VectorSource};
use super::point_draft::{ChosenThreshold, PointDraft, PointTrials};
use super::refusal::Refusal;
use super::settings::ThresholdSettings;
use super::vector_trials::VectorTrials;
use crate::CalibrationError;
use crate::analysis::strangers::UnnamedStrangers;
use crate::analysis::{AnalysisError, JudgedSearches};
use crate::likeness::alike;
use crate::operating_point::{Binding, Metric, OperatingPoint};
use crate::recording::{RecordedMatch, RecordedSearch, Recording, TrialKind};

/// An assumption that cannot be checked when only scores are given.
const UNSEEN: &str = "Only scores were given: that no query is a copy of another or of an item, and that no two labels of strangers are one thing, was not looked into.";

/// Says which parts of an analysis are missing because they need vectors.
const NO_VECTORS: &str = "Pairs, look-alikes, OPIS, FAR by size of the gallery and remedies take vectors, and only scores were given.";

/// One search that another system made.
#[derive(Clone, Debug)]
pub struct ScoredQuery {
    /// Id of the query.
    pub id: String,
    /// Label of the query: the identity or class that it shows.
    pub label: String,
    /// The best match that the search returned.
    pub found: RecordedMatch,
    /// Further facts about the query by column, such as the camera or the country.
    pub conditions: BTreeMap<String, String>,
}

/// The gallery that was searched.
#[derive(Clone, Debug)]
pub struct ScoredGallery {
    /// Number of enrolled items.
    pub items: u64,
    /// The enrolled labels. A query with any other label is a stranger (non-mated).
    pub labels: BTreeSet<String>,
}

/// Chooses a threshold from searches that another system made.
///
/// # Errors
/// Returns an error if labels differ only in spelling and the caller does not vouch for them, if an
/// id is repeated, or if settings contradict each other. A target that the searches cannot support
/// is not an error: it is reported in [`VectorCalibration::outcome`].
pub fn calibrate_scores(
    gallery: &ScoredGallery,
    queries: Vec<ScoredQuery>,
    source: &VectorSource,
    settings: &ThresholdSettings,
) -> Result<VectorCalibration, AnalysisError> {
    let asked = queries.iter().map(|query| query.label.as_str());
    let alike = alike(asked, gallery.labels.iter().map(String::as_str));
    let mut remarks = Vec::from_iter(settings.assured.spellings(&alike)?);
    remarks.push(UNSEEN.to_owned());
    let searches = queries.into_iter().map(|query| RecordedSearch {
        truth: if gallery.labels.contains(&query.label) {
            TrialKind::Mated
        } else {
            TrialKind::NeverEnrolled
        },
        probe: query.id,
        label: query.label,
        found: Some(query.found),
        conditions: query.conditions,
    });
    let mut searches: Vec<RecordedSearch> = searches.collect();
    let unnamed = UnnamedStrangers::find(&[], &searches)?;
    if let Some(unnamed) = unnamed.as_ref().filter(|_| settings.assured.counts_once()) {
        unnamed.count_once(&mut searches);
    }
    let trials = VectorTrials::of_scores(Recording::new(searches)?, unnamed);
    let outcome = match point(gallery, source, settings, &trials, remarks) {
        Ok(point) => {
            let searches = JudgedSearches {
                recording: &trials.recording,
                threshold: point.threshold(),
                target: settings.target,
                seed: settings.seed,
            };
            let mut analysis = searches.analyse();
            analysis.notes.push(NO_VECTORS.to_owned());
            Ok(SupportedThreshold { point, analysis })
        }
        Err(error) => Err(Refusal::of(&error).ok_or(error)?),
    };
    Ok(VectorCalibration {
        alike,
        trials,
        outcome,
    })
}

fn point(
    gallery: &ScoredGallery,
    source: &VectorSource,
    settings: &ThresholdSettings,
    trials: &VectorTrials,
    remarks: Vec<String>,
) -> Result<OperatingPoint, CalibrationError> {
    let VectorSource {
        name,
        digest,
        created,
    } = source.clone();
    let binding = Binding {
        model_fingerprint: digest.clone(),
        model_name: name,
        gallery_id: format!("scores {}", digest.get(..16).unwrap_or_default()),
        gallery_digest: digest,
        gallery_items: gallery.items,
        gallery_labels: gallery.labels.len() as u64,
        index: "of another system".to_owned(),
        metric: Metric::Cosine,
    };
    let draft = PointDraft::new(settings, binding, created)?;
    let chosen = ChosenThreshold::on(&trials.recording, draft.target(), settings)?;
    draft.point(PointTrials {
        chosen: &chosen,
        trials: trials.recording.trials(),
        adjustment: None,
        index_check: None,
        unnamed: trials.unnamed.as_ref(),
        crowded: None,
        remarks,
    })
}
