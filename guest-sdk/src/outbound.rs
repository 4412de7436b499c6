//! Outbound HTTP: requests to other servers, and to other functions of the tenant. A function may send them only to the
//! hosts that its manifest lists in `[http] allowed_outbound_hosts`. Other functions need no such line: `embed`, for
//! instance, is `http://embed.gannet.internal/`.
//!
//! ```no_run
//! # fn embedded(text: &str) -> gannet_sdk::Result<Vec<u8>> {
//! use gannet_sdk::outbound::Call;
//! let answer = Call::post("http://embed.gannet.internal/v1/embeddings", text).send()?;
//! Ok(answer.body().to_vec())
//! # }
//! ```

use crate::bindings::wasi::http::outgoing_handler;
use crate::bindings::wasi::http::types::{
    ErrorCode, Fields, IncomingResponse, Method, OutgoingBody, OutgoingRequest, RequestOptions, Scheme,
};
use crate::bindings::wasi::io::streams::StreamError;
use crate::error::{Error, Result};
use crate::http::{receive_trailers, write_all};
use std::time::Duration;

/// Most bytes of one read of a response body.
const READ_BYTES: u64 = 64 * 1024;

/// A request to another server.
///
/// ```no_run
/// # fn price() -> gannet_sdk::Result<String> {
/// use gannet_sdk::outbound::Call;
/// let answer = Call::get("https://api.example.com/price?of=gpu").with_header("accept", "text/plain").send()?;
/// Ok(String::from_utf8_lossy(answer.body()).into_owned())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Call {
    method: String,
    url: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    timeout: Option<Duration>,
}

/// The response of another server, with its whole body.
///
/// ```no_run
/// # fn check() -> gannet_sdk::Result<bool> {
/// # use gannet_sdk::outbound::Call;
/// let answer = Call::get("https://api.example.com/health").send()?;
/// Ok(answer.status() == 200)
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Answer {
    status: u16,
    headers: Vec<(String, Vec<u8>)>,
    body: Vec<u8>,
    trailers: Vec<(String, Vec<u8>)>,
}

impl Call {
    /// A request with any method. `url` begins with `http://` or `https://`; [`send`](Self::send) fails with status 500
    /// otherwise.
    ///
    /// ```
    /// # use gannet_sdk::outbound::Call;
    /// let call = Call::new("DELETE", "https://api.example.com/items/7");
    /// ```
    pub fn new(method: &str, url: &str) -> Self {
        Self { method: method.to_owned(), url: url.to_owned(), headers: Vec::new(), body: Vec::new(), timeout: None }
    }

    /// A GET.
    ///
    /// ```
    /// # use gannet_sdk::outbound::Call;
    /// let call = Call::get("https://api.example.com/items");
    /// ```
    pub fn get(url: &str) -> Self {
        Self::new("GET", url)
    }

    /// A POST with a body.
    ///
    /// ```
    /// # use gannet_sdk::outbound::Call;
    /// let call = Call::post("https://api.example.com/items", r#"{"name": "x"}"#);
    /// ```
    pub fn post(url: &str, body: impl Into<Vec<u8>>) -> Self {
        Self { body: body.into(), ..Self::new("POST", url) }
    }

    /// Adds a header. [`send`](Self::send) adds `content-length` itself.
    ///
    /// ```
    /// # use gannet_sdk::outbound::Call;
    /// let call = Call::get("https://api.example.com/").with_header("accept", "application/json");
    /// ```
    pub fn with_header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Limits how long the call waits for a connection, for the first byte of the response, and between two parts of its
    /// body: each as long as this at most. The server's own limits apply too.
    ///
    /// ```
    /// # use gannet_sdk::outbound::Call;
    /// # use std::time::Duration;
    /// let call = Call::get("https://api.example.com/").with_timeout(Duration::from_secs(2));
    /// ```
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Sends the request and waits for the whole response.
    ///
    /// The error has status 403 and code `outbound_denied` if the manifest does not list the host, and status 502 and
    /// code `outbound_failed` if the host cannot be reached. A response that breaks off is 502 too.
    ///
    /// ```no_run
    /// # fn send() -> gannet_sdk::Result<()> {
    /// # use gannet_sdk::outbound::Call;
    /// let answer = Call::get("https://api.example.com/").send()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn send(self) -> Result<Answer> {
        let request = self.head()?;
        let outgoing = request.body().map_err(|()| Error::new(500, "the body is taken"))?;
        let options = self.timeout.map(options).transpose()?;
        let answer = outgoing_handler::handle(request, options).map_err(|code| call_error(&self.url, &code))?;
        let stream = outgoing.write().map_err(|()| Error::new(500, "the body is taken"))?;
        // A server may respond before it has read the whole body, so a failed write is no error.
        let written = write_all(&stream, &self.body);
        drop(stream);
        if written.is_ok() {
            OutgoingBody::finish(outgoing, None).map_err(|code| call_error(&self.url, &code))?;
        }
        answer.subscribe().block();
        let answer = answer.get().and_then(std::result::Result::ok);
        let answer = answer.ok_or_else(|| Error::new(500, "the response is missing"))?;
        Answer::receive(&answer.map_err(|code| call_error(&self.url, &code))?)
    }

    fn head(&self) -> Result<OutgoingRequest> {
        let wrong = |what: &str| Error::new(500, format!("{}: {what}", self.url));
        let (scheme, rest) = match self.url.split_once("://") {
            Some(("https", rest)) => (Scheme::Https, rest),
            Some(("http", rest)) => (Scheme::Http, rest),
            _ => return Err(wrong("a URL begins with http:// or https://")),
        };
        let at = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(at);
        let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
        let headers = Fields::new();
        for (name, value) in &self.headers {
            headers
                .append(name, value.as_bytes())
                .map_err(|error| wrong(&format!("the header {name:?}: {error:?}")))?;
        }
        if !self.body.is_empty() {
            let length = self.body.len().to_string();
            headers.append("content-length", length.as_bytes()).map_err(|error| wrong(&format!("{error:?}")))?;
        }
        let request = OutgoingRequest::new(headers);
        let method = match self.method.as_str() {
            "GET" => Method::Get,
            "POST" => Method::Post,
            "PUT" => Method::Put,
            "DELETE" => Method::Delete,
            "HEAD" => Method::Head,
            "PATCH" => Method::Patch,
            "OPTIONS" => Method::Options,
            other => Method::Other(other.to_owned()),
        };
        request.set_method(&method).map_err(|()| wrong("the method"))?;
        request.set_scheme(Some(&scheme)).map_err(|()| wrong("the scheme"))?;
        request.set_authority(Some(authority)).map_err(|()| wrong("the host"))?;
        request.set_path_with_query(Some(&path)).map_err(|()| wrong("the path"))?;
        Ok(request)
    }
}

fn options(timeout: Duration) -> Result<RequestOptions> {
    let options = RequestOptions::new();
    let nanoseconds = Some(u64::try_from(timeout.as_nanos()).unwrap_or(u64::MAX));
    options
        .set_connect_timeout(nanoseconds)
        .and_then(|()| options.set_first_byte_timeout(nanoseconds))
        .and_then(|()| options.set_between_bytes_timeout(nanoseconds))
        .map_err(|()| Error::new(500, "the timeout cannot be set"))?;
    Ok(options)
}

fn call_error(url: &str, code: &ErrorCode) -> Error {
    match code {
        ErrorCode::HttpRequestDenied => {
            Error::new(403, format!("{url}: [http] allowed_outbound_hosts does not list it"))
                .with_code("outbound_denied")
        }
        other => Error::new(502, format!("{url}: {other:?}")).with_code("outbound_failed"),
    }
}

impl Answer {
    fn receive(response: &IncomingResponse) -> Result<Self> {
        let broken = |what: String| Error::new(502, format!("the response broke off: {what}"));
        let (status, headers) = (response.status(), response.headers().entries());
        let incoming = response.consume().map_err(|()| broken("its body is taken".into()))?;
        let stream = incoming.stream().map_err(|()| broken("its body is taken".into()))?;
        let mut body = Vec::new();
        loop {
            match stream.blocking_read(READ_BYTES) {
                Ok(part) => body.extend_from_slice(&part),
                Err(StreamError::Closed) => break,
                Err(StreamError::LastOperationFailed(error)) => return Err(broken(error.to_debug_string())),
            }
        }
        drop(stream);
        Ok(Self { status, headers, body, trailers: receive_trailers(incoming) })
    }

    /// The status.
    ///
    /// ```no_run
    /// # fn status(answer: gannet_sdk::outbound::Answer) {
    /// assert_eq!(answer.status(), 200);
    /// # }
    /// ```
    pub fn status(&self) -> u16 {
        self.status
    }

    /// The value of the first header with this name, regardless of case; `None` if there is none or it is not UTF-8.
    ///
    /// ```no_run
    /// # fn kind(answer: gannet_sdk::outbound::Answer) {
    /// assert_eq!(answer.header("content-type"), Some("application/json"));
    /// # }
    /// ```
    pub fn header(&self, name: &str) -> Option<&str> {
        let (_, value) = self.headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name))?;
        std::str::from_utf8(value).ok()
    }

    /// The value of the first trailer with this name, regardless of case; `None` if there is none or it is not UTF-8.
    ///
    /// ```no_run
    /// # fn outcome(answer: gannet_sdk::outbound::Answer) {
    /// assert_eq!(answer.trailer("grpc-status"), Some("0"));
    /// # }
    /// ```
    pub fn trailer(&self, name: &str) -> Option<&str> {
        let (_, value) = self.trailers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name))?;
        std::str::from_utf8(value).ok()
    }

    /// The whole body.
    ///
    /// ```no_run
    /// # fn body(answer: gannet_sdk::outbound::Answer) {
    /// assert!(answer.body().starts_with(b"{"));
    /// # }
    /// ```
    pub fn body(&self) -> &[u8] {
        &self.body
    }
}
