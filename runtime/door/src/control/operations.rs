//! The table of all operations of the control API: method, path, required access, request body and responses. Requests
//! are routed by this table and the OpenAPI document is made from it, so neither has an operation that the other lacks.

use http::Method;

/// An operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the table describes each")]
pub enum OperationId {
    Whoami,
    OpenApi,
    Gpus,
    Prices,
    Limits,
    Usage,
    Audit,
    Receipt,
    ListFunctions,
    GetFunction,
    Deploy,
    Configure,
    DeleteFunction,
    Versions,
    GetTraffic,
    SetTraffic,
    RollBack,
    SetTag,
    DeleteTag,
    Kernels,
    Logs,
    ListAssets,
    GetAsset,
    PutAsset,
    DeleteAsset,
    ListSecrets,
    SetSecret,
    DeleteSecret,
    PauseQueues,
    ResumeQueues,
    GetWebhookSecret,
    RotateWebhookSecret,
    ListTenants,
    CreateTenant,
    GetTenant,
    DeleteTenant,
    Suspend,
    Resume,
    GetLimits,
    SetLimits,
    ListKeys,
    CreateKey,
    RevokeKey,
    RotateKey,
}

/// Who may call an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequiredAccess {
    /// Anybody, also without a key.
    Anyone,
    /// Any valid key.
    AnyKey,
    /// A key of the tenant with the scope `read`, or the operator acting for a tenant.
    Read,
    /// A key of the tenant with the scope `deploy`, or the operator acting for a tenant.
    Deploy,
    /// A key of the tenant with the scope `admin`, or the operator acting for a tenant.
    Admin,
    /// The operator only.
    Operator,
    /// The operator, or a key of the tenant in the path with the scope `admin`.
    OperatorOrAdmin,
}

/// The request body of an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestBody {
    /// No body.
    Nothing,
    /// A component, or multipart with a manifest.
    Component,
    /// Any bytes.
    Bytes,
    /// A range of an asset, or all of it.
    Range,
    /// JSON of this schema.
    Json(&'static str),
    /// JSON of this schema, or no body.
    MaybeJson(&'static str),
    /// A JSON merge patch of the settings of a manifest.
    ManifestPatch,
}

/// A parameter of the query.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QueryParameter {
    /// The most items in a page.
    Limit,
    /// Where the page begins: the cursor of the page before.
    Cursor,
    /// A day, by the name of the parameter.
    Day(&'static str),
    /// One of these words.
    OneOf(&'static str, &'static [&'static str]),
    /// True or false.
    Flag(&'static str),
    /// A version's tag.
    Tag,
    /// A request's id.
    Request,
    /// A SHA-256 digest in hex.
    Digest,
}

/// A row of the table.
#[derive(Debug)]
pub struct Operation {
    /// The operation.
    pub op: OperationId,
    /// Its name in the OpenAPI document and in the audit log.
    pub name: &'static str,
    /// The HTTP method.
    pub method: Method,
    /// The path after `/api/v1/`, with names in braces.
    pub path: &'static str,
    /// Who may call it.
    pub access: RequiredAccess,
    /// Summary of the operation in the OpenAPI document.
    pub summary: &'static str,
    /// Its query parameters.
    pub arguments: &'static [QueryParameter],
    /// Its request body.
    pub takes: RequestBody,
    /// The statuses of its successful responses, and their schemas. An empty schema is any object.
    pub answers: &'static [(u16, &'static str)],
}

macro_rules! table {
    ($( $op:ident $name:literal $method:ident $path:literal $access:ident $summary:literal $arguments:expr, $takes:expr, $answers:expr; )*) => {
        /// All operations.
        pub const OPERATIONS: &[Operation] = &[ $( Operation {
            op: OperationId::$op, name: $name, method: Method::$method, path: $path, access: RequiredAccess::$access, summary: $summary,
            arguments: &$arguments, takes: $takes, answers: &$answers,
        }, )* ];
    };
}

use QueryParameter::{Cursor, Day, Digest, Flag, Limit, OneOf, Request, Tag};
use RequestBody::{Bytes, Component, Json, ManifestPatch, MaybeJson, Nothing, Range};

table! {
    Whoami "whoami" GET "whoami" AnyKey "Describes the key of the request." [], Nothing, [(200, "Whoami")];
    OpenApi "openapi" GET "openapi.json" Anyone "Returns this document." [], Nothing, [(200, "")];
    Gpus "listGpus" GET "gpus" AnyKey "Lists the GPUs, their classes and their health." [], Nothing, [(200, "Gpus")];
    Prices "getPrices" GET "prices" AnyKey "Returns the prices of work." [], Nothing, [(200, "Prices")];
    Limits "getOwnLimits" GET "limits" Read
        "Returns the tenant's limits, and how much of them is used." [], Nothing, [(200, "Limits")];
    Usage "getUsage" GET "usage" Read "Returns the usage and its cost, as JSON or as CSV with FOCUS columns."
        [Day("from"), Day("to"), OneOf("by", &["day", "function", "version"])], Nothing, [(200, "Usage")];
    Audit "listAudit" GET "audit" Admin
        "Lists the entries of the audit log, newest first." [Limit, Cursor], Nothing, [(200, "Audit")];
    Receipt "getReceipt" GET "requests/{id}" Read
        "Returns the receipt of a request: what it used and costs." [], Nothing, [(200, "ReceiptView")];
    ListFunctions "listFunctions" GET "functions" Read
        "Lists the functions." [Limit, Cursor], Nothing, [(200, "Functions")];
    GetFunction "getFunction" GET "functions/{name}" Read "Returns a function." [], Nothing, [(200, "FunctionDetail")];
    Deploy "deployFunction" PUT "functions/{name}" Deploy
        "Deploys a version."
        [Flag("dry_run"), Flag("no_traffic"), Tag], Component, [(200, "Deployed"), (201, "Deployed")];
    Configure "configureFunction" PATCH "functions/{name}" Deploy
        "Creates a version of the same component with other settings." [Flag("dry_run"), Flag("no_traffic"), Tag],
        ManifestPatch, [(200, "Deployed"), (201, "Deployed")];
    DeleteFunction "deleteFunction" DELETE "functions/{name}" Deploy
        "Deletes a function and all its versions." [], Nothing, [(200, "Deleted")];
    Versions "listVersions" GET "functions/{name}/versions" Read
        "Lists the versions of a function." [], Nothing, [(200, "Versions")];
    GetTraffic "getTraffic" GET "functions/{name}/traffic" Read
        "Returns how requests are split among versions." [], Nothing, [(200, "Traffic")];
    SetTraffic "setTraffic" PUT "functions/{name}/traffic" Deploy "Splits requests among versions." [], Json("TrafficChoice"),
        [(200, "Traffic")];
    RollBack "rollBack" POST "functions/{name}/rollback" Deploy "Sends all requests to an earlier version." [],
        MaybeJson("RollBack"), [(200, "Traffic")];
    SetTag "setTag" PUT "functions/{name}/tags/{tag}" Deploy "Assigns a tag to a version." [], Json("TagChoice"),
        [(200, "FunctionDetail")];
    DeleteTag "deleteTag" DELETE "functions/{name}/tags/{tag}" Deploy "Removes a tag." [], Nothing, [(200, "Deleted")];
    Kernels "listKernels" GET "functions/{name}/kernels" Read
        "Lists the kernels of the current version, as deployed and as they run." [], Nothing, [(200, "Kernels")];
    Logs "readLogs" GET "functions/{name}/logs" Read
        "Returns the log lines of a function; with follow=true as server-sent events."
        [Flag("follow"), Request], Nothing, [(200, "LogLines")];
    ListAssets "listAssets" GET "assets" Read "Lists the assets." [Limit, Cursor], Nothing, [(200, "Assets")];
    GetAsset "getAsset" GET "assets/{asset}" Read "Returns an asset, and the progress of an upload." [], Nothing,
        [(200, "AssetView")];
    PutAsset "putAsset" PUT "assets/{asset}" Deploy
        "Uploads an asset, whole or in consecutive ranges, or names bytes that are stored already, by their digest."
        [Digest], Range, [(200, "AssetView"), (201, "AssetView"), (202, "AssetView")];
    DeleteAsset "deleteAsset" DELETE "assets/{asset}" Deploy
        "Removes an asset's name; versions that were deployed with the asset keep it." [], Nothing, [(200, "Deleted")];
    ListSecrets "listSecrets" GET "secrets" Admin
        "Lists the secrets, without their values." [], Nothing, [(200, "Secrets")];
    SetSecret "setSecret" PUT "secrets/{secret}" Admin "Sets a secret; the body is its value." [], Bytes,
        [(200, "SecretView"), (201, "SecretView")];
    DeleteSecret "deleteSecret" DELETE "secrets/{secret}" Admin
        "Deletes a secret, unless a function names it." [], Nothing, [(200, "Deleted")];
    PauseQueues "pauseQueues" POST "queues/pause" Admin
        "Begins no further attempt of a job of any function; jobs are accepted and wait." [], Nothing,
        [(200, "QueuesPaused")];
    ResumeQueues "resumeQueues" POST "queues/resume" Admin
        "Lets the queues go on, but for those that were paused by themselves." [], Nothing, [(200, "QueuesPaused")];
    GetWebhookSecret "getWebhookSecret" GET "webhooks/secret" Admin
        "Returns the secret that webhooks are signed with; makes it if there is none." [], Nothing,
        [(200, "WebhookSecret")];
    RotateWebhookSecret "rotateWebhookSecret" POST "webhooks/secret/rotate" Admin
        "Replaces the secret that webhooks are signed with; the one before signs too for a day." [], Nothing,
        [(200, "WebhookSecret")];
    ListTenants "listTenants" GET "tenants" Operator "Lists the tenants." [Limit, Cursor], Nothing, [(200, "Tenants")];
    CreateTenant "createTenant" POST "tenants" Operator
        "Creates a tenant, with a key that has all scopes." [], Json("NewTenant"), [(201, "TenantMade")];
    GetTenant "getTenant" GET "tenants/{tenant}" Operator "Returns a tenant." [], Nothing, [(200, "TenantView")];
    DeleteTenant "deleteTenant" DELETE "tenants/{tenant}" Operator
        "Deletes a tenant and everything that it owns; its usage and its audit log are kept."
        [], Nothing, [(200, "Deleted")];
    Suspend "suspendTenant" POST "tenants/{tenant}/suspend" Operator
        "Suspends a tenant at once: ends its running requests and refuses new ones." [], Nothing, [(200, "TenantView")];
    Resume "resumeTenant" POST "tenants/{tenant}/resume" Operator
        "Resumes a suspended tenant." [], Nothing, [(200, "TenantView")];
    GetLimits "getLimits" GET "tenants/{tenant}/limits" Operator
        "Returns a tenant's limits, and how much of them is used." [], Nothing, [(200, "Limits")];
    SetLimits "setLimits" PATCH "tenants/{tenant}/limits" Operator
        "Changes limits of a tenant, from the next request on; null restores the server's limit."
        [], Json("LimitsChoice"), [(200, "Limits")];
    ListKeys "listKeys" GET "tenants/{tenant}/keys" OperatorOrAdmin
        "Lists a tenant's keys, without their texts." [], Nothing, [(200, "Keys")];
    CreateKey "createKey" POST "tenants/{tenant}/keys" OperatorOrAdmin
        "Creates a key; its text is returned only this once." [], MaybeJson("NewKey"), [(201, "KeyMade")];
    RevokeKey "revokeKey" DELETE "tenants/{tenant}/keys/{key}" OperatorOrAdmin
        "Revokes a key at once." [], Nothing, [(200, "Deleted")];
    RotateKey "rotateKey" POST "tenants/{tenant}/keys/{key}/rotate" OperatorOrAdmin
        "Replaces a key by a new one; the old key stays valid for overlap_s seconds."
        [], MaybeJson("Rotate"), [(201, "KeyMade")];
}

/// What [`find`] finds for a method and a path.
pub enum RouteMatch {
    /// An operation, and the values of the names in braces, in order.
    Operation(&'static Operation, Vec<String>),
    /// The path exists only with these methods, separated by commas.
    Methods(String),
    /// The path does not exist.
    Nothing,
}

/// Returns the values of the names in braces if a path matches a template.
fn captures(template: &str, path: &str) -> Option<Vec<String>> {
    let (mut names, mut parts) = (Vec::new(), path.split('/'));
    for wanted in template.split('/') {
        let part = parts.next()?;
        if wanted.starts_with('{') {
            if part.is_empty() {
                return None;
            }
            names.push(part.to_owned());
        } else if wanted != part {
            return None;
        }
    }
    parts.next().is_none().then_some(names)
}

/// Finds an operation. `path` is what follows `/api/v1/`.
pub fn find(method: &Method, path: &str) -> RouteMatch {
    let mut others = Vec::new();
    for operation in OPERATIONS {
        if let Some(names) = captures(operation.path, path) {
            // HEAD is GET without the body of the response (RFC 9110, 9.3.2).
            if operation.method == *method || (*method == Method::HEAD && operation.method == Method::GET) {
                return RouteMatch::Operation(operation, names);
            }
            others.push(operation.method.as_str());
            if operation.method == Method::GET {
                others.push("HEAD");
            }
        }
    }
    if others.is_empty() { RouteMatch::Nothing } else { RouteMatch::Methods(others.join(", ")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn a_path_leads_to_one_operation_and_other_methods_are_named() {
        assert!(
            matches!(find(&Method::PUT, "functions/blur/tags/next"), RouteMatch::Operation(o, names) if o.op == OperationId::SetTag && names == ["blur", "next"])
        );
        assert!(
            matches!(find(&Method::POST, "functions/blur"), RouteMatch::Methods(allowed) if allowed == "GET, HEAD, PUT, PATCH, DELETE")
        );
        for nothing in ["", "functions/", "functions/blur/", "functions/blur/tags", "function"] {
            assert!(matches!(find(&Method::GET, nothing), RouteMatch::Nothing), "{nothing}");
        }
        let mut seen = HashSet::new();
        assert!(OPERATIONS.iter().all(|o| seen.insert(o.name) && seen.insert(o.path) | !o.path.is_empty()));
    }
}
