//! What labelled vectors find in a gallery of labelled vectors: the trials of a calibration.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::labelled_vectors::LabelledVectors;
use super::settings::Assured;
use crate::analysis::candidate_lists::candidate_lists;
use crate::analysis::copies::{ROWS_MAX, near_copies, near_copy_from};
use crate::analysis::crowded::CrowdedStrangers;
use crate::analysis::embeddings::Embeddings;
use crate::analysis::nearest::{Nearest, NearestRow, nearest};
use crate::analysis::strangers::{StrangerRow, UnnamedStrangers};
use crate::analysis::{AnalysisError, CandidateList};
use crate::recording::{QueryTrials, RecordedMatch, RecordedSearch, Recording, TrialKind};

/// More scores than this are not computed to tell what smaller galleries would find.
const CANDIDATE_SCORES_MAX: u64 = 50_000_000;

/// A part of the work that takes long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VectorStage {
    /// Every query is searched for.
    Search,
    /// Strangers are compared with each other.
    NearCopies,
    /// The pairs are analysed.
    Pairs,
}

/// A query that is a picture in the gallery itself, or nearly.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Copied {
    /// Id of the query.
    pub query: String,
    /// Its label.
    pub label: String,
    /// Id of the item.
    pub item: String,
    /// The item's label. Another than the query's points at a wrong label.
    pub item_label: String,
    /// Their similarity.
    pub similarity: f32,
}

/// A stranger's query that is nearly one vector with an earlier one of another label.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct NearCopied {
    /// Id of the query: no trial.
    pub query: String,
    /// Its label.
    pub label: String,
    /// Id of the one that stands for both.
    pub first: String,
    /// The label of that.
    pub first_label: String,
    /// Their similarity.
    pub similarity: f32,
}

/// What the vectors found, and what there is to say against it.
#[derive(Debug)]
pub struct VectorTrials {
    /// The searches that are trials.
    pub recording: Recording,
    /// Queries that are nearly vectors of the gallery: those of their own label are no trials.
    pub copies: Vec<Copied>,
    /// Strangers' queries that are nearly one vector with another stranger's: counted once.
    pub near_copies: Vec<NearCopied>,
    /// Strangers' queries that were not compared with the others for that: there are too many.
    pub not_compared: u64,
    /// What vectors of strangers are worth whom nobody named; `None` where all are named.
    pub unnamed: Option<UnnamedStrangers>,
    /// Labels of strangers that may be fewer things than they are; `None` if there are none.
    pub crowded: Option<CrowdedStrangers>,
    no_trials: NoTrials,
}

/// Rows whose searches are no trials.
#[derive(Debug, Default)]
struct NoTrials {
    /// Of an enrolled label, and nearly an item of it.
    mated: BTreeSet<usize>,
    /// Of a stranger, and nearly a query of another.
    strangers: BTreeSet<usize>,
}

/// Told of each stage how much is done, of how much; answers whether to go on.
pub(super) type StageWatch<'a> = &'a (dyn Fn(VectorStage, u64, u64) -> bool + Sync);

impl VectorTrials {
    /// Candidates of a stranger that are kept to tell what smaller galleries would find.
    pub const DEPTH: usize = 64;

    /// Searches for every query, exactly. `watch` is told of [`VectorStage::Search`] and
    /// [`VectorStage::NearCopies`], and ends the work by saying `false`.
    ///
    /// # Errors
    /// [`AnalysisError::Stopped`] where `watch` said so; queries of another dimension than the gallery.
    pub fn search(
        vectors: &LabelledVectors,
        assured: Assured,
        watch: StageWatch<'_>,
    ) -> Result<Self, AnalysisError> {
        let found = nearest(
            &vectors.searching().embeddings,
            &vectors.gallery.embeddings,
            &|done, total| watch(VectorStage::Search, done, total),
        )?;
        let mut trials = Self::of_scores(Recording::new(Vec::new())?, None);
        trials.find_copies(vectors, &found);
        trials.find_near_copies(vectors, watch)?;
        let mut searches = trials.searches(vectors, &found);
        let strangers = stranger_rows(vectors, &searches);
        trials.unnamed = UnnamedStrangers::find(&strangers, &searches)?;
        let items = vectors.gallery.ids.len();
        trials.crowded = CrowdedStrangers::find(&strangers, &searches, items, &|done, total| {
            watch(VectorStage::NearCopies, done, total)
        })?;
        let mut repeats = BTreeMap::new();
        if assured.counts_once() {
            if let Some(unnamed) = &trials.unnamed {
                unnamed.count_once(&mut searches);
            }
            let crowded = trials.crowded.as_ref();
            repeats = crowded.map_or(repeats, CrowdedStrangers::repeats);
        }
        trials.recording = Recording::new(searches)?.with_repeats(repeats);
        Ok(trials)
    }

    /// Searches that another system did: none of their pictures was looked at.
    pub(super) fn of_scores(recording: Recording, unnamed: Option<UnnamedStrangers>) -> Self {
        Self {
            recording,
            copies: Vec::new(),
            near_copies: Vec::new(),
            not_compared: 0,
            unnamed,
            crowded: None,
            no_trials: NoTrials::default(),
        }
    }

    fn find_copies(&mut self, vectors: &LabelledVectors, found: &[Nearest]) {
        let (gallery, queries) = (&vectors.gallery, vectors.searching());
        let names = vectors.names.as_slice();
        let near = near_copy_from(queries.embeddings.dimension());
        for (row, nearest) in found.iter().enumerate() {
            let is_near = |one: &NearestRow| near <= one.score.get();
            if nearest.same_label.is_some_and(|one| is_near(&one)) {
                self.no_trials.mated.insert(row);
            }
            let either = [nearest.same_label, nearest.other_label];
            for item in either.into_iter().flatten().filter(is_near) {
                self.copies.push(Copied {
                    query: queries.ids.get(row).cloned().unwrap_or_default(),
                    label: queries.label(row, names).to_owned(),
                    item: gallery.ids.get(item.row).cloned().unwrap_or_default(),
                    item_label: gallery.label(item.row, names).to_owned(),
                    similarity: item.score.get(),
                });
            }
        }
    }

    fn find_near_copies(
        &mut self,
        vectors: &LabelledVectors,
        watch: StageWatch<'_>,
    ) -> Result<(), AnalysisError> {
        let (Some(queries), names) = (&vectors.queries, vectors.names.as_slice()) else {
            return Ok(());
        };
        let enrolled = vectors.enrolled();
        let labels = queries.labels.iter().enumerate();
        let strangers = labels.filter(|(_, label)| !enrolled.contains(label));
        let mut strangers: Vec<usize> = strangers.map(|(row, _)| row).collect();
        let all = strangers.len();
        strangers.truncate(ROWS_MAX);
        self.not_compared = (all - strangers.len()) as u64;
        let (mut values, mut labels) = (Vec::new(), Vec::new());
        for &row in &strangers {
            values.extend_from_slice(queries.embeddings.row(row).unwrap_or_default());
            labels.extend(queries.labels.get(row));
        }
        let dimension = queries.embeddings.dimension();
        let rows = Embeddings::from_unit(dimension, values, labels)?;
        let found = near_copies(&rows, &|done, total| {
            watch(VectorStage::NearCopies, done, total)
        })?;
        let id = |row: usize| queries.ids.get(row).cloned().unwrap_or_default();
        for copy in found {
            let (Some(&row), Some(&first)) = (strangers.get(copy.row), strangers.get(copy.first))
            else {
                continue;
            };
            self.no_trials.strangers.insert(row);
            self.near_copies.push(NearCopied {
                query: id(row),
                label: queries.label(row, names).to_owned(),
                first: id(first),
                first_label: queries.label(first, names).to_owned(),
                similarity: copy.similarity.get(),
            });
        }
        Ok(())
    }

    /// The trials that each row makes.
    fn searches(&self, vectors: &LabelledVectors, found: &[Nearest]) -> Vec<RecordedSearch> {
        let (gallery, queries) = (&vectors.gallery, vectors.searching());
        let names = vectors.names.as_slice();
        let enrolled = vectors.enrolled();
        let itself = vectors.queries.is_none();
        let mut searches = Vec::new();
        for (row, nearest) in found.iter().enumerate() {
            let top = nearest.top().map(|(neighbour, _)| neighbour);
            let label = queries.labels.get(row);
            let trials = QueryTrials {
                enrolled: label.is_some_and(|label| enrolled.contains(label)),
                alone: itself && nearest.same_label.is_none(),
                masked_too: itself,
            };
            for truth in trials.truths() {
                let (found, other, is_trial) = match truth {
                    TrialKind::Mated => {
                        let is_trial = !self.no_trials.mated.contains(&row);
                        (top, nearest.runner_up(), is_trial)
                    }
                    TrialKind::NeverEnrolled => {
                        let is_trial = !self.no_trials.strangers.contains(&row);
                        (top, nearest.runner_up(), is_trial)
                    }
                    TrialKind::LeftOut => (nearest.other_label, nearest.third_label, true),
                };
                if is_trial {
                    searches.push(RecordedSearch {
                        probe: queries.ids.get(row).cloned().unwrap_or_default(),
                        label: queries.label(row, names).to_owned(),
                        truth,
                        found: found.map(|neighbour| RecordedMatch {
                            item: gallery.ids.get(neighbour.row).cloned().unwrap_or_default(),
                            label: gallery.label(neighbour.row, names).to_owned(),
                            score: neighbour.score,
                            adjusted: None,
                            other: other.map(|other| other.score),
                        }),
                        conditions: queries.conditions.get(row).cloned().unwrap_or_default(),
                    });
                }
            }
        }
        searches
    }

    /// What each stranger finds beyond its best candidate, best first; empty where that is too much
    /// work.
    #[must_use]
    pub fn candidate_lists(&self, vectors: &LabelledVectors) -> Vec<CandidateList> {
        let (gallery, queries) = (&vectors.gallery, vectors.searching());
        let enrolled = vectors.enrolled();
        let is_stranger = |row: usize| {
            let label = queries.labels.get(row);
            vectors.queries.is_none() || label.is_some_and(|label| !enrolled.contains(label))
        };
        let strangers: Vec<usize> = (0..queries.ids.len())
            .filter(|&row| is_stranger(row) && !self.no_trials.strangers.contains(&row))
            .collect();
        if CANDIDATE_SCORES_MAX < strangers.len() as u64 * gallery.ids.len() as u64 {
            return Vec::new();
        }
        candidate_lists(&strangers, queries, gallery, &vectors.names, Self::DEPTH)
    }
}

/// The vectors of the strangers that `searches` are of.
fn stranger_rows<'a>(
    vectors: &'a LabelledVectors,
    searches: &[RecordedSearch],
) -> Vec<StrangerRow<'a>> {
    let (queries, names) = (vectors.searching(), vectors.names.as_slice());
    let strangers: BTreeSet<&str> = searches
        .iter()
        .filter(|search| search.truth == TrialKind::NeverEnrolled)
        .map(|search| search.label.as_str())
        .collect();
    let rows = (0..queries.ids.len()).filter_map(|row| {
        let label = queries.label(row, names);
        let vector = queries.embeddings.row(row)?;
        strangers
            .contains(label)
            .then_some(StrangerRow { label, vector })
    });
    rows.take(ROWS_MAX).collect()
}
