//! Inner products of rows of integer codes by CPU feature, all of them the same integer, and the
//! hint that fetches codes before they are needed.
//!
//! A row of codes is padded with zeros to a multiple of [`CODE_BLOCK`](crate::kernels::CODE_BLOCK) bytes.

use crate::kernels::{int8, int16};

/// The number of bytes that the memory system fetches at once.
const LINE: usize = 64;

/// The number of bits of a code. The lowest code of a width never occurs, because codes are symmetric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CodeWidth {
    /// `i8` in -127..=127.
    Eight,
    /// Little-endian `i16` in -32,767..=32,767.
    Sixteen,
}

impl CodeWidth {
    /// The number of bytes of a code.
    #[must_use]
    pub fn bytes(self) -> usize {
        match self {
            Self::Eight => 1,
            Self::Sixteen => 2,
        }
    }

    /// The greatest code; the lowest one is its negative.
    #[must_use]
    pub fn greatest(self) -> f32 {
        match self {
            Self::Eight => 127.0,
            Self::Sixteen => 32_767.0,
        }
    }
}

/// The inner product of two rows of codes of equal length.
type OneProduct = unsafe fn(&[u8], &[u8]) -> i32;
/// The inner products of a query with four rows of its length.
type FourProducts = unsafe fn(&[u8], [&[u8]; 4]) -> [i32; 4];

/// The instructions that compute inner products of codes of one width, chosen once for the CPU in use.
#[derive(Clone, Copy, Debug)]
pub struct CodeKernel {
    // These are private and set only after the CPU's features were checked, so both may be called on this CPU.
    one: OneProduct,
    four: FourProducts,
}

impl CodeKernel {
    /// The fastest kernel that this CPU supports.
    #[must_use]
    pub fn detect(width: CodeWidth) -> Self {
        // The portable kernel always exists.
        let fastest = Self::all(width).last().copied();
        fastest.unwrap_or_else(|| Self::portable(width))
    }

    fn portable(width: CodeWidth) -> Self {
        match width {
            CodeWidth::Eight => Self {
                one: int8::one_portable,
                four: int8::four_portable,
            },
            CodeWidth::Sixteen => Self {
                one: int16::one_portable,
                four: int16::four_portable,
            },
        }
    }

    /// Every kernel that this CPU supports, the slowest first.
    pub(super) fn all(width: CodeWidth) -> Vec<Self> {
        let mut all = vec![Self::portable(width)];
        #[cfg(target_arch = "x86_64")]
        {
            if std::arch::is_x86_feature_detected!("avx2") {
                all.push(match width {
                    CodeWidth::Eight => Self {
                        one: int8::one_avx2,
                        four: int8::four_avx2,
                    },
                    CodeWidth::Sixteen => Self {
                        one: int16::one_avx2,
                        four: int16::four_avx2,
                    },
                });
            }
            if std::arch::is_x86_feature_detected!("avx512f")
                && std::arch::is_x86_feature_detected!("avx512bw")
                && std::arch::is_x86_feature_detected!("avx512vnni")
            {
                all.push(match width {
                    CodeWidth::Eight => Self {
                        one: int8::one_vnni,
                        four: int8::four_vnni,
                    },
                    CodeWidth::Sixteen => Self {
                        one: int16::one_vnni,
                        four: int16::four_vnni,
                    },
                });
            }
        }
        #[cfg(target_arch = "aarch64")]
        all.push(match width {
            CodeWidth::Eight => Self {
                one: int8::one_neon,
                four: int8::four_neon,
            },
            CodeWidth::Sixteen => Self {
                one: int16::one_neon,
                four: int16::four_neon,
            },
        });
        all
    }

    /// Appends to `products` the inner products of `query` with the rows of `codes` that `rows` numbers, in
    /// that order.
    ///
    /// A row of `codes` is as long as `query`. For a row that does not exist, the product is `i32::MIN`. Codes
    /// after the last whole [`CODE_BLOCK`](crate::kernels::CODE_BLOCK) of a row are ignored. The result is
    /// exact for up to 131,072 codes of eight bits. With sixteen bits, it is exact if the product of the
    /// lengths of both rows is below 2^31, as for unit vectors times the greatest code.
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
    #[expect(
        unsafe_code,
        reason = "a kernel is made only where the CPU has its features"
    )]
    pub fn one(self, a: &[u8], b: &[u8]) -> i32 {
        unsafe { (self.one)(a, b) }
    }

    #[inline]
    #[expect(
        unsafe_code,
        reason = "a kernel is made only where the CPU has its features"
    )]
    fn four(self, query: &[u8], rows: [&[u8]; 4]) -> [i32; 4] {
        unsafe { (self.four)(query, rows) }
    }
}

/// Number of cache lines of each of the next four rows that are prefetched while four rows are computed.
const PREFETCH_LINES_AHEAD: usize = 20;

/// Row `row` of `codes`, rows being `stride` bytes long.
#[inline]
fn code_row(codes: &[u8], stride: usize, row: u32) -> Option<&[u8]> {
    let start = row as usize * stride;
    codes.get(start..start + stride)
}

/// Prefetches the first `lines` cache lines of row `row`; rows are `stride` bytes long.
#[inline]
pub fn prefetch_row(bytes: &[u8], stride: usize, row: u32, lines: usize) {
    let Some(row) = code_row(bytes, stride, row) else {
        return;
    };
    for line in row.chunks(LINE).take(lines) {
        prefetch(line);
    }
}

/// Prefetches the cache line in which `bytes` starts, without waiting for it.
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

#[cfg(test)]
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    reason = "codes are within their width, and counts small"
)]
mod tests {
    use super::*;
    use crate::kernels::CODE_BLOCK;
    use proptest::prelude::*;

    const WIDTHS: [CodeWidth; 2] = [CodeWidth::Eight, CodeWidth::Sixteen];

    fn bytes(width: CodeWidth, codes: &[i16]) -> Vec<u8> {
        match width {
            CodeWidth::Eight => (codes.iter())
                .map(|&code| (code as i8).cast_unsigned())
                .collect(),
            CodeWidth::Sixteen => codes.iter().flat_map(|code| code.to_le_bytes()).collect(),
        }
    }

    fn exact(a: &[i16], b: &[i16]) -> i32 {
        let pairs = a.iter().zip(b);
        pairs.map(|(&a, &b)| i32::from(a) * i32::from(b)).sum()
    }

    #[test]
    fn extreme_codes_of_eight_bits_do_not_saturate() {
        for blocks in [1, 2, 5, 20, 64, 1024] {
            for (x, y) in [(127, 127), (-127, 127), (127, -127), (-127, -127)] {
                let (a, b) = (vec![x; blocks * CODE_BLOCK], vec![y; blocks * CODE_BLOCK]);
                extremes(CodeWidth::Eight, &a, &b);
            }
        }
    }

    /// A row of sixteen bits may have one extreme code, or many that together are as long.
    #[test]
    fn extreme_codes_of_sixteen_bits_do_not_saturate() {
        for blocks in [1, 2, 5, 20, 64, 1024] {
            let codes = blocks * CODE_BLOCK / 2;
            for (x, y) in [(1, 1), (-1, 1), (1, -1), (-1, -1)] {
                let mut a = vec![0; codes];
                a[codes / 2..codes / 2 + 2].fill(x * 32_767);
                let all = y * (32_767.0 / (codes as f32).sqrt()) as i16;
                let b = vec![all; codes];
                extremes(CodeWidth::Sixteen, &a, &a);
                extremes(CodeWidth::Sixteen, &a, &b);
                extremes(CodeWidth::Sixteen, &b, &b);
            }
        }
    }

    fn extremes(width: CodeWidth, a: &[i16], b: &[i16]) {
        let expected = vec![exact(a, b); 5];
        let (a, b) = (bytes(width, a), bytes(width, b));
        let codes: Vec<u8> = [&*b, &b, &b, &b].concat();
        for kernel in CodeKernel::all(width) {
            let mut products = Vec::new();
            kernel.products(&a, &codes, &[0, 1, 2, 3, 0], &mut products);
            assert_eq!(products, expected, "{kernel:?}");
        }
    }

    #[test]
    fn a_row_that_is_not_there_has_the_least_product() {
        for width in WIDTHS {
            let all = bytes(width, &vec![1; 2 * CODE_BLOCK / width.bytes()]);
            let of_row = i32::try_from(CODE_BLOCK / width.bytes()).unwrap();
            for kernel in CodeKernel::all(width) {
                let mut products = Vec::new();
                let rows = [0, 1, 2, 0, u32::MAX, 1];
                kernel.products(&all[..CODE_BLOCK], &all, &rows, &mut products);
                let none = i32::MIN;
                assert_eq!(products, [of_row, of_row, none, of_row, none, of_row]);
            }
        }
    }

    proptest! {
        #[test]
        fn every_kernel_gives_the_same_integer(
            (width, row, query, codes, rows) in (0_usize..2, 1_usize..7).prop_flat_map(|(width, blocks)| {
                let width = WIDTHS[width];
                let row = blocks * CODE_BLOCK / width.bytes();
                // Six blocks of sixteen bits stay below 2^31 with these.
                let most: i16 = if width == CodeWidth::Eight { 127 } else { 3_300 };
                let code = -most..=most;
                (
                    Just(width),
                    Just(row),
                    prop::collection::vec(code.clone(), row),
                    prop::collection::vec(code, 6 * row),
                    prop::collection::vec(0_u32..6, 0..12),
                )
            })
        ) {
            let expected: Vec<i32> = rows
                .iter()
                .map(|&number| exact(&query, &codes[number as usize * row..][..row]))
                .collect();
            let (query, codes) = (bytes(width, &query), bytes(width, &codes));
            for kernel in CodeKernel::all(width) {
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
