//! Calibrates a threshold on plain vectors: searches, chooses the threshold and analyses it.

use base16ct::lower::encode_string;
use sha2::{Digest, Sha256};

use super::labelled_vectors::LabelledVectors;
use super::point_draft::{ChosenThreshold, PointDraft, PointTrials};
use super::refusal::Refusal;
use super::settings::{ThresholdSettings, refuse_mutual_mates};
use super::vector_trials::{StageWatch, VectorStage, VectorTrials};
use crate::CalibrationError;
use crate::analysis::{Analysis, AnalysisError, AnalysisInput, AnalysisScope};
use crate::likeness::Alike;
use crate::operating_point::{Binding, Metric, OperatingPoint};

/// Describes where the vectors come from.
#[derive(Clone, Debug)]
pub struct VectorSource {
    /// A name for people to read.
    pub name: String,
    /// A hash of the vectors, computed by [`vectors_digest`]. The operating point is bound to it.
    pub digest: String,
    /// When the calibration is made, as an RFC 3339 time.
    pub created: String,
}

/// The input of [`calibrate_vectors`], apart from the vectors.
#[derive(Clone, Debug)]
pub struct VectorRequest {
    /// Where the vectors come from.
    pub source: VectorSource,
    /// What the threshold has to achieve.
    pub settings: ThresholdSettings,
    /// Which pairs of vectors are analysed.
    pub scope: AnalysisScope,
}

impl VectorRequest {
    /// The default limit on the number of pairs that are analysed.
    pub const PAIRS_MAX: u64 = 20_000_000_000;
}

/// The result of a calibration of plain vectors or of scores.
#[derive(Debug)]
pub struct VectorCalibration {
    /// Labels of strangers whose spelling is suspiciously similar to that of another label.
    pub alike: Vec<Alike>,
    /// The searches, and what was found wrong with the vectors.
    pub trials: VectorTrials,
    /// The threshold, or a refusal that says what would be needed to support one.
    pub outcome: Result<SupportedThreshold, Refusal>,
}

/// A threshold that the trials support.
#[derive(Debug)]
pub struct SupportedThreshold {
    /// The operating point.
    pub point: OperatingPoint,
    /// Further results about this threshold.
    pub analysis: Analysis,
}

/// The SHA-256 hash of all vector components, as hexadecimal digits.
#[must_use]
pub fn vectors_digest(components: &[f32]) -> String {
    let mut hash = Sha256::new();
    for value in components {
        hash.update(value.to_le_bytes());
    }
    encode_string(&hash.finalize())
}

/// Searches for every query, chooses a threshold, and analyses it. `watch` is called with the
/// stage, the amount of work done and the total; if it returns `false`, the work stops.
///
/// # Errors
/// Returns an error if labels differ only in spelling and the caller does not vouch for them, if
/// vectors cannot be compared, or if settings contradict each other, and [`AnalysisError::Stopped`]
/// if `watch` returned `false`. A target that the trials cannot support is not an error: it is
/// reported in [`VectorCalibration::outcome`].
pub fn calibrate_vectors(
    vectors: &LabelledVectors,
    request: &VectorRequest,
    watch: &(dyn Fn(VectorStage, u64, u64) -> bool + Sync),
) -> Result<VectorCalibration, AnalysisError> {
    if vectors.queries.is_none() {
        refuse_mutual_mates(request.settings.target, request.settings.review)?;
    }
    let alike = vectors.alike();
    let assured = request.settings.assured;
    let mut remarks = Vec::from_iter(assured.spellings(&alike)?);
    let trials = VectorTrials::search(vectors, assured, watch)?;
    remarks.extend(assured.shared(&trials.shared));
    let outcome = match point(vectors, request, &trials, remarks) {
        Ok(point) => Ok(SupportedThreshold {
            analysis: analyse(vectors, &trials, &point, request, watch)?,
            point,
        }),
        Err(error) => Err(Refusal::of(&error).ok_or(error)?),
    };
    Ok(VectorCalibration {
        alike,
        trials,
        outcome,
    })
}

fn point(
    vectors: &LabelledVectors,
    request: &VectorRequest,
    trials: &VectorTrials,
    remarks: Vec<String>,
) -> Result<OperatingPoint, CalibrationError> {
    let VectorSource {
        name,
        digest,
        created,
    } = request.source.clone();
    let binding = Binding {
        model_fingerprint: digest.clone(),
        model_name: name,
        gallery_id: format!("embeddings {}", digest.get(..16).unwrap_or_default()),
        gallery_digest: digest,
        gallery_items: vectors.gallery.ids.len() as u64,
        gallery_labels: vectors.enrolled().len() as u64,
        index: "exact".to_owned(),
        metric: Metric::Cosine,
    };
    let draft = PointDraft::new(&request.settings, binding, created)?;
    let all = trials.recording.trials();
    let chosen = ChosenThreshold::on(&trials.recording, draft.target(), &request.settings)
        .map_err(|refused| draft.refusal_as_asked(refused))?;
    draft.point(PointTrials {
        chosen: &chosen,
        trials: all,
        adjustment: None,
        index_check: None,
        unnamed: trials.unnamed.as_ref(),
        crowded: trials.crowded.as_ref(),
        remarks,
    })
}

fn analyse(
    vectors: &LabelledVectors,
    trials: &VectorTrials,
    point: &OperatingPoint,
    request: &VectorRequest,
    watch: StageWatch<'_>,
) -> Result<Analysis, AnalysisError> {
    let threshold = point.threshold();
    let material = AnalysisInput {
        names: &vectors.names,
        gallery: &vectors.gallery,
        queries: vectors.queries.as_ref(),
        recording: &trials.recording,
        deep: &trials.candidate_lists(vectors),
        depth: VectorTrials::DEPTH,
        target: request.settings.target,
        threshold,
        on_similarity: threshold,
        seed: request.settings.seed,
        scope: request.scope,
    };
    material.analyse(&|done, total| watch(VectorStage::Pairs, done, total))
}
