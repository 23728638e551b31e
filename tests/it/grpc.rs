//! The service as a client sees it: over a real socket, with the real model and real photographs.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use crate::common::{
    ROOT, Running, config, copy_of_sample, copy_with_images, in_8_bits, photos, run, text,
};
use matchpoint::deployment::Folder;
use matchpoint::server;
use matchpoint_client::proto::calibration_service_client::CalibrationServiceClient;
use matchpoint_client::proto::gallery_service_client::GalleryServiceClient;
use matchpoint_client::proto::health::health_check_response::ServingStatus;
use matchpoint_client::proto::health::health_client::HealthClient;
use matchpoint_client::proto::health::{HealthCheckRequest, HealthListRequest};
use matchpoint_client::proto::longrunning::operations_client::OperationsClient;
use matchpoint_client::proto::longrunning::{
    CancelOperationRequest, DeleteOperationRequest, GetOperationRequest, ListOperationsRequest,
    Operation, WaitOperationRequest, operation,
};
use matchpoint_client::proto::monitoring_service_client::MonitoringServiceClient;
use matchpoint_client::proto::operating_point_service_client::OperatingPointServiceClient;
use matchpoint_client::proto::retrieval_service_client::RetrievalServiceClient;
use matchpoint_client::proto::server_service_client::ServerServiceClient;
use matchpoint_client::proto::{
    ActivateOperatingPointRequest, BatchDeleteItemsRequest, BatchUpsertItemsRequest,
    CalibrateMetadata, CalibrateRequest, CalibrateResponse, CalibrationSettings, CalibrationStage,
    CheckItemsRequest, CompareOperatingPointsRequest, Decision, DecisionBasis, DeleteItemRequest,
    EmbedRequest, GetDriftRequest, GetItemRequest, GetOperatingPointRequest, GetServerInfoRequest,
    LabelLikeness, LabelledQuery, ListItemsRequest, ListOperatingPointsRequest, Reference,
    RelabelItemRequest, Remedy, RollBackOperatingPointRequest, SearchRequest, SearchResponse,
    SearchStreamRequest, UndecidedReason, UpsertItemRequest, UpsertItemStreamRequest, Vector,
    Verdict, VerifyRequest, calibrate_request, calibration_settings, labelled_query, reference,
    search_request, search_stream_response, upsert_item_request, upsert_item_stream_response,
    verify_request,
};
use matchpoint_gallery::params::IndexParams;
use matchpoint_gallery::{Access, Gallery};
use prost::Message as _;
use tokio::sync::watch;
use tokio_stream::StreamExt;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};
use tonic_types::StatusExt;

/// An enrolled label, and one that is not; neither had a part in the calibration.
const KNOWN: &str = "images/gc_fishes_fish3";
const STRANGER: &str = "images/gc_monuments_eiffelTower";

fn photo(path: &str) -> Vec<u8> {
    fs::read(photos().join(path)).unwrap()
}

fn known() -> Vec<u8> {
    photo(&format!("{KNOWN}/q2_photometric.jpg"))
}

fn hostile(name: &str) -> Vec<u8> {
    fs::read(
        Path::new(ROOT)
            .join("crates/embed/tests/fixtures/hostile")
            .join(name),
    )
    .unwrap()
}

fn image_query(image: Vec<u8>) -> SearchRequest {
    let query = Some(search_request::Query::Image(image.into()));
    SearchRequest {
        query,
        ..SearchRequest::default()
    }
}

fn vector_query(values: Vec<f32>) -> SearchRequest {
    let query = Some(search_request::Query::Embedding(Vector { values }));
    SearchRequest {
        query,
        ..SearchRequest::default()
    }
}

fn retrieval(running: &Running) -> RetrievalServiceClient<Channel> {
    RetrievalServiceClient::new(running.channel.clone()).max_encoding_message_size(usize::MAX)
}

async fn search(running: &Running, request: SearchRequest) -> Result<SearchResponse, Status> {
    retrieval(running)
        .search(request)
        .await
        .map(tonic::Response::into_inner)
}

fn reason(status: &Status) -> String {
    status
        .get_details_error_info()
        .map(|info| info.reason)
        .unwrap_or_default()
}

/// The code and the reason that a request is refused with.
async fn refusal(running: &Running, request: SearchRequest) -> (Code, String) {
    let status = search(running, request).await.unwrap_err();
    (status.code(), reason(&status))
}

#[tokio::test]
async fn a_known_picture_is_accepted_and_a_stranger_rejected_with_all_provenance() {
    let running = Running::sample(&[]).await;
    let answer = search(&running, image_query(known())).await.unwrap();
    assert_eq!(answer.decision(), Decision::Accept);
    assert_eq!(answer.matches.len(), 10);
    assert_eq!(answer.matches[0].label, KNOWN.trim_start_matches("images/"));
    assert_eq!(answer.matches[0].metadata["kind"], "ref");
    assert!(answer.matches.is_sorted_by(|a, b| b.score <= a.score));
    let basis = answer.basis.unwrap();
    assert!(basis.threshold.unwrap() <= answer.matches[0].score);
    assert!(basis.operating_point_id.starts_with("op-"));
    assert!(basis.within_calibrated_size && basis.certified);
    assert_eq!(
        (basis.target_far, basis.confidence, basis.items_added),
        (Some(0.1), Some(0.9), Some(0))
    );
    assert!(Some(36) <= basis.valid_to_items);
    assert_eq!(answer.gallery_items, 36);
    assert_eq!(answer.model_fingerprint.len(), 64);
    assert_eq!(answer.decision_id.len(), 36);
    let timings = answer.timings.unwrap();
    let parts = timings.queue_seconds + timings.decode_seconds + timings.inference_seconds;
    assert!(0.0 < timings.inference_seconds && parts <= timings.total_seconds);

    let stranger = photo(&format!("{STRANGER}/q1_rotpersp.jpg"));
    let answer = search(&running, image_query(stranger)).await.unwrap();
    assert_eq!(answer.decision(), Decision::Reject);
    running.stop().await;
}

#[tokio::test]
async fn an_embedding_finds_what_its_image_finds_to_the_last_bit() {
    let running = Running::sample(&[]).await;
    let request = EmbedRequest {
        deployment: String::new(),
        image: known().into(),
    };
    let embedded = retrieval(&running)
        .embed(request)
        .await
        .unwrap()
        .into_inner();
    let values = embedded.embedding.unwrap().values;
    assert_eq!(values.len(), 1280);
    let by_image = search(&running, image_query(known())).await.unwrap();
    let by_vector = search(&running, vector_query(values)).await.unwrap();
    let exact = SearchRequest {
        exact: true,
        ..image_query(known())
    };
    let exact = search(&running, exact).await.unwrap();
    let scores = |answer: &SearchResponse| -> Vec<u32> {
        answer
            .matches
            .iter()
            .map(|found| found.score.to_bits())
            .collect()
    };
    assert_eq!(scores(&by_image), scores(&exact));
    let (a, b) = (by_image.matches[0].score, by_vector.matches[0].score);
    assert!((a - b).abs() < 1e-6, "{a} {b}");
    running.stop().await;
}

#[tokio::test]
async fn bad_images_and_arguments_are_the_callers_fault_by_name() {
    let running = Running::sample(&[]).await;
    let image = |name| image_query(hostile(name));
    let cases = [
        (image_query(Vec::new()), "IMAGE_UNDECODABLE"),
        (image("cut_in_half.jpg"), "IMAGE_UNDECODABLE"),
        (image("random_after_signature.png"), "IMAGE_UNDECODABLE"),
        (image("document.pdf"), "IMAGE_UNSUPPORTED_FORMAT"),
        (image("picture.tiff"), "IMAGE_UNSUPPORTED_FORMAT"),
        (image("one_pixel.png"), "IMAGE_WITHOUT_CONTENT"),
        (image("bomb_30000.png"), "IMAGE_TOO_LARGE"),
        (image("bomb_lossless.webp"), "IMAGE_TOO_LARGE"),
        (vector_query(vec![1.0; 3]), "VECTOR_INVALID"),
        (vector_query(vec![f32::NAN; 1280]), "VECTOR_INVALID"),
        (vector_query(vec![0.0; 1280]), "VECTOR_INVALID"),
        (SearchRequest::default(), "ARGUMENT_INVALID"),
        (
            SearchRequest {
                limit: 1001,
                ..image_query(known())
            },
            "ARGUMENT_INVALID",
        ),
    ];
    for (request, expected) in cases {
        assert_eq!(
            refusal(&running, request).await,
            (Code::InvalidArgument, expected.to_owned())
        );
    }
    let elsewhere = SearchRequest {
        deployment: "elsewhere".to_owned(),
        ..image_query(known())
    };
    assert_eq!(refusal(&running, elsewhere).await.1, "DEPLOYMENT_NOT_FOUND");
    // The server is none the worse for it.
    assert!(search(&running, image_query(known())).await.is_ok());
    running.stop().await;
}

#[tokio::test]
async fn a_message_over_the_limit_is_refused_and_one_of_many_megabytes_is_not() {
    let settings = [
        ("MATCHPOINT_MESSAGE_BYTES_MAX", "12000000"),
        ("MATCHPOINT_IMAGE_BYTES_MAX", "11000000"),
    ];
    let running = Running::sample(&settings).await;
    // Ten megabytes, well above gRPC's usual four: a photograph followed by padding.
    let mut large = known();
    large.resize(10_000_000, 0);
    assert_eq!(
        search(&running, image_query(large))
            .await
            .unwrap()
            .decision(),
        Decision::Accept
    );
    let status = search(&running, image_query(vec![0; 12_000_001]))
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::OutOfRange);
    assert!(search(&running, image_query(known())).await.is_ok());
    running.stop().await;
}

#[tokio::test]
async fn nothing_is_accepted_without_a_valid_operating_point() {
    let (_folder, deployment) = copy_of_sample();
    let mut folder = Folder::open(&deployment).unwrap();
    let point = folder.active_operating_point().unwrap().unwrap();
    // The same gallery, opened with another index: what was calibrated is not what is served.
    let settings = [("MATCHPOINT_GRAPH_FROM_ITEMS", "7")];
    let running = Running::start(&deployment, &settings).await;
    let answer = search(&running, image_query(known())).await.unwrap();
    assert_eq!(answer.decision(), Decision::Undecided);
    let basis = answer.basis.unwrap();
    assert_eq!(
        basis.undecided_reason(),
        UndecidedReason::OperatingPointMismatch
    );
    assert_eq!(basis.operating_point_id, "");
    let mut points = OperatingPointServiceClient::new(running.channel.clone());
    let activate = ActivateOperatingPointRequest {
        id: point.id().to_owned(),
        ..Default::default()
    };
    let status = points.activate_operating_point(activate).await.unwrap_err();
    assert_eq!(
        (status.code(), reason(&status).as_str()),
        (Code::FailedPrecondition, "OPERATING_POINT_MISMATCH")
    );
    running.stop().await;

    folder.deactivate().unwrap();
    let running = Running::start(&deployment, &[]).await;
    let answer = search(&running, image_query(known())).await.unwrap();
    assert_eq!(answer.decision(), Decision::Undecided);
    let basis = answer.basis.unwrap();
    assert_eq!(
        basis.undecided_reason(),
        UndecidedReason::OperatingPointMissing
    );
    assert_eq!(answer.matches.len(), 10);
    running.stop().await;
}

#[tokio::test]
async fn a_stream_answers_each_item_by_its_own_id_and_a_bad_one_fails_alone() {
    let running = Running::sample(&[]).await;
    let items: Vec<SearchStreamRequest> = (0..30)
        .map(|number| SearchStreamRequest {
            request_id: format!("item-{number}"),
            search: Some(image_query(if number % 3 == 1 {
                hostile("document.pdf")
            } else {
                known()
            })),
        })
        .collect();
    let answers = retrieval(&running)
        .search_stream(tokio_stream::iter(items))
        .await
        .unwrap();
    let answers: Vec<_> = answers
        .into_inner()
        .collect::<Result<_, _>>()
        .await
        .unwrap();
    assert_eq!(answers.len(), 30);
    for answer in answers {
        let number: u32 = answer
            .request_id
            .trim_start_matches("item-")
            .parse()
            .unwrap();
        match answer.outcome.unwrap() {
            search_stream_response::Outcome::Result(result) => {
                assert_ne!(number % 3, 1);
                assert_eq!(result.decision(), Decision::Accept);
            }
            search_stream_response::Outcome::Error(error) => {
                assert_eq!(number % 3, 1);
                assert_eq!(error.code, i32::from(Code::InvalidArgument));
                assert_eq!(error.details.len(), 1);
            }
        }
    }
    running.stop().await;
}

#[tokio::test]
async fn items_that_were_taken_are_answered_also_where_the_stream_breaks_after_them() {
    let settings = [
        ("MATCHPOINT_MESSAGE_BYTES_MAX", "2000000"),
        ("MATCHPOINT_IMAGE_BYTES_MAX", "1000000"),
    ];
    let running = Running::sample(&settings).await;
    let items: Vec<SearchStreamRequest> = (0..16)
        .map(|number| SearchStreamRequest {
            request_id: number.to_string(),
            search: Some(image_query(if number < 15 {
                known()
            } else {
                vec![0; 2_000_001]
            })),
        })
        .collect();
    let answers = retrieval(&running)
        .search_stream(tokio_stream::iter(items))
        .await
        .unwrap();
    let mut answers = answers.into_inner();
    let mut answered = 0;
    let end = loop {
        match answers.message().await {
            Ok(Some(answer)) => {
                assert!(matches!(
                    answer.outcome,
                    Some(search_stream_response::Outcome::Result(_))
                ));
                answered += 1;
            }
            Ok(None) => panic!("the stream ended as if nothing had happened"),
            Err(status) => break status,
        }
    };
    assert_eq!((answered, end.code()), (15, Code::OutOfRange));
    running.stop().await;
}

#[tokio::test]
async fn an_operating_point_that_cannot_be_read_decides_nothing() {
    let (_folder, deployment) = copy_of_sample();
    fs::remove_dir_all(deployment.join("operating-points")).unwrap();
    let running = Running::start(&deployment, &[]).await;
    let answer = search(&running, image_query(known())).await.unwrap();
    assert_eq!(answer.decision(), Decision::Undecided);
    let basis = answer.basis.unwrap();
    assert_eq!(
        basis.undecided_reason(),
        UndecidedReason::OperatingPointUnreadable
    );
    running.stop().await;
}

#[tokio::test]
async fn what_was_asked_for_changes_the_list_and_not_the_decision() {
    let (_folder, deployment) = copy_of_sample();
    let running = Running::start(&deployment, &[]).await;
    for image in [known(), photo(&format!("{STRANGER}/q1_rotpersp.jpg"))] {
        let first = search(&running, image_query(image.clone())).await.unwrap();
        for (limit, exact) in [(1, false), (1000, false), (1, true)] {
            let request = SearchRequest {
                limit,
                exact,
                ..image_query(image.clone())
            };
            let answer = search(&running, request).await.unwrap();
            assert_eq!(answer.decision(), first.decision());
            assert_eq!(
                answer.matches[0].score.to_bits(),
                first.matches[0].score.to_bits()
            );
        }
    }
    running.stop().await;
}

#[tokio::test]
async fn verify_compares_with_an_image_and_with_an_item() {
    let running = Running::sample(&[]).await;
    let verify = |source| VerifyRequest {
        deployment: String::new(),
        query: Some(verify_request::Query::Image(known().into())),
        reference: Some(Reference {
            source: Some(source),
        }),
        expect_state: String::new(),
    };
    let enrolled = photo(&format!("{KNOWN}/g0_ref.jpg"));
    let id = format!("{KNOWN}/g0_ref.jpg");
    let mut client = retrieval(&running);
    let by_image = client
        .verify(verify(reference::Source::Image(enrolled.into())))
        .await
        .unwrap()
        .into_inner();
    let by_item = client
        .verify(verify(reference::Source::ItemId(id)))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(by_item.decision(), Decision::Accept);
    assert_eq!(by_image.score.to_bits(), by_item.score.to_bits());
    // The promise is about what is enrolled, and the same picture may be anybody's if it is not.
    let promised = |basis: Option<DecisionBasis>| {
        let basis = basis.unwrap();
        (basis.certified, basis.far_bound.is_some())
    };
    assert_eq!(promised(by_item.basis), (true, true));
    assert_eq!(promised(by_image.basis), (false, false));
    let other = photo(&format!("{STRANGER}/q1_rotpersp.jpg"));
    let other = client
        .verify(verify(reference::Source::Image(other.into())))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(other.decision(), Decision::Reject);
    let status = client
        .verify(verify(reference::Source::ItemId("none".to_owned())))
        .await
        .unwrap_err();
    assert_eq!(reason(&status), "ITEM_NOT_FOUND");
    running.stop().await;
}

#[tokio::test]
async fn what_is_promised_of_mates_in_a_search_is_not_promised_of_a_comparison() {
    let (_folder, deployment) = copy_of_sample();
    let running = Running::start(&deployment, &[]).await;
    let wanted = CalibrationSettings {
        target: Some(calibration_settings::Target::TargetFrr(0.4)),
        ..target(0.2, "")
    };
    let mut client = calibrations(&running);
    let calibrated = client.calibrate(calibration(wanted, labelled("calibrate.csv")));
    response(&calibrated.await.unwrap().into_inner());
    let searched = search(&running, image_query(known())).await.unwrap();
    let source = reference::Source::ItemId(searched.matches[0].id.clone());
    let verify = VerifyRequest {
        query: Some(verify_request::Query::Image(known().into())),
        reference: Some(Reference {
            source: Some(source),
        }),
        ..VerifyRequest::default()
    };
    let verified = retrieval(&running).verify(verify).await.unwrap();
    let (verified, searched) = (
        verified.into_inner().basis.unwrap(),
        searched.basis.unwrap(),
    );
    assert!(searched.target_frr.is_some() && searched.frr_bound.is_some());
    assert_eq!((verified.target_frr, verified.frr_bound), (None, None));
    assert_eq!(verified.threshold, searched.threshold);
    running.stop().await;
}

fn new_item(id: &str, image: Vec<u8>) -> UpsertItemRequest {
    UpsertItemRequest {
        id: id.to_owned(),
        label: "newcomer".to_owned(),
        metadata: HashMap::from([("camera".to_owned(), "x100".to_owned())]),
        source: Some(upsert_item_request::Source::Image(image.into())),
        ..UpsertItemRequest::default()
    }
}

/// An item of no meaning: a direction of its own.
fn enrolled_vector(number: usize) -> UpsertItemRequest {
    let mut values = vec![0.0; 1280];
    values[number] = 1.0;
    let embedding = Vector { values };
    UpsertItemRequest {
        id: format!("vector/{number}"),
        label: format!("vector {number}"),
        source: Some(upsert_item_request::Source::Embedding(embedding)),
        ..UpsertItemRequest::default()
    }
}

#[tokio::test]
async fn items_that_were_exchanged_since_the_calibration_end_its_promise() {
    let (_folder, deployment) = copy_of_sample();
    let running = Running::start(&deployment, &[]).await;
    let mut gallery = GalleryServiceClient::new(running.channel.clone());
    let basis = async || {
        let answer = search(&running, image_query(known())).await.unwrap();
        answer.basis.unwrap()
    };
    let before = basis().await;
    assert_eq!(
        (before.gallery_coverage, before.items_added),
        (Some(1.0), Some(0))
    );
    assert!(before.certified && before.far_bound <= before.target_far);

    // As many items as before, eighteen of them others.
    let listed = gallery
        .list_items(ListItemsRequest::default())
        .await
        .unwrap();
    let others = listed.into_inner().items.into_iter().map(|item| item.id);
    let others: Vec<String> = others
        .filter(|id| !id.starts_with(KNOWN))
        .take(18)
        .collect();
    for (number, id) in others.into_iter().enumerate() {
        let id = DeleteItemRequest {
            id,
            ..DeleteItemRequest::default()
        };
        gallery.delete_item(id).await.unwrap();
        gallery.upsert_item(enrolled_vector(number)).await.unwrap();
    }
    let after = basis().await;
    assert_eq!(
        (after.gallery_coverage, after.items_added),
        (Some(0.5), Some(18))
    );
    assert!(!after.certified && !after.within_calibrated_size);
    assert!(after.target_far < after.far_bound);
    running.stop().await;

    // It is known again after a restart.
    let running = Running::start(&deployment, &[]).await;
    let answer = search(&running, image_query(known())).await.unwrap();
    let restarted = answer.basis.unwrap();
    assert_eq!(
        (restarted.gallery_coverage, restarted.items_added),
        (Some(0.5), Some(18))
    );
    assert!(!restarted.certified);
    running.stop().await;

    // Without the list of items, nothing is promised once the gallery has changed.
    fs::remove_dir_all(deployment.join("calibrated-items")).unwrap();
    let running = Running::start(&deployment, &[]).await;
    let answer = search(&running, image_query(known())).await.unwrap();
    let unknown = answer.basis.unwrap();
    assert_eq!((unknown.gallery_coverage, unknown.far_bound), (None, None));
    assert!(!unknown.certified);
    running.stop().await;
}

#[tokio::test]
async fn an_item_takes_another_label_and_keeps_all_else() {
    let (_folder, deployment) = copy_with_images();
    let running = Running::start(&deployment, &[]).await;
    let mut gallery = GalleryServiceClient::new(running.channel.clone());
    let listed = gallery.list_items(ListItemsRequest::default()).await;
    let ids = listed.unwrap().into_inner().items.into_iter();
    let ids: Vec<String> = ids.map(|item| item.id).take(18).collect();
    let seen = async |running: &Running, id: &str| {
        let request = GetItemRequest {
            id: id.to_owned(),
            include_embedding: true,
            include_image: true,
            ..GetItemRequest::default()
        };
        let mut gallery = GalleryServiceClient::new(running.channel.clone());
        gallery.get_item(request).await.unwrap().into_inner()
    };
    let relabel = |id: &str, label: &str, etag: &str| RelabelItemRequest {
        id: id.to_owned(),
        label: label.to_owned(),
        etag: etag.to_owned(),
        ..RelabelItemRequest::default()
    };
    let first = &ids[0];
    let before = seen(&running, first).await;
    let item = before.item.clone().unwrap();
    assert!(!before.image.is_empty() && !item.etag.is_empty());
    for (number, id) in ids.iter().enumerate() {
        let etag = seen(&running, id).await.item.unwrap().etag;
        let request = relabel(id, &format!("other {number}"), &etag);
        gallery.relabel_item(request).await.unwrap();
    }

    // For the promise one item went and another came.
    let answer = search(&running, image_query(known())).await.unwrap();
    let basis = answer.basis.unwrap();
    assert_eq!(
        (basis.gallery_coverage, basis.items_added),
        (Some(0.5), Some(18))
    );

    // Whoever saw it before that is refused, and so is a label that is none.
    let late = gallery.relabel_item(relabel(first, "late", &item.etag));
    let late = late.await.unwrap_err();
    assert_eq!(
        (late.code(), reason(&late)),
        (Code::Aborted, "ETAG_MISMATCH".to_owned())
    );
    let nameless = gallery.relabel_item(relabel(first, "", "")).await;
    assert_eq!(reason(&nameless.unwrap_err()), "ITEM_INVALID");
    let delete = DeleteItemRequest {
        id: ids[1].clone(),
        ..DeleteItemRequest::default()
    };
    gallery.delete_item(delete).await.unwrap();
    let gone = gallery.relabel_item(relabel(&ids[1], "gone", "")).await;
    assert_eq!(reason(&gone.unwrap_err()), "ITEM_NOT_FOUND");
    running.stop().await;

    // It is on disk; the picture is read against its hash, and the etag of all is the first one again.
    let running = Running::start(&deployment, &[]).await;
    let after = seen(&running, first).await;
    let relabelled = after.item.unwrap();
    assert_eq!(relabelled.label, "other 0");
    assert_eq!(relabelled.embedding, item.embedding);
    assert_eq!(after.image, before.image);
    let mut gallery = GalleryServiceClient::new(running.channel.clone());
    let back = gallery.relabel_item(relabel(first, &item.label, ""));
    back.await.unwrap();
    assert_eq!(seen(&running, first).await, before);
    running.stop().await;
}

#[tokio::test]
async fn labels_that_are_nearly_one_and_pictures_enrolled_twice_are_named() {
    let (_folder, deployment) = copy_of_sample();
    let running = Running::start(&deployment, &[]).await;
    let mut gallery = GalleryServiceClient::new(running.channel.clone());
    let check = async |gallery: &mut GalleryServiceClient<Channel>| {
        let found = gallery.check_items(CheckItemsRequest::default()).await;
        found.unwrap().into_inner()
    };
    let none = check(&mut gallery).await;
    assert_eq!(
        (none.alike_labels_total, none.repeated_items_total),
        (0, 0),
        "{none:?}"
    );
    let image = photo(&format!("{STRANGER}/q1_rotpersp.jpg"));
    for (id, label) in [("a", "red mug"), ("b", "Red Mug"), ("c", "red mug")] {
        let item = UpsertItemRequest {
            label: label.to_owned(),
            ..new_item(id, image.clone())
        };
        gallery.upsert_item(item).await.unwrap();
    }
    for number in [1, 2] {
        let vector = UpsertItemRequest {
            id: format!("vector {number}"),
            ..enrolled_vector(1)
        };
        gallery.upsert_item(vector).await.unwrap();
    }
    let found = check(&mut gallery).await;
    let alike = found.alike_labels.iter().map(|pair| {
        let mut labels = [pair.label.as_str(), pair.other_label.as_str()];
        labels.sort_unstable();
        (labels, pair.likeness())
    });
    assert_eq!(
        alike.collect::<Vec<_>>(),
        [(["Red Mug", "red mug"], LabelLikeness::Spelling)]
    );
    let repeated = found.repeated_items.iter();
    let repeated = repeated.map(|one| [&*one.id, &*one.first_id, &*one.first_label]);
    // That of another label stands first.
    assert_eq!(
        repeated.collect::<Vec<_>>(),
        [
            ["b", "a", "red mug"],
            ["c", "a", "red mug"],
            ["vector 2", "vector 1", "vector 1"]
        ]
    );
    assert_eq!(
        (found.alike_labels_total, found.repeated_items_total),
        (1, 3)
    );
    running.stop().await;
}

#[tokio::test]
async fn nothing_is_certified_for_a_search_of_a_group_without_a_certificate() {
    let (_folder, deployment) = copy_of_sample();
    let done = run(&[
        "calibrate",
        deployment.to_str().unwrap(),
        "--queries",
        photos().join("calibrate.csv").to_str().unwrap(),
        "--target-far",
        "0.2",
        "--confidence",
        "0.9",
        "--worst-group-of",
        "kind",
    ]);
    assert!(done.status.success(), "{}", text(&done.stderr));
    let running = Running::start(&deployment, &[]).await;
    for (conditions, covered) in [
        (vec![("kind", "combo")], true),
        (vec![("kind", "night")], false),
        (vec![("kind", "Combo")], false),
        (vec![("camera", "night")], true),
        // Taken for one of the groups, as live searches are assumed to be.
        (vec![], true),
    ] {
        let stated = conditions.iter();
        let stated = stated.map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let request = SearchRequest {
            conditions: stated.collect(),
            ..image_query(known())
        };
        let answer = search(&running, request).await.unwrap();
        assert_eq!(answer.decision(), Decision::Accept);
        let basis = answer.basis.unwrap();
        assert_eq!(basis.certified, covered, "{conditions:?}");
        assert_eq!(basis.far_bound.is_some(), covered, "{conditions:?}");
        assert!(basis.target_far.is_some());
    }
    running.stop().await;
}

#[tokio::test]
async fn an_enrolled_item_is_found_at_once_survives_a_restart_and_is_gone_when_deleted() {
    let (_folder, deployment) = copy_of_sample();
    let stranger = photo(&format!("{STRANGER}/q1_rotpersp.jpg"));
    let running = Running::start(&deployment, &[]).await;
    let before = search(&running, image_query(stranger.clone()))
        .await
        .unwrap();
    let mut gallery = GalleryServiceClient::new(running.channel.clone());
    let upserted = gallery
        .upsert_item(new_item("new/1", stranger.clone()))
        .await
        .unwrap()
        .into_inner();
    assert!(!upserted.replaced && before.generation < upserted.generation);
    let after = search(&running, image_query(stranger.clone()))
        .await
        .unwrap();
    assert_eq!(after.matches[0].id, "new/1");
    assert_eq!(after.decision(), Decision::Accept);
    // The promise was made for 36 items; its bound leaves room for one more.
    let basis = after.basis.unwrap();
    assert_eq!(basis.items_added, Some(1));
    assert!(basis.certified && basis.within_calibrated_size);
    assert!(
        gallery
            .upsert_item(new_item("new/1", stranger.clone()))
            .await
            .unwrap()
            .into_inner()
            .replaced
    );
    running.stop().await;

    let running = Running::start(&deployment, &[]).await;
    let mut gallery = GalleryServiceClient::new(running.channel.clone());
    let get = GetItemRequest {
        id: "new/1".to_owned(),
        include_embedding: true,
        ..Default::default()
    };
    let item = gallery
        .get_item(get.clone())
        .await
        .unwrap()
        .into_inner()
        .item
        .unwrap();
    assert_eq!(
        (item.label.as_str(), item.metadata["camera"].as_str()),
        ("newcomer", "x100")
    );
    assert_eq!(item.embedding.unwrap().values.len(), 1280);
    let delete = DeleteItemRequest {
        id: "new/1".to_owned(),
        ..Default::default()
    };
    gallery.delete_item(delete.clone()).await.unwrap();
    let after = search(&running, image_query(stranger)).await.unwrap();
    assert_eq!(after.decision(), Decision::Reject);
    assert_eq!(
        reason(&gallery.get_item(get).await.unwrap_err()),
        "ITEM_NOT_FOUND"
    );
    assert_eq!(
        reason(&gallery.delete_item(delete).await.unwrap_err()),
        "ITEM_NOT_FOUND"
    );
    running.stop().await;
}

#[tokio::test]
async fn items_that_break_a_limit_are_refused_and_others_of_the_stream_are_not() {
    let (_folder, deployment) = copy_of_sample();
    let running = Running::start(&deployment, &[]).await;
    let mut gallery = GalleryServiceClient::new(running.channel.clone());
    let status = gallery
        .upsert_item(new_item("", known()))
        .await
        .unwrap_err();
    assert_eq!(
        (status.code(), reason(&status).as_str()),
        (Code::InvalidArgument, "ITEM_INVALID")
    );
    let items: Vec<UpsertItemStreamRequest> = (0..12)
        .map(|number| UpsertItemStreamRequest {
            request_id: number.to_string(),
            item: Some(new_item(
                &if number == 5 {
                    "x".repeat(513)
                } else {
                    format!("new/{number}")
                },
                known(),
            )),
        })
        .collect();
    let answers = gallery
        .upsert_item_stream(tokio_stream::iter(items))
        .await
        .unwrap()
        .into_inner();
    let answers: Vec<_> = answers.collect::<Result<_, _>>().await.unwrap();
    let failed: Vec<&str> = answers
        .iter()
        .filter(|answer| {
            matches!(
                answer.outcome,
                Some(upsert_item_stream_response::Outcome::Error(_))
            )
        })
        .map(|answer| answer.request_id.as_str())
        .collect();
    assert_eq!((answers.len(), failed), (12, vec!["5"]));
    running.stop().await;
}

#[tokio::test]
async fn a_batch_is_answered_item_by_item_in_its_order() {
    use matchpoint_client::proto::{delete_outcome, upsert_outcome};
    let (_folder, deployment) = copy_of_sample();
    let running = Running::start(&deployment, &[]).await;
    let mut gallery = GalleryServiceClient::new(running.channel.clone());
    let items: Vec<UpsertItemRequest> = (0..20)
        .map(|number| match number {
            5 => new_item(&"x".repeat(513), known()),
            7 => new_item("new/7", b"no picture".to_vec()),
            _ => new_item(&format!("new/{number}"), known()),
        })
        .collect();
    let request = BatchUpsertItemsRequest {
        items,
        ..Default::default()
    };
    let answer = gallery.batch_upsert_items(request.clone()).await.unwrap();
    let failed: Vec<usize> = (answer.into_inner().outcomes.into_iter().enumerate())
        .filter(|(_, one)| matches!(one.outcome, Some(upsert_outcome::Outcome::Error(_))))
        .map(|(at, _)| at)
        .collect();
    assert_eq!(failed, [5, 7]);
    let again = gallery.batch_upsert_items(request).await.unwrap();
    let replaced = again.into_inner().outcomes.into_iter().filter(|one| {
        matches!(&one.outcome, Some(upsert_outcome::Outcome::Result(result)) if result.replaced)
    });
    assert_eq!(replaced.count(), 18);

    let ids = ["new/0", "new/5", "new/1", "new/0"]
        .map(str::to_owned)
        .to_vec();
    let request = BatchDeleteItemsRequest {
        ids,
        ..Default::default()
    };
    let answer = gallery
        .batch_delete_items(request)
        .await
        .unwrap()
        .into_inner();
    let gone: Vec<bool> = (answer.outcomes.iter())
        .map(|one| matches!(one.outcome, Some(delete_outcome::Outcome::Result(_))))
        .collect();
    // Which of two deletions of one item comes first is open.
    assert_eq!((gone[1], gone[2], gone[0] ^ gone[3]), (false, true, true));

    let other = UpsertItemRequest {
        deployment: "elsewhere".to_owned(),
        ..new_item("new/2", known())
    };
    for (items, message) in [(vec![], "1 to 1000"), (vec![other], "items[0].deployment")] {
        let request = BatchUpsertItemsRequest {
            items,
            ..Default::default()
        };
        let status = gallery.batch_upsert_items(request).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        assert!(status.message().contains(message), "{status}");
    }
    running.stop().await;
}

#[tokio::test]
async fn pages_hold_every_item_once_in_order() {
    let running = Running::sample(&[]).await;
    let mut gallery = GalleryServiceClient::new(running.channel.clone());
    let whole = ListItemsRequest {
        page_size: 36,
        ..Default::default()
    };
    let whole = gallery.list_items(whole).await.unwrap().into_inner();
    assert_eq!(
        (whole.items.len(), whole.next_page_token.as_str()),
        (36, "")
    );
    let (mut ids, mut token) = (Vec::new(), String::new());
    loop {
        let request = ListItemsRequest {
            page_size: 10,
            page_token: token,
            ..Default::default()
        };
        let page = gallery.list_items(request).await.unwrap().into_inner();
        assert_eq!(page.total_items, 36);
        ids.extend(page.items.into_iter().map(|item| item.id));
        token = page.next_page_token;
        if token.is_empty() {
            break;
        }
    }
    assert_eq!(ids.len(), 36);
    assert!(ids.is_sorted());
    for (page_size, page_token) in [(1001, ""), (0, "not-a-token")] {
        let request = ListItemsRequest {
            page_size,
            page_token: page_token.to_owned(),
            ..Default::default()
        };
        let status = gallery.list_items(request).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
    }
    running.stop().await;
}

#[tokio::test]
async fn operating_points_are_listed_and_activated_against_an_etag() {
    let (_folder, deployment) = copy_of_sample();
    let running = Running::start(&deployment, &[]).await;
    let mut points = OperatingPointServiceClient::new(running.channel.clone());
    let list = points
        .list_operating_points(ListOperatingPointsRequest::default())
        .await
        .unwrap()
        .into_inner();
    assert_eq!(list.operating_points.len(), 1);
    let point = &list.operating_points[0];
    assert_eq!(point.policy, "target-far-certified");
    assert_eq!(
        (point.id.as_str(), point.gallery_items),
        (list.active_id.as_str(), 36)
    );
    assert!(point.far_upper_bound <= point.target_far && !point.assumptions.is_empty());
    assert_eq!(point.frr.unwrap().trials, 60);
    let get = points
        .get_operating_point(GetOperatingPointRequest::default())
        .await
        .unwrap()
        .into_inner();
    assert!(get.active);
    let activate = |id: &str, etag: &str| ActivateOperatingPointRequest {
        id: id.to_owned(),
        etag: etag.to_owned(),
        ..Default::default()
    };
    let now = points
        .activate_operating_point(activate(&point.id, &list.etag))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(now.previous_id, point.id);
    let status = points
        .activate_operating_point(activate(&point.id, &list.etag))
        .await
        .unwrap_err();
    assert_eq!(
        (status.code(), reason(&status).as_str()),
        (Code::Aborted, "ETAG_MISMATCH")
    );
    for id in ["op-0000000000000000", "../deployment"] {
        let status = points
            .activate_operating_point(activate(id, ""))
            .await
            .unwrap_err();
        assert_eq!(
            (status.code(), reason(&status).as_str()),
            (Code::NotFound, "OPERATING_POINT_NOT_FOUND")
        );
    }
    running.stop().await;
}

#[tokio::test]
async fn the_server_says_what_it_serves() {
    let running = Running::sample(&[]).await;
    let mut client = ServerServiceClient::new(running.channel.clone());
    let info = client
        .get_server_info(GetServerInfoRequest {})
        .await
        .unwrap()
        .into_inner();
    assert_eq!(info.version, env!("CARGO_PKG_VERSION"));
    let deployment = &info.deployments[0];
    assert_eq!(
        (
            deployment.name.as_str(),
            deployment.gallery_items,
            deployment.gallery_labels
        ),
        ("sample", 36, 36)
    );
    assert_eq!(
        (deployment.execution_provider.as_str(), deployment.dimension),
        ("cpu", 1280)
    );
    assert!(deployment.operating_point_id.starts_with("op-") && deployment.within_calibrated_size);
    running.stop().await;
}

#[tokio::test]
async fn several_deployments_are_served_by_their_names() {
    let (_one, first) = copy_of_sample();
    let (_two, second) = copy_of_sample();
    let both = format!("first={},second={}", first.display(), second.display());
    let running = Running::start(Path::new(&both), &[]).await;
    let mut gallery = GalleryServiceClient::new(running.channel.clone());
    let stranger = photo(&format!("{STRANGER}/q1_rotpersp.jpg"));
    let item = UpsertItemRequest {
        deployment: "second".to_owned(),
        ..new_item("new/1", stranger.clone())
    };
    gallery.upsert_item(item).await.unwrap();
    for (name, decision) in [("first", Decision::Reject), ("second", Decision::Accept)] {
        let request = SearchRequest {
            deployment: name.to_owned(),
            ..image_query(stranger.clone())
        };
        assert_eq!(
            search(&running, request).await.unwrap().decision(),
            decision,
            "{name}"
        );
    }
    let status = search(&running, image_query(stranger)).await.unwrap_err();
    assert_eq!(
        (status.code(), reason(&status).as_str()),
        (Code::NotFound, "DEPLOYMENT_NOT_FOUND")
    );
    assert!(status.message().contains("first, second"), "{status}");
    running.stop().await;
}

#[tokio::test]
async fn a_full_queue_answers_resource_exhausted_at_once_with_a_time_to_come_back() {
    let settings = [
        ("MATCHPOINT_QUEUE_LEN_MAX", "1"),
        ("MATCHPOINT_WORKERS", "1"),
    ];
    let running = Running::sample(&settings).await;
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..40 {
        let mut client = retrieval(&running);
        calls.spawn(async move { client.search(image_query(known())).await });
    }
    let (mut answered, mut refused) = (0, 0);
    for outcome in calls.join_all().await {
        match outcome {
            Ok(_) => answered += 1,
            Err(status) => {
                assert_eq!(
                    (status.code(), reason(&status).as_str()),
                    (Code::ResourceExhausted, "QUEUE_FULL")
                );
                let delay = status.get_details_retry_info().unwrap().retry_delay;
                // The same for retry policies, which read no details.
                let pushback = status.metadata().get("grpc-retry-pushback-ms").unwrap();
                assert_eq!(
                    pushback.to_str().unwrap(),
                    delay.unwrap().as_millis().to_string()
                );
                refused += 1;
            }
        }
    }
    assert!(
        1 <= answered && 1 <= refused,
        "{answered} answered, {refused} refused"
    );
    assert!(search(&running, image_query(known())).await.is_ok());
    running.stop().await;
}

/// The types of an error's details.
fn kinds(details: &[prost_types::Any]) -> Vec<String> {
    details.iter().map(|one| one.type_url.clone()).collect()
}

#[tokio::test]
async fn a_full_queue_is_told_alike_in_a_call_a_stream_and_a_batch() {
    use matchpoint_client::proto::upsert_outcome;
    let settings = [
        ("MATCHPOINT_QUEUE_LEN_MAX", "1"),
        ("MATCHPOINT_WORKERS", "1"),
    ];
    let (_folder, deployment) = copy_of_sample();
    let running = Running::start(&deployment, &settings).await;
    let (mut calls, mut bad) = (tokio::task::JoinSet::new(), tokio::task::JoinSet::new());
    for _ in 0..40 {
        let (mut client, mut other) = (retrieval(&running), retrieval(&running));
        calls.spawn(async move { client.search(image_query(known())).await });
        bad.spawn(async move { other.search(image_query(hostile("document.pdf"))).await });
    }
    // What need not be decoded to be refused waits for no worker.
    for outcome in bad.join_all().await {
        assert_eq!(outcome.unwrap_err().code(), Code::InvalidArgument);
    }
    let refused: Vec<Status> = calls
        .join_all()
        .await
        .into_iter()
        .filter_map(Result::err)
        .collect();
    let call = tonic_types::Status::decode(refused[0].details()).unwrap();
    let expected = (i32::from(Code::ResourceExhausted), kinds(&call.details));
    assert!(expected.1.iter().any(|kind| kind.ends_with("RetryInfo")));

    let items = (0..30).map(|number| SearchStreamRequest {
        request_id: number.to_string(),
        search: Some(image_query(known())),
    });
    let items = tokio_stream::iter(items.collect::<Vec<_>>());
    let answers = retrieval(&running).search_stream(items).await.unwrap();
    let answers: Vec<_> = answers
        .into_inner()
        .collect::<Result<_, _>>()
        .await
        .unwrap();
    let refused = answers
        .into_iter()
        .filter_map(|answer| match answer.outcome {
            Some(search_stream_response::Outcome::Error(error)) => Some(error),
            _ => None,
        });
    let refused: Vec<_> = refused.map(|one| (one.code, kinds(&one.details))).collect();
    assert!(!refused.is_empty() && refused.iter().all(|one| *one == expected));

    let items = (0..30).map(|number| new_item(&number.to_string(), known()));
    let request = BatchUpsertItemsRequest {
        items: items.collect(),
        ..Default::default()
    };
    let mut gallery = GalleryServiceClient::new(running.channel.clone());
    let answer = gallery.batch_upsert_items(request).await.unwrap();
    let refused = (answer.into_inner().outcomes.into_iter()).filter_map(|one| match one.outcome {
        Some(upsert_outcome::Outcome::Error(error)) => Some(error),
        _ => None,
    });
    let refused: Vec<_> = refused.map(|one| (one.code, kinds(&one.details))).collect();
    assert!(!refused.is_empty() && refused.iter().all(|one| *one == expected));
    running.stop().await;
}

#[tokio::test]
async fn single_searches_are_refused_while_their_delay_stands_and_a_stream_waits() {
    let settings = [
        ("MATCHPOINT_QUEUE_DELAY_MS", "1"),
        ("MATCHPOINT_WORKERS", "1"),
    ];
    let running = Running::sample(&settings).await;
    search(&running, image_query(known())).await.unwrap();
    let seen = Arc::new(watch::Sender::new((0, false)));
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..40 {
        let (mut client, seen) = (retrieval(&running), Arc::clone(&seen));
        calls.spawn(async move {
            let mut refused = Vec::new();
            while !seen.borrow().1 {
                if let Err(status) = client.search(image_query(known())).await {
                    refused.push(status);
                    seen.send_modify(|seen| seen.0 += 1);
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            }
            refused
        });
    }
    let mut refusals = seen.subscribe();
    let standing = refusals.wait_for(|seen| 40 <= seen.0);
    let standing = tokio::time::timeout(Duration::from_secs(60), standing).await;
    drop(standing.unwrap().unwrap());
    let items = (0..40).map(|number| SearchStreamRequest {
        request_id: number.to_string(),
        search: Some(image_query(known())),
    });
    let items = tokio_stream::iter(items.collect::<Vec<_>>());
    let answers = retrieval(&running).search_stream(items).await.unwrap();
    let answers: Vec<_> = answers
        .into_inner()
        .collect::<Result<_, _>>()
        .await
        .unwrap();
    assert_eq!(answers.len(), 40);
    for answer in answers {
        let Some(search_stream_response::Outcome::Result(_)) = answer.outcome else {
            panic!("{answer:?}");
        };
    }
    seen.send_modify(|seen| seen.1 = true);
    for status in calls.join_all().await.into_iter().flatten() {
        assert_eq!(
            (status.code(), reason(&status).as_str()),
            (Code::ResourceExhausted, "QUEUE_FULL")
        );
        assert!(status.message().contains("for a while"), "{status}");
        assert!(status.get_details_retry_info().is_some());
    }
    running.stop().await;
}

#[tokio::test]
async fn honest_calls_succeed_after_thousands_that_were_cancelled_on_their_connection() {
    let running = Running::sample(&[]).await;
    for number in 0..2000_u64 {
        let mut client = retrieval(&running);
        let cancelled = client.search(image_query(known()));
        // Some before they are sent, some on their way, some in the queue.
        let moment = Duration::from_micros(100 * (number % 10));
        drop(tokio::time::timeout(moment, cancelled).await);
    }
    for _ in 0..5 {
        search(&running, image_query(known())).await.unwrap();
    }
    for _ in 0..95 {
        let mut values = vec![0.0; 1280];
        values[0] = 1.0;
        search(&running, vector_query(values)).await.unwrap();
    }
    running.stop().await;
}

#[tokio::test]
async fn a_deadline_that_passed_in_the_queue_is_answered_and_the_work_dropped() {
    let settings = [("MATCHPOINT_WORKERS", "1")];
    let running = Running::sample(&settings).await;
    let mut busy = tokio::task::JoinSet::new();
    for _ in 0..40 {
        let mut client = retrieval(&running);
        busy.spawn(async move { client.search(image_query(known())).await });
    }
    let mut request = Request::new(image_query(known()));
    request.set_timeout(Duration::from_millis(2));
    let status = retrieval(&running).search(request).await.unwrap_err();
    assert!(
        matches!(status.code(), Code::DeadlineExceeded | Code::Cancelled),
        "{status}"
    );
    busy.join_all().await;
    running.stop().await;
}

#[tokio::test]
async fn while_loading_the_server_is_alive_but_not_serving() {
    let (go, wait) = mpsc::channel::<()>();
    let (_folder, deployment) = copy_of_sample();
    let config = config(&deployment, &[]);
    let loading = config.clone();
    let running = Running::start_loading(config, move || {
        wait.recv().unwrap();
        server::load(&loading)
    })
    .await;
    let mut health = HealthClient::new(running.channel.clone());
    let ask = |service: &str| HealthCheckRequest {
        service: service.to_owned(),
    };
    let live = health
        .check(ask(server::LIVENESS))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(live.status(), ServingStatus::Serving);
    let ready = health.check(ask("")).await.unwrap().into_inner();
    assert_eq!(ready.status(), ServingStatus::NotServing);
    let listed = health
        .list(HealthListRequest {})
        .await
        .unwrap()
        .into_inner();
    for (service, status) in &listed.statuses {
        let asked = health.check(ask(service)).await.unwrap().into_inner();
        assert_eq!(&asked, status, "{service}");
    }
    assert_eq!(listed.statuses.len(), 9);
    let unknown = health.check(ask("none")).await.unwrap_err();
    assert_eq!(unknown.code(), Code::NotFound);
    // Such a call does not end: the service may be there one day.
    let mut none = health.watch(ask("none")).await.unwrap().into_inner();
    let said = none.message().await.unwrap().unwrap();
    assert_eq!(said.status(), ServingStatus::ServiceUnknown);
    assert_eq!(
        refusal(&running, image_query(known())).await,
        (Code::Unavailable, "MODEL_LOADING".to_owned())
    );

    let mut watch = health
        .watch(ask("matchpoint.v1.RetrievalService"))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        watch.message().await.unwrap().unwrap().status(),
        ServingStatus::NotServing
    );
    go.send(()).unwrap();
    assert_eq!(
        watch.message().await.unwrap().unwrap().status(),
        ServingStatus::Serving
    );
    assert!(search(&running, image_query(known())).await.is_ok());
    let more = tokio::time::timeout(Duration::from_millis(200), none.message());
    assert!(
        more.await.is_err(),
        "nothing more is said of what is not there"
    );
    // A watcher does not keep the server up.
    let started = Instant::now();
    let server = running.ask_to_stop();
    assert_eq!(
        watch.message().await.unwrap().unwrap().status(),
        ServingStatus::NotServing
    );
    server.await.unwrap().unwrap();
    assert!(started.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn a_deployment_that_cannot_be_loaded_ends_the_server_with_its_reason() {
    let (_folder, deployment) = copy_of_sample();
    fs::remove_file(deployment.join("items.db")).unwrap();
    let config = config(&deployment, &[]);
    let loading = config.clone();
    let running = Running::start_loading(config, move || server::load(&loading)).await;
    let error = running.server.await.unwrap().unwrap_err().to_string();
    assert!(error.contains("there is no gallery at"), "{error}");
}

#[tokio::test]
async fn requests_under_way_finish_when_the_server_is_asked_to_stop() {
    let settings = [("MATCHPOINT_WORKERS", "1")];
    let running = Running::sample(&settings).await;
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..20 {
        let mut client = retrieval(&running);
        calls.spawn(async move { client.search(image_query(known())).await.map(|_| ()) });
    }
    // One answer is back, so the others are under way.
    calls.join_next().await.unwrap().unwrap().unwrap();
    let server = running.ask_to_stop();
    for outcome in calls.join_all().await {
        outcome.unwrap();
    }
    server.await.unwrap().unwrap();
}

#[tokio::test]
async fn reflection_lists_every_service_and_can_be_switched_off() {
    use tonic_reflection::pb::v1::ServerReflectionRequest;
    use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
    use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
    use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
    let ask = || {
        let message_request = Some(MessageRequest::ListServices(String::new()));
        tokio_stream::once(ServerReflectionRequest {
            host: String::new(),
            message_request,
        })
    };
    let running = Running::sample(&[]).await;
    let mut client = ServerReflectionClient::new(running.channel.clone());
    let mut answers = client
        .server_reflection_info(ask())
        .await
        .unwrap()
        .into_inner();
    let answer = answers
        .message()
        .await
        .unwrap()
        .unwrap()
        .message_response
        .unwrap();
    let MessageResponse::ListServicesResponse(list) = answer else {
        panic!("{answer:?}")
    };
    let names: Vec<String> = list
        .service
        .into_iter()
        .map(|service| service.name)
        .collect();
    for service in [
        "Retrieval",
        "Gallery",
        "OperatingPoint",
        "Calibration",
        "Server",
    ] {
        assert!(
            names.contains(&format!("matchpoint.v1.{service}Service")),
            "{names:?}"
        );
    }
    // Tools show the details of an error by its type.
    for symbol in [
        "google.rpc.ErrorInfo",
        "google.rpc.RetryInfo",
        "google.protobuf.Duration",
    ] {
        let request = ServerReflectionRequest {
            host: String::new(),
            message_request: Some(MessageRequest::FileContainingSymbol(symbol.to_owned())),
        };
        let answers = client.server_reflection_info(tokio_stream::once(request));
        let answer = answers.await.unwrap().into_inner().message().await;
        let found = answer.unwrap().unwrap().message_response;
        assert!(
            matches!(found, Some(MessageResponse::FileDescriptorResponse(_))),
            "{symbol}: {found:?}"
        );
    }
    running.stop().await;

    let running = Running::sample(&[("MATCHPOINT_REFLECTION", "false")]).await;
    let mut client = ServerReflectionClient::new(running.channel.clone());
    let status = client.server_reflection_info(ask()).await.unwrap_err();
    assert_eq!(status.code(), Code::Unimplemented);
    running.stop().await;
}

#[tokio::test]
async fn a_callers_request_id_comes_back() {
    let running = Running::sample(&[]).await;
    let mut request = Request::new(image_query(known()));
    request
        .metadata_mut()
        .insert("x-request-id", "order-17".parse().unwrap());
    let answer = retrieval(&running).search(request).await.unwrap();
    assert_eq!(answer.metadata().get("x-request-id").unwrap(), "order-17");
    let answer = retrieval(&running)
        .search(image_query(known()))
        .await
        .unwrap();
    assert_eq!(answer.metadata().get("x-request-id").unwrap().len(), 36);
    running.stop().await;
}

/// The sample's labelled queries, as messages: id, label, image, and the kind of picture.
fn labelled(file: &str) -> Vec<LabelledQuery> {
    let table = fs::read_to_string(photos().join(file)).unwrap();
    let mut lines = table.lines();
    let header: Vec<&str> = lines.next().unwrap().split(',').collect();
    let column = |name: &str| header.iter().position(|found| *found == name).unwrap();
    let (path, label, kind) = (column("path"), column("label"), column("kind"));
    lines
        .map(|line| {
            let fields: Vec<&str> = line.split(',').collect();
            LabelledQuery {
                id: fields[path].to_owned(),
                label: fields[label].to_owned(),
                query: Some(labelled_query::Query::Image(photo(fields[path]).into())),
                metadata: HashMap::from([("kind".to_owned(), fields[kind].to_owned())]),
            }
        })
        .collect()
}

pub(crate) fn calibration(
    settings: CalibrationSettings,
    queries: Vec<LabelledQuery>,
) -> impl tokio_stream::Stream<Item = CalibrateRequest> {
    let parts = std::iter::once(calibrate_request::Part::Settings(settings))
        .chain(queries.into_iter().map(calibrate_request::Part::Query));
    tokio_stream::iter(parts.map(|part| CalibrateRequest { part: Some(part) }))
}

pub(crate) fn target(far: f64, id: &str) -> CalibrationSettings {
    CalibrationSettings {
        target: Some(calibration_settings::Target::TargetFar(far)),
        confidence: 0.9,
        operation_id: id.to_owned(),
        ..CalibrationSettings::default()
    }
}

pub(crate) fn calibrations(running: &Running) -> CalibrationServiceClient<Channel> {
    CalibrationServiceClient::new(running.channel.clone()).max_encoding_message_size(usize::MAX)
}

fn response(operation: &Operation) -> CalibrateResponse {
    match operation.result.as_ref().unwrap() {
        operation::Result::Response(any) => {
            assert!(any.type_url.ends_with("matchpoint.v1.CalibrateResponse"));
            prost::Message::decode(any.value.as_slice()).unwrap()
        }
        operation::Result::Error(status) => panic!("{}: {}", status.code, status.message),
    }
}

fn metadata(operation: &Operation) -> CalibrateMetadata {
    let any = operation.metadata.as_ref().unwrap();
    prost::Message::decode(any.value.as_slice()).unwrap()
}

pub(crate) fn error_of(operation: &Operation) -> (i32, String, HashMap<String, String>) {
    let Some(operation::Result::Error(error)) = &operation.result else {
        panic!("no error: {operation:?}");
    };
    let details = prost::Message::encode_to_vec(error).into();
    let status = Status::with_details(Code::from_i32(error.code), &error.message, details);
    let info = status.get_details_error_info().unwrap();
    (error.code, info.reason, info.metadata)
}

/// With too few queries for a threshold.
async fn calibrate_without_cache(
    client: &mut CalibrationServiceClient<Channel>,
    queries: &[LabelledQuery],
) {
    let settings = CalibrationSettings {
        without_cache: true,
        ..target(0.2, "unkept")
    };
    let refused = client.calibrate(calibration(settings, queries.to_vec()));
    let refused = error_of(refused.await.unwrap().get_ref());
    assert_eq!(refused.0, Code::FailedPrecondition as i32);
}

#[tokio::test]
async fn a_deployment_is_calibrated_while_it_serves_compared_and_rolled_back() {
    let (_folder, deployment) = copy_of_sample();
    let cache = deployment.join("query-embeddings.cache");
    fs::remove_file(&cache).unwrap_or_default();
    let running = Running::start(&deployment, &[]).await;
    let mut queries = labelled("calibrate.csv");
    let mut client = calibrations(&running);
    calibrate_without_cache(&mut client, &queries[..2]).await;
    assert!(!cache.exists());
    queries.push(LabelledQuery {
        id: "broken".to_owned(),
        label: "whatever".to_owned(),
        query: Some(labelled_query::Query::Image(
            hostile("cut_in_half.jpg").into(),
        )),
        metadata: HashMap::new(),
    });
    let count = queries.len() as u64;
    // A dry run first: it says what would come out, and changes nothing.
    let dry = CalibrationSettings {
        validate_only: true,
        ..target(0.2, "dry")
    };
    let operation = client
        .calibrate(calibration(dry, queries.clone()))
        .await
        .unwrap()
        .into_inner();
    assert!(operation.done && operation.name == "operations/dry");
    let told = metadata(&operation);
    assert_eq!(
        (told.queries_done, told.queries_total, told.failed_total),
        (count, count, 1)
    );
    assert_eq!(told.failed[0].id, "broken");
    assert_eq!(told.stage(), CalibrationStage::Done);
    assert_eq!(told.embedded_before_total, 0);
    let would = response(&operation);
    assert!(!would.active && would.etag.is_empty());
    let mut points = OperatingPointServiceClient::new(running.channel.clone());
    let list = ListOperatingPointsRequest::default;
    let before = points
        .list_operating_points(list())
        .await
        .unwrap()
        .into_inner();
    assert_eq!(before.operating_points.len(), 1);

    let operation = client
        .calibrate(calibration(target(0.2, "real"), queries))
        .await
        .unwrap()
        .into_inner();
    let made = response(&operation);
    let point = made.operating_point.unwrap();
    assert!(made.active && point.certified);
    // Each picture was embedded once, and nothing comes out otherwise.
    assert_eq!(metadata(&operation).embedded_before_total, count - 1);
    let would = would.operating_point.unwrap().threshold;
    assert_eq!(would.to_bits(), point.threshold.to_bits());
    assert!((point.target_far.unwrap() - 0.2).abs() < 1e-12 && 24 <= point.independent_trials);
    let held_out = point.held_out_frr.unwrap();
    assert!(held_out.lower <= held_out.rate && held_out.rate <= held_out.upper);
    let first = before.active_id;
    let answer = search(&running, image_query(known())).await.unwrap();
    assert_eq!(answer.basis.unwrap().operating_point_id, point.id);

    let choices = Choices {
        strict: first,
        loose: point.id,
        stale: before.etag,
        etag: made.etag,
    };
    compare_and_roll_back(&running, choices, count - 1).await;
    running.stop().await;
}

struct Choices {
    strict: String,
    loose: String,
    stale: String,
    etag: String,
}

async fn compare_and_roll_back(running: &Running, choices: Choices, searches: u64) {
    let mut points = OperatingPointServiceClient::new(running.channel.clone());
    // The looser one accepts what the stricter one rejects, and says so beforehand.
    let compare = CompareOperatingPointsRequest {
        from_id: String::new(),
        to_id: choices.strict.clone(),
        ..Default::default()
    };
    let compared = points
        .compare_operating_points(compare)
        .await
        .unwrap()
        .into_inner();
    assert!(compared.from_threshold < compared.to_threshold);
    assert_eq!(compared.searches, searches);
    assert_eq!(compared.flips.len() as u64, compared.flips_total);
    assert!(compared.flips.iter().all(|flip| !flip.accepted
        && compared.from_threshold <= flip.score
        && flip.score < compared.to_threshold));

    let stale = RollBackOperatingPointRequest {
        etag: choices.stale,
        ..Default::default()
    };
    let refused = points.roll_back_operating_point(stale).await.unwrap_err();
    assert_eq!(
        (refused.code(), reason(&refused).as_str()),
        (Code::Aborted, "ETAG_MISMATCH")
    );
    let back = RollBackOperatingPointRequest {
        etag: choices.etag,
        ..Default::default()
    };
    let back = points
        .roll_back_operating_point(back)
        .await
        .unwrap()
        .into_inner();
    assert_eq!(back.operating_point.unwrap().id, choices.strict);
    assert_eq!(back.previous_id, choices.loose);
    let again = RollBackOperatingPointRequest::default();
    let refused = points.roll_back_operating_point(again).await.unwrap_err();
    assert_eq!(reason(&refused), "NOTHING_TO_ROLL_BACK_TO");
}

#[tokio::test]
#[expect(clippy::too_many_lines, reason = "one story")]
async fn normalised_scores_decide_as_they_were_calibrated_and_nothing_without_their_cohort() {
    let (_folder, deployment) = copy_of_sample();
    let running = Running::start(&deployment, &[]).await;
    let settings = CalibrationSettings {
        remedy: Remedy::AsNorm.into(),
        ..target(0.2, "")
    };
    let operation = calibrations(&running)
        .calibrate(calibration(settings, labelled("calibrate.csv")))
        .await
        .unwrap()
        .into_inner();
    let point = response(&operation).operating_point.unwrap();
    assert!(
        point.certified
            && point
                .adjustment
                .starts_with("AS-norm against a cohort of 36")
    );

    // Each query again, as an application would send it: to the bit what was recorded.
    let folder = Folder::open(&deployment).unwrap();
    let recording = folder.recording(&point.id).unwrap().unwrap();
    let mut accepted = 0;
    for searched in recording.searches().iter().step_by(7) {
        let answer = search(&running, image_query(photo(&searched.probe)));
        let answer = answer.await.unwrap();
        let basis = answer.basis.as_ref().unwrap();
        let found = searched.found.as_ref().unwrap();
        assert_eq!(answer.matches[0].id, found.item);
        let held = found.adjusted.unwrap().get();
        assert_eq!(basis.decision_score.unwrap().to_bits(), held.to_bits());
        assert_eq!(
            answer.matches[0].score.to_bits(),
            found.score.get().to_bits()
        );
        assert_eq!(basis.adjustment.as_ref(), Some(&point.adjustment));
        let reaches = basis.threshold.unwrap() <= held;
        assert_eq!(answer.decision() == Decision::Accept, reaches);
        accepted += u32::from(reaches);
    }
    assert!(0 < accepted);

    // A comparison with an item, whose label is known, is held against the same scale.
    let searched = search(&running, image_query(known())).await.unwrap();
    let nearest = searched.matches[0].id.clone();
    let verify = VerifyRequest {
        query: Some(verify_request::Query::Image(known().into())),
        reference: Some(Reference {
            source: Some(reference::Source::ItemId(nearest)),
        }),
        ..VerifyRequest::default()
    };
    let verified = retrieval(&running)
        .verify(verify)
        .await
        .unwrap()
        .into_inner();
    let (verified, searched) = (verified.basis.unwrap(), searched.basis.unwrap());
    assert_eq!(
        verified.decision_score.unwrap().to_bits(),
        searched.decision_score.unwrap().to_bits()
    );
    // One item has no such order to the best of all as a similarity has, nor have some of them.
    assert!(searched.certified && searched.far_bound.is_some());
    assert!(!verified.certified && verified.far_bound.is_none());
    let only = SearchRequest {
        filter: "label != \"no such label\"".to_owned(),
        ..image_query(known())
    };
    let only = search(&running, only).await.unwrap().basis.unwrap();
    assert!(!only.certified && only.far_bound.is_none());
    running.stop().await;

    let cohorts = fs::read_dir(deployment.join("cohorts")).unwrap();
    let cohort = cohorts.map(|entry| entry.unwrap().path()).next().unwrap();
    let mut bytes = fs::read(&cohort).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&cohort, bytes).unwrap();
    let running = Running::start(&deployment, &[]).await;
    let answer = search(&running, image_query(known())).await.unwrap();
    assert_eq!(answer.decision(), Decision::Undecided);
    let why = answer.basis.unwrap().undecided_reason();
    assert_eq!(why, UndecidedReason::OperatingPointUnreadable);
    running.stop().await;
}

#[tokio::test]
#[expect(clippy::too_many_lines, reason = "one story")]
async fn a_margin_decides_as_it_was_calibrated_and_nothing_without_another_label() {
    let (_folder, deployment) = copy_of_sample();
    let running = Running::start(&deployment, &[]).await;
    let by_margin = || CalibrationSettings {
        remedy: Remedy::Margin.into(),
        margin_factor: Some(0.5),
        ..target(0.2, "")
    };
    let calibrate = async || {
        let mut client = calibrations(&running);
        let calibrated = client.calibrate(calibration(by_margin(), labelled("calibrate.csv")));
        calibrated.await.unwrap().into_inner()
    };
    let point = response(&calibrate().await).operating_point.unwrap();
    assert!(
        point.certified
            && point
                .adjustment
                .starts_with("margin: the best similarity less 0.5")
    );
    let folder = Folder::open(&deployment).unwrap();
    let recording = folder.recording(&point.id).unwrap().unwrap();
    let mut accepted = 0;
    for searched in recording.searches().iter().step_by(7) {
        let found = searched.found.as_ref().unwrap();
        let held = found.adjusted.unwrap().get();
        let query = || image_query(photo(&searched.probe));
        // Whether many are asked for or the items are filtered, another label is looked for among all.
        let only = SearchRequest {
            filter: format!("label = \"{}\"", found.label),
            ..query()
        };
        let (all, only) = (
            search(&running, query()).await,
            search(&running, only).await,
        );
        for answer in [all.unwrap(), only.unwrap()] {
            let basis = answer.basis.as_ref().unwrap();
            assert_eq!(basis.decision_score.unwrap().to_bits(), held.to_bits());
            assert!(basis.certified);
            let reaches = basis.threshold.unwrap() <= held;
            assert_eq!(answer.decision() == Decision::Accept, reaches);
            accepted += u32::from(reaches);
        }
    }
    assert!(0 < accepted);

    let verify = async |source| {
        let verify = VerifyRequest {
            query: Some(verify_request::Query::Image(known().into())),
            reference: Some(Reference {
                source: Some(source),
            }),
            ..VerifyRequest::default()
        };
        retrieval(&running)
            .verify(verify)
            .await
            .unwrap()
            .into_inner()
    };
    let searched = search(&running, image_query(known())).await.unwrap();
    let nearest = searched.matches[0].id.clone();
    let with_item = verify(reference::Source::ItemId(nearest.clone())).await;
    assert_eq!(
        with_item.basis.unwrap().decision_score,
        searched.basis.unwrap().decision_score
    );
    let with_image = verify(reference::Source::Image(known().into())).await;
    assert_eq!(with_image.decision(), Decision::Undecided);
    let why = with_image.basis.unwrap().undecided_reason();
    assert_eq!(why, UndecidedReason::NoOtherLabel);

    // What stood beside the best may be gone, so that the best stands out more than it did.
    let mut gallery = GalleryServiceClient::new(running.channel.clone());
    let request = ListItemsRequest {
        page_size: 1_000,
        ..Default::default()
    };
    let items = gallery
        .list_items(request)
        .await
        .unwrap()
        .into_inner()
        .items;
    let others = items.iter().filter(|item| item.id != nearest);
    let ids: Vec<String> = others.map(|item| item.id.clone()).collect();
    let mut remove = async |ids: &[String]| {
        let request = BatchDeleteItemsRequest {
            ids: ids.to_vec(),
            ..Default::default()
        };
        gallery.batch_delete_items(request).await.unwrap();
        search(&running, image_query(known())).await.unwrap()
    };
    let fewer = remove(&ids[..1]).await;
    let basis = fewer.basis.as_ref().unwrap();
    assert_eq!(fewer.decision(), Decision::Accept);
    assert!(!basis.certified && basis.far_bound.is_none());
    let alone = remove(&ids[1..]).await;
    assert_eq!(
        (alone.decision(), alone.matches[0].id == nearest),
        (Decision::Undecided, true)
    );
    let basis = alone.basis.unwrap();
    assert_eq!(basis.undecided_reason(), UndecidedReason::NoOtherLabel);
    assert!(!basis.certified && basis.decision_score.is_none());
    // Scores that are not there set no threshold: it would let in whoever has one later.
    let (_, refused, _) = error_of(&calibrate().await);
    assert_eq!(refused, "CALIBRATION_INVALID");
    running.stop().await;
}

#[tokio::test]
async fn a_filter_names_what_may_be_found_and_decided_on() {
    let running = Running::sample(&[]).await;
    let label = KNOWN.trim_start_matches("images/");
    let ask = |filter: &str| SearchRequest {
        filter: filter.to_owned(),
        ..image_query(known())
    };
    let without = search(&running, ask(&format!("label != \"{label}\"")))
        .await
        .unwrap();
    assert_eq!(without.decision(), Decision::Reject);
    assert!(without.matches.iter().all(|found| found.label != label));
    let only = search(
        &running,
        ask(&format!("label = \"{label}\" AND metadata.kind = ref")),
    );
    let only = only.await.unwrap();
    assert_eq!((only.decision(), only.matches.len()), (Decision::Accept, 1));
    let basis = only.basis.unwrap();
    assert!(basis.certified && basis.decision_score == Some(only.matches[0].score));
    let nothing = search(&running, ask("id = nobody")).await.unwrap();
    assert_eq!(
        (nothing.decision(), nothing.matches.len()),
        (Decision::Reject, 0)
    );
    let wrong = search(&running, ask("label < x")).await.unwrap_err();
    assert_eq!(
        (wrong.code(), reason(&wrong).as_str()),
        (Code::InvalidArgument, "FILTER_INVALID")
    );
    assert!(wrong.message().contains("column 7"));

    // These choose what is shown, and leave the decision alone.
    let all = search(&running, image_query(known())).await.unwrap();
    let least = f32::midpoint(all.matches[0].score, all.matches[1].score);
    for request in [
        SearchRequest {
            min_score: Some(least),
            ..ask("")
        },
        SearchRequest {
            one_per_label: true,
            ..ask("")
        },
        SearchRequest {
            ef_search: 4096,
            ..ask("")
        },
    ] {
        let shown = if request.min_score.is_some() { 1 } else { 10 };
        let answer = search(&running, request).await.unwrap();
        assert_eq!(answer.matches.len(), shown);
        let basis = answer.basis.as_ref().unwrap();
        let decided = all.basis.as_ref().unwrap().decision_score;
        assert_eq!(basis.decision_score, decided);
    }
    for request in [
        SearchRequest {
            min_score: Some(f32::NAN),
            ..ask("")
        },
        SearchRequest {
            ef_search: 5000,
            ..ask("")
        },
    ] {
        let (code, why) = refusal(&running, request).await;
        assert_eq!(
            (code, why.as_str()),
            (Code::InvalidArgument, "ARGUMENT_INVALID")
        );
    }
    running.stop().await;
}

#[tokio::test]
async fn what_was_decided_on_is_named_where_it_is_not_shown() {
    let running = Running::sample(&[]).await;
    let request = SearchRequest {
        min_score: Some(1.0),
        ..image_query(known())
    };
    let hidden = search(&running, request).await.unwrap();
    let shown = hidden.matches.len();
    assert_eq!((hidden.decision(), shown), (Decision::Accept, 0));
    assert_eq!(hidden.decided_label, KNOWN.trim_start_matches("images/"));
    running.stop().await;
}

/// What an answer says of a review.
fn reviewed(found: &SearchResponse) -> (bool, Option<f32>, Option<f64>) {
    let basis = found.basis.as_ref().unwrap();
    (basis.review, basis.review_threshold, basis.unseen_frr)
}

/// What goes to a person is counted beside what was predicted, without what is under a filter.
async fn assert_reviews_are_as_predicted(running: &Running, outcomes: [u64; 3]) {
    let mut monitoring = MonitoringServiceClient::new(running.channel.clone());
    let drift = monitoring.get_drift(GetDriftRequest::default());
    let drift = drift.await.unwrap().into_inner();
    let share = drift.reviews.unwrap();
    let counted = [share.searches, share.reviewed];
    assert_eq!(counted, [outcomes.iter().sum::<u64>(), outcomes[1]]);
    let rate = share.rate.unwrap();
    assert!(share.predicted_lower < rate && rate < share.predicted_upper);
    assert!(!share.above_prediction && !share.below_prediction);
    let mut findings = drift.findings.iter();
    let said = findings.find(|one| one.subject == "review").unwrap();
    assert_eq!(said.verdict(), Verdict::Note, "{said:?}");
}

#[tokio::test]
async fn rejects_in_the_review_band_are_for_a_person_and_no_others() {
    let (_folder, deployment) = copy_of_sample();
    let running = Running::start(&deployment, &[]).await;
    let settings = CalibrationSettings {
        review_frr: Some(0.2),
        ..target(0.1, "")
    };
    let mut client = calibrations(&running);
    let calibrated = client.calibrate(calibration(settings, labelled("calibrate.csv")));
    let calibrated = calibrated.await.unwrap().into_inner();
    let point = response(&calibrated).operating_point.unwrap();
    let band = point.review.unwrap();
    assert!(point.target_far == Some(0.1) && band.threshold < point.threshold);
    assert!(band.unseen_frr_bound <= 0.2 && 0.0 < band.mated_reviewed.unwrap().rate);

    let mut outcomes = [0_u64; 3];
    let mut in_the_band = None;
    for query in labelled("calibrate.csv") {
        let Some(labelled_query::Query::Image(image)) = query.query else {
            unreachable!()
        };
        let found = search(&running, image_query(image.to_vec())).await.unwrap();
        let score = found.matches[0].score;
        let outcome = [point.threshold, band.threshold]
            .iter()
            .filter(|low| score < **low)
            .count();
        outcomes[outcome] += 1;
        let decision = if outcome == 0 {
            Decision::Accept
        } else {
            Decision::Reject
        };
        assert_eq!(found.decision(), decision);
        let expected = (outcome == 1, Some(band.threshold), Some(0.2));
        assert_eq!(reviewed(&found), expected, "{score}");
        if outcome == 1 {
            in_the_band = Some(image);
        }
    }
    assert!(outcomes.iter().all(|count| 0 < *count), "{outcomes:?}");

    // Neither a filter, which can hide the mate, nor a gallery that lost items leaves the promise.
    let image = in_the_band.unwrap();
    let filtered = SearchRequest {
        filter: "label != nothing".to_owned(),
        ..image_query(image.to_vec())
    };
    let found = search(&running, filtered).await.unwrap();
    assert_eq!(reviewed(&found), (true, Some(band.threshold), None));
    assert_reviews_are_as_predicted(&running, outcomes).await;
    let mut gallery = GalleryServiceClient::new(running.channel.clone());
    for item in found.matches.iter().skip(1).take(2) {
        let item = DeleteItemRequest {
            id: item.id.clone(),
            ..DeleteItemRequest::default()
        };
        gallery.delete_item(item).await.unwrap();
    }
    let found = search(&running, image_query(image.to_vec())).await.unwrap();
    assert_eq!(reviewed(&found), (true, Some(band.threshold), None));

    let alone = CalibrationSettings {
        target: Some(calibration_settings::Target::TargetFrr(0.3)),
        review_frr: Some(0.2),
        ..target(0.1, "")
    };
    let refused = calibrations(&running)
        .calibrate(calibration(alone, vec![]))
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    let message = refused.message();
    assert!(message.contains("goes with a target FAR"), "{refused}");
}

#[tokio::test]
async fn a_calibration_that_cannot_be_made_says_why_and_changes_nothing() {
    let (_folder, deployment) = copy_of_sample();
    let running = Running::start(&deployment, &[]).await;
    let mut client = calibrations(&running);
    let queries = labelled("calibrate.csv");
    let operation = client
        .calibrate(calibration(target(0.001, ""), queries.clone()))
        .await
        .unwrap()
        .into_inner();
    let (code, why, told) = error_of(&operation);
    assert_eq!(code, i32::from(Code::FailedPrecondition));
    assert_eq!(why, "CALIBRATION_UNDERPOWERED");
    assert_eq!(
        (
            told["trials_needed"].as_str(),
            told["trials_present"].as_str()
        ),
        ("2302", "24")
    );

    for (settings, says) in [
        (CalibrationSettings::default(), "target is required"),
        (target(0.7, ""), "target FAR 0.7"),
        (target(0.2, "no/slash"), "operation_id"),
        (
            CalibrationSettings {
                remedy: 99,
                ..target(0.2, "")
            },
            "remedy is not one of Remedy",
        ),
    ] {
        let refused = client
            .calibrate(calibration(settings, vec![]))
            .await
            .unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument);
        assert!(refused.message().contains(says), "{refused}");
    }
    let missing = client.calibrate(tokio_stream::empty()).await.unwrap_err();
    assert!(missing.message().contains("settings"), "{missing}");
    let twice = vec![queries[0].clone(), queries[0].clone()];
    let operation = client
        .calibrate(calibration(target(0.2, ""), twice))
        .await
        .unwrap()
        .into_inner();
    let (_, why, _) = error_of(&operation);
    assert_eq!(why, "ARGUMENT_INVALID");
    assert_eq!(
        Folder::open(&deployment)
            .unwrap()
            .operating_points()
            .unwrap()
            .len(),
        1
    );
    running.stop().await;
}

#[tokio::test]
async fn labels_of_one_spelling_and_strangers_without_a_name_are_taken_only_as_they_were_said_to_be()
 {
    let (_folder, deployment) = copy_of_sample();
    let running = Running::start(&deployment, &[]).await;
    let mut client = calibrations(&running);
    let queries = labelled("calibrate.csv");
    // One label of an enrolled thing in capitals: a stranger that finds what it shows.
    let mut respelled = queries.clone();
    let enrolled = respelled
        .iter_mut()
        .find(|query| query.id.contains("q2_photometric"));
    let one = enrolled.unwrap();
    one.label = one.label.to_uppercase();
    let refused = client.calibrate(calibration(target(0.2, ""), respelled.clone()));
    let (code, why, _) = error_of(&refused.await.unwrap().into_inner());
    assert_eq!(
        (code, why.as_str()),
        (i32::from(Code::InvalidArgument), "LABELS_ALIKE")
    );
    let as_they_are = CalibrationSettings {
        labels_as_they_are: true,
        validate_only: true,
        ..target(0.2, "")
    };
    let taken = client.calibrate(calibration(as_they_are, respelled)).await;
    let point = response(&taken.unwrap().into_inner())
        .operating_point
        .unwrap();
    let assumed = format!("{point:?}");
    assert!(assumed.contains("as was said"), "{assumed}");

    // The same strangers, and nobody knows who they are.
    let mut unnamed = queries;
    for (number, query) in unnamed.iter_mut().enumerate() {
        query.label = format!("stranger-0199f0aa-7c1b-7e0e-8d63-{number:012x}");
    }
    let distinct = CalibrationSettings {
        strangers_are_distinct: true,
        validate_only: true,
        ..target(0.2, "")
    };
    let refused = client.calibrate(calibration(target(0.2, ""), unnamed.clone()));
    let (code, why, _) = error_of(&refused.await.unwrap().into_inner());
    // No mated search says how alike pictures of one thing are: all of them are one stranger.
    assert_eq!(
        (code, why.as_str()),
        (
            i32::from(Code::FailedPrecondition),
            "CALIBRATION_UNDERPOWERED"
        )
    );
    let taken = client.calibrate(calibration(distinct, unnamed)).await;
    assert!(
        response(&taken.unwrap().into_inner())
            .operating_point
            .is_some()
    );
    running.stop().await;
}

#[tokio::test]
async fn what_makes_queries_less_than_trials_is_listed_and_not_only_counted() {
    let (_folder, deployment) = copy_of_sample();
    let running = Running::start(&deployment, &[]).await;
    let mut client = calibrations(&running);
    let mut queries = labelled("calibrate.csv");
    let strange = |query: &&LabelledQuery| query.label == "gc_farm_animals_owl";
    let stranger = queries.iter().find(strange).unwrap().clone();
    let item = labelled("gallery.csv").swap_remove(0);
    let nearly = embedding_of(&running, &stranger).await;
    queries.extend(no_fair_trials(&stranger, &item, nearly));
    let operation = client
        .calibrate(calibration(target(0.2, ""), queries))
        .await;
    let found = metadata(&operation.unwrap().into_inner());
    assert_eq!((found.alike_labels_total, found.alike_labels.len()), (1, 1));
    let alike = &found.alike_labels[0];
    assert_eq!(alike.likeness(), LabelLikeness::NearMiss);
    assert_eq!(
        [&alike.label, &alike.other_label],
        ["gc_tools_sickles", "gc_tools_sickle"]
    );
    assert!(alike.other_enrolled);
    assert!(alike.differ_by.contains("letter"), "{alike:?}");
    let copies: Vec<(&str, &str)> = found
        .gallery_duplicates
        .iter()
        .map(|copy| (copy.id.as_str(), copy.item_label.as_str()))
        .collect();
    assert_eq!(copies, [("item", item.label.as_str())]);
    assert!(0.999 < found.gallery_duplicates[0].similarity);
    assert_eq!(
        found.query_duplicates.len() as u64,
        found.query_duplicates_total
    );
    let twice = found
        .query_duplicates
        .iter()
        .find(|one| one.id == "zz twice");
    assert_eq!(twice.unwrap().first_id, stranger.id);
    assert_eq!(found.stranger_near_duplicates_total, 1);
    let nearly = &found.stranger_near_duplicates[0];
    assert_eq!(
        [
            &nearly.id,
            &nearly.label,
            &nearly.first_id,
            &nearly.first_label
        ],
        ["zz nearly", "another one", &stranger.id, &stranger.label]
    );
    assert_eq!(found.strangers_not_compared_total, 0);
    let unnamed = found.unnamed_strangers.unwrap();
    assert_eq!(unnamed.pictures, 1);
    assert!(unnamed.level.is_some_and(|level| level < 0.9));
    running.stop().await;
}

#[tokio::test]
async fn strangers_who_share_a_picture_are_counted_as_several_and_as_one() {
    let (_folder, deployment) = copy_of_sample();
    let running = Running::start(&deployment, &[]).await;
    let calibrate = async |settings, queries| {
        let mut client = calibrations(&running);
        let operation = client.calibrate(calibration(settings, queries)).await;
        response(&operation.unwrap().into_inner())
            .operating_point
            .unwrap()
    };
    let before = calibrate(target(0.2, ""), labelled("calibrate.csv")).await;
    let mut queries = labelled("calibrate.csv");
    let strange = |query: &&LabelledQuery| query.label == "gc_farm_animals_owl";
    let stranger = queries.iter().find(strange).unwrap().clone();
    // The very picture under another label, and once more under its own.
    for (id, label) in [("zz other", "somebody else"), ("zz own", &*stranger.label)] {
        queries.push(LabelledQuery {
            id: id.to_owned(),
            label: label.to_owned(),
            ..stranger.clone()
        });
    }
    let after = calibrate(target(0.2, ""), queries).await;
    let folder = Folder::open(&deployment).unwrap();
    let searches = |id: &str| {
        let recording = folder.recording(id).unwrap().unwrap();
        recording.searches().len()
    };
    assert_eq!(searches(&after.id), searches(&before.id) + 1);
    let told = format!("{after:?}");
    assert!(
        told.contains("2 labels of strangers share pictures, or nearly, and may be 1"),
        "{told}"
    );
    running.stop().await;
}

/// One query of each kind that is less than a trial.
fn no_fair_trials(
    stranger: &LabelledQuery,
    item: &LabelledQuery,
    mut nearly: Vec<f32>,
) -> [LabelledQuery; 5] {
    let others = labelled("evaluate.csv");
    let renamed = |query: &LabelledQuery, id: &str, label: &str| LabelledQuery {
        id: id.to_owned(),
        label: label.to_owned(),
        ..query.clone()
    };
    nearly[0] += 0.001;
    [
        // A letter too many: perhaps the thing itself.
        renamed(&others[0], "near miss", "gc_tools_sickles"),
        renamed(item, "item", &item.label),
        renamed(stranger, "zz twice", "somebody else"),
        LabelledQuery {
            query: Some(labelled_query::Query::Embedding(Vector { values: nearly })),
            ..renamed(stranger, "zz nearly", "another one")
        },
        renamed(
            &others[1],
            "nobody",
            "stranger-0199f0aa-7c1b-7e0e-8d63-000000000001",
        ),
    ]
}

/// What the deployment's model makes of the image of a query.
async fn embedding_of(running: &Running, query: &LabelledQuery) -> Vec<f32> {
    let Some(labelled_query::Query::Image(image)) = &query.query else {
        panic!("{query:?}");
    };
    let mut client = RetrievalServiceClient::new(running.channel.clone());
    let request = EmbedRequest {
        image: image.clone(),
        ..EmbedRequest::default()
    };
    let answer = client.embed(request).await.unwrap().into_inner();
    answer.embedding.unwrap().values
}

#[tokio::test]
async fn a_calibration_can_be_followed_waited_for_and_cancelled() {
    let running = Running::sample(&[]).await;
    let mut operations = OperationsClient::new(running.channel.clone());
    let (queries, incoming) = tokio::sync::mpsc::channel(4);
    let settings = calibrate_request::Part::Settings(CalibrationSettings {
        validate_only: true,
        ..target(0.2, "slow")
    });
    let send = |part| queries.send(CalibrateRequest { part: Some(part) });
    send(settings).await.unwrap();
    let mut client = calibrations(&running);
    let stream = tokio_stream::wrappers::ReceiverStream::new(incoming);
    let call = tokio::spawn(async move { client.calibrate(stream).await });
    let first = labelled("calibrate.csv").swap_remove(0);
    send(calibrate_request::Part::Query(first)).await.unwrap();

    let name = "operations/slow".to_owned();
    let get = GetOperationRequest { name: name.clone() };
    loop {
        match operations.get_operation(get.clone()).await {
            Ok(state) if metadata(state.get_ref()).queries_done == 1 => break,
            Ok(state) => assert!(!state.get_ref().done),
            Err(status) => assert_eq!(reason(&status), "OPERATION_NOT_FOUND"),
        }
        tokio::task::yield_now().await;
    }
    let wait = |timeout: Duration| WaitOperationRequest {
        name: name.clone(),
        timeout: Some(timeout.try_into().unwrap()),
    };
    let soon = operations
        .wait_operation(wait(Duration::from_millis(10)))
        .await
        .unwrap();
    assert!(!soon.get_ref().done);
    let delete = DeleteOperationRequest { name: name.clone() };
    let refused = operations
        .delete_operation(delete.clone())
        .await
        .unwrap_err();
    assert_eq!(reason(&refused), "OPERATION_RUNNING");

    let cancel = CancelOperationRequest { name: name.clone() };
    operations.cancel_operation(cancel).await.unwrap();
    let ended = operations
        .wait_operation(wait(Duration::from_secs(20)))
        .await
        .unwrap();
    assert_eq!(error_of(ended.get_ref()).1, "OPERATION_CANCELLED");
    let answered = call.await.unwrap().unwrap().into_inner();
    assert_eq!(error_of(&answered).0, i32::from(Code::Cancelled));
    let listed = operations
        .list_operations(ListOperationsRequest::default())
        .await
        .unwrap();
    assert_eq!(listed.get_ref().operations.len(), 1);
    operations.delete_operation(delete).await.unwrap();
    let gone = operations.get_operation(get).await.unwrap_err();
    assert_eq!(gone.code(), Code::NotFound);
    running.stop().await;
}

#[tokio::test]
async fn the_gallery_alone_can_be_calibrated_and_promises_nothing_about_far() {
    let (_folder, deployment) = copy_of_sample();
    let running = Running::start(&deployment, &[]).await;
    let settings = CalibrationSettings {
        gallery_as_queries: true,
        ..target(0.2, "alone")
    };
    let operation = calibrations(&running)
        .calibrate(calibration(settings, vec![]))
        .await
        .unwrap()
        .into_inner();
    let point = response(&operation).operating_point.unwrap();
    assert!(!point.certified && point.policy == "target-far-left-out");
    assert_eq!(point.independent_trials, 36);
    // One image of each label: nothing to find again.
    assert_eq!(point.frr, None);
    running.stop().await;
}

/// Waits for an operation to end, and gives its response or its error.
async fn ended(running: &Running, name: String) -> Result<prost_types::Any, tonic_types::Status> {
    use matchpoint_client::proto::longrunning::operation::Result as Ended;
    let mut operations = OperationsClient::new(running.channel.clone());
    let timeout = Some(prost_types::Duration {
        seconds: 20,
        nanos: 0,
    });
    let wait = WaitOperationRequest { name, timeout };
    let operation = operations.wait_operation(wait).await.unwrap().into_inner();
    match operation.result.unwrap() {
        Ended::Response(response) => Ok(response),
        Ended::Error(error) => Err(error),
    }
}

#[tokio::test]
#[expect(clippy::too_many_lines, reason = "one story")]
async fn a_snapshot_is_taken_moved_and_served_elsewhere_with_the_same_decisions() {
    use matchpoint_client::proto::snapshot_service_client::SnapshotServiceClient;
    use matchpoint_client::proto::{
        CreateSnapshotRequest, DeleteSnapshotRequest, ListSnapshotsRequest, ReadSnapshotRequest,
        RestoreSnapshotRequest, WriteSnapshotRequest,
    };
    let (folder, deployment) = copy_of_sample();
    let data = ["here", "there"].map(|name| folder.path().join(name));
    let here = Running::start(
        &deployment,
        &[("MATCHPOINT_DATA_DIR", data[0].to_str().unwrap())],
    )
    .await;
    let mut snapshots = SnapshotServiceClient::new(here.channel.clone());
    let create = CreateSnapshotRequest {
        snapshot_id: "first".to_owned(),
        ..Default::default()
    };
    let begun = snapshots.create_snapshot(create.clone()).await.unwrap();
    ended(&here, begun.into_inner().name).await.unwrap();
    let again = snapshots.create_snapshot(create).await.unwrap_err();
    assert_eq!(reason(&again), "SNAPSHOT_EXISTS");
    for id in ["-first", "../first", "a/b", ".x", ""] {
        let request = DeleteSnapshotRequest {
            snapshot_id: id.to_owned(),
        };
        let status = snapshots.delete_snapshot(request).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{id}");
    }
    let read = ReadSnapshotRequest {
        snapshot_id: "first".to_owned(),
    };
    let pieces = snapshots.read_snapshot(read).await.unwrap().into_inner();
    let pieces: Vec<_> = pieces.collect::<Result<_, _>>().await.unwrap();
    let bytes: Vec<u8> = pieces.into_iter().flat_map(|piece| piece.data).collect();
    let listed = snapshots
        .list_snapshots(ListSnapshotsRequest {})
        .await
        .unwrap();
    let listed = &listed.get_ref().snapshots;
    assert_eq!((listed.len(), listed[0].bytes), (1, bytes.len() as u64));
    let expected = search(&here, image_query(known())).await.unwrap();
    here.stop().await;

    // Elsewhere: brought there in pieces, made a deployment, and served beside another.
    let (_other, other) = copy_of_sample();
    let settings = [("MATCHPOINT_DATA_DIR", data[1].to_str().unwrap())];
    let there = Running::start(&other, &settings).await;
    let mut snapshots = SnapshotServiceClient::new(there.channel.clone());
    let pieces = |bytes: &[u8]| {
        let pieces: Vec<WriteSnapshotRequest> = bytes
            .chunks(100_000)
            .map(|data| WriteSnapshotRequest {
                snapshot_id: "moved".to_owned(),
                data: data.to_vec(),
            })
            .collect();
        tokio_stream::iter(pieces)
    };
    let mut damaged = bytes.clone();
    damaged[60_000] ^= 1;
    let refused = snapshots
        .write_snapshot(pieces(&damaged))
        .await
        .unwrap_err();
    assert_eq!(
        (refused.code(), reason(&refused).as_str()),
        (Code::InvalidArgument, "SNAPSHOT_DAMAGED")
    );
    let told = refused.message();
    assert!(told.contains("what was sent is damaged at byte"), "{told}");
    let refused = snapshots
        .write_snapshot(pieces(&bytes[..90_000]))
        .await
        .unwrap_err();
    assert_eq!(reason(&refused), "SNAPSHOT_DAMAGED");
    assert_eq!(
        snapshots
            .list_snapshots(ListSnapshotsRequest {})
            .await
            .unwrap()
            .get_ref()
            .snapshots,
        []
    );
    let written = snapshots.write_snapshot(pieces(&bytes)).await.unwrap();
    assert_eq!(
        written.into_inner().snapshot.unwrap().bytes,
        bytes.len() as u64
    );
    let restore = |name: &str, id: &str| RestoreSnapshotRequest {
        snapshot_id: id.to_owned(),
        deployment: name.to_owned(),
        ..Default::default()
    };
    for (name, id, expected) in [
        ("sample", "moved", "DEPLOYMENT_EXISTS"),
        ("new", "none", "SNAPSHOT_NOT_FOUND"),
    ] {
        let refused = snapshots
            .restore_snapshot(restore(name, id))
            .await
            .unwrap_err();
        assert_eq!(reason(&refused), expected);
    }
    let begun = snapshots
        .restore_snapshot(restore("again", "moved"))
        .await
        .unwrap();
    ended(&there, begun.into_inner().name).await.unwrap();
    let query = || SearchRequest {
        deployment: "again".to_owned(),
        ..image_query(known())
    };
    let same = |found: &SearchResponse| {
        assert_eq!(found.decision(), Decision::Accept);
        assert_eq!(
            (&found.matches, found.generation),
            (&expected.matches, expected.generation)
        );
        assert_eq!(
            found.basis.as_ref().unwrap(),
            expected.basis.as_ref().unwrap()
        );
    };
    same(&search(&there, query()).await.unwrap());
    // Who names none means the deployment that the server was started with.
    same(&search(&there, image_query(known())).await.unwrap());
    there.stop().await;
    // It is served after a restart too.
    let there = Running::start(&other, &settings).await;
    same(&search(&there, query()).await.unwrap());
    same(&search(&there, image_query(known())).await.unwrap());
    there.stop().await;
    // And keeps nothing else from being served where it cannot be.
    fs::write(data[1].join("deployments/again/deployment.json"), "{").unwrap();
    let there = Running::start(&other, &settings).await;
    let refused = search(&there, query()).await.unwrap_err();
    assert_eq!(reason(&refused), "DEPLOYMENT_NOT_FOUND");
    same(&search(&there, image_query(known())).await.unwrap());
    there.stop().await;
}

#[tokio::test]
async fn a_restoration_takes_no_folder_and_no_model_from_anybody() {
    use matchpoint_client::proto::snapshot_service_client::SnapshotServiceClient;
    use matchpoint_client::proto::{CreateSnapshotRequest, RestoreSnapshotRequest};
    let (folder, deployment) = copy_of_sample();
    let data = folder.path().join("data");
    let settings = [("MATCHPOINT_DATA_DIR", data.to_str().unwrap())];
    let running = Running::start(&deployment, &settings).await;
    let mut snapshots = SnapshotServiceClient::new(running.channel.clone());
    let create = CreateSnapshotRequest {
        snapshot_id: "first".to_owned(),
        ..Default::default()
    };
    let begun = snapshots.create_snapshot(create).await.unwrap();
    ended(&running, begun.into_inner().name).await.unwrap();
    let restore = |name: &str| RestoreSnapshotRequest {
        snapshot_id: "first".to_owned(),
        deployment: name.to_owned(),
        ..Default::default()
    };
    // A name that folders had which were there for a moment only.
    for name in ["y.restoring", "y"] {
        let begun = snapshots.restore_snapshot(restore(name)).await.unwrap();
        ended(&running, begun.into_inner().name).await.unwrap();
    }
    let query = SearchRequest {
        deployment: "y.restoring".to_owned(),
        ..image_query(known())
    };
    search(&running, query).await.unwrap();
    assert!(data.join("deployments/y.restoring/items.db").exists());
    running.stop().await;

    // Where no deployment has the model, what the snapshot says of its folder does not count.
    let other = folder.path().join("in-8-bits");
    in_8_bits(&other);
    fs::remove_dir_all(data.join("deployments")).unwrap();
    let running = Running::start(&other, &settings).await;
    let mut snapshots = SnapshotServiceClient::new(running.channel.clone());
    let begun = snapshots.restore_snapshot(restore("z")).await.unwrap();
    let refused = ended(&running, begun.into_inner().name).await.unwrap_err();
    assert!(
        refused
            .message
            .contains("no deployment of this server has that model"),
        "{refused:?}"
    );
    assert_eq!(fs::read_dir(data.join("deployments")).unwrap().count(), 0);
    running.stop().await;
}

#[tokio::test]
async fn without_a_folder_for_them_there_are_no_snapshots() {
    use matchpoint_client::proto::ListSnapshotsRequest;
    use matchpoint_client::proto::snapshot_service_client::SnapshotServiceClient;
    let running = Running::sample(&[]).await;
    let mut snapshots = SnapshotServiceClient::new(running.channel.clone());
    let refused = snapshots
        .list_snapshots(ListSnapshotsRequest {})
        .await
        .unwrap_err();
    assert_eq!(
        (refused.code(), reason(&refused).as_str()),
        (Code::FailedPrecondition, "DATA_DIR_MISSING")
    );
    running.stop().await;
}

#[tokio::test]
async fn a_kept_image_is_given_back_byte_for_byte() {
    let (_folder, deployment) = copy_of_sample();
    let image = photo(&format!("{STRANGER}/q1_rotpersp.jpg"));
    let get = |include_image| GetItemRequest {
        id: "new/1".to_owned(),
        include_image,
        ..Default::default()
    };
    let gallery_file = deployment.join("items.db");
    for kept in [false, true] {
        if kept {
            let gallery =
                Gallery::open(&gallery_file, Access::ReadWrite, IndexParams::default()).unwrap();
            gallery.keep_images().unwrap();
        }
        let running = Running::start(&deployment, &[]).await;
        let mut gallery = GalleryServiceClient::new(running.channel.clone());
        let item = new_item("new/1", image.clone());
        gallery.upsert_item(item).await.unwrap();
        let answer = gallery.get_item(get(true)).await.unwrap().into_inner();
        assert_eq!(answer.image == image, kept);
        assert_eq!(answer.image.is_empty(), !kept);
        let answer = gallery.get_item(get(false)).await.unwrap().into_inner();
        assert!(answer.image.is_empty());
        running.stop().await;
    }
}

#[tokio::test]
async fn answers_are_sent_at_once() {
    let running = Running::sample(&[]).await;
    let request = EmbedRequest {
        deployment: String::new(),
        image: known().into(),
    };
    let mut client = RetrievalServiceClient::new(running.channel.clone());
    let embedded = client.embed(request).await.unwrap().into_inner();
    let query = SearchRequest {
        query: Some(search_request::Query::Embedding(
            embedded.embedding.unwrap(),
        )),
        ..SearchRequest::default()
    };
    let mut times = Vec::new();
    for _ in 0..21 {
        let begun = Instant::now();
        search(&running, query.clone()).await.unwrap();
        times.push(begun.elapsed());
    }
    times.sort_unstable();
    // A delayed acknowledgement takes 40 ms each time, and other work on the machine as long now and then.
    assert!(times[4] < Duration::from_millis(20), "{times:?}");
    running.stop().await;
}
