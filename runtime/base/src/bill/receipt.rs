//! The receipt of one request: what it was, where its time went, what it used and what it cost.

use crate::bill::price::Price;
use crate::names::{FunctionName, RequestId, TenantName};
use crate::refusal::{Blame, MEMORY_LIMIT, Refusal};
use serde::{Deserialize, Serialize};

/// How a request started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum StartKind {
    /// A worker was running and had the version loaded.
    Hot,
    /// A spare was claimed, or a running worker loaded the version.
    Warm,
    /// A worker process was started.
    Cold,
}

impl StartKind {
    /// Returns the word for headers and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Hot => "hot",
            Self::Warm => "warm",
            Self::Cold => "cold",
        }
    }
}

/// The clock that measured the GPU time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum GpuClock {
    /// Timestamps of the GPU.
    Gpu,
    /// The host's clock around each submission, because the device has no timestamps.
    Wall,
}

/// What a request was, used and cost. Times are in microseconds, GPU time in nanoseconds.
///
/// `admit_us + start_us + guest_us + gpu_wait_us + io_us + respond_us` is `wall_us`, with two exceptions: time in which
/// the processor was busy with something else, and the CPU time of making the instance, which is in `guest_us` and may
/// have passed before the request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Receipt {
    /// The request's id.
    #[schema(value_type = String, format = "uuid")]
    pub request: RequestId,
    /// The tenant that owns the function.
    #[schema(value_type = String)]
    pub tenant: TenantName,
    /// The function that was called.
    #[schema(value_type = String)]
    pub function: FunctionName,
    /// Number of the version that served the request.
    pub version: u32,
    /// The background job that the request is an attempt of, if it is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<String>,
    /// Number of the attempt; the first is 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt: Option<u32>,
    /// The batch that the job belongs to, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch: Option<String>,
    /// The schedule that made the job, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schedule: Option<String>,
    /// The request whose function sent this one, if it is a call by another function of the tenant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = "uuid")]
    pub parent: Option<RequestId>,
    /// How many calls led to this one, itself included; absent if it is no such call.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub depth: Option<u8>,
    /// Calls of other functions of the tenant that the request made.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub sibling_calls: u64,
    /// What those of them cost that had ended before the request, with their own calls. It is charged on their receipts,
    /// not on this one.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub sibling_micro_units: u64,
    /// When the request was admitted, RFC 3339.
    #[schema(value_type = String, format = DateTime)]
    pub time: jiff::Timestamp,
    /// How the request started; absent if it got no worker.
    pub start: Option<StartKind>,
    /// Time in admission, including the wait for permits.
    pub admit_us: u64,
    /// Wait until a GPU had room for a worker.
    #[serde(default)]
    pub capacity_us: u64,
    /// From the claim of a worker to the guest's first instruction, including `capacity_us`.
    pub start_us: u64,
    /// Time in which kernels were compiled.
    pub kernels_us: u64,
    /// Time in which assets were uploaded to the GPU: parallel to other work, or as part of `gpu_wait_us`.
    #[serde(default)]
    pub assets_us: u64,
    /// CPU time of the guest.
    pub guest_us: u64,
    /// Time in which the guest waited for the GPU or for a kernel to be compiled. Includes the GPU's work.
    pub gpu_wait_us: u64,
    /// Time in which the guest waited for bodies, timers and outbound requests.
    pub io_us: u64,
    /// From the guest's end to the last byte of the response.
    pub respond_us: u64,
    /// GPU time measured.
    pub gpu_ns: u64,
    /// The clock that measured `gpu_ns`.
    pub gpu_clock: GpuClock,
    /// Number of slices (submissions to the GPU).
    pub slices: u64,
    /// Largest amount of GPU memory held at one time.
    pub gpu_memory_peak_bytes: u64,
    /// From the start of admission to the last byte of the response.
    pub wall_us: u64,
    /// Size of the request's body.
    pub bytes_in: u64,
    /// Size of the response's body.
    pub bytes_out: u64,
    /// Bytes of outbound requests and their responses.
    pub egress_bytes: u64,
    /// Status of the response; 0 if none was sent.
    pub status: u16,
    /// Stable code of the error; absent if the request succeeded.
    pub error: Option<String>,
    /// The error in words.
    pub error_detail: Option<String>,
    /// The limit of the manifest that the function reached, such as `memory_mib`, where the code does not tell it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reached: Option<String>,
    /// Who is at fault for the error.
    pub fault: Option<Blame>,
    /// Class of its worker's GPU; absent if the request got no worker.
    pub class: Option<String>,
    /// Number of the GPU slot of its worker (`place` in the list of GPUs).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slot: Option<usize>,
    /// The prices in force at that time.
    pub price: Price,
    /// GPU time charged, in milliseconds.
    pub gpu_ms: u64,
    /// CPU time charged, in milliseconds.
    pub cpu_ms: u64,
    /// Charge for GPU time.
    pub gpu_micro_units: u64,
    /// Charge for CPU time.
    pub cpu_micro_units: u64,
}

impl Receipt {
    /// Says why the request failed.
    pub fn fail(&mut self, refusal: &Refusal) {
        self.error = Some(refusal.code.to_owned());
        self.error_detail = Some(refusal.public.clone());
        self.reached = refusal.is_out_of_memory.then(|| MEMORY_LIMIT.to_owned());
        self.fault = Some(refusal.blame);
    }

    /// Returns the receipt of a request that has just been admitted.
    pub fn open(request: RequestId, tenant: TenantName, function: FunctionName, version: u32, price: Price) -> Self {
        Self {
            request,
            tenant,
            function,
            version,
            job: None,
            attempt: None,
            batch: None,
            schedule: None,
            parent: None,
            depth: None,
            sibling_calls: 0,
            sibling_micro_units: 0,
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
            reached: None,
            fault: None,
            class: None,
            slot: None,
            price,
            gpu_ms: 0,
            cpu_ms: 0,
            gpu_micro_units: 0,
            cpu_micro_units: 0,
        }
    }

    /// Returns the total charge.
    pub fn micro_units(&self) -> u64 {
        self.gpu_micro_units.saturating_add(self.cpu_micro_units)
    }

    /// Computes the charges from the measured times. A platform fault leaves them at zero.
    pub fn charge(&mut self) {
        if self.fault == Some(Blame::Platform) {
            return;
        }
        let cost = self.price.of_work(self.gpu_ns, self.guest_us);
        (self.gpu_ms, self.cpu_ms) = (cost.gpu_ms, cost.cpu_ms);
        (self.gpu_micro_units, self.cpu_micro_units) = (cost.gpu_micro_units, cost.cpu_micro_units);
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde wants a reference")]
fn is_zero(n: &u64) -> bool {
    *n == 0
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn only_receipts_of_jobs_name_one_and_lines_from_before_jobs_are_read() {
        let name = |text| TenantName::new(text).unwrap();
        let mut receipt =
            Receipt::open(RequestId::new(), name("acme"), FunctionName::new("blur").unwrap(), 1, Price::default());
        let line = serde_json::to_string(&receipt).unwrap();
        for field in ["job", "attempt", "batch", "schedule", "parent", "depth", "sibling_calls", "sibling_micro_units"]
        {
            assert!(!line.contains(&format!("\"{field}\"")), "{line}");
        }
        assert_eq!(serde_json::from_str::<Receipt>(&line).unwrap(), receipt);
        (receipt.job, receipt.attempt) = (Some("j".into()), Some(2));
        (receipt.batch, receipt.schedule) = (Some("b".into()), Some("s".into()));
        (receipt.parent, receipt.depth, receipt.sibling_calls) = (Some(RequestId::new()), Some(2), 3);
        let line = serde_json::to_string(&receipt).unwrap();
        assert_eq!(serde_json::from_str::<Receipt>(&line).unwrap(), receipt);
    }
}
