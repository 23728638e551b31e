//! The callers that are known at present, and what each may do.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use super::call_rate::{CallRate, TooManyCalls};
use super::error::IdentityError;
use super::key::KeyDigest;
use super::keys_file::{KeyRecord, read};
use super::scope::Scope;
use super::tokens::TokenCaller;

/// A caller of the file of keys.
#[derive(Debug)]
pub struct KnownCaller {
    record: KeyRecord,
    /// Of its key.
    digest: Option<KeyDigest>,
    /// Whether the file no longer has it, or has changed it.
    revoked: AtomicBool,
    rate: Option<CallRate>,
}

impl KnownCaller {
    /// Whether its time is over.
    #[must_use]
    pub fn is_expired(&self) -> bool {
        self.record.is_expired()
    }
}

/// Who calls.
#[derive(Clone, Debug, Default)]
pub enum Identity {
    /// Nobody: may do nothing.
    #[default]
    Nobody,
    /// Anyone who reaches the server, if it does not ask for identities.
    Anyone,
    /// Anyone with a certificate from the client authority, if there is no file of keys.
    Certified(Arc<str>),
    /// A caller of the file of keys.
    Known(Arc<KnownCaller>),
    /// Anyone with a token from the issuer.
    Token(Arc<TokenCaller>),
}

impl Identity {
    /// Whether this caller has a scope.
    #[must_use]
    pub fn may(&self, scope: Scope) -> bool {
        match self {
            Self::Nobody => false,
            Self::Anyone | Self::Certified(_) => true,
            Self::Known(known) => known.record.scopes.contains(&scope),
            Self::Token(token) => token.may(scope),
        }
    }

    /// Whether this caller may use a deployment for what its scopes allow.
    #[must_use]
    pub fn may_use(&self, deployment: &str) -> bool {
        match self {
            Self::Nobody => false,
            Self::Anyone | Self::Certified(_) => true,
            Self::Known(known) => {
                let named = known.record.deployments.as_ref();
                named.is_none_or(|names| names.iter().any(|name| name == deployment))
            }
            Self::Token(token) => {
                let named = token.deployments();
                named.is_none_or(|names| names.iter().any(|name| name == deployment))
            }
        }
    }

    /// Whether this caller may use all deployments, also future ones.
    #[must_use]
    pub fn may_use_all(&self) -> bool {
        match self {
            Self::Nobody => false,
            Self::Anyone | Self::Certified(_) => true,
            Self::Known(known) => known.record.deployments.is_none(),
            Self::Token(token) => token.deployments().is_none(),
        }
    }

    /// The caller's name in the file of keys, or in its token.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        match self {
            Self::Nobody | Self::Anyone | Self::Certified(_) => None,
            Self::Known(known) => Some(&known.record.name),
            Self::Token(token) => Some(token.subject()),
        }
    }

    /// Whether the file of keys has dropped this caller since the call began, or its key or token has expired.
    #[must_use]
    pub fn is_revoked(&self) -> bool {
        match self {
            Self::Nobody | Self::Anyone | Self::Certified(_) => false,
            Self::Known(known) => known.revoked.load(Ordering::Relaxed) || known.is_expired(),
            Self::Token(token) => token.is_over(),
        }
    }
}

impl Identity {
    /// Counts a call, if this is a key that may make so many in a second.
    ///
    /// # Errors
    /// The key has made all that it may for now.
    pub fn count_call(&self) -> Result<(), TooManyCalls> {
        match self {
            Self::Nobody | Self::Anyone | Self::Certified(_) | Self::Token(_) => Ok(()),
            Self::Known(known) => match &known.rate {
                Some(rate) => rate.count(Instant::now()),
                None => Ok(()),
            },
        }
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nobody => f.write_str("nobody"),
            Self::Anyone => f.write_str("anyone"),
            Self::Certified(name) => write!(f, "certificate {name}"),
            Self::Known(known) => write!(f, "{} ({})", known.record.name, known.record.id),
            Self::Token(token) => write!(f, "token of {}", token.subject()),
        }
    }
}

/// When nobody of a name is known any more, unless another key is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallerEnd {
    /// The name, of one key or of several.
    pub name: String,
    /// When the last of them expires, in milliseconds since 1970-01-01 UTC.
    pub expires_ms: u64,
}

/// The callers of a file.
#[derive(Debug)]
pub(super) struct Callers(Vec<Arc<KnownCaller>>);

impl Callers {
    /// Reads the file. Callers that were there before and are missing or changed now are revoked.
    pub(super) fn read(path: &Path, before: Option<&Self>) -> Result<Self, IdentityError> {
        let records = read(path)?;
        let before = before.map_or(&[][..], |before| &before.0);
        for known in before {
            let gone = !records.contains(&known.record);
            known.revoked.store(gone, Ordering::Relaxed);
        }
        let known = records.into_iter().map(|record| {
            let same = before.iter().find(|known| known.record == record);
            same.cloned().unwrap_or_else(|| {
                Arc::new(KnownCaller {
                    digest: record.sha256.as_deref().and_then(KeyDigest::parse),
                    rate: record.calls_per_second.map(CallRate::new),
                    record,
                    revoked: AtomicBool::new(false),
                })
            })
        });
        Ok(Self(known.collect()))
    }

    /// The names whose keys all expire, in order.
    pub(super) fn ends(&self) -> Vec<CallerEnd> {
        let mut ends: BTreeMap<&str, Option<u64>> = BTreeMap::new();
        for known in &self.0 {
            let end = known.record.expires_ms();
            let last = ends.entry(&known.record.name).or_insert(end);
            // One that never expires stands for the rest.
            *last = last.zip(end).map(|(one, other)| one.max(other));
        }
        let ends = ends.into_iter().filter_map(|(name, end)| {
            let name = name.to_owned();
            end.map(|expires_ms| CallerEnd { name, expires_ms })
        });
        ends.collect()
    }

    /// The caller with this key. All keys are compared, so that the time reveals nothing.
    pub(super) fn with_key(&self, key: &[u8]) -> Option<Arc<KnownCaller>> {
        let digest = KeyDigest::of(key);
        let mut found = None;
        for known in &self.0 {
            if known.digest.is_some_and(|kept| kept.is(digest)) {
                found = Some(Arc::clone(known));
            }
        }
        found
    }

    /// The caller whose certificate has one of these names.
    pub(super) fn with_certificate(&self, names: &[String]) -> Option<Arc<KnownCaller>> {
        let has = |known: &&Arc<KnownCaller>| {
            let certificate = known.record.certificate.as_ref();
            certificate.is_some_and(|name| names.contains(name))
        };
        self.0.iter().find(has).cloned()
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime, UNIX_EPOCH};

    use super::super::keys_file::tests::a_caller;
    use super::super::keys_file::{KeysFile, NewCaller, Presents};
    use super::*;

    #[test]
    fn a_caller_may_what_its_record_says_until_it_is_revoked() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys.json");
        let mut file = KeysFile::change(&path).unwrap();
        let (_, key) = file.add(a_caller("till")).unwrap();
        let name = "spiffe://example/robot".to_owned();
        let robot = NewCaller {
            presents: Presents::Certificate(name.clone()),
            scopes: Scope::ALL.to_vec(),
            deployments: None,
            ..a_caller("robot")
        };
        file.add(robot).unwrap();

        let callers = Callers::read(&path, None).unwrap();
        let till = Identity::Known(callers.with_key(key.unwrap().as_bytes()).unwrap());
        assert!(till.may(Scope::Search) && !till.may(Scope::Enrol));
        assert!(till.may_use("shop") && !till.may_use("") && !till.may_use_all());
        assert!(till.to_string().starts_with("till ("));
        assert!(callers.with_key(b"mp_").is_none());
        assert!(callers.with_key(b"").is_none());
        // A name of a certificate is no key.
        assert!(callers.with_key(name.as_bytes()).is_none());
        let robot = callers.with_certificate(&["other".to_owned(), name]);
        let robot = Identity::Known(robot.unwrap());
        assert!(robot.may(Scope::Admin) && robot.may_use_all());

        file.revoke("till").unwrap();
        Callers::read(&path, Some(&callers)).unwrap();
        assert!(till.is_revoked() && !robot.is_revoked());
        let nobody = Identity::default();
        assert!(!nobody.may(Scope::Search) && !nobody.may_use("shop") && !nobody.may_use_all());
    }

    #[test]
    fn a_name_ends_with_the_last_of_its_keys_and_never_with_one_that_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys.json");
        let mut file = KeysFile::change(&path).unwrap();
        let day = Duration::from_secs(24 * 3600);
        let begun = SystemTime::now();
        for (name, days) in [
            ("rolled", Some(3)),
            ("rolled", Some(90)),
            ("rolled", Some(1)),
            ("stays", None),
            ("stays", Some(1)),
        ] {
            let expires = days.map(|days| begun + day * days);
            let caller = NewCaller {
                expires,
                ..a_caller(name)
            };
            file.add(caller).unwrap();
        }
        let ends = Callers::read(&path, None).unwrap().ends();
        let names: Vec<&str> = ends.iter().map(|end| end.name.as_str()).collect();
        assert_eq!(names, ["rolled"]);
        let end = UNIX_EPOCH + Duration::from_millis(ends[0].expires_ms);
        let days = end.duration_since(begun).unwrap().as_secs_f64() / day.as_secs_f64();
        assert!((89.9..=90.0).contains(&days), "{days}");
    }

    #[test]
    fn a_key_ends_when_its_time_is_over() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys.json");
        let mut file = KeysFile::change(&path).unwrap();
        let day = Duration::from_secs(24 * 3600);
        for (expires, is_over) in [
            (Some(SystemTime::now() + day), false),
            (Some(SystemTime::now() - day), true),
            (None, false),
        ] {
            let caller = NewCaller {
                expires,
                ..a_caller("till")
            };
            let (record, key) = file.add(caller).unwrap();
            assert_eq!(record.is_expired(), is_over);
            let callers = Callers::read(&path, None).unwrap();
            let known = callers.with_key(key.unwrap().as_bytes()).unwrap();
            assert_eq!(Identity::Known(known).is_revoked(), is_over);
        }
    }
}
