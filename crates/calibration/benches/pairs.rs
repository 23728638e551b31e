//! The pairwise analysis against the bare matrix product, and exact search against the same.
//!
//! `cargo bench --bench pairs`. Both sides of each ratio use the same product, the same threads and
//! the same data, in turn; the first round is not counted.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::indexing_slicing,
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    reason = "a benchmark"
)]

use std::hint::black_box;
use std::process::Command;
use std::time::Instant;

use matchpoint_calibration::adjustment::{Adjuster, ComparedPair};
use matchpoint_calibration::analysis::consistency::Band;
use matchpoint_calibration::analysis::embeddings::Embeddings;
use matchpoint_calibration::analysis::nearest::nearest;
use matchpoint_calibration::analysis::pairwise::Scan;
use matchpoint_calibration::analysis::remedy::Remedy;
use matchpoint_calibration::cohort::Cohort;
use matchpoint_calibration::decision::Threshold;
use matchpoint_vector::Similarity;
use matchpoint_vector::kernels::multiply;
use rayon::prelude::*;

const ROUNDS: usize = 4;
const TILE: usize = 512;

fn main() {
    let commit = Command::new("git")
        .args(["rev-parse", "--short", "HEAD"])
        .output();
    let commit = commit.map(|out| String::from_utf8_lossy(&out.stdout).trim().to_owned());
    println!(
        "commit {}, {} threads",
        commit.unwrap_or_default(),
        rayon::current_num_threads()
    );
    pairs(7_000, 1_280);
    search(2_000, 200_000, 128);
    normalised(1_280);
}

/// What a normalisation adds to a search: both sides against a whole cohort.
fn normalised(dimension: usize) {
    let (vectors, labels) = rows(Cohort::MEMBERS_MAX + 2, dimension, 4);
    let set = Embeddings::normalise(dimension, vectors, labels).unwrap();
    let names: Vec<String> = (0..Cohort::MEMBERS_MAX)
        .map(|row| row.to_string())
        .collect();
    let members = names
        .iter()
        .enumerate()
        .map(|(row, name)| (name.as_str(), name.as_str(), set.row(row).unwrap()));
    let cohort = Cohort::sampled(members, 0).unwrap();
    let [probe, item] = [0, 1].map(|more| set.row(Cohort::MEMBERS_MAX + more).unwrap());
    let how = Remedy::AsNorm.normalisation(cohort.members()).unwrap();
    let adjuster = Adjuster::normalising(how, cohort).unwrap();
    let compared = ComparedPair {
        score: Similarity::between(probe, item).unwrap(),
        probe,
        item,
        other: None,
        label: None,
        left_out: None,
    };
    let mut took: Vec<f64> = (0..200)
        .map(|_| {
            let started = Instant::now();
            black_box(adjuster.decision_score(black_box(&compared)).unwrap());
            started.elapsed().as_secs_f64() * 1e3
        })
        .collect();
    took.sort_by(f64::total_cmp);
    println!(
        "AS-norm of one search, cohort of {} x {dimension}: median {:.3} ms, p99 {:.3} ms",
        Cohort::MEMBERS_MAX,
        took[100],
        took[197]
    );
}

/// Rows around 500 centres, the same on every machine: splitmix64.
fn rows(count: usize, dimension: usize, seed: u64) -> (Vec<f32>, Vec<u32>) {
    let mut state = seed;
    let mut next = move || {
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (mixed >> 40) as f32 / (1_u64 << 24) as f32 - 0.5
    };
    let labels: Vec<u32> = (0..count).map(|row| (row % 500) as u32).collect();
    let centres: Vec<f32> = (0..500 * dimension).map(|_| next()).collect();
    let vectors = labels.iter().flat_map(|&label| {
        let start = label as usize * dimension;
        centres[start..start + dimension].to_vec()
    });
    let vectors = vectors.map(|centre| centre + next()).collect();
    (vectors, labels)
}

/// Every score of `left` and `right`, tile by tile, and nothing else; above the diagonal only
/// where they are the same.
fn product(left: &[f32], right: &[f32], dimension: usize, triangle: bool) {
    let tiles = |of: &[f32]| (of.len() / dimension).div_ceil(TILE);
    let tile = |of: &[f32], at: usize| -> (usize, usize) {
        let end = ((at + 1) * TILE).min(of.len() / dimension);
        (at * TILE * dimension, end * dimension)
    };
    let pairs: Vec<(usize, usize)> = (0..tiles(left))
        .flat_map(|a| (0..tiles(right)).map(move |b| (a, b)))
        .filter(|(a, b)| !triangle || a <= b)
        .collect();
    pairs.par_iter().for_each_init(Vec::new, |scores, &(a, b)| {
        let (a, b) = (tile(left, a), tile(right, b));
        let (a, b) = (&left[a.0..a.1], &right[b.0..b.1]);
        scores.resize(a.len() / dimension * (b.len() / dimension), 0.0);
        multiply(a, b, dimension, scores);
        black_box(&scores);
    });
}

fn pairs(count: usize, dimension: usize) {
    let (vectors, labels) = rows(count, dimension, 1);
    let set = Embeddings::normalise(dimension, vectors.clone(), labels).unwrap();
    let whole = || {
        let scan = Scan::all_pairs(&set);
        let curve = scan.curve(&|_, _| true).unwrap();
        let thresholds = Band::default().thresholds(101, |far| curve.threshold_at_far(far));
        let counts = scan
            .label_counts(&thresholds.unwrap(), &|_, _| true)
            .unwrap();
        let at: Threshold = curve.threshold_at_far(0.01).unwrap();
        black_box((counts, scan.dyads(at, &|_, _| true).unwrap()));
    };
    println!("pairs: {count} x {dimension}: curve, counts at 101 thresholds, dyads");
    compare(&whole, &|| product(&vectors, &vectors, dimension, true));
}

fn search(queries: usize, items: usize, dimension: usize) {
    let (asked, asked_labels) = rows(queries, dimension, 2);
    let (enrolled, labels) = rows(items, dimension, 3);
    let left = Embeddings::normalise(dimension, asked.clone(), asked_labels).unwrap();
    let right = Embeddings::normalise(dimension, enrolled.clone(), labels).unwrap();
    println!(
        "search: {queries} queries in {items} x {dimension}, exact, best of own and other labels"
    );
    compare(
        &|| drop(black_box(nearest(&left, &right, &|_, _| true).unwrap())),
        &|| product(&asked, &enrolled, dimension, false),
    );
}

fn compare(ours: &dyn Fn(), bare: &dyn Fn()) {
    let timed = |work: &dyn Fn()| {
        let started = Instant::now();
        work();
        started.elapsed().as_secs_f64()
    };
    let mut ratios = Vec::new();
    for round in 0..ROUNDS {
        let (bare, ours) = (timed(bare), timed(ours));
        if 0 < round {
            println!(
                "  {ours:.3} s, bare product {bare:.3} s, ratio {:.2}",
                ours / bare
            );
            ratios.push(ours / bare);
        }
    }
    ratios.sort_by(f64::total_cmp);
    println!("  median ratio {:.2}", ratios[ratios.len() / 2]);
}
