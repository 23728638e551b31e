//! The two passes of a resize of RGB bytes, by CPU feature, all of them the same to the last bit.
//!
//! Sums of bytes times weights of 22 fractional bits in an `i32`, as Pillow computes them. The vector
//! instructions multiply smaller numbers. With VNNI each weight is taken apart into three signed digits to the
//! base of 256. With AVX2 it is rounded to 16 bits, and the few bytes that this might change are computed again.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod vnni;
mod weights;

use weights::{CHANNELS, HALF, one_pixel, to_byte};

pub use weights::Weights;

/// Rows that are resized across at once.
const ROWS: usize = 4;
/// Bytes that are read for four pixels of a row: the last four of them are not used.
const LOADED: usize = 16;

/// Instructions to resize with, which this CPU has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResampleKernel(Instructions);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Instructions {
    Portable,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Vnni,
}

impl ResampleKernel {
    /// Those that this CPU has, the slowest first.
    pub fn all() -> impl DoubleEndedIterator<Item = Self> {
        let kinds = [
            Some(Instructions::Portable),
            #[cfg(target_arch = "x86_64")]
            std::arch::is_x86_feature_detected!("avx2").then_some(Instructions::Avx2),
            #[cfg(target_arch = "x86_64")]
            (std::arch::is_x86_feature_detected!("avx512bw")
                && std::arch::is_x86_feature_detected!("avx512vnni"))
            .then_some(Instructions::Vnni),
        ];
        kinds.into_iter().flatten().map(Self)
    }

    /// The fastest that this CPU has.
    #[must_use]
    pub fn fastest() -> Self {
        Self::all()
            .next_back()
            .unwrap_or(Self(Instructions::Portable))
    }

    /// Resizes rows of RGB pixels, `width` of them in each: `target` gets as many rows, each of as many
    /// pixels as the weights have outputs.
    pub fn across(self, source: &[u8], width: usize, weights: &Weights, target: &mut [u8]) {
        match self.0 {
            Instructions::Portable => across_portable(source, width, weights, target),
            #[cfg(target_arch = "x86_64")]
            #[expect(unsafe_code, reason = "`all` gives it only where avx2 is")]
            Instructions::Avx2 => unsafe {
                across_by_fours(avx2::across_four, source, width, weights, target);
            },
            #[cfg(target_arch = "x86_64")]
            #[expect(unsafe_code, reason = "`all` gives it only where avx512vnni is")]
            Instructions::Vnni => unsafe {
                across_by_fours(vnni::across_four, source, width, weights, target);
            },
        }
    }

    /// Resizes columns of bytes, `stride` of them side by side: `target` gets as many rows as the weights
    /// have outputs.
    pub fn down(self, source: &[u8], stride: usize, weights: &Weights, target: &mut [u8]) {
        match self.0 {
            Instructions::Portable => down_portable(source, stride, weights, target),
            #[cfg(target_arch = "x86_64")]
            #[expect(unsafe_code, reason = "`all` gives it only where avx2 is")]
            Instructions::Avx2 => unsafe { avx2::down(source, stride, weights, target) },
            #[cfg(target_arch = "x86_64")]
            #[expect(unsafe_code, reason = "`all` gives it only where avx512vnni is")]
            Instructions::Vnni => unsafe { vnni::down(source, stride, weights, target) },
        }
    }
}

fn across_portable(source: &[u8], width: usize, weights: &Weights, target: &mut [u8]) {
    let rows = source.chunks_exact((width * CHANNELS).max(1));
    let targets = target.chunks_exact_mut((weights.outputs() * CHANNELS).max(1));
    for (row, target) in rows.zip(targets) {
        across_row(row, weights, 0, target);
    }
}

/// One row, from output `first` on.
fn across_row(row: &[u8], weights: &Weights, first: usize, target: &mut [u8]) {
    let pixels = target.as_chunks_mut::<CHANNELS>().0.iter_mut();
    for (pixel, (start, weights)) in pixels.zip(weights.each()).skip(first) {
        *pixel = one_pixel(row.get(start * CHANNELS..).unwrap_or_default(), weights);
    }
}

/// Resizes the first outputs of each of four rows: rows, their length in bytes, weights, number of outputs, rows of the target.
///
/// In the last of the four, all taps of each of these outputs are there, and [`LOADED`] bytes more; and none of them
/// is a row's last one, so that four bytes may be written.
#[cfg(target_arch = "x86_64")]
type AcrossFour = unsafe fn(&[u8], usize, &Weights, usize, &mut [u8]);

/// Rows four by four, as far as `four` may read.
///
/// # Safety
/// This CPU has the instructions of `four`.
#[cfg(target_arch = "x86_64")]
#[expect(unsafe_code, reason = "as its documentation says")]
unsafe fn across_by_fours(
    four: AcrossFour,
    source: &[u8],
    width: usize,
    weights: &Weights,
    target: &mut [u8],
) {
    let row_bytes = (width * CHANNELS).max(1);
    let out_bytes = (weights.outputs() * CHANNELS).max(1);
    // What a vector reads beyond its row has weight zero; beyond the image it may not read.
    let reach = (ROWS - 1) * row_bytes + weights.taps * CHANNELS + LOADED;
    for (number, targets) in target.chunks_mut(ROWS * out_bytes).enumerate() {
        let rows = source.get(number * ROWS * row_bytes..).unwrap_or_default();
        let mut done = 0;
        if targets.len() == ROWS * out_bytes && reach <= rows.len() {
            let last = rows.len() - reach;
            let starts = weights.starts.iter();
            let fit = starts.take_while(|start| *start * CHANNELS <= last).count();
            // Four bytes are written for three: the last pixel has nothing after it.
            done = fit.min(weights.outputs() - 1);
            unsafe { four(rows, row_bytes, weights, done, targets) };
        }
        let rows = rows.chunks_exact(row_bytes);
        for (row, target) in rows.zip(targets.chunks_mut(out_bytes)) {
            across_row(row, weights, done, target);
        }
    }
}

fn down_portable(source: &[u8], stride: usize, weights: &Weights, target: &mut [u8]) {
    let mut sums = vec![0; stride];
    let targets = target.chunks_exact_mut(stride.max(1));
    for (target, (start, weights)) in targets.zip(weights.each()) {
        sums.fill(HALF);
        let rows = source.chunks_exact(stride.max(1)).skip(start);
        for (row, weight) in rows.zip(weights) {
            for (sum, value) in sums.iter_mut().zip(row) {
                *sum += i32::from(*value) * weight;
            }
        }
        for (byte, sum) in target.iter_mut().zip(&sums) {
            *byte = to_byte(*sum);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(count: usize, seed: u32) -> Vec<u8> {
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            // Black and white are where sums are largest.
            match state >> 30 {
                0 => 0,
                1 => 255,
                _ => state.to_le_bytes()[2],
            }
        };
        (0..count).map(|_| next()).collect()
    }

    /// Outputs of up to this many sources, with weights that overshoot.
    fn weights(sources: usize, outputs: usize, taps: usize) -> Weights {
        let less = if taps < 10 { 1.0 } else { 0.2 };
        let share = |at: usize| [0.5, -0.1, 0.15, -0.05, 0.08, -0.02][at % 6] * less;
        let outputs: Vec<(usize, Vec<f64>)> = (0..outputs)
            .map(|output| {
                let start = output * sources / outputs;
                let taps = (1 + (output * 7) % taps).min(sources - start);
                (start, (0..taps).map(|at| share(at + output)).collect())
            })
            .collect();
        Weights::new(&outputs)
    }

    #[test]
    fn every_instruction_set_gives_the_same_bytes() {
        for (width, height) in [(1, 1), (2, 9), (5, 3), (17, 8), (64, 31), (101, 43)] {
            for (outputs, taps) in [(1, 1), (3, 4), (16, 5), (40, 9), (7, 33)] {
                let source = bytes(width * height * CHANNELS, 7);
                let columns = weights(width, outputs, taps);
                let rows = weights(height, outputs, taps);
                let mut across = vec![0; outputs * height * CHANNELS];
                let mut down = vec![0; outputs * width * CHANNELS];
                across_portable(&source, width, &columns, &mut across);
                down_portable(&source, width * CHANNELS, &rows, &mut down);
                for kind in ResampleKernel::all() {
                    let mut found = vec![0; across.len()];
                    kind.across(&source, width, &columns, &mut found);
                    assert_eq!(
                        found, across,
                        "{kind:?}: {width} x {height} across, {outputs}"
                    );
                    let mut found = vec![0; down.len()];
                    kind.down(&source, width * CHANNELS, &rows, &mut found);
                    assert_eq!(found, down, "{kind:?}: {width} x {height} down, {outputs}");
                }
            }
        }
    }

    #[test]
    fn many_weights_that_round_to_nothing_count() {
        let (width, height, taps) = (200, 8, 141);
        let source = bytes(width * height * CHANNELS, 5);
        let least = 63.0 / f64::from(1 << weights::WEIGHT_BITS);
        let shares: Vec<f64> = (0..taps)
            .map(|tap| if tap == 0 { 0.9 } else { least })
            .collect();
        let columns = Weights::new(&[(0, shares.clone()), (0, shares.clone()), (0, shares)]);
        let mut expected = vec![0; 3 * height * CHANNELS];
        across_portable(&source, width, &columns, &mut expected);
        for kernel in ResampleKernel::all() {
            let mut found = vec![0; expected.len()];
            kernel.across(&source, width, &columns, &mut found);
            assert_eq!(found, expected, "{kernel:?}");
        }
    }

    #[test]
    fn a_weight_of_one_copies_and_sums_are_rounded_and_clipped() {
        let source = [10, 20, 30, 13, 23, 33];
        let mut target = [0; 9];
        let outputs = [
            (1, vec![1.0]),
            (0, vec![0.5, 0.5]),
            (0, vec![9.0 / 8.0, 7.0 / 8.0]),
        ];
        let kernel = ResampleKernel::fastest();
        kernel.across(&source, 2, &Weights::new(&outputs), &mut target);
        assert_eq!(target, [13, 23, 33, 12, 22, 32, 23, 43, 63]);
        let outputs = [(0, vec![-0.5, 1.5]), (0, vec![1.5, -0.5])];
        let mut target = [0; 2];
        kernel.down(&[200, 40], 1, &Weights::new(&outputs), &mut target);
        assert_eq!(target, [0, 255]);
    }
}
