//! Ends responses that their clients do not read in time, because others want their permits and their instances. Also
//! ends those whose client may have no more of them, because its key was revoked or its tenant has used up what it may.
//!
//! The body of a client that stops reading is not polled and cannot notice a timeout. One task looks at all open
//! responses a few times a second; a task for each would cost more than most responses do.

use slab::Slab;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

/// How often open responses are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// A response that can be ended when its time is over.
pub trait Overdue: Send + Sync {
    /// Returns since when the client could have taken more and did not. None while it waits for the function.
    fn untaken_since(&self) -> Option<Instant>;

    /// Returns why its client may have no more of it: the error's code, and the error in words. None if it may.
    fn lost_access(&self) -> Option<(&'static str, String)>;

    /// Ends it because its client may have no more of it.
    fn end_access(&self, code: &'static str, detail: String);

    /// Ends it. `longest` is the time that it had.
    fn end(&self, longest: Duration);
}

/// A response whose client has a limited time to read it.
#[derive(Debug)]
struct Watched<T> {
    until: Instant,
    longest: Duration,
    /// How long the client may take nothing.
    idle: Duration,
    response: Weak<T>,
}

/// All responses that are being sent.
#[derive(Debug)]
pub struct SlowClients<T> {
    watched: Mutex<Slab<Watched<T>>>,
}

impl<T: Overdue + 'static> SlowClients<T> {
    /// Starts the task that looks at them.
    pub fn start() -> Arc<Self> {
        let clients = Arc::new(Self { watched: Mutex::default() });
        let looked_at = Arc::downgrade(&clients);
        tokio::spawn(async move {
            while let Some(clients) = looked_at.upgrade() {
                clients.end_overdue(Instant::now());
                drop(clients);
                tokio::time::sleep(LOOK_EVERY).await;
            }
        });
        clients
    }

    /// Watches a response until the guard is dropped. It is ended after `longest`, and if its client takes nothing for
    /// `idle`.
    pub fn watch(self: &Arc<Self>, response: &Arc<T>, longest: Duration, idle: Duration) -> WatchGuard<T> {
        let watched = Watched { until: Instant::now() + longest, longest, idle, response: Arc::downgrade(response) };
        WatchGuard { key: self.lock().insert(watched), clients: Arc::clone(self) }
    }

    /// Ends the responses whose time is over at `now`.
    pub fn end_overdue(&self, now: Instant) {
        let all: Vec<_> = self.lock().iter().filter_map(|(_, watched)| watched.response.upgrade()).collect();
        for response in &all {
            if let Some((code, detail)) = response.lost_access() {
                response.end_access(code, detail);
            }
        }
        drop(all);
        let overdue: Vec<_> = {
            let watched = self.lock();
            let overdue = |watched: &Watched<T>| {
                let response = watched.response.upgrade()?;
                if watched.until <= now {
                    return Some((response, watched.longest));
                }
                let since = response.untaken_since()?;
                (now.saturating_duration_since(since) >= watched.idle).then_some((response, watched.idle))
            };
            watched.iter().filter_map(|(_, watched)| overdue(watched)).collect()
        };
        // Without the lock, because ending one may drop its guard.
        for (response, longest) in overdue {
            response.end(longest);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Slab<Watched<T>>> {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ends the watching when it is dropped.
#[derive(Debug)]
pub struct WatchGuard<T: Overdue + 'static> {
    key: usize,
    clients: Arc<SlowClients<T>>,
}

impl<T: Overdue + 'static> Drop for WatchGuard<T> {
    fn drop(&mut self) {
        self.clients.lock().try_remove(self.key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU64, Ordering};

    #[derive(Debug, Default)]
    struct Ended(AtomicU64, Option<Instant>);

    impl Overdue for Ended {
        fn untaken_since(&self) -> Option<Instant> {
            self.1
        }

        fn lost_access(&self) -> Option<(&'static str, String)> {
            None
        }

        fn end_access(&self, _: &'static str, _: String) {}

        fn end(&self, longest: Duration) {
            self.0.fetch_add(longest.as_secs(), Ordering::Relaxed);
        }
    }

    #[tokio::test]
    async fn what_is_overdue_is_ended_and_what_has_gone_is_forgotten() {
        let clients = SlowClients::start();
        let (slow, quick, late) = (Arc::new(Ended::default()), Arc::new(Ended::default()), Arc::new(Ended::default()));
        let untaken = Arc::new(Ended(AtomicU64::new(0), Some(Instant::now())));
        let (short, long) = (Duration::from_secs(10), Duration::from_secs(30));
        let _slow = clients.watch(&slow, short, short);
        drop(clients.watch(&quick, short, short));
        let _late = clients.watch(&late, long, short);
        let _untaken = (clients.watch(&untaken, long, Duration::from_secs(9)), clients.watch(&untaken, long, long));
        clients.end_overdue(Instant::now() + Duration::from_secs(20));
        let ended = [&slow, &quick, &late, &untaken].map(|response| response.0.load(Ordering::Relaxed));
        assert_eq!(ended, [10, 0, 0, 9]);
        assert_eq!(clients.lock().len(), 4);
    }
}
