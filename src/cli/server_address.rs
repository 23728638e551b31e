//! Which server a command calls, and with which credentials.

use std::path::{Path, PathBuf};

use anyhow::Context;

use super::exit::{Exit, fail};
use crate::config::{API_KEY_VARIABLE, EngineFlags, Environment, ProcessEnvironment};
use crate::files::read_file;
use matchpoint_client::{Client, ClientCertificate, Credentials};

/// The server to call.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct ServerAddress {
    /// Address of the server: http://HOST:PORT, https://HOST:PORT if it has a certificate, or `unix:/PATH`
    #[arg(
        long,
        value_name = "URL",
        env = "MATCHPOINT_SERVER",
        default_value = "http://127.0.0.1:50051"
    )]
    server: String,
    #[command(flatten)]
    shown: CredentialFlags,
}

/// A server to call instead of opening a folder here.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct ServerChoice {
    /// Ask the running server at this address, http://HOST:PORT, https://HOST:PORT or `unix:/PATH`, instead of
    /// opening a folder here: DEPLOYMENT is then its name there
    // No variable names it: what is meant for a folder must not reach a server by one that was forgotten.
    #[arg(long, value_name = "URL")]
    server: Option<String>,
    #[command(flatten)]
    shown: CredentialFlags,
}

impl ServerChoice {
    /// The server, if one was named. It has its own settings, so those on the command line are then
    /// refused.
    pub(super) fn instead_of(&self, engine: &EngineFlags) -> anyhow::Result<Option<ServerAddress>> {
        let given = engine.arguments().into_iter().next();
        if let Some(flag) = given.filter(|_| self.server.is_some()) {
            let message = format!(
                "{} is a setting of what runs here, and the server has its own; leave it out",
                flag.display()
            );
            return Err(fail(Exit::Usage, message));
        }
        Ok(self.address())
    }

    /// The server, if one was named.
    pub(super) fn address(&self) -> Option<ServerAddress> {
        let server = self.server.clone();
        server.map(|server| ServerAddress {
            server,
            shown: self.shown.clone(),
        })
    }
}

/// The name of a deployment, given where a command expects a folder.
pub(super) fn name_of(deployment: &Path) -> anyhow::Result<&str> {
    let name = deployment.to_str();
    name.ok_or_else(|| fail(Exit::Usage, "the name of a deployment is UTF-8"))
}

/// A deployment, in a folder or on a server.
#[derive(Debug, clap::Args)]
pub(super) struct Which {
    /// The deployment's folder; its name, with --server
    pub(super) deployment: PathBuf,
    #[command(flatten)]
    pub(super) server: ServerChoice,
    /// Print the outcome as JSON
    #[arg(long)]
    pub(super) json: bool,
}

/// The credentials for a server, and the authorities that it is verified by.
#[derive(Clone, Debug, clap::Args)]
struct CredentialFlags {
    /// PEM file with the authorities that the server's certificate may come from; without, those of the
    /// system
    #[arg(
        long,
        value_name = "FILE",
        env = "MATCHPOINT_SERVER_CA",
        help_heading = "Credentials",
        hide_short_help = true
    )]
    server_ca: Option<PathBuf>,
    /// PEM file with a certificate of your own, if the server asks for one
    #[arg(
        long,
        value_name = "FILE",
        env = "MATCHPOINT_CLIENT_CERTIFICATE",
        requires = "client_certificate_key",
        help_heading = "Credentials",
        hide_short_help = true
    )]
    client_certificate: Option<PathBuf>,
    /// PEM file with the private key of that certificate
    #[arg(
        long,
        value_name = "FILE",
        env = "MATCHPOINT_CLIENT_CERTIFICATE_KEY",
        requires = "client_certificate",
        help_heading = "Credentials",
        hide_short_help = true
    )]
    client_certificate_key: Option<PathBuf>,
    /// File with the key that the server asks for, as `matchpoint keys new` prints it. The variable
    /// `MATCHPOINT_API_KEY` may hold the key itself; a command line never does, since others see it
    #[arg(
        long,
        value_name = "FILE",
        env = "MATCHPOINT_API_KEY_FILE",
        help_heading = "Credentials",
        hide_short_help = true
    )]
    api_key_file: Option<PathBuf>,
}

impl ServerAddress {
    /// Another server with the same credentials.
    pub(super) fn of_another(&self, server: &str) -> Self {
        Self {
            server: server.to_owned(),
            ..self.clone()
        }
    }

    /// Its address, as it was given.
    pub(super) fn url(&self) -> &str {
        &self.server
    }

    /// Connects to it.
    pub(super) async fn connect(&self) -> anyhow::Result<Client> {
        Ok(Client::connect_as(&self.server, &self.shown.credentials()?).await?)
    }
}

impl CredentialFlags {
    fn credentials(&self) -> anyhow::Result<Credentials> {
        let own = self.client_certificate.as_deref();
        let own = own.zip(self.client_certificate_key.as_deref());
        let own = own.map(|(certificate, key)| {
            Ok::<_, anyhow::Error>(ClientCertificate {
                certificate: read(certificate)?,
                key: read(key)?,
            })
        });
        Ok(Credentials {
            server_ca: self.server_ca.as_deref().map(read).transpose()?,
            certificate: own.transpose()?,
            key: self.key()?,
        })
    }

    fn key(&self) -> anyhow::Result<Option<String>> {
        let Some(file) = &self.api_key_file else {
            let key = ProcessEnvironment.get(API_KEY_VARIABLE);
            return Ok(key.filter(|key| !key.is_empty()));
        };
        let text = String::from_utf8(read(file)?).ok();
        let key = text.map(|text| text.trim().to_owned());
        let key = key.filter(|key| !key.is_empty() && !key.contains(char::is_whitespace));
        let problem = || format!("{} holds no key: one line is wanted", file.display());
        key.map(Some).ok_or_else(|| fail(Exit::BadData, problem()))
    }
}

fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    read_file(path).with_context(|| format!("cannot read {}", path.display()))
}
