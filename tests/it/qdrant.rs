//! The index in Qdrant: what it proposes changes no answer, whatever it does.

#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test fails by panicking, and is told where a cluster is"
)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::common::qdrant::{About, Faults, Point, QdrantStub};
use crate::common::random::Random;
use crate::common::shop::{COMPONENTS, LABELS, build_shop, shop, vector};
use crate::common::{Running, Served, copy_folder};
use matchpoint_client::proto::calibration_service_client::CalibrationServiceClient;
use matchpoint_client::proto::gallery_service_client::GalleryServiceClient;
use matchpoint_client::proto::longrunning::operation;
use matchpoint_client::proto::retrieval_service_client::RetrievalServiceClient;
use matchpoint_client::proto::{
    CalibrateRequest, CalibrationSettings, Decision, DeleteItemRequest, LabelledQuery,
    SearchRequest, SearchResponse, UpsertItemRequest, Vector, calibrate_request,
    calibration_settings, labelled_query, search_request, upsert_item_request,
};
use tempfile::TempDir;
use tonic::{Code, Status};
use tonic_types::StatusExt;

/// A real cluster in place of ours (`QDRANT_URLS`), for what needs no faults.
fn urls(stub: &QdrantStub) -> String {
    std::env::var("QDRANT_URLS").unwrap_or_else(|_unset| stub.url())
}

/// A shop of its own, whose collection is its own too.
fn new_shop() -> (TempDir, PathBuf) {
    let folder = TempDir::new().unwrap();
    let at = folder.path().join("shop");
    build_shop(&at, &[]);
    (folder, at)
}

async fn served(at: &Path, urls: &str) -> Running {
    let settings = [
        ("MATCHPOINT_INDEX", "qdrant"),
        ("MATCHPOINT_QDRANT_URLS", urls),
    ];
    Running::start(at, &settings).await
}

fn request(vector: Vec<f32>) -> SearchRequest {
    SearchRequest {
        query: Some(search_request::Query::Embedding(Vector { values: vector })),
        limit: 5,
        ..SearchRequest::default()
    }
}

async fn ask(running: &Running, request: SearchRequest) -> Result<SearchResponse, Status> {
    let mut client = RetrievalServiceClient::new(running.channel.clone());
    Ok(client.search(request).await?.into_inner())
}

async fn enrol(running: &Running, id: &str, values: Vec<f32>) {
    let item = UpsertItemRequest {
        id: id.to_owned(),
        label: id.to_owned(),
        source: Some(upsert_item_request::Source::Embedding(Vector { values })),
        ..UpsertItemRequest::default()
    };
    let mut gallery = GalleryServiceClient::new(running.channel.clone());
    gallery.upsert_item(item).await.unwrap();
}

async fn remove(running: &Running, id: &str) {
    let item = DeleteItemRequest {
        id: id.to_owned(),
        ..DeleteItemRequest::default()
    };
    let mut gallery = GalleryServiceClient::new(running.channel.clone());
    gallery.delete_item(item).await.unwrap();
}

fn stranger(random: &mut Random) -> Vec<f32> {
    random.vector(COMPONENTS)
}

async fn calibrate(running: &Running) {
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
struct Seen {
    decision: i32,
    decided: String,
    matches: Vec<(String, u32)>,
}

fn seen(answer: &SearchResponse) -> Seen {
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
async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let patience = Instant::now() + Duration::from_secs(30);
    while !is_so().await {
        assert!(Instant::now() < patience, "{what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Searches of every kind.
fn requests() -> Vec<SearchRequest> {
    let mut random = Random(3);
    let mut all = Vec::new();
    for number in 0_usize..40 {
        let query = if number.is_multiple_of(2) {
            vector(number, 9)
        } else {
            stranger(&mut random)
        };
        let plain = request(query);
        all.push(plain.clone());
        all.push(SearchRequest {
            exact: true,
            ..plain.clone()
        });
        all.push(SearchRequest {
            ef_search: 500,
            ..plain.clone()
        });
        all.push(SearchRequest {
            limit: 100,
            ..plain.clone()
        });
        all.push(SearchRequest {
            one_per_label: true,
            ..plain.clone()
        });
        all.push(SearchRequest {
            filter: format!("label IN (\"label {number}\", \"label 50\")"),
            ..plain
        });
    }
    all
}

#[tokio::test]
async fn an_index_in_qdrant_gives_the_answers_of_one_here_and_has_operating_points_of_its_own() {
    let stub = QdrantStub::start();
    let (_folder, at) = new_shop();
    let here = Running::start(&at, &[]).await;
    calibrate(&here).await;
    let mut expected = Vec::new();
    for request in requests() {
        expected.push(seen(&ask(&here, request).await.unwrap()));
    }
    here.stop().await;

    let running = served(&at, &urls(&stub)).await;
    // The point that was calibrated with the other index decides nothing here.
    let before = ask(&running, request(vector(1, 9))).await.unwrap();
    assert_eq!(before.decision, i32::from(Decision::Undecided));
    calibrate(&running).await;
    for (request, expected) in requests().into_iter().zip(&expected) {
        let found = ask(&running, request.clone()).await.unwrap();
        assert_eq!(&seen(&found), expected, "{request:?}");
    }
    let accepted = expected
        .iter()
        .filter(|one| one.decision == i32::from(Decision::Accept));
    let accepted = accepted.count();
    assert!(40 < accepted && accepted < 200, "{accepted}");
    running.stop().await;
}

#[tokio::test]
async fn a_change_is_searched_at_once_and_is_in_qdrant_soon() {
    let stub = QdrantStub::start();
    let (_folder, at) = new_shop();
    let running = served(&at, &urls(&stub)).await;
    let mut random = Random(8);
    for number in 0_usize..20 {
        let new = stranger(&mut random);
        let id = format!("new {number}");
        enrol(&running, &id, new.clone()).await;
        let found = ask(&running, request(new.clone())).await.unwrap();
        assert_eq!(found.decided_item_id, id);
        // Another item in its place, and then none.
        if number.is_multiple_of(2) {
            enrol(&running, &id, stranger(&mut random)).await;
        } else {
            remove(&running, &id).await;
        }
        let found = ask(&running, request(new)).await.unwrap();
        assert!(found.matches[0].score < 0.999, "{found:?}");
    }
    if std::env::var("QDRANT_URLS").is_err() {
        until("all is there", async || {
            stub.points().len() == LABELS * 3 + 10
        })
        .await;
    }
    running.stop().await;
}

/// Number of searches in each round.
const SEARCHES: usize = 16;

struct World {
    stub: QdrantStub,
    running: Running,
    _folder: TempDir,
    expected: BTreeMap<usize, Seen>,
}

impl World {
    async fn new() -> Self {
        let stub = QdrantStub::start();
        let (folder, at) = new_shop();
        let running = served(&at, &stub.url()).await;
        calibrate(&running).await;
        let mut world = Self {
            stub,
            running,
            _folder: folder,
            expected: BTreeMap::new(),
        };
        for number in 0..SEARCHES {
            let found = ask(&world.running, request(Self::query(number))).await;
            world.expected.insert(number, seen(&found.unwrap()));
        }
        world
    }

    fn query(number: usize) -> Vec<f32> {
        if number.is_multiple_of(2) {
            vector(number, 9)
        } else {
            stranger(&mut Random(u64::try_from(number).unwrap()))
        }
    }

    /// Each search is answered rightly, or not at all. Returns how many were answered.
    async fn searched(&self) -> usize {
        let mut answered = 0;
        for (number, expected) in &self.expected {
            match ask(&self.running, request(Self::query(*number))).await {
                Ok(found) => {
                    assert_eq!(&seen(&found), expected);
                    answered += 1;
                }
                Err(refused) => refused_well(&refused),
            }
        }
        answered
    }

    async fn recovers(&self) {
        self.stub.fails(|_none| {});
        until("it recovers", async || {
            self.searched().await == self.expected.len()
        })
        .await;
    }
}

fn refused_well(refused: &Status) {
    assert_eq!(refused.code(), Code::Unavailable, "{refused:?}");
    let details = refused.get_error_details();
    assert_eq!(details.error_info().unwrap().reason, "INDEX_UNAVAILABLE");
    let again = details.retry_info().unwrap().retry_delay.unwrap();
    assert!(again < Duration::from_secs(6));
}

#[tokio::test]
#[expect(clippy::too_many_lines, reason = "one fault after another")]
async fn no_fault_of_qdrant_makes_another_answer() {
    let mut world = World::new().await;
    let all = world.expected.len();
    let whole = world.stub.points();

    world.stub.fails(|faults| faults.unavailable = true);
    assert_eq!(world.searched().await, 0);
    world.recovers().await;
    world
        .stub
        .fails(|faults| faults.slow = Duration::from_secs(3));
    let slow = ask(&world.running, request(World::query(0))).await;
    refused_well(&slow.unwrap_err());
    world.recovers().await;
    world.stub.goes_away_and_comes_back();
    world.searched().await;
    world.recovers().await;
    world.stub.dies();
    assert_eq!(world.searched().await, 0);
    world.stub.lives_again();
    world.recovers().await;

    // What is proposed is not what it should be: every item is compared.
    for fault in [
        (|faults| faults.empty_payload = true) as fn(&mut Faults),
        |faults| faults.nothing = true,
    ] {
        world.stub.fails(fault);
        assert_eq!(world.searched().await, all);
        world.recovers().await;
    }
    // Old copies of some points, and none of others.
    let stale = |points: &mut BTreeMap<_, Point>| {
        let mut number = 0;
        points.retain(|_, _| {
            number += 1;
            number % 3 != 0
        });
        for (number, point) in points
            .values_mut()
            .enumerate()
            .filter(|(number, _)| number % 2 == 0)
        {
            point.vector.reverse();
            let kind = matchpoint_qdrant::wire::ValueKind::StringValue(format!("{number:064x}"));
            point.payload.insert(
                "checksum".to_owned(),
                matchpoint_qdrant::wire::PayloadValue { kind: Some(kind) },
            );
        }
    };
    // They are written anew, as somebody else's point is removed.
    world.stub.tamper(|points| {
        stale(points);
        let foreign = whole.values().next().unwrap().clone();
        points.insert((7, String::new()), foreign);
    });
    until("the points are whole", async || {
        let found = world.stub.points();
        found.len() == whole.len()
            && found
                .iter()
                .all(|(key, point)| point.vector == whole[key].vector)
    })
    .await;
    // Where so many differ, answers are withheld until they were compared again.
    world.recovers().await;

    // A batch of which half is written, and one of which nothing is although the answer says so.
    for fault in [(|faults| faults.half = true) as fn(&mut Faults), |faults| {
        faults.forgets = true;
    }] {
        world.stub.fails(fault);
        let same = vector(1, 0);
        enrol(
            &world.running,
            "new",
            same.iter().map(|value| -value).collect(),
        )
        .await;
        world.searched().await;
        world.recovers().await;
        until("the new item is there", async || {
            world.stub.points().len() == whole.len() + 1
        })
        .await;
        remove(&world.running, "new").await;
        until("and gone", async || {
            world.stub.points().len() == whole.len()
        })
        .await;
    }
    world.running.stop().await;
}

#[tokio::test]
async fn a_new_connection_answers_nothing_before_its_answers_were_compared() {
    let mut world = World::new().await;
    // Scores of other vectors, and a copy that lacks most points.
    let most: BTreeMap<_, _> = world.stub.points().into_iter().take(20).collect();
    for fault in [
        Faults {
            off: 1e-5,
            ..Faults::default()
        },
        Faults {
            stale: Some(most),
            ..Faults::default()
        },
    ] {
        world.stub.dies();
        world.stub.content().faults = fault;
        world.stub.lives_again();
        for _ in 0..20 {
            assert_eq!(world.searched().await, 0);
        }
        world.recovers().await;
    }
    world.running.stop().await;
}

#[test]
fn a_server_does_not_start_with_a_qdrant_that_cannot_be_its_index() {
    let folder = TempDir::new().unwrap();
    let at = folder.path().join("shop");
    copy_folder(shop(), &at);
    let start = |urls: &str, more: &[(&str, &str)]| {
        let settings = [
            ("MATCHPOINT_INDEX", "qdrant"),
            ("MATCHPOINT_QDRANT_URLS", urls),
        ];
        let settings = [&settings[..], more].concat();
        Served::try_start(&at, &settings, &[]).map(drop)
    };
    let refused = |started: Result<(), String>, code: i32, why: &str| {
        let said = started.unwrap_err();
        let ended = format!("exit status: {code}");
        assert!(said.contains(&ended) && said.contains(why), "{said}");
    };
    let about = |change: fn(&mut About)| {
        let mut about = About::default();
        change(&mut about);
        QdrantStub::start_as(about)
    };
    refused(start("http://127.0.0.1:1", &[]), 69, "is it running");
    refused(start("http://10.0.0.1", &[]), 78, "use https");
    refused(start("https://10.0.0.1", &[]), 78, "there is no key");
    let old = about(|about| about.version = "1.15.3");
    refused(start(&old.url(), &[]), 78, "use 1.16");
    let alone = about(|about| about.copies = 1);
    refused(start(&alone.url(), &[]), 78, "start more nodes");
    let locked = about(|about| about.key = Some("secret"));
    refused(start(&locked.url(), &[]), 78, "API key");
    let key = folder.path().join("key");
    std::fs::write(&key, "secret\n").unwrap();
    let key = [("MATCHPOINT_QDRANT_API_KEY_FILE", key.to_str().unwrap())];
    start(&locked.url(), &key).unwrap();
    // What another one has made under the same name.
    {
        let mut content = locked.content();
        let made = &mut content.collections.values_mut().next().unwrap().created;
        let vectors = made.vectors_config.as_mut().unwrap();
        vectors.params.as_mut().unwrap().size = 1280;
    }
    refused(start(&locked.url(), &key), 78, "has components 1280");
    let only = [("MATCHPOINT_READ_ONLY", "true")];
    refused(start("http://127.0.0.1:1", &only), 78, "exclude each other");
}
