//! Numbers rounded to 8 bits in blocks, as ONNX Runtime's `MatMulNBits` takes them.

/// A row of numbers as whole multiples of a scale for each block.
#[derive(Clone, Debug, PartialEq)]
pub struct EightBits {
    /// The multiples, from -127 to 127.
    pub multiples: Vec<i8>,
    /// The scale of each block; the last block may be shorter.
    pub scales: Vec<f32>,
}

impl EightBits {
    /// Number of values with one scale. Of 32, 64, 128 and 256 it rounds the least, and none is faster.
    pub const BLOCK: usize = 32;

    /// Rounds a row. The largest value of each block stays as it is.
    #[must_use]
    #[expect(
        clippy::cast_possible_truncation,
        reason = "at most 127, and a cast of floats stops at the limits"
    )]
    pub fn of(row: &[f32]) -> Self {
        let mut rounded = Self {
            multiples: Vec::with_capacity(row.len()),
            scales: Vec::with_capacity(row.len().div_ceil(Self::BLOCK)),
        };
        for block in row.chunks(Self::BLOCK) {
            let sizes = block.iter().map(|one| one.abs());
            let largest = sizes.max_by(f32::total_cmp).unwrap_or(0.0);
            // A block of zeros has no scale; neither has one so small that its scale would be zero.
            let each = if largest < f32::MIN_POSITIVE * 127.0 {
                0.0
            } else {
                127.0 / largest
            };
            let multiples = block.iter().map(|value| (value * each).round_ties_even());
            rounded.multiples.extend(multiples.map(|one| one as i8));
            rounded.scales.push(largest / 127.0);
        }
        rounded
    }

    /// The rounded numbers.
    pub fn values(&self) -> impl Iterator<Item = f32> {
        let blocks = self.multiples.chunks(Self::BLOCK).zip(&self.scales);
        blocks.flat_map(|(block, scale)| block.iter().map(move |one| f32::from(*one) * scale))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_value_is_off_by_half_a_step_of_its_block_at_most() {
        let row: Vec<f32> = (0..100_i16)
            .map(|at| f32::from(at * 37 % 101 - 50) * if at < 32 { 1e-6 } else { 3.0 })
            .collect();
        let rounded = EightBits::of(&row);
        assert_eq!((rounded.multiples.len(), rounded.scales.len()), (100, 4));
        let values: Vec<f32> = rounded.values().collect();
        for (block, rounded) in row.chunks(32).zip(values.chunks(32)) {
            let sizes = block.iter().map(|one| one.abs());
            let largest = sizes.max_by(f32::total_cmp).unwrap_or(0.0);
            for (value, rounded) in block.iter().zip(rounded) {
                assert!((value - rounded).abs() <= largest * 0.501 / 127.0);
            }
        }
        // Rounded numbers stay as they are, but for the last bit of a scale.
        let again = EightBits::of(&values);
        assert_eq!(again.multiples, rounded.multiples);
    }

    #[test]
    fn nothing_and_next_to_nothing_are_zero() {
        let row = [[0.0_f32; 32], [1e-38; 32], [-1e-45; 32]].concat();
        let values: Vec<f32> = EightBits::of(&row).values().collect();
        assert_eq!(values, [0.0_f32; 96]);
        assert!(EightBits::of(&[]).scales.is_empty());
    }
}
