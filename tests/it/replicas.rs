//! Several servers of one snapshot: which state decides, who takes writes, and who recorded a decision.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use tempfile::TempDir;
use tonic::transport::Channel;
use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::common::{Running, Served, copy_folder, matchpoint, run, text};
use matchpoint_client::proto::calibration_service_client::CalibrationServiceClient;
use matchpoint_client::proto::gallery_service_client::GalleryServiceClient;
use matchpoint_client::proto::monitoring_service_client::MonitoringServiceClient;
use matchpoint_client::proto::operating_point_service_client::OperatingPointServiceClient;
use matchpoint_client::proto::retrieval_service_client::RetrievalServiceClient;
use matchpoint_client::proto::server_service_client::ServerServiceClient;
use matchpoint_client::proto::{
    ActivateOperatingPointRequest, CalibrateRequest, CalibrationSettings, DeleteItemRequest,
    DeploymentInfo, GetDecisionRequest, GetDecisionResponse, GetServerInfoRequest, Reference,
    RollBackOperatingPointRequest, SearchRequest, SearchResponse, UpsertItemRequest, Vector,
    VerifyRequest, calibrate_request, calibration_settings, reference, search_request,
    upsert_item_request, verify_request,
};

const LABELS: usize = 60;
const COMPONENTS: usize = 16;

/// A vector of a label: the same for the same numbers, and near to the label's others.
fn vector(label: usize, number: usize) -> Vec<f32> {
    let wave = |axis: usize| {
        let own = (label * 31 + axis * 17) % 97;
        let noise = (label * 7 + number * 13 + axis * 29) % 23;
        f32::from(u8::try_from(own).unwrap()) - 48.0
            + f32::from(u8::try_from(noise).unwrap()) / 10.0
    };
    (0..COMPONENTS).map(wave).collect()
}

/// A deployment of vectors that are made elsewhere, with two operating points; made once for each test process.
fn shop() -> &'static Path {
    static SHOP: OnceLock<TempDir> = OnceLock::new();
    let folder = SHOP.get_or_init(|| {
        let folder = TempDir::new().unwrap();
        let (mut bytes, mut list) = (Vec::new(), String::from("id,label\n"));
        for label in 0..LABELS {
            for number in 0..3 {
                bytes.extend(u32::try_from(COMPONENTS).unwrap().to_le_bytes());
                for value in vector(label, number) {
                    bytes.extend(value.to_le_bytes());
                }
                list.push_str(&format!("{label}/{number},label {label}\n"));
            }
        }
        let (vectors, labels) = (folder.path().join("v.fvecs"), folder.path().join("v.csv"));
        fs::write(&vectors, bytes).unwrap();
        fs::write(&labels, list).unwrap();
        let at = folder.path().join("shop");
        let list = |command: &[&str]| {
            let done = run(command);
            assert!(done.status.success(), "{}", text(&done.stderr));
        };
        list(&[
            "build",
            path(&at),
            "--embeddings",
            path(&vectors),
            "--labels",
            path(&labels),
            "--vectors-of",
            "x",
        ]);
        for far in ["0.2", "0.1"] {
            list(&[
                "calibrate",
                path(&at),
                "--gallery-as-queries",
                "--target-far",
                far,
            ]);
        }
        folder
    });
    Box::leak(folder.path().join("shop").into_boxed_path())
}

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
