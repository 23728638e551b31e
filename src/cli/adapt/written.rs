//! Writes the folder of a head: first under a temporary name, then opened for a check, and then renamed.

use std::fs;
use std::path::Path;

use anyhow::Context as _;

use super::AdaptedModel;
use super::fitted_model::{FittedModel, naming};
use crate::cli::exit::{Exit, fail};
use crate::cli::input::head::{RECORD_NAME, WEIGHTS_NAME};
use crate::cli::output::file::write_within;
use crate::deployment::{DeploymentError, Models, TemporaryFolder};
use matchpoint_adapt::{AdaptedHead, HeadRecord};
use matchpoint_embed::{HeadWeights, adapted_folder};

/// What has to be written.
pub(super) struct Writing<'a> {
    pub(super) adapted: &'a AdaptedHead,
    pub(super) record: &'a HeadRecord,
    /// The model that the head is added to.
    pub(super) model: Option<&'a FittedModel>,
}

/// A folder that is complete but for its name, and is removed if it gets none.
pub(super) struct UnnamedFolder {
    temporary: TemporaryFolder,
    models: Vec<AdaptedModel>,
}

impl UnnamedFolder {
    /// Names it `out`, and returns the models in it.
    pub(super) fn publish(self, out: &Path) -> anyhow::Result<Vec<AdaptedModel>> {
        self.temporary.publish(out).map_err(|cause| {
            let message = format!("cannot write {}: {cause}", out.display());
            fail(Exit::Io, message)
        })?;
        Ok(self.models)
    }
}

impl Writing<'_> {
    /// Writes all of `out` under another name beside it, and opens each of its models.
    pub(super) fn write(&self, out: &Path, models: &mut Models) -> anyhow::Result<UnnamedFolder> {
        let cannot = || format!("cannot make the folder of {}", out.display());
        if let Some(parent) = out.parent() {
            fs::create_dir_all(parent).with_context(cannot)?;
        }
        let temporary = TemporaryFolder::new(out)?;
        let record = self.record.to_bytes()?;
        let write = |path: &Path, bytes: &[u8]| write_within(&temporary, path, bytes);
        write(Path::new(WEIGHTS_NAME), &self.adapted.head.to_bytes())?;
        let mut written = Vec::new();
        if let Some(base) = self.model {
            let head = &self.adapted.head;
            let weights = HeadWeights {
                from: head.from(),
                roots: head.roots(),
                eight_bits: head.eight_bits(),
                weights: head.weights(),
                bias: head.bias(),
            };
            let map = |unit: &[f32]| head.apply(unit);
            let runtime = models.runtime()?;
            let from = &base.loaded.folder;
            let folder = adapted_folder(from, &weights, &record, &map, &runtime);
            let folder = folder.map_err(DeploymentError::from);
            let folder = folder.map_err(|error| naming(&error.into(), &base.given, from))?;
            for file in &folder.files {
                write(&file.path, &file.bytes)?;
            }
            for (number, precision) in folder.precisions.iter().enumerate() {
                // The first is the model's own file, which has no name in the list of precisions.
                let named = (0 < number).then_some(precision.as_str());
                let opened = models.open(temporary.path(), named);
                let opened =
                    opened.map_err(|error| naming(&error.into(), out, temporary.path()))?;
                written.push(AdaptedModel {
                    precision: precision.clone(),
                    fingerprint: opened.model.fingerprint().to_owned(),
                    cosine_min: opened.model.cosine_min(),
                });
            }
        } else {
            write(Path::new(RECORD_NAME), &record)?;
        }
        Ok(UnnamedFolder {
            temporary,
            models: written,
        })
    }
}
