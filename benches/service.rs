//! The service against the same steps without it: what does gRPC, the queue and the decision cost?
//!
//! Rates measured in turn in rounds, all on the same photographs with the same number of worker
//! threads: the model's run alone; a bare loop over decode, resize and run; the same with the
//! search and the decision, called in-process, with the journal and without; `Search` over gRPC with concurrent clients; and
//! `build` as its own process, whole. Then one request after the other: what a call adds to the bare
//! steps, and what recording adds to a search. Ratios of medians are what to quote: machines differ, and
//! other work disturbs.
//!
//! `cargo bench --bench service` (or `make bench`). `BENCH_SECONDS` sets the length of
//! one measurement (default 4), `BENCH_ROUNDS` their number (default 5). With `BENCH_ALONE` set, only the
//! model's run is measured, once (`benches/peers/embed.py`).

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::indexing_slicing,
    reason = "a benchmark prints its figures, takes its length from the environment, and fails by panicking"
)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use matchpoint::config::{ServerConfig, ServerFlags};
use matchpoint::deployment::{Deployment, Query, SearchOptions};
use matchpoint::server::{self, ServedState};
use matchpoint_client::Client;
use matchpoint_client::proto::{SearchRequest, search_request};
use matchpoint_embed::caller::{Caller, Cancellation};
use matchpoint_embed::embedder::Embedder;
use matchpoint_embed::pixels::ImageLimits;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
const CLIENTS: usize = 8;

fn main() {
    // `cargo test --benches` asks for nothing to be measured.
    if std::env::args().any(|argument| argument == "--test") {
        return;
    }
    let number = |name: &str, default: u64| {
        std::env::var(name)
            .ok()
            .and_then(|text| text.parse().ok())
            .unwrap_or(default)
    };
    let length = Duration::from_secs(number("BENCH_SECONDS", 4));
    let rounds = number("BENCH_ROUNDS", 5);
    let folder = tempfile::tempdir().unwrap();
    let bench = Bench::new(&folder.path().join("bench"), true, length);
    if std::env::var_os("BENCH_ALONE").is_some() {
        println!("{:.2}", bench.run_alone());
        return;
    }
    let unrecorded = Bench::new(&folder.path().join("unrecorded"), false, length);
    println!("machine   {}", machine());
    println!("commit    {}", commit());
    println!(
        "workers   {} threads, {CLIENTS} gRPC clients, {} photographs, {rounds} rounds of {} s",
        bench.config.engine.workers.count(1),
        bench.images.len(),
        length.as_secs()
    );

    let runtime = tokio::runtime::Runtime::new().unwrap();
    let mut rates: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    for round in 1..=rounds {
        let measured = [
            ("0 run alone", bench.run_alone()),
            ("1 bare loop", bench.bare()),
            ("2 in-process", runtime.block_on(bench.in_process())),
            ("2 unrecorded", runtime.block_on(unrecorded.in_process())),
            ("3 gRPC", runtime.block_on(bench.over_grpc())),
            ("4 build", build_rate(folder.path())),
        ];
        let line: Vec<String> = measured
            .iter()
            .map(|(name, rate)| format!("{name} {rate:.1}"))
            .collect();
        println!("round {round}   {}  images/s", line.join("   "));
        for (name, rate) in measured {
            rates.entry(name).or_default().push(rate);
        }
    }
    let medians: Vec<(&str, f64)> = rates
        .into_iter()
        .map(|(name, mut rates)| (name, median(&mut rates)))
        .collect();
    let bare = medians.get(1).map_or(1.0, |(_, rate)| *rate);
    println!(
        "\n{:<14} {:>10}  {:>12}",
        "median", "images/s", "of bare loop"
    );
    for (name, rate) in medians {
        println!("{name:<14} {rate:>10.1}  {:>11.1}%", 100.0 * rate / bare);
    }
    runtime.block_on(one_by_one(&bench, &unrecorded));
}

/// Prints what a call adds to the bare steps, and recording to a search.
async fn one_by_one(bench: &Bench, unrecorded: &Bench) {
    let [mut steps, mut calls] = bench.one_by_one().await;
    println!("\none request after the other, ms: p50, p99");
    for (name, times) in [("bare steps", &mut steps), ("gRPC", &mut calls)] {
        println!(
            "{name:<14} {:>7.3} {:>7.3}",
            median(times),
            part(times, 0.99)
        );
    }
    println!(
        "added          {:>7.3}",
        median(&mut calls) - median(&mut steps)
    );
    let [mut with, mut without] = recording(bench, unrecorded).await;
    let (with, without) = (median(&mut with), median(&mut without));
    let added = 1e3 * (with - without);
    let share = 100.0 * (with - without) / median(&mut calls);
    println!(
        "\na search by a vector, us: {:.2} recorded, {:.2} not; recording adds {added:.2}, {share:.3}% of an image's call",
        1e3 * with,
        1e3 * without,
    );
}

/// Times of searches by vectors with the journal and without, in turn, in ms.
async fn recording(with: &Bench, without: &Bench) -> [Vec<f64>; 2] {
    let mut embedder = with.deployment().loaded().model.embedder().unwrap();
    let limits = with.limits();
    let mut embed = |(_, image): &(PathBuf, Vec<u8>)| {
        embedder
            .embed(image, &limits, &Cancellation::never())
            .unwrap()
            .embedding
    };
    let queries: Vec<_> = with.images.iter().take(50).map(&mut embed).collect();
    let deployments = [with.deployment(), without.deployment()];
    let mut times = [Vec::new(), Vec::new()];
    for turn in 0..20_000 {
        let query = queries.get(turn % queries.len()).unwrap();
        // Which is first changes, so that neither always finds a warm cache.
        for place in [turn % 2, 1 - turn % 2] {
            let query = Query::Embedding(query.as_slice().to_vec());
            let started = Instant::now();
            let found =
                deployments[place].search(Caller::default(), query, SearchOptions::nearest(10));
            assert!(!found.await.unwrap().hits.is_empty());
            times[place].push(started.elapsed().as_secs_f64() * 1e3);
        }
    }
    times
}

struct Bench {
    config: ServerConfig,
    loaded: Arc<ServedState>,
    images: Vec<(PathBuf, Vec<u8>)>,
    length: Duration,
}

impl Bench {
    /// A deployment of the sample, opened to be served.
    fn new(deployment: &Path, journal: bool, length: Duration) -> Self {
        build(deployment, "gallery.csv");
        let mut config = config(deployment);
        config.monitoring.journal = journal;
        Self {
            loaded: Arc::new(server::load(&config).unwrap()),
            config,
            images: images(),
            length,
        }
    }

    fn deployment(&self) -> Arc<Deployment> {
        Arc::clone(self.loaded.deployments.values().next().unwrap())
    }

    fn limits(&self) -> ImageLimits {
        ImageLimits {
            bytes_max: self.config.engine.image_bytes_max,
            decode_bytes_max: self.config.engine.image_decode_bytes_max,
        }
    }

    /// ONNX Runtime and nothing else: one tensor, again and again, on every worker thread.
    fn run_alone(&self) -> f64 {
        let tensor: Vec<f32> = (0..3 * 224 * 224)
            .map(|i| (i % 255) as f32 / 128.0 - 1.0)
            .collect();
        self.on_every_worker(|embedder, _image| drop(embedder.embed_tensor(&tensor).unwrap()))
    }

    /// Decode, resize, run: on every worker thread, and nothing else.
    fn bare(&self) -> f64 {
        let limits = self.limits();
        self.on_every_worker(|embedder, image| {
            drop(
                embedder
                    .embed(image, &limits, &Cancellation::never())
                    .unwrap(),
            );
        })
    }

    fn on_every_worker(&self, work: impl Fn(&mut Embedder, &[u8]) + Sync) -> f64 {
        let done = AtomicU64::new(0);
        let started = Instant::now();
        std::thread::scope(|scope| {
            for worker in 0..self.config.engine.workers.count(1) {
                let mut embedder = self.deployment().loaded().model.embedder().unwrap();
                let (done, work) = (&done, &work);
                scope.spawn(move || {
                    let mut next = self.images.iter().cycle().skip(worker * 7);
                    while started.elapsed() < self.length {
                        work(&mut embedder, &next.next().unwrap().1);
                        done.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
        });
        done.load(Ordering::Relaxed) as f64 / started.elapsed().as_secs_f64()
    }

    async fn in_process(&self) -> f64 {
        let deployment = self.deployment();
        self.clients(move |image| {
            let deployment = Arc::clone(&deployment);
            async move {
                let options = SearchOptions::nearest(10);
                deployment
                    .search(Caller::default(), Query::Image(image.into()), options)
                    .await
                    .unwrap();
            }
        })
        .await
    }

    async fn over_grpc(&self) -> f64 {
        let (address, stop) = self.serve().await;
        let mut clients = Vec::new();
        for _ in 0..CLIENTS {
            clients.push(Client::connect(&address).await.unwrap());
        }
        let turn = AtomicU64::new(0);
        let rate = self
            .clients(move |image| {
                let turn = turn.fetch_add(1, Ordering::Relaxed);
                let client = clients
                    .get(usize::try_from(turn).unwrap() % CLIENTS)
                    .unwrap()
                    .clone();
                async move {
                    client.search(request(image), None).await.unwrap();
                }
            })
            .await;
        stop.await;
        rate
    }

    /// Times of the bare steps and of calls, one after the other and in turn, in ms.
    async fn one_by_one(&self) -> [Vec<f64>; 2] {
        let (address, stop) = self.serve().await;
        let client = Client::connect(&address).await.unwrap();
        let mut embedder = self.deployment().loaded().model.embedder().unwrap();
        let limits = self.limits();
        let mut times = [Vec::new(), Vec::new()];
        for (_, image) in self.images.iter().cycle().take(1_500) {
            let started = Instant::now();
            tokio::task::block_in_place(|| {
                drop(
                    embedder
                        .embed(image, &limits, &Cancellation::never())
                        .unwrap(),
                );
            });
            times[0].push(started.elapsed().as_secs_f64() * 1e3);
            let started = Instant::now();
            client.search(request(image.clone()), None).await.unwrap();
            times[1].push(started.elapsed().as_secs_f64() * 1e3);
        }
        stop.await;
        times
    }

    /// Starts a server; its address, and what ends it.
    async fn serve(&self) -> (String, impl Future<Output = ()>) {
        let listeners = server::Listeners::open(&self.config).unwrap();
        let address = listeners.local_addr().unwrap().to_string();
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let (config, loaded) = (self.config.clone(), self.loaded());
        let serving = tokio::spawn(async move {
            let stopped = async { stopped.await.unwrap_or_default() };
            server::serve(listeners, &config, move || Ok(loaded), stopped).await
        });
        let client = Client::connect(&address).await.unwrap();
        client.wait_until_ready().await.unwrap();
        let end = async move {
            stop.send(()).unwrap();
            serving.await.unwrap().unwrap();
        };
        (address, end)
    }

    /// What is loaded, shared with a server that is started for one round.
    fn loaded(&self) -> ServedState {
        ServedState {
            places: BTreeMap::new(),
            default: self.loaded.default.clone(),
            models: None,
            deployments: self.loaded.deployments.clone(),
            unopened: Vec::new(),
            runtime_version: self.loaded.runtime_version.clone(),
        }
    }

    /// Keeps `CLIENTS` requests under way, and counts those that were answered.
    async fn clients<F>(&self, ask: impl Fn(Vec<u8>) -> F) -> f64
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let mut next = self.images.iter().cycle();
        let mut under_way = tokio::task::JoinSet::new();
        let (started, mut done) = (Instant::now(), 0_u64);
        while started.elapsed() < self.length {
            while under_way.len() < CLIENTS {
                under_way.spawn(ask(next.next().unwrap().1.clone()));
            }
            under_way.join_next().await.unwrap().unwrap();
            done += 1;
        }
        let rate = done as f64 / started.elapsed().as_secs_f64();
        under_way.join_all().await;
        rate
    }
}

/// The program's own rate, over every photograph of the sample, without its start.
fn build_rate(folder: &Path) -> f64 {
    let deployment = folder.join(format!("build-{}", uuid::Uuid::now_v7()));
    let report = build(&deployment, "images");
    report
        .get("images_per_second")
        .and_then(serde_json::Value::as_f64)
        .unwrap()
}

fn build(deployment: &Path, manifest: &str) -> serde_json::Value {
    let output = Command::new(env!("CARGO_BIN_EXE_matchpoint"))
        .arg("build")
        .arg(deployment)
        .arg("--images")
        .arg(Path::new(ROOT).join("examples/photos").join(manifest))
        .arg("--model")
        .arg(Path::new(ROOT).join("models/efficientnet-lite0"))
        .arg("--json")
        .current_dir(ROOT)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_slice(&output.stdout).unwrap()
}

fn request(image: Vec<u8>) -> SearchRequest {
    SearchRequest {
        query: Some(search_request::Query::Image(image.into())),
        ..SearchRequest::default()
    }
}

fn config(deployment: &Path) -> ServerConfig {
    let runtime = Path::new(ROOT).join(".cache/onnxruntime/1.32.0/libonnxruntime.so");
    let runtime = runtime.to_str().unwrap();
    let environment = BTreeMap::from([
        ("MATCHPOINT_LISTEN", "127.0.0.1:0"),
        ("MATCHPOINT_ONNXRUNTIME", runtime),
    ]);
    ServerFlags::default()
        .resolve_for(&environment, deployment)
        .unwrap()
}

fn images() -> Vec<(PathBuf, Vec<u8>)> {
    let folder = Path::new(ROOT).join("examples/photos/images");
    let mut paths: Vec<PathBuf> = std::fs::read_dir(folder)
        .unwrap()
        .flat_map(|label| std::fs::read_dir(label.unwrap().path()).unwrap())
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.sort();
    paths
        .into_iter()
        .map(|path| (path.clone(), std::fs::read(path).unwrap()))
        .collect()
}

fn machine() -> String {
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let line = |name: &str| {
        let line = cpuinfo.lines().find(|line| line.starts_with(name));
        line.and_then(|line| line.split_once(": "))
            .map_or("", |(_, value)| value)
            .to_owned()
    };
    let flags = line("flags");
    let widest = ["avx512_vnni", "avx512f", "avx2"]
        .into_iter()
        .find(|flag| flags.contains(flag));
    let cpus = std::thread::available_parallelism().map_or(0, usize::from);
    format!(
        "{}, {cpus} CPUs, {}",
        line("model name"),
        widest.unwrap_or("no wide vectors")
    )
}

fn commit() -> String {
    let output = Command::new("git")
        .args(["describe", "--always", "--dirty"])
        .current_dir(ROOT)
        .output();
    output.map_or_else(
        |_| "unknown".to_owned(),
        |output| String::from_utf8_lossy(&output.stdout).trim().to_owned(),
    )
}

fn median(values: &mut [f64]) -> f64 {
    part(values, 0.5)
}

/// The value that so large a part of them is below.
fn part(values: &mut [f64], share: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let place = (values.len() as f64 * share) as usize;
    values.get(place).copied().unwrap_or(f64::NAN)
}
