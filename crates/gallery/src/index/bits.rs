//! A set of rows.

/// A set of row numbers below a limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bits {
    words: Vec<u64>,
    rows: usize,
    count: usize,
}

impl Bits {
    /// The empty set of `rows` possible rows.
    #[must_use]
    pub fn none(rows: usize) -> Self {
        Self {
            words: vec![0; rows.div_ceil(64)],
            rows,
            count: 0,
        }
    }

    /// The full set of `rows` rows.
    #[must_use]
    pub fn all(rows: usize) -> Self {
        let mut words = vec![u64::MAX; rows.div_ceil(64)];
        if let Some(last) = words.last_mut()
            && !rows.is_multiple_of(64)
        {
            *last = (1 << (rows % 64)) - 1;
        }
        Self {
            words,
            rows,
            count: rows,
        }
    }

    /// Adds a row to the set or removes it. A row beyond the limit is never in it.
    pub fn set(&mut self, row: usize, present: bool) {
        if self.rows <= row {
            return;
        }
        let Some(word) = self.words.get_mut(row / 64) else {
            return;
        };
        let bit = 1 << (row % 64);
        let was = *word & bit != 0;
        if present && !was {
            *word |= bit;
            self.count += 1;
        } else if !present && was {
            *word &= !bit;
            self.count -= 1;
        }
    }

    /// The rows that are in both sets.
    #[must_use]
    pub fn and(&self, other: &Self) -> Self {
        let both = self.words.iter().zip(&other.words);
        let words: Vec<u64> = both.map(|(a, b)| a & b).collect();
        Self {
            count: words.iter().map(|word| word.count_ones() as usize).sum(),
            words,
            rows: self.rows.min(other.rows),
        }
    }

    /// Whether a row is in the set.
    #[inline]
    #[must_use]
    pub fn contains(&self, row: usize) -> bool {
        self.words
            .get(row / 64)
            .is_some_and(|word| word >> (row % 64) & 1 != 0)
    }

    /// The number of possible rows.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// The number of rows in the set.
    #[must_use]
    pub fn count(&self) -> usize {
        self.count
    }

    /// The rows in the set, in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = usize> {
        self.words.iter().enumerate().flat_map(|(at, &word)| {
            let rest = std::iter::successors(Some(word), |word| Some(word & word.wrapping_sub(1)));
            rest.take_while(|&word| word != 0)
                .map(move |word| at * 64 + word.trailing_zeros() as usize)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_holds_what_was_put_in() {
        for rows in [0, 1, 63, 64, 65, 200] {
            let mut bits = Bits::none(rows);
            for row in (0..rows).step_by(3) {
                bits.set(row, true);
                bits.set(row, true);
            }
            bits.set(rows, true);
            assert_eq!(bits.count(), rows.div_ceil(3));
            assert!(bits.iter().eq((0..rows).step_by(3)));
            assert!((0..rows + 70).all(|row| bits.contains(row) == (row < rows && row % 3 == 0)));
            let mut all = Bits::all(rows);
            assert!(all.iter().eq(0..rows));
            for row in 0..rows {
                all.set(row, row % 3 == 0);
            }
            assert_eq!(all, bits);
        }
    }
}
