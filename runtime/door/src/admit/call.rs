//! Admits a call of a function by another function of its tenant. It pays and is limited as every request is; it differs
//! in what it waits for.
//!
//! ```text
//!  rate of the tenant ─▶ spend, GPU time ─▶ in flight ─▶ a permit of the version ─▶ a place in the server ─▶ tab
//!     429                 402 429            429          503, waits                 503, at once
//! ```
//!
//! Its callers hold permits while it waits, so it waits for one thing only: a permit of its version, and not for long
//! while all who hold one wait themselves ([`VersionPermits`](gannet_base::quota::permits::VersionPermits)). All else is
//! refused at once. So nobody waits for what only its own progress frees.

use super::{Admit, AdmitError};
use gannet_base::names::RequestId;
use gannet_base::quota::account::CountGuard;
use gannet_base::quota::call_permits::ServerPlace;
use gannet_base::quota::permits::{NoPermit, ServerPermits, until};
use gannet_base::quota::rate::{Rate, RateExceeded};
use gannet_base::refusal::Refusal;
use gannet_fleet::admitted::{Admitted, Permits, Target};
use gannet_fleet::calling::{CallingRequest, depth_below};
use jiff::Timestamp;
use std::sync::Arc;
use std::time::Instant;

/// Which part of the calls that nothing covers one tenant may have.
const TENANT_PART: usize = 4;

/// Returns the permits for calls that the permits of their first requests do not cover.
pub(super) fn permits(requests_max: usize) -> Arc<ServerPermits> {
    ServerPermits::with_tenant_max(requests_max, (requests_max / TENANT_PART).max(1), 0)
}

impl Admit {
    /// Admits a call by the function that serves the request `caller`. It may wait until `deadline`.
    pub async fn admit_call(
        &self,
        target: &Target,
        id: RequestId,
        caller: &Arc<CallingRequest>,
        deadline: Instant,
    ) -> Result<Admitted, Refusal> {
        let began = Instant::now();
        let limits = &target.tenant.limits;
        let rate = Rate { per_s: limits.requests_per_s, burst: limits.requests_burst };
        let taken = target.tenant.account.rate.take(rate, began);
        taken.map_err(|wait| RateExceeded { whose: "the tenant", rate, wait })?;
        let reservation = self.reserve(target, Timestamp::now())?;
        let permits = self.permits_of_call(target, caller, deadline).await?;
        let mut tab = self.tab(target, reservation, id, began);
        tab.called_by(caller.id(), depth_below(Some(caller)), Arc::clone(caller.used()));
        Ok(Admitted { tab, outbound: None, key: None, permits })
    }

    async fn permits_of_call(
        &self,
        target: &Target,
        caller: &Arc<CallingRequest>,
        deadline: Instant,
    ) -> Result<Permits, AdmitError> {
        let (tenant, version) = (&target.tenant, &target.version);
        let reached = |name, limit| move |used| AdmitError::LimitReached { name, limit, used: used as u64, wait_s: 1 };
        let concurrency = tenant.limits.concurrency;
        let in_flight = tenant.account.acquire(concurrency).map_err(reached("concurrency", concurrency))?;
        let of_version = match version.permits.try_acquire() {
            Some(permit) => permit,
            None => {
                let (depth, queue_ms) = (tenant.limits.queue_depth, version.limits.queue_ms);
                let queued: CountGuard = tenant.account.wait(depth).map_err(reached("queue_depth", depth))?;
                let _waiting = (queued, caller.begin_wait());
                let until = until(queue_ms, deadline.into());
                version.permits.acquire_for_call(caller.holders_of(version), until, queue_ms).await?
            }
        };
        let covered = caller.covered().take(depth_below(Some(caller))).map(ServerPlace::Covered);
        let place = covered.or_else(|| self.calls.try_acquire(&version.tenant).map(ServerPlace::Own));
        let server = place.ok_or(NoPermit::ServerFull { waiting: 0 })?;
        Ok(Permits { in_flight, server, version: of_version })
    }
}
