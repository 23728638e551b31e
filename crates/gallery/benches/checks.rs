//! Measures what two checks add to a search: the comparison of the gallery with that of the calibration, and
//! the checksum of the accepted item.
//!
//! `cargo bench -p matchpoint-gallery --bench checks` measures galleries of random vectors, with a scan and
//! with an index. It prints each check as a share of a search for five neighbours, without embedding and with
//! an image that takes 5 ms to embed.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::cast_precision_loss,
    reason = "a benchmark"
)]

use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use matchpoint_gallery::item::Item;
use matchpoint_gallery::params::IndexParams;
use matchpoint_gallery::view::Probe;
use matchpoint_gallery::{Access, Gallery};
use matchpoint_vector::Embedding;

const DIMENSION: usize = 1280;
/// Number of items: scanned, scanned, and with an index.
const SIZES: [usize; 3] = [500, 2_000, 12_000];
const SEARCHES: usize = 400;
/// The time for an image of 640 x 480 on one core, from docs/benchmarks.md.
const IMAGE_SECONDS: f64 = 5e-3;

fn main() {
    // `cargo test --benches` must not measure anything.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    println!("items of {DIMENSION} components; {SEARCHES} searches on one thread");
    for size in SIZES {
        measure(size);
    }
}

/// A pseudo-random vector, by splitmix64.
fn drawn(seed: u64) -> Embedding {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let bits = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((bits ^ (bits >> 31)) >> 40) as f32 / (1_u32 << 24) as f32 - 0.5
    };
    Embedding::normalise((0..DIMENSION).map(|_| next()).collect()).unwrap()
}

fn measure(size: usize) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("items.db");
    let gallery = Gallery::create(&path, DIMENSION, "measured", "measured").unwrap();
    let item = |number: usize| Item {
        id: format!("item {number}"),
        label: format!("label {number}"),
        metadata: [("camera".to_owned(), "front".to_owned())].into(),
        embedding: drawn((number as u64) << 20),
        source_sha256: None,
        image: None,
    };
    let numbers: Vec<usize> = (0..size).collect();
    for some in numbers.chunks(500) {
        gallery
            .upsert(some.iter().copied().map(item).collect())
            .unwrap();
    }
    drop(gallery);
    let gallery = Gallery::open(&path, Access::ReadWrite, IndexParams::default()).unwrap();
    let set = Arc::new(gallery.view().item_set(&std::collections::BTreeSet::new()));
    gallery.compare_with(Some(Arc::clone(&set))).unwrap();
    let view = gallery.view();

    let queries: Vec<Embedding> = (0..SEARCHES).map(|query| drawn(7 + query as u64)).collect();
    let probe = Probe::nearest(5);
    let best: Vec<_> = queries
        .iter()
        .map(|query| view.nearest(query, &probe).unwrap().swap_remove(0))
        .collect();
    let search = seconds(|| {
        for query in &queries {
            black_box(view.nearest(query, &probe).unwrap());
        }
    });
    let coverage = seconds(|| {
        for _ in &queries {
            black_box(gallery.view().in_common_with(&set));
        }
    });
    let accepted = seconds(|| {
        for found in &best {
            gallery.check_item(&found.item, &found.vector).unwrap();
        }
    });
    println!(
        "{size} items, {}: search {:.1} us",
        if view.is_approximate() {
            "index"
        } else {
            "scan"
        },
        1e6 * search
    );
    for (what, took) in [
        ("coverage", coverage),
        ("checksum of what is accepted", accepted),
    ] {
        println!(
            "  {what}: {:.2} us, {:.2} % of the search alone, {:.3} % with its image",
            1e6 * took,
            100.0 * took / search,
            100.0 * took / (search + IMAGE_SECONDS)
        );
    }
}

/// The time of one of [`SEARCHES`] searches, from the fastest of five rounds.
fn seconds(mut round: impl FnMut()) -> f64 {
    let rounds = (0..5).map(|_| {
        let begun = Instant::now();
        round();
        begun.elapsed().as_secs_f64()
    });
    rounds.fold(f64::INFINITY, f64::min) / SEARCHES as f64
}
