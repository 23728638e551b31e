//! Asking a server that runs in this process, and what a caller sees.

use std::time::{Duration, Instant};

use matchpoint_client::proto::calibration_service_client::CalibrationServiceClient;
use matchpoint_client::proto::gallery_service_client::GalleryServiceClient;
use matchpoint_client::proto::longrunning::operation;
use matchpoint_client::proto::retrieval_service_client::RetrievalServiceClient;
use matchpoint_client::proto::{
    CalibrateRequest, CalibrationSettings, DeleteItemRequest, LabelledQuery, SearchRequest,
    SearchResponse, UpsertItemRequest, Vector, calibrate_request, calibration_settings,
    labelled_query, search_request, upsert_item_request,
};
use tonic::Status;

use super::Running;
use super::random::Random;
use super::shop::{COMPONENTS, LABELS, vector};

pub fn request(vector: Vec<f32>) -> SearchRequest {
    SearchRequest {
        query: Some(search_request::Query::Embedding(Vector { values: vector })),
        limit: 5,
        ..SearchRequest::default()
    }
}

pub async fn ask(running: &Running, request: SearchRequest) -> Result<SearchResponse, Status> {
    let mut client = RetrievalServiceClient::new(running.channel.clone());
    Ok(client.search(request).await?.into_inner())
}

pub async fn enrol(running: &Running, id: &str, values: Vec<f32>) {
    let item = UpsertItemRequest {
        id: id.to_owned(),
        label: id.to_owned(),
        source: Some(upsert_item_request::Source::Embedding(Vector { values })),
        ..UpsertItemRequest::default()
    };
    let mut gallery = GalleryServiceClient::new(running.channel.clone());
    gallery.upsert_item(item).await.unwrap();
}

pub async fn remove(running: &Running, id: &str) {
    let item = DeleteItemRequest {
        id: id.to_owned(),
        ..DeleteItemRequest::default()
    };
    let mut gallery = GalleryServiceClient::new(running.channel.clone());
    gallery.delete_item(item).await.unwrap();
}

pub fn stranger(random: &mut Random) -> Vec<f32> {
    random.vector(COMPONENTS)
}

pub async fn calibrate(running: &Running) {
    let mut random = Random(11);
    let strangers: Vec<(String, Vec<f32>)> = (0..60)
        .map(|number| (format!("stranger {number}"), stranger(&mut random)))
        .collect();
    let known = (0..LABELS).map(|label| (format!("label {label}"), vector(label, 7)));
    let query = |(number, (label, values)): (usize, (String, Vec<f32>))| LabelledQuery {
        id: format!("query {number}"),
        label,
        query: Some(labelled_query::Query::Embedding(Vector { values })),
        ..LabelledQuery::default()
    };
    let settings = CalibrationSettings {
        target: Some(calibration_settings::Target::TargetFar(0.1)),
        confidence: 0.9,
        strangers_are_distinct: true,
        ..CalibrationSettings::default()
    };
    let queries = strangers.into_iter().chain(known).enumerate().map(query);
    let parts = std::iter::once(calibrate_request::Part::Settings(settings))
        .chain(queries.map(calibrate_request::Part::Query));
    let parts: Vec<_> = parts
        .map(|part| CalibrateRequest { part: Some(part) })
        .collect();
    let mut client = CalibrationServiceClient::new(running.channel.clone());
    let done = client
        .calibrate(tokio_stream::iter(parts))
        .await
        .unwrap()
        .into_inner();
    assert!(
        matches!(done.result, Some(operation::Result::Response(_))),
        "{done:?}"
    );
}

/// What a caller sees of a decision, to the last bit of each score.
#[derive(Debug, PartialEq)]
pub struct Seen {
    pub decision: i32,
    pub decided: String,
    pub matches: Vec<(String, u32)>,
}

pub fn seen(answer: &SearchResponse) -> Seen {
    let matches = answer.matches.iter();
    Seen {
        decision: answer.decision,
        decided: answer.decided_item_id.clone(),
        matches: matches
            .map(|one| (one.id.clone(), one.score.to_bits()))
            .collect(),
    }
}

/// Waits until something is so; nothing tells when.
pub async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let patience = Instant::now() + Duration::from_secs(90);
    while !is_so().await {
        assert!(Instant::now() < patience, "{what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
