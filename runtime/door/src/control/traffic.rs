//! Decides which versions of a function get requests: weights, tags and rollback.

use super::functions::{find, traffic_of};
use crate::control::Control;
use crate::control::arguments::{json as read_json, json_needed};
use crate::control::authorize::TenantGrant;
use crate::control::call::{ApiCall, CallResult};
use crate::control::error::ControlError;
use crate::respond::{ReplyStatus, json};
use gannet_api::{Deleted, RollBack, TagChoice, Traffic, TrafficChoice};
use gannet_base::records::Sticky;
use gannet_state::registry::Function;
use std::collections::BTreeMap;

fn check_sticky(sticky: Sticky) -> Result<Sticky, ControlError> {
    let (name, fine): (&str, fn(u8) -> bool) = match &sticky {
        Sticky::Header(name) => (name, |b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-'),
        Sticky::Cookie(name) => (name, |b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_'),
    };
    if (1..=64).contains(&name.len()) && name.bytes().all(fine) {
        return Ok(sticky);
    }
    let shown: String = name.chars().take(64).collect();
    let rule = "a header in lower case or of a cookie, with 1 to 64 characters";
    Err(ControlError::Invalid(format!("sticky by {shown:?}; it must be the name of {rule}")))
}

/// The largest weight of a version.
const WEIGHT_MAX: u32 = 10_000;

/// The most versions among which requests may be split.
const SPLIT_MAX: usize = 16;

impl Control {
    pub(super) fn get_traffic(&self, call: &ApiCall, grant: &TenantGrant) -> CallResult {
        let function = find(grant, &call.function()?)?;
        Ok(json(ReplyStatus::Ok, &Traffic { traffic: traffic_of(function), sticky: function.sticky.clone() }))
    }

    pub(super) async fn set_traffic(&self, call: ApiCall, grant: &TenantGrant) -> CallResult {
        let name = call.function()?;
        find(grant, &name)?;
        let asked: TrafficChoice = json_needed(call.inbound).await?;
        let mut weights = BTreeMap::new();
        for (version, weight) in asked.traffic {
            let number = version.strip_prefix('v').unwrap_or(&version).parse::<u32>();
            let shown: String = version.chars().take(32).collect();
            let number = number.map_err(|_| ControlError::Invalid(format!("{shown:?} is not a version, as in v3")))?;
            if weight > WEIGHT_MAX {
                let message = format!("the weight of {shown:?} is {weight}; it may be 0 to {WEIGHT_MAX}");
                return Err(ControlError::Invalid(message).into());
            }
            weights.insert(number, weight);
        }
        if weights.len() > SPLIT_MAX {
            let message = format!("{} versions; requests may be split among at most {SPLIT_MAX}", weights.len());
            return Err(ControlError::Invalid(message).into());
        }
        let sticky = asked.sticky.map(check_sticky).transpose()?;
        let changed = self.registry.set_traffic(&grant.tenant, &name, weights, sticky).await;
        let function = changed.map_err(ControlError::from)?;
        self.changed(grant, &function)
    }

    pub(super) async fn roll_back(&self, call: ApiCall, grant: &TenantGrant) -> CallResult {
        let name = call.function()?;
        find(grant, &name)?;
        let asked: RollBack = read_json(call.inbound, false).await?.unwrap_or_default();
        let changed = self.registry.roll_back(&grant.tenant, &name, asked.version).await;
        let function = changed.map_err(ControlError::from)?;
        self.changed(grant, &function)
    }

    fn changed(&self, grant: &TenantGrant, function: &Function) -> CallResult {
        self.after_change(grant);
        Ok(json(ReplyStatus::Ok, &Traffic { traffic: traffic_of(function), sticky: function.sticky.clone() }))
    }

    pub(super) async fn set_tag(&self, call: ApiCall, grant: &TenantGrant) -> CallResult {
        let (name, tag) = (call.function()?, call.name(1).to_owned());
        find(grant, &name)?;
        let choice: TagChoice = json_needed(call.inbound).await?;
        let changed = self.registry.set_tag(&grant.tenant, &name, tag, Some(choice.version)).await;
        let function = changed.map_err(ControlError::from)?;
        self.after_change(grant);
        Ok(json(ReplyStatus::Ok, &self.detail(grant, &function)))
    }

    pub(super) async fn delete_tag(&self, call: &ApiCall, grant: &TenantGrant) -> CallResult {
        let (name, tag) = (call.function()?, call.name(1).to_owned());
        let changed = self.registry.set_tag(&grant.tenant, &name, tag.clone(), None).await;
        changed.map_err(ControlError::from)?;
        self.after_change(grant);
        Ok(json(ReplyStatus::Ok, &Deleted { deleted: tag }))
    }
}
