//! What the front door and a builder say to each other: the order, the stages that the builder is at, and its report.

use crate::hop::{BundleAsset, BundleKernel};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Why an upload is not good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RejectCode {
    /// It is not a component that can be served.
    ComponentInvalid,
    /// One of its kernels is not good.
    KernelRejected,
    /// Its `init` did not end well, or left what cannot be kept.
    InitFailed,
}

impl RejectCode {
    /// The stable code.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ComponentInvalid => "component_invalid",
            Self::KernelRejected => "kernel_rejected",
            Self::InitFailed => "init_failed",
        }
    }

    /// What to do about it.
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
    /// What kind.
    pub code: RejectCode,
    /// What is wrong, with the place.
    pub detail: String,
}

/// What the builder is asked to do, as a file for the child.
#[derive(Debug, Serialize, Deserialize)]
pub struct BuildSpec {
    /// The GPU to try kernels on.
    pub gpu: Option<u32>,
    /// Whether components for `wasi:http/service` 0.3 are accepted.
    pub wasi_http_0_3: bool,
    /// What its `init` is run with, if it has a snapshot.
    pub snapshot: Option<InitSpec>,
}

/// What a component's `init` sees. The assets' files are the descriptors behind the builder's own, in the same order.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct InitSpec {
    /// Its environment, without secrets.
    pub env: BTreeMap<String, String>,
    /// Its assets.
    pub assets: Vec<BundleAsset>,
    /// The memory that it may take.
    pub memory_bytes: u64,
    /// The most bytes of the component with the memory that it leaves.
    pub bytes_max: u64,
}

/// What the child found.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct BuildReport {
    /// The kernels, by name.
    pub kernels: BTreeMap<String, BundleKernel>,
    /// What its author should know.
    pub warnings: Vec<String>,
    /// Size of the component with what `init` left in memory, if it has a snapshot.
    pub snapshot_size: Option<u64>,
}

/// What the child is doing, so that a crash or a timeout can be blamed.
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
    /// Done; the report is written.
    Done,
}
