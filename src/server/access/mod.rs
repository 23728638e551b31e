//! Who calls, what they may do, and what is kept of what they changed.

pub(super) mod changes;
pub(super) mod denied;
pub(super) mod gate;
mod rules;
