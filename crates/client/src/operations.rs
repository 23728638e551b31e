//! Work that outlives the call that started it: followed to its end, or cancelled.

use std::ops::ControlFlow;

use prost::Message;
use prost_types::{Any, Duration};
use tonic::{Code, Status};

use super::connection::{Client, ClientError, KeyedChannel, refused};
use super::proto::longrunning::operation::Result as Outcome;
use super::proto::longrunning::operations_client::OperationsClient;
use super::proto::longrunning::{CancelOperationRequest, Operation, WaitOperationRequest};

/// How long the server waits before it reports progress.
const STEP: Duration = Duration {
    seconds: 0,
    nanos: 200_000_000,
};

impl Client {
    /// Waits until an operation has ended, and returns its result. `step` gets its metadata meanwhile; if
    /// it breaks, the operation is cancelled.
    pub(super) async fn finished<M: Message + Default, R: Message + Default>(
        &self,
        mut operation: Operation,
        step: &mut dyn FnMut(M) -> ControlFlow<()>,
    ) -> Result<R, ClientError> {
        let mut operations: OperationsClient<KeyedChannel> = OperationsClient::new(self.channel());
        let mut asked_to_stop = false;
        while !operation.done {
            let name = operation.name.clone();
            let metadata = operation.metadata.as_ref().map(unpacked).transpose()?;
            if !asked_to_stop && step(metadata.unwrap_or_default()).is_break() {
                asked_to_stop = true;
                let stop = CancelOperationRequest { name: name.clone() };
                let asked = operations.cancel_operation(stop).await;
                asked.map_err(|status| refused(&status))?;
            }
            let timeout = Some(STEP);
            let waited = operations.wait_operation(WaitOperationRequest { name, timeout });
            operation = waited
                .await
                .map_err(|status| refused(&status))?
                .into_inner();
        }
        result(operation.result)
    }
}

/// The result of an operation that has ended.
pub(super) fn result<R: Message + Default>(ended: Option<Outcome>) -> Result<R, ClientError> {
    match ended {
        Some(Outcome::Response(response)) => unpacked(&response),
        Some(Outcome::Error(error)) => {
            let (code, details) = (Code::from(error.code), error.encode_to_vec());
            let status = Status::with_details(code, error.message, details.into());
            Err(refused(&status))
        }
        None => Err(refused(&Status::internal("the operation has no outcome"))),
    }
}

/// A message out of its envelope.
pub(super) fn unpacked<M: Message + Default>(any: &Any) -> Result<M, ClientError> {
    M::decode(any.value.as_slice()).map_err(|cause| {
        refused(&Status::internal(format!(
            "an answer is malformed: {cause}"
        )))
    })
}
