//! Measures the time to fit a head: `cargo bench -p matchpoint-adapt --bench fit -- ROWS COMPONENTS [RECIPE]`.
//! benches/peers/adapt.py does the same with numpy.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::cast_precision_loss,
    reason = "a bench prints what it measures, and may stop at the first surprise"
)]

use std::time::Instant;

use matchpoint_adapt::{COMPONENTS, LabelledRows, Recipe};
use matchpoint_calibration::analysis::rng::SeededRng;

fn main() {
    let mut arguments = std::env::args()
        .skip(1)
        .filter(|one| !one.starts_with("--"));
    let mut number = |or: usize| arguments.next().map_or(or, |one| one.parse().unwrap());
    let (rows, components) = (number(3_447), number(1_280));
    let recipe = Recipe::named(arguments.next().as_deref().unwrap_or("whitening")).unwrap();
    let mut draws = SeededRng::new(0, 0);
    let mut uniform = || (draws.bits() >> 40) as f32 / (1_u32 << 24) as f32 - 0.5;
    let mut vectors: Vec<f32> = (0..rows * components).map(|_| uniform()).collect();
    // Labels with seven rows each, which share a third of their variation, on axes whose variance falls off as
    // in real embeddings.
    for (row, values) in vectors.chunks_mut(components).enumerate() {
        for (axis, value) in values.iter_mut().enumerate() {
            let own = ((row / 7 * 31 + axis * 17) % 97) as f32 / 97.0 - 0.5;
            *value = (*value + 0.5 * own) / (1.0 + axis as f32).sqrt();
        }
    }
    let labels = (0..u32::try_from(rows).unwrap())
        .map(|row| row / 7)
        .collect();
    let rows = LabelledRows::normalise(components, vectors, labels).unwrap();
    let started = Instant::now();
    let head = recipe.fit(&rows, COMPONENTS, 0, &|_, _| true).unwrap();
    let seconds = started.elapsed().as_secs_f64();
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    println!(
        "{}: {} x {components} to {} in {seconds:.2} s, {} at the most",
        recipe.name,
        rows.len(),
        head.to(),
        peak.map_or("?", str::trim)
    );
}
