//! Gathers a response's body for a moment. Almost every body ends within that time, and so does its guest.
//!
//! In: the guest's response. Out: one message with its receipt in the head, or the beginning of a stream. Nothing is
//! sent before that, so a guest that fails while its body is gathered gets an error response.

use crate::worker::body_end::OutgoingBody;
use crate::worker::response::body::{HopResponse, ResponseBody};
use crate::worker::response::context::ResponseContext;
use crate::worker::response::error_response::{cancel, fail};
use crate::worker::response::faults::{broken_body, too_many_trailers, wrong_length};
use crate::worker::response::run_on::run_on;
use crate::worker::response::streaming::StreamingBody;
use crate::worker::running_guest::{GuestFuture, GuestOutcome};
use bytes::{Bytes, BytesMut};
use gannet_base::headers::announced_length;
use gannet_base::hop::heads::{ResponseHead, may_have_body};
use gannet_base::hop::{FaultCode, WorkReport};
use gannet_base::trailers::{FIELDS_MAX, clean, declaration};
use http::header::TRAILER;
use http::response::Parts;
use http::{HeaderMap, Response};
use http_body_util::BodyExt;
use std::time::Duration;

/// How long a body is gathered before it is streamed.
const GATHER_MAX: Duration = Duration::from_millis(2);
/// A longer body is streamed.
const GATHER_BYTES_MAX: usize = 1024 * 1024;
/// Limit on the headers of a response.
const HEADERS_MAX: usize = 128;

/// The parts of a body, joined. A single part, the usual case, is not copied.
#[derive(Default)]
struct GatheredBody {
    single: Option<Bytes>,
    joined: BytesMut,
}

impl GatheredBody {
    fn push(&mut self, data: Bytes) {
        if self.single.is_none() && self.joined.is_empty() {
            self.single = Some(data);
            return;
        }
        if let Some(first) = self.single.take() {
            self.joined.extend_from_slice(&first);
        }
        self.joined.extend_from_slice(&data);
    }

    fn len(&self) -> usize {
        self.single.as_ref().map_or(self.joined.len(), Bytes::len)
    }

    fn into_bytes(self) -> Bytes {
        self.single.unwrap_or_else(|| self.joined.freeze())
    }
}

/// Gathers the body of a guest's response, while it polls the guest.
pub(super) async fn gather(
    context: ResponseContext,
    mut guest: GuestFuture,
    mut outcome: Option<GuestOutcome>,
    response: Response<OutgoingBody>,
) -> HopResponse {
    let (mut head, mut body) = response.into_parts();
    // The front door could not read such a head, and the receipt in it would be lost.
    if head.status.is_informational() || head.headers.len() > HEADERS_MAX {
        let (status, count) = (head.status.as_u16(), head.headers.len());
        drop(body);
        let detail = format!(
            "the function responded with status {status} and {count} headers; there must be at most {HEADERS_MAX}, and no status below 200"
        );
        return cancel(context, guest, FaultCode::FunctionTrapped, &detail).await;
    }
    remove_platform_headers(&mut head.headers);
    let sends_body = context.wants_body && may_have_body(head.status);
    let announced = match announced_length(&head.headers) {
        Ok(length) => length.filter(|_| sends_body),
        Err(error) => {
            drop(body);
            return cancel(context, guest, FaultCode::FunctionTrapped, &format!("the function's {error}")).await;
        }
    };
    let mut gathered = GatheredBody::default();
    let mut trailers: Option<HeaderMap> = None;
    let mut body_ended = false;
    let timeout = tokio::time::sleep(GATHER_MAX);
    tokio::pin!(timeout);
    while !(body_ended && outcome.is_some()) && gathered.len() < GATHER_BYTES_MAX {
        tokio::select! {
            biased;
            frame = body.frame(), if !body_ended => match frame {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => gathered.push(data),
                    Err(frame) => trailers = frame.into_trailers().ok(),
                },
                // Without a body its length says how long it would be, and the guest need not write it.
                Some(Err(_)) if !sends_body => body_ended = true,
                Some(Err(error)) => {
                    let failure = outcome.and_then(Result::err).unwrap_or_else(|| broken_body(&error));
                    return cancel(context, guest, failure.code, &failure.detail).await;
                }
                None => body_ended = true,
            },
            ended = &mut guest, if outcome.is_none() => outcome = Some(ended),
            () = &mut timeout => break,
        }
    }
    let gathered = gathered.into_bytes();
    let length = gathered.len() as u64;
    let differs = announced.is_some_and(|announced| if body_ended { length != announced } else { length > announced });
    if let Some(announced) = announced.filter(|_| differs && !matches!(outcome, Some(Err(_)))) {
        drop(body);
        let fault = wrong_length(announced, length);
        return cancel(context, guest, fault.code, &fault.detail).await;
    }
    if let Some(fields) = &mut trailers {
        if fields.len() > FIELDS_MAX {
            drop(body);
            let fault = too_many_trailers(fields.len());
            return cancel(context, guest, fault.code, &fault.detail).await;
        }
        clean(fields);
    }
    let trailers = trailers.filter(|fields| announced.is_none() && !fields.is_empty());
    if let Some(declared) = trailers.as_ref().and_then(|fields| declaration(fields.keys())) {
        // HTTP/1.1 passes only those that the head names.
        head.headers.insert(TRAILER, declared);
    }
    match (body_ended, outcome) {
        (true, Some(Ok(()))) => {
            let report = context.receipt(None);
            respond(head, Some(report), ResponseBody::Complete(gathered, trailers))
        }
        (true, None) => {
            tokio::spawn(run_on(context, guest));
            respond(head, None, ResponseBody::Complete(gathered, trailers))
        }
        // A trap ends the guest's body too, so a body that ended with a trap may be incomplete.
        (_, Some(Err(failure))) => fail(context, failure.code, &failure.detail).await,
        (false, outcome) => {
            let streaming = StreamingBody::new(context, guest, outcome, (gathered, body, announced, trailers));
            respond(head, None, ResponseBody::Streaming(Box::new(streaming)))
        }
    }
}

fn respond(head: Parts, report: Option<WorkReport>, body: ResponseBody) -> HopResponse {
    let head = ResponseHead { status: head.status, failed: false, report, headers: head.headers };
    HopResponse { head, body }
}

/// Removes the headers that only the platform may set.
fn remove_platform_headers(headers: &mut HeaderMap) {
    let reserved: Vec<_> = headers.keys().filter(|name| name.as_str().starts_with("x-gannet-")).cloned().collect();
    for name in reserved {
        headers.remove(name);
    }
}
