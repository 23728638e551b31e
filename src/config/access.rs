//! Settings for who may reach the server, and how.

use std::net::SocketAddr;
use std::path::PathBuf;

use super::{ListenAddress, SettingReader};

/// Who may call, and over which connections.
#[derive(Clone, Debug, Default)]
pub struct AccessConfig {
    /// The certificates; `None` for a connection that is not encrypted.
    pub tls: Option<TlsFiles>,
    /// The file of keys; `None` if none is required.
    pub keys_file: Option<PathBuf>,
    /// The issuer whose tokens are accepted; `None` for none.
    pub tokens: Option<TokensConfig>,
}

impl AccessConfig {
    /// Whether callers are asked who they are.
    #[must_use]
    pub fn asks(&self) -> bool {
        self.keys_file.is_some() || self.tokens.is_some()
    }
}

/// The issuer whose signed tokens (JWT) identify callers.
#[derive(Clone, Debug)]
pub struct TokensConfig {
    /// The issuer's public keys, as a JWKS.
    pub jwks_file: PathBuf,
    /// What `iss` must be.
    pub issuer: String,
    /// What `aud` must be, or have among others.
    pub audience: String,
}

/// Files in PEM.
#[derive(Clone, Debug)]
pub struct TlsFiles {
    /// The server's certificate, and its chain.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// The authority that has to have issued every client's certificate; `None` if they need none.
    pub client_ca: Option<PathBuf>,
}

impl SettingReader {
    /// Every setting is read before any `?`, so that all mistakes are found.
    pub(super) fn access(
        &mut self,
        listen: Option<&ListenAddress>,
        console: Option<SocketAddr>,
    ) -> Option<AccessConfig> {
        let path = |this: &Self, key: &str| this.text(key).map(PathBuf::from);
        let (certificate, key) = (path(self, "tls_certificate"), path(self, "tls_key"));
        let (client_ca, keys_file) = (path(self, "tls_client_ca"), path(self, "keys_file"));
        let tokens = self.tokens();
        let truth = [("true", true), ("false", false)];
        let plaintext = self.one_of("plaintext_on_network", &truth);
        let anyone = self.one_of("anyone_on_network", &truth);
        match (&certificate, &key) {
            (Some(_), None) => self.mistake("tls_key", "the file of tls_certificate's private key"),
            (None, Some(_)) => self.mistake("tls_certificate", "the file of tls_key's certificate"),
            (None, None) if client_ca.is_some() => {
                let wanted = "the file of the server's certificate, since tls_client_ca is set";
                self.mistake("tls_certificate", wanted);
            }
            _ => {}
        }
        let listen = match listen {
            Some(ListenAddress::Network(address)) => Some(*address),
            // Only reachable from this machine, by whom the file's permissions allow.
            Some(unix @ ListenAddress::Unix(_)) if client_ca.is_some() => {
                self.mistakes.push(format!(
                    "listen = {unix} carries no TLS, and so no certificates of clients: set keys_file in place of tls_client_ca"
                ));
                None
            }
            Some(ListenAddress::Unix(_)) | None => None,
        };
        for (setting, address) in [("listen", listen), ("console_listen", console)] {
            let Some(address) = address.filter(|one| !one.ip().to_canonical().is_loopback()) else {
                continue;
            };
            if certificate.is_none() && plaintext == Some(false) {
                self.mistakes.push(format!(
                    "{setting} = {address} is reached from other machines, without encryption: set tls_certificate and tls_key, or plaintext_on_network = true where something else encrypts"
                ));
            }
            let asks = keys_file.is_some() || client_ca.is_some() || tokens.is_some();
            if !asks && anyone == Some(false) {
                self.mistakes.push(format!(
                    "{setting} = {address} is reached from other machines, and nobody is asked who they are: set keys_file (`matchpoint keys new` makes it), tokens_jwks or tls_client_ca, or anyone_on_network = true where something else asks"
                ));
            }
        }
        plaintext.and(anyone)?;
        let tls = certificate.zip(key).map(|(certificate, key)| TlsFiles {
            certificate,
            key,
            client_ca,
        });
        Some(AccessConfig {
            tls,
            keys_file,
            tokens,
        })
    }

    /// All three are necessary: otherwise a token for another service would be accepted here.
    fn tokens(&mut self) -> Option<TokensConfig> {
        const SETTINGS: [(&str, &str); 3] = [
            ("tokens_jwks", "the file of the issuer's public keys"),
            ("tokens_issuer", "what tokens have as iss"),
            ("tokens_audience", "what tokens for this server have as aud"),
        ];
        let given = SETTINGS.map(|(key, _)| self.text(key));
        if let [Some(jwks), Some(issuer), Some(audience)] = given {
            return Some(TokensConfig {
                jwks_file: jwks.into(),
                issuer,
                audience,
            });
        }
        if given.iter().any(Option::is_some) {
            for ((key, wanted), _) in SETTINGS.iter().zip(&given).filter(|(_, one)| one.is_none()) {
                self.mistake(key, wanted);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::Path;

    use super::super::{ServerConfig, ServerFlags};

    fn resolved(settings: &[(&'static str, &'static str)]) -> Result<ServerConfig, String> {
        let environment: BTreeMap<&str, &str> = settings.iter().copied().collect();
        let resolved = ServerFlags::default().resolve_for(&environment, Path::new("shop"));
        resolved.map_err(|mistakes| mistakes.to_string())
    }

    #[test]
    fn the_network_is_reached_only_encrypted_and_by_name_unless_asked_for() {
        const LISTEN: (&str, &str) = ("MATCHPOINT_LISTEN", "0.0.0.0:50051");
        const PLAIN: (&str, &str) = ("MATCHPOINT_PLAINTEXT_ON_NETWORK", "true");
        const ANYONE: (&str, &str) = ("MATCHPOINT_ANYONE_ON_NETWORK", "true");
        const CERTIFICATE: (&str, &str) = ("MATCHPOINT_TLS_CERTIFICATE", "a.pem");
        const KEY: (&str, &str) = ("MATCHPOINT_TLS_KEY", "b.pem");
        const CLIENTS: (&str, &str) = ("MATCHPOINT_TLS_CLIENT_CA", "c.pem");
        const KEYS: (&str, &str) = ("MATCHPOINT_KEYS_FILE", "keys.json");
        const JWKS: (&str, &str) = ("MATCHPOINT_TOKENS_JWKS", "jwks.json");
        const ISSUER: (&str, &str) = ("MATCHPOINT_TOKENS_ISSUER", "https://issuer");
        const AUDIENCE: (&str, &str) = ("MATCHPOINT_TOKENS_AUDIENCE", "matchpoint");
        for right in [
            &[][..],
            &[("MATCHPOINT_LISTEN", "[::1]:0")],
            &[("MATCHPOINT_CONSOLE_LISTEN", "127.0.0.1:0")],
            &[("MATCHPOINT_CONSOLE_LISTEN", "0.0.0.0:1"), PLAIN, KEYS],
            &[("MATCHPOINT_LISTEN", "127.0.0.7:0"), KEYS],
            &[("MATCHPOINT_LISTEN", "[::ffff:127.0.0.1]:0")],
            &[("MATCHPOINT_LISTEN", "localhost:0")],
            &[
                ("MATCHPOINT_LISTEN", "unix:/run/shop.sock"),
                CERTIFICATE,
                KEY,
            ],
            &[LISTEN, PLAIN, ANYONE],
            &[LISTEN, PLAIN, KEYS],
            &[LISTEN, CERTIFICATE, KEY, KEYS],
            &[LISTEN, CERTIFICATE, KEY, CLIENTS],
            &[LISTEN, PLAIN, JWKS, ISSUER, AUDIENCE],
        ] {
            resolved(right).unwrap();
        }
        for (wrong, problems) in [
            (
                &[LISTEN][..],
                &["without encryption", "nobody is asked"][..],
            ),
            (&[LISTEN, PLAIN], &["nobody is asked"]),
            (&[LISTEN, ANYONE], &["without encryption"]),
            (&[LISTEN, CERTIFICATE, KEY], &["nobody is asked"]),
            (&[LISTEN, KEYS], &["without encryption"]),
            (&[("MATCHPOINT_LISTEN", "[::]:1")], &["without encryption"]),
            (&[("MATCHPOINT_LISTEN", "10.0.0.1:1")], &["nobody is asked"]),
            (
                &[("MATCHPOINT_LISTEN", "unix:/a"), CERTIFICATE, KEY, CLIENTS],
                &["listen = unix:/a carries no TLS"],
            ),
            (
                &[JWKS],
                &["tokens_issuer is not set", "tokens_audience is not set"],
            ),
            (&[ISSUER, AUDIENCE], &["tokens_jwks is not set"]),
            (&[CERTIFICATE], &["tls_key is not set"]),
            (&[KEY], &["tls_certificate is not set"]),
            (&[CLIENTS], &["tls_certificate is not set"]),
            (
                &[("MATCHPOINT_CONSOLE_LISTEN", "0.0.0.0:50080")],
                &["console_listen = 0.0.0.0:50080", "nobody is asked"],
            ),
        ] {
            let mistakes = resolved(wrong).unwrap_err();
            for problem in problems {
                assert!(mistakes.contains(problem), "{problem}: {mistakes}");
            }
        }
    }
}
