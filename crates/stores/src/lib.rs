//! Files in object stores: written once, under a free name, and read whole.
//!
//! An object is named by the address of its store, `s3://bucket/key`, `gs://bucket/key` or `az://container/key`; who
//! may read and write is known from the environment, as the stores' own tools know it, and never from the address. `file://`
//! names a file of this machine, which needs nothing of this.
//!
//! Stores accept the parts of a large object one by one, but only small objects on the condition that the
//! name is free. So a name is first claimed by a small object on that condition, which the complete file
//! then replaces: a reader finds either the claim, which shows since when, or the whole file.
//!
//! Without the feature `object-stores` every object is refused by the name of the feature.

#![forbid(unsafe_code)]

mod address;
mod error;
#[cfg(feature = "object-stores")]
mod objects;

use std::ops::ControlFlow;

pub use address::{AddressError, FilePlace, ObjectAddress};
pub use error::StoreError;

/// Called with the bytes done and all bytes; returns whether to continue.
pub type TransferProgress<'a> = &'a mut dyn FnMut(u64, u64) -> ControlFlow<()>;

#[cfg(feature = "object-stores")]
pub use objects::{fetch, publish, version};

#[cfg(not(feature = "object-stores"))]
mod absent {
    use std::fs::File;

    use super::{ObjectAddress, StoreError, TransferProgress};

    /// The version of an object: 1 to 64 characters that change with its content.
    ///
    /// # Errors
    /// This build reaches no object store.
    pub fn version(address: &ObjectAddress) -> Result<String, StoreError> {
        Err(StoreError::NotBuilt(address.clone()))
    }

    /// Writes an object into a file.
    ///
    /// # Errors
    /// This build reaches no object store.
    pub fn fetch(
        address: &ObjectAddress,
        _into: &File,
        _progress: TransferProgress<'_>,
    ) -> Result<(), StoreError> {
        Err(StoreError::NotBuilt(address.clone()))
    }

    /// Uploads a file as an object.
    ///
    /// # Errors
    /// This build reaches no object store.
    pub fn publish(
        _from: &File,
        _version: &str,
        address: &ObjectAddress,
        _progress: TransferProgress<'_>,
    ) -> Result<(), StoreError> {
        Err(StoreError::NotBuilt(address.clone()))
    }
}

#[cfg(not(feature = "object-stores"))]
pub use absent::{fetch, publish, version};
