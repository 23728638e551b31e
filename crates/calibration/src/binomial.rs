//! Exact binomial tails and the bounds that invert them.
//!
//! The tests check a relative accuracy of 1e-9 for up to 100,000 trials.

use std::f64::consts::SQRT_2;

use statrs::function::{beta::checked_beta_reg, erf::erfc_inv, factorial::ln_binomial};

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
    regularised_beta(real(trials - events), real(events + 1), 1.0 - rate)
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
    bisect(|rate| cdf(events, trials, rate) <= delta)
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
    bisect(|rate| delta < regularised_beta(a, b, rate))
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

fn regularised_beta(a: f64, b: f64, x: f64) -> f64 {
    // Both callers keep the arguments in range. The fallback of 1 is the value that certifies nothing.
    checked_beta_reg(a, b, x).unwrap_or(1.0)
}

/// Finds where `reached` becomes true in [0, 1], to the last bit. Newton's method would be faster, but the one
/// in `statrs` starts from a guess clamped to 1e-4 and has no limit on its steps.
fn bisect(reached: impl Fn(f64) -> bool) -> f64 {
    let (mut low, mut high) = (0.0, 1.0);
    loop {
        let middle = f64::midpoint(low, high);
        if middle <= low || high <= middle {
            return high;
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

    fn close(found: f64, expected: f64) {
        let error = (found - expected).abs() / expected.abs();
        assert!(
            error < 1e-9,
            "{found:e} is not {expected:e}, off by {error:e}"
        );
    }

    /// The expected values are sums of the terms with 60 digits (Python `decimal`).
    #[test]
    fn tails_agree_with_sixty_digit_sums() {
        close(cdf(0, 3_000, 1e-3), 0.049_712_393_998_026);
        close(cdf(3, 10_000, 1e-3), 1.030_958_170_281_547e-2);
        close(cdf(83, 100_000, 1e-3), 4.624_047_152_089_31e-2);
        close(cdf(84, 100_000, 1e-3), 5.745_533_248_552_22e-2);
        close(cdf(83, 10_000, 1e-2), 4.551_915_976_233_548e-2);
        close(cdf(480, 1_000, 0.5), 1.087_241_466_020_705e-1);
        close(cdf(4_800, 10_000, 0.5), 3.296_757_799_336_221e-5);
        close(cdf(49_900, 100_000, 0.5), 2.645_786_470_400_966e-1);
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
        for (events, trials) in [(1, 7), (3, 1_000), (40, 50_000), (9, 1_000_000)] {
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
