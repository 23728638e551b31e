//! The trials of a calibration: labelled vectors searched for in a gallery of labelled vectors.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::labelled_vectors::LabelledVectors;
use super::settings::Assured;
use crate::analysis::candidate_lists::candidate_lists;
use crate::analysis::copies::{ROWS_MAX, near_copies, near_copy_from};
use crate::analysis::crowded::CrowdedStrangers;
use crate::analysis::embeddings::Embeddings;
use crate::analysis::nearest::{Nearest, NearestRow, nearest};
use crate::analysis::shared_pictures::SharedPictures;
use crate::analysis::strangers::{StrangerRow, UnnamedStrangers};
use crate::analysis::{AnalysisError, CandidateList};
use crate::recording::{QueryTrials, RecordedMatch, RecordedSearch, Recording, TrialKind};

/// Candidate lists, which predict the FAR of smaller galleries, are skipped if they need more
/// scores than this.
const CANDIDATE_SCORES_MAX: u64 = 50_000_000;

/// A stage of the work whose progress is reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VectorStage {
    /// Every query is searched for.
    Search,
    /// Strangers are compared with each other.
    NearCopies,
    /// Pairs are analysed.
    Pairs,
}

/// A query whose vector equals, or nearly equals, that of a gallery item.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Copied {
    /// Id of the query.
    pub query: String,
    /// Its label.
    pub label: String,
    /// Id of the gallery item.
    pub item: String,
    /// The item's label. If it differs from the query's, one of the two is probably wrong.
    pub item_label: String,
    /// Cosine similarity of the two, in [-1, 1].
    pub similarity: f32,
}

/// A query of a stranger whose vector nearly equals that of an earlier query with another label.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct NearCopied {
    /// Id of the query.
    pub query: String,
    /// Its label.
    pub label: String,
    /// Id of the earlier query.
    pub first: String,
    /// The label of the earlier query.
    pub first_label: String,
    /// Cosine similarity of the two, in [-1, 1].
    pub similarity: f32,
}

/// The searches of a calibration, and the problems that were found in the vectors.
#[derive(Debug)]
pub struct VectorTrials {
    /// The searches that count as trials.
    pub recording: Recording,
    /// Queries whose vectors nearly equal a gallery vector. If both have the same label, the query
    /// is not counted.
    pub copies: Vec<Copied>,
    /// Queries of strangers whose vectors nearly equal that of another stranger. They are trials, and
    /// their labels may be one stranger.
    pub near_copies: Vec<NearCopied>,
    /// Number of strangers' queries that were not compared with each other because there are too
    /// many.
    pub not_compared: u64,
    /// How many independent strangers the unnamed vectors count as; `None` if all have a name.
    pub unnamed: Option<UnnamedStrangers>,
    /// Labels of strangers that may stand for fewer things than there are labels; `None` if there
    /// are none.
    pub crowded: Option<CrowdedStrangers>,
    /// Labels of strangers that share a picture.
    pub shared: SharedPictures,
    /// Rows of queries that nearly equal an item of their own label; they are no mated trials.
    found_themselves: BTreeSet<usize>,
}

/// Called with the stage, the amount of work done and the total; returns whether to continue.
pub(super) type StageWatch<'a> = &'a (dyn Fn(VectorStage, u64, u64) -> bool + Sync);

impl VectorTrials {
    /// Number of candidates kept for each stranger, from which the FAR of smaller galleries is
    /// predicted.
    pub const DEPTH: usize = 64;

    /// Searches for every query by comparing it with every item. `watch` is called during
    /// [`VectorStage::Search`] and [`VectorStage::NearCopies`]; if it returns `false`, the work
    /// stops.
    ///
    /// # Errors
    /// Returns [`AnalysisError::Stopped`] if `watch` returned `false`, and an error if queries and
    /// gallery have different dimensions.
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
        trials.find_one_stranger(vectors, &searches, watch)?;
        let (mut repeats, mut merged) = (BTreeMap::new(), BTreeSet::new());
        if assured.counts_once() {
            if let Some(unnamed) = &trials.unnamed {
                merged = unnamed.count_once(&mut searches);
            }
            repeats = trials.shared.repeats(trials.crowded.as_ref());
        }
        let recording = Recording::new(searches)?.with_repeats(repeats);
        trials.recording = recording.with_merged_labels(merged);
        Ok(trials)
    }

    /// Wraps searches that another system made, whose pictures and vectors were not examined.
    pub(super) fn of_scores(recording: Recording, unnamed: Option<UnnamedStrangers>) -> Self {
        Self {
            recording,
            copies: Vec::new(),
            near_copies: Vec::new(),
            not_compared: 0,
            unnamed,
            crowded: None,
            shared: SharedPictures::default(),
            found_themselves: BTreeSet::new(),
        }
    }

    fn find_copies(&mut self, vectors: &LabelledVectors, found: &[Nearest]) {
        let (gallery, queries) = (&vectors.gallery, vectors.searching());
        let names = vectors.names.as_slice();
        let near = near_copy_from(queries.embeddings.dimension());
        for (row, nearest) in found.iter().enumerate() {
            let is_near = |one: &NearestRow| near <= one.score.get();
            if nearest.same_label.is_some_and(|one| is_near(&one)) {
                self.found_themselves.insert(row);
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
            let (label, first_label) = (queries.label(row, names), queries.label(first, names));
            // Pictures of one label can be linked through one of another.
            if label != first_label {
                self.near_copies.push(NearCopied {
                    query: id(row),
                    label: label.to_owned(),
                    first: id(first),
                    first_label: first_label.to_owned(),
                    similarity: copy.similarity.get(),
                });
            }
        }
        Ok(())
    }

    /// Finds labels that may be one stranger: those that share a picture, and those that are close.
    fn find_one_stranger(
        &mut self,
        vectors: &LabelledVectors,
        searches: &[RecordedSearch],
        watch: StageWatch<'_>,
    ) -> Result<(), AnalysisError> {
        let pairs = self.near_copies.iter();
        self.shared = SharedPictures::of(pairs.map(|copy| (&*copy.label, &*copy.first_label)));
        // Of nearly equal pictures only the first is used here, because the others would change the
        // distance at which strangers are close.
        let copies = self.near_copies.iter().map(|copy| copy.query.as_str());
        let copies: BTreeSet<&str> = copies.collect();
        let others = searches.iter();
        let others = others.filter(|search| !copies.contains(search.probe.as_str()));
        let rows = stranger_rows(vectors, others.clone());
        let items = vectors.gallery.ids.len();
        self.crowded = CrowdedStrangers::find(&rows, others, items, &|done, total| {
            watch(VectorStage::NearCopies, done, total)
        })?;
        Ok(())
    }

    /// The searches that count as trials. One row can give several, such as a mated and a left-out
    /// search.
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
                        let is_trial = !self.found_themselves.contains(&row);
                        (top, nearest.runner_up(), is_trial)
                    }
                    TrialKind::NeverEnrolled => (top, nearest.runner_up(), true),
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

    /// For each stranger its best candidates, best first, at most [`Self::DEPTH`]. The list is
    /// empty if that needs more than `CANDIDATE_SCORES_MAX` scores.
    #[must_use]
    pub fn candidate_lists(&self, vectors: &LabelledVectors) -> Vec<CandidateList> {
        let (gallery, queries) = (&vectors.gallery, vectors.searching());
        let enrolled = vectors.enrolled();
        let is_stranger = |row: usize| {
            let label = queries.labels.get(row);
            vectors.queries.is_none() || label.is_some_and(|label| !enrolled.contains(label))
        };
        let strangers: Vec<usize> = (0..queries.ids.len())
            .filter(|&row| is_stranger(row))
            .collect();
        if CANDIDATE_SCORES_MAX < strangers.len() as u64 * gallery.ids.len() as u64 {
            return Vec::new();
        }
        candidate_lists(&strangers, queries, gallery, &vectors.names, Self::DEPTH)
    }
}

/// The vectors of the strangers in `searches`, at most [`ROWS_MAX`].
fn stranger_rows<'a>(
    vectors: &'a LabelledVectors,
    searches: impl IntoIterator<Item = &'a RecordedSearch>,
) -> Vec<StrangerRow<'a>> {
    let (queries, names) = (vectors.searching(), vectors.names.as_slice());
    let strangers: BTreeSet<&str> = searches
        .into_iter()
        .filter(|search| search.truth == TrialKind::NeverEnrolled)
        .map(|search| search.probe.as_str())
        .collect();
    let rows = (0..queries.ids.len()).filter_map(|row| {
        let label = queries.label(row, names);
        let vector = queries.embeddings.row(row)?;
        let id = queries.ids.get(row)?;
        strangers
            .contains(id.as_str())
            .then_some(StrangerRow { label, vector })
    });
    rows.take(ROWS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::procedure::VectorRow;
    use crate::strangers::unnamed_label;

    #[test]
    fn the_recording_keeps_the_labels_that_count_as_another() {
        // Nothing is found that is enrolled, so that nothing separates strangers.
        let row = |label: &'static str, vector: &'static [f32]| VectorRow {
            id: label.to_owned(),
            label,
            conditions: BTreeMap::new(),
            vector,
        };
        let [first, second] = ["a", "b"].map(|last| {
            let id = format!("0199f0aa-7c1b-7e0e-8d63-00000000000{last}");
            &*String::leak(unnamed_label(&id))
        });
        let gallery = vec![row("apple", &[1.0, 0.0, 0.0])];
        let queries = vec![row(first, &[0.0, 1.0, 0.0]), row(second, &[0.0, 0.0, 1.0])];
        let vectors = LabelledVectors::normalise(gallery, queries).unwrap();
        let searched = |assured| VectorTrials::search(&vectors, assured, &|_, _, _| true).unwrap();
        let counted = searched(Assured::default()).recording;
        assert!(counted.searches().iter().all(|one| one.label == first));
        assert_eq!(
            *counted.merged_labels(),
            BTreeSet::from([second.to_owned()])
        );
        let distinct = searched(Assured {
            strangers_are_distinct: true,
            ..Assured::default()
        });
        assert!(distinct.recording.merged_labels().is_empty());
    }
}
