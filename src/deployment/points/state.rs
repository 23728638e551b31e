//! The id of the state that determines decisions. It is equal for replicas of the same items, model, index parameters
//! and operating point.
//!
//! The `generation` cannot serve for this, because it only counts writes: two copies that each had one write
//! have the same generation but may have different items.

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use sha2::{Digest, Sha256};

use super::active::ActivePoint;
use crate::deployment::DeploymentError;
use crate::journal::entry::StateId;
use matchpoint_gallery::view::GalleryView;

/// Identifies this method of hashing; another method needs another name.
const DOMAIN: &[u8] = b"matchpoint state 1";

/// The parts of the state besides the items.
#[derive(Clone, Copy, Debug)]
pub struct StateParts<'a> {
    /// Fingerprint of the model.
    pub model_fingerprint: &'a str,
    /// The index, as operating points are bound to it.
    pub index: &'a str,
    /// Id of the active operating point; `None` if there is none.
    pub operating_point: Option<&'a str>,
}

impl StateParts<'_> {
    /// The state with the items of a view.
    #[must_use]
    pub fn with(&self, items: &GalleryView) -> StateId {
        let point = self.operating_point.unwrap_or_default();
        let texts = [self.model_fingerprint, self.index, point].map(str::as_bytes);
        let mut hash = Sha256::new();
        for field in [DOMAIN, &items.digest_bytes()].into_iter().chain(texts) {
            // The lengths separate the fields.
            hash.update((field.len() as u64).to_le_bytes());
            hash.update(field);
        }
        let digest: [u8; 32] = hash.finalize().into();
        StateId::from_bytes(digest.first_chunk().copied().unwrap_or_default())
    }
}

/// The last state that was computed, because searches ask for the same one again and again.
#[derive(Debug, Default)]
pub(in crate::deployment) struct LatestState(ArcSwapOption<ComputedState>);

/// The inputs of a state. As long as a gallery is open, a generation has exactly one set of items.
#[derive(Debug)]
struct ComputedState {
    generation: u64,
    active: Arc<ActivePoint>,
    id: StateId,
}

impl LatestState {
    /// The state of a view that is searched under an operating point; `compute` is called if the last one was
    /// another.
    pub(in crate::deployment) fn of(
        &self,
        view: &GalleryView,
        active: &Arc<ActivePoint>,
        compute: impl FnOnce() -> StateId,
    ) -> StateId {
        if let Some(latest) = &*self.0.load()
            && latest.generation == view.generation()
            && Arc::ptr_eq(&latest.active, active)
        {
            return latest.id;
        }
        let id = compute();
        // If two threads do this at once, both compute the same.
        self.0.store(Some(Arc::new(ComputedState {
            generation: view.generation(),
            active: Arc::clone(active),
            id,
        })));
        id
    }
}

/// The state that a request is answered from. It does not change, whatever is written or activated meanwhile.
pub(in crate::deployment) struct StateInUse {
    pub(in crate::deployment) view: Arc<GalleryView>,
    pub(in crate::deployment) active: Arc<ActivePoint>,
    pub(in crate::deployment) id: StateId,
}

impl StateInUse {
    /// Returns itself if it is the expected state, or if no state is expected.
    pub(in crate::deployment) fn expected(
        self,
        expected: Option<StateId>,
    ) -> Result<Self, DeploymentError> {
        match expected {
            Some(expected) if expected != self.id => Err(DeploymentError::StateMismatch {
                expected,
                present: self.id,
            }),
            Some(_) | None => Ok(self),
        }
    }
}
