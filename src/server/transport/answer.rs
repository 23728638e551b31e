//! The body of an answer, which is passed on in pieces, so that data that the client does not read can still be
//! counted and dropped.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use hyper::body::{Body, Bytes, Frame, SizeHint};
use tonic::Status;

use super::call::{Call, Taking};

/// The number of bytes passed to the transport at once, which is all that it buffers of each answer.
const PIECE_BYTES: usize = 64 << 10;

/// An answer on its way.
#[derive(Debug)]
pub(super) struct AnswerBody {
    inner: tonic::body::Body,
    /// Data that were produced and not passed on yet.
    rest: Bytes,
    call: Option<Arc<Call>>,
    taking: Option<Arc<Taking>>,
}

impl AnswerBody {
    pub(super) fn new(
        inner: tonic::body::Body,
        call: Option<Arc<Call>>,
        taking: Option<Arc<Taking>>,
    ) -> Self {
        Self {
            inner,
            rest: Bytes::new(),
            call,
            taking,
        }
    }

    fn next_piece(&mut self) -> Frame<Bytes> {
        let piece = self.rest.split_to(self.rest.len().min(PIECE_BYTES));
        let bytes = piece.len() as u64;
        if let Some(call) = &self.call {
            call.sent(bytes);
        }
        if let Some(taking) = &self.taking {
            taking.handed(bytes);
        }
        Frame::data(piece)
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        // The transport polls for more, so the data passed on before were sent.
        if let Some(taking) = &self.taking {
            taking.taken();
        }
        if !self.rest.is_empty() {
            return Poll::Ready(Some(Ok(self.next_piece())));
        }
        let Poll::Ready(next) = Pin::new(&mut self.inner).poll_frame(context) else {
            return Poll::Pending;
        };
        Poll::Ready(next.map(|frame| {
            frame.map(|frame| match frame.into_data() {
                Ok(data) => {
                    self.rest = data;
                    self.next_piece()
                }
                Err(trailers) => trailers,
            })
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    #[tokio::test]
    async fn an_answer_comes_whole_in_pieces() {
        let sent: Vec<u8> = (0..=255).cycle().take(200_000).collect();
        let inner = tonic::body::Body::new(http_body_util::Full::new(Bytes::from(sent.clone())));
        let mut body = AnswerBody::new(inner, None, None);
        let (mut came, mut pieces) = (Vec::new(), 0);
        while let Some(frame) = poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await {
            let data = frame.unwrap().into_data().unwrap();
            assert!(data.len() <= PIECE_BYTES);
            came.extend_from_slice(&data);
            pieces += 1;
        }
        assert!(came == sent && body.is_end_stream());
        assert_eq!(pieces, 4);
    }
}
