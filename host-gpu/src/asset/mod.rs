//! Assets: read-only data (weights, tables) that outlives requests on the GPU.
//!
//! ```text
//!  descriptor ─▶ AssetFile ─open─▶ Asset ─view─▶ resident? ─yes─▶ AssetView: a range of its buffers
//!                   │                              │ no                      ▲
//!                   │ read: on the CPU             └─▶ upload in chunks ─────┤   (once, for all who ask)
//!                                                      or map the file ──────┘   (software drivers: host_memory.rs)
//! ```
//!
//! An asset on the GPU is one buffer, or several if it is larger than the device's limit for a buffer. All sessions of
//! the device share it. It is charged to the tenant, not to a request. When the tenant's memory is short, unused assets
//! are evicted, the least recently used first. A session that has viewed an asset pins it until the session ends.

mod file;
mod resident;
mod upload;
mod table;

pub use file::{Asset, AssetCatalog, AssetFile, READ_BYTES_MAX};
pub(crate) use resident::ResidentAsset;
pub use resident::{AssetPin, AssetView};
pub(crate) use table::AssetTable;
pub use table::ResidentTotals;
