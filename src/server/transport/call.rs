//! The share of the common quotas that one call uses, from its first header to the end of its answer.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use prost::Message;
use tonic::{Response, Status};

use super::quota::{Quota, QuotaExceeded, QuotaShare};
use crate::server::connections::ClientAddress;
use crate::server::pace::Pace;

/// One running call.
#[derive(Debug)]
pub(in crate::server) struct Call {
    /// Bytes of its messages that arrived and are being processed.
    received: Mutex<QuotaShare>,
    /// Bytes of its answers that are made but not sent.
    answer: Mutex<QuotaShare>,
    #[expect(
        dead_code,
        reason = "kept as long as the call takes; health checks need none"
    )]
    place: Option<QuotaShare>,
}

fn locked(share: &Mutex<QuotaShare>) -> MutexGuard<'_, QuotaShare> {
    share.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Call {
    pub(super) fn new(
        client: ClientAddress,
        received: &Quota,
        answers: &Quota,
        place: Option<QuotaShare>,
    ) -> Self {
        Self {
            received: Mutex::new(received.nothing(client)),
            answer: Mutex::new(answers.nothing(client)),
            place,
        }
    }

    /// The call that a request belongs to.
    pub(in crate::server) fn of<T>(request: &tonic::Request<T>) -> Option<Arc<Self>> {
        request.extensions().get::<Arc<Self>>().cloned()
    }

    /// Records that a message of this many bytes starts to arrive.
    pub(super) fn receive(&self, bytes: u64) -> Result<(), Status> {
        let received = locked(&self.received).grow(bytes);
        received.map_err(|exceeded| exceeded.refusal())
    }

    /// Takes the share for what has arrived until now, to be kept while it is processed.
    pub(in crate::server) fn take_received(&self) -> QuotaShare {
        locked(&self.received).split_off()
    }

    /// Reserves space for an answer of this many bytes until it is sent.
    pub(in crate::server) fn make_room(&self, bytes: u64) -> Result<(), Status> {
        let room = locked(&self.answer).grow(bytes);
        room.map_err(|exceeded: QuotaExceeded| exceeded.refusal())
    }

    /// Records that this many bytes of answers were sent.
    pub(super) fn sent(&self, bytes: u64) {
        locked(&self.answer).shrink(bytes);
    }
}

/// An answer that may be large, made once there is quota for it.
pub(in crate::server) fn roomy<T: Message>(
    call: Option<&Arc<Call>>,
    message: T,
) -> Result<Response<T>, Status> {
    if let Some(call) = call {
        call.make_room(message.encoded_len() as u64)?;
    }
    Ok(Response::new(message))
}

/// Whether the client reads its answer, as seen by the task that can drop it.
#[derive(Debug)]
pub(super) struct Taking(Mutex<TakingState>);

#[derive(Debug)]
struct TakingState {
    pace: Pace,
    /// Since when data wait to be read; `None` if none wait.
    since: Option<Instant>,
}

impl Taking {
    pub(super) fn new(stall: Duration) -> Self {
        Self(Mutex::new(TakingState {
            pace: Pace::new(stall),
            since: None,
        }))
    }

    fn state(&self) -> MutexGuard<'_, TakingState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records that bytes were passed on.
    pub(super) fn handed(&self, bytes: u64) {
        let mut state = self.state();
        state.pace.moved(bytes);
        state.since = Some(Instant::now());
    }

    /// Records that the client reads.
    pub(super) fn taken(&self) {
        let mut state = self.state();
        if let Some(since) = state.since.take() {
            state.pace.waited(since.elapsed());
        }
    }

    /// Whether data have waited for too long.
    pub(super) fn is_overdue(&self) -> bool {
        let state = self.state();
        let waited = state.since.map(|since| since.elapsed());
        waited.is_some_and(|waited| state.pace.left() < waited)
    }
}
