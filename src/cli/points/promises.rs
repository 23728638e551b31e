//! What is left of the promises of an operating point today, for a person to read.

use crate::cli::output::{percent, wrapped};
use matchpoint_calibration::promised::PromisedRate;
use matchpoint_client::proto::PromiseStanding;

/// A promise as its calibration made it, such as `FAR <= 5 % at 95 % confidence`.
pub(crate) fn promised(one: &PromiseStanding) -> String {
    let confidence = percent(one.confidence);
    format!("{} at {confidence} confidence", target(one))
}

fn target(one: &PromiseStanding) -> String {
    let mut rates = PromisedRate::ALL.into_iter();
    let rate = rates.find(|rate| rate.as_str() == one.rate);
    let rate = match rate {
        Some(rate) => rate.describe(),
        // One that a newer server knows.
        None => &one.rate,
    };
    format!("{rate} <= {}", percent(one.target))
}

/// Whether each of them stands in today's gallery, and what has ended it.
pub(crate) fn today(promises: &[PromiseStanding]) -> String {
    let lines = promises.iter().map(|one| {
        if !one.stands {
            return ended(one);
        }
        let bound = one.bound.map_or_else(String::new, |bound| {
            format!(", with a bound of {}", percent(bound))
        });
        let word = if one.foreseen {
            "foreseen by the growth that was allowed for, and not certified"
        } else {
            "promised"
        };
        let said = format!("{} is {word} of today's gallery{bound}", target(one));
        wrapped(&said, "  today    ")
    });
    lines.collect()
}

/// That a promise has ended, and why.
pub(crate) fn ended(one: &PromiseStanding) -> String {
    let said = format!("{}: {}; calibrate again", target(one), one.ended);
    wrapped(&said, "  ENDED    ")
}
