//! An admitted request on its way to a worker: its target version, its open tab and its permits.

use crate::egress::EgressGrant;
use gannet_base::identity::Key;
use gannet_base::quota::account::CountGuard;
use gannet_base::quota::call_permits::ServerPlace;
use gannet_state::registry::{Function, Tenant, Version};
use gannet_state::tab::Tab;
use http::uri::PathAndQuery;
use std::sync::Arc;
use tokio::sync::OwnedSemaphorePermit;

/// How the URL of a request names its function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AddressingStyle {
    /// By the path. Functions of several tenants share the origin.
    Path,
    /// By the host, which belongs to this function alone.
    Host,
}

/// The function and version that a request goes to, and the path that the guest sees.
#[derive(Debug)]
pub struct Target {
    /// The tenant that owns the function.
    pub tenant: Arc<Tenant>,
    /// The function, as in the published snapshot.
    pub function: Arc<Function>,
    /// The version that routing chose.
    pub version: Arc<Version>,
    /// Path and query for the guest.
    pub path: PathAndQuery,
    /// The part of the URL's path that names the function, if the guest does not see it.
    pub prefix: Option<String>,
    /// How the URL named the function.
    pub style: AddressingStyle,
}

/// The permits that a request holds until the last byte of its response is sent.
#[derive(Debug)]
pub struct Permits {
    /// Counts the request among its tenant's requests in flight.
    pub in_flight: CountGuard,
    /// Its place in the server.
    pub server: ServerPlace,
    /// Permit of the version.
    pub version: OwnedSemaphorePermit,
}

/// What a request holds from its admission until the last byte of its response is sent. Dropping it closes the tab and
/// returns the permits.
#[derive(Debug)]
pub struct Admitted {
    /// The open bill of the request.
    pub tab: Tab,
    /// Lets the guest send outbound HTTP and call siblings; `None` before a worker is claimed.
    /// Declared after the tab, so that it is dropped later: the tab reads its counter when it closes.
    pub outbound: Option<EgressGrant>,
    /// The key with which the request was sent.
    pub key: Option<Arc<Key>>,
    /// Returned when the request is done.
    pub permits: Permits,
}
