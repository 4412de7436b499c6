//! Connections to other servers that wait for the next call of the same tenant to the same target.
//!
//! They are never shared between tenants: a connection may carry what the other side has bound to it, and the time a call
//! takes would tell one tenant what another calls.

use crate::egress::connection::{Connection, Protocol};
use crate::egress::target::CallTarget;
use gannet_base::names::TenantName;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// How long a connection waits. Servers close idle ones too, some of them after 5 s, and a call that is sent at that
/// moment fails.
const IDLE_MAX: Duration = Duration::from_secs(4);
/// How long a connection is used at most, because a name may get other addresses.
const AGE_MAX: Duration = Duration::from_secs(60);
/// How often connections that have waited long enough are looked for.
const SWEEP_EVERY: Duration = Duration::from_secs(2);
/// Most connections of one tenant that wait, and of all tenants.
const TENANT_MAX: usize = 16;
const ALL_MAX: usize = 512;

/// What a waiting connection can be used for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct IdleKey {
    pub(super) target: CallTarget,
    /// The protocol of connections without TLS.
    pub(super) plain: Protocol,
}

struct Waiting {
    key: IdleKey,
    connection: Connection,
    since: Instant,
}

impl Waiting {
    fn is_fresh(&self, now: Instant) -> bool {
        now.duration_since(self.since) < IDLE_MAX
            && now.duration_since(self.connection.made) < AGE_MAX
            && self.connection.is_usable()
    }
}

#[derive(Default)]
struct Connections {
    /// Those that have waited longest first.
    by_tenant: HashMap<TenantName, Vec<Waiting>>,
    /// Whether a task looks for old ones.
    is_swept: bool,
}

impl Connections {
    fn count(&self) -> usize {
        self.by_tenant.values().map(Vec::len).sum()
    }

    fn sweep(&mut self, now: Instant) {
        self.by_tenant.retain(|_, waiting| {
            waiting.retain(|one| one.is_fresh(now));
            !waiting.is_empty()
        });
    }
}

/// The waiting connections of all tenants.
#[derive(Default)]
pub(super) struct IdleConnections(Mutex<Connections>);

impl IdleConnections {
    fn lock(&self) -> MutexGuard<'_, Connections> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the connection that began to wait last. `may_connect` checks its address against the current rules.
    pub(super) fn take(
        &self,
        tenant: &TenantName,
        key: &IdleKey,
        may_connect: impl Fn(&SocketAddr) -> bool,
    ) -> Option<Connection> {
        let now = Instant::now();
        let mut connections = self.lock();
        let waiting = connections.by_tenant.get_mut(tenant)?;
        waiting.retain(|one| one.is_fresh(now));
        let at = waiting.iter().rposition(|one| one.key == *key && one.connection.has_room())?;
        let usable = waiting.get(at).filter(|one| may_connect(&one.connection.peer));
        match usable.map(|one| one.connection.share()) {
            Some(Some(shared)) => Some(shared),
            Some(None) => Some(waiting.remove(at).connection),
            None => {
                waiting.remove(at);
                None
            }
        }
    }

    /// Keeps a connection for the next call once its last request is done.
    pub(super) fn keep_when_done(self: &Arc<Self>, tenant: &TenantName, key: IdleKey, mut connection: Connection) {
        let (idle, tenant) = (Arc::clone(self), tenant.clone());
        if let Some(shared) = connection.share() {
            idle.put(tenant, key, shared);
            return;
        }
        tokio::spawn(async move {
            if connection.is_done().await {
                idle.put(tenant, key, connection);
            }
        });
    }

    /// Removes the handles of a connection that did not answer.
    pub(super) fn forget(&self, tenant: &TenantName, made: Instant) {
        if let Some(waiting) = self.lock().by_tenant.get_mut(tenant) {
            waiting.retain(|one| one.connection.made != made);
        }
    }

    fn put(self: &Arc<Self>, tenant: TenantName, key: IdleKey, connection: Connection) {
        let since = Instant::now();
        let mut connections = self.lock();
        connections.sweep(since);
        if connections.count() >= ALL_MAX {
            return;
        }
        let waiting = connections.by_tenant.entry(tenant).or_default();
        // One that several calls share is there already.
        let is_same = |one: &Waiting| one.key == key && one.connection.made == connection.made;
        if let Some(at) = waiting.iter().position(is_same) {
            waiting.remove(at);
        }
        if waiting.len() >= TENANT_MAX {
            waiting.remove(0);
        }
        waiting.push(Waiting { key, connection, since });
        if !std::mem::replace(&mut connections.is_swept, true) {
            tokio::spawn(sweep(Arc::clone(self)));
        }
    }
}

/// Closes connections that have waited long enough, until there is none.
async fn sweep(idle: Arc<IdleConnections>) {
    loop {
        tokio::time::sleep(SWEEP_EVERY).await;
        let mut connections = idle.lock();
        connections.sweep(Instant::now());
        if connections.by_tenant.is_empty() {
            connections.is_swept = false;
            return;
        }
    }
}
