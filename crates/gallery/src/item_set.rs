//! Records which items a gallery had at some moment, in a form small enough to be stored with a measurement.

use std::collections::HashSet;

use sha2::{Digest as _, Sha256};

use crate::item::{ContentSum, Hash};

/// The highest number of items that are stored one by one. For a larger set, a sample by checksum is stored: a
/// half, a quarter and so on. The share of a gallery that is still present is then an estimate with a standard
/// error below 0.004.
pub const KEPT_MAX: usize = 32_768;

/// The first bytes of a stored set: the format and its number. It ends with the SHA-256 of everything before.
const MAGIC: &[u8; 8] = b"mpitems3";
/// The format without its number.
const FORMAT: &[u8; 7] = b"mpitems";

/// A set of items, identified by their checksums. An item whose id, label, metadata or embedding has changed
/// counts as another item.
///
/// A checksum is the first 64 bits of a SHA-256. Two items of a million share it with a probability of
/// 3e-8.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ItemSet {
    items: u64,
    /// The digest of the gallery that had these items and no others.
    digest: ContentSum,
    /// Only checksums with at least this many leading zeros are stored.
    zeros: u8,
    kept: HashSet<u64>,
}

impl ItemSet {
    /// The set of items with these checksums.
    pub(super) fn of(checksums: impl Iterator<Item = Hash>) -> Self {
        let mut set = Self {
            items: 0,
            digest: ContentSum::default(),
            zeros: 0,
            kept: HashSet::new(),
        };
        for checksum in checksums {
            set.items += 1;
            set.digest.add(&checksum);
            let short = shortened(&checksum);
            if set.samples(short) {
                set.kept.insert(short);
            }
            while KEPT_MAX < set.kept.len() {
                set.zeros += 1;
                let zeros = u32::from(set.zeros);
                set.kept.retain(|short| zeros <= short.leading_zeros());
            }
        }
        set
    }

    /// Number of items in the set.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.items
    }

    /// The digest of the gallery that had exactly these items
    /// ([`GalleryView::digest`](crate::view::GalleryView::digest)), computed from all of them.
    #[must_use]
    pub fn gallery_digest(&self) -> String {
        self.digest.to_string()
    }

    /// Whether the set is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.items == 0
    }

    /// Whether only a sample of its items is stored.
    #[must_use]
    pub fn is_sample(&self) -> bool {
        0 < self.zeros
    }

    fn samples(&self, short: u64) -> bool {
        u32::from(self.zeros) <= short.leading_zeros()
    }

    /// Whether the set contains an item, as far as the stored sample shows.
    pub(super) fn keeps(&self, checksum: &Hash) -> bool {
        self.kept.contains(&shortened(checksum))
    }

    /// Estimates how many items of the set a gallery still has, if it has `kept` of the stored ones. The result
    /// is exact for up to [`KEPT_MAX`] items, and if none or all are present.
    pub(super) fn scaled(&self, kept: u64) -> u64 {
        let of = self.kept.len() as u64;
        if of == 0 {
            return 0;
        }
        let scaled = u128::from(self.items) * u128::from(kept) / u128::from(of);
        u64::try_from(scaled).unwrap_or(u64::MAX).min(self.items)
    }

    /// The stored form: the format, the sampling, the number of items, the digest of the gallery, the checksums
    /// in ascending order, and a SHA-256 over all of these.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut sorted: Vec<u64> = self.kept.iter().copied().collect();
        sorted.sort_unstable();
        let mut bytes = MAGIC.to_vec();
        bytes.push(self.zeros);
        bytes.extend(self.items.to_le_bytes());
        bytes.extend(self.digest.to_bytes());
        bytes.extend(sorted.iter().flat_map(|short| short.to_le_bytes()));
        let checksum = Sha256::digest(&bytes);
        bytes.extend(checksum);
        bytes
    }

    /// Reads what [`ItemSet::to_bytes`] wrote.
    ///
    /// # Errors
    /// Returns what is wrong with the bytes, as text.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, &'static str> {
        Self::from_content(checked(bytes)?).ok_or("it holds what no list of items does")
    }

    fn from_content(bytes: &[u8]) -> Option<Self> {
        let (&zeros, rest) = bytes.split_first()?;
        let (items, rest) = rest.split_first_chunk()?;
        let (digest, rest) = rest.split_first_chunk()?;
        let (items, digest) = (u64::from_le_bytes(*items), ContentSum::from_bytes(digest));
        let mut kept = HashSet::new();
        let mut last = None;
        let (shorts, odd) = rest.as_chunks();
        for short in shorts {
            let short = u64::from_le_bytes(*short);
            if last.is_some_and(|last| short <= last) || short.leading_zeros() < u32::from(zeros) {
                return None;
            }
            last = Some(short);
            kept.insert(short);
        }
        let fits = kept.len() <= KEPT_MAX && kept.len() as u64 <= items;
        let whole = zeros > 0 || kept.len() as u64 == items;
        (odd.is_empty() && fits && whole).then_some(Self {
            items,
            digest,
            zeros,
            kept,
        })
    }
}

/// Verifies format and checksum, and returns the bytes between them.
fn checked(bytes: &[u8]) -> Result<&[u8], &'static str> {
    if !bytes.starts_with(FORMAT) {
        return Err("it is no list of items");
    }
    if !bytes.starts_with(MAGIC) {
        return Err(
            "it has another format than this version's, which says of which gallery it lists the items; recalibrate",
        );
    }
    let (content, checksum) = bytes.split_last_chunk::<32>().ok_or("it was cut off")?;
    if Sha256::digest(content).as_slice() != checksum {
        return Err("its checksum does not match its content");
    }
    content.strip_prefix(MAGIC).ok_or("it was cut off")
}

fn shortened(checksum: &Hash) -> u64 {
    let (first, _) = checksum.split_first_chunk().unwrap_or((&[0; 8], &[]));
    u64::from_be_bytes(*first)
}

#[cfg(test)]
mod tests {
    use sha2::{Digest as _, Sha256};

    use super::*;

    fn checksums(range: std::ops::Range<u32>) -> Vec<Hash> {
        range
            .map(|i| Sha256::digest(i.to_le_bytes()).into())
            .collect()
    }

    #[test]
    fn a_small_set_knows_its_items_and_no_others() {
        let (inside, outside) = (checksums(0..500), checksums(500..900));
        let set = ItemSet::of(inside.iter().copied());
        assert_eq!(set.len(), 500);
        assert!(inside.iter().all(|item| set.keeps(item)));
        assert!(!outside.iter().any(|item| set.keeps(item)));
        assert_eq!(set.scaled(500), 500);
        assert_eq!(set.scaled(123), 123);
        assert!(!set.is_sample());
    }

    #[test]
    fn a_large_set_keeps_a_sample_that_says_how_many_are_there_still() {
        let all = checksums(0..200_000);
        let set = ItemSet::of(all.iter().copied());
        assert!(set.kept.len() <= KEPT_MAX && KEPT_MAX / 4 < set.kept.len());
        for there in [0, 50_000, 123_456, 200_000] {
            let kept = all[..there].iter().filter(|item| set.keeps(item)).count();
            let share = f64::from(u32::try_from(set.scaled(kept as u64)).unwrap()) / 200_000.0;
            let truth = f64::from(u32::try_from(there).unwrap()) / 200_000.0;
            assert!((share - truth).abs() < 0.012, "{share} and {truth}");
        }
        assert_eq!(set.scaled(0), 0);
        assert_eq!(set.scaled(set.kept.len() as u64), 200_000);
        assert!(set.is_sample());
    }

    #[test]
    fn a_set_is_read_as_it_was_written_and_nothing_else_is_one() {
        let set = ItemSet::of(checksums(0..40).into_iter());
        let bytes = set.to_bytes();
        assert_eq!(ItemSet::from_bytes(&bytes), Ok(set));
        for place in 0..bytes.len() {
            let mut other = bytes.clone();
            other[place] ^= 1;
            assert!(ItemSet::from_bytes(&other).is_err(), "{place}");
            assert!(ItemSet::from_bytes(&bytes[..place]).is_err(), "{place}");
        }
        assert!(ItemSet::from_bytes(&[&bytes[..], &[0; 8]].concat()).is_err());
    }

    #[test]
    fn a_set_says_of_which_gallery_it_is_also_if_only_a_sample_is_stored() {
        let digest_of = |all: &[Hash]| {
            let mut sum = ContentSum::default();
            all.iter().for_each(|checksum| sum.add(checksum));
            sum.to_string()
        };
        for all in [checksums(0..40), checksums(0..40_000)] {
            let set = ItemSet::of(all.iter().copied());
            let stored = ItemSet::from_bytes(&set.to_bytes()).unwrap();
            assert_eq!(stored.gallery_digest(), digest_of(&all));
            // As many items, one of which is another.
            let last = checksums(50_000..50_001);
            let others = [&all[1..], &last[..]].concat();
            assert_ne!(stored.gallery_digest(), digest_of(&others));
        }
    }

    #[test]
    fn a_list_that_does_not_say_of_which_gallery_it_is_is_refused_by_its_format() {
        let set = ItemSet::of(checksums(0..40).into_iter());
        let mut bytes = set.to_bytes();
        bytes[7] = b'2';
        let problem = ItemSet::from_bytes(&bytes).unwrap_err();
        assert!(problem.contains("another format") && problem.contains("recalibrate"));
        assert_eq!(
            ItemSet::from_bytes(b"something else"),
            Err("it is no list of items")
        );
    }
}
