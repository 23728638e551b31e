//! Rates in words, for people who have to explain them: how many of a round number.

use super::percent;
use matchpoint_client::proto::MeasuredRate;

/// The round number that a rate is a part of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OfMany(u32);

impl OfMany {
    /// A thousand, or more if `asked` is only then a whole number of them.
    pub(crate) fn that_shows(asked: f64) -> Self {
        let whole = |many: &u32| {
            let part = asked * f64::from(*many);
            1.0 <= part + 1e-6 && (part - part.round()).abs() < 1e-6
        };
        let mut larger = (3..=9).map(|power| 10_u32.pow(power));
        Self(
            larger
                .clone()
                .find(whole)
                .or(larger.next_back())
                .unwrap_or(1000),
        )
    }

    /// How many of them, with commas between thousands; a rate that would round to none is `fewer than
    /// one`.
    pub(crate) fn part(self, rate: f64) -> String {
        let part = (rate * f64::from(self.0)).round();
        if part == 0.0 && 0.0 < rate {
            return "fewer than 1".to_owned();
        }
        grouped(&format!("{part:.0}"))
    }

    /// All of them.
    pub(crate) fn all(self) -> String {
        grouped(&self.0.to_string())
    }
}

impl Default for OfMany {
    fn default() -> Self {
        Self(1000)
    }
}

fn grouped(digits: &str) -> String {
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if 0 < place && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// What a rate rests on, with its interval.
pub(crate) fn rests_on(rate: &MeasuredRate) -> String {
    format!(
        "{:.0} of {} searches, {} labels; {} to {} at {}",
        rate.rate * f64::from(u32::try_from(rate.trials).unwrap_or(u32::MAX)),
        rate.trials,
        rate.labels,
        percent(rate.lower),
        percent(rate.upper),
        percent(rate.confidence)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_a_part_of_a_number_that_shows_it() {
        for (asked, rate, part, all) in [
            (0.1, 0.025, "25", "1,000"),
            (0.1, 0.0, "0", "1,000"),
            (0.01, 0.0001, "fewer than 1", "1,000"),
            (0.001, 0.001, "1", "1,000"),
            (0.000_5, 0.000_5, "5", "10,000"),
            (0.001_23, 0.001_23, "123", "100,000"),
            (1e-9, 1e-9, "1", "1,000,000,000"),
            (0.25, 0.183_4, "183", "1,000"),
        ] {
            let many = OfMany::that_shows(asked);
            assert_eq!(
                (many.part(rate).as_str(), many.all().as_str()),
                (part, all),
                "{asked}"
            );
        }
        assert_eq!(OfMany(1_000_000).part(0.999_999), "999,999");
    }
}
