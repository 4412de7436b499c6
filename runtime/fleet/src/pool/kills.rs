//! Makes functions whose workers are killed again and again wait before they are tried again.

use super::Pool;
use super::backoff::{Backoff, KILLS_FREE, KillHistory};
use super::error::PoolError;
use super::starts::STARTS_FREE;
use super::worker::Worker;
use gannet_base::names::{FunctionName, TenantName};
use gannet_state::registry::Version;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

impl Pool {
    /// Forgets the kills of a function that was deployed again, and sends its tenant's workers the current quarantine.
    pub async fn redeployed(&self, tenant: &TenantName, function: &FunctionName) {
        let key = (tenant.clone(), function.clone());
        self.backoff().forget(&key);
        self.note_start(&key);
        self.push_quarantine(tenant).await;
    }

    fn backoff(&self) -> std::sync::MutexGuard<'_, Backoff> {
        self.backoff.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the recent kills of a function's workers, and how long it has to wait because of them.
    pub fn kills(&self, tenant: &TenantName, function: &FunctionName) -> Option<(KillHistory, Duration)> {
        let (key, now) = ((tenant.clone(), function.clone()), Instant::now());
        let backoff = self.backoff();
        let kills = backoff.recent(&key, now)?.clone();
        Some((kills, backoff.wait(&key, now)))
    }

    /// Returns why a function's workers end or do not start, if that was so three times in a row lately, and how long the
    /// function has to wait because of it.
    pub fn crash_loop(&self, tenant: &TenantName, function: &FunctionName) -> Option<(String, Duration)> {
        let killed = self.kills(tenant, function).filter(|(kills, _)| kills.count > KILLS_FREE);
        let killed = killed.map(|(kills, wait)| (kills.why, wait));
        let not_started = self.start_failures(tenant, function).filter(|(failures, _)| failures.count > STARTS_FREE);
        let not_started = not_started.map(|(failures, wait)| (failures.why, wait));
        killed.into_iter().chain(not_started).max_by_key(|(_, wait)| *wait)
    }

    /// Refuses a function whose workers are killed again and again.
    pub(super) fn check_kills(&self, version: &Version) -> Result<(), PoolError> {
        match self.kills(&version.tenant, &version.function) {
            Some((kills, wait)) if !wait.is_zero() => {
                let left_s = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
                Err(PoolError::BackingOff { kills: kills.count, why: kills.why, left_s })
            }
            _ => Ok(()),
        }
    }

    /// Records that a worker ended while it ran a request, and returns why.
    pub(super) async fn note_kill(&self, version: &Version, worker: &Worker) -> String {
        let why = worker.why_ended().await;
        let key = (version.tenant.clone(), version.function.clone());
        self.backoff().killed(key, worker.id(), &why, Instant::now());
        why
    }
}
