//! Compares vectors with a query one after the other, as codes. It is used for vectors that are too new for the
//! graph and too many to be compared exactly.

use crate::index::codes::{encode_alone, stride};
use matchpoint_vector::kernels::codes::{CodeKernel, CodeWidth};

/// The codes of vectors of one dimension, each on its own scale.
pub struct CodedRows {
    codes: Box<[u8]>,
    /// The value of a code of one, for each row.
    units: Box<[f32]>,
    width: CodeWidth,
}

impl CodedRows {
    /// Encodes rows of `dimension` finite values each; an empty row counts as missing.
    #[must_use]
    pub fn new(
        rows: impl Iterator<Item = impl AsRef<[f32]>>,
        dimension: usize,
        width: CodeWidth,
    ) -> Self {
        let (mut codes, mut units, mut row_codes) = (Vec::new(), Vec::new(), Vec::new());
        for row in rows {
            let greatest = encode_alone(row.as_ref(), width, &mut row_codes);
            row_codes.resize(stride(dimension, width), 0);
            codes.extend_from_slice(&row_codes);
            units.push(greatest / width.greatest());
        }
        Self {
            codes: codes.into(),
            units: units.into(),
            width,
        }
    }
}

/// A query as codes, with the memory to compare it with rows.
pub struct CodedQuery {
    codes: Vec<u8>,
    unit: f32,
    width: CodeWidth,
    kernel: CodeKernel,
    rows: Vec<u32>,
    products: Vec<i32>,
}

impl CodedQuery {
    /// Encodes a query of finite values.
    #[must_use]
    pub fn new(query: &[f32], width: CodeWidth) -> Self {
        let mut codes = Vec::new();
        let greatest = encode_alone(query, width, &mut codes);
        Self {
            codes,
            unit: greatest / width.greatest(),
            width,
            kernel: CodeKernel::detect(width),
            rows: Vec::new(),
            products: Vec::new(),
        }
    }

    /// A query that can be compared with `rows`: the present one if it fits, or a new one.
    pub fn for_codes<'a>(
        there: &'a mut Option<Self>,
        query: &[f32],
        rows: &CodedRows,
    ) -> &'a mut Self {
        let fits = there.take_if(|there| there.width == rows.width);
        there.insert(fits.unwrap_or_else(|| Self::new(query, rows.width)))
    }

    /// The inner product with each row, which must have codes of the same width. With eight bits and unit
    /// vectors, it is accurate to about a hundredth.
    pub fn products(&mut self, rows: &CodedRows) -> impl Iterator<Item = f32> {
        self.rows.clear();
        self.rows.extend((0..).take(rows.units.len()));
        self.products.clear();
        let Self {
            codes,
            rows: numbers,
            products,
            ..
        } = self;
        self.kernel.products(codes, &rows.codes, numbers, products);
        let products = products.iter().zip(&rows.units);
        products.map(|(product, unit)| {
            #[expect(
                clippy::cast_precision_loss,
                reason = "far less than that of the codes"
            )]
            let product = *product as f32;
            product * unit * self.unit
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use matchpoint_vector::kernels::dot;

    #[test]
    fn products_are_nearly_those_of_the_vectors() {
        let mut state = 1_u32;
        let mut draw = |dimension: usize| {
            let mut row: Vec<f32> = (0..dimension)
                .map(|_| {
                    state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    f32::from(u16::try_from(state >> 16).unwrap()) / 32_768.0 - 1.0
                })
                .collect();
            let norm = dot(&row, &row).sqrt();
            row.iter_mut().for_each(|value| *value /= norm);
            row
        };
        for (width, error) in [(CodeWidth::Eight, 0.01), (CodeWidth::Sixteen, 1e-4)] {
            for dimension in [1, 3, 64, 100, 1280] {
                let rows: Vec<Vec<f32>> = (0..9).map(|_| draw(dimension)).collect();
                let query = draw(dimension);
                let coded = CodedRows::new(rows.iter().map(Vec::as_slice), dimension, width);
                let mut coded_query = CodedQuery::new(&query, width);
                let found: Vec<f32> = coded_query.products(&coded).collect();
                assert_eq!(found.len(), rows.len());
                for (row, found) in rows.iter().zip(found) {
                    let exact = dot(row, &query);
                    assert!(
                        (exact - found).abs() < error,
                        "{width:?}, {dimension}: {found} for {exact}"
                    );
                }
            }
        }
    }

    #[test]
    fn rows_that_are_gone_and_zeros_have_no_product() {
        let rows: [&[f32]; 3] = [&[], &[0.0, 0.0], &[0.0, 1.0]];
        let coded = CodedRows::new(rows.into_iter(), 2, CodeWidth::Eight);
        let found: Vec<f32> = CodedQuery::new(&[0.6, 0.8], CodeWidth::Eight)
            .products(&coded)
            .collect();
        assert_eq!(found[..2], [0.0, 0.0]);
        assert!((found[2] - 0.8).abs() < 0.01);
    }
}
