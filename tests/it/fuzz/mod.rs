//! What reads bytes of others, given bytes that nobody sends: whole inputs that are changed at random, from fixed
//! seeds. Nothing panics, aborts, hangs, or takes an input for more than it is. A moment each here, and minutes each in
//! `make test-long`.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test fails by panicking, and says what it has tried"
)]

use std::collections::BTreeMap;
use std::fs;
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use matchpoint::deployment::{Folder, Models, check_snapshot, restore};
use matchpoint::identity::KeysFile;
use matchpoint::journal::read::{DecisionSelection, JournalReader};
use matchpoint_arrays::{LabelTable, ReadOptions};
use matchpoint_client::proto::retrieval_service_client::RetrievalServiceClient;
use matchpoint_client::proto::{
    AnnotateDecisionsRequest, Annotation, BatchUpsertItemsRequest, CalibrateRequest,
    CalibrationSettings, GetDecisionRequest, GetItemRequest, GroundTruth, ListItemsRequest,
    RestoreSnapshotRequest, SearchRequest, UpsertItemRequest, Vector, VerifyRequest,
    WriteSnapshotRequest, calibrate_request, calibration_settings, ground_truth, search_request,
    upsert_item_request,
};
use matchpoint_embed::draft::OnnxFile;
use matchpoint_embed::pixels::{ImageLimits, Pixels};
use matchpoint_gallery::filter::ItemFilter;
use matchpoint_gallery::params::IndexParams;
use matchpoint_gallery::{Access, Gallery};
use prost::Message;
use tempfile::TempDir;

use crate::common::random::Random;
use crate::common::shop::{build_shop, calibrate_shop, shop, vector};
use crate::common::{ROOT, Running, Served, config, copy_folder, model, patience, run};
use crate::identity::calls;
use crate::limits::{begin, framed, raw, status};

/// Longer than any of these readers takes, on a machine with much else to do.
const ONE_MAX: Duration = Duration::from_secs(10);
const INPUT_BYTES_MAX: usize = 1 << 20;
/// Numbers at which something changes.
const EDGES: [u64; 12] = [
    0,
    1,
    0x7f,
    0x80,
    0xff,
    0x7fff,
    0xffff,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    0x7fff_ffff_ffff_ffff,
    u64::MAX,
];

/// Makes inputs of seeds.
struct Mutator {
    random: Random,
    seeds: Vec<Vec<u8>>,
}

impl Mutator {
    fn new(seed: u64, seeds: Vec<Vec<u8>>) -> Self {
        assert!(!seeds.is_empty(), "there are no seeds");
        Self {
            random: Random(seed),
            seeds,
        }
    }

    fn next(&mut self) -> Vec<u8> {
        let mut input = self.seeds[self.random.below(self.seeds.len())].clone();
        for _ in 0..=self.random.below(6) {
            self.change(&mut input);
        }
        input.truncate(INPUT_BYTES_MAX);
        input
    }

    fn change(&mut self, input: &mut Vec<u8>) {
        let random = &mut self.random;
        let at = random.below(input.len() + 1);
        let width = random.below(10);
        let some = 1 + random.below(1 << width);
        let end = input.len().min(at + some);
        match random.below(9) {
            0 if at < input.len() => input[at] ^= 1 << random.below(8),
            1 if at < input.len() => input[at] = random.bits().to_le_bytes()[0],
            2 => drop(input.drain(at..end)),
            3 => {
                let again = input[at..end].to_vec();
                input.splice(at..at, again);
            }
            4 => {
                let noise: Vec<u8> = (0..some).map(|_| random.bits().to_le_bytes()[0]).collect();
                input.splice(at..at, noise);
            }
            5 => {
                let edge = EDGES[random.below(EDGES.len())];
                let width = 1 << random.below(4);
                let mut bytes = edge.to_le_bytes()[..width].to_vec();
                if random.below(2) == 0 {
                    bytes.reverse();
                }
                let end = input.len().min(at + width);
                input.splice(at..end, bytes);
            }
            6 => {
                let other = &self.seeds[random.below(self.seeds.len())];
                let from = random.below(other.len() + 1);
                let to = other.len().min(from + some);
                input.splice(at..end, other[from..to].iter().copied());
            }
            7 => input.truncate(at),
            _ => {
                // An ASCII digit becomes another number.
                if let Some(digit) = input[at..].iter_mut().find(|byte| byte.is_ascii_digit()) {
                    *digit = b"0123456789-.e"[random.below(13)];
                }
            }
        }
    }
}

/// Gives changed inputs to a reader for a while. What it takes badly is written down with its number.
fn fuzz(name: &str, seeds: Vec<Vec<u8>>, mut read: impl FnMut(&[u8]) -> bool) {
    let until = Instant::now() + patience(Duration::from_secs(1));
    let taken = seeds.iter().filter(|seed| read(seed)).count();
    assert!(0 < taken, "{name}: no seed is taken, so nothing is tried");
    let mut mutator = Mutator::new(20_261_130, seeds);
    let (mut inputs, mut taken, mut slowest) = (0_u64, 0_u64, Duration::ZERO);
    while Instant::now() < until {
        let input = mutator.next();
        let begun = Instant::now();
        let outcome = catch_unwind(AssertUnwindSafe(|| read(&input)));
        let took = begun.elapsed();
        slowest = slowest.max(took);
        if outcome.is_err() || ONE_MAX < took {
            let kept = std::env::temp_dir().join(format!("matchpoint-fuzz-{name}-{inputs}"));
            fs::write(&kept, &input).unwrap();
            panic!("{name}: input {inputs} ({}) took {took:?}", kept.display());
        }
        inputs += 1;
        taken += u64::from(outcome.unwrap());
    }
    println!("{name}: {inputs} inputs, {taken} of them taken, the slowest in {slowest:?}");
}

/// The files of a folder with one of these endings, by name.
fn seeds(folder: &str, endings: &[&str]) -> Vec<(PathBuf, Vec<u8>)> {
    let entries = fs::read_dir(Path::new(ROOT).join(folder)).unwrap();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    let ends = |path: &&PathBuf| {
        let ending = path.extension().and_then(|ending| ending.to_str());
        ending.is_some_and(|ending| endings.contains(&ending))
    };
    let read = |path: &PathBuf| (path.clone(), fs::read(path).unwrap());
    paths.iter().filter(ends).map(read).collect()
}

fn contents(seeds: Vec<(PathBuf, Vec<u8>)>) -> Vec<Vec<u8>> {
    seeds.into_iter().map(|(_, bytes)| bytes).collect()
}

/// A reader of files, given each input as a file of one name.
fn of_file(at: PathBuf, read: impl Fn(&Path) -> bool) -> impl FnMut(&[u8]) -> bool {
    move |input| {
        fs::write(&at, input).unwrap();
        read(&at)
    }
}

#[test]
fn pictures() {
    let limits = ImageLimits {
        bytes_max: 1 << 20,
        decode_bytes_max: 32 << 20,
    };
    let endings = ["jpg", "png", "gif", "webp", "bmp"];
    let seeds = contents(seeds("crates/embed/tests/fixtures/hostile", &endings));
    fuzz("pictures", seeds, |input| {
        Pixels::decode(input, &limits, [255; 3]).is_ok()
    });
}

#[test]
fn arrays() {
    for ending in ["npy", "npz", "parquet", "fvecs"] {
        let folder = TempDir::new().unwrap();
        let seeds = contents(seeds("crates/arrays/tests/fixtures/arrays", &[ending]));
        let options = ReadOptions {
            name: None,
            text: None,
            bytes_max: 64 << 20,
        };
        let at = folder.path().join(format!("input.{ending}"));
        let read = |path: &Path| matchpoint_arrays::read(path, &options).is_ok();
        fuzz(ending, seeds, of_file(at, read));
    }
}

#[test]
fn lists_of_labels() {
    for (ending, seed) in [
        (
            "csv",
            "id,label,role\n\"a\",b,enrolled\nc,\"d\"\"e\",query\n",
        ),
        (
            "jsonl",
            "{\"id\":\"a\",\"label\":\"b\"}\n{\"id\":\"c\",\"label\":\"d\"}\n",
        ),
        ("tsv", "id\tlabel\na\tb\nc\td\n"),
    ] {
        let folder = TempDir::new().unwrap();
        let at = folder.path().join(format!("input.{ending}"));
        let read = |path: &Path| LabelTable::read(path, 2).is_ok();
        let plain = b"id,label\na,b\nc,d\n".to_vec();
        fuzz(
            ending,
            vec![seed.as_bytes().to_vec(), plain],
            of_file(at, read),
        );
    }
}

#[test]
fn filters() {
    let seeds = [
        r#"label = "a" AND metadata.colour != "red""#,
        r#"metadata.site:* AND NOT (metadata.site = berlin OR id != "x")"#,
        r#"label = "a" OR (label = "b" AND NOT metadata.x = "y")"#,
        r#"label IN ("a", "b")"#,
        r#"metadata.colour = "red""#,
        r#"label = "a""#,
    ];
    let seeds = seeds.iter().map(|seed| seed.as_bytes().to_vec()).collect();
    let metadata = BTreeMap::from([("colour".to_owned(), "red".to_owned())]);
    fuzz("filters", seeds, |input| {
        let text = String::from_utf8_lossy(input);
        let filter = ItemFilter::parse(&text);
        filter.is_ok_and(|filter| filter.matches("x1", "a", &metadata) | true)
    });
}

#[test]
fn manifests() {
    let folder = TempDir::new().unwrap();
    // What the manifest names, but for the model itself: its digest is compared before anything is made of it.
    for file in ["golden.jpg", "golden.f32"] {
        fs::copy(model().join(file), folder.path().join(file)).unwrap();
    }
    fs::write(folder.path().join("model.onnx"), "none").unwrap();
    let mut models = Models::new(&config(shop(), &[]).engine, 1);
    let manifest = fs::read(model().join("model.toml")).unwrap();
    let at = folder.path().join("model.toml");
    fuzz("manifests", vec![manifest], |input| {
        fs::write(&at, input).unwrap();
        let refused = models.open(folder.path(), None).err().unwrap().to_string();
        // Taken as far as the digest.
        refused.contains("model.onnx")
    });
}

#[test]
fn onnx_files() {
    let folder = TempDir::new().unwrap();
    let mut whole = fs::read(model().join("model.int8.onnx")).unwrap();
    // A graph is a protobuf: its beginning is one too, or nearly.
    whole.truncate(60_000);
    let seeds = vec![whole, vec![0x08, 0x08, 0x3a, 0x02, 0x12, 0x00]];
    let read = |path: &Path| OnnxFile::read(path).is_ok_and(|file| file.computed().len() < 10_000);
    fuzz("onnx", seeds, of_file(folder.path().join("x.onnx"), read));
}

/// A deployment with an index and a journal.
fn deployment() -> (TempDir, PathBuf) {
    let folder = TempDir::new().unwrap();
    let at = folder.path().join("shop");
    build_shop(&at, &["--graph-from-items", "100"]);
    calibrate_shop(&at, "0.2");
    let served = Served::start(&at, &[], &[]);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let mut retrieval = RetrievalServiceClient::new(served.channel());
        for label in 0..20 {
            retrieval.search(search_for(label)).await.unwrap();
        }
    });
    served.end();
    (folder, at)
}

fn search_for(label: usize) -> SearchRequest {
    SearchRequest {
        query: Some(search_request::Query::Embedding(Vector {
            values: vector(label, 5),
        })),
        ..SearchRequest::default()
    }
}

#[test]
fn items_and_their_index() {
    let (_folder, at) = deployment();
    let params = IndexParams {
        graph_from_items: 100,
        ..IndexParams::default()
    };
    let path = at.join("items.db");
    let whole = Gallery::open(&path, Access::ReadOnly, params).unwrap();
    let digest = whole.digest();
    let query = |gallery: &Gallery| gallery.view().len();
    let items = query(&whole);
    drop(whole);
    for file in ["items.graph", "items.db"] {
        let seed = fs::read(at.join(file)).unwrap();
        let read = |_: &Path| {
            let opened = Gallery::open(&path, Access::ReadOnly, params);
            opened.is_ok_and(|gallery| {
                // Whatever opens is what was written.
                assert_eq!((gallery.digest(), query(&gallery)), (digest.clone(), items));
                true
            })
        };
        fuzz(file, vec![seed.clone()], of_file(at.join(file), read));
        fs::write(at.join(file), seed).unwrap();
    }
}

#[test]
fn journals() {
    let (_folder, at) = deployment();
    let path = at.join("decisions.db");
    let seed = fs::read(&path).unwrap();
    let selection = DecisionSelection {
        operating_point: None,
        unix_ms: 0..u64::MAX,
    };
    let read = |path: &Path| {
        let Ok(reader) = JournalReader::open(path) else {
            return false;
        };
        let mut rows = 0;
        let read = reader.decisions(&selection, |_| {
            rows += 1;
            ControlFlow::Continue(())
        });
        let all = [
            read.is_ok(),
            reader.totals().is_ok(),
            reader.verify().is_ok(),
            reader.strata(&selection).is_ok(),
        ];
        all.iter().all(|one| *one)
    };
    fuzz("journals", vec![seed], of_file(path.clone(), read));
}

#[test]
fn records_of_deployments() {
    let (_folder, at) = deployment();
    let point = fs::read_dir(at.join("operating-points")).unwrap().next();
    let point = point.unwrap().unwrap().path();
    for file in [at.join("deployment.json"), point] {
        let seed = fs::read(&file).unwrap();
        let read = |_: &Path| {
            let folder = Folder::open(&at);
            folder.is_ok_and(|folder| {
                let points = folder.operating_points();
                points.is_ok_and(|points| {
                    points.iter().all(|point| {
                        folder.adjuster(point).is_ok() && folder.recording(point.id()).is_ok()
                    })
                })
            })
        };
        fuzz("records", vec![seed.clone()], of_file(file.clone(), read));
        fs::write(&file, seed).unwrap();
    }
}

#[test]
fn snapshots() {
    let folder = TempDir::new().unwrap();
    let (archive, into) = (folder.path().join("archive"), folder.path().join("into"));
    let taken = run(&[
        "snapshot",
        shop().to_str().unwrap(),
        archive.to_str().unwrap(),
    ]);
    assert!(taken.status.success());
    let seed = fs::read(&archive).unwrap();
    let mut go_on = |_, _| ControlFlow::Continue(());
    let digest = check_snapshot(&archive, &mut go_on).unwrap();
    let read = |path: &Path| {
        let mut go_on = |_, _| ControlFlow::Continue(());
        let Ok(found) = check_snapshot(path, &mut go_on) else {
            assert!(restore(path, &into, &|_| Ok(None), &mut go_on).is_err());
            assert!(!into.exists());
            return false;
        };
        // Whatever is taken is what was packed.
        assert_eq!(found, digest);
        true
    };
    fuzz("snapshots", vec![seed], of_file(archive.clone(), read));
}

#[test]
fn files_of_keys() {
    let folder = TempDir::new().unwrap();
    let at = folder.path().join("keys.json");
    let key = |more: &str| {
        let digest = "0".repeat(64);
        format!(
            r#"{{"format":1,"keys":[{{"id":"a","name":"b","sha256":"{digest}","scopes":["search"],{more}"created":""}}]}}"#
        )
    };
    let seeds = vec![
        key("").into_bytes(),
        key(r#""deployments":["shop"],"#).into_bytes(),
    ];
    let read = |path: &Path| KeysFile::read(path).is_ok();
    fuzz("keys", seeds, of_file(at, read));
}

/// Messages of calls; which is whose does not matter, since any is sent to any.
fn messages() -> Vec<Vec<u8>> {
    let image = fs::read(Path::new(ROOT).join("crates/embed/tests/fixtures/hostile/one_pixel.png"));
    let search = SearchRequest {
        filter: r#"label = "label 3""#.to_owned(),
        ..search_for(3)
    };
    let item = UpsertItemRequest {
        id: "an item".to_owned(),
        label: "label 3".to_owned(),
        metadata: [("colour".to_owned(), "red".to_owned())].into(),
        source: Some(upsert_item_request::Source::Embedding(Vector {
            values: vector(3, 5),
        })),
        ..UpsertItemRequest::default()
    };
    let settings = CalibrationSettings {
        target: Some(calibration_settings::Target::TargetFar(0.1)),
        ..CalibrationSettings::default()
    };
    let annotation = Annotation {
        decision_id: "0197".to_owned(),
        ground_truth: Some(GroundTruth {
            truth: Some(ground_truth::Truth::Label("label 3".to_owned())),
            ..GroundTruth::default()
        }),
        ..Annotation::default()
    };
    vec![
        SearchRequest {
            query: Some(search_request::Query::Image(image.unwrap().into())),
            ..SearchRequest::default()
        }
        .encode_to_vec(),
        BatchUpsertItemsRequest {
            items: vec![item.clone(), item.clone()],
            ..BatchUpsertItemsRequest::default()
        }
        .encode_to_vec(),
        item.encode_to_vec(),
        search.encode_to_vec(),
        CalibrateRequest {
            part: Some(calibrate_request::Part::Settings(settings)),
        }
        .encode_to_vec(),
        AnnotateDecisionsRequest {
            annotations: vec![annotation],
            ..AnnotateDecisionsRequest::default()
        }
        .encode_to_vec(),
        ListItemsRequest {
            page_size: 10,
            page_token: "x".to_owned(),
            ..ListItemsRequest::default()
        }
        .encode_to_vec(),
        GetItemRequest {
            id: "3/1".to_owned(),
            ..GetItemRequest::default()
        }
        .encode_to_vec(),
        GetDecisionRequest::default().encode_to_vec(),
        VerifyRequest::default().encode_to_vec(),
        WriteSnapshotRequest::default().encode_to_vec(),
        RestoreSnapshotRequest {
            snapshot_id: "one".to_owned(),
            deployment: "two".to_owned(),
            ..RestoreSnapshotRequest::default()
        }
        .encode_to_vec(),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_of_every_call() {
    let folder = TempDir::new().unwrap();
    let (at, data) = (folder.path().join("shop"), folder.path().join("data"));
    copy_folder(shop(), &at);
    fs::create_dir(&data).unwrap();
    let settings = [
        ("MATCHPOINT_DATA_DIR", data.to_str().unwrap()),
        ("MATCHPOINT_REQUEST_TIMEOUT_SECONDS", "5"),
        ("MATCHPOINT_STALL_SECONDS", "2"),
        ("MATCHPOINT_LOG", "off"),
    ];
    let running = Running::start(&at, &settings).await;
    let calls = calls();
    let mut mutator = Mutator::new(7, messages());
    let mut codes: BTreeMap<i32, u32> = BTreeMap::new();
    let until = Instant::now() + patience(Duration::from_secs(3));
    let mut client = raw(running.address, 1 << 20).await;
    while Instant::now() < until {
        let (call, message) = (
            calls[mutator.random.below(calls.len())].clone(),
            mutator.next(),
        );
        client = client.ready().await.unwrap();
        let (answer, mut body) = begin(&mut client, &call);
        let sent = framed(&message, message.len());
        body.send_data(sent, true).unwrap();
        let answered = tokio::time::timeout(Duration::from_secs(20), status(answer));
        let (code, said) = answered
            .await
            .unwrap_or_else(|_| panic!("{call} hangs: {message:?}"));
        // UNKNOWN and INTERNAL are mistakes of the server's.
        assert!(
            ![2, 13].contains(&code),
            "{call}: {code} {said}: {message:?}"
        );
        *codes.entry(code).or_default() += 1;
    }
    println!(
        "{} messages, by code {codes:?}",
        codes.values().sum::<u32>()
    );
    assert!(3 < codes.len(), "{codes:?}");
    let mut retrieval = RetrievalServiceClient::new(running.channel.clone());
    retrieval.search(search_for(3)).await.unwrap();
    running.stop().await;
}
