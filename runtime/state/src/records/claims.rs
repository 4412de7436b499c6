//! Claims: who may work on something, for a time. A claim is a record, and the revision with which it was taken is its
//! *fence*: a holder's commits expect it, so who lost a claim changes nothing any more.
//!
//! ```text
//!  claim   no record, or its time is over: Put KEY {owner}, Put KEY~until ─▶ fence = the revision
//!  renew   Check KEY at the fence, Put KEY~until
//!  commit  any changes with Check KEY at the fence: see Claim::check
//!  release Delete both at the fence
//! ```
//!
//! Time is an argument, and only decides when others may take a claim over. A holder whose clock is behind, or who paused,
//! is stopped by the fence. An owner's name is used by one process and one start of it: who finds its own name in a claim
//! holds it.

use super::{Change, CommitError, Expect, RecordStore, Revision};
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use std::io;
use std::sync::Arc;

/// Ending of the key of the record that says how long a claim holds.
const UNTIL: &str = "~until";

/// What a claim's record says.
#[derive(Debug, Serialize, Deserialize)]
struct Holder {
    owner: String,
}

/// What the record beside it says.
#[derive(Debug, Serialize, Deserialize)]
struct Until {
    until: Timestamp,
}

/// A claim that is held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// The key of its record.
    pub key: String,
    /// The revision with which it was taken. It stays when the claim is renewed.
    pub fence: Revision,
    /// Until when nobody else may take it.
    pub until: Timestamp,
}

impl Claim {
    /// Returns what each commit of the holder contains: the commit is made only if the claim is still held.
    pub fn check(&self) -> Change {
        Change::Check { key: self.key.clone(), expect: Expect::Revision(self.fence) }
    }
}

/// Why a claim was not taken, renewed or released.
#[derive(Debug, thiserror::Error)]
pub enum ClaimError {
    /// Another one holds it, or held it until this time.
    #[error("{owner:?} holds it until {until}")]
    Held {
        /// The name of the holder.
        owner: String,
        /// Until when it is held.
        until: Timestamp,
    },
    /// Another one took it, or it was released.
    #[error("the claim was lost")]
    Lost,
    /// A record of a claim cannot be read.
    #[error("the claim {key:?} cannot be read: {cause}")]
    Unreadable {
        /// The key of the record.
        key: String,
        /// Why.
        cause: String,
    },
    /// The store cannot be read.
    #[error("the store of records cannot be read: {0}")]
    Read(#[from] io::Error),
    /// The store did not commit it. After `Unknown` the caller claims or renews again.
    #[error(transparent)]
    Commit(#[from] CommitError),
}

/// Takes claims for one owner.
#[derive(Debug, Clone)]
pub struct Claims {
    store: Arc<dyn RecordStore>,
    owner: String,
}

fn parsed<T: serde::de::DeserializeOwned>(key: &str, value: &[u8]) -> Result<T, ClaimError> {
    let unreadable =
        |cause: serde_json::Error| ClaimError::Unreadable { key: key.to_owned(), cause: cause.to_string() };
    serde_json::from_slice(value).map_err(unreadable)
}

fn encoded<T: Serialize>(key: &str, value: &T) -> Result<Vec<u8>, ClaimError> {
    let unreadable =
        |cause: serde_json::Error| ClaimError::Unreadable { key: key.to_owned(), cause: cause.to_string() };
    serde_json::to_vec(value).map_err(unreadable)
}

fn expecting(revision: Option<Revision>) -> Expect {
    revision.map_or(Expect::Absent, Expect::Revision)
}

impl Claims {
    /// Takes claims as `owner`; see the module.
    pub fn new(store: Arc<dyn RecordStore>, owner: String) -> Self {
        Self { store, owner }
    }

    /// Takes a claim for `ttl`, or returns the one that this owner holds already, renewed.
    pub async fn claim(&self, key: &str, ttl: SignedDuration, now: Timestamp) -> Result<Claim, ClaimError> {
        let beside = format!("{key}{UNTIL}");
        let held = self.store.get(key).await?;
        let term = self.store.get(&beside).await?;
        let until = term.as_ref().map(|entry| parsed::<Until>(&beside, &entry.value)).transpose()?;
        let until = until.map_or(Timestamp::MIN, |term| term.until);
        if let Some(entry) = &held {
            let Holder { owner } = parsed(key, &entry.value)?;
            if owner == self.owner {
                let mine = Claim { key: key.to_owned(), fence: entry.revision, until };
                return self.renew(&mine, ttl, now).await;
            }
            if now < until {
                return Err(ClaimError::Held { owner, until });
            }
        }
        let until = now.saturating_add(ttl).unwrap_or(Timestamp::MAX);
        let holder = encoded(key, &Holder { owner: self.owner.clone() })?;
        let changes = vec![
            Change::Put {
                key: key.to_owned(),
                value: holder,
                expect: expecting(held.as_ref().map(|entry| entry.revision)),
            },
            // The holder may renew meanwhile: then this is a conflict.
            Change::Put {
                key: beside.clone(),
                value: encoded(&beside, &Until { until })?,
                expect: expecting(term.as_ref().map(|entry| entry.revision)),
            },
        ];
        match self.store.commit(changes).await {
            Ok(fence) => Ok(Claim { key: key.to_owned(), fence, until }),
            Err(CommitError::Conflict { .. }) => Err(self.held_by_another(key, &beside).await?),
            Err(error) => Err(error.into()),
        }
    }

    /// Returns who took a claim while this owner tried to.
    async fn held_by_another(&self, key: &str, beside: &str) -> Result<ClaimError, ClaimError> {
        let Some(entry) = self.store.get(key).await? else { return Ok(ClaimError::Lost) };
        let Holder { owner } = parsed(key, &entry.value)?;
        let until = match self.store.get(beside).await? {
            Some(term) => parsed::<Until>(beside, &term.value)?.until,
            None => Timestamp::MIN,
        };
        Ok(ClaimError::Held { owner, until })
    }

    /// Holds a claim for `ttl` from now on. Also one whose time is over, if nobody took it.
    pub async fn renew(&self, claim: &Claim, ttl: SignedDuration, now: Timestamp) -> Result<Claim, ClaimError> {
        let until = now.saturating_add(ttl).unwrap_or(Timestamp::MAX);
        let beside = format!("{}{UNTIL}", claim.key);
        let value = encoded(&beside, &Until { until })?;
        let changes = vec![claim.check(), Change::Put { key: beside, value, expect: Expect::Any }];
        match self.store.commit(changes).await {
            Ok(_) => Ok(Claim { until, ..claim.clone() }),
            Err(CommitError::Conflict { .. }) => Err(ClaimError::Lost),
            Err(error) => Err(error.into()),
        }
    }

    /// Gives a claim up. It is no error if it was lost.
    pub async fn release(&self, claim: Claim) -> Result<(), ClaimError> {
        let beside = format!("{}{UNTIL}", claim.key);
        let changes = vec![
            Change::Delete { key: claim.key, expect: Expect::Revision(claim.fence) },
            Change::Delete { key: beside, expect: Expect::Any },
        ];
        match self.store.commit(changes).await {
            Ok(_) | Err(CommitError::Conflict { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::records::local::LocalStore;
    use crate::records::simulated::SimulatedStore;
    use proptest::prelude::*;

    const TTL: SignedDuration = SignedDuration::from_secs(10);

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + seconds).unwrap()
    }

    fn put(key: &str, claim: &Claim) -> Vec<Change> {
        vec![Change::Put { key: key.to_owned(), value: Vec::new(), expect: Expect::Any }, claim.check()]
    }

    async fn one_holds_it_at_a_time(store: Arc<dyn RecordStore>) {
        let claims = |owner: &str| Claims::new(Arc::clone(&store), owner.to_owned());
        let (one, two) = (claims("one"), claims("two"));
        let first = one.claim("c", TTL, at(0)).await.unwrap();
        assert_eq!(one.claim("c", TTL, at(1)).await.unwrap(), Claim { until: at(11), ..first.clone() });
        let held = two.claim("c", TTL, at(2)).await.unwrap_err();
        assert!(matches!(held, ClaimError::Held { owner, until } if owner == "one" && until == at(11)));
        store.commit(put("a", &first)).await.unwrap();
        // Renewing keeps the fence. The time that counts is the last one.
        let renewed = one.renew(&first, TTL, at(8)).await.unwrap();
        assert_eq!((renewed.fence, renewed.until), (first.fence, at(18)));
        assert!(two.claim("c", TTL, at(17)).await.is_err());
        let second = two.claim("c", TTL, at(18)).await.unwrap();
        // A holder that wakes late can neither renew nor commit nor release what another one holds.
        assert!(matches!(one.renew(&renewed, TTL, at(19)).await, Err(ClaimError::Lost)));
        assert_eq!(store.commit(put("b", &first)).await, Err(CommitError::Conflict { key: "c".to_owned() }));
        one.release(renewed).await.unwrap();
        store.commit(put("b", &second)).await.unwrap();
        two.release(second).await.unwrap();
        let third = one.claim("c", TTL, at(19)).await.unwrap();
        assert!(third.fence > first.fence);
        // Nobody took it meanwhile, so it is held on.
        one.renew(&third, TTL, at(100)).await.unwrap();
    }

    #[tokio::test]
    async fn one_holds_a_claim_at_a_time_in_each_store() {
        let folder = tempfile::tempdir().unwrap();
        one_holds_it_at_a_time(Arc::new(LocalStore::open(folder.path()).unwrap())).await;
        let simulated = SimulatedStore::new(3);
        simulated.answer_late(3);
        one_holds_it_at_a_time(Arc::new(simulated)).await;
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Owners with clocks that differ, and a store that fails: what is written under a fence is never written
        /// under an older one.
        #[test]
        fn a_fence_that_was_passed_writes_nothing(seed in any::<u64>(), steps in proptest::collection::vec((0..3_usize, 0..4_u8, 0..30_i64), 1..60)) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(async {
                let store = Arc::new(SimulatedStore::new(seed));
                store.fail_at_random(200);
                store.answer_late(2);
                let owners: Vec<_> = (0..3).map(|n| Claims::new(store.clone(), format!("owner{n}"))).collect();
                let mut held: [Option<Claim>; 3] = [None, None, None];
                for (clock, (who, what, jitter)) in steps.into_iter().enumerate() {
                    let now = at(clock as i64 * 3 + jitter);
                    match (what, held[who].clone()) {
                        (0, _) | (_, None) => held[who] = owners[who].claim("c", TTL, now).await.ok(),
                        (1, Some(claim)) => drop(owners[who].renew(&claim, TTL, now).await),
                        (2, Some(claim)) => {
                            drop(owners[who].release(claim).await);
                        }
                        (_, Some(claim)) => {
                            // The newest fence that wrote: it never falls.
                            let before = store.get("w").await.unwrap().map_or(0, |entry| {
                                String::from_utf8(entry.value).unwrap().parse::<u64>().unwrap()
                            });
                            let value = claim.fence.to_string().into_bytes();
                            let write = Change::Put { key: "w".into(), value, expect: Expect::Any };
                            if store.commit(vec![claim.check(), write]).await.is_ok() {
                                assert!(claim.fence >= before, "{} after {before}", claim.fence);
                            }
                        }
                    }
                }
            });
        }
    }
}
