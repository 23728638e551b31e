//! Measures the compact index alone: the cost of building it, and its recall against its speed.
//!
//! `cargo bench --bench index` measures pseudo-random vectors that are the same on every machine: sets A and T
//! of `benches/peers/index.py` with fewer rows. Searches run on one thread, without a filter and with filters
//! that allow a random share of the rows. A row counts as found if it is as near as the tenth nearest, so that
//! any of several equally near rows counts.
//!
//! `cargo bench --bench index -- serve ROWS.npy QUERIES.npy M EF_CONSTRUCTION [FILE]` builds the index of given
//! rows and reports the cost. It then answers each line `search TRUTH.npy EF THREADS [FILTER]` of its input
//! with a line of JSON. Vectors are `f32` of unit length; TRUTH has the ten nearest rows of each query as
//! `i32`; FILTER has a byte for each row, which is zero if the row may not be found. If FILE exists, the index
//! is read from it instead of being built; otherwise the index is written there. `benches/peers/index.py` uses
//! this mode.
//!
//! CPU time is read from `/proc`, so this needs Linux.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::indexing_slicing,
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a benchmark"
)]

use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Barrier};
use std::time::Instant;

use matchpoint_gallery::index::bits::Bits;
use matchpoint_gallery::index::build::BuildParams;
use matchpoint_gallery::index::codes::UnitVectors;
use matchpoint_gallery::index::graph::Graph;
use matchpoint_gallery::index::scratch::Scratch;
use matchpoint_gallery::index::search::IndexSearch;
use matchpoint_vector::kernels::dot;
use rayon::prelude::*;

const USAGE: &str = "arguments: none, or serve ROWS.npy QUERIES.npy M EF_CONSTRUCTION [FILE]";

/// Number of neighbours to find.
const K: usize = 10;

const ROWS: usize = 50_000;
const QUERIES: usize = 2_000;
const DIMENSION: usize = 128;

/// A set of rows around random centres.
struct RowSet {
    name: &'static str,
    clusters: usize,
    /// The expected length of the noise that is added to a centre of length 1.
    noise: f32,
    /// Number of rows that are all equal.
    same: usize,
}

const SETS: [RowSet; 2] = [
    RowSet {
        name: "A, clustered",
        clusters: 2_000,
        noise: 0.7,
        same: 0,
    },
    RowSet {
        name: "T, tight clusters and copies",
        clusters: 40,
        noise: 0.1,
        same: ROWS / 10,
    },
];
const PARAMS: BuildParams = BuildParams {
    m: 16,
    ef_construction: 200,
    seed: 1,
};

const WIDTHS: [usize; 9] = [10, 14, 20, 28, 40, 64, 100, 160, 200];
const FILTERED_WIDTHS: [usize; 3] = [10, 40, 200];
/// The percentages of rows that filters allow.
const ALLOWED: [f64; 4] = [50.0, 10.0, 1.0, 0.1];
const ROUNDS: usize = 3;

/// Number of searches of each thread before the measurement starts.
const WARMING: usize = 100;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["serve", rows, queries, m, ef_construction, rest @ ..] => {
            let params = BuildParams {
                m: m.parse().unwrap(),
                ef_construction: ef_construction.parse().unwrap(),
                ..PARAMS
            };
            // `cargo bench` adds an argument of its own at the end.
            let file = rest.first().filter(|&&word| word != "--bench");
            serve(rows, queries, params, file.map(Path::new));
        }
        ["--bench"] => SETS.iter().for_each(measure),
        // `cargo test --benches` must not measure anything.
        _ => println!("{USAGE}"),
    }
}

/// Builds the index of random vectors and prints the measurements.
fn measure(set: &RowSet) {
    let mut draw = Draw(1);
    let centres: Vec<f32> = (0..set.clusters).flat_map(|_| draw.direction()).collect();
    let mut vectors = draw.around(&centres, ROWS, set.noise);
    let queries = draw.around(&centres, QUERIES, set.noise);
    for _ in 0..set.same {
        let row = draw.below(ROWS) * DIMENSION;
        vectors.copy_within(..DIMENSION, row);
    }
    let rows = UnitVectors::new(&vectors, DIMENSION).unwrap();
    println!(
        "commit {}, {} threads",
        commit(),
        rayon::current_num_threads()
    );
    println!(
        "{}: {ROWS} x {DIMENSION} in {} clusters, {QUERIES} queries, {PARAMS:?}",
        set.name, set.clusters
    );
    let (wall, cpu) = (Instant::now(), process_cpu());
    let graph = Graph::build(rows, PARAMS, [0; 32]).unwrap();
    println!(
        "build: {:.3} s, {:.2} s of CPU, {:.1} bytes a row besides the vectors",
        wall.elapsed().as_secs_f64(),
        process_cpu() - cpu,
        graph.bytes_per_row()
    );

    let filters: Vec<Bits> = ALLOWED
        .iter()
        .map(|per_cent| draw.bits((ROWS as f64 * per_cent / 100.0).round() as usize))
        .collect();
    let mut sets = vec![(100.0, WIDTHS.as_slice(), None)];
    for (&per_cent, filter) in ALLOWED.iter().zip(&filters) {
        sets.push((per_cent, &FILTERED_WIDTHS, Some(filter)));
    }
    let sets: Vec<(f64, &[usize], Searches<'_>)> = sets
        .into_iter()
        .map(|(per_cent, widths, allowed)| {
            let searches = Searches {
                graph: &graph,
                rows,
                queries: &queries,
                least: nearest(rows, &queries, allowed),
                allowed,
            };
            (per_cent, widths, searches)
        })
        .collect();
    table(&sets);
}

/// Searches with each width in turn, and prints the fastest round of each.
fn table(sets: &[(f64, &[usize], Searches<'_>)]) {
    let cases: Vec<(f64, usize, &Searches<'_>)> = sets
        .iter()
        .flat_map(|(share, widths, set)| widths.iter().map(move |&ef| (*share, ef, set)))
        .collect();
    let mut best: Vec<Option<Took>> = vec![None; cases.len()];
    for _ in 0..ROUNDS {
        for ((_, ef, searches), best) in cases.iter().zip(&mut best) {
            let took = searches.run(*ef, 1);
            *best = Some(best.take().map_or(took, |best| best.fastest(took)));
        }
    }
    println!("searches: one thread, the fastest of {ROUNDS} rounds");
    println!("  allowed    ef  recall@{K}  per s of CPU   per s  p50 us  p99 us");
    for ((per_cent, ef, _), took) in cases.iter().zip(best.iter().flatten()) {
        let rate = |seconds: f64| took.queries as f64 / seconds;
        println!(
            "  {per_cent:>5} % {ef:>5} {:>10.4} {:>13.0} {:>7.0} {:>7.1} {:>7.1}",
            took.recall,
            rate(took.cpu_s),
            rate(took.wall_s),
            took.p50_us,
            took.p99_us
        );
    }
}

/// Builds or reads an index and answers lines, as described above.
fn serve(rows: &str, queries: &str, params: BuildParams, file: Option<&Path>) {
    let (vectors, dimension) = floats(rows);
    let (queries, _) = floats(queries);
    let rows = UnitVectors::new(&vectors, dimension).unwrap();
    let (wall, cpu) = (Instant::now(), process_cpu());
    let graph = match file.filter(|file| file.exists()) {
        Some(file) => Graph::from_bytes(Arc::new(std::fs::read(file).unwrap())).unwrap(),
        None => Graph::build(rows, params, [0; 32]).unwrap(),
    };
    let about = serde_json::json!({
        "build_s": wall.elapsed().as_secs_f64(),
        "build_cpu_s": process_cpu() - cpu,
        "bytes_per_row": graph.bytes_per_row(),
    });
    println!("{about}");
    assert_eq!((graph.rows(), graph.params()), (rows.count(), params));
    if let Some(file) = file.filter(|file| !file.exists()) {
        std::fs::write(file, graph.as_bytes()).unwrap();
    }
    for line in std::io::stdin().lines() {
        let line = line.unwrap();
        let words: Vec<&str> = line.split_whitespace().collect();
        let (truth, width) = npy(words[1], "<i4");
        assert_eq!(width, K, "the truth has {K} rows for each query");
        let truth: Vec<u32> = truth.into_iter().map(u32::from_le_bytes).collect();
        let of_queries = queries.chunks_exact(dimension).zip(truth.chunks_exact(K));
        let least = of_queries.map(|(query, truth)| {
            let scores = truth.iter().map(|&row| dot(query, rows.get(row).unwrap()));
            scores.fold(f32::INFINITY, f32::min)
        });
        let filter = words.get(4).map(|file| {
            let mut bits = Bits::none(rows.count());
            for (row, &byte) in std::fs::read(file).unwrap().iter().enumerate() {
                bits.set(row, byte != 0);
            }
            bits
        });
        let searches = Searches {
            graph: &graph,
            rows,
            queries: &queries,
            least: least.collect(),
            allowed: filter.as_ref(),
        };
        let (ef, threads) = (words[2].parse().unwrap(), words[3].parse().unwrap());
        let took = searches.run(ef, threads);
        let answer = serde_json::json!({
            "recall": took.recall,
            "wall_s": took.wall_s,
            "cpu_s": took.cpu_s,
            "queries": took.queries,
            "p50_us": took.p50_us,
            "p99_us": took.p99_us,
        });
        println!("{answer}");
    }
}

/// Searches in an index, with the expected results.
struct Searches<'a> {
    graph: &'a Graph,
    rows: UnitVectors<'a>,
    queries: &'a [f32],
    /// The score of the `K`-th nearest row of each query.
    least: Vec<f32>,
    allowed: Option<&'a Bits>,
}

/// A query and the score of its `K`-th nearest row.
type Query<'a> = (&'a [f32], f32);

/// The results of one thread.
struct Part {
    hits: usize,
    started: Instant,
    ended: Instant,
    cpu_s: f64,
    took_us: Vec<f64>,
}

/// The results of all threads.
#[derive(Clone, Copy)]
struct Took {
    queries: usize,
    recall: f64,
    wall_s: f64,
    cpu_s: f64,
    p50_us: f64,
    p99_us: f64,
}

impl Took {
    fn fastest(self, other: Self) -> Self {
        Self {
            wall_s: self.wall_s.min(other.wall_s),
            cpu_s: self.cpu_s.min(other.cpu_s),
            p50_us: self.p50_us.min(other.p50_us),
            p99_us: self.p99_us.min(other.p99_us),
            ..self
        }
    }
}

impl Searches<'_> {
    /// Searches for every query once, divided among `threads` threads that start together.
    fn run(&self, ef: usize, threads: usize) -> Took {
        let queries: Vec<Query<'_>> = self
            .queries
            .chunks_exact(self.rows.dimension())
            .zip(self.least.iter().copied())
            .collect();
        let shares: Vec<&[Query<'_>]> = queries.chunks(queries.len().div_ceil(threads)).collect();
        let start = Barrier::new(shares.len());
        let parts: Vec<Part> = std::thread::scope(|scope| {
            let running: Vec<_> = shares
                .iter()
                .map(|share| scope.spawn(|| self.part(share, ef, &start)))
                .collect();
            running
                .into_iter()
                .map(|part| part.join().unwrap())
                .collect()
        });
        let started = parts.iter().map(|part| part.started).min().unwrap();
        let ended = parts.iter().map(|part| part.ended).max().unwrap();
        let hits: usize = parts.iter().map(|part| part.hits).sum();
        let cpu_s = parts.iter().map(|part| part.cpu_s).sum();
        let mut took_us: Vec<f64> = parts.into_iter().flat_map(|part| part.took_us).collect();
        took_us.sort_by(f64::total_cmp);
        Took {
            queries: queries.len(),
            recall: hits as f64 / (queries.len() * K) as f64,
            wall_s: (ended - started).as_secs_f64(),
            cpu_s,
            p50_us: took_us[took_us.len() / 2],
            p99_us: took_us[took_us.len() * 99 / 100],
        }
    }

    fn part(&self, queries: &[Query<'_>], ef: usize, start: &Barrier) -> Part {
        let mut scratch = Scratch::new();
        let mut hits_of = |(vector, least): Query<'_>| {
            let search = IndexSearch {
                vector,
                k: K,
                ef,
                allowed: self.allowed,
            };
            let found = self
                .graph
                .search(&search, |row| self.rows.get(row), &mut scratch);
            let found = found.unwrap().iter();
            found.filter(|found| least <= found.score).count()
        };
        for &query in queries.iter().take(WARMING) {
            hits_of(query);
        }
        start.wait();
        let (cpu, started) = (thread_cpu(), Instant::now());
        let mut hits = 0;
        let mut took_us = Vec::with_capacity(queries.len());
        for &query in queries {
            let started = Instant::now();
            hits += hits_of(query);
            took_us.push(started.elapsed().as_secs_f64() * 1e6);
        }
        Part {
            hits,
            started,
            ended: Instant::now(),
            cpu_s: thread_cpu() - cpu,
            took_us,
        }
    }
}

/// The score of the `K`-th nearest allowed row of each query, from all scores.
fn nearest(rows: UnitVectors<'_>, queries: &[f32], allowed: Option<&Bits>) -> Vec<f32> {
    let allowed: Vec<u32> = (0..rows.count() as u32)
        .filter(|&row| allowed.is_none_or(|bits| bits.contains(row as usize)))
        .collect();
    let of_query = |query: &[f32]| {
        let score = |&row: &u32| dot(query, rows.get(row).unwrap());
        let mut scores: Vec<f32> = allowed.iter().map(score).collect();
        *scores
            .select_nth_unstable_by(K - 1, |a, b| b.total_cmp(a))
            .1
    };
    queries
        .par_chunks_exact(rows.dimension())
        .map(of_query)
        .collect()
}

/// splitmix64.
struct Draw(u64);

impl Draw {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, count: usize) -> usize {
        (self.next() % count as u64) as usize
    }

    /// An approximately normal number with variance 1. It is a sum of twelve uniform ones, because logarithm
    /// and cosine are not the same to the last bit on every machine.
    fn normal(&mut self) -> f32 {
        let uniform = |_| (self.next() >> 40) as f32 / (1_u64 << 24) as f32;
        (0..12).map(uniform).sum::<f32>() - 6.0
    }

    fn direction(&mut self) -> Vec<f32> {
        unit((0..DIMENSION).map(|_| self.normal()).collect())
    }

    /// `count` vectors of unit length, each near one of the centres.
    fn around(&mut self, centres: &[f32], count: usize, noise: f32) -> Vec<f32> {
        let scale = noise / (DIMENSION as f32).sqrt();
        let mut one = |_| {
            let start = self.below(centres.len() / DIMENSION) * DIMENSION;
            let centre = centres[start..start + DIMENSION].iter();
            unit(centre.map(|value| value + scale * self.normal()).collect())
        };
        (0..count).flat_map(&mut one).collect()
    }

    /// A random set of `count` rows.
    fn bits(&mut self, count: usize) -> Bits {
        let mut bits = Bits::none(ROWS);
        while bits.count() < count {
            bits.set(self.below(ROWS), true);
        }
        bits
    }
}

fn unit(mut vector: Vec<f32>) -> Vec<f32> {
    let norm = dot(&vector, &vector).sqrt();
    vector.iter_mut().for_each(|value| *value /= norm);
    vector
}

fn floats(path: &str) -> (Vec<f32>, usize) {
    let (values, width) = npy(path, "<f4");
    (values.into_iter().map(f32::from_le_bytes).collect(), width)
}

/// The values of a matrix that numpy saved, row by row, and the number of values in a row.
fn npy(path: &str, kind: &str) -> (Vec<[u8; 4]>, usize) {
    let bytes = std::fs::read(path).unwrap();
    // Version 1 of the format, which numpy writes unless the header is very long.
    assert!(
        bytes.starts_with(b"\x93NUMPY\x01"),
        "{path} is not an .npy file"
    );
    let start = 10 + usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
    let header = std::str::from_utf8(&bytes[10..start]).unwrap();
    let plain = header.contains(kind) && header.contains("'fortran_order': False");
    assert!(plain, "{path} is not {kind}, row by row: {header}");
    let (_, shape) = header.split_once("'shape': (").unwrap();
    let (shape, _) = shape.split_once(')').unwrap();
    let (_, width) = shape.split_once(',').unwrap();
    let values = bytes[start..].as_chunks().0.to_vec();
    (values, width.trim().parse().unwrap())
}

/// CPU time of this thread, in seconds.
fn thread_cpu() -> f64 {
    // The kernel updates the count when it schedules.
    std::thread::yield_now();
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    let (running_ns, _) = text.split_once(' ').unwrap();
    running_ns.parse::<f64>().unwrap() / 1e9
}

/// The CPU time of all threads, including those that have ended, in seconds.
fn process_cpu() -> f64 {
    let text = std::fs::read_to_string("/proc/self/stat").unwrap();
    // Fields 14 and 15 are user and system time in hundredths of a second. The second field is the name in
    // brackets.
    let (_, fields) = text.rsplit_once(") ").unwrap();
    let ticks = fields.split(' ').skip(11).take(2);
    ticks
        .map(|ticks| ticks.parse::<f64>().unwrap())
        .sum::<f64>()
        / 100.0
}

fn commit() -> String {
    let commit = Command::new("git")
        .args(["rev-parse", "--short", "HEAD"])
        .output();
    let commit = commit.map(|out| String::from_utf8_lossy(&out.stdout).trim().to_owned());
    commit.unwrap_or_default()
}
