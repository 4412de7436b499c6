//! Bodies of outbound calls: counted both ways; answers capped, timed, and holding their permit until they have ended.

use bytes::Bytes;
use gannet_base::bill::outbound::OutboundUse;
use gannet_base::quota::account::TenantCounters;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Sleep;

/// From one part of an answer to the next.
const IDLE_MAX: Duration = Duration::from_secs(30);

/// Why a body broke off.
#[derive(Debug, thiserror::Error)]
pub(super) enum OutboundBodyError {
    /// The other side.
    #[error(transparent)]
    Hyper(#[from] hyper::Error),
    /// It is larger than it may be.
    #[error("the answer is larger than {0} bytes")]
    TooLarge(u64),
    /// The tenant's day is used up.
    #[error("egress_mib_per_day = {0}; all of it is used")]
    Spent(u64),
    /// Nothing came for too long.
    #[error("nothing came for {} s", IDLE_MAX.as_secs())]
    Idle,
}

/// What the tenant may send and receive in a day.
#[derive(Clone)]
pub(super) struct EgressBudget {
    pub(super) account: Arc<TenantCounters>,
    pub(super) mib: u64,
}

impl EgressBudget {
    /// Counts bytes, for the request and for its tenant's day.
    pub(super) fn count(&self, counter: &OutboundUse, bytes: usize) {
        counter.add_bytes(bytes as u64);
        self.account.add(jiff::Timestamp::now(), 0, bytes as u64, 0);
    }

    pub(super) fn is_spent(&self) -> bool {
        self.account.spent(jiff::Timestamp::now()).egress_bytes >> 20 >= self.mib
    }
}

/// A request's body, or an answer's.
pub(super) struct CountedBody {
    body: Incoming,
    counter: Arc<OutboundUse>,
    budget: EgressBudget,
    left: u64,
    limit: u64,
    idle: Option<Pin<Box<Sleep>>>,
    /// Held until the end.
    _permit: Option<OwnedSemaphorePermit>,
}

impl CountedBody {
    /// What a function sends. Its time is the request's.
    pub(super) fn request(body: Incoming, counter: Arc<OutboundUse>, budget: EgressBudget) -> Self {
        Self { body, counter, budget, left: u64::MAX, limit: u64::MAX, idle: None, _permit: None }
    }

    /// What comes back.
    pub(super) fn answer(
        body: Incoming,
        counter: Arc<OutboundUse>,
        limit: u64,
        (permit, budget): (OwnedSemaphorePermit, EgressBudget),
    ) -> Self {
        let idle = Some(Box::pin(tokio::time::sleep(IDLE_MAX)));
        Self { body, counter, budget, left: limit, limit, idle, _permit: Some(permit) }
    }
}

impl Body for CountedBody {
    type Data = Bytes;
    type Error = OutboundBodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, OutboundBodyError>>> {
        let this = &mut *self;
        match Pin::new(&mut this.body).poll_frame(context) {
            Poll::Ready(Some(Ok(frame))) => {
                let length = frame.data_ref().map_or(0, Bytes::len);
                this.budget.count(&this.counter, length);
                if length > 0 && this.budget.is_spent() {
                    return Poll::Ready(Some(Err(OutboundBodyError::Spent(this.budget.mib))));
                }
                if let Some(idle) = &mut this.idle {
                    idle.as_mut().reset(tokio::time::Instant::now() + IDLE_MAX);
                }
                match this.left.checked_sub(length as u64) {
                    Some(left) => this.left = left,
                    None => return Poll::Ready(Some(Err(OutboundBodyError::TooLarge(this.limit)))),
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(error))) => Poll::Ready(Some(Err(error.into()))),
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Pending => {
                let late = this.idle.as_mut().is_some_and(|idle| idle.as_mut().poll(context).is_ready());
                if late { Poll::Ready(Some(Err(OutboundBodyError::Idle))) } else { Poll::Pending }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
