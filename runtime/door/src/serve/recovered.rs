//! Opens the data folder at the start: recovers the state of an earlier run, or creates an empty one.

use super::options::{ServeError, ServeOptions, failed};
use crate::control::keys::new_key;
use gannet_base::identity::{KEY_PREFIX, hash};
use gannet_base::limits::LimitsChoice;
use gannet_base::names::TenantName;
use gannet_state::config::ServerConfig;
use gannet_state::ledger::Ledger;
use gannet_state::registry::{KeySpec, Registry};
use gannet_state::secrets::Vault;
use gannet_state::store::{Store, files};
use std::fmt::Display;
use std::io;
use std::path::Path;
use std::sync::Arc;

/// The tenant of a development server.
pub const DEV_TENANT: &str = "dev";
/// The key of [`DEV_TENANT`]. Everybody knows it, so a development server listens on loopback only.
pub const DEV_KEY: &str = "gnt_dev_local";
/// The least length of the operator's key: a shorter one could be guessed.
const OPERATOR_KEY_BYTES_MIN: usize = 32;
/// Its greatest length: longer keys of callers are refused unread.
const OPERATOR_KEY_BYTES_MAX: usize = 256;

/// Checks the form of the operator's key. It must have the prefix of our keys, so that it is not taken for a function's
/// own authorization.
fn checked_operator_key(source: &dyn Display, key: &str) -> Result<String, ServeError> {
    let is_long_enough = (OPERATOR_KEY_BYTES_MIN..=OPERATOR_KEY_BYTES_MAX).contains(&key.len());
    if key.starts_with(KEY_PREFIX) && is_long_enough && key.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Ok(key.to_owned());
    }
    Err(failed(format!(
        "{source} has {} characters; the operator's key must start with {KEY_PREFIX} and have \
         {OPERATOR_KEY_BYTES_MIN} to {OPERATOR_KEY_BYTES_MAX} printable characters",
        key.chars().count()
    )))
}

/// Returns the operator's key: the one in the environment, or the one in `operator.key`, which the first start creates.
fn operator_key(data: &Path) -> Result<String, ServeError> {
    // A key that is not text has no valid form either.
    let configured = std::env::var_os("GANNET_OPERATOR_KEY").unwrap_or_default();
    if !configured.is_empty() {
        return checked_operator_key(&"GANNET_OPERATOR_KEY", &configured.to_string_lossy());
    }
    let path = data.join("operator.key");
    match std::fs::read_to_string(&path) {
        Ok(key) => checked_operator_key(&path.display(), key.trim()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let key = new_key("operator").map_err(failed)?;
            files::write_durably(&path, format!("{key}\n").as_bytes(), 0o600).map_err(failed)?;
            Ok(key)
        }
        Err(error) => Err(failed(format!("{}: {error}", path.display()))),
    }
}

/// The state that an earlier run left, or an empty one.
pub(super) struct RecoveredState {
    pub(super) store: Arc<Store>,
    pub(super) registry: Arc<Registry>,
    pub(super) ledger: Arc<Ledger>,
    pub(super) vault: Vault,
}

/// Opens the data folder and everything in it.
pub(super) fn open(options: &ServeOptions, file: &ServerConfig) -> Result<RecoveredState, ServeError> {
    let compatibility = (options.engine_name)(file.wasi_http_0_3).map_err(failed)?;
    let (store, mut contents) = Store::open(&options.data, &compatibility)?;
    if !options.dev {
        // A server with --dev may have used the folder before. Everybody knows its key, so it must not work now.
        contents.keys.remove(&hash(DEV_KEY));
    }
    let store = Arc::new(store);
    let operator = operator_key(store.files().data())?;
    let secrets = contents.secrets.iter().map(|((tenant, name), record)| (tenant, name.as_str(), record));
    let vault = Vault::open(store.files().data(), file.secrets_key_file.as_ref(), secrets)?;
    let (ledger, by_day) = Ledger::open(Arc::clone(&store), file.retention.ledger_days)?;
    let (defaults, kept) = (file.tenant_limits(), file.retention.versions);
    let registry = Arc::new(Registry::new(Arc::clone(&store), contents, hash(&operator), defaults, kept));
    registry.count_used(&by_day);
    Ok(RecoveredState { store, registry, ledger, vault })
}

/// Creates the tenant of a development server, unless it exists.
pub(super) async fn dev_tenant(registry: &Arc<Registry>) -> Result<(), ServeError> {
    let name = TenantName::new(DEV_TENANT).map_err(failed)?;
    if registry.snapshot().tenants.contains_key(&name) {
        return Ok(());
    }
    // The limits are high, so that developers can try `scale.min` too.
    let limits = LimitsChoice {
        resident_gpu_mib: Some(1 << 20),
        requests_per_s: Some(1_000_000),
        requests_burst: Some(1_000_000),
        ..LimitsChoice::default()
    };
    registry.create_tenant(&name, KeySpec::full(hash(DEV_KEY)), limits).await.map_err(failed).map(drop)
}
