//! Rates by address, for whoever has no key or a wrong one. IPv6 counts by /64, which is what one client has.
//!
//! Invariant: bounded memory, whoever floods: past [`ADDRESSES_MAX`] those that are new share one bucket.

use crate::quota::rate::{Bucket, Rate, RateState};
use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Addresses that are told apart.
const ADDRESSES_MAX: usize = 65_536;

/// See the module.
#[derive(Debug, Default)]
pub struct AddressBuckets {
    buckets: Mutex<HashMap<IpAddr, Bucket>>,
    others: Bucket,
}

/// Who an address counts as.
pub fn client_network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(six) => {
            let [a, b, c, d, ..] = six.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
        four => four,
    }
}

/// Rates of addresses, for callers without a key or with a wrong one.
#[derive(Debug, Default)]
pub struct AnonymousCallers {
    /// Requests without a key of the tenant.
    pub requests: AddressBuckets,
    /// Wrong keys.
    pub wrong_keys: AddressBuckets,
}

impl AddressBuckets {
    /// Takes one request of an address off its rate, or says how long to wait.
    pub fn take(&self, address: IpAddr, rate: Rate, now: Instant) -> Result<RateState, Duration> {
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        let client = client_network(address);
        if buckets.len() >= ADDRESSES_MAX && !buckets.contains_key(&client) {
            buckets.retain(|_, bucket| !bucket.is_full(now));
            if buckets.len() >= ADDRESSES_MAX {
                return self.others.take(rate, now);
            }
        }
        buckets.entry(client).or_default().take(rate, now)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn one_client_is_limited_and_memory_is_bounded() {
        let (addresses, rate, now) = (AddressBuckets::default(), Rate { per_s: 1, burst: 2 }, Instant::now());
        let six = |last: u16| IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 1, 0, 0, 0, last));
        assert!(addresses.take(six(1), rate, now).is_ok() && addresses.take(six(2), rate, now).is_ok());
        assert!(addresses.take(six(3), rate, now).is_err(), "one network is one client");
        for number in 0..70_000_u32 {
            let _ = addresses.take(IpAddr::V4(number.into()), rate, now);
        }
        assert!(addresses.buckets.lock().unwrap().len() <= ADDRESSES_MAX);
        assert!(addresses.take(IpAddr::V4(69_999.into()), rate, now).is_err(), "the others share one bucket");
        let later = now + Duration::from_secs(60);
        assert!(addresses.take(IpAddr::V4(80_000.into()), rate, later).is_ok());
        assert!(addresses.buckets.lock().unwrap().len() < 10, "what is as new was forgotten");
    }
}
