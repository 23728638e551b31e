//! Searches for labelled queries as they arrive, many at once, with results in order. All calibrations and
//! evaluations use it.

use std::sync::Arc;

use tokio_stream::Stream;

use super::embedding_cache::EmbeddingCache;
use super::searches::{Gathered, LabelledQuery, MaskedSearches};
use crate::deployment::in_order::in_order;
use crate::deployment::search::answer::Probed;
use crate::deployment::search::request::{ProbeSource, Timings};
use crate::deployment::{Deployment, DeploymentError};

/// A labelled query that has to be searched for.
#[derive(Clone, Debug)]
pub struct QueryToSearch {
    /// Its id, label and conditions.
    pub query: LabelledQuery,
    /// The image or vector, or the reason why there is none.
    pub source: Result<ProbeSource, String>,
}

/// The reasons why the search for a query gave no result.
#[derive(Debug, thiserror::Error)]
pub enum QueryFailure {
    /// It cannot be searched for.
    #[error("{0}")]
    Unusable(String),
    /// The search failed.
    #[error(transparent)]
    Search(#[from] DeploymentError),
}

/// Settings of the search for labelled queries.
#[derive(Clone, Copy, Debug)]
pub struct QuerySettings {
    /// The additional searches that are made.
    pub masked: MaskedSearches,
    /// The highest number of queries in progress at once.
    pub in_flight_max: usize,
}

impl Deployment {
    /// The cache of embeddings for the queries; `None` if there can be none.
    #[must_use]
    pub fn embedding_cache(&self) -> Option<EmbeddingCache> {
        let model = &self.loaded().model;
        // The limits are part of the key, because a picture may be refused under others.
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
    /// Searches for queries as they arrive, all in the same state of the gallery, and adds the results in the
    /// order of the queries. It waits if the worker queue is full, so no query is lost. `done` is called with
    /// the id of each query, and decides which failures are errors.
    ///
    /// # Errors
    /// Returns the errors of `queries` and `done`. Earlier results are kept.
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
