//! Step 4: decides whether a request may run now, and opens its tab. It checks rates and what may still be spent, then
//! waits for permits. The wait is bounded and fair between tenants.
//!
//! ```text
//!  rate of the key or the address, and of the tenant ─▶ spend, GPU time of the day ─▶ in flight
//!     429                                                402 429                       429
//!  ─▶ a permit of the version ─▶ a permit of the server ─▶ tab ─▶ pool
//!     429 503, waits              503, waits, fairly
//! ```
//!
//! Calls by other functions are admitted in `call`. Each wait ends with a permit, at `queue_ms`, or at the request's deadline. Permits are held until the last byte of
//! the response has left.

mod call;

use gannet_base::identity::Caller;
use gannet_base::names::RequestId;
use gannet_base::quota::account::{CountGuard, Reservation};
use gannet_base::quota::address::AnonymousCallers;
use gannet_base::quota::call_permits::ServerPlace;
use gannet_base::quota::job_permits;
use gannet_base::quota::permits::{NoPermit, ServerPermit, ServerPermits, until};
use gannet_base::quota::rate::{Rate, RateExceeded, RateState};
use gannet_base::refusal::{Blame, Refusal, RefusalKind};
use gannet_fleet::admitted::{Admitted, Permits, Target};
use gannet_fleet::inbound::{InboundRequest, discard_refused};
use gannet_state::config::LiveConfig;
use gannet_state::ledger::Ledger;
use gannet_state::tab::Tab;
use jiff::Timestamp;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::OwnedSemaphorePermit;

/// Why a request was not admitted.
#[derive(Debug, thiserror::Error)]
pub enum AdmitError {
    /// The rate of the key, the address or the tenant is exceeded.
    #[error(transparent)]
    TooFast(#[from] RateExceeded),
    /// A limit of the tenant is used up.
    #[error("{name} = {limit}; in use: {used}")]
    LimitReached {
        /// The limit's name.
        name: &'static str,
        /// Its value.
        limit: u64,
        /// How much of it is used.
        used: u64,
        /// Seconds after which the client may try again.
        wait_s: u64,
    },
    /// The tenant may not spend more this month.
    #[error("spend_micro_units_per_month = {limit}; spent in this month, with requests that still run: {spent}")]
    SpendLimit {
        /// The limit, in micro-units.
        limit: u64,
        /// The amount spent this month, in micro-units.
        spent: u64,
    },
    /// No permit became free in time.
    #[error(transparent)]
    NoPermit(#[from] NoPermit),
    /// The ledger cannot record more usage now. The text says why.
    #[error("the ledger does not keep up: {0}")]
    LedgerBehind(&'static str),
}

impl From<AdmitError> for Refusal {
    fn from(error: AdmitError) -> Self {
        let message = error.to_string();
        match error {
            AdmitError::TooFast(exceeded) => exceeded.into(),
            AdmitError::LimitReached { wait_s, .. } => {
                Self::new(RefusalKind::TooManyRequests, "tenant_limit", Blame::Caller, message)
                    .retry_after(wait_s)
                    .hint("`gannet limits` shows the tenant's limits; the operator sets them")
            }
            AdmitError::SpendLimit { .. } => {
                Self::new(RefusalKind::PaymentRequired, "spend_limit", Blame::Caller, message)
                    .hint("the operator sets spend_micro_units_per_month; a new month begins on its first day, UTC")
                    .permanent()
            }
            AdmitError::NoPermit(error) => error.into(),
            AdmitError::LedgerBehind(_) => {
                Self::new(RefusalKind::Unavailable, "ledger_unavailable", Blame::Platform, message).retry_after(5)
            }
        }
    }
}

/// The admission step.
#[derive(Debug)]
pub struct Admit {
    server: Arc<ServerPermits>,
    /// For calls by functions that the permits of the first requests do not cover.
    calls: Arc<ServerPermits>,
    ledger: Arc<Ledger>,
    live: LiveConfig,
    anonymous: Arc<AnonymousCallers>,
}

/// Seconds until the next day, UTC.
fn to_midnight(now: Timestamp) -> u64 {
    u64::try_from(86_400 - now.as_second().rem_euclid(86_400)).unwrap_or(1)
}

impl Admit {
    /// Creates the step.
    pub fn new(
        server: Arc<ServerPermits>,
        ledger: Arc<Ledger>,
        live: LiveConfig,
        anonymous: Arc<AnonymousCallers>,
    ) -> Self {
        let calls = call::permits(live.load().requests_max);
        Self { server, calls, ledger, live, anonymous }
    }

    /// Admits a request: takes its permits and opens its tab. Also returns the caller's narrowest rate and its state,
    /// which the response's headers report.
    pub async fn admit(
        &self,
        inbound: &mut InboundRequest,
        caller: &Caller,
        target: &Target,
    ) -> Result<(Admitted, Rate, RateState), Refusal> {
        let began = Instant::now();
        let limits = &target.version.limits;
        if let Err(error) = inbound.check_length(limits.body_mib.saturating_mul(1 << 20)) {
            discard_refused(&inbound.parts.headers, &mut inbound.body).await;
            return Err(error.into());
        }
        let (rate, rate_state) = self.check_rate(caller, inbound.client, target, began)?;
        let reservation = self.reserve(target, Timestamp::now())?;
        let deadline = inbound.arrived + Duration::from_millis(limits.timeout_ms);
        let permits = self.permits(target, until(limits.queue_ms, deadline.into()), None).await?;
        let tab = self.tab(target, reservation, inbound.id, began);
        let key = match caller {
            Caller::Tenant(key) => Some(Arc::clone(key)),
            Caller::Operator | Caller::Anonymous => None,
        };
        Ok((Admitted { tab, outbound: None, key, permits }, rate, rate_state))
    }

    /// Opens the tab of a request that began to be admitted at `began`.
    fn tab(&self, target: &Target, reservation: Reservation, id: RequestId, began: Instant) -> Tab {
        let version = &target.version;
        let (tenant, function) = (version.tenant.clone(), version.function.clone());
        let reserved = (reservation, &version.usual);
        let mut tab = Tab::open(&self.ledger, reserved, id, tenant, function, version.record.number);
        tab.update_receipt(|receipt| receipt.admit_us = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX));
        tab
    }

    /// Admits an attempt of a job: waits for its permits until a time, among the requests that wait for them too, and
    /// opens its tab. It also takes one of `share`, the permits that all jobs together may hold. Rates were counted when
    /// the job was submitted.
    pub async fn admit_job(
        &self,
        target: &Target,
        id: RequestId,
        until: tokio::time::Instant,
        share: &Arc<ServerPermits>,
    ) -> Result<(Admitted, ServerPermit), Refusal> {
        let began = Instant::now();
        // Before the wait, because it is free; and after it, because the wait may be long.
        drop(self.reserve(target, Timestamp::now())?);
        let (version, queue_ms) = (&target.version, target.version.limits.queue_ms);
        let names = (&version.tenant, &version.function);
        let both = job_permits::acquire(&version.permits, queue_ms, share, names, until).await;
        let (of_version, of_share) = both.map_err(AdmitError::from)?;
        let permits = self.permits(target, until, Some(of_version)).await?;
        let reservation = self.reserve(target, Timestamp::now())?;
        let tab = self.tab(target, reservation, id, began);
        Ok((Admitted { tab, outbound: None, key: None, permits }, of_share))
    }

    /// Counts a delivery to a hook against its tenant's rate. Its URL is what a key is elsewhere.
    pub fn check_hook_rate(&self, target: &Target, now: Instant) -> Result<(), AdmitError> {
        let limits = &target.tenant.limits;
        let rate = Rate { per_s: limits.requests_per_s, burst: limits.requests_burst };
        let taken = target.tenant.account.rate.take(rate, now);
        taken.map_err(|wait| RateExceeded { whose: "the tenant", rate, wait })?;
        Ok(())
    }

    /// Counts a URL of a hook that does not exist against the rate of wrong keys of its address.
    pub fn check_wrong_key(&self, client: IpAddr, now: Instant) -> Result<(), AdmitError> {
        let rate = Rate::per_s(self.live.load().edge.wrong_keys_per_s);
        let taken = self.anonymous.wrong_keys.take(client, rate, now);
        taken.map_err(|wait| RateExceeded { whose: "an address", rate, wait })?;
        Ok(())
    }

    /// Counts the request against every rate that applies. Returns the caller's narrowest rate and its state.
    pub fn check_rate(
        &self,
        caller: &Caller,
        client: IpAddr,
        target: &Target,
        now: Instant,
    ) -> Result<(Rate, RateState), AdmitError> {
        let limits = &target.tenant.limits;
        let anonymous = match caller {
            Caller::Anonymous => true,
            Caller::Tenant(key) => key.record.tenant != target.version.tenant,
            Caller::Operator => false,
        };
        let mut own_standing = None;
        if anonymous {
            let rate = Rate::per_s(self.live.load().edge.anonymous_per_s);
            let whose = "an address without a key of the tenant";
            let rate_state = self.anonymous.requests.take(client, rate, now);
            let rate_state = rate_state.map_err(|wait| RateExceeded { whose, rate, wait })?;
            own_standing = Some((rate, rate_state));
        }
        let own = match caller {
            Caller::Tenant(key) if !anonymous => key.record.requests_per_s.map(|per_s| (Rate::per_s(per_s), &key.rate)),
            _ => None,
        };
        let narrow = own
            .map(|(rate, bucket)| match bucket.take(rate, now) {
                Ok(rate_state) => Ok((rate, rate_state)),
                Err(wait) => Err(RateExceeded { whose: "this key", rate, wait }),
            })
            .transpose()?;
        let rate = Rate { per_s: limits.requests_per_s, burst: limits.requests_burst };
        let whose = "the tenant";
        let wide = target.tenant.account.rate.take(rate, now);
        let rate_state = wide.map_err(|wait| RateExceeded { whose, rate, wait })?;
        // A caller without a key of the tenant must not see the state of the tenant's rate.
        Ok(narrow.or(own_standing).unwrap_or((rate, rate_state)))
    }

    /// Reserves what the request will use, as far as its version's last requests tell. Refuses it if the ledger could
    /// not record its usage, or if its tenant has used up its spend or GPU time, with what runs now.
    fn reserve(&self, target: &Target, now: Timestamp) -> Result<Reservation, AdmitError> {
        self.ledger.check().map_err(AdmitError::LedgerBehind)?;
        let limits = &target.tenant.limits;
        let spent = match target.tenant.account.reserve(now, target.version.usual.get()) {
            Ok(reservation) => return Ok(reservation),
            Err(spent) => spent,
        };
        if spent.micro_units >= limits.spend_micro_units_per_month {
            return Err(AdmitError::SpendLimit { limit: limits.spend_micro_units_per_month, spent: spent.micro_units });
        }
        Err(AdmitError::LimitReached {
            name: "gpu_ms_per_day",
            limit: limits.gpu_ms_per_day,
            used: spent.gpu_ns / 1_000_000,
            wait_s: to_midnight(now),
        })
    }

    /// Counts the request in flight and takes a permit of its version and one of the server. Waits until a time.
    async fn permits(
        &self,
        target: &Target,
        until: tokio::time::Instant,
        of_version: Option<OwnedSemaphorePermit>,
    ) -> Result<Permits, AdmitError> {
        let (tenant, version) = (&target.tenant, &target.version);
        let reached = |name, limit| move |used| AdmitError::LimitReached { name, limit, used: used as u64, wait_s: 1 };
        let concurrency = tenant.limits.concurrency;
        let in_flight = tenant.account.acquire(concurrency).map_err(reached("concurrency", concurrency))?;
        let queue_ms = version.limits.queue_ms;
        let depth = tenant.limits.queue_depth;
        let waiting =
            || -> Result<CountGuard, AdmitError> { tenant.account.wait(depth).map_err(reached("queue_depth", depth)) };
        let of_version = match of_version.or_else(|| version.permits.try_acquire()) {
            Some(permit) => permit,
            None => {
                let _waiting = waiting()?;
                version.permits.acquire(until, queue_ms).await?
            }
        };
        let of_server = match self.server.try_acquire(&version.tenant) {
            Some(permit) => permit,
            None => {
                let _waiting = (waiting()?, version.permits.wait_as_holder());
                self.server.acquire(&version.tenant, until).await?
            }
        };
        Ok(Permits { in_flight, server: ServerPlace::Own(of_server), version: of_version })
    }
}
