//! Products of matrices in `f64`, for fitting: blocked, and on one core.

/// A matrix that is read, not owned: rows or columns of it lie one after the other.
#[derive(Clone, Copy, Debug)]
pub struct MatrixView<'a> {
    values: &'a [f64],
    rows: usize,
    columns: usize,
    row_stride: usize,
    column_stride: usize,
}

impl<'a> MatrixView<'a> {
    /// Rows of `columns` values each, one after the other.
    ///
    /// # Panics
    /// If there are no columns, or the last row is not whole.
    #[must_use]
    pub fn by_rows(values: &'a [f64], columns: usize) -> Self {
        assert!(
            0 < columns && values.len().is_multiple_of(columns),
            "whole rows"
        );
        Self {
            values,
            rows: values.len() / columns,
            columns,
            row_stride: columns,
            column_stride: 1,
        }
    }

    /// The same values, with rows and columns exchanged.
    #[must_use]
    pub fn transposed(self) -> Self {
        Self {
            values: self.values,
            rows: self.columns,
            columns: self.rows,
            row_stride: self.column_stride,
            column_stride: self.row_stride,
        }
    }

    /// The number of rows.
    #[must_use]
    pub fn rows(self) -> usize {
        self.rows
    }

    /// The number of columns.
    #[must_use]
    pub fn columns(self) -> usize {
        self.columns
    }

    /// Some of the rows, `count` from `from` on.
    ///
    /// # Panics
    /// If there are not so many.
    #[must_use]
    pub fn some_rows(self, from: usize, count: usize) -> Self {
        assert!(from + count <= self.rows, "no more rows than there are");
        let start = from * self.row_stride;
        Self {
            values: self.values.get(start..).unwrap_or_default(),
            rows: count,
            ..self
        }
    }

    /// Whether the last element lies within the values.
    fn is_whole(self) -> bool {
        match (self.rows.checked_sub(1), self.columns.checked_sub(1)) {
            (Some(row), Some(column)) => {
                row * self.row_stride + column * self.column_stride < self.values.len()
            }
            _ => true,
        }
    }
}

/// `into` becomes `a * b + keep * into`, row by row. One element depends on its row and its column only, and
/// not on how many others are computed with it; on another CPU its last bits may differ.
///
/// # Panics
/// If the shapes do not fit.
pub fn multiply_matrices(a: MatrixView<'_>, b: MatrixView<'_>, keep: f64, into: &mut [f64]) {
    assert_eq!(
        a.columns, b.rows,
        "as many columns on the left as rows on the right"
    );
    assert_eq!(into.len(), a.rows * b.columns, "one value for each element");
    assert!(a.is_whole() && b.is_whole(), "matrices that are all there");
    let stride = |stride: usize| isize::try_from(stride).unwrap_or(isize::MAX);
    #[expect(
        unsafe_code,
        reason = "the last element of each of the three matrices was found to lie within its slice"
    )]
    unsafe {
        matrixmultiply::dgemm(
            a.rows,
            a.columns,
            b.columns,
            1.0,
            a.values.as_ptr(),
            stride(a.row_stride),
            stride(a.column_stride),
            b.values.as_ptr(),
            stride(b.row_stride),
            stride(b.column_stride),
            keep,
            into.as_mut_ptr(),
            stride(b.columns),
            1,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(count: usize, seed: usize) -> Vec<f64> {
        let value =
            |i: usize| f64::from(u8::try_from((i * 37 + seed) % 251).unwrap()) / 250.0 - 0.5;
        (0..count).map(value).collect()
    }

    #[test]
    fn products_are_those_of_the_definition_transposed_or_not() {
        let (a, b) = (values(5 * 7, 1), values(7 * 3, 2));
        let at = |i: usize, j: usize| (0..7).map(|k| a[i * 7 + k] * b[k * 3 + j]).sum::<f64>();
        let mut product = vec![1.0; 15];
        let (left, right) = (MatrixView::by_rows(&a, 7), MatrixView::by_rows(&b, 3));
        multiply_matrices(left, right, 2.0, &mut product);
        for (i, row) in product.chunks(3).enumerate() {
            for (j, value) in row.iter().enumerate() {
                assert!((value - at(i, j) - 2.0).abs() < 1e-14);
            }
        }
        let mut other = vec![f64::NAN; 15];
        multiply_matrices(right.transposed(), left.transposed(), 0.0, &mut other);
        for i in 0..5 {
            for j in 0..3 {
                assert!((other[j * 5 + i] - at(i, j)).abs() < 1e-14);
            }
        }
        let mut part = vec![0.0; 6];
        multiply_matrices(left.some_rows(2, 2), right, 0.0, &mut part);
        assert!((part[3] - at(3, 0)).abs() < 1e-14);
    }

    #[test]
    #[should_panic(expected = "as many columns")]
    fn shapes_that_do_not_fit_are_refused() {
        let values = values(6, 0);
        let matrix = MatrixView::by_rows(&values, 3);
        multiply_matrices(matrix, matrix, 0.0, &mut [0.0; 4]);
    }
}
