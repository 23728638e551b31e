//! Measures a merge of several galleries into one, in which every row is compared with its checksum and
//! written.
//!
//! `cargo bench -p matchpoint-gallery --bench merge` puts random vectors with 128 and with 1,280 components
//! into four galleries, and prints how many items per second are merged.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::cast_precision_loss,
    reason = "a benchmark"
)]

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Instant;

use matchpoint_gallery::Gallery;
use matchpoint_gallery::item::Item;
use matchpoint_gallery::merge::GalleryMerge;
use matchpoint_vector::Embedding;

/// Number of components, and number of items.
const SIZES: [(usize, usize); 2] = [(128, 100_000), (1280, 25_000)];
const GALLERIES: usize = 4;

fn main() {
    // `cargo test --benches` must not measure anything.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    for (dimension, items) in SIZES {
        let folder = tempfile::tempdir().unwrap();
        let sources: Vec<PathBuf> = (0..GALLERIES)
            .map(|number| {
                let path = folder.path().join(format!("{number}.db"));
                fill(&path, dimension, number * items..(number + 1) * items);
                path
            })
            .collect();
        let begins = Instant::now();
        let into = folder.path().join("all.db");
        let first = sources.first().unwrap();
        let mut merge = GalleryMerge::create_like(first, &into, "measured").unwrap();
        for source in &sources {
            merge
                .take(source, &mut |_| ControlFlow::Continue(true))
                .unwrap();
        }
        let merged = merge.finish().unwrap();
        let seconds = begins.elapsed().as_secs_f64();
        println!(
            "{} items of {dimension} components of {GALLERIES} galleries: {:.0} items/s",
            merged.items,
            merged.items as f64 / seconds
        );
    }
}

fn fill(path: &Path, dimension: usize, numbers: std::ops::Range<usize>) {
    let gallery = Gallery::create(path, dimension, "measured", "measured").unwrap();
    let numbers: Vec<usize> = numbers.collect();
    for some in numbers.chunks(1000) {
        let items = some.iter().map(|number| Item {
            id: format!("item {number:09}"),
            label: format!("label {}", number / 2),
            metadata: [("camera".to_owned(), "front".to_owned())].into(),
            embedding: drawn(*number as u64, dimension),
            source_sha256: Some([7; 32]),
            image: None,
        });
        gallery.upsert(items.collect()).unwrap();
    }
}

/// A pseudo-random vector, by splitmix64.
fn drawn(seed: u64, dimension: usize) -> Embedding {
    let mut state = seed << 20;
    let mut next = || {
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let bits = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((bits ^ (bits >> 31)) >> 40) as f32 / (1_u32 << 24) as f32 - 0.5
    };
    Embedding::normalise((0..dimension).map(|_| next()).collect()).unwrap()
}
