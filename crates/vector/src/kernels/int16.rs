//! Inner products of 16-bit codes, -32,767..=32,767, which are stored as little-endian bytes.
//!
//! The code -32,768 never occurs, so the sum of two products fits in an `i32`. Longer sums wrap in the same way
//! in every kernel. They do not wrap if the product of the rows' lengths is below 2^31.

use crate::kernels::CODE_BLOCK;

pub(super) fn one_portable(a: &[u8], b: &[u8]) -> i32 {
    let (a, _) = a.as_chunks::<CODE_BLOCK>();
    let (b, _) = b.as_chunks::<CODE_BLOCK>();
    let of_block = |(a, b): (&[u8; CODE_BLOCK], &[u8; CODE_BLOCK])| {
        let (a, _) = a.as_chunks::<2>();
        let (b, _) = b.as_chunks::<2>();
        let products = a.iter().zip(b).map(|(&a, &b)| {
            i32::from(i16::from_le_bytes(a)).wrapping_mul(i32::from(i16::from_le_bytes(b)))
        });
        products.fold(0, i32::wrapping_add)
    };
    a.iter().zip(b).map(of_block).fold(0, i32::wrapping_add)
}

pub(super) fn four_portable(query: &[u8], rows: [&[u8]; 4]) -> [i32; 4] {
    rows.map(|row| one_portable(query, row))
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::{
        _mm256_add_epi32, _mm256_madd_epi16, _mm256_setzero_si256, _mm512_dpwssd_epi32,
        _mm512_reduce_add_epi32, _mm512_setzero_si512,
    };

    use crate::kernels::CODE_BLOCK;
    use crate::kernels::int8::x86::{HALF, load256, load512, total256, totals256};

    #[target_feature(enable = "avx2")]
    pub(in crate::kernels) fn one_avx2(a: &[u8], b: &[u8]) -> i32 {
        let (a, _) = a.as_chunks::<CODE_BLOCK>();
        let (b, _) = b.as_chunks::<CODE_BLOCK>();
        let mut sums = [_mm256_setzero_si256(); 2];
        for (a, b) in a.iter().zip(b) {
            let (a, _) = a.as_chunks::<HALF>();
            let (b, _) = b.as_chunks::<HALF>();
            for ((a, b), sum) in a.iter().zip(b).zip(&mut sums) {
                *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(load256(a), load256(b)));
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
            for (row, sum) in [a, b, c, d].into_iter().zip(&mut sums) {
                *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(query, load256(row)));
            }
        }
        totals256(sums)
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    pub(in crate::kernels) fn one_vnni(query: &[u8], row: &[u8]) -> i32 {
        let (query, _) = query.as_chunks::<CODE_BLOCK>();
        let (row, _) = row.as_chunks::<CODE_BLOCK>();
        let mut sum = _mm512_setzero_si512();
        for (query, row) in query.iter().zip(row) {
            sum = _mm512_dpwssd_epi32(sum, load512(query), load512(row));
        }
        _mm512_reduce_add_epi32(sum)
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    pub(in crate::kernels) fn four_vnni(query: &[u8], rows: [&[u8]; 4]) -> [i32; 4] {
        let (query, _) = query.as_chunks::<CODE_BLOCK>();
        let [a, b, c, d] = rows.map(|row| row.as_chunks::<CODE_BLOCK>().0);
        let mut sums = [_mm512_setzero_si512(); 4];
        let rows = a.iter().zip(b).zip(c.iter().zip(d));
        for (query, ((a, b), (c, d))) in query.iter().zip(rows) {
            let query = load512(query);
            for (row, sum) in [a, b, c, d].into_iter().zip(&mut sums) {
                *sum = _mm512_dpwssd_epi32(*sum, query, load512(row));
            }
        }
        let [a, b, c, d] = sums;
        [
            _mm512_reduce_add_epi32(a),
            _mm512_reduce_add_epi32(b),
            _mm512_reduce_add_epi32(c),
            _mm512_reduce_add_epi32(d),
        ]
    }
}

#[cfg(target_arch = "x86_64")]
pub(super) use x86::{four_avx2, four_vnni, one_avx2, one_vnni};

/// NEON is in every 64-bit ARM CPU.
#[cfg(target_arch = "aarch64")]
pub(super) fn one_neon(a: &[u8], b: &[u8]) -> i32 {
    use std::arch::aarch64::{
        vaddvq_s32, vdupq_n_s32, vget_low_s16, vld1q_u8, vmlal_high_s16, vmlal_s16,
        vreinterpretq_s16_u8,
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
            let a = vreinterpretq_s16_u8(vld1q_u8(a.as_ptr()));
            let b = vreinterpretq_s16_u8(vld1q_u8(b.as_ptr()));
            sums[0] = vmlal_s16(sums[0], vget_low_s16(a), vget_low_s16(b));
            sums[1] = vmlal_high_s16(sums[1], a, b);
        }
        vaddvq_s32(sums[0]).wrapping_add(vaddvq_s32(sums[1]))
    }
}

#[cfg(target_arch = "aarch64")]
pub(super) fn four_neon(query: &[u8], rows: [&[u8]; 4]) -> [i32; 4] {
    rows.map(|row| one_neon(query, row))
}
