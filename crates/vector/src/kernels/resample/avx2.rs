//! The two passes of a resize by 16-bit products. Weights are rounded to 16 bits, and each sum is rounded to a byte
//! twice: with the least and with the most that this can have taken away. Where the two differ, in about one byte of a hundred,
//! the sum is computed again with the weights themselves.

use std::arch::x86_64::{
    __m256i, _mm_cvtsi32_si128, _mm_cvtsi128_si64, _mm_loadu_si128, _mm_setr_epi8,
    _mm_storeu_si128, _mm256_add_epi32, _mm256_broadcastsi128_si256, _mm256_castsi128_si256,
    _mm256_castsi256_si128, _mm256_cmpeq_epi8, _mm256_cvtepu8_epi16, _mm256_extracti128_si256,
    _mm256_inserti128_si256, _mm256_madd_epi16, _mm256_movemask_epi8, _mm256_packs_epi32,
    _mm256_packus_epi16, _mm256_permute4x64_epi64, _mm256_set1_epi32, _mm256_setzero_si256,
    _mm256_shuffle_epi8, _mm256_shuffle_epi32, _mm256_sra_epi32, _mm256_unpackhi_epi16,
    _mm256_unpacklo_epi16,
};

use super::ROWS;
use super::weights::{CHANNELS, QUAD, Weights, one_byte};

/// Columns of bytes that are resized at once.
const COLUMNS: usize = 16;

/// Sums with rounded weights as the bytes that they can be at least and at most, each twice eight numbers of 16 bits.
#[inline]
#[target_feature(enable = "avx2")]
fn between(sums: [__m256i; 2], bounds: [i32; 2], shift: i32) -> [__m256i; 2] {
    let shift = _mm_cvtsi32_si128(shift);
    bounds.map(|bound| {
        let bound = _mm256_set1_epi32(bound);
        let [a, b] = sums.map(|sum| _mm256_sra_epi32(_mm256_add_epi32(sum, bound), shift));
        _mm256_packs_epi32(a, b)
    })
}

#[inline]
#[target_feature(enable = "avx2")]
fn add(sums: &mut __m256i, values: __m256i, weights: __m256i) {
    *sums = _mm256_add_epi32(*sums, _mm256_madd_epi16(values, weights));
}

/// The first `outputs` outputs of each of four rows, two in each vector.
#[target_feature(enable = "avx2")]
pub(super) fn across_four(
    rows: &[u8],
    row_bytes: usize,
    weights: &Weights,
    outputs: usize,
    targets: &mut [u8],
) {
    let (first, second) = (pair_from(0), pair_from(6));
    let out_bytes = weights.outputs() * CHANNELS;
    debug_assert!(outputs < weights.outputs() && ROWS * out_bytes <= targets.len());
    let near = weights.near.each();
    let each = weights.starts.iter().zip(near).take(outputs).enumerate();
    let mut unsure = Unsure::of(outputs);
    for (output, (start, (pairs, bounds))) in each {
        let (mut even, mut odd) = (_mm256_setzero_si256(), _mm256_setzero_si256());
        let mut from = rows.as_ptr().wrapping_add(start * CHANNELS);
        let (quads, last) = pairs.as_chunks();
        for [one, other] in quads {
            #[expect(
                unsafe_code,
                reason = "the caller compared the last byte with the length"
            )]
            let [a, b] = unsafe { four(from, row_bytes) };
            from = from.wrapping_add(QUAD * CHANNELS);
            let (one, other) = (_mm256_set1_epi32(*one), _mm256_set1_epi32(*other));
            add(&mut even, _mm256_shuffle_epi8(a, first), one);
            add(&mut even, _mm256_shuffle_epi8(a, second), other);
            add(&mut odd, _mm256_shuffle_epi8(b, first), one);
            add(&mut odd, _mm256_shuffle_epi8(b, second), other);
        }
        for one in last {
            #[expect(
                unsafe_code,
                reason = "the caller compared the last byte with the length"
            )]
            let [a, b] = unsafe { four(from, row_bytes) };
            let one = _mm256_set1_epi32(*one);
            add(&mut even, _mm256_shuffle_epi8(a, first), one);
            add(&mut odd, _mm256_shuffle_epi8(b, first), one);
        }
        // In each half the bytes of two rows, three of four, and again, as they are at most.
        let [least, most] = between([even, odd], bounds, weights.near.shift);
        let bytes = _mm256_packus_epi16(least, most);
        let same = _mm256_cmpeq_epi8(bytes, _mm256_shuffle_epi32::<0b01_00_11_10>(bytes));
        let differ = !_mm256_movemask_epi8(same) & 0x0077_0077;
        let halves = [
            _mm_cvtsi128_si64(_mm256_castsi256_si128(bytes)),
            _mm_cvtsi128_si64(_mm256_extracti128_si256::<1>(bytes)),
        ];
        let mut place = targets.as_mut_ptr().wrapping_add(output * CHANNELS);
        for pixel in [halves[0], halves[1], halves[0] >> 32, halves[1] >> 32] {
            #[expect(
                unsafe_code,
                clippy::cast_possible_truncation,
                reason = "an output that is not its row's last one has four bytes; the lower half is meant"
            )]
            unsafe {
                place.cast::<i32>().write_unaligned(pixel as i32);
            }
            place = place.wrapping_add(out_bytes);
        }
        unsure.note(output, differ);
    }
    for (output, bit) in unsure.each() {
        let (row, channel) = (bit / 16 + 2 * (bit % 8 / 4), bit % 4);
        let (start, exact) = weights.of(output);
        let values = rows.get(row * row_bytes + start * CHANNELS + channel..);
        let values = values.unwrap_or_default().iter().step_by(CHANNELS).copied();
        if let Some(byte) = targets.get_mut(row * out_bytes + output * CHANNELS + channel) {
            *byte = one_byte(values, exact);
        }
    }
}

/// Puts the values of each channel of two pixels side by side, as 16-bit numbers; `byte` is the first one.
#[inline]
#[target_feature(enable = "avx2")]
fn pair_from(byte: i8) -> __m256i {
    let [r, g, b] = [byte, byte + 1, byte + 2];
    _mm256_broadcastsi128_si256(_mm_setr_epi8(
        r,
        -1,
        r + 3,
        -1,
        g,
        -1,
        g + 3,
        -1,
        b,
        -1,
        b + 3,
        -1,
        -1,
        -1,
        -1,
        -1,
    ))
}

/// Sums to compute again.
struct Unsure {
    /// For each vector that was computed its number, and a bit for each of its bytes; only the first `count` of them count.
    noted: Vec<(usize, i32)>,
    count: usize,
}

impl Unsure {
    fn of(vectors: usize) -> Self {
        Self {
            noted: vec![(0, 0); vectors],
            count: 0,
        }
    }

    /// Without a branch, which would often be taken by surprise.
    #[inline]
    fn note(&mut self, vector: usize, bits: i32) {
        if let Some(next) = self.noted.get_mut(self.count) {
            *next = (vector, bits);
        }
        self.count += usize::from(bits != 0);
    }

    /// The number of a vector and the position of a byte in it, for each.
    fn each(&self) -> impl Iterator<Item = (usize, usize)> {
        let noted = self.noted.iter().take(self.count);
        noted.flat_map(|&(vector, bits)| ones(bits).map(move |position| (vector, position)))
    }
}

/// The positions of the bits that are set.
fn ones(mut bits: i32) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let position = (bits != 0).then(|| bits.trailing_zeros() as usize);
        bits &= bits.wrapping_sub(1);
        position
    })
}

/// 16 bytes from the same place in each of four rows.
///
/// # Safety
/// `from` is followed by three rows and 16 bytes of the same slice.
#[inline]
#[target_feature(enable = "avx2")]
#[expect(unsafe_code, reason = "as its documentation says")]
unsafe fn four(from: *const u8, row_bytes: usize) -> [__m256i; 2] {
    [0, 2].map(|row| {
        let [a, b] = [row, row + 1].map(|row| {
            let from = from.wrapping_add(row * row_bytes);
            // No check: this is the innermost loop.
            unsafe { _mm_loadu_si128(from.cast()) }
        });
        _mm256_inserti128_si256::<1>(_mm256_castsi128_si256(a), b)
    })
}

#[target_feature(enable = "avx2")]
pub(super) fn down(source: &[u8], stride: usize, weights: &Weights, target: &mut [u8]) {
    let stride = stride.max(1);
    let targets = target.chunks_exact_mut(stride);
    let mut unsure = Unsure::of(stride / COLUMNS);
    for (output, (target, (pairs, bounds))) in targets.zip(weights.near.each()).enumerate() {
        let (start, exact) = weights.of(output);
        let rows = source.get(start * stride..).unwrap_or_default();
        let (blocks, rest) = target.as_chunks_mut::<COLUMNS>();
        let (whole, rest) = (blocks.len(), rest.len());
        unsure.count = 0;
        for (block, target) in blocks.iter_mut().enumerate() {
            let from = rows.get(block * COLUMNS..).unwrap_or_default();
            let sums = sums_of_columns(from, stride, pairs);
            let [least, most] = between(sums, bounds, weights.near.shift);
            let bytes = _mm256_packus_epi16(least, most);
            // Both quarters of the least, then both of the most.
            let bytes = _mm256_permute4x64_epi64::<0b11_01_10_00>(bytes);
            let swapped = _mm256_permute4x64_epi64::<0b01_00_11_10>(bytes);
            let same = _mm256_movemask_epi8(_mm256_cmpeq_epi8(bytes, swapped));
            #[expect(
                unsafe_code,
                reason = "the target has as many bytes, and no alignment is needed"
            )]
            unsafe {
                _mm_storeu_si128(target.as_mut_ptr().cast(), _mm256_castsi256_si128(bytes));
            }
            unsure.note(block, !same & 0xFFFF);
        }
        let again = unsure
            .each()
            .map(|(block, column)| block * COLUMNS + column);
        let after = whole * COLUMNS;
        for column in again.chain(after..after + rest) {
            if let Some(byte) = target.get_mut(column) {
                let values = rows.get(column..).unwrap_or_default();
                *byte = one_byte(values.iter().step_by(stride).copied(), exact);
            }
        }
    }
}

/// Sums of the first sixteen columns, in the order in which packing them puts them back.
#[inline]
#[target_feature(enable = "avx2")]
fn sums_of_columns(mut from: &[u8], stride: usize, pairs: &[i32]) -> [__m256i; 2] {
    // Beyond the last row weights are zero.
    let mut row = || {
        let bytes: [u8; COLUMNS] = from.first_chunk().copied().unwrap_or_default();
        from = from.get(stride..).unwrap_or_default();
        #[expect(unsafe_code, reason = "16 bytes, and no alignment is needed")]
        _mm256_cvtepu8_epi16(unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) })
    };
    let (mut low, mut high) = (_mm256_setzero_si256(), _mm256_setzero_si256());
    for pair in pairs {
        let (one, next, pair) = (row(), row(), _mm256_set1_epi32(*pair));
        add(&mut low, _mm256_unpacklo_epi16(one, next), pair);
        add(&mut high, _mm256_unpackhi_epi16(one, next), pair);
    }
    [low, high]
}
