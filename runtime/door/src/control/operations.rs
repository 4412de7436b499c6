//! Every operation of the control API: method, path, who may, what it reads and answers. Requests are routed by this table, and
//! the OpenAPI document is made from it, so that neither knows an operation that the other does not.

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

/// Who may do it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequiredAccess {
    /// Whoever asks.
    Anyone,
    /// Any key.
    AnyKey,
    /// A key of the tenant with this scope, or the operator for a tenant.
    Read,
    /// The same.
    Deploy,
    /// The same.
    Admin,
    /// The operator.
    Operator,
    /// The operator, or a key of the tenant in the path with the scope `admin`.
    OperatorOrAdmin,
}

/// What a body is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestBody {
    /// None.
    Nothing,
    /// A component, or multipart with a manifest.
    Component,
    /// Bytes.
    Bytes,
    /// A part of an asset, or all of it.
    Range,
    /// JSON of this schema.
    Json(&'static str),
    /// JSON of this schema, or nothing.
    MaybeJson(&'static str),
    /// A JSON merge patch of the settings of a manifest.
    ManifestPatch,
}

/// A parameter of the query.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QueryParameter {
    /// So many at most.
    Limit,
    /// Where a page begins.
    Cursor,
    /// A day.
    Day(&'static str),
    /// One of some words.
    OneOf(&'static str, &'static [&'static str]),
    /// Yes or no.
    Flag(&'static str),
    /// A tag.
    Tag,
    /// A request's id.
    Request,
    /// SHA-256 in hex.
    Digest,
}

/// A row of the table.
#[derive(Debug)]
pub struct Operation {
    /// The operation.
    pub op: OperationId,
    /// Its name, in the document and in the audit log.
    pub name: &'static str,
    /// Its method.
    pub method: Method,
    /// Its path after `/api/v1/`.
    pub path: &'static str,
    /// Who may.
    pub access: RequiredAccess,
    /// What it does.
    pub summary: &'static str,
    /// Its arguments.
    pub arguments: &'static [QueryParameter],
    /// What it reads.
    pub takes: RequestBody,
    /// How it answers when all is well, and with which schema.
    pub answers: &'static [(u16, &'static str)],
}

macro_rules! table {
    ($( $op:ident $name:literal $method:ident $path:literal $access:ident $summary:literal $arguments:expr, $takes:expr, $answers:expr; )*) => {
        /// The table.
        pub const OPERATIONS: &[Operation] = &[ $( Operation {
            op: OperationId::$op, name: $name, method: Method::$method, path: $path, access: RequiredAccess::$access, summary: $summary,
            arguments: &$arguments, takes: $takes, answers: &$answers,
        }, )* ];
    };
}

use QueryParameter::{Cursor, Day, Digest, Flag, Limit, OneOf, Request, Tag};
use RequestBody::{Bytes, Component, Json, ManifestPatch, MaybeJson, Nothing, Range};

table! {
    Whoami "whoami" GET "whoami" AnyKey "Says whose key this is." [], Nothing, [(200, "Whoami")];
    OpenApi "openapi" GET "openapi.json" Anyone "This document." [], Nothing, [(200, "")];
    Gpus "listGpus" GET "gpus" AnyKey "The GPUs, their classes and whether they work." [], Nothing, [(200, "Gpus")];
    Prices "getPrices" GET "prices" AnyKey "What work costs." [], Nothing, [(200, "Prices")];
    Limits "getOwnLimits" GET "limits" Read "The tenant's limits, and what is used of them." [], Nothing, [(200, "Limits")];
    Usage "getUsage" GET "usage" Read "What was used and what it costs; as JSON, or as CSV in FOCUS columns."
        [Day("from"), Day("to"), OneOf("by", &["day", "function", "version"])], Nothing, [(200, "Usage")];
    Audit "listAudit" GET "audit" Admin "What was done through this API, newest first." [Limit, Cursor], Nothing, [(200, "Audit")];
    Receipt "getReceipt" GET "requests/{id}" Read "What a request took and costs." [], Nothing, [(200, "ReceiptView")];
    ListFunctions "listFunctions" GET "functions" Read "The functions." [Limit, Cursor], Nothing, [(200, "Functions")];
    GetFunction "getFunction" GET "functions/{name}" Read "A function." [], Nothing, [(200, "FunctionDetail")];
    Deploy "deployFunction" PUT "functions/{name}" Deploy "Deploys a version." [Flag("dry_run"), Flag("no_traffic"), Tag],
        Component, [(200, "Deployed"), (201, "Deployed")];
    Configure "configureFunction" PATCH "functions/{name}" Deploy
        "Makes a new version of the same bytes with other settings." [Flag("dry_run"), Flag("no_traffic"), Tag],
        ManifestPatch, [(200, "Deployed"), (201, "Deployed")];
    DeleteFunction "deleteFunction" DELETE "functions/{name}" Deploy "Deletes a function and all its versions." [], Nothing,
        [(200, "Deleted")];
    Versions "listVersions" GET "functions/{name}/versions" Read "The versions of a function." [], Nothing, [(200, "Versions")];
    GetTraffic "getTraffic" GET "functions/{name}/traffic" Read "How requests are split among versions." [], Nothing,
        [(200, "Traffic")];
    SetTraffic "setTraffic" PUT "functions/{name}/traffic" Deploy "Splits requests among versions." [], Json("Traffic"),
        [(200, "Traffic")];
    RollBack "rollBack" POST "functions/{name}/rollback" Deploy "Gives all requests to an earlier version." [],
        MaybeJson("RollBack"), [(200, "Traffic")];
    SetTag "setTag" PUT "functions/{name}/tags/{tag}" Deploy "Gives a version a tag of its own." [], Json("TagChoice"),
        [(200, "FunctionDetail")];
    DeleteTag "deleteTag" DELETE "functions/{name}/tags/{tag}" Deploy "Removes a tag." [], Nothing, [(200, "Deleted")];
    Kernels "listKernels" GET "functions/{name}/kernels" Read "The kernels of the current version, as they run." [], Nothing,
        [(200, "Kernels")];
    Logs "readLogs" GET "functions/{name}/logs" Read "What a function wrote; with follow=true as server-sent events."
        [Flag("follow"), Request], Nothing, [(200, "LogLines")];
    ListAssets "listAssets" GET "assets" Read "The assets." [Limit, Cursor], Nothing, [(200, "Assets")];
    GetAsset "getAsset" GET "assets/{asset}" Read "An asset, and how far an upload of it has come." [], Nothing,
        [(200, "AssetView")];
    PutAsset "putAsset" PUT "assets/{asset}" Deploy
        "Puts an asset, whole or in ranges that follow each other; or names bytes that are there already, by their digest."
        [Digest], Range, [(200, "AssetView"), (201, "AssetView"), (202, "AssetView")];
    DeleteAsset "deleteAsset" DELETE "assets/{asset}" Deploy
        "Takes away an asset's name; versions that were deployed with it keep it." [], Nothing, [(200, "Deleted")];
    ListSecrets "listSecrets" GET "secrets" Admin "The names of the secrets." [], Nothing, [(200, "Secrets")];
    SetSecret "setSecret" PUT "secrets/{secret}" Admin "Sets a secret; the body is its value." [], Bytes,
        [(200, "SecretView"), (201, "SecretView")];
    DeleteSecret "deleteSecret" DELETE "secrets/{secret}" Admin "Deletes a secret that no function names." [], Nothing,
        [(200, "Deleted")];
    ListTenants "listTenants" GET "tenants" Operator "The tenants." [Limit, Cursor], Nothing, [(200, "Tenants")];
    CreateTenant "createTenant" POST "tenants" Operator "Makes a tenant, with a key of full scope." [], Json("NewTenant"),
        [(201, "TenantMade")];
    GetTenant "getTenant" GET "tenants/{tenant}" Operator "A tenant." [], Nothing, [(200, "TenantView")];
    DeleteTenant "deleteTenant" DELETE "tenants/{tenant}" Operator
        "Deletes a tenant and everything that is its own; its usage and its audit log stay." [], Nothing, [(200, "Deleted")];
    Suspend "suspendTenant" POST "tenants/{tenant}/suspend" Operator "Lets nothing of a tenant run any more, at once." [], Nothing,
        [(200, "TenantView")];
    Resume "resumeTenant" POST "tenants/{tenant}/resume" Operator "Lets a tenant run again." [], Nothing, [(200, "TenantView")];
    GetLimits "getLimits" GET "tenants/{tenant}/limits" Operator "A tenant's limits, and what is used of them." [], Nothing,
        [(200, "Limits")];
    SetLimits "setLimits" PATCH "tenants/{tenant}/limits" Operator
        "Changes limits of a tenant; null brings the server's back. In force with the next request." [], Json("LimitsChoice"),
        [(200, "Limits")];
    ListKeys "listKeys" GET "tenants/{tenant}/keys" OperatorOrAdmin "A tenant's keys, without the keys themselves." [], Nothing,
        [(200, "Keys")];
    CreateKey "createKey" POST "tenants/{tenant}/keys" OperatorOrAdmin "Makes a key; it is told once." [], MaybeJson("NewKey"),
        [(201, "KeyMade")];
    RevokeKey "revokeKey" DELETE "tenants/{tenant}/keys/{key}" OperatorOrAdmin "Ends a key at once." [], Nothing, [(200, "Deleted")];
    RotateKey "rotateKey" POST "tenants/{tenant}/keys/{key}/rotate" OperatorOrAdmin
        "Makes a key in place of another, which is valid a while longer." [], MaybeJson("Rotate"), [(201, "KeyMade")];
}

/// What a method and a path lead to.
pub enum RouteMatch {
    /// An operation, and what stands for the names in braces.
    Operation(&'static Operation, Vec<String>),
    /// The path is known with other methods only.
    Methods(String),
    /// Nothing.
    Nothing,
}

/// What stands for the names in braces, if a path fits a template.
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
            if operation.method == *method {
                return RouteMatch::Operation(operation, names);
            }
            others.push(operation.method.as_str());
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
            matches!(find(&Method::POST, "functions/blur"), RouteMatch::Methods(allowed) if allowed == "GET, PUT, PATCH, DELETE")
        );
        for nothing in ["", "functions/", "functions/blur/", "functions/blur/tags", "function"] {
            assert!(matches!(find(&Method::GET, nothing), RouteMatch::Nothing), "{nothing}");
        }
        let mut seen = HashSet::new();
        assert!(OPERATIONS.iter().all(|o| seen.insert(o.name) && seen.insert(o.path) | !o.path.is_empty()));
    }
}
