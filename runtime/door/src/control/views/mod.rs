//! What the control API answers and reads, as types, from which its OpenAPI document is made.

mod assets;
mod functions;
mod tenants;

pub use assets::*;
pub use functions::*;
pub use tenants::*;

use gannet_base::scopes::Scopes;
use serde::Serialize;
use utoipa::ToSchema;

/// When something was, as it is told: RFC 3339.
pub(super) fn time(time: jiff::Timestamp) -> String {
    time.to_string()
}

/// An error, as RFC 9457 has it.
#[derive(Debug, Serialize, ToSchema)]
pub struct Problem {
    /// Always `about:blank`.
    pub r#type: String,
    /// The status in words.
    pub title: String,
    /// The status.
    pub status: u16,
    /// A stable code.
    pub code: String,
    /// Whose fault it is.
    pub fault: gannet_base::refusal::Blame,
    /// What is wrong: the value and the limit.
    pub detail: String,
    /// What to do about it.
    pub hint: Option<String>,
    /// The request's id.
    #[schema(format = "uuid")]
    pub request_id: String,
}

/// Whose key it is.
#[derive(Debug, Serialize, ToSchema)]
pub struct Whoami {
    /// Whether it is the operator's.
    pub operator: bool,
    /// Whose it is else.
    pub tenant: Option<String>,
    /// What it may do.
    pub scopes: Option<Scopes>,
    /// The only function that it is for.
    pub function: Option<String>,
    /// Its id.
    pub key: Option<String>,
    /// When it ends.
    pub expires: Option<String>,
}

/// A GPU.
#[derive(Debug, Serialize, ToSchema)]
pub struct GpuView {
    /// Its place on this server.
    pub place: usize,
    /// Its index, as the driver lists it.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// The interface that it is used by.
    pub backend: String,
    /// Its driver.
    pub driver: String,
    /// Its class, as manifests name it.
    pub class: String,
    /// Whether it is a processor that does a GPU's work.
    pub software: bool,
    /// Whether it can tell how long work took.
    pub timestamps: bool,
    /// Its memory.
    pub memory_bytes: u64,
    /// What one tenant's device takes of it by itself.
    pub context_bytes: u64,
    /// Whether it works.
    pub health: String,
    /// The tenant that holds it now, if any does (operator only).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub holder: Option<String>,
    /// Tenants' workers on it (operator only).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workers: Option<usize>,
    /// Spare workers that are ready on it (operator only).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spares_ready: Option<usize>,
    /// The most workers that it may have (operator only).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workers_max: Option<usize>,
}

/// The GPUs.
#[derive(Debug, Serialize, ToSchema)]
pub struct Gpus {
    /// Each in its place.
    pub gpus: Vec<GpuView>,
}

/// What was deleted.
#[derive(Debug, Serialize, ToSchema)]
pub struct Deleted {
    /// Its name.
    pub deleted: String,
}
