//! Several servers of one snapshot: which state decides, who takes writes, and who recorded a decision.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "a test fails by panicking, and commands run beside the servers of its process"
)]

use std::collections::BTreeMap;
use std::error::Error as _;
use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tonic::transport::Channel;
use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::common::shop::{LABELS, build_shop, shop, vector};
use crate::common::{Running, Served, config, copy_folder, copy_of_sample, matchpoint, run, text};
use matchpoint::config::ListenWhen;
use matchpoint::server;
use matchpoint_client::proto::calibration_service_client::CalibrationServiceClient;
use matchpoint_client::proto::gallery_service_client::GalleryServiceClient;
use matchpoint_client::proto::monitoring_service_client::MonitoringServiceClient;
use matchpoint_client::proto::operating_point_service_client::OperatingPointServiceClient;
use matchpoint_client::proto::retrieval_service_client::RetrievalServiceClient;
use matchpoint_client::proto::server_service_client::ServerServiceClient;
use matchpoint_client::proto::{
    ActivateOperatingPointRequest, CalibrateRequest, CalibrationSettings, DeleteItemRequest,
    DeploymentInfo, GetDecisionRequest, GetDecisionResponse, GetServerInfoRequest, Reference,
    ReloadDeploymentRequest, ReloadStep, RollBackOperatingPointRequest, SearchRequest,
    SearchResponse, UpsertItemRequest, Vector, VerifyRequest, calibrate_request,
    calibration_settings, reference, search_request, upsert_item_request, verify_request,
};
use matchpoint_gallery::params::IndexParams;
use matchpoint_gallery::{Access, Gallery};

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Copies of the shop by these names.
fn copies<const COUNT: usize>(names: [&str; COUNT]) -> (TempDir, [PathBuf; COUNT]) {
    let root = TempDir::new().unwrap();
    let made = names.map(|name| root.path().join(name).join("shop"));
    for at in &made {
        copy_folder(shop(), at);
    }
    (root, made)
}

async fn info(running: &Running) -> DeploymentInfo {
    info_over(running.channel.clone()).await
}

async fn info_over(channel: Channel) -> DeploymentInfo {
    let mut server = ServerServiceClient::new(channel);
    let answer = server.get_server_info(GetServerInfoRequest {}).await;
    answer.unwrap().into_inner().deployments.remove(0)
}

fn query(label: usize, expect_state: &str) -> SearchRequest {
    SearchRequest {
        query: Some(search_request::Query::Embedding(Vector {
            values: vector(label, 5),
        })),
        expect_state: expect_state.to_owned(),
        ..SearchRequest::default()
    }
}

async fn search(running: &Running, request: SearchRequest) -> Result<SearchResponse, Status> {
    search_over(running.channel.clone(), request).await
}

async fn search_over(channel: Channel, request: SearchRequest) -> Result<SearchResponse, Status> {
    let mut retrieval = RetrievalServiceClient::new(channel);
    Ok(retrieval.search(request).await?.into_inner())
}

async fn upsert(running: &Running, id: &str, label: usize) -> Result<u64, Status> {
    upsert_over(running.channel.clone(), id, label).await
}

async fn upsert_over(channel: Channel, id: &str, label: usize) -> Result<u64, Status> {
    let request = UpsertItemRequest {
        id: id.to_owned(),
        label: format!("label {label}"),
        source: Some(upsert_item_request::Source::Embedding(Vector {
            values: vector(label, 9),
        })),
        ..UpsertItemRequest::default()
    };
    let mut gallery = GalleryServiceClient::new(channel);
    Ok(gallery.upsert_item(request).await?.into_inner().generation)
}

async fn delete(running: &Running, id: &str) -> Result<(), Status> {
    delete_over(running.channel.clone(), id).await
}

async fn delete_over(channel: Channel, id: &str) -> Result<(), Status> {
    let request = DeleteItemRequest {
        id: id.to_owned(),
        ..DeleteItemRequest::default()
    };
    let mut gallery = GalleryServiceClient::new(channel);
    gallery.delete_item(request).await.map(drop)
}

async fn decision(channel: Channel, id: &str) -> Result<GetDecisionResponse, Status> {
    let asked = GetDecisionRequest {
        decision_id: id.to_owned(),
        ..GetDecisionRequest::default()
    };
    let mut monitoring = MonitoringServiceClient::new(channel);
    Ok(monitoring.get_decision(asked).await?.into_inner())
}

fn reason(status: &Status) -> String {
    let info = status.get_details_error_info();
    info.map(|info| info.reason).unwrap_or_default()
}

#[tokio::test]
async fn copies_that_took_other_writes_are_of_other_states() {
    let (_root, [first, second]) = copies(["first", "second"]);
    let (first, second) = (
        Running::start(&first, &[]).await,
        Running::start(&second, &[]).await,
    );
    let before = info(&first).await.state;
    assert_eq!(before.len(), 32);
    assert_eq!(info(&second).await.state, before);
    assert_eq!(
        search(&second, query(3, &before)).await.unwrap().state,
        before
    );

    let generation = upsert(&first, "new", 3).await.unwrap();
    assert_eq!(upsert(&second, "new", 4).await.unwrap(), generation);
    let (one, other) = (
        search(&first, query(3, "")).await.unwrap(),
        search(&second, query(3, "")).await.unwrap(),
    );
    // What they answered before they had states.
    let told = |answer: &SearchResponse| {
        let basis = answer.basis.as_ref().unwrap();
        (
            answer.generation,
            answer.gallery_items,
            basis.operating_point_id.clone(),
        )
    };
    assert_eq!(told(&one), told(&other));
    assert!(one.state != other.state && one.state != before && other.state != before);

    let refused = search(&second, query(3, &one.state)).await.unwrap_err();
    assert_eq!(
        (refused.code(), reason(&refused).as_str()),
        (Code::FailedPrecondition, "STATE_MISMATCH")
    );
    let names_both = [&one.state, &other.state].map(|state| refused.message().contains(state));
    assert_eq!(names_both, [true, true], "{refused}");
    let no_state = search(&second, query(3, "abc")).await.unwrap_err();
    assert_eq!(no_state.code(), Code::InvalidArgument);

    // The same items once more.
    delete(&first, "new").await.unwrap();
    delete(&second, "new").await.unwrap();
    assert_eq!(info(&first).await.state, before);
    assert_eq!(search(&second, query(3, "")).await.unwrap().state, before);
    first.stop().await;
    second.stop().await;
}

#[tokio::test]
async fn the_state_is_of_the_operating_point_too_and_is_recorded() {
    let (_root, [folder]) = copies(["one"]);
    let running = Running::start(&folder, &[]).await;
    let before = info(&running).await;
    let mut points = OperatingPointServiceClient::new(running.channel.clone());
    points
        .roll_back_operating_point(RollBackOperatingPointRequest::default())
        .await
        .unwrap();
    let answer = search(&running, query(3, "")).await.unwrap();
    assert_ne!(answer.state, before.state);
    assert_eq!(info(&running).await.state, answer.state);

    let verify = |expect_state: &str| VerifyRequest {
        query: Some(verify_request::Query::Embedding(Vector {
            values: vector(3, 5),
        })),
        reference: Some(Reference {
            source: Some(reference::Source::ItemId("3/0".to_owned())),
        }),
        expect_state: expect_state.to_owned(),
        ..VerifyRequest::default()
    };
    let mut retrieval = RetrievalServiceClient::new(running.channel.clone());
    let refused = retrieval.verify(verify(&before.state)).await.unwrap_err();
    assert_eq!(reason(&refused), "STATE_MISMATCH");
    let verified = retrieval.verify(verify(&answer.state)).await.unwrap();
    assert_eq!(verified.into_inner().state, answer.state);

    let recorded = decision(running.channel.clone(), &answer.decision_id).await;
    let recorded = recorded.unwrap();
    assert_eq!(recorded.decision.unwrap().state, answer.state);
    // The id names the journal that it is in.
    assert!(answer.decision_id.ends_with(&before.journal));
    assert_eq!(before.journal.len(), 4);
    running.stop().await;
    let inspected = run(&["inspect", path(&folder), "--json"]);
    let inspected: serde_json::Value = serde_json::from_slice(&inspected.stdout).unwrap();
    assert_eq!(inspected["deployment"]["state"], answer.state.as_str());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_has_the_state_of_the_very_items_that_were_searched() {
    let (_root, [folder]) = copies(["one"]);
    let running = Running::start(&folder, &[]).await;
    let mut states: BTreeMap<u64, String> = BTreeMap::new();
    for round in 0..40 {
        let id = format!("new {round}");
        let (found, written, again) = tokio::join!(
            search(&running, query(3, "")),
            upsert(&running, &id, round % LABELS),
            search(&running, query(4, "")),
        );
        written.unwrap();
        for answer in [found.unwrap(), again.unwrap()] {
            let state = states
                .entry(answer.generation)
                .or_insert(answer.state.clone());
            assert_eq!(*state, answer.state);
        }
    }
    let unlike: std::collections::BTreeSet<&String> = states.values().collect();
    assert!(10 < unlike.len() && unlike.len() == states.len());
    running.stop().await;
}

#[tokio::test]
async fn a_restored_snapshot_is_of_the_state_of_its_source() {
    let (root, [folder]) = copies(["one"]);
    let archive = root.path().join("shop.snapshot");
    let taken = run(&["snapshot", path(&folder), path(&archive)]);
    assert!(taken.status.success(), "{}", text(&taken.stderr));
    let again = root.path().join("again/shop");
    let restored = run(&["restore", path(&archive), path(&again)]);
    assert!(restored.status.success(), "{}", text(&restored.stderr));
    let (source, copy) = (
        Running::start(&folder, &[]).await,
        Running::start(&again, &[]).await,
    );
    assert_eq!(info(&source).await.state, info(&copy).await.state);
    // But it records for itself.
    assert_ne!(info(&source).await.journal, info(&copy).await.journal);
    source.stop().await;
    copy.stop().await;
}

/// Takes the right to write below a folder, from root too, without capabilities.
fn set_writable(folder: &Path, writable: bool) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            set_writable(&path, writable);
        }
    }
    let mode = if writable { 0o755 } else { 0o555 };
    fs::set_permissions(folder, fs::Permissions::from_mode(mode)).unwrap();
}

/// Whatever would change items or operating points is refused by name.
async fn refuses_every_change(running: Channel, about: &DeploymentInfo) {
    let mut refused = Vec::new();
    refused.push(upsert_over(running.clone(), "new", 3).await.unwrap_err());
    refused.push(delete_over(running.clone(), "3/0").await.unwrap_err());
    let mut points = OperatingPointServiceClient::new(running.clone());
    let roll_back = RollBackOperatingPointRequest::default();
    refused.push(
        points
            .roll_back_operating_point(roll_back)
            .await
            .unwrap_err(),
    );
    let activate = ActivateOperatingPointRequest {
        id: about.operating_point_id.clone(),
        ..ActivateOperatingPointRequest::default()
    };
    refused.push(points.activate_operating_point(activate).await.unwrap_err());
    let settings = CalibrateRequest {
        part: Some(calibrate_request::Part::Settings(CalibrationSettings {
            target: Some(calibration_settings::Target::TargetFar(0.2)),
            gallery_as_queries: true,
            ..CalibrationSettings::default()
        })),
    };
    let mut calibration = CalibrationServiceClient::new(running);
    let queries = tokio_stream::iter([settings]);
    refused.push(calibration.calibrate(queries).await.unwrap_err());
    for status in refused {
        assert_eq!(
            (status.code(), reason(&status).as_str()),
            (Code::FailedPrecondition, "GALLERY_READ_ONLY"),
            "{status}"
        );
    }
}

#[tokio::test]
async fn a_read_only_server_needs_no_right_to_write_and_takes_no_change() {
    let (root, [folder]) = copies(["one"]);
    // Whoever may write has the lock, and two that may not are no matter.
    let writer = Running::start(&folder, &[]).await;
    let state = info(&writer).await.state;
    let journals = root.path().join("journals");
    let settings = |journal_dir: &str| {
        [
            ("MATCHPOINT_READ_ONLY", "true".to_owned()),
            ("MATCHPOINT_JOURNAL_DIR", journal_dir.to_owned()),
        ]
    };
    let beside = settings(path(&journals.join("beside")));
    let beside = beside.each_ref().map(|(key, value)| (*key, value.as_str()));
    let reader = Running::start(&folder, &beside).await;
    assert_eq!(info(&reader).await.state, state);
    reader.stop().await;
    writer.stop().await;

    set_writable(&folder, false);
    let elsewhere = settings(path(&journals));
    let elsewhere = elsewhere
        .each_ref()
        .map(|(key, value)| (*key, value.as_str()));
    let served = Served::start_confined(&folder, &elsewhere);
    let running = served.channel();
    let about = info_over(running.clone()).await;
    assert_eq!(
        (about.state.as_str(), about.read_only),
        (state.as_str(), true)
    );
    let answer = search_over(running.clone(), query(3, &state))
        .await
        .unwrap();
    let recorded = decision(running.clone(), &answer.decision_id)
        .await
        .unwrap();
    assert_eq!(recorded.decision.unwrap().state, state);

    refuses_every_change(running, &about).await;
    // A second one may not record in the same place.
    let second = matchpoint(&["serve", "--deployments", path(&folder)])
        .args(["--listen", "127.0.0.1:0", "--metrics-listen", "off"])
        .envs(elsewhere)
        .output()
        .unwrap();
    assert!(!second.status.success());
    let said = text(&second.stderr);
    assert!(said.contains("a journal_dir of its own"), "{said}");
    drop(served);
    set_writable(&folder, true);
}

#[tokio::test]
async fn a_copy_that_takes_writes_says_so_unless_it_is_said_to_be_the_only_one() {
    let (root, [folder]) = copies(["one"]);
    let archive = root.path().join("shop.snapshot");
    assert!(
        run(&["snapshot", path(&folder), path(&archive)])
            .status
            .success()
    );
    let again = root.path().join("again/shop");
    assert!(
        run(&["restore", path(&archive), path(&again)])
            .status
            .success()
    );
    let copy_of = async |folder: &Path, settings: &[(&str, &str)]| {
        let running = Running::start(folder, settings).await;
        let copy_of = info(&running).await.copy_of;
        running.stop().await;
        copy_of
    };
    assert_eq!(copy_of(&folder, &[]).await, "");
    assert_eq!(copy_of(&again, &[]).await.len(), 64);
    assert_eq!(
        copy_of(&again, &[("MATCHPOINT_ONLY_COPY", "true")]).await,
        ""
    );
    assert_eq!(
        copy_of(&again, &[("MATCHPOINT_READ_ONLY", "true")]).await,
        ""
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_decision_is_asked_for_at_the_server_whose_journal_its_id_names() {
    let (root, [first, second]) = copies(["first", "second"]);
    let sampled = [("MATCHPOINT_AUDIT_SAMPLING_RATES", "1,1,1,1,1,1")];
    let (first, second) = (
        Running::start(&first, &sampled).await,
        Running::start(&second, &sampled).await,
    );
    let one = search(&first, query(3, "")).await.unwrap().decision_id;
    let other = search(&second, query(4, "")).await.unwrap().decision_id;
    let refused = decision(first.channel.clone(), &other).await.unwrap_err();
    let details = refused.get_details_error_info().unwrap();
    assert_eq!(
        (refused.code(), details.reason.as_str()),
        (Code::NotFound, "WRONG_REPLICA")
    );
    assert_eq!(details.metadata["journal"], info(&second).await.journal);
    // What its own journal lacks is nowhere else.
    let mut nobodys = one.clone();
    nobodys.replace_range(0..1, "1");
    let own = decision(first.channel.clone(), &nobodys).await.unwrap_err();
    assert_eq!(reason(&own), "DECISION_NOT_FOUND");

    let servers = format!("http://{},http://{}", first.address, second.address);
    let audit = async |arguments: &[&str]| {
        let ended = beside(&[&["audit"], arguments, &["--servers", &servers]].concat()).await;
        assert!(ended.status.success(), "{}", text(&ended.stderr));
        text(&ended.stdout)
    };
    let listed = audit(&["list"]).await;
    // Newest first, whoever recorded it.
    let places = [&other, &one].map(|id| listed.find(id.as_str()).unwrap());
    assert!(places.is_sorted(), "{listed}");
    assert!(listed.contains("2 decisions wait"), "{listed}");
    // More is said to wait where more waits than is listed, of both together.
    let all = audit(&["list", "--limit", "2"]).await;
    assert!(all.contains("2 decisions wait"), "{all}");
    let newest = audit(&["list", "--limit", "1"]).await;
    assert!(newest.contains("newest 1; --limit lists more"), "{newest}");
    assert!(!newest.contains(&one), "{newest}");
    assert!(audit(&["show", &other]).await.contains(&other));
    let answers = root.path().join("answers.csv");
    let lines = format!("decision_id,truth,label\n{other},label,label 4\n{one},label,label 3\n");
    fs::write(&answers, lines).unwrap();
    let imported = audit(&["import", path(&answers)]).await;
    assert!(imported.contains("2 added"), "{imported}");
    assert!(audit(&["list"]).await.contains("no sampled decision waits"));

    // The one that did not record it says who did.
    let url = format!("http://{}", first.address);
    let elsewhere = beside(&["audit", "annotate", &other, "--unusable", "--server", &url]).await;
    let said = text(&elsewhere.stdout);
    let named = format!("names journal {}", info(&second).await.journal);
    assert!(said.contains(&named), "{said}");
    first.stop().await;
    second.stop().await;
}

#[tokio::test]
async fn a_server_that_listens_when_it_is_ready_takes_no_connection_before() {
    let (_root, [folder]) = copies(["one"]);
    let config = config(&folder, &[("MATCHPOINT_LISTEN_WHEN", "ready")]);
    let socket = server::bind(&config.listen).unwrap();
    let address = socket.local_addr().unwrap();
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let (begun, loading) = tokio::sync::oneshot::channel();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let load_from = config.clone();
    let serving = tokio::spawn(async move {
        assert_eq!(config.listen_when, ListenWhen::Ready);
        let load = move || {
            begun.send(()).unwrap();
            wait.recv().unwrap();
            server::load(&load_from)
        };
        let stopped = async { stopped.await.unwrap_or_default() };
        server::serve_when_ready(socket, &config, load, stopped).await
    });
    loading.await.unwrap();
    let early = TcpStream::connect(address).await.unwrap_err();
    assert_eq!(early.kind(), std::io::ErrorKind::ConnectionRefused);
    go.send(()).unwrap();
    let url = format!("http://{address}");
    let first = loop {
        let connected = Channel::from_shared(url.clone()).unwrap().connect().await;
        match connected {
            Ok(channel) => break search_over(channel, query(3, "")).await,
            Err(_refused) => tokio::task::yield_now().await,
        }
    };
    // The first that is let in is answered.
    first.unwrap();
    stop.send(()).unwrap();
    serving.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_server_restores_the_snapshot_whose_address_it_is_given_and_once() {
    let root = TempDir::new().unwrap();
    let archive = root.path().join("shop.snapshot");
    let address = format!("file://{}", archive.display());
    let taken = run(&["snapshot", path(shop()), &address]);
    assert!(taken.status.success(), "{}", text(&taken.stderr));
    let below = root.path().join("restored");
    let settings = [
        ("MATCHPOINT_RESTORE_DIR", path(&below)),
        ("MATCHPOINT_READ_ONLY", "true"),
    ];
    let named = format!("toys={address}");
    let mut states = Vec::new();
    for _start in 0..2 {
        let running = Running::start(Path::new(&named), &settings).await;
        let about = info(&running).await;
        assert_eq!(about.name, "toys");
        states.push(about.state);
        running.stop().await;
        assert_eq!(fs::read_dir(&below).unwrap().count(), 1);
    }
    assert_eq!(states[0], states[1]);
    // Another snapshot is another folder.
    let again = root.path().join("again");
    copy_folder(shop(), &again);
    let other = run(&["points", "rollback", path(&again)]);
    assert!(other.status.success(), "{}", text(&other.stderr));
    fs::remove_file(&archive).unwrap();
    assert!(run(&["snapshot", path(&again), &address]).status.success());
    let running = Running::start(Path::new(&named), &settings).await;
    assert_ne!(info(&running).await.state, states[0]);
    running.stop().await;
    assert_eq!(fs::read_dir(&below).unwrap().count(), 2);
}

#[test]
fn an_address_that_no_store_has_is_refused_and_never_shown_whole() {
    let refused = |arguments: &[&str], code: i32, says: &str| {
        let refused = run(arguments);
        let said = text(&refused.stderr);
        assert_eq!(refused.status.code(), Some(code), "{said}");
        assert!(said.contains(says) && !said.contains("hunter2"), "{said}");
    };
    let shop = path(shop());
    refused(
        &["restore", "s3://id:hunter2@b/x", "y"],
        2,
        "credentials come from the environment",
    );
    refused(&["restore", "ftp://b/x", "y"], 2, "s3://");
    refused(
        &["snapshot", shop, "s3://bucket"],
        2,
        "names no bucket and key",
    );
    if cfg!(not(feature = "object-stores")) {
        refused(
            &["snapshot", shop, "s3://bucket/x"],
            78,
            "--features object-stores",
        );
        refused(
            &["restore", "gs://bucket/x", "y"],
            78,
            "--features object-stores",
        );
    }
}

#[test]
fn a_snapshot_brings_its_index_and_no_other_ones() {
    let root = TempDir::new().unwrap();
    let at = |name: &str| root.path().join(name);
    let source = at("source");
    build_shop(&source, &["--graph-from-items", "100"]);
    let take = |archive: &str| {
        run(&[
            "snapshot",
            path(&source),
            path(&at(archive)),
            "--with-index",
            "--json",
        ])
    };
    assert!(take("whole").status.success());
    let restored = run(&["restore", path(&at("whole")), path(&at("copy")), "--json"]);
    assert!(restored.status.success(), "{}", text(&restored.stderr));
    let restored: serde_json::Value = serde_json::from_slice(&restored.stdout).unwrap();
    assert_eq!(restored["index"], "whole");
    let index = |folder: &str| fs::read(at(folder).join("items.graph"));
    assert_eq!(index("copy").unwrap(), index("source").unwrap());
    let again = run(&["restore", path(&at("whole")), path(&at("copy"))]);
    assert!(
        text(&again.stderr).contains("is not empty"),
        "{}",
        text(&again.stderr)
    );
    let again = run(&[
        "restore",
        "--if-absent",
        path(&at("whole")),
        path(&at("copy")),
    ]);
    assert!(
        text(&again.stdout).contains("nothing was done"),
        "{}",
        text(&again.stderr)
    );
    // Without being asked for, it stays where it is.
    assert!(
        run(&["snapshot", path(&source), path(&at("items"))])
            .status
            .success()
    );
    assert!(
        run(&["restore", path(&at("items")), path(&at("built"))])
            .status
            .success()
    );
    assert!(index("built").is_err());

    // A damaged one is not packed.
    let mut damaged = index("source").unwrap();
    let last = damaged.len() - 100;
    damaged[last] ^= 1;
    fs::write(source.join("items.graph"), damaged).unwrap();
    let refused = take("damaged");
    assert!(!refused.status.success() && !at("damaged").exists());
    let said = text(&refused.stderr);
    assert!(said.contains("cannot be packed"), "{said}");
}

/// Runs a command beside the servers of this process.
async fn beside(arguments: &[&str]) -> std::process::Output {
    let mut command = matchpoint(arguments);
    let ended = tokio::task::spawn_blocking(move || command.output().unwrap());
    ended.await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn of_several_deployments_replicas_are_asked_for_the_one_that_is_named() {
    let ((_one, first), (_two, second)) = (copy_of_sample(), copy_of_sample());
    let both = format!("shop={},other={}", first.display(), second.display());
    let running = Running::start(Path::new(&both), &[]).await;
    let url = format!("http://{}", running.address);
    let list = ["audit", "list", "--servers", &url];
    let refused = beside(&list).await;
    let said = text(&refused.stderr);
    assert_eq!(refused.status.code(), Some(2), "{said}");
    assert!(
        said.contains("name one: other, shop") && said.contains(&url),
        "{said}"
    );
    let named = beside(&[&list[..], &["--deployment", "other"]].concat()).await;
    assert!(named.status.success(), "{}", text(&named.stderr));
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_are_switched_together_or_not_at_all() {
    let (root, [first, second]) = copies(["first", "second"]);
    let writer = Running::start(&second, &[]).await;
    upsert(&writer, "new", 3).await.unwrap();
    let after = info(&writer).await.state;
    writer.stop().await;
    let link = root.path().join("shop");
    symlink(&first, &link).unwrap();
    let read_only = [("MATCHPOINT_READ_ONLY", "true")];
    let servers = [
        Running::start(&link, &read_only).await,
        Running::start(&link, &read_only).await,
        Running::start(&link, &read_only).await,
        // This one's path does not lead where the link does.
        Running::start(&first, &read_only).await,
    ];
    let urls = servers
        .each_ref()
        .map(|one| format!("http://{}", one.address));
    let states = async || {
        let mut states = Vec::new();
        for one in &servers {
            states.push(info(one).await.state);
        }
        states
    };
    let before = states().await;
    let to = ["switch", path(&link), path(&second), "--servers"];
    let refused = beside(&[&to[..], &[&urls.join(","), "--anyway"]].concat()).await;
    let said = text(&refused.stderr);
    assert!(!refused.status.success());
    assert!(
        said.contains("nothing was changed") && said.contains(&urls[3]),
        "{said}"
    );
    assert_eq!(states().await, before);
    assert_eq!(fs::read_link(&link).unwrap(), first.canonicalize().unwrap());
    // What the others had prepared is given up.
    let mut one = ServerServiceClient::new(servers[0].channel.clone());
    let serve = ReloadDeploymentRequest {
        step: ReloadStep::ServePrepared.into(),
        prepared_state: after.clone(),
        ..ReloadDeploymentRequest::default()
    };
    let unprepared = one.reload_deployment(serve).await.unwrap_err();
    assert_eq!(reason(&unprepared), "NOT_PREPARED");

    let three = urls[..3].join(",");
    // What is new there may have been deleted here.
    let refused = beside(&[&to[..], &[&three]].concat()).await;
    let said = text(&refused.stderr);
    assert!(said.contains("(new)") && said.contains("--prune"), "{said}");
    assert_eq!(states().await, before);
    let done = beside(&[&to[..], &[&three, "--json", "--anyway"]].concat()).await;
    assert!(done.status.success(), "{}", text(&done.stderr));
    let done: serde_json::Value = serde_json::from_slice(&done.stdout).unwrap();
    assert_eq!(done["state"], after.as_str());
    let [now @ .., other] = &states().await[..] else {
        unreachable!()
    };
    assert!(now.iter().all(|state| *state == after) && *other == before[3]);
    let back = beside(&["switch", path(&link), "--back", "--servers", &three]).await;
    assert!(back.status.success(), "{}", text(&back.stderr));
    assert_eq!(states().await, before);
    for one in servers {
        one.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_is_switched_back_while_what_it_served_is_still_being_closed() {
    let (root, folders) = copies(["first", "second"]);
    let rolled_back = run(&["points", "rollback", path(&folders[1])]);
    assert!(rolled_back.status.success());
    let link = root.path().join("shop");
    symlink(&folders[0], &link).unwrap();
    let journals = root.path().join("journals");
    let settings = [
        ("MATCHPOINT_READ_ONLY", "true"),
        ("MATCHPOINT_JOURNAL_DIR", path(&journals)),
    ];
    let running = Running::start(&link, &settings).await;
    let mut server = ServerServiceClient::new(running.channel.clone());
    for round in 1..10 {
        fs::remove_file(&link).unwrap();
        symlink(&folders[round % 2], &link).unwrap();
        let reload = ReloadDeploymentRequest {
            allow_undecided: true,
            ..ReloadDeploymentRequest::default()
        };
        server.reload_deployment(reload).await.unwrap();
    }
    running.stop().await;
}

/// A way to a server that can be cut: what is sent over it is then lost without a word, as where a network fails.
struct Cable {
    address: SocketAddr,
    is_cut: Arc<AtomicBool>,
}

impl Cable {
    async fn to(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let is_cut = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&is_cut);
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let far = TcpStream::connect(server).await.unwrap();
                let (near, far) = (near.into_split(), far.into_split());
                tokio::spawn(carry(near.0, far.1, Arc::clone(&seen)));
                tokio::spawn(carry(far.0, near.1, Arc::clone(&seen)));
            }
        });
        Self { address, is_cut }
    }
}

/// Carries bytes on, and loses them while the cable is cut.
async fn carry(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, is_cut: Arc<AtomicBool>) {
    let mut bytes = vec![0; 16 << 10];
    while let Ok(count @ 1..) = from.read(&mut bytes).await {
        if !is_cut.load(Ordering::Relaxed) && to.write_all(&bytes[..count]).await.is_err() {
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_switched_while_one_of_the_servers_is_cut_off() {
    let (root, [first, second]) = copies(["first", "second"]);
    let rolled_back = run(&["points", "rollback", path(&second)]);
    assert!(rolled_back.status.success());
    let link = root.path().join("shop");
    symlink(&first, &link).unwrap();
    let read_only = [("MATCHPOINT_READ_ONLY", "true")];
    let servers = [
        Running::start(&link, &read_only).await,
        Running::start(&link, &read_only).await,
    ];
    let before = info(&servers[0]).await.state;
    let cable = Cable::to(servers[1].address).await;
    cable.is_cut.store(true, Ordering::Relaxed);
    let cut_off = format!("http://{}", cable.address);
    let both = format!("http://{},{cut_off}", servers[0].address);
    let switch = ["switch", path(&link), path(&second), "--servers", &both];
    let begun = Instant::now();
    let refused = beside(&switch).await;
    let said = text(&refused.stderr);
    assert_eq!(refused.status.code(), Some(69), "{said}");
    assert!(
        said.contains("nothing was changed") && said.contains(&cut_off),
        "{said}"
    );
    assert!(
        begun.elapsed() < Duration::from_secs(60),
        "{:?}",
        begun.elapsed()
    );
    assert_eq!(fs::read_link(&link).unwrap(), first.canonicalize().unwrap());
    for server in &servers {
        assert_eq!(info(server).await.state, before);
    }

    cable.is_cut.store(false, Ordering::Relaxed);
    let done = beside(&switch).await;
    assert!(done.status.success(), "{}", text(&done.stderr));
    for server in servers {
        assert_ne!(info(&server).await.state, before);
        server.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_only_server_says_that_its_folder_has_changed_and_is_reloaded() {
    let (root, folder) = copy_of_sample();
    let journals = root.path().join("journals");
    let settings = [
        ("MATCHPOINT_READ_ONLY", "true"),
        ("MATCHPOINT_JOURNAL_DIR", path(&journals)),
    ];
    let reader = Running::start(&folder, &settings).await;
    let url = format!("http://{}", reader.address);
    let before = info(&reader).await;
    assert!(before.certified && before.far_bound.is_some() && !before.folder_changed);

    // Another process removes somebody.
    let items = folder.join("items.db");
    let gallery = Gallery::open(&items, Access::ReadWrite, IndexParams::default()).unwrap();
    let id = gallery.list(None, 1)[0].id.clone();
    assert_eq!(gallery.delete(std::slice::from_ref(&id)).unwrap(), [true]);
    drop(gallery);
    let begun = Instant::now();
    let stale = loop {
        let now = info(&reader).await;
        if now.folder_changed {
            break now;
        }
        assert!(begun.elapsed() < Duration::from_secs(30));
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    // What was opened decides, and is promised no more.
    assert_eq!(stale.state, before.state);
    assert!(!stale.certified && stale.far_bound.is_none());
    let status = beside(&["status", "--server", &url]).await;
    assert_eq!(status.status.code(), Some(5));
    let said = text(&status.stdout).replace('\n', " ");
    assert!(said.contains("the folder has changed"), "{said}");

    let reloaded = beside(&["switch", "--servers", &url]).await;
    assert!(reloaded.status.success(), "{}", text(&reloaded.stderr));
    let now = info(&reader).await;
    assert!(!now.folder_changed && now.state != before.state);
    assert_eq!(now.gallery_items + 1, before.gallery_items);
    // It records as before; again and again.
    assert!(!now.journal.is_empty());
    let reloaded = beside(&["switch", "--servers", &url]).await;
    assert!(reloaded.status.success(), "{}", text(&reloaded.stderr));
    reader.stop().await;
}

/// A replica as a process of its own, at one address whenever it is started.
struct Replica {
    folder: PathBuf,
    address: String,
    journal_dir: PathBuf,
    served: Option<Served>,
}

impl Replica {
    fn restored(archive: &Path, root: &Path, number: usize) -> Self {
        let folder = root.join(format!("replica-{number}/shop"));
        let restored = run(&["restore", path(archive), path(&folder)]);
        assert!(restored.status.success(), "{}", text(&restored.stderr));
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let mut replica = Self {
            folder,
            address: free.local_addr().unwrap().to_string(),
            journal_dir: root.join(format!("journal-{number}")),
            served: None,
        };
        drop(free);
        replica.start();
        replica
    }

    fn start(&mut self) {
        let settings = [
            ("MATCHPOINT_LISTEN", self.address.as_str()),
            ("MATCHPOINT_LISTEN_WHEN", "ready"),
            ("MATCHPOINT_READ_ONLY", "true"),
            ("MATCHPOINT_JOURNAL_DIR", path(&self.journal_dir)),
        ];
        self.served = Some(Served::start(&self.folder, &settings, &[]));
    }
}

/// One answer, and of which server.
struct Answered {
    server: usize,
    answer: SearchResponse,
}

/// Asks one server after the other, and the next one where one does not answer, until it is to stop. Gives the calls that
/// failed in spite of that too.
async fn ask_in_turn(
    channels: [Channel; 3],
    first: usize,
    counts: Arc<watch::Sender<[usize; 3]>>,
    stop: Arc<AtomicBool>,
    state: String,
) -> (Vec<Answered>, usize) {
    let (mut answers, mut failed) = (Vec::new(), 0);
    let mut turn = first;
    // About as often as pictures are searched for.
    let mut pace = tokio::time::interval(Duration::from_millis(20));
    while !stop.load(Ordering::Relaxed) {
        pace.tick().await;
        turn += 1;
        let mut answered = false;
        // What a client's retry policy does, whose UNAVAILABLE this is.
        for attempt in 0..5 {
            let server = (turn + attempt) % 3;
            match search_over(channels[server].clone(), query(turn % LABELS, &state)).await {
                Ok(answer) => {
                    answers.push(Answered { server, answer });
                    counts.send_modify(|counts| counts[server] += 1);
                    answered = true;
                    break;
                }
                // A connection that broke is UNAVAILABLE to other clients, and tonic says what broke it.
                Err(status) => assert!(
                    status.code() == Code::Unavailable || status.source().is_some(),
                    "{status}"
                ),
            }
        }
        failed += usize::from(!answered);
    }
    (answers, failed)
}

#[tokio::test(flavor = "multi_thread")]
async fn three_replicas_answer_every_call_while_each_is_killed_and_started_again() {
    let root = TempDir::new().unwrap();
    let archive = root.path().join("shop.snapshot");
    assert!(
        run(&["snapshot", path(shop()), path(&archive)])
            .status
            .success()
    );
    let mut replicas = [0, 1, 2].map(|number| Replica::restored(&archive, root.path(), number));
    let channels = replicas.each_ref().map(|one| {
        let url = format!("http://{}", one.address);
        Channel::from_shared(url).unwrap().connect_lazy()
    });
    let state = info_over(channels[0].clone()).await.state;
    let counts = Arc::new(watch::Sender::new([0; 3]));
    let stop = Arc::new(AtomicBool::new(false));
    let askers: Vec<_> = (0..3)
        .map(|first| {
            let (counts, stop) = (Arc::clone(&counts), Arc::clone(&stop));
            tokio::spawn(ask_in_turn(
                channels.clone(),
                first,
                counts,
                stop,
                state.clone(),
            ))
        })
        .collect();
    let grows = async |server: usize| {
        let before = counts.borrow()[server];
        let more = |counts: &[usize; 3]| before + 20 <= counts[server];
        drop(counts.subscribe().wait_for(more).await.unwrap());
    };
    for (server, replica) in replicas.iter_mut().enumerate() {
        grows(server).await;
        replica.served.as_mut().unwrap().kill();
        grows((server + 1) % 3).await;
        replica.start();
        grows(server).await;
    }
    stop.store(true, Ordering::Relaxed);
    let mut answers = Vec::new();
    for asker in askers {
        let (answered, failed) = asker.await.unwrap();
        assert_eq!(failed, 0);
        answers.extend(answered);
    }
    let mut ids = std::collections::BTreeSet::new();
    for Answered { server, answer } in &answers {
        assert_eq!(answer.state, state);
        assert!(ids.insert(&answer.decision_id), "{}", answer.decision_id);
        for (number, channel) in channels.iter().enumerate() {
            let found = decision(channel.clone(), &answer.decision_id).await;
            match found {
                Ok(_) => assert_eq!(number, *server),
                Err(status) => {
                    assert_ne!(number, *server, "answered and not recorded: {status}");
                    assert_eq!(reason(&status), "WRONG_REPLICA");
                }
            }
        }
    }
    assert!(180 <= answers.len(), "{}", answers.len());
}

#[test]
fn a_server_does_not_start_without_its_store_and_repeats_no_password() {
    let (_root, [shop]) = copies(["shop"]);
    for (store, code, part) in [
        ("redis://me:secret@127.0.0.1:1/shop", 78, "postgres://USER"),
        (
            "postgres://me:secret@127.0.0.1:1/shop",
            69,
            "the store 127.0.0.1:1/shop did not answer",
        ),
    ] {
        let serve = ["serve", "--deployments", path(&shop), "--store", store];
        let ended = run(&[
            &serve[..],
            &["--listen=127.0.0.1:0", "--metrics-listen=off"],
        ]
        .concat());
        let said = text(&ended.stderr);
        assert_eq!(ended.status.code(), Some(code), "{said}");
        assert!(said.contains(part) && !said.contains("secret"), "{said}");
    }
}
