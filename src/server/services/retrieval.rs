//! `RetrievalService`: search, embed, verify.

use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::deployment::{Comparison, Query};
use crate::server::messages::convert;
use crate::server::registry::Registry;
use crate::server::request_id::{caller_of_items, prompt_caller_of};
use crate::server::status::from_error;
use crate::server::stream::{answer_each, answer_one};
use crate::server::transport::{Call, roomy};
use matchpoint_client::proto::retrieval_service_server::RetrievalService;
use matchpoint_client::proto::search_stream_response::Outcome;
use matchpoint_client::proto::{
    EmbedRequest, EmbedResponse, SearchRequest, SearchResponse, SearchStreamRequest,
    SearchStreamResponse, VerifyRequest, VerifyResponse,
};
use matchpoint_embed::caller::Caller;

#[derive(Clone, Debug)]
pub(in crate::server) struct RetrievalHandler {
    pub(in crate::server) registry: Registry,
    pub(in crate::server) stream_in_flight_max: usize,
}

impl RetrievalHandler {
    /// The same, for the caller of a request.
    fn called_by<T>(&self, request: &Request<T>) -> Self {
        Self {
            registry: self.registry.called_by(request),
            ..self.clone()
        }
    }

    async fn find(&self, caller: Caller, request: SearchRequest) -> Result<SearchResponse, Status> {
        let deployment = self.registry.find(&request.deployment)?;
        let options = convert::search_options(&request)?;
        let query = convert::search_query(request.query)?;
        let answer = deployment
            .search(caller, query, options)
            .await
            .map_err(|error| from_error(&error))?;
        Ok(convert::search_response(
            answer,
            deployment.loaded().model.fingerprint(),
        ))
    }
}

#[tonic::async_trait]
impl RetrievalService for RetrievalHandler {
    async fn search(
        &self,
        request: Request<SearchRequest>,
    ) -> Result<Response<SearchResponse>, Status> {
        let (call, caller) = (Call::of(&request), prompt_caller_of(&request));
        let service = self.called_by(&request);
        let work = service.find(self.registry.waiting(caller), request.into_inner());
        let answer = self.registry.call("Search", work).await?;
        roomy(call.as_ref(), answer)
    }

    type SearchStreamStream = ReceiverStream<Result<SearchStreamResponse, Status>>;

    async fn search_stream(
        &self,
        request: Request<Streaming<SearchStreamRequest>>,
    ) -> Result<Response<Self::SearchStreamStream>, Status> {
        let service = self.called_by(&request);
        let caller = caller_of_items(&request);
        let answers = answer_each(
            &self.registry,
            request,
            self.stream_in_flight_max,
            move |item: SearchStreamRequest| {
                let service = service.clone();
                async move {
                    let id = item.request_id;
                    let caller = service.registry.waiting(caller);
                    // This future is large.
                    let work = Box::pin(async {
                        let search = item
                            .search
                            .ok_or_else(|| convert::invalid("search is required"));
                        service.find(caller, search?).await
                    });
                    let outcome =
                        match answer_one(&service.registry, "SearchStream", &id, work).await {
                            Ok(result) => Outcome::Result(result),
                            Err(error) => Outcome::Error(error),
                        };
                    SearchStreamResponse {
                        request_id: id,
                        outcome: Some(outcome),
                    }
                }
            },
        );
        Ok(Response::new(answers))
    }

    async fn embed(
        &self,
        request: Request<EmbedRequest>,
    ) -> Result<Response<EmbedResponse>, Status> {
        let caller = self.registry.waiting(prompt_caller_of(&request));
        let registry = self.registry.called_by(&request);
        let request = request.into_inner();
        let work = async {
            let deployment = registry.find(&request.deployment)?;
            let query = Query::Image(request.image);
            let (embedding, timings) = deployment
                .embed(caller, query)
                .await
                .map_err(|error| from_error(&error))?;
            Ok(EmbedResponse {
                embedding: Some(convert::vector(embedding.as_slice())),
                model_fingerprint: deployment.loaded().model.fingerprint().to_owned(),
                timings: Some(convert::timings(&timings)),
            })
        };
        self.registry.call("Embed", work).await.map(Response::new)
    }

    async fn verify(
        &self,
        request: Request<VerifyRequest>,
    ) -> Result<Response<VerifyResponse>, Status> {
        let caller = self.registry.waiting(prompt_caller_of(&request));
        let registry = self.registry.called_by(&request);
        let request = request.into_inner();
        let work = async {
            let deployment = registry.find(&request.deployment)?;
            let query = convert::verify_query(request.query)?;
            let comparison = Comparison {
                query,
                reference: convert::reference(request.reference)?,
                expect_state: convert::expected_state(&request.expect_state)?,
            };
            let answer = deployment
                .verify(caller, comparison)
                .await
                .map_err(|error| from_error(&error))?;
            Ok(convert::verify_response(
                answer,
                deployment.loaded().model.fingerprint(),
            ))
        };
        self.registry.call("Verify", work).await.map(Response::new)
    }
}
