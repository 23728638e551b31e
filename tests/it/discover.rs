//! Rejected queries that belong together, proposed as new labels: of a journal, of pictures, of vectors.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;

use crate::common::shop::{COMPONENTS, LABELS, shop, vector};
use crate::common::{Running, copy_of_sample, model, photos, run, sample, text};
use matchpoint_client::proto::retrieval_service_client::RetrievalServiceClient;
use matchpoint_client::proto::{Decision, SearchRequest, search_request};
use serde_json::Value;
use tempfile::TempDir;

fn discovered(arguments: &[&str]) -> Output {
    run(&[&["discover"], arguments].concat())
}

fn json(arguments: &[&str]) -> Value {
    let output = discovered(&[arguments, &["--json"]].concat());
    let said = text(&output.stdout) + &text(&output.stderr);
    assert!(output.status.success(), "{said}");
    serde_json::from_slice(&output.stdout).unwrap()
}

fn refused(arguments: &[&str], code: i32, words: &str) {
    let output = discovered(arguments);
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{said}");
    assert!(said.contains(words), "{said}");
}

fn shown(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Pictures of strangers to the sample, each with its label.
fn strangers() -> Vec<(String, PathBuf)> {
    let list = fs::read_to_string(photos().join("evaluate.csv")).unwrap();
    let rows = list
        .lines()
        .filter(|line| line.contains(",unknown,"))
        .map(|line| {
            let cells: Vec<&str> = line.split(',').collect();
            (cells[1].to_owned(), photos().join(cells[0]))
        });
    rows.collect()
}

/// The labels of a group's members, which are paths of the sample.
fn labels_of(group: &Value) -> BTreeSet<String> {
    let members = group["members"].as_array().unwrap().iter();
    let label = |member: &Value| {
        let path = Path::new(member.as_str().unwrap());
        let folder = path.parent().unwrap().file_name().unwrap();
        folder.to_string_lossy().into_owned()
    };
    members.map(label).collect()
}

#[test]
fn pictures_are_grouped_written_renamed_and_enrolled() {
    let (folder, deployment) = copy_of_sample();
    let csv = folder.path().join("new.csv");
    let strangers = strangers();
    let mut arguments = vec![shown(&deployment), "--far", "0.02", "--csv", shown(&csv)];
    arguments.push("--images");
    arguments.extend(strangers.iter().map(|(_, path)| shown(path)));
    let report = json(&arguments);
    let groups = report["groups"].as_array().unwrap();
    assert!(3 <= groups.len(), "{report}");
    // Photographs under crops, rotations and light: most groups are of one.
    let of_one = groups.iter().filter(|group| labels_of(group).len() == 1);
    assert!(groups.len() * 7 <= of_one.count() * 10, "{report}");
    let threshold = report["alike"]["threshold"].as_f64().unwrap();
    for group in groups {
        let [loosest, tightest] =
            ["loosest", "tightest"].map(|which| group[which]["similarity"].as_f64().unwrap());
        assert!(threshold <= loosest && loosest <= tightest, "{group}");
        assert!(group["nearest"]["label"].is_string());
    }
    // Each label of the sample's gallery has one picture: nothing shows what a group of it is worth.
    assert!(report["measured"].is_null());
    let again = json(&arguments);
    assert_eq!(again, report);
    // What a person leaves of the list is what `build` enrols, and the pictures are then accepted.
    let list = fs::read_to_string(&csv).unwrap();
    let kept: Vec<&str> = list
        .lines()
        .filter(|line| !line.contains(",new-2,"))
        .collect();
    let kept = kept.join("\n").replace(",new-1,", ",temple,");
    fs::write(&csv, kept).unwrap();
    let built = run(&["build", shown(&deployment), "--images", shown(&csv)]);
    assert!(built.status.success(), "{}", text(&built.stderr));
    let of_first = |report: &Value| report["queries"]["accepted"].as_u64().unwrap();
    let later = json(&arguments);
    let first = groups[0]["members"].as_array().unwrap().len() as u64;
    assert!(of_first(&report) + first <= of_first(&later), "{later}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_server_rejected_is_found_in_its_journal() {
    let (folder, deployment) = copy_of_sample();
    let settings = [
        ("MATCHPOINT_AUDIT_SAMPLING_RATES", "1,1,1,1,1,1"),
        ("MATCHPOINT_AUDIT_IMAGES", "true"),
    ];
    let running = Running::start(&deployment, &settings).await;
    let mut client = RetrievalServiceClient::new(running.channel.clone());
    let (mut rejected, mut all) = (BTreeSet::new(), 0);
    let strangers = strangers();
    for (_, path) in &strangers {
        let request = SearchRequest {
            query: Some(search_request::Query::Image(fs::read(path).unwrap().into())),
            ..SearchRequest::default()
        };
        let answer = client.search(request).await.unwrap().into_inner();
        all += 1;
        if answer.decision() == Decision::Reject {
            rejected.insert(answer.decision_id);
        }
    }
    running.stop().await;
    let csv = folder.path().join("new.csv");
    let arguments = [shown(&deployment), "--far", "0.02", "--csv", shown(&csv)];
    let report = json(&arguments);
    assert_eq!(report["queries"]["recorded"], rejected.len());
    assert!(rejected.len() <= all && 10 < rejected.len());
    let groups = report["groups"].as_array().unwrap();
    assert!(!groups.is_empty());
    for member in groups
        .iter()
        .flat_map(|group| group["members"].as_array().unwrap())
    {
        assert!(rejected.contains(member.as_str().unwrap()));
    }
    // The pictures are beside the list, byte for byte.
    let list = fs::read_to_string(&csv).unwrap();
    let path = list.lines().nth(1).unwrap().split(',').next().unwrap();
    let picture = fs::read(folder.path().join(path)).unwrap();
    assert!(
        strangers
            .iter()
            .any(|(_, path)| fs::read(path).unwrap() == picture)
    );
    let said = discovered(&arguments[..3]);
    let said = text(&said.stdout);
    for words in [
        "of queries that are alike",
        "nothing is enrolled",
        "not measured",
    ] {
        assert!(said.contains(words), "{said}");
    }
    refused(
        &[shown(&deployment), "--since", "2200-01-01"],
        66,
        "none of 0 rejected searches has a picture",
    );
}

/// Writes vectors of labels as .fvecs: of each label these numbers.
fn write_vectors(at: &Path, rows: &[(usize, usize)]) {
    let mut bytes = Vec::new();
    for (label, number) in rows {
        bytes.extend(u32::try_from(COMPONENTS).unwrap().to_le_bytes());
        bytes.extend(
            vector(*label, *number)
                .into_iter()
                .flat_map(f32::to_le_bytes),
        );
    }
    fs::write(at, bytes).unwrap();
}

#[test]
fn vectors_are_grouped_with_a_deployment_and_without_one() {
    let folder = TempDir::new().unwrap();
    let (vectors, list) = (folder.path().join("q.fvecs"), folder.path().join("q.csv"));
    // Three new labels, and one vector each of some others.
    let new = (0..3).flat_map(|label| (0..5).map(move |number| (LABELS + label, number)));
    let single = (10..25).map(|label| (LABELS + label, 0));
    let queries: Vec<(usize, usize)> = new.chain(single).collect();
    write_vectors(&vectors, &queries);
    let csv = folder.path().join("new.csv");
    let report = json(&[
        shown(shop()),
        "--embeddings",
        shown(&vectors),
        "--far",
        "0.005",
        "--csv",
        shown(&csv),
    ]);
    let accepted = report["queries"]["accepted"].as_u64().unwrap();
    let grouped = report["queries"]["grouped"].as_u64().unwrap();
    assert_eq!(accepted + grouped, queries.len() as u64);
    // One line for each row of the file, so that `build --embeddings` takes the list.
    let written = fs::read_to_string(&csv).unwrap();
    assert_eq!(written.lines().count(), queries.len() + 1);

    let known = (0..LABELS).flat_map(|label| (0..4).map(move |number| (label, number)));
    let rows: Vec<(usize, usize)> = known.chain(queries.iter().copied()).collect();
    write_vectors(&vectors, &rows);
    let role = |place: usize| {
        if place < LABELS * 4 {
            "gallery"
        } else {
            "unknown"
        }
    };
    let lines = rows.iter().enumerate();
    let lines = lines.map(|(place, (label, _))| format!("{label},{}\n", role(place)));
    fs::write(
        &list,
        "label,role\n".to_owned() + &lines.collect::<String>(),
    )
    .unwrap();
    let files = ["--embeddings", shown(&vectors), "--labels", shown(&list)];
    let report = json(&[&files[..], &["--far", "0.005"]].concat());
    let groups = report["groups"].as_array().unwrap();
    assert_eq!(groups.len(), 3, "{report}");
    let found = &report["of_known_queries"];
    assert_eq!(found["precision"]["estimate"], 1.0);
    assert!(
        0.7 < found["recall"]["estimate"].as_f64().unwrap(),
        "{report}"
    );
    assert!(
        report["measured"]["groups"].as_u64().unwrap() > 10,
        "{report}"
    );
    refused(
        &[&files[..], &["--far", "0.0001"]].concat(),
        5,
        "pairs of two labels",
    );
    refused(&files[..2], 65, "column");
}

#[test]
fn what_cannot_be_grouped_is_refused_by_name() {
    let folder = TempDir::new().unwrap();
    let bare = folder.path().join("bare");
    let gallery = photos().join("gallery.csv");
    let (images, by) = (shown(&gallery), model());
    let built = run(&[
        "build",
        shown(&bare),
        "--images",
        images,
        "--model",
        shown(&by),
    ]);
    assert!(built.status.success());
    let picture = strangers()[0].1.clone();
    let of_one = |deployment: &Path, code, words: &str| {
        let arguments = [shown(deployment), "--images", shown(&picture)];
        refused(&arguments, code, words);
    };
    of_one(&bare, 66, "no operating point decides here");
    of_one(sample(), 5, "a group takes 3");
    refused(&[shown(sample())], 66, "journal");
    refused(&[shown(sample()), "--far", "1.5"], 2, "below 1");
    refused(&["--labels", "x.csv"], 2, "--embeddings");
    refused(&[], 2, "DEPLOYMENT");
}
