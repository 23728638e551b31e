//! What Prometheus sees of the program at work: the real process, scraped while the disk fails, after
//! it was killed, and where another folder takes a deployment's place.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::common::{Served, copy_folder, copy_of_sample, flip_bits_of_items, photos, run, text};
use matchpoint::journal::read::JournalReader;
use matchpoint_client::proto::gallery_service_client::GalleryServiceClient;
use matchpoint_client::proto::ground_truth::Truth as Shown;
use matchpoint_client::proto::monitoring_service_client::MonitoringServiceClient;
use matchpoint_client::proto::retrieval_service_client::RetrievalServiceClient;
use matchpoint_client::proto::server_service_client::ServerServiceClient;
use matchpoint_client::proto::{
    AnnotateDecisionsRequest, Annotation, Decision, DeleteItemRequest, EmbedRequest,
    GetDriftRequest, GetDriftResponse, GetServerInfoRequest, GroundTruth, ListItemsRequest,
    ReloadDeploymentRequest, SearchRequest, UpsertItemRequest, UpsertItemResponse, Vector, Verdict,
    search_request, upsert_item_request,
};
use rusqlite::Connection;
use tonic::transport::Channel;

const KNOWN: &str = "gc_fishes_fish3";
/// Every decision is drawn.
const ALL: (&str, &str) = ("MATCHPOINT_AUDIT_SAMPLING_RATES", "1,1,1,1,1,1");
/// Far longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(60);

/// A server as its own process, and a channel to it.
struct Watched {
    server: Served,
    channel: Channel,
}

impl Watched {
    async fn start(deployment: &Path, settings: &[(&str, &str)]) -> Self {
        let server = Served::start(deployment, settings, &[]);
        let url = format!("http://{}", server.address);
        Self {
            server,
            channel: Channel::from_shared(url).unwrap().connect().await.unwrap(),
        }
    }

    /// Every series and its value.
    fn scrape(&self) -> BTreeMap<String, f64> {
        let answer = self.server.scrape();
        let series = answer
            .lines()
            .filter(|line| line.starts_with("matchpoint_"));
        let parsed = series.filter_map(|line| {
            let (name, value) = line.rsplit_once(' ')?;
            Some((name.to_owned(), value.parse().ok()?))
        });
        parsed.collect()
    }

    /// Scrapes until what it sees is `enough`.
    fn scraped(&self, enough: impl Fn(&BTreeMap<String, f64>) -> bool) -> BTreeMap<String, f64> {
        let began = Instant::now();
        loop {
            let found = self.scrape();
            if enough(&found) {
                return found;
            }
            assert!(began.elapsed() < PATIENCE, "{found:#?}");
        }
    }

    async fn embedded(&self, label: &str) -> Vector {
        let request = EmbedRequest {
            image: picture(label).into(),
            ..EmbedRequest::default()
        };
        let answer = RetrievalServiceClient::new(self.channel.clone())
            .embed(request)
            .await;
        answer.unwrap().into_inner().embedding.unwrap()
    }

    async fn search(&self, query: search_request::Query) -> String {
        let request = SearchRequest {
            query: Some(query),
            ..SearchRequest::default()
        };
        let mut client = RetrievalServiceClient::new(self.channel.clone());
        let answer = client.search(request).await.unwrap();
        answer.into_inner().decision_id
    }

    async fn enrol(&self, id: &str, label: &str, vector: Vector) -> UpsertItemResponse {
        let request = UpsertItemRequest {
            id: id.to_owned(),
            label: label.to_owned(),
            source: Some(upsert_item_request::Source::Embedding(vector)),
            ..UpsertItemRequest::default()
        };
        let mut client = GalleryServiceClient::new(self.channel.clone());
        client.upsert_item(request).await.unwrap().into_inner()
    }

    /// Enrols an item of its own, and each item once more under another label; returns the ids of those.
    async fn enrol_copies(&self) -> Vec<String> {
        // A direction of its own is nobody else.
        let mut values = vec![0.0; 1280];
        values[7] = 1.0;
        let apart = self.enrol("apart", "apart", Vector { values }).await;
        assert_eq!(apart.accepted_as_count, Some(0));
        assert!(apart.accepted_as.is_empty());
        let mut gallery = GalleryServiceClient::new(self.channel.clone());
        let request = ListItemsRequest {
            include_embedding: true,
            ..ListItemsRequest::default()
        };
        let items = gallery
            .list_items(request)
            .await
            .unwrap()
            .into_inner()
            .items;
        let enrolled: Vec<_> = items
            .into_iter()
            .filter(|item| item.id != "apart")
            .collect();
        for item in &enrolled {
            let (id, label) = (
                format!("copy/{}", item.id),
                format!("copy of {}", item.label),
            );
            let vector = item.embedding.clone().unwrap();
            let told = self.enrol(&id, &label, vector).await;
            assert_eq!(told.accepted_as[0].id, item.id);
            assert_eq!(told.accepted_as[0].label, item.label);
            assert!(Some(1) <= told.accepted_as_count, "{told:?}");
        }
        enrolled.into_iter().map(|item| item.id).collect()
    }

    async fn drift(&self) -> GetDriftResponse {
        let mut client = MonitoringServiceClient::new(self.channel.clone());
        let answer = client.get_drift(GetDriftRequest::default()).await;
        answer.unwrap().into_inner()
    }

    async fn reload(&self) {
        let mut server = ServerServiceClient::new(self.channel.clone());
        let request = ReloadDeploymentRequest::default();
        server.reload_deployment(request).await.unwrap();
    }
}

fn picture(label: &str) -> Vec<u8> {
    fs::read(photos().join(format!("images/{label}/q2_photometric.jpg"))).unwrap()
}

/// Adds the series of `name` whose labels are all of `labels`; `None` where there is none.
fn sum(found: &BTreeMap<String, f64>, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
    let fits = |series: &&String| {
        series.starts_with(&format!("{name}{{"))
            && labels
                .iter()
                .all(|(key, value)| series.contains(&format!("{key}=\"{value}\"")))
    };
    let values: Vec<f64> = found
        .keys()
        .filter(fits)
        .map(|series| found[series])
        .collect();
    (!values.is_empty()).then(|| values.iter().sum())
}

fn is(found: Option<f64>, expected: f64) -> bool {
    found.is_some_and(|found| (found - expected).abs() < 1e-9)
}

/// The picture with `bytes` of comments in it.
fn with_comments(picture: &[u8], bytes: usize) -> Vec<u8> {
    let comment = [&[0xff, 0xfe, 0xff, 0xff][..], &[b'x'; 65_533][..]].concat();
    let comments = comment.repeat(bytes / comment.len());
    [&picture[..2], &comments[..], &picture[2..]].concat()
}

#[tokio::test]
async fn a_search_that_its_caller_leaves_out_of_the_records_is_counted_as_one() {
    let (_folder, deployment) = copy_of_sample();
    let watched = Watched::start(&deployment, &[]).await;
    watched
        .search(search_request::Query::Image(picture(KNOWN).into()))
        .await;
    let request = SearchRequest {
        query: Some(search_request::Query::Image(picture(KNOWN).into())),
        unrecorded: true,
        ..SearchRequest::default()
    };
    let mut client = RetrievalServiceClient::new(watched.channel.clone());
    let answer = client.search(request).await.unwrap().into_inner();
    assert_eq!(answer.decision(), Decision::Accept);
    let seen = watched.scrape();
    let of = |name: &str| -> f64 {
        let series = seen.iter().filter(|(series, _)| series.starts_with(name));
        series.map(|(_, value)| value).sum()
    };
    let counted = [
        "matchpoint_decisions_total{",
        "matchpoint_unrecorded_searches_total{",
    ];
    let counts = counted.map(of);
    assert!(
        counts.iter().all(|count| (count - 1.0).abs() < 1e-9),
        "{counts:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_the_last_key_of_a_name_ends_is_shown_until_there_is_another() {
    let (folder, deployment) = copy_of_sample();
    let keys = folder.path().join("keys.json").display().to_string();
    let make = |name: &str, more: &[&str]| {
        let new = [
            "keys",
            "new",
            name,
            "--scopes",
            "search",
            "--keys-file",
            &keys,
        ];
        let made = run(&[&new[..], more].concat());
        assert!(made.status.success(), "{}", text(&made.stderr));
    };
    make("stays", &[]);
    make("till", &["--expires", "36h"]);
    let listed = run(&["keys", "list", "--keys-file", &keys]);
    let listed = text(&listed.stdout);
    assert!(listed.contains("in 1 day"), "{listed}");
    let served = Watched::start(&deployment, &[("MATCHPOINT_KEYS_FILE", &keys)]).await;
    let ends = |found: &BTreeMap<String, f64>, name: &str| {
        sum(
            found,
            "matchpoint_key_expires_timestamp_seconds",
            &[("key", name)],
        )
    };
    let found = served.scraped(|found| ends(found, "till").is_some());
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let hours = (ends(&found, "till").unwrap() - now.as_secs_f64()) / 3600.0;
    assert!((35.9..=36.0).contains(&hours), "{hours}");
    assert_eq!(ends(&found, "stays"), None);
    make("till", &[]);
    served.scraped(|found| ends(found, "till").is_some_and(f64::is_nan));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_lost_is_counted_while_the_disk_fails_and_not_only_afterwards() {
    let (_folder, deployment) = copy_of_sample();
    let served = Watched::start(&deployment, &[ALL, ("MATCHPOINT_AUDIT_IMAGES", "true")]).await;
    let lost = |found: &BTreeMap<String, f64>| {
        sum(
            found,
            "matchpoint_recording_lost_total",
            &[("reason", "image")],
        )
    };
    served.scraped(|found| is(lost(found), 0.0));
    // Another process holds the journal: nothing can be written, as on a full disk.
    let other = Connection::open(deployment.join("decisions.db")).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    // More images than may wait: their decisions do.
    let large = with_comments(&picture(KNOWN), 8 << 20);
    for _ in 0..10 {
        served
            .search(search_request::Query::Image(large.clone().into()))
            .await;
    }
    served.scraped(|found| lost(found).is_some_and(|lost| 1.0 <= lost));
    other.execute_batch("ROLLBACK").unwrap();
}

/// Half of the decisions that may wait for the journal.
const WAITING_MAX: u32 = 4_000;

#[tokio::test(flavor = "multi_thread")]
async fn after_a_kill_the_counters_are_a_recount_of_what_the_disk_holds() {
    let (_folder, deployment) = copy_of_sample();
    let mut served = Watched::start(&deployment, &[]).await;
    let mut answered = 0_u32;
    for _round in 0..3 {
        let (known, stranger) = (
            served.embedded(KNOWN).await,
            served.embedded("gc_monuments_eiffelTower").await,
        );
        let total = |served: &Watched| {
            let found = served.scrape();
            sum(&found, "matchpoint_recorded_decisions_total", &[])
        };
        let before = total(&served);
        // Some are in the journal, and some most likely only on their way to it.
        let mut on_their_way = 0;
        while total(&served) <= before {
            // A disk that stalls for seconds is waited for: beyond 8,192 they would be left out, and counted as such.
            if WAITING_MAX <= on_their_way {
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            }
            on_their_way += 100;
            for number in 0..100 {
                let query = if number % 3 == 0 { &stranger } else { &known };
                let query = search_request::Query::Embedding(query.clone());
                served.search(query).await;
                answered += 1;
            }
        }
        served.server.kill();
        served = Watched::start(&deployment, &[]).await;
        let file = deployment.join("decisions.db");
        // Row by row, as anybody would count them.
        let rows: u32 = Connection::open(&file)
            .unwrap()
            .query_row("SELECT count(*) FROM decisions", [], |row| row.get(0))
            .unwrap();
        assert_eq!(
            JournalReader::open(&file).unwrap().verify().unwrap(),
            u64::from(rows)
        );
        assert_eq!(rows, answered);
        let accepts: u32 = Connection::open(&file)
            .unwrap()
            .query_row(
                "SELECT count(*) FROM decisions WHERE decision = 1",
                [],
                |row| row.get(0),
            )
            .unwrap();
        let found = served.scrape();
        let counted = |labels| sum(&found, "matchpoint_recorded_decisions_total", labels);
        assert!(is(counted(&[]), f64::from(rows)), "{rows}: {found:#?}");
        assert!(is(counted(&[("decision", "accept")]), f64::from(accepts)));
    }
}

async fn operating_point(served: &Watched) -> String {
    let mut client = MonitoringServiceClient::new(served.channel.clone());
    let drift = client.get_drift(GetDriftRequest::default()).await;
    drift.unwrap().into_inner().operating_point_id
}

fn lead(link: &Path, to: &Path) {
    if link.is_symlink() {
        fs::remove_file(link).unwrap();
    }
    symlink(to, link).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_switch_takes_the_alarm_of_what_decided_before_away_and_counters_go_on() {
    let (folder, first) = copy_of_sample();
    let (same, other) = (folder.path().join("same"), folder.path().join("other"));
    copy_folder(&first, &same);
    copy_folder(&first, &other);
    let queries = photos().join("calibrate.csv");
    let (at, queries) = (other.to_str().unwrap(), queries.to_str().unwrap());
    let calibrated = run(&[
        "calibrate",
        at,
        "--queries",
        queries,
        "--target-far",
        "0.2",
        "--confidence",
        "0.9",
    ]);
    assert!(calibrated.status.success(), "{}", text(&calibrated.stderr));
    let link = folder.path().join("served");
    lead(&link, &first);
    let served = Watched::start(&link, &[ALL]).await;
    let known = search_request::Query::Embedding(served.embedded(KNOWN).await);
    let mut reports = Vec::new();
    for _ in 0..30 {
        let truth = Some(Shown::NotEnrolled(true));
        reports.push(Annotation {
            decision_id: served.search(known.clone()).await,
            ground_truth: Some(GroundTruth {
                truth,
                ..GroundTruth::default()
            }),
            ..Annotation::default()
        });
    }
    let request = AnnotateDecisionsRequest {
        annotations: reports,
        ..AnnotateDecisionsRequest::default()
    };
    let mut client = MonitoringServiceClient::new(served.channel.clone());
    client.annotate_decisions(request).await.unwrap();
    let before = operating_point(&served).await;
    let point = [("operating_point", before.as_str())];
    let far = [("operating_point", before.as_str()), ("rate", "far")];
    let alarm = |found: &_| sum(found, "matchpoint_rate_alarm", &far);
    let drawn = |found: &_| sum(found, "matchpoint_audit_sampled_decisions", &point);
    let counted = |found: &_| sum(found, "matchpoint_recorded_decisions_total", &point);
    // A scrape may come between two gauges of the same look.
    let found = served.scraped(|found| {
        is(alarm(found), 1.0) && is(drawn(found), 30.0) && is(counted(found), 30.0)
    });
    // Rejects are none, so nothing is known of the FRR, and it has no series.
    let frr = [("operating_point", before.as_str()), ("rate", "frr")];
    assert_eq!(sum(&found, "matchpoint_audit_rate_ratio", &frr), None);

    // The same operating point in another folder, which has counted nothing and has no label.
    lead(&link, &same);
    served.reload().await;
    served.scraped(|found| is(alarm(found), 0.0) && is(drawn(found), 0.0));
    served.search(known.clone()).await;
    served.scraped(|found| is(counted(found), 31.0) && is(drawn(found), 1.0));

    // Another operating point: of the one before nothing is known any more.
    lead(&link, &first);
    served.reload().await;
    served.scraped(|found| is(alarm(found), 1.0) && is(drawn(found), 30.0));
    lead(&link, &other);
    served.reload().await;
    let found =
        served.scraped(|found| is(alarm(found), 0.0) && drawn(found).is_some_and(f64::is_nan));
    let active = |found: &_| sum(found, "matchpoint_operating_point_active", &point);
    assert!(is(active(&found), 0.0));
    assert!(is(counted(&found), 31.0));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_accepted_as_something_else_is_told_at_enrolment_counted_listed_and_found_again() {
    let (_folder, deployment) = copy_of_sample();
    let served = Watched::start(&deployment, &[]).await;
    let left_out = |found: &BTreeMap<String, f64>, bound| {
        sum(found, "matchpoint_left_out_far_ratio", &[("bound", bound)])
    };
    let limit = |found: &BTreeMap<String, f64>| sum(found, "matchpoint_left_out_limit_ratio", &[]);
    let first = served.scraped(|found| left_out(found, "lower").is_some());
    assert!(left_out(&first, "lower") <= limit(&first), "{first:#?}");

    let enrolled = served.enrol_copies().await;
    let found = served.scraped(|found| limit(found) < left_out(found, "lower"));
    let count = u32::try_from(enrolled.len()).unwrap();
    for (outcome, expected) in [("apart", 1), ("lookalike", count), ("unchecked", 0)] {
        let labels = [("outcome", outcome)];
        let counted = sum(&found, "matchpoint_enrolment_checks_total", &labels);
        assert!(is(counted, f64::from(expected)), "{outcome}: {counted:?}");
    }

    let drift = served.drift().await;
    let round = drift.left_out.unwrap();
    assert!(
        round.above_limit && round.limit < Some(round.lower),
        "{round:?}"
    );
    assert!(round.first_rate < Some(round.rate) && !round.lookalikes.is_empty());
    assert_eq!(drift.enrolled_lookalikes.len(), enrolled.len());
    assert_eq!(drift.items_added, Some(u64::from(count) + 1));
    let warns = |says: &str| {
        drift
            .findings
            .iter()
            .any(|finding| finding.verdict() == Verdict::Warning && finding.summary.contains(says))
    };
    assert!(warns("its label left out"), "{:#?}", drift.findings);
    assert!(
        warns("The calibration covers 49.3 % of today's gallery"),
        "{:#?}",
        drift.findings
    );
    let mut server = ServerServiceClient::new(served.channel.clone());
    let info = server
        .get_server_info(GetServerInfoRequest::default())
        .await;
    let info = info.unwrap().into_inner().deployments.remove(0);
    assert!(!info.certified && info.left_out.unwrap().above_limit);
    assert!(sum(&found, "matchpoint_target_far_ratio", &[]) < info.far_bound);

    // What is gone is on no list.
    let mut gallery = GalleryServiceClient::new(served.channel.clone());
    let gone = DeleteItemRequest {
        id: format!("copy/{}", enrolled[0]),
        ..DeleteItemRequest::default()
    };
    gallery.delete_item(gone).await.unwrap();
    let drift = served.drift().await;
    assert_eq!(drift.enrolled_lookalikes.len(), enrolled.len() - 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn evidence_of_two_servers_is_multiplied() {
    let [(_a, first), (_b, second)] = [copy_of_sample(), copy_of_sample()];
    let servers = [
        Watched::start(&first, &[ALL]).await,
        Watched::start(&second, &[ALL]).await,
    ];
    for (served, strangers) in servers.iter().zip([2, 3]) {
        let known = served.embedded(KNOWN).await;
        let mut annotations = Vec::new();
        for _ in 0..strangers {
            let query = search_request::Query::Embedding(known.clone());
            annotations.push(Annotation {
                decision_id: served.search(query).await,
                ground_truth: Some(GroundTruth {
                    truth: Some(Shown::NotEnrolled(true)),
                    ..GroundTruth::default()
                }),
                ..Annotation::default()
            });
        }
        let request = AnnotateDecisionsRequest {
            annotations,
            ..AnnotateDecisionsRequest::default()
        };
        let mut client = MonitoringServiceClient::new(served.channel.clone());
        client.annotate_decisions(request).await.unwrap();
    }
    let each = [servers[0].drift().await, servers[1].drift().await];
    let each = each.map(|drift| drift.far_evidence.unwrap());
    let urls = servers
        .each_ref()
        .map(|served| format!("http://{}", served.server.address));
    let asked = ["drift", "report", "--servers", &urls.join(","), "--json"];
    let output = run(&asked);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let found: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let far = &found["far"];
    let sum = each[0].log_e_value + each[1].log_e_value;
    assert!(
        (far["log_e_value"].as_f64().unwrap() - sum).abs() < 1e-9,
        "{far}"
    );
    assert_eq!(far["alarm"], sum >= each[0].log_e_value_alarm);
    assert!((far["rate"].as_f64().unwrap() - 1.0).abs() < 1e-12, "{far}");
    assert_eq!(found["replicas"].as_array().map(Vec::len), Some(2));
    let output = run(&asked[..4]);
    assert!(
        text(&output.stdout).contains("multiplied"),
        "{}",
        text(&output.stdout)
    );
}

#[tokio::test]
async fn of_a_damaged_gallery_no_promise_is_shown_to_stand() {
    let (_folder, deployment) = copy_of_sample();
    let watched = Watched::start(&deployment, &[]).await;
    let values = |found: &BTreeMap<String, f64>, name: &str| {
        let of = found.iter().filter(|(series, _)| series.starts_with(name));
        Vec::from_iter(of.map(|(_, value)| *value))
    };
    let stands = "matchpoint_promise_stands{";
    let predicted = "matchpoint_predicted_far_ratio{";
    watched.scraped(|found| {
        values(found, stands) == [1.0] && values(found, predicted).iter().all(|far| *far < 0.5)
    });
    flip_bits_of_items(&deployment);
    let found =
        watched.scraped(|found| values(found, "matchpoint_operating_point_active{") == [0.0]);
    for (name, count) in [(stands, 1), (predicted, 2)] {
        let shown = values(&found, name);
        let known = shown.iter().any(|value| !value.is_nan());
        assert!(shown.len() == count && !known, "{found:#?}");
    }
}
