//! Follows the links of a level to the nodes that are nearest to a query.

use crate::index::codes::Codes;
use crate::index::links::{Level, Links};
use crate::index::scratch::Scratch;
use matchpoint_vector::kernels::codes::{prefetch, prefetch_row};

/// Number of cache lines of a row that are prefetched when its node is found. The kernel prefetches the rest of
/// longer rows.
const LINES_AHEAD: usize = 4;

/// Descends from the highest level to the lowest, and leaves its best `ef` nodes in the pool of `scratch`, which also
/// contains the query as codes.
pub(super) fn traverse_all(links: &Links<'_>, codes: &Codes<'_>, ef: usize, scratch: &mut Scratch) {
    let mut entry = 0;
    for level in (1..=links.height()).rev() {
        entry = descend(&links.level(level), codes, entry, scratch);
    }
    let entry = links.upper_row(entry);
    traverse(&links.level(0), codes, ef, entry, scratch);
}

/// Starting at `entry`, moves to the best neighbour as long as that is nearer; returns the last node. The query
/// is in `scratch`, as codes.
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

/// Starting at `entry`, expands the best node seen so far until the best `ef` nodes are all expanded. They are
/// then in the pool of `scratch`, which also contains the query as codes.
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

/// The working memory of [`scan`]: rows that are compared at once, and their products.
pub(super) struct ScanBuffers<'a> {
    pub(super) rows: &'a mut Vec<u32>,
    pub(super) products: &'a mut Vec<i32>,
}

/// Calls `visit` with the product of `query` and each of `rows`, and the row.
pub(super) fn scan(
    codes: &Codes<'_>,
    query: &[u8],
    rows: impl Iterator<Item = u32>,
    block: ScanBuffers<'_>,
    mut visit: impl FnMut(i32, u32),
) {
    /// Number of rows compared at once: enough to make the cost of a call negligible, and few enough to stay in
    /// the cache.
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

/// Prefetches the start of a vector that will be compared next.
#[inline]
pub(super) fn prefetch_vector(vector: &[f32]) {
    /// After a few consecutive lines, the processor prefetches by itself.
    const LINES: usize = 8;
    for line in vector.chunks(16).take(LINES) {
        prefetch(line);
    }
}
