//! The calibration of plain vectors, from search to analysis.

use base16ct::lower::encode_string;
use sha2::{Digest, Sha256};

use super::labelled_vectors::LabelledVectors;
use super::point_draft::{ChosenThreshold, PointDraft, PointTrials};
use super::refusal::Refusal;
use super::settings::ThresholdSettings;
use super::vector_trials::{StageWatch, VectorStage, VectorTrials};
use crate::CalibrationError;
use crate::analysis::{Analysis, AnalysisError, AnalysisInput, AnalysisScope};
use crate::likeness::Alike;
use crate::operating_point::{Binding, Metric, OperatingPoint};

/// Where vectors come from.
#[derive(Clone, Debug)]
pub struct VectorSource {
    /// A name, for people.
    pub name: String,
    /// A hash over the vectors, as [`vectors_digest`] gives it: what the operating point is bound to.
    pub digest: String,
    /// The time, RFC 3339.
    pub created: String,
}

/// A calibration of plain vectors to be done.
#[derive(Clone, Debug)]
pub struct VectorRequest {
    /// Where the vectors come from.
    pub source: VectorSource,
    /// What the threshold is asked for.
    pub settings: ThresholdSettings,
    /// What pairs are analysed.
    pub scope: AnalysisScope,
}

impl VectorRequest {
    /// Pairs that are looked at unless somebody says otherwise.
    pub const PAIRS_MAX: u64 = 20_000_000_000;
}

/// What a calibration of plain vectors came to, or of scores.
#[derive(Debug)]
pub struct VectorCalibration {
    /// Labels of strangers that are suspiciously like another.
    pub alike: Vec<Alike>,
    /// What the vectors found.
    pub trials: VectorTrials,
    /// The threshold; or the refusal of one, which says what it would take.
    pub outcome: Result<SupportedThreshold, Refusal>,
}

/// A threshold that the trials support.
#[derive(Debug)]
pub struct SupportedThreshold {
    /// The operating point.
    pub point: OperatingPoint,
    /// What else the vectors say about it.
    pub analysis: Analysis,
}

/// SHA-256 over the components of vectors, in hexadecimal digits.
#[must_use]
pub fn vectors_digest(components: &[f32]) -> String {
    let mut hash = Sha256::new();
    for value in components {
        hash.update(value.to_le_bytes());
    }
    encode_string(&hash.finalize())
}

/// Searches for every query, chooses a threshold, and analyses it. `watch` is told of each stage how
/// much is done, of how much, and ends the work by saying `false`.
///
/// # Errors
/// Labels that are another label but for spelling, unless the caller vouches for them; vectors that
/// cannot be compared; settings that contradict each other; [`AnalysisError::Stopped`] where `watch`
/// said so. A target that the trials cannot support is no error: see [`VectorCalibration::outcome`].
pub fn calibrate_vectors(
    vectors: &LabelledVectors,
    request: &VectorRequest,
    watch: &(dyn Fn(VectorStage, u64, u64) -> bool + Sync),
) -> Result<VectorCalibration, AnalysisError> {
    let alike = vectors.alike();
    let remarks = Vec::from_iter(request.settings.assured.spellings(&alike)?);
    let trials = VectorTrials::search(vectors, request.settings.assured, watch)?;
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
    let chosen = ChosenThreshold::on(&trials.recording, draft.target(), &request.settings)?;
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
