//! Requests to a deployment: queries, and options of a search.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use sha2::{Digest, Sha256};

use crate::deployment::DeploymentError;
use crate::deployment::calibration::embedding_cache::EmbeddingCache;
use crate::files::open_file;
use crate::journal::entry::StateId;
use crate::telemetry;
use matchpoint_embed::job::JobKind;
use matchpoint_embed::pixels::{ImageLimits, PixelsError};
use matchpoint_gallery::Gallery;
use matchpoint_gallery::filter::ItemFilter;
use matchpoint_gallery::view::{GalleryMatch, GalleryView};

/// What to search for.
#[derive(Clone, Debug)]
pub enum Query {
    /// An encoded image.
    Image(Bytes),
    /// A vector of the model's space, which need not have unit length.
    Embedding(Vec<f32>),
}

/// The location of the image of an item to be enrolled.
#[derive(Clone, Debug)]
pub enum ImageAt {
    /// In a file.
    File(PathBuf),
    /// Stored with an item of a gallery.
    Kept {
        /// The gallery, which may be open for reading only.
        gallery: Arc<Gallery>,
        /// The item's id.
        id: String,
    },
}

/// A comparison of a query with a reference.
#[derive(Clone, Debug)]
pub struct Comparison {
    /// The query.
    pub query: Query,
    /// The reference.
    pub reference: VerifyReference,
    /// The state that the caller expects; `None` accepts any state.
    pub expect_state: Option<StateId>,
}

/// The reference that a query is compared with.
#[derive(Clone, Debug)]
pub enum VerifyReference {
    /// Another image or vector.
    Query(Query),
    /// An enrolled item, by id.
    Item(String),
}

/// Options of a search.
#[derive(Clone, Debug)]
pub struct SearchOptions {
    /// The highest number of items to return.
    pub limit: usize,
    /// Whether to compare with every item.
    pub exact: bool,
    /// The items that may be found and decided on; `None` for all.
    pub filter: Option<ItemFilter>,
    /// A label whose items are left out. Such a search compares with every item.
    pub without_label: Option<String>,
    /// Whether to return only the best item of each label.
    pub one_per_label: bool,
    /// The lowest similarity of returned items.
    pub score_min: Option<f32>,
    /// The number of candidates that an approximate search keeps for the returned items.
    pub ef: Option<usize>,
    /// Conditions that the caller states, such as the camera.
    pub conditions: BTreeMap<String, String>,
    /// The state that the caller expects; `None` accepts any state.
    pub expect_state: Option<StateId>,
    /// Whether the decision is left out of journal, audit, shadow and metrics.
    pub unrecorded: bool,
}

impl SearchOptions {
    /// Options for the `limit` nearest items by the index.
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
            conditions: BTreeMap::new(),
            expect_state: None,
            unrecorded: false,
        }
    }
}

/// An item that was found.
pub type Hit = GalleryMatch;

impl Query {
    /// The kind of job that the query needs.
    pub(in crate::deployment) fn kind(&self) -> JobKind {
        match self {
            Self::Image(_) => JobKind::Image,
            Self::Embedding(_) => JobKind::Vector,
        }
    }

    /// SHA-256 of an image.
    pub(in crate::deployment) fn sha256(&self) -> Option<[u8; 32]> {
        match self {
            Self::Image(bytes) => Some(Sha256::digest(bytes).into()),
            Self::Embedding(_) => None,
        }
    }

    /// The image, if it should be stored. Its bytes are shared, not copied.
    pub(in crate::deployment) fn kept(&self, keep: bool) -> Option<Bytes> {
        match self {
            Self::Image(bytes) if keep => Some(bytes.clone()),
            Self::Image(_) | Self::Embedding(_) => None,
        }
    }
}

/// A query whose truth is known.
#[derive(Clone)]
pub(in crate::deployment) struct ProbeRequest {
    /// The state of the gallery to search in.
    pub(in crate::deployment) view: Arc<GalleryView>,
    /// The query.
    pub(in crate::deployment) source: ProbeSource,
    /// The label that it shows.
    pub(in crate::deployment) label: String,
    /// Whether to look for the nearest items of other labels.
    pub(in crate::deployment) others: bool,
    /// Whether to compare the index with exact search.
    pub(in crate::deployment) check_index: bool,
    /// The cache of embeddings.
    pub(in crate::deployment) cache: Option<Arc<EmbeddingCache>>,
}

/// The source of a labelled query.
#[derive(Clone, Debug)]
pub enum ProbeSource {
    /// An image file.
    File(PathBuf),
    /// What a caller sent.
    Query(Query),
}

impl ProbeSource {
    /// The image that a caller sent, if it should be stored. Its bytes are shared, not copied.
    pub(in crate::deployment) fn kept(&self, keep: bool) -> Option<Bytes> {
        match self {
            Self::Query(query) => query.kept(keep),
            Self::File(_) => None,
        }
    }

    /// The kind of job that the query needs.
    pub(in crate::deployment) fn kind(&self) -> JobKind {
        match self {
            Self::File(_) => JobKind::Image,
            Self::Query(query) => query.kind(),
        }
    }

    /// The query, read from its file if necessary.
    pub(in crate::deployment) fn read(
        self,
        limits: &ImageLimits,
    ) -> Result<Query, DeploymentError> {
        Ok(match self {
            Self::File(path) => Query::Image(read_image(&path, limits)?.into()),
            Self::Query(query) => query,
        })
    }
}

/// The time of a request by stage.
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
    /// The total time.
    pub total: Duration,
}

impl Timings {
    pub(in crate::deployment) fn record(&self, deployment: &str) {
        let stages = [self.queue, self.decode, self.inference, self.search];
        for (stage, took) in telemetry::STAGE_VALUES.into_iter().zip(stages) {
            // A stage that the request does not have is not counted as zero.
            if !took.is_zero() {
                telemetry::stage_took(deployment, stage, took);
            }
        }
    }
}

/// Reads a file that may be an image, up to the size limit of an image.
///
/// # Errors
/// Returns an error if it is not a regular file or the disk fails.
pub fn read_image(path: &Path, limits: &ImageLimits) -> Result<Vec<u8>, DeploymentError> {
    let one_more = (limits.bytes_max as u64).saturating_add(1);
    let mut bytes = Vec::new();
    open_file(path)
        .and_then(|file| file.take(one_more).read_to_end(&mut bytes))
        .map_err(|cause| DeploymentError::io(path, &cause))?;
    Ok(bytes)
}

/// The reason that an unusable image is counted under.
pub(in crate::deployment) fn image_failure(error: &PixelsError) -> &'static str {
    match error {
        PixelsError::UnsupportedFormat { .. } | PixelsError::UnsupportedFeature { .. } => {
            "unsupported_format"
        }
        PixelsError::NoMemory { .. } => "too_large",
        PixelsError::TooManyBytes { .. }
        | PixelsError::TooMuchMemory { .. }
        | PixelsError::TooManyScans { .. }
        | PixelsError::SideTooLong { .. } => "too_large",
        PixelsError::Empty
        | PixelsError::Truncated { .. }
        | PixelsError::Undecodable { .. }
        | PixelsError::Geometry { .. } => "undecodable",
    }
}
