//! The store that several servers share.

use std::time::Duration;

use super::{ListenAddress, SettingReader};
use matchpoint_remote::StoreAddress;

/// The store that the deployments are kept in, and how this server follows it.
#[derive(Clone, Debug)]
pub struct StoreConfig {
    /// Where it is.
    pub address: StoreAddress,
    /// How long a server may be behind and still be ready.
    pub lag_max: Duration,
    /// The name of this server, which others say when they refuse a change.
    pub writer: String,
}

/// A store's address as it may be shown: without user and password.
#[must_use]
pub fn store_shown(text: &str) -> String {
    let address = text.parse::<StoreAddress>();
    address.map_or_else(
        |_error| "(cannot be read)".to_owned(),
        |address| format!("postgres://{}", address.shown()),
    )
}

impl SettingReader {
    /// `Some(None)` if no store is set.
    pub(super) fn store(
        &mut self,
        listen: Option<&ListenAddress>,
        read_only: Option<bool>,
    ) -> Option<Option<StoreConfig>> {
        let lag_max = self.number("store_lag_seconds_max", 1, 86_400);
        let Some(text) = self.text("store") else {
            return Some(None);
        };
        if read_only == Some(true) {
            self.mistakes.push(
                "store and read_only = true exclude each other: a server follows the store by writing a copy of its own; \
                 leave read_only out, and give callers no scope that enrols"
                    .to_owned(),
            );
        }
        let address = text.parse::<StoreAddress>();
        let address = address.inspect_err(|error| self.mistakes.push(error.to_string()));
        // Without a name of the host the address has to do.
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        Some(Some(StoreConfig {
            address: address.ok()?,
            lag_max: lag_max.map(Duration::from_secs)?,
            writer: format!("{} at {}", host.trim(), listen?),
        }))
    }
}
