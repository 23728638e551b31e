//! The two passes of a resize by `dpbusd`, which multiplies four bytes by four signed bytes and adds
//! the products to an `i32`: each weight comes as three digits to the base of 256.

use std::arch::x86_64::{
    __m128i, __m512i, __mmask64, _mm_extract_epi32, _mm_loadu_si128, _mm_setr_epi8,
    _mm512_add_epi32, _mm512_broadcast_i32x4, _mm512_castsi128_si512, _mm512_cvtusepi32_epi8,
    _mm512_dpbusd_epi32, _mm512_inserti32x4, _mm512_mask_storeu_epi8, _mm512_maskz_loadu_epi8,
    _mm512_max_epi32, _mm512_packs_epi32, _mm512_packus_epi16, _mm512_set1_epi32,
    _mm512_setzero_si512, _mm512_shuffle_epi8, _mm512_slli_epi32, _mm512_srai_epi32,
    _mm512_unpackhi_epi8, _mm512_unpackhi_epi16, _mm512_unpacklo_epi8, _mm512_unpacklo_epi16,
};

use super::ROWS;
use super::weights::{CHANNELS, Digits, HALF, QUAD, WEIGHT_BITS, Weights};

const BITS: u32 = WEIGHT_BITS;
/// Columns of bytes that are resized at once.
const COLUMNS: usize = 64;

/// Sums of digits as bytes in `i32` lanes, rounded, not yet clipped.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn rounded(ones: __m512i, mids: __m512i, tops: __m512i) -> __m512i {
    let mids = _mm512_slli_epi32::<8>(mids);
    let tops = _mm512_slli_epi32::<16>(tops);
    let half = _mm512_set1_epi32(HALF);
    let sum = _mm512_add_epi32(_mm512_add_epi32(ones, mids), _mm512_add_epi32(tops, half));
    _mm512_srai_epi32::<BITS>(sum)
}

/// The first `outputs` outputs of each of four rows, one in each quarter of a vector.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
pub(super) fn across_four(
    rows: &[u8],
    row_bytes: usize,
    weights: &Weights,
    outputs: usize,
    targets: &mut [u8],
) {
    // In each quarter, four values of one channel side by side.
    let planes = _mm512_broadcast_i32x4(_mm_setr_epi8(
        0, 3, 6, 9, 1, 4, 7, 10, 2, 5, 8, 11, -1, -1, -1, -1,
    ));
    let out_bytes = weights.outputs() * CHANNELS;
    debug_assert!(outputs < weights.outputs() && ROWS * out_bytes <= targets.len());
    let places = (0..outputs).map(|output| output * CHANNELS);
    let digits = weights.digits.chunks_exact((weights.taps / QUAD).max(1));
    for ((start, digits), place) in weights.starts.iter().zip(digits).zip(places) {
        let (mut ones, mut mids, mut tops) = (zeros(), zeros(), zeros());
        let mut from = rows.as_ptr().wrapping_add(start * CHANNELS);
        for [one, mid, top] in digits {
            #[expect(
                unsafe_code,
                reason = "the caller compared the last byte of the last row with the length"
            )]
            let values = unsafe { quarters(from, row_bytes) };
            from = from.wrapping_add(QUAD * CHANNELS);
            let values = _mm512_shuffle_epi8(values, planes);
            ones = _mm512_dpbusd_epi32(ones, values, _mm512_set1_epi32(*one));
            mids = _mm512_dpbusd_epi32(mids, values, _mm512_set1_epi32(*mid));
            tops = _mm512_dpbusd_epi32(tops, values, _mm512_set1_epi32(*top));
        }
        let clipped = _mm512_max_epi32(rounded(ones, mids, tops), zeros());
        let bytes = _mm512_cvtusepi32_epi8(clipped);
        let four = [
            _mm_extract_epi32::<0>(bytes),
            _mm_extract_epi32::<1>(bytes),
            _mm_extract_epi32::<2>(bytes),
            _mm_extract_epi32::<3>(bytes),
        ];
        let mut place = targets.as_mut_ptr().wrapping_add(place);
        for pixel in four {
            #[expect(
                unsafe_code,
                reason = "an output that is not its row's last one has four bytes"
            )]
            unsafe {
                place.cast::<i32>().write_unaligned(pixel);
            }
            place = place.wrapping_add(out_bytes);
        }
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn zeros() -> __m512i {
    _mm512_setzero_si512()
}

/// 16 bytes from the same place in each of four rows.
///
/// # Safety
/// `from` is followed by three rows and 16 bytes of the same slice.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
#[expect(unsafe_code, reason = "as its documentation says")]
unsafe fn quarters(from: *const u8, row_bytes: usize) -> __m512i {
    let quarter = |row: usize| -> __m128i {
        // No check: this is the innermost loop.
        unsafe { _mm_loadu_si128(from.wrapping_add(row.wrapping_mul(row_bytes)).cast()) }
    };
    let values = _mm512_castsi128_si512(quarter(0));
    let values = _mm512_inserti32x4::<1>(values, quarter(1));
    let values = _mm512_inserti32x4::<2>(values, quarter(2));
    _mm512_inserti32x4::<3>(values, quarter(3))
}

#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
pub(super) fn down(source: &[u8], stride: usize, weights: &Weights, target: &mut [u8]) {
    let stride = stride.max(1);
    let rows: Vec<&[u8]> = source.chunks_exact(stride).collect();
    // Beyond the last row weights are zero.
    let nothing = vec![0; stride];
    let row = |number: usize| rows.get(number).copied().unwrap_or(&nothing);
    for (output, target) in target.chunks_exact_mut(stride).enumerate() {
        let digits = weights.digits(output);
        let start = weights.starts.get(output).copied().unwrap_or(0);
        for (block, target) in target.chunks_mut(COLUMNS).enumerate() {
            let columns = u32::try_from(target.len()).unwrap_or(0);
            let mask = __mmask64::MAX >> 64_u32.saturating_sub(columns);
            let mut sums = [[zeros(); 3]; 4];
            let mut next = start;
            for digits in digits {
                let [a, b, c, d] = [row(next), row(next + 1), row(next + 2), row(next + 3)];
                let from = block * COLUMNS;
                let (a, b) = (masked(a, from, mask), masked(b, from, mask));
                let (c, d) = (masked(c, from, mask), masked(d, from, mask));
                add_columns(&mut sums, [a, b, c, d], digits);
                next += QUAD;
            }
            let [[a, b, c], [d, e, f], [g, h, i], [j, k, l]] = sums;
            let low = _mm512_packs_epi32(rounded(a, b, c), rounded(d, e, f));
            let high = _mm512_packs_epi32(rounded(g, h, i), rounded(j, k, l));
            #[expect(unsafe_code, reason = "the mask has a bit for each byte of the target")]
            unsafe {
                let bytes = _mm512_packus_epi16(low, high);
                _mm512_mask_storeu_epi8(target.as_mut_ptr().cast(), mask, bytes);
            }
        }
    }
}

/// The bytes of a row from `from` on for which the mask has a bit, and zeros.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn masked(row: &[u8], from: usize, mask: __mmask64) -> __m512i {
    #[expect(
        unsafe_code,
        reason = "a row is as long as the target, which the mask was made from"
    )]
    unsafe {
        _mm512_maskz_loadu_epi8(mask, row.as_ptr().add(from).cast())
    }
}

/// Adds four rows of 64 columns, times their weights, to the sums of 16 columns each; in the order in
/// which packing them again puts them back.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn add_columns(sums: &mut [[__m512i; 3]; 4], [a, b, c, d]: [__m512i; 4], digits: &Digits) {
    let (ab, cd) = (_mm512_unpacklo_epi8(a, b), _mm512_unpacklo_epi8(c, d));
    let (ef, gh) = (_mm512_unpackhi_epi8(a, b), _mm512_unpackhi_epi8(c, d));
    let columns = [
        _mm512_unpacklo_epi16(ab, cd),
        _mm512_unpackhi_epi16(ab, cd),
        _mm512_unpacklo_epi16(ef, gh),
        _mm512_unpackhi_epi16(ef, gh),
    ];
    for (sums, values) in sums.iter_mut().zip(columns) {
        for (sum, digit) in sums.iter_mut().zip(digits) {
            *sum = _mm512_dpbusd_epi32(*sum, values, _mm512_set1_epi32(*digit));
        }
    }
}
