//! Pairs of images in which no label occurs twice. They are independent trials, as a certificate needs.

use std::collections::BTreeMap;

use super::rng::SeededRng;
use matchpoint_vector::Similarity;

/// Two rows with different labels, either of one set or a query and a gallery item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RowPair {
    /// Row of the first image; a query if there are queries.
    pub a: usize,
    /// Row of the second image; a gallery item if there is a gallery.
    pub b: usize,
}

/// Pairs of rows in which each label occurs at most once. They are drawn at random from a seed, without regard
/// to any score.
///
/// Each pair is an independent sample of two labels and one image of each. A rate over such pairs weighs all
/// labels equally, whereas a rate over all pairs weighs a label by its number of images.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DisjointPairs(Vec<RowPair>);

impl DisjointPairs {
    /// A random perfect matching of the labels of one set, given the label of every row. If the number of
    /// labels is odd, one is left over.
    #[must_use]
    pub fn of_one_set(labels: &[u32], seed: u64) -> Self {
        let mut draws = SeededRng::new(seed, 0);
        let mut rows: Vec<usize> = one_row_per_label(labels, &mut draws)
            .into_values()
            .collect();
        draws.shuffle(&mut rows);
        let pairs = rows.as_chunks().0.iter().map(|&[a, b]| RowPair { a, b });
        Self(pairs.collect())
    }

    /// A random maximum matching between labels that have a query and labels that have a gallery item, given
    /// the label of every row on both sides.
    #[must_use]
    pub fn across(queries: &[u32], gallery: &[u32], seed: u64) -> Self {
        let mut draws = SeededRng::new(seed, 1);
        let queries = one_row_per_label(queries, &mut draws);
        let gallery = one_row_per_label(gallery, &mut draws);
        let (mut asking, mut asked, mut either) = (Vec::new(), Vec::new(), Vec::new());
        for (label, &row) in &queries {
            match gallery.get(label) {
                Some(&enrolled) => either.push((row, enrolled)),
                None => asking.push(row),
            }
        }
        let enrolled_only = gallery
            .iter()
            .filter(|(label, _)| !queries.contains_key(label));
        asked.extend(enrolled_only.map(|(_, &row)| row));
        // A label that has both is assigned to a side at random too, so that the sides have nearly equal size.
        draws.shuffle(&mut either);
        for (query, enrolled) in either {
            if asking.len() < asked.len() {
                asking.push(query);
            } else {
                asked.push(enrolled);
            }
        }
        draws.shuffle(&mut asking);
        draws.shuffle(&mut asked);
        let pairs = asking.into_iter().zip(asked).map(|(a, b)| RowPair { a, b });
        Self(pairs.collect())
    }

    /// The pairs, in arbitrary order.
    #[must_use]
    pub fn pairs(&self) -> &[RowPair] {
        &self.0
    }

    /// The scores of all pairs, which are independent non-mated trials.
    #[must_use]
    pub fn scores(&self, score: impl FnMut(RowPair) -> Similarity) -> Vec<Similarity> {
        self.0.iter().copied().map(score).collect()
    }
}

fn one_row_per_label(labels: &[u32], draws: &mut SeededRng) -> BTreeMap<u32, usize> {
    let mut rows: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
    for (row, &label) in labels.iter().enumerate() {
        rows.entry(label).or_default().push(row);
    }
    let drawn = rows.into_iter().filter_map(|(label, rows)| {
        let row = rows.get(draws.below(rows.len())).copied()?;
        Some((label, row))
    });
    drawn.collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn used_once(mut labels: Vec<u32>) -> bool {
        let all = labels.len();
        labels.sort_unstable();
        labels.dedup();
        labels.len() == all
    }

    proptest! {
        #[test]
        fn every_label_is_used_once_at_most_and_no_pair_that_fits_is_left(
            labels in prop::collection::vec(0_u32..12, 0..40), seed in any::<u64>()
        ) {
            let found = DisjointPairs::of_one_set(&labels, seed);
            let used = found.pairs().iter().flat_map(|p| [labels[p.a], labels[p.b]]).collect();
            prop_assert!(used_once(used));
            let mut distinct = labels.clone();
            distinct.sort_unstable();
            distinct.dedup();
            prop_assert_eq!(found.pairs().len(), distinct.len() / 2);
            prop_assert_eq!(&found, &DisjointPairs::of_one_set(&labels, seed));
        }

        #[test]
        fn across_two_sides_the_matching_is_as_large_as_can_be(
            queries in prop::collection::vec(0_u32..12, 0..20),
            gallery in prop::collection::vec(4_u32..18, 0..20),
            seed in any::<u64>()
        ) {
            let found = DisjointPairs::across(&queries, &gallery, seed);
            let used = found.pairs().iter().flat_map(|p| [queries[p.a], gallery[p.b]]).collect();
            prop_assert!(used_once(used));
            let rows = |side: &[u32]| {
                (0..18).map(|l| side.iter().filter(|x| **x == l).count() as u64).collect()
            };
            let counts = super::super::pair_counts::PairCounts::cross(rows(&queries), rows(&gallery));
            prop_assert_eq!(found.pairs().len() as u64, counts.disjoint(&[1; 18]));
        }
    }

    #[test]
    fn each_two_labels_and_each_row_are_as_likely_as_others() {
        let labels = [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3];
        let (mut partners, mut rows) = ([0; 4], [0; 12]);
        for seed in 0..3_000 {
            for pair in DisjointPairs::of_one_set(&labels, seed).pairs() {
                rows[pair.a] += 1;
                rows[pair.b] += 1;
                for (a, b) in [(pair.a, pair.b), (pair.b, pair.a)] {
                    if labels[a] == 0 {
                        partners[labels[b] as usize] += 1;
                    }
                }
            }
        }
        assert!(
            partners[1..]
                .iter()
                .all(|&times| (900..1_100).contains(&times)),
            "{partners:?}"
        );
        assert!(
            rows.iter().all(|&times| (880..1_120).contains(&times)),
            "{rows:?}"
        );
    }

    #[test]
    fn one_label_has_no_pair() {
        assert!(DisjointPairs::of_one_set(&[5, 5, 5], 1).pairs().is_empty());
        assert!(DisjointPairs::across(&[5], &[5, 5], 1).pairs().is_empty());
        let (a, b) = (vec![0.6, 0.8], vec![0.8, 0.6]);
        let found = DisjointPairs::across(&[5], &[6], 1);
        let scores =
            found.scores(|_| Similarity::new(a.iter().zip(&b).map(|(x, y)| x * y).sum()).unwrap());
        assert_eq!(scores.len(), 1);
    }
}
