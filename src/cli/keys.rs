//! `matchpoint keys`: who may call a server, and what each may do.

use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Serialize;

use super::exit::{Exit, fail};
use super::output::Output;
use crate::clock::now_ms;
use crate::identity::{KeyRecord, KeysFile, NewCaller, Presents, Scope};

/// The end of the year 9999, since 1970-01-01 UTC.
const LAST_YEAR_END: Duration = Duration::from_secs(253_402_300_799);

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
  matchpoint keys new robot --certificate spiffe://example/robot --scopes enrol --keys-file keys.json
  matchpoint keys new kiosk --scopes search --expires 90d --calls-per-second 20 --keys-file keys.json")]
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
    /// Until when it is taken: after this time (`90d`, `12h`) or at one (`2027-03-01`); without, until it is revoked
    #[arg(long, value_name = "WHEN", value_parser = end)]
    expires: Option<SystemTime>,
    /// Calls and items of streams that it may make in a second, those of one second at once; a batch counts as its
    /// items. Without, as many as the server answers
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    calls_per_second: Option<u32>,
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

/// A time to come: so long from now, or a date or time in UTC.
fn end(text: &str) -> Result<SystemTime, String> {
    let now = UNIX_EPOCH + Duration::from_millis(now_ms());
    let end = match humantime::parse_duration(text) {
        Ok(after) => now.checked_add(after),
        Err(_) => {
            let midnight = format!("{text} 00:00:00");
            let parsed = humantime::parse_rfc3339_weak(text)
                .or_else(|_| humantime::parse_rfc3339_weak(&midnight));
            parsed.ok()
        }
    };
    let end = end.ok_or("write a time from now such as 90d, or a date such as 2027-03-01")?;
    if end <= now {
        return Err(format!(
            "{} has passed",
            humantime::format_rfc3339_seconds(end)
        ));
    }
    // What is written to the file has four digits for the year.
    if LAST_YEAR_END < end.duration_since(UNIX_EPOCH).unwrap_or_default() {
        return Err("write a time before the year 10000".to_owned());
    }
    Ok(end)
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
        let (record, key) = file.add(NewCaller {
            name: self.name,
            presents,
            scopes,
            deployments: self.deployments,
            expires: self.expires,
            calls_per_second: self.calls_per_second,
        })?;
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
    let mut parts = vec![
        key.id.clone(),
        key.name.clone(),
        scopes.join(","),
        deployments.unwrap_or_else(|| "all deployments".to_owned()),
        key.created.clone(),
    ];
    parts.extend(key.expires.as_ref().map(|end| match key.expires_in() {
        Some(left) => format!("expires {end}, in {}", in_days(left)),
        None => format!("EXPIRED {end}"),
    }));
    let calls = key.calls_per_second;
    parts.extend(calls.map(|calls| format!("{calls} calls a second")));
    let certificate = key.certificate.as_ref();
    parts.extend(certificate.map(|name| format!("certificate {name}")));
    parts.join("  ")
}

/// A time that is left, in whole days, or in hours on the last one.
fn in_days(left: Duration) -> String {
    let hours = left.as_secs() / 3600;
    match (hours / 24, hours) {
        (0, 1) => "1 hour".to_owned(),
        (0, hours) => format!("{hours} hours"),
        (1, _) => "1 day".to_owned(),
        (days, _) => format!("{days} days"),
    }
}
