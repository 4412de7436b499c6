//! Batches of a function, under `/v2/{function}/batches`: many inputs in one call.
//!
//! ```text
//!  POST batches                    {"inputs": […], "policy", "name", "more", "webhook"},
//!                                  or an input a line with ?name&more&webhook
//!  POST batches/{id}/items         more inputs, in either form, while `more` is true
//!  POST batches/{id}/close         no more inputs
//!  GET  batches?limit&cursor, batches/{id}
//!  GET  batches/{id}/results?from  a line for each item that has ended, in the order of the items
//!  POST batches/{id}/cancel, batches/{id}/retry
//! ```
//!
//! Results are read page by page as the client takes them, so a batch of any size takes the memory of one page.

use super::ServerJobs;
use super::call::{query_cursor, query_number, query_value};
use super::error::JobApiError;
#[cfg(test)]
use super::operations::JobOperation;
use super::submission::{SentPolicy, check_webhook, idempotency_key, job_limits};
use crate::access::AccessError;
use crate::respond::{ReplyStatus, json, stream};
use crate::whole_body::{self, BodyBudget};
use bytes::Bytes;
use gannet_base::body::{BrokenOff, ResponseBody};
use gannet_base::limits::TenantLimits;
use gannet_base::names::{FunctionName, TenantName};
use gannet_base::refusal::{Blame, Refusal, RefusalKind};
use gannet_fleet::admitted::Target;
use gannet_fleet::inbound::{InboundRequest, discard_refused};
use gannet_jobs::batch::{ITEMS_MAX, ITEMS_OF_CALL_MAX};
use gannet_jobs::job::{BatchId, JobId};
use gannet_jobs::service::{BatchError, BatchView, NewBatch, NewItems, ResultsPage};
use http::header::CONTENT_TYPE;
use http::{HeaderMap, Method, Response};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// The largest body, in bytes.
const BODY_BYTES_MAX: u64 = 20 << 20;
/// The longest name of a batch, in bytes.
const NAME_BYTES_MAX: usize = 200;
/// Batches that one call returns at most.
const LIST_MAX: u64 = 1_000;
/// Media types of a body with one input a line.
const LINES: [&str; 3] = ["application/x-ndjson", "application/jsonl", "application/x-jsonlines"];

type Names = (TenantName, FunctionName);

/// A call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BatchCall {
    List,
    Make,
    Status(BatchId),
    Results(BatchId),
    Add(BatchId),
    Close(BatchId),
    Cancel(BatchId),
    Retry(BatchId),
}

impl BatchCall {
    /// Returns its row in the table of all calls.
    #[cfg(test)]
    pub(super) fn operation(self) -> JobOperation {
        match self {
            Self::List => JobOperation::ListBatches,
            Self::Make => JobOperation::MakeBatch,
            Self::Status(_) => JobOperation::GetBatch,
            Self::Results(_) => JobOperation::BatchResults,
            Self::Add(_) => JobOperation::AddItems,
            Self::Close(_) => JobOperation::CloseBatch,
            Self::Cancel(_) => JobOperation::CancelBatch,
            Self::Retry(_) => JobOperation::RetryBatch,
        }
    }

    /// Returns the call that the rest of a path and a method make.
    pub(super) fn find(rest: &str, method: &Method) -> Result<Self, Refusal> {
        let (id, call) = rest.split_once('/').map_or((rest, None), |(id, call)| (id, Some(call)));
        let is_read = matches!(*method, Method::GET | Method::HEAD);
        let of = |call: fn(BatchId) -> Self| JobId::parse(id).map(call).ok_or_else(|| refusal(BatchError::NotFound));
        let (found, is_allowed, allowed) = match (id, call) {
            ("", None) if *method == Method::POST => (Ok(Self::Make), true, ""),
            ("", None) => (Ok(Self::List), is_read, "GET, HEAD, POST"),
            (_, None) => (of(Self::Status), is_read, "GET, HEAD"),
            (_, Some("results")) => (of(Self::Results), is_read, "GET, HEAD"),
            (_, Some("items")) => (of(Self::Add), *method == Method::POST, "POST"),
            (_, Some("close")) => (of(Self::Close), *method == Method::POST, "POST"),
            (_, Some("cancel")) => (of(Self::Cancel), *method == Method::POST, "POST"),
            (_, Some("retry")) => (of(Self::Retry), *method == Method::POST, "POST"),
            _ => return Err(AccessError::NotFound.into()),
        };
        if is_allowed {
            return found;
        }
        Err(AccessError::MethodNotAllowed { method: method.to_string(), allowed: allowed.into() }.into())
    }
}

#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = BatchesListed)]
pub(super) struct Listed {
    batches: Vec<BatchView>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cursor: Option<String>,
}

/// The body as clients send it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Body<'a> {
    #[serde(borrow)]
    inputs: Vec<&'a RawValue>,
    #[serde(default)]
    policy: SentPolicy,
    name: Option<String>,
    #[serde(default)]
    more: bool,
    webhook: Option<String>,
}

/// What a client sent: the inputs, and what it asks for.
#[derive(Debug, Default)]
struct Sent {
    inputs: Vec<Vec<u8>>,
    policy: SentPolicy,
    name: Option<String>,
    more: bool,
    webhook: Option<String>,
}

fn invalid(why: impl Into<String>) -> JobApiError {
    JobApiError::Invalid(why.into())
}

/// Refuses what the limits of a call and of a batch do not allow.
fn check(sent: Sent) -> Result<Sent, JobApiError> {
    let count = sent.inputs.len();
    if !(1..=ITEMS_OF_CALL_MAX).contains(&count) {
        return Err(invalid(format!("the call has {count} inputs; it may have 1 to {ITEMS_OF_CALL_MAX}")));
    }
    if sent.policy.has_delay() {
        return Err(invalid("a batch has no policy.delay; pause the queue, or submit the batch later"));
    }
    sent.webhook.as_deref().map_or(Ok(()), check_webhook)?;
    match &sent.name {
        Some(name) if name.is_empty() || name.len() > NAME_BYTES_MAX => {
            Err(invalid(format!("name has {} bytes; it may have 1 to {NAME_BYTES_MAX}", name.len())))
        }
        _ => Ok(sent),
    }
}

/// Reads a body of one JSON object.
fn read_object(body: &[u8]) -> Result<Sent, JobApiError> {
    let body: Body<'_> = serde_json::from_slice(body)
        .map_err(|error| invalid(format!("the body is no JSON object with `inputs`: {error}")))?;
    let Body { policy, name, more, webhook, .. } = body;
    let inputs = body.inputs.into_iter().map(|input| input.get().as_bytes().to_vec()).collect();
    check(Sent { inputs, policy, name, more, webhook })
}

/// Refuses what the query says of a batch whose body says it: it would be left out without a word.
fn check_query(query: Option<&str>) -> Result<(), JobApiError> {
    match ["name", "more", "webhook"].into_iter().find(|name| query_value(query, name).is_some()) {
        Some(name) => {
            Err(invalid(format!("{name} is a key of the body; it is in the query only if the inputs are lines")))
        }
        None => Ok(()),
    }
}

/// Reads an NDJSON body: each line is an input. The batch's name and `more` are in the query string.
fn read_lines(body: &[u8], query: Option<&str>) -> Result<Sent, JobApiError> {
    let mut inputs = Vec::new();
    for (number, line) in (1_u32..).zip(body.split(|byte| *byte == b'\n')) {
        let line = line.trim_ascii();
        if line.is_empty() {
            continue;
        }
        let input: &RawValue =
            serde_json::from_slice(line).map_err(|error| invalid(format!("line {number} is no JSON: {error}")))?;
        inputs.push(input.get().as_bytes().to_vec());
    }
    let more = match query_value(query, "more").as_deref() {
        None | Some("false") => false,
        Some("true") => true,
        Some(_) => return Err(invalid("more may be true or false")),
    };
    let (name, webhook) = (query_value(query, "name"), query_value(query, "webhook"));
    check(Sent { inputs, policy: SentPolicy::default(), name, more, webhook })
}

fn are_lines(headers: &HeaderMap) -> bool {
    let media_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let media_type = media_type.split(';').next().unwrap_or_default().trim();
    LINES.iter().any(|lines| media_type.eq_ignore_ascii_case(lines))
}

fn refusal(error: BatchError) -> Refusal {
    let caller = |kind, code| Refusal::new(kind, code, Blame::Caller, &error);
    match error {
        BatchError::NotFound => caller(RefusalKind::NotFound, "batch_not_found")
            .hint("a batch is kept for `jobs.result_s` after its end"),
        BatchError::Closed(_) => caller(RefusalKind::Conflict, "batch_closed")
            .permanent()
            .hint("a batch takes more items if it was made with `more`: true, until `close`, and at most a day after the last"),
        BatchError::Cancelled(_) => caller(RefusalKind::Conflict, "batch_cancelled").permanent(),
        BatchError::TooLarge { .. } => caller(RefusalKind::Malformed, "batch_too_large").permanent(),
        BatchError::OtherBody(_) => caller(RefusalKind::Conflict, "idempotency_key_reused").permanent(),
        BatchError::Submit(error) => JobApiError::from(error).into(),
    }
}

/// Reads the inputs of a call.
async fn read(
    inbound: &mut InboundRequest,
    names: &Names,
    bodies: &BodyBudget,
    limits: &TenantLimits,
) -> Result<NewBatch, Refusal> {
    let key = idempotency_key(&inbound.parts.headers)?;
    let body = whole_body::collect(inbound, names.0.clone(), bodies, BODY_BYTES_MAX).await?;
    let query = inbound.parts.uri.query();
    let sent = if are_lines(&inbound.parts.headers) {
        read_lines(&body, query)?
    } else {
        check_query(query)?;
        read_object(&body)?
    };
    let policy = sent.policy.check(limits)?;
    let items = NewItems { inputs: sent.inputs, idempotency_key: key, limits: job_limits(limits) };
    Ok(NewBatch { name: sent.name, policy, more: sent.more, webhook: sent.webhook, items })
}

/// Serves a request to `/v2/{function}/batches…`.
pub(super) async fn answer(
    jobs: &ServerJobs,
    bodies: &BodyBudget,
    inbound: &mut InboundRequest,
    target: &Target,
    call: BatchCall,
) -> Result<Response<ResponseBody>, Refusal> {
    let names = (target.version.tenant.clone(), target.version.function.clone());
    // It is set only here, so this cannot fail.
    let _ = inbound.served.set(names.clone());
    let names = &names;
    if !matches!(call, BatchCall::Make | BatchCall::Add(_)) && !http_body::Body::is_end_stream(&inbound.body) {
        discard_refused(&inbound.parts.headers, &mut inbound.body).await;
    }
    let limits = &target.tenant.limits;
    let query = inbound.parts.uri.query().map(str::to_owned);
    let query = query.as_deref();
    let view = match call {
        BatchCall::Make => {
            let new = read(inbound, names, bodies, limits).await?;
            jobs.make_batch(names, new).await
        }
        BatchCall::Add(id) => {
            let NewBatch { items, webhook, .. } = read(inbound, names, bodies, limits).await?;
            if webhook.is_some() {
                return Err(invalid("webhook is set when the batch is made").into());
            }
            jobs.add_items(names, id, items).await
        }
        BatchCall::Status(id) => jobs.batch(names, id),
        BatchCall::Close(id) => jobs.close_batch(names, id).await,
        BatchCall::Cancel(id) => jobs.cancel_batch(names, id).await,
        BatchCall::Retry(id) => {
            let retried = jobs.retry_batch(names, id).await.map_err(refusal)?;
            return Ok(json(ReplyStatus::Ok, &retried));
        }
        BatchCall::List => {
            let limit = query_number(query, "limit", 1, LIST_MAX, 100)?;
            let (batches, cursor) = jobs.batches(names, query_cursor(query)?, usize::try_from(limit).unwrap_or(1));
            let cursor = cursor.map(|id| id.to_string());
            return Ok(json(ReplyStatus::Ok, &Listed { batches, cursor }));
        }
        BatchCall::Results(id) => {
            let from = query_number(query, "from", 0, u64::from(ITEMS_MAX), 0)?;
            return results(jobs, names, id, u32::try_from(from).unwrap_or(ITEMS_MAX)).await;
        }
    };
    Ok(json(ReplyStatus::Ok, &view.map_err(refusal)?))
}

/// Streams the results from an item on.
async fn results(jobs: &ServerJobs, names: &Names, id: BatchId, from: u32) -> Result<Response<ResponseBody>, Refusal> {
    // What can be refused is refused before the head is sent.
    let first = jobs.batch_results(names, id, from).await.map_err(refusal)?;
    let (jobs, names) = (jobs.clone(), names.clone());
    let pages = futures::stream::try_unfold((Some(first), None), move |(read, next): (Option<ResultsPage>, _)| {
        let (jobs, names) = (jobs.clone(), names.clone());
        async move {
            let page = match (read, next) {
                (Some(page), _) => page,
                (None, Some(from)) => {
                    let page = jobs.batch_results(&names, id, from).await;
                    page.map_err(|error| BrokenOff(error.to_string()))?
                }
                (None, None) => return Ok::<_, BrokenOff>(None),
            };
            Ok(Some((Frame::data(Bytes::from(page.lines)), (None, page.next))))
        }
    });
    Ok(stream("application/x-ndjson", StreamBody::new(pages).boxed_unsync()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_found_by_path_and_method() {
        let id = BatchId::new();
        let find = |method: Method, rest: &str| BatchCall::find(rest, &method).map_err(|refusal| refusal.code);
        assert_eq!(find(Method::GET, ""), Ok(BatchCall::List));
        assert_eq!(find(Method::POST, ""), Ok(BatchCall::Make));
        assert_eq!(find(Method::GET, &id.to_string()), Ok(BatchCall::Status(id)));
        assert_eq!(find(Method::HEAD, &format!("{id}/results")), Ok(BatchCall::Results(id)));
        for (call, found) in [
            ("items", BatchCall::Add(id)),
            ("close", BatchCall::Close(id)),
            ("cancel", BatchCall::Cancel(id)),
            ("retry", BatchCall::Retry(id)),
        ] {
            assert_eq!(find(Method::POST, &format!("{id}/{call}")), Ok(found));
            assert_eq!(find(Method::GET, &format!("{id}/{call}")), Err("method_not_allowed"));
        }
        assert_eq!(find(Method::DELETE, ""), Err("method_not_allowed"));
        assert_eq!(find(Method::GET, "none"), Err("batch_not_found"));
        for unknown in ["{id}/x", "{id}/results/x", "/items/x"] {
            assert_eq!(find(Method::POST, &unknown.replace("{id}", &id.to_string())), Err("not_found"), "{unknown}");
        }
    }

    #[test]
    fn a_batch_that_would_be_too_large_is_refused_for_good_with_value_and_limit() {
        let refused = refusal(BatchError::TooLarge { items: 1_000_001 });
        assert_eq!(
            (refused.code, refused.kind, refused.blame),
            ("batch_too_large", RefusalKind::Malformed, Blame::Caller)
        );
        assert_eq!(refused.public, "the batch would have 1000001 items; the limit is 1000000");
        assert!(refused.permanent);
    }

    #[test]
    fn bodies_are_read_byte_for_byte_and_checked_at_the_limits() {
        let told = |read: Result<Sent, JobApiError>| match read {
            Ok(sent) => format!("{} {:?} {}", sent.inputs.len(), sent.name, sent.more),
            Err(error) => error.to_string(),
        };
        let object = |text: &str| told(read_object(text.as_bytes()));
        assert_eq!(object(r#"{"inputs": [1, {"a" : 2}], "name": "n", "more": true}"#), "2 Some(\"n\") true");
        assert_eq!(read_object(br#"{"inputs": [{"a" : 1.0}]}"#).unwrap().inputs, [br#"{"a" : 1.0}"#]);
        let many = |count: usize| format!("{{\"inputs\": [{}]}}", vec!["0"; count].join(","));
        assert_eq!(object(&many(5_000)), "5000 None false");
        for (body, problem) in [
            (many(5_001), "the call has 5001 inputs; it may have 1 to 5000"),
            (many(0), "the call has 0 inputs"),
            ("{}".into(), "missing field `inputs`"),
            (r#"{"inputs": [1], "input": 2}"#.into(), "unknown field `input`"),
            (r#"{"inputs": [1], "webhook": "ftp://example.org"}"#.into(), "it must be an absolute http or https URL"),
            (r#"{"inputs": [1], "name": ""}"#.into(), "name has 0 bytes; it may have 1 to 200"),
        ] {
            assert!(object(&body).contains(problem), "{}", object(&body));
        }
        assert!(check_query(Some("limit=1")).is_ok());
        assert!(check_query(Some("webhook=x")).unwrap_err().to_string().contains("webhook is a key of the body"));
        let lines = |text: &str, query| told(read_lines(text.as_bytes(), query));
        assert_eq!(lines("{\"a\":1}\r\n\n[2]\n\"x\"", Some("name=n&more=true")), "3 Some(\"n\") true");
        let read = read_lines(b"1", Some("webhook=https%3A%2F%2Fexample.org%2Fx")).unwrap();
        assert_eq!(read.webhook.as_deref(), Some("https://example.org/x"));
        assert!(lines("1", Some("webhook=x")).contains("absolute http or https URL"));
        assert!(lines("1\n{", None).contains("line 2 is no JSON"));
        assert!(lines("1", Some("more=yes")).contains("more may be true or false"));
        assert!(lines("", None).contains("the call has 0 inputs"));
    }
}
