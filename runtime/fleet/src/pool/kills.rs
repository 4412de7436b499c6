//! Makes versions whose workers are killed again and again wait before they are tried again.

use super::Pool;
use super::backoff::{Backoff, KILLS_FREE, KillHistory};
use super::error::PoolError;
use super::starts::STARTS_FREE;
use super::worker::Worker;
use gannet_base::hop::VersionKey;
use gannet_state::registry::Version;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

impl Pool {
    /// Forgets the kills and the failed starts of a version that was deployed, perhaps again, and sends its tenant's
    /// workers the current quarantine.
    pub async fn redeployed(&self, version: &Version) {
        self.backoff().forget(version.key);
        self.note_start(version.key);
        self.push_quarantine(&version.tenant).await;
    }

    fn backoff(&self) -> std::sync::MutexGuard<'_, Backoff> {
        self.backoff.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the recent kills of a version's workers, and how long it has to wait because of them.
    pub fn kills(&self, version: VersionKey) -> Option<(KillHistory, Duration)> {
        let now = Instant::now();
        let backoff = self.backoff();
        let kills = backoff.recent(version, now)?.clone();
        Some((kills, backoff.wait(version, now)))
    }

    /// Returns why a version's workers end or do not start, if that was so three times in a row lately, and how long the
    /// version has to wait because of it. Starts that fail do not matter while a worker has it loaded, which serves it.
    pub fn crash_loop(&self, version: &Version) -> Option<(String, Duration)> {
        let killed = self.kills(version.key).filter(|(kills, _)| kills.count > KILLS_FREE);
        let killed = killed.map(|(kills, wait)| (kills.why, wait));
        let not_started = self.start_failures(version.key).filter(|(failures, _)| failures.count > STARTS_FREE);
        let not_started = not_started.filter(|_| self.workers_of(version).now == 0);
        let not_started = not_started.map(|(failures, wait)| (failures.why, wait));
        killed.into_iter().chain(not_started).max_by_key(|(_, wait)| *wait)
    }

    /// Whether a request of a version would be refused now because of what [`Pool::crash_loop`] tells.
    pub fn must_wait(&self, version: &Version) -> bool {
        self.crash_loop(version).is_some_and(|(_, wait)| !wait.is_zero())
    }

    /// Refuses a version whose workers are killed again and again.
    pub(super) fn check_kills(&self, version: &Version) -> Result<(), PoolError> {
        match self.kills(version.key) {
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
        self.backoff().killed(version.key, worker.id(), &why, Instant::now());
        why
    }
}
