//! Step 2: turns a key into a caller. It refuses only wrong keys; the next steps decide what a caller may do.
//!
//! A key is looked up by its SHA-256 and then compared in constant time, so the time that a refusal takes reveals
//! nothing. The platform's key is removed from the request here, so no guest ever sees it.

use crate::access::KEY_HINT;
use gannet_base::headers::KEY;
use gannet_base::identity::{Caller, KEY_PREFIX, hash};
use gannet_base::quota::address::AnonymousCallers;
use gannet_base::quota::rate::{Rate, RateExceeded};
use gannet_base::refusal::{Blame, Refusal, RefusalKind, Retry};
use gannet_state::config::LiveConfig;
use gannet_state::registry::{Registry, Snapshot};
use http::HeaderMap;
use http::header::AUTHORIZATION;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;
use subtle::ConstantTimeEq;

/// The longest key that is looked up, in bytes. Longer ones are refused.
const KEY_BYTES_MAX: usize = 256;

/// Why a key was refused.
#[derive(Debug, thiserror::Error)]
pub enum AuthError {
    /// The key is unknown, revoked, expired or malformed. The client sees the same error for all of them.
    #[error("the key is not valid")]
    BadKey {
        /// Which of them it is. Only the log shows it.
        why: &'static str,
    },
    /// Too many wrong keys from one address.
    #[error("an address may send {} wrong keys a second", .0.rate.per_s)]
    TooManyWrong(RateExceeded),
}

impl From<AuthError> for Refusal {
    fn from(error: AuthError) -> Self {
        match &error {
            AuthError::BadKey { why } => Self::new(RefusalKind::Unauthenticated, "unauthorized", Blame::Caller, &error)
                .hint(KEY_HINT)
                .internal(why),
            AuthError::TooManyWrong(exceeded) => Self {
                retry: Retry::Rate(Box::new(exceeded.clone())),
                ..Self::new(RefusalKind::TooManyRequests, "rate_limit", Blame::Caller, &error)
            },
        }
    }
}

/// The authentication step.
#[derive(Debug)]
pub struct Auth {
    registry: Arc<Registry>,
    anonymous: Arc<AnonymousCallers>,
    live: LiveConfig,
}

impl Auth {
    /// Creates the step.
    pub fn new(registry: Arc<Registry>, anonymous: Arc<AnonymousCallers>, live: LiveConfig) -> Self {
        Self { registry, anonymous, live }
    }

    /// Returns the published snapshot.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.registry.snapshot()
    }

    /// Returns the caller that a request's headers identify, and removes the key from them. Wrong keys count against
    /// the rate of the address `client`.
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
                let taken = self.anonymous.wrong_keys.take(client, rate, Instant::now());
                let exceeded = |wait| AuthError::TooManyWrong(RateExceeded { whose: "an address", rate, wait });
                Err(taken.map_or_else(exceeded, |_| error))
            }
        }
    }
}

/// Removes the platform's keys from the headers of a request that needs none.
pub fn remove_keys(headers: &mut HeaderMap) {
    headers.remove(KEY);
    // Whether it could be read makes no difference: it is removed.
    let _ = take_bearer(headers);
}

fn take_key(headers: &mut HeaderMap) -> Result<Option<String>, AuthError> {
    let read = |value: &http::HeaderValue| match value.to_str() {
        Ok(text) if text.len() <= KEY_BYTES_MAX => Ok(text.trim().to_owned()),
        _ => Err(AuthError::BadKey { why: "the key is too long or not text" }),
    };
    let own = headers.get(KEY).map(read).transpose()?;
    headers.remove(KEY);
    let bearer = take_bearer(headers)?;
    Ok(own.or(bearer))
}

/// Returns the key in `Authorization`. Removes every value that contains a key; the others are meant for the function
/// and stay.
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
        // Runpod's documentation shows a key alone too.
        None if text.trim().starts_with(KEY_PREFIX) => text.trim().to_owned(),
        // Not a key of ours, so it is meant for the function.
        _ => return Ok(None),
    };
    if key.len() > KEY_BYTES_MAX {
        return Err(AuthError::BadKey { why: "the key is too long" });
    }
    Ok(Some(key))
}

fn identify(snapshot: &Snapshot, key: &str) -> Result<Caller, AuthError> {
    let hashed = hash(key);
    if bool::from(snapshot.operator.ct_eq(&hashed)) {
        return Ok(Caller::Operator);
    }
    let found = snapshot.keys.get(&hashed).ok_or(AuthError::BadKey { why: "no tenant has this key" })?;
    let now = jiff::Timestamp::now();
    if !bool::from(found.hash.ct_eq(&hashed)) || found.is_expired(now) {
        return Err(AuthError::BadKey { why: "the key has expired" });
    }
    found.used_s.store(u64::try_from(now.as_second()).unwrap_or(0), Ordering::Relaxed);
    Ok(Caller::Tenant(Arc::clone(found)))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use http::HeaderName;

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

        let mut alone = headers(&[("authorization", "gnt_a_b")]);
        assert_eq!(take_key(&mut alone).unwrap().as_deref(), Some("gnt_a_b"));
        assert!(alone.is_empty());

        let mut all = headers(&[("x-gannet-key", "gnt_a_b"), ("authorization", "Bearer gnt_a_b"), ("x-own", "1")]);
        remove_keys(&mut all);
        assert_eq!(all, headers(&[("x-own", "1")]));

        let mut foreign = headers(&[("authorization", "Basic dXNlcjpwdw==")]);
        assert_eq!(take_key(&mut foreign).unwrap(), None);
        assert_eq!(foreign.len(), 1);
    }
}
