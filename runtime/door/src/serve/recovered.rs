//! What the server finds in its data folder at the start, and what it makes there the first time.

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
use std::io;
use std::path::Path;
use std::sync::Arc;

/// The tenant and key of a development server.
pub const DEV_TENANT: &str = "dev";
/// Its key. Everybody knows it, hence a development server listens on loopback only.
pub const DEV_KEY: &str = "gnt_dev_local";
/// A shorter key of the operator's own choice could be guessed. Its prefix keeps it from being taken for a
/// function's own authorization.
const OPERATOR_KEY_BYTES_MIN: usize = 32;

/// The operator's key: from the environment, or made at the first start and kept.
fn operator_key(data: &Path) -> Result<String, ServeError> {
    if let Ok(key) = std::env::var("GANNET_OPERATOR_KEY")
        && !key.is_empty()
    {
        if !key.starts_with(KEY_PREFIX) || key.len() < OPERATOR_KEY_BYTES_MIN {
            return Err(failed(format!(
                "GANNET_OPERATOR_KEY must start with {KEY_PREFIX} and have at least {OPERATOR_KEY_BYTES_MIN} characters"
            )));
        }
        return Ok(key);
    }
    let path = data.join("operator.key");
    match std::fs::read_to_string(&path) {
        Ok(key) => Ok(key.trim().to_owned()),
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

/// Opens the data folder.
pub(super) fn open(options: &ServeOptions, file: &ServerConfig) -> Result<RecoveredState, ServeError> {
    let compatibility = (options.engine_name)(file.wasi_http_0_3).map_err(failed)?;
    let (store, mut contents) = Store::open(&options.data, &compatibility)?;
    if !options.dev {
        // The folder may have served --dev before; everybody knows that key.
        contents.keys.remove(&hash(DEV_KEY));
    }
    let store = Arc::new(store);
    let operator = operator_key(store.files().data())?;
    let vault = Vault::open(store.files().data(), file.secrets_key_file.as_ref())?;
    let (ledger, by_day) = Ledger::open(Arc::clone(&store), file.retention.ledger_days)?;
    let (defaults, kept) = (file.tenant_limits(), file.retention.versions);
    let registry = Arc::new(Registry::new(Arc::clone(&store), contents, hash(&operator), defaults, kept));
    registry.count_used(&by_day);
    Ok(RecoveredState { store, registry, ledger, vault })
}

/// Makes the tenant of a development server, if it is not there.
pub(super) async fn dev_tenant(registry: &Arc<Registry>) -> Result<(), ServeError> {
    let name = TenantName::new(DEV_TENANT).map_err(failed)?;
    if registry.snapshot().tenants.contains_key(&name) {
        return Ok(());
    }
    // Whoever develops wants to try `scale.min` too.
    let limits = LimitsChoice {
        resident_gpu_mib: Some(1 << 20),
        requests_per_s: Some(1_000_000),
        requests_burst: Some(1_000_000),
        ..LimitsChoice::default()
    };
    registry.create_tenant(&name, KeySpec::full(hash(DEV_KEY)), limits).await.map_err(failed).map(drop)
}
