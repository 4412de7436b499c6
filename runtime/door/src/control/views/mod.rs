//! Types of the bodies that the control API reads and returns. The schemas of its OpenAPI document are made from them,
//! and their doc comments are its descriptions.

mod assets;
mod functions;
mod tenants;

pub use assets::*;
pub use functions::*;
pub use tenants::*;

use gannet_base::scopes::Scopes;
use serde::Serialize;
use utoipa::ToSchema;

/// Writes a time as RFC 3339.
pub(super) fn time(time: jiff::Timestamp) -> String {
    time.to_string()
}

/// An error (RFC 9457).
#[derive(Debug, Serialize, ToSchema)]
pub struct Problem {
    /// Always `about:blank`.
    pub r#type: String,
    /// The HTTP status in words.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// A stable code that clients can test for.
    pub code: String,
    /// Whose fault the error is.
    pub fault: gannet_base::refusal::Blame,
    /// Description of the error, with the value and the limit.
    pub detail: String,
    /// What the caller can do about it.
    pub hint: Option<String>,
    /// Id of the request.
    #[schema(format = "uuid")]
    pub request_id: String,
}

/// The key of the request.
#[derive(Debug, Serialize, ToSchema)]
pub struct Whoami {
    /// Whether it is the operator's key.
    pub operator: bool,
    /// The tenant that the key belongs to. Null for the operator's key.
    pub tenant: Option<String>,
    /// What the key may do. Null for the operator's key, which may do everything.
    pub scopes: Option<Scopes>,
    /// The function that the key is limited to. Null if it is for all functions.
    pub function: Option<String>,
    /// Id of the key. Null for the operator's key.
    pub key: Option<String>,
    /// When the key expires. Null if it does not expire.
    pub expires: Option<String>,
}

/// A GPU of this server.
#[derive(Debug, Serialize, ToSchema)]
pub struct GpuView {
    /// Number of its slot, from 0.
    pub place: usize,
    /// Its position in the driver's list.
    pub index: u32,
    /// The driver's name for it.
    pub name: String,
    /// The GPU API through which it is used, such as `vulkan`.
    pub backend: String,
    /// Driver name and version.
    pub driver: String,
    /// Its class, which manifests name in `gpu.class`.
    pub class: String,
    /// Whether it is a software driver, which computes on the CPU.
    pub software: bool,
    /// Whether it writes timestamps; without them GPU time is wall time.
    pub timestamps: bool,
    /// Its memory in bytes; 0 if unknown.
    pub memory_bytes: u64,
    /// Bytes of memory that one worker's device takes before anything is allocated on it; 0 if not measured.
    pub context_bytes: u64,
    /// `ok`, `probing` (usable if a probe passes), or `cordoned` (not used for now).
    pub health: String,
    /// The tenant that holds it now, if any does (operator only).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub holder: Option<String>,
    /// Number of tenants' workers on it (operator only).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workers: Option<usize>,
    /// Number of spare workers that are ready on it (operator only).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spares_ready: Option<usize>,
    /// The most workers and spares that it may have together (operator only).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workers_max: Option<usize>,
}

/// The GPUs of this server.
#[derive(Debug, Serialize, ToSchema)]
pub struct Gpus {
    /// The GPUs, one for each slot.
    pub gpus: Vec<GpuView>,
}

/// The result of a deletion.
#[derive(Debug, Serialize, ToSchema)]
pub struct Deleted {
    /// Name or id of what was deleted.
    pub deleted: String,
}
