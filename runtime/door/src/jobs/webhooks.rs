//! `/v2/{function}/webhooks`: the deliveries of webhooks that are pending or were given up.

use super::ServerJobs;
use super::call::{query_cursor, query_delivery, query_number};
use crate::respond::{ReplyStatus, json};
use gannet_base::body::ResponseBody;
use gannet_base::names::{FunctionName, TenantName};
use gannet_base::refusal::{Blame, Refusal, RefusalKind};
use gannet_jobs::job::JobId;
use gannet_jobs::service::{DeliveryError, DeliveryView};
use http::Response;
use serde::Serialize;

/// Deliveries that one call returns at most.
const LIST_MAX: u64 = 1_000;

type Names = (TenantName, FunctionName);

#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = DeliveriesListed)]
pub(super) struct Listed {
    webhooks: Vec<DeliveryView>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cursor: Option<String>,
}

#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = DeliveryDropped)]
pub(super) struct Dropped {
    #[serde(skip_serializing_if = "Option::is_none")]
    job: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    batch: Option<String>,
    dropped: bool,
}

fn refusal(error: DeliveryError) -> Refusal {
    match &error {
        DeliveryError::NotFound => Refusal::new(RefusalKind::NotFound, "webhook_not_found", Blame::Caller, &error),
        DeliveryError::Store(cause) => {
            let public = "the store of jobs does not work now";
            Refusal::new(RefusalKind::Unavailable, "store_unavailable", Blame::Platform, public)
                .internal(cause)
                .retry_after(1)
        }
    }
}

pub(super) async fn list(
    jobs: &ServerJobs,
    names: &Names,
    query: Option<&str>,
) -> Result<Response<ResponseBody>, Refusal> {
    let limit = query_number(query, "limit", 1, LIST_MAX, 100)?;
    let (status, after) = (query_delivery(query)?, query_cursor(query)?);
    let limit = usize::try_from(limit).unwrap_or(1);
    let (webhooks, cursor) = jobs.deliveries(names, status, after, limit).await.map_err(refusal)?;
    let cursor = cursor.map(|id| id.to_string());
    Ok(json(ReplyStatus::Ok, &Listed { webhooks, cursor }))
}

pub(super) async fn redeliver(jobs: &ServerJobs, names: &Names, id: JobId) -> Result<Response<ResponseBody>, Refusal> {
    Ok(json(ReplyStatus::Ok, &jobs.redeliver(names, id).await.map_err(refusal)?))
}

pub(super) async fn drop_one(jobs: &ServerJobs, names: &Names, id: JobId) -> Result<Response<ResponseBody>, Refusal> {
    let is_of_batch = jobs.drop_delivery(names, id).await.map_err(refusal)?;
    let (job, batch) = ((!is_of_batch).then(|| id.to_string()), is_of_batch.then(|| id.to_string()));
    Ok(json(ReplyStatus::Ok, &Dropped { job, batch, dropped: true }))
}
