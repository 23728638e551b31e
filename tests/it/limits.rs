//! Clients that hold back, press on or pile up: what they may take, and that others are served meanwhile.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::io::Write;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use flate2::Compression;
use flate2::write::{GzEncoder, ZlibEncoder};
use h2::client::SendRequest;
use matchpoint_client::proto::calibration_service_client::CalibrationServiceClient;
use matchpoint_client::proto::gallery_service_client::GalleryServiceClient;
use matchpoint_client::proto::health::HealthCheckRequest;
use matchpoint_client::proto::health::health_client::HealthClient;
use matchpoint_client::proto::longrunning::WaitOperationRequest;
use matchpoint_client::proto::longrunning::operations_client::OperationsClient;
use matchpoint_client::proto::retrieval_service_client::RetrievalServiceClient;
use matchpoint_client::proto::snapshot_service_client::SnapshotServiceClient;
use matchpoint_client::proto::{
    CalibrateRequest, CalibrationSettings, CreateSnapshotRequest, GetItemRequest, ListItemsRequest,
    ReadSnapshotRequest, SearchRequest, Vector, WriteSnapshotRequest, calibrate_request,
    calibration_settings, search_request,
};
use prost::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_stream::StreamExt;
use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::common::raw::{Answering, begin, framed, raw, status};
use crate::common::{Running, Served, copy_of_sample, photos};

const SEARCH: &str = "/matchpoint.v1.RetrievalService/Search";
const LIST: &str = "/matchpoint.v1.GalleryService/ListItems";

fn whole(message: &impl Message) -> Bytes {
    let message = message.encode_to_vec();
    framed(&message, message.len())
}

fn reason(status: &Status) -> String {
    let info = status.get_details_error_info();
    info.map(|info| info.reason).unwrap_or_default()
}

async fn is_served(running: &Running) -> Result<(), Status> {
    let query = search_request::Query::Embedding(Vector {
        values: vec![1.0; 1280],
    });
    let request = SearchRequest {
        query: Some(query),
        ..SearchRequest::default()
    };
    let mut client = RetrievalServiceClient::new(running.channel.clone());
    client.search(request).await.map(drop)
}

/// Whether the other end closes a connection within so long.
async fn closes(stream: &mut TcpStream, within: Duration) -> bool {
    let mut buffer = [0; 4096];
    let read = async { while stream.read(&mut buffer).await.is_ok_and(|read| 0 < read) {} };
    tokio::time::timeout(within, read).await.is_ok()
}

#[tokio::test]
async fn a_message_that_stalls_is_refused_by_name_and_one_that_comes_slowly_is_not() {
    let running = Running::sample(&[("MATCHPOINT_STALL_SECONDS", "1")]).await;
    let mut client = raw(running.address, 1 << 20).await;
    let begun = Instant::now();
    let (nothing, _open) = begin(&mut client, SEARCH);
    let (half, mut body) = begin(&mut client, SEARCH);
    body.send_data(framed(&[0; 1000], 1_000_000), false)
        .unwrap();
    for answer in [nothing, half] {
        let (code, said) = status(answer).await;
        assert_eq!(code, Code::DeadlineExceeded as i32, "{said}");
        assert!(said.contains("stall_seconds"), "{said}");
    }
    let took = begun.elapsed();
    assert!(
        Duration::from_secs(1) <= took && took < Duration::from_secs(5),
        "{took:?}"
    );

    // 300 kB in 2 s: slow, and going on.
    let (slow, mut body) = begin(&mut client, SEARCH);
    let mut left = whole(&SearchRequest {
        deployment: "none".to_owned(),
        query: Some(search_request::Query::Image(vec![0; 300_000].into())),
        ..SearchRequest::default()
    });
    while !left.is_empty() {
        let piece = left.split_to(left.len().min(75_000));
        body.send_data(piece, left.is_empty()).unwrap();
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    let (code, said) = status(slow).await;
    assert_eq!(code, Code::NotFound as i32, "{said}");
    running.stop().await;
}

#[tokio::test]
async fn messages_under_way_share_their_bytes_and_give_them_back() {
    let settings = [
        ("MATCHPOINT_STALL_SECONDS", "2"),
        ("MATCHPOINT_IMAGE_BYTES_MAX", "1000000"),
        ("MATCHPOINT_MESSAGE_BYTES_MAX", "2000000"),
        ("MATCHPOINT_RECEIVE_BYTES_MAX", "5000000"),
        ("MATCHPOINT_ADDRESS_SHARE", "1"),
    ];
    let running = Running::sample(&settings).await;
    let mut client = raw(running.address, 1 << 20).await;
    let mut held = Vec::new();
    for _ in 0..2 {
        let (answer, mut body) = begin(&mut client, SEARCH);
        body.send_data(framed(&[0; 1000], 1_900_000), false)
            .unwrap();
        held.push((answer, body));
    }
    tokio::time::sleep(Duration::from_millis(200)).await;
    let (third, mut body) = begin(&mut client, SEARCH);
    body.send_data(framed(&[0; 1000], 1_900_000), false)
        .unwrap();
    let (code, said) = status(third).await;
    assert_eq!(code, Code::ResourceExhausted as i32, "{said}");
    assert!(said.contains("receive_bytes_max"), "{said}");
    is_served(&running).await.unwrap();
    for (answer, _body) in held {
        assert_eq!(status(answer).await.0, Code::DeadlineExceeded as i32);
    }
    let (again, mut body) = begin(&mut client, SEARCH);
    body.send_data(framed(&[0; 1000], 1_900_000), false)
        .unwrap();
    assert_eq!(status(again).await.0, Code::DeadlineExceeded as i32);
    running.stop().await;
}

/// Sends one message that is compressed by gzip; the code and the words of the answer.
async fn gzipped(client: &mut SendRequest<Bytes>, message: &[u8]) -> (i32, String) {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(message).unwrap();
    let message = encoder.finish().unwrap();
    send_gzipped(client, SEARCH, &message, message.len()).await
}

/// Sends these bytes as a compressed message that has so many, as it says.
async fn send_gzipped(
    client: &mut SendRequest<Bytes>,
    path: &str,
    message: &[u8],
    length: usize,
) -> (i32, String) {
    let plain = framed(message, length);
    let compressed = [&[1], plain.slice(1..).as_ref()].concat();
    let request = http::Request::post(format!("http://x{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("grpc-encoding", "gzip")
        .body(())
        .unwrap();
    let (answer, mut body) = client.send_request(request, false).unwrap();
    body.send_data(compressed.into(), true).unwrap();
    status(answer).await
}

#[tokio::test]
async fn what_comes_compressed_is_read_as_what_it_was_within_the_same_limits() {
    let settings = [
        ("MATCHPOINT_IMAGE_BYTES_MAX", "1000000"),
        ("MATCHPOINT_MESSAGE_BYTES_MAX", "2000000"),
        ("MATCHPOINT_RECEIVE_BYTES_MAX", "5000000"),
        ("MATCHPOINT_ADDRESS_SHARE", "1"),
    ];
    let running = Running::sample(&settings).await;
    let mut client = raw(running.address, 1 << 20).await;
    let search = |values| {
        let query = search_request::Query::Embedding(Vector { values });
        let request = SearchRequest {
            query: Some(query),
            ..SearchRequest::default()
        };
        request.encode_to_vec()
    };
    // Different numbers, so many thousand.
    let varied = |thousands: u16| {
        let numbers = (0..thousands).flat_map(|high| (0..1000).map(move |low| [high, low]));
        search(
            numbers
                .map(|[high, low]| f32::from(high) * 1000.0 + f32::from(low))
                .collect(),
        )
    };
    let good = search((0..1280_u16).map(f32::from).collect());
    assert_eq!(gzipped(&mut client, &good).await.0, Code::Ok as i32);
    // A stream that ends within a message has not ended well.
    for path in [SEARCH, "/matchpoint.v1.RetrievalService/SearchStream"] {
        let (code, said) = send_gzipped(&mut client, path, &[31, 139, 8], 100).await;
        assert_eq!(code, Code::InvalidArgument as i32, "{path} {said}");
        assert!(said.contains("within%20a%20message"), "{path} {said}");
    }
    // What it was is too large, whatever it takes on the wire.
    let (code, said) = gzipped(&mut client, &varied(600)).await;
    assert_eq!(code, Code::OutOfRange as i32, "{said}");
    // Nearly nothing on the wire, and nearly a message of the largest size.
    let (code, said) = gzipped(&mut client, &search(vec![0.0; 400_000])).await;
    assert_eq!(code, Code::InvalidArgument as i32, "{said}");
    assert!(said.contains("100%20times"), "{said}");
    // Two that are worked on leave no room for what a third becomes.
    let mut held = Vec::new();
    for _ in 0..2 {
        let (answer, mut body) = begin(&mut client, SEARCH);
        let part = framed(&[0; 1000], 1_900_000);
        body.send_data(part, false).unwrap();
        held.push((answer, body));
    }
    tokio::time::sleep(Duration::from_millis(200)).await;
    let (code, said) = gzipped(&mut client, &varied(450)).await;
    assert_eq!(code, Code::ResourceExhausted as i32, "{said}");
    assert!(said.contains("receive_bytes_max"), "{said}");
    drop(held);
    is_served(&running).await.unwrap();
    running.stop().await;
}

#[tokio::test]
async fn an_answer_that_nobody_takes_is_given_up_and_what_waits_has_a_limit() {
    let settings = [
        ("MATCHPOINT_STALL_SECONDS", "1"),
        ("MATCHPOINT_IMAGE_BYTES_MAX", "100000"),
        ("MATCHPOINT_MESSAGE_BYTES_MAX", "400000"),
        ("MATCHPOINT_ANSWER_BYTES_MAX", "500000"),
        ("MATCHPOINT_ADDRESS_SHARE", "1"),
    ];
    let running = Running::sample(&settings).await;
    // No room for a single byte of an answer: some 185 kB each.
    let mut client = raw(running.address, 0).await;
    let list = ListItemsRequest {
        include_embedding: true,
        ..ListItemsRequest::default()
    };
    let mut held = Vec::new();
    for _ in 0..4 {
        let (answer, mut body) = begin(&mut client, LIST);
        body.send_data(whole(&list), true).unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
        held.push(answer);
    }
    let mut gallery = GalleryServiceClient::new(running.channel.clone());
    let refused = gallery.list_items(list.clone()).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
    assert_eq!(reason(&refused), "ANSWER_BYTES_MAX");
    is_served(&running).await.unwrap();
    // Those that had room are reset, and their room is others'.
    for answer in held {
        let mut body = answer.await.unwrap().into_body();
        let ended = tokio::time::timeout(Duration::from_secs(10), body.data()).await;
        let ended = ended.unwrap();
        assert!(ended.is_none_or(|data| data.is_err()));
    }
    gallery.list_items(list).await.unwrap();
    running.stop().await;
}

#[tokio::test]
async fn connections_have_a_number_and_each_has_to_speak_and_to_ask() {
    let settings = [
        ("MATCHPOINT_CONNECTIONS_MAX", "4"),
        ("MATCHPOINT_ADDRESS_SHARE", "0.75"),
        ("MATCHPOINT_HANDSHAKE_SECONDS", "1"),
        ("MATCHPOINT_CONNECTION_IDLE_SECONDS", "2"),
    ];
    let running = Running::sample(&settings).await;
    let connect = || TcpStream::connect(running.address);
    // One of three is the test's own.
    let mut silent = [connect().await.unwrap(), connect().await.unwrap()];
    silent[1].write_all(b"PRI * HTTP").await.unwrap();
    let mut refused = connect().await.unwrap();
    assert!(closes(&mut refused, Duration::from_millis(500)).await);
    for stream in &mut silent {
        assert!(closes(stream, Duration::from_secs(4)).await);
    }
    // An idle one is told to go, and one with a call is not.
    let mut client = raw(running.address, 1 << 20).await;
    let (answer, body) = begin(&mut client, "/matchpoint.v1.RetrievalService/SearchStream");
    let mut asks_nothing = raw(running.address, 1 << 20).await;
    let gone = async {
        while asks_nothing.clone().ready().await.is_ok() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(8), gone)
        .await
        .unwrap();
    let _ = &mut asks_nothing;
    let mut body = body;
    body.send_data(Bytes::new(), true).unwrap();
    assert_eq!(status(answer).await.0, Code::Ok as i32);
    is_served(&running).await.unwrap();
    running.stop().await;
}

#[tokio::test]
async fn calls_have_a_number_and_health_is_asked_beyond_it() {
    let settings = [
        ("MATCHPOINT_CALLS_MAX", "3"),
        ("MATCHPOINT_ADDRESS_SHARE", "1"),
    ];
    let running = Running::sample(&settings).await;
    let mut client = raw(running.address, 1 << 20).await;
    let held: Vec<Answering> = (0..3).map(|_| begin(&mut client, SEARCH)).collect();
    tokio::time::sleep(Duration::from_millis(200)).await;
    let refused = is_served(&running).await.unwrap_err();
    assert_eq!(reason(&refused), "CALLS_MAX", "{refused}");
    assert!(refused.message().contains("calls_max = 3"), "{refused}");
    let mut health = HealthClient::new(running.channel.clone());
    let asked = HealthCheckRequest::default();
    health.check(asked).await.unwrap();
    drop(held);
    tokio::time::sleep(Duration::from_millis(200)).await;
    is_served(&running).await.unwrap();
    running.stop().await;
}

#[tokio::test]
async fn there_are_as_many_watches_of_health_as_connections_and_checks_beyond_them() {
    let settings = [
        ("MATCHPOINT_CONNECTIONS_MAX", "4"),
        ("MATCHPOINT_ADDRESS_SHARE", "1"),
    ];
    let running = Running::sample(&settings).await;
    let mut health = HealthClient::new(running.channel.clone());
    let asked = HealthCheckRequest::default;
    let mut watches = Vec::new();
    for _ in 0..4 {
        watches.push(health.watch(asked()).await.unwrap());
    }
    let refused = health.watch(asked()).await.unwrap_err();
    assert_eq!(reason(&refused), "CONNECTIONS_MAX", "{refused}");
    health.check(asked()).await.unwrap();
    is_served(&running).await.unwrap();
    watches.pop();
    tokio::time::sleep(Duration::from_millis(200)).await;
    health.watch(asked()).await.unwrap();
    running.stop().await;
}

#[tokio::test]
async fn who_neither_sends_nor_reads_keeps_no_place_of_snapshots_and_calibrations() {
    let data = tempfile::tempdir().unwrap();
    let settings = [
        ("MATCHPOINT_STALL_SECONDS", "1"),
        ("MATCHPOINT_DATA_DIR", data.path().to_str().unwrap()),
    ];
    let running = Running::sample(&settings).await;
    let mut snapshots = SnapshotServiceClient::new(running.channel.clone());
    let create = |id: &str| CreateSnapshotRequest {
        snapshot_id: id.to_owned(),
        ..CreateSnapshotRequest::default()
    };
    let first = snapshots.create_snapshot(create("first")).await.unwrap();
    finished(&running, first.into_inner().name).await;

    let mut client = raw(running.address, 0).await;
    let mut held = Vec::new();
    for _ in 0..4 {
        let (answer, mut body) = begin(&mut client, "/matchpoint.v1.SnapshotService/ReadSnapshot");
        let read = ReadSnapshotRequest {
            snapshot_id: "first".to_owned(),
        };
        body.send_data(whole(&read), true).unwrap();
        held.push(answer);
    }
    let mut uploads = Vec::new();
    for number in 0..4 {
        let (answer, mut body) = begin(&mut client, "/matchpoint.v1.SnapshotService/WriteSnapshot");
        let piece = WriteSnapshotRequest {
            snapshot_id: format!("upload-{number}"),
            data: vec![0; 100],
        };
        body.send_data(whole(&piece), false).unwrap();
        uploads.push((answer, body));
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    let second = snapshots.create_snapshot(create("second")).await.unwrap();
    finished(&running, second.into_inner().name).await;
    for (answer, _body) in uploads {
        let (code, said) = status(answer).await;
        assert_eq!(code, Code::DeadlineExceeded as i32, "{said}");
    }
    let kept = fs::read_dir(data.path().join("snapshots")).unwrap();
    assert_eq!(kept.count(), 2, "what is left of uploads");
    calibrations_that_send_nothing(&running).await;
    running.stop().await;
}

#[tokio::test]
async fn a_message_is_counted_before_it_is_built_and_is_not_repeated_at_length() {
    let running = Running::sample(&[]).await;
    let mut client = raw(running.address, 1 << 20).await;
    let call = async |client: &mut SendRequest<Bytes>, path: &str, message: &[u8]| {
        let (answer, mut body) = begin(client, path);
        body.send_data(framed(message, message.len()), true)
            .unwrap();
        status(answer).await
    };
    let batch = "/matchpoint.v1.GalleryService/BatchUpsertItems";
    let (code, said) = call(&mut client, batch, &[0x12, 0].repeat(500_000)).await;
    assert_eq!(code, Code::InvalidArgument as i32, "{said}");
    assert!(said.contains("items%20has%20more%20than%201000"), "{said}");
    let (code, said) = call(&mut client, batch, &[0x12, 200, 1]).await;
    assert_eq!(code, Code::InvalidArgument as i32, "{said}");
    assert!(said.contains("malformed"), "{said}");

    let mut gallery = GalleryServiceClient::new(running.channel.clone());
    for name in ["x".repeat(60_000), "é".repeat(30_000)] {
        let request = GetItemRequest {
            id: name.clone(),
            ..GetItemRequest::default()
        };
        let missing = gallery.get_item(request).await.unwrap_err();
        assert_eq!(missing.code(), Code::NotFound);
        assert!(
            missing.message().len() < 1300,
            "{}",
            missing.message().len()
        );
        let request = ListItemsRequest {
            deployment: name,
            ..ListItemsRequest::default()
        };
        let missing = gallery.list_items(request).await.unwrap_err();
        assert_eq!(reason(&missing), "DEPLOYMENT_NOT_FOUND");
    }
    running.stop().await;
}

/// A picture of 25 megapixels in 200 kB: all zeros, 16 bits of each of four channels.
pub(crate) fn costly_png() -> Vec<u8> {
    let rows = vec![0; 5000 * (1 + 5000 * 8)];
    let mut zlib = ZlibEncoder::new(Vec::new(), Compression::fast());
    zlib.write_all(&rows).unwrap();
    let header = [5000_u32.to_be_bytes(), 5000_u32.to_be_bytes()].concat();
    let header = [header, vec![16, 6, 0, 0, 0]].concat();
    let mut png = b"\x89PNG\r\n\x1a\n".to_vec();
    for (name, data) in [
        (b"IHDR", header),
        (b"IDAT", zlib.finish().unwrap()),
        (b"IEND", Vec::new()),
    ] {
        png.extend_from_slice(&u32::try_from(data.len()).unwrap().to_be_bytes());
        let mut checksum = flate2::Crc::new();
        checksum.update(name);
        checksum.update(&data);
        png.extend_from_slice(name);
        png.extend_from_slice(&data);
        png.extend_from_slice(&checksum.sum().to_be_bytes());
    }
    png
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn costly_pictures_of_many_connections_leave_an_honest_one_its_answers() {
    let settings = [
        ("MATCHPOINT_WORKERS", "2"),
        ("MATCHPOINT_REQUEST_TIMEOUT_SECONDS", "10"),
        ("MATCHPOINT_JOURNAL", "off"),
    ];
    let running = Running::sample(&settings).await;
    let costly = Bytes::from(costly_png());
    let url = format!("http://{}", running.address);
    let mut attackers = Vec::new();
    for _ in 0..32 {
        let (url, image) = (url.clone(), costly.clone());
        attackers.push(tokio::spawn(async move {
            let channel = tonic::transport::Channel::from_shared(url).unwrap();
            let mut client = RetrievalServiceClient::new(channel.connect().await.unwrap());
            loop {
                let query = Some(search_request::Query::Image(image.clone()));
                let request = SearchRequest {
                    query,
                    ..SearchRequest::default()
                };
                if client.search(request).await.is_err() {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }));
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let photo = fs::read(photos().join("images/gc_fishes_fish3/q2_photometric.jpg")).unwrap();
    let channel = tonic::transport::Channel::from_shared(url).unwrap();
    let mut client = RetrievalServiceClient::new(channel.connect().await.unwrap());
    let (mut answered, mut longest, mut said) = (0, Duration::ZERO, String::new());
    for _ in 0..40 {
        let begun = Instant::now();
        let query = Some(search_request::Query::Image(photo.clone().into()));
        let request = SearchRequest {
            query,
            ..SearchRequest::default()
        };
        let answer = client.search(request).await;
        answered += usize::from(answer.is_ok());
        said = answer.map_or_else(|refused| refused.to_string(), |_| said);
        longest = longest.max(begun.elapsed());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(
        38 <= answered,
        "{answered} of 40, {longest:?} at most: {said}"
    );
    attackers.iter().for_each(tokio::task::JoinHandle::abort);
    running.stop().await;
}

async fn calibrations_that_send_nothing(running: &Running) {
    let mut calibrations = Vec::new();
    for _ in 0..4 {
        let settings = CalibrationSettings {
            target: Some(calibration_settings::Target::TargetFar(0.1)),
            ..CalibrationSettings::default()
        };
        let first = CalibrateRequest {
            part: Some(calibrate_request::Part::Settings(settings)),
        };
        let parts = tokio_stream::iter([first]).chain(tokio_stream::pending());
        let mut client = CalibrationServiceClient::new(running.channel.clone());
        calibrations.push(tokio::spawn(async move {
            client
                .calibrate(parts)
                .await
                .map(tonic::Response::into_inner)
        }));
    }
    for calibration in calibrations {
        let ended = tokio::time::timeout(Duration::from_secs(10), calibration).await;
        let operation = ended.unwrap().unwrap().unwrap();
        let said = format!("{:?}", operation.result);
        assert!(said.contains("stall_seconds"), "{said}");
    }
}

async fn finished(running: &Running, name: String) {
    let mut operations = OperationsClient::new(running.channel.clone());
    let wait = WaitOperationRequest {
        name,
        timeout: None,
    };
    let operation = operations.wait_operation(wait).await.unwrap().into_inner();
    let said = format!("{:?}", operation.result);
    assert!(operation.done && said.contains("Response"), "{said}");
}

/// Seconds of processors that a process has taken.
fn processor_seconds(process: u32) -> f64 {
    let text = fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
    let fields: Vec<&str> = text.rsplit(')').next().unwrap().split(' ').collect();
    let ticks = |at: usize| fields.get(at).unwrap().parse::<f64>().unwrap();
    (ticks(12) + ticks(13)) / 100.0
}

fn resident_mib(process: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = text.lines().find(|line| line.starts_with("VmRSS")).unwrap();
    let number = line.split_whitespace().nth(1).unwrap();
    number.parse::<u64>().unwrap() / 1024
}

#[test]
fn where_no_more_descriptors_are_left_the_server_waits_and_goes_on_afterwards() {
    let (_folder, deployment) = copy_of_sample();
    let served = Served::start(
        &deployment,
        &[("MATCHPOINT_HANDSHAKE_SECONDS", "3600")],
        &[],
    );
    let process = served.child.id().to_string();
    let limited = std::process::Command::new("prlimit")
        .args(["--pid", &process, "--nofile=64:64"])
        .status();
    assert!(limited.unwrap().success());
    let flood: Vec<std::net::TcpStream> = (0..100)
        .map(|_| std::net::TcpStream::connect(&served.address).unwrap())
        .collect();
    std::thread::park_timeout(Duration::from_millis(500));
    let before = processor_seconds(served.child.id());
    std::thread::park_timeout(Duration::from_secs(2));
    let took = processor_seconds(served.child.id()) - before;
    assert!(took < 0.4, "{took} s of 2");
    drop(flood);
    std::thread::park_timeout(Duration::from_secs(1));
    let metrics = served.scrape();
    let counted = metrics
        .lines()
        .find(|line| line.contains("reason=\"not_accepted\""))
        .unwrap();
    assert!(!counted.ends_with(" 0"), "{counted}");
    let open = metrics
        .lines()
        .find(|line| line.starts_with("matchpoint_connections "))
        .unwrap();
    assert_eq!(open, "matchpoint_connections 0");
}

#[test]
fn at_ten_times_the_load_memory_stays_within_the_formula() {
    let settings = [
        ("MATCHPOINT_IMAGE_BYTES_MAX", "4000000"),
        ("MATCHPOINT_MESSAGE_BYTES_MAX", "4200000"),
        ("MATCHPOINT_RECEIVE_BYTES_MAX", "32000000"),
        ("MATCHPOINT_ADDRESS_SHARE", "1"),
    ];
    let (_folder, deployment) = copy_of_sample();
    let served = Served::start(&deployment, &settings, &[]);
    let before = resident_mib(served.child.id());
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let address: SocketAddr = served.address.parse().unwrap();
    let most = runtime.block_on(async {
        // 80 messages of 4 MB, each without its last kilobyte: ten times what there is room for.
        let mut held = Vec::new();
        for _ in 0..8 {
            let mut client = raw(address, 1 << 20).await;
            for _ in 0..10 {
                let (answer, mut body) = begin(&mut client, SEARCH);
                let (message, length) = (vec![0; 3_999_000], 4_000_000);
                body.send_data(framed(&message, length), false)
                    .unwrap_or_default();
                held.push((answer, body));
            }
        }
        let mut most = 0;
        for _ in 0..30 {
            tokio::time::sleep(Duration::from_millis(100)).await;
            most = most.max(resident_mib(served.child.id()));
        }
        most
    });
    // 31 MiB of messages, and the windows of 8 connections of 2 MiB.
    assert!(most <= before + 31 + 16 + 16, "{before} MiB, then {most}");
}

#[test]
fn where_memory_is_short_a_costly_picture_is_refused_and_the_server_lives() {
    let (_folder, deployment) = copy_of_sample();
    let served = Served::start(&deployment, &[("MATCHPOINT_JOURNAL", "off")], &[]);
    let process = served.child.id().to_string();
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmSize"))
        .unwrap();
    let kilobytes: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    let limit = format!("--as={}", (kilobytes << 10) + (200 << 20));
    let limited = std::process::Command::new("prlimit")
        .args(["--pid", &process, &limit])
        .status();
    assert!(limited.unwrap().success());
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let url = format!("http://{}", served.address);
        let channel = tonic::transport::Channel::from_shared(url).unwrap();
        let mut client = RetrievalServiceClient::new(channel.connect().await.unwrap());
        let search = |image: Vec<u8>| SearchRequest {
            query: Some(search_request::Query::Image(image.into())),
            ..SearchRequest::default()
        };
        let refused = client.search(search(costly_png())).await.unwrap_err();
        assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
        assert_eq!(reason(&refused), "MEMORY_SHORT");
        let photo = fs::read(photos().join("images/gc_fishes_fish3/q2_photometric.jpg")).unwrap();
        client.search(search(photo)).await.unwrap();
    });
}
