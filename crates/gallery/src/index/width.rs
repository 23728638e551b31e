//! Determines how many bits codes need to separate the near rows of a gallery.
//!
//! Eight bits resolve a similarity to about a thousandth. If many rows are nearer to each other than that, such
//! as frames of one camera or pictures of one product, the codes propose arbitrary ones among them, and more
//! candidates do not help.

use rayon::iter::{IntoParallelIterator, ParallelIterator};

use crate::index::codes::{Codes, UnitVectors, encode_query};
use matchpoint_vector::kernels::codes::CodeWidth;
use matchpoint_vector::kernels::dot;

/// Number of sampled rows that are searched for among all others.
const SAMPLE: usize = 32;
/// Number of nearest rows of each sampled row that its codes have to find.
pub(super) const NEIGHBOURS: usize = 10;
/// At most one in this many neighbours may be missed.
const MISSED_ONE_IN: usize = 200;

/// The narrowest codes that suffice: a scan of all rows finds nearly all nearest rows of a sample among the
/// `compared` best.
///
/// `narrow` are the codes of eight bits of `rows`.
pub(super) fn width_for(rows: UnitVectors<'_>, narrow: &Codes<'_>, compared: usize) -> CodeWidth {
    if rows.count() <= compared {
        return CodeWidth::Eight;
    }
    let missed: usize = (0..SAMPLE)
        .into_par_iter()
        .map(|at| missed(rows, narrow, compared, at * rows.count() / SAMPLE))
        .sum();
    if SAMPLE * NEIGHBOURS < missed * MISSED_ONE_IN {
        CodeWidth::Sixteen
    } else {
        CodeWidth::Eight
    }
}

/// The number of nearest rows of a row that the codes miss. If one of several rows with equal codes is found,
/// all are, because they are compared together.
#[expect(clippy::cast_possible_truncation, reason = "fewer than 2^31 rows")]
fn missed(rows: UnitVectors<'_>, narrow: &Codes<'_>, compared: usize, row: usize) -> usize {
    let Some(vector) = rows.get(row as u32) else {
        return 0;
    };
    let mut query = Vec::new();
    encode_query(vector, CodeWidth::Eight, &mut query);
    let mut others: Vec<(f32, i32)> = (0..rows.count() as u32)
        .filter(|&other| other != row as u32)
        .filter_map(|other| {
            let score = dot(vector, rows.get(other)?);
            Some((score, narrow.kernel.one(&query, narrow.row(other))))
        })
        .collect();
    let last = compared.min(others.len()).saturating_sub(1);
    let (_, &mut (_, found), _) = others.select_nth_unstable_by(last, |a, b| b.1.cmp(&a.1));
    let last = NEIGHBOURS.min(others.len()).saturating_sub(1);
    let (nearest, least, _) = others.select_nth_unstable_by(last, |a, b| b.0.total_cmp(&a.0));
    let nearest = nearest.iter().chain([&*least]);
    nearest.filter(|&&(_, product)| product < found).count()
}
