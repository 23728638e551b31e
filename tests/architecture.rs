//! Holds the shape of the house: who may know whom, who owns which crate, and that what the
//! documents say is there.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::{Path, PathBuf};

/// Each room, and the rooms it may name. `main.rs` and `lib.rs` may name all.
const MAY_IMPORT: &[(&str, &[&str])] = &[
    ("vector", &["kernels"]),
    ("kernels", &[]),
    ("pixels", &["kernels"]),
    ("model", &["pixels", "vector"]),
    ("index", &["kernels"]),
    ("gallery", &["vector", "kernels", "index"]),
    ("calibration", &["vector"]),
    ("analysis", &["calibration", "vector", "kernels"]),
    ("monitoring", &["calibration", "vector"]),
    ("journal", &["calibration"]),
    ("arrays", &[]),
    ("report", &["calibration"]),
    ("telemetry", &[]),
    ("config", &["model", "monitoring"]),
    (
        "deployment",
        &[
            "model",
            "pixels",
            "gallery",
            "calibration",
            "analysis",
            "monitoring",
            "journal",
            "telemetry",
            "config",
            "vector",
        ],
    ),
    ("client", &[]),
    (
        "server",
        &[
            "client",
            "deployment",
            "gallery",
            "calibration",
            "monitoring",
            "pixels",
            "telemetry",
            "config",
        ],
    ),
    (
        "cli",
        &[
            "client",
            "server",
            "deployment",
            "config",
            "gallery",
            "calibration",
            "analysis",
            "monitoring",
            "arrays",
            "report",
            "model",
            "pixels",
            "telemetry",
            "vector",
        ],
    ),
];

/// Words that belong to one room each.
const OWNED: &[(&str, &[&str])] = &[
    ("ort::", &["model"]),
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
    ("tonic::", &["client", "server"]),
    ("tonic_types::", &["client", "server"]),
    ("prost::", &["client", "server"]),
    ("tower::", &["server"]),
    ("metrics::", &["telemetry"]),
    ("metrics_exporter_prometheus::", &["telemetry"]),
    ("hyper::", &["telemetry"]),
    ("hyper_util::", &["telemetry"]),
    ("http_body_util::", &["telemetry"]),
    ("tracing_subscriber::", &["telemetry"]),
    ("env::var", &["config"]),
    ("toml::", &["config", "model"]),
    ("indicatif::", &["cli"]),
    ("glob::", &["cli"]),
    ("csv::", &["cli"]),
    ("rayon::", &["analysis", "index", "gallery"]),
    ("matrixmultiply::", &["kernels"]),
    ("memmap2::", &["kernels"]),
    ("rustix::", &["deployment"]),
    ("zip::", &["arrays"]),
    ("flate2::", &["arrays", "pixels"]),
    ("zstd::", &["arrays"]),
    ("snap::", &["arrays"]),
    ("half::", &["arrays", "model"]),
    ("base64::", &["cli", "report"]),
    ("anyhow::", &["cli"]),
    (
        "async fn",
        &["model", "deployment", "client", "server", "cli"],
    ),
    ("unsafe", &["kernels"]),
    ("SystemTime::now", &["deployment"]),
];

#[test]
fn src_keeps_its_shape() {
    let mut wrong = Vec::new();
    for (room, allowed) in MAY_IMPORT {
        for (path, code) in sources(room) {
            for name in code.split("crate::").skip(1).map(identifier) {
                if name != *room && !allowed.contains(&name) {
                    wrong.push(format!("{path} names crate::{name}"));
                }
            }
            for (word, owners) in OWNED {
                if has_word(&code, word) && !owners.contains(room) {
                    wrong.push(format!("{path} has `{word}`, which belongs to {owners:?}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_room_is_listed() {
    for name in modules() {
        assert!(
            MAY_IMPORT.iter().any(|(room, _)| *room == name),
            "{name} is not listed"
        );
    }
}

#[test]
fn architecture_md_has_a_section_for_every_room() {
    let text = read("ARCHITECTURE.md");
    for name in modules() {
        let headed = text
            .lines()
            .any(|line| line.starts_with("## ") && has_word(line, &name));
        assert!(headed, "ARCHITECTURE.md has no section for {name}");
    }
}

#[test]
fn the_pure_core_does_no_input_or_output() {
    for room in [
        "vector",
        "kernels",
        "calibration",
        "analysis",
        "monitoring",
        "report",
    ] {
        for (path, code) in sources(room) {
            if path.ends_with("kernels/map.rs") {
                // With the kernels because it cannot do without `unsafe`.
                continue;
            }
            for word in [
                "std::fs",
                "std::io",
                "std::net",
                "Instant::now",
                "std::thread",
                "tokio::",
            ] {
                assert!(!has_word(&code, word), "{path} has {word}");
            }
        }
    }
}

#[test]
fn every_metric_is_documented() {
    let documented = read("docs/operations.md");
    let telemetry = read("src/telemetry/mod.rs");
    let names = telemetry
        .split('"')
        .filter(|text| text.starts_with("matchpoint_"));
    let missing: Vec<&str> = names.filter(|name| !documented.contains(name)).collect();
    assert!(
        missing.is_empty(),
        "docs/operations.md does not name {missing:?}"
    );
}

#[test]
fn every_setting_is_documented() {
    let documented = read("docs/operations.md");
    let missing: Vec<&str> = matchpoint::config::SETTINGS
        .iter()
        .map(|setting| setting.key)
        .filter(|key| !documented.contains(&format!("`{key}`")))
        .collect();
    assert!(
        missing.is_empty(),
        "docs/operations.md does not name {missing:?}"
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

fn modules() -> Vec<String> {
    let lib = read("src/lib.rs");
    let names = lib.lines().filter_map(|line| line.strip_prefix("pub mod "));
    names.map(|rest| identifier(rest).to_owned()).collect()
}

/// Whether `word` stands in `code` with no identifier running into it (`ort::` in `transport::`).
fn has_word(code: &str, word: &str) -> bool {
    let joins = |c: char| c.is_alphanumeric() || c == '_';
    code.match_indices(word)
        .any(|(at, _)| !code[..at].ends_with(joins))
}

fn identifier(text: &str) -> &str {
    let end = text.find(|c: char| !c.is_alphanumeric() && c != '_');
    end.map_or(text, |end| &text[..end])
}

/// The room's files, without comments, each cut off where its unit tests begin.
fn sources(room: &str) -> Vec<(String, String)> {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut paths = vec![src.join(format!("{room}.rs"))];
    if let Ok(entries) = fs::read_dir(src.join(room)) {
        paths.extend(entries.map(|entry| entry.unwrap().path()));
    }
    let read = |path: &Path| {
        let text = fs::read_to_string(path).ok()?;
        let code: Vec<&str> = text
            .split("#[cfg(test)]")
            .next()?
            .lines()
            .filter(|line| !line.trim_start().starts_with("//"))
            .collect();
        Some((path.display().to_string(), code.join("\n")))
    };
    paths.iter().filter_map(|path| read(path)).collect()
}
