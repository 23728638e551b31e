//! Canaries of a deployment: how they are set and searched for.

use std::num::NonZeroUsize;
use std::path::Path;

use super::DeploymentError;
use super::folder::Folder;
use super::open::Deployment;
use super::search::BUSY_PAUSE;
use super::search::request::{ProbeSource, SearchOptions};
use crate::monitor::{
    CanariesSet, CanaryAnswer, CanaryRound, CanarySearch, CanarySelection, KeptGallery, NewCanary,
};
use matchpoint_embed::caller::Caller;

impl Deployment {
    /// Searches for every canary, one after another, in the same way as for callers but with the lowest
    /// priority. `None` if there are no canaries, or no valid operating point to judge them by.
    ///
    /// # Errors
    /// Returns an error if a round is already running, if the list is damaged, or if the disk fails. A canary
    /// that fails is named in the round.
    pub async fn replay_canaries(&self) -> Result<Option<CanaryRound>, DeploymentError> {
        let search = |canary| self.search_canary(canary);
        Ok(self.monitor.replay_canaries(search).await?)
    }

    async fn search_canary(&self, canary: CanarySearch) -> Result<CanaryAnswer, DeploymentError> {
        let CanarySearch {
            picture,
            without_label,
            source,
        } = canary;
        let options = SearchOptions {
            without_label,
            ..SearchOptions::nearest(2)
        };
        let answer = loop {
            let probe = ProbeSource::File(picture.clone());
            let caller = Caller::in_background();
            let searched = self.search_from(caller, probe, options.clone(), source.clone());
            match searched.await {
                Err(DeploymentError::Busy { .. } | DeploymentError::Late { .. }) => {
                    tokio::time::sleep(BUSY_PAUSE).await;
                }
                answer => break answer?,
            }
        };
        Ok(CanaryAnswer {
            decision: answer.decision,
            best: answer.hits.first().map(|hit| hit.item.label.clone()),
        })
    }
}

/// Sets the canaries of a deployment: see [`CanarySelection::put_into`].
///
/// # Errors
/// Returns an error if there is no deployment, if there are too many canaries, if no item has a stored and
/// usable image, or if the disk fails. The existing canaries are then kept.
pub fn set_canaries(
    folder: &Path,
    given: &[NewCanary],
    from_gallery: Option<NonZeroUsize>,
) -> Result<CanariesSet, DeploymentError> {
    let selection = CanarySelection::new(given, from_gallery)?;
    let opened = Folder::open(folder)?;
    let gallery = KeptGallery {
        file: opened.gallery_file(),
        id: opened.record().gallery_id.clone(),
    };
    Ok(selection.put_into(folder, &gallery)?)
}
