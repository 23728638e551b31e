//! Selects which of the nearest nodes a node is linked to.

use crate::index::codes::Codes;
use crate::index::links::Level;

/// The working memory of [`LinkSelection::choose`].
#[derive(Default)]
pub(super) struct LinkSelection {
    /// The candidates, best first: the product with the node to be linked, and the candidate.
    pub(super) candidates: Vec<(i32, u32)>,
    /// The nodes chosen, best first.
    pub(super) chosen: Vec<u32>,
    rows: Vec<u32>,
    products: Vec<i32>,
}

impl LinkSelection {
    /// Selects at most `limit` candidates that lie in different directions: a candidate is skipped if it is
    /// closer to an already selected one than to the node itself.
    ///
    /// Malkov and Yashunin, "Efficient and robust approximate nearest neighbor search using hierarchical
    /// navigable small world graphs", algorithm 4, without extending the candidates and without keeping pruned
    /// ones.
    pub(super) fn choose(&mut self, level: &Level<'_>, codes: &Codes<'_>, limit: usize) {
        /// Number of products in one call of the kernel. The nearest selected nodes rule out most candidates.
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
