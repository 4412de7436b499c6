//! The error of a handler: a status, a code and a message for the caller. `http` turns it into a response.

use crate::gpu;
use std::any::Any;
use std::fmt;

/// The result of a handler.
///
/// ```
/// # use gannet_sdk::Result;
/// fn parse(text: &str) -> Result<u32> {
///     Ok(text.parse::<u32>()?) // any error becomes a response
/// }
/// assert!(parse("x").is_err());
/// ```
pub type Result<T> = std::result::Result<T, Error>;

/// A failed request: a status, a stable code and a message for the caller, sent as `application/problem+json`
/// (RFC 9457).
///
/// Any error converts into it with `?`. GPU errors get a status by their kind: 422 for a rejected kernel, 502 for a
/// used-up memory quota or loop budget and for a lost device, 504 for a passed deadline. All other errors are 500.
///
/// ```
/// # use gannet_sdk::Error;
/// let error = Error::new(404, "there is no such picture");
/// assert_eq!(error.status(), 404);
/// let error: Error = "x".parse::<u8>().unwrap_err().into();
/// assert_eq!((error.status(), error.code()), (500, "internal"));
/// ```
#[derive(Debug)]
pub struct Error {
    status: u16,
    code: &'static str,
    message: String,
}

impl Error {
    /// An error with a status and a message for the caller. Its code is `bad_request` for statuses below 500, and
    /// `internal` for all others.
    ///
    /// ```
    /// # use gannet_sdk::Error;
    /// assert_eq!(Error::new(404, "there is no such picture").to_string(), "there is no such picture");
    /// ```
    pub fn new(status: u16, message: impl Into<String>) -> Self {
        let code = if status < 500 { "bad_request" } else { "internal" };
        Self { status, code, message: message.into() }
    }

    /// Replaces the code, by which programs tell errors apart.
    ///
    /// ```
    /// # use gannet_sdk::Error;
    /// assert_eq!(Error::new(400, "radius = 99").with_code("radius_too_large").code(), "radius_too_large");
    /// ```
    pub fn with_code(mut self, code: &'static str) -> Self {
        self.code = code;
        self
    }

    /// The status of the response.
    ///
    /// ```
    /// # use gannet_sdk::Error;
    /// assert_eq!(Error::new(413, "4 MiB at most").status(), 413);
    /// ```
    pub fn status(&self) -> u16 {
        self.status
    }

    /// The stable code.
    ///
    /// ```
    /// # use gannet_sdk::Error;
    /// assert_eq!(Error::new(400, "radius = x").code(), "bad_request");
    /// ```
    pub fn code(&self) -> &'static str {
        self.code
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

// `Error` does not implement `std::error::Error`: this impl would then overlap with `From<T> for T`.
impl<E: std::error::Error + 'static> From<E> for Error {
    fn from(error: E) -> Self {
        match (&error as &dyn Any).downcast_ref::<gpu::Error>() {
            Some(gpu) => Self { status: gpu.status(), code: gpu.code(), message: gpu.message().to_owned() },
            None => Self { status: 500, code: "internal", message: error.to_string() },
        }
    }
}
