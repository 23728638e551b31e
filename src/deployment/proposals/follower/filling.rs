//! The first filling of a collection, until its answers can be compared.

use std::thread;
use std::time::{Duration, Instant};

use super::{FollowerWork, REST};
use crate::deployment::DeploymentError;
use matchpoint_qdrant::{PointKey, QdrantError};

/// How long the first answers are waited for, and how much longer for each point written: until Qdrant has them in its
/// graph, it compares each search with all of them. An earlier start may have written them.
const LINKED_MAX: Duration = Duration::from_secs(60);
const LINKED_MAX_A_POINT: Duration = Duration::from_millis(2);
/// Number of points from which on the log says that they are written.
const SAID_FROM: usize = 1000;

impl FollowerWork {
    /// Compares the answers of a collection to which so many points were written just now.
    pub(super) fn compare_first_answers(&mut self, written: u32) -> Result<(), DeploymentError> {
        let waited = LINKED_MAX + LINKED_MAX_A_POINT.saturating_mul(written);
        let until = Instant::now() + waited;
        let mut said = false;
        loop {
            let slow = match self.compare_answers() {
                Err(DeploymentError::Qdrant(slow @ QdrantError::Unreachable { .. })) => slow,
                compared => return compared,
            };
            if until <= Instant::now() {
                return Err(slow.into());
            }
            if !said {
                let (deployment, cause) = (&self.index.deployment, slow.to_string());
                let seconds = waited.as_secs();
                tracing::warn!(
                    deployment,
                    cause,
                    seconds,
                    "Qdrant does not answer; it may still be linking what was written"
                );
                said = true;
            }
            thread::park_timeout(REST);
        }
    }

    /// Makes the collection what the gallery is now, and says how many points that took.
    pub(super) fn fill(&mut self) -> Result<u32, DeploymentError> {
        let mut written = 0_u32;
        let view = self.index.gallery.view();
        for (head, _) in view.items() {
            self.expect(head);
        }
        self.index.applied.store(view);
        loop {
            let found = self.compare_some()?;
            let here = self.generation();
            self.later.note(found.later, here);
            if let Some(problem) = self.overtaken() {
                let address = self.index.collection.address();
                return Err(QdrantError::Unsuitable { address, problem }.into());
            }
            if SAID_FROM <= found.wrong.len() {
                let (deployment, points) = (&self.index.deployment, found.wrong.len());
                tracing::info!(deployment, points, "writing points to Qdrant");
            }
            self.write(&found.wrong)?;
            written = written.saturating_add(u32::try_from(found.wrong.len()).unwrap_or(u32::MAX));
            if self.compared == PointKey::FIRST {
                return Ok(written);
            }
        }
    }
}
