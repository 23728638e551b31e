//! The levels of a graph, with their links in the stored form.

use matchpoint_vector::kernels::codes::prefetch_row;

/// Marks the end of a node's links.
pub(super) const NO_LINK: u32 = u32::MAX;

/// The highest number of levels above the lowest one.
pub(super) const UPPER_LEVELS_MAX: usize = 16;

const LINK: usize = size_of::<u32>();

/// The number of nodes on each level above the lowest, from the bottom up.
pub(super) type LevelSizes = [u32; UPPER_LEVELS_MAX];

/// The links of all levels.
///
/// A node of the lowest level has the number of its row. The nodes above are numbered in the order of
/// insertion, in which nodes that reach higher levels come first. So a node has the same number on all levels
/// above the lowest, and each of these levels contains the nodes from 0 up to its size.
#[derive(Clone, Copy)]
pub(super) struct Links<'a> {
    /// Links of the lowest level, 2 x `m` for each node.
    pub(super) bottom: &'a [u8],
    /// Links of the levels above, from the bottom up, `m` for each node.
    pub(super) upper: &'a [u8],
    /// The row of each node above the lowest level.
    pub(super) upper_rows: &'a [u8],
    pub(super) sizes: &'a LevelSizes,
    pub(super) m: usize,
}

/// The links of one level, `width` for each node.
#[derive(Clone, Copy)]
pub(super) struct Level<'a> {
    links: &'a [u8],
    width: usize,
    /// The row of each node; `None` if nodes are numbered by row.
    rows: Option<&'a [u8]>,
}

/// Number of bytes of the links of levels with these sizes.
pub(super) fn upper_bytes(sizes: &[u32], m: usize) -> usize {
    sizes.iter().map(|&nodes| nodes as usize * m * LINK).sum()
}

impl<'a> Links<'a> {
    /// A level by its number; 0 is the lowest.
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

    /// Number of levels above the lowest.
    pub(super) fn height(&self) -> usize {
        self.sizes.iter().take_while(|&&nodes| nodes != 0).count()
    }

    /// The row of a node above the lowest level.
    pub(super) fn upper_row(&self, node: u32) -> u32 {
        number_at(self.upper_rows, node)
    }
}

impl<'a> Level<'a> {
    /// Number of nodes that have space for links.
    pub(super) fn nodes(&self) -> usize {
        self.links.len() / self.stride()
    }

    /// Whether nodes are numbered by row.
    pub(super) fn is_by_row(&self) -> bool {
        self.rows.is_none()
    }

    /// Number of bytes of the links of one node.
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
    pub(super) fn prefetch_links(&self, node: u32) {
        prefetch_row(self.links, self.stride(), node, 4);
    }

    #[inline]
    pub(super) fn row_of(&self, node: u32) -> u32 {
        self.rows.map_or(node, |rows| number_at(rows, node))
    }
}

/// Decodes the number at position `at`.
#[inline]
fn number_at(numbers: &[u8], at: u32) -> u32 {
    let (numbers, _) = numbers.as_chunks::<LINK>();
    let number = numbers.get(at as usize).copied();
    number.map_or(NO_LINK, u32::from_le_bytes)
}
