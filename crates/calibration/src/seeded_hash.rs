//! Hashes for random choices that depend only on a seed and texts: the same on every machine and in every order
//! of the data.

use sha2::{Digest, Sha256};

/// SHA-256 of a seed and a list of texts.
pub(crate) fn seeded_hash(seed: u64, texts: &[&str]) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(seed.to_le_bytes());
    for text in texts {
        update_text(&mut hash, text);
    }
    hash.finalize().into()
}

/// Adds a text with its length first, so that different lists of texts never give the same bytes.
pub(crate) fn update_text(hash: &mut Sha256, text: &str) {
    hash.update((text.len() as u64).to_le_bytes());
    hash.update(text);
}
