//! Dot products by CPU feature, which are all the same to the last bit, and products of whole blocks, which are
//! faster but not the same to the last bit.
//!
//! One function body is compiled for each instruction set. It uses sixteen partial sums and adds them in a
//! fixed tree, and never uses fused multiply-add. So a score does not depend on the machine that computed it.

pub mod codes;
pub mod map;
pub mod matrix;
pub mod resample;

mod int16;
mod int8;

/// Codes in a row are padded with zeros to a multiple of this many bytes: one cache line.
pub const CODE_BLOCK: usize = 64;

/// Independent partial sums; sixteen `f32` fill one AVX-512 register or two AVX2 registers.
const LANES: usize = 16;

/// The inner product of two vectors, with a fixed order of summation.
///
/// Components beyond the shorter vector are ignored; callers compare the lengths first.
#[must_use]
pub fn dot(a: &[f32], b: &[f32]) -> f32 {
    #[cfg(target_arch = "x86_64")]
    {
        if std::arch::is_x86_feature_detected!("avx512f") {
            #[expect(unsafe_code, reason = "avx512f was detected on the line above")]
            return unsafe { dot_avx512(a, b) };
        }
        if std::arch::is_x86_feature_detected!("avx2") {
            #[expect(unsafe_code, reason = "avx2 was detected on the line above")]
            return unsafe { dot_avx2(a, b) };
        }
    }
    dot_portable(a, b)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn dot_avx512(a: &[f32], b: &[f32]) -> f32 {
    dot_portable(a, b)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn dot_avx2(a: &[f32], b: &[f32]) -> f32 {
    dot_portable(a, b)
}

#[inline(always)]
#[expect(
    clippy::indexing_slicing,
    reason = "every index is below the length of its array"
)]
fn dot_portable(a: &[f32], b: &[f32]) -> f32 {
    // Four blocks in flight hide the latency of the additions.
    let mut sums = [[0.0_f32; LANES]; 4];
    let (a_blocks, a_rest) = a.as_chunks::<{ LANES * 4 }>();
    let (b_blocks, b_rest) = b.as_chunks::<{ LANES * 4 }>();
    for (x, y) in a_blocks.iter().zip(b_blocks) {
        for (block, sum) in sums.iter_mut().enumerate() {
            for (lane, total) in sum.iter_mut().enumerate() {
                *total += x[block * LANES + lane] * y[block * LANES + lane];
            }
        }
    }
    let mut lanes = [0.0_f32; LANES];
    for (lane, total) in lanes.iter_mut().enumerate() {
        *total = (sums[0][lane] + sums[1][lane]) + (sums[2][lane] + sums[3][lane]);
    }
    for (lane, (x, y)) in a_rest.iter().zip(b_rest).enumerate() {
        lanes[lane % LANES] += x * y;
    }
    let mut width = LANES / 2;
    while width > 0 {
        for lane in 0..width {
            lanes[lane] += lanes[lane + width];
        }
        width /= 2;
    }
    lanes[0]
}

/// The inner products of each row of `a` with all rows of `b`, row by row into `scores`.
///
/// Within `dimension` x 2^-23 of exact for unit rows. Not clamped. One element depends on its two
/// rows only, not on the block that it is computed in.
///
/// # Panics
/// If the lengths are not those of whole rows and one score for each pair.
pub fn multiply(a: &[f32], b: &[f32], dimension: usize, scores: &mut [f32]) {
    let (m, n) = (a.len() / dimension, b.len() / dimension);
    assert_eq!(a.len(), m * dimension, "whole rows on the left");
    assert_eq!(b.len(), n * dimension, "whole rows on the right");
    assert_eq!(scores.len(), m * n, "one score for each pair of rows");
    let (Ok(across), Ok(stride)) = (isize::try_from(n), isize::try_from(dimension)) else {
        return; // a slice is never longer than isize::MAX
    };
    #[expect(
        unsafe_code,
        reason = "the lengths asserted above are all that the three strided matrices reach"
    )]
    unsafe {
        matrixmultiply::sgemm(
            m,
            dimension,
            n,
            1.0,
            a.as_ptr(),
            stride,
            1,
            b.as_ptr(),
            1,
            stride,
            0.0,
            scores.as_mut_ptr(),
            across,
            1,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn products_agree_with_sums_in_f64() {
        let value = |i: usize| f32::from(u8::try_from(i * 37 % 251).unwrap()) / 250.0 - 0.5;
        let a: Vec<f32> = (0..5 * 7).map(value).collect();
        let b: Vec<f32> = (0..3 * 7).map(|i| value(i + 91)).collect();
        let mut scores = vec![f32::NAN; 15];
        multiply(&a, &b, 7, &mut scores);
        for (row, x) in a.chunks(7).enumerate() {
            for (column, y) in b.chunks(7).enumerate() {
                let exact: f64 = x
                    .iter()
                    .zip(y)
                    .map(|(&x, &y)| f64::from(x) * f64::from(y))
                    .sum();
                assert!((f64::from(scores[row * 3 + column]) - exact).abs() < 1e-6);
            }
        }
    }

    proptest! {
        #[test]
        fn every_kernel_gives_the_same_bits(
            pairs in prop::collection::vec((-1.0_f32..1.0, -1.0_f32..1.0), 0..700)
        ) {
            let (a, b): (Vec<f32>, Vec<f32>) = pairs.into_iter().unzip();
            let fastest = dot(&a, &b);
            prop_assert_eq!(fastest.to_bits(), dot_portable(&a, &b).to_bits());
            let exact: f64 = a.iter().zip(&b).map(|(&x, &y)| f64::from(x) * f64::from(y)).sum();
            prop_assert!((f64::from(fastest) - exact).abs() < 1e-4);
        }
    }
}
