//! Encodes vectors with eight or sixteen bits per value, on one scale for all of them.

use rayon::iter::{IndexedParallelIterator, ParallelIterator};
use rayon::slice::{ParallelSlice, ParallelSliceMut};

use crate::index::error::IndexError;
use matchpoint_vector::kernels::codes::{CodeKernel, CodeWidth};
use matchpoint_vector::kernels::{CODE_BLOCK, dot};

/// The highest number of values in a row, so that inner products of codes fit in an `i32`.
pub const DIMENSION_MAX: usize = 65_536;

/// The highest number of rows in an index, so that row numbers leave one bit free.
pub const ROWS_MAX: usize = (1 << 31) - 2;

/// Vectors of one dimension in one block.
#[derive(Clone, Copy, Debug)]
pub struct UnitVectors<'a> {
    values: &'a [f32],
    dimension: usize,
}

impl<'a> UnitVectors<'a> {
    /// Rows of `dimension` finite values each, which must have unit length.
    ///
    /// # Errors
    /// Returns an error for a dimension outside 1..=[`DIMENSION_MAX`], for an incomplete row, and for too many
    /// rows.
    pub fn new(values: &'a [f32], dimension: usize) -> Result<Self, IndexError> {
        if !(1..=DIMENSION_MAX).contains(&dimension) || !values.len().is_multiple_of(dimension) {
            return Err(IndexError::Shape {
                values: values.len(),
                dimension,
                max: DIMENSION_MAX,
            });
        }
        let found = values.len() / dimension;
        if ROWS_MAX < found {
            let max = ROWS_MAX;
            return Err(IndexError::Rows { found, max });
        }
        Ok(Self { values, dimension })
    }

    /// Number of values in a row.
    #[must_use]
    pub fn dimension(&self) -> usize {
        self.dimension
    }

    /// Number of rows.
    #[must_use]
    pub fn count(&self) -> usize {
        self.values.len() / self.dimension
    }

    /// A row by its number.
    #[must_use]
    pub fn get(&self, row: u32) -> Option<&'a [f32]> {
        let start = row as usize * self.dimension;
        self.values.get(start..start + self.dimension)
    }

    /// The value with code 127. At most one in 10,000 absolute values is greater, and such values are clipped.
    ///
    /// It is found with a histogram of 65,536 bins, so that it depends neither on the order of the rows nor on
    /// the number of threads. 1 if all values are zero.
    pub(super) fn clip(&self) -> f32 {
        const BINS: usize = 1 << 16;
        let bin = |value: f32| (value.abs().to_bits() >> 15) as usize;
        let counts = self
            .values
            .par_chunks(1 << 18)
            .fold(
                || vec![0_u64; BINS],
                |mut counts, values| {
                    for &value in values {
                        if let Some(count) = counts.get_mut(bin(value)) {
                            *count += 1;
                        }
                    }
                    counts
                },
            )
            .reduce(
                || vec![0; BINS],
                |mut sum, counts| {
                    sum.iter_mut().zip(counts).for_each(|(a, b)| *a += b);
                    sum
                },
            );
        let mut above = 0;
        let spared = self.values.len() as u64 / 10_000;
        for (bin, count) in counts.into_iter().enumerate().rev() {
            above += count;
            if spared < above {
                #[expect(clippy::cast_possible_truncation, reason = "at most 65,536")]
                let upper = f32::from_bits((bin as u32 + 1) << 15);
                let usable = bin != 0 && upper.is_finite();
                return if usable { upper } else { 1.0 };
            }
        }
        1.0
    }
}

/// Number of bytes of a row of codes, rounded up to whole cache lines.
pub(super) fn stride(dimension: usize, width: CodeWidth) -> usize {
    (dimension * width.bytes()).next_multiple_of(CODE_BLOCK)
}

/// The codes of all rows in one block, on one scale.
///
/// With eight bits, the scale covers nearly all values ([`UnitVectors::clip`]); with sixteen it covers every
/// possible value of a unit vector.
pub(super) fn encode_all(rows: UnitVectors<'_>, width: CodeWidth) -> Vec<u8> {
    let clip = match width {
        CodeWidth::Eight => rows.clip(),
        CodeWidth::Sixteen => 1.0,
    };
    let stride = stride(rows.dimension, width);
    let mut codes = vec![0; rows.count() * stride];
    codes
        .par_chunks_exact_mut(stride)
        .zip(rows.values.par_chunks_exact(rows.dimension))
        .for_each(|(codes, row)| encode(row, width, clip, codes));
    codes
}

/// The codes of one row, rounded to the nearest; values of `clip` and beyond get the highest code.
fn encode(row: &[f32], width: CodeWidth, clip: f32, codes: &mut [u8]) {
    let greatest = width.greatest();
    let scale = greatest / clip;
    let rounded = |value: f32| {
        // Adding this number leaves no bits after the point, which rounds to an integer. It is faster than
        // `round`, which also has to handle numbers that do not occur here.
        const ROUND: f32 = 12_582_912.0;
        let scaled = (value * scale).clamp(-greatest, greatest);
        #[expect(
            clippy::cast_possible_truncation,
            reason = "an integer within the codes"
        )]
        let code = ((scaled + ROUND) - ROUND) as i16;
        code
    };
    match width {
        CodeWidth::Eight => {
            for (code, &value) in codes.iter_mut().zip(row) {
                let [low, _] = rounded(value).to_le_bytes();
                *code = low;
            }
        }
        CodeWidth::Sixteen => {
            let (codes, _) = codes.as_chunks_mut();
            for (code, &value) in codes.iter_mut().zip(row) {
                *code = rounded(value).to_le_bytes();
            }
        }
    }
}

/// The codes of a query, scaled so that they use the whole range.
///
/// The query's own scale multiplies all of its products by the same factor, so their order is that of the
/// similarities.
pub(super) fn encode_query(query: &[f32], width: CodeWidth, codes: &mut Vec<u8>) {
    encode_alone(query, width, codes);
}

/// The codes of a vector on its own scale, such that products of codes fit in an `i32`. With eight bits, the
/// vector's highest value gets the highest code; with sixteen bits, a value equal to the vector's length would.
/// Returns the value with the highest code.
pub(super) fn encode_alone(vector: &[f32], width: CodeWidth, codes: &mut Vec<u8>) -> f32 {
    let greatest = match width {
        CodeWidth::Eight => vector.iter().fold(0.0_f32, |largest, value| {
            if largest < value.abs() {
                value.abs()
            } else {
                largest
            }
        }),
        CodeWidth::Sixteen => dot(vector, vector).sqrt(),
    };
    encode_by(vector, width, greatest, codes);
    greatest
}

/// The codes of a vector on the scale `clip`; zeros if there is no scale.
fn encode_by(vector: &[f32], width: CodeWidth, clip: f32, codes: &mut Vec<u8>) {
    codes.clear();
    codes.resize(stride(vector.len(), width), 0);
    if 0.0 < clip {
        encode(vector, width, clip, codes);
    }
}

/// The codes of all rows, with the kernel that computes their products.
#[derive(Clone, Copy)]
pub(super) struct Codes<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) stride: usize,
    pub(super) kernel: CodeKernel,
}

impl<'a> Codes<'a> {
    pub(super) fn new(bytes: &'a [u8], dimension: usize, width: CodeWidth) -> Self {
        Self {
            bytes,
            stride: stride(dimension, width),
            kernel: CodeKernel::detect(width),
        }
    }

    /// The codes of one row; empty if the row does not exist.
    pub(super) fn row(&self, row: u32) -> &'a [u8] {
        let start = row as usize * self.stride;
        self.bytes.get(start..start + self.stride).unwrap_or(&[])
    }

    pub(super) fn products(&self, query: &[u8], rows: &[u32], products: &mut Vec<i32>) {
        self.kernel.products(query, self.bytes, rows, products);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_no_or_another_length_are_refused() {
        assert!(UnitVectors::new(&[1.0; 6], 0).is_err());
        assert!(UnitVectors::new(&[1.0; 6], 4).is_err());
        assert!(UnitVectors::new(&[], DIMENSION_MAX + 1).is_err());
        assert_eq!(UnitVectors::new(&[], 4).unwrap().count(), 0);
        assert_eq!(UnitVectors::new(&[1.0; 6], 3).unwrap().get(2), None);
    }

    #[test]
    fn one_value_in_ten_thousand_is_cut_off() {
        let mut values: Vec<f32> = (0..30_000_u16).map(|i| f32::from(i) / 60_000.0).collect();
        for outlier in [7, 700, 7_000] {
            values[outlier] = 1.0;
        }
        let clip = UnitVectors::new(&values, 10).unwrap().clip();
        assert!((0.499..0.504).contains(&clip), "{clip}");
        assert!((UnitVectors::new(&[0.0; 8], 4).unwrap().clip() - 1.0).abs() < f32::EPSILON);
    }

    #[test]
    fn codes_are_symmetric_and_never_minus_128() {
        let row = [0.0, 0.5, -0.5, 2.0, -2.0, 0.249, f32::NAN];
        let mut codes = vec![0; stride(7, CodeWidth::Eight)];
        encode(&row, CodeWidth::Eight, 0.5, &mut codes);
        assert_eq!(codes.len(), 64);
        let signed: Vec<i8> = codes[..7].iter().map(|code| code.cast_signed()).collect();
        assert_eq!(signed, [0, 127, -127, 127, -127, 63, 0]);
    }

    #[test]
    fn a_query_uses_its_whole_range() {
        let mut codes = Vec::new();
        encode_query(&[0.1, -0.2, 0.05], CodeWidth::Eight, &mut codes);
        assert_eq!(codes[..3], [64, 127_u8.wrapping_neg(), 32]);
        encode_query(&[3.0, -4.0, 0.0], CodeWidth::Sixteen, &mut codes);
        let code = |at: usize| i16::from_le_bytes([codes[2 * at], codes[2 * at + 1]]);
        assert_eq!([code(0), code(1), code(2)], [19_660, -26_214, 0]);
        for width in [CodeWidth::Eight, CodeWidth::Sixteen] {
            encode_query(&[0.0; 3], width, &mut codes);
            assert!(codes.iter().all(|&code| code == 0));
        }
    }
}
