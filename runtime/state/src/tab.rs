//! Step 8 of a request: closes the tab of every admitted request, exactly once, whatever happened, and writes it into
//! the ledger.
//!
//! A [`Tab`] is opened by admission and travels with the request. Dropping it closes it: at the end of the response,
//! when the client disconnects, or in a panic. Closing makes one [`Receipt`], which is one line of the [`Ledger`].
//! Usage and invoices are sums of lines.

use crate::ledger::Ledger;
use gannet_base::bill::outbound::OutboundUse;
use gannet_base::bill::price::Price;
use gannet_base::bill::{GpuClock, LedgerLine, Receipt, StartKind};
use gannet_base::headers::header_value;
use gannet_base::hop::WorkReport;
use gannet_base::names::{FunctionName, RequestId, TenantName};
use gannet_base::quota::account::{Amount, Reservation, UsualAmount, WorkTimes};
use gannet_base::refusal::Blame;
use http::HeaderValue;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Error details in a receipt are truncated to this many characters.
const DETAIL_CHARACTERS_MAX: usize = 2000;

#[derive(Debug)]
struct OpenTab {
    opened: Instant,
    /// When the worker reported its work. None before.
    ended: Option<Instant>,
    /// Time that the worker had held the GPU without any request being billed for it, at the moment it got this
    /// request.
    unbilled: Duration,
    receipt: Box<Receipt>,
    outbound: Option<Arc<OutboundUse>>,
    /// Counts what this request costs for its caller, if it is a call by another function.
    caller: Option<Arc<OutboundUse>>,
}

/// The open bill of one request. Dropping it closes it.
#[derive(Debug)]
pub struct Tab {
    /// None once the tab is closed.
    open: Option<OpenTab>,
    /// What the request uses, as far as it is known while it runs.
    reservation: Arc<Reservation>,
    usual: Arc<UsualAmount>,
    ledger: Arc<Ledger>,
}

impl Tab {
    /// Opens the tab of an admitted request. `usual` learns what it used.
    pub fn open(
        ledger: &Arc<Ledger>,
        (reservation, usual): (Reservation, &Arc<UsualAmount>),
        request: RequestId,
        tenant: TenantName,
        function: FunctionName,
        version: u32,
    ) -> Self {
        let receipt = Box::new(Receipt::open(request, tenant, function, version, Price::default()));
        let (opened, unbilled) = (Instant::now(), Duration::ZERO);
        let open = OpenTab { opened, ended: None, unbilled, receipt, outbound: None, caller: None };
        let (reservation, usual) = (Arc::new(reservation), Arc::clone(usual));
        Self { open: Some(open), reservation, usual, ledger: Arc::clone(ledger) }
    }

    /// Returns what counts the request's use while it runs.
    pub fn reservation(&self) -> &Arc<Reservation> {
        &self.reservation
    }

    /// Changes the receipt that will be written.
    pub fn update_receipt(&mut self, change: impl FnOnce(&mut Receipt)) {
        if let Some(open) = &mut self.open {
            change(&mut open.receipt);
        }
    }

    /// Records where the request runs: the GPU class, its price, and the worker's GPU time that no request was billed
    /// for.
    pub fn runs_on(&mut self, class: &str, price: Price, unbilled: Duration) {
        if let Some(open) = &mut self.open {
            open.unbilled = unbilled;
        }
        self.reservation.set_price(price);
        self.update_receipt(|receipt| {
            receipt.class = Some(class.to_owned());
            receipt.price = price;
        });
    }

    /// Sets the counter of the request's outbound HTTP. What an earlier one has counted is added to the receipt.
    pub fn count_outbound(&mut self, counter: Option<Arc<OutboundUse>>) {
        if let Some(open) = &mut self.open {
            let before = std::mem::replace(&mut open.outbound, counter);
            let Some(before) = before else { return };
            open.receipt.egress_bytes += before.bytes();
            let (calls, micro_units) = before.siblings();
            open.receipt.sibling_calls += calls;
            open.receipt.sibling_micro_units += micro_units;
        }
    }

    /// Records that the request is a call by the function that serves the request `parent`, whose counter is `counter`.
    pub fn called_by(&mut self, parent: RequestId, depth: u8, counter: Arc<OutboundUse>) {
        if let Some(open) = &mut self.open {
            (open.receipt.parent, open.receipt.depth, open.caller) = (Some(parent), Some(depth), Some(counter));
        }
    }

    /// Adds the work that the worker reported. `claim_us` is the time that claiming the worker took.
    pub fn work(&mut self, work: &WorkReport, claim_us: u64) {
        if let Some(open) = &mut self.open {
            open.ended = Some(Instant::now());
        }
        self.update_receipt(|receipt| {
            receipt.start_us = claim_us + work.start_ns / 1000;
            receipt.kernels_us = work.kernels_ns / 1000;
            receipt.assets_us = work.assets_ns / 1000;
            receipt.gpu_wait_us = work.gpu_wait_ns / 1000;
            receipt.io_us = work.io_ns / 1000;
            // Added, because an earlier worker of this request may have worked too.
            receipt.guest_us += work.guest_ns / 1000;
            receipt.gpu_ns += work.gpu_ns;
            receipt.slices = work.slices;
            receipt.gpu_memory_peak_bytes = work.gpu_memory_peak;
            receipt.gpu_clock = if work.gpu_wall_clock { GpuClock::Wall } else { GpuClock::Gpu };
        });
    }

    /// Adds what no report covers, because the worker ended without one or does not send it.
    pub fn add_lost_work(&mut self, times: WorkTimes) {
        let longest = self.open.as_ref().map_or(0, |open| microseconds(open.opened));
        self.update_receipt(|receipt| {
            receipt.gpu_ns += times.gpu_ns;
            receipt.guest_us = (receipt.guest_us + times.guest_ns / 1000).min(longest);
        });
    }

    /// Returns when the request was admitted, and the unbilled GPU time that [`Tab::runs_on`] was given.
    pub fn opening(&self) -> Option<(Instant, Duration)> {
        self.open.as_ref().map(|open| (open.opened, open.unbilled))
    }

    /// Returns the value of the `server-timing` header (W3C Server Timing) for what is known so far, in milliseconds.
    pub fn server_timing(&self) -> Option<HeaderValue> {
        server_timing(&self.open.as_ref()?.receipt)
    }
}

fn server_timing(receipt: &Receipt) -> Option<HeaderValue> {
    #[expect(clippy::cast_precision_loss, reason = "a header for people")]
    let ms = |us: u64| us as f64 / 1000.0;
    #[expect(clippy::cast_precision_loss, reason = "a header for people")]
    let gpu = receipt.gpu_ns as f64 / 1e6;
    header_value(format_args!(
        "admit;dur={:.3}, start;desc=\"{}\";dur={:.3}, kernels;dur={:.3}, guest;dur={:.3}, gpu;dur={gpu:.3}",
        ms(receipt.admit_us),
        receipt.start.map_or("none", StartKind::as_str),
        ms(receipt.start_us),
        ms(receipt.kernels_us),
        ms(receipt.guest_us),
    ))
}

fn microseconds(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX)
}

impl Drop for Tab {
    fn drop(&mut self) {
        self.count_outbound(None);
        if let Some(open) = self.open.take() {
            let OpenTab { opened, ended, mut receipt, caller, .. } = open;
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
            if let Some(caller) = caller {
                caller.add_sibling_cost(receipt.micro_units().saturating_add(receipt.sibling_micro_units));
            }
            // Without outbound bytes: those were added to the account while they were transferred.
            let amount = Amount { gpu_ns: receipt.gpu_ns, micro_units: receipt.micro_units() };
            self.reservation.settle(receipt.time, amount);
            if receipt.fault != Some(Blame::Platform) {
                self.usual.count(amount);
            }
            self.ledger.write(LedgerLine::Request(receipt));
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(crate) mod tests {
    use super::*;
    use crate::store::Store;
    use gannet_base::quota::account::TenantCounters;

    pub(crate) fn ledger(folder: &std::path::Path) -> Arc<Ledger> {
        let (store, _) = Store::open(folder, "x").unwrap();
        Ledger::open(Arc::new(store), 400).unwrap().0
    }

    pub(crate) fn tab(ledger: &Arc<Ledger>, account: &Arc<TenantCounters>) -> Tab {
        let (tenant, function) = (TenantName::new("acme").unwrap(), FunctionName::new("blur").unwrap());
        let reservation = account.reserve(jiff::Timestamp::now(), Amount::default()).unwrap();
        Tab::open(ledger, (reservation, &Arc::default()), RequestId::new(), tenant, function, 1)
    }

    #[test]
    fn a_dropped_tab_is_closed_once_and_blames_the_client() {
        let folder = tempfile::tempdir().unwrap();
        let (ledger, account) = (ledger(folder.path()), Arc::default());
        let mut open = tab(&ledger, &account);
        let mut id = RequestId::new();
        open.update_receipt(|receipt| id = receipt.request);
        drop(open);
        let (receipt, _) = ledger.get(id).unwrap();
        assert_eq!((receipt.error.as_deref(), receipt.fault), (Some("client_closed"), Some(Blame::Caller)));
        assert_eq!(ledger.totals().requests, 1);
    }

    #[test]
    fn what_a_call_costs_is_told_to_its_caller_and_charged_once() {
        let folder = tempfile::tempdir().unwrap();
        let (ledger, account) = (ledger(folder.path()), Arc::<TenantCounters>::default());
        let price = Price { cpu_micro_units_per_s: 1_000_000, ..Price::default() };
        let mut receipts = Vec::new();
        let mut open = |guest_us: u64, counter: Option<&Arc<OutboundUse>>| {
            let (mut open, mut id) = (tab(&ledger, &account), RequestId::new());
            open.runs_on("any", price, Duration::ZERO);
            open.update_receipt(|receipt| (receipt.guest_us, receipt.status, id) = (guest_us, 200, receipt.request));
            if let Some(counter) = counter {
                counter.add_sibling_call();
                open.called_by(RequestId::new(), 1, Arc::clone(counter));
            }
            receipts.push(id);
            open
        };
        let (first, second) = (Arc::<OutboundUse>::default(), Arc::<OutboundUse>::default());
        let (mut root, mut call, last) = (open(1_000, None), open(20_000, Some(&first)), open(300_000, Some(&second)));
        root.count_outbound(Some(first));
        call.count_outbound(Some(second));
        drop(last);
        drop(call);
        drop(root);
        let told = receipts.iter().map(|id| {
            let (receipt, _) = ledger.get(*id).unwrap();
            (receipt.micro_units(), receipt.sibling_calls, receipt.sibling_micro_units, receipt.depth)
        });
        let expected = [(1_000, 1, 320_000, None), (20_000, 1, 300_000, Some(1)), (300_000, 0, 0, Some(1))];
        assert_eq!(told.collect::<Vec<_>>(), expected);
        assert_eq!(account.spent(jiff::Timestamp::now()).micro_units, 321_000);
    }

    #[test]
    fn a_platform_fault_costs_nothing_and_other_work_its_price() {
        let folder = tempfile::tempdir().unwrap();
        let (ledger, account) = (ledger(folder.path()), Arc::<TenantCounters>::default());
        let price = Price { gpu_micro_units_per_s: 1000, cpu_micro_units_per_s: 1000, ..Price::default() };
        for fault in [None, Some(Blame::Function), Some(Blame::Platform)] {
            let mut open = tab(&ledger, &account);
            open.runs_on("any", price, Duration::ZERO);
            open.update_receipt(|receipt| {
                (receipt.gpu_ns, receipt.guest_us, receipt.status, receipt.fault) = (2_500_000, 1, 200, fault);
            });
        }
        assert_eq!(account.spent(jiff::Timestamp::now()).micro_units, 2 * (3 + 1));
    }
}
