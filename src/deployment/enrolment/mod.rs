//! Enrols items in a deployment, and maintains the gallery while it serves.

mod check;
pub(super) mod held_changes;
pub(super) mod items;
pub(super) mod lookalikes;
pub(super) mod maintenance;
pub(super) mod refused;
pub(super) mod source;
pub(super) mod store_link;
pub(super) mod store_standing;
pub(super) mod watched_gallery;
pub(super) mod writer;
