//! The traversal along the links of a level to the nodes nearest a query.

use crate::index::codes::Codes;
use crate::index::links::Level;
use crate::index::scratch::Scratch;
use matchpoint_vector::kernels::codes::{prefetch, prefetch_row};

/// Cache lines of a row that are prefetched as soon as its node is found. The kernel prefetches the others
/// of longer rows.
const LINES_AHEAD: usize = 4;

/// From `entry`, goes to the best neighbour of each node for as long as that is better; the last
/// node. The query is the codes in `scratch`.
pub(super) fn descend(
    level: &Level<'_>,
    codes: &Codes<'_>,
    entry: u32,
    scratch: &mut Scratch,
) -> u32 {
    let Scratch {
        query,
        fresh,
        fresh_rows,
        products,
        ..
    } = scratch;
    let mut best = (
        codes.kernel.one(query, codes.row(level.row_of(entry))),
        entry,
    );
    loop {
        fresh.clear();
        fresh_rows.clear();
        for node in level.links_of(best.1) {
            let row = level.row_of(node);
            prefetch_row(codes.bytes, codes.stride, row, LINES_AHEAD);
            fresh.push(node);
            fresh_rows.push(row);
        }
        products.clear();
        codes.products(query, fresh_rows, products);
        let before = best;
        for (&product, &node) in products.iter().zip(&*fresh) {
            if best.0 < product {
                best = (product, node);
                level.prefetch_links(node);
            }
        }
        if best == before {
            return best.1;
        }
    }
}

/// From `entry`, expands the best node met so far until the best `ef` met are all expanded.
/// They are then in the pool of `scratch`, and the query is the codes there.
pub(super) fn traverse(
    level: &Level<'_>,
    codes: &Codes<'_>,
    ef: usize,
    entry: u32,
    scratch: &mut Scratch,
) {
    let Scratch {
        query,
        visited,
        pool,
        fresh,
        fresh_rows,
        products,
        ..
    } = scratch;
    visited.begin(level.nodes());
    pool.begin(ef);
    visited.first(entry);
    pool.offer(
        codes.kernel.one(query, codes.row(level.row_of(entry))),
        entry,
    );
    while let Some(node) = pool.expand() {
        fresh.clear();
        for link in level.links_of(node) {
            if visited.first(link) {
                prefetch_row(codes.bytes, codes.stride, level.row_of(link), LINES_AHEAD);
                fresh.push(link);
            }
        }
        if let Some(next) = pool.peek() {
            level.prefetch_links(next);
        }
        products.clear();
        if level.is_by_row() {
            codes.products(query, fresh, products);
        } else {
            fresh_rows.clear();
            fresh_rows.extend(fresh.iter().map(|&node| level.row_of(node)));
            codes.products(query, fresh_rows, products);
        }
        for (&product, &node) in products.iter().zip(&*fresh) {
            if pool.offer(product, node) {
                level.prefetch_links(node);
            }
        }
    }
}

/// Working memory of [`scan`]: rows that are compared at once, and their products.
pub(super) struct ScanBuffers<'a> {
    pub(super) rows: &'a mut Vec<u32>,
    pub(super) products: &'a mut Vec<i32>,
}

/// Gives `visit` the product of `query` with each of `rows`, and the row.
pub(super) fn scan(
    codes: &Codes<'_>,
    query: &[u8],
    rows: impl Iterator<Item = u32>,
    block: ScanBuffers<'_>,
    mut visit: impl FnMut(i32, u32),
) {
    /// Rows compared at once: enough to hide what a call costs, few enough to stay in the cache.
    const TOGETHER: usize = 256;
    let ScanBuffers {
        rows: together,
        products,
    } = block;
    let mut rows = rows.peekable();
    while rows.peek().is_some() {
        together.clear();
        together.extend(rows.by_ref().take(TOGETHER));
        products.clear();
        codes.products(query, together, products);
        for (&product, &row) in products.iter().zip(&*together) {
            visit(product, row);
        }
    }
}

/// Prefetches the beginning of a vector that is about to be compared.
#[inline]
pub(super) fn prefetch_vector(vector: &[f32]) {
    /// The processor prefetches by itself after a few lines in a row.
    const LINES: usize = 8;
    for line in vector.chunks(16).take(LINES) {
        prefetch(line);
    }
}
