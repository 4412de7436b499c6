//! A guest that is running: a future that ends when the guest does, and a channel for its response.
//!
//! Nothing but polls of the future advances the guest, and dropping the future cancels it. So code that waits for the
//! response must poll the guest meanwhile.

use crate::worker::body_end::OutgoingBody;
use gannet_base::hop::Fault;
use http::Response;
use std::pin::Pin;
use tokio::sync::oneshot;

/// How a guest ended.
pub(crate) type GuestOutcome = Result<(), Fault>;
/// Runs a guest to its end.
pub(crate) type GuestFuture = Pin<Box<dyn Future<Output = GuestOutcome> + Send>>;
/// The response that a guest hands over, or the name of the error that it hands over instead.
pub(crate) type GuestResponse = Result<Response<OutgoingBody>, String>;

/// A guest that advances while its future is polled.
pub(crate) struct RunningGuest {
    pub(crate) future: GuestFuture,
    pub(crate) response: oneshot::Receiver<GuestResponse>,
}
