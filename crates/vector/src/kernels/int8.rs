//! Inner products of 8-bit codes by CPU feature, all of them the same integer, and the hint that
//! fetches codes before they are needed.
//!
//! A code is an `i8` in -127..=127, held as its byte. -128 never occurs: the AVX2 kernel takes
//! absolute values and moves signs, which has no room for it.

/// Codes in a row are padded with zeros to a multiple of this: one cache line.
pub const CODE_BLOCK: usize = 64;

/// Bytes fetched at once by the memory system.
const LINE: usize = 64;

/// Which instructions compute inner products, chosen once for the CPU that runs this.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Int8Kernel(Int8KernelKind);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Int8KernelKind {
    Portable,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Vnni,
    #[cfg(target_arch = "aarch64")]
    Neon,
}

impl Int8Kernel {
    /// The fastest kernel that this CPU has.
    #[must_use]
    pub fn detect() -> Self {
        Self::all()
            .last()
            .copied()
            .unwrap_or(Self(Int8KernelKind::Portable))
    }

    /// Every kernel that this CPU has, the slowest first.
    fn all() -> Vec<Self> {
        let mut all = vec![Self(Int8KernelKind::Portable)];
        #[cfg(target_arch = "x86_64")]
        {
            if std::arch::is_x86_feature_detected!("avx2") {
                all.push(Self(Int8KernelKind::Avx2));
            }
            if std::arch::is_x86_feature_detected!("avx512f")
                && std::arch::is_x86_feature_detected!("avx512bw")
                && std::arch::is_x86_feature_detected!("avx512vnni")
            {
                all.push(Self(Int8KernelKind::Vnni));
            }
        }
        #[cfg(target_arch = "aarch64")]
        all.push(Self(Int8KernelKind::Neon));
        all
    }

    /// The inner products of `query` with the rows of `codes` whose numbers `rows` gives, in that
    /// order, appended to `products`.
    ///
    /// A row of `codes` is as long as `query`. A row that `codes` does not hold has the product
    /// `i32::MIN`. Exact up to 131,072 codes a row; what is beyond the last whole
    /// [`CODE_BLOCK`] of a row is ignored.
    pub fn products(self, query: &[u8], codes: &[u8], rows: &[u32], products: &mut Vec<i32>) {
        let mut quads = rows.chunks_exact(4);
        let mut next = rows.chunks_exact(4).skip(1);
        for quad in &mut quads {
            if let Some(ahead) = next.next() {
                for &row in ahead {
                    prefetch_row(codes, query.len(), row, PREFETCH_LINES_AHEAD);
                }
            }
            let found = match *quad {
                [a, b, c, d] => [a, b, c, d].map(|row| code_row(codes, query.len(), row)),
                _ => [None; 4],
            };
            let four = match found {
                [Some(a), Some(b), Some(c), Some(d)] => self.four(query, [a, b, c, d]),
                some => some.map(|row| row.map_or(i32::MIN, |row| self.one(query, row))),
            };
            products.extend_from_slice(&four);
        }
        for &row in quads.remainder() {
            let row = code_row(codes, query.len(), row);
            products.push(row.map_or(i32::MIN, |row| self.one(query, row)));
        }
    }

    /// The inner product of two rows of codes of equal length.
    #[inline]
    #[must_use]
    pub fn one(self, a: &[u8], b: &[u8]) -> i32 {
        match self.0 {
            Int8KernelKind::Portable => one_portable(a, b),
            #[cfg(target_arch = "x86_64")]
            #[expect(unsafe_code, reason = "`detect` gives this kind only where avx2 is")]
            Int8KernelKind::Avx2 => unsafe { one_avx2(a, b) },
            #[cfg(target_arch = "x86_64")]
            #[expect(
                unsafe_code,
                reason = "`detect` gives this kind only where avx512vnni is"
            )]
            Int8KernelKind::Vnni => unsafe { one_vnni(a, b) },
            #[cfg(target_arch = "aarch64")]
            Int8KernelKind::Neon => one_neon(a, b),
        }
    }

    #[inline]
    fn four(self, query: &[u8], rows: [&[u8]; 4]) -> [i32; 4] {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            #[expect(unsafe_code, reason = "`detect` gives this kind only where avx2 is")]
            Int8KernelKind::Avx2 => unsafe { four_avx2(query, rows) },
            #[cfg(target_arch = "x86_64")]
            #[expect(
                unsafe_code,
                reason = "`detect` gives this kind only where avx512vnni is"
            )]
            Int8KernelKind::Vnni => unsafe { four_vnni(query, rows) },
            Int8KernelKind::Portable => rows.map(|row| one_portable(query, row)),
            #[cfg(target_arch = "aarch64")]
            Int8KernelKind::Neon => rows.map(|row| one_neon(query, row)),
        }
    }
}

/// Lines of each of the next four rows that are asked for while four rows are computed.
const PREFETCH_LINES_AHEAD: usize = 20;

/// Row `row` of `codes`, rows being `stride` bytes long.
#[inline]
fn code_row(codes: &[u8], stride: usize, row: u32) -> Option<&[u8]> {
    let start = row as usize * stride;
    codes.get(start..start + stride)
}

/// Asks for the first `lines` cache lines of row `row`, rows being `stride` bytes long.
#[inline]
pub fn prefetch_row(bytes: &[u8], stride: usize, row: u32, lines: usize) {
    let Some(row) = code_row(bytes, stride, row) else {
        return;
    };
    for line in row.chunks(LINE).take(lines) {
        prefetch(line);
    }
}

/// Asks for the cache line in which `bytes` begins, without waiting for it.
#[inline]
pub fn prefetch<T>(bytes: &[T]) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        #[expect(
            unsafe_code,
            reason = "a hint: it reads nothing and faults on no address"
        )]
        unsafe {
            _mm_prefetch::<_MM_HINT_T0>(bytes.as_ptr().cast());
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = bytes;
}

fn one_portable(a: &[u8], b: &[u8]) -> i32 {
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

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::{
        __m256i, __m512i, _mm_add_epi32, _mm_cvtsi128_si32, _mm_shuffle_epi32, _mm256_abs_epi8,
        _mm256_add_epi32, _mm256_castsi256_si128, _mm256_extracti128_si256, _mm256_hadd_epi32,
        _mm256_loadu_si256, _mm256_madd_epi16, _mm256_maddubs_epi16, _mm256_set1_epi16,
        _mm256_setzero_si256, _mm256_sign_epi8, _mm512_dpbusd_epi32, _mm512_loadu_si512,
        _mm512_reduce_add_epi32, _mm512_set1_epi8, _mm512_setzero_si512, _mm512_xor_si512,
    };

    use super::CODE_BLOCK;

    const HALF: usize = CODE_BLOCK / 2;

    #[inline]
    #[target_feature(enable = "avx2")]
    fn load256(bytes: &[u8; HALF]) -> __m256i {
        #[expect(
            unsafe_code,
            reason = "32 bytes are borrowed, and no alignment is needed"
        )]
        unsafe {
            _mm256_loadu_si256(bytes.as_ptr().cast())
        }
    }

    /// Products of 32 codes, summed in eight lanes.
    ///
    /// `maddubs` takes the first factor as unsigned and saturates sums of two products at 32,767.
    /// With |a| and b times the sign of a, both at most 127, such a sum is at most 32,258.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn add_products(sum: __m256i, query: __m256i, magnitude: __m256i, row: __m256i) -> __m256i {
        let pairs = _mm256_maddubs_epi16(magnitude, _mm256_sign_epi8(row, query));
        _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)))
    }

    #[target_feature(enable = "avx2")]
    pub(super) fn one_avx2(a: &[u8], b: &[u8]) -> i32 {
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
        let sum = _mm256_add_epi32(even, odd);
        let sum = _mm_add_epi32(
            _mm256_castsi256_si128(sum),
            _mm256_extracti128_si256::<1>(sum),
        );
        let sum = _mm_add_epi32(sum, _mm_shuffle_epi32::<0b01_00_11_10>(sum));
        let sum = _mm_add_epi32(sum, _mm_shuffle_epi32::<0b10_11_00_01>(sum));
        _mm_cvtsi128_si32(sum)
    }

    #[target_feature(enable = "avx2")]
    pub(super) fn four_avx2(query: &[u8], rows: [&[u8]; 4]) -> [i32; 4] {
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

    #[inline]
    #[target_feature(enable = "avx512f")]
    fn load512(bytes: &[u8; CODE_BLOCK]) -> __m512i {
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
    pub(super) fn one_vnni(query: &[u8], row: &[u8]) -> i32 {
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
    pub(super) fn four_vnni(query: &[u8], rows: [&[u8]; 4]) -> [i32; 4] {
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
use x86::{four_avx2, four_vnni, one_avx2, one_vnni};

/// NEON is in every 64-bit ARM CPU. A product of two codes fits an `i16`, and pairs of products
/// are added into `i32` lanes.
#[cfg(target_arch = "aarch64")]
fn one_neon(a: &[u8], b: &[u8]) -> i32 {
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn exact(a: &[u8], b: &[u8]) -> i32 {
        let pairs = a.iter().zip(b);
        pairs
            .map(|(&a, &b)| i32::from(a.cast_signed()) * i32::from(b.cast_signed()))
            .sum()
    }

    #[test]
    fn extreme_codes_do_not_saturate() {
        for blocks in [1, 2, 5, 20, 64, 1024] {
            for (x, y) in [(127_i8, 127_i8), (-127, 127), (127, -127), (-127, -127)] {
                let a = vec![x.cast_unsigned(); blocks * CODE_BLOCK];
                let b = vec![y.cast_unsigned(); blocks * CODE_BLOCK];
                let codes: Vec<u8> = [&*b, &b, &b, &b].concat();
                for kernel in Int8Kernel::all() {
                    let mut products = Vec::new();
                    kernel.products(&a, &codes, &[0, 1, 2, 3, 0], &mut products);
                    assert_eq!(products, vec![exact(&a, &b); 5], "{kernel:?}");
                }
            }
        }
    }

    #[test]
    fn a_row_that_is_not_there_has_the_least_product() {
        let codes = vec![1_u8; 2 * CODE_BLOCK];
        for kernel in Int8Kernel::all() {
            let mut products = Vec::new();
            let rows = [0, 1, 2, 0, u32::MAX, 1];
            kernel.products(&codes[..CODE_BLOCK], &codes, &rows, &mut products);
            assert_eq!(products, [64, 64, i32::MIN, 64, i32::MIN, 64]);
        }
    }

    proptest! {
        #[test]
        fn every_kernel_gives_the_same_integer(
            (query, codes, rows) in (1_usize..7).prop_flat_map(|blocks| {
                let code = (-127_i8..=127).prop_map(i8::cast_unsigned);
                let row = blocks * CODE_BLOCK;
                (
                    prop::collection::vec(code.clone(), row),
                    prop::collection::vec(code, 6 * row),
                    prop::collection::vec(0_u32..6, 0..12),
                )
            })
        ) {
            let expected: Vec<i32> = rows
                .iter()
                .map(|&row| exact(&query, &codes[row as usize * query.len()..][..query.len()]))
                .collect();
            for kernel in Int8Kernel::all() {
                let mut products = Vec::new();
                kernel.products(&query, &codes, &rows, &mut products);
                prop_assert_eq!(&products, &expected, "{:?}", kernel);
                for (&row, &product) in rows.iter().zip(&expected) {
                    let row = &codes[row as usize * query.len()..][..query.len()];
                    prop_assert_eq!(kernel.one(&query, row), product);
                }
            }
        }
    }
}
