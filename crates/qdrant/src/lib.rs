//! Keeps the items of one gallery in a collection of Qdrant, and asks it which of them may be near a query.
//!
//! A [`QdrantCollection`] only proposes. Each point carries the id and the checksum of its item, so that whoever
//! asks can look at the item itself; nothing else of an answer is to be relied on. Each point carries the generation
//! too in which it was written: what is known to be newer is neither replaced nor removed, so that a server that is
//! late undoes nothing.
//!
//! The part of Qdrant's protocol that is spoken is written down in [`wire`]: its own client would be eleven more crates
//! for ten calls.

#![forbid(unsafe_code)]

pub mod wire;

mod address;
mod collection;
mod connection;
mod error;
mod point;

pub use address::QdrantAddress;
pub use collection::{CollectionSpec, INDEX_PARAMETERS, QdrantCollection};
pub use error::QdrantError;
pub use point::{KeptPoint, NewPoint, PointKey, PointPage, ProposedPoint};
