//! Reads the data that a head is fitted to: labelled pictures of a deployment, of a folder or of a list, or
//! vectors.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use base16ct::lower::encode_string;
use sha2::{Digest, Sha256};

use super::Adapt;
use super::fitted_model::FittedModel;
use crate::cli::exit::{Exit, fail};
use crate::cli::input::image_sources::{ImageSources, Purpose};
use crate::cli::input::images;
use crate::cli::input::left_out::LeftOut;
use crate::cli::output::pictures::Pictures;
use crate::cli::signal::Signal;
use crate::deployment::{Folder, ModelReference, Models, RefusedItem};
use crate::telemetry::escaped;
use matchpoint_adapt::{HeadBase, LabelledRows, Part};
use matchpoint_arrays::{LabelTable, Role};
use matchpoint_gallery::Gallery;
use matchpoint_gallery::item::ItemHead;
use matchpoint_report::Picture;
use matchpoint_vector::Embedding;

/// The column of a list that assigns each label to a part.
const PART_COLUMN: &str = "split";

/// Number of pictures of a label that are shown.
const PICTURES_OF_LABEL: usize = 4;

/// The rows, with what is known about each.
pub(super) struct AdaptRows {
    pub(super) rows: LabelledRows,
    /// The label of each row.
    pub(super) names: Vec<String>,
    /// The part of each row, if the list states it.
    pub(super) parts: Option<Vec<Part>>,
    /// SHA-256 of the picture of each row, if it is known.
    pub(super) sha256: Vec<Option<String>>,
    /// The id of each row's item; empty for vectors.
    ids: Vec<String>,
    /// Finds the pictures of items.
    pictures: Pictures,
    /// The model that embedded the rows; `None` for vectors without a known model.
    pub(super) model: Option<FittedModel>,
    pub(super) failed: Vec<RefusedItem>,
    pub(super) left_out: LeftOut,
}

/// Pictures that are listed and not read yet, and the model that is to embed them.
pub(super) struct ListedImages<'a> {
    sources: ImageSources,
    model: &'a Path,
}

/// Collects rows.
#[derive(Default)]
struct Gathering {
    dimension: usize,
    vectors: Vec<f32>,
    names: Vec<String>,
    /// The values of the column of parts.
    words: Vec<Option<String>>,
    sha256: Vec<Option<String>>,
    ids: Vec<String>,
    pictures: Pictures,
    failed: Vec<RefusedItem>,
    left_out: LeftOut,
}

impl Gathering {
    fn push(&mut self, unit: &[f32], name: &str, word: Option<String>, sha256: Option<String>) {
        self.dimension = unit.len();
        self.vectors.extend_from_slice(unit);
        self.names.push(name.to_owned());
        self.words.push(word);
        self.sha256.push(sha256);
    }

    fn finish(self, model: Option<FittedModel>) -> anyhow::Result<AdaptRows> {
        let mut numbers: BTreeMap<&str, u32> = BTreeMap::new();
        for name in &self.names {
            let next = u32::try_from(numbers.len()).unwrap_or(u32::MAX);
            numbers.entry(name).or_insert(next);
        }
        let labels = self.names.iter();
        let labels = labels.map(|name| numbers.get(name.as_str()).copied().unwrap_or(0));
        let rows = LabelledRows::normalise(self.dimension.max(1), self.vectors, labels.collect())?;
        let own = model.as_ref().map_or(rows.dimension(), |model| model.own);
        Ok(AdaptRows {
            rows: rows.with_own(own),
            parts: parts(&self.words)?,
            names: self.names,
            sha256: self.sha256,
            ids: self.ids,
            pictures: self.pictures,
            model,
            failed: self.failed,
            left_out: self.left_out,
        })
    }
}

/// The parts that a list states; `None` if the column has other values.
fn parts(words: &[Option<String>]) -> anyhow::Result<Option<Vec<Part>>> {
    let parsed = words.iter().map(|word| Part::parse(word.as_deref()?));
    let parsed: Vec<Option<Part>> = parsed.collect();
    if parsed.iter().all(Option::is_none) {
        return Ok(None);
    }
    let all: Option<Vec<Part>> = parsed.iter().copied().collect();
    if let Some(all) = all {
        return Ok(Some(all));
    }
    let other = words.iter().zip(&parsed).find(|(_, part)| part.is_none());
    let other = other.and_then(|(word, _)| word.clone()).unwrap_or_default();
    let message = format!(
        "some rows have fit, calibrate or judge in the column {PART_COLUMN}, and others `{other}`; give each label one of the three, \
         or none"
    );
    Err(fail(Exit::BadData, message))
}

impl Adapt {
    /// What `--images` lists, if it is given.
    pub(super) fn listed(&self) -> anyhow::Result<Option<ListedImages<'_>>> {
        let Some(images) = &self.images else {
            return Ok(None);
        };
        let Some(model) = &self.model else {
            let message = "--images needs the model that embeds them: --model DIR";
            return Err(fail(Exit::Usage, message));
        };
        let sources = ImageSources::read_but(images, Purpose::Fit, &self.exclude)?;
        Ok(Some(ListedImages { sources, model }))
    }

    /// Reads the rows, and embeds pictures if needed: none any more once a signal has come.
    pub(super) fn rows(
        &self,
        listed: Option<ListedImages<'_>>,
        models: &mut Models,
        signal: &Signal,
    ) -> anyhow::Result<AdaptRows> {
        match (&self.deployment, listed, &self.embeddings) {
            (Some(deployment), None, None) => self.rows_of_deployment(deployment, models, signal),
            (None, Some(images), None) => self.rows_of_images(&images, models, signal),
            (None, None, Some(embeddings)) => self.rows_of_vectors(embeddings),
            _ => {
                let message = "say what to fit to: a deployment, or --images, or --embeddings";
                Err(fail(Exit::Usage, message))
            }
        }
    }

    /// Reads the stored embeddings, for which no pictures are needed; with a second layer, embeds those that are kept.
    fn rows_of_deployment(
        &self,
        deployment: &Path,
        models: &mut Models,
        signal: &Signal,
    ) -> anyhow::Result<AdaptRows> {
        let folder = Folder::open(deployment)?;
        let reference = &folder.record().model;
        let gallery = folder.open_items()?;
        let view = gallery.view();
        let mut items: Vec<_> = view.items().collect();
        items.sort_unstable_by(|a, b| a.0.id.cmp(&b.0.id));
        if self.second_layer.is_some() {
            refuse_second_layer(deployment, reference, &gallery)?;
        }
        let model = if reference.vectors.is_some() {
            None
        } else {
            refuse_vectors(deployment, &items)?;
            Some(self.model_of(reference, models)?)
        };
        let wide = model.as_ref().filter(|_| self.second_layer.is_some());
        let again = wide.map(|model| {
            let read = |at: usize| match items.get(at) {
                Some((item, _)) => unless_stopped(signal).and_then(|()| kept(&gallery, item)),
                None => Ok(Vec::new()),
            };
            images::embedded_from(items.len(), &read, &model.loaded, models.limits())
        });
        let mut again = again.map(Vec::into_iter);
        let mut gathering = Gathering::default();
        for (head, vector) in items {
            let word = head.metadata.get(PART_COLUMN).cloned();
            let picture = head.source_sha256.map(|sha256| encode_string(&sha256));
            let embedded = again.as_mut().map(Iterator::next);
            match embedded {
                None => gathering.push(vector, &head.label, word, picture),
                Some(Some(Ok(one))) => {
                    gathering.push(one.embedding.as_slice(), &head.label, word, picture);
                }
                Some(failed) => {
                    let reason = failed.and_then(Result::err);
                    let reason = reason.unwrap_or_else(|| "it was not embedded".to_owned());
                    let item = head.id.clone();
                    gathering.failed.push(RefusedItem { item, reason });
                    continue;
                }
            }
            gathering.ids.push(head.id.clone());
        }
        if let Some(images) = &self.pictures {
            let sources = ImageSources::read(images, Purpose::Enrol)?;
            gathering.pictures.add(&sources);
        }
        gathering.finish(model)
    }

    /// The model that embedded a deployment.
    fn model_of(
        &self,
        reference: &ModelReference,
        models: &mut Models,
    ) -> anyhow::Result<FittedModel> {
        let precision = reference.precision.as_deref();
        let path = self.model.as_ref().unwrap_or(&reference.folder);
        let loaded = models.open(path, precision)?;
        if loaded.model.fingerprint() != reference.fingerprint {
            let message = format!(
                "the deployment was embedded by model `{}` (fingerprint {}), and {} holds another; name its model with --model",
                reference.name,
                reference.fingerprint,
                path.display()
            );
            return Err(fail(Exit::Mismatch, message));
        }
        FittedModel::of(self, loaded, models, precision)
    }

    fn rows_of_images(
        &self,
        listed: &ListedImages<'_>,
        models: &mut Models,
        signal: &Signal,
    ) -> anyhow::Result<AdaptRows> {
        let ListedImages { sources, model } = listed;
        let loaded = models.open(model, self.precision.as_deref())?;
        let model = FittedModel::of(self, loaded, models, self.precision.as_deref())?;
        let limits = models.limits();
        let mut gathering = Gathering {
            failed: sources.refused.clone(),
            left_out: sources.left_out.clone(),
            ..Gathering::default()
        };
        gathering.pictures.add(sources);
        let hashes = vec![OnceLock::new(); sources.items.len()];
        // A file is read once: what is hashed is what was embedded.
        let read = |at: usize| {
            let (Some(item), Some(hash)) = (sources.items.get(at), hashes.get(at)) else {
                return Ok(Vec::new());
            };
            unless_stopped(signal)?;
            let bytes = images::read(&item.path, limits)?;
            hash.get_or_init(|| encode_string(&Sha256::digest(&bytes)));
            Ok(bytes)
        };
        let embedded = images::embedded_from(hashes.len(), &read, &model.loaded, limits);
        let items = sources.items.iter().zip(&hashes);
        for ((item, hash), result) in items.zip(embedded) {
            match result {
                Ok(one) => {
                    let word = item.metadata.get(PART_COLUMN).cloned();
                    let picture = hash.get().cloned();
                    gathering.push(one.embedding.as_slice(), &item.label, word, picture);
                    gathering.ids.push(item.id.clone());
                }
                Err(reason) => gathering.failed.push(RefusedItem {
                    item: item.id.clone(),
                    reason,
                }),
            }
        }
        gathering.finish(Some(model))
    }

    fn rows_of_vectors(&self, path: &Path) -> anyhow::Result<AdaptRows> {
        let data = self.rows.read(path)?;
        let table = match &self.labels {
            Some(labels) => LabelTable::read(labels, data.rows())?,
            None => data.labels(path)?,
        };
        let mut gathering = Gathering::default();
        let vectors = data.vectors.chunks(data.dimension).zip(&table.label);
        for (row, (vector, label)) in vectors.enumerate() {
            let split = table.split.as_ref().and_then(|split| split.get(row));
            if self.rows.split.is_some() && split != self.rows.split.as_ref() {
                continue;
            }
            let role = table.role.as_ref().and_then(|roles| roles.get(row));
            if role == Some(&Role::Unused) {
                gathering.left_out.pass(Role::Unused.as_str());
                continue;
            }
            let unit = Embedding::normalise(vector.to_vec()).map_err(|cause| {
                let message = format!(
                    "{}, row {row} counted from 0: {cause}; remove its row",
                    path.display()
                );
                fail(Exit::BadData, message)
            })?;
            gathering.push(unit.as_slice(), label, split.cloned(), None);
        }
        if gathering.names.is_empty() {
            let message = format!("{} has no row to fit to", path.display());
            return Err(fail(Exit::BadData, message));
        }
        gathering.finish(None)
    }
}

impl AdaptRows {
    /// Some pictures of a label.
    pub(super) fn pictures_of(&self, label: &str) -> Vec<Picture> {
        let ids = self.names.iter().zip(&self.ids);
        let ids = ids.filter(|(name, _)| *name == label);
        let pictures = ids.filter_map(|(_, id)| self.pictures.of(id));
        pictures.take(PICTURES_OF_LABEL).collect()
    }

    /// Describes the model in the form that the record of a head uses.
    pub(super) fn base(&self) -> Option<HeadBase> {
        self.model.as_ref().map(|model| model.base.clone())
    }
}

/// Refuses items that no picture is known of: a calibration behind the head would take their pictures.
fn refuse_vectors(deployment: &Path, items: &[(&Arc<ItemHead>, &[f32])]) -> anyhow::Result<()> {
    let items = items.iter().map(|(item, _)| item);
    let vectors: Vec<_> = items.filter(|item| item.source_sha256.is_none()).collect();
    let Some(first) = vectors.first() else {
        return Ok(());
    };
    let message = format!(
        "{} items of {} (the first: {}) were enrolled as vectors: pictures that a head was fitted to are refused for calibration by \
         their bytes, and these would not be known; enrol the pictures in their place, or fit to pictures by --images",
        vectors.len(),
        deployment.display(),
        escaped(&first.id)
    );
    Err(fail(Exit::BadData, message))
}

/// Refuses a second layer where the deployment has no pictures for it.
fn refuse_second_layer(
    deployment: &Path,
    reference: &ModelReference,
    gallery: &Gallery,
) -> anyhow::Result<()> {
    if reference.vectors.is_some() {
        let message = "the deployment holds vectors that are made elsewhere, and no network whose second layer could be pooled";
        return Err(fail(Exit::BadData, message));
    }
    if gallery.keeps_images() {
        return Ok(());
    }
    let message = format!(
        "{0} keeps no images, and no stored embedding has a second layer: `matchpoint build {0} --images SOURCE --keep-images` adds \
         them; or fit to pictures by --images SOURCE --model DIR",
        deployment.display()
    );
    Err(fail(Exit::NoInput, message))
}

/// The kept image of an item. The deployment may be served meanwhile, and the record of the head names the picture that
/// the item had as it was listed: fitted to another, a calibration would take that one for unseen.
fn kept(gallery: &Gallery, item: &ItemHead) -> Result<Vec<u8>, String> {
    let image = gallery.image(&item.id).map_err(|error| error.to_string())?;
    let image = image.ok_or("its image is not kept, or was removed meanwhile")?;
    let read: [u8; 32] = Sha256::digest(&image).into();
    if item.source_sha256 != Some(read) {
        let message =
            "its image was replaced meanwhile; run the command again to fit to the new one";
        return Err(message.to_owned());
    }
    Ok(image)
}

fn unless_stopped(signal: &Signal) -> Result<(), String> {
    match signal.received() {
        None => Ok(()),
        Some(_) => Err("a signal came before it".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use matchpoint_gallery::item::Item;

    #[test]
    fn a_picture_that_took_the_place_of_a_listed_one_is_not_fitted_to() {
        let folder = tempfile::TempDir::new().unwrap();
        let path = folder.path().join("items.db");
        let gallery = Gallery::create(&path, 1, "model", "gallery").unwrap();
        gallery.keep_images().unwrap();
        let enrol = |id: &str, image: &[u8]| {
            let item = Item {
                id: id.to_owned(),
                label: "label".to_owned(),
                metadata: BTreeMap::new(),
                embedding: Embedding::normalise(vec![1.0]).unwrap(),
                source_sha256: Some(Sha256::digest(image).into()),
                image: Some(image.to_vec()),
            };
            gallery.upsert(vec![item]).unwrap();
        };
        enrol("kept", b"one");
        enrol("replaced", b"two");
        let [stays, replaced] = ["kept", "replaced"].map(|id| gallery.get(id).unwrap());
        enrol("replaced", b"three");
        assert_eq!(kept(&gallery, &stays).unwrap(), b"one");
        let refused = kept(&gallery, &replaced).unwrap_err();
        assert!(refused.contains("replaced meanwhile"), "{refused}");
    }
}
