//! Signed tokens (JWT) from an issuer that the operator trusts: whose they are, and what they allow.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "enums of others, which grow: what is not named is refused"
)]

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, JwkSet, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey, DecodingKeyKind, Validation};
use serde::{Deserialize, Deserializer};

use super::error::IdentityError;
use super::scope::Scope;
use super::signatures;
use crate::clock::now_ms;
use crate::config::TokensConfig;
use crate::files::open_file;

const FILE_BYTES_MAX: u64 = 1 << 20;
/// Issuers publish two or three.
const KEYS_MAX: usize = 100;
/// Shorter keys are not secure.
const RSA_BYTES_MIN: usize = 2048 / 8;
const TOKEN_BYTES_MAX: usize = 8192;
const SUBJECT_BYTES_MAX: usize = 256;
const DEPLOYMENTS_MAX: usize = 100;
/// How much the clocks of issuer and server may differ, in seconds.
const LEEWAY_SECONDS: u64 = 60;

/// The keys of an issuer's file, and what a token must contain besides a signature by one of them.
#[derive(Debug)]
pub(super) struct TokenKeys {
    keys: Vec<Arc<TokenKey>>,
    issuer: String,
    audience: String,
}

#[derive(Debug)]
struct TokenKey {
    jwk: Jwk,
    key: DecodingKey,
    /// By the key's own type: a token cannot choose.
    algorithms: Vec<Algorithm>,
    /// Whether the file no longer has it.
    gone: AtomicBool,
}

/// The caller that a token identifies.
#[derive(Debug)]
pub struct TokenCaller {
    subject: String,
    scopes: BTreeSet<Scope>,
    /// `None` for all.
    deployments: Option<Vec<String>>,
    expires: u64,
    key: Arc<TokenKey>,
}

/// The claims that are read. A token with a value of another type is refused.
#[derive(Deserialize)]
struct TokenClaims {
    sub: String,
    exp: u64,
    #[serde(default)]
    scope: String,
    #[serde(default, deserialize_with = "some")]
    matchpoint_deployments: Option<Vec<String>>,
}

/// A present list has to be one: null, for example for a caller without any deployment, must not mean all
/// of them.
fn some<'de, D: Deserializer<'de>>(names: D) -> Result<Option<Vec<String>>, D::Error> {
    Vec::deserialize(names).map(Some)
}

impl TokenKeys {
    /// Reads the file. Tokens signed by a key that it no longer has are refused.
    pub(super) fn read(
        config: &TokensConfig,
        before: Option<&Self>,
    ) -> Result<Self, IdentityError> {
        signatures::install();
        let path = config.jwks_file.as_path();
        let wrong = |problem: String| IdentityError::Content {
            path: path.to_owned(),
            problem: format!("is no JWKS of public keys: {problem}"),
        };
        let set: JwkSet = serde_json::from_slice(&read(path)?).map_err(|cause| {
            // Only the position: the text there may be a private key.
            wrong(format!("line {}, column {}", cause.line(), cause.column()))
        })?;
        if KEYS_MAX < set.keys.len() {
            return Err(wrong(format!("it may have {KEYS_MAX} keys")));
        }
        let (mut keys, mut first) = (Vec::new(), None);
        for (number, jwk) in set.keys.into_iter().enumerate() {
            if jwk.common.public_key_use == Some(PublicKeyUse::Encryption) {
                continue;
            }
            let number = number + 1;
            if matches!(jwk.algorithm, AlgorithmParameters::OctetKey(_)) {
                return Err(wrong(format!(
                    "key {number}: a secret that signs and checks alike (HS256) is not taken"
                )));
            }
            match TokenKey::of(jwk) {
                Ok(key) => keys.push(Arc::new(key)),
                // An issuer has keys for other purposes too (RFC 7517, section 5), and may withdraw ours.
                Err(problem) => {
                    let file = path.display();
                    tracing::warn!(%file, key = number, problem, "a key of the issuer is left out");
                    first = first.or_else(|| Some(format!("; key {number}: {problem}")));
                }
            }
        }
        if keys.is_empty() {
            let first = first.unwrap_or_default();
            return Err(wrong(format!("it has no key for signatures{first}")));
        }
        // Unchanged keys are kept, so that earlier tokens stay valid.
        for old in before.map_or(&[][..], |before| &before.keys) {
            match keys.iter_mut().find(|key| key.jwk == old.jwk) {
                Some(same) => *same = Arc::clone(old),
                None => old.gone.store(true, Ordering::Relaxed),
            }
        }
        Ok(Self {
            keys,
            issuer: config.issuer.clone(),
            audience: config.audience.clone(),
        })
    }

    /// Whose token this is, or why it is refused.
    pub(super) fn caller(&self, token: &[u8]) -> Result<TokenCaller, &'static str> {
        if TOKEN_BYTES_MAX < token.len() {
            return Err("it is longer than 8192 bytes");
        }
        let header = jsonwebtoken::decode_header(token).map_err(|_malformed| "it is no JWT")?;
        let named = |key: &&Arc<TokenKey>| match &header.kid {
            Some(kid) => key.jwk.common.key_id.as_ref() == Some(kid),
            None => self.keys.len() == 1,
        };
        let key = self.keys.iter().find(named);
        let key = key.ok_or("it is signed by no key of the issuer's file")?;
        let mut validation = Validation::new_for_family(key.key.family());
        validation.algorithms.clone_from(&key.algorithms);
        validation.validate_nbf = true;
        validation.leeway = LEEWAY_SECONDS;
        validation.set_issuer(&[&self.issuer]);
        validation.set_audience(&[&self.audience]);
        validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
        let claims = jsonwebtoken::decode::<TokenClaims>(token, &key.key, &validation);
        let claims = claims.map_err(|refused| why(refused.kind()))?.claims;
        claims.caller(key)
    }
}

impl TokenKey {
    fn of(jwk: Jwk) -> Result<Self, &'static str> {
        use Algorithm::{ES256, ES384, EdDSA, PS256, PS384, PS512, RS256, RS384, RS512};
        let all: &[Algorithm] = match &jwk.algorithm {
            AlgorithmParameters::RSA(_) => &[RS256, RS384, RS512, PS256, PS384, PS512],
            AlgorithmParameters::EllipticCurve(curve) => match curve.curve {
                EllipticCurve::P256 => &[ES256],
                EllipticCurve::P384 => &[ES384],
                _ => return Err("the curve must be P-256 or P-384"),
            },
            AlgorithmParameters::OctetKeyPair(pair) if pair.curve == EllipticCurve::Ed25519 => {
                &[EdDSA]
            }
            _ => {
                return Err("its type is not RSA, EC or Ed25519");
            }
        };
        let said = jwk.common.key_algorithm.map(|said| said.to_string());
        let algorithms = all.iter().copied().filter(|one| {
            let name = format!("{one:?}");
            said.as_ref().is_none_or(|said| *said == name)
        });
        let algorithms: Vec<Algorithm> = algorithms.collect();
        if algorithms.is_empty() {
            return Err("its alg is none of its type");
        }
        let key = DecodingKey::from_jwk(&jwk).map_err(|_malformed| "it cannot be read")?;
        if let DecodingKeyKind::RsaModulusExponent { n, .. } = key.kind()
            && n.len() < RSA_BYTES_MIN
        {
            return Err("an RSA key must have 2048 bits or more");
        }
        Ok(Self {
            jwk,
            key,
            algorithms,
            gone: AtomicBool::new(false),
        })
    }
}

impl TokenClaims {
    fn caller(self, key: &Arc<TokenKey>) -> Result<TokenCaller, &'static str> {
        let plain = |text: &String| {
            (1..=SUBJECT_BYTES_MAX).contains(&text.len()) && !text.contains(char::is_control)
        };
        if !plain(&self.sub) {
            return Err("its sub must have 1 to 256 bytes");
        }
        let deployments = self.matchpoint_deployments;
        let is_right =
            |names: &Vec<String>| names.len() <= DEPLOYMENTS_MAX && names.iter().all(plain);
        if !deployments.as_ref().is_none_or(is_right) {
            return Err("its matchpoint_deployments must be up to 100 names");
        }
        // Issuers add scopes of their own.
        let words: BTreeSet<&str> = self.scope.split(' ').collect();
        let scopes = Scope::ALL.into_iter();
        let scopes = scopes.filter(|scope| words.contains(scope.as_str()));
        Ok(TokenCaller {
            scopes: scopes.collect(),
            subject: self.sub,
            deployments,
            expires: self.exp,
            key: Arc::clone(key),
        })
    }
}

impl TokenCaller {
    /// The issuer's name for the caller.
    #[must_use]
    pub fn subject(&self) -> &str {
        &self.subject
    }

    pub(super) fn may(&self, scope: Scope) -> bool {
        self.scopes.contains(&scope)
    }

    /// The deployments that it is for; `None` for all.
    pub(super) fn deployments(&self) -> Option<&[String]> {
        self.deployments.as_deref()
    }

    /// Whether it has expired since the call began, or its key is gone.
    pub(super) fn is_over(&self) -> bool {
        let ended = self.expires.saturating_add(LEEWAY_SECONDS);
        ended < now_ms() / 1000 || self.key.gone.load(Ordering::Relaxed)
    }
}

/// Why a token is refused, without quoting it.
fn why(refused: &ErrorKind) -> &'static str {
    match refused {
        ErrorKind::ExpiredSignature => "it has expired",
        ErrorKind::ImmatureSignature => "it is not valid yet",
        ErrorKind::InvalidIssuer => "it is of another issuer",
        ErrorKind::InvalidAudience => "it is for another audience",
        ErrorKind::MissingRequiredClaim(_) => "it must have exp, iss, aud and sub",
        ErrorKind::InvalidAlgorithm | ErrorKind::InvalidAlgorithmName => {
            "its alg is none of its key's"
        }
        ErrorKind::InvalidSignature => "its signature is wrong",
        _ => "it is no JWT of this kind",
    }
}

fn read(path: &Path) -> Result<Vec<u8>, IdentityError> {
    let failed = |cause| IdentityError::Io {
        path: path.to_owned(),
        cause,
    };
    let mut bytes = Vec::new();
    let file: File = open_file(path).map_err(failed)?;
    let mut limited = file.take(FILE_BYTES_MAX);
    limited.read_to_end(&mut bytes).map_err(failed)?;
    Ok(bytes)
}
