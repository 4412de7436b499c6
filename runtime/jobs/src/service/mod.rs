//! The service: accepts jobs, starts attempts, keeps results. Its tasks:
//!
//! ```text
//!  one for each function with waiting jobs (`dispatch`): waits until an attempt may begin, then takes the next job
//!  one for each attempt (`attempt`): marks the job, runs it, commits the result
//!  one for all deliveries of webhooks, and one for each try (`webhooks`)
//!  one for all (`sweep`): ends jobs whose time is over, removes results that are kept long enough
//!  one for all (`batch_tell`): stores the deliveries of the ends of batches
//!  one for all (`batch_sweep`): removes batches that are kept long enough, with their items
//!  one for all (`schedules`): makes the jobs of schedules when their times come
//! ```
//!
//! The records in the store are the truth; [`state::State`] is an index of them, made at the start by `recover`. A
//! change is committed first, expecting the revision that it was made from, and then noted in the index.

mod attempt;
mod batch_add;
mod batch_index;
mod batch_read;
mod batch_sweep;
mod batch_tell;
mod batches;
#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]
mod batch_tests;
mod calls;
mod clock;
mod dispatch;
mod hooks;
#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod model;
mod log;
mod payload;
mod pointer;
mod progress;
mod recover;
mod schedule_calls;
mod schedules;
mod shared;
#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]
mod schedule_tests;
mod state;
mod sweep;
mod waits;
#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod waits_tests;
mod webhooks;

pub use crate::runner::JobLimits;
pub use batch_add::{NewBatch, NewItems};
pub use batch_read::{BatchError, BatchView};
pub use batches::{ResultsPage, RetriedItems};
pub use calls::{Cancelled, ReadError, Retried, StreamRead};
pub use hooks::{HookError, HookView, MadeHook, OpenHook, ReceiveError, Received, Replaced};
pub use progress::ProgressError;
pub use schedule_calls::{ListedSchedule, ScheduleError};
pub use schedules::ScheduleSource;
pub use shared::Jobs;
pub use submit::{Submission, SubmitError, Submitted};
pub use webhooks::{DeliveryError, DeliveryStatus, DeliveryView, WebhookSecret};

mod submit;

use crate::delivery::sender::Webhooks;
use crate::runner::Runner;
use clock::Clock;
use gannet_state::records::RecordStore;
use gannet_state::records::blobs::BlobStore;
use shared::{Schedules, Shared};
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

impl<R: Runner> Jobs<R> {
    /// Recovers the jobs of an earlier run and starts the service.
    pub async fn start(
        records: Arc<dyn RecordStore>,
        blobs: Arc<dyn BlobStore>,
        runner: R,
        webhooks: Webhooks,
    ) -> io::Result<Self> {
        Self::start_at(Clock::new(), records, blobs, runner, webhooks).await
    }

    async fn start_at(
        clock: Clock,
        records: Arc<dyn RecordStore>,
        blobs: Arc<dyn BlobStore>,
        runner: R,
        webhooks: Webhooks,
    ) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            records,
            blobs,
            runner,
            webhooks,
            clock,
            state: Mutex::default(),
            removing_blobs: tokio::sync::RwLock::default(),
            large_reads: tokio::sync::Semaphore::new(shared::LARGE_READS),
            schedules: Schedules::default(),
            making_hooks: tokio::sync::Mutex::default(),
            stopping: CancellationToken::new(),
            tasks: TaskTracker::new(),
        });
        recover::recover(&shared).await?;
        let jobs = Self { shared };
        jobs.shared.tasks.spawn(sweep::sweep(Arc::clone(&jobs.shared)));
        jobs.shared.tasks.spawn(batch_sweep::sweep(Arc::clone(&jobs.shared)));
        jobs.shared.tasks.spawn(batch_tell::tell(Arc::clone(&jobs.shared)));
        jobs.shared.tasks.spawn(webhooks::deliver::run(Arc::clone(&jobs.shared)));
        jobs.shared.tasks.spawn(schedules::keep(Arc::clone(&jobs.shared)));
        dispatch::start_all(&jobs.shared);
        Ok(jobs)
    }

    /// Begins no further attempt, and waits at most `longest` for those that run. What still runs then is left: the
    /// next start puts those jobs into the queue again.
    pub async fn drain(&self, longest: Duration) {
        self.shared.stopping.cancel();
        self.shared.tasks.close();
        if tokio::time::timeout(longest, self.shared.tasks.wait()).await.is_err() {
            tracing::warn!(
                attempts = self.shared.tasks.len(),
                "jobs still run at the end of the drain; they run again"
            );
        }
    }
}
