//! What commands read and keep, and how they are called.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

use crate::common::{Served, copy_of_sample, matchpoint, photos, run, text};
use serde_json::Value;

const CACHE: &str = "query-embeddings.cache";

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|cause| panic!("{cause}: {}{}", text(&output.stdout), text(&output.stderr)))
}

/// The report of a command, and how many embeddings it took from the cache. What says when and how fast is left out.
fn results(arguments: &[&str]) -> (Value, u64) {
    let mut report = json(&run(arguments));
    let before = report["embedded_before"].take().as_u64().unwrap();
    for key in ["latency_ms", "queries_per_second", "operating_point"] {
        report[key].take();
    }
    if report["content"].is_object() {
        report["content"]["created"].take();
    }
    (report, before)
}

#[test]
fn queries_are_embedded_once_and_nothing_of_a_result_changes() {
    let (_folder, deployment) = copy_of_sample();
    let cache = deployment.join(CACHE);
    fs::remove_file(&cache).unwrap_or_default();
    let (deployment, list) = (path(&deployment), photos().join("calibrate.csv"));
    let calibrate = |more: &[&str]| {
        let fixed = [
            "calibrate",
            deployment,
            "--queries",
            path(&list),
            "--json",
            "--dry-run",
        ];
        results(
            &[
                &fixed[..],
                &["--target-far", "0.1", "--confidence", "0.9"],
                more,
            ]
            .concat(),
        )
    };
    let (fresh, _) = calibrate(&["--no-cache"]);
    assert!(fresh["analysis"].is_object() && !cache.exists());
    let (first, before) = calibrate(&[]);
    assert_eq!((&first, before), (&fresh, 0));
    let (second, all) = calibrate(&[]);
    assert_eq!(second, fresh);
    assert!(100 < all, "{all}");

    // Half of it destroyed, as by a disk, and the other half lost, as by a kill.
    let mut bytes = fs::read(&cache).unwrap();
    let (half, middle) = (bytes.len() / 2, bytes.len() / 4);
    bytes.truncate(half);
    bytes[middle..].fill(0x55);
    fs::write(&cache, &bytes).unwrap();
    let (third, some) = calibrate(&[]);
    assert_eq!(third, fresh);
    assert!(0 < some && some < all / 2, "{some} of {all}");

    // Other queries, by another command.
    let list = photos().join("evaluate.csv");
    let evaluate = ["evaluate", deployment, "--queries", path(&list), "--json"];
    let (fresh, _) = results(&[&evaluate[..], &["--no-cache"]].concat());
    for _ in 0..2 {
        assert_eq!(results(&evaluate).0, fresh);
    }
    let (_, before) = results(&evaluate);
    assert_eq!(
        Some(before),
        fresh["mated"]
            .as_u64()
            .zip(fresh["non_mated"].as_u64())
            .map(|(a, b)| a + b)
    );
}

#[test]
fn a_killed_calibration_goes_on_where_it_was() {
    let (_folder, deployment) = copy_of_sample();
    let cache = deployment.join(CACHE);
    fs::remove_file(&cache).unwrap_or_default();
    let list = photos().join("calibrate.csv");
    let fixed = [
        "calibrate",
        path(&deployment),
        "--queries",
        path(&list),
        "--json",
    ];
    let arguments = [
        &fixed[..],
        &["--target-far", "0.2", "--dry-run", "--workers", "1"],
    ]
    .concat();
    let mut child = matchpoint(&arguments)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let started = Instant::now();
    let len = || fs::metadata(&cache).map_or(0, |file| file.len());
    while len() < 30_000 {
        assert!(
            started.elapsed() < Duration::from_secs(60),
            "nothing was kept"
        );
    }
    child.kill().unwrap();
    assert_eq!(child.wait().unwrap().code(), None);
    let (_, before) = results(&arguments);
    assert!(0 < before, "{before}");
}

#[test]
fn a_list_whose_pictures_are_all_elsewhere_is_not_taken_for_a_lack_of_labels() {
    let (folder, deployment) = copy_of_sample();
    let moved = folder.path().join("moved.csv");
    fs::copy(photos().join("evaluate.csv"), &moved).unwrap();
    let (deployment, list) = (path(&deployment), path(&moved));
    for command in ["calibrate", "evaluate"] {
        let refused = run(&[command, deployment, "--queries", list, "--no-cache"]);
        let said = text(&refused.stderr);
        assert_eq!(refused.status.code(), Some(66), "{command}: {said}");
        assert!(
            said.contains("no query can be used: all 180 failed"),
            "{said}"
        );
        assert!(said.contains("begin at its folder"), "{said}");
    }
}

/// A command with something on its standard input.
fn piped(arguments: &[&str], input: &[u8]) -> Output {
    let mut child = matchpoint(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let written = child.stdin.take().unwrap().write_all(input);
    // Whoever refuses it does not read it.
    written.unwrap_or_default();
    child.wait_with_output().unwrap()
}

/// A list of the sample as lines of JSON, with paths from where the tests run.
fn as_jsonl(list: &str) -> Vec<u8> {
    let text = fs::read_to_string(photos().join(list)).unwrap();
    let mut rows = text.lines().map(|line| line.split(',').collect::<Vec<_>>());
    let names = rows.next().unwrap();
    let line = |cells: Vec<&str>| {
        let mut row: Value = names.iter().copied().zip(cells).collect();
        row["id"] = row["path"].clone();
        row["path"] = path(&photos().join(row["path"].as_str().unwrap())).into();
        format!("{row}\n")
    };
    rows.map(line).collect::<String>().into_bytes()
}

#[test]
fn a_list_comes_from_standard_input_and_a_page_goes_to_standard_output() {
    let (folder, deployment) = copy_of_sample();
    let (deployment, list) = (path(&deployment), photos().join("calibrate.csv"));
    let arguments = |queries| {
        let fixed = ["calibrate", deployment, "--queries", queries, "--dry-run"];
        [&fixed[..], &["--target-far", "0.1", "--confidence", "0.9"]].concat()
    };
    let of_file = json(&run(&[&arguments(path(&list))[..], &["--json"]].concat()));
    let of_input = [&arguments("-")[..], &["--json"]].concat();
    let of_input = json(&piped(&of_input, &as_jsonl("calibrate.csv")));
    assert_eq!(
        of_input["content"]["threshold"],
        of_file["content"]["threshold"]
    );
    assert_eq!(of_input["content"]["trials"], of_file["content"]["trials"]);

    let page = [&arguments(path(&list))[..], &["--report", "-"]].concat();
    let page = run(&page);
    let (html, words) = (text(&page.stdout), text(&page.stderr));
    assert!(
        html.starts_with("<!DOCTYPE html>") && html.trim_end().ends_with("</html>"),
        "{html:.200}"
    );
    assert!(words.contains("Promised"), "{words}");

    // A table, and nothing.
    let csv = format!(
        "label,path\npika,{}\n",
        path(&photos().join("images/gc_erase_pika/g0_ref.jpg"))
    );
    let fresh = folder.path().join("fresh");
    let model = crate::common::model();
    let build = [
        "build",
        path(&fresh),
        "--model",
        path(&model),
        "--json",
        "--images",
        "-",
    ];
    assert_eq!(json(&piped(&build, csv.as_bytes()))["items"], 1);
    let nothing = piped(&build, b"");
    assert_eq!(nothing.status.code(), Some(66), "{}", text(&nothing.stderr));
    assert!(text(&nothing.stderr).contains("standard input: it is empty"));
}

#[test]
fn an_image_comes_from_standard_input_and_vectors_go_to_standard_output() {
    let folder = tempfile::tempdir().unwrap();
    let image = photos().join("images/gc_erase_pika/g0_ref.jpg");
    let (bytes, model) = (fs::read(&image).unwrap(), crate::common::model());
    let file = folder.path().join("x.npy");
    let embed =
        |image, out| ["embed", "--model", path(&model), image, "--out", out].map(str::to_owned);
    let done = run(&embed(path(&image), path(&file))
        .each_ref()
        .map(String::as_str));
    assert!(done.status.success(), "{}", text(&done.stderr));
    let list = fs::read_to_string(file.with_extension("csv")).unwrap();
    let (columns, line) = list.trim_end().split_once('\n').unwrap();
    let measured = "path,row,reason,format,longest_side,brightness,sharpness,feature_length";
    assert_eq!(columns, measured);
    let cells: Vec<&str> = line.split(',').collect();
    assert_eq!(cells[..5], [path(&image), "0", "", "JPEG", "224"], "{line}");
    let numbers: Vec<f64> = cells[5..]
        .iter()
        .map(|cell| cell.parse().unwrap())
        .collect();
    assert!(
        numbers.iter().all(|number| 0.0 < *number) && numbers[0] < 255.0,
        "{line}"
    );
    let piped_through = piped(&embed("-", "-").each_ref().map(String::as_str), &bytes);
    assert_eq!(piped_through.stdout, fs::read(&file).unwrap());
    assert!(
        text(&piped_through.stderr).contains("1 vectors"),
        "{}",
        text(&piped_through.stderr)
    );

    let (_folder, deployment) = copy_of_sample();
    let served = Served::start(&deployment, &[], &[]);
    let server = format!("http://{}", served.address);
    let found = json(&piped(
        &["search", "-", "--server", &server, "--json"],
        &bytes,
    ));
    assert_eq!(found[0]["image"], "-");
    assert!(
        found[0]["matches"]
            .as_array()
            .is_some_and(|found| !found.is_empty()),
        "{found}"
    );
    let queue = run(&["audit", "list", "--csv", "-", "--server", &server]);
    assert!(
        text(&queue.stdout).starts_with("decision_id,truth,label"),
        "{}",
        text(&queue.stdout)
    );
}

#[test]
fn where_a_file_of_its_own_is_needed_a_pipe_is_refused_by_name() {
    for (arguments, words) in [
        (&["snapshot", "shop", "-"][..], "takes a file of its own"),
        (&["restore", "-", "shop"], "takes a file of its own"),
        (
            &["calibrate", "--embeddings", "-", "--target-far", "0.1"],
            "several places of a file",
        ),
    ] {
        let refused = piped(arguments, b"x");
        assert!(
            !refused.status.success() && text(&refused.stderr).contains(words),
            "{}",
            text(&refused.stderr)
        );
    }
}
