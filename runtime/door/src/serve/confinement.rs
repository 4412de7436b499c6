//! Checks that children are confined: one child tries what a child must not be able to do.

use super::options::{ServeError, ServeOptions};
use gannet_process::confine_check;
use gannet_process::spawn::Spawner;
use gannet_state::store::Store;

/// Refuses to serve if a layer of confinement is missing or an attempt succeeds, except with `--dev` or
/// `--allow-unconfined`.
pub(super) async fn check(spawner: &Spawner, store: &Store, options: &ServeOptions) -> Result<(), ServeError> {
    let data = store.files().data();
    let missing = match confine_check::ask(spawner, data, &store.files().run()).await {
        Ok(findings) => {
            let open = findings.attempts.iter().filter(|attempt| !attempt.refused).map(|attempt| attempt.what.clone());
            let missing = findings.confinement.missing().into_iter().map(str::to_owned);
            missing.chain(open.map(|what| format!("a child can {what}"))).collect::<Vec<_>>().join(", ")
        }
        Err(error) => error.to_string(),
    };
    if missing.is_empty() {
        return Ok(());
    }
    tracing::warn!(missing, "children are not fully confined");
    if options.dev || options.allow_unconfined { Ok(()) } else { Err(ServeError::Unconfined { missing }) }
}
