//! Bidirectional streams of independent items, with limited concurrency and answers as soon as they are ready.

use std::future::Future;
use std::sync::Arc;

use prost::Message;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Status, Streaming};
use tracing::Instrument;

use super::messages::convert::invalid;
use super::registry::{Registry, shutting_down};
use super::transport::{Call, QuotaShare};

/// The longest id of an item in bytes, because it is repeated in the answer.
const REQUEST_ID_BYTES_MAX: usize = 128;

/// Answers each item of `incoming` with the result of `handle`, in the order of completion.
///
/// At most `in_flight_max` items are in progress at once; beyond that, the transport makes the client wait.
/// Items that were received are answered even if the stream breaks after them or the server is told to stop. If
/// the client disconnects, work that has not started is dropped.
pub(super) fn answer_each<Q, A, F>(
    registry: &Registry,
    request: Request<Streaming<Q>>,
    in_flight_max: usize,
    handle: impl Fn(Q) -> F + Send + 'static,
) -> ReceiverStream<Result<A, Status>>
where
    Q: Send + 'static,
    A: Message + 'static,
    F: Future<Output = A> + Send + 'static,
{
    let (answers, outgoing) = mpsc::channel(in_flight_max);
    let (call, mut incoming) = (Call::of(&request), request.into_inner());
    let (under_way, registry) = (registry.enter(), registry.clone());
    let pump = async move {
        let _under_way = under_way;
        let mut items = JoinSet::new();
        let mut end = None;
        while end.is_none() || !items.is_empty() {
            tokio::select! {
                item = incoming.message(), if end.is_none() && items.len() < in_flight_max => match item {
                    Ok(Some(item)) => {
                        let received = call.as_ref().map(|call| call.take_received());
                        let work = within(received, call.clone(), handle(item));
                        drop(items.spawn(work.in_current_span()));
                    }
                    Ok(None) => end = Some(Ok(())),
                    Err(status) => end = Some(Err(status)),
                },
                Some(done) = items.join_next() => {
                    let answer = done.unwrap_or_else(|_panic| Err(Status::internal("internal error")));
                    let ends = answer.is_err();
                    if answers.send(answer).await.is_err() || ends {
                        return;
                    }
                },
                () = registry.draining(), if end.is_none() => end = Some(Err(shutting_down())),
                () = answers.closed() => return,
            }
        }
        if let Some(Err(status)) = end {
            // The client may have disconnected.
            drop(answers.send(Err(status)).await);
        }
    };
    tokio::spawn(pump.in_current_span());
    ReceiverStream::new(outgoing)
}

/// Works on one item of a stream. Its message counts against the quota until it is answered, and its answer
/// until it is sent.
async fn within<A: Message>(
    received: Option<QuotaShare>,
    call: Option<Arc<Call>>,
    work: impl Future<Output = A>,
) -> Result<A, Status> {
    let answer = work.await;
    drop(received);
    if let Some(call) = call {
        call.make_room(answer.encoded_len() as u64)?;
    }
    Ok(answer)
}

/// Answers all items of one call in their order, at most `in_flight_max` at once. If the call is abandoned,
/// work that has not started is dropped.
pub(super) async fn answer_all<Q, A, F>(
    items: Vec<Q>,
    in_flight_max: usize,
    handle: impl Fn(Q) -> F,
) -> Result<Vec<A>, Status>
where
    A: Send + 'static,
    F: Future<Output = A> + Send + 'static,
{
    let mut answers: Vec<(usize, A)> = Vec::with_capacity(items.len());
    let mut waiting = items.into_iter().enumerate();
    let mut under_way = JoinSet::new();
    loop {
        while under_way.len() < in_flight_max
            && let Some((place, item)) = waiting.next()
        {
            let work = handle(item);
            let work = async move { (place, work.await) };
            under_way.spawn(work.in_current_span());
        }
        let Some(done) = under_way.join_next().await else {
            break;
        };
        answers.push(done.map_err(|_panic| Status::internal("internal error"))?);
    }
    answers.sort_unstable_by_key(|(place, _)| *place);
    Ok(answers.into_iter().map(|(_, answer)| answer).collect())
}

/// Works on one item: checks its id, counts it as a call, and makes its error a message.
pub(super) async fn answer_one<T>(
    registry: &Registry,
    method: &'static str,
    id: &str,
    work: impl Future<Output = Result<T, Status>>,
) -> Result<T, tonic_types::Status> {
    let checked = async {
        check_request_id(id)?;
        work.await
    };
    registry
        .call(method, checked)
        .await
        .map_err(|status| as_message(&status))
}

/// Refuses an id that is too long to be echoed.
fn check_request_id(id: &str) -> Result<(), Status> {
    if id.len() > REQUEST_ID_BYTES_MAX {
        let length = id.len();
        return Err(invalid(&format!(
            "request_id has {length} bytes; it may have {REQUEST_ID_BYTES_MAX}"
        )));
    }
    Ok(())
}

/// A status as a message, for the answer to one item.
pub(super) fn as_message(status: &Status) -> tonic_types::Status {
    // Our own statuses carry their details encoded as this very message.
    tonic_types::Status::decode(status.details()).unwrap_or_else(|_| tonic_types::Status {
        code: status.code().into(),
        message: status.message().to_owned(),
        details: Vec::new(),
    })
}
