//! The deployments of the server, and its state: loading, ready or draining.

use std::collections::BTreeMap;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use tokio::sync::{Semaphore, watch};
use tonic::{Code, Status};

use super::access::denied::{deployment_denied, identity_of, no_longer_known, too_many_calls};
use super::pace::Pace;
use super::status::{classify, status};
use crate::deployment::{Deployment, DeploymentError, Folder, Models, OpenOptions, Opening};
use crate::identity::Identity;
use crate::telemetry;
use matchpoint_embed::caller::Caller;

/// The number of calibrations and recordings that are computed or read at the same time.
const HEAVY_MAX: usize = 2;
/// The time limit for opening a deployment, ten times what one with 100 million items needs.
const OPENING_MAX: Duration = Duration::from_secs(2 * 3600);
/// The number of pieces of files that are read or written at the same time.
const PIECES_MAX: usize = 4;
/// The number of pages of items that are made at the same time: many at once would take every core.
const PAGES_MAX: usize = 1;

/// The deployments by name. Clones share it.
#[derive(Clone, Debug)]
pub(super) struct Registry {
    phase: Arc<ArcSwap<Phase>>,
    /// Number of running calls and stream items.
    in_flight: Arc<watch::Sender<usize>>,
    /// Whether streams should end.
    stopping: Arc<watch::Sender<bool>>,
    /// The time limit of a call or stream item.
    longest: Duration,
    /// Limits long work that is done by no worker.
    heavy: Arc<Semaphore>,
    /// Limits short work on a disk.
    pieces: Arc<Semaphore>,
    /// Limits pages of items.
    pages: Arc<Semaphore>,
    /// The longest pause of a client.
    stall: Duration,
    /// The caller; deployments can only be found for a known caller.
    identity: Identity,
}

#[derive(Clone, Debug)]
enum Phase {
    Loading,
    Ready(Arc<ServedState>),
    Draining,
}

/// Everything that was loaded.
#[derive(Debug)]
pub struct ServedState {
    /// The deployments by name.
    pub deployments: BTreeMap<String, Arc<Deployment>>,
    /// The path by which each is opened, which may be a link.
    pub places: BTreeMap<String, PathBuf>,
    /// The deployment for requests that name none: the only one at the start, whatever is restored later.
    /// `None` if requests have to name theirs.
    pub default: Option<String>,
    /// The deployments that could not be opened and are not served.
    pub unopened: Vec<UnopenedDeployment>,
    /// Version of ONNX Runtime.
    pub runtime_version: String,
    /// The open models, for deployments that are added later; `None` if none may be added.
    pub models: Option<Arc<Mutex<Models>>>,
}

/// A deployment that could not be opened at the start.
#[derive(Clone, Debug)]
pub struct UnopenedDeployment {
    /// The name that it would be served under.
    pub name: String,
    /// The reason code of the error; the log has the message.
    pub reason: &'static str,
}

impl UnopenedDeployment {
    pub(super) fn of(name: Option<String>, place: &Path, error: &DeploymentError) -> Self {
        let recorded = || Some(Folder::open(place).ok()?.record().name.clone());
        let of_folder = || place.file_name()?.to_str().map(ToOwned::to_owned);
        let name = name.or_else(recorded).or_else(of_folder);
        let (_, reason) = classify(error);
        Self {
            name: name.unwrap_or_default(),
            reason,
        }
    }
}

impl ServedState {
    /// Whether this very deployment is served, and no other one in its place.
    pub(super) fn serves(&self, deployment: &Arc<Deployment>) -> bool {
        let served = self.deployments.get(deployment.name());
        served.is_some_and(|served| Arc::ptr_eq(served, deployment))
    }

    /// Opens a deployment. The models are free for others while its items are verified.
    pub(super) fn opened(
        &self,
        folder: &Path,
        options: OpenOptions,
    ) -> Result<Deployment, DeploymentError> {
        let opening = Opening::of(folder, &mut *self.models()?, options)?;
        opening.finish()
    }

    /// The open models.
    pub(super) fn models(&self) -> Result<MutexGuard<'_, Models>, DeploymentError> {
        let models = self.models.as_ref().ok_or(DeploymentError::Stopped)?;
        Ok(models.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A running call or stream item; it ends when this is dropped.
pub(super) struct InFlight(Arc<watch::Sender<usize>>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count = count.saturating_sub(1));
    }
}

impl Registry {
    pub(super) fn new(longest: Duration, stall: Duration) -> Self {
        Self {
            phase: Arc::new(ArcSwap::from_pointee(Phase::Loading)),
            in_flight: Arc::new(watch::Sender::new(0)),
            stopping: Arc::new(watch::Sender::new(false)),
            longest,
            heavy: Arc::new(Semaphore::new(HEAVY_MAX)),
            pieces: Arc::new(Semaphore::new(PIECES_MAX)),
            pages: Arc::new(Semaphore::new(PAGES_MAX)),
            stall,
            identity: Identity::Nobody,
        }
    }

    /// The same, for the caller of a request.
    pub(super) fn called_by<T>(&self, request: &tonic::Request<T>) -> Self {
        Self {
            identity: identity_of(request),
            ..self.clone()
        }
    }

    /// The caller.
    pub(super) fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Runs long work that reads or computes, outside the threads that answer. Only a few run at once, and the
    /// others wait.
    pub(super) async fn heavy<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Status> {
        off_the_threads(&self.heavy, work).await
    }

    /// Reads or writes a piece of a file, outside the threads that answer. The work must never wait for a
    /// client, because the client could then occupy the place.
    pub(super) async fn piece<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Status> {
        off_the_threads(&self.pieces, work).await
    }

    /// Makes a page of items, outside the threads that answer, so that many that are asked for at once delay no
    /// search.
    pub(super) async fn page<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Status> {
        off_the_threads(&self.pages, work).await
    }

    /// The pace for a client that sends in pieces.
    pub(super) fn pace(&self) -> Pace {
        Pace::new(self.stall)
    }

    /// The answer to a client that was too slow.
    pub(super) fn stalled(&self, what: &str) -> Status {
        telemetry::limit_refused("stall_seconds");
        let seconds = self.stall.as_secs();
        let message = format!(
            "{what} came too slowly: stall_seconds = {seconds} is the longest pause, and in all so long and a second for each 64 KiB or query; send faster, or have the operator raise stall_seconds"
        );
        status(Code::DeadlineExceeded, "STALL_SECONDS", &message)
    }

    /// The longest time that a call may take.
    pub(super) fn longest(&self) -> Duration {
        self.longest
    }

    pub(super) fn ready(&self, loaded: Arc<ServedState>) {
        self.phase.store(Arc::new(Phase::Ready(loaded)));
    }

    /// Adds a deployment to those that are served.
    pub(super) fn add(&self, deployment: Deployment, place: &Path) -> Result<(), Status> {
        let name = deployment.name().to_owned();
        self.serve(&name, &Arc::new(deployment), place, false)
    }

    /// Replaces the deployment with the same name.
    pub(super) fn replace(&self, deployment: &Arc<Deployment>, place: &Path) -> Result<(), Status> {
        let name = deployment.name().to_owned();
        self.serve(&name, deployment, place, true)
    }

    fn serve(
        &self,
        name: &str,
        deployment: &Arc<Deployment>,
        place: &Path,
        replaces: bool,
    ) -> Result<(), Status> {
        let mut added = false;
        self.phase.rcu(|phase| {
            added = false;
            let Phase::Ready(loaded) = &**phase else {
                return Arc::clone(phase);
            };
            let mut deployments = loaded.deployments.clone();
            let before = deployments.insert(name.to_owned(), Arc::clone(deployment));
            added = before.is_some() == replaces;
            if !added {
                return Arc::clone(phase);
            }
            let mut places = loaded.places.clone();
            places.insert(name.to_owned(), place.to_owned());
            Arc::new(Phase::Ready(Arc::new(ServedState {
                deployments,
                places,
                default: loaded.default.clone(),
                unopened: loaded.unopened.clone(),
                runtime_version: loaded.runtime_version.clone(),
                models: loaded.models.clone(),
            })))
        });
        if added { Ok(()) } else { Err(shutting_down()) }
    }

    /// The loaded state, as long as this registry exists and is ready. It does not keep the registry alive.
    pub(super) fn watch(&self) -> impl Fn() -> Option<Arc<ServedState>> + Send + 'static {
        let phase = Arc::downgrade(&self.phase);
        move || match &**phase.upgrade()?.load() {
            Phase::Ready(loaded) => Some(Arc::clone(loaded)),
            Phase::Loading | Phase::Draining => None,
        }
    }

    /// Whether streams should end.
    pub(super) fn is_stopping(&self) -> bool {
        *self.stopping.borrow()
    }

    /// Makes streams accept nothing more.
    pub(super) fn stop_streams(&self) {
        self.stopping.send_replace(true);
    }

    /// Waits until streams are told to end.
    pub(super) async fn draining(&self) {
        // The sender lives as long as this registry, so this cannot fail.
        drop(
            self.stopping
                .subscribe()
                .wait_for(|stopping| *stopping)
                .await,
        );
    }

    /// Waits until the deployments that are served now are closed; see [`Deployment::closed`].
    pub(super) fn closed(&self) -> impl Future<Output = ()> + use<> {
        let loaded = self.loaded().ok();
        let served = loaded.iter().flat_map(|loaded| loaded.deployments.values());
        let closed: Vec<_> = served.map(|one| one.closed()).collect();
        async move {
            for one in closed {
                one.await;
            }
        }
    }

    pub(super) fn drain(&self) {
        self.phase.store(Arc::new(Phase::Draining));
    }

    /// Waits until no call is running.
    pub(super) async fn idle(&self) {
        // The sender lives as long as this registry, so this cannot fail.
        drop(
            self.in_flight
                .subscribe()
                .wait_for(|count| *count == 0)
                .await,
        );
    }

    pub(super) fn enter(&self) -> InFlight {
        self.in_flight.send_modify(|count| *count += 1);
        InFlight(Arc::clone(&self.in_flight))
    }

    pub(super) fn loaded(&self) -> Result<Arc<ServedState>, Status> {
        match &**self.phase.load() {
            Phase::Ready(loaded) => Ok(Arc::clone(loaded)),
            Phase::Loading => Err(status(
                Code::Unavailable,
                "MODEL_LOADING",
                "the server is loading its models and galleries; try again in a moment",
            )),
            Phase::Draining => Err(shutting_down()),
        }
    }

    /// Checks that the caller's key was not revoked and has not expired meanwhile, because a stream may last
    /// longer than its key.
    pub(super) fn check_identity(&self) -> Result<(), Status> {
        if self.identity.is_revoked() {
            return Err(no_longer_known(&self.identity));
        }
        Ok(())
    }

    /// The deployment with this name, for a caller who may use it; an empty name means the default. It is
    /// called once for each call and each stream item, and counts them for keys with a rate limit.
    pub(super) fn find(&self, name: &str) -> Result<Arc<Deployment>, Status> {
        let loaded = self.loaded()?;
        self.check_identity()?;
        self.identity.count_call().map_err(too_many_calls)?;
        let name = match (name, loaded.default.as_deref()) {
            ("", Some(default)) => default,
            _ => name,
        };
        if !name.is_empty() && !self.identity.may_use(name) {
            return Err(deployment_denied());
        }
        loaded.deployments.get(name).cloned().ok_or_else(|| {
            let names = loaded.deployments.keys().map(String::as_str);
            let names: Vec<&str> = names.filter(|name| self.identity.may_use(name)).collect();
            let names = names.join(", ");
            let message = if name.is_empty() {
                format!("deployment is required: this server has several ({names})")
            } else {
                format!("there is no deployment `{name}`; this server has: {names}")
            };
            status(Code::NotFound, "DEPLOYMENT_NOT_FOUND", &message)
        })
    }

    /// The caller of a call that starts now, with a deadline no later than the call's time limit. Otherwise
    /// work could continue after the answer was abandoned.
    pub(super) fn waiting(&self, caller: Caller) -> Caller {
        caller.within(self.longest)
    }

    /// Runs a call within its time limit, counts it as running, and records how it ended.
    pub(super) async fn call<T>(
        &self,
        method: &'static str,
        work: impl Future<Output = Result<T, Status>>,
    ) -> Result<T, Status> {
        self.call_within(self.longest, method, work).await
    }

    /// Like [`Registry::call`], for a call with the work of several.
    pub(super) async fn call_of<T>(
        &self,
        calls: u32,
        method: &'static str,
        work: impl Future<Output = Result<T, Status>>,
    ) -> Result<T, Status> {
        let longest = self.longest.saturating_mul(calls.max(1));
        self.call_within(longest, method, work).await
    }

    /// Like [`Registry::call`], for a call that opens a deployment, whose time depends on the number of items.
    pub(super) async fn call_that_opens<T>(
        &self,
        method: &'static str,
        work: impl Future<Output = Result<T, Status>>,
    ) -> Result<T, Status> {
        self.call_within(OPENING_MAX, method, work).await
    }

    async fn call_within<T>(
        &self,
        longest: Duration,
        method: &'static str,
        work: impl Future<Output = Result<T, Status>>,
    ) -> Result<T, Status> {
        let _under_way = self.enter();
        let started = Instant::now();
        let record = CallRecord {
            method,
            started,
            code: "CANCELLED",
        };
        let result = tokio::time::timeout(longest, work)
            .await
            .unwrap_or_else(|_elapsed| {
                let seconds = longest.as_secs_f64();
                let message = format!(
                    "no answer within {seconds} s, the longest that this server works on a request"
                );
                Err(status(Code::DeadlineExceeded, "REQUEST_TIMEOUT", &message))
            });
        record.finish(result.as_ref().map_or_else(Status::code, |_| Code::Ok));
        result
    }
}

/// Runs work in a separate thread when there is a place for it.
async fn off_the_threads<T: Send + 'static>(
    places: &Arc<Semaphore>,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Status> {
    let gone = |_| Status::internal("internal error");
    let place = Arc::clone(places).acquire_owned().await.map_err(gone)?;
    #[expect(
        clippy::disallowed_methods,
        reason = "bounded by the semaphore; a worker of the pool would owe its time to images"
    )]
    let running = tokio::task::spawn_blocking(move || {
        let _place = place;
        work()
    });
    running
        .await
        .map_err(|_panic| Status::internal("internal error"))
}

/// Records a call when it ends, even if the client disconnected before.
struct CallRecord {
    method: &'static str,
    started: Instant,
    code: &'static str,
}

impl CallRecord {
    fn finish(mut self, code: Code) {
        self.code = code_name(code);
    }
}

impl Drop for CallRecord {
    fn drop(&mut self) {
        let took = self.started.elapsed();
        let code = self.code;
        telemetry::request_finished(self.method, code, took);
        tracing::debug!(
            method = self.method,
            code,
            seconds = took.as_secs_f64(),
            "answered"
        );
    }
}

/// The answer to a call that arrives during shutdown.
pub(super) fn shutting_down() -> Status {
    status(
        Code::Unavailable,
        "SHUTTING_DOWN",
        "the server is shutting down",
    )
}

pub(super) fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_without_a_deadline_has_the_servers() {
        let registry = Registry::new(Duration::from_secs(30), Duration::from_secs(20));
        let theirs = registry.waiting(Caller::default()).deadline;
        let left = theirs.unwrap().saturating_duration_since(Instant::now());
        assert!(Duration::from_secs(29) < left && left <= Duration::from_secs(30));

        let sooner = Instant::now() + Duration::from_secs(1);
        let caller = Caller {
            deadline: Some(sooner),
            ..Caller::default()
        };
        assert_eq!(registry.waiting(caller).deadline, Some(sooner));
    }

    #[tokio::test]
    async fn a_call_that_takes_too_long_is_answered_and_given_up() {
        let registry = Registry::new(Duration::from_millis(20), Duration::from_secs(20));
        let work = std::future::pending::<Result<(), Status>>();
        let status = registry.call("Search", work).await.unwrap_err();
        assert_eq!(status.code(), Code::DeadlineExceeded);
        assert!(status.message().contains("0.02 s"), "{status}");
        let work = std::future::pending::<Result<(), Status>>();
        let status = registry.call_of(3, "ReplayCanaries", work).await;
        assert!(status.unwrap_err().message().contains("0.06 s"));
        registry.idle().await;
    }
}
