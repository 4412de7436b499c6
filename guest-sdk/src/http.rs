//! Requests and responses.

use crate::bindings::wasi::http::types::{
    Fields, IncomingBody, IncomingRequest, Method, OutgoingBody, OutgoingResponse, ResponseOutparam,
};
use crate::bindings::wasi::io::streams::{OutputStream, StreamError};
use crate::error::{Error, Result};
use std::fmt;
use std::io;

/// Bytes of one read of the request's body.
const READ_BYTES: u64 = 256 * 1024;
/// Bytes of one blocking write, the most that `wasi:io` allows.
const WRITE_BYTES: usize = 4096;

/// A request, with its body read whole.
///
/// ```
/// # use gannet_sdk::http::Request;
/// let request = Request::new("GET", "/blur?radius=8&name=a%20b");
/// assert_eq!(request.path(), "/blur");
/// assert_eq!(request.query("radius").as_deref(), Some("8"));
/// assert_eq!(request.query("name").as_deref(), Some("a b"));
/// ```
#[derive(Debug, Clone, Default)]
pub struct Request {
    method: String,
    target: String,
    headers: Vec<(String, Vec<u8>)>,
    body: Vec<u8>,
}

impl Request {
    /// A request, for tests.
    ///
    /// ```
    /// # use gannet_sdk::http::Request;
    /// assert_eq!(Request::new("PUT", "/notes/1").method(), "PUT");
    /// ```
    pub fn new(method: &str, target: &str) -> Self {
        Self { method: method.into(), target: target.into(), headers: Vec::new(), body: Vec::new() }
    }

    /// Gives it a body, for tests.
    ///
    /// ```
    /// # use gannet_sdk::http::Request;
    /// assert_eq!(Request::new("POST", "/").with_body("hi").body(), b"hi");
    /// ```
    pub fn with_body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    /// The method, in capitals.
    ///
    /// ```
    /// # use gannet_sdk::http::Request;
    /// assert_eq!(Request::new("GET", "/").method(), "GET");
    /// ```
    pub fn method(&self) -> &str {
        &self.method
    }

    /// The path, without the query.
    ///
    /// ```
    /// # use gannet_sdk::http::Request;
    /// assert_eq!(Request::new("GET", "/tiles/3?zoom=2").path(), "/tiles/3");
    /// ```
    pub fn path(&self) -> &str {
        self.target.split('?').next().unwrap_or("/")
    }

    /// The value of a query parameter, percent-decoded.
    ///
    /// ```
    /// # use gannet_sdk::http::Request;
    /// let request = Request::new("GET", "/?title=a%20b&draft");
    /// assert_eq!(request.query("title").as_deref(), Some("a b"));
    /// assert_eq!(request.query("draft").as_deref(), Some(""));
    /// assert_eq!(request.query("author"), None);
    /// ```
    pub fn query(&self, name: &str) -> Option<String> {
        let (_, query) = self.target.split_once('?')?;
        query.split('&').find_map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode(key) == name).then(|| decode(value))
        })
    }

    /// The first header of that name.
    ///
    /// ```
    /// # use gannet_sdk::http::Request;
    /// assert_eq!(Request::new("GET", "/").header("accept"), None);
    /// ```
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name))?;
        std::str::from_utf8(&found.1).ok()
    }

    /// The body.
    ///
    /// ```
    /// # use gannet_sdk::http::Request;
    /// let request = Request::new("POST", "/").with_body(vec![1u8, 2, 3]);
    /// assert_eq!(request.body().len(), 3);
    /// ```
    pub fn body(&self) -> &[u8] {
        &self.body
    }

    fn receive(request: &IncomingRequest) -> io::Result<Self> {
        let method = match request.method() {
            Method::Get => "GET".into(),
            Method::Head => "HEAD".into(),
            Method::Post => "POST".into(),
            Method::Put => "PUT".into(),
            Method::Delete => "DELETE".into(),
            Method::Connect => "CONNECT".into(),
            Method::Options => "OPTIONS".into(),
            Method::Trace => "TRACE".into(),
            Method::Patch => "PATCH".into(),
            Method::Other(other) => other,
        };
        let target = request.path_with_query().unwrap_or_else(|| "/".into());
        let headers = request.headers().entries();
        let body = match request.consume() {
            Ok(body) => read(&body)?,
            Err(()) => Vec::new(),
        };
        Ok(Self { method, target, headers, body })
    }
}

fn read(body: &IncomingBody) -> io::Result<Vec<u8>> {
    let stream = body.stream().map_err(|()| io::Error::other("the body is taken"))?;
    let mut bytes = Vec::new();
    loop {
        match stream.blocking_read(READ_BYTES) {
            Ok(part) => bytes.extend_from_slice(&part),
            Err(StreamError::Closed) => return Ok(bytes),
            Err(StreamError::LastOperationFailed(error)) => return Err(io::Error::other(error.to_debug_string())),
        }
    }
}

fn decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some((first, after)) = rest.split_first() {
        let escaped = match after {
            [high, low, ..] if *first == b'%' => char::from(*high)
                .to_digit(16)
                .zip(char::from(*low).to_digit(16))
                .and_then(|(h, l)| u8::try_from(h * 16 + l).ok()),
            _ => None,
        };
        match escaped {
            Some(byte) => {
                out.push(byte);
                rest = after.get(2..).unwrap_or_default();
            }
            None => {
                out.push(if *first == b'+' { b' ' } else { *first });
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

type Writer = Box<dyn FnOnce(&mut BodyWriter) -> Result<()>>;

enum Body {
    Whole(Vec<u8>),
    Stream(Writer),
}

/// A response.
///
/// ```
/// # use gannet_sdk::http::Response;
/// let response = Response::text("hello").with_header("cache-control", "no-store");
/// assert_eq!(response.status(), 200);
/// ```
pub struct Response {
    status: u16,
    headers: Vec<(String, Vec<u8>)>,
    body: Body,
}

impl fmt::Debug for Response {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Response").field("status", &self.status).finish_non_exhaustive()
    }
}

impl Response {
    /// An empty response.
    ///
    /// ```
    /// # use gannet_sdk::http::Response;
    /// assert_eq!(Response::new(204).status(), 204);
    /// ```
    pub fn new(status: u16) -> Self {
        Self { status, headers: Vec::new(), body: Body::Whole(Vec::new()) }
    }

    /// Plain text.
    ///
    /// ```
    /// # use gannet_sdk::http::Response;
    /// assert_eq!(Response::text("hello").status(), 200);
    /// ```
    pub fn text(text: impl Into<String>) -> Self {
        Self::new(200).with_header("content-type", "text/plain; charset=utf-8").with_body(text.into())
    }

    /// JSON that is already written.
    ///
    /// ```
    /// # use gannet_sdk::http::Response;
    /// let response = Response::json(r#"{"ok": true}"#);
    /// ```
    pub fn json(text: impl Into<String>) -> Self {
        Self::new(200).with_header("content-type", "application/json").with_body(text.into())
    }

    /// Bytes of any type.
    ///
    /// ```
    /// # use gannet_sdk::http::Response;
    /// let response = Response::bytes("application/octet-stream", vec![1, 2, 3]);
    /// ```
    pub fn bytes(media_type: &str, bytes: impl Into<Vec<u8>>) -> Self {
        Self::new(200).with_header("content-type", media_type).with_body(bytes)
    }

    /// A picture of `dimensions` (width, height) as PNG; `rgba` holds 4 bytes a pixel, row by row.
    ///
    /// ```
    /// # #[cfg(feature = "png")] {
    /// # use gannet_sdk::http::Response;
    /// assert!(Response::png((1, 1), &[255, 0, 0, 255]).is_ok());
    /// # }
    /// ```
    #[cfg(feature = "png")]
    pub fn png(dimensions: (u32, u32), rgba: &[u8]) -> Result<Self> {
        let mut bytes = Vec::new();
        let mut encoder = png::Encoder::new(&mut bytes, dimensions.0, dimensions.1);
        encoder.set_color(png::ColorType::Rgba);
        encoder.set_depth(png::BitDepth::Eight);
        // A caller waits: a few per cent of size are not worth a multiple of the time.
        encoder.set_compression(png::Compression::Fast);
        let mut writer = encoder.write_header()?;
        writer.write_image_data(rgba)?;
        writer.finish()?;
        Ok(Self::bytes("image/png", bytes))
    }

    /// A body that is written while it is sent. The head leaves first; an error in `write` cuts the body
    /// off, so that the caller can tell it from a whole one.
    ///
    /// ```
    /// # use gannet_sdk::http::Response;
    /// let response = Response::stream("text/plain", |body| {
    ///     for n in 0..3 {
    ///         body.write(format!("{n}\n").as_bytes())?;
    ///     }
    ///     Ok(())
    /// });
    /// ```
    pub fn stream(media_type: &str, write: impl FnOnce(&mut BodyWriter) -> Result<()> + 'static) -> Self {
        let mut response = Self::new(200).with_header("content-type", media_type);
        response.body = Body::Stream(Box::new(write));
        response
    }

    /// Adds a header.
    ///
    /// ```
    /// # use gannet_sdk::http::Response;
    /// let moved = Response::new(303).with_header("location", "/pictures/7");
    /// ```
    pub fn with_header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.as_bytes().to_vec()));
        self
    }

    /// Sets the status.
    ///
    /// ```
    /// # use gannet_sdk::http::Response;
    /// assert_eq!(Response::text("made").with_status(201).status(), 201);
    /// ```
    pub fn with_status(mut self, status: u16) -> Self {
        self.status = status;
        self
    }

    /// Sets the body.
    ///
    /// ```
    /// # use gannet_sdk::http::Response;
    /// let csv = Response::new(200).with_header("content-type", "text/csv").with_body("a,b\n1,2\n");
    /// ```
    pub fn with_body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = Body::Whole(body.into());
        self
    }

    /// The status.
    ///
    /// ```
    /// # use gannet_sdk::http::Response;
    /// assert_eq!(Response::new(404).status(), 404);
    /// ```
    pub fn status(&self) -> u16 {
        self.status
    }

    fn head(&self) -> Result<OutgoingResponse> {
        let fields =
            Fields::from_list(&self.headers).map_err(|error| Error::new(500, format!("headers: {error:?}")))?;
        let response = OutgoingResponse::new(fields);
        if response.set_status_code(self.status).is_err() {
            return Err(Error::new(500, format!("{} is not a status", self.status)));
        }
        Ok(response)
    }

    fn send(self, out: ResponseOutparam) -> Result<()> {
        let response = match self.head() {
            Ok(response) => response,
            // A head that cannot be sent is answered with one that can.
            Err(error) if !self.headers.is_empty() || self.status != 500 => {
                let mut plain = error.into_response();
                plain.headers.clear();
                return plain.send(out);
            }
            Err(error) => return Err(error),
        };
        let body = response.body().map_err(|()| Error::new(500, "the body is taken"))?;
        ResponseOutparam::set(out, Ok(response));
        let stream = body.write().map_err(|()| Error::new(500, "the body is taken"))?;
        let mut writer = BodyWriter { stream: Some(stream) };
        match self.body {
            Body::Whole(bytes) => writer.write(&bytes)?,
            Body::Stream(write) => write(&mut writer)?,
        }
        drop(writer);
        OutgoingBody::finish(body, None).map_err(|error| Error::new(500, format!("{error:?}")))
    }
}

/// Writes a streamed body. A slow caller slows it down.
///
/// ```
/// # use gannet_sdk::http::{BodyWriter, Response};
/// fn lines(body: &mut BodyWriter) -> gannet_sdk::Result<()> {
///     body.write(b"first\n")?;
///     body.write(b"second\n")
/// }
/// let response = Response::stream("text/plain", lines);
/// ```
#[derive(Debug)]
pub struct BodyWriter {
    stream: Option<OutputStream>,
}

impl BodyWriter {
    /// Writes bytes and waits until they are on their way.
    ///
    /// ```no_run
    /// # use gannet_sdk::http::BodyWriter;
    /// # fn write(body: &mut BodyWriter) -> gannet_sdk::Result<()> {
    /// body.write(b"part")?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let Some(stream) = &self.stream else { return Ok(()) };
        write_all(stream, bytes)
    }
}

/// Writes bytes and waits until they are on their way.
pub(crate) fn write_all(stream: &OutputStream, bytes: &[u8]) -> Result<()> {
    let gone = |error: StreamError| Error::new(500, format!("the other side is gone: {error:?}"));
    let mut rest = bytes;
    while !rest.is_empty() {
        let room = match stream.check_write().map_err(gone)? {
            0 => {
                stream.subscribe().block();
                continue;
            }
            room => usize::try_from(room).unwrap_or(WRITE_BYTES),
        };
        let (now, later) = rest.split_at(room.min(rest.len()));
        stream.write(now).map_err(gone)?;
        rest = later;
    }
    stream.blocking_flush().map_err(gone)
}

/// What a handler may answer.
///
/// ```
/// # use gannet_sdk::{IntoResponse, http::Response};
/// assert_eq!("hello".into_response().status(), 200);
/// ```
pub trait IntoResponse {
    /// The response.
    ///
    /// ```
    /// # use gannet_sdk::{IntoResponse, http::Response};
    /// struct Celsius(f32);
    /// impl IntoResponse for Celsius {
    ///     fn into_response(self) -> Response {
    ///         Response::text(format!("{} °C", self.0))
    ///     }
    /// }
    /// assert_eq!(Celsius(21.5).into_response().status(), 200);
    /// ```
    fn into_response(self) -> Response;
}

impl IntoResponse for Response {
    fn into_response(self) -> Response {
        self
    }
}

impl IntoResponse for &str {
    fn into_response(self) -> Response {
        Response::text(self)
    }
}

impl IntoResponse for String {
    fn into_response(self) -> Response {
        Response::text(self)
    }
}

impl<T: IntoResponse> IntoResponse for Result<T> {
    fn into_response(self) -> Response {
        match self {
            Ok(value) => value.into_response(),
            Err(error) => error.into_response(),
        }
    }
}

/// Runs a handler for one request. Called by the code that [`crate::handler`] makes.
#[doc(hidden)]
pub fn run<T: IntoResponse>(request: IncomingRequest, out: ResponseOutparam, handler: impl FnOnce(Request) -> T) {
    let response = match Request::receive(&request) {
        Ok(received) => handler(received).into_response(),
        Err(error) => Error::new(400, format!("the body broke off: {error}")).into_response(),
    };
    if let Err(error) = response.send(out) {
        // The head has left, so the body is cut off; the log says why.
        #[expect(clippy::print_stderr, reason = "a function's log")]
        {
            eprintln!("the response could not be sent: {error}");
        }
    }
}
