//! What an admitted request carries to a worker: the version that it goes to, its open tab and its permits.

use crate::egress::EgressGrant;
use gannet_base::quota::account::CountGuard;
use gannet_base::quota::permits::ServerPermit;
use gannet_state::registry::{Function, Tenant, Version};
use gannet_state::tab::Tab;
use http::uri::PathAndQuery;
use std::sync::Arc;
use tokio::sync::OwnedSemaphorePermit;

/// How a function was named.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AddressingStyle {
    /// By a path, on an origin that it shares with others.
    Path,
    /// By a host of its own.
    Host,
}

/// A function to call and what it sees as its path.
#[derive(Debug)]
pub struct Target {
    /// Its tenant.
    pub tenant: Arc<Tenant>,
    /// The function.
    pub function: Arc<Function>,
    /// The version that was chosen.
    pub version: Arc<Version>,
    /// Path and query for the guest.
    pub path: PathAndQuery,
    /// How it was named.
    pub style: AddressingStyle,
}

/// The permits that a request holds until the last byte of its answer has left.
#[derive(Debug)]
pub struct Permits {
    /// Counts it among its tenant's requests in flight.
    pub in_flight: CountGuard,
    /// One of the whole server's.
    pub server: ServerPermit,
    /// One of its version's.
    pub version: OwnedSemaphorePermit,
}

/// What a request holds from its admission to its last byte. Dropping it closes the tab and gives the permits back.
#[derive(Debug)]
pub struct Admitted {
    /// What it is charged on.
    pub tab: Tab,
    /// Lets its function call out, as long as the tab is open. Dropped after the tab, which reads what was counted.
    pub outbound: Option<EgressGrant>,
    /// What it may use.
    pub permits: Permits,
}
