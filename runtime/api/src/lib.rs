//! The bodies of the control API. The server writes what the commands read, and the other way round, both with these
//! types. The schemas of the OpenAPI document are made from them, and their doc comments are its descriptions.
//!
//! A change here changes the API. Fields may be added; none may change its name or its meaning. Only bodies of requests
//! refuse unknown fields. Those of responses ignore them, because the commands may be older than the server.

mod assets;
mod functions;
mod tenants;
mod queues;
mod webhooks;

pub use assets::*;
pub use functions::*;
pub use queues::*;
pub use tenants::*;
pub use webhooks::*;

use gannet_base::refusal::Blame;
use gannet_base::scopes::Scopes;
use serde::de::{DeserializeOwned, Error};
use serde::{Deserialize, Deserializer, Serialize};
use std::borrow::Cow;
use utoipa::ToSchema;

/// Reads a field that must be an object. Without this, serde would accept a list too.
fn object<'de, D: Deserializer<'de>, T: DeserializeOwned>(deserializer: D) -> Result<T, D::Error> {
    let fields = serde_json::Map::deserialize(deserializer)?;
    serde_json::from_value(fields.into()).map_err(D::Error::custom)
}

/// An error (RFC 9457).
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    /// Always `about:blank`.
    #[serde(default)]
    pub r#type: Cow<'static, str>,
    /// The HTTP status in words.
    #[serde(default)]
    pub title: Cow<'static, str>,
    /// The HTTP status.
    #[serde(default)]
    pub status: u16,
    /// A stable code that clients can test for.
    pub code: Cow<'static, str>,
    /// Whose fault the error is.
    pub fault: Blame,
    /// Description of the error, with the value and the limit.
    pub detail: String,
    /// What the caller can do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<Cow<'static, str>>,
    /// Id of the request.
    #[serde(default)]
    #[schema(format = "uuid")]
    pub request_id: String,
}

/// The key of the request.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
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
    /// URL of the functions, if the control API has another address (`admin_listen`). Null if they have the same.
    #[serde(default)]
    pub functions_url: Option<String>,
}

/// A GPU of this server.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
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
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Gpus {
    /// The GPUs, one for each slot.
    pub gpus: Vec<GpuView>,
}

/// The result of a deletion.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Deleted {
    /// Name or id of what was deleted.
    pub deleted: String,
}
