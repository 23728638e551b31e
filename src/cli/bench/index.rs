//! `matchpoint bench index`: what a gallery of given vectors costs and finds, as it is served.

#![expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "figures to be shown"
)]

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde::Serialize;

use super::speed::{Speed, machine};
use crate::cli::exit::{Exit, fail};
use crate::cli::output::progress::ItemProgress;
use crate::cli::output::{Output, table};
use matchpoint_arrays::VectorTable;
use matchpoint_gallery::filter::ItemFilter;
use matchpoint_gallery::item::Item;
use matchpoint_gallery::params::IndexParams;
use matchpoint_gallery::view::{GalleryMatch, GalleryView, Probe};
use matchpoint_gallery::{Access, Gallery};
use matchpoint_vector::Embedding;

/// Everything is measured through the same code that serves. Recall is of the ten nearest, counted
/// on exact scores; the truth is found by comparing with every item.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  matchpoint bench index --base base.npy --queries queries.npy
  matchpoint bench index --base base.fvecs --queries queries.fvecs --threads 1,2 --ef 16,32,64,128 --json")]
pub(super) struct BenchIndexArgs {
    /// Vectors to enrol: .npy, .npz, Parquet or .fvecs
    #[arg(long, value_name = "FILE")]
    base: PathBuf,
    /// Vectors to search for, in a file of one of these kinds
    #[arg(long, value_name = "FILE")]
    queries: PathBuf,
    /// Queries to use, at most
    #[arg(long, value_name = "N", default_value_t = 1000)]
    queries_max: usize,
    /// Candidates that searches keep
    #[arg(long, value_name = "EF,...", value_delimiter = ',', default_values_t = [16, 24, 32, 48, 64, 96, 128, 256])]
    ef: Vec<usize>,
    /// Threads that search at once
    #[arg(long, value_name = "N,...", value_delimiter = ',', default_values_t = [1, 2])]
    threads: Vec<usize>,
    /// Items enrolled a second while searches are measured; the last tenth of the base is used
    #[arg(long, value_name = "RATE", default_value_t = 1000)]
    inserts: u32,
    /// Seconds that each rate is measured for
    #[arg(long, value_name = "SECONDS", default_value_t = 3.0)]
    seconds: f64,
    /// Folder for the gallery; it is made, and removed at the end
    #[arg(long, value_name = "DIR", default_value = "bench-index")]
    work: PathBuf,
    /// Print as JSON
    #[arg(long)]
    json: bool,
}

/// Opens a gallery in a process of its own.
#[derive(Debug, clap::Args)]
pub(super) struct BenchOpenArgs {
    /// The folder
    work: PathBuf,
}

#[derive(Serialize)]
struct BenchIndexReport {
    machine: String,
    version: &'static str,
    items: usize,
    dimension: usize,
    queries: usize,
    enrol: EnrolSpeed,
    open: OpeningCost,
    memory: MemoryCost,
    exact: Speed,
    searches: Vec<SearchSpeed>,
    filters: Vec<FilteredSpeed>,
    while_enrolling: WhileEnrolling,
}

#[derive(Serialize)]
struct EnrolSpeed {
    /// Items acknowledged a second, each in a transaction of its own.
    single_per_second: f64,
    /// In transactions of 100 and of 1,000.
    by_100_per_second: f64,
    by_1000_per_second: f64,
}

#[derive(Serialize)]
struct OpeningCost {
    /// Opening for the first time, which builds the index and its file.
    build_seconds: f64,
    /// Opening with all checksums.
    seconds: f64,
    /// Only reading the same files.
    read_seconds: f64,
    bytes_on_disk: u64,
}

#[derive(Serialize)]
struct MemoryCost {
    index_bytes_per_item: f64,
    vector_bytes_per_item: f64,
    /// Memory of the process that is no file: what opening added, for each item.
    resident_bytes_per_item: f64,
}

#[derive(Serialize)]
struct SearchSpeed {
    ef: usize,
    threads: usize,
    recall: f64,
    #[serde(flatten)]
    speed: Speed,
}

#[derive(Serialize)]
struct FilteredSpeed {
    /// Items that the filter takes, of a thousand.
    per_mille: usize,
    recall: f64,
    #[serde(flatten)]
    speed: Speed,
    /// The same, compared item by item.
    exact: Speed,
    /// The first search with a filter, which finds the rows it takes.
    first_us: f64,
}

#[derive(Serialize)]
struct WhileEnrolling {
    asked_per_second: u32,
    enrolled_per_second: f64,
    at_rest: Speed,
    meanwhile: Speed,
    /// After nothing more is enrolled, and linking is done.
    grown: Speed,
    settled_recall: f64,
    /// After the last item was enrolled.
    grown_recall: f64,
}

const K: usize = 10;
/// Of a thousand items, those that each filter takes.
const SHARES: [usize; 4] = [500, 100, 10, 1];

impl BenchOpenArgs {
    pub(super) fn run(self) -> anyhow::Result<Exit> {
        let before = resident();
        let gallery = open(&self.work)?;
        let after = resident();
        drop(gallery);
        Output::new(true).result(&after.saturating_sub(before), |_| String::new())?;
        Ok(Exit::Done)
    }
}

impl BenchIndexArgs {
    pub(super) fn run(self) -> anyhow::Result<Exit> {
        let output = Output::new(self.json);
        let report = self.measure(output)?;
        output.result(&report, text)?;
        Ok(Exit::Done)
    }

    fn measure(&self, output: Output) -> anyhow::Result<BenchIndexReport> {
        let options = matchpoint_arrays::ReadOptions {
            name: None,
            text: Some(Vec::new()),
            bytes_max: matchpoint_arrays::BYTES_MAX,
        };
        let base = matchpoint_arrays::read(&self.base, &options)?;
        let queries = matchpoint_arrays::read(&self.queries, &options)?;
        if base.dimension != queries.dimension {
            let (found, expected) = (queries.dimension, base.dimension);
            let message = format!("the queries have {found} components, and the base {expected}");
            return Err(fail(Exit::BadData, message));
        }
        if base.rows() < 1000 || self.threads.contains(&0) || self.seconds.is_nan() {
            let message = "it takes 1000 vectors or more, 1 thread or more, and a time";
            return Err(fail(Exit::Usage, message));
        }
        let work = WorkFolder::new(&self.work)?;
        let early = base.rows() - base.rows() / 10;
        let queries = vectors(&queries, 0, queries.rows().min(self.queries_max))?;
        output.note(&format!("enrolling {early} x {} vectors", base.dimension));
        let enrol = work.enrol(&base, early)?;
        output.note("building the index");
        let (gallery, open, resident) = work.reopen()?;
        let view = gallery.view();
        let memory = MemoryCost {
            index_bytes_per_item: share(view.index_bytes(), early),
            vector_bytes_per_item: share(view.vector_bytes(), early),
            resident_bytes_per_item: share(resident, early),
        };
        output.note("searching");
        let lasting = Duration::from_secs_f64(self.seconds.clamp(0.1, 600.0));
        let exact = Probe {
            exact: true,
            ..Probe::nearest(K)
        };
        Ok(BenchIndexReport {
            machine: machine(),
            version: env!("CARGO_PKG_VERSION"),
            items: early,
            dimension: base.dimension,
            queries: queries.len(),
            enrol,
            open,
            memory,
            exact: speed(&view, &queries, &exact, 1, lasting)?,
            searches: self.searches(&view, &queries, lasting)?,
            filters: filters(&view, &queries, lasting)?,
            while_enrolling: self.while_enrolling(&gallery, &base, &queries)?,
        })
    }

    fn searches(
        &self,
        view: &GalleryView,
        queries: &[Embedding],
        lasting: Duration,
    ) -> anyhow::Result<Vec<SearchSpeed>> {
        let truth = nearest_of(view, queries, None)?;
        let mut searches = Vec::new();
        for &ef in &self.ef {
            let probe = Probe {
                ef: Some(ef),
                ..Probe::nearest(K)
            };
            let recall = recall(view, queries, &probe, &truth)?;
            for &threads in &self.threads {
                searches.push(SearchSpeed {
                    ef,
                    threads,
                    recall,
                    speed: speed(view, queries, &probe, threads, lasting)?,
                });
            }
        }
        Ok(searches)
    }

    /// Searches at rest, then while items are enrolled at a fixed rate.
    fn while_enrolling(
        &self,
        gallery: &Gallery,
        base: &VectorTable,
        queries: &[Embedding],
    ) -> anyhow::Result<WhileEnrolling> {
        let late = base.rows() / 10;
        let rate = f64::from(self.inserts.max(1));
        let wanted = late.min((rate * self.seconds.clamp(0.1, 600.0) * 4.0) as usize);
        let lasting = Duration::from_secs_f64(wanted as f64 / rate);
        let probe = Probe {
            ef: Some(128),
            ..Probe::nearest(K)
        };
        let settled = gallery.view();
        let truth = nearest_of(&settled, queries, None)?;
        let settled_recall = recall(&settled, queries, &probe, &truth)?;
        let at_rest = speed(&settled, queries, &probe, 1, lasting)?;
        drop(settled);
        let done = AtomicBool::new(false);
        let first = base.rows() - late;
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    if gallery.link(16) == 0 {
                        std::thread::park_timeout(Duration::from_millis(1));
                    }
                }
            });
            let enrolling = scope.spawn(|| enrol_at(gallery, base, first, wanted, rate));
            let mut times = Vec::new();
            let started = Instant::now();
            let mut searching = || -> anyhow::Result<()> {
                for query in queries.iter().cycle() {
                    if enrolling.is_finished() {
                        break;
                    }
                    let view = gallery.view();
                    let begun = Instant::now();
                    view.nearest(query, &probe)?;
                    times.push(begun.elapsed().as_secs_f64());
                }
                Ok(())
            };
            let searched = searching();
            let took = started.elapsed().as_secs_f64();
            let last = gallery.view();
            done.store(true, Ordering::Relaxed);
            let enrolled = enrolling.join();
            searched?;
            let enrolled = enrolled.map_err(|_panic| anyhow::anyhow!("a thread panicked"))??;
            let truth = nearest_of(&last, queries, None)?;
            let grown_recall = recall(&last, queries, &probe, &truth)?;
            while 0 < gallery.link(1000) {}
            let grown = speed(&gallery.view(), queries, &probe, 1, lasting / 4)?;
            Ok(WhileEnrolling {
                asked_per_second: self.inserts,
                enrolled_per_second: wanted as f64 / enrolled,
                at_rest,
                meanwhile: Speed::of(times, took),
                settled_recall,
                grown,
                grown_recall,
            })
        })
    }
}

/// Enrols rows at a rate, and returns the seconds that it took. Rows that are due together share a
/// transaction, as in the server.
fn enrol_at(
    gallery: &Gallery,
    base: &VectorTable,
    first: usize,
    wanted: usize,
    rate: f64,
) -> anyhow::Result<f64> {
    let started = Instant::now();
    let mut next = 0;
    while next < wanted {
        let due = (started.elapsed().as_secs_f64() * rate) as usize;
        let upto = due.min(wanted).min(next + 1000);
        if upto <= next {
            std::thread::park_timeout(Duration::from_millis(1));
            continue;
        }
        gallery.upsert(items(base, first + next, first + upto)?)?;
        next = upto;
    }
    Ok(started.elapsed().as_secs_f64())
}

/// A folder with the gallery, removed when this is dropped.
struct WorkFolder(PathBuf);

impl WorkFolder {
    fn new(path: &Path) -> anyhow::Result<Self> {
        if let Err(cause) = fs::create_dir(path) {
            let message = format!(
                "cannot make the folder {}: {cause}; name another with --work",
                path.display()
            );
            return Err(fail(Exit::Usage, message));
        }
        Ok(Self(path.to_owned()))
    }

    fn file(&self) -> PathBuf {
        self.0.join("items.db")
    }

    /// Enrols the first rows: some one by one, some in batches, and the rest in large ones.
    fn enrol(&self, base: &VectorTable, count: usize) -> anyhow::Result<EnrolSpeed> {
        let gallery = Gallery::create(&self.file(), base.dimension, "bench", "bench")?;
        let mut progress = ItemProgress::new("enrol", count);
        let mut next = 0;
        let mut enrol = |batch: usize, most: usize| -> anyhow::Result<f64> {
            let (first, started) = (next, Instant::now());
            while next < count && next < first + most {
                let upto = (next + batch).min(count).min(first + most);
                gallery.upsert(items(base, next, upto)?)?;
                (next..upto).for_each(|_| progress.step());
                next = upto;
            }
            Ok((next - first) as f64 / started.elapsed().as_secs_f64())
        };
        let enrolled = EnrolSpeed {
            single_per_second: enrol(1, count / 100)?,
            by_100_per_second: enrol(100, count / 10)?,
            by_1000_per_second: enrol(1000, count)?,
        };
        progress.finish();
        Ok(enrolled)
    }

    /// Builds the index, reads the files, and opens the gallery once more; also returns how much memory of
    /// this process that added.
    fn reopen(&self) -> anyhow::Result<(Gallery, OpeningCost, usize)> {
        let build = Instant::now();
        drop(open(&self.0)?);
        let build_seconds = build.elapsed().as_secs_f64();
        let read = Instant::now();
        let bytes_on_disk = self.read()?;
        let read_seconds = read.elapsed().as_secs_f64();
        // In a new process, whose memory holds nothing else.
        let child = Command::new(std::env::current_exe()?)
            .args(["bench", "open"])
            .arg(&self.0)
            .output()?;
        let resident = serde_json::from_slice(&child.stdout)?;
        let opening = Instant::now();
        let gallery = open(&self.0)?;
        let open = OpeningCost {
            build_seconds,
            seconds: opening.elapsed().as_secs_f64(),
            read_seconds,
            bytes_on_disk,
        };
        Ok((gallery, open, resident))
    }

    /// Reads the files; returns their length.
    fn read(&self) -> anyhow::Result<u64> {
        let (mut bytes, mut piece) = (0, vec![0; 1 << 20]);
        for name in ["items.db", "items.graph"] {
            let mut file = File::open(self.0.join(name))?;
            loop {
                let read = file.read(&mut piece)?;
                bytes += read as u64;
                if read == 0 {
                    break;
                }
            }
        }
        Ok(bytes)
    }
}

impl Drop for WorkFolder {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}

fn open(work: &Path) -> anyhow::Result<Gallery> {
    let params = IndexParams {
        graph_from_items: 1,
        // The least: each search sets its own.
        ef_search: 1,
        ..IndexParams::default()
    };
    Ok(Gallery::open(
        &work.join("items.db"),
        Access::ReadWrite,
        params,
    )?)
}

/// Rows as items, with a key for each share that they belong to.
fn items(base: &VectorTable, from: usize, to: usize) -> anyhow::Result<Vec<Item>> {
    let rows = vectors(base, from, to)?.into_iter().zip(from..);
    let items = rows.map(|(embedding, row)| {
        // Spread over the rows, whatever order the vectors have.
        let place = row.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 20;
        let shares = SHARES.iter().filter(|share| place % 1000 < **share);
        Item {
            id: format!("{row:08}"),
            label: format!("{}", row % 1000),
            metadata: shares
                .map(|share| (format!("of{share}"), "yes".to_owned()))
                .collect(),
            embedding,
            source_sha256: None,
            image: None,
        }
    });
    Ok(items.collect())
}

fn vectors(table: &VectorTable, from: usize, to: usize) -> anyhow::Result<Vec<Embedding>> {
    let rows = table
        .vectors
        .chunks(table.dimension)
        .skip(from)
        .take(to - from);
    let unit = rows.map(|row| Ok(Embedding::normalise(row.to_vec())?));
    unit.collect()
}

/// Ids of the nearest items of each query.
type ExactMatches = Vec<Vec<GalleryMatch>>;

/// The nearest by comparing with every item, on all cores.
fn nearest_of(
    view: &GalleryView,
    queries: &[Embedding],
    filter: Option<&ItemFilter>,
) -> anyhow::Result<ExactMatches> {
    let probe = Probe {
        exact: true,
        filter,
        ..Probe::nearest(K)
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let part = queries.len().div_ceil(threads).max(1);
    std::thread::scope(|scope| {
        let parts: Vec<_> = queries
            .chunks(part)
            .map(|part| {
                scope.spawn(|| -> Result<ExactMatches, _> {
                    part.iter()
                        .map(|query| view.nearest(query, &probe))
                        .collect()
                })
            })
            .collect();
        let mut all = Vec::with_capacity(queries.len());
        for part in parts {
            all.extend(
                part.join()
                    .map_err(|_panic| anyhow::anyhow!("a thread panicked"))??,
            );
        }
        Ok(all)
    })
}

/// The share of the true nearest that searches find; an item as near as the last of them counts.
fn recall(
    view: &GalleryView,
    queries: &[Embedding],
    probe: &Probe<'_>,
    truth: &ExactMatches,
) -> anyhow::Result<f64> {
    let (mut found, mut wanted) = (0, 0);
    for (query, truth) in queries.iter().zip(truth) {
        let answer = view.nearest(query, probe)?;
        wanted += truth.len();
        if let Some(last) = truth.last() {
            found += answer
                .iter()
                .filter(|one| last.score <= one.score)
                .count()
                .min(truth.len());
        }
    }
    Ok(share(found, wanted))
}

/// Searches for a while on this many threads at once.
fn speed(
    view: &GalleryView,
    queries: &[Embedding],
    probe: &Probe<'_>,
    threads: usize,
    lasting: Duration,
) -> anyhow::Result<Speed> {
    let search = |first: usize| -> anyhow::Result<Vec<f64>> {
        let (mut times, started) = (Vec::new(), Instant::now());
        for query in queries.iter().cycle().skip(first) {
            let begun = Instant::now();
            view.nearest(query, probe)?;
            times.push(begun.elapsed().as_secs_f64());
            if lasting <= started.elapsed() {
                break;
            }
        }
        Ok(times)
    };
    let started = Instant::now();
    let times = std::thread::scope(|scope| {
        let running: Vec<_> = (0..threads)
            .map(|thread| scope.spawn(move || search(thread * queries.len() / threads)))
            .collect();
        let mut all = Vec::new();
        for one in running {
            all.extend(
                one.join()
                    .map_err(|_panic| anyhow::anyhow!("a thread panicked"))??,
            );
        }
        anyhow::Ok(all)
    })?;
    Ok(Speed::of(times, started.elapsed().as_secs_f64()))
}

fn filters(
    view: &GalleryView,
    queries: &[Embedding],
    lasting: Duration,
) -> anyhow::Result<Vec<FilteredSpeed>> {
    let mut all = Vec::new();
    for per_mille in SHARES {
        let filter = ItemFilter::parse(&format!("metadata.of{per_mille} = yes"))?;
        let probe = Probe {
            filter: Some(&filter),
            ef: Some(128),
            ..Probe::nearest(K)
        };
        let first = Instant::now();
        if let Some(query) = queries.first() {
            view.nearest(query, &probe)?;
        }
        let first_us = first.elapsed().as_secs_f64() * 1e6;
        let truth = nearest_of(view, queries, Some(&filter))?;
        let exact = Probe {
            exact: true,
            ..probe
        };
        all.push(FilteredSpeed {
            per_mille,
            recall: recall(view, queries, &probe, &truth)?,
            speed: speed(view, queries, &probe, 1, lasting)?,
            exact: speed(view, queries, &exact, 1, lasting)?,
            first_us,
        });
    }
    Ok(all)
}

fn share(part: usize, of: usize) -> f64 {
    part as f64 / of.max(1) as f64
}

/// Bytes of this process in memory that belong to no file; 0 if the system does not report it.
fn resident() -> usize {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:"));
    let number = line.and_then(|line| line.split_whitespace().next()?.parse::<usize>().ok());
    number.unwrap_or(0) * 1024
}

fn threads_word(count: usize) -> &'static str {
    if count == 1 { "thread" } else { "threads" }
}

fn text(report: &BenchIndexReport) -> String {
    let BenchIndexReport {
        enrol,
        open,
        memory,
        while_enrolling: growing,
        ..
    } = report;
    let mut text = format!(
        "{} items x {}, {} queries, {K} nearest\n",
        report.items, report.dimension, report.queries
    );
    let speed = |speed: &Speed| {
        format!(
            "{:.0}/s, p50 {:.0} us, p99 {:.0} us",
            speed.per_second, speed.p50_us, speed.p99_us
        )
    };
    text.push_str(&table(&[
        ("machine", format!("{}; Matchpoint {}", report.machine, report.version)),
        (
            "enrolled",
            format!(
                "{:.0} a second one by one, {:.0} by 100, {:.0} by 1000, each on the disk",
                enrol.single_per_second, enrol.by_100_per_second, enrol.by_1000_per_second
            ),
        ),
        (
            "opened",
            format!(
                "{:.2} s, first {:.2} s with the index; reading the files {:.2} s, {} bytes",
                open.seconds, open.build_seconds, open.read_seconds, open.bytes_on_disk
            ),
        ),
        (
            "an item",
            format!(
                "{:.0} bytes of index, {:.0} of vectors in memory, {:.0} in all with id, label and metadata",
                memory.index_bytes_per_item, memory.vector_bytes_per_item, memory.resident_bytes_per_item
            ),
        ),
        ("exact", speed(&report.exact)),
    ]));
    for one in &report.searches {
        let line = speed(&one.speed);
        text.push_str(&format!(
            "  ef {:>4}, {} {:<7}  recall {:.4}, {line}\n",
            one.ef,
            one.threads,
            threads_word(one.threads),
            one.recall
        ));
    }
    for one in &report.filters {
        text.push_str(&format!(
            "  filter {:>5.1} %  recall {:.4}, {}; item by item {}; the first {:.0} us\n",
            one.per_mille as f64 / 10.0,
            one.recall,
            speed(&one.speed),
            speed(&one.exact),
            one.first_us
        ));
    }
    text.push_str(&format!(
        "  at rest            {}\n  while enrolling    {}, {:.0} items a second of {} asked\n  enrolled and linked {}\n  recall             {:.4} settled, {:.4} grown\n",
        speed(&growing.at_rest), speed(&growing.meanwhile), growing.enrolled_per_second,
        growing.asked_per_second, speed(&growing.grown), growing.settled_recall, growing.grown_recall
    ));
    text
}
