//! What happens on one connection, for the task that may end it.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::call::Taking;
use crate::telemetry;

/// What every client of HTTP/2 sends first.
const PREFACE_BYTES: u64 = 24;
/// How soon a connection has to make its first call, if it may not be idle for longer.
const FIRST_CALL: Duration = Duration::from_secs(30);
/// How often a call is checked whose answer may not be read.
const LOOK: Duration = Duration::from_secs(1);

/// The state of one connection.
#[derive(Debug)]
pub(super) struct Activity {
    began: Instant,
    heard_bytes: AtomicU64,
    under_way: AtomicUsize,
    /// When the last call ended; `None` before the first.
    last_call: Mutex<Option<Instant>>,
}

/// Why a connection is ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outstayed {
    /// It did not say in time that it speaks HTTP/2.
    Handshake,
    /// No call was running for too long.
    Idle,
}

impl Activity {
    pub(super) fn new() -> Self {
        Self {
            began: Instant::now(),
            heard_bytes: AtomicU64::new(0),
            under_way: AtomicUsize::new(0),
            last_call: Mutex::new(None),
        }
    }

    /// Whether the connection has to end.
    pub(super) fn outstayed(&self, handshake: Duration, idle: Duration) -> Option<Outstayed> {
        if self.heard_bytes.load(Ordering::Relaxed) < PREFACE_BYTES {
            return (handshake < self.began.elapsed()).then_some(Outstayed::Handshake);
        }
        if !self.is_idle() {
            return None;
        }
        let last = *self
            .last_call
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let is_over = match last {
            Some(last) => idle < last.elapsed(),
            None => idle.min(FIRST_CALL) < self.began.elapsed(),
        };
        is_over.then_some(Outstayed::Idle)
    }

    /// Whether no call is running.
    pub(super) fn is_idle(&self) -> bool {
        self.under_way.load(Ordering::Acquire) == 0
    }

    fn begin(self: &Arc<Self>) -> UnderWay {
        self.under_way.fetch_add(1, Ordering::AcqRel);
        UnderWay(Arc::clone(self))
    }
}

/// A running call; ended when this is dropped.
struct UnderWay(Arc<Activity>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        let now = Some(Instant::now());
        *self
            .0
            .last_call
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = now;
        self.0.under_way.fetch_sub(1, Ordering::AcqRel);
    }
}

tokio::task_local! {
    /// Whether the call's answer is being read, for the code that makes its body.
    static TAKING: Arc<Taking>;
}

/// That of the call whose task this is.
pub(super) fn taking() -> Option<Arc<Taking>> {
    TAKING.try_with(Arc::clone).ok()
}

/// Runs each call of a connection as a task, and drops those whose answers are not read: they would be kept
/// for ever.
#[derive(Clone, Debug)]
pub(super) struct CallTasks {
    pub(super) activity: Arc<Activity>,
    pub(super) stall: Duration,
}

impl<F> hyper::rt::Executor<F> for CallTasks
where
    F: Future + Send + 'static,
    F::Output: Send,
{
    fn execute(&self, call: F) {
        let (under_way, taking) = (self.activity.begin(), Arc::new(Taking::new(self.stall)));
        let watched = Arc::clone(&taking);
        tokio::spawn(TAKING.scope(taking, async move {
            let _under_way = under_way;
            let mut call = Box::pin(call);
            loop {
                tokio::select! {
                    biased;
                    _done = &mut call => return,
                    () = tokio::time::sleep(LOOK) => if watched.is_overdue() {
                        telemetry::limit_refused("stall_seconds");
                        tracing::debug!("a call was given up: its answer was not taken within stall_seconds");
                        return;
                    }
                }
            }
        }));
    }
}

/// A connection whose bytes are counted as they come.
#[derive(Debug)]
pub(super) struct Heard<T> {
    pub(super) stream: T,
    pub(super) activity: Arc<Activity>,
}

impl<T: AsyncRead + Unpin> AsyncRead for Heard<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        let came = buffer.filled().len().saturating_sub(before);
        let came = u64::try_from(came).unwrap_or(u64::MAX);
        self.activity.heard_bytes.fetch_add(came, Ordering::Relaxed);
        read
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Heard<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
