//! What is shown of keys: names, and never more.

use super::{metric, series};

/// When the last key of a name expires, in milliseconds since 1970; `None` if none of its keys does any more.
pub fn key_expires(name: &str, unix_ms: Option<u64>) {
    #[expect(clippy::cast_precision_loss, reason = "a time, to the millisecond")]
    let seconds = unix_ms.map(|unix_ms| unix_ms as f64 / 1e3);
    series::set(metric::KEY_EXPIRES, &[("key", name.to_owned())], seconds);
}
