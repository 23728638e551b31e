//! What is decoded and resized here against what Pillow made of the same files.
#![expect(
    clippy::unwrap_used,
    reason = "a fixture that cannot be read fails the test"
)]
#![expect(
    clippy::print_stdout,
    reason = "the table of distances, shown when a test fails"
)]

use std::fs;
use std::io::Cursor;
use std::path::{Path, PathBuf};

use matchpoint::pixels::{BYTES_MAX, Filter, Fit, Geometry, Limits, PIXELS_MAX, Pixels, Resizer};
use sha2::{Digest, Sha256};

const LIMITS: Limits = Limits {
    bytes_max: BYTES_MAX,
    pixels_max: PIXELS_MAX,
};
const WHITE: [u8; 3] = [255; 3];

/// How far pixels are from a reference, in grey levels.
struct Distance {
    max: u8,
    mean: f64,
}

impl Distance {
    fn between(ours: &Pixels, reference: &Pixels) -> Self {
        assert_eq!(
            (ours.width(), ours.height()),
            (reference.width(), reference.height())
        );
        let samples = ours.as_rgb().iter().zip(reference.as_rgb());
        let differences: Vec<u8> = samples.map(|(a, b)| a.abs_diff(*b)).collect();
        let sum: f64 = differences.iter().copied().map(f64::from).sum();
        Self {
            max: differences.iter().copied().max().unwrap(),
            mean: sum / f64::from(u32::try_from(differences.len()).unwrap()),
        }
    }
}

fn oracle() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/oracle")
}

fn decode(path: &Path) -> Pixels {
    Pixels::decode(&fs::read(path).unwrap(), &LIMITS, WHITE).unwrap()
}

fn resized(path: &Path, fit: Fit, filter: Filter) -> Pixels {
    let geometry = Geometry {
        width: 224,
        height: 224,
        fit,
        filter,
    };
    Resizer::new().resize(&decode(path), &geometry).unwrap()
}

#[test]
fn decoded_and_resized_pixels_are_those_of_the_reference() {
    let files = fs::read_to_string(oracle().join("files.csv")).unwrap();
    let mut images = 0;
    for row in files.lines().skip(1) {
        let mut columns = row.split(',');
        let name = columns.next().unwrap();
        let reference = columns.nth(2).unwrap();
        let ours = resized(&oracle().join(name), Fit::Squash, Filter::Bilinear);
        let Distance { max, mean } = Distance::between(&ours, &decode(&oracle().join(reference)));
        println!("{name:50} max {max} mean {mean:.4}");
        assert_eq!(max, 0, "{name}");
        images += 1;
    }
    assert_eq!(images, 16);
}

/// What `scripts/make_resize_fixture.py` draws.
fn noise(width: u32, height: u32) -> Pixels {
    let mut state = 1_u32;
    let mut bytes = Vec::new();
    for _ in 0..3 * width * height {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        bytes.push(state.to_be_bytes()[0]);
    }
    let image = image::RgbImage::from_raw(width, height, bytes).unwrap();
    let mut png = Cursor::new(Vec::new());
    image.write_to(&mut png, image::ImageFormat::Png).unwrap();
    Pixels::decode(png.get_ref(), &LIMITS, WHITE).unwrap()
}

#[test]
fn resized_pixels_are_those_of_the_reference_to_the_last_bit() {
    let rows = fs::read_to_string(oracle().join("resize.csv")).unwrap();
    let mut resizer = Resizer::new();
    for row in rows.lines().skip(1) {
        let columns: Vec<&str> = row.split(',').collect();
        let [width, height, target_width, target_height] =
            [0, 1, 2, 3].map(|column: usize| columns.get(column).unwrap().parse().unwrap());
        let filter = columns.get(4).copied().unwrap();
        let geometry = Geometry {
            width: target_width,
            height: target_height,
            fit: Fit::Squash,
            filter: filter_named(filter),
        };
        let resized = resizer.resize(&noise(width, height), &geometry).unwrap();
        let digest: String = Sha256::digest(resized.as_rgb())
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        assert_eq!(Some(&&*digest), columns.get(5), "{row}");
    }
    assert_eq!(rows.lines().count(), 56);
}

fn filter_named(name: &str) -> Filter {
    match name {
        "box" => Filter::Box,
        "bilinear" => Filter::Bilinear,
        "hamming" => Filter::Hamming,
        "bicubic" => Filter::Bicubic,
        other => {
            assert_eq!(other, "lanczos");
            Filter::Lanczos
        }
    }
}

#[test]
fn every_fit_and_filter_resizes_as_the_reference_does() {
    let mut count = 0;
    for entry in fs::read_dir(oracle().join("fits")).unwrap() {
        let path = entry.unwrap().path();
        let stem = path.file_stem().unwrap().to_str().unwrap();
        let (fit, rest) = stem.split_once('-').unwrap();
        let (filter, name) = rest.split_once('-').unwrap();
        let fit = match fit {
            "squash" => Fit::Squash,
            "crop" => Fit::Crop { short_side: 256 },
            other => {
                assert_eq!(other, "pad");
                Fit::Pad {
                    fill: [255, 0, 127],
                }
            }
        };
        let filter = filter_named(filter);
        let extension = if name.starts_with("emoji") {
            "png"
        } else {
            "jpg"
        };
        let source = oracle().join(name).with_extension(extension);
        let distance = Distance::between(&resized(&source, fit, filter), &decode(&path));
        println!("{stem:50} max {} mean {:.4}", distance.max, distance.mean);
        assert_eq!(distance.max, 0, "{stem}");
        count += 1;
    }
    assert_eq!(count, 18);
}
