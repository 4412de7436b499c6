//! The response of a handler: a status, headers, and a body that is whole or written while it is sent.

use super::body::BodyWriter;
use crate::bindings::wasi::http::types::{Fields, OutgoingBody, OutgoingResponse, ResponseOutparam};
use crate::error::{Error, Result};
use std::fmt;

/// Writes a streamed body.
type WriteBody = Box<dyn FnOnce(&mut BodyWriter) -> Result<()>>;

enum ResponseBody {
    Whole(Vec<u8>),
    Stream(WriteBody),
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
    body: ResponseBody,
    trailers: Vec<(String, Vec<u8>)>,
    after: Option<Box<dyn FnOnce()>>,
}

impl fmt::Debug for Response {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Response").field("status", &self.status).finish_non_exhaustive()
    }
}

impl Response {
    /// A response without headers and body.
    ///
    /// ```
    /// # use gannet_sdk::http::Response;
    /// assert_eq!(Response::new(204).status(), 204);
    /// ```
    pub fn new(status: u16) -> Self {
        let body = ResponseBody::Whole(Vec::new());
        Self { status, headers: Vec::new(), body, trailers: Vec::new(), after: None }
    }

    /// Plain text in UTF-8, with status 200.
    ///
    /// ```
    /// # use gannet_sdk::http::Response;
    /// assert_eq!(Response::text("hello").status(), 200);
    /// ```
    pub fn text(text: impl Into<String>) -> Self {
        Self::new(200).with_header("content-type", "text/plain; charset=utf-8").with_body(text.into())
    }

    /// JSON that is already serialized, with status 200.
    ///
    /// ```
    /// # use gannet_sdk::http::Response;
    /// let response = Response::json(r#"{"ok": true}"#);
    /// ```
    pub fn json(text: impl Into<String>) -> Self {
        Self::new(200).with_header("content-type", "application/json").with_body(text.into())
    }

    /// Bytes of any media type, with status 200.
    ///
    /// ```
    /// # use gannet_sdk::http::Response;
    /// let response = Response::bytes("application/octet-stream", vec![1, 2, 3]);
    /// ```
    pub fn bytes(media_type: &str, bytes: impl Into<Vec<u8>>) -> Self {
        Self::new(200).with_header("content-type", media_type).with_body(bytes)
    }

    /// A PNG picture of `dimensions` (width, height), with status 200. `rgba` has 4 bytes a pixel, row by row. A length
    /// that does not fit `dimensions` is an error.
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
        // The caller waits: saving a few per cent of size is not worth a multiple of the time.
        encoder.set_compression(png::Compression::Fast);
        let mut writer = encoder.write_header()?;
        writer.write_image_data(rgba)?;
        writer.finish()?;
        Ok(Self::bytes("image/png", bytes))
    }

    /// A body that `write` writes while it is sent, with status 200. The head is sent before `write` runs. If `write`
    /// fails, the body is cut off, so that the client can tell that it is incomplete.
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
        response.body = ResponseBody::Stream(Box::new(write));
        response
    }

    /// Adds a header. Headers with the same name are all sent.
    ///
    /// ```
    /// # use gannet_sdk::http::Response;
    /// let moved = Response::new(303).with_header("location", "/pictures/7");
    /// ```
    pub fn with_header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.as_bytes().to_vec()));
        self
    }

    /// Adds a trailer: a field that follows the body. A streamed body adds its own with
    /// [`BodyWriter::add_trailer`].
    ///
    /// ```
    /// # use gannet_sdk::http::Response;
    /// let reply = Response::bytes("application/grpc", [0, 0, 0, 0, 0]).with_trailer("grpc-status", "0");
    /// ```
    pub fn with_trailer(mut self, name: &str, value: &str) -> Self {
        self.trailers.push((name.to_owned(), value.as_bytes().to_vec()));
        self
    }

    /// Runs `work` after the whole response was handed to the server, for what the client need not wait for. The request
    /// pays for its time, and `limits.stream_timeout_ms` and `limits.cpu_ms` bound it. It does not run if the response is
    /// invalid.
    ///
    /// ```
    /// # use gannet_sdk::http::Response;
    /// let response = Response::text("stored").after(|| println!("stored"));
    /// ```
    pub fn after(mut self, work: impl FnOnce() + 'static) -> Self {
        self.after = Some(Box::new(work));
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

    /// Sets the body, in place of any other.
    ///
    /// ```
    /// # use gannet_sdk::http::Response;
    /// let csv = Response::new(200).with_header("content-type", "text/csv").with_body("a,b\n1,2\n");
    /// ```
    pub fn with_body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = ResponseBody::Whole(body.into());
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

    /// The problem document (RFC 9457) for an error.
    pub(super) fn from_error(error: &Error) -> Self {
        let body = format!(
            "{{\n  \"status\": {},\n  \"code\": \"{}\",\n  \"detail\": \"{}\"\n}}",
            error.status(),
            error.code(),
            escape(&error.to_string())
        );
        Self::new(error.status()).with_header("content-type", "application/problem+json").with_body(body)
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

    /// Sends the head and then the body. An error after the head was sent cuts the body off.
    pub(super) fn send(self, out: ResponseOutparam) -> Result<()> {
        let response = match self.head() {
            Ok(response) => response,
            // The head is invalid, so send an error response without headers, whose head is valid.
            Err(error) if !self.headers.is_empty() || self.status != 500 => {
                let mut plain = Self::from_error(&error);
                plain.headers.clear();
                return plain.send(out);
            }
            Err(error) => return Err(error),
        };
        let body = response.body().map_err(|()| Error::new(500, "the body is taken"))?;
        ResponseOutparam::set(out, Ok(response));
        let stream = body.write().map_err(|()| Error::new(500, "the body is taken"))?;
        let mut writer = BodyWriter { stream: Some(stream), trailers: self.trailers };
        match self.body {
            ResponseBody::Whole(bytes) => writer.write(&bytes)?,
            ResponseBody::Stream(write) => write(&mut writer)?,
        }
        let trailers = std::mem::take(&mut writer.trailers);
        drop(writer);
        let trailers = if trailers.is_empty() {
            None
        } else {
            let fields = Fields::from_list(&trailers);
            Some(fields.map_err(|error| Error::new(500, format!("trailers: {error:?}")))?)
        };
        OutgoingBody::finish(body, trailers).map_err(|error| Error::new(500, format!("{error:?}")))?;
        if let Some(work) = self.after {
            work();
        }
        Ok(())
    }
}

/// Escapes a text for use inside a JSON string.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            control if u32::from(control) < 0x20 => out.push_str(&format!("\\u{:04x}", u32::from(control))),
            other => out.push(other),
        }
    }
    out
}
