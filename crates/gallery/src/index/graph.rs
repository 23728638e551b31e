//! The index: finds the rows nearest to a query.

use std::sync::Arc;

use crate::index::bits::Bits;
use crate::index::breadth::SearchBreadth;
use crate::index::build::{BuildParams, build};
use crate::index::codes::{Codes, UnitVectors, encode_all, encode_query, stride};
use crate::index::duplicates::{Duplicates, group};
use crate::index::error::IndexError;
use crate::index::file::{self, IndexHeader, IndexLayout, Sections};
use crate::index::links::Links;
use crate::index::scratch::Scratch;
use crate::index::search::{IndexSearch, ScoredRow};
use crate::index::traversal::{ScanBuffers, prefetch_vector, scan, traverse_all};
use crate::index::width::{NEIGHBOURS, width_for};
use matchpoint_vector::kernels;
use matchpoint_vector::kernels::codes::{CodeKernel, CodeWidth};

/// Bytes that the caller owns in any form, such as a buffer or a mapped file.
pub type Bytes = Arc<dyn AsRef<[u8]> + Send + Sync>;

/// An immutable index of rows by number. It contains codes and links, but no vectors.
pub struct Graph {
    bytes: Bytes,
    header: IndexHeader,
    layout: IndexLayout,
    kernel: CodeKernel,
}

/// The way in which a search is done.
struct SearchPlan {
    ef: usize,
    scan: bool,
}

/// Number of vectors that are compared exactly: this many for each neighbour, plus `EXACT_BESIDES`. With fewer,
/// the rounding of the codes would begin to reduce recall.
const EXACT_PER_NEIGHBOUR: usize = 2;
const EXACT_BESIDES: usize = 12;

/// Scanning this many rows costs as much as one candidate of a traversal.
const SCANNED_PER_CANDIDATE: usize = 24;

/// A traversal with a filter keeps enough candidates that this many times `k` of them are expected to be
/// allowed.
const FILTERED_MARGIN: usize = 2;

impl Graph {
    /// Builds an index of unit vectors with all threads of the current `rayon` pool.
    ///
    /// Equal rows, parameters and `fingerprint` give the same bytes, whatever the number of threads and the
    /// CPU. The fingerprint identifies the rows; it is stored but not interpreted.
    ///
    /// # Errors
    /// Returns an error if a parameter is out of range.
    pub fn build(
        rows: UnitVectors<'_>,
        params: BuildParams,
        fingerprint: [u8; 32],
    ) -> Result<Self, IndexError> {
        params.check()?;
        let mut width = CodeWidth::Eight;
        let mut bytes = encode_all(rows, width);
        let narrow = Codes::new(&bytes, rows.dimension(), width);
        if width_for(rows, &narrow, exact(NEIGHBOURS)) == CodeWidth::Sixteen {
            width = CodeWidth::Sixteen;
            bytes = encode_all(rows, width);
        }
        let codes = Codes::new(&bytes, rows.dimension(), width);
        let grouped = group(rows, &bytes, codes.stride);
        let draft = build(&codes, rows.count(), &grouped.firsts, params);
        let kernel = codes.kernel;
        let header = IndexHeader {
            dimension: rows.dimension(),
            rows: rows.count(),
            width,
            params,
            sizes: draft.sizes,
            fingerprint,
            breadth: draft.breadth,
            groups: 0,
            duplicates: 0,
        };
        let parts = Sections {
            codes: bytes,
            bottom: draft.bottom,
            upper: draft.upper,
            upper_rows: draft.upper_rows,
            groups: grouped.groups,
            duplicates: grouped.rows,
        };
        let (header, layout, file) = file::write(header, &parts);
        Ok(Self {
            bytes: Arc::new(file),
            header,
            layout,
            kernel,
        })
    }

    /// Makes an index from the bytes that [`Self::as_bytes`] gave, after checking all of them. They are not
    /// copied. Searches are fastest if the bytes start at a multiple of 64.
    ///
    /// # Errors
    /// Returns an error for bytes of another format, and for any that differ from what was written.
    pub fn from_bytes(bytes: Bytes) -> Result<Self, IndexError> {
        let (header, layout) = file::read((*bytes).as_ref())?;
        let kernel = CodeKernel::detect(header.width);
        Ok(Self {
            bytes,
            header,
            layout,
            kernel,
        })
    }

    /// The index in its stored form.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        (*self.bytes).as_ref()
    }

    /// Number of rows.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.header.rows
    }

    /// Number of values in a row.
    #[must_use]
    pub fn dimension(&self) -> usize {
        self.header.dimension
    }

    /// The parameters that it was built with.
    #[must_use]
    pub fn params(&self) -> BuildParams {
        self.header.params
    }

    /// The number of bits of its codes.
    #[must_use]
    pub fn width(&self) -> CodeWidth {
        self.header.width
    }

    /// How many candidates a search has to keep, as measured when it was built.
    #[must_use]
    pub fn breadth(&self) -> SearchBreadth {
        self.header.breadth
    }

    /// The fingerprint that identifies the rows.
    #[must_use]
    pub fn fingerprint(&self) -> [u8; 32] {
        self.header.fingerprint
    }

    /// Bytes in memory for each row, without the vectors, which the caller stores.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "a figure to be shown")]
    pub fn bytes_per_row(&self) -> f64 {
        self.as_bytes().len() as f64 / self.header.rows.max(1) as f64
    }

    /// The nearest rows, best first; among equal scores, the lower row number comes first.
    ///
    /// `vector_of` returns the vector of a row, or `None` for a row that was removed. Fewer than `k` neighbours
    /// are found only if fewer rows are allowed and exist. Some of the true neighbours may be missed, but every
    /// score is exact. The same index, vectors and search give the same answer on every CPU.
    ///
    /// # Errors
    /// Returns an error for a query of another dimension and for a filter of another number of rows.
    pub fn search<'v, 's>(
        &self,
        search: &IndexSearch<'_>,
        vector_of: impl Fn(u32) -> Option<&'v [f32]>,
        scratch: &'s mut Scratch,
    ) -> Result<&'s [ScoredRow], IndexError> {
        let expected = self.header.dimension;
        if search.vector.len() != expected {
            let found = search.vector.len();
            return Err(IndexError::QueryDimension { found, expected });
        }
        if let Some(allowed) = search.allowed
            && allowed.rows() != self.header.rows
        {
            let (found, expected) = (allowed.rows(), self.header.rows);
            return Err(IndexError::FilterLength { found, expected });
        }
        // At most as many as there are rows, so that memory is limited by the index and not by the request.
        let search = &IndexSearch {
            k: search.k.min(self.header.rows),
            ef: search.ef.min(self.header.rows),
            ..*search
        };
        let sections = self.layout.sections(self.as_bytes());
        let codes = Codes {
            bytes: sections.codes,
            stride: stride(self.header.dimension, self.header.width),
            kernel: self.kernel,
        };
        encode_query(search.vector, self.header.width, &mut scratch.query);
        let plan = self.plan(search);
        if !plan.scan {
            self.traverse(&sections, &codes, plan.ef, scratch);
            keep_allowed(search, &sections, scratch);
            score(search, &vector_of, scratch);
        }
        let wanted = search.k.min(self.allowed(search));
        if plan.scan || scratch.found.len() < wanted {
            self.scan(search, &codes, scratch);
            score(search, &vector_of, scratch);
        }
        if scratch.found.len() < wanted {
            // The vectors of removed rows are missing.
            scratch.survivors.clear();
            let rows = all_allowed(search, self.header.rows);
            scratch.survivors.extend(rows);
            score(search, &vector_of, scratch);
        }
        Ok(&scratch.found)
    }

    /// The number of rows that may be found.
    fn allowed(&self, search: &IndexSearch<'_>) -> usize {
        search.allowed.map_or(self.header.rows, Bits::count)
    }

    /// Chooses between a traversal and a scan. A traversal finds the nearest of all rows, so with a filter it
    /// has to keep more candidates, in inverse proportion to the share of allowed rows.
    fn plan(&self, search: &IndexSearch<'_>) -> SearchPlan {
        let allowed = self.allowed(search);
        let mut ef = search.ef.max(search.k).max(1);
        if allowed < self.header.rows {
            let wanted = (FILTERED_MARGIN * search.k).saturating_mul(self.header.rows);
            ef = ef.max(wanted.div_ceil(allowed.max(1)));
        }
        SearchPlan {
            ef,
            scan: allowed <= ef.saturating_mul(SCANNED_PER_CANDIDATE),
        }
    }

    fn traverse(
        &self,
        sections: &Sections<&[u8]>,
        codes: &Codes<'_>,
        ef: usize,
        scratch: &mut Scratch,
    ) {
        let links = Links {
            bottom: sections.bottom,
            upper: sections.upper,
            upper_rows: sections.upper_rows,
            sizes: &self.header.sizes,
            m: self.header.params.m,
        };
        traverse_all(&links, codes, ef, scratch);
    }

    fn scan(&self, search: &IndexSearch<'_>, codes: &Codes<'_>, scratch: &mut Scratch) {
        let Scratch {
            query,
            pool,
            fresh,
            products,
            survivors,
            ..
        } = scratch;
        let rows = || all_allowed(search, self.header.rows);
        pool.begin(exact(search.k));
        let block = ScanBuffers {
            rows: fresh,
            products,
        };
        scan(codes, query, rows(), block, |product, row| {
            pool.offer(product, row);
        });
        survivors.clear();
        let kth = pool.iter().nth(search.k.saturating_sub(1));
        let last = pool.iter().nth(exact(search.k) - 1);
        if let (Some((kth, _)), Some((last, _))) = (kth, last)
            && kth == last
        {
            // Rows whose codes are as near as the last one wanted may have nearer vectors.
            let block = ScanBuffers {
                rows: fresh,
                products,
            };
            scan(codes, query, rows(), block, |product, row| {
                if last <= product {
                    survivors.push(row);
                }
            });
            return;
        }
        survivors.extend(pool.iter().map(|(_, row)| row));
    }
}

/// The number of vectors that are compared exactly to find `k` neighbours.
fn exact(k: usize) -> usize {
    k.saturating_mul(EXACT_PER_NEIGHBOUR)
        .saturating_add(EXACT_BESIDES)
}

/// Every row that may be found.
#[expect(clippy::cast_possible_truncation, reason = "fewer than 2^31 rows")]
fn all_allowed<'a>(search: &IndexSearch<'a>, rows: usize) -> impl Iterator<Item = u32> + use<'a> {
    let all = if search.allowed.is_some() {
        0
    } else {
        rows as u32
    };
    let some = search.allowed.into_iter().flat_map(Bits::iter);
    (0..all).chain(some.map(|row| row as u32))
}

/// Selects the best allowed rows of the pool and their duplicates, for exact comparison.
fn keep_allowed(search: &IndexSearch<'_>, sections: &Sections<&[u8]>, scratch: &mut Scratch) {
    let Scratch {
        pool, survivors, ..
    } = scratch;
    let duplicates = Duplicates {
        groups: sections.groups,
        rows: sections.duplicates,
    };
    let is_allowed = |row: u32| {
        search
            .allowed
            .is_none_or(|bits| bits.contains(row as usize))
    };
    survivors.clear();
    for (_, row) in pool.iter() {
        if exact(search.k) <= survivors.len() {
            break;
        }
        if is_allowed(row) {
            survivors.push(row);
        }
        if duplicates.groups.is_empty() {
            continue;
        }
        if let Some(group) = duplicates.of(row) {
            // Equal vectors have equal scores, and among equal scores the first rows win.
            let most = if group.same_vectors {
                search.k
            } else {
                usize::MAX
            };
            survivors.extend(group.rows().filter(|&row| is_allowed(row)).take(most));
        }
    }
}

/// Compares the selected rows exactly and keeps the best.
fn score<'v>(
    search: &IndexSearch<'_>,
    vector_of: &impl Fn(u32) -> Option<&'v [f32]>,
    scratch: &mut Scratch,
) {
    let Scratch {
        survivors, found, ..
    } = scratch;
    for &row in &*survivors {
        if let Some(vector) = vector_of(row) {
            prefetch_vector(vector);
        }
    }
    found.clear();
    found.extend(survivors.iter().filter_map(|&row| {
        let vector = vector_of(row)?;
        let score = kernels::dot(search.vector, vector);
        (vector.len() == search.vector.len()).then_some(ScoredRow { row, score })
    }));
    found.sort_unstable_by(|a, b| {
        // Adding zero makes -0.0 compare like 0.0, as `==` does.
        (b.score + 0.0)
            .total_cmp(&(a.score + 0.0))
            .then(a.row.cmp(&b.row))
    });
    found.truncate(search.k);
}
