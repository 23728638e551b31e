//! Files that are damaged, deceitful or merely odd: each has an answer, and none a panic.
#![expect(
    clippy::unwrap_used,
    reason = "a fixture that cannot be read fails the test"
)]

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use matchpoint_embed::pixels::{
    AspectFit, BYTES_MAX, Conventions, DECODE_BYTES_MAX, Geometry, ImageLimits, JpegScale, Pixels,
    PixelsError, ResizeFilter, Resizer, decoding_bytes, precheck,
};
use proptest::prelude::{ProptestConfig, any, prop, prop_assert, proptest};

const LIMITS: ImageLimits = ImageLimits {
    bytes_max: BYTES_MAX,
    decode_bytes_max: DECODE_BYTES_MAX,
};
const WHITE: [u8; 3] = [255; 3];
const PICTURES: [&str; 8] = [
    "picture.jpg",
    "progressive.jpg",
    "picture.png",
    "picture.webp",
    "no_background.webp",
    "animated.webp",
    "animated.gif",
    "picture.bmp",
];

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/hostile")
}

fn read(name: &str) -> Vec<u8> {
    fs::read(folder().join(name)).unwrap()
}

fn decode(name: &str) -> Pixels {
    Pixels::decode(&read(name), &LIMITS, WHITE).unwrap()
}

/// The rows of expected.csv: a file, and what is to become of it.
fn expected() -> Vec<(String, String)> {
    let table = fs::read_to_string(folder().join("expected.csv")).unwrap();
    let rows = table
        .lines()
        .skip(1)
        .map(|row| row.split_once(',').unwrap());
    rows.map(|(name, outcome)| (name.to_owned(), outcome.to_owned()))
        .collect()
}

fn outcome(bytes: &[u8]) -> String {
    let name = match Pixels::decode(bytes, &LIMITS, WHITE) {
        Ok(pixels) => return format!("ok {}x{}", pixels.width(), pixels.height()),
        Err(PixelsError::Empty) => "Empty",
        Err(PixelsError::TooManyBytes { .. }) => "TooManyBytes",
        Err(PixelsError::UnsupportedFormat { .. }) => "UnsupportedFormat",
        Err(PixelsError::UnsupportedFeature { .. }) => "UnsupportedFeature",
        Err(PixelsError::TooMuchMemory { .. }) => "TooMuchMemory",
        Err(PixelsError::SideTooLong { .. }) => "SideTooLong",
        Err(PixelsError::TooManyScans { .. }) => "TooManyScans",
        Err(PixelsError::NoMemory { .. }) => "NoMemory",
        Err(PixelsError::Truncated { .. }) => "Truncated",
        Err(PixelsError::Undecodable { .. }) => "Undecodable",
        Err(PixelsError::Geometry { .. }) => "Geometry",
    };
    name.to_owned()
}

fn distance_max(a: &Pixels, b: &Pixels) -> u8 {
    assert_eq!((a.width(), a.height()), (b.width(), b.height()));
    a.as_rgb()
        .iter()
        .zip(b.as_rgb())
        .map(|(a, b)| a.abs_diff(*b))
        .max()
        .unwrap()
}

#[test]
fn every_file_has_the_outcome_that_is_written_beside_it() {
    let rows = expected();
    for (name, expected) in &rows {
        assert_eq!(&outcome(&read(name)), expected, "{name}");
    }
    let files = fs::read_dir(folder()).unwrap().count();
    assert_eq!(files, rows.len() + ["make.py", "expected.csv"].len());
}

#[test]
fn bombs_are_refused_at_once_and_without_memory() {
    let before = memory_peak_kib();
    for (name, expected) in expected() {
        if !name.starts_with("bomb_") {
            continue;
        }
        let bytes = read(&name);
        let start = Instant::now();
        assert_eq!(outcome(&bytes), expected, "{name}");
        let time = start.elapsed();
        let time_max = Duration::from_millis(if expected.starts_with("ok") { 500 } else { 50 });
        assert!(time < time_max, "{name} took {time:?}");
    }
    if let (Some(before), Some(after)) = (before, memory_peak_kib()) {
        assert!(
            after - before < 64 << 10,
            "the peak grew from {before} to {after} KiB"
        );
    }
}

/// The most memory that this process has had resident; `None` where the system does not say.
fn memory_peak_kib() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.split_whitespace().next()?.parse().ok()
}

#[test]
fn limits_are_inclusive() {
    let bytes = read("picture.png");
    let exact = ImageLimits {
        bytes_max: bytes.len(),
        decode_bytes_max: 3 * 48 * 32,
    };
    assert!(Pixels::decode(&bytes, &exact, WHITE).is_ok());
    let short = ImageLimits {
        bytes_max: bytes.len() - 1,
        ..exact
    };
    let refused = Pixels::decode(&bytes, &short, WHITE).unwrap_err();
    assert_eq!(
        refused,
        PixelsError::TooManyBytes {
            bytes: bytes.len(),
            max: bytes.len() - 1
        }
    );
    let small = ImageLimits {
        decode_bytes_max: 3 * 48 * 32 - 1,
        ..exact
    };
    let refused = Pixels::decode(&bytes, &small, WHITE).unwrap_err();
    assert_eq!(
        refused,
        PixelsError::TooMuchMemory {
            width: 48,
            height: 32,
            bytes: 3 * 48 * 32,
            max: 3 * 48 * 32 - 1
        }
    );
}

#[test]
fn a_file_cut_anywhere_is_refused_or_has_lost_no_pixel() {
    for name in PICTURES {
        let (bytes, whole) = (read(name), decode(name));
        for length in 0..bytes.len() {
            match Pixels::decode(&bytes[..length], &LIMITS, WHITE) {
                Err(_) => {}
                Ok(pixels) => assert!(pixels == whole, "{name} cut to {length} of {}", bytes.len()),
            }
        }
    }
}

#[test]
fn a_jpeg_cut_at_any_tenth_is_refused_as_cut() {
    for name in ["picture.jpg", "progressive.jpg", "orientation1.jpg"] {
        let bytes = read(name);
        for tenth in 1..10 {
            assert_eq!(
                outcome(&bytes[..bytes.len() * tenth / 10]),
                "Truncated",
                "{name} {tenth}"
            );
        }
    }
}

#[test]
fn every_orientation_is_turned_upright() {
    let upright = decode("orientation1.jpg");
    assert!(distance_max(&upright, &decode("picture.png")) < 40);
    for orientation in 2..=8 {
        let turned = decode(&format!("orientation{orientation}.jpg"));
        let distance = distance_max(&turned, &upright);
        assert!(
            distance <= 24,
            "orientation {orientation} is off by {distance}"
        );
    }
    assert_eq!(decode("orientation6.png"), decode("picture.png"));
    assert_eq!(decode("orientation6.webp"), decode("picture.png"));
}

#[test]
fn an_orientation_counts_in_every_type_and_behind_the_pixels() {
    let upright = decode("orientation1.jpg");
    assert!(distance_max(&decode("orientation6_long.jpg"), &upright) <= 24);
    assert_eq!(decode("orientation6_late.png"), decode("picture.png"));
}

#[test]
fn a_jpeg_that_lacks_no_pixel_is_decoded_whatever_stands_between() {
    let plain = decode("picture.jpg");
    for name in [
        "stray_before_end.jpg",
        "zeros_before_end.jpg",
        "bytes_between_segments.jpg",
        "jfif_2.jpg",
        "adobe_3.jpg",
        "profile_without_beginning.jpg",
        "spectrum_of_scan.jpg",
        "bytes_after_the_end.jpg",
    ] {
        assert_eq!(decode(name), plain, "{name}");
    }
}

#[test]
fn strays_behind_any_scan_are_passed_over_and_hide_no_loss() {
    let plain = read("progressive.jpg");
    let pixels = Pixels::decode(&plain, &LIMITS, WHITE).unwrap();
    let first = plain.windows(2).position(|two| two == [0xff, 0xda]);
    let first = first.unwrap();
    // The tables of the next scan follow each scan but the last ones.
    let ends = plain.windows(2).enumerate().skip(first);
    let ends = ends.filter(|(_, two)| *two == [0xff, 0xc4]);
    let ends: Vec<usize> = ends.map(|(at, _)| at).collect();
    assert!(5 < ends.len(), "{}", ends.len());
    let with = |file: &[u8], at: usize, strays: &[u8]| {
        let (before, after) = file.split_at(at);
        [before, strays, after].concat()
    };
    let mut all = plain.clone();
    for end in ends.iter().rev() {
        for strays in [&[0][..], &[0; 300]] {
            let decoded = Pixels::decode(&with(&plain, *end, strays), &LIMITS, WHITE);
            assert_eq!(decoded.as_ref(), Ok(&pixels), "{end} {strays:?}");
        }
        let many = with(&plain, *end, b"many other bytes");
        assert_eq!(outcome(&many), "Undecodable", "{end}");
        let strays = if *end == ends[0] {
            [0x55, 0x07]
        } else {
            [0; 2]
        };
        all = with(&all, *end, &strays);
    }
    let decoded = Pixels::decode(&all, &LIMITS, WHITE);
    assert_eq!(decoded.as_ref(), Ok(&pixels));

    // Scans are missing, although nothing is cut.
    for end in &ends {
        let coarser = [&plain[..*end], b"\xff\xd9"].concat();
        assert_eq!(outcome(&coarser), "Undecodable", "{end}");
    }
    // The first scan has strays, and a later one lacks bytes.
    let lost = ends[2] - 6;
    let file = [&plain[..lost], &plain[ends[2]..]].concat();
    assert_eq!(outcome(&file), "Undecodable");
    assert_eq!(outcome(&with(&file, ends[0], &[0; 3])), "Undecodable");
}

#[test]
fn a_screen_that_is_too_small_is_widened_to_its_first_frame() {
    let whole = decode("animated.gif");
    let size = |pixels: &Pixels| (pixels.width(), pixels.height());
    for name in ["screen_0x0.gif", "screen_smaller.gif"] {
        assert!(distance_max(&decode(name), &whole) < 60, "{name}");
    }
    assert_eq!(size(&decode("screen_0x0_other.gif")), (30, 20));
}

/// A grey JPEG of one level: each block is a difference of 0 and its end, in six bits.
fn flat_jpeg(width: u16, height: u16) -> Vec<u8> {
    let file = read("grey.jpg");
    let at = |marker: u8| {
        file.windows(2)
            .position(|two| two == [0xff, marker])
            .unwrap()
    };
    let (frame, scan) = (at(0xc0), at(0xda));
    let blocks = usize::from(width.div_ceil(8)) * usize::from(height.div_ceil(8));
    assert_eq!(blocks % 4, 0, "whole bytes");
    let parts: [&[u8]; 6] = [
        file.get(..frame + 5).unwrap(),
        &height.to_be_bytes(),
        &width.to_be_bytes(),
        file.get(frame + 9..scan + 10).unwrap(),
        &[0x28, 0xa2, 0x8a].repeat(blocks / 4),
        &[0xff, 0xd9],
    ];
    parts.concat()
}

#[test]
fn the_largest_pictures_of_phones_are_decoded_at_a_reduced_scale() {
    let mut geometry = Geometry {
        width: 224,
        height: 224,
        fit: AspectFit::Squash,
        filter: ResizeFilter::Bilinear,
        jpeg: JpegScale::Reduced,
        conventions: Conventions::default(),
        grey: false,
    };
    let mut resizer = Resizer::new();
    // 48, 108 and 200 megapixels.
    for (width, height) in [(8064, 6048), (12_000, 9000), (16_320, 12_240)] {
        let file = flat_jpeg(width, height);
        let memory = decoding_bytes(&file, &LIMITS, &geometry);
        assert!(memory < 16 << 20, "{width} x {height}: {memory} bytes");
        let pixels = resizer
            .decode(&file, &LIMITS, WHITE, &geometry)
            .unwrap()
            .pixels;
        assert!(
            pixels
                .as_rgb()
                .iter()
                .all(|level| *level == pixels.as_rgb()[0])
        );
    }
    geometry.jpeg = JpegScale::Full;
    let file = flat_jpeg(16_320, 12_240);
    assert_eq!(decoding_bytes(&file, &LIMITS, &geometry), 0);
    let refused = resizer.decode(&file, &LIMITS, WHITE, &geometry);
    assert!(matches!(refused, Err(PixelsError::TooMuchMemory { .. })));
    assert_eq!(precheck(&file, &LIMITS), Ok(()));
}

#[test]
fn of_an_animation_the_first_frame_is_taken() {
    assert_eq!(decode("animated.png"), decode("picture.png"));
    assert_eq!(decode("animated.webp"), decode("picture.png"));
    // 64 colours stand for all of them in the GIF; the other frames are plain red and green.
    assert!(distance_max(&decode("animated.gif"), &decode("picture.png")) < 60);
}

#[test]
fn transparency_shows_the_background() {
    let (over_black, over_white) = (
        Pixels::decode(&read("rgba.png"), &LIMITS, [0; 3]).unwrap(),
        Pixels::decode(&read("rgba.png"), &LIMITS, WHITE).unwrap(),
    );
    let opaque = decode("picture.png");
    let rows = |pixels: &Pixels| -> Vec<Vec<u8>> {
        pixels.as_rgb().chunks(3 * 48).map(<[u8]>::to_vec).collect()
    };
    let (black, white, opaque) = (rows(&over_black), rows(&over_white), rows(&opaque));
    assert!(black[0].iter().all(|&value| value < 16) && white[0].iter().all(|&value| 240 < value));
    let last = black.len() - 1;
    assert!(
        black[last]
            .iter()
            .zip(&opaque[last])
            .all(|(a, b)| a.abs_diff(*b) < 16)
    );
    // The same weight of background is missing from one and present in the other.
    for (black, white) in black.iter().zip(&white) {
        let weights: Vec<u8> = white.iter().zip(black).map(|(w, b)| w - b).collect();
        assert!(
            weights
                .iter()
                .all(|weight| weight.abs_diff(weights[0]) <= 1)
        );
    }
}

#[test]
fn sixteen_bits_are_scaled_to_eight_and_not_clipped() {
    let grey = decode("grey16.png");
    for (x, pixel) in grey.as_rgb().chunks(3).take(48).enumerate() {
        let scaled = (x * 1300 + 128) / 257;
        assert!(
            pixel
                .iter()
                .all(|&value| usize::from(value).abs_diff(scaled) <= 1),
            "{x}"
        );
    }
    assert_eq!(decode("interlaced_rgb16.png").as_rgb(), [255, 128, 0]);
}

#[test]
fn grey_and_palette_become_the_colours_that_they_stand_for() {
    let grey = decode("grey.png");
    assert!(
        grey.as_rgb()
            .chunks(3)
            .all(|pixel| pixel[0] == pixel[1] && pixel[1] == pixel[2])
    );
    assert!(distance_max(&decode("grey.jpg"), &grey) < 40);
    assert!(distance_max(&decode("rgb_not_ycc.jpg"), &decode("picture.png")) < 40);
    assert!(distance_max(&decode("palette.png"), &decode("picture.png")) < 80);
    let transparent = decode("palette_transparent.png");
    assert!(transparent.as_rgb().chunks(3).any(|pixel| pixel == WHITE));
}

#[test]
fn an_unsupported_type_is_named_together_with_those_that_would_do() {
    for (name, detected) in [
        ("picture.tiff", "TIFF"),
        ("header.avif", "AVIF"),
        ("header.heic", "Most Compatible"),
        ("picture.tga", "TGA"),
        ("leading_newline.jpg", "other bytes before a JPEG"),
        ("pointer.jpg", "Git LFS"),
        ("page.jpg", "HTML"),
        ("vector.svg", "SVG"),
        ("document.pdf", "PDF"),
        ("text.jpg", "plain text"),
        ("base64.txt", "base64"),
        ("random.jpg", "unknown data"),
    ] {
        let message = Pixels::decode(&read(name), &LIMITS, WHITE)
            .unwrap_err()
            .to_string();
        assert!(message.contains(detected), "{name}: {message}");
        assert!(
            message.contains("JPEG, PNG, WebP, GIF or BMP"),
            "{name}: {message}"
        );
    }
}

#[test]
fn a_kind_of_a_supported_type_that_is_not_read_is_named() {
    for (name, feature) in [
        ("arithmetic.jpg", "arithmetic coding"),
        ("lossless.jpg", "lossless"),
        ("twelve_bits.jpg", "12 bits"),
        ("jpeg_ls.jpg", "JPEG-LS"),
        ("iphone_optimised.png", "CgBI"),
        ("partial_first_frame.png", "first frame"),
    ] {
        let refused = Pixels::decode(&read(name), &LIMITS, WHITE).unwrap_err();
        assert!(
            matches!(refused, PixelsError::UnsupportedFeature { .. }),
            "{name}"
        );
        assert!(refused.to_string().contains(feature), "{name}: {refused}");
    }
}

/// Whether what was decoded breaks its own promises. A panic on the way fails the test, too.
fn is_inconsistent(bytes: &[u8]) -> bool {
    let small = ImageLimits {
        bytes_max: BYTES_MAX,
        decode_bytes_max: 1 << 20,
    };
    Pixels::decode(bytes, &small, WHITE).is_ok_and(|pixels| {
        let area = u64::from(pixels.width()) * u64::from(pixels.height());
        area == 0 || small.decode_bytes_max < 3 * area || pixels.as_rgb().len() as u64 != 3 * area
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(300) })]

    #[test]
    fn arbitrary_bytes_never_panic(
        bytes in prop::collection::vec(any::<u8>(), 0..2000),
        signature in 0..PICTURES.len() + 1,
        kept in 2..40_usize,
    ) {
        let mut file = PICTURES.get(signature).map(|name| read(name)).unwrap_or_default();
        file.truncate(kept);
        file.extend(bytes);
        prop_assert!(!is_inconsistent(&file));
    }

    #[test]
    fn mutations_of_good_files_never_panic(
        picture in 0..PICTURES.len(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
    ) {
        let mut file = read(PICTURES[picture]);
        for (index, byte) in changes {
            let at = index.index(file.len());
            file[at] = byte;
        }
        prop_assert!(!is_inconsistent(&file));
    }
}
