//! Finds the best candidates of many queries in a gallery, exactly as a search does, from plain arrays.
//!
//! A blocked matrix product proposes candidates, and the kernel of the service decides: it scores every row
//! again that could be the best, so the scores equal those of a search.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use rayon::prelude::*;

use super::embeddings::Embeddings;
use super::error::AnalysisError;
use super::pairwise::PairProgress;
use matchpoint_vector::Similarity;
use matchpoint_vector::kernels::multiply;

/// Number of queries and of gallery rows in one matrix product.
const QUERIES: usize = 512;
const ROWS: usize = 512;
/// Number of gallery rows in one task, so that a few queries keep all cores busy too.
const ROWS_BY_TASK: usize = 1 << 16;
/// Number of scores that are checked together.
const CHUNK: usize = 64;

/// A gallery row and its similarity to the query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NearestRow {
    /// The row of the gallery, numbered as the caller does.
    pub row: usize,
    /// The index of its label.
    pub label: u32,
    /// The similarity, as [`Similarity::between`] computes it.
    pub score: Similarity,
}

impl NearestRow {
    /// Whether it ranks before `other`: it is more similar, or equally similar and an earlier row.
    fn precedes(&self, other: &Self) -> bool {
        (other.score, self.row) < (self.score, other.row)
    }
}

/// The best candidates of one query.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Nearest {
    /// The best row with the label of the query; `None` if the label is not enrolled.
    pub same_label: Option<NearestRow>,
    /// The best row with another label, which a search finds if the query's own label is left out.
    pub other_label: Option<NearestRow>,
    /// The best row whose label differs from both the query's label and that of `other_label`.
    pub third_label: Option<NearestRow>,
}

impl Nearest {
    /// The best row of all, and whether it has the label of the query. Among equal scores, the lower row comes
    /// first. `None` if the gallery is empty.
    #[must_use]
    pub fn top(&self) -> Option<(NearestRow, bool)> {
        match (self.same_label, self.other_label) {
            (Some(same), Some(other)) if other.precedes(&same) => Some((other, false)),
            (Some(same), _) => Some((same, true)),
            (None, other) => other.map(|other| (other, false)),
        }
    }

    /// The best row whose label differs from that of [`Nearest::top`].
    #[must_use]
    pub fn runner_up(&self) -> Option<NearestRow> {
        match self.top() {
            Some((_, true)) => self.other_label,
            Some((_, false)) => match (self.same_label, self.third_label) {
                (Some(same), Some(third)) if third.precedes(&same) => Some(third),
                (same, third) => same.or(third),
            },
            None => None,
        }
    }

    fn improve(&mut self, by: Self) {
        improve(&mut self.same_label, by.same_label);
        for other in [by.other_label, by.third_label].into_iter().flatten() {
            self.improve_others(other);
        }
    }

    /// Considers a row whose label differs from the query's.
    fn improve_others(&mut self, new: NearestRow) {
        let Some(first) = self.other_label else {
            self.other_label = Some(new);
            return;
        };
        if !new.precedes(&first) {
            if new.label != first.label {
                improve(&mut self.third_label, Some(new));
            }
            return;
        }
        self.other_label = Some(new);
        if new.label != first.label {
            // It was the best of its label, and so it is the best of all labels except the new one's.
            self.third_label = Some(first);
        }
    }
}

fn improve(best: &mut Option<NearestRow>, by: Option<NearestRow>) {
    if let Some(new) = by
        && best.is_none_or(|best| new.precedes(&best))
    {
        *best = Some(new);
    }
}

/// Finds the best rows for every query, in the order of the queries. Both sets number their labels alike. If
/// they are the same set, no row finds itself. Uses about 1 MiB of memory for each core, besides the result.
///
/// # Errors
/// Returns an error if the dimensions differ, and [`AnalysisError::Stopped`] if `watch` returned `false`.
pub fn nearest(
    queries: &Embeddings,
    gallery: &Embeddings,
    watch: PairProgress<'_>,
) -> Result<Vec<Nearest>, AnalysisError> {
    if queries.dimension() != gallery.dimension() {
        return Err(AnalysisError::EmbeddingDimensions {
            queries: queries.dimension(),
            gallery: gallery.dimension(),
        });
    }
    let down = queries.len().div_ceil(QUERIES);
    let tasks = down * gallery.len().div_ceil(ROWS_BY_TASK);
    let best = Mutex::new(vec![Nearest::default(); queries.len()]);
    let done = AtomicU64::new(0);
    let total = queries.len() as u64 * gallery.len() as u64;
    (0..tasks)
        .into_par_iter()
        .try_for_each_init(Vec::new, |scores, task| {
            let task = Task {
                queries,
                gallery,
                asked: span(task % down, QUERIES, queries.len()),
                rows: span(task / down, ROWS_BY_TASK, gallery.len()),
            };
            let found = task.run(scores);
            let given = queries.given_rows().get(task.asked.clone());
            let mut best = best.lock().unwrap_or_else(PoisonError::into_inner);
            for (&row, found) in given.unwrap_or_default().iter().zip(found) {
                if let Some(best) = best.get_mut(row as usize) {
                    best.improve(found);
                }
            }
            drop(best);
            let pairs = task.asked.len() as u64 * task.rows.len() as u64;
            let done = done.fetch_add(pairs, Ordering::Relaxed) + pairs;
            if watch(done, total) {
                Ok(())
            } else {
                Err(AnalysisError::Stopped)
            }
        })?;
    Ok(best.into_inner().unwrap_or_else(PoisonError::into_inner))
}

fn span(index: usize, size: usize, len: usize) -> Range<usize> {
    index * size..((index + 1) * size).min(len)
}

/// A block of queries against a block of the gallery, given by positions.
struct Task<'a> {
    queries: &'a Embeddings,
    gallery: &'a Embeddings,
    asked: Range<usize>,
    rows: Range<usize>,
}

impl Task<'_> {
    fn run(&self, scores: &mut Vec<f32>) -> Vec<Nearest> {
        let mut found = vec![Nearest::default(); self.asked.len()];
        let asked = self.queries.block(&self.asked);
        let dimension = self.queries.dimension();
        for start in self.rows.clone().step_by(ROWS) {
            let columns = start..(start + ROWS).min(self.rows.end);
            scores.resize(self.asked.len() * columns.len(), 0.0);
            multiply(asked, self.gallery.block(&columns), dimension, scores);
            let by_query = scores.chunks_exact(columns.len());
            for ((position, best), scores) in self.asked.clone().zip(&mut found).zip(by_query) {
                self.look_through(position, &columns, scores, best);
            }
        }
        found
    }

    /// Uses that the gallery is in the order of the labels, so that the mates of a query are neighbours.
    fn look_through(
        &self,
        position: usize,
        columns: &Range<usize>,
        scores: &[f32],
        best: &mut Nearest,
    ) {
        let label = self.queries.labels().get(position).copied();
        let mates = self.gallery.run_of(label.unwrap_or_default());
        let from = mates.start.clamp(columns.start, columns.end);
        let to = mates.end.clamp(from, columns.end);
        let part = |span: Range<usize>| Proposed {
            scores: scores
                .get(span.start - columns.start..span.end - columns.start)
                .unwrap_or_default(),
            start: span.start,
        };
        self.rescore(position, &part(columns.start..from), best, false);
        self.rescore(position, &part(from..to), best, true);
        self.rescore(position, &part(to..columns.end), best, false);
    }

    fn rescore(&self, query: usize, proposed: &Proposed<'_>, best: &mut Nearest, mates: bool) {
        let margin = self.queries.product_margin();
        let floor = |best: &Nearest| {
            let last = if mates {
                best.same_label
            } else {
                best.third_label
            };
            last.map_or(f32::NEG_INFINITY, |last| last.score.get() - margin)
        };
        let mut at = floor(best);
        // If the set is searched for itself, a row is not its own neighbour.
        let own = std::ptr::eq(self.queries, self.gallery).then_some(query);
        for (chunk, scores) in proposed.scores.chunks(CHUNK).enumerate() {
            // Most chunks contain no candidate. A test without branches passes over them fast.
            if !scores.iter().fold(false, |any, &score| any | (at <= score)) {
                continue;
            }
            for (place, &score) in scores.iter().enumerate() {
                let column = proposed.start + chunk * CHUNK + place;
                if at <= score && own != Some(column) {
                    let found = self.exact(query, column);
                    if mates {
                        improve(&mut best.same_label, found);
                    } else if let Some(found) = found {
                        best.improve_others(found);
                    }
                    at = floor(best);
                }
            }
        }
    }

    /// The candidate at a column, with the exact score.
    fn exact(&self, query: usize, column: usize) -> Option<NearestRow> {
        let a = self.queries.block(&(query..query + 1));
        let b = self.gallery.block(&(column..column + 1));
        Some(NearestRow {
            row: *self.gallery.given_rows().get(column)? as usize,
            label: *self.gallery.labels().get(column)?,
            score: Similarity::between(a, b)?,
        })
    }
}

/// Consecutive scores of one query from the matrix product.
struct Proposed<'a> {
    scores: &'a [f32],
    /// The position of the first column.
    start: usize,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GO: PairProgress<'_> = &|_, _| true;

    #[test]
    fn in_a_set_that_searches_itself_no_row_finds_itself() {
        let vectors = vec![1.0, 0.0, 0.9, 0.1, 0.0, 1.0, 1.0, 0.0];
        let set = Embeddings::normalise(2, vectors, vec![1, 1, 0, 2]).unwrap();
        let found = nearest(&set, &set, GO).unwrap();
        let rows = |of: fn(&Nearest) -> Option<NearestRow>| -> Vec<Option<usize>> {
            found
                .iter()
                .map(|found| of(found).map(|one| one.row))
                .collect()
        };
        assert_eq!(
            rows(|found| found.same_label),
            [Some(1), Some(0), None, None]
        );
        assert_eq!(
            rows(|found| found.other_label),
            [Some(3), Some(3), Some(1), Some(0)]
        );
    }

    fn naive(vectors: &[f32], labels: &[u32], query: &[f32], label: u32) -> Nearest {
        let mut best = Nearest::default();
        for (row, (vector, &other)) in vectors.chunks(query.len()).zip(labels).enumerate() {
            let score = Similarity::between(query, vector).unwrap();
            let slot = if other == label {
                &mut best.same_label
            } else {
                &mut best.other_label
            };
            if slot.is_none_or(|best| best.score < score) {
                *slot = Some(NearestRow {
                    row,
                    label: other,
                    score,
                });
            }
        }
        if let Some(first) = best.other_label {
            let rest = |other: u32| other != label && other != first.label;
            let rows = vectors.chunks(query.len()).zip(labels).enumerate();
            for (row, (vector, &label)) in rows.filter(|(_, (_, label))| rest(**label)) {
                let score = Similarity::between(query, vector).unwrap();
                if best.third_label.is_none_or(|best| best.score < score) {
                    best.third_label = Some(NearestRow { row, label, score });
                }
            }
        }
        best
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(12))]
        #[test]
        fn the_best_rows_are_those_of_an_exhaustive_search(
            seed in any::<u32>(), rows in 0_usize..1_200, asked in 1_usize..40, kinds in 1_u32..90
        ) {
            let mut state = seed;
            let mut next = || {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                state >> 8
            };
            // Vectors are drawn from only `kinds` different ones, so there are many ties.
            #[expect(clippy::cast_precision_loss, reason = "small")]
            let pool: Vec<Vec<f32>> = (0..kinds)
                .map(|_| (0..37).map(|_| (next() % 1_000) as f32 / 500.0 - 0.9).collect())
                .map(|raw: Vec<f32>| matchpoint_vector::Embedding::normalise(raw).unwrap())
                .map(|unit| unit.as_slice().to_vec())
                .collect();
            let mut draw = |count: usize| -> (Vec<f32>, Vec<u32>) {
                let drawn = (0..count).map(|_| (next() % kinds) as usize).collect::<Vec<_>>();
                let labels = (0..count).map(|_| next() % 20).collect();
                (drawn.iter().flat_map(|&kind| pool[kind].clone()).collect(), labels)
            };
            let ((vectors, labels), (wanted, own)) = (draw(rows), draw(asked));
            let gallery = Embeddings::from_unit(37, vectors.clone(), labels.clone()).unwrap();
            let queries = Embeddings::from_unit(37, wanted.clone(), own.clone()).unwrap();
            let found = nearest(&queries, &gallery, GO).unwrap();
            prop_assert_eq!(found.len(), asked);
            for ((query, &label), found) in wanted.chunks(37).zip(&own).zip(found) {
                let expected = naive(&vectors, &labels, query, label);
                prop_assert_eq!(found, expected);
                let top = found.top();
                let one = naive(&vectors, &vec![label; rows], query, label).same_label;
                prop_assert_eq!(top.map(|top| top.0.row), one.map(|one| one.row));
                // The best row of another label than the top one, by comparing with all rows.
                let second = top.and_then(|(top, _)| naive(&vectors, &labels, query, top.label).other_label);
                prop_assert_eq!(found.runner_up(), second);
            }
        }
    }

    #[test]
    fn a_search_stops_where_it_is_told_to_and_refuses_another_dimension() {
        let gallery = Embeddings::normalise(2, vec![1.0, 0.0, 0.0, 1.0], vec![0, 1]).unwrap();
        let queries = Embeddings::normalise(1, vec![1.0], vec![0]).unwrap();
        assert!(nearest(&queries, &gallery, GO).is_err());
        let error = nearest(&gallery, &gallery, &|_, _| false).unwrap_err();
        assert!(matches!(error, AnalysisError::Stopped));
    }
}
