//! Builds a graph on all cores, with the same result each time.
//!
//! Rows are linked in batches. The rows of a batch are searched for in parallel in the graph as it was before
//! the batch, and then all their links are made, ordered by row. So the graph depends only on the rows and the
//! parameters, and not on the number of threads. Rows are linked in a random order that depends only on the
//! seed, because neighbours that were enrolled one after the other would not find each other if they were in
//! the same batch.
//!
//! Dobson et al., "Scaling graph-based ANNS algorithms to billion-size datasets", 2023, build in doubling
//! batches in this way. They find the same recall as with single insertions.

use std::sync::{Mutex, PoisonError};

use rayon::iter::ParallelIterator;
use rayon::slice::{ParallelSlice, ParallelSliceMut};

use crate::index::breadth::{SearchBreadth, breadth_for, sample_size};
use crate::index::codes::Codes;
use crate::index::error::IndexError;
use crate::index::links::{Level, LevelSizes, Links, NO_LINK, UPPER_LEVELS_MAX, upper_bytes};
use crate::index::scratch::Scratch;
use crate::index::select::LinkSelection;
use crate::index::traversal::{descend, traverse};

/// The parameters for building a graph. Equal parameters and rows give equal graphs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BuildParams {
    /// Number of links of a row, doubled on the lowest level; 2 to 128.
    pub m: usize,
    /// Number of candidates kept while a row is linked; 1 to 4,096.
    pub ef_construction: usize,
    /// The seed of the rows' levels and of the order in which rows are linked.
    pub seed: u64,
}

impl BuildParams {
    pub(super) fn check(&self) -> Result<(), IndexError> {
        let bounds = [
            ("m", self.m, 2, 128),
            ("ef_construction", self.ef_construction, 1, 4096),
        ];
        for (name, found, min, max) in bounds {
            if !(min..=max).contains(&found) {
                return Err(IndexError::Parameter {
                    name,
                    found,
                    min,
                    max,
                });
            }
        }
        Ok(())
    }
}

const LINK: usize = size_of::<u32>();

/// A graph that is being built, with its links in the stored form.
pub(super) struct GraphDraft {
    pub(super) bottom: Vec<u8>,
    pub(super) upper: Vec<u8>,
    pub(super) upper_rows: Vec<u8>,
    pub(super) sizes: LevelSizes,
    pub(super) breadth: SearchBreadth,
    /// The rows in the order of insertion.
    order: Vec<u32>,
    params: BuildParams,
}

/// A level and a node on it.
type LevelNode = (usize, u32);

/// Links all of `members`, which are rows of `codes`. The other rows below `rows` get no links.
pub(super) fn build(
    codes: &Codes<'_>,
    rows: usize,
    members: &[u32],
    params: BuildParams,
) -> GraphDraft {
    let mut draft = GraphDraft::new(rows, members, params);
    let pool = Mutex::new(Vec::new());
    let mut done = 1;
    let first_searched = draft.order.len() - sample_size(draft.order.len());
    while done < draft.order.len() {
        // Rows of one batch do not find each other. So a batch has at most a sixteenth of the rows linked so
        // far, and at most a fiftieth of all rows.
        let all = draft.order.len();
        let size = (done / 16)
            .clamp(1, (all / 50).clamp(64, 8192))
            .min(all - done);
        if (done..done + size).contains(&first_searched) {
            draft.breadth = draft.measure(done, first_searched, codes);
        }
        draft.insert(done..done + size, codes, &pool);
        done += size;
    }
    draft
}

impl GraphDraft {
    fn new(rows: usize, members: &[u32], params: BuildParams) -> Self {
        let mut drawn: Vec<(u64, u32)> = members
            .iter()
            .map(|&row| (mix(params.seed, row), row))
            .collect();
        drawn.par_sort_unstable();
        let mut sizes = [0; UPPER_LEVELS_MAX];
        let mut share = u64::MAX;
        for (level, size) in sizes.iter_mut().enumerate() {
            // A level has 1/m of the rows of the one below it. The first row is the entry point.
            share /= params.m as u64;
            let nodes = drawn.partition_point(|&(draw, _)| draw < share);
            let nodes = if level == 0 { nodes.max(1) } else { nodes };
            #[expect(clippy::cast_possible_truncation, reason = "fewer than 2^31 rows")]
            let nodes = nodes.min(drawn.len()) as u32;
            *size = nodes;
        }
        let order: Vec<u32> = drawn.into_iter().map(|(_, row)| row).collect();
        let above = sizes.first().map_or(0, |&nodes| nodes as usize);
        Self {
            bottom: vec![0xFF; rows * 2 * params.m * LINK],
            upper: vec![0xFF; upper_bytes(&sizes, params.m)],
            upper_rows: order
                .iter()
                .take(above)
                .flat_map(|row| row.to_le_bytes())
                .collect(),
            sizes,
            breadth: SearchBreadth::default(),
            order,
            params,
        }
    }

    /// Searches for the rows from the position `from` on in the order of insertion, of which the first `linked` are linked.
    fn measure(&self, linked: usize, from: usize, codes: &Codes<'_>) -> SearchBreadth {
        let (linked, _) = self.order.split_at(linked);
        let (_, sample) = self.order.split_at(from);
        breadth_for(&self.links(), codes, linked, sample)
    }

    fn links(&self) -> Links<'_> {
        Links {
            bottom: &self.bottom,
            upper: &self.upper,
            upper_rows: &self.upper_rows,
            sizes: &self.sizes,
            m: self.params.m,
        }
    }

    /// The number on `level` of the row at position `at` in the order of insertion.
    fn node(&self, level: usize, at: usize) -> u32 {
        if level == 0 {
            return self.order.get(at).copied().unwrap_or(NO_LINK);
        }
        #[expect(clippy::cast_possible_truncation, reason = "fewer than 2^31 rows")]
        let node = at as u32;
        node
    }

    /// Writes as many links of a node as there is space for.
    fn write(&mut self, (level, node): LevelNode, links: &[u32]) {
        let (all, width) = match level.checked_sub(1) {
            None => (self.bottom.as_mut_slice(), 2 * self.params.m),
            Some(above) => {
                let below = self.sizes.get(..above).unwrap_or_default();
                let start = upper_bytes(below, self.params.m);
                let level = self.upper.get_mut(start..).unwrap_or_default();
                (level, self.params.m)
            }
        };
        let start = node as usize * width * LINK;
        let Some(room) = all.get_mut(start..start + width * LINK) else {
            return;
        };
        let (room, _) = room.as_chunks_mut::<LINK>();
        let links = links.iter().copied().chain(std::iter::repeat(NO_LINK));
        for (room, link) in room.iter_mut().zip(links) {
            *room = link.to_le_bytes();
        }
    }

    /// Links the rows at these positions in the order of insertion.
    fn insert(
        &mut self,
        batch: std::ops::Range<usize>,
        codes: &Codes<'_>,
        pool: &Mutex<Vec<Workspace>>,
    ) {
        /// Number of positions that a thread takes at a time.
        const SHARE: usize = 8;
        let positions: Vec<usize> = batch.collect();
        let this = &*self;
        let found: Vec<Vec<(LevelNode, Vec<u32>)>> = positions
            .par_chunks(SHARE)
            .map(|positions| {
                let mut workspace = take(pool);
                let mut links = Vec::new();
                for &at in positions {
                    this.propose(at, codes, &mut workspace, &mut links);
                }
                give(pool, workspace);
                links
            })
            .collect();
        let mut back: Vec<(LevelNode, u32)> = Vec::new();
        for ((level, node), links) in found.into_iter().flatten() {
            self.write((level, node), &links);
            back.extend(links.iter().map(|&target| ((level, target), node)));
        }
        back.par_sort_unstable();
        let groups: Vec<&[(LevelNode, u32)]> = back.chunk_by(|a, b| a.0 == b.0).collect();
        let this = &*self;
        let lists: Vec<Vec<(LevelNode, Vec<u32>)>> = groups
            .par_chunks(SHARE)
            .map(|groups| {
                let mut workspace = take(pool);
                let lists = groups
                    .iter()
                    .filter_map(|group| this.linked_back(group, codes, &mut workspace));
                let lists = lists.collect();
                give(pool, workspace);
                lists
            })
            .collect();
        for (place, links) in lists.into_iter().flatten() {
            self.write(place, &links);
        }
    }

    /// The nodes that the row at position `at` should be linked to on each of its levels.
    fn propose(
        &self,
        at: usize,
        codes: &Codes<'_>,
        workspace: &mut Workspace,
        found: &mut Vec<(LevelNode, Vec<u32>)>,
    ) {
        let Workspace { scratch, selection } = workspace;
        let links = self.links();
        let row = self.node(0, at);
        scratch.query.clear();
        scratch.query.extend_from_slice(codes.row(row));
        let mut entry = 0;
        for number in (0..=links.height()).rev() {
            let level = links.level(number);
            if number == 0 {
                entry = links.upper_row(entry);
            } else if self
                .sizes
                .get(number - 1)
                .is_none_or(|&nodes| nodes as usize <= at)
            {
                entry = descend(&level, codes, entry, scratch);
                continue;
            }
            traverse(&level, codes, self.params.ef_construction, entry, scratch);
            selection.candidates.clear();
            selection.candidates.extend(scratch.pool.iter());
            if let Some(&(_, best)) = selection.candidates.first() {
                entry = best;
            }
            selection.choose(&level, codes, self.params.m);
            found.push(((number, self.node(number, at)), selection.chosen.clone()));
        }
    }

    /// The new links of a node to which the nodes of `group` link.
    fn linked_back(
        &self,
        group: &[(LevelNode, u32)],
        codes: &Codes<'_>,
        workspace: &mut Workspace,
    ) -> Option<(LevelNode, Vec<u32>)> {
        let &((number, node), _) = group.first()?;
        let level = self.links().level(number);
        let mut links: Vec<u32> = level.links_of(node).collect();
        links.extend(group.iter().map(|&(_, source)| source));
        let room = level.stride() / LINK;
        if room < links.len() {
            links = workspace.nearest(node, &links, &level, codes);
        }
        Some(((number, node), links))
    }
}

/// The working memory of a thread that links rows.
#[derive(Default)]
struct Workspace {
    scratch: Scratch,
    selection: LinkSelection,
}

impl Workspace {
    /// Selects as many of `links` for `node` as there is space for.
    fn nearest(
        &mut self,
        node: u32,
        links: &[u32],
        level: &Level<'_>,
        codes: &Codes<'_>,
    ) -> Vec<u32> {
        let Scratch {
            fresh, products, ..
        } = &mut self.scratch;
        fresh.clear();
        fresh.extend(links.iter().map(|&link| level.row_of(link)));
        products.clear();
        codes.products(codes.row(level.row_of(node)), fresh, products);
        let candidates = &mut self.selection.candidates;
        candidates.clear();
        candidates.extend(products.iter().copied().zip(links.iter().copied()));
        candidates.sort_unstable_by(|a, b| b.0.cmp(&a.0).then(a.1.cmp(&b.1)));
        self.selection.choose(level, codes, level.stride() / LINK);
        self.selection.chosen.clone()
    }
}

fn take(pool: &Mutex<Vec<Workspace>>) -> Workspace {
    let mut pool = pool.lock().unwrap_or_else(PoisonError::into_inner);
    pool.pop().unwrap_or_default()
}

fn give(pool: &Mutex<Vec<Workspace>>, workspace: Workspace) {
    let mut pool = pool.lock().unwrap_or_else(PoisonError::into_inner);
    pool.push(workspace);
}

/// `SplitMix64` of a seed and a row.
fn mix(seed: u64, row: u32) -> u64 {
    let mut z = seed.wrapping_add((u64::from(row) + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
