//! The memory that a search needs in addition to the index, for reuse by the next search.

use crate::index::search::ScoredRow;

/// The working memory of one search at a time. It grows to the size that the largest index needs, and keeps it.
///
/// Each thread needs its own, and keeps it between searches. A search allocates memory only if it has to grow.
#[derive(Default)]
pub struct Scratch {
    pub(super) query: Vec<u8>,
    pub(super) visited: Visited,
    pub(super) pool: CandidatePool,
    pub(super) fresh: Vec<u32>,
    pub(super) fresh_rows: Vec<u32>,
    pub(super) products: Vec<i32>,
    pub(super) survivors: Vec<u32>,
    pub(super) found: Vec<ScoredRow>,
}

impl Scratch {
    /// Working memory without any allocation yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }
}

/// The nodes that a traversal has visited. Clearing it is free except once in 255 traversals.
#[derive(Default)]
pub(super) struct Visited {
    epochs: Vec<u8>,
    epoch: u8,
}

impl Visited {
    pub(super) fn begin(&mut self, nodes: usize) {
        if self.epochs.len() < nodes {
            self.epochs.resize(nodes, 0);
        }
        self.epoch = self.epoch.wrapping_add(1);
        if self.epoch == 0 {
            self.epochs.fill(0);
            self.epoch = 1;
        }
    }

    /// Whether this is the first visit to the node. A node that does not exist counts as visited.
    #[inline]
    pub(super) fn first(&mut self, node: u32) -> bool {
        match self.epochs.get_mut(node as usize) {
            Some(epoch) if *epoch != self.epoch => {
                *epoch = self.epoch;
                true
            }
            _ => false,
        }
    }
}

/// The best nodes seen by a traversal, best first, and which of them are still to be expanded.
///
/// An entry is one number: the product, then the complement of the node's number, so that among equal products
/// the lower node ranks first, then a bit that is set until the node is expanded. Sorted insertion moves a few
/// hundred bytes, which is cheaper than a heap.
#[derive(Default)]
pub(super) struct CandidatePool {
    keys: Vec<u64>,
    ef: usize,
    /// All nodes before this position are expanded.
    next: usize,
}

const TO_EXPAND: u64 = 1;

fn key(product: i32, node: u32) -> u64 {
    let biased = product.cast_unsigned() ^ (1 << 31);
    u64::from(biased) << 32 | u64::from(!node << 1) | TO_EXPAND
}

#[expect(clippy::cast_possible_truncation, reason = "the halves of the key")]
fn product_and_node(key: u64) -> (i32, u32) {
    let biased = (key >> 32) as u32;
    let node = !(key as u32 >> 1) & (u32::MAX >> 1);
    ((biased ^ (1 << 31)).cast_signed(), node)
}

impl CandidatePool {
    pub(super) fn begin(&mut self, ef: usize) {
        self.keys.clear();
        self.keys.reserve(ef);
        self.ef = ef;
        self.next = 0;
    }

    /// Adds a node if it is among the best; returns whether it would be the next one to expand.
    #[inline]
    pub(super) fn offer(&mut self, product: i32, node: u32) -> bool {
        let key = key(product, node);
        if self.keys.len() == self.ef {
            if self.keys.last().is_none_or(|&worst| key < worst) {
                return false;
            }
            self.keys.pop();
        }
        let at = self.keys.partition_point(|&better| key < better);
        self.keys.insert(at, key);
        let is_next = at <= self.next;
        if at < self.next {
            self.next = at;
        }
        is_next
    }

    /// The best node that has not been expanded; it is then marked as expanded.
    #[inline]
    pub(super) fn expand(&mut self) -> Option<u32> {
        let rest = self.keys.get_mut(self.next..)?;
        let ahead = rest.iter().position(|key| key & TO_EXPAND != 0)?;
        let key = rest.get_mut(ahead)?;
        *key &= !TO_EXPAND;
        self.next += ahead + 1;
        Some(product_and_node(*key).1)
    }

    /// The node that is expanded next, unless a better one is found.
    #[inline]
    pub(super) fn peek(&self) -> Option<u32> {
        let rest = self.keys.get(self.next..)?;
        let key = rest.iter().find(|&key| key & TO_EXPAND != 0)?;
        Some(product_and_node(*key).1)
    }

    /// Products and nodes, best first.
    pub(super) fn iter(&self) -> impl Iterator<Item = (i32, u32)> {
        self.keys.iter().map(|&key| product_and_node(key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_node_is_new_once_in_each_walk() {
        let mut visited = Visited::default();
        for _ in 0..600 {
            visited.begin(3);
            assert!(visited.first(2) && !visited.first(2) && visited.first(0));
            assert!(!visited.first(3));
        }
    }

    proptest! {
        #[test]
        fn a_pool_keeps_the_best_and_expands_them_in_order(
            offers in prop::collection::vec((any::<i32>(), 0_u32..1 << 31), 0..60),
            ef in 1_usize..20,
        ) {
            let mut pool = CandidatePool::default();
            pool.begin(ef);
            let mut expected = Vec::new();
            for &(product, node) in &offers {
                pool.offer(product, node);
                expected.push((product, std::cmp::Reverse(node)));
            }
            expected.sort_unstable();
            expected.reverse();
            expected.truncate(ef);
            let expected: Vec<_> = expected.iter().map(|&(product, node)| (product, node.0)).collect();
            prop_assert_eq!(pool.iter().collect::<Vec<_>>(), expected.clone());
            for &(_, node) in &expected {
                prop_assert_eq!(pool.peek(), Some(node));
                prop_assert_eq!(pool.expand(), Some(node));
            }
            prop_assert_eq!(pool.expand(), None);
            if pool.offer(i32::MAX, 5) {
                prop_assert_eq!(pool.expand(), Some(5));
            }
        }
    }
}
