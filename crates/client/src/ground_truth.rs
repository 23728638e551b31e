//! What a query really showed: constructors, and text.

use std::fmt;

use super::proto::GroundTruth;
use super::proto::ground_truth::Truth;

impl GroundTruth {
    /// This enrolled label.
    #[must_use]
    pub const fn label(label: String) -> Self {
        Self {
            truth: Some(Truth::Label(label)),
            stranger_name: String::new(),
        }
    }

    /// Something that is not enrolled; `name` is empty if nobody knows one.
    #[must_use]
    pub const fn stranger(name: String) -> Self {
        Self {
            truth: Some(Truth::NotEnrolled(true)),
            stranger_name: name,
        }
    }

    /// Nobody can tell.
    #[must_use]
    pub const fn unusable() -> Self {
        Self {
            truth: Some(Truth::Unusable(true)),
            stranger_name: String::new(),
        }
    }
}

/// A label, `(not enrolled)`, `(not enrolled: NAME)` or `(unusable)`.
impl fmt::Display for GroundTruth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.truth {
            Some(Truth::Label(label)) => f.write_str(label),
            Some(Truth::NotEnrolled(_)) if self.stranger_name.is_empty() => {
                f.write_str("(not enrolled)")
            }
            Some(Truth::NotEnrolled(_)) => write!(f, "(not enrolled: {})", self.stranger_name),
            Some(Truth::Unusable(_)) => f.write_str("(unusable)"),
            None => f.write_str("(not known)"),
        }
    }
}
