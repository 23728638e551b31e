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
    let counted = unnamed.as_ref().filter(|_| settings.assured.counts_once());
    let merged = counted.map(|unnamed| unnamed.count_once(&mut searches));
    let recording = Recording::new(searches)?.with_merged_labels(merged.unwrap_or_default());
    let trials = VectorTrials::of_scores(recording, unnamed);
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
    let chosen = ChosenThreshold::on(&trials.recording, draft.target(), settings)
        .map_err(|refused| draft.refusal_as_asked(refused))?;
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::CalibrationTarget;
    use crate::procedure::Assured;
    use crate::strangers::unnamed_label;
    use matchpoint_vector::Similarity;

    #[test]
    fn the_recording_keeps_the_labels_that_count_as_another() {
        let [first, second] = ["a", "b"]
            .map(|last| unnamed_label(&format!("0199f0aa-7c1b-7e0e-8d63-00000000000{last}")));
        let query = |label: &str, score| ScoredQuery {
            id: format!("picture of {label}"),
            label: label.to_owned(),
            found: RecordedMatch {
                item: "item".to_owned(),
                label: "apple".to_owned(),
                score: Similarity::new(score).unwrap(),
                adjusted: None,
                other: None,
            },
            conditions: BTreeMap::new(),
        };
        let queries = vec![query("apple", 0.9), query(&first, 0.1), query(&second, 0.2)];
        let gallery = ScoredGallery {
            items: 1,
            labels: BTreeSet::from(["apple".to_owned()]),
        };
        let source = VectorSource {
            name: "scores".to_owned(),
            digest: "0".repeat(64),
            created: "2026-01-01T00:00:00Z".to_owned(),
        };
        let settings = ThresholdSettings {
            target: CalibrationTarget::EqualError,
            seed: 0,
            grow_to_items: None,
            assured: Assured::default(),
            worst_group_of: None,
            review: None,
        };
        let found = calibrate_scores(&gallery, queries, &source, &settings).unwrap();
        let recording = found.trials.recording;
        assert!(recording.searches().iter().all(|one| one.label != second));
        assert_eq!(*recording.merged_labels(), BTreeSet::from([second]));
    }
}
