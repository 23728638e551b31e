//! The number of pairs of images for each two labels, and sums over them in closed form.

use super::error::AnalysisError;
use crate::binomial::real;

/// The number of non-mated pairs for each two labels; labels are numbered from 0.
#[derive(Clone, Debug)]
pub struct PairCounts(PairDesign);

#[derive(Clone, Debug)]
enum PairDesign {
    /// Labels a and b have `(q_a g_b + q_b g_a) / each` pairs.
    Product {
        queries: Vec<u64>,
        gallery: Vec<u64>,
        each: u64,
    },
    Listed {
        labels: usize,
        pairs: Vec<Dyad>,
    },
}

/// A count of pairs between two labels, a < b.
#[derive(Clone, Copy, Debug)]
pub(super) struct Dyad {
    pub(super) a: usize,
    pub(super) b: usize,
    pub(super) pairs: u64,
}

impl PairCounts {
    /// All unordered pairs of one set, given the number of rows of every label: labels a and b have `n_a n_b`
    /// pairs.
    #[must_use]
    pub fn all_pairs(rows: Vec<u64>) -> Self {
        Self(PairDesign::Product {
            queries: rows.clone(),
            gallery: rows,
            each: 2,
        })
    }

    /// All pairs of a query and a gallery item with different labels, given the numbers of rows by label on
    /// both sides: labels a and b have `q_a g_b + q_b g_a` pairs. A missing label has no rows.
    #[must_use]
    pub fn cross(mut queries: Vec<u64>, mut gallery: Vec<u64>) -> Self {
        let labels = queries.len().max(gallery.len());
        queries.resize(labels, 0);
        gallery.resize(labels, 0);
        Self(PairDesign::Product {
            queries,
            gallery,
            each: 1,
        })
    }

    /// Any other choice of pairs, as triples (label a, label b, pairs) with a < b, in ascending order and
    /// without repetition; labels are below `labels`.
    ///
    /// # Errors
    /// Returns an error if the order is another, if a label is not below `labels`, or if a label is paired with
    /// itself.
    pub fn listed(labels: usize, pairs: &[(u32, u32, u64)]) -> Result<Self, AnalysisError> {
        let pairs = ordered(
            pairs.iter().copied(),
            |_, b| if b < labels { u64::MAX } else { 0 },
        )?;
        Ok(Self(PairDesign::Listed { labels, pairs }))
    }

    pub(super) fn labels(&self) -> usize {
        match &self.0 {
            PairDesign::Product { queries, .. } => queries.len(),
            PairDesign::Listed { labels, .. } => *labels,
        }
    }

    pub(super) fn between(&self, a: usize, b: usize) -> u64 {
        match &self.0 {
            PairDesign::Product {
                queries,
                gallery,
                each,
            } => {
                let at = |side: &[u64], label: usize| side.get(label).copied().unwrap_or(0);
                (at(queries, a) * at(gallery, b) + at(queries, b) * at(gallery, a)) / each
            }
            PairDesign::Listed { pairs, .. } => pairs
                .binary_search_by_key(&(a, b), |dyad| (dyad.a, dyad.b))
                .ok()
                .and_then(|found| pairs.get(found))
                .map_or(0, |dyad| dyad.pairs),
        }
    }

    /// Sums over the pairs of labels, each weighted by the product of the labels' weights. The sum of squares
    /// is valid for weights of 0 and 1 only.
    pub(super) fn sums(&self, weights: &[u64]) -> Sums {
        match &self.0 {
            PairDesign::Product {
                queries,
                gallery,
                each,
            } => Sums::of_product(queries, gallery, real(*each), weights),
            PairDesign::Listed { labels, pairs } => Sums::of_list(*labels, pairs, weights),
        }
    }

    /// The size of a largest set of disjoint pairs of labels that have pairs of images between them. For a list
    /// of pairs, a greedy search gives a lower bound.
    pub(super) fn disjoint(&self, weights: &[u64]) -> u64 {
        match &self.0 {
            PairDesign::Product {
                queries, gallery, ..
            } => {
                // This is a maximum matching. Any two labels can be paired, unless both have queries only or
                // both have gallery items only. So the labels fall into classes without pairs inside: the two
                // one-sided classes, and one class for each other label. In such a complete multipartite graph,
                // the size of a maximum matching is half of all labels, or the number of labels outside the
                // largest class if that is less.
                let sides = || {
                    queries
                        .iter()
                        .zip(gallery)
                        .zip(weights)
                        .filter(|side| 0 < *side.1)
                };
                let count = |wanted: fn(bool, bool) -> bool| {
                    sides()
                        .filter(|((q, g), _)| wanted(0 < **q, 0 < **g))
                        .count() as u64
                };
                let all = count(|q, g| q || g);
                let one_sided = count(|q, g| q && !g).max(count(|q, g| g && !q)).max(1);
                (all / 2).min(all.saturating_sub(one_sided))
            }
            PairDesign::Listed { labels, pairs } => {
                let mut free: Vec<bool> = (0..*labels).map(|l| 0 < weight(weights, l)).collect();
                let is_free = |free: &[bool], l: usize| free.get(l).copied().unwrap_or(false);
                let mut disjoint = 0;
                for dyad in pairs.iter().filter(|dyad| 0 < dyad.pairs) {
                    if is_free(&free, dyad.a) && is_free(&free, dyad.b) {
                        for label in [dyad.a, dyad.b] {
                            free.get_mut(label)
                                .into_iter()
                                .for_each(|slot| *slot = false);
                        }
                        disjoint += 1;
                    }
                }
                disjoint
            }
        }
    }
}

/// Checks triples: strictly ascending order, and at most `most(a, b)` pairs in each.
pub(super) fn ordered(
    triples: impl IntoIterator<Item = (u32, u32, u64)>,
    most: impl Fn(usize, usize) -> u64,
) -> Result<Vec<Dyad>, AnalysisError> {
    let mut dyads: Vec<Dyad> = Vec::new();
    for (label_a, label_b, count) in triples {
        let (a, b) = (label_a as usize, label_b as usize);
        let in_order = a < b && dyads.last().is_none_or(|last| (last.a, last.b) < (a, b));
        let pairs = if in_order { most(a, b) } else { 0 };
        if !in_order || pairs < count || pairs == 0 {
            return Err(AnalysisError::Dyad {
                label_a,
                label_b,
                count,
                pairs,
            });
        }
        dyads.push(Dyad { a, b, pairs: count });
    }
    Ok(dyads)
}

/// Sums over the numbers of pairs `m_ab` of labels a < b.
pub(super) struct Sums {
    /// Sum of `m_ab`.
    pub(super) pairs: f64,
    /// Sum of `m_ab^2`.
    pub(super) squares: f64,
    /// For each label a, the sum of `m_ab` over b.
    pub(super) per_label: Vec<f64>,
}

impl Sums {
    /// Computed in closed form: G labels need G steps instead of G^2.
    fn of_product(queries: &[u64], gallery: &[u64], each: f64, weights: &[u64]) -> Self {
        let rows = || {
            let sides = queries.iter().zip(gallery).zip(weights);
            sides.map(|((&q, &g), &w)| (real(q) * real(w), real(g) * real(w)))
        };
        let sum = |of: fn((f64, f64)) -> f64| rows().map(of).sum::<f64>();
        let (q_sum, g_sum, both) = (sum(|r| r.0), sum(|r| r.1), sum(|r| r.0 * r.1));
        // The sum over a < b of (q_a g_b + q_b g_a)^2 equals the sum over a != b of q_a^2 g_b^2 + q_a g_a q_b
        // g_b, which is products of sums minus their diagonals.
        let squares = sum(|r| r.0 * r.0) * sum(|r| r.1 * r.1) + both * both
            - 2.0 * sum(|r| r.0 * r.0 * r.1 * r.1);
        let per_label = rows().map(|(q, g)| (q * (g_sum - g) + g * (q_sum - q)) / each);
        Self {
            pairs: (q_sum * g_sum - both) / each,
            squares: squares / (each * each),
            per_label: per_label.collect(),
        }
    }

    fn of_list(labels: usize, pairs: &[Dyad], weights: &[u64]) -> Self {
        let mut sums = Self {
            pairs: 0.0,
            squares: 0.0,
            per_label: vec![0.0; labels],
        };
        for dyad in pairs {
            let count = real(dyad.pairs) * real(weight(weights, dyad.a) * weight(weights, dyad.b));
            sums.pairs += count;
            sums.squares += count * count;
            add(&mut sums.per_label, dyad, count);
        }
        sums
    }

    pub(super) fn minus(mut self, other: &Self) -> Self {
        self.pairs -= other.pairs;
        self.squares -= other.squares;
        for (mine, theirs) in self.per_label.iter_mut().zip(&other.per_label) {
            *mine -= theirs;
        }
        self
    }
}

pub(super) fn weight(weights: &[u64], label: usize) -> u64 {
    weights.get(label).copied().unwrap_or(0)
}

pub(super) fn add(per_label: &mut [f64], dyad: &Dyad, count: f64) {
    for label in [dyad.a, dyad.b] {
        if let Some(sum) = per_label.get_mut(label) {
            *sum += count;
        }
    }
}
