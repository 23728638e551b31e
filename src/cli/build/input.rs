//! What a build enrols: images, those that another deployment keeps, or vectors.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::adapted_embeddings::AdaptedEmbeddings;
use crate::cli::exit::{Exit, fail};
use crate::cli::input::external_vectors::ExternalVectors;
use crate::cli::input::image_sources::{ImageSource, ImageSources};
use crate::deployment::{Folder, RefusedItem, Shard, SourceList};
use matchpoint_calibration::likeness::{Alike, alike as alike_labels};
use matchpoint_gallery::Gallery;
use matchpoint_gallery::item::ItemHead;

/// What to enrol.
pub(crate) enum BuildInput {
    Images(ImageSources),
    Kept(ReusedImages),
    Vectors(ExternalVectors),
    Adapted(AdaptedEmbeddings),
}

/// What another deployment stores.
pub(crate) struct ReusedImages {
    pub(crate) gallery: Arc<Gallery>,
    pub(crate) items: Vec<ImageSource>,
}

impl ReusedImages {
    pub(crate) fn open(deployment: &Path) -> anyhow::Result<Self> {
        let gallery = Folder::open(deployment)?.open_items()?;
        if !gallery.keeps_images() {
            let message = format!(
                "{} keeps no images; `matchpoint build DIR --images SOURCE --keep-images` adds them",
                deployment.display()
            );
            return Err(fail(Exit::NoInput, message));
        }
        let source = |head: &ItemHead| ImageSource {
            id: head.id.clone(),
            label: head.label.clone(),
            path: PathBuf::new(),
            metadata: head.metadata.clone(),
            role: None,
        };
        let view = gallery.view();
        let mut items: Vec<ImageSource> = view.items().map(|(head, _)| source(head)).collect();
        items.sort_unstable_by(|a, b| a.id.cmp(&b.id));
        Ok(Self {
            gallery: Arc::new(gallery),
            items,
        })
    }
}

impl BuildInput {
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Images(sources) => sources.items.len(),
            Self::Kept(kept) => kept.items.len(),
            Self::Vectors(given) => given.len(),
            Self::Adapted(adapted) => adapted.len(),
        }
    }

    /// What could not be read of it.
    pub(crate) fn refused(&self) -> &[RefusedItem] {
        match self {
            Self::Images(sources) => &sources.refused,
            Self::Kept(_) | Self::Vectors(_) | Self::Adapted(_) => &[],
        }
    }

    fn labels(&self) -> BTreeSet<&str> {
        match self {
            Self::Images(ImageSources { items, .. }) | Self::Kept(ReusedImages { items, .. }) => {
                items.iter().map(|item| item.label.as_str()).collect()
            }
            Self::Vectors(given) => given.labels(),
            Self::Adapted(adapted) => adapted.labels(),
        }
    }

    /// Its labels that are suspiciously like each other, or like enrolled ones. If one thing is enrolled
    /// under two labels, half of its items have a label that counts as wrong.
    pub(crate) fn alike(&self, enrolled: &BTreeSet<String>) -> Vec<Alike> {
        let own = self.labels();
        let others = enrolled.iter().map(String::as_str);
        let others: Vec<&str> = others.filter(|label| !own.contains(label)).collect();
        alike_labels(own, others)
    }

    /// A role that contradicts the labels would turn a label that will be enrolled into a stranger, or the
    /// other way round.
    pub(crate) fn refuse_contradictions(
        &self,
        mut enrolled: BTreeSet<String>,
    ) -> anyhow::Result<()> {
        match self {
            Self::Images(sources) => {
                enrolled.extend(sources.items.iter().map(|item| item.label.clone()));
                sources.refuse_contradictions(|label| enrolled.contains(label))
            }
            Self::Vectors(given) => given.refuse_contradictions(enrolled),
            Self::Kept(_) | Self::Adapted(_) => Ok(()),
        }
    }

    /// Everything that it names, which shows whether machines build parts of the same source.
    pub(crate) fn list(&self) -> SourceList {
        let mut list = SourceList::default();
        match self {
            Self::Images(ImageSources { items, .. }) | Self::Kept(ReusedImages { items, .. }) => {
                for item in items {
                    let metadata = item.metadata.iter().flat_map(|(key, value)| [key, value]);
                    let texts = [&item.id, &item.label].into_iter().chain(metadata);
                    list.add(texts.map(String::as_str));
                }
            }
            Self::Vectors(given) => given.list(&mut list),
            // Refused for shards by the command line: nothing is embedded.
            Self::Adapted(_) => {}
        }
        for one in self.refused() {
            list.add([&*one.item, &*one.reason]);
        }
        list
    }

    /// Keeps one part of it, and of what could not be read.
    pub(crate) fn keep(&mut self, shard: Shard) {
        match self {
            Self::Images(sources) => {
                sources.items.retain(|item| shard.takes(&item.id));
                sources.refused.retain(|one| shard.takes(&one.item));
            }
            Self::Kept(kept) => kept.items.retain(|item| shard.takes(&item.id)),
            Self::Vectors(given) => given.keep(shard),
            Self::Adapted(_) => {}
        }
    }
}
