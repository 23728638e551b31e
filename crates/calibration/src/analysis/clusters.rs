//! Clusters vectors by spherical k-means, seeded by k-means++ (Arthur and Vassilvitskii 2007).

use super::rng::SeededRng;
use crate::binomial::real;

/// The highest number of iterations. It converges long before.
const ROUNDS_MAX: usize = 50;

/// A vector of unit length, and its label.
#[derive(Clone, Copy, Debug)]
pub(super) struct ClusterRow<'a> {
    pub(super) label: &'a str,
    pub(super) vector: &'a [f32],
}

/// Divides the rows into up to `count` clusters, none of them empty. In each cluster, the rows nearest to its
/// centre come first.
pub(super) fn clusters(rows: &[ClusterRow<'_>], count: usize, seed: u64) -> Vec<Vec<usize>> {
    let mut middles = seeds(rows, count, seed);
    let mut of_row: Vec<usize> = Vec::new();
    for _ in 0..ROUNDS_MAX {
        let assigned: Vec<usize> = rows
            .iter()
            .map(|row| nearest(&middles, row.vector).0)
            .collect();
        if assigned == of_row {
            break;
        }
        of_row = assigned;
        for (number, middle) in middles.iter_mut().enumerate() {
            let own = rows.iter().zip(&of_row).filter(|(_, of)| **of == number);
            let own: Vec<&[f32]> = own.map(|(row, _)| row.vector).collect();
            if let Some(moved) = mean(&own) {
                *middle = moved;
            }
        }
    }
    let mut groups: Vec<Vec<(f64, usize)>> = vec![Vec::new(); middles.len()];
    for (row, of) in rows
        .iter()
        .enumerate()
        .map(|(row, one)| (row, nearest(&middles, one.vector)))
    {
        if let Some(group) = groups.get_mut(of.0) {
            group.push((of.1, row));
        }
    }
    groups.retain(|group| !group.is_empty());
    for group in &mut groups {
        group.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
    }
    let rows = |group: Vec<(f64, usize)>| group.into_iter().map(|(_, row)| row).collect();
    groups.into_iter().map(rows).collect()
}

/// Chooses the starting centres: the first row at random, and each further row with a lower probability the
/// nearer it is to a chosen one.
fn seeds(rows: &[ClusterRow<'_>], count: usize, seed: u64) -> Vec<Vec<f32>> {
    let mut draws = SeededRng::new(seed, 7);
    let mut middles: Vec<Vec<f32>> = Vec::new();
    while middles.len() < count {
        let distances: Vec<f64> = rows
            .iter()
            .map(|row| {
                if middles.is_empty() {
                    1.0
                } else {
                    1.0 - nearest(&middles, row.vector).1
                }
            })
            .map(|distance| distance.clamp(0.0, 2.0))
            .collect();
        let total: f64 = distances.iter().sum();
        let mut left = real(draws.bits() >> 11) / real(1 << 53) * total;
        let drawn = distances.iter().position(|distance| {
            left -= distance;
            left < 0.0
        });
        let Some(row) = drawn.and_then(|row| rows.get(row)) else {
            break;
        };
        middles.push(row.vector.to_vec());
    }
    middles
}

/// The nearest centre and its cosine; the first one if several are equal.
fn nearest(middles: &[Vec<f32>], vector: &[f32]) -> (usize, f64) {
    let mut best = (0, f64::NEG_INFINITY);
    for (number, middle) in middles.iter().enumerate() {
        let dot: f64 = middle
            .iter()
            .zip(vector)
            .map(|(a, b)| f64::from(a * b))
            .sum();
        if best.1 < dot {
            best = (number, dot);
        }
    }
    best
}

/// The direction of the sum of the vectors; `None` if the sum is zero.
fn mean(vectors: &[&[f32]]) -> Option<Vec<f32>> {
    let mut sum: Vec<f32> = Vec::new();
    for vector in vectors {
        sum.resize(vector.len(), 0.0);
        sum.iter_mut()
            .zip(*vector)
            .for_each(|(sum, value)| *sum += value);
    }
    let embedding = matchpoint_vector::Embedding::normalise(sum).ok()?;
    Some(embedding.as_slice().to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_that_are_there_are_found_whatever_the_seed() {
        let degrees = [0.0_f32, 2.0, 4.0, 80.0, 83.0, 170.0, 172.0, 174.0, 176.0];
        let vectors: Vec<[f32; 2]> = degrees
            .iter()
            .map(|d| [d.to_radians().cos(), d.to_radians().sin()])
            .collect();
        let rows: Vec<ClusterRow<'_>> = vectors
            .iter()
            .map(|vector| ClusterRow { label: "", vector })
            .collect();
        for seed in 0..20 {
            let mut found = clusters(&rows, 3, seed);
            found.iter_mut().for_each(|group| group.sort_unstable());
            found.sort();
            assert_eq!(
                found,
                [vec![0, 1, 2], vec![3, 4], vec![5, 6, 7, 8]],
                "seed {seed}"
            );
        }
        assert!(clusters(&[], 3, 0).is_empty());
        let alike = [rows[0]; 5];
        assert_eq!(clusters(&alike, 3, 0), [vec![0, 1, 2, 3, 4]]);
    }
}
