//! `/api/v1/tenants`: the operator makes tenants.

use super::{Control, ControlError, only, upload};
use crate::auth::{Caller, hash};
use crate::inbound::Inbound;
use crate::names::TenantName;
use crate::registry::Snapshot;
use crate::respond::{Done, Refused, ResponseBody, json};
use crate::route::RouteError;
use http::{Method, Response};
use serde::Deserialize;
use std::sync::Arc;

/// The longest body of a control request that is not an upload.
const BODY_BYTES_MAX: u64 = 64 * 1024;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewTenant {
    name: TenantName,
}

/// A new key for a tenant. The text is shown once and kept nowhere.
pub fn new_key(tenant: &str) -> Result<String, ControlError> {
    let mut secret = [0u8; 24];
    getrandom::fill(&mut secret).map_err(|error| ControlError::Internal(error.to_string()))?;
    let text: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(format!("gnt_{tenant}_{text}"))
}

impl Control {
    pub(super) async fn tenants(
        &self,
        inbound: Inbound,
        caller: &Caller,
        snapshot: &Snapshot,
    ) -> Result<Response<ResponseBody>, Refused> {
        if *caller != Caller::Operator {
            return Err(RouteError::ScopeMissing { scope: "operator" }.into());
        }
        only(&inbound, &[Method::GET, Method::POST], "GET, POST")?;
        if inbound.parts.method == Method::GET {
            let tenants: Vec<_> = snapshot
                .tenants
                .iter()
                .map(|(name, tenant)| serde_json::json!({ "name": name, "created": tenant.created, "functions": tenant.functions.len() }))
                .collect();
            return Ok(json(Done::Ok, &serde_json::json!({ "tenants": tenants })));
        }
        let body = upload::collect(inbound.body, BODY_BYTES_MAX, "body").await?;
        let new: NewTenant = serde_json::from_slice(&body).map_err(|error| ControlError::Invalid(error.to_string()))?;
        let key = new_key(new.name.as_str())?;
        self.create_tenant(&new.name, &key).await?;
        tracing::info!(request = %inbound.id, tenant = %new.name, "a tenant was made");
        Ok(json(Done::Created, &serde_json::json!({ "tenant": new.name, "key": key })))
    }

    /// Makes a tenant with a key.
    pub async fn create_tenant(&self, name: &TenantName, key: &str) -> Result<(), ControlError> {
        let hashed = hash(key);
        let id: String = hashed.iter().take(4).map(|byte| format!("{byte:02x}")).collect();
        let (registry, name) = (Arc::clone(&self.registry), name.clone());
        let made = tokio::spawn(async move { registry.create_tenant(&name, hashed, id).await }).await;
        Ok(made.map_err(|error| ControlError::Internal(error.to_string()))??)
    }
}
