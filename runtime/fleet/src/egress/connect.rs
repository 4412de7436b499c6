//! Finds the addresses of a host, checks each, and connects to the one that answers first.
//!
//! Invariant: the address that was checked is the address that is connected to.

use crate::egress::address::may_reach;
use crate::egress::target::CallTarget;
use futures::stream::{FuturesUnordered, StreamExt};
use gannet_base::hop::outbound::OutboundError;
use ipnet::IpNet;
use std::net::{SocketAddr, ToSocketAddrs, UdpSocket};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;

/// Most concurrent name lookups of all tenants, and of one worker.
const RESOLVING_MAX: usize = 64;
const RESOLVING_OF_WORKER_MAX: usize = 8;

/// How long a connection attempt has before the next address is tried beside it.
const CONNECT_STAGGER: Duration = Duration::from_millis(250);

/// Addresses of a host that are tried, and how many of them at once.
const ADDRESSES_MAX: usize = 8;
const ATTEMPTS_MAX: usize = 3;

/// Permits for name lookups: those of one worker, and those of all.
#[derive(Debug, Clone)]
pub(super) struct Lookups {
    own: Arc<Semaphore>,
    all: Arc<Semaphore>,
}

impl Default for Lookups {
    fn default() -> Self {
        let own = Arc::new(Semaphore::new(RESOLVING_OF_WORKER_MAX));
        Self { own, all: Arc::new(Semaphore::new(RESOLVING_MAX)) }
    }
}

impl Lookups {
    /// Whether no lookup of this worker is running.
    pub(super) fn is_idle(&self) -> bool {
        self.own.available_permits() == RESOLVING_OF_WORKER_MAX
    }

    /// Returns the permits of another worker.
    pub(super) fn of_worker(&self) -> Self {
        Self { own: Arc::new(Semaphore::new(RESOLVING_OF_WORKER_MAX)), all: Arc::clone(&self.all) }
    }
}

/// Resolves a name on a blocking thread, which may hang as long as the resolver does. A worker, and all workers
/// together, may only use a few of these threads, because everything that waits for a disk shares them.
async fn resolve(lookups: &Lookups, host: String, port: u16) -> Result<Vec<SocketAddr>, OutboundError> {
    // The caller's timeout for connecting ends the wait.
    let acquire = |permits: &Arc<Semaphore>| Arc::clone(permits).acquire_owned();
    let (own, all) = (acquire(&lookups.own).await, acquire(&lookups.all).await);
    let held = (own.map_err(|_| OutboundError::Dns)?, all.map_err(|_| OutboundError::Dns)?);
    let resolving = tokio::task::spawn_blocking(move || {
        let found = (host.as_str(), port).to_socket_addrs().map(Iterator::collect);
        drop(held);
        found
    });
    resolving.await.ok().and_then(Result::ok).ok_or(OutboundError::Dns)
}

/// Whether functions may connect to an address, by the operator's rules of now.
pub(super) fn may_connect(address: &SocketAddr, opened: &[IpNet]) -> bool {
    let is_opened = opened.iter().any(|range| range.contains(&address.ip().to_canonical()));
    // A public address of this machine may lead to services that only a firewall protects. Only the machine's own
    // addresses can be bound.
    let is_own = || UdpSocket::bind((address.ip(), 0)).is_ok();
    may_reach(address.ip(), opened) && (is_opened || !is_own())
}

/// Connects to the first address that may be reached and accepts the connection. Also returns the address.
pub(super) async fn connect(
    lookups: &Lookups,
    opened: &[IpNet],
    to: &CallTarget,
) -> Result<(TcpStream, SocketAddr), OutboundError> {
    let host = to.host.trim_matches(['[', ']']);
    let found = resolve(lookups, host.to_owned(), to.port).await?;
    if found.is_empty() {
        return Err(OutboundError::Dns);
    }
    let reachable: Vec<SocketAddr> = found.into_iter().filter(|address| may_connect(address, opened)).collect();
    if reachable.is_empty() {
        return Err(OutboundError::Prohibited);
    }
    let mut ordered = alternating(reachable);
    ordered.truncate(ADDRESSES_MAX);
    let stream = connect_to_any(ordered).await.ok_or(OutboundError::Unreachable)?;
    // An error only costs speed.
    let _ = stream.set_nodelay(true);
    let peer = stream.peer_addr().map_err(|_| OutboundError::Unreachable)?;
    Ok((stream, peer))
}

/// Orders addresses so that those of both families alternate, each family in the resolver's order (RFC 8305, 4).
fn alternating(addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let first_is_6 = addresses.first().is_some_and(SocketAddr::is_ipv6);
    let (first, second): (Vec<_>, Vec<_>) = addresses.into_iter().partition(|address| address.is_ipv6() == first_is_6);
    let (mut first, mut second) = (first.into_iter(), second.into_iter());
    let mut ordered = Vec::new();
    loop {
        let pair = (first.next(), second.next());
        if pair == (None, None) {
            return ordered;
        }
        ordered.extend(pair.0.into_iter().chain(pair.1));
    }
}

/// Connects to the address that answers first. The next one is tried when one has failed, or has not answered for a
/// moment (RFC 8305, 5).
async fn connect_to_any(addresses: Vec<SocketAddr>) -> Option<TcpStream> {
    let mut left = addresses.into_iter();
    let mut trying = FuturesUnordered::new();
    trying.push(TcpStream::connect(left.next()?));
    loop {
        tokio::select! {
            Some(connected) = trying.next() => match (connected, left.next()) {
                (Ok(stream), _) => return Some(stream),
                (Err(_), Some(next)) => trying.push(TcpStream::connect(next)),
                (Err(_), None) if trying.is_empty() => return None,
                (Err(_), None) => {}
            },
            () = tokio::time::sleep(CONNECT_STAGGER), if left.len() > 0 && trying.len() < ATTEMPTS_MAX => {
                trying.extend(left.next().map(TcpStream::connect));
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_both_families_alternate() {
        let addresses = |text: &str| text.split(' ').map(|at| at.parse().unwrap()).collect::<Vec<SocketAddr>>();
        let ordered = alternating(addresses("[1::1]:1 [1::2]:1 [1::3]:1 1.0.0.1:1 1.0.0.2:1"));
        assert_eq!(ordered, addresses("[1::1]:1 1.0.0.1:1 [1::2]:1 1.0.0.2:1 [1::3]:1"));
        assert_eq!(alternating(Vec::new()), []);
    }

    #[tokio::test]
    async fn an_address_that_does_not_answer_does_not_keep_the_others_from_being_tried() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let good = listener.local_addr().unwrap();
        let refused = {
            let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            closed.local_addr().unwrap()
        };
        // Of the ranges for documentation: packets to it are lost, or it is unreachable.
        let silent: SocketAddr = "192.0.2.1:9".parse().unwrap();
        for addresses in [vec![refused, good], vec![silent, good], vec![silent, refused, good]] {
            assert!(connect_to_any(addresses).await.is_some());
        }
        assert!(connect_to_any(vec![refused]).await.is_none() && connect_to_any(Vec::new()).await.is_none());
    }
}
