//! The console, as a browser sees it and as one that means harm does.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::common::{Running, config, photos, run, text};
use matchpoint_client::proto::{Decision, SearchRequest, search_request};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const CONSOLE: (&str, &str) = ("MATCHPOINT_CONSOLE_LISTEN", "127.0.0.1:0");
const BOUNDARY: &str = "a-boundary-that-no-picture-has";

/// One person's browser: a cookie, and nothing else.
struct Browser {
    address: SocketAddr,
    cookie: Option<String>,
    host: String,
}

struct Page {
    status: u16,
    head: String,
    body: Vec<u8>,
}

impl Page {
    fn header(&self, name: &str) -> Option<&str> {
        let lines = self.head.lines();
        let mut found = lines.filter_map(|line| line.split_once(": "));
        found.find_map(|(key, value)| key.eq_ignore_ascii_case(name).then_some(value))
    }

    fn text(&self) -> String {
        text(&self.body)
    }

    /// The value of a hidden field.
    fn field(&self, name: &str) -> String {
        let text = self.text();
        let (_, rest) = text
            .split_once(&format!("name=\"{name}\" value=\""))
            .unwrap_or_else(|| panic!("no {name}: {text}"));
        rest.split('"').next().unwrap().to_owned()
    }

    fn token(&self) -> String {
        self.field("form_token")
    }
}

impl Browser {
    fn at(address: SocketAddr) -> Self {
        Self {
            address,
            cookie: None,
            host: address.to_string(),
        }
    }

    async fn send(&mut self, request: &str, body: &[u8]) -> Page {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let cookie = self.cookie.as_ref();
        let cookie = cookie.map_or_else(String::new, |cookie| format!("Cookie: {cookie}\r\n"));
        let (host, length) = (&self.host, body.len());
        let head = format!(
            "{request}\r\nHost: {host}\r\nConnection: close\r\nContent-Length: {length}\r\n{cookie}\r\n"
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        // A server that refuses a body may close before it came.
        drop(stream.write_all(body).await);
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        let end = answer.windows(4).position(|four| four == b"\r\n\r\n");
        let body = answer.split_off(end.unwrap() + 4);
        let head = text(&answer);
        let page = Page {
            status: head[9..12].parse().unwrap(),
            head,
            body,
        };
        if let Some(set) = page.header("set-cookie") {
            self.cookie = Some(set.split(';').next().unwrap().to_owned());
        }
        page
    }

    async fn get(&mut self, path: &str) -> Page {
        self.send(&format!("GET {path} HTTP/1.1"), b"").await
    }

    /// What is still being loaded says so, and is asked for again.
    async fn when_ready(&mut self, path: &str) -> Page {
        let mut page = self.get(path).await;
        while page.status == 503 {
            assert_eq!(page.header("refresh"), Some("2"));
            tokio::time::sleep(Duration::from_millis(100)).await;
            page = self.get(path).await;
        }
        page
    }

    /// Says something of a decision.
    async fn say(&mut self, fields: &[(String, Vec<u8>)]) -> Page {
        let fields: Vec<(&str, &[u8])> = fields
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_slice()))
            .collect();
        self.post(LABEL, &fields).await
    }

    async fn post(&mut self, path: &str, fields: &[(&str, &[u8])]) -> Page {
        let fields = fields.iter();
        let fields: Vec<(&str, &str, &[u8])> = fields
            .map(|(name, value)| (*name, "<script>alert(1)</script>.jpg", *value))
            .collect();
        self.post_files(path, &fields).await
    }

    /// Sends a form whose fields have names of files.
    async fn post_files(&mut self, path: &str, fields: &[(&str, &str, &[u8])]) -> Page {
        let mut body = Vec::new();
        for (name, file, value) in fields {
            let head = format!(
                "--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"{name}\"; filename=\"{file}\"\r\n\r\n"
            );
            body.extend_from_slice(head.as_bytes());
            body.extend_from_slice(value);
            body.extend_from_slice(b"\r\n");
        }
        body.extend_from_slice(format!("--{BOUNDARY}--\r\n").as_bytes());
        let kind = format!("Content-Type: multipart/form-data; boundary={BOUNDARY}");
        let request = format!("POST {path} HTTP/1.1\r\n{kind}");
        self.send(&request, &body).await
    }
}

/// A photograph that is enrolled.
fn photo() -> Vec<u8> {
    let label = "gc_explore_monuments_egypt_meidumPyramid";
    fs::read(photos().join(format!("images/{label}/g0_ref.jpg"))).unwrap()
}

/// A file of keys, and the key of each of these callers by its scopes.
fn keys(folder: &Path, callers: &[(&str, &str)]) -> Vec<String> {
    let path = folder.join("keys.json");
    let path = path.to_str().unwrap();
    let made = callers.iter().map(|(name, scopes)| {
        let arguments = ["keys", "new", name, "--scopes", scopes];
        let done = run(&[&arguments[..], &["--json", "--keys-file", path]].concat());
        let made: serde_json::Value = serde_json::from_slice(&done.stdout).unwrap();
        made["key"].as_str().unwrap().to_owned()
    });
    made.collect()
}

#[tokio::test]
async fn of_somebody_unknown_no_more_is_read_than_it_takes_to_sign_in() {
    let folder = tempfile::tempdir().unwrap();
    let key = keys(folder.path(), &[("anna", "search")]).pop().unwrap();
    let file = folder.path().join("keys.json");
    let settings = [CONSOLE, ("MATCHPOINT_KEYS_FILE", file.to_str().unwrap())];
    let server = Running::sample(&settings).await;
    let mut browser = Browser::at(server.console.unwrap());
    let large = vec![0; 100_000];
    for path in ["/d/sample/try", "/sign-in"] {
        let refused = browser.post(path, &[("image", &large)]).await;
        assert_eq!(refused.status, 413, "{path}");
        let said = refused.text();
        assert!(said.contains("before you have signed in"), "{said}");
    }
    let small = browser.post("/d/sample/try", &[("image", b"x")]).await;
    assert_eq!(small.header("location"), Some("/sign-in"));
    let entered = browser.post("/sign-in", &[("key", key.as_bytes())]).await;
    assert_eq!(entered.status, 303, "{}", entered.text());
    // What comes now is held against the limit of all, and needs the token of a page.
    let known = browser.post("/d/sample/try", &[("image", &large)]).await;
    assert_eq!(known.status, 403);
    server.stop().await;
}

#[tokio::test]
async fn there_is_no_console_unless_it_is_asked_for() {
    let server = Running::sample(&[]).await;
    assert_eq!(server.console, None);
    let deployment = Path::new("shop");
    assert_eq!(config(deployment, &[]).console_listen, None);
    // The port of the calls speaks no HTTP/1.1.
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let asked = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";
    stream.write_all(asked).await.unwrap();
    let mut answer = Vec::new();
    drop(stream.read_to_end(&mut answer).await);
    assert!(!answer.starts_with(b"HTTP/1.1 200"));
    server.stop().await;
}

#[tokio::test]
async fn a_picture_is_tried_and_nothing_of_it_is_recorded() {
    let server = Running::sample(&[CONSOLE]).await;
    let mut browser = Browser::at(server.console.unwrap());
    let home = browser.get("/").await;
    assert_eq!(
        (home.status, home.header("location")),
        (303, Some("/d/sample/try"))
    );
    let page = browser.get("/d/sample/try").await;
    assert_eq!(page.status, 200);
    for (name, value) in [
        ("x-content-type-options", "nosniff"),
        ("x-frame-options", "DENY"),
        ("referrer-policy", "no-referrer"),
        ("cache-control", "no-store"),
    ] {
        assert_eq!(page.header(name), Some(value));
    }
    let policy = page.header("content-security-policy").unwrap();
    assert!(policy.starts_with("default-src 'none';") && !policy.contains("unsafe"));
    assert!(policy.contains("form-action 'self'") && policy.contains("frame-ancestors 'none'"));
    let html = page.text();
    assert!(!html.contains(" style=") && !html.contains("<script>") && !html.contains("http"));

    let (token, photo) = (page.token(), photo());
    let token = ("form_token", token.as_bytes());
    let answer = browser
        .post("/d/sample/try", &[token, ("image", &photo)])
        .await;
    let said = answer.text();
    assert_eq!(answer.status, 200, "{said}");
    assert!(
        said.contains("verdict promised") && said.contains("This is <b>"),
        "{said}"
    );
    assert!(said.contains("accepted from") && !said.contains("alert(1)"));
    let both = [token, ("image", &photo[..]), ("second", &photo)];
    let compared = browser.post("/d/sample/try", &both).await;
    assert!(compared.text().contains("Both pictures show the same."));

    for (wrong, status, words) in [
        (&b""[..], 400, "Pick a picture first."),
        (
            b"<svg xmlns='http://www.w3.org/2000/svg'/>",
            400,
            "Not asked",
        ),
    ] {
        let answer = browser
            .post("/d/sample/try", &[token, ("image", wrong)])
            .await;
        assert_eq!(answer.status, status);
        assert!(answer.text().contains(words), "{}", answer.text());
    }
    let filter = ("filter", &b"<script>alert(2)</script>"[..]);
    let answer = browser
        .post("/d/sample/try", &[token, ("image", &photo), filter])
        .await;
    assert_eq!(answer.status, 400);
    assert!(!answer.text().contains("<script>") && answer.text().contains("&lt;script&gt;"));

    let found = matchpoint_client::Client::over(server.channel.clone());
    assert_eq!(found.audit_queue("", None, 10).await.unwrap(), []);
    server.stop().await;
}

#[tokio::test]
async fn a_key_becomes_a_session_that_may_what_the_key_may() {
    let folder = tempfile::tempdir().unwrap();
    let made = keys(folder.path(), &[("till", "search"), ("clerk", "enrol")]);
    let path = folder.path().join("keys.json");
    let settings = [CONSOLE, ("MATCHPOINT_KEYS_FILE", path.to_str().unwrap())];
    let server = Running::sample_of_stranger(&settings).await;
    let mut browser = Browser::at(server.console.unwrap());
    for closed in [
        "/",
        "/d/sample/try",
        "/d/sample/item/picture?id=x",
        "/nowhere",
    ] {
        let page = browser.get(closed).await;
        assert_eq!(
            (page.status, page.header("location")),
            (303, Some("/sign-in"))
        );
    }
    let wrong = browser.post("/sign-in", &[("key", b"mp_0")]).await;
    assert!(wrong.status == 401 && wrong.header("set-cookie").is_none());
    let unsigned = browser.post("/d/sample/try", &[]).await;
    assert_eq!(unsigned.header("location"), Some("/sign-in"));

    let entered = browser
        .post("/sign-in", &[("key", made[0].as_bytes())])
        .await;
    let cookie = entered.header("set-cookie").unwrap();
    for flag in [
        "; HttpOnly",
        "; SameSite=Strict",
        "; Path=/",
        "; Max-Age=43200",
    ] {
        assert!(cookie.contains(flag), "{cookie}");
    }
    assert!(!cookie.contains(&made[0]) && !cookie.contains("Secure"));
    let page = browser.when_ready("/d/sample/try").await;
    assert!(page.text().contains("<span>till</span>"), "{}", page.text());
    // The key searches, and sees nothing of the gallery.
    let picture = browser.get("/d/sample/item/picture?id=x").await;
    assert_eq!(picture.status, 403);

    let mut other = Browser::at(browser.address);
    other.post("/sign-in", &[("key", made[1].as_bytes())]).await;
    let gallery = other.get("/d/sample/gallery").await.text();
    assert!(gallery.contains("/d/sample/gallery") && !gallery.contains("/d/sample/try"));
    assert_eq!(other.get("/d/sample/try").await.status, 403);

    let token = page.token();
    let token = [("form_token", token.as_bytes())];
    browser.post("/sign-out", &token).await;
    browser.cookie = Some(cookie.split(';').next().unwrap().to_owned());
    let page = browser.get("/d/sample/try").await;
    assert_eq!(page.header("location"), Some("/sign-in"));

    // A revoked key ends its sessions.
    let revoke = [
        "keys",
        "revoke",
        "clerk",
        "--keys-file",
        path.to_str().unwrap(),
    ];
    assert!(run(&revoke).status.success());
    let began = Instant::now();
    while other.get("/").await.header("location") != Some("/sign-in") {
        assert!(began.elapsed().as_secs() < 10);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    server.stop().await;
}

#[tokio::test]
async fn a_form_is_taken_from_its_own_session_alone() {
    let folder = tempfile::tempdir().unwrap();
    let made = keys(folder.path(), &[("till", "search"), ("clerk", "search")]);
    let path = folder.path().join("keys.json");
    let settings = [CONSOLE, ("MATCHPOINT_KEYS_FILE", path.to_str().unwrap())];
    let server = Running::sample_of_stranger(&settings).await;
    let mut browser = Browser::at(server.console.unwrap());
    browser
        .post("/sign-in", &[("key", made[0].as_bytes())])
        .await;
    let page = browser.when_ready("/d/sample/try").await;
    let (photo, token) = (photo(), page.token());
    let forged = "0".repeat(token.len());
    for token in [&b""[..], forged.as_bytes()] {
        let fields = [("form_token", token), ("image", &photo[..])];
        let refused = browser.post("/d/sample/try", &fields).await;
        assert_eq!(refused.status, 403);
        assert!(refused.text().contains("another session"));
    }
    // One without a scope is not asked, though the form is the person's own.
    let fields = [("form_token", token.as_bytes()), ("id", b"x")];
    assert_eq!(
        browser
            .post("/d/sample/gallery/remove", &fields)
            .await
            .status,
        403
    );
    let fields = [("form_token", token.as_bytes()), ("image", &photo[..])];
    let mut other = Browser::at(browser.address);
    other.post("/sign-in", &[("key", made[1].as_bytes())]).await;
    assert_eq!(other.post("/d/sample/try", &fields).await.status, 403);
    assert_eq!(other.get("/d/sample/try").await.status, 200);
    let cross = "POST /d/sample/try HTTP/1.1\r\nSec-Fetch-Site: cross-site";
    assert_eq!(browser.send(cross, b"").await.status, 403);
    assert_eq!(browser.post("/d/sample/try", &fields).await.status, 200);

    server.stop().await;
}

#[tokio::test]
async fn names_of_other_sites_and_odd_requests_are_refused() {
    let small = ("MATCHPOINT_MESSAGE_BYTES_MAX", "1200000");
    let image = ("MATCHPOINT_IMAGE_BYTES_MAX", "1000000");
    let server = Running::sample(&[CONSOLE, small, image]).await;
    let mut browser = Browser::at(server.console.unwrap());
    let token = browser.get("/d/sample/try").await.token();
    // A page of another site that lets its name lead here (DNS rebinding).
    browser.host = "evil.example".to_owned();
    assert_eq!(browser.get("/d/sample/try").await.status, 421);
    browser.host = "localhost".to_owned();
    assert_eq!(browser.get("/d/sample/try").await.status, 200);
    assert_eq!(browser.send("DELETE / HTTP/1.1", b"").await.status, 405);
    assert_eq!(browser.get("/nowhere").await.status, 404);
    let hostile = browser.get("/d/%3Cscript%3E%1b/try").await;
    assert_eq!(hostile.status, 404);
    assert!(!hostile.text().contains("<script>") && !hostile.text().contains('\u{1b}'));
    assert_eq!(
        browser
            .send("POST /d/sample/try HTTP/1.1", b"x")
            .await
            .status,
        400
    );

    let large = vec![0; 1_300_000];
    let fields = [("form_token", token.as_bytes()), ("image", &large[..])];
    assert_eq!(browser.post("/d/sample/try", &fields).await.status, 413);
    // The image's own limit is that of the calls.
    let fields = [
        ("form_token", token.as_bytes()),
        ("image", &large[..1_100_000]),
    ];
    let refused = browser.post("/d/sample/try", &fields).await;
    assert!(
        refused.status == 400 && refused.text().contains("1000000"),
        "{}",
        refused.text()
    );
    server.stop().await;
}

/// What is as hostile as a name may be.
const HOSTILE: &str = "<script>alert(3)</script>\u{202e}&\"'";

fn is_harmless(page: &Page) -> bool {
    let text = page.text();
    !text.contains("<script>") && !text.contains('\u{202e}') && !text.contains('\u{1b}')
}

#[tokio::test]
async fn what_is_enrolled_is_shown_as_text_and_removed_by_its_form() {
    let server = Running::sample(&[CONSOLE]).await;
    let mut browser = Browser::at(server.console.unwrap());
    let token = browser.get("/d/sample/gallery/enrol").await.token();
    let token = ("form_token", token.as_bytes());
    let photo = photo();
    let enrol = "/d/sample/gallery/enrol";
    let named = [
        token,
        ("label", HOSTILE.as_bytes()),
        ("id", b"odd/<b>"),
        ("image", &photo[..]),
    ];
    let done = browser.post(enrol, &named).await;
    let said = done.text();
    assert!(done.status == 200 && is_harmless(&done), "{said}");
    // The photograph is enrolled under its own label already.
    assert!(
        said.contains("It looks like what is enrolled under another label"),
        "{said}"
    );
    let unnamed = browser.post(enrol, &[token, ("image", &photo)]).await;
    assert!(unnamed.status == 400 && unnamed.text().contains("Say what it is."));

    let item = "/d/sample/item?id=odd%2F%3Cb%3E";
    for page in [
        "/d/sample/gallery",
        "/d/sample/gallery?contains=ALERT",
        "/d/sample/gallery/doubts",
        item,
    ] {
        let found = browser.get(page).await;
        assert!(
            found.status == 200 && is_harmless(&found),
            "{}",
            found.text()
        );
        assert!(found.text().contains("&lt;script&gt;alert(3)"), "{page}");
    }
    let labels = browser.get("/d/sample/labels?contains=%3CSCRIPT").await;
    assert_eq!(labels.text().matches("<option").count(), 1);
    let narrow = browser
        .get("/d/sample/gallery?contains=nothing+like+it")
        .await;
    assert!(narrow.text().contains("No label has this in it."));
    let picture = browser.get("/d/sample/item/picture?id=odd%2F%3Cb%3E").await;
    let kind = picture.header("content-type").unwrap();
    assert!(kind == "image/svg+xml" || kind == "image/jpeg", "{kind}");
    assert!(picture.header("content-security-policy").is_some());

    let relabel = "/d/sample/gallery/relabel";
    let id = ("id", &b"odd/<b>"[..]);
    let (other, none) = (("label", &b"another"[..]), ("label", &b" "[..]));
    let seen = browser.get(item).await.text().to_owned();
    let (_, seen) = seen.split_once("name=\"etag\" value=\"").unwrap();
    let (etag, _) = seen.split_once('"').unwrap();
    let etag = ("etag", etag.as_bytes());
    assert_eq!(browser.post(relabel, &[id, other, etag]).await.status, 403);
    let asked = browser.post(relabel, &[token, id, none, etag]).await;
    assert!(asked.status == 400 && asked.text().contains("Say what it is."));
    let done = browser.post(relabel, &[token, id, other, etag]).await;
    assert!(done.status == 200 && done.text().contains("It has another label now."));
    let late = browser
        .post(relabel, &[token, id, ("label", b"late"), etag])
        .await;
    assert!(late.status == 409 && late.text().contains("look again"));

    let remove = "/d/sample/gallery/remove";
    assert_eq!(browser.post(remove, &[id]).await.status, 403);
    assert_eq!(browser.post(remove, &[token, id]).await.status, 303);
    assert_eq!(browser.post(remove, &[token, id]).await.status, 404);
    assert_eq!(browser.get(item).await.status, 404);
    server.stop().await;
}

fn searched(image: Vec<u8>) -> SearchRequest {
    SearchRequest {
        query: Some(search_request::Query::Image(image.into())),
        ..Default::default()
    }
}

/// A server with so many sampled decisions on one photograph, whose pictures are kept.
async fn sampled(count: usize) -> (Running, matchpoint_client::Client) {
    let rates = ("MATCHPOINT_AUDIT_SAMPLING_RATES", "1,1,1,1,1,1");
    let images = ("MATCHPOINT_AUDIT_IMAGES", "true");
    let server = Running::sample(&[CONSOLE, rates, images]).await;
    let client = matchpoint_client::Client::over(server.channel.clone());
    for _ in 0..count {
        client.search(searched(photo()), None).await.unwrap();
    }
    while client.audit_queue("", None, 10).await.unwrap().len() < count {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    (server, client)
}

const LABEL: &str = "/d/sample/label";

#[tokio::test]
async fn two_people_get_two_decisions_and_each_keeps_theirs() {
    let (server, _) = sampled(2).await;
    let mut one = Browser::at(server.console.unwrap());
    let page = one.get(LABEL).await;
    let (token, first) = (page.token(), page.field("decision"));
    let picture = format!("/d/sample/decision/{first}/picture");
    let picture = one.get(&picture).await;
    assert_eq!(picture.body, photo());
    assert_eq!(picture.header("content-type"), Some("image/jpeg"));
    let mut two = Browser::at(one.address);
    let other = two.get(LABEL).await.field("decision");
    assert_ne!(other, first);
    assert_eq!(one.get(LABEL).await.field("decision"), first);
    let mut three = Browser::at(one.address);
    let nothing = three.get(LABEL).await.text();
    assert!(nothing.contains("Nothing waits for you"), "{nothing}");
    // What one skips another gets.
    let skip = [
        ("form_token", token.as_bytes()),
        ("decision", first.as_bytes()),
        ("answer", b"skip"),
    ];
    assert_eq!(one.post(LABEL, &skip).await.status, 303);
    assert_eq!(three.get(LABEL).await.field("decision"), first);
    server.stop().await;
}

#[tokio::test]
async fn an_answer_is_taken_down_corrected_or_refused_with_the_reason() {
    let (server, client) = sampled(2).await;
    let mut one = Browser::at(server.console.unwrap());
    let page = one.get(LABEL).await;
    let (token, first) = (page.token(), page.field("decision"));
    let say = |id: &str, answer: &str, name: (&'static str, &str)| {
        let fields = [
            ("form_token", token.as_str()),
            ("decision", id),
            ("answer", answer),
            name,
        ];
        fields.map(|(name, value)| (name.to_owned(), value.as_bytes().to_vec()))
    };
    for (answer, label, words) in [
        ("other", HOSTILE, "&lt;script&gt;"),
        ("other", "", "Say which label it is."),
        ("", "", "Say what the picture shows."),
    ] {
        let refused = one.say(&say(&first, answer, ("label", label))).await;
        assert!(refused.status == 400 && is_harmless(&refused));
        assert!(refused.text().contains(words), "{}", refused.text());
        assert_eq!(refused.field("decision"), first);
    }
    let same = one.say(&say(&first, "same", ("label", ""))).await;
    assert_eq!(same.header("location"), Some(LABEL));
    let next = one.get(LABEL).await;
    let second = next.field("decision");
    let back = format!("{LABEL}?decision={}", first.replace('-', "%2D"));
    assert!(second != first && next.text().contains(&back));
    let back = one.get(&back).await.text();
    let label = "Labelled as <b>gc_explore_monuments_egypt_meidumPyramid</b>";
    assert!(back.contains(label), "{back}");
    for id in [&second, &first] {
        let named = one.say(&say(id, "stranger", ("stranger", HOSTILE))).await;
        assert_eq!(named.status, 303);
        let page = one.get(&format!("{LABEL}?decision={id}")).await;
        assert!(is_harmless(&page) && page.text().contains("not enrolled: &lt;script&gt;"));
    }
    assert_eq!(client.audit_queue("", None, 10).await.unwrap(), []);
    let promise = one.get("/d/sample/promise").await;
    let said = promise.text();
    assert!(
        promise.status == 200 && said.contains("sampled decisions are labelled"),
        "{said}"
    );
    let said = one.say(&say(&second, "unusable", ("label", ""))).await;
    assert_eq!(said.status, 303);
    let page = one.get(LABEL).await.text();
    assert!(
        page.contains(", <b>1</b> show what nobody can tell"),
        "{page}"
    );
    server.stop().await;
}

#[tokio::test]
async fn an_operating_point_is_chosen_with_a_reason() {
    let server = Running::sample(&[CONSOLE]).await;
    let mut browser = Browser::at(server.console.unwrap());
    let page = browser.get("/d/sample/points").await;
    let text = page.text();
    assert!(
        text.contains("decides</span>") && text.contains("op-"),
        "{text}"
    );
    let id = text
        .split("<code>")
        .nth(1)
        .unwrap()
        .split('<')
        .next()
        .unwrap();
    let one = browser.get(&format!("/d/sample/points/{id}")).await;
    let said = one.text();
    assert!(said.contains("This one decides."), "{said}");
    assert!(said.contains("Today FAR is promised, at most "), "{said}");
    let report = browser.get(&format!("/d/sample/points/{id}/report")).await;
    assert_eq!(report.status, 200, "{}", report.text());
    let policy = report.header("content-security-policy").unwrap();
    assert!(policy.starts_with("default-src 'none'; img-src data:; style-src 'unsafe-inline'"));
    assert!(report.text().contains("Calibration report") && report.text().contains(id));
    let (token, etag) = (page.token(), page.field("etag"));
    let token = ("form_token", token.as_bytes());
    let (etag, stale) = (("etag", etag.as_bytes()), ("etag", &b"0"[..]));
    let (id, reason) = (("id", id.as_bytes()), ("reason", &b"a test"[..]));
    let activate = "/d/sample/points/activate";
    for (fields, status) in [
        (vec![token, id, etag], 400),
        (vec![id, etag, reason], 403),
        (vec![token, id, stale, reason], 409),
        (vec![token, ("id", b"op-0"), etag, reason], 404),
        (vec![token, id, etag, reason], 303),
    ] {
        let answer = browser.post(activate, &fields).await;
        assert_eq!(answer.status, status, "{}", answer.text());
    }
    let back = browser
        .post("/d/sample/points/roll-back", &[token, reason])
        .await;
    assert_eq!(back.status, 409, "{}", back.text());
    server.stop().await;
}

#[tokio::test]
async fn what_would_be_decided_otherwise_is_shown_with_the_pictures_that_are_kept() {
    let rates = ("MATCHPOINT_AUDIT_SAMPLING_RATES", "1,1,1,1,1,1");
    let images = ("MATCHPOINT_AUDIT_IMAGES", "true");
    let server = Running::sample(&[CONSOLE, rates, images]).await;
    let client = matchpoint_client::Client::over(server.channel.clone());
    let mut browser = Browser::at(server.console.unwrap());
    calibrated(&mut browser, "40", "decide", &strangers(24)).await;
    let points = client.operating_points("").await.unwrap();
    let mut points = points.operating_points.into_iter();
    let strict = points.next().unwrap();
    assert!(points.next().unwrap().threshold < strict.threshold);
    let mut otherwise = 0;
    let list = fs::read_to_string(photos().join("evaluate.csv")).unwrap();
    for row in list.lines().skip(1).take(40) {
        let image = fs::read(photos().join(row.split(',').next().unwrap())).unwrap();
        let found = client.search(searched(image), None).await.unwrap();
        let then = strict.threshold <= found.matches[0].score;
        otherwise += usize::from(then != (found.decision() == Decision::Accept));
    }
    assert!(0 < otherwise);
    while client.audit_queue("", None, 40).await.unwrap().len() < 40 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let page = browser
        .get(&format!("/d/sample/points/{}", strict.id))
        .await;
    let said = page.text();
    let words = format!("<b>{otherwise}</b> would be decided otherwise");
    assert!(
        said.contains("In service") && said.contains(&words),
        "{said}"
    );
    let pictures = said.matches("/thumbnail\"").count();
    assert_eq!(pictures, otherwise, "{said}");
    let small = said
        .split("src=\"")
        .find(|part| part.contains("/thumbnail\""));
    let small = browser.get(small.unwrap().split('"').next().unwrap()).await;
    assert_eq!(small.header("content-type"), Some("image/jpeg"));
    let gone = "/d/sample/decision/0199f0aa-7c1b-7e0e-8d63-0f2a9c1d4e5f/thumbnail";
    let gone = browser.get(gone).await;
    assert_eq!(gone.header("content-type"), Some("image/svg+xml"));
    server.stop().await;
}

/// One photograph of each of so many strangers, by the path of a picked folder.
fn strangers(count: usize) -> Vec<(String, Vec<u8>)> {
    let list = fs::read_to_string(photos().join("calibrate.csv")).unwrap();
    let mut labels = std::collections::BTreeSet::new();
    let rows = list.lines().filter(|row| row.contains(",unknown,"));
    let rows = rows.filter(|row| labels.insert(row.split(',').nth(1).unwrap().to_owned()));
    let files = rows.take(count).map(|row| {
        let path = row.split(',').next().unwrap();
        let picked = path.replacen("images/", "mine/", 1);
        (picked, fs::read(photos().join(path)).unwrap())
    });
    files.collect()
}

/// Asks for a FAR in percent with these pictures, and waits for what it came to.
async fn calibrated(
    browser: &mut Browser,
    far: &str,
    then: &str,
    files: &[(String, Vec<u8>)],
) -> String {
    let token = browser.get("/d/sample/calibrate").await.token();
    let mut fields: Vec<(&str, &str, &[u8])> = vec![
        ("form_token", "", token.as_bytes()),
        ("far", "", far.as_bytes()),
        ("confidence", "", b"0.9"),
        ("then", "", then.as_bytes()),
    ];
    let files = files.iter().map(|(path, bytes)| {
        let field = if path == "list.csv" { "list" } else { "folder" };
        (field, path.as_str(), bytes.as_slice())
    });
    fields.extend(files);
    let begun = browser.post_files("/d/sample/calibrate", &fields).await;
    if begun.status != 303 {
        return begun.text();
    }
    let course = begun.header("location").unwrap().to_owned();
    loop {
        let page = browser.get(&course).await;
        assert_eq!(page.status, 200, "{}", page.text());
        if page.header("refresh").is_none() {
            let mut stranger = Browser::at(browser.address);
            // Without keys each browser has a session of its own.
            assert_eq!(stranger.get(&course).await.status, 404);
            return page.text();
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn a_folder_of_pictures_calibrates_or_is_refused_with_what_it_takes() {
    let server = Running::sample(&[CONSOLE]).await;
    let mut browser = Browser::at(server.console.unwrap());
    let mut files = strangers(8);
    files.push(("mine/notes.txt".to_owned(), b"no picture".to_vec()));
    let before = browser.get("/d/sample/points").await.text();
    let refused = calibrated(&mut browser, "1", "decide", &files).await;
    assert!(
        refused.contains("Refused: nothing was changed") && refused.contains("<b>230</b>"),
        "{refused}"
    );
    let looked = calibrated(&mut browser, "30", "look", &files).await;
    assert!(
        looked.contains("nothing was changed") && looked.contains("at most 30 %"),
        "{looked}"
    );
    assert!(
        looked.contains("1 file</b>") && looked.contains("<code>mine/notes.txt</code>"),
        "{looked}"
    );
    let points = |text: &str| text.matches("<th scope=\"row\">").count();
    let after = browser.get("/d/sample/points").await.text();
    assert_eq!(points(&after), points(&before));
    let decided = calibrated(&mut browser, "30", "decide", &files).await;
    assert!(decided.contains("It decides now"), "{decided}");
    let after = browser.get("/d/sample/points").await.text();
    assert_eq!(points(&after), points(&before) + 1);
    for (far, said) in [
        ("much", "Say how many of a hundred"),
        ("70", "target FAR 0.7 is outside"),
    ] {
        let problem = calibrated(&mut browser, far, "look", &files).await;
        assert!(problem.contains(said), "{problem}");
    }
    let bare = [("mine/<b>.jpg".to_owned(), photo())];
    let problem = calibrated(&mut browser, "30", "look", &bare).await;
    assert!(
        problem.contains("mine/&lt;b&gt;.jpg lies in no folder"),
        "{problem}"
    );
    server.stop().await;
}

#[tokio::test]
async fn a_list_of_labels_calibrates_and_is_held_against_what_is_enrolled() {
    let server = Running::sample(&[CONSOLE]).await;
    let mut browser = Browser::at(server.console.unwrap());
    let files = strangers(8);
    // Nothing of it is in the names of folders.
    let flat = files.iter().enumerate().map(|(number, (_, bytes))| {
        let path = format!("mine/{number}.jpg");
        (path, bytes.clone())
    });
    let flat: Vec<(String, Vec<u8>)> = flat.collect();
    let list = |role: &str| {
        let rows = (0..8).map(|number| format!("{number}.jpg,stranger {number},{role},front\n"));
        let text = format!("path,label,role,camera\n{}", rows.collect::<String>());
        [&flat[..], &[("list.csv".to_owned(), text.into_bytes())]].concat()
    };
    let looked = calibrated(&mut browser, "30", "look", &list("unknown")).await;
    assert!(looked.contains("8 labels of strangers"), "{looked}");
    let problem = calibrated(&mut browser, "30", "look", &list("query")).await;
    assert!(
        problem.contains("`stranger 0` has the role query in the list, and is not enrolled"),
        "{problem}"
    );
    server.stop().await;
}
