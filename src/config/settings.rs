//! The table of settings, and what flags, environment, file and defaults say of each.
//!
//! A row is a flag, an environment variable, a key of the file, a line of `config show` and a line
//! of `--help`.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use clap::{Arg, ArgMatches, Command, FromArgMatches};

/// One thing that can be set.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// The key in the file; the flag is the same with `-` for `_`.
    pub key: &'static str,
    /// The value where nobody says otherwise; `None` where there is none.
    pub default: Option<&'static str>,
    /// What it means, with units and range.
    pub help: &'static str,
    /// Whether only the server takes it, or every command that embeds images too.
    scope: SettingScope,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SettingScope {
    Engine,
    Server,
}

/// Everything that can be set. Order: as `config show` prints it.
pub const SETTINGS: &[Setting] = &[
    engine(
        "onnxruntime",
        None,
        "Path of libonnxruntime.so [otherwise: ORT_DYLIB_PATH, beside the program, the cache of `make runtime`]",
    ),
    engine(
        "device",
        Some("cpu"),
        "Where the model runs: cpu, cuda or tensorrt (refuse to start without it) or auto (cuda or cpu)",
    ),
    engine(
        "profile",
        Some("throughput"),
        "What CPUs are for: throughput (a worker for each, its model on one thread) or latency (one worker, its model on all)",
    ),
    engine(
        "workers",
        Some("auto"),
        "Worker threads, each with a model session of its own: 1 to 256, or auto by profile",
    ),
    engine(
        "threads",
        Some("auto"),
        "Threads that one run of the model takes on the CPU: 1 to 256, or auto by profile (all CPUs with batch_max above 1)",
    ),
    engine(
        "batch_max",
        Some("auto"),
        "Images of waiting requests in one run of the model: 1 to 256, or auto for 1 on a CPU, 16 on a GPU",
    ),
    engine(
        "gpu_bytes_max",
        Some("0"),
        "Memory that a model may take on a GPU, in bytes; 0 for no limit",
    ),
    engine(
        "cpu_arena",
        Some("true"),
        "Whether a model on the CPU keeps memory between runs: true (faster) or false (less memory)",
    ),
    engine(
        "decode_bytes_max",
        Some("1073741824"),
        "Memory for images being decoded, all together, in bytes; 0 for no limit",
    ),
    engine(
        "image_bytes_max",
        Some("67108864"),
        "Largest encoded image, in bytes",
    ),
    engine(
        "image_decode_bytes_max",
        Some("400000000"),
        "Memory that decoding one image may take, in bytes, by what its headers say",
    ),
    engine(
        "graph_from_items",
        Some("10000"),
        "Gallery size from which an HNSW graph proposes candidates; below it every item is compared",
    ),
    engine(
        "log",
        Some("info,hnsw_rs=warn"),
        "Log filter, such as `info` or `matchpoint=debug,warn`",
    ),
    engine("log_format", Some("text"), "Log format: text or json"),
    server(
        "deployments",
        None,
        "What to serve, separated by commas: DIR or NAME=DIR",
    ),
    server(
        "model",
        None,
        "Model folder to use in place of the one that each deployment recorded; must have its fingerprint",
    ),
    server(
        "listen",
        Some("127.0.0.1:50051"),
        "Address of the gRPC service; port 0 takes a free one",
    ),
    server(
        "metrics_listen",
        Some("127.0.0.1:9464"),
        "Address of the Prometheus endpoint; `off` for none",
    ),
    server(
        "queue_len_max",
        Some("64"),
        "Requests that may wait for a worker; beyond it: RESOURCE_EXHAUSTED, 1 to 100000",
    ),
    server(
        "message_bytes_max",
        Some("83886080"),
        "Largest gRPC message, in bytes",
    ),
    server(
        "streams_per_connection_max",
        Some("256"),
        "Concurrent calls on one connection, 1 to 65535",
    ),
    server(
        "stream_in_flight_max",
        Some("16"),
        "Items of one stream worked on at once, 1 to 1024",
    ),
    server(
        "request_timeout_seconds",
        Some("30"),
        "Longest time that a call, or an item of a stream, may take, in seconds",
    ),
    server(
        "drain_seconds",
        Some("30"),
        "Longest wait for requests under way at shutdown, in seconds",
    ),
    server(
        "reflection",
        Some("true"),
        "Whether gRPC reflection is served: true or false",
    ),
    server(
        "journal",
        Some("on"),
        "Whether every decision is recorded in the deployment's folder, for audits of FAR and FRR: on or off",
    ),
    server(
        "journal_days",
        Some("30"),
        "How long decisions that were not sampled, and images, are kept in the journal, in days",
    ),
    server(
        "journal_sampled_days",
        Some("400"),
        "How long sampled and annotated decisions are kept, in days",
    ),
    server(
        "journal_bytes_max",
        Some("1073741824"),
        "Largest journal of a deployment, in bytes; beyond it the oldest decisions go",
    ),
    server(
        "audit_stratum_edges",
        Some("-0.2,-0.05,0,0.05,0.15"),
        "Strata of the audit sample: distances of a score from the threshold, rising, 0 among them",
    ),
    server(
        "audit_sampling_rates",
        Some("0.005,0.02,0.2,0.2,0.1,0.02"),
        "Share of each stratum's decisions that is sampled for the audit, from the lowest scores up: one more than edges, 1e-6 to 1",
    ),
    server(
        "audit_samples_per_day",
        Some("0"),
        "How many decisions a day to sample for the audit: audit_sampling_rates are multiplied to give as many; 0 to use audit_sampling_rates as they are",
    ),
    server(
        "audit_images",
        Some("false"),
        "Whether the images of sampled decisions are kept for the annotators: true or false",
    ),
    server(
        "canary_minutes",
        Some("60"),
        "How often the canaries of each deployment are searched for, in minutes: 1 to 10080, or 0 for never",
    ),
    server(
        "alarm_delta",
        Some("0.05"),
        "Probability that an operating point ever raises a false alarm, for FAR and FRR each: 1e-9 to 0.5",
    ),
    server(
        "shadow_share",
        Some("0.05"),
        "Share of live queries that a shadow deployment is asked too (`matchpoint shadow`): 0 to 1",
    ),
    server(
        "data_dir",
        None,
        "Folder for snapshots and what is restored from them; without it there are none over gRPC",
    ),
];

const fn engine(key: &'static str, default: Option<&'static str>, help: &'static str) -> Setting {
    Setting {
        key,
        default,
        help,
        scope: SettingScope::Engine,
    }
}

const fn server(key: &'static str, default: Option<&'static str>, help: &'static str) -> Setting {
    Setting {
        key,
        default,
        help,
        scope: SettingScope::Server,
    }
}

impl Setting {
    /// The flag, without its dashes.
    #[must_use]
    pub fn flag(&self) -> String {
        self.key.replace('_', "-")
    }

    /// The environment variable.
    #[must_use]
    pub fn variable(&self) -> String {
        format!("MATCHPOINT_{}", self.key.to_uppercase())
    }
}

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SettingSource {
    /// A flag on the command line.
    Flag,
    /// An environment variable.
    Environment,
    /// The configuration file.
    File(PathBuf),
    /// Nobody set it.
    Default,
}

impl fmt::Display for SettingSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag => f.write_str("flag"),
            Self::Environment => f.write_str("environment"),
            Self::File(path) => write!(f, "file {}", path.display()),
            Self::Default => f.write_str("default"),
        }
    }
}

/// A value as it was written, and by whom.
#[derive(Clone, Debug)]
pub struct SettingValue {
    /// The text; `None` where the setting has no default and was not set.
    pub text: Option<String>,
    /// Who said so.
    pub source: SettingSource,
}

/// The strings of the environment: the process's own, or a test's.
pub trait Environment {
    /// The value of one variable.
    fn get(&self, name: &str) -> Option<String>;
    /// The names of all variables.
    fn names(&self) -> Vec<String>;
}

/// The environment of this process.
#[derive(Clone, Copy, Debug)]
pub struct ProcessEnvironment;

impl Environment for ProcessEnvironment {
    #[expect(
        clippy::disallowed_methods,
        reason = "this is the one place that reads it"
    )]
    fn get(&self, name: &str) -> Option<String> {
        std::env::var(name).ok()
    }

    fn names(&self) -> Vec<String> {
        std::env::vars_os()
            .filter_map(|(name, _)| name.into_string().ok())
            .collect()
    }
}

impl Environment for BTreeMap<&str, &str> {
    fn get(&self, name: &str) -> Option<String> {
        BTreeMap::get(self, name).map(|&value| value.to_owned())
    }

    fn names(&self) -> Vec<String> {
        self.keys().map(|&name| name.to_owned()).collect()
    }
}

/// What the command line set, for commands that embed images.
#[derive(Clone, Debug, Default)]
pub struct EngineFlags(pub(super) Flags);

/// What the command line set, for the server.
#[derive(Clone, Debug, Default)]
pub struct ServerFlags(pub(super) Flags);

#[derive(Clone, Debug, Default)]
pub(super) struct Flags {
    pub(super) config: Option<PathBuf>,
    pub(super) values: BTreeMap<&'static str, String>,
}

impl Flags {
    fn augment(command: Command, takes: fn(SettingScope) -> bool) -> Command {
        let file = Arg::new("config")
            .long("config")
            .value_name("FILE")
            .help("TOML file with settings [env: MATCHPOINT_CONFIG]")
            .help_heading("Settings (also MATCHPOINT_* and the config file)");
        let flags = SETTINGS
            .iter()
            .filter(|setting| takes(setting.scope))
            .map(|setting| {
                let default = setting
                    .default
                    .map(|d| format!(" [default: {d}]"))
                    .unwrap_or_default();
                Arg::new(setting.key)
                    .long(setting.flag())
                    .value_name("VALUE")
                    .help(format!("{}{default}", setting.help))
                    .help_heading("Settings (also MATCHPOINT_* and the config file)")
            });
        command.arg(file).args(flags)
    }

    fn from(matches: &ArgMatches, takes: fn(SettingScope) -> bool) -> Self {
        let get = |name: &str| matches.get_one::<String>(name).cloned();
        let values = SETTINGS
            .iter()
            .filter(|setting| takes(setting.scope))
            .filter_map(|setting| Some((setting.key, get(setting.key)?)))
            .collect();
        Self {
            config: get("config").map(PathBuf::from),
            values,
        }
    }
}

macro_rules! clap_args {
    ($type:ident, $takes:expr) => {
        impl clap::Args for $type {
            fn augment_args(command: Command) -> Command {
                Flags::augment(command, $takes)
            }
            fn augment_args_for_update(command: Command) -> Command {
                Self::augment_args(command)
            }
        }

        impl FromArgMatches for $type {
            fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
                Ok(Self(Flags::from(matches, $takes)))
            }
            fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
                *self = Self::from_arg_matches(matches)?;
                Ok(())
            }
        }
    };
}

clap_args!(EngineFlags, |scope| scope == SettingScope::Engine);
clap_args!(ServerFlags, |_| true);

/// Every setting as it was written, with its source, and what was wrong on the way.
#[derive(Clone, Debug)]
pub struct RawSettings {
    pub(super) values: BTreeMap<&'static str, SettingValue>,
    pub(super) ort_dylib_path: Option<PathBuf>,
    pub(super) mistakes: Vec<String>,
}

impl RawSettings {
    /// Asks the flags, the environment and the file for each setting, in that order.
    #[must_use]
    pub(super) fn new(flags: &Flags, environment: &dyn Environment) -> Self {
        let mut mistakes = Vec::new();
        let path = flags
            .config
            .clone()
            .or_else(|| environment.get("MATCHPOINT_CONFIG").map(PathBuf::from));
        let file = path
            .as_deref()
            .map(|path| read_file(path, &mut mistakes))
            .unwrap_or_default();
        refuse_unknown_variables(environment, &mut mistakes);

        let mut values = BTreeMap::new();
        for setting in SETTINGS {
            let given = |text: Option<String>, source| {
                let text = text.filter(|text| !text.is_empty());
                text.map(|text| SettingValue {
                    text: Some(text),
                    source,
                })
            };
            let value = given(flags.values.get(setting.key).cloned(), SettingSource::Flag)
                .or_else(|| {
                    given(
                        environment.get(&setting.variable()),
                        SettingSource::Environment,
                    )
                })
                .or_else(|| {
                    let source = SettingSource::File(path.clone().unwrap_or_default());
                    given(file.get(setting.key).cloned(), source)
                })
                .unwrap_or(SettingValue {
                    text: setting.default.map(ToOwned::to_owned),
                    source: SettingSource::Default,
                });
            values.insert(setting.key, value);
        }
        let ort_dylib_path = environment.get("ORT_DYLIB_PATH").map(PathBuf::from);
        Self {
            values,
            ort_dylib_path,
            mistakes,
        }
    }

    /// Each setting with its value as written and its source, in the order of the table.
    pub fn rows(&self) -> impl Iterator<Item = (&'static Setting, &SettingValue)> {
        SETTINGS
            .iter()
            .filter_map(|setting| Some((setting, self.values.get(setting.key)?)))
    }
}

/// Variables that are not settings: the file's path, and the address that `search` asks.
const OTHER_VARIABLES: [&str; 2] = ["MATCHPOINT_CONFIG", "MATCHPOINT_SERVER"];

fn refuse_unknown_variables(environment: &dyn Environment, mistakes: &mut Vec<String>) {
    for name in environment.names() {
        let known = OTHER_VARIABLES.contains(&name.as_str())
            || SETTINGS.iter().any(|s| s.variable() == name);
        // Kubernetes injects these into pods beside a Service that is named matchpoint.
        let injected =
            name.starts_with("MATCHPOINT_SERVICE_") || name.starts_with("MATCHPOINT_PORT");
        if name.starts_with("MATCHPOINT_") && !known && !injected {
            mistakes.push(format!(
                "environment: {name} is not a setting{}",
                nearest(&name, Setting::variable)
            ));
        }
    }
}

/// The file's keys, as text.
fn read_file(path: &Path, mistakes: &mut Vec<String>) -> BTreeMap<String, String> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) => {
            mistakes.push(format!("file {}: cannot be read: {error}", path.display()));
            return BTreeMap::new();
        }
    };
    let table = match text.parse::<toml::Table>() {
        Ok(table) => table,
        Err(error) => {
            mistakes.push(format!("file {}: is not TOML: {error}", path.display()));
            return BTreeMap::new();
        }
    };
    let mut values = BTreeMap::new();
    for (key, value) in table {
        if !SETTINGS.iter().any(|setting| setting.key == key) {
            let hint = nearest(&key, |setting| setting.key.to_owned());
            mistakes.push(format!(
                "file {}: `{key}` is not a setting{hint}",
                path.display()
            ));
            continue;
        }
        match as_text(&value) {
            Some(text) => drop(values.insert(key, text)),
            None => mistakes.push(format!(
                "file {}: `{key}` must be a string, a number, a boolean or a list of these",
                path.display()
            )),
        }
    }
    values
}

fn as_text(value: &toml::Value) -> Option<String> {
    if let toml::Value::Array(items) = value {
        let items: Option<Vec<String>> = items.iter().map(as_text).collect();
        return items.map(|items| items.join(","));
    }
    value
        .as_str()
        .map(ToOwned::to_owned)
        .or_else(|| value.as_integer().map(|number| number.to_string()))
        .or_else(|| value.as_float().map(|number| number.to_string()))
        .or_else(|| value.as_bool().map(|truth| truth.to_string()))
}

/// A hint at the setting that was probably meant.
fn nearest(written: &str, name: impl Fn(&Setting) -> String) -> String {
    let shared = |candidate: &str| {
        candidate
            .chars()
            .zip(written.chars())
            .take_while(|(a, b)| a.eq_ignore_ascii_case(b))
            .count()
    };
    SETTINGS
        .iter()
        .map(name)
        .max_by_key(|candidate| shared(candidate))
        .map(|candidate| format!("; did you mean {candidate}?"))
        .unwrap_or_default()
}
