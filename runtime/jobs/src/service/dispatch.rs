//! The task that serves one function: it waits until an attempt may begin, and only then takes the job that is next. So
//! a job that is cancelled while it waits takes nothing, and one with a higher priority that comes meanwhile goes first.

use super::shared::{COMMIT_RETRY, Shared};
use super::state::Names;
use super::{attempt, log};
use crate::job::Millis;
use crate::outcome::{Condition, Failure, Outcome};
use crate::queue::KeyLimits;
use crate::runner::{NotNow, Runner, WaitReason};
use gannet_base::names::RequestId;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;

/// How often a task that cannot begin an attempt looks again, at least.
const LOOK_AGAIN: Duration = Duration::from_secs(30);
/// How often a task looks whether results have been removed that take too much.
const FULL: Duration = Duration::from_secs(1);

/// Makes sure that a function's queue is served.
pub(super) fn serve<R: Runner>(shared: &Arc<Shared<R>>, names: &Names) {
    let mut state = shared.state();
    let served = state.served(names);
    if served.is_served || served.queue.waiting_count() == 0 || shared.stopping.is_cancelled() {
        return;
    }
    served.is_served = true;
    let changed = Arc::clone(&served.changed);
    drop(state);
    shared.tasks.spawn(run(Arc::clone(shared), names.clone(), changed));
}

/// Serves all functions that have waiting jobs.
pub(super) fn start_all<R: Runner>(shared: &Arc<Shared<R>>) {
    let all: Vec<Names> = shared.state().functions.keys().cloned().collect();
    for names in &all {
        serve(shared, names);
    }
}

/// How often a task looks again whether items of batches may take more than half.
const ITEMS_LOOK_AGAIN: Duration = Duration::from_millis(100);

/// What the task does next.
enum Step {
    /// Nothing is left to serve.
    End,
    /// It waits for a change, or for this long.
    Wait(Duration),
    /// It asks to begin an attempt.
    Ask,
    /// The function is gone: its jobs fail.
    Fail,
}

async fn run<R: Runner>(shared: Arc<Shared<R>>, names: Names, changed: Arc<Notify>) {
    loop {
        let step = next_step(&shared, &names);
        let wait = match step {
            Step::End => return,
            Step::Fail => {
                fail_all(&shared, &names).await;
                continue;
            }
            Step::Wait(wait) => wait,
            Step::Ask => match begin(&shared, &names).await {
                None => continue,
                Some(wait) => wait,
            },
        };
        tokio::select! {
            () = changed.notified() => {}
            () = tokio::time::sleep(wait.min(LOOK_AGAIN)) => {}
            () = shared.stopping.cancelled() => {}
        }
    }
}

fn next_step<R: Runner>(shared: &Arc<Shared<R>>, names: &Names) -> Step {
    let function = shared.runner.function(&names.0, &names.1);
    let do_requests_wait = shared.runner.do_requests_wait(&names.0, &names.1);
    let now = shared.clock.now();
    let limits = shared.runner.job_limits(&names.0);
    let mut state = shared.state();
    // Inputs have at most the limit, so jobs can run; results that exceed it by more hold up the next ones.
    let used = state.tenant(&names.0).bytes;
    let is_full = limits.is_some_and(|limits| used > limits.bytes.saturating_add(limits.bytes / 4));
    let is_paused = state.is_paused(names);
    let served = state.served(names);
    if served.queue.waiting_count() == 0 || shared.stopping.is_cancelled() {
        served.is_served = false;
        served.reason = None;
        state.forget_idle(names);
        return Step::End;
    }
    let Some(function) = function else { return Step::Fail };
    let settings = &function.settings;
    let limits = KeyLimits { at_once: settings.key_concurrency, per_minute: settings.key_per_minute };
    served.queue.set_key_limits(limits);
    if is_paused {
        served.reason = Some(WaitReason::Paused);
        return Step::Wait(LOOK_AGAIN);
    }
    if is_full {
        served.reason = Some(WaitReason::Quota);
        return Step::Wait(FULL);
    }
    if served.queue.running_count() as u64 >= function.concurrency {
        served.reason = Some(WaitReason::Capacity);
        return Step::Wait(LOOK_AGAIN);
    }
    if served.queue.next_must_wait(now, function.concurrency, do_requests_wait) {
        served.reason = Some(WaitReason::Capacity);
        return Step::Wait(ITEMS_LOOK_AGAIN);
    }
    if served.queue.next(now).is_some() {
        return Step::Ask;
    }
    served.reason = None;
    let next: Option<Millis> = served.queue.next_ready();
    Step::Wait(next.map_or(LOOK_AGAIN, |at| shared.clock.until(at)))
}

/// Waits until an attempt may begin, and begins it. Returns how long to wait if none may.
async fn begin<R: Runner>(shared: &Arc<Shared<R>>, names: &Names) -> Option<Duration> {
    let request = RequestId::new();
    shared.state().served(names).reason = Some(WaitReason::Capacity);
    let admitted = tokio::select! {
        admitted = shared.runner.admit(names.0.clone(), names.1.clone(), request) => admitted,
        () = shared.stopping.cancelled() => return Some(Duration::ZERO),
    };
    let now = shared.clock.now();
    let mut state = shared.state();
    let served = state.served(names);
    served.reason = None;
    let admission = match admitted {
        Ok(admission) => admission,
        Err(NotNow::Wait(reason, wait)) => {
            served.reason = Some(reason);
            return Some(wait);
        }
        // The next step finds that out.
        Err(NotNow::Gone) => return None,
    };
    // It may have been paused, or its last job cancelled.
    if state.is_paused(names) {
        return None;
    }
    let id = state.served(names).queue.take(now)?;
    drop(state);
    let (shared, names) = (Arc::clone(shared), names.clone());
    shared.tasks.clone().spawn(async move {
        attempt::attempt(&shared, &names, id, request, admission).await;
        serve(&shared, &names);
        log::keep(&shared, &names, id, request).await;
    });
    None
}

/// Fails all waiting jobs of a function that does not exist any more.
async fn fail_all<R: Runner>(shared: &Arc<Shared<R>>, names: &Names) {
    let waiting: Vec<_> = shared.state().served(names).queue.waiting().collect();
    for id in waiting {
        // It may have been deployed again meanwhile.
        if shared.runner.function(&names.0, &names.1).is_some() {
            return;
        }
        let failure = Failure {
            condition: Condition::Error,
            code: "function_deleted".into(),
            message: "the function was deleted while the job waited".into(),
            is_permanent: true,
        };
        if let Err(error) = shared.end_waiting(id, &Outcome::Failed(failure)).await {
            tracing::error!(job = %id, %error, "a job of a deleted function could not be ended");
            tokio::time::sleep(COMMIT_RETRY).await;
        }
    }
}
