//! Why jobs wait, and what the scaling of their function sees of its queue.

use super::shared::{Jobs, Shared};
use super::state::Names;
use crate::job::{Job, State};
use crate::runner::{Runner, WaitReason, Workers};
use crate::view::{StatusView, own_wait_reason};
use std::time::Duration;

impl<R: Runner> Shared<R> {
    pub(super) fn wait_reason(&self, job: &Job) -> Option<WaitReason> {
        let names = (job.tenant.clone(), job.function.clone());
        let reason = {
            let state = self.state();
            if state.is_paused(&names) {
                return Some(WaitReason::Paused);
            }
            own_wait_reason(job).or_else(|| state.functions.get(&names).and_then(|served| served.reason))
        };
        self.refined(&names, reason)
    }

    /// Says more than that there is no capacity: the function fails at its start, or is being started.
    pub(super) fn refined(&self, names: &Names, reason: Option<WaitReason>) -> Option<WaitReason> {
        match reason {
            Some(WaitReason::Capacity) | None if self.runner.crash_loop(&names.0, &names.1).is_some() => {
                Some(WaitReason::CrashLoop)
            }
            Some(WaitReason::Capacity) | None if self.runner.is_loading(&names.0, &names.1) => {
                Some(WaitReason::Loading)
            }
            other => other,
        }
    }

    /// Adds to the view of a job what only the runner knows: that an attempt waits for its function to be loaded, and why
    /// the function fails again and again.
    pub(super) fn explained(&self, job: &Job, mut view: StatusView) -> StatusView {
        let (tenant, function) = (&job.tenant, &job.function);
        if job.state == State::InProgress && self.runner.is_loading(tenant, function) {
            view.wait_reason = Some(WaitReason::Loading);
        }
        if view.wait_reason == Some(WaitReason::CrashLoop) && view.error.is_none() {
            view.error = self.runner.crash_loop(tenant, function).map(|(why, _)| why);
        }
        view
    }
}

impl<R: Runner> Jobs<R> {
    /// Returns why a function's workers end or do not start, if that is so again and again.
    pub fn crash_loop(&self, names: &Names) -> Option<String> {
        self.shared.runner.crash_loop(&names.0, &names.1).map(|(why, _)| why)
    }

    /// Returns the workers of a function. None if they are not known.
    pub fn workers(&self, names: &Names) -> Option<Workers> {
        self.shared.runner.workers(&names.0, &names.1)
    }

    /// Returns how many jobs of a function could run if there were room for them, and for how long the next one could.
    /// There are none while something else than room holds them up: more workers would not help. The task that serves the
    /// queue asks again by itself, so that this ends without a worker.
    pub fn ready(&self, names: &Names) -> (usize, Duration) {
        let now = self.shared.clock.now();
        let mut state = self.shared.state();
        if state.is_paused(names) {
            return (0, Duration::ZERO);
        }
        let Some(served) = state.functions.get_mut(names) else { return (0, Duration::ZERO) };
        if served.reason.is_some_and(|reason| !reason.is_about_room()) {
            return (0, Duration::ZERO);
        }
        let (count, since) = served.queue.ready(now);
        let waited = since.map_or(0, |since| u64::try_from(now.saturating_sub(since)).unwrap_or(0));
        (count, Duration::from_millis(waited))
    }
}
