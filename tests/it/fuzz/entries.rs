//! What reads bytes of others, each as a function of bytes, with inputs that it takes. One list: of the random changes
//! beside this file, and of those that coverage guides (`fuzz/`).

use std::collections::BTreeMap;
use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Duration;

use matchpoint::deployment::{Folder, MergeSettings, Models, check_snapshot, merge, restore};
use matchpoint::identity::{CallerAccess, KeysFile};
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
use tokio::runtime::Runtime;

use crate::common::raw::{begin, calls, framed, raw, status};
use crate::common::shop::{build_shop, calibrate_shop, vector};
use crate::common::{ROOT, Running, config, copy_folder, model, run};

/// One way in.
pub(crate) struct Entry {
    pub(crate) name: &'static str,
    pub(crate) open: fn() -> Opened,
}

/// Reads an input, and says whether it was taken for what it should be.
type Reader = Box<dyn FnMut(&[u8]) -> bool>;

/// A way in, ready to be given bytes.
pub(crate) struct Opened {
    /// Inputs from which others are made; one at least is taken.
    pub(crate) seeds: Vec<Vec<u8>>,
    pub(crate) read: Reader,
}

const fn entry(name: &'static str, open: fn() -> Opened) -> Entry {
    Entry { name, open }
}

/// All of them; those of which more depends first.
pub(crate) const ENTRIES: &[Entry] = &[
    entry("pictures", pictures),
    entry("requests", requests),
    entry("onnx", onnx_file),
    entry("manifest", manifest),
    entry("snapshot", snapshot),
    entry("shard", shard),
    entry("npy", || array("npy")),
    entry("npz", || array("npz")),
    entry("parquet", || array("parquet")),
    entry("fvecs", || array("fvecs")),
    entry("graph", || gallery("items.graph")),
    entry("items", || gallery("items.db")),
    entry("journal", journal),
    entry("filter", filter),
    entry("record", record),
    entry("operating-point", operating_point),
    entry("keys", keys),
    entry("jwks", jwks),
    entry("csv", || {
        list(
            "csv",
            "id,label,role\n\"a\",b,enrolled\nc,\"d\"\"e\",query\n",
        )
    }),
    entry("jsonl", || {
        list(
            "jsonl",
            "{\"id\":\"a\",\"label\":\"b\"}\n{\"id\":\"c\",\"label\":\"d\"}\n",
        )
    }),
    entry("tsv", || list("tsv", "id\tlabel\na\tb\nc\td\n")),
];

impl Opened {
    fn new(seeds: Vec<Vec<u8>>, read: impl FnMut(&[u8]) -> bool + 'static) -> Self {
        Self::within(TempDir::new().unwrap(), seeds, read)
    }

    fn within(
        folder: TempDir,
        seeds: Vec<Vec<u8>>,
        mut read: impl FnMut(&[u8]) -> bool + 'static,
    ) -> Self {
        let read = Box::new(move |input: &[u8]| {
            let taken = read(input);
            let _kept_until_then = &folder;
            taken
        });
        Self { seeds, read }
    }

    /// Reads each input as a file of this name.
    fn file(
        folder: TempDir,
        name: &str,
        seeds: Vec<Vec<u8>>,
        mut read: impl FnMut(&Path) -> bool + 'static,
    ) -> Self {
        let at = folder.path().join(name);
        Self::within(folder, seeds, move |input| {
            fs::write(&at, input).unwrap();
            read(&at)
        })
    }
}

/// The files of a folder with one of these endings, in order of their names.
fn files(folder: &str, endings: &[&str]) -> Vec<Vec<u8>> {
    let entries = fs::read_dir(Path::new(ROOT).join(folder)).unwrap();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    let ends = |path: &&PathBuf| {
        let ending = path.extension().and_then(|ending| ending.to_str());
        ending.is_some_and(|ending| endings.contains(&ending))
    };
    let read = |path: &PathBuf| fs::read(path).unwrap();
    paths.iter().filter(ends).map(read).collect()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn pictures() -> Opened {
    let limits = ImageLimits {
        bytes_max: 1 << 20,
        decode_bytes_max: 32 << 20,
    };
    let seeds = files(
        "crates/embed/tests/fixtures/hostile",
        &["jpg", "png", "gif", "webp", "bmp"],
    );
    Opened::new(seeds, move |input| {
        Pixels::decode(input, &limits, [255; 3]).is_ok()
    })
}

fn array(ending: &str) -> Opened {
    let seeds = files("crates/arrays/tests/fixtures/arrays", &[ending]);
    let options = ReadOptions {
        name: None,
        text: None,
        bytes_max: 64 << 20,
    };
    let folder = TempDir::new().unwrap();
    Opened::file(folder, &format!("input.{ending}"), seeds, move |path| {
        matchpoint_arrays::read(path, &options).is_ok()
    })
}

fn list(ending: &str, seed: &str) -> Opened {
    let seeds = vec![seed.as_bytes().to_vec(), b"id,label\na,b\nc,d\n".to_vec()];
    let folder = TempDir::new().unwrap();
    Opened::file(folder, &format!("input.{ending}"), seeds, |path| {
        LabelTable::read(path, 2).is_ok()
    })
}

fn filter() -> Opened {
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
    Opened::new(seeds, move |input| {
        let text = String::from_utf8_lossy(input);
        let filter = ItemFilter::parse(&text);
        filter.is_ok_and(|filter| filter.matches("x1", "a", &metadata) | true)
    })
}

fn manifest() -> Opened {
    let folder = TempDir::new().unwrap();
    // What the manifest names, but for the model itself: its digest is compared before anything is made of it.
    for file in ["golden.jpg", "golden.f32"] {
        fs::copy(model().join(file), folder.path().join(file)).unwrap();
    }
    fs::write(folder.path().join("model.onnx"), "none").unwrap();
    let mut models = Models::new(&config(folder.path(), &[]).engine, 1);
    let seeds = vec![fs::read(model().join("model.toml")).unwrap()];
    Opened::file(folder, "model.toml", seeds, move |path| {
        let opened = models.open(path.parent().unwrap(), None);
        // Taken as far as the digest.
        opened.err().unwrap().to_string().contains("model.onnx")
    })
}

fn onnx_file() -> Opened {
    let mut whole = fs::read(model().join("model.int8.onnx")).unwrap();
    // A graph is a protobuf: its beginning is one too, or nearly.
    whole.truncate(60_000);
    let seeds = vec![whole, vec![0x08, 0x08, 0x3a, 0x02, 0x12, 0x00]];
    Opened::file(TempDir::new().unwrap(), "x.onnx", seeds, |path| {
        OnnxFile::read(path).is_ok_and(|file| file.computed().len() < 10_000)
    })
}

/// A deployment with an index and a journal.
fn deployment() -> (TempDir, PathBuf) {
    let folder = TempDir::new().unwrap();
    let at = folder.path().join("shop");
    build_shop(&at, &["--graph-from-items", "100"]);
    calibrate_shop(&at, "0.2");
    Runtime::new().unwrap().block_on(async {
        let running = Running::start(&at, &[("MATCHPOINT_LOG", "off")]).await;
        let mut retrieval = RetrievalServiceClient::new(running.channel.clone());
        for label in 0..20 {
            retrieval.search(search_for(label)).await.unwrap();
        }
        drop(retrieval);
        running.stop().await;
    });
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

/// One of the two files that a gallery is kept in.
fn gallery(file: &str) -> Opened {
    let (folder, at) = deployment();
    let params = IndexParams {
        graph_from_items: 100,
        ..IndexParams::default()
    };
    let path = at.join("items.db");
    let whole = Gallery::open(&path, Access::ReadOnly, params).unwrap();
    let (digest, items) = (whole.digest(), whole.view().len());
    drop(whole);
    let seeds = vec![fs::read(at.join(file)).unwrap()];
    Opened::file(folder, &format!("shop/{file}"), seeds, move |_| {
        let opened = Gallery::open(&path, Access::ReadOnly, params);
        opened.is_ok_and(|gallery| {
            // Whatever opens is what was written.
            let found = (gallery.digest(), gallery.view().len());
            assert_eq!(found, (digest.clone(), items));
            true
        })
    })
}

fn journal() -> Opened {
    let (folder, at) = deployment();
    let seeds = vec![fs::read(at.join("decisions.db")).unwrap()];
    let selection = DecisionSelection {
        operating_point: None,
        unix_ms: 0..u64::MAX,
    };
    Opened::file(folder, "shop/decisions.db", seeds, move |path| {
        let Ok(reader) = JournalReader::open(path) else {
            return false;
        };
        let read = reader.decisions(&selection, |_| ControlFlow::Continue(()));
        let all = [
            read.is_ok(),
            reader.totals().is_ok(),
            reader.verify().is_ok(),
            reader.strata(&selection).is_ok(),
        ];
        all.iter().all(|one| *one)
    })
}

/// What a deployment's own folder says, with one of its files changed.
fn of_folder(folder: TempDir, at: PathBuf, file: &Path) -> Opened {
    let seeds = vec![fs::read(file).unwrap()];
    let name = file.strip_prefix(folder.path()).unwrap();
    let name = text(name).to_owned();
    Opened::file(folder, &name, seeds, move |_| {
        let folder = Folder::open(&at);
        folder.is_ok_and(|folder| {
            let points = folder.operating_points();
            points.is_ok_and(|points| {
                points.iter().all(|point| {
                    folder.adjuster(point).is_ok() && folder.recording(point.id()).is_ok()
                })
            })
        })
    })
}

fn record() -> Opened {
    let (folder, at) = deployment();
    let file = at.join("deployment.json");
    of_folder(folder, at, &file)
}

fn operating_point() -> Opened {
    let (folder, at) = deployment();
    let point = fs::read_dir(at.join("operating-points")).unwrap().next();
    let point = point.unwrap().unwrap().path();
    of_folder(folder, at, &point)
}

fn snapshot() -> Opened {
    let (folder, at) = deployment();
    let (archive, into) = (folder.path().join("archive"), folder.path().join("into"));
    let taken = run(&["snapshot", text(&at), text(&archive)]);
    assert!(taken.status.success());
    let seeds = vec![fs::read(&archive).unwrap()];
    let mut go_on = |_, _| ControlFlow::Continue(());
    let digest = check_snapshot(&archive, &mut go_on).unwrap();
    Opened::file(folder, "archive", seeds, move |path| {
        let mut go_on = |_, _| ControlFlow::Continue(());
        let Ok(found) = check_snapshot(path, &mut go_on) else {
            assert!(restore(path, &into, &|_| Ok(None), &mut go_on).is_err());
            assert!(!into.exists());
            return false;
        };
        // Whatever is taken is what was packed.
        assert_eq!(found, digest);
        true
    })
}

/// The one shard of a list.
fn shard() -> Opened {
    let folder = TempDir::new().unwrap();
    let at = folder.path().join("shard");
    build_shop(&at, &["--shard", "0/1"]);
    let archive = "shard/shard-0-of-1.tar";
    let seeds = vec![fs::read(folder.path().join(archive)).unwrap()];
    let into = folder.path().join("into");
    Opened::file(folder, archive, seeds, move |path| {
        let shards = [path.to_owned()];
        let settings = MergeSettings {
            shards: &shards,
            deployment: &into,
            into: false,
            name: None,
            model: None,
        };
        let merged = merge(settings, &mut |_, _| ControlFlow::Continue(()));
        assert_eq!(merged.is_ok(), into.exists());
        if merged.is_ok() {
            fs::remove_dir_all(&into).unwrap();
        }
        merged.is_ok()
    })
}

fn keys() -> Opened {
    let key = |more: &str| {
        let digest = "0".repeat(64);
        format!(
            r#"{{"format":1,"keys":[{{"id":"a","name":"b","sha256":"{digest}","scopes":["search"],{more}"created":""}}]}}"#
        )
    };
    let seeds = vec![
        key("").into_bytes(),
        key(r#""deployments":["shop"],"#).into_bytes(),
        key(r#""expires":"2027-03-01T00:00:00Z","calls_per_second":20,"#).into_bytes(),
    ];
    Opened::file(TempDir::new().unwrap(), "keys.json", seeds, |path| {
        KeysFile::read(path).is_ok()
    })
}

/// The first line is a token, what follows an issuer's public keys.
fn jwks() -> Opened {
    let seeds = [
        r#"eyJhbGciOiJFZERTQSIsImtpZCI6ImVkIn0.eyJpc3MiOiJpIiwiYXVkIjoiYSIsInN1YiI6InMiLCJleHAiOjQxMDAwMDAwMDB9.c2ln
{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"ed","alg":"EdDSA","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#,
        r#"eyJhbGciOiJFUzI1NiIsImtpZCI6ImVjIn0.eyJpc3MiOiJpIn0.c2ln
{"keys":[{"kty":"EC","crv":"P-256","kid":"ec","use":"sig","x":"2cG6PILI3jonKRPOsKU6AtMO5mHq3rOEvzlPO0G1LVw","y":"OTLCVaXUZ-iDnd6eEhNPN7dN5-JT-M0Eie6SV1CWv4I"}]}"#,
    ];
    let folder = TempDir::new().unwrap();
    let at = folder.path().join("jwks.json");
    let settings = [
        ("MATCHPOINT_TOKENS_JWKS", text(&at)),
        ("MATCHPOINT_TOKENS_ISSUER", "i"),
        ("MATCHPOINT_TOKENS_AUDIENCE", "a"),
    ];
    let access = config(folder.path(), &settings).access;
    let seeds = seeds.iter().map(|seed| seed.as_bytes().to_vec()).collect();
    Opened::within(folder, seeds, move |input| {
        let mut parts = input.splitn(2, |byte| *byte == b'\n');
        let token = parts.next().unwrap_or_default();
        fs::write(&at, parts.next().unwrap_or_default()).unwrap();
        let opened = CallerAccess::open(&access);
        opened.is_ok_and(|opened| {
            // Nobody here has signed any.
            assert!(opened.identify(Some(token), None).is_err());
            true
        })
    })
}

/// A message of a call: the first byte says of which.
fn requests() -> Opened {
    let (folder, at) = deployment();
    let (served, data) = (folder.path().join("served"), folder.path().join("data"));
    copy_folder(&at, &served);
    fs::create_dir(&data).unwrap();
    let settings = [
        ("MATCHPOINT_DATA_DIR", text(&data)),
        ("MATCHPOINT_REQUEST_TIMEOUT_SECONDS", "5"),
        ("MATCHPOINT_STALL_SECONDS", "2"),
        ("MATCHPOINT_LOG", "off"),
    ];
    let runtime = Runtime::new().unwrap();
    let running = runtime.block_on(Running::start(&served, &settings));
    let mut client = runtime.block_on(raw(running.address, 1 << 20));
    let calls = calls();
    let seeds = messages(&calls);
    Opened::within(folder, seeds, move |input| {
        // All of it: a server ends when nobody holds it any more.
        let running = &running;
        let [call, message @ ..] = input else {
            return false;
        };
        let call = &calls[usize::from(*call) % calls.len()];
        let (code, said) = runtime.block_on(async {
            client = client.clone().ready().await.unwrap();
            let (answer, mut body) = begin(&mut client, call);
            body.send_data(framed(message, message.len()), true)
                .unwrap();
            let answered = tokio::time::timeout(Duration::from_secs(20), status(answer));
            answered
                .await
                .unwrap_or_else(|_| panic!("{call} hangs: {message:?}"))
        });
        // UNKNOWN and INTERNAL are mistakes of the server's.
        assert!(
            ![2, 13].contains(&code),
            "{call}: {code} {said}: {message:?}"
        );
        // It runs as long as it is asked.
        assert!(!running.server.is_finished());
        code == 0
    })
}

/// Messages, each behind the number of its call.
#[expect(clippy::too_many_lines, reason = "a list")]
fn messages(calls: &[String]) -> Vec<Vec<u8>> {
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
    let messages = vec![
        (
            "RetrievalService/Search",
            SearchRequest {
                query: Some(search_request::Query::Image(image.unwrap().into())),
                ..SearchRequest::default()
            }
            .encode_to_vec(),
        ),
        (
            "GalleryService/BatchUpsertItems",
            BatchUpsertItemsRequest {
                items: vec![item.clone(), item.clone()],
                ..BatchUpsertItemsRequest::default()
            }
            .encode_to_vec(),
        ),
        ("GalleryService/UpsertItem", item.encode_to_vec()),
        ("RetrievalService/Search", search.encode_to_vec()),
        ("RetrievalService/SearchStream", search.encode_to_vec()),
        (
            "CalibrationService/Calibrate",
            CalibrateRequest {
                part: Some(calibrate_request::Part::Settings(settings)),
            }
            .encode_to_vec(),
        ),
        (
            "MonitoringService/AnnotateDecisions",
            AnnotateDecisionsRequest {
                annotations: vec![annotation],
                ..AnnotateDecisionsRequest::default()
            }
            .encode_to_vec(),
        ),
        (
            "GalleryService/ListItems",
            ListItemsRequest {
                page_size: 10,
                page_token: "x".to_owned(),
                ..ListItemsRequest::default()
            }
            .encode_to_vec(),
        ),
        (
            "GalleryService/GetItem",
            GetItemRequest {
                id: "3/1".to_owned(),
                ..GetItemRequest::default()
            }
            .encode_to_vec(),
        ),
        (
            "MonitoringService/GetDecision",
            GetDecisionRequest::default().encode_to_vec(),
        ),
        (
            "RetrievalService/Verify",
            VerifyRequest::default().encode_to_vec(),
        ),
        (
            "SnapshotService/WriteSnapshot",
            WriteSnapshotRequest::default().encode_to_vec(),
        ),
        (
            "SnapshotService/RestoreSnapshot",
            RestoreSnapshotRequest {
                snapshot_id: "one".to_owned(),
                deployment: "two".to_owned(),
                ..RestoreSnapshotRequest::default()
            }
            .encode_to_vec(),
        ),
    ];
    let numbered = messages.into_iter().map(|(call, message)| {
        let found = calls.iter().position(|one| one.ends_with(call)).unwrap();
        [&[u8::try_from(found).unwrap()], &message[..]].concat()
    });
    numbered.collect()
}
