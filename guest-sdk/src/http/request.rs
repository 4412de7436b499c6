//! The request that a handler gets: method, target, headers and the whole body.

use crate::bindings::wasi::http::types::{IncomingBody, IncomingRequest, Method, Scheme};
use crate::bindings::wasi::io::streams::StreamError;
use std::io;

/// Most bytes of one read of the request's body.
const READ_BYTES: u64 = 256 * 1024;

/// A request with its whole body.
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
    trailers: Vec<(String, Vec<u8>)>,
    is_https: bool,
    authority: Option<String>,
}

impl Request {
    /// A request without headers and body, for tests. `target` is the path with the query.
    ///
    /// ```
    /// # use gannet_sdk::http::Request;
    /// assert_eq!(Request::new("PUT", "/notes/1").method(), "PUT");
    /// ```
    pub fn new(method: &str, target: &str) -> Self {
        Self { method: method.into(), target: target.into(), ..Self::default() }
    }

    /// Sets the body, for tests.
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

    /// Whether the client sent the request over TLS.
    ///
    /// ```
    /// # use gannet_sdk::http::Request;
    /// assert!(!Request::new("GET", "/").is_https());
    /// ```
    pub fn is_https(&self) -> bool {
        self.is_https
    }

    /// The host that the client named, with its port if it named one; `None` if it named none.
    ///
    /// ```
    /// # use gannet_sdk::http::Request;
    /// assert_eq!(Request::new("GET", "/").authority(), None);
    /// ```
    pub fn authority(&self) -> Option<&str> {
        self.authority.as_deref()
    }

    /// The value of the first query parameter with this name, percent-decoded and with `+` as a space.
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
        form_urlencoded::parse(query.as_bytes()).find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
    }

    /// The value of the first header with this name, regardless of case; `None` if there is none or it is not UTF-8.
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

    /// The value of the first trailer with this name, regardless of case; `None` if there is none or it is not UTF-8.
    /// Trailers follow the body, and the request's header `trailer` must name them.
    ///
    /// ```
    /// # use gannet_sdk::http::Request;
    /// assert_eq!(Request::new("POST", "/").trailer("x-checksum"), None);
    /// ```
    pub fn trailer(&self, name: &str) -> Option<&str> {
        let found = self.trailers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name))?;
        std::str::from_utf8(&found.1).ok()
    }

    pub(super) fn receive(request: &IncomingRequest) -> io::Result<Self> {
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
        let is_https = matches!(request.scheme(), Some(Scheme::Https));
        let authority = request.authority();
        let target = request.path_with_query().unwrap_or_else(|| "/".into());
        let headers = request.headers().entries();
        let Ok(incoming) = request.consume() else {
            return Ok(Self { method, target, headers, is_https, authority, ..Self::default() });
        };
        let body = read_whole(&incoming)?;
        // Only if they were announced, because most requests have none.
        let announced = headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("trailer"));
        let trailers = if announced { receive_trailers(incoming) } else { Vec::new() };
        Ok(Self { method, target, headers, body, trailers, is_https, authority })
    }
}

/// Waits for the trailers of a body that was read to its end. Returns none if there are none or they broke off.
pub(crate) fn receive_trailers(body: IncomingBody) -> Vec<(String, Vec<u8>)> {
    let trailers = IncomingBody::finish(body);
    trailers.subscribe().block();
    match trailers.get() {
        Some(Ok(Ok(Some(fields)))) => fields.entries(),
        _ => Vec::new(),
    }
}

/// Reads the whole body.
fn read_whole(body: &IncomingBody) -> io::Result<Vec<u8>> {
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
