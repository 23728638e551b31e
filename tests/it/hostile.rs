//! An honest client beside hostile ones: how many of its calls are answered, and how soon.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a test fails by panicking, and says what it has tried"
)]

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::time::{Duration, Instant};

use bytes::Bytes;
use matchpoint_client::proto::retrieval_service_client::RetrievalServiceClient;
use matchpoint_client::proto::{ListItemsRequest, SearchRequest, search_request};
use prost::Message;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tonic::Request;
use tonic::transport::{Channel, Endpoint};
use tonic_types::StatusExt;

use crate::common::random::Random;
use crate::common::raw::{begin, calls, framed, raw};
use crate::common::{Served, copy_of_sample, patience, photos, run};
use crate::limits::costly_png;

const SEARCH: &str = "/matchpoint.v1.RetrievalService/Search";
const LIST: &str = "/matchpoint.v1.GalleryService/ListItems";
/// Calls of the honest client: twenty a second, each from when it was to begin.
const EVERY: Duration = Duration::from_millis(50);

type Attack = Pin<Box<dyn Future<Output = ()> + Send>>;
type Attacker = fn(SocketAddr, usize) -> Attack;

/// Each attack, by how many at once.
const ATTACKS: [(&str, usize, Attacker); 9] = [
    ("nobody", 0, idle),
    ("200 idle connections", 200, idle),
    ("64 that send no HTTP/2", 64, noise),
    ("16 that reset each call at once", 16, resets),
    ("16 that hang up on searches", 16, hang_up),
    ("16 that send changed messages", 16, changed),
    ("240 bodies of a byte now and then", 8, slow_bodies),
    ("160 lists that nobody reads", 8, never_read),
    ("32 that send PNGs of 25 megapixels", 32, costly),
];

/// How many calls were answered, and the times of all.
struct Seen {
    answered: usize,
    /// What the others were told, by code and reason.
    refused: BTreeMap<String, usize>,
    milliseconds: Vec<f64>,
}

impl Seen {
    fn share(&self) -> f64 {
        number(self.answered) / number(self.milliseconds.len())
    }

    fn quantile(&self, percent: usize) -> f64 {
        let at = self.milliseconds.len() * percent / 100;
        self.milliseconds[at.min(self.milliseconds.len() - 1)]
    }
}

fn number(count: usize) -> f64 {
    f64::from(u32::try_from(count).unwrap())
}

fn photo_search(image: Bytes) -> SearchRequest {
    SearchRequest {
        query: Some(search_request::Query::Image(image)),
        ..SearchRequest::default()
    }
}

/// The honest client in a thread of its own, since it is the server that is to be measured, and not how this process
/// shares its threads between it and the attackers.
async fn apart(address: SocketAddr, longest: Duration) -> Seen {
    let client = move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        runtime.unwrap().block_on(honest(address, longest))
    };
    let (done, seen) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || drop(done.send(client())));
    seen.await.unwrap()
}

/// Searches at a fixed rate, from an address of its own.
async fn honest(address: SocketAddr, longest: Duration) -> Seen {
    let photo = fs::read(photos().join("images/gc_fishes_fish3/q2_photometric.jpg")).unwrap();
    let photo = Bytes::from(photo);
    let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
    let own = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));
    let channel = endpoint.local_address(Some(own)).connect().await.unwrap();
    let begun = Instant::now();
    let mut calls = Vec::new();
    for call in 0.. {
        let due = begun + EVERY * call;
        if longest < due - begun && 20 < call {
            break;
        }
        tokio::time::sleep_until(due.into()).await;
        let mut client = RetrievalServiceClient::new(channel.clone());
        let photo = photo.clone();
        calls.push(tokio::spawn(async move {
            let answer = client.search(photo_search(photo)).await;
            let refused = answer.err().map(|status| {
                let reason = status.get_details_error_info().map(|info| info.reason);
                format!("{:?} {}", status.code(), reason.unwrap_or_default())
            });
            (refused, due.elapsed().as_secs_f64() * 1e3)
        }));
    }
    let mut seen = Seen {
        answered: 0,
        refused: BTreeMap::new(),
        milliseconds: Vec::new(),
    };
    for call in calls {
        let (refused, took) = call.await.unwrap();
        match refused {
            Some(code) => *seen.refused.entry(code).or_default() += 1,
            None => seen.answered += 1,
        }
        seen.milliseconds.push(took);
    }
    seen.milliseconds.sort_by(f64::total_cmp);
    seen
}

async fn connected(address: SocketAddr) -> Channel {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
    endpoint.connect().await.unwrap()
}

fn idle(address: SocketAddr, _number: usize) -> Attack {
    Box::pin(async move {
        let _open = TcpStream::connect(address).await;
        std::future::pending::<()>().await;
    })
}

fn noise(address: SocketAddr, number: usize) -> Attack {
    Box::pin(async move {
        let mut random = Random(number as u64);
        loop {
            let Ok(mut stream) = TcpStream::connect(address).await else {
                continue;
            };
            let bytes: Vec<u8> = (0..2000).map(|_| random.bits().to_le_bytes()[0]).collect();
            stream.write_all(&bytes).await.unwrap_or_default();
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
}

fn resets(address: SocketAddr, _number: usize) -> Attack {
    Box::pin(async move {
        loop {
            let mut client = raw(address, 1 << 20).await;
            for _ in 0..1000 {
                let Ok(ready) = client.ready().await else {
                    break;
                };
                client = ready;
                let (_, mut body) = begin(&mut client, SEARCH);
                body.send_reset(h2::Reason::CANCEL);
                tokio::task::yield_now().await;
                // Ten thousand a second of all of them: more measures this process.
                tokio::time::sleep(Duration::from_millis(1)).await;
                client = match client.ready().await {
                    Ok(ready) => ready,
                    Err(_closed) => break,
                };
            }
        }
    })
}

fn hang_up(address: SocketAddr, _number: usize) -> Attack {
    Box::pin(async move {
        let photo = fs::read(photos().join("images/gc_fishes_fish3/q2_photometric.jpg")).unwrap();
        let photo = Bytes::from(photo);
        let mut client = RetrievalServiceClient::new(connected(address).await);
        loop {
            let search = client.search(photo_search(photo.clone()));
            drop(tokio::time::timeout(Duration::from_millis(4), search).await);
        }
    })
}

fn changed(address: SocketAddr, number: usize) -> Attack {
    Box::pin(async move {
        let (mut random, calls) = (Random(number as u64), calls());
        loop {
            let mut client = raw(address, 1 << 20).await;
            for _ in 0..100 {
                let call = &calls[random.below(calls.len())];
                let message: Vec<u8> = (0..random.below(200))
                    .map(|_| random.bits().to_le_bytes()[0])
                    .collect();
                let Ok(ready) = client.clone().ready().await else {
                    break;
                };
                client = ready;
                let (_answer, mut body) = begin(&mut client, call);
                drop(body.send_data(framed(&message, message.len()), true));
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        }
    })
}

fn slow_bodies(address: SocketAddr, _number: usize) -> Attack {
    Box::pin(async move {
        let mut client = raw(address, 1 << 20).await;
        let mut open = Vec::new();
        for _ in 0..30 {
            let (answer, mut body) = begin(&mut client, SEARCH);
            drop(body.send_data(framed(&[0; 10], 1_000_000), false));
            open.push((answer, body));
        }
        loop {
            tokio::time::sleep(Duration::from_millis(500)).await;
            for (_, body) in &mut open {
                drop(body.send_data(Bytes::from_static(&[0]), false));
            }
        }
    })
}

fn never_read(address: SocketAddr, _number: usize) -> Attack {
    Box::pin(async move {
        let list = ListItemsRequest {
            page_size: 1000,
            include_embedding: true,
            ..ListItemsRequest::default()
        };
        let list = list.encode_to_vec();
        loop {
            let mut client = raw(address, 0).await;
            let mut open = Vec::new();
            for _ in 0..20 {
                let (answer, mut body) = begin(&mut client, LIST);
                drop(body.send_data(framed(&list, list.len()), true));
                open.push(answer);
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    })
}

fn costly(address: SocketAddr, _number: usize) -> Attack {
    Box::pin(async move {
        let image = Bytes::from(costly_png());
        let mut client = RetrievalServiceClient::new(connected(address).await);
        loop {
            if client.search(photo_search(image.clone())).await.is_err() {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_honest_client_is_answered_beside_each_kind_of_hostile_ones() {
    let settings = [("MATCHPOINT_JOURNAL", "off"), ("MATCHPOINT_WORKERS", "2")];
    let (_folder, deployment) = copy_of_sample();
    let served = Served::start(&deployment, &settings, &[]);
    let address: SocketAddr = served.address.parse().unwrap();
    let longest = patience(Duration::from_secs(1));
    // Warm, before anything is measured.
    apart(address, Duration::from_secs(1)).await;
    let (mut alone, mut table) = (None, Vec::new());
    for (name, count, attack) in ATTACKS {
        let attackers: Vec<_> = (0..count)
            .map(|number| tokio::spawn(attack(address, number)))
            .collect();
        tokio::time::sleep(Duration::from_millis(300)).await;
        let seen = apart(address, longest).await;
        attackers.iter().for_each(tokio::task::JoinHandle::abort);
        let p99 = seen.quantile(99);
        let times = p99 / *alone.get_or_insert(p99);
        println!(
            "| {name} | {} | {:.1} % | {:.0} ms | {p99:.0} ms | {times:.1} | {:?}",
            seen.milliseconds.len(),
            100.0 * seen.share(),
            seen.quantile(50),
            seen.refused,
        );
        table.push((name, seen.share()));
        // What they left behind is not the next one's.
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    // The other figures are for people to judge: here the attackers have the processors that the server would need.
    let refused: Vec<_> = table.iter().filter(|(_, share)| *share < 0.8).collect();
    assert!(refused.is_empty(), "{refused:?}");
}

/// Searches one after the other until the time is over; returns how many were answered.
async fn one_after_the_other(channel: Channel, key: Option<String>, until: Instant) -> usize {
    let photo = fs::read(photos().join("images/gc_fishes_fish3/q2_photometric.jpg")).unwrap();
    let (photo, mut answered) = (Bytes::from(photo), 0);
    let mut client = RetrievalServiceClient::new(channel);
    while Instant::now() < until {
        let mut request = Request::new(photo_search(photo.clone()));
        if let Some(key) = &key {
            let value = format!("Bearer {key}").parse().unwrap();
            request.metadata_mut().insert("authorization", value);
        }
        match client.search(request).await {
            Ok(_) => answered += 1,
            Err(_refused) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
    answered
}

async fn connected_from(address: SocketAddr, last: u8) -> Channel {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
    let own = IpAddr::V4(Ipv4Addr::new(127, 0, 0, last));
    endpoint.local_address(Some(own)).connect().await.unwrap()
}

/// What one connection gets, and each of 24 of somebody else on average.
async fn beside_24(
    settings: &[(&str, &str)],
    from: [u8; 2],
    keys: [Option<String>; 2],
) -> (usize, f64) {
    let (_folder, deployment) = copy_of_sample();
    let settings = [
        settings,
        &[("MATCHPOINT_WORKERS", "1"), ("MATCHPOINT_JOURNAL", "off")],
    ]
    .concat();
    let served = Served::start(&deployment, &settings, &[]);
    let address: SocketAddr = served.address.parse().unwrap();
    let until = Instant::now() + Duration::from_secs(4);
    let [own_key, other_key] = keys;
    let mut others = tokio::task::JoinSet::new();
    for _ in 0..24 {
        let channel = connected_from(address, from[1]).await;
        others.spawn(one_after_the_other(channel, other_key.clone(), until));
    }
    let channel = connected_from(address, from[0]).await;
    let own = one_after_the_other(channel, own_key, until).await;
    let others: usize = others.join_all().await.into_iter().sum();
    (own, number(others) / 24.0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_opens_many_connections_has_no_more_turns_by_that() {
    let (own, other) = beside_24(&[], [2, 1], [None, None]).await;
    println!("by address: {own} answers, and {other:.1} to each of 24");
    assert!(
        6.0 * other < number(own),
        "by address: {own} and {other:.1}"
    );

    // As behind a proxy: one address, and keys.
    let folder = tempfile::TempDir::new().unwrap();
    let path = folder.path().join("keys.json");
    let path = path.to_str().unwrap();
    let key = |name: &str| {
        let arguments = [
            "keys",
            "new",
            name,
            "--scopes",
            "search",
            "--json",
            "--keys-file",
            path,
        ];
        let made: serde_json::Value = serde_json::from_slice(&run(&arguments).stdout).unwrap();
        Some(made["key"].as_str().unwrap().to_owned())
    };
    let keys = [key("polite"), key("flood")];
    let (own, other) = beside_24(&[("MATCHPOINT_KEYS_FILE", path)], [1, 1], keys).await;
    println!("by key: {own} answers, and {other:.1} to each of 24");
    assert!(6.0 * other < number(own), "by key: {own} and {other:.1}");
}
