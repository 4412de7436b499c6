//! The response to the front door: a head, and a body that is complete or is streamed while its guest runs.

use crate::worker::response::streaming::StreamingBody;
use bytes::Bytes;
use gannet_base::hop::heads::ResponseHead;
use http::HeaderMap;

/// The response to the front door.
pub(crate) struct HopResponse {
    /// Its head, with the receipt if the request has ended.
    pub(crate) head: ResponseHead,
    /// Its body.
    pub(crate) body: ResponseBody,
}

/// The body of a response to the front door.
pub(crate) enum ResponseBody {
    /// All of it, and its trailers. Trailers are for a body without announced length.
    Complete(Bytes, Option<HeaderMap>),
    /// The beginning, and the guest that makes the rest.
    Streaming(Box<StreamingBody>),
}
