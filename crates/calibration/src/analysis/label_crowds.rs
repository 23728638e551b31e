//! Labels whose pictures are as alike as pictures of one label: one thing under two names, or look-alikes.

use std::collections::BTreeMap;

use rayon::prelude::*;
use serde::Serialize;

use super::linkage::{LinkedPair, complete_linkage};
use crate::binomial::real;

/// Two labels crowd each other if their pictures are no farther apart than this many times the pictures of one of them.
/// Of two halves of one label it is about 1.
const APART_MAX: f64 = 1.1;

/// Labels of which every two crowd each other.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LabelCrowd {
    /// Their numbers, ascending.
    pub labels: Vec<u32>,
    /// How far apart pictures of two of them are on average, as a multiple of pictures of one; of the two that are
    /// farthest apart.
    pub apart: f32,
}

/// A label as its pictures' sum shows it.
struct LabelSum {
    label: u32,
    rows: u64,
    sum: Vec<f64>,
    /// The mean distance, one less the cosine, of two of its pictures.
    within: f64,
}

/// Groups of labels of which every two crowd each other: pictures of the two are on average about as alike as pictures of
/// one. The largest group first. `vectors` are of unit length, one after the other; a label of one picture is in no group.
#[must_use]
pub fn label_crowds(dimension: usize, vectors: &[f32], labels: &[u32]) -> Vec<LabelCrowd> {
    let sums = label_sums(dimension, vectors, labels);
    let crowding = sums.par_iter().enumerate().flat_map_iter(|(number, one)| {
        let later = sums.iter().enumerate().skip(number + 1);
        later.filter_map(move |(other_number, other)| {
            let across = 1.0 - dot(&one.sum, &other.sum) / real(one.rows * other.rows);
            let apart = across / one.within.midpoint(other.within).max(f64::MIN_POSITIVE);
            #[expect(clippy::cast_possible_truncation, reason = "for display and order")]
            (apart <= APART_MAX).then_some(LinkedPair {
                row: number,
                other: other_number,
                similarity: -apart as f32,
            })
        })
    });
    let mut crowding: Vec<LinkedPair> = crowding.collect();
    // Stable: equal ones stay in the order of their labels.
    crowding.sort_by(|a, b| b.similarity.total_cmp(&a.similarity));
    let groups = complete_linkage(sums.len(), &crowding).into_iter();
    let crowd = |group: super::linkage::LinkedGroup| LabelCrowd {
        labels: group
            .rows
            .iter()
            .filter_map(|number| sums.get(*number).map(|one| one.label))
            .collect(),
        apart: -group.loosest.similarity,
    };
    groups.map(crowd).collect()
}

/// Each label with two pictures or more, in the order of the labels.
fn label_sums(dimension: usize, vectors: &[f32], labels: &[u32]) -> Vec<LabelSum> {
    let mut sums: BTreeMap<u32, (u64, Vec<f64>)> = BTreeMap::new();
    for (label, vector) in labels.iter().zip(vectors.chunks(dimension.max(1))) {
        let (rows, sum) = sums
            .entry(*label)
            .or_insert_with(|| (0, vec![0.0; dimension]));
        *rows += 1;
        for (sum, value) in sum.iter_mut().zip(vector) {
            *sum += f64::from(*value);
        }
    }
    let with_pairs = sums.into_iter().filter(|(_, (rows, _))| 1 < *rows);
    let of = |(label, (rows, sum)): (u32, (u64, Vec<f64>))| LabelSum {
        label,
        rows,
        within: 1.0 - (dot(&sum, &sum) - real(rows)) / real(rows * (rows - 1)),
        sum,
    };
    with_pairs.map(of).collect()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::rng::SeededRng;

    #[test]
    fn labels_of_one_thing_are_named_and_others_are_not() {
        let mut draws = SeededRng::new(3, 0);
        let mut number = || f32::from(u16::try_from(draws.bits() >> 48).unwrap()) / 65_536.0 - 0.5;
        let mut things: Vec<Vec<f32>> = Vec::new();
        things.resize_with(20, || (0..24).map(|_| number()).collect());
        let (mut vectors, mut labels) = (Vec::new(), Vec::new());
        // Labels 20 and 21 are the thing 4 under other names, and 22 is the thing 9; 23 has one picture.
        for label in 0..24_u32 {
            let thing = match label {
                20 | 21 => 4,
                22 | 23 => 9,
                own => own,
            };
            for _ in 0..if label == 23 { 1 } else { 20 } {
                let raw = things[thing as usize].iter();
                let raw = raw.map(|own| own + 0.3 * number()).collect();
                let unit = matchpoint_vector::Embedding::normalise(raw).unwrap();
                vectors.extend(unit.as_slice());
                labels.push(label);
            }
        }
        let crowds = label_crowds(24, &vectors, &labels);
        let named: Vec<&[u32]> = crowds.iter().map(|crowd| crowd.labels.as_slice()).collect();
        assert_eq!(named, [&[4, 20, 21][..], &[9, 22]], "{crowds:?}");
        assert!(
            crowds
                .iter()
                .all(|crowd| (0.9..=1.1).contains(&crowd.apart))
        );
        assert!(label_crowds(2, &[1.0, 0.0, 0.0, 1.0], &[0, 1]).is_empty());
    }
}
