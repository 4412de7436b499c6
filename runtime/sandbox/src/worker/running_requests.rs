//! The requests that run in this worker. The front door gets reports of what they have used so far, so that a tenant's
//! caps hold while they run, and so that the work is billed if this process ends before they do. The front door can also
//! end a request.
//!
//! Only requests that run for longer than [`PROGRESS_EVERY`] are reported. Nothing wakes while no request runs.

use crate::worker::usage::RequestUsage;
use gannet_base::hop::RequestProgress;
use gannet_base::names::RequestId;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// How often progress is reported.
pub(crate) const PROGRESS_EVERY: Duration = Duration::from_millis(100);

struct Running {
    usage: Arc<RequestUsage>,
    began: Instant,
    stop: Arc<Notify>,
}

/// The requests that run; see the module.
#[derive(Default)]
pub(crate) struct RunningRequests {
    requests: Mutex<HashMap<RequestId, Running>>,
    /// Wakes the task that tells progress, when there was no request before.
    first: Notify,
}

/// Counts a request as running until it is dropped.
pub(crate) struct RunningGuard {
    all: Arc<RunningRequests>,
    request: RequestId,
    stop: Arc<Notify>,
}

impl RunningGuard {
    /// Waits until the front door ends the request.
    pub(crate) fn stopped(&self) -> impl Future<Output = ()> + Send + use<> {
        let stop = Arc::clone(&self.stop);
        async move { stop.notified().await }
    }
}

impl Drop for RunningGuard {
    fn drop(&mut self) {
        self.all.lock().remove(&self.request);
    }
}

impl RunningRequests {
    fn lock(&self) -> MutexGuard<'_, HashMap<RequestId, Running>> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends a request, if it still runs.
    pub(crate) fn stop(&self, request: RequestId) {
        if let Some(running) = self.lock().get(&request) {
            // It is kept for a request that does not wait for it yet.
            running.stop.notify_one();
        }
    }

    /// Waits until a request runs.
    pub(crate) async fn any(&self) {
        while self.lock().is_empty() {
            self.first.notified().await;
        }
    }

    /// Returns what the requests have used that have run for a while.
    pub(crate) fn progress(&self) -> Vec<RequestProgress> {
        let requests = self.lock();
        let long = requests.iter().filter(|(_, running)| running.began.elapsed() >= PROGRESS_EVERY);
        long.map(|(request, running)| {
            let (guest_ns, gpu_ns) = running.usage.so_far();
            RequestProgress { request: *request, guest_ns, gpu_ns }
        })
        .collect()
    }
}

/// Counts a request as running.
pub(crate) fn begin(all: &Arc<RunningRequests>, request: RequestId, usage: &Arc<RequestUsage>) -> RunningGuard {
    let stop = Arc::<Notify>::default();
    let running = Running { usage: Arc::clone(usage), began: Instant::now(), stop: Arc::clone(&stop) };
    let mut requests = all.lock();
    let is_first = requests.is_empty();
    requests.insert(request, running);
    drop(requests);
    if is_first {
        all.first.notify_one();
    }
    RunningGuard { all: Arc::clone(all), request, stop }
}
