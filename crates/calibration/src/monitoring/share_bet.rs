//! A bet that a share of outcomes is above a limit, by counting each outcome once.
//!
//! A bet that began with the first outcome has lost much after a long quiet time, and a change then takes as long
//! to see as that was. So a part of the stake begins with each outcome: the average over all beginnings is an
//! e-process as each of them is, and a late change costs the logarithm of the time before it.

use super::sequential::unbegun;
use crate::binomial::real;

/// Alternatives: these parts of the way from the limit to 1.
const ALTERNATIVES: [f64; 4] = [0.05, 0.15, 0.4, 0.8];

/// What the bets have made of their stakes, by alternative.
pub(super) type Wealth = [f64; ALTERNATIVES.len()];

/// Bets against "at each outcome, given all before it, the share is at most its limit".
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct ShareBet {
    /// By alternative: what an outcome outside of the share, and one within, multiplies the wealth by.
    factors: [[f64; 2]; ALTERNATIVES.len()],
    /// Where wealth stops growing, which only makes it less.
    wealth_max: f64,
}

impl ShareBet {
    /// A bet against a limit in (0, 1).
    pub(super) fn above(limit: f64, wealth_max: f64) -> Self {
        let against = |part: f64| {
            let rate = limit + part * (1.0 - limit);
            [(1.0 - rate) / (1.0 - limit), rate / limit]
        };
        Self {
            factors: ALTERNATIVES.map(against),
            wealth_max,
        }
    }

    /// Takes the next outcome, with which a stake of [`begins`] begins.
    pub(super) fn observe(&self, wealth: &mut Wealth, within: bool, begins: f64) {
        for (wealth, [outside, inside]) in wealth.iter_mut().zip(self.factors) {
            let factor = if within { inside } else { outside };
            *wealth = ((*wealth + begins) * factor).min(self.wealth_max);
        }
    }
}

/// The part of the stake that begins with the outcome after so many.
pub(super) fn begins(outcomes: u64) -> f64 {
    unbegun(outcomes) - unbegun(outcomes + 1)
}

/// The e-process, with the part of the stake that has not begun: 1 before the first outcome.
pub(super) fn e_value(wealth: &Wealth, unbegun: f64) -> f64 {
    wealth.iter().sum::<f64>() / real(ALTERNATIVES.len() as u64) + unbegun
}
