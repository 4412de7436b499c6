//! The registry over a store that loses what was not synced, answers late, refuses, or answers "unknown".

use crate::records::blobs::{BlobKind, TenantBlobs};
use crate::records::simulated::{SimulatedStore, SimulatedTenantBlobs};
use crate::registry::{DeployOptions, KeySpec, Registry, RegistryError, Snapshot};
use crate::store::{Store, StoreError};
use gannet_base::limits::{LimitsChoice, TenantLimits};
use gannet_base::names::{AssetName, FunctionName, TenantName};
use gannet_base::records::{AssetRecord, SecretRecord, VersionRecord};
use proptest::prelude::*;
use serde_json::json;
use std::collections::BTreeMap;
use std::sync::Arc;
use tempfile::TempDir;

/// A registry over a simulated store. Each start has a folder of its own, because only the records are of interest.
struct Server {
    registry: Arc<Registry>,
    records: Arc<SimulatedStore>,
    _folder: TempDir,
}

fn start(records: Arc<SimulatedStore>) -> Server {
    start_with(records, Arc::default())
}

fn start_with(records: Arc<SimulatedStore>, blobs: Arc<SimulatedTenantBlobs>) -> Server {
    let folder = tempfile::tempdir().unwrap();
    let (store, contents) = Store::simulated(folder.path(), records.clone(), blobs).unwrap();
    let registry = Registry::new(Arc::new(store), contents, [0; 32], TenantLimits::default(), 3);
    Server { registry: Arc::new(registry), records, _folder: folder }
}

/// Everything that a snapshot says and that must be stored, by name.
fn told(snapshot: &Snapshot) -> BTreeMap<String, String> {
    let mut told = BTreeMap::new();
    let mut add = |name: String, value: serde_json::Value| drop(told.insert(name, value.to_string()));
    for key in snapshot.keys.values() {
        add(format!("k/{}", hex::encode(key.hash)), json!([key.record.tenant, key.record.expires, key.record.created]));
    }
    for (name, tenant) in &snapshot.tenants {
        // A quarantine is in force before it is stored, so it is left out.
        add(format!("t/{name}"), json!(tenant.record));
        tenant.secrets.iter().for_each(|(secret, record)| add(format!("s/{name}/{secret}"), json!(record)));
        tenant.assets.iter().for_each(|(asset, record)| add(format!("asset/{name}/{asset}"), json!(record)));
        for function in tenant.functions.values() {
            add(format!("f/{name}/{}", function.name), json!(function.record()));
            for version in &function.versions {
                add(format!("v/{name}/{}/{}", function.name, version.record.number), json!(*version.record));
            }
        }
    }
    snapshot.deleted.iter().for_each(|name| add(format!("g/{name}"), json!(null)));
    told
}

/// A change of the registry.
#[derive(Debug, Clone)]
enum Step {
    Create(u8),
    DeleteTenant(u8),
    Suspend(u8, bool),
    Key(u8),
    Revoke(u8),
    Secret(u8, u8),
    DeleteSecret(u8),
    Asset(u8, u8),
    Deploy(u8, u8),
    RollBack(u8),
    DeleteFunction(u8),
    Quarantine(u8, u8),
    Forget,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let tenant = || 0..3_u8;
    let step = prop_oneof![
        4 => tenant().prop_map(Step::Create),
        1 => tenant().prop_map(Step::DeleteTenant),
        2 => (tenant(), any::<bool>()).prop_map(|(tenant, on)| Step::Suspend(tenant, on)),
        3 => tenant().prop_map(Step::Key),
        2 => tenant().prop_map(Step::Revoke),
        3 => (tenant(), any::<u8>()).prop_map(|(tenant, value)| Step::Secret(tenant, value)),
        1 => tenant().prop_map(Step::DeleteSecret),
        2 => (tenant(), any::<u8>()).prop_map(|(tenant, value)| Step::Asset(tenant, value)),
        5 => (tenant(), 0..6_u8).prop_map(|(tenant, value)| Step::Deploy(tenant, value)),
        2 => tenant().prop_map(Step::RollBack),
        1 => tenant().prop_map(Step::DeleteFunction),
        1 => (tenant(), any::<u8>()).prop_map(|(tenant, value)| Step::Quarantine(tenant, value)),
        1 => Just(Step::Forget),
    ];
    proptest::collection::vec(step, 1..40)
}

fn version(value: u8) -> VersionRecord {
    let manifest = gannet_base::manifest::Manifest::default();
    let record = json!({ "number": 0, "digest": hex::encode([value; 32]), "size": 7, "manifest": manifest,
        "created": "2026-11-01T00:00:00Z", "kernels": {}, "warnings": [] });
    serde_json::from_value(record).unwrap()
}

impl Step {
    async fn make(self, registry: &Arc<Registry>, number: u64) -> Result<(), RegistryError> {
        let tenant = |number: u8| TenantName::new(&format!("tenant{number}")).unwrap();
        let function = FunctionName::new("f").unwrap();
        let time = "2026-11-01T00:00:00Z".parse().unwrap();
        let mut hash = [1; 32];
        hash[..8].copy_from_slice(&number.to_be_bytes());
        match self {
            Self::Create(who) => {
                registry.create_tenant(&tenant(who), KeySpec::full(hash), LimitsChoice::default()).await.map(drop)
            }
            Self::DeleteTenant(who) => registry.delete_tenant(&tenant(who)).await,
            Self::Suspend(who, on) => registry.suspend(&tenant(who), on).await,
            Self::Key(who) => registry.create_key(&tenant(who), KeySpec::full(hash)).await.map(drop),
            Self::Revoke(who) => {
                let snapshot = registry.snapshot();
                let id = snapshot.keys_of(&tenant(who)).next().map(|key| key.record.id.clone());
                registry.revoke_key(&tenant(who), &id.unwrap_or_default()).await
            }
            Self::Secret(who, value) => {
                let record = SecretRecord { set: time, sealed: value.to_string() };
                registry.set_secret(&tenant(who), "S", record).await.map(drop)
            }
            Self::DeleteSecret(who) => registry.delete_secret(&tenant(who), "S").await,
            Self::Asset(who, value) => {
                let record = AssetRecord { digest: hex::encode([value; 32]), size: 1, put: time };
                registry.put_asset(&tenant(who), &AssetName::new("a").unwrap(), record).await.map(drop)
            }
            Self::Deploy(who, value) => {
                registry.deploy(&tenant(who), &function, version(value), DeployOptions::default()).await.map(drop)
            }
            Self::RollBack(who) => registry.roll_back(&tenant(who), &function, None).await.map(drop),
            Self::DeleteFunction(who) => registry.delete(&tenant(who), &function).await,
            Self::Quarantine(who, value) => registry.quarantine(&tenant(who), &[[value; 32]]).await,
            Self::Forget => registry.persist_last_used(None).await,
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// After a crash every acknowledged change is stored and no refused one. The snapshot in memory equals the store.
    #[test]
    fn the_registry_loses_nothing_acknowledged_whatever_the_store_answers(seed in any::<u64>(), steps in steps(), crash_every in 3..12_usize, permille in prop_oneof![Just(0), Just(300), Just(700)]) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
        runtime.block_on(async move {
            let mut server = start(Arc::new(SimulatedStore::new(seed)));
            for (number, step) in steps.into_iter().enumerate() {
                server.records.fail_at_random(permille);
                server.records.answer_late(2);
                let before = told(&server.registry.snapshot());
                let made = step.clone().make(&server.registry, number as u64).await;
                server.records.fail_at_random(0);
                let is_open = matches!(made, Err(RegistryError::Store(StoreError::Unknown { .. })));
                if number % crash_every == crash_every - 1 {
                    // A crash right after the answer.
                    let memory = told(&server.registry.snapshot());
                    let crashed = Arc::new(server.records.crash());
                    server = start(crashed);
                    let stored = told(&server.registry.snapshot());
                    if made.is_ok() {
                        assert_eq!(stored, memory, "{step:?}");
                    } else if !is_open {
                        assert_eq!(stored, before, "{step:?}");
                    }
                    continue;
                }
                server.registry.settle_changes().await.unwrap();
                let contents = server.registry.store().read_all().await.unwrap();
                let store = Arc::clone(server.registry.store());
                let stored = Registry::new(store, contents, [0; 32], TenantLimits::default(), 3);
                let memory = told(&server.registry.snapshot());
                assert_eq!(told(&stored.snapshot()), memory, "{step:?}");
                if made.is_err() && !is_open {
                    assert_eq!(memory, before, "{step:?} was refused");
                }
            }
        });
    }
}

#[tokio::test]
async fn uploads_that_nothing_refers_to_are_removed_wherever_they_are() {
    let (records, blobs) = (Arc::new(SimulatedStore::new(5)), Arc::new(SimulatedTenantBlobs::default()));
    let server = start_with(records, Arc::clone(&blobs));
    let (acme, gone) = (TenantName::new("acme").unwrap(), TenantName::new("gone").unwrap());
    for (number, tenant) in [&acme, &gone].into_iter().enumerate() {
        let key = KeySpec::full([u8::try_from(number).unwrap(); 32]);
        server.registry.create_tenant(tenant, key, LimitsChoice::default()).await.unwrap();
    }
    let assets = blobs.of(BlobKind::Asset, &acme);
    let (kept, unnamed) = (assets.put(b"kept".to_vec()).await.unwrap(), assets.put(b"unnamed".to_vec()).await.unwrap());
    let component = blobs.of(BlobKind::Component, &acme).put(b"unused".to_vec()).await.unwrap();
    for tenant in [&gone, &TenantName::new("unknown").unwrap()] {
        blobs.of(BlobKind::Asset, tenant).put(b"left".to_vec()).await.unwrap();
    }
    server.registry.delete_tenant(&gone).await.unwrap();
    let record = AssetRecord { digest: kept.clone(), size: 4, put: jiff::Timestamp::now() };
    let guard = server.registry.protect_files(&acme, &unnamed);
    server.registry.put_asset(&acme, &AssetName::new("a").unwrap(), record).await.unwrap();
    server.registry.sweep_all();
    // A change waits for the sweep.
    server.registry.suspend(&acme, true).await.unwrap();
    let mut left = vec![kept.clone(), unnamed];
    left.sort();
    assert_eq!(assets.list().await.unwrap(), left, "a request is about to name the second one");
    assert_eq!(blobs.of(BlobKind::Component, &acme).size(&component).await.unwrap(), None);
    assert_eq!(blobs.tenants(BlobKind::Asset).await.unwrap(), ["acme", "unknown"], "a record may have been lost");
    drop(guard);
    blobs.store(BlobKind::Asset, &acme).fail_next(std::io::ErrorKind::TimedOut);
    for left in [2, 1] {
        // The first time the store does not answer, so nothing is removed.
        server.registry.sweep_all();
        server.registry.suspend(&acme, left == 1).await.unwrap();
        assert_eq!(assets.list().await.unwrap().len(), left);
    }
    assert_eq!(assets.list().await.unwrap(), [kept]);
}
