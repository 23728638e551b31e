//! The part of Qdrant's protocol that is spoken here: messages and fields have the names and numbers of Qdrant's own
//! files (Apache-2.0, release 1.20), which describe them. What is left out is skipped when it comes.
//!
//! Public for the tests, which have a server that speaks it.

#![expect(
    missing_docs,
    reason = "Qdrant's protocol files say what each field means"
)]

use std::collections::HashMap;

use prost::{Enumeration, Message, Oneof};

#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct PointId {
    #[prost(oneof = "PointIdOptions", tags = "1, 2")]
    pub point_id_options: Option<PointIdOptions>,
}

#[derive(Clone, PartialEq, Eq, Hash, Oneof)]
pub enum PointIdOptions {
    #[prost(uint64, tag = "1")]
    Num(u64),
    #[prost(string, tag = "2")]
    Uuid(String),
}

/// A value of a payload; of other kinds than these nothing is written.
#[derive(Clone, PartialEq, Message)]
pub struct PayloadValue {
    #[prost(oneof = "ValueKind", tags = "3, 4")]
    pub kind: Option<ValueKind>,
}

#[derive(Clone, PartialEq, Oneof)]
pub enum ValueKind {
    #[prost(int64, tag = "3")]
    IntegerValue(i64),
    #[prost(string, tag = "4")]
    StringValue(String),
}

#[derive(Clone, PartialEq, Message)]
pub struct DenseVector {
    #[prost(float, repeated, tag = "1")]
    pub data: Vec<f32>,
}

#[derive(Clone, PartialEq, Message)]
pub struct PointVector {
    #[prost(message, optional, tag = "101")]
    pub dense: Option<DenseVector>,
}

#[derive(Clone, PartialEq, Message)]
pub struct PointVectors {
    #[prost(message, optional, tag = "1")]
    pub vector: Option<PointVector>,
}

#[derive(Clone, PartialEq, Message)]
pub struct PointStruct {
    #[prost(message, optional, tag = "1")]
    pub id: Option<PointId>,
    #[prost(map = "string, message", tag = "3")]
    pub payload: HashMap<String, PayloadValue>,
    #[prost(message, optional, tag = "4")]
    pub vectors: Option<PointVectors>,
}

#[derive(Clone, PartialEq, Message)]
pub struct PointFilter {
    #[prost(message, repeated, tag = "2")]
    pub must: Vec<FilterCondition>,
    #[prost(message, repeated, tag = "3")]
    pub must_not: Vec<FilterCondition>,
}

#[derive(Clone, PartialEq, Message)]
pub struct FilterCondition {
    #[prost(message, optional, tag = "1")]
    pub field: Option<RangeCondition>,
    #[prost(message, optional, tag = "3")]
    pub has_id: Option<PointIds>,
}

/// `FieldCondition` with a range.
#[derive(Clone, PartialEq, Message)]
pub struct RangeCondition {
    #[prost(string, tag = "1")]
    pub key: String,
    #[prost(message, optional, tag = "3")]
    pub range: Option<Range>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Range {
    #[prost(double, optional, tag = "2")]
    pub gt: Option<f64>,
}

#[derive(Clone, PartialEq, Message)]
pub struct PointIds {
    #[prost(message, repeated, tag = "1")]
    pub ids: Vec<PointId>,
}

#[derive(Clone, PartialEq, Message)]
pub struct WriteOrdering {
    #[prost(int32, tag = "1")]
    pub r#type: i32,
}

/// `WriteOrderingType`: the leader of the shard takes all writes.
pub const ORDERING_STRONG: i32 = 2;

#[derive(Clone, PartialEq, Message)]
pub struct UpsertPoints {
    #[prost(string, tag = "1")]
    pub collection_name: String,
    #[prost(bool, optional, tag = "2")]
    pub wait: Option<bool>,
    #[prost(message, repeated, tag = "3")]
    pub points: Vec<PointStruct>,
    #[prost(message, optional, tag = "4")]
    pub ordering: Option<WriteOrdering>,
    #[prost(message, optional, tag = "6")]
    pub update_filter: Option<PointFilter>,
}

#[derive(Clone, PartialEq, Message)]
pub struct DeletePoints {
    #[prost(string, tag = "1")]
    pub collection_name: String,
    #[prost(bool, optional, tag = "2")]
    pub wait: Option<bool>,
    #[prost(message, optional, tag = "3")]
    pub points: Option<PointsSelector>,
    #[prost(message, optional, tag = "4")]
    pub ordering: Option<WriteOrdering>,
}

#[derive(Clone, PartialEq, Message)]
pub struct PointsSelector {
    #[prost(message, optional, tag = "2")]
    pub filter: Option<PointFilter>,
}

#[derive(Clone, PartialEq, Message)]
pub struct PointsOperationResponse {
    #[prost(message, optional, tag = "1")]
    pub result: Option<UpdateResult>,
}

#[derive(Clone, PartialEq, Message)]
pub struct UpdateResult {
    #[prost(enumeration = "UpdateStatus", tag = "2")]
    pub status: i32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Enumeration)]
#[repr(i32)]
pub enum UpdateStatus {
    UnknownUpdateStatus = 0,
    Acknowledged = 1,
    Completed = 2,
    ClockRejected = 3,
    WaitTimeout = 4,
}

#[derive(Clone, PartialEq, Message)]
pub struct QueryPoints {
    #[prost(string, tag = "1")]
    pub collection_name: String,
    #[prost(message, optional, tag = "3")]
    pub query: Option<PointQuery>,
    #[prost(message, optional, tag = "6")]
    pub params: Option<SearchParams>,
    #[prost(uint64, optional, tag = "8")]
    pub limit: Option<u64>,
    #[prost(message, optional, tag = "11")]
    pub with_payload: Option<WithPayload>,
}

/// `Query`, of which only `nearest` is asked.
#[derive(Clone, PartialEq, Message)]
pub struct PointQuery {
    #[prost(message, optional, tag = "1")]
    pub nearest: Option<VectorInput>,
}

#[derive(Clone, PartialEq, Message)]
pub struct VectorInput {
    #[prost(message, optional, tag = "2")]
    pub dense: Option<DenseVector>,
}

#[derive(Clone, PartialEq, Message)]
pub struct SearchParams {
    #[prost(uint64, optional, tag = "1")]
    pub hnsw_ef: Option<u64>,
    #[prost(message, optional, tag = "3")]
    pub quantization: Option<QuantizationSearchParams>,
}

#[derive(Clone, PartialEq, Message)]
pub struct QuantizationSearchParams {
    #[prost(bool, optional, tag = "2")]
    pub rescore: Option<bool>,
    #[prost(double, optional, tag = "3")]
    pub oversampling: Option<f64>,
}

#[derive(Clone, PartialEq, Message)]
pub struct WithPayload {
    #[prost(bool, optional, tag = "1")]
    pub enable: Option<bool>,
}

#[derive(Clone, PartialEq, Message)]
pub struct QueryResponse {
    #[prost(message, repeated, tag = "1")]
    pub result: Vec<ScoredPoint>,
}

#[derive(Clone, PartialEq, Message)]
pub struct ScoredPoint {
    #[prost(message, optional, tag = "1")]
    pub id: Option<PointId>,
    #[prost(map = "string, message", tag = "2")]
    pub payload: HashMap<String, PayloadValue>,
    #[prost(float, tag = "3")]
    pub score: f32,
}

#[derive(Clone, PartialEq, Message)]
pub struct ScrollPoints {
    #[prost(string, tag = "1")]
    pub collection_name: String,
    #[prost(message, optional, tag = "3")]
    pub offset: Option<PointId>,
    #[prost(uint32, optional, tag = "4")]
    pub limit: Option<u32>,
    #[prost(message, optional, tag = "6")]
    pub with_payload: Option<WithPayload>,
    #[prost(message, optional, tag = "8")]
    pub read_consistency: Option<ReadConsistency>,
}

#[derive(Clone, PartialEq, Message)]
pub struct ReadConsistency {
    #[prost(int32, optional, tag = "1")]
    pub r#type: Option<i32>,
}

/// `ReadConsistencyType`: only what all replicas have is there.
pub const CONSISTENCY_ALL: i32 = 0;

#[derive(Clone, PartialEq, Message)]
pub struct ScrollResponse {
    #[prost(message, optional, tag = "1")]
    pub next_page_offset: Option<PointId>,
    #[prost(message, repeated, tag = "2")]
    pub result: Vec<RetrievedPoint>,
}

#[derive(Clone, PartialEq, Message)]
pub struct RetrievedPoint {
    #[prost(message, optional, tag = "1")]
    pub id: Option<PointId>,
    #[prost(map = "string, message", tag = "2")]
    pub payload: HashMap<String, PayloadValue>,
}

#[derive(Clone, PartialEq, Message)]
pub struct CreateCollection {
    #[prost(string, tag = "1")]
    pub collection_name: String,
    #[prost(message, optional, tag = "4")]
    pub hnsw_config: Option<HnswConfig>,
    #[prost(message, optional, tag = "10")]
    pub vectors_config: Option<VectorsConfig>,
    #[prost(uint32, optional, tag = "11")]
    pub replication_factor: Option<u32>,
    #[prost(uint32, optional, tag = "12")]
    pub write_consistency_factor: Option<u32>,
    #[prost(message, optional, tag = "14")]
    pub quantization_config: Option<QuantizationConfig>,
}

/// `HnswConfigDiff`.
#[derive(Clone, PartialEq, Message)]
pub struct HnswConfig {
    #[prost(uint64, optional, tag = "1")]
    pub m: Option<u64>,
    #[prost(uint64, optional, tag = "2")]
    pub ef_construct: Option<u64>,
}

#[derive(Clone, PartialEq, Message)]
pub struct VectorsConfig {
    #[prost(message, optional, tag = "1")]
    pub params: Option<VectorParams>,
}

#[derive(Clone, PartialEq, Message)]
pub struct VectorParams {
    #[prost(uint64, tag = "1")]
    pub size: u64,
    #[prost(int32, tag = "2")]
    pub distance: i32,
    #[prost(bool, optional, tag = "5")]
    pub on_disk: Option<bool>,
}

/// `Distance`: the product, for which vectors stay as they are.
pub const DISTANCE_DOT: i32 = 3;

#[derive(Clone, PartialEq, Message)]
pub struct QuantizationConfig {
    #[prost(message, optional, tag = "1")]
    pub scalar: Option<ScalarQuantization>,
}

#[derive(Clone, PartialEq, Message)]
pub struct ScalarQuantization {
    #[prost(int32, tag = "1")]
    pub r#type: i32,
    #[prost(bool, optional, tag = "3")]
    pub always_ram: Option<bool>,
}

/// `QuantizationType`.
pub const QUANTIZATION_INT8: i32 = 1;

#[derive(Clone, PartialEq, Message)]
pub struct CollectionOperationResponse {
    #[prost(bool, tag = "1")]
    pub result: bool,
}

/// A request that names a collection: `CollectionExistsRequest`, `GetCollectionInfoRequest` and
/// `CollectionClusterInfoRequest`.
#[derive(Clone, PartialEq, Message)]
pub struct CollectionRequest {
    #[prost(string, tag = "1")]
    pub collection_name: String,
}

#[derive(Clone, PartialEq, Message)]
pub struct CollectionExistsResponse {
    #[prost(message, optional, tag = "1")]
    pub result: Option<CollectionExists>,
}

#[derive(Clone, PartialEq, Message)]
pub struct CollectionExists {
    #[prost(bool, tag = "1")]
    pub exists: bool,
}

#[derive(Clone, PartialEq, Message)]
pub struct GetCollectionInfoResponse {
    #[prost(message, optional, tag = "1")]
    pub result: Option<CollectionInfo>,
}

#[derive(Clone, PartialEq, Message)]
pub struct CollectionInfo {
    #[prost(message, optional, tag = "7")]
    pub config: Option<CollectionConfig>,
}

#[derive(Clone, PartialEq, Message)]
pub struct CollectionConfig {
    #[prost(message, optional, tag = "1")]
    pub params: Option<CollectionParams>,
    #[prost(message, optional, tag = "2")]
    pub hnsw_config: Option<HnswConfig>,
    #[prost(message, optional, tag = "5")]
    pub quantization_config: Option<QuantizationConfig>,
}

#[derive(Clone, PartialEq, Message)]
pub struct CollectionParams {
    #[prost(message, optional, tag = "5")]
    pub vectors_config: Option<VectorsConfig>,
    #[prost(uint32, optional, tag = "6")]
    pub replication_factor: Option<u32>,
    #[prost(uint32, optional, tag = "7")]
    pub write_consistency_factor: Option<u32>,
}

#[derive(Clone, PartialEq, Message)]
pub struct CollectionClusterInfoResponse {
    #[prost(message, repeated, tag = "3")]
    pub local_shards: Vec<LocalShardInfo>,
    #[prost(message, repeated, tag = "4")]
    pub remote_shards: Vec<RemoteShardInfo>,
}

#[derive(Clone, PartialEq, Message)]
pub struct LocalShardInfo {
    #[prost(uint32, tag = "1")]
    pub shard_id: u32,
}

#[derive(Clone, PartialEq, Message)]
pub struct RemoteShardInfo {
    #[prost(uint32, tag = "1")]
    pub shard_id: u32,
}

#[derive(Clone, PartialEq, Message)]
pub struct HealthCheckRequest {}

#[derive(Clone, PartialEq, Message)]
pub struct HealthCheckReply {
    #[prost(string, tag = "2")]
    pub version: String,
}
