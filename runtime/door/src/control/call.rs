//! A call of the control API on its way to its operation.

use super::arguments::Query;
use super::error::ControlError;
use gannet_base::body::ResponseBody;
use gannet_base::identity::Caller;
use gannet_base::names::{FunctionName, TenantName};
use gannet_base::refusal::Refusal;
use gannet_fleet::inbound::InboundRequest;
use gannet_state::registry::Snapshot;
use http::Response;
use std::sync::Arc;

/// A call on its way to its operation.
pub(super) struct ApiCall {
    pub(super) inbound: InboundRequest,
    pub(super) caller: Caller,
    pub(super) snapshot: Arc<Snapshot>,
    /// What the path names, in order.
    pub(super) names: Vec<String>,
    pub(super) query: Query,
}

impl ApiCall {
    /// What the path names there.
    pub(super) fn name(&self, index: usize) -> &str {
        self.names.get(index).map(String::as_str).unwrap_or_default()
    }

    /// The function that the path names.
    pub(super) fn function(&self) -> Result<FunctionName, ControlError> {
        FunctionName::new(self.name(0)).map_err(|error| ControlError::Invalid(error.to_string()))
    }

    /// The tenant that the path names.
    pub(super) fn tenant(&self) -> Result<TenantName, ControlError> {
        TenantName::new(self.name(0)).map_err(|error| ControlError::Invalid(error.to_string()))
    }
}

/// The answer of an operation.
pub(super) type CallResult = Result<Response<ResponseBody>, Refusal>;
