//! The commands as a user runs them: what they print, and how they end.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use crate::common::shop::npy;
use crate::common::{
    ROOT, Served, copy_folder, copy_of_sample, matchpoint, model, photos, run, sample, text,
};
use matchpoint_gallery::item::Item;
use matchpoint_gallery::params::IndexParams;
use matchpoint_gallery::{Access, Gallery};
use matchpoint_vector::Embedding;
use serde_json::Value;
use tempfile::TempDir;

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|cause| panic!("{cause}: {}{}", text(&output.stdout), text(&output.stderr)))
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

/// A folder of labelled photographs, some of them broken.
fn mixed_folder(root: &Path) -> PathBuf {
    let folder = root.join("images");
    for label in ["gc_fishes_fish3", "gc_erase_pika"] {
        copy_folder(&photos().join("images").join(label), &folder.join(label));
    }
    let hostile = Path::new(ROOT).join("crates/embed/tests/fixtures/hostile");
    let broken = folder.join("broken");
    fs::create_dir_all(&broken).unwrap();
    for name in [
        "cut_in_half.jpg",
        "twelve_bits.jpg",
        "bomb_30000.png",
        "picture.tiff",
    ] {
        fs::copy(hostile.join(name), broken.join(name)).unwrap();
    }
    fs::write(broken.join("empty.png"), "").unwrap();
    fs::write(broken.join("notes.txt"), "not an image").unwrap();
    let pipe = broken.join("pipe.jpg");
    assert!(
        Command::new("mkfifo")
            .arg(&pipe)
            .status()
            .unwrap()
            .success()
    );
    fs::copy(
        hostile.join("grey16.png"),
        folder.join("gc_erase_pika/grey16.png"),
    )
    .unwrap();
    folder
}

fn build(deployment: &Path, images: &Path, more: &[&str]) -> Output {
    let model = model();
    let mut arguments = vec![
        "build",
        path(deployment),
        "--images",
        path(images),
        "--model",
        path(&model),
        "--json",
    ];
    arguments.extend(more);
    run(&arguments)
}

#[test]
fn a_build_enrols_what_it_can_lists_what_it_cannot_and_ends_with_its_own_code() {
    let root = TempDir::new().unwrap();
    let (images, deployment) = (mixed_folder(root.path()), root.path().join("shop"));
    let built = build(&deployment, &images, &[]);
    assert_eq!(code(&built), 3);
    let report = json(&built);
    assert_eq!(
        (report["enrolled"].as_u64(), report["items"].as_u64()),
        (Some(13), Some(13))
    );
    assert_eq!(
        (report["labels"].as_u64(), report["ignored_files"].as_u64()),
        (Some(2), Some(1))
    );
    let failed: Vec<(&str, &str)> = report["failed"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| {
            (
                one["item"].as_str().unwrap(),
                one["reason"].as_str().unwrap(),
            )
        })
        .collect();
    let expected = [
        ("broken/bomb_30000.png", "30000 x 30000 pixels"),
        ("broken/cut_in_half.jpg", "cut short"),
        ("broken/empty.png", "empty"),
        ("broken/picture.tiff", "TIFF"),
        ("broken/pipe.jpg", "not a regular file"),
        ("broken/twelve_bits.jpg", "not supported"),
    ];
    assert_eq!(failed.len(), expected.len(), "{failed:?}");
    for ((item, reason), (wanted, part)) in failed.iter().zip(expected) {
        assert!(*item == wanted && reason.contains(part), "{item}: {reason}");
    }

    // Again: nothing to do, and the same items.
    let again = json(&build(&deployment, &images, &[]));
    assert_eq!(
        (again["enrolled"].as_u64(), again["unchanged"].as_u64()),
        (Some(0), Some(13))
    );
    assert_eq!(again["gallery_digest"], report["gallery_digest"]);

    // A changed file is embedded anew, and one that is gone can be pruned.
    fs::copy(
        images.join("gc_erase_pika/q1_rotpersp.jpg"),
        images.join("gc_erase_pika/q3_lowres.jpg"),
    )
    .unwrap();
    fs::remove_file(images.join("gc_erase_pika/grey16.png")).unwrap();
    let changed = json(&build(&deployment, &images, &[]));
    assert_eq!(
        (
            changed["enrolled"].as_u64(),
            changed["not_in_source"].as_u64()
        ),
        (Some(1), Some(1))
    );
    let pruned = json(&build(&deployment, &images, &["--prune"]));
    assert_eq!(
        (pruned["pruned"].as_u64(), pruned["items"].as_u64()),
        (Some(1), Some(12))
    );
}

#[test]
fn nothing_is_pruned_while_an_entry_cannot_be_read() {
    let root = TempDir::new().unwrap();
    let images = root.path().join("images");
    copy_folder(
        &photos().join("images/gc_fishes_fish3"),
        &images.join("fish"),
    );
    let (table, deployment) = (
        root.path().join("images/items.csv"),
        root.path().join("shop"),
    );
    let whole = "path,label\nfish/g0_ref.jpg,fish\nfish/q1_rotpersp.jpg,fish\n";
    fs::write(&table, whole).unwrap();
    assert_eq!(code(&build(&deployment, &table, &[])), 0);
    fs::write(&table, whole.replace("fish/q1_rotpersp.jpg", "")).unwrap();
    let built = build(&deployment, &table, &["--prune"]);
    let report = json(&built);
    assert_eq!(
        (
            code(&built),
            report["pruned"].as_u64(),
            report["items"].as_u64()
        ),
        (3, Some(0), Some(2))
    );
    assert_eq!(report["not_in_source"], 1);
}

#[test]
fn a_file_that_is_not_there_fails_alone() {
    let root = TempDir::new().unwrap();
    let image = photos().join("images/gc_fishes_fish3/g0_ref.jpg");
    let table = root.path().join("items.csv");
    fs::write(
        &table,
        format!("path,label\nnowhere.jpg,fish\n{},fish\n", path(&image)),
    )
    .unwrap();
    let built = build(&root.path().join("shop"), &table, &[]);
    let report = json(&built);
    assert_eq!((code(&built), report["enrolled"].as_u64()), (3, Some(1)));
    assert_eq!(report["failed"][0]["item"], "nowhere.jpg");
    assert!(
        report["failed"][0]["reason"]
            .as_str()
            .unwrap()
            .contains("No such file"),
        "{report}"
    );
}

#[test]
fn a_deployment_that_a_crash_left_half_made_is_made_anew() {
    let root = TempDir::new().unwrap();
    let deployment = root.path().join("shop");
    fs::create_dir(&deployment).unwrap();
    // Items are enrolled only once the record is there, so a crash before it leaves none.
    drop(Gallery::create(&deployment.join("items.db"), 1280, "model", "unfinished").unwrap());
    let built = build(&deployment, &photos().join("gallery.csv"), &[]);
    assert_eq!(code(&built), 0, "{}", text(&built.stderr));
    assert_eq!(json(&built)["enrolled"], 36);
}

#[test]
fn an_empty_gallery_cannot_be_calibrated() {
    let root = TempDir::new().unwrap();
    let (deployment, images) = (root.path().join("empty"), root.path().join("images"));
    fs::create_dir_all(images.join("broken")).unwrap();
    fs::write(images.join("broken/1.jpg"), "").unwrap();
    assert_eq!(code(&build(&deployment, &images, &[])), 3);
    let queries = photos().join("calibrate.csv");
    let refused = run(&[
        "calibrate",
        path(&deployment),
        "--queries",
        path(&queries),
        "--target-far",
        "0.2",
    ]);
    assert_eq!(code(&refused), 65);
    assert!(
        text(&refused.stderr).contains("gallery is empty"),
        "{}",
        text(&refused.stderr)
    );
    assert!(json(&run(&["inspect", path(&deployment), "--json"]))["deployment"]["record"]["active_operating_point"].is_null());
}

#[test]
fn an_operating_point_that_is_gone_is_missed_and_can_be_replaced() {
    let (_folder, deployment) = copy_of_sample();
    fs::remove_dir_all(deployment.join("operating-points")).unwrap();
    let inspected = run(&["inspect", path(&deployment)]);
    assert_eq!(code(&inspected), 66, "{}", text(&inspected.stderr));
    fs::create_dir(deployment.join("operating-points")).unwrap();
    fs::write(deployment.join("operating-points/notes.json"), "not ours").unwrap();
    let queries = photos().join("calibrate.csv");
    let calibrated = run(&[
        "calibrate",
        path(&deployment),
        "--queries",
        path(&queries),
        "--target-far",
        "0.2",
    ]);
    assert_eq!(code(&calibrated), 0, "{}", text(&calibrated.stderr));
    assert_eq!(code(&run(&["inspect", path(&deployment)])), 0);
}

#[test]
fn a_folder_a_csv_and_a_jsonl_give_the_same_items() {
    let root = TempDir::new().unwrap();
    let images = photos().join("images");
    let folder = root.path().join("folder");
    let (mut csv, mut jsonl) = ("path,label\n".to_owned(), String::new());
    for label in ["gc_fishes_fish3", "gc_erase_pika"] {
        copy_folder(&images.join(label), &folder.join(label));
        for entry in fs::read_dir(images.join(label)).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            csv.push_str(&format!("{label}/{name},{label}\n"));
            jsonl.push_str(&format!(
                "{{\"path\": \"{label}/{name}\", \"label\": \"{label}\"}}\n"
            ));
        }
    }
    fs::write(folder.join("items.csv"), csv).unwrap();
    fs::write(folder.join("items.jsonl"), jsonl).unwrap();
    let mut digests = Vec::new();
    for (number, source) in ["", "items.csv", "items.jsonl"].into_iter().enumerate() {
        let built = build(
            &root.path().join(number.to_string()),
            &folder.join(source),
            &[],
        );
        assert_eq!(code(&built), 0, "{}", text(&built.stderr));
        digests.push(json(&built)["gallery_digest"].clone());
    }
    assert!(
        digests[0] == digests[1] && digests[1] == digests[2],
        "{digests:?}"
    );
}

/// What names the gallery can be lost in a copy or a crash, and the items are still there.
#[test]
fn a_build_never_begins_anew_over_items_that_lost_their_record() {
    let (_folder, deployment) = copy_of_sample();
    let record = deployment.join("deployment.json");
    let kept = fs::read(&record).unwrap();
    fs::remove_file(&record).unwrap();
    let refused = build(&deployment, &photos().join("images"), &[]);
    let said = text(&refused.stderr);
    assert_ne!(code(&refused), 0);
    assert!(said.contains("without its deployment.json"), "{said}");
    fs::write(&record, kept).unwrap();
    let shown = json(&run(&["inspect", path(&deployment), "--json"]));
    assert_eq!(shown["deployment"]["items"], 36, "{shown}");
}

#[test]
fn a_killed_and_an_interrupted_build_go_on_where_they_stopped() {
    let root = TempDir::new().unwrap();
    let (model, images) = (model(), photos().join("images"));
    let whole = json(&build(&root.path().join("whole"), &images, &[]));
    for (signal, expected) in [("KILL", None), ("TERM", Some(143))] {
        let deployment = root.path().join(signal);
        let mut child = matchpoint(&[
            "build",
            path(&deployment),
            "--images",
            path(&images),
            "--model",
            path(&model),
            "--json",
            "--workers",
            "1",
        ])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
        wait_for("the first items", || items_on_disk(&deployment) > 0);
        send(&child, signal);
        assert_eq!(child.wait().unwrap().code(), expected);
        let resumed = build(&deployment, &images, &[]);
        assert_eq!(code(&resumed), 0, "{}", text(&resumed.stderr));
        let resumed = json(&resumed);
        assert!(0 < resumed["unchanged"].as_u64().unwrap(), "{resumed}");
        assert_eq!(resumed["items"], whole["items"]);
        assert_eq!(resumed["gallery_digest"], whole["gallery_digest"]);
    }
}

fn items_on_disk(deployment: &Path) -> u64 {
    let inspected = run(&["inspect", path(deployment), "--json"]);
    if !inspected.status.success() {
        return 0;
    }
    json(&inspected)["deployment"]["items"].as_u64().unwrap()
}

fn send(child: &Child, signal: &str) {
    let sent = Command::new("kill")
        .args([&format!("-{signal}"), &child.id().to_string()])
        .status()
        .unwrap();
    assert!(sent.success());
}

fn wait_for(what: &str, mut there: impl FnMut() -> bool) {
    let started = Instant::now();
    while !there() {
        assert!(
            started.elapsed() < Duration::from_secs(60),
            "{what} did not come"
        );
    }
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table, or one story")]
fn wrong_input_is_named_with_a_code_of_its_own() {
    let root = TempDir::new().unwrap();
    let (nowhere, empty) = (root.path().join("nowhere"), root.path().join("empty"));
    fs::create_dir(&empty).unwrap();
    let no_label = root.path().join("no-label.csv");
    fs::write(&no_label, "path,class\na.jpg,cat\n").unwrap();
    let two_labels = root.path().join("two-labels.csv");
    fs::write(&two_labels, "path,label,label\na.jpg,cat,dog\n").unwrap();
    let denied = root.path().join("denied.csv");
    fs::write(&denied, "path,label,role\na.jpg,gc_fishes_fish14,unknown\n").unwrap();
    let (queries, gallery) = (photos().join("calibrate.csv"), photos().join("gallery.csv"));
    let cases: &[(&[&str], i32, &str)] = &[
        (
            &[
                "build",
                path(&nowhere),
                "--images",
                path(&empty),
                "--model",
                "models/efficientnet-lite0",
            ],
            66,
            "holds no labelled images",
        ),
        (
            &[
                "build",
                path(&nowhere),
                "--images",
                path(&no_label),
                "--model",
                "models/efficientnet-lite0",
            ],
            65,
            "no column `label`",
        ),
        (
            &["evaluate", path(sample()), "--queries", path(&denied)],
            65,
            "1 rows have the role unknown",
        ),
        (
            &["build", path(&nowhere), "--images", path(&queries)],
            66,
            "no row of",
        ),
        (
            &["build", path(&nowhere), "--images", path(&two_labels)],
            65,
            "two columns are named `label`",
        ),
        (
            &["build", path(&nowhere), "--images", path(&gallery)],
            2,
            "say --model DIR",
        ),
        (
            &[
                "build",
                path(&nowhere),
                "--images",
                path(&gallery),
                "--model",
                path(&empty),
            ],
            65,
            "model.toml",
        ),
        (
            &[
                "calibrate",
                path(&nowhere),
                "--queries",
                path(&queries),
                "--target-far",
                "0.1",
            ],
            66,
            "holds no deployment",
        ),
        (
            &[
                "calibrate",
                path(&nowhere),
                "--queries",
                path(&queries),
                "--target-far",
                "7",
            ],
            2,
            "target FAR",
        ),
        (
            &["evaluate", path(&nowhere), "--queries", "nothing.csv"],
            66,
            "nothing.csv",
        ),
        (
            &["inspect", path(&nowhere)],
            66,
            "make one with `matchpoint build`",
        ),
        (
            &["serve", "--listen", "nowhere", "--device", "tpu"],
            78,
            "the configuration has 3 mistakes",
        ),
        (
            &[
                "build",
                path(&nowhere),
                "--images",
                path(&gallery),
                "--onnxruntime",
                "/nowhere.so",
                "--model",
                "models/efficientnet-lite0",
            ],
            78,
            "/nowhere.so",
        ),
        (
            &["search", "--server", "http://127.0.0.1:1", "photo.jpg"],
            69,
            "no server answers",
        ),
        (&["bild"], 2, "unrecognized subcommand"),
    ];
    for (arguments, expected, part) in cases {
        let output = run(arguments);
        let said = text(&output.stderr);
        assert_eq!(
            (code(&output), said.contains(part)),
            (*expected, true),
            "{arguments:?}: {said}"
        );
    }
    assert!(!nowhere.join("deployment.json").exists());
}

#[test]
fn cuda_that_is_not_there_is_refused_with_its_own_code() {
    let root = TempDir::new().unwrap();
    let built = build(
        &root.path().join("shop"),
        &photos().join("gallery.csv"),
        &["--device", "cuda"],
    );
    // On a machine with CUDA, and the runtime for it, this succeeds.
    assert!(matches!(code(&built), 0 | 6), "{}", text(&built.stderr));
}

#[test]
fn another_model_is_refused_by_both_fingerprints() {
    let root = TempDir::new().unwrap();
    let other = root.path().join("other");
    copy_folder(&model(), &other);
    let manifest = fs::read_to_string(other.join("model.toml")).unwrap();
    let changed = manifest.replace("background = [255, 255, 255]", "background = [0, 0, 0]");
    assert_ne!(manifest, changed);
    fs::write(other.join("model.toml"), changed).unwrap();
    let queries = photos().join("evaluate.csv");
    let refused = run(&[
        "evaluate",
        path(sample()),
        "--queries",
        path(&queries),
        "--model",
        path(&other),
    ]);
    assert_eq!(code(&refused), 4);
    let said = text(&refused.stderr);
    assert_eq!(said.matches("fingerprint").count(), 2, "{said}");
    let refused = run(&["inspect", path(sample()), "--model", path(&other)]);
    assert_eq!(code(&refused), 4, "{}", text(&refused.stderr));
}

#[test]
fn a_deployment_takes_no_images_in_another_precision_than_its_own() {
    let (_folder, deployment) = copy_of_sample();
    let gallery = photos().join("gallery.csv");
    let build = |precision: &str| {
        let precision = ["--precision", precision];
        build(&deployment, &gallery, &precision)
    };
    let refused = build("int8");
    let said = text(&refused.stderr);
    assert_eq!(code(&refused), 4, "{said}");
    assert!(said.contains("precision f32"), "{said}");
    assert_eq!(code(&build("f32")), 0);
}

#[test]
fn a_changed_model_file_is_refused_by_name() {
    let root = TempDir::new().unwrap();
    let other = root.path().join("other");
    copy_folder(&model(), &other);
    let mut onnx = fs::read(other.join("model.onnx")).unwrap();
    onnx[5_000_000] ^= 1;
    fs::write(other.join("model.onnx"), onnx).unwrap();
    let refused = run(&["inspect", "--model", path(&other)]);
    assert_eq!(code(&refused), 65);
    assert!(
        text(&refused.stderr).contains("SHA-256"),
        "{}",
        text(&refused.stderr)
    );
}

#[test]
fn a_flipped_byte_anywhere_is_found_before_anything_is_served() {
    let whole = json(&run(&["inspect", path(sample()), "--json"]));
    let digest = &whole["deployment"]["gallery_digest"];
    let (_folder, deployment) = copy_of_sample();
    let point = fs::read_dir(deployment.join("operating-points"))
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    for file in [
        deployment.join("deployment.json"),
        deployment.join("items.db"),
        point,
    ] {
        let content = fs::read(&file).unwrap();
        for part in 1..8 {
            let mut damaged = content.clone();
            damaged[content.len() * part / 8] ^= 0x10;
            fs::write(&file, damaged).unwrap();
            let inspected = run(&["inspect", path(&deployment), "--json"]);
            if inspected.status.success() {
                // A byte that means nothing: unused space of a page, or a blank.
                let inspected = json(&inspected);
                assert_eq!(
                    &inspected["deployment"]["gallery_digest"], digest,
                    "{file:?}"
                );
                assert_eq!(
                    inspected["deployment"]["record"],
                    whole["deployment"]["record"]
                );
            } else {
                assert_eq!(
                    code(&inspected),
                    65,
                    "{file:?}: {}",
                    text(&inspected.stderr)
                );
            }
        }
        fs::write(&file, content).unwrap();
    }
}

#[test]
fn a_target_that_the_data_cannot_support_changes_nothing_and_says_what_it_takes() {
    let (_folder, deployment) = copy_of_sample();
    let before = fs::read(deployment.join("deployment.json")).unwrap();
    let queries = photos().join("calibrate.csv");
    let arguments = [
        "calibrate",
        path(&deployment),
        "--queries",
        path(&queries),
        "--target-far",
        "0.001",
        "--json",
    ];
    let refused = run(&arguments);
    assert_eq!(code(&refused), 5);
    let refusal = &json(&refused)["refusal"];
    assert_eq!(refusal["reason"], "CALIBRATION_UNDERPOWERED");
    assert_eq!(
        (
            refusal["independent_trials"].as_u64(),
            refusal["needed"].as_u64()
        ),
        (Some(24), Some(2995))
    );
    assert_eq!(
        fs::read(deployment.join("deployment.json")).unwrap(),
        before
    );

    let dry = run(&[
        "calibrate",
        path(&deployment),
        "--queries",
        path(&queries),
        "--target-far",
        "0.2",
        "--dry-run",
    ]);
    assert_eq!(code(&dry), 0, "{}", text(&dry.stderr));
    let said = text(&dry.stdout);
    for words in [
        "(dry run, not saved): accepts from score 0.6",
        "Promised, at 95 % confidence: of 1,000 strangers at most 200 get in",
        "were turned away, or taken for another",
        "next: the same without --dry-run",
    ] {
        assert!(said.contains(words), "no {words:?} in {said}");
    }
    assert!(said.lines().count() <= 8, "{said}");
    assert!(said.lines().all(|line| line.len() <= 96), "{said}");
    assert_eq!(
        fs::read(deployment.join("deployment.json")).unwrap(),
        before
    );
}

#[test]
fn a_build_names_look_alikes_and_a_damaged_list_of_the_calibrations_items_is_named() {
    let (folder, deployment) = copy_of_sample();
    let known = photos().join("images/gc_fishes_fish3");
    let list = folder.path().join("more.csv");
    let row = format!("{},impostor,impostor/1", path(&known.join("g0_ref.jpg")));
    fs::write(&list, format!("path,label,id\n{row}\n")).unwrap();
    let arguments = ["build", path(&deployment), "--images", path(&list)];
    let built = run(&[&arguments[..], &["--json"]].concat());
    assert_eq!(code(&built), 0, "{}", text(&built.stderr));
    let found = &json(&built)["lookalikes"];
    assert_eq!(
        (&found["searched"], &found["accepted"]),
        (&1.into(), &1.into())
    );
    assert_eq!(found["items"][0]["accepted_as_label"], "gc_fishes_fish3");
    assert_eq!(found["items"][0]["item"], "impostor/1");

    let inspected = |deployment: &Path| {
        let inspected = run(&["inspect", path(deployment), "--json"]);
        json(&inspected)["deployment"]["operating_points"][0].clone()
    };
    let point = inspected(&deployment);
    assert_eq!(
        (&point["items_added"], &point["items_removed"]),
        (&1.into(), &0.into())
    );
    // One enrolment ends no promise.
    assert_eq!(
        (&point["certified"], &point["within_calibrated_size"]),
        (&true.into(), &true.into())
    );
    let said = text(&run(&["inspect", path(&deployment)]).stdout);
    assert!(
        said.contains("covers 97.3 % of the gallery: 1 items were added"),
        "{said}"
    );

    let items = fs::read_dir(deployment.join("calibrated-items")).unwrap();
    let items = items.map(|entry| entry.unwrap().path()).next().unwrap();
    let mut bytes = fs::read(&items).unwrap();
    bytes[20] ^= 1;
    fs::write(&items, bytes).unwrap();
    let point = inspected(&deployment);
    let problem = point["coverage_problem"].as_str().unwrap();
    assert!(
        problem.contains(".items") && problem.contains("checksum"),
        "{problem}"
    );
    assert_eq!(
        (&point["certified"], &point["gallery_coverage"]),
        (&false.into(), &Value::Null)
    );
    let verified = run(&["verify", path(&deployment)]);
    assert_eq!(code(&verified), 65);
    assert!(
        text(&verified.stderr).contains(".items"),
        "{}",
        text(&verified.stderr)
    );
}

#[test]
fn a_damaged_list_of_items_is_named_before_the_gallery_changes() {
    let (_folder, deployment) = copy_of_sample();
    let list = fs::read_dir(deployment.join("calibrated-items")).unwrap();
    let list = list.map(|entry| entry.unwrap().path()).next().unwrap();
    let mut bytes = fs::read(&list).unwrap();
    bytes[20] ^= 1;
    fs::write(&list, bytes).unwrap();
    let said = text(&run(&["inspect", path(&deployment)]).stdout);
    assert!(
        said.contains("NOT COVERED once the gallery changes") && said.contains(".items is damaged"),
        "{said}"
    );
}

#[test]
fn as_many_items_of_another_gallery_are_not_taken_for_those_of_the_calibration() {
    let (_folder, deployment) = copy_of_sample();
    let list = fs::read_dir(deployment.join("calibrated-items")).unwrap();
    let list = list.map(|entry| entry.unwrap().path()).next().unwrap();
    // Every item is exchanged, and the list is that of the gallery as it is now.
    let items = deployment.join("items.db");
    let gallery = Gallery::open(&items, Access::ReadWrite, IndexParams::default()).unwrap();
    let before = gallery.view();
    let others = before.items().map(|(head, vector)| Item {
        id: head.id.clone(),
        label: format!("another {}", head.label),
        metadata: head.metadata.clone(),
        embedding: Embedding::from_unit(vector.to_vec()).unwrap(),
        source_sha256: None,
        image: None,
    });
    gallery.upsert(others.collect()).unwrap();
    let now = gallery.view();
    assert_eq!(now.len(), before.len());
    fs::write(
        &list,
        now.item_set(&std::collections::BTreeSet::new()).to_bytes(),
    )
    .unwrap();
    drop((before, now, gallery));

    let inspected = run(&["inspect", path(&deployment), "--json"]);
    let point = &json(&inspected)["deployment"]["operating_points"][0];
    let problem = point["coverage_problem"].as_str().unwrap();
    assert!(problem.contains("another gallery"), "{problem}");
    assert_eq!(
        (&point["certified"], &point["gallery_coverage"]),
        (&false.into(), &Value::Null)
    );
    assert_eq!(code(&run(&["verify", path(&deployment)])), 65);
    let served = serve(&deployment);
    let status = run(&["status", "--json", "--server", &served.address]);
    let info = &json(&status)["deployments"][0];
    assert_eq!(
        (&info["certified"], &info["gallery_coverage"]),
        (&false.into(), &Value::Null)
    );
}

#[test]
fn left_out_labels_are_aimed_at_and_never_called_certified() {
    let queries = photos().join("calibrate.csv");
    let (_folder, deployment) = copy_of_sample();
    let arguments = [
        "calibrate",
        path(&deployment),
        "--queries",
        path(&queries),
        "--target-far",
        "0.1",
        "--strangers",
        "all",
        "--verbose",
    ];
    let calibrated = run(&arguments);
    assert_eq!(code(&calibrated), 0, "{}", text(&calibrated.stderr));
    let said = text(&calibrated.stdout);
    assert!(
        said.contains("aims at, and does not promise") && said.contains("12 left out"),
        "{said}"
    );
    assert_fits(&said);
}

#[test]
fn evaluate_reports_rates_with_intervals_over_labels() {
    let queries = photos().join("evaluate.csv");
    let evaluated = run(&[
        "evaluate",
        path(sample()),
        "--queries",
        path(&queries),
        "--json",
    ]);
    assert_eq!(code(&evaluated), 0, "{}", text(&evaluated.stderr));
    let report = json(&evaluated);
    assert_eq!(
        (report["mated"].as_u64(), report["non_mated"].as_u64()),
        (Some(120), Some(60))
    );
    let number = |pointer: &str| report.pointer(pointer).unwrap().as_f64().unwrap();
    assert!(
        0.95 < number("/recall_at_1/estimate")
            && number("/recall_at_1/estimate") <= number("/recall_at_5")
    );
    assert!(number("/far/interval/lower") <= number("/far/estimate"));
    assert!(number("/far/estimate") <= number("/far/interval/upper"));
    assert_eq!((number("/far/labels"), number("/frr/labels")), (12.0, 24.0));
    assert!(0.0 < number("/queries_per_second"));

    // In words, what was asked for beside what came of it.
    let said = run(&["evaluate", path(sample()), "--queries", path(&queries)]);
    let said = text(&said.stdout);
    let part = (1000.0 * number("/far/estimate")).round();
    for words in [
        format!("Of 1,000 strangers {part} got in; at most 100 may"),
        "were turned away, or taken for another".to_owned(),
    ] {
        assert!(
            said.replace("\n  ", " ").contains(&words),
            "no {words:?} in {said}"
        );
    }
    assert!(said.lines().count() <= 8, "{said}");
    assert_fits(&said);
    let verbose = ["--queries", path(&queries), "--verbose"];
    assert_fits(&text(
        &run(&[&["evaluate", path(sample())], &verbose[..]].concat()).stdout,
    ));
}

/// The pictures of 12 strangers whom nobody named, and those of what is enrolled.
fn unnamed_strangers() -> Vec<String> {
    let all = fs::read_to_string(photos().join("evaluate.csv")).unwrap();
    let rows = all.lines().skip(1).enumerate().map(|(number, row)| {
        let cells: Vec<&str> = row.split(',').collect();
        let unnamed = format!("stranger-0199f0aa-7c1b-7e0e-8d63-{number:012x}");
        let is_stranger = cells[2] == "unknown";
        let label = if is_stranger { &unnamed } else { cells[1] };
        format!("{},{label}\n", path(&photos().join(cells[0])))
    });
    rows.collect()
}

/// As a calibration counts them.
#[test]
fn pictures_that_may_show_one_stranger_are_no_labels_of_an_evaluation() {
    let folder = tempfile::tempdir().unwrap();
    let queries = folder.path().join("unnamed.csv");
    let written = |rows: &[String]| fs::write(&queries, format!("path,label\n{}", rows.concat()));
    let rows = unnamed_strangers();
    written(&rows).unwrap();
    let shop = folder.path().join("shop");
    copy_folder(sample(), &shop);
    let asked = |first: &str, more: &[&str]| {
        run(&[&[first, path(&shop), "--queries", path(&queries)], more].concat())
    };
    let evaluated = asked("evaluate", &["--json"]);
    assert_eq!(code(&evaluated), 0, "{}", text(&evaluated.stderr));
    let report = json(&evaluated);
    assert_eq!(report["non_mated"], 60);
    let labels = report["far"]["labels"].as_u64().unwrap();
    assert!((1..=12).contains(&labels), "{}", report["far"]);
    // One that counted as another chose the threshold as well.
    let calibrated = asked("calibrate", &["--equal-error"]);
    assert_eq!(code(&calibrated), 0, "{}", text(&calibrated.stderr));
    let is_stranger = |row: &&String| row.contains(",stranger-");
    let last: Vec<String> = rows
        .iter()
        .rfind(is_stranger)
        .cloned()
        .into_iter()
        .collect();
    written(&last).unwrap();
    let refused = asked("evaluate", &[]);
    let said = text(&refused.stderr);
    assert!(
        code(&refused) == 65 && said.contains("chose the threshold"),
        "{said}"
    );
}

/// As wide as a terminal; a command to type, and a path, are not broken.
fn assert_fits(said: &str) {
    let fits =
        |line: &str| line.chars().count() <= 96 || line.starts_with("next: ") || line.contains('/');
    let wide: Vec<&str> = said.lines().filter(|line| !fits(line)).collect();
    assert!(wide.is_empty(), "{wide:#?}");
}

#[test]
fn config_show_says_where_each_value_comes_from_and_lists_every_mistake() {
    let shown = matchpoint(&[
        "config",
        "show",
        "--queue-len-max",
        "9",
        "--json",
        "--deployments",
        "a",
    ])
    .env("MATCHPOINT_WORKERS", "3")
    .output()
    .unwrap();
    assert_eq!(code(&shown), 0, "{}", text(&shown.stderr));
    let rows = json(&shown);
    let row = |key: &str| {
        rows.as_array()
            .unwrap()
            .iter()
            .find(|row| row["key"] == key)
            .unwrap()
            .clone()
    };
    assert_eq!(
        (
            row("queue_len_max")["value"].as_str(),
            row("queue_len_max")["source"].as_str()
        ),
        (Some("9"), Some("flag"))
    );
    assert_eq!(row("workers")["source"], "environment");
    assert_eq!(row("listen")["source"], "default");
    let shown = run(&["config", "show", "--queue-len-max", "none"]);
    assert_eq!(code(&shown), 78);
    assert!(
        text(&shown.stdout).contains("queue_len_max") && text(&shown.stderr).contains("2 mistakes")
    );
}

#[test]
fn the_shipped_configuration_is_accepted() {
    let file = Path::new(ROOT).join("deploy/matchpoint.toml");
    let shown = run(&["config", "show", "--config", path(&file)]);
    assert_eq!(code(&shown), 0, "{}", text(&shown.stderr));
    let written = fs::read_to_string(file).unwrap();
    for setting in matchpoint::config::SETTINGS {
        assert!(
            written.contains(&format!("{} =", setting.key)),
            "{} is not shown",
            setting.key
        );
    }
}

fn serve(deployment: &Path) -> Served {
    Served::start(deployment, &[], &["--shadow-share", "1"])
}

/// What a command says as JSON, and its exit code.
fn said(arguments: &[&str]) -> (Value, Option<i32>) {
    let output = run(arguments);
    let said = serde_json::from_slice(&output.stdout);
    let said = said.unwrap_or_else(|_| panic!("{}", text(&output.stderr)));
    (said, output.status.code())
}

#[test]
#[expect(clippy::too_many_lines, reason = "one story")]
fn decisions_are_listed_filled_in_imported_and_exported_and_a_refused_row_is_named() {
    let (folder, deployment) = copy_of_sample();
    let mut served = Served::start(
        &deployment,
        &[("MATCHPOINT_AUDIT_SAMPLING_RATES", "1,1,1,1,1,1")],
        &[],
    );
    let server = format!("http://{}", served.address);
    let picture = photos().join("images/gc_fishes_fish3/q2_photometric.jpg");
    for _ in 0..4 {
        let searched = run(&["search", "--server", &server, path(&picture)]);
        assert!(searched.status.success(), "{}", text(&searched.stderr));
    }
    let (listed, filled) = (
        folder.path().join("list.csv"),
        folder.path().join("filled.csv"),
    );
    let list = ["audit", "list", "--server", &server, "--json", "--csv"];
    let (waiting, code) = said(&[&list[..], &[path(&listed)]].concat());
    assert_eq!((waiting.as_array().unwrap().len(), code), (4, Some(0)));
    // The beginning of an id does, if no other begins so.
    let id = waiting[0]["decision_id"].as_str().unwrap();
    let show = ["audit", "show", "--server", &server, "--json"];
    let (shown, _) = said(&[&show[..], &[&id[..30]]].concat());
    assert_eq!(shown["decision_id"], id);
    let several = run(&[&show[..], &[&id[..4]]].concat());
    let why = text(&several.stderr);
    assert!(why.contains("several ids begin with"), "{why}");
    let annotate = ["audit", "annotate", "--server", &server, "--unusable"];
    let short = run(&[&annotate[..], &[&id[..12]]].concat());
    let why = text(&short.stderr);
    assert!(why.contains("first 13 characters"), "{why}");

    // Filled in by hand: a label, a stranger, one that is misspelt, and one left for later.
    let table = fs::read_to_string(&listed).unwrap();
    let mut lines = table.lines();
    let head = lines.next().unwrap();
    assert!(head.starts_with("decision_id,truth,label,decision"));
    let truths = [
        "label,gc_fishes_fish3",
        "not-enrolled,",
        "label,gc_fishes_fihs3",
        ",",
    ];
    let rows = lines.zip(truths).map(|(line, truth)| {
        let fields: Vec<&str> = line.splitn(4, ',').collect();
        format!("{},{truth},{}\n", fields[0], fields[3])
    });
    let rows: Vec<String> = rows.collect();
    fs::write(&filled, format!("{head}\n{}", rows.concat())).unwrap();
    let import = [
        "audit",
        "import",
        "--server",
        &server,
        "--json",
        "--annotator",
        "anna",
    ];
    let (imported, code) = said(&[&import[..], &[path(&filled)]].concat());
    assert_eq!(
        (&imported["added"], &imported["skipped"]),
        (&2.into(), &1.into())
    );
    let refused = &imported["refused"];
    assert_eq!(refused.as_array().unwrap().len(), 1);
    let misspelt = rows[2].split(',').next().unwrap();
    assert_eq!(refused[0]["decision_id"], misspelt);
    assert!(
        refused[0]["reason"]
            .as_str()
            .unwrap()
            .contains("gc_fishes_fihs3")
    );
    assert_ne!(code, Some(0));
    // Two truths of one decision: which one was meant?
    let twice = format!("{head}\n{}{misspelt},unusable,,,,,,\n", rows[2]);
    fs::write(&filled, twice).unwrap();
    let refused = run(&[&import[..], &[path(&filled)]].concat());
    assert_eq!(refused.status.code(), Some(65), "{}", text(&refused.stderr));
    assert!(
        text(&refused.stderr).contains("line 3: decision")
            && text(&refused.stderr).contains("line 2 says otherwise of it"),
        "{}",
        text(&refused.stderr)
    );
    let label = [
        "audit",
        "annotate",
        "--server",
        &server,
        "--json",
        "--unusable",
        misspelt,
    ];
    assert_eq!(said(&label).0["added"], 1);

    // All of it can be read, while it is served.
    let exported = folder.path().join("decisions.csv");
    let export = [
        "audit",
        "export",
        path(&deployment),
        "--json",
        "--csv",
        path(&exported),
    ];
    let export = |times: &[&str]| said(&[&export[..], times].concat()).0["decisions"].clone();
    assert_eq!(export(&["--until", "2020-01-01"]), 0);
    assert_eq!(export(&["--since", "2020-01-01T00:00:00Z"]), 4);
    let mut reader = csv::Reader::from_path(&exported).unwrap();
    let column = |name: &str| {
        let head = reader.headers().unwrap();
        head.iter().position(|column| column == name).unwrap()
    };
    let columns = ["decision_id", "truth", "label"];
    let columns = columns.map({
        let mut column = column;
        move |name| column(name)
    });
    let mut reader = csv::Reader::from_path(&exported).unwrap();
    let found: std::collections::BTreeSet<[String; 3]> = reader
        .records()
        .map(|record| {
            let record = record.unwrap();
            columns.map(|column| record[column].to_owned())
        })
        .collect();
    let id = |row: usize| rows[row].split(',').next().unwrap().to_owned();
    let truth =
        |row: usize, truth: &str, label: &str| [id(row), truth.to_owned(), label.to_owned()];
    let expected = [
        truth(0, "label", "gc_fishes_fish3"),
        truth(1, "not-enrolled", ""),
        truth(2, "unusable", ""),
        truth(3, "", ""),
    ];
    assert_eq!(found, std::collections::BTreeSet::from(expected));
    served.kill();
}

#[test]
fn a_person_and_a_probe_learn_how_a_server_is_doing() {
    let (_folder, deployment) = copy_of_sample();
    let mut served = serve(&deployment);
    let at = ["--server", served.address.as_str()];
    let ask = |words: &[&str]| run(&[words, &at].concat());

    let health = ask(&["health"]);
    assert_eq!(
        (code(&health), text(&health.stdout)),
        (0, "serving\n".into())
    );
    assert_eq!(code(&ask(&["health", "--service", "liveness"])), 0);
    let unknown = ask(&["health", "--service", "matchpoint.v1.Nothing", "--json"]);
    assert_eq!(
        (code(&unknown), &json(&unknown)["serving"]),
        (69, &Value::from(false))
    );

    let status = ask(&["status"]);
    // As it reads, wherever its lines are broken.
    let shown = text(&status.stdout);
    let shown: Vec<&str> = shown.split_whitespace().collect();
    let shown = shown.join(" ");
    assert_eq!(code(&status), 0, "{shown}");
    for words in [
        "sample: promises FAR <= 10 % at 90 % confidence",
        "36 items of 36 labels; its calibration covers 100 % of them, 0 % (0) were added or changed since",
        "efficientnet-lite0 f32 on cpu",
    ] {
        assert!(shown.contains(words), "no {words:?} in {shown}");
    }

    // Nothing is accepted without an operating point, and a script is told.
    send(&served.child, "TERM");
    served.child.wait().unwrap();
    let down = ask(&["health", "--quiet"]);
    assert_eq!((code(&down), text(&down.stdout)), (69, String::new()));
    assert_eq!(code(&ask(&["status"])), 69);
    fs::remove_dir_all(deployment.join("operating-points")).unwrap();
    let served = serve(&deployment);
    let status = run(&["status", "--json", "--server", &served.address]);
    let found = json(&status);
    assert_eq!(code(&status), 5, "{found}");
    assert_eq!(found["deployments"][0]["promise_stands"], false, "{found}");
    let why = &found["deployments"][0]["undecided_reason"];
    assert_eq!(why, "OPERATING_POINT_UNREADABLE", "{found}");
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table, or one story")]
fn a_server_answers_the_client_counts_it_for_prometheus_and_ends_cleanly() {
    let (_folder, deployment) = copy_of_sample();
    let mut served = serve(&deployment);
    let zero = served.scrape();
    assert!(zero.contains("matchpoint_ready 1"), "{zero}");
    for decision in ["accept", "reject", "undecided"] {
        let series = format!("decision=\"{decision}\"}} 0");
        assert!(zero.contains(&series), "no {series} in {zero}");
    }

    let known = photos().join("images/gc_fishes_fish3/q2_photometric.jpg");
    let stranger = photos().join("images/gc_monuments_eiffelTower/q1_rotpersp.jpg");
    let broken = Path::new(ROOT).join("crates/embed/tests/fixtures/hostile/cut_in_half.jpg");
    let found = run(&[
        "search",
        "--server",
        &served.address,
        "--json",
        path(&known),
        path(&stranger),
        path(&broken),
    ]);
    assert_eq!(code(&found), 3, "{}", text(&found.stderr));
    let found = json(&found);
    assert_eq!(
        (&found[0]["decision"], &found[1]["decision"]),
        (&Value::from("ACCEPT"), &Value::from("REJECT"))
    );
    assert_eq!(found[0]["matches"][0]["label"], "gc_fishes_fish3");
    assert!(
        found[2]["error"]
            .as_str()
            .unwrap()
            .contains("IMAGE_UNDECODABLE"),
        "{found}"
    );
    let search = ["search", "--server", &served.address, path(&known)];
    let said = text(&run(&search).stdout);
    assert!(
        said.contains("ACCEPT") && said.contains("FAR <= 10 % at 90 % confidence"),
        "{said}"
    );
    assert!(said.lines().count() <= 8, "{said}");
    // A pipe has no colours, unless they are asked for.
    let coloured = matchpoint(&search).env("CLICOLOR_FORCE", "1").output();
    let coloured = text(&coloured.unwrap().stdout);
    assert!(!said.contains('\u{1b}') && coloured.contains("\u{1b}[32mACCEPT\u{1b}[0m"));
    let figures = text(&run(&[&search[..], &["--verbose"]].concat()).stdout);
    assert!(figures.contains("36 items searched, model"), "{figures}");
    assert_fits(&figures);

    let counted = served.scrape();
    for series in [
        "decision=\"accept\"} 4",
        "decision=\"reject\"} 1",
        "matchpoint_image_failures_total{deployment=\"sample\",reason=\"undecodable\"} 1",
        "matchpoint_requests_total{method=\"Search\",code=\"INVALID_ARGUMENT\"} 1",
        "matchpoint_gallery_items{deployment=\"sample\"} 36",
        "matchpoint_stage_seconds_count{deployment=\"sample\",stage=\"inference\"} 5",
        "matchpoint_target_far_ratio",
        "matchpoint_predicted_far_ratio{deployment=\"sample\"",
        "matchpoint_feature_norm_count{deployment=\"sample\"} 5",
        "matchpoint_match_margin_count{deployment=\"sample\"} 5",
        "matchpoint_audit_stratum_edge{deployment=\"sample\",stratum=\"3\",bound=\"lower\"} 0",
    ] {
        assert!(counted.contains(series), "no {series} in {counted}");
    }

    // A second writer of the folder, and a second server on the port, are refused.
    let second = run(&[
        "build",
        path(&deployment),
        "--images",
        path(&photos().join("gallery.csv")),
    ]);
    assert_eq!(code(&second), 69, "{}", text(&second.stderr));
    assert!(text(&second.stderr).contains(&served.child.id().to_string()));
    let taken = run(&[
        "serve",
        "--deployments",
        path(&deployment),
        "--listen",
        &served.address,
        "--metrics-listen",
        "off",
    ]);
    assert_eq!(code(&taken), 69);
    assert!(text(&taken.stderr).contains("cannot listen on"));

    send(&served.child, "TERM");
    assert_eq!(served.child.wait().unwrap().code(), Some(0));
}

#[test]
fn a_candidate_is_compared_reported_counted_for_prometheus_and_closed() {
    let ((_folder, deployment), (_other, candidate)) = (copy_of_sample(), copy_of_sample());
    let mut folder = matchpoint::deployment::Folder::open(&candidate).unwrap();
    folder.deactivate().unwrap();
    let mut served = serve(&deployment);
    let ask = |arguments: &[&str]| {
        let output = run(&[arguments, &["--server", &served.address]].concat());
        assert_eq!(code(&output), 0, "{}", text(&output.stderr));
        output
    };
    let said = text(&ask(&["shadow", "report"]).stdout);
    assert!(said.contains("no candidate"), "{said}");
    let link = deployment.with_file_name("sample.shadow");
    let itself = run(&[
        "shadow",
        "start",
        path(&deployment),
        path(&deployment),
        "--server",
        &served.address,
    ]);
    assert_eq!((code(&itself), link.exists()), (2, false));

    ask(&["shadow", "start", path(&deployment), path(&candidate)]);
    let zero = served.scrape();
    let series = "matchpoint_shadow_decisions_total{deployment=\"sample\",live=\"accept\",shadow=\"reject\",label_agreement=\"other\"} 0";
    assert!(zero.contains(series), "no {series} in {zero}");
    let known = photos().join("images/gc_fishes_fish3/q2_photometric.jpg");
    ask(&["search", path(&known)]);
    let mut found = Value::Null;
    wait_for("the candidate", || {
        found = json(&ask(&["shadow", "report", "--json"]));
        found["compared"] == 1
    });
    assert_eq!(found["latest"][0]["live"]["decision"], "ACCEPT");
    assert_eq!(found["latest"][0]["shadow"]["decision"], "UNDECIDED");
    let id = found["latest"][0]["decision_id"].as_str().unwrap();
    ask(&["audit", "annotate", id, "--label", "gc_fishes_fish3"]);
    let said = text(&ask(&["shadow", "report"]).stdout);
    for part in [
        "candidate  efficientnet-lite0 f32",
        "compared   1 queries",
        "showed gc_fishes_fish3",
        "what was answered is right in 1 of 1",
    ] {
        assert!(said.contains(part), "no {part} in {said}");
    }

    ask(&["shadow", "stop", path(&deployment)]);
    assert!(link.symlink_metadata().is_err());
    let counted = served.scrape();
    for series in [
        "live=\"accept\",shadow=\"undecided\",label_agreement=\"same\"} 1",
        "matchpoint_shadow_skipped_total{deployment=\"sample\",reason=\"busy\"} 0",
        "operating_point=\"none\"} 0",
        "matchpoint_stage_seconds_count{deployment=\"sample\",stage=\"inference\"} 1",
    ] {
        assert!(counted.contains(series), "no {series} in {counted}");
    }
    send(&served.child, "TERM");
    assert_eq!(served.child.wait().unwrap().code(), Some(0));
}

#[test]
#[expect(clippy::too_many_lines, reason = "one story")]
fn labelled_pictures_are_written_for_a_calibration_and_evidence_is_begun_anew() {
    let (folder, deployment) = copy_of_sample();
    let settings = [
        ("MATCHPOINT_AUDIT_SAMPLING_RATES", "1,1,1,1,1,1"),
        ("MATCHPOINT_AUDIT_IMAGES", "true"),
    ];
    let mut served = Served::start(&deployment, &settings, &[]);
    let server = format!("http://{}", served.address);
    let ask = |arguments: &[&str]| {
        let output = run(&[arguments, &["--server", &server]].concat());
        assert!(output.status.success(), "{}", text(&output.stderr));
        text(&output.stdout)
    };
    let labelled = folder.path().join("labelled");
    let list = labelled.join("labelled.csv");
    let export = ["audit", "export", path(&deployment), "--for-calibration"];
    let export = [&export[..], &[path(&labelled), "--json"]].concat();
    let nothing = run(&export);
    assert_eq!(code(&nothing), 65, "{}", text(&nothing.stderr));
    assert!(
        !labelled.exists(),
        "nothing to calibrate with leaves nothing"
    );
    for (label, truth) in [
        ("gc_fishes_fish3", ["--label", "gc_fishes_fish3"].as_slice()),
        ("gc_monuments_eiffelTower", &["--not-enrolled"]),
        (
            "gc_monuments_IndiaGate",
            &["--not-enrolled", "--stranger", "red coat"],
        ),
    ] {
        let picture = photos().join(format!("images/{label}/q2_photometric.jpg"));
        ask(&["search", path(&picture)]);
        let waiting: Value = serde_json::from_str(&ask(&["audit", "list", "--json"])).unwrap();
        let id = waiting[0]["decision_id"].as_str().unwrap();
        ask(&[&["audit", "annotate", id], truth].concat());
    }
    let (written, _) = said(&export);
    assert_eq!(
        (
            &written["strangers"],
            &written["unnamed"],
            &written["enrolled"]
        ),
        (&2.into(), &1.into(), &1.into())
    );
    assert_eq!(written["without_picture"], 0);
    let table = fs::read_to_string(&list).unwrap();
    assert!(table.contains(".jpg,gc_fishes_fish3,"), "{table}");
    assert!(table.contains(".jpg,stranger-"), "{table}");
    assert!(table.contains(".jpg,red coat,"), "{table}");

    let page = folder.path().join("drift.html");
    let reset = ask(&[
        "drift",
        "reset",
        "--reason",
        "cleaned the camera",
        "--requested-by",
        "anna",
    ]);
    assert!(reset.contains("by anna: cleaned the camera"), "{reset}");
    // What the server refuses is the caller's to mend; the server was there.
    for (wrong, expected) in [
        (&["drift", "reset", "--reason", " "][..], 2),
        (&["drift", "report", "--deployment", "other"], 66),
    ] {
        let refused = run(&[wrong, &["--server", &server]].concat());
        assert_eq!(code(&refused), expected, "{}", text(&refused.stderr));
    }
    let report = ask(&["drift", "report", "--html", path(&page)]);
    assert!(report.contains("since the reset of"), "{report}");
    assert!(ask(&["drift", "history"]).contains("by anna: cleaned the camera"));
    assert!(
        fs::read_to_string(page)
            .unwrap()
            .contains("cleaned the camera")
    );
    send(&served.child, "TERM");
    served.child.wait().unwrap();

    // It is what a calibration takes; two strangers are too few for it.
    let calibrate = [
        "calibrate",
        path(&deployment),
        "--dry-run",
        "--json",
        "--queries",
    ];
    let target = [path(&list), "--target-far", "0.1"];
    let (refused, code) = said(&[&calibrate[..], &target].concat());
    assert_eq!(refused["refusal"]["independent_trials"], 2);
    assert_eq!(code, Some(5));
}

#[test]
fn an_empty_deployment_is_served_and_finds_nothing() {
    let root = TempDir::new().unwrap();
    let deployment = root.path().join("empty");
    let hostile = Path::new(ROOT).join("crates/embed/tests/fixtures/hostile/cut_in_half.jpg");
    fs::create_dir_all(root.path().join("images/broken")).unwrap();
    fs::copy(hostile, root.path().join("images/broken/1.jpg")).unwrap();
    let built = build(&deployment, &root.path().join("images"), &[]);
    assert_eq!((code(&built), json(&built)["items"].as_u64()), (3, Some(0)));
    let mut served = serve(&deployment);
    let known = photos().join("images/gc_fishes_fish3/q2_photometric.jpg");
    let found = json(&run(&[
        "search",
        "--server",
        &served.address,
        "--json",
        path(&known),
    ]));
    assert_eq!(found[0]["decision"], "UNDECIDED");
    assert_eq!(found[0]["undecided_reason"], "OPERATING_POINT_MISSING");
    assert_eq!(found[0]["matches"].as_array().unwrap().len(), 0);
    send(&served.child, "TERM");
    assert_eq!(served.child.wait().unwrap().code(), Some(0));
}

#[test]
fn the_drift_demo_raises_each_alarm_in_its_own_chapter_and_recalibrating_ends_them() {
    let root = TempDir::new().unwrap();
    let deployment = root.path().join("demo");
    let told = run(&[
        "demo",
        "--drift",
        "--deployment",
        path(&deployment),
        "--json",
    ]);
    assert!(told.status.success(), "{}", text(&told.stderr));
    let chapters: Value = serde_json::from_slice(&told.stdout).unwrap();
    let alarms: Vec<(bool, bool)> = chapters
        .as_array()
        .unwrap()
        .iter()
        .map(|chapter| {
            let alarm = |rate: &str| {
                let evidence = &chapter["drift"][format!("{rate}_evidence")];
                evidence["alarm"].as_bool().unwrap()
            };
            (alarm("far"), alarm("frr"))
        })
        .collect();
    let expected = [
        (false, false),
        (false, false),
        (false, true),
        (true, true),
        (false, false),
    ];
    assert_eq!(alarms, expected);
    // More strangers are no other traffic.
    for chapter in [0, 1] {
        assert_eq!(chapters[chapter]["drift"]["traffic"]["alarm"], false);
    }
}

#[test]
fn the_adapt_demo_takes_a_head_into_service() {
    let root = TempDir::new().unwrap();
    let deployment = root.path().join("demo");
    let told = run(&[
        "demo",
        "--adapt",
        "--deployment",
        path(&deployment),
        "--json",
    ]);
    assert_eq!(code(&told), 0, "{}", text(&told.stderr));
    let report = json(&told);
    let adapted = &report["adapted"];
    assert_eq!(adapted["parts"][0]["labels"], 36);
    // Seed and data are fixed, and the head is better by far.
    assert_eq!(adapted["outcome"], "adapted");
    assert!(adapted["judgement"]["refused"].is_null());
    assert!(deployment.join("adapted-model").is_dir());
    assert_eq!(report["built"]["enrolled"], 36);
    assert!(report["calibrated"][1]["fitted"].is_u64());
    let page = fs::read_to_string(deployment.join("adapted.html")).unwrap();
    assert!(page.contains("Better on labels"));
}

#[test]
fn the_demo_refuses_then_promises_then_decides_well() {
    let root = TempDir::new().unwrap();
    let deployment = root.path().join("demo");
    // As in a container, whose address is for others: the story is for this machine alone.
    let told = matchpoint(&["demo", "--deployment", path(&deployment), "--json"])
        .env("MATCHPOINT_LISTEN", "0.0.0.0:50051")
        .output()
        .unwrap();
    assert_eq!(code(&told), 0, "{}", text(&told.stderr));
    let report = json(&told);
    assert_eq!(report["refused_target"]["refusal"]["needed"], 2995);
    assert_eq!(report["operating_point"]["outcome"], "certified");
    let count = |name: &str| report["decisions"][name].as_u64().unwrap();
    assert_eq!(count("undecided") + count("failed"), 0);
    let known =
        count("known_accepted") + count("known_accepted_wrong_label") + count("known_rejected");
    assert_eq!(
        (
            known,
            count("strangers_rejected") + count("strangers_accepted")
        ),
        (120, 60)
    );
    assert!(
        90 <= count("known_accepted") && 48 <= count("strangers_rejected"),
        "{report}"
    );
    assert!(report["start_to_ready_seconds"].as_f64().unwrap() < 10.0);
    assert!(
        report["metrics"]
            .as_array()
            .unwrap()
            .iter()
            .any(|line| line.as_str().unwrap().contains("decisions_total"))
    );
    // The folder of somebody else is not touched.
    let other = run(&["demo", "--deployment", path(root.path())]);
    assert_eq!(code(&other), 2);
}

/// All flips of these two are accepts.
fn compare_in_words(deployment: &str, [from, to]: [&str; 2], flips: usize) {
    let compare = ["points", "compare", deployment, from, to];
    let brief = text(&run(&compare).stdout);
    let verbose = text(&run(&[&compare[..], &["--verbose"]].concat()).stdout);
    let next = format!("next: matchpoint points activate {deployment} {to}");
    assert!(
        brief.lines().count() <= 8 && brief.contains(&next),
        "{brief}"
    );
    assert_eq!(verbose.matches(" accepts, ").count(), flips, "{verbose}");
    assert_fits(&brief);
    assert_fits(&verbose);
}

#[test]
fn operating_points_are_listed_compared_and_rolled_back() {
    let queries = photos().join("calibrate.csv");
    let (_folder, deployment) = copy_of_sample();
    let list = || {
        let listed = run(&["points", "list", path(&deployment), "--json"]);
        assert_eq!(code(&listed), 0, "{}", text(&listed.stderr));
        json(&listed)
    };
    let strict = list()["active"].as_str().unwrap().to_owned();
    let nothing = run(&["points", "rollback", path(&deployment)]);
    assert_eq!(code(&nothing), 66, "{}", text(&nothing.stderr));

    let calibrated = run(&[
        "calibrate",
        path(&deployment),
        "--queries",
        path(&queries),
        "--target-far",
        "0.25",
        "--json",
    ]);
    assert_eq!(code(&calibrated), 0, "{}", text(&calibrated.stderr));
    let loose = json(&calibrated)["operating_point"]
        .as_str()
        .unwrap()
        .to_owned();
    let listed = list();
    assert_eq!(listed["active"], loose.as_str());
    assert_eq!(listed["operating_points"].as_array().unwrap().len(), 2);

    let compared = run(&[
        "points",
        "compare",
        path(&deployment),
        &strict,
        &loose,
        "--json",
    ]);
    assert_eq!(code(&compared), 0, "{}", text(&compared.stderr));
    let compared = json(&compared);
    let between = |flip: &Value| {
        let score = flip["found"]["score"].as_f64().unwrap();
        let threshold = |key: &str| compared[key].as_f64().unwrap();
        threshold("to_threshold") <= score
            && score < threshold("from_threshold")
            && flip["after"] == "accept"
    };
    let flips = compared["flips"].as_array().unwrap();
    assert!(!flips.is_empty() && flips.iter().all(between), "{compared}");
    compare_in_words(path(&deployment), [&strict, &loose], flips.len());

    let back = run(&["points", "rollback", path(&deployment)]);
    assert_eq!(code(&back), 0, "{}", text(&back.stderr));
    assert_eq!(list()["active"], strict.as_str());
    let shown = text(&run(&["points", "show", path(&deployment)]).stdout);
    assert!(shown.contains("decides now"));
    assert_fits(&shown);

    let recording = deployment.join("recordings").join(format!("{loose}.json"));
    let changed = fs::read_to_string(&recording)
        .unwrap()
        .replacen("0.", "0.1", 1);
    fs::write(&recording, changed).unwrap();
    let refused = run(&["points", "compare", path(&deployment), &loose, &strict]);
    assert_eq!(code(&refused), 65, "{}", text(&refused.stderr));
}

#[test]
fn a_report_is_one_file_with_the_numbers_of_the_json() {
    let (folder, deployment) = copy_of_sample();
    let page = folder.path().join("report.html");
    let queries = photos().join("calibrate.csv");
    let gallery = photos().join("gallery.csv");
    let calibrate = |far: &str| {
        run(&[
            "calibrate",
            path(&deployment),
            "--queries",
            path(&queries),
            "--target-far",
            far,
            "--report",
            path(&page),
            "--pictures",
            path(&gallery),
            "--dry-run",
            "--json",
        ])
    };
    let done = calibrate("0.2");
    assert_eq!(code(&done), 0, "{}", text(&done.stderr));
    let report = json(&done);
    let html = fs::read_to_string(&page).unwrap();
    assert!(html.contains(report["operating_point"].as_str().unwrap()));
    assert!(html.contains("data:image/png;base64,") && !html.contains("<script"));
    let analysis = &report["analysis"];
    assert_eq!(analysis["pairwise"]["mated_pairs"], 120 - 60);
    assert!(analysis["growth"]["measured"].as_array().unwrap().len() > 1);
    assert!(!analysis["conditions"].as_array().unwrap().is_empty());
    assert!(report["content"]["held_out"]["frr"]["estimate"].is_number());
    assert!(report["content"]["curve"].as_array().unwrap().len() > 10);

    let refused = calibrate("0.001");
    assert_eq!(code(&refused), 5);
    assert!(fs::read_to_string(&page).unwrap().contains("2995"));
}

#[test]
fn evaluate_refuses_labels_that_chose_the_threshold() {
    let queries = photos().join("calibrate.csv");
    let arguments = ["evaluate", path(sample()), "--queries", path(&queries)];
    let refused = run(&arguments);
    assert_eq!(code(&refused), 65);
    let said = text(&refused.stderr);
    assert!(
        said.contains("chose the threshold") && said.contains("24"),
        "{said}"
    );
    let allowed = run(&[&arguments[..], &["--allow-calibration-labels"]].concat());
    assert_eq!(code(&allowed), 0, "{}", text(&allowed.stderr));

    // Without the searches of the calibration nobody knows which labels they are.
    let (_folder, deployment) = copy_of_sample();
    fs::remove_dir_all(deployment.join("recordings")).unwrap();
    let others = photos().join("evaluate.csv");
    let refused = run(&["evaluate", path(&deployment), "--queries", path(&others)]);
    assert_eq!(code(&refused), 65);
    let said = text(&refused.stderr);
    assert!(said.contains("`recordings`"), "{said}");
}

/// The rows of the sample's queries with one role, as a list of their own with labels by `spelled`.
fn queries_of(role: &str, folder: &Path, spelled: impl Fn(&str) -> String) -> PathBuf {
    let all = fs::read_to_string(photos().join("calibrate.csv")).unwrap();
    let mut list = "path,label\n".to_owned();
    for row in all.lines().skip(1) {
        let cells: Vec<&str> = row.split(',').collect();
        if cells[2] == role {
            let image = photos().join(cells[0]);
            list.push_str(&format!("{},{}\n", path(&image), spelled(cells[1])));
        }
    }
    let file = folder.join(format!("{role}.csv"));
    fs::write(&file, list).unwrap();
    file
}

#[test]
fn evaluate_refuses_labels_that_chose_the_review_band() {
    let (folder, deployment) = copy_of_sample();
    let mates = queries_of("query", folder.path(), str::to_owned);
    let evaluate = |more: &[&str]| {
        let arguments = ["evaluate", path(&deployment), "--queries", path(&mates)];
        run(&[&arguments[..], more].concat())
    };
    // They have no part in a threshold that keeps a FAR.
    let done = evaluate(&[]);
    assert_eq!(code(&done), 0, "{}", text(&done.stderr));
    let calibrated = run(&[
        "calibrate",
        path(&deployment),
        "--queries",
        path(&photos().join("calibrate.csv")),
        "--target-far",
        "0.1",
        "--confidence",
        "0.9",
        "--review-frr",
        "0.3",
    ]);
    assert_eq!(code(&calibrated), 0, "{}", text(&calibrated.stderr));
    let refused = evaluate(&[]);
    assert_eq!(code(&refused), 65, "{}", text(&refused.stdout));
    let said = text(&refused.stderr);
    assert!(
        said.contains("chose the threshold or the review band")
            && said.contains("judge it here: 12"),
        "{said}"
    );
    let allowed = evaluate(&["--allow-calibration-labels"]);
    assert_eq!(code(&allowed), 0, "{}", text(&allowed.stderr));
}

#[test]
fn labels_that_chose_or_fitted_are_known_in_another_spelling() {
    let (folder, deployment) = copy_of_sample();
    let strangers = queries_of("unknown", folder.path(), str::to_uppercase);
    let fitted_on = folder.path().join("fitted.txt");
    let first = fs::read_to_string(&strangers).unwrap();
    let first = first.lines().nth(1).and_then(|row| row.split(',').nth(1));
    fs::write(&fitted_on, first.unwrap()).unwrap();
    let queries = photos().join("calibrate.csv");
    for command in [
        vec!["evaluate", path(&deployment), "--queries", path(&strangers)],
        vec![
            "calibrate",
            path(&deployment),
            "--queries",
            path(&queries),
            "--equal-error",
            "--fitted-on",
            path(&fitted_on),
            "--dry-run",
        ],
    ] {
        let refused = run(&command);
        assert_eq!(code(&refused), 65, "{}", text(&refused.stdout));
        let said = text(&refused.stderr);
        assert!(said.contains("; capitals)"), "{said}");
        let done = run(&[&command[..], &["--labels-as-they-are"]].concat());
        assert_eq!(code(&done), 0, "{}", text(&done.stderr));
    }
}

#[test]
fn without_a_target_there_is_a_menu_and_nothing_changes() {
    let (folder, deployment) = copy_of_sample();
    let queries = photos().join("calibrate.csv");
    let page = folder.path().join("menu.html");
    let before = json(&run(&["points", "list", path(&deployment), "--json"]));
    let calibrate = |more: &[&str]| {
        let arguments = ["calibrate", path(&deployment), "--queries", path(&queries)];
        let done = run(&[&arguments[..], more].concat());
        assert_eq!(code(&done), 0, "{}", text(&done.stderr));
        done
    };
    let brief = text(&calibrate(&[]).stdout);
    assert!(brief.lines().count() <= 8, "{brief}");
    assert!(
        brief
            .lines()
            .all(|line| line.len() <= 96 || line.starts_with("next: ")),
        "{brief}"
    );
    let shown = calibrate(&["--report", path(&page), "--verbose"]);
    assert_fits(&text(&shown.stdout));
    let shown = text(&shown.stdout).replace("\n  ", " ");
    for words in [
        "nothing was chosen",
        "FAR 20 %",
        "certified",
        "it takes 2995",
        "halve the difference",
    ] {
        assert!(shown.contains(words), "no '{words}' in {shown}");
    }
    let next = shown
        .lines()
        .find_map(|line| line.strip_prefix("next: matchpoint "))
        .unwrap();
    assert!(
        fs::read_to_string(&page)
            .unwrap()
            .contains("To choose from")
    );
    let menu = json(&calibrate(&["--json"]));
    assert_eq!(
        (menu["outcome"].as_str(), menu["stranger_labels"].as_u64()),
        (Some("menu"), Some(24))
    );
    assert_eq!(menu["lines"].as_array().unwrap().len(), 8);
    assert_eq!(
        json(&run(&["points", "list", path(&deployment), "--json"])),
        before
    );

    // What to type next is what then gives the line.
    let typed: Vec<&str> = next.split(' ').collect();
    let done = json(&run(&[&typed[..], &["--json", "--dry-run"]].concat()));
    let asked = done["content"]["promise"]["target"]["far"].as_f64();
    let line = menu["lines"]
        .as_array()
        .unwrap()
        .iter()
        .find(|line| line["far"].as_f64() == asked);
    assert_eq!(line.unwrap()["threshold"], done["content"]["threshold"]);
    assert_eq!(line.unwrap()["price"], done["analysis"]["price"]);
    let refused = run(&[
        "calibrate",
        path(&deployment),
        "--queries",
        path(&queries),
        "--remedy",
        "margin",
    ]);
    assert_eq!(code(&refused), 2, "{}", text(&refused.stderr));
}

#[test]
fn each_kind_of_strangers_keeps_the_target_or_is_named() {
    let (_folder, deployment) = copy_of_sample();
    let queries = photos().join("calibrate.csv");
    let calibrate = |far: &str, more: &[&str]| {
        let arguments = ["calibrate", path(&deployment), "--queries", path(&queries)];
        let target = [
            "--target-far",
            far,
            "--confidence",
            "0.9",
            "--dry-run",
            "--json",
        ];
        run(&[&arguments[..], &target[..], more].concat())
    };
    let all = json(&calibrate("0.2", &[]));
    let each = json(&calibrate("0.2", &["--worst-group-of", "kind"]));
    let worst = &each["content"]["worst_group"];
    let groups = worst["groups"].as_array().unwrap();
    assert!(1 < groups.len() && all["content"]["worst_group"].is_null());
    let highest = groups
        .iter()
        .map(|group| group["threshold"].as_f64().unwrap());
    let highest = highest.fold(-1.0, f64::max);
    assert_eq!(each["content"]["threshold"].as_f64(), Some(highest));
    assert_eq!(worst["frr"], each["content"]["measured"]["frr"]["estimate"]);
    assert_eq!(
        worst["frr_of_all"],
        all["content"]["measured"]["frr"]["estimate"]
    );
    assert!(
        all["analysis"]["stress"]
            .as_array()
            .unwrap()
            .iter()
            .any(|one| one["kind"] == "worst-value")
    );

    let refused = calibrate("0.01", &["--worst-group-of", "kind"]);
    assert_eq!(code(&refused), 5);
    let refused = json(&refused)["refusal"]["message"].to_string();
    assert!(
        refused.contains("for each kind") && refused.contains("more)"),
        "{refused}"
    );
    let unknown = calibrate("0.2", &["--worst-group-of", "camera"]);
    assert_eq!(code(&unknown), 65, "{}", text(&unknown.stderr));
    assert!(text(&unknown.stderr).contains("no value of 'camera'"));
    let other = run(&[
        "calibrate",
        path(&deployment),
        "--queries",
        path(&queries),
        "--equal-error",
        "--worst-group-of",
        "kind",
    ]);
    assert_eq!(code(&other), 65);
    assert!(text(&other.stderr).contains("certified target FAR"));
}

#[test]
#[expect(clippy::too_many_lines, reason = "one story")]
fn a_remedy_is_named_or_measured_and_every_command_knows_it() {
    let (folder, deployment) = copy_of_sample();
    let queries = photos().join("calibrate.csv");
    let page = folder.path().join("report.html");
    let calibrate = |more: &[&str]| {
        let arguments = ["calibrate", path(&deployment), "--queries", path(&queries)];
        run(&[
            &arguments[..],
            &["--target-far", "0.2", "--confidence", "0.9"],
            more,
        ]
        .concat())
    };
    let plain = json(&run(&["points", "list", path(&deployment), "--json"]))["active"].clone();
    let said = calibrate(&["--remedy", "as-norm", "--report", path(&page), "--verbose"]);
    assert_eq!(code(&said), 0, "{}", text(&said.stderr));
    assert_fits(&text(&said.stdout));
    let said = text(&said.stdout);
    for words in [
        "AS-norm against a cohort of 36 items",
        "The remedy (AS-norm) was chosen without a look",
        "threshold that the same rule gives for the plain similarity",
    ] {
        let flat = said.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(flat.contains(words), "no '{words}' in {said}");
    }
    assert!(
        fs::read_to_string(&page)
            .unwrap()
            .contains("AS-norm against a cohort")
    );

    // What is evaluated is what is served, so that the same searches have the same rates.
    let arguments = [
        "evaluate",
        path(&deployment),
        "--queries",
        path(&queries),
        "--json",
    ];
    let evaluated = run(&[&arguments[..], &["--allow-calibration-labels"]].concat());
    let shown = json(&run(&["points", "show", path(&deployment), "--json"]));
    assert_eq!(json(&evaluated)["far"], shown["content"]["measured"]["far"]);
    assert_eq!(json(&evaluated)["frr"], shown["content"]["measured"]["frr"]);
    assert_eq!(shown["content"]["adjustment"]["normalised"]["members"], 36);

    // The searches of the one that adjusts were recorded on both scales.
    let id = shown["id"].as_str().unwrap().to_owned();
    let from = plain.as_str().unwrap();
    let compared = run(&["points", "compare", path(&deployment), from, &id, "--json"]);
    assert_eq!(code(&compared), 0, "{}", text(&compared.stderr));
    assert_eq!(json(&compared)["recorded"], id.as_str());
    let other = json(&calibrate(&["--remedy", "z-norm", "--json"]));
    let other = other["operating_point"].as_str().unwrap();
    let refused = run(&["points", "compare", path(&deployment), &id, other]);
    assert!(
        text(&refused.stderr).contains("in two ways"),
        "{}",
        text(&refused.stderr)
    );

    // All labels certify each of four scores, and judge none of them.
    let best = calibrate(&["--remedy", "measured", "--report", path(&page), "--json"]);
    assert_eq!(code(&best), 0, "{}", text(&best.stderr));
    // One score at the full confidence is no choice among four.
    let report = fs::read_to_string(&page).unwrap();
    assert!(!report.contains("To choose from"), "{report}");
    let content = json(&best)["content"].clone();
    assert_eq!(content["trials"]["never_enrolled"]["labels"], 24);
    assert_eq!(content["promise"]["target"]["confidence"], 0.9);
    let assumptions = content["assumptions"].to_string();
    assert!(assumptions.contains("Of 4 scores the one with the lowest FRR"));
    let judged = ["evaluate", path(&deployment), "--queries", path(&queries)];
    let refused = run(&judged);
    assert!(
        text(&refused.stderr)
            .contains("chose the threshold and also among those that judge it here: 36"),
        "{}",
        text(&refused.stderr)
    );
    let refused = calibrate(&["--remedy", "groups"]);
    assert_ne!(code(&refused), 0);
    assert!(
        text(&refused.stderr).contains("possible values: none, z-norm"),
        "{}",
        text(&refused.stderr)
    );
}

#[test]
fn plain_vectors_are_calibrated_without_a_deployment() {
    let folder = TempDir::new().unwrap();
    let (vectors, labels) = (folder.path().join("v.npy"), folder.path().join("v.csv"));
    // Forty labels of three vectors on a circle, each label a degree apart from the next.
    let at = |degrees: f32| {
        let (sine, cosine) = degrees.to_radians().sin_cos();
        [3.0 * cosine, 3.0 * sine, 0.5]
    };
    let rows: Vec<[f32; 3]> = (0_u8..120)
        .map(|row| at(f32::from(row / 3) * 8.0 + f32::from(row % 3) * 0.9))
        .collect();
    fs::write(&vectors, npy(&rows)).unwrap();
    let table: String = (0..120).map(|row| format!("label {}\n", row / 3)).collect();
    fs::write(&labels, format!("label\n{table}")).unwrap();
    let calibrate = |more: &[&str]| {
        let arguments = [
            "calibrate",
            "--embeddings",
            path(&vectors),
            "--labels",
            path(&labels),
        ];
        run(&[&arguments[..], more].concat())
    };
    let done = calibrate(&["--target-far", "0.1", "--json"]);
    assert_eq!(code(&done), 0, "{}", text(&done.stderr));
    let report = json(&done);
    // The gallery searched for itself, so its labels were left out: an aim, and no promise.
    assert_eq!(report["outcome"], "aimed at, not certified");
    assert_eq!(report["content"]["trials"]["left_out"]["labels"], 40);
    let pairs = &report["analysis"]["pairwise"];
    assert_eq!(
        (&pairs["mated_pairs"], &pairs["non_mated_pairs"]),
        (&Value::from(120), &Value::from(7020))
    );
    assert!(pairs["equal_error"]["rate"].as_f64().unwrap() < 0.01);
    assert!(pairs["consistency"]["opis"]["estimate"].is_number());
    let shown = calibrate(&["--equal-error", "--verbose"]);
    assert_eq!(code(&shown), 0, "{}", text(&shown.stderr));
    let said = text(&shown.stdout);
    assert_fits(&said);
    assert!(
        said.contains("search level") && said.contains("pairwise level"),
        "{said}"
    );

    // What cannot be used is named.
    fs::write(&labels, format!("label\n{}", &table[8..])).unwrap();
    let short = calibrate(&["--equal-error"]);
    assert_eq!(code(&short), 65);
    assert!(
        text(&short.stderr).contains("120"),
        "{}",
        text(&short.stderr)
    );
    let mut broken = rows.clone();
    broken[7] = [f32::NAN, 0.0, 1.0];
    fs::write(&vectors, npy(&broken)).unwrap();
    fs::write(&labels, format!("label\n{table}")).unwrap();
    let nan = calibrate(&["--equal-error"]);
    assert_eq!(code(&nan), 65);
    assert!(
        text(&nan.stderr).contains("vector 7"),
        "{}",
        text(&nan.stderr)
    );
    let one: String = "same\n".repeat(120);
    fs::write(&vectors, npy(&rows)).unwrap();
    fs::write(&labels, format!("label\n{one}")).unwrap();
    let single = calibrate(&["--target-far", "0.1"]);
    assert_eq!(code(&single), 5, "{}", text(&single.stderr));
    let missing = run(&["calibrate", "--embeddings", "no.npy", "--equal-error"]);
    assert_eq!(code(&missing), 66);
}

/// Vectors with their labels and roles, calibrated without a deployment.
struct Plain {
    folder: TempDir,
    vectors: Vec<u8>,
    table: String,
    state: u64,
}

impl Plain {
    const DIMENSION: usize = 64;

    fn new(state: u64) -> Self {
        Self {
            folder: TempDir::new().unwrap(),
            vectors: Vec::new(),
            table: "label,role\n".to_owned(),
            state,
        }
    }

    /// Nearly normal (splitmix64 and twelve uniforms), with a standard deviation of one.
    fn normal(&mut self) -> f32 {
        let mut sum = 0.0;
        for _ in 0..12 {
            self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
            let mut z = self.state;
            z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            sum += f32::from(u16::try_from((z ^ (z >> 31)) >> 48).unwrap()) / 65_536.0 - 0.5;
        }
        sum
    }

    /// Of a length of about one.
    fn vector(&mut self) -> Vec<f32> {
        (0..Self::DIMENSION).map(|_| self.normal() / 8.0).collect()
    }

    fn near(&mut self, vector: &[f32], noise: f32) -> Vec<f32> {
        let noisy = vector.iter().map(|value| value + noise * self.normal());
        noisy.collect()
    }

    fn add(&mut self, label: &str, role: &str, vector: &[f32]) {
        self.vectors
            .extend(u32::try_from(vector.len()).unwrap().to_le_bytes());
        self.vectors
            .extend(vector.iter().flat_map(|value| value.to_le_bytes()));
        self.table.push_str(&format!("{label},{role}\n"));
    }

    fn calibrate(&self, more: &[&str]) -> Output {
        let (vectors, labels) = (
            self.folder.path().join("v.fvecs"),
            self.folder.path().join("v.csv"),
        );
        fs::write(&vectors, &self.vectors).unwrap();
        fs::write(&labels, &self.table).unwrap();
        let arguments = ["calibrate", "--embeddings", path(&vectors)];
        run(&[&arguments[..], &["--labels", path(&labels)], more].concat())
    }
}

#[test]
fn labels_nearer_to_each_other_than_different_things_may_be_one_stranger() {
    let mut plain = Plain::new(5);
    for label in 0..40 {
        let item = plain.vector();
        plain.add(&format!("kind{label}"), "gallery", &item);
    }
    // Too far from each other for copies.
    let one = plain.vector();
    for label in 0..400 {
        let other = plain.near(&one, 5e-3);
        plain.add(&format!("other{label}"), "unknown", &other);
    }
    let refused = plain.calibrate(&["--target-far", "0.01", "--json"]);
    assert_eq!(code(&refused), 5, "{}", text(&refused.stderr));
    let report = json(&refused);
    assert_eq!(report["refusal"]["independent_trials"], 1);
    assert_eq!(report["near_copies"].as_array().unwrap().len(), 0);
    assert_eq!(report["crowded"]["labels"], 400);
    assert_eq!(report["crowded"]["strangers"], 1);
    assert_eq!(report["crowded"]["groups"][0][399], "other99");
    let said = text(&plain.calibrate(&["--target-far", "0.01"]).stdout);
    let said = said.replace("\n         ", " ");
    assert!(said.contains("400 labels of strangers may be 1"), "{said}");
    assert!(said.contains("--strangers-are-distinct"), "{said}");

    let taken = plain.calibrate(&["--target-far", "0.01", "--strangers-are-distinct", "--json"]);
    let content = &json(&taken)["content"];
    assert_eq!(content["promise"]["independent_trials"], 400);
    assert!(content["assumptions"].to_string().contains("as was said"));
}

#[test]
fn a_gallery_that_searches_itself_promises_no_frr() {
    let mut plain = Plain::new(3);
    for label in 0..60 {
        let item = plain.vector();
        for _ in 0..2 {
            let picture = plain.near(&item, 0.02);
            plain.add(&format!("kind{label}"), "gallery", &picture);
        }
    }
    for promise in [
        &["--target-frr", "0.3"][..],
        &["--target-far", "0.1", "--review-frr", "0.3"],
    ] {
        let refused = plain.calibrate(promise);
        assert_ne!(code(&refused), 0, "{promise:?}");
        let said = text(&refused.stderr).replace("\n  ", " ");
        assert!(said.contains("cannot promise an FRR"), "{said}");
    }
    assert_eq!(code(&plain.calibrate(&["--equal-error"])), 0);
}

#[test]
fn one_vector_under_many_labels_may_be_one_stranger_and_a_copy_of_an_item_is_none() {
    let mut plain = Plain::new(1);
    for label in 0..40 {
        let item = plain.vector();
        plain.add(&format!("kind{label}"), "gallery", &item);
        // The item once more, with a little noise.
        let copy = plain.near(&item, 1e-3);
        plain.add(&format!("kind{label}"), "query", &copy);
    }
    let one = plain.vector();
    for label in 0..400 {
        let copy = plain.near(&one, 1e-3);
        plain.add(&format!("other{label}"), "unknown", &copy);
    }
    let refused = plain.calibrate(&["--target-far", "0.01", "--json"]);
    assert_eq!(code(&refused), 5, "{}", text(&refused.stderr));
    let report = json(&refused);
    assert_eq!(report["refusal"]["independent_trials"], 1);
    assert_eq!(report["near_copies"].as_array().unwrap().len(), 399);
    assert_eq!(report["copies"].as_array().unwrap().len(), 40);
    let said = text(&plain.calibrate(&["--target-far", "0.01"]).stdout);
    for part in [
        "399 queries of strangers are nearly",
        "40 of the queries are pictures in the gallery",
    ] {
        assert!(said.replace("\n         ", " ").contains(part), "{said}");
    }

    // Different strangers make trials; no mated search is left, so that no FRR is made up.
    for label in 0..400 {
        let other = plain.vector();
        plain.add(&format!("another{label}"), "unknown", &other);
    }
    // The vector scores low, so that to count it once makes the higher threshold. A few of the others may be one.
    let done = json(&plain.calibrate(&["--target-far", "0.01", "--json"]));
    let counted = &done["content"]["promise"]["independent_trials"];
    assert!(
        (390..=401).contains(&counted.as_u64().unwrap()),
        "{counted}"
    );
    let trials = &done["content"]["trials"]["never_enrolled"];
    assert_eq!(trials["searches"], 800);
    let assumptions = done["content"]["assumptions"].to_string();
    assert!(
        assumptions.contains("400 labels of strangers share pictures"),
        "{assumptions}"
    );
    let taken = plain.calibrate(&["--target-far", "0.01", "--strangers-are-distinct", "--json"]);
    let assumptions = json(&taken)["content"]["assumptions"].to_string();
    assert!(assumptions.contains("share pictures are different things, as was said"));
    assert_eq!(done["content"]["measured"]["frr"], Value::Null);
    assert_eq!(done["content"]["trials"]["mated"]["searches"], 0);
}

#[test]
fn strangers_that_nobody_named_certify_nothing_unless_each_is_said_to_be_another() {
    let mut plain = Plain::new(2);
    let stranger = |number: usize| format!("stranger-0199f0aa-7c1b-7e0e-8d63-{number:012x}");
    for label in 0..60 {
        let identity = plain.vector();
        for role in ["gallery", "gallery", "query"] {
            let picture = plain.near(&identity, 0.09);
            plain.add(&format!("kind{label}"), role, &picture);
        }
    }
    let identities: Vec<Vec<f32>> = (0..39).map(|_| plain.vector()).collect();
    for number in 0..129 {
        let picture = plain.near(&identities[number % 39], 0.09);
        plain.add(&stranger(number), "unknown", &picture);
    }
    let refused = plain.calibrate(&["--target-far", "0.1", "--json"]);
    assert_eq!(code(&refused), 5, "{}", text(&refused.stderr));
    let report = json(&refused);
    assert_eq!(report["refusal"]["reason"], "STRANGERS_UNNAMED");
    assert_eq!(report["unnamed"]["pictures"], 129);
    let strangers = report["unnamed"]["strangers"].as_u64().unwrap();
    assert!((36..=42).contains(&strangers), "{}", report["unnamed"]);

    let estimated = json(&plain.calibrate(&["--target-far", "0.1", "--estimated", "--json"]));
    assert_eq!(
        estimated["content"]["trials"]["never_enrolled"]["labels"],
        strangers
    );
    // Nor does the report of another policy call a FAR certified.
    let page = plain.folder.path().join("page.html");
    let of_mates = ["--target-frr", "0.3", "--report", path(&page)];
    let of_mates = plain.calibrate(&of_mates);
    assert_eq!(code(&of_mates), 0, "{}", text(&of_mates.stderr));
    let page = fs::read_to_string(&page).unwrap();
    assert!(page.contains(">estimated only</span>") && !page.contains(">certified</span>"));
    let vouched = ["--target-far", "0.1", "--strangers-are-distinct", "--json"];
    let vouched = json(&plain.calibrate(&vouched));
    assert_eq!(vouched["content"]["promise"]["independent_trials"], 129);
    let assumed = vouched["content"]["assumptions"].to_string();
    assert!(assumed.contains("as was said"), "{assumed}");

    // A name is an identity, whatever the pictures look like.
    for number in 0..129 {
        plain.table = plain
            .table
            .replace(&stranger(number), &format!("visitor {}", number % 39));
    }
    let named = json(&plain.calibrate(&["--target-far", "0.1", "--json"]));
    assert_eq!(named["content"]["promise"]["independent_trials"], 39);
    assert_eq!(named["unnamed"], Value::Null);
}

#[test]
fn labels_that_differ_by_spelling_alone_are_refused_unless_they_are_said_to_be_different_things() {
    let mut plain = Plain::new(3);
    for label in 0..40 {
        let item = plain.vector();
        plain.add(&format!("kind{label}"), "gallery", &item);
        let picture = plain.near(&item, 0.05);
        plain.add(&format!("Kind{label}"), "unknown", &picture);
        let other = plain.vector();
        plain.add(&format!("other{label}"), "unknown", &other);
    }
    let refused = plain.calibrate(&["--target-far", "0.1"]);
    assert_eq!(code(&refused), 65);
    let said = text(&refused.stderr);
    for part in [
        "(40 of them)",
        "`Kind0` (enrolled: `kind0`; capitals)",
        "--labels-as-they-are",
    ] {
        assert!(said.contains(part), "{said}");
    }
    let taken = plain.calibrate(&["--target-far", "0.1", "--labels-as-they-are", "--json"]);
    let report = json(&taken);
    assert_eq!(report["alike"].as_array().unwrap().len(), 40);
    assert_eq!(report["content"]["promise"]["independent_trials"], 80);
    let assumed = report["content"]["assumptions"].to_string();
    assert!(assumed.contains("as was said"), "{assumed}");
}

#[test]
fn a_deployment_refuses_strangers_that_are_enrolled_under_another_spelling() {
    let (folder, deployment) = copy_of_sample();
    let queries = folder.path().join("queries.csv");
    let one = "images/gc_fishes_fish3/q2_photometric.jpg";
    let file = photos().join(one);
    let list = format!("path,label,id\n{},GC-Fishes-Fish3,one\n", path(&file));
    fs::write(&queries, list).unwrap();
    let before = fs::read(deployment.join("deployment.json")).unwrap();
    let calibrate = [
        "calibrate",
        path(&deployment),
        "--target-far",
        "0.2",
        "--queries",
    ];
    let calibrate = [&calibrate[..], &[path(&queries)]].concat();
    let evaluate = ["evaluate", path(&deployment), "--queries", path(&queries)];
    for command in [&calibrate[..], &evaluate] {
        let refused = run(command);
        assert_eq!(code(&refused), 65, "{}", text(&refused.stdout));
        let said = text(&refused.stderr);
        assert!(
            said.contains("`GC-Fishes-Fish3` (enrolled: `gc_fishes_fish3`; capitals, spaces, hyphens or underscores)"),
            "{said}"
        );
        let taken = run(&[command, &["--labels-as-they-are", "--json"]].concat());
        let report = json(&taken);
        assert_eq!(report["alike"][0]["other"], "gc_fishes_fish3");
    }
    assert_eq!(
        fs::read(deployment.join("deployment.json")).unwrap(),
        before
    );
    // Enrolled beside the other, it is one thing under two labels.
    let built = build(&deployment, &queries, &[]);
    assert_eq!(json(&built)["alike"][0]["other"], "gc_fishes_fish3");
}

#[test]
fn a_snapshot_is_a_tar_that_other_programs_check() {
    let (root, deployment) = copy_of_sample();
    let at = |name: &str| root.path().join(name);
    let archive = at("a.snapshot");
    assert_eq!(
        code(&run(&["snapshot", path(&deployment), path(&archive)])),
        0
    );
    // As docs/files.md says, without this program.
    let unpacked = at("unpacked");
    fs::create_dir(&unpacked).unwrap();
    for command in [
        "tar xf ../a.snapshot",
        "sha256sum --check --strict SHA256SUMS",
    ] {
        let shell = &mut Command::new("sh");
        let output = shell.current_dir(&unpacked).args(["-c", command]).output();
        let output = output.unwrap();
        let shown = text(&output.stdout) + &text(&output.stderr);
        assert!(output.status.success(), "{shown}");
        assert!(
            !command.starts_with("sha") || shown.contains("items.db: OK"),
            "{shown}"
        );
    }
    assert_eq!(code(&run(&["verify", path(&unpacked)])), 0);
    // What others pack is not what was taken.
    let foreign = at("foreign.snapshot");
    let mut tar = Command::new("tar");
    tar.current_dir(&unpacked).arg("cf").arg(&foreign).arg(".");
    assert!(tar.status().unwrap().success());
    let refused = run(&["restore", path(&foreign), path(&at("second"))]);
    assert_eq!(code(&refused), 65, "{}", text(&refused.stderr));
    assert!(!at("second").exists());
}

#[test]
fn a_snapshot_of_a_deployment_is_restored_as_it_was() {
    let (root, deployment) = copy_of_sample();
    let at = |name: &str| root.path().join(name);
    let (archive, again) = (at("a.snapshot"), at("again"));
    let taken = run(&["snapshot", path(&deployment), path(&archive), "--json"]);
    assert_eq!(code(&taken), 0, "{}", text(&taken.stderr));
    let report = json(&taken);
    assert_eq!(report["items"], 36);
    assert_eq!(
        code(&run(&["snapshot", path(&deployment), path(&archive)])),
        2
    );
    let checked = run(&["restore", path(&archive), "--check", "--json"]);
    assert_eq!(
        (code(&checked), &json(&checked)["sha256"]),
        (0, &report["sha256"])
    );

    let restored = run(&["restore", path(&archive), path(&again), "--json"]);
    assert_eq!(
        (code(&restored), &json(&restored)["gallery_digest"]),
        (0, &report["gallery_digest"])
    );
    let inspected = |folder: &Path| {
        let output = json(&run(&["inspect", path(folder), "--json"]));
        let deployment = &output["deployment"];
        let mut record = deployment["record"].clone();
        let restored_from = record.as_object_mut().unwrap().remove("restored_from");
        let what = ["operating_points", "gallery_digest", "state"];
        (
            (record, what.map(|key| deployment[key].clone())),
            restored_from,
        )
    };
    let (source, copy) = (inspected(&deployment), inspected(&again));
    assert_eq!(copy.0, source.0);
    // It knows what it is a copy of.
    assert_eq!((source.1, copy.1.as_ref()), (None, Some(&report["sha256"])));
    assert_eq!(code(&run(&["restore", path(&archive), path(&again)])), 66);

    // A damaged one is refused, and leaves nothing.
    let mut bytes = fs::read(&archive).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 4;
    fs::write(&archive, bytes).unwrap();
    let names = || fs::read_dir(root.path()).unwrap().count();
    let before = names();
    let refused = run(&["restore", path(&archive), path(&at("third"))]);
    assert_eq!(code(&refused), 65);
    assert!(
        text(&refused.stderr).contains("is damaged at byte"),
        "{}",
        text(&refused.stderr)
    );
    assert_eq!(code(&run(&["restore", path(&archive), "--check"])), 65);
    assert_eq!(names(), before);
}

#[test]
#[expect(clippy::too_many_lines, reason = "one story")]
fn vectors_made_elsewhere_are_enrolled_without_a_model() {
    let root = TempDir::new().unwrap();
    let at = |name: &str| root.path().join(name);
    let (vectors, labels, deployment) = (at("v.npy"), at("v.csv"), at("faces"));
    let mut rows = [
        [1.0, 2.0, 3.0],
        [2.0, 4.0, 6.5],
        [0.0, 0.0, 0.0],
        [3.0, -1.0, 0.0],
        [9.0, 9.0, 9.0],
    ];
    fs::write(&vectors, npy(&rows)).unwrap();
    fs::write(&labels, "id,label,role,site\na/1,a,gallery,x\na/2,a,gallery,\nb/1,b,gallery,x\nc/1,c,gallery,y\nd/1,d,unused,y\n").unwrap();
    let mut arguments = vec![
        "build",
        path(&deployment),
        "--embeddings",
        path(&vectors),
        "--labels",
        path(&labels),
        "--json",
    ];
    let unnamed = run(&arguments);
    assert_eq!(code(&unnamed), 2);
    assert!(
        text(&unnamed.stderr).contains("--vectors-of"),
        "{}",
        text(&unnamed.stderr)
    );
    arguments.extend(["--vectors-of", "arcface-r100"]);
    let built = run(&arguments);
    let report = json(&built);
    assert_eq!(
        (
            code(&built),
            report["enrolled"].as_u64(),
            report["items"].as_u64()
        ),
        (3, Some(3), Some(3))
    );
    assert!(
        report["failed"][0]["reason"]
            .as_str()
            .unwrap()
            .contains("length zero")
    );

    // Again, with one that has changed.
    rows[3][2] = 0.5;
    fs::write(&vectors, npy(&rows)).unwrap();
    let again = json(&run(&arguments));
    assert_eq!(
        (again["enrolled"].as_u64(), again["unchanged"].as_u64()),
        (Some(1), Some(2))
    );
    let inspected = json(&run(&["inspect", path(&deployment), "--json"]));
    let record = &inspected["deployment"]["record"]["model"];
    assert_eq!(
        (record["name"].as_str(), record["vectors"].as_u64()),
        (Some("arcface-r100"), Some(3))
    );

    let other = ["--vectors-of", "other"];
    let refused = run(&[&arguments[..arguments.len() - 2], &other].concat());
    assert_eq!(code(&refused), 4);
    let images = photos().join("images");
    let refused = run(&["build", path(&deployment), "--images", path(&images)]);
    assert_eq!(code(&refused), 2);
    assert!(
        text(&refused.stderr).contains("made elsewhere"),
        "{}",
        text(&refused.stderr)
    );
    // Its own items as queries say what the threshold would be.
    let calibrated = run(&[
        "calibrate",
        path(&deployment),
        "--gallery-as-queries",
        "--equal-error",
        "--dry-run",
        "--json",
    ]);
    assert!(
        [0, 5].contains(&code(&calibrated)),
        "{}",
        text(&calibrated.stderr)
    );
    let verified = json(&run(&["verify", path(&deployment), "--json"]));
    assert_eq!(
        (verified["items"].as_u64(), &verified["orphans"]),
        (Some(3), &serde_json::json!([]))
    );
}

#[test]
fn verify_measures_the_index_and_names_what_belongs_to_nothing() {
    let root = TempDir::new().unwrap();
    let at = |name: &str| root.path().join(name);
    let rows: Vec<[f32; 3]> = (0..600_u16)
        .map(|row| {
            let angle = f32::from(row) * 0.37;
            [angle.cos(), angle.sin(), f32::from(row % 7) - 3.0]
        })
        .collect();
    let (vectors, labels, deployment) = (at("v.npy"), at("v.csv"), at("many"));
    fs::write(&vectors, npy(&rows)).unwrap();
    let lines: String = (0..600)
        .map(|row| format!("label {}\n", row % 20))
        .collect();
    fs::write(&labels, format!("label\n{lines}")).unwrap();
    let built = run(&[
        "build",
        path(&deployment),
        "--embeddings",
        path(&vectors),
        "--labels",
        path(&labels),
        "--vectors-of",
        "x",
        "--graph-from-items",
        "100",
    ]);
    assert_eq!(code(&built), 0, "{}", text(&built.stderr));
    fs::write(deployment.join("items.graph.tmp"), "half").unwrap();
    fs::create_dir_all(deployment.join("recordings")).unwrap();
    fs::write(deployment.join("recordings/op-0.json"), "{}").unwrap();
    let verify = |more: &[&str]| {
        run(&[
            &[
                "verify",
                path(&deployment),
                "--graph-from-items",
                "100",
                "--json",
            ],
            more,
        ]
        .concat())
    };
    let verified = verify(&[]);
    let report = json(&verified);
    assert_eq!(code(&verified), 0, "{}", text(&verified.stderr));
    assert_eq!(
        report["orphans"],
        serde_json::json!(["items.graph.tmp", "recordings/op-0.json"])
    );
    assert!(
        0.95 <= report["recall"]["recall"].as_f64().unwrap(),
        "{report}"
    );
    assert_eq!(report["recall"]["searches"].as_u64(), Some(600));
    assert_eq!(code(&verify(&["--min-recall", "1.5"])), 2);
    fs::write(deployment.join("labels.log"), "\0\0\0\n").unwrap();
    let refused = verify(&[]);
    assert_eq!(code(&refused), 65);
    assert!(text(&refused.stderr).contains("labels.log"));
    fs::rename(
        deployment.join("labels.log"),
        deployment.join("labels.log.damaged-1"),
    )
    .unwrap();
    let set_aside = &json(&verify(&[]))["set_aside"];
    assert_eq!(*set_aside, serde_json::json!(["labels.log.damaged-1"]));
    let shown = run(&["verify", path(&deployment)]);
    assert!(text(&shown.stdout).contains("every search compares with every item"));
}

#[test]
fn images_are_kept_where_that_is_asked_for_and_a_deployment_is_compacted() {
    let root = TempDir::new().unwrap();
    let at = |name: &str| root.path().join(name);
    let (images, deployment) = (at("images"), at("shop"));
    for label in ["gc_fishes_fish3", "gc_erase_pika"] {
        copy_folder(&photos().join("images").join(label), &images.join(label));
    }
    let built = |more: &[&str]| {
        let report = json(&build(&deployment, &images, more));
        (
            report["enrolled"].as_u64().unwrap(),
            report["unchanged"].as_u64().unwrap(),
        )
    };
    let (all, _) = built(&[]);
    assert_eq!(built(&[]), (0, all));
    // What was enrolled without its image is enrolled with it now, and from then on without asking.
    assert_eq!(built(&["--keep-images"]), (all, 0));
    assert_eq!(built(&[]), (0, all));
    let verify = |folder: &Path| json(&run(&["verify", path(folder), "--json"]))["images"].as_u64();
    assert_eq!(verify(&deployment), Some(all));
    let (archive, again) = (at("a.snapshot"), at("again"));
    assert_eq!(
        code(&run(&["snapshot", path(&deployment), path(&archive)])),
        0
    );
    assert_eq!(code(&run(&["restore", path(&archive), path(&again)])), 0);
    assert_eq!(verify(&again), Some(all));

    // With another model, from the images that are kept: the same items, other embeddings.
    let (other, model_folder) = (at("other"), at("model"));
    copy_folder(&model(), &model_folder);
    let manifest = fs::read_to_string(model().join("model.toml")).unwrap();
    let changed = manifest
        .replace("filter = \"bilinear\"", "filter = \"hamming\"")
        .replace("cosine_min = 0.998", "cosine_min = 0.9");
    fs::write(model_folder.join("model.toml"), changed).unwrap();
    let rebuilt = |more: &[&str]| {
        let all = [
            &["build", path(&other), "--images-of", path(&deployment)][..],
            &["--model", path(&model_folder), "--json"],
            more,
        ]
        .concat();
        run(&all)
    };
    let first = json(&rebuilt(&["--keep-images"]));
    assert_eq!(first["enrolled"].as_u64(), Some(all), "{first}");
    let again = json(&rebuilt(&[]));
    assert_eq!(again["unchanged"].as_u64(), Some(all), "{again}");
    assert_eq!(verify(&other), Some(all));
    let record = |folder: &Path| json(&run(&["inspect", path(folder), "--json"]));
    let (before, after) = (record(&deployment), record(&other));
    assert_eq!(before["deployment"]["items"], after["deployment"]["items"]);
    let model = |report: &Value| report["deployment"]["record"]["model"].clone();
    assert_ne!(model(&before)["fingerprint"], model(&after)["fingerprint"]);

    fs::remove_dir_all(images.join("gc_erase_pika")).unwrap();
    let (_, left) = built(&["--prune"]);
    assert!(0 < left && left < all);
    let compacted = run(&["compact", path(&deployment), "--json"]);
    let report = json(&compacted);
    assert_eq!(
        (code(&compacted), report["items"].as_u64()),
        (0, Some(left))
    );
    let size = |name: &str| report[name].as_u64().unwrap();
    assert!(size("bytes_after") < size("bytes_before"), "{report}");
    assert_eq!(verify(&deployment), Some(left));
    let damaged = run(&["compact", path(&at("nowhere"))]);
    assert_eq!(code(&damaged), 66, "{}", text(&damaged.stderr));
}

#[test]
fn a_load_beyond_what_a_server_can_do_is_refused_and_counted() {
    let (_folder, deployment) = copy_of_sample();
    let served = serve(&deployment);
    let address = format!("http://{}", served.address);
    let image = photos().join("images/gc_erase_pika/g0_ref.jpg");
    let load = |more: &[&str]| {
        let arguments = ["bench", "load", "--server", &address, "--json"];
        run(&[&arguments[..], more, &[path(&image)]].concat())
    };
    let measured = load(&[
        "--rate",
        "10,2000",
        "--seconds",
        "1",
        "--deadline-ms",
        "500",
    ]);
    assert_eq!(code(&measured), 0, "{}", text(&measured.stderr));
    let report = json(&measured);
    let runs = report["runs"].as_array().unwrap();
    assert_eq!(runs.len(), 2);
    for (run, sent) in runs.iter().zip([10, 2000]) {
        let count = |name: &str| run[name].as_u64().unwrap();
        assert_eq!(count("sent"), sent);
        let failed: u64 = run["failed"]
            .as_object()
            .unwrap()
            .values()
            .map(|n| n.as_u64().unwrap())
            .sum();
        let answered = run["answered"]["per_second"].as_f64().unwrap().round();
        let rest = sent - count("refused") - failed;
        assert_eq!(format!("{answered}"), rest.to_string(), "{run}");
    }
    assert_eq!(runs[0]["refused"], 0, "{report}");
    assert!(0 < runs[1]["refused"].as_u64().unwrap(), "{report}");
    assert!(
        report["recovery_seconds"].as_f64().unwrap() < 1.0,
        "{report}"
    );

    assert_eq!(code(&load(&["--rate", "0"])), 2);
    assert_eq!(code(&load(&["--rate", "1", "--deployment", "other"])), 66);
    let missing = run(&["bench", "load", "--server", &address, "no-such.jpg"]);
    assert_eq!(code(&missing), 66);
    // Nobody waits for what is no file.
    for command in [&["search"][..], &["bench", "load"]] {
        let endless = [command, &["--server", &address, "/dev/zero"]].concat();
        let refused = run(&endless);
        assert_ne!(code(&refused), 0);
        let said = [text(&refused.stdout), text(&refused.stderr)].concat();
        assert!(said.contains("not a regular file"), "{said}");
    }
    let mut served = served;
    served.kill();
    assert_eq!(code(&load(&["--rate", "1"])), 69);
}

// === Models of one's own ===

/// The shipped model's ONNX file as if nobody had described it, with these keys.
fn new_model(out: &Path, set: &[&str]) -> Output {
    let onnx = model().join("model.onnx");
    let golden = model().join("golden.jpg");
    let paths = [&onnx, out, &golden].map(|path| path.to_str().unwrap().to_owned());
    let [onnx, out, golden] = &paths;
    let mut arguments = vec!["model", "new", onnx, "--out", out, "--golden", golden];
    arguments.extend(set.iter().flat_map(|one| ["--set", one]));
    run(&arguments)
}

const LITE0: [&str; 6] = [
    "input.colour=rgb",
    "input.mean=[127, 127, 127]",
    "input.std=[128, 128, 128]",
    "resize.fit=squash",
    "resize.filter=bilinear",
    "resize.jpeg=reduced",
];

#[test]
fn a_new_models_folder_is_the_one_that_was_written_by_hand() {
    let folder = TempDir::new().unwrap();
    let out = folder.path().join("own");
    let made = new_model(&out, &[&LITE0[..], &["name=own"]].concat());
    assert!(made.status.success(), "{}", text(&made.stderr));
    let printed = text(&made.stdout);
    assert!(printed.contains("made by this program"), "{printed}");
    assert!(!printed.contains("warning"), "{printed}");

    let fingerprint = |folder: &Path| {
        let inspected = run(&["inspect", "--model", folder.to_str().unwrap(), "--json"]);
        assert!(inspected.status.success(), "{}", text(&inspected.stderr));
        let report: Value = serde_json::from_slice(&inspected.stdout).unwrap();
        report["model"]["fingerprint"].as_str().unwrap().to_owned()
    };
    assert_eq!(fingerprint(&out), fingerprint(&model()));
    let again = new_model(&out, &LITE0);
    assert_eq!(again.status.code(), Some(2));
    assert!(text(&again.stderr).contains("already"));
}

#[test]
fn a_new_model_of_which_nobody_says_how_images_are_prepared_is_refused_key_by_key() {
    let folder = TempDir::new().unwrap();
    let out = folder.path().join("own");
    let refused = new_model(&out, &[]);
    assert_eq!(refused.status.code(), Some(2), "{}", text(&refused.stderr));
    let reason = text(&refused.stderr);
    for part in [
        "--from",
        "--set",
        "input.mean is missing",
        "resize.fit is missing",
    ] {
        assert!(reason.contains(part), "{part}: {reason}");
    }
    assert!(!reason.contains("input.width"), "{reason}");
    assert!(!out.exists());
}

#[test]
fn a_new_model_is_there_whole_or_not_at_all() {
    let folder = TempDir::new().unwrap();
    let out = folder.path().join("own");
    let names = || {
        let entries = fs::read_dir(folder.path()).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    };
    // The model takes no picture of this size, which shows only when it is opened, or run.
    let refused = new_model(&out, &[&LITE0[..], &["output.dimension=7"]].concat());
    assert_eq!(refused.status.code(), Some(65), "{}", text(&refused.stderr));
    // What only the end finds: the folder cannot have its place.
    fs::create_dir(&out).unwrap();
    fs::write(out.join("notes.txt"), "mine").unwrap();
    let refused = new_model(&out, &LITE0);
    assert_eq!(refused.status.code(), Some(2));
    assert_eq!(fs::read_dir(&out).unwrap().count(), 1);

    let pipe = folder.path().join("config.json");
    let made = Command::new("mkfifo").arg(&pipe).status();
    assert!(made.unwrap().success());
    let onnx = model().join("model.onnx");
    let arguments = ["model", "new", path(&onnx), "--from", path(&pipe)];
    let refused = run(&[&arguments[..], &["--out", path(&folder.path().join("x"))]].concat());
    assert_eq!(refused.status.code(), Some(66), "{}", text(&refused.stderr));
    assert_eq!(names(), ["config.json", "own"]);

    // An empty folder is as good as none; the golden picture has the name of its kind, not its own.
    fs::remove_file(out.join("notes.txt")).unwrap();
    let photo = folder.path().join("photo.f32");
    fs::copy(model().join("golden.jpg"), &photo).unwrap();
    let arguments = ["model", "new", path(&onnx), "--golden", path(&photo)];
    let mut arguments = [&arguments[..], &["--out", path(&out)]].concat();
    arguments.extend(LITE0.iter().flat_map(|one| ["--set", one]));
    let made = run(&arguments);
    assert!(made.status.success(), "{}", text(&made.stderr));
    assert!(out.join("golden.jpg").exists() && out.join("golden.f32").exists());
    assert_eq!(names(), ["config.json", "own", "photo.f32"]);
}

#[test]
fn a_tensor_within_the_network_can_be_the_embedding() {
    let folder = TempDir::new().unwrap();
    let out = folder.path().join("cut");
    let set: Vec<&str> = LITE0.into_iter().collect();
    let onnx = model().join("model.onnx");
    let make = |tensor: &str| {
        let mut arguments = vec!["model", "new", onnx.to_str().unwrap(), "--output", tensor];
        arguments.extend(["--out", out.to_str().unwrap(), "--json", "--golden"]);
        let golden = model().join("golden.jpg");
        let golden = golden.to_str().unwrap().to_owned();
        arguments.push(&golden);
        arguments.extend(set.iter().flat_map(|one| ["--set", one]));
        run(&arguments)
    };
    let refused = make("nowhere");
    assert_eq!(refused.status.code(), Some(2));
    let reason = text(&refused.stderr);
    assert!(
        reason.contains("\"nowhere\"") && reason.contains("gap"),
        "{reason}"
    );
    // What is pooled, before its axes of one are taken away.
    let made = make("gap");
    assert!(made.status.success(), "{}", text(&made.stderr));
    let report: Value = serde_json::from_slice(&made.stdout).unwrap();
    assert_eq!(report["cut_at"], "gap");
    // The same numbers as the model's own output.
    let embed = |of: &Path, name: &str| {
        let vectors = folder.path().join(name);
        let photo = model().join("golden.jpg");
        let arguments = ["embed", "--model", path(of)];
        let files = [photo.to_str().unwrap(), "--out", vectors.to_str().unwrap()];
        assert!(run(&[&arguments[..], &files].concat()).status.success());
        fs::read(vectors).unwrap()
    };
    assert_eq!(embed(&out, "a.npy"), embed(&model(), "b.npy"));
}

#[test]
fn a_model_is_checked_against_the_vectors_of_its_author() {
    let folder = TempDir::new().unwrap();
    let pictures = folder.path().join("pictures");
    fs::create_dir(&pictures).unwrap();
    let photos = photos().join("images");
    let mut some: Vec<PathBuf> = walk(&photos);
    some.sort();
    for (at, photo) in some.iter().take(4).enumerate() {
        fs::copy(photo, pictures.join(format!("{at}.jpg"))).unwrap();
    }
    let vectors = folder.path().join("reference.npy");
    let (shipped, pictures) = (model(), path(&pictures).to_owned());
    let (model, vectors) = (path(&shipped), path(&vectors));
    let embedded = run(&["embed", "--model", model, &pictures, "--out", vectors]);
    assert!(embedded.status.success(), "{}", text(&embedded.stderr));
    let list = fs::read_to_string(folder.path().join("reference.csv")).unwrap();
    assert_eq!(list.lines().count(), 5, "{list}");

    let check = |model: &str| {
        let arguments = ["model", "check", model, "--images", &pictures, "--json"];
        run(&[&arguments[..], &["--vectors", vectors]].concat())
    };
    let same = check(model);
    assert!(same.status.success(), "{}", text(&same.stderr));
    let report: Value = serde_json::from_slice(&same.stdout).unwrap();
    assert_eq!(report["images"], 4);
    assert!(
        0.999_99 < report["cosines"]["min"].as_f64().unwrap(),
        "{report}"
    );

    // In the order of a list, read as every other; a gap would shift the rows behind it.
    let rows = folder.path().join("rows.csv");
    for (list, code) in [
        ("path;n\n0.jpg;0\n1.jpg;1\n2.jpg;2\n3.jpg;3\n", 0),
        ("path;n\n0.jpg;0\n;\n1.jpg;1\n", 65),
    ] {
        fs::write(&rows, list).unwrap();
        let arguments = [
            "model",
            "check",
            model,
            "--images",
            &pictures,
            "--vectors",
            vectors,
        ];
        let listed = run(&[&arguments[..], &["--rows", path(&rows)]].concat());
        assert_eq!(listed.status.code(), Some(code), "{}", text(&listed.stderr));
        assert!(
            code == 0 || text(&listed.stderr).contains("line 3"),
            "{}",
            text(&listed.stderr)
        );
    }

    let other = folder.path().join("other");
    let mut set = LITE0;
    set[4] = "resize.filter=lanczos";
    assert!(new_model(&other, &set).status.success());
    let differs = check(other.to_str().unwrap());
    assert_eq!(differs.status.code(), Some(65));
    let report: Value = serde_json::from_slice(&differs.stdout).unwrap();
    assert_eq!(report["below"], 4, "{report}");
    assert!(text(&differs.stderr).contains("golden.cosine_min"));

    // An image more than vectors, and an image that is none.
    fs::write(Path::new(&pictures).join("9.jpg"), "no image").unwrap();
    let uneven = check(model);
    assert_eq!(uneven.status.code(), Some(65));
    assert!(text(&uneven.stderr).contains("5 images and 4 vectors"));
    let partly = run(&["embed", "--model", model, &pictures, "--out", vectors]);
    assert_eq!(partly.status.code(), Some(3));
    let list = fs::read_to_string(folder.path().join("reference.csv")).unwrap();
    assert!(list.contains("9.jpg,,\"this looks like"), "{list}");
}

#[test]
fn vectors_are_written_over_no_picture_and_no_pipe_is_waited_for() {
    let folder = TempDir::new().unwrap();
    let at = |name: &str| path(&folder.path().join(name)).to_owned();
    fs::create_dir(at("empty")).unwrap();
    fs::copy(walk(&photos().join("images")).pop().unwrap(), at("a.jpg")).unwrap();
    let before = fs::read(at("a.jpg")).unwrap();
    let made = Command::new("mkfifo")
        .args([at("pipe.npy"), at("pipe.csv")])
        .status();
    assert!(made.unwrap().success());
    let shipped = model();
    for (pictures, out, exit, problem) in [
        ("a.jpg", "a.jpg", 2, "--out names a .npy file"),
        ("a.jpg", "none/a.npy", 2, "its folder does not exist"),
        ("a.jpg", "pipe.npy", 2, "is no regular file"),
        ("empty", "b.npy", 66, "no images"),
    ] {
        let (pictures, out) = (at(pictures), at(out));
        let refused = run(&["embed", "--model", path(&shipped), &pictures, "--out", &out]);
        assert_eq!(code(&refused), exit, "{}", text(&refused.stderr));
        assert!(
            text(&refused.stderr).contains(problem),
            "{}",
            text(&refused.stderr)
        );
    }
    assert_eq!(fs::read(at("a.jpg")).unwrap(), before);
    let check = |vectors: &str, rows: &str| {
        let arguments = ["model", "check", path(&shipped), "--images", &at("empty")];
        let rest = ["--vectors", &at(vectors), "--rows", &at(rows)];
        run(&[&arguments[..], &rest].concat())
    };
    let refused = check("pipe.npy", "pipe.csv");
    assert_eq!(code(&refused), 74, "{}", text(&refused.stderr));
    assert!(text(&refused.stderr).contains("pipe.npy: it is not a regular file\n"));
}

/// Every file below.
fn walk(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    entries
        .flat_map(|path| {
            if path.is_dir() {
                walk(&path)
            } else {
                vec![path]
            }
        })
        .collect()
}
