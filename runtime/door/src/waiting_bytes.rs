//! The bytes of responses that wait in memory for their clients, counted for each connection, client address and tenant,
//! and for all together.
//!
//! ```text
//!  a part of any response ──▶ counted until it is in the socket; while a count is full, no further part is fetched
//!  an answer of the control API ──▶ counted as a whole ahead, or refused
//! ```
//!
//! Every response may have one part waiting, whatever the counts are, so a client that reads is never stopped by others.
//! An address with little waiting may use what is kept back from all others.

use gannet_base::names::TenantName;
use gannet_base::quota::address::client_network;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// An address with at most this many bytes waiting may use what is kept back from the others.
const NEWCOMER_BYTES: u64 = 1 << 20;

/// Whose bytes a count is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Whose {
    /// Those of one connection.
    Connection,
    /// Those of the clients of one address.
    Address,
    /// Those of one tenant.
    Tenant,
    /// All.
    All,
}

/// A count is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("responses of {waiting} bytes wait to be taken {}; the limit is {limit} bytes", whose.as_str())]
pub(crate) struct FullCount {
    pub(crate) whose: Whose,
    pub(crate) waiting: u64,
    pub(crate) limit: u64,
}

impl Whose {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Connection => "on this connection",
            Self::Address => "by this address",
            Self::Tenant => "from this tenant",
            Self::All => "by all clients",
        }
    }
}

/// The most bytes that may wait.
#[derive(Debug, Clone, Copy)]
pub struct WaitingLimits {
    /// For the clients of one address. A connection has a quarter of it.
    pub address: u64,
    /// For all. A tenant has half of it; newcomers may use as much again.
    pub all: u64,
}

impl WaitingLimits {
    const fn of(&self, whose: Whose) -> u64 {
        match whose {
            Whose::Connection => self.address / 4,
            Whose::Address => self.address,
            Whose::Tenant => self.all / 2,
            Whose::All => self.all,
        }
    }
}

/// The bytes that wait, in the order of [`Whose`].
type Waiting = [u64; 4];

/// Decides whether `more` bytes may wait, where `waiting` bytes do.
fn check(waiting: Waiting, more: u64, limits: &WaitingLimits) -> Result<(), FullCount> {
    let [connection, address, tenant, all] = waiting;
    let is_newcomer = address <= NEWCOMER_BYTES;
    let counts = [
        (Whose::Connection, connection, is_newcomer),
        (Whose::Address, address, is_newcomer),
        (Whose::Tenant, tenant, false),
        (Whose::All, all, false),
    ];
    for (whose, waiting, is_exempt) in counts {
        let limit = limits.of(whose) * if is_newcomer && whose == Whose::All { 2 } else { 1 };
        if !is_exempt && waiting.saturating_add(more) > limit {
            return Err(FullCount { whose, waiting, limit });
        }
    }
    Ok(())
}

#[derive(Debug, Default)]
struct Counts {
    connections: HashMap<u64, u64>,
    addresses: HashMap<IpAddr, u64>,
    tenants: HashMap<TenantName, u64>,
    all: u64,
}

/// For whom bytes wait.
#[derive(Debug, Clone)]
pub(crate) struct Recipient {
    connection: u64,
    address: IpAddr,
    tenant: Option<TenantName>,
}

impl Recipient {
    /// Returns the recipient of a response: on a connection, for a client, of a tenant.
    pub(crate) fn new(connection: u64, client: IpAddr, tenant: Option<TenantName>) -> Self {
        Self { connection, address: client_network(client), tenant }
    }
}

impl Counts {
    fn waiting(&self, recipient: &Recipient) -> Waiting {
        let tenant = recipient.tenant.as_ref().and_then(|tenant| self.tenants.get(tenant));
        [
            self.connections.get(&recipient.connection).copied().unwrap_or(0),
            self.addresses.get(&recipient.address).copied().unwrap_or(0),
            tenant.copied().unwrap_or(0),
            self.all,
        ]
    }

    fn add(&mut self, recipient: &Recipient, bytes: u64) {
        *self.connections.entry(recipient.connection).or_default() += bytes;
        *self.addresses.entry(recipient.address).or_default() += bytes;
        if let Some(tenant) = &recipient.tenant {
            *self.tenants.entry(tenant.clone()).or_default() += bytes;
        }
        self.all += bytes;
    }

    fn take_off(&mut self, recipient: &Recipient, bytes: u64) {
        fall(&mut self.connections, &recipient.connection, bytes);
        fall(&mut self.addresses, &recipient.address, bytes);
        if let Some(tenant) = &recipient.tenant {
            fall(&mut self.tenants, tenant, bytes);
        }
        self.all = self.all.saturating_sub(bytes);
    }
}

/// Takes bytes off a count, and forgets a count of nothing.
fn fall<K: std::hash::Hash + Eq>(counts: &mut HashMap<K, u64>, key: &K, bytes: u64) {
    if let Some(count) = counts.get_mut(key) {
        *count = count.saturating_sub(bytes);
        if *count == 0 {
            counts.remove(key);
        }
    }
}

/// The counts of the whole server.
#[derive(Debug)]
pub struct WaitingBytes {
    counts: Mutex<Counts>,
    connections: AtomicU64,
}

impl WaitingBytes {
    /// Creates the counts, all zero.
    pub fn new() -> Arc<Self> {
        Arc::new(Self { counts: Mutex::default(), connections: AtomicU64::new(0) })
    }

    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns a number for a new connection.
    pub(crate) fn connection(&self) -> u64 {
        self.connections.fetch_add(1, Ordering::Relaxed)
    }

    /// Returns how many bytes wait for all clients together.
    pub(crate) fn all(&self) -> u64 {
        self.lock().all
    }

    /// Counts bytes until the returned value is dropped, even if a count is full.
    pub(crate) fn count(self: &Arc<Self>, recipient: &Recipient, bytes: u64) -> CountedBytes {
        self.lock().add(recipient, bytes);
        CountedBytes { waiting: Arc::clone(self), recipient: recipient.clone(), bytes }
    }

    /// Counts bytes until the returned value is dropped, or refuses them if a count would be over its limit.
    pub(crate) fn reserve(
        self: &Arc<Self>,
        recipient: &Recipient,
        bytes: u64,
        limits: &WaitingLimits,
    ) -> Result<CountedBytes, FullCount> {
        let mut counts = self.lock();
        check(counts.waiting(recipient), bytes, limits)?;
        counts.add(recipient, bytes);
        Ok(CountedBytes { waiting: Arc::clone(self), recipient: recipient.clone(), bytes })
    }

    /// Returns whether more may wait for a recipient.
    pub(crate) fn has_room(&self, recipient: &Recipient, limits: &WaitingLimits) -> bool {
        check(self.lock().waiting(recipient), 1, limits).is_ok()
    }
}

/// Bytes that are counted while this exists.
#[derive(Debug)]
pub(crate) struct CountedBytes {
    waiting: Arc<WaitingBytes>,
    recipient: Recipient,
    bytes: u64,
}

impl Drop for CountedBytes {
    fn drop(&mut self) {
        self.waiting.lock().take_off(&self.recipient, self.bytes);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LIMITS: WaitingLimits = WaitingLimits { address: 64 << 20, all: 256 << 20 };

    fn recipient(connection: u64, last: u8, tenant: Option<&str>) -> Recipient {
        let tenant = tenant.map(|name| name.parse().unwrap());
        Recipient::new(connection, IpAddr::from([10, 0, 0, last]), tenant)
    }

    fn full(waiting: &Arc<WaitingBytes>, recipient: &Recipient, bytes: u64) -> Option<Whose> {
        waiting.reserve(recipient, bytes, &LIMITS).err().map(|full| full.whose)
    }

    #[test]
    fn each_count_has_a_limit_and_gives_its_bytes_back() {
        let waiting = WaitingBytes::new();
        let one = recipient(1, 1, Some("acme"));
        let first = waiting.count(&one, 16 << 20);
        assert_eq!(full(&waiting, &one, 1), Some(Whose::Connection));
        let of_address: Vec<_> =
            (2..5).map(|connection| waiting.count(&recipient(connection, 1, Some("acme")), 16 << 20)).collect();
        assert_eq!(full(&waiting, &recipient(9, 1, Some("acme")), 1), Some(Whose::Address));
        assert_eq!(full(&waiting, &recipient(9, 2, Some("acme")), 1), None, "another address has its own");
        let of_tenant = waiting.count(&recipient(6, 2, Some("acme")), 64 << 20);
        assert_eq!(full(&waiting, &recipient(9, 3, Some("acme")), 1), Some(Whose::Tenant));
        assert_eq!(full(&waiting, &recipient(9, 3, Some("zoo")), 1), None, "another tenant has its own");
        let of_all: Vec<_> = (4..6).map(|last| waiting.count(&recipient(last.into(), last, None), 64 << 20)).collect();
        let known = waiting.count(&recipient(7, 7, None), 2 << 20);
        assert_eq!(full(&waiting, &recipient(7, 7, None), 1), Some(Whose::All));
        assert_eq!(full(&waiting, &recipient(8, 8, None), 100 << 20), None, "a newcomer has as much again");
        drop((first, of_address, of_tenant, of_all, known));
        let counts = waiting.lock();
        assert_eq!(counts.all, 0);
        assert!(counts.connections.is_empty() && counts.addresses.is_empty() && counts.tenants.is_empty());
    }

    proptest! {
        #[test]
        fn what_is_admitted_keeps_every_limit(
            steps in proptest::collection::vec((0u64..6, 0u8..3, 0usize..3, 1u64..(20 << 20)), 0..80)
        ) {
            let waiting = WaitingBytes::new();
            let tenants = [None, Some("acme"), Some("zoo")];
            let mut held = Vec::new();
            for (connection, last, tenant, bytes) in steps {
                let to = recipient(connection, last, tenants[tenant]);
                held.extend(waiting.reserve(&to, bytes, &LIMITS));
                let counts = waiting.lock();
                prop_assert!(counts.all <= 2 * LIMITS.all);
                prop_assert!(counts.addresses.values().all(|bytes| *bytes <= LIMITS.address + (21 << 20)));
                prop_assert!(counts.tenants.values().all(|bytes| *bytes <= LIMITS.all / 2));
                let sum: u64 = counts.addresses.values().sum();
                prop_assert_eq!(sum, counts.all);
            }
        }
    }
}
