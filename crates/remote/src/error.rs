//! The reasons why the store refused or failed.

use std::time::Duration;

/// Why the store refused or failed. No message has the store's password.
#[derive(Debug, thiserror::Error)]
pub enum RemoteError {
    /// The address cannot be used.
    #[error("store {problem}; give postgres://USER:PASSWORD@HOST:PORT/DATABASE")]
    Address {
        /// What is wrong with it.
        problem: String,
    },
    /// It cannot be reached, did not answer in time, or failed. Whether a change that was sent was made is not
    /// known.
    #[error("the store {address} did not answer: {cause}; is it running, and is `store` right?")]
    Unreachable {
        /// Its hosts and database.
        address: String,
        /// What happened.
        cause: String,
    },
    /// The tables were made by another version of the program.
    #[error(
        "the store {address} has tables of version {found}, and this program works with version {expected}: run the \
         version of Matchpoint that made them, or use another database"
    )]
    OtherSchema {
        /// Its hosts and database.
        address: String,
        /// The version of the tables.
        found: i32,
        /// The version that this program works with.
        expected: i32,
    },
    /// Under this name the store keeps another gallery, or one of another model.
    #[error(
        "the store {address} keeps another gallery as `{deployment}`: its {what} is {theirs}, and here it is {ours}; start \
         this server from a snapshot of the one that wrote it, or serve this deployment under another name (NAME=DIR)"
    )]
    OtherGallery {
        /// Its hosts and database.
        address: String,
        /// The name of the deployment.
        deployment: String,
        /// What differs.
        what: &'static str,
        /// What the store has.
        theirs: String,
        /// What this server has.
        ours: String,
    },
    /// The store does not keep what has changed since a generation.
    #[error(
        "the store's changes begin with generation {oldest}, and the gallery here is at {generation}: restore a newer \
         snapshot of a server that is in step, and start from that"
    )]
    TooOld {
        /// The generation of the gallery here.
        generation: u64,
        /// The first one that the store can be followed from.
        oldest: u64,
    },
    /// The gallery here has items that the store does not have in this generation.
    #[error(
        "the gallery here differs from the store: in generation {generation} its digest is {ours}, and the store has {theirs}. \
         It was changed without the store (`build`, or a server without `store`), or one of the two is damaged: restore a \
         snapshot of a server that is in step, and start from that"
    )]
    Diverged {
        /// The generation.
        generation: u64,
        /// The digest here.
        ours: String,
        /// The digest in the store, or words if it has no such generation.
        theirs: String,
    },
    /// Somebody else may write.
    #[error("changes are made by {writer} now, and not here")]
    NotTheWriter {
        /// The name of the server that has the lease.
        writer: String,
        /// How long it has it still, if it does not renew it.
        left: Duration,
    },
    /// There are other generations than this server knows of.
    #[error("the store is at generation {present}, and not at {expected} as it was")]
    Moved {
        /// The generation in the store.
        present: u64,
        /// The one that was expected.
        expected: u64,
    },
    /// A row is not what was written.
    #[error("the store {address} is damaged: {what}; restore it from a backup")]
    Damaged {
        /// Its hosts and database.
        address: String,
        /// What was found.
        what: String,
    },
}
