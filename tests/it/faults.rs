//! Files that change, or go, under a running server.

#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test fails by panicking, and a command runs beside the server of its process"
)]

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use matchpoint_client::proto::gallery_service_client::GalleryServiceClient;
use matchpoint_client::proto::health::HealthCheckRequest;
use matchpoint_client::proto::health::health_check_response::ServingStatus;
use matchpoint_client::proto::health::health_client::HealthClient;
use matchpoint_client::proto::operating_point_service_client::OperatingPointServiceClient;
use matchpoint_client::proto::retrieval_service_client::RetrievalServiceClient;
use matchpoint_client::proto::server_service_client::ServerServiceClient;
use matchpoint_client::proto::snapshot_service_client::SnapshotServiceClient;
use matchpoint_client::proto::{
    ActivateOperatingPointRequest, Decision, DeleteItemRequest, GetServerInfoRequest,
    ListOperatingPointsRequest, RestoreSnapshotRequest, SearchRequest, UndecidedReason,
    UpsertItemRequest, Vector, search_request, upsert_item_request,
};
use tonic::Code;

use crate::common::{Running, copy_of_sample, flip_bits_of_items, matchpoint, photos, text};

async fn is_serving(running: &Running) -> bool {
    let mut health = HealthClient::new(running.channel.clone());
    let answer = health.check(HealthCheckRequest::default()).await.unwrap();
    answer.into_inner().status() == ServingStatus::Serving
}

/// Whether the server stops serving within so many seconds.
async fn stops_serving(running: &Running, seconds: u64) -> bool {
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(seconds) {
        if !is_serving(running).await {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    false
}

async fn known(running: &Running) -> Decision {
    let photo = fs::read(photos().join("images/gc_fishes_fish3/q2_photometric.jpg")).unwrap();
    let request = SearchRequest {
        query: Some(search_request::Query::Image(photo.into())),
        ..SearchRequest::default()
    };
    let mut client = RetrievalServiceClient::new(running.channel.clone());
    client.search(request).await.unwrap().get_ref().decision()
}

#[tokio::test]
async fn nothing_is_enrolled_into_a_file_that_was_removed() {
    let (_folder, deployment) = copy_of_sample();
    let running = Running::start(&deployment, &[]).await;
    let mut gallery = GalleryServiceClient::new(running.channel.clone());
    let item = |id: &str| {
        let mut values = vec![0.0; 1280];
        values[7] = 1.0;
        UpsertItemRequest {
            id: id.to_owned(),
            label: "newcomer".to_owned(),
            source: Some(upsert_item_request::Source::Embedding(Vector { values })),
            ..UpsertItemRequest::default()
        }
    };
    gallery.upsert_item(item("before")).await.unwrap();
    assert_eq!(known(&running).await, Decision::Accept);
    fs::remove_file(deployment.join("items.db")).unwrap();
    let refused = gallery.upsert_item(item("after")).await.unwrap_err();
    assert_eq!(refused.code(), Code::DataLoss, "{refused}");
    assert!(stops_serving(&running, 5).await);
    assert_ne!(known(&running).await, Decision::Accept);
    running.stop().await;
}

/// What a query showed is judged by the labels of the gallery that it searched, so their history has to be right
/// whatever arrives at the same moment.
#[tokio::test]
async fn the_history_of_labels_is_that_of_the_gallery_whatever_is_written_at_once() {
    let (_folder, deployment) = copy_of_sample();
    let running = Running::start(&deployment, &[]).await;
    let gallery = GalleryServiceClient::new(running.channel.clone());
    let item = |id: String, label: String| UpsertItemRequest {
        id,
        label,
        source: Some(upsert_item_request::Source::Embedding(Vector {
            values: (0..1280)
                .map(|at| if at == 7 { 1.0 } else { 0.0 })
                .collect(),
        })),
        ..UpsertItemRequest::default()
    };
    for round in 0..60 {
        let label = format!("label {round}");
        let [first, second] = ["a", "b"].map(|which| format!("{which} {round}"));
        let (mut one, mut other) = (gallery.clone(), gallery.clone());
        let enrolled = item(first.clone(), label.clone());
        one.upsert_item(enrolled).await.unwrap();
        let delete = DeleteItemRequest {
            id: first,
            ..DeleteItemRequest::default()
        };
        let (deleted, upserted) = tokio::join!(
            one.delete_item(delete),
            other.upsert_item(item(second, label))
        );
        deleted.unwrap();
        upserted.unwrap();
    }
    running.stop().await;
    let changes = fs::read_to_string(deployment.join("labels.log")).unwrap();
    for round in 0..60 {
        let of_label = |line: &&str| line.contains(&format!("\"label {round}\""));
        let latest = changes.lines().rfind(of_label).unwrap();
        assert!(latest.contains("\"enrolled\":true"), "{changes}");
    }
}

#[tokio::test]
async fn bits_that_flip_in_a_small_gallery_are_noticed_while_it_is_served() {
    let (_folder, deployment) = copy_of_sample();
    let running = Running::start(&deployment, &[]).await;
    assert!(is_serving(&running).await);
    assert_eq!(known(&running).await, Decision::Accept);
    flip_bits_of_items(&deployment);
    assert!(stops_serving(&running, 5).await);
    assert_eq!(known(&running).await, Decision::Undecided);
    let mut server = ServerServiceClient::new(running.channel.clone());
    let info = server.get_server_info(GetServerInfoRequest {}).await;
    let served = info.unwrap().into_inner().deployments.pop().unwrap();
    assert_eq!(served.undecided_reason(), UndecidedReason::GalleryDamaged);
    let url = format!("http://{}", running.address);
    let mut status = matchpoint(&["status", "--server", &url]);
    let status = tokio::task::spawn_blocking(move || status.output().unwrap());
    let status = status.await.unwrap();
    assert_eq!(status.status.code(), Some(5));
    let said = text(&status.stdout);
    let said: Vec<&str> = said.split_whitespace().collect();
    let said = said.join(" ");
    for words in ["an item has changed on the disk", "remove items.graph"] {
        assert!(said.contains(words), "no {words:?} in {said}");
    }

    // No choice of an operating point makes a damaged gallery decide again.
    let mut points = OperatingPointServiceClient::new(running.channel.clone());
    let listed = points
        .list_operating_points(ListOperatingPointsRequest::default())
        .await
        .unwrap()
        .into_inner();
    let activate = ActivateOperatingPointRequest {
        id: listed.active_id,
        ..ActivateOperatingPointRequest::default()
    };
    let refused = points.activate_operating_point(activate).await.unwrap_err();
    assert_eq!(refused.code(), Code::DataLoss, "{refused}");
    assert_eq!(known(&running).await, Decision::Undecided);
    running.stop().await;
}

#[tokio::test]
async fn a_damaged_deployment_is_set_aside_by_name_and_the_others_are_served() {
    let ((_one, whole), (_two, damaged)) = (copy_of_sample(), copy_of_sample());
    fs::write(damaged.join("deployment.json"), "{}").unwrap();
    let both = format!("shop={},other={}", whole.display(), damaged.display());
    let running = Running::start(Path::new(&both), &[]).await;
    let mut server = ServerServiceClient::new(running.channel.clone());
    let info = server
        .get_server_info(GetServerInfoRequest {})
        .await
        .unwrap();
    let info = info.into_inner();
    let served: Vec<&str> = info
        .deployments
        .iter()
        .map(|one| one.name.as_str())
        .collect();
    assert_eq!(served, ["shop"]);
    let unopened: Vec<(&str, &str)> = info
        .unopened
        .iter()
        .map(|one| (one.name.as_str(), one.reason.as_str()))
        .collect();
    assert_eq!(unopened, [("other", "DEPLOYMENT_DAMAGED")]);
    running.stop().await;
}

#[tokio::test]
async fn a_deployment_is_not_restored_under_a_name_that_links_have() {
    let data = tempfile::tempdir().unwrap();
    let settings = [("MATCHPOINT_DATA_DIR", data.path().to_str().unwrap())];
    let running = Running::sample(&settings).await;
    let mut snapshots = SnapshotServiceClient::new(running.channel.clone());
    for name in [
        "shop.previous",
        "shop.shadow",
        "shop.new",
        ".hidden",
        "-flag",
        "a/b",
        "",
    ] {
        let request = RestoreSnapshotRequest {
            snapshot_id: "none".to_owned(),
            deployment: name.to_owned(),
            ..RestoreSnapshotRequest::default()
        };
        let refused = snapshots.restore_snapshot(request).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{name}: {refused}");
    }
    running.stop().await;
}
