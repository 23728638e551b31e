//! Which series this process has shown: a counter continues from its value, and what was never known has no
//! series.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use metrics::{counter, gauge};

/// Names and labels. Metrics belong to the process, and so does this.
static SHOWN: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

/// The labels of a series.
pub(super) type MetricLabels = Vec<(&'static str, String)>;

/// Whether it is shown for the first time.
fn begins(name: &'static str, labels: &[(&'static str, String)]) -> bool {
    let mut shown = SHOWN.lock().unwrap_or_else(PoisonError::into_inner);
    shown.insert(format!("{name} {labels:?}"))
}

fn was_shown(name: &'static str, labels: &[(&'static str, String)]) -> bool {
    let shown = SHOWN.lock().unwrap_or_else(PoisonError::into_inner);
    shown.contains(&format!("{name} {labels:?}"))
}

/// A total that outlives the process, and what was added since the last call; `None` when it was just read
/// from a file.
///
/// A series begins with the total. After that it only grows, so that another file with another total is
/// neither a jump nor a counter that stands still.
pub(super) fn count(
    name: &'static str,
    labels: &[(&'static str, String)],
    total: u64,
    since: Option<u64>,
) {
    if begins(name, labels) {
        counter!(name, &labels.to_vec()).absolute(total);
    } else if let Some(since) = since {
        counter!(name, &labels.to_vec()).increment(since);
    }
}

/// A value that may be unknown: no series before it is first known, and NaN when it is not known any more,
/// for which every comparison is false.
pub(super) fn set(name: &'static str, labels: &[(&'static str, String)], value: Option<f64>) {
    match value {
        Some(value) => {
            begins(name, labels);
            gauge!(name, &labels.to_vec()).set(value);
        }
        None if was_shown(name, labels) => gauge!(name, &labels.to_vec()).set(f64::NAN),
        None => {}
    }
}

#[cfg(test)]
mod tests {
    use metrics_exporter_prometheus::PrometheusBuilder;

    use super::*;

    fn rendered(show: impl FnOnce()) -> String {
        let recorder = PrometheusBuilder::new().build_recorder();
        let handle = recorder.handle();
        metrics::with_local_recorder(&recorder, show);
        handle.render()
    }

    fn of(deployment: &str) -> MetricLabels {
        vec![("deployment", deployment.to_owned())]
    }

    #[test]
    fn a_counter_begins_with_its_total_and_goes_on_where_another_file_takes_over() {
        let text = rendered(|| {
            count("switched", &of("counted"), 5000, None);
            count("switched", &of("counted"), 5007, Some(7));
            // Another folder, which has counted less, and another one that has counted more.
            count("switched", &of("counted"), 100, None);
            count("switched", &of("counted"), 103, Some(3));
            count("switched", &of("counted"), 90_000, None);
            count("switched", &of("counted"), 90_001, Some(1));
        });
        assert!(
            text.contains("switched{deployment=\"counted\"} 5011"),
            "{text}"
        );
    }

    #[test]
    fn what_was_never_known_has_no_series_and_what_is_not_known_any_more_is_nan() {
        let text = rendered(|| {
            set("unknown", &of("set"), None);
            set("forgotten", &of("set"), Some(0.5));
            set("forgotten", &of("set"), None);
        });
        assert!(!text.contains("unknown"), "{text}");
        assert!(text.contains("forgotten{deployment=\"set\"} NaN"), "{text}");
    }
}
