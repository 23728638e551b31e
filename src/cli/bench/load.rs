//! `matchpoint bench load`: searches at fixed rates, whatever the server answers.

#![expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "figures to be shown"
)]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::speed::{Speed, machine};
use crate::cli::exit::{Exit, fail};
use crate::cli::output::{Output, percent, table};
use crate::cli::server_address::ServerAddress;
use crate::cli::standard_streams::read_image_at;
use matchpoint_client::proto::SearchRequest;
use matchpoint_client::proto::search_request::Query;
use matchpoint_client::{Client, ClientError};

/// Open loop: searches are sent when they are due, also when earlier ones have no answer yet, and
/// each is timed from the moment when it was due. So a server that stalls is charged for the wait, as
/// its callers would be.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  matchpoint bench load examples/photos/images/*/*.jpg
  matchpoint bench load --rate 50,100 --seconds 60 --deadline-ms 300 photos/*.jpg --json

Without --rate, the server's capacity is measured first, by --clients that each wait for their answer and, if
they are refused, come back when the server says; then so many times that is offered. The last run offers half
of the first, and says how long it took until every search was answered in time again. This program takes its
share of the CPU where it runs beside the server.")]
pub(super) struct BenchLoadArgs {
    /// The images to search for, in turn
    #[arg(required = true)]
    images: Vec<PathBuf>,
    #[command(flatten)]
    server: ServerAddress,
    /// The deployment to search; may be left out if the server has one
    #[arg(long, default_value = "", hide_default_value = true)]
    deployment: String,
    /// Searches a second, one run for each
    #[arg(long, value_name = "RATE,...", value_delimiter = ',')]
    rate: Vec<f64>,
    /// Without --rate: times the capacity
    #[arg(long, value_name = "TIMES,...", value_delimiter = ',', default_values_t = [0.5, 0.8, 1.0, 2.0, 5.0, 10.0], conflicts_with = "rate")]
    times: Vec<f64>,
    /// Searches at once while the capacity is measured
    #[arg(long, value_name = "N", default_value_t = 16)]
    clients: usize,
    /// Connections that share the searches
    #[arg(long, value_name = "N", default_value_t = 4)]
    connections: usize,
    /// Seconds of each run
    #[arg(long, value_name = "SECONDS", default_value_t = 10.0)]
    seconds: f64,
    /// How long an answer may take to be of use; sent along with each search
    #[arg(long, value_name = "MS", default_value_t = 1000)]
    deadline_ms: u64,
    /// Print as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct BenchLoadReport {
    machine: String,
    version: &'static str,
    images: usize,
    deadline_ms: u64,
    /// Answers a second to clients that wait for them; absent with `--rate`.
    capacity_per_second: Option<f64>,
    /// How these clients fared; absent with `--rate`.
    closed: Option<ClosedLoop>,
    runs: Vec<Run>,
    /// After the last run: seconds until every search was answered in time again.
    recovery_seconds: f64,
    /// And what was offered meanwhile.
    recovery: Run,
}

#[derive(Serialize)]
struct Run {
    offered_per_second: f64,
    sent: usize,
    /// Answers in time, a second: the goodput.
    good_per_second: f64,
    /// Of all answers, in time or not, from when each search was due.
    answered: Speed,
    /// Answers that came too late.
    late: usize,
    /// Searches that the server refused because it had too much to do.
    refused: usize,
    /// From when they were due until they were refused.
    refused_p99_us: f64,
    /// What else ended without an answer, by gRPC code.
    failed: BTreeMap<String, usize>,
}

/// Clients that each wait for their answer, and come back when they are told to.
#[derive(Serialize)]
struct ClosedLoop {
    clients: usize,
    /// From the first time that each search was sent until its answer.
    answered: Speed,
    /// Refusals on the way.
    refused: usize,
    /// Searches that ended without an answer.
    failed: usize,
}

/// The outcome of one search.
struct OfferedSearch {
    due: Instant,
    took: Duration,
    outcome: Result<(), String>,
}

impl BenchLoadArgs {
    pub(super) fn run(self) -> anyhow::Result<Exit> {
        let positive = |value: &f64| value.is_finite() && 0.0 < *value;
        let rates = if self.rate.is_empty() {
            &self.times
        } else {
            &self.rate
        };
        let counts = [self.clients, self.connections];
        if !rates.iter().all(positive) || !positive(&self.seconds) || counts.contains(&0) {
            let message = "rates, seconds, clients and connections are more than 0";
            return Err(fail(Exit::Usage, message));
        }
        let report = crate::cli::runtime::single_threaded()?.block_on(self.measure())?;
        Output::new(self.json).result(&report, text)?;
        Ok(Exit::Done)
    }

    async fn measure(&self) -> anyhow::Result<BenchLoadReport> {
        let images = self.images.iter().map(|path| {
            read_image_at(path).map_err(|cause| {
                let message = format!("{} cannot be read: {cause}", path.display());
                fail(Exit::NoInput, message)
            })
        });
        let images = images.collect::<anyhow::Result<Vec<Vec<u8>>>>()?;
        let mut clients = Vec::with_capacity(self.connections);
        for _ in 0..self.connections {
            clients.push(self.server.connect().await?);
        }
        let target = LoadTarget {
            clients,
            images,
            deployment: self.deployment.clone(),
            timeout: Duration::from_millis(self.deadline_ms),
        };
        let target = Arc::new(target);
        // An error that all searches would have is reported once, before anything is measured.
        target.search(0).await?;
        let output = Output::new(self.json);
        let lasting = Duration::from_secs_f64(self.seconds.min(86_400.0));
        let (closed, rates) = if self.rate.is_empty() {
            output.note("measuring the capacity");
            let closed = closed_loop(&target, self.clients, lasting).await?;
            let capacity = closed.answered.per_second;
            let rates = self.times.iter().map(|times| times * capacity).collect();
            (Some(closed), rates)
        } else {
            (None, self.rate.clone())
        };
        let deadline = Duration::from_millis(self.deadline_ms);
        let mut runs = Vec::with_capacity(rates.len());
        for &rate in &rates {
            output.note(&format!("offering {rate:.1} searches a second"));
            let (_, ended) = offer(&target, rate, lasting).await?;
            runs.push(Run::of(rate, lasting, deadline, &ended));
        }
        let rate = rates.first().copied().unwrap_or(1.0) / 2.0;
        let (started, ended) = offer(&target, rate, lasting).await?;
        let bad = |one: &&OfferedSearch| one.outcome.is_err() || deadline < one.took;
        let last_bad = ended.iter().filter(bad).map(|one| one.due).max();
        let recovery = last_bad.map_or(0.0, |due| (due - started).as_secs_f64());
        Ok(BenchLoadReport {
            machine: machine(),
            version: env!("CARGO_PKG_VERSION"),
            images: target.images.len(),
            deadline_ms: self.deadline_ms,
            capacity_per_second: closed.as_ref().map(|closed| closed.answered.per_second),
            closed,
            runs,
            recovery_seconds: recovery,
            recovery: Run::of(rate, lasting, deadline, &ended),
        })
    }
}

/// Where searches go.
struct LoadTarget {
    clients: Vec<Client>,
    images: Vec<Vec<u8>>,
    deployment: String,
    timeout: Duration,
}

impl LoadTarget {
    async fn search(&self, number: usize) -> Result<(), ClientError> {
        let image = self.images.get(number % self.images.len().max(1));
        let client = self.clients.get(number % self.clients.len().max(1));
        let Some((image, client)) = image.zip(client) else {
            return Ok(());
        };
        let request = SearchRequest {
            deployment: self.deployment.clone(),
            query: Some(Query::Image(image.clone().into())),
            ..SearchRequest::default()
        };
        client.search(request, Some(self.timeout)).await.map(drop)
    }
}

/// This many clients that each wait for their answer, and send their search again when the server says so.
async fn closed_loop(
    target: &Arc<LoadTarget>,
    clients: usize,
    lasting: Duration,
) -> anyhow::Result<ClosedLoop> {
    let started = Instant::now();
    let mut running = JoinSet::new();
    for client in 0..clients {
        let target = Arc::clone(target);
        running.spawn(async move {
            let (mut times, mut refused, mut failed) = (Vec::new(), 0, 0);
            for number in (client..).step_by(clients) {
                let begun = Instant::now();
                while lasting > started.elapsed() {
                    match target.search(number).await {
                        Ok(()) => times.push(begun.elapsed().as_secs_f64()),
                        Err(ClientError::Refused {
                            retry_after_ms: Some(pause),
                            ..
                        }) => {
                            refused += 1;
                            tokio::time::sleep(Duration::from_millis(pause.get().into())).await;
                            continue;
                        }
                        Err(_) => failed += 1,
                    }
                    break;
                }
                if lasting <= started.elapsed() {
                    break;
                }
            }
            (times, refused, failed)
        });
    }
    let (mut times, mut refused, mut failed) = (Vec::new(), 0, 0);
    for of_one in running.join_all().await {
        times.extend(of_one.0);
        refused += of_one.1;
        failed += of_one.2;
    }
    if times.is_empty() {
        return Err(fail(
            Exit::Unavailable,
            "the server answered no search in time: raise --deadline-ms, or say --rate",
        ));
    }
    Ok(ClosedLoop {
        clients,
        answered: Speed::of(times, started.elapsed().as_secs_f64()),
        refused,
        failed,
    })
}

/// Sends searches when they are due, and waits for the last answer.
async fn offer(
    target: &Arc<LoadTarget>,
    rate: f64,
    lasting: Duration,
) -> anyhow::Result<(Instant, Vec<OfferedSearch>)> {
    let count = (rate * lasting.as_secs_f64()).ceil() as usize;
    let started = Instant::now();
    let mut running = JoinSet::new();
    let mut ended = Vec::with_capacity(count);
    for number in 0..count {
        let due = started + Duration::from_secs_f64(number as f64 / rate);
        tokio::time::sleep_until(due).await;
        let target = Arc::clone(target);
        running.spawn(async move {
            let answer = target.search(number).await;
            let outcome = answer.map_err(|error| match error {
                ClientError::Refused { code, .. } => code,
                other @ (ClientError::Address { .. }
                | ClientError::Credentials { .. }
                | ClientError::Broken { .. }
                | ClientError::Unreachable { .. }) => other.to_string(),
            });
            OfferedSearch {
                due,
                took: due.elapsed(),
                outcome,
            }
        });
        while let Some(one) = running.try_join_next() {
            ended.push(one?);
        }
    }
    while let Some(one) = running.join_next().await {
        ended.push(one?);
    }
    Ok((started, ended))
}

/// The code of a server that has too much to do.
const REFUSED: &str = "ResourceExhausted";

impl Run {
    fn of(rate: f64, lasting: Duration, deadline: Duration, ended: &[OfferedSearch]) -> Self {
        let seconds = |one: &OfferedSearch| one.took.as_secs_f64();
        let answered: Vec<&OfferedSearch> =
            ended.iter().filter(|one| one.outcome.is_ok()).collect();
        let late = answered.iter().filter(|one| deadline < one.took).count();
        let (mut refused, mut failed) = (Vec::new(), BTreeMap::new());
        for one in ended {
            match &one.outcome {
                Ok(()) => {}
                Err(code) if code == REFUSED => refused.push(seconds(one)),
                Err(code) => *failed.entry(code.clone()).or_default() += 1,
            }
        }
        let lasting = lasting.as_secs_f64();
        Self {
            offered_per_second: rate,
            sent: ended.len(),
            good_per_second: (answered.len() - late) as f64 / lasting,
            answered: Speed::of(answered.iter().map(|one| seconds(one)).collect(), lasting),
            late,
            refused: refused.len(),
            refused_p99_us: Speed::of(refused, lasting).p99_us,
            failed,
        }
    }
}

fn text(report: &BenchLoadReport) -> String {
    let mut rows = vec![
        (
            "machine",
            format!("{}; Matchpoint {}", report.machine, report.version),
        ),
        (
            "searches",
            format!(
                "{} images in turn, an answer is good within {} ms of when it was due",
                report.images, report.deadline_ms
            ),
        ),
    ];
    if let Some(ClosedLoop {
        clients,
        answered,
        refused,
        failed,
    }) = &report.closed
    {
        let Speed {
            per_second,
            p50_us,
            p99_us,
        } = answered;
        rows.push((
            "capacity",
            format!(
                "{per_second:.1}/s to {clients} clients that wait and come back: p50 {:.1} ms, p99 {:.1} ms; {refused} refusals on the way, {failed} failed",
                p50_us / 1e3,
                p99_us / 1e3
            ),
        ));
    }
    let goodput = report.runs.iter().map(|run| run.good_per_second);
    let peak = goodput.fold(0.0, f64::max);
    let line = |run: &Run| {
        let failed: String = run
            .failed
            .iter()
            .map(|(code, count)| format!(", {count} {code}"))
            .collect();
        format!(
            "  offered {:>8.1}/s  good {:>7.1}/s ({})  p50 {:.1} ms, p99 {:.1} ms  late {}, refused {} (p99 {:.1} ms){failed}\n",
            run.offered_per_second,
            run.good_per_second,
            percent(run.good_per_second / peak.max(f64::MIN_POSITIVE)),
            run.answered.p50_us / 1e3,
            run.answered.p99_us / 1e3,
            run.late,
            run.refused,
            run.refused_p99_us / 1e3,
        )
    };
    let mut text = table(&rows);
    text.extend(report.runs.iter().map(line));
    text.push_str(&line(&report.recovery));
    text.push_str(&format!(
        "  in brackets: share of the best run. After the last: all in time again from {:.1} s on\n",
        report.recovery_seconds
    ));
    text
}
