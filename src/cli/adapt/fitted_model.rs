//! The model that a head is fitted for: as it is, or with a second layer beside its embedding.

use std::path::{Path, PathBuf};

use super::Adapt;
use crate::cli::exit::{Exit, fail, message};
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
    /// The folder of the model as it is shipped.
    pub(super) given: PathBuf,
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
            given: shipped.folder.clone(),
            loaded: shipped,
            folder: None,
        };
        let Some(tensor) = &adapt.second_layer else {
            return Ok(fitted);
        };
        let runtime = models.runtime()?;
        let layered = layered_folder(&fitted.loaded.folder, tensor.as_deref(), &runtime);
        let layered = layered.map_err(DeploymentError::from)?;
        let folder = TemporaryFolder::new(&beside(&adapt.out))?;
        for file in &layered.files {
            write_within(&folder, &file.path, &file.bytes)?;
        }
        let opened = models.open(folder.path(), precision);
        fitted.loaded =
            opened.map_err(|error| of_copy(&error.into(), &fitted.given, folder.path()))?;
        fitted.base.second_layer = Some(layered.tensor);
        fitted.folder = Some(folder);
        Ok(fitted)
    }
}

/// A name beside which a folder can be made: on the disk of `out`, whose own parent may be made only if something is written.
fn beside(out: &Path) -> PathBuf {
    place_above(out)
        .unwrap_or_else(|| Path::new(""))
        .join("layered")
}

/// What is there already of the places that lead to `out`; `None` if nothing is below the working directory.
pub(super) fn place_above(out: &Path) -> Option<&Path> {
    out.ancestors().skip(1).find(|place| place.exists())
}

/// An error of the copy with a second layer, which has gone when it is read.
fn of_copy(error: &anyhow::Error, given: &Path, temporary: &Path) -> anyhow::Error {
    let named = naming(error, given, temporary);
    let copy = format!("a copy of {} with the second layer", given.display());
    fail(Exit::of(error), format!("{copy}: {named}"))
}

/// An error that names a folder as the user does, in place of the name that it has until it is complete.
pub(super) fn naming(error: &anyhow::Error, given: &Path, temporary: &Path) -> anyhow::Error {
    // An opened model has its folder's whole path.
    let whole = temporary.canonicalize();
    let whole = whole.unwrap_or_else(|_| temporary.to_owned());
    let [given, temporary, whole] =
        [given, temporary, &whole].map(|path| path.display().to_string());
    let named = message(error).replace(&whole, &given);
    fail(Exit::of(error), named.replace(&temporary, &given))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_parent_is_made_before_something_is_written() {
        let folder = tempfile::TempDir::new().unwrap();
        let out = folder.path().join("a/b/head");
        assert_eq!(beside(&out), folder.path().join("layered"));
        assert_eq!(beside(Path::new("nowhere/head")), Path::new("layered"));
        assert_eq!(beside(Path::new("head")), Path::new("layered"));
    }

    #[test]
    fn an_error_of_the_copy_says_so() {
        let error = fail(Exit::BadData, "cannot read /out/.tmp/golden.f32");
        let named = of_copy(&error, Path::new("/given"), Path::new("/out/.tmp"));
        assert_eq!(Exit::of(&named), Exit::BadData);
        let expected = "a copy of /given with the second layer: cannot read /given/golden.f32";
        assert_eq!(named.to_string(), expected);
    }

    #[test]
    fn an_error_names_the_folder_that_was_given() {
        let error = fail(Exit::NoInput, "cannot read /out/.tmp/golden.f32");
        let named = naming(&error, Path::new("/given"), Path::new("/out/.tmp"));
        assert_eq!(Exit::of(&named), Exit::NoInput);
        assert_eq!(named.to_string(), "cannot read /given/golden.f32");
        let whole = Path::new("src").canonicalize().unwrap();
        let error = fail(Exit::NoInput, format!("cannot read {}/x", whole.display()));
        let named = naming(&error, Path::new("given"), Path::new("./src"));
        assert_eq!(named.to_string(), "cannot read given/x");
    }
}
