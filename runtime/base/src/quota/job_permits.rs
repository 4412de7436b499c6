//! The two permits of an attempt of a job: one of its version, for which requests wait too, and one of the share that all
//! jobs together may hold.
//!
//! ```text
//!  a permit of the share ─▶ one of the version, free or within HOLD_MAX ─┬▶ both
//!   ▲                                                                   └▶ gives the first one back ─▶ waits for the version's
//!   └── gives it back ◀─ one of the share, free or within HOLD_MAX ◀──────────────────────────────────────────────────┘
//! ```
//!
//! An attempt that holds one permit keeps others from using it, so it holds none for long while it waits for the other.
//! It holds it for a while, because else it would never get both while requests and jobs always wait for one.

use crate::names::{FunctionName, TenantName};
use crate::quota::permits::{NoPermit, ServerPermit, ServerPermits, VersionPermits};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

/// How long one permit is held while the other one is waited for.
const HOLD_MAX: Duration = if cfg!(test) { Duration::from_millis(20) } else { Duration::from_secs(1) };

/// Waits for both permits of an attempt, until a time. `queue_ms` is only for the error.
pub async fn acquire(
    version: &Arc<VersionPermits>,
    queue_ms: u64,
    share: &Arc<ServerPermits>,
    (tenant, function): (&TenantName, &FunctionName),
    until: Instant,
) -> Result<(OwnedSemaphorePermit, ServerPermit), NoPermit> {
    let soon = || until.min(Instant::now() + HOLD_MAX);
    loop {
        let of_share = share.acquire_for(tenant, function, until).await?;
        if let Ok(of_version) = version.acquire_uncounted(soon(), queue_ms).await {
            return Ok((of_version, of_share));
        }
        drop(of_share);
        let of_version = version.acquire_uncounted(until, queue_ms).await?;
        if let Ok(of_share) = share.acquire_for(tenant, function, soon()).await {
            return Ok((of_version, of_share));
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::manifest::FunctionLimits;

    /// How long each of the others holds a permit.
    const HELD: Duration = Duration::from_millis(3);

    fn version() -> Arc<VersionPermits> {
        VersionPermits::new(&FunctionLimits { concurrency: 1, ..FunctionLimits::default() })
    }

    /// Two requests always want the only permit of the version, and two jobs of another tenant the only one of the share.
    #[tokio::test]
    async fn an_attempt_gets_both_permits_although_others_always_wait_for_each() {
        let (version, share) = (version(), ServerPermits::new(1, 9));
        let [acme, zoo] = ["acme", "zoo"].map(|tenant| TenantName::new(tenant).unwrap());
        let function = FunctionName::new("blur").unwrap();
        let until = Instant::now() + Duration::from_secs(60);
        let mut others = tokio::task::JoinSet::new();
        for _ in 0..2 {
            let version = Arc::clone(&version);
            others.spawn(async move {
                while let Ok(_permit) = version.acquire(until, 1).await {
                    tokio::time::sleep(HELD).await;
                }
            });
            let (share, zoo, function) = (Arc::clone(&share), zoo.clone(), function.clone());
            others.spawn(async move {
                while let Ok(_permit) = share.acquire_for(&zoo, &function, until).await {
                    tokio::time::sleep(HELD).await;
                }
            });
        }
        while version.try_acquire().is_some() || share.try_acquire(&acme).is_some() {
            tokio::task::yield_now().await;
        }
        for _ in 0..5 {
            let both = acquire(&version, 1, &share, (&acme, &function), until).await;
            assert!(both.is_ok(), "{both:?}");
        }
        others.shutdown().await;
        assert!(version.try_acquire().is_some() && share.try_acquire(&acme).is_some(), "none is lost");
    }

    #[tokio::test]
    async fn an_attempt_that_waits_for_its_version_leaves_the_share_to_others() {
        let (version, share) = (version(), ServerPermits::new(1, 9));
        let (acme, function) = (TenantName::new("acme").unwrap(), FunctionName::new("blur").unwrap());
        let until = Instant::now() + Duration::from_secs(60);
        let held = version.try_acquire().unwrap();
        let waiting = acquire(&version, 1, &share, (&acme, &function), until);
        let other = share.acquire(&acme, until);
        tokio::pin!(waiting, other);
        tokio::select! {
            biased;
            both = &mut waiting => panic!("{both:?}"),
            permit = &mut other => assert!(permit.is_ok()),
        }
        drop(held);
        assert!(waiting.await.is_ok());
    }
}
