//! What clients ask about deliveries, and do to them.

use crate::delivery::record::{DeadLetter, Pending};
use crate::job::{JobId, Millis};
use crate::keys;
use crate::runner::Runner;
use crate::service::shared::{Jobs, Shared, to_its_end};
use crate::service::state::Names;
use gannet_state::records::{Change, CommitError, Expect};
use serde::{Deserialize, Serialize};
use std::io;

/// Tries to commit a change of a delivery that others change too.
const COMMITS_MAX: usize = 8;

/// Why a delivery cannot be shown or changed.
#[derive(Debug, thiserror::Error)]
pub enum DeliveryError {
    /// There is no such job or batch of this function, it has not ended, or it has no webhook.
    #[error(
        "there is no delivery for this job or batch: it has no webhook, has not ended, or its result is not kept any more"
    )]
    NotFound,
    /// The store does not work.
    #[error("the store of jobs: {0}")]
    Store(#[from] io::Error),
}

/// Whether a delivery is still tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum DeliveryStatus {
    /// It is.
    Pending,
    /// It was given up.
    Dead,
}

/// A delivery, as lists show it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Delivery)]
pub struct DeliveryView {
    /// The id of its job, if it tells the end of one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub job: Option<String>,
    /// The id of its batch, if it tells the end of one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub batch: Option<String>,
    /// Whether it is still tried.
    pub status: DeliveryStatus,
    /// The address.
    pub url: String,
    /// Tries that failed.
    pub tries: u32,
    /// When the next try is made (RFC 3339), if it is pending.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_at: Option<String>,
    /// When it was given up (RFC 3339), if it is dead.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub died_at: Option<String>,
    /// Why the latest try failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
}

fn rfc_3339(at: Millis) -> String {
    jiff::Timestamp::from_millisecond(at).unwrap_or(jiff::Timestamp::UNIX_EPOCH).to_string()
}

impl DeliveryView {
    fn pending(id: JobId, pending: Pending) -> Self {
        Self {
            job: (!pending.is_of_batch).then(|| id.to_string()),
            batch: pending.is_of_batch.then(|| id.to_string()),
            status: DeliveryStatus::Pending,
            url: pending.url,
            tries: pending.tries,
            next_at: Some(rfc_3339(pending.next_at)),
            died_at: None,
            last_error: pending.last_error,
        }
    }

    fn dead(id: JobId, DeadLetter { pending, died }: DeadLetter) -> Self {
        let died_at = Some(rfc_3339(died));
        Self { status: DeliveryStatus::Dead, next_at: None, died_at, ..Self::pending(id, pending) }
    }
}

impl<R: Runner> Shared<R> {
    async fn delivery_view(&self, id: JobId) -> io::Result<Option<DeliveryView>> {
        if let Some((pending, _)) = self.pending(id).await? {
            return Ok(Some(DeliveryView::pending(id, pending)));
        }
        Ok(self.dead_letter(id).await?.map(|dead| DeliveryView::dead(id, dead)))
    }
}

impl<R: Runner> Jobs<R> {
    /// Lists the deliveries of a function that are pending or dead, by the ids of their jobs, from after a job. Returns
    /// the last one that was looked at, if there may be more.
    pub async fn deliveries(
        &self,
        names: &Names,
        status: Option<DeliveryStatus>,
        after: Option<JobId>,
        limit: usize,
    ) -> Result<(Vec<DeliveryView>, Option<JobId>), DeliveryError> {
        let is_dead = status.map(|status| status == DeliveryStatus::Dead);
        let ids: Vec<JobId> = {
            let state = self.shared.state();
            state.deliveries.of_function((&names.0, &names.1), is_dead, after).take(limit).collect()
        };
        let mut found = Vec::new();
        for id in &ids {
            // It may have been delivered meanwhile.
            let view = self.shared.delivery_view(*id).await?;
            found.extend(view.filter(|view| status.is_none_or(|status| status == view.status)));
        }
        Ok((found, ids.last().copied().filter(|_| ids.len() >= limit)))
    }

    /// Delivers now: what is pending or was given up, and what was delivered before, as long as the job's result is kept.
    pub async fn redeliver(&self, names: &Names, id: JobId) -> Result<DeliveryView, DeliveryError> {
        let (jobs, names) = (self.clone(), names.clone());
        to_its_end(async move { jobs.redeliver_all_the_way(&names, id).await }).await?
    }

    async fn redeliver_all_the_way(&self, names: &Names, id: JobId) -> Result<DeliveryView, DeliveryError> {
        let shared = &self.shared;
        for _ in 0..COMMITS_MAX {
            let found = shared.read(id).await?.map(|(job, _)| job);
            let job = found.filter(|job| job.tenant == names.0 && job.function == names.1);
            let new = match &job {
                Some(job) => Pending::of(job),
                None => shared.delivery_of_batch(names, id),
            };
            let new = new.ok_or(DeliveryError::NotFound)?;
            let now = shared.clock.now();
            let (pending, expect) = match shared.pending(id).await? {
                // A try is being made right now.
                Some((pending, _)) if shared.state().deliveries.is_sending(id) => {
                    return Ok(DeliveryView::pending(id, pending));
                }
                Some((pending, revision)) => (Pending { next_at: now, ..pending }, Expect::Revision(revision)),
                None => (Pending { since: now, next_at: now, ..new }, Expect::Absent),
            };
            let changes = vec![
                Change::Put {
                    key: keys::delivery(id),
                    value: serde_json::to_vec(&pending).map_err(io::Error::other)?,
                    expect,
                },
                Change::Delete { key: keys::dead_letter(id), expect: Expect::Any },
            ];
            match shared.records.commit(changes).await {
                Ok(_) => {
                    let mut state = shared.state();
                    match &job {
                        Some(job) => state.expect_delivery(job, now),
                        None => state.expect_delivery_of_batch(names, id, now),
                    }
                    return Ok(DeliveryView::pending(id, pending));
                }
                Err(CommitError::Conflict { .. } | CommitError::Unknown(_)) => {}
                Err(error) => return Err(io::Error::other(error).into()),
            }
        }
        Err(io::Error::other("the delivery is changed by others").into())
    }

    /// Gives up a delivery for good: it is neither tried again nor kept. Returns whether it was of a batch.
    pub async fn drop_delivery(&self, names: &Names, id: JobId) -> Result<bool, DeliveryError> {
        let (jobs, names) = (self.clone(), names.clone());
        to_its_end(async move { jobs.drop_delivery_all_the_way(&names, id).await }).await?
    }

    async fn drop_delivery_all_the_way(&self, names: &Names, id: JobId) -> Result<bool, DeliveryError> {
        let shared = &self.shared;
        let is_own = |pending: &Pending| pending.tenant == names.0 && pending.function == names.1;
        let pending = shared.pending(id).await?.map(|(pending, _)| pending);
        let found = match pending {
            Some(pending) => Some(pending),
            None => shared.dead_letter(id).await?.map(|dead| dead.pending),
        };
        let found = found.filter(is_own).ok_or(DeliveryError::NotFound)?;
        let changes = vec![
            Change::Delete { key: keys::delivery(id), expect: Expect::Any },
            Change::Delete { key: keys::dead_letter(id), expect: Expect::Any },
        ];
        shared.records.commit(changes).await.map_err(io::Error::other)?;
        shared.state().deliveries.forget(id);
        shared.keep_as_others(&[id]).await;
        Ok(found.is_of_batch)
    }
}
