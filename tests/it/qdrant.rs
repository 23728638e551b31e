//! The index in Qdrant: what it proposes changes no answer, whatever it does.

#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::indexing_slicing,
    clippy::print_stderr,
    reason = "a test fails by panicking, is told where a cluster is, and says how much it did"
)]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::common::asked::{Seen, ask, calibrate, enrol, remove, request, seen, stranger, until};
use crate::common::kept::{KeptItems, unit};
use crate::common::qdrant::{About, Faults, Point, Points, QdrantStub};
use crate::common::random::Random;
use crate::common::shop::{LABELS, build_shop, shop, vector};
use crate::common::{Running, Served, copy_folder, patience, run, text};
use matchpoint_client::proto::Decision;
use matchpoint_client::proto::retrieval_service_client::RetrievalServiceClient;
use matchpoint_gallery::item::Item;
use matchpoint_qdrant::wire::{PayloadValue, ValueKind};
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

#[tokio::test]
async fn an_index_in_qdrant_has_operating_points_of_its_own() {
    let stub = QdrantStub::start();
    let (_folder, at) = new_shop();
    let here = Running::start(&at, &[]).await;
    calibrate(&here).await;
    here.stop().await;
    let urls = urls(&stub);
    let settings = [
        ("MATCHPOINT_INDEX", "qdrant"),
        ("MATCHPOINT_QDRANT_URLS", urls.as_str()),
    ];
    let running = Running::start(&at, &settings).await;
    let asked = request(vector(1, 9));
    let before = ask(&running, asked.clone()).await.unwrap();
    assert_eq!(before.decision, i32::from(Decision::Undecided));
    calibrate(&running).await;
    let after = ask(&running, asked).await.unwrap();
    assert_eq!(after.decision, i32::from(Decision::Accept));
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
        Self::with(&[]).await
    }

    async fn with(more: &[(&str, &str)]) -> Self {
        let stub = QdrantStub::start();
        let (folder, at) = new_shop();
        let url = stub.url();
        let settings = [
            ("MATCHPOINT_INDEX", "qdrant"),
            ("MATCHPOINT_QDRANT_URLS", url.as_str()),
        ];
        let running = Running::start(&at, &[&settings[..], more].concat()).await;
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

    /// Searches are refused, and it is said why.
    async fn says(&self, why: &str) {
        until(why, async || {
            match ask(&self.running, request(Self::query(0))).await {
                Ok(_) => false,
                Err(refused) => {
                    refused_well(&refused);
                    refused.message().contains(why)
                }
            }
        })
        .await;
    }

    async fn recovers(&self) {
        self.stub.fails(|_none| {});
        until("it recovers", async || {
            self.searched().await == self.expected.len()
        })
        .await;
    }
}

fn forge(point: &mut Point, key: &str, kind: ValueKind) {
    let value = PayloadValue { kind: Some(kind) };
    point.payload.insert(key.to_owned(), value);
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
            forge(
                point,
                "checksum",
                ValueKind::StringValue(format!("{number:064x}")),
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
    let faults = [
        Faults {
            off: 1e-5,
            ..Faults::default()
        },
        Faults {
            stale: Some(most),
            ..Faults::default()
        },
    ];
    for (number, fault) in faults.into_iter().enumerate() {
        world.stub.dies();
        world.stub.content().faults = fault;
        world.stub.lives_again();
        for _ in 0..20 {
            assert_eq!(world.searched().await, 0);
        }
        world
            .says(if number == 0 {
                "its scores differ"
            } else {
                "by their own vectors"
            })
            .await;
        world.recovers().await;
    }
    world.running.stop().await;
}

#[tokio::test]
async fn vectors_that_scores_do_not_tell_apart_are_found_whichever_is_named_first() {
    let mut world = World::new().await;
    for number in 0_u8..6 {
        let mut alike = vector(usize::from(number), 0);
        alike[0] += 0.06 + 0.005 * f32::from(number);
        enrol(&world.running, &format!("alike {number}"), alike).await;
    }
    let all = LABELS * 3 + 6;
    until("all is there", async || world.stub.points().len() == all).await;
    world.stub.dies();
    world.stub.content().faults.ties_reversed = true;
    world.stub.lives_again();
    until("it is searched again", async || {
        ask(&world.running, request(World::query(0))).await.is_ok()
    })
    .await;
    world.running.stop().await;
}

/// One point as a server wrote it that is far ahead.
fn written_later(points: &mut Points) {
    let point = points.values_mut().next().unwrap();
    forge(point, "generation", ValueKind::IntegerValue(1000));
    forge(point, "checksum", ValueKind::StringValue("00".repeat(32)));
}

#[tokio::test]
async fn what_somebody_else_has_written_ends_the_answers() {
    let world = World::new().await;
    world.stub.tamper(written_later);
    world.says("another server writes it").await;
    world.running.stop().await;
}

/// In a database that `scripts/test_store.py` has made.
#[tokio::test]
async fn a_collection_that_is_later_than_its_store_ends_the_answers_and_says_so() {
    let Ok(store) = std::env::var("MATCHPOINT_TESTS_STORE") else {
        return;
    };
    let world = World::with(&[("MATCHPOINT_STORE", store.as_str())]).await;
    world.stub.tamper(written_later);
    world.says("restored to an earlier time").await;
    world.running.stop().await;
}

#[test]
fn a_server_waits_until_qdrant_answers_for_what_was_just_written() {
    let stub = Arc::new(QdrantStub::start());
    let (_folder, at) = new_shop();
    // The second start finds what the first has written.
    for _ in 0..2 {
        stub.fails(|faults| faults.slow_search = Duration::from_millis(700));
        let linked = Arc::clone(&stub);
        let linking = std::thread::spawn(move || {
            while linked.items().is_empty() {
                std::thread::sleep(Duration::from_millis(20));
            }
            std::thread::sleep(Duration::from_millis(2500));
            linked.fails(|_none| {});
        });
        let url = stub.url();
        let settings = [
            ("MATCHPOINT_INDEX", "qdrant"),
            ("MATCHPOINT_QDRANT_URLS", url.as_str()),
        ];
        let begun = Instant::now();
        drop(Served::start(&at, &settings, &[]));
        assert!(Duration::from_millis(2500) < begun.elapsed());
        linking.join().unwrap();
    }
}

#[tokio::test]
async fn a_server_stops_while_qdrant_hangs() {
    let world = World::new().await;
    world
        .stub
        .fails(|faults| faults.slow = Duration::from_secs(60));
    // By then a comparison waits for its answer.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let begun = Instant::now();
    world.running.stop().await;
    assert!(
        begun.elapsed() < Duration::from_secs(2),
        "{:?}",
        begun.elapsed()
    );
}

#[test]
fn a_copy_has_a_collection_of_its_own_and_what_cannot_be_an_index_is_named() {
    let stub = QdrantStub::start();
    let (folder, at) = new_shop();
    let url = stub.url();
    let settings = [
        ("MATCHPOINT_INDEX", "qdrant"),
        ("MATCHPOINT_QDRANT_URLS", url.as_str()),
    ];
    let (data, file) = (
        folder.path().join("data"),
        folder.path().join("shop.snapshot"),
    );
    let (data, file) = (data.to_str().unwrap(), file.to_str().unwrap());
    let served = Served::start(&at, &settings, &["--data-dir", data]);
    let asked = |words: &[&str]| run(&[words, &["--server", &served.address]].concat());
    let done = asked(&["snapshot", "shop", file]);
    assert!(done.status.success(), "{}", text(&done.stderr));
    let done = asked(&["restore", file, "again"]);
    assert!(done.status.success(), "{}", text(&done.stderr));
    assert_eq!(stub.content().collections.len(), 2);
    stub.content().about.version = "1.15.0";
    let said = text(&asked(&["restore", file, "third"]).stderr);
    assert!(
        said.contains("Qdrant cannot be used") && said.contains("use 1.16"),
        "{said}"
    );
    drop(served);
    // A copy of the folder is another one, too.
    stub.content().about = About::default();
    let copy = folder.path().join("copy");
    copy_folder(&at, &copy);
    drop(Served::start(&copy, &settings, &[]));
    assert_eq!(stub.content().collections.len(), 3);
    drop(Served::start(&at, &settings, &[]));
    assert_eq!(stub.content().collections.len(), 3);
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
    // Beside a node that is far away, and does not answer.
    let keyless = format!("https://q.invalid,{}", alone.url());
    let locked = about(|about| about.key = Some("secret"));
    refused(start(&locked.url(), &[]), 78, "API key");
    let key = folder.path().join("key");
    std::fs::write(&key, "secret\n").unwrap();
    let key = [("MATCHPOINT_QDRANT_API_KEY_FILE", key.to_str().unwrap())];
    refused(start(&keyless, &key), 78, "answers without a key");
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

/// What goes wrong in a round, and whether an acknowledged point may be missing then: the next best is found.
fn fault(number: usize, points: usize) -> (Faults, bool) {
    let mut faults = Faults::default();
    match number {
        0 => faults.unavailable = true,
        1 => faults.slow = Duration::from_millis(700),
        2 => faults.slow = Duration::from_millis(30),
        3 => faults.empty_payload = true,
        4 => faults.nothing = true,
        5 => faults.half = true,
        6 => faults.ties_reversed = true,
        7 => faults.forgets = true,
        8 => faults.lacks = points / 3,
        _ => {}
    }
    (faults, matches!(number, 7 | 8))
}

/// What many searches came to.
#[derive(Debug, Default)]
struct Answers {
    right: usize,
    refused: usize,
    accepted: usize,
    /// Another item than the best, while points were missing; each with its exact score.
    missed: usize,
    /// Of these, another item than the best was accepted.
    accepted_instead: usize,
}

impl World {
    /// Searches at once for items and for strangers.
    async fn search_all(
        &self,
        kept: &KeptItems,
        queries: &[Vec<f32>],
        lossy: bool,
        counted: &mut Answers,
    ) {
        let asked = queries.iter().map(|query| {
            let (channel, asked) = (self.running.channel.clone(), request(query.clone()));
            tokio::spawn(async move { RetrievalServiceClient::new(channel).search(asked).await })
        });
        for (answer, query) in asked.collect::<Vec<_>>().into_iter().zip(queries) {
            let answer = match answer.await.unwrap() {
                Ok(answer) => answer.into_inner(),
                Err(refused) => {
                    refused_well(&refused);
                    counted.refused += 1;
                    continue;
                }
            };
            let accepted = answer.decision == i32::from(Decision::Accept);
            counted.accepted += usize::from(accepted);
            let found = seen(&answer).matches;
            let all = kept.nearest(query, kept.0.len(), false, |_| true);
            let threshold = answer.basis.unwrap().threshold.unwrap();
            assert!(found.iter().all(|one| all.contains(one)), "{found:?}");
            assert_eq!(accepted, threshold <= f32::from_bits(found[0].1));
            if found == all[..5] {
                counted.right += 1;
            } else {
                assert!(lossy, "{found:?} in place of {:?}", &all[..5]);
                counted.missed += 1;
                counted.accepted_instead += usize::from(accepted && found[0] != all[0]);
            }
        }
    }
}

/// Goes on for `TESTS_SECONDS`, and says how much it did.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_accepted_wrongly_while_qdrant_fails_at_random() {
    let mut world = World::new().await;
    let (mut random, mut kept) = (Random(61), KeptItems::of_shop());
    let (mut counted, mut rounds) = (Answers::default(), 0);
    let until_then = Instant::now() + patience(Duration::from_secs(4));
    while Instant::now() < until_then || rounds < 12 {
        let (faults, lossy) = fault(random.below(11), kept.0.len());
        let slow = Duration::from_millis(100) < faults.slow;
        world.stub.content().faults = faults;
        if random.below(12) == 0 {
            world.stub.dies();
            world.stub.lives_again();
        } else if random.below(12) == 0 {
            world.stub.goes_away_and_comes_back();
        }
        let (id, values) = (format!("new {}", random.below(20)), stranger(&mut random));
        if kept.0.remove(&id).is_some() {
            remove(&world.running, &id).await;
        } else {
            enrol(&world.running, &id, values.clone()).await;
            let (label, embedding) = (id.clone(), unit(values));
            let item = Item {
                id,
                label,
                metadata: BTreeMap::new(),
                embedding,
                source_sha256: None,
                image: None,
            };
            kept.put(item);
        }
        let queries = (0..if slow { 16 } else { 512 }).map(|_| match random.below(3) {
            0 => stranger(&mut random),
            1 => vector(random.below(LABELS), random.below(12)),
            _ => {
                let at = random.below(kept.0.len());
                kept.0
                    .values()
                    .nth(at)
                    .unwrap()
                    .embedding
                    .as_slice()
                    .to_vec()
            }
        });
        let queries: Vec<Vec<f32>> = queries.collect();
        // More at once than wait for a worker are refused.
        for some in queries.chunks(48) {
            let before = counted.refused;
            world.search_all(&kept, some, lossy, &mut counted).await;
            if counted.refused == before + some.len() {
                break; // more of these would show nothing
            }
        }
        if lossy {
            world.stub.fails(|_none| {});
            until("what was lost is there again", async || {
                world.stub.items() == kept.0.keys().cloned().collect()
            })
            .await;
        }
        rounds += 1;
    }
    eprintln!("{rounds} rounds with faults: {counted:?}");
    assert!(0 < counted.accepted && counted.missed < counted.right);
    world.running.stop().await;
}
