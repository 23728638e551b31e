//! Unnamed strangers: pictures of strangers for which it is not known whether two show the same one.

use std::fmt;

/// The label of an unnamed stranger starts with this; the id of a decision follows.
const PREFIX: &str = "stranger-";

/// What is said of a certificate for which labels counted both as several strangers and as one. Records keep it among their
/// assumptions, and are recognised by it: it is never worded anew.
pub const EITHER_WAY: &str = "a certified FAR holds either way";

/// The label for what a decision's query showed, if it is only known not to be enrolled. The label marks the
/// identity as unknown, so that no calibration takes it for a name.
#[must_use]
pub fn unnamed_label(decision: &dyn fmt::Display) -> String {
    format!("{PREFIX}{decision}")
}

/// Whether a label marks an unknown identity, as [`unnamed_label`] makes them.
#[must_use]
pub fn is_unnamed(label: &str) -> bool {
    label.strip_prefix(PREFIX).is_some_and(is_uuid)
}

fn is_uuid(text: &str) -> bool {
    let groups: Vec<&str> = text.split('-').collect();
    let hex = |group: &&str| group.bytes().all(|byte| byte.is_ascii_hexdigit());
    let lengths: Vec<usize> = groups.iter().map(|group| group.len()).collect();
    lengths == [8, 4, 4, 4, 12] && groups.iter().all(hex)
}

/// A certificate would depend on pictures of unnamed strangers.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error(
    "{pictures} pictures show strangers whom nobody named, and who may be as few as {strangers}; a \
     certificate counts each stranger once. Name them (`audit annotate --stranger NAME`, or the column \
     label of the queries), leave them out, or, where each is known to show another one, say so: \
     --strangers-are-distinct, strangers_are_distinct over gRPC. --estimated promises nothing, and \
     counts them as {strangers}"
)]
pub struct UnnamedRefused {
    /// Number of pictures of unnamed strangers.
    pub pictures: u64,
    /// The least number of strangers that they show, judged by their vectors.
    pub strangers: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_named_is_told_from_a_name() {
        let id = "0199f0aa-7c1b-7e0e-8d63-0f2a9c1d4e5f";
        assert!(is_unnamed(&unnamed_label(&id)));
        for name in ["stranger-1", "stranger-anna", "stranger-", id, "anna", ""] {
            assert!(!is_unnamed(name), "{name}");
        }
    }
}
