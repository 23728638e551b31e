//! A gallery that is built in parts: the same as if it was built in one, whatever happens to the tasks.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "a test fails by panicking"
)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use rusqlite::Connection;
use serde_json::Value;
use tempfile::TempDir;

use crate::common::{matchpoint, model, photos, run, text};

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|cause| panic!("{cause}: {}{}", text(&output.stdout), text(&output.stderr)))
}

/// What a command says that is to be given up for good, or begun again.
fn refused(output: &Output, code: i32) -> String {
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{said}");
    said
}

/// The arguments of a build of the sample's gallery.
fn arguments(into: &Path, more: &[&str]) -> Vec<String> {
    let (list, model) = (photos().join("gallery.csv"), model());
    let mut arguments = vec!["build", path(into), "--images", path(&list)];
    arguments.extend(["--model", path(&model), "--json", "--workers", "1"]);
    arguments.extend(more);
    arguments.into_iter().map(str::to_owned).collect()
}

fn command(into: &Path, more: &[&str]) -> Command {
    let arguments = arguments(into, more);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    matchpoint(&arguments)
}

fn spawn(into: &Path, more: &[&str]) -> Child {
    let mut command = command(into, more);
    let quiet = command.stdout(Stdio::null()).stderr(Stdio::null());
    quiet.spawn().unwrap()
}

fn wait_for(path: &Path) {
    let started = Instant::now();
    while !path.exists() {
        assert!(
            started.elapsed() < Duration::from_secs(60),
            "{} did not come",
            path.display()
        );
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Every row of a gallery but for its number, and every image, in order of id.
fn rows(deployment: &Path) -> Vec<Vec<rusqlite::types::Value>> {
    let items = Connection::open(deployment.join("items.db")).unwrap();
    let query = "SELECT id, label, metadata, source_sha256, embedding, checksum, bytes \
                 FROM items JOIN images USING (number) ORDER BY id";
    let mut statement = items.prepare(query).unwrap();
    let row = |row: &rusqlite::Row<'_>| (0..7).map(|column| row.get(column)).collect();
    statement
        .query_map([], row)
        .unwrap()
        .collect::<Result<_, _>>()
        .unwrap()
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.collect();
    names.sort_unstable();
    names
}

#[test]
fn shards_of_killed_and_overlapping_attempts_merge_to_the_bits_of_a_single_build() {
    let root = TempDir::new().unwrap();
    let at = |name: &str| root.path().join(name);
    let (one, shards, other, merged) = (at("one"), at("shards"), at("other"), at("merged"));
    let single = json(&command(&one, &["--keep-images"]).output().unwrap());
    let keep = |shard| ["--keep-images", "--shard", shard];

    // Killed by power, stopped by the scheduler, and by nobody.
    let mut killed = spawn(&shards, &keep("0/3"));
    wait_for(&shards.join(".shard-0-of-3.tar.work/deployment.json"));
    killed.kill().unwrap();
    killed.wait().unwrap();
    let mut stopped = spawn(&shards, &keep("0/3"));
    wait_for(&shards.join(".shard-0-of-3.tar.work/items.db-wal"));
    let mut send = Command::new("kill");
    let sent = send.args(["-TERM", &stopped.id().to_string()]).status();
    assert!(sent.unwrap().success());
    assert_eq!(stopped.wait().unwrap().code(), Some(75));
    assert!(!shards.join("shard-0-of-3.tar").exists());
    let first = json(&command(&shards, &keep("0/3")).output().unwrap());
    // Two at once.
    let mut overlapping = [spawn(&shards, &keep("1/3")), spawn(&shards, &keep("1/3"))];
    for attempt in &mut overlapping {
        assert_eq!(attempt.wait().unwrap().code(), Some(0));
    }
    json(&command(&shards, &keep("2/3")).output().unwrap());
    let made = ["shard-0-of-3.tar", "shard-1-of-3.tar", "shard-2-of-3.tar"];
    assert_eq!(names(&shards), made);
    // One that is there is not built again.
    let again = json(&command(&shards, &keep("0/3")).output().unwrap());
    assert_eq!(again["was_there"], true);
    assert_eq!(again["enrolled"], 0);
    assert_eq!(again["unchanged"], first["manifest"]["items"]);
    assert_eq!(names(&shards), made);
    // Elsewhere, by the number that Kubernetes gives, and without any mishap: the same bytes.
    let mut elsewhere = command(&other, &keep("auto/3"));
    json(&elsewhere.env("JOB_COMPLETION_INDEX", "0").output().unwrap());
    let bytes = |folder: &Path| fs::read(folder.join("shard-0-of-3.tar")).unwrap();
    assert!(bytes(&shards) == bytes(&other));

    let outcome = json(&run(&["merge", path(&merged), path(&shards), "--json"]));
    assert_eq!(outcome["inserted"], single["items"]);
    assert_eq!(outcome["gallery_digest"], single["gallery_digest"]);
    assert!(rows(&merged) == rows(&one));
    // A task that was killed after its last step is begun again.
    let again = json(&run(&["merge", path(&merged), path(&shards), "--json"]));
    assert_eq!(
        (
            &again["inserted"],
            &again["unchanged"],
            &again["gallery_digest"]
        ),
        (&0.into(), &single["items"], &single["gallery_digest"])
    );
    // Also beside a process that serves it, or has it open for writing.
    let lock = fs::File::open(merged.join("items.db.lock")).unwrap();
    lock.try_lock().unwrap();
    let again = json(&run(&["merge", path(&merged), path(&shards), "--json"]));
    assert_eq!(again["unchanged"], single["items"]);
    drop(lock);
    let built = json(&command(&merged, &["--keep-images"]).output().unwrap());
    assert_eq!(
        (&built["enrolled"], &built["unchanged"]),
        (&0.into(), &single["items"])
    );
    assert_eq!(built["gallery_digest"], single["gallery_digest"]);
}

/// A list of so many vectors, as a deployment's source.
struct Vectors {
    root: TempDir,
}

impl Vectors {
    fn new() -> Self {
        let vectors = Self {
            root: TempDir::new().unwrap(),
        };
        vectors.list("list", 0..30);
        vectors
    }

    fn at(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    fn list(&self, name: &str, numbers: std::ops::Range<u16>) {
        let mut file = Vec::new();
        let mut labels = "id,label,site\n".to_owned();
        for number in numbers {
            let values = [1.0, f32::from(number), 2.0];
            file.extend(3_u32.to_le_bytes());
            file.extend(values.iter().flat_map(|value: &f32| value.to_le_bytes()));
            labels.push_str(&format!("id {number},label {},x\n", number / 2));
        }
        fs::write(self.at(&format!("{name}.fvecs")), file).unwrap();
        fs::write(self.at(&format!("{name}.csv")), labels).unwrap();
    }

    fn build(&self, into: &str, list: &str, more: &[&str]) -> Output {
        let [vectors, labels] = ["fvecs", "csv"].map(|ending| self.at(&format!("{list}.{ending}")));
        let into = self.at(into);
        let mut arguments = vec!["build", path(&into), "--embeddings", path(&vectors)];
        arguments.extend(["--labels", path(&labels), "--json"]);
        if !more.contains(&"--vectors-of") {
            arguments.extend(["--vectors-of", "space"]);
        }
        arguments.extend(more);
        run(&arguments)
    }

    /// Builds all shards of a list.
    fn shards(&self, into: &str, list: &str, of: u32, more: &[&str]) {
        for index in 0..of {
            let shard = format!("{index}/{of}");
            let more = [&["--shard", &shard], more].concat();
            json(&self.build(into, list, &more));
        }
    }

    fn merge(&self, arguments: &[&str]) -> Output {
        let mut command = matchpoint(&["merge", "--json"]);
        command.current_dir(self.root.path()).args(arguments);
        command.output().unwrap()
    }
}

#[test]
fn what_is_no_whole_set_of_shards_is_refused_by_name_and_leaves_nothing() {
    let vectors = Vectors::new();
    vectors.list("longer", 0..31);
    vectors.shards("s", "list", 3, &[]);
    vectors.shards("longer", "longer", 3, &[]);
    vectors.shards("four", "list", 4, &[]);
    vectors.shards("other", "list", 3, &["--vectors-of", "other space"]);
    let [zero, one, two] = [0, 1, 2].map(|index| format!("s/shard-{index}-of-3.tar"));
    fs::copy(vectors.at(&one), vectors.at("s/copy.tar")).unwrap();
    let mut damaged = fs::read(vectors.at(&two)).unwrap();
    let middle = damaged.len() / 2;
    damaged[middle] ^= 1;
    fs::write(vectors.at("damaged.tar"), &damaged).unwrap();
    fs::write(vectors.at("cut.tar"), &damaged[..middle]).unwrap();
    fs::write(vectors.at("text.tar"), "no tar").unwrap();
    json(&vectors.build("there", "list", &[]));
    let snapshot = run(&[
        "snapshot",
        path(&vectors.at("there")),
        path(&vectors.at("snapshot.tar")),
    ]);
    assert!(snapshot.status.success());
    fs::create_dir(vectors.at("empty")).unwrap();
    let before = names(vectors.root.path());
    let wrong: [(&[&str], &[&str]); 12] = [
        (&[&zero, &two], &["shard-0-of-3.tar", "missing: 1/3"]),
        (
            &[&zero, &one, "s/copy.tar", &two],
            &["shard-1-of-3.tar", "s/copy.tar", "leave one"],
        ),
        (
            &[&zero, &one, "longer/shard-2-of-3.tar"],
            &["longer/shard-2", "list of 31 rows"],
        ),
        (
            &[&zero, &one, "four/shard-2-of-4.tar"],
            &["four/shard-2", "one of 4 shards"],
        ),
        (
            &[&zero, &one, "other/shard-2-of-3.tar"],
            &["other/shard-2", "`other space`"],
        ),
        (
            &[&zero, &one, "damaged.tar"],
            &["damaged.tar is damaged at byte"],
        ),
        (&[&zero, &one, "cut.tar"], &["cut.tar is damaged at byte"]),
        (&[&zero, &one, "text.tar"], &["text.tar"]),
        (
            &[&zero, &one, "snapshot.tar"],
            &["snapshot.tar", "MANIFEST.json"],
        ),
        (&[&zero, &one, "none.tar"], &["none.tar", "No such file"]),
        (&["empty"], &["empty holds no shard"]),
        (&["there"], &["there holds no shard"]),
    ];
    for (shards, wanted) in wrong {
        let merged = vectors.merge(&[&["merged"], shards].concat());
        // A file that is not there may come.
        let code = if shards.contains(&"none.tar") { 75 } else { 42 };
        let said = refused(&merged, code);
        for word in wanted {
            assert!(said.contains(word), "{shards:?}: {said}");
        }
        assert_eq!(names(vectors.root.path()), before, "{shards:?}");
    }
    add_no_wrong_set(&vectors, [&zero, &one, &two]);
    assert_eq!(names(vectors.root.path()), before);
}

/// What is no whole set is not added to a deployment either.
fn add_no_wrong_set(vectors: &Vectors, [zero, one, two]: [&str; 3]) {
    let there = fs::read(vectors.at("there/items.db")).unwrap();
    let said = refused(&vectors.merge(&["there", "longer"]), 42);
    assert!(said.contains("--into"), "{said}");
    let said = refused(&vectors.merge(&["--into", "there", "other"]), 42);
    assert!(
        said.contains("`other space`") && said.contains("`space`"),
        "{said}"
    );
    let said = refused(&vectors.merge(&["--into", "there", zero, two]), 42);
    assert!(said.contains("missing: 1/3"), "{said}");
    // What is found only when all others are taken undoes these.
    let said = refused(
        &vectors.merge(&["--into", "there", zero, one, "damaged.tar"]),
        42,
    );
    assert!(said.contains("damaged.tar"), "{said}");
    assert!(fs::read(vectors.at("there/items.db")).unwrap() == there);
}

#[test]
fn an_attempt_that_was_killed_while_it_cleaned_up_is_begun_again() {
    let vectors = Vectors::new();
    vectors.shards("shards", "list", 1, &[]);
    let work = vectors.at("shards/.shard-0-of-1.tar.work");
    json(&vectors.build("left", "list", &["--name", "shard"]));
    fs::rename(vectors.at("left"), &work).unwrap();
    for name in ["items.db", "items.db.lock"] {
        fs::remove_file(work.join(name)).unwrap();
    }
    let again = json(&vectors.build("shards", "list", &["--shard", "0/1"]));
    assert_eq!(
        (&again["was_there"], &again["enrolled"]),
        (&true.into(), &0.into())
    );
    assert_eq!(names(&vectors.at("shards")), ["shard-0-of-1.tar"]);
}

#[test]
fn shards_are_added_to_a_deployment_and_what_is_there_stays() {
    let vectors = Vectors::new();
    vectors.list("more", 20..40);
    // One of the list under another label, and one that is in no list.
    let labels = fs::read_to_string(vectors.at("list.csv")).unwrap();
    fs::write(
        vectors.at("list.csv"),
        labels.replace("id 25,label 12", "id 25,label 99"),
    )
    .unwrap();
    let first = json(&vectors.build("shop", "list", &[]));
    assert_eq!(first["items"], 30);
    vectors.shards("more", "more", 2, &[]);
    let merged = json(&vectors.merge(&["--into", "shop", "more"]));
    let counts = ["inserted", "replaced", "unchanged", "items"].map(|key| merged[key].clone());
    assert_eq!(counts, [10, 1, 9, 40].map(Value::from));
    let again = json(&vectors.merge(&["--into", "shop", "more"]));
    assert_eq!(
        (&again["unchanged"], &again["gallery_digest"]),
        (&20.into(), &merged["gallery_digest"])
    );
    let built = json(&vectors.build("shop", "more", &[]));
    assert_eq!(
        (&built["enrolled"], &built["gallery_digest"]),
        (&0.into(), &merged["gallery_digest"])
    );
    let verified = run(&["verify", path(&vectors.at("shop"))]);
    assert!(verified.status.success(), "{}", text(&verified.stderr));
    // A merge that was done is not said to be in the way if what it made is damaged since.
    let done = vectors.merge(&["done", "more"]);
    assert!(done.status.success(), "{}", text(&done.stderr));
    let items = vectors.at("done").join("items.db");
    let mut bytes = fs::read(&items).unwrap();
    let at = bytes.windows(5).position(|some| some == b"id 25").unwrap();
    bytes[at + 4] = b'6';
    fs::write(&items, bytes).unwrap();
    let again = vectors.merge(&["done", "more"]);
    let named = text(&again.stderr);
    assert!(
        !again.status.success() && named.contains("is damaged: row"),
        "{named}"
    );
    // A new one of a list with a row that cannot be used names that.
    vectors.list("bad", 0..10);
    let mut file = fs::read(vectors.at("bad.fvecs")).unwrap();
    file[4..16].fill(0);
    fs::write(vectors.at("bad.fvecs"), file).unwrap();
    vectors.shards("bad", "bad", 2, &[]);
    let merged = vectors.merge(&["new", "bad"]);
    assert_eq!(merged.status.code(), Some(3));
    let merged = json(&merged);
    assert_eq!(
        (&merged["items"], &merged["failed"][0]["item"]),
        (&9.into(), &"id 0".into())
    );
}

#[test]
fn a_shard_is_made_of_all_that_its_list_names_or_says_why_not() {
    let root = TempDir::new().unwrap();
    let at = |name: &str| root.path().join(name);
    let image = photos().join("images/gc_fishes_fish3/g0_ref.jpg");
    let (list, shards, model) = (at("list.csv"), at("shards"), model());
    let rows = format!(
        "path,label,id\nnowhere.jpg,fish,a\n{},fish,b\n",
        path(&image)
    );
    fs::write(&list, &rows).unwrap();
    let build = |list: &Path, more: &[&str]| {
        let mut arguments = vec!["build", path(&shards), "--images", path(list)];
        arguments.extend(["--model", path(&model), "--json", "--shard", "0/1"]);
        arguments.extend(more);
        run(&arguments)
    };
    let said = refused(&build(&list, &[]), 75);
    assert!(
        said.contains("a: ") && said.contains("--skip-unread"),
        "{said}"
    );
    assert!(!shards.join("shard-0-of-1.tar").exists());
    let skipped = json(&build(&list, &["--skip-unread"]));
    assert_eq!(skipped["manifest"]["failed"][0]["item"], "a");
    assert_eq!(
        (&skipped["enrolled"], &skipped["unchanged"]),
        (&0.into(), &1.into())
    );
    // Another list, or other pictures, do not take its place.
    let bytes = fs::read(shards.join("shard-0-of-1.tar")).unwrap();
    fs::write(&list, rows.replace("fish,b", "cod,b")).unwrap();
    let said = refused(&build(&list, &["--skip-unread"]), 42);
    assert!(
        said.contains("another shard") && said.contains("move it away"),
        "{said}"
    );
    let other = photos().join("images/gc_fishes_fish14/g0_ref.jpg");
    fs::write(&list, rows.replace(path(&image), path(&other))).unwrap();
    let said = refused(&build(&list, &["--skip-unread"]), 42);
    assert!(said.contains("the images were changed"), "{said}");
    assert!(fs::read(shards.join("shard-0-of-1.tar")).unwrap() == bytes);
    let int8 = build(&list, &["--skip-unread", "--precision", "int8"]);
    let said = refused(&int8, 42);
    assert!(said.contains("is there already"), "{said}");
    // What no attempt can mend.
    fs::write(at("bad.csv"), "path,class\na,b\n").unwrap();
    for (list, more, word) in [
        ("bad.csv", &[][..], "no column `label`"),
        ("none.csv", &[], "No such file"),
        (
            "list.csv",
            &["--shard", "1/1"],
            "cannot be used multiple times",
        ),
    ] {
        let output = build(&at(list), more);
        let said = text(&output.stderr);
        assert!(matches!(output.status.code(), Some(42 | 2)), "{said}");
        assert!(said.contains(word), "{said}");
    }
}
