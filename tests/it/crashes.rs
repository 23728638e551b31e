//! The whole service under load while it is killed, its disk fails, and what it serves is exchanged: what it
//! acknowledged is compared with a model.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test fails by panicking, and says what it has tried"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error as _;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use matchpoint_client::proto::gallery_service_client::GalleryServiceClient;
use matchpoint_client::proto::ground_truth::Truth;
use matchpoint_client::proto::monitoring_service_client::MonitoringServiceClient;
use matchpoint_client::proto::retrieval_service_client::RetrievalServiceClient;
use matchpoint_client::proto::server_service_client::ServerServiceClient;
use matchpoint_client::proto::snapshot_service_client::SnapshotServiceClient;
use matchpoint_client::proto::{
    AnnotateDecisionsRequest, Annotation, CreateSnapshotRequest, DeleteItemRequest,
    GetDecisionRequest, GroundTruth, ListItemsRequest, ListSnapshotsRequest,
    ReloadDeploymentRequest, SearchRequest, SearchResponse, UpsertItemRequest, Vector,
    search_request, upsert_item_request,
};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tonic::transport::Channel;
use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::common::random::Random;
use crate::common::shop::{COMPONENTS, LABELS, build_shop_of, calibrate_shop, shop, vector};
use crate::common::{Served, copy_folder, matchpoint, patience};

const WRITERS: usize = 4;
/// Items that each writer writes again and again.
const IDS: usize = 40;
/// Every decision is kept, so that what was said of any is to be found.
const ALL: (&str, &str) = ("MATCHPOINT_AUDIT_SAMPLING_RATES", "1,1,1,1,1,1");

/// Which of its versions an item has; none where it is deleted.
type Versions = BTreeMap<String, Option<u64>>;

/// One who writes items of its own, and notes what was acknowledged.
struct Writer {
    number: usize,
    random: Random,
    version: u64,
    known: Versions,
    /// What was asked for and not answered: it may have become of it what it will.
    doubtful: Option<(String, Option<u64>)>,
    acknowledged: usize,
    refused: Vec<Status>,
}

/// The vector of a version of an item, near to no other one.
fn vector_of(id: &str, version: u64) -> Vec<f32> {
    let seed = id.bytes().fold(version, |seed, byte| {
        seed.wrapping_mul(1_000_003) ^ u64::from(byte)
    });
    Random(seed).vector(COMPONENTS)
}

impl Writer {
    fn new(number: usize) -> Self {
        Self {
            number,
            random: Random(number as u64),
            version: 0,
            known: Versions::new(),
            doubtful: None,
            acknowledged: 0,
            refused: Vec::new(),
        }
    }

    /// Writes until `stop`, or until nobody answers any more.
    async fn write(mut self, channel: Channel, stop: Arc<AtomicBool>) -> Self {
        let mut gallery = GalleryServiceClient::new(channel);
        while !stop.load(Ordering::Relaxed) {
            let id = format!("writer {}/{}", self.number, self.random.below(IDS));
            self.version += 1;
            let there = matches!(self.known.get(&id), Some(Some(_)));
            let next = (!there || self.random.below(4) != 0).then_some(self.version);
            self.doubtful = Some((id.clone(), next));
            let answer = match next {
                Some(version) => gallery
                    .upsert_item(UpsertItemRequest {
                        label: format!("version {version}"),
                        source: Some(upsert_item_request::Source::Embedding(Vector {
                            values: vector_of(&id, version),
                        })),
                        id: id.clone(),
                        ..UpsertItemRequest::default()
                    })
                    .await
                    .map(drop),
                None => gallery
                    .delete_item(DeleteItemRequest {
                        id: id.clone(),
                        ..DeleteItemRequest::default()
                    })
                    .await
                    .map(drop),
            };
            match answer {
                Ok(()) => {
                    self.acknowledged += 1;
                    self.known.insert(id, next);
                    self.doubtful = None;
                }
                Err(status) if is_gone(&status) => break,
                Err(status) => {
                    self.doubtful = None;
                    self.refused.push(status);
                }
            }
        }
        self
    }

    /// Compares what there is with what was acknowledged, and takes what was not answered as it is found.
    fn check(&mut self, found: &BTreeMap<String, u64>) {
        if let Some((id, next)) = self.doubtful.take()
            && found.get(&id).copied() == next
        {
            self.known.insert(id, next);
        }
        let prefix = format!("writer {}/", self.number);
        let own = found.iter().filter(|(id, _)| id.starts_with(&prefix));
        let own: Vec<(&String, &u64)> = own.collect();
        let known = self.known.iter();
        let known: Vec<(&String, &u64)> = known
            .filter_map(|(id, version)| Some((id, version.as_ref()?)))
            .collect();
        assert_eq!(own, known);
    }
}

/// Whether a call failed because its server did, so that nobody knows what became of it.
fn is_gone(status: &Status) -> bool {
    status.code() == Code::Unavailable
        || status.code() == Code::Unknown
        || status.code() == Code::Cancelled
        || (status.code() == Code::Internal && status.source().is_some())
}

/// The items of the writers and their versions.
async fn written(channel: &Channel) -> BTreeMap<String, u64> {
    let mut gallery = GalleryServiceClient::new(channel.clone());
    let (mut found, mut page_token) = (BTreeMap::new(), String::new());
    loop {
        let request = ListItemsRequest {
            page_size: 1000,
            page_token,
            ..ListItemsRequest::default()
        };
        let page = gallery.list_items(request).await.unwrap().into_inner();
        found.extend(page.items.into_iter().filter_map(|item| {
            let version = item.label.strip_prefix("version ")?.parse().unwrap();
            Some((item.id, version))
        }));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return found;
        }
    }
}

/// The id of the nearest item, how near it is to the last bit, and the decision's id.
async fn nearest(channel: &Channel, values: Vec<f32>) -> Result<(String, u32, String), Status> {
    let request = SearchRequest {
        query: Some(search_request::Query::Embedding(Vector { values })),
        ..SearchRequest::default()
    };
    let mut retrieval = RetrievalServiceClient::new(channel.clone());
    let answer = retrieval.search(request).await?.into_inner();
    let first = &answer.matches[0];
    Ok((
        first.id.clone(),
        first.score.to_bits(),
        answer.decision_id.clone(),
    ))
}

/// What is found for the things that nobody writes.
async fn golden(channel: &Channel) -> Vec<(String, u32)> {
    let mut all = Vec::new();
    for label in 0..LABELS {
        let (id, score, _) = nearest(channel, vector(label, 5)).await.unwrap();
        all.push((id, score));
    }
    all
}

/// Decisions that were answered, and whether an annotation of each was acknowledged.
type Decisions = Vec<(String, bool)>;

/// Searches, counts and annotates until `stop`, or until nobody answers; what it finds is always the same.
async fn search_and_annotate(
    channel: Channel,
    golden: Arc<Vec<(String, u32)>>,
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
) -> Decisions {
    let mut monitoring = MonitoringServiceClient::new(channel.clone());
    let mut decisions = Decisions::new();
    for round in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let label = round % LABELS;
        let (id, score, decision_id) = match nearest(&channel, vector(label, 5)).await {
            Ok(found) => found,
            Err(status) if is_gone(&status) => break,
            Err(status) => panic!("a search failed: {status}"),
        };
        assert_eq!((&id, score), (&golden[label].0, golden[label].1));
        answered.fetch_add(1, Ordering::Relaxed);
        decisions.push((decision_id.clone(), false));
        if round % 8 != 0 {
            continue;
        }
        let annotation = Annotation {
            decision_id: decision_id.clone(),
            ground_truth: Some(GroundTruth {
                truth: Some(Truth::Label(format!("label {label}"))),
                ..GroundTruth::default()
            }),
            ..Annotation::default()
        };
        let request = AnnotateDecisionsRequest {
            annotations: vec![annotation],
            ..AnnotateDecisionsRequest::default()
        };
        if monitoring.annotate_decisions(request).await.is_ok() {
            decisions.last_mut().unwrap().1 = true;
        }
    }
    decisions
}

/// Takes snapshots, one after the other, until nobody answers.
async fn take_snapshots(channel: Channel, stop: Arc<AtomicBool>, round: usize) {
    let mut snapshots = SnapshotServiceClient::new(channel);
    for number in 0.. {
        let request = CreateSnapshotRequest {
            snapshot_id: format!("round-{round}-{number}"),
            ..CreateSnapshotRequest::default()
        };
        if stop.load(Ordering::Relaxed) || snapshots.create_snapshot(request).await.is_err() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Everybody who works against one server.
struct Load {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
    writers: Vec<JoinHandle<Writer>>,
    searcher: JoinHandle<Decisions>,
}

impl Load {
    fn begin(channel: &Channel, writers: Vec<Writer>, golden: &Arc<Vec<(String, u32)>>) -> Self {
        let (stop, answered) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let write = |writer: Writer| writer.write(channel.clone(), Arc::clone(&stop));
        let writers = writers.into_iter().map(write);
        let writers = writers.map(tokio::spawn).collect();
        let (stopping, counted) = (Arc::clone(&stop), Arc::clone(&answered));
        let search = search_and_annotate(channel.clone(), Arc::clone(golden), stopping, counted);
        Self {
            writers,
            searcher: tokio::spawn(search),
            stop,
            answered,
        }
    }

    /// What the writers know, and the decisions, once all have ended.
    async fn end(self) -> (Vec<Writer>, Decisions) {
        self.stop.store(true, Ordering::Relaxed);
        let mut writers = Vec::new();
        for writer in self.writers {
            writers.push(writer.await.unwrap());
        }
        (writers, self.searcher.await.unwrap())
    }
}

/// That all that was acknowledged is there, is found, and nothing else is.
async fn check(channel: &Channel, writers: &mut [Writer], golden: &[(String, u32)]) {
    let found = written(channel).await;
    for writer in &mut *writers {
        writer.check(&found);
    }
    for (id, version) in &found {
        let (nearest, score, _) = nearest(channel, vector_of(id, *version)).await.unwrap();
        assert_eq!(&nearest, id);
        assert!(0.999_99 < f32::from_bits(score), "{id}");
    }
    assert_eq!(self::golden(channel).await, golden);
}

async fn check_decisions(channel: &Channel, decisions: &[(String, bool)]) {
    let mut monitoring = MonitoringServiceClient::new(channel.clone());
    for (decision_id, is_annotated) in decisions {
        let request = GetDecisionRequest {
            decision_id: decision_id.clone(),
            ..GetDecisionRequest::default()
        };
        let found = monitoring.get_decision(request).await.unwrap();
        // One that was not acknowledged may be there.
        let there = !found.get_ref().annotations.is_empty();
        assert!(there || !is_annotated, "{decision_id}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_that_is_killed_again_and_again_under_load_loses_nothing_acknowledged() {
    let folder = TempDir::new().unwrap();
    let deployment = folder.path().join("shop");
    copy_folder(shop(), &deployment);
    let data = folder.path().join("data");
    fs::create_dir(&data).unwrap();
    let settings = [ALL, ("MATCHPOINT_DATA_DIR", data.to_str().unwrap())];
    let until = Instant::now() + patience(Duration::from_secs(6));
    let mut random = Random(5);
    let mut writers = writers();
    let (mut rounds, mut decisions, mut searches) = (0, Vec::new(), 0);
    let (mut slowest, mut expected) = (Duration::ZERO, None);
    while rounds < 4 || Instant::now() < until {
        let begun = Instant::now();
        let mut served = Served::start(&deployment, &settings, &[]);
        slowest = slowest.max(begun.elapsed());
        let channel = served.channel();
        let expected = match &expected {
            Some(golden) => Arc::clone(golden),
            None => Arc::clone(expected.insert(Arc::new(golden(&channel).await))),
        };
        check(&channel, &mut writers, &expected).await;
        check_decisions(&channel, &decisions).await;
        let load = Load::begin(&channel, writers, &expected);
        let stop = Arc::clone(&load.stop);
        let snapshots = tokio::spawn(take_snapshots(channel.clone(), stop, rounds));
        tokio::time::sleep(Duration::from_millis(200 + random.bits() % 1_000)).await;
        let answered = Arc::clone(&load.answered);
        served.kill();
        let newly;
        (writers, newly) = load.end().await;
        snapshots.await.unwrap();
        decisions.extend(newly);
        // The oldest ones have been looked at often enough.
        decisions.drain(..decisions.len().saturating_sub(400));
        searches += answered.load(Ordering::Relaxed);
        rounds += 1;
    }
    let served = Served::start(&deployment, &settings, &[]);
    check(&served.channel(), &mut writers, &expected.unwrap()).await;
    check_decisions(&served.channel(), &decisions).await;
    let mut snapshots = SnapshotServiceClient::new(served.channel());
    let taken = snapshots.list_snapshots(ListSnapshotsRequest {}).await;
    let taken = taken.unwrap().into_inner().snapshots.len();
    let acknowledged: usize = writers.iter().map(|writer| writer.acknowledged).sum();
    let refused: Vec<&Status> = writers.iter().flat_map(|one| &one.refused).collect();
    eprintln!(
        "{rounds} kills, {acknowledged} writes and {searches} searches acknowledged, {taken} snapshots, \
         ready within {slowest:?}"
    );
    assert!(refused.is_empty(), "{refused:?}");
    assert!(rounds * 20 < acknowledged, "{acknowledged}");
}

/// A small file system in memory; `None` where this user may not mount one, which is said.
struct Disk(TempDir);

impl Disk {
    fn mount(size: &str) -> Option<Self> {
        let folder = TempDir::new().unwrap();
        let mut mount = Command::new("mount");
        mount.args([
            "-t",
            "tmpfs",
            "-o",
            &format!("size={size}"),
            "matchpoint-tests",
        ]);
        let mounted = mount.arg(folder.path()).output();
        let is_mounted = mounted.is_ok_and(|mounted| mounted.status.success());
        if !is_mounted {
            eprintln!("skipped: needs root, and the right to mount");
        }
        is_mounted.then_some(Self(folder))
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Where a failed test has files open still, it goes once they are closed.
        let mut unmount = Command::new("umount");
        let unmounted = unmount.arg("-l").arg(self.0.path()).status();
        unmounted.map(drop).unwrap_or_default();
    }
}

/// Writes and searches go on for so long; returns the writers.
async fn load_for(
    channel: &Channel,
    writers: Vec<Writer>,
    golden: &Arc<Vec<(String, u32)>>,
    time: Duration,
) -> Vec<Writer> {
    let load = Load::begin(channel, writers, golden);
    tokio::time::sleep(time).await;
    let answered = load.answered.load(Ordering::Relaxed);
    assert!(0 < answered, "nothing was answered");
    load.end().await.0
}

fn writers() -> Vec<Writer> {
    (0..WRITERS).map(Writer::new).collect()
}

fn reasons(writers: &mut [Writer]) -> BTreeSet<String> {
    let refused = writers.iter_mut().flat_map(|one| one.refused.drain(..));
    let reason = |status: Status| {
        let info = status.get_details_error_info();
        info.map_or_else(|| status.to_string(), |info| info.reason)
    };
    refused.map(reason).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_the_disk_is_full_writes_are_refused_by_name_and_searches_answered() {
    let Some(disk) = Disk::mount("64m") else {
        return;
    };
    let deployment = disk.0.path().join("shop");
    copy_folder(shop(), &deployment);
    let served = Served::start(&deployment, &[ALL], &[]);
    let channel = served.channel();
    let golden = Arc::new(golden(&channel).await);
    let second = Duration::from_secs(1);
    let mut writers = load_for(&channel, writers(), &golden, second / 4).await;
    assert_eq!(reasons(&mut writers), BTreeSet::new());

    let mut ballast = fs::File::create(disk.0.path().join("ballast")).unwrap();
    while std::io::Write::write_all(&mut ballast, &[1; 4096]).is_ok() {}
    drop(ballast);
    let mut writers = load_for(&channel, writers, &golden, second).await;
    let full = BTreeSet::from(["DISK_FULL".to_owned()]);
    assert_eq!(reasons(&mut writers), full);
    check(&channel, &mut writers, &golden).await;
    drop(served);

    // Killed, and started on the full disk.
    let served = Served::start(&deployment, &[ALL], &[]);
    let channel = served.channel();
    check(&channel, &mut writers, &golden).await;
    fs::remove_file(disk.0.path().join("ballast")).unwrap();
    let mut writers = load_for(&channel, writers, &golden, second).await;
    assert_eq!(reasons(&mut writers), BTreeSet::new());
    check(&channel, &mut writers, &golden).await;
    served.end();
    let served = Served::start(&deployment, &[ALL], &[]);
    check(&served.channel(), &mut writers, &golden).await;
}

#[test]
fn a_deployment_is_compacted_beside_itself_and_not_where_temporary_files_are() {
    let Some(small) = Disk::mount("1m") else {
        return;
    };
    let root = TempDir::new().unwrap();
    let at = |name: &str| root.path().join(name);
    // More than the database keeps in memory before it writes a temporary file.
    let (mut bytes, mut list) = (Vec::new(), String::from("id,label\n"));
    let mut random = Random(5);
    for row in 0..4_000 {
        let vector = random.vector(512);
        bytes.extend(512_u32.to_le_bytes());
        bytes.extend(vector.into_iter().flat_map(f32::to_le_bytes));
        list.push_str(&format!("{row},{row}\n"));
    }
    fs::write(at("vectors.fvecs"), bytes).unwrap();
    fs::write(at("labels.csv"), list).unwrap();
    let said = |arguments: &[&str], folder: &Path| {
        let mut command = matchpoint(arguments);
        let ended = command.env("TMPDIR", folder).output().unwrap();
        let said = String::from_utf8_lossy(&ended.stderr).into_owned();
        (ended.status.success(), said)
    };
    let [vectors, labels, shop] = ["vectors.fvecs", "labels.csv", "shop"].map(at);
    let [vectors, labels, shop] = [&vectors, &labels, &shop].map(|path| path.to_str().unwrap());
    let build = ["build", shop, "--embeddings", vectors, "--labels", labels];
    let build = [&build[..], &["--vectors-of", "x"]].concat();
    for command in [&build[..], &["compact", shop]] {
        let (succeeded, said) = said(command, small.0.path());
        assert!(succeeded, "{}: {said}", command[0]);
    }
    assert_eq!(fs::read_dir(small.0.path()).unwrap().count(), 0);
}

/// Makes system calls of a running server at its items fail, until this is dropped.
struct Failing(Child);

impl Failing {
    fn begin(served: &Served, deployment: &Path, calls: &str, error: &str) -> Self {
        let mut strace = Command::new("strace");
        strace.args(["--follow-forks", "--attach", &served.child.id().to_string()]);
        strace.args([
            "--trace",
            calls,
            "--inject",
            &format!("{calls}:error={error}"),
        ]);
        for file in ["items.db", "items.db-wal"] {
            strace.arg("--trace-path").arg(deployment.join(file));
        }
        let mut strace = strace.stderr(Stdio::piped()).spawn().unwrap();
        let mut said = BufReader::new(strace.stderr.take().unwrap()).lines();
        let attached = said.find(|line| line.as_ref().unwrap().contains("attached"));
        assert!(attached.is_some(), "strace has not attached");
        std::thread::spawn(move || said.for_each(drop));
        Self(strace)
    }
}

impl Drop for Failing {
    fn drop(&mut self) {
        // It lets go of the server, as it would not if it were killed.
        let mut ask = Command::new("kill");
        let asked = ask.args(["-INT", &self.0.id().to_string()]).status();
        asked.map(drop).unwrap_or_default();
        self.0.wait().map(drop).unwrap_or_default();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_the_disk_fails_writes_are_refused_and_none_that_was_acknowledged_is_lost() {
    if Command::new("strace").arg("-V").output().is_err() {
        eprintln!("skipped: strace is not installed");
        return;
    }
    let folder = TempDir::new().unwrap();
    let deployment = folder.path().canonicalize().unwrap().join("shop");
    copy_folder(shop(), &deployment);
    let mut served = Served::start(&deployment, &[ALL], &[]);
    let golden = Arc::new(golden(&served.channel()).await);
    let (mut writers, mut all) = (writers(), BTreeSet::new());
    for (number, error) in ["ENOSPC", "EIO", "EROFS", "EDQUOT"].iter().enumerate() {
        for calls in ["pwrite64", "fsync,fdatasync"] {
            let time = Duration::from_millis(300);
            let channel = served.channel();
            let failing = Failing::begin(&served, &deployment, calls, error);
            writers = load_for(&channel, writers, &golden, time).await;
            drop(failing);
            let found = reasons(&mut writers);
            println!("{error} of {calls}: {found:?}");
            assert!(calls != "pwrite64" || !found.is_empty(), "{error}");
            all.extend(found);
            check(&channel, &mut writers, &golden).await;
            writers = load_for(&channel, writers, &golden, time).await;
            assert_eq!(reasons(&mut writers), BTreeSet::new(), "after {error}");
        }
        // The power fails too.
        if number % 2 == 0 {
            served.kill();
            served = Served::start(&deployment, &[ALL], &[]);
        }
        check(&served.channel(), &mut writers, &golden).await;
    }
    println!("{all:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_that_jumps_changes_no_answer_and_loses_no_write() {
    let library = format!(
        "/usr/lib/{}-linux-gnu/faketime/libfaketime.so.1",
        std::env::consts::ARCH
    );
    if !Path::new(&library).exists() {
        eprintln!("skipped: libfaketime is not installed");
        return;
    }
    let folder = TempDir::new().unwrap();
    let (deployment, now) = (folder.path().join("shop"), folder.path().join("now"));
    copy_folder(shop(), &deployment);
    fs::write(&now, "+0").unwrap();
    let settings = [
        ALL,
        ("LD_PRELOAD", library.as_str()),
        ("FAKETIME_TIMESTAMP_FILE", now.to_str().unwrap()),
        ("FAKETIME_NO_CACHE", "1"),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
    ];
    let mut served = Served::start(&deployment, &settings, &[]);
    let golden = Arc::new(golden(&served.channel()).await);
    let mut writers = writers();
    for offset in ["+1h", "-1h", "-10y", "+10y", "+70y", "-50y", "+0"] {
        fs::write(&now, offset).unwrap();
        let channel = served.channel();
        writers = load_for(&channel, writers, &golden, Duration::from_millis(300)).await;
        assert_eq!(reasons(&mut writers), BTreeSet::new(), "{offset}");
        check(&channel, &mut writers, &golden).await;
        served.kill();
        served = Served::start(&deployment, &settings, &[]);
        check(&served.channel(), &mut writers, &golden).await;
    }
    served.end();
}

#[test]
fn with_too_few_descriptors_the_start_says_so_and_with_enough_it_serves() {
    let mut began = BTreeSet::new();
    let mut asked_for_more = BTreeSet::new();
    // Its own files take 24: with 32 it could accept a few, and soon nobody.
    for limit in [8, 12, 16, 28, 32, 48, 64] {
        let program = matchpoint(&[]).get_program().to_owned();
        let mut limited = Command::new("prlimit");
        limited
            .arg(format!("--nofile={limit}"))
            .arg(program)
            .arg("serve");
        let folder = TempDir::new().unwrap();
        let deployment = folder.path().join("shop");
        copy_folder(shop(), &deployment);
        match Served::spawn(limited, &deployment, &[], &[]) {
            Ok(served) => {
                began.insert(limit);
                let runtime = tokio::runtime::Runtime::new().unwrap();
                runtime.block_on(async { golden(&served.channel()).await });
            }
            Err(said) => {
                if said.contains(&format!("may have {limit} files open")) {
                    assert!(said.contains("ulimit -n"), "{said}");
                    asked_for_more.insert(limit);
                    continue;
                }
                let named = ["Too many open files", "os error 24", "unable to open"];
                assert!(
                    named.iter().any(|name| said.contains(name)),
                    "{limit}: {said}"
                );
                assert!(!said.contains("signal"), "{limit}: {said}");
            }
        }
    }
    assert_eq!(asked_for_more, BTreeSet::from([28, 32]));
    assert_eq!(began, BTreeSet::from([48, 64]));
}

/// The program as another user, who may have so many threads. Nobody else's count, and root's have no limit.
fn with_threads(limit: usize) -> Command {
    let mut limited = Command::new("setpriv");
    limited.args(["--reuid=65532", "--regid=65532", "--clear-groups"]);
    limited.args(["prlimit", &format!("--nproc={limit}")]);
    limited.arg(matchpoint(&[]).get_program());
    limited
}

#[test]
fn with_too_few_threads_a_command_says_so_and_with_fewer_than_cores_it_works() {
    let version = with_threads(1).arg("--version").output();
    if !version.is_ok_and(|ended| ended.status.success()) {
        eprintln!("skipped: needs root, and a program that other users may run");
        return;
    }
    let root = TempDir::new().unwrap();
    let at = |name: &str| root.path().join(name).to_str().unwrap().to_owned();
    copy_folder(shop(), &root.path().join("shop"));
    let list = "id,label\n0,a\n1,b\n";
    fs::write(at("labels.csv"), list).unwrap();
    let vectors = [vector(0, 0), vector(1, 0)].map(|vector| {
        let components = u32::try_from(COMPONENTS).unwrap().to_le_bytes();
        let values = vector.into_iter().flat_map(f32::to_le_bytes);
        components.into_iter().chain(values).collect::<Vec<u8>>()
    });
    fs::write(at("vectors.fvecs"), vectors.concat()).unwrap();
    let cores = std::thread::available_parallelism().unwrap().get();
    let (mut worked, mut asked_for_more) = (BTreeSet::new(), BTreeSet::new());
    // Itself, 16 of its own, and one for each core to compute with.
    for limit in [1, 2, 8, 17, 18, 17 + cores, 24 + cores] {
        let out = format!("out-{limit}");
        fs::create_dir(at(&out)).unwrap();
        let mut own = Command::new("chown");
        let owned = own.args(["-R", "65532", root.path().to_str().unwrap()]);
        assert!(owned.status().unwrap().success());
        let build = format!(
            "build {out}/new --embeddings vectors.fvecs --labels labels.csv --vectors-of x"
        );
        for command in [
            build,
            "compact shop --graph-from-items 100".to_owned(),
            "inspect shop".to_owned(),
            "calibrate shop --gallery-as-queries --target-far 0.2".to_owned(),
            format!("snapshot shop {out}/archive --with-index"),
            format!("restore {out}/archive {out}/restored"),
        ] {
            let mut limited = with_threads(limit);
            limited.args(command.split(' ')).current_dir(root.path());
            let ended = limited.env("TMPDIR", root.path()).output().unwrap();
            let said = String::from_utf8_lossy(&ended.stderr).into_owned();
            if ended.status.success() {
                worked.insert(limit);
                continue;
            }
            assert_eq!(ended.status.code(), Some(74), "{limit}, {command}: {said}");
            assert!(
                said.contains("ulimit -u") && !said.contains("panicked"),
                "{command}: {said}"
            );
            asked_for_more.insert(limit);
        }
    }
    assert_eq!(asked_for_more, BTreeSet::from([1, 2, 8, 17]));
    assert_eq!(worked, BTreeSet::from([18, 17 + cores, 24 + cores]));
}

/// Memory that is resident, in MiB, and how many files are open.
fn size_of(served: &Served) -> (u64, usize) {
    let process = PathBuf::from(format!("/proc/{}", served.child.id()));
    let pages = fs::read_to_string(process.join("statm")).unwrap();
    let pages: u64 = pages.split(' ').nth(1).unwrap().parse().unwrap();
    (
        pages / 256,
        fs::read_dir(process.join("fd")).unwrap().count(),
    )
}

async fn search_states(
    channel: Channel,
    stop: Arc<AtomicBool>,
    golden: Arc<BTreeMap<String, (String, u32, String)>>,
) -> BTreeMap<String, usize> {
    let (mut seen, mut retrieval) = (BTreeMap::new(), RetrievalServiceClient::new(channel));
    while !stop.load(Ordering::Relaxed) {
        let query = Vector {
            values: vector(7, 5),
        };
        let request = SearchRequest {
            query: Some(search_request::Query::Embedding(query)),
            ..SearchRequest::default()
        };
        let answer = retrieval.search(request).await.unwrap().into_inner();
        // Each answer is whole of one state.
        assert_eq!(golden.get(&answer.state), Some(&gist(&answer)));
        *seen.entry(answer.state).or_default() += 1;
    }
    seen
}

/// What was found and by which operating point it was decided.
fn gist(answer: &SearchResponse) -> (String, u32, String) {
    let first = &answer.matches[0];
    let point = answer.basis.as_ref().unwrap().operating_point_id.clone();
    (first.id.clone(), first.score.to_bits(), point)
}

fn lead(link: &Path, to: &Path) {
    let beside = link.with_extension("next");
    symlink(to, &beside).unwrap();
    fs::rename(beside, link).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn switched_again_and_again_under_load_no_call_fails_and_nothing_grows() {
    let folder = TempDir::new().unwrap();
    let at = |name: &str| folder.path().join(name);
    copy_folder(shop(), &at("first"));
    build_shop_of(&at("second"), 10, &[]);
    calibrate_shop(&at("second"), "0.2");
    copy_folder(&at("second"), &at("damaged"));
    fs::write(at("damaged").join("items.db"), "nothing").unwrap();
    let link = at("served");
    symlink(at("second"), &link).unwrap();
    let served = Served::start(&link, &[], &[]);
    let channel = served.channel();
    let mut server = ServerServiceClient::new(channel.clone());
    let mut golden = BTreeMap::new();
    for folder in ["first", "second"] {
        lead(&link, &at(folder));
        let reload = ReloadDeploymentRequest::default();
        server
            .reload_deployment(reload)
            .await
            .map(drop)
            .unwrap_or_default();
        let query = Vector {
            values: vector(7, 5),
        };
        let request = SearchRequest {
            query: Some(search_request::Query::Embedding(query)),
            ..SearchRequest::default()
        };
        let mut retrieval = RetrievalServiceClient::new(channel.clone());
        let answer = retrieval.search(request).await.unwrap().into_inner();
        golden.insert(answer.state.clone(), gist(&answer));
    }
    assert_eq!(golden.len(), 2, "{golden:?}");
    let (golden, stop) = (Arc::new(golden), Arc::<AtomicBool>::default());
    let searchers: Vec<_> = (0..4)
        .map(|_| search_states(channel.clone(), Arc::clone(&stop), Arc::clone(&golden)))
        .map(tokio::spawn)
        .collect();
    let begun = Instant::now();
    let (mut switches, mut warm) = (0, None);
    while switches < 30 || begun.elapsed() < patience(Duration::from_secs(4)) {
        for folder in ["first", "damaged", "second"] {
            lead(&link, &at(folder));
            let reload = ReloadDeploymentRequest::default();
            let reloaded = server.reload_deployment(reload).await;
            assert_eq!(reloaded.is_ok(), folder != "damaged", "{reloaded:?}");
            switches += 1;
        }
        if warm.is_none() && 15 <= switches {
            warm = Some(size_of(&served));
        }
    }
    stop.store(true, Ordering::Relaxed);
    let mut answered = 0;
    for searcher in searchers {
        let seen = searcher.await.unwrap();
        assert_eq!(seen.len(), 2);
        answered += seen.values().sum::<usize>();
    }
    let ((before, files_before), (after, files_after)) = (warm.unwrap(), size_of(&served));
    println!(
        "{switches} switches, {answered} searches answered; {before} MiB and {files_before} files, then {after} and {files_after}"
    );
    // What the allocator keeps for threads that come and go stops growing below that.
    assert!(after <= before + 64, "{before} MiB, then {after}");
    assert!(
        files_after <= files_before + 8,
        "{files_before}, then {files_after}"
    );
}
