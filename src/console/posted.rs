//! A form that was sent. It is read completely, and its token is compared with that of the session before any
//! page sees it.

use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::{DefaultBodyLimit, Extension, FromRequest, Multipart};
use axum::http::{Request, StatusCode, request};

use super::problem::Problem;
use super::visitor::Visitor;

/// The field with the token of the session.
pub(super) const TOKEN: &str = "form_token";
/// The highest number of fields in a form; more than any of our forms has.
const FIELDS_MAX: usize = 32;
/// The highest number of files in a form; the limit on bytes allows fewer pictures of usual size.
const FILES_MAX: usize = 20_000;
/// The highest number of bytes in a text field; enough for any name.
const TEXT_BYTES_MAX: usize = 8 << 10;

/// The form as handlers receive it.
pub(super) type Posted = Extension<Arc<PostedForm>>;

/// The fields by name, in the order in which they were sent.
#[derive(Debug, Default)]
pub(super) struct PostedForm {
    fields: Vec<(String, Bytes)>,
    folder: Vec<PostedFile>,
}

/// A file of a folder.
#[derive(Clone, Debug)]
pub(super) struct PostedFile {
    /// Its path within the folder that was chosen, as the browser states it.
    pub(super) path: String,
    pub(super) bytes: Bytes,
}

/// The name of the field with the files of a folder.
pub(super) const FOLDER: &str = "folder";

/// A name of a file as its system has it. Browsers write three characters as HTML says, and `%` as itself, so that a
/// name that really has `%22` in it is taken for one with `"`.
fn as_named(sent: &str) -> String {
    let escapes = [("%22", "\""), ("%0D", "\r"), ("%0A", "\n")];
    escapes.iter().fold(sent.to_owned(), |name, (escape, one)| {
        name.replace(escape, one)
    })
}

impl PostedForm {
    /// Reads a form. `message_bytes_max` already limits the body.
    pub(super) async fn read(head: &request::Parts, body: Bytes) -> Result<Self, Problem> {
        let unreadable = |text: String| {
            let message = format!("the form cannot be read: {text}");
            Problem::plain(StatusCode::BAD_REQUEST, &message)
        };
        let mut request = Request::new(Body::from(body));
        *request.headers_mut() = head.headers.clone();
        // Its own limit is 2 MB, less than one picture of a phone.
        DefaultBodyLimit::disable().apply(&mut request);
        let form = Multipart::from_request(request, &()).await;
        let mut form = form.map_err(|error| unreadable(error.body_text()))?;
        let mut read = Self::default();
        loop {
            let field = form.next_field().await;
            let Some(field) = field.map_err(|error| unreadable(error.body_text()))? else {
                return Ok(read);
            };
            let name = field.name().unwrap_or_default().to_owned();
            let path = as_named(field.file_name().unwrap_or_default());
            let bytes = field.bytes().await;
            let bytes = bytes.map_err(|error| unreadable(error.body_text()))?;
            if name == FOLDER {
                read.folder.push(PostedFile { path, bytes });
            } else {
                read.fields.push((name, bytes));
            }
            if FIELDS_MAX < read.fields.len() || FILES_MAX < read.folder.len() {
                let most = format!("{FIELDS_MAX} fields, or than {FILES_MAX} files");
                return Err(unreadable(format!("it has more than {most}")));
            }
        }
    }

    /// Refuses a form that does not come from a page of this person.
    pub(super) fn check_token(&self, visitor: Option<&Visitor>) -> Result<(), Problem> {
        let sent = self.text(TOKEN).unwrap_or_default();
        if visitor.is_none_or(|visitor| visitor.session.is_form_token(&sent)) {
            return Ok(());
        }
        let message = "the form is of another session, or of none; go back, load the page again, and send it once more";
        Err(Problem::plain(StatusCode::FORBIDDEN, message))
    }

    /// The files of a folder.
    pub(super) fn folder(&self) -> &[PostedFile] {
        &self.folder
    }

    /// The bytes of a file; `None` if none was chosen.
    pub(super) fn file(&self, name: &str) -> Option<Bytes> {
        let (_, bytes) = self
            .fields
            .iter()
            .find(|(field, bytes)| field == name && !bytes.is_empty())?;
        Some(bytes.clone())
    }

    /// A text field that must not be empty.
    pub(super) fn required(&self, name: &str, missing: &str) -> Result<String, Problem> {
        let text = self.text(name)?;
        if text.is_empty() {
            return Err(Problem::plain(StatusCode::BAD_REQUEST, missing).with_way_back());
        }
        Ok(text)
    }

    /// A text field without surrounding spaces; empty if it is missing.
    pub(super) fn text(&self, name: &str) -> Result<String, Problem> {
        let Some((_, bytes)) = self.fields.iter().find(|(field, _)| field == name) else {
            return Ok(String::new());
        };
        let problem =
            |what: &str| Problem::plain(StatusCode::BAD_REQUEST, &format!("`{name}` {what}"));
        if TEXT_BYTES_MAX < bytes.len() {
            return Err(problem(&format!("is longer than {TEXT_BYTES_MAX} bytes")));
        }
        let text = std::str::from_utf8(bytes).map_err(|_not_text| problem("is no text"))?;
        Ok(text.trim().to_owned())
    }
}

#[cfg(test)]
mod tests {
    use axum::http::header;

    use super::*;

    /// Reads a form of files of these bytes, all of one folder.
    async fn read(files: usize, bytes: usize) -> Result<PostedForm, Problem> {
        let part =
            b"--X\r\nContent-Disposition: form-data; name=\"folder\"; filename=\"f/a/1\"\r\n\r\n";
        let one = [&part[..], &vec![b'x'; bytes], b"\r\n"].concat();
        let body = [one.repeat(files), b"--X--\r\n".to_vec()].concat();
        let request = Request::post("/")
            .header(header::CONTENT_TYPE, "multipart/form-data; boundary=X")
            .body(())
            .unwrap();
        PostedForm::read(&request.into_parts().0, body.into()).await
    }

    #[tokio::test]
    async fn a_form_may_have_as_many_bytes_as_a_request_and_not_as_many_files() {
        let form = read(3, 5 << 20).await.ok().unwrap();
        assert_eq!(form.folder().len(), 3);
        assert!(form.folder().iter().all(|file| file.bytes.len() == 5 << 20));
        assert!(read(FILES_MAX, 0).await.is_ok());
        let problem = read(FILES_MAX + 1, 0).await.err().unwrap();
        assert_eq!(problem.status(), StatusCode::BAD_REQUEST);
    }
}
