//! Step 2: key → caller. It refuses only keys that are wrong; who may do what is the next step's.
//!
//! A key is looked up by its SHA-256 and then compared in constant time, so nothing can be learned
//! from how long a refusal takes. The platform's key is removed from the request here: no guest
//! ever sees it.

use crate::admit::Strangers;
use crate::admit::rate::{Bucket, Rate};
use crate::config::Live;
use crate::registry::{Registry, Snapshot};
use crate::route::Route;
use crate::store::records::KeyRecord;
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderName};
use sha2::{Digest, Sha256};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use subtle::ConstantTimeEq;

/// The header for a key when `Authorization` belongs to the function.
pub const KEY_HEADER: HeaderName = HeaderName::from_static("x-gannet-key");
/// All keys of the platform start with this.
pub const KEY_PREFIX: &str = "gnt_";
/// A longer key is not one of ours.
const KEY_BYTES_MAX: usize = 256;

/// Why a key was refused.
#[derive(Debug, thiserror::Error)]
pub enum AuthError {
    /// Unknown, revoked, expired or malformed: one answer for all.
    #[error("the key is not valid")]
    BadKey,
    /// Too many wrong keys from one address.
    #[error("an address may send {} wrong keys a second", rate.per_s)]
    TooManyWrong {
        /// The rate.
        rate: Rate,
        /// When the next may come.
        wait: Duration,
    },
}

/// What a caller may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
#[serde(default)]
pub struct Scopes {
    /// Call functions.
    pub invoke: bool,
    /// See functions, receipts and logs.
    pub read: bool,
    /// Deploy and delete functions.
    pub deploy: bool,
    /// Everything else of the tenant's.
    pub admin: bool,
}

impl Scopes {
    /// All of them.
    pub const FULL: Self = Self { invoke: true, read: true, deploy: true, admin: true };

    /// The scopes of these names.
    pub fn of(names: &[ScopeName]) -> Self {
        let has = |name| names.contains(&name);
        Self {
            invoke: has(ScopeName::Invoke),
            read: has(ScopeName::Read),
            deploy: has(ScopeName::Deploy),
            admin: has(ScopeName::Admin),
        }
    }

    /// Their names.
    pub fn names(self) -> Vec<ScopeName> {
        let all = [
            (self.invoke, ScopeName::Invoke),
            (self.read, ScopeName::Read),
            (self.deploy, ScopeName::Deploy),
            (self.admin, ScopeName::Admin),
        ];
        all.into_iter().filter_map(|(has, name)| has.then_some(name)).collect()
    }

    /// Whether everything that `other` allows is allowed here too.
    pub fn include(self, other: Self) -> bool {
        (self.invoke || !other.invoke)
            && (self.read || !other.read)
            && (self.deploy || !other.deploy)
            && (self.admin || !other.admin)
    }
}

/// A scope, by its name.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize, utoipa::ToSchema, clap::ValueEnum,
)]
#[serde(rename_all = "snake_case")]
pub enum ScopeName {
    /// Call functions.
    Invoke,
    /// See functions, receipts, logs and usage.
    Read,
    /// Deploy and delete functions.
    Deploy,
    /// Everything else of the tenant's: keys, secrets, the audit log.
    Admin,
}

/// A key as it is looked up.
#[derive(Debug)]
pub struct Key {
    /// SHA-256 of the key.
    pub hash: [u8; 32],
    /// What was stored of it.
    pub record: KeyRecord,
    /// Its own requests, in the rate that it may send.
    pub rate: Arc<Bucket>,
    /// When it was last used, in seconds since 1970; 0 for never.
    pub used_s: AtomicU64,
    /// What of that is in the store.
    pub kept_used_s: AtomicU64,
}

impl Key {
    /// A key as it was stored.
    pub fn new(hash: [u8; 32], record: KeyRecord) -> Self {
        let (used_s, kept_used_s) = (AtomicU64::new(record.used_s), AtomicU64::new(record.used_s));
        Self { hash, record, rate: Arc::default(), used_s, kept_used_s }
    }

    /// The same key with another record: what it has sent counts on.
    pub fn with(&self, record: KeyRecord) -> Self {
        Self { rate: Arc::clone(&self.rate), ..Self::new(self.hash, record) }
    }

    /// Whether it is not valid any more.
    pub fn is_expired(&self, now: jiff::Timestamp) -> bool {
        self.record.expires.is_some_and(|expires| expires <= now)
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        self.hash == other.hash
    }
}

/// Who sent a request.
#[derive(Debug, Clone, PartialEq)]
pub enum Caller {
    /// Nobody with a key.
    Anonymous,
    /// A key of a tenant.
    Tenant(Arc<Key>),
    /// The operator.
    Operator,
}

/// The hash under which a key is kept.
pub fn hash(key: &str) -> [u8; 32] {
    Sha256::digest(key.as_bytes()).into()
}

/// The step.
#[derive(Debug)]
pub struct Auth {
    registry: Arc<Registry>,
    strangers: Arc<Strangers>,
    live: Live,
    next: Route,
}

impl Auth {
    /// The step, with the next one inside it.
    pub fn new(registry: Arc<Registry>, strangers: Arc<Strangers>, live: Live, next: Route) -> Self {
        Self { registry, strangers, live, next }
    }

    /// What is deployed now.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.registry.snapshot()
    }

    /// Who sent these headers from an address. Takes the key out of them.
    pub fn caller(&self, headers: &mut HeaderMap, client: IpAddr) -> Result<(Caller, Arc<Snapshot>), AuthError> {
        let snapshot = self.registry.snapshot();
        let caller = match take_key(headers) {
            Ok(None) => Ok(Caller::Anonymous),
            Ok(Some(key)) => identify(&snapshot, &key),
            Err(error) => Err(error),
        };
        match caller {
            Ok(caller) => Ok((caller, snapshot)),
            Err(error) => {
                let rate = Rate::per_s(self.live.load().edge.wrong_keys_per_s);
                let standing = self.strangers.refused.take(client, rate, Instant::now());
                Err(standing.map_or_else(|wait| AuthError::TooManyWrong { rate, wait }, |_| error))
            }
        }
    }

    /// The next step.
    pub fn next(&self) -> &Route {
        &self.next
    }
}

fn take_key(headers: &mut HeaderMap) -> Result<Option<String>, AuthError> {
    let read = |value: &http::HeaderValue| match value.to_str() {
        Ok(text) if text.len() <= KEY_BYTES_MAX => Ok(text.trim().to_owned()),
        _ => Err(AuthError::BadKey),
    };
    let own = headers.get(KEY_HEADER).map(read).transpose()?;
    headers.remove(KEY_HEADER);
    let bearer = take_bearer(headers)?;
    Ok(own.or(bearer))
}

/// A key in `Authorization`. Whatever else is there is the function's own, unless a key stands in it.
fn take_bearer(headers: &mut HeaderMap) -> Result<Option<String>, AuthError> {
    let found = bearer(headers);
    let (mut kept, mut dropped) = (Vec::new(), false);
    for value in headers.get_all(AUTHORIZATION) {
        let holds_key = value.as_bytes().windows(KEY_PREFIX.len()).any(|part| part == KEY_PREFIX.as_bytes());
        dropped |= holds_key;
        if !holds_key {
            kept.push(value.clone());
        }
    }
    if dropped {
        headers.remove(AUTHORIZATION);
        for value in kept {
            headers.append(AUTHORIZATION, value);
        }
    }
    found
}

fn bearer(headers: &HeaderMap) -> Result<Option<String>, AuthError> {
    let Some(text) = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok()) else { return Ok(None) };
    let key = match text.split_once(' ') {
        Some((scheme, key)) if scheme.eq_ignore_ascii_case("bearer") && key.trim().starts_with(KEY_PREFIX) => {
            key.trim().to_owned()
        }
        // Someone else's authorization: the function's own.
        _ => return Ok(None),
    };
    if key.len() > KEY_BYTES_MAX {
        return Err(AuthError::BadKey);
    }
    Ok(Some(key))
}

fn identify(snapshot: &Snapshot, key: &str) -> Result<Caller, AuthError> {
    let hashed = hash(key);
    if bool::from(snapshot.operator.ct_eq(&hashed)) {
        return Ok(Caller::Operator);
    }
    let found = snapshot.keys.get(&hashed).ok_or(AuthError::BadKey)?;
    let now = jiff::Timestamp::now();
    if !bool::from(found.hash.ct_eq(&hashed)) || found.is_expired(now) {
        return Err(AuthError::BadKey);
    }
    found.used_s.store(u64::try_from(now.as_second()).unwrap_or(0), Ordering::Relaxed);
    Ok(Caller::Tenant(Arc::clone(found)))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(n, v)| (HeaderName::from_static(n), http::HeaderValue::from_static(v))).collect()
    }

    #[test]
    fn the_platform_key_is_taken_and_the_functions_own_authorization_stays() {
        let mut both = headers(&[("x-gannet-key", "gnt_a_b"), ("authorization", "Bearer own")]);
        assert_eq!(take_key(&mut both).unwrap().as_deref(), Some("gnt_a_b"));
        assert_eq!((both.len(), both.contains_key("authorization")), (1, true));

        let mut bearer = headers(&[("authorization", "bearer gnt_a_b")]);
        assert_eq!(take_key(&mut bearer).unwrap().as_deref(), Some("gnt_a_b"));
        assert!(bearer.is_empty());

        let mut foreign = headers(&[("authorization", "Basic dXNlcjpwdw==")]);
        assert_eq!(take_key(&mut foreign).unwrap(), None);
        assert_eq!(foreign.len(), 1);
    }
}
