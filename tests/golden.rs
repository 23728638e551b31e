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
use std::path::{Path, PathBuf};

use matchpoint::pixels::{BYTES_MAX, Filter, Fit, Geometry, Limits, PIXELS_MAX, Pixels, Resizer};

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
fn resized_pixels_stay_within_three_grey_levels_of_the_reference() {
    let files = fs::read_to_string(oracle().join("files.csv")).unwrap();
    let mut images = 0;
    for row in files.lines().skip(1) {
        let mut columns = row.split(',');
        let name = columns.next().unwrap();
        let reference = columns.nth(2).unwrap();
        let ours = resized(&oracle().join(name), Fit::Squash, Filter::Bilinear);
        let Distance { max, mean } = Distance::between(&ours, &decode(&oracle().join(reference)));
        println!("{name:50} max {max} mean {mean:.4}");
        let (max_allowed, mean_allowed) = if name.ends_with(".png") {
            (2, 0.02)
        } else {
            (3, 0.2)
        };
        assert!(
            max <= max_allowed && mean < mean_allowed,
            "{name}: max {max}, mean {mean}"
        );
        images += 1;
    }
    assert_eq!(images, 16);
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
        let filter = match filter {
            "box" => Filter::Box,
            "bilinear" => Filter::Bilinear,
            "hamming" => Filter::Hamming,
            "bicubic" => Filter::Bicubic,
            other => {
                assert_eq!(other, "lanczos");
                Filter::Lanczos
            }
        };
        let (extension, max_allowed) = if name.starts_with("emoji") {
            ("png", 2)
        } else {
            ("jpg", 5)
        };
        let source = oracle().join(name).with_extension(extension);
        let distance = Distance::between(&resized(&source, fit, filter), &decode(&path));
        println!("{stem:50} max {} mean {:.4}", distance.max, distance.mean);
        assert!(distance.max <= max_allowed, "{stem}: max {}", distance.max);
        count += 1;
    }
    assert_eq!(count, 18);
}
