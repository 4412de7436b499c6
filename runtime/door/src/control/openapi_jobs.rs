//! The part of the OpenAPI document about the job API. Its errors have a form of their own.

use crate::jobs::operations::{JOB_OPERATIONS, JobArgument, JobBody, JobOperation, JobRow};
use serde_json::{Map, Value, json};

fn reference(schema: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{schema}") })
}

/// Returns the schema of a name in braces in a path.
fn of_name(name: &str) -> Value {
    let dns = "^[a-z0-9]+(-[a-z0-9]+)*$";
    match name {
        "function" => json!({ "type": "string", "pattern": dns, "maxLength": 32 }),
        "tenant" => json!({ "type": "string", "pattern": dns, "maxLength": 24 }),
        "id" => json!({ "type": "string", "format": "uuid" }),
        "token" => json!({ "type": "string", "pattern": "^[A-Za-z0-9_-]{43}$" }),
        _ => json!({ "type": "string", "pattern": "^[a-z0-9]([a-z0-9._-]*[a-z0-9])?$", "maxLength": 64 }),
    }
}

/// Returns the name and the schema of an argument.
fn of_argument(argument: JobArgument) -> (&'static str, Value) {
    match argument {
        JobArgument::Wait => {
            ("wait", json!({ "type": "integer", "minimum": 1_000, "maximum": 300_000, "default": 90_000 }))
        }
        JobArgument::Limit => ("limit", json!({ "type": "integer", "minimum": 1, "maximum": 1_000, "default": 100 })),
        JobArgument::Cursor => ("cursor", json!({ "type": "string", "format": "uuid" })),
        JobArgument::State => ("status", reference("JobState")),
        JobArgument::Delivery => ("status", json!({ "type": "string", "enum": ["pending", "dead"] })),
        JobArgument::From => ("from", json!({ "type": "integer", "minimum": 0, "maximum": 1_000_000, "default": 0 })),
        JobArgument::Name => ("name", json!({ "type": "string", "minLength": 1, "maxLength": 200 })),
        JobArgument::More => ("more", json!({ "type": "boolean", "default": false })),
        JobArgument::Webhook => ("webhook", json!({ "type": "string", "format": "uri", "maxLength": 2_048 })),
    }
}

fn parameters(row: &JobRow) -> Vec<Value> {
    let names = row.path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'));
    let mut all: Vec<Value> =
        names.map(|name| json!({ "name": name, "in": "path", "required": true, "schema": of_name(name) })).collect();
    all.extend(row.arguments.iter().map(|argument| {
        let (name, schema) = of_argument(*argument);
        json!({ "name": name, "in": "query", "required": false, "schema": schema })
    }));
    if row.op != JobOperation::PostEvent {
        all.push(json!({
            "name": "x-gannet-tenant", "in": "header", "required": false, "schema": of_name("tenant"),
            "description": "The tenant for which the operator acts.",
        }));
    }
    if matches!(row.takes, JobBody::Lines(_)) || matches!(row.op, JobOperation::Run | JobOperation::RunSync) {
        all.push(json!({
            "name": "idempotency-key", "in": "header", "required": false,
            "schema": { "type": "string", "pattern": "^[!-~]([ -~]{0,253}[!-~])?$" },
            "description": "The same key with the same body gives the same answer, with another body 409.",
        }));
    }
    all
}

fn request_body(takes: JobBody) -> Option<Value> {
    let (required, content) = match takes {
        JobBody::Nothing => return None,
        JobBody::Json(schema) => (true, json!({ "application/json": { "schema": reference(schema) } })),
        JobBody::MaybeJson(schema) => (false, json!({ "application/json": { "schema": reference(schema) } })),
        JobBody::Lines(schema) => {
            let lines = json!({ "type": "string", "description": "An input, as JSON, on each line." });
            let both = json!({
                "application/json": { "schema": reference(schema) },
                "application/x-ndjson": { "schema": lines },
            });
            (true, both)
        }
        JobBody::Any => {
            let binary = json!({ "type": "string", "format": "binary" });
            (false, json!({ "application/json": { "schema": {} }, "application/octet-stream": { "schema": binary } }))
        }
    };
    Some(json!({ "required": required, "content": content }))
}

fn responses(row: &JobRow, method: &str) -> Map<String, Value> {
    let id = json!({ "x-request-id": { "schema": { "type": "string", "format": "uuid" } } });
    let (status, schema) = row.answer;
    let content = if schema.is_empty() {
        json!({ "application/x-ndjson": { "schema": { "type": "string" } } })
    } else {
        json!({ "application/json": { "schema": reference(schema) } })
    };
    let mut all = Map::new();
    all.insert(status.to_string(), json!({ "description": "Success.", "headers": id, "content": content }));
    let mut refusals = vec![
        (400, "An argument or the body is invalid."),
        (401, "The key, or the signature of an event, is missing or not valid."),
        (403, "The key may not do this, or the tenant is suspended."),
        (404, "There is no such function, job, batch, schedule or hook."),
        (429, "A limit or a rate is used up; see Retry-After."),
        (500, "The server failed."),
        (503, "Unavailable; see Retry-After."),
    ];
    if row.takes != JobBody::Nothing {
        refusals.extend([(408, "The body arrived too slowly."), (413, "The body is too large.")]);
    }
    if method != "GET" {
        refusals.extend([(409, "It conflicts with the current state."), (507, "The disk is full.")]);
    }
    let error = json!({ "application/json": { "schema": reference("JobError") } });
    for (status, description) in refusals {
        all.insert(status.to_string(), json!({ "description": description, "headers": id, "content": error }));
    }
    all
}

/// Adds the calls of the job API to the paths of the document.
pub(super) fn add_paths(paths: &mut Map<String, Value>) {
    for row in JOB_OPERATIONS {
        for (at, method) in row.methods.iter().enumerate() {
            let name = if at == 0 { row.name.to_owned() } else { format!("{}ByPost", row.name) };
            let needs =
                if row.op == JobOperation::PostEvent { json!([]) } else { json!([{ "bearer": [] }, { "key": [] }]) };
            let mut operation = json!({
                "operationId": name,
                "summary": row.summary,
                "tags": ["jobs"],
                "parameters": parameters(row),
                "responses": responses(row, method),
                "security": needs,
            });
            if let (Some(fields), Some(body)) = (operation.as_object_mut(), request_body(row.takes)) {
                fields.insert("requestBody".into(), body);
            }
            let path = paths.entry(row.path).or_insert_with(|| json!({}));
            if let Some(path) = path.as_object_mut() {
                path.insert(method.to_ascii_lowercase(), operation);
            }
        }
    }
}
