//! HTTP as the commands need it: sends one request and returns the response. A refusal becomes a failure with the
//! server's own text.

use crate::answer::Answer;
use crate::connection::Connection;
use crate::failure::Failure;
use crate::pinned_tls::PinnedTls;
use crate::proxy;
use gannet_api::{Problem, Whoami};
use gannet_base::headers;
use gannet_base::refusal::Blame;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;
use ureq::http::{Request, Response, Uri};
use ureq::unversioned::resolver::DefaultResolver;
use ureq::unversioned::transport::{ConnectProxyConnector, Connector, TcpConnector};
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
        Self::resolved(connection.resolved()?)
    }

    /// Makes a client for the address at which the server serves functions: the `functions_url` of whoami, or this
    /// client's own address if there is none.
    pub fn for_functions(self, functions_url: Option<&str>) -> Result<Self, Failure> {
        let Some(told) = functions_url else { return Ok(self) };
        let own = self.connection.url();
        let wrong = |why: &str| {
            Failure::failed(format!("the server's functions are at {told}, {why}"))
                .hint("the operator can set `public_url` in the server's file")
        };
        let (own, mut url): (Uri, Uri) = match (own.parse(), told.parse()) {
            (Ok(own), Ok(url)) => (own, url),
            _ => return Err(wrong("which is not a valid URL")),
        };
        // An unspecified address means all addresses of the server, so the client uses the host that it already has.
        if host_of(&url).parse().is_ok_and(|address: IpAddr| address.is_unspecified()) {
            let port = url.port_u16().map_or_else(String::new, |port| format!(":{port}"));
            let moved = format!("{}://{}{port}", url.scheme_str().unwrap_or("http"), own.host().unwrap_or_default());
            url = moved.parse().map_err(|_| wrong("which is not a valid URL"))?;
        }
        // The same as before: encrypted, or within this machine.
        let is_private = |url: &Uri| url.scheme_str() == Some("https") || proxy::is_loopback(host_of(url));
        if is_private(&own) && !is_private(&url)
            || own.scheme_str() == Some("https") && url.scheme_str() != Some("https")
        {
            return Err(wrong("where the key would be sent without encryption"));
        }
        let server = Some(url.to_string().trim_end_matches('/').to_owned());
        Self::resolved(Connection { server, ..self.connection })
    }

    fn resolved(connection: Connection) -> Result<Self, Failure> {
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .timeout_connect(Some(Duration::from_secs(5)))
            .proxy(proxy::for_server(&connection.url())?)
            .max_redirects(0);
        let config = config.build();
        let agent = match &connection.ca_file {
            None => config.into(),
            Some(path) => {
                let tls = pinned_tls(path)?;
                let chain = ().chain(ConnectProxyConnector::default()).chain(TcpConnector::default()).chain(tls);
                Agent::with_parts(config, chain, DefaultResolver::default())
            }
        };
        Ok(Self { agent, connection })
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

    /// Returns the tenant that the requests are for (the one of `--tenant`, else the one that the key belongs to), and
    /// the URL of its functions, if they have another address than this.
    pub fn tenant_and_functions(&self) -> Result<(String, Option<String>), Failure> {
        let mut response = self.send("GET", "/api/v1/whoami", &[], ())?;
        let is_ok = response.status().is_success();
        match &self.connection.tenant {
            // A public function needs no key, and where functions are, the control API need not be.
            Some(tenant) if !is_ok => Ok((tenant.clone(), None)),
            None if !is_ok => Err(problem(&mut response)),
            given => {
                let whoami = read_answer::<Whoami>(&mut response)?.view()?;
                let tenant = given.clone().or(whoami.tenant);
                let tenant = tenant.ok_or_else(|| Failure::usage("the operator key needs --tenant"))?;
                Ok((tenant, whoami.functions_url))
            }
        }
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

    /// Sends a POST without a body to the control API, and returns what it answers.
    pub fn post<T: DeserializeOwned>(&self, path: &str) -> Result<Answer<T>, Failure> {
        read_answer(&mut self.call("POST", path, &[], ())?)
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

fn host_of(url: &Uri) -> &str {
    url.host().unwrap_or_default().trim_matches(['[', ']'])
}

/// Returns TLS that trusts the certificates in a file.
fn pinned_tls(path: &Path) -> Result<PinnedTls, Failure> {
    let failed = |why: &dyn std::fmt::Display| {
        Failure::usage(format!("cannot read certificates from {}", path.display())).because(why)
    };
    let read = CertificateDer::pem_file_iter(path).map_err(|error| failed(&error))?;
    let certificates: Vec<CertificateDer<'static>> = read.collect::<Result<_, _>>().map_err(|error| failed(&error))?;
    if certificates.is_empty() {
        return Err(failed(&"the file contains no certificate"));
    }
    PinnedTls::new(certificates).map_err(|error| failed(&error))
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

/// A refusal of the job API, which has the names that its clients read.
#[derive(Debug, Deserialize)]
struct JobProblem {
    error: String,
    code: String,
    fault: Blame,
    hint: Option<String>,
    #[serde(default)]
    request_id: String,
}

impl From<JobProblem> for Problem {
    fn from(problem: JobProblem) -> Self {
        let JobProblem { error, code, fault, hint, request_id } = problem;
        Self {
            r#type: "about:blank".into(),
            title: "".into(),
            status: 0,
            code: code.into(),
            fault,
            detail: error,
            hint: hint.map(Into::into),
            request_id,
        }
    }
}

/// Reads the body of a refusal and returns it as a failure.
pub fn problem(response: &mut Response<Body>) -> Failure {
    let status = response.status();
    let body = read_body(response).unwrap_or_default();
    let problem = serde_json::from_slice::<Problem>(&body)
        .or_else(|_| serde_json::from_slice::<JobProblem>(&body).map(Problem::from));
    match problem {
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
