//! What commands read: folders, lists and tables, and what of them is left out.

pub(super) mod array_flags;
pub(super) mod external_vectors;
pub(super) mod fields;
pub(super) mod head;
pub(super) mod image_sources;
pub(super) mod images;
pub(super) mod left_out;
pub(super) mod listing;
pub(super) mod saved_calibration;
