//! Another model, gallery and operating point in place of what is served, while it is asked.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::common::{
    Running, config, copy_folder, copy_of_sample, in_8_bits, matchpoint, model, photos, run, text,
};
use matchpoint::deployment::Models;
use matchpoint_client::proto::retrieval_service_client::RetrievalServiceClient;
use matchpoint_client::proto::server_service_client::ServerServiceClient;
use matchpoint_client::proto::{
    Decision, GetServerInfoRequest, ReloadDeploymentRequest, SearchRequest, search_request,
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
    // Enrolled in what is served only.
    let image = photos().join("images/gc_fishes_fish3/q2_photometric.jpg");
    let list = folder.path().join("more.csv");
    fs::write(&list, format!("path,label\n{},fish\n", image.display())).unwrap();
    let [list, served] = [&list, &first].map(|path| path.to_str().unwrap());
    let enrolled = run(&["build", served, "--images", list]);
    assert!(enrolled.status.success(), "{}", text(&enrolled.stderr));
    let refused = run(&["switch", link.to_str().unwrap(), second.to_str().unwrap()]);
    let said = text(&refused.stderr);
    assert_eq!(refused.status.code(), Some(4), "{said}");
    assert!(said.contains("1 items that are served are not in") && said.contains("--anyway"));

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
