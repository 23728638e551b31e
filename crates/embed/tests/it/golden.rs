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

use matchpoint_embed::pixels::{
    AspectFit, BYTES_MAX, CanvasPosition, Conventions, DECODE_BYTES_MAX, Geometry, ImageLimits,
    JpegScale, Margin, OpenCv, Pixels, ResizeFilter, Resizer, Rounding,
};
use sha2::{Digest, Sha256};

const LIMITS: ImageLimits = ImageLimits {
    bytes_max: BYTES_MAX,
    decode_bytes_max: DECODE_BYTES_MAX,
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

fn resized(path: &Path, fit: AspectFit, filter: ResizeFilter) -> Pixels {
    let geometry = Geometry {
        width: 224,
        height: 224,
        fit,
        filter,
        jpeg: JpegScale::Full,
        conventions: Conventions::default(),
        grey: false,
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
        let ours = resized(
            &oracle().join(name),
            AspectFit::Squash,
            ResizeFilter::Bilinear,
        );
        let Distance { max, mean } = Distance::between(&ours, &decode(&oracle().join(reference)));
        println!("{name:50} max {max} mean {mean:.4}");
        assert_eq!(max, 0, "{name}");
        images += 1;
    }
    assert_eq!(images, 16);
}

#[test]
fn every_format_and_colour_type_is_decoded_as_the_reference_does() {
    let mut files = 0;
    for file in fs::read_dir(oracle().join("formats")).unwrap() {
        let path = file.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        if name.ends_with(".reference.png") {
            continue;
        }
        let reference = decode(&path.with_file_name(format!("{name}.reference.png")));
        let Distance { max, mean } = Distance::between(&decode(&path), &reference);
        println!("{name:25} max {max} mean {mean:.4}");
        assert_eq!(max, 0, "{name}");
        files += 1;
    }
    assert_eq!(files, 19);
}

/// What Pillow says of the odd files: name, size or `refused`, digest of the pixels.
fn odd_files() -> Vec<[String; 3]> {
    let table = fs::read_to_string(oracle().join("odd/pillow.csv")).unwrap();
    let rows = table.lines().skip(1);
    rows.map(|row| {
        let columns: Vec<String> = row.split(',').map(str::to_owned).collect();
        columns.try_into().unwrap()
    })
    .collect()
}

#[test]
fn an_odd_file_has_the_pixels_of_the_reference_or_none() {
    let (mut same, mut refused) = (0, 0);
    for [name, size, sha256] in odd_files() {
        let bytes = fs::read(oracle().join("odd").join(&name)).unwrap();
        match Pixels::decode(&bytes, &LIMITS, [255, 0, 127]) {
            // What Pillow refuses has no pixels to differ from.
            Ok(_) if size == "refused" => {}
            Ok(pixels) => {
                let ours = format!("{}x{}", pixels.width(), pixels.height());
                assert_eq!((ours, hex_digest(&pixels)), (size, sha256), "{name}");
                same += 1;
            }
            Err(_) if size == "refused" => refused += 1,
            Err(error) => println!("{name}: Pillow decodes it, and here {error}"),
        }
    }
    assert_eq!((same, refused), (89, 7));
}

/// SHA-256 of pixels, in hexadecimal digits.
fn hex_digest(pixels: &Pixels) -> String {
    let digest = Sha256::digest(pixels.as_rgb());
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Brought to a size of which there are at least three times as many pixels in half of the image.
fn reduced(jpeg: &[u8], size: (u32, u32), fit: AspectFit, scale: JpegScale) -> Pixels {
    let geometry = Geometry {
        width: size.0,
        height: size.1,
        fit,
        filter: ResizeFilter::Bilinear,
        jpeg: scale,
        conventions: Conventions::default(),
        grey: false,
    };
    Resizer::new()
        .decode(jpeg, &LIMITS, WHITE, &geometry)
        .unwrap()
        .pixels
}

#[test]
fn a_jpeg_decoded_at_a_reduced_scale_is_a_few_grey_levels_away() {
    let fits = [
        AspectFit::Squash,
        AspectFit::Crop { short_side: 24 },
        AspectFit::Pad { fill: [9; 3] },
    ];
    for (name, size) in [
        ("monuments_egypt_bentPyramid_q1_rotpersp.jpg", (24, 24)),
        ("others_weighingMachine_q3_lowres.jpg", (24, 20)),
        ("tools_multimeter1_q2_photometric.jpg", (20, 24)), // 150 x 256: the last blocks are cut
        ("renewable_windmill8_q2_photometric.jpg", (10, 10)), // reduced to a quarter
    ] {
        let jpeg = fs::read(oracle().join(name)).unwrap();
        for fit in fits {
            let full = reduced(&jpeg, size, fit, JpegScale::Full);
            let small = reduced(&jpeg, size, fit, JpegScale::Reduced);
            let Distance { max, mean } = Distance::between(&small, &full);
            println!("{name:45} {fit:?} max {max} mean {mean:.4}");
            assert_ne!(small, full, "{name} {fit:?}: nothing was reduced");
            assert!(max <= 12 && mean < 0.8, "{name} {fit:?}: {max}, {mean}");
        }
    }
}

#[test]
fn a_jpeg_of_which_too_little_would_be_left_is_decoded_at_its_own_scale() {
    let jpeg = fs::read(oracle().join("monuments_egypt_bentPyramid_q1_rotpersp.jpg")).unwrap();
    let size = (43, 32); // 256 x 192: 2.98 pixels of a half for one of these
    let full = reduced(&jpeg, size, AspectFit::Squash, JpegScale::Full);
    assert_eq!(
        reduced(&jpeg, size, AspectFit::Squash, JpegScale::Reduced),
        full
    );
}

#[test]
fn a_turned_jpeg_that_is_reduced_shows_what_it_shows_unreduced() {
    // 150 x 256 and 171: cells of two, four and eight do not divide them.
    for name in [
        "tools_multimeter1_q2_photometric.jpg",
        "renewable_windmill8_q2_photometric.jpg",
    ] {
        let jpeg = fs::read(oracle().join(name)).unwrap();
        for orientation in 1..=8 {
            let turned = with_orientation(&jpeg, orientation);
            for size in [(20, 20), (9, 9)] {
                let full = reduced(&turned, size, AspectFit::Squash, JpegScale::Full);
                let small = reduced(&turned, size, AspectFit::Squash, JpegScale::Reduced);
                let Distance { max, mean } = Distance::between(&small, &full);
                assert!(
                    max <= 14 && mean < 0.9,
                    "{name} {orientation} {size:?}: {max}, {mean}"
                );
            }
        }
    }
}

/// The same JPEG with an EXIF orientation, right after its first marker.
fn with_orientation(jpeg: &[u8], orientation: u8) -> Vec<u8> {
    let mut tiff = b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0".to_vec();
    tiff.extend([orientation, 0, 0, 0, 0, 0, 0]);
    let length = u8::try_from(2 + 6 + tiff.len()).unwrap();
    let segment = [b"\xff\xe1\0", &[length][..], b"Exif\0\0", &tiff].concat();
    let (start, rest) = jpeg.split_at(2);
    [start, &segment, rest].concat()
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
            fit: AspectFit::Squash,
            filter: filter_named(filter),
            jpeg: JpegScale::Full,
            conventions: Conventions::default(),
            grey: false,
        };
        let resized = resizer.resize(&noise(width, height), &geometry).unwrap();
        let digest = hex_digest(&resized);
        assert_eq!(Some(&&*digest), columns.get(5), "{row}");
    }
    assert_eq!(rows.lines().count(), 56);
}

/// One row of what `scripts/make_geometry_fixture.py` prints, but for its end.
fn geometry_of(columns: &[&str]) -> ((u32, u32), Geometry) {
    let [width, height, target_width, target_height] =
        [0, 1, 2, 3].map(|column: usize| columns.get(column).unwrap().parse().unwrap());
    let cell = |column: usize| columns.get(column).copied().unwrap();
    let words: Vec<&str> = cell(4).split(' ').collect();
    let fit = match words.as_slice() {
        ["squash"] => AspectFit::Squash,
        ["squash_crop", width, height] => AspectFit::SquashCrop {
            width: width.parse().unwrap(),
            height: height.parse().unwrap(),
        },
        ["crop", short_side] => AspectFit::Crop {
            short_side: short_side.parse().unwrap(),
        },
        other => {
            assert_eq!(other, ["pad"]);
            AspectFit::Pad {
                fill: [255, 0, 127],
            }
        }
    };
    let side = [
        ("down", Rounding::Down),
        ("nearest", Rounding::Nearest),
        ("up", Rounding::Up),
    ];
    let side = side.into_iter().find(|(name, _)| *name == cell(6));
    let geometry = Geometry {
        width: target_width,
        height: target_height,
        fit,
        filter: filter_named(cell(5)),
        jpeg: JpegScale::Full,
        conventions: Conventions {
            side: side.map(|(_, side)| side),
            margin: if cell(7) == "down" {
                Margin::Down
            } else {
                Margin::Even
            },
            place: if cell(8) == "top_left" {
                CanvasPosition::TopLeft
            } else {
                CanvasPosition::Centre
            },
        },
        grey: cell(9) == "grey",
    };
    ((width, height), geometry)
}

#[test]
fn what_libraries_do_differently_is_done_to_the_last_bit() {
    assert_eq!(rows_that_agree("geometry.csv"), 178);
    assert_eq!(rows_that_agree("libraries.csv"), 440);
}

/// How many rows there are; all of them must agree to the last bit.
fn rows_that_agree(file: &str) -> usize {
    let rows = fs::read_to_string(oracle().join(file)).unwrap();
    let mut resizer = Resizer::new();
    for row in rows.lines().skip(1) {
        let columns: Vec<&str> = row.split(',').collect();
        let ((width, height), geometry) = geometry_of(&columns);
        let resized = resizer.resize(&noise(width, height), &geometry).unwrap();
        let digest: String = Sha256::digest(resized.as_rgb())
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        assert_eq!(Some(&&*digest), columns.get(10), "{row}");
    }
    rows.lines().skip(1).count()
}

#[test]
fn the_cubic_interpolation_is_within_a_grey_level_of_the_library() {
    let mut files = 0;
    for file in fs::read_dir(oracle().join("opencv_cubic")).unwrap() {
        let path = file.unwrap().path();
        let stem = path.file_stem().unwrap().to_str().unwrap();
        let sides: Vec<u32> = stem
            .split(['x', '-'])
            .map(|side| side.parse().unwrap())
            .collect();
        let [width, height, target_width, target_height] = sides.try_into().unwrap();
        let geometry = Geometry {
            width: target_width,
            height: target_height,
            fit: AspectFit::Squash,
            filter: ResizeFilter::OpenCv(OpenCv::Cubic),
            jpeg: JpegScale::Full,
            conventions: Conventions::default(),
            grey: false,
        };
        let source = noise(width, height);
        let resized = Resizer::new().resize(&source, &geometry).unwrap();
        let Distance { max, mean } = Distance::between(&resized, &decode(&path));
        println!("{stem:20} max {max} mean {mean:.4}");
        assert!(max <= 1 && mean < 0.1, "{stem}: {max}, {mean}");
        files += 1;
    }
    assert_eq!(files, 3);
}

fn filter_named(name: &str) -> ResizeFilter {
    match name {
        "opencv_linear" => ResizeFilter::OpenCv(OpenCv::Linear),
        "opencv_lanczos4" => ResizeFilter::OpenCv(OpenCv::Lanczos4),
        "opencv_area" => ResizeFilter::OpenCv(OpenCv::Area),
        "box" => ResizeFilter::Box,
        "bilinear" => ResizeFilter::Bilinear,
        "hamming" => ResizeFilter::Hamming,
        "bicubic" => ResizeFilter::Bicubic,
        other => {
            assert_eq!(other, "lanczos");
            ResizeFilter::Lanczos
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
            "squash" => AspectFit::Squash,
            "crop" => AspectFit::Crop { short_side: 256 },
            other => {
                assert_eq!(other, "pad");
                AspectFit::Pad {
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
