//! Configuration: flags, then `MATCHPOINT_*`, then a TOML file, then defaults; every mistake at once.

mod access;
mod flags;
mod listen;
mod qdrant;
mod raw_settings;
mod settings;
mod store;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use matchpoint_calibration::monitoring::strata::{Inclusion, Strata};
use matchpoint_embed::decode_memory::DecodeBudget;
use matchpoint_embed::{Compute, Device};
use matchpoint_qdrant::QdrantAddress;

pub use access::{AccessConfig, TlsFiles, TokensConfig};
pub use flags::{EngineFlags, ServerFlags};
pub use listen::ListenAddress;
pub use raw_settings::{
    API_KEY_VARIABLE, Environment, ProcessEnvironment, RawSettings, SettingSource, SettingValue,
};
pub use settings::{SETTINGS, Setting};
pub use store::{StoreConfig, store_shown};

/// What every command that embeds images needs.
#[derive(Clone, Debug)]
pub struct EngineConfig {
    /// Explicit path of ONNX Runtime's library, and the path in `ORT_DYLIB_PATH`.
    pub onnxruntime: Option<PathBuf>,
    /// The path in `ORT_DYLIB_PATH`.
    pub ort_dylib_path: Option<PathBuf>,
    /// What models compute on, and how much of it.
    pub compute: Compute,
    /// Number of worker threads.
    pub workers: Workers,
    /// Largest encoded image, in bytes.
    pub image_bytes_max: usize,
    /// The most memory that decoding one image may take, in bytes.
    pub image_decode_bytes_max: u64,
    /// Gallery size from which a graph proposes candidates.
    pub graph_from_items: usize,
    /// Log filter.
    pub log: String,
    /// Whether logs are JSON.
    pub log_json: bool,
}

/// How many worker threads each model has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Workers {
    /// This many.
    Count(usize),
    /// One for each CPU, and one for each image of a batch if they share a session.
    PerCpu(usize),
}

impl Workers {
    /// Their number, for a model that runs up to this many images at once. Each waits for one of them,
    /// while others have to be decoded for the next run.
    #[must_use]
    pub fn count(self, joined_max: usize) -> usize {
        match self {
            Self::Count(count) => count,
            Self::PerCpu(cpus) => cpus + if 1 < joined_max { joined_max } else { 0 },
        }
    }
}

/// What the CPUs are used for.
#[derive(Clone, Copy, PartialEq)]
enum Profile {
    /// Many requests at once: a session with one thread for each CPU.
    Throughput,
    /// One request soon: one session that has all CPUs.
    Latency,
}

/// What the server needs besides.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// The part shared with the other commands.
    pub engine: EngineConfig,
    /// The deployments to serve: a name, if not the recorded one, and a folder or the address of a
    /// snapshot.
    pub deployments: Vec<(Option<String>, PathBuf)>,
    /// Model folder in place of the recorded ones.
    pub model: Option<PathBuf>,
    /// The folder where snapshots among them are restored.
    pub restore_dir: Option<PathBuf>,
    /// Whether the deployments are read-only.
    pub read_only: bool,
    /// Whether no other copy of a restored deployment takes writes.
    pub only_copy: bool,
    /// The store that the deployments are kept in; `None` if each is kept by itself.
    pub store: Option<StoreConfig>,
    /// The Qdrant that proposes candidates; `None` if each deployment has an index of its own.
    pub qdrant: Option<QdrantAddress>,
    /// Address of the gRPC service.
    pub listen: ListenAddress,
    /// When connections are accepted.
    pub listen_when: ListenWhen,
    /// Address of the console; `None` if there is none.
    pub console_listen: Option<SocketAddr>,
    /// Who may call, and over which connections.
    pub access: AccessConfig,
    /// Address of the Prometheus endpoint.
    pub metrics_listen: Option<SocketAddr>,
    /// Requests that may wait for a worker.
    pub queue_len_max: usize,
    /// How long searches may wait for a worker, but for bursts; `None` without a limit.
    pub queue_delay: Option<Duration>,
    /// Largest gRPC message, in bytes.
    pub message_bytes_max: usize,
    /// Concurrent calls on one connection.
    pub streams_per_connection_max: u32,
    /// Items of one stream worked on at once.
    pub stream_in_flight_max: usize,
    /// Longest time a unary call may take.
    pub request_timeout: Duration,
    /// Longest wait for requests under way at shutdown.
    pub drain: Duration,
    /// Whether gRPC reflection is served.
    pub reflection: bool,
    /// Where snapshots, and deployments restored from them, are kept.
    pub data_dir: Option<PathBuf>,
    /// What clients may use, all together.
    pub limits: LimitsConfig,
    /// How decisions are monitored.
    pub monitoring: MonitoringConfig,
    /// How often canaries are replayed; `None` for never.
    pub canaries_every: Option<Duration>,
}

impl ServerConfig {
    /// Whether copies of one snapshot could come to differ by what they are sent.
    #[must_use]
    pub fn copies_differ(&self) -> bool {
        !self.only_copy && self.store.is_none()
    }
}

/// When a server accepts connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListenWhen {
    /// Before it loads: calls are answered that it is loading.
    Start,
    /// Once everything is loaded.
    Ready,
}

/// What clients may use, all together, and for how long.
#[derive(Clone, Copy, Debug)]
pub struct LimitsConfig {
    /// Connections at once.
    pub connections: u64,
    /// Longest time that a connection may be open without a call.
    pub idle: Duration,
    /// The longest time until a connection has to speak HTTP/2.
    pub handshake: Duration,
    /// Calls at once.
    pub calls: u64,
    /// Bytes of messages that arrive or are processed, at once.
    pub receive_bytes: u64,
    /// Bytes of answers that wait to be read, at once.
    pub answer_bytes: u64,
    /// Longest pause of a client within a message, and in reading an answer.
    pub stall: Duration,
    /// Share of these that one address may take, in (0, 1].
    pub address_share: f64,
}

/// How decisions are recorded and audited.
#[derive(Clone, Debug)]
pub struct MonitoringConfig {
    /// Whether they are recorded.
    pub journal: bool,
    /// Where, for deployments that are read-only; otherwise in their folders.
    pub journal_dir: Option<PathBuf>,
    /// How long decisions are kept that were not sampled, and images.
    pub kept: Duration,
    /// How long sampled and annotated decisions are kept.
    pub audited_kept: Duration,
    /// Largest journal.
    pub bytes_max: u64,
    /// Which decisions are sampled for the audit.
    pub strata: Strata,
    /// How many of them a day; `None` for as many as the strata's rates give.
    pub labels_per_day: Option<u32>,
    /// Whether the images of sampled decisions are kept.
    pub images: bool,
    /// Probability of ever raising a false alarm, for each rate of an operating point.
    pub alarm_delta: f64,
    /// Share of live queries that a shadow deployment gets too, in [0, 1]; 0 for none.
    pub shadow_share: f64,
}

/// All mistakes in a configuration, one line each.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the configuration has {} mistake{}:\n{}", .0.len(), if .0.len() == 1 { "" } else { "s" },
    .0.iter().map(|line| format!("  - {line}")).collect::<Vec<_>>().join("\n"))]
pub struct Mistakes(pub Vec<String>);

impl EngineFlags {
    /// Resolves what commands that embed images need.
    ///
    /// # Errors
    /// All mistakes, in flags, environment and file, at once.
    pub fn resolve(&self, environment: &dyn Environment) -> Result<EngineConfig, Mistakes> {
        let mut reader = SettingReader::new(RawSettings::new(&self.0, environment));
        let engine = reader.engine();
        reader.finish(engine)
    }
}

impl ServerFlags {
    /// The values of flags, environment, file and defaults, unchecked: for `config show`.
    #[must_use]
    pub fn gather(&self, environment: &dyn Environment) -> RawSettings {
        RawSettings::new(&self.0, environment)
    }

    /// The same, but listening on this address.
    #[must_use]
    pub fn listening_on(mut self, address: SocketAddr) -> Self {
        self.0.values.insert("listen", address.to_string());
        self
    }

    /// Resolves everything that the server needs to serve this one deployment, whatever is configured.
    ///
    /// # Errors
    /// All mistakes, in flags, environment and file, at once.
    pub fn resolve_for(
        &self,
        environment: &dyn Environment,
        deployment: &Path,
    ) -> Result<ServerConfig, Mistakes> {
        let mut flags = self.clone();
        flags
            .0
            .values
            .insert("deployments", deployment.display().to_string());
        flags.resolve(environment)
    }

    /// Resolves everything that the server needs.
    ///
    /// # Errors
    /// All mistakes, in flags, environment and file, at once.
    pub fn resolve(&self, environment: &dyn Environment) -> Result<ServerConfig, Mistakes> {
        let mut reader = SettingReader::new(self.gather(environment));
        let config = reader.config();
        reader.finish(config)
    }
}

fn cpus() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Turns text into values, and collects the mistakes.
struct SettingReader {
    gathered: RawSettings,
    mistakes: Vec<String>,
}

impl SettingReader {
    fn new(mut gathered: RawSettings) -> Self {
        let mistakes = std::mem::take(&mut gathered.mistakes);
        Self { gathered, mistakes }
    }

    fn finish<T>(self, value: Option<T>) -> Result<T, Mistakes> {
        match value {
            Some(value) if self.mistakes.is_empty() => Ok(value),
            _ => Err(Mistakes(self.mistakes)),
        }
    }

    /// Every setting is read before any `?`, so that all mistakes are found.
    fn engine(&mut self) -> Option<EngineConfig> {
        let device = self.one_of(
            "device",
            &[
                ("cpu", Device::Cpu),
                ("cuda", Device::Cuda),
                ("tensorrt", Device::TensorRt),
                ("auto", Device::Auto),
            ],
        );
        // ONNX Runtime has no option for it, other than for CUDA.
        if device == Some(Device::TensorRt) && !self.gathered.tf32_forbidden {
            self.mistakes.push(
                "device = `tensorrt` computes in TF32, and so gives other embeddings than those that a threshold was chosen for; set NVIDIA_TF32_OVERRIDE=0 in the environment".to_owned(),
            );
        }
        let profile = self.one_of(
            "profile",
            &[
                ("throughput", Profile::Throughput),
                ("latency", Profile::Latency),
            ],
        );
        let workers = self.auto("workers", 256);
        let threads = self.auto("threads", 256);
        let batch_max = self.auto("batch_max", 256);
        let gpu_bytes_max = self.number("gpu_bytes_max", 0, usize::MAX);
        let cpu_arena = self.one_of("cpu_arena", &[("true", true), ("false", false)]);
        let decode_bytes_max = self.number("decode_bytes_max", 0, u64::MAX);
        let image_bytes_max = self.number("image_bytes_max", 1, 1 << 30);
        let image_decode_bytes_max = self.number("image_decode_bytes_max", 1, 1 << 40);
        let graph_from_items = self.number("graph_from_items", 0, usize::MAX);
        let log_json = self.one_of("log_format", &[("text", false), ("json", true)]);
        Some(EngineConfig {
            onnxruntime: self.text("onnxruntime").map(PathBuf::from),
            ort_dylib_path: self.gathered.ort_dylib_path.clone(),
            workers: match (workers?, profile?) {
                (Some(count), _) => Workers::Count(count),
                (None, Profile::Throughput) => Workers::PerCpu(cpus()),
                (None, Profile::Latency) => Workers::Count(1),
            },
            compute: Compute {
                device: device?,
                threads: match (threads?, profile?) {
                    (Some(count), _) => count,
                    // If images are batched, all workers share one session.
                    (None, Profile::Throughput) if batch_max?.is_none_or(|images| images <= 1) => 1,
                    (None, Profile::Throughput | Profile::Latency) => cpus(),
                },
                batch_max: batch_max?,
                gpu_bytes_max: gpu_bytes_max.map(|bytes| Some(bytes).filter(|bytes| 0 < *bytes))?,
                cpu_arena: cpu_arena?,
                decode_budget: decode_bytes_max
                    .map(|bytes| DecodeBudget::new(Some(bytes).filter(|bytes| 0 < *bytes)))?,
            },
            image_bytes_max: image_bytes_max?,
            image_decode_bytes_max: image_decode_bytes_max?,
            graph_from_items: graph_from_items?,
            log: self.text("log")?,
            log_json: log_json?,
        })
    }

    fn config(&mut self) -> Option<ServerConfig> {
        let engine = self.engine();
        let deployments = self.deployments();
        let listen = self.listen();
        let listen_when = self.one_of(
            "listen_when",
            &[("start", ListenWhen::Start), ("ready", ListenWhen::Ready)],
        );
        let console_listen = self.console_listen();
        let access = self.access(listen.as_ref(), console_listen.flatten());
        let metrics_listen = self.metrics_listen();
        let queue_len_max = self.number("queue_len_max", 1, 100_000);
        let queue_delay_ms = self.number::<u64>("queue_delay_ms", 0, 60_000);
        let message_bytes_max = self.number("message_bytes_max", 1024, 1 << 30);
        let streams_per_connection_max = self.number("streams_per_connection_max", 1, 65_535);
        let stream_in_flight_max = self.number("stream_in_flight_max", 1, 1024);
        let request_timeout = self.number("request_timeout_seconds", 1, 86_400);
        let drain = self.number("drain_seconds", 0, 86_400);
        let reflection = self.one_of("reflection", &[("true", true), ("false", false)]);
        let limits = self.limits(message_bytes_max);
        let read_only = self.one_of("read_only", &[("true", true), ("false", false)]);
        let only_copy = self.one_of("only_copy", &[("true", true), ("false", false)]);
        let store = self.store(listen.as_ref(), read_only);
        let qdrant = self.qdrant(read_only);
        let monitoring = self.monitoring(read_only);
        let canary_minutes = self.number::<u64>("canary_minutes", 0, 10_080);
        if let (Some(engine), Some(message)) = (&engine, message_bytes_max)
            && message <= engine.image_bytes_max
        {
            self.mistakes.push(format!(
                "message_bytes_max ({message}) must be larger than image_bytes_max ({}), or no image of that size can arrive",
                engine.image_bytes_max
            ));
        }
        Some(ServerConfig {
            engine: engine?,
            deployments: deployments?,
            restore_dir: self.text("restore_dir").map(PathBuf::from),
            model: self.text("model").map(PathBuf::from),
            read_only: read_only?,
            only_copy: only_copy?,
            store: store?,
            qdrant: qdrant?,
            listen: listen?,
            listen_when: listen_when?,
            console_listen: console_listen?,
            access: access?,
            metrics_listen: metrics_listen?,
            queue_len_max: queue_len_max?,
            queue_delay: queue_delay_ms.map(|ms| (0 < ms).then(|| Duration::from_millis(ms)))?,
            message_bytes_max: message_bytes_max?,
            streams_per_connection_max: streams_per_connection_max?,
            stream_in_flight_max: stream_in_flight_max?,
            request_timeout: Duration::from_secs(request_timeout?),
            drain: Duration::from_secs(drain?),
            reflection: reflection?,
            data_dir: self.text("data_dir").map(PathBuf::from),
            limits: limits?,
            monitoring: monitoring?,
            canaries_every: canary_minutes
                .map(|minutes| (0 < minutes).then(|| Duration::from_secs(60 * minutes)))?,
        })
    }

    fn limits(&mut self, message_bytes_max: Option<usize>) -> Option<LimitsConfig> {
        let connections = self.number("connections_max", 1, 1_000_000);
        let idle = self.number("connection_idle_seconds", 1, 86_400);
        let handshake = self.number("handshake_seconds", 1, 3600);
        let calls = self.number("calls_max", 1, 1_000_000);
        let receive_bytes = self.number::<u64>("receive_bytes_max", 1024, 1 << 40);
        let answer_bytes = self.number::<u64>("answer_bytes_max", 1024, 1 << 40);
        let stall = self.number("stall_seconds", 1, 86_400);
        let share = self
            .text("address_share")
            .and_then(|text| text.parse().ok());
        let share = share.filter(|share| 0.0 < *share && *share <= 1.0);
        if share.is_none() {
            self.mistake("address_share", "a number above 0, and at most 1");
        }
        for (key, bytes) in [
            ("receive_bytes_max", receive_bytes),
            ("answer_bytes_max", answer_bytes),
        ] {
            if let (Some(bytes), Some(message)) = (bytes, message_bytes_max)
                && bytes < message as u64 + 8
            {
                self.mistakes.push(format!(
                    "{key} ({bytes}) must be larger than message_bytes_max ({message}), or no message of that size has room"
                ));
            }
        }
        Some(LimitsConfig {
            connections: connections?,
            idle: idle.map(Duration::from_secs)?,
            handshake: handshake.map(Duration::from_secs)?,
            calls: calls?,
            receive_bytes: receive_bytes?,
            answer_bytes: answer_bytes?,
            stall: stall.map(Duration::from_secs)?,
            address_share: share?,
        })
    }

    fn monitoring(&mut self, read_only: Option<bool>) -> Option<MonitoringConfig> {
        let journal = self.one_of("journal", &[("on", true), ("off", false)]);
        let journal_dir = self.text("journal_dir").map(PathBuf::from);
        if journal_dir.is_some() && read_only == Some(false) {
            self.mistakes.push(
                "journal_dir goes with read_only = true; a deployment that may be written has its journal in its folder".to_owned(),
            );
        }
        let days = |count: u64| Duration::from_secs(count * 86_400);
        let kept = self.number("journal_days", 1, 36_500);
        let audited_kept = self.number("journal_sampled_days", 1, 36_500);
        let bytes_max = self.number("journal_bytes_max", 1 << 20, 1 << 40);
        let labels = self.number::<u32>("audit_samples_per_day", 0, 10_000_000);
        let images = self.one_of("audit_images", &[("true", true), ("false", false)]);
        let alarm_delta = self.parse::<f64>("alarm_delta", "a number from 1e-9 to 0.5");
        let alarm_delta = alarm_delta.filter(|delta| (1e-9..=0.5).contains(delta));
        if alarm_delta.is_none() {
            self.mistake("alarm_delta", "a number from 1e-9 to 0.5");
        }
        let shadow_share = self.text("shadow_share").and_then(|text| text.parse().ok());
        let shadow_share = shadow_share.filter(|share| (0.0..=1.0).contains(share));
        if shadow_share.is_none() {
            self.mistake("shadow_share", "a number from 0 to 1");
        }
        let strata = self.strata();
        Some(MonitoringConfig {
            // Nothing is written to a read-only deployment.
            journal: journal? && (!read_only? || journal_dir.is_some()),
            journal_dir,
            kept: kept.map(days)?,
            audited_kept: audited_kept.map(days)?,
            bytes_max: bytes_max?,
            strata: strata?,
            labels_per_day: labels.map(|labels| (0 < labels).then_some(labels))?,
            images: images?,
            alarm_delta: alarm_delta?,
            shadow_share: shadow_share?,
        })
    }

    fn strata(&mut self) -> Option<Strata> {
        let edges = self.numbers("audit_stratum_edges");
        let rates = self.numbers("audit_sampling_rates");
        let (edges, rates) = (edges?, rates?);
        let inclusion: Result<Vec<_>, _> = rates.into_iter().map(Inclusion::new).collect();
        match inclusion.and_then(|inclusion| Strata::new(edges, inclusion)) {
            Ok(strata) => Some(strata),
            Err(error) => {
                self.mistakes.push(format!(
                    "audit_stratum_edges and audit_sampling_rates: {error}"
                ));
                None
            }
        }
    }

    fn numbers(&mut self, key: &str) -> Option<Vec<f64>> {
        let text = self.text(key).unwrap_or_default();
        let numbers: Result<Vec<f64>, _> = text
            .split(',')
            .map(|number| number.trim().parse())
            .collect();
        if numbers.is_err() {
            self.mistake(key, "numbers separated by commas");
        }
        numbers.ok()
    }

    fn text(&self, key: &str) -> Option<String> {
        self.gathered
            .values
            .get(key)?
            .text
            .clone()
            .filter(|text| !text.is_empty())
    }

    fn mistake(&mut self, key: &str, wanted: &str) {
        let Some(given) = self.gathered.values.get(key) else {
            return;
        };
        let line = match &given.text {
            Some(text) => format!("{key} = `{text}` (from {}) is not {wanted}", given.source),
            None => format!("{key} is not set; it must be {wanted}"),
        };
        self.mistakes.push(line);
    }

    fn parse<T: FromStr>(&mut self, key: &str, wanted: &str) -> Option<T> {
        let value = self.text(key).and_then(|text| text.parse().ok());
        if value.is_none() {
            self.mistake(key, wanted);
        }
        value
    }

    fn number<T: Copy + FromStr + PartialOrd + std::fmt::Display>(
        &mut self,
        key: &str,
        least: T,
        most: T,
    ) -> Option<T> {
        let wanted = format!("a whole number from {least} to {most}");
        let value = self
            .text(key)
            .and_then(|text| text.replace('_', "").parse::<T>().ok());
        let value = value.filter(|value| least <= *value && *value <= most);
        if value.is_none() {
            self.mistake(key, &wanted);
        }
        value
    }

    fn one_of<T: Copy>(&mut self, key: &str, choices: &[(&str, T)]) -> Option<T> {
        let text = self.text(key);
        let found = choices
            .iter()
            .find(|(name, _)| Some(*name) == text.as_deref());
        if found.is_none() {
            let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
            self.mistake(key, &format!("one of: {}", names.join(", ")));
        }
        found.map(|(_, value)| *value)
    }

    /// A number from 1 on, or `auto`: the inner `None`.
    fn auto(&mut self, key: &str, most: usize) -> Option<Option<usize>> {
        let text = self.text(key);
        if text.as_deref() == Some("auto") {
            return Some(None);
        }
        let number = text.and_then(|text| text.parse().ok());
        let number = number.filter(|number| (1..=most).contains(number));
        if number.is_none() {
            self.mistake(key, &format!("`auto` or a whole number from 1 to {most}"));
        }
        number.map(Some)
    }

    fn deployments(&mut self) -> Option<Vec<(Option<String>, PathBuf)>> {
        let split = |entry: &str| match entry.split_once('=') {
            // An address may contain the equals sign.
            Some((name, folder)) if !name.contains("://") => {
                (Some(name.trim().to_owned()), PathBuf::from(folder.trim()))
            }
            Some(_) | None => (None, PathBuf::from(entry.trim())),
        };
        let text = self.text("deployments").unwrap_or_default();
        let deployments: Vec<_> = text
            .split(',')
            .filter(|entry| !entry.trim().is_empty())
            .map(split)
            .collect();
        if deployments.is_empty() {
            self.mistake(
                "deployments",
                "DIR or NAME=DIR, or several separated by commas",
            );
            return None;
        }
        if text.contains("://") && self.text("restore_dir").is_none() {
            self.mistakes.push(
                "deployments names the address of a snapshot, and restore_dir is not set: it is the folder where snapshots are restored".to_owned(),
            );
        }
        Some(deployments)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use clap::{Args, Command, FromArgMatches};

    use super::*;

    fn flags(line: &[&str]) -> ServerFlags {
        let command = ServerFlags::augment_args(Command::new("test").no_binary_name(true));
        ServerFlags::from_arg_matches(&command.get_matches_from(line)).unwrap()
    }

    #[test]
    fn the_profile_shares_out_the_cpus_unless_numbers_are_given() {
        let resolved = |line: &[&str]| {
            let all = [&["--deployments", "shop"], line].concat();
            let config = flags(&all).resolve(&BTreeMap::<&str, &str>::new());
            let engine = config.unwrap().engine;
            (engine.workers, engine.compute.threads)
        };
        let cpus = cpus();
        assert_eq!(resolved(&[]), (Workers::PerCpu(cpus), 1));
        assert_eq!(resolved(&["--batch-max", "1"]), (Workers::PerCpu(cpus), 1));
        assert_eq!(
            resolved(&["--batch-max", "4"]),
            (Workers::PerCpu(cpus), cpus)
        );
        assert_eq!(
            resolved(&["--profile", "latency"]),
            (Workers::Count(1), cpus)
        );
        assert_eq!(
            resolved(&["--profile", "latency", "--workers", "3", "--threads", "5"]),
            (Workers::Count(3), 5)
        );
        assert_eq!(Workers::PerCpu(4).count(1), 4);
        assert_eq!(Workers::PerCpu(4).count(16), 20);
    }

    #[test]
    fn a_flag_wins_over_the_environment_and_that_over_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("matchpoint.toml");
        std::fs::write(
            &file,
            "queue_len_max = 1\nworkers = 3\ndeployments = [\"a\", \"b=c\"]\ndrain_seconds = 7\n",
        )
        .unwrap();
        let environment = BTreeMap::from([
            ("MATCHPOINT_QUEUE_LEN_MAX", "2"),
            ("MATCHPOINT_WORKERS", "4"),
        ]);
        let flags = flags(&["--config", file.to_str().unwrap(), "--queue-len-max", "5"]);
        let config = flags.resolve(&environment).unwrap();
        assert_eq!(
            (config.queue_len_max, config.engine.workers),
            (5, Workers::Count(4))
        );
        assert_eq!(config.drain, Duration::from_secs(7));
        assert_eq!(
            config.deployments,
            [(None, "a".into()), (Some("b".to_owned()), "c".into())]
        );
        let sources: Vec<String> = flags
            .gather(&environment)
            .rows()
            .filter(|(setting, _)| ["queue_len_max", "workers", "listen"].contains(&setting.key))
            .map(|(_, given)| given.source.to_string())
            .collect();
        assert_eq!(sources, ["environment", "default", "flag"]);
    }

    #[test]
    fn tensorrt_is_refused_unless_it_is_kept_from_tf32() {
        for (value, refused) in [("", true), ("1", true), ("0", false)] {
            let environment = BTreeMap::from([
                ("MATCHPOINT_DEVICE", "tensorrt"),
                ("NVIDIA_TF32_OVERRIDE", value),
            ]);
            let flags = EngineFlags::default();
            let mistakes = flags
                .resolve(&environment)
                .err()
                .map(|found| found.0.join("\n"));
            let named = mistakes.is_some_and(|said| said.contains("NVIDIA_TF32_OVERRIDE=0"));
            assert_eq!(named, refused, "{value:?}");
        }
    }

    #[test]
    fn all_mistakes_are_reported_at_once() {
        let environment =
            BTreeMap::from([("MATCHPOINT_LISTENN", "x"), ("MATCHPOINT_DEVICE", "tpu")]);
        let flags = flags(&["--listen", "nowhere", "--queue-len-max", "0"]);
        let mistakes = flags.resolve(&environment).unwrap_err().0.join("\n");
        for part in [
            "MATCHPOINT_LISTENN is not a setting; did you mean MATCHPOINT_LISTEN?",
            "device = `tpu` (from environment) is not one of: cpu, cuda, tensorrt, auto",
            "listen = `nowhere` (from flag) is not an address",
            "queue_len_max = `0` (from flag) is not a whole number from 1",
            "deployments is not set",
        ] {
            assert!(mistakes.contains(part), "{part} is missing in:\n{mistakes}");
        }
    }

    #[test]
    fn an_empty_variable_is_unset_and_those_of_a_kubernetes_service_are_not_ours() {
        let environment = BTreeMap::from([
            ("MATCHPOINT_LOG", ""),
            ("MATCHPOINT_PORT", "tcp://10.0.0.1:50051"),
            ("MATCHPOINT_SERVICE_HOST", "10.0.0.1"),
            ("MATCHPOINT_SERVER", "http://127.0.0.1:50051"),
        ]);
        let config = flags(&["--deployments", "a"])
            .resolve(&environment)
            .unwrap();
        assert_eq!(config.engine.log, "info,hnsw_rs=warn");
        let error = flags(&["--deployments", ","])
            .resolve(&environment)
            .unwrap_err();
        assert!(error.to_string().contains("deployments = `,`"), "{error}");
    }

    #[test]
    fn a_store_is_an_address_of_postgresql_for_a_server_that_writes_its_copy() {
        let resolved = |line: &[&str]| {
            let all = [&["--deployments", "shop"], line].concat();
            let resolved = flags(&all).resolve(&BTreeMap::<&str, &str>::new());
            resolved.map_err(|mistakes| mistakes.to_string())
        };
        let given = "postgres://shop:secret@db:5433/shop";
        let config = resolved(&["--store", given, "--store-lag-seconds-max", "7"]).unwrap();
        let store = config.store.as_ref().unwrap();
        assert_eq!(store.address.shown(), "db:5433/shop");
        assert_eq!(store.lag_max, Duration::from_secs(7));
        assert!(store.writer.ends_with("at 127.0.0.1:50051"));
        assert!(!format!("{config:?}").contains("secret"));
        assert_eq!(store_shown(given), "postgres://db:5433/shop");
        assert!(resolved(&[]).unwrap().store.is_none());

        let said = resolved(&["--store", "redis://shop:secret@db/shop"]).unwrap_err();
        assert!(said.contains("a scheme that is not known"), "{said}");
        assert!(!said.contains("secret"), "{said}");
        let said = resolved(&["--store", given, "--read-only", "true"]).unwrap_err();
        assert!(said.contains("exclude each other"), "{said}");
    }

    #[test]
    fn an_unknown_key_and_a_missing_file_are_mistakes() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("matchpoint.toml");
        std::fs::write(&file, "deployments = \"a\"\nqueue_length = 3\n").unwrap();
        let environment = BTreeMap::new();
        let error = flags(&["--config", file.to_str().unwrap()])
            .resolve(&environment)
            .unwrap_err();
        assert!(
            error
                .to_string()
                .contains("`queue_length` is not a setting; did you mean queue_len_max?"),
            "{error}"
        );
        let error = flags(&["--config", "/nowhere.toml"])
            .resolve(&environment)
            .unwrap_err();
        assert!(
            error.to_string().contains("/nowhere.toml: cannot be read"),
            "{error}"
        );
    }
}
