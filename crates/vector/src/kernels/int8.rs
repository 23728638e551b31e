//! Inner products of 8-bit codes, -127..=127, which are stored as bytes.
//!
//! The code -128 never occurs, because the AVX2 kernel uses absolute values and moves signs, and 128 would not
//! fit.

use crate::kernels::CODE_BLOCK;

pub(super) fn one_portable(a: &[u8], b: &[u8]) -> i32 {
    let (a, _) = a.as_chunks::<CODE_BLOCK>();
    let (b, _) = b.as_chunks::<CODE_BLOCK>();
    let of_block = |(a, b): (&[u8; CODE_BLOCK], &[u8; CODE_BLOCK])| -> i32 {
        let pairs = a.iter().zip(b);
        pairs
            .map(|(&a, &b)| i32::from(a.cast_signed()) * i32::from(b.cast_signed()))
            .sum()
    };
    a.iter().zip(b).map(of_block).sum()
}

pub(super) fn four_portable(query: &[u8], rows: [&[u8]; 4]) -> [i32; 4] {
    rows.map(|row| one_portable(query, row))
}

#[cfg(target_arch = "x86_64")]
pub(super) mod x86 {
    use std::arch::x86_64::{
        __m256i, __m512i, _mm_add_epi32, _mm_cvtsi128_si32, _mm_shuffle_epi32, _mm256_abs_epi8,
        _mm256_add_epi32, _mm256_castsi256_si128, _mm256_extracti128_si256, _mm256_hadd_epi32,
        _mm256_loadu_si256, _mm256_madd_epi16, _mm256_maddubs_epi16, _mm256_set1_epi16,
        _mm256_setzero_si256, _mm256_sign_epi8, _mm512_dpbusd_epi32, _mm512_loadu_si512,
        _mm512_reduce_add_epi32, _mm512_set1_epi8, _mm512_setzero_si512, _mm512_xor_si512,
    };

    use super::CODE_BLOCK;

    /// Bytes of a 256-bit register.
    pub(in crate::kernels) const HALF: usize = CODE_BLOCK / 2;

    #[inline]
    #[target_feature(enable = "avx2")]
    pub(in crate::kernels) fn load256(bytes: &[u8; HALF]) -> __m256i {
        #[expect(
            unsafe_code,
            reason = "32 bytes are borrowed, and no alignment is needed"
        )]
        unsafe {
            _mm256_loadu_si256(bytes.as_ptr().cast())
        }
    }

    /// The sum of eight lanes.
    #[inline]
    #[target_feature(enable = "avx2")]
    pub(in crate::kernels) fn total256(sum: __m256i) -> i32 {
        let sum = _mm_add_epi32(
            _mm256_castsi256_si128(sum),
            _mm256_extracti128_si256::<1>(sum),
        );
        let sum = _mm_add_epi32(sum, _mm_shuffle_epi32::<0b01_00_11_10>(sum));
        let sum = _mm_add_epi32(sum, _mm_shuffle_epi32::<0b10_11_00_01>(sum));
        _mm_cvtsi128_si32(sum)
    }

    /// The sums of eight lanes each.
    #[inline]
    #[target_feature(enable = "avx2")]
    pub(in crate::kernels) fn totals256(sums: [__m256i; 4]) -> [i32; 4] {
        let [a, b, c, d] = sums;
        let sum = _mm256_hadd_epi32(_mm256_hadd_epi32(a, b), _mm256_hadd_epi32(c, d));
        let sum = _mm_add_epi32(
            _mm256_castsi256_si128(sum),
            _mm256_extracti128_si256::<1>(sum),
        );
        [
            _mm_cvtsi128_si32(sum),
            _mm_cvtsi128_si32(_mm_shuffle_epi32::<1>(sum)),
            _mm_cvtsi128_si32(_mm_shuffle_epi32::<2>(sum)),
            _mm_cvtsi128_si32(_mm_shuffle_epi32::<3>(sum)),
        ]
    }

    /// Products of 32 codes, summed in eight lanes.
    ///
    /// `maddubs` treats the first factor as unsigned, and saturates sums of two products at 32,767. The factors
    /// are |a| and b times the sign of a. Both are at most 127, so such a sum is at most 32,258.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn add_products(sum: __m256i, query: __m256i, magnitude: __m256i, row: __m256i) -> __m256i {
        let pairs = _mm256_maddubs_epi16(magnitude, _mm256_sign_epi8(row, query));
        _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)))
    }

    #[target_feature(enable = "avx2")]
    pub(in crate::kernels) fn one_avx2(a: &[u8], b: &[u8]) -> i32 {
        let (a, _) = a.as_chunks::<CODE_BLOCK>();
        let (b, _) = b.as_chunks::<CODE_BLOCK>();
        let mut sums = [_mm256_setzero_si256(); 2];
        for (a, b) in a.iter().zip(b) {
            let (a, _) = a.as_chunks::<HALF>();
            let (b, _) = b.as_chunks::<HALF>();
            for ((a, b), sum) in a.iter().zip(b).zip(&mut sums) {
                let (a, b) = (load256(a), load256(b));
                *sum = add_products(*sum, a, _mm256_abs_epi8(a), b);
            }
        }
        let [even, odd] = sums;
        total256(_mm256_add_epi32(even, odd))
    }

    #[target_feature(enable = "avx2")]
    pub(in crate::kernels) fn four_avx2(query: &[u8], rows: [&[u8]; 4]) -> [i32; 4] {
        let (query, _) = query.as_chunks::<HALF>();
        let [a, b, c, d] = rows.map(|row| row.as_chunks::<HALF>().0);
        let mut sums = [_mm256_setzero_si256(); 4];
        let rows = a.iter().zip(b).zip(c.iter().zip(d));
        for (query, ((a, b), (c, d))) in query.iter().zip(rows) {
            let query = load256(query);
            let magnitude = _mm256_abs_epi8(query);
            for (row, sum) in [a, b, c, d].into_iter().zip(&mut sums) {
                *sum = add_products(*sum, query, magnitude, load256(row));
            }
        }
        totals256(sums)
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    pub(in crate::kernels) fn load512(bytes: &[u8; CODE_BLOCK]) -> __m512i {
        #[expect(
            unsafe_code,
            reason = "64 bytes are borrowed, and no alignment is needed"
        )]
        unsafe {
            _mm512_loadu_si512(bytes.as_ptr().cast())
        }
    }

    /// `dpbusd` takes the first factor as unsigned: row + 128 times query, less 128 times query.
    /// It does not saturate.
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    pub(in crate::kernels) fn one_vnni(query: &[u8], row: &[u8]) -> i32 {
        let (query, _) = query.as_chunks::<CODE_BLOCK>();
        let (row, _) = row.as_chunks::<CODE_BLOCK>();
        let offset = _mm512_set1_epi8(-128);
        let (mut sum, mut excess) = (_mm512_setzero_si512(), _mm512_setzero_si512());
        for (query, row) in query.iter().zip(row) {
            let query = load512(query);
            sum = _mm512_dpbusd_epi32(sum, _mm512_xor_si512(load512(row), offset), query);
            excess = _mm512_dpbusd_epi32(excess, offset, query);
        }
        _mm512_reduce_add_epi32(sum).wrapping_sub(_mm512_reduce_add_epi32(excess))
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    pub(in crate::kernels) fn four_vnni(query: &[u8], rows: [&[u8]; 4]) -> [i32; 4] {
        let (query, _) = query.as_chunks::<CODE_BLOCK>();
        let [a, b, c, d] = rows.map(|row| row.as_chunks::<CODE_BLOCK>().0);
        let offset = _mm512_set1_epi8(-128);
        let mut sums = [_mm512_setzero_si512(); 4];
        let mut excess = _mm512_setzero_si512();
        let rows = a.iter().zip(b).zip(c.iter().zip(d));
        for (query, ((a, b), (c, d))) in query.iter().zip(rows) {
            let query = load512(query);
            excess = _mm512_dpbusd_epi32(excess, offset, query);
            for (row, sum) in [a, b, c, d].into_iter().zip(&mut sums) {
                *sum = _mm512_dpbusd_epi32(*sum, _mm512_xor_si512(load512(row), offset), query);
            }
        }
        let excess = _mm512_reduce_add_epi32(excess);
        let [a, b, c, d] = sums;
        [
            _mm512_reduce_add_epi32(a).wrapping_sub(excess),
            _mm512_reduce_add_epi32(b).wrapping_sub(excess),
            _mm512_reduce_add_epi32(c).wrapping_sub(excess),
            _mm512_reduce_add_epi32(d).wrapping_sub(excess),
        ]
    }
}

#[cfg(target_arch = "x86_64")]
pub(super) use x86::{four_avx2, four_vnni, one_avx2, one_vnni};

/// NEON is in every 64-bit ARM CPU. A product of two codes fits an `i16`, and pairs of products
/// are added into `i32` lanes.
#[cfg(target_arch = "aarch64")]
pub(super) fn one_neon(a: &[u8], b: &[u8]) -> i32 {
    use std::arch::aarch64::{
        vaddvq_s32, vdupq_n_s32, vget_low_s8, vld1q_u8, vmull_high_s8, vmull_s8, vpadalq_s16,
        vreinterpretq_s8_u8,
    };
    let (a, _) = a.as_chunks::<16>();
    let (b, _) = b.as_chunks::<16>();
    #[expect(
        unsafe_code,
        reason = "16 bytes are borrowed at each load, and NEON is always there"
    )]
    unsafe {
        let mut sums = [vdupq_n_s32(0); 2];
        for (a, b) in a.iter().zip(b) {
            let a = vreinterpretq_s8_u8(vld1q_u8(a.as_ptr()));
            let b = vreinterpretq_s8_u8(vld1q_u8(b.as_ptr()));
            sums[0] = vpadalq_s16(sums[0], vmull_s8(vget_low_s8(a), vget_low_s8(b)));
            sums[1] = vpadalq_s16(sums[1], vmull_high_s8(a, b));
        }
        vaddvq_s32(sums[0]) + vaddvq_s32(sums[1])
    }
}

#[cfg(target_arch = "aarch64")]
pub(super) fn four_neon(query: &[u8], rows: [&[u8]; 4]) -> [i32; 4] {
    rows.map(|row| one_neon(query, row))
}
