//! What is packed is what is unpacked, and nothing else is accepted.

use super::*;

const ON: ControlFlow<()> = ControlFlow::Continue(());
const FILES: [(&str, &[u8]); 3] = [
    ("items.db", b"all of them"),
    ("a/b/empty", b""),
    ("a/p.json", b"{}"),
];

/// A folder, what packs the files in it, the name of an archive and an empty folder.
struct Place(tempfile::TempDir, Vec<Entry>, PathBuf, PathBuf);

fn place() -> Place {
    let folder = tempfile::tempdir().unwrap();
    let entries = FILES.iter().zip(0..).map(|((name, content), number)| {
        let source = folder.path().join(format!("source{number}"));
        fs::write(&source, content).unwrap();
        let name = (*name).to_owned();
        Entry { name, source }
    });
    let entries = entries.collect();
    let (archive, into) = (folder.path().join("archive"), folder.path().join("into"));
    fs::create_dir(&into).unwrap();
    Place(folder, entries, archive, into)
}

fn listed(folder: &Path) -> BTreeSet<PathBuf> {
    let entries = fs::read_dir(folder).unwrap();
    entries.map(|entry| entry.unwrap().path()).collect()
}

fn packed() -> Vec<u8> {
    let Place(_folder, entries, archive, _) = place();
    pack(&entries, &archive, &mut |_, _| ON).unwrap();
    fs::read(&archive).unwrap()
}

/// What both `verify` and `unpack` say of these bytes; `unpack` leaves nothing if it refuses.
fn judge(bytes: &[u8], Place(folder, _, archive, into): &Place) -> Result<Contents, ArchiveError> {
    fs::write(archive, bytes).unwrap();
    let before = listed(folder.path());
    let unpacked = unpack(archive, into, &mut |_, _| ON);
    assert_eq!(listed(into).is_empty(), unpacked.is_err());
    assert_eq!(listed(folder.path()), before);
    fs::remove_dir_all(into).unwrap();
    fs::create_dir(into).unwrap();
    let verified = verify(archive, &mut |_, _| ON);
    assert_eq!(verified.is_ok(), unpacked.is_ok());
    verified
}

/// A sealed archive of files that have these names and lengths.
fn crafted(files: &[(&str, u64)], content: &[u8]) -> Vec<u8> {
    let packed = |(name, bytes): &(&str, u64)| Packed {
        name: (*name).to_owned(),
        bytes: *bytes,
        sha256: Sha256::digest(content).into(),
    };
    let files: Vec<Packed> = files.iter().map(packed).collect();
    let head = head(&files);
    let digests: Vec<u8> = files.iter().flat_map(|packed| packed.sha256).collect();
    let contents = content.repeat(files.len());
    [&head[..], &contents, &digests, &seal(&head, &digests)].concat()
}

#[test]
fn what_was_packed_is_unpacked() {
    let Place(_folder, entries, archive, into) = place();
    let mut steps = Vec::new();
    let contents = pack(&entries, &archive, &mut |done, all| {
        steps.push((done, all));
        ON
    });
    let contents = contents.unwrap();
    assert_eq!(
        (steps.first(), steps.last()),
        (Some(&(0, 13)), Some(&(13, 13)))
    );
    assert_eq!(contents.bytes, fs::metadata(&archive).unwrap().len());
    assert_eq!(unpack(&archive, &into, &mut |_, _| ON).unwrap(), contents);
    assert_eq!(verify(&archive, &mut |_, _| ON).unwrap(), contents);
    for ((name, content), packed) in FILES.iter().zip(&contents.files) {
        assert_eq!(fs::read(into.join(name)).unwrap(), *content);
        let digest = Sha256::digest(content).into();
        assert_eq!((&*packed.name, packed.sha256), (*name, digest));
    }
    assert_eq!((listed(&into).len(), listed(&into.join("a")).len()), (2, 2));
    let again = unpack(&archive, &into, &mut |_, _| ON).unwrap_err();
    assert!(matches!(again, ArchiveError::NotEmpty(_)), "{again}");
    assert_eq!(fs::read(into.join("items.db")).unwrap(), FILES[0].1);
}

#[test]
fn no_changed_byte_and_no_other_length_is_accepted() {
    let (place, bytes) = (place(), packed());
    judge(&bytes, &place).unwrap();
    let first = HEAD_BYTES + u64::from(bytes[12]);
    let second = first + FILES[0].1.len() as u64;
    for at in 0..bytes.len() {
        for mask in [0x01, 0x80, 0xFF] {
            let mut changed = bytes.clone();
            changed[at] ^= mask;
            let error = judge(&changed, &place).unwrap_err();
            let expected = match at {
                0..8 => matches!(error, ArchiveError::NotAnArchive(_)),
                8..12 => matches!(error, ArchiveError::Format { readable: 1, .. }),
                _ => {
                    let place = match at as u64 {
                        at if at < first => 0..bytes.len() as u64 + 1,
                        at if at < second => first..first + 1,
                        at if at < second + 2 => second..second + 1,
                        _ => bytes.len() as u64 - DIGEST_BYTES..bytes.len() as u64,
                    };
                    matches!(&error, ArchiveError::Damaged { offset, .. } if place.contains(offset))
                }
            };
            assert!(expected, "byte {at}: {error}");
        }
    }
    for length in 0..bytes.len() {
        judge(&bytes[..length], &place).unwrap_err();
    }
    judge(&[&bytes[..], &[0]].concat(), &place).unwrap_err();
}

#[test]
fn no_number_is_believed() {
    let place = place();
    let refused = |bytes: &[u8]| match judge(bytes, &place) {
        Err(ArchiveError::Damaged { offset, .. }) => offset,
        other => panic!("{other:?}"),
    };
    judge(&crafted(&[("x", 1), ("y", 1)], b"1"), &place).unwrap();
    for length in [0, 2, 1 << 40, u64::MAX - 122, u64::MAX] {
        let bytes = crafted(&[("x", 1), ("y", length)], b"1");
        assert_eq!(refused(&bytes), bytes.len() as u64);
    }
    // Lengths that add up only where sums wrap.
    let bytes = crafted(&[("x", u64::MAX), ("y", 3)], b"1");
    assert_eq!(refused(&bytes), bytes.len() as u64);
    // A gap that the seal does not cover.
    refused(&crafted(&[("x", 1), ("y", 0)], b"1"));
    // A file that is as long as the directory claims to be: only the limit refuses it.
    let mut bytes = crafted(&[("x", 1)], b"1");
    bytes[12..16].copy_from_slice(&u32::MAX.to_le_bytes());
    assert_eq!(refused(&bytes), 12);
    let Place(_, _, archive, into) = &place;
    let sparse = File::options().write(true).open(archive).unwrap();
    sparse.set_len(8 << 30).unwrap();
    let error = unpack(archive, into, &mut |_, _| ON).unwrap_err();
    assert!(
        matches!(error, ArchiveError::Damaged { offset: 12, .. }),
        "{error}"
    );
    let names: Vec<String> = (0..=FILES_MAX).map(|number| number.to_string()).collect();
    let files: Vec<(&str, u64)> = names.iter().map(|name| (&**name, 0)).collect();
    assert_eq!(refused(&crafted(&files, b"")), HEAD_BYTES);
    fs::write(archive, crafted(&files[1..], b"")).unwrap();
    verify(archive, &mut |_, _| ON).unwrap();
}

#[test]
fn no_name_leads_elsewhere_or_stands_in_the_way() {
    let mut place = place();
    let (long, longest) = (format!("{0}/{0}", "x".repeat(128)), "x".repeat(248));
    for name in [&long[2..], &longest[1..], ".hidden", "a/...", "b/c", "A"] {
        judge(&crafted(&[(name, 1), ("b/d", 1)], b"1"), &place).unwrap();
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
        "a\0",
        "b",
        "b/d",
        "b/d/e",
        "b/d.partial",
        "b.partial/x",
        &long[1..],
        &longest,
    ];
    for name in wrong {
        let error = judge(&crafted(&[("b/d", 1), (name, 1)], b"1"), &place).unwrap_err();
        let expected = matches!(
            error,
            ArchiveError::Damaged {
                offset: HEAD_BYTES,
                ..
            }
        );
        assert!(expected, "{name}: {error}");
        name.clone_into(&mut place.1[0].name);
        "b/d".clone_into(&mut place.1[1].name);
        fs::remove_file(&place.2).unwrap();
        let error = pack(&place.1, &place.2, &mut |_, _| ON).unwrap_err();
        assert!(
            matches!(error, ArchiveError::Name { .. }),
            "{name}: {error}"
        );
    }
}

#[test]
fn what_is_stopped_or_fails_leaves_nothing() {
    let Place(folder, entries, archive, into) = place();
    let before = listed(folder.path());
    let stop = ControlFlow::Break(());
    for limit in [0, 11, 13] {
        let error = pack(&entries, &archive, &mut |done, _| {
            if limit <= done { stop } else { ON }
        });
        assert!(matches!(error, Err(ArchiveError::Cancelled)), "{error:?}");
        assert_eq!(listed(folder.path()), before);
    }
    for content in [&b"all of them and one more"[..], b"all"] {
        let error = pack(&entries, &archive, &mut |_, _| {
            fs::write(&entries[0].source, content).unwrap();
            ON
        });
        let named = |path: &Path| *path == entries[0].source;
        assert!(matches!(error, Err(ArchiveError::Source { path, .. }) if named(&path)));
        assert_eq!(listed(folder.path()), before);
        fs::write(&entries[0].source, FILES[0].1).unwrap();
    }
    let mut absent = entries.clone();
    absent[2].source = folder.path().join("absent");
    pack(&absent, &archive, &mut |_, _| ON).unwrap_err();
    assert_eq!(listed(folder.path()), before);
    pack(&entries, &archive, &mut |_, _| ON).unwrap();
    for limit in [0, 11, 13] {
        let error = unpack(&archive, &into, &mut |done, _| {
            if limit <= done { stop } else { ON }
        });
        assert!(matches!(error, Err(ArchiveError::Cancelled)), "{error:?}");
        assert!(listed(&into).is_empty());
    }
}

#[test]
fn a_leftover_is_replaced_and_nothing_else() {
    let Place(folder, entries, archive, _) = place();
    let (partial, other) = (partial(&archive), folder.path().join("other"));
    // Another name of a file, as a crash after linking leaves, and a link.
    fs::write(&other, "whole").unwrap();
    fs::hard_link(&other, &partial).unwrap();
    pack(&entries, &archive, &mut |_, _| ON).unwrap();
    fs::remove_file(&archive).unwrap();
    std::os::unix::fs::symlink(&other, &partial).unwrap();
    pack(&entries, &archive, &mut |_, _| ON).unwrap();
    assert_eq!(fs::read(&other).unwrap(), b"whole");
    assert!(partial.symlink_metadata().is_err());
    // What has the name stays, also if it comes while the archive is written.
    fs::write(&archive, "other").unwrap();
    let never = &mut |_, _| ControlFlow::Break(());
    let error = pack(&entries, &archive, never).unwrap_err();
    assert!(matches!(error, ArchiveError::Exists(_)), "{error}");
    fs::remove_file(&archive).unwrap();
    let error = pack(&entries, &archive, &mut |_, _| {
        fs::write(&archive, "other").unwrap();
        ON
    });
    assert!(matches!(error, Err(ArchiveError::Exists(_))), "{error:?}");
    assert_eq!(fs::read(&archive).unwrap(), b"other");
    assert!(!partial.exists());
    // What another is writing is no leftover.
    fs::remove_file(&archive).unwrap();
    let written = pack(&entries, &archive, &mut |_, _| {
        let error = pack(&entries, &archive, &mut |_, _| ON).unwrap_err();
        assert!(matches!(error, ArchiveError::Busy(_)), "{error}");
        ON
    });
    assert_eq!(verify(&archive, &mut |_, _| ON).unwrap(), written.unwrap());
}

#[test]
fn a_full_disk_is_told_apart() {
    let full = File::options().write(true).open("/dev/full").unwrap();
    let mut progress = |_: u64, _: u64| ON;
    let mut copier = Copier::new(&[], &mut progress);
    let (from, to) = (Path::new("from"), Path::new("to"));
    let error = copier
        .copy(&mut &b"x"[..], from, &mut &full, to)
        .unwrap_err();
    assert!(error.is_disk_full(), "{error}");
    let denied = failed(to, "write to")(io::ErrorKind::PermissionDenied.into());
    assert!(!denied.is_disk_full());
}
