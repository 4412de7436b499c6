//! What tenants have uploaded, in files of one machine: `DATA/components/{tenant}/{digest}.wasm` and
//! `DATA/assets/{tenant}/{digest}`.

use super::blobs::LocalBlobs;
use crate::records::StoreFuture;
use crate::records::blobs::{BlobKind, BlobStore, TenantBlobs};
use crate::wait::blocking;
use gannet_base::names::TenantName;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

/// The blobs of tenants in a data folder; see the module.
#[derive(Debug)]
pub struct LocalTenantBlobs {
    data: PathBuf,
    /// Numbers incoming files.
    counter: Arc<AtomicU64>,
}

/// The folder of a kind, and how the names of its files end.
fn layout(kind: BlobKind) -> (&'static str, &'static str) {
    match kind {
        BlobKind::Component => ("components", ".wasm"),
        BlobKind::Asset => ("assets", ""),
    }
}

/// Returns where the file of a blob is.
pub(crate) fn place(data: &Path, kind: BlobKind, tenant: &str, digest: &str) -> PathBuf {
    let (folder, ending) = layout(kind);
    data.join(folder).join(tenant).join(format!("{digest}{ending}"))
}

impl LocalTenantBlobs {
    /// Returns the blobs in a data folder, whose folder `incoming` is emptied at each start.
    pub fn new(data: &Path) -> Self {
        Self { data: data.to_owned(), counter: Arc::default() }
    }
}

impl TenantBlobs for LocalTenantBlobs {
    fn of(&self, kind: BlobKind, tenant: &TenantName) -> Arc<dyn BlobStore> {
        let (folder, ending) = layout(kind);
        let folder = self.data.join(folder).join(tenant.as_str());
        Arc::new(LocalBlobs::flat(folder, ending, self.data.join("incoming"), Arc::clone(&self.counter)))
    }

    fn tenants(&self, kind: BlobKind) -> StoreFuture<'_, io::Result<Vec<String>>> {
        let folder = self.data.join(layout(kind).0);
        Box::pin(blocking(move || {
            std::fs::read_dir(folder)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
        }))
    }

    fn remove_tenant(&self, tenant: &TenantName) -> StoreFuture<'_, io::Result<()>> {
        let folders =
            [BlobKind::Component, BlobKind::Asset].map(|kind| self.data.join(layout(kind).0).join(tenant.as_str()));
        Box::pin(blocking(move || {
            for folder in folders {
                if let Err(error) = std::fs::remove_dir_all(&folder)
                    && error.kind() != io::ErrorKind::NotFound
                {
                    return Err(error);
                }
            }
            Ok(())
        }))
    }
}
