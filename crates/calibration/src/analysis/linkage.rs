//! Groups of rows in which every two are alike: complete linkage, cut at a threshold.
//!
//! A chain makes no group: where a is like b, and b like c, but a is not like c, one of the three stays outside.

use std::collections::BTreeMap;

use serde::Serialize;

use super::embeddings::Embeddings;
use super::error::AnalysisError;
use super::pairwise::{PairProgress, Scan};
use crate::decision::Threshold;
use matchpoint_vector::Similarity;

/// Two rows, and how alike they are.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct LinkedPair {
    /// The lower row.
    pub row: usize,
    /// The other one.
    pub other: usize,
    /// Their similarity.
    pub similarity: f32,
}

/// Rows of which every two are at or above the threshold.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LinkedGroup {
    /// The rows, ascending; two at the least.
    pub rows: Vec<usize>,
    /// The two that are most alike.
    pub tightest: LinkedPair,
    /// The two that are least alike.
    pub loosest: LinkedPair,
}

/// The pairs of rows, whatever their labels, whose similarity is at or above `threshold`; the most alike first, equal
/// ones by row.
///
/// # Errors
/// [`AnalysisError::Stopped`] if `watch` said so.
pub fn alike_pairs(
    dimension: usize,
    vectors: Vec<f32>,
    threshold: Threshold,
    watch: PairProgress<'_>,
) -> Result<Vec<LinkedPair>, AnalysisError> {
    // Each row is a label of its own, so that all pairs are of two.
    let rows = u32::try_from(vectors.len() / dimension.max(1)).unwrap_or(u32::MAX);
    let rows = Embeddings::from_unit(dimension, vectors, (0..rows).collect())?;
    // Products of blocks are not exact to the last bit: what they leave open, the kernel decides.
    let nearly = Threshold::new(threshold.get() - rows.product_margin())?;
    let found = Scan::all_pairs(&rows).accepted_non_mated(nearly, usize::MAX, watch)?;
    let exact = found.into_iter().filter_map(|pair| {
        let similarity = Similarity::between(rows.row(pair.row_a)?, rows.row(pair.row_b)?)?;
        (threshold.get() <= similarity.get()).then_some(LinkedPair {
            row: pair.row_a,
            other: pair.row_b,
            similarity: similarity.get(),
        })
    });
    let mut pairs: Vec<LinkedPair> = exact.collect();
    pairs.sort_unstable_by(|a, b| {
        let by_rows = (a.row, a.other).cmp(&(b.row, b.other));
        b.similarity.total_cmp(&a.similarity).then(by_rows)
    });
    Ok(pairs)
}

/// The groups of `count` rows that complete linkage makes of `pairs`, which are in the order of [`alike_pairs`]: the two
/// groups are joined next whose least alike rows are most alike, as long as those are among the pairs. The largest
/// group first, equal ones by their first row; rows that are alone make none.
#[must_use]
#[expect(
    clippy::indexing_slicing,
    reason = "groups are numbered by their rows, all of which are below the count"
)]
pub fn complete_linkage(count: usize, pairs: &[LinkedPair]) -> Vec<LinkedGroup> {
    let mut group_of: Vec<usize> = (0..count).collect();
    let mut members: Vec<Vec<usize>> = (0..count).map(|row| vec![row]).collect();
    // Of each group, how many pairs with each other one were seen.
    let mut seen: Vec<BTreeMap<usize, usize>> = vec![BTreeMap::new(); count];
    for pair in pairs
        .iter()
        .filter(|pair| pair.row < count && pair.other < count)
    {
        let (a, b) = (group_of[pair.row], group_of[pair.other]);
        let linked = seen[a].entry(b).or_default();
        *linked += 1;
        let complete = *linked == members[a].len() * members[b].len();
        *seen[b].entry(a).or_default() += 1;
        if !complete {
            continue;
        }
        let (kept, gone) = if members[a].len() < members[b].len() {
            (b, a)
        } else {
            (a, b)
        };
        let moved = std::mem::take(&mut members[gone]);
        for row in &moved {
            group_of[*row] = kept;
        }
        members[kept].extend(moved);
        seen[kept].remove(&gone);
        for (third, linked) in std::mem::take(&mut seen[gone]) {
            seen[third].remove(&gone);
            if third != kept {
                *seen[kept].entry(third).or_default() += linked;
                *seen[third].entry(kept).or_default() += linked;
            }
        }
    }
    let mut groups: BTreeMap<usize, LinkedGroup> = BTreeMap::new();
    for pair in pairs
        .iter()
        .filter(|pair| pair.row < count && pair.other < count)
    {
        let own = group_of[pair.row];
        if own == group_of[pair.other] {
            let group = groups.entry(own).or_insert_with(|| LinkedGroup {
                rows: std::mem::take(&mut members[own]),
                tightest: *pair,
                loosest: *pair,
            });
            group.loosest = *pair;
        }
    }
    let mut groups: Vec<LinkedGroup> = groups.into_values().collect();
    for group in &mut groups {
        group.rows.sort_unstable();
    }
    groups.sort_by(|a, b| {
        let by_size = b.rows.len().cmp(&a.rows.len());
        by_size.then_with(|| a.rows.cmp(&b.rows))
    });
    groups
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::rng::SeededRng;

    const GO: PairProgress<'_> = &|_, _| true;

    /// Unit vectors at these angles.
    fn at_degrees(degrees: &[f32]) -> Vec<f32> {
        let unit = |angle: &f32| {
            let raw = vec![angle.to_radians().cos(), angle.to_radians().sin()];
            matchpoint_vector::Embedding::normalise(raw).unwrap()
        };
        degrees
            .iter()
            .flat_map(|angle| unit(angle).as_slice().to_vec())
            .collect()
    }

    fn groups_at(degrees: &[f32], within: f32) -> Vec<LinkedGroup> {
        let threshold = Threshold::new(within.to_radians().cos()).unwrap();
        let pairs = alike_pairs(2, at_degrees(degrees), threshold, GO).unwrap();
        complete_linkage(degrees.len(), &pairs)
    }

    #[test]
    fn a_chain_is_no_group() {
        // Each step is within ten degrees, and the two ends are fifty apart: single linkage would make one group.
        let chain = groups_at(&[0.0, 7.0, 15.0, 22.5, 31.0, 39.0, 50.0], 10.0);
        assert!(chain.iter().all(|group| group.rows.len() == 2), "{chain:?}");
        let apart = groups_at(&[0.0, 40.0, 1.0, 41.0, 2.0, 42.0, 80.0], 10.0);
        let rows: Vec<&[usize]> = apart.iter().map(|group| group.rows.as_slice()).collect();
        assert_eq!(rows, [[0, 2, 4], [1, 3, 5]]);
        assert_eq!((apart[0].loosest.row, apart[0].loosest.other), (0, 4));
    }

    /// Complete linkage as its definition has it, for few rows.
    fn by_definition(count: usize, pairs: &[LinkedPair]) -> Vec<Vec<usize>> {
        let score = |a: usize, b: usize| {
            let pair = pairs
                .iter()
                .find(|pair| (pair.row, pair.other) == (a.min(b), a.max(b)));
            pair.map(|pair| pair.similarity)
        };
        let mut groups: Vec<Vec<usize>> = (0..count).map(|row| vec![row]).collect();
        loop {
            let mut best: Option<(f32, usize, usize)> = None;
            for a in 0..groups.len() {
                for b in a + 1..groups.len() {
                    let across = groups[a]
                        .iter()
                        .flat_map(|&row| groups[b].iter().map(move |&other| score(row, other)));
                    let least = across.collect::<Option<Vec<f32>>>();
                    let least = least.and_then(|all| all.into_iter().min_by(f32::total_cmp));
                    if let Some(least) = least
                        && best.is_none_or(|(known, _, _)| known < least)
                    {
                        best = Some((least, a, b));
                    }
                }
            }
            let Some((_, a, b)) = best else { break };
            let moved = groups.remove(b);
            groups[a].extend(moved);
        }
        groups.retain(|group| 1 < group.len());
        groups.iter_mut().for_each(|group| group.sort_unstable());
        groups.sort_by(|a, b| b.len().cmp(&a.len()).then_with(|| a.cmp(b)));
        groups
    }

    #[test]
    fn it_is_complete_linkage_and_every_pair_of_a_group_is_alike() {
        for seed in 0..60 {
            let mut draws = SeededRng::new(seed, 0);
            let count = 5 + draws.below(25);
            let degrees: Vec<f32> = (0..count)
                .map(|_| f32::from(u16::try_from(draws.below(36_000)).unwrap()) / 100.0)
                .collect();
            let within = 10.0 + f32::from(u8::try_from(draws.below(80)).unwrap());
            let threshold = Threshold::new(within.to_radians().cos()).unwrap();
            let pairs = alike_pairs(2, at_degrees(&degrees), threshold, GO).unwrap();
            let groups = complete_linkage(count, &pairs);
            let rows: Vec<Vec<usize>> = groups.iter().map(|group| group.rows.clone()).collect();
            assert_eq!(rows, by_definition(count, &pairs), "seed {seed}");
            for group in &groups {
                let inner = pairs.iter().filter(|pair| {
                    group.rows.contains(&pair.row) && group.rows.contains(&pair.other)
                });
                let size = group.rows.len();
                assert_eq!(inner.count(), size * (size - 1) / 2, "seed {seed}");
                assert!(threshold.get() <= group.loosest.similarity);
                assert!(group.loosest.similarity <= group.tightest.similarity);
            }
        }
        assert!(complete_linkage(3, &[]).is_empty());
    }
}
