//! Limits the connections of each client address, so that one address cannot take all connection permits. An IPv6 /64
//! network counts as one address, as it does for rates.

use gannet_base::quota::address::client_network;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

type ConnectionCounts = Arc<Mutex<HashMap<IpAddr, u64>>>;

/// Counts the open connections of each address.
#[derive(Debug, Default)]
pub(super) struct ConnectionLimiter(ConnectionCounts);

/// A counted connection. Dropping it takes the connection off the count.
#[derive(Debug)]
pub(super) struct ConnectionGuard {
    counts: ConnectionCounts,
    address: IpAddr,
}

impl ConnectionLimiter {
    /// Counts a connection. Returns None if its address has `most` already.
    pub(super) fn enter(&self, address: IpAddr, most: u64) -> Option<ConnectionGuard> {
        let address = client_network(address);
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(address).or_default();
        if *count >= most {
            return None;
        }
        *count += 1;
        Some(ConnectionGuard { counts: Arc::clone(&self.0), address })
    }
}

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_so_many_connections_and_no_more() {
        let (one, other) = (IpAddr::from([127, 0, 0, 1]), IpAddr::from([127, 0, 0, 2]));
        let peers = ConnectionLimiter::default();
        let held = (peers.enter(one, 2), peers.enter(one, 2));
        assert!(held.0.is_some() && held.1.is_some() && peers.enter(one, 2).is_none());
        assert!(peers.enter(other, 2).is_some(), "another has its own");
        let six = |last: u16| IpAddr::from([0x2001, 0xdb8, 0, 1, 0, 0, 0, last]);
        let network = (peers.enter(six(1), 2), peers.enter(six(2), 2));
        assert!(network.0.is_some() && network.1.is_some() && peers.enter(six(3), 2).is_none(), "a /64 is one client");
        drop(network);
        drop(held);
        assert!(peers.enter(one, 2).is_some());
        assert!(peers.0.lock().is_ok_and(|counts| counts.is_empty()), "nothing is remembered of who has left");
    }
}
