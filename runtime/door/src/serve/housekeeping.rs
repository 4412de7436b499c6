//! Periodic work: stores when keys were last used, and removes old entries of the audit log. Also reads the
//! configuration file again at SIGHUP.

use crate::front::Tls;
use gannet_state::config::{self, LiveConfig};
use gannet_state::registry::Registry;
use gannet_state::store::StoreError;
use gannet_state::store::audit::FORGOTTEN_AT_ONCE;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Interval of the periodic work.
const HOUSEKEEPING_EVERY: Duration = Duration::from_secs(60);

/// Does the periodic work until `stop` is cancelled: stores when keys were last used, and once an hour removes old
/// audit entries.
pub(super) async fn housekeep(registry: Arc<Registry>, live: LiveConfig, stop: CancellationToken) {
    let mut minutes = 0_u32;
    while tokio::time::timeout(HOUSEKEEPING_EVERY, stop.cancelled()).await.is_err() {
        minutes = minutes.wrapping_add(1);
        if let Err(error) = registry.persist_last_used().await {
            tracing::warn!(%error, "the times at which keys were last used could not be stored");
        }
        // Once an hour only, because this reads all entries.
        if minutes % 60 != 1 {
            continue;
        }
        let days = i64::try_from(live.load().retention.audit_days).unwrap_or(i64::MAX);
        let age = jiff::SignedDuration::from_hours(days.saturating_mul(24).min(24 * 366 * 1000));
        let Ok(before) = jiff::Timestamp::now().checked_sub(age) else { continue };
        let store = Arc::clone(registry.store());
        let forgotten = tokio::task::spawn_blocking(move || {
            while store.expire_audit(before)? >= FORGOTTEN_AT_ONCE {}
            Ok::<_, StoreError>(())
        })
        .await;
        if let Ok(Err(error)) = forgotten {
            tracing::warn!(%error, "old entries of the audit log could not be removed");
        }
    }
}

/// Reads the file again at each SIGHUP, and applies all of it or nothing. A server without a file logs a warning and
/// goes on.
pub(super) async fn reload(
    path: Option<PathBuf>,
    live: LiveConfig,
    registry: Arc<Registry>,
    tls: Option<Arc<Tls>>,
    stop: CancellationToken,
) {
    let mut hangup = match signal(SignalKind::hangup()) {
        Ok(hangup) => hangup,
        Err(error) => return tracing::error!(%error, "SIGHUP cannot be handled: the file will not be read again"),
    };
    while tokio::select! { hung = hangup.recv() => hung.is_some(), () = stop.cancelled() => false } {
        let Some(read) = path.clone() else {
            tracing::warn!("SIGHUP, but there is no file to read: the server was started without --config");
            continue;
        };
        let next = match tokio::task::spawn_blocking(move || config::read(&read)).await {
            Ok(Ok(next)) => next,
            Ok(Err(error)) => {
                for error in error.each() {
                    tracing::error!(%error, "the file cannot be used; nothing was changed");
                }
                continue;
            }
            Err(_) => continue,
        };
        let old = live.load_full();
        if let Err(error) = registry.set_defaults(next.tenant_limits(), next.retention.versions).await {
            tracing::error!(%error, "the file could not be applied");
            continue;
        }
        let waits = old.restart_needed(&next);
        live.store(Arc::new(next));
        if let Some(tls) = &tls {
            tls.reload();
        }
        let waits = if waits.is_empty() { "nothing".to_owned() } else { waits.join(", ") };
        tracing::info!(needs_a_restart = waits, "the file was read again and applied");
    }
}
