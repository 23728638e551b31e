//! What an operating point promised, and whether it still does.

use super::audit::labels_of;
use super::{metric, series};

/// What can be promised, as label values.
pub const PROMISE_VALUES: [&str; 3] = ["far", "frr", "review"];

/// Shows the FAR that is predicted for the gallery's size, the estimate and its upper bound; `None` if it is not
/// known.
pub fn far_predicted(deployment: &str, operating_point: &str, bounds: Option<[f64; 2]>) {
    for (at, bound) in ["estimate", "upper"].into_iter().enumerate() {
        let mut labels = labels_of(deployment, operating_point);
        labels.push(("bound", bound.to_owned()));
        let value = bounds.and_then(|bounds| bounds.get(at).copied());
        series::set(metric::PREDICTED_FAR, &labels, value);
    }
}

/// Shows whether a promise of the active operating point still stands; `rate` is one of [`PROMISE_VALUES`].
pub fn promise_seen(deployment: &str, operating_point: &str, rate: &str, stands: bool) {
    let shown = f64::from(u8::from(stands));
    show_promise(deployment, operating_point, rate, Some(shown));
}

/// Announces that an operating point is not active any more.
pub(super) fn replaced(deployment: &str, operating_point: &str) {
    for rate in PROMISE_VALUES {
        show_promise(deployment, operating_point, rate, None);
    }
    far_predicted(deployment, operating_point, None);
}

fn show_promise(deployment: &str, operating_point: &str, rate: &str, stands: Option<f64>) {
    let mut labels = labels_of(deployment, operating_point);
    labels.push(("rate", rate.to_owned()));
    series::set(metric::PROMISE_STANDS, &labels, stands);
}
