//! Tests the promises of a gallery: acknowledged writes are durable, damage is found, and every score is exact.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use matchpoint_gallery::error::GalleryError;
use matchpoint_gallery::filter::ItemFilter;
use matchpoint_gallery::item::{BATCH_MAX, ID_BYTES_MAX, Item, ItemHead, METADATA_BYTES_MAX};
use matchpoint_gallery::params::IndexParams;
use matchpoint_gallery::view::{GalleryMatch, GalleryView, NEIGHBOURS_MAX, Probe};
use matchpoint_gallery::{Access, Gallery, KeptImages, Upserted, check_images};
use matchpoint_vector::{Embedding, Similarity};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

const DIMENSION: usize = 8;

/// A folder for one gallery.
struct Place {
    _folder: TempDir,
    path: PathBuf,
}

impl Place {
    fn new() -> Self {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("gallery.db");
        Self {
            _folder: folder,
            path,
        }
    }

    fn create(&self) -> Gallery {
        Gallery::create(&self.path, DIMENSION, "model", "test").unwrap()
    }

    fn open(&self, access: Access) -> Result<Gallery, GalleryError> {
        Gallery::open(&self.path, access, IndexParams::default())
    }

    fn write(&self, suffix: &str, bytes: &[u8]) {
        fs::write(beside(&self.path, suffix), bytes).unwrap();
    }
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Repeatable numbers in [-1, 1): a 64-bit linear congruential generator.
struct Random(u64);

impl Random {
    fn next(&mut self) -> f32 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let high = u16::try_from(self.0 >> 48).unwrap();
        f32::from(high) / 32_768.0 - 1.0
    }

    fn vector(&mut self, dimension: usize) -> Vec<f32> {
        (0..dimension).map(|_| self.next()).collect()
    }

    /// A point near `centre`.
    fn near(&mut self, centre: &[f32]) -> Embedding {
        Embedding::normalise(
            centre
                .iter()
                .map(|value| value + 0.5 * self.next())
                .collect(),
        )
        .unwrap()
    }
}

fn item(id: &str, label: &str, embedding: Embedding) -> Item {
    let metadata = BTreeMap::from([("file".to_owned(), format!("{id}.jpg"))]);
    let source_sha256 = Some([7; 32]);
    Item {
        id: id.to_owned(),
        label: label.to_owned(),
        metadata,
        embedding,
        source_sha256,
        image: None,
    }
}

/// Items `first..last`, with three of each label, always the same.
fn items(first: u64, last: u64) -> Vec<Item> {
    let make = |number: u64| {
        let embedding = Embedding::normalise(Random(number).vector(DIMENSION)).unwrap();
        item(
            &format!("item {number:03}"),
            &format!("label {}", number / 3),
            embedding,
        )
    };
    (first..last).map(make).collect()
}

fn axis(number: usize) -> Embedding {
    let mut values = vec![0.0; DIMENSION];
    *values.get_mut(number).unwrap() = 1.0;
    Embedding::from_unit(values).unwrap()
}

/// The whole content of a gallery.
fn content(gallery: &Gallery) -> BTreeMap<String, Item> {
    let view = gallery.view();
    let whole = |(head, vector): (&Arc<ItemHead>, &[f32])| {
        let item = Item {
            id: head.id.clone(),
            label: head.label.clone(),
            metadata: head.metadata.clone(),
            embedding: Embedding::from_unit(vector.to_vec()).unwrap(),
            source_sha256: head.source_sha256,
            image: None,
        };
        (head.id.clone(), item)
    };
    view.items().map(whole).collect()
}

fn expected(items: Vec<Item>) -> BTreeMap<String, Item> {
    items
        .into_iter()
        .map(|item| (item.id.clone(), item))
        .collect()
}

fn nearest(view: &GalleryView, query: &Embedding, k: usize) -> Vec<GalleryMatch> {
    view.nearest(
        query,
        &Probe {
            k,
            exact: false,
            without_label: None,
            ..Probe::nearest(1)
        },
    )
    .unwrap()
}

fn ids(matches: &[GalleryMatch]) -> Vec<&str> {
    matches.iter().map(|found| found.item.id.as_str()).collect()
}

/// The definition of an exact search.
fn brute_force(view: &GalleryView, query: &Embedding, k: usize) -> Vec<(u32, String)> {
    let mut all: Vec<_> = view
        .items()
        .map(|(head, vector)| {
            (
                Similarity::between(query.as_slice(), vector).unwrap(),
                &head.id,
            )
        })
        .collect();
    all.sort_by(|a, b| b.0.cmp(&a.0).then(a.1.cmp(b.1)));
    all.into_iter()
        .take(k)
        .map(|(score, id)| (score.get().to_bits(), id.clone()))
        .collect()
}

fn bits(matches: &[GalleryMatch]) -> Vec<(u32, String)> {
    matches
        .iter()
        .map(|found| (found.score.get().to_bits(), found.item.id.clone()))
        .collect()
}

#[test]
fn what_was_acknowledged_is_there_after_reopening() {
    let place = Place::new();
    let gallery = place.create();
    let enrolled = items(0, 10);
    assert_eq!(
        gallery.upsert(enrolled.clone()).unwrap(),
        vec![Upserted::Inserted; 10]
    );
    let digest = gallery.digest();
    drop(gallery);

    for access in [Access::ReadWrite, Access::ReadOnly] {
        let gallery = place.open(access).unwrap();
        assert_eq!(content(&gallery), expected(enrolled.clone()));
        assert_eq!((gallery.len(), gallery.label_count()), (10, 4));
        assert_eq!(
            (gallery.id(), gallery.model_fingerprint()),
            ("test", "model")
        );
        assert_eq!(gallery.dimension(), DIMENSION);
        assert_eq!(gallery.digest(), digest);
        assert_eq!(gallery.view().generation(), 1);
        assert_eq!(gallery.source_sha256("item 003"), Some([7; 32]));
    }
}

#[test]
fn the_digest_does_not_depend_on_the_order_of_enrolment() {
    let (first, second) = (Place::new(), Place::new());
    let (first, second) = (first.create(), second.create());
    first.upsert(items(0, 9)).unwrap();
    for item in items(0, 12).into_iter().rev() {
        second.upsert(vec![item]).unwrap();
    }
    assert_ne!(first.digest(), second.digest());
    second
        .delete(&["item 009", "item 010", "item 011"].map(str::to_owned))
        .unwrap();
    assert_eq!(first.digest(), second.digest());

    let mut changed = items(0, 1);
    changed[0].source_sha256 = None;
    second.upsert(changed).unwrap();
    assert_ne!(first.digest(), second.digest());
}

#[test]
fn what_is_in_common_with_an_earlier_state_is_counted_through_every_write() {
    let place = Place::new();
    let gallery = place.create();
    gallery.upsert(items(0, 40)).unwrap();
    let searched = ["label 0".to_owned()].into();
    let before = Arc::new(gallery.view().item_set(&searched));
    let in_common = |gallery: &Gallery| {
        let found = gallery.view().in_common_with(&before)?;
        Some([found.all, found.searched])
    };
    gallery.compare_with(Some(Arc::clone(&before))).unwrap();
    assert_eq!(in_common(&gallery), Some([40, 3]));

    gallery.upsert(items(40, 60)).unwrap();
    assert_eq!(in_common(&gallery), Some([40, 3]));
    gallery
        .delete(&["item 003".to_owned(), "item 050".to_owned()])
        .unwrap();
    assert_eq!(in_common(&gallery), Some([39, 3]));
    // Another label, the same label again, and an item that was removed.
    gallery
        .upsert(vec![item("item 002", "other", axis(0))])
        .unwrap();
    assert_eq!(in_common(&gallery), Some([38, 2]));
    gallery.upsert(items(2, 4)).unwrap();
    assert_eq!(in_common(&gallery), Some([40, 3]));

    gallery.delete(&["item 010".to_owned()]).unwrap();
    drop(gallery);
    let gallery = place.open(Access::ReadOnly).unwrap();
    assert_eq!(in_common(&gallery), None);
    gallery.compare_with(Some(Arc::clone(&before))).unwrap();
    assert_eq!(in_common(&gallery), Some([39, 3]));
    gallery.compare_with(None).unwrap();
    assert_eq!(in_common(&gallery), None);
}

#[test]
fn replacing_and_deleting_show_at_once_and_last() {
    let place = Place::new();
    let gallery = place.create();
    gallery.upsert(items(0, 5)).unwrap();
    let outcomes = gallery.upsert(vec![
        item("item 002", "new", axis(0)),
        item("item 900", "new", axis(1)),
    ]);
    assert_eq!(outcomes.unwrap(), [Upserted::Replaced, Upserted::Inserted]);
    let gone = ["item 001", "nobody", "item 001"].map(str::to_owned);
    assert_eq!(gallery.delete(&gone).unwrap(), [true, false, false]);

    let check = |gallery: &Gallery| {
        assert_eq!((gallery.len(), gallery.label_count()), (5, 3));
        assert_eq!(gallery.get("item 002").unwrap().label, "new");
        assert_eq!(gallery.get("item 001"), None);
        let found = nearest(&gallery.view(), &axis(0), 10);
        assert_eq!(found.len(), 5);
        assert_eq!(found[0].item.id, "item 002");
        assert_eq!(found[0].score.get().to_bits(), 1.0_f32.to_bits());
        assert!(!ids(&found).contains(&"item 001"));
        assert_eq!(gallery.view().generation(), 3);
    };
    check(&gallery);
    let digest = gallery.digest();
    drop(gallery);
    let gallery = place.open(Access::ReadWrite).unwrap();
    check(&gallery);
    assert_eq!(gallery.digest(), digest);
}

#[test]
fn a_write_that_changes_nothing_makes_no_generation() {
    let place = Place::new();
    let gallery = place.create();
    assert_eq!(gallery.upsert(Vec::new()).unwrap(), []);
    assert_eq!(gallery.delete(&["nobody".to_owned()]).unwrap(), [false]);
    assert_eq!(gallery.view().generation(), 0);
}

#[test]
fn a_snapshot_never_changes() {
    let place = Place::new();
    let gallery = place.create();
    gallery.upsert(items(0, 200)).unwrap();
    let before = gallery.view();
    let query = axis(3);
    let (digest, answer) = (before.digest(), bits(&nearest(&before, &query, 50)));

    gallery.upsert(items(200, 300)).unwrap();
    gallery
        .upsert(vec![item("item 000", "moved", query.clone())])
        .unwrap();
    let all: Vec<String> = (0..150).map(|number| format!("item {number:03}")).collect();
    gallery.delete(&all).unwrap();

    assert_eq!(
        (before.len(), before.digest(), before.generation()),
        (200, digest, 1)
    );
    assert_eq!(bits(&nearest(&before, &query, 50)), answer);
    assert_eq!(gallery.view().len(), 150);
}

#[test]
fn searches_beside_a_writer_see_whole_writes_only() {
    let place = Place::new();
    let gallery = place.create();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for batch in 0..30 {
                gallery.upsert(items(batch * 10, batch * 10 + 10)).unwrap();
            }
        });
        let mut seen = 0;
        while seen < 30 {
            let view = gallery.view();
            let found = view.nearest(
                &axis(0),
                &Probe {
                    k: NEIGHBOURS_MAX,
                    exact: true,
                    without_label: None,
                    ..Probe::nearest(1)
                },
            );
            assert_eq!(found.unwrap().len(), view.len());
            assert_eq!(u64::try_from(view.len()).unwrap(), view.generation() * 10);
            assert!(seen <= view.generation());
            seen = view.generation();
        }
    });
}

#[test]
fn an_exact_search_equals_brute_force() {
    let place = Place::new();
    let gallery = place.create();
    gallery.upsert(items(0, 500)).unwrap();
    gallery
        .delete(
            &items(100, 350)
                .into_iter()
                .map(|item| item.id)
                .collect::<Vec<_>>(),
        )
        .unwrap();
    let view = gallery.view();
    assert_eq!(view.index_description(), "exact");
    for seed in 1000..1040 {
        let query = Embedding::normalise(Random(seed).vector(DIMENSION)).unwrap();
        for k in [1, 2, 10, 250, 1000] {
            assert_eq!(
                bits(&nearest(&view, &query, k)),
                brute_force(&view, &query, k)
            );
        }
    }
}

#[test]
fn equal_scores_come_in_order_of_id() {
    let place = Place::new();
    let gallery = place.create();
    let duplicates = ["d", "b", "e", "a", "c"].map(|id| item(id, "same", axis(0)));
    gallery.upsert(duplicates.to_vec()).unwrap();
    let view = gallery.view();
    assert_eq!(ids(&nearest(&view, &axis(0), 3)), ["a", "b", "c"]);
    assert_eq!(ids(&nearest(&view, &axis(0), 9)), ["a", "b", "c", "d", "e"]);
}

#[test]
fn a_masked_label_is_never_found() {
    let place = Place::new();
    let gallery = place.create();
    gallery.upsert(items(0, 30)).unwrap();
    let view = gallery.view();
    let query = &items(4, 5)[0].embedding;
    let probe = Probe {
        k: 27,
        exact: false,
        without_label: Some("label 1"),
        ..Probe::nearest(1)
    };
    let found = view.nearest(query, &probe).unwrap();
    assert_eq!(found.len(), 27);
    assert!(found.iter().all(|found| found.item.label != "label 1"));
    let unmasked = bits(&nearest(&view, query, 30));
    let masked: BTreeSet<_> = ["item 003", "item 004", "item 005"]
        .map(str::to_owned)
        .into();
    let without: Vec<_> = unmasked
        .into_iter()
        .filter(|(_, id)| !masked.contains(id))
        .collect();
    assert_eq!(bits(&found), without);
}

#[test]
fn a_filter_and_one_per_label_choose_from_the_whole_ranking() {
    let place = Place::new();
    let gallery = place.create();
    gallery.upsert(items(0, 300)).unwrap();
    let view = gallery.view();
    let query = &items(4, 5)[0].embedding;
    let all = nearest(&view, query, 300);
    let filter =
        ItemFilter::parse("label IN (\"label 1\", \"label 7\") AND id != \"item 004\"").unwrap();
    let probe = Probe {
        filter: Some(&filter),
        ..Probe::nearest(300)
    };
    let wanted = |found: &&GalleryMatch| {
        let item = &found.item;
        ["label 1", "label 7"].contains(&item.label.as_str()) && item.id != "item 004"
    };
    let found = view.nearest(query, &probe).unwrap();
    let expected: Vec<GalleryMatch> = all.iter().filter(wanted).cloned().collect();
    assert_eq!((bits(&found), found.len()), (bits(&expected), 5));

    let mut seen = BTreeSet::new();
    let first: Vec<GalleryMatch> = all
        .iter()
        .filter(|found| seen.insert(found.item.label.clone()))
        .cloned()
        .collect();
    let probe = Probe {
        one_per_label: true,
        ..Probe::nearest(12)
    };
    let found = view.nearest(query, &probe).unwrap();
    assert_eq!(bits(&found), bits(&first[..12]));
}

#[test]
fn pages_hold_every_item_once_whatever_is_written_between_them() {
    let place = Place::new();
    let gallery = place.create();
    gallery
        .upsert(items(0, 100).into_iter().rev().collect())
        .unwrap();
    let mut listed = Vec::new();
    let mut written = 100;
    loop {
        let after = listed.last().map(|head: &Arc<ItemHead>| head.id.clone());
        let page = gallery.list(after.as_deref(), 7);
        if page.is_empty() {
            break;
        }
        listed.extend(page);
        // One more at the start, and one replaced.
        gallery
            .upsert(vec![item(&format!("a {written}"), "new", axis(0))])
            .unwrap();
        gallery.upsert(items(50, 51)).unwrap();
        written += 1;
    }
    let listed: Vec<_> = listed.iter().map(|head| head.id.clone()).collect();
    let all: Vec<_> = items(0, 100).into_iter().map(|item| item.id).collect();
    assert_eq!(listed, all);
    assert_eq!(gallery.list(None, 0), []);
}

type Change = fn(&mut Item);

#[test]
fn a_bad_item_refuses_its_whole_batch_by_name() {
    let place = Place::new();
    let gallery = place.create();
    let with = |change: fn(&mut Item)| {
        let mut batch = items(0, 3);
        change(&mut batch[1]);
        gallery.upsert(batch).unwrap_err().to_string()
    };
    let cases: [(Change, &str); 9] = [
        (|item| item.id.clear(), "its id is empty"),
        (
            |item| item.id = "x".repeat(ID_BYTES_MAX + 1),
            "its id has 513 bytes",
        ),
        (
            |item| item.id.push('\n'),
            "its id contains a control character",
        ),
        (|item| item.label.clear(), "its label is empty"),
        (
            |item| item.label.push('\0'),
            "its label contains a control character",
        ),
        (
            |item| item.metadata = (0..65).map(|n| (n.to_string(), String::new())).collect(),
            "its metadata has 65 entries",
        ),
        (
            |item| item.metadata = [("k".to_owned(), "v".repeat(METADATA_BYTES_MAX))].into(),
            "its metadata has 16385 bytes",
        ),
        (
            |item| item.metadata = [(String::new(), String::new())].into(),
            "has a key that is empty",
        ),
        (
            |item| item.embedding = Embedding::normalise(vec![1.0; 5]).unwrap(),
            "its embedding has 5 dimensions; the gallery has 8",
        ),
    ];
    for (change, expected) in cases {
        let message = with(change);
        assert!(message.starts_with("item 1 of the batch"), "{message}");
        assert!(message.contains(expected), "{message}");
    }
    assert!(matches!(
        gallery.upsert([items(0, 3), items(1, 2)].concat()).unwrap_err(),
        GalleryError::Duplicate { id, first: 1, second: 3 } if id == "item 001"
    ));
    let many = vec![items(0, 1).remove(0); BATCH_MAX + 1];
    assert!(matches!(
        gallery.upsert(many).unwrap_err(),
        GalleryError::Batch { .. }
    ));
    assert_eq!((gallery.len(), gallery.view().generation()), (0, 0));
}

#[test]
fn a_search_out_of_bounds_is_refused() {
    let place = Place::new();
    let gallery = place.create();
    let view = gallery.view();
    assert_eq!(nearest(&view, &axis(0), 1), []);
    for k in [0, NEIGHBOURS_MAX + 1] {
        let refused = view.nearest(
            &axis(0),
            &Probe {
                k,
                exact: true,
                without_label: None,
                ..Probe::nearest(1)
            },
        );
        assert!(matches!(refused, Err(GalleryError::Neighbours { found, .. }) if found == k));
    }
    let short = Embedding::normalise(vec![1.0; 7]).unwrap();
    let refused = view.nearest(
        &short,
        &Probe {
            k: 1,
            exact: true,
            without_label: None,
            ..Probe::nearest(1)
        },
    );
    let message = refused.unwrap_err().to_string();
    assert_eq!(message, "the query has 7 dimensions, and the gallery has 8");
}

#[test]
fn a_second_writer_is_refused_by_process_and_a_reader_is_not() {
    let place = Place::new();
    let gallery = place.create();
    gallery.upsert(items(0, 3)).unwrap();

    let refused = place.open(Access::ReadWrite).err().unwrap().to_string();
    assert!(
        refused.contains(&format!("process {}", std::process::id())),
        "{refused}"
    );
    let refused = Gallery::create(&place.path, DIMENSION, "model", "other")
        .err()
        .unwrap();
    assert!(matches!(refused, GalleryError::InUse { .. }), "{refused}");

    let reader = place.open(Access::ReadOnly).unwrap();
    gallery.upsert(items(3, 6)).unwrap();
    assert_eq!(
        (reader.len(), place.open(Access::ReadOnly).unwrap().len()),
        (3, 6)
    );
    assert!(matches!(
        reader.upsert(items(0, 1)),
        Err(GalleryError::ReadOnly { .. })
    ));
    assert!(matches!(
        reader.delete(&[]),
        Err(GalleryError::ReadOnly { .. })
    ));

    drop(gallery);
    assert_eq!(place.open(Access::ReadWrite).unwrap().len(), 6);
    let refused = Gallery::create(&place.path, DIMENSION, "model", "other")
        .err()
        .unwrap();
    assert!(matches!(refused, GalleryError::Exists { .. }), "{refused}");
}

/// The content of a gallery, its file, and its log.
type Killed = (BTreeMap<String, Item>, Vec<u8>, Vec<u8>);

/// The files of a working writer, as a killed process leaves them, after each of its writes.
fn killed_after_each_write() -> Vec<Killed> {
    let place = Place::new();
    let gallery = place.create();
    let mut states = Vec::new();
    let mut keep = |gallery: &Gallery| {
        let (file, log) = (&place.path, beside(&place.path, "-wal"));
        states.push((
            content(gallery),
            fs::read(file).unwrap(),
            fs::read(log).unwrap(),
        ));
    };
    for step in 0..5 {
        gallery.upsert(items(step * 2, step * 2 + 2)).unwrap();
        keep(&gallery);
    }
    gallery.delete(&["item 001".to_owned()]).unwrap();
    keep(&gallery);
    states
}

#[test]
fn a_killed_writer_loses_nothing_that_was_acknowledged() {
    for (expected, file, log) in killed_after_each_write() {
        for access in [Access::ReadOnly, Access::ReadWrite] {
            let place = Place::new();
            place.write("", &file);
            place.write("-wal", &log);
            let gallery = place.open(access).unwrap();
            assert_eq!(content(&gallery), expected);
        }
    }
}

#[test]
fn a_torn_or_damaged_log_gives_an_earlier_state_and_never_a_mixture() {
    let states = killed_after_each_write();
    let empty = (BTreeMap::new(), Vec::new(), Vec::new());
    let (_, file, log) = states.last().unwrap();
    let mut variants: Vec<Vec<u8>> = (0..log.len())
        .step_by(1013)
        .map(|n| log[..n].to_vec())
        .collect();
    for at in (0..log.len()).step_by(997) {
        let mut flipped = log.clone();
        flipped[at] ^= 1 << (at % 8);
        variants.push(flipped);
    }
    for log in variants {
        let place = Place::new();
        place.write("", file);
        place.write("-wal", &log);
        if let Ok(gallery) = place.open(Access::ReadWrite) {
            let found = content(&gallery);
            let mut known = states.iter().chain([&empty]);
            assert!(known.any(|(state, _, _)| *state == found));
        }
    }
}

/// The only file of a closed gallery, and its content.
fn closed() -> (Vec<u8>, BTreeMap<String, Item>) {
    let place = Place::new();
    let gallery = place.create();
    gallery.upsert(items(0, 12)).unwrap();
    gallery.delete(&["item 004".to_owned()]).unwrap();
    let content = content(&gallery);
    drop(gallery);
    assert!(!beside(&place.path, "-wal").exists());
    (fs::read(&place.path).unwrap(), content)
}

#[test]
fn a_flipped_byte_is_an_error_or_changes_nothing() {
    let (file, expected) = closed();
    let place = Place::new();
    let (mut refused, mut harmless) = (0, 0);
    for at in 0..file.len() {
        // All bytes in use and those around them, and some of the empty middle of pages.
        let around = &file[at.saturating_sub(8)..file.len().min(at + 8)];
        if around.iter().all(|&byte| byte == 0) && at % 509 != 0 {
            continue;
        }
        let mut flipped = file.clone();
        flipped[at] ^= [0x01, 0x80, 0xff][at % 3];
        place.write("", &flipped);
        let access = if at % 5 == 0 {
            Access::ReadWrite
        } else {
            Access::ReadOnly
        };
        match place.open(access) {
            Ok(gallery) => {
                assert_eq!(content(&gallery), expected, "byte {at}");
                harmless += 1;
            }
            Err(_) => refused += 1,
        }
    }
    assert!(harmless < refused, "{harmless} harmless, {refused} refused");
}

#[test]
fn a_truncated_file_does_not_open() {
    let (file, _) = closed();
    for length in (0..file.len()).step_by(211).chain([file.len() - 1]) {
        let place = Place::new();
        place.write("", &file[..length]);
        assert!(place.open(Access::ReadOnly).is_err(), "{length} bytes");
        assert!(place.open(Access::ReadWrite).is_err(), "{length} bytes");
    }
}

#[test]
fn other_files_are_refused_by_name() {
    let place = Place::new();
    let missing = place.open(Access::ReadOnly).err().unwrap();
    assert!(
        matches!(missing, GalleryError::NotFound { .. }),
        "{missing}"
    );

    for other in [&b""[..], b"hello", &[0x89; 20_000]] {
        place.write("", other);
        let refused = place.open(Access::ReadWrite).err().unwrap();
        assert!(
            matches!(refused, GalleryError::NotAGallery { .. }),
            "{refused}"
        );
    }

    let (mut file, _) = closed();
    // `user_version`, big-endian.
    file[60..64].copy_from_slice(&2_u32.to_be_bytes());
    place.write("", &file);
    let refused = place.open(Access::ReadOnly).err().unwrap();
    assert!(
        matches!(
            refused,
            GalleryError::Format {
                found: 2,
                readable: 1,
                ..
            }
        ),
        "{refused}"
    );
}

#[test]
fn a_new_gallery_takes_over_no_log_and_no_impossible_description() {
    let place = Place::new();
    place.write("-wal", b"left behind");
    let refused = Gallery::create(&place.path, DIMENSION, "model", "test")
        .err()
        .unwrap();
    assert!(matches!(refused, GalleryError::Exists { path } if path.ends_with("gallery.db-wal")));

    let place = Place::new();
    for (dimension, model, id) in [
        (0, "m", "g"),
        (5000, "m", "g"),
        (8, "", "g"),
        (8, "m", "\n"),
    ] {
        let refused = Gallery::create(&place.path, dimension, model, id)
            .err()
            .unwrap();
        assert!(
            matches!(refused, GalleryError::Description { .. }),
            "{refused}"
        );
    }
    let params = IndexParams {
        m: 300,
        ..IndexParams::default()
    };
    let refused = Gallery::open(&place.path, Access::ReadOnly, params)
        .err()
        .unwrap();
    assert!(
        matches!(refused, GalleryError::IndexParams { name: "m", .. }),
        "{refused}"
    );
}

#[test]
fn a_large_gallery_is_read_by_several_threads_as_by_one_also_beside_a_writer() {
    let scanned = IndexParams {
        graph_from_items: usize::MAX,
        ..IndexParams::default()
    };
    let place = Place::new();
    let gallery = place.create();
    let all = items(0, 20_000);
    // Not in order of id, and with gaps.
    for batch in all.chunks(5000).rev() {
        gallery.upsert(batch.to_vec()).unwrap();
    }
    let gone: Vec<String> = all.iter().step_by(3).map(|item| item.id.clone()).collect();
    for ids in gone.chunks(5000) {
        gallery.delete(ids).unwrap();
    }
    gallery.upsert(items(30_000, 34_000)).unwrap();
    let enrolled = |gallery: &Gallery| -> Vec<(Arc<ItemHead>, Vec<f32>)> {
        let view = gallery.view();
        let items = view.items();
        items
            .map(|(head, vector)| (Arc::clone(head), vector.to_vec()))
            .collect()
    };
    let (digest, expected) = (gallery.digest(), enrolled(&gallery));
    assert!(16 * 1024 < expected.len());
    drop(gallery);
    let again = Gallery::open(&place.path, Access::ReadWrite, scanned).unwrap();
    assert_eq!(again.digest(), digest);
    assert_eq!(enrolled(&again), expected);

    // Whoever opens it while it changes sees one moment: the digest of its items is that of the state.
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for number in 0_u64.. {
                again
                    .upsert(items(40_000 + number, 40_001 + number))
                    .unwrap();
                if done.load(std::sync::atomic::Ordering::Relaxed) {
                    break;
                }
            }
        });
        for _ in 0..5 {
            let seen = Gallery::open(&place.path, Access::ReadOnly, scanned).unwrap();
            assert!(expected.len() <= seen.len());
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    drop(again);

    // The first damaged row is named, whichever thread finds one first.
    let mut bytes = fs::read(&place.path).unwrap();
    let sum = |number: u64| {
        let wanted = format!("item {number:03}");
        let id = wanted.as_bytes();
        let at = bytes.windows(id.len()).position(|window| window == id);
        at.unwrap()
    };
    let damaged = [sum(33_999), sum(16_001)];
    for at in damaged {
        bytes[at + 5] ^= 1;
    }
    place.write("", &bytes);
    let refused = Gallery::open(&place.path, Access::ReadOnly, scanned).unwrap_err();
    let named = refused.to_string();
    assert!(matches!(refused, GalleryError::Damaged { .. }), "{named}");
    // It was written first, as the first of its batch's second row.
    assert!(named.contains("row 1002 of its items"), "{named}");
}

const GRAPH: IndexParams = IndexParams {
    graph_from_items: 1000,
    m: 12,
    ef_construction: 80,
    ef_search: 80,
    scan_bytes: 512 * GRAPH_DIMENSION,
    elsewhere: false,
};
const GRAPH_DIMENSION: usize = 48;

/// Items in clusters of twenty around random centres.
fn clustered(count: usize, random: &mut Random) -> Vec<Item> {
    let mut centre = Vec::new();
    let mut made = Vec::with_capacity(count);
    for number in 0..count {
        if number % 20 == 0 {
            centre = random.vector(GRAPH_DIMENSION);
        }
        let label = format!("cluster {}", number / 20);
        made.push(item(&format!("{number:05}"), &label, random.near(&centre)));
    }
    made
}

/// The share of the true ten nearest that the graph finds; every score is checked.
fn recall(view: &GalleryView, queries: &[Embedding]) -> f64 {
    let (mut found, mut all) = (0_u32, 0_u32);
    for query in queries {
        let ranked = brute_force(view, query, view.len());
        let truth: BTreeSet<_> = ranked.iter().take(10).collect();
        let answer = bits(&nearest(view, query, 10));
        assert_eq!(answer.len(), 10);
        for scored in &answer {
            assert!(ranked.contains(scored), "not the exact score");
            found += u32::from(truth.contains(scored));
        }
        all += 10;
    }
    f64::from(found) / f64::from(all)
}

#[test]
fn the_graph_finds_the_nearest_and_scores_them_exactly() {
    let place = Place::new();
    let gallery = Gallery::create(&place.path, GRAPH_DIMENSION, "model", "graph").unwrap();
    let mut random = Random(5);
    let all = clustered(2200, &mut random);
    let queries: Vec<_> = all
        .iter()
        .step_by(53)
        .map(|item| random.near(item.embedding.as_slice()))
        .collect();
    gallery.upsert(all[..2000].to_vec()).unwrap();
    assert_eq!(gallery.index_description(), "exact");
    drop(gallery);

    let gallery = Gallery::open(&place.path, Access::ReadWrite, GRAPH).unwrap();
    assert_eq!(
        gallery.index_description(),
        "hnsw m=12 ef_construction=80 ef_search=80, 8-bit codes"
    );
    let before = gallery.view();
    assert!(0.95 <= recall(&before, &queries));

    // Items that were enrolled later are found in the new view, and not in the old one.
    gallery.upsert(all[2000..].to_vec()).unwrap();
    let after = gallery.view();
    assert!(0.95 <= recall(&after, &queries));
    for item in all[2000..].iter().step_by(17) {
        assert_eq!(
            ids(&nearest(&after, &item.embedding, 1)),
            [item.id.as_str()]
        );
        let old = nearest(&before, &item.embedding, 10);
        assert!(old.iter().all(|found| found.item.id.as_str() < "02000"));
    }
    // Searches without a label, and exact ones, use the exact scan.
    let query = &all[7].embedding;
    let probe = Probe {
        k: 2180,
        exact: false,
        without_label: Some("cluster 0"),
        ..Probe::nearest(1)
    };
    let probe = Probe { k: 1000, ..probe };
    let masked = after.nearest(query, &probe).unwrap();
    assert!(masked.len() == 1000 && masked.iter().all(|m| m.item.label != "cluster 0"));
    let exact = after
        .nearest(
            query,
            &Probe {
                k: 900,
                exact: true,
                without_label: None,
                ..Probe::nearest(1)
            },
        )
        .unwrap();
    assert_eq!(bits(&exact), brute_force(&after, query, 900));
}

#[test]
fn the_index_is_taken_from_its_file_with_what_changed_since_and_built_anew_where_that_is_damaged() {
    let place = Place::new();
    let file = place.path.with_extension("graph");
    let gallery = Gallery::create(&place.path, GRAPH_DIMENSION, "model", "graph").unwrap();
    let mut random = Random(8);
    let all = clustered(1600, &mut random);
    gallery.upsert(all[..1500].to_vec()).unwrap();
    drop(gallery);
    let open = |access| Gallery::open(&place.path, access, GRAPH).unwrap();
    drop(open(Access::ReadOnly));
    assert!(!file.exists(), "a reader writes nothing");
    let gallery = open(Access::ReadWrite);
    let saved = fs::read(&file).unwrap();

    // Enrolled, replaced and deleted after the file was written.
    gallery.upsert(all[1500..1580].to_vec()).unwrap();
    let moved = item(&all[3].id, "moved", all[1590].embedding.clone());
    gallery.upsert(vec![moved.clone()]).unwrap();
    gallery.delete(&[all[5].id.clone()]).unwrap();
    let expected = content(&gallery);
    drop(gallery);
    let queries: Vec<Embedding> = all
        .iter()
        .step_by(41)
        .map(|item| item.embedding.clone())
        .collect();
    let check = |gallery: &Gallery| {
        let view = gallery.view();
        assert!(0.95 <= recall(&view, &queries));
        let found = nearest(&view, &moved.embedding, 1);
        assert_eq!(found[0].item.label, "moved");
        let found = nearest(&view, &all[5].embedding, 10);
        assert!(found.iter().all(|found| found.item.id != all[5].id));
        let found = nearest(&view, &all[1550].embedding, 1);
        assert_eq!(ids(&found), [all[1550].id.as_str()]);
        assert_eq!(content(gallery), expected);
    };
    check(&open(Access::ReadWrite));
    assert_eq!(fs::read(&file).unwrap(), saved, "it was taken as it was");

    // Whatever is damaged, or if the file is missing, the index is built from the items.
    for at in (0..saved.len()).step_by(saved.len() / 40) {
        let mut damaged = saved.clone();
        damaged[at] ^= 0x20;
        fs::write(&file, &damaged).unwrap();
        check(&open(Access::ReadWrite));
        assert_ne!(fs::read(&file).unwrap(), damaged, "byte {at}");
    }
    for length in [0, 7, 15, 16, 100, saved.len() / 2, saved.len() - 1] {
        fs::write(&file, &saved[..length]).unwrap();
        check(&open(Access::ReadOnly));
    }
    fs::write(&file, [&saved[..], &[0]].concat()).unwrap();
    check(&open(Access::ReadOnly));
}

#[test]
fn what_is_deleted_or_replaced_leaves_the_graph_too() {
    let place = Place::new();
    let gallery = Gallery::create(&place.path, GRAPH_DIMENSION, "model", "graph").unwrap();
    let mut random = Random(6);
    let all = clustered(1500, &mut random);
    gallery.upsert(all.clone()).unwrap();
    drop(gallery);

    let gallery = Gallery::open(&place.path, Access::ReadWrite, GRAPH).unwrap();
    let gone: Vec<String> = all.iter().step_by(2).map(|item| item.id.clone()).collect();
    gallery.delete(&gone).unwrap();
    let moved = item(&all[1].id, "moved", all[900].embedding.clone());
    gallery.upsert(vec![moved.clone()]).unwrap();
    assert!(gallery.reindex_is_due());
    let check = |gallery: &Gallery| {
        let view = gallery.view();
        for query in all.iter().step_by(31) {
            let found = nearest(&view, &query.embedding, 10);
            assert_eq!(found.len(), 10);
            assert!(found.iter().all(|found| !gone.contains(&found.item.id)));
            let distinct: BTreeSet<_> = ids(&found).into_iter().collect();
            assert_eq!(distinct.len(), 10);
        }
        assert_eq!(nearest(&view, &moved.embedding, 1)[0].item.label, "moved");
        let rest = bits(&nearest(&view, &all[4].embedding, 750));
        assert_eq!(rest, brute_force(&view, &all[4].embedding, 750));
    };
    check(&gallery);
    assert_eq!(gallery.len(), 750);
    // Fewer items than a graph needs.
    gallery.reindex().unwrap();
    assert_eq!(gallery.index_description(), "exact");
    assert!(!gallery.reindex_is_due());
    check(&gallery);
}

#[test]
fn the_same_items_give_the_same_graph_answers_in_any_order_of_enrolment() {
    let mut random = Random(8);
    let all = clustered(1200, &mut random);
    let answers = [false, true].map(|reversed| {
        let place = Place::new();
        let gallery = Gallery::create(&place.path, GRAPH_DIMENSION, "model", "graph").unwrap();
        let mut batch = all.clone();
        if reversed {
            batch.reverse();
        }
        gallery.upsert(batch).unwrap();
        drop(gallery);
        let narrow = IndexParams {
            ef_search: 4,
            ..GRAPH
        };
        let gallery = Gallery::open(&place.path, Access::ReadOnly, narrow).unwrap();
        let view = gallery.view();
        let near = |item: &Item| bits(&nearest(&view, &item.embedding, 10));
        all.iter().step_by(11).map(near).collect::<Vec<_>>()
    });
    assert_eq!(answers[0], answers[1]);
}

#[test]
fn what_is_enrolled_is_found_before_and_after_it_is_linked() {
    enrolled_beside_an_index(GRAPH, 500..1500);
}

#[test]
fn what_is_enrolled_is_found_where_nothing_is_linked() {
    let params = IndexParams {
        scan_bytes: IndexParams::default().scan_bytes,
        ..GRAPH
    };
    enrolled_beside_an_index(params, 0..1);
}

fn enrolled_beside_an_index(params: IndexParams, expected: Range<usize>) {
    let place = Place::new();
    let gallery = Gallery::create(&place.path, GRAPH_DIMENSION, "model", "graph").unwrap();
    let mut random = Random(12);
    let all = clustered(3000, &mut random);
    let (settled, new) = all.split_at(1500);
    gallery.upsert(settled.to_vec()).unwrap();
    drop(gallery);
    let gallery = Gallery::open(&place.path, Access::ReadWrite, params).unwrap();
    assert_eq!(gallery.link(100), 0, "nothing waits");
    for batch in new.chunks(100) {
        gallery.upsert(batch.to_vec()).unwrap();
    }
    let check = |gallery: &Gallery| {
        let view = gallery.view();
        let near: Vec<Embedding> = all
            .iter()
            .step_by(37)
            .map(|item| item.embedding.clone())
            .collect();
        assert!(0.95 <= recall(&view, &near));
        for item in new.iter().step_by(7) {
            assert_eq!(ids(&nearest(&view, &item.embedding, 1)), [item.id.as_str()]);
        }
    };
    check(&gallery);
    let waiting = gallery.link(0);
    assert!(expected.contains(&waiting), "{waiting}");
    assert_eq!(gallery.link(300), waiting);
    check(&gallery);
    while 0 < gallery.link(400) {}
    check(&gallery);
    // Many of the items nearest to a query are gone, so the next nearest are found instead.
    let gone: Vec<String> = new
        .chunks(20)
        .flat_map(|near| near.iter().take(15))
        .map(|item| item.id.clone())
        .collect();
    gallery.delete(&gone).unwrap();
    let near: Vec<Embedding> = new
        .iter()
        .step_by(37)
        .map(|item| item.embedding.clone())
        .collect();
    assert!(0.95 <= recall(&gallery.view(), &near));
    let back = new.iter().filter(|item| gone.contains(&item.id));
    gallery.upsert(back.cloned().collect()).unwrap();
    check(&gallery);
    assert!(gallery.reindex_is_due());
    gallery.reindex().unwrap();
    assert_eq!(gallery.view().base_items(), 3000);
    check(&gallery);
}

#[test]
fn vectors_of_settled_items_are_read_from_the_file_and_a_changed_one_is_found() {
    let place = Place::new();
    let file = place.path.with_extension("graph");
    let gallery = Gallery::create(&place.path, GRAPH_DIMENSION, "model", "graph").unwrap();
    let mut random = Random(13);
    let all = clustered(1700, &mut random);
    gallery.upsert(all[..1500].to_vec()).unwrap();
    assert_eq!(gallery.view().vector_bytes(), 1500 * GRAPH_DIMENSION * 4);
    drop(gallery);
    // First built, and then read from the file.
    for _ in 0..2 {
        let gallery = Gallery::open(&place.path, Access::ReadWrite, GRAPH).unwrap();
        assert_eq!(gallery.view().vector_bytes(), 0);
        assert_eq!(
            gallery.check_items(None, 10_000).unwrap().as_deref(),
            Some("01499")
        );
    }
    let gallery = Gallery::open(&place.path, Access::ReadWrite, GRAPH).unwrap();
    gallery.upsert(all[1500..].to_vec()).unwrap();
    let before = gallery.view();
    assert_eq!(before.vector_bytes(), 200 * GRAPH_DIMENSION * 4);
    let query = &all[33].embedding;
    let expected = brute_force(&before, query, 20);
    gallery.reindex().unwrap();
    let after = gallery.view();
    assert_eq!(after.vector_bytes(), 0);
    for view in [&before, &after] {
        assert_eq!(brute_force(view, query, 20), expected);
        assert_eq!(bits(&nearest(view, query, 20)), expected);
    }

    // Nothing in this program writes the file in place, as is done here.
    let at = 64 + 700 * GRAPH_DIMENSION * 4 + 2;
    let mut bytes = fs::read(&file).unwrap();
    bytes[at] ^= 0x10;
    let open = fs::File::options().write(true).open(&file).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&open, &bytes[at..=at], at as u64).unwrap();
    assert_eq!(
        gallery.check_items(None, 700).unwrap().as_deref(),
        Some("00699")
    );
    let found = |id: &str| gallery.item(id).unwrap();
    let ((head, vector), (other, whole)) = (found("00700"), found("00701"));
    gallery.check_item(&other, &whole).unwrap();
    let error = gallery.check_item(&head, &vector).unwrap_err();
    assert!(matches!(&error, GalleryError::Changed { .. }), "{error}");
    let error = gallery.check_items(Some("00699"), 10).unwrap_err();
    assert!(
        matches!(&error, GalleryError::Changed { id, .. } if id == "00700"),
        "{error}"
    );
    assert_eq!(
        gallery.check_items(Some("00700"), 2000).unwrap().as_deref(),
        Some("01699")
    );
    drop((before, after, head, vector, other, whole, gallery));
    // Opening compares it with the item, and builds it again.
    let gallery = Gallery::open(&place.path, Access::ReadWrite, GRAPH).unwrap();
    gallery.check_items(None, 10_000).unwrap();
    assert_eq!(brute_force(&gallery.view(), query, 20), expected);
}

#[test]
fn a_filtered_search_through_the_index_finds_what_the_filter_takes_and_nothing_else() {
    let place = Place::new();
    let gallery = Gallery::create(&place.path, GRAPH_DIMENSION, "model", "graph").unwrap();
    let mut random = Random(14);
    let mut all = clustered(3000, &mut random);
    for (number, item) in all.iter_mut().enumerate() {
        let part = ["half", "tenth", "percent"];
        let every = [2, 10, 100];
        for (part, every) in part.into_iter().zip(every) {
            if number % every == 1 % every {
                item.metadata.insert(part.to_owned(), "yes".to_owned());
            }
        }
    }
    gallery.upsert(all[..2500].to_vec()).unwrap();
    drop(gallery);
    let gallery = Gallery::open(&place.path, Access::ReadWrite, GRAPH).unwrap();
    let queries: Vec<&Embedding> = all.iter().step_by(61).map(|item| &item.embedding).collect();
    let check = |gallery: &Gallery| {
        let view = gallery.view();
        for text in [
            "metadata.half = yes",
            "metadata.tenth = yes",
            "metadata.percent = yes",
            "id = 00501",
        ] {
            let filter = ItemFilter::parse(text).unwrap();
            let (mut found, mut wanted) = (0, 0);
            for query in &queries {
                let probe = Probe {
                    filter: Some(&filter),
                    ..Probe::nearest(10)
                };
                let through = view.nearest(query, &probe).unwrap();
                let exact = view
                    .nearest(
                        query,
                        &Probe {
                            exact: true,
                            ..probe
                        },
                    )
                    .unwrap();
                assert_eq!(through.len(), exact.len(), "{text}");
                let truth = bits(&exact);
                found += bits(&through)
                    .iter()
                    .filter(|one| truth.contains(one))
                    .count();
                wanted += truth.len();
                for one in &through {
                    let item = &one.item;
                    assert!(filter.matches(&item.id, &item.label, &item.metadata));
                }
            }
            assert!(wanted * 95 <= found * 100, "{text}: {found} of {wanted}");
        }
    };
    check(&gallery);
    // The rows of a filter are cached; removed and new items are still treated correctly.
    gallery.upsert(all[2500..].to_vec()).unwrap();
    gallery
        .delete(&[all[501].id.clone(), all[101].id.clone()])
        .unwrap();
    let mut plain = all[201].clone();
    plain.metadata.clear();
    gallery.upsert(vec![plain]).unwrap();
    check(&gallery);
    gallery.reindex().unwrap();
    check(&gallery);
}

/// Whether a file contains these bytes.
fn holds(file: &Path, bytes: &[u8]) -> bool {
    let file = fs::read(file).unwrap();
    file.windows(bytes.len()).any(|window| window == bytes)
}

fn pictured(number: u64, image: &[u8]) -> Item {
    let mut item = items(number, number + 1).pop().unwrap();
    item.source_sha256 = Some(Sha256::digest(image).into());
    item.image = Some(image.to_vec());
    item
}

#[test]
fn kept_images_are_read_beside_the_writer_and_compared_with_their_hashes() {
    let place = Place::new();
    let gallery = Gallery::create(&place.path, DIMENSION, "model", "pictures").unwrap();
    gallery.upsert(items(0, 2)).unwrap();
    assert!(KeptImages::open(&place.path).unwrap().is_none());
    gallery.keep_images().unwrap();
    let kept = KeptImages::open(&place.path).unwrap().unwrap();
    assert_eq!(
        (kept.gallery_id(), kept.items().unwrap()),
        ("pictures", vec![])
    );
    let image = b"the picture".repeat(9000);
    gallery.upsert(vec![pictured(1, &image)]).unwrap();
    let [item] = &kept.items().unwrap()[..] else {
        panic!("one item has an image");
    };
    assert_eq!(
        (&*item.id, kept.read(item).unwrap()),
        ("item 001", Some(image))
    );
    gallery.delete(&["item 001".to_owned()]).unwrap();
    assert_eq!(kept.read(item).unwrap(), None);
    let missing = KeptImages::open(&place.path.with_extension("other"));
    assert!(matches!(missing, Err(GalleryError::NotFound { .. })));

    gallery.upsert(vec![pictured(2, b"another")]).unwrap();
    drop((kept, gallery));
    let mut bytes = fs::read(&place.path).unwrap();
    let at = bytes.windows(7).position(|window| window == b"another");
    bytes[at.unwrap()] = b'A';
    fs::write(&place.path, bytes).unwrap();
    let kept = KeptImages::open(&place.path).unwrap().unwrap();
    let error = kept
        .read(&kept.items().unwrap()[0])
        .unwrap_err()
        .to_string();
    assert!(error.contains("image of item `item 002`"), "{error}");
}

#[test]
fn images_are_kept_with_their_items_and_go_with_them() {
    let place = Place::new();
    let [first, second, third, other] =
        [b"the 1st is", b"the 2nd is", b"the 3rd is", b"the 4th is"]
            .map(|image| image.repeat(9000));
    let gallery = Gallery::create(&place.path, DIMENSION, "model", "pictures").unwrap();
    gallery.upsert(vec![pictured(0, &first)]).unwrap();
    assert_eq!(gallery.image("item 000").unwrap(), None, "not asked for");
    gallery.keep_images().unwrap();
    gallery.keep_images().unwrap();
    assert!(!gallery.has_image("item 000").unwrap());
    let batch = vec![pictured(1, &second), pictured(2, &third)];
    gallery.upsert(batch).unwrap();
    gallery.upsert(items(3, 4)).unwrap();
    let mut unhashed = pictured(4, &other);
    unhashed.source_sha256 = None;
    let refused = gallery.upsert(vec![unhashed]).unwrap_err();
    assert!(matches!(refused, GalleryError::Item { field: "image", .. }));

    drop(gallery);
    for access in [Access::ReadWrite, Access::ReadOnly] {
        let gallery = Gallery::open(&place.path, access, IndexParams::default()).unwrap();
        let kept = |id| gallery.image(id).unwrap();
        assert_eq!(kept("item 001").as_deref(), Some(&*second));
        assert_eq!(kept("item 002").as_deref(), Some(&*third));
        let without = ["item 000", "item 003", "no such item"];
        assert_eq!(without.map(kept), [None, None, None]);
    }
    assert_eq!(check_images(&place.path).unwrap(), 2);

    // Another image, no image any more, and no item any more.
    let gallery = Gallery::open(&place.path, Access::ReadWrite, IndexParams::default()).unwrap();
    gallery.upsert(vec![pictured(0, &other)]).unwrap();
    assert!(gallery.has_image("item 000").unwrap());
    gallery.upsert(items(1, 2)).unwrap();
    assert_eq!(gallery.image("item 001").unwrap(), None);
    assert_eq!(gallery.delete(&["item 002".to_owned()]).unwrap(), [true]);
    assert_eq!(gallery.image("item 002").unwrap(), None);
    drop(gallery);
    assert_eq!(check_images(&place.path).unwrap(), 1);
    assert!(holds(&place.path, b"the 4th is"));
    for gone in [&b"the 1st is"[..], b"the 2nd is", b"the 3rd is"] {
        assert!(!holds(&place.path, gone), "a trace is left");
    }

    // One byte of it changes on the disk.
    let mut bytes = fs::read(&place.path).unwrap();
    let at = bytes.windows(10).position(|window| window == b"the 4th is");
    bytes[at.unwrap()] = b'T';
    fs::write(&place.path, bytes).unwrap();
    let gallery = Gallery::open(&place.path, Access::ReadOnly, IndexParams::default()).unwrap();
    for found in [
        gallery.image("item 000").map(drop),
        check_images(&place.path).map(drop),
    ] {
        let error = found.unwrap_err().to_string();
        assert!(error.contains("image of item `item 000`"), "{error}");
    }
}

#[test]
fn compaction_leaves_no_trace_of_what_was_removed() {
    let place = Place::new();
    let file = place.path.with_extension("graph");
    let gallery = Gallery::create(&place.path, GRAPH_DIMENSION, "model", "graph").unwrap();
    let all = clustered(1500, &mut Random(21));
    gallery.upsert(all.clone()).unwrap();
    drop(gallery);
    let gallery = Gallery::open(&place.path, Access::ReadWrite, GRAPH).unwrap();
    let (gone, kept) = all.split_at(300);
    let ids: Vec<String> = gone.iter().map(|item| item.id.clone()).collect();
    gallery.delete(&ids).unwrap();
    assert!(!gallery.reindex_is_due());
    let bytes = |item: &Item| -> Vec<u8> {
        let values = item.embedding.as_slice().iter();
        values.flat_map(|value| value.to_le_bytes()).collect()
    };
    assert!(holds(&file, &bytes(&gone[7])));
    let before = fs::metadata(&place.path).unwrap().len();
    let digest = gallery.digest();
    gallery.compact().unwrap();
    assert_eq!((gallery.digest(), gallery.len()), (digest.clone(), 1200));
    assert_eq!(gallery.view().base_items(), 1200);
    drop(gallery);
    for item in gone.iter().step_by(50) {
        assert!(!holds(&file, &bytes(item)) && !holds(&place.path, &bytes(item)));
    }
    assert!(fs::metadata(&place.path).unwrap().len() < before);
    let gallery = Gallery::open(&place.path, Access::ReadWrite, GRAPH).unwrap();
    assert!(gallery.view().index_is_stored());
    assert_eq!(gallery.digest(), digest);
    let near: Vec<Embedding> = kept
        .iter()
        .step_by(37)
        .map(|item| item.embedding.clone())
        .collect();
    assert!(0.95 <= recall(&gallery.view(), &near));
}

/// Copies of a file with damage in some of its blocks of 4 KiB: a block of zeros, two exchanged blocks, or the
/// last block missing.
fn with_damaged_blocks(file: &[u8]) -> Vec<(String, Vec<u8>)> {
    const BLOCK: usize = 4096;
    let blocks = file.len() / BLOCK;
    let step = (blocks / 24).max(1);
    let mut all = Vec::new();
    for block in (0..blocks).step_by(step) {
        let range = block * BLOCK..(block + 1) * BLOCK;
        let mut zeroed = file.to_vec();
        zeroed.get_mut(range.clone()).unwrap().fill(0);
        all.push((format!("block {block} zeroed"), zeroed));
        let other = (block + blocks / 2) % blocks;
        let mut swapped = file.to_vec();
        swapped.copy_within(range.clone(), other * BLOCK);
        let theirs = file.get(other * BLOCK..(other + 1) * BLOCK).unwrap();
        swapped.get_mut(range).unwrap().copy_from_slice(theirs);
        all.push((format!("blocks {block} and {other} swapped"), swapped));
    }
    all.push((
        "cut".to_owned(),
        file.get(..(blocks - 1) * BLOCK).unwrap().to_vec(),
    ));
    all.retain(|(_, damaged)| damaged != file);
    all
}

#[test]
fn damaged_blocks_are_refused_or_built_anew() {
    let place = Place::new();
    let index = place.path.with_extension("graph");
    let gallery = Gallery::create(&place.path, GRAPH_DIMENSION, "model", "graph").unwrap();
    let all = clustered(1500, &mut Random(31));
    gallery.upsert(all.clone()).unwrap();
    drop(gallery);
    let open = || Gallery::open(&place.path, Access::ReadOnly, GRAPH);
    drop(Gallery::open(&place.path, Access::ReadWrite, GRAPH).unwrap());
    let good = fs::read(&index).unwrap();
    let (digest, answers) = {
        let gallery = open().unwrap();
        assert!(gallery.view().index_is_stored());
        (gallery.digest(), near_all(&gallery, &all))
    };

    let mut damaged = with_damaged_blocks(&good);
    for at in [8, 16] {
        let mut counted = good.clone();
        counted[at..at + 8].copy_from_slice(&(1_u64 << 63).to_le_bytes());
        damaged.push((format!("2^63 at {at}"), counted));
    }
    for (what, bytes) in damaged {
        fs::write(&index, bytes).unwrap();
        let gallery = open().unwrap();
        assert!(!gallery.view().index_is_stored(), "{what}");
        assert_eq!(near_all(&gallery, &all), answers, "{what}");
    }
    fs::write(&index, &good).unwrap();

    let items = fs::read(&place.path).unwrap();
    let mut refused = 0;
    for (what, bytes) in with_damaged_blocks(&items) {
        fs::write(&place.path, bytes).unwrap();
        match open() {
            // Blocks of unused pages.
            Ok(gallery) => assert_eq!(gallery.digest(), digest, "{what}"),
            Err(error) => {
                assert!(error.to_string().contains("gallery"), "{what}: {error}");
                refused += 1;
            }
        }
    }
    assert!(20 < refused, "{refused}");
}

#[test]
fn files_of_two_generations_give_what_the_items_say() {
    let place = Place::new();
    let index = place.path.with_extension("graph");
    let gallery = Gallery::create(&place.path, GRAPH_DIMENSION, "model", "graph").unwrap();
    let all = clustered(2400, &mut Random(32));
    let (old, new) = all.split_at(1200);
    gallery.upsert(old.to_vec()).unwrap();
    drop(gallery);
    let open = || Gallery::open(&place.path, Access::ReadWrite, GRAPH).unwrap();
    drop(open());
    let (old_items, old_index) = (fs::read(&place.path).unwrap(), fs::read(&index).unwrap());
    let gallery = open();
    let gone: Vec<String> = old.iter().take(600).map(|item| item.id.clone()).collect();
    gallery.delete(&gone).unwrap();
    gallery.upsert(new.to_vec()).unwrap();
    gallery.reindex().unwrap();
    drop(gallery);
    let (new_items, new_index) = (fs::read(&place.path).unwrap(), fs::read(&index).unwrap());
    for (items, index_file, ids) in [
        (&old_items, &new_index, old.iter().collect::<Vec<_>>()),
        (
            &new_items,
            &old_index,
            old[600..].iter().chain(new).collect(),
        ),
    ] {
        fs::write(&place.path, items).unwrap();
        fs::write(&index, index_file).unwrap();
        let gallery = open();
        let expected: BTreeSet<&str> = ids.iter().map(|item| item.id.as_str()).collect();
        for query in all.iter().step_by(23) {
            for found in nearest(&gallery.view(), &query.embedding, 10) {
                assert!(expected.contains(found.item.id.as_str()));
                let exact = Similarity::between(query.embedding.as_slice(), &found.vector);
                assert_eq!(Some(found.score), exact);
            }
        }
        let near: Vec<Embedding> = ids
            .iter()
            .step_by(41)
            .map(|item| item.embedding.clone())
            .collect();
        assert!(0.95 <= recall(&gallery.view(), &near));
    }
}

/// Who answers by a view must not show an item that was written after it.
#[test]
fn an_item_of_a_view_is_the_one_that_the_view_holds() {
    let place = Place::new();
    let gallery = place.create();
    let [first, second] = [3, 5].map(|number| Item {
        id: "one".to_owned(),
        ..items(number, number + 1).remove(0)
    });
    gallery.upsert(vec![first.clone()]).unwrap();
    let before = gallery.view();
    let held = gallery.item_of(&before, "one").unwrap();
    assert_eq!(&*held.1, first.embedding.as_slice());
    gallery.upsert(vec![second.clone()]).unwrap();
    assert!(gallery.item_of(&before, "one").is_none());
    let held = gallery.item_of(&gallery.view(), "one").unwrap();
    assert_eq!(&*held.1, second.embedding.as_slice());
    gallery.delete(&["one".to_owned()]).unwrap();
    assert!(gallery.item_of(&gallery.view(), "one").is_none());
}

/// A folder may have lost only the file that names its gallery.
#[test]
fn only_a_gallery_without_items_is_removed_as_unfinished() {
    let place = Place::new();
    let remove = || matchpoint_gallery::remove_unfinished(&place.path);
    remove().unwrap();
    let gallery = place.create();
    assert!(matches!(remove(), Err(GalleryError::InUse { .. })));
    drop(gallery);
    remove().unwrap();
    assert!(!place.path.exists());

    let gallery = place.create();
    gallery.upsert(items(0, 1)).unwrap();
    drop(gallery);
    assert!(matches!(remove(), Err(GalleryError::Exists { .. })));
    assert_eq!(place.open(Access::ReadOnly).unwrap().len(), 1);

    place.write("", b"no database");
    assert!(matches!(remove(), Err(GalleryError::Exists { .. })));
    place.write("", b"");
    remove().unwrap();
    assert!(!place.path.exists());
}

fn near_all(gallery: &Gallery, items: &[Item]) -> Vec<Vec<(u32, String)>> {
    let view = gallery.view();
    let near = |item: &Item| bits(&nearest(&view, &item.embedding, 10));
    items.iter().step_by(113).map(near).collect()
}
