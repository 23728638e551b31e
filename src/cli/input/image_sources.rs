//! Labelled images from a folder, a CSV file or a JSONL file.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use super::fields::{ObjectFields, flatten, resolved};
use super::left_out::LeftOut;
use super::listing::{ExcludeFlags, ListedImage, Listing, holds_control};
use crate::cli::exit::{Exit, fail};
use crate::cli::standard_streams::is_standard;
use crate::deployment::RefusedItem;
use crate::telemetry::escaped;
use matchpoint_arrays::{Columns, Delimited, ROW_BYTES_MAX, Role, lines, read_text};

/// The columns of a list that are no metadata.
const COLUMNS: Columns = Columns {
    known: &["path", "label", "id", "role"],
    required: &[&["path"], &["label"]],
    aligned: false,
};

/// A labelled image that a source names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ImageSource {
    pub(crate) id: String,
    pub(crate) label: String,
    pub(crate) path: PathBuf,
    pub(crate) metadata: BTreeMap<String, String>,
    /// Its role in the list, if it has one.
    pub(crate) role: Option<Role>,
}

/// What images are read for: the role of a row may restrict it to one purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Rows of the role gallery.
    Enrol,
    /// Rows of the roles query and unknown.
    Search,
    /// Rows of all roles but unused.
    Fit,
}

impl Purpose {
    fn takes(self, role: Role) -> bool {
        match (self, role) {
            (Self::Enrol, Role::Gallery)
            | (Self::Search, Role::Query | Role::Unknown)
            | (Self::Fit, Role::Gallery | Role::Query | Role::Unknown) => true,
            (Self::Enrol, Role::Query | Role::Unknown | Role::Unused)
            | (Self::Search, Role::Gallery | Role::Unused)
            | (Self::Fit, Role::Unused) => false,
        }
    }
}

/// The fields of a row of a list.
type ListRow = BTreeMap<String, String>;

/// The place of a row in a list, and what it is read for.
struct RowPlace<'a> {
    file: &'a Path,
    /// Counted from 1.
    line: u64,
    purpose: Purpose,
}

/// A row of a list as an image, or what is wrong with it.
fn source(
    place: &RowPlace<'_>,
    mut fields: ListRow,
    role: Option<Role>,
) -> Result<ImageSource, RefusedItem> {
    let refused = |item: String, reason: &str| RefusedItem {
        item,
        reason: reason.to_owned(),
    };
    let at = || format!("line {}", place.line);
    let mut full = |name| fields.remove(name).filter(|value| !value.is_empty());
    let (path, label, id) = (full("path"), full("label"), full("id"));
    let path = path.ok_or_else(|| refused(at(), "its path is missing"))?;
    let folder = place.file.parent().unwrap_or(Path::new(""));
    let (path, written) =
        resolved(folder, path).map_err(|(item, reason)| RefusedItem { item, reason })?;
    let id = id.unwrap_or(written);
    let Some(label) = label else {
        return Err(refused(id, "its label is missing"));
    };
    if holds_control(&id) || holds_control(&label) {
        let reason = "its id or label holds a control character; remove it";
        return Err(refused(at(), reason));
    }
    fields.retain(|_, value| !value.is_empty());
    Ok(ImageSource {
        id,
        label,
        path,
        metadata: fields,
        role,
    })
}

/// Everything in a source, sorted by id.
#[derive(Debug, Default)]
pub(crate) struct ImageSources {
    pub(crate) items: Vec<ImageSource>,
    pub(crate) refused: Vec<RefusedItem>,
    /// What is not used, but is not a mistake.
    pub(crate) left_out: LeftOut,
    /// Rows that are searched for, in a list whose gallery rows are enrolled.
    searched: Vec<ImageSource>,
}

impl ImageSources {
    /// Reads a folder (label = subfolder), a `.csv`, `.tsv` or `.jsonl` file, or such a list from standard input.
    pub(crate) fn read(path: &Path, purpose: Purpose) -> anyhow::Result<Self> {
        Self::read_but(path, purpose, &ExcludeFlags::default())
    }

    /// The same, without some files of a folder.
    pub(crate) fn read_but(
        path: &Path,
        purpose: Purpose,
        exclude: &ExcludeFlags,
    ) -> anyhow::Result<Self> {
        let mut sources = Self::default();
        if is_standard(path) {
            exclude.refuse_for_list(path)?;
            // A list of objects begins with one; a table begins with the names of its columns.
            let text = read_text(path)?;
            if text.trim_start().starts_with('{') {
                sources.take_jsonl(path, &text, purpose)?;
            } else {
                sources.take_table(path, text, purpose)?;
            }
            sources.refuse_rows_without_role(path)?;
            return sources.settled(path, purpose);
        }
        let shown = path.display();
        let metadata = fs::metadata(path)
            .map_err(|cause| fail(Exit::NoInput, format!("cannot read {shown}: {cause}")))?;
        let extension = path
            .extension()
            .and_then(|e| e.to_str())
            .map(str::to_ascii_lowercase);
        if metadata.is_dir() {
            sources.read_folder(path, exclude)?;
        } else {
            exclude.refuse_for_list(path)?;
            match extension.as_deref() {
                Some("csv" | "tsv") => sources.take_table(path, read_text(path)?, purpose)?,
                Some("jsonl" | "ndjson") => sources.take_jsonl(path, &read_text(path)?, purpose)?,
                _ => {
                    let hint = "give a folder, a .csv, a .tsv or a .jsonl file, or - for a list on standard input";
                    return Err(fail(
                        Exit::Usage,
                        format!("{shown} is none of what is read here; {hint}"),
                    ));
                }
            }
            sources.refuse_rows_without_role(path)?;
        }
        sources.settled(path, purpose)
    }

    fn settled(mut self, path: &Path, purpose: Purpose) -> anyhow::Result<Self> {
        self.sort_by_role(purpose);
        self.refuse_repeated_ids();
        if self.items.is_empty() && self.refused.is_empty() {
            return Err(fail(Exit::NoInput, self.nothing(path, purpose)));
        }
        Ok(self)
    }

    fn nothing(&self, path: &Path, purpose: Purpose) -> String {
        let shown = path.display();
        if !self.left_out.by_role.is_empty() {
            let wanted = match purpose {
                Purpose::Enrol => "gallery",
                Purpose::Search => "query or unknown",
                Purpose::Fit => "gallery, query or unknown",
            };
            return format!("no row of {shown} has the role {wanted}");
        }
        let found: String = self
            .left_out
            .rows()
            .iter()
            .map(|(name, value)| format!("; {name}: {value}"))
            .collect();
        format!(
            "{shown} holds no labelled images; a folder needs one subfolder for each label, a table one line for each image{found}"
        )
    }

    /// The label is the first folder below `root`; the id is the path below it.
    fn read_folder(&mut self, root: &Path, exclude: &ExcludeFlags) -> anyhow::Result<()> {
        let Listing {
            images,
            refused,
            left_out,
        } = Listing::of(root, exclude)?;
        let source = |ListedImage { id, label, path }| ImageSource {
            id,
            label,
            path,
            metadata: BTreeMap::new(),
            role: None,
        };
        self.items = images.into_iter().map(source).collect();
        self.refused = refused;
        self.left_out = left_out;
        Ok(())
    }

    fn take_table(&mut self, file: &Path, text: String, purpose: Purpose) -> anyhow::Result<()> {
        let table = Delimited::parse(file.display().to_string(), text, &COLUMNS)?;
        for row in table.rows() {
            let row = row?;
            let cells = row.cells.into_iter().map(std::borrow::Cow::into_owned);
            let fields = table.names().iter().cloned().zip(cells).collect();
            let line = row.line;
            let place = RowPlace {
                file,
                line,
                purpose,
            };
            self.take(&place, fields)?;
        }
        Ok(())
    }

    fn take_jsonl(&mut self, file: &Path, text: &str, purpose: Purpose) -> anyhow::Result<()> {
        for (number, line) in lines(text) {
            if line.trim().is_empty() {
                continue;
            }
            let place = RowPlace {
                file,
                line: number,
                purpose,
            };
            if ROW_BYTES_MAX < line.len() {
                let reason = format!("it is longer than {ROW_BYTES_MAX} bytes");
                self.refuse(format!("line {number}"), reason);
                continue;
            }
            match serde_json::from_str::<ObjectFields>(line) {
                Err(cause) => {
                    self.refuse(
                        format!("line {number}"),
                        format!("it is not a JSON object: {cause}"),
                    );
                }
                Ok(object) => match flatten(object, COLUMNS.known) {
                    Ok(fields) => self.take(&place, fields)?,
                    Err(reason) => self.refuse(format!("line {number}"), reason),
                },
            }
        }
        Ok(())
    }

    /// Reads one row of a list: `path` and `label`, perhaps `id` and `role`, and metadata.
    fn take(&mut self, place: &RowPlace<'_>, mut fields: ListRow) -> anyhow::Result<()> {
        let role = fields.remove("role").as_deref().map(Role::parse);
        let role = role.transpose().map_err(|problem| {
            let (shown, line) = (place.file.display(), place.line);
            fail(Exit::BadData, format!("{shown}, line {line}: {problem}"))
        })?;
        match (source(place, fields, role), role) {
            (Ok(source), _) => self.items.push(source),
            // Mistakes in rows for another purpose do not matter here.
            (Err(_), Some(role)) if !place.purpose.takes(role) => self.left_out.pass(role.as_str()),
            (Err(refused), _) => self.refused.push(refused),
        }
        Ok(())
    }

    fn refuse(&mut self, item: impl Into<String>, reason: impl Into<String>) {
        self.refused.push(RefusedItem {
            item: item.into(),
            reason: reason.into(),
        });
    }

    /// Objects of a list may have different fields, so the purpose of a row without a role would be a
    /// guess.
    fn refuse_rows_without_role(&self, file: &Path) -> anyhow::Result<()> {
        let without: Vec<&ImageSource> = self
            .items
            .iter()
            .filter(|item| item.role.is_none())
            .collect();
        if without.is_empty() || without.len() == self.items.len() {
            return Ok(());
        }
        let message = format!(
            "{}: some rows have a role, and {} have none: {}; give each its own",
            file.display(),
            without.len(),
            named(&without)
        );
        Err(fail(Exit::BadData, message))
    }

    /// Keeps the rows for this purpose, and counts the others.
    fn sort_by_role(&mut self, purpose: Purpose) {
        let takes = |item: &mut ImageSource| item.role.is_none_or(|role| purpose.takes(role));
        let items = std::mem::take(&mut self.items);
        for mut item in items {
            if takes(&mut item) {
                self.items.push(item);
                continue;
            }
            if let Some(role) = item.role {
                self.left_out.pass(role.as_str());
                if Purpose::Search.takes(role) {
                    self.searched.push(item);
                }
            }
        }
    }

    /// A role that contradicts the labels would turn an enrolled label into a stranger, or the other way
    /// round.
    pub(crate) fn refuse_contradictions(
        &self,
        is_enrolled: impl Fn(&str) -> bool,
    ) -> anyhow::Result<()> {
        let rows = || self.items.iter().chain(&self.searched);
        for (role, problem) in [
            (
                Role::Unknown,
                "have the role unknown, and labels that are enrolled; make each a query, or correct its label",
            ),
            (
                Role::Query,
                "have the role query, and labels that are not enrolled; make each unknown, correct its label, or enrol it",
            ),
        ] {
            let contradicts = |row: &&ImageSource| {
                row.role == Some(role) && role.contradicts(is_enrolled(&row.label))
            };
            let wrong: Vec<&ImageSource> = rows().filter(contradicts).collect();
            if !wrong.is_empty() {
                let message = format!("{} rows {problem}: {}", wrong.len(), named(&wrong));
                return Err(fail(Exit::BadData, message));
            }
        }
        Ok(())
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

/// Rows by id and label; only the first of many.
fn named(rows: &[&ImageSource]) -> String {
    /// More names help nobody.
    const SHOWN: usize = 5;
    let row = |row: &&ImageSource| format!("{} (label {})", escaped(&row.id), escaped(&row.label));
    let shown: Vec<String> = rows.iter().take(SHOWN).map(row).collect();
    let more = if SHOWN < rows.len() { ", …" } else { "" };
    format!("{}{more}", shown.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(name: &str, text: &str) -> anyhow::Result<ImageSources> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join(name);
        fs::write(&file, text).unwrap();
        ImageSources::read(&file, Purpose::Enrol)
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
            "path,label\n1.jpg,cat\n,dog\n3.jpg,\n1.jpg,dog\n4.jpg,cow\n\"a\nb.jpg\",cat\n",
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
                ("line 3", "its path is missing"),
                ("3.jpg", "its label is missing"),
                (
                    "line 7",
                    "its id or label holds a control character; remove it"
                ),
                (
                    "1.jpg",
                    "another item has this id already; give each its own"
                ),
            ]
        );
    }

    #[test]
    fn a_list_that_could_mean_something_else_is_refused_whole() {
        for (text, want) in [
            ("path,label,label\na,x,y\n", "two columns are named `label`"),
            ("path,label\na,x\nb\n", "line 3: the row has 1 cells"),
            ("path,label\na,x\n\"b,y\n", "line 3: a quote opens"),
            (
                "path,label,role\na,x,probe\n",
                "line 2: its role is `probe`; write",
            ),
        ] {
            let error = read("t.csv", text).unwrap_err();
            assert_eq!(Exit::of(&error), Exit::BadData);
            assert!(error.to_string().contains(want), "{error}");
        }
        let mixed = "{\"path\":\"a\",\"label\":\"x\",\"role\":\"gallery\"}\n{\"path\":\"b\",\"label\":\"x\"}\n";
        let error = read("t.jsonl", mixed).unwrap_err().to_string();
        assert!(error.contains("1 have none: b (label x)"), "{error}");
    }

    #[test]
    fn a_role_says_what_each_row_is_for() {
        let text =
            "path,label,role,kind\na,x,gallery,1\nb,x,query,2\nc,y,unknown,3\nd,z,unused,4\n";
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("t.csv");
        fs::write(&file, text).unwrap();
        for (purpose, want, left_out) in [
            (
                Purpose::Enrol,
                vec!["a"],
                vec!["query", "unknown", "unused"],
            ),
            (Purpose::Search, vec!["b", "c"], vec!["gallery", "unused"]),
        ] {
            let sources = ImageSources::read(&file, purpose).unwrap();
            let ids: Vec<&str> = sources.items.iter().map(|item| item.id.as_str()).collect();
            assert_eq!(ids, want);
            let roles: Vec<&String> = sources.left_out.by_role.keys().collect();
            assert_eq!(roles, left_out);
            assert!(!sources.items[0].metadata.contains_key("role"));
            assert!(sources.refuse_contradictions(|label| label == "x").is_ok());
            let error = sources.refuse_contradictions(|_| true).unwrap_err();
            assert!(error.to_string().contains("role unknown"), "{error}");
            assert!(error.to_string().contains("c (label y)"), "{error}");
            let error = sources.refuse_contradictions(|_| false).unwrap_err();
            assert!(error.to_string().contains("b (label x)"), "{error}");
        }
        fs::write(&file, "path,label,role\na,x,query\n").unwrap();
        let error = ImageSources::read(&file, Purpose::Enrol).unwrap_err();
        assert!(
            error.to_string().contains("has the role gallery"),
            "{error}"
        );
    }

    #[test]
    fn a_row_that_is_for_something_else_may_be_anything() {
        let text =
            "path,label,role\na,x,gallery\n,y,unused\nb,,unknown\nC:\\c.jpg,z,query\n,w,gallery\n";
        let sources = read("t.csv", text).unwrap();
        assert_eq!(
            (sources.items.len(), sources.items[0].id.as_str()),
            (1, "a")
        );
        let passed: Vec<_> = sources.left_out.by_role.iter().collect();
        let one = |role: &str| role.to_owned();
        assert_eq!(
            passed,
            [
                (&one("query"), &1),
                (&one("unknown"), &1),
                (&one("unused"), &1)
            ]
        );
        let refused: Vec<&str> = sources
            .refused
            .iter()
            .map(|one| one.item.as_str())
            .collect();
        assert_eq!(refused, ["line 6"], "one of its own");
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
        assert!(ImageSources::read(Path::new("/nowhere/at/all"), Purpose::Enrol).is_err());
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
        let sources = ImageSources::read(root.path(), Purpose::Enrol).unwrap();
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
        let sources = ImageSources::read(root.path(), Purpose::Enrol).unwrap();
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
        assert_eq!(sources.left_out.ignored[".txt"], 1);
        assert_eq!(sources.left_out.system["hidden"], 1);
        assert!(sources.left_out.labels_without_images.is_empty());
    }
}
