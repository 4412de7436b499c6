//! Rates by IP address, for callers without a key or with a wrong one. IPv6 addresses count by their /64 network,
//! because one client has all of it.
//!
//! Invariant: memory is bounded, however many addresses send. Beyond [`ADDRESSES_MAX`], new addresses share one bucket.

use crate::quota::rate::{Bucket, Rate, RateState};
use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Number of addresses with a bucket of their own.
const ADDRESSES_MAX: usize = 65_536;

/// One bucket for each address; see the module.
#[derive(Debug, Default)]
pub struct AddressBuckets {
    buckets: Mutex<HashMap<IpAddr, Bucket>>,
    others: Bucket,
}

/// Returns the address that stands for a client: the /64 network of an IPv6 address, an IPv4 address itself.
pub fn client_network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(six) => {
            let [a, b, c, d, ..] = six.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
        four => four,
    }
}

/// The rates of callers that have no key of the tenant, or a wrong one.
#[derive(Debug, Default)]
pub struct AnonymousCallers {
    /// Requests without a key of the tenant that owns the function.
    pub requests: AddressBuckets,
    /// Requests with a wrong key.
    pub wrong_keys: AddressBuckets,
}

impl AddressBuckets {
    /// Counts a request against the rate of its address, or returns how long to wait.
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
