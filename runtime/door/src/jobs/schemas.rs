//! The schemas of the bodies of the job API, for the OpenAPI document.

use super::{batches, health, hooks, inbound, schedules, webhooks};
use serde_json::{Map, Value, json};
use utoipa::OpenApi;

#[derive(OpenApi)]
#[openapi(components(schemas(
    super::Changed,
    super::Purged,
    super::Paused,
    super::Listed,
    gannet_jobs::job::State,
    gannet_jobs::runner::WaitReason,
    gannet_jobs::view::StatusView,
    gannet_jobs::view::StreamView,
    gannet_jobs::view::StreamPart,
    gannet_jobs::view::JobCounts,
    gannet_jobs::batch::BatchState,
    gannet_jobs::batch::Counts,
    gannet_jobs::service::BatchView,
    gannet_jobs::service::RetriedItems,
    gannet_jobs::service::DeliveryStatus,
    gannet_jobs::service::DeliveryView,
    gannet_jobs::service::HookView,
    gannet_jobs::hook::record::NewHook,
    gannet_jobs::hook::signed::Verify,
    gannet_base::manifest::Missed,
    gannet_base::manifest::Overlap,
    batches::Listed,
    health::Health,
    health::WorkerCounts,
    hooks::Listed,
    hooks::Made,
    inbound::Accepted,
    schedules::ScheduleView,
    schedules::SkippedView,
    schedules::Schedules,
    schedules::Deleted,
    schedules::Started,
    webhooks::Listed,
    webhooks::Dropped,
)))]
struct Schemas;

/// Returns the schemas that are written by hand: of errors, and of bodies whose parts are read as they were sent.
fn written() -> [(&'static str, Value); 6] {
    let any = json!({ "type": ["object", "array", "string", "number", "boolean"] });
    let policy = json!({
        "type": "object",
        "properties": {
            "executionTimeout": { "type": ["integer", "null"], "minimum": 5_000, "maximum": 604_800_000,
                                  "description": "Milliseconds that one attempt may take." },
            "ttl": { "type": ["integer", "null"], "minimum": 10_000, "maximum": 604_800_000,
                     "description": "Milliseconds from the submission until the job is given up." },
            "delay": { "type": ["integer", "null"], "minimum": 0, "description": "Milliseconds until the first attempt may begin; at most `ttl`. Batches have none." },
            "lowPriority": { "type": ["boolean", "null"], "description": "Whether other jobs go first." },
        },
    });
    let webhook = json!({ "type": ["string", "null"], "format": "uri", "maxLength": 2048,
                          "description": "The http or https URL that is told about the end." });
    let inputs = json!({ "type": "array", "items": any, "minItems": 1, "maxItems": 5_000 });
    let name = json!({ "type": ["string", "null"], "minLength": 1, "maxLength": 200 });
    let batch = json!({ "inputs": inputs, "policy": policy, "name": name, "more": { "type": "boolean" },
                        "webhook": webhook });
    let dns = "^[a-z0-9]([a-z0-9._-]*[a-z0-9])?$";
    [
        (
            "JobError",
            json!({
                "type": "object",
                "required": ["error", "code", "fault", "request_id"],
                "properties": {
                    "error": { "type": "string" },
                    "code": { "type": "string", "pattern": "^[a-z_0-9]+$" },
                    "fault": { "type": "string", "enum": ["caller", "function", "platform"] },
                    "hint": { "type": ["string", "null"] },
                    "request_id": { "type": "string", "format": "uuid" },
                },
            }),
        ),
        (
            "JobRequest",
            json!({
                "type": "object",
                "required": ["input"],
                "properties": { "input": any, "webhook": webhook, "policy": policy },
            }),
        ),
        (
            "BatchRequest",
            json!({ "type": "object", "required": ["inputs"], "properties": batch,
                                 "additionalProperties": false }),
        ),
        (
            "ItemsRequest",
            json!({ "type": "object", "required": ["inputs"], "properties": { "inputs": inputs },
                                 "additionalProperties": false }),
        ),
        (
            "ScheduleRequest",
            json!({
                "type": "object",
                "required": ["name", "cron"],
                "properties": {
                    "name": { "type": "string", "pattern": dns, "maxLength": 64 },
                    "cron": { "type": "string", "maxLength": 128 },
                    "timezone": { "type": "string", "maxLength": 128 },
                    "path": { "type": "string", "maxLength": 1024 },
                    "input": {},
                    "missed": { "type": "string", "enum": ["one", "none"] },
                    "overlap": { "type": "string", "enum": ["skip", "queue", "allow"] },
                },
                "additionalProperties": false,
            }),
        ),
        (
            "RotateHook",
            json!({
                "type": "object",
                "properties": { "secret": { "type": ["boolean", "string", "null"] } },
                "additionalProperties": false,
            }),
        ),
    ]
}

/// Returns all schemas, by name.
pub(crate) fn all() -> Map<String, Value> {
    let mut document = serde_json::to_value(Schemas::openapi()).unwrap_or_default();
    let made = document.pointer_mut("/components/schemas").and_then(Value::as_object_mut).map(std::mem::take);
    let mut all = made.unwrap_or_default();
    all.extend(written().map(|(name, schema)| (name.to_owned(), schema)));
    all
}
