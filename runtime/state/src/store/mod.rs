//! Durable state: records in sled, large data in files.
//!
//! ```text
//!  DATA/format            version of the format; a server refuses a newer one than it knows
//!  DATA/lock              locked while a server runs
//!  DATA/operator.key      the operator's key; mode 0600
//!  DATA/db/               sled: tenants, keys, secrets, functions, versions, assets, sums of the ledger, audit log
//!  DATA/ledger/           see ledger/segment.rs
//!  DATA/secrets.key       the key that encrypts secrets; mode 0600. Not made if the key is configured elsewhere
//!  DATA/components/       {tenant}/{sha256}.wasm: components as uploaded
//!  DATA/assets/           {tenant}/{sha256}: assets as uploaded
//!  DATA/uploads/          {tenant}/…: unfinished uploads of assets, see store/uploads.rs
//!  DATA/incoming/         components being uploaded and builders' outputs; emptied at start
//!  DATA/compiled/         {tenant}/{build}-{engine}.cwasm, from the builder; {build} is the component's sha256,
//!                         with a suffix for a build with a snapshot
//!  DATA/driver-cache/     {tenant}/{sha256}/…, from the builder's driver
//!  DATA/run/              children's folders; emptied at start. In the temporary folder if children cannot enter DATA
//! ```
//!
//! Invariant: nothing is acknowledged before it is on disk. sled 0.34's flush writes but does not
//! sync, so one commit thread groups changes, applies each as one batch, flushes, syncs every file of
//! the database and its folder, and only then replies. Files are written under another name,
//! synced, renamed, and their folder is synced, before a change that names them is committed.

pub mod audit;
pub mod files;
pub mod uploads;
pub mod usage;

use files::Files;
use gannet_base::names::{AssetName, FunctionName, TenantName};
use gannet_base::records::{
    AssetRecord, DeletedTenantRecord, FunctionRecord, KeyRecord, SecretRecord, TenantRecord, VersionRecord,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use tokio::sync::{mpsc, oneshot};

/// Version of the format that this binary writes. 2 added traffic, tags, limits, secrets and the ledger. 3 added
/// assets.
const FORMAT: u32 = 3;
/// Commits that may wait for the commit thread. Each waits a few milliseconds at most.
const QUEUE_CAPACITY: usize = 256;

/// Why the store cannot be opened, read or written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another server uses the data folder.
    #[error("{0} is in use by another server")]
    InUse(PathBuf),
    /// A newer binary wrote the data folder.
    #[error("the data folder has format {found}; this binary knows up to {FORMAT}")]
    Newer {
        /// Format version of the folder.
        found: u32,
    },
    /// The disk is full.
    #[error("the disk is full")]
    Full,
    /// The operating system or sled failed.
    #[error("storage: {0}")]
    Io(String),
    /// A record cannot be read.
    #[error("the record {key:?} cannot be read: {cause}")]
    Corrupt {
        /// The record's key in the database.
        key: String,
        /// Why the record is invalid.
        cause: String,
    },
}

impl From<io::Error> for StoreError {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::StorageFull { Self::Full } else { Self::Io(error.to_string()) }
    }
}

impl From<sled::Error> for StoreError {
    fn from(error: sled::Error) -> Self {
        match error {
            sled::Error::Io(error) => error.into(),
            other => Self::Io(other.to_string()),
        }
    }
}

/// Changes that become durable together, or not at all.
#[derive(Debug, Default)]
pub struct WriteBatch(sled::Batch);

impl WriteBatch {
    /// Returns an empty batch.
    pub fn new() -> Self {
        Self::default()
    }

    fn put<T: Serialize>(mut self, key: Vec<u8>, value: &T) -> Result<Self, StoreError> {
        let bytes = serde_json::to_vec(value).map_err(|error| StoreError::Io(error.to_string()))?;
        self.0.insert(key, bytes);
        Ok(self)
    }

    /// Writes a tenant.
    pub fn tenant(self, name: &TenantName, record: &TenantRecord) -> Result<Self, StoreError> {
        self.put(format!("t/{name}").into_bytes(), record)
    }

    /// Writes a key.
    pub fn key(self, hash: &[u8; 32], record: &KeyRecord) -> Result<Self, StoreError> {
        self.put([b"k/", hash.as_slice()].concat(), record)
    }

    /// Removes a key.
    pub fn without_key(mut self, hash: &[u8; 32]) -> Self {
        self.0.remove([b"k/", hash.as_slice()].concat());
        self
    }

    /// Removes a tenant's record and reserves its name. The caller removes its keys, secrets, assets and functions.
    pub fn without_tenant(mut self, name: &TenantName, record: &DeletedTenantRecord) -> Result<Self, StoreError> {
        self.0.remove(format!("t/{name}").into_bytes());
        self.put(format!("g/{name}").into_bytes(), record)
    }

    /// Writes a secret.
    pub fn secret(self, tenant: &TenantName, name: &str, record: &SecretRecord) -> Result<Self, StoreError> {
        self.put(format!("s/{tenant}/{name}").into_bytes(), record)
    }

    /// Removes a secret.
    pub fn without_secret(mut self, tenant: &TenantName, name: &str) -> Self {
        self.0.remove(format!("s/{tenant}/{name}").into_bytes());
        self
    }

    /// Writes the record of an asset.
    pub fn asset(self, tenant: &TenantName, name: &AssetName, record: &AssetRecord) -> Result<Self, StoreError> {
        self.put(format!("asset/{tenant}/{name}").into_bytes(), record)
    }

    /// Removes the record of an asset.
    pub fn without_asset(mut self, tenant: &TenantName, name: &AssetName) -> Self {
        self.0.remove(format!("asset/{tenant}/{name}").into_bytes());
        self
    }

    /// Writes a function.
    pub fn function(
        self,
        tenant: &TenantName,
        name: &FunctionName,
        record: &FunctionRecord,
    ) -> Result<Self, StoreError> {
        self.put(format!("f/{tenant}/{name}").into_bytes(), record)
    }

    /// Writes a version.
    pub fn version(self, tenant: &TenantName, name: &FunctionName, record: &VersionRecord) -> Result<Self, StoreError> {
        self.put(format!("v/{tenant}/{name}/{:010}", record.number).into_bytes(), record)
    }

    /// Removes a function.
    pub fn without_function(mut self, tenant: &TenantName, name: &FunctionName) -> Self {
        self.0.remove(format!("f/{tenant}/{name}").into_bytes());
        self
    }

    /// Removes a version.
    pub fn without_version(mut self, tenant: &TenantName, name: &FunctionName, number: u32) -> Self {
        self.0.remove(format!("v/{tenant}/{name}/{number:010}").into_bytes());
        self
    }
}

/// The stored state, as read at start.
#[derive(Debug, Default)]
pub struct StoredState {
    /// Tenants, by name.
    pub tenants: BTreeMap<TenantName, TenantRecord>,
    /// Keys, by SHA-256.
    pub keys: BTreeMap<[u8; 32], KeyRecord>,
    /// Functions and their versions, oldest first.
    pub functions: BTreeMap<(TenantName, FunctionName), (FunctionRecord, Vec<VersionRecord>)>,
    /// Secrets, by tenant and name.
    pub secrets: BTreeMap<(TenantName, String), SecretRecord>,
    /// Assets, by tenant and name.
    pub assets: BTreeMap<(TenantName, AssetName), AssetRecord>,
    /// Deleted tenants. Their names may not be reused.
    pub deleted: BTreeMap<TenantName, DeletedTenantRecord>,
}

type Reply = oneshot::Sender<Result<(), StoreError>>;

/// The durable state; see the module.
#[derive(Debug)]
pub struct Store {
    files: Files,
    /// Used here only for reads. The commit thread makes all writes.
    db: sled::Db,
    commits: mpsc::Sender<(WriteBatch, Reply)>,
    /// Held while the server runs.
    _lock: File,
}

impl Store {
    /// Opens the data folder, or makes it, and reads the stored state. `engine` identifies the engine that components
    /// are compiled for.
    pub fn open(data: &Path, engine: &str) -> Result<(Self, StoredState), StoreError> {
        let files = Files::open(data, engine)?;
        let lock = files::lock(data)?;
        check_format(data)?;
        files.empty_run()?;
        let db = sled::Config::new().path(data.join("db")).mode(sled::Mode::LowSpace).flush_every_ms(None).open()?;
        let contents = read(&db)?;
        let (commits, inbox) = mpsc::channel(QUEUE_CAPACITY);
        let (folder, writes) = (data.join("db"), db.clone());
        std::thread::Builder::new().name("commit".into()).spawn(move || commit_thread(&writes, &folder, inbox))?;
        Ok((Self { files, db, commits, _lock: lock }, contents))
    }

    /// Returns the files beside the database.
    pub fn files(&self) -> &Files {
        &self.files
    }

    /// Makes a change durable. When this returns `Ok`, it is on disk.
    pub async fn commit(&self, change: WriteBatch) -> Result<(), StoreError> {
        let gone = || StoreError::Io("the commit thread has ended".into());
        let (answer, receiver) = oneshot::channel();
        self.commits.send((change, answer)).await.map_err(|_| gone())?;
        receiver.await.map_err(|_| gone())?
    }

    /// Does the same as [`Store::commit`], for a thread that may block.
    pub fn commit_blocking(&self, change: WriteBatch) -> Result<(), StoreError> {
        let gone = || StoreError::Io("the commit thread has ended".into());
        let (answer, receiver) = oneshot::channel();
        self.commits.blocking_send((change, answer)).map_err(|_| gone())?;
        receiver.blocking_recv().map_err(|_| gone())?
    }
}

fn check_format(data: &Path) -> Result<(), StoreError> {
    let path = data.join("format");
    match std::fs::read_to_string(&path) {
        Ok(text) => {
            let found = text.trim().parse().unwrap_or(u32::MAX);
            if found > FORMAT {
                return Err(StoreError::Newer { found });
            }
            if found < FORMAT {
                // Fields that were added have defaults, so older records can be read. An older binary must not read
                // records written from now on, so the format is raised.
                files::write_durably(&path, format!("{FORMAT}\n").as_bytes(), 0o644)?;
            }
            Ok(())
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            files::write_durably(&path, format!("{FORMAT}\n").as_bytes(), 0o644)?;
            Ok(())
        }
        Err(error) => Err(error.into()),
    }
}

/// Makes all writes to the database, in rounds. All commits that wait when a round begins become durable in that round.
fn commit_thread(db: &sled::Db, folder: &Path, mut inbox: mpsc::Receiver<(WriteBatch, Reply)>) {
    let mut round = Vec::new();
    // After a failure sled may still hold changes that were reported as failed, and the next sync would make them
    // durable. So nothing is accepted until a restart has read the state on disk.
    let mut failed = false;
    while inbox.blocking_recv_many(&mut round, QUEUE_CAPACITY) > 0 {
        let mut answers = Vec::with_capacity(round.len());
        let mut result =
            if failed { Err(StoreError::Io("an earlier write failed; restart the server".into())) } else { Ok(()) };
        for (WriteBatch(batch), answer) in round.drain(..) {
            if result.is_ok() {
                result = db.apply_batch(batch).map_err(StoreError::from);
            }
            answers.push(answer);
        }
        let result = result.and_then(|()| sync(db, folder));
        failed |= result.is_err();
        for answer in answers {
            let told = match &result {
                Ok(()) => Ok(()),
                Err(StoreError::Full) => Err(StoreError::Full),
                Err(error) => Err(StoreError::Io(error.to_string())),
            };
            // The caller may have stopped waiting. The change is durable anyway.
            let _ = answer.send(told);
        }
    }
}

fn sync(db: &sled::Db, folder: &Path) -> Result<(), StoreError> {
    db.flush()?;
    sync_folder(folder)
}

fn sync_folder(folder: &Path) -> Result<(), StoreError> {
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            sync_folder(&entry.path())?;
        } else {
            match File::open(entry.path()) {
                Ok(file) => file.sync_all()?,
                // sled may remove an old snapshot file of its own between `read_dir` and `open`.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
    File::open(folder)?.sync_all()?;
    Ok(())
}

fn parse<T: DeserializeOwned>(key: &[u8], value: &[u8]) -> Result<T, StoreError> {
    serde_json::from_slice(value).map_err(|error| StoreError::Corrupt {
        key: String::from_utf8_lossy(key).into_owned(),
        cause: error.to_string(),
    })
}

fn read(db: &sled::Db) -> Result<StoredState, StoreError> {
    let mut contents = StoredState::default();
    let mut versions: BTreeMap<(TenantName, FunctionName), Vec<VersionRecord>> = BTreeMap::new();
    let bad = |key: &[u8]| StoreError::Corrupt {
        key: String::from_utf8_lossy(key).into_owned(),
        cause: "the key is malformed".into(),
    };
    for entry in db.scan_prefix(b"k/") {
        let (key, value) = entry?;
        let hash = key.get(2..).unwrap_or_default();
        contents.keys.insert(hash.try_into().map_err(|_| bad(&key))?, parse(&key, &value)?);
    }
    // The remaining records are sums and audit entries, which are read on demand.
    for kind in ["t", "g", "s", "asset", "f", "v"] {
        for entry in db.scan_prefix(format!("{kind}/")) {
            let (key, value) = entry?;
            let text = std::str::from_utf8(&key).map_err(|_| bad(&key))?;
            let mut parts = text.split('/').skip(1);
            let tenant = parts.next().and_then(|name| TenantName::new(name).ok()).ok_or_else(|| bad(&key))?;
            let second = parts.next();
            let function = second.and_then(|name| FunctionName::new(name).ok());
            match (kind, second, function) {
                ("t", None, _) => drop(contents.tenants.insert(tenant, parse(&key, &value)?)),
                ("g", None, _) => drop(contents.deleted.insert(tenant, parse(&key, &value)?)),
                ("s", Some(name), _) => {
                    contents.secrets.insert((tenant, name.to_owned()), parse(&key, &value)?);
                }
                ("asset", Some(name), _) => {
                    let name = AssetName::new(name).map_err(|_| bad(&key))?;
                    contents.assets.insert((tenant, name), parse(&key, &value)?);
                }
                ("f", _, Some(function)) => {
                    contents.functions.insert((tenant, function), (parse(&key, &value)?, Vec::new()));
                }
                ("v", _, Some(function)) => {
                    versions.entry((tenant, function)).or_default().push(parse(&key, &value)?);
                }
                _ => return Err(bad(&key)),
            }
        }
    }
    for (name, list) in versions {
        if let Some(function) = contents.functions.get_mut(&name) {
            function.1 = list;
        }
    }
    Ok(contents)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_was_committed_is_read_back_and_the_lock_holds() {
        let folder = tempfile::tempdir().unwrap();
        let (store, contents) = Store::open(folder.path(), "x").unwrap();
        assert!(contents.tenants.is_empty());
        let name = TenantName::new("acme").unwrap();
        let record = TenantRecord::new(jiff::Timestamp::now());
        store.commit(WriteBatch::new().tenant(&name, &record).unwrap()).await.unwrap();
        assert!(matches!(Store::open(folder.path(), "x"), Err(StoreError::InUse(_))));
        drop(store);
        // The commit thread closes the database a moment after its channel closes.
        let reopened = loop {
            match Store::open(folder.path(), "x") {
                Ok((_, contents)) => break contents,
                Err(_) => tokio::task::yield_now().await,
            }
        };
        assert!(reopened.tenants.contains_key(&name));
    }

    #[test]
    fn a_newer_format_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("format"), "99\n").unwrap();
        assert!(matches!(Store::open(folder.path(), "x"), Err(StoreError::Newer { found: 99 })));
    }
}
