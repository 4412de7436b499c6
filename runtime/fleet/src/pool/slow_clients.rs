//! Ends responses that their clients do not read in time, because others want their permits and their instances.
//!
//! The body of a client that stops reading is not polled and cannot notice a timeout. One task looks at all open
//! responses once a second; a task for each would cost more than most responses do.

use slab::Slab;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

/// How often open responses are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// A response that can be ended when its time is over.
pub(crate) trait Overdue: Send + Sync {
    /// Ends it. `longest` is the time that it had.
    fn end(&self, longest: Duration);
}

/// A response whose client has a limited time to read it.
#[derive(Debug)]
struct Watched<T> {
    until: Instant,
    longest: Duration,
    response: Weak<T>,
}

/// All responses that are being sent.
#[derive(Debug)]
pub(crate) struct SlowClients<T> {
    watched: Mutex<Slab<Watched<T>>>,
}

impl<T: Overdue + 'static> SlowClients<T> {
    /// Starts the task that looks at them.
    pub(crate) fn start() -> Arc<Self> {
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

    /// Watches a response until the guard is dropped.
    pub(crate) fn watch(self: &Arc<Self>, response: &Arc<T>, longest: Duration) -> WatchGuard<T> {
        let watched = Watched { until: Instant::now() + longest, longest, response: Arc::downgrade(response) };
        WatchGuard { key: self.lock().insert(watched), clients: Arc::clone(self) }
    }

    fn end_overdue(&self, now: Instant) {
        let overdue: Vec<_> = {
            let watched = self.lock();
            let overdue = watched.iter().filter(|(_, watched)| watched.until <= now);
            overdue.filter_map(|(_, watched)| Some((watched.response.upgrade()?, watched.longest))).collect()
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
pub(crate) struct WatchGuard<T: Overdue + 'static> {
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
    struct Ended(AtomicU64);

    impl Overdue for Ended {
        fn end(&self, longest: Duration) {
            self.0.fetch_add(longest.as_secs(), Ordering::Relaxed);
        }
    }

    #[tokio::test]
    async fn what_is_overdue_is_ended_and_what_has_gone_is_forgotten() {
        let clients = SlowClients::start();
        let (slow, quick, late) = (Arc::new(Ended::default()), Arc::new(Ended::default()), Arc::new(Ended::default()));
        let _slow = clients.watch(&slow, Duration::from_secs(10));
        drop(clients.watch(&quick, Duration::from_secs(10)));
        let _late = clients.watch(&late, Duration::from_secs(30));
        clients.end_overdue(Instant::now() + Duration::from_secs(20));
        let ended = [&slow, &quick, &late].map(|response| response.0.load(Ordering::Relaxed));
        assert_eq!(ended, [10, 0, 0]);
        assert_eq!(clients.lock().len(), 2);
    }
}
