//! What is asked of a deployment, what it answers, and the work that a worker does for it.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use sha2::{Digest, Sha256};

use super::DeploymentError;
use crate::files::open_file;
use crate::telemetry;
use matchpoint_calibration::adjustment::{Adjuster, ComparedPair};
use matchpoint_calibration::certify::TargetFar;
use matchpoint_calibration::decision::Decision;
use matchpoint_calibration::operating_point::{Content, OperatingPoint};
use matchpoint_calibration::refusal::Mismatch;
use matchpoint_embed::job::{JobKind, PoolWorker};
use matchpoint_embed::pixels::{ImageLimits, PixelsError, precheck};
use matchpoint_gallery::Gallery;
use matchpoint_gallery::filter::ItemFilter;
use matchpoint_gallery::item::ItemHead;
use matchpoint_gallery::mapped_vectors::Vector;
use matchpoint_gallery::view::{GalleryMatch, GalleryView, Probe};
use matchpoint_vector::{Embedding, Similarity};

/// What to search for.
#[derive(Clone, Debug)]
pub enum Query {
    /// An encoded image.
    Image(Bytes),
    /// A vector of the model's space, not necessarily of unit length.
    Embedding(Vec<f32>),
}

/// Where the image of an item is that is to be enrolled.
#[derive(Clone, Debug)]
pub enum ImageAt {
    /// In a file.
    File(PathBuf),
    /// With an item of a gallery.
    Kept {
        /// The gallery, which may be open for reading only.
        gallery: Arc<Gallery>,
        /// The item's id.
        id: String,
    },
}

/// What to compare a query with.
#[derive(Clone, Debug)]
pub enum VerifyReference {
    /// Another image or vector.
    Query(Query),
    /// An enrolled item, by id.
    Item(String),
}

/// A reference that a worker can compare with.
pub(super) enum Known {
    /// Still to be embedded.
    Query(Query),
    /// An item with its vector.
    Item(Arc<ItemHead>, Vector),
}

/// How to search.
#[derive(Clone, Debug)]
pub struct SearchOptions {
    /// How many items to return, at most.
    pub limit: usize,
    /// Whether to compare with every item.
    pub exact: bool,
    /// The items that may be found, and decided on; all where there is none.
    pub filter: Option<ItemFilter>,
    /// A label whose items are not found. Such a search compares with every item.
    pub without_label: Option<String>,
    /// Return the best item of each label.
    pub one_per_label: bool,
    /// Return no item that is less similar.
    pub score_min: Option<f32>,
    /// Candidates that an approximate search keeps, for the items returned.
    pub ef: Option<usize>,
}

impl SearchOptions {
    /// The nearest items, by the index.
    #[must_use]
    pub fn nearest(limit: usize) -> Self {
        Self {
            limit,
            exact: false,
            filter: None,
            without_label: None,
            one_per_label: false,
            score_min: None,
            ef: None,
        }
    }
}

/// An item that is near the query.
pub type Hit = GalleryMatch;

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

impl Query {
    /// What a job for it does.
    pub(super) fn kind(&self) -> JobKind {
        match self {
            Self::Image(_) => JobKind::Image,
            Self::Embedding(_) => JobKind::Vector,
        }
    }

    /// Refuses an image that need not be decoded for that.
    pub(super) fn glance(&self, limits: &ImageLimits) -> Result<(), PixelsError> {
        match self {
            Self::Image(bytes) => precheck(bytes, limits),
            Self::Embedding(_) => Ok(()),
        }
    }

    /// SHA-256 of an image.
    pub(super) fn sha256(&self) -> Option<[u8; 32]> {
        match self {
            Self::Image(bytes) => Some(Sha256::digest(bytes).into()),
            Self::Embedding(_) => None,
        }
    }

    /// An image, if it is to be kept. Shares its bytes.
    pub(super) fn kept(&self, keep: bool) -> Option<Bytes> {
        match self {
            Self::Image(bytes) if keep => Some(bytes.clone()),
            Self::Image(_) | Self::Embedding(_) => None,
        }
    }
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

    /// What adjusts scores before they are held against the threshold; `None` where the similarity
    /// is.
    #[must_use]
    pub fn adjuster(&self) -> Option<&Adjuster> {
        match self {
            Self::Valid(_, adjuster) => adjuster.as_deref(),
            Self::Missing | Self::Mismatch(_) | Self::Unreadable(_) => None,
        }
    }

    /// What is held against the threshold for the best match of a search.
    pub(super) fn held(
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

    fn adjusted(
        &self,
        compared: &ComparedPair<'_>,
        timings: &mut Timings,
    ) -> Result<Similarity, DeploymentError> {
        let Some(adjuster) = self.adjuster() else {
            return Ok(compared.score);
        };
        let started = Instant::now();
        let held = adjuster.held(compared)?;
        timings.search += started.elapsed();
        Ok(held)
    }

    pub(super) fn decide(&self, best: Option<Similarity>) -> Decision {
        self.valid()
            .map_or(Decision::Undecided, |point| point.threshold().decide(best))
    }

    /// What a decision rests on while the gallery holds `items`, with the score `held` against the
    /// threshold.
    #[must_use]
    pub fn basis(&self, items: usize, held: Option<Similarity>) -> DecisionBasis {
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
            decision_score: point.and(held).map(Similarity::get),
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

/// The decision on the best match, the matches, and what they rest on.
#[derive(Clone, Debug)]
pub struct SearchAnswer {
    /// Whether the best match is accepted.
    pub decision: Decision,
    /// The nearest items, best first.
    pub hits: Vec<Hit>,
    /// What the decision rests on.
    pub basis: DecisionBasis,
    /// A new id for this decision.
    pub decision_id: String,
    /// The gallery's state that was searched.
    pub generation: u64,
    /// The number of items in it.
    pub gallery_items: usize,
    /// Where the time went.
    pub timings: Timings,
}

/// The outcome of one comparison.
#[derive(Clone, Debug)]
pub struct VerifyAnswer {
    /// Whether the two are accepted as the same.
    pub decision: Decision,
    /// Their similarity.
    pub score: Similarity,
    /// What the decision rests on.
    pub basis: DecisionBasis,
    /// A new id for this decision.
    pub decision_id: String,
    /// The gallery's state that was used.
    pub generation: u64,
    /// Where the time went.
    pub timings: Timings,
}

/// What became of a file that is to be enrolled.
#[derive(Clone, Debug)]
pub enum Enrolment {
    /// The bytes are those that the stored item was made from.
    Unchanged,
    /// It was embedded.
    Embedded {
        /// The embedding.
        embedding: Embedding,
        /// SHA-256 of the file.
        sha256: [u8; 32],
        /// The file, where the gallery keeps images.
        image: Option<Vec<u8>>,
    },
}

/// What a labelled query found.
#[derive(Clone, Debug)]
pub struct Probed {
    /// The five nearest items.
    pub hits: Vec<Hit>,
    /// The nearest items of other labels, by exact search; `None` where they were not asked for.
    pub others: Option<Vec<Hit>>,
    /// Whether an item is nearer than all that the index found; `None` where that was not checked.
    pub index_missed: Option<bool>,
    /// SHA-256 of the image; `None` for a vector.
    pub source_sha256: Option<[u8; 32]>,
    /// The query's embedding; `None` for an item of the gallery.
    pub vector: Option<Arc<[f32]>>,
    /// Where the time went.
    pub timings: Timings,
}

/// How many items a labelled query looks at: as many as Recall@5 needs.
pub(super) const PROBE_HITS: usize = 5;

/// How many items of other labels a non-mated search looks at: enough to tell what it would find
/// in a gallery of a fraction of the size.
pub(super) const OTHERS_HITS: usize = 64;

/// A query whose truth is known.
#[derive(Clone)]
pub struct ProbeRequest {
    /// Where to search.
    pub snapshot: Arc<GalleryView>,
    /// What to search for.
    pub source: ProbeSource,
    /// What it shows.
    pub label: String,
    /// Whether to look for the nearest items of other labels.
    pub others: bool,
    /// Whether to compare the index with exact search.
    pub check_index: bool,
}

/// Where a labelled query comes from.
#[derive(Clone, Debug)]
pub enum ProbeSource {
    /// An image file.
    File(PathBuf),
    /// What a caller sent.
    Query(Query),
}

impl ProbeSource {
    /// The image that a caller sent, if it is to be kept. Shares its bytes.
    pub(super) fn kept(&self, keep: bool) -> Option<Bytes> {
        match self {
            Self::Query(query) => query.kept(keep),
            Self::File(_) => None,
        }
    }

    /// What a job for it does.
    pub(super) fn kind(&self) -> JobKind {
        match self {
            Self::File(_) => JobKind::Image,
            Self::Query(query) => query.kind(),
        }
    }

    /// The query, read from its file where it is in one.
    pub(super) fn read(self, limits: &ImageLimits) -> Result<Query, DeploymentError> {
        Ok(match self {
            Self::File(path) => Query::Image(read_image(&path, limits)?.into()),
            Self::Query(query) => query,
        })
    }
}

/// Where the time of a request went.
#[derive(Clone, Copy, Debug, Default)]
pub struct Timings {
    /// Waiting for a worker.
    pub queue: Duration,
    /// Decoding and resizing.
    pub decode: Duration,
    /// Running the model.
    pub inference: Duration,
    /// Searching or comparing.
    pub search: Duration,
    /// All of it.
    pub total: Duration,
}

impl Timings {
    pub(super) fn record(&self, deployment: &str) {
        let stages = [self.queue, self.decode, self.inference, self.search];
        for (stage, took) in telemetry::STAGE_VALUES.into_iter().zip(stages) {
            // A stage that a request does not have is no sample of how long it takes.
            if !took.is_zero() {
                telemetry::stage_took(deployment, stage, took);
            }
        }
    }
}

pub(super) fn embed_query(
    worker: &mut PoolWorker<'_>,
    query: Query,
    limits: &ImageLimits,
    timings: &mut Timings,
) -> Result<Embedding, DeploymentError> {
    embed_measured(worker, query, limits, timings).map(|(embedding, _)| embedding)
}

/// The embedding, and for an image the length of the feature that it was made from.
pub(super) fn embed_measured(
    worker: &mut PoolWorker<'_>,
    query: Query,
    limits: &ImageLimits,
    timings: &mut Timings,
) -> Result<(Embedding, Option<f64>), DeploymentError> {
    match query {
        Query::Image(bytes) => {
            let embedded = worker.embed(&bytes, limits)?;
            timings.decode += embedded.decode;
            timings.inference += embedded.inference;
            Ok((embedded.embedding, Some(embedded.norm)))
        }
        Query::Embedding(values) => {
            let expected = worker.dimension();
            if values.len() != expected {
                return Err(DeploymentError::Dimension {
                    expected,
                    found: values.len(),
                });
            }
            Ok((Embedding::normalise(values)?, None))
        }
    }
}

/// What is decided on, and how much nearer it is than the best of another label; `None` where the
/// [`PROBE_HITS`] nearest have no other.
pub(super) type Deciding = (Hit, Option<f32>);

/// The nearest items, and the one that is decided on. It and its margin are of the query and the
/// gallery alone, whatever the caller wants returned.
///
/// The decision rests on a search as wide as those of the calibration, whatever was asked for: a
/// wider one might find a stranger's look-alike that the calibration never saw.
pub(super) fn search_snapshot(
    snapshot: &GalleryView,
    embedding: &Embedding,
    options: &SearchOptions,
    timings: &mut Timings,
) -> Result<(Vec<Hit>, Option<Deciding>), DeploymentError> {
    let started = Instant::now();
    let probe = Probe {
        k: options.limit.max(PROBE_HITS),
        exact: options.exact,
        without_label: options.without_label.as_deref(),
        filter: options.filter.as_ref(),
        one_per_label: options.one_per_label,
        ef: options.ef,
    };
    let mut hits = snapshot.nearest(embedding, &probe)?;
    let wider = options.exact || options.ef.is_some() || options.one_per_label;
    // Where every item is compared, as under a filter, nothing can be found beyond it.
    let some_only = options.filter.is_some() || options.without_label.is_some();
    let deciding = if some_only || !(wider || snapshot.is_wide(options.limit)) {
        deciding(&hits)
    } else {
        let probe = Probe::nearest(PROBE_HITS);
        deciding(&snapshot.nearest(embedding, &probe)?)
    };
    hits.truncate(options.limit);
    if let Some(least) = options.score_min {
        hits.retain(|hit| least <= hit.score.get());
    }
    timings.search += started.elapsed();
    Ok((hits, deciding))
}

fn deciding(hits: &[Hit]) -> Option<Deciding> {
    let best = hits.first()?;
    let mut nearest = hits.iter().take(PROBE_HITS);
    let other = nearest.find(|hit| hit.item.label != best.item.label);
    let margin = other.map(|other| best.score.get() - other.score.get());
    Some((best.clone(), margin))
}

/// A query and what it is compared with.
pub(super) struct Compare {
    pub(super) query: Query,
    pub(super) reference: Known,
}

/// The similarity of a query and a reference, and the score that decides.
pub(super) fn compare(
    worker: &mut PoolWorker<'_>,
    pair: Compare,
    standing: &ActivePoint,
    limits: &ImageLimits,
    timings: &mut Timings,
) -> Result<(Similarity, Option<Similarity>), DeploymentError> {
    let Compare { query, reference } = pair;
    let query = embed_query(worker, query, limits, timings)?;
    let (embedded, stored);
    let (head, vector): (Option<Arc<ItemHead>>, &[f32]) = match reference {
        Known::Query(reference) => {
            embedded = embed_query(worker, reference, limits, timings)?;
            (None, embedded.as_slice())
        }
        Known::Item(head, vector) => {
            stored = vector;
            (Some(head), &stored)
        }
    };
    let started = Instant::now();
    let score = Similarity::between(query.as_slice(), vector);
    timings.search += started.elapsed();
    let score = score.ok_or(DeploymentError::Dimension {
        expected: vector.len(),
        found: query.dimension(),
    })?;
    let compared = ComparedPair {
        score,
        probe: query.as_slice(),
        item: vector,
        label: head.as_ref().map(|head| head.label.as_str()),
        left_out: None,
    };
    Ok((score, Some(standing.adjusted(&compared, timings)?)))
}

/// An image to be enrolled.
pub(super) struct ToEnrol {
    pub(super) at: ImageAt,
    /// SHA-256 of the bytes that need not be embedded again.
    pub(super) known: Option<[u8; 32]>,
    /// Whether the image is kept.
    pub(super) keep: bool,
}

pub(super) fn embed_image(
    worker: &mut PoolWorker<'_>,
    image: &ToEnrol,
    limits: &ImageLimits,
    timings: &mut Timings,
) -> Result<Enrolment, DeploymentError> {
    let bytes = match &image.at {
        ImageAt::File(path) => read_image(path, limits)?,
        ImageAt::Kept { gallery, id } => {
            let kept = gallery.image(id)?;
            kept.ok_or_else(|| DeploymentError::ImageNotKept { id: id.clone() })?
        }
    };
    let sha256: [u8; 32] = Sha256::digest(&bytes).into();
    if image.known == Some(sha256) {
        return Ok(Enrolment::Unchanged);
    }
    let image = image.keep.then(|| bytes.clone());
    let embedding = embed_query(worker, Query::Image(bytes.into()), limits, timings)?;
    Ok(Enrolment::Embedded {
        embedding,
        sha256,
        image,
    })
}

pub(super) fn probe(
    worker: &mut PoolWorker<'_>,
    request: ProbeRequest,
    limits: &ImageLimits,
    timings: &mut Timings,
) -> Result<Probed, DeploymentError> {
    let snapshot = &*request.snapshot;
    let query = request.source.read(limits)?;
    let source_sha256 = query.sha256();

    let embedding = embed_query(worker, query, limits, timings)?;

    let options = SearchOptions::nearest(PROBE_HITS);
    let (hits, _) = search_snapshot(snapshot, &embedding, &options, timings)?;
    let others = if request.others {
        Some(left_out(snapshot, &embedding, &request.label)?)
    } else {
        None
    };
    let index_missed = if request.check_index {
        index_misses(snapshot, &embedding, &hits)?
    } else {
        None
    };
    Ok(Probed {
        hits,
        others,
        index_missed,
        source_sha256,
        vector: Some(embedding.as_slice().into()),
        timings: *timings,
    })
}

/// The nearest items of other labels.
pub(super) fn left_out(
    snapshot: &GalleryView,
    embedding: &Embedding,
    label: &str,
) -> Result<Vec<Hit>, DeploymentError> {
    let others = Probe {
        exact: true,
        without_label: Some(label),
        ..Probe::nearest(OTHERS_HITS)
    };
    Ok(snapshot.nearest(embedding, &others)?)
}

/// Whether an item is nearer than the best of `hits`; `None` where the index is exact anyway.
pub(super) fn index_misses(
    snapshot: &GalleryView,
    embedding: &Embedding,
    hits: &[Hit],
) -> Result<Option<bool>, DeploymentError> {
    if !snapshot.is_approximate() {
        return Ok(None);
    }
    let exact = Probe {
        exact: true,
        ..Probe::nearest(1)
    };
    let nearest = snapshot.nearest(embedding, &exact)?;
    let score = |hits: &[Hit]| hits.first().map(|hit| hit.score);
    Ok(Some(score(hits) < score(&nearest)))
}

/// Reads a file that may be an image, but no more of it than an image may have.
///
/// # Errors
/// It is not a regular file, or the disk.
pub fn read_image(path: &Path, limits: &ImageLimits) -> Result<Vec<u8>, DeploymentError> {
    let one_more = (limits.bytes_max as u64).saturating_add(1);
    let mut bytes = Vec::new();
    open_file(path)
        .and_then(|file| file.take(one_more).read_to_end(&mut bytes))
        .map_err(|cause| DeploymentError::io(path, &cause))?;
    Ok(bytes)
}

/// The reason under which an image that could not be used is counted.
pub(super) fn image_failure(error: &PixelsError) -> &'static str {
    match error {
        PixelsError::UnsupportedFormat { .. } | PixelsError::UnsupportedFeature { .. } => {
            "unsupported_format"
        }
        PixelsError::TooManyBytes { .. }
        | PixelsError::TooMuchMemory { .. }
        | PixelsError::SideTooLong { .. } => "too_large",
        PixelsError::Empty
        | PixelsError::Truncated { .. }
        | PixelsError::Undecodable { .. }
        | PixelsError::Geometry { .. } => "undecodable",
    }
}
