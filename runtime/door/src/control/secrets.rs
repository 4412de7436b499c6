//! `/api/v1/secrets`: sets, lists and deletes secrets. A value can be set and is never returned.

use crate::control::authorize::TenantGrant;
use crate::control::call::{ApiCall, CallResult};
use crate::control::error::ControlError;
use crate::control::{Control, upload};
use crate::respond::{ReplyStatus, json};
use gannet_api::{Deleted, SecretView, Secrets};
use gannet_base::body::ResponseBody;
use gannet_base::manifest::{SECRET_NAME_RULE, is_secret_name};
use gannet_base::records::SecretRecord;
use gannet_state::secrets::VALUE_BYTES_MAX;
use http::Response;

fn view(grant: &TenantGrant, name: &str, record: &SecretRecord) -> SecretView {
    let named = grant.owner.functions.values().filter(|function| {
        let mut served = function.versions.iter().filter(|version| function.serves(version));
        served.any(|version| version.manifest().secrets.names.iter().any(|known| known == name))
    });
    let functions = named.map(|function| function.name.to_string()).collect();
    SecretView { name: name.to_owned(), set: record.set.to_string(), functions }
}

fn check_name(name: &str) -> Result<(), ControlError> {
    if is_secret_name(name) {
        return Ok(());
    }
    let name: String = name.chars().take(80).collect();
    Err(ControlError::Invalid(format!("the name {name:?}; {SECRET_NAME_RULE}")))
}

impl Control {
    pub(super) fn list_secrets(&self, grant: &TenantGrant) -> Response<ResponseBody> {
        let secrets = grant.owner.secrets.iter().map(|(name, record)| view(grant, name, record)).collect();
        json(ReplyStatus::Ok, &Secrets { secrets })
    }

    pub(super) async fn set_secret(&self, call: ApiCall, grant: &TenantGrant) -> CallResult {
        let name = call.name(0).to_owned();
        check_name(&name)?;
        let value = upload::collect(call.inbound.body, VALUE_BYTES_MAX, "secret").await?;
        // A value from a terminal or a file ends with a line feed that is not part of it.
        let value = value.strip_suffix(b"\n").unwrap_or(&value);
        if value.is_empty() || value.contains(&0) || std::str::from_utf8(value).is_err() {
            return Err(ControlError::Invalid("a secret must be UTF-8 text, not empty, without NUL".into()).into());
        }
        let sealed = self.vault.seal(&grant.tenant, &name, value);
        let sealed = sealed.map_err(|error| ControlError::Internal(error.to_string()))?;
        let record = SecretRecord { set: jiff::Timestamp::now(), sealed };
        let new = self.registry.set_secret(&grant.tenant, &name, record.clone()).await.map_err(ControlError::from)?;
        self.after_change(grant);
        Ok(json(if new { ReplyStatus::Created } else { ReplyStatus::Ok }, &view(grant, &name, &record)))
    }

    pub(super) async fn delete_secret(&self, call: &ApiCall, grant: &TenantGrant) -> CallResult {
        let name = call.name(0);
        check_name(name)?;
        self.registry.delete_secret(&grant.tenant, name).await.map_err(ControlError::from)?;
        Ok(json(ReplyStatus::Ok, &Deleted { deleted: name.to_owned() }))
    }
}
