//! What the front door and its children say to each other.
//!
//! Requests travel as HTTP/1.1 over socketpairs that are handed to the worker as they are needed,
//! one request at a time on each, so that back-pressure and cancelling are the socket's own. What
//! is not HTTP goes in frames over the control socket ([`ToWorker`], [`FromWorker`]). What a
//! request took ([`WorkReport`]) is a header of the answer when it has finished, and a frame when its answer is streamed.

pub mod build;
pub mod outbound;

use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashSet};

/// Headers on the hop only. Whatever a client or a guest sends under `x-gannet-` is removed first.
pub mod header {
    use http::HeaderName;
    /// Which loaded version runs.
    pub const VERSION: HeaderName = HeaderName::from_static("x-gannet-hop-version");
    /// The request's id.
    pub const REQUEST: HeaderName = HeaderName::from_static("x-gannet-hop-request");
    /// Milliseconds until the first byte must be there.
    pub const DEADLINE: HeaderName = HeaderName::from_static("x-gannet-hop-deadline-ms");
    /// The work done, as JSON, when it is known before the head.
    pub const WORK: HeaderName = HeaderName::from_static("x-gannet-hop-work");
    /// Marks an answer that is not the guest's but says that the guest failed.
    pub const FAULT: HeaderName = HeaderName::from_static("x-gannet-hop-fault");
}

/// Number of a version inside one run of the front door.
pub type VersionKey = u64;

/// What a version may use, as its worker enforces it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunLimits {
    /// Linear memory of an instance.
    pub memory_bytes: u64,
    /// CPU time of a request.
    pub cpu_ms: u64,
    /// GPU memory of a request.
    pub gpu_memory_bytes: u64,
    /// GPU time of a request.
    pub gpu_time_ms: u64,
    /// Log text of a request.
    pub log_bytes: u64,
    /// From one part of a streamed body to the next.
    pub stream_idle_ms: u64,
    /// A streamed body as a whole.
    pub stream_ms: u64,
    /// Until the first byte of an answer, waiting included.
    pub timeout_ms: u64,
    /// Requests that one instance serves.
    pub instance_reuse: u64,
}

/// A version as its worker needs it. It travels as a file, since kernels can be long.
#[derive(Clone, Serialize, Deserialize)]
pub struct Bundle {
    /// The function's name, for messages.
    pub function: String,
    /// Its declared kernels.
    pub kernels: BTreeMap<String, BundleKernel>,
    /// Its assets, in the order of the descriptors beside the bundle.
    #[serde(default)]
    pub assets: Vec<BundleAsset>,
    /// Whether its assets stay on the GPU while nobody calls.
    #[serde(default)]
    pub keep: bool,
    /// Its environment.
    pub env: BTreeMap<String, String>,
    /// Its secrets, open. They are in this file, which is in memory only, and in the worker.
    pub secrets: BTreeMap<String, String>,
    /// Its limits.
    pub limits: RunLimits,
}

/// An asset of a version.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct BundleAsset {
    /// What the version calls it.
    pub name: String,
    /// SHA-256 of its bytes.
    pub digest: String,
    /// Its size in bytes.
    pub size: u64,
}

/// A declared kernel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BundleKernel {
    /// The WGSL.
    pub wgsl: String,
    /// The entry point.
    pub entry: String,
    /// The hardened WGSL, for people; none for one that is compiled only when it is opened, and in a worker's bundle.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hardened: Option<String>,
}

/// Which layers hold in a child.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Confinement {
    /// It runs as a user that nothing else runs as.
    pub own_user: bool,
    /// Landlock, with all that the kernel offers of it.
    pub landlock: bool,
    /// seccomp, on all threads.
    pub seccomp: bool,
    /// It reaches its own folder. Not a layer: without it the driver has no cache.
    pub own_folder: bool,
}

impl Confinement {
    /// The layers that are missing and are not a choice: without root there is no other user to be.
    pub fn missing(&self) -> Vec<&'static str> {
        let mut missing = Vec::new();
        if !self.landlock {
            missing.push("landlock");
        }
        if !self.seccomp {
            missing.push("seccomp");
        }
        missing
    }
}

/// Front door to worker.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
pub enum ToWorker {
    /// Load a version; beside it the compiled component, the bundle, and its assets.
    Load {
        /// Its number.
        version: VersionKey,
    },
    /// Forget a version; no request of it is under way.
    Unload {
        /// Its number.
        version: VersionKey,
    },
    /// Serve HTTP on the socket beside it.
    Connect,
    /// Send outbound requests by the socket beside it.
    Egress,
    /// From now on refuse these kernels, and no others: a few hundred at most.
    Quarantine {
        /// Hashes of their sources.
        sources: HashSet<[u8; 32]>,
    },
}

/// Worker to front door.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "snake_case")]
pub enum FromWorker {
    /// Device, runtime and confinement are up.
    Ready {
        /// The layers that hold.
        confinement: Confinement,
        /// The GPU's name, if one was opened.
        gpu: Option<String>,
    },
    /// A version was loaded, or why not.
    Loaded {
        /// Its number.
        version: VersionKey,
        /// What went wrong.
        error: Option<String>,
    },
    /// The work of a request whose answer was streamed.
    Work {
        /// The request.
        request: crate::names::RequestId,
        /// What it took.
        work: WorkReport,
    },
}

/// What a request took inside its worker. Nanoseconds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkReport {
    /// From the request's arrival in the worker to the first guest instruction.
    pub start_ns: u64,
    /// CPU time of the guest.
    pub guest_ns: u64,
    /// Compiling kernels.
    pub kernels_ns: u64,
    /// GPU time.
    pub gpu_ns: u64,
    /// Submissions to the GPU.
    pub slices: u64,
    /// Waiting for the GPU or a compiler.
    pub gpu_wait_ns: u64,
    /// Bringing assets to the GPU, beside other work or while the guest waited.
    #[serde(default)]
    pub assets_ns: u64,
    /// Waiting for anything else: bodies, timers, outbound requests.
    pub io_ns: u64,
    /// The most GPU memory held at once, in bytes.
    pub gpu_memory_peak: u64,
    /// Whether GPU time is wall time, because the device has no timestamps.
    pub gpu_wall_clock: bool,
    /// Why the guest failed.
    pub fault: Option<Fault>,
}

/// Why a guest failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// What kind.
    pub code: FaultCode,
    /// For people: the value and the limit.
    pub detail: String,
}

/// The kinds of failure that a worker can report of a guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FaultCode {
    /// It trapped, or ended without an answer.
    FunctionTrapped,
    /// It used up its CPU time or its time to answer.
    DeadlineExceeded,
    /// It passed its memory limit.
    MemoryLimit,
    /// The worker could not run it.
    Unavailable,
}

/// One piece of log.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LogFrame {
    /// The version that wrote it.
    pub version: VersionKey,
    /// The request it was written in.
    pub request: crate::names::RequestId,
    /// `stdout` or `stderr`.
    pub stream: LogStream,
    /// One line, without its end.
    pub text: String,
    /// Lines lost before this one, because the front door did not read fast enough.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub lost: u64,
}

/// Where a line was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum LogStream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde wants a reference")]
fn is_zero(n: &u64) -> bool {
    *n == 0
}
