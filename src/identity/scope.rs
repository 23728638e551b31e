//! What a caller may do.

use serde::{Deserialize, Serialize};

/// A kind of work. None includes another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// Search, verify, embed.
    Search,
    /// Read and change the gallery.
    Enrol,
    /// See and annotate sampled decisions.
    Label,
    /// Calibrate, and choose the active operating point.
    Calibrate,
    /// Snapshots, switching deployments, and resetting evidence.
    Admin,
}

impl Scope {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Search,
        Self::Enrol,
        Self::Label,
        Self::Calibrate,
        Self::Admin,
    ];

    /// Its name, as in the file of keys.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Search => "search",
            Self::Enrol => "enrol",
            Self::Label => "label",
            Self::Calibrate => "calibrate",
            Self::Admin => "admin",
        }
    }

    /// The scope of this name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|scope| scope.as_str() == name)
    }
}
