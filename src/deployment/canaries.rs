//! Canaries: set from pictures and from the gallery, and searched for as callers would.

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
    /// Searches for every canary, one after another, as callers do, with the lowest priority. `None` if
    /// there are no canaries, or no valid operating point to judge by.
    ///
    /// # Errors
    /// A round is already running, the list is damaged, or the disk failed. A canary that fails is named in
    /// the round.
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

/// Sets the canaries of a deployment: [`CanarySelection::put_into`].
///
/// # Errors
/// No deployment, too many canaries, no item whose image is kept and usable, or the disk failed. The
/// existing canaries then stay.
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
