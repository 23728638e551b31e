//! The table of settings.
//!
//! A row is a flag, an environment variable, a key of the file, a line of `config show` and a line
//! of `--help`.

/// One thing that can be set.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// The key in the file; the flag is the same with `-` for `_`.
    pub key: &'static str,
    /// The default value; `None` if there is none.
    pub default: Option<&'static str>,
    /// What it means, with units and range.
    pub help: &'static str,
    /// Whether only the server uses it, or every command that embeds images.
    pub(super) scope: SettingScope,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SettingScope {
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
        "What to serve, separated by commas: DIR or NAME=DIR; in place of DIR, the address of a snapshot (s3://, gs://, az://, file://), which is restored below restore_dir",
    ),
    server(
        "restore_dir",
        None,
        "Folder in which snapshots that deployments names by their address are restored, unless they are there",
    ),
    server(
        "model",
        None,
        "Model folder to use in place of the one that each deployment recorded; must have its fingerprint",
    ),
    server(
        "read_only",
        Some("false"),
        "Whether nothing of the deployments may change, so that several servers can have one folder, or a copy each: true or false",
    ),
    server(
        "only_copy",
        Some("false"),
        "Whether no other copy of a restored deployment takes writes, so that this one may without a warning: true or false",
    ),
    server(
        "store",
        None,
        "PostgreSQL database that several servers keep their deployments in, postgres://USER:PASSWORD@HOST:PORT/DATABASE: a change at one is made at all",
    ),
    server(
        "store_lag_seconds_max",
        Some("5"),
        "How long a server may be behind its store before it is not ready, in seconds",
    ),
    server(
        "index",
        Some("embedded"),
        "What proposes candidates for a search: embedded (each server's own graph) or qdrant",
    ),
    server(
        "qdrant_urls",
        None,
        "Nodes of Qdrant by their gRPC addresses, separated by commas, such as http://127.0.0.1:6334; https beyond this machine",
    ),
    server(
        "qdrant_api_key_file",
        None,
        "File with the key of Qdrant, which is needed beyond this machine",
    ),
    server(
        "listen",
        Some("127.0.0.1:50051"),
        "Address of the gRPC service, such as 0.0.0.0:50051, or unix:/PATH for a socket that only this machine reaches; port 0 takes a free one",
    ),
    server(
        "listen_when",
        Some("start"),
        "From when on connections are taken: start (calls are answered UNAVAILABLE while it loads) or ready (for proxies that look at connections only)",
    ),
    server(
        "console_listen",
        None,
        "Address of the console, pages for people, such as 127.0.0.1:50080; without it there is none",
    ),
    server(
        "tls_certificate",
        None,
        "PEM file with the server's certificate and its chain: the gRPC service and the console are encrypted, by TLS 1.2 or 1.3",
    ),
    server(
        "tls_key",
        None,
        "PEM file with the private key of tls_certificate",
    ),
    server(
        "tls_client_ca",
        None,
        "PEM file with the authorities of clients: every client needs a certificate of one of them (mTLS)",
    ),
    server(
        "keys_file",
        None,
        "File of `matchpoint keys`: every call needs a key or certificate in it, with the scope that the call takes",
    ),
    server(
        "tokens_jwks",
        None,
        "JWKS file with an issuer's public keys: its signed tokens (JWT) are taken as keys are, with tokens_issuer and tokens_audience",
    ),
    server("tokens_issuer", None, "What tokens must have as `iss`"),
    server(
        "tokens_audience",
        None,
        "What tokens must have as `aud`, or among it",
    ),
    server(
        "plaintext_on_network",
        Some("false"),
        "Whether `listen` and `console_listen` may be reached from other machines without TLS: true or false",
    ),
    server(
        "anyone_on_network",
        Some("false"),
        "Whether `listen` and `console_listen` may be reached from other machines by callers without key or certificate: true or false",
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
        "queue_delay_ms",
        Some("50"),
        "Milliseconds that single searches may wait for a worker, but for bursts; beyond it: RESOURCE_EXHAUSTED. 0 (no limit) to 60000",
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
        "connections_max",
        Some("512"),
        "Connections at once; more are closed as they come, 1 to 1000000",
    ),
    server(
        "connection_idle_seconds",
        Some("300"),
        "How long a connection stays open without a call, in seconds (30 at most before its first)",
    ),
    server(
        "handshake_seconds",
        Some("10"),
        "How soon a connection must begin TLS, and then to speak HTTP/2, in seconds",
    ),
    server(
        "calls_max",
        Some("1024"),
        "Calls under way at once, of all connections, 1 to 1000000",
    ),
    server(
        "receive_bytes_max",
        Some("536870912"),
        "Bytes of messages that arrive or are worked on at once, larger than message_bytes_max",
    ),
    server(
        "answer_bytes_max",
        Some("268435456"),
        "Bytes of answers that wait to be read at once, larger than message_bytes_max",
    ),
    server(
        "stall_seconds",
        Some("20"),
        "Longest pause of a client within a message or in taking an answer, in seconds",
    ),
    server(
        "address_share",
        Some("0.5"),
        "Share of connections, calls and bytes that one address may have: above 0 to 1; 1 behind a proxy",
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
        "journal_dir",
        None,
        "Folder for the journals of a server with read_only = true, which records nothing without it",
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
