//! Every file of a deployment, damaged in every way that disks and people know: it gives the same answers or an
//! error, and never other answers.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a test fails by panicking, and says what it has tried"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use matchpoint_client::proto::gallery_service_client::GalleryServiceClient;
use matchpoint_client::proto::ground_truth::Truth;
use matchpoint_client::proto::monitoring_service_client::MonitoringServiceClient;
use matchpoint_client::proto::retrieval_service_client::RetrievalServiceClient;
use matchpoint_client::proto::{
    AnnotateDecisionsRequest, Annotation, Decision, GroundTruth, SearchRequest, SearchResponse,
    UpsertItemRequest, Vector, search_request, upsert_item_request,
};
use tempfile::TempDir;
use tonic::Status;
use tonic::transport::Channel;

use crate::common::random::Random;
use crate::common::shop::{build_shop, build_shop_of, calibrate_shop, vector};
use crate::common::{ROOT, Served, copy_folder, matchpoint, patience};

const BLOCK: usize = 4096;
const DAMAGES: [Damage; 11] = [
    Damage::Bit,
    Damage::Bits,
    Damage::Cut,
    Damage::Emptied,
    Damage::Deleted,
    Damage::ZeroedBlock,
    Damage::SwappedBlocks,
    Damage::Longer,
    Damage::Later,
    Damage::Foreign,
    Damage::Neighbour,
];

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Damage {
    Bit,
    Bits,
    Cut,
    Emptied,
    Deleted,
    ZeroedBlock,
    SwappedBlocks,
    Longer,
    /// The same file of the same deployment, as it was later.
    Later,
    /// The same file of another deployment.
    Foreign,
    /// Another file of this deployment.
    Neighbour,
}

/// What is compared: everything that an answer says of what was found and decided.
#[derive(Clone, Debug, PartialEq)]
struct Answer {
    decision: Decision,
    operating_point: String,
    matches: Vec<(String, String, u32)>,
}

impl Answer {
    fn of(response: &SearchResponse) -> Self {
        let matches = response.matches.iter();
        let basis = response.basis.as_ref();
        Self {
            decision: response.decision(),
            operating_point: basis
                .map_or_else(String::new, |basis| basis.operating_point_id.clone()),
            matches: matches
                .map(|one| (one.id.clone(), one.label.clone(), one.score.to_bits()))
                .collect(),
        }
    }

    /// Whether this says no more than the other: the same was found, and the same is decided or nothing.
    fn is_at_most(&self, other: &Self) -> bool {
        self.matches == other.matches && (self == other || self.decision == Decision::Undecided)
    }
}

async fn search(channel: &Channel, label: usize) -> Result<SearchResponse, Status> {
    let query = Vector {
        values: vector(label, 5),
    };
    let request = SearchRequest {
        query: Some(search_request::Query::Embedding(query)),
        ..SearchRequest::default()
    };
    let mut retrieval = RetrievalServiceClient::new(channel.clone());
    Ok(retrieval.search(request).await?.into_inner())
}

async fn answers(channel: &Channel) -> Vec<Result<Answer, Status>> {
    let mut all = Vec::new();
    for label in (0..60).step_by(5) {
        let answer = search(channel, label).await;
        all.push(answer.as_ref().map(Answer::of).map_err(Clone::clone));
    }
    all
}

/// Searches, of which one is annotated, so that there is a journal of some length.
async fn work(served: &Served) -> Vec<Answer> {
    let channel = served.channel();
    let answers = answers(&channel).await;
    let decision_id = search(&channel, 1).await.unwrap().decision_id;
    let annotation = Annotation {
        decision_id,
        ground_truth: Some(GroundTruth {
            truth: Some(Truth::NotEnrolled(true)),
            ..GroundTruth::default()
        }),
        ..Annotation::default()
    };
    let request = AnnotateDecisionsRequest {
        annotations: vec![annotation],
        ..AnnotateDecisionsRequest::default()
    };
    let mut monitoring = MonitoringServiceClient::new(channel);
    monitoring.annotate_decisions(request).await.unwrap();
    answers.into_iter().map(Result::unwrap).collect()
}

/// A deployment, the same one later, and another one; with what the first answers, and what it does with later items.
struct Deployments {
    root: TempDir,
    now: Vec<Answer>,
    of_later_items: Vec<Answer>,
}

impl Deployments {
    async fn made() -> Self {
        let root = TempDir::new().unwrap();
        let at = |name: &str| root.path().join(name);
        build_shop(&at("now"), &["--graph-from-items", "100"]);
        calibrate_shop(&at("now"), "0.2");
        let served = Served::start(&at("now"), &[], &[]);
        let now = work(&served).await;
        served.end();

        copy_folder(&at("now"), &at("later"));
        let served = Served::start(&at("later"), &[], &[]);
        let mut gallery = GalleryServiceClient::new(served.channel());
        for label in 0..30 {
            let request = UpsertItemRequest {
                id: format!("{label}/1"),
                label: format!("label {label}"),
                source: Some(upsert_item_request::Source::Embedding(Vector {
                    values: vector(label, 8),
                })),
                ..UpsertItemRequest::default()
            };
            gallery.upsert_item(request).await.unwrap();
        }
        let of_later_items = work(&served).await;
        served.end();
        assert!(
            now.iter()
                .zip(&of_later_items)
                .any(|(now, later)| now != later)
        );
        calibrate_shop(&at("later"), "0.1");

        build_shop_of(&at("foreign"), 10, &["--graph-from-items", "100"]);
        calibrate_shop(&at("foreign"), "0.2");
        let served = Served::start(&at("foreign"), &[], &[]);
        work(&served).await;
        served.end();
        Self {
            root,
            now,
            of_later_items,
        }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }
}

/// Every file below a folder, by its path there.
fn files(folder: &Path) -> BTreeSet<PathBuf> {
    let mut all = BTreeSet::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                all.insert(path.strip_prefix(folder).unwrap().to_owned());
            }
        }
    }
    all
}

/// The same file of another deployment, or where its name is its own, one beside it.
fn counterpart(other: &Path, file: &Path) -> Option<Vec<u8>> {
    let folder = file.parent().unwrap();
    let beside = files(other)
        .into_iter()
        .filter(|path| path.parent() == Some(folder) && path.extension() == file.extension());
    let mut beside: Vec<PathBuf> = beside.collect();
    beside.sort_by_key(|path| path != file);
    Some(fs::read(other.join(beside.first()?)).unwrap())
}

/// Damages one file; false where that would change nothing.
fn apply(damage: Damage, file: &Path, deployments: &Deployments, random: &mut Random) -> bool {
    let at = deployments.at("damaged").join(file);
    let mut bytes = fs::read(&at).unwrap();
    let before = bytes.clone();
    let length = bytes.len().max(1);
    bytes.resize(length, 0);
    match damage {
        Damage::Deleted => {
            fs::remove_file(&at).unwrap();
            return true;
        }
        Damage::Bit => bytes[random.below(length)] ^= 1 << random.below(8),
        Damage::Bits => {
            for _ in 0..40 {
                bytes[random.below(length)] ^= 1 << random.below(8);
            }
        }
        Damage::Cut => bytes.truncate(random.below(length)),
        Damage::Emptied => bytes.clear(),
        Damage::ZeroedBlock => {
            let start = random.below(length.div_ceil(BLOCK)) * BLOCK;
            let end = length.min(start + BLOCK);
            bytes[start..end].fill(0);
        }
        Damage::SwappedBlocks => {
            let blocks = length / BLOCK;
            if blocks < 2 {
                return false;
            }
            let first = random.below(blocks);
            let second = (first + 1 + random.below(blocks - 1)) % blocks;
            for byte in 0..BLOCK {
                bytes.swap(first * BLOCK + byte, second * BLOCK + byte);
            }
        }
        Damage::Longer => (0..100).for_each(|_| bytes.push(random.bits().to_le_bytes()[0])),
        Damage::Later | Damage::Foreign => {
            let other = if damage == Damage::Later {
                "later"
            } else {
                "foreign"
            };
            let Some(other) = counterpart(&deployments.at(other), file) else {
                return false;
            };
            bytes = other;
        }
        Damage::Neighbour => {
            let all = files(&deployments.at("damaged"));
            let other = all.iter().nth(random.below(all.len())).unwrap();
            bytes = fs::read(deployments.at("damaged").join(other)).unwrap();
        }
    }
    fs::write(&at, &bytes).unwrap();
    bytes != before
}

/// What became of one damaged deployment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Outcome {
    Refused,
    SameAnswers,
    UndecidedOrErrors,
    /// What the deployment answered once it had later items, all of it.
    OfLaterItems,
}

async fn outcome(deployments: &Deployments, what: &str) -> Outcome {
    let program = matchpoint(&[]).get_program().to_owned();
    let mut limited = Command::new("prlimit");
    limited.args(["--cpu=60", "--as=4000000000"]).arg(program);
    limited.arg("serve").current_dir(ROOT);
    let mut served = match Served::spawn(limited, &deployments.at("damaged"), &[], &[]) {
        Ok(served) => served,
        Err(said) => {
            // Neither by a signal, nor by a panic or a bug.
            let bugs = ["exit status: 101", "exit status: 70"];
            let by_itself = said.starts_with("exit status: ");
            let is_bug = bugs.iter().any(|bug| said.starts_with(bug));
            assert!(by_itself && !is_bug, "{what}: {said}");
            assert!(!said.contains("panicked"), "{what}: {said}");
            return Outcome::Refused;
        }
    };
    let answers = answers(&served.channel()).await;
    assert_eq!(served.child.try_wait().unwrap(), None, "{what}: it ended");
    let are = |golden: &[Answer]| {
        let mut pairs = answers.iter().zip(golden);
        pairs.all(|(found, golden)| found.as_ref().is_ok_and(|found| found == golden))
    };
    if are(&deployments.now) {
        return Outcome::SameAnswers;
    }
    if are(&deployments.of_later_items) {
        return Outcome::OfLaterItems;
    }
    let at_most = |golden: &[Answer]| {
        let mut pairs = answers.iter().zip(golden);
        pairs.all(|(found, golden)| {
            found
                .as_ref()
                .map_or(true, |found| found.is_at_most(golden))
        })
    };
    assert!(
        at_most(&deployments.now) || at_most(&deployments.of_later_items),
        "{what}: other answers: {answers:#?}"
    );
    Outcome::UndecidedOrErrors
}

#[tokio::test]
async fn a_damaged_deployment_gives_the_same_answers_or_an_error_and_never_others() {
    let deployments = Deployments::made().await;
    let all: Vec<PathBuf> = files(&deployments.at("now")).into_iter().collect();
    let until = Instant::now() + patience(Duration::from_secs(12));
    let (mut random, mut tried) = (Random(11), 0);
    let mut outcomes: BTreeMap<(PathBuf, Damage), BTreeMap<Outcome, u32>> = BTreeMap::new();
    // Each damage to each file in an order that reaches all of both early.
    for step in 0.. {
        if all.len() <= step && until <= Instant::now() {
            break;
        }
        let file = &all[step % all.len()];
        let damage = DAMAGES[(step + step / all.len()) % DAMAGES.len()];
        fs::remove_dir_all(deployments.at("damaged")).unwrap_or_default();
        copy_folder(&deployments.at("now"), &deployments.at("damaged"));
        if !apply(damage, file, &deployments, &mut random) {
            continue;
        }
        tried += 1;
        let what = format!("step {step}: {damage:?} of {}", file.display());
        let outcome = outcome(&deployments, &what).await;
        let counts = outcomes.entry((file.clone(), damage)).or_default();
        *counts.entry(outcome).or_default() += 1;
        // A copy of all items that was whole once is whole: it is the gallery, and no part of a damaged one.
        let whole = matches!(damage, Damage::Later) && file == Path::new("items.db");
        assert!(outcome != Outcome::OfLaterItems || whole, "{what}");
    }
    for ((file, damage), counts) in &outcomes {
        println!("{} {damage:?} {counts:?}", file.display());
    }
    println!("{tried} damages");
}
