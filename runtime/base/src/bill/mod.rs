//! The bill: what a request cost, what kept memory cost, and their sums. Pure.

pub mod price;
pub mod receipt;
pub mod line;
pub mod usage;
pub mod outbound;

pub use line::{LedgerLine, ResidentMemory};
pub use receipt::{GpuClock, Receipt, StartKind};
