//! Vectors with a row of labels each, as the benches of this folder read them.

use std::path::Path;
use std::sync::Arc;

use matchpoint_arrays::{BYTES_MAX, LabelTable, ReadOptions};
use matchpoint_vector::Embedding;

/// What the command line names.
pub(crate) fn arguments() -> Vec<String> {
    let all = std::env::args().skip(1);
    all.filter(|one| one != "--bench").collect()
}

/// The vectors, of unit length, and what is known of each.
pub(crate) fn read(vectors: &Path, labels: &Path) -> (Vec<Arc<[f32]>>, LabelTable) {
    let options = ReadOptions {
        name: None,
        text: None,
        bytes_max: BYTES_MAX,
    };
    let table = matchpoint_arrays::read(vectors, &options).unwrap();
    let known = LabelTable::read(labels, table.rows()).unwrap();
    let rows = table.vectors.chunks_exact(table.dimension);
    let unit = |row: &[f32]| Arc::from(Embedding::normalise(row.to_vec()).unwrap().as_slice());
    (rows.map(unit).collect(), known)
}
