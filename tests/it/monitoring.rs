//! Decisions on the record, their audit, and what is said of the promise: over a real socket, with
//! the real model.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Output;

use crate::common::{Running, copy_of_sample, copy_with_images, photos, run, text};
use matchpoint::deployment::{Folder, set_canaries};
use matchpoint::journal::entry::SourceKind;
use matchpoint::journal::read::JournalReader;
use matchpoint::monitor::NewCanary;
use matchpoint_client::Client;
use matchpoint_client::proto::annotation_result::Result as Answer;
use matchpoint_client::proto::gallery_service_client::GalleryServiceClient;
use matchpoint_client::proto::ground_truth::Truth as Shown;
use matchpoint_client::proto::monitoring_service_client::MonitoringServiceClient;
use matchpoint_client::proto::operating_point_service_client::OperatingPointServiceClient;
use matchpoint_client::proto::retrieval_service_client::RetrievalServiceClient;
use matchpoint_client::proto::{
    ActivateOperatingPointRequest, AnnotateDecisionsRequest, Annotation, AnnotationKind,
    AnnotationOutcome, CanaryRound, Decision, DeleteItemRequest, DriftReset, EmbedRequest,
    Evidence, GetDecisionRequest, GetDriftRequest, GetDriftResponse, GroundTruth,
    ListAuditQueueRequest, ListItemsRequest, Reference, RelabelItemRequest, ReplayCanariesRequest,
    ResetDriftRequest, SearchRequest, SearchResponse, TrafficShare, UpsertItemRequest, Vector,
    Verdict, VerifyRequest, reference, search_request, upsert_item_request, verify_request,
};
use matchpoint_embed::pixels::{ImageLimits, Pixels};
use serde_json::Value;
use tonic::transport::Channel;
use tonic::{Code, Status};
use tonic_types::StatusExt;

const KNOWN: &str = "gc_fishes_fish3";
const STRANGER: &str = "gc_monuments_eiffelTower";

/// Every decision is drawn.
const ALL: (&str, &str) = ("MATCHPOINT_AUDIT_SAMPLING_RATES", "1,1,1,1,1,1");

fn retrieval(running: &Running) -> RetrievalServiceClient<Channel> {
    RetrievalServiceClient::new(running.channel.clone())
}

fn monitoring(running: &Running) -> MonitoringServiceClient<Channel> {
    MonitoringServiceClient::new(running.channel.clone())
}

async fn embedded(running: &Running, label: &str) -> Vector {
    let image = fs::read(photos().join(format!("images/{label}/q2_photometric.jpg"))).unwrap();
    let request = EmbedRequest {
        image: image.into(),
        ..EmbedRequest::default()
    };
    let answer = retrieval(running).embed(request).await.unwrap();
    answer.into_inner().embedding.unwrap()
}

async fn search(running: &Running, vector: &Vector, filter: &str) -> SearchResponse {
    let request = SearchRequest {
        query: Some(search_request::Query::Embedding(vector.clone())),
        filter: filter.to_owned(),
        ..SearchRequest::default()
    };
    let answer = retrieval(running).search(request).await.unwrap();
    answer.into_inner()
}

fn says(decision_id: &str, truth: Shown) -> Annotation {
    Annotation {
        decision_id: decision_id.to_owned(),
        ground_truth: Some(GroundTruth {
            truth: Some(truth),
            ..GroundTruth::default()
        }),
        annotator: "anna".to_owned(),
        ..Annotation::default()
    }
}

fn stranger(decision_id: &str, name: &str) -> Annotation {
    let mut report = says(decision_id, Shown::NotEnrolled(true));
    report.ground_truth.as_mut().unwrap().stranger_name = name.to_owned();
    report
}

async fn report(running: &Running, reports: Vec<Annotation>) -> Vec<Answer> {
    let request = AnnotateDecisionsRequest {
        annotations: reports,
        ..AnnotateDecisionsRequest::default()
    };
    let answer = monitoring(running)
        .annotate_decisions(request)
        .await
        .unwrap();
    let results = answer.into_inner().results;
    results.into_iter().map(|r| r.result.unwrap()).collect()
}

async fn drift(running: &Running) -> GetDriftResponse {
    let mut client = monitoring(running);
    let answer = client.get_drift(GetDriftRequest::default()).await;
    answer.unwrap().into_inner()
}

/// Without what the gallery's own searches say, which may come to their end at any time.
fn settled(drift: GetDriftResponse) -> GetDriftResponse {
    GetDriftResponse {
        left_out: None,
        findings: Vec::new(),
        ..drift
    }
}

fn verdict(drift: &GetDriftResponse, subject: &str) -> Verdict {
    let mut of = drift.findings.iter().filter(|f| f.subject == subject);
    of.next().unwrap().verdict()
}

/// What the journal counted, by source and decision.
fn recounted(deployment: &Path) -> BTreeMap<(SourceKind, &'static str), u64> {
    let reader = JournalReader::open(&deployment.join("decisions.db")).unwrap();
    reader.verify().unwrap();
    let mut counts = BTreeMap::new();
    for total in reader.totals().unwrap().0 {
        let key = (total.key.source, total.key.decision.as_str());
        *counts.entry(key).or_default() += total.count.decisions;
    }
    counts
}

#[tokio::test]
async fn every_decision_is_on_the_record_and_comparisons_are_told_from_searches() {
    let (_folder, deployment) = copy_of_sample();
    let running = Running::start(&deployment, &[ALL]).await;
    let (known, stranger) = (
        embedded(&running, KNOWN).await,
        embedded(&running, STRANGER).await,
    );
    let accepted = search(&running, &known, "").await;
    let rejected = search(&running, &stranger, "").await;
    search(&running, &known, "label != nothing").await;
    let request = VerifyRequest {
        query: Some(verify_request::Query::Embedding(known.clone())),
        reference: Some(Reference {
            source: Some(reference::Source::Embedding(stranger)),
        }),
        ..VerifyRequest::default()
    };
    retrieval(&running).verify(request).await.unwrap();

    let request = ListAuditQueueRequest::default();
    let waiting = monitoring(&running).list_audit_queue(request).await;
    let waiting = waiting.unwrap().into_inner().decisions;
    // The newest first; under a filter nothing is to be labelled, for it is in no rate.
    let ids: Vec<&str> = waiting.iter().map(|d| d.decision_id.as_str()).collect();
    assert_eq!(ids, [&rejected.decision_id, &accepted.decision_id]);
    let first = &waiting[1];
    assert_eq!(first.decision(), Decision::Accept);
    assert_eq!(first.matched_label, KNOWN);
    assert_eq!(first.matched_item_id, accepted.matches[0].id);
    assert_eq!(first.score, Some(accepted.matches[0].score));
    assert!(first.margin.unwrap() > 0.0);
    assert_eq!(first.gallery_items, accepted.gallery_items);
    assert_eq!(drift(&running).await.sampled, 2);
    // The margin is of the query and the gallery, whatever the answer is to have.
    let narrow = SearchRequest {
        query: Some(search_request::Query::Embedding(known.clone())),
        limit: 1,
        min_score: Some(0.999),
        ..SearchRequest::default()
    };
    let narrow = retrieval(&running)
        .search(narrow)
        .await
        .unwrap()
        .into_inner();
    assert!(narrow.matches.len() <= 1);
    let request = GetDecisionRequest {
        decision_id: narrow.decision_id,
        ..GetDecisionRequest::default()
    };
    let shown = monitoring(&running).get_decision(request).await.unwrap();
    assert_eq!(shown.into_inner().decision.unwrap().margin, first.margin);

    running.stop().await;
    let counted = recounted(&deployment);
    let expected = [
        ((SourceKind::Live, "accept"), 3),
        ((SourceKind::Live, "reject"), 1),
        ((SourceKind::Comparison, "reject"), 1),
    ];
    assert_eq!(counted, BTreeMap::from(expected));
}

#[tokio::test]
async fn labels_are_checked_one_by_one_corrected_and_kept_with_their_history() {
    let running = Running::sample(&[ALL]).await;
    let known = embedded(&running, KNOWN).await;
    let id = search(&running, &known, "").await.decision_id;
    let label = |label: &str| says(&id, Shown::Label(label.to_owned()));
    let answers = report(
        &running,
        vec![
            label("no such label"),
            label(KNOWN),
            label(KNOWN),
            says(&id, Shown::NotEnrolled(true)),
            says("nothing", Shown::Unusable(true)),
            Annotation::default(),
            label(&KNOWN.to_uppercase()),
            stranger(&id, "red coat"),
            stranger(&id, &KNOWN.to_uppercase()),
            stranger(&id, KNOWN),
        ],
    )
    .await;
    let said: Vec<String> = answers
        .iter()
        .map(|answer| match answer {
            Answer::Outcome(outcome) => {
                format!("{:?}", AnnotationOutcome::try_from(*outcome).unwrap())
            }
            Answer::Error(error) => error.message.clone(),
        })
        .collect();
    assert!(
        said[0].contains("`no such label` is not enrolled"),
        "{said:?}"
    );
    assert_eq!(said[1..4], ["Added", "Repeated", "Corrected"]);
    assert!(said[4].contains("no id of a decision"), "{said:?}");
    assert!(said[5].contains("ground_truth is required"), "{said:?}");
    let spelling = format!("(enrolled: `{KNOWN}`; capitals)");
    assert!(said[6].contains(&spelling), "{said:?}");
    assert_eq!(said[7], "Corrected");
    assert!(
        said[8].contains(&spelling) && said[8].contains("another name"),
        "{said:?}"
    );
    assert!(
        said[9].contains("is enrolled, and is no stranger"),
        "{said:?}"
    );

    let request = GetDecisionRequest {
        decision_id: id,
        include_image: true,
        ..GetDecisionRequest::default()
    };
    let found = monitoring(&running).get_decision(request).await.unwrap();
    let found = found.into_inner();
    let truth = found.decision.unwrap().ground_truth.unwrap();
    assert_eq!(truth.truth, Some(Shown::NotEnrolled(true)));
    assert_eq!(truth.stranger_name, "red coat");
    assert_eq!(found.annotations.len(), 3);
    assert_eq!(found.annotations[0].annotator, "anna");
    assert_eq!(found.image, Vec::<u8>::new());

    let request = GetDecisionRequest {
        decision_id: "0199f0aa-7c1b-7e0e-8d63-0f2a9c1d4e5f".to_owned(),
        ..GetDecisionRequest::default()
    };
    let refused = monitoring(&running).get_decision(request).await;
    let status = refused.unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
    // Its last digits name another journal.
    let details = status.get_details_error_info().unwrap();
    assert_eq!(details.reason, "WRONG_REPLICA");
    assert_eq!(details.metadata["journal"], "4e5f");
}

#[tokio::test]
async fn rates_are_unknown_before_labels_and_false_accepts_raise_an_alarm_that_outlives_a_restart()
{
    let (_folder, deployment) = copy_of_sample();
    let running = Running::start(&deployment, &[ALL]).await;
    let (known, stranger) = (
        embedded(&running, KNOWN).await,
        embedded(&running, STRANGER).await,
    );
    let (mut accepted, mut rejected) = (Vec::new(), Vec::new());
    for _ in 0..30 {
        accepted.push(search(&running, &known, "").await.decision_id);
        rejected.push(search(&running, &stranger, "").await.decision_id);
    }
    let before = drift(&running).await;
    assert_eq!((before.sampled, before.annotated), (60, 0));
    assert_eq!((&before.far, &before.frr), (&None, &None));
    assert_eq!(verdict(&before, "far"), Verdict::Unknown);

    // Nobody was where the accepts were made: they were strangers.
    let strangers = accepted.iter().chain(&rejected);
    let reports = strangers.map(|id| says(id, Shown::NotEnrolled(true)));
    report(&running, reports.collect()).await;
    let after = drift(&running).await;
    let far = after.far.unwrap();
    assert!((far.rate - 0.5).abs() < 1e-12, "{far:?}");
    assert!(far.lower < 0.5 && 0.3 < far.lower, "{far:?}");
    assert_eq!(after.frr, None);
    let evidence = after.far_evidence.unwrap();
    assert!(evidence.alarm && evidence.limit_is_target, "{evidence:?}");
    assert!((evidence.limit - 0.1).abs() < 1e-12);
    assert_eq!(verdict(&after, "far"), Verdict::Broken);
    // All false accepts are of one label, and the labels would do for a calibration.
    let (group, needs) = (
        &after.error_groups[0],
        after.recalibration.as_ref().unwrap(),
    );
    assert_eq!((group.rate.as_str(), group.value.as_str()), ("far", KNOWN));
    assert_eq!((group.errors, group.trials), (30, 30));
    assert_eq!((group.total_errors, group.total_trials), (30, 60));
    // ln(0.1) / ln(0.9), rounded up.
    assert_eq!((needs.rate.as_str(), needs.trials_needed), ("far", 22));
    assert!(Some(50) < needs.trials_present, "{needs:?}");
    let next = &after.findings[0].recommendation;
    assert!(next.contains("30 of 30 labelled false accepts"), "{next}");
    assert!(next.contains("That is enough"), "{next}");
    let last = after.history.last().unwrap();
    assert_eq!(
        last.far.as_ref().unwrap().rate.to_bits(),
        far.rate.to_bits()
    );
    // Since when, and that the operating point can be asked for by its id.
    let span = after.first_sampled_unix_milliseconds..=after.last_sampled_unix_milliseconds;
    assert!(
        span.contains(&evidence.alarm_unix_milliseconds),
        "{span:?} {evidence:?}"
    );
    assert!(1.0 < evidence.cusum_ratio && after.active, "{evidence:?}");
    let by_id = GetDriftRequest {
        operating_point_id: after.operating_point_id.clone(),
        ..GetDriftRequest::default()
    };
    let mut client = monitoring(&running);
    let found = client.get_drift(by_id).await.unwrap().into_inner();
    assert_eq!(settled(found), settled(drift(&running).await));
    let unknown = GetDriftRequest {
        operating_point_id: "op-0000000000000000".to_owned(),
        ..GetDriftRequest::default()
    };
    assert!(client.get_drift(unknown).await.is_err());

    running.stop().await;
    let again = Running::start(&deployment, &[ALL]).await;
    assert!(drift(&again).await.far_evidence.unwrap().alarm);
    // Another design is another sample, with evidence of its own.
    again.stop().await;
    let redesigned = Running::start(&deployment, &[]).await;
    assert_eq!(drift(&redesigned).await.sampled, 0);
}

#[tokio::test]
async fn what_a_sample_stands_for_is_counted_and_not_estimated() {
    let half = ("MATCHPOINT_AUDIT_SAMPLING_RATES", "0.5,0.5,0.5,0.5,0.5,0.5");
    let running = Running::sample(&[half]).await;
    let (known, stranger) = (
        embedded(&running, KNOWN).await,
        embedded(&running, STRANGER).await,
    );
    let mut decisions = Vec::new();
    for _ in 0..40 {
        decisions.push(search(&running, &known, "").await.decision_id);
        decisions.push(search(&running, &stranger, "").await.decision_id);
    }
    let mut sampled = Vec::new();
    for id in decisions {
        let request = GetDecisionRequest {
            decision_id: id.clone(),
            ..GetDecisionRequest::default()
        };
        let answer = monitoring(&running).get_decision(request).await.unwrap();
        let decision = answer.into_inner().decision.unwrap();
        if decision.sampled {
            sampled.push(says(&id, Shown::NotEnrolled(true)));
        }
    }
    let count = sampled.len();
    report(&running, sampled).await;
    let far = drift(&running).await.far.unwrap();
    // Twice the sample would be another number each time.
    assert!(
        (far.weighted_trials - 80.0).abs() < 1e-9,
        "{far:?}, {count} sampled"
    );
    assert!((far.weighted_errors - 40.0).abs() < 1e-9, "{far:?}");
    running.stop().await;
}

async fn reset(running: &Running, why: &str) -> Result<DriftReset, Status> {
    let request = ResetDriftRequest {
        reason: why.to_owned(),
        requested_by: "anna".to_owned(),
        ..ResetDriftRequest::default()
    };
    let answer = monitoring(running).reset_drift(request).await?;
    Ok(answer.into_inner().reset.unwrap())
}

/// Searches for the same thing, and says that nobody was there.
async fn strangers(running: &Running, vector: &Vector, count: usize) {
    let mut reports = Vec::new();
    for _ in 0..count {
        let id = search(running, vector, "").await.decision_id;
        reports.push(says(&id, Shown::NotEnrolled(true)));
    }
    report(running, reports).await;
}

#[tokio::test]
async fn evidence_is_begun_anew_at_a_price_unless_nothing_was_decided_since() {
    let (_folder, deployment) = copy_of_sample();
    let running = Running::start(&deployment, &[ALL]).await;
    let known = embedded(&running, KNOWN).await;
    strangers(&running, &known, 30).await;
    let before = drift(&running).await;
    assert_eq!(verdict(&before, "far"), Verdict::Broken);
    assert_eq!(before.resets, []);
    let refused = reset(&running, "  ").await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);

    // What is not labelled yet waits no more.
    search(&running, &known, "").await;
    let first = reset(&running, "cleaned the camera").await.unwrap();
    let again = reset(&running, "cleaned the camera").await.unwrap();
    let after = drift(&running).await;
    assert_eq!(after.resets, std::slice::from_ref(&again));
    assert!(first.unix_milliseconds <= again.unix_milliseconds);
    assert_eq!((after.sampled, &after.far), (0, &None));
    assert_eq!(verdict(&after, "far"), Verdict::Unknown);
    let alarm = |drift: &GetDriftResponse| {
        let evidence = drift.far_evidence.as_ref().unwrap();
        (evidence.alarm, evidence.log_e_value_alarm.exp())
    };
    let (raised, at) = alarm(&after);
    assert!(!raised && (at - 40.0).abs() < 1e-9, "{at}");
    let waiting = monitoring(&running)
        .list_audit_queue(ListAuditQueueRequest::default())
        .await;
    assert_eq!(waiting.unwrap().into_inner().decisions, []);

    // It was not fixed: the alarm comes back, and says since when; so it is after a restart.
    strangers(&running, &known, 40).await;
    let broken = drift(&running).await;
    assert_eq!(
        (verdict(&broken, "far"), alarm(&broken).0),
        (Verdict::Broken, true)
    );
    let far = broken.findings.iter().find(|one| one.subject == "far");
    let says = &far.unwrap().summary;
    assert!(says.contains("since the latest reset"), "{says}");
    running.stop().await;
    let running = Running::start(&deployment, &[ALL]).await;
    let kept = drift(&running).await;
    assert_eq!((kept.sampled, alarm(&kept).0), (40, true));
    reset(&running, "cleaned it once more").await.unwrap();
    let third = drift(&running).await;
    assert_eq!(third.resets.len(), 2);
    assert!((alarm(&third).1 - 80.0).abs() < 1e-9);
    // A search without a label is one that traffic and reviews are tested on.
    search(&running, &known, "").await;
    let paid = reset(&running, "cleaned it once more").await.unwrap();
    let moved = reset(&running, "cleaned it once more").await.unwrap();
    let fourth = drift(&running).await;
    assert_eq!((fourth.resets.len(), &fourth.resets[2]), (3, &moved));
    assert!(paid.unix_milliseconds <= moved.unix_milliseconds);
    assert!((alarm(&fourth).1 - 160.0).abs() < 1e-9);
    running.stop().await;

    // Nothing is promised where nothing decides.
    Folder::open(&deployment).unwrap().deactivate().unwrap();
    let running = Running::start(&deployment, &[ALL]).await;
    let refused = reset(&running, "cleaned the camera").await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    let reason = refused.get_details_error_info().unwrap().reason;
    assert_eq!(reason, "NO_OPERATING_POINT");
}

#[tokio::test]
async fn what_is_said_of_accepts_unasked_is_a_precision_and_never_a_rate() {
    let none = (
        "MATCHPOINT_AUDIT_SAMPLING_RATES",
        "1e-6,1e-6,1e-6,1e-6,1e-6,1e-6",
    );
    let running = Running::sample(&[none]).await;
    let known = embedded(&running, KNOWN).await;
    let mut reports = Vec::new();
    for number in 0..4 {
        let id = search(&running, &known, "").await.decision_id;
        reports.push(match number {
            0 => says(&id, Shown::NotEnrolled(true)),
            _ => says(&id, Shown::Label(KNOWN.to_owned())),
        });
    }
    report(&running, reports).await;
    let found = drift(&running).await;
    assert_eq!((found.feedback_right, found.feedback_wrong), (3, 1));
    assert_eq!((found.far, found.annotated), (None, 0));
}

#[tokio::test]
async fn a_complaint_about_a_drawn_decision_enters_no_rate_and_leaves_it_in_the_queue() {
    let running = Running::sample(&[ALL]).await;
    let known = embedded(&running, KNOWN).await;
    let mut complaints = Vec::new();
    for _ in 0..30 {
        let id = search(&running, &known, "").await.decision_id;
        complaints.push(Annotation {
            kind: AnnotationKind::Feedback.into(),
            ..says(&id, Shown::NotEnrolled(true))
        });
    }
    let asked = complaints[0].decision_id.clone();
    report(&running, complaints).await;
    let found = drift(&running).await;
    assert_eq!((found.sampled, found.annotated), (30, 0));
    assert_eq!((&found.far, &found.fdr), (&None, &None));
    assert!(!found.far_evidence.unwrap().alarm);
    assert_eq!((found.feedback_right, found.feedback_wrong), (0, 30));
    let waiting = monitoring(&running)
        .list_audit_queue(ListAuditQueueRequest::default())
        .await;
    assert_eq!(waiting.unwrap().into_inner().decisions.len(), 30);

    // Somebody who is asked says otherwise; both are on the record.
    report(&running, vec![says(&asked, Shown::Label(KNOWN.to_owned()))]).await;
    let found = drift(&running).await;
    assert_eq!((found.annotated, found.feedback_wrong), (1, 30));
    let request = GetDecisionRequest {
        decision_id: asked,
        ..GetDecisionRequest::default()
    };
    let shown = monitoring(&running).get_decision(request).await.unwrap();
    let kinds: Vec<AnnotationKind> = shown
        .into_inner()
        .annotations
        .iter()
        .map(Annotation::kind)
        .collect();
    assert_eq!(kinds, [AnnotationKind::Feedback, AnnotationKind::Audit]);
}

#[tokio::test]
async fn truth_is_judged_by_the_gallery_that_was_searched_and_not_by_that_of_today() {
    truth_is_judged_before(async |gallery, ids, stranger| {
        let request = UpsertItemRequest {
            id: "new".to_owned(),
            label: STRANGER.to_owned(),
            source: Some(upsert_item_request::Source::Embedding(stranger)),
            ..UpsertItemRequest::default()
        };
        gallery.upsert_item(request).await.unwrap();
        for id in ids {
            let request = DeleteItemRequest {
                id,
                ..DeleteItemRequest::default()
            };
            gallery.delete_item(request).await.unwrap();
        }
    })
    .await;
}

#[tokio::test]
async fn another_label_for_an_item_counts_as_one_that_went_and_one_that_came() {
    truth_is_judged_before(async |gallery, ids, _| {
        for id in ids {
            let request = RelabelItemRequest {
                id,
                label: STRANGER.to_owned(),
                ..RelabelItemRequest::default()
            };
            gallery.relabel_item(request).await.unwrap();
        }
    })
    .await;
}

/// By today's label the accept would be one of a stranger.
#[tokio::test]
async fn a_label_that_an_item_got_since_is_not_taken_for_that_of_a_stranger() {
    let (_folder, deployment) = copy_of_sample();
    let running = Running::start(&deployment, &[ALL]).await;
    let known = embedded(&running, KNOWN).await;
    let accepted = search(&running, &known, "").await;
    assert_eq!(accepted.decision(), Decision::Accept);
    let request = RelabelItemRequest {
        id: accepted.decided_item_id.clone(),
        label: "renamed".to_owned(),
        ..RelabelItemRequest::default()
    };
    let mut gallery = GalleryServiceClient::new(running.channel.clone());
    gallery.relabel_item(request).await.unwrap();
    let label = |label: &str| says(&accepted.decision_id, Shown::Label(label.to_owned()));
    let answers = report(&running, vec![label("renamed"), label(KNOWN)]).await;
    let Answer::Error(refused) = &answers[0] else {
        panic!("{answers:?}")
    };
    let then = format!("was `{KNOWN}` then, and is `renamed` since");
    assert!(refused.message.contains(&then), "{refused:?}");
    let added = Answer::Outcome(AnnotationOutcome::Added.into());
    assert_eq!(answers[1], added);
    let frr = drift(&running).await.frr.unwrap();
    assert_eq!((frr.annotated_trials, frr.annotated_errors), (1, 0));
}

/// Searches, lets the known label go and the stranger's come, and says of both searches what they showed.
async fn truth_is_judged_before(
    change: impl AsyncFn(&mut GalleryServiceClient<Channel>, Vec<String>, Vector),
) {
    let (_folder, deployment) = copy_of_sample();
    let running = Running::start(&deployment, &[ALL]).await;
    let (known, stranger) = (
        embedded(&running, KNOWN).await,
        embedded(&running, STRANGER).await,
    );
    let rejected = search(&running, &stranger, "").await;
    assert_eq!(rejected.decision(), Decision::Reject);
    let accepted = search(&running, &known, "").await;
    let mut gallery = GalleryServiceClient::new(running.channel.clone());
    let listed = gallery.list_items(ListItemsRequest::default()).await;
    let items = listed.unwrap().into_inner().items.into_iter();
    let known = items.filter(|item| item.label == KNOWN);
    change(&mut gallery, known.map(|item| item.id).collect(), stranger).await;
    // The stranger is enrolled by now, and the other one is not any more.
    let label = |answer: &SearchResponse, label: &str| {
        says(&answer.decision_id, Shown::Label(label.to_owned()))
    };
    let reports = vec![label(&rejected, STRANGER), label(&accepted, KNOWN)];
    let answers = report(&running, reports).await;
    let added = Answer::Outcome(AnnotationOutcome::Added.into());
    assert_eq!(answers, [added.clone(), added]);
    let check = |found: GetDriftResponse| {
        assert_eq!((found.sampled, found.annotated), (2, 2));
        let (far, frr) = (found.far.unwrap(), found.frr.unwrap());
        assert_eq!((far.annotated_trials, far.annotated_errors), (1, 0));
        assert_eq!((frr.annotated_trials, frr.annotated_errors), (1, 0));
    };
    check(drift(&running).await);
    running.stop().await;
    check(drift(&Running::start(&deployment, &[ALL]).await).await);
}

#[tokio::test]
async fn with_room_to_grow_each_decision_is_held_against_the_far_that_its_answer_promised() {
    let (_folder, deployment) = copy_of_sample();
    let calibrated = run(&[
        "calibrate",
        deployment.to_str().unwrap(),
        "--queries",
        photos().join("calibrate.csv").to_str().unwrap(),
        "--target-far",
        "0.2",
        "--confidence",
        "0.9",
        "--grow-to",
        "72",
    ]);
    assert!(calibrated.status.success(), "{}", text(&calibrated.stderr));
    let running = Running::start(&deployment, &[ALL]).await;
    let known = embedded(&running, KNOWN).await;
    let promised = async |running: &Running| {
        let answer = search(running, &known, "").await;
        assert_eq!(answer.decision(), Decision::Accept);
        answer.basis.unwrap().target_far.unwrap()
    };
    let evidence = async |running: &Running| drift(running).await.far_evidence.unwrap();

    let tight = promised(&running).await;
    assert!(tight < 0.11, "{tight}");
    strangers(&running, &known, 12).await;
    let before = evidence(&running).await;
    assert_eq!((before.limit, before.limit_is_target), (tight, true));
    assert!(before.alarm);

    // One more item, and answers promise the FAR of the larger gallery; the alarm stays.
    let stranger = embedded(&running, STRANGER).await;
    let request = UpsertItemRequest {
        id: "new".to_owned(),
        label: STRANGER.to_owned(),
        source: Some(upsert_item_request::Source::Embedding(stranger)),
        ..UpsertItemRequest::default()
    };
    let mut gallery = GalleryServiceClient::new(running.channel.clone());
    gallery.upsert_item(request).await.unwrap();
    let loose = promised(&running).await;
    assert_eq!(Some(loose), Some(0.2));
    let after = evidence(&running).await;
    assert_eq!((after.limit, after.limit_is_target), (loose, true));
    assert!(after.alarm && after.log_e_value <= before.log_e_value + 1e-9);
    running.stop().await;
    let running = Running::start(&deployment, &[ALL]).await;
    let again = evidence(&running).await;
    let figures = |found: &Evidence| (found.limit, found.alarm, found.log_e_value);
    assert_eq!(figures(&again), figures(&after));
    running.stop().await;
}

#[tokio::test]
async fn images_of_drawn_decisions_are_kept_where_that_is_switched_on() {
    let running = Running::sample(&[ALL, ("MATCHPOINT_AUDIT_IMAGES", "true")]).await;
    let image = fs::read(photos().join(format!("images/{KNOWN}/q2_photometric.jpg"))).unwrap();
    let request = SearchRequest {
        query: Some(search_request::Query::Image(image.clone().into())),
        ..SearchRequest::default()
    };
    let answer = retrieval(&running).search(request).await.unwrap();
    let request = GetDecisionRequest {
        decision_id: answer.into_inner().decision_id,
        include_image: true,
        ..GetDecisionRequest::default()
    };
    let found = monitoring(&running).get_decision(request).await.unwrap();
    assert_eq!(found.into_inner().image, image);
}

#[tokio::test]
async fn without_a_journal_the_service_decides_and_says_that_it_keeps_nothing() {
    let running = Running::sample(&[("MATCHPOINT_JOURNAL", "off")]).await;
    let known = embedded(&running, KNOWN).await;
    assert_eq!(
        search(&running, &known, "").await.decision(),
        Decision::Accept
    );
    let mut client = monitoring(&running);
    let refused = client.get_drift(GetDriftRequest::default()).await;
    let status = refused.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition);
    let reason = status.get_details_error_info().unwrap().reason;
    assert_eq!(reason, "JOURNAL_OFF");
}

#[tokio::test]
async fn canaries_are_judged_apart_from_traffic_and_a_change_is_named() {
    let (_folder, deployment) = copy_of_sample();
    let canary = |label: &str, picture: &str| NewCanary {
        name: format!("{label}/{picture}"),
        label: label.to_owned(),
        path: photos().join(format!("images/{label}/{picture}.jpg")),
    };
    let canaries = [
        canary(KNOWN, "q1_rotpersp"),
        canary(KNOWN, "q2_photometric"),
        canary(STRANGER, "q1_rotpersp"),
        canary(STRANGER, "q2_photometric"),
    ];
    set_canaries(&deployment, &canaries, None).unwrap();
    let running = Running::start(&deployment, &[ALL, ("MATCHPOINT_CANARY_MINUTES", "0")]).await;
    let first = replayed(&running).await;
    assert_eq!((first.mated, first.mated_errors), (2, 0));
    assert_eq!((first.non_mated, first.non_mated_errors), (2, 0));
    assert_eq!((first.changed.len(), first.failed.len()), (0, 0));
    assert_eq!(replayed(&running).await.changed, Vec::<String>::new());
    assert_eq!(drift(&running).await.sampled, 0);

    // Enrolled now: its canaries are to be accepted, and are, which they were not at first.
    let image = fs::read(photos().join(format!("images/{STRANGER}/q2_photometric.jpg"))).unwrap();
    let request = UpsertItemRequest {
        id: "new".to_owned(),
        label: STRANGER.to_owned(),
        source: Some(upsert_item_request::Source::Image(image.into())),
        ..UpsertItemRequest::default()
    };
    let mut gallery = GalleryServiceClient::new(running.channel.clone());
    gallery.upsert_item(request).await.unwrap();
    // And one picture is lost.
    let lost = fs::read_dir(deployment.join("canaries")).unwrap();
    let lost = lost.map(|entry| entry.unwrap().path());
    let known = fs::read(photos().join(format!("images/{KNOWN}/q1_rotpersp.jpg"))).unwrap();
    let lost = lost
        .into_iter()
        .find(|path| fs::read(path).unwrap() == known);
    fs::remove_file(lost.unwrap()).unwrap();
    let second = replayed(&running).await;
    assert_eq!((second.mated, second.non_mated), (3, 0));
    let named = format!("{STRANGER}/q2_photometric");
    assert!(second.changed.contains(&named), "{second:?}");
    assert!(second.failed[0].contains("q1_rotpersp"), "{second:?}");
    let found = drift(&running).await;
    assert_eq!(found.canaries, Some(second));
    assert_eq!(verdict(&found, "canary"), Verdict::Warning);

    running.stop().await;
    let counted = recounted(&deployment);
    let kinds: Vec<SourceKind> = counted.keys().map(|(kind, _)| *kind).collect();
    assert!(!kinds.contains(&SourceKind::Live), "{counted:?}");
}

fn canaries_set(deployment: &Path, more: &[&str]) -> Output {
    let set = ["canaries", "set", deployment.to_str().unwrap()];
    run(&[&set[..], more].concat())
}

fn listed(deployment: &Path) -> Vec<Value> {
    let list = fs::read(deployment.join("canaries/canaries.json")).unwrap();
    serde_json::from_slice(&list).unwrap()
}

#[tokio::test]
async fn canaries_of_the_gallery_are_found_when_changed_and_are_strangers_without_their_label() {
    let (_folder, deployment) = copy_with_images();
    let running = Running::start(&deployment, &[ALL, ("MATCHPOINT_CANARY_MINUTES", "0")]).await;
    // Beside the server, which has the gallery open for writing.
    let set = canaries_set(&deployment, &["--from-gallery", "5"]);
    assert!(set.status.success(), "{}", text(&set.stderr));
    let first = replayed(&running).await;
    assert_eq!((first.mated, first.mated_errors), (15, 0), "{first:?}");
    // Each finds itself with a similarity of 1, where its own label is not left out.
    assert_eq!(
        (first.non_mated, first.non_mated_errors),
        (5, 0),
        "{first:?}"
    );

    // The picture of one of them is enrolled under another label.
    let list = listed(&deployment);
    let left_out = list.iter().find(|canary| canary["among"] == "other_labels");
    let [file, name] = ["file", "name"].map(|key| left_out.unwrap()[key].as_str().unwrap());
    let image = fs::read(deployment.join("canaries").join(file)).unwrap();
    let mut gallery = GalleryServiceClient::new(running.channel.clone());
    let twin = UpsertItemRequest {
        id: "zz twin".to_owned(),
        label: "twin".to_owned(),
        source: Some(upsert_item_request::Source::Image(image.into())),
        ..UpsertItemRequest::default()
    };
    gallery.upsert_item(twin).await.unwrap();
    let second = replayed(&running).await;
    assert_eq!((second.mated, second.mated_errors), (15, 0), "{second:?}");
    assert_eq!((second.non_mated, second.non_mated_errors), (5, 1));
    assert_eq!(second.changed, [name]);

    // Without both of them, its changed pictures show a stranger.
    for id in ["zz twin", name.strip_suffix(" (left out)").unwrap()] {
        let request = DeleteItemRequest {
            id: id.to_owned(),
            ..DeleteItemRequest::default()
        };
        gallery.delete_item(request).await.unwrap();
    }
    let third = replayed(&running).await;
    assert_eq!((third.mated, third.mated_errors), (12, 0), "{third:?}");
    assert_eq!((third.non_mated, third.non_mated_errors), (8, 0));
    assert_eq!(drift(&running).await.sampled, 0);

    running.stop().await;
    let counted = recounted(&deployment);
    let of = |kind| {
        let counts = counted.iter().filter(|((of, _), _)| *of == kind);
        counts.map(|(_, count)| count).sum::<u64>()
    };
    let (mated, non_mated) = (of(SourceKind::MatedCanary), of(SourceKind::NonMatedCanary));
    assert_eq!((mated, non_mated), (15 + 15 + 12, 5 + 5 + 8));
    assert_eq!(
        counted.values().sum::<u64>(),
        mated + non_mated,
        "no traffic"
    );
}

#[test]
fn canaries_of_the_gallery_are_what_there_is_and_what_cannot_be_used_is_named() {
    let (_bare, bare) = copy_of_sample();
    let none = canaries_set(&bare, &["--from-gallery", "5"]);
    assert_eq!(none.status.code(), Some(66));
    assert!(text(&none.stderr).contains("--keep-images"));
    assert!(!bare.join("canaries").exists() && !bare.join("canaries.new").exists());

    let (_folder, deployment) = copy_with_images();
    for (wrong, said) in [
        (
            &["--from-gallery", "0"][..],
            "write how many items, 1 or more",
        ),
        (&[], "SOURCE"),
        (&["--from-gallery", "501"], "there is room for 500 items"),
    ] {
        let refused = canaries_set(&deployment, wrong);
        assert_eq!(refused.status.code(), Some(2), "{wrong:?}");
        let stderr = text(&refused.stderr);
        assert!(stderr.contains(said), "{stderr}");
    }

    let report = |code, more: &[&str]| -> Value {
        let set = canaries_set(&deployment, &[more, &["--json"]].concat());
        assert_eq!(set.status.code(), Some(code), "{}", text(&set.stderr));
        serde_json::from_slice(&set.stdout).unwrap()
    };
    let found = report(0, &["--from-gallery", "100"]);
    assert_eq!(
        (&found["canaries"], &found["labels"]),
        (&144.into(), &36.into())
    );
    assert_eq!(found["from_gallery"]["asked"], 100);
    assert_eq!(found["from_gallery"]["items"], 36);
    let said = canaries_set(&deployment, &["--from-gallery", "100"]);
    assert!(
        text(&said.stdout).contains("100 were asked for"),
        "{said:?}"
    );
    let few = report(0, &["--from-gallery", "3"]);
    assert_eq!((&few["canaries"], &few["labels"]), (&12.into(), &3.into()));
    let chosen = listed(&deployment);
    report(0, &["--from-gallery", "3"]);
    assert_eq!(listed(&deployment), chosen);
    let queries = photos().join("evaluate.csv");
    let both = report(0, &[queries.to_str().unwrap(), "--from-gallery", "3"]);
    assert_eq!(both["canaries"], 180 + 12);
    assert_eq!(listed(&deployment)[180..], chosen);

    // The first of those that are chosen is damaged, and another takes its place.
    let id = chosen[0]["name"].as_str().unwrap();
    let id = id.strip_suffix(" (recompressed)").unwrap();
    let damage = |which: &str| {
        let items = rusqlite::Connection::open(deployment.join("items.db")).unwrap();
        let sql = format!("UPDATE images SET bytes = x'00' WHERE number IN ({which})");
        items.execute(&sql, []).unwrap();
    };
    damage(&format!("SELECT number FROM items WHERE id = '{id}'"));
    let found = report(3, &["--from-gallery", "3"]);
    assert_eq!(
        (&found["canaries"], &found["labels"]),
        (&12.into(), &3.into())
    );
    assert_eq!(found["from_gallery"]["skipped"][0]["item"], id);
    let chosen = listed(&deployment);
    damage("SELECT number FROM items");
    let none = canaries_set(&deployment, &["--from-gallery", "3"]);
    assert_eq!(none.status.code(), Some(65));
    assert!(text(&none.stderr).contains("no image that it keeps"));
    assert_eq!(listed(&deployment), chosen);
}

async fn replayed(running: &Running) -> CanaryRound {
    let mut client = monitoring(running);
    let answer = client.replay_canaries(ReplayCanariesRequest::default());
    answer.await.unwrap().into_inner().round.unwrap()
}

/// A picture of the sample as an uncompressed bitmap.
fn as_bitmap(label: &str) -> Vec<u8> {
    let file = fs::read(photos().join(format!("images/{label}/q2_photometric.jpg"))).unwrap();
    let limits = ImageLimits {
        bytes_max: 1 << 24,
        decode_bytes_max: 1 << 28,
    };
    let pixels = Pixels::decode(&file, &limits, [255; 3]).unwrap();
    let (width, height) = (pixels.width(), pixels.height());
    let row = (3 * width).next_multiple_of(4);
    let mut bitmap = b"BM".to_vec();
    for number in [54 + row * height, 0, 54, 40, width, height] {
        bitmap.extend(number.to_le_bytes());
    }
    bitmap.extend([1, 0, 24, 0]);
    bitmap.extend([0; 24]);
    for line in pixels.as_rgb().rchunks_exact(3 * width as usize) {
        let (pixels, _) = line.as_chunks::<3>();
        let bgr = pixels
            .iter()
            .flat_map(|[red, green, blue]| [*blue, *green, *red]);
        let padding = std::iter::repeat_n(0, (row - 3 * width) as usize);
        bitmap.extend(bgr.chain(padding));
    }
    bitmap
}

/// Asks about a picture, of which the caller says its kind.
async fn ask(running: &Running, image: &[u8], kind: &str) -> Result<(), Status> {
    let request = SearchRequest {
        query: Some(search_request::Query::Image(image.to_vec().into())),
        conditions: [("kind".to_owned(), kind.to_owned())].into(),
        ..SearchRequest::default()
    };
    retrieval(running).search(request).await.map(drop)
}

fn known_picture() -> Vec<u8> {
    fs::read(photos().join(format!("images/{KNOWN}/q2_photometric.jpg"))).unwrap()
}

#[tokio::test]
async fn what_callers_say_of_their_queries_is_counted_and_has_limits() {
    let running = Running::sample(&[ALL]).await;
    for _ in 0..3 {
        ask(&running, &known_picture(), "combo").await.unwrap();
    }
    for (kind, what) in [
        ("", "1 to 128 bytes"),
        ("k".repeat(129).as_str(), "1 to 128 bytes"),
    ] {
        let refused = ask(&running, &known_picture(), kind).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument);
        assert!(refused.message().contains(what), "{refused}");
    }
    let found = drift(&running).await;
    assert_eq!(verdict(&found, "traffic"), Verdict::Note);
    let traffic = found.traffic.unwrap();
    assert_eq!((traffic.compared_searches, traffic.alarm), (3, false));
    let is_it = |share: &&TrafficShare| share.name == "said to be kind = combo";
    let said = traffic.shares.iter().find(is_it);
    let said = said.unwrap_or_else(|| panic!("{traffic:?}"));
    assert_eq!(
        (said.overall, said.accept_rate_elsewhere),
        (Some(1.0), None)
    );
    running.stop().await;
}

/// The ids of a deployment's operating points.
fn points_of(deployment: &Path) -> Vec<String> {
    let files = fs::read_dir(deployment.join("operating-points")).unwrap();
    let ids = files.map(|file| file.unwrap().path().file_stem().unwrap().to_owned());
    ids.map(|id| id.into_string().unwrap()).collect()
}

async fn activate(running: &Running, id: &str) {
    let mut points = OperatingPointServiceClient::new(running.channel.clone());
    let request = ActivateOperatingPointRequest {
        id: id.to_owned(),
        ..ActivateOperatingPointRequest::default()
    };
    points.activate_operating_point(request).await.unwrap();
}

#[tokio::test]
async fn searches_unlike_those_of_the_calibration_are_named_and_that_outlives_a_restart() {
    let (_folder, deployment) = copy_of_sample();
    let running = Running::start(&deployment, &[ALL]).await;
    let bitmap = as_bitmap(KNOWN);
    // Five enrolled labels of the calibration are left to count on, which limits a share to 80 %.
    for _ in 0..80 {
        ask(&running, &bitmap, "photometric").await.unwrap();
    }
    let alarm = |found: &GetDriftResponse| {
        assert_eq!(verdict(found, "traffic"), Verdict::Warning);
        let mut of = found.findings.iter().filter(|f| f.subject == "traffic");
        let summary = of.next().unwrap().summary.clone();
        assert!(
            summary.contains("format BMP: 0 % at calibration"),
            "{summary}"
        );
    };
    let found = drift(&running).await;
    alarm(&found);
    let traffic = found.traffic.unwrap();
    assert!(traffic.alarm && traffic.alarm_unix_milliseconds.is_some());
    let info = Client::over(running.channel.clone())
        .server_info()
        .await
        .unwrap();
    assert!(
        info.deployments[0].traffic_alarm.contains("format BMP"),
        "{info:?}"
    );
    running.stop().await;

    // The evidence is kept, and ends with a reset.
    let running = Running::start(&deployment, &[ALL]).await;
    let found = drift(&running).await;
    alarm(&found);
    let kept = found.traffic.unwrap();
    assert_eq!(
        kept.alarm_unix_milliseconds,
        traffic.alarm_unix_milliseconds
    );
    assert_eq!(kept.compared_searches, 80);
    let request = ResetDriftRequest {
        reason: "bitmaps are converted again".to_owned(),
        ..ResetDriftRequest::default()
    };
    monitoring(&running).reset_drift(request).await.unwrap();
    let traffic = drift(&running).await.traffic.unwrap();
    assert_eq!((traffic.compared_searches, traffic.alarm), (0, false));
    running.stop().await;

    // Of what was not kept nothing is known.
    fs::remove_dir_all(deployment.join("calibrated-traffic")).unwrap();
    let running = Running::start(&deployment, &[ALL]).await;
    let found = drift(&running).await;
    assert_eq!(verdict(&found, "traffic"), Verdict::Unknown);
    assert!(found.traffic.is_none());
    running.stop().await;
}

#[tokio::test]
async fn an_operating_point_that_decides_again_goes_on_with_its_evidence_on_traffic() {
    let (_folder, deployment) = copy_of_sample();
    let first = points_of(&deployment).pop().unwrap();
    let queries = photos().join("calibrate.csv");
    let (at, queries) = (deployment.to_str().unwrap(), queries.to_str().unwrap());
    let calibrated = run(&["calibrate", at, "--queries", queries, "--target-far", "0.2"]);
    assert!(calibrated.status.success(), "{}", text(&calibrated.stderr));
    let mut second = points_of(&deployment);
    second.retain(|id| *id != first);
    let second = second.pop().unwrap();
    // What the queries of another operating point looked like is damage.
    let folder = deployment.join("calibrated-traffic");
    let file = |id: &str| folder.join(format!("{id}.json"));
    let own = fs::read(file(&first)).unwrap();
    fs::copy(file(&second), file(&first)).unwrap();
    let verified = run(&["verify", at]);
    assert_eq!(verified.status.code(), Some(65));
    assert!(text(&verified.stderr).contains(&format!("the queries of {second}")));
    fs::write(file(&first), own).unwrap();
    let running = Running::start(&deployment, &[ALL]).await;
    let compared = async |searches: u32| {
        for _ in 0..searches {
            ask(&running, &known_picture(), "photometric")
                .await
                .unwrap();
        }
        drift(&running).await.traffic.unwrap().compared_searches
    };
    assert_eq!(compared(3).await, 3);
    activate(&running, &first).await;
    assert_eq!(compared(1).await, 1);
    activate(&running, &second).await;
    assert_eq!(compared(0).await, 3);
    activate(&running, &first).await;
    assert_eq!(compared(1).await, 2);
    running.stop().await;
}
