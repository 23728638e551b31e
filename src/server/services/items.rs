//! `GalleryService`: enrol, replace, relabel, remove; `item_pages` has what it shows.

use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::deployment::{EnrolledItem, NewItem, NewLabel, Query};
use crate::server::access::changes::changed;
use crate::server::messages::convert;
use crate::server::messages::drift;
use crate::server::registry::Registry;
use crate::server::request_id::{caller_of, caller_of_items};
use crate::server::status::from_error;
use crate::server::stream::{answer_all, answer_each, answer_one, as_message};
use crate::server::transport::{Call, roomy};
use matchpoint_client::proto::gallery_service_server::GalleryService;
use matchpoint_client::proto::{
    AcceptedItem, BatchDeleteItemsRequest, BatchDeleteItemsResponse, BatchUpsertItemsRequest,
    BatchUpsertItemsResponse, CheckItemsRequest, CheckItemsResponse, DeleteItemRequest,
    DeleteItemResponse, DeleteItemStreamRequest, DeleteItemStreamResponse, DeleteOutcome,
    GetItemRequest, GetItemResponse, ListItemsRequest, ListItemsResponse, ListLabelsRequest,
    ListLabelsResponse, RelabelItemRequest, RelabelItemResponse, UpsertItemRequest,
    UpsertItemResponse, UpsertItemStreamRequest, UpsertItemStreamResponse, UpsertOutcome,
    delete_item_stream_response, delete_outcome, upsert_item_request, upsert_item_stream_response,
    upsert_outcome,
};
use matchpoint_embed::caller::Caller;
use matchpoint_gallery::Upserted;

#[derive(Clone, Debug)]
pub(in crate::server) struct ItemHandler {
    pub(in crate::server) registry: Registry,
    pub(in crate::server) stream_in_flight_max: usize,
}

impl ItemHandler {
    /// The same, for the caller of a request.
    fn called_by<T>(&self, request: &Request<T>) -> Self {
        Self {
            registry: self.registry.called_by(request),
            ..self.clone()
        }
    }

    async fn upsert(
        &self,
        caller: Caller,
        request: UpsertItemRequest,
    ) -> Result<UpsertItemResponse, Status> {
        let deployment = self.registry.find(&request.deployment)?;
        let source = match request.source {
            Some(upsert_item_request::Source::Image(bytes)) => Query::Image(bytes),
            Some(upsert_item_request::Source::Embedding(vector)) => Query::Embedding(vector.values),
            None => {
                return Err(convert::invalid(
                    "source is required: set image or embedding",
                ));
            }
        };
        let metadata = request.metadata.into_iter().collect();
        let item = NewItem {
            id: request.id,
            label: request.label,
            metadata,
        };
        let enrolled = deployment
            .upsert(caller, item, source)
            .await
            .map_err(|error| from_error(&error))?;
        Ok(UpsertItemResponse {
            replaced: enrolled.outcome == Upserted::Replaced,
            generation: enrolled.generation,
            accepted_as: accepted_as(&enrolled),
            accepted_as_count: accepted_as_count(&enrolled),
        })
    }

    async fn relabel(
        &self,
        caller: Caller,
        request: RelabelItemRequest,
    ) -> Result<RelabelItemResponse, Status> {
        let deployment = self.registry.find(&request.deployment)?;
        let new = NewLabel {
            id: request.id.clone(),
            label: request.label,
            etag: Some(request.etag).filter(|etag| !etag.is_empty()),
        };
        let relabelled = deployment.relabel(caller, new).await;
        let relabelled = relabelled.map_err(|error| from_error(&error))?;
        let identity = self.registry.identity();
        changed(identity, "RelabelItem", deployment.name(), &request.id);
        Ok(RelabelItemResponse {
            generation: relabelled.generation,
            accepted_as: accepted_as(&relabelled),
            accepted_as_count: accepted_as_count(&relabelled),
        })
    }

    async fn delete(&self, request: DeleteItemRequest) -> Result<DeleteItemResponse, Status> {
        let deployment = self.registry.find(&request.deployment)?;
        let deleted = deployment.delete(request.id.clone()).await;
        let generation = deleted.map_err(|error| from_error(&error))?;
        let identity = self.registry.identity();
        changed(identity, "DeleteItem", deployment.name(), &request.id);
        Ok(DeleteItemResponse { generation })
    }

    async fn upsert_all(
        &self,
        caller: Caller,
        request: BatchUpsertItemsRequest,
    ) -> Result<BatchUpsertItemsResponse, Status> {
        use upsert_outcome::Outcome;
        check_batch(request.items.len())?;
        let deployment = request.deployment;
        let named =
            |item: &UpsertItemRequest| item.deployment.is_empty() || item.deployment == deployment;
        if let Some(at) = request.items.iter().position(|item| !named(item)) {
            let problem =
                format!("items[{at}].deployment is not that of the batch; leave it empty");
            return Err(convert::invalid(&problem));
        }
        let service = self.clone();
        let work = move |mut item: UpsertItemRequest| {
            let service = service.clone();
            item.deployment.clone_from(&deployment);
            async move {
                let outcome = match service.upsert(caller, item).await {
                    Ok(result) => Outcome::Result(result),
                    Err(status) => Outcome::Error(as_message(&status)),
                };
                UpsertOutcome {
                    outcome: Some(outcome),
                }
            }
        };
        let outcomes = answer_all(request.items, self.stream_in_flight_max, work).await?;
        Ok(BatchUpsertItemsResponse { outcomes })
    }

    async fn delete_all(
        &self,
        request: BatchDeleteItemsRequest,
    ) -> Result<BatchDeleteItemsResponse, Status> {
        use delete_outcome::Outcome;
        check_batch(request.ids.len())?;
        let service = self.clone();
        let work = move |id: String| {
            let (service, deployment) = (service.clone(), request.deployment.clone());
            async move {
                let outcome = match service.delete(DeleteItemRequest { deployment, id }).await {
                    Ok(result) => Outcome::Result(result),
                    Err(status) => Outcome::Error(as_message(&status)),
                };
                DeleteOutcome {
                    outcome: Some(outcome),
                }
            }
        };
        let outcomes = answer_all(request.ids, self.stream_in_flight_max, work).await?;
        Ok(BatchDeleteItemsResponse { outcomes })
    }

    /// Answers one message of a stream with the result of `work` on its item.
    async fn streamed<I, T, F>(
        &self,
        method: &'static str,
        id: &str,
        item: Option<I>,
        work: impl FnOnce(I) -> F,
    ) -> Result<T, tonic_types::Status>
    where
        F: Future<Output = Result<T, Status>>,
    {
        let work = async {
            let item = item.ok_or_else(|| convert::invalid("item is required"));
            work(item?).await
        };
        answer_one(&self.registry, method, id, work).await
    }
}

/// The highest number of items that an answer names as accepted.
const ACCEPTED_AS_MAX: usize = 5;

/// The highest number of items in one call; more would exceed the time limit.
const BATCH_MAX: usize = 1000;

/// The nearest items that one is accepted as.
fn accepted_as(enrolled: &EnrolledItem) -> Vec<AcceptedItem> {
    let others = enrolled.accepted_as.as_deref().unwrap_or_default();
    let named = others.iter().take(ACCEPTED_AS_MAX);
    named.map(drift::other_item).collect()
}

/// The number of items that one is accepted as, if it was looked for them.
fn accepted_as_count(enrolled: &EnrolledItem) -> Option<u32> {
    let others = enrolled.accepted_as.as_deref();
    others.map(|others| u32::try_from(others.len()).unwrap_or(u32::MAX))
}

fn check_batch(found: usize) -> Result<(), Status> {
    if (1..=BATCH_MAX).contains(&found) {
        return Ok(());
    }
    Err(convert::invalid(&format!(
        "the batch has {found} items; it must have 1 to {BATCH_MAX}"
    )))
}

#[tonic::async_trait]
impl GalleryService for ItemHandler {
    async fn upsert_item(
        &self,
        request: Request<UpsertItemRequest>,
    ) -> Result<Response<UpsertItemResponse>, Status> {
        let caller = self.registry.waiting(caller_of(&request));
        let service = self.called_by(&request);
        let work = service.upsert(caller, request.into_inner());
        self.registry
            .call("UpsertItem", work)
            .await
            .map(Response::new)
    }

    type UpsertItemStreamStream = ReceiverStream<Result<UpsertItemStreamResponse, Status>>;

    async fn upsert_item_stream(
        &self,
        request: Request<Streaming<UpsertItemStreamRequest>>,
    ) -> Result<Response<Self::UpsertItemStreamStream>, Status> {
        use upsert_item_stream_response::Outcome;
        let service = self.called_by(&request);
        let caller = caller_of_items(&request);
        let handle = move |message: UpsertItemStreamRequest| {
            let service = service.clone();
            async move {
                let (id, item) = (message.request_id, message.item);
                let caller = service.registry.waiting(caller);
                let upsert = |item| service.upsert(caller, item);
                let answer = service.streamed("UpsertItemStream", &id, item, upsert);
                let outcome = match answer.await {
                    Ok(result) => Outcome::Result(result),
                    Err(error) => Outcome::Error(error),
                };
                UpsertItemStreamResponse {
                    request_id: id,
                    outcome: Some(outcome),
                }
            }
        };
        Ok(Response::new(answer_each(
            &self.registry,
            request,
            self.stream_in_flight_max,
            handle,
        )))
    }

    async fn relabel_item(
        &self,
        request: Request<RelabelItemRequest>,
    ) -> Result<Response<RelabelItemResponse>, Status> {
        let caller = self.registry.waiting(caller_of(&request));
        let service = self.called_by(&request);
        let work = service.relabel(caller, request.into_inner());
        self.registry
            .call("RelabelItem", work)
            .await
            .map(Response::new)
    }

    async fn delete_item(
        &self,
        request: Request<DeleteItemRequest>,
    ) -> Result<Response<DeleteItemResponse>, Status> {
        let service = self.called_by(&request);
        let work = service.delete(request.into_inner());
        self.registry
            .call("DeleteItem", work)
            .await
            .map(Response::new)
    }

    type DeleteItemStreamStream = ReceiverStream<Result<DeleteItemStreamResponse, Status>>;

    async fn delete_item_stream(
        &self,
        request: Request<Streaming<DeleteItemStreamRequest>>,
    ) -> Result<Response<Self::DeleteItemStreamStream>, Status> {
        use delete_item_stream_response::Outcome;
        let service = self.called_by(&request);
        let handle = move |message: DeleteItemStreamRequest| {
            let service = service.clone();
            async move {
                let (id, item) = (message.request_id, message.item);
                let delete = |item| service.delete(item);
                let answer = service.streamed("DeleteItemStream", &id, item, delete);
                let outcome = match answer.await {
                    Ok(result) => Outcome::Result(result),
                    Err(error) => Outcome::Error(error),
                };
                DeleteItemStreamResponse {
                    request_id: id,
                    outcome: Some(outcome),
                }
            }
        };
        Ok(Response::new(answer_each(
            &self.registry,
            request,
            self.stream_in_flight_max,
            handle,
        )))
    }

    async fn batch_upsert_items(
        &self,
        request: Request<BatchUpsertItemsRequest>,
    ) -> Result<Response<BatchUpsertItemsResponse>, Status> {
        let caller = self.registry.waiting(caller_of(&request));
        let service = self.called_by(&request);
        let work = service.upsert_all(caller, request.into_inner());
        let answered = self.registry.call("BatchUpsertItems", work).await;
        answered.map(Response::new)
    }

    async fn batch_delete_items(
        &self,
        request: Request<BatchDeleteItemsRequest>,
    ) -> Result<Response<BatchDeleteItemsResponse>, Status> {
        let service = self.called_by(&request);
        let work = service.delete_all(request.into_inner());
        let answered = self.registry.call("BatchDeleteItems", work).await;
        answered.map(Response::new)
    }

    async fn get_item(
        &self,
        request: Request<GetItemRequest>,
    ) -> Result<Response<GetItemResponse>, Status> {
        let (call, caller) = (Call::of(&request), caller_of(&request));
        let service = self.called_by(&request);
        let work = service.get(self.registry.waiting(caller), request.into_inner());
        let answer = self.registry.call("GetItem", work).await?;
        roomy(call.as_ref(), answer)
    }

    async fn list_items(
        &self,
        request: Request<ListItemsRequest>,
    ) -> Result<Response<ListItemsResponse>, Status> {
        let service = self.called_by(&request);
        let call = Call::of(&request);
        let work = service.list(request.into_inner());
        let answer = self.registry.call("ListItems", work).await?;
        roomy(call.as_ref(), answer)
    }

    async fn list_labels(
        &self,
        request: Request<ListLabelsRequest>,
    ) -> Result<Response<ListLabelsResponse>, Status> {
        let service = self.called_by(&request);
        let work = service.list_labels(request.into_inner());
        let answer = self.registry.call("ListLabels", work).await;
        answer.map(Response::new)
    }

    async fn check_items(
        &self,
        request: Request<CheckItemsRequest>,
    ) -> Result<Response<CheckItemsResponse>, Status> {
        let service = self.called_by(&request);
        let request = request.into_inner();
        let work = service.check(&request);
        let answer = self.registry.call("CheckItems", work).await;
        answer.map(Response::new)
    }
}
