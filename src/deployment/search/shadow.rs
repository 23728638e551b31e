//! A shadow of a served deployment. It gets a share of the live queries, its decisions are compared with the
//! live ones, and it never answers a caller.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::open_shadow::OpenShadow;
use crate::deployment::{Deployment, DeploymentError, Models, OpenOptions};
use crate::monitor::{ShadowAbout, ShadowReport};
use matchpoint_gallery::Access;

/// The link, next to a deployment's path, that points to its shadow; `None` for a path without a name.
#[must_use]
pub fn shadow_link(place: &Path) -> Option<PathBuf> {
    let mut name = place.file_name()?.to_owned();
    name.push(".shadow");
    Some(place.with_file_name(name))
}

fn refused(argument: &'static str, problem: &str) -> DeploymentError {
    DeploymentError::Argument {
        argument,
        problem: problem.to_owned(),
    }
}

/// The target of the link; `None` if there is no link.
fn led_to(link: &Path) -> Result<Option<PathBuf>, DeploymentError> {
    let refused = |problem: String| DeploymentError::Folder {
        path: link.to_owned(),
        problem,
    };
    match fs::symlink_metadata(link) {
        Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(cause) => Err(DeploymentError::io(link, &cause)),
        // A real folder with this name is not a shadow.
        Ok(found) if !found.is_symlink() => {
            Err(refused("is no link, so it names no candidate".to_owned()))
        }
        Ok(_) => fs::canonicalize(link)
            .map(Some)
            .map_err(|cause| refused(format!("leads nowhere: {cause}"))),
    }
}

/// The shadow of a deployment, if there is one.
#[derive(Clone, Copy, Debug)]
pub struct DeploymentShadow<'a>(&'a Deployment);

impl DeploymentShadow<'_> {
    /// Opens the shadow that the link next to `place` points to, in place of an existing one, and starts the
    /// comparison. If there is no link, or if it points to the served deployment, the comparison ends. Blocks.
    ///
    /// # Errors
    /// Returns an error if the shadow cannot be opened or embeds no images, or if the share is 0. An existing
    /// comparison then continues.
    pub fn open(
        &self,
        place: &Path,
        mut models: Models,
        share: f64,
    ) -> Result<Option<ShadowAbout>, DeploymentError> {
        let live = self.0;
        let mut opening = live.shadow.opening();
        let link = shadow_link(place);
        let lead = || link.as_deref().map_or(Ok(None), led_to);
        let Some(folder) = lead()?.filter(|folder| folder != live.folder().path()) else {
            opening.end();
            return Ok(None);
        };
        if live.qdrant.is_some() {
            let problem = "is not compared on a server with index = \"qdrant\": a shadow has no collection, and would decide by another index";
            return Err(refused("a candidate", problem));
        }
        let candidate = live.open_candidate(&folder, &mut models, share)?;
        // The caller may have given up and removed the link.
        if lead()?.as_ref() != Some(&folder) {
            let problem = "was changed meanwhile";
            return Err(refused("the link to the candidate", problem));
        }
        let about = candidate.about(folder, share);
        let candidate = OpenShadow {
            loaded: candidate.loaded,
            limits: candidate.limits,
            gallery: candidate.gallery,
            active_point: candidate.active_point,
        };
        let pool = Arc::clone(&live.loaded.pool);
        let waiting = move || pool.queue_len();
        opening.begin(&live.name, waiting, Box::new(candidate), about.clone())?;
        Ok(Some(about))
    }

    /// Whether there is a shadow. Blocks while one is being opened.
    #[must_use]
    pub fn is_there(&self) -> bool {
        self.0.shadow.opening().is_there()
    }

    /// Ends the comparison with a shadow, if there is one; the shadow closes by itself. Blocks while one is
    /// being opened.
    pub fn end(&self) {
        self.0.shadow.opening().end();
    }

    /// The comparison so far, with at most `limit` of the latest disagreements; `None` if there is no
    /// shadow. Blocks.
    ///
    /// # Errors
    /// Returns an error if the journal is damaged or the disk fails.
    pub fn report(&self, limit: usize) -> Result<Option<ShadowReport>, DeploymentError> {
        let mut report = self.0.shadow.report(limit);
        if let Some(report) = &mut report {
            self.0.monitor.add_truths(&mut report.latest)?;
        }
        Ok(report)
    }
}

impl Deployment {
    /// Access to the shadow of this deployment.
    #[must_use]
    pub fn shadow(&self) -> DeploymentShadow<'_> {
        DeploymentShadow(self)
    }

    fn open_candidate(
        &self,
        folder: &Path,
        models: &mut Models,
        share: f64,
    ) -> Result<Self, DeploymentError> {
        if share <= 0.0 {
            let problem = "is 0, so nothing is compared; set it, and restart the server";
            return Err(refused("shadow_share", problem));
        }
        let options = OpenOptions {
            name: Some(self.name.clone()),
            ..OpenOptions::recorded(Access::ReadOnly)
        };
        let candidate = Self::open(folder, models, options)?;
        if !candidate.loaded.model.embeds_images() {
            let problem = "embeds no images: its vectors are made elsewhere";
            return Err(refused("the candidate", problem));
        }
        Ok(candidate)
    }

    fn about(&self, path: PathBuf, share: f64) -> ShadowAbout {
        let (model, view) = (&self.loaded.model, self.gallery.view());
        ShadowAbout {
            path,
            model: model.name().to_owned(),
            fingerprint: model.fingerprint().to_owned(),
            precision: model.precision().to_owned(),
            execution_provider: model.provider().to_owned(),
            operating_point: self
                .active_point
                .load()
                .valid()
                .map(|point| point.id().to_owned()),
            gallery_items: view.len(),
            generation: view.generation(),
            share,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_link_to_a_candidate_stands_beside_the_place() {
        let link = |place: &str| shadow_link(Path::new(place));
        assert_eq!(link("/data/shop"), Some("/data/shop.shadow".into()));
        assert_eq!(link("shop/"), Some("shop.shadow".into()));
        assert_eq!(link("/"), None);
    }
}
