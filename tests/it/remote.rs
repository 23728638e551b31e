//! The commands that ask a running server in place of a folder, as an operator types them.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Output};

use crate::common::{Served, copy_of_sample, matchpoint, photos, run, text};
use serde_json::Value;

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|cause| panic!("{cause}: {}{}", text(&output.stdout), text(&output.stderr)))
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Runs a command that asks a server, and is to end so.
fn ask(served: &Served, words: &[&str], ends_with: i32) -> Output {
    let done = run(&[words, &["--server", &served.address]].concat());
    let (said, why) = (text(&done.stdout), text(&done.stderr));
    assert_eq!(
        done.status.code(),
        Some(ends_with),
        "{words:?}: {said}{why}"
    );
    done
}

#[test]
#[expect(clippy::too_many_lines, reason = "one story")]
fn a_deployment_is_calibrated_and_its_points_are_chosen_while_it_is_served() {
    let (_folder, deployment) = copy_of_sample();
    let served = Served::start(&deployment, &[], &[]);
    let queries = photos().join("calibrate.csv");
    let calibrate = |more: &[&str], ends_with| {
        let words = ["calibrate", "sample", "--queries", path(&queries), "--json"];
        json(&ask(&served, &[&words, more].concat(), ends_with))
    };
    let list = || json(&ask(&served, &["points", "list", "sample", "--json"], 0));
    let strict = list()["active"].as_str().unwrap().to_owned();

    // A refusal says what it takes, and a dry run changes nothing.
    let refused = calibrate(&["--target-far", "0.001"], 5);
    assert_eq!(refused["outcome"], "refused");
    assert_eq!(refused["refusal"]["reason"], "CALIBRATION_UNDERPOWERED");
    assert_eq!(refused["refusal"]["needed"], 2995);
    assert_eq!(refused["refusal"]["independent_trials"], 24);
    let dry = calibrate(&["--target-far", "0.25", "--dry-run"], 0);
    assert_eq!(
        (&dry["active"], &dry["point"]["certified"]),
        (&false.into(), &true.into())
    );
    assert_eq!(list()["operating_points"].as_array().unwrap().len(), 1);

    let found = calibrate(&["--target-far", "0.25"], 0);
    let loose = found["operating_point"].as_str().unwrap();
    assert_eq!(
        (&found["outcome"], &found["queries"]["stage"]),
        (&"certified".into(), &"DONE".into())
    );
    assert_eq!(found["queries"]["queries_done"], 180);
    // The same as the command finds that opens the folder.
    let words = ["calibrate", path(&deployment), "--queries", path(&queries)];
    let here = run(&[&words[..], &["--target-far", "0.25", "--dry-run", "--json"]].concat());
    let here = json(&here);
    let threshold = |point: &Value| format!("{:.6}", point["threshold"].as_f64().unwrap());
    assert_eq!(threshold(&here["content"]), threshold(&found["point"]));
    assert_eq!(list()["active"], loose);

    // Every word on points, by the beginnings of their ids.
    let begins = |id: &str| id.strip_prefix("op-").unwrap()[..6].to_owned();
    let (from, to) = (begins(&strict), begins(loose));
    let compared = json(&ask(
        &served,
        &["points", "compare", "sample", &from, &to, "--json"],
        0,
    ));
    let flips = compared["flips"].as_array().unwrap();
    assert!(
        !flips.is_empty() && flips.iter().all(|flip| flip["accepted"] == true),
        "{compared}"
    );
    let both = ask(&served, &["points", "show", "sample", "op-"], 2);
    let why = text(&both.stderr);
    assert!(why.contains(&strict) && why.contains(loose), "{why}");
    ask(&served, &["points", "activate", "sample", &from], 0);
    let shown = text(&ask(&served, &["points", "show", "sample"], 0).stdout);
    let decides = format!("operating point {strict} (decides now)");
    assert!(
        shown.contains(&decides) && shown.contains("FAR <= 10 %"),
        "{shown}"
    );
    let back = json(&ask(
        &served,
        &["points", "rollback", "sample", "--json"],
        0,
    ));
    assert_eq!(
        (&back["active"], &back["previous"]),
        (&loose.into(), &strict.as_str().into())
    );
    let shown = text(&ask(&served, &["inspect"], 0).stdout);
    assert!(
        shown.contains("36 items, 36 labels") && shown.contains(loose),
        "{shown}"
    );

    // What is for a folder is refused, and not ignored.
    for flags in [["--report", "r.html"], ["--workers", "2"]] {
        let words = [
            "calibrate",
            "sample",
            "--queries",
            path(&queries),
            "--target-far",
            "0.25",
        ];
        ask(&served, &[&words[..], &flags].concat(), 2);
    }
    ask(&served, &["points", "list", "another"], 66);
}

#[test]
fn a_snapshot_is_fetched_from_a_server_and_served_again_under_another_name() {
    let (root, deployment) = copy_of_sample();
    let (data, file) = (root.path().join("data"), root.path().join("a.snapshot"));
    let served = Served::start(&deployment, &[], &["--data-dir", path(&data)]);
    let taken = json(&ask(
        &served,
        &["snapshot", "sample", path(&file), "--json"],
        0,
    ));
    let checked = json(&run(&["restore", path(&file), "--check", "--json"]));
    assert_eq!(taken["sha256"], checked["sha256"]);
    // Nothing is written over, and nothing stays there.
    ask(&served, &["snapshot", "sample", path(&file)], 2);
    let kept = || fs::read_dir(data.join("snapshots")).unwrap().count();
    assert_eq!(kept(), 0);

    let restored = json(&ask(
        &served,
        &["restore", path(&file), "again", "--json"],
        0,
    ));
    assert_eq!(
        (&restored["deployment"], &restored["items"]),
        (&"again".into(), &36.into())
    );
    ask(&served, &["restore", path(&file), "again"], 2);
    assert_eq!(kept(), 0);
    let one = |name| json(&ask(&served, &["inspect", name, "--json"], 0));
    assert_eq!(
        one("again")["operating_points"],
        one("sample")["operating_points"]
    );
    // With several, a name is needed.
    let why = text(&ask(&served, &["inspect"], 2).stderr);
    assert!(why.contains("again, sample"), "{why}");
    // A damaged one is not sent.
    let mut bytes = fs::read(&file).unwrap();
    let middle = bytes.len() / 2;
    bytes
        .iter_mut()
        .skip(middle)
        .take(1)
        .for_each(|byte| *byte ^= 4);
    fs::write(&file, bytes).unwrap();
    ask(&served, &["restore", path(&file), "third"], 65);
}

#[test]
fn status_shows_what_the_scopes_of_a_key_allow_and_names_the_rest() {
    let (root, deployment) = copy_of_sample();
    let keys = root.path().join("keys.json");
    let key = |scopes: &str| {
        let words = ["keys", "new", "operator", "--scopes", scopes, "--json"];
        let made = json(&run(&[&words[..], &["--keys-file", path(&keys)]].concat()));
        let file = root.path().join(scopes);
        fs::write(&file, made["key"].as_str().unwrap()).unwrap();
        file
    };
    let (admin, both) = (key("admin"), key("calibrate,label"));
    let served = Served::start(&deployment, &[], &["--keys-file", path(&keys)]);
    let status = |key: &Path, more: &[&str]| {
        let words = [
            "status",
            "--server",
            &served.address,
            "--api-key-file",
            path(key),
        ];
        let done = matchpoint(&[&words[..], more].concat()).output().unwrap();
        assert_eq!(done.status.code(), Some(0), "{}", text(&done.stderr));
        done
    };
    let seen = text(&status(&admin, &[]).stdout);
    for words in [
        "promises FAR <= 10 % at 90 % confidence",
        "36 items of 36 labels",
        "not allowed to see the rest, which takes a key with: calibrate, label",
    ] {
        assert!(seen.contains(words), "no {words:?} in {seen}");
    }
    let missing =
        |key: &Path| json(&status(key, &["--json"]))["deployments"][0]["scopes_missing"].clone();
    assert_eq!(missing(&admin), serde_json::json!(["calibrate", "label"]));
    assert_eq!(missing(&both), serde_json::json!([]));
}

#[test]
fn completions_and_manual_pages_are_written_for_every_command() {
    for shell in ["bash", "zsh", "fish"] {
        let script = run(&["completions", shell]);
        assert!(script.status.success(), "{}", text(&script.stderr));
        assert!(text(&script.stdout).contains("calibrate"), "{shell}");
    }
    let root = tempfile::TempDir::new().unwrap();
    let folder = root.path().join("man1");
    assert!(run(&["man", path(&folder)]).status.success());
    let page = |name: &str| fs::read_to_string(folder.join(name)).unwrap();
    assert!(page("matchpoint.1").contains("matchpoint\\-calibrate(1)"));
    assert!(page("matchpoint-points-activate.1").contains("matchpoint points activate shop"));
}

#[test]
fn a_server_listens_on_a_socket_of_the_file_system_and_on_localhost() {
    let (_folder, deployment) = copy_of_sample();
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("shop.sock");
    let server = format!("unix:{}", path(&socket));
    let keys = folder.path().join("keys.json");
    let keys = ["--keys-file", path(&keys)];
    let made = run(&[
        &["keys", "new", "probe", "--scopes", "all", "--json"],
        &keys[..],
    ]
    .concat());
    let key = folder.path().join("key");
    fs::write(&key, json(&made)["key"].as_str().unwrap()).unwrap();

    // What a server leaves that was killed.
    drop(UnixListener::bind(&socket).unwrap());
    let listen = [("MATCHPOINT_LISTEN", server.as_str())];
    let mut served = Served::start(&deployment, &listen, &keys);
    assert_eq!(served.address, server);
    let mode = fs::metadata(&socket).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o660);
    ask(&served, &["health"], 0);
    // A key stays on this machine.
    let shown = ["inspect", "sample", "--json", "--api-key-file", path(&key)];
    assert_eq!(json(&ask(&served, &shown, 0))["name"], "sample");

    // Another server does not take its place.
    let words = [
        "serve",
        "--deployments",
        path(&deployment),
        "--read-only",
        "true",
    ];
    let words = [
        &words[..],
        &["--metrics-listen", "off", "--listen", &server],
    ]
    .concat();
    let second = run(&words);
    assert_eq!(second.status.code(), Some(69), "{}", text(&second.stderr));
    let why = text(&second.stderr);
    assert!(why.contains(&format!("cannot listen on {server}")), "{why}");
    ask(&served, &["health"], 0);
    let process = served.child.id().to_string();
    assert!(
        Command::new("kill")
            .arg(process)
            .status()
            .unwrap()
            .success()
    );
    assert!(served.child.wait().unwrap().success());
    assert!(!socket.exists());

    // Nor is a file taken away that is none of a server's.
    fs::write(&socket, "mine").unwrap();
    let why = text(&run(&words).stderr);
    assert!(
        why.contains("there is a file, and it is no socket"),
        "{why}"
    );
    assert_eq!(fs::read_to_string(&socket).unwrap(), "mine");

    let local = [("MATCHPOINT_LISTEN", "localhost:0")];
    let served = Served::start(&deployment, &local, &[]);
    ask(&served, &["health"], 0);
}
