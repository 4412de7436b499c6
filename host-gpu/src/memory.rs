//! Quotas of GPU memory and of host memory. A [`MemoryQuota`] has a limit and may have a parent. A [`Charge`] takes
//! bytes from a quota and all its parents, and returns them when it is dropped.
//!
//! Invariant: a charge is taken before the allocation it pays for and dropped after the device has
//! reported that the memory is free, so bytes charged ≥ bytes allocated at every moment.

use crate::error::Error;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

/// Drivers allocate memory in multiples of this many bytes. wgpu's allocator does so too on the drivers that we know.
const GRANULARITY: u64 = 256;

/// Frees memory when this many bytes are needed. Returns whether it freed any.
type Relief = Box<dyn Fn(u64) -> bool + Send + Sync>;

/// The memory that a quota limits.
#[derive(Debug, Clone, Copy)]
enum MemoryKind {
    Gpu,
    Host,
}

/// A limit on bytes, and the bytes in use.
pub struct MemoryQuota {
    /// The owner of the limit, for messages: `request` or `tenant`, for instance.
    owner: &'static str,
    /// The kind of memory, named in errors.
    kind: MemoryKind,
    limit: u64,
    used: AtomicU64,
    peak: AtomicU64,
    parent: Option<Arc<MemoryQuota>>,
    /// Called to free memory before a charge is refused.
    relief: OnceLock<Relief>,
}

impl fmt::Debug for MemoryQuota {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (used, limit) = (self.used(), self.limit);
        f.debug_struct("MemoryQuota").field("owner", &self.owner).field("used", &used).field("limit", &limit).finish()
    }
}

impl MemoryQuota {
    /// Makes a quota of GPU memory for `owner` with `limit` bytes. Its charges count against `parent` too, if there is
    /// one.
    pub fn new(owner: &'static str, limit: u64, parent: Option<Arc<MemoryQuota>>) -> Arc<Self> {
        Self::of_kind(MemoryKind::Gpu, owner, limit, parent)
    }

    /// Makes a quota of host memory for `owner` with `limit` bytes.
    pub(crate) fn host(owner: &'static str, limit: u64) -> Arc<Self> {
        Self::of_kind(MemoryKind::Host, owner, limit, None)
    }

    fn of_kind(kind: MemoryKind, owner: &'static str, limit: u64, parent: Option<Arc<MemoryQuota>>) -> Arc<Self> {
        Arc::new(Self {
            owner,
            kind,
            limit,
            used: AtomicU64::new(0),
            peak: AtomicU64::new(0),
            parent,
            relief: OnceLock::new(),
        })
    }

    /// Sets the function that is called to free bytes before a charge is refused. Only the first call has an effect.
    pub(crate) fn relieved_by(&self, relief: impl Fn(u64) -> bool + Send + Sync + 'static) {
        // It is set only once, before the first charge.
        let _ = self.relief.set(Box::new(relief));
    }

    /// Bytes in use now.
    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// The most bytes that were in use at once.
    pub fn peak(&self) -> u64 {
        self.peak.load(Ordering::Relaxed)
    }

    /// Resets the peak to the bytes in use now.
    pub(crate) fn forget_peak(&self) {
        self.peak.store(self.used(), Ordering::Relaxed);
    }

    /// The limit in bytes.
    pub fn limit(&self) -> u64 {
        self.limit
    }

    /// Takes `bytes`, rounded up to a multiple of 256, from this quota and all its parents. If one of them is
    /// exhausted, takes nothing and fails.
    pub fn charge(self: &Arc<Self>, bytes: u64) -> Result<Charge, Error> {
        let rounded = bytes.checked_next_multiple_of(GRANULARITY).ok_or_else(|| self.refusal(bytes))?;
        self.take(rounded)?;
        Ok(Charge { quota: Arc::clone(self), bytes: rounded })
    }

    fn take(&self, bytes: u64) -> Result<(), Error> {
        let before = loop {
            let taken = self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
                used.checked_add(bytes).filter(|sum| *sum <= self.limit)
            });
            match taken {
                Ok(before) => break before,
                // Nothing is freed for a charge larger than the limit.
                Err(_) if bytes <= self.limit && self.relief.get().is_some_and(|relief| relief(bytes)) => {}
                Err(_) => return Err(self.refusal(bytes)),
            }
        };
        if let Some(parent) = &self.parent
            && let Err(error) = parent.take(bytes)
        {
            self.used.fetch_sub(bytes, Ordering::Relaxed);
            return Err(error);
        }
        self.peak.fetch_max(before + bytes, Ordering::Relaxed);
        Ok(())
    }

    fn give_back(&self, bytes: u64) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
        if let Some(parent) = &self.parent {
            parent.give_back(bytes);
        }
    }

    fn refusal(&self, bytes: u64) -> Error {
        let kind = match self.kind {
            MemoryKind::Gpu => "gpu",
            MemoryKind::Host => "host",
        };
        Error::MemoryQuota(format!(
            "{bytes} bytes more would pass the {}'s {kind} memory limit of {} bytes, of which {} are in use",
            self.owner,
            self.limit,
            self.used()
        ))
    }
}

/// Bytes taken from a quota until this is dropped.
#[derive(Debug)]
pub struct Charge {
    quota: Arc<MemoryQuota>,
    bytes: u64,
}

impl Charge {
    /// The number of bytes, as rounded up by [`MemoryQuota::charge`].
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.quota.give_back(self.bytes);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_refused_charge_takes_nothing_from_anyone() {
        let tenant = MemoryQuota::new("tenant", 1024, None);
        let request = MemoryQuota::new("request", 4096, Some(Arc::clone(&tenant)));
        let held = request.charge(1000).unwrap();
        assert_eq!((held.bytes(), request.used(), tenant.used()), (1024, 1024, 1024));
        let refused = request.charge(1).unwrap_err();
        assert!(refused.to_string().contains("tenant's gpu memory limit of 1024 bytes"), "{refused}");
        assert_eq!((request.used(), tenant.used()), (1024, 1024));
        drop(held);
        assert_eq!((request.used(), tenant.used(), request.peak()), (0, 0, 1024));
    }

    #[test]
    fn a_size_near_the_end_of_the_number_range_is_refused() {
        let quota = MemoryQuota::new("request", u64::MAX, None);
        assert!(quota.charge(u64::MAX - 1).is_err());
    }

    proptest! {
        #[test]
        fn used_is_the_sum_of_what_is_held(sizes in proptest::collection::vec(0u64..5000, 0..40)) {
            let quota = MemoryQuota::new("request", 50_000, None);
            let mut held = Vec::new();
            for (index, size) in sizes.iter().enumerate() {
                if let Ok(charge) = quota.charge(*size) { held.push(charge); }
                if index % 3 == 2 && !held.is_empty() { held.remove(0); }
                prop_assert_eq!(quota.used(), held.iter().map(Charge::bytes).sum::<u64>());
                prop_assert!(quota.used() <= quota.limit());
            }
        }
    }
}
