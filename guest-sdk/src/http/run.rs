//! Runs a handler for one request, from its arrival to the last byte of its response.

use super::into_response::IntoResponse;
use super::request::Request;
use super::response::Response;
use crate::bindings::wasi::http::types::{IncomingRequest, ResponseOutparam};
use crate::error::Error;

/// Runs a handler for one request. Called by the code that [`crate::handler`] generates.
#[doc(hidden)]
pub fn run<T: IntoResponse>(request: IncomingRequest, out: ResponseOutparam, handler: impl FnOnce(Request) -> T) {
    let response = match Request::receive(&request) {
        Ok(received) => handler(received).into_response(),
        Err(error) => Response::from_error(&Error::new(400, format!("the body broke off: {error}"))),
    };
    if let Err(error) = response.send(out) {
        // The head was sent as a rule, so the body is cut off, and only the log can report the reason.
        #[expect(clippy::print_stderr, reason = "a function's log")]
        {
            eprintln!("the response could not be sent: {error}");
        }
    }
}
