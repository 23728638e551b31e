//! Queries that were rejected and belong together: what may be a new label.
//!
//! How alike two pictures of one thing are is read off labelled pictures: where pairs of two labels reach a pairwise FAR.
//! Queries of which every two are as alike as that make a group. What such groups are worth is measured in the same way,
//! on labels that had no part in the threshold. Nothing is enrolled by it.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::copies::near_copy_from;
use super::embeddings::Embeddings;
use super::error::AnalysisError;
use super::linkage::{LinkedGroup, alike_pairs, complete_linkage};
use super::pairwise::{PairProgress, Scan, choose_two};
use super::rng::SeededRng;
use crate::binomial::real;
use crate::decision::Threshold;
use crate::rates::{Confidence, Rate};
use matchpoint_vector::Similarity;

/// Queries that are grouped, at most: a group of all of them has 12 million pairs.
pub const QUERIES_MAX: usize = 5_000;
/// Labelled pictures that set the threshold, at most.
const KNOWN_MAX: usize = 20_000;
/// Labelled pictures that are used at all, at most: for the threshold, and for the other half of the labels.
const USED_MAX: usize = 2 * KNOWN_MAX;
/// Pictures of one label that are used, at most: those of one label are grouped at once, whatever their number.
const OF_LABEL_MAX: usize = 1_000;
/// Pairs of two labels that the FAR lets through at the least: a threshold that rests on fewer is a matter of chance.
const ACCEPTED_MIN: f64 = 10.0;
/// Labelled pictures that are grouped at once, at the least: few are few strangers to be mixed up with.
const GROUPED_MIN: usize = 200;
/// Labels with enough pictures for a group, below which nothing is measured.
const LABELS_MIN: usize = 10;

/// Unit vectors, one after the other, with the number of the label of each.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct KnownRows {
    /// Components of each vector.
    pub dimension: usize,
    /// All vectors.
    pub vectors: Vec<f32>,
    /// The label of each.
    pub labels: Vec<u32>,
}

/// How groups are made.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GroupingPlan {
    /// The pairwise FAR: of so many pairs of two things one is as alike as a group asks for.
    pub far: f64,
    /// Different pictures of a group, at the least.
    pub smallest: usize,
    /// The seed of the halves that the error is measured with.
    pub seed: u64,
}

/// The similarity from which two pictures count as one thing.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct PairThreshold {
    /// The pairwise FAR that was asked for.
    pub far: f64,
    /// Where it is kept.
    pub threshold: Threshold,
    /// The pairs of two labels that it was read off.
    pub pairs: u64,
    /// The labels of those.
    pub labels: u64,
}

/// A group, and how many pictures it is.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ProposedGroup {
    /// The rows, and how near they are.
    #[serde(flatten)]
    pub linked: LinkedGroup,
    /// Rows that are nearly one picture count once.
    pub pictures: usize,
}

/// What groups are worth, where labels are known.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct GroupingError {
    /// Pictures that were grouped.
    pub rows: u64,
    /// The most of them at once.
    pub rows_at_once: u64,
    /// Their labels.
    pub labels: u64,
    /// Groups among them.
    pub groups: u64,
    /// Groups of one label.
    pub of_one_label: u64,
    /// Pairs within groups that are of one label; the interval is over groups.
    pub precision: Option<Rate>,
    /// Pairs of one label that are within one group; the interval is over labels.
    pub recall: Option<Rate>,
}

impl KnownRows {
    /// The number of rows.
    #[must_use]
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    fn chosen(&self, rows: &[usize]) -> Self {
        let vector = |row: &usize| {
            let start = row * self.dimension;
            self.vectors.get(start..start + self.dimension)
        };
        Self {
            dimension: self.dimension,
            vectors: rows.iter().filter_map(vector).flatten().copied().collect(),
            labels: rows
                .iter()
                .filter_map(|row| self.labels.get(*row))
                .copied()
                .collect(),
        }
    }

    /// The number of labels with at least this many rows.
    fn labels_of_at_least(&self, rows: usize) -> usize {
        let mut of_label: BTreeMap<u32, usize> = BTreeMap::new();
        for label in &self.labels {
            *of_label.entry(*label).or_default() += 1;
        }
        of_label
            .into_values()
            .filter(|count| rows <= *count)
            .count()
    }

    /// Which of many rows with these labels are used, in ascending order: labels in a random order, so that nobody has to
    /// copy the vectors of the others.
    #[must_use]
    pub fn used(labels: &[u32], seed: u64) -> Vec<usize> {
        let mut rows: Vec<usize> = shuffled(labels, seed).into_iter().flatten().collect();
        rows.sort_unstable();
        rows
    }
}

/// Rows by label, labels in a random order, as many as are used.
fn shuffled(labels: &[u32], seed: u64) -> Vec<Vec<usize>> {
    let mut of_label: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
    for (row, label) in labels.iter().enumerate() {
        let rows = of_label.entry(*label).or_default();
        if rows.len() < OF_LABEL_MAX {
            rows.push(row);
        }
    }
    let all = of_label.into_values().collect();
    let mut used = 0;
    let mut few = in_random_order(labels, all, seed);
    few.retain(|rows| {
        used += rows.len();
        used <= USED_MAX
    });
    few
}

/// Some labels in a random order that does not depend on the order in which they are given.
fn in_random_order(labels: &[u32], mut some: Vec<Vec<usize>>, seed: u64) -> Vec<Vec<usize>> {
    some.sort_unstable_by_key(|rows| rows.first().and_then(|row| labels.get(*row)));
    SeededRng::new(seed, 11).shuffle(&mut some);
    some
}

/// Labels in batches of `rows` rows or a little more; what is left over is less than half of one, and left out unless it is all.
fn batches(labels: &[Vec<usize>], rows: usize) -> Vec<Vec<usize>> {
    let (mut batches, mut batch) = (Vec::new(), Vec::new());
    for label in labels {
        batch.extend(label);
        if rows <= batch.len() {
            batches.push(std::mem::take(&mut batch));
        }
    }
    if batches.is_empty() || rows <= 2 * batch.len() {
        batches.push(batch);
    }
    for batch in &mut batches {
        batch.sort_unstable();
    }
    batches
}

/// Labels one after the other until there are `rows` rows.
fn up_to(labels: &[Vec<usize>], rows: usize) -> Vec<usize> {
    let mut taken = Vec::new();
    for label in labels {
        if rows <= taken.len() {
            break;
        }
        taken.extend(label);
    }
    taken.sort_unstable();
    taken
}

impl GroupingPlan {
    /// The threshold that keeps the FAR on pairs of two labels of `known`.
    ///
    /// # Errors
    /// [`AnalysisError::FewPairs`]; [`AnalysisError::Stopped`] if `watch` said so.
    pub fn threshold(
        &self,
        known: &KnownRows,
        watch: PairProgress<'_>,
    ) -> Result<PairThreshold, AnalysisError> {
        self.threshold_of(known, &shuffled(&known.labels, self.seed), watch)
    }

    /// The same for the first of these labels of `known`, which are in a random order.
    fn threshold_of(
        &self,
        known: &KnownRows,
        labels: &[Vec<usize>],
        watch: PairProgress<'_>,
    ) -> Result<PairThreshold, AnalysisError> {
        // Whole labels: part of them is a sample like the rest.
        let part = known.chosen(&up_to(labels, KNOWN_MAX));
        let labels: BTreeSet<u32> = part.labels.iter().copied().collect();
        let embeddings = Embeddings::from_unit(known.dimension.max(1), part.vectors, part.labels)?;
        let curve = Scan::all_pairs(&embeddings).curve(watch)?;
        let pairs = curve.non_mated_pairs();
        let few = AnalysisError::FewPairs {
            pairs,
            labels: labels.len() as u64,
            far: self.far,
            at_least: ACCEPTED_MIN,
        };
        if real(pairs) * self.far < ACCEPTED_MIN {
            return Err(few);
        }
        let threshold = curve.threshold_at_far(self.far).ok_or(few)?;
        Ok(PairThreshold {
            far: self.far,
            threshold,
            pairs,
            labels: labels.len() as u64,
        })
    }

    /// The groups of vectors that may each be one thing; those of most pictures first.
    ///
    /// # Errors
    /// A vector that is not of unit length; [`AnalysisError::Stopped`] if `watch` said so.
    pub fn groups(
        &self,
        dimension: usize,
        vectors: &[f32],
        threshold: Threshold,
        watch: PairProgress<'_>,
    ) -> Result<Vec<ProposedGroup>, AnalysisError> {
        let count = vectors.len() / dimension.max(1);
        let pairs = alike_pairs(dimension, vectors.to_vec(), threshold, watch)?;
        let row = |row: usize| vectors.get(row * dimension..(row + 1) * dimension);
        let near = near_copy_from(dimension);
        let groups = complete_linkage(count, &pairs).into_iter().map(|linked| {
            let mut different: Vec<&[f32]> = Vec::new();
            for vector in linked.rows.iter().filter_map(|of| row(*of)) {
                let is_copy = |known: &&[f32]| {
                    let similarity = Similarity::between(known, vector);
                    similarity.is_some_and(|similarity| near <= similarity.get())
                };
                if !different.iter().any(is_copy) {
                    different.push(vector);
                }
            }
            let pictures = different.len();
            ProposedGroup { linked, pictures }
        });
        let mut groups: Vec<ProposedGroup> = groups
            .filter(|group| self.smallest <= group.pictures)
            .collect();
        // Stable: equal ones stay in the order of their rows.
        groups.sort_by_key(|group| std::cmp::Reverse((group.pictures, group.linked.rows.len())));
        Ok(groups)
    }

    /// Makes groups of the labelled rows, as if nobody knew their labels: one half of the labels by the threshold of the
    /// other half, about as many rows at once as there are `queries`, since the chance of a wrong pair grows with them. `None` if too few
    /// labels have enough pictures for a group, or a half has too few pairs.
    ///
    /// # Errors
    /// [`AnalysisError::Stopped`] if `watch` said so.
    pub fn measure(
        &self,
        known: &KnownRows,
        queries: usize,
        watch: PairProgress<'_>,
    ) -> Result<Option<GroupingError>, AnalysisError> {
        let labels = shuffled(&known.labels, self.seed);
        let halves = labels.split_at(labels.len() / 2);
        let (mut counts, mut able) = (GroupCounting::default(), 0);
        for (grouped, other) in [(halves.0, halves.1), (halves.1, halves.0)] {
            let others = in_random_order(&known.labels, other.to_vec(), self.seed);
            let threshold = match self.threshold_of(known, &others, watch) {
                Ok(set) => set.threshold,
                Err(AnalysisError::FewPairs { .. }) => return Ok(None),
                Err(error) => return Err(error),
            };
            for batch in batches(grouped, queries.clamp(GROUPED_MIN, QUERIES_MAX)) {
                let rows = known.chosen(&batch);
                let groups = self.groups(rows.dimension, &rows.vectors, threshold, watch)?;
                let truth: Vec<Option<u32>> = rows.labels.iter().copied().map(Some).collect();
                able += rows.labels_of_at_least(self.smallest);
                counts.add(&groups, &truth);
            }
        }
        Ok((LABELS_MIN <= able).then(|| counts.error()))
    }
}

impl GroupingError {
    /// What groups are worth of rows whose labels are known; rows without one count in nothing. `None` if none is known.
    #[must_use]
    pub fn of(groups: &[ProposedGroup], truth: &[Option<u32>]) -> Option<Self> {
        let mut counts = GroupCounting::default();
        counts.add(groups, truth);
        (0 < counts.rows).then(|| counts.error())
    }
}

/// Counts of groups whose labels are known.
#[derive(Default)]
struct GroupCounting {
    rows: u64,
    rows_at_once: u64,
    /// Of each group: pairs of one label, and pairs.
    groups: Vec<(u64, u64)>,
    /// Of each label: pairs within a group, and pairs.
    labels: Vec<(u64, u64)>,
}

impl GroupCounting {
    fn add(&mut self, groups: &[ProposedGroup], truth: &[Option<u32>]) {
        let mut of_label: BTreeMap<u32, (u64, u64)> = BTreeMap::new();
        for label in truth.iter().flatten() {
            of_label.entry(*label).or_default().1 += 1;
        }
        let rows = of_label.values().map(|counts| counts.1).sum();
        self.rows += rows;
        self.rows_at_once = self.rows_at_once.max(rows);
        for counts in of_label.values_mut() {
            counts.1 = choose_two(counts.1);
        }
        for group in groups {
            let mut within: BTreeMap<u32, u64> = BTreeMap::new();
            let labels = group.linked.rows.iter().filter_map(|row| *truth.get(*row)?);
            for label in labels {
                *within.entry(label).or_default() += 1;
            }
            let pairs = choose_two(within.values().sum());
            let mut right = 0;
            for (label, rows) in within {
                let own = choose_two(rows);
                right += own;
                of_label.entry(label).or_default().0 += own;
            }
            if 0 < pairs {
                self.groups.push((right, pairs));
            }
        }
        self.labels.extend(of_label.into_values());
    }

    fn error(self) -> GroupingError {
        let with_pairs = self.labels.iter().copied().filter(|counts| 0 < counts.1);
        let groups = self.groups.iter().copied();
        GroupingError {
            rows: self.rows,
            rows_at_once: self.rows_at_once,
            labels: self.labels.len() as u64,
            groups: self.groups.len() as u64,
            of_one_label: groups.clone().filter(|(right, all)| right == all).count() as u64,
            precision: Rate::of_counts(groups, Confidence::DISPLAY),
            recall: Rate::of_counts(with_pairs, Confidence::DISPLAY),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GO: PairProgress<'_> = &|_, _| true;
    const DIMENSION: usize = 24;

    /// `pictures` rows of each of these labels: a direction of each label's own, and noise.
    fn rows(labels: std::ops::Range<u32>, pictures: usize, noise: f32, seed: u64) -> KnownRows {
        let mut known = KnownRows {
            dimension: DIMENSION,
            ..KnownRows::default()
        };
        let mut noises = SeededRng::new(seed, 1);
        for label in labels {
            let mut own = SeededRng::new(u64::from(label), 2);
            let normal = |draws: &mut SeededRng| -> f32 {
                let uniform =
                    |draws: &mut SeededRng| f32::from(u16::try_from(draws.bits() >> 48).unwrap());
                (0..12).map(|_| uniform(draws) / 65_536.0).sum::<f32>() - 6.0
            };
            let direction: Vec<f32> = (0..DIMENSION).map(|_| normal(&mut own)).collect();
            for _ in 0..pictures {
                let raw = direction
                    .iter()
                    .map(|own| own + noise * normal(&mut noises));
                let unit = matchpoint_vector::Embedding::normalise(raw.collect()).unwrap();
                known.vectors.extend(unit.as_slice());
                known.labels.push(label);
            }
        }
        known
    }

    fn plan(far: f64) -> GroupingPlan {
        GroupingPlan {
            far,
            smallest: 3,
            seed: 0,
        }
    }

    #[test]
    fn of_many_known_rows_whole_labels_are_used_and_of_a_large_one_a_part() {
        let many: Vec<u32> = (0..60_000).map(|row| row / 3).collect();
        let used = KnownRows::used(&many, 0);
        assert!((USED_MAX - 2..=USED_MAX).contains(&used.len()));
        assert!(used.is_sorted());
        let threes = used.chunks_exact(3);
        assert!(threes.clone().all(|rows| many[rows[0]] == many[rows[2]]));
        // Not only the first ones.
        assert!(50_000 < *used.last().unwrap());
        assert_ne!(used, KnownRows::used(&many, 1));
        let few = [0, 1, 0, 2];
        assert_eq!(KnownRows::used(&few, 0), [0, 1, 2, 3]);
        let one_is_large: Vec<u32> = (0..5_000).map(|row| u32::from(row < 100)).collect();
        let labels = shuffled(&one_is_large, 0);
        assert_eq!(labels.iter().map(Vec::len).max(), Some(OF_LABEL_MAX));
        assert_eq!(KnownRows::used(&one_is_large, 0).len(), 100 + OF_LABEL_MAX);
    }

    #[test]
    fn new_labels_are_found_among_many_singles_and_the_rest_is_left() {
        let known = rows(0..80, 4, 0.4, 1);
        let threshold = plan(1e-3).threshold(&known, GO).unwrap();
        assert_eq!((threshold.labels, threshold.pairs), (80, 50_560));
        let mut queries = rows(1_000..1_003, 6, 0.4, 2);
        let singles = rows(2_000..2_200, 1, 0.4, 3);
        queries.vectors.extend(singles.vectors);
        queries.labels.extend(singles.labels);
        let groups = plan(1e-3)
            .groups(DIMENSION, &queries.vectors, threshold.threshold, GO)
            .unwrap();
        let truth: Vec<Option<u32>> = queries.labels.iter().copied().map(Some).collect();
        let error = GroupingError::of(&groups, &truth).unwrap();
        assert_eq!((error.groups, error.of_one_label), (3, 3), "{groups:?}");
        assert!(0.8 <= error.recall.unwrap().estimate);
        let again = plan(1e-3)
            .groups(DIMENSION, &queries.vectors, threshold.threshold, GO)
            .unwrap();
        assert_eq!(groups, again);
    }

    #[test]
    fn one_picture_sent_again_and_again_is_one_picture() {
        let mut queries = rows(0..1, 1, 0.4, 1);
        let once = queries.vectors.clone();
        for _ in 0..9 {
            queries.vectors.extend(&once);
        }
        let threshold = Threshold::new(0.8).unwrap();
        let groups = |smallest| {
            let plan = GroupingPlan {
                smallest,
                ..plan(1e-3)
            };
            plan.groups(DIMENSION, &queries.vectors, threshold, GO)
                .unwrap()
        };
        assert!(groups(2).is_empty());
        let all = groups(1);
        assert_eq!((all[0].pictures, all[0].linked.rows.len()), (1, 10));
    }

    /// What is measured on the known labels is what happens on new ones: over seeds, the precision on new labels is within
    /// the interval that the known ones gave, or above, but for few.
    #[test]
    fn the_measured_precision_is_that_of_new_labels() {
        let (mut outside, mut measured) = (0, 0);
        for seed in 0..20 {
            // So noisy that groups mix labels.
            let first = u32::try_from(seed).unwrap() * 1_000;
            let known = rows(first..first + 120, 4, 0.75, seed);
            let plan = GroupingPlan { seed, ..plan(1e-2) };
            let error = plan.measure(&known, 240, GO).unwrap().unwrap();
            let set = plan.threshold(&known, GO).unwrap();
            let new = rows(first + 500..first + 560, 4, 0.75, seed + 500);
            let groups = plan
                .groups(DIMENSION, &new.vectors, set.threshold, GO)
                .unwrap();
            let truth: Vec<Option<u32>> = new.labels.iter().copied().map(Some).collect();
            let found = GroupingError::of(&groups, &truth).unwrap();
            let (promised, real) = (error.precision.unwrap(), found.precision.unwrap());
            // Both are estimates: the new one's own interval counts too.
            measured += 1;
            outside += usize::from(real.interval.upper < promised.interval.lower);
        }
        assert_eq!(measured, 20);
        assert!(outside <= 2, "{outside} of 20");
    }

    #[test]
    fn batches_are_of_whole_labels_and_lose_less_than_half_of_one() {
        let labels: Vec<Vec<usize>> = (0..10)
            .map(|label| vec![label * 2, label * 2 + 1])
            .collect();
        let sizes = |rows| -> Vec<usize> { batches(&labels, rows).iter().map(Vec::len).collect() };
        assert_eq!(sizes(7), [8, 8, 4]);
        assert_eq!(sizes(9), [10, 10]);
        assert_eq!(sizes(16), [16]);
        assert_eq!(sizes(500), [20]);
    }

    #[test]
    fn too_few_labels_are_said_to_be_too_few() {
        let known = rows(0..6, 4, 0.4, 1);
        let refused = plan(1e-3).threshold(&known, GO).unwrap_err().to_string();
        assert!(
            refused.contains("240 pairs") && refused.contains("10000"),
            "{refused}"
        );
        assert!(plan(1e-1).measure(&known, 24, GO).unwrap().is_none());
        assert!(GroupingError::of(&[], &[None, None]).is_none());
    }
}
