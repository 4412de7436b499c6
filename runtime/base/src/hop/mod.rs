//! The messages between the front door and its children.
//!
//! Requests go to a worker over socketpairs (the hop), encoded as [`frames`] and [`heads`] say. The front door hands
//! the worker a socket when it needs one more, and each socket carries one request at a time, so that back-pressure and
//! cancelling are those of the socket. Everything else goes in messages over the control socket ([`ToWorker`],
//! [`FromWorker`]). What a request used ([`WorkReport`]) is in the head of the response if the guest has finished by
//! then, and a message on the control socket if the response is streamed.

pub mod build;
pub mod frames;
pub mod heads;
pub mod outbound;
pub mod platform;

use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashSet};

/// Headers of outbound requests between a worker and the front door. Any `x-gannet-` header that a guest sends is
/// removed first.
pub mod header {
    use http::HeaderName;
    /// The version of the guest that calls out.
    pub const VERSION: HeaderName = HeaderName::from_static("x-gannet-hop-version");
    /// The id of the request that calls out.
    pub const REQUEST: HeaderName = HeaderName::from_static("x-gannet-hop-request");
    /// Milliseconds within which the first byte of the response must come.
    pub const DEADLINE: HeaderName = HeaderName::from_static("x-gannet-hop-deadline-ms");
    /// Milliseconds within which the connection must be established.
    pub const CONNECT: HeaderName = HeaderName::from_static("x-gannet-hop-connect-ms");
    /// The request is no outbound HTTP but a call of the platform, in the format of this version; see
    /// [`platform`](super::platform).
    pub const SERVICE: HeaderName = HeaderName::from_static("x-gannet-hop-service");
    /// In a response: the request was refused, and this is the error.
    pub const FAULT: HeaderName = HeaderName::from_static("x-gannet-hop-fault");
}

/// Number that identifies a version within one run of the front door.
pub type VersionKey = u64;

/// The limits of a version that its worker enforces.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunLimits {
    /// Linear memory of an instance, in bytes.
    pub memory_bytes: u64,
    /// CPU time of a request.
    pub cpu_ms: u64,
    /// GPU memory of a request.
    pub gpu_memory_bytes: u64,
    /// GPU time of a request.
    pub gpu_time_ms: u64,
    /// Work of the loops of one invocation of a kernel, in 2^20 weighted operations.
    pub loop_mi_ops: u64,
    /// Log text of a request.
    pub log_bytes: u64,
    /// Time from one part of a streamed response body to the next.
    pub stream_idle_ms: u64,
    /// Time that a streamed response body may take as a whole, or that a guest may run on after its response.
    pub stream_ms: u64,
    /// Time from a request's arrival at the front door to the first byte of its response, waiting included.
    pub timeout_ms: u64,
    /// Requests that one instance serves, one after the other.
    pub instance_reuse: u64,
}

/// What one request may use in place of its version's limits: a background job may use more than a request that a client
/// waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestCaps {
    /// CPU time, in place of [`RunLimits::cpu_ms`].
    pub cpu_ms: u64,
    /// GPU time, in place of [`RunLimits::gpu_time_ms`].
    pub gpu_time_ms: u64,
    /// Time until the head of the response, and again for its body: in place of [`RunLimits::timeout_ms`],
    /// [`RunLimits::stream_ms`] and [`RunLimits::stream_idle_ms`].
    pub timeout_ms: u64,
}

/// What a worker needs to run a version. It is sent as a file, because kernels can be longer than a frame.
#[derive(Clone, Serialize, Deserialize)]
pub struct Bundle {
    /// The function's name, for log lines and errors.
    pub function: String,
    /// The kernels that the version declares, by name.
    pub kernels: BTreeMap<String, BundleKernel>,
    /// The version's assets, in the order of the descriptors that are sent with the bundle.
    #[serde(default)]
    pub assets: Vec<BundleAsset>,
    /// Whether the version's assets stay on the GPU without requests (`scale.min`).
    #[serde(default)]
    pub keep: bool,
    /// The version's environment.
    pub env: BTreeMap<String, String>,
    /// The version's secrets, decrypted. Only this file, which is in memory, and the worker contain them.
    pub secrets: BTreeMap<String, String>,
    /// The limits that the worker enforces.
    pub limits: RunLimits,
}

/// An asset of a version.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct BundleAsset {
    /// The function's name for the asset.
    pub name: String,
    /// SHA-256 of its bytes, in hex.
    pub digest: String,
    /// Its size in bytes.
    pub size: u64,
}

/// A declared kernel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BundleKernel {
    /// The WGSL source, as declared.
    pub wgsl: String,
    /// Name of the entry point.
    pub entry: String,
    /// The hardened WGSL, for people to read. Absent in a worker's bundle, and for a kernel that is compiled only when
    /// the guest opens it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hardened: Option<String>,
}

/// Which layers of confinement are in force in a child.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Confinement {
    /// The child runs as a user of its own.
    pub own_user: bool,
    /// Landlock is in force, with all features that the kernel supports.
    pub landlock: bool,
    /// The seccomp filter is in force on all threads.
    pub seccomp: bool,
    /// The child can read its own folder. This is not a layer, but without the folder the driver has no cache.
    pub own_folder: bool,
}

impl Confinement {
    /// Returns the required layers that are missing. A user of its own is not required, because only root can change
    /// users.
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

/// A message from the front door to a worker.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
pub enum ToWorker {
    /// Load a version. The descriptors in the frame are the compiled component, the [`Bundle`], and the version's
    /// assets.
    Load {
        /// Its number.
        version: VersionKey,
    },
    /// Unload a version. No request of it is in flight.
    Unload {
        /// Its number.
        version: VersionKey,
    },
    /// Serve requests on the socket that comes with this message.
    Connect,
    /// Send outbound requests over the socket in the frame.
    Egress,
    /// End a request that still runs. Its report follows.
    Stop {
        /// The request's id.
        request: crate::names::RequestId,
    },
    /// Refuse these kernels from now on. The list replaces the previous one and has a few hundred entries at most.
    Quarantine {
        /// Hashes of the kernels' sources and entry points.
        sources: HashSet<[u8; 32]>,
    },
}

/// A message from a worker to the front door.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "snake_case")]
pub enum FromWorker {
    /// The worker is ready: the device is open, and the runtime and the confinement are set up.
    Ready {
        /// The layers of confinement that are in force.
        confinement: Confinement,
        /// The GPU's name, if one was opened.
        gpu: Option<String>,
    },
    /// A version was loaded, or could not be loaded.
    Loaded {
        /// Its number.
        version: VersionKey,
        /// Why the version could not be loaded.
        error: Option<String>,
    },
    /// What requests that have run for a while have used so far.
    Progress {
        /// The requests.
        requests: Vec<RequestProgress>,
    },
    /// What a request used, if its response was streamed.
    Work {
        /// The request's id.
        request: crate::names::RequestId,
        /// What the request used.
        work: WorkReport,
    },
}

/// What a running request has used so far. Times are in nanoseconds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestProgress {
    /// The request's id.
    pub request: crate::names::RequestId,
    /// CPU time of the guest.
    pub guest_ns: u64,
    /// GPU time.
    pub gpu_ns: u64,
}

/// What a request used in its worker. Times are in nanoseconds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkReport {
    /// From the request's arrival in the worker to the guest's first instruction.
    pub start_ns: u64,
    /// CPU time of the guest.
    pub guest_ns: u64,
    /// Time in which kernels were compiled.
    pub kernels_ns: u64,
    /// GPU time.
    pub gpu_ns: u64,
    /// Number of slices (submissions to the GPU).
    pub slices: u64,
    /// Time in which the guest waited for the GPU or for a kernel to be compiled.
    pub gpu_wait_ns: u64,
    /// Time in which assets were uploaded to the GPU: parallel to other work, or while the guest waited.
    #[serde(default)]
    pub assets_ns: u64,
    /// Time in which the guest waited for anything else: bodies, timers, outbound requests.
    pub io_ns: u64,
    /// Largest amount of GPU memory held at one time, in bytes.
    pub gpu_memory_peak: u64,
    /// Whether `gpu_ns` is wall time, because the device has no timestamps.
    pub gpu_wall_clock: bool,
    /// Whether work of the request is still on the GPU: the numbers are not final, and another report follows as a
    /// message.
    #[serde(default)]
    pub unsettled: bool,
    /// Why the guest failed, if it did.
    pub fault: Option<Fault>,
}

/// Why a guest failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// The kind of failure.
    pub code: FaultCode,
    /// Description for people, with the value and the limit.
    pub detail: String,
}

/// The kinds of failures of guests that a worker reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FaultCode {
    /// The guest trapped, responded with an error, or ended without a response.
    FunctionTrapped,
    /// The guest used up its CPU time, or took too long to respond or to stream its response.
    DeadlineExceeded,
    /// The guest reached its memory limit.
    MemoryLimit,
    /// The worker could not run the guest.
    Unavailable,
}

/// A line of a guest's log.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LogFrame {
    /// The version whose guest wrote the line.
    pub version: VersionKey,
    /// The request that the guest served when it wrote the line.
    pub request: crate::names::RequestId,
    /// The stream that the guest wrote to.
    pub stream: LogStream,
    /// The line, without the line break.
    pub text: String,
    /// Number of lines dropped before this one, because the front door did not read fast enough.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub lost: u64,
}

/// The stream that a guest wrote a line to.
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
