//! Access control: who calls, what they may do, and a log of what they changed.

pub(super) mod changes;
pub(super) mod denied;
pub(super) mod gate;
pub(super) mod key_ends;
mod rules;
