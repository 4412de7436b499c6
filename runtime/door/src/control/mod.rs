//! The API for tenants and the operator, beside the path of requests.
//!
//! ```text
//!  /healthz /readyz /metrics ─▶ ops: nothing of tenants; sums for the operator
//!  /api/v1/… ─▶ table ─▶ who may ─▶ audit: it begins ─▶ the operation ─▶ audit: how it ended ─▶ answer
//! ```
//!
//! The operator acts for a tenant with the header `x-gannet-tenant`; what it does then stands in that tenant's audit log. What
//! changes something is in the log before it is done.

// What a call goes through.
pub mod table;
mod error;
mod upload;
pub(crate) mod arguments;
mod authorize;
mod call;
mod audit;

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
mod audit_log;
mod gpus;
mod ops;

// What is said.
mod views;
mod openapi;

pub use openapi::document;

use crate::access::AccessError;
use crate::respond::{Done, json, status_of};
use arguments::Query;
use audit::{AuditSubject, audit_entry};
use authorize::{TenantAccess, authorize};
use call::{Answered, Call};
use error::ControlError;
use gannet_base::identity::Caller;
use gannet_base::names::RequestId;
use gannet_base::quota::rate::{Rate, RateExceeded};
use gannet_fleet::arbiter::Arbiter;
use gannet_fleet::build::Builder;
use gannet_fleet::gpus::GpuSlot;
use gannet_fleet::inbound::Inbound;
use gannet_fleet::logs::Logs;
use gannet_fleet::pool::Pool;
use gannet_state::config::Live;
use gannet_state::ledger::Ledger;
use gannet_state::registry::{Registry, Snapshot};
use gannet_state::secrets::Vault;
use std::sync::Arc;
use std::time::Instant;
use table::{Access, Found, Op};

/// What the control API works with.
#[derive(Debug)]
pub struct Control {
    /// What is deployed.
    pub registry: Arc<Registry>,
    /// Builds uploads.
    pub builder: Arc<Builder>,
    /// Runs workers.
    pub pool: Pool,
    /// Receipts and usage.
    pub ledger: Arc<Ledger>,
    /// Log lines.
    pub logs: Arc<Logs>,
    /// The GPUs, each in its place.
    pub slots: Arc<Vec<GpuSlot>>,
    /// Whether they work.
    pub arbiter: Arc<Arbiter>,
    /// Seals secrets.
    pub vault: Arc<Vault>,
    /// The server's file.
    pub live: Live,
    /// Uploads of assets under way.
    pub uploading: assets::Uploading,
    /// The server's URL, where the file says none.
    pub own_url: String,
    /// Whether this is a development server, on loopback only.
    pub dev: bool,
}

impl Control {
    /// Answers a request to anything but a function.
    pub async fn call(&self, inbound: Inbound, caller: Caller, snapshot: Arc<Snapshot>) -> Answered {
        let path = inbound.parts.uri.path().to_owned();
        if let Some(response) = self.ops(&inbound, &caller, &path)? {
            return Ok(response);
        }
        let Some(rest) = path.strip_prefix("/api/v1/") else { return Err(AccessError::NotFound.into()) };
        let (operation, names) = match table::find(&inbound.parts.method, rest) {
            Found::Operation(operation, names) => (operation, names),
            // Without a key nobody learns which paths there are.
            _ if caller == Caller::Anonymous => return Err(AccessError::KeyNeeded.into()),
            Found::Methods(allowed) => {
                let method = inbound.parts.method.to_string();
                return Err(AccessError::MethodNotAllowed { method, allowed }.into());
            }
            Found::Nothing => return Err(AccessError::NotFound.into()),
        };
        if caller == Caller::Anonymous && operation.access != Access::Anyone {
            return Err(AccessError::KeyNeeded.into());
        }
        let acting = authorize(operation, &inbound, &caller, &names, &snapshot)?;
        let query = Query::read(&inbound, operation)?;
        let call = Call { inbound, caller, snapshot, names, query };
        let Some((whose, mut entry)) = audit_entry(operation, &call, acting.as_ref()) else {
            return self.run(operation.op, call, acting).await;
        };
        if let Some(acting) = acting.as_ref().filter(|_| call.caller != Caller::Operator) {
            let per_s = acting.owner.limits.changes_per_s;
            let rate = Rate { per_s, burst: per_s.saturating_mul(10) };
            let taken = acting.owner.account.changes.take(rate, Instant::now());
            taken.map_err(|wait| RateExceeded { whose: "the tenant, through the control API,", rate, wait })?;
        }
        let id = call.inbound.id;
        let store = Arc::clone(self.registry.store());
        store.audit(&whose, id, &entry).await.map_err(ControlError::from)?;
        let mut answered = self.run(operation.op, call, acting).await;
        let subject = answered.as_mut().ok().and_then(|response| response.extensions_mut().remove::<AuditSubject>());
        entry.subject = subject.map(|AuditSubject(text)| text);
        entry.status = Some(match &answered {
            Ok(response) => response.status().as_u16(),
            Err(refused) => status_of(refused).as_u16(),
        });
        store.audit(&whose, id, &entry).await.map_err(ControlError::from)?;
        answered
    }

    async fn run(&self, op: Op, call: Call, acting: Option<TenantAccess>) -> Answered {
        match (op, acting) {
            (Op::Whoami, _) => Ok(keys::whoami(&call.caller)),
            (Op::OpenApi, _) => Ok(openapi::response()),
            (Op::Gpus, _) => Ok(json(Done::Ok, &self.gpus(&call.caller))),
            (Op::Prices, _) => Ok(json(Done::Ok, &self.prices())),
            (Op::Audit, acting) => self.audit_log(call, acting).await,
            (Op::ListTenants, _) => self.list_tenants(&call),
            (Op::CreateTenant, _) => self.create_tenant(call).await,
            (Op::GetTenant, _) => self.get_tenant(&call),
            (Op::DeleteTenant, _) => self.delete_tenant(&call).await,
            (Op::Suspend, _) => self.suspend(&call, true).await,
            (Op::Resume, _) => self.suspend(&call, false).await,
            (Op::GetLimits, _) => self.limits(&call.tenant()?, &call.snapshot),
            (Op::SetLimits, _) => self.set_limits(call).await,
            (Op::ListKeys, _) => self.list_keys(&call),
            (Op::CreateKey, acting) => self.create_key(call, acting.as_ref()).await,
            (Op::RevokeKey, _) => self.revoke_key(&call).await,
            (Op::RotateKey, acting) => self.rotate_key(call, acting.as_ref()).await,
            (_, None) => Err(ControlError::TenantNeeded.into()),
            (op, Some(acting)) => self.run_for(op, call, acting).await,
        }
    }

    /// Operations that are about what a tenant has.
    async fn run_for(&self, op: Op, call: Call, acting: TenantAccess) -> Answered {
        match op {
            Op::Limits => self.limits(&acting.tenant, &call.snapshot),
            Op::Usage => self.usage(call, acting).await,
            Op::Receipt => self.receipt(&call, acting).await,
            Op::ListFunctions => self.list_functions(&call, &acting),
            Op::GetFunction => self.get_function(&call, &acting),
            Op::Deploy => self.deploy(call, &acting).await,
            Op::Configure => self.configure(call, &acting).await,
            Op::DeleteFunction => self.delete_function(&call, &acting).await,
            Op::Versions => self.versions(&call, &acting),
            Op::GetTraffic => self.get_traffic(&call, &acting),
            Op::SetTraffic => self.set_traffic(call, &acting).await,
            Op::RollBack => self.roll_back(call, &acting).await,
            Op::SetTag => self.set_tag(call, &acting).await,
            Op::DeleteTag => self.delete_tag(&call, &acting).await,
            Op::Kernels => self.kernels(&call, &acting),
            Op::Logs => self.read_logs(&call, &acting),
            Op::ListAssets => self.list_assets(&call, &acting),
            Op::GetAsset => self.get_asset(&call, &acting),
            Op::PutAsset => self.put_asset(call, &acting).await,
            Op::DeleteAsset => self.delete_asset(&call, &acting).await,
            Op::ListSecrets => Ok(self.list_secrets(&acting)),
            Op::SetSecret => self.set_secret(call, &acting).await,
            Op::DeleteSecret => self.delete_secret(&call, &acting).await,
            _ => Err(AccessError::NotFound.into()),
        }
    }

    async fn receipt(&self, call: &Call, acting: TenantAccess) -> Answered {
        let id = RequestId::parse(call.name(0)).ok_or(ControlError::NotFound)?;
        let ledger = Arc::clone(&self.ledger);
        // An older receipt lies on disk.
        let found = tokio::task::spawn_blocking(move || ledger.get(id)).await.ok().flatten();
        let own = |receipt: &gannet_base::bill::Receipt| {
            receipt.tenant == acting.tenant && acting.only.as_ref().is_none_or(|only| *only == receipt.function)
        };
        let (receipt, billed) = found.filter(|(receipt, _)| own(receipt)).ok_or(ControlError::NotFound)?;
        let cost_micro_units = receipt.micro_units();
        Ok(json(Done::Ok, &views::ReceiptView { receipt, cost_micro_units, billed }))
    }
}
