//! Closes the tab of every admitted request, exactly once, whatever happened.
//!
//! A [`Tab`] is opened by admission and travels with the request. Whoever drops it closes it: a
//! finished answer, a client that left, a panic. Closing writes one [`Receipt`].

use crate::hop::Work;
use crate::names::{FunctionName, RequestId, TenantName};
use crate::respond::Blame;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Instant;

mod book;
mod segment;

pub use book::{Book, KEPT, Totals};

/// How a request started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GpuClock {
    /// The GPU's timestamps.
    Gpu,
    /// The host's clock around the submission.
    Wall,
}

/// What a request was and cost. Times are in microseconds, GPU time in nanoseconds.
#[derive(Debug, Clone, Serialize, Deserialize)]
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
    /// Waiting for room for a worker on a GPU.
    #[serde(default)]
    pub capacity_us: u64,
    /// From the claim on a worker to the first guest instruction, that wait included.
    pub start_us: u64,
    /// Compiling kernels.
    pub kernels_us: u64,
    /// CPU time of the guest.
    pub guest_us: u64,
    /// Waiting for the GPU or a compiler.
    pub waited_us: u64,
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
            capacity_us: 0,
            start_us: 0,
            kernels_us: 0,
            guest_us: 0,
            waited_us: 0,
            gpu_ns: 0,
            gpu_clock: GpuClock::Gpu,
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
            receipt.gpu_clock = if work.gpu_wall_clock { GpuClock::Wall } else { GpuClock::Gpu };
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
        let folder = tempfile::tempdir().unwrap();
        let book = Arc::new(Book::open(folder.path().into()).unwrap());
        let mut open = tab(&book);
        let mut id = RequestId::new();
        open.note(|receipt| id = receipt.request);
        drop(open);
        let receipt = book.get(id).unwrap();
        assert_eq!((receipt.error.as_deref(), receipt.fault), (Some("client_closed"), Some(Blame::Caller)));
        assert_eq!(book.totals().requests, 1);
    }
}
