//! Records which items a gallery had at some moment, in a form small enough to be stored with a measurement.

use std::collections::HashSet;

use sha2::{Digest as _, Sha256};

use crate::item::{ContentSum, Hash};

/// The highest number of items that are stored one by one. For a larger set, a sample by checksum is stored: a
/// half, a quarter and so on. The share of a gallery that is still present is then an estimate with a standard
/// error below 0.004.
pub const KEPT_MAX: usize = 32_768;

/// The first bytes of a stored set: the format and its number. It ends with the SHA-256 of everything before.
const MAGIC: &[u8; 8] = b"mpitems4";
/// The format without its number.
const FORMAT: &[u8; 7] = b"mpitems";

/// A set of items, identified by their checksums. An item whose id, label, metadata or embedding has changed
/// counts as another item.
///
/// A checksum is the first 64 bits of a SHA-256. Two items of a million share it with a probability of
/// 3e-8.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ItemSet {
    /// The digest of the gallery that had these items and no others.
    digest: ContentSum,
    all: ChecksumSample,
    /// Those of labels that were searched for.
    searched: ChecksumSample,
}

/// An item of a set.
pub(super) struct SetItem {
    pub(super) checksum: Hash,
    /// Whether its label was searched for.
    pub(super) searched: bool,
}

/// Numbers of items, of all and of those whose label was searched for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ItemCounts {
    /// All items.
    pub all: u64,
    /// Items of labels that were searched for.
    pub searched: u64,
}

impl ItemCounts {
    pub(super) fn with(self, more: Self) -> Self {
        Self {
            all: self.all + more.all,
            searched: self.searched + more.searched,
        }
    }

    pub(super) fn without(self, fewer: Self) -> Self {
        Self {
            all: self.all.saturating_sub(fewer.all),
            searched: self.searched.saturating_sub(fewer.searched),
        }
    }
}

impl ItemSet {
    /// The set of these items.
    pub(super) fn of(items: impl Iterator<Item = SetItem>) -> Self {
        let mut set = Self {
            digest: ContentSum::default(),
            all: ChecksumSample::default(),
            searched: ChecksumSample::default(),
        };
        for SetItem { checksum, searched } in items {
            set.digest.add(&checksum);
            set.all.add(shortened(&checksum));
            if searched {
                set.searched.add(shortened(&checksum));
            }
        }
        set
    }

    /// Number of items in the set.
    #[must_use]
    pub fn len(&self) -> ItemCounts {
        ItemCounts {
            all: self.all.items,
            searched: self.searched.items,
        }
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
        self.all.items == 0
    }

    /// Whether only a sample of its items is stored.
    #[must_use]
    pub fn is_sample(&self) -> bool {
        0 < self.all.zeros
    }

    /// What an item adds to the stored ones that are present: one, if it is in the set as far as the stored
    /// sample shows.
    pub(super) fn keeps(&self, checksum: &Hash) -> ItemCounts {
        let short = shortened(checksum);
        ItemCounts {
            all: u64::from(self.all.kept.contains(&short)),
            searched: u64::from(self.searched.kept.contains(&short)),
        }
    }

    /// Estimates how many items of the set a gallery still has, if it has so many of the stored ones. The result
    /// is exact for up to [`KEPT_MAX`] items, and if none or all are present.
    pub(super) fn scaled(&self, kept: ItemCounts) -> ItemCounts {
        ItemCounts {
            all: self.all.scaled(kept.all),
            searched: self.searched.scaled(kept.searched),
        }
    }

    /// The stored form: the format, the digest of the gallery; of all items and then of those whose label was
    /// searched for, the sampling, their number, the number of checksums, and these in ascending order; and a
    /// SHA-256 over all of it.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend(self.digest.to_bytes());
        self.all.write_to(&mut bytes);
        self.searched.write_to(&mut bytes);
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
        let (digest, mut rest) = bytes.split_first_chunk()?;
        let digest = ContentSum::from_bytes(digest);
        let all = ChecksumSample::read_from(&mut rest)?;
        let searched = ChecksumSample::read_from(&mut rest)?;
        (rest.is_empty() && searched.items <= all.items).then_some(Self {
            digest,
            all,
            searched,
        })
    }
}

/// Checksums of items, of which only those with enough leading zeros are stored if there are many.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct ChecksumSample {
    items: u64,
    /// Only checksums with at least this many leading zeros are stored.
    zeros: u8,
    kept: HashSet<u64>,
}

impl ChecksumSample {
    fn add(&mut self, short: u64) {
        self.items += 1;
        if u32::from(self.zeros) <= short.leading_zeros() {
            self.kept.insert(short);
        }
        while KEPT_MAX < self.kept.len() {
            self.zeros += 1;
            let zeros = u32::from(self.zeros);
            self.kept.retain(|short| zeros <= short.leading_zeros());
        }
    }

    fn scaled(&self, kept: u64) -> u64 {
        let of = self.kept.len() as u64;
        if of == 0 {
            return 0;
        }
        let scaled = u128::from(self.items) * u128::from(kept) / u128::from(of);
        u64::try_from(scaled).unwrap_or(u64::MAX).min(self.items)
    }

    fn write_to(&self, bytes: &mut Vec<u8>) {
        let mut sorted: Vec<u64> = self.kept.iter().copied().collect();
        sorted.sort_unstable();
        bytes.push(self.zeros);
        bytes.extend(self.items.to_le_bytes());
        bytes.extend((sorted.len() as u64).to_le_bytes());
        bytes.extend(sorted.iter().flat_map(|short| short.to_le_bytes()));
    }

    fn read_from(bytes: &mut &[u8]) -> Option<Self> {
        let (&zeros, rest) = bytes.split_first()?;
        let (items, rest) = rest.split_first_chunk()?;
        let (count, rest) = rest.split_first_chunk()?;
        let items = u64::from_le_bytes(*items);
        let count = usize::try_from(u64::from_le_bytes(*count)).ok()?;
        if KEPT_MAX < count || items < count as u64 {
            return None;
        }
        let (shorts, rest) = rest.split_at_checked(8 * count)?;
        let mut kept = HashSet::new();
        let mut last = None;
        for short in shorts.as_chunks().0 {
            let short = u64::from_le_bytes(*short);
            if last.is_some_and(|last| short <= last) || short.leading_zeros() < u32::from(zeros) {
                return None;
            }
            last = Some(short);
            kept.insert(short);
        }
        *bytes = rest;
        let whole = zeros > 0 || count as u64 == items;
        whole.then_some(Self { items, zeros, kept })
    }
}

/// Verifies format and checksum, and returns the bytes between them.
fn checked(bytes: &[u8]) -> Result<&[u8], &'static str> {
    if !bytes.starts_with(FORMAT) {
        return Err("it is no list of items");
    }
    if !bytes.starts_with(MAGIC) {
        return Err(
            "it has another format than this version's, which says which of the items were searched for; recalibrate",
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

    /// Every fourth of them was searched for.
    fn set_of(checksums: &[Hash]) -> ItemSet {
        let items = checksums.iter().enumerate();
        ItemSet::of(items.map(|(number, checksum)| SetItem {
            checksum: *checksum,
            searched: number % 4 == 0,
        }))
    }

    fn counts(all: u64, searched: u64) -> ItemCounts {
        ItemCounts { all, searched }
    }

    fn checksums(range: std::ops::Range<u32>) -> Vec<Hash> {
        range
            .map(|i| Sha256::digest(i.to_le_bytes()).into())
            .collect()
    }

    #[test]
    fn a_small_set_knows_its_items_and_no_others() {
        let (inside, outside) = (checksums(0..500), checksums(500..900));
        let set = set_of(&inside);
        assert_eq!(set.len(), counts(500, 125));
        for (number, item) in (0_u64..).zip(&inside) {
            assert_eq!(set.keeps(item), counts(1, u64::from(number % 4 == 0)));
        }
        assert!(outside.iter().all(|item| set.keeps(item) == counts(0, 0)));
        assert_eq!(set.scaled(counts(500, 125)), counts(500, 125));
        assert_eq!(set.scaled(counts(123, 7)), counts(123, 7));
        assert!(!set.is_sample());
    }

    #[test]
    fn a_large_set_keeps_a_sample_that_says_how_many_are_there_still() {
        let all = checksums(0..200_000);
        let set = set_of(&all);
        for (sample, items) in [(&set.all, 200_000), (&set.searched, 50_000)] {
            let stored = sample.kept.len();
            assert!(stored <= KEPT_MAX && KEPT_MAX / 4 < stored);
            assert_eq!(sample.scaled(0), 0);
            assert_eq!(sample.scaled(stored as u64), items);
        }
        for there in [0, 50_000, 123_456, 200_000] {
            let kept = all[..there].iter().fold(counts(0, 0), |sum, item| {
                let one = set.keeps(item);
                counts(sum.all + one.all, sum.searched + one.searched)
            });
            let share = |count: u64, of: f64| f64::from(u32::try_from(count).unwrap()) / of;
            let truth = share(there as u64, 200_000.0);
            let scaled = set.scaled(kept);
            for share in [
                share(scaled.all, 200_000.0),
                share(scaled.searched, 50_000.0),
            ] {
                assert!((share - truth).abs() < 0.012, "{share} and {truth}");
            }
        }
        assert!(set.is_sample());
    }

    #[test]
    fn a_set_is_read_as_it_was_written_and_nothing_else_is_one() {
        let set = set_of(&checksums(0..40));
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
            let set = set_of(&all);
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
        let set = set_of(&checksums(0..40));
        let mut bytes = set.to_bytes();
        bytes[7] = b'3';
        let problem = ItemSet::from_bytes(&bytes).unwrap_err();
        assert!(problem.contains("another format") && problem.contains("recalibrate"));
        assert_eq!(
            ItemSet::from_bytes(b"something else"),
            Err("it is no list of items")
        );
    }
}
