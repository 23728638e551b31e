//! The levels of a graph, and the walk along their links to the nodes nearest a query.

use crate::index::codes::Codes;
use crate::index::scratch::Scratch;
use crate::kernels::int8::{prefetch, prefetch_row};

/// In place of a link: there are no more.
pub(super) const NO_LINK: u32 = u32::MAX;

/// The most levels above the lowest one.
pub(super) const UPPER_LEVELS_MAX: usize = 16;

const LINK: usize = size_of::<u32>();

/// Cache lines of a row that are asked for as soon as its node is met. The kernel asks for the
/// others of longer rows.
const LINES_AHEAD: usize = 4;

/// Numbers of nodes on each level above the lowest, from the lowest of them up.
pub(super) type Sizes = [u32; UPPER_LEVELS_MAX];

/// The links of all levels.
///
/// A node of the lowest level has the number of its row. The nodes above are numbered in order of
/// insertion, which puts those that reach higher first: a node has one number in all the levels
/// above the lowest, and each of these levels holds the nodes from 0 to its size.
#[derive(Clone, Copy)]
pub(super) struct Links<'a> {
    /// Nodes of the lowest level, each with twice `m` links.
    pub(super) bottom: &'a [u8],
    /// Nodes of the levels above, from the lowest up, each with `m` links.
    pub(super) upper: &'a [u8],
    /// The row of each node above the lowest level.
    pub(super) upper_rows: &'a [u8],
    pub(super) sizes: &'a Sizes,
    pub(super) m: usize,
}

/// The links of one level, rows of `width` of them.
#[derive(Clone, Copy)]
pub(super) struct Level<'a> {
    links: &'a [u8],
    width: usize,
    /// Where nodes are not numbered by row: the row of each.
    rows: Option<&'a [u8]>,
}

/// Bytes of the links above `upper` levels of these sizes.
pub(super) fn upper_bytes(sizes: &[u32], m: usize) -> usize {
    sizes.iter().map(|&nodes| nodes as usize * m * LINK).sum()
}

impl<'a> Links<'a> {
    /// Level 0 is the lowest.
    pub(super) fn level(&self, level: usize) -> Level<'a> {
        let Some(above) = level.checked_sub(1) else {
            return Level {
                links: self.bottom,
                width: 2 * self.m,
                rows: None,
            };
        };
        let start = upper_bytes(self.sizes.get(..above).unwrap_or_default(), self.m);
        let nodes = self.sizes.get(above).copied().unwrap_or(0);
        let end = start + upper_bytes(&[nodes], self.m);
        Level {
            links: self.upper.get(start..end).unwrap_or_default(),
            width: self.m,
            rows: Some(self.upper_rows),
        }
    }

    /// Levels above the lowest.
    pub(super) fn height(&self) -> usize {
        self.sizes.iter().take_while(|&&nodes| nodes != 0).count()
    }

    /// The row of a node above the lowest level.
    pub(super) fn upper_row(&self, node: u32) -> u32 {
        number_at(self.upper_rows, node)
    }
}

impl<'a> Level<'a> {
    /// Bytes of the links of one node.
    pub(super) fn stride(&self) -> usize {
        self.width * LINK
    }

    /// The nodes that `node` is linked to.
    #[inline]
    pub(super) fn links_of(&self, node: u32) -> impl Iterator<Item = u32> + use<'a> {
        let start = node as usize * self.stride();
        let links = self.links.get(start..start + self.stride());
        let (links, _) = links.unwrap_or_default().as_chunks::<LINK>();
        links
            .iter()
            .map(|&link| u32::from_le_bytes(link))
            .take_while(|&link| link != NO_LINK)
    }

    #[inline]
    fn prefetch_links(&self, node: u32) {
        prefetch_row(self.links, self.stride(), node, 4);
    }

    #[inline]
    pub(super) fn row_of(&self, node: u32) -> u32 {
        self.rows.map_or(node, |rows| number_at(rows, node))
    }
}

/// The number at position `at` of numbers as they are stored.
#[inline]
fn number_at(numbers: &[u8], at: u32) -> u32 {
    let (numbers, _) = numbers.as_chunks::<LINK>();
    let number = numbers.get(at as usize).copied();
    number.map_or(NO_LINK, u32::from_le_bytes)
}

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

/// From `entry`, expands the best node met so far until the best `breadth` met are all expanded.
/// They are then in the pool of `scratch`, and the query is the codes there.
pub(super) fn walk(
    level: &Level<'_>,
    codes: &Codes<'_>,
    breadth: usize,
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
    visited.begin(level.links.len() / level.stride());
    pool.begin(breadth);
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
        if level.rows.is_some() {
            fresh_rows.clear();
            fresh_rows.extend(fresh.iter().map(|&node| level.row_of(node)));
            codes.products(query, fresh_rows, products);
        } else {
            codes.products(query, fresh, products);
        }
        for (&product, &node) in products.iter().zip(&*fresh) {
            if pool.offer(product, node) {
                level.prefetch_links(node);
            }
        }
    }
}

/// Gives `visit` the product of `query` with each of `rows`, and the row. `rows` and `products` of
/// `block` are working memory.
pub(super) fn scan(
    codes: &Codes<'_>,
    query: &[u8],
    rows: impl Iterator<Item = u32>,
    block: (&mut Vec<u32>, &mut Vec<i32>),
    mut visit: impl FnMut(i32, u32),
) {
    /// Rows compared at once: enough to hide what a call costs, few enough to stay in the cache.
    const TOGETHER: usize = 256;
    let (together, products) = block;
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

/// Asks for the beginning of a vector that is about to be compared.
#[inline]
pub(super) fn prefetch_vector(vector: &[f32]) {
    /// The processor goes on by itself after a few lines in a row.
    const LINES: usize = 8;
    for line in vector.chunks(16).take(LINES) {
        prefetch(line);
    }
}
