//! The task that removes batches that were kept long enough, with the records and results of their items.
//!
//! ```text
//!  ended and kept long enough ─▶ b/{batch}: it leaves ─▶ its items, some at once ─▶ b/{batch} is removed
//! ```

use super::shared::Shared;
use super::sweep;
use crate::job::{BatchId, JobId};
use crate::keys;
use crate::runner::Runner;
use gannet_base::names::TenantName;
use gannet_state::records::{Change, Expect};
use std::io;
use std::sync::Arc;
use std::time::Duration;

/// How often the task looks.
const EVERY: Duration = Duration::from_secs(5);
/// Items that are removed in one commit; each has up to four records.
const AT_ONCE: u32 = 200;

pub(super) async fn sweep<R: Runner>(shared: Arc<Shared<R>>) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(EVERY) => {}
            () = shared.stopping.cancelled() => return,
        }
        if let Err(error) = remove_kept(&shared).await {
            tracing::warn!(%error, "batches that were kept long enough wait for the store");
        }
    }
}

/// Removes the batches that were kept long enough.
pub(super) async fn remove_kept<R: Runner>(shared: &Arc<Shared<R>>) -> io::Result<()> {
    for id in due(shared, None) {
        let changing = shared.state().batches.all.get(&id).map(|known| Arc::clone(&known.changing));
        let Some(changing) = changing else { continue };
        let _alone = changing.lock_owned().await;
        // A client may have begun items again.
        if !due(shared, Some(id)).is_empty() {
            remove(shared, id).await?;
        }
    }
    Ok(())
}

fn due<R: Runner>(shared: &Shared<R>, only: Option<BatchId>) -> Vec<BatchId> {
    let now = shared.clock.now();
    let state = shared.state();
    let all = state.batches.all.iter().filter(|(id, _)| only.is_none_or(|only| only == **id));
    let due = all.filter(|(_, known)| {
        let until = known.batch.kept_until(&known.children.counts(), known.items_kept_until, now);
        // The message of its end is made of it.
        let is_needed = known.batch.must_tell() || state.deliveries.holds(known.batch.id);
        known.batch.is_leaving || (until.is_some_and(|until| until <= now) && !is_needed)
    });
    due.map(|(id, _)| *id).collect()
}

async fn remove<R: Runner>(shared: &Arc<Shared<R>>, id: BatchId) -> io::Result<()> {
    let found = shared.state().batches.all.get(&id).map(|known| (known.batch.clone(), known.revision));
    let Some((mut batch, mut revision)) = found else { return Ok(()) };
    if !batch.is_leaving {
        batch.is_leaving = true;
        revision = shared.commit_batch(&mut batch, Some(revision), Vec::new()).await?.map_err(io::Error::other)?;
        shared.state().batches.accepted(batch.clone(), revision);
    }
    let mut from = 0;
    while from < batch.total {
        let to = from.saturating_add(AT_ONCE).min(batch.total);
        let mut items = Vec::new();
        for index in from..to {
            // One that a client has just put into the queue again goes on without its batch.
            let found = shared.read(JobId::item(id, index)).await?;
            items.extend(found.filter(|(job, _)| job.state.is_terminal()));
        }
        if !items.is_empty() {
            sweep::remove(shared, items).await?;
        }
        from = to;
    }
    let gone = Change::Delete { key: keys::batch(id), expect: Expect::Revision(revision) };
    shared.records.commit(vec![gone]).await.map_err(io::Error::other)?;
    shared.state().batches.remove(id);
    Ok(())
}

/// Forgets the batches of a tenant that was deleted, and whose jobs are removed.
pub(super) async fn forget_tenant<R: Runner>(shared: &Shared<R>, tenant: &TenantName) -> io::Result<()> {
    let own: Vec<BatchId> = {
        let state = shared.state();
        state.batches.all.iter().filter(|(_, known)| known.batch.tenant == *tenant).map(|(id, _)| *id).collect()
    };
    for ids in own.chunks(AT_ONCE as usize) {
        let keys = ids.iter().flat_map(|id| [keys::batch(*id), keys::delivery(*id), keys::dead_letter(*id)]);
        let gone = keys.map(|key| Change::Delete { key, expect: Expect::Any });
        shared.records.commit(gone.collect()).await.map_err(io::Error::other)?;
        ids.iter().for_each(|id| shared.state().deliveries.forget(*id));
        ids.iter().for_each(|id| shared.state().batches.remove(*id));
    }
    Ok(())
}
