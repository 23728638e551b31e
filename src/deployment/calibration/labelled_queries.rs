//! The one way to search for labelled queries: as they come, many at once, with results in order.

use std::sync::Arc;

use tokio_stream::Stream;

use super::embedding_cache::EmbeddingCache;
use super::searches::{Gathered, LabelledQuery, MaskedSearches};
use crate::deployment::in_order::in_order;
use crate::deployment::search::answer::Probed;
use crate::deployment::search::request::{ProbeSource, Timings};
use crate::deployment::{Deployment, DeploymentError};

/// A labelled query to be searched for.
#[derive(Clone, Debug)]
pub struct QueryToSearch {
    /// Its id, label and conditions.
    pub query: LabelledQuery,
    /// The image or vector, or why there is none.
    pub source: Result<ProbeSource, String>,
}

/// Why a query found nothing.
#[derive(Debug, thiserror::Error)]
pub enum QueryFailure {
    /// It cannot be searched for.
    #[error("{0}")]
    Unusable(String),
    /// The search failed.
    #[error(transparent)]
    Search(#[from] DeploymentError),
}

/// How labelled queries are searched for.
#[derive(Clone, Copy, Debug)]
pub struct QuerySettings {
    /// Which additional searches are made.
    pub masked: MaskedSearches,
    /// Queries in progress at once.
    pub in_flight_max: usize,
}

impl Deployment {
    /// The cache of embeddings for its queries; `None` if there can be none.
    #[must_use]
    pub fn embedding_cache(&self) -> Option<EmbeddingCache> {
        let model = &self.loaded().model;
        // Under other limits a picture might be refused.
        let limits = format!("{:?}", self.limits);
        let made_by = [
            model.fingerprint(),
            model.provider(),
            model.runtime_version(),
            model.arithmetic(),
            &limits,
        ];
        let folder = model.embeds_images().then(|| self.folder())?;
        EmbeddingCache::in_folder(folder.path(), &made_by, model.dimension())
    }
}

impl Gathered {
    /// Searches for queries as they come, all in the same state of the gallery, and adds what they found in
    /// their order. Waits if the queue is full, and loses no query. `done` is called with the id of each,
    /// and returns which failures are errors.
    ///
    /// # Errors
    /// What `queries` and `done` return. Earlier results stay.
    pub async fn search<E>(
        &mut self,
        deployment: &Arc<Deployment>,
        settings: QuerySettings,
        queries: impl Stream<Item = Result<QueryToSearch, E>>,
        mut done: impl FnMut(&str, Result<Timings, QueryFailure>) -> Result<(), E>,
    ) -> Result<(), E> {
        let requests = self.requests(settings.masked);
        let mut number = 0;
        let begin = |QueryToSearch { query, source }: QueryToSearch| {
            let request = source.map(|source| requests.request(number, &query.label, source));
            number += 1;
            let deployment = Arc::clone(deployment);
            let work = async move {
                match request {
                    Ok(request) => Ok(Ok(deployment.probe(request).await?)),
                    Err(unusable) => Ok(Err(unusable)),
                }
            };
            (query, work)
        };
        let take = |query: &LabelledQuery,
                    probed: Result<Result<Probed, String>, DeploymentError>| {
            let outcome = match probed {
                Ok(Ok(probed)) => {
                    let timings = probed.timings;
                    self.add(query.clone(), probed);
                    Ok(timings)
                }
                Ok(Err(unusable)) => Err(QueryFailure::Unusable(unusable)),
                Err(error) => Err(QueryFailure::Search(error)),
            };
            done(&query.id, outcome)
        };
        in_order(queries, settings.in_flight_max, begin, take).await
    }
}
