//! Decoding and resizing, file by file, as `benches/peers/pixels.py` reads it: milliseconds of decoding,
//! of resizing, and of both where a large JPEG is decoded at a reduced scale.
//!
//! `cargo bench --bench pixels -- FILE...`; with `PIXELS_OUT=FOLDER` the resized bytes are written there.
//! `cargo bench --bench pixels -- --digests FOLDER` measures nothing: it prints the size and the SHA-256 of
//! the pixels of each file in the folder, or why it is refused, for `scripts/make_odd_pictures.py`.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a benchmark prints its figures, and fails by panicking"
)]

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use matchpoint_embed::pixels::{
    AspectFit, BYTES_MAX, Conventions, DECODE_BYTES_MAX, Geometry, ImageLimits, JpegScale, Pixels,
    ResizeFilter, Resizer,
};
use sha2::{Digest, Sha256};

const WHITE: [u8; 3] = [255; 3];
/// What the odd pictures are laid over.
const BACKGROUND: [u8; 3] = [255, 0, 127];
/// Each file is measured for so long, and at least three times.
const LASTING: Duration = Duration::from_millis(700);

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let mut words = arguments.iter().map(String::as_str);
    if words.find(|word| *word == "--digests").is_some() {
        digests(words.next().unwrap());
        return;
    }
    let limits = ImageLimits {
        bytes_max: BYTES_MAX,
        decode_bytes_max: DECODE_BYTES_MAX,
    };
    let geometry = |jpeg| Geometry {
        width: 224,
        height: 224,
        fit: AspectFit::Squash,
        filter: ResizeFilter::Bilinear,
        jpeg,
        conventions: Conventions::default(),
        grey: false,
    };
    let (full, reduced) = (geometry(JpegScale::Full), geometry(JpegScale::Reduced));
    let out = std::env::var_os("PIXELS_OUT").map(PathBuf::from);
    let mut resizer = Resizer::new();
    // `cargo bench` adds options of its own.
    for file in arguments.iter().filter(|one| !one.starts_with("--")) {
        let bytes = std::fs::read(file).unwrap();
        let (mut decode, mut resize, mut both) = (Duration::MAX, Duration::MAX, Duration::MAX);
        let (mut runs, started) = (0, Instant::now());
        while runs < 3 || started.elapsed() < LASTING {
            let begun = Instant::now();
            let pixels = Pixels::decode(&bytes, &limits, WHITE).unwrap();
            decode = decode.min(begun.elapsed());
            let begun = Instant::now();
            let resized = resizer.resize(&pixels, &full).unwrap();
            resize = resize.min(begun.elapsed());
            drop(pixels);
            let begun = Instant::now();
            let small = resizer
                .decode(&bytes, &limits, WHITE, &reduced)
                .unwrap()
                .pixels;
            both = both.min(begun.elapsed());
            if let (0, Some(out)) = (runs, &out) {
                let name = Path::new(file).file_name().unwrap().to_string_lossy();
                std::fs::write(out.join(format!("{name}.full")), resized.as_rgb()).unwrap();
                std::fs::write(out.join(format!("{name}.reduced")), small.as_rgb()).unwrap();
            }
            runs += 1;
        }
        let ms = |took: Duration| took.as_secs_f64() * 1e3;
        println!("{file},{:.3},{:.3},{:.3}", ms(decode), ms(resize), ms(both));
    }
}

fn digests(folder: &str) {
    let limits = ImageLimits {
        bytes_max: BYTES_MAX,
        decode_bytes_max: DECODE_BYTES_MAX,
    };
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let bytes = std::fs::read(&path).unwrap();
        let answer = match Pixels::decode(&bytes, &limits, BACKGROUND) {
            Ok(pixels) => {
                let digest = Sha256::digest(pixels.as_rgb());
                let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
                format!("{}x{}\t{digest}", pixels.width(), pixels.height())
            }
            Err(refused) => format!("refused\t{refused}"),
        };
        println!("{name}\t{answer}");
    }
}
