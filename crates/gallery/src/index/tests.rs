use std::collections::HashSet;
use std::sync::Arc;

use proptest::prelude::*;

use super::bits::Bits;
use super::build::BuildParams;
use super::codes::UnitVectors;
use super::error::IndexError;
use super::graph::Graph;
use super::scratch::Scratch;
use super::search::{IndexSearch, ScoredRow};
use matchpoint_vector::kernels;

const PARAMS: BuildParams = BuildParams {
    m: 8,
    ef_construction: 64,
    seed: 7,
};

/// Uniform in [-0.5, 0.5), the same on every machine.
struct Draw(u64);

impl Draw {
    fn next(&mut self) -> f32 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        f32::from(u16::try_from(self.0 >> 48).unwrap()) / 65_536.0 - 0.5
    }

    fn below(&mut self, count: usize) -> usize {
        self.next();
        usize::try_from(self.0 >> 33).unwrap() % count
    }
}

fn unit(mut row: Vec<f32>) -> Vec<f32> {
    let length = row.iter().map(|value| value * value).sum::<f32>().sqrt();
    row.iter_mut().for_each(|value| *value /= length);
    row
}

/// Rows around `clusters` centres, in no order.
fn clustered(rows: usize, dimension: usize, clusters: usize, seed: u64) -> Vec<f32> {
    around(rows, dimension, clusters, (0.6, seed))
}

/// Rows around the same centres, at most half of `noise` away from them in each value.
fn around(rows: usize, dimension: usize, clusters: usize, (noise, seed): (f32, u64)) -> Vec<f32> {
    let mut centres = Draw(1);
    let centres: Vec<f32> = (0..clusters * dimension).map(|_| centres.next()).collect();
    let mut draw = Draw(seed);
    let mut values = Vec::new();
    for _ in 0..rows {
        let centre = &centres[draw.below(clusters) * dimension..][..dimension];
        values.extend(unit(
            centre
                .iter()
                .map(|value| value + noise * draw.next())
                .collect(),
        ));
    }
    values
}

fn exact(values: &[f32], query: &[f32], k: usize, allowed: Option<&Bits>) -> Vec<ScoredRow> {
    let mut all: Vec<ScoredRow> = (0..)
        .zip(values.chunks(query.len()))
        .filter(|&(row, _)| allowed.is_none_or(|bits| bits.contains(row as usize)))
        .map(|(row, vector)| ScoredRow {
            row,
            score: kernels::dot(query, vector),
        })
        .collect();
    all.sort_by(|a, b| b.score.total_cmp(&a.score).then(a.row.cmp(&b.row)));
    all.truncate(k);
    all
}

fn recall(
    graph: &Graph,
    values: &[f32],
    queries: &[f32],
    ef: usize,
    allowed: Option<&Bits>,
) -> f64 {
    let rows = UnitVectors::new(values, graph.dimension()).unwrap();
    let mut scratch = Scratch::new();
    let (mut found, mut wanted) = (0, 0);
    for vector in queries.chunks(graph.dimension()) {
        let search = IndexSearch {
            vector,
            k: 10,
            ef,
            allowed,
        };
        let answer = graph
            .search(&search, |row| rows.get(row), &mut scratch)
            .unwrap();
        check(answer, values, &search);
        let best = exact(values, vector, 10, allowed);
        let best: HashSet<u32> = best.iter().map(|neighbour| neighbour.row).collect();
        found += answer.iter().filter(|one| best.contains(&one.row)).count();
        wanted += best.len();
    }
    f64::from(u32::try_from(found).unwrap()) / f64::from(u32::try_from(wanted).unwrap())
}

/// Allowed, each once, exactly scored and in order, and as many as there can be.
fn check(answer: &[ScoredRow], values: &[f32], search: &IndexSearch<'_>) {
    let dimension = search.vector.len();
    let rows = values.len() / dimension;
    let allowed = search.allowed.map_or(rows, Bits::count);
    assert_eq!(answer.len(), search.k.min(allowed));
    for one in answer {
        let vector = &values[one.row as usize * dimension..][..dimension];
        assert_eq!(
            one.score.to_bits(),
            kernels::dot(search.vector, vector).to_bits()
        );
        assert!(
            search
                .allowed
                .is_none_or(|bits| bits.contains(one.row as usize))
        );
    }
    assert!(answer.is_sorted_by(|a, b| b.score < a.score || (a.score <= b.score && a.row < b.row)));
}

fn build(values: &[f32], dimension: usize) -> Graph {
    Graph::build(
        UnitVectors::new(values, dimension).unwrap(),
        PARAMS,
        [9; 32],
    )
    .unwrap()
}

#[test]
fn nearly_all_true_neighbours_are_found() {
    let values = clustered(4000, 24, 100, 2);
    let queries = clustered(100, 24, 100, 3);
    let graph = build(&values, 24);
    let narrow = recall(&graph, &values, &queries, 16, None);
    let broad = recall(&graph, &values, &queries, 80, None);
    assert!(0.85 < narrow && 0.99 < broad, "{narrow} {broad}");
    assert!(graph.bytes_per_row() < 64.0 + 2.0 * 8.0 * 4.0 + 12.0);
}

#[test]
fn rows_too_near_each_other_for_eight_bits_are_told_apart() {
    let values = around(4000, 40, 8, (0.04, 2));
    let queries = around(100, 40, 8, (0.04, 3));
    let graph = build(&values, 40);
    let found = recall(&graph, &values, &queries, 120, None);
    assert!(0.99 < found, "{found}");
    // Two bytes a code, and as searchable when read again.
    assert!(128.0 + 2.0 * 8.0 * 4.0 < graph.bytes_per_row());
    let again = Graph::from_bytes(Arc::new(graph.as_bytes().to_vec())).unwrap();
    let found_again = recall(&again, &values, &queries, 120, None);
    assert_eq!(found.to_bits(), found_again.to_bits());
}

#[test]
fn a_search_keeps_as_many_candidates_as_the_rows_need() {
    // Many rows around each centre, which is where a stored graph leads astray, and few.
    let near = around(16_000, 40, 8, (0.1, 2));
    let far = clustered(16_000, 40, 1600, 2);
    let [near_graph, far_graph] = [&near, &far].map(|values| build(values, 40));
    let needed = near_graph.breadth();
    assert!(128 < needed.ef && needed.suffices(), "{needed:?}");
    assert_eq!(needed.searches, 1000);
    let ordinary = far_graph.breadth();
    assert!(ordinary.ef == 128 && ordinary.suffices(), "{ordinary:?}");
    let again = Graph::from_bytes(Arc::new(near_graph.as_bytes().to_vec())).unwrap();
    assert_eq!(again.breadth(), needed);
    // Queries that had no part in it.
    let queries = around(300, 40, 8, (0.1, 3));
    let missed = |ef: u32| {
        let misses = queries.chunks(40).filter(|query| {
            let search = IndexSearch {
                vector: query,
                k: 1,
                ef: ef as usize,
                allowed: None,
            };
            let vector_of = |row: u32| near.chunks(40).nth(row as usize);
            let mut scratch = Scratch::new();
            let found = near_graph.search(&search, vector_of, &mut scratch).unwrap();
            found[0].score < exact(&near, query, 1, None)[0].score
        });
        misses.count()
    };
    assert!(missed(needed.ef) <= 1 && 1 < missed(40));
}

#[test]
fn neighbours_enrolled_one_after_the_other_are_found() {
    let mut sorted: Vec<Vec<f32>> = clustered(3000, 24, 100, 2)
        .chunks(24)
        .map(<[f32]>::to_vec)
        .collect();
    sorted.sort_by(|a, b| a.partial_cmp(b).unwrap());
    let values = sorted.concat();
    let found = recall(
        &build(&values, 24),
        &values,
        &clustered(50, 24, 100, 3),
        60,
        None,
    );
    assert!(0.98 < found, "{found}");
}

#[test]
fn the_number_of_threads_changes_nothing() {
    let values = clustered(1500, 24, 40, 4);
    let with = |threads| {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .unwrap();
        pool.install(|| build(&values, 24)).as_bytes().to_vec()
    };
    let one = with(1);
    assert_eq!(one, with(2));
    assert_eq!(one, with(7));
    let other = BuildParams { seed: 8, ..PARAMS };
    let other = Graph::build(UnitVectors::new(&values, 24).unwrap(), other, [9; 32]).unwrap();
    assert_ne!(one, other.as_bytes());
}

#[test]
fn a_filter_costs_no_recall_whatever_it_allows() {
    let values = clustered(4000, 24, 100, 2);
    let queries = clustered(60, 24, 100, 3);
    let graph = build(&values, 24);
    for step in [2, 10, 100, 1000] {
        let mut allowed = Bits::none(4000);
        for row in (0..4000).step_by(step) {
            allowed.set(row, true);
        }
        let found = recall(&graph, &values, &queries, 40, Some(&allowed));
        assert!(0.97 <= found, "one in {step}: {found}");
        // The furthest rows only: the traversal meets none of them.
        for query in queries.chunks(24).take(5) {
            let mut far = Bits::none(4000);
            for one in exact(&values, query, 4000, None)
                .iter()
                .skip(4000 - 4000 / step)
            {
                far.set(one.row as usize, true);
            }
            let found = recall(&graph, &values, query, 40, Some(&far));
            assert!(0.9 <= found, "far, one in {step}: {found}");
        }
    }
}

#[test]
fn copies_do_not_hide_the_others() {
    let mut values = clustered(1500, 24, 50, 5);
    let queries = clustered(50, 24, 50, 6);
    let one = values[..24].to_vec();
    for _ in 0..1500 {
        values.extend_from_slice(&one);
    }
    // Copies that differ, but not in their codes.
    for at in 0..40 {
        let mut near = one.clone();
        near[at % 24] += 1e-6;
        values.extend(near);
    }
    let graph = build(&values, 24);
    let found = recall(&graph, &values, &queries, 64, None);
    assert!(0.98 < found, "{found}");
    assert!((recall(&graph, &values, &one, 10, None) - 1.0).abs() < 1e-9);
    let mut allowed = Bits::all(3040);
    (0..2000).for_each(|row| allowed.set(row, false));
    assert!((recall(&graph, &values, &one, 10, Some(&allowed)) - 1.0).abs() < 1e-9);
}

#[test]
fn few_rows_equal_rows_and_no_rows_are_searched() {
    for count in [0, 1, 2, 3, 33, 700] {
        for equal in [true, false] {
            let values = if equal {
                [0.6, 0.0, 0.8].repeat(count)
            } else {
                clustered(count, 3, 4, 8)
            };
            let graph = build(&values, 3);
            let again = Graph::from_bytes(Arc::new(graph.as_bytes().to_vec())).unwrap();
            let rows = UnitVectors::new(&values, 3).unwrap();
            for (k, ef) in [
                (0, 0),
                (1, 0),
                (1, 1),
                (5, 8),
                (1000, 10),
                (usize::MAX, usize::MAX),
            ] {
                let search = IndexSearch {
                    vector: &[0.0, 0.6, 0.8],
                    k,
                    ef,
                    allowed: None,
                };
                let mut scratch = Scratch::new();
                let answer = again
                    .search(&search, |row| rows.get(row), &mut scratch)
                    .unwrap();
                check(answer, &values, &search);
                if equal || count <= 33 {
                    assert_eq!(answer, exact(&values, search.vector, k, None));
                }
            }
        }
    }
}

#[test]
fn rows_that_are_gone_are_passed_over() {
    let values = clustered(2000, 24, 50, 5);
    let graph = build(&values, 24);
    let rows = UnitVectors::new(&values, 24).unwrap();
    let search = IndexSearch {
        vector: &clustered(1, 24, 50, 6),
        k: 10,
        ef: 30,
        allowed: None,
    };
    let there = |row: u32| rows.get(row).filter(|_| 1990 <= row);
    let mut scratch = Scratch::new();
    let answer = graph.search(&search, there, &mut scratch).unwrap();
    assert_eq!(answer.len(), 10);
    assert!(answer.iter().all(|one| 1990 <= one.row));
}

#[test]
fn what_does_not_fit_the_index_is_refused() {
    let values = clustered(10, 4, 3, 1);
    let graph = build(&values, 4);
    let rows = UnitVectors::new(&values, 4).unwrap();
    let mut scratch = Scratch::new();
    let mut refused = |vector: &[f32], allowed: Option<&Bits>| {
        let search = IndexSearch {
            vector,
            k: 1,
            ef: 1,
            allowed,
        };
        graph
            .search(&search, |row| rows.get(row), &mut scratch)
            .unwrap_err()
    };
    assert_eq!(
        refused(&[1.0; 3], None),
        IndexError::QueryDimension {
            found: 3,
            expected: 4
        }
    );
    assert_eq!(
        refused(&[0.5; 4], Some(&Bits::all(9))),
        IndexError::FilterLength {
            found: 9,
            expected: 10
        }
    );
    for (m, ef_construction) in [(1, 10), (129, 10), (8, 0), (8, 4097)] {
        let params = BuildParams {
            m,
            ef_construction,
            seed: 0,
        };
        assert!(Graph::build(rows, params, [0; 32]).is_err());
    }
    assert_eq!(
        (graph.rows(), graph.dimension(), graph.params()),
        (10, 4, PARAMS)
    );
    assert_eq!(graph.fingerprint(), [9; 32]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]
    #[test]
    fn every_answer_is_complete_exact_and_allowed(
        count in 60_usize..300,
        seed in any::<u64>(),
        copies in 0_usize..100,
        (k, ef) in (1_usize..4, 1_usize..5),
        allowed in 1_usize..9,
    ) {
        let mut values = clustered(count, 5, 7, seed);
        values.extend_from_within(..5 * copies.min(count));
        let graph = build(&values, 5);
        let mut bits = Bits::none(graph.rows());
        (0..graph.rows()).filter(|row| row * 7 % 8 < allowed).for_each(|row| bits.set(row, true));
        let rows = UnitVectors::new(&values, 5).unwrap();
        let mut scratch = Scratch::new();
        for allowed in [None, Some(&bits)] {
            let query = clustered(1, 5, 7, seed ^ 1);
            let search = IndexSearch { vector: &query, k, ef, allowed };
            check(graph.search(&search, |row| rows.get(row), &mut scratch).unwrap(), &values, &search);
        }
    }
}
