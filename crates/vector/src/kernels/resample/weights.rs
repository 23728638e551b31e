//! Weights in the numbers that each instruction set multiplies, and single outputs computed with them.

/// Fractional bits of a weight. Two bits are left for weights that overshoot, and eight hold a byte.
pub(super) const WEIGHT_BITS: u32 = 22;
/// Half of the last bit that is kept: sums are rounded, not cut off.
pub(super) const HALF: i32 = 1 << (WEIGHT_BITS - 1);
/// Weights of each output are padded with zeros to a multiple of this.
pub(super) const QUAD: usize = 4;
/// Red, green, blue.
pub(super) const CHANNELS: usize = 3;

/// Which sources make up each output along one axis, and with what weights.
pub struct Weights {
    /// The first source of each output.
    pub(super) starts: Vec<usize>,
    /// Weights of each output: the longest, rounded up.
    pub(super) taps: usize,
    weights: Vec<i32>,
    pub(super) digits: Vec<Digits>,
    pub(super) near: NearWeights,
}

/// The digits of four weights, a byte each: the ones, the 256s, the 65,536s.
pub(super) type Digits = [i32; 3];

/// Weights rounded to 16 bits, and by how much that can change a sum.
pub(super) struct NearWeights {
    /// Two weights each, the first of them in the lower half; as many for each output.
    pairs: Vec<i32>,
    each: usize,
    /// How many bits of a sum with these weights are left away for the byte.
    pub(super) shift: i32,
    /// The least and the most that has to be added to a sum of each output, before it is shifted, for that of the
    /// weights themselves. Where both give the same byte, it is that of the weights themselves.
    bounds: Vec<[i32; 2]>,
}

impl NearWeights {
    /// Rounds `weights`, of which each output has `taps`, and at most `longest` that are not padding.
    fn of(weights: &[i32], taps: usize, longest: usize) -> Self {
        let largest = weights.iter().map(|weight| weight.abs()).max();
        let largest = largest.unwrap_or(0);
        let mut bits = 0;
        while i32::from(i16::MAX) <= rounded(largest, bits) {
            bits += 1;
        }
        let round = |weight: i32| rounded(weight, bits);
        let outputs = weights.chunks(taps.max(1));
        let bounds = outputs.map(|weights| {
            let left = |weight: &i32| i64::from(weight - (round(*weight) << bits));
            let (less, more) = weights.iter().map(left).fold((0, 0), |(less, more), left| {
                (less + left.min(0), more + left.max(0))
            });
            [less, more].map(|left| {
                let sum = (i64::from(HALF) + left * i64::from(u8::MAX)) >> bits;
                // It always fits: what is left of all weights of an output is much less than one.
                i32::try_from(sum).unwrap_or(i32::MAX)
            })
        });
        let each = longest.div_ceil(2).max(1);
        let pair = |[a, b]: &[i32; 2]| round(*a) & 0xFFFF | round(*b) << 16;
        let pairs = weights.chunks(taps.max(1));
        let pairs = pairs.flat_map(|weights| weights.as_chunks().0.iter().take(each).map(pair));
        Self {
            bounds: bounds.collect(),
            pairs: pairs.collect(),
            each,
            shift: WEIGHT_BITS.cast_signed() - bits,
        }
    }

    /// The pairs of each output, and the bounds of its sum.
    pub(super) fn each(&self) -> impl Iterator<Item = (&[i32], [i32; 2])> {
        let pairs = self.pairs.chunks_exact(self.each);
        pairs.zip(self.bounds.iter().copied())
    }
}

fn rounded(weight: i32, bits: i32) -> i32 {
    (weight + ((1 << bits) >> 1)) >> bits
}

impl Weights {
    /// Weights of outputs in order: the first source of each and a share for each source from there
    /// on. The shares of an output sum to one; their absolute values to less than two.
    #[must_use]
    pub fn new(outputs: &[(usize, Vec<f64>)]) -> Self {
        let longest = outputs.iter().map(|(_, shares)| shares.len()).max();
        let taps = longest.unwrap_or(0).next_multiple_of(QUAD);
        let padded = |shares: &[f64]| {
            let mut weights: Vec<i32> = shares.iter().map(|share| fixed_point(*share)).collect();
            weights.resize(taps, 0);
            weights
        };
        let weights: Vec<i32> = outputs
            .iter()
            .flat_map(|(_, shares)| padded(shares))
            .collect();
        Self {
            starts: outputs.iter().map(|(start, _)| *start).collect(),
            taps,
            digits: weights.as_chunks().0.iter().map(digits_of).collect(),
            near: NearWeights::of(&weights, taps, longest.unwrap_or(0)),
            weights,
        }
    }

    /// Number of outputs.
    #[must_use]
    pub fn outputs(&self) -> usize {
        self.starts.len()
    }

    /// The weights of an output, four by four.
    pub(super) fn digits(&self, output: usize) -> &[Digits] {
        let each = self.taps / QUAD;
        let range = output * each..(output + 1) * each;
        self.digits.get(range).unwrap_or_default()
    }

    /// The first source of an output, and its weights.
    pub(super) fn of(&self, output: usize) -> (usize, &[i32]) {
        let start = self.starts.get(output).copied().unwrap_or(0);
        let range = output * self.taps..(output + 1) * self.taps;
        (start, self.weights.get(range).unwrap_or_default())
    }

    /// The first source of each output, with its weights.
    pub(super) fn each(&self) -> impl Iterator<Item = (usize, &[i32])> {
        let weights = self.weights.chunks(self.taps.max(1));
        self.starts.iter().copied().zip(weights)
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

pub(super) fn to_byte(sum: i32) -> u8 {
    #[expect(clippy::cast_sign_loss, reason = "clamped to a byte")]
    {
        (sum >> WEIGHT_BITS).clamp(0, 255) as u8
    }
}

/// The sum of values times their weights, as a byte.
pub(super) fn one_byte(values: impl Iterator<Item = u8>, weights: &[i32]) -> u8 {
    let products = values
        .zip(weights)
        .map(|(value, weight)| i32::from(value) * weight);
    to_byte(HALF + products.sum::<i32>())
}

/// One output of a row that begins at its first source.
pub(super) fn one_pixel(row: &[u8], weights: &[i32]) -> [u8; CHANNELS] {
    let mut sums = [HALF; CHANNELS];
    let sources = row.as_chunks::<CHANNELS>().0;
    for (source, weight) in sources.iter().zip(weights) {
        for (sum, value) in sums.iter_mut().zip(source) {
            *sum += i32::from(*value) * weight;
        }
    }
    sums.map(to_byte)
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
