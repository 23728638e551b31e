//! An enrolled image: its limits, its checksum, and the digest of many items.

use std::collections::{BTreeMap, HashMap};
use std::fmt;

use sha2::{Digest, Sha256};

use crate::error::GalleryError;
use matchpoint_vector::Embedding;

/// The highest length of an id in bytes. Ids are kept in memory and repeated in every answer.
pub const ID_BYTES_MAX: usize = 512;
/// The highest length of a label in bytes, for the same reason.
pub const LABEL_BYTES_MAX: usize = 512;
/// The highest number of metadata entries of an item. Metadata describes an image and does not replace a
/// document store.
pub const METADATA_ENTRIES_MAX: usize = 64;
/// The highest number of bytes of an item's metadata, keys and values together. With it, a thousand matches
/// have at most 16 MiB of metadata, which fits in one answer.
pub const METADATA_BYTES_MAX: usize = 16 * 1024;
/// The highest number of items or ids in a batch: 50 MiB with 1,280 dimensions, all in memory and in one
/// transaction.
pub const BATCH_MAX: usize = 10_000;
/// The highest dimension, up to which the tolerance of [`Embedding`] is proven.
pub const DIMENSION_MAX: usize = 4096;

/// A SHA-256.
pub(super) type Hash = [u8; 32];

/// An item to enrol.
#[derive(Clone, Debug, PartialEq)]
pub struct Item {
    /// The caller's id, unique in the gallery: 1 to [`ID_BYTES_MAX`] bytes.
    pub id: String,
    /// The identity or class that it shows: 1 to [`LABEL_BYTES_MAX`] bytes.
    pub label: String,
    /// Free text by key, which is returned with every match.
    pub metadata: BTreeMap<String, String>,
    /// The vector that is compared.
    pub embedding: Embedding,
    /// SHA-256 of the image that it was made from, if known.
    pub source_sha256: Option<[u8; 32]>,
    /// The bytes of that image, which are stored if the gallery stores images.
    pub image: Option<Vec<u8>>,
}

/// An enrolled item without its embedding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ItemHead {
    /// The caller's id.
    pub id: String,
    /// The identity or class that it shows.
    pub label: String,
    /// Free text by key.
    pub metadata: BTreeMap<String, String>,
    /// SHA-256 of the image that it was made from, if known.
    pub source_sha256: Option<[u8; 32]>,
}

impl Item {
    /// Its checksum, over everything but the image: the digest of a gallery is the sum of those of its items.
    #[must_use]
    pub fn checksum(&self) -> [u8; 32] {
        let embedding = embedding_bytes(self.embedding.as_slice());
        let names = [self.id.as_str(), self.label.as_str()];
        checksum_of(
            names,
            &self.metadata,
            &embedding,
            self.source_sha256.as_ref(),
        )
    }

    /// Checks everything that a caller can get wrong; `position` is its position in the batch.
    pub(super) fn check(&self, position: usize, dimension: usize) -> Result<(), GalleryError> {
        let refuse = |field, problem| GalleryError::Item {
            position,
            id: self.id.chars().take(64).collect(),
            field,
            problem,
        };
        if let Some(problem) = name_problem(&self.id, ID_BYTES_MAX) {
            return Err(refuse("id", problem));
        }
        if let Some(problem) = name_problem(&self.label, LABEL_BYTES_MAX) {
            return Err(refuse("label", problem));
        }
        let entries = self.metadata.len();
        if METADATA_ENTRIES_MAX < entries {
            let problem = format!("has {entries} entries; at most {METADATA_ENTRIES_MAX} are kept");
            return Err(refuse("metadata", problem));
        }
        let bytes: usize = self
            .metadata
            .iter()
            .map(|(key, value)| key.len() + value.len())
            .sum();
        if METADATA_BYTES_MAX < bytes {
            let problem = format!("has {bytes} bytes; at most {METADATA_BYTES_MAX} are kept");
            return Err(refuse("metadata", problem));
        }
        if self
            .metadata
            .keys()
            .any(|key| name_problem(key, METADATA_BYTES_MAX).is_some())
        {
            let problem = "has a key that is empty or contains a control character".to_owned();
            return Err(refuse("metadata", problem));
        }
        let found = self.embedding.dimension();
        if found != dimension {
            let problem = format!("has {found} dimensions; the gallery has {dimension}");
            return Err(refuse("embedding", problem));
        }
        if self.image.is_some() && self.source_sha256.is_none() {
            return Err(refuse("image", "comes without its hash".to_owned()));
        }
        Ok(())
    }

    /// Splits the item into the part that is shown and the embedding.
    pub(super) fn split(self) -> (ItemHead, Embedding) {
        let Self {
            id,
            label,
            metadata,
            embedding,
            source_sha256,
            image: _,
        } = self;
        let head = ItemHead {
            id,
            label,
            metadata,
            source_sha256,
        };
        (head, embedding)
    }
}

impl ItemHead {
    /// A text that is another one as soon as anything of the item is, given its embedding.
    #[must_use]
    pub fn etag(&self, embedding: &[f32]) -> String {
        digest_text(self.checksum(&embedding_bytes(embedding)))
    }

    /// The checksum of this item, given the bytes of its embedding.
    pub(super) fn checksum(&self, embedding: &[u8]) -> Hash {
        let names = [self.id.as_str(), self.label.as_str()];
        checksum_of(
            names,
            &self.metadata,
            embedding,
            self.source_sha256.as_ref(),
        )
    }
}

fn checksum_of(
    [id, label]: [&str; 2],
    metadata: &BTreeMap<String, String>,
    embedding: &[u8],
    source_sha256: Option<&Hash>,
) -> Hash {
    let mut hash = FieldHash::new("matchpoint item 1");
    hash.field(id.as_bytes());
    hash.field(label.as_bytes());
    hash.number(metadata.len());
    for (key, value) in metadata {
        hash.field(key.as_bytes());
        hash.field(value.as_bytes());
    }
    hash.field(embedding);
    hash.field(source_sha256.map_or(&[], |source| source.as_slice()));
    hash.finish()
}

/// The stored form of an embedding: little-endian `f32`.
#[must_use]
pub fn embedding_bytes(values: &[f32]) -> Vec<u8> {
    values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect()
}

/// Checks everything that a caller can get wrong in a batch of items.
pub(super) fn check_batch(items: &[Item], dimension: usize) -> Result<(), GalleryError> {
    if BATCH_MAX < items.len() {
        return Err(GalleryError::Batch {
            found: items.len(),
            max: BATCH_MAX,
        });
    }
    let mut seen = HashMap::with_capacity(items.len());
    for (second, item) in items.iter().enumerate() {
        item.check(second, dimension)?;
        if let Some(first) = seen.insert(&item.id, second) {
            return Err(GalleryError::Duplicate {
                id: item.id.clone(),
                first,
                second,
            });
        }
    }
    Ok(())
}

/// The problem with an id or a label; `None` if it is valid.
pub(super) fn name_problem(name: &str, bytes_max: usize) -> Option<String> {
    if name.is_empty() {
        return Some("is empty".to_owned());
    }
    if bytes_max < name.len() {
        return Some(format!(
            "has {} bytes; at most {bytes_max} are allowed",
            name.len()
        ));
    }
    name.chars()
        .any(char::is_control)
        .then(|| "contains a control character".to_owned())
}

/// SHA-256 over fields with their lengths, so that different lists of fields never give the same bytes.
pub(super) struct FieldHash(Sha256);

impl FieldHash {
    /// `purpose` separates hashes of different kinds of things.
    pub(super) fn new(purpose: &str) -> Self {
        let mut hash = Self(Sha256::new());
        hash.field(purpose.as_bytes());
        hash
    }

    pub(super) fn number(&mut self, value: usize) {
        self.0.update((value as u64).to_le_bytes());
    }

    pub(super) fn field(&mut self, bytes: &[u8]) {
        self.number(bytes.len());
        self.0.update(bytes);
    }

    pub(super) fn finish(self) -> Hash {
        self.0.finalize().into()
    }
}

/// The digest of a gallery after a change, from the digest before and the checksums of the items that came and
/// that went.
#[must_use]
pub fn digest_after(before: [u8; 32], came: &[[u8; 32]], went: &[[u8; 32]]) -> [u8; 32] {
    let mut sum = ContentSum::from_bytes(&before);
    came.iter().for_each(|checksum| sum.add(checksum));
    went.iter().for_each(|checksum| sum.subtract(checksum));
    sum.to_bytes()
}

/// A digest as text: 64 hexadecimal digits.
#[must_use]
pub fn digest_text(digest: [u8; 32]) -> String {
    ContentSum::from_bytes(&digest).to_string()
}

/// The digest of a set of items: the sum of their checksums modulo 2^256.
///
/// A sum does not depend on the order, and one item can be added or removed without reading the others. It
/// detects damage and mistakes, but does not protect against forged rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct ContentSum([u64; 4]);

impl ContentSum {
    pub(super) fn add(&mut self, checksum: &Hash) {
        let mut carry = false;
        for (limb, other) in self.0.iter_mut().zip(Self::from_bytes(checksum).0) {
            (*limb, carry) = limb.carrying_add(other, carry);
        }
    }

    pub(super) fn subtract(&mut self, checksum: &Hash) {
        let mut borrow = false;
        for (limb, other) in self.0.iter_mut().zip(Self::from_bytes(checksum).0) {
            (*limb, borrow) = limb.borrowing_sub(other, borrow);
        }
    }

    pub(super) fn from_bytes(bytes: &Hash) -> Self {
        let mut limbs = [0_u64; 4];
        for (limb, chunk) in limbs.iter_mut().zip(bytes.as_chunks::<8>().0) {
            *limb = u64::from_le_bytes(*chunk);
        }
        Self(limbs)
    }

    /// Reads what `Display` writes; `None` for any other text.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut bytes: Hash = [0; 32];
        let digits = text.as_bytes().as_chunks::<2>().0;
        if text.len() != 64 || !text.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return None;
        }
        for (byte, pair) in bytes.iter_mut().zip(digits) {
            let pair = std::str::from_utf8(pair).ok()?;
            *byte = u8::from_str_radix(pair, 16).ok()?;
        }
        Some(Self::from_bytes(&bytes))
    }

    pub(super) fn to_bytes(self) -> Hash {
        let mut bytes = [0_u8; 32];
        for (chunk, limb) in bytes.as_chunks_mut::<8>().0.iter_mut().zip(self.0) {
            *chunk = limb.to_le_bytes();
        }
        bytes
    }
}

impl fmt::Display for ContentSum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.to_bytes()
            .iter()
            .try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_digest_ignores_order_and_forgets_what_was_taken_away(
            hashes in prop::collection::vec(any::<Hash>(), 1..8), extra in any::<Hash>()
        ) {
            let (mut forward, mut backward) = (ContentSum::default(), ContentSum::default());
            forward.add(&extra);
            hashes.iter().for_each(|hash| forward.add(hash));
            forward.subtract(&extra);
            hashes.iter().rev().for_each(|hash| backward.add(hash));
            prop_assert_eq!(forward, backward);
            prop_assert_eq!(ContentSum::from_bytes(&forward.to_bytes()), forward);
        }
    }

    #[test]
    fn fields_that_only_move_a_border_hash_differently() {
        let mut first = FieldHash::new("test");
        first.field(b"ab");
        first.field(b"c");
        let mut second = FieldHash::new("test");
        second.field(b"a");
        second.field(b"bc");
        assert_ne!(first.finish(), second.finish());
    }
}
