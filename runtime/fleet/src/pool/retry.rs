//! Decides whether a request whose worker ended may be sent to another worker: once, and only if that can do no harm.
//!
//! Either nothing of it was sent, so no guest instruction ran. Or its method is idempotent (RFC 9110, 9.2.2) and it has
//! no body, so it is still complete. A guest that has sent outbound HTTP, called a sibling or changed something on the
//! platform may have had an effect elsewhere, so `exchange` does not ask for such a request.

use crate::pool::request::{BodyState, HopRequest, RequestBody};
use std::sync::Arc;

/// A request, and the state of its body.
pub(super) type ResendableRequest = (HopRequest, Arc<BodyState>);

/// State of the retry of one request: whether it was used.
#[derive(Debug, Default)]
pub(super) struct RetryOnce {
    used: bool,
}

impl RetryOnce {
    /// Returns what to send to the next worker; `None` if the request may not be sent again. `begun` says whether a
    /// part of it was sent.
    pub(super) fn take(&mut self, (request, state): ResendableRequest, begun: bool) -> Option<ResendableRequest> {
        if std::mem::replace(&mut self.used, true) {
            return None;
        }
        if !begun {
            return Some((request, state));
        }
        let HopRequest { frame, repeatable, .. } = request;
        repeatable.then(|| {
            let (body, state) = RequestBody::empty();
            (HopRequest { frame, body, repeatable }, state)
        })
    }
}
