//! A collection: what it has to be, and what is asked of it.

use std::collections::BTreeMap;
use std::future::Future;
use std::time::Duration;

use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::watch;

use crate::connection::QdrantConnection;
use crate::point::{GENERATION, checksum_in, generation_in};
use crate::wire::{
    CONSISTENCY_ALL, CollectionClusterInfoResponse, CollectionConfig, CollectionExistsResponse,
    CollectionOperationResponse, CollectionRequest, CreateCollection, DISTANCE_DOT, DeletePoints,
    DenseVector, FilterCondition, GetCollectionInfoResponse, HealthCheckReply, HealthCheckRequest,
    HnswConfig, ORDERING_STRONG, PointFilter, PointIds, PointQuery, PointsOperationResponse,
    PointsSelector, QUANTIZATION_INT8, QuantizationConfig, QuantizationSearchParams, QueryPoints,
    QueryResponse, Range, RangeCondition, ReadConsistency, ScalarQuantization, ScrollPoints,
    ScrollResponse, SearchParams, UpdateStatus, UpsertPoints, VectorInput, VectorParams,
    VectorsConfig, WithPayload, WriteOrdering,
};
use crate::{KeptPoint, NewPoint, PointKey, PointPage, ProposedPoint, QdrantAddress, QdrantError};

/// Links of a point in the graph, doubled on the lowest level.
const M: u64 = 16;
/// Candidates that are kept while a point is linked.
const EF_CONSTRUCT: u64 = 128;
/// Candidates that a search keeps, if it asks for no more.
const EF: u64 = 128;
/// For each point that is wanted, so many are scored once more by their whole vectors.
const OVERSAMPLING: f64 = 2.0;
/// Copies of each point, all of which have to take a change.
const REPLICAS: u32 = 2;
/// What a threshold is calibrated with, beside the release.
pub const INDEX_PARAMETERS: &str = "m=16 ef_construct=128 ef=128 int8 rescore oversampling=2";

/// The oldest release that compares an `update_filter`; an older one would take a late write.
const RELEASE_MIN: (u32, u32) = (1, 16);

/// How long a proposal may take, each time that it is tried.
const PROPOSE_MAX: Duration = Duration::from_millis(500);
/// How long anything else may take.
const ANSWER_MAX: Duration = Duration::from_secs(5);
/// How long a collection may take to be made, on all nodes.
const CREATE_MAX: Duration = Duration::from_secs(60);

/// What a collection has to be.
#[derive(Clone, Debug)]
pub struct CollectionSpec {
    /// Its name.
    pub name: String,
    /// Number of components of a vector.
    pub dimension: usize,
}

/// A collection in Qdrant. Connections live on a thread of their own, so that any thread and any runtime may ask.
pub struct QdrantCollection {
    connection: QdrantConnection,
    spec: CollectionSpec,
    handle: Handle,
    /// Whether nobody waits for an answer any more.
    stopped: watch::Sender<bool>,
    /// `None` only while this is dropped.
    runtime: Option<Runtime>,
}

impl std::fmt::Debug for QdrantCollection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "QdrantCollection({})", self.spec.name)
    }
}

impl Drop for QdrantCollection {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // It may be dropped by a thread that must not wait.
            runtime.shutdown_background();
        }
    }
}

impl QdrantCollection {
    /// Asks nobody yet.
    ///
    /// # Errors
    /// Returns an error if a thread cannot be started, or if TLS cannot be set up.
    pub fn new(address: QdrantAddress, spec: CollectionSpec) -> Result<Self, QdrantError> {
        let mut runtime = Builder::new_multi_thread();
        let runtime = runtime.worker_threads(1).thread_name("qdrant").enable_all();
        let runtime = runtime.build().map_err(|cause| QdrantError::Unreachable {
            address: address.shown(),
            cause: cause.to_string(),
        })?;
        let connection = {
            let _within = runtime.enter();
            QdrantConnection::new(address)?
        };
        Ok(Self {
            connection,
            spec,
            handle: runtime.handle().clone(),
            stopped: watch::Sender::new(false),
            runtime: Some(runtime),
        })
    }

    /// Waits for an answer. It must not be called from a task.
    ///
    /// # Errors
    /// Returns the error of the answer, or one that says that [`QdrantCollection::stop`] was called.
    pub fn wait<T>(
        &self,
        answer: impl Future<Output = Result<T, QdrantError>>,
    ) -> Result<T, QdrantError> {
        let mut stopped = self.stopped.subscribe();
        self.handle.block_on(async {
            tokio::select! {
                biased;
                _ = stopped.wait_for(|stopped| *stopped) => Err(QdrantError::Withheld {
                    reason: "the deployment is being closed".to_owned(),
                }),
                answer = answer => answer,
            }
        })
    }

    /// Ends all waiting, now and later. What was sent may still be done.
    pub fn stop(&self) {
        self.stopped.send_replace(true);
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.spec.name
    }

    /// The hosts of its nodes.
    #[must_use]
    pub fn address(&self) -> String {
        self.connection.address().shown()
    }

    /// Number of connections that were ever made. What was true of another one need not be of the present.
    #[must_use]
    pub fn connections(&self) -> u64 {
        self.connection.made()
    }

    /// The release of Qdrant, as `major.minor`.
    ///
    /// # Errors
    /// Returns an error if it does not answer, or is too old.
    pub async fn release(&self) -> Result<String, QdrantError> {
        let path = "/qdrant.Qdrant/HealthCheck";
        let asked = self
            .connection
            .call(path, &HealthCheckRequest {}, ANSWER_MAX);
        let reply: HealthCheckReply = asked.await?;
        let mut numbers = reply.version.split('.').map(str::parse::<u32>);
        let (Some(Ok(major)), Some(Ok(minor))) = (numbers.next(), numbers.next()) else {
            return Err(self.unsuitable(format!("it says that it is `{}`", reply.version)));
        };
        if (major, minor) < RELEASE_MIN {
            return Err(self.unsuitable(format!(
                "it is release {}, which takes the late writes of a server that was replaced; use 1.16 or a later one",
                reply.version
            )));
        }
        Ok(format!("{major}.{minor}"))
    }

    /// Makes the collection if there is none, and makes sure that it is as it has to be.
    ///
    /// # Errors
    /// Returns an error if Qdrant does not answer, if the collection is of another kind, or if it is not kept twice.
    pub async fn prepare(&self) -> Result<(), QdrantError> {
        let named = CollectionRequest {
            collection_name: self.spec.name.clone(),
        };
        let exists = "/qdrant.Collections/CollectionExists";
        if self.connection.address().is_far() {
            let asked = self.connection.answers_without_key(exists, &named);
            if let Some(node) = asked.await {
                return Err(QdrantError::Unsuitable {
                    address: node.to_string(),
                    problem: "it answers without a key, so that anybody can replace what it proposes: set service.api_key there".to_owned(),
                });
            }
        }
        let there: CollectionExistsResponse =
            self.connection.call(exists, &named, ANSWER_MAX).await?;
        if !there.result.is_some_and(|result| result.exists) {
            let path = "/qdrant.Collections/Create";
            let create = self.created();
            let made = self.connection.call(path, &create, CREATE_MAX).await;
            let _: CollectionOperationResponse = match made {
                // Another server may have been faster; what it made is looked at below.
                Err(QdrantError::Refused { cause, .. }) if cause.contains("exists") => {
                    CollectionOperationResponse::default()
                }
                made => made?,
            };
        }
        let path = "/qdrant.Collections/Get";
        let info: GetCollectionInfoResponse =
            self.connection.call(path, &named, ANSWER_MAX).await?;
        let config = info.result.and_then(|info| info.config).unwrap_or_default();
        self.check(&config)?;
        let path = "/qdrant.Collections/CollectionClusterInfo";
        let shards = self.connection.call(path, &named, ANSWER_MAX).await?;
        self.check_copies(&shards)
    }

    fn created(&self) -> CreateCollection {
        CreateCollection {
            collection_name: self.spec.name.clone(),
            hnsw_config: Some(HnswConfig {
                m: Some(M),
                ef_construct: Some(EF_CONSTRUCT),
            }),
            vectors_config: Some(VectorsConfig {
                params: Some(VectorParams {
                    size: self.spec.dimension as u64,
                    distance: DISTANCE_DOT,
                    on_disk: Some(true),
                }),
            }),
            replication_factor: Some(REPLICAS),
            write_consistency_factor: Some(REPLICAS),
            quantization_config: Some(QuantizationConfig {
                scalar: Some(ScalarQuantization {
                    r#type: QUANTIZATION_INT8,
                    always_ram: Some(true),
                }),
            }),
        }
    }

    fn check(&self, config: &CollectionConfig) -> Result<(), QdrantError> {
        let params = config.params.clone().unwrap_or_default();
        let vectors = params.vectors_config.and_then(|vectors| vectors.params);
        let vectors = vectors.unwrap_or_default();
        let hnsw = config.hnsw_config.clone().unwrap_or_default();
        let quantized = config.quantization_config.as_ref();
        let scalar = quantized.and_then(|kind| kind.scalar.as_ref());
        let int8 = scalar.is_some_and(|scalar| scalar.r#type == QUANTIZATION_INT8);
        let shown =
            |number: Option<u64>| number.map_or_else(|| "none".to_owned(), |it| it.to_string());
        let copies = |number: Option<u32>| shown(number.map(u64::from));
        let dimension = self.spec.dimension;
        let compared = [
            (
                "components",
                vectors.size.to_string(),
                dimension.to_string(),
            ),
            (
                "distance",
                vectors.distance.to_string(),
                format!("{DISTANCE_DOT} (Dot)"),
            ),
            ("m", shown(hnsw.m), M.to_string()),
            (
                "ef_construct",
                shown(hnsw.ef_construct),
                EF_CONSTRUCT.to_string(),
            ),
            ("int8 quantization", int8.to_string(), true.to_string()),
            (
                "replication_factor",
                copies(params.replication_factor),
                REPLICAS.to_string(),
            ),
            (
                "write_consistency_factor",
                copies(params.write_consistency_factor),
                REPLICAS.to_string(),
            ),
        ];
        let differs = compared.iter().find(|(what, found, wanted)| {
            let more = |number: &str| number.parse::<u32>().is_ok_and(|number| REPLICAS <= number);
            let enough = what.ends_with("_factor") && more(found);
            !enough && wanted.split(' ').next() != Some(found)
        });
        let Some((what, found, wanted)) = differs else {
            return Ok(());
        };
        Err(self.unsuitable(format!(
            "collection {} has {what} {found}, and {wanted} is needed; it was made by something else: delete it, and \
             restart this server, which fills it anew",
            self.spec.name
        )))
    }

    fn check_copies(&self, shards: &CollectionClusterInfoResponse) -> Result<(), QdrantError> {
        let mut copies: BTreeMap<u32, u32> = BTreeMap::new();
        let here = shards.local_shards.iter().map(|shard| shard.shard_id);
        let there = shards.remote_shards.iter().map(|shard| shard.shard_id);
        for shard in here.chain(there) {
            *copies.entry(shard).or_default() += 1;
        }
        match copies.iter().find(|(_, number)| **number < REPLICAS) {
            None => Ok(()),
            Some((shard, number)) => Err(self.unsuitable(format!(
                "shard {shard} of collection {} is there {number} time(s), and {REPLICAS} are needed, so that it survives a \
                 node: start more nodes (cluster.enabled), delete the collection, and restart this server, which fills it anew",
                self.spec.name
            ))),
        }
    }

    /// The points that may be nearest to a vector, best first by what Qdrant says. `ef` is the number of candidates
    /// that it keeps, if that is more than by itself.
    ///
    /// # Errors
    /// Returns an error if Qdrant does not answer in time.
    pub async fn propose(
        &self,
        vector: &[f32],
        limit: usize,
        ef: Option<usize>,
    ) -> Result<Vec<ProposedPoint>, QdrantError> {
        let ef = ef.map_or(EF, |ef| EF.max(ef as u64)).max(2 * limit as u64);
        let query = QueryPoints {
            collection_name: self.spec.name.clone(),
            query: Some(PointQuery {
                nearest: Some(VectorInput {
                    dense: Some(DenseVector {
                        data: vector.to_vec(),
                    }),
                }),
            }),
            params: Some(SearchParams {
                hnsw_ef: Some(ef),
                quantization: Some(QuantizationSearchParams {
                    rescore: Some(true),
                    oversampling: Some(OVERSAMPLING),
                }),
            }),
            limit: Some(limit as u64),
            with_payload: Some(WithPayload { enable: Some(true) }),
        };
        let path = "/qdrant.Points/Query";
        let found: QueryResponse = self.connection.call(path, &query, PROPOSE_MAX).await?;
        Ok(found.result.into_iter().map(ProposedPoint::read).collect())
    }

    /// Writes points, or replaces those of the same items; a point of a later generation stays. They are there, on
    /// all copies, when this returns.
    ///
    /// # Errors
    /// Returns an error if Qdrant does not answer or does not take them; some may be written then.
    pub async fn upsert(
        &self,
        generation: u64,
        points: &[NewPoint<'_>],
    ) -> Result<(), QdrantError> {
        let upsert = UpsertPoints {
            collection_name: self.spec.name.clone(),
            wait: Some(true),
            points: points.iter().map(|point| point.wire(generation)).collect(),
            ordering: Some(WriteOrdering {
                r#type: ORDERING_STRONG,
            }),
            update_filter: Some(PointFilter {
                must: Vec::new(),
                must_not: vec![later_than(generation)],
            }),
        };
        self.written("/qdrant.Points/Upsert", &upsert).await
    }

    /// Removes points; one of a later generation stays.
    ///
    /// # Errors
    /// Returns an error if Qdrant does not answer or does not do it; some may be removed then.
    pub async fn delete(&self, generation: u64, keys: &[PointKey]) -> Result<(), QdrantError> {
        let ids = keys.iter().map(|key| key.wire()).collect();
        let delete = DeletePoints {
            collection_name: self.spec.name.clone(),
            wait: Some(true),
            points: Some(PointsSelector {
                filter: Some(PointFilter {
                    must: vec![FilterCondition {
                        field: None,
                        has_id: Some(PointIds { ids }),
                    }],
                    must_not: vec![later_than(generation)],
                }),
            }),
            ordering: Some(WriteOrdering {
                r#type: ORDERING_STRONG,
            }),
        };
        self.written("/qdrant.Points/Delete", &delete).await
    }

    async fn written<Q>(&self, path: &'static str, change: &Q) -> Result<(), QdrantError>
    where
        Q: prost::Message + Clone + Send + Sync + 'static,
    {
        let done: PointsOperationResponse = self.connection.call(path, change, ANSWER_MAX).await?;
        let status = done
            .result
            .map_or(UpdateStatus::UnknownUpdateStatus, |result| result.status());
        if status == UpdateStatus::Completed {
            return Ok(());
        }
        Err(QdrantError::Unreachable {
            address: self.address(),
            cause: format!("a change was not completed ({status:?})"),
        })
    }

    /// The points from a key on, as all copies have them.
    ///
    /// # Errors
    /// Returns an error if Qdrant does not answer.
    pub async fn page(&self, from: PointKey, limit: u32) -> Result<PointPage, QdrantError> {
        let scroll = ScrollPoints {
            collection_name: self.spec.name.clone(),
            offset: Some(from.wire()),
            limit: Some(limit),
            with_payload: Some(WithPayload { enable: Some(true) }),
            read_consistency: Some(ReadConsistency {
                r#type: Some(CONSISTENCY_ALL),
            }),
        };
        let path = "/qdrant.Points/Scroll";
        let page: ScrollResponse = self.connection.call(path, &scroll, ANSWER_MAX).await?;
        let points = page.result.iter().filter_map(|point| {
            Some(KeptPoint {
                key: PointKey::read(point.id.as_ref())?,
                checksum: checksum_in(&point.payload),
                generation: generation_in(&point.payload),
            })
        });
        Ok(PointPage {
            points: points.collect(),
            next: PointKey::read(page.next_page_offset.as_ref()),
        })
    }

    fn unsuitable(&self, problem: String) -> QdrantError {
        QdrantError::Unsuitable {
            address: self.address(),
            problem,
        }
    }
}

/// That a point is of a later generation.
fn later_than(generation: u64) -> FilterCondition {
    // A number of writes is far below 2^53.
    #[expect(clippy::cast_precision_loss, reason = "ranges are of this type")]
    let generation = generation as f64;
    FilterCondition {
        field: Some(RangeCondition {
            key: GENERATION.to_owned(),
            range: Some(Range {
                gt: Some(generation),
            }),
        }),
        has_id: None,
    }
}
