//! Which of the nearest nodes a node is linked to.

use crate::index::codes::Codes;
use crate::index::links::Level;

/// Working memory of [`LinkSelection::choose`].
#[derive(Default)]
pub(super) struct LinkSelection {
    /// Candidates: product with the node to be linked, and node; best first.
    pub(super) candidates: Vec<(i32, u32)>,
    /// The nodes chosen, best first.
    pub(super) chosen: Vec<u32>,
    rows: Vec<u32>,
    products: Vec<i32>,
}

impl LinkSelection {
    /// Chooses at most `limit` candidates that lie in different directions: none that is closer to
    /// one chosen before it than to the node itself.
    ///
    /// Malkov and Yashunin, "Efficient and robust approximate nearest neighbor search using
    /// hierarchical navigable small world graphs", algorithm 4, without extension and without
    /// keeping what was pruned.
    pub(super) fn choose(&mut self, level: &Level<'_>, codes: &Codes<'_>, limit: usize) {
        /// One call of the kernel; the nearest of those chosen refuse most candidates.
        const TOGETHER: usize = 4;
        self.chosen.clear();
        self.rows.clear();
        for &(product, node) in &self.candidates {
            if self.chosen.len() == limit {
                break;
            }
            let row = level.row_of(node);
            let code = codes.row(row);
            let covered = self.rows.chunks(TOGETHER).any(|rows| {
                self.products.clear();
                codes.products(code, rows, &mut self.products);
                self.products.iter().any(|&between| product < between)
            });
            if !covered {
                self.chosen.push(node);
                self.rows.push(row);
            }
        }
    }
}
