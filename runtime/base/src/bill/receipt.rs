//! What one request was and cost.

use crate::bill::price::Price;
use crate::names::{FunctionName, RequestId, TenantName};
use crate::refusal::Blame;
use serde::{Deserialize, Serialize};

/// How a request started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum StartKind {
    /// The worker was up and had the function loaded.
    Hot,
    /// A spare was claimed, or the worker loaded the function.
    Warm,
    /// A process was started.
    Cold,
}

impl StartKind {
    /// The word for headers and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Hot => "hot",
            Self::Warm => "warm",
            Self::Cold => "cold",
        }
    }
}

/// What GPU time was measured with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum GpuClock {
    /// The GPU's timestamps.
    Gpu,
    /// The host's clock around the submission.
    Wall,
}

/// What a request was and cost. Times are in microseconds, GPU time in nanoseconds.
///
/// `admit_us + start_us + guest_us + gpu_wait_us + io_us + respond_us` is `wall_us`, but for what the processor was busy with
/// something else.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Receipt {
    /// The request.
    #[schema(value_type = String, format = "uuid")]
    pub request: RequestId,
    /// Whose function.
    #[schema(value_type = String)]
    pub tenant: TenantName,
    /// Which function.
    #[schema(value_type = String)]
    pub function: FunctionName,
    /// Which version of it.
    pub version: u32,
    /// When it was admitted, RFC 3339.
    #[schema(value_type = String, format = DateTime)]
    pub time: jiff::Timestamp,
    /// How it started.
    pub start: Option<StartKind>,
    /// Waiting for admission.
    pub admit_us: u64,
    /// Waiting for room for a worker on a GPU.
    #[serde(default)]
    pub capacity_us: u64,
    /// From the claim on a worker to the first guest instruction, that wait included.
    pub start_us: u64,
    /// Compiling kernels.
    pub kernels_us: u64,
    /// Bringing assets to the GPU, beside other work or as a part of `gpu_wait_us`.
    #[serde(default)]
    pub assets_us: u64,
    /// CPU time of the guest.
    pub guest_us: u64,
    /// Waiting for the GPU, its work included, or for a kernel to be compiled.
    pub gpu_wait_us: u64,
    /// Waiting for bodies, timers and outbound requests.
    pub io_us: u64,
    /// From the guest's end to the last byte of its answer.
    pub respond_us: u64,
    /// GPU time.
    pub gpu_ns: u64,
    /// Where GPU time came from.
    pub gpu_clock: GpuClock,
    /// Submissions to the GPU.
    pub slices: u64,
    /// The most GPU memory held at once.
    pub gpu_memory_peak_bytes: u64,
    /// From admission to the last byte.
    pub wall_us: u64,
    /// Bytes of the request's body.
    pub bytes_in: u64,
    /// Bytes of the response's body.
    pub bytes_out: u64,
    /// Bytes of outbound requests and their answers.
    pub egress_bytes: u64,
    /// The response's status; 0 if none was sent.
    pub status: u16,
    /// The code of what went wrong.
    pub error: Option<String>,
    /// What went wrong, in words.
    pub error_detail: Option<String>,
    /// Whose fault that was.
    pub fault: Option<Blame>,
    /// The class of the GPU, once there was one.
    pub class: Option<String>,
    /// What its work cost then.
    pub price: Price,
    /// GPU time that is charged.
    pub gpu_ms: u64,
    /// CPU time that is charged.
    pub cpu_ms: u64,
    /// What it costs for the GPU.
    pub gpu_micro_units: u64,
    /// What it costs for the CPU.
    pub cpu_micro_units: u64,
}

impl Receipt {
    /// The receipt of a request that has just been admitted.
    pub fn open(request: RequestId, tenant: TenantName, function: FunctionName, version: u32, price: Price) -> Self {
        Self {
            request,
            tenant,
            function,
            version,
            time: jiff::Timestamp::now(),
            start: None,
            admit_us: 0,
            capacity_us: 0,
            start_us: 0,
            kernels_us: 0,
            assets_us: 0,
            guest_us: 0,
            gpu_wait_us: 0,
            io_us: 0,
            respond_us: 0,
            gpu_ns: 0,
            gpu_clock: GpuClock::Gpu,
            slices: 0,
            gpu_memory_peak_bytes: 0,
            wall_us: 0,
            bytes_in: 0,
            bytes_out: 0,
            egress_bytes: 0,
            status: 0,
            error: None,
            error_detail: None,
            fault: None,
            class: None,
            price,
            gpu_ms: 0,
            cpu_ms: 0,
            gpu_micro_units: 0,
            cpu_micro_units: 0,
        }
    }

    /// What it costs.
    pub fn micro_units(&self) -> u64 {
        self.gpu_micro_units.saturating_add(self.cpu_micro_units)
    }

    /// Works out what it costs.
    pub fn charge(&mut self) {
        if self.fault == Some(Blame::Platform) {
            return;
        }
        let cost = self.price.of_work(self.gpu_ns, self.guest_us);
        (self.gpu_ms, self.cpu_ms) = (cost.gpu_ms, cost.cpu_ms);
        (self.gpu_micro_units, self.cpu_micro_units) = (cost.gpu_micro_units, cost.cpu_micro_units);
    }
}
