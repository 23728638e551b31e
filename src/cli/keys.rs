//! `matchpoint keys`: who may call a server, and what each may do.

use std::path::PathBuf;

use serde::Serialize;

use super::exit::{Exit, fail};
use super::output::Output;
use crate::identity::{KeyRecord, KeysFile, Presents, Scope};

/// Make, list and revoke keys of the server's callers
///
/// A server that was started with `keys_file` answers only who has a key in that file, or a certificate that
/// it names, and only what its scopes allow. It reads the file again when it changes: within two seconds a new
/// key is taken, and a revoked one is not.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  matchpoint keys new till --scopes search --keys-file keys.json
  matchpoint keys new labels --scopes label,calibrate --deployments shop --keys-file keys.json
  matchpoint keys new robot --certificate spiffe://example/robot --scopes enrol --keys-file keys.json
  matchpoint keys list --keys-file keys.json
  matchpoint keys revoke 5f2c9a0b1d3e --keys-file keys.json

Scopes: search (search, verify, embed), enrol (read and change the gallery), label (see and annotate sampled
decisions), calibrate (calibrate, choose what decides), admin (snapshots, reloads, resets), or all of them by
`all`. docs/security.md has every call.")]
pub(super) struct KeysArgs {
    #[command(subcommand)]
    command: KeysCommand,
}

#[derive(Debug, clap::Subcommand)]
enum KeysCommand {
    /// Make a key, which is printed once and kept as its digest alone
    New(NewKey),
    /// List who may call
    List(ListKeys),
    /// Remove a key, or all keys of one name
    Revoke(RevokeKey),
}

#[derive(Debug, clap::Args)]
struct KeysAt {
    /// The file, as the server's setting `keys_file` names it
    #[arg(long, value_name = "FILE", env = "MATCHPOINT_KEYS_FILE")]
    keys_file: PathBuf,
    /// Print the outcome as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  matchpoint keys new till --scopes search --keys-file keys.json
  matchpoint keys new labels --scopes label,calibrate --deployments shop --keys-file keys.json
  matchpoint keys new robot --certificate spiffe://example/robot --scopes enrol --keys-file keys.json")]
struct NewKey {
    /// Who it is for: letters, digits, `-`, `_`, `.` and `@`. Several may have one name, so that keys can be
    /// rolled
    name: String,
    /// What it may do: search, enrol, label, calibrate and admin, separated by commas, or all
    #[arg(long, value_name = "SCOPES", required = true, value_delimiter = ',', value_parser = scopes)]
    scopes: Vec<AskedScopes>,
    /// The deployments that it may do so in, separated by commas; without, all of them
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    deployments: Option<Vec<String>>,
    /// Make no key: the caller shows a certificate with this DNS name or URI, or with this digest
    /// (`sha256:` and 64 digits). Takes a server with `tls_client_ca`
    #[arg(long, value_name = "NAME")]
    certificate: Option<String>,
    #[command(flatten)]
    at: KeysAt,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  matchpoint keys list --keys-file keys.json")]
struct ListKeys {
    #[command(flatten)]
    at: KeysAt,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  matchpoint keys revoke 5f2c9a0b1d3e --keys-file keys.json
  matchpoint keys revoke till --keys-file keys.json           # all keys of that name")]
struct RevokeKey {
    /// The id that `keys list` shows, or a name
    key: String,
    #[command(flatten)]
    at: KeysAt,
}

/// One scope, or all.
#[derive(Clone, Debug)]
struct AskedScopes(Vec<Scope>);

fn scopes(text: &str) -> Result<AskedScopes, String> {
    if text == "all" {
        return Ok(AskedScopes(Scope::ALL.to_vec()));
    }
    let scope = Scope::parse(text).map(|scope| AskedScopes(vec![scope]));
    scope.ok_or_else(|| {
        let names: Vec<&str> = Scope::ALL.iter().map(|scope| scope.as_str()).collect();
        format!("write some of {}, or all", names.join(", "))
    })
}

/// A new caller; the key is nowhere else.
#[derive(Serialize)]
struct MadeKey {
    #[serde(flatten)]
    record: KeyRecord,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
}

impl KeysArgs {
    pub(super) fn run(self) -> anyhow::Result<Exit> {
        match self.command {
            KeysCommand::New(new) => new.run(),
            KeysCommand::List(list) => list.run(),
            KeysCommand::Revoke(revoke) => revoke.run(),
        }
    }
}

impl NewKey {
    fn run(self) -> anyhow::Result<Exit> {
        let asked = self.scopes.into_iter().flat_map(|asked| asked.0);
        let scopes: Vec<Scope> = asked.collect();
        let presents = match self.certificate {
            Some(name) if name.is_empty() => {
                return Err(fail(Exit::Usage, "--certificate is empty"));
            }
            Some(name) => Presents::Certificate(name),
            None => Presents::Key,
        };
        let mut file = KeysFile::change(&self.at.keys_file)?;
        let (record, key) = file.add(&self.name, presents, &scopes, self.deployments)?;
        Output::new(self.at.json).result(&MadeKey { record, key }, |made| {
            let row = row(&made.record);
            match &made.key {
                Some(key) => {
                    format!("{key}\n\n{row}\nThis is the only time that the key is shown.\n")
                }
                None => format!("{row}\n"),
            }
        })?;
        Ok(Exit::Done)
    }
}

impl ListKeys {
    fn run(self) -> anyhow::Result<Exit> {
        let file = KeysFile::read(&self.at.keys_file)?;
        Output::new(self.at.json).result(&file.keys(), |keys| {
            if keys.is_empty() {
                return "no key: a server with this file answers nobody\n".to_owned();
            }
            keys.iter().map(|key| row(key) + "\n").collect()
        })?;
        Ok(Exit::Done)
    }
}

impl RevokeKey {
    fn run(self) -> anyhow::Result<Exit> {
        let mut file = KeysFile::change(&self.at.keys_file)?;
        let gone = file.revoke(&self.key)?;
        Output::new(self.at.json).result(&gone, |gone| {
            gone.iter()
                .map(|key| format!("revoked {}\n", row(key)))
                .collect()
        })?;
        Ok(Exit::Done)
    }
}

/// What is known of one caller, on a line.
fn row(key: &KeyRecord) -> String {
    let scopes: Vec<&str> = key.scopes.iter().map(|scope| scope.as_str()).collect();
    let deployments = key.deployments.as_ref().map(|names| names.join(","));
    let certificate = key.certificate.as_ref();
    format!(
        "{}  {}  {}  {}  {}{}",
        key.id,
        key.name,
        scopes.join(","),
        deployments.as_deref().unwrap_or("all deployments"),
        key.created,
        certificate
            .map(|name| format!("  certificate {name}"))
            .unwrap_or_default(),
    )
}
