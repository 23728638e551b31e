//! A gallery as a map, searched by comparing a query with every item.

use std::collections::{BTreeMap, BTreeSet};

use matchpoint_gallery::item::{Item, digest_after};
use matchpoint_vector::{Embedding, Similarity};

use super::shop::{LABELS, vector};

#[derive(Clone)]
pub struct KeptItems(pub BTreeMap<String, Item>);

pub fn unit(values: Vec<f32>) -> Embedding {
    Embedding::normalise(values).unwrap()
}

impl KeptItems {
    /// Those of the shop.
    pub fn of_shop() -> Self {
        let item = |label: usize, number: usize| Item {
            id: format!("{label}/{number}"),
            label: format!("label {label}"),
            metadata: BTreeMap::new(),
            embedding: unit(vector(label, number)),
            source_sha256: None,
            image: None,
        };
        let items = (0..LABELS).flat_map(|label| (0..3).map(move |number| item(label, number)));
        Self(items.map(|item| (item.id.clone(), item)).collect())
    }

    pub fn put(&mut self, item: Item) {
        self.0.insert(item.id.clone(), item);
    }

    /// Ids and bits of scores, best first.
    pub fn nearest(
        &self,
        query: &[f32],
        limit: usize,
        one_per_label: bool,
        takes: impl Fn(&Item) -> bool,
    ) -> Vec<(String, u32)> {
        let query = unit(query.to_vec());
        let items = self.0.values().filter(|item| takes(item));
        let scored = items.map(|item| {
            let score = Similarity::between(query.as_slice(), item.embedding.as_slice());
            (score.unwrap(), item)
        });
        let mut scored: Vec<_> = scored.collect();
        scored.sort_by(|(a, one), (b, other)| b.cmp(a).then_with(|| one.id.cmp(&other.id)));
        let mut labels = BTreeSet::new();
        scored.retain(|(_, item)| !one_per_label || labels.insert(&item.label));
        scored.truncate(limit);
        let found = scored.into_iter();
        found
            .map(|(score, item)| (item.id.clone(), score.get().to_bits()))
            .collect()
    }

    pub fn digest(&self) -> [u8; 32] {
        let checksums: Vec<[u8; 32]> = self.0.values().map(Item::checksum).collect();
        digest_after([0; 32], &checksums, &[])
    }
}
