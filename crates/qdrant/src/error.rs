//! The reasons why Qdrant refused or failed.

/// Why Qdrant refused or failed. No message has its key.
#[derive(Clone, Debug, thiserror::Error)]
pub enum QdrantError {
    /// The addresses or the key cannot be used.
    #[error(
        "qdrant_urls: {problem}; give http://HOST:6334 (the port of gRPC), several separated by commas"
    )]
    Address {
        /// What is wrong.
        problem: String,
    },
    /// No answer came, or none in time.
    #[error(
        "Qdrant at {address} did not answer: {cause}; is it running, and are qdrant_urls those of its gRPC?"
    )]
    Unreachable {
        /// Its hosts.
        address: String,
        /// What happened.
        cause: String,
    },
    /// Its answers are not to be used now, so it is not asked.
    #[error("Qdrant is not asked now: {reason}")]
    Withheld {
        /// Why.
        reason: String,
    },
    /// It refused what was asked.
    #[error("Qdrant at {address} refused a call: {cause}")]
    Refused {
        /// Its hosts.
        address: String,
        /// What it said.
        cause: String,
    },
    /// It, or the collection, is not one that a gallery can be kept in.
    #[error("Qdrant at {address} cannot be used: {problem}")]
    Unsuitable {
        /// Its hosts.
        address: String,
        /// What is wrong, and how to fix it.
        problem: String,
    },
}

impl QdrantError {
    /// What a caller is told, who need not know where Qdrant is.
    #[must_use]
    pub fn told(&self) -> String {
        match self {
            Self::Withheld { reason } => {
                format!("what the index says does not count now, and nothing was decided: {reason}")
            }
            Self::Unsuitable { problem, .. } => format!("Qdrant cannot be used: {problem}"),
            Self::Refused { .. } => {
                "the index refused what it was asked, and nothing was decided; the server's log says why".to_owned()
            }
            Self::Address { .. } | Self::Unreachable { .. } => {
                "the index did not answer, and nothing was decided; try again in a moment"
                    .to_owned()
            }
        }
    }
}
