//! Decoding and resizing, file by file: milliseconds each, as `benches/peers/pixels.py` reads them.
//!
//! `cargo bench --bench pixels -- FILE...`

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a benchmark prints its figures, and fails by panicking"
)]

use std::time::{Duration, Instant};

use matchpoint::pixels::{BYTES_MAX, Filter, Fit, Geometry, Limits, PIXELS_MAX, Pixels, Resizer};

/// Each file is measured for so long, and at least three times.
const LASTING: Duration = Duration::from_millis(700);

fn main() {
    let limits = Limits {
        bytes_max: BYTES_MAX * 4,
        pixels_max: PIXELS_MAX,
    };
    let geometry = Geometry {
        width: 224,
        height: 224,
        fit: Fit::Squash,
        filter: Filter::Bilinear,
    };
    let mut resizer = Resizer::new();
    // `cargo bench` adds options of its own.
    for file in std::env::args()
        .skip(1)
        .filter(|one| !one.starts_with("--"))
    {
        let bytes = std::fs::read(&file).unwrap();
        let (mut decode, mut resize) = (Duration::MAX, Duration::MAX);
        let (mut runs, started) = (0, Instant::now());
        while runs < 3 || started.elapsed() < LASTING {
            let begun = Instant::now();
            let pixels = Pixels::decode(&bytes, &limits, [255; 3]).unwrap();
            decode = decode.min(begun.elapsed());
            let begun = Instant::now();
            let resized = resizer.resize(&pixels, &geometry).unwrap();
            resize = resize.min(begun.elapsed());
            assert_eq!(resized.as_rgb().len(), 3 * 224 * 224);
            runs += 1;
        }
        let ms = |took: Duration| took.as_secs_f64() * 1e3;
        println!("{file},{:.3},{:.3}", ms(decode), ms(resize));
    }
}
