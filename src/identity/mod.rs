//! Who calls, and what may they? Keys, certificates and TLS, from files that may change while the server
//! runs. Knows nothing of the protocol: which call needs which scope is the server's to say.

mod call_rate;
mod callers;
mod error;
mod key;
mod keys_file;
mod scope;
mod sessions;
mod signatures;
mod tls;
mod tokens;
mod watched;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

pub use call_rate::TooManyCalls;
pub use callers::{CallerEnd, Identity, KnownCaller};
pub use error::IdentityError;
pub use key::{KEY_PREFIX, is_key};
pub use keys_file::{KeyRecord, KeysFile, NewCaller, Presents};
pub use scope::Scope;
pub use sessions::{BrowserSession, SESSION, Sessions};
pub use tls::names_of;
pub use tokens::TokenCaller;
pub use tokio_rustls::TlsAcceptor;

use crate::config::AccessConfig;
use callers::Callers;
use key::is_key_of_ours;
use tokens::TokenKeys;
use watched::Watched;

/// How often files are checked: a revoked key stops working within that time.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The state of the files, kept up to date. Clones share it.
#[derive(Clone, Debug)]
pub struct CallerAccess(Arc<AccessFiles>);

#[derive(Debug)]
struct AccessFiles {
    callers: Option<Watched<Callers>>,
    tokens: Option<Watched<TokenKeys>>,
    tls: Option<Watched<TlsAcceptor>>,
    /// Whether every connection has a certificate.
    certified: bool,
}

impl CallerAccess {
    /// Reads the files of a configuration, and checks them every second from then on.
    ///
    /// # Errors
    /// A file that cannot be read, or holds something else.
    pub fn open(config: &AccessConfig) -> Result<Self, IdentityError> {
        let callers = config.keys_file.clone().map(|path| {
            let files = vec![path.clone()];
            Watched::open(files, move |before| Callers::read(&path, before))
        });
        let tokens = config.tokens.clone().map(|tokens| {
            let files = vec![tokens.jwks_file.clone()];
            Watched::open(files, move |before| TokenKeys::read(&tokens, before))
        });
        let tls = config.tls.clone().map(|files| {
            let names = [&files.certificate, &files.key];
            let names: Vec<PathBuf> = names.into_iter().chain(&files.client_ca).cloned().collect();
            Watched::open(names, move |_| tls::acceptor(&files))
        });
        let certified = config
            .tls
            .as_ref()
            .is_some_and(|tls| tls.client_ca.is_some());
        let files = Arc::new(AccessFiles {
            callers: callers.transpose()?,
            tokens: tokens.transpose()?,
            tls: tls.transpose()?,
            certified,
        });
        let watching = Arc::downgrade(&files);
        let look = move || {
            while let Some(files) = watching.upgrade() {
                files.look();
                drop(files);
                std::thread::park_timeout(LOOK_EVERY);
            }
        };
        std::thread::Builder::new()
            .name("identity".to_owned())
            .spawn(look)
            .map_err(IdentityError::Thread)?;
        Ok(Self(files))
    }

    /// The names of the file of keys whose keys all expire, each with when its last one does.
    #[must_use]
    pub fn ends(&self) -> Vec<CallerEnd> {
        let callers = self.0.callers.as_ref();
        callers
            .map(|callers| callers.now().ends())
            .unwrap_or_default()
    }

    /// Accepts TLS on a new connection, with the present certificates; `None` if there are none.
    #[must_use]
    pub fn tls(&self) -> Option<Arc<TlsAcceptor>> {
        self.0.tls.as_ref().map(Watched::now)
    }

    /// The same for pages: browsers are offered HTTP/1.1.
    #[must_use]
    pub fn tls_of_pages(&self) -> Option<Arc<TlsAcceptor>> {
        self.tls().map(|tls| Arc::new(tls::of_pages(&tls)))
    }

    /// The caller with this key or token, on a connection whose certificate has these names.
    ///
    /// # Errors
    /// The caller is unknown.
    pub fn identify(
        &self,
        key: Option<&[u8]>,
        certificate: Option<&[String]>,
    ) -> Result<Identity, Unknown> {
        let AccessFiles {
            callers, tokens, ..
        } = &*self.0;
        if let (Some(tokens), Some(token)) = (tokens, key.filter(|key| !is_key_of_ours(key))) {
            let caller = tokens.now().caller(token).map_err(Unknown::Token)?;
            return Ok(Identity::Token(Arc::new(caller)));
        }
        let found = match (callers, key, certificate) {
            (Some(callers), Some(key), _) => callers.now().with_key(key).ok_or(Unknown::Key),
            (Some(callers), None, Some(names)) => {
                let found = callers.now().with_certificate(names);
                found.ok_or(Unknown::Certificate)
            }
            (None, Some(_), _) if tokens.is_some() => Err(Unknown::Key),
            (Some(_), None, None) => Err(Unknown::Missing),
            (None, _, _) if tokens.is_some() => Err(Unknown::Missing),
            (None, _, certificate) => {
                return match certificate.and_then(<[String]>::first) {
                    Some(name) => Ok(Identity::Certified(name.as_str().into())),
                    None if self.0.certified => Err(Unknown::Missing),
                    None => Ok(Identity::Anyone),
                };
            }
        };
        let found = found?;
        if found.is_expired() {
            return Err(Unknown::Expired);
        }
        Ok(Identity::Known(found))
    }
}

impl AccessFiles {
    fn look(&self) {
        if let Some(callers) = &self.callers {
            callers.look();
        }
        if let Some(tokens) = &self.tokens {
            tokens.look();
        }
        if let Some(tls) = &self.tls {
            tls.look();
        }
    }
}

/// Why a caller is unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unknown {
    /// There was neither a key nor a certificate.
    Missing,
    /// The key is not in the file, or not any more.
    Key,
    /// The key, or what the certificate may do, has expired.
    Expired,
    /// The certificate's names are not in the file.
    Certificate,
    /// The token is refused, for this reason.
    Token(&'static str),
}
