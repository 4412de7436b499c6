//! The OpenAPI 3.1 document: paths from the [`table`](crate::control::operations), schemas from the types that are read
//! and written.

use super::openapi_jobs;
use crate::control::arguments::name_of;
use crate::control::operations::{OPERATIONS, Operation, QueryParameter, RequestBody, RequiredAccess};
use crate::jobs::schemas;
use crate::respond::{ReplyStatus, raw};
use gannet_base::body::ResponseBody;
use http::Response;
use serde_json::{Map, Value, json};
use std::sync::OnceLock;
use utoipa::OpenApi;

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Gannet",
        description = "The control API and the job API of a self-hosted serverless GPU.",
        version = "1"
    ),
    components(schemas(
        gannet_api::Problem,
        gannet_api::Whoami,
        gannet_api::Gpus,
        gannet_api::Prices,
        gannet_api::Limits,
        gannet_api::Usage,
        gannet_api::Audit,
        gannet_api::ReceiptView,
        gannet_api::Functions,
        gannet_api::FunctionDetail,
        gannet_api::Deployed,
        gannet_api::Deleted,
        gannet_api::Versions,
        gannet_api::Traffic,
        gannet_api::TrafficChoice,
        gannet_api::RollBack,
        gannet_api::TagChoice,
        gannet_api::Kernels,
        gannet_api::LogLines,
        gannet_api::Assets,
        gannet_api::AssetView,
        gannet_api::Secrets,
        gannet_api::SecretView,
        gannet_api::QueuesPaused,
        gannet_api::WebhookSecret,
        gannet_api::Tenants,
        gannet_api::NewTenant,
        gannet_api::TenantMade,
        gannet_api::TenantView,
        gannet_base::limits::LimitsChoice,
        gannet_base::limits::TenantLimits,
        gannet_api::Used,
        gannet_api::Keys,
        gannet_api::NewKey,
        gannet_api::KeyMade,
        gannet_api::Rotate,
    ))
)]
struct Schemas;

fn reference(schema: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{schema}") })
}

fn content(media_type: &str, schema: &Value) -> Value {
    json!({ media_type: { "schema": schema } })
}

/// Returns the schema of a name in braces in a path.
fn of_name(name: &str) -> Value {
    let dns = "^[a-z0-9]+(-[a-z0-9]+)*$";
    match name {
        "tenant" => json!({ "type": "string", "pattern": dns, "maxLength": 24 }),
        "name" => json!({ "type": "string", "pattern": dns, "maxLength": 32 }),
        "asset" => json!({ "type": "string", "pattern": "^[a-z0-9]([a-z0-9._-]*[a-z0-9])?$", "maxLength": 64 }),
        "secret" => json!({ "type": "string", "pattern": "^[A-Za-z_][A-Za-z0-9_]*$", "maxLength": 64 }),
        "tag" => json!({ "type": "string", "pattern": "^(v[a-z]|[a-uw-z])([a-z0-9-]*[a-z0-9])?$", "maxLength": 32 }),
        "id" => json!({ "type": "string", "format": "uuid" }),
        _ => json!({ "type": "string", "pattern": "^[0-9a-f]{16}$" }),
    }
}

fn of_argument(argument: &QueryParameter) -> Value {
    match argument {
        QueryParameter::Limit => json!({ "type": "integer", "minimum": 1, "maximum": 1000, "default": 100 }),
        QueryParameter::Cursor => json!({ "type": "string" }),
        QueryParameter::Day(_) => json!({ "type": "string", "format": "date" }),
        QueryParameter::OneOf(_, words) => json!({ "type": "string", "enum": words }),
        QueryParameter::Flag(_) => json!({ "type": "boolean", "default": false }),
        QueryParameter::Tag => of_name("tag"),
        QueryParameter::Request => of_name("id"),
        QueryParameter::Digest => json!({ "type": "string", "pattern": "^[0-9a-f]{64}$" }),
    }
}

fn parameters(operation: &Operation) -> Vec<Value> {
    let names = operation.path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'));
    let mut all: Vec<Value> =
        names.map(|name| json!({ "name": name, "in": "path", "required": true, "schema": of_name(name) })).collect();
    all.extend(operation.arguments.iter().map(
        |argument| json!({ "name": name_of(argument), "in": "query", "required": false, "schema": of_argument(argument) }),
    ));
    if operation.takes == RequestBody::Range {
        all.push(json!({
            "name": "content-range", "in": "header", "required": false,
            "schema": { "type": "string", "pattern": "^bytes [0-9]{1,6}-[0-9]{1,6}/[0-9]{1,7}$" },
            "description": "The range of the asset in the body. Without this header the body is the whole asset. `bytes */SIZE` with an empty body finishes an upload whose bytes have all arrived.",
        }));
    }
    let for_tenant = matches!(operation.access, RequiredAccess::Read | RequiredAccess::Deploy | RequiredAccess::Admin);
    if for_tenant {
        all.push(json!({
            "name": "x-gannet-tenant", "in": "header", "required": false, "schema": of_name("tenant"),
            "description": "The tenant for which the operator acts.",
        }));
    }
    all
}

/// The settings of a manifest that a patch may change, and their schemas.
const SETTINGS: [(&str, &str); 6] = [
    ("limits", "FunctionLimits"),
    ("jobs", "JobSettings"),
    ("scale", "Scale"),
    ("gpu", "GpuChoice"),
    ("http", "Http"),
    ("secrets", "SecretNames"),
];

/// Adds the schemas of merge patches of these settings, in which null removes a value.
fn add_patches(schemas: &mut Map<String, Value>) {
    for (_, name) in SETTINGS {
        let Some(mut patch) = schemas.get(name).cloned() else { continue };
        for property in patch.get_mut("properties").and_then(Value::as_object_mut).into_iter().flatten() {
            *property.1 = json!({ "oneOf": [{ "type": "null" }, property.1.take()] });
        }
        schemas.insert(format!("{name}Patch"), patch);
    }
}

fn request_body(takes: RequestBody) -> Option<Value> {
    let binary = json!({ "type": "string", "format": "binary" });
    match takes {
        RequestBody::Nothing => None,
        RequestBody::Json(schema) => {
            Some(json!({ "required": true, "content": content("application/json", &reference(schema)) }))
        }
        RequestBody::MaybeJson(schema) => {
            Some(json!({ "required": false, "content": content("application/json", &reference(schema)) }))
        }
        RequestBody::Bytes => {
            let value = json!({ "type": "string", "pattern": "^[ -~]+$", "maxLength": 4096 });
            Some(json!({ "required": true, "content": content("text/plain", &value) }))
        }
        RequestBody::Range => {
            let required = false;
            Some(json!({ "required": required, "content": content("application/octet-stream", &binary) }))
        }
        RequestBody::ManifestPatch => {
            let maybe = |schema: &Value| json!({ "oneOf": [{ "type": "null" }, schema] });
            let mut properties: Map<_, _> = SETTINGS
                .iter()
                .map(|(name, schema)| ((*name).to_owned(), maybe(&reference(&format!("{schema}Patch")))))
                .collect();
            // Printable, without = and /.
            let names = json!({ "type": "string", "pattern": "^[!-.0-<>-~]{1,64}$" });
            let text = json!({ "type": ["string", "null"] });
            let env = json!({ "type": "object", "additionalProperties": text, "propertyNames": names });
            properties.insert("env".into(), maybe(&env));
            let asset = json!({ "oneOf": [{ "type": "null" }, of_name("asset")] });
            let names = json!({ "type": "string", "pattern": "^[!-.0-<>-~]{1,64}$" });
            let assets =
                json!({ "type": "object", "additionalProperties": asset, "propertyNames": names, "maxProperties": 16 });
            properties.insert("assets".into(), maybe(&assets));
            let patch = json!({ "type": "object", "properties": properties, "additionalProperties": false });
            Some(json!({ "required": true, "content": content("application/json", &patch) }))
        }
        RequestBody::Component => {
            let parts = json!({
                "type": "object",
                "properties": {
                    "manifest": { "type": "string", "description": "gannet.toml" },
                    "component": { "type": "string", "format": "binary" },
                    "digest": { "type": "string", "pattern": "^[0-9a-f]{64}$",
                                "description": "Instead of component: the digest of one that was uploaded before." },
                },
                "additionalProperties": false,
            });
            let mut both = Map::new();
            both.insert("application/wasm".into(), json!({ "schema": binary }));
            both.insert("multipart/form-data".into(), json!({ "schema": parts }));
            Some(json!({ "required": true, "content": both }))
        }
    }
}

fn responses(operation: &Operation) -> Map<String, Value> {
    let mut all = Map::new();
    let id = json!({ "x-request-id": { "schema": { "type": "string", "format": "uuid" } } });
    for (status, schema) in operation.answers {
        let schema = if schema.is_empty() { json!({ "type": "object" }) } else { reference(schema) };
        let mut media = content("application/json", &schema);
        if let Some(media) = media.as_object_mut() {
            if operation.name == "getUsage" {
                media.insert("text/csv".into(), json!({ "schema": { "type": "string" } }));
            }
            if operation.name == "readLogs" {
                media.insert("text/event-stream".into(), json!({ "schema": { "type": "string" } }));
            }
        }
        all.insert(status.to_string(), json!({ "description": "Success.", "headers": id, "content": media }));
    }
    let problem = content("application/problem+json", &reference("Problem"));
    let mut refusals = vec![(400, "Malformed."), (500, "The server failed."), (503, "Unavailable; see Retry-After.")];
    if operation.access != RequiredAccess::Anyone {
        refusals.extend([
            (401, "The key is missing or not valid."),
            (403, "The key may not do this."),
            (404, "The resource does not exist."),
            (429, "A limit or a rate is used up; see Retry-After."),
        ]);
    }
    if operation.takes != RequestBody::Nothing {
        refusals.extend([
            (408, "The body arrived too slowly."),
            (413, "The body is too large."),
            (415, "The media type of the body is not supported."),
            (422, "The component cannot be built or served, or a value exceeds a limit of the tenant."),
        ]);
    }
    if operation.method != http::Method::GET {
        refusals.extend([(409, "It conflicts with the current state or another request."), (507, "The disk is full.")]);
    }
    for (status, description) in refusals {
        all.insert(status.to_string(), json!({ "description": description, "headers": id, "content": problem }));
    }
    all
}

/// Returns the OpenAPI document.
pub fn document() -> Value {
    let mut document = serde_json::to_value(Schemas::openapi()).unwrap_or_default();
    let mut paths: Map<String, Value> = Map::new();
    for operation in OPERATIONS {
        let mut operation_object = json!({
            "operationId": operation.name,
            "summary": operation.summary,
            "parameters": parameters(operation),
            "responses": responses(operation),
        });
        if let Some(fields) = operation_object.as_object_mut() {
            if let Some(body) = request_body(operation.takes) {
                fields.insert("requestBody".into(), body);
            }
            let needs = if operation.access == RequiredAccess::Anyone {
                json!([])
            } else {
                json!([{ "bearer": [] }, { "key": [] }])
            };
            fields.insert("security".into(), needs);
        }
        let path = paths.entry(format!("/api/v1/{}", operation.path)).or_insert_with(|| json!({}));
        if let Some(path) = path.as_object_mut() {
            path.insert(operation.method.as_str().to_ascii_lowercase(), operation_object);
        }
    }
    openapi_jobs::add_paths(&mut paths);
    if let Some(fields) = document.as_object_mut() {
        fields.insert("paths".into(), Value::Object(paths));
        let schemes = json!({
            "bearer": { "type": "http", "scheme": "bearer" },
            "key": { "type": "apiKey", "in": "header", "name": "x-gannet-key" },
        });
        if let Some(components) = fields.get_mut("components").and_then(Value::as_object_mut) {
            components.insert("securitySchemes".into(), schemes);
            if let Some(schemas) = components.get_mut("schemas").and_then(Value::as_object_mut) {
                add_patches(schemas);
                for (name, schema) in schemas::all() {
                    schemas.entry(name).or_insert(schema);
                }
            }
        }
    }
    document
}

/// Returns a response with the document, which is built only once.
pub(super) fn response() -> Response<ResponseBody> {
    static TEXT: OnceLock<bytes::Bytes> = OnceLock::new();
    let text = TEXT.get_or_init(|| serde_json::to_vec_pretty(&document()).unwrap_or_default().into());
    raw(ReplyStatus::Ok, "application/json", text.clone())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::jobs::operations::JOB_OPERATIONS;

    #[test]
    fn every_operation_is_in_the_document_and_every_reference_leads_somewhere() {
        let document = document();
        let operations: usize =
            document["paths"].as_object().unwrap().values().map(|p| p.as_object().unwrap().len()).sum();
        let of_jobs: usize = JOB_OPERATIONS.iter().map(|row| row.methods.len()).sum();
        assert_eq!(operations, OPERATIONS.len() + of_jobs);
        let own = serde_json::to_value(Schemas::openapi()).unwrap();
        let own = own["components"]["schemas"].as_object().unwrap();
        for (name, schema) in schemas::all() {
            assert!(own.get(&name).is_none_or(|own| *own == schema), "{name} has two meanings");
        }
        let mut names: Vec<&str> = Vec::new();
        for operation in
            document["paths"].as_object().unwrap().values().flat_map(|path| path.as_object().unwrap().values())
        {
            names.push(operation["operationId"].as_str().unwrap());
        }
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count, "each has a name of its own");
        let text = document.to_string();
        for reference in text.split("#/components/schemas/").skip(1) {
            let name = reference.split('"').next().unwrap();
            assert!(document["components"]["schemas"].get(name).is_some(), "{name}");
        }
        assert_eq!(document["openapi"], "3.1.0");
    }
}
