//! Log lines of functions: a bounded ring and live followers for each function.
//!
//! Lines arrive in frames from untrusted workers. The version in a frame decides which function its line belongs to,
//! and a worker can only name versions that were loaded into it ([`VersionOwners`]).

use gannet_base::hop::{LogFrame, VersionKey};
use gannet_base::log_line::LogLine;
use gannet_base::names::{FunctionName, TenantName};
use gannet_process::channel::Channel;
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::broadcast;

/// Bytes of log kept for one function.
const KEPT_BYTES_MAX: usize = 1024 * 1024;
/// Lines a follower may lag behind before it loses some.
const FOLLOW_CAPACITY: usize = 1024;

#[derive(Debug)]
struct Ring {
    lines: VecDeque<LogLine>,
    bytes: usize,
    followers: broadcast::Sender<LogLine>,
}

impl Default for Ring {
    fn default() -> Self {
        Self { lines: VecDeque::new(), bytes: 0, followers: broadcast::channel(FOLLOW_CAPACITY).0 }
    }
}

type FunctionId = (TenantName, FunctionName);
/// The versions that were loaded into one worker, and the function that each belongs to.
pub type VersionOwners = Mutex<HashMap<VersionKey, FunctionId>>;

/// The logs of all functions.
#[derive(Debug, Default)]
pub struct Logs {
    rings: Mutex<HashMap<FunctionId, Ring>>,
}

impl Logs {
    fn add(&self, frame: LogFrame, owners: &VersionOwners) {
        let name = owners.lock().unwrap_or_else(PoisonError::into_inner).get(&frame.version).cloned();
        let Some(name) = name else { return };
        let lost = (frame.lost > 0).then_some(frame.lost);
        let line = LogLine {
            time: jiff::Timestamp::now(),
            request: frame.request,
            stream: frame.stream,
            text: frame.text,
            lost,
        };
        let mut rings = self.rings.lock().unwrap_or_else(PoisonError::into_inner);
        let ring = rings.entry(name).or_default();
        ring.bytes += line.text.len() + size_of::<LogLine>();
        // It fails only if nobody is following.
        let _ = ring.followers.send(line.clone());
        ring.lines.push_back(line);
        while ring.bytes > KEPT_BYTES_MAX {
            let Some(oldest) = ring.lines.pop_front() else { break };
            ring.bytes -= oldest.text.len() + size_of::<LogLine>();
        }
    }

    /// Returns the kept lines of a function, and a receiver for new ones.
    pub fn read(&self, tenant: &TenantName, function: &FunctionName) -> (Vec<LogLine>, broadcast::Receiver<LogLine>) {
        let mut rings = self.rings.lock().unwrap_or_else(PoisonError::into_inner);
        let ring = rings.entry((tenant.clone(), function.clone())).or_default();
        (ring.lines.iter().cloned().collect(), ring.followers.subscribe())
    }

    /// Deletes the logs of a tenant's functions. Followers see the end of the log.
    pub fn forget_tenant(&self, tenant: &TenantName) {
        self.rings.lock().unwrap_or_else(PoisonError::into_inner).retain(|(owner, _), _| owner != tenant);
    }

    /// Deletes the log of a function. Followers see the end of the log.
    pub fn forget(&self, tenant: &TenantName, function: &FunctionName) {
        self.rings.lock().unwrap_or_else(PoisonError::into_inner).remove(&(tenant.clone(), function.clone()));
    }
}

/// Reads a worker's log lines until its socket closes.
pub async fn collect(logs: Arc<Logs>, socket: Channel, owners: Arc<VersionOwners>) {
    while let Ok((frame, _)) = socket.receive::<LogFrame>().await {
        logs.add(frame, &owners);
    }
}
