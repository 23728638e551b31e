//! Vectors as 8-bit codes that are compared with a query one after the other: for items that are too new
//! for the graph, and too many for exact comparison.

use crate::index::codes::{encode_alone, stride};
use matchpoint_vector::kernels::codes::{CodeKernel, CodeWidth};

/// Codes of vectors of one dimension, each on a scale of its own.
pub struct CodedRows {
    codes: Box<[u8]>,
    /// What a code of one stands for, in each row.
    units: Box<[f32]>,
}

impl CodedRows {
    /// The codes of rows of `dimension` finite values each; an empty row counts as missing.
    #[must_use]
    pub fn new(rows: impl Iterator<Item = impl AsRef<[f32]>>, dimension: usize) -> Self {
        let (mut codes, mut units, mut row_codes) = (Vec::new(), Vec::new(), Vec::new());
        for row in rows {
            let largest = encode_alone(row.as_ref(), &mut row_codes);
            row_codes.resize(stride(dimension, CodeWidth::Eight), 0);
            codes.extend_from_slice(&row_codes);
            units.push(largest / CodeWidth::Eight.greatest());
        }
        Self {
            codes: codes.into(),
            units: units.into(),
        }
    }
}

/// A query as codes, and the memory to compare it with rows.
pub struct CodedQuery {
    codes: Vec<u8>,
    unit: f32,
    kernel: CodeKernel,
    rows: Vec<u32>,
    products: Vec<i32>,
}

impl CodedQuery {
    /// The codes of a query of finite values.
    #[must_use]
    pub fn new(query: &[f32]) -> Self {
        let mut codes = Vec::new();
        let largest = encode_alone(query, &mut codes);
        Self {
            codes,
            unit: largest / CodeWidth::Eight.greatest(),
            kernel: CodeKernel::detect(CodeWidth::Eight),
            rows: Vec::new(),
            products: Vec::new(),
        }
    }

    /// The inner product with each row, to about a hundredth for vectors of unit length.
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
        for dimension in [1, 3, 64, 100, 1280] {
            let rows: Vec<Vec<f32>> = (0..9).map(|_| draw(dimension)).collect();
            let query = draw(dimension);
            let coded = CodedRows::new(rows.iter().map(Vec::as_slice), dimension);
            let mut coded_query = CodedQuery::new(&query);
            let found: Vec<f32> = coded_query.products(&coded).collect();
            assert_eq!(found.len(), rows.len());
            for (row, found) in rows.iter().zip(found) {
                let exact = dot(row, &query);
                assert!(
                    (exact - found).abs() < 0.01,
                    "{dimension}: {found} for {exact}"
                );
            }
        }
    }

    #[test]
    fn rows_that_are_gone_and_zeros_have_no_product() {
        let rows: [&[f32]; 3] = [&[], &[0.0, 0.0], &[0.0, 1.0]];
        let coded = CodedRows::new(rows.into_iter(), 2);
        let found: Vec<f32> = CodedQuery::new(&[0.6, 0.8]).products(&coded).collect();
        assert_eq!(found[..2], [0.0, 0.0]);
        assert!((found[2] - 0.8).abs() < 0.01);
    }
}
