//! Log lines of functions: a bounded ring and live followers for each function.
//!
//! Lines arrive in frames from untrusted workers. The version in a frame decides which function its line belongs to,
//! and a worker can only name versions that were loaded into it ([`VersionOwners`]).

use gannet_base::hop::{LogFrame, VersionKey};
use gannet_base::log_line::LogLine;
use gannet_base::names::{FunctionName, RequestId, TenantName};
use gannet_process::channel::{Channel, ChannelError};
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::broadcast;

/// Bytes of log kept for one function.
const KEPT_BYTES_MAX: usize = 1024 * 1024;
/// Bytes of log kept for all functions of a tenant.
const TENANT_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Lines a follower may lag behind before it loses some.
const FOLLOW_CAPACITY: usize = 256;

#[derive(Debug, Default)]
struct Ring {
    lines: VecDeque<LogLine>,
    bytes: usize,
    /// None until somebody follows the log, because a channel has room for all lines from the start.
    followers: Option<broadcast::Sender<LogLine>>,
}

fn size_of_line(line: &LogLine) -> usize {
    line.text.len() + size_of::<LogLine>()
}

impl Ring {
    fn add(&mut self, line: LogLine) {
        self.bytes += size_of_line(&line);
        if let Some(followers) = &self.followers
            && followers.send(line.clone()).is_err()
        {
            // Nobody follows any more.
            self.followers = None;
        }
        self.lines.push_back(line);
    }

    /// Removes the oldest lines until at most `most` bytes or `keep` lines are left. Returns how many bytes it removed.
    fn shrink(&mut self, most: usize, keep: usize) -> usize {
        let before = self.bytes;
        while self.bytes > most && self.lines.len() > keep {
            let Some(oldest) = self.lines.pop_front() else { break };
            self.bytes -= size_of_line(&oldest);
        }
        before - self.bytes
    }
}

/// The logs of one tenant's functions.
#[derive(Debug, Default)]
struct TenantLogs {
    rings: HashMap<FunctionName, Ring>,
    bytes: usize,
}

impl TenantLogs {
    fn add(&mut self, function: &FunctionName, line: LogLine) {
        let size = size_of_line(&line);
        let ring = match self.rings.get_mut(function) {
            Some(ring) => ring,
            None => self.rings.entry(function.clone()).or_default(),
        };
        ring.add(line);
        self.bytes = (self.bytes + size).saturating_sub(ring.shrink(KEPT_BYTES_MAX, 1));
        if self.bytes > TENANT_BYTES_MAX {
            self.make_room();
        }
    }

    /// Removes the oldest quarter of each log, so that this is seldom needed. If the logs have but one line each, there
    /// are too many: then all lines go.
    fn make_room(&mut self) {
        for keep in [1, 0] {
            if self.bytes > TENANT_BYTES_MAX {
                let shrink = |ring: &mut Ring| ring.shrink(ring.bytes / 4 * 3 * keep, keep);
                let removed: usize = self.rings.values_mut().map(shrink).sum();
                self.bytes = self.bytes.saturating_sub(removed);
            }
        }
    }
}

type FunctionId = (TenantName, FunctionName);
/// The versions that were loaded into one worker, and the function that each belongs to.
pub type VersionOwners = Mutex<HashMap<VersionKey, FunctionId>>;

/// The logs of all functions.
#[derive(Debug, Default)]
pub struct Logs {
    tenants: Mutex<HashMap<TenantName, TenantLogs>>,
}

impl Logs {
    fn lock(&self) -> MutexGuard<'_, HashMap<TenantName, TenantLogs>> {
        self.tenants.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, frame: LogFrame, owners: &VersionOwners) {
        let name = owners.lock().unwrap_or_else(PoisonError::into_inner).get(&frame.version).cloned();
        let Some((tenant, function)) = name else { return };
        let lost = (frame.lost > 0).then_some(frame.lost);
        let line = LogLine {
            time: jiff::Timestamp::now(),
            request: frame.request,
            stream: frame.stream,
            text: frame.text,
            lost,
        };
        self.lock().entry(tenant).or_default().add(&function, line);
    }

    /// Returns the kept lines of a function.
    pub fn read(&self, tenant: &TenantName, function: &FunctionName) -> Vec<LogLine> {
        let tenants = self.lock();
        let ring = tenants.get(tenant).and_then(|logs| logs.rings.get(function));
        ring.map(|ring| ring.lines.iter().cloned().collect()).unwrap_or_default()
    }

    /// Returns the kept lines of one request to a function.
    pub fn of_request(&self, tenant: &TenantName, function: &FunctionName, request: RequestId) -> Vec<LogLine> {
        let tenants = self.lock();
        let ring = tenants.get(tenant).and_then(|logs| logs.rings.get(function));
        ring.map(|ring| ring.lines.iter().filter(|line| line.request == request).cloned().collect()).unwrap_or_default()
    }

    /// Returns the kept lines of a function, and a receiver for new ones.
    pub fn follow(&self, tenant: &TenantName, function: &FunctionName) -> (Vec<LogLine>, broadcast::Receiver<LogLine>) {
        let mut tenants = self.lock();
        let ring = tenants.entry(tenant.clone()).or_default().rings.entry(function.clone()).or_default();
        let followers = ring.followers.get_or_insert_with(|| broadcast::channel(FOLLOW_CAPACITY).0);
        (ring.lines.iter().cloned().collect(), followers.subscribe())
    }

    /// Deletes the logs of a tenant's functions. Followers see the end of the log.
    pub fn forget_tenant(&self, tenant: &TenantName) {
        self.lock().remove(tenant);
    }

    /// Deletes the log of a function. Followers see the end of the log.
    pub fn forget(&self, tenant: &TenantName, function: &FunctionName) {
        if let Some(logs) = self.lock().get_mut(tenant)
            && let Some(ring) = logs.rings.remove(function)
        {
            logs.bytes = logs.bytes.saturating_sub(ring.bytes);
        }
    }
}

/// Reads a worker's log lines until its socket closes.
pub async fn collect(logs: Arc<Logs>, socket: Channel, owners: Arc<VersionOwners>) {
    loop {
        match socket.receive::<LogFrame>().await {
            Ok((frame, _)) => logs.add(frame, &owners),
            // One frame that cannot be read does not end the log of the worker.
            Err(ChannelError::Malformed(_)) => {}
            Err(_) => return,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use gannet_base::hop::LogStream;
    use gannet_base::names::RequestId;

    #[test]
    fn the_logs_of_a_tenant_are_bounded_however_many_functions_it_has() {
        let mut logs = TenantLogs::default();
        let line = |text: String| LogLine {
            time: jiff::Timestamp::now(),
            request: RequestId::new(),
            stream: LogStream::Stdout,
            text,
            lost: None,
        };
        for round in 0..40 {
            for function in 0..50 {
                let name = FunctionName::new(&format!("f{function}")).unwrap();
                logs.add(&name, line(format!("{round}{}", "x".repeat(16 * 1024))));
            }
        }
        let sum: usize = logs.rings.values().map(|ring| ring.bytes).sum();
        assert_eq!(sum, logs.bytes);
        assert!(logs.bytes <= TENANT_BYTES_MAX, "{}", logs.bytes);
        assert!(
            logs.rings.values().all(|ring| ring.lines.back().unwrap().text.starts_with("39")),
            "the newest are kept"
        );
    }
}
