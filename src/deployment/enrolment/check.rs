//! As what a newly enrolled item would be accepted.

use super::lookalikes::{ItemToCheck, OTHERS_MAX, accepted_others, searched};
use crate::deployment::DeploymentError;
use crate::deployment::open::Deployment;
use crate::deployment::search::{Waits, WorkerJob};
use crate::monitor::{LeftOutItem, OtherItem};
use matchpoint_embed::caller::Caller;
use matchpoint_embed::job::JobKind;
use matchpoint_vector::Embedding;

impl Deployment {
    /// As what a newly enrolled item would be accepted; `None` if no operating point is valid, or the
    /// workers are busy: an enrolment is never refused for it.
    pub(in crate::deployment) async fn check_enrolled(
        &self,
        caller: Caller,
        embedding: Embedding,
        label: &str,
    ) -> Option<Vec<OtherItem>> {
        let active = self.active_point();
        active.valid()?;
        // With what was enrolled meanwhile: of two at once, the later one sees the other.
        let view = self.view();
        let label = label.to_owned();
        let job = WorkerJob::now(caller, JobKind::Vector, Waits::Nobody);
        let checked = self.work(job, move |_, _, _| {
            let item = ItemToCheck {
                embedding: &embedding,
                label: &label,
            };
            accepted_others(&view, &active, &item, OTHERS_MAX)
        });
        checked.await.ok().map(|(others, _)| others)
    }

    /// As what items of today's gallery would be accepted, by their ids; `None` if no operating point is
    /// valid. Blocks.
    ///
    /// # Errors
    /// As [`accepted_others`].
    pub fn lookalikes_among(
        &self,
        ids: &[String],
    ) -> Result<Option<Vec<LeftOutItem>>, DeploymentError> {
        let active = self.active_point();
        if active.valid().is_none() {
            return Ok(None);
        }
        let view = self.view();
        let searched = ids
            .iter()
            .filter_map(|id| searched(&self.gallery, &view, &active, id).transpose());
        searched.collect::<Result<_, _>>().map(Some)
    }
}
