//! The model that a head is fitted for: as it is, or with a second layer beside its embedding.

use std::fs;

use anyhow::Context as _;

use super::Adapt;
use crate::cli::exit::{Exit, fail};
use crate::cli::output::file::write_within;
use crate::deployment::{DeploymentError, LoadedModel, Models, TemporaryFolder};
use matchpoint_adapt::HeadBase;
use matchpoint_embed::layered_folder;

/// The model whose embeddings a head takes.
pub(super) struct FittedModel {
    /// The model as it is shipped.
    pub(super) base: HeadBase,
    /// The number of components that it gives.
    pub(super) own: usize,
    /// The model that the head is put behind.
    pub(super) loaded: LoadedModel,
    /// Kept until the model with a head is written.
    folder: Option<TemporaryFolder>,
}

impl FittedModel {
    /// Puts a second layer beside the model's embedding if one is asked for, in a folder that is removed in the end.
    pub(super) fn of(
        adapt: &Adapt,
        shipped: LoadedModel,
        models: &mut Models,
        precision: Option<&str>,
    ) -> anyhow::Result<Self> {
        if shipped.model.head_record().is_some() {
            let message = format!(
                "{} has a head already, and none is put behind another; adapt the model that it was made from",
                shipped.folder.display()
            );
            return Err(fail(Exit::BadData, message));
        }
        let model = &shipped.model;
        let mut fitted = Self {
            base: HeadBase {
                name: model.name().to_owned(),
                precision: model.precision().to_owned(),
                fingerprint: model.fingerprint().to_owned(),
                second_layer: None,
            },
            own: model.dimension(),
            loaded: shipped,
            folder: None,
        };
        let Some(tensor) = &adapt.second_layer else {
            return Ok(fitted);
        };
        let runtime = models.runtime()?;
        let layered = layered_folder(&fitted.loaded.folder, tensor.as_deref(), &runtime);
        let layered = layered.map_err(DeploymentError::from)?;
        if let Some(parent) = adapt.out.parent() {
            let cannot = || format!("cannot make the folder of {}", adapt.out.display());
            fs::create_dir_all(parent).with_context(cannot)?;
        }
        let folder = TemporaryFolder::new(&adapt.out)?;
        for file in &layered.files {
            write_within(&folder, &file.path, &file.bytes)?;
        }
        fitted.loaded = models.open(folder.path(), precision)?;
        fitted.base.second_layer = Some(layered.tensor);
        fitted.folder = Some(folder);
        Ok(fitted)
    }
}
