//! Holds the shape of the house: who may know whom, who owns which crate, and that what the
//! documents say is there.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use std::fs;
use std::path::{Path, PathBuf};

use crate::house;

/// A room: files that answer one question, and the rooms that they may name.
struct Room {
    name: &'static str,
    /// Its package, without `matchpoint-`.
    package: &'static str,
    /// The module within the package, empty for its root; the longest that fits a file counts.
    module: &'static str,
    may_name: &'static [&'static str],
}

const fn room(
    name: &'static str,
    package: &'static str,
    module: &'static str,
    may_name: &'static [&'static str],
) -> Room {
    Room {
        name,
        package,
        module,
        may_name,
    }
}

/// From the ground up. `main.rs` and `lib.rs` of the program may name all.
const ROOMS: &[Room] = &[
    room("kernels", "vector", "kernels", &[]),
    room("vector", "vector", "", &["kernels"]),
    room("pixels", "embed", "pixels", &["kernels"]),
    room("embed", "embed", "", &["pixels", "vector"]),
    room("index", "gallery", "index", &["kernels"]),
    room("gallery", "gallery", "", &["vector", "kernels", "index"]),
    room("calibration", "calibration", "", &["vector"]),
    room(
        "analysis",
        "calibration",
        "analysis",
        &["calibration", "vector", "kernels"],
    ),
    room(
        "procedure",
        "calibration",
        "procedure",
        &["calibration", "analysis"],
    ),
    room(
        "monitoring",
        "calibration",
        "monitoring",
        &["calibration", "vector"],
    ),
    room(
        "adapt",
        "adapt",
        "",
        &["calibration", "analysis", "procedure", "vector", "kernels"],
    ),
    room("arrays", "arrays", "", &[]),
    room(
        "report",
        "report",
        "",
        &["calibration", "analysis", "procedure"],
    ),
    room(
        "python",
        "calibration-python",
        "",
        &["calibration", "analysis", "procedure", "report", "vector"],
    ),
    room("client", "client", "", &[]),
    room("stores", "stores", "", &[]),
    room("remote", "remote", "", &["gallery", "vector"]),
    room("qdrant", "qdrant", "", &[]),
    room("telemetry", "matchpoint", "telemetry", &[]),
    room(
        "config",
        "matchpoint",
        "config",
        &["embed", "monitoring", "remote", "qdrant"],
    ),
    room("clock", "matchpoint", "clock", &[]),
    room("files", "matchpoint", "files", &[]),
    room(
        "identity",
        "matchpoint",
        "identity",
        &["config", "files", "clock"],
    ),
    room("journal", "matchpoint", "journal", &["calibration"]),
    room(
        "monitor",
        "matchpoint",
        "monitor",
        &[
            "journal",
            "files",
            "clock",
            "calibration",
            "monitoring",
            "gallery",
            "pixels",
            "telemetry",
            "config",
            "vector",
        ],
    ),
    room(
        "deployment",
        "matchpoint",
        "deployment",
        &[
            "adapt",
            "embed",
            "pixels",
            "gallery",
            "calibration",
            "analysis",
            "procedure",
            "monitoring",
            "journal",
            "monitor",
            "files",
            "clock",
            "telemetry",
            "config",
            "vector",
            "remote",
            "qdrant",
        ],
    ),
    room(
        "console",
        "matchpoint",
        "console",
        &[
            "client",
            "identity",
            "telemetry",
            "clock",
            "pixels",
            "arrays",
        ],
    ),
    room(
        "server",
        "matchpoint",
        "server",
        &[
            "console",
            "client",
            "identity",
            "deployment",
            "monitor",
            "journal",
            "files",
            "clock",
            "embed",
            "gallery",
            "calibration",
            "analysis",
            "procedure",
            "monitoring",
            "pixels",
            "telemetry",
            "config",
            "stores",
            "remote",
            "qdrant",
            "report",
        ],
    ),
    room(
        "cli",
        "matchpoint",
        "cli",
        &[
            "client",
            "identity",
            "server",
            "deployment",
            "monitor",
            "journal",
            "files",
            "clock",
            "config",
            "gallery",
            "calibration",
            "analysis",
            "procedure",
            "monitoring",
            "adapt",
            "arrays",
            "report",
            "embed",
            "pixels",
            "telemetry",
            "vector",
            "stores",
            "remote",
            "qdrant",
        ],
    ),
];

/// Words that belong to one room each.
const OWNED: &[(&str, &[&str])] = &[
    ("ort::", &["embed"]),
    ("image::", &["pixels"]),
    ("turbojpeg::", &["pixels"]),
    ("webpx::", &["pixels"]),
    ("memchr::", &["pixels"]),
    ("weezl::", &["pixels"]),
    ("hnsw_rs::", &["gallery"]),
    ("rusqlite::", &["gallery", "journal"]),
    ("statrs::", &["calibration"]),
    ("strsim::", &["calibration"]),
    ("unicode_normalization::", &["calibration"]),
    ("tonic::", &["client", "console", "server", "qdrant"]),
    ("tonic_types::", &["client", "server"]),
    ("prost::", &["client", "server", "qdrant"]),
    ("tower::", &["console", "server", "qdrant"]),
    ("axum::", &["console"]),
    ("maud::", &["console"]),
    (
        "tokio_rustls::",
        &["identity", "server", "stores", "remote"],
    ),
    ("tokio_postgres::", &["remote"]),
    ("rustls_native_certs::", &["remote"]),
    ("object_store::", &["stores"]),
    ("webpki::", &["identity"]),
    ("jsonwebtoken::", &["identity"]),
    ("ring::", &["identity"]),
    ("subtle::", &["identity"]),
    ("getrandom::", &["identity"]),
    ("metrics::", &["telemetry"]),
    ("metrics_exporter_prometheus::", &["telemetry"]),
    ("hyper::", &["telemetry", "server"]),
    ("hyper_util::", &["telemetry", "server", "qdrant"]),
    ("http_body_util::", &["telemetry", "console", "server"]),
    ("percent_encoding::", &["console"]),
    ("tracing_subscriber::", &["telemetry"]),
    ("env::var", &["config"]),
    ("toml::", &["config", "embed"]),
    ("indicatif::", &["cli"]),
    ("glob::", &["cli"]),
    ("csv::", &["cli"]),
    ("anstream::", &["cli"]),
    ("anstyle::", &["cli"]),
    ("clap_complete::", &["cli"]),
    ("clap_mangen::", &["cli"]),
    ("rayon::", &["adapt", "analysis", "index", "gallery", "cli"]),
    ("matrixmultiply::", &["kernels"]),
    ("memmap2::", &["kernels"]),
    ("rustix::", &["deployment", "server"]),
    ("tar::", &["deployment"]),
    ("zip::", &["arrays"]),
    ("flate2::", &["arrays", "pixels", "server"]),
    ("zstd::", &["arrays"]),
    ("snap::", &["arrays"]),
    ("half::", &["arrays", "embed"]),
    ("base64::", &["cli", "report"]),
    ("anyhow::", &["cli"]),
    ("pyo3::", &["python"]),
    (
        "async fn",
        &[
            "embed",
            "monitor",
            "deployment",
            "client",
            "stores",
            "remote",
            "qdrant",
            "console",
            "server",
            "cli",
        ],
    ),
    ("SystemTime::now", &["clock"]),
];

/// Groups of files that lead to each other.
const CIRCLES_MAX: usize = 0;
/// Parameters that are tuples: names would say more.
const TUPLE_PARAMETERS_MAX: usize = 29;
/// Files of more than [`FILE_LINES_MAX`] lines: most of them answer two questions.
const LONG_FILES_MAX: usize = 26;
/// Lines of a file, without comments, blank lines and unit tests.
const FILE_LINES_MAX: usize = 400;
/// Definitions of types whose name another type has too.
const SHARED_TYPE_NAMES_MAX: usize = 0;

#[test]
fn rooms_name_only_what_lies_below_them() {
    let mut wrong = Vec::new();
    for file in house::sources() {
        let Some(room) = room_of(&file.package, &file.module) else {
            continue;
        };
        let named = house::named_paths(&file);
        let exported = named.exported.iter().map(|(_, path)| path);
        for path in named.used.iter().chain(exported) {
            if let Some(other) = other_room(&file, path)
                && other.name != room.name
                && !room.may_name.contains(&other.name)
            {
                let path = path.join("::");
                wrong.push(format!("{} names {}: {path}", file.path, other.name));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn words_stay_in_the_rooms_that_own_them() {
    let mut wrong = Vec::new();
    for file in house::sources() {
        let Some(room) = room_of(&file.package, &file.module) else {
            continue;
        };
        for (word, owners) in OWNED {
            if has_word(&file.code, word) && !owners.contains(&room.name) {
                let path = &file.path;
                wrong.push(format!("{path} has `{word}`, which belongs to {owners:?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_crate_but_that_of_the_kernels_forbids_unsafe_code() {
    for file in house::sources() {
        if file.path.ends_with("/lib.rs") && file.package != "vector" {
            let forbids = file.code.contains("#![forbid(unsafe_code)]");
            assert!(forbids, "{} does not forbid unsafe code", file.path);
        }
    }
}

#[test]
fn no_more_circles_between_files_than_there_were() {
    let sources = house::sources();
    let circles = house::circles(&sources);
    let shown: Vec<String> = circles.iter().map(|circle| circle.join(", ")).collect();
    holds("circles", &shown, CIRCLES_MAX);
}

#[test]
fn no_more_tuples_as_parameters_than_there_were() {
    let found = house::tuple_parameters(&house::sources());
    holds("tuple parameters", &found, TUPLE_PARAMETERS_MAX);
}

#[test]
fn no_more_files_are_long_than_were() {
    let mut found = Vec::new();
    for file in house::sources() {
        let lines = file.code.lines().filter(|line| !line.trim().is_empty());
        let count = lines.count();
        if FILE_LINES_MAX < count {
            found.push(format!("{count} lines: {}", file.path));
        }
    }
    holds("long files", &found, LONG_FILES_MAX);
}

#[test]
fn no_more_types_share_a_name_than_did() {
    let sources = house::sources();
    let types = house::types(&sources);
    let shared = types.iter().filter(|(_, files)| files.len() > 1);
    let found: Vec<String> = shared
        .flat_map(|(name, files)| files.iter().map(move |file| format!("{name}: {file}")))
        .collect();
    holds("types that share their name", &found, SHARED_TYPE_NAMES_MAX);
}

/// A ratchet: whoever takes some away lowers `max`.
fn holds(what: &str, found: &[String], max: usize) {
    let (count, listed) = (found.len(), found.join("\n"));
    assert!(count <= max, "{count} {what}, not {max}:\n{listed}");
}

#[test]
fn every_file_is_in_a_room() {
    for file in house::sources() {
        let program = matches!(file.path.as_str(), "src/lib.rs" | "src/main.rs");
        let room = room_of(&file.package, &file.module);
        assert!(program || room.is_some(), "{} is in no room", file.path);
    }
}

#[test]
fn architecture_md_has_a_section_for_every_room() {
    let text = read("ARCHITECTURE.md");
    let headings: Vec<&str> = text
        .lines()
        .filter(|line| line.starts_with("## "))
        .collect();
    for room in ROOMS {
        let headed = headings.iter().any(|line| has_word(line, room.name));
        assert!(headed, "ARCHITECTURE.md has no section for {}", room.name);
    }
}

#[test]
fn the_pure_core_does_no_input_or_output() {
    let pure = [
        "vector",
        "kernels",
        "calibration",
        "analysis",
        "procedure",
        "monitoring",
        "adapt",
        "report",
    ];
    let words = [
        "std::fs",
        "std::io",
        "std::net",
        "Instant::now",
        "std::thread",
        "tokio::",
    ];
    for file in house::sources() {
        let room = room_of(&file.package, &file.module);
        // The map is with the kernels because it cannot do without `unsafe`.
        if !room.is_some_and(|room| pure.contains(&room.name)) || file.path.ends_with("/map.rs") {
            continue;
        }
        for word in words {
            assert!(!has_word(&file.code, word), "{} has {word}", file.path);
        }
    }
}

/// The room of a module: of those that lead to it, the one with the longest path.
fn room_of(package: &str, module: &[String]) -> Option<&'static Room> {
    let parts = |room: &Room| -> Vec<&str> {
        let parts = room.module.split("::");
        parts.filter(|part| !part.is_empty()).collect()
    };
    let fits = |room: &&Room| {
        let parts = parts(room);
        room.package == package
            && parts.len() <= module.len()
            && parts.iter().zip(module).all(|(a, b)| a == b)
    };
    ROOMS
        .iter()
        .filter(fits)
        .max_by_key(|room| parts(room).len())
}

/// The room that a path leads to, if it names a crate or a module of ours.
fn other_room(file: &house::SourceFile, path: &[String]) -> Option<&'static Room> {
    let (first, rest) = path.split_first()?;
    match first.as_str() {
        "crate" => room_of(&file.package, rest),
        "super" => {
            let ups = path.iter().take_while(|part| *part == "super").count();
            let base = file.module.len().checked_sub(ups)?;
            room_of(
                &file.package,
                &[&file.module[..base], &path[ups..]].concat(),
            )
        }
        outside => room_of(outside.strip_prefix("matchpoint_")?, rest),
    }
}

#[test]
fn every_metric_is_documented() {
    let documented = read("docs/metrics.md");
    let telemetry = read("src/telemetry/metric.rs");
    let names = telemetry
        .split('"')
        .filter(|text| text.starts_with("matchpoint_"));
    let missing: Vec<&str> = names.filter(|name| !documented.contains(name)).collect();
    assert!(
        missing.is_empty(),
        "docs/metrics.md does not name {missing:?}"
    );
}

#[test]
fn every_setting_is_documented() {
    let documented = read("docs/settings.md");
    let missing: Vec<&str> = matchpoint::config::SETTINGS
        .iter()
        .map(|setting| setting.key)
        .filter(|key| !documented.contains(&format!("`{key}`")))
        .collect();
    assert!(
        missing.is_empty(),
        "docs/settings.md does not name {missing:?}"
    );
}

#[test]
fn every_link_in_the_documents_leads_somewhere() {
    let mut wrong = Vec::new();
    for document in documents() {
        let text = fs::read_to_string(&document).unwrap();
        let folder = document.parent().unwrap();
        for target in text
            .split("](")
            .skip(1)
            .filter_map(|rest| rest.split(')').next())
        {
            let path = target.split('#').next().unwrap();
            if !path.is_empty() && !path.contains("://") && !folder.join(path).exists() {
                wrong.push(format!("{}: {target}", document.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn documents() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut documents = Vec::new();
    for folder in [
        ".",
        "docs",
        "examples/photos",
        "examples/python",
        "clients/python",
        "models/efficientnet-lite0",
    ] {
        let Ok(entries) = fs::read_dir(root.join(folder)) else {
            continue;
        };
        let paths = entries.map(|entry| entry.unwrap().path());
        documents.extend(paths.filter(|path| path.extension().is_some_and(|end| end == "md")));
    }
    documents
}

fn read(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

/// Whether `word` stands in `code` with no identifier running into it (`ort::` in `transport::`).
fn has_word(code: &str, word: &str) -> bool {
    let joins = |c: char| c.is_alphanumeric() || c == '_';
    code.match_indices(word)
        .any(|(at, _)| !code[..at].ends_with(joins))
}
