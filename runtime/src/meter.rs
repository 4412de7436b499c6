//! Closes the tab of every admitted request, exactly once, whatever happened.
//!
//! A [`Tab`] is opened by admission and travels with the request. Whoever drops it closes it: a
//! finished answer, a client that left, a panic. Closing writes one [`Receipt`].

use crate::hop::Work;
use crate::names::{FunctionName, RequestId, TenantName};
use crate::respond::Blame;
use serde::Serialize;
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How a request started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
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

/// What a request was and cost. Times are in microseconds, GPU time in nanoseconds.
#[derive(Debug, Clone, Serialize)]
pub struct Receipt {
    /// The request.
    pub request: RequestId,
    /// Whose function.
    pub tenant: TenantName,
    /// Which function.
    pub function: FunctionName,
    /// Which version of it.
    pub version: u32,
    /// When it was admitted, RFC 3339.
    pub time: jiff::Timestamp,
    /// How it started.
    pub start: Option<StartKind>,
    /// Waiting for admission.
    pub admit_us: u64,
    /// From the claim on a worker to the first guest instruction.
    pub start_us: u64,
    /// Compiling kernels.
    pub kernels_us: u64,
    /// CPU time of the guest.
    pub guest_us: u64,
    /// Waiting for the GPU or a compiler.
    pub waited_us: u64,
    /// GPU time.
    pub gpu_ns: u64,
    /// Where GPU time came from: `gpu` or `wall`.
    pub gpu_clock: &'static str,
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
    /// The response's status; 0 if none was sent.
    pub status: u16,
    /// The code of what went wrong.
    pub error: Option<String>,
    /// What went wrong, in words.
    pub error_detail: Option<String>,
    /// Whose fault that was.
    pub fault: Option<Blame>,
}

/// An open tab.
#[derive(Debug)]
pub struct Tab {
    opened: Instant,
    receipt: Option<Box<Receipt>>,
    book: Arc<Book>,
}

impl Tab {
    /// Opens a tab in `book`.
    pub fn open(
        book: &Arc<Book>,
        request: RequestId,
        tenant: TenantName,
        function: FunctionName,
        version: u32,
    ) -> Self {
        let receipt = Receipt {
            request,
            tenant,
            function,
            version,
            time: jiff::Timestamp::now(),
            start: None,
            admit_us: 0,
            start_us: 0,
            kernels_us: 0,
            guest_us: 0,
            waited_us: 0,
            gpu_ns: 0,
            gpu_clock: "gpu",
            slices: 0,
            gpu_memory_peak_bytes: 0,
            wall_us: 0,
            bytes_in: 0,
            bytes_out: 0,
            status: 0,
            error: None,
            error_detail: None,
            fault: None,
        };
        Self { opened: Instant::now(), receipt: Some(Box::new(receipt)), book: Arc::clone(book) }
    }

    /// Changes what will be written.
    pub fn note(&mut self, change: impl FnOnce(&mut Receipt)) {
        if let Some(receipt) = &mut self.receipt {
            change(receipt);
        }
    }

    /// Adds the work that the worker reported.
    pub fn work(&mut self, work: &Work, claim_us: u64) {
        self.note(|receipt| {
            receipt.start_us = claim_us + work.start_ns / 1000;
            receipt.kernels_us = work.kernels_ns / 1000;
            receipt.guest_us = work.guest_ns / 1000;
            receipt.waited_us = work.waited_ns / 1000;
            receipt.gpu_ns = work.gpu_ns;
            receipt.slices = work.slices;
            receipt.gpu_memory_peak_bytes = work.gpu_memory_peak;
            receipt.gpu_clock = if work.gpu_wall_clock { "wall" } else { "gpu" };
        });
    }

    /// The `server-timing` header (W3C Server Timing) for what is known so far, in milliseconds.
    pub fn server_timing(&self) -> String {
        let Some(receipt) = &self.receipt else { return String::new() };
        server_timing(receipt)
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

impl Drop for Tab {
    fn drop(&mut self) {
        if let Some(mut receipt) = self.receipt.take() {
            receipt.wall_us = u64::try_from(self.opened.elapsed().as_micros()).unwrap_or(u64::MAX);
            if receipt.status == 0 && receipt.error.is_none() {
                receipt.error = Some("client_closed".into());
                receipt.fault = Some(Blame::Caller);
            }
            self.book.write(*receipt, Instant::now());
        }
    }
}

/// How long a receipt can be asked for.
pub const KEPT: Duration = Duration::from_secs(3600);
/// How many are kept: at more than this in an hour the oldest go early.
pub const KEPT_MAX: usize = 100_000;

/// The latest receipts, in memory.
#[derive(Debug, Default)]
pub struct Book {
    pages: Mutex<Pages>,
}

#[derive(Debug, Default)]
struct Pages {
    receipts: HashMap<RequestId, Receipt>,
    order: VecDeque<(Instant, RequestId)>,
    totals: Totals,
}

/// Sums since the front door started.
#[derive(Debug, Clone, Copy, Default)]
pub struct Totals {
    /// Tabs closed.
    pub requests: u64,
    /// Of them with an error.
    pub errors: u64,
    /// Starts by kind: hot, warm, cold.
    pub starts: [u64; 3],
    /// GPU time in nanoseconds.
    pub gpu_ns: u64,
}

impl Book {
    fn write(&self, receipt: Receipt, now: Instant) {
        tracing::debug!(request = %receipt.request, status = receipt.status, error = receipt.error, "tab closed");
        let mut pages = self.pages.lock().unwrap_or_else(PoisonError::into_inner);
        pages.totals.requests += 1;
        pages.totals.errors += u64::from(receipt.error.is_some());
        pages.totals.gpu_ns = pages.totals.gpu_ns.saturating_add(receipt.gpu_ns);
        if let Some(kind) = receipt.start
            && let Some(count) = pages.totals.starts.get_mut(kind as usize)
        {
            *count += 1;
        }
        while let Some((written, id)) = pages.order.front().copied() {
            if pages.order.len() < KEPT_MAX && now.saturating_duration_since(written) < KEPT {
                break;
            }
            pages.order.pop_front();
            pages.receipts.remove(&id);
        }
        pages.order.push_back((now, receipt.request));
        pages.receipts.insert(receipt.request, receipt);
    }

    /// The receipt of a request.
    pub fn get(&self, request: RequestId) -> Option<Receipt> {
        self.pages.lock().unwrap_or_else(PoisonError::into_inner).receipts.get(&request).cloned()
    }

    /// Sums since the start.
    pub fn totals(&self) -> Totals {
        self.pages.lock().unwrap_or_else(PoisonError::into_inner).totals
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn tab(book: &Arc<Book>) -> Tab {
        let (tenant, function) = (TenantName::new("acme").unwrap(), FunctionName::new("blur").unwrap());
        Tab::open(book, RequestId::new(), tenant, function, 1)
    }

    #[test]
    fn a_dropped_tab_is_closed_once_and_blames_the_client() {
        let book = Arc::new(Book::default());
        let mut open = tab(&book);
        let mut id = RequestId::new();
        open.note(|receipt| id = receipt.request);
        drop(open);
        let receipt = book.get(id).unwrap();
        assert_eq!((receipt.error.as_deref(), receipt.fault), (Some("client_closed"), Some(Blame::Caller)));
        assert_eq!(book.totals().requests, 1);
    }

    #[test]
    fn the_oldest_receipts_go_first() {
        let book = Arc::new(Book::default());
        for _ in 0..KEPT_MAX + 10 {
            drop(tab(&book));
        }
        let pages = book.pages.lock().unwrap();
        assert_eq!((pages.receipts.len(), pages.order.len()), (KEPT_MAX, KEPT_MAX));
    }
}
