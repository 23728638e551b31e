//! The two passes of a resize of RGB bytes, by CPU feature, all of them the same to the last bit.
//!
//! Sums of bytes times weights of 22 fractional bits in an `i32`, as Pillow computes them. The vector
//! instructions multiply 16-bit numbers, so each weight is taken apart: `weight = high * 2048 + low`.

/// Fractional bits of a weight. Two bits are left for weights that overshoot, and eight hold a byte.
const WEIGHT_BITS: u32 = 22;
/// Bits of the lower part of a weight, which is never negative.
const LOW_BITS: u32 = 11;
/// Half of the last bit that is kept: sums are rounded, not cut off.
const HALF: i32 = 1 << (WEIGHT_BITS - 1);
/// Weights of each output are padded with zeros to a multiple of this.
const QUAD: usize = 4;
/// Red, green, blue.
const CHANNELS: usize = 3;

/// Which sources make up each output along one axis, and with what weights.
pub struct Weights {
    /// The first source of each output.
    starts: Vec<usize>,
    /// Weights of each output: the longest, rounded up.
    taps: usize,
    high: Vec<i16>,
    low: Vec<i16>,
}

impl Weights {
    /// Weights of outputs in order: the first source of each and a share for each source from there
    /// on. The shares of an output sum to one; their absolute values to less than two.
    #[must_use]
    pub fn new(outputs: &[(usize, Vec<f64>)]) -> Self {
        let longest = outputs.iter().map(|(_, shares)| shares.len()).max();
        let taps = longest.unwrap_or(0).next_multiple_of(QUAD);
        let (mut high, mut low) = (Vec::new(), Vec::new());
        for (_, shares) in outputs {
            let padding = std::iter::repeat(&0.0);
            for share in shares.iter().chain(padding).take(taps) {
                let weight = fixed_point(*share);
                #[expect(
                    clippy::cast_possible_truncation,
                    reason = "the low part has 11 bits, the high part at most 13 and a sign"
                )]
                {
                    high.push((weight >> LOW_BITS) as i16);
                    low.push((weight & ((1 << LOW_BITS) - 1)) as i16);
                }
            }
        }
        Self {
            starts: outputs.iter().map(|(start, _)| *start).collect(),
            taps,
            high,
            low,
        }
    }

    /// Number of outputs.
    #[must_use]
    pub fn outputs(&self) -> usize {
        self.starts.len()
    }

    /// The first source of each output, with its weights in two parts.
    fn each(&self) -> impl Iterator<Item = (usize, &[i16], &[i16])> {
        let parts = self.high.chunks(self.taps.max(1));
        let parts = parts.zip(self.low.chunks(self.taps.max(1)));
        let starts = self.starts.iter();
        starts
            .zip(parts)
            .map(|(start, (high, low))| (*start, high, low))
    }
}

fn fixed_point(share: f64) -> i32 {
    let scaled = share * f64::from(1 << WEIGHT_BITS);
    #[expect(clippy::cast_possible_truncation, reason = "a share is less than two")]
    if scaled < 0.0 {
        (scaled - 0.5) as i32
    } else {
        (scaled + 0.5) as i32
    }
}

fn weight(high: i16, low: i16) -> i32 {
    (i32::from(high) << LOW_BITS) + i32::from(low)
}

fn to_byte(sum: i32) -> u8 {
    #[expect(clippy::cast_sign_loss, reason = "clamped to a byte")]
    {
        (sum >> WEIGHT_BITS).clamp(0, 255) as u8
    }
}

/// Resizes rows of RGB pixels, `width` of them in each: `target` gets as many rows, each of as many
/// pixels as the weights have outputs.
pub fn across(source: &[u8], width: usize, weights: &Weights, target: &mut [u8]) {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") {
        #[expect(unsafe_code, reason = "avx2 was detected on the line above")]
        return unsafe { x86::across(source, width, weights, target) };
    }
    across_portable(source, width, weights, target);
}

/// Resizes columns of bytes, `stride` of them side by side: `target` gets as many rows as the weights
/// have outputs.
pub fn down(source: &[u8], stride: usize, weights: &Weights, target: &mut [u8]) {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") {
        #[expect(unsafe_code, reason = "avx2 was detected on the line above")]
        return unsafe { x86::down(source, stride, weights, target) };
    }
    down_portable(source, stride, weights, target);
}

fn across_portable(source: &[u8], width: usize, weights: &Weights, target: &mut [u8]) {
    let rows = source.chunks_exact((width * CHANNELS).max(1));
    let targets = target.chunks_exact_mut((weights.outputs() * CHANNELS).max(1));
    for (row, target) in rows.zip(targets) {
        let pixels = target.as_chunks_mut::<CHANNELS>().0;
        for (pixel, (start, high, low)) in pixels.iter_mut().zip(weights.each()) {
            *pixel = one_pixel(row.get(start * CHANNELS..).unwrap_or_default(), high, low);
        }
    }
}

/// One output of a row that begins at its first source.
fn one_pixel(row: &[u8], high: &[i16], low: &[i16]) -> [u8; CHANNELS] {
    let mut sums = [HALF; CHANNELS];
    let sources = row.as_chunks::<CHANNELS>().0;
    for (source, (high, low)) in sources.iter().zip(high.iter().zip(low)) {
        for (sum, value) in sums.iter_mut().zip(source) {
            *sum += i32::from(*value) * weight(*high, *low);
        }
    }
    sums.map(to_byte)
}

fn down_portable(source: &[u8], stride: usize, weights: &Weights, target: &mut [u8]) {
    let mut sums = vec![0; stride];
    let targets = target.chunks_exact_mut(stride.max(1));
    for (target, (start, high, low)) in targets.zip(weights.each()) {
        sums.fill(HALF);
        let rows = source.chunks_exact(stride.max(1)).skip(start);
        for (row, (high, low)) in rows.zip(high.iter().zip(low)) {
            let weight = weight(*high, *low);
            for (sum, value) in sums.iter_mut().zip(row) {
                *sum += i32::from(*value) * weight;
            }
        }
        for (byte, sum) in target.iter_mut().zip(&sums) {
            *byte = to_byte(*sum);
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::{
        __m128i, __m256i, _mm_add_epi32, _mm_cvtsi64_si128, _mm_cvtsi128_si32, _mm_cvtsi128_si64,
        _mm_loadu_si128, _mm_packs_epi32, _mm_packus_epi16, _mm_setzero_si128, _mm_srai_epi32,
        _mm_unpacklo_epi8, _mm256_add_epi32, _mm256_broadcastsi128_si256, _mm256_castsi256_si128,
        _mm256_cvtepu8_epi16, _mm256_extracti128_si256, _mm256_madd_epi16,
        _mm256_permutevar8x32_epi32, _mm256_set1_epi32, _mm256_set1_epi64x, _mm256_setr_epi8,
        _mm256_setr_epi32, _mm256_setzero_si256, _mm256_shuffle_epi8, _mm256_slli_epi32,
        _mm256_srai_epi32,
    };

    use super::{CHANNELS, HALF, LOW_BITS, QUAD, WEIGHT_BITS, Weights, one_pixel, to_byte, weight};

    const LOW: i32 = LOW_BITS as i32;
    const BITS: i32 = WEIGHT_BITS as i32;
    /// Bytes of a vector, of which four pixels are used.
    const VECTOR: usize = 16;
    /// Columns that are resized at once.
    const COLUMNS: usize = 8;

    #[target_feature(enable = "avx2")]
    fn load(bytes: &[u8; VECTOR]) -> __m128i {
        #[expect(
            unsafe_code,
            reason = "16 bytes are borrowed, and no alignment is needed"
        )]
        unsafe {
            _mm_loadu_si128(bytes.as_ptr().cast())
        }
    }

    /// Four 16-bit weights as one number.
    fn four(weights: [i16; QUAD]) -> i64 {
        let [a, b, c, d] = weights.map(i16::to_le_bytes);
        i64::from_le_bytes([a[0], a[1], b[0], b[1], c[0], c[1], d[0], d[1]])
    }

    #[target_feature(enable = "avx2")]
    pub(super) fn across(source: &[u8], width: usize, weights: &Weights, target: &mut [u8]) {
        let row_bytes = (width * CHANNELS).max(1);
        let targets = target.chunks_exact_mut((weights.outputs() * CHANNELS).max(1));
        let needed = weights.taps * CHANNELS + VECTOR;
        for (number, target) in targets.enumerate() {
            // To the end of the image: what a vector reads beyond its row has weight zero.
            let row = source.get(number * row_bytes..).unwrap_or_default();
            let pixels = target.as_chunks_mut::<CHANNELS>().0;
            for (pixel, (start, high, low)) in pixels.iter_mut().zip(weights.each()) {
                let from = row.get(start * CHANNELS..).unwrap_or_default();
                *pixel = if needed <= from.len() {
                    across_one(from, high, low)
                } else {
                    let within = row_bytes.saturating_sub(start * CHANNELS);
                    one_pixel(from.get(..within).unwrap_or_default(), high, low)
                };
            }
        }
    }

    /// One output of a row that begins at its first source, and goes on for long enough.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn across_one(from: &[u8], high: &[i16], low: &[i16]) -> [u8; CHANNELS] {
        // Two pixels in each half, their values of one channel side by side as 16-bit numbers.
        let pairs = _mm256_setr_epi8(
            0, -1, 3, -1, 1, -1, 4, -1, 2, -1, 5, -1, -1, -1, -1, -1, //
            6, -1, 9, -1, 7, -1, 10, -1, 8, -1, 11, -1, -1, -1, -1, -1,
        );
        let halves = _mm256_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1);
        let (mut highs, mut lows) = (_mm256_setzero_si256(), _mm256_setzero_si256());
        let weights = high.as_chunks::<QUAD>().0.iter();
        let mut rest = from;
        for (high, low) in weights.zip(low.as_chunks::<QUAD>().0) {
            let Some(bytes) = rest.first_chunk() else {
                break;
            };
            rest = rest.get(QUAD * CHANNELS..).unwrap_or_default();
            let values = _mm256_broadcastsi128_si256(load(bytes));
            let values = _mm256_shuffle_epi8(values, pairs);
            let spread = |weights: &[i16; QUAD]| {
                _mm256_permutevar8x32_epi32(_mm256_set1_epi64x(four(*weights)), halves)
            };
            highs = _mm256_add_epi32(highs, _mm256_madd_epi16(values, spread(high)));
            lows = _mm256_add_epi32(lows, _mm256_madd_epi16(values, spread(low)));
        }
        let sums = joined(highs, lows);
        let sums = _mm_add_epi32(
            _mm256_castsi256_si128(sums),
            _mm256_extracti128_si256::<1>(sums),
        );
        let half = _mm256_castsi256_si128(_mm256_set1_epi32(HALF));
        let values = _mm_srai_epi32::<BITS>(_mm_add_epi32(sums, half));
        let values = _mm_packs_epi32(values, values);
        let [red, green, blue, _] =
            _mm_cvtsi128_si32(_mm_packus_epi16(values, values)).to_le_bytes();
        [red, green, blue]
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn joined(highs: __m256i, lows: __m256i) -> __m256i {
        _mm256_add_epi32(_mm256_slli_epi32::<LOW>(highs), lows)
    }

    #[target_feature(enable = "avx2")]
    pub(super) fn down(source: &[u8], stride: usize, weights: &Weights, target: &mut [u8]) {
        let targets = target.chunks_exact_mut(stride.max(1));
        for (target, (start, high, low)) in targets.zip(weights.each()) {
            let mut from = source.get(start * stride..).unwrap_or_default();
            let (chunks, rest) = target.as_chunks_mut::<COLUMNS>();
            for chunk in chunks {
                *chunk = down_eight(from, stride, high, low);
                from = from.get(COLUMNS..).unwrap_or_default();
            }
            for byte in rest {
                let column = from.iter().step_by(stride);
                from = from.get(1..).unwrap_or_default();
                let mut sum = HALF;
                for (value, (high, low)) in column.zip(high.iter().zip(low)) {
                    sum += i32::from(*value) * weight(*high, *low);
                }
                *byte = to_byte(sum);
            }
        }
    }

    /// The first eight columns, of rows that begin at the first source.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn down_eight(mut from: &[u8], stride: usize, high: &[i16], low: &[i16]) -> [u8; COLUMNS] {
        // Beyond the last row weights are zero.
        let mut row = || -> __m128i {
            let bytes = from.first_chunk::<COLUMNS>().copied();
            from = from.get(stride..).unwrap_or_default();
            _mm_cvtsi64_si128(i64::from_le_bytes(bytes.unwrap_or_default()))
        };
        let (mut highs, mut lows) = (_mm256_setzero_si256(), _mm256_setzero_si256());
        for (high, low) in high.as_chunks::<2>().0.iter().zip(low.as_chunks::<2>().0) {
            let (one, next) = (row(), row());
            let values = _mm256_cvtepu8_epi16(_mm_unpacklo_epi8(one, next));
            let both = |[a, b]: [i16; 2]| {
                let ([a, b], [c, d]) = (a.to_le_bytes(), b.to_le_bytes());
                _mm256_set1_epi32(i32::from_le_bytes([a, b, c, d]))
            };
            highs = _mm256_add_epi32(highs, _mm256_madd_epi16(values, both(*high)));
            lows = _mm256_add_epi32(lows, _mm256_madd_epi16(values, both(*low)));
        }
        let sums = _mm256_add_epi32(joined(highs, lows), _mm256_set1_epi32(HALF));
        let sums = _mm256_srai_epi32::<BITS>(sums);
        let words = _mm_packs_epi32(
            _mm256_castsi256_si128(sums),
            _mm256_extracti128_si256::<1>(sums),
        );
        _mm_cvtsi128_si64(_mm_packus_epi16(words, _mm_setzero_si128())).to_le_bytes()
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

    /// Outputs of up to so many sources, with weights that overshoot.
    fn weights(sources: usize, outputs: usize, taps: usize) -> Weights {
        let share = |at: usize| [0.5, -0.1, 0.15, -0.05, 0.08, -0.02][at % 6];
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
        for (width, height) in [(1, 1), (2, 9), (5, 3), (17, 8), (64, 31), (101, 40)] {
            for (outputs, taps) in [(1, 1), (3, 4), (16, 5), (40, 9)] {
                let source = bytes(width * height * CHANNELS, 7);
                let weights_across = weights(width, outputs, taps);
                let mut expected = vec![0; outputs * height * CHANNELS];
                let mut found = expected.clone();
                across_portable(&source, width, &weights_across, &mut expected);
                across(&source, width, &weights_across, &mut found);
                assert_eq!(found, expected, "{width} x {height} across to {outputs}");

                let weights_down = weights(height, outputs, taps);
                let mut expected = vec![0; outputs * width * CHANNELS];
                let mut found = expected.clone();
                down_portable(&source, width * CHANNELS, &weights_down, &mut expected);
                down(&source, width * CHANNELS, &weights_down, &mut found);
                assert_eq!(found, expected, "{width} x {height} down to {outputs}");
            }
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
        across(&source, 2, &Weights::new(&outputs), &mut target);
        assert_eq!(target, [13, 23, 33, 12, 22, 32, 23, 43, 63]);
        let outputs = [(0, vec![-0.5, 1.5]), (0, vec![1.5, -0.5])];
        let mut target = [0; 2];
        down(&[200, 40], 1, &Weights::new(&outputs), &mut target);
        assert_eq!(target, [0, 255]);
    }
}
