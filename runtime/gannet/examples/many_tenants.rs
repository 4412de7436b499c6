//! Fills a data folder with many tenants, each with a key and three functions, for the benchmark of a restart.
//!
//! Usage: `many_tenants DATA COUNT COMPONENT.wasm`. Only every thousandth tenant, from the first on, has the
//! component's file.
#![allow(clippy::print_stdout, reason = "a program for the benchmark")]

use gannet_base::identity::hash;
use gannet_base::manifest::Manifest;
use gannet_base::names::{FunctionName, TenantName};
use gannet_base::records::{FunctionRecord, KeyRecord, TenantRecord, VersionRecord};
use gannet_base::scopes::Scopes;
use gannet_state::records::blobs::BlobKind;
use gannet_state::store::{Store, WriteBatch};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::error::Error;
use std::path::PathBuf;
use std::sync::Arc;

/// Tenants in one commit.
const AT_ONCE: usize = 200;

fn record(digest: &str, size: u64) -> VersionRecord {
    VersionRecord {
        number: 1,
        digest: digest.to_owned(),
        size,
        created: jiff::Timestamp::now(),
        manifest: Manifest::default(),
        kernels: Arc::default(),
        warnings: Vec::new(),
        cause: None,
        assets: std::collections::BTreeMap::new(),
        snapshot_size: None,
        build_size: 0,
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args_os().skip(1);
    let (Some(data), Some(count), Some(component)) = (arguments.next(), arguments.next(), arguments.next()) else {
        return Err("many_tenants DATA COUNT COMPONENT.wasm".into());
    };
    let count: usize = count.to_string_lossy().parse()?;
    let bytes = std::fs::read(PathBuf::from(component))?;
    let digest = hex::encode(Sha256::digest(&bytes));
    let (store, _) = Store::open(&PathBuf::from(data), "none")?;
    let mut change = WriteBatch::new();
    for number in 0..count {
        let tenant = TenantName::new(&format!("tenant-{number}"))?;
        let key = KeyRecord {
            id: format!("{number:016x}"),
            tenant: tenant.clone(),
            scopes: Scopes::FULL,
            created: jiff::Timestamp::now(),
            function: None,
            expires: None,
            requests_per_s: None,
            used_s: 0,
        };
        change = change.tenant(&tenant, &TenantRecord::new(jiff::Timestamp::now()))?;
        change = change.key(&hash(&format!("gnt_{tenant}_secret")), &key)?;
        for function in ["one", "two", "three"] {
            let function = FunctionName::new(function)?;
            let kept = FunctionRecord {
                current: 1,
                traffic: Vec::new(),
                sticky: None,
                tags: BTreeMap::new(),
                before: Vec::new(),
            };
            change = change.function(&tenant, &function, &kept)?;
            change = change.version(&tenant, &function, &record(&digest, bytes.len() as u64))?;
        }
        if number % 1000 == 0 {
            store.blobs(BlobKind::Component, &tenant).put(bytes.clone()).await?;
        }
        if (number + 1) % AT_ONCE == 0 {
            store.commit_blocking(std::mem::take(&mut change))?;
        }
    }
    store.commit_blocking(change)?;
    println!("{count} tenants");
    Ok(())
}
