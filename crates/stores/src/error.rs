//! The errors of object stores, with advice.

use std::io;

use crate::{AddressError, ObjectAddress};

/// The reasons why a transfer of an object failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The text is not an address.
    #[error(transparent)]
    Address(#[from] AddressError),
    /// The program was built without object stores.
    #[error(
        "{0} is in an object store, and this build of matchpoint reaches none: build it with \
         `--features object-stores`, as the images and wheels are, or copy the file by the store's own tool"
    )]
    NotBuilt(ObjectAddress),
    /// The object does not exist.
    #[error(
        "there is no object {0}, or no such bucket; look for another name with the store's own tool"
    )]
    NotFound(ObjectAddress),
    /// The object exists, and objects are never replaced.
    #[error("there is an object {0} already, and none is replaced: choose another name")]
    Exists(ObjectAddress),
    /// The name of the object is claimed, but the file is missing.
    #[error(
        "{address} is not whole: it was begun at {since} and has not ended. Wait for it; if nobody writes it any more, \
         remove it and take the snapshot once more"
    )]
    Unfinished {
        /// The object.
        address: ObjectAddress,
        /// The time of the claim, by the store's clock.
        since: String,
    },
    /// The credentials do not allow the request.
    #[error(
        "the store does not let us {doing} {address} ({why}): set the credentials in the environment, as the store's own \
         tools take them (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, GOOGLE_APPLICATION_CREDENTIALS, AZURE_STORAGE_ACCOUNT_NAME \
         and AZURE_STORAGE_ACCOUNT_KEY)"
    )]
    Denied {
        /// The object.
        address: ObjectAddress,
        /// What was tried.
        doing: &'static str,
        /// The message of the store, without the body of its answer.
        why: String,
    },
    /// The object was replaced meanwhile.
    #[error("{0} was replaced while it was read; try again")]
    Changed(ObjectAddress),
    /// The store or the network failed for longer than the retries.
    #[error("cannot {doing} {address}: {why}")]
    Failed {
        /// The object.
        address: ObjectAddress,
        /// What was tried.
        doing: &'static str,
        /// The message of the store, without the body of its answer.
        why: String,
    },
    /// The local disk failed.
    #[error("cannot {doing} the copy of {address} on this machine: {source}")]
    File {
        /// The object.
        address: ObjectAddress,
        /// What was tried.
        doing: &'static str,
        /// The error of the operating system.
        source: io::Error,
    },
    /// The caller stopped the transfer.
    #[error("stopped; nothing is left of it")]
    Stopped,
}
