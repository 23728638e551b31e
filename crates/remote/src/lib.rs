//! Keeps one gallery for many servers, in `PostgreSQL`.
//!
//! The store is the truth: a change is one transaction there, which counts the generation, and every server
//! applies the generations in order to a gallery of its own. Rows are never overwritten: a change ends the row
//! of an item and adds another, so that the rows that have not ended are the gallery now, and those that began or
//! ended after a generation are what has changed since. The digest of each generation is computed from the rows
//! in the store and recorded with it, so that a server can compare its own.
//!
//! One server at a time writes. It has a lease that ends by the clock of the database, with a number, the fence:
//! a change is refused in its own transaction if somebody else has taken the lease since.
//!
//! A [`SharedStore`] blocks, and every answer has a time limit. After an error it connects again by itself. Who
//! tries again must look first whether the change was made.

#![forbid(unsafe_code)]

mod connection;
mod error;
mod rows;
mod schema;
mod shared_store;
mod statements;
mod tls;

pub use connection::StoreAddress;
pub use error::RemoteError;
pub use shared_store::SharedStore;

use matchpoint_gallery::item::Item;

/// What a store keeps under one name, and what it has to be compared with: vectors of another model, or another
/// gallery under the same name, would be wrong items.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SharedGallery {
    /// The name that the deployment is served under.
    pub deployment: String,
    /// The id of the gallery.
    pub gallery_id: String,
    /// The fingerprint of the model that made every embedding.
    pub model_fingerprint: String,
    /// Number of components of every embedding.
    pub dimension: usize,
}

/// The number of a state of the gallery, and the digest of its items.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Generation {
    /// Its number.
    pub number: u64,
    /// The digest of all items in it.
    pub digest: [u8; 32],
}

/// A change of items, which makes one generation. No id may occur twice.
#[derive(Clone, Copy, Debug)]
pub enum ItemChange<'a> {
    /// These are enrolled, or replace those with the same ids.
    Upsert(&'a [Item]),
    /// Those with these ids are removed.
    Delete(&'a [String]),
}

/// A generation, and what is different in it: only one of both.
#[derive(Clone, Debug, PartialEq)]
pub struct CommittedChange {
    /// The generation after the change.
    pub generation: Generation,
    /// The items that were enrolled or replaced.
    pub upserted: Vec<Item>,
    /// The ids of those that were removed.
    pub removed: Vec<String>,
}

/// What a store has now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreState {
    /// The present generation.
    pub generation: Generation,
    /// The id of the operating point that decides; `None` if none was chosen.
    pub operating_point: Option<String>,
}

/// An operating point: its files by what they are, which never change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SharedPoint {
    /// Its id.
    pub id: String,
    /// The files.
    pub files: Vec<SharedPointFile>,
}

/// A file of an operating point.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SharedPointFile {
    /// What it is.
    pub kind: String,
    /// Its content.
    pub bytes: Vec<u8>,
}

/// The right to write, until somebody else has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fence(i64);
