//! Errors of requests on OpenAI's paths for which no function is found.

use crate::access::AccessError;
use gannet_base::refusal::{Blame, Refusal, RefusalKind};

/// Why no function was found for an OpenAI client's request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenAiError {
    /// The caller has no access.
    #[error(transparent)]
    Access(#[from] AccessError),
    /// No function that is a model has this name.
    #[error("the model {model:?} does not exist, or is not yours")]
    ModelNotFound {
        /// The model that was asked for, cut to 80 characters.
        model: String,
    },
    /// The body names no model.
    #[error("the body names no model: its field \"model\" must be a function's name")]
    ModelNeeded,
    /// The body is not a JSON object that could name a model.
    #[error("the body is not a JSON object whose field \"model\" is a function's name: {0}")]
    BodyInvalid(String),
}

impl OpenAiError {
    /// Returns the error for a model that does not exist.
    pub(super) fn model_not_found(model: &str) -> Self {
        Self::ModelNotFound { model: model.chars().take(80).collect() }
    }
}

impl From<OpenAiError> for Refusal {
    fn from(error: OpenAiError) -> Self {
        let (kind, code) = match &error {
            OpenAiError::Access(error) => return error.clone().into(),
            OpenAiError::ModelNotFound { .. } => (RefusalKind::NotFound, "model_not_found"),
            OpenAiError::ModelNeeded => (RefusalKind::Malformed, "model_needed"),
            OpenAiError::BodyInvalid(_) => (RefusalKind::Malformed, "body_invalid"),
        };
        let refusal = Self::new(kind, code, Blame::Caller, &error);
        match error {
            OpenAiError::ModelNotFound { .. } => {
                refusal.hint("models are functions whose manifest says `[http] openai = true`")
            }
            _ => refusal,
        }
    }
}
