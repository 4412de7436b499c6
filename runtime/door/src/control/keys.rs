//! `/api/v1/tenants/{tenant}/keys`: the keys of a tenant, managed by the operator or by an admin of the tenant. A key's
//! text is returned once, when it is created, and stored nowhere.

use crate::access::AccessError;
use crate::control::Control;
use crate::control::arguments::json as read_json;
use crate::control::audit_entry::AuditSubject;
use crate::control::authorize::TenantGrant;
use crate::control::call::{ApiCall, CallResult};
use crate::control::error::ControlError;
use crate::respond::{ReplyStatus, json};
use gannet_api::{Deleted, KeyMade, KeyView, Keys, NewKey, Rotate, Whoami};
use gannet_base::body::ResponseBody;
use gannet_base::identity::{Caller, hash};
use gannet_base::names::FunctionName;
use gannet_base::records::KeyRecord;
use gannet_base::scopes::Scopes;
use gannet_state::registry;
use gannet_state::registry::stricter_of;
use http::Response;
use jiff::{SignedDuration, Timestamp};
use std::sync::atomic::Ordering;

/// The longest validity of a key, a hundred years.
const EXPIRES_MAX_S: u64 = 3_153_600_000;
/// The longest overlap of a rotation, a year.
const OVERLAP_MAX_S: u64 = 31_536_000;

/// Returns the text of a new random key for a tenant.
pub fn new_key(tenant: &str) -> Result<String, ControlError> {
    let mut secret = [0u8; 24];
    getrandom::fill(&mut secret).map_err(|error| ControlError::Internal(error.to_string()))?;
    Ok(format!("gnt_{tenant}_{}", hex::encode(secret)))
}

fn in_range(name: &str, value: u64, least: u64, most: u64) -> Result<u64, ControlError> {
    if (least..=most).contains(&value) {
        return Ok(value);
    }
    Err(ControlError::Invalid(format!("{name} = {value}; it may be {least} to {most}")))
}

/// Checks the values of a request to create a key.
fn checked(asked: &NewKey, hash: [u8; 32]) -> Result<registry::KeySpec, ControlError> {
    let scopes = if asked.scopes.is_empty() { Scopes::FULL } else { Scopes::of(&asked.scopes) };
    let function = asked.function.as_deref().map(FunctionName::new).transpose();
    let function = function.map_err(|error| ControlError::Invalid(error.to_string()))?;
    let after = asked.expires_in_s.map(|after| in_range("expires_in_s", after, 1, EXPIRES_MAX_S)).transpose()?;
    let after = after.map(|after| SignedDuration::from_secs(i64::try_from(after).unwrap_or(i64::MAX)));
    let expires = after.map(|after| Timestamp::now().checked_add(after).unwrap_or(Timestamp::MAX));
    let rate = asked.requests_per_s.map(|rate| in_range("requests_per_s", rate, 1, 1_000_000)).transpose()?;
    Ok(registry::KeySpec { hash, scopes, function, expires, requests_per_s: rate })
}

/// Refuses a caller that would give a key more scopes than its own key has.
fn check_scopes(grant: Option<&TenantGrant>, scopes: Scopes) -> Result<(), AccessError> {
    match grant {
        Some(grant) if !grant.scopes.include(scopes) => {
            Err(AccessError::ScopeMissing { scope: "of the key that is to be made" })
        }
        _ => Ok(()),
    }
}

impl Control {
    pub(super) fn list_keys(&self, call: &ApiCall) -> CallResult {
        let tenant = call.tenant()?;
        if !call.snapshot.tenants.contains_key(&tenant) {
            return Err(ControlError::NotFound.into());
        }
        let mut keys: Vec<_> = call.snapshot.keys_of(&tenant).collect();
        keys.sort_by(|a, b| (a.record.created, &a.record.id).cmp(&(b.record.created, &b.record.id)));
        let view = |key: &std::sync::Arc<gannet_base::identity::Key>| {
            let used_s = i64::try_from(key.used_s.load(Ordering::Relaxed)).unwrap_or(0);
            KeyView {
                id: key.record.id.clone(),
                scopes: key.record.scopes.names(),
                function: key.record.function.as_ref().map(ToString::to_string),
                requests_per_s: key.record.requests_per_s,
                created: key.record.created.to_string(),
                expires: key.record.expires.map(|time| time.to_string()),
                last_used: (used_s > 0)
                    .then(|| Timestamp::from_second(used_s).ok())
                    .flatten()
                    .map(|time| time.to_string()),
            }
        };
        Ok(json(ReplyStatus::Ok, &Keys { keys: keys.into_iter().map(view).collect() }))
    }

    pub(super) async fn create_key(&self, call: ApiCall, grant: Option<&TenantGrant>) -> CallResult {
        let (tenant, maker) = (call.tenant()?, call.caller.clone());
        let asked: NewKey = read_json(call.inbound, false).await?.unwrap_or_default();
        let key = new_key(tenant.as_str())?;
        let mut new = checked(&asked, hash(&key))?;
        let (ends, per_s) = bounds(&maker);
        new.expires = stricter_of(new.expires, ends);
        new.requests_per_s = stricter_of(new.requests_per_s, per_s);
        check_scopes(grant, new.scopes)?;
        let made = self.registry.create_key(&tenant, new).await.map_err(ControlError::from)?;
        Ok(AuditSubject::of(described(&made), json(ReplyStatus::Created, &KeyMade { id: made.id, key })))
    }

    pub(super) async fn rotate_key(&self, call: ApiCall, grant: Option<&TenantGrant>) -> CallResult {
        let (tenant, id, maker) = (call.tenant()?, call.name(1).to_owned(), call.caller.clone());
        let old = call.snapshot.keys_of(&tenant).find(|key| key.record.id == id);
        check_scopes(grant, old.ok_or(ControlError::NotFound)?.record.scopes)?;
        let asked: Rotate = read_json(call.inbound, false).await?.unwrap_or_default();
        let overlap = in_range("overlap_s", asked.overlap_s, 0, OVERLAP_MAX_S)?;
        let overlap = SignedDuration::from_secs(i64::try_from(overlap).unwrap_or(0));
        let key = new_key(tenant.as_str())?;
        let (ends, per_s) = bounds(&maker);
        let made = self.registry.rotate_key(&tenant, &id, hash(&key), overlap, (ends, per_s)).await;
        let made = made.map_err(ControlError::from)?;
        Ok(AuditSubject::of(described(&made), json(ReplyStatus::Created, &KeyMade { id: made.id, key })))
    }

    pub(super) async fn revoke_key(&self, call: &ApiCall) -> CallResult {
        let (tenant, id) = (call.tenant()?, call.name(1));
        self.registry.revoke_key(&tenant, id).await.map_err(ControlError::from)?;
        Ok(json(ReplyStatus::Ok, &Deleted { deleted: id.to_owned() }))
    }
}

/// Describes a key for the audit log.
fn described(key: &KeyRecord) -> String {
    let function = key.function.as_ref().map(|function| format!(", function {function}")).unwrap_or_default();
    let ends = key.expires.map(|ends| format!(", until {ends}")).unwrap_or_default();
    let scopes = serde_json::to_string(&key.scopes.names()).unwrap_or_default();
    format!("key {}: {scopes}{function}{ends}", key.id)
}

/// Returns the latest expiry and the highest rate of a key that `maker` creates: those of its own key.
fn bounds(maker: &Caller) -> (Option<Timestamp>, Option<u64>) {
    match maker {
        Caller::Tenant(maker) => (maker.record.expires, maker.record.requests_per_s),
        _ => (None, None),
    }
}

/// Describes the caller's key.
pub(super) fn whoami(caller: &Caller, functions_url: Option<String>) -> Response<ResponseBody> {
    let body = match caller {
        Caller::Tenant(key) => Whoami {
            operator: false,
            tenant: Some(key.record.tenant.to_string()),
            scopes: Some(key.record.scopes),
            function: key.record.function.as_ref().map(ToString::to_string),
            key: Some(key.record.id.clone()),
            expires: key.record.expires.map(|time| time.to_string()),
            functions_url,
        },
        _ => Whoami {
            operator: true,
            tenant: None,
            scopes: None,
            function: None,
            key: None,
            expires: None,
            functions_url,
        },
    };
    json(ReplyStatus::Ok, &body)
}
