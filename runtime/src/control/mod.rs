//! The API for tenants and the operator, beside the path of requests.
//!
//! `/api/v1/…` needs a key; the operator acts for a tenant with the header `x-gannet-tenant`, and every
//! such call is logged. `/healthz`, `/readyz` and `/metrics` need none and tell nothing of tenants.

pub mod functions;
mod logs;
mod ops;
pub mod tenants;
mod upload;

use crate::arbiter::Arbiter;
use crate::auth::{Caller, Scopes};
use crate::build::{BuildError, Builder, Rejected};
use crate::gpus::Served;
use crate::inbound::Inbound;
use crate::logs::Logs;
use crate::meter::Book;
use crate::names::{FunctionName, RequestId, TenantName};
use crate::pool::Pool;
use crate::registry::{Registry, RegistryError, Snapshot};
use crate::respond::{Done, Refused, ResponseBody, json};
use crate::route::RouteError;
use crate::store::StoreError;
use http::{HeaderName, Method, Response};
use std::sync::Arc;

/// Whom the operator acts for.
pub const TENANT_HEADER: HeaderName = HeaderName::from_static("x-gannet-tenant");

/// Why a control operation was not done.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// Arguments that are wrong.
    #[error("{0}")]
    Invalid(String),
    /// The operator did not say for whom.
    #[error("this needs a tenant")]
    TenantNeeded,
    /// There is no such thing.
    #[error("there is nothing of that name")]
    NotFound,
    /// It exists already, or is in the way of something.
    #[error("{0}")]
    Conflict(String),
    /// A body of the wrong type.
    #[error("the body is {0}")]
    UnsupportedMediaType(String),
    /// A body over its limit.
    #[error("the {what} is larger than the limit of {limit} bytes")]
    TooLarge {
        /// What.
        what: &'static str,
        /// The limit.
        limit: u64,
    },
    /// No GPU here is of a class that the manifest names.
    #[error("{0}")]
    Unservable(String),
    /// The builder refused the upload.
    #[error(transparent)]
    Build(Rejected),
    /// Too much to do.
    #[error("too many uploads wait already")]
    Busy,
    /// The disk is full.
    #[error("the server's disk is full")]
    StorageFull,
    /// Our own fault.
    #[error("{0}")]
    Internal(String),
}

impl From<StoreError> for ControlError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Full => Self::StorageFull,
            other => Self::Internal(other.to_string()),
        }
    }
}

impl From<RegistryError> for ControlError {
    fn from(error: RegistryError) -> Self {
        match error {
            RegistryError::NotFound => Self::NotFound,
            RegistryError::Exists(what) => Self::Conflict(format!("{what} exists already")),
            RegistryError::Store(error) => error.into(),
        }
    }
}

impl From<BuildError> for ControlError {
    fn from(error: BuildError) -> Self {
        match error {
            BuildError::Rejected(rejected) => Self::Build(rejected),
            BuildError::Busy => Self::Busy,
            BuildError::Failed(detail) => Self::Internal(detail),
        }
    }
}

impl From<std::io::Error> for ControlError {
    fn from(error: std::io::Error) -> Self {
        StoreError::from(error).into()
    }
}

/// What the control API works with.
#[derive(Debug)]
pub struct Control {
    /// What is deployed.
    pub registry: Arc<Registry>,
    /// Builds uploads.
    pub builder: Arc<Builder>,
    /// Runs workers.
    pub pool: Pool,
    /// Receipts.
    pub book: Arc<Book>,
    /// Log lines.
    pub logs: Arc<Logs>,
    /// The GPUs, each in its place.
    pub places: Arc<Vec<Served>>,
    /// Whether they work.
    pub arbiter: Arc<Arbiter>,
    /// The largest component in bytes.
    pub component_bytes_max: u64,
    /// The server's URL, for answers.
    pub public_url: String,
}

/// A caller with a tenant to act for.
#[derive(Debug)]
struct Acting {
    tenant: TenantName,
    scopes: Scopes,
}

impl Acting {
    fn needs(&self, has: bool, scope: &'static str) -> Result<(), RouteError> {
        if has { Ok(()) } else { Err(RouteError::ScopeMissing { scope }) }
    }
}

impl Control {
    /// Answers a request to anything but a function.
    pub async fn call(
        &self,
        inbound: Inbound,
        caller: Caller,
        snapshot: Arc<Snapshot>,
    ) -> Result<Response<ResponseBody>, Refused> {
        let path = inbound.parts.uri.path().to_owned();
        if let Some(response) = self.ops(&inbound, &path)? {
            return Ok(response);
        }
        let Some(rest) = path.strip_prefix("/api/v1/") else { return Err(RouteError::NotFound.into()) };
        if caller == Caller::Anonymous {
            return Err(RouteError::KeyNeeded.into());
        }
        let segments: Vec<&str> = rest.split('/').collect();
        match segments.as_slice() {
            ["whoami"] => self.whoami(&inbound, &caller),
            ["gpus"] => {
                only(&inbound, &[Method::GET], "GET")?;
                Ok(json(Done::Ok, &self.gpus(&caller)))
            }
            ["tenants"] => self.tenants(inbound, &caller, &snapshot).await,
            ["functions"] => self.list(&inbound, &acting(&inbound, &caller, &snapshot)?, &snapshot),
            ["functions", name, ..] => {
                let name = FunctionName::new(name).map_err(|error| ControlError::Invalid(error.to_string()))?;
                let acting = acting(&inbound, &caller, &snapshot)?;
                let after = segments.get(2..).unwrap_or_default();
                match after {
                    [] => self.function(inbound, acting, name, &snapshot).await,
                    ["kernels"] => self.kernels(&inbound, &acting, &name, &snapshot),
                    ["versions"] => self.versions(&inbound, &acting, &name, &snapshot),
                    ["logs"] => self.read_logs(&inbound, &acting, &name, &snapshot),
                    _ => Err(RouteError::NotFound.into()),
                }
            }
            ["requests", id] => {
                only(&inbound, &[Method::GET], "GET")?;
                let acting = acting(&inbound, &caller, &snapshot)?;
                acting.needs(acting.scopes.read, "read")?;
                let id = RequestId::parse(id).ok_or(ControlError::NotFound)?;
                let book = Arc::clone(&self.book);
                // An older receipt lies on disk.
                let receipt = tokio::task::spawn_blocking(move || book.get(id)).await.ok().flatten();
                let receipt =
                    receipt.filter(|receipt| receipt.tenant == acting.tenant).ok_or(ControlError::NotFound)?;
                Ok(json(Done::Ok, &receipt))
            }
            _ => Err(RouteError::NotFound.into()),
        }
    }

    /// The GPUs: what they are and whether they work. How many workers they have is the operator's alone: a tenant must not
    /// learn that there are others.
    fn gpus(&self, caller: &Caller) -> serde_json::Value {
        let counts = self.pool.counts();
        let describe = |served: &Served| {
            let mut told = serde_json::json!(served);
            if let (Some(fields), Some(counts)) = (told.as_object_mut(), counts.get(served.place)) {
                fields.insert("health".into(), serde_json::json!(self.arbiter.health(served.place)));
                if *caller == Caller::Operator {
                    fields.insert("workers".into(), counts.workers.into());
                    fields.insert("spares_ready".into(), counts.spares.into());
                }
            }
            told
        };
        let gpus = self.places.iter().filter(|served| served.gpu.is_some()).map(describe);
        serde_json::json!({ "gpus": gpus.collect::<Vec<_>>() })
    }

    fn whoami(&self, inbound: &Inbound, caller: &Caller) -> Result<Response<ResponseBody>, Refused> {
        only(inbound, &[Method::GET], "GET")?;
        let answer = match caller {
            Caller::Operator => serde_json::json!({ "operator": true }),
            Caller::Tenant(tenant, scopes) => {
                serde_json::json!({ "operator": false, "tenant": tenant, "scopes": scopes })
            }
            Caller::Anonymous => return Err(RouteError::KeyNeeded.into()),
        };
        Ok(json(Done::Ok, &answer))
    }
}

fn only(inbound: &Inbound, methods: &[Method], allowed: &'static str) -> Result<(), RouteError> {
    if methods.contains(&inbound.parts.method) {
        return Ok(());
    }
    Err(RouteError::MethodNotAllowed { method: inbound.parts.method.to_string(), allowed })
}

fn acting(inbound: &Inbound, caller: &Caller, snapshot: &Snapshot) -> Result<Acting, Refused> {
    let named = inbound.parts.headers.get(TENANT_HEADER).and_then(|value| value.to_str().ok());
    match caller {
        Caller::Tenant(tenant, scopes) => Ok(Acting { tenant: tenant.clone(), scopes: *scopes }),
        Caller::Operator => {
            let named = named.ok_or(ControlError::TenantNeeded)?;
            let tenant = TenantName::new(named).map_err(|error| ControlError::Invalid(error.to_string()))?;
            if !snapshot.tenants.contains_key(&tenant) {
                return Err(ControlError::NotFound.into());
            }
            tracing::info!(request = %inbound.id, %tenant, method = %inbound.parts.method, path = inbound.parts.uri.path(), "the operator acts for a tenant");
            Ok(Acting { tenant, scopes: Scopes::FULL })
        }
        Caller::Anonymous => Err(RouteError::KeyNeeded.into()),
    }
}
