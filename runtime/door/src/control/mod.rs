//! The control API, for tenants and the operator. Its requests leave the path after routing.
//!
//! ```text
//!  /healthz /readyz /metrics ─▶ health: no tenant's data; sums over all tenants for the operator
//!  /api/v1/… ─▶ operations ─▶ authorize ─▶ audit: start ─▶ the operation ─▶ audit: outcome ─▶ response
//! ```
//!
//! The operator acts for a tenant with the header `x-gannet-tenant`. Such operations are recorded in that tenant's
//! audit log. Every change is in the audit log before it is made. A change that has begun runs to its end, even if its
//! client leaves: a half one would leave files, workers or an audit entry without an outcome.

// The path of a call.
pub mod operations;
mod error;
mod upload;
pub(crate) mod arguments;
mod authorize;
mod call;
mod audit_entry;

// The operations.
pub mod functions;
mod deploy;
mod traffic;
pub mod assets;
mod secrets;
mod logs;
mod usage;
mod focus;
pub mod keys;
mod tenants;
mod queues;
mod webhooks;
mod audit_log;
mod gpus;
mod health;

// The types of bodies, and the OpenAPI document.
mod openapi;
mod openapi_jobs;

pub use openapi::document;

use crate::access::AccessError;
use crate::audit::AuditTrail;
use crate::jobs::ServerJobs;
use crate::respond::{ReplyStatus, json};
use crate::waiting_bytes::WaitingBytes;
use arguments::Query;
use audit_entry::audit_entry;
use authorize::{TenantGrant, authorize};
use call::{ApiCall, CallResult};
use error::ControlError;
use gannet_base::identity::Caller;
use gannet_base::names::RequestId;
use gannet_base::quota::rate::{Rate, RateExceeded};
use gannet_base::records::AuditRecord;
use gannet_fleet::arbiter::Arbiter;
use gannet_fleet::build::BuildService;
use gannet_fleet::gpus::GpuSlot;
use gannet_fleet::inbound::InboundRequest;
use gannet_fleet::logs::Logs;
use gannet_fleet::pool::Pool;
use gannet_state::config::LiveConfig;
use gannet_state::keyvalue::KeyValues;
use gannet_state::ledger::Ledger;
use gannet_state::registry::{Registry, Snapshot};
use gannet_state::secrets::Vault;
use gannet_state::store::space;
use http::Method;
use operations::{OperationId, RequiredAccess, RouteMatch};
use std::sync::Arc;
use std::time::Instant;

/// The control API, and the parts of the server that it works with.
#[derive(Debug)]
pub struct Control {
    /// Tenants, keys, functions, assets and secrets.
    pub registry: Arc<Registry>,
    /// Builds uploads.
    pub builder: Arc<BuildService>,
    /// Runs workers.
    pub pool: Pool,
    /// Receipts and usage.
    pub ledger: Arc<Ledger>,
    /// Log lines.
    pub logs: Arc<Logs>,
    /// The GPU slots.
    pub slots: Arc<Vec<GpuSlot>>,
    /// Reports the health and the holder of each GPU.
    pub arbiter: Arc<Arbiter>,
    /// Encrypts secrets.
    pub vault: Arc<Vault>,
    /// Background jobs.
    pub jobs: ServerJobs,
    /// Key-value storage of functions.
    pub key_values: Arc<KeyValues>,
    /// The bytes of responses that wait for clients.
    pub waiting: Arc<WaitingBytes>,
    /// The server's configuration; SIGHUP replaces it.
    pub live: LiveConfig,
    /// Writes the audit log.
    pub trail: Arc<AuditTrail>,
    /// Uploads of assets that a request is adding to.
    pub uploading: assets::ActiveUploads,
    /// The server's URL, used if the configuration has no `public_url`.
    pub own_url: String,
    /// Whether the control API has a listener of its own (`admin_listen`).
    pub has_own_listener: bool,
    /// Whether this is a development server, on loopback only.
    pub dev: bool,
}

impl Control {
    /// Serves a request that is not for a function.
    pub async fn call(
        self: &Arc<Self>,
        inbound: InboundRequest,
        caller: Caller,
        snapshot: Arc<Snapshot>,
    ) -> CallResult {
        let path = inbound.parts.uri.path().to_owned();
        if let Some(response) = self.health_endpoints(&inbound, &caller, &path)? {
            return Ok(response);
        }
        let Some(rest) = path.strip_prefix("/api/v1/") else { return Err(AccessError::NotFound.into()) };
        let (operation, names) = match operations::find(&inbound.parts.method, rest) {
            RouteMatch::Operation(operation, names) => (operation, names),
            // A caller without a key must not learn which paths exist.
            _ if caller == Caller::Anonymous => return Err(AccessError::KeyNeeded.into()),
            RouteMatch::Methods(allowed) => {
                let method = inbound.parts.method.to_string();
                return Err(AccessError::MethodNotAllowed { method, allowed }.into());
            }
            RouteMatch::Nothing => return Err(AccessError::NotFound.into()),
        };
        if caller == Caller::Anonymous && operation.access != RequiredAccess::Anyone {
            return Err(AccessError::KeyNeeded.into());
        }
        let grant = authorize(operation, &inbound, &caller, &names, &snapshot)?;
        let query = Query::read(&inbound, operation)?;
        let call = ApiCall { inbound, caller, snapshot, names, query };
        let Some((whose, entry)) = audit_entry(operation, &call, grant.as_ref()) else {
            return self.run(operation.op, call, grant).await;
        };
        if let Some(grant) = grant.as_ref().filter(|_| call.caller != Caller::Operator) {
            let per_s = grant.owner.limits.changes_per_s;
            let rate = Rate { per_s, burst: per_s.saturating_mul(10) };
            let taken = grant.owner.account.changes.take(rate, Instant::now());
            taken.map_err(|wait| RateExceeded { whose: "the tenant, through the control API,", rate, wait })?;
        }
        if call.caller != Caller::Operator && call.inbound.parts.method != Method::DELETE {
            self.check_space(0)?;
        }
        let running = tokio::spawn(Arc::clone(self).run_audited(operation.op, call, grant, (whose, entry)));
        running.await.map_err(|error| ControlError::Internal(error.to_string()))?
    }

    /// Refuses to take `bytes` of the disk's space if that would leave less than the reserve.
    pub(super) fn check_space(&self, bytes: u64) -> Result<(), ControlError> {
        let free = space::free(self.registry.store().files().data())?;
        let reserve = self.live.load().disk_reserve_mib << 20;
        if free < reserve.saturating_add(bytes) { Err(ControlError::StorageFull) } else { Ok(()) }
    }

    /// Runs an operation between the two writes of its audit entry.
    async fn run_audited(
        self: Arc<Self>,
        op: OperationId,
        call: ApiCall,
        grant: Option<TenantGrant>,
        (whose, entry): (Vec<String>, AuditRecord),
    ) -> CallResult {
        let id = call.inbound.id;
        self.trail.around::<ControlError>((whose, id, entry), self.run(op, call, grant)).await
    }

    async fn run(&self, op: OperationId, call: ApiCall, grant: Option<TenantGrant>) -> CallResult {
        match (op, grant) {
            (OperationId::Whoami, _) => {
                let public_url = self.live.load().public_url.clone();
                let url = || public_url.unwrap_or_else(|| self.own_url.clone());
                Ok(keys::whoami(&call.caller, self.has_own_listener.then(url)))
            }
            (OperationId::OpenApi, _) => Ok(openapi::response()),
            (OperationId::Gpus, _) => Ok(json(ReplyStatus::Ok, &self.gpus(&call.caller))),
            (OperationId::Prices, _) => Ok(json(ReplyStatus::Ok, &self.prices())),
            (OperationId::Audit, grant) => self.audit_log(call, grant).await,
            (OperationId::ListTenants, _) => self.list_tenants(&call),
            (OperationId::CreateTenant, _) => self.create_tenant(call).await,
            (OperationId::GetTenant, _) => self.get_tenant(&call),
            (OperationId::DeleteTenant, _) => self.delete_tenant(&call).await,
            (OperationId::Suspend, _) => self.suspend(&call, true).await,
            (OperationId::Resume, _) => self.suspend(&call, false).await,
            (OperationId::GetLimits, _) => self.limits(&call.tenant()?, &call.snapshot).await,
            (OperationId::SetLimits, _) => self.set_limits(call).await,
            (OperationId::ListKeys, _) => self.list_keys(&call),
            (OperationId::CreateKey, grant) => self.create_key(call, grant.as_ref()).await,
            (OperationId::RevokeKey, _) => self.revoke_key(&call).await,
            (OperationId::RotateKey, grant) => self.rotate_key(call, grant.as_ref()).await,
            (_, None) => Err(ControlError::TenantNeeded.into()),
            (op, Some(grant)) => self.run_for(op, call, grant).await,
        }
    }

    /// Runs an operation that needs a tenant.
    async fn run_for(&self, op: OperationId, call: ApiCall, grant: TenantGrant) -> CallResult {
        match op {
            OperationId::Limits => self.limits(&grant.tenant, &call.snapshot).await,
            OperationId::Usage => self.usage(call, grant).await,
            OperationId::Receipt => self.receipt(&call, grant).await,
            OperationId::ListFunctions => self.list_functions(&call, &grant),
            OperationId::GetFunction => self.get_function(&call, &grant),
            OperationId::Deploy => self.deploy(call, &grant).await,
            OperationId::Configure => self.configure(call, &grant).await,
            OperationId::DeleteFunction => self.delete_function(&call, &grant).await,
            OperationId::Versions => self.versions(&call, &grant),
            OperationId::GetTraffic => self.get_traffic(&call, &grant),
            OperationId::SetTraffic => self.set_traffic(call, &grant).await,
            OperationId::RollBack => self.roll_back(call, &grant).await,
            OperationId::SetTag => self.set_tag(call, &grant).await,
            OperationId::DeleteTag => self.delete_tag(&call, &grant).await,
            OperationId::Kernels => self.kernels(&call, &grant).await,
            OperationId::Logs => self.read_logs(&call, &grant),
            OperationId::ListAssets => self.list_assets(&call, &grant),
            OperationId::GetAsset => self.get_asset(&call, &grant),
            OperationId::PutAsset => self.put_asset(call, &grant).await,
            OperationId::DeleteAsset => self.delete_asset(&call, &grant).await,
            OperationId::ListSecrets => Ok(self.list_secrets(&grant)),
            OperationId::SetSecret => self.set_secret(call, &grant).await,
            OperationId::DeleteSecret => self.delete_secret(&call, &grant).await,
            OperationId::PauseQueues => self.pause_queues(&grant, true).await,
            OperationId::ResumeQueues => self.pause_queues(&grant, false).await,
            OperationId::GetWebhookSecret => self.webhook_secret(&grant).await,
            OperationId::RotateWebhookSecret => self.rotate_webhook_secret(&grant).await,
            _ => Err(AccessError::NotFound.into()),
        }
    }

    async fn receipt(&self, call: &ApiCall, grant: TenantGrant) -> CallResult {
        let id = RequestId::parse(call.name(0)).ok_or(ControlError::NotFound)?;
        let ledger = Arc::clone(&self.ledger);
        // An older receipt is read from disk, which blocks.
        let found = tokio::task::spawn_blocking(move || ledger.get(id)).await.ok().flatten();
        let own = |receipt: &gannet_base::bill::Receipt| {
            receipt.tenant == grant.tenant && grant.only.as_ref().is_none_or(|only| *only == receipt.function)
        };
        let (receipt, billed) = found.filter(|(receipt, _)| own(receipt)).ok_or(ControlError::NotFound)?;
        let cost_micro_units = receipt.micro_units();
        Ok(json(ReplyStatus::Ok, &gannet_api::ReceiptView { receipt, cost_micro_units, billed }))
    }
}
