//! Assets: read-only data (weights, tables) that outlives requests on the GPU.
//!
//! ```text
//!  descriptor ─▶ AssetFile ─open─▶ Asset ─view─▶ resident? ─yes─▶ AssetView: a range of its buffers
//!                   │                              │ no                      ▲
//!                   │ read: on the CPU             └─▶ upload in chunks ─────┤   (once, whoever asks)
//!                                                      or mapped, as it is ──┘   (software drivers: host_memory.rs)
//! ```
//!
//! An asset on the GPU is one buffer, or several where the device's buffers are smaller; all sessions of the device
//! share it. It is charged to the tenant, not to a request. When the tenant's memory is short, those that nobody uses
//! go, the least recently used first; a session that has viewed one pins it until it ends.

mod file;
mod resident;
mod upload;
mod table;

pub use file::{Asset, AssetCatalog, AssetFile, READ_BYTES_MAX};
pub(crate) use resident::ResidentAsset;
pub use resident::{AssetPin, AssetView};
pub(crate) use table::AssetTable;
pub use table::ResidentTotals;
