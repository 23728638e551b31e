//! Who may call, and what: keys, scopes, certificates, and what is never shown.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a test fails by panicking, and says what it has measured"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::common::random::Random;
use crate::common::raw::calls;
use crate::common::{ROOT, Running, config, copy_of_sample, matchpoint, patience, run, text};
use matchpoint::config::AccessConfig;
use matchpoint::identity::{CallerAccess, KeysFile, NewCaller, Presents, Scope};
use matchpoint::server;
use matchpoint_client::Client;
use matchpoint_client::proto::calibration_service_client::CalibrationServiceClient;
use matchpoint_client::proto::gallery_service_client::GalleryServiceClient;
use matchpoint_client::proto::longrunning::operation;
use matchpoint_client::proto::operating_point_service_client::OperatingPointServiceClient;
use matchpoint_client::proto::retrieval_service_client::RetrievalServiceClient;
use matchpoint_client::proto::server_service_client::ServerServiceClient;
use matchpoint_client::proto::{
    ActivateOperatingPointRequest, CalibrateRequest, CalibrationSettings, DeleteItemRequest,
    GetServerInfoRequest, LabelledQuery, ListItemsRequest, ListOperatingPointsRequest,
    SearchRequest, SearchStreamRequest, Vector, calibrate_request, calibration_settings,
    search_request, search_stream_response,
};
use prost::Message as _;
use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_stream::StreamExt;
use tonic::codegen::http;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};
use tonic_types::StatusExt;
use tower::ServiceExt;

/// Longer than a change of a file takes to be noticed.
const NOTICED: Duration = Duration::from_secs(10);

/// A file of keys, changed as an operator does.
struct KeysAt(tempfile::TempDir);

impl KeysAt {
    fn new() -> Self {
        Self(tempfile::TempDir::new().unwrap())
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("keys.json")
    }

    fn command(&self, arguments: &[&str]) -> serde_json::Value {
        let path = self.path();
        let common = ["--json", "--keys-file", path.to_str().unwrap()];
        let done = run(&[&["keys"], arguments, &common].concat());
        assert!(done.status.success(), "{}", text(&done.stderr));
        serde_json::from_slice(&done.stdout).unwrap()
    }

    /// A new key with these scopes, for these deployments.
    fn make(&self, name: &str, scopes: &str, deployments: &[&str]) -> String {
        let deployments = deployments.iter().flat_map(|name| ["--deployments", name]);
        let arguments: Vec<&str> = ["new", name, "--scopes", scopes]
            .into_iter()
            .chain(deployments)
            .collect();
        self.command(&arguments)["key"].as_str().unwrap().to_owned()
    }
}

fn with_key<T>(message: T, key: &str) -> Request<T> {
    let mut request = Request::new(message);
    let value = format!("Bearer {key}").parse().unwrap();
    request.metadata_mut().insert("authorization", value);
    request
}

fn reason(status: &Status) -> String {
    let info = status.get_details_error_info();
    info.map(|info| info.reason).unwrap_or_default()
}

/// Makes a call with one empty message, and gives the code and the reason of its answer.
async fn called(channel: &Channel, path: &str, authorization: Option<&str>) -> (Code, String) {
    let mut client = tonic::client::Grpc::new(channel.clone());
    client.ready().await.unwrap();
    let mut request = Request::new(tokio_stream::once(()));
    if let Some(value) = authorization {
        let value = value.parse().unwrap();
        request.metadata_mut().insert("authorization", value);
    }
    let codec = tonic_prost::ProstCodec::<(), ()>::default();
    let path = path.parse().unwrap();
    let answered = async {
        let answer = client.streaming(request, path, codec).await?;
        answer.into_inner().message().await.map(drop)
    };
    let answered = tokio::time::timeout(Duration::from_secs(20), answered);
    match answered.await.unwrap() {
        Ok(()) => (Code::Ok, String::new()),
        Err(status) => (status.code(), reason(&status)),
    }
}

/// What the manual says that each scope may call.
fn documented() -> BTreeMap<String, BTreeSet<String>> {
    let text = fs::read_to_string(Path::new(ROOT).join("docs/security.md")).unwrap();
    let (_, table) = text.split_once("| scope | may call |").unwrap();
    let mut scopes = BTreeMap::new();
    for line in table
        .lines()
        .skip(2)
        .take_while(|line| line.starts_with('|'))
    {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let names = cells[2].split('`').skip(1).step_by(2);
        let methods: BTreeSet<String> = names.map(ToOwned::to_owned).collect();
        scopes.insert(cells[1].trim_matches('`').to_owned(), methods);
    }
    scopes
}

#[tokio::test]
async fn every_call_takes_a_key_with_the_scope_that_the_manual_says() {
    let keys = KeysAt::new();
    let all = keys.make("all", "all", &[]);
    let gone = keys.make("gone", "all", &[]);
    keys.command(&["revoke", "gone"]);
    let documented = documented();
    let own: BTreeMap<&str, String> = ["search", "enrol", "label", "calibrate", "admin"]
        .into_iter()
        .map(|scope| (scope, keys.make(scope, scope, &[])))
        .collect();
    let elsewhere = keys.make("elsewhere", "all", &["elsewhere"]);
    let path = keys.path();
    let running = Running::sample(&[("MATCHPOINT_KEYS_FILE", path.to_str().unwrap())]).await;
    let channel = &running.channel;

    let denied = |code, reason: &str| (code, reason.to_owned());
    let missing = denied(Code::Unauthenticated, "KEY_MISSING");
    let unknown = denied(Code::Unauthenticated, "KEY_UNKNOWN");
    for call in calls() {
        let method = call.rsplit('/').next().unwrap();
        assert_eq!(called(channel, &call, None).await, missing, "{call}");
        for malformed in ["", "Basic YTpi", &all, "Bearer"] {
            let answer = called(channel, &call, Some(malformed)).await;
            assert_eq!(answer, missing, "{call}: {malformed}");
        }
        for wrong in [
            "mp_",
            "x",
            &gone,
            &all[..all.len() - 1],
            &all.to_uppercase(),
        ] {
            let answer = called(channel, &call, Some(&format!("Bearer {wrong}"))).await;
            assert_eq!(answer, unknown, "{call}: {wrong}");
        }
        for (scope, key) in &own {
            let answer = called(channel, &call, Some(&format!("Bearer {key}"))).await;
            let may = documented["any key"].contains(method) || documented[*scope].contains(method);
            let is_refused = answer == denied(Code::PermissionDenied, "SCOPE_MISSING");
            assert_eq!(!is_refused, may, "{call}: {scope}: {answer:?}");
        }
        let answer = called(channel, &call, Some(&format!("Bearer {all}"))).await;
        let refused = [Code::Unauthenticated, Code::PermissionDenied];
        assert!(!refused.contains(&answer.0), "{call}: {answer:?}");
        // All scopes, and no deployment that is served: what is not refused gives nothing away.
        let answer = called(channel, &call, Some(&format!("Bearer {elsewhere}"))).await;
        let harmless = [
            "GetServerInfo",
            "ListOperations",
            // Refused for what they were sent, before a deployment is looked for.
            "Calibrate",
            "GetOperation",
            "WaitOperation",
            "CancelOperation",
            "DeleteOperation",
            // Refused in the answers of their items.
            "SearchStream",
            "UpsertItemStream",
            "DeleteItemStream",
            "BatchUpsertItems",
            "BatchDeleteItems",
        ];
        if !harmless.contains(&method) {
            let wanted = denied(Code::PermissionDenied, "DEPLOYMENT_DENIED");
            assert_eq!(answer, wanted, "{call}");
        }
    }
    running.stop().await;
}

#[tokio::test]
async fn health_is_open_and_reflection_takes_any_key() {
    let keys = KeysAt::new();
    let key = format!("Bearer {}", keys.make("label", "label", &[]));
    let path = keys.path();
    let running = Running::sample(&[("MATCHPOINT_KEYS_FILE", path.to_str().unwrap())]).await;
    let channel = &running.channel;
    let missing = (Code::Unauthenticated, "KEY_MISSING".to_owned());
    for open in [
        "/grpc.health.v1.Health/Check",
        "/grpc.health.v1.Health/Watch",
    ] {
        assert_eq!(called(channel, open, None).await.0, Code::Ok, "{open}");
    }
    let reflection = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";
    assert_eq!(called(channel, reflection, None).await, missing);
    let answer = called(channel, reflection, Some(&key)).await;
    // It was asked nothing, and says so.
    assert_eq!(answer.0, Code::InvalidArgument, "{answer:?}");
    for nowhere in ["/matchpoint.v1.RetrievalService/Find", "/x/y"] {
        let answer = called(channel, nowhere, Some(&key)).await;
        assert_eq!(answer.0, Code::Unimplemented, "{nowhere}");
    }
    running.stop().await;
}

#[tokio::test]
async fn a_key_for_some_deployments_sees_no_other() {
    let keys = KeysAt::new();
    let (_one, first) = copy_of_sample();
    let (_two, second) = copy_of_sample();
    let settings = [("MATCHPOINT_KEYS_FILE", keys.path())];
    let settings = settings
        .each_ref()
        .map(|(name, path)| (*name, path.to_str().unwrap()));
    let ours = keys.make("ours", "search,enrol,calibrate,admin", &["second"]);
    let mut config = config(&first, &settings);
    config.deployments = vec![
        (Some("first".to_owned()), first),
        (Some("second".to_owned()), second),
    ];
    let loading = config.clone();
    let running = Running::start_loading(config, move || server::load(&loading)).await;
    let waiting = Client::over(running.channel.clone());
    waiting.wait_until_ready().await.unwrap();
    let mut gallery = GalleryServiceClient::new(running.channel.clone());
    let list = |deployment: &str| ListItemsRequest {
        deployment: deployment.to_owned(),
        ..ListItemsRequest::default()
    };
    let found = gallery.list_items(with_key(list("second"), &ours)).await;
    assert_eq!(found.unwrap().get_ref().total_items, 36);
    let mut messages = BTreeSet::new();
    for other in ["first", "third", "second.restoring"] {
        let refused = gallery.list_items(with_key(list(other), &ours)).await;
        let refused = refused.unwrap_err();
        assert_eq!(reason(&refused), "DEPLOYMENT_DENIED", "{other}");
        messages.insert(refused.message().to_owned());
    }
    // Whether there is one cannot be told.
    assert_eq!(messages.len(), 1);
    let unnamed = gallery.list_items(with_key(list(""), &ours)).await;
    let unnamed = unnamed.unwrap_err();
    assert!(!unnamed.message().contains("first"), "{unnamed}");
    let mut server = ServerServiceClient::new(running.channel.clone());
    let info = server.get_server_info(with_key(GetServerInfoRequest {}, &ours));
    let deployments = info.await.unwrap().into_inner().deployments;
    let names: Vec<&str> = deployments.iter().map(|one| one.name.as_str()).collect();
    assert_eq!(names, ["second"]);
    let mut retrieval = RetrievalServiceClient::new(running.channel.clone());
    let search = SearchRequest {
        deployment: "first".to_owned(),
        ..SearchRequest::default()
    };
    let items = ["first", "second"].map(|deployment| SearchStreamRequest {
        request_id: deployment.to_owned(),
        search: Some(SearchRequest {
            deployment: deployment.to_owned(),
            ..search.clone()
        }),
    });
    let stream = with_key(tokio_stream::iter(items), &ours);
    let answers = retrieval.search_stream(stream).await.unwrap().into_inner();
    let answers: Vec<_> = answers.collect::<Result<_, _>>().await.unwrap();
    let code = |id: &str| {
        let answer = answers.iter().find(|answer| answer.request_id == id);
        let Some(search_stream_response::Outcome::Error(status)) = &answer.unwrap().outcome else {
            return Code::Ok;
        };
        Code::from(status.code)
    };
    assert_eq!(code("first"), Code::PermissionDenied);
    assert_eq!(code("second"), Code::InvalidArgument);
    running.stop().await;
}

#[tokio::test]
async fn keys_are_taken_and_revoked_while_the_server_runs_also_within_a_stream() {
    let keys = KeysAt::new();
    let old = keys.make("till", "search", &[]);
    let path = keys.path();
    let running = Running::sample(&[("MATCHPOINT_KEYS_FILE", path.to_str().unwrap())]).await;
    let (items, sent) = tokio::sync::mpsc::channel(1);
    let sent = tokio_stream::wrappers::ReceiverStream::new(sent);
    let mut retrieval = RetrievalServiceClient::new(running.channel.clone());
    let mut answers = retrieval
        .search_stream(with_key(sent, &old))
        .await
        .unwrap()
        .into_inner();
    let embedding = Vector {
        values: vec![0.03; 1280],
    };
    let search = SearchRequest {
        query: Some(search_request::Query::Embedding(embedding)),
        ..SearchRequest::default()
    };
    let mut streamed = async || {
        let item = SearchStreamRequest {
            request_id: "1".to_owned(),
            search: Some(search.clone()),
        };
        items.send(item).await.unwrap();
        let answer = answers.message().await.unwrap().unwrap();
        match answer.outcome.unwrap() {
            search_stream_response::Outcome::Result(_) => Code::Ok,
            search_stream_response::Outcome::Error(status) => Code::from(status.code),
        }
    };
    assert_eq!(streamed().await, Code::Ok);

    // Rolled: a new key of the same name, then the old one goes.
    let new = keys.make("till", "search", &[]);
    let mut by = async |key: &str| match retrieval.search(with_key(search.clone(), key)).await {
        Ok(_) => Code::Ok,
        Err(status) => status.code(),
    };
    let since = Instant::now();
    while by(&new).await != Code::Ok {
        assert!(since.elapsed() < NOTICED);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(by(&old).await, Code::Ok);
    // What cannot be read changes nothing.
    let right = fs::read(&path).unwrap();
    fs::write(&path, "{").unwrap();
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!((by(&old).await, by(&new).await), (Code::Ok, Code::Ok));
    fs::write(&path, right).unwrap();
    let listed = keys.command(&["list"]);
    keys.command(&["revoke", listed[0]["id"].as_str().unwrap()]);
    let since = Instant::now();
    while by(&old).await == Code::Ok {
        assert!(since.elapsed() < NOTICED);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(by(&old).await, Code::Unauthenticated);
    assert_eq!(by(&new).await, Code::Ok);
    assert_eq!(streamed().await, Code::Unauthenticated);
    drop(items);
    running.stop().await;
}

#[tokio::test]
async fn a_calibration_ends_with_the_key_that_began_it() {
    let keys = KeysAt::new();
    let key = keys.make("engineer", "calibrate,search", &[]);
    let path = keys.path();
    let running = Running::sample(&[("MATCHPOINT_KEYS_FILE", path.to_str().unwrap())]).await;
    let (queries, incoming) = tokio::sync::mpsc::channel(1);
    let incoming = tokio_stream::wrappers::ReceiverStream::new(incoming);
    let send = |part| queries.send(CalibrateRequest { part: Some(part) });
    let settings = calibrate_request::Part::Settings(CalibrationSettings {
        target: Some(calibration_settings::Target::TargetFar(0.2)),
        ..CalibrationSettings::default()
    });
    let mut calibration = CalibrationServiceClient::new(running.channel.clone());
    let request = with_key(incoming, &key);
    let call = tokio::spawn(async move { calibration.calibrate(request).await });
    send(settings).await.unwrap();

    keys.command(&["revoke", "engineer"]);
    let mut server = ServerServiceClient::new(running.channel.clone());
    let since = Instant::now();
    let mut known = async || {
        let request = with_key(GetServerInfoRequest::default(), &key);
        server.get_server_info(request).await.is_ok()
    };
    while known().await {
        assert!(since.elapsed() < NOTICED);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // Whatever it holds: it is not looked at.
    drop(send(calibrate_request::Part::Query(LabelledQuery::default())).await);
    drop(queries);
    let ended = call.await.unwrap().unwrap().into_inner();
    let Some(operation::Result::Error(error)) = ended.result else {
        panic!("{ended:?}");
    };
    assert_eq!(Code::from(error.code), Code::Unauthenticated, "{error:?}");
    running.stop().await;
}

#[tokio::test]
async fn a_key_makes_no_more_calls_than_it_may_and_none_after_its_time() {
    let keys = KeysAt::new();
    let flags = ["--scopes", "search"];
    let make = |name: &str, more: &[&str]| {
        let made = keys.command(&[&["new", name][..], &flags, more].concat());
        made["key"].as_str().unwrap().to_owned()
    };
    let slow = make("slow", &["--calls-per-second", "1"]);
    let free = make("free", &[]);
    let brief = make("brief", &["--expires", "3s"]);
    let path = keys.path();
    let running = Running::sample(&[("MATCHPOINT_KEYS_FILE", path.to_str().unwrap())]).await;
    let mut retrieval = RetrievalServiceClient::new(running.channel.clone());
    let embedding = Vector {
        values: vec![0.03; 1280],
    };
    let search = SearchRequest {
        query: Some(search_request::Query::Embedding(embedding)),
        ..SearchRequest::default()
    };
    let mut by = async |key: &str| retrieval.search(with_key(search.clone(), key)).await;

    let mut refused = None;
    // As fast as they go: more than one a second, on any machine.
    let since = Instant::now();
    let mut answered = 0;
    while refused.is_none() {
        assert!(since.elapsed() < NOTICED);
        match by(&slow).await {
            Ok(_) => answered += 1,
            Err(status) => refused = Some(status),
        }
    }
    let refused = refused.unwrap();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert_eq!(reason(&refused), "CALLS_PER_SECOND");
    let after = refused
        .get_details_retry_info()
        .unwrap()
        .retry_delay
        .unwrap();
    assert!(after <= Duration::from_secs(1) && 1 <= answered);
    // Nobody else waits for that.
    for _ in 0..5 {
        by(&free).await.unwrap();
    }

    let since = Instant::now();
    let ended = loop {
        match by(&brief).await {
            Ok(_) => assert!(since.elapsed() < NOTICED),
            Err(status) => break status,
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    assert_eq!(ended.code(), Code::Unauthenticated);
    assert_eq!(reason(&ended), "KEY_EXPIRED");
    running.stop().await;

    let path = ["--keys-file", path.to_str().unwrap()];
    for over in ["2020-01-01", "0s", "soon"] {
        let arguments = [
            &["keys", "new", "late"][..],
            &flags,
            &["--expires", over],
            &path,
        ];
        let done = run(&arguments.concat());
        assert_eq!(done.status.code(), Some(2), "{over}");
    }
    let listed = run(&[&["keys", "list"][..], &path].concat());
    let listed = text(&listed.stdout);
    assert!(
        listed.contains("EXPIRED 20") && listed.contains("1 calls a second"),
        "{listed}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_guesses_keys_keeps_no_honest_caller_from_its_answers() {
    let keys = KeysAt::new();
    let key = keys.make("till", "search", &[]);
    let path = keys.path();
    let running = Running::sample(&[("MATCHPOINT_KEYS_FILE", path.to_str().unwrap())]).await;
    let guessing = (0..8).map(|_| {
        let url = format!("http://{}", running.address);
        let channel = Channel::from_shared(url).unwrap().connect_lazy();
        tokio::spawn(async move {
            for number in 0..250 {
                let mut retrieval = RetrievalServiceClient::new(channel.clone());
                let guess = format!("mp_{number:064}");
                let refused = retrieval.search(with_key(SearchRequest::default(), &guess));
                assert_eq!(refused.await.unwrap_err().code(), Code::Unauthenticated);
            }
        })
    });
    let guessing: Vec<_> = guessing.collect();
    let search = SearchRequest {
        query: Some(search_request::Query::Embedding(Vector {
            values: vec![0.03; 1280],
        })),
        ..SearchRequest::default()
    };
    let mut retrieval = RetrievalServiceClient::new(running.channel.clone());
    let mut answered = 0;
    while answered < 20 || !guessing.iter().all(tokio::task::JoinHandle::is_finished) {
        let answer = retrieval.search(with_key(search.clone(), &key)).await;
        answer.unwrap();
        answered += 1;
    }
    for one in guessing {
        one.await.unwrap();
    }
    running.stop().await;
}

#[tokio::test]
async fn what_is_no_grpc_is_refused_before_anything_is_done() {
    let running = Running::sample(&[]).await;
    let mut gallery = GalleryServiceClient::new(running.channel.clone());
    let all = ListItemsRequest::default();
    let items = gallery.list_items(all.clone()).await.unwrap().into_inner();
    let id = items.items[0].id.clone();
    let delete = DeleteItemRequest {
        id: id.clone(),
        ..DeleteItemRequest::default()
    };
    let message = delete.encode_to_vec();
    let length = u32::try_from(message.len()).unwrap().to_be_bytes();
    let framed = [&[0][..], &length, &message].concat();
    let ask = async |content_type: Option<&str>| {
        let mut request = http::Request::post("/matchpoint.v1.GalleryService/DeleteItem");
        if let Some(value) = content_type {
            request = request.header("content-type", value);
        }
        let body = tonic::body::Body::new(http_body_util::Full::new(bytes::Bytes::from(
            framed.clone(),
        )));
        let request = request.body(body).unwrap();
        let answer = running.channel.clone().oneshot(request).await.unwrap();
        answer.status().as_u16()
    };
    for forged in [
        None,
        Some("text/plain"),
        Some("multipart/form-data"),
        Some("application/x-www-form-urlencoded"),
        Some("application/json"),
        Some("application/grpc-web+proto"),
    ] {
        assert_eq!(ask(forged).await, 415, "{forged:?}");
    }
    let still = gallery.list_items(all).await.unwrap().into_inner();
    assert_eq!(still.total_items, items.total_items);
    assert_eq!(ask(Some("application/grpc+proto")).await, 200);
    running.stop().await;
}

/// A server as its own process, whose log is kept.
pub(crate) struct Logged {
    child: std::process::Child,
    log: PathBuf,
    metrics: String,
    pub(crate) channel: Channel,
}

impl Logged {
    pub(crate) async fn start(deployment: &Path, log: PathBuf, flags: &[&str]) -> Self {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let metrics = free.local_addr().unwrap().to_string();
        drop(free);
        let child = matchpoint(&["serve", "--deployments", deployment.to_str().unwrap()])
            .args(["--listen", "127.0.0.1:0", "--metrics-listen", &metrics])
            .args(["--log-format", "json"])
            .args(flags)
            .stderr(Stdio::from(File::create(&log).unwrap()))
            .spawn()
            .unwrap();
        let since = Instant::now();
        let address = loop {
            assert!(since.elapsed() < Duration::from_secs(60));
            tokio::time::sleep(Duration::from_millis(50)).await;
            let lines = lines_of(&log);
            let said = |message: &str| {
                let has = |line: &&serde_json::Value| line["message"] == message;
                lines.iter().find(has).cloned()
            };
            if let (Some(line), Some(_)) = (said("listening"), said("ready")) {
                break line["address"].as_str().unwrap().to_owned();
            }
        };
        let url = format!("http://{address}");
        let channel = Channel::from_shared(url).unwrap().connect().await.unwrap();
        Self {
            child,
            log,
            metrics,
            channel,
        }
    }

    async fn get(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(&self.metrics).await.unwrap();
        let ask = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(ask.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }
}

impl Drop for Logged {
    fn drop(&mut self) {
        self.child.kill().unwrap_or_default();
        self.child.wait().map(drop).unwrap_or_default();
    }
}

pub(crate) fn lines_of(log: &Path) -> Vec<serde_json::Value> {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines = text
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok());
    lines.collect()
}

/// Activates the operating point, and deletes an item: gives their ids.
async fn change(channel: &Channel, key: &str) -> (String, String) {
    let mut points = OperatingPointServiceClient::new(channel.clone());
    let list = with_key(ListOperatingPointsRequest::default(), key);
    let listed = points.list_operating_points(list).await.unwrap();
    let id = listed.into_inner().operating_points[0].id.clone();
    let activate = ActivateOperatingPointRequest {
        id: id.clone(),
        ..ActivateOperatingPointRequest::default()
    };
    let activated = points.activate_operating_point(with_key(activate, key));
    activated.await.unwrap();
    let mut gallery = GalleryServiceClient::new(channel.clone());
    let items = with_key(ListItemsRequest::default(), key);
    let items = gallery.list_items(items).await.unwrap().into_inner();
    let item = items.items[0].id.clone();
    let delete = DeleteItemRequest {
        id: item.clone(),
        ..DeleteItemRequest::default()
    };
    gallery.delete_item(with_key(delete, key)).await.unwrap();
    (id, item)
}

/// Sends what is refused, with something in it that must be seen nowhere: gives what is answered.
async fn be_refused(channel: &Channel, key: &str) -> String {
    let with = |query| SearchRequest {
        query: Some(query),
        ..SearchRequest::default()
    };
    let image = search_request::Query::Image(b"canary of an image"[..].into());
    let values = vec![0.123_456_79; 3];
    let embedding = search_request::Query::Embedding(Vector { values });
    let mut sent = vec![
        (SearchRequest::default(), "canary with blanks".to_owned()),
        (with(image), key.to_owned()),
        (with(embedding), key.to_owned()),
    ];
    // Guessing costs the one who guesses, and the log stays as it is.
    let guesses = (0..300).map(|n| (SearchRequest::default(), format!("mp_canary{n}")));
    sent.extend(guesses);
    let mut told = String::new();
    for (search, key) in sent {
        let mut retrieval = RetrievalServiceClient::new(channel.clone());
        let refused = retrieval.search(with_key(search, &key)).await.unwrap_err();
        told.push_str(&format!("{refused:?}"));
    }
    told
}

#[tokio::test]
async fn the_log_says_who_changed_what_and_never_with_which_key() {
    let keys = KeysAt::new();
    let key = keys.make("anna", "all", &[]);
    let (folder, deployment) = copy_of_sample();
    let log = folder.path().join("log");
    let path = keys.path();
    // As loud as it gets.
    let flags = ["--keys-file", path.to_str().unwrap(), "--log", "trace"];
    let logged = Logged::start(&deployment, log.clone(), &flags).await;
    let (id, item) = change(&logged.channel, &key).await;
    let told = be_refused(&logged.channel, &key).await;
    assert!(logged.get("/ready").await.starts_with("HTTP/1.1 200 "));
    assert!(logged.get("/live").await.starts_with("HTTP/1.1 200 "));
    let metrics = logged.get("/metrics").await;
    assert!(metrics.contains("UNAUTHENTICATED"), "{metrics}");
    let written = fs::read_to_string(&logged.log).unwrap();
    drop(logged);
    assert!(10_000 < written.len());
    let folder = folder.path().to_str().unwrap();
    for (place, text) in [("log", &written), ("metrics", &metrics), ("errors", &told)] {
        // A time of the log may begin as the vector does; seven digits are no chance.
        for secret in [&key, "canary", "0.1234567"] {
            assert!(!text.contains(secret), "{secret} is in the {place}");
        }
        let shown = place != "log" && text.contains(folder);
        assert!(!shown, "a path is in the {place}");
    }

    let lines = lines_of(&log);
    let changes = lines
        .iter()
        .filter(|line| line["target"] == "matchpoint::changes");
    let changes: Vec<_> = changes
        .map(|line| (&line["method"], &line["what"]))
        .collect();
    let (activate, delete) = ("ActivateOperatingPoint".into(), "DeleteItem".into());
    let (id, item) = (id.into(), item.into());
    assert_eq!(changes, [(&activate, &id), (&delete, &item)]);
    for line in lines
        .iter()
        .filter(|line| line["target"] == "matchpoint::changes")
    {
        assert!(line["caller"].as_str().unwrap().starts_with("anna ("));
        assert_eq!(line["deployment"], "sample");
    }
    let away = lines.iter().filter(|line| line["count"].is_u64());
    assert!(
        (1..=3).contains(
            &away
                .filter(|line| line["code"] == "UNAUTHENTICATED")
                .count()
        )
    );
}

#[test]
fn the_network_is_not_reached_by_accident() {
    let serve = ["serve", "--deployments", "nowhere", "--listen", "0.0.0.0:0"];
    let refused = run(&serve);
    assert_eq!(refused.status.code(), Some(78));
    let said = text(&refused.stderr);
    for named in [
        "plaintext_on_network",
        "anyone_on_network",
        "keys_file",
        "tls_certificate",
    ] {
        assert!(said.contains(named), "{named}: {said}");
    }
    let keys = KeysAt::new();
    let path = keys.path();
    let listen = [
        "serve",
        "--deployments",
        "nowhere",
        "--listen",
        "127.0.0.1:0",
    ];
    let missing = run(&[&listen[..], &["--keys-file", path.to_str().unwrap()]].concat());
    assert_eq!(missing.status.code(), Some(66), "{}", text(&missing.stderr));
    assert!(text(&missing.stderr).contains("keys.json"));
}

/// Welch's t of two means. The slowest tenth is left out: others had the processor then.
fn t_of(times: [Vec<f64>; 2]) -> f64 {
    let [one, other] = times.map(|mut times| {
        times.sort_by(f64::total_cmp);
        times.truncate(times.len() * 9 / 10);
        let count = f64::from(u32::try_from(times.len()).unwrap());
        let mean = times.iter().sum::<f64>() / count;
        let squares = times.iter().map(|time| (time - mean).powi(2)).sum::<f64>();
        (mean, squares / (count - 1.0) / count)
    });
    (one.0 - other.0) / (one.1 + other.1).sqrt()
}

/// Of each kind; more say nothing more.
const TIMES_MAX: usize = 500_000;

/// Times of something done with one of two kinds of keys, by turns at random. Each is first copied to one and the same
/// place, since where a key lies in memory shows in the time as well.
fn timed(kinds: &[Vec<String>; 2], done: impl Fn(&str) -> bool) -> [Vec<f64>; 2] {
    let (mut random, mut times) = (Random(5), [Vec::new(), Vec::new()]);
    let mut key = String::with_capacity(128);
    let until = Instant::now() + patience(Duration::from_secs(1)) / 4;
    while Instant::now() < until && times[0].len() < TIMES_MAX {
        for _ in 0..1000 {
            let kind = random.below(2);
            key.clone_from(&kinds[kind][random.below(kinds[kind].len())]);
            let begun = Instant::now();
            let is_known = std::hint::black_box(done(std::hint::black_box(&key)));
            times[kind].push(begun.elapsed().as_secs_f64() * 1e9);
            assert!(!is_known);
        }
    }
    times
}

/// Whether one kind of key takes longer than the other, each of four times: a comparison that stops early does so whenever
/// it is asked, other work on the machine now and then.
fn tells(name: &str, kinds: &[Vec<String>; 2], done: impl Fn(&str) -> bool) -> bool {
    let t = [(); 4].map(|()| t_of(timed(kinds, &done)));
    println!("{name}: t {t:.2?}");
    t.iter().all(|t| 4.5 < *t) || t.iter().all(|t| *t < -4.5)
}

#[test]
fn the_time_that_a_key_takes_says_nothing_of_how_near_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys.json");
    let (record, _) = KeysFile::change(&path)
        .unwrap()
        .add(NewCaller {
            name: "till".to_owned(),
            presents: Presents::Key,
            scopes: vec![Scope::Search],
            deployments: None,
            expires: None,
            calls_per_second: None,
        })
        .unwrap();
    let kept = record.sha256.unwrap();
    // Whose digests differ from the kept one in the first byte, and in the third at the earliest.
    let hex = |key: &str| -> String {
        let digest = Sha256::digest(key.as_bytes());
        digest.iter().map(|byte| format!("{byte:02x}")).collect()
    };
    let all = (0_u32..).map(|number| format!("mp_{number:064x}"));
    let begins = u16::from_str_radix(&kept[..4], 16).unwrap().to_be_bytes();
    let is_near = |key: &String| Sha256::digest(key.as_bytes())[..2] == begins;
    let is_far = |key: &String| Sha256::digest(key.as_bytes())[0] != begins[0];
    let keys: [Vec<String>; 2] = [
        all.clone().filter(is_near).take(12).collect(),
        all.filter(is_far).take(12).collect(),
    ];
    let access = AccessConfig {
        keys_file: Some(path),
        ..AccessConfig::default()
    };
    let access = CallerAccess::open(&access).unwrap();
    assert!(!tells("a key", &keys, |key| {
        access.identify(Some(key.as_bytes()), None).is_ok()
    }));
    // What it would look like: the digests as text, compared up to the first that differs.
    let digests = keys.map(|keys| keys.iter().map(|key| hex(key)).collect());
    assert!(tells("a comparison that stops early", &digests, |digest| {
        let mut pairs = digest.bytes().zip(kept.bytes());
        pairs.all(|(one, other)| one == other)
    }));
}
