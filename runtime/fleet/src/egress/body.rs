//! Bodies of outbound HTTP. Their bytes are counted in both directions. A response body also has a size limit and an
//! idle timeout, and it holds the permit of its call until it is dropped.

use bytes::Bytes;
use gannet_base::bill::outbound::OutboundUse;
use gannet_base::quota::account::TenantCounters;
use gannet_base::trailers;
use http_body::{Body, Frame, SizeHint};
use http_body_util::Full;
use hyper::body::Incoming;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Sleep;

/// Longest wait for the next part of a response body.
const IDLE_MAX: Duration = Duration::from_secs(30);

/// Why a body broke off.
#[derive(Debug, thiserror::Error)]
pub(super) enum OutboundBodyError {
    /// The connection failed or was closed.
    #[error(transparent)]
    Hyper(#[from] hyper::Error),
    /// The body is larger than its limit in bytes.
    #[error("the response body is larger than its limit of {0} bytes")]
    TooLarge(u64),
    /// The tenant's quota for the day, in MiB, is used up.
    #[error("the quota egress_mib_per_day = {0} is used up")]
    Spent(u64),
    /// More trailers follow the body than are passed on.
    #[error("more than {} trailers follow the body", trailers::FIELDS_MAX)]
    TooManyTrailers,
    /// No part of the body arrived for too long.
    #[error("no part of the body arrived for {} s", IDLE_MAX.as_secs())]
    Idle,
}

/// A tenant's quota of outbound HTTP per day, both directions together, and what it has used.
#[derive(Clone)]
pub(super) struct EgressBudget {
    pub(super) account: Arc<TenantCounters>,
    pub(super) mib: u64,
}

impl EgressBudget {
    /// Counts bytes for the request and for its tenant's quota.
    pub(super) fn count(&self, counter: &OutboundUse, bytes: usize) {
        counter.add_bytes(bytes as u64);
        self.account.add(jiff::Timestamp::now(), 0, bytes as u64, 0);
    }

    pub(super) fn is_spent(&self) -> bool {
        self.account.spent(jiff::Timestamp::now()).egress_bytes >> 20 >= self.mib
    }
}

/// What lets a call go out. It is kept until the body of the response is dropped.
pub(super) struct CallAllowance {
    /// The call's permit among the tenant's concurrent calls.
    pub(super) permit: OwnedSemaphorePermit,
    /// The tenant's quota, against which the bytes of the call are counted.
    pub(super) budget: EgressBudget,
    /// Its place on a connection that several calls share.
    pub(super) guard: Option<Box<dyn Send>>,
}

/// Where the bytes of a body come from.
enum Source {
    /// The guest, or the other side.
    Incoming(Incoming),
    /// Memory.
    Whole(Full<Bytes>),
}

impl Source {
    fn poll_frame(&mut self, context: &mut Context<'_>) -> Poll<Option<hyper::Result<Frame<Bytes>>>> {
        match self {
            Self::Incoming(body) => Pin::new(body).poll_frame(context),
            Self::Whole(body) => Pin::new(body).poll_frame(context).map_err(|never| match never {}),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Incoming(body) => body.is_end_stream(),
            Self::Whole(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Incoming(body) => body.size_hint(),
            Self::Whole(body) => body.size_hint(),
        }
    }
}

/// The body of an outbound request, or of its response.
pub(super) struct CountedBody {
    /// None for an empty one.
    body: Option<Source>,
    counter: Arc<OutboundUse>,
    budget: EgressBudget,
    left: u64,
    limit: u64,
    idle: Option<Pin<Box<Sleep>>>,
    /// Permit of the call; only the response's body has it.
    _permit: Option<(OwnedSemaphorePermit, Option<Box<dyn Send>>)>,
}

impl CountedBody {
    /// Wraps the body that a function sends. It has no idle timeout, because the time limits of the guest's request
    /// cover it.
    pub(super) fn request(body: Incoming, counter: Arc<OutboundUse>, budget: EgressBudget) -> Self {
        let body = Some(Source::Incoming(body));
        Self { body, counter, budget, left: u64::MAX, limit: u64::MAX, idle: None, _permit: None }
    }

    /// Returns a body of a request that is in memory.
    pub(super) fn whole(body: Bytes, counter: Arc<OutboundUse>, budget: EgressBudget) -> Self {
        let body = Some(Source::Whole(Full::new(body)));
        Self { body, counter, budget, left: u64::MAX, limit: u64::MAX, idle: None, _permit: None }
    }

    /// Returns an empty body of a request.
    pub(super) fn empty(counter: Arc<OutboundUse>, budget: EgressBudget) -> Self {
        Self { body: None, counter, budget, left: u64::MAX, limit: u64::MAX, idle: None, _permit: None }
    }

    /// Wraps the body of the response. `limit` is its size limit in bytes.
    pub(super) fn answer(
        body: Incoming,
        counter: Arc<OutboundUse>,
        limit: u64,
        CallAllowance { permit, budget, guard }: CallAllowance,
    ) -> Self {
        let idle = Some(Box::pin(tokio::time::sleep(IDLE_MAX)));
        let body = Some(Source::Incoming(body));
        Self { body, counter, budget, left: limit, limit, idle, _permit: Some((permit, guard)) }
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
        let Some(body) = &mut this.body else { return Poll::Ready(None) };
        match body.poll_frame(context) {
            Poll::Ready(Some(Ok(frame))) => {
                let frame = match frame.into_trailers() {
                    Ok(mut fields) => {
                        trailers::clean(&mut fields);
                        if fields.len() > trailers::FIELDS_MAX {
                            return Poll::Ready(Some(Err(OutboundBodyError::TooManyTrailers)));
                        }
                        this.budget.count(&this.counter, trailers::bytes(&fields));
                        return Poll::Ready(Some(Ok(Frame::trailers(fields))));
                    }
                    Err(frame) => frame,
                };
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
        self.body.as_ref().is_none_or(Source::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or_else(|| SizeHint::with_exact(0), Source::size_hint)
    }
}
