//! The heads of requests and responses on the hop: encoding and decoding.
//!
//! ```text
//!  head of a request  = version u64 | request id 16 bytes | deadline in ms u64 | caps | depth u8 | method
//!                       | path and query | headers
//!  caps               = 0 u8 (none), or 1 u8 | CPU time, GPU time, time, each in ms u64
//!  head of a response = status u16 | failed u8 | report | headers
//!  trailers           = headers
//! ```
//!
//! Numbers are little-endian. Texts are preceded by their length in bytes (u32), headers by their number (u16). Names
//! and values are checked by the `http` crate, because a worker may be hostile.

use crate::hop::frames::{FrameError, PREFIX_BYTES, begin, finish_trailers};
use crate::hop::{Fault, FaultCode, RequestCaps, VersionKey, WorkReport};
use crate::names::RequestId;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri};

/// Limit on the headers of a head.
const HEADERS_MAX: usize = 512;
/// Offset of the deadline in an encoded request.
const DEADLINE_AT: usize = PREFIX_BYTES + 8 + 16;
/// Headers for which a decoded head has room. The front door adds that many, and growing a map later moves what it has.
const HEADERS_ADDED: usize = 8;

/// The head of a request to a worker.
#[derive(Debug)]
pub struct RequestHead {
    /// The version that runs.
    pub version: VersionKey,
    /// The id of the request.
    pub request: RequestId,
    /// Time until the head of the response must be there, in milliseconds.
    pub deadline_ms: u64,
    /// What the request may use, if not what its version's limits say.
    pub caps: Option<RequestCaps>,
    /// How many calls by functions led to it; 0 if a client or a job sent it.
    pub depth: u8,
    /// The method.
    pub method: Method,
    /// Path and query.
    pub uri: Uri,
    /// The headers that the guest gets.
    pub headers: HeaderMap,
}

/// The head of a worker's response.
#[derive(Debug)]
pub struct ResponseHead {
    /// The status that the guest returned.
    pub status: StatusCode,
    /// Whether the guest failed: then the response is not the guest's, and the report has the fault.
    pub failed: bool,
    /// What the request used, if it has ended. Otherwise the report follows as a frame on the control socket.
    pub report: Option<WorkReport>,
    /// The headers.
    pub headers: HeaderMap,
}

impl ResponseHead {
    /// Whether it can have a body, judging by its status.
    pub fn may_have_body(&self) -> bool {
        may_have_body(self.status)
    }
}

impl ResponseHead {
    /// Whether it can have a length, judging by its status (RFC 9110, 8.6).
    pub fn may_have_length(&self) -> bool {
        may_have_length(self.status)
    }
}

/// Whether a response with this status can say how long its body is, or would be (RFC 9110, 8.6).
pub fn may_have_length(status: StatusCode) -> bool {
    status != StatusCode::NO_CONTENT
}

/// Whether a response with this status can have a body (RFC 9110, 6.4.1).
pub fn may_have_body(status: StatusCode) -> bool {
    !matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
}

/// Encodes the head of a request as a frame that has no data yet; see [`finish`](super::frames::finish).
pub fn encode_request(head: &RequestHead) -> BytesMut {
    let mut out = begin();
    out.put_u64_le(head.version);
    out.put_slice(&head.request.to_bytes());
    out.put_u64_le(head.deadline_ms);
    match head.caps {
        Some(RequestCaps { cpu_ms, gpu_time_ms, timeout_ms }) => {
            out.put_u8(1);
            for number in [cpu_ms, gpu_time_ms, timeout_ms] {
                out.put_u64_le(number);
            }
        }
        None => out.put_u8(0),
    }
    out.put_u8(head.depth);
    put_text(&mut out, head.method.as_str().as_bytes());
    put_text(&mut out, head.uri.path_and_query().map_or("/", |path| path.as_str()).as_bytes());
    put_headers(&mut out, &head.headers);
    out
}

/// Encodes the head of a response as a frame that has no data yet; see [`finish`](super::frames::finish).
pub fn encode_response(head: &ResponseHead) -> BytesMut {
    let mut out = begin();
    out.put_u16_le(head.status.as_u16());
    out.put_u8(u8::from(head.failed));
    match &head.report {
        Some(report) => {
            out.put_u8(1);
            put_report(&mut out, report);
        }
        None => out.put_u8(0),
    }
    put_headers(&mut out, &head.headers);
    out
}

/// Encodes trailers as a frame, which ends its message.
pub fn encode_trailers(trailers: &HeaderMap) -> BytesMut {
    let mut out = begin();
    put_headers(&mut out, trailers);
    finish_trailers(&mut out);
    out
}

/// Decodes trailers.
pub fn decode_trailers(trailers: Bytes) -> Result<HeaderMap, FrameError> {
    Input(trailers).headers()
}

/// Changes the deadline of an encoded request, for when it is sent to another worker.
pub fn set_deadline(frame: &mut BytesMut, deadline_ms: u64) {
    if let Some(place) = frame.get_mut(DEADLINE_AT..DEADLINE_AT + 8) {
        place.copy_from_slice(&deadline_ms.to_le_bytes());
    }
}

fn put_text(out: &mut BytesMut, text: &[u8]) {
    out.put_u32_le(u32::try_from(text.len()).unwrap_or(u32::MAX));
    out.put_slice(text);
}

fn put_headers(out: &mut BytesMut, headers: &HeaderMap) {
    out.put_u16_le(u16::try_from(headers.len()).unwrap_or(u16::MAX));
    for (name, value) in headers {
        put_text(out, name.as_str().as_bytes());
        put_text(out, value.as_bytes());
    }
}

fn put_report(out: &mut BytesMut, report: &WorkReport) {
    let numbers = [
        report.start_ns,
        report.guest_ns,
        report.kernels_ns,
        report.gpu_ns,
        report.slices,
        report.gpu_wait_ns,
        report.assets_ns,
        report.io_ns,
        report.gpu_memory_peak,
    ];
    for number in numbers {
        out.put_u64_le(number);
    }
    out.put_u8(u8::from(report.gpu_wall_clock) | u8::from(report.unsettled) << 1);
    match &report.fault {
        None => out.put_u8(0),
        Some(Fault { code, detail }) => {
            out.put_u8(match code {
                FaultCode::FunctionTrapped => 1,
                FaultCode::DeadlineExceeded => 2,
                FaultCode::MemoryLimit => 3,
                FaultCode::Unavailable => 4,
            });
            put_text(out, detail.as_bytes());
        }
    }
}

/// Decodes the head of a request.
pub fn decode_request(head: Bytes) -> Result<RequestHead, FrameError> {
    let mut input = Input(head);
    let version = input.u64("version")?;
    let id = input.take(16, "request id")?;
    let request = RequestId::from_bytes(id.as_ref().try_into().map_err(|_| FrameError::Invalid("request id"))?);
    let deadline_ms = input.u64("deadline")?;
    let caps = match input.u8("caps")? {
        0 => None,
        1 => {
            let (cpu_ms, gpu_time_ms) = (input.u64("caps")?, input.u64("caps")?);
            Some(RequestCaps { cpu_ms, gpu_time_ms, timeout_ms: input.u64("caps")? })
        }
        _ => return Err(FrameError::Invalid("caps")),
    };
    let depth = input.u8("depth")?;
    let method = Method::from_bytes(&input.text("method")?).map_err(|_| FrameError::Invalid("method"))?;
    let uri = Uri::from_maybe_shared(input.text("path")?).map_err(|_| FrameError::Invalid("path"))?;
    let headers = input.headers()?;
    Ok(RequestHead { version, request, deadline_ms, caps, depth, method, uri, headers })
}

/// Decodes the head of a response.
pub fn decode_response(head: Bytes) -> Result<ResponseHead, FrameError> {
    let mut input = Input(head);
    let status = StatusCode::from_u16(input.u16("status")?).map_err(|_| FrameError::Invalid("status"))?;
    let failed = input.u8("flag")? != 0;
    let report = match input.u8("flag")? {
        0 => None,
        _ => Some(input.report()?),
    };
    let headers = input.headers()?;
    if status.is_informational() {
        return Err(FrameError::Invalid("status"));
    }
    Ok(ResponseHead { status, failed, report, headers })
}

/// A head that is being decoded.
struct Input(Bytes);

impl Input {
    fn take(&mut self, length: usize, part: &'static str) -> Result<Bytes, FrameError> {
        if self.0.len() < length { Err(FrameError::Truncated(part)) } else { Ok(self.0.split_to(length)) }
    }

    fn u8(&mut self, part: &'static str) -> Result<u8, FrameError> {
        self.0.try_get_u8().map_err(|_| FrameError::Truncated(part))
    }

    fn u16(&mut self, part: &'static str) -> Result<u16, FrameError> {
        self.0.try_get_u16_le().map_err(|_| FrameError::Truncated(part))
    }

    fn u64(&mut self, part: &'static str) -> Result<u64, FrameError> {
        self.0.try_get_u64_le().map_err(|_| FrameError::Truncated(part))
    }

    fn text(&mut self, part: &'static str) -> Result<Bytes, FrameError> {
        let length = self.0.try_get_u32_le().map_err(|_| FrameError::Truncated(part))?;
        self.take(length as usize, part)
    }

    fn headers(&mut self) -> Result<HeaderMap, FrameError> {
        let count = usize::from(self.u16("headers")?);
        if count > HEADERS_MAX {
            return Err(FrameError::TooLong { what: "number of headers", length: count, limit: HEADERS_MAX });
        }
        let mut headers = HeaderMap::with_capacity(count + HEADERS_ADDED);
        for _ in 0..count {
            let name = HeaderName::from_bytes(&self.text("header")?).map_err(|_| FrameError::Invalid("header name"))?;
            let value = HeaderValue::from_maybe_shared(self.text("header")?)
                .map_err(|_| FrameError::Invalid("header value"))?;
            headers.append(name, value);
        }
        if self.0.is_empty() { Ok(headers) } else { Err(FrameError::Invalid("end of a head")) }
    }

    fn report(&mut self) -> Result<WorkReport, FrameError> {
        let mut numbers = [0; 9];
        for number in &mut numbers {
            *number = self.u64("report")?;
        }
        let [start_ns, guest_ns, kernels_ns, gpu_ns, slices, gpu_wait_ns, assets_ns, io_ns, gpu_memory_peak] = numbers;
        let flags = self.u8("report")?;
        let (gpu_wall_clock, unsettled) = (flags & 1 != 0, flags & 2 != 0);
        let code = match self.u8("report")? {
            0 => None,
            1 => Some(FaultCode::FunctionTrapped),
            2 => Some(FaultCode::DeadlineExceeded),
            3 => Some(FaultCode::MemoryLimit),
            4 => Some(FaultCode::Unavailable),
            _ => return Err(FrameError::Invalid("fault")),
        };
        let fault = match code {
            None => None,
            Some(code) => {
                let detail = String::from_utf8(self.text("fault")?.into()).map_err(|_| FrameError::Invalid("fault"))?;
                Some(Fault { code, detail })
            }
        };
        Ok(WorkReport {
            start_ns,
            guest_ns,
            kernels_ns,
            gpu_ns,
            slices,
            gpu_wait_ns,
            assets_ns,
            io_ns,
            gpu_memory_peak,
            gpu_wall_clock,
            unsettled,
            fault,
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::hop::frames::{Decoder, Part, data_prefix, finish};
    use proptest::prelude::*;

    fn message(head: BytesMut, data: &[&[u8]]) -> BytesMut {
        let mut out = head;
        let first = data.first().copied().unwrap_or_default();
        finish(&mut out, first.len(), data.len() <= 1);
        out.put_slice(first);
        for (at, part) in data.iter().enumerate().skip(1) {
            out.put_slice(&data_prefix(part.len(), at + 1 == data.len()));
            out.put_slice(part);
        }
        out
    }

    /// Feeds a stream in pieces of `piece` bytes; returns the heads, and the data of each message.
    fn read(stream: &[u8], piece: usize) -> Result<Vec<(Bytes, Vec<u8>)>, FrameError> {
        let (mut decoder, mut arrived, mut messages) = (Decoder::default(), BytesMut::new(), Vec::new());
        let mut open: Option<(Bytes, Vec<u8>)> = None;
        for bytes in stream.chunks(piece.max(1)) {
            arrived.put_slice(bytes);
            while let Some(part) = decoder.next(&mut arrived)? {
                match part {
                    Part::Head(head) => open = Some((head, Vec::new())),
                    Part::Data(data) => open.as_mut().unwrap().1.extend_from_slice(&data),
                    // As data, so that the test sees them.
                    Part::Trailers(trailers) => {
                        let trailers = decode_trailers(trailers)?;
                        open.as_mut().unwrap().1.extend_from_slice(format!("{trailers:?}").as_bytes());
                    }
                    Part::End => messages.extend(open.take()),
                }
            }
        }
        Ok(messages)
    }

    fn headers(pairs: &[(String, Vec<u8>)]) -> HeaderMap {
        let pairs = pairs.iter().filter_map(|(name, value)| {
            Some((HeaderName::from_bytes(name.as_bytes()).ok()?, HeaderValue::from_bytes(value).ok()?))
        });
        pairs.collect()
    }

    proptest! {
        #[test]
        fn messages_are_the_same_after_the_hop(
            pairs in prop::collection::vec(("[a-z][a-z0-9-]{0,12}", prop::collection::vec(any::<u8>(), 0..20)), 0..8),
            data in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..50), 0..4),
            (version, deadline_ms, status) in (any::<u64>(), any::<u64>(), 200u16..600),
            (report, fault, piece) in (any::<[u64; 9]>(), any::<Option<String>>(), 1usize..200),
            caps in any::<Option<[u64; 3]>>(),
        ) {
            let sent = RequestHead {
                version,
                request: RequestId::new(),
                deadline_ms: 0,
                caps: caps.map(|[cpu_ms, gpu_time_ms, timeout_ms]| RequestCaps { cpu_ms, gpu_time_ms, timeout_ms }),
                depth: status.to_le_bytes()[0],
                method: Method::POST,
                uri: "/a/b?c=d".parse().unwrap(),
                headers: headers(&pairs),
            };
            let [start_ns, guest_ns, kernels_ns, gpu_ns, slices, gpu_wait_ns, assets_ns, io_ns, gpu_memory_peak] = report;
            let work = WorkReport {
                start_ns, guest_ns, kernels_ns, gpu_ns, slices, gpu_wait_ns, assets_ns, io_ns, gpu_memory_peak,
                gpu_wall_clock: version % 2 == 0,
                unsettled: version % 5 == 0,
                fault: fault.map(|detail| Fault { code: FaultCode::MemoryLimit, detail }),
            };
            let answer = ResponseHead {
                status: StatusCode::from_u16(status).unwrap(),
                failed: version % 3 == 0,
                report: (deadline_ms % 2 == 0).then_some(work),
                headers: headers(&pairs),
            };
            let parts: Vec<&[u8]> = data.iter().map(Vec::as_slice).collect();
            let mut request = encode_request(&sent);
            set_deadline(&mut request, deadline_ms);
            let mut stream = message(request, &parts);
            stream.extend_from_slice(&message(encode_response(&answer), &parts));
            let messages = read(&stream, piece).unwrap();
            prop_assert_eq!(messages.len(), 2);
            for (_, arrived) in &messages {
                prop_assert_eq!(arrived, &data.concat());
            }
            let request = decode_request(messages[0].0.clone()).unwrap();
            prop_assert_eq!((request.version, request.request, request.deadline_ms), (version, sent.request, deadline_ms));
            prop_assert_eq!((request.caps, request.depth), (sent.caps, sent.depth));
            prop_assert_eq!((request.method, request.uri, request.headers), (sent.method, sent.uri, sent.headers));
            let response = decode_response(messages[1].0.clone()).unwrap();
            prop_assert_eq!((response.status, response.failed), (answer.status, answer.failed));
            prop_assert_eq!((response.report, response.headers), (answer.report, answer.headers));
        }

        #[test]
        fn trailers_follow_the_data_and_end_the_message(
            pairs in prop::collection::vec(("[a-z][a-z0-9-]{0,12}", prop::collection::vec(any::<u8>(), 0..20)), 0..8),
            piece in 1usize..200,
        ) {
            let head = ResponseHead { status: StatusCode::OK, failed: false, report: None, headers: HeaderMap::new() };
            let trailers = headers(&pairs);
            let mut frame = encode_response(&head);
            finish(&mut frame, 4, false);
            let one = [&frame[..], b"data", &encode_trailers(&trailers)].concat();
            let messages = read(&[one.clone(), one].concat(), piece).unwrap();
            prop_assert_eq!(messages.len(), 2);
            for (_, arrived) in messages {
                prop_assert_eq!(arrived, format!("data{trailers:?}").into_bytes());
            }
        }

        #[test]
        fn bytes_of_a_hostile_worker_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), piece in 1usize..50) {
            let _ = read(&bytes, piece);
            let _ = decode_request(bytes.clone().into());
            let _ = decode_response(bytes.clone().into());
            let _ = decode_trailers(bytes.into());
        }

        #[test]
        fn a_message_with_any_byte_changed_never_panics(at in 0usize..200, byte in any::<u8>()) {
            let head = ResponseHead {
                status: StatusCode::OK,
                failed: false,
                report: Some(WorkReport::default()),
                headers: headers(&[("a".into(), b"b".to_vec())]),
            };
            let mut stream = message(encode_response(&head), &[b"data", b"more"]);
            let at = at % stream.len();
            stream[at] = byte;
            if let Ok(messages) = read(&stream, 7) {
                for (head, _) in messages {
                    let _ = decode_response(head);
                }
            }
        }
    }
}
