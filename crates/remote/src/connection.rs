//! The address of a store, and a connection to it whose answers have a time limit.

use std::future::{Future, poll_fn};
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};
use tokio_postgres::config::{Host, SslMode, TargetSessionAttrs};
use tokio_postgres::error::Severity;
use tokio_postgres::{AsyncMessage, Client, Config};

use crate::error::RemoteError;
use crate::schema::SESSION;
use crate::tls::Tls;

/// The port of a host that is given without one.
const PORT: u16 = 5432;
/// How long connecting to one host may take. With several hosts, the next one is tried then.
const CONNECT_MAX: Duration = Duration::from_secs(2);
/// How long one answer may take. A change waits so long for the synchronous standbys.
pub(super) const ANSWER_MAX: Duration = Duration::from_secs(5);

/// The address of a store: `postgres://USER:PASSWORD@HOST:PORT/DATABASE`, with several hosts if a standby may
/// take over.
#[derive(Clone, Debug)]
pub struct StoreAddress {
    config: Config,
    shown: String,
}

impl StoreAddress {
    /// Hosts and database, without user and password.
    #[must_use]
    pub fn shown(&self) -> &str {
        &self.shown
    }
}

impl FromStr for StoreAddress {
    type Err = RemoteError;

    fn from_str(text: &str) -> Result<Self, RemoteError> {
        let refuse = |problem: &str| RemoteError::Address {
            problem: problem.to_owned(),
        };
        if !text.starts_with("postgres://") && !text.starts_with("postgresql://") {
            return Err(refuse("has a scheme that is not known"));
        }
        // The error may repeat a part of the text, and so the password.
        let mut config: Config = text
            .parse()
            .map_err(|_error| refuse("cannot be read as an address"))?;
        let database = config.get_dbname().map(ToOwned::to_owned);
        let database = database.ok_or_else(|| refuse("names no database"))?;
        if config.get_hosts().is_empty() {
            return Err(refuse("names no host"));
        }
        if config.get_ssl_mode() == SslMode::Prefer && !config.get_hosts().iter().all(is_here) {
            config.ssl_mode(SslMode::Require);
        }
        config
            .application_name("matchpoint")
            .connect_timeout(CONNECT_MAX)
            .tcp_user_timeout(ANSWER_MAX)
            // A standby would refuse every change.
            .target_session_attrs(TargetSessionAttrs::ReadWrite);
        let ports = config.get_ports().iter().copied();
        let ports = ports.chain(std::iter::repeat(PORT));
        let hosts = config.get_hosts().iter().zip(ports);
        let hosts = hosts.map(|(host, port)| host_shown(host, port));
        let hosts: Vec<String> = hosts.collect();
        let shown = format!("{}/{database}", hosts.join(","));
        Ok(Self { config, shown })
    }
}

/// Whether what is sent to this host stays on this machine.
fn is_here(host: &Host) -> bool {
    match host {
        Host::Tcp(name) => {
            let address = name.parse::<IpAddr>();
            name == "localhost" || address.is_ok_and(|address| address.is_loopback())
        }
        Host::Unix(_) => true,
    }
}

fn host_shown(host: &Host, port: u16) -> String {
    match host {
        Host::Tcp(name) => format!("{name}:{port}"),
        Host::Unix(path) => path.display().to_string(),
    }
}

/// A connection, made when it is needed, and given up after an error.
pub(super) struct StoreConnection {
    address: StoreAddress,
    runtime: Runtime,
    tls: Tls,
    client: Option<Client>,
    warning: Warning,
}

/// The latest warning of the database that nobody has looked at.
#[derive(Clone, Debug, Default)]
struct Warning(Arc<Mutex<Option<String>>>);

impl Warning {
    fn note(&self, said: &str) {
        let mut latest = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *latest = Some(said.to_owned());
    }

    fn take(&self) -> Option<String> {
        let mut latest = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        latest.take()
    }
}

impl StoreConnection {
    pub(super) fn new(address: StoreAddress) -> Result<Self, RemoteError> {
        let broken = |cause| RemoteError::Unreachable {
            address: address.shown.clone(),
            cause,
        };
        let mut runtime = Builder::new_current_thread();
        let runtime = runtime.enable_all().build();
        let runtime = runtime.map_err(|error| broken(error.to_string()))?;
        let tls = Tls::new().map_err(broken)?;
        Ok(Self {
            address,
            runtime,
            tls,
            client: None,
            warning: Warning::default(),
        })
    }

    pub(super) fn shown(&self) -> &str {
        &self.address.shown
    }

    /// Runs some statements, within this time. If they fail, the connection is closed, and with it
    /// whatever it had begun. A warning of the database counts as a failure: it has one for a commit that no
    /// standby has.
    pub(super) fn run<T>(
        &mut self,
        within: Duration,
        statements: impl AsyncFnOnce(&mut Client) -> Result<T, Failed>,
    ) -> Result<T, RemoteError> {
        let client = self.client.take().filter(|client| !client.is_closed());
        let (config, tls, warning) = (&self.address.config, &self.tls, &self.warning);
        let work = async {
            let mut client = match client {
                Some(client) => client,
                None => connect(config, tls, warning.clone()).await?,
            };
            warning.take();
            let result = match statements(&mut client).await {
                Ok(result) => Ok(result),
                Err(Failed::Known(error)) => {
                    // What was begun has locks, and would be undone with the next statements only.
                    client.batch_execute("").await?;
                    Err(error)
                }
                Err(failed) => return Err(failed),
            };
            Ok((client, result))
        };
        let done = self.runtime.block_on(in_time(within, work));
        if let (Ok((_, Ok(_))), Some(warning)) = (&done, self.warning.take()) {
            return Err(RemoteError::Unreachable {
                address: self.address.shown.clone(),
                cause: format!("it warned: {warning}"),
            });
        }
        match done {
            Ok((client, result)) => {
                self.client = Some(client);
                result
            }
            Err(Failed::Known(error)) => Err(error),
            Err(Failed::Sql(cause)) => Err(RemoteError::Unreachable {
                address: self.address.shown.clone(),
                cause: said(&cause),
            }),
            Err(Failed::Late) => Err(RemoteError::Unreachable {
                address: self.address.shown.clone(),
                cause: format!("nothing came within {} s", within.as_secs()),
            }),
        }
    }
}

/// How statements failed.
pub(super) enum Failed {
    /// The store refused, or this crate did.
    Known(RemoteError),
    /// The database or the network failed.
    Sql(tokio_postgres::Error),
    /// Nothing came in time.
    Late,
}

impl From<tokio_postgres::Error> for Failed {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::Sql(error)
    }
}

impl From<RemoteError> for Failed {
    fn from(error: RemoteError) -> Self {
        Self::Known(error)
    }
}

async fn in_time<T>(
    within: Duration,
    work: impl Future<Output = Result<T, Failed>>,
) -> Result<T, Failed> {
    let done = tokio::time::timeout(within, work).await;
    done.unwrap_or(Err(Failed::Late))
}

async fn connect(config: &Config, tls: &Tls, warning: Warning) -> Result<Client, Failed> {
    let (client, mut connection) = config.connect(tls.clone()).await?;
    // It ends with the client, or with an error that the next statement gets. A warning is noted before the statement
    // that it belongs to is answered.
    tokio::spawn(async move {
        while let Some(Ok(message)) = poll_fn(|context| connection.poll_message(context)).await {
            if let AsyncMessage::Notice(notice) = message
                && notice.parsed_severity() == Some(Severity::Warning)
            {
                warning.note(notice.message());
            }
        }
    });
    client.batch_execute(SESSION).await?;
    Ok(client)
}

/// What the database says, without the statement.
fn said(error: &tokio_postgres::Error) -> String {
    if let Some(refused) = error.as_db_error() {
        return format!("{} ({})", refused.message(), refused.code().code());
    }
    let cause = std::error::Error::source(error);
    cause.map_or_else(|| error.to_string(), |cause| format!("{error}: {cause}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> Result<StoreAddress, String> {
        text.parse().map_err(|error: RemoteError| error.to_string())
    }

    #[test]
    fn an_address_that_cannot_be_used_is_refused_without_its_password() {
        for (text, problem) in [
            ("mysql://a:secret@b/c", "a scheme that is not known"),
            ("postgres://a:secret@b:port/c", "cannot be read"),
            ("postgres://a:secret@b", "names no database"),
            ("postgres:///c?user=secret", "names no host"),
        ] {
            let said = address(text).unwrap_err();
            assert!(said.contains(problem), "{text}: {said}");
            assert!(!said.contains("secret"), "{said}");
        }
        let shown = address("postgres://a:secret@b,c:5433/d").unwrap();
        assert_eq!(shown.shown(), "b:5432,c:5433/d");
    }

    #[test]
    fn a_password_crosses_no_network_unencrypted_unless_that_is_said() {
        let mode = |text| address(text).unwrap().config.get_ssl_mode();
        assert_eq!(mode("postgres://a@127.0.0.1,db/c"), SslMode::Require);
        assert_eq!(mode("postgres://a@127.0.0.1,localhost/c"), SslMode::Prefer);
        assert_eq!(mode("postgres://a@db/c?sslmode=disable"), SslMode::Disable);
    }

    #[test]
    fn a_store_that_is_not_there_is_said_to_be_so() {
        let address = address("postgres://a:secret@127.0.0.1:1/c").unwrap();
        let mut connection = StoreConnection::new(address).unwrap();
        let error = connection.run(ANSWER_MAX, async |client| {
            Ok(client.batch_execute("SELECT 1").await?)
        });
        let said = error.unwrap_err().to_string();
        assert!(
            said.contains("the store 127.0.0.1:1/c did not answer"),
            "{said}"
        );
        assert!(!said.contains("secret"), "{said}");
    }
}
