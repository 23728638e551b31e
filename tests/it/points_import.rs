//! `matchpoint points import`: what Python calibrated decides here only if it comes to the same here.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;

use serde_json::{Value, json};
use tempfile::TempDir;
use tonic::Code;

use crate::common::shop::{COMPONENTS, LABELS, build_shop, build_shop_of, npy, vector};
use crate::common::{Running, copy_folder, model, photos, run, text};
use crate::grpc::{calibration, calibrations, error_of, target};
use matchpoint_calibration::analysis::consistency::Band;
use matchpoint_calibration::analysis::rng::SeededRng;
use matchpoint_calibration::analysis::{AnalysisScope, BAND_POINTS};
use matchpoint_calibration::procedure::{
    LabelledVectors, StatedSettings, VectorRequest, VectorRow, VectorSource, calibrate_vectors,
    vectors_digest,
};
use matchpoint_client::proto::retrieval_service_client::RetrievalServiceClient;
use matchpoint_client::proto::{
    Decision, LabelledQuery, SearchRequest, Vector, labelled_query, search_request,
};

/// Labels of strangers: enough for a FAR of 10 % at 95 %.
const STRANGERS: usize = 36;

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Pictures with ids, labels and vectors.
#[derive(Clone)]
struct Pictures {
    ids: Vec<String>,
    labels: Vec<String>,
    vectors: Vec<Vec<f32>>,
}

impl Pictures {
    /// Of the numbers of each label.
    fn of(labels: std::ops::Range<usize>, numbers: std::ops::Range<usize>) -> Self {
        let all = labels.flat_map(|label| numbers.clone().map(move |number| (label, number)));
        let all: Vec<(usize, usize)> = all.collect();
        Self {
            ids: all
                .iter()
                .map(|(label, n)| format!("{label}/{n}"))
                .collect(),
            labels: all
                .iter()
                .map(|(label, _)| format!("label {label}"))
                .collect(),
            vectors: all.iter().map(|(label, n)| vector(*label, *n)).collect(),
        }
    }

    fn rows(&self) -> Vec<VectorRow<'_>> {
        let named = self.ids.iter().zip(&self.labels).zip(&self.vectors);
        let rows = named.map(|((id, label), vector)| VectorRow {
            id: id.clone(),
            label,
            conditions: BTreeMap::new(),
            vector,
        });
        rows.collect()
    }
}

/// What the module for Python calibrates, and how.
#[derive(Clone)]
struct Calibration {
    gallery: Pictures,
    queries: Pictures,
    settings: Value,
}

impl Calibration {
    /// Of the shop's gallery.
    fn of_shop() -> Self {
        Self {
            gallery: Pictures::of(0..LABELS, 0..3),
            // Labels that are not enrolled are strangers.
            queries: Pictures::of(0..LABELS + STRANGERS, 3..5),
            settings: json!({
                "target_far": 0.1, "estimated": false, "target_frr": null, "equal_error": false, "costs": null,
                "confidence": 0.95, "seed": 0, "grow_to": null, "labels_as_they_are": false,
                "strangers_are_distinct": true, "worst_group_of": null, "review_frr": null,
            }),
        }
    }

    /// Writes what `found.save` writes, and gives the threshold.
    fn save(&self, folder: &Path) -> f32 {
        let vectors = LabelledVectors::normalise(self.gallery.rows(), self.queries.rows()).unwrap();
        let stated: StatedSettings = serde_json::from_value(self.settings.clone()).unwrap();
        let all = [self.gallery.vectors.concat(), self.queries.vectors.concat()].concat();
        let request = VectorRequest {
            source: VectorSource {
                name: "embeddings".to_owned(),
                digest: vectors_digest(&all),
                created: "2026-01-01T00:00:00Z".to_owned(),
            },
            settings: stated.checked().unwrap(),
            scope: AnalysisScope {
                pairs_max: 0,
                band: Band::default(),
                band_points: BAND_POINTS,
            },
        };
        let found = calibrate_vectors(&vectors, &request, &|_, _, _| true).unwrap();
        let point = found.outcome.unwrap().point;
        let record = format!("{}.json", point.id());
        for (kind, content) in [
            ("operating-points", point.to_json().unwrap().into_bytes()),
            ("recordings", found.trials.recording.to_json().unwrap()),
        ] {
            fs::create_dir_all(folder.join(kind)).unwrap();
            fs::write(folder.join(kind).join(&record), content).unwrap();
        }
        fs::write(folder.join("gallery.npy"), npy(&self.gallery.vectors)).unwrap();
        fs::write(folder.join("queries.npy"), npy(&self.queries.vectors)).unwrap();
        let content = json!({
            "format": 1,
            "operating_point": point.id(),
            "settings": self.settings,
            "gallery": {"ids": self.gallery.ids, "labels": self.gallery.labels},
            "queries": {"ids": self.queries.ids, "labels": self.queries.labels, "conditions": {}},
        });
        fs::write(folder.join("calibration.json"), content.to_string()).unwrap();
        point.threshold().get()
    }
}

/// A deployment, and the folder of a calibration of it.
fn saved() -> (TempDir, PathBuf, PathBuf, f32) {
    let root = TempDir::new().unwrap();
    let (shop, folder) = (root.path().join("shop"), root.path().join("saved"));
    build_shop(&shop, &[]);
    let threshold = Calibration::of_shop().save(&folder);
    (root, shop, folder, threshold)
}

fn import(shop: &Path, folder: &Path, more: &[&str]) -> Output {
    run(&[&["points", "import", path(shop), path(folder)], more].concat())
}

/// Runs an import that has to be refused, and makes sure that it has changed nothing.
fn refused(shop: &Path, folder: &Path) -> (i32, String) {
    let done = import(shop, folder, &[]);
    assert!(done.stdout.is_empty(), "{}", text(&done.stdout));
    let listed = run(&["points", "list", path(shop), "--json"]);
    let listed: Value = serde_json::from_slice(&listed.stdout).unwrap();
    assert_eq!(listed["operating_points"], json!([]));
    (done.status.code().unwrap(), text(&done.stderr))
}

/// Changes one number in a JSON file.
fn set(file: &Path, pointer: &str, value: Value) {
    let mut content: Value = serde_json::from_slice(&fs::read(file).unwrap()).unwrap();
    *content.pointer_mut(pointer).unwrap() = value;
    fs::write(file, content.to_string()).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_python_calibrated_decides_on_the_server_with_the_same_threshold() {
    let (root, shop, folder, threshold) = saved();
    // Found by the graph that serves, and so bound to it.
    let by_graph = root.path().join("by-graph");
    copy_folder(&shop, &by_graph);
    let found = import(&by_graph, &folder, &["--graph-from-items", "100", "--json"]);
    assert!(found.status.success(), "{}", text(&found.stderr));
    let found: Value = serde_json::from_slice(&found.stdout).unwrap();
    let index = found["content"]["binding"]["index"].as_str().unwrap();
    assert!(index.starts_with("exact below 100 items"), "{index}");
    assert!(
        found["content"]["index_check"]["sampled"]
            .as_u64()
            .is_some()
    );
    let at = found["content"]["threshold"].as_f64().unwrap();
    assert_eq!(at.to_string().parse(), Ok(threshold));

    let dry = import(&shop, &folder, &["--dry-run", "--json"]);
    assert!(dry.status.success(), "{}", text(&dry.stderr));
    let done = import(&shop, &folder, &["--json"]);
    assert!(done.status.success(), "{}", text(&done.stderr));
    let done: Value = serde_json::from_slice(&done.stdout).unwrap();
    let made = fs::read_dir(folder.join("operating-points"))
        .unwrap()
        .next();
    let made = made.unwrap().unwrap().file_name().into_string().unwrap();
    assert_eq!(made, format!("{}.json", done["made_as"].as_str().unwrap()));
    // It is bound to this deployment, and leaves no more room than the one of Python.
    assert_ne!(done["made_as"], done["operating_point"]);
    assert_ne!(done["content"]["binding"]["index"].as_str(), Some(index));
    assert!(done["content"]["turnover"].is_null());

    let running = Running::start(&shop, &[]).await;
    let mut retrieval = RetrievalServiceClient::new(running.channel.clone());
    for (label, wanted) in [(5, Decision::Accept), (LABELS + 7, Decision::Reject)] {
        let query = search_request::Query::Embedding(Vector {
            values: vector(label, 4),
        });
        let asked = SearchRequest {
            query: Some(query),
            ..SearchRequest::default()
        };
        let answer = retrieval.search(asked).await.unwrap().into_inner();
        let basis = answer.basis.as_ref().unwrap();
        assert_eq!(answer.decision(), wanted, "{answer:?}");
        assert_eq!(basis.threshold.map(f32::to_bits), Some(threshold.to_bits()));
        assert_eq!(
            basis.operating_point_id,
            done["operating_point"].as_str().unwrap()
        );
        assert!(basis.certified);
    }
    running.stop().await;
}

#[test]
fn a_gallery_that_differs_is_refused_by_the_names_of_what_differs() {
    let (root, shop, _folder, _) = saved();
    let changed = |change: &dyn Fn(&mut Calibration)| {
        let mut calibration = Calibration::of_shop();
        change(&mut calibration);
        let folder = root.path().join("changed");
        drop(fs::remove_dir_all(&folder));
        calibration.save(&folder);
        refused(&shop, &folder)
    };
    // One vector, by one bit.
    let (code, said) = changed(&|calibration| {
        let value = &mut calibration.gallery.vectors[4][0];
        *value = f32::from_bits(value.to_bits() + 4);
    });
    assert_eq!(code, 4);
    assert!(said.contains("1 have another vector here (1/1)"), "{said}");
    // An item fewer than here, and so one that was enrolled since.
    let (code, said) = changed(&|calibration| {
        calibration.gallery = Pictures::of(0..LABELS - 1, 0..3);
        calibration.queries = Pictures::of(0..LABELS + STRANGERS, 3..5);
    });
    assert_eq!(code, 4);
    assert!(
        said.contains(
            "of 177 items, and here are 180: 3 are here and were not part of it (59/0, 59/1, 59/2)"
        ),
        "{said}"
    );
    assert!(
        said.contains("1 labels of its strangers are enrolled here (label 59)"),
        "{said}"
    );
    // An item more.
    let (code, said) = changed(&|calibration| {
        calibration.gallery = Pictures::of(0..LABELS, 0..4);
        calibration.queries = Pictures::of(0..LABELS + STRANGERS, 4..6);
    });
    assert_eq!(code, 4);
    assert!(
        said.contains("60 of its items are not here (0/3, 1/3, 2/3 and 57 more)"),
        "{said}"
    );
    let (code, said) = changed(&|calibration| calibration.gallery.labels[0] = "label 1".to_owned());
    assert_eq!(code, 4);
    assert!(said.contains("1 have another label here (0/0)"), "{said}");
    // Another model, of as many components and of fewer.
    let others = root.path().join("others");
    build_shop_of(&others, 6, &[]);
    let calibration = root.path().join("changed");
    Calibration::of_shop().save(&calibration);
    let (code, said) = refused(&others, &calibration);
    assert_eq!(code, 4);
    assert!(said.contains("180 have another vector here"), "{said}");
    let (code, said) = changed(&|calibration| {
        for pictures in [&mut calibration.gallery, &mut calibration.queries] {
            for vector in &mut pictures.vectors {
                vector.truncate(COMPONENTS - 1);
            }
        }
    });
    assert_ne!(code, 0);
    assert!(
        said.contains("has 15 components, and the model of this deployment gives 16"),
        "{said}"
    );
}

#[test]
fn another_threshold_is_refused_with_both() {
    let (root, shop, folder, _) = saved();
    // As if the policy were another one than that of the record.
    set(
        &folder.join("calibration.json"),
        "/settings/target_far",
        json!(0.3),
    );
    let (code, said) = refused(&shop, &folder);
    assert_eq!(code, 4);
    assert!(
        said.contains("accepts from 0.")
            && said.contains("FAR <= 10 %")
            && said.contains("FAR <= 30 %"),
        "{said}"
    );
    // A vector that is given twice under one label is one search here, and two there.
    let mut calibration = Calibration::of_shop();
    let stranger = 2 * LABELS;
    calibration.settings["target_far"] = json!(0.3);
    calibration.settings["estimated"] = json!(true);
    for copy in 0..20 {
        let queries = &mut calibration.queries;
        queries.ids.push(format!("copy {copy}"));
        queries.labels.push(queries.labels[stranger].clone());
        queries.vectors.push(queries.vectors[stranger].clone());
    }
    let twice = root.path().join("twice");
    calibration.save(&twice);
    let (code, said) = refused(&shop, &twice);
    assert_eq!(code, 4);
    assert!(
        said.contains("20 queries are the vector of another one"),
        "{said}"
    );
    assert!(
        said.contains("copy 0, scored 0.") && said.contains("there and is not counted here"),
        "{said}"
    );
}

/// A calibration of a gallery of pictures, by vectors that nobody can tell the pictures of.
fn of_gallery(shop: &Path, settings: &Value) -> Calibration {
    let gallery = crate::adapt::gallery(shop);
    let view = gallery.view();
    let mut items: Vec<_> = view.items().collect();
    items.sort_by(|a, b| a.0.id.cmp(&b.0.id));
    let mut draws = SeededRng::new(1, 0);
    let mut noise = || f32::from(u16::try_from(draws.bits() >> 48).unwrap()) / 65_536.0 - 0.5;
    let empty = || Pictures {
        ids: Vec::new(),
        labels: Vec::new(),
        vectors: Vec::new(),
    };
    let (mut pictures, mut queries) = (empty(), empty());
    let mut ask = |label: String, vector: Vec<f32>| {
        queries.ids.push(format!("query {}", queries.ids.len()));
        queries.labels.push(label);
        queries.vectors.push(vector);
    };
    for (item, vector) in items {
        let apart = 1.0 / f32::from(u16::try_from(vector.len()).unwrap()).sqrt();
        let near = vector.iter().map(|value| value + 2.0 * apart * noise());
        ask(item.label.clone(), near.collect());
        let far = vector.iter().map(|_| noise());
        ask(format!("stranger to {}", item.id), far.collect());
        pictures.ids.push(item.id.clone());
        pictures.labels.push(item.label.clone());
        pictures.vectors.push(vector.to_vec());
    }
    let mut calibration = Calibration {
        gallery: pictures,
        queries,
        ..Calibration::of_shop()
    };
    let all = calibration.settings.as_object_mut().unwrap();
    all.insert("target_far".to_owned(), Value::Null);
    all.extend(settings.as_object().unwrap().clone());
    calibration
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn vectors_choose_no_threshold_where_a_head_may_have_been_fitted_to_their_pictures() {
    let root = TempDir::new().unwrap();
    let adapted = crate::adapt::adapted();
    let made = |model: &Path, name: &str, settings: &Value| {
        let (shop, folder) = (root.path().join(name), root.path().join("saved"));
        if !shop.exists() {
            let list = photos().join("gallery.csv");
            let images = ["--images", path(&list), "--model", path(model)];
            let built = run(&[&["build", path(&shop)], &images[..]].concat());
            assert!(built.status.success(), "{}", text(&built.stderr));
        }
        drop(fs::remove_dir_all(&folder));
        let calibration = of_gallery(&shop, settings);
        calibration.save(&folder);
        (shop, folder, calibration.queries)
    };
    let said_by =
        "do not show whether they are of pictures that the head of the model was fitted to";
    for settings in [
        json!({"target_far": 0.1}),
        json!({"target_frr": 0.5}),
        json!({"equal_error": true}),
    ] {
        let (shop, folder, _) = made(adapted, "behind", &settings);
        let (code, said) = refused(&shop, &folder);
        assert_eq!(code, 65);
        assert!(said.contains(said_by), "{said}");
        // The same of a model that was fitted to nothing that is known.
        let (shop, folder, _) = made(&model(), "before", &settings);
        let done = import(&shop, &folder, &["--dry-run"]);
        assert!(done.status.success(), "{}", text(&done.stderr));
    }

    // A server knows no more of vectors.
    let (shop, _, queries) = made(adapted, "behind", &json!({"target_far": 0.1}));
    let rows = queries.rows();
    let queries = rows.iter().map(|row| LabelledQuery {
        id: row.id.clone(),
        label: row.label.to_owned(),
        query: Some(labelled_query::Query::Embedding(Vector {
            values: row.vector.to_vec(),
        })),
        metadata: HashMap::new(),
    });
    let running = Running::start(&shop, &[]).await;
    let asked = calibration(target(0.1, "vectors"), queries.collect());
    let answer = calibrations(&running).calibrate(asked).await.unwrap();
    let (code, reason, _) = error_of(answer.get_ref());
    assert_eq!(
        (code, &*reason),
        (Code::InvalidArgument as i32, "QUERIES_FITTED")
    );
    running.stop().await;
}

/// Changes the file of queries, byte by byte.
fn edit(copy: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let file = copy.join("queries.npy");
    let mut bytes = fs::read(&file).unwrap();
    change(&mut bytes);
    fs::write(file, bytes).unwrap();
}

/// Writes a number at the beginning of a vector, counted from the end.
fn rewrite(copy: &Path, vector: usize, value: f32) {
    edit(copy, |bytes| {
        let at = bytes.len() - 4 * COMPONENTS * vector;
        bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
    });
}

#[test]
fn a_folder_that_is_not_whole_is_refused_by_what_is_wrong_with_it() {
    let (root, shop, folder, _) = saved();
    let broken = |change: &dyn Fn(&Path)| {
        let copy = root.path().join("copy");
        drop(fs::remove_dir_all(&copy));
        copy_folder(&folder, &copy);
        change(&copy);
        let (code, said) = refused(&shop, &copy);
        assert!([65, 66, 74].contains(&code), "{code}: {said}");
        said
    };
    let head = |copy: &Path| copy.join("calibration.json");
    for (change, wanted) in [
        // As the module of before wrote it, and as one to come may.
        (
            &(|copy: &Path| fs::remove_file(head(copy)).unwrap()) as &dyn Fn(&Path),
            "found.save(folder)",
        ),
        (
            &|copy| fs::rename(copy, root.path().join("elsewhere")).unwrap(),
            "holds no calibration; write it by `found.save(folder)`",
        ),
        (
            &|copy| set(&head(copy), "/format", json!(2)),
            "has the format 2, and this program reads 1",
        ),
        (
            &|copy| fs::write(head(copy), "{").unwrap(),
            "calibration.json: EOF",
        ),
        (
            &|copy| fs::remove_file(copy.join("gallery.npy")).unwrap(),
            "gallery.npy",
        ),
        (
            &|copy| edit(copy, |bytes| bytes.truncate(bytes.len() - 10)),
            "queries.npy",
        ),
        (
            &|copy| rewrite(copy, 1, f32::NAN),
            "row 191, counted from 0, is zero or holds what is not a number",
        ),
        (
            &|copy| rewrite(copy, 2, 1.5),
            "are not the vectors that its operating point was made of",
        ),
        (
            &|copy| set(&head(copy), "/gallery/ids/1", json!("0/0")),
            "two vectors have the id \"0/0\"",
        ),
        (
            &|copy| set(&head(copy), "/gallery/labels", json!([])),
            "180 vectors, and 0 ids, labels or conditions",
        ),
        (
            &|copy| set(&head(copy), "/operating_point", json!("../op-1")),
            "the id of its operating point is none",
        ),
        (
            &|copy| set(&head(copy), "/operating_point", json!("op-1")),
            "cannot read",
        ),
        (
            &|copy| set(&head(copy), "/settings/equal_error", json!(true)),
            "the settings name no target or several",
        ),
    ] {
        let said = broken(change);
        assert!(said.contains(wanted), "{wanted}: {said}");
    }
}
