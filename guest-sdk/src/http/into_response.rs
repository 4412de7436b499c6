//! The types that a handler may return: a [`Response`], or anything that becomes one.

use super::response::Response;
use crate::error::Result;

/// A type that a handler may return.
///
/// ```
/// # use gannet_sdk::{IntoResponse, http::Response};
/// assert_eq!("hello".into_response().status(), 200);
/// ```
pub trait IntoResponse {
    /// Converts the value to a response.
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
            Err(error) => Response::from_error(&error),
        }
    }
}
