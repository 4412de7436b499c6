//! The messages between the front door and a builder: the build's specification, the stage that the builder has
//! reached, and its report.

use crate::hop::{BundleAsset, BundleKernel};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Why an upload is rejected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RejectCode {
    /// The upload is not a component that can be served.
    ComponentInvalid,
    /// One of its kernels is invalid, or failed its trial.
    KernelRejected,
    /// Its `init` failed, or left a state that a snapshot cannot keep.
    InitFailed,
}

impl RejectCode {
    /// Returns the stable code for clients.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ComponentInvalid => "component_invalid",
            Self::KernelRejected => "kernel_rejected",
            Self::InitFailed => "init_failed",
        }
    }

    /// Returns what the author can do about it.
    pub fn hint(self) -> Option<&'static str> {
        match self {
            Self::ComponentInvalid => Some(
                "build a component for the world wasi:http/proxy 0.2 or gannet:gpu/handler, e.g. with target wasm32-wasip2",
            ),
            Self::KernelRejected | Self::InitFailed => None,
        }
    }
}

/// A rejected upload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{detail}")]
pub struct Rejected {
    /// The kind of error.
    pub code: RejectCode,
    /// Description of the error, with its place.
    pub detail: String,
}

/// What a builder is to do. It gets this as a file.
#[derive(Debug, Serialize, Deserialize)]
pub struct BuildSpec {
    /// Index of the GPU to try kernels on; without one, kernels are not tried.
    pub gpu: Option<u32>,
    /// Whether components for `wasi:http/service` 0.3 are accepted.
    pub wasi_http_0_3: bool,
    /// Limit on the size of the compiled code.
    pub compiled_bytes_max: u64,
    /// Whether the component is deployed already. Then it is not refused for what compiling it may cost.
    pub is_deployed: bool,
    /// What to run the component's `init` with, if its manifest asks for a snapshot.
    pub snapshot: Option<InitSpec>,
}

/// What a component's `init` can see and use. The files of the assets are the builder's descriptors after its own
/// seven, in the order of `assets`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct InitSpec {
    /// The function's environment, without secrets.
    pub env: BTreeMap<String, String>,
    /// The function's assets.
    pub assets: Vec<BundleAsset>,
    /// Limit on its linear memory.
    pub memory_bytes: u64,
    /// Limit on the size of the component together with the memory that `init` leaves.
    pub bytes_max: u64,
}

/// What the builder found in a valid upload.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct BuildReport {
    /// The component's kernels, by name.
    pub kernels: BTreeMap<String, BundleKernel>,
    /// Warnings for the author.
    pub warnings: Vec<String>,
    /// Size in bytes of the component with the memory that `init` left, if there is a snapshot.
    pub snapshot_size: Option<u64>,
}

/// What the builder is doing. If it crashes or takes too long, the stage shows what caused it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "at", rename_all = "snake_case")]
pub enum BuildStage {
    /// Reading and compiling the component.
    Component,
    /// Running `init`.
    Init,
    /// Compiling and trying a kernel.
    Kernel {
        /// Its name.
        name: String,
    },
    /// The builder is done and has written its report.
    Done,
}
