//! The API for tenants and the operator, beside the path of requests.
//!
//! ```text
//!  /healthz /readyz /metrics ─▶ ops: nothing of tenants; sums for the operator
//!  /api/v1/… ─▶ table ─▶ who may ─▶ audit: it begins ─▶ the operation ─▶ audit: how it ended ─▶ answer
//! ```
//!
//! The operator acts for a tenant with the header `x-gannet-tenant`; what it does then stands in that tenant's audit log. What
//! changes something is in the log before it is done.

mod acting;
mod error;
pub(crate) mod arguments;
pub mod assets;
pub mod focus;
pub mod functions;
pub mod keys;
mod logs;
mod openapi;
mod ops;
mod secrets;
pub mod table;
mod tenants;
mod upload;
mod usage;
mod views;

pub use openapi::document;

use crate::access::AccessError;
use crate::respond::{Done, json, status_of};
use acting::{Subject, acting, audited};
use arguments::Query;
use error::ControlError;
use gannet_base::body::ResponseBody;
use gannet_base::identity::Caller;
use gannet_base::names::{FunctionName, RequestId, TenantName};
use gannet_base::quota::rate::{Rate, RateExceeded};
use gannet_base::refusal::Refusal;
use gannet_base::scopes::Scopes;
use gannet_fleet::arbiter::Arbiter;
use gannet_fleet::build::Builder;
use gannet_fleet::gpus::Served;
use gannet_fleet::inbound::Inbound;
use gannet_fleet::logs::Logs;
use gannet_fleet::pool::Pool;
use gannet_state::config::Live;
use gannet_state::ledger::Ledger;
use gannet_state::registry::{Registry, Snapshot, Tenant};
use gannet_state::secrets::Vault;
use gannet_state::store::audit::OPERATOR;
use http::Response;
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
    pub places: Arc<Vec<Served>>,
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

/// Who asks for an operation, and for whom.
#[derive(Debug)]
struct Acting {
    /// Whose things it is about.
    tenant: TenantName,
    /// As it is now.
    owner: Arc<Tenant>,
    /// What the caller may do there.
    scopes: Scopes,
    /// The only function that the key is for.
    only: Option<FunctionName>,
}

impl Acting {
    fn needs(&self, has: bool, scope: &'static str) -> Result<(), AccessError> {
        if has { Ok(()) } else { Err(AccessError::ScopeMissing { scope }) }
    }

    /// Refuses what is not about the only function of the key. Without a name: what is about the tenant as a whole.
    fn covers(&self, function: Option<&FunctionName>) -> Result<(), AccessError> {
        match &self.only {
            Some(only) if function != Some(only) => Err(AccessError::KeyOfOther { function: only.to_string() }),
            _ => Ok(()),
        }
    }
}

/// A request for an operation, on its way to it.
struct Call {
    inbound: Inbound,
    caller: Caller,
    snapshot: Arc<Snapshot>,
    names: Vec<String>,
    query: Query,
}

impl Call {
    fn name(&self, index: usize) -> &str {
        self.names.get(index).map(String::as_str).unwrap_or_default()
    }

    fn function(&self) -> Result<FunctionName, ControlError> {
        FunctionName::new(self.name(0)).map_err(|error| ControlError::Invalid(error.to_string()))
    }

    fn tenant(&self) -> Result<TenantName, ControlError> {
        TenantName::new(self.name(0)).map_err(|error| ControlError::Invalid(error.to_string()))
    }
}

type Answered = Result<Response<ResponseBody>, Refusal>;

/// When something was, as it is told.
fn time(time: jiff::Timestamp) -> String {
    time.to_string()
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
        let acting = acting(operation, &inbound, &caller, &names, &snapshot)?;
        let query = Query::read(&inbound, operation)?;
        let call = Call { inbound, caller, snapshot, names, query };
        let Some((whose, mut entry)) = audited(operation, &call, acting.as_ref()) else {
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
        let subject = answered.as_mut().ok().and_then(|response| response.extensions_mut().remove::<Subject>());
        entry.subject = subject.map(|Subject(text)| text);
        entry.status = Some(match &answered {
            Ok(response) => response.status().as_u16(),
            Err(refused) => status_of(refused).as_u16(),
        });
        store.audit(&whose, id, &entry).await.map_err(ControlError::from)?;
        answered
    }

    async fn run(&self, op: Op, call: Call, acting: Option<Acting>) -> Answered {
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
    async fn run_for(&self, op: Op, call: Call, acting: Acting) -> Answered {
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

    async fn receipt(&self, call: &Call, acting: Acting) -> Answered {
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

    /// The GPUs: what they are and whether they work. Who uses them is the operator's alone: a tenant must not
    /// learn that there are others.
    fn gpus(&self, caller: &Caller) -> views::Gpus {
        let counts = self.pool.counts();
        let operator = *caller == Caller::Operator;
        let view = |served: &Served| {
            let gpu = served.gpu.clone()?;
            let counts = counts.get(served.place).filter(|_| operator);
            let health = serde_json::to_value(self.arbiter.health(served.place)).unwrap_or_default();
            Some(views::GpuView {
                place: served.place,
                index: gpu.index,
                name: gpu.name,
                backend: gpu.backend,
                driver: gpu.driver,
                class: served.class.clone(),
                software: gpu.software,
                timestamps: gpu.timestamps,
                memory_bytes: gpu.memory_bytes,
                context_bytes: gpu.context_bytes,
                health: health.as_str().unwrap_or("unknown").to_owned(),
                holder: operator.then(|| self.arbiter.holder(served.place)).flatten().map(|tenant| tenant.to_string()),
                workers: counts.map(|counts| counts.workers),
                spares_ready: counts.map(|counts| counts.spares),
                workers_max: operator.then_some(served.workers_max),
            })
        };
        views::Gpus { gpus: self.places.iter().filter_map(view).collect() }
    }

    async fn audit_log(&self, call: Call, acting: Option<Acting>) -> Answered {
        let whose = acting.map_or_else(|| OPERATOR.to_owned(), |acting| acting.tenant.to_string());
        let cursor = call.query.get("cursor").map(|text| {
            RequestId::parse(text).ok_or_else(|| ControlError::Invalid("cursor is none that was told".into()))
        });
        let (before, limit) = (cursor.transpose()?, call.query.limit()?);
        let store = Arc::clone(self.registry.store());
        let entries = tokio::task::spawn_blocking(move || store.audited(&whose, before, limit)).await;
        let entries =
            entries.map_err(|error| ControlError::Internal(error.to_string()))?.map_err(ControlError::from)?;
        let cursor = (entries.len() == limit).then(|| entries.last().map(|entry| entry.request.clone())).flatten();
        Ok(json(Done::Ok, &views::Audit { entries, cursor }))
    }
}
