//! One gallery, whatever keeps its items and proposes candidates: what is found is what comparing with every item finds
//! in a map, to the last bit of each score.

#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::indexing_slicing,
    clippy::print_stderr,
    reason = "a test fails by panicking, is told where servers are, and says how much it did"
)]

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::common::asked::{ask, calibrate, request, seen, until};
use crate::common::kept::{KeptItems, unit};
use crate::common::qdrant::QdrantStub;
use crate::common::random::Random;
use crate::common::shop::{COMPONENTS, build_shop};
use crate::common::{Running, copy_folder, patience};
use matchpoint_client::proto::gallery_service_client::GalleryServiceClient;
use matchpoint_client::proto::retrieval_service_client::RetrievalServiceClient;
use matchpoint_client::proto::{
    Decision, DeleteItemRequest, UpsertItemRequest, Vector, upsert_item_request,
};
use matchpoint_gallery::item::Item;
use matchpoint_gallery::params::IndexParams;
use matchpoint_gallery::{Access, Gallery};
use tempfile::TempDir;
use tonic::{Code, Request, Status};
use tonic_types::StatusExt;

/// The least number of steps of a run.
const STEPS: usize = 300;
/// Number of filters that a long run compares at least.
const FILTERS: usize = 1000;

const KEYS: [&str; 7] = [
    "camera",
    "lens.model",
    "a\"b",
    "k[0]",
    "my key",
    "OR",
    "µ\\",
];
const VALUES: [&str; 6] = ["front", "", "a\u{0}b", "back", "x\"y\\z", "µ [1]"];

/// A filter, and what it means.
enum Condition {
    Is(Field, Vec<String>),
    Has(&'static str),
    Not(Box<Self>),
    Both(Vec<Self>),
    Either(Vec<Self>),
}

enum Field {
    Id,
    Label,
    Key(&'static str),
}

fn quoted(text: &str) -> String {
    let escaped = text.chars().map(|one| match one {
        '"' | '\\' => format!("\\{one}"),
        '\u{0}'..'\u{20}' => format!("\\u{{{:x}}}", u32::from(one)),
        one => one.to_string(),
    });
    format!("\"{}\"", escaped.collect::<String>())
}

impl Condition {
    fn any(world: &mut World, depth: usize) -> Self {
        let random = &mut world.random;
        let some = |random: &mut Random, what: &[&'static str]| what[random.below(what.len())];
        let kind = random.below(if depth == 0 { 5 } else { 9 });
        if 5 < kind {
            let parts = (0..1 + random.below(3)).map(|_| Self::any(world, depth - 1));
            let parts = parts.collect();
            return if kind == 6 {
                Self::Both(parts)
            } else {
                Self::Either(parts)
            };
        }
        match kind {
            0 | 1 => {
                let id = world.any_id();
                let label = world.items.0[&id].label.clone();
                if kind == 0 {
                    Self::Is(Field::Id, vec![id, "nobody".to_owned()])
                } else {
                    Self::Is(Field::Label, vec![label, "no label".to_owned()])
                }
            }
            2 | 3 => {
                let key = some(random, &KEYS);
                let values = (0..1 + random.below(2)).map(|_| some(random, &VALUES).to_owned());
                Self::Is(Field::Key(key), values.collect())
            }
            4 => Self::Has(some(random, &KEYS)),
            _ => Self::Not(Box::new(Self::any(world, depth - 1))),
        }
    }

    /// Filters have at most 4,096 bytes.
    fn short(world: &mut World) -> Self {
        loop {
            let any = Self::any(world, 3);
            if any.written().len() < 2000 {
                return any;
            }
        }
    }

    fn written(&self) -> String {
        let joined = |parts: &[Self], by: &str| {
            let parts: Vec<String> = parts.iter().map(Self::written).collect();
            format!("({})", parts.join(by))
        };
        match self {
            Self::Is(field, values) => {
                let field = match field {
                    Field::Id => "id".to_owned(),
                    Field::Label => "label".to_owned(),
                    Field::Key(key) => format!("metadata.{}", quoted(key)),
                };
                let values: Vec<String> = values.iter().map(|value| quoted(value)).collect();
                format!("{field} IN ({})", values.join(", "))
            }
            Self::Has(key) => format!("metadata.{}:*", quoted(key)),
            Self::Not(part) => format!("NOT ({})", part.written()),
            Self::Both(parts) => joined(parts, " AND "),
            Self::Either(parts) => joined(parts, " OR "),
        }
    }

    fn holds(&self, item: &Item) -> bool {
        match self {
            Self::Is(field, values) => {
                let value = match field {
                    Field::Id => Some(&item.id),
                    Field::Label => Some(&item.label),
                    Field::Key(key) => item.metadata.get(*key),
                };
                value.is_some_and(|value| values.contains(value))
            }
            Self::Has(key) => item.metadata.contains_key(*key),
            Self::Not(part) => !part.holds(item),
            Self::Both(parts) => parts.iter().all(|part| part.holds(item)),
            Self::Either(parts) => parts.iter().any(|part| part.holds(item)),
        }
    }
}

/// A server, and the map that it is held against.
struct World {
    running: Running,
    at: PathBuf,
    folder: TempDir,
    random: Random,
    items: KeptItems,
    generation: u64,
    searches: usize,
    filters: usize,
}

impl World {
    /// A shop of this name, with a copy of its folder from before it was served.
    async fn new(name: &str, settings: &[(&str, &str)]) -> Self {
        let folder = TempDir::new().unwrap();
        let at = folder.path().join(name);
        build_shop(&at, &[]);
        copy_folder(&at, &folder.path().join("before"));
        let running = Running::start(&at, settings).await;
        calibrate(&running).await;
        Self {
            running,
            at,
            folder,
            random: Random(27),
            items: KeptItems::of_shop(),
            generation: 0,
            searches: 0,
            filters: 0,
        }
    }

    fn gallery(&self) -> GalleryServiceClient<tonic::transport::Channel> {
        GalleryServiceClient::new(self.running.channel.clone())
    }

    fn any_id(&mut self) -> String {
        let at = self.random.below(self.items.0.len());
        self.items.0.keys().nth(at).unwrap().clone()
    }

    /// A direction of its own, or that of an item.
    fn any_vector(&mut self) -> Vec<f32> {
        if self.random.below(4) == 0 {
            let id = self.any_id();
            return self.items.0[&id].embedding.as_slice().to_vec();
        }
        self.random.vector(COMPONENTS)
    }

    fn any_item(&mut self) -> UpsertItemRequest {
        let number = self.random.below(60);
        let id = match number % 4 {
            0 => format!("{number:0>512}"),
            1 => format!("it.em[\"{number}\"] µ"),
            2 => self.any_id(),
            _ => format!("new {number}"),
        };
        let label = match number % 5 {
            0 => format!("\"label\" [{number}].*"),
            1 => format!("{:0>512}", number % 7),
            _ => format!("label {}", number % 9),
        };
        let metadata = (0..self.random.below(4)).map(|_| {
            let key = KEYS[self.random.below(KEYS.len())];
            let value = VALUES[self.random.below(VALUES.len())];
            (key.to_owned(), value.to_owned())
        });
        let metadata = metadata.collect();
        UpsertItemRequest {
            id,
            label,
            metadata,
            source: Some(upsert_item_request::Source::Embedding(Vector {
                values: self.any_vector(),
            })),
            ..UpsertItemRequest::default()
        }
    }

    fn wrote(&mut self, generation: u64) {
        assert!(self.generation < generation, "generations rise");
        self.generation = generation;
    }

    async fn put(&mut self, new: UpsertItemRequest) {
        let answer = self.gallery().upsert_item(new.clone()).await.unwrap();
        let there = self.items.0.contains_key(&new.id);
        assert_eq!(answer.get_ref().replaced, there);
        self.wrote(answer.get_ref().generation);
        self.taken(new);
    }

    fn taken(&mut self, new: UpsertItemRequest) {
        let Some(upsert_item_request::Source::Embedding(Vector { values })) = new.source else {
            unreachable!();
        };
        self.items.put(Item {
            id: new.id,
            label: new.label,
            metadata: new.metadata.into_iter().collect(),
            embedding: unit(values),
            source_sha256: None,
            image: None,
        });
    }

    async fn remove(&mut self, id: String) {
        let asked = DeleteItemRequest {
            id: id.clone(),
            ..DeleteItemRequest::default()
        };
        let answer = self.gallery().delete_item(asked.clone()).await.unwrap();
        self.wrote(answer.get_ref().generation);
        self.items.0.remove(&id);
        let again = self.gallery().delete_item(asked).await.unwrap_err();
        assert_eq!(reason(&again), "ITEM_NOT_FOUND");
    }

    /// What nobody can enrol or search for changes nothing.
    async fn refused(&mut self) {
        let new = self.any_item();
        let vector = |values| Some(upsert_item_request::Source::Embedding(Vector { values }));
        let mut bad = self.any_vector();
        match self.random.below(3) {
            0 => bad.push(1.0),
            1 => bad[3] = f32::NAN,
            _ => bad = vec![0.0; COMPONENTS],
        }
        let wrong = [
            UpsertItemRequest {
                source: vector(bad.clone()),
                ..new.clone()
            },
            UpsertItemRequest {
                id: "x".repeat(513),
                ..new.clone()
            },
            UpsertItemRequest {
                id: "a\u{0}b".to_owned(),
                ..new.clone()
            },
            UpsertItemRequest {
                metadata: [("a\u{1f}b".to_owned(), String::new())].into(),
                ..new
            },
        ];
        for wrong in wrong {
            let refused = self.gallery().upsert_item(wrong).await.unwrap_err();
            assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
        }
        let refused = ask(&self.running, request(bad)).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
    }

    /// A call that its caller gives up, by a deadline or by going away, is made or not; sent again, it is made.
    async fn given_up(&mut self) {
        let new = self.any_item();
        let micros = u64::try_from(self.random.below(4000)).unwrap();
        let patience = Duration::from_micros(micros);
        let mut late = Request::new(new.clone());
        late.set_timeout(patience);
        let mut gallery = self.gallery();
        if self.random.below(2) == 0 {
            drop(gallery.upsert_item(late).await);
        } else {
            let answer = gallery.upsert_item(new.clone());
            drop(tokio::time::timeout(patience, answer).await);
        }
        let mut search = Request::new(request(self.any_vector()));
        search.set_timeout(patience);
        let mut client = RetrievalServiceClient::new(self.running.channel.clone());
        match client.search(search).await {
            Ok(answer) => assert!(!answer.get_ref().matches.is_empty()),
            Err(given_up) => assert!(
                matches!(
                    given_up.code(),
                    Code::DeadlineExceeded | Code::Cancelled | Code::ResourceExhausted
                ),
                "{given_up:?}"
            ),
        }
        let answer = gallery.upsert_item(new.clone()).await.unwrap();
        self.wrote(answer.get_ref().generation);
        self.taken(new);
    }

    async fn search(&mut self) {
        let (query, width) = (self.any_vector(), 1 + self.random.below(14));
        let mut asked = request(query.clone());
        asked.limit = u32::try_from(width).unwrap();
        let mut condition = None;
        match self.random.below(8) {
            0 => asked.exact = true,
            1 => asked.ef_search = 500,
            2 => asked.one_per_label = true,
            3 => asked.limit = 1000,
            4..7 => {
                let any = Condition::short(self);
                asked.filter = any.written();
                asked.one_per_label = self.random.below(4) == 0;
                condition = Some(any);
                self.filters += 1;
            }
            _ => {}
        }
        self.searches += 1;
        let answer = ask(&self.running, asked.clone()).await.unwrap();
        assert!(self.generation <= answer.generation, "no state comes back");
        let holds = |item: &Item| condition.as_ref().is_none_or(|one| one.holds(item));
        let limit = usize::try_from(asked.limit).unwrap();
        let expected = self
            .items
            .nearest(&query, limit, asked.one_per_label, holds);
        let found = seen(&answer);
        assert_eq!(found.matches, expected, "{asked:?}");
        let best = self.items.nearest(&query, 1, false, holds);
        let (id, score) = best.into_iter().next().unwrap_or_default();
        assert_eq!(found.decided, id, "{asked:?}");
        let basis = answer.basis.unwrap();
        let accepted = !id.is_empty() && basis.threshold.unwrap() <= f32::from_bits(score);
        let decision = if accepted {
            Decision::Accept
        } else {
            Decision::Reject
        };
        assert_eq!(found.decision, i32::from(decision), "{basis:?}");
    }

    async fn step(&mut self) {
        match self.random.below(20) {
            0..4 => {
                let new = self.any_item();
                self.put(new.clone()).await;
                // Sent again, it is what it was.
                if self.random.below(4) == 0 {
                    self.put(new).await;
                }
            }
            4 | 5 => {
                let id = self.any_id();
                self.remove(id).await;
            }
            6 => self.refused().await,
            7 => self.given_up().await,
            _ => self.search().await,
        }
    }

    async fn run(&mut self) {
        let until = Instant::now() + patience(Duration::ZERO);
        let long = Instant::now() < until;
        let mut steps = 0;
        while steps < STEPS || Instant::now() < until || (long && self.filters < FILTERS) {
            self.step().await;
            steps += 1;
        }
        let Self {
            searches, filters, ..
        } = self;
        eprintln!("{steps} steps, {searches} searches, {filters} of them with a filter");
    }

    /// Stops the server, and compares what it leaves. Returns its folder, and a copy from before it was served.
    async fn end(self) -> (TempDir, PathBuf, KeptItems) {
        self.running.stop().await;
        compared(&self.at, &self.items);
        let before = self.at.with_file_name("before");
        (self.folder, before, self.items)
    }
}

/// What is in a folder: the same items, and the sum of their checksums.
fn compared(at: &Path, items: &KeptItems) {
    let file = at.join("items.db");
    let gallery = Gallery::open(&file, Access::ReadOnly, IndexParams::default()).unwrap();
    let view = gallery.view();
    assert_eq!(view.digest_bytes(), items.digest());
    assert_eq!(view.len(), items.0.len());
}

fn reason(refused: &Status) -> String {
    let details = refused.get_error_details();
    details.error_info().unwrap().reason.clone()
}

#[tokio::test]
async fn a_gallery_with_an_index_of_its_own_finds_what_is_there() {
    let mut world = World::new("shop", &[]).await;
    world.run().await;
    drop(world.end().await);
}

#[tokio::test]
async fn a_gallery_with_an_index_in_qdrant_finds_what_is_there() {
    let stub = QdrantStub::start();
    let real = std::env::var("QDRANT_URLS").ok();
    let url = real.clone().unwrap_or_else(|| stub.url());
    let settings = [
        ("MATCHPOINT_INDEX", "qdrant"),
        ("MATCHPOINT_QDRANT_URLS", url.as_str()),
    ];
    let mut world = World::new("shop", &settings).await;
    world.run().await;
    if real.is_none() {
        until("Qdrant has what is there, and nothing else", async || {
            stub.items() == world.items.0.keys().cloned().collect()
        })
        .await;
    }
    drop(world.end().await);
}

/// In a database that `scripts/test_store.py` has made; with Qdrant beside it, and without.
#[tokio::test]
async fn a_gallery_in_a_store_finds_what_is_there_at_every_server() {
    let Ok(store) = std::env::var("MATCHPOINT_TESTS_STORE") else {
        eprintln!("skipped: make test-store has a database for it");
        return;
    };
    for index in ["embedded", "qdrant"] {
        let stub = QdrantStub::start();
        let url = stub.url();
        let mut settings = vec![
            ("MATCHPOINT_STORE", store.as_str()),
            ("MATCHPOINT_INDEX", index),
        ];
        if index == "qdrant" {
            settings.push(("MATCHPOINT_QDRANT_URLS", url.as_str()));
        }
        let name = format!("conformance-{index}");
        let mut world = World::new(&name, &settings).await;
        world.run().await;
        let (folder, before, items) = world.end().await;
        // A server that has the folder from before catches up, and finds the same.
        let at = folder.path().join("again").join(&name);
        copy_folder(&before, &at);
        let running = Running::start(&at, &settings).await;
        for id in items.0.keys().step_by(9) {
            let query = items.0[id].embedding.as_slice();
            let answer = ask(&running, request(query.to_vec())).await.unwrap();
            assert_eq!(
                seen(&answer).matches,
                items.nearest(query, 5, false, |_| true)
            );
        }
        running.stop().await;
        compared(&at, &items);
    }
}
