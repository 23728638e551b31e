//! A deployment of vectors that are made elsewhere, ready in a moment.

use std::fs;
use std::path::Path;
use std::sync::OnceLock;

use tempfile::TempDir;

use super::{run, text};

pub const LABELS: usize = 60;
pub const COMPONENTS: usize = 16;

/// A vector of a label: the same for the same numbers, and near to the label's others.
pub fn vector(label: usize, number: usize) -> Vec<f32> {
    let wave = |axis: usize| {
        let own = (label * 31 + axis * 17) % 97;
        let noise = (label * 7 + number * 13 + axis * 29) % 23;
        f32::from(u8::try_from(own).unwrap()) - 48.0
            + f32::from(u8::try_from(noise).unwrap()) / 10.0
    };
    (0..COMPONENTS).map(wave).collect()
}

/// A `.npy` file of little-endian `f32`, as numpy writes it.
pub fn npy(rows: &[impl AsRef<[f32]>]) -> Vec<u8> {
    let components = rows.first().map_or(0, |row| row.as_ref().len());
    let mut header = format!(
        "{{'descr': '<f4', 'fortran_order': False, 'shape': ({}, {components}), }}",
        rows.len()
    );
    header.push_str(&" ".repeat(63 - (10 + header.len()) % 64));
    header.push('\n');
    let mut file = b"\x93NUMPY\x01\x00".to_vec();
    file.extend(u16::try_from(header.len()).unwrap().to_le_bytes());
    file.extend(header.as_bytes());
    let values = rows.iter().flat_map(AsRef::as_ref);
    file.extend(values.flat_map(|value| value.to_le_bytes()));
    file
}

/// Builds a deployment of vectors that are made elsewhere.
pub fn build_shop(at: &Path, more: &[&str]) {
    build_shop_of(at, 0, more);
}

/// The same, of each label's vectors from a number on.
pub fn build_shop_of(at: &Path, first: usize, more: &[&str]) {
    let (mut bytes, mut list) = (Vec::new(), String::from("id,label\n"));
    for label in 0..LABELS {
        for number in 0..3 {
            bytes.extend(u32::try_from(COMPONENTS).unwrap().to_le_bytes());
            for value in vector(label, first + number) {
                bytes.extend(value.to_le_bytes());
            }
            list.push_str(&format!("{label}/{number},label {label}\n"));
        }
    }
    let (vectors, labels) = (at.with_extension("fvecs"), at.with_extension("csv"));
    fs::write(&vectors, bytes).unwrap();
    fs::write(&labels, list).unwrap();
    let build = [
        "build",
        text_of(at),
        "--embeddings",
        text_of(&vectors),
        "--labels",
        text_of(&labels),
    ];
    let built = run(&[&build[..], &["--vectors-of", "x"], more].concat());
    assert!(built.status.success(), "{}", text(&built.stderr));
}

/// Adds an operating point, of the gallery alone.
pub fn calibrate_shop(at: &Path, target_far: &str) {
    let calibrate = [
        "calibrate",
        text_of(at),
        "--gallery-as-queries",
        "--target-far",
        target_far,
    ];
    let done = run(&calibrate);
    assert!(done.status.success(), "{}", text(&done.stderr));
}

/// A deployment with two operating points; made once for each test process.
pub fn shop() -> &'static Path {
    static SHOP: OnceLock<TempDir> = OnceLock::new();
    let folder = SHOP.get_or_init(|| {
        let folder = TempDir::new().unwrap();
        let at = folder.path().join("shop");
        build_shop(&at, &[]);
        for far in ["0.2", "0.1"] {
            calibrate_shop(&at, far);
        }
        folder
    });
    Box::leak(folder.path().join("shop").into_boxed_path())
}

fn text_of(path: &Path) -> &str {
    path.to_str().unwrap()
}
