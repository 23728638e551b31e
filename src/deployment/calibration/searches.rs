//! The searches of a calibration with their results.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use base16ct::lower::encode_string;
use sha2::{Digest, Sha256};

use super::embedding_cache::EmbeddingCache;
use super::traffic_sample::TrafficSample;
use crate::deployment::search::answer::Probed;
use crate::deployment::search::request::ProbeRequest;
use crate::deployment::search::worker::{OTHERS_HITS, picture_facts};
use crate::deployment::{Deployment, DeploymentError, Hit, ProbeSource};
use matchpoint_adapt::HeadRecord;
use matchpoint_calibration::analysis::CandidateList;
use matchpoint_calibration::analysis::copies::{NearCopy, near_copies, near_copy_from};
use matchpoint_calibration::analysis::crowded::CrowdedStrangers;
use matchpoint_calibration::analysis::embeddings::Embeddings;
use matchpoint_calibration::analysis::shared_pictures::SharedPictures;
use matchpoint_calibration::analysis::strangers::{StrangerRow, UnnamedStrangers};
use matchpoint_calibration::likeness::{Alike, alike};
use matchpoint_calibration::monitoring::traffic::TrafficQuery;
use matchpoint_calibration::procedure::{Copied, NearCopied};
use matchpoint_calibration::recording::{QueryTrials, RecordedMatch, RecordedSearch, TrialKind};
use matchpoint_gallery::item::ItemHead;
use matchpoint_gallery::view::GalleryView;
use matchpoint_vector::Similarity;

/// At most this many queries take part in the check of the index against exact search.
pub(super) const INDEX_CHECKS_MAX: usize = 500;

/// A query whose label is known.
#[derive(Clone, Debug)]
pub struct LabelledQuery {
    /// Its id, which is unique among the queries.
    pub id: String,
    /// The label that it shows.
    pub label: String,
    /// Further facts by column, such as the camera or the country.
    pub conditions: BTreeMap<String, String>,
}

/// The results for labelled queries so far, all in one state of a gallery.
#[derive(Clone)]
pub struct Gathered {
    view: Arc<GalleryView>,
    labels: Arc<BTreeSet<String>>,
    /// The cache of embeddings, if there is one.
    cache: Option<Arc<EmbeddingCache>>,
    /// Whether data that only an analysis needs are kept.
    keeps_material: bool,
    /// The searches, one or two for each query.
    pub searches: Vec<RecordedSearch>,
    /// For each non-mated search, by probe, the candidates without its own label, best first. They show what a
    /// smaller gallery would find.
    near: BTreeMap<String, CandidateList>,
    /// The queries with their vectors, of unit length; only the first of them if there are many.
    pub queries: Vec<(LabelledQuery, Arc<[f32]>)>,
    /// Number of mated queries whose label is among the five nearest items.
    pub in_top_5: usize,
    /// How often the index was compared with exact search, and how often it missed the nearest item.
    pub index: IndexCheck,
    /// Queries that equal or nearly equal a picture in the gallery, with that item. They are not fair trials.
    pub copies: Vec<Copied>,
    /// Queries with the same image or vector as another query.
    pub repeated: Vec<Repeated>,
    /// Queries of strangers whose vectors nearly equal that of another stranger.
    pub near_copies: Vec<NearCopied>,
    /// How many independent strangers the pictures of unnamed strangers count as.
    pub unnamed: Option<UnnamedStrangers>,
    /// Labels of strangers that may stand for fewer things than there are labels.
    pub crowded: Option<CrowdedStrangers>,
    /// Labels of strangers that share a picture.
    pub shared: SharedPictures,
    /// Maps each label to the one that it counts under because both may be one stranger; empty unless they are
    /// counted so.
    pub repeats: BTreeMap<String, String>,
    /// The labels of searches that count under another one; empty unless they are counted so.
    pub(super) merged_labels: BTreeSet<String>,
    /// Number of strangers whose queries were not compared with each other because there are too many.
    pub not_compared: u64,
    /// The similarity from which two vectors are near copies.
    near_copy_from: f32,
    /// The first strangers with their vectors.
    strangers: Vec<UnnamedStranger>,
    /// The source of each query.
    sources: Vec<QuerySource>,
    /// A sample of the queries, to compare traffic with.
    pub(in crate::deployment) traffic: TrafficSample,
    /// The record of the model's head with the data that it was fitted to; `None` without a head.
    head: Option<Arc<HeadRecord>>,
    /// Ids of queries that the head was fitted to, or may have been: their picture, or, for strangers, their label.
    /// They are not trials.
    pub fitted: Vec<String>,
    /// Ids of those that are vectors, which do not show what picture they are of.
    fitted_perhaps: Vec<String>,
    /// Whether such queries are left out; otherwise they are refused.
    without_fitted: bool,
    /// Whether the gallery's own items are the queries.
    pub(in crate::deployment) of_own_items: bool,
}

impl std::fmt::Debug for Gathered {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Gathered({} searches)", self.searches.len())
    }
}

/// The comparison of the index with exact search, on a sample of queries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct IndexCheck {
    /// Number of searches that were compared; 0 if the search is exact.
    pub sampled: u64,
    /// Number of searches in which an item was more similar than everything that the index found.
    pub missed: u64,
}

/// A query with the same image as another query.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Repeated {
    /// Id of the query.
    pub query: String,
    /// Its label.
    pub label: String,
    /// Id of the first query with this image, of the same label if there is one.
    pub first: String,
    /// The label of that one. If it is the same, this query is no trial.
    pub first_label: String,
}

/// The source of a query, by which equal ones are recognised. Equal ones of one label follow each other in order.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct QuerySource {
    sha256: [u8; 32],
    label: String,
    id: String,
}

impl QuerySource {
    fn repeats(&self, first: &Self) -> Repeated {
        Repeated {
            query: self.id.clone(),
            label: self.label.clone(),
            first: first.id.clone(),
            first_label: first.label.clone(),
        }
    }
}

/// A query of a stranger, with the data needed to compare it with others.
#[derive(Clone, Debug)]
struct UnnamedStranger {
    id: String,
    label: String,
    vector: Arc<[f32]>,
}

impl UnnamedStranger {
    fn row(&self) -> StrangerRow<'_> {
        StrangerRow {
            label: &self.label,
            vector: &self.vector,
        }
    }
}

/// The additional searches with a query's own label left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MaskedSearches {
    /// None.
    None,
    /// For strangers, to find out what smaller galleries would find, and what an approximate index misses.
    OfStrangers,
    /// For enrolled labels, which then count as strangers.
    OfEnrolled,
    /// For both.
    OfAll,
}

impl MaskedSearches {
    /// Those that a threshold takes: enrolled labels as strangers, if they count, and strangers if the index
    /// approximates.
    #[must_use]
    pub fn for_threshold(enrolled_too: bool, approximate: bool) -> Self {
        match (enrolled_too, approximate) {
            (true, true) => Self::OfAll,
            (true, false) => Self::OfEnrolled,
            (false, true) => Self::OfStrangers,
            (false, false) => Self::None,
        }
    }
}

/// Makes the search requests for labelled queries, all for the same state of a gallery.
#[derive(Clone)]
pub(in crate::deployment) struct ProbeRequests {
    view: Arc<GalleryView>,
    labels: Arc<BTreeSet<String>>,
    cache: Option<Arc<EmbeddingCache>>,
    masked: MaskedSearches,
}

impl std::fmt::Debug for ProbeRequests {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ProbeRequests({:?})", self.masked)
    }
}

impl ProbeRequests {
    /// The request of one query; `number` counts the queries from 0.
    pub(in crate::deployment) fn request(
        &self,
        number: usize,
        label: &str,
        source: ProbeSource,
    ) -> ProbeRequest {
        let enrolled = self.labels.contains(label);
        ProbeRequest {
            view: Arc::clone(&self.view),
            source,
            label: label.to_owned(),
            others: match self.masked {
                MaskedSearches::None => false,
                MaskedSearches::OfStrangers => !enrolled,
                MaskedSearches::OfEnrolled => enrolled,
                MaskedSearches::OfAll => true,
            },
            // Chosen by number, so that the choice does not depend on how fast other queries are.
            check_index: checks_index(number),
            cache: self.cache.clone(),
        }
    }
}

impl Gathered {
    /// The highest number of candidates that are kept for each non-mated search.
    pub const DEPTH: usize = OTHERS_HITS;

    /// The highest number of query vectors that are kept for the analysis: 100 MB with 1,280 components.
    pub const VECTORS_MAX: usize = 20_000;

    /// Starts to gather searches of a deployment in its present state. All of them see the same gallery,
    /// whatever is enrolled or deleted meanwhile.
    ///
    /// # Errors
    /// Returns an error if the record of the model's head cannot be read.
    pub fn of(deployment: &Deployment) -> Result<Self, DeploymentError> {
        let view = deployment.view();
        let model = &deployment.loaded.model;
        let head = model.head_record().map(HeadRecord::parse).transpose()?;
        Ok(Self {
            head: head.map(Arc::new),
            fitted: Vec::new(),
            fitted_perhaps: Vec::new(),
            without_fitted: false,
            of_own_items: false,
            cache: None,
            labels: Arc::new(view.labels()),
            view,
            keeps_material: true,
            searches: Vec::new(),
            near: BTreeMap::new(),
            queries: Vec::new(),
            in_top_5: 0,
            index: IndexCheck::default(),
            copies: Vec::new(),
            repeated: Vec::new(),
            near_copies: Vec::new(),
            unnamed: None,
            crowded: None,
            shared: SharedPictures::default(),
            repeats: BTreeMap::new(),
            merged_labels: BTreeSet::new(),
            not_compared: 0,
            near_copy_from: near_copy_from(deployment.loaded().model.dimension()),
            strangers: Vec::new(),
            sources: Vec::new(),
            traffic: TrafficSample::default(),
        })
    }

    /// Leaves out queries that the head was fitted to, instead of refusing them.
    #[must_use]
    pub fn without_fitted(mut self) -> Self {
        self.without_fitted = true;
        self
    }

    /// Refuses queries that the head was fitted to, or may have been. Rates on them are too low, and a threshold
    /// chosen on them would accept too much.
    ///
    /// # Errors
    /// Returns an error if there are such queries.
    pub fn refuse_fitted(&self) -> Result<(), DeploymentError> {
        if self.without_fitted {
            return Ok(());
        }
        let (fitted, perhaps) = (&self.fitted, &self.fitted_perhaps);
        if let Some(first) = perhaps.iter().min() {
            return Err(DeploymentError::FittedPerhaps {
                queries: perhaps.len(),
                first: first.clone(),
            });
        }
        match fitted.iter().min() {
            Some(first) => Err(DeploymentError::Fitted {
                queries: fitted.len(),
                first: first.clone(),
            }),
            None => Ok(()),
        }
    }

    /// Sets a query apart if the head was fitted to its picture, recognised by its bytes whatever its name; or, if it
    /// counts as a stranger, to any picture of its label. Other pictures of an enrolled label are valid queries, because
    /// service has such pictures too. A vector cannot be recognised, and so may be of any picture.
    fn sets_apart(&mut self, query: &LabelledQuery, probed: &Probed, enrolled: bool) -> bool {
        let Some(head) = &self.head else {
            return false;
        };
        let stranger = !enrolled || probed.others.is_some();
        let fitted = match probed.source_sha256 {
            Some(picture) => {
                head.fitted_on.contains(&encode_string(&picture))
                    || stranger && head.fitted_label(&query.label)
            }
            None => {
                self.fitted_perhaps.push(query.id.clone());
                true
            }
        };
        if fitted {
            self.fitted.push(query.id.clone());
        }
        fitted
    }

    /// Uses cached embeddings of queries, and caches new ones.
    #[must_use]
    pub fn with_cache(mut self, cache: Option<EmbeddingCache>) -> Self {
        self.cache = cache.map(Arc::new);
        self
    }

    /// How many queries had a cached embedding.
    #[must_use]
    pub fn embedded_before(&self) -> u64 {
        self.cache.as_ref().map_or(0, |cache| cache.taken())
    }

    /// Keeps only the searches. They suffice for a threshold, but not for an analysis.
    #[must_use]
    pub fn searches_only(mut self) -> Self {
        self.keeps_material = false;
        self
    }

    /// The state of the gallery that is searched.
    #[must_use]
    pub fn view(&self) -> Arc<GalleryView> {
        Arc::clone(&self.view)
    }

    /// The items that are searched, with their vectors.
    pub(in crate::deployment) fn items(&self) -> impl Iterator<Item = (&ItemHead, &[f32])> {
        self.view.items().map(|(head, vector)| (&**head, vector))
    }

    /// The labels that are enrolled in this state.
    #[must_use]
    pub fn labels(&self) -> Arc<BTreeSet<String>> {
        Arc::clone(&self.labels)
    }

    /// The same searches in which unnamed pictures that may show the same stranger count under one label, and
    /// names that may be one stranger are marked; `None` if there are no such strangers.
    pub fn counted_once(&self) -> Option<Self> {
        let repeats = self.shared.repeats(self.crowded.as_ref());
        if self.unnamed.is_none() && repeats.is_empty() {
            return None;
        }
        let mut counted = self.clone();
        if let Some(unnamed) = &self.unnamed {
            counted.merged_labels = unnamed.count_once(&mut counted.searches);
        }
        counted.repeats = repeats;
        Some(counted)
    }

    /// Labels of strangers that are suspiciously similar to enrolled ones, or to each other.
    #[must_use]
    pub fn alike(&self) -> Vec<Alike> {
        let strangers = self.searches.iter();
        let strangers = strangers.filter(|search| search.truth == TrialKind::NeverEnrolled);
        alike(
            strangers.map(|search| search.label.as_str()),
            self.labels.iter().map(String::as_str),
        )
    }

    /// The candidates of non-mated searches beyond the best one.
    #[must_use]
    pub fn deep(&self) -> Vec<CandidateList> {
        self.near.values().cloned().collect()
    }

    /// Sorts the searches by probe, and removes those that are not trials: pictures of the gallery that find
    /// themselves, and repeated pictures of one label. Labels of strangers that share a picture, or nearly, are
    /// only marked: if such searches were removed, the strangers left would not be those of traffic.
    ///
    /// # Errors
    /// Never in practice; returns an error if a vector does not have unit length.
    pub fn settle(&mut self) -> Result<(), DeploymentError> {
        self.searches
            .sort_by(|a, b| (&a.probe, a.truth).cmp(&(&b.probe, b.truth)));
        self.queries.sort_by(|a, b| a.0.id.cmp(&b.0.id));
        self.copies.sort_by(|a, b| a.query.cmp(&b.query));
        self.sources.sort_unstable();
        for equal in self.sources.chunk_by(|a, b| a.sha256 == b.sha256) {
            let Some(first) = equal.first() else {
                continue;
            };
            for of_label in equal.chunk_by(|a, b| a.label == b.label) {
                let Some((own, others)) = of_label.split_first() else {
                    continue;
                };
                let of_first = (own != first).then(|| own.repeats(first));
                self.repeated.extend(of_first);
                let of_own = others.iter().map(|other| other.repeats(own));
                self.repeated.extend(of_own);
            }
        }
        self.sources.clear();
        let strangers = self.find_near_copies()?;
        let repeated = self.repeated.iter().filter(|r| r.label == r.first_label);
        let repeated: BTreeSet<&str> = repeated.map(|r| r.query.as_str()).collect();
        let copied = self
            .copies
            .iter()
            .filter(|copy| copy.label == copy.item_label);
        let copied: BTreeSet<&str> = copied.map(|copy| copy.query.as_str()).collect();
        self.searches.retain(|search| {
            let probe = search.probe.as_str();
            let found_itself = search.truth == TrialKind::Mated && copied.contains(probe);
            !repeated.contains(probe) && !found_itself
        });
        self.near
            .retain(|probe, _| !repeated.contains(probe.as_str()));
        let counted = strangers.iter();
        let counted = counted.filter(|one| !repeated.contains(one.id.as_str()));
        let rows: Vec<StrangerRow<'_>> = counted.map(UnnamedStranger::row).collect();
        self.unnamed = UnnamedStrangers::find(&rows, &self.searches)?;
        self.find_one_stranger(&strangers)
    }

    /// Finds labels that may be one stranger: those that share a picture, and those that are close.
    fn find_one_stranger(&mut self, strangers: &[UnnamedStranger]) -> Result<(), DeploymentError> {
        let non_mated = self.searches.iter();
        let non_mated = non_mated.filter(|search| search.truth != TrialKind::Mated);
        let non_mated: BTreeSet<&str> = non_mated.map(|search| search.label.as_str()).collect();
        let repeated = self.repeated.iter();
        let repeated = repeated.map(|one| (&*one.label, &*one.first_label));
        let nearly = self.near_copies.iter();
        let nearly = nearly.map(|copy| (&*copy.label, &*copy.first_label));
        let pairs = repeated.filter(|(one, other)| one != other).chain(nearly);
        let pairs =
            pairs.filter(|(one, other)| non_mated.contains(one) && non_mated.contains(other));
        self.shared = SharedPictures::of(pairs);
        // Of equal pictures only the first is used here, because the others would change the distance at which
        // strangers are close.
        let repeated = self.repeated.iter().map(|one| one.query.as_str());
        let nearly = self.near_copies.iter().map(|copy| copy.query.as_str());
        let copies: BTreeSet<&str> = repeated.chain(nearly).collect();
        let rows = strangers.iter();
        let rows = rows.filter(|one| !copies.contains(one.id.as_str()));
        let rows: Vec<StrangerRow<'_>> = rows.map(UnnamedStranger::row).collect();
        let others = self.searches.iter();
        let others = others.filter(|search| !copies.contains(search.probe.as_str()));
        let items = self.items().count();
        self.crowded = CrowdedStrangers::find(&rows, others, items, &|_, _| true)?;
        Ok(())
    }

    /// Finds nearly equal vectors among strangers of different labels.
    fn find_near_copies(&mut self) -> Result<Vec<UnnamedStranger>, DeploymentError> {
        let repeated: BTreeSet<&str> = self.repeated.iter().map(|r| r.query.as_str()).collect();
        let mut all = std::mem::take(&mut self.strangers);
        all.sort_by(|a, b| a.id.cmp(&b.id));
        // Equal pictures are known already.
        let strangers = all.iter();
        let strangers = strangers.filter(|stranger| !repeated.contains(stranger.id.as_str()));
        let strangers: Vec<&UnnamedStranger> = strangers.collect();
        let names: BTreeSet<&str> = strangers.iter().map(|one| one.label.as_str()).collect();
        let numbers: BTreeMap<&str, u32> = names.into_iter().zip(0..).collect();
        let dimension = strangers.first().map_or(1, |one| one.vector.len());
        let rows = Embeddings::from_unit(
            dimension,
            strangers
                .iter()
                .flat_map(|one| one.vector.iter().copied())
                .collect(),
            strangers
                .iter()
                .filter_map(|one| numbers.get(one.label.as_str()).copied())
                .collect(),
        )?;
        let copy = |found: NearCopy| {
            let (one, first) = (strangers.get(found.row)?, strangers.get(found.first)?);
            // Pictures of one label can be linked through one of another.
            (one.label != first.label).then(|| NearCopied {
                query: one.id.clone(),
                label: one.label.clone(),
                first: first.id.clone(),
                first_label: first.label.clone(),
                similarity: found.similarity.get(),
            })
        };
        let found = near_copies(&rows, &|_, _| true)?;
        self.near_copies = found.into_iter().filter_map(copy).collect();
        Ok(all)
    }

    /// The requests for its queries.
    pub(in crate::deployment) fn requests(&self, masked: MaskedSearches) -> ProbeRequests {
        ProbeRequests {
            view: self.view(),
            labels: self.labels(),
            cache: self.cache.clone(),
            masked,
        }
    }

    /// Adds the results of one query. A query of an enrolled label gives a mated search and, if its label was
    /// left out too, a non-mated one.
    pub(in crate::deployment) fn add(&mut self, query: LabelledQuery, probed: Probed) {
        self.add_trials(query, probed, false);
    }

    /// Keeps the data that are needed to recognise near copies of this query and to compare traffic with it.
    fn keep_to_compare(&mut self, query: &LabelledQuery, probed: &Probed, enrolled: bool) {
        if let Some(made_from) = probed
            .source_sha256
            .or_else(|| digest(probed.vector.as_deref()))
        {
            self.sources.push(QuerySource {
                sha256: made_from,
                label: query.label.clone(),
                id: query.id.clone(),
            });
        }
        if let Some(vector) = &probed.vector {
            self.traffic.add(TrafficQuery {
                id: query.id.clone(),
                label: query.label.clone(),
                mated: enrolled,
                conditions: query.conditions.clone(),
                vector: Arc::clone(vector),
                picture: probed.measures.map(picture_facts),
                feature_length: probed.feature_length,
            });
        }
        if let (false, Some(vector)) = (enrolled, &probed.vector) {
            if self.strangers.len() < Self::VECTORS_MAX {
                self.strangers.push(UnnamedStranger {
                    id: query.id.clone(),
                    label: query.label.clone(),
                    vector: Arc::clone(vector),
                });
            } else {
                self.not_compared += 1;
            }
        }
    }

    /// Adds the trials of one query; `alone` if it is an item and the only one of its label.
    pub(in crate::deployment) fn add_trials(
        &mut self,
        query: LabelledQuery,
        probed: Probed,
        alone: bool,
    ) {
        let enrolled = self.labels.contains(&query.label);
        if self.sets_apart(&query, &probed, enrolled) {
            return;
        }
        self.keep_to_compare(&query, &probed, enrolled);
        if let Some(vector) = probed.vector
            && self.keeps_material
            && self.queries.len() < Self::VECTORS_MAX
        {
            self.queries.push((query.clone(), vector));
        }
        let LabelledQuery {
            id,
            label,
            conditions,
        } = query;

        let search = |truth, (found, other): (Option<&Hit>, Option<Similarity>)| RecordedSearch {
            probe: id.clone(),
            label: label.clone(),
            truth,
            found: found.map(|hit| found_in(hit, other)),
            conditions: conditions.clone(),
        };
        let top = probed.hits.first();
        if let Some(hit) = top.filter(|hit| self.near_copy_from <= hit.score.get()) {
            self.copies.push(Copied {
                query: id.clone(),
                label: label.clone(),
                item: hit.item.id.clone(),
                item_label: hit.item.label.clone(),
                similarity: hit.score.get(),
            });
        }
        if let Some(missed) = probed.index_missed {
            self.index.sampled += 1;
            self.index.missed += u64::from(missed);
        }
        let others = probed.others;
        if enrolled {
            let matches = |hit: &Hit| hit.item.label == label;
            self.in_top_5 += usize::from(probed.hits.iter().any(matches));
        }
        let trials = QueryTrials {
            enrolled,
            alone,
            masked_too: others.is_some(),
        };
        for truth in trials.truths() {
            let exact = others.as_ref();
            let exact = exact.map(|others| (others.hits.first(), others.other));
            let found = counted(truth, (top, probed.other), exact);
            self.searches.push(search(truth, found.unwrap_or_default()));
        }
        if let Some(others) = others
            && self.keeps_material
        {
            let candidates = others
                .hits
                .into_iter()
                .map(|hit| (hit.score, hit.item.label.clone()));
            self.near.insert(id, (label, candidates.collect()));
        }
    }
}

/// The result that counts: that of the usual search, or of the exact one with the query's own label left out. For a
/// stranger it is the exact one if it was made: what an approximate index misses now, it may find in service, with a
/// filter or once it was built again.
fn counted<T>(truth: TrialKind, usual: T, exact: Option<T>) -> Option<T> {
    match truth {
        TrialKind::Mated => Some(usual),
        TrialKind::NeverEnrolled => exact.or(Some(usual)),
        TrialKind::LeftOut => exact,
    }
}

/// Whether the query with this number takes part in the check of the index.
fn checks_index(number: usize) -> bool {
    number < INDEX_CHECKS_MAX
}

/// SHA-256 over the components of a vector.
fn digest(vector: Option<&[f32]>) -> Option<[u8; 32]> {
    let mut hash = Sha256::new();
    for value in vector? {
        hash.update(value.to_le_bytes());
    }
    Some(hash.finalize().into())
}

fn found_in(hit: &Hit, other: Option<Similarity>) -> RecordedMatch {
    RecordedMatch {
        item: hit.item.id.clone(),
        label: hit.item.label.clone(),
        score: hit.score,
        adjusted: None,
        other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stranger_counts_by_what_an_index_may_miss() {
        let (usual, exact) = (0.4, 0.6);
        let counted = |truth, exact| counted(truth, usual, exact);
        assert_eq!(counted(TrialKind::NeverEnrolled, Some(exact)), Some(exact));
        assert_eq!(counted(TrialKind::NeverEnrolled, None), Some(usual));
        assert_eq!(counted(TrialKind::LeftOut, Some(exact)), Some(exact));
        assert_eq!(counted(TrialKind::Mated, Some(exact)), Some(usual));
        let masked = MaskedSearches::for_threshold;
        assert_eq!(masked(false, true), MaskedSearches::OfStrangers);
        assert_eq!(masked(true, true), MaskedSearches::OfAll);
        assert_eq!(masked(true, false), MaskedSearches::OfEnrolled);
        assert_eq!(masked(false, false), MaskedSearches::None);
    }
}
