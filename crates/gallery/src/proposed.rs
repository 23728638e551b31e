//! An index elsewhere: what it proposes is compared with what is here, and what has changed here is told to it.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::Gallery;
use crate::blocks::{BLOCK_SLOTS, ItemSlot, SlotBlock};
use crate::error::GalleryError;
use crate::item::ItemHead;
use crate::mapped_vectors::Vector;
use crate::view::{BestMatches, GalleryMatch, GalleryView, Probe};
use matchpoint_vector::Embedding;

/// A place in the order of enrolment; a replaced item has a new one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct ItemPlace(usize);

/// An item as an index elsewhere knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProposedItem {
    /// Its id.
    pub id: String,
    /// Its checksum ([`Item::checksum`](crate::item::Item::checksum)).
    pub checksum: [u8; 32],
}

/// What an index elsewhere proposes for a search.
#[derive(Clone, Debug)]
pub struct ProposedItems {
    /// The items, as many as the search asks for, if it has so many.
    pub items: Vec<ProposedItem>,
    /// It has all items before this place.
    pub has_before: ItemPlace,
}

/// What has changed from one state to another. An item that was replaced is in both lists.
#[derive(Clone, Debug, Default)]
pub struct ViewChanges {
    /// The items that are gone.
    pub removed: Vec<Arc<ItemHead>>,
    /// The items that are new, with their vectors.
    pub added: Vec<(Arc<ItemHead>, Vector)>,
}

impl GalleryView {
    /// The place that the next item gets.
    #[must_use]
    pub fn next_place(&self) -> ItemPlace {
        let before = self.blocks.len().saturating_sub(1) * BLOCK_SLOTS;
        ItemPlace(match self.blocks.last() {
            None => 0,
            // Such a block was full, and all its items are gone.
            Some(block) if block.slots.is_empty() => before + BLOCK_SLOTS,
            Some(block) => before + block.slots.len(),
        })
    }

    /// What has changed since an earlier state of the same open gallery. Blocks that both have in common are skipped.
    #[must_use]
    pub fn changes_since(&self, before: &Self) -> ViewChanges {
        let mut changes = ViewChanges::default();
        for at in 0..self.blocks.len().max(before.blocks.len()) {
            let (then, now) = (before.blocks.get(at), self.blocks.get(at));
            if let (Some(then), Some(now)) = (then, now)
                && Arc::ptr_eq(then, now)
            {
                continue;
            }
            for number in 0..BLOCK_SLOTS {
                match (slot_of(then, number), slot_of(now, number)) {
                    (Some(gone), None) => changes.removed.push(Arc::clone(&gone.head)),
                    (None, Some(new)) => {
                        let head = Arc::clone(&new.head);
                        changes.added.push((head, new.vector.clone()));
                    }
                    // What is in a slot never changes.
                    (Some(_), Some(_)) | (None, None) => {}
                }
            }
        }
        changes
    }

    /// The items that a later state does not have any more.
    fn gone_until<'a>(&'a self, later: &'a Self) -> impl Iterator<Item = (usize, &'a ItemSlot)> {
        let blocks = self.blocks.iter().enumerate();
        let changed = blocks.filter_map(|(at, block)| {
            let now = later.blocks.get(at);
            let same = now.is_some_and(|now| Arc::ptr_eq(now, block));
            (!same).then_some((at, block, now))
        });
        changed.flat_map(|(at, block, now)| {
            let slots = (0..BLOCK_SLOTS).filter(move |number| slot_of(now, *number).is_none());
            slots.filter_map(move |number| {
                Some((at * BLOCK_SLOTS + number, slot_of(Some(block), number)?))
            })
        })
    }
}

fn slot_of(block: Option<&Arc<SlotBlock>>, number: usize) -> Option<&ItemSlot> {
    block?.slots.get(number)?.as_ref()
}

impl Gallery {
    /// The checksum of an item; `None` if it was replaced or removed.
    #[must_use]
    pub fn checksum(&self, head: &Arc<ItemHead>) -> Option<[u8; 32]> {
        self.item_table().checksum_of(head)
    }

    /// Whether an item is here, and has this checksum.
    #[must_use]
    pub fn has(&self, item: &ProposedItem) -> bool {
        let table = self.item_table();
        let found = table.find(&item.id);
        found.is_some_and(|place| place.checksum == item.checksum)
    }

    /// The nearest items of a view: of those that an index elsewhere proposes, and of those that it does not have yet,
    /// with exact scores.
    ///
    /// What has gone since the view, the index may not have any more, so that is compared too.
    ///
    /// `None` if what it proposes does not suffice: if an item is proposed that is not in the view, or not with this
    /// checksum, or if fewer are than the index has. Every item has to be compared then.
    ///
    /// # Errors
    /// Returns the errors of [`GalleryView::nearest`].
    pub fn nearest_of(
        &self,
        view: &GalleryView,
        query: &Embedding,
        probe: &Probe<'_>,
        proposed: &ProposedItems,
    ) -> Result<Option<Vec<GalleryMatch>>, GalleryError> {
        view.check(query, probe)?;
        let ItemPlace(before) = proposed.has_before;
        // Before the table is looked at: what goes in between is in one of the two, and not in both.
        let now = self.view();
        let places: BTreeSet<usize> = {
            let table = self.item_table();
            let found = proposed.items.iter().filter_map(|item| {
                let place = table.find(&item.id)?;
                (place.checksum == item.checksum).then_some(place.slot)
            });
            found.collect()
        };
        let mut best = BestMatches::new(query.as_slice(), probe);
        let mut compared = 0;
        let gone = view.gone_until(&now).filter(|(place, _)| *place < before);
        for (_, slot) in view.slots_from(before).chain(gone) {
            compared += 1;
            best.offer(slot);
        }
        let (mut valid, mut valid_before) = (0, 0);
        for (place, slot) in places
            .iter()
            .filter_map(|place| Some((place, view.slot(*place)?)))
        {
            valid += 1;
            // The others were offered above.
            if *place < before {
                valid_before += 1;
                best.offer(slot);
            }
        }
        let there = view.len().saturating_sub(compared);
        let enough = probe.k <= valid || there <= valid_before;
        Ok(enough.then(|| best.into_matches()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::item::Item;
    use crate::params::IndexParams;
    use crate::{Access, Gallery};

    fn item(number: usize, turn: f32) -> Item {
        Item {
            id: format!("item {number}"),
            label: "label".to_owned(),
            metadata: std::collections::BTreeMap::new(),
            embedding: Embedding::normalise(vec![turn.cos(), turn.sin()]).unwrap(),
            source_sha256: None,
            image: None,
        }
    }

    fn turned(number: usize) -> f32 {
        f32::from(u16::try_from(number).unwrap()) * 0.001
    }

    fn known(item: &Item) -> ProposedItem {
        ProposedItem {
            id: item.id.clone(),
            checksum: item.checksum(),
        }
    }

    struct World {
        _folder: tempfile::TempDir,
        gallery: Gallery,
        items: Vec<Item>,
    }

    fn world(count: usize) -> World {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("items.db");
        drop(Gallery::create(&path, 2, "model", "gallery").unwrap());
        let params = IndexParams {
            graph_from_items: 1,
            elsewhere: true,
            ..IndexParams::default()
        };
        let gallery = Gallery::open(&path, Access::ReadWrite, params).unwrap();
        let items: Vec<Item> = (0..count)
            .map(|number| item(number, turned(number)))
            .collect();
        gallery.upsert(items.clone()).unwrap();
        World {
            _folder: folder,
            gallery,
            items,
        }
    }

    #[test]
    fn what_is_proposed_counts_only_with_its_checksum_and_what_is_new_is_compared_anyway() {
        let World {
            gallery,
            items,
            _folder,
        } = world(300);
        assert!(gallery.view().is_approximate() && !gallery.reindex_is_due());
        let (query, probe) = (item(0, 0.0).embedding, Probe::nearest(3));
        let proposed = |which: &[usize], has_before| ProposedItems {
            items: which.iter().map(|number| known(&items[*number])).collect(),
            has_before,
        };
        let find = |proposed: &ProposedItems| {
            let view = gallery.view();
            let found = gallery.nearest_of(&view, &query, &probe, proposed).unwrap();
            found.map(|found| {
                found
                    .into_iter()
                    .map(|one| one.item.id.clone())
                    .collect::<Vec<_>>()
            })
        };
        let all = gallery.view().next_place();
        let names = |which: &[usize]| {
            which
                .iter()
                .map(|number| format!("item {number}"))
                .collect()
        };
        assert_eq!(find(&proposed(&[7, 2, 5], all)), Some(names(&[2, 5, 7])));
        // Too few, one twice, one that is not here, one that has changed since.
        assert_eq!(find(&proposed(&[2, 5], all)), None);
        assert_eq!(find(&proposed(&[2, 5, 5], all)), None);
        let mut foreign = proposed(&[2, 5, 7], all);
        foreign.items[0].id = "nobody".to_owned();
        assert_eq!(find(&foreign), None);
        let mut changed = proposed(&[2, 5, 7], all);
        changed.items[0].checksum[0] ^= 1;
        assert_eq!(find(&changed), None);

        // An item that the index does not have yet is found, and one that was replaced no more.
        gallery.upsert(vec![item(1000, 0.0), item(2, 1.0)]).unwrap();
        assert_eq!(
            find(&proposed(&[7, 8, 5], all)),
            Some(vec!["item 1000".into(), "item 5".into(), "item 7".into()])
        );
        assert_eq!(find(&proposed(&[2, 5, 7], all)), None);

        // What has gone since an earlier view is found in that, though the index has it no more.
        let (before, everything) = (gallery.view(), gallery.view().next_place());
        gallery.upsert(vec![item(4, 1.0)]).unwrap();
        gallery.delete(&["item 3".to_owned()]).unwrap();
        let there = proposed(&[7, 8, 5], everything);
        let found = gallery.nearest_of(&before, &query, &probe, &there).unwrap();
        let found: Vec<String> = found
            .unwrap()
            .iter()
            .map(|one| one.item.id.clone())
            .collect();
        assert_eq!(found, ["item 3", "item 4", "item 5"]);
    }

    #[test]
    fn the_changes_between_two_states_are_what_was_added_and_removed() {
        let World {
            gallery, _folder, ..
        } = world(300);
        let before = gallery.view();
        gallery.upsert(vec![item(5, 0.5), item(400, 0.6)]).unwrap();
        gallery
            .delete(&["item 7".to_owned(), "item 299".to_owned()])
            .unwrap();
        let now = gallery.view();
        let changes = now.changes_since(&before);
        let removed: Vec<&str> = changes
            .removed
            .iter()
            .map(|head| head.id.as_str())
            .collect();
        let added: Vec<&str> = changes
            .added
            .iter()
            .map(|(head, _)| head.id.as_str())
            .collect();
        assert_eq!(removed, ["item 5", "item 7", "item 299"]);
        assert_eq!(added, ["item 5", "item 400"]);
        assert!(before.next_place() < now.next_place());
        let none = now.changes_since(&now);
        assert!(none.removed.is_empty() && none.added.is_empty());
        // A block that was full and is empty now.
        let all: Vec<String> = (0..128).map(|number| format!("item {number}")).collect();
        gallery.delete(&all).unwrap();
        assert_eq!(gallery.view().changes_since(&now).removed.len(), 127);
    }
}
