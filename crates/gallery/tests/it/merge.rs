//! Tests merging several galleries into one: the same rows, or none of them.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use matchpoint_gallery::error::GalleryError;
use matchpoint_gallery::item::{Item, ItemHead};
use matchpoint_gallery::merge::{GalleryMerge, digest_together};
use matchpoint_gallery::params::IndexParams;
use matchpoint_gallery::{Access, Gallery};
use matchpoint_vector::Embedding;
use sha2::{Digest, Sha256};

const ALL: fn(&ItemHead) -> ControlFlow<(), bool> = |_| ControlFlow::Continue(true);

fn item(number: usize, label: &str) -> Item {
    let image = vec![u8::try_from(number).unwrap(); 10];
    Item {
        id: format!("item {number:03}"),
        label: label.to_owned(),
        metadata: [("number".to_owned(), number.to_string())].into(),
        embedding: Embedding::normalise(vec![
            1.0,
            1.0 + u8::try_from(number).map(f32::from).unwrap(),
        ])
        .unwrap(),
        source_sha256: Some(Sha256::digest(&image).into()),
        image: Some(image),
    }
}

fn gallery(path: &Path, items: Vec<Item>) -> String {
    let gallery = Gallery::create(path, 2, "model", "gallery").unwrap();
    gallery.keep_images().unwrap();
    gallery.upsert(items).unwrap();
    gallery.digest()
}

fn open(path: &Path) -> Gallery {
    Gallery::open(path, Access::ReadOnly, IndexParams::default()).unwrap()
}

/// Two galleries, and a path for one with the items of both.
fn place() -> (tempfile::TempDir, [PathBuf; 3]) {
    let root = tempfile::tempdir().unwrap();
    let paths = ["a.db", "b.db", "all.db"].map(|name| root.path().join(name));
    (root, paths)
}

#[test]
fn a_gallery_of_others_has_their_rows_and_the_sum_of_their_digests() {
    let (root, [a, b, all]) = place();
    // Out of order, so that rows and ids have different orders in it.
    let these = vec![item(5, "x"), item(1, "x"), item(3, "y")];
    let those = vec![item(2, "y"), item(9, "z")];
    let one = root.path().join("one.db");
    let together = gallery(&one, [these.clone(), those.clone()].concat());
    let (first, second) = (gallery(&a, these), gallery(&b, those));
    let mut merge = GalleryMerge::create_like(&a, &all, "merged").unwrap();
    merge.keep_images().unwrap();
    assert_eq!(merge.take(&a, &mut { ALL }).unwrap().digest(), first);
    let taken = merge.take(&b, &mut { ALL }).unwrap();
    assert_eq!((taken.inserted, taken.digest()), (2, second.clone()));
    let merged = merge.finish().unwrap();
    assert_eq!((merged.items, &merged.digest), (5, &together));
    assert_eq!(digest_together(&[&first, &second]), Some(together));
    assert_eq!(digest_together(&["no digest"]), None);
    let opened = open(&all);
    assert_eq!(opened.id(), "merged");
    assert_eq!(opened.image("item 009").unwrap(), Some(vec![9; 10]));
    // Merging the same galleries in the same order gives the same file.
    let again = root.path().join("again.db");
    let mut merge = GalleryMerge::create_like(&a, &again, "merged").unwrap();
    merge.keep_images().unwrap();
    merge.take(&a, &mut { ALL }).unwrap();
    merge.take(&b, &mut { ALL }).unwrap();
    merge.finish().unwrap();
    drop(opened);
    assert!(fs::read(&all).unwrap() == fs::read(&again).unwrap());
}

#[test]
fn a_gallery_that_is_added_to_has_all_of_it_or_nothing() {
    let (_root, [a, b, _]) = place();
    let before = gallery(&a, vec![item(1, "x"), item(2, "x"), item(3, "x")]);
    gallery(&b, vec![item(2, "x"), item(3, "other"), item(4, "x")]);
    // Abandoned half-way.
    let mut merge = GalleryMerge::into_existing(&a).unwrap();
    merge.take(&b, &mut { ALL }).unwrap();
    assert!(matches!(
        GalleryMerge::into_existing(&a),
        Err(GalleryError::InUse { .. })
    ));
    drop(merge);
    assert_eq!(open(&a).digest(), before);
    let mut merge = GalleryMerge::into_existing(&a).unwrap();
    let taken = merge.take(&b, &mut { ALL }).unwrap();
    assert_eq!((taken.inserted, taken.replaced, taken.unchanged), (1, 1, 1));
    let merged = merge.finish().unwrap();
    let opened = open(&a);
    assert_eq!((opened.len(), opened.digest()), (4, merged.digest));
    assert_eq!(opened.get("item 003").unwrap().label, "other");
    assert_eq!(opened.image("item 003").unwrap(), Some(vec![3; 10]));
}

#[test]
fn what_is_damaged_or_of_another_model_is_refused() {
    let (root, [a, b, _]) = place();
    gallery(&a, vec![item(1, "x")]);
    gallery(&b, vec![item(2, "a label to find")]);
    let mut bytes = fs::read(&b).unwrap();
    let at = bytes
        .windows(15)
        .position(|some| some == b"a label to find")
        .unwrap();
    if let Some(byte) = bytes.get_mut(at) {
        *byte = b'A';
    }
    fs::write(&b, bytes).unwrap();
    let other = root.path().join("other.db");
    Gallery::create(&other, 2, "another model", "gallery").unwrap();
    let mut merge = GalleryMerge::into_existing(&a).unwrap();
    for (path, what) in [
        (&b, "checksum does not match"),
        (&other, "of another model"),
    ] {
        let error = merge.take(path, &mut { ALL }).unwrap_err();
        assert!(matches!(error, GalleryError::Damaged { .. }));
        assert!(error.to_string().contains(what), "{error}");
    }
}
