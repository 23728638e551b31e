//! Entries of a source that cannot be used, with the reason.

use std::fmt;

use crate::telemetry::escaped;

/// An entry that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct RefusedItem {
    /// The id, path or line concerned.
    pub item: String,
    /// What is wrong.
    pub reason: String,
}

impl fmt::Display for RefusedItem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { item, reason } = self;
        write!(f, "{}: {}", escaped(item), escaped(reason))
    }
}
