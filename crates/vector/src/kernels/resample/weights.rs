//! Weights in the numbers that each instruction set multiplies, and one output computed with them.

/// Fractional bits of a weight. Two bits are left for weights that overshoot, and eight hold a byte.
pub(super) const WEIGHT_BITS: u32 = 22;
/// Bits of the lower part of a weight, which is never negative.
pub(super) const LOW_BITS: u32 = 11;
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
    high: Vec<i16>,
    low: Vec<i16>,
    pub(super) digits: Vec<Digits>,
}

/// The digits of four weights, a byte each: the ones, the 256s, the 65,536s.
pub(super) type Digits = [i32; 3];

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
    pub(super) fn digits(&self, output: usize) -> &[Digits] {
        let each = self.taps / QUAD;
        let range = output * each..(output + 1) * each;
        self.digits.get(range).unwrap_or_default()
    }

    /// The first source of each output, with its weights in two parts.
    pub(super) fn each(&self) -> impl Iterator<Item = (usize, &[i16], &[i16])> {
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

pub(super) fn weight(high: i16, low: i16) -> i32 {
    (i32::from(high) << LOW_BITS) + i32::from(low)
}

pub(super) fn to_byte(sum: i32) -> u8 {
    #[expect(clippy::cast_sign_loss, reason = "clamped to a byte")]
    {
        (sum >> WEIGHT_BITS).clamp(0, 255) as u8
    }
}

/// One output of a row that begins at its first source.
pub(super) fn one_pixel(row: &[u8], high: &[i16], low: &[i16]) -> [u8; CHANNELS] {
    let mut sums = [HALF; CHANNELS];
    let sources = row.as_chunks::<CHANNELS>().0;
    for (source, (high, low)) in sources.iter().zip(high.iter().zip(low)) {
        for (sum, value) in sums.iter_mut().zip(source) {
            *sum += i32::from(*value) * weight(*high, *low);
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
