//! Sessions of people: a key is sent once, and then a random token in a cookie stands for it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::callers::Identity;
use super::error::IdentityError;
use super::key::{KeyDigest, random_hex};

/// How long a session lasts, in use or not: a day's work.
pub const SESSION: Duration = Duration::from_secs(12 * 60 * 60);
/// Sessions of one caller at once; then the oldest ends. Bounds memory, even if no keys are required.
const EACH_MAX: usize = 64;

/// The open sessions. Only in memory: a restart ends them. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Sessions(Arc<SessionTable>);

#[derive(Debug, Default)]
struct SessionTable {
    /// By the digest of the token: what is stored opens nothing.
    by_digest: Mutex<HashMap<String, Arc<BrowserSession>>>,
    opened: AtomicU64,
}

/// One person at one browser.
#[derive(Debug)]
pub struct BrowserSession {
    number: u64,
    identity: Identity,
    form_token: String,
    since: Instant,
}

impl BrowserSession {
    /// Its number, which no other session of this process has.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Who it is.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// A token in every form of this session, which no page of another site knows.
    #[must_use]
    pub fn form_token(&self) -> &str {
        &self.form_token
    }

    /// Whether a form belongs to this session, in a time that does not depend on where it differs.
    #[must_use]
    pub fn is_form_token(&self, sent: &str) -> bool {
        let digest = |text: &str| KeyDigest::of(text.as_bytes());
        digest(&self.form_token).is(digest(sent))
    }

    fn is_over(&self) -> bool {
        SESSION < self.since.elapsed() || self.identity.is_revoked()
    }
}

impl Sessions {
    /// Opens a session; returns the token for its cookie.
    ///
    /// # Errors
    /// The system gives no random numbers.
    pub fn open(&self, identity: Identity) -> Result<(String, Arc<BrowserSession>), IdentityError> {
        let token = random_hex()?;
        let session = Arc::new(BrowserSession {
            number: self.0.opened.fetch_add(1, Ordering::Relaxed),
            form_token: random_hex()?,
            since: Instant::now(),
            identity,
        });
        let caller = session.identity.to_string();
        let mut sessions = self.table();
        sessions.retain(|_, session| !session.is_over());
        let own = sessions
            .iter()
            .filter(|(_, session)| session.identity.to_string() == caller);
        let (count, oldest) = own.fold((0, None), |(count, oldest), (digest, session)| {
            let number = (session.number, digest);
            (
                count + 1,
                oldest.map_or(Some(number), |other| Some(number.min(other))),
            )
        });
        if let Some((_, digest)) = oldest.filter(|_| EACH_MAX <= count) {
            let digest = digest.clone();
            sessions.remove(&digest);
        }
        sessions.insert(digest_of(&token), Arc::clone(&session));
        Ok((token, session))
    }

    /// The session of a token, while it lasts and its key is not revoked.
    #[must_use]
    pub fn find(&self, token: &str) -> Option<Arc<BrowserSession>> {
        let session = self.table().get(&digest_of(token)).cloned()?;
        if session.is_over() {
            self.close(token);
            return None;
        }
        Some(session)
    }

    /// Ends a session.
    pub fn close(&self, token: &str) {
        self.table().remove(&digest_of(token));
    }

    fn table(&self) -> MutexGuard<'_, HashMap<String, Arc<BrowserSession>>> {
        let table = self.0.by_digest.lock();
        table.unwrap_or_else(PoisonError::into_inner)
    }
}

fn digest_of(token: &str) -> String {
    KeyDigest::of(token.as_bytes()).to_hex()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_found_by_its_token_until_it_is_closed() {
        let sessions = Sessions::default();
        let (token, session) = sessions.open(Identity::Anyone).unwrap();
        let (other, another) = sessions.open(Identity::Anyone).unwrap();
        assert_ne!(token, other);
        assert_ne!(session.form_token(), another.form_token());
        assert_eq!(sessions.find(&token).unwrap().number(), session.number());
        assert!(session.is_form_token(session.form_token()));
        assert!(!session.is_form_token(another.form_token()) && !session.is_form_token(""));
        // What the table holds is no token.
        let kept = sessions.table().keys().next().unwrap().clone();
        assert!(sessions.find(&kept).is_none() && sessions.find("").is_none());
        sessions.close(&token);
        assert!(sessions.find(&token).is_none() && sessions.find(&other).is_some());
    }

    #[test]
    fn one_caller_has_so_many_sessions_and_the_oldest_goes() {
        let sessions = Sessions::default();
        let (robot, _) = sessions.open(Identity::Certified("robot".into())).unwrap();
        let tokens: Vec<String> = (0..EACH_MAX + 2)
            .map(|_| sessions.open(Identity::Anyone).unwrap().0)
            .collect();
        let open = tokens.iter().filter(|token| sessions.find(token).is_some());
        assert_eq!(open.count(), EACH_MAX);
        assert!(sessions.find(&tokens[1]).is_none() && sessions.find(&tokens[2]).is_some());
        assert!(sessions.find(&robot).is_some());
    }
}
