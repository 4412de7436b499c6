//! A call of the control API, as its operation gets it.

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

/// A call, as its operation gets it.
pub(super) struct ApiCall {
    pub(super) inbound: InboundRequest,
    pub(super) caller: Caller,
    pub(super) snapshot: Arc<Snapshot>,
    /// The values of the names in braces in the operation's path, in order.
    pub(super) names: Vec<String>,
    pub(super) query: Query,
}

impl ApiCall {
    /// Returns the name at a position of the path; empty if there is none.
    pub(super) fn name(&self, index: usize) -> &str {
        self.names.get(index).map(String::as_str).unwrap_or_default()
    }

    /// Returns the function that the path names.
    pub(super) fn function(&self) -> Result<FunctionName, ControlError> {
        FunctionName::new(self.name(0)).map_err(|error| ControlError::Invalid(error.to_string()))
    }

    /// Returns the tenant that the path names.
    pub(super) fn tenant(&self) -> Result<TenantName, ControlError> {
        TenantName::new(self.name(0)).map_err(|error| ControlError::Invalid(error.to_string()))
    }
}

/// The response of an operation, or its refusal.
pub(super) type CallResult = Result<Response<ResponseBody>, Refusal>;
