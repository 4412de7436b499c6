//! Writing a body, no faster than its receiver reads it.

use crate::bindings::wasi::io::streams::{OutputStream, StreamError};
use crate::error::{Error, Result};

/// Bytes to write at once if the stream's capacity does not fit `usize`; the most that `wasi:io` allows in one blocking
/// write.
const WRITE_BYTES: usize = 4096;

/// Writes a streamed body. Writes wait for a slow client.
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
    pub(super) stream: Option<OutputStream>,
    pub(super) trailers: Vec<(String, Vec<u8>)>,
}

impl BodyWriter {
    /// Writes bytes and waits until they are flushed. An error, with status 500, means that the client has left.
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

    /// Adds a trailer: a field that follows the body, for what is known only then. HTTP/1.1 clients get it only if they
    /// ask for trailers (`te: trailers`) and the response's header `trailer` names it.
    ///
    /// ```
    /// # use gannet_sdk::http::Response;
    /// let response = Response::stream("text/plain", |body| {
    ///     body.write(b"first\n")?;
    ///     body.add_trailer("x-lines", "1");
    ///     Ok(())
    /// });
    /// let response = response.with_header("trailer", "x-lines");
    /// ```
    pub fn add_trailer(&mut self, name: &str, value: &str) {
        self.trailers.push((name.to_owned(), value.as_bytes().to_vec()));
    }
}

/// Writes bytes and waits until they are flushed.
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
