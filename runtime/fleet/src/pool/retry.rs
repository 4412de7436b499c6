//! Decides whether a request whose worker ended may be sent to another worker: once, and only if that can do no harm.
//!
//! Either nothing of it was sent, so no guest instruction ran. Or its method is idempotent (RFC 9110, 9.2.2) and it has
//! no body, so it is still complete. A guest that has sent outbound HTTP may have changed something elsewhere, so
//! `exchange` does not ask for such a request.

use crate::pool::request::{BodyState, RequestBody};
use http::Request;
use std::sync::Arc;

/// A request, and the state of its body.
pub(super) type ResendableRequest = (Request<RequestBody>, Arc<BodyState>);

/// State of the retry of one request: its head, and whether the retry was used.
#[derive(Debug)]
pub(super) struct RetryOnce {
    /// The head of the request, if it may be sent again after parts of it were sent.
    head: Option<Request<()>>,
    used: bool,
}

impl RetryOnce {
    pub(super) fn of(request: &Request<RequestBody>) -> Self {
        let repeatable = request.method().is_idempotent() && http_body::Body::is_end_stream(request.body());
        let head = repeatable.then(|| {
            let mut head = Request::new(());
            request.method().clone_into(head.method_mut());
            request.uri().clone_into(head.uri_mut());
            *head.version_mut() = request.version();
            request.headers().clone_into(head.headers_mut());
            head
        });
        Self { head, used: false }
    }

    /// Returns what to send to the next worker; `None` if the request may not be sent again. `unsent` is the request
    /// itself, if nothing of it was sent.
    pub(super) fn take(&mut self, unsent: Option<ResendableRequest>) -> Option<ResendableRequest> {
        if std::mem::replace(&mut self.used, true) {
            return None;
        }
        unsent.or_else(|| {
            let (body, state) = RequestBody::empty();
            Some((self.head.take()?.map(|()| body), state))
        })
    }
}
