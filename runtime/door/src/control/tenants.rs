//! `/api/v1/tenants`: the operator creates, limits, suspends and deletes tenants.

use crate::control::Control;
use crate::control::arguments::json_needed;
use crate::control::audit_entry::AuditSubject;
use crate::control::call::{ApiCall, CallResult};
use crate::control::error::ControlError;
use crate::control::keys::new_key;
use crate::respond::{ReplyStatus, json};
use gannet_api::{Deleted, Limits, NewTenant, TenantMade, TenantView, Tenants, Used};
use gannet_base::identity::hash;
use gannet_base::limits::{self, LimitsChoice};
use gannet_base::names::TenantName;
use gannet_state::registry::{KeySpec, Snapshot, Tenant};
use std::sync::Arc;

fn view(name: &TenantName, tenant: &Tenant) -> TenantView {
    TenantView {
        name: name.to_string(),
        created: tenant.record.created.to_string(),
        suspended: tenant.record.suspended,
        functions: tenant.functions.len(),
        in_flight: tenant.account.in_flight(),
    }
}

impl Control {
    pub(super) fn list_tenants(&self, call: &ApiCall) -> CallResult {
        let (limit, cursor) = (call.query.limit()?, call.query.get("cursor").unwrap_or_default());
        let mut after = call.snapshot.tenants.iter().filter(|(name, _)| cursor.is_empty() || name.as_str() > cursor);
        let page: Vec<_> = after.by_ref().take(limit).collect();
        let cursor = after.next().and_then(|_| page.last()).map(|(name, _)| name.to_string());
        let tenants = page.into_iter().map(|(name, tenant)| view(name, tenant)).collect();
        Ok(json(ReplyStatus::Ok, &Tenants { tenants, cursor }))
    }

    pub(super) async fn create_tenant(&self, call: ApiCall) -> CallResult {
        let new: NewTenant = json_needed(call.inbound).await?;
        let name = TenantName::new(&new.name).map_err(|error| ControlError::Invalid(error.to_string()))?;
        let wrong: Vec<String> = new.limits.check().iter().map(ToString::to_string).collect();
        if !wrong.is_empty() {
            return Err(ControlError::Invalid(wrong.join("; ")).into());
        }
        self.check_grace(&new.limits)?;
        let key = new_key(name.as_str())?;
        let made = self.registry.create_tenant(&name, KeySpec::full(hash(&key)), new.limits).await;
        let made = made.map_err(ControlError::from)?;
        tracing::info!(tenant = %name, "a tenant was created");
        let subject = format!("tenant {name}, key {}", made.id);
        Ok(AuditSubject::of(
            subject,
            json(ReplyStatus::Created, &TenantMade { tenant: name.to_string(), id: made.id, key }),
        ))
    }

    /// Refuses a limit that is too high for the time that a worker has to release a GPU here.
    fn check_grace(&self, limits: &LimitsChoice) -> Result<(), ControlError> {
        let grace_ms = self.live.load().grace_ms();
        let Some(too_high) = limits::check_grace(limits, grace_ms) else { return Ok(()) };
        Err(ControlError::Conflict(format!("{too_high} with the server's lease_grace_ms = {grace_ms}")))
    }

    fn tenant_response(&self, name: &TenantName, snapshot: &Snapshot) -> CallResult {
        let tenant = snapshot.tenants.get(name).ok_or(ControlError::NotFound)?;
        Ok(json(ReplyStatus::Ok, &view(name, tenant)))
    }

    pub(super) fn get_tenant(&self, call: &ApiCall) -> CallResult {
        self.tenant_response(&call.tenant()?, &call.snapshot)
    }

    pub(super) async fn suspend(&self, call: &ApiCall, suspended: bool) -> CallResult {
        let name = call.tenant()?;
        self.registry.suspend(&name, suspended).await.map_err(ControlError::from)?;
        if suspended {
            self.pool.end_all(&name, "the tenant was suspended");
        }
        tracing::info!(tenant = %name, suspended, "a tenant was suspended or resumed");
        let snapshot = self.registry.snapshot();
        self.jobs.look_again(&name);
        if !suspended {
            crate::control::functions::warm(&snapshot, &self.pool, Some(&name));
        }
        self.tenant_response(&name, &snapshot)
    }

    pub(super) async fn delete_tenant(&self, call: &ApiCall) -> CallResult {
        let name = call.tenant()?;
        self.registry.delete_tenant(&name).await.map_err(ControlError::from)?;
        self.pool.end_all(&name, "the tenant was deleted");
        self.logs.forget_tenant(&name);
        if let Err(error) = self.jobs.remove_tenant(&name).await {
            tracing::error!(tenant = %name, %error, "jobs of a deleted tenant are left");
        }
        if let Err(error) = self.key_values.remove_tenant(&name).await {
            tracing::error!(tenant = %name, %error, "key-values of a deleted tenant are left until the next start");
        }
        let (store, gone) = (Arc::clone(self.registry.store()), name.clone());
        // The name is never used again, so nobody can need these files later.
        let removed = tokio::task::spawn_blocking(move || store.remove_tenant(&gone)).await;
        removed.map_err(|error| ControlError::Internal(error.to_string()))?;
        tracing::info!(tenant = %name, "a tenant was deleted");
        Ok(json(ReplyStatus::Ok, &Deleted { deleted: name.to_string() }))
    }

    pub(super) async fn limits(&self, name: &TenantName, snapshot: &Snapshot) -> CallResult {
        let tenant = snapshot.tenants.get(name).ok_or(ControlError::NotFound)?;
        let spent = tenant.account.spent(jiff::Timestamp::now());
        let (jobs_queued, job_bytes) = self.jobs.used(name);
        let key_values = self.key_values.used(name);
        let unread = |error: std::io::Error| ControlError::Internal(error.to_string());
        let schedules = self.jobs.schedule_count(name).await.map_err(unread)?;
        let hooks = self.jobs.hook_count(name).await.map_err(unread)?;
        let used = Used {
            concurrency: tenant.account.in_flight() as u64,
            functions: tenant.functions.len() as u64,
            versions: tenant.version_count(),
            components_mib: tenant.component_bytes(None).div_ceil(1 << 20),
            records_mib: tenant.record_bytes().div_ceil(1 << 20),
            jobs_queued,
            jobs_mib: job_bytes.div_ceil(1 << 20),
            schedules,
            hooks,
            keyvalue_keys: key_values.keys,
            keyvalue_mib: key_values.bytes.div_ceil(1 << 20),
            secrets: tenant.secrets.len() as u64,
            assets_mib: tenant.asset_bytes().div_ceil(1 << 20),
            keys: snapshot.keys_of(name).count() as u64,
            gpu_ms_per_day: spent.gpu_ns / 1_000_000,
            build_cpu_ms_per_day: spent.build_ns / 1_000_000,
            egress_mib_per_day: spent.egress_bytes >> 20,
            spend_micro_units_per_month: spent.micro_units,
        };
        let (limits, own, used) = (tenant.limits.by_name(), tenant.record.limits.by_name(), used.by_name());
        Ok(json(ReplyStatus::Ok, &Limits { tenant: name.to_string(), limits, own, used }))
    }

    pub(super) async fn set_limits(&self, call: ApiCall) -> CallResult {
        let name = call.tenant()?;
        let patch: serde_json::Map<_, _> = json_needed(call.inbound).await?;
        let subject = serde_json::Value::Object(patch.clone()).to_string();
        let asked = LimitsChoice {
            loop_mi_ops: patch.get("loop_mi_ops").and_then(serde_json::Value::as_u64),
            ..Default::default()
        };
        // A value outside the range of the table of limits is refused by `set_limits` below.
        if asked.check().is_empty() {
            self.check_grace(&asked)?;
        }
        let limits = self.registry.set_limits(&name, patch).await.map_err(ControlError::from)?;
        self.arbiter.set_weight(&name, u32::try_from(limits.gpu_weight).unwrap_or(u32::MAX));
        // Limits are part of what a worker loads, so its versions are loaded anew.
        self.pool.unload_unserved(&name);
        crate::control::functions::warm(&self.registry.snapshot(), &self.pool, Some(&name));
        Ok(AuditSubject::of(subject, self.limits(&name, &self.registry.snapshot()).await?))
    }
}
