//! The bill: the cost of a request, the cost of kept GPU memory, and their sums. Pure.

pub mod price;
pub mod receipt;
pub mod line;
pub mod usage;
pub mod outbound;

pub use line::{LedgerLine, ResidentMemory};
pub use receipt::{GpuClock, Receipt, StartKind};
