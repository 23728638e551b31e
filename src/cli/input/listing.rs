//! The files of a folder of images: which are images, and what the others are.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use glob::{MatchOptions, Pattern};

use super::left_out::LeftOut;
use crate::cli::exit::{Exit, fail};
use crate::deployment::RefusedItem;
use matchpoint_embed::pixels::{SNIFF_BYTES, sniff};

/// Name extensions of images, supported or not: an unsupported format is refused by its name.
const IMAGE_EXTENSIONS: [&str; 13] = [
    "jpg", "jpeg", "jpe", "png", "webp", "gif", "bmp", "tif", "tiff", "avif", "heic", "heif", "jxl",
];

/// What file systems, servers and archivers leave between people's files, in any case. Thumbnails of a
/// network drive would otherwise become images of their own.
const SYSTEM_NAMES: [&str; 9] = [
    "@eadir",
    "thumbs.db",
    "ehthumbs.db",
    "desktop.ini",
    "__macosx",
    "#recycle",
    "$recycle.bin",
    "lost+found",
    "system volume information",
];

/// Folders within folders; anything deeper is a loop of links.
const DEPTH_MAX: usize = 16;

/// Which files of a folder are left out.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct ExcludeFlags {
    /// Leave out what matches, below a folder of images: a name ('*_thumb.jpg', 'rejected'), or with
    /// a slash a path ('cat/**/old*'); may be repeated
    #[arg(long, value_name = "GLOB")]
    exclude: Vec<Pattern>,
}

impl ExcludeFlags {
    /// A list names its images itself.
    pub(crate) fn refuse_for_list(&self, list: &Path) -> anyhow::Result<()> {
        if self.exclude.is_empty() {
            return Ok(());
        }
        let message = format!(
            "--exclude goes with a folder, and {} is a list; remove rows from it, or give them the role unused",
            list.display()
        );
        Err(fail(Exit::Usage, message))
    }

    /// Whether a file or folder is left out, by its path below the root.
    fn matches(&self, below: &Path) -> bool {
        const OPTIONS: MatchOptions = MatchOptions {
            case_sensitive: true,
            require_literal_separator: true,
            require_literal_leading_dot: false,
        };
        let name = below.file_name().map(|name| name.to_string_lossy());
        self.exclude.iter().any(|pattern| {
            if pattern.as_str().contains('/') {
                pattern.matches_with(&below.to_string_lossy(), OPTIONS)
            } else {
                let name = name.as_deref().unwrap_or_default();
                pattern.matches_with(name, OPTIONS)
            }
        })
    }
}

/// An image of a folder.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ListedImage {
    /// The path below the folder.
    pub(crate) id: String,
    /// The first part of it.
    pub(crate) label: String,
    pub(crate) path: PathBuf,
}

/// What a folder holds.
#[derive(Debug, Default)]
pub(crate) struct Listing {
    pub(crate) images: Vec<ListedImage>,
    pub(crate) refused: Vec<RefusedItem>,
    pub(crate) left_out: LeftOut,
}

/// The kind of a file.
enum FileKind {
    Image,
    /// One of so many kinds that only its description is kept.
    Other(String),
}

/// The images at any depth of a folder, whatever their labels, in the order of names.
pub(crate) fn images_below(root: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let exclude = ExcludeFlags::default();
    let walk = Walk::of(root, &exclude)?;
    let is_image = |path: &PathBuf| matches!(kind(path), FileKind::Image);
    Ok(walk.files.into_iter().filter(is_image).collect())
}

impl Listing {
    /// Lists a folder with one subfolder for each label, in the order of names.
    pub(crate) fn of(root: &Path, exclude: &ExcludeFlags) -> anyhow::Result<Self> {
        let Walk {
            files, mut listing, ..
        } = Walk::of(root, exclude)?;
        let (mut with, mut without) = (BTreeSet::new(), BTreeSet::new());
        for path in files {
            let below = path.strip_prefix(root).unwrap_or(&path);
            let label = below.parent().and_then(|parent| parent.iter().next());
            let label = label.map(|label| label.to_string_lossy().into_owned());
            match kind(&path) {
                FileKind::Image => {
                    with.extend(label);
                    listing.take(&path, below);
                }
                FileKind::Other(kind) => {
                    without.extend(label);
                    listing.left_out.ignore(kind);
                }
            }
        }
        let empty = without.difference(&with).cloned();
        listing.left_out.labels_without_images = empty.collect();
        Ok(listing)
    }

    fn take(&mut self, path: &Path, below: &Path) {
        let mut parts = below.iter().map(|part| part.to_str());
        let (Some(id), Some(Some(label))) = (below.to_str(), parts.next()) else {
            return self.refuse(below, "its name is not UTF-8; rename it");
        };
        if parts.next().is_none() {
            return self.refuse(below, "it is in no label's folder; move it into one");
        }
        if holds_control(id) {
            return self.refuse(below, "its name holds a control character; rename it");
        }
        self.images.push(ListedImage {
            id: id.to_owned(),
            label: label.to_owned(),
            path: path.to_owned(),
        });
    }

    fn refuse(&mut self, below: &Path, reason: &str) {
        self.refused.push(RefusedItem {
            item: below.to_string_lossy().into_owned(),
            reason: reason.to_owned(),
        });
    }
}

struct Walk<'a> {
    root: &'a Path,
    exclude: &'a ExcludeFlags,
    files: Vec<PathBuf>,
    listing: Listing,
}

impl<'a> Walk<'a> {
    fn of(root: &'a Path, exclude: &'a ExcludeFlags) -> anyhow::Result<Self> {
        let mut walk = Self {
            root,
            exclude,
            files: Vec::new(),
            listing: Listing::default(),
        };
        walk.enter(root, DEPTH_MAX).map_err(|(at, cause)| {
            let at = at.display();
            fail(Exit::NoInput, format!("cannot read {at}: {cause}"))
        })?;
        Ok(walk)
    }

    fn enter(&mut self, folder: &Path, depth: usize) -> Result<(), (PathBuf, io::Error)> {
        let failed = |cause| (folder.to_owned(), cause);
        let mut entries = Vec::new();
        for entry in fs::read_dir(folder).map_err(failed)? {
            entries.push(entry.map_err(failed)?.path());
        }
        entries.sort();
        for path in entries {
            let name = path.file_name().map(|name| name.to_string_lossy());
            if let Some(system) = name.as_deref().and_then(system_name) {
                self.listing.left_out.skip(system);
                continue;
            }
            let below = path.strip_prefix(self.root).unwrap_or(&path);
            if self.exclude.matches(below) {
                self.listing.left_out.excluded += 1;
            } else if !path.is_dir() {
                self.files.push(path);
            } else if path.is_symlink() || depth == 0 {
                // Links to folders could form a loop.
                let why = "a link to a folder, or one too deep, is not followed";
                self.listing.refuse(below, why);
            } else {
                self.enter(&path, depth - 1)?;
            }
        }
        Ok(())
    }
}

/// The system name that a file is counted under; no label or image of people has one.
fn system_name(name: &str) -> Option<&'static str> {
    let mut known = SYSTEM_NAMES.iter().copied();
    let known = known.find(|known| known.eq_ignore_ascii_case(name));
    known.or_else(|| name.starts_with('.').then_some("hidden"))
}

/// By the extension if it is an image's, and otherwise by the first bytes.
fn kind(path: &Path) -> FileKind {
    let extension = path.extension().and_then(|extension| extension.to_str());
    let known = |known: &str| extension.is_some_and(|is| is.eq_ignore_ascii_case(known));
    if IMAGE_EXTENSIONS.iter().any(|name| known(name)) {
        return FileKind::Image;
    }
    if fs::metadata(path).is_ok_and(|found| !found.is_file()) {
        return FileKind::Other("pipe, socket or device".to_owned());
    }
    let mut head = Vec::new();
    let read = File::open(path).and_then(|file| {
        let limit = SNIFF_BYTES as u64;
        file.take(limit).read_to_end(&mut head)
    });
    match read {
        Err(_) => FileKind::Other("unreadable".to_owned()),
        Ok(0) => FileKind::Other("empty file".to_owned()),
        Ok(_) => match sniff(&head) {
            Ok(_) => FileKind::Image,
            Err(detected @ ("plain text" | "unknown data" | "HTML or XML")) => {
                FileKind::Other(by_extension(extension, detected))
            }
            Err(detected) => FileKind::Other(detected.trim_start_matches("a ").to_owned()),
        },
    }
}

/// The extension says more than `plain text`.
fn by_extension(extension: Option<&str>, detected: &str) -> String {
    /// No real extension is longer.
    const CHARS_MAX: usize = 12;
    match extension {
        Some(end) if end.len() <= CHARS_MAX && end.chars().all(char::is_alphanumeric) => {
            format!(".{}", end.to_lowercase())
        }
        _ => detected.to_owned(),
    }
}

/// Whether a gallery would refuse it as an id or a label.
pub(crate) fn holds_control(name: &str) -> bool {
    name.chars().any(char::is_control)
}

#[cfg(test)]
mod tests {
    use super::super::left_out::counted;
    use super::*;

    const JPEG: &[u8] = b"\xff\xd8\xff\xe0 and so on";

    fn listed(files: &[(&str, &[u8])], exclude: &[&str]) -> Listing {
        let root = tempfile::tempdir().unwrap();
        for (file, bytes) in files {
            let path = root.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        }
        let exclude = exclude.iter().map(|one| Pattern::new(one).unwrap());
        let exclude = ExcludeFlags {
            exclude: exclude.collect(),
        };
        Listing::of(root.path(), &exclude).unwrap()
    }

    fn ids(listing: &Listing) -> Vec<&str> {
        listing
            .images
            .iter()
            .map(|image| image.id.as_str())
            .collect()
    }

    #[test]
    fn files_without_the_name_of_an_image_are_told_by_their_bytes() {
        let listing = listed(
            &[
                ("cat/a.jfif", JPEG),
                ("cat/b.pjpeg", JPEG),
                ("cat/photo", JPEG),
                ("cat/d.JPG", b"no image, and decoding says so"),
                ("cat/notes.TXT", b"words"),
                ("cat/d.xmp", b"<x:xmpmeta/>"),
                ("cat/clip.mp4", b"\0\0\0\x18ftypmp42"),
                ("dog/clip", b"\0\0\0\x18ftypmp42"),
                ("dog/empty", b""),
                ("readme.md", b"words"),
            ],
            &[],
        );
        assert_eq!(
            ids(&listing),
            ["cat/a.jfif", "cat/b.pjpeg", "cat/d.JPG", "cat/photo"]
        );
        assert_eq!(listing.refused, []);
        let left_out = &listing.left_out;
        assert_eq!(
            counted(&left_out.ignored),
            "1 .md, 1 .txt, 1 .xmp, 1 empty file, 2 video"
        );
        assert_eq!(left_out.ignored_files(), 6);
        assert_eq!(left_out.labels_without_images, ["dog"]);
        let words = format!("{:?}", left_out.rows());
        assert!(words.contains("of the labels dog"), "{words}");
    }

    #[test]
    fn what_systems_leave_behind_is_no_label_and_no_image() {
        let listing = listed(
            &[
                ("@eaDir/cat/thumb.jpg", JPEG),
                ("__MACOSX/._1.jpg", JPEG),
                ("#recycle/1.jpg", JPEG),
                ("lost+found/1.jpg", JPEG),
                ("cat/@eaDir/1.jpg", JPEG),
                ("cat/Thumbs.db", b"x"),
                ("cat/Desktop.ini", b"x"),
                ("cat/._1.jpg", JPEG),
                (".git/1.jpg", JPEG),
                ("cat/1.jpg", JPEG),
            ],
            &[],
        );
        assert_eq!(ids(&listing), ["cat/1.jpg"]);
        assert_eq!(
            counted(&listing.left_out.system),
            "1 #recycle, 2 @eadir, 1 __macosx, 1 desktop.ini, 2 hidden, 1 lost+found, 1 thumbs.db"
        );
    }

    #[test]
    fn patterns_leave_out_files_and_folders() {
        let files: &[(&str, &[u8])] = &[
            ("cat/1.jpg", JPEG),
            ("cat/1_thumb.jpg", JPEG),
            ("cat/raw/2.jpg", JPEG),
            ("dog/raw/3.jpg", JPEG),
            ("dog/old/deep/4.jpg", JPEG),
        ];
        let left = |exclude: &[&str]| {
            let listing = listed(files, exclude);
            let ids: Vec<String> = ids(&listing).into_iter().map(str::to_owned).collect();
            (ids.join(" "), listing.left_out.excluded)
        };
        let (ids, excluded) = left(&["*_thumb.jpg", "raw", "dog/**/4.*"]);
        assert_eq!((ids.as_str(), excluded), ("cat/1.jpg", 4));
        let (ids, _) = left(&["cat/*", "*/old"]);
        assert_eq!(ids, "dog/raw/3.jpg");
    }

    #[test]
    fn names_that_cannot_be_enrolled_are_refused_and_a_pipe_is_not_read() {
        let root = tempfile::tempdir().unwrap();
        let cat = root.path().join("cat");
        fs::create_dir(&cat).unwrap();
        for name in ["a\n\x1b[31m.jpg", "b.jpg"] {
            fs::write(cat.join(name), JPEG).unwrap();
        }
        let made = std::process::Command::new("mkfifo")
            .arg(cat.join("pipe"))
            .status();
        assert!(made.unwrap().success());
        let listing = Listing::of(root.path(), &ExcludeFlags::default()).unwrap();
        assert_eq!(ids(&listing), ["cat/b.jpg"]);
        let refused: Vec<String> = listing.refused.iter().map(ToString::to_string).collect();
        assert_eq!(
            refused,
            ["cat/a\\n\\u{1b}[31m.jpg: its name holds a control character; rename it"]
        );
        // Nobody writes to it, and it is not waited for.
        assert_eq!(
            counted(&listing.left_out.ignored),
            "1 pipe, socket or device"
        );
    }
}
