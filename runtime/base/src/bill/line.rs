//! A line of the ledger: the receipt of a request, or GPU memory that was kept for a while.

use crate::bill::price::Price;
use crate::bill::receipt::Receipt;
use crate::names::{FunctionName, RequestId, TenantName};
use serde::{Deserialize, Serialize};

/// GPU memory that a function kept for a span of time without requests (`scale.min`).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ResidentMemory {
    /// The id of this line; no request has it.
    pub id: RequestId,
    /// The tenant that pays.
    pub tenant: TenantName,
    /// The function that kept the memory.
    pub function: FunctionName,
    /// Number of the function's current version.
    pub version: u32,
    /// When the span ended.
    pub time: jiff::Timestamp,
    /// Length of the span in milliseconds.
    pub span_ms: u64,
    /// GPU memory kept, in bytes.
    pub bytes: u64,
    /// Class of the GPU.
    pub class: String,
    /// The prices in force at that time.
    pub price: Price,
    /// The charge for the span, in micro-units.
    pub micro_units: u64,
}

/// A line of the ledger.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LedgerLine {
    /// An admitted request.
    Request(Box<Receipt>),
    /// GPU memory kept without requests.
    Resident(ResidentMemory),
}

impl LedgerLine {
    /// Returns the line's id. The sums use it to count each line only once.
    pub fn id(&self) -> RequestId {
        match self {
            Self::Request(receipt) => receipt.request,
            Self::Resident(resident) => resident.id,
        }
    }
}
