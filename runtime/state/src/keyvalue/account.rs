//! What a tenant's keys use of its limits. Pure.
//!
//! ```text
//!  reserve: growth is added, if it fits ─┬▶ committed: what shrinks is taken off
//!                                        └▶ not committed: growth is taken off again
//! ```
//!
//! Invariant: what is stored never counts for more than what is used here, so no limit is passed whatever is in flight.

/// What keys use.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct KeyValueUse {
    /// Number of keys.
    pub keys: u64,
    /// Bytes of keys and values, and 128 for each key.
    pub bytes: u64,
}

impl KeyValueUse {
    pub(super) fn plus(self, other: Self) -> Self {
        Self { keys: self.keys.saturating_add(other.keys), bytes: self.bytes.saturating_add(other.bytes) }
    }

    fn minus(self, other: Self) -> Self {
        Self { keys: self.keys.saturating_sub(other.keys), bytes: self.bytes.saturating_sub(other.bytes) }
    }
}

/// What a tenant may use.
#[derive(Debug, Clone, Copy)]
pub struct KeyValueLimits {
    /// Number of keys (`keyvalue_keys`).
    pub keys: u64,
    /// Bytes (`keyvalue_mib`).
    pub bytes: u64,
}

/// A limit is used up.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LimitReached {
    /// There are too many keys.
    #[error("keyvalue_keys = {limit}, and {used} are in use")]
    Keys {
        /// The limit.
        limit: u64,
        /// What is in use.
        used: u64,
    },
    /// They are too large.
    #[error("keyvalue_mib = {}, {used} bytes are in use, and this needs {needed} more", limit >> 20)]
    Bytes {
        /// The limit in bytes.
        limit: u64,
        /// What is in use.
        used: u64,
        /// What the write adds.
        needed: u64,
    },
}

/// The account of a tenant.
#[derive(Debug, Default)]
pub(super) struct Account {
    used: KeyValueUse,
}

impl Account {
    pub(super) fn used(&self) -> KeyValueUse {
        self.used
    }

    /// Counts what is stored already.
    pub(super) fn found(&mut self, used: KeyValueUse) {
        self.used = self.used.plus(used);
    }

    /// Reserves the growth of a write that replaces `old` by `new`. What shrinks or stays is not limited, so that a tenant
    /// whose limit was lowered can still delete.
    pub(super) fn reserve(
        &mut self,
        limits: KeyValueLimits,
        old: KeyValueUse,
        new: KeyValueUse,
    ) -> Result<(), LimitReached> {
        let (used, growth) = (self.used, new.minus(old));
        let next = used.plus(growth);
        if growth.keys > 0 && next.keys > limits.keys {
            return Err(LimitReached::Keys { limit: limits.keys, used: used.keys });
        }
        if growth.bytes > 0 && next.bytes > limits.bytes {
            return Err(LimitReached::Bytes { limit: limits.bytes, used: used.bytes, needed: growth.bytes });
        }
        self.used = next;
        Ok(())
    }

    /// The write was committed.
    pub(super) fn committed(&mut self, old: KeyValueUse, new: KeyValueUse) {
        self.used = self.used.minus(old.minus(new));
    }

    /// The write was not committed.
    pub(super) fn give_back(&mut self, old: KeyValueUse, new: KeyValueUse) {
        self.used = self.used.minus(new.minus(old));
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn of(keys: u64, bytes: u64) -> KeyValueUse {
        KeyValueUse { keys, bytes }
    }

    const LIMITS: KeyValueLimits = KeyValueLimits { keys: 2, bytes: 1 << 20 };

    #[test]
    fn limits_hold_exactly_and_what_shrinks_is_always_allowed() {
        let mut account = Account::default();
        account.reserve(LIMITS, of(0, 0), of(1, (1 << 20) - 10)).unwrap();
        let told = account.reserve(LIMITS, of(0, 0), of(1, 11)).unwrap_err().to_string();
        assert_eq!(told, "keyvalue_mib = 1, 1048566 bytes are in use, and this needs 11 more");
        account.reserve(LIMITS, of(0, 0), of(1, 10)).unwrap();
        let told = account.reserve(LIMITS, of(0, 0), of(1, 0)).unwrap_err().to_string();
        assert_eq!(told, "keyvalue_keys = 2, and 2 are in use");
        // The limits were lowered.
        let low = KeyValueLimits { keys: 0, bytes: 0 };
        account.reserve(low, of(1, 10), of(1, 9)).unwrap();
        account.committed(of(1, 10), of(1, 9));
        account.reserve(low, of(1, 9), of(0, 0)).unwrap();
        account.committed(of(1, 9), of(0, 0));
        assert_eq!(account.used(), of(1, (1 << 20) - 10));
    }

    proptest! {
        /// Writes to four keys, some of which fail: what is used is what is stored.
        #[test]
        fn what_is_used_is_what_is_stored(writes in prop::collection::vec((0_usize..4, 0_u64..700_000, any::<bool>()), 0..50)) {
            let (mut account, mut stored) = (Account::default(), [of(0, 0); 4]);
            for (key, bytes, works) in writes {
                let (old, new) = (stored[key], if bytes < 100_000 { of(0, 0) } else { of(1, bytes) });
                let reserved = account.reserve(LIMITS, old, new);
                if reserved.is_ok() && works {
                    account.committed(old, new);
                    stored[key] = new;
                } else if reserved.is_ok() {
                    account.give_back(old, new);
                }
                let sum = stored.iter().fold(of(0, 0), |sum, one| sum.plus(*one));
                prop_assert_eq!(account.used(), sum);
                prop_assert!(sum.keys <= LIMITS.keys && sum.bytes <= LIMITS.bytes);
            }
        }
    }
}
