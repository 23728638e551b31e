//! Quotas that clients share: a total, and at most a part of it for one address.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tonic::{Code, Status};

use crate::server::connections::ClientAddress;
use crate::server::status::status_to_retry;
use crate::telemetry;

/// A quota with a total and a limit for one address. Clones share it.
#[derive(Clone, Debug)]
pub(in crate::server) struct Quota(Arc<QuotaState>);

#[derive(Debug)]
struct QuotaState {
    /// The name of the setting that limits it.
    setting: &'static str,
    most: u64,
    each: u64,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    all: u64,
    by_client: HashMap<ClientAddress, u64>,
}

/// The limit is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(in crate::server) struct QuotaExceeded {
    setting: &'static str,
    most: u64,
    /// The limit of one address; `None` if the total was reached.
    each: Option<u64>,
}

impl std::fmt::Display for QuotaExceeded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            setting,
            most,
            each,
        } = self;
        match each {
            Some(each) => write!(
                f,
                "your address has all that one may have of {setting} = {most} at once ({each}); come back, or have the operator raise {setting} or address_share"
            ),
            None => write!(
                f,
                "all of {setting} = {most} is in use; come back, or have the operator raise it"
            ),
        }
    }
}

impl QuotaExceeded {
    /// The answer to a caller, counted as a refusal.
    pub(in crate::server) fn refusal(&self) -> Status {
        telemetry::limit_refused(self.setting);
        let reason = self.setting.to_uppercase();
        let after = Some(std::time::Duration::from_millis(100));
        status_to_retry(Code::ResourceExhausted, &reason, &self.to_string(), after)
    }
}

impl Quota {
    /// A quota of `most` in total, and `share` of it for one address, but at least `least`.
    pub(super) fn new(setting: &'static str, most: u64, share: f64, least: u64) -> Self {
        #[expect(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a share in (0, 1] of a number far below 2^53"
        )]
        let each = (most as f64 * share).ceil() as u64;
        Self(Arc::new(QuotaState {
            setting,
            most,
            each: each.max(least).min(most),
            taken: Mutex::default(),
        }))
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.0.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An empty share, which can grow later.
    pub(super) fn nothing(&self, client: ClientAddress) -> QuotaShare {
        QuotaShare {
            quota: self.clone(),
            client,
            amount: 0,
        }
    }

    /// Takes this amount until the returned share is dropped.
    pub(super) fn take(
        &self,
        client: ClientAddress,
        amount: u64,
    ) -> Result<QuotaShare, QuotaExceeded> {
        let mut share = self.nothing(client);
        share.grow(amount)?;
        Ok(share)
    }
}

/// A share of a [`Quota`], which is returned when this is dropped.
#[derive(Debug)]
pub(in crate::server) struct QuotaShare {
    quota: Quota,
    client: ClientAddress,
    amount: u64,
}

impl QuotaShare {
    /// Takes a further amount.
    pub(super) fn grow(&mut self, by: u64) -> Result<(), QuotaExceeded> {
        let QuotaState {
            setting,
            most,
            each,
            ..
        } = *self.quota.0;
        let exceeded = |each| QuotaExceeded {
            setting,
            most,
            each,
        };
        let mut taken = self.quota.taken();
        let all = taken.all.saturating_add(by);
        if most < all {
            return Err(exceeded(None));
        }
        let own = taken.by_client.entry(self.client).or_default();
        if each < own.saturating_add(by) {
            if *own == 0 {
                taken.by_client.remove(&self.client);
            }
            return Err(exceeded(Some(each)));
        }
        *own += by;
        taken.all = all;
        self.amount += by;
        Ok(())
    }

    /// Returns this amount, or all if the share is smaller.
    pub(super) fn shrink(&mut self, by: u64) {
        let by = by.min(self.amount);
        self.amount -= by;
        let mut taken = self.quota.taken();
        taken.all = taken.all.saturating_sub(by);
        if let Some(own) = taken.by_client.get_mut(&self.client) {
            *own = own.saturating_sub(by);
            if *own == 0 {
                taken.by_client.remove(&self.client);
            }
        }
    }

    /// Moves the whole share to another owner.
    pub(super) fn split_off(&mut self) -> Self {
        let empty = self.quota.nothing(self.client);
        std::mem::replace(self, empty)
    }
}

impl Drop for QuotaShare {
    fn drop(&mut self) {
        self.shrink(self.amount);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(address: &str) -> ClientAddress {
        ClientAddress::of(address.parse().unwrap())
    }

    #[test]
    fn one_address_gets_its_part_and_leaves_the_rest_to_others() {
        let quota = Quota::new("calls_max", 10, 0.5, 1);
        let (one, other) = (client("10.0.0.1:7"), client("10.0.0.2:7"));
        let held: Vec<QuotaShare> = (0..5).map(|_| quota.take(one, 1).unwrap()).collect();
        let refused = quota.take(one, 1).unwrap_err().to_string();
        assert!(
            refused.contains("calls_max = 10") && refused.contains("(5)"),
            "{refused}"
        );
        let others = quota.take(other, 5).unwrap();
        let full = quota.take(client("10.0.0.3:7"), 1).unwrap_err().to_string();
        assert!(full.contains("all of calls_max = 10"), "{full}");
        drop(others);
        drop(quota.take(other, 5).unwrap());
        drop(held);
        assert_eq!(quota.taken().all, 0);
        assert!(quota.taken().by_client.is_empty());
    }

    #[test]
    fn what_is_split_off_is_held_on_its_own() {
        let quota = Quota::new("receive_bytes_max", 100, 1.0, 1);
        let mut share = quota.take(client("[::1]:7"), 60).unwrap();
        let part = share.split_off();
        drop(share);
        assert!(quota.take(client("[::1]:7"), 41).is_err());
        drop(part);
        assert!(quota.take(client("[::1]:7"), 100).is_ok());
    }

    #[test]
    fn a_network_of_ipv6_is_one_client_and_an_address_is_one_in_both_forms() {
        assert_eq!(client("[2001:db8::1]:1"), client("[2001:db8::2]:2"));
        assert_ne!(client("[2001:db8:0:1::1]:1"), client("[2001:db8::2]:2"));
        assert_eq!(client("[::ffff:10.0.0.1]:1"), client("10.0.0.1:2"));
    }
}
