//! What the tests of the whole program share: the sample, a deployment made from it by the program
//! itself, and a running server.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(
    dead_code,
    unreachable_pub,
    clippy::allow_attributes,
    clippy::disallowed_methods,
    reason = "not every test file uses all of it, and tests have no configuration"
)]

pub mod asked;
pub mod kept;
pub mod qdrant;
pub mod random;
pub mod raw;
mod running;
pub mod shop;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use matchpoint::server;
use serde_json::Value;
use tempfile::TempDir;
use tonic::transport::Channel;

pub use running::{Running, config};

pub const ROOT: &str = env!("CARGO_MANIFEST_DIR");

pub fn model() -> PathBuf {
    Path::new(ROOT).join("models/efficientnet-lite0")
}

pub fn photos() -> PathBuf {
    Path::new(ROOT).join("examples/photos")
}

/// The program, or the one that `TESTS_PROGRAM` names below the root, such as a release build that is to be measured; with
/// nothing of this process's settings.
pub fn matchpoint(arguments: &[&str]) -> Command {
    let asked = std::env::var_os("TESTS_PROGRAM").map(|path| Path::new(ROOT).join(path));
    let program = asked.unwrap_or_else(|| PathBuf::from(env!("CARGO_BIN_EXE_matchpoint")));
    let mut command = Command::new(program);
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("MATCHPOINT_")) {
        command.env_remove(name);
    }
    command.args(arguments).current_dir(ROOT);
    command
}

pub fn run(arguments: &[&str]) -> Output {
    matchpoint(arguments).output().unwrap()
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A deployment of the sample, calibrated, made once for each test process.
pub fn sample() -> &'static Path {
    static SAMPLE: OnceLock<TempDir> = OnceLock::new();
    let folder = SAMPLE.get_or_init(|| {
        let folder = TempDir::new().unwrap();
        let deployment = folder.path().join("sample");
        let (deployment, model) = (deployment.to_str().unwrap(), model());
        let gallery = photos().join("gallery.csv");
        let built = run(&[
            "build",
            deployment,
            "--images",
            gallery.to_str().unwrap(),
            "--model",
            model.to_str().unwrap(),
        ]);
        assert!(built.status.success(), "{}", text(&built.stderr));
        let queries = photos().join("calibrate.csv");
        let calibrated = run(&[
            "calibrate",
            deployment,
            "--queries",
            queries.to_str().unwrap(),
            "--target-far",
            "0.1",
            "--confidence",
            "0.9",
        ]);
        assert!(calibrated.status.success(), "{}", text(&calibrated.stderr));
        folder
    });
    Box::leak(folder.path().join("sample").into_boxed_path())
}

/// The sample in 8 bits, with an operating point of its own.
pub fn in_8_bits(deployment: &Path) {
    let (gallery, queries) = (photos().join("gallery.csv"), photos().join("calibrate.csv"));
    let path = |path: &Path| path.to_str().unwrap().to_owned();
    let (deployment, model) = (path(deployment), path(&model()));
    let built = run(&[
        "build",
        &deployment,
        "--images",
        &path(&gallery),
        "--model",
        &model,
        "--precision",
        "int8",
    ]);
    assert!(built.status.success(), "{}", text(&built.stderr));
    let calibrated = run(&[
        "calibrate",
        &deployment,
        "--queries",
        &path(&queries),
        "--target-far",
        "0.1",
        "--confidence",
        "0.9",
    ]);
    assert!(calibrated.status.success(), "{}", text(&calibrated.stderr));
}

/// A copy of the sample's deployment that a test may change.
pub fn copy_of_sample() -> (TempDir, PathBuf) {
    let folder = TempDir::new().unwrap();
    let copy = folder.path().join("sample");
    copy_folder(sample(), &copy);
    assert!(
        !copy.join("decisions.db").exists(),
        "the sample itself was served: serve a copy"
    );
    (folder, copy)
}

/// Flips bits of a deployment's embeddings on the disk, and none of the file's header.
pub fn flip_bits_of_items(deployment: &Path) {
    let path = deployment.join("items.db");
    let bytes = fs::read(&path).unwrap();
    let file = fs::File::options().write(true).open(&path).unwrap();
    for at in (20_000..bytes.len()).step_by(2_000) {
        file.write_all_at(&[bytes.get(at).unwrap() ^ 0x10], at as u64)
            .unwrap();
    }
}

/// A copy of the sample whose items have their images.
pub fn copy_with_images() -> (TempDir, PathBuf) {
    let (folder, deployment) = copy_of_sample();
    let (path, gallery) = (deployment.to_str().unwrap(), photos().join("gallery.csv"));
    let gallery = gallery.to_str().unwrap();
    let built = run(&["build", path, "--images", gallery, "--keep-images"]);
    assert!(built.status.success(), "{}", text(&built.stderr));
    (folder, deployment)
}
pub fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy_folder(&path, &target);
        } else {
            fs::copy(&path, &target).unwrap();
        }
    }
}

/// For how long a test that repeats itself goes on: `make test-long` asks for more than a moment.
pub fn patience(moment: Duration) -> Duration {
    let asked = std::env::var("TESTS_SECONDS").ok();
    let seconds = asked.map(|text| text.parse().unwrap());
    seconds.map_or(moment, Duration::from_secs)
}

impl Running {
    /// Serves a copy of the sample and waits until it is ready.
    pub async fn sample(settings: &[(&str, &str)]) -> Self {
        let (folder, deployment) = copy_of_sample();
        let mut running = Self::start(&deployment, settings).await;
        running.folder = Some(folder);
        running
    }

    /// Serves a copy of the sample to whom this channel is none of, and does not wait for it.
    pub async fn sample_of_stranger(settings: &[(&str, &str)]) -> Self {
        let (folder, deployment) = copy_of_sample();
        let config = config(&deployment, settings);
        let loading = config.clone();
        let mut running = Self::start_loading(config, move || server::load(&loading)).await;
        running.folder = Some(folder);
        running
    }
}

/// A server as its own process, killed when this is dropped.
pub struct Served {
    pub child: Child,
    pub address: String,
    metrics: String,
}

impl Served {
    /// Serves a deployment with some settings and flags, and waits until it is ready.
    pub fn start(deployment: &Path, settings: &[(&str, &str)], flags: &[&str]) -> Self {
        Self::try_start(deployment, settings, flags).unwrap()
    }

    /// The same, or what was said by one that ended before it was ready.
    pub fn try_start(
        deployment: &Path,
        settings: &[(&str, &str)],
        flags: &[&str],
    ) -> Result<Self, String> {
        Self::spawn(matchpoint(&["serve"]), deployment, settings, flags)
    }

    /// The same for a folder that may not be written, also by root.
    pub fn start_confined(deployment: &Path, settings: &[(&str, &str)]) -> Self {
        let mut command = matchpoint(&["serve"]);
        if fs::write(deployment.join("a"), "").is_ok() {
            fs::remove_file(deployment.join("a")).unwrap();
            let program = command.get_program().to_owned();
            let mut confined = Command::new("setpriv");
            confined.arg("--bounding-set=-all");
            confined.arg(program).arg("serve").current_dir(ROOT);
            command = confined;
        }
        Self::spawn(command, deployment, settings, &[]).unwrap()
    }

    /// The same of a command that ends with `serve`.
    pub fn spawn(
        mut command: Command,
        deployment: &Path,
        settings: &[(&str, &str)],
        flags: &[&str],
    ) -> Result<Self, String> {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let metrics = free.local_addr().unwrap().to_string();
        drop(free);
        let deployment = deployment.to_str().unwrap();
        let mut child = command
            .args(["--deployments", deployment])
            .args(["--metrics-listen", &metrics])
            .args(["--log-format", "json"])
            .args(flags)
            .env("MATCHPOINT_LISTEN", "127.0.0.1:0")
            .envs(settings.iter().copied())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let (mut address, mut is_ready, mut all) = (String::new(), false, String::new());
        for line in lines.by_ref() {
            let line = line.unwrap();
            all.push_str(&line);
            all.push('\n');
            let line: Value = serde_json::from_str(&line).unwrap_or_default();
            let said = |key: &str| line.get(key).and_then(Value::as_str);
            match said("message") {
                Some("listening") => said("address").unwrap().clone_into(&mut address),
                Some("ready") => {
                    is_ready = true;
                    break;
                }
                Some(_) | None => {}
            }
        }
        if !is_ready {
            let ended = child.wait().unwrap();
            return Err(format!("{ended}\n{all}"));
        }
        // What follows is read away, so that the server never waits for us.
        std::thread::spawn(move || lines.for_each(drop));
        Ok(Self {
            child,
            address,
            metrics,
        })
    }

    /// A channel to it.
    pub fn channel(&self) -> Channel {
        let url = format!("http://{}", self.address);
        Channel::from_shared(url).unwrap().connect_lazy()
    }

    /// What Prometheus would read.
    pub fn scrape(&self) -> String {
        let mut stream = std::net::TcpStream::connect(&self.metrics).unwrap();
        let request = "GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    /// Asks it to end, and waits until it has.
    pub fn end(mut self) {
        let process = self.child.id().to_string();
        let asked = Command::new("kill").arg(process).status().unwrap();
        assert!(asked.success());
        assert!(self.child.wait().unwrap().success());
    }

    /// Ends it as a power cut would.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.child.kill().unwrap_or_default();
        self.child.wait().map(drop).unwrap_or_default();
    }
}
