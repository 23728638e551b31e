//! Tests the content of a gallery after its process was killed, its disk failed or was full, or its folder
//! could not be written.
//!
//! A child process takes a few steps with a gallery while `strace` kills it, or makes a call fail,
//! at one chosen system call at one of the gallery's files. The child is this program again, told
//! to run only [`the_other_process`]. Without `strace` these tests are skipped, unless
//! `MATCHPOINT_TESTS_REQUIRE_STRACE` is set.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test that cannot go on has failed; the child reports on its standard output"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use matchpoint_gallery::error::GalleryError;
use matchpoint_gallery::item::Item;
use matchpoint_gallery::params::IndexParams;
use matchpoint_gallery::view::{GalleryMatch, Probe};
use matchpoint_gallery::{Access, Gallery};
use matchpoint_vector::{Embedding, Similarity};
use tempfile::TempDir;

const DIMENSION: usize = 16;
/// Number of items in the gallery with which every child starts.
const ENROLLED: u64 = 120;
/// The highest number of points at which a child is killed, and at which a call fails.
const KILLS_MAX: usize = 40;
const ERRORS_MAX: usize = 24;

/// All files that a writer opens; `.` is the folder, which is opened to make a change of names durable.
const FILES: [&str; 7] = [
    "items.db",
    "items.db-wal",
    "items.db-shm",
    "items.db.lock",
    "items.graph",
    "items.graph.tmp",
    ".",
];
/// Calls before which a kill can leave something behind. `?` means that not every processor has the call.
const CHANGING: &str = "?openat,?write,?pwrite64,?pwritev,?fsync,?fdatasync,?rename,?renameat,\
                        ?renameat2,?unlink,?unlinkat,?ftruncate";
/// Calls that a failing disk refuses.
const REFUSABLE: &str =
    "?write,?pwrite64,?pwritev,?fsync,?fdatasync,?rename,?renameat,?renameat2,?ftruncate";

const TASK: &str = "MATCHPOINT_TESTS_CHILD_TASK";
const GALLERY: &str = "MATCHPOINT_TESTS_CHILD_GALLERY";
/// The last step that was acknowledged before.
const AFTER: &str = "MATCHPOINT_TESTS_CHILD_AFTER";
/// The number of seconds for which a process is killed again and again; without it, only a few rounds.
const CRASH_SECONDS: &str = "TESTS_SECONDS";
const REQUIRE_STRACE: &str = "MATCHPOINT_TESTS_REQUIRE_STRACE";

/// Runs one test at a time. Between its fork and its exec, a child of one test has the open files of another
/// test, and with them the lock of a gallery that is already closed.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Small enough that the gallery has an index with a file.
fn params() -> IndexParams {
    IndexParams {
        graph_from_items: 50,
        ..IndexParams::default()
    }
}

fn open(path: &Path, access: Access) -> Result<Gallery, GalleryError> {
    Gallery::open(path, access, params())
}

/// Makes a gallery as the children find it: closed, and with the file of its index.
fn prepare(path: &Path) {
    let gallery = Gallery::create(path, DIMENSION, "model", "durability").unwrap();
    gallery.upsert(items(0, ENROLLED)).unwrap();
    drop(gallery);
    drop(open(path, Access::ReadWrite).unwrap());
    assert!(path.with_extension("graph").exists());
}

/// A folder with a gallery, with space for other files next to it.
struct Place {
    folder: TempDir,
    path: PathBuf,
}

impl Place {
    fn new() -> Self {
        let folder = TempDir::new().unwrap();
        // `strace` compares paths with those of open files, which contain no links.
        let data = folder.path().canonicalize().unwrap().join("data");
        fs::create_dir(&data).unwrap();
        let path = data.join("items.db");
        Self { folder, path }
    }

    fn prepared() -> Self {
        let place = Self::new();
        prepare(&place.path);
        place
    }

    fn copy(&self) -> Self {
        let place = Self::new();
        for entry in fs::read_dir(self.data()).unwrap() {
            let entry = entry.unwrap();
            fs::copy(entry.path(), place.data().join(entry.file_name())).unwrap();
        }
        place
    }

    fn data(&self) -> &Path {
        self.path.parent().unwrap()
    }
}

/// The files in a gallery's folder that only a working writer may have.
fn unfinished(path: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(path.parent().unwrap()).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names
        .filter(|name| [".tmp", ".new"].iter().any(|end| name.ends_with(end)))
        .collect()
}

/// Repeatable numbers in [-1, 1): a 64-bit linear congruential generator.
struct Random(u64);

impl Random {
    fn next(&mut self) -> f32 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let high = u16::try_from(self.0 >> 48).unwrap();
        f32::from(high) / 32_768.0 - 1.0
    }
}

fn embedding(seed: u64) -> Embedding {
    let mut random = Random(seed);
    Embedding::normalise((0..DIMENSION).map(|_| random.next()).collect()).unwrap()
}

/// Items `first..last`, with three of each label, always the same.
fn items(first: u64, last: u64) -> Vec<Item> {
    let make = |number: u64| Item {
        id: format!("item {number:03}"),
        label: format!("label {}", number / 3),
        metadata: BTreeMap::from([("file".to_owned(), format!("{number}.jpg"))]),
        embedding: embedding(number),
        source_sha256: Some([7; 32]),
        image: None,
    };
    (first..last).map(make).collect()
}

/// The items that a child enrols: four new ones, and one that replaces another. They are few enough that the
/// file of the index stays in use.
fn batch() -> Vec<Item> {
    let mut batch = items(ENROLLED, ENROLLED + 4);
    let mut moved = items(7, 8);
    moved
        .iter_mut()
        .for_each(|item| item.embedding = embedding(900));
    batch.append(&mut moved);
    batch
}

/// The items that a child deletes after that.
fn gone() -> Vec<String> {
    vec!["item 011".to_owned()]
}

type Content = BTreeMap<String, Item>;

/// The content of a gallery at some moment.
struct State {
    digest: String,
    content: Content,
}

impl State {
    /// The expected digest is that of another gallery which never had any other content.
    fn of(content: Content) -> Self {
        let place = Place::new();
        let gallery = Gallery::create(&place.path, DIMENSION, "model", "other").unwrap();
        gallery.upsert(content.values().cloned().collect()).unwrap();
        let digest = gallery.digest();
        Self { digest, content }
    }
}

fn put(content: &mut Content, items: Vec<Item>) {
    content.extend(items.into_iter().map(|item| (item.id.clone(), item)));
}

/// The states before the steps of a child, after its upsert, and after its delete.
fn states() -> [State; 3] {
    let mut content = Content::new();
    put(&mut content, items(0, ENROLLED));
    let before = State::of(content.clone());
    put(&mut content, batch());
    let upserted = State::of(content.clone());
    content.retain(|id, _| !gone().contains(id));
    [before, upserted, State::of(content)]
}

/// Queries near the changed items, and at random.
fn queries() -> Vec<Embedding> {
    [7, 11, 121, 900, 5_000, 5_001, 5_002]
        .map(embedding)
        .to_vec()
}

fn bits(matches: &[GalleryMatch]) -> Vec<(u32, String)> {
    matches
        .iter()
        .map(|found| (found.score.get().to_bits(), found.item.id.clone()))
        .collect()
}

/// The definition of an exact search, over the expected content.
fn brute_force(content: &Content, query: &Embedding, k: usize) -> Vec<(u32, String)> {
    let mut all: Vec<_> = content
        .values()
        .map(|item| {
            let score = Similarity::between(query.as_slice(), item.embedding.as_slice());
            (score.unwrap(), &item.id)
        })
        .collect();
    all.sort_by(|a, b| b.0.cmp(&a.0).then(a.1.cmp(b.1)));
    all.into_iter()
        .take(k)
        .map(|(score, id)| (score.get().to_bits(), id.clone()))
        .collect()
}

/// Searches a gallery that should have exactly this content.
fn check_answers(gallery: &Gallery, content: &Content) {
    let view = gallery.view();
    assert_eq!(view.len(), content.len());
    assert!(view.is_approximate(), "there is no index");
    for query in queries() {
        let exact = Probe {
            exact: true,
            ..Probe::nearest(5)
        };
        let expected = brute_force(content, &query, 5);
        let found = view.nearest(&query, &exact).unwrap();
        assert_eq!(bits(&found), expected);
        let indexed = view.nearest(&query, &Probe::nearest(1)).unwrap();
        assert_eq!(bits(&indexed).first(), expected.first());
    }
}

/// Does nothing, unless another test runs it in a separate process.
#[test]
fn the_other_process() {
    let (Some(task), Some(path)) = (env::var_os(TASK), env::var_os(GALLERY)) else {
        return;
    };
    let path = Path::new(&path);
    match task.to_str() {
        Some("write") => write_in_steps(path),
        Some("hold") => hold(path),
        Some("churn") => churn(path),
        _ => be_refused(path),
    }
}

/// Reports each step once it is done. A step that is refused is tried once more.
fn write_in_steps(path: &Path) {
    let gallery = attempt("open", || open(path, Access::ReadWrite));
    let go_on = |_refused: &GalleryError| still_answers(&gallery);
    attempt("upsert", || gallery.upsert(batch()).inspect_err(go_on));
    attempt("delete", || gallery.delete(&gone()).inspect_err(go_on));
    attempt("reindex", || gallery.reindex().inspect_err(go_on));
    still_answers(&gallery);
    drop(gallery);
    report("acknowledged close");
}

fn attempt<T>(step: &str, mut action: impl FnMut() -> Result<T, GalleryError>) -> T {
    let done = action().unwrap_or_else(|refusal| {
        report(&format!("refused {step}: {refusal}"));
        action().unwrap()
    });
    report(&format!("acknowledged {step}"));
    done
}

/// One of many changes, always the same, so that doing it twice has the same effect as once.
enum Change {
    Upsert(Vec<Item>),
    Delete(Vec<String>),
    Reindex,
}

impl Change {
    fn of(step: u64) -> Self {
        let at = |place: u64| step.wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(23) % place;
        match step % 12 {
            11 => Self::Reindex,
            3 | 7 => Self::Delete(
                items(at(180), at(180) + 4)
                    .into_iter()
                    .map(|item| item.id)
                    .collect(),
            ),
            _ => {
                let mut new = items(at(200), at(200) + 1 + step % 4);
                for (item, number) in new.iter_mut().zip(0..) {
                    item.embedding = embedding(1000 + step * 4 + number);
                }
                Self::Upsert(new)
            }
        }
    }

    fn make(self, gallery: &Gallery) -> Result<(), GalleryError> {
        match self {
            Self::Upsert(items) => gallery.upsert(items).map(drop),
            Self::Delete(ids) => gallery.delete(&ids).map(drop),
            Self::Reindex => gallery.reindex(),
        }
    }

    fn note(self, content: &mut Content) {
        match self {
            Self::Upsert(items) => put(content, items),
            Self::Delete(ids) => content.retain(|id, _| !ids.contains(id)),
            Self::Reindex => {}
        }
    }
}

/// Changes a gallery and searches in it until it is killed.
fn churn(path: &Path) {
    let after: u64 = env::var_os(AFTER)
        .and_then(|text| text.to_str()?.parse().ok())
        .unwrap();
    let gallery = attempt("open", || open(path, Access::ReadWrite));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            loop {
                still_answers(&gallery);
                gallery.link(8);
            }
        });
        for step in after + 1.. {
            Change::of(step).make(&gallery).unwrap();
            report(&format!("acknowledged {step}"));
        }
    });
}

/// Written on a separate line, because the test harness leaves one unfinished.
fn report(line: &str) {
    println!("\n{line}");
}

fn still_answers(gallery: &Gallery) {
    for query in queries() {
        let found = gallery.view().nearest(&query, &Probe::nearest(3));
        assert_eq!(found.unwrap().len(), 3);
    }
}

/// Keeps the gallery open until the standard input ends.
fn hold(path: &Path) {
    let gallery = attempt("open", || open(path, Access::ReadWrite));
    io::stdin().lock().read_to_end(&mut Vec::new()).unwrap();
    drop(gallery);
}

fn be_refused(path: &Path) {
    let (refusal, took) = refused_writer(path);
    report(&format!("refused open: {refusal}"));
    assert!(took < Duration::from_secs(1), "{took:?}");
}

fn refused_writer(path: &Path) -> (GalleryError, Duration) {
    let started = Instant::now();
    let refusal = open(path, Access::ReadWrite).err().unwrap();
    (refusal, started.elapsed())
}

/// This program, running [`the_other_process`], under `strace` if there are options for it.
fn child(task: &str, path: &Path, strace: &[OsString]) -> Command {
    let program = env::current_exe().unwrap();
    let mut command = if strace.is_empty() {
        Command::new(program)
    } else {
        let mut command = Command::new("strace");
        command.args(strace).arg("--").arg(program);
        command
    };
    command
        .args(["--exact", "durability::the_other_process"])
        .args(["--nocapture", "--test-threads=1"])
        .env(TASK, task)
        .env(GALLERY, path);
    command
}

/// Prints a line even if the test passes, because the output of `eprintln!` is suppressed then.
fn tell(line: &str) {
    let line = format!("\ndurability: {line}\n");
    io::stderr().write_all(line.as_bytes()).unwrap();
}

/// Whether `strace` exists and may trace; prints a line if not.
fn strace_is_there() -> bool {
    let tried = Command::new("strace")
        .args(["-f", "-qq", "-o", "/dev/null", "--", "true"])
        .output();
    let problem = match tried {
        Ok(output) if output.status.success() => return true,
        Ok(output) => String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        Err(cause) => cause.to_string(),
    };
    let required = env::var_os(REQUIRE_STRACE).is_some_and(|value| !value.is_empty());
    assert!(!required, "{REQUIRE_STRACE} is set, and strace: {problem}");
    tell(&format!(
        "skipped: no strace, or it may not trace here: {problem}"
    ));
    false
}

/// The `number`th time that a thread makes a call at a file.
struct Point {
    file: &'static str,
    call: String,
    number: usize,
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { file, call, number } = self;
        write!(f, "{call} {number} at {file}")
    }
}

/// How a child ended, what it reported, and the calls that were traced.
struct Ended {
    status: ExitStatus,
    said: String,
    trace: String,
}

impl Ended {
    fn lines<'a>(&'a self, start: &'a str) -> impl Iterator<Item = &'a str> {
        let lines = self.said.lines();
        lines.filter(move |line| line.starts_with(start))
    }

    fn acknowledged(&self, step: &str) -> bool {
        self.said
            .lines()
            .any(|line| line.strip_prefix("acknowledged ") == Some(step))
    }

    /// The number of acknowledged steps that change the content.
    fn writes(&self) -> usize {
        let steps = ["upsert", "delete"].into_iter();
        steps.filter(|step| self.acknowledged(step)).count()
    }
}

/// Runs the child's steps while `strace` follows these calls at one file.
fn run_traced(place: &Place, file: &str, calls: &str, inject: Option<String>) -> Ended {
    let log = place.folder.path().join("trace");
    let watched = match file {
        "." => place.data().to_path_buf(),
        name => place.data().join(name),
    };
    let mut options: Vec<OsString> = ["-f", "-qq", "-e", "signal=none", "-o"]
        .map(OsString::from)
        .to_vec();
    options.push(log.clone().into());
    options.push("-P".into());
    options.push(watched.into());
    options.push("-e".into());
    options.push(format!("trace={calls}").into());
    if let Some(inject) = inject {
        options.push("-e".into());
        options.push(format!("inject={inject}").into());
    }
    let output = child("write", &place.path, &options).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ended {
        status: output.status,
        said: text(&output.stdout) + &text(&output.stderr),
        trace: fs::read_to_string(log).unwrap(),
    }
}

/// Runs the child's steps with one fault injected at one point.
fn run_with(place: &Place, point: &Point, injected: &str) -> Ended {
    let Point { file, call, number } = point;
    let inject = format!("{call}:{injected}:when={number}");
    run_traced(place, file, call, Some(inject))
}

/// How many times an undisturbed child makes each of these calls at a file. Threads are counted separately, as
/// `strace` does when it injects, and the highest count is returned.
fn counts(prepared: &Place, file: &str, calls: &str) -> BTreeMap<String, usize> {
    let ended = run_traced(&prepared.copy(), file, calls, None);
    assert!(ended.status.success(), "{}", ended.said);
    assert!(ended.acknowledged("close"), "{}", ended.said);
    let mut by_thread: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    for line in ended.trace.lines() {
        // `4711 write(3, "…", 8) = 8`; the continuation of an interrupted call does not start with a name.
        let Some((thread, rest)) = line.split_once(' ') else {
            continue;
        };
        let Some((call, _)) = rest.trim_start().split_once('(') else {
            continue;
        };
        if call.chars().all(|c| c.is_ascii_alphanumeric()) {
            *by_thread.entry((thread, call)).or_default() += 1;
        }
    }
    let mut counts = BTreeMap::new();
    for ((_, call), count) in by_thread {
        let most: &mut usize = counts.entry(call.to_owned()).or_default();
        *most = count.max(*most);
    }
    counts
}

/// At most `most` points: the first of each call at each file, and some of the others at equal steps.
fn points(prepared: &Place, calls: &str, most: usize) -> Vec<Point> {
    let (mut first, mut later) = (Vec::new(), Vec::new());
    for file in FILES {
        for (call, count) in counts(prepared, file, calls) {
            for number in 1..=count {
                let call = call.clone();
                let point = Point { file, call, number };
                if number == 1 {
                    first.push(point);
                } else {
                    later.push(point);
                }
            }
        }
    }
    first.truncate(most);
    let all = later.len();
    let kept = all.min(most - first.len());
    let even = later
        .into_iter()
        .enumerate()
        .filter(|(at, _)| at * kept / all != (at + 1) * kept / all);
    first.extend(even.map(|(_, point)| point));
    println!("{} points of {}", first.len(), all + first.len() - kept);
    first
}

#[test]
fn a_kill_at_any_syscall_leaves_the_state_before_or_after() {
    let _alone = alone();
    if !strace_is_there() {
        return;
    }
    let prepared = Place::prepared();
    let states = states();
    let points = points(&prepared, CHANGING, KILLS_MAX);
    assert!(15 <= points.len(), "{} points", points.len());
    let mut killed = 0;
    for point in &points {
        println!("{point}");
        let place = prepared.copy();
        let ended = run_with(&place, point, "signal=KILL");
        if ended.status.signal().is_some() {
            assert!(!ended.acknowledged("close"), "{}", ended.said);
            killed += 1;
        } else {
            assert!(ended.status.success(), "{}", ended.said);
        }
        check_survivor(&place.path, &states, ended.writes());
    }
    println!("{killed} of {} killed", points.len());
    assert!(points.len() <= 2 * killed, "few points were reached");
}

/// Opens what a killed writer left after this many acknowledged writes, and continues with it.
fn check_survivor(path: &Path, states: &[State], writes: usize) {
    let gallery = open(path, Access::ReadWrite).unwrap();
    let digest = gallery.digest();
    let found = states.iter().position(|state| state.digest == digest);
    let found = found.unwrap();
    // The write during which it was killed may exist, and every acknowledged write must.
    assert!(
        (writes..=writes + 1).contains(&found),
        "state {found}, {writes} writes acknowledged"
    );
    let State { content, .. } = states.get(found).unwrap();
    check_answers(&gallery, content);
    // An incomplete file of the index does no harm, and the next one replaces it.
    gallery.reindex().unwrap();
    check_answers(&gallery, content);
    drop(gallery);
    assert_eq!(unfinished(path), BTreeSet::new());
    let gallery = open(path, Access::ReadOnly).unwrap();
    assert_eq!(gallery.digest(), digest);
    check_answers(&gallery, content);
}

#[test]
fn an_error_at_any_syscall_is_reported_and_loses_nothing() {
    let _alone = alone();
    if !strace_is_there() {
        return;
    }
    let prepared = Place::prepared();
    let [_, _, after] = states();
    let points = points(&prepared, REFUSABLE, ERRORS_MAX);
    assert!(10 <= points.len(), "{} points", points.len());
    let (mut failed, mut refused) = (0, 0);
    for (number, point) in points.iter().enumerate() {
        let error = ["ENOSPC", "EIO"].get(number % 2).unwrap();
        println!("{error} for {point}");
        let place = prepared.copy();
        let ended = run_with(&place, point, &format!("error={error}"));
        failed += usize::from(ended.trace.contains("(INJECTED)"));
        refused += check_refusals(&place, &ended);
        if *error == "ENOSPC" && point.file == "items.db-wal" && point.call.contains("write") {
            assert!(ended.said.contains("no space left"), "{}", ended.said);
        }
        check_unharmed(&place.path, &after);
    }
    println!("{failed} of {} failed, {refused} refused", points.len());
    assert!(points.len() <= 2 * failed, "few points were reached");
    assert!(0 < refused);
}

/// Checks that the child ended well, did every step at the first or second attempt, and named the file of a
/// refusal. Returns the number of refusals.
fn check_refusals(place: &Place, ended: &Ended) -> usize {
    assert!(ended.status.success(), "{}: {}", ended.status, ended.said);
    assert!(!ended.said.contains("panicked"), "{}", ended.said);
    for step in ["open", "upsert", "delete", "reindex", "close"] {
        assert!(ended.acknowledged(step), "{step}: {}", ended.said);
    }
    let folder = place.data().to_str().unwrap();
    let refusals: Vec<&str> = ended.lines("refused ").collect();
    assert!(refusals.len() <= 1, "{refusals:?}");
    assert!(
        refusals.iter().all(|line| line.contains(folder)),
        "{refusals:?}"
    );
    assert_eq!(unfinished(&place.path), BTreeSet::new());
    refusals.len()
}

/// Everything that was acknowledged exists, and writing is possible.
fn check_unharmed(path: &Path, state: &State) {
    let gallery = open(path, Access::ReadWrite).unwrap();
    assert_eq!(gallery.digest(), state.digest);
    check_answers(&gallery, &state.content);
    let mut content = state.content.clone();
    let more = items(200, 202);
    gallery.upsert(more.clone()).unwrap();
    put(&mut content, more);
    gallery.reindex().unwrap();
    check_answers(&gallery, &content);
    let digest = gallery.digest();
    drop(gallery);
    assert_eq!(unfinished(path), BTreeSet::new());
    assert!(path.with_extension("graph").exists());
    let gallery = open(path, Access::ReadOnly).unwrap();
    assert_eq!(gallery.digest(), digest);
    check_answers(&gallery, &content);
}

/// A small file system in memory, which is removed at the end. Everything open in it must be dropped before.
struct Disk {
    folder: TempDir,
}

impl Disk {
    /// `None` if this user may not mount one, which is printed.
    fn mount(size: &str) -> Option<Self> {
        let folder = TempDir::new().unwrap();
        let options = format!("size={size},mode=0700");
        let arguments = ["-t", "tmpfs", "-o", &options, "matchpoint-tests"];
        match run("mount", &arguments, folder.path()) {
            Ok(()) => Some(Self { folder }),
            Err(problem) => {
                let needed = "needs root, and the right to mount";
                tell(&format!("skipped: {needed}: {problem}"));
                None
            }
        }
    }

    fn remount(&self, how: &str) {
        let how = format!("remount,{how}");
        run("mount", &["-o", &how], self.folder.path()).unwrap();
    }

    fn path(&self) -> PathBuf {
        self.folder.path().canonicalize().unwrap()
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let at = self.folder.path();
        // If a failed test still has open files, it is removed once they are closed.
        let gone = run("umount", &[], at).or_else(|_busy| run("umount", &["-l"], at));
        if let Err(problem) = gone {
            tell(&format!("{} is still mounted: {problem}", at.display()));
        }
    }
}

fn run(program: &str, arguments: &[&str], at: &Path) -> Result<(), String> {
    let output = Command::new(program).args(arguments).arg(at).output();
    let output = output.map_err(|cause| cause.to_string())?;
    if output.status.success() {
        return Ok(());
    }
    Err(String::from_utf8_lossy(&output.stderr).trim().to_owned())
}

#[test]
fn a_read_only_folder_can_be_read_and_not_written() {
    let _alone = alone();
    let Some(disk) = Disk::mount("2m") else {
        return;
    };
    let path = disk.path().join("items.db");
    prepare(&path);
    let [before, after, _] = states();
    disk.remount("ro");

    let reader = open(&path, Access::ReadOnly).unwrap();
    assert_eq!(reader.digest(), before.digest);
    check_answers(&reader, &before.content);
    let refused = reader.upsert(batch()).unwrap_err();
    assert!(
        matches!(refused, GalleryError::ReadOnly { .. }),
        "{refused}"
    );
    drop(reader);

    let new = disk.path().join("new.db");
    let refusals = [
        open(&path, Access::ReadWrite),
        Gallery::create(&new, DIMENSION, "model", "new"),
    ];
    for refused in refusals {
        let refused = refused.err().unwrap();
        assert!(matches!(refused, GalleryError::File { .. }), "{refused}");
        let message = refused.to_string();
        assert!(message.contains(".db.lock"), "{message}");
        assert!(message.contains("Read-only file system"), "{message}");
    }

    disk.remount("rw");
    let writer = open(&path, Access::ReadWrite).unwrap();
    writer.upsert(batch()).unwrap();
    assert_eq!(writer.digest(), after.digest);
    check_answers(&writer, &after.content);
}

/// Enrols items with much text, one by one, until one is refused.
fn fill(gallery: &Gallery, content: &mut Content) -> GalleryError {
    let refusal = (1_000..1_500).find_map(|number| {
        let mut large = items(number, number + 1);
        for item in &mut large {
            let text = "x".repeat(12_000);
            item.metadata.insert("text".to_owned(), text);
        }
        let refusal = gallery.upsert(large.clone()).err();
        if refusal.is_none() {
            put(content, large);
        }
        refusal
    });
    refusal.unwrap()
}

#[test]
fn a_full_disk_is_reported_and_loses_nothing() {
    let _alone = alone();
    let Some(disk) = Disk::mount("4m") else {
        return;
    };
    let path = disk.path().join("items.db");
    prepare(&path);
    let [State { mut content, .. }, ..] = states();
    // Space used by other files: more than half, so that the log would fit twice without it.
    let ballast = disk.path().join("ballast");
    fs::write(&ballast, vec![1; 2_400_000]).unwrap();

    let gallery = open(&path, Access::ReadWrite).unwrap();
    let refused = fill(&gallery, &mut content);
    assert!(matches!(refused, GalleryError::Full { .. }), "{refused}");
    assert!(usize::try_from(ENROLLED).unwrap() + 5 < content.len());
    check_answers(&gallery, &content);
    println!("{} items", content.len());
    let digest = gallery.digest();
    drop(gallery);

    for access in [Access::ReadOnly, Access::ReadWrite] {
        let gallery = open(&path, access).unwrap();
        assert_eq!(gallery.digest(), digest);
        check_answers(&gallery, &content);
        // There is an index, with or without its file.
        gallery.reindex().unwrap();
        check_answers(&gallery, &content);
    }
    assert_eq!(unfinished(&path), BTreeSet::new());

    // A deletion is written too, so on a full disk space has to be made elsewhere first.
    fs::remove_file(&ballast).unwrap();
    let gallery = open(&path, Access::ReadWrite).unwrap();
    let large: Vec<String> = content
        .keys()
        .filter(|id| "item 1000" <= id.as_str() && id.len() == "item 1000".len())
        .cloned()
        .collect();
    assert!(gallery.delete(&large).unwrap().iter().all(|there| *there));
    content.retain(|id, _| !large.contains(id));
    gallery.upsert(batch()).unwrap();
    put(&mut content, batch());
    gallery.reindex().unwrap();
    check_answers(&gallery, &content);
    let digest = gallery.digest();
    drop(gallery);
    assert_eq!(unfinished(&path), BTreeSet::new());
    let log = disk.path().join("items.db-wal");
    assert!(!log.exists(), "the log was not given back");
    let gallery = open(&path, Access::ReadWrite).unwrap();
    assert_eq!(gallery.digest(), digest);
    check_answers(&gallery, &content);
}

#[test]
fn a_second_process_is_refused_at_once_with_the_first_ones_number() {
    let _alone = alone();
    let place = Place::prepared();
    let [before, ..] = states();

    let gallery = open(&place.path, Access::ReadWrite).unwrap();
    let output = child("be refused", &place.path, &[]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said}");
    let holder = format!("process {}", std::process::id());
    assert!(said.contains(&holder), "{said}");
    drop(gallery);

    let mut other = child("hold", &place.path, &[])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(other.stdout.take().unwrap()).lines();
    let opened = lines.find(|line| line.as_ref().is_ok_and(|line| line == "acknowledged open"));
    assert!(opened.is_some(), "the other process could not open it");
    let (refused, took) = refused_writer(&place.path);
    assert!(matches!(refused, GalleryError::InUse { .. }), "{refused}");
    let holder = format!("process {}", other.id());
    assert!(refused.to_string().contains(&holder), "{refused}");
    assert!(took < Duration::from_secs(1), "{took:?}");
    let reader = open(&place.path, Access::ReadOnly).unwrap();
    check_answers(&reader, &before.content);
    drop(reader);

    // The lock ends with the process that has it, however that ends.
    other.kill().unwrap();
    other.wait().unwrap();
    check_survivor(&place.path, &[before], 0);
}

#[test]
fn a_process_that_is_killed_again_and_again_loses_nothing() {
    let _alone = alone();
    let place = Place::prepared();
    let seconds = env::var_os(CRASH_SECONDS)
        .and_then(|text| text.to_str()?.parse().ok())
        .unwrap_or(0);
    let until = Instant::now() + Duration::from_secs(seconds);
    let mut content = Content::new();
    put(&mut content, items(0, ENROLLED));
    let (mut round, mut acknowledged) = (0_u64, 0_u64);
    while round < 8 || Instant::now() < until {
        round += 1;
        let mut running = child("churn", &place.path, &[])
            .env(AFTER, acknowledged.to_string())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = BufReader::new(running.stdout.take().unwrap());
        let mut line = String::new();
        while line != "acknowledged open\n" {
            line.clear();
            assert!(0 < said.read_line(&mut line).unwrap(), "round {round}");
        }
        std::thread::park_timeout(Duration::from_millis(10 + round * 7919 % 190));
        running.kill().unwrap();
        assert_eq!(running.wait().unwrap().signal(), Some(9), "round {round}");
        let mut rest = String::new();
        said.read_to_string(&mut rest).unwrap();
        // A line that the kill cut off has no meaning.
        for line in rest.lines().take(rest.matches('\n').count()) {
            let Some(step) = line.strip_prefix("acknowledged ") else {
                continue;
            };
            acknowledged += 1;
            assert_eq!(step.parse(), Ok(acknowledged), "round {round}");
            Change::of(acknowledged).note(&mut content);
        }
        // The change in progress exists completely or not at all.
        let mut next = content.clone();
        Change::of(acknowledged + 1).note(&mut next);
        let gallery = open(&place.path, Access::ReadWrite).unwrap();
        let found = [&content, &next]
            .into_iter()
            .find(|content| State::of((*content).clone()).digest == gallery.digest());
        let found = found.unwrap_or_else(|| panic!("round {round}, after step {acknowledged}"));
        check_answers(&gallery, found);
    }
    println!("{acknowledged} steps were acknowledged in {round} rounds");
    assert!(
        round < acknowledged,
        "{acknowledged} steps in {round} rounds"
    );
}
