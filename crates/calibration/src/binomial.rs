//! Exact binomial tails and the bounds that invert them.
//!
//! Tails of up to 10^12 trials agree with sums of 50 and more digits to a relative error of 1e-12.

use std::f64::consts::{PI, SQRT_2};

use statrs::function::{erf::erfc_inv, factorial::ln_binomial, gamma::ln_gamma};

/// P(X <= `events`) for X ~ Binomial(`trials`, `rate`).
#[must_use]
pub fn cdf(events: u64, trials: u64, rate: f64) -> f64 {
    if trials <= events || rate <= 0.0 {
        return 1.0;
    }
    if 1.0 <= rate {
        return 0.0;
    }
    if events == 0 {
        return (real(trials) * (-rate).ln_1p()).exp();
    }
    let (a, b) = (real(trials - events), real(events + 1));
    regularised_beta(a, b, [1.0 - rate, rate])
}

/// The lowest rate at which the probability of `events` or fewer is at most `delta`: the one-sided upper bound
/// of Clopper and Pearson. In [0, 1].
#[must_use]
pub fn upper_bound(events: u64, trials: u64, delta: f64) -> f64 {
    if trials <= events {
        return 1.0;
    }
    if events == 0 {
        return -(delta.ln() / real(trials)).exp_m1();
    }
    let [_, at_most] = bisect(|rate| cdf(events, trials, rate) <= delta);
    at_most
}

/// The highest rate at which the probability of `events` or more is at most `delta`: the one-sided lower bound
/// of Clopper and Pearson. In [0, 1].
#[must_use]
pub fn lower_bound(events: u64, trials: u64, delta: f64) -> f64 {
    if events == 0 || trials < events {
        return 0.0;
    }
    if events == trials {
        return (delta.ln() / real(trials)).exp();
    }
    let (a, b) = (real(events), real(trials - events + 1));
    let [at_most, _] = bisect(|rate| delta < regularised_beta(a, b, [rate, 1.0 - rate]));
    at_most
}

/// The upper tail of the hypergeometric distribution (Fisher's exact test, one-sided): the probability of at
/// least `found` marked items in a sample of `drawn` without replacement from `all` items, of which `marked`
/// are marked.
#[must_use]
pub fn hypergeometric_tail(found: u64, drawn: u64, marked: u64, all: u64) -> f64 {
    let (drawn, marked) = (drawn.min(all), marked.min(all));
    let least = (drawn + marked).saturating_sub(all);
    if found <= least {
        return 1.0;
    }
    let terms = (found..=drawn.min(marked)).map(|found| {
        let of_marked = ln_binomial(marked, found);
        let of_others = ln_binomial(all - marked, drawn - found);
        (of_marked + of_others - ln_binomial(all, drawn)).exp()
    });
    terms.sum::<f64>().min(1.0)
}

/// The value that a standard normal variable exceeds with probability `tail`.
#[must_use]
pub fn normal_quantile(tail: f64) -> f64 {
    SQRT_2 * erfc_inv(2.0 * tail)
}

/// The probability that a standard normal variable exceeds `z`; accurate far into the tail.
#[cfg(test)]
pub(crate) fn normal_tail(z: f64) -> f64 {
    statrs::function::erf::erfc(z / SQRT_2) / 2.0
}

/// Converts a count to `f64`.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^53")]
pub fn real(count: u64) -> f64 {
    count as f64
}

/// The regularised incomplete beta function, for `a` and `b` of 1 or more, at x, given x and 1 - x.
///
/// Our own, because the one in `statrs` ends its continued fraction after 140 steps without a word. Of some million
/// trials it takes more, about as many as the square root of the number of trials.
fn regularised_beta(a: f64, b: f64, [x, rest]: [f64; 2]) -> f64 {
    if rest <= 0.0 {
        return 1.0;
    }
    if x <= 0.0 {
        return 0.0;
    }
    let n = a + b;
    // From the smaller share, which is the exact one.
    let by = if x < rest { a - n * x } else { n * rest - b };
    let at = BetaPoint { a, b, x, rest, by };
    // Past the mean the fraction does not converge, and the other side does.
    let past = by < 0.0;
    // A fraction that does not end gives the value that certifies nothing.
    let Some(tail) = (if past { at.swapped() } else { at }).tail() else {
        return 1.0;
    };
    if past { 1.0 - tail } else { tail }
}

/// Where the incomplete beta function is asked for.
#[derive(Clone, Copy)]
struct BetaPoint {
    a: f64,
    b: f64,
    x: f64,
    /// 1 - x
    rest: f64,
    /// a - (a + b) x, which is (a + b) (1 - x) - b: how far x is below the mean.
    by: f64,
}

impl BetaPoint {
    /// The point of the other side: I(a, b, x) = 1 - I(b, a, 1 - x).
    fn swapped(self) -> Self {
        Self {
            a: self.b,
            b: self.a,
            x: self.rest,
            rest: self.x,
            by: -self.by,
        }
    }

    /// The regularised incomplete beta function at or below the mean; `None` if its fraction does not end.
    fn tail(self) -> Option<f64> {
        Some(self.factor() * self.fraction()?)
    }

    /// x^a (1 - x)^b / B(a, b), by its distance from the mode (Loader, 2000): differences of gamma functions lose a
    /// digit for each digit of the number of trials.
    fn factor(self) -> f64 {
        let Self { a, b, x, rest, by } = self;
        let n = a + b;
        let exponent = stirling_error(n)
            - stirling_error(a)
            - stirling_error(b)
            - a * (by / (n * x)).ln_1p()
            - b * (-by / (n * rest)).ln_1p();
        exponent.exp() * (a * b / (2.0 * PI * n)).sqrt()
    }

    /// The continued fraction of Didonato and Morris (1992, ACM TOMS 18, algorithm 708), whose terms are formed from
    /// the distance to the mean, so that none of them is a difference of large numbers.
    fn fraction(self) -> Option<f64> {
        const STEPS_MAX: u32 = 10_000_000;
        let Self { a, b, x, rest, by } = self;
        // Its convergents by their recurrence, scaled such that the last denominator is 1.
        let mut value = (1.0 + 1.0 / a) / (1.0 + by);
        let [mut above, mut below] = [0.0, value];
        for step in 1..=STEPS_MAX {
            let m = f64::from(step);
            let middle = a + 2.0 * m - 1.0;
            let weight = m * (b - m) * x;
            let first = (a + m - 1.0) * (a + b + m - 1.0) / (middle * middle) * weight * x;
            let share = (a + m) / (middle + 2.0);
            let second = m + weight / middle + share * (1.0 + by + m * (1.0 + rest));
            let over = first * below + second;
            let next = (first * above + second * value) / over;
            if (next - value).abs() <= 1e-15 * next {
                return Some(next);
            }
            [above, below] = [value / over, 1.0 / over];
            value = next;
        }
        None
    }
}

/// ln(n!) less Stirling's approximation of it.
fn stirling_error(n: f64) -> f64 {
    if n < 16.0 {
        return ln_gamma(n + 1.0) - (n + 0.5) * n.ln() + n - (2.0 * PI).ln() / 2.0;
    }
    let square = n * n;
    (1.0 / 12.0 - (1.0 / 360.0 - (1.0 / 1260.0 - 1.0 / (1680.0 * square)) / square) / square) / n
}

/// The highest number in [0, 1] at which `reached` is false, and the next, at which it is true. Newton's method would be faster, but the one
/// in `statrs` starts from a guess clamped to 1e-4 and has no limit on its steps.
fn bisect(reached: impl Fn(f64) -> bool) -> [f64; 2] {
    let (mut low, mut high) = (0.0, 1.0);
    loop {
        let middle = f64::midpoint(low, high);
        if middle <= low || high <= middle {
            return [low, high];
        }
        if reached(middle) {
            high = middle;
        } else {
            low = middle;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn within(most: f64, found: f64, expected: f64) {
        let error = (found - expected).abs() / expected.abs();
        assert!(
            error < most,
            "{found:e} is not {expected:e}, off by {error:e}"
        );
    }

    fn close(found: f64, expected: f64) {
        within(1e-9, found, expected);
    }

    fn exact(found: f64, expected: f64) {
        within(1e-12, found, expected);
    }

    /// The expected values are sums of the terms with 60 digits (Python `decimal`).
    #[test]
    fn tails_agree_with_sixty_digit_sums() {
        exact(cdf(0, 3_000, 1e-3), 0.049_712_393_998_026);
        exact(cdf(1, 2, 0.5), 0.75);
        exact(cdf(2, 5, 0.3), 0.83692);
        exact(cdf(4, 5, 0.3), 0.99757);
        exact(cdf(19, 20, 0.9), 0.878_423_345_409_430_7);
        exact(cdf(3, 10_000, 1e-3), 1.030_958_170_281_547e-2);
        exact(cdf(83, 100_000, 1e-3), 4.624_047_152_089_31e-2);
        exact(cdf(84, 100_000, 1e-3), 5.745_533_248_552_22e-2);
        exact(cdf(83, 10_000, 1e-2), 4.551_915_976_233_548e-2);
        exact(cdf(480, 1_000, 0.5), 1.087_241_466_020_705e-1);
        exact(cdf(4_800, 10_000, 0.5), 3.296_757_799_336_221e-5);
        exact(cdf(49_900, 100_000, 0.5), 2.645_786_470_400_966e-1);
    }

    /// The expected values are sums of the terms with 50 digits (Python `mpmath`).
    #[test]
    fn tails_of_millions_of_trials_agree_with_fifty_digit_sums() {
        // At the mean, where a fraction converges most slowly.
        exact(cdf(1_500_000, 3_000_000, 0.5), 0.500_230_329_413_786_8);
        exact(cdf(5_000_000, 10_000_000, 0.5), 0.500_126_156_622_947_1);
        exact(cdf(1_000_000, 100_000_000, 0.01), 0.500_265_964_844_353_8);
        exact(cdf(50_000_000, 100_000_000, 0.5), 0.500_039_894_227_940_4);
        exact(cdf(2_900, 3_000_000, 1e-3), 0.034_027_329_361_056_53);
        exact(cdf(1_499_000, 3_000_000, 0.5), 0.124_224_831_807_905_5);
        exact(cdf(9_800, 10_000_000, 1e-3), 0.022_695_426_586_163_8);
        exact(cdf(4_999_000, 10_000_000, 0.5), 0.263_647_928_103_321_9);
        exact(cdf(1, 100_000_000, 5e-8), 0.040_427_678_625_539_33);
        exact(cdf(5, 100_000_000, 1e-7), 0.067_085_953_420_713_04);
        exact(cdf(80, 100_000_000, 1e-6), 0.022_649_124_663_728_58);
        exact(cdf(1, 1_000_000_000_000, 5e-12), 0.040_427_681_994_175_915);
        exact(cdf(3, 1_000_000_000_000, 1e-11), 0.010_336_050_675_660_89);
        exact(cdf(80, 1_000_000_000_000, 1e-10), 0.022_649_176_637_057_736);
        exact(cdf(99_500, 100_000_000, 1e-3), 0.056_923_194_349_762_58);
        exact(cdf(100_300, 100_000_000, 1e-3), 0.829_144_715_008_417_5);
        exact(cdf(49_990_000, 100_000_000, 0.5), 0.022_755_531_314_807_86);
        exact(cdf(50_010_000, 100_000_000, 0.5), 0.977_255_266_878_539_8);
    }

    /// The exact binomial p-values of a table in the Learn-then-Test paper.
    #[test]
    fn exact_p_values() {
        for (events, trials, expected) in [
            (3, 10_000, 0.010_309_581_7),
            (5, 10_000, 0.066_991_373_4),
            (0, 3_000, 0.049_712_394),
        ] {
            let found = cdf(events, trials, 1e-3);
            assert!((found - expected).abs() < 1e-9 * 0.5, "{found}");
        }
    }

    #[test]
    fn the_tail_at_its_edges() {
        assert!((cdf(5, 5, 0.3) - 1.0).abs() < f64::EPSILON);
        assert!((cdf(0, 0, 0.3) - 1.0).abs() < f64::EPSILON);
        assert!(cdf(4, 5, 1.0).abs() < f64::EPSILON);
        close(upper_bound(10, 10, 0.05), 1.0);
        assert!(lower_bound(0, 10, 0.05).abs() < f64::EPSILON);
    }

    #[test]
    fn a_bound_gives_back_its_tail_even_for_many_trials() {
        for (events, trials) in [
            (1, 7),
            (3, 1_000),
            (40, 50_000),
            (9, 1_000_000),
            (49_990_000, 100_000_000),
        ] {
            for delta in [0.25, 0.05, 1e-4] {
                close(
                    cdf(events, trials, upper_bound(events, trials, delta)),
                    delta,
                );
            }
        }
    }

    /// Fisher's lady tasting tea, and fractions of integers (Python `math.comb`).
    #[test]
    fn hypergeometric_tails() {
        close(hypergeometric_tail(4, 4, 4, 8), 1.0 / 70.0);
        close(hypergeometric_tail(3, 4, 4, 8), 17.0 / 70.0);
        close(hypergeometric_tail(7, 8, 9, 210), 8.83918788283295e-11);
        close(hypergeometric_tail(0, 3, 2, 9), 1.0);
        close(hypergeometric_tail(1, 8, 2, 9), 1.0);
        assert!(hypergeometric_tail(3, 3, 2, 9).abs() < f64::EPSILON);
    }

    #[test]
    fn normal_quantiles() {
        close(normal_quantile(0.05), 1.644_853_626_951_472_7);
        close(normal_quantile(0.025), 1.959_963_984_540_054);
        close(normal_quantile(0.005), 2.575_829_303_548_901);
        for tail in [0.3, 0.025, 1e-6, 1e-12] {
            close(normal_tail(normal_quantile(tail)), tail);
        }
        close(normal_tail(-1.0) + normal_tail(1.0), 1.0);
    }
}
