//! A candidate beside what is served: compared on live queries, and never answered from.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::common::{Running, copy_of_sample, in_8_bits, matchpoint, photos, run, text};
use matchpoint::deployment::Folder;
use matchpoint::journal::read::JournalReader;
use matchpoint_client::proto::ground_truth::Truth as Shown;
use matchpoint_client::proto::monitoring_service_client::MonitoringServiceClient;
use matchpoint_client::proto::retrieval_service_client::RetrievalServiceClient;
use matchpoint_client::proto::server_service_client::ServerServiceClient;
use matchpoint_client::proto::{
    AnnotateDecisionsRequest, Annotation, Decision, GetShadowRequest, GetShadowResponse,
    GroundTruth, LabelAgreement, ReloadDeploymentRequest, ReloadShadowRequest, SearchRequest,
    SearchResponse, ShadowInfo, search_request,
};
use tonic::transport::Channel;

/// Every query is drawn.
const ALL: (&str, &str) = ("MATCHPOINT_SHADOW_SHARE", "1");

/// Queries of labels that are enrolled, and of some that are not.
fn queries() -> Vec<Vec<u8>> {
    let list = fs::read_to_string(photos().join("evaluate.csv")).unwrap();
    let paths = list.lines().skip(1).step_by(6);
    let paths = paths.map(|line| photos().join(line.split(',').next().unwrap()));
    paths.map(|path| fs::read(path).unwrap()).collect()
}

async fn search(channel: &Channel, image: &[u8]) -> SearchResponse {
    let request = SearchRequest {
        query: Some(search_request::Query::Image(image.to_vec().into())),
        ..SearchRequest::default()
    };
    let mut client = RetrievalServiceClient::new(channel.clone());
    client.search(request).await.unwrap().into_inner()
}

async fn reload(running: &Running) -> Result<Option<ShadowInfo>, tonic::Status> {
    let mut server = ServerServiceClient::new(running.channel.clone());
    let answer = server.reload_shadow(ReloadShadowRequest::default()).await;
    answer.map(|answer| answer.into_inner().shadow)
}

async fn shadow(running: &Running) -> GetShadowResponse {
    let mut client = MonitoringServiceClient::new(running.channel.clone());
    let request = GetShadowRequest {
        limit: 200,
        ..GetShadowRequest::default()
    };
    client.get_shadow(request).await.unwrap().into_inner()
}

/// Once the candidate is there that the server opens after it is ready.
async fn opened(running: &Running) -> ShadowInfo {
    loop {
        if let Some(info) = shadow(running).await.shadow {
            return info;
        }
    }
}

/// The report once the candidate has finished with so many queries.
async fn after(running: &Running, count: u64) -> GetShadowResponse {
    loop {
        let found = shadow(running).await;
        let skipped: u64 = found.skipped.iter().map(|one| one.count).sum();
        assert_eq!(skipped, 0, "{found:?}");
        if count <= found.compared {
            return found;
        }
    }
}

/// What a candidate without an operating point is: it decides nothing.
fn undecided(deployment: &Path) {
    Folder::open(deployment).unwrap().deactivate().unwrap();
}

fn link(place: &Path) -> PathBuf {
    let mut name = place.as_os_str().to_owned();
    name.push(".shadow");
    name.into()
}

fn lead(link: &Path, to: &Path) {
    fs::remove_file(link).unwrap_or_default();
    symlink(to, link).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_counted_is_what_the_candidate_would_answer_by_itself_and_no_answer_changes() {
    let (folder, live) = copy_of_sample();
    let candidate = folder.path().join("candidate");
    in_8_bits(&candidate);
    symlink(&candidate, link(&live)).unwrap();
    let running = Running::start(&live, &[ALL]).await;
    opened(&running).await;
    let unshadowed = Running::sample(&[]).await;
    // Served too, which writes to it, while it is read as a candidate.
    let alone = Running::start(&candidate, &[]).await;

    let mut expected: BTreeMap<(i32, i32, i32), u64> = BTreeMap::new();
    let mut differ = Vec::new();
    let mut asked = 0;
    for image in queries() {
        let answered = search(&running.channel, &image).await;
        let plain = search(&unshadowed.channel, &image).await;
        assert_eq!(answered.decision, plain.decision);
        assert_eq!(answered.matches, plain.matches);
        assert_eq!(answered.model_fingerprint, plain.model_fingerprint);
        let other = search(&alone.channel, &image).await;
        let same = answered.matches[0].label == other.matches[0].label;
        let best = if same {
            LabelAgreement::Same
        } else {
            LabelAgreement::Other
        };
        let outcome = (answered.decision, other.decision, best.into());
        *expected.entry(outcome).or_default() += 1;
        let accepted = answered.decision() == Decision::Accept;
        if answered.decision != other.decision || (accepted && !same) {
            let scores = (answered.matches[0].score, other.matches[0].score);
            differ.insert(0, (answered.decision_id.clone(), scores));
        }
        asked += 1;
        after(&running, asked).await;
    }
    let found = after(&running, asked).await;
    let counts = found.counts.iter();
    let counts: BTreeMap<_, _> = counts
        .map(|one| ((one.live, one.shadow, one.label_agreement), one.count))
        .collect();
    assert_eq!(counts, expected);
    let latest = found.latest.iter().map(|one| {
        let (live, shadow) = (one.live.as_ref().unwrap(), one.shadow.as_ref().unwrap());
        (
            one.decision_id.clone(),
            (live.score.unwrap(), shadow.score.unwrap()),
        )
    });
    assert_eq!(latest.collect::<Vec<_>>(), differ);
    assert_eq!(found.disagreements, differ.len() as u64);
    let about = found.shadow.unwrap();
    assert_eq!(
        (about.precision.as_str(), about.gallery_items),
        ("int8", 36)
    );
    assert!((about.share - 1.0).abs() < 1e-12);

    // The journal has what was answered, and nothing else.
    running.stop().await;
    let totals = JournalReader::open(&live.join("decisions.db"))
        .unwrap()
        .totals()
        .unwrap();
    let recorded: u64 = totals.0.iter().map(|total| total.count.decisions).sum();
    assert_eq!(recorded, asked);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_candidate_that_cannot_be_opened_keeps_nothing_from_being_served() {
    let (_folder, live) = copy_of_sample();
    let (_other, damaged) = copy_of_sample();
    let (_third, candidate) = copy_of_sample();
    let items = damaged.join("items.db");
    let mut bytes = fs::read(&items).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle..middle + 4096].fill(0xA5);
    fs::write(&items, bytes).unwrap();
    symlink(&damaged, link(&live)).unwrap();
    let running = Running::start(&live, &[ALL]).await;
    let image = &queries()[0];
    search(&running.channel, image).await;
    assert_eq!(shadow(&running).await, GetShadowResponse::default());
    reload(&running).await.unwrap_err();
    lead(&link(&live), Path::new("/nowhere"));
    reload(&running).await.unwrap_err();
    // A folder by that name is nobody's candidate.
    fs::remove_file(link(&live)).unwrap();
    fs::create_dir(link(&live)).unwrap();
    reload(&running).await.unwrap_err();
    fs::remove_dir(link(&live)).unwrap();
    assert_eq!(reload(&running).await.unwrap(), None);

    lead(&link(&live), &candidate);
    assert!(reload(&running).await.unwrap().is_some());
    search(&running.channel, image).await;
    assert_eq!(after(&running, 1).await.disagreements, 0);
    // What was compared with goes on.
    lead(&link(&live), &damaged);
    reload(&running).await.unwrap_err();
    search(&running.channel, image).await;
    assert_eq!(after(&running, 2).await.compared, 2);
    // What is served is compared with nothing.
    lead(&link(&live), &live);
    assert_eq!(reload(&running).await.unwrap(), None);
    assert_eq!(shadow(&running).await, GetShadowResponse::default());
    running.stop().await;

    // Where nothing is to be compared, a candidate is not opened, and asking for it is refused.
    lead(&link(&live), &candidate);
    let running = Running::start(&live, &[("MATCHPOINT_SHADOW_SHARE", "0")]).await;
    let refused = reload(&running).await.unwrap_err();
    assert!(refused.message().contains("shadow_share"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_comparison_ends_where_the_candidate_goes_live_and_no_call_fails() {
    let (folder, first) = copy_of_sample();
    let (_other, second) = copy_of_sample();
    let place = folder.path().join("served");
    symlink(&first, &place).unwrap();
    symlink(&second, link(&place)).unwrap();
    let running = Running::start(&place, &[ALL]).await;
    opened(&running).await;
    let image = queries().swap_remove(0);
    let stop = Arc::new(AtomicBool::new(false));
    let askers: Vec<_> = (0..3)
        .map(|_| {
            let (channel, image) = (running.channel.clone(), image.clone());
            let stop = Arc::clone(&stop);
            tokio::spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    search(&channel, &image).await;
                }
            })
        })
        .collect();
    fs::remove_file(link(&place)).unwrap();
    assert_eq!(reload(&running).await.unwrap(), None);
    symlink(&second, link(&place)).unwrap();
    assert!(reload(&running).await.unwrap().is_some());

    let mut server = ServerServiceClient::new(running.channel.clone());
    lead(&place, &second);
    let switched = server.reload_deployment(ReloadDeploymentRequest::default());
    switched.await.unwrap();
    assert_eq!(shadow(&running).await.shadow, None);
    assert_eq!(reload(&running).await.unwrap(), None);

    // Switched back, it is a candidate again.
    lead(&place, &first);
    let switched = server.reload_deployment(ReloadDeploymentRequest::default());
    switched.await.unwrap();
    opened(&running).await;
    stop.store(true, Ordering::Relaxed);
    for asker in askers {
        asker.await.unwrap();
    }
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_candidate_that_decides_nothing_is_compared_and_labels_reach_its_report() {
    let (_folder, live) = copy_of_sample();
    let (_other, candidate) = copy_of_sample();
    undecided(&candidate);
    symlink(&candidate, link(&live)).unwrap();
    let running = Running::start(&live, &[ALL]).await;
    assert_eq!(opened(&running).await.operating_point_id, "");
    let answered = search(&running.channel, &queries()[0]).await;
    let found = after(&running, 1).await;
    let one = &found.latest[0];
    assert_eq!(one.decision_id, answered.decision_id);
    let (live, shadowed) = (one.live.as_ref().unwrap(), one.shadow.as_ref().unwrap());
    assert_eq!(live.decision, answered.decision);
    assert_eq!(shadowed.decision(), Decision::Undecided);
    assert_eq!(
        (shadowed.decision_score, one.label_agreement()),
        (None, LabelAgreement::Same)
    );
    assert_eq!(one.ground_truth, None);
    assert!(found.disagreement_lower.unwrap() < 1.0);

    let truth = GroundTruth {
        truth: Some(Shown::NotEnrolled(true)),
        ..GroundTruth::default()
    };
    let report = Annotation {
        decision_id: answered.decision_id,
        ground_truth: Some(truth.clone()),
        annotator: "anna".to_owned(),
        ..Annotation::default()
    };
    let mut client = MonitoringServiceClient::new(running.channel.clone());
    let request = AnnotateDecisionsRequest {
        annotations: vec![report],
        ..AnnotateDecisionsRequest::default()
    };
    client.annotate_decisions(request).await.unwrap();
    assert_eq!(shadow(&running).await.latest[0].ground_truth, Some(truth));
    let request = GetShadowRequest {
        limit: 201,
        ..GetShadowRequest::default()
    };
    client.get_shadow(request).await.unwrap_err();
}

#[test]
fn the_command_refuses_what_is_no_deployment_and_changes_nothing_without_a_server() {
    let (folder, live) = copy_of_sample();
    let (_other, candidate) = copy_of_sample();
    let [live, candidate, nothing] =
        [&live, &candidate, folder.path()].map(|path| path.to_str().unwrap());
    let refused = run(&["shadow", "start", live, nothing]);
    assert_eq!(refused.status.code(), Some(66), "{}", text(&refused.stderr));
    let mut start = matchpoint(&["shadow", "start", live, candidate]);
    let refused = start.args(["--server", "127.0.0.1:9"]).output().unwrap();
    assert_eq!(refused.status.code(), Some(69), "{}", text(&refused.stderr));
    assert!(fs::symlink_metadata(link(Path::new(live))).is_err());
}
