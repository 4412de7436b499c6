//! A line of the ledger: a request, or memory that was kept.

use crate::bill::price::Price;
use crate::bill::receipt::Receipt;
use crate::names::{FunctionName, RequestId, TenantName};
use serde::{Deserialize, Serialize};

/// GPU memory that was kept for a function while nobody called it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ResidentMemory {
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
pub enum LedgerLine {
    /// An admitted request.
    Request(Box<Receipt>),
    /// Memory kept.
    Resident(ResidentMemory),
}

impl LedgerLine {
    /// Its id, by which it is counted once.
    pub fn id(&self) -> RequestId {
        match self {
            Self::Request(receipt) => receipt.request,
            Self::Resident(resident) => resident.id,
        }
    }
}
