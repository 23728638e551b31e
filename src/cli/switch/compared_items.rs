//! What would be served otherwise after a switch: the items of two deployments, compared.

use std::path::Path;

use crate::deployment::{DeploymentError, Folder};
use matchpoint_gallery::Gallery;
use matchpoint_gallery::item::ItemHead;

/// The number of ids that are named.
const NAMED_MAX: usize = 3;

/// Items that differ between what is served and what is to be served.
#[derive(Debug, Default)]
pub(crate) struct ComparedItems {
    /// They are served, and would not be any more.
    pub(crate) left_behind: CountedItems,
    /// They are not served, and would be: perhaps they were deleted.
    pub(crate) added: CountedItems,
    /// They would have another label, other metadata, or be made from another source.
    pub(crate) changed: CountedItems,
}

/// Some items, of which the first are named.
#[derive(Debug, Default)]
pub(crate) struct CountedItems {
    pub(crate) count: usize,
    named: Vec<String>,
}

impl CountedItems {
    fn add(&mut self, item: &ItemHead) {
        self.count += 1;
        if self.named.len() < NAMED_MAX {
            self.named.push(item.id.clone());
        }
    }

    /// How many they are, what is said of them, and some of their ids; empty if there are none.
    pub(crate) fn say(&self, what: &str) -> String {
        match self.count {
            0 => String::new(),
            count => {
                let more = if self.named.len() < count {
                    ", …"
                } else {
                    ""
                };
                format!("{count} items {what} ({}{more})", self.named.join(", "))
            }
        }
    }
}

impl ComparedItems {
    /// Compares the items of two deployments.
    ///
    /// # Errors
    /// Returns an error if one of them is no deployment, or is damaged.
    pub(crate) fn of(from: &Path, to: &Path) -> Result<Self, DeploymentError> {
        let mut compared = Self::default();
        if from == to {
            return Ok(compared);
        }
        let (served, other) = (opened(from)?, opened(to)?);
        // Another model makes other vectors of the same pictures.
        let same_model = served.model_fingerprint() == other.model_fingerprint();
        for (item, vector) in served.view().items() {
            match other.item(&item.id) {
                None => compared.left_behind.add(item),
                // What has no source is its vector.
                Some((there, stored)) => {
                    let is_its_vector = same_model && item.source_sha256.is_none();
                    if *there != **item || (is_its_vector && bits(&stored).ne(bits(vector))) {
                        compared.changed.add(item);
                    }
                }
            }
        }
        for (item, _) in other.view().items() {
            if served.get(&item.id).is_none() {
                compared.added.add(item);
            }
        }
        Ok(compared)
    }

    /// What differs, in words; empty if nothing does.
    pub(crate) fn say(&self) -> String {
        let said = [
            self.left_behind
                .say("are served, and would not be any more"),
            self.added
                .say("are not served, and would be, also if they were deleted"),
            self.changed
                .say("would have another label, metadata or source"),
        ];
        let said: Vec<String> = said.into_iter().filter(|one| !one.is_empty()).collect();
        said.join("; ")
    }
}

fn bits(vector: &[f32]) -> impl Iterator<Item = u32> {
    vector.iter().map(|value| value.to_bits())
}

/// The items of a deployment, without an index, also while it is served.
fn opened(path: &Path) -> Result<Gallery, DeploymentError> {
    Folder::open(path)?.open_items()
}
