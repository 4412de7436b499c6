//! Step 8: closes the tab of every admitted request, exactly once, whatever happened, and writes it into the ledger.
//!
//! A [`Tab`] is opened by admission and travels with the request. Whoever drops it closes it: a finished answer, a client
//! that left, a panic. Closing makes one [`Receipt`], which is one line of the [`Ledger`]; usage and invoices are sums of
//! lines.

use crate::admit::account::Account;
use crate::egress::Tally;
use crate::hop::Work;
use crate::names::{FunctionName, RequestId, TenantName};
use crate::respond::Blame;
use crate::route::Target;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::{Duration, Instant};

mod ledger;
pub mod price;
mod segment;
pub mod usage;

pub use ledger::{ByDay, Ledger, LedgerError, Totals};
use price::Price;

/// Words about what went wrong that are kept.
const DETAIL_CHARACTERS_MAX: usize = 2000;

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
    fn open(request: RequestId, tenant: TenantName, function: FunctionName, version: u32, price: Price) -> Self {
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
    fn charge(&mut self) {
        if self.fault == Some(Blame::Platform) {
            return;
        }
        let cost = self.price.of_work(self.gpu_ns, self.guest_us);
        (self.gpu_ms, self.cpu_ms) = (cost.gpu_ms, cost.cpu_ms);
        (self.gpu_micro_units, self.cpu_micro_units) = (cost.gpu_micro_units, cost.cpu_micro_units);
    }
}

/// GPU memory that was kept for a function while nobody called it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Resident {
    /// The line's own id.
    pub id: RequestId,
    /// Whose.
    pub tenant: TenantName,
    /// For which function.
    pub function: FunctionName,
    /// For which version of it.
    pub version: u32,
    /// When the span ended.
    pub time: jiff::Timestamp,
    /// How long it was.
    pub span_ms: u64,
    /// How much was kept.
    pub bytes: u64,
    /// On a GPU of this class.
    pub class: String,
    /// What it cost then.
    pub price: Price,
    /// What it costs.
    pub micro_units: u64,
}

/// A line of the ledger.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Line {
    /// An admitted request.
    Request(Box<Receipt>),
    /// Memory kept.
    Resident(Resident),
}

impl Line {
    /// Its id, by which it is counted once.
    pub fn id(&self) -> RequestId {
        match self {
            Self::Request(receipt) => receipt.request,
            Self::Resident(resident) => resident.id,
        }
    }
}

#[derive(Debug)]
struct Open {
    opened: Instant,
    /// When the worker had done its part.
    ended: Option<Instant>,
    /// What the request's worker had held the GPU for without a bill when the request came to it.
    unbilled: Duration,
    receipt: Receipt,
    sent_out: Option<Arc<Tally>>,
}

/// An open tab.
#[derive(Debug)]
pub struct Tab {
    /// Taken when it is closed.
    open: Option<Box<Open>>,
    account: Arc<Account>,
    ledger: Arc<Ledger>,
}

impl Tab {
    /// Opens a tab.
    pub fn open(ledger: &Arc<Ledger>, request: RequestId, target: &Target) -> Self {
        let version = &target.version;
        let (tenant, function) = (version.tenant.clone(), version.function.clone());
        Self::new(ledger, &target.tenant.account, request, tenant, function, version.record.number)
    }

    fn new(
        ledger: &Arc<Ledger>,
        account: &Arc<Account>,
        request: RequestId,
        tenant: TenantName,
        function: FunctionName,
        version: u32,
    ) -> Self {
        let receipt = Receipt::open(request, tenant, function, version, Price::default());
        let open = Open { opened: Instant::now(), ended: None, unbilled: Duration::ZERO, receipt, sent_out: None };
        Self { open: Some(Box::new(open)), account: Arc::clone(account), ledger: Arc::clone(ledger) }
    }

    /// Changes what will be written.
    pub fn note(&mut self, change: impl FnOnce(&mut Receipt)) {
        if let Some(open) = &mut self.open {
            change(&mut open.receipt);
        }
    }

    /// Says where the request runs: what its work costs from here on, and what its worker has held the GPU for without a bill.
    pub fn place(&mut self, class: &str, price: Price, unbilled: Duration) {
        if let Some(open) = &mut self.open {
            open.unbilled = unbilled;
        }
        self.note(|receipt| {
            receipt.class = Some(class.to_owned());
            receipt.price = price;
        });
    }

    /// What the request sends out is counted there, until it is closed.
    pub fn sends_by(&mut self, tally: Option<Arc<Tally>>) {
        if let Some(open) = &mut self.open {
            let before = std::mem::replace(&mut open.sent_out, tally);
            open.receipt.egress_bytes += before.map_or(0, |tally| tally.bytes());
        }
    }

    /// Adds the work that the worker reported.
    pub fn work(&mut self, work: &Work, claim_us: u64) {
        if let Some(open) = &mut self.open {
            open.ended = Some(Instant::now());
        }
        self.note(|receipt| {
            receipt.start_us = claim_us + work.start_ns / 1000;
            receipt.kernels_us = work.kernels_ns / 1000;
            receipt.assets_us = work.assets_ns / 1000;
            receipt.guest_us = work.guest_ns / 1000;
            receipt.gpu_wait_us = work.waited_ns / 1000;
            receipt.io_us = work.io_ns / 1000;
            // Beside what an earlier worker of this request has used.
            receipt.gpu_ns += work.gpu_ns;
            receipt.slices = work.slices;
            receipt.gpu_memory_peak_bytes = work.gpu_memory_peak;
            receipt.gpu_clock = if work.gpu_wall_clock { GpuClock::Wall } else { GpuClock::Gpu };
        });
    }

    /// Adds GPU time whose report is lost.
    pub fn lost(&mut self, gpu_ns: u64) {
        self.note(|receipt| receipt.gpu_ns += gpu_ns);
    }

    /// When the request was admitted, and what its worker had held the GPU for without a bill.
    pub fn began(&self) -> Option<(Instant, Duration)> {
        self.open.as_ref().map(|open| (open.opened, open.unbilled))
    }

    /// The `server-timing` header (W3C Server Timing) for what is known so far, in milliseconds.
    pub fn server_timing(&self) -> String {
        self.open.as_ref().map(|open| server_timing(&open.receipt)).unwrap_or_default()
    }
}

fn server_timing(receipt: &Receipt) -> String {
    #[expect(clippy::cast_precision_loss, reason = "a header for people")]
    let ms = |us: u64| us as f64 / 1000.0;
    #[expect(clippy::cast_precision_loss, reason = "a header for people")]
    let gpu = receipt.gpu_ns as f64 / 1e6;
    format!(
        "admit;dur={:.3}, start;desc=\"{}\";dur={:.3}, kernels;dur={:.3}, guest;dur={:.3}, gpu;dur={gpu:.3}",
        ms(receipt.admit_us),
        receipt.start.map_or("none", StartKind::as_str),
        ms(receipt.start_us),
        ms(receipt.kernels_us),
        ms(receipt.guest_us),
    )
}

fn microseconds(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX)
}

impl Drop for Tab {
    fn drop(&mut self) {
        self.sends_by(None);
        if let Some(open) = self.open.take() {
            let Open { opened, ended, mut receipt, .. } = *open;
            receipt.wall_us = receipt.admit_us.saturating_add(microseconds(opened));
            receipt.respond_us = ended.map_or(0, microseconds);
            if receipt.status == 0 && receipt.error.is_none() {
                receipt.error = Some("client_closed".into());
                receipt.fault = Some(Blame::Caller);
            }
            if let Some(detail) = &mut receipt.error_detail
                && let Some((cut, _)) = detail.char_indices().nth(DETAIL_CHARACTERS_MAX)
            {
                detail.truncate(cut);
            }
            receipt.charge();
            // What was sent out has been counted as it went.
            self.account.add(receipt.time, receipt.gpu_ns, 0, receipt.micro_units());
            self.ledger.write(Line::Request(Box::new(receipt)));
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(crate) mod tests {
    use super::*;
    use crate::store::Store;

    pub(crate) fn ledger(folder: &std::path::Path) -> Arc<Ledger> {
        let (store, _) = Store::open(folder, "x").unwrap();
        Ledger::open(Arc::new(store), 400).unwrap().0
    }

    pub(crate) fn tab(ledger: &Arc<Ledger>, account: &Arc<Account>) -> Tab {
        let (tenant, function) = (TenantName::new("acme").unwrap(), FunctionName::new("blur").unwrap());
        Tab::new(ledger, account, RequestId::new(), tenant, function, 1)
    }

    #[test]
    fn a_dropped_tab_is_closed_once_and_blames_the_client() {
        let folder = tempfile::tempdir().unwrap();
        let (ledger, account) = (ledger(folder.path()), Arc::default());
        let mut open = tab(&ledger, &account);
        let mut id = RequestId::new();
        open.note(|receipt| id = receipt.request);
        drop(open);
        let (receipt, _) = ledger.get(id).unwrap();
        assert_eq!((receipt.error.as_deref(), receipt.fault), (Some("client_closed"), Some(Blame::Caller)));
        assert_eq!(ledger.totals().requests, 1);
    }

    #[test]
    fn a_platform_fault_costs_nothing_and_other_work_its_price() {
        let folder = tempfile::tempdir().unwrap();
        let (ledger, account) = (ledger(folder.path()), Arc::<Account>::default());
        let price = Price { gpu_micro_units_per_s: 1000, cpu_micro_units_per_s: 1000, ..Price::default() };
        for fault in [None, Some(Blame::Function), Some(Blame::Platform)] {
            let mut open = tab(&ledger, &account);
            open.place("any", price, Duration::ZERO);
            open.note(|receipt| {
                (receipt.gpu_ns, receipt.guest_us, receipt.status, receipt.fault) = (2_500_000, 1, 200, fault);
            });
        }
        assert_eq!(account.spent(jiff::Timestamp::now()).micro_units, 2 * (3 + 1));
    }
}
