//! The present time by this machine's clock, and times as text.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The present time, in milliseconds since 1970-01-01 UTC.
#[must_use]
pub fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    u64::try_from(since.unwrap_or_default().as_millis()).unwrap_or(u64::MAX)
}

/// The present time by this machine's clock, as RFC 3339 in UTC.
#[must_use]
pub fn now_rfc_3339() -> String {
    humantime::format_rfc3339_seconds(SystemTime::now()).to_string()
}

/// A time in milliseconds since 1970-01-01 UTC, as RFC 3339 to the second.
#[must_use]
pub fn rfc_3339(unix_ms: u64) -> String {
    let since = Duration::from_millis(unix_ms);
    UNIX_EPOCH.checked_add(since).map_or_else(
        || "never".to_owned(),
        |time| humantime::format_rfc3339_seconds(time).to_string(),
    )
}
