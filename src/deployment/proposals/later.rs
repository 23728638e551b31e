//! What a collection has that is later than the gallery: on its way here, or written by somebody who must not.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::deployment::enrolment::store_standing::StoreStanding;

/// From when on a server has not seen its store.
const UNSEEN: Duration = Duration::from_secs(5);
/// For how long the store has to be followed before it is certain that it lacks what the collection has.
const CERTAIN: Duration = Duration::from_secs(30);

pub(super) struct LaterGeneration {
    /// How the gallery stands to the store from which other servers write the same collection.
    standing: Option<Arc<StoreStanding>>,
    /// A generation that the gallery did not have when it was found in the collection, and when that was.
    found: Option<(u64, Instant)>,
}

impl LaterGeneration {
    pub(super) fn new(standing: Option<Arc<StoreStanding>>) -> Self {
        Self {
            standing,
            found: None,
        }
    }

    /// Remembers a generation that was found, while the gallery is at `here`.
    pub(super) fn note(&mut self, found: Option<u64>, here: u64) {
        // The first one counts until it has come.
        let awaited = self.found.filter(|(later, _)| here < *later);
        self.found = awaited.or_else(|| Some((found?, Instant::now())));
    }

    /// What is wrong if this will never come here.
    pub(super) fn problem(&self, here: u64) -> Option<String> {
        let (later, since) = self.found.filter(|(later, _)| here < *later)?;
        match &self.standing {
            None => Some(format!(
                "the collection has generation {later}, and the gallery here is at {here}: another server writes it, or the \
                 folder is an older copy; stop the other one, or delete the collection, and start this server again"
            )),
            Some(store) if since.elapsed().saturating_sub(store.lag()) < CERTAIN => None,
            Some(_) => Some(format!(
                "the collection has generation {later}, and the store is at {here}, as if it had been restored to an earlier \
                 time: delete the collection, and start the servers again"
            )),
        }
    }

    /// Whether others may have changed the collection since this server has heard of changes.
    pub(super) fn is_blind(&self) -> bool {
        let store = self.standing.as_ref();
        store.is_some_and(|store| UNSEEN < store.lag())
    }
}
