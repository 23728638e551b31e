//! The messages of a client, which has to keep sending because it occupies a place meanwhile.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio_stream::Stream;
use tonic::{Status, Streaming};

use super::pace::PacedWait;
use super::registry::Registry;
use super::transport::{Call, QuotaShare};

/// The messages, with an error if they arrive too slowly. The consumer works on a few at once, and polls for
/// the next one when it has a place for it.
pub(super) struct PacedMessages<Q> {
    incoming: Streaming<Q>,
    registry: Registry,
    call: Option<Arc<Call>>,
    /// Shares of the clients' common quota of bytes, for the messages in progress.
    held: VecDeque<QuotaShare>,
    in_flight_max: usize,
    wait: PacedWait,
}

impl<Q> PacedMessages<Q> {
    pub(super) fn new(
        incoming: Streaming<Q>,
        registry: &Registry,
        call: Option<Arc<Call>>,
        in_flight_max: usize,
    ) -> Self {
        Self {
            incoming,
            call,
            held: VecDeque::new(),
            in_flight_max,
            wait: PacedWait::new(registry.pace()),
            registry: registry.clone(),
        }
    }

    fn hold(&mut self) {
        self.held
            .extend(self.call.as_ref().map(|call| call.take_received()));
        if self.in_flight_max < self.held.len() {
            self.held.pop_front();
        }
    }
}

impl<Q: Unpin> Stream for PacedMessages<Q> {
    type Item = Result<Q, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if let Poll::Ready(next) = Pin::new(&mut self.incoming).poll_next(context) {
            self.wait.over().moved_one();
            self.hold();
            return Poll::Ready(next);
        }
        self.wait.poll_late(context).map(|()| {
            self.wait.idle();
            Some(Err(self.registry.stalled("the next query")))
        })
    }
}
