//! Signed tokens of an issuer in place of keys: which are taken, and each way in which one is not.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use matchpoint::config::{AccessConfig, TokensConfig};
use matchpoint::identity::{CallerAccess, Scope, Unknown};
use matchpoint_client::proto::gallery_service_client::GalleryServiceClient;
use matchpoint_client::proto::retrieval_service_client::RetrievalServiceClient;
use matchpoint_client::proto::{
    DeleteItemRequest, ListItemsRequest, SearchRequest, Vector, search_request,
};
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair};
use ring::{digest, hmac};
use serde_json::{Value, json};
use tempfile::TempDir;
use tonic::{Code, Request, Status};
use tonic_types::StatusExt;

use crate::common::copy_of_sample;
use crate::identity::{Logged, lines_of};

const ISSUER: &str = "https://issuer.example";
const AUDIENCE: &str = "matchpoint";
/// Longer than a change of a file takes to be noticed.
const NOTICED: Duration = Duration::from_secs(10);
/// The modulus of a key of 2048 bits, and a token that OpenSSL signed with it, for the year 9999: ring makes no such
/// keys.
const RSA: &str = include_str!("fixtures/rsa_token.json");

fn rsa(part: &str) -> String {
    let both: Value = serde_json::from_str(RSA).unwrap();
    both.get(part).unwrap().as_str().unwrap().to_owned()
}

/// As base64url, without padding.
fn encoded(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut text = String::new();
    for three in bytes.chunks(3) {
        let mut bits = three
            .iter()
            .fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte));
        bits <<= 8 * (3 - three.len());
        for digit in 0..=three.len() {
            let at = usize::try_from(bits >> (18 - 6 * digit) & 63).unwrap();
            text.push(char::from(*DIGITS.get(at).unwrap()));
        }
    }
    text
}

fn seconds_from_now(seconds: i64) -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    i64::try_from(now.as_secs()).unwrap() + seconds
}

/// An issuer: its keys, and the file with their public parts.
struct Issuer {
    folder: TempDir,
    ed: Ed25519KeyPair,
    ec: EcdsaKeyPair,
}

impl Issuer {
    fn new() -> Self {
        let random = SystemRandom::new();
        let seed = digest::digest(&digest::SHA256, b"a seed of a test");
        let ec = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
        let ec = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, ec.as_ref(), &random);
        let issuer = Self {
            folder: TempDir::new().unwrap(),
            ed: Ed25519KeyPair::from_seed_unchecked(seed.as_ref()).unwrap(),
            ec: ec.unwrap(),
        };
        issuer.publish(&issuer.public_keys());
        issuer
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("jwks.json")
    }

    fn public_keys(&self) -> Vec<Value> {
        let point = self.ec.public_key().as_ref();
        let (x, y) = point.get(1..).unwrap().split_at(32);
        vec![
            json!({"kty": "OKP", "crv": "Ed25519", "kid": "ed", "alg": "EdDSA",
                   "x": encoded(self.ed.public_key().as_ref())}),
            json!({"kty": "EC", "crv": "P-256", "kid": "ec", "use": "sig",
                   "x": encoded(x), "y": encoded(y)}),
            json!({"kty": "RSA", "kid": "rsa", "n": rsa("n"), "e": "AQAB"}),
            json!({"kty": "RSA", "kid": "for secrets", "use": "enc", "n": "AQAB", "e": "AQAB"}),
        ]
    }

    fn publish(&self, keys: &[Value]) {
        let beside = self.folder.path().join("beside");
        fs::write(&beside, json!({ "keys": keys }).to_string()).unwrap();
        fs::rename(beside, self.file()).unwrap();
    }

    fn config(&self) -> AccessConfig {
        AccessConfig {
            tokens: Some(TokensConfig {
                jwks_file: self.file(),
                issuer: ISSUER.to_owned(),
                audience: AUDIENCE.to_owned(),
            }),
            ..AccessConfig::default()
        }
    }

    /// What is signed with the Ed25519 key.
    fn signed(&self, header: &Value, claims: &Value) -> String {
        let message = unsigned(header, claims);
        let signature = self.ed.sign(message.as_bytes());
        format!("{message}.{}", encoded(signature.as_ref()))
    }

    /// A token with one claim put in the place of the right one, or beside it; null takes it away.
    fn with(&self, claim: &str, value: Value) -> String {
        let mut claims = claims();
        let claims = claims.as_object_mut().unwrap();
        if value.is_null() {
            claims.remove(claim);
        } else {
            claims.insert(claim.to_owned(), value);
        }
        let header = json!({"alg": "EdDSA", "kid": "ed"});
        self.signed(&header, &Value::Object(claims.clone()))
    }
}

fn claims() -> Value {
    json!({"iss": ISSUER, "aud": AUDIENCE, "sub": "alice", "exp": seconds_from_now(3600),
           "scope": "openid search enrolment"})
}

fn unsigned(header: &Value, claims: &Value) -> String {
    let (header, claims) = (header.to_string(), claims.to_string());
    format!(
        "{}.{}",
        encoded(header.as_bytes()),
        encoded(claims.as_bytes())
    )
}

fn refused(access: &CallerAccess, token: &str) -> &'static str {
    let Err(Unknown::Token(why)) = access.identify(Some(token.as_bytes()), None) else {
        return "it is taken";
    };
    why
}

#[test]
fn a_token_is_taken_only_as_its_issuer_signed_it_for_this_server_and_now() {
    let issuer = Issuer::new();
    let access = CallerAccess::open(&issuer.config()).unwrap();
    let ed = json!({"alg": "EdDSA", "kid": "ed"});
    for right in [
        issuer.signed(&ed, &claims()),
        issuer.with("aud", json!(["other", AUDIENCE])),
        issuer.with("nbf", json!(seconds_from_now(-10))),
        // Clocks differ by a little.
        issuer.with("exp", json!(seconds_from_now(-20))),
        rsa("token"),
    ] {
        let caller = access.identify(Some(right.as_bytes()), None).unwrap();
        assert!(caller.may(Scope::Search) && !caller.may(Scope::Enrol));
        assert!(caller.may_use_all() && !caller.is_revoked());
    }
    let message = unsigned(&json!({"alg": "ES256", "kid": "ec"}), &claims());
    let signature = issuer.ec.sign(&SystemRandom::new(), message.as_bytes());
    let ec = format!("{message}.{}", encoded(signature.unwrap().as_ref()));
    assert!(access.identify(Some(ec.as_bytes()), None).is_ok());
}

#[test]
fn each_claim_that_is_wrong_is_named() {
    let issuer = Issuer::new();
    let access = CallerAccess::open(&issuer.config()).unwrap();
    let (hour, missing) = (3600, "it must have exp, iss, aud and sub");
    let (malformed, subject) = (
        "it is no JWT of this kind",
        "its sub must have 1 to 256 bytes",
    );
    for (claim, value, why) in [
        ("exp", json!(seconds_from_now(-hour)), "it has expired"),
        ("exp", Value::Null, malformed),
        ("exp", json!("never"), malformed),
        ("nbf", json!(seconds_from_now(hour)), "it is not valid yet"),
        ("nbf", json!("yesterday"), malformed),
        (
            "iss",
            json!("https://other.example"),
            "it is of another issuer",
        ),
        ("iss", Value::Null, missing),
        ("aud", json!("other"), "it is for another audience"),
        ("aud", json!(["other"]), "it is for another audience"),
        ("aud", Value::Null, missing),
        ("sub", Value::Null, malformed),
        ("sub", json!(""), subject),
        ("sub", json!("a\nb"), subject),
        ("matchpoint_deployments", json!("shop"), malformed),
        (
            "more",
            json!("x".repeat(9000)),
            "it is longer than 8192 bytes",
        ),
    ] {
        let shown = value.to_string();
        let token = issuer.with(claim, value);
        assert_eq!(refused(&access, &token), why, "{claim} {shown:.40}");
    }
    // Of somebody who has none: that is not all.
    let mut none = claims();
    let claims = none.as_object_mut().unwrap();
    claims.insert("matchpoint_deployments".to_owned(), Value::Null);
    let token = issuer.signed(&json!({"alg": "EdDSA", "kid": "ed"}), &none);
    assert_eq!(refused(&access, &token), malformed);
}

#[test]
fn keys_of_an_issuer_that_are_for_others_are_left_out_and_the_rest_is_taken() {
    let issuer = Issuer::new();
    let mut keys = vec![
        json!({"kty": "AKP", "kid": "new", "alg": "ML-DSA-65", "pub": "AA"}),
        json!({"kty": "EC", "crv": "P-521", "kid": "long", "x": "AA", "y": "AA"}),
        json!({"kty": "OKP", "crv": "Ed448", "kid": "other", "x": "AA"}),
        json!({"kty": "RSA", "kid": "oaep", "alg": "RSA-OAEP", "n": "AQAB", "e": "AQAB"}),
        json!({"kty": "RSA", "kid": "short", "n": "AQAB", "e": "AQAB"}),
    ];
    keys.extend(issuer.public_keys());
    issuer.publish(&keys);
    let access = CallerAccess::open(&issuer.config()).unwrap();
    let token = issuer.with("sub", json!("alice"));
    assert!(access.identify(Some(token.as_bytes()), None).is_ok());
    let short = issuer.signed(&json!({"alg": "RS256", "kid": "short"}), &claims());
    let why = "it is signed by no key of the issuer's file";
    assert_eq!(refused(&access, &short), why);
    // A secret is not for a file that everybody may read: nothing of such a file is taken.
    keys.push(json!({"kty": "oct", "kid": "s", "k": "c2VjcmV0LW9mLWJvdGg"}));
    issuer.publish(&keys);
    let said = CallerAccess::open(&issuer.config()).unwrap_err();
    assert!(said.to_string().contains("key 10: a secret"), "{said}");
}

#[test]
fn a_token_does_not_choose_how_it_is_checked() {
    let issuer = Issuer::new();
    let access = CallerAccess::open(&issuer.config()).unwrap();
    // Without a signature.
    for alg in ["none", "None", "NONE"] {
        let message = unsigned(&json!({"alg": alg, "kid": "ed"}), &claims());
        for token in [format!("{message}."), message] {
            assert_eq!(refused(&access, &token), "it is no JWT");
        }
    }
    // With a public key as the secret of both sides.
    let point = issuer.ec.public_key().as_ref();
    let public = issuer.ed.public_key().as_ref();
    for (kid, secret) in [("ed", public), ("ec", point), ("rsa", rsa("n").as_bytes())] {
        let message = unsigned(&json!({"alg": "HS256", "kid": kid}), &claims());
        let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
        let signature = hmac::sign(&key, message.as_bytes());
        let token = format!("{message}.{}", encoded(signature.as_ref()));
        assert_eq!(refused(&access, &token), "its alg is none of its key's");
    }
    // With another key's name or kind, and with names that no key has.
    for (alg, kid, why) in [
        ("EdDSA", "ec", "its alg is none of its key's"),
        ("ES256", "ed", "its alg is none of its key's"),
        ("RS256", "ed", "its alg is none of its key's"),
        ("ES256", "ec", "its signature is wrong"),
        ("RS256", "rsa", "its signature is wrong"),
        (
            "EdDSA",
            "../../etc/passwd",
            "it is signed by no key of the issuer's file",
        ),
        (
            "EdDSA",
            "for secrets",
            "it is signed by no key of the issuer's file",
        ),
    ] {
        let token = issuer.signed(&json!({"alg": alg, "kid": kid}), &claims());
        assert_eq!(refused(&access, &token), why, "{alg} {kid}");
    }
    let nameless = issuer.signed(&json!({"alg": "EdDSA"}), &claims());
    let why = "it is signed by no key of the issuer's file";
    assert_eq!(refused(&access, &nameless), why);
    // Changed after it was signed.
    let token = issuer.with("sub", json!("alice"));
    let (message, signature) = token.rsplit_once('.').unwrap();
    let (header, _) = message.split_once('.').unwrap();
    let mut other = claims();
    *other.get_mut("scope").unwrap() = json!("admin");
    let forged = format!(
        "{header}.{}.{signature}",
        encoded(other.to_string().as_bytes())
    );
    assert_eq!(refused(&access, &forged), "its signature is wrong");
    for text in ["x", "", "a.b.c", "....", "eyJhbGciOiJFZERTQSJ9.e30."] {
        assert!(!refused(&access, text).is_empty());
    }
    let none = access.identify(None, None);
    assert!(matches!(none, Err(Unknown::Missing)), "{none:?}");
    let key = access.identify(Some(b"mp_0"), None);
    assert!(matches!(key, Err(Unknown::Key)), "{key:?}");
}

#[test]
fn a_file_of_other_keys_is_refused_and_what_is_in_it_is_not_quoted() {
    let issuer = Issuer::new();
    let secret = json!({"kty": "oct", "kid": "s", "k": "c2VjcmV0LW9mLWJvdGg"});
    let short = json!({"kty": "EC", "crv": "P-521", "kid": "s", "x": "AA", "y": "AA"});
    let other = json!({"kty": "RSA", "kid": "s", "alg": "ES256", "n": "AQAB", "e": "AQAB"});
    for keys in [
        vec![],
        vec![secret],
        vec![short],
        vec![other],
        vec![json!({"kty": "x"})],
    ] {
        issuer.publish(&keys);
        let said = CallerAccess::open(&issuer.config())
            .unwrap_err()
            .to_string();
        assert!(
            said.contains("jwks.json is no JWKS of public keys"),
            "{said}"
        );
        assert!(!said.contains("c2Vjc"), "{said}");
    }
    fs::write(issuer.file(), "c2VjcmV0").unwrap();
    let said = CallerAccess::open(&issuer.config())
        .unwrap_err()
        .to_string();
    assert!(!said.contains("c2Vjc"), "{said}");
}

#[tokio::test]
async fn a_key_that_the_issuer_takes_back_ends_its_tokens() {
    let issuer = Issuer::new();
    let access = CallerAccess::open(&issuer.config()).unwrap();
    let token = issuer.with("sub", json!("alice"));
    let (alice, robot) = (token.as_bytes(), rsa("token"));
    let before = access.identify(Some(alice), None).unwrap();
    let stays = access.identify(Some(robot.as_bytes()), None).unwrap();
    issuer.publish(issuer.public_keys().get(1..).unwrap());
    let begun = Instant::now();
    while !before.is_revoked() {
        assert!(begun.elapsed() < NOTICED);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(
        refused(&access, &token),
        "it is signed by no key of the issuer's file"
    );
    assert!(!stays.is_revoked() && access.identify(Some(robot.as_bytes()), None).is_ok());
}

fn with_token<T>(message: T, token: &str) -> Request<T> {
    let mut request = Request::new(message);
    let value = format!("Bearer {token}").parse().unwrap();
    request.metadata_mut().insert("authorization", value);
    request
}

fn reason(status: &Status) -> String {
    let info = status.get_details_error_info();
    info.map(|info| info.reason).unwrap_or_default()
}

#[tokio::test]
async fn what_a_token_allows_is_what_its_claims_say_and_its_subject_is_in_the_log() {
    let issuer = Issuer::new();
    let jwks = issuer.file();
    let flags = [
        "--tokens-jwks",
        jwks.to_str().unwrap(),
        "--tokens-issuer",
        ISSUER,
        "--tokens-audience",
        AUDIENCE,
    ];
    let (folder, deployment) = copy_of_sample();
    let log = folder.path().join("log");
    let logged = Logged::start(&deployment, log.clone(), &flags).await;
    let mut gallery = GalleryServiceClient::new(logged.channel.clone());
    let mut retrieval = RetrievalServiceClient::new(logged.channel.clone());
    let query = Vector {
        values: vec![1.0; 1280],
    };
    let search = SearchRequest {
        query: Some(search_request::Query::Embedding(query)),
        ..SearchRequest::default()
    };
    let bob = issuer.with("scope", json!("enrol"));
    let items = with_token(ListItemsRequest::default(), &bob);
    let items = gallery.list_items(items).await.unwrap().into_inner();
    let delete = DeleteItemRequest {
        id: items.items.first().unwrap().id.clone(),
        ..DeleteItemRequest::default()
    };

    let alice = issuer.with("sub", json!("alice"));
    retrieval
        .search(with_token(search.clone(), &alice))
        .await
        .unwrap();
    let denied = gallery
        .delete_item(with_token(delete.clone(), &alice))
        .await;
    assert_eq!(reason(&denied.unwrap_err()), "SCOPE_MISSING");
    let elsewhere = issuer.with("matchpoint_deployments", json!(["elsewhere"]));
    let denied = retrieval
        .search(with_token(search.clone(), &elsewhere))
        .await;
    assert_eq!(reason(&denied.unwrap_err()), "DEPLOYMENT_DENIED");
    let expired = issuer.with("exp", json!(seconds_from_now(-3600)));
    let denied = retrieval.search(with_token(search.clone(), &expired)).await;
    let denied = denied.unwrap_err();
    assert_eq!(denied.code(), Code::Unauthenticated);
    assert_eq!(reason(&denied), "TOKEN_REFUSED");
    assert!(denied.message().contains("it has expired"), "{denied}");
    let nobody = retrieval.search(search).await.unwrap_err();
    assert_eq!(reason(&nobody), "KEY_MISSING");

    gallery.delete_item(with_token(delete, &bob)).await.unwrap();
    let lines = lines_of(&log);
    let mut changes = lines
        .iter()
        .filter(|line| line.get("target").unwrap() == "matchpoint::changes");
    let caller = changes.next().and_then(|line| line.get("caller"));
    assert_eq!(caller, Some(&json!("token of alice")));
    let written = fs::read_to_string(&log).unwrap();
    let (_, signature) = bob.rsplit_once('.').unwrap();
    assert!(!written.contains(signature), "a token is in the log");
}
