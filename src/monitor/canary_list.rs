//! The pictures that are canaries, with their list. Some are given, and others are made from enrolled items.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use base16ct::lower::encode_string;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::error::MonitorError;
use crate::files::{FileError, read_file, write_json};
use matchpoint_embed::pixels::{Augmentation, ImageLimits, Pixels};
use matchpoint_gallery::error::GalleryError;
use matchpoint_gallery::{KeptImages, KeptItem};

/// The folder of the pictures and their list, in the deployment's folder.
pub(super) const FOLDER: &str = "canaries";
pub(super) const LIST: &str = "canaries.json";
/// The highest number of canaries; with more, a round would take too long.
pub const CANARIES_MAX: usize = 2000;
/// Number of canaries made from one enrolled item: its image, and one for each augmentation of it.
pub const CANARIES_PER_ITEM: usize = Augmentation::ALL.len() + 1;
/// Hashed before each id; another seed would choose other items.
const SEED: &[u8] = b"matchpoint canaries 1";
/// No limits are needed: a stored image was within the limits when it was enrolled, and is compared with its
/// hash.
const KEPT: ImageLimits = ImageLimits {
    bytes_max: usize::MAX,
    decode_bytes_max: u64::MAX,
};

/// One picture.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Canary {
    /// The name of its file in the folder of canaries.
    pub(super) file: String,
    /// The caller's name for it.
    pub(super) name: String,
    /// The label that it shows.
    pub(super) label: String,
    /// The items that it is searched among. Older lists do not state this.
    #[serde(default, skip_serializing_if = "Among::is_all")]
    pub(super) among: Among,
}

/// The items among which a canary is searched for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Among {
    /// All items.
    #[default]
    All,
    /// The items of other labels, so that every accept is a false accept.
    OtherLabels,
}

impl Among {
    #[expect(
        clippy::trivially_copy_pass_by_ref,
        reason = "serde passes a reference"
    )]
    fn is_all(&self) -> bool {
        *self == Self::All
    }
}

impl Canary {
    /// The key of its outcome, because one picture can be searched for among all items and without different
    /// labels.
    pub(super) fn key(&self) -> String {
        match self.among {
            Among::All => self.file.clone(),
            Among::OtherLabels => format!("{} without {}", self.file, self.label),
        }
    }
}

/// A picture that should become a canary.
#[derive(Clone, Debug)]
pub struct NewCanary {
    /// The caller's name for it.
    pub name: String,
    /// The label that it shows. Each round checks whether it is enrolled.
    pub label: String,
    /// The picture's file.
    pub path: PathBuf,
}

/// The canaries after a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CanariesSet {
    /// Number of canaries.
    pub canaries: usize,
    /// Number of their labels.
    pub labels: usize,
    /// Number of enrolled items from which [`CANARIES_PER_ITEM`] canaries each were made.
    pub items: usize,
    /// Ids of items whose images cannot be used, with the reasons. Other items were used instead.
    pub skipped: Vec<(String, String)>,
}

/// The gallery whose images are used for canaries.
#[derive(Clone, Debug)]
pub struct KeptGallery {
    /// Its file.
    pub file: PathBuf,
    /// Its id in the deployment's record.
    pub id: String,
}

/// The pictures that will replace the existing canaries.
#[derive(Clone, Copy, Debug)]
pub struct CanarySelection<'a> {
    given: &'a [NewCanary],
    from_gallery: Option<NonZeroUsize>,
}

impl<'a> CanarySelection<'a> {
    /// Selects these pictures, and [`CANARIES_PER_ITEM`] canaries for each of `from_gallery` enrolled items.
    ///
    /// # Errors
    /// Returns an error if there would be more than [`CANARIES_MAX`].
    pub fn new(
        given: &'a [NewCanary],
        from_gallery: Option<NonZeroUsize>,
    ) -> Result<Self, MonitorError> {
        let count = from_gallery.map_or(0, NonZeroUsize::get);
        let total = count
            .saturating_mul(CANARIES_PER_ITEM)
            .saturating_add(given.len());
        if CANARIES_MAX < total {
            let of_items = from_gallery.map(|count| {
                let room = CANARIES_MAX.saturating_sub(given.len()) / CANARIES_PER_ITEM;
                format!(
                    " ({CANARIES_PER_ITEM} for each of {count} items; there is room for {room} items)"
                )
            });
            return Err(MonitorError::Argument {
                argument: "canaries",
                problem: format!(
                    "are {total}{}; a round has at most {CANARIES_MAX} searches",
                    of_items.unwrap_or_default()
                ),
            });
        }
        Ok(Self {
            given,
            from_gallery,
        })
    }

    /// Copies the pictures into the deployment's folder, in place of the existing canaries. It uses items with
    /// stored images, or all of them if there are too few. A hash of their ids selects the items, and no label
    /// gets a second item before each has one. It can run while the deployment is served; the next round uses
    /// the new canaries.
    ///
    /// # Errors
    /// Returns an error if no item has a stored and usable image, or if the disk fails. The existing canaries
    /// are then kept.
    pub fn put_into(
        &self,
        folder: &Path,
        gallery: &KeptGallery,
    ) -> Result<CanariesSet, MonitorError> {
        let mut staged = Staged::begin(folder)?;
        for canary in self.given {
            let bytes =
                read_file(&canary.path).map_err(|cause| FileError::io(&canary.path, &cause))?;
            staged.add(&canary.name, &canary.label, Among::All, &bytes)?;
        }
        let (items, skipped) = match self.from_gallery {
            None => (0, Vec::new()),
            Some(count) => staged.add_from_gallery(folder, gallery, count.get())?,
        };
        let labels: BTreeSet<&str> = staged.list.iter().map(|one| one.label.as_str()).collect();
        let set = CanariesSet {
            canaries: staged.list.len(),
            labels: labels.len(),
            items,
            skipped,
        };
        staged.put_in_place(folder)?;
        Ok(set)
    }
}

/// Canaries that are prepared next to the existing ones.
struct Staged {
    folder: PathBuf,
    list: Vec<Canary>,
}

impl Staged {
    fn begin(deployment: &Path) -> Result<Self, MonitorError> {
        let folder = deployment.join("canaries.new");
        remove(&folder)?;
        fs::create_dir(&folder).map_err(|cause| FileError::io(&folder, &cause))?;
        Ok(Self {
            folder,
            list: Vec::new(),
        })
    }

    fn add(
        &mut self,
        name: &str,
        label: &str,
        among: Among,
        bytes: &[u8],
    ) -> Result<(), MonitorError> {
        let file = encode_string(&Sha256::digest(bytes));
        fs::write(self.folder.join(&file), bytes)
            .map_err(|cause| FileError::io(&self.folder, &cause))?;
        self.list.push(Canary {
            file,
            name: name.to_owned(),
            label: label.to_owned(),
            among,
        });
        Ok(())
    }

    /// Adds canaries made from this many items. Returns the number of items used, and those that cannot be
    /// used.
    fn add_from_gallery(
        &mut self,
        folder: &Path,
        gallery: &KeptGallery,
        count: usize,
    ) -> Result<(usize, Vec<(String, String)>), MonitorError> {
        let (mut taken, mut skipped) = (0, Vec::new());
        if let Some(images) = KeptImages::open(&gallery.file)? {
            if images.gallery_id() != gallery.id {
                return Err(MonitorError::GalleryMismatch {
                    path: gallery.file.clone(),
                    expected: gallery.id.clone(),
                    found: images.gallery_id().to_owned(),
                });
            }
            for item in in_turn(images.items()?) {
                if taken == count {
                    break;
                }
                match self.add_item(&images, &item) {
                    Ok(added) => taken += usize::from(added),
                    Err(error) if is_the_images_fault(&error) => {
                        skipped.push((item.id, error.to_string()));
                    }
                    Err(error) => return Err(error),
                }
            }
        }
        if 0 < taken {
            return Ok((taken, skipped));
        }
        Err(skipped.into_iter().next().map_or_else(
            || MonitorError::NoImagesKept {
                folder: folder.to_owned(),
            },
            |(id, reason)| {
                let problem = format!(
                    "no image that it keeps can be used, that of item `{id}` because {reason}"
                );
                let path = gallery.file.clone();
                FileError::Damaged { path, problem }.into()
            },
        ))
    }

    /// Adds the canaries of one item; returns whether its image still exists.
    fn add_item(&mut self, images: &KeptImages, item: &KeptItem) -> Result<bool, MonitorError> {
        let Some(kept) = images.read(item)? else {
            return Ok(false);
        };
        let pixels = Pixels::decode(&kept, &KEPT, [255; 3])?;
        let mut pictures = Vec::with_capacity(CANARIES_PER_ITEM);
        for change in Augmentation::ALL {
            pictures.push((change.as_str(), Among::All, change.applied_to(&pixels)?));
        }
        pictures.push(("left out", Among::OtherLabels, kept));
        for (what, among, bytes) in pictures {
            let name = format!("{} ({what})", item.id);
            self.add(&name, &item.label, among, &bytes)?;
        }
        Ok(true)
    }

    fn put_in_place(self, deployment: &Path) -> Result<(), MonitorError> {
        let (old, present) = (deployment.join("canaries.old"), deployment.join(FOLDER));
        remove(&old)?;
        let io = |cause: std::io::Error| FileError::io(&self.folder, &cause);
        write_json(&self.folder.join(LIST), &self.list)?;
        if present.exists() {
            fs::rename(&present, &old).map_err(io)?;
        }
        fs::rename(&self.folder, &present).map_err(io)?;
        remove(&old)?;
        Ok(())
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        // If they were not put in place, they are useless, and they may be pictures of people.
        drop(remove(&self.folder));
    }
}

/// The items in the order of selection: by a hash of their ids, with one item of each label before a second of
/// any.
fn in_turn(mut items: Vec<KeptItem>) -> Vec<KeptItem> {
    items.sort_by_cached_key(|item| -> [u8; 32] {
        let seeded = Sha256::new().chain_update(SEED);
        seeded.chain_update(&item.id).finalize().into()
    });
    let mut of_label = BTreeMap::new();
    let mut counted: Vec<(usize, KeptItem)> = Vec::with_capacity(items.len());
    for item in items {
        let before: &mut usize = of_label.entry(item.label.clone()).or_default();
        counted.push((*before, item));
        *before += 1;
    }
    // The sort is stable, so the hash decides among items with the same rank within their label.
    counted.sort_by_key(|(before, _)| *before);
    counted.into_iter().map(|(_, item)| item).collect()
}

/// Whether the error concerns only this image, so that another item can be used.
fn is_the_images_fault(error: &MonitorError) -> bool {
    matches!(
        error,
        MonitorError::Image(_) | MonitorError::Gallery(GalleryError::Damaged { .. })
    )
}

fn remove(folder: &Path) -> Result<(), FileError> {
    match fs::remove_dir_all(folder) {
        Err(cause) if cause.kind() != std::io::ErrorKind::NotFound => {
            Err(FileError::io(folder, &cause))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_item_of_each_label_is_chosen_before_a_second_of_any() {
        let label = |number: i64| format!("label {}", number % 4);
        let item = |number| KeptItem {
            number,
            id: format!("item {number}"),
            label: label(number),
        };
        let chosen = in_turn((0..12).map(item).collect());
        for four in chosen.chunks(4) {
            let labels: BTreeSet<&str> = four.iter().map(|item| item.label.as_str()).collect();
            assert_eq!(labels.len(), 4, "{chosen:?}");
        }
        assert_eq!(in_turn((0..12).rev().map(item).collect()), chosen);
    }

    #[test]
    fn a_list_that_says_nothing_of_where_to_search_stays_as_it_is() {
        let before = r#"[{"file":"ab","name":"one","label":"ash"}]"#;
        let list: Vec<Canary> = serde_json::from_str(before).unwrap();
        assert_eq!(list[0].among, Among::All);
        assert_eq!(list[0].key(), "ab");
        // The digest is that of the text, so stored outcomes stay valid.
        assert_eq!(serde_json::to_string(&list).unwrap(), before);
        let left_out = Canary {
            among: Among::OtherLabels,
            ..list[0].clone()
        };
        assert_ne!(left_out.key(), list[0].key());
        let json = serde_json::to_string(&left_out).unwrap();
        assert!(json.contains(r#""among":"other_labels""#), "{json}");
        assert_eq!(serde_json::from_str::<Canary>(&json).unwrap(), left_out);
    }
}
