//! The two passes of a resize of RGB bytes, by CPU feature, all of them the same to the last bit.
//!
//! Sums of bytes times weights of 22 fractional bits in an `i32`, as Pillow computes them. The vector
//! instructions multiply smaller numbers, so each weight is taken apart: with AVX2 into two numbers of
//! 16 bits, `weight = high * 2048 + low`, with VNNI into three signed digits to the base of 256.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod vnni;

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
    digits: Vec<Digits>,
}

/// The digits of four weights, a byte each: the ones, the 256s, the 65,536s.
type Digits = [i32; 3];

impl Weights {
    /// Weights of outputs in order: the first source of each and a share for each source from there
    /// on. The shares of an output sum to one; their absolute values to less than two.
    #[must_use]
    pub fn new(outputs: &[(usize, Vec<f64>)]) -> Self {
        let longest = outputs.iter().map(|(_, shares)| shares.len()).max();
        let taps = longest.unwrap_or(0).next_multiple_of(QUAD);
        let (mut high, mut low, mut digits) = (Vec::new(), Vec::new(), Vec::new());
        for (_, shares) in outputs {
            let padding = std::iter::repeat(&0.0);
            let shares = shares.iter().chain(padding).take(taps);
            let weights: Vec<i32> = shares.map(|share| fixed_point(*share)).collect();
            digits.extend(weights.as_chunks().0.iter().map(digits_of));
            for weight in weights {
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
            digits,
        }
    }

    /// Number of outputs.
    #[must_use]
    pub fn outputs(&self) -> usize {
        self.starts.len()
    }

    /// The weights of an output, four by four.
    fn digits(&self, output: usize) -> &[Digits] {
        let each = self.taps / QUAD;
        let range = output * each..(output + 1) * each;
        self.digits.get(range).unwrap_or_default()
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

/// Digits are -128 to 127, so that what is left after each is a multiple of 256.
fn digits_of(weights: &[i32; QUAD]) -> Digits {
    let mut rest = *weights;
    [0, 1, 2].map(|_place| {
        let bytes = rest.map(|rest| rest.to_le_bytes()[0]);
        for (rest, byte) in rest.iter_mut().zip(bytes) {
            *rest = (*rest - i32::from(byte.cast_signed())) >> 8;
        }
        i32::from_le_bytes(bytes)
    })
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

/// Which instructions resize.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Portable,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Vnni,
}

impl Kind {
    /// Those that this CPU has, the slowest first.
    fn all() -> impl DoubleEndedIterator<Item = Self> {
        let kinds = [
            Some(Self::Portable),
            #[cfg(target_arch = "x86_64")]
            std::arch::is_x86_feature_detected!("avx2").then_some(Self::Avx2),
            #[cfg(target_arch = "x86_64")]
            (std::arch::is_x86_feature_detected!("avx512bw")
                && std::arch::is_x86_feature_detected!("avx512vnni"))
            .then_some(Self::Vnni),
        ];
        kinds.into_iter().flatten()
    }

    fn fastest() -> Self {
        Self::all().next_back().unwrap_or(Self::Portable)
    }
}

/// Resizes rows of RGB pixels, `width` of them in each: `target` gets as many rows, each of as many
/// pixels as the weights have outputs.
pub fn across(source: &[u8], width: usize, weights: &Weights, target: &mut [u8]) {
    across_by(Kind::fastest(), source, width, weights, target);
}

fn across_by(kind: Kind, source: &[u8], width: usize, weights: &Weights, target: &mut [u8]) {
    match kind {
        Kind::Portable => across_portable(source, width, weights, target),
        #[cfg(target_arch = "x86_64")]
        #[expect(unsafe_code, reason = "`all` gives this kind only where avx2 is")]
        Kind::Avx2 => unsafe { avx2::across(source, width, weights, target) },
        #[cfg(target_arch = "x86_64")]
        #[expect(unsafe_code, reason = "`all` gives this kind only where avx512vnni is")]
        Kind::Vnni => unsafe { vnni::across(source, width, weights, target) },
    }
}

/// Resizes columns of bytes, `stride` of them side by side: `target` gets as many rows as the weights
/// have outputs.
pub fn down(source: &[u8], stride: usize, weights: &Weights, target: &mut [u8]) {
    down_by(Kind::fastest(), source, stride, weights, target);
}

fn down_by(kind: Kind, source: &[u8], stride: usize, weights: &Weights, target: &mut [u8]) {
    match kind {
        Kind::Portable => down_portable(source, stride, weights, target),
        #[cfg(target_arch = "x86_64")]
        #[expect(unsafe_code, reason = "`all` gives this kind only where avx2 is")]
        Kind::Avx2 => unsafe { avx2::down(source, stride, weights, target) },
        #[cfg(target_arch = "x86_64")]
        #[expect(unsafe_code, reason = "`all` gives this kind only where avx512vnni is")]
        Kind::Vnni => unsafe { vnni::down(source, stride, weights, target) },
    }
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
        for (width, height) in [(1, 1), (2, 9), (5, 3), (17, 8), (64, 31), (101, 43)] {
            for (outputs, taps) in [(1, 1), (3, 4), (16, 5), (40, 9)] {
                let source = bytes(width * height * CHANNELS, 7);
                let columns = weights(width, outputs, taps);
                let rows = weights(height, outputs, taps);
                let mut across = vec![0; outputs * height * CHANNELS];
                let mut down = vec![0; outputs * width * CHANNELS];
                across_portable(&source, width, &columns, &mut across);
                down_portable(&source, width * CHANNELS, &rows, &mut down);
                for kind in Kind::all() {
                    let mut found = vec![0; across.len()];
                    across_by(kind, &source, width, &columns, &mut found);
                    assert_eq!(
                        found, across,
                        "{kind:?}: {width} x {height} across, {outputs}"
                    );
                    let mut found = vec![0; down.len()];
                    down_by(kind, &source, width * CHANNELS, &rows, &mut found);
                    assert_eq!(found, down, "{kind:?}: {width} x {height} down, {outputs}");
                }
            }
        }
    }

    #[test]
    fn the_digits_of_a_weight_make_it_up_again() {
        let most = (1 << (WEIGHT_BITS + 1)) - (1 << 16);
        for weight in [0, 1, -1, 127, 128, -128, -129, 32_768, -32_769, most, -most] {
            let digits = digits_of(&[weight, 0, 0, weight]).map(i32::to_le_bytes);
            let worth = |place: usize| -> i32 {
                let parts = digits.iter().zip([1, 256, 65_536]);
                parts
                    .map(|(digits, base)| i32::from(digits[place].cast_signed()) * base)
                    .sum()
            };
            assert_eq!([worth(0), worth(1), worth(3)], [weight, 0, weight]);
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
