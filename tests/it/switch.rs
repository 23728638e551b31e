//! Another model, gallery and operating point in place of what is served, while it is asked.

#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test fails by panicking, and commands run beside the server of its process"
)]

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::common::shop::{LABELS, shop, vector};
use crate::common::{
    Running, config, copy_folder, copy_of_sample, in_8_bits, matchpoint, model, photos, run, text,
};
use matchpoint::deployment::Models;
use matchpoint_client::proto::calibration_service_client::CalibrationServiceClient;
use matchpoint_client::proto::gallery_service_client::GalleryServiceClient;
use matchpoint_client::proto::longrunning::operation;
use matchpoint_client::proto::retrieval_service_client::RetrievalServiceClient;
use matchpoint_client::proto::server_service_client::ServerServiceClient;
use matchpoint_client::proto::{
    CalibrateRequest, CalibrationSettings, Decision, DeleteItemRequest, GetItemRequest,
    GetServerInfoRequest, LabelledQuery, ReloadDeploymentRequest, ReloadStep, SearchRequest,
    Strangers, UpsertItemRequest, Vector, calibrate_request, calibration_settings, labelled_query,
    search_request, upsert_item_request,
};
use matchpoint_gallery::params::IndexParams;
use matchpoint_gallery::{Access, Gallery};
use tonic::Code;
use tonic::transport::Channel;
use tonic_types::StatusExt;

/// What answers say of the model, the operating point, and whether a known picture is accepted.
async fn ask(channel: Channel, image: Vec<u8>) -> (String, String, bool) {
    let request = SearchRequest {
        query: Some(search_request::Query::Image(image.into())),
        ..SearchRequest::default()
    };
    let answer = RetrievalServiceClient::new(channel).search(request).await;
    let answer = answer.unwrap().into_inner();
    let accepted = answer.decision() == Decision::Accept;
    (
        answer.model_fingerprint,
        answer.basis.unwrap().operating_point_id,
        accepted,
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn no_request_fails_while_a_deployment_is_switched_and_switched_back() {
    let (folder, first) = copy_of_sample();
    let second = folder.path().join("second");
    in_8_bits(&second);
    let link = folder.path().join("served");
    symlink(&first, &link).unwrap();
    let running = Running::start(&link, &[]).await;
    let image = fs::read(photos().join("images/gc_fishes_fish3/q2_photometric.jpg")).unwrap();

    let stop = Arc::new(AtomicBool::new(false));
    let askers: Vec<_> = (0..4)
        .map(|_| {
            let (channel, image) = (running.channel.clone(), image.clone());
            let stop = Arc::clone(&stop);
            tokio::spawn(async move {
                let mut seen = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    seen.push(ask(channel.clone(), image.clone()).await);
                }
                seen
            })
        })
        .collect();
    let before = ask(running.channel.clone(), image.clone()).await;
    let unchanged = reload(&running).await.unwrap_err();
    assert_eq!(unchanged.code(), Code::FailedPrecondition);
    let reason = unchanged.get_details_error_info().unwrap().reason;
    assert_eq!(reason, "DEPLOYMENT_UNCHANGED");

    lead(&link, &second);
    reload(&running).await.unwrap();
    let after = ask(running.channel.clone(), image.clone()).await;
    assert!(before.0 != after.0 && before.1 != after.1);
    assert!(before.2 && after.2);

    // What cannot be opened changes nothing.
    lead(&link, &folder.path().join("nothing"));
    assert_eq!(reload(&running).await.unwrap_err().code(), Code::Internal);
    assert_eq!(ask(running.channel.clone(), image.clone()).await, after);

    lead(&link, &first);
    reload(&running).await.unwrap();
    assert_eq!(ask(running.channel.clone(), image.clone()).await, before);
    stop.store(true, Ordering::Relaxed);
    let mut seen = BTreeSet::new();
    for asker in askers {
        seen.extend(asker.await.unwrap());
    }
    // Nothing in between: each answer is whole of the one or of the other.
    assert_eq!(seen, BTreeSet::from([before, after]));
}

#[tokio::test]
async fn what_would_decide_nothing_takes_no_place_unless_that_is_meant() {
    let (folder, first) = copy_of_sample();
    let without = folder.path().join("without");
    copy_folder(&first, &without);
    fs::remove_dir_all(without.join("operating-points")).unwrap();
    let link = folder.path().join("served");
    symlink(&first, &link).unwrap();
    let running = Running::start(&link, &[]).await;
    let image = fs::read(photos().join("images/gc_fishes_fish3/q2_photometric.jpg")).unwrap();
    let before = ask(running.channel.clone(), image.clone()).await;

    lead(&link, &without);
    let refused = reload(&running).await.unwrap_err();
    let reason = refused.get_details_error_info().unwrap().reason;
    assert_eq!(reason, "NO_OPERATING_POINT", "{refused}");
    assert_eq!(ask(running.channel.clone(), image.clone()).await, before);

    let mut server = ServerServiceClient::new(running.channel.clone());
    let meant = ReloadDeploymentRequest {
        allow_undecided: true,
        ..ReloadDeploymentRequest::default()
    };
    server.reload_deployment(meant).await.unwrap();
    let after = ask(running.channel.clone(), image).await;
    assert_eq!((after.1.as_str(), after.2), ("", false));
    running.stop().await;
}

#[tokio::test]
async fn opening_may_take_longer_than_a_request_may() {
    let (folder, first) = copy_of_sample();
    let second = folder.path().join("second");
    copy_folder(&first, &second);
    let link = folder.path().join("served");
    symlink(&first, &link).unwrap();
    let running = Running::start(&link, &[("MATCHPOINT_REQUEST_TIMEOUT_SECONDS", "1")]).await;
    lead(&link, &second);
    // Who has its lock is waited for.
    let items = second.join("items.db");
    let held = Gallery::open(&items, Access::ReadWrite, IndexParams::default()).unwrap();
    let release = async {
        tokio::time::sleep(Duration::from_millis(1300)).await;
        drop(held);
    };
    let (switched, ()) = tokio::join!(reload(&running), release);
    switched.unwrap();
    running.stop().await;
}

#[test]
fn a_model_that_nothing_serves_any_more_is_freed_and_read_again() {
    let folder = tempfile::TempDir::new().unwrap();
    let (first, second) = (folder.path().join("first"), folder.path().join("second"));
    for copy in [&first, &second] {
        fs::create_dir(copy).unwrap();
        for file in ["model.toml", "model.onnx", "golden.jpg", "golden.f32"] {
            fs::copy(model().join(file), copy.join(file)).unwrap();
        }
    }
    let manifest = fs::read_to_string(second.join("model.toml")).unwrap();
    let renamed = manifest.replacen("name = \"efficientnet-lite0\"", "name = \"other\"", 1);
    fs::write(second.join("model.toml"), renamed).unwrap();

    let engine = config(&first, &[]).engine;
    let mut models = Models::new(&engine, 8);
    let served = models.open(&first, None).unwrap();
    let shared = models.open(&first, None).unwrap();
    assert!(Arc::ptr_eq(&served.model, &shared.model) && Arc::ptr_eq(&served.pool, &shared.pool));
    drop(shared);
    let (model, pool) = (Arc::downgrade(&served.model), Arc::downgrade(&served.pool));
    // Switched, and back.
    let other = models.open(&second, None).unwrap();
    drop(served);
    assert!(model.upgrade().is_none() && pool.upgrade().is_none());
    // Meanwhile another model was put into the folder.
    fs::copy(second.join("model.toml"), first.join("model.toml")).unwrap();
    let back = models.open(&first, None).unwrap();
    drop(other);
    assert_eq!(back.model.name(), "other");
}

async fn reload(running: &Running) -> Result<(), tonic::Status> {
    let mut server = ServerServiceClient::new(running.channel.clone());
    let answer = server.reload_deployment(ReloadDeploymentRequest::default());
    answer.await.map(|_| ())
}

fn lead(link: &Path, to: &Path) {
    fs::remove_file(link).unwrap();
    symlink(to, link).unwrap();
}

#[test]
fn the_command_refuses_what_is_no_link_and_changes_nothing_without_a_server() {
    let (folder, first) = copy_of_sample();
    let refused = run(&["switch", first.to_str().unwrap(), first.to_str().unwrap()]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(text(&refused.stderr).contains("ln -s"));

    let link = folder.path().join("served");
    symlink(&first, &link).unwrap();
    let (_other, second) = copy_of_sample();
    let mut switch = matchpoint(&["switch", link.to_str().unwrap(), second.to_str().unwrap()]);
    let refused = switch
        .args(["--server", "127.0.0.1:9", "--anyway"])
        .output()
        .unwrap();
    assert_eq!(refused.status.code(), Some(69));
    assert_eq!(
        fs::canonicalize(&link).unwrap(),
        fs::canonicalize(&first).unwrap()
    );
    // As a shell completes it.
    let with_slash = format!("{}/", link.display());
    let back = run(&["switch", &with_slash, "--back"]);
    assert_eq!(back.status.code(), Some(66));
}

/// The switch of a link to a folder, beside the server of this process; with more flags.
async fn switch(running: &Running, link: &Path, more: &[&str]) -> (Option<i32>, String, String) {
    let server = format!("http://{}", running.address);
    let flags = ["switch", link.to_str().unwrap(), "--server", &server];
    let mut command = matchpoint(&[&flags[..], more].concat());
    let ended = tokio::task::spawn_blocking(move || command.output().unwrap());
    let ended = ended.await.unwrap();
    let said = [text(&ended.stdout), text(&ended.stderr)];
    let [printed, failed] = said;
    (ended.status.code(), printed, failed)
}

async fn upsert(channel: Channel, id: &str, of: &str, number: usize) -> Result<(), tonic::Status> {
    let request = UpsertItemRequest {
        id: id.to_owned(),
        label: of.to_owned(),
        source: Some(upsert_item_request::Source::Embedding(Vector {
            values: vector(3, number),
        })),
        ..UpsertItemRequest::default()
    };
    let mut gallery = GalleryServiceClient::new(channel);
    gallery.upsert_item(request).await.map(drop)
}

/// The label of an item that is served.
async fn label_of(running: &Running, id: &str) -> Option<String> {
    let request = GetItemRequest {
        id: id.to_owned(),
        ..GetItemRequest::default()
    };
    let mut gallery = GalleryServiceClient::new(running.channel.clone());
    let found = gallery.get_item(request).await.ok()?.into_inner();
    found.item.map(|item| item.label)
}

async fn delete(running: &Running, id: &str) {
    let request = DeleteItemRequest {
        id: id.to_owned(),
        ..DeleteItemRequest::default()
    };
    let mut gallery = GalleryServiceClient::new(running.channel.clone());
    gallery.delete_item(request).await.unwrap();
}

async fn state_of(running: &Running) -> String {
    let mut server = ServerServiceClient::new(running.channel.clone());
    let info = server.get_server_info(GetServerInfoRequest::default());
    let mut info = info.await.unwrap().into_inner();
    info.deployments.remove(0).state
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_deleted_or_relabelled_since_is_not_served_again_by_a_switch() {
    let folder = tempfile::TempDir::new().unwrap();
    let at = |name: &str| folder.path().join(name);
    copy_folder(shop(), &at("first"));
    copy_folder(shop(), &at("second"));
    let link = at("served");
    symlink(at("first"), &link).unwrap();
    let running = Running::start(&link, &[]).await;
    let second = at("second");
    let second = second.to_str().unwrap();

    delete(&running, "3/0").await;
    upsert(running.channel.clone(), "4/0", "somebody else", 0)
        .await
        .unwrap();
    // Of the same id and label, and another vector.
    upsert(running.channel.clone(), "5/0", "label 5", 7)
        .await
        .unwrap();
    let (code, _, said) = switch(&running, &link, &[second]).await;
    assert_eq!(code, Some(4), "{said}");
    for part in [
        "1 items are not served, and would be, also if they were deleted (3/0)",
        "2 items would have another label, metadata or source (",
        "4/0",
        "5/0",
        "--prune",
        "--anyway",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert_eq!(
        fs::canonicalize(&link).unwrap(),
        at("first").canonicalize().unwrap()
    );
    assert_eq!(label_of(&running, "3/0").await, None);

    // Meant: then it is said, and the way back is refused as well for what is gone there.
    let (code, said, failed) = switch(&running, &link, &[second, "--anyway"]).await;
    assert_eq!(code, Some(0), "{failed}");
    assert!(said.contains("1 items were not served before"), "{said}");
    assert_eq!(label_of(&running, "3/0").await.unwrap(), "label 3");
    delete(&running, "6/0").await;
    let (code, _, said) = switch(&running, &link, &["--back"]).await;
    assert_eq!(code, Some(4), "{said}");
    assert!(said.contains("(6/0)"), "{said}");
    assert_eq!(label_of(&running, "6/0").await, None);
    let (code, _, said) = switch(&running, &link, &["--back", "--anyway"]).await;
    assert_eq!(code, Some(0), "{said}");
    running.stop().await;
}

fn step(step: ReloadStep, prepared: &str, expect_state: &str) -> ReloadDeploymentRequest {
    ReloadDeploymentRequest {
        step: step.into(),
        prepared_state: prepared.to_owned(),
        expect_state: expect_state.to_owned(),
        ..ReloadDeploymentRequest::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_written_since_it_was_looked_at_is_not_replaced() {
    let folder = tempfile::TempDir::new().unwrap();
    let at = |name: &str| folder.path().join(name);
    copy_folder(shop(), &at("first"));
    copy_folder(shop(), &at("second"));
    let link = at("served");
    symlink(at("first"), &link).unwrap();
    let running = Running::start(&link, &[]).await;
    let mut server = ServerServiceClient::new(running.channel.clone());

    // Written after its state was looked at: nothing is replaced, and it takes writes as before.
    let old = state_of(&running).await;
    lead(&link, &at("second"));
    let prepare = step(ReloadStep::Prepare, "", &old);
    let prepared = server.reload_deployment(prepare).await.unwrap();
    let prepared = prepared.into_inner().deployment.unwrap().state;
    upsert(running.channel.clone(), "late", "label 3", 1)
        .await
        .unwrap();
    let serve = step(ReloadStep::ServePrepared, &prepared, &old);
    let refused = server.reload_deployment(serve).await.unwrap_err();
    let reason = refused.get_details_error_info().unwrap().reason;
    assert_eq!(reason, "STATE_MISMATCH", "{refused}");
    let whole = step(ReloadStep::Unspecified, "", &old);
    let refused = server.reload_deployment(whole).await.unwrap_err();
    let reason = refused.get_details_error_info().unwrap().reason;
    assert_eq!(reason, "STATE_MISMATCH", "{refused}");
    assert_eq!(label_of(&running, "late").await.unwrap(), "label 3");
    upsert(running.channel.clone(), "later", "label 3", 2)
        .await
        .unwrap();
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_is_acknowledged_while_a_deployment_is_switched_is_not_lost() {
    let folder = tempfile::TempDir::new().unwrap();
    let at = |name: &str| folder.path().join(name);
    copy_folder(shop(), &at("first"));
    copy_folder(shop(), &at("second"));
    let link = at("served");
    symlink(at("first"), &link).unwrap();
    let running = Running::start(&link, &[]).await;
    let mut server = ServerServiceClient::new(running.channel.clone());

    lead(&link, &at("second"));
    let stop = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> = (0..4)
        .map(|writer| {
            let (channel, stop) = (running.channel.clone(), Arc::clone(&stop));
            tokio::spawn(async move {
                let (mut acknowledged, mut number) = (Vec::new(), 0);
                while !stop.load(Ordering::Relaxed) {
                    number += 1;
                    let id = format!("{writer}-{number}");
                    let sent = Instant::now();
                    match upsert(channel.clone(), &id, "label 3", 1).await {
                        Ok(()) => acknowledged.push((sent, id)),
                        Err(status) => {
                            let reason = status.get_details_error_info().unwrap().reason;
                            assert_eq!(reason, "DEPLOYMENT_SWITCHING", "{status}");
                            assert_eq!(status.code(), Code::Unavailable);
                        }
                    }
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                acknowledged
            })
        })
        .collect();
    let mut switched = None;
    for _ in 0..200 {
        let prepare = step(ReloadStep::Prepare, "", "");
        let prepared = server.reload_deployment(prepare).await.unwrap();
        let prepared = prepared.into_inner().deployment.unwrap().state;
        let (state, looked) = (state_of(&running).await, Instant::now());
        let serve = step(ReloadStep::ServePrepared, &prepared, &state);
        if server.reload_deployment(serve).await.is_ok() {
            switched = Some(looked);
            break;
        }
    }
    tokio::time::sleep(Duration::from_millis(50)).await;
    stop.store(true, Ordering::Relaxed);
    let looked = switched.unwrap();
    let mut after = 0;
    for writer in writers {
        for (sent, id) in writer.await.unwrap() {
            if looked < sent {
                after += 1;
                assert!(label_of(&running, &id).await.is_some(), "{id} is lost");
            }
        }
    }
    assert!(0 < after);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_calibration_of_what_is_not_served_any_more_says_so_and_is_not_active() {
    let folder = tempfile::TempDir::new().unwrap();
    let at = |name: &str| folder.path().join(name);
    copy_folder(shop(), &at("first"));
    copy_folder(shop(), &at("second"));
    let link = at("served");
    symlink(at("first"), &link).unwrap();
    let running = Running::start(&link, &[]).await;
    let before = state_of(&running).await;

    let (queries, sent) = tokio::sync::mpsc::channel(100);
    let part = |part: calibrate_request::Part| CalibrateRequest { part: Some(part) };
    let settings = CalibrationSettings {
        target: Some(calibration_settings::Target::TargetFar(0.2)),
        strangers: Strangers::All.into(),
        ..CalibrationSettings::default()
    };
    let settings = part(calibrate_request::Part::Settings(settings));
    queries.send(settings).await.unwrap();
    for label in 0..LABELS {
        let query = LabelledQuery {
            id: label.to_string(),
            label: format!("label {label}"),
            query: Some(labelled_query::Query::Embedding(Vector {
                values: vector(label, 5),
            })),
            ..LabelledQuery::default()
        };
        let query = part(calibrate_request::Part::Query(query));
        queries.send(query).await.unwrap();
    }
    let mut calibration = CalibrationServiceClient::new(running.channel.clone());
    let calibrating = tokio::spawn(async move {
        let sent = tokio_stream::wrappers::ReceiverStream::new(sent);
        calibration.calibrate(sent).await
    });
    // It has begun when it has taken queries.
    while queries.capacity() < 100 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    tokio::time::sleep(Duration::from_millis(200)).await;
    lead(&link, &at("second"));
    reload(&running).await.unwrap();
    drop(queries);
    let operation = calibrating.await.unwrap().unwrap().into_inner();
    let Some(operation::Result::Error(error)) = operation.result else {
        unreachable!("{operation:?}")
    };
    assert_eq!(error.code, i32::from(Code::Aborted), "{}", error.message);
    assert!(error.message.contains("is not active"), "{}", error.message);
    assert_eq!(state_of(&running).await, before);
    running.stop().await;
}

#[tokio::test]
async fn a_folder_that_a_link_beside_it_leads_to_is_not_opened_a_second_time() {
    let (folder, configured) = copy_of_sample();
    let places = folder.path().join("deployments");
    for name in ["shop-0", "shop-1", "shop-2", "toys"] {
        copy_folder(&configured, &places.join(name));
    }
    for (link, to) in [
        ("shop", "shop-1"),
        ("shop.previous", "shop-0"),
        ("shop.shadow", "shop-2"),
    ] {
        symlink(places.join(to), places.join(link)).unwrap();
    }
    symlink(&configured, places.join("again")).unwrap();
    let data_dir = folder.path().to_str().unwrap();
    let running = Running::start(&configured, &[("MATCHPOINT_DATA_DIR", data_dir)]).await;
    let mut server = ServerServiceClient::new(running.channel.clone());
    let info = server.get_server_info(GetServerInfoRequest::default());
    let info = info.await.unwrap().into_inner();
    let names: Vec<&str> = info
        .deployments
        .iter()
        .map(|one| one.name.as_str())
        .collect();
    assert_eq!(names, ["sample", "shop", "toys"]);
}
