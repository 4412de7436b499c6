//! Types of the operations on assets.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The progress of an upload.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct AssetUpload {
    /// Size of the whole asset in bytes.
    pub size: u64,
    /// Number of bytes that are stored: the offset at which the next range begins.
    pub received: u64,
    /// SHA-256 that the upload announced, in hex. Null if it announced none.
    pub digest: Option<String>,
}

/// An asset.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct AssetView {
    /// Name of the asset, unique in its tenant.
    pub name: String,
    /// SHA-256 of its bytes, in hex. Null until its first upload is complete.
    pub digest: Option<String>,
    /// Its size in bytes. Null until its first upload is complete.
    pub size: Option<u64>,
    /// When the name was last given to these bytes. Null until the first upload is complete.
    #[schema(format = DateTime)]
    pub put: Option<String>,
    /// Names of the functions that have versions with these bytes.
    pub functions: Vec<String>,
    /// Progress of an upload of new bytes, while it is not complete.
    pub upload: Option<AssetUpload>,
}

/// A page of assets, sorted by name.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Assets {
    /// The assets of this page.
    pub assets: Vec<AssetView>,
    /// The `cursor` argument for the next page. Null on the last page.
    pub cursor: Option<String>,
}
