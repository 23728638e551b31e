//! Divides a source into N parts that are built independently, and makes one deployment of all of them.

pub(super) mod merge;
pub(super) mod shard;
