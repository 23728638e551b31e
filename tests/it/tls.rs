//! Encrypted connections: who is refused, and certificates that change while the server runs.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::common::{Running, matchpoint, run, text};
use matchpoint_client::proto::{SearchRequest, Vector, search_request};
use matchpoint_client::{Client, ClientCertificate, ClientError, Credentials};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType, date_time_ymd,
};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Longer than a change of a file takes to be noticed.
const NOTICED: Duration = Duration::from_secs(10);

/// An authority that signs certificates for a test.
struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params.distinguished_name.push(DnType::CommonName, "test");
        let certificate = params.self_signed(&key).unwrap();
        Self {
            pem: certificate.pem(),
            issuer: Issuer::new(params, key),
        }
    }

    /// A certificate and its private key.
    fn signed(
        &self,
        names: &[&str],
        usage: ExtendedKeyUsagePurpose,
        expired: bool,
    ) -> ClientCertificate {
        let key = KeyPair::generate().unwrap();
        let (uris, hosts): (Vec<&str>, Vec<&str>) = names.iter().partition(|n| n.contains("://"));
        let hosts: Vec<String> = hosts.into_iter().map(ToOwned::to_owned).collect();
        let mut params = CertificateParams::new(hosts).unwrap();
        for uri in uris {
            params
                .subject_alt_names
                .push(SanType::URI(uri.try_into().unwrap()));
        }
        params.extended_key_usages = vec![usage];
        if expired {
            params.not_before = date_time_ymd(2020, 1, 1);
            params.not_after = date_time_ymd(2021, 1, 1);
        }
        let signed = params.signed_by(&key, &self.issuer).unwrap();
        ClientCertificate {
            certificate: signed.pem().into_bytes(),
            key: key.serialize_pem().into_bytes(),
        }
    }

    fn for_server(&self, name: &str) -> ClientCertificate {
        self.signed(&[name], ExtendedKeyUsagePurpose::ServerAuth, false)
    }

    fn for_client(&self, name: &str) -> ClientCertificate {
        self.signed(&[name], ExtendedKeyUsagePurpose::ClientAuth, false)
    }
}

/// The files of a server.
struct ServerFiles(TempDir);

impl ServerFiles {
    fn new(own: &ClientCertificate) -> Self {
        let files = Self(TempDir::new().unwrap());
        files.put(own);
        files
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, content: &[u8]) {
        fs::write(self.path(name), content).unwrap();
    }

    fn put(&self, own: &ClientCertificate) {
        self.write("server.pem", &own.certificate);
        self.write("server.key", &own.key);
    }

    /// The settings that name these files.
    fn settings(&self) -> Vec<(&'static str, String)> {
        let path = |name: &str| self.path(name).to_str().unwrap().to_owned();
        vec![
            ("MATCHPOINT_TLS_CERTIFICATE", path("server.pem")),
            ("MATCHPOINT_TLS_KEY", path("server.key")),
            ("MATCHPOINT_HANDSHAKE_SECONDS", "1".to_owned()),
        ]
    }
}

async fn serve(settings: &[(&'static str, String)]) -> Running {
    let settings: Vec<(&str, &str)> = settings.iter().map(|(k, v)| (*k, v.as_str())).collect();
    Running::sample_of_stranger(&settings).await
}

fn url(running: &Running) -> String {
    format!("https://localhost:{}", running.address.port())
}

fn trusting(authority: &Authority) -> Credentials {
    Credentials {
        server_ca: Some(authority.pem.clone().into_bytes()),
        ..Credentials::default()
    }
}

fn search() -> SearchRequest {
    let values = vec![0.03; 1280];
    SearchRequest {
        query: Some(search_request::Query::Embedding(Vector { values })),
        ..SearchRequest::default()
    }
}

/// Connects and searches, as soon as the server is ready.
async fn searched(at: &str, credentials: &Credentials) -> Result<(), ClientError> {
    let client = Client::connect_as(at, credentials).await?;
    client.wait_until_ready().await?;
    client.search(search(), None).await.map(drop)
}

fn code(result: Result<(), ClientError>) -> String {
    match result {
        Ok(()) => "Ok".to_owned(),
        Err(ClientError::Refused { code, .. }) => code,
        Err(other) => panic!("{other}"),
    }
}

#[tokio::test]
async fn only_who_trusts_the_server_and_is_trusted_gets_in() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let files = ServerFiles::new(&ours.for_server("localhost"));
    files.write("clients.pem", ours.pem.as_bytes());
    let mut settings = files.settings();
    let clients = files.path("clients.pem").to_str().unwrap().to_owned();
    settings.push(("MATCHPOINT_TLS_CLIENT_CA", clients));
    let running = serve(&settings).await;
    let at = url(&running);

    let own = |certificate| Credentials {
        certificate: Some(certificate),
        ..trusting(&ours)
    };
    searched(&at, &own(ours.for_client("robot.example")))
        .await
        .unwrap();
    let client = ExtendedKeyUsagePurpose::ClientAuth;
    for (what, credentials) in [
        ("no certificate", trusting(&ours)),
        (
            "another authority's",
            own(theirs.for_client("robot.example")),
        ),
        ("a server's", own(ours.for_server("robot.example"))),
        (
            "one that has expired",
            own(ours.signed(&["robot.example"], client, true)),
        ),
        (
            "a server of another authority",
            Credentials {
                server_ca: Some(theirs.pem.clone().into_bytes()),
                ..own(ours.for_client("robot.example"))
            },
        ),
        (
            "the system's authorities",
            Credentials {
                server_ca: None,
                ..own(ours.for_client("robot.example"))
            },
        ),
    ] {
        let refused = searched(&at, &credentials).await.unwrap_err();
        let unreachable = matches!(
            &refused,
            ClientError::Unreachable { .. }
                | ClientError::Broken { .. }
                | ClientError::Refused { code: _, .. }
        );
        assert!(unreachable, "{what}: {refused}");
    }
    // The certificate is for localhost.
    let elsewhere = at.replace("localhost", "127.0.0.1");
    assert!(
        searched(&elsewhere, &own(ours.for_client("r")))
            .await
            .is_err()
    );
    let plain = at.replace("https", "http");
    assert!(searched(&plain, &Credentials::default()).await.is_err());
    running.stop().await;
}

#[tokio::test]
async fn a_certificate_is_a_caller_of_the_file_of_keys() {
    let ours = Authority::new();
    let files = ServerFiles::new(&ours.for_server("localhost"));
    files.write("clients.pem", ours.pem.as_bytes());
    let keys = files.path("keys.json");
    let new = |arguments: &[&str]| {
        let common = ["--keys-file", keys.to_str().unwrap()];
        let made = run(&[&["keys", "new"], arguments, &common].concat());
        assert!(made.status.success(), "{}", text(&made.stderr));
        text(&made.stdout).lines().next().unwrap().to_owned()
    };
    let robot = "spiffe://example/robot";
    new(&["robot", "--scopes", "search", "--certificate", robot]);
    new(&[
        "clerk",
        "--scopes",
        "enrol",
        "--certificate",
        "clerk.example",
    ]);
    let key = new(&["till", "--scopes", "search"]);
    let mut settings = files.settings();
    let path = |path: &Path| path.to_str().unwrap().to_owned();
    settings.push(("MATCHPOINT_TLS_CLIENT_CA", path(&files.path("clients.pem"))));
    settings.push(("MATCHPOINT_KEYS_FILE", path(&keys)));
    let running = serve(&settings).await;
    let at = url(&running);
    let with = |name: &str, key: Option<&String>| Credentials {
        certificate: Some(ours.for_client(name)),
        key: key.cloned(),
        ..trusting(&ours)
    };
    let wrong = "mp_wrong".to_owned();
    for (name, key, wanted) in [
        (robot, None, "Ok"),
        ("clerk.example", None, "PermissionDenied"),
        ("stranger.example", None, "Unauthenticated"),
        // A key says more than a certificate that everybody on a machine shares.
        ("stranger.example", Some(&key), "Ok"),
        (robot, Some(&wrong), "Unauthenticated"),
    ] {
        let answer = searched(&at, &with(name, key)).await;
        assert_eq!(code(answer), wanted, "{name} {key:?}");
    }
    running.stop().await;
}

#[tokio::test]
async fn certificates_change_while_connections_go_on() {
    let (old, new) = (Authority::new(), Authority::new());
    let files = ServerFiles::new(&old.for_server("localhost"));
    let running = serve(&files.settings()).await;
    let at = url(&running);
    searched(&at, &trusting(&old)).await.unwrap();

    // One that is open all the time, and searches.
    let open = Client::connect_as(&at, &trusting(&old)).await.unwrap();
    let (done, ended) = (
        Arc::new(AtomicU64::new(0)),
        Arc::new(AtomicBool::new(false)),
    );
    let searching = tokio::spawn({
        let (done, ended) = (Arc::clone(&done), Arc::clone(&ended));
        async move {
            while !ended.load(Ordering::Relaxed) {
                open.search(search(), None).await.unwrap();
                done.fetch_add(1, Ordering::Relaxed);
            }
        }
    });
    // A key without its certificate, as while somebody copies; and nonsense.
    files.write("server.key", &new.for_server("localhost").key);
    tokio::time::sleep(Duration::from_secs(2)).await;
    searched(&at, &trusting(&old)).await.unwrap();
    files.write("server.pem", b"nonsense");
    tokio::time::sleep(Duration::from_secs(2)).await;
    searched(&at, &trusting(&old)).await.unwrap();

    files.put(&new.for_server("localhost"));
    let since = Instant::now();
    while searched(&at, &trusting(&new)).await.is_err() {
        assert!(since.elapsed() < NOTICED);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(searched(&at, &trusting(&old)).await.is_err());
    let before = done.load(Ordering::Relaxed);
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(0 < before && before < done.load(Ordering::Relaxed));
    ended.store(true, Ordering::Relaxed);
    searching.await.unwrap();
    running.stop().await;
}

#[tokio::test]
async fn who_does_not_begin_is_closed_and_old_versions_are_refused() {
    let ours = Authority::new();
    let files = ServerFiles::new(&ours.for_server("localhost"));
    let running = serve(&files.settings()).await;
    let mut silent = Vec::new();
    for _ in 0..50 {
        silent.push(TcpStream::connect(running.address).await.unwrap());
    }
    // TLS 1.1, with a cipher that was common then.
    let body = [&[3, 2][..], &[7; 32], &[0, 0, 2, 0xc0, 0x13, 1, 0]].concat();
    let length = |bytes: usize| u16::try_from(bytes).unwrap().to_be_bytes();
    let hello = [&[1, 0][..], &length(body.len()), &body].concat();
    let record = [&[22, 3, 1][..], &length(hello.len()), &hello].concat();
    let mut old = TcpStream::connect(running.address).await.unwrap();
    old.write_all(&record).await.unwrap();
    let mut answer = Vec::new();
    let read = old.read_to_end(&mut answer);
    let read = tokio::time::timeout(Duration::from_secs(5), read).await;
    drop(read.unwrap());
    // An alert, and nothing else.
    assert_eq!((answer.first(), answer.len()), (Some(&21), 7));

    // Whoever begins is not kept waiting by those who do not.
    let begun = Instant::now();
    searched(&url(&running), &trusting(&ours)).await.unwrap();
    let took = begun.elapsed();
    for mut stream in silent {
        let mut byte = [0];
        let closed = tokio::time::timeout(NOTICED, stream.read(&mut byte)).await;
        assert!(matches!(closed.unwrap(), Ok(0) | Err(_)));
    }
    assert!(took < NOTICED, "{took:?}");
    running.stop().await;
}

// On threads of its own, since this one waits for commands.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_ask_with_a_key_over_tls() {
    let ours = Authority::new();
    let files = ServerFiles::new(&ours.for_server("localhost"));
    let keys = files.path("keys.json");
    let keys = keys.to_str().unwrap();
    let new = [
        "keys",
        "new",
        "till",
        "--scopes",
        "search",
        "--keys-file",
        keys,
    ];
    let key = text(&run(&new).stdout).lines().next().unwrap().to_owned();
    let mut settings = files.settings();
    settings.push(("MATCHPOINT_KEYS_FILE", keys.to_owned()));
    let running = serve(&settings).await;
    let with_key = Credentials {
        key: Some(key.clone()),
        ..trusting(&ours)
    };
    searched(&url(&running), &with_key).await.unwrap();
    files.write("ca.pem", ours.pem.as_bytes());
    files.write("key", format!("{key}\n").as_bytes());
    let path = |name: &str| files.path(name).to_str().unwrap().to_owned();
    let photo = crate::common::photos().join("images/gc_fishes_fish3/q5_combo.jpg");
    let ask = |server: &str, variable: Option<&str>, file: Option<&str>| {
        let mut command = matchpoint(&["search", photo.to_str().unwrap(), "--server", server]);
        command.args(["--server-ca", &path("ca.pem")]);
        command.envs(variable.map(|key| ("MATCHPOINT_API_KEY", key)));
        command.args(
            file.iter()
                .flat_map(|name| ["--api-key-file".to_owned(), path(name)]),
        );
        let done = command.output().unwrap();
        let said = text(&done.stdout) + &text(&done.stderr);
        assert!(!said.contains(&key), "{said}");
        (done.status.code(), said)
    };
    let url = url(&running);
    for (variable, file) in [(Some(&*key), None), (None, Some("key"))] {
        let (status, said) = ask(&url, variable, file);
        assert!(status == Some(0) && said.contains("ACCEPT"), "{said}");
    }
    for (server, variable, file, status, problem) in [
        (&*url, None, None, 3, "KEY_MISSING"),
        (&url, Some("mp_x"), None, 3, "KEY_UNKNOWN"),
        (&url, None, Some("server.pem"), 65, "holds no key"),
        (&url, None, Some("none"), 74, "cannot read"),
        ("http://192.0.2.1:1", Some(&key), None, 2, "unencrypted"),
    ] {
        let (ended, said) = ask(server, variable, file);
        assert!(
            ended == Some(status) && said.contains(problem),
            "{problem}: {ended:?} {said}"
        );
    }
    let status = matchpoint(&["status", "--server", &url, "--server-ca", &path("ca.pem")])
        .env("MATCHPOINT_API_KEY", &key)
        .output()
        .unwrap();
    let said = text(&status.stdout);
    assert!(
        status.status.code() == Some(0) && said.contains("not allowed to see the rest"),
        "{said}{}",
        text(&status.stderr)
    );
    running.stop().await;
}
