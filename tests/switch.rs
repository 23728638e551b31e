//! Another model, gallery and operating point in place of what is served, while it is asked.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use common::{Running, copy_folder, copy_of_sample, in_8_bits, matchpoint, photos, run, text};
use matchpoint::server::proto::retrieval_service_client::RetrievalServiceClient;
use matchpoint::server::proto::server_service_client::ServerServiceClient;
use matchpoint::server::proto::{
    Decision, GetServerInfoRequest, ReloadDeploymentRequest, SearchRequest, search_request,
};
use tonic::Code;
use tonic::transport::Channel;
use tonic_types::StatusExt;

/// What answers say of the model, the operating point, and whether a known picture is accepted.
async fn ask(channel: Channel, image: Vec<u8>) -> (String, String, bool) {
    let request = SearchRequest {
        query: Some(search_request::Query::Image(image)),
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
    let refused = switch.args(["--server", "127.0.0.1:9"]).output().unwrap();
    assert_eq!(refused.status.code(), Some(69));
    assert_eq!(
        fs::canonicalize(&link).unwrap(),
        fs::canonicalize(&first).unwrap()
    );
    let back = run(&["switch", link.to_str().unwrap(), "--back"]);
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
