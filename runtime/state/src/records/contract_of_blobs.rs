//! What every store of blobs must do; part of the suite in `contract.rs`.

#![allow(clippy::unwrap_used)]

use super::blobs::BlobKind;
use super::contract::Rig;
use gannet_base::names::TenantName;

/// The digest of "one".
const ONE: &str = "7692c3ad3540bb803c020b3aee66cd8887123234ea0c6e7143c0add73ff431ed";

/// Runs this part of the suite against one implementation.
pub(super) async fn all_hold<R: Rig>() {
    blobs_are_kept_by_their_digest(R::new()).await;
    files_become_blobs_and_blobs_files(R::new()).await;
    blobs_of_tenants_are_apart_and_go_with_them(R::new()).await;
}

async fn blobs_are_kept_by_their_digest(rig: impl Rig) {
    let blobs = rig.blobs();
    let (one, two) = (blobs.put(b"one".to_vec()).await.unwrap(), blobs.put(Vec::new()).await.unwrap());
    assert_eq!(one, ONE);
    assert_eq!(blobs.put(b"one".to_vec()).await.unwrap(), one);
    drop(blobs);
    let rig = rig.reopen();
    let blobs = rig.blobs();
    assert_eq!(blobs.get(&one).await.unwrap().as_deref(), Some(&b"one"[..]));
    assert_eq!(blobs.get(&two).await.unwrap().as_deref(), Some(&b""[..]));
    assert_eq!(blobs.get("../../etc/passwd").await.unwrap(), None);
    let mut all = blobs.list().await.unwrap();
    all.sort();
    assert_eq!(all, [one.clone(), two]);
    blobs.delete(&one).await.unwrap();
    blobs.delete(&one).await.unwrap();
    assert_eq!(blobs.get(&one).await.unwrap(), None);
    assert_eq!(blobs.list().await.unwrap().len(), 1);
}

async fn files_become_blobs_and_blobs_files(rig: impl Rig) {
    let blobs = rig.blobs();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("upload");
    std::fs::write(&file, b"one").unwrap();
    // Before it is stored, and again over what is stored.
    for _ in 0..2 {
        blobs.put_file(&file, ONE).await.unwrap();
        assert_eq!(std::fs::read(&file).unwrap(), b"one", "the file stays");
    }
    std::fs::remove_file(&file).unwrap();
    drop(blobs);
    let rig = rig.reopen();
    let blobs = rig.blobs();
    assert_eq!(blobs.get(ONE).await.unwrap().as_deref(), Some(&b"one"[..]));
    assert_eq!(blobs.size(ONE).await.unwrap(), Some(3));
    let local = blobs.local_file(ONE).await.unwrap().unwrap();
    assert_eq!(std::fs::read(local).unwrap(), b"one");
    assert!(blobs.put_file(&file, ONE).await.is_err(), "there is no such file");
    assert_eq!(blobs.get(ONE).await.unwrap().as_deref(), Some(&b"one"[..]));
    blobs.delete(ONE).await.unwrap();
    assert_eq!((blobs.size(ONE).await.unwrap(), blobs.local_file(ONE).await.unwrap()), (None, None));
    assert_eq!((blobs.size("../x").await.unwrap(), blobs.local_file("../x").await.unwrap()), (None, None));
}

async fn blobs_of_tenants_are_apart_and_go_with_them(rig: impl Rig) {
    let (acme, zoo) = (TenantName::new("acme").unwrap(), TenantName::new("acme-zoo").unwrap());
    let tenants = rig.tenant_blobs();
    let stores = [BlobKind::Component, BlobKind::Asset].map(|kind| tenants.of(kind, &acme));
    assert_eq!(stores[0].list().await.unwrap(), Vec::<String>::new(), "nothing was stored yet");
    for store in &stores {
        assert_eq!(store.put(b"one".to_vec()).await.unwrap(), ONE);
    }
    tenants.of(BlobKind::Asset, &zoo).put(b"one".to_vec()).await.unwrap();
    stores[0].delete(ONE).await.unwrap();
    assert_eq!(tenants.of(BlobKind::Component, &acme).list().await.unwrap(), Vec::<String>::new());
    assert_eq!(tenants.of(BlobKind::Asset, &acme).list().await.unwrap(), [ONE]);
    drop((stores, tenants));
    let rig = rig.reopen();
    let tenants = rig.tenant_blobs();
    let mut known = tenants.tenants(BlobKind::Asset).await.unwrap();
    known.sort();
    assert_eq!(known, ["acme", "acme-zoo"]);
    for _ in 0..2 {
        tenants.remove_tenant(&acme).await.unwrap();
    }
    assert_eq!(tenants.of(BlobKind::Asset, &acme).size(ONE).await.unwrap(), None);
    assert_eq!(tenants.of(BlobKind::Asset, &zoo).size(ONE).await.unwrap(), Some(3));
    assert_eq!(tenants.tenants(BlobKind::Asset).await.unwrap(), ["acme-zoo"]);
}
