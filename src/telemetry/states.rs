//! The state of each deployment that decisions are made by, as a metric whose old series disappear.
//!
//! The exporter keeps every series that it has shown once, and each write to a gallery makes another state.

use std::collections::BTreeMap;
use std::fmt::{Display, Write};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::metric::{FOLDER_CHANGED, STATE_INFO, STORE_LAG, STORE_WRITER, help};
use super::series;

/// By deployment. Metrics belong to the process, and so does this.
static DECIDING: Mutex<BTreeMap<String, String>> = Mutex::new(BTreeMap::new());

/// Shows a deployment's new state, in place of the previous one.
pub fn state_decides(deployment: &str, state: impl Display) {
    let mut deciding = DECIDING.lock().unwrap_or_else(PoisonError::into_inner);
    deciding.insert(deployment.to_owned(), state.to_string());
}

/// Shows whether others have changed the folder of a deployment that is open for reading.
pub fn folder_changed(deployment: &str, changed: bool) {
    let labels = [("deployment", deployment.to_owned())];
    let shown = f64::from(u8::from(changed));
    series::set(FOLDER_CHANGED, &labels, Some(shown));
}

/// Shows how a deployment stands to its store.
pub fn store_followed(deployment: &str, lag: Duration, writes: bool) {
    let labels = [("deployment", deployment.to_owned())];
    series::set(STORE_LAG, &labels, Some(lag.as_secs_f64()));
    let shown = f64::from(u8::from(writes));
    series::set(STORE_WRITER, &labels, Some(shown));
}

/// The series, as the exporter writes its own.
pub(super) fn rendered() -> String {
    let deciding = DECIDING.lock().unwrap_or_else(PoisonError::into_inner);
    if deciding.is_empty() {
        return String::new();
    }
    let help = help(STATE_INFO);
    let mut text = format!("# HELP {STATE_INFO} {help}\n# TYPE {STATE_INFO} gauge\n");
    for (deployment, state) in &*deciding {
        // Neither contains a character that would have to be escaped.
        let series = format!("{STATE_INFO}{{deployment=\"{deployment}\",state=\"{state}\"}} 1");
        // A string takes everything.
        writeln!(text, "{series}").unwrap_or_default();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deployment_has_one_series_whatever_was_enrolled() {
        for number in 0..100 {
            state_decides("enrolled", number);
        }
        state_decides("other", "a");
        let text = rendered();
        let of = |deployment: &str| {
            let series = format!("{{deployment=\"{deployment}\"");
            text.matches(&series).count()
        };
        assert_eq!((of("enrolled"), of("other")), (1, 1));
        assert!(text.contains("state=\"99\"} 1\n"), "{text}");
    }
}
