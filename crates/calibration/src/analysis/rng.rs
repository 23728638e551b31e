//! Pseudo-random numbers that depend only on a seed.

use crate::splitmix64::{mixed, next};

/// A pseudo-random sequence by splitmix64 (Steele, Lea and Flood 2014). It is the same on every machine.
#[derive(Clone, Debug)]
pub struct SeededRng(u64);

impl SeededRng {
    /// The sequence with number `stream` for a seed. The sequences of one seed do not overlap in any practical
    /// use.
    #[must_use]
    pub fn new(seed: u64, stream: u64) -> Self {
        Self(mixed(seed) ^ mixed(!stream))
    }

    /// The next 64 bits.
    pub fn bits(&mut self) -> u64 {
        next(&mut self.0)
    }

    /// A number below `count`. All numbers have the same probability, to within one part in 2^64 / `count`. 0
    /// if `count` is 0.
    pub fn below(&mut self, count: usize) -> usize {
        let scaled = (u128::from(self.bits()) * count as u128) >> 64;
        usize::try_from(scaled).unwrap_or(0)
    }

    /// Puts `items` in a random order (Fisher and Yates).
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last + 1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stream_is_splitmix64() {
        // The first numbers of the reference implementation, starting from state 0.
        let mut draws = SeededRng(0);
        assert_eq!(draws.bits(), 0xE220_A839_7B1D_CDAF);
        assert_eq!(draws.bits(), 0x6E78_9E6A_A1B9_65F4);
        assert_eq!(draws.bits(), 0x06C4_5D18_8009_454F);
    }

    #[test]
    fn streams_and_seeds_differ_and_each_repeats() {
        let first = |seed, stream| SeededRng::new(seed, stream).bits();
        assert_eq!(first(1, 2), first(1, 2));
        assert_ne!(first(1, 2), first(2, 1));
        assert_ne!(first(0, 0), first(0, 1));
        assert_ne!(first(3, 3), first(4, 4));
    }

    #[test]
    fn every_number_and_every_order_turns_up() {
        let mut draws = SeededRng::new(7, 0);
        let mut seen = [0_u32; 6];
        for _ in 0..6_000 {
            let mut items = [0, 1, 2];
            draws.shuffle(&mut items);
            seen[items[0] * 2 + usize::from(items[1] > items[2])] += 1;
        }
        assert!(
            seen.iter().all(|&times| (900..1_100).contains(&times)),
            "{seen:?}"
        );
        assert_eq!(draws.below(0), 0);
    }
}
