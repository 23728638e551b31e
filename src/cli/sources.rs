//! Labelled images from a folder, a CSV file or a JSONL file.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::exit::{Exit, fail};

/// A labelled image that a source names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Source {
    pub(super) id: String,
    pub(super) label: String,
    pub(super) path: PathBuf,
    pub(super) metadata: BTreeMap<String, String>,
}

/// An entry that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub(super) struct Refused {
    /// The id, path or line concerned.
    pub(super) item: String,
    /// What is wrong.
    pub(super) reason: String,
}

/// All that a source holds, sorted by id.
#[derive(Debug, Default)]
pub(super) struct Sources {
    pub(super) items: Vec<Source>,
    pub(super) refused: Vec<Refused>,
    /// Files of a folder that are not images by their names.
    pub(super) ignored: usize,
}

/// Names that images go by, supported or not: what is not supported is refused by name.
const IMAGE_EXTENSIONS: [&str; 13] = [
    "jpg", "jpeg", "jpe", "png", "webp", "gif", "bmp", "tif", "tiff", "avif", "heic", "heif", "jxl",
];

/// Folders within folders; deeper than this it is a loop of links.
const DEPTH_MAX: usize = 16;

impl Sources {
    /// Reads a folder (label = subfolder), or a `.csv` or `.jsonl` file.
    pub(super) fn read(path: &Path) -> anyhow::Result<Self> {
        let missing = |cause: std::io::Error| {
            fail(
                Exit::NoInput,
                format!("cannot read {}: {cause}", path.display()),
            )
        };
        let metadata = fs::metadata(path).map_err(missing)?;
        let extension = path
            .extension()
            .and_then(|e| e.to_str())
            .map(str::to_ascii_lowercase);
        let mut sources = Self::default();
        if metadata.is_dir() {
            sources.read_folder(path)?;
        } else {
            let text = fs::read(path).map_err(missing)?;
            match extension.as_deref() {
                Some("csv") => sources.read_csv(path, &text)?,
                Some("jsonl" | "ndjson") => sources.read_jsonl(path, &text),
                _ => {
                    let what = path.display();
                    let hint = "give a folder, a .csv or a .jsonl file";
                    return Err(fail(
                        Exit::Usage,
                        format!("{what} is none of what is read here; {hint}"),
                    ));
                }
            }
        }
        sources.refuse_repeated_ids();
        if sources.items.is_empty() && sources.refused.is_empty() {
            return Err(fail(
                Exit::NoInput,
                format!(
                    "{} holds no labelled images; a folder needs one subfolder for each label, a table one line for each image",
                    path.display()
                ),
            ));
        }
        Ok(sources)
    }

    /// The label is the first folder below `root`; the id is the path below it.
    fn read_folder(&mut self, root: &Path) -> anyhow::Result<()> {
        let (mut files, mut folders) = (Vec::new(), Vec::new());
        list(root, DEPTH_MAX, &mut files, &mut folders).map_err(|(at, cause)| {
            fail(
                Exit::NoInput,
                format!("cannot read {}: {cause}", at.display()),
            )
        })?;
        for folder in folders {
            let below = folder.strip_prefix(root).unwrap_or(&folder);
            self.refuse(
                below.to_string_lossy(),
                "a link to a folder, or one too deep, is not followed",
            );
        }
        for path in files {
            let below = path.strip_prefix(root).unwrap_or(&path);
            if !is_image(&path) {
                self.ignored += 1;
                continue;
            }
            let mut parts = below.iter().map(|part| part.to_str());
            let (Some(id), Some(Some(label))) = (below.to_str(), parts.next()) else {
                self.refuse(below.to_string_lossy(), "its name is not UTF-8; rename it");
                continue;
            };
            if parts.next().is_none() {
                self.refuse(id, "it is in no label's folder; move it into one");
                continue;
            }
            self.items.push(Source {
                id: id.to_owned(),
                label: label.to_owned(),
                path: path.clone(),
                metadata: BTreeMap::new(),
            });
        }
        Ok(())
    }

    fn read_csv(&mut self, file: &Path, text: &[u8]) -> anyhow::Result<()> {
        let wrong = |what: String| fail(Exit::BadData, format!("{}: {what}", file.display()));
        let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
        let mut reader = csv::ReaderBuilder::new()
            .flexible(true)
            .trim(csv::Trim::All)
            .from_reader(text);
        let header = reader
            .headers()
            .map_err(|cause| wrong(format!("no CSV header: {cause}")))?
            .clone();
        for column in ["path", "label"] {
            if !header.iter().any(|name| name == column) {
                let found: Vec<&str> = header.iter().collect();
                return Err(wrong(format!(
                    "there is no column `{column}`; the first line must name path,label[,id,…], and it names: {}",
                    found.join(", ")
                )));
            }
        }
        for (index, row) in reader.records().enumerate() {
            let line = format!("line {}", index + 2);
            match row {
                Err(cause) => self.refuse(line, format!("it is not CSV: {cause}")),
                Ok(row) if row.len() != header.len() => {
                    let (has, wants) = (row.len(), header.len());
                    self.refuse(
                        line,
                        format!("it has {has} fields, and the header names {wants}"),
                    );
                }
                Ok(row) => {
                    let fields = header
                        .iter()
                        .zip(&row)
                        .map(|(n, v)| (n.to_owned(), v.to_owned()));
                    self.take(file, line, fields.collect());
                }
            }
        }
        Ok(())
    }

    fn read_jsonl(&mut self, file: &Path, text: &[u8]) {
        for (index, line) in text.split(|&byte| byte == b'\n').enumerate() {
            if line.iter().all(u8::is_ascii_whitespace) {
                continue;
            }
            let name = format!("line {}", index + 1);
            match serde_json::from_slice::<serde_json::Map<String, Value>>(line) {
                Err(cause) => self.refuse(name, format!("it is not a JSON object: {cause}")),
                Ok(object) => match flatten(object) {
                    Ok(fields) => self.take(file, name, fields),
                    Err(reason) => self.refuse(name, reason),
                },
            }
        }
    }

    /// Takes one line of a table: `path` and `label`, perhaps `id`, and metadata.
    fn take(&mut self, file: &Path, line: String, mut fields: BTreeMap<String, String>) {
        let mut required = |name: &str| fields.remove(name).filter(|value| !value.is_empty());
        let (path, label, id) = (required("path"), required("label"), required("id"));
        let Some(path) = path else {
            return self.refuse(line, "its path is missing");
        };
        let id = id.unwrap_or_else(|| path.clone());
        let Some(label) = label else {
            return self.refuse(id, "its label is missing");
        };
        fields.retain(|_, value| !value.is_empty());
        let folder = file.parent().unwrap_or(Path::new(""));
        self.items.push(Source {
            id,
            label,
            path: folder.join(path),
            metadata: fields,
        });
    }

    fn refuse(&mut self, item: impl Into<String>, reason: impl Into<String>) {
        self.refused.push(Refused {
            item: item.into(),
            reason: reason.into(),
        });
    }

    /// Sorts by id, and refuses every further item of the same id.
    fn refuse_repeated_ids(&mut self) {
        let mut seen = BTreeSet::new();
        let mut repeated = Vec::new();
        self.items.retain(|item| {
            let new = seen.insert(item.id.clone());
            if !new {
                repeated.push(item.id.clone());
            }
            new
        });
        for id in repeated {
            self.refuse(id, "another item has this id already; give each its own");
        }
        self.items.sort_by(|a, b| a.id.cmp(&b.id));
    }
}

fn is_image(path: &Path) -> bool {
    let extension = path
        .extension()
        .and_then(|extension| extension.to_str())
        .unwrap_or_default();
    IMAGE_EXTENSIONS
        .iter()
        .any(|known| extension.eq_ignore_ascii_case(known))
}

/// Every file below, sorted, without hidden ones.
fn list(
    folder: &Path,
    depth: usize,
    files: &mut Vec<PathBuf>,
    refused: &mut Vec<PathBuf>,
) -> Result<(), (PathBuf, std::io::Error)> {
    let failed = |cause| (folder.to_owned(), cause);
    let mut entries = Vec::new();
    for entry in fs::read_dir(folder).map_err(failed)? {
        entries.push(entry.map_err(failed)?.path());
    }
    entries.sort();
    for path in entries {
        let hidden = path
            .file_name()
            .and_then(|name| name.to_str())
            .is_some_and(|name| name.starts_with('.'));
        if hidden {
            continue;
        }
        if path.is_dir() {
            // A link to a folder could lead round in a circle.
            if path.is_symlink() || depth == 0 {
                refused.push(path);
            } else {
                list(&path, depth - 1, files, refused)?;
            }
        } else {
            files.push(path);
        }
    }
    Ok(())
}

/// An object's fields as text; those of `metadata` count as its own.
fn flatten(object: serde_json::Map<String, Value>) -> Result<BTreeMap<String, String>, String> {
    let mut fields = BTreeMap::new();
    let mut metadata = BTreeMap::new();
    for (name, value) in object {
        match value {
            Value::Object(inner) if name == "metadata" => metadata = flatten(inner)?,
            Value::Null => {}
            Value::String(text) => drop(fields.insert(name, text)),
            Value::Bool(_) | Value::Number(_) => drop(fields.insert(name, value.to_string())),
            Value::Array(_) | Value::Object(_) => {
                return Err(format!(
                    "its `{name}` is nested; write a string, a number or a boolean"
                ));
            }
        }
    }
    for (name, value) in metadata {
        if let Some(taken) = fields.insert(name.clone(), value) {
            return Err(format!(
                "its metadata names `{name}` again (`{taken}`); call that otherwise"
            ));
        }
    }
    Ok(fields)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(name: &str, text: &str) -> anyhow::Result<Sources> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join(name);
        fs::write(&file, text).unwrap();
        Sources::read(&file)
    }

    #[test]
    fn a_table_gives_path_label_id_and_metadata() {
        let csv = read(
            "t.csv",
            "label,path,id,camera\ncat,b/2.jpg,two,x100\ncat,a/1.jpg,,\n",
        )
        .unwrap();
        let jsonl = read(
            "t.jsonl",
            "{\"path\":\"b/2.jpg\",\"label\":\"cat\",\"id\":\"two\",\"metadata\":{\"camera\":\"x100\"}}\n\n{\"path\":\"a/1.jpg\",\"label\":\"cat\"}\n",
        )
        .unwrap();
        for sources in [csv, jsonl] {
            let ids: Vec<&str> = sources.items.iter().map(|item| item.id.as_str()).collect();
            assert_eq!(ids, ["a/1.jpg", "two"]);
            assert_eq!(sources.items[1].metadata["camera"], "x100");
            assert!(sources.items[1].path.ends_with("b/2.jpg"));
            assert!(sources.items[0].metadata.is_empty());
            assert_eq!(sources.refused, []);
        }
    }

    #[test]
    fn a_bad_line_is_refused_in_its_place_and_the_others_stay() {
        let sources = read(
            "t.csv",
            "path,label\n1.jpg,cat\n2.jpg\n3.jpg,\n1.jpg,dog\n4.jpg,cow\n",
        )
        .unwrap();
        assert_eq!(sources.items.len(), 2);
        let refused: Vec<(&str, &str)> = sources
            .refused
            .iter()
            .map(|one| (one.item.as_str(), one.reason.as_str()))
            .collect();
        assert_eq!(
            refused,
            [
                ("line 3", "it has 1 fields, and the header names 2"),
                ("3.jpg", "its label is missing"),
                (
                    "1.jpg",
                    "another item has this id already; give each its own"
                ),
            ]
        );
    }

    #[test]
    fn a_missing_column_and_an_empty_source_are_refused_whole() {
        let error = read("t.csv", "path,class\n1.jpg,cat\n")
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("no column `label`") && error.contains("path, class"),
            "{error}"
        );
        let error = read("t.csv", "path,label\n").unwrap_err().to_string();
        assert!(error.contains("holds no labelled images"), "{error}");
        assert!(Sources::read(Path::new("/nowhere/at/all")).is_err());
    }

    #[test]
    fn metadata_cannot_take_the_place_of_the_label_or_the_id() {
        let line = r#"{"path":"a.jpg","label":"cat","id":"one","metadata":{"label":"red"}}"#;
        let sources = read("t.jsonl", line).unwrap();
        assert_eq!(sources.items, []);
        assert!(
            sources.refused[0].reason.contains("names `label` again"),
            "{sources:?}"
        );
    }

    #[test]
    fn a_link_that_leads_round_in_a_circle_is_not_followed() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("cat")).unwrap();
        fs::write(root.path().join("cat/1.jpg"), "x").unwrap();
        std::os::unix::fs::symlink(root.path(), root.path().join("loop")).unwrap();
        let sources = Sources::read(root.path()).unwrap();
        assert_eq!(sources.items.len(), 1);
        assert_eq!(sources.refused[0].item, "loop");
    }

    #[test]
    fn a_folder_is_labelled_by_its_first_level() {
        let root = tempfile::tempdir().unwrap();
        for file in [
            "cat/1.jpg",
            "cat/more/2.PNG",
            "dog/3.tiff",
            "dog/notes.txt",
            "4.jpg",
            ".hidden/5.jpg",
        ] {
            let path = root.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "x").unwrap();
        }
        let sources = Sources::read(root.path()).unwrap();
        let found: Vec<(&str, &str)> = sources
            .items
            .iter()
            .map(|item| (item.id.as_str(), item.label.as_str()))
            .collect();
        assert_eq!(
            found,
            [
                ("cat/1.jpg", "cat"),
                ("cat/more/2.PNG", "cat"),
                ("dog/3.tiff", "dog")
            ]
        );
        assert_eq!(sources.refused[0].item, "4.jpg");
        assert_eq!(sources.ignored, 1);
    }
}
