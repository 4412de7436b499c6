//! HTTP as the commands need it: sends one request and returns the response. A refusal becomes a failure with the
//! server's own text.

use crate::answer::Answer;
use crate::connection::Connection;
use crate::failure::Failure;
use crate::proxy;
use gannet_api::{Problem, Whoami};
use gannet_base::headers;
use gannet_base::refusal::Blame;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::path::Path;
use std::time::Duration;
use ureq::http::{Request, Response};
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, parse_pem};
use ureq::{Agent, AsSendBody, Body};

/// Maximum size of a response body of the control API.
const ANSWER_BYTES_MAX: u64 = 64 << 20;

/// An HTTP client for one server, with a key and a tenant.
pub struct Client {
    agent: Agent,
    connection: Connection,
}

impl Client {
    /// Makes a client. It connects when the first request is sent.
    pub fn new(connection: &Connection) -> Result<Self, Failure> {
        let connection = connection.resolved();
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .timeout_connect(Some(Duration::from_secs(5)))
            .proxy(proxy::for_server(&connection.url())?)
            .max_redirects(0);
        let config = match &connection.ca_file {
            Some(path) => config.tls_config(TlsConfig::builder().root_certs(roots(path)?).build()),
            None => config,
        };
        Ok(Self { agent: config.build().into(), connection })
    }

    /// Fetches all pages of a list and returns them as one. Each page has a list of the name `list`, and a `cursor` that
    /// is null on the last one.
    pub fn get_all_pages<T: DeserializeOwned>(&self, path: &str, list: &str) -> Result<Answer<T>, Failure> {
        let (mut items, mut cursor) = (Vec::new(), String::new());
        loop {
            let path = with_query(&format!("/api/v1/{path}"), &[("limit", "1000"), ("cursor", &cursor)]);
            let mut page = read_json(&mut self.successful("GET", &path, &[], ())?)?;
            if let Some(Value::Array(more)) = page.get_mut(list).map(Value::take) {
                items.extend(more);
            }
            match page.get("cursor").and_then(Value::as_str) {
                Some(next) => next.clone_into(&mut cursor),
                None => return Ok(Answer::new(serde_json::json!({ list: items }))),
            }
        }
    }

    /// Returns the tenant that the requests are for: the one of `--tenant`, else the one that the key belongs to.
    pub fn tenant(&self) -> Result<String, Failure> {
        if let Some(tenant) = &self.connection.tenant {
            return Ok(tenant.clone());
        }
        let whoami = self.get::<Whoami>("whoami")?.view()?;
        whoami.tenant.ok_or_else(|| Failure::usage("the operator key needs --tenant"))
    }

    /// Sends a request to a path of the server. Returns the response, whatever its status.
    pub fn send(
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
            let nobody_answers = match &error {
                ureq::Error::ConnectionFailed | ureq::Error::HostNotFound => true,
                ureq::Error::Timeout(which) => matches!(which, ureq::Timeout::Connect | ureq::Timeout::Resolve),
                ureq::Error::Io(error) => error.kind() == std::io::ErrorKind::ConnectionRefused,
                _ => false,
            };
            let failure = Failure::server(format!("no response from {}", self.connection.url())).because(error);
            if nobody_answers {
                failure.hint("is the server running? `gannet serve --dev` starts one")
            } else {
                failure
            }
        })
    }

    /// Sends a request to a path of the server. Returns the response if it is a success.
    pub fn successful(
        &self,
        method: &str,
        path: &str,
        headers: &[(String, String)],
        body: impl AsSendBody,
    ) -> Result<Response<Body>, Failure> {
        let mut response = self.send(method, path, headers, body)?;
        if response.status().is_success() { Ok(response) } else { Err(problem(&mut response)) }
    }

    /// Sends a request to a path of the control API.
    fn call(
        &self,
        method: &str,
        path: &str,
        headers: &[(String, String)],
        body: impl AsSendBody,
    ) -> Result<Response<Body>, Failure> {
        self.successful(method, &format!("/api/v1/{path}"), headers, body)
    }

    /// Reads a resource of the control API.
    pub fn get<T: DeserializeOwned>(&self, path: &str) -> Result<Answer<T>, Failure> {
        read_answer(&mut self.call("GET", path, &[], ())?)
    }

    /// Sends a POST without a body to the control API.
    pub fn post_empty(&self, path: &str) -> Result<(), Failure> {
        self.call("POST", path, &[], ()).map(drop)
    }

    /// Sends a DELETE to the control API.
    pub fn delete(&self, path: &str) -> Result<(), Failure> {
        self.call("DELETE", path, &[], ()).map(drop)
    }

    /// Sends JSON to the control API.
    pub fn send_json<T: DeserializeOwned>(
        &self,
        method: &str,
        path: &str,
        body: &impl Serialize,
    ) -> Result<Answer<T>, Failure> {
        let body = serde_json::to_string(body)
            .map_err(|error| Failure::usage("the request cannot be written as JSON").because(error))?;
        read_answer(&mut self.send_typed(method, path, "application/json", &body)?)
    }

    /// Sends plain text to the control API.
    pub fn send_text(&self, method: &str, path: &str, body: &str) -> Result<(), Failure> {
        self.send_typed(method, path, "text/plain", body).map(drop)
    }

    fn send_typed(&self, method: &str, path: &str, media_type: &str, body: &str) -> Result<Response<Body>, Failure> {
        self.call(method, path, &[("content-type".to_owned(), media_type.to_owned())], body)
    }
}

/// Escapes a name, so that it is one segment of a path whatever it contains.
pub fn segment(name: &str) -> String {
    // The rest of what RFC 3986 allows unescaped, and `@`, which separates a function from a tag.
    const ESCAPED: AsciiSet = NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~').remove(b'@');
    if matches!(name, "." | "..") {
        return name.replace('.', "%2E");
    }
    utf8_percent_encode(name, &ESCAPED).to_string()
}

/// Adds a query to a path.
pub fn with_query(path: &str, pairs: &[(&str, &str)]) -> String {
    let query = form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs).finish();
    format!("{path}?{query}")
}

/// Reads the certificates in a file.
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
        return Err(failed(&"the file contains no certificate"));
    }
    Ok(RootCerts::from(certificates))
}

/// Reads a whole body.
pub fn read_body(response: &mut Response<Body>) -> Result<Vec<u8>, Failure> {
    let body = response.body_mut().with_config().limit(ANSWER_BYTES_MAX).read_to_vec();
    body.map_err(|error| Failure::server("the response broke off").because(error))
}

/// Reads a whole body as JSON.
fn read_json(response: &mut Response<Body>) -> Result<Value, Failure> {
    let bytes = read_body(response)?;
    serde_json::from_slice(&bytes).map_err(|error| Failure::server("the response is not JSON").because(error))
}

/// Reads a whole body as a response of the control API.
pub fn read_answer<T: DeserializeOwned>(response: &mut Response<Body>) -> Result<Answer<T>, Failure> {
    read_json(response).map(Answer::new)
}

/// Reads the body of a refusal and returns it as a failure.
pub fn problem(response: &mut Response<Body>) -> Failure {
    let status = response.status();
    let body = read_body(response).unwrap_or_default();
    match serde_json::from_slice::<Problem>(&body) {
        Ok(problem) => {
            let what = format!("{} ({})", problem.detail, problem.code);
            let is_platform = problem.fault == Blame::Platform;
            let mut failure = if is_platform { Failure::server(what) } else { Failure::failed(what) };
            if let Some(hint) = problem.hint {
                failure = failure.hint(hint);
            }
            failure.because(format!("status {status}, request {}", problem.request_id))
        }
        Err(_) => {
            let what = format!("the server responded with status {status}");
            if status.is_server_error() { Failure::server(what) } else { Failure::failed(what) }
        }
    }
}
