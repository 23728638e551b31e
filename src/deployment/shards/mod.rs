//! A source in N parts, each built without knowledge of the others, and the deployment made of all of them.

pub(super) mod merge;
pub(super) mod shard;
