//! A request in flight, as the calls that its function makes see it: who it is, how deep it is, when its time ends, and
//! which requests led to it.
//!
//! ```text
//!  request of a client or a job ◀─ parent ─ call ◀─ parent ─ call of that call …
//!         depth 0                            1                  2
//! ```
//!
//! It is made when the request gets its worker, and ends with the request: then its calls end too. Nothing in it comes
//! from a guest.

use gannet_base::bill::outbound::OutboundUse;
use gannet_base::names::{FunctionName, RequestId};
use gannet_base::quota::call_permits::CoveredCalls;
use gannet_base::quota::permits::WaitingHolder;
use gannet_state::registry::Version;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;
use tokio_util::sync::CancellationToken;

/// A request in flight; see the module.
#[derive(Debug)]
pub struct CallingRequest {
    id: RequestId,
    version: Arc<Version>,
    /// Address of the client that sent the first request.
    client: IpAddr,
    depth: u8,
    parent: Option<Arc<CallingRequest>>,
    until: Mutex<Instant>,
    ended: CancellationToken,
    used: Arc<OutboundUse>,
    covered: Arc<CoveredCalls>,
    waits: Mutex<Waits>,
}

/// How many calls of a request, and of its calls, wait for permits. While any does, the request counts as waiting among
/// those that hold a permit of its version.
#[derive(Debug, Default)]
struct Waits {
    count: usize,
    holder: Option<WaitingHolder>,
}

impl CallingRequest {
    /// Creates the state of a request whose time ends at `until`. `parent` is the request whose function sent it, if
    /// one did.
    pub fn new(
        id: RequestId,
        version: &Arc<Version>,
        client: IpAddr,
        until: Instant,
        parent: Option<Arc<CallingRequest>>,
    ) -> Self {
        Self {
            id,
            version: Arc::clone(version),
            client,
            depth: depth_below(parent.as_deref()),
            until: Mutex::new(until),
            ended: parent.as_ref().map_or_else(CancellationToken::new, |parent| parent.ended.child_token()),
            used: Arc::default(),
            covered: parent.as_ref().map(|parent| Arc::clone(&parent.covered)).unwrap_or_default(),
            waits: Mutex::default(),
            parent,
        }
    }

    /// The request's id.
    pub fn id(&self) -> RequestId {
        self.id
    }

    /// The function that serves the request.
    pub fn function(&self) -> &FunctionName {
        &self.version.function
    }

    /// Address of the client that sent the first of the requests.
    pub fn client(&self) -> IpAddr {
        self.client
    }

    /// How many calls led to the request; 0 if a client or a job sent it.
    pub fn depth(&self) -> u8 {
        self.depth
    }

    /// Counts its outbound HTTP and its calls.
    pub fn used(&self) -> &Arc<OutboundUse> {
        &self.used
    }

    /// The calls that the first request's permit covers.
    pub fn covered(&self) -> &Arc<CoveredCalls> {
        &self.covered
    }

    /// A token that is cancelled when the request has ended, or one that led to it.
    pub fn ended(&self) -> &CancellationToken {
        &self.ended
    }

    /// When its time ends.
    pub fn until(&self) -> Instant {
        *self.until.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets when its time ends. The body of a response has a time of its own.
    pub fn set_until(&self, until: Instant) {
        *self.until.lock().unwrap_or_else(PoisonError::into_inner) = until;
    }

    /// This request and those that led to it, the latest first.
    fn chain(&self) -> impl Iterator<Item = &Self> {
        std::iter::successors(Some(self), |request| request.parent.as_deref())
    }

    /// Returns how many of this request and those that led to it run in a version.
    pub fn holders_of(&self, version: &Version) -> usize {
        self.chain().filter(|request| request.version.key == version.key).count()
    }

    /// Counts this request and those that led to it as waiting, until the guard is dropped.
    pub fn begin_wait(self: &Arc<Self>) -> CallerWaits {
        for request in self.chain() {
            let mut waits = request.waits.lock().unwrap_or_else(PoisonError::into_inner);
            waits.count += 1;
            waits.holder.get_or_insert_with(|| request.version.permits.wait_as_holder());
        }
        CallerWaits(Arc::clone(self))
    }
}

/// Returns the depth of a request that a function sends.
pub fn depth_below(parent: Option<&CallingRequest>) -> u8 {
    parent.map_or(0, |parent| parent.depth.saturating_add(1))
}

/// Counts a request and those that led to it as waiting until it is dropped.
#[derive(Debug)]
pub struct CallerWaits(Arc<CallingRequest>);

impl Drop for CallerWaits {
    fn drop(&mut self) {
        for request in self.0.chain() {
            let mut waits = request.waits.lock().unwrap_or_else(PoisonError::into_inner);
            waits.count = waits.count.saturating_sub(1);
            if waits.count == 0 {
                waits.holder = None;
            }
        }
    }
}
