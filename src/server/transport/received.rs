//! The body of a request as it arrives. Each message must be within the quota of bytes, and must arrive in
//! time.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};
use tonic::{Code, Status};

use super::call::Call;
use super::inflated::{Inflated, PREFIX_BYTES, message_length};
use crate::server::messages::convert::invalid;
use crate::server::pace::{Pace, PacedWait};
use crate::server::status::status;
use crate::telemetry;

/// The limits for the messages of one request.
#[derive(Clone, Copy, Debug)]
pub(super) struct MessageRules {
    /// Longer messages are refused by the decoder.
    pub(super) bytes_max: usize,
    pub(super) stall: Duration,
    /// Whether several messages may come, with any time between them.
    pub(super) streamed: bool,
    /// Whether they may be compressed.
    pub(super) gzip: bool,
}

/// A body that charges its messages to its call.
#[derive(Debug)]
pub(super) struct ReceivedBody {
    inner: Incoming,
    call: Arc<Call>,
    rules: MessageRules,
    framing: Framing,
    inflated: Option<Inflated>,
    wait: PacedWait,
}

impl ReceivedBody {
    pub(super) fn new(inner: Incoming, call: Arc<Call>, rules: MessageRules) -> Self {
        Self {
            inner,
            call,
            rules,
            framing: Framing::default(),
            inflated: rules.gzip.then(Inflated::default),
            wait: PacedWait::new(Pace::new(rules.stall)),
        }
    }

    /// Charges the messages that start in these bytes, and keeps an incomplete one.
    fn take(&mut self, data: Bytes) -> Result<Bytes, Status> {
        self.wait.over().moved(data.len() as u64);
        let (call, bytes_max) = (&self.call, self.rules.bytes_max);
        self.framing.read(&data, |length| {
            if bytes_max < length {
                return Ok(());
            }
            call.receive((PREFIX_BYTES + length) as u64)
        })?;
        match &mut self.inflated {
            Some(inflated) => inflated.read(&data, bytes_max, |bytes| call.receive(bytes)),
            None => Ok(data),
        }
    }

    /// Whether the client has to send more: the rest of a message, or the only message.
    fn is_owed(&self) -> bool {
        self.framing.is_within() || !self.rules.streamed && self.framing.messages == 0
    }

    fn wait(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if !self.is_owed() {
            self.wait.idle();
            return Poll::Pending;
        }
        self.wait.poll_late(context).map(|()| {
            telemetry::limit_refused("stall_seconds");
            let seconds = self.rules.stall.as_secs();
            let message = format!(
                "the message came too slowly: stall_seconds = {seconds} is the longest pause, and in all so long and a second for each 64 KiB; send it faster, or have the operator raise stall_seconds"
            );
            let late = status(Code::DeadlineExceeded, "STALL_SECONDS", &message);
            Some(Err(late))
        })
    }
}

impl Body for ReceivedBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let Poll::Ready(next) = Pin::new(&mut self.inner).poll_frame(context) else {
            return self.wait(context);
        };
        self.wait.over();
        if next.is_none() && self.framing.is_within() {
            // Inflating keeps back an incomplete message, so it would not be noticed otherwise.
            let cut = invalid("the request ended within a message; send the whole of it");
            return Poll::Ready(Some(Err(cut)));
        }
        let next = next.map(|frame| {
            let frame = frame.map_err(|error| Status::from_error(Box::new(error)))?;
            match frame.into_data() {
                Ok(data) => self.take(data).map(Frame::data),
                Err(trailers) => Ok(trailers),
            }
        });
        Poll::Ready(next)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        match self.inflated {
            Some(_) => SizeHint::default(),
            None => self.inner.size_hint(),
        }
    }
}

/// The position of a body within its messages.
#[derive(Debug, Default)]
struct Framing {
    /// The part of a prefix that has arrived.
    prefix: Vec<u8>,
    /// Number of bytes of the current message that are still missing.
    left: usize,
    /// Number of complete messages.
    messages: u64,
}

impl Framing {
    fn is_within(&self) -> bool {
        0 < self.left || !self.prefix.is_empty()
    }

    /// Reads further bytes, and calls back with the length of each message that starts.
    fn read<E>(
        &mut self,
        mut data: &[u8],
        mut begins: impl FnMut(usize) -> Result<(), E>,
    ) -> Result<(), E> {
        while !data.is_empty() {
            if 0 < self.left {
                let came = self.left.min(data.len());
                data = data.get(came..).unwrap_or_default();
                self.left -= came;
                self.messages += u64::from(self.left == 0);
                continue;
            }
            let wanted = (PREFIX_BYTES - self.prefix.len()).min(data.len());
            let (came, rest) = data.split_at(wanted);
            self.prefix.extend_from_slice(came);
            data = rest;
            if let Some(prefix) = self.prefix.first_chunk() {
                let length = message_length(prefix);
                self.prefix.clear();
                self.left = length;
                self.messages += u64::from(length == 0);
                begins(length)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_told_apart_however_they_are_cut() {
        let mut body = Vec::new();
        for length in [0_u32, 3, 0, 700, 1] {
            body.push(0);
            body.extend_from_slice(&length.to_be_bytes());
            body.resize(body.len() + length as usize, 7);
        }
        for step in [1, 2, 3, 5, 6, 100, 10_000] {
            let (mut framing, mut begun) = (Framing::default(), Vec::new());
            for piece in body.chunks(step) {
                framing
                    .read(piece, |length| {
                        begun.push(length);
                        Ok::<(), ()>(())
                    })
                    .unwrap();
            }
            assert_eq!(begun, [0, 3, 0, 700, 1]);
            assert_eq!((framing.messages, framing.is_within()), (5, false));
        }
        let mut cut = Framing::default();
        cut.read(&body[..10], |_| Ok::<(), ()>(())).unwrap();
        assert!(cut.is_within());
    }
}
