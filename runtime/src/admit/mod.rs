//! Step 4: whether a request may run now: rates, what may still be spent, places, after a bounded and fair wait; then the tab
//! is opened.
//!
//! ```text
//!  rate of the key and the tenant, or of the address ─▶ spend, GPU time of the day ─▶ in flight
//!     429                                                402 429                       429
//!  ─▶ a place of the version ─▶ a place of the server ─▶ tab ─▶ pool
//!     429 503, waits             503, waits, fairly
//! ```
//!
//! Each wait ends with a place, at `queue_ms`, or at the request's deadline. Places are held until the last byte of the
//! response has left.

pub mod account;
pub mod address;
pub mod fair;
mod gate;
pub mod rate;

pub use gate::{Gate, Node};

use crate::auth::Caller;
use crate::config::Live;
use crate::inbound::Inbound;
use crate::meter::{Ledger, Tab};
use crate::pool::Pool;
use crate::respond::{Refused, ResponseBody, rate_headers};
use crate::route::Target;
use account::Counted;
use address::Addresses;
use gate::{NodePlace, until};
use http::Response;
use jiff::Timestamp;
use rate::{Rate, Standing};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::OwnedSemaphorePermit;

/// Why a request was not admitted.
#[derive(Debug, thiserror::Error)]
pub enum AdmitError {
    /// Too many in too short a time.
    #[error("{whose} may send {} requests a second and {} at once", rate.per_s, rate.burst)]
    TooFast {
        /// Whose rate it is.
        whose: &'static str,
        /// The rate.
        rate: Rate,
        /// When there is a place again.
        wait: Duration,
    },
    /// A limit of the tenant's that is used up.
    #[error("{name} = {limit}; in use: {used}")]
    LimitReached {
        /// The limit's name.
        name: &'static str,
        /// The limit.
        limit: u64,
        /// What is used.
        used: u64,
        /// When to come again.
        wait_s: u64,
    },
    /// Nothing more may be spent.
    #[error("spend_micro_units_per_month = {limit}; spent in this month: {spent}")]
    SpendLimit {
        /// The limit.
        limit: u64,
        /// What was spent.
        spent: u64,
    },
    /// No place became free in time.
    #[error(
        "no place became free within limits.queue_ms = {queue_ms}; the function runs limits.concurrency = {concurrency} requests at once"
    )]
    WaitedTooLong {
        /// How long it waited.
        queue_ms: u64,
        /// How many run.
        concurrency: u64,
    },
    /// The server as a whole is full.
    // How many it serves is no tenant's business.
    #[error("the server is full")]
    NodeFull,
    /// What is used could not be written down.
    #[error("the ledger does not keep up: {0}")]
    LedgerBehind(&'static str),
}

/// What a request holds from here to its last byte.
#[derive(Debug)]
pub struct Admitted {
    /// What it is charged on.
    pub tab: Tab,
    /// Given back when this is dropped.
    pub places: (Counted, NodePlace, OwnedSemaphorePermit),
}

/// Rates of addresses, for whoever has no key or a wrong one.
#[derive(Debug, Default)]
pub struct Strangers {
    /// Requests without a key.
    pub anonymous: Addresses,
    /// Wrong keys.
    pub refused: Addresses,
}

/// The step.
#[derive(Debug)]
pub struct Admit {
    node: Arc<Node>,
    ledger: Arc<Ledger>,
    live: Live,
    strangers: Arc<Strangers>,
    next: Pool,
}

/// Seconds until the next day, UTC.
fn to_midnight(now: Timestamp) -> u64 {
    u64::try_from(86_400 - now.as_second().rem_euclid(86_400)).unwrap_or(1)
}

impl Admit {
    /// The step, with the next one inside it.
    pub fn new(node: Arc<Node>, ledger: Arc<Ledger>, live: Live, strangers: Arc<Strangers>, next: Pool) -> Self {
        Self { node, ledger, live, strangers, next }
    }

    /// Admits the request and sends it on.
    pub async fn call(
        &self,
        inbound: Inbound,
        caller: &Caller,
        target: Target,
    ) -> Result<Response<ResponseBody>, Refused> {
        let began = Instant::now();
        let limits = &target.version.limits;
        if let Err(error) = inbound.check_length(limits.body_mib.saturating_mul(1 << 20)) {
            crate::inbound::discard(inbound.body).await;
            return Err(error.into());
        }
        let (rate, standing) = self.check_rate(caller, inbound.client, &target, began)?;
        self.check_spent(&target, Timestamp::now())?;
        let deadline = inbound.arrived + Duration::from_millis(limits.timeout_ms);
        let places = self.places(&target, deadline.into()).await?;
        let mut tab = Tab::open(&self.ledger, inbound.id, &target);
        tab.note(|receipt| receipt.admit_us = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX));
        let mut response = self.next.call(inbound, target, Admitted { tab, places }).await?;
        rate_headers(response.headers_mut(), rate, standing);
        Ok(response)
    }

    /// The narrowest rate that the caller has, and how it stands.
    fn check_rate(
        &self,
        caller: &Caller,
        client: IpAddr,
        target: &Target,
        now: Instant,
    ) -> Result<(Rate, Standing), AdmitError> {
        let limits = &target.tenant.limits;
        let stranger = match caller {
            Caller::Anonymous => true,
            Caller::Tenant(key) => key.record.tenant != target.version.tenant,
            Caller::Operator => false,
        };
        let mut own_standing = None;
        if stranger {
            let rate = Rate::per_s(self.live.load().edge.anonymous_per_s);
            let whose = "an address without a key of the tenant";
            let standing = self.strangers.anonymous.take(client, rate, now);
            let standing = standing.map_err(|wait| AdmitError::TooFast { whose, rate, wait })?;
            own_standing = Some((rate, standing));
        }
        let own = match caller {
            Caller::Tenant(key) if !stranger => key.record.requests_per_s.map(|per_s| (Rate::per_s(per_s), &key.rate)),
            _ => None,
        };
        let narrow = own
            .map(|(rate, bucket)| match bucket.take(rate, now) {
                Ok(standing) => Ok((rate, standing)),
                Err(wait) => Err(AdmitError::TooFast { whose: "this key", rate, wait }),
            })
            .transpose()?;
        let rate = Rate { per_s: limits.requests_per_s, burst: limits.requests_burst };
        let whose = "the tenant";
        let wide = target.tenant.account.rate.take(rate, now);
        let standing = wide.map_err(|wait| AdmitError::TooFast { whose, rate, wait })?;
        // How the tenant stands is none of a stranger's business.
        Ok(narrow.or(own_standing).unwrap_or((rate, standing)))
    }

    /// Refuses what could not be written down, or may not be spent.
    fn check_spent(&self, target: &Target, now: Timestamp) -> Result<(), AdmitError> {
        self.ledger.check().map_err(AdmitError::LedgerBehind)?;
        let limits = &target.tenant.limits;
        let spent = target.tenant.account.spent(now);
        if spent.micro_units >= limits.spend_micro_units_per_month {
            return Err(AdmitError::SpendLimit { limit: limits.spend_micro_units_per_month, spent: spent.micro_units });
        }
        let gpu_ms = spent.gpu_ns / 1_000_000;
        if gpu_ms >= limits.gpu_ms_per_day {
            return Err(AdmitError::LimitReached {
                name: "gpu_ms_per_day",
                limit: limits.gpu_ms_per_day,
                used: gpu_ms,
                wait_s: to_midnight(now),
            });
        }
        Ok(())
    }

    async fn places(
        &self,
        target: &Target,
        deadline: tokio::time::Instant,
    ) -> Result<(Counted, NodePlace, OwnedSemaphorePermit), AdmitError> {
        let (tenant, version) = (&target.tenant, &target.version);
        let reached = |name, limit| move |used| AdmitError::LimitReached { name, limit, used: used as u64, wait_s: 1 };
        let concurrency = tenant.limits.concurrency;
        let counted = tenant.account.enter(concurrency).map_err(reached("concurrency", concurrency))?;
        let queue_ms = version.limits.queue_ms;
        let until = until(queue_ms, deadline);
        let depth = tenant.limits.queue_depth;
        let place = match version.gate.try_enter() {
            Some(place) => place,
            None => {
                let _waiting = tenant.account.wait(depth).map_err(reached("queue_depth", depth))?;
                version.gate.enter(until, queue_ms).await?
            }
        };
        let node = match self.node.try_enter(&version.tenant) {
            Some(node) => node,
            None => {
                let _waiting = tenant.account.wait(depth).map_err(reached("queue_depth", depth))?;
                self.node.enter(&version.tenant, until).await?
            }
        };
        Ok((counted, node, place))
    }
}
