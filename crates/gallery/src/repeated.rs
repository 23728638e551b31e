//! Items that repeat another one: the same picture, or the same vector, enrolled again.

use std::collections::HashMap;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use crate::item::ItemHead;
use crate::view::GalleryView;

/// An item that repeats another one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RepeatedItem {
    /// The item.
    pub item: Arc<ItemHead>,
    /// The first one by id with the same content.
    pub first: Arc<ItemHead>,
}

/// What an item was made from, as far as it is known.
#[derive(PartialEq, Eq, Hash)]
enum ItemSource<'a> {
    Picture(&'a [u8; 32]),
    Vector(VectorBits<'a>),
}

/// A vector, to be compared bit by bit.
struct VectorBits<'a>(&'a [f32]);

impl VectorBits<'_> {
    fn all(&self) -> impl Iterator<Item = u32> {
        self.0.iter().map(|value| value.to_bits())
    }
}

impl PartialEq for VectorBits<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.all().eq(other.all())
    }
}

impl Eq for VectorBits<'_> {}

impl Hash for VectorBits<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.all().for_each(|bits| bits.hash(state));
    }
}

impl GalleryView {
    /// The items that repeat another one, those of another label first, then in order of id. Reads the vectors of
    /// all items that were not enrolled as pictures.
    #[must_use]
    pub fn repeated(&self) -> Vec<RepeatedItem> {
        let mut items: Vec<_> = self.items().collect();
        items.sort_unstable_by(|(one, _), (other, _)| one.id.cmp(&other.id));
        let mut firsts: HashMap<ItemSource<'_>, &Arc<ItemHead>> =
            HashMap::with_capacity(items.len());
        let mut found = Vec::new();
        for (item, vector) in items {
            let picture = item.source_sha256.as_ref().map(ItemSource::Picture);
            let source = picture.unwrap_or(ItemSource::Vector(VectorBits(vector)));
            let first = *firsts.entry(source).or_insert(item);
            if !Arc::ptr_eq(first, item) {
                found.push(RepeatedItem {
                    item: Arc::clone(item),
                    first: Arc::clone(first),
                });
            }
        }
        found.sort_by_key(|one| one.item.label == one.first.label);
        found
    }
}
