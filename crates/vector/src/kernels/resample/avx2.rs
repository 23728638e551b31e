//! The two passes of a resize by 16-bit products: each weight comes in two parts.

use std::arch::x86_64::{
    __m128i, __m256i, _mm_add_epi32, _mm_cvtsi64_si128, _mm_cvtsi128_si32, _mm_cvtsi128_si64,
    _mm_loadu_si128, _mm_packs_epi32, _mm_packus_epi16, _mm_setzero_si128, _mm_srai_epi32,
    _mm_unpacklo_epi8, _mm256_add_epi32, _mm256_broadcastsi128_si256, _mm256_castsi256_si128,
    _mm256_cvtepu8_epi16, _mm256_extracti128_si256, _mm256_madd_epi16, _mm256_permutevar8x32_epi32,
    _mm256_set1_epi32, _mm256_set1_epi64x, _mm256_setr_epi8, _mm256_setr_epi32,
    _mm256_setzero_si256, _mm256_shuffle_epi8, _mm256_slli_epi32, _mm256_srai_epi32,
};

use super::weights::{
    CHANNELS, HALF, LOW_BITS, QUAD, WEIGHT_BITS, Weights, one_pixel, to_byte, weight,
};

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
    let [red, green, blue, _] = _mm_cvtsi128_si32(_mm_packus_epi16(values, values)).to_le_bytes();
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
