//! `/api/v1/assets`: uploads an asset in one request or in ranges; reads, lists and deletes assets.
//!
//! ```text
//!  PUT ?digest=…  no body               names bytes that the tenant has uploaded before     200 201
//!  PUT            body                  the whole asset                                     200 201
//!  PUT            Content-Range, body   a range: the first or the next one                  202, at the end 200 201
//!  PUT            Content-Range: */size all bytes have arrived, but the asset has no name   200 201
//!  GET                                  the asset, and the progress of an upload
//! ```
//!
//! A request that breaks off loses only bytes that were not acknowledged: the next range begins at `upload.received`.

use crate::control::authorize::TenantGrant;
use crate::control::call::{ApiCall, CallResult};
use crate::control::error::ControlError;
use crate::control::{Control, upload};
use crate::respond::{ReplyStatus, json};
use gannet_api::{AssetUpload, AssetView, Assets, Deleted};
use gannet_base::names::{AssetName, TenantName};
use gannet_base::records::AssetRecord;
use gannet_fleet::inbound::{BODY_IDLE_MAX, discard_refused};
use gannet_state::records::blobs::BlobKind;
use gannet_state::registry::Tenant;
use gannet_state::store::StoreError;
use gannet_state::store::uploads::{ReceivedAsset, Upload, UploadWriter};
use headers::{ContentRange, HeaderMapExt};
use http::HeaderMap;
use http::header::CONTENT_RANGE;
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};
use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

/// The most unfinished uploads of one tenant.
const UPLOADS_MAX: usize = 32;

/// The uploads that a request is adding to right now.
#[derive(Debug, Default)]
pub struct ActiveUploads {
    names: Arc<Mutex<HashSet<(TenantName, AssetName)>>>,
    /// Held from checking the limits until the new upload is stored and counts against them.
    begins: Mutex<()>,
}

/// Held by the request that adds to an upload, so that no other request does. It is moved into blocking tasks, because
/// those go on after the client has left.
#[derive(Debug)]
struct UploadGuard {
    all: Arc<Mutex<HashSet<(TenantName, AssetName)>>>,
    own: (TenantName, AssetName),
}

impl ActiveUploads {
    fn begin(&self, tenant: &TenantName, asset: &AssetName) -> Result<UploadGuard, ControlError> {
        let own = (tenant.clone(), asset.clone());
        if !self.names.lock().unwrap_or_else(PoisonError::into_inner).insert(own.clone()) {
            return Err(ControlError::Conflict(format!("another request is uploading {asset}")));
        }
        Ok(UploadGuard { all: Arc::clone(&self.names), own })
    }
}

impl Drop for UploadGuard {
    fn drop(&mut self) {
        self.all.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.own);
    }
}

/// A range of an asset: its offset, its length, and the size of the whole asset, all in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Range {
    from: u64,
    length: u64,
    size: u64,
}

/// Reads `Content-Range: bytes 0-9/100` (RFC 9110, 14.4). Without one, the body is the whole asset.
fn range(headers: &HeaderMap, body: &Incoming) -> Result<Range, ControlError> {
    let Some(value) = headers.get(CONTENT_RANGE) else {
        let none = || ControlError::Invalid("the request has neither a content-length nor a content-range".into());
        let length = body.size_hint().exact().ok_or_else(none)?;
        return Ok(Range { from: 0, length, size: length });
    };
    let parsed = headers.typed_get().and_then(checked_range).ok_or_else(|| {
        let text: String = String::from_utf8_lossy(value.as_bytes()).chars().take(64).collect();
        ControlError::Invalid(format!("content-range is {text:?}; it must be like \"bytes 0-8388607/98304000\""))
    })?;
    if body.size_hint().exact().is_some_and(|length| length != parsed.length) {
        let (length, body) = (parsed.length, body.size_hint().lower());
        return Err(ControlError::Invalid(format!("content-range has {length} bytes, the body {body}")));
    }
    Ok(parsed)
}

/// Returns a range that has both its bytes and the whole size, and is within it.
fn checked_range(header: ContentRange) -> Option<Range> {
    let ((from, last), size) = (header.bytes_range()?, header.bytes_len()?);
    let length = last.checked_sub(from)?.checked_add(1)?;
    (last < size).then_some(Range { from, length, size })
}

/// Returns the size in `Content-Range: bytes */100`, by which a client says that all bytes have arrived.
fn finished_size(headers: &HeaderMap) -> Option<u64> {
    let header: ContentRange = headers.typed_get()?;
    header.bytes_range().is_none().then(|| header.bytes_len()).flatten()
}

fn upload_view(upload: &Upload) -> AssetUpload {
    AssetUpload { size: upload.size, received: upload.received, digest: upload.digest.clone() }
}

/// Describes an asset, an upload, or both.
fn view(owner: &Tenant, name: &AssetName, record: Option<&AssetRecord>, upload: Option<&Upload>) -> AssetView {
    let uses = |digest: &str| {
        let functions = owner.functions.values().filter(|function| {
            let mut pinned = function.versions.iter().flat_map(|version| version.record.assets.values());
            pinned.any(|asset| asset.digest == digest)
        });
        functions.map(|function| function.name.to_string()).collect()
    };
    AssetView {
        name: name.to_string(),
        digest: record.map(|record| record.digest.clone()),
        size: record.map(|record| record.size),
        put: record.map(|record| record.put.to_string()),
        functions: record.map(|record| uses(&record.digest)).unwrap_or_default(),
        upload: upload.map(upload_view),
    }
}

impl ApiCall {
    fn asset(&self) -> Result<AssetName, ControlError> {
        AssetName::new(self.name(0)).map_err(|error| ControlError::Invalid(error.to_string()))
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, ControlError> {
    tokio::task::spawn_blocking(work).await.map_err(|error| ControlError::Internal(error.to_string()))
}

impl Control {
    pub(super) fn list_assets(&self, call: &ApiCall, grant: &TenantGrant) -> CallResult {
        let (limit, cursor) = (call.query.limit()?, call.query.get("cursor").unwrap_or_default());
        let uploads = self.registry.store().files().uploads(&grant.tenant);
        let mut names: Vec<&AssetName> = grant.owner.assets.keys().chain(uploads.iter().map(|u| &u.asset)).collect();
        names.sort_unstable();
        names.dedup();
        let mut after = names.into_iter().filter(|name| cursor.is_empty() || name.as_str() > cursor);
        let page: Vec<_> = after.by_ref().take(limit).collect();
        let cursor = after.next().and_then(|_| page.last()).map(ToString::to_string);
        let asset_view = |name: &AssetName| {
            let upload = uploads.iter().find(|upload| upload.asset == *name);
            view(&grant.owner, name, grant.owner.assets.get(name), upload)
        };
        Ok(json(ReplyStatus::Ok, &Assets { assets: page.into_iter().map(asset_view).collect(), cursor }))
    }

    pub(super) fn get_asset(&self, call: &ApiCall, grant: &TenantGrant) -> CallResult {
        let name = call.asset()?;
        let uploads = self.registry.store().files().uploads(&grant.tenant);
        let upload = uploads.iter().find(|upload| upload.asset == name);
        let record = grant.owner.assets.get(&name);
        if record.is_none() && upload.is_none() {
            return Err(ControlError::NotFound.into());
        }
        Ok(json(ReplyStatus::Ok, &view(&grant.owner, &name, record, upload)))
    }

    /// Removes the name of an asset and an unfinished upload.
    pub(super) async fn delete_asset(&self, call: &ApiCall, grant: &TenantGrant) -> CallResult {
        let name = call.asset()?;
        let _adding = self.uploading.begin(&grant.tenant, &name)?;
        let files = self.registry.store().files();
        let on_its_way = files.uploads(&grant.tenant).iter().any(|upload| upload.asset == name);
        files.drop_upload(&grant.tenant, &name);
        if grant.owner.assets.contains_key(&name) || !on_its_way {
            self.registry.delete_asset(&grant.tenant, &name).await.map_err(ControlError::from)?;
        }
        Ok(json(ReplyStatus::Ok, &Deleted { deleted: name.to_string() }))
    }

    pub(super) async fn put_asset(&self, mut call: ApiCall, grant: &TenantGrant) -> CallResult {
        let name = call.asset()?;
        let digest = call.query.get("digest").map(ToOwned::to_owned);
        let adding = match self.uploading.begin(&grant.tenant, &name) {
            Ok(adding) => adding,
            // Without this a client that is still sending would see its connection break instead of the response.
            Err(refused) => {
                discard_refused(&call.inbound.parts.headers, &mut call.inbound.body).await;
                return Err(refused.into());
            }
        };
        if let Some(digest) = &digest
            && let Some(response) = self.put_known(&name, grant, digest).await?
        {
            let (parts, mut body) = (call.inbound.parts, call.inbound.body);
            tokio::spawn(async move { discard_refused(&parts.headers, &mut body).await });
            return Ok(response);
        }
        if let Some(size) = finished_size(&call.inbound.parts.headers) {
            let upload = self.arrived_upload(grant, &name, size, digest.as_ref())?;
            return self.finish_upload(grant, &name, upload, adding).await;
        }
        let range = match range(&call.inbound.parts.headers, &call.inbound.body) {
            // A body of unknown length is taken for an empty one, and no bytes with this digest are stored.
            Err(_) if digest.is_some() && !call.inbound.parts.headers.contains_key(CONTENT_RANGE) => {
                return Err(ControlError::NotFound.into());
            }
            range => range?,
        };
        if range.size == 0 {
            // An empty body would need the digest of stored bytes, and there are none.
            return Err(match digest {
                Some(_) => ControlError::NotFound,
                None => ControlError::Invalid("an asset has at least one byte".into()),
            }
            .into());
        }
        let upload = match self.open_upload(grant, &name, range, digest) {
            Ok(upload) => upload,
            Err(refused) => {
                discard_refused(&call.inbound.parts.headers, &mut call.inbound.body).await;
                return Err(refused.into());
            }
        };
        let (upload, broken) = append(upload, call.inbound.body, range).await;
        let (adding, upload, known) = blocking(move || {
            let mut upload = upload;
            let known = upload.sync();
            known.map(|known| (adding, upload, known))
        })
        .await?
        .map_err(ControlError::from)?;
        if let Some(error) = broken {
            return Err(error.into());
        }
        if known.received < known.size {
            return Ok(json(
                ReplyStatus::Accepted,
                &view(&grant.owner, &name, grant.owner.assets.get(&name), Some(&known)),
            ));
        }
        self.finish_upload(grant, &name, upload, adding).await
    }

    /// Gives a name to bytes that the tenant has already uploaded. Returns None if it has not.
    async fn put_known(
        &self,
        name: &AssetName,
        grant: &TenantGrant,
        digest: &str,
    ) -> Result<Option<http::Response<gannet_base::body::ResponseBody>>, ControlError> {
        let _protected_files = self.registry.protect_files(&grant.tenant, digest);
        let assets = self.registry.store().blobs(BlobKind::Asset, &grant.tenant);
        let Some(size) = assets.size(digest).await? else { return Ok(None) };
        let named = self.assign_name(grant, name, digest.to_owned(), size).await?;
        self.registry.store().files().drop_upload(&grant.tenant, name);
        Ok(Some(named))
    }

    /// Opens the upload that a range belongs to. Refuses a range that does not follow the bytes received so far, and an
    /// upload over the limits.
    fn open_upload(
        &self,
        grant: &TenantGrant,
        name: &AssetName,
        range: Range,
        digest: Option<String>,
    ) -> Result<UploadWriter, ControlError> {
        let files = self.registry.store().files();
        let _begins = self.uploading.begins.lock().unwrap_or_else(PoisonError::into_inner);
        let uploads = files.uploads(&grant.tenant);
        if range.from > 0 {
            let known = uploads.into_iter().find(|upload| upload.asset == *name);
            let known = known.filter(|upload| upload.size == range.size && upload.digest == digest);
            let known = known.ok_or_else(|| {
                ControlError::Conflict(format!(
                    "no upload of {name} with this size and digest was begun; send the first range first"
                ))
            })?;
            if known.received != range.from {
                let (received, from) = (known.received, range.from);
                return Err(ControlError::Conflict(format!(
                    "the upload of {name} has {received} bytes; the range begins at {from}"
                )));
            }
            return Ok(files.resume_upload(&grant.tenant, known)?);
        }
        let others = uploads.iter().filter(|upload| upload.asset != *name);
        let (count, coming) =
            others.fold((0, 0u64), |(count, sum), upload| (count + 1, sum.saturating_add(upload.size)));
        if count >= UPLOADS_MAX {
            return Err(ControlError::Conflict(format!(
                "{count} other uploads are unfinished; the limit is {UPLOADS_MAX}"
            )));
        }
        let owner = &grant.owner;
        let used = owner.asset_bytes().saturating_add(coming);
        let limit = owner.limits.assets_mib;
        if used.saturating_add(range.size) > limit << 20 {
            return Err(ControlError::LimitReached { name: "assets_mib", limit, used: used.div_ceil(1 << 20) });
        }
        self.check_space(range.size)?;
        let upload = Upload { asset: name.clone(), size: range.size, received: 0, digest };
        Ok(files.begin_upload(&grant.tenant, upload)?)
    }

    /// Finishes an upload after its last range: checks the digest, stores the file and names it.
    async fn finish_upload(
        &self,
        grant: &TenantGrant,
        name: &AssetName,
        upload: UploadWriter,
        adding: UploadGuard,
    ) -> CallResult {
        let (adding, finished) = blocking(move || (adding, upload.finish())).await?;
        let arrived = finished.map_err(ControlError::from)?.map_err(|digest| {
            ControlError::Conflict(format!("the bytes have the digest {digest}, not the one that was announced"))
        })?;
        let record = self.name_arrived(&grant.tenant, name, arrived, adding).await?;
        Ok(self.named(grant, name, &record))
    }

    /// Stores the bytes of a complete upload, names them, and removes the upload. Returns the record, and whether the
    /// name is new.
    async fn name_arrived(
        &self,
        tenant: &TenantName,
        name: &AssetName,
        arrived: ReceivedAsset,
        adding: UploadGuard,
    ) -> Result<(AssetRecord, bool), ControlError> {
        let _protected_files = self.registry.protect_files(tenant, &arrived.digest);
        let (digest, size) = (arrived.digest.clone(), arrived.size);
        let assets = self.registry.store().blobs(BlobKind::Asset, tenant);
        // Goes on if the client leaves.
        let storing = tokio::spawn(async move { (adding, assets.put_file(&arrived.path, &arrived.digest).await) });
        let (_adding, stored) = storing.await.map_err(|error| ControlError::Internal(error.to_string()))?;
        stored?;
        let record = AssetRecord { digest, size, put: jiff::Timestamp::now() };
        let named = self.registry.put_asset(tenant, name, record.clone()).await.map_err(ControlError::from);
        // If only the store failed, the upload can still be finished.
        if !matches!(named, Err(ControlError::StorageFull | ControlError::Internal(_))) {
            self.registry.store().files().drop_upload(tenant, name);
        }
        Ok((record, named?))
    }

    /// Finishes the uploads whose bytes had all arrived when an earlier run of the server ended.
    pub async fn finish_uploads(&self) {
        let snapshot = self.registry.snapshot();
        for (tenant, _) in snapshot.tenants.iter().filter(|(_, tenant)| !tenant.record.suspended) {
            let files = self.registry.store().files();
            for upload in files.uploads(tenant).into_iter().filter(|upload| upload.received == upload.size) {
                let name = upload.asset.clone();
                let Ok(adding) = self.uploading.begin(tenant, &name) else { continue };
                if let Err(error) = self.finish_left_upload(tenant, upload, adding).await {
                    tracing::warn!(%tenant, asset = %name, %error, "an upload that was complete could not be finished");
                }
            }
        }
    }

    async fn finish_left_upload(
        &self,
        tenant: &TenantName,
        upload: Upload,
        adding: UploadGuard,
    ) -> Result<(), ControlError> {
        let name = upload.asset.clone();
        let writer = self.registry.store().files().resume_upload(tenant, upload)?;
        let (adding, finished) = blocking(move || (adding, writer.finish())).await?;
        let arrived =
            finished?.map_err(|digest| ControlError::Conflict(format!("its bytes have the digest {digest}")))?;
        self.name_arrived(tenant, &name, arrived, adding).await?;
        tracing::info!(%tenant, asset = %name, "an upload that was complete was finished");
        Ok(())
    }

    /// Opens an upload whose bytes have all arrived.
    fn arrived_upload(
        &self,
        grant: &TenantGrant,
        name: &AssetName,
        size: u64,
        digest: Option<&String>,
    ) -> Result<UploadWriter, ControlError> {
        let files = self.registry.store().files();
        let mut uploads = files.uploads(&grant.tenant).into_iter();
        let known = uploads.find(|upload| upload.asset == *name && upload.size == size);
        let known = known.filter(|upload| digest.is_none() || upload.digest.as_ref() == digest);
        let known = known.ok_or(ControlError::NotFound)?;
        if known.received < size {
            let received = known.received;
            return Err(ControlError::Conflict(format!("the upload of {name} has {received} of its {size} bytes")));
        }
        Ok(files.resume_upload(&grant.tenant, known)?)
    }

    fn named(
        &self,
        grant: &TenantGrant,
        name: &AssetName,
        (record, new): &(AssetRecord, bool),
    ) -> http::Response<gannet_base::body::ResponseBody> {
        tracing::info!(tenant = %grant.tenant, asset = %name, digest = record.digest, record.size, "an asset was stored");
        let done = if *new { ReplyStatus::Created } else { ReplyStatus::Ok };
        json(done, &view(&grant.owner, name, Some(record), None))
    }

    /// Gives a name to stored bytes.
    async fn assign_name(
        &self,
        grant: &TenantGrant,
        name: &AssetName,
        digest: String,
        size: u64,
    ) -> Result<http::Response<gannet_base::body::ResponseBody>, ControlError> {
        let record = AssetRecord { digest, size, put: jiff::Timestamp::now() };
        let new = self.registry.put_asset(&grant.tenant, name, record.clone()).await?;
        Ok(self.named(grant, name, &(record, new)))
    }
}

/// Writes a body to an upload. If the body breaks off, the bytes before that are kept.
async fn append(mut upload: UploadWriter, mut body: Incoming, range: Range) -> (UploadWriter, Option<ControlError>) {
    let mut left = range.length;
    while left > 0 {
        let frame = match tokio::time::timeout(BODY_IDLE_MAX, body.frame()).await {
            Ok(Some(Ok(frame))) => frame,
            Ok(Some(Err(error))) => {
                return (upload, Some(ControlError::Invalid(format!("the body broke off: {error}"))));
            }
            Ok(None) => break,
            Err(_) => return (upload, Some(upload::slow())),
        };
        let Ok(data) = frame.into_data() else { continue };
        let now = data.len() as u64;
        if now > left || now > upload.left() {
            let limit = range.length;
            return (upload, Some(ControlError::TooLarge { what: "range", limit }));
        }
        let written: Result<(), StoreError> = upload.write(&data);
        if let Err(error) = written {
            return (upload, Some(error.into()));
        }
        left -= now;
    }
    let short = (left > 0).then(|| ControlError::Invalid(format!("{left} bytes of the range are missing")));
    (upload, short)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn read_range(text: &str) -> Option<Range> {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_RANGE, text.parse().unwrap());
        headers.typed_get().and_then(checked_range)
    }

    #[test]
    fn ranges_are_read_as_they_are_written() {
        assert_eq!(read_range("bytes 0-9/100"), Some(Range { from: 0, length: 10, size: 100 }));
        assert_eq!(read_range("bytes 90-99/100"), Some(Range { from: 90, length: 10, size: 100 }));
        for bad in [
            "bytes 0-100/100",
            "bytes 5-4/100",
            "bytes */100",
            "bytes 0-9/*",
            "0-9/100",
            "bytes -9/100",
            "bytes 0-18446744073709551615/18446744073709551615",
        ] {
            assert_eq!(read_range(bad), None, "{bad}");
        }
    }
}
