//! A server that speaks as Qdrant does, keeps points in memory, compares a query with all of them, and fails as it is
//! told to. It takes only what `matchpoint_qdrant::wire` has.

#![expect(
    clippy::indexing_slicing,
    clippy::panic,
    clippy::struct_excessive_bools,
    clippy::unnecessary_wraps,
    reason = "a test fails by panicking, faults are there or not, and each call may be refused"
)]

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::convert::Infallible;
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use matchpoint_qdrant::wire::{
    CollectionClusterInfoResponse, CollectionConfig, CollectionExists, CollectionExistsResponse,
    CollectionInfo, CollectionOperationResponse, CollectionParams, CollectionRequest,
    CreateCollection, DeletePoints, FilterCondition, GetCollectionInfoResponse, HealthCheckReply,
    HealthCheckRequest, LocalShardInfo, ORDERING_STRONG, PayloadValue, PointFilter, PointId,
    PointIdOptions, PointsOperationResponse, QueryPoints, QueryResponse, RemoteShardInfo,
    RetrievedPoint, ScoredPoint, ScrollPoints, ScrollResponse, UpdateResult, UpdateStatus,
    UpsertPoints, ValueKind, WriteOrdering,
};
use prost::Message;
use tokio::runtime::Runtime;
use tokio::sync::oneshot;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::service::Routes;
use tonic::transport::Server;
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;

type Payload = HashMap<String, PayloadValue>;

/// In the order of Qdrant: numbers, then UUIDs.
pub type Key = (u64, String);

#[derive(Clone, Debug, PartialEq)]
pub struct Point {
    pub payload: Payload,
    pub vector: Vec<f32>,
}

pub type Points = BTreeMap<Key, Point>;

/// What goes wrong, until it is set again.
#[derive(Clone, Default)]
pub struct Faults {
    /// Every call is UNAVAILABLE.
    pub unavailable: bool,
    /// How long each call takes.
    pub slow: Duration,
    /// The same, of a search alone.
    pub slow_search: Duration,
    /// So many of the points are lost on the copy that is searched.
    pub lacks: usize,
    /// Searches see this copy.
    pub stale: Option<Points>,
    /// Of each batch only the first half is written, and the answer is an error.
    pub half: bool,
    /// Nothing is written, and the answer says that it was.
    pub forgets: bool,
    /// Points come without their payload, as in Qdrant's issue 4627.
    pub empty_payload: bool,
    /// What is added to each score.
    pub off: f32,
    /// What differs by less than a score may is named in another order.
    pub ties_reversed: bool,
    /// Searches answer with nothing at all.
    pub nothing: bool,
}

/// What the server says of itself.
#[derive(Clone)]
pub struct About {
    pub version: &'static str,
    pub copies: usize,
    pub key: Option<&'static str>,
}

impl Default for About {
    fn default() -> Self {
        Self {
            version: "1.20.0",
            copies: 2,
            key: None,
        }
    }
}

#[derive(Default)]
pub struct Collection {
    pub created: CreateCollection,
    pub points: Points,
}

#[derive(Default)]
pub struct Content {
    pub collections: BTreeMap<String, Collection>,
    pub faults: Faults,
    pub about: About,
    pub searches: usize,
}

#[derive(Clone, Default)]
struct Shared(Arc<Mutex<Content>>);

/// A running server.
pub struct QdrantStub {
    shared: Shared,
    address: SocketAddr,
    life: Option<Life>,
    /// Whose connections end in good order.
    ending: Vec<Runtime>,
}

struct Life {
    runtime: Runtime,
    shutdown: oneshot::Sender<()>,
}

impl QdrantStub {
    pub fn start() -> Self {
        Self::start_as(About::default())
    }

    pub fn start_as(about: About) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut stub = Self {
            shared: Shared::default(),
            address: listener.local_addr().unwrap(),
            life: None,
            ending: Vec::new(),
        };
        stub.content().about = about;
        stub.life = Some(stub.live(listener));
        stub
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn content(&self) -> MutexGuard<'_, Content> {
        self.shared.0.lock().unwrap()
    }

    pub fn fails(&self, change: impl FnOnce(&mut Faults)) {
        let mut faults = Faults::default();
        change(&mut faults);
        self.content().faults = faults;
    }

    /// The points of the only collection.
    pub fn points(&self) -> Points {
        let content = self.content();
        let collection = content.collections.values().next();
        collection.map(|one| one.points.clone()).unwrap_or_default()
    }

    /// The ids of their items.
    pub fn items(&self) -> BTreeSet<String> {
        let points = self.points();
        let kinds = points
            .values()
            .map(|point| point.payload["id"].kind.clone());
        let ids = kinds.map(|kind| match kind {
            Some(ValueKind::StringValue(id)) => id,
            kind => panic!("{kind:?}"),
        });
        ids.collect()
    }

    /// Changes the points behind everybody's back.
    pub fn tamper(&self, change: impl FnOnce(&mut Points)) {
        let mut content = self.content();
        change(&mut content.collections.values_mut().next().unwrap().points);
    }

    /// Ends all connections in good order (GOAWAY), and takes new ones.
    pub fn goes_away_and_comes_back(&mut self) {
        let Life { runtime, shutdown } = self.life.take().unwrap();
        shutdown.send(()).unwrap();
        let listener = self.bind();
        self.life = Some(self.live(listener));
        self.ending.push(runtime);
    }

    /// Ends as a power cut would; what it has is kept.
    pub fn dies(&mut self) {
        let Life { runtime, .. } = self.life.take().unwrap();
        runtime.shutdown_background();
    }

    pub fn lives_again(&mut self) {
        let listener = self.bind();
        self.life = Some(self.live(listener));
    }

    /// The port is free in a moment.
    fn bind(&self) -> TcpListener {
        loop {
            if let Ok(listener) = TcpListener::bind(self.address) {
                return listener;
            }
            std::thread::yield_now();
        }
    }

    fn live(&self, listener: TcpListener) -> Life {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        listener.set_nonblocking(true).unwrap();
        let (shutdown, ends) = oneshot::channel::<()>();
        let shared = self.shared.clone();
        runtime.spawn(async move {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            // As Qdrant's own server: each answer waits 40 ms otherwise.
            let incoming = TcpListenerStream::new(listener)
                .map(|stream| stream.inspect(|stream| stream.set_nodelay(true).unwrap()));
            let service = tower::service_fn(move |request| answered(shared.clone(), request));
            let router = axum::Router::new().fallback_service(service);
            let ends = async { ends.await.unwrap_or_default() };
            let server = Server::builder().add_routes(Routes::from(router));
            server
                .serve_with_incoming_shutdown(incoming, ends)
                .await
                .unwrap();
        });
        Life { runtime, shutdown }
    }
}

impl Drop for QdrantStub {
    fn drop(&mut self) {
        let life = self.life.take().map(|life| life.runtime);
        for runtime in self.ending.drain(..).chain(life) {
            runtime.shutdown_background();
        }
    }
}

type HttpRequest = http::Request<axum::body::Body>;
type HttpResponse = http::Response<tonic::body::Body>;

async fn answered(shared: Shared, request: HttpRequest) -> Result<HttpResponse, Infallible> {
    let path = request.uri().path().to_owned();
    let sent = request.headers().get("api-key").cloned();
    let (faults, about) = {
        let content = shared.0.lock().unwrap();
        (content.faults.clone(), content.about.clone())
    };
    let known = about
        .key
        .is_none_or(|key| sent.is_some_and(|sent| sent == key));
    if !known && path != "/qdrant.Qdrant/HealthCheck" {
        return Ok(Status::unauthenticated("Must provide an API key").into_http());
    }
    if faults.unavailable {
        return Ok(Status::unavailable("told to fail").into_http());
    }
    let slow = match path.as_str() {
        "/qdrant.Points/Query" => faults.slow.max(faults.slow_search),
        _ => faults.slow,
    };
    if !slow.is_zero() {
        tokio::time::sleep(slow).await;
    }
    let shared = &shared;
    Ok(match path.as_str() {
        "/qdrant.Qdrant/HealthCheck" => {
            unary(request, |_: HealthCheckRequest| health(shared)).await
        }
        "/qdrant.Collections/CollectionExists" => {
            unary(request, |asked| exists(shared, &asked)).await
        }
        "/qdrant.Collections/Create" => unary(request, |asked| create(shared, asked)).await,
        "/qdrant.Collections/Get" => unary(request, |asked| info(shared, &asked)).await,
        "/qdrant.Collections/CollectionClusterInfo" => {
            unary(request, |asked: CollectionRequest| cluster(shared, &asked)).await
        }
        "/qdrant.Points/Query" => unary(request, |asked| query(shared, asked)).await,
        "/qdrant.Points/Upsert" => unary(request, |asked| upsert(shared, asked)).await,
        "/qdrant.Points/Delete" => unary(request, |asked| delete(shared, asked)).await,
        "/qdrant.Points/Scroll" => unary(request, |asked| scroll(shared, asked)).await,
        _ => Status::unimplemented(path).into_http(),
    })
}

async fn unary<Q, A>(
    request: HttpRequest,
    answer: impl FnOnce(Q) -> Result<A, Status> + Send,
) -> HttpResponse
where
    Q: Message + Default + Send + Sync + 'static,
    A: Message + Send + Sync + 'static,
{
    let mut answer = Some(answer);
    let service = tower::service_fn(|request: Request<Q>| {
        let answer = answer.take().unwrap();
        let answered = answer(request.into_inner()).map(Response::new);
        async move { answered }
    });
    grpc(service, request).await
}

async fn grpc<Q, A, S>(service: S, request: HttpRequest) -> HttpResponse
where
    Q: Message + Default + Send + Sync + 'static,
    A: Message + Send + Sync + 'static,
    S: tonic::server::UnaryService<Q, Response = A>,
{
    let codec = ProstCodec::<A, Q>::default();
    let mut grpc = tonic::server::Grpc::new(codec);
    grpc.unary(service, request).await
}

fn health(shared: &Shared) -> Result<HealthCheckReply, Status> {
    let version = shared.0.lock().unwrap().about.version.to_owned();
    Ok(HealthCheckReply { version })
}

fn exists(shared: &Shared, asked: &CollectionRequest) -> Result<CollectionExistsResponse, Status> {
    let content = shared.0.lock().unwrap();
    let exists = content.collections.contains_key(&asked.collection_name);
    Ok(CollectionExistsResponse {
        result: Some(CollectionExists { exists }),
    })
}

fn create(shared: &Shared, asked: CreateCollection) -> Result<CollectionOperationResponse, Status> {
    let mut content = shared.0.lock().unwrap();
    let collection = Collection {
        created: asked.clone(),
        points: Points::new(),
    };
    content
        .collections
        .insert(asked.collection_name, collection);
    Ok(CollectionOperationResponse { result: true })
}

fn info(shared: &Shared, asked: &CollectionRequest) -> Result<GetCollectionInfoResponse, Status> {
    let content = shared.0.lock().unwrap();
    let created = &found(&content, &asked.collection_name)?.created;
    Ok(GetCollectionInfoResponse {
        result: Some(CollectionInfo {
            config: Some(CollectionConfig {
                params: Some(CollectionParams {
                    vectors_config: created.vectors_config.clone(),
                    replication_factor: created.replication_factor,
                    write_consistency_factor: created.write_consistency_factor,
                }),
                hnsw_config: created.hnsw_config.clone(),
                quantization_config: created.quantization_config.clone(),
            }),
        }),
    })
}

fn cluster(
    shared: &Shared,
    asked: &CollectionRequest,
) -> Result<CollectionClusterInfoResponse, Status> {
    let content = shared.0.lock().unwrap();
    found(&content, &asked.collection_name)?;
    let others = content.about.copies.saturating_sub(1);
    Ok(CollectionClusterInfoResponse {
        local_shards: vec![LocalShardInfo { shard_id: 0 }],
        remote_shards: vec![RemoteShardInfo { shard_id: 0 }; others],
    })
}

fn found<'a>(content: &'a Content, name: &str) -> Result<&'a Collection, Status> {
    let missing = || Status::not_found(format!("Collection `{name}` doesn't exist!"));
    content.collections.get(name).ok_or_else(missing)
}

fn query(shared: &Shared, asked: QueryPoints) -> Result<QueryResponse, Status> {
    let mut content = shared.0.lock().unwrap();
    content.searches += 1;
    let faults = content.faults.clone();
    let collection = found(&content, &asked.collection_name)?;
    let points = faults.stale.as_ref().unwrap_or(&collection.points);
    let quantization = asked.params.and_then(|params| params.quantization);
    if quantization.is_none_or(|how| how.rescore != Some(true) || how.oversampling != Some(2.0)) {
        return Err(Status::invalid_argument(
            "searches are to be scored once more",
        ));
    }
    let nearest = asked.query.and_then(|query| query.nearest?.dense);
    let nearest = nearest
        .ok_or_else(|| Status::invalid_argument("there is no vector"))?
        .data;
    let dot = |point: &Point| -> f32 {
        let products = point.vector.iter().zip(&nearest).map(|(a, b)| a * b);
        products.sum::<f32>() + faults.off
    };
    let mut scored: Vec<(f32, &Key, &Point)> = points
        .iter()
        .skip(faults.lacks)
        .map(|(key, point)| (dot(point), key, point))
        .collect();
    scored.sort_by(|a, b| b.0.total_cmp(&a.0));
    if faults.ties_reversed {
        for tied in scored.chunk_by_mut(|a, b| (a.0 - b.0).abs() < 5e-7) {
            tied.reverse();
        }
    }
    scored.truncate(usize::try_from(asked.limit.unwrap_or(10)).unwrap());
    let result = scored.into_iter().map(|(score, key, point)| ScoredPoint {
        id: Some(id_of(key)),
        payload: if faults.empty_payload {
            Payload::new()
        } else {
            point.payload.clone()
        },
        score,
    });
    let mut result: Vec<ScoredPoint> = result.collect();
    if faults.nothing {
        result.clear();
    }
    Ok(QueryResponse { result })
}

fn upsert(shared: &Shared, asked: UpsertPoints) -> Result<PointsOperationResponse, Status> {
    let mut content = shared.0.lock().unwrap();
    let faults = content.faults.clone();
    check_waits(asked.wait, asked.ordering.as_ref())?;
    found(&content, &asked.collection_name)?;
    let mut points = asked.points;
    if faults.half {
        points.truncate(points.len() / 2);
    }
    if faults.forgets {
        points.clear();
    }
    let collection = content.collections.get_mut(&asked.collection_name).unwrap();
    for point in points {
        let key = key_of(&point.id.unwrap());
        let there = collection.points.get(&key);
        let blocked = there.is_some_and(|there| {
            let filter = asked.update_filter.as_ref();
            filter.is_some_and(|filter| !passes(filter, &key, &there.payload))
        });
        if !blocked {
            let vector = point.vectors.unwrap().vector.unwrap().dense.unwrap().data;
            let point = Point {
                payload: point.payload,
                vector,
            };
            collection.points.insert(key, point);
        }
    }
    if faults.half {
        return Err(Status::unavailable("half of it is written"));
    }
    Ok(completed())
}

fn delete(shared: &Shared, asked: DeletePoints) -> Result<PointsOperationResponse, Status> {
    let mut content = shared.0.lock().unwrap();
    check_waits(asked.wait, asked.ordering.as_ref())?;
    found(&content, &asked.collection_name)?;
    if content.faults.forgets {
        return Ok(completed());
    }
    let filter = asked.points.unwrap().filter.unwrap();
    let collection = content.collections.get_mut(&asked.collection_name).unwrap();
    collection
        .points
        .retain(|key, point| !passes(&filter, key, &point.payload));
    Ok(completed())
}

fn check_waits(wait: Option<bool>, ordering: Option<&WriteOrdering>) -> Result<(), Status> {
    let strong = ordering.is_some_and(|ordering| ordering.r#type == ORDERING_STRONG);
    if wait == Some(true) && strong {
        return Ok(());
    }
    Err(Status::invalid_argument(
        "writes are to wait, in strong order",
    ))
}

fn completed() -> PointsOperationResponse {
    PointsOperationResponse {
        result: Some(UpdateResult {
            status: UpdateStatus::Completed.into(),
        }),
    }
}

fn scroll(shared: &Shared, asked: ScrollPoints) -> Result<ScrollResponse, Status> {
    let content = shared.0.lock().unwrap();
    let points = &found(&content, &asked.collection_name)?.points;
    let from = asked.offset.map(|id| key_of(&id)).unwrap_or_default();
    let limit = usize::try_from(asked.limit.unwrap_or(10)).unwrap();
    let mut following = points.range(from..);
    let result = following.by_ref().take(limit);
    let result = result.map(|(key, point)| RetrievedPoint {
        id: Some(id_of(key)),
        payload: point.payload.clone(),
    });
    let result = result.collect();
    Ok(ScrollResponse {
        next_page_offset: following.next().map(|(key, _)| id_of(key)),
        result,
    })
}

fn passes(filter: &PointFilter, key: &Key, payload: &Payload) -> bool {
    let holds = |condition: &FilterCondition| {
        let field = condition.field.as_ref().is_none_or(|field| {
            let over = field.range.as_ref().and_then(|range| range.gt).unwrap();
            match payload
                .get(&field.key)
                .and_then(|value| value.kind.as_ref())
            {
                Some(ValueKind::IntegerValue(number)) => {
                    over < f64::from(i32::try_from(*number).unwrap())
                }
                Some(ValueKind::StringValue(_)) | None => false,
            }
        });
        let listed = |ids: &[PointId]| ids.iter().any(|id| key_of(id) == *key);
        field && condition.has_id.as_ref().is_none_or(|one| listed(&one.ids))
    };
    filter.must.iter().all(holds) && !filter.must_not.iter().any(holds)
}

fn key_of(id: &PointId) -> Key {
    match id.point_id_options.as_ref().unwrap() {
        PointIdOptions::Num(number) => (*number, String::new()),
        PointIdOptions::Uuid(uuid) => (u64::MAX, uuid.clone()),
    }
}

fn id_of((number, uuid): &Key) -> PointId {
    let id = match uuid.as_str() {
        "" => PointIdOptions::Num(*number),
        uuid => PointIdOptions::Uuid(uuid.to_owned()),
    };
    PointId {
        point_id_options: Some(id),
    }
}
