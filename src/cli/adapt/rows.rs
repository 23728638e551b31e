//! Reads the data that a head is fitted to: labelled pictures of a deployment, of a folder or of a list, or
//! vectors.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base16ct::lower::encode_string;
use sha2::{Digest, Sha256};

use super::Adapt;
use super::fitted_model::FittedModel;
use crate::cli::exit::{Exit, fail};
use crate::cli::input::image_sources::{ImageSources, Purpose};
use crate::cli::input::images;
use crate::cli::input::left_out::LeftOut;
use crate::cli::output::pictures::Pictures;
use crate::deployment::{Folder, Models, RefusedItem, read_image};
use crate::telemetry::escaped;
use matchpoint_adapt::{HeadBase, LabelledRows, Part};
use matchpoint_arrays::{LabelTable, Role};
use matchpoint_embed::embedder::Embedded;
use matchpoint_embed::pixels::ImageLimits;
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
    /// Reads the rows, and embeds pictures if needed.
    pub(super) fn rows(&self, models: &mut Models) -> anyhow::Result<AdaptRows> {
        match (&self.deployment, &self.images, &self.embeddings) {
            (Some(deployment), None, None) => self.rows_of_deployment(deployment, models),
            (None, Some(images), None) => self.rows_of_images(images, models),
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
    ) -> anyhow::Result<AdaptRows> {
        let folder = Folder::open(deployment)?;
        let reference = &folder.record().model;
        let model = if reference.vectors.is_some() {
            if self.second_layer.is_some() {
                let message = "the deployment holds vectors that are made elsewhere, and no network whose second layer could be pooled";
                return Err(fail(Exit::BadData, message));
            }
            None
        } else {
            let path = self.model.as_ref().unwrap_or(&reference.folder);
            let loaded = models.open(path, reference.precision.as_deref())?;
            if loaded.model.fingerprint() != reference.fingerprint {
                let message = format!(
                    "the deployment was embedded by model `{}` (fingerprint {}), and {} holds another; name its model with --model",
                    reference.name,
                    reference.fingerprint,
                    path.display()
                );
                return Err(fail(Exit::Mismatch, message));
            }
            Some(FittedModel::of(
                self,
                loaded,
                models,
                reference.precision.as_deref(),
            )?)
        };
        let gallery = folder.open_items()?;
        let view = gallery.view();
        let mut items: Vec<_> = view.items().collect();
        items.sort_unstable_by(|a, b| a.0.id.cmp(&b.0.id));
        if model.is_some() {
            refuse_vectors(deployment, &items)?;
        }
        let wide = model.as_ref().filter(|_| self.second_layer.is_some());
        let limits = models.limits();
        let again = wide.map(|model| kept(&gallery, deployment, &items, model, limits));
        let mut again = again.transpose()?.unwrap_or_default().into_iter();
        let mut gathering = Gathering::default();
        for (head, vector) in items {
            let word = head.metadata.get(PART_COLUMN).cloned();
            let picture = head.source_sha256.map(|sha256| encode_string(&sha256));
            match again.next() {
                Some(Ok(one)) => {
                    gathering.push(one.embedding.as_slice(), &head.label, word, picture);
                }
                None => gathering.push(vector, &head.label, word, picture),
                Some(Err(reason)) => {
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

    fn rows_of_images(&self, images: &Path, models: &mut Models) -> anyhow::Result<AdaptRows> {
        let Some(model) = &self.model else {
            return Err(fail(
                Exit::Usage,
                "--images needs the model that embeds them: --model DIR",
            ));
        };
        let sources = ImageSources::read_but(images, Purpose::Fit, &self.exclude)?;
        let loaded = models.open(model, self.precision.as_deref())?;
        let model = FittedModel::of(self, loaded, models, self.precision.as_deref())?;
        let limits = models.limits();
        let paths: Vec<PathBuf> = sources.items.iter().map(|item| item.path.clone()).collect();
        let mut gathering = Gathering {
            failed: sources.refused.clone(),
            left_out: sources.left_out.clone(),
            ..Gathering::default()
        };
        gathering.pictures.add(&sources);
        let embedded = images::embedded(&paths, &model.loaded, limits);
        for (item, result) in sources.items.iter().zip(embedded) {
            let bytes = read_image(&item.path, &limits);
            match (result, bytes) {
                (Ok(one), Ok(bytes)) => {
                    let picture = Some(encode_string(&Sha256::digest(&bytes)));
                    let word = item.metadata.get(PART_COLUMN).cloned();
                    gathering.push(one.embedding.as_slice(), &item.label, word, picture);
                    gathering.ids.push(item.id.clone());
                }
                (Err(reason), _) => gathering.failed.push(RefusedItem {
                    item: item.id.clone(),
                    reason,
                }),
                (_, Err(error)) => gathering.failed.push(RefusedItem {
                    item: item.id.clone(),
                    reason: error.to_string(),
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

/// The embedding of each item's image by a model, from the images that the deployment keeps.
fn kept(
    gallery: &Gallery,
    deployment: &Path,
    items: &[(&Arc<ItemHead>, &[f32])],
    model: &FittedModel,
    limits: ImageLimits,
) -> anyhow::Result<Vec<Result<Embedded, String>>> {
    if !gallery.keeps_images() {
        let message = format!(
            "{0} keeps no images, and no stored embedding has a second layer: `matchpoint build {0} --images SOURCE --keep-images` adds \
             them; or fit to pictures by --images SOURCE --model DIR",
            deployment.display()
        );
        return Err(fail(Exit::NoInput, message));
    }
    let read = |at: usize| {
        let image = items.get(at).map(|(head, _)| gallery.image(&head.id));
        let image = image.transpose().map_err(|error| error.to_string())?;
        image
            .flatten()
            .ok_or_else(|| "its image is not kept".to_owned())
    };
    Ok(images::embedded_from(
        items.len(),
        &read,
        &model.loaded,
        limits,
    ))
}
