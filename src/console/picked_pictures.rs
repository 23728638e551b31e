//! The labelled pictures of a folder that was picked: labelled by their folders' names, or by a list.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use axum::body::Bytes;
use axum::http::StatusCode;
use maud::{Markup, html};
use tonic::Code;

use super::pictures::is_picture;
use super::posted::{PostedFile, PostedForm};
use super::problem::Problem;
use super::visitor::Visitor;
use super::words::{count, shown};
use matchpoint_arrays::{Columns, Delimited, Role};
use matchpoint_client::proto::labelled_query::Query;
use matchpoint_client::proto::{LabelledQuery, ListLabelsRequest};

/// The field with a list.
pub(super) const LIST: &str = "list";

/// Names that are shown of many.
const SHOWN: usize = 5;
/// Labels of one page.
const LABELS: u32 = 1000;

/// The columns of a list that are no conditions.
const COLUMNS: Columns = Columns {
    known: &["path", "label", "id", "role"],
    required: &[&["path"], &["label"]],
    aligned: false,
};

/// What is to be searched for, and what is not.
pub(super) struct PickedPictures {
    pub(super) queries: Vec<LabelledQuery>,
    pub(super) left_out: NotSearched,
    /// The labels that a list gives roles.
    stated: BTreeSet<(String, Role)>,
}

/// What was picked and is not searched for.
#[derive(Clone, Debug, Default)]
pub(super) struct NotSearched {
    /// Files that do not begin as a picture does.
    no_pictures: NamedFiles,
    /// Pictures that the list does not name.
    not_listed: NamedFiles,
    /// Rows of the list with the role gallery or unused.
    other_roles: u64,
    /// Whether roles could not be held against what is enrolled.
    roles_unchecked: bool,
}

/// Files, of which the first are named.
#[derive(Clone, Debug, Default)]
struct NamedFiles {
    number: u64,
    first: Vec<String>,
}

impl NamedFiles {
    fn add(&mut self, path: &str) {
        self.number += 1;
        if self.first.len() < SHOWN {
            self.first.push(path.to_owned());
        }
    }

    fn markup(&self, what: &str) -> Markup {
        html! {
            @if 0 < self.number {
                li {
                    b { (count(self.number, "file", "files")) } " " (what) ": "
                    @for (number, path) in self.first.iter().enumerate() {
                        @if 0 < number { ", " }
                        code { (shown(path)) }
                    }
                    @if (self.first.len() as u64) < self.number { ", …" }
                }
            }
        }
    }
}

impl NotSearched {
    /// What was left out, in words; nothing if nothing was.
    pub(super) fn markup(&self) -> Markup {
        let files = self.no_pictures.number + self.not_listed.number;
        html! {
            @if 0 < files + self.other_roles || self.roles_unchecked {
                h2 { "Left out" }
                ul {
                    (self.no_pictures.markup("not in a format that is read (JPEG, PNG, GIF, BMP, WebP)"))
                    (self.not_listed.markup("that the list does not name"))
                    @if 0 < self.other_roles { li { b { (count(self.other_roles, "row", "rows")) } " of the list with the role gallery or unused" } }
                    @if self.roles_unchecked { li { "Whether the roles of the list agree with what is enrolled was not looked at, which takes a key with the scope enrol." } }
                }
            }
        }
    }
}

fn problem(message: &str) -> Problem {
    Problem::plain(StatusCode::BAD_REQUEST, message)
}

impl PickedPictures {
    /// Those of a form.
    pub(super) fn of(form: &PostedForm) -> Result<Self, Problem> {
        let mut left_out = NotSearched::default();
        let mut pictures = Vec::new();
        for file in form.folder() {
            if is_picture(&file.bytes) {
                pictures.push(file);
            } else if file.path.rsplit(['/', '\\']).next() != Some("") {
                left_out.no_pictures.add(&file.path);
            }
        }
        let found = match form.file(LIST) {
            Some(list) => listed(&list, &pictures, left_out)?,
            None => by_folder(&pictures, left_out)?,
        };
        if found.queries.is_empty() {
            return Err(found.left_out.nothing());
        }
        Ok(found)
    }

    /// The same, if the roles of a list agree with what is enrolled: else an enrolled label would count as a
    /// stranger, or the other way round.
    pub(super) async fn checked(
        mut self,
        visitor: &Visitor,
        deployment: &str,
    ) -> Result<Self, Problem> {
        if self.stated.is_empty() {
            return Ok(self);
        }
        let Some(enrolled) = enrolled(visitor, deployment).await? else {
            self.left_out.roles_unchecked = true;
            return Ok(self);
        };
        let contradicts = |stated: Role| {
            let mut labels = self.stated.iter();
            labels.find(|(label, is)| *is == stated && stated.contradicts(enrolled.contains(label)))
        };
        let (label, what) = match (contradicts(Role::Query), contradicts(Role::Unknown)) {
            (Some((label, _)), _) => (
                label,
                "has the role query in the list, and is not enrolled; make it unknown, correct the label, or enrol it",
            ),
            (None, Some((label, _))) => (
                label,
                "has the role unknown in the list, and is enrolled; make it a query, or correct the label",
            ),
            (None, None) => return Ok(self),
        };
        Err(problem(&format!("`{label}` {what}")))
    }
}

impl NotSearched {
    /// Why there is nothing to search for.
    fn nothing(&self) -> Problem {
        if 0 < self.other_roles {
            return problem("No row of the list has the role query or unknown.");
        }
        let message =
            "There is no picture in that folder. Pick one with a folder in it for each thing.";
        match self.no_pictures.first.first() {
            Some(path) => problem(&format!(
                "{message} {} in no format that is read, such as {path}.",
                count(self.no_pictures.number, "file is", "files are")
            )),
            None => problem(message),
        }
    }
}

/// The labels that are enrolled; `None` if this person may not know them.
async fn enrolled(
    visitor: &Visitor,
    deployment: &str,
) -> Result<Option<BTreeSet<String>>, Problem> {
    let mut labels = BTreeSet::new();
    let mut page_token = String::new();
    loop {
        let request = ListLabelsRequest {
            deployment: deployment.to_owned(),
            contains: String::new(),
            page_size: LABELS,
            page_token,
        };
        let found = match visitor.list_labels(request).await {
            Err(refused) if refused.code() == Code::PermissionDenied => return Ok(None),
            found => found?,
        };
        labels.extend(found.labels.into_iter().map(|one| one.label));
        if found.next_page_token.is_empty() {
            return Ok(Some(labels));
        }
        page_token = found.next_page_token;
    }
}

fn query(id: String, label: String, image: &Bytes) -> LabelledQuery {
    LabelledQuery {
        id,
        label,
        query: Some(Query::Image(image.clone())),
        ..LabelledQuery::default()
    }
}

/// Each picture, labelled with the name of the first folder below the one that was picked, as the commands do: folders
/// within it, such as days, show the same thing, and as labels they would be as many strangers.
fn by_folder(pictures: &[&PostedFile], left_out: NotSearched) -> Result<PickedPictures, Problem> {
    let mut queries = Vec::new();
    for file in pictures {
        let below = below(&file.path);
        let label = below
            .split_once('/')
            .map(|(label, _)| label)
            .filter(|label| !label.is_empty());
        let Some(label) = label else {
            let message = format!(
                "{} lies in no folder of its own thing: pick the folder that has one folder in it for each thing, or give a list",
                file.path
            );
            return Err(problem(&message));
        };
        queries.push(query(file.path.clone(), label.to_owned(), &file.bytes));
    }
    Ok(PickedPictures {
        queries,
        left_out,
        stated: BTreeSet::new(),
    })
}

/// The path below the folder that was picked, with `/`.
fn below(path: &str) -> Cow<'_, str> {
    let below = path
        .split_once(['/', '\\'])
        .map_or(path, |(_, below)| below);
    if below.contains('\\') {
        Cow::Owned(below.replace('\\', "/"))
    } else {
        Cow::Borrowed(below)
    }
}

/// The pictures that a list names, with its labels and conditions.
fn listed(
    list: &Bytes,
    pictures: &[&PostedFile],
    mut left_out: NotSearched,
) -> Result<PickedPictures, Problem> {
    let unreadable = |error: matchpoint_arrays::ArraysError| problem(&error.to_string());
    let table = Delimited::from_bytes("the list", list.to_vec(), &COLUMNS).map_err(unreadable)?;
    let files: BTreeMap<Cow<'_, str>, &Bytes> = pictures
        .iter()
        .map(|file| (below(&file.path), &file.bytes))
        .collect();
    let mut named = BTreeSet::new();
    let (mut queries, mut stated) = (Vec::new(), BTreeSet::new());
    let mut missing = NamedFiles::default();
    for row in table.rows() {
        let row = row.map_err(unreadable)?;
        let at = |what: &str| problem(&format!("line {} of the list: {what}", row.line));
        let names = table.names().iter().map(String::as_str);
        let mut fields: BTreeMap<&str, &str> =
            names.zip(row.cells.iter().map(|cell| &**cell)).collect();
        let role = fields.remove("role").map(Role::parse).transpose();
        let role = role.map_err(|wrong| at(&wrong))?;
        let mut full = |name| fields.remove(name).filter(|cell| !cell.is_empty());
        let (path, label, id) = (full("path"), full("label"), full("id"));
        let path = path.ok_or_else(|| at("its path is missing"))?;
        let written = path.replace('\\', "/");
        let written = written.trim_start_matches("./");
        named.insert(written.to_owned());
        if matches!(role, Some(Role::Gallery | Role::Unused)) {
            left_out.other_roles += 1;
            continue;
        }
        let label = label.ok_or_else(|| at("its label is missing"))?;
        let Some(image) = files.get(written) else {
            missing.add(&format!("{path} (line {})", row.line));
            continue;
        };
        if let Some(role) = role {
            stated.insert((label.to_owned(), role));
        }
        let mut query = query(id.unwrap_or(path).to_owned(), label.to_owned(), image);
        fields.retain(|_, cell| !cell.is_empty());
        query.metadata = fields
            .into_iter()
            .map(|(name, cell)| (name.to_owned(), cell.to_owned()))
            .collect();
        queries.push(query);
    }
    if 0 < missing.number {
        let names = missing.first.join(", ");
        return Err(problem(&format!(
            "{} of the list name no picture of the folder: {names}; paths begin below the folder that was picked",
            count(missing.number, "row", "rows")
        )));
    }
    for file in pictures {
        if !named.contains(&*below(&file.path)) {
            left_out.not_listed.add(&file.path);
        }
    }
    Ok(PickedPictures {
        queries,
        left_out,
        stated,
    })
}

#[cfg(test)]
mod tests {
    use axum::http::Request;

    use super::*;

    const JPEG: &[u8] = b"\xff\xd8\xff\xe0 a picture";

    /// A form with these files in its folder, and a list.
    async fn read(files: &[(&str, &[u8])], list: &str) -> Result<PickedPictures, String> {
        let mut body = Vec::new();
        let files = files.iter().map(|(path, bytes)| ("folder", *path, *bytes));
        for (field, path, bytes) in files.chain([(LIST, "list.csv", list.as_bytes())]) {
            let head = format!(
                "--x\r\nContent-Disposition: form-data; name=\"{field}\"; filename=\"{path}\"\r\n\r\n"
            );
            body.extend_from_slice(head.as_bytes());
            body.extend_from_slice(bytes);
            body.extend_from_slice(b"\r\n");
        }
        body.extend_from_slice(b"--x--\r\n");
        let kind = "multipart/form-data; boundary=x";
        let request = Request::builder()
            .header("content-type", kind)
            .body(())
            .unwrap();
        let form = PostedForm::read(&request.into_parts().0, Bytes::from(body)).await;
        form.and_then(|form| PickedPictures::of(&form))
            .map_err(|problem| problem.message().to_owned())
    }

    fn labels(found: &PickedPictures) -> Vec<&str> {
        found.queries.iter().map(|one| one.label.as_str()).collect()
    }

    #[tokio::test]
    async fn the_first_folder_of_a_picture_is_its_label_and_what_is_none_is_counted_and_named() {
        let files: &[(&str, &[u8])] = &[
            ("mine/mug/one.jpg", JPEG),
            ("mine/mug/notes.txt", b"text"),
            ("mine/jug/monday/two.jpg", JPEG),
            ("mine\\jug\\tuesday\\two.jpg", JPEG),
            ("mine/photo.heic", b"\0\0\0\x18ftypheic"),
        ];
        let found = read(files, "").await.unwrap();
        assert_eq!(labels(&found), ["mug", "jug", "jug"]);
        assert_eq!(found.queries[0].id, "mine/mug/one.jpg");
        let said = found.left_out.markup().into_string();
        for part in ["2 files", "mine/mug/notes.txt", "mine/photo.heic"] {
            assert!(said.contains(part), "{said}");
        }
        let all = read(&[files[0]], "").await.unwrap();
        assert_eq!(all.left_out.markup().into_string(), "");
    }

    #[tokio::test]
    async fn a_name_has_the_quotes_that_it_had_before_a_browser_sent_it() {
        let found = read(&[("mine/8%22 mug/100%25.jpg", JPEG)], "").await;
        let found = found.unwrap();
        assert_eq!(labels(&found), ["8\" mug"]);
        // What a browser does not write so stays.
        assert_eq!(found.queries[0].id, "mine/8\" mug/100%25.jpg");
    }

    #[tokio::test]
    async fn a_picture_without_a_folder_of_its_own_and_an_empty_folder_are_refused() {
        for (files, said) in [
            (
                &[("mine/one.jpg", JPEG)][..],
                "mine/one.jpg lies in no folder",
            ),
            (&[("one.jpg", JPEG)], "one.jpg lies in no folder"),
            (
                &[("mine/mug/a.txt", b"text".as_slice())],
                "There is no picture in that folder. Pick one with a folder in it for each thing. 1 file is in no format",
            ),
            (&[], "There is no picture"),
        ] {
            let problem = read(files, "").await.err().unwrap();
            assert!(problem.starts_with(said), "{problem}");
        }
    }

    const LISTED: &[(&str, &[u8])] = &[
        ("mine/a.jpg", JPEG),
        ("mine\\b\\c.jpg", JPEG),
        ("mine/d.jpg", JPEG),
    ];

    #[tokio::test]
    async fn a_list_says_labels_roles_and_conditions() {
        let list = "path;label;role;camera\na.jpg;mug;query;front\n./b/c.jpg;jug;unknown;\nd.jpg;cup;gallery;\n";
        let found = read(LISTED, list).await.unwrap();
        assert_eq!(labels(&found), ["mug", "jug"]);
        assert_eq!(found.queries[0].id, "a.jpg");
        assert_eq!(found.queries[0].metadata["camera"], "front");
        assert!(found.queries[1].metadata.is_empty());
        let stated = [
            ("jug".to_owned(), Role::Unknown),
            ("mug".to_owned(), Role::Query),
        ];
        assert_eq!(found.stated, BTreeSet::from(stated));
        let said = found.left_out.markup().into_string();
        assert!(said.contains("1 row") && !said.contains("mine"), "{said}");
        let found = read(LISTED, "label,path,id\nmug,b\\c.jpg,one\n").await;
        let found = found.unwrap();
        assert_eq!(found.queries[0].id, "one");
        let said = found.left_out.markup().into_string();
        assert!(
            said.contains("2 files") && said.contains("mine/d.jpg"),
            "{said}"
        );
    }

    #[tokio::test]
    async fn a_list_that_means_something_else_is_refused_with_its_line() {
        for (list, said) in [
            ("label\nmug\n", "path"),
            ("path,label\na.jpg\n", "line 2"),
            (
                "path,label\na.jpg,\n",
                "line 2 of the list: its label is missing",
            ),
            (
                "path,label\n,mug\n",
                "line 2 of the list: its path is missing",
            ),
            (
                "path,label,role\na.jpg,mug,guest\n",
                "line 2 of the list: its role is `guest`",
            ),
            (
                "path,label\na.jpg,mug\nz.jpg,jug\ny.jpg,jug\n",
                "2 rows of the list name no picture of the folder: z.jpg (line 3), y.jpg (line 4)",
            ),
            ("path,label,role\na.jpg,mug,unused\n", "No row of the list"),
            ("path,label\n\0", "NUL"),
        ] {
            let problem = read(LISTED, list).await.err().unwrap();
            assert!(problem.contains(said), "{list:?}: {problem}");
        }
    }
}
