//! Assets.

use serde::Serialize;
use utoipa::ToSchema;

/// How far an upload has come.
#[derive(Debug, Serialize, ToSchema)]
pub struct AssetUpload {
    /// How many bytes it will have.
    pub size: u64,
    /// How many are there: where the next range begins.
    pub received: u64,
    /// The digest that was announced.
    pub digest: Option<String>,
}

/// An asset.
#[derive(Debug, Serialize, ToSchema)]
pub struct AssetView {
    /// Its name.
    pub name: String,
    /// SHA-256 of its bytes; none before the first upload is whole.
    pub digest: Option<String>,
    /// Its size in bytes.
    pub size: Option<u64>,
    /// When it got these bytes.
    #[schema(format = DateTime)]
    pub put: Option<String>,
    /// The functions with versions that use these bytes.
    pub functions: Vec<String>,
    /// An upload of new bytes, while it is under way.
    pub upload: Option<AssetUpload>,
}

/// Assets, by name.
#[derive(Debug, Serialize, ToSchema)]
pub struct Assets {
    /// One page of them.
    pub assets: Vec<AssetView>,
    /// Where the next page begins, if there is one.
    pub cursor: Option<String>,
}
