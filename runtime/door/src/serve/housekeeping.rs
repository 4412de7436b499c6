//! Periodic work: stores when keys were last used, and removes old entries of the audit log. Also reads the
//! configuration file again at SIGHUP.

use crate::control::functions::warm;
use crate::front::{Tls, check_tls};
use gannet_base::time::ClockWatch;
use gannet_fleet::arbiter::Arbiter;
use gannet_fleet::egress;
use gannet_fleet::pool::Pool;
use gannet_state::config::{self, LiveConfig, ServerConfig};
use gannet_state::ledger::Ledger;
use gannet_state::registry::Registry;
use gannet_state::secrets;
use gannet_state::store::audit::FORGOTTEN_AT_ONCE;
use gannet_state::store::{Store, StoreError, space};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Interval of the periodic work.
const HOUSEKEEPING_EVERY: Duration = Duration::from_secs(60);

/// How often the free space of the disk is looked at.
const SPACE_LOOK_EVERY: Duration = Duration::from_millis(500);
/// How often old entries of the audit log are looked for.
const REMOVE_EVERY: Duration = Duration::from_secs(3600);

/// Does the periodic work until `stop` is cancelled: stores when keys were last used, and once an hour removes old
/// audit entries. Watches the clock: nothing is removed because of its age after a jump of the clock or a start, until
/// the clock has gone evenly for an hour.
pub(super) async fn housekeep(registry: Arc<Registry>, live: LiveConfig, stop: CancellationToken) {
    let (mut watch, mut removed_at) = (ClockWatch::default(), None::<Instant>);
    watch.look(Instant::now(), jiff::Timestamp::now());
    while tokio::time::timeout(HOUSEKEEPING_EVERY, stop.cancelled()).await.is_err() {
        if let Some(jump) = watch.look(Instant::now(), jiff::Timestamp::now()) {
            tracing::warn!(
                seconds = jump.as_secs(),
                "the clock jumped: nothing is removed because of its age for an hour"
            );
        }
        let trusted = watch.trusted();
        registry.store().files().trusted_time.set(trusted);
        if let Err(error) = registry.persist_last_used(trusted).await {
            tracing::warn!(%error, "the times at which keys were last used could not be stored");
        }
        // Once an hour only, because this reads all entries.
        let Some(now) = trusted.filter(|_| removed_at.is_none_or(|at| at.elapsed() >= REMOVE_EVERY)) else { continue };
        removed_at = Some(Instant::now());
        let days = i64::try_from(live.load().retention.audit_days).unwrap_or(i64::MAX);
        let age = jiff::SignedDuration::from_hours(days.saturating_mul(24).min(24 * 366 * 1000));
        let Ok(before) = now.checked_sub(age) else { continue };
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

/// Looks whether the disk has room for the bill of more requests, until `stop` is cancelled.
pub(super) async fn watch_space(ledger: Arc<Ledger>, store: Arc<Store>, live: LiveConfig, stop: CancellationToken) {
    while tokio::time::timeout(SPACE_LOOK_EVERY, stop.cancelled()).await.is_err() {
        // On an error nothing is known, and the ledger itself tells if it cannot be written.
        if let Ok(free) = space::free(store.files().data()) {
            ledger.set_room(space::has_room_for_requests(free, live.load().disk_reserve_mib << 20));
        }
    }
}

/// Returns the errors of the files that a configuration file names.
pub fn errors_of_named_files(file: &ServerConfig) -> Vec<String> {
    let tls = file.tls.as_ref().and_then(|files| check_tls(files).err());
    let tls = tls.map(|error| format!("tls: {error}"));
    let key = file.secrets_key_file.as_deref().and_then(|path| secrets::check_key_file(path).err());
    let key = key.map(|error| format!("secrets_key_file: {error}"));
    let ca = file.egress.ca_file.as_deref().and_then(|path| egress::check_ca_file(path).err());
    let ca = ca.map(|error| format!("egress.ca_file: {error}"));
    [tls, key, ca].into_iter().flatten().collect()
}

/// Reads the file again at each SIGHUP, and applies all of it or nothing. A server without a file logs a warning and
/// goes on.
pub(super) async fn reload(
    path: Option<PathBuf>,
    live: LiveConfig,
    (registry, pool, arbiter): (Arc<Registry>, Pool, Arc<Arbiter>),
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
        let shown = read.display().to_string();
        let next = match tokio::task::spawn_blocking(move || config::read(&read)).await {
            Ok(Ok(next)) => next,
            Ok(Err(error)) => {
                for error in error.each() {
                    tracing::error!(file = shown, %error, "the file cannot be used; nothing was changed");
                }
                continue;
            }
            Err(_) => continue,
        };
        let wrong = errors_of_named_files(&next);
        if !wrong.is_empty() {
            for error in wrong {
                tracing::error!(file = shown, error, "the file cannot be used; nothing was changed");
            }
            continue;
        }
        let old = live.load_full();
        if let Err(error) = registry.set_defaults(next.tenant_limits(), next.retention.versions).await {
            tracing::error!(%error, "the file could not be applied");
            continue;
        }
        let waits = old.restart_needed(&next);
        live.store(Arc::new(next));
        // Limits are part of what a worker loads, so versions are loaded anew where they have changed.
        let snapshot = registry.snapshot();
        for (name, tenant) in &snapshot.tenants {
            arbiter.set_weight(name, u32::try_from(tenant.limits.gpu_weight).unwrap_or(u32::MAX));
            pool.unload_unserved(name);
        }
        warm(&snapshot, &pool, None);
        if let Some(tls) = &tls {
            tls.reload();
        }
        let waits = if waits.is_empty() { "nothing".to_owned() } else { waits.join(", ") };
        tracing::info!(needs_a_restart = waits, "the file was read again and applied");
    }
}
