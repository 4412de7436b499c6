//! The task that tells the ends of batches with a webhook.
//!
//! ```text
//!  the last item ends, or the batch is closed ─▶ index: it is over ─▶ one commit: b/{batch}: told + w/{batch} ─▶ deliver
//! ```
//!
//! That a batch is over follows from its record and those of its items. So if the server ends before the commit, the next
//! start finds the batch over and not told, and nothing is lost; and the commit makes one delivery of one end.

use super::shared::Shared;
use crate::delivery::record::Pending;
use crate::job::BatchId;
use crate::keys;
use crate::runner::Runner;
use gannet_state::records::{Change, Expect};
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Mutex;

/// How often the task looks without being woken: a batch to which nothing is added any more closes by itself.
const EVERY: Duration = Duration::from_secs(5);

/// Tells until the service stops.
pub(super) async fn tell<R: Runner>(shared: Arc<Shared<R>>) {
    let over = Arc::clone(&shared.state().batches.over);
    loop {
        if let Err(error) = tell_all(&shared).await {
            tracing::warn!(%error, "the ends of batches wait to be told");
        }
        tokio::select! {
            () = over.notified() => {}
            () = tokio::time::sleep(EVERY) => {}
            () = shared.stopping.cancelled() => return,
        }
    }
}

/// Stores the deliveries of the batches that are over.
pub(super) async fn tell_all<R: Runner>(shared: &Arc<Shared<R>>) -> io::Result<()> {
    let ids = shared.state().batches.to_tell(shared.clock.now());
    for id in ids {
        tell_one(shared, id).await?;
    }
    Ok(())
}

async fn tell_one<R: Runner>(shared: &Arc<Shared<R>>, id: BatchId) -> io::Result<()> {
    let changing = shared.state().batches.all.get(&id).map(|known| Arc::clone(&known.changing));
    // A change of the batch may take long. The others do not wait for it; the next look tells this one.
    let Some(Ok(_alone)) = changing.map(Mutex::try_lock_owned) else { return Ok(()) };
    let now = shared.clock.now();
    let found = {
        let state = shared.state();
        let over = state.batches.all.get(&id).filter(|known| known.batch.is_over(&known.children.counts(), now));
        // A client may have begun items again.
        over.filter(|known| known.batch.must_tell()).map(|known| (known.batch.clone(), known.revision))
    };
    let Some((mut batch, revision)) = found else { return Ok(()) };
    let Some(pending) = Pending::of_batch(&batch, now) else { return Ok(()) };
    batch.is_told = true;
    let (key, value) = (keys::delivery(id), serde_json::to_vec(&pending)?);
    let delivery = Change::Put { key, value, expect: Expect::Any };
    // What was given up of an earlier end is not kept: this one says more.
    let letter = Change::Delete { key: keys::dead_letter(id), expect: Expect::Any };
    let committed = shared.commit_batch(&mut batch, Some(revision), vec![delivery, letter]).await?;
    let revision = committed.map_err(io::Error::other)?;
    let mut state = shared.state();
    state.expect_delivery_of_batch(&(batch.tenant.clone(), batch.function.clone()), id, now);
    state.batches.accepted(batch, revision);
    Ok(())
}
