//! Refusals: error responses in the shape that OpenAI's clients read.

use super::answers::json;
use crate::error::Error;
use crate::gpu;
use crate::http::Response;

/// An error response in the shape that OpenAI's clients read: an object `error` with `message`, `type`, `param` and
/// `code`.
///
/// ```
/// # use gannet_sdk::openai::Refusal;
/// let refusal = Refusal::invalid("temperature", "temperature is 3; it may be 0 to 2");
/// assert_eq!(refusal.status(), 400);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    status: u16,
    message: String,
    kind: &'static str,
    param: Option<String>,
    code: Option<&'static str>,
}

impl Refusal {
    /// A parameter with an invalid value. The status is 400.
    ///
    /// ```
    /// # use gannet_sdk::openai::Refusal;
    /// let refusal = Refusal::invalid("messages", "messages is empty");
    /// ```
    pub fn invalid(param: &str, message: impl Into<String>) -> Self {
        let kind = "invalid_request_error";
        Self { status: 400, message: message.into(), kind, param: Some(param.to_owned()), code: None }
    }

    /// A parameter that is valid but not supported. The status is 400, the code `unsupported_parameter`.
    ///
    /// ```
    /// # use gannet_sdk::openai::Refusal;
    /// let refusal = Refusal::unsupported("tools", "this model calls no tools");
    /// assert_eq!(refusal.status(), 400);
    /// ```
    pub fn unsupported(param: &str, why: &str) -> Self {
        Self { code: Some("unsupported_parameter"), ..Self::invalid(param, format!("{param} is not supported: {why}")) }
    }

    /// More tokens than the model's context has. The status is 400, the code `context_length_exceeded`.
    ///
    /// ```
    /// # use gannet_sdk::openai::Refusal;
    /// let refusal = Refusal::too_long("messages", 9000, 8192);
    /// assert!(refusal.to_string().contains("9000"));
    /// ```
    pub fn too_long(param: &str, tokens: usize, limit: u32) -> Self {
        let message = format!("this model's context has {limit} tokens; the request needs {tokens}");
        Self { code: Some("context_length_exceeded"), ..Self::invalid(param, message) }
    }

    /// An unknown method or path. The status is 404, the code `unknown_url`.
    ///
    /// ```
    /// # use gannet_sdk::openai::Refusal;
    /// assert_eq!(Refusal::unknown_path("POST", "/v1/images").status(), 404);
    /// ```
    pub fn unknown_path(method: &str, path: &str) -> Self {
        let message = format!("there is no {method} {path} here");
        let kind = "invalid_request_error";
        Self { status: 404, message, kind, param: None, code: Some("unknown_url") }
    }

    /// Replaces the code.
    pub(super) fn with_code(self, code: &'static str) -> Self {
        Self { code: Some(code), ..self }
    }

    /// The status of the response.
    ///
    /// ```
    /// # use gannet_sdk::openai::Refusal;
    /// assert_eq!(Refusal::invalid("n", "n is 0").status(), 400);
    /// ```
    pub fn status(&self) -> u16 {
        self.status
    }

    /// The parameter at fault, such as `messages[0].role`; `None` if the error is about no parameter.
    ///
    /// ```
    /// # use gannet_sdk::openai::Refusal;
    /// assert_eq!(Refusal::invalid("n", "n is 0").param(), Some("n"));
    /// ```
    pub fn param(&self) -> Option<&str> {
        self.param.as_deref()
    }

    /// Converts the refusal to a response.
    ///
    /// ```
    /// # use gannet_sdk::openai::Refusal;
    /// assert_eq!(Refusal::invalid("n", "n is 0").into_response().status(), 400);
    /// ```
    pub fn into_response(self) -> Response {
        json(&self.body()).with_status(self.status)
    }

    /// The body of the response: an object with the field `error`.
    pub(super) fn body(&self) -> serde_json::Value {
        let Self { message, kind, param, code, .. } = self;
        serde_json::json!({ "error": { "message": message, "type": kind, "param": param, "code": code } })
    }
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Refusal {}

impl From<gpu::Error> for Refusal {
    fn from(error: gpu::Error) -> Self {
        let (status, code) = (error.status(), error.code());
        Self { status, message: error.message().to_owned(), kind: "server_error", param: None, code: Some(code) }
    }
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        let (status, code) = (error.status(), error.code());
        Self { status, message: error.to_string(), kind: "server_error", param: None, code: Some(code) }
    }
}
