//! The file of keys: who may call, with which key or certificate, and what each may do.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, chown};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::error::IdentityError;
use super::key::{KeyDigest, new_key};
use super::scope::Scope;
use crate::clock::{now_ms, now_rfc_3339};
use crate::files::open_file;

/// The format of the file.
const FORMAT: u32 = 1;
/// Far more than anybody manages by hand.
const KEYS_MAX: usize = 10_000;
const FILE_BYTES_MAX: u64 = 16 << 20;
const NAME_BYTES_MAX: usize = 64;
const CERTIFICATE_BYTES_MAX: usize = 512;
/// More than a server answers.
const CALLS_PER_SECOND_MAX: u32 = 1_000_000;
/// Digits of a digest that make an id.
const ID_DIGITS: usize = 12;

/// One caller.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyRecord {
    /// By which it is revoked and logged.
    pub id: String,
    /// Who it is for.
    pub name: String,
    /// SHA-256 of the key, in hexadecimal digits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// In place of a key: a name of the client's certificate, or `sha256:` and the digest of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate: Option<String>,
    /// What it may do.
    pub scopes: Vec<Scope>,
    /// The deployments that it may use; all if this is missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deployments: Option<Vec<String>>,
    /// When it was made.
    pub created: String,
    /// When it stops to be taken, as RFC 3339; never if this is missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires: Option<String>,
    /// Calls that it may make in a second, 1 to 1,000,000; as many as the server answers if this is missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub calls_per_second: Option<u32>,
}

impl KeyRecord {
    /// When it stops to be taken, in milliseconds since 1970-01-01 UTC.
    pub(super) fn expires_ms(&self) -> Option<u64> {
        unix_ms(self.expires.as_ref()?)
    }

    /// Whether it is past its time.
    #[must_use]
    pub fn is_expired(&self) -> bool {
        self.expires_ms().is_some_and(|end| end <= now_ms())
    }

    /// How long it is taken yet; `None` if it is past its time, or has none.
    #[must_use]
    pub fn expires_in(&self) -> Option<Duration> {
        let left_ms = self.expires_ms()?.checked_sub(now_ms())?;
        Some(Duration::from_millis(left_ms))
    }
}

/// A caller to be added.
#[derive(Clone, Debug)]
pub struct NewCaller {
    /// Who it is for.
    pub name: String,
    /// What it shows.
    pub presents: Presents,
    /// What it may do; one is needed.
    pub scopes: Vec<Scope>,
    /// The deployments that it may do so in; `None` for all.
    pub deployments: Option<Vec<String>>,
    /// When it stops to be taken; `None` for never.
    pub expires: Option<SystemTime>,
    /// Calls that it may make in a second; `None` for no limit of its own.
    pub calls_per_second: Option<u32>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeysRecord {
    format: u32,
    keys: Vec<KeyRecord>,
}

/// How a new caller is identified.
#[derive(Clone, Debug)]
pub enum Presents {
    /// By a key, which is made.
    Key,
    /// By a certificate with this name or digest.
    Certificate(String),
}

/// The file, locked against other commands that change it.
#[derive(Debug)]
pub struct KeysFile {
    path: PathBuf,
    keys: Vec<KeyRecord>,
    #[expect(dead_code, reason = "kept for its lock")]
    lock: Option<File>,
}

impl KeysFile {
    /// Reads the file, which has to be there.
    ///
    /// # Errors
    /// It is missing, or holds something else.
    pub fn read(path: &Path) -> Result<Self, IdentityError> {
        Ok(Self {
            path: path.to_owned(),
            keys: read(path)?,
            lock: None,
        })
    }

    /// Reads the file to change it, or creates a new one.
    ///
    /// # Errors
    /// It holds something else, or its folder cannot be written to.
    pub fn change(path: &Path) -> Result<Self, IdentityError> {
        let folder = folder_of(path);
        let lock = File::open(folder).and_then(|lock| lock.lock().map(|()| lock));
        let lock = lock.map_err(|cause| failed(folder, cause))?;
        let keys = match path.symlink_metadata() {
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => Vec::new(),
            _ => read(path)?,
        };
        Ok(Self {
            path: path.to_owned(),
            keys,
            lock: Some(lock),
        })
    }

    /// The callers, in the order in which they were added.
    #[must_use]
    pub fn keys(&self) -> &[KeyRecord] {
        &self.keys
    }

    /// Adds a caller; returns the record and the key, which is stored nowhere.
    ///
    /// # Errors
    /// An impossible name, scope, deployment, time or rate, or the disk failed; nothing has changed then.
    pub fn add(&mut self, caller: NewCaller) -> Result<(KeyRecord, Option<String>), IdentityError> {
        let (key, certificate) = match caller.presents {
            Presents::Key => (Some(new_key()?), None),
            Presents::Certificate(name) => (None, Some(name)),
        };
        let told = key.as_ref().or(certificate.as_ref());
        let digest = KeyDigest::of(told.map(String::as_bytes).unwrap_or_default()).to_hex();
        let scopes: BTreeSet<Scope> = caller.scopes.into_iter().collect();
        let text = |time| humantime::format_rfc3339_seconds(time).to_string();
        let record = KeyRecord {
            id: digest.chars().take(ID_DIGITS).collect(),
            name: caller.name,
            sha256: key.is_some().then_some(digest),
            certificate,
            scopes: scopes.into_iter().collect(),
            deployments: caller.deployments,
            created: now_rfc_3339(),
            expires: caller.expires.map(text),
            calls_per_second: caller.calls_per_second,
        };
        let mut keys = self.keys.clone();
        keys.push(record.clone());
        check(&keys).map_err(|problem| IdentityError::Argument { problem })?;
        self.write(&keys)?;
        self.keys = keys;
        Ok((record, key))
    }

    /// Removes the caller with this id, or else all with this name.
    ///
    /// # Errors
    /// There is none, or the disk failed; nothing has changed then.
    pub fn revoke(&mut self, id_or_name: &str) -> Result<Vec<KeyRecord>, IdentityError> {
        let by_id = self.keys.iter().any(|key| key.id == id_or_name);
        let (gone, kept): (Vec<KeyRecord>, _) = self.keys.iter().cloned().partition(|key| {
            if by_id {
                key.id == id_or_name
            } else {
                key.name == id_or_name
            }
        });
        if gone.is_empty() {
            let problem = format!(
                "{} has no key with the id or name `{id_or_name}`; `matchpoint keys list` shows them",
                self.path.display()
            );
            return Err(IdentityError::Argument { problem });
        }
        self.write(&kept)?;
        self.keys = kept;
        Ok(gone)
    }

    /// Replaces the file, for its owner alone to read.
    fn write(&self, keys: &[KeyRecord]) -> Result<(), IdentityError> {
        let record = KeysRecord {
            format: FORMAT,
            keys: keys.to_vec(),
        };
        let json = serde_json::to_vec_pretty(&record);
        let json = json.map_err(|cause| failed(&self.path, cause.into()))?;
        let mut beside = self.path.as_os_str().to_owned();
        beside.push(format!(".{}.tmp", uuid::Uuid::now_v7()));
        let beside = PathBuf::from(beside);
        replace(&self.path, &beside, &json).map_err(|cause| {
            drop(fs::remove_file(&beside));
            failed(&self.path, cause)
        })
    }
}

fn replace(path: &Path, beside: &Path, content: &[u8]) -> io::Result<()> {
    let mut options = OpenOptions::new();
    let mut file = options
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(beside)?;
    file.write_all(content)?;
    // Keeps the owner, for a server that runs as another user.
    let made = file.metadata()?;
    if let Ok(before) = fs::metadata(path)
        && (before.uid(), before.gid()) != (made.uid(), made.gid())
    {
        chown(beside, Some(before.uid()), Some(before.gid()))?;
    }
    file.sync_all()?;
    fs::rename(beside, path)?;
    File::open(folder_of(path))?.sync_all()
}

fn unix_ms(text: &str) -> Option<u64> {
    let time = humantime::parse_rfc3339(text).ok()?;
    let since = time.duration_since(UNIX_EPOCH).ok()?;
    u64::try_from(since.as_millis()).ok()
}

fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    }
}

fn failed(path: &Path, cause: io::Error) -> IdentityError {
    IdentityError::Io {
        path: path.to_owned(),
        cause,
    }
}

/// The callers that a file names.
pub(super) fn read(path: &Path) -> Result<Vec<KeyRecord>, IdentityError> {
    let mut bytes = Vec::new();
    let file = open_file(path).map_err(|cause| failed(path, cause))?;
    let mut limited = file.take(FILE_BYTES_MAX + 1);
    limited
        .read_to_end(&mut bytes)
        .map_err(|cause| failed(path, cause))?;
    let wrong = |problem: String| IdentityError::Content {
        path: path.to_owned(),
        problem: format!("is no file of keys: {problem}"),
    };
    if FILE_BYTES_MAX < bytes.len() as u64 {
        return Err(wrong(format!("it has more than {FILE_BYTES_MAX} bytes")));
    }
    // Only the position: the text there may be somebody's key.
    let record: KeysRecord = serde_json::from_slice(&bytes).map_err(|cause| {
        let (line, column) = (cause.line(), cause.column());
        wrong(format!(
            "line {line}, column {column} is not what `matchpoint keys` writes"
        ))
    })?;
    if record.format != FORMAT {
        let found = record.format;
        return Err(wrong(format!(
            "it has format {found}; this version reads {FORMAT}"
        )));
    }
    check(&record.keys).map_err(wrong)?;
    Ok(record.keys)
}

/// What is wrong with a list of callers.
fn check(keys: &[KeyRecord]) -> Result<(), String> {
    if KEYS_MAX < keys.len() {
        return Err(format!("there may be {KEYS_MAX} keys"));
    }
    let (mut ids, mut told) = (BTreeSet::new(), BTreeSet::new());
    for (number, key) in keys.iter().enumerate() {
        check_one(key).map_err(|problem| format!("key {}: {problem}", number + 1))?;
        let presented = key.sha256.as_ref().or(key.certificate.as_ref());
        if !ids.insert(&key.id) || !told.insert(presented) {
            return Err(format!("key {}: there is one like it already", number + 1));
        }
    }
    Ok(())
}

fn check_one(key: &KeyRecord) -> Result<(), String> {
    let plain = |text: &str| {
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '@');
        (1..=NAME_BYTES_MAX).contains(&text.len()) && text.chars().all(allowed)
    };
    if !plain(&key.id) || !plain(&key.name) {
        return Err(format!(
            "the name must be 1 to {NAME_BYTES_MAX} letters, digits, `-`, `_`, `.` or `@`"
        ));
    }
    match (&key.sha256, &key.certificate) {
        (Some(digest), None) if KeyDigest::parse(digest).is_some() => {}
        (None, Some(name)) if (1..=CERTIFICATE_BYTES_MAX).contains(&name.len()) => {}
        (Some(_), None) => return Err("sha256 must be 64 digits, 0 to 9 and a to f".to_owned()),
        (None, Some(_)) => {
            return Err(format!(
                "certificate must have 1 to {CERTIFICATE_BYTES_MAX} bytes"
            ));
        }
        _ => return Err("it must have either sha256 or certificate".to_owned()),
    }
    if key.scopes.is_empty() {
        return Err("it has no scope".to_owned());
    }
    let empty = |names: &Vec<String>| names.is_empty() || names.iter().any(String::is_empty);
    if key.deployments.as_ref().is_some_and(empty) {
        return Err("deployments must name some, or be left out for all".to_owned());
    }
    if key.expires.is_some() && key.expires_ms().is_none() {
        return Err("expires must be a time such as 2027-03-01T00:00:00Z".to_owned());
    }
    let allowed = |calls: u32| (1..=CALLS_PER_SECOND_MAX).contains(&calls);
    if !key.calls_per_second.is_none_or(allowed) {
        return Err(format!(
            "calls_per_second must be 1 to {CALLS_PER_SECOND_MAX}"
        ));
    }
    Ok(())
}

#[cfg(test)]
pub(super) mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    /// Nothing out of the ordinary.
    pub(in crate::identity) fn a_caller(name: &str) -> NewCaller {
        NewCaller {
            name: name.to_owned(),
            presents: Presents::Key,
            scopes: vec![Scope::Search],
            deployments: Some(vec!["shop".to_owned()]),
            expires: None,
            calls_per_second: None,
        }
    }

    #[test]
    fn a_key_is_kept_as_its_digest_in_a_file_of_its_owner() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys.json");
        let mut file = KeysFile::change(&path).unwrap();
        let till = NewCaller {
            scopes: vec![Scope::Enrol, Scope::Search, Scope::Enrol],
            ..a_caller("till")
        };
        let (record, key) = file.add(till.clone()).unwrap();
        let key = key.unwrap();
        assert_eq!(record.scopes, [Scope::Search, Scope::Enrol]);
        let text = fs::read_to_string(&path).unwrap();
        assert!(!text.contains(&key) && text.contains(&record.id), "{text}");
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        drop(file);

        // A second of the same name, to roll the first.
        let mut file = KeysFile::change(&path).unwrap();
        let (second, _) = file.add(till).unwrap();
        assert_eq!(KeysFile::read(&path).unwrap().keys().len(), 2);
        assert_eq!(file.revoke(&record.id).unwrap(), [record]);
        assert!(file.revoke("somebody").is_err());
        assert_eq!(KeysFile::read(&path).unwrap().keys(), [second]);
        assert_eq!(file.revoke("till").unwrap().len(), 1);
        assert!(KeysFile::read(&path).unwrap().keys().is_empty());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_is_no_file_of_keys_is_refused_and_not_quoted() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys.json");
        let digest = "0".repeat(64);
        let file = |format: u32, keys: &str| format!(r#"{{"format":{format},"keys":[{keys}]}}"#);
        let key = |fields: &str| format!(r#"{{"id":"a","name":"b","created":"",{fields}}}"#);
        let right = key(&format!(r#""sha256":"{digest}","scopes":["search"]"#));
        fs::write(&path, file(1, &right)).unwrap();
        assert_eq!(KeysFile::read(&path).unwrap().keys().len(), 1);
        for wrong in [
            "mp_secret".to_owned(),
            file(2, ""),
            file(1, &format!("{right},{right}")),
            file(1, &key(r#""scopes":["search"]"#)),
            file(1, &key(r#""sha256":"mp_secret","scopes":["search"]"#)),
            file(1, &key(&format!(r#""sha256":"{digest}","scopes":[]"#))),
            file(
                1,
                &key(&format!(r#""sha256":"{digest}","scopes":["mp_secret"]"#)),
            ),
            file(
                1,
                &key(&format!(
                    r#""sha256":"{digest}","scopes":["search"],"deployments":[]"#
                )),
            ),
            file(
                1,
                &key(&format!(
                    r#""sha256":"{digest}","scopes":["search"],"expires":"soon""#
                )),
            ),
            file(
                1,
                &key(&format!(
                    r#""sha256":"{digest}","scopes":["search"],"calls_per_second":0"#
                )),
            ),
        ] {
            fs::write(&path, &wrong).unwrap();
            let error = KeysFile::read(&path).unwrap_err().to_string();
            assert!(error.contains("keys.json is no file of keys"), "{error}");
            assert!(!error.contains("mp_secret"), "{error}");
        }
        assert!(KeysFile::read(folder.path()).is_err());
    }
}
