//! Checks which items of other labels a newly enrolled item would be accepted as.

use super::lookalikes::{ItemToCheck, OTHERS_MAX, accepted_others, searched};
use crate::deployment::DeploymentError;
use crate::deployment::open::Deployment;
use crate::deployment::search::{Waits, WorkerJob};
use crate::monitor::{LeftOutItem, OtherItem};
use matchpoint_embed::caller::Caller;
use matchpoint_embed::job::JobKind;
use matchpoint_vector::Embedding;

impl Deployment {
    /// The items of other labels that a newly enrolled item would be accepted as. `None` if no operating point
    /// is valid or the workers are busy; an enrolment is never refused for that.
    pub(in crate::deployment) async fn check_enrolled(
        &self,
        caller: Caller,
        embedding: Embedding,
        label: &str,
    ) -> Option<Vec<OtherItem>> {
        let active = self.active_point();
        active.valid()?;
        // The view includes what was enrolled meanwhile, so that of two simultaneous enrolments the later one
        // sees the other.
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

    /// For items of today's gallery, by id, the items of other labels that each would be accepted as. `None` if
    /// no operating point is valid. Blocks.
    ///
    /// # Errors
    /// Returns the errors of [`accepted_others`].
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
