//! The work of a worker for a request: embed, search, compare.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use sha2::{Digest, Sha256};

use super::answer::{EmbeddedOriginal, OthersFound, Probed};
use super::deciding::{DECIDING_WIDTH, Deciding, PROBE_HITS, best_of_another, deciding};
use super::request::{Hit, ImageAt, ProbeRequest, Query, SearchOptions, Timings, read_image};
use crate::deployment::DeploymentError;
use crate::deployment::points::active::{ActivePoint, JudgedScore};
use crate::deployment::proposals::Neighbours;
use matchpoint_calibration::adjustment::ComparedPair;
use matchpoint_calibration::monitoring::traffic::{PictureFacts, SearchFacts};
use matchpoint_embed::embedder::Embedded;
use matchpoint_embed::job::PoolWorker;
use matchpoint_embed::pixels::{ImageLimits, ImageMeasures};
use matchpoint_gallery::item::ItemHead;
use matchpoint_gallery::mapped_vectors::Vector;
use matchpoint_gallery::view::{GalleryView, Probe};
use matchpoint_vector::{Embedding, Similarity};

/// A reference that a worker can compare with.
pub(in crate::deployment) enum Known {
    /// A query that still has to be embedded.
    Query(Query),
    /// An item with its vector.
    Item(Arc<ItemHead>, Vector),
}

/// The number of items of other labels that a non-mated search looks for, enough to compute what it would find
/// in a gallery of a fraction of the size.
pub(in crate::deployment) const OTHERS_HITS: usize = 64;

pub(in crate::deployment) fn embed_query(
    worker: &mut PoolWorker<'_>,
    query: Query,
    limits: &ImageLimits,
    timings: &mut Timings,
) -> Result<Embedding, DeploymentError> {
    embed_measured(worker, query, limits, timings).map(|embedded| embedded.embedding)
}

/// An embedding, with measurements of its query.
pub(in crate::deployment) struct MeasuredQuery {
    pub(in crate::deployment) embedding: Embedding,
    /// Properties of its picture; `None` for a vector.
    pub(in crate::deployment) measures: Option<ImageMeasures>,
    /// The length of the feature vector before it was scaled to an embedding; `None` for a vector.
    pub(in crate::deployment) feature_length: Option<f64>,
}

impl MeasuredQuery {
    fn of_image(embedded: Embedded, timings: &mut Timings) -> Self {
        timings.decode += embedded.decode;
        timings.inference += embedded.inference;
        Self {
            embedding: embedded.embedding,
            measures: Some(embedded.measures),
            feature_length: Some(embedded.norm),
        }
    }

    /// The properties of a search for this query, together with the caller's conditions.
    pub(in crate::deployment) fn facts<'a>(
        &'a self,
        conditions: &'a BTreeMap<String, String>,
    ) -> SearchFacts<'a> {
        SearchFacts {
            vector: self.embedding.as_slice(),
            picture: self.measures.map(picture_facts),
            feature_length: self.feature_length,
            conditions,
        }
    }
}

pub(in crate::deployment) fn picture_facts(measures: ImageMeasures) -> PictureFacts {
    PictureFacts {
        format: measures.format.as_str(),
        longest_side: measures.longest_side,
        brightness: measures.brightness,
        sharpness: measures.sharpness,
    }
}

pub(in crate::deployment) fn embed_measured(
    worker: &mut PoolWorker<'_>,
    query: Query,
    limits: &ImageLimits,
    timings: &mut Timings,
) -> Result<MeasuredQuery, DeploymentError> {
    match query {
        Query::Image(bytes) => {
            let embedded = worker.embed(&bytes, limits)?;
            Ok(MeasuredQuery::of_image(embedded, timings))
        }
        Query::Embedding(values) => {
            let expected = worker.dimension();
            if values.len() != expected {
                return Err(DeploymentError::Dimension {
                    expected,
                    found: values.len(),
                });
            }
            Ok(MeasuredQuery {
                embedding: Embedding::normalise(values)?,
                measures: None,
                feature_length: None,
            })
        }
    }
}

/// The searches that a request takes.
pub(in crate::deployment) struct RequestProbes<'a> {
    /// The one whose items are returned.
    pub(in crate::deployment) shown: Probe<'a>,
    /// The one that decides, if it is another.
    pub(in crate::deployment) deciding: Option<Probe<'a>>,
}

impl<'a> RequestProbes<'a> {
    /// The decision uses a search that is as wide as those of the calibration, whatever was requested. A wider
    /// search could find a look-alike of a stranger that the calibration did not find.
    pub(in crate::deployment) fn of(options: &'a SearchOptions, approximate: bool) -> Self {
        let left_out = options.without_label.is_some();
        let width = if left_out || options.one_per_label {
            PROBE_HITS
        } else {
            DECIDING_WIDTH
        };
        let asked_wider = options.exact || options.ef.is_some() || DECIDING_WIDTH < options.limit;
        let differs = options.one_per_label || (asked_wider && approximate);
        Self {
            shown: Probe {
                k: options.limit.max(width),
                exact: options.exact,
                without_label: options.without_label.as_deref(),
                filter: options.filter.as_ref(),
                one_per_label: options.one_per_label,
                ef: options.ef,
            },
            // A label that is left out means that every item is compared.
            deciding: (differs && !left_out).then(|| Probe {
                filter: options.filter.as_ref(),
                ..Probe::nearest(DECIDING_WIDTH)
            }),
        }
    }

    /// Both.
    pub(in crate::deployment) fn probes(&self) -> impl Iterator<Item = Probe<'a>> + use<'a> {
        std::iter::once(self.shown).chain(self.deciding)
    }
}

/// Finds the nearest items, and the one that is decided on. The latter and its margin depend only on the query
/// and the gallery, and not on what the caller wants returned.
pub(in crate::deployment) fn search_view(
    neighbours: &Neighbours,
    embedding: &Embedding,
    options: &SearchOptions,
    timings: &mut Timings,
) -> Result<(Vec<Hit>, Option<Deciding>), DeploymentError> {
    let started = Instant::now();
    let plan = RequestProbes::of(options, neighbours.view().is_approximate());
    let mut hits = neighbours.nearest(embedding, &plan.shown)?;
    let deciding = match plan.deciding {
        None => deciding(&hits),
        Some(probe) => deciding(&neighbours.nearest(embedding, &probe)?),
    };
    hits.truncate(options.limit);
    if let Some(least) = options.score_min {
        hits.retain(|hit| least <= hit.score.get());
    }
    timings.search += started.elapsed();
    Ok((hits, deciding))
}

/// A query and the reference that it is compared with.
pub(in crate::deployment) struct Compare {
    pub(in crate::deployment) query: Query,
    pub(in crate::deployment) reference: Known,
    /// The state of the gallery with the reference.
    pub(in crate::deployment) view: Arc<GalleryView>,
}

/// Computes the similarity of a query and a reference, and the decision score.
pub(in crate::deployment) fn compare(
    worker: &mut PoolWorker<'_>,
    pair: Compare,
    active: &ActivePoint,
    limits: &ImageLimits,
    timings: &mut Timings,
) -> Result<(Similarity, JudgedScore), DeploymentError> {
    let Compare {
        query,
        reference,
        view,
    } = pair;
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
    let label = head.as_ref().map(|head| head.label.as_str());
    let compared = ComparedPair {
        score,
        probe: query.as_slice(),
        item: vector,
        other: None,
        // For an image that is not enrolled, it is not known which labels are others.
        label,
        left_out: None,
    };
    Ok((
        score,
        active.adjusted_by_all(&view, &query, compared, timings)?,
    ))
}

/// An image to be enrolled.
pub(in crate::deployment) struct ToEnrol {
    pub(in crate::deployment) at: ImageAt,
    /// The SHA-256 of bytes that need not be embedded again; `None` if there is none.
    pub(in crate::deployment) known: Option<[u8; 32]>,
    /// Whether the image is stored.
    pub(in crate::deployment) keep: bool,
}

pub(in crate::deployment) fn embed_image(
    worker: &mut PoolWorker<'_>,
    image: &ToEnrol,
    limits: &ImageLimits,
    timings: &mut Timings,
) -> Result<Option<EmbeddedOriginal>, DeploymentError> {
    let bytes = match &image.at {
        ImageAt::File(path) => read_image(path, limits)?,
        ImageAt::Kept { gallery, id } => {
            let kept = gallery.image(id)?;
            kept.ok_or_else(|| DeploymentError::ImageNotKept { id: id.clone() })?
        }
    };
    let sha256: [u8; 32] = Sha256::digest(&bytes).into();
    if image.known == Some(sha256) {
        return Ok(None);
    }
    let image = image.keep.then(|| bytes.clone());
    let embedding = embed_query(worker, Query::Image(bytes.into()), limits, timings)?;
    Ok(Some(EmbeddedOriginal {
        embedding,
        sha256,
        image,
    }))
}

/// A labelled query with its embedding.
pub(in crate::deployment) struct EmbeddedProbe {
    pub(in crate::deployment) measured: MeasuredQuery,
    source_sha256: Option<[u8; 32]>,
}

/// What remains to be done for a labelled query.
pub(in crate::deployment) struct ProbeQuestion {
    label: String,
    others: bool,
    check_index: bool,
}

impl ProbeQuestion {
    pub(in crate::deployment) fn of(request: &ProbeRequest) -> Self {
        Self {
            label: request.label.clone(),
            others: request.others,
            check_index: request.check_index,
        }
    }
}

/// The search of a labelled query.
pub(in crate::deployment) fn probe_options() -> SearchOptions {
    SearchOptions::nearest(PROBE_HITS)
}

pub(in crate::deployment) fn embed_probe(
    worker: &mut PoolWorker<'_>,
    request: ProbeRequest,
    limits: &ImageLimits,
    timings: &mut Timings,
) -> Result<EmbeddedProbe, DeploymentError> {
    let query = request.source.read(limits)?;
    let source_sha256 = query.sha256();
    let measured = match (query, request.cache.zip(source_sha256)) {
        (Query::Image(image), Some((cache, sha256))) => {
            let embedded = cache.get_or(sha256, || worker.embed(&image, limits))?;
            MeasuredQuery::of_image(embedded, timings)
        }
        (query, _) => embed_measured(worker, query, limits, timings)?,
    };
    Ok(EmbeddedProbe {
        measured,
        source_sha256,
    })
}

pub(in crate::deployment) fn probed(
    neighbours: &Neighbours,
    probe: EmbeddedProbe,
    question: &ProbeQuestion,
    timings: &mut Timings,
) -> Result<Probed, DeploymentError> {
    let view = &**neighbours.view();
    let EmbeddedProbe {
        measured:
            MeasuredQuery {
                embedding,
                measures,
                feature_length,
            },
        source_sha256,
    } = probe;
    let (hits, deciding) = search_view(neighbours, &embedding, &probe_options(), timings)?;
    let others = if question.others {
        Some(left_out(view, &embedding, &question.label)?)
    } else {
        None
    };
    let other = match (deciding, &others) {
        (None, _) => None,
        (Some(found), Some(others)) if found.best.item.label == question.label => {
            others.hits.first().map(|hit| hit.score)
        }
        (Some(Deciding { best, other }), _) if other.is_none() || view.is_approximate() => {
            best_of_another(view, &embedding, &best.item.label, None)?
        }
        (Some(Deciding { other, .. }), _) => other,
    };
    let index_missed = if question.check_index {
        index_misses(view, &embedding, &hits, None)?
    } else {
        None
    };
    Ok(Probed {
        hits,
        other,
        others,
        index_missed,
        source_sha256,
        vector: Some(embedding.as_slice().into()),
        measures,
        feature_length,
        timings: *timings,
    })
}

/// The nearest items of other labels.
pub(in crate::deployment) fn left_out(
    view: &GalleryView,
    embedding: &Embedding,
    label: &str,
) -> Result<OthersFound, DeploymentError> {
    let others = Probe {
        exact: true,
        without_label: Some(label),
        ..Probe::nearest(OTHERS_HITS)
    };
    let hits = view.nearest(embedding, &others)?;
    let best = hits.first();
    let another = best.and_then(|best| hits.iter().find(|hit| hit.item.label != best.item.label));
    let other = match (best, another) {
        (_, Some(another)) => Some(another.score),
        (Some(best), None) => best_of_another(view, embedding, &best.item.label, Some(label))?,
        (None, None) => None,
    };
    Ok(OthersFound { hits, other })
}

/// Whether an item, other than the one whose id is `except`, is more similar than the best of `hits`; `None` if the
/// search is exact.
pub(in crate::deployment) fn index_misses(
    view: &GalleryView,
    embedding: &Embedding,
    hits: &[Hit],
    except: Option<&str>,
) -> Result<Option<bool>, DeploymentError> {
    if !view.is_approximate() {
        return Ok(None);
    }
    let exact = Probe {
        exact: true,
        ..Probe::nearest(2)
    };
    let nearest = view.nearest(embedding, &exact)?;
    let mut nearest = nearest.iter().filter(|hit| Some(&*hit.item.id) != except);
    let score = |hit: Option<&Hit>| hit.map(|hit| hit.score);
    Ok(Some(score(hits.first()) < score(nearest.next())))
}
