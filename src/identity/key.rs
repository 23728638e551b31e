//! Keys: what a client sends, and what is stored of it.

use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::error::IdentityError;

/// The prefix of every key, by which tools that search for leaked secrets find it.
pub const KEY_PREFIX: &str = "mp_";
/// Random bytes of a key.
const KEY_BYTES: usize = 32;

/// SHA-256 of a key; only this is stored.
///
/// One round of a fast hash is enough: a key is 256 random bits, so it cannot be found by trying likely
/// ones, which is all that a slow, salted hash would prevent, at a cost for each call.
#[derive(Clone, Copy, Debug)]
pub(super) struct KeyDigest([u8; 32]);

impl KeyDigest {
    pub(super) fn of(key: &[u8]) -> Self {
        Self(Sha256::digest(key).into())
    }

    pub(super) fn parse(hex: &str) -> Option<Self> {
        let mut bytes = [0; 32];
        let read = base16ct::lower::decode(hex, &mut bytes).ok()?;
        (read.len() == bytes.len()).then_some(Self(bytes))
    }

    pub(super) fn to_hex(self) -> String {
        base16ct::lower::encode_string(&self.0)
    }

    /// Whether two are the same, in a time that does not depend on where they differ.
    pub(super) fn is(self, other: Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

/// A new key, as its client has to send it.
pub(super) fn new_key() -> Result<String, IdentityError> {
    Ok(format!("{KEY_PREFIX}{}", random_hex()?))
}

/// A random number that nobody can guess, as hexadecimal digits.
pub(super) fn random_hex() -> Result<String, IdentityError> {
    let mut random = [0; KEY_BYTES];
    getrandom::fill(&mut random).map_err(IdentityError::Random)?;
    Ok(base16ct::lower::encode_string(&random))
}

/// Whether this is meant to be a key, and not a token.
pub(super) fn is_key_of_ours(key: &[u8]) -> bool {
    key.starts_with(KEY_PREFIX.as_bytes())
}

/// Whether a text has the form of a key.
#[must_use]
pub fn is_key(text: &str) -> bool {
    let digits = text.strip_prefix(KEY_PREFIX);
    digits.is_some_and(|digits| {
        digits.len() == 2 * KEY_BYTES && digits.bytes().all(|digit| digit.is_ascii_hexdigit())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_differ_and_are_known_by_their_digest() {
        let (one, two) = (new_key().unwrap(), new_key().unwrap());
        assert!(is_key(&one) && one != two);
        let digest = KeyDigest::of(one.as_bytes());
        assert!(digest.is(KeyDigest::parse(&digest.to_hex()).unwrap()));
        assert!(!digest.is(KeyDigest::of(two.as_bytes())));
        for wrong in ["", "00", &"0".repeat(63), &"g".repeat(64), &"0".repeat(66)] {
            assert!(KeyDigest::parse(wrong).is_none(), "{wrong}");
        }
        for wrong in ["mp_", "mp_00", "secret"] {
            assert!(!is_key(wrong), "{wrong}");
        }
    }
}
