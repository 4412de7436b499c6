//! Messages that the server itself sends for a tenant: webhooks. They reach what functions may reach, and count
//! against the same quota. Each has a connection of its own, so that none fails because of one that was kept.

use crate::egress::Egress;
use crate::egress::body::{CountedBody, EgressBudget};
use crate::egress::call::rebuild;
use crate::egress::connect::Lookups;
use crate::egress::connection::{Connection, Protocol, Route};
use crate::egress::target::{CallTarget, destination};
use bytes::Bytes;
use gannet_base::bill::outbound::OutboundUse;
use gannet_base::hop::outbound::OutboundError;
use gannet_base::names::TenantName;
use gannet_base::trailers;
use http::header::RETRY_AFTER;
use http::{HeaderMap, Method, Request, Uri};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use std::sync::{Arc, PoisonError};
use std::time::Duration;
use tokio::time::{Instant, timeout, timeout_at};

/// How long the body of an answer is read, and how much of it. It is of no use, but the other side may log an error if
/// it cannot send it.
const BODY_MAX: Duration = Duration::from_secs(1);
const BODY_BYTES_MAX: usize = 64 << 10;

/// The head of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Posted {
    /// Its status.
    pub status: u16,
    /// The header `Retry-After`.
    pub retry_after: Option<String>,
}

fn target(url: &str) -> Option<(Uri, CallTarget)> {
    let uri: Uri = url.parse().ok()?;
    let to = destination(&uri).filter(|to| !to.host.is_empty())?;
    // What follows `#` is lost when a URI is parsed.
    (!url.contains('#')).then_some((uri, to))
}

/// Whether a message can be sent to a URL: an absolute one for HTTP or HTTPS, with a host, without credentials and
/// without a fragment. Whether its address may be reached is only known when it is sent.
pub fn is_postable(url: &str) -> bool {
    target(url).is_some()
}

impl Egress {
    /// Sends a message for a tenant and returns the head of the answer, which must come within `answer_within` after the
    /// connection was made. Follows no redirects. Returns `NotListed` if the tenant does not exist.
    pub async fn post(
        &self,
        tenant: &TenantName,
        url: &str,
        headers: HeaderMap,
        body: Bytes,
        answer_within: Duration,
    ) -> Result<Posted, OutboundError> {
        let (uri, to) = target(url).ok_or(OutboundError::Protocol)?;
        let budget = self.budget_of(tenant)?;
        let lookups = self.lookups_for(tenant);
        let settings = self.live.load().egress.clone();
        let route = Route { lookups: &lookups, opened: &settings.allow_ranges, tls: &self.connector };
        let connect_by = Instant::now() + Duration::from_millis(settings.connect_timeout_ms);
        let mut connection = Connection::open(&route, &to, Protocol::Http1, connect_by).await?;
        let (mut parts, ()) = Request::new(()).into_parts();
        (parts.method, parts.uri, parts.headers) = (Method::POST, uri, headers);
        let parts = rebuild(&parts, &to, connection.protocol())?;
        let counter = Arc::<OutboundUse>::default();
        budget.count(&counter, url.len() + trailers::bytes(&parts.headers));
        let body = CountedBody::whole(body, counter, budget);
        let sent = timeout(answer_within, connection.send(Request::from_parts(parts, body))).await;
        let response = sent.map_err(|_| OutboundError::Timeout)?.map_err(|failed| failed.error)?;
        let (head, body) = response.into_parts();
        let retry_after = head.headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let posted = Posted { status: head.status.as_u16(), retry_after };
        read_to_end(body).await;
        Ok(posted)
    }

    fn budget_of(&self, tenant: &TenantName) -> Result<EgressBudget, OutboundError> {
        let snapshot = self.registry.snapshot();
        let tenant = snapshot.tenants.get(tenant).ok_or(OutboundError::NotListed)?;
        let budget = EgressBudget { account: Arc::clone(&tenant.account), mib: tenant.limits.egress_mib_per_day };
        if budget.is_spent() {
            return Err(OutboundError::limit("egress_mib_per_day", budget.mib));
        }
        Ok(budget)
    }

    /// Returns the permits for name lookups of a tenant's messages. A lookup may hang longer than its message waits.
    fn lookups_for(&self, tenant: &TenantName) -> Lookups {
        let mut all = self.message_lookups.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|name, lookups| name == tenant || !lookups.is_idle());
        all.entry(tenant.clone()).or_insert_with(|| self.lookups.of_worker()).clone()
    }
}

async fn read_to_end(mut body: Incoming) {
    let (by, mut left) = (Instant::now() + BODY_MAX, BODY_BYTES_MAX);
    while let Ok(Some(Ok(frame))) = timeout_at(by, body.frame()).await {
        let length = frame.data_ref().map_or(0, Bytes::len);
        match left.checked_sub(length) {
            Some(rest) => left = rest,
            None => return,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use gannet_base::limits::LimitsChoice;
    use gannet_state::config::{LiveConfig, ServerConfig};
    use gannet_state::registry::{KeySpec, Registry};
    use gannet_state::store::Store;
    use std::net::SocketAddr;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    #[test]
    fn a_message_goes_to_absolute_urls_only() {
        for good in ["https://example.org", "http://example.org:8080/a?b=c", "http://[::1]:9/x", "http://10.0.0.1/"] {
            assert!(is_postable(good), "{good}");
        }
        for bad in [
            "",
            "/hook",
            "example.org/hook",
            "ftp://example.org/",
            "https://",
            "https:///hook",
            "https://user:password@example.org/",
            "https://example.org/#part",
            "https://example.org:port/",
            "https://example.org/a b",
            "https://exa\u{308}mple.org/",
        ] {
            assert!(!is_postable(bad), "{bad}");
        }
    }

    /// A receiver that answers each message with `answer`, and passes on what it got.
    async fn receiver(answer: &'static str) -> (SocketAddr, tokio::sync::mpsc::UnboundedReceiver<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, (sender, got)) = (listener.local_addr().unwrap(), tokio::sync::mpsc::unbounded_channel());
        tokio::spawn(async move {
            let mut held = Vec::new();
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut text = String::new();
                while !text.ends_with("{}") {
                    let mut bytes = [0; 1024];
                    let read = stream.read(&mut bytes).await.unwrap_or(0);
                    text.push_str(&String::from_utf8_lossy(bytes.get(..read).unwrap()));
                }
                let _ = sender.send(text);
                let _ = stream.write_all(answer.as_bytes()).await;
                held.push(stream);
            }
        });
        (address, got)
    }

    async fn egress(folder: &std::path::Path, allow_ranges: &[&str]) -> (Arc<Egress>, LiveConfig, TenantName) {
        let (store, contents) = Store::open(folder, "none").unwrap();
        let mut file = ServerConfig::default();
        file.egress.allow_ranges = allow_ranges.iter().map(|range| range.parse().unwrap()).collect();
        let registry = Registry::new(Arc::new(store), contents, [0; 32], file.tenant_limits(), 50);
        let (registry, tenant) = (Arc::new(registry), TenantName::new("acme").unwrap());
        registry.create_tenant(&tenant, KeySpec::full([1; 32]), LimitsChoice::default()).await.unwrap();
        let live = LiveConfig::default();
        live.store(Arc::new(file));
        (Egress::new(Arc::clone(&live), registry).unwrap(), live, tenant)
    }

    async fn post(egress: &Egress, tenant: &TenantName, url: &str) -> Result<Posted, OutboundError> {
        let headers = HeaderMap::from_iter([(http::header::CONTENT_TYPE, "application/json".parse().unwrap())]);
        egress.post(tenant, url, headers, Bytes::from_static(b"{}"), Duration::from_millis(500)).await
    }

    #[tokio::test]
    async fn a_message_is_posted_with_its_length_and_redirects_are_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let (egress, _, tenant) = egress(folder.path(), &["127.0.0.0/8"]).await;
        let (address, mut got) = receiver("HTTP/1.1 202 Accepted\r\ncontent-length: 2\r\n\r\nok").await;
        let posted = post(&egress, &tenant, &format!("http://{address}/a?b=c")).await.unwrap();
        assert_eq!(posted, Posted { status: 202, retry_after: None });
        let text = got.recv().await.unwrap();
        assert!(text.starts_with("POST /a?b=c HTTP/1.1\r\n") && text.contains("content-length: 2\r\n"), "{text}");
        assert!(text.contains(&format!("host: {address}\r\n")), "{text}");
        let answer = "HTTP/1.1 302 Found\r\nlocation: http://10.0.0.1/\r\nretry-after: 7\r\ncontent-length: 0\r\n\r\n";
        let (address, _got) = receiver(answer).await;
        let posted = post(&egress, &tenant, &format!("http://{address}/")).await.unwrap();
        assert_eq!(posted, Posted { status: 302, retry_after: Some("7".into()) });
        let (address, _got) = receiver("").await;
        assert_eq!(post(&egress, &tenant, &format!("http://{address}/")).await, Err(OutboundError::Timeout));
        let other = TenantName::new("other").unwrap();
        let gone = post(&egress, &other, &format!("http://{address}/")).await;
        assert_eq!(gone, Err(OutboundError::NotListed));
    }

    #[tokio::test]
    async fn private_addresses_are_not_reached_by_number_or_by_name_and_the_quota_counts() {
        let folder = tempfile::tempdir().unwrap();
        let (egress, live, tenant) = egress(folder.path(), &[]).await;
        let (address, mut got) = receiver("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
        for host in ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]", "169.254.169.254", "[fd00::1]"] {
            let posted = post(&egress, &tenant, &format!("http://{host}:{}/", address.port())).await;
            assert_eq!(posted, Err(OutboundError::Prohibited), "{host}");
        }
        let mut file = ServerConfig::clone(&live.load());
        file.egress.allow_ranges = vec!["127.0.0.0/8".parse().unwrap()];
        live.store(Arc::new(file));
        let url = format!("http://{address}/");
        assert_eq!(post(&egress, &tenant, &url).await.map(|posted| posted.status), Ok(200));
        let account = Arc::clone(&egress.registry.snapshot().tenants.get(&tenant).unwrap().account);
        assert!(account.spent(jiff::Timestamp::now()).egress_bytes > 2);
        account.add(jiff::Timestamp::now(), 0, u64::MAX >> 1, 0);
        assert!(matches!(post(&egress, &tenant, &url).await, Err(OutboundError::Limit { .. })));
        assert!(got.recv().await.is_some() && got.try_recv().is_err(), "one message only");
        assert!(egress.message_lookups.lock().unwrap().len() <= 1);
    }
}
