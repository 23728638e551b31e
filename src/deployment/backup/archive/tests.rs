//! What is packed can be unpacked, also by `tar`, and nothing else is accepted.

use super::*;

const ON: ControlFlow<()> = ControlFlow::Continue(());
const STOP: ControlFlow<()> = ControlFlow::Break(());
const FILES: [(&str, &[u8]); 4] = [
    ("a/b/empty", b""),
    ("a/p.json", b"{}"),
    ("block", &[7; 512]),
    ("items.db", b"all of them"),
];
/// Names that no snapshot of these tests may contain.
const UNKNOWN: [&str; 2] = ["foreign", "a/foreign"];

fn known(name: &str) -> bool {
    !UNKNOWN.contains(&name)
}

/// A folder with the files to pack, the name of an archive, and an empty folder.
struct Place {
    root: tempfile::TempDir,
    source: PathBuf,
    names: BTreeSet<String>,
    archive: PathBuf,
    into: PathBuf,
}

fn place() -> Place {
    let root = tempfile::tempdir().unwrap();
    let [source, archive, into] = ["source", "archive", "into"].map(|name| root.path().join(name));
    fs::create_dir_all(source.join("a/b")).unwrap();
    fs::create_dir(&into).unwrap();
    for (name, content) in FILES {
        fs::write(source.join(name), content).unwrap();
    }
    let names = FILES.iter().map(|(name, _)| (*name).to_owned()).collect();
    Place {
        root,
        source,
        names,
        archive,
        into,
    }
}

impl Place {
    fn pack(&self) -> Result<ArchiveDigest, ArchiveError> {
        self.pack_watched(&mut |_, _| ON)
    }

    fn pack_watched(&self, progress: Progress<'_>) -> Result<ArchiveDigest, ArchiveError> {
        pack(&self.source, &self.names, &self.archive, progress)
            .map_err(|cause| ArchiveError::of(&self.archive, "write", cause))
    }

    fn read(&self, into: Option<&Path>) -> Result<ArchiveDigest, ArchiveError> {
        read(&self.archive, into, known, &mut |_, _| ON)
            .map_err(|cause| ArchiveError::of(&self.archive, "read", cause))
    }

    /// The result of reading these bytes, which has to be the same with and without unpacking.
    fn judge(&self, bytes: &[u8]) -> Result<ArchiveDigest, ArchiveError> {
        fs::write(&self.archive, bytes).unwrap();
        let unpacked = self.read(Some(&self.into));
        fs::remove_dir_all(&self.into).unwrap();
        fs::create_dir(&self.into).unwrap();
        let read = self.read(None);
        assert_eq!(
            read.as_ref().map_err(ToString::to_string),
            unpacked.as_ref().map_err(ToString::to_string)
        );
        assert_eq!(fs::read_dir(self.root.path()).unwrap().count(), 3);
        read
    }

    /// The message for bytes that are refused.
    fn refusal(&self, bytes: &[u8]) -> String {
        match self.judge(bytes) {
            Err(ArchiveError::Refused { problem, .. }) => problem,
            other => panic!("{other:?}"),
        }
    }
}

fn packed() -> Vec<u8> {
    let place = place();
    place.pack().unwrap();
    fs::read(&place.archive).unwrap()
}

/// A tar with these headers, contents and sums.
fn crafted(sums: &str, entries: &[(Header, &[u8])]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    let first = header(SUMS, sums.len() as u64);
    tar.append(&first, sums.as_bytes()).unwrap();
    for (header, content) in entries {
        tar.append(header, *content).unwrap();
    }
    tar.into_inner().unwrap()
}

fn sum_of(content: &[u8], name: &str) -> String {
    sum_line(&Sha256::digest(content).into(), name)
}

/// A tar with correct sums of files with these names.
fn named(names: &[&str]) -> Vec<u8> {
    let sums: String = names.iter().map(|name| sum_of(b"1", name)).collect();
    let entries: Vec<_> = names
        .iter()
        .map(|name| (header(name, 1), &b"1"[..]))
        .collect();
    crafted(&sums, &entries)
}

#[test]
fn what_was_packed_is_unpacked() {
    let place = place();
    let mut steps = Vec::new();
    let packed = place.pack_watched(&mut |done, all| {
        steps.push((done, all));
        ON
    });
    let packed = packed.unwrap();
    assert_eq!((steps[0], steps[steps.len() - 1]), ((0, 525), (525, 525)));
    assert_eq!(packed.bytes, fs::metadata(&place.archive).unwrap().len());
    assert_eq!(place.read(Some(&place.into)).unwrap(), packed);
    assert_eq!(place.read(None).unwrap(), packed);
    for (name, content) in FILES {
        assert_eq!(fs::read(place.into.join(name)).unwrap(), content);
    }
    // Existing files are kept.
    place.read(Some(&place.into)).unwrap_err();
    let bytes = fs::read(&place.archive).unwrap();
    assert!(matches!(place.pack(), Err(ArchiveError::Io { .. })));
    assert_eq!(fs::read(&place.archive).unwrap(), bytes);
    // The same files give the same bytes.
    fs::remove_file(&place.archive).unwrap();
    assert_eq!(place.pack().unwrap(), packed);
    assert_eq!(fs::read(&place.archive).unwrap(), bytes);
}

#[test]
fn tar_and_sha256sum_check_an_archive() {
    let place = place();
    let packed = place.pack().unwrap();
    let run = |program: &str, arguments: &[&str]| {
        let command = &mut std::process::Command::new(program);
        let output = command.current_dir(&place.into).args(arguments).output();
        let output = output.unwrap();
        assert!(
            output.status.success() && output.stderr.is_empty(),
            "{output:?}"
        );
        String::from_utf8(output.stdout).unwrap()
    };
    run("tar", &["xf", "../archive"]);
    let checked = run("sha256sum", &["--check", "--strict", SUMS]);
    let expected = FILES.map(|(name, _)| format!("{name}: OK\n")).concat();
    assert_eq!(checked, expected);
    assert!(run("sha256sum", &[SUMS]).starts_with(&packed.sha256));
    for (name, content) in FILES {
        assert_eq!(fs::read(place.into.join(name)).unwrap(), content);
    }
}

#[test]
fn no_changed_byte_and_no_other_length_is_accepted() {
    let (place, bytes) = (place(), packed());
    place.judge(&bytes).unwrap();
    let mut changed = bytes.clone();
    for at in 0..bytes.len() {
        for mask in [0x01, 0x80] {
            changed[at] ^= mask;
            fs::write(&place.archive, &changed).unwrap();
            let error = place.read(None).unwrap_err().to_string();
            let expected = match at {
                0..512 => "it does not begin as one",
                _ => "is damaged at byte",
            };
            assert!(error.contains(expected), "byte {at}: {error}");
            if at % 509 == 0 {
                place.judge(&changed).unwrap_err();
            }
            changed[at] ^= mask;
        }
    }
    for length in 0..bytes.len() {
        fs::write(&place.archive, &bytes[..length]).unwrap();
        place.read(None).unwrap_err();
        if length % 509 == 0 {
            place.judge(&bytes[..length]).unwrap_err();
        }
    }
    for more in [1, 512, 1024, 9000] {
        let longer = [&bytes[..], &vec![0; more]].concat();
        assert!(
            place
                .refusal(&longer)
                .contains("does not end where it should")
        );
    }
    // The error says where the damage is, and in which file.
    let content = bytes.len() - END.len() - 512;
    changed[content] ^= 1;
    let refusal = place.refusal(&changed);
    assert!(
        refusal.contains(&format!("byte {content}: `items.db` is not the file")),
        "{refusal}"
    );
}

#[test]
fn no_length_is_believed() {
    let place = place();
    let sums = [sum_of(b"1", "x"), sum_of(b"1", "y")].concat();
    let of = |bytes: u64| crafted(&sums, &[(header("x", 1), b"1"), (header("y", bytes), b"1")]);
    place.judge(&of(1)).unwrap();
    for bytes in [1 << 40, 1 << 63, u64::MAX - 600, u64::MAX] {
        let refusal = place.refusal(&of(bytes));
        assert!(
            refusal.contains("`y` is longer than what is left"),
            "{refusal}"
        );
    }
    for bytes in [0, 2] {
        place.refusal(&of(bytes));
    }
    // Sums that would fit on the disk, but not in memory.
    let file = File::create(&place.archive).unwrap();
    (&file).write_all(header(SUMS, 8 << 30).as_bytes()).unwrap();
    file.set_len(9 << 30).unwrap();
    let error = place.read(None).unwrap_err().to_string();
    assert!(error.contains("SHA256SUMS is too long"), "{error}");
    // Lengths that do not fit in twelve octal digits.
    for bytes in [8 << 30, 1 << 40] {
        let header = header("x", bytes);
        assert_eq!(header.entry_size().unwrap(), bytes);
    }
}

#[test]
fn no_name_leads_elsewhere_or_stands_in_the_way() {
    let mut place = place();
    let (long, longest) = ("x".repeat(101), "x".repeat(100));
    for name in [&*longest, ".hidden", "a/...", "b/c", "A", "a.b-c_9"] {
        place.judge(&named(&[name])).unwrap();
    }
    let wrong = [
        "",
        "/x",
        "../x",
        "a/../x",
        "a//b",
        "a/",
        ".",
        "..",
        "./x",
        "a\\b",
        "a b",
        "\u{e4}",
        "a\u{1b}[2J",
        "foreign",
        "a/foreign",
        &long,
    ];
    for name in wrong {
        let sums = sum_of(b"1", name);
        let shown: String = name.chars().take(100).collect();
        let mut entry = header("x", 1);
        entry.as_old_mut().name = [0; 100];
        let field = entry.as_old_mut().name.iter_mut();
        field.zip(name.bytes()).for_each(|(to, byte)| *to = byte);
        entry.set_cksum();
        let bytes = crafted(&sums, &[(entry.clone(), b"1")]);
        let refusal = place.refusal(&bytes);
        let expected = format!("SHA256SUMS has `{}", shown.escape_debug());
        assert!(refusal.contains(&expected), "{name}: {refusal}");
        assert!(
            refusal.contains("which no snapshot holds"),
            "{name}: {refusal}"
        );
        assert!(!refusal.contains('\u{1b}'));
        // An entry without a sum is named too.
        let mut bytes = named(&["n"]);
        bytes.truncate(bytes.len() - END.len());
        bytes.extend(entry.as_bytes());
        bytes.extend([0; 2048]);
        let refusal = place.refusal(&bytes);
        let expected = format!("it has `{}` (Regular), and", shown.escape_debug());
        assert!(refusal.contains(&expected), "{name}: {refusal}");
        if name.starts_with("a/") || name.is_empty() || name.contains(['/', '\\', '.', 'f']) {
            continue;
        }
        fs::write(place.source.join(name), "1").unwrap();
        place.names = BTreeSet::from([name.to_owned()]);
        drop(fs::remove_file(&place.archive));
        let error = place.pack().unwrap_err().to_string();
        assert!(error.contains("no plain and short name"), "{name}: {error}");
    }
    // Duplicate names, names out of order, and a folder instead of a file.
    for (names, refused) in [(["x", "x"], "x"), (["y", "x"], "x")] {
        let refusal = place.refusal(&named(&names));
        let expected = format!("SHA256SUMS has `{refused}`");
        assert!(refusal.contains(&expected), "{refusal}");
    }
    fs::write(&place.archive, named(&["b", "b/c"])).unwrap();
    place.read(Some(&place.into)).unwrap_err();
}

#[test]
fn nothing_but_regular_files_under_plain_headers_is_accepted() {
    let place = place();
    let sums = sum_of(b"1", "x");
    let kinds = [
        EntryType::Link,
        EntryType::Symlink,
        EntryType::Char,
        EntryType::Block,
        EntryType::Directory,
        EntryType::Fifo,
        EntryType::Continuous,
        EntryType::GNULongName,
        EntryType::GNULongLink,
        EntryType::GNUSparse,
        EntryType::XGlobalHeader,
        EntryType::XHeader,
        EntryType::new(b'V'),
    ];
    for kind in kinds {
        let mut odd = header("x", 1);
        odd.set_entry_type(kind);
        odd.set_cksum();
        // Other headers instead of a file, before it, and after it.
        let right = header("x", 1);
        for entries in [
            &[(odd.clone(), &b"1"[..])][..],
            &[(odd.clone(), b"1"), (right.clone(), b"1")],
            &[(right.clone(), b"1"), (odd.clone(), b"1")],
        ] {
            let refusal = place.refusal(&crafted(&sums, entries));
            let expected = format!("it has `x` ({kind:?})");
            assert!(refusal.contains(&expected), "{refusal}");
        }
    }
    let changes: [fn(&mut Header); 8] = [
        |header| header.set_mode(0o4755),
        |header| header.set_uid(1),
        |header| header.set_mtime(1),
        |header| header.as_old_mut().linkname[0] = b'y',
        |header| header.as_ustar_mut().unwrap().prefix[0] = b'y',
        |header| header.as_ustar_mut().unwrap().uname[0] = b'y',
        |header| header.as_old_mut().linkflag = [0],
        |header| *header = Header::new_gnu(),
    ];
    for change in changes {
        let mut other = header("x", 1);
        change(&mut other);
        other.set_size(1);
        other.set_cksum();
        let refusal = place.refusal(&crafted(&sums, &[(other, b"1")]));
        assert!(refusal.contains("in place of the file `x`"), "{refusal}");
    }
}

#[test]
fn files_and_sums_belong_together() {
    let place = place();
    let (x, y) = (sum_of(b"1", "x"), sum_of(b"1", "y"));
    let both = [x.clone(), y.clone()].concat();
    let entry = |name| (header(name, 1), &b"1"[..]);
    let cases = [
        (
            &x[..],
            &[entry("x"), entry("y")][..],
            "it has `y` (Regular), and SHA256SUMS no sum of it",
        ),
        (
            &y,
            &[entry("x"), entry("y")],
            "it has `x` (Regular) in place of the file `y`",
        ),
        (&both, &[entry("x")], "in place of the file `y`"),
        (
            &both,
            &[entry("x"), entry("x")],
            "it has `x` (Regular) in place of the file `y`",
        ),
        (
            &sum_of(b"2", "x"),
            &[entry("x")],
            "`x` is not the file that was packed",
        ),
        (
            &x.to_uppercase().replace('X', "x"),
            &[entry("x")],
            "is not the file",
        ),
        (
            &x.replace("  ", " *"),
            &[entry("x")],
            "which no snapshot holds",
        ),
        (
            &x.replace('\n', "\r\n"),
            &[entry("x")],
            "which no snapshot holds",
        ),
        (x.trim_end(), &[entry("x")], "which no snapshot holds"),
        ("\n", &[], "which no snapshot holds"),
    ];
    for (sums, entries, expected) in cases {
        let refusal = place.refusal(&crafted(sums, entries));
        assert!(refusal.contains(expected), "{refusal}");
    }
    // A tar without sums, an earlier snapshot, and files that are not snapshots.
    let mut plain = tar::Builder::new(Vec::new());
    plain.append(&header("x", 1), &b"1"[..]).unwrap();
    let plain = plain.into_inner().unwrap();
    for other in [&plain[..], b"", b"text", &[0; 4096], &[b'x'; 4096]] {
        let refusal = place.refusal(other);
        assert!(refusal.contains("it does not begin as one"), "{refusal}");
    }
    let earlier = [EARLIER_MAGIC, &[1; 5000]].concat();
    assert!(place.refusal(&earlier).ends_with("take it again"));
    fs::remove_file(&place.archive).unwrap();
    fs::create_dir(&place.archive).unwrap();
    let error = place.read(None).unwrap_err();
    assert!(matches!(error, ArchiveError::Refused { .. }), "{error}");
}

#[test]
fn what_is_stopped_or_changes_is_no_archive() {
    let place = place();
    for limit in [0, 2, 525] {
        let error = place.pack_watched(&mut |done, _| if limit <= done { STOP } else { ON });
        assert!(matches!(error, Err(ArchiveError::Cancelled)), "{error:?}");
        fs::remove_file(&place.archive).unwrap();
    }
    for content in [&b"all of them and one more"[..], b"all"] {
        let error = place.pack_watched(&mut |_, _| {
            fs::write(place.source.join("items.db"), content).unwrap();
            ON
        });
        let error = error.unwrap_err().to_string();
        assert!(error.contains("`items.db` changed its length"), "{error}");
        fs::write(place.source.join("items.db"), FILES[3].1).unwrap();
        fs::remove_file(&place.archive).unwrap();
    }
    let all = place.pack().unwrap().bytes;
    for limit in [0, 2000, 4000] {
        assert!(limit < all);
        let stop: Progress<'_> = &mut |done, _| if limit <= done { STOP } else { ON };
        let error = read(&place.archive, None, known, stop).unwrap_err();
        let error = ArchiveError::of(&place.archive, "read", error);
        assert!(matches!(error, ArchiveError::Cancelled), "{error}");
    }
}

#[test]
fn a_full_disk_is_told_apart() {
    let mut full = File::options().write(true).open("/dev/full").unwrap();
    let to = Path::new("to");
    // Long content is written by another thread.
    for bytes in [1, 20 << 20] {
        let from = tempfile::tempfile().unwrap();
        from.set_len(bytes).unwrap();
        let mut progress = |_: u64, _: u64| ON;
        let mut steps = ByteSteps::new(bytes, &mut progress);
        let error = steps.copy(&from, bytes, &mut full).unwrap_err();
        assert!(ArchiveError::of(to, "write", error).is_disk_full());
    }
    let denied = io::ErrorKind::PermissionDenied.into();
    assert!(!ArchiveError::of(to, "write", denied).is_disk_full());
}
