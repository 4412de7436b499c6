//! HTTP as the verbs need it: one request, an answer, errors in the server's own words.

use crate::cli::{Connection, Failure};
use gannet_base::headers;
use serde::Deserialize;
use serde_json::Value;
use std::path::Path;
use std::time::Duration;
use ureq::http::{Request, Response};
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, parse_pem};
use ureq::{Agent, AsSendBody, Body};

/// A response body that is not a function's is small.
const ANSWER_BYTES_MAX: u64 = 64 << 20;

/// A problem as the server writes it.
#[derive(Debug, Deserialize)]
struct Problem {
    code: String,
    fault: String,
    detail: String,
    hint: Option<String>,
    request_id: Option<String>,
}

pub(super) struct Client {
    agent: Agent,
    connection: Connection,
}

impl Client {
    pub(super) fn new(connection: &Connection) -> Result<Self, Failure> {
        let connection = connection.resolved();
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .timeout_connect(Some(Duration::from_secs(5)))
            .max_redirects(0);
        let config = match &connection.ca_file {
            Some(path) => config.tls_config(TlsConfig::builder().root_certs(roots(path)?).build()),
            None => config,
        };
        Ok(Self { agent: config.build().into(), connection })
    }

    /// All pages of a list.
    pub(super) fn pages(&self, path: &str, list: &str) -> Result<Value, Failure> {
        let (mut items, mut cursor) = (Vec::new(), String::new());
        loop {
            let mut page = self.get(&format!("{path}?limit=1000&cursor={cursor}"))?;
            if let Some(Value::Array(more)) = page.get_mut(list).map(Value::take) {
                items.extend(more);
            }
            match page.get("cursor").and_then(Value::as_str) {
                Some(next) => next.clone_into(&mut cursor),
                None => return Ok(serde_json::json!({ list: items })),
            }
        }
    }

    /// Whose key this is: the operator names the tenant, a tenant's key says it itself.
    pub(super) fn tenant(&self) -> Result<String, Failure> {
        if let Some(tenant) = &self.connection.tenant {
            return Ok(tenant.clone());
        }
        let whoami = self.get("whoami")?;
        match whoami.get("tenant").and_then(Value::as_str) {
            Some(tenant) => Ok(tenant.to_owned()),
            None => Err(Failure::usage("the operator key needs --tenant")),
        }
    }

    /// Sends a request to a path of the server. Any status is an answer.
    pub(super) fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(String, String)],
        body: impl AsSendBody,
    ) -> Result<Response<Body>, Failure> {
        let url = format!("{}{path}", self.connection.url().trim_end_matches('/'));
        let mut request = Request::builder().method(method).uri(&url);
        if let Some(key) = &self.connection.key {
            request = request.header(headers::KEY.as_str(), key);
        }
        if let Some(tenant) = &self.connection.tenant {
            request = request.header(headers::TENANT.as_str(), tenant);
        }
        for (name, value) in headers {
            request = request.header(name, value);
        }
        let request =
            request.body(body).map_err(|error| Failure::usage("the request cannot be sent").because(error))?;
        self.agent.run(request).map_err(|error| {
            Failure::server(format!("no answer from {}", self.connection.url()))
                .because(error)
                .hint("is the server running? `gannet serve --dev` starts one")
        })
    }

    /// Sends a control request and reads its JSON.
    pub(super) fn control(
        &self,
        method: &str,
        path: &str,
        headers: &[(String, String)],
        body: impl AsSendBody,
    ) -> Result<Value, Failure> {
        let mut response = self.send(method, &format!("/api/v1/{path}"), headers, body)?;
        if !response.status().is_success() {
            return Err(problem(&mut response));
        }
        let text = read(&mut response)?;
        serde_json::from_slice(&text).map_err(|error| Failure::server("the answer is not JSON").because(error))
    }

    pub(super) fn get(&self, path: &str) -> Result<Value, Failure> {
        self.control("GET", path, &[], ())
    }
}

/// The certificates in a file.
fn roots(path: &Path) -> Result<RootCerts, Failure> {
    let failed = |why: &dyn std::fmt::Display| {
        Failure::usage(format!("cannot read certificates from {}", path.display())).because(why)
    };
    let bytes = std::fs::read(path).map_err(|error| failed(&error))?;
    let mut certificates: Vec<Certificate<'static>> = Vec::new();
    for item in parse_pem(&bytes) {
        if let PemItem::Certificate(certificate) = item.map_err(|error| failed(&error))? {
            certificates.push(certificate);
        }
    }
    if certificates.is_empty() {
        return Err(failed(&"there is none in it"));
    }
    Ok(RootCerts::from(certificates))
}

/// Reads a body whole.
pub(super) fn read(response: &mut Response<Body>) -> Result<Vec<u8>, Failure> {
    let body = response.body_mut().with_config().limit(ANSWER_BYTES_MAX).read_to_vec();
    body.map_err(|error| Failure::server("the answer broke off").because(error))
}

/// What a refusal says, as a failure.
pub(super) fn problem(response: &mut Response<Body>) -> Failure {
    let status = response.status();
    let text = read(response).unwrap_or_default();
    match serde_json::from_slice::<Problem>(&text) {
        Ok(problem) => {
            let code = if problem.fault == "platform" { 3 } else { 1 };
            let mut failure = Failure::new(code, format!("{} ({})", problem.detail, problem.code));
            failure.hint = problem.hint;
            if let Some(id) = problem.request_id {
                failure.causes.push(format!("status {status}, request {id}"));
            }
            failure
        }
        Err(_) => Failure::new(if status.is_server_error() { 3 } else { 1 }, format!("the server answered {status}")),
    }
}
