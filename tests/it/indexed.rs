//! What a promise is worth behind an index, which may miss items.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::Duration;

use crate::common::random::Random;
use crate::common::shop::{LABELS, build_shop, vector};
use crate::common::{Running, patience, run, text};
use matchpoint_client::proto::calibration_service_client::CalibrationServiceClient;
use matchpoint_client::proto::gallery_service_client::GalleryServiceClient;
use matchpoint_client::proto::longrunning::operation;
use matchpoint_client::proto::retrieval_service_client::RetrievalServiceClient;
use matchpoint_client::proto::{
    CalibrateRequest, CalibrationSettings, Decision, LabelledQuery, Match, Remedy, SearchRequest,
    SearchResponse, UpsertItemRequest, Vector, calibrate_request, calibration_settings,
    labelled_query, search_request, upsert_item_request,
};
use tempfile::TempDir;
use tonic::transport::Channel;

const COMPONENTS: usize = 24;
/// Items in the index, and items enrolled since, which are so near each other that their codes do not tell them apart.
const INDEXED: usize = 3000;
const ALIKE: usize = 600;

struct World {
    items: Vec<Vec<f32>>,
    centre: Vec<f32>,
    random: Random,
}

impl World {
    fn new() -> Self {
        let mut random = Random(5);
        let centre = direction(&mut random);
        let items = (0..INDEXED).map(|_| direction(&mut random)).collect();
        let mut world = Self {
            items,
            centre,
            random,
        };
        for _ in 0..ALIKE {
            let alike = world.alike();
            world.items.push(alike);
        }
        world
    }

    fn alike(&mut self) -> Vec<f32> {
        let away = direction(&mut self.random);
        let both = self.centre.iter().zip(away);
        both.map(|(centre, away)| centre + 0.02 * away).collect()
    }
}

fn direction(random: &mut Random) -> Vec<f32> {
    let vector = random.vector(COMPONENTS);
    let length = vector.iter().map(|value| value * value).sum::<f32>().sqrt();
    vector.iter().map(|value| value / length).collect()
}

fn label_of(item: usize) -> String {
    format!("label {item}")
}

fn build(at: &Path, items: &[Vec<f32>]) {
    let (mut bytes, mut list) = (Vec::new(), String::from("id,label\n"));
    for (number, item) in items.iter().enumerate() {
        bytes.extend(u32::try_from(item.len()).unwrap().to_le_bytes());
        bytes.extend(item.iter().flat_map(|value| value.to_le_bytes()));
        list.push_str(&format!("{number},{}\n", label_of(number)));
    }
    let (vectors, labels) = (at.with_extension("fvecs"), at.with_extension("csv"));
    fs::write(&vectors, bytes).unwrap();
    fs::write(&labels, list).unwrap();
    let [at, vectors, labels] = [at, &vectors, &labels].map(|path| path.to_str().unwrap());
    let of = [
        "--embeddings",
        vectors,
        "--labels",
        labels,
        "--vectors-of",
        "x",
    ];
    let built = run(&[&["build", at][..], &of].concat());
    assert!(built.status.success(), "{}", text(&built.stderr));
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| -> f64 {
        a.iter()
            .zip(b)
            .map(|(a, b)| f64::from(*a) * f64::from(*b))
            .sum()
    };
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

async fn ask(running: &Running, vector: &[f32], limit: u32) -> SearchResponse {
    let request = SearchRequest {
        query: Some(search_request::Query::Embedding(Vector {
            values: vector.to_vec(),
        })),
        limit,
        ..SearchRequest::default()
    };
    let mut client = RetrievalServiceClient::new(running.channel.clone());
    client.search(request).await.unwrap().into_inner()
}

pub(crate) async fn enrol(channel: &Channel, id: &str, values: Vec<f32>) {
    let item = UpsertItemRequest {
        id: id.to_owned(),
        label: id.to_owned(),
        source: Some(upsert_item_request::Source::Embedding(Vector { values })),
        ..UpsertItemRequest::default()
    };
    let mut gallery = GalleryServiceClient::new(channel.clone());
    gallery.upsert_item(item).await.unwrap();
}

/// Returns what was refused.
pub(crate) async fn calibrate(
    channel: &Channel,
    settings: CalibrationSettings,
    queries: impl IntoIterator<Item = (String, Vec<f32>)>,
) -> Option<String> {
    let query = |(number, (label, values)): (usize, (String, Vec<f32>))| LabelledQuery {
        id: format!("query {number}"),
        label,
        query: Some(labelled_query::Query::Embedding(Vector { values })),
        ..LabelledQuery::default()
    };
    let queries: Vec<LabelledQuery> = queries.into_iter().enumerate().map(query).collect();
    let parts = std::iter::once(calibrate_request::Part::Settings(settings))
        .chain(queries.into_iter().map(calibrate_request::Part::Query));
    let parts = tokio_stream::iter(parts.map(|part| CalibrateRequest { part: Some(part) }));
    let mut client = CalibrationServiceClient::new(channel.clone());
    let done = client.calibrate(parts).await.unwrap().into_inner();
    match done.result {
        Some(operation::Result::Response(_)) => None,
        Some(operation::Result::Error(refused)) => Some(refused.message),
        None => Some("it has not ended".to_owned()),
    }
}

/// What the index missed of the other labels once raised the score: of strangers who were
/// promised at 10 %, 16.7 % were accepted.
#[tokio::test]
async fn a_margin_is_over_every_item_of_another_label() {
    let folder = TempDir::new().unwrap();
    let deployment = folder.path().join("near");
    let mut world = World::new();
    build(&deployment, &world.items[..INDEXED]);
    let settings = [("MATCHPOINT_GRAPH_FROM_ITEMS", "1000")];
    let running = Running::start(&deployment, &settings).await;
    for at in INDEXED..world.items.len() {
        enrol(&running.channel, &label_of(at), world.items[at].clone()).await;
    }
    let strangers: Vec<Vec<f32>> = (0..60).map(|_| world.alike()).collect();
    let stranger = |at: usize| (format!("stranger {at}"), strangers[at].clone());
    let known = |at: usize| (label_of(at), world.items[at].clone());
    let margin = CalibrationSettings {
        target: Some(calibration_settings::Target::TargetFar(0.5)),
        confidence: 0.9,
        remedy: Remedy::Margin.into(),
        strangers_are_distinct: true,
        ..CalibrationSettings::default()
    };
    let queries = (0..60).map(stranger).chain((0..40).map(known));
    assert_eq!(calibrate(&running.channel, margin, queries).await, None);

    let (mut accepted, mut missed) = (0, 0);
    for _ in 0..200 {
        let query = world.alike();
        let found = ask(&running, &query, 64).await;
        // What is asked for does not decide.
        let one = ask(&running, &query, 1).await;
        assert_eq!(found.decided_item_id, one.decided_item_id);
        let decided: usize = found
            .decided_label
            .strip_prefix("label ")
            .unwrap()
            .parse()
            .unwrap();
        let best = &world.items[decided];
        let basis = found.basis.unwrap();
        if found.decision != i32::from(Decision::Accept) {
            continue;
        }
        accepted += 1;
        let listed = |item: &&Match| item.label != found.decided_label;
        let other = found.matches.iter().find(listed);
        let scores = world.items.iter().enumerate();
        let others = scores.filter(|&(at, _)| label_of(at) != found.decided_label);
        let nearest = others
            .map(|(_, item)| cosine(&query, item))
            .fold(-1.0, f64::max);
        missed += u32::from(other.is_none_or(|other| f64::from(other.score) < nearest - 1e-5));
        // Less the margin's share of the best of another label, in [-1, 1].
        let expected = (cosine(&query, best) - 0.75 * nearest) / 1.75;
        let score = f64::from(basis.decision_score.unwrap());
        assert!((score - expected).abs() < 1e-5, "{score} {expected}");
    }
    assert!(10 < accepted && 0 < missed, "{accepted} {missed}");

    // A gallery that searches itself says too what its index misses. It finds each item itself, and that is no answer.
    let of_itself = CalibrationSettings {
        target: Some(calibration_settings::Target::TargetFar(0.5)),
        confidence: 0.9,
        gallery_as_queries: true,
        ..CalibrationSettings::default()
    };
    assert_eq!(calibrate(&running.channel, of_itself, []).await, None);
    let said = run(&["points", "show", deployment.to_str().unwrap()]);
    let said = text(&said.stdout);
    let misses = said.lines().find(|line| line.contains("index misses"));
    assert!(
        misses.is_some_and(|line| !line.contains(" 0 of ")),
        "{said}"
    );
    running.stop().await;
}

#[tokio::test]
async fn an_frr_of_exact_searches_ends_with_the_first_index() {
    let folder = TempDir::new().unwrap();
    let deployment = folder.path().join("shop");
    build_shop(&deployment, &[]);
    let settings = [("MATCHPOINT_GRAPH_FROM_ITEMS", "181")];
    let running = Running::start(&deployment, &settings).await;
    let known = |at: usize| (format!("label {at}"), vector(at, 5));
    let frr = CalibrationSettings {
        target: Some(calibration_settings::Target::TargetFrr(0.1)),
        confidence: 0.9,
        ..CalibrationSettings::default()
    };
    let refused = calibrate(&running.channel, frr, (0..LABELS).map(known)).await;
    assert_eq!(refused, None);
    let basis = ask(&running, &vector(0, 5), 1).await.basis.unwrap();
    assert!(basis.target_frr.is_some() && basis.frr_bound.is_some());

    enrol(&running.channel, "one more", Random(3).vector(16)).await;
    let index = async {
        loop {
            let basis = ask(&running, &vector(0, 5), 1).await.basis.unwrap();
            if basis.target_frr.is_none() {
                break basis;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let basis = tokio::time::timeout(patience(Duration::from_secs(20)), index);
    assert!(basis.await.unwrap().frr_bound.is_none());
    running.stop().await;
}

#[tokio::test]
async fn what_is_asked_for_does_not_decide_under_a_filter() {
    let folder = TempDir::new().unwrap();
    let deployment = folder.path().join("many");
    // Items that resemble their neighbours, so that few candidates seem to suffice, and queries that resemble none of them.
    let mut random = Random(11);
    let mut items = Vec::new();
    for _ in 0..1000 {
        let centre = random.vector(256);
        for _ in 0..4 {
            let away = random.vector(256);
            let both = centre.iter().zip(away);
            items.push(both.map(|(centre, away)| centre + 0.2 * away).collect());
        }
    }
    build(&deployment, &items);
    let settings = [("MATCHPOINT_GRAPH_FROM_ITEMS", "1000")];
    let running = Running::start(&deployment, &settings).await;
    let mut client = RetrievalServiceClient::new(running.channel.clone());
    let mut differ = 0;
    for _ in 0..50 {
        let values = random.vector(256);
        let (mut decided, mut nearest) = (BTreeSet::new(), BTreeSet::new());
        for (limit, exact, ef_search) in
            [(1, false, 0), (500, false, 0), (1, true, 0), (1, false, 1)]
        {
            let request = SearchRequest {
                query: Some(search_request::Query::Embedding(Vector {
                    values: values.clone(),
                })),
                limit,
                exact,
                ef_search,
                filter: "label != none".to_owned(),
                ..SearchRequest::default()
            };
            let found = client.search(request).await.unwrap().into_inner();
            decided.insert(found.decided_item_id);
            nearest.extend(found.matches.into_iter().take(1).map(|one| one.id));
        }
        assert_eq!(decided.len(), 1, "{decided:?}");
        differ += usize::from(1 < nearest.len());
    }
    assert!(0 < differ, "none of the searches missed an item");
    running.stop().await;
}

/// From 2 to 5 % the FRR went to 13 to 15 % once the graph was built again, and the promise of 5 % stayed.
#[tokio::test]
async fn an_frr_is_not_promised_of_items_that_the_next_graph_takes_in() {
    let folder = TempDir::new().unwrap();
    let deployment = folder.path().join("shop");
    build_shop(&deployment, &[]);
    let settings = [("MATCHPOINT_GRAPH_FROM_ITEMS", "100")];
    let running = Running::start(&deployment, &settings).await;
    let mut random = Random(3);
    for number in 0..20 {
        enrol(
            &running.channel,
            &format!("later {number}"),
            random.vector(16),
        )
        .await;
    }
    let known = |at: usize| (format!("label {at}"), vector(at, 5));
    let with = |target| CalibrationSettings {
        target: Some(target),
        confidence: 0.9,
        strangers_are_distinct: true,
        ..CalibrationSettings::default()
    };
    let frr = with(calibration_settings::Target::TargetFrr(0.1));
    let refused = calibrate(&running.channel, frr, (0..LABELS).map(known)).await;
    let refused = refused.unwrap();
    assert!(
        refused.starts_with("20 of 200 items were enrolled after"),
        "{refused}"
    );
    // A FAR is counted by exact searches.
    let far = with(calibration_settings::Target::TargetFar(0.2));
    let stranger = |at: usize| (format!("stranger {at}"), Random(90 + at as u64).vector(16));
    let queries = (0..LABELS).map(known).chain((0..30).map(stranger));
    assert_eq!(calibrate(&running.channel, far, queries).await, None);
    running.stop().await;
}
