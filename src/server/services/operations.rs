//! `google.longrunning.Operations`: work that continues after the call that started it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prost_types::Any;
use tokio::sync::watch;
use tonic::{Code, Request, Response, Status};

use crate::identity::{Identity, Scope};
use crate::server::access::changes::changed;
use crate::server::messages::convert::invalid;
use crate::server::registry::Registry;
use crate::server::status::status;
use crate::server::stream::as_message;
use matchpoint_client::proto::longrunning::operation::Result as Ended;
use matchpoint_client::proto::longrunning::operations_server::Operations;
use matchpoint_client::proto::longrunning::{
    CancelOperationRequest, DeleteOperationRequest, GetOperationRequest, ListOperationsRequest,
    ListOperationsResponse, Operation, WaitOperationRequest,
};

/// The number of operations that are kept. The oldest finished one is dropped for a new one.
const OPERATIONS_MAX: usize = 100;
/// The number of operations that run at once, because each keeps its results in memory.
const RUNNING_MAX: usize = 4;
const PREFIX: &str = "operations/";
const ID_BYTES_MAX: usize = 64;

/// The operations of this process, by name. They end with the process. Clones share them.
#[derive(Clone, Debug)]
pub(in crate::server) struct Running {
    registry: Registry,
    entries: Arc<Mutex<BTreeMap<String, OperationEntry>>>,
}

#[derive(Debug)]
struct OperationEntry {
    /// The number of operations that were started before it.
    number: u64,
    owner: OperationOwner,
    state: watch::Sender<Operation>,
    cancelled: watch::Sender<bool>,
}

/// The callers who may see an operation: those with this scope in this deployment.
#[derive(Clone, Debug)]
pub(in crate::server) struct OperationOwner {
    pub(in crate::server) scope: Scope,
    pub(in crate::server) deployment: String,
}

impl OperationOwner {
    fn is(&self, identity: &Identity) -> bool {
        identity.may(self.scope) && identity.may_use(&self.deployment)
    }
}

/// The side of the operation that does the work. If it is dropped before it is finished, the operation ends as
/// CANCELLED.
#[derive(Debug)]
pub(in crate::server) struct Handle {
    state: watch::Sender<Operation>,
    cancelled: watch::Receiver<bool>,
}

impl Running {
    pub(in crate::server) fn new(registry: Registry) -> Self {
        Self {
            registry,
            entries: Arc::default(),
        }
    }

    /// The same, for the caller of a request.
    pub(in crate::server) fn called_by<T>(&self, request: &Request<T>) -> Self {
        Self {
            registry: self.registry.called_by(request),
            ..self.clone()
        }
    }

    /// Starts an operation under `operations/ID`, with a new id if `id` is empty.
    pub(in crate::server) fn begin(
        &self,
        id: &str,
        owner: OperationOwner,
        metadata: Any,
    ) -> Result<Handle, Status> {
        let id = match id {
            "" => uuid::Uuid::now_v7().to_string(),
            id => checked(id)?.to_owned(),
        };
        let name = format!("{PREFIX}{id}");
        let mut entries = self.entries();
        if entries.contains_key(&name) {
            let message = format!("there is an operation `{name}` already; choose another id");
            return Err(status(Code::AlreadyExists, "OPERATION_EXISTS", &message));
        }
        make_room(&mut entries)?;
        let number = entries.values().map(|entry| entry.number + 1).max();
        let operation = Operation {
            name: name.clone(),
            metadata: Some(metadata),
            done: false,
            result: None,
        };
        let (state, cancelled) = (watch::Sender::new(operation), watch::Sender::new(false));
        let handle = Handle {
            state: state.clone(),
            cancelled: cancelled.subscribe(),
        };
        let entry = OperationEntry {
            number: number.unwrap_or(0),
            owner,
            state,
            cancelled,
        };
        entries.insert(name, entry);
        Ok(handle)
    }

    fn entries(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, OperationEntry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn find<T>(&self, name: &str, take: impl FnOnce(&OperationEntry) -> T) -> Result<T, Status> {
        let (entries, identity) = (self.entries(), self.registry.identity());
        // Operations of others are not revealed.
        let entry = entries.get(name).filter(|entry| entry.owner.is(identity));
        entry.map(take).ok_or_else(|| {
            let message = format!(
                "there is no operation `{name}`; operations end with the server, and the oldest are forgotten"
            );
            status(Code::NotFound, "OPERATION_NOT_FOUND", &message)
        })
    }

    fn list(&self, limit: i32) -> Result<ListOperationsResponse, Status> {
        let limit = usize::try_from(limit)
            .map_err(|_negative| invalid(&format!("page_size is {limit}; it must be 0 or more")))?;
        let entries = self.entries();
        let identity = self.registry.identity();
        let own = entries.values().filter(|entry| entry.owner.is(identity));
        let mut newest_first: Vec<&OperationEntry> = own.collect();
        newest_first.sort_by_key(|entry| std::cmp::Reverse(entry.number));
        let limit = if limit == 0 { OPERATIONS_MAX } else { limit };
        Ok(ListOperationsResponse {
            operations: newest_first
                .into_iter()
                .take(limit)
                .map(|entry| entry.state.borrow().clone())
                .collect(),
            ..ListOperationsResponse::default()
        })
    }

    fn delete(&self, name: &str) -> Result<(), Status> {
        if !self.find(name, |entry| entry.state.borrow().done)? {
            let message = format!("`{name}` has not ended; cancel it first");
            return Err(status(
                Code::FailedPrecondition,
                "OPERATION_RUNNING",
                &message,
            ));
        }
        self.entries().remove(name);
        Ok(())
    }

    async fn wait(&self, request: WaitOperationRequest) -> Result<Operation, Status> {
        let mut state = self.find(&request.name, |entry| entry.state.subscribe())?;
        let longest = match request.timeout {
            Some(timeout) => Duration::try_from(timeout)
                .map_err(|_negative| invalid("timeout must be 0 s or more"))?,
            None => Duration::MAX,
        };
        // Ends before the server aborts the call, so that the answer is the state and not an error.
        let longest = longest.min(self.registry.longest().mul_f32(0.9));
        let ended = state.wait_for(|operation| operation.done);
        // If the time is up or the sender is gone, the answer is the state in both cases.
        drop(tokio::time::timeout(longest, ended).await);
        let operation = state.borrow().clone();
        Ok(operation)
    }
}

impl Handle {
    /// The current state of the operation.
    pub(in crate::server) fn operation(&self) -> Operation {
        self.state.borrow().clone()
    }

    /// Reports the progress.
    pub(in crate::server) fn progress(&self, metadata: Any) {
        self.state
            .send_modify(|operation| operation.metadata = Some(metadata));
    }

    /// Waits until somebody cancels the work.
    pub(in crate::server) async fn cancelled(&self) {
        let mut cancelled = self.cancelled.clone();
        if cancelled.wait_for(|stop| *stop).await.is_err() {
            // The operation was removed while running, so nobody can cancel it any more.
            std::future::pending::<()>().await;
        }
    }

    /// Whether somebody cancelled the work.
    pub(in crate::server) fn is_cancelled(&self) -> bool {
        *self.cancelled.borrow()
    }

    /// Finishes the operation; returns its last state.
    pub(in crate::server) fn finish(self, result: Result<Any, Status>) -> Operation {
        self.end(result);
        self.operation()
    }

    fn end(&self, result: Result<Any, Status>) {
        self.state.send_modify(|operation| {
            operation.done = true;
            operation.result = Some(match result {
                Ok(response) => Ended::Response(response),
                Err(status) => Ended::Error(as_message(&status)),
            });
        });
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        if !self.state.borrow().done {
            self.end(Err(cancelled()));
        }
    }
}

/// The result of an operation that was cancelled.
pub(in crate::server) fn cancelled() -> Status {
    let message =
        "the operation was cancelled, or its client went away; what decides was not changed";
    status(Code::Cancelled, "OPERATION_CANCELLED", message)
}

fn checked(id: &str) -> Result<&str, Status> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if ID_BYTES_MAX < id.len() || !id.chars().all(allowed) {
        return Err(invalid(
            "operation_id must be 1 to 64 letters, digits, `-`, `_` or `.`",
        ));
    }
    Ok(id)
}

fn make_room(entries: &mut BTreeMap<String, OperationEntry>) -> Result<(), Status> {
    let ended = |entry: &&OperationEntry| entry.state.borrow().done;
    let running = entries.len() - entries.values().filter(ended).count();
    if RUNNING_MAX <= running {
        let message = format!("{running} operations are running; wait for one, or cancel it");
        return Err(status(
            Code::ResourceExhausted,
            "TOO_MANY_OPERATIONS",
            &message,
        ));
    }
    if OPERATIONS_MAX <= entries.len() {
        let ended = entries.iter().filter(|(_, entry)| ended(entry));
        let oldest = ended.min_by_key(|(_, entry)| entry.number);
        if let Some(name) = oldest.map(|(name, _)| name.clone()) {
            entries.remove(&name);
        }
    }
    Ok(())
}

#[tonic::async_trait]
impl Operations for Running {
    async fn list_operations(
        &self,
        request: Request<ListOperationsRequest>,
    ) -> Result<Response<ListOperationsResponse>, Status> {
        let service = self.called_by(&request);
        let work = async { service.list(request.get_ref().page_size) };
        let listed = self.registry.call("ListOperations", work).await;
        listed.map(Response::new)
    }

    async fn get_operation(
        &self,
        request: Request<GetOperationRequest>,
    ) -> Result<Response<Operation>, Status> {
        let name = &request.get_ref().name;
        let service = self.called_by(&request);
        let work = async { service.find(name, |entry| entry.state.borrow().clone()) };
        let found = self.registry.call("GetOperation", work).await;
        found.map(Response::new)
    }

    async fn delete_operation(
        &self,
        request: Request<DeleteOperationRequest>,
    ) -> Result<Response<()>, Status> {
        let service = self.called_by(&request);
        let work = async { service.delete(&request.get_ref().name) };
        let deleted = self.registry.call("DeleteOperation", work).await;
        deleted.map(Response::new)
    }

    async fn cancel_operation(
        &self,
        request: Request<CancelOperationRequest>,
    ) -> Result<Response<()>, Status> {
        let name = &request.get_ref().name;
        let cancel = |entry: &OperationEntry| {
            entry.cancelled.send_replace(true);
        };
        let service = self.called_by(&request);
        let work = async {
            service.find(name, cancel)?;
            changed(service.registry.identity(), "CancelOperation", "", name);
            Ok(())
        };
        let asked = self.registry.call("CancelOperation", work).await;
        asked.map(Response::new)
    }

    async fn wait_operation(
        &self,
        request: Request<WaitOperationRequest>,
    ) -> Result<Response<Operation>, Status> {
        let service = self.called_by(&request);
        let work = service.wait(request.into_inner());
        let waited = self.registry.call("WaitOperation", work).await;
        waited.map(Response::new)
    }
}
